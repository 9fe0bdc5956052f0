"""API keys as bearer credentials (RFC 6750): `Authorization: Bearer KEY`. Knows no transport and no settings."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence

CREDENTIALS = re.compile(rb"bearer +(\S+) *", re.IGNORECASE)


class BearerKeys:
    """The API keys of a service."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._known = [_digest(key.encode()) for key in keys]

    def admits(self, authorization: Sequence[bytes]) -> bool:
        """Return whether the values of the field `Authorization` are exactly one, with a key of the service."""
        credentials = CREDENTIALS.fullmatch(authorization[0]) if len(authorization) == 1 else None
        # No key is empty. Digests have one length, and all of them are compared, so the time reveals
        # nothing about a key.
        given = _digest(credentials[1] if credentials else b"")
        return sum(hmac.compare_digest(given, known) for known in self._known) > 0


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
