"""Clients that send requests until a service has stopped, and what each request must get.

A request of HTTP is accepted when the client has written all of it to a connection that `connect`
had returned, unless an earlier response on the connection had `Connection: close`. Each accepted
request must get a complete response: `200`, or the problem document of a `503`. A request on a
connection that is closed or reset instead is lost. If `connect` fails, the client can use another
instance.

A call of gRPC is accepted when it has started on an open connection before the stop, or when the
service logs it. Each accepted call must get a response of the service: OK, or UNAVAILABLE, as in
the log. All other calls must be UNAVAILABLE, or cancelled by grpc, which does so with calls that
arrive in the moment in which its server stops.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any

from grpc import ChannelConnectivity

from app.load.client_pool import Address, Broken, request
from app.settings import DEMO_BUNDLE
from benchmarks.load.clients import Connection
from benchmarks.load.served import START_SECONDS, Accounts
from tests.chaos.outcomes import NO_RESPONSE
from tests.chaos.rpc_pool import CANCELLED_BY_GRPC, OK, RpcPool, open_channel
from tests.support.rpc import image_request

# Clients of each protocol.
CLIENTS = 12

IMAGE = (DEMO_BUNDLE / "golden/seven.png").read_bytes()
RAW = {"Inference-Header-Content-Length": "0"}
REQUESTS = {
    "classify": request("/classify", IMAGE),
    "infer": request("/v2/models/digits.encoded/infer", IMAGE, headers=RAW),
}
MESSAGE = image_request(IMAGE).SerializeToString()
PROTOCOLS = [*REQUESTS, "call"]

# A call that starts during the stop may get no response.
ALLOWED = {"200", "503 draining", "503 not_ready", OK, "UNAVAILABLE", NO_RESPONSE}


class Load:
    """Clients that send one request after another until the service refuses them.

    Args:
        address: host and port of HTTP.
        grpc_address: host and port of gRPC.
        keep_alive: send several requests on a connection, rather than one.
    """

    def __init__(self, address: Address, grpc_address: str, *, keep_alive: bool) -> None:
        self._address, self._grpc_address, self._keep_alive = address, grpc_address, keep_alive
        self._rpc = RpcPool(grpc_address, Random(0))
        self.outcomes = Counter[tuple[str, str]]()  # by protocol and name
        self._is_stopping = False

    async def stop_amid(self, stop: Callable[[], Awaitable[object]], chance: Random) -> None:
        """Call `stop` at a random moment under full load, and return when it has ended and the clients have, too."""
        async with asyncio.TaskGroup() as clients:
            for protocol in PROTOCOLS * CLIENTS:
                clients.create_task(self._send(protocol))
            async with asyncio.timeout(START_SECONDS):
                count = chance.randint(2 * CLIENTS, 6 * CLIENTS)
                while min(self.responses().values()) < count:  # noqa: ASYNC110 (any moment will do)
                    await asyncio.sleep(chance.uniform(0.01, 0.05))
            self._is_stopping = True
            await stop()

    def responses(self) -> dict[str, int]:
        """Return the number of allowed responses by protocol."""
        counts = dict.fromkeys(PROTOCOLS, 0)
        for (protocol, name), count in self.outcomes.items():
            counts[protocol] += count if name in ALLOWED else 0
        return counts

    def bad_outcomes(self) -> Iterator[str]:
        """Return a sentence for each outcome that is not allowed."""
        for (protocol, name), count in self.outcomes.items():
            if name not in ALLOWED:
                yield f"{protocol}: {name}, {count} times"

    def bad_accounts(self, accounts: Accounts) -> Iterator[str]:
        """Return a sentence for each call of which the client did not get the status in the log."""
        for identity, status in accounts.calls:
            if self._rpc.statuses[identity] != status:
                yield f"{identity} got {self._rpc.statuses[identity]}, and the service logged {status}"

    async def _send(self, protocol: str) -> None:
        """Be a client of a protocol until the end of the service."""
        await (self._call() if protocol == "call" else self._request(protocol))

    async def _request(self, protocol: str) -> None:
        while True:
            try:
                connection = await Connection.open(self._address)
            except OSError:
                return
            await self._request_until_closed(connection, protocol)
            connection.close()

    async def _request_until_closed(self, connection: Connection, protocol: str) -> None:
        is_open = True
        while is_open:
            try:
                reply = await connection.ask(REQUESTS[protocol])
            except Broken:
                self.outcomes[protocol, "lost"] += 1
                return
            self.outcomes[protocol, reply.name] += 1
            is_open = self._keep_alive and not reply.is_last

    async def _call(self) -> None:
        is_served = True
        while is_served:
            async with open_channel(self._grpc_address) as channel:
                is_served = await connects(channel) and await self._call_until_refused(channel)

    async def _call_until_refused(self, channel: Any) -> bool:
        while True:
            is_before_stop = not self._is_stopping
            outcome = await self._rpc.start(MESSAGE, channel=channel).outcome()
            if outcome in {NO_RESPONSE, CANCELLED_BY_GRPC}:
                outcome = "lost" if is_before_stop else NO_RESPONSE
            self.outcomes["call", outcome] += 1
            if outcome != OK or not self._keep_alive:
                return outcome == OK


async def connects(channel: Any) -> bool:
    """Return whether a channel gets its connection. False: the connection is refused."""
    while (state := channel.get_state(try_to_connect=True)) is not ChannelConnectivity.READY:
        if state is ChannelConnectivity.TRANSIENT_FAILURE:
            return False
        await channel.wait_for_state_change(state)
    return True
