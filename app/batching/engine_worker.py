"""One engine with its thread: timeouts of its batches, and a restart after a failure.

Is given the engine as a callable. Knows no queue.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

from numpy.typing import NDArray

from app.batching.admission import NEVER
from app.batching.thread_pool import ThreadPool

log = logging.getLogger("swin.batcher")

T = TypeVar("T")

Array = NDArray[Any]

# An engine: maps images, and for each image whether it needs tokens, to one output per image. It
# blocks, and it is never called twice at the same time.
Run = Callable[[Sequence[Array], Sequence[bool]], Collection[Any]]

# A batch times out only after this multiple of its expected time. A smaller multiple would also catch
# batches that are slow because other programs use the same machine.
TIMEOUT_FACTOR = 10

# Seconds to open and warm up a new engine, which can take minutes. After them, the restart has failed.
RESTART_TIMEOUT_SECONDS = 600


class EngineLost(Exception):
    """An engine failed, and no other engine can replace it."""


def cannot_restart(_: int) -> Run:
    """Raise `EngineLost`. The default where engines cannot be opened again."""
    raise EngineLost


class EngineWorker:
    """An engine and the thread that calls it.

    Args:
        index: its number among the engine workers.
        run: the engine.
        batch_timeout: seconds until a batch times out, or `TIMEOUT_FACTOR` times its expected time if
            that is longer.
        restart: blocks, and returns a verified engine that replaces the failed one. Raises if it cannot.
    """

    def __init__(
        self, index: int, run: Run, *, batch_timeout: float = NEVER, restart: Callable[[int], Run] = cannot_restart
    ) -> None:
        self.index = index
        self.works = True  # false during a restart
        self.started_at = 0.0  # of the current batch, on the clock of `time.perf_counter`; 0: no batch is running
        self.free_at = 0.0  # expected end of the current batch, likewise
        self._engine, self._batch_timeout, self._open_engine = run, batch_timeout, restart
        self._thread = self._new_thread()
        self._just_restarted = False  # and no batch has succeeded since

    @property
    def is_free(self) -> bool:
        """True if a batch could start now."""
        return self.works and not self.free_at

    async def attempt(self, call: Callable[[Run], T], expected_seconds: float) -> T | None:
        """Call the engine in its thread. Return None if it fails or times out; the log has the cause."""
        timeout = max(self._batch_timeout, TIMEOUT_FACTOR * expected_seconds)
        self.started_at = time.perf_counter()
        self.free_at = self.started_at + expected_seconds
        try:
            async with asyncio.timeout(None if timeout == NEVER else timeout) as limit:
                result = await self._thread.run(partial(call, self._engine))
        except Exception:
            if limit.expired():  # without a stack trace: it would only show this line
                log.error("engine timed out", extra={"engine": self.index, "seconds": timeout})  # noqa: TRY400
            else:
                log.exception("engine failed", extra={"engine": self.index})
            return None
        finally:
            self.started_at = self.free_at = 0.0
        self._just_restarted = False
        return result

    async def restart(self) -> None:
        """Replace the failed engine by a new one in a new thread. The old thread may never return.

        Raises:
            EngineLost: the engine failed in its first batch after a restart, or no other engine can be opened.
        """
        self.works = False
        self.close()
        if self._just_restarted:
            raise EngineLost
        self._thread = self._new_thread()
        try:
            async with asyncio.timeout(RESTART_TIMEOUT_SECONDS):
                self._engine = await self._thread.run(partial(self._open_engine, self.index))
        except Exception as error:
            log.exception("engine restart failed", extra={"engine": self.index})
            raise EngineLost from error
        log.warning("engine restarted", extra={"engine": self.index})
        self.works = self._just_restarted = True

    def close(self) -> None:
        """Let the thread exit. Does not wait: a batch that never returns would block the event loop."""
        self._thread.close()

    def _new_thread(self) -> ThreadPool:
        return ThreadPool(f"engine-{self.index}")
