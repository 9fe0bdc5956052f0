"""A cluster that has places for some of its workers. Needs no Ray."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FakeWorker:
    """A handle of a worker. Its calls return its number."""

    number: int

    @property
    def is_placed(self) -> "FakeWorker":
        """The method of the worker."""
        return self

    def remote(self) -> int:
        """Call the method."""
        return self.number


@dataclass
class FakeRay:
    """The functions of Ray that start workers. The first `places` calls have an answer at once, others never."""

    places: int
    killed: list[FakeWorker] = field(default_factory=list)

    def wait(self, answers: Sequence[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        """Return the calls with an answer, and the others."""
        assert timeout > 0
        done = list(answers[: min(self.places, num_returns)])
        return done, list(answers[len(done) :])

    def kill(self, worker: FakeWorker) -> None:
        """End a worker."""
        self.killed.append(worker)
