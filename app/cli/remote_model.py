"""A model in a running service, asked over HTTP with the standard library. Knows neither files nor tables."""

import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any, Self

from pydantic import BaseModel, FiniteFloat, ValidationError

from app.classification.classifier import Classification, Overlay, Prediction
from app.cli.timed_answers import MAX_BYTES, TimedHTTP, TimedHTTPS, TooLong, content_of
from app.errors import BadRequest, RetryableError, ServiceError, StartError
from app.load.windows import OVERLOADED
from app.service_address import base_url, check_key, key_refused

# Timeout in seconds for a connection, and then for the whole answer. The service answers within its own
# `request_timeout`.
TIMEOUT_SECONDS = 60

UNAUTHORIZED, NOT_FOUND, METHOD_NOT_ALLOWED, SERVER_ERROR = 401, 404, 405, 500


class Unreachable(Exception):
    """The service gives no answer, so that no other image can be classified either."""


class Bucket(BaseModel):
    """The time of a batch, as an engine measured it at its start."""

    batch: int
    milliseconds: FiniteFloat


class Engine(BaseModel):
    """An engine of the service."""

    device: str
    buckets: list[Bucket]


class Description(BaseModel):
    """The parts of `GET /model` that say what is in service."""

    version: str
    name: str
    engines: list[Engine]


class _Answer(BaseModel, allow_inf_nan=False):
    predictions: list[Prediction]


class _Problem(BaseModel):
    code: str
    detail: str


class RemoteModel:
    """A running service: it is asked as `LocalModel` is, and describes what it serves.

    Every method may be called from any thread.

    Args:
        url: the address of the service, with the prefix under which a proxy serves it. Without a
            scheme, it is http.
        key: the API key, or None.
        name: the argument that holds the address, for messages.
        has_proxies: whether to use the proxies in the environment.
        timeout_s: timeout in seconds for a connection, and then for the whole answer.

    Raises:
        StartError: the address or the key cannot be sent.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        name: str = "--url",
        has_proxies: bool = True,
        timeout_s: float = TIMEOUT_SECONDS,
    ) -> None:
        check_key(key)
        self._url, self._key, self._name, self._timeout_s = base_url(url, name), key, name, timeout_s
        # A redirect could send the API key to another host, and would turn a POST into a GET.
        handlers = [
            TimedHTTP(),
            TimedHTTPS(),
            _NoRedirects(),
            *([] if has_proxies else [urllib.request.ProxyHandler({})]),
        ]
        self._opener = urllib.request.build_opener(*handlers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: no connection is kept."""

    def classify(self, image: bytes, top_k: int | None = None) -> Classification:
        """Return the best classes of an encoded image, best first. Default: as many as the service returns.

        Raises:
            BadRequest: the service refuses the image.
            RetryableError: the service is overloaded.
            ServiceError: the service failed.
            StartError: the service needs another key, or there is no swin-serve at this address.
            Unreachable: there is no answer.
        """
        _, content = self._ask("/classify" if top_k is None else f"/classify?top_k={top_k}", image)
        try:
            return Classification(_Answer.model_validate_json(content).predictions, None, {})
        except ValidationError as error:
            raise StartError(f"{self._url}/classify does not answer as swin-serve does") from error

    def draw_evidence(self, image: bytes) -> Overlay:
        """Return a PNG of the evidence for the best class. Raises as `classify`."""
        headers, content = self._ask("/classify?evidence=true&format=png", image)
        index = headers.get("X-Class-Index", "")
        if not index.isdecimal():
            raise StartError(f"{self._url}/classify does not answer as swin-serve does")
        return Overlay(int(index), content, {})

    def describe(self) -> Description | None:
        """Return what is in service. None if the service does not tell."""
        try:
            _, content = self._ask("/model")
            return Description.model_validate_json(content)
        except (ServiceError, StartError, Unreachable, ValidationError):
            return None

    def _ask(self, path: str, image: bytes | None = None) -> tuple[Any, bytes]:
        """Return the header fields and the content of the answer to a POST of an image, or to a GET."""
        headers = {} if image is None else {"Content-Type": "application/octet-stream"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(f"{self._url}{path}", image, headers)  # noqa: S310 (http or https)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                return response.headers, content_of(response)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except TooLong as error:
            too_long = f"an answer has more than {MAX_BYTES // 2**20} MiB"
            raise StartError(f"{self._url} does not answer as swin-serve does: {too_long}") from error
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise Unreachable(f"{self._url} gives no answer: {self._words(reason)}") from error

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        """Return the exception for an answer that is no success."""
        status = f"{error.code} {error.reason}".rstrip()
        if error.code == UNAUTHORIZED:
            return key_refused(self._url, has_key=self._key is not None)
        try:
            problem = _Problem.model_validate_json(content_of(error))
        except (ValidationError, OSError, HTTPException):
            if error.code >= SERVER_ERROR:  # of a proxy
                return Unreachable(f"{self._url} gives no answer: {status}")
            return StartError(f"{self._url}/classify answers {status}; give the address of swin-serve as {self._name}")
        if error.code in {NOT_FOUND, METHOD_NOT_ALLOWED}:
            return StartError(f"{self._url}: {problem.detail}")
        if error.code in OVERLOADED:
            return RetryableError(problem.detail)
        return (BadRequest if error.code < SERVER_ERROR else ServiceError)(problem.detail)

    def _words(self, reason: object) -> str:
        if isinstance(reason, TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        if isinstance(reason, OSError) and reason.strerror:
            return reason.strerror
        return str(reason) or type(reason).__name__


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Return no request, so that the redirect is an error."""
