#!/usr/bin/env -S python3 -IS
"""Exit with 0 if the service in this container is ready, with 1 if not.

Standard library only, and little of it (-S leaves site-packages out): it runs every few seconds. It asks where
SWIN_HOST and SWIN_PORT say that the service listens; with --host or --port instead of those, it would ask in vain. It
brings a key of SWIN_API_KEYS, for a service with health_open=false.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

SECONDS = 4  # less than the health check's own timeout, so that the reason is still told

host, port = os.environ.get("SWIN_HOST", "127.0.0.1"), os.environ.get("SWIN_PORT", "8000")
key = os.environ.get("SWIN_API_KEYS", "").partition(",")[0].strip()
connection = HTTPConnection(host, int(port), timeout=SECONDS)  # Linux takes 0.0.0.0 and :: for this machine
try:
    connection.request("GET", "/health/ready", headers={"Authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    sys.stdout.write(f"{answer.status} {answer.read(200).decode(errors='replace')}\n")
    sys.exit(0 if answer.status == 200 else 1)  # noqa: PLR2004 (http.HTTPStatus costs an import)
except (OSError, HTTPException) as error:
    sys.stdout.write(f"{type(error).__name__}: {error}\n")
    sys.exit(1)
