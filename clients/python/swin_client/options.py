"""The arguments of clients and calls, checked. Knows no request."""

import math
import ssl
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Literal

import httpx

USER_AGENT = "swin-client"

# Seconds after which an idle connection is closed. The service closes it after 5 s, perhaps while a request is sent.
KEEPALIVE_SECONDS = 4.0

# The ways in which `classify_many` reports the error of an image.
OnError = Literal["raise", "return"]


@dataclass(frozen=True)
class Service:
    """The service of a client, and the limits of its calls. The arguments are those of `Client`.

    Raises:
        ValueError: a value cannot be used.
    """

    url: str
    api_key: str | None = field(repr=False)
    timeout: float
    max_retries: int | None
    max_download_bytes: int

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ValueError(f"url is not valid: {error}; give one such as http://localhost:8000") from error
        if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment or url.userinfo:
            raise ValueError("url is not the address of a service; give one such as http://localhost:8000")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ValueError("api_key is empty, or has a character that HTTP does not allow, such as a newline")
        check_timeout(self.timeout)

    def headers(self) -> dict[str, str]:
        """Return the header fields that all requests to the service have."""
        authorization = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        return {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"} | authorization


def check_timeout(seconds: float | None) -> None:
    """Raise ValueError if a timeout is given that is not a number above zero."""
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError(f"timeout is {seconds}, and must be a number of seconds above zero")


def check_many(timeout: float | None, concurrency: int, on_error: OnError) -> None:
    """Raise ValueError if `classify_many` cannot use a value."""
    check_timeout(timeout)
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}, and must be at least 1")
    if on_error not in {"raise", "return"}:
        raise ValueError(f"on_error is {on_error!r}; give 'raise' or 'return'")


def classify_parameters(top_k: int | None, *, evidence: bool, embedding: bool) -> dict[str, str]:
    """Return the query of `/classify`. The service validates it."""
    numbers = {} if top_k is None else {"top_k": str(top_k)}
    flags = {"evidence": evidence, "embedding": embedding}
    return numbers | {name: "true" for name, is_set in flags.items() if is_set}


def http_options(max_connections: int, ssl_context: ssl.SSLContext | None) -> dict[str, Any]:
    """Return the options of httpx's clients."""
    return {
        "limits": httpx.Limits(
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=KEEPALIVE_SECONDS,
        ),
        "verify": True if ssl_context is None else ssl_context,
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # hosts of images cannot store any
    }
