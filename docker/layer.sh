#!/bin/sh
# Move folders to /layer with compiled bytecode and one fixed time, so that equal content is an equal layer of an image.
set -eu
for folder in "$@"; do
    # Without the time of the source, which Python would otherwise compare: the next line changes it.
    python -m compileall -q --invalidation-mode unchecked-hash "$folder"
    mkdir -p "/layer$(dirname "$folder")"
    mv "$folder" "/layer$folder"
done
find /layer -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
