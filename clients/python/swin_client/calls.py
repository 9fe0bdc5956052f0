"""One call: the image is read, the service asked, and asked again until it answers or the time is over.

Knows neither threads nor event loops: what waits is done by `IO`.
"""

import math
import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

import httpx

from swin_client.downloads import download
from swin_client.errors import InvalidAnswer, SwinError, error_of
from swin_client.exchange import IO, Answer, Deadline, Reception, without_answer
from swin_client.images import ImageSource, is_url, reader_of
from swin_client.options import USER_AGENT, OnError, Service, check_timeout
from swin_client.results import Classification, EvidencePicture, classification_of, picture_of

T = TypeVar("T")

# Number of images for each concurrent request that `classify_many` reads before it returns the first of them. With
# more than one, a slow image does not stop the others.
AHEAD = 2

# Seconds before the second try if the service does not say when. Each further pause is twice as long, up to the limit.
FIRST_PAUSE = 0.1
MAX_PAUSE = 2.0

# Part of a pause that is random, so that clients that were refused together do not come back together.
JITTER = 0.25


class Caller:
    """Calls to one service."""

    def __init__(self, service: Service, io: IO) -> None:
        self._service, self._io = service, io
        self._url = service.url.rstrip("/") + "/classify"

    async def classify(
        self, image: ImageSource, parameters: Mapping[str, str], timeout: float | None
    ) -> Classification:
        """Return the best classes of an image."""
        answer = await self._ask(image, parameters, timeout)
        return classification_of(answer.headers, answer.content)

    async def draw_evidence(self, image: ImageSource, index: int | None, timeout: float | None) -> EvidencePicture:
        """Return a picture of the evidence for a class, or for the best one."""
        chosen = {} if index is None else {"class": str(index)}
        answer = await self._ask(image, {"evidence": "true", "format": "png"} | chosen, timeout)
        return picture_of(answer.headers, answer.content)

    async def outcome(
        self, image: ImageSource, parameters: Mapping[str, str], timeout: float | None, on_error: OnError
    ) -> Classification | SwinError:
        """Return what `classify` returns, or its error if `on_error` is `return`."""
        try:
            return await self.classify(image, parameters, timeout)
        except SwinError as error:
            if on_error == "raise":
                raise
            return error

    async def _ask(self, image: ImageSource, parameters: Mapping[str, str], timeout: float | None) -> Answer:
        check_timeout(timeout)
        deadline = Deadline(self._service.timeout if timeout is None else timeout, self._io.now)
        content = await self._content(image, deadline)
        return await self._repeat(partial(self._post, content, parameters, deadline), deadline)

    async def _content(self, image: ImageSource, deadline: Deadline) -> bytes:
        if isinstance(image, bytes):
            return image
        if not is_url(image):
            return await self._io.run(reader_of(image))
        get = partial(download, self._io, image, self._service.max_download_bytes, USER_AGENT, deadline)
        return await self._repeat(get, deadline)

    async def _post(self, content: bytes, parameters: Mapping[str, str], deadline: Deadline) -> Answer:
        """Send the image once.

        Raises:
            ServiceError, ConnectionFailed, InvalidAnswer: the request gave no result.
        """
        timeouts = deadline.timeouts()
        request = httpx.Request(
            "POST",
            self._url,
            params=parameters,
            headers=self._service.headers()
            | {"Content-Type": "application/octet-stream", "X-Request-Timeout": f"{max(deadline.left(), 0.001):.3f}"},
            content=content,
            extensions={"timeout": timeouts},
        )
        try:
            answer = await self._io.send(request, Reception(deadline))
        except httpx.RequestError as error:
            raise without_answer(error, deadline) from error
        if answer.status >= httpx.codes.BAD_REQUEST:
            raise error_of(answer.status, answer.headers, answer.content)
        if answer.status != httpx.codes.OK:
            place = f" to {answer.next_request.url}" if answer.next_request else ""
            raise InvalidAnswer(f"{self._url} answers {answer.status}{place}; give the client the URL of swin-serve")
        return answer

    async def _repeat(self, send: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
        """Return the first result. Repeat after temporary errors, unless the pause would outlast the deadline.

        A classification changes nothing in the service, so it is repeated after a lost connection, too:
        the service may then run an image twice.
        """
        tries, max_tries = 1, math.inf if self._service.max_retries is None else 1 + self._service.max_retries
        while True:
            try:
                return await send()
            except SwinError as error:
                pause = pause_before_retry(error, tries)
                if not error.is_temporary or tries >= max_tries or pause >= deadline.left():
                    if tries > 1:
                        error.add_note(f"after {tries} tries")
                    raise
            await self._io.sleep(pause)
            tries += 1


def pause_before_retry(error: SwinError, tries: int) -> float:
    """Return the seconds before the next try, after so many tries. Never less than `Retry-After`."""
    if error.retry_after is not None:
        return error.retry_after * (1 + JITTER * random.random())  # noqa: S311 (not a secret)
    longest: float = min(FIRST_PAUSE * 2 ** min(tries - 1, 32), MAX_PAUSE)
    return longest * (1 - JITTER * random.random())  # noqa: S311 (likewise)
