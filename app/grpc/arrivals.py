"""The messages that are arriving: how many at the same time, and for how long. Knows no RPC.

grpc tells neither how much of a message has arrived nor how long it is. So each message that is arriving counts as the
longest one, and their number is limited.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from grpc.aio import EOF

from app.errors import DeadlineExceeded, InvalidBody, Overloaded, RequestTimeout
from app.settings import Settings

Read = Callable[[], Awaitable[Any]]

# Limit of a message without images, in bytes, and of the seconds in which it arrives. They have names of models only.
SMALL_BYTES, SMALL_SECONDS = 64 * 1024, 5

# Messages without images that arrive at the same time. Each can hold `max_body_mib` until it has arrived.
MAX_SMALL_MESSAGES = 16

# Seconds between the end of the client's messages and the cancellation of the call. Both reach this process apart from
# each other if the client disappears, and if grpc drops a message that is too long.
CANCELLATION_SECONDS = 1


class Arrivals:
    """The messages that are arriving at a server.

    Args:
        settings: the limits of messages.
    """

    def __init__(self, settings: Settings) -> None:
        self._timeout = settings.body_timeout
        self._free = asyncio.Semaphore(max(settings.max_uploads_mib // settings.max_body_mib, 1))
        self._small = dict[asyncio.Timeout, None]()  # the oldest one first

    async def upload(self, read: Read, deadline: float) -> bytes:
        """Return a message with images. It waits until one of the messages before it has arrived.

        Args:
            read: reads the message of the call.
            deadline: time of `time.perf_counter` until which the call has to be answered.

        Raises:
            InvalidBody: the client has sent no message.
            Overloaded: other messages took all places for `body_timeout`.
            RequestTimeout: the message did not arrive within `body_timeout`.
            DeadlineExceeded: the message did not arrive before the deadline.
        """
        left = deadline - time.perf_counter()
        try:
            async with asyncio.timeout(min(self._timeout, left)):
                await self._free.acquire()
        except TimeoutError:
            raise (DeadlineExceeded() if left < self._timeout else Overloaded(1)) from None
        left = deadline - time.perf_counter()
        try:
            async with asyncio.timeout(min(self._timeout, left)):
                data = await read()
        except TimeoutError:
            raise _late(self._timeout, left) from None
        finally:
            self._free.release()
        return await _checked(data)

    async def small(self, read: Read, deadline: float) -> bytes:
        """Return a message without images. It takes the place of the oldest one if too many are arriving.

        A message of this kind usually arrives with its call. So the oldest one is that of a silent client.

        Raises:
            InvalidBody: the message is too long, or the client has sent none.
            Overloaded: other messages took the place of this one.
            RequestTimeout: the message did not arrive within `SMALL_SECONDS` and `body_timeout`.
            DeadlineExceeded: the message did not arrive before the deadline.
        """
        limit, left = min(SMALL_SECONDS, self._timeout), deadline - time.perf_counter()
        arriving = [timeout for timeout in self._small if not timeout.expired()]  # the others end in this moment
        if len(arriving) >= MAX_SMALL_MESSAGES:
            oldest = arriving[0]
            del self._small[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
        own = asyncio.timeout(min(limit, left))
        self._small[own] = None
        try:
            async with own:
                data = await read()
        except TimeoutError:
            raise (_late(limit, left) if own in self._small else Overloaded(1)) from None
        finally:
            self._small.pop(own, None)
        return checked_size(await _checked(data))


def checked_size(data: bytes) -> bytes:
    """Return a message without images.

    Raises:
        InvalidBody: it is too long.
    """
    if len(data) > SMALL_BYTES:
        raise InvalidBody(f"The message has {len(data)} bytes. Messages without images have at most {SMALL_BYTES}.")
    return data


def _late(limit: float, left: float) -> DeadlineExceeded | RequestTimeout:
    """Return the error of a message with `left` seconds until its deadline, and `limit` seconds to arrive."""
    if left < limit:
        return DeadlineExceeded()
    return RequestTimeout(f"The message did not arrive in {limit:g} s.")


async def _checked(data: Any) -> bytes:
    """Return what has been read if it is a message."""
    if data is EOF:
        await asyncio.sleep(CANCELLATION_SECONDS)  # if grpc has dropped the message, it cancels this task
        raise InvalidBody("The call has no message.")
    message: bytes = data
    return message
