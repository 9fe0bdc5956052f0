"""Tests of `app/server/framing.py` and `protocol.py`: which bytes are a request, however they are cut."""

import json
import logging
import random
import re

import httptools
import pytest

from app.errors import HeadersTooLarge
from app.http.application import CORS
from app.server.framing import MAX_HEAD_BYTES, ChunkedBody
from app.server.refusals import EXPOSED
from app.settings import Settings
from tests.support.wire import Exchange, NotingParser, exchange

pytestmark = pytest.mark.anyio

BODY = b"\x89PNG\r\n\x1a\n\r\n\r\nGET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n\n\n\r\n"
POST = b"POST /classify?top_k=1 HTTP/1.1\r\nHost: example.org:8000\r\n"
SIZED = b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%s\r\n3\r\n\r\n\r\r\n0\r\nX-Trailer: 1\r\n\r\n" % (
    len(BODY),
    BODY,
)
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"

# Name → bytes of one connection, and the number of responses.
WHOLE = {
    "plain": (POST + SIZED, 1),
    "chunked": (POST + CHUNKED, 1),
    "java": (POST + b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\n" + SIZED, 1),
    "curl": (POST + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n" + CHUNKED, 1),
    "websocket": (POST + b"upgrade:websocket\r\nCONNECTION:upgrade\r\n" + SIZED, 1),
    "capitals": (POST + b"Connection: UPGRADE\r\nUPGRADE: \t H2C \t\r\n" + SIZED, 1),
    "behind a proxy": (POST + b"Proxy-Connection: Upgrade\r\nUpgrade: h2c\r\n" + SIZED, 1),
    "in a value": (POST + b"X: upgrade: h2c\r\nConnection: upgrade\r\n" + SIZED, 1),
    "get": (LIVE.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"), 1),
    "expects": (POST + b"Expect: 100-continue\r\nX-Request-ID: a\r\n" + SIZED, 1),
    "pipelined": (LIVE + POST + b"Upgrade: h2c\r\nConnection: upgrade\r\n" + SIZED + POST + CHUNKED + LIVE, 4),
    "empty lines": (b"\r\n\r\n" + LIVE + b"\n\r\n" + POST + SIZED + b"\r\n" + LIVE, 3),
    "one too many": (LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + LIVE, 1),
    "garbage behind": (POST + SIZED + b"no HTTP\r\nX-Request-ID: a\r\n\r\n" + LIVE, 2),
    "two hosts behind": (LIVE + b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-Request-ID: b\r\n\r\n", 2),
    "line feeds only": (LIVE.replace(b"\r", b""), 1),
    "folded": (POST + b"X-Request-ID: c\r\nUpgrade:\r\n h2c\r\nConnection: upgrade\r\n" + SIZED, 1),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\n\n", 1),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 1),
}


def deterministic(exchanged: Exchange) -> list[object]:
    """Return the status, content and request ID of each response, without the value of generated IDs."""
    return [
        (answer.status, answer.content, len(identity) == 32 or identity)
        for answer in exchanged.answers
        if answer.status != 100
        for identity in [answer.headers.get("x-request-id", "")]
    ]


@pytest.mark.parametrize("name", WHOLE)
async def test_every_cut_has_the_response_of_the_whole(name: str) -> None:
    """Two pieces, cut anywhere, and single bytes get the same responses as the whole."""
    sent, count = WHOLE[name]
    whole = deterministic(await exchange([sent]))
    cuts = [[sent[:place], sent[place:]] for place in range(1, len(sent))]
    cuts.append([sent[place : place + 1] for place in range(len(sent))])

    assert len(whole) == count
    for cut in cuts:
        assert deterministic(await exchange(cut)) == whole, cut[0]


@pytest.mark.parametrize("name", ["plain", "chunked", "java", "curl", "websocket", "capitals", "behind a proxy"])
async def test_the_content_of_a_request_that_offers_a_protocol_arrives(name: str) -> None:
    """The offer of another protocol is ignored, and bytes in the content that look like a request stay content."""
    sent, _ = WHOLE[name]
    (answer,) = (await exchange([sent])).answers
    asked = answer.json()

    assert asked["content"].encode("latin-1") == BODY + (b"\r\n\r" if b"chunked" in sent else b"")
    assert (asked["method"], asked["path"], asked["query"]) == ("POST", "/classify", "top_k=1")


@pytest.mark.parametrize("pieces", [1, 2])
async def test_trailer_fields_are_no_header_fields(pieces: int) -> None:
    """Trailer fields reach neither their own request nor the next, so no key or length arrives after the content."""
    sent = POST + CHUNKED + LIVE
    cut = sent.index(b"0\r\nX-Trailer") if pieces == 2 else len(sent)
    answers = (await exchange([sent[:cut], sent[cut:]])).answers

    assert [answer.json()["path"] for answer in answers] == ["/classify", "/health/live"]
    assert not [name for answer in answers for name in answer.json()["headers"] if "trailer" in name]


@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_trailer_that_closes_is_announced(pieces: int) -> None:
    """After `Connection: close` in a trailer section the parser stops, so the response has the field, too."""
    sent = POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nConnection: close\r\n\r\n" + LIVE
    cut = len(sent) - len(LIVE) if pieces == 2 else len(sent)
    exchanged = await exchange([sent[:cut], sent[cut:]])
    (answer,) = exchanged.answers

    assert answer.json()["content"] == "x"
    assert answer.headers["connection"] == "close"
    assert exchanged.is_closed


class ParserCallbacks:
    """Callbacks of a parser that note the end of the message."""

    def __init__(self) -> None:
        self.is_complete = False

    def on_message_complete(self) -> None:
        self.is_complete = True


@pytest.mark.parametrize("seed", range(200))
async def test_a_chunked_body_has_the_same_end_as_for_the_parser(seed: int) -> None:
    """`ChunkedBody` and the parser find the same end, for any cut and for data that looks like an end."""
    chance = random.Random(seed)
    datas = [bytes(chance.choices(b"\r\n0a;", k=chance.randint(1, 40))) for _ in range(chance.randint(0, 5))]
    extension, trailer = chance.choice([b"", b";a", b";a=b"]), chance.choice([b"", b"A: b\r\n", b"A:\r\nB: 0\r\n"])
    body = b"".join(b"%x%s\r\n%s\r\n" % (len(data), extension, data) for data in datas) + b"00\r\n" + trailer + b"\r\n"
    chunks, callbacks, end, taken = ChunkedBody(), ParserCallbacks(), None, 0
    parser = httptools.HttpRequestParser(callbacks)
    parser.feed_data(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    while end is None:
        piece = (body + b"GET / HT")[taken : taken + chance.randint(1, 30)]
        end = chunks.find_end(piece, 0)
        parser.feed_data(piece[:end])
        taken += len(piece) if end is None else end
        assert callbacks.is_complete == (end is not None)

    assert taken == len(body)


def test_chunk_lines_are_limited() -> None:
    """A chunk extension and trailer fields are limited in length, so that they do not fill the memory."""
    with pytest.raises(HeadersTooLarge):
        ChunkedBody().find_end(b"1;" + b"x" * MAX_HEAD_BYTES, 0)
    with pytest.raises(HeadersTooLarge):
        ChunkedBody().find_end(b"0\r\n" + b"A: b\r\n" * MAX_HEAD_BYTES, 0)


GET = b"GET /health/live HTTP/1.1\r\n"
HOST = b"Host: x\r\n"
EMPTY_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"

# Name → bytes, and the status and code of the response.
REFUSED = {
    "no Host": (GET + b"\r\n", 400, "malformed_request"),
    "two Hosts": (GET + HOST + HOST + b"\r\n", 400, "malformed_request"),
    "two Hosts in HTTP/1.0": (GET.replace(b"1.1", b"1.0") + HOST + HOST + b"\r\n", 400, "malformed_request"),
    "Host with a path": (GET + b"Host: x/y\r\n\r\n", 400, "malformed_request"),
    "Host with a user": (GET + b"Host: a@x\r\n\r\n", 400, "malformed_request"),
    "list of Hosts": (GET + b"Host: x, y\r\n\r\n", 400, "malformed_request"),
    "Host with a wrong port": (GET + b"Host: x:http\r\n\r\n", 400, "malformed_request"),
    "Host with two ports": (GET + b"Host: x:1:2\r\n\r\n", 400, "malformed_request"),
    "Host with half an address": (GET + b"Host: [::1\r\n\r\n", 400, "malformed_request"),
    "Host of other letters": (GET + b"Host: \xc3\xa4\r\n\r\n", 400, "malformed_request"),
    "length and chunks": (POST + b"Content-Length: 5\r\n" + EMPTY_CHUNKS, 400, "malformed_request"),
    "chunks and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400, "malformed_request"),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, "malformed_request"),
    "list of lengths": (POST + b"Content-Length: 1, 2\r\n\r\nab", 400, "malformed_request"),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n", 400, "malformed_request"),
    "signed length": (POST + b"Content-Length: +1\r\n\r\na", 400, "malformed_request"),
    "no length": (POST + b"Content-Length:\r\n\r\n", 400, "malformed_request"),
    "hexadecimal length": (POST + b"Content-Length: 0x1\r\n\r\na", 400, "malformed_request"),
    "length of 23 digits": (POST + b"Content-Length: 99999999999999999999999\r\n\r\na", 400, "malformed_request"),
    "compressed": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "not_supported"),
    "compressed only": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501, "not_supported"),
    "compressed in two fields": (POST + b"Transfer-Encoding: gzip\r\n" + EMPTY_CHUNKS, 501, "not_supported"),
    "chunked twice": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400, "malformed_request"),
    "chunked first": (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400, "malformed_request"),
    "chunks in HTTP/1.0": (POST.replace(b"1.1", b"1.0") + EMPTY_CHUNKS, 400, "malformed_request"),
    "wrong chunk size": (POST + b"Transfer-Encoding: chunked\r\n\r\nz\r\n", 400, "malformed_request"),
    "negative chunk size": (POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400, "malformed_request"),
    "huge chunk size": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n", 400, "malformed_request"),
    "chunk longer than its size": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        400,
        "malformed_request",
    ),
    "line feeds in chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n", 400, "malformed_request"),
    "space before the colon": (GET + b"Host : x\r\n\r\n", 400, "malformed_request"),
    "no colon": (GET + HOST + b"X\r\n\r\n", 400, "malformed_request"),
    "no name": (GET + HOST + b": x\r\n\r\n", 400, "malformed_request"),
    "wrong name": (GET + HOST + b"X(): x\r\n\r\n", 400, "malformed_request"),
    "name of other letters": (GET + HOST + b"\xc3\xa4: x\r\n\r\n", 400, "malformed_request"),
    "folded line": (GET + HOST + b"X: a\r\n b\r\n\r\n", 400, "malformed_request"),
    "folded first line": (GET + b" Host: x\r\n\r\n", 400, "malformed_request"),
    "bare CR": (GET + HOST + b"X: a\rb\r\n\r\n", 400, "malformed_request"),
    "bare LF": (GET + b"Host: x\nX: a\r\n\r\n", 400, "malformed_request"),
    "NUL": (GET + HOST + b"X: a\0b\r\n\r\n", 400, "malformed_request"),
    "control character": (GET + HOST + b"X: a\x01b\r\n\r\n", 400, "malformed_request"),
    "DEL": (GET + HOST + b"X: a\x7fb\r\n\r\n", 400, "malformed_request"),
    "space in the target": (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "tabs": (b"GET\t/\tHTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "space before the method": (b" GET / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "space after the version": (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "other letters in the target": (b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "no target": (b"GET HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "relative target": (b"GET health/live HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "target of FTP": (b"GET ftp://x/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "target with a user": (b"GET http://a:b@x/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "authority as target": (b"GET x:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "asterisk of GET": (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "CONNECT": (b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", 501, "not_supported"),
    "CONNECT with a path": (b"CONNECT /classify HTTP/1.1\r\n" + HOST + b"\r\n", 501, "not_supported"),
    "CONNECT with content": (b"CONNECT / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nx", 501, "not_supported"),
    "unknown method": (b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", 501, "not_supported"),
    "small letters": (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 501, "not_supported"),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400, "malformed_request"),
    "HTTP/0.9 by name": (b"GET / HTTP/0.9\r\n\r\n", 505, "wrong_version"),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 505, "wrong_version"),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505, "wrong_version"),
    "HTTP/3.0": (b"GET / HTTP/3.0\r\n" + HOST + b"\r\n", 505, "wrong_version"),
    "connection preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "wrong_version"),
    "half a version": (b"GET / HTTP/1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "HTTP in small letters": (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400, "malformed_request"),
    "RTSP": (b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n", 400, "malformed_request"),
    "another protocol, that waits": (b"EHLO example.org\r\n", 400, "malformed_request"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed_request"),
    "long target": (b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431, "headers_too_large"),
    "long field": (GET + HOST + b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", 431, "headers_too_large"),
    "many fields": (GET + HOST + b"X: x\r\n" * 20_000, 431, "headers_too_large"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_invalid_requests_are_refused(name: str) -> None:
    """An invalid request gets a problem document with a request ID, and the connection is closed."""
    sent, status, code = REFUSED[name]
    exchanged = await exchange([sent])
    (answer,) = exchanged.answers
    problem = answer.json()

    assert (answer.status, problem["status"], problem["code"]) == (status, status, code)
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert exchanged.is_closed


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("TLS", "http:// instead of https://"),
        ("HTTP/3.0", "HTTP/3.0. Send HTTP/1.1."),
        ("two Hosts", "2 header fields named Host"),
        ("compressed", "Transfer-Encoding is chunked."),
    ],
)
async def test_a_refusal_gives_advice(name: str, advice: str) -> None:
    """The detail of a problem document names the fault or the remedy."""
    (answer,) = (await exchange([REFUSED[name][0]])).answers

    assert advice in answer.json()["detail"]


# Name → bytes, and the path, query and Host that the application gets.
ACCEPTED = {
    "HTTP/1.0 without Host": (b"GET /a HTTP/1.0\r\n\r\n", "/a", "", None),
    "HTTP/1.0 with Host": (b"GET /a HTTP/1.0\r\nHost: x\r\n\r\n", "/a", "", "x"),
    "empty Host": (b"GET /a HTTP/1.1\r\nHost:\r\n\r\n", "/a", "", ""),
    "Host with a port": (
        b"GET /a HTTP/1.1\r\nHost: my_host-1.example.org:8000\r\n\r\n",
        "/a",
        "",
        "my_host-1.example.org:8000",
    ),
    "Host of IPv6": (b"GET /a HTTP/1.1\r\nHost: [fe80::1%25eth0]:80\r\n\r\n", "/a", "", "[fe80::1%25eth0]:80"),
    "white space around a value": (b"GET /a HTTP/1.1\r\nHost:\t x \t\r\n\r\n", "/a", "", "x"),
    "URL": (b"GET http://h:80/a?b=/c HTTP/1.1\r\nHost: x\r\n\r\n", "/a", "b=/c", "h:80"),
    "URL without a path": (b"GET HTTP://h HTTP/1.1\r\nHost: x\r\n\r\n", "/", "", "h"),
    "URL with a query only": (b"GET https://h?b HTTP/1.1\r\nHost: x\r\n\r\n", "/", "b", "h"),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "*", "", "x"),
    "escaped": (b"GET /%61?%61 HTTP/1.1\r\nHost: x\r\n\r\n", "/a", "%61", "x"),
    "two slashes": (b"GET //b/a HTTP/1.1\r\nHost: x\r\n\r\n", "//b/a", "", "x"),
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_every_form_of_a_target_arrives(name: str) -> None:
    """The application gets path, query and host of each valid form of a request target."""
    sent, path, query, host = ACCEPTED[name]
    (answer,) = (await exchange([sent])).answers
    asked = answer.json()
    hosts = [field.removeprefix("host: ") for field in asked["headers"] if field.startswith("host: ")]

    assert (answer.status, asked["path"], asked["query"]) == (200, path, query)
    assert hosts == ([] if host is None else [host])


async def test_a_client_of_http_1_0_gets_no_interim_response() -> None:
    """A request of HTTP/1.0 with Expect gets no 100 Continue, which its client could take for the response."""
    head = POST.replace(b"1.1", b"1.0") + b"Expect: 100-continue\r\n"
    statuses = [answer.status for answer in (await exchange([head + SIZED[:-1], SIZED[-1:]])).answers]

    assert statuses == [200]


ASKED = b"Host: x\r\nX-Request-ID: mine-1\r\nOrigin: https://a.org\r\n\r\n"
REFUSALS = {
    400: [GET + b"Host: y\r\n" + ASKED],
    413: [POST + ASKED[len(HOST) : -2] + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 60_000]
    + [b"x" * 2000 + b"\r\nx\r\n1;" + b"x" * 60_000] * 60,
    431: [GET + ASKED[:-2] + b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n"],
    501: [b"BREW / HTTP/1.1\r\n" + ASKED],
    503: [GET + ASKED],
    505: [b"GET / HTTP/1.2\r\n" + ASKED],
}


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("origins", ["", "*", "https://a.org,https://b.org", "https://b.org"])
async def test_a_refusal_has_an_id_and_cors_fields(status: int, origins: str, caplog: pytest.LogCaptureFixture) -> None:
    """The response and the log have the ID of the request, and pages of allowed origins can read the response."""
    caplog.set_level(logging.INFO, "swin.server")
    few = 1 if status == 503 else 1000
    settings = Settings.model_validate({"cors_origins": origins, "max_connections": few, "max_body_mib": 1})
    answer = (await exchange(REFUSALS[status], settings, others=1)).answers[-1]
    allowed = {"": None, "*": "*", "https://b.org": None}.get(origins, "https://a.org")

    assert (answer.status, answer.headers["x-request-id"]) == (status, "mine-1")
    assert answer.headers.get("access-control-allow-origin") == allowed
    assert answer.headers.get("vary") == ("Origin" if "b.org" in origins else None)
    assert answer.headers.get("access-control-expose-headers") == (EXPOSED if allowed else None)
    assert [vars(record)["request_id"] for record in caplog.records] == ["mine-1"]


def test_the_same_fields_are_exposed_everywhere() -> None:
    """Refusals and other responses expose the same header fields to pages."""
    assert ", ".join(CORS["expose_headers"]) == EXPOSED


async def test_an_invalid_id_is_replaced() -> None:
    """A request ID with a space, which could forge fields of a log line, is replaced in a refusal."""
    (answer,) = (await exchange([GET + b"X-Request-ID: a b\r\n\r\n"])).answers

    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_a_refusal_of_head_has_no_content() -> None:
    """A refused HEAD request gets a Content-Length, but no content."""
    exchanged = await exchange([b"HEAD / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"])
    (answer,) = exchanged.answers

    assert (answer.status, answer.content) == (400, b"")
    assert int(answer.headers["content-length"]) > 0


async def test_a_large_content_is_not_copied_by_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces go to the parser without a copy, except those in which a request begins or ends."""
    given = list[bytes | memoryview]()
    monkeypatch.setattr("httptools.HttpRequestParser", lambda protocol: NotingParser(protocol, given))
    piece = b"\r\n\r\n" * 2**16
    head = POST + b"Content-Length: %d\r\n\r\n" % (4 * len(piece))
    (answer,) = (await exchange([head + piece, piece, piece, piece + LIVE[:5]])).answers

    assert len(json.loads(answer.content)["content"]) == 4 * len(piece)
    assert [type(each) for each in given] == [bytes, memoryview, bytes, bytes, memoryview]
    assert given[2] is piece
    assert given[3] is piece
