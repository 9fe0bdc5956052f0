"""One request and its answer, within a deadline and a limit of bytes. The two kinds of clients carry it out.

The logic of calls is written once, in coroutines that do everything that waits through `IO`. In
`AsyncClient`, an event loop runs them. In `Client`, the methods of `IO` block instead of
suspending, so that `run_without_suspending` runs a coroutine to its end in one step.
"""

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, Protocol, TypeVar

import httpx

from swin_client.errors import ConnectionFailed, DeadlineExceeded, SwinError

T = TypeVar("T")

# Limit, in seconds, for opening a connection. The next try can reach another instance.
CONNECT_SECONDS = 5.0

# Seconds after a deadline at which an exchange is cut off. httpx's own timeouts end before, and name their reason.
CUT_OFF_SECONDS = 0.1


class Deadline:
    """The end of a call, which all its tries, pauses and downloads share.

    Args:
        seconds: the timeout of the call.
        now: a clock, in seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self._seconds, self._now = seconds, now
        self._ends_at = now() + seconds

    def left(self) -> float:
        """Return the seconds that are left."""
        return self._ends_at - self._now()

    def exceeded(self) -> DeadlineExceeded:
        """Return the exception for the end of the time."""
        return DeadlineExceeded(f"no answer arrived within {self._seconds:g} s")

    def timeouts(self) -> dict[str, float | None]:
        """Return httpx's timeouts for a request that is sent now.

        Raises:
            DeadlineExceeded: no time is left.
        """
        left = self.left()
        if left <= 0:
            raise self.exceeded()
        return httpx.Timeout(left, connect=min(left, CONNECT_SECONDS)).as_dict()


class Answer(NamedTuple):
    """A response that has arrived."""

    status: int
    headers: httpx.Headers
    content: bytes
    next_request: httpx.Request | None  # what a redirect asks for


class TooManyBytes(Exception):
    """The content is longer than the limit."""


class Reception:
    """The content of one response, as it arrives.

    Args:
        deadline: the time by which it must be complete.
        max_bytes: the longest content. None: no limit.
        only_success: whether to leave the content of errors and redirects unread.
    """

    def __init__(self, deadline: Deadline, max_bytes: int | None = None, *, only_success: bool = False) -> None:
        self.deadline = deadline
        self._max_bytes, self._only_success = max_bytes, only_success
        self._pieces: list[bytes] = []
        self._size = 0

    def wants_content(self, response: httpx.Response) -> bool:
        """Return whether to read the content of this response.

        Raises:
            TooManyBytes: its length exceeds the limit.
        """
        if self._only_success and not response.is_success:
            return False
        length = response.headers.get("content-length", "")
        self._check(int(length) if length.isdecimal() else 0)
        return True

    def add(self, piece: bytes) -> None:
        """Take a piece of the content.

        Raises:
            TooManyBytes: the content exceeds the limit.
            DeadlineExceeded: the time is over.
        """
        self._pieces.append(piece)
        self._size += len(piece)
        self._check(self._size)
        if self.deadline.left() <= 0:
            raise self.deadline.exceeded()

    def answer(self, response: httpx.Response) -> Answer:
        """Return the response with the content so far."""
        return Answer(response.status_code, response.headers, b"".join(self._pieces), response.next_request)

    def _check(self, size: int) -> None:
        if self._max_bytes is not None and size > self._max_bytes:
            raise TooManyBytes


class IO(Protocol):
    """Everything that waits. One client blocks in these methods, the other one suspends."""

    def now(self) -> float:
        """Return a monotonic time in seconds."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def run(self, function: Callable[[], T]) -> T:
        """Return the result of a function that can block."""

    async def send(self, request: httpx.Request, reception: Reception) -> Answer:
        """Send a request to the service, and return the answer.

        Raises:
            httpx.RequestError: there is no complete answer.
            DeadlineExceeded, TooManyBytes: as `Reception`.
        """

    async def fetch(self, request: httpx.Request, reception: Reception) -> Answer:
        """Send a request to another host, which may want to hold the client, and return the answer.

        Raises:
            httpx.RequestError, DeadlineExceeded, TooManyBytes: as `send`.
        """


def run_without_suspending(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never suspends, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    coroutine.close()
    raise RuntimeError("the coroutine has suspended")  # a defect of this package


def without_answer(error: httpx.RequestError, deadline: Deadline) -> SwinError:
    """Return the exception for a request that httpx could not complete."""
    host = f"{error.request.url.scheme}://{error.request.url.netloc.decode()}"
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return ConnectionFailed(f"cannot send the request to {host}: {reason}", is_temporary=False)
    if _is_refused_certificate(error):
        return ConnectionFailed(f"cannot trust {host}: {reason}; pass its authority as ssl_context", is_temporary=False)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ConnectionFailed(f"cannot connect to {host}: {reason}")
    if isinstance(error, httpx.TimeoutException) or deadline.left() <= 0:
        return deadline.exceeded()
    return ConnectionFailed(f"lost the connection to {host}: {reason}")


def _is_refused_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if type(error).__name__ == "SSLCertVerificationError":
            return True
        error = error.__cause__ or error.__context__
    return False
