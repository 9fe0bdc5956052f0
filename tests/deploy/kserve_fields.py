"""Print the fields of objects that the types of KServe's own client do not have.

The environment of the clients runs this script: kserve is not installed in the one of the tests. It reads pairs of an
object and the name of its type from standard input, as JSON. A field of an object that a type only names, such as a
label, is not checked.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import kserve.models
import kubernetes.client


def unknown_fields(value: Any, name: str, path: str) -> Iterator[str]:
    """Yield the path of each field that the type of this name, or a type inside of it, does not have."""
    if item := re.fullmatch(r"list\[(.*)\]", name):
        for index, each in enumerate(value):
            yield from unknown_fields(each, item[1], f"{path}[{index}]")
        return
    found = getattr(kserve.models, name, None) or getattr(kubernetes.client, name, None)
    if found is None:  # a text, a number, or an object of any fields
        return
    attributes = {field: attribute for attribute, field in found.attribute_map.items()}
    for field, inner in value.items():
        if field in attributes:
            yield from unknown_fields(inner, found.openapi_types[attributes[field]], f"{path}.{field}")
        else:
            yield f"{path}.{field}"


def main() -> None:
    """Answer the pairs of standard input with a list of paths."""
    pairs = json.load(sys.stdin)
    sys.stdout.write(json.dumps([path for value, name in pairs for path in unknown_fields(value, name, name)]))


if __name__ == "__main__":
    main()
