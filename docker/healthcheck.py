#!/usr/bin/env -S python3 -IS
"""Health check of the container: exit with 0 if the service is ready, with 1 if not.

The check runs every few seconds, so it imports little of the standard library, and no site-packages
(-S). It reads the address from SWIN_HOST and SWIN_PORT, and fails if the service was started with
--host or --port instead. It sends the first key of SWIN_API_KEYS, for a service with
SWIN_HEALTH_OPEN=false.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

# Less than the 5 s timeout of HEALTHCHECK, so that the check can print the reason.
TIMEOUT_SECONDS = 4

host, port = os.environ.get("SWIN_HOST", "127.0.0.1"), os.environ.get("SWIN_PORT", "8000")
key = os.environ.get("SWIN_API_KEYS", "").partition(",")[0].strip()
connection = HTTPConnection(host, int(port), timeout=TIMEOUT_SECONDS)  # Linux connects 0.0.0.0 and :: to this host
try:
    connection.request("GET", "/health/ready", headers={"Authorization": f"Bearer {key}"})
    response = connection.getresponse()
    sys.stdout.write(f"{response.status} {response.read(200).decode(errors='replace')}\n")
    sys.exit(0 if response.status == 200 else 1)  # noqa: PLR2004 (http.HTTPStatus costs an import)
except (OSError, HTTPException) as error:
    sys.stdout.write(f"{type(error).__name__}: {error}\n")
    sys.exit(1)
