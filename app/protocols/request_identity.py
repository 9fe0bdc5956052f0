"""The ID of a request, as a client sends it. Knows no transport."""

import random
import re

# Request IDs of clients that the log and the response repeat. They cannot forge a log line or a
# header field.
USABLE_ID = re.compile(r"[\w.:+/=@-]{1,128}", re.ASCII)


def new_id() -> str:
    """Return an ID for a request that has no usable one."""
    return f"{random.getrandbits(128):032x}"  # not secret, and needs no system call
