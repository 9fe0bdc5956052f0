"""The `IO` of swin_client with a clock of its own and scripted answers: no test waits."""

from collections.abc import Callable
from typing import TypeVar

import httpx
from swin_client.exchange import Answer, Reception

T = TypeVar("T")


class FakeIO:
    """Answers each request with the next outcome; the last one serves all others.

    Args:
        outcomes: answers, and exceptions of httpx.
        seconds: the time that each request takes.
    """

    def __init__(self, *outcomes: Answer | Exception, seconds: float = 0) -> None:
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []
        self._outcomes, self._seconds, self._now = list(outcomes), seconds, 0.0

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._now += seconds

    async def run(self, function: Callable[[], T]) -> T:
        return function()

    async def send(self, request: httpx.Request, reception: Reception) -> Answer:  # noqa: ARG002 (as declared)
        self.requests.append(request)
        self._now += self._seconds
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        if isinstance(outcome, httpx.RequestError):
            outcome.request = request
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def fetch(self, request: httpx.Request, reception: Reception) -> Answer:
        return await self.send(request, reception)


def answer(status: int, content: bytes = b"", **headers: str) -> Answer:
    """Return an answer. `retry_after` is the field Retry-After."""
    return Answer(
        status, httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()}), content, None
    )
