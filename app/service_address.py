"""The address of a running service, and the API key for it, as a user gives them. Sends nothing."""

import re
from urllib.parse import urlsplit

from app.errors import StartError

# The variable that holds the API key. A command line can be read by other users of the machine.
KEY_VARIABLE = "SWIN_API_KEY"


def check_key(key: str | None) -> None:
    """Check that an API key from the environment can be sent.

    Raises:
        StartError: it cannot.
    """
    if key is not None and not re.fullmatch(r"[!-~]+", key):
        raise StartError(f"the API key in {KEY_VARIABLE} is not valid: a key has no space and only printable ASCII")


def key_refused(url: str, *, has_key: bool) -> StartError:
    """Return the error of a request that the service refuses with 401."""
    reason = "the service refuses the API key" if has_key else "the service needs an API key"
    return StartError(f"{url}: {reason}; set {KEY_VARIABLE}")


def base_url(url: str, name: str = "--url") -> str:
    """Return an address with its scheme and without a slash at the end. Without a scheme, it is http.

    `name` is the argument that holds the address, for the message.

    Raises:
        StartError: it is no address of a service.
    """
    base = (url if "://" in url else f"http://{url}").rstrip("/")
    try:
        parts = urlsplit(base)
        is_valid = parts.port != 0 and bool(parts.hostname) and parts.scheme in {"http", "https"}
        (parts.hostname or "").encode("idna")  # the standard library does so for each connection
    except ValueError:  # the port, the brackets of IPv6, or a label of the host that is empty or too long
        is_valid = False
    if is_valid and parts.username is not None:
        raise StartError(f"{name} holds a user name; give the API key of the service in {KEY_VARIABLE}")
    if not is_valid or not re.fullmatch(r"[!-~]+", base) or parts.query or parts.fragment:
        raise StartError(f"{name} {url!r}: not the address of a service; give one as http://HOST:PORT")
    return base
