"""What callers do, and what may come of it. Half of them mean no harm; the others leave, dawdle, lie or talk nonsense.

Each behavior is a function that plays it once and says what came of it: the name of the answer (`200`,
`429 overloaded`), `left`, or `another's answer`. It raises `Broken` if there was none.
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

LEFT, LATE, CROSSED, NO_ANSWER, HUNG = "left", "late itself", "another's answer", "no answer", "hung"

PATIENCE = 5.0
"""Seconds that the service waits for a header section, and for content."""

HANG_SECONDS = 60
"""A client that gets no response for so long has found a hang: a busy machine needs a few seconds."""

BUSY = {"429 overloaded", "503 not_ready", "503 too_many_connections", "504 deadline_exceeded"}
"""What any request may hear when there is too much work."""

FAILED = "500 engine_failed"

HOSTILE_CODES = {"unsupported_image", "unreadable_image", "image_too_large"}

BODY_LIMIT = 32 * 2**20


@dataclass
class Crowd:
    """The callers: the images whose answers they know, and what each of their requests came to."""

    callers: ConnectionPool
    digits: Sequence[Known]
    photos: Sequence[Known]
    random: Random
    answers: dict[str, int | None] = field(default_factory=dict)  # by request id; None: not, or not by the service

    def request(self, path: str, body: bytes = b"", method: str = "POST", **headers: str) -> bytes:
        """A request with an id of its own."""
        identity = f"caller-{len(self.answers)}"
        self.answers[identity] = None
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(path, body, method, {"X-Request-ID": identity, **fields})

    def note(self, reply: Reply) -> str:
        """Note an answer; what came of it. Refusals by the service itself have to say when to try again."""
        identity = reply.headers.get("x-request-id")
        if identity in self.answers:
            if self.answers[identity] is not None:
                return "answered twice"
            self.answers[identity] = reply.status
        if reply.status in {429, 503} and "retry-after" not in reply.headers and "code" in reply.json():
            return f"{reply.name} without Retry-After"
        return reply.name

    async def ask(self, sent: bytes, known: Known | None = None) -> str:
        """Send it on a connection that is kept."""
        return self.judge(await self.callers.ask(sent), sent, known)

    def judge(self, reply: Reply, sent: bytes, known: Known | None = None) -> str:
        """What came of a request: whose answer it is, by its id and by what the image is known to show."""
        name = self.note(reply)
        if f"X-Request-ID: {reply.headers.get('x-request-id')}\r\n".encode() not in sent:
            return CROSSED
        if name == "200" and known is not None and not known.matches(reply.json()["predictions"]):
            return CROSSED
        return name

    @contextlib.asynccontextmanager
    async def connection(self, opening: Awaitable[Connection] | None = None) -> AsyncIterator[Connection]:
        """Open a connection for one client. It is closed at the end of the block, and reset after an error."""
        connection = await (opening or Connection.open(self.callers.address))
        try:
            yield connection
        except BaseException:
            connection.reset()
            raise
        connection.close()

    def digit(self) -> Known:
        """A small image."""
        return self.random.choice(self.digits)

    def photo(self) -> Known:
        """A large one."""
        return self.random.choice(self.photos)

    def leave(self, connection: Connection) -> str:
        """Hang up, or vanish."""
        self.random.choice([connection.close, connection.reset])()
        return LEFT


# Those who mean no harm.


async def digit(crowd: Crowd) -> str:
    known = crowd.digit()
    return await crowd.ask(crowd.request("/classify", known.data), known)


async def photo(crowd: Crowd) -> str:
    known = crowd.photo()
    return await crowd.ask(crowd.request("/classify", known.data), known)


async def in_a_form(crowd: Crowd) -> str:
    known = crowd.digit()
    return await crowd.ask(crowd.request("/classify", form("file", [known.data]), **FORM), known)


async def alone(crowd: Crowd) -> str:
    known = crowd.digit()
    sent = crowd.request("/classify", known.data, Connection="close")
    async with crowd.connection() as connection:
        return crowd.judge(await connection.ask(sent), sent, known)


async def evidence(crowd: Crowd) -> str:
    known = crowd.digit()
    sent = crowd.request("/classify?evidence=true", known.data)
    reply = await crowd.callers.ask(sent)
    outcome = crowd.judge(reply, sent, known)
    if outcome == "200" and any(abs(_evidence(row) - row["logit"]) > 1e-2 for row in reply.json()["predictions"]):
        return CROSSED
    return outcome


def _evidence(prediction: dict[str, Any]) -> float:
    return sum(map(sum, prediction["evidence"]))


async def picture(crowd: Crowd) -> str:
    known = crowd.digit()
    sent = crowd.request("/classify?evidence=true&format=png", known.data)
    reply = await crowd.callers.ask(sent)
    outcome = crowd.judge(reply, sent)
    best, _ = known.scores[0]
    return CROSSED if outcome == "200" and reply.headers["x-class-index"] != str(best) else outcome


async def batch(crowd: Crowd) -> str:
    """Good images and bad ones; each has to come to its own."""
    items = [crowd.random.choice([crowd.digit(), crowd.digit(), crowd.photo(), None]) for _ in range(8)]
    files = [item.data if item else crowd.random.choice(BAD)(crowd) for item in items]
    sent = crowd.request("/classify/batch", form("files", files), **FORM)
    reply = await crowd.callers.ask(sent)
    outcome = crowd.judge(reply, sent)
    if outcome != "200":
        return outcome
    return max(_result(item, result) for item, result in zip(items, reply.json()["results"], strict=True))


def _result(item: Known | None, result: dict[str, Any]) -> str:
    """`200`, or what is wrong with it; that sorts after it."""
    if error := result.get("error"):
        is_deserved = item is None and error["code"] in HOSTILE_CODES
        return "200" if is_deserved else f"{error['status']} {error['code']}"
    return "200" if item and item.matches(result["predictions"]) else CROSSED


async def in_a_hurry(crowd: Crowd) -> str:
    known = crowd.random.choice([crowd.digit, crowd.photo])()
    return await crowd.ask(crowd.request("/classify", known.data, X_Request_Timeout="0.02"), known)


async def pipelined(crowd: Crowd) -> str:
    """Three requests at once; the answers have to come in their order."""
    asked = [(crowd.request("/classify", known.data), known) for known in (crowd.digit(), crowd.photo(), crowd.digit())]
    async with crowd.callers.connection() as connection:
        connection.writer.write(b"".join(sent for sent, _ in asked))
        return max([crowd.judge(await connection.reply(), *each) for each in asked])


async def chunked(crowd: Crowd) -> str:
    known = crowd.digit()
    sent = _chunked(crowd, "/classify", [known.data[:100], known.data[100:]])
    return await crowd.ask(sent, known)


def _chunked(crowd: Crowd, path: str, chunks: Sequence[bytes]) -> bytes:
    head = crowd.request(path).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


async def announced(crowd: Crowd) -> str:
    known = crowd.photo()
    return await crowd.ask(crowd.request("/classify", known.data, Expect="100-continue"), known)


async def question(crowd: Crowd) -> str:
    path = crowd.random.choice(["/health/live", "/health/ready", "/metrics", "/model", "/nowhere"])
    return await crowd.ask(crowd.request(path, method="GET"))


# Those who leave, or take their time.


async def leaves_sending(crowd: Crowd) -> str:
    """In the head or in the body."""
    sent = crowd.request("/classify", crowd.photo().data)
    end = crowd.random.choice([100, len(sent)])
    async with crowd.connection() as connection:
        connection.writer.write(sent[: crowd.random.randrange(end)])
        await asyncio.sleep(crowd.random.uniform(0, 0.02))
        return crowd.leave(connection)


async def leaves_waiting(crowd: Crowd) -> str:
    """In the decode queue, in the batch queue, or in a batch."""
    known = crowd.random.choice([crowd.digit, crowd.photo])()
    async with crowd.connection() as connection:
        connection.writer.write(crowd.request("/classify", known.data))
        await asyncio.sleep(crowd.random.uniform(0, 0.03))
        return crowd.leave(connection)


async def leaves_with_many(crowd: Crowd) -> str:
    """With a batch of photos, which takes all queues and threads there are."""
    async with crowd.connection() as connection:
        connection.writer.write(crowd.request("/classify/batch", form("files", [crowd.photo().data] * 8), **FORM))
        await asyncio.sleep(crowd.random.uniform(0, 0.1))
        return crowd.leave(connection)


async def half_closes(crowd: Crowd) -> str:
    """Says that nothing more will come, and listens on. The service may take it for having left."""
    known = crowd.digit()
    sent = crowd.request("/classify", known.data)
    async with crowd.connection() as connection:
        connection.writer.write(sent)
        connection.writer.write_eof()
        return crowd.judge(await connection.reply(), sent, known)


async def dawdles(crowd: Crowd) -> str:
    """A piece now and then, but in time. On a busy machine a client can be late by its own clock; then 408 is right."""
    known, began = crowd.digit(), time.perf_counter()
    sent = crowd.request("/classify", known.data)
    async with crowd.connection() as connection:
        for start in range(0, len(sent), 100):
            connection.writer.write(sent[start : start + 100])
            await asyncio.sleep(0.05)
        took = time.perf_counter() - began
        outcome = crowd.judge(await connection.reply(), sent, known)
    return LATE if outcome == "408 request_timeout" and took > PATIENCE / 2 else outcome


async def stops_sending(crowd: Crowd) -> str:
    """In the head or in the body, and waits for what the service will say."""
    sent = crowd.request("/classify", crowd.photo().data)
    async with crowd.connection() as connection:
        connection.writer.write(sent[: crowd.random.randrange(20, len(sent))])
        return crowd.note(await connection.reply())


async def reads_slowly(crowd: Crowd) -> str:
    """More answers than all buffers between us can hold."""
    asked = [crowd.request("/openapi.json", method="GET") for _ in range(16)]
    async with crowd.connection(_narrow(crowd)) as connection:
        connection.writer.write(b"".join(asked))
        await asyncio.sleep(0.5)
        return max([crowd.judge(await connection.reply(), sent) for sent in asked])


async def _narrow(crowd: Crowd) -> Connection:
    """Open a connection with a small receive buffer."""
    door = socket.socket()
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before it connects: the window is agreed then
        door.setblocking(False)
        await asyncio.get_running_loop().sock_connect(door, crowd.callers.address)
        return Connection(*await asyncio.open_connection(sock=door, limit=4096))
    except BaseException:
        door.close()
        raise


# Those who send what is no image, no form, or no HTTP.


def _truncated(crowd: Crowd) -> bytes:
    data = crowd.photo().data
    return data[: len(data) // 2]


def _text(crowd: Crowd) -> bytes:
    return b"I am a text file, not an image.\n" * crowd.random.randrange(1, 100)


def _nothing(_: Crowd) -> bytes:
    return b""


def _bomb(_: Crowd) -> bytes:
    """The header of a PNG of 20000×20000 pixels."""
    return bytes.fromhex("89504e470d0a1a0a0000000d4948445200004e2000004e20080200000058f9ef4a")


def _mutated(crowd: Crowd) -> bytes:
    data = bytearray(crowd.random.choice([crowd.digit, crowd.photo])().data)
    for _ in range(crowd.random.randrange(1, 20)):
        data[crowd.random.randrange(len(data))] = crowd.random.randrange(256)
    return bytes(data)


BAD = [_truncated, _text, _nothing, _bomb]
"""What no image can be read from."""


async def bad_file(crowd: Crowd) -> str:
    return await crowd.ask(crowd.request("/classify", crowd.random.choice([*BAD, _mutated])(crowd)))


async def bad_form(crowd: Crowd) -> str:
    good = form("file", [crowd.digit().data])
    body = crowd.random.choice(
        [
            good[:-20],  # ends in the middle
            good.replace(BOUNDARY.encode(), b"another"),
            form("other", [b"x"]),
            form("file", [b"x"] * 100),
            crowd.random.randbytes(1000),
            b"",
        ]
    )
    return await crowd.ask(crowd.request(crowd.random.choice(["/classify", "/classify/batch"]), body, **FORM))


async def invalid_parameter(crowd: Crowd) -> str:
    query = crowd.random.choice(["top_k=0", "top_k=x", "format=gif", "class=99&evidence=true&format=png", "evidence=2"])
    return await crowd.ask(crowd.request(f"/classify?{query}", crowd.digit().data))


async def too_much(crowd: Crowd) -> str:
    """A body over the limit, announced and never sent, or not announced and sent."""
    megabyte = bytes(2**20)
    announced = crowd.request("/classify").replace(b"Content-Length: 0", b"Content-Length: %d" % (BODY_LIMIT + 1))
    sent = crowd.random.choice([announced, _chunked(crowd, "/classify", [megabyte] * (BODY_LIMIT // 2**20 + 1))])
    async with crowd.connection() as connection:
        outcome = crowd.judge(await connection.ask(sent), sent)
        connection.reset()  # closing would send what is left first
        return outcome


async def lies(crowd: Crowd) -> str:
    """Less is announced than comes: half an image, and a next request that is none."""
    data = crowd.photo().data
    half = len(data) // 2
    sent = crowd.request("/classify", data[:half])
    async with crowd.connection() as connection:
        connection.writer.write(sent + data[half:])
        first = crowd.note(await connection.reply())
        return first if first.startswith("400") else max(first, crowd.note(await connection.reply()))


async def nonsense(crowd: Crowd) -> str:
    """No HTTP, almost HTTP, or a head without end."""
    head = crowd.request("/classify", crowd.digit().data)
    sent = crowd.random.choice(
        [
            crowd.random.randbytes(2000),
            head.replace(b"HTTP/1.1", b"HTTP/9.9"),
            head.replace(b"POST", b"PO ST"),
            head.replace(b"Content-Length: ", b"Content-Length: -"),
            head.replace(b"Content-Length: ", b"Content-Length: 1, "),
            head.replace(b"Content-Length:", b"Transfer-Encoding: chunked\r\nContent-Length:"),
            _chunked(crowd, "/classify", [b"x"]).replace(b"\r\n1\r\n", b"\r\nfour\r\n"),
            b"GET / HTTP/1.1\r\nHost: swin\r\n" + b"X-Name: value\r\n" * 100_000 + b"\r\n",
            b"GET /" + b"x" * 2**20 + b" HTTP/1.1\r\nHost: swin\r\n\r\n",
        ]
    )
    async with crowd.connection() as connection:
        connection.writer.write(sent)
        try:
            async with asyncio.timeout(2):
                return crowd.note(await connection.reply())
        except TimeoutError:  # noise that could still become a request
            return crowd.leave(connection)


@dataclass(frozen=True)
class Behavior:
    """What some of the crowd do: how many of a hundred, how, and what may come of it beside `BUSY` and `FAILED`."""

    name: str
    weight: float
    play: Callable[[Crowd], Awaitable[str]]
    allowed: frozenset[str]

    async def __call__(self, crowd: Crowd) -> str:
        """What came of it this time."""
        try:
            async with asyncio.timeout(HANG_SECONDS):
                return await self.play(crowd)
        except (Broken, ConnectionError):
            return NO_ANSWER
        except TimeoutError:
            return HUNG


def _allowed(*outcomes: str) -> frozenset[str]:
    return frozenset(outcomes)


RIGHT = _allowed("200")
REFUSED = _allowed("408 request_timeout", "413 image_too_large", "415 unsupported_image", "422 unreadable_image")
NO_HTTP = _allowed(
    "400 malformed_request", "431 headers_too_large", "501 not_supported", "505 wrong_version", NO_ANSWER
)

ONE = Behavior("digit", 30, digit, RIGHT)
MANY = Behavior("batch, good and bad", 4, batch, RIGHT)

PROMPT = [
    ONE,
    Behavior("photo", 8, photo, RIGHT),
    Behavior("in a form", 4, in_a_form, RIGHT),
    Behavior("a connection each", 6, alone, RIGHT),
    Behavior("evidence", 4, evidence, RIGHT),
    Behavior("evidence as a picture", 1, picture, RIGHT),
    MANY,
    Behavior("in a hurry", 4, in_a_hurry, RIGHT),
    Behavior("pipelined", 3, pipelined, RIGHT),
    Behavior("chunked", 3, chunked, RIGHT),
    Behavior("announced", 2, announced, RIGHT),
    Behavior("health, metrics, model", 4, question, RIGHT | {"404 not_found", "503"}),
]
"""Those that mean no harm and wait for nothing but the service."""

BEHAVIOURS = [
    *PROMPT,
    Behavior("leaves while sending", 4, leaves_sending, _allowed(LEFT)),
    Behavior("leaves while waiting", 6, leaves_waiting, _allowed(LEFT)),
    Behavior("leaves with many", 1, leaves_with_many, _allowed(LEFT)),
    Behavior("half-closes", 2, half_closes, RIGHT | {NO_ANSWER}),
    Behavior("dawdles", 2, dawdles, RIGHT | {LATE}),
    Behavior("stops sending", 1, stops_sending, _allowed("408 request_timeout")),
    Behavior("reads slowly", 0.7, reads_slowly, RIGHT),
    Behavior("bad file", 8, bad_file, RIGHT | REFUSED),
    Behavior("bad form", 2, bad_form, _allowed("422 invalid_parameter")),
    Behavior("bad option", 1, invalid_parameter, _allowed("422 invalid_parameter")),
    Behavior("too much", 0.7, too_much, REFUSED | {NO_ANSWER}),
    Behavior("lies", 1, lies, REFUSED | NO_HTTP),
    Behavior("nonsense", 2, nonsense, REFUSED | NO_HTTP | {"404 not_found", LEFT}),
]
