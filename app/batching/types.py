"""What is asked of a batcher, in this process or in another, and what it answers."""

from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from app.batching.admission import NEVER


class InferenceResult(NamedTuple):
    """What one row came to, and how long that took."""

    output: Any  # the engine's, as it is
    queue_seconds: float
    run_seconds: float


class Queue(Protocol):
    """What others need of a batcher, here or in another process: see `Batcher`."""

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""

    @property
    def works(self) -> bool:
        """Whether it could run a batch now."""

    def admit(self, *, deadline: float = NEVER, coming: int = 0) -> None:
        """Return if a row that came now would be taken."""

    async def submit(
        self, pixels: NDArray[Any], *, return_tokens: bool = False, deadline: float = NEVER
    ) -> InferenceResult:
        """Wait for one row's answer."""

    async def drain(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 (a bound, after which we go on)
        """Refuse what is new, finish what is queued."""

    def abort(self) -> None:
        """Stop now."""


def ignore(_: Any) -> None:
    """The observer of those who do not observe."""
