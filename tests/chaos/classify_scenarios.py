"""Scenarios of clients of `/classify` and of malformed HTTP.

Each scenario is a function that runs it once and returns its outcome.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.load.clients import BOUNDARY, FORM, Connection, form
from benchmarks.load.images import Known
from tests.chaos.bad_files import BAD_FILES, mutated
from tests.chaos.client_pool import ClientPool
from tests.chaos.outcomes import BODY_LIMIT, CLIENT_LATE, IMAGE_ERROR_CODES, REQUEST_TIMEOUT_S, WRONG_RESPONSE

# Number of pieces in which a slow client sends a request.
SLOW_PIECES = 15

# Returns the bytes of a request for an image: of this route, or of another one.
Build = Callable[[ClientPool, Known], bytes]


def classify_request(clients: ClientPool, known: Known) -> bytes:
    """Return the bytes of a request for one image."""
    return clients.request("/classify", known.data)


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


async def disconnect_while_sending(clients: ClientPool, build: Build = classify_request) -> str:
    """Disconnect in the header section or in the content."""
    sent = build(clients, clients.photo())
    end = clients.random.choice([100, len(sent)])
    async with clients.connection() as connection:
        connection.writer.write(sent[: clients.random.randrange(end)])
        await asyncio.sleep(clients.random.uniform(0, 0.02))
        return clients.disconnect(connection)


async def disconnect_while_waiting(clients: ClientPool, build: Build = classify_request) -> str:
    """Disconnect while the image is in the decode queue, in the batcher's queue, or in a batch."""
    known = clients.random.choice([clients.digit, clients.photo])()
    async with clients.connection() as connection:
        connection.writer.write(build(clients, known))
        await asyncio.sleep(clients.random.uniform(0, 0.03))
        return clients.disconnect(connection)


async def disconnect_with_batch(clients: ClientPool) -> str:
    """Disconnect with a batch of photos, which fills all queues and threads."""
    async with clients.connection() as connection:
        connection.writer.write(clients.request("/classify/batch", form("files", [clients.photo().data] * 8), **FORM))
        await asyncio.sleep(clients.random.uniform(0, 0.1))
        return clients.disconnect(connection)


async def half_close(clients: ClientPool, build: Build = classify_request) -> str:
    """Close the sending side and wait. The service may treat the client as disconnected."""
    known = clients.digit()
    sent = build(clients, known)
    async with clients.connection() as connection:
        connection.writer.write(sent)
        connection.writer.write_eof()
        return clients.outcome_of(await connection.reply(), sent, known)


async def slow_body(clients: ClientPool, build: Build = classify_request) -> str:
    """Send the request in small pieces, but in time.

    On a busy machine, the client itself can be late. Then 408 is right.
    """
    known, began = clients.digit(), time.perf_counter()
    sent = build(clients, known)
    async with clients.connection() as connection:
        size = len(sent) // SLOW_PIECES + 1
        for start in range(0, len(sent), size):
            connection.writer.write(sent[start : start + size])
            await asyncio.sleep(0.05)
        took = time.perf_counter() - began
        outcome = clients.outcome_of(await connection.reply(), sent, known)
    return CLIENT_LATE if outcome == "408 request_timeout" and took > REQUEST_TIMEOUT_S / 2 else outcome


async def stalled_request(clients: ClientPool, build: Build = classify_request) -> str:
    """Stop sending in the header section or in the content, and wait for the response."""
    sent = build(clients, clients.photo())
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


async def bad_file(clients: ClientPool) -> str:
    return await clients.ask(clients.request("/classify", clients.random.choice([*BAD_FILES, mutated])(clients)))


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


async def oversized_body(clients: ClientPool, path: str = "/classify") -> str:
    """Send content over the limit, or announce it in Content-Length and do not send it."""
    megabyte = bytes(2**20)
    announced = clients.request(path).replace(b"Content-Length: 0", b"Content-Length: %d" % (BODY_LIMIT + 1))
    sent = clients.random.choice([announced, _chunked(clients, path, [megabyte] * (BODY_LIMIT // 2**20 + 1))])
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
