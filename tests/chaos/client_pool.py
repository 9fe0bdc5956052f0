"""The clients of the chaos test, and the status of each of their requests. Knows no scenario."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from random import Random

from app.load.client_pool import request
from benchmarks.load.clients import Connection, ConnectionPool, Reply
from benchmarks.load.images import Known
from tests.chaos.outcomes import DISCONNECTED, WRONG_RESPONSE
from tests.chaos.results import is_result
from tests.chaos.rpc_pool import RpcPool


@dataclass
class ClientPool:
    """Clients with images of known predictions, and the status of each of their requests."""

    callers: ConnectionPool
    rpc: RpcPool
    digits: Sequence[Known]
    photos: Sequence[Known]
    random: Random
    # The status of the response by request id; None without a response that names the id.
    statuses: dict[str, int | None] = field(default_factory=dict)

    def request(self, path: str, body: bytes = b"", method: str = "POST", **headers: str) -> bytes:
        """Return the bytes of a request with an id of its own."""
        identity = f"client-{len(self.statuses)}"
        self.statuses[identity] = None
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(path, body, method, {"X-Request-ID": identity, **fields})

    def record(self, reply: Reply) -> str:
        """Record a response and return its outcome. A refusal must have Retry-After."""
        identity = reply.headers.get("x-request-id")
        if identity in self.statuses:
            if self.statuses[identity] is not None:
                return "answered twice"
            self.statuses[identity] = reply.status
        if reply.status in {429, 503} and "retry-after" not in reply.headers and "code" in reply.json():
            return f"{reply.name} without Retry-After"
        return reply.name

    async def ask(self, sent: bytes, known: Known | None = None) -> str:
        """Send a request on a persistent connection, and return the outcome."""
        return self.outcome_of(await self.callers.ask(sent), sent, known)

    def outcome_of(self, reply: Reply, sent: bytes, known: Known | None = None) -> str:
        """Return the outcome of a request, after checks of its id and of the known predictions."""
        name = self.record(reply)
        if f"X-Request-ID: {reply.headers.get('x-request-id')}\r\n".encode() not in sent:
            return WRONG_RESPONSE
        if name == "200" and known is not None and not is_result(reply, known):
            return WRONG_RESPONSE
        return name

    @contextlib.asynccontextmanager
    async def connection(self, opening: Awaitable[Connection] | None = None) -> AsyncIterator[Connection]:
        """Open a connection for a client; close it after the block, or reset it after an error."""
        connection = await (opening or Connection.open(self.callers.address))
        try:
            yield connection
        except BaseException:
            connection.reset()
            raise
        connection.close()

    def digit(self) -> Known:
        """Return a small image."""
        return self.random.choice(self.digits)

    def photo(self) -> Known:
        """Return a large image."""
        return self.random.choice(self.photos)

    def disconnect(self, connection: Connection) -> str:
        """Close or reset the connection."""
        self.random.choice([connection.close, connection.reset])()
        return DISCONNECTED
