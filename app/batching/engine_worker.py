"""An engine's place: the thread it is called from, the watch over its runs, and another engine after a failure."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

from numpy.typing import NDArray

from app.batching.admission import NEVER
from app.batching.thread_pool import Workers

log = logging.getLogger("swin.batcher")

T = TypeVar("T")

Array = NDArray[Any]
Run = Callable[[Sequence[Array], Sequence[bool]], Collection[Any]]
"""Rows, and which of them ask for the return_tokens answer → as many answers. Blocks; has one caller at a time."""

TIMES_EXPECTED = 10
"""A run that takes so many times what it should is stuck; less may be others' use of the same machine."""

RENEWAL_SECONDS = 600
"""Opening and warming a network can take minutes; what takes longer will not come."""


class EngineLost(Exception):
    """An engine failed, and there is none to put in its place."""


def no_other(_: int) -> Run:
    """For those who have no other engine."""
    raise EngineLost


class EngineWorker:
    """Holds one engine.

    Args:
        index: its number among the seats.
        run: the engine.
        batch_timeout: seconds after which a run is given up, if `TIMES_EXPECTED` times what is expected is not more.
        restart: blocks, and returns a proved engine for the place of one that failed; raises if it cannot.
    """

    def __init__(
        self, index: int, run: Run, *, batch_timeout: float = NEVER, restart: Callable[[int], Run] = no_other
    ) -> None:
        self.index = index
        self.works = True  # false while the engine is being restarted
        self.began_at = self.free_at = 0.0  # a run, and when it is expected to end, as times of `time.perf_counter`
        self._run, self._stuck_after, self._new_engine = run, batch_timeout, restart
        self._workers = self._new_workers()
        self._just_renewed = False

    @property
    def is_free(self) -> bool:
        """Whether a batch could begin now."""
        return self.works and not self.free_at

    async def attempt(self, work: Callable[[Run], T], expected: float) -> T | None:
        """Work with the engine, expected to take so many seconds. None if it failed, or is stuck."""
        patience = max(self._stuck_after, TIMES_EXPECTED * expected)
        self.began_at = time.perf_counter()
        self.free_at = self.began_at + expected
        try:
            async with asyncio.timeout(None if patience == NEVER else patience) as limit:
                result = await self._workers.do(partial(work, self._run))
        except Exception as error:
            cause = f"no answer in {patience:g} s: it is stuck" if limit.expired() else "it failed"
            log.error("engine %d: %s", self.index, cause, exc_info=None if limit.expired() else error)  # noqa: TRY400 (where we waited says nothing)
            return None
        finally:
            self.began_at = self.free_at = 0.0
        self._just_renewed = False
        return result

    async def restart(self) -> None:
        """Another engine in the place of the one that failed, in a thread of its own: the old one may be stuck.

        Raises:
            EngineLost: the one that failed had just been restarted, or there is none to be had.
        """
        self.works = False
        self.close()
        if self._just_renewed:
            raise EngineLost
        self._workers = self._new_workers()
        try:
            async with asyncio.timeout(RENEWAL_SECONDS):
                self._run = await self._workers.do(partial(self._new_engine, self.index))
        except Exception as error:
            log.exception("engine %d cannot be restarted", self.index)
            raise EngineLost from error
        log.warning("engine %d was restarted", self.index)
        self.works = self._just_renewed = True

    def close(self) -> None:
        """Let the thread go. Waiting for a run that is stuck would hold the event loop."""
        self._workers.close()

    def _new_workers(self) -> Workers:
        return Workers(f"engine-{self.index}")
