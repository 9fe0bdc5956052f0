"""Interface and result of a batcher, for packages that submit images.

The batcher may run in this process or in another one.
"""

from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from app.batching.admission import NEVER

# The trace of an image whose request is not traced. Other traces are 24 bytes as well; batchers only pass them on.
UNTRACED = bytes(24)


class InferenceResult(NamedTuple):
    """Output of the engine for one image, with its queue time and run time."""

    output: Any  # as the engine returned it
    queue_seconds: float
    run_seconds: float


class Queue(Protocol):
    """Interface of `Batcher` and `BatcherClient`. `Batcher` documents the methods."""

    @property
    def alive(self) -> bool: ...

    @property
    def works(self) -> bool: ...

    def admit(self, *, deadline: float = NEVER, coming: int = 0) -> None: ...

    async def submit(
        self, pixels: NDArray[Any], *, return_tokens: bool = False, deadline: float = NEVER, trace: bytes = UNTRACED
    ) -> InferenceResult: ...

    # `timeout` bounds the wait: after it, the batcher aborts instead of raising TimeoutError.
    async def drain(self, timeout: float | None = None) -> None: ...  # noqa: ASYNC109

    def abort(self) -> None: ...


def ignore(_: Any) -> None:
    """Do nothing. The default for callbacks that report something."""
