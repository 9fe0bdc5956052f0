"""Clients that ask for digits without a pause, and the outcomes of their requests."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle
from types import TracebackType
from typing import Self

from benchmarks.load.images import Known

CLIENTS = 16

# Asks for one image, and returns the outcome in a word.
Ask = Callable[[Known], Awaitable[str]]


class Load:
    """`CLIENTS` concurrent requests within the block."""

    def __init__(self, ask: Ask, digits: Sequence[Known]) -> None:
        self.outcomes = Counter[str]()
        self._ask, self._images, self._is_over = ask, cycle(digits), False
        self._ended = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._clients = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        await asyncio.gather(*self._clients)

    async def requests(self, count: int) -> None:
        """Wait until so many more requests have ended."""
        goal = self.outcomes.total() + count
        async with self._ended:
            await self._ended.wait_for(lambda: self.outcomes.total() >= goal)

    async def _client(self) -> None:
        while not self._is_over:
            outcome = await self._ask(next(self._images))
            async with self._ended:
                self.outcomes[outcome] += 1
                self._ended.notify_all()
