"""The scenarios of the chaos test: what clients do, and the outcomes that are allowed.

In about half of all scenarios, clients behave well. In the others they disconnect, stall, or send
what is no image or no HTTP. Each scenario is a function that runs it once and returns its outcome:
the name of the response (`200`, `429 overloaded`), `disconnected`, or `response of another
request`. It raises `Broken` if there was no response.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from benchmarks.load.clients import BOUNDARY, FORM, Broken, Connection, ConnectionPool, Reply, form, request
from benchmarks.load.images import Known

DISCONNECTED, CLIENT_LATE, NO_RESPONSE, TIMED_OUT = "disconnected", "client was late", "no response", "timed out"
WRONG_RESPONSE = "response of another request"

# Seconds that the service waits for a header section, and for content.
REQUEST_TIMEOUT_S = 5.0

# A client that gets no response for so long has found a hang: a busy machine needs a few seconds.
HANG_SECONDS = 60

# Outcomes that are allowed for every request when there is too much work.
OVERLOAD = {"429 overloaded", "503 not_ready", "503 too_many_connections", "504 deadline_exceeded"}

ENGINE_FAILED = "500 engine_failed"

IMAGE_ERROR_CODES = {"unsupported_image", "unreadable_image", "image_too_large"}

BODY_LIMIT = 32 * 2**20


@dataclass
class ClientPool:
    """Clients with images of known predictions, and the status of each of their requests."""

    callers: ConnectionPool
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
        if name == "200" and known is not None and not known.matches(reply.json()["predictions"]):
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


# Scenarios of clients that behave well.


async def digit(clients: ClientPool) -> str:
    known = clients.digit()
    return await clients.ask(clients.request("/classify", known.data), known)


async def photo(clients: ClientPool) -> str:
    known = clients.photo()
    return await clients.ask(clients.request("/classify", known.data), known)


async def in_a_form(clients: ClientPool) -> str:
    known = clients.digit()
    return await clients.ask(clients.request("/classify", form("file", [known.data]), **FORM), known)


async def own_connection(clients: ClientPool) -> str:
    known = clients.digit()
    sent = clients.request("/classify", known.data, Connection="close")
    async with clients.connection() as connection:
        return clients.outcome_of(await connection.ask(sent), sent, known)


async def evidence(clients: ClientPool) -> str:
    known = clients.digit()
    sent = clients.request("/classify?evidence=true", known.data)
    reply = await clients.callers.ask(sent)
    outcome = clients.outcome_of(reply, sent, known)
    if outcome == "200" and any(abs(_evidence_sum(row) - row["logit"]) > 1e-2 for row in reply.json()["predictions"]):
        return WRONG_RESPONSE
    return outcome


def _evidence_sum(prediction: dict[str, Any]) -> float:
    return sum(map(sum, prediction["evidence"]))


async def picture(clients: ClientPool) -> str:
    known = clients.digit()
    sent = clients.request("/classify?evidence=true&format=png", known.data)
    reply = await clients.callers.ask(sent)
    outcome = clients.outcome_of(reply, sent)
    best, _ = known.scores[0]
    return WRONG_RESPONSE if outcome == "200" and reply.headers["x-class-index"] != str(best) else outcome


async def batch(clients: ClientPool) -> str:
    """Send valid and invalid images in one batch; each gets its own result."""
    items = [clients.random.choice([clients.digit(), clients.digit(), clients.photo(), None]) for _ in range(8)]
    files = [item.data if item else clients.random.choice(BAD_FILES)(clients) for item in items]
    sent = clients.request("/classify/batch", form("files", files), **FORM)
    reply = await clients.callers.ask(sent)
    outcome = clients.outcome_of(reply, sent)
    if outcome != "200":
        return outcome
    return max(_result(item, result) for item, result in zip(items, reply.json()["results"], strict=True))


def _result(item: Known | None, result: dict[str, Any]) -> str:
    """Return `200` or an error; an error sorts after `200`."""
    if error := result.get("error"):
        is_expected = item is None and error["code"] in IMAGE_ERROR_CODES
        return "200" if is_expected else f"{error['status']} {error['code']}"
    return "200" if item and item.matches(result["predictions"]) else WRONG_RESPONSE


async def short_deadline(clients: ClientPool) -> str:
    known = clients.random.choice([clients.digit, clients.photo])()
    return await clients.ask(clients.request("/classify", known.data, X_Request_Timeout="0.02"), known)


async def pipelined(clients: ClientPool) -> str:
    """Send three requests at once; the responses must come in the same order."""
    requests = [
        (clients.request("/classify", known.data), known)
        for known in (clients.digit(), clients.photo(), clients.digit())
    ]
    async with clients.callers.connection() as connection:
        connection.writer.write(b"".join(sent for sent, _ in requests))
        return max([clients.outcome_of(await connection.reply(), *each) for each in requests])


async def chunked(clients: ClientPool) -> str:
    known = clients.digit()
    sent = _chunked(clients, "/classify", [known.data[:100], known.data[100:]])
    return await clients.ask(sent, known)


def _chunked(clients: ClientPool, path: str, chunks: Sequence[bytes]) -> bytes:
    head = clients.request(path).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


async def expect_continue(clients: ClientPool) -> str:
    known = clients.photo()
    return await clients.ask(clients.request("/classify", known.data, Expect="100-continue"), known)


async def other_paths(clients: ClientPool) -> str:
    path = clients.random.choice(["/health/live", "/health/ready", "/metrics", "/model", "/nowhere"])
    return await clients.ask(clients.request(path, method="GET"))


# Scenarios of clients that disconnect or are slow.


async def disconnect_while_sending(clients: ClientPool) -> str:
    """Disconnect in the header section or in the content."""
    sent = clients.request("/classify", clients.photo().data)
    end = clients.random.choice([100, len(sent)])
    async with clients.connection() as connection:
        connection.writer.write(sent[: clients.random.randrange(end)])
        await asyncio.sleep(clients.random.uniform(0, 0.02))
        return clients.disconnect(connection)


async def disconnect_while_waiting(clients: ClientPool) -> str:
    """Disconnect while the image is in the decode queue, in the batcher's queue, or in a batch."""
    known = clients.random.choice([clients.digit, clients.photo])()
    async with clients.connection() as connection:
        connection.writer.write(clients.request("/classify", known.data))
        await asyncio.sleep(clients.random.uniform(0, 0.03))
        return clients.disconnect(connection)


async def disconnect_with_batch(clients: ClientPool) -> str:
    """Disconnect with a batch of photos, which fills all queues and threads."""
    async with clients.connection() as connection:
        connection.writer.write(clients.request("/classify/batch", form("files", [clients.photo().data] * 8), **FORM))
        await asyncio.sleep(clients.random.uniform(0, 0.1))
        return clients.disconnect(connection)


async def half_close(clients: ClientPool) -> str:
    """Close the sending side and wait. The service may treat the client as disconnected."""
    known = clients.digit()
    sent = clients.request("/classify", known.data)
    async with clients.connection() as connection:
        connection.writer.write(sent)
        connection.writer.write_eof()
        return clients.outcome_of(await connection.reply(), sent, known)


async def slow_body(clients: ClientPool) -> str:
    """Send the request in small pieces, but in time.

    On a busy machine, the client itself can be late. Then 408 is right.
    """
    known, began = clients.digit(), time.perf_counter()
    sent = clients.request("/classify", known.data)
    async with clients.connection() as connection:
        for start in range(0, len(sent), 100):
            connection.writer.write(sent[start : start + 100])
            await asyncio.sleep(0.05)
        took = time.perf_counter() - began
        outcome = clients.outcome_of(await connection.reply(), sent, known)
    return CLIENT_LATE if outcome == "408 request_timeout" and took > REQUEST_TIMEOUT_S / 2 else outcome


async def stalled_request(clients: ClientPool) -> str:
    """Stop sending in the header section or in the content, and wait for the response."""
    sent = clients.request("/classify", clients.photo().data)
    async with clients.connection() as connection:
        connection.writer.write(sent[: clients.random.randrange(20, len(sent))])
        return clients.record(await connection.reply())


async def slow_reader(clients: ClientPool) -> str:
    """Request more content than all buffers between client and service can hold."""
    requests = [clients.request("/openapi.json", method="GET") for _ in range(16)]
    async with clients.connection(_open_with_small_buffer(clients)) as connection:
        connection.writer.write(b"".join(requests))
        await asyncio.sleep(0.5)
        return max([clients.outcome_of(await connection.reply(), sent) for sent in requests])


async def _open_with_small_buffer(clients: ClientPool) -> Connection:
    """Open a connection with a small receive buffer."""
    sock = socket.socket()
    try:
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 4096
        )  # before connecting: the TCP window is agreed on then
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, clients.callers.address)
        return Connection(*await asyncio.open_connection(sock=sock, limit=4096))
    except BaseException:
        sock.close()
        raise


# Scenarios of clients that send what is no image, no form, or no HTTP.


def _truncated(clients: ClientPool) -> bytes:
    data = clients.photo().data
    return data[: len(data) // 2]


def _text(clients: ClientPool) -> bytes:
    return b"I am a text file, not an image.\n" * clients.random.randrange(1, 100)


def _empty(_: ClientPool) -> bytes:
    return b""


def _bomb(_: ClientPool) -> bytes:
    """Return the header of a PNG of 20000×20000 pixels."""
    return bytes.fromhex("89504e470d0a1a0a0000000d4948445200004e2000004e20080200000058f9ef4a")


def _mutated(clients: ClientPool) -> bytes:
    data = bytearray(clients.random.choice([clients.digit, clients.photo])().data)
    for _ in range(clients.random.randrange(1, 20)):
        data[clients.random.randrange(len(data))] = clients.random.randrange(256)
    return bytes(data)


# Files that contain no readable image.
BAD_FILES = [_truncated, _text, _empty, _bomb]


async def bad_file(clients: ClientPool) -> str:
    return await clients.ask(clients.request("/classify", clients.random.choice([*BAD_FILES, _mutated])(clients)))


async def bad_form(clients: ClientPool) -> str:
    good = form("file", [clients.digit().data])
    body = clients.random.choice(
        [
            good[:-20],  # ends in the middle
            good.replace(BOUNDARY.encode(), b"another"),
            form("other", [b"x"]),
            form("file", [b"x"] * 100),
            clients.random.randbytes(1000),
            b"",
        ]
    )
    return await clients.ask(clients.request(clients.random.choice(["/classify", "/classify/batch"]), body, **FORM))


async def invalid_parameter(clients: ClientPool) -> str:
    query = clients.random.choice(
        ["top_k=0", "top_k=x", "format=gif", "class=99&evidence=true&format=png", "evidence=2"]
    )
    return await clients.ask(clients.request(f"/classify?{query}", clients.digit().data))


async def oversized_body(clients: ClientPool) -> str:
    """Send content over the limit, or announce it in Content-Length and do not send it."""
    megabyte = bytes(2**20)
    announced = clients.request("/classify").replace(b"Content-Length: 0", b"Content-Length: %d" % (BODY_LIMIT + 1))
    sent = clients.random.choice([announced, _chunked(clients, "/classify", [megabyte] * (BODY_LIMIT // 2**20 + 1))])
    async with clients.connection() as connection:
        outcome = clients.outcome_of(await connection.ask(sent), sent)
        connection.reset()  # closing would first send the rest
        return outcome


async def short_content_length(clients: ClientPool) -> str:
    """Announce half of an image and send all of it: the rest is no valid request."""
    data = clients.photo().data
    half = len(data) // 2
    sent = clients.request("/classify", data[:half])
    async with clients.connection() as connection:
        connection.writer.write(sent + data[half:])
        first = clients.record(await connection.reply())
        return first if first.startswith("400") else max(first, clients.record(await connection.reply()))


async def malformed_http(clients: ClientPool) -> str:
    """Send random bytes, invalid HTTP, or a header section without end."""
    head = clients.request("/classify", clients.digit().data)
    sent = clients.random.choice(
        [
            clients.random.randbytes(2000),
            head.replace(b"HTTP/1.1", b"HTTP/9.9"),
            head.replace(b"POST", b"PO ST"),
            head.replace(b"Content-Length: ", b"Content-Length: -"),
            head.replace(b"Content-Length: ", b"Content-Length: 1, "),
            head.replace(b"Content-Length:", b"Transfer-Encoding: chunked\r\nContent-Length:"),
            _chunked(clients, "/classify", [b"x"]).replace(b"\r\n1\r\n", b"\r\nfour\r\n"),
            b"GET / HTTP/1.1\r\nHost: swin\r\n" + b"X-Name: value\r\n" * 100_000 + b"\r\n",
            b"GET /" + b"x" * 2**20 + b" HTTP/1.1\r\nHost: swin\r\n\r\n",
        ]
    )
    async with clients.connection() as connection:
        connection.writer.write(sent)
        try:
            async with asyncio.timeout(2):
                return clients.record(await connection.reply())
        except TimeoutError:  # random bytes that could still become a request
            return clients.disconnect(connection)


@dataclass(frozen=True)
class Scenario:
    """A scenario: its share in percent, its function, and its allowed outcomes.

    `OVERLOAD` and `ENGINE_FAILED` are allowed for every scenario.
    """

    name: str
    weight: float
    run: Callable[[ClientPool], Awaitable[str]]
    allowed: frozenset[str]

    async def __call__(self, clients: ClientPool) -> str:
        """Run the scenario once, and return its outcome."""
        try:
            async with asyncio.timeout(HANG_SECONDS):
                return await self.run(clients)
        except (Broken, ConnectionError):
            return NO_RESPONSE
        except TimeoutError:
            return TIMED_OUT


def _allowed(*outcomes: str) -> frozenset[str]:
    return frozenset(outcomes)


OK = _allowed("200")
REFUSALS = _allowed("408 request_timeout", "413 image_too_large", "415 unsupported_image", "422 unreadable_image")
PROTOCOL_ERRORS = _allowed(
    "400 malformed_request", "431 headers_too_large", "501 not_supported", "505 wrong_version", NO_RESPONSE
)

DIGIT = Scenario("digit", 30, digit, OK)
BATCH = Scenario("batch, valid and invalid", 4, batch, OK)

# Scenarios of clients that behave well and never wait on purpose.
WELL_BEHAVED = [
    DIGIT,
    Scenario("photo", 8, photo, OK),
    Scenario("in a form", 4, in_a_form, OK),
    Scenario("own connection", 6, own_connection, OK),
    Scenario("evidence", 4, evidence, OK),
    Scenario("evidence as a picture", 1, picture, OK),
    BATCH,
    Scenario("short deadline", 4, short_deadline, OK),
    Scenario("pipelined", 3, pipelined, OK),
    Scenario("chunked", 3, chunked, OK),
    Scenario("100-continue", 2, expect_continue, OK),
    Scenario("health, metrics, model", 4, other_paths, OK | {"404 not_found", "503"}),
]

SCENARIOS = [
    *WELL_BEHAVED,
    Scenario("disconnect while sending", 4, disconnect_while_sending, _allowed(DISCONNECTED)),
    Scenario("disconnect while waiting", 6, disconnect_while_waiting, _allowed(DISCONNECTED)),
    Scenario("disconnect with batch", 1, disconnect_with_batch, _allowed(DISCONNECTED)),
    Scenario("half-close", 2, half_close, OK | {NO_RESPONSE}),
    Scenario("slow body", 2, slow_body, OK | {CLIENT_LATE}),
    Scenario("stalled request", 1, stalled_request, _allowed("408 request_timeout")),
    Scenario("slow reader", 0.7, slow_reader, OK),
    Scenario("bad file", 8, bad_file, OK | REFUSALS),
    Scenario("bad form", 2, bad_form, _allowed("422 invalid_parameter")),
    Scenario("invalid parameter", 1, invalid_parameter, _allowed("422 invalid_parameter")),
    Scenario("oversized body", 0.7, oversized_body, REFUSALS | {NO_RESPONSE}),
    Scenario("short Content-Length", 1, short_content_length, REFUSALS | PROTOCOL_ERRORS),
    Scenario("malformed HTTP", 2, malformed_http, REFUSALS | PROTOCOL_ERRORS | {"404 not_found", DISCONNECTED}),
]
