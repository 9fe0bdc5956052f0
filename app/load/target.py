"""The service under load: where its requests go, and what each request holds. Sends nothing."""

import ssl
from urllib.parse import urlsplit

from app.load.client_pool import ClientPool, request
from app.service_address import base_url, check_key

PORTS = {"http": 80, "https": 443}


class Target:
    """`POST /classify` of a service.

    Args:
        url: the address of the service, with the prefix under which a proxy serves it. Without a
            scheme, it is http. Proxies in the environment are not used.
        key: the API key, or None.

    Raises:
        StartError: the address or the key cannot be sent.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        check_key(key)
        self.url = base_url(url, "the URL")
        parts = urlsplit(self.url)
        self.address = (parts.hostname or "", parts.port or PORTS[parts.scheme])
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path
        self._headers = {"Host": parts.netloc} | ({} if key is None else {"Authorization": f"Bearer {key}"})

    def pool(self, limit: int | None = None) -> ClientPool:
        """Return clients of the service, without a connection yet. `limit` is their maximum number."""
        return ClientPool(self.address, limit, self._tls)

    def classify(self, image: bytes) -> bytes:
        """Return the request that classifies an encoded image."""
        return request(
            f"{self._path}/classify", image, headers={**self._headers, "Content-Type": "application/octet-stream"}
        )

    def get(self, path: str) -> bytes:
        """Return a GET request, as of `/model`."""
        return request(f"{self._path}{path}", method="GET", headers=self._headers)
