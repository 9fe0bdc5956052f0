"""Tests of `app/http/middleware/context.py`, proxy headers and CORS: trace, client address and origins."""

import logging
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from app.observability import logging as logs
from app.settings import Settings
from tests.support.served import Served

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FORGED = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with the demo bundle that allows two origins."""
    settings = Settings.model_validate({"device": "cpu", "cors_origins": "https://a.org,https://b.org"})
    with TestClient(create_app(settings), client=("192.0.2.1", 50000)) as client:
        yield client


class RecordingHandler(logging.Handler):
    """A log handler that records the fields of each line, with those of its request."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = list[dict[str, object]]()

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(logs._fields(record))


@pytest.fixture
def handler() -> Iterator[RecordingHandler]:
    """A handler that records all log lines about requests."""
    handler, log = RecordingHandler(), logging.getLogger("swin.request")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield handler
    log.setLevel(logging.NOTSET)
    log.removeHandler(handler)


@pytest.mark.parametrize(
    "given",
    [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00", f"cc-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-01-more"],
)
def test_the_trace_of_the_client_is_in_every_line(client: TestClient, handler: RecordingHandler, given: str) -> None:
    """Each log line has the trace ID of a `traceparent` field of version 00 or a later one."""
    client.post("/classify", content=b"no image", headers={"traceparent": given})

    assert [each["trace_id"] for each in handler.seen] == [TRACE, TRACE]  # events "refused" and "request"


@pytest.mark.parametrize(
    "given",
    [
        [],
        [""],
        [TRACE],
        [f"00-{TRACE}-{PARENT}-01-more"],
        [f"00-{TRACE}-{PARENT}-01-"],
        [f"cc-{TRACE}-{PARENT}-01.more"],
        [f"ff-{TRACE}-{PARENT}-01"],
        [f"00-{'0' * 32}-{PARENT}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE.upper()}-{PARENT}-01"],
        [f"00-{TRACE[:-1]}-{PARENT}-01"],
        [f"00-{TRACE[:-1]}x-{PARENT}-01"],
        [f"0-{TRACE}-{PARENT}-01"],
        [f"00-{TRACE}-{PARENT}-1"],
        [f"00_{TRACE}_{PARENT}_01"],
        [f"00-{TRACE}-{PARENT}-01"] * 2,
    ],
)
def test_an_invalid_trace_is_ignored(client: TestClient, handler: RecordingHandler, given: list[str]) -> None:
    """An invalid or repeated `traceparent` field is ignored (W3C Trace Context), and the request succeeds."""
    answer = client.get("/health/live", headers=[("traceparent", value) for value in given])

    assert answer.status_code == 200
    assert ["trace_id" in each for each in handler.seen] == [False]


def test_a_trace_ends_with_its_request(client: TestClient, handler: RecordingHandler) -> None:
    """The next request on the same connection does not have the trace of the one before."""
    client.get("/health/live", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    client.get("/health/live")

    assert ["trace_id" in each for each in handler.seen] == [True, False]


def test_the_address_of_the_client_is_logged(client: TestClient, handler: RecordingHandler) -> None:
    """The log line of a request has the address of its client."""
    client.get("/health/live")

    assert [each["client"] for each in handler.seen] == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("proxies", "environment", "logged"),
    [
        ("", {}, "127.0.0.1"),
        ("", {"FORWARDED_ALLOW_IPS": "*"}, "127.0.0.1"),
        ("10.0.0.0/8", {}, "127.0.0.1"),
        ("127.0.0.0/8", {}, "203.0.113.7"),
    ],
    ids=["no proxy", "uvicorn's own variable", "another proxy", "this proxy"],
)
def test_only_trusted_proxies_set_the_client_address(proxies: str, environment: dict[str, str], logged: str) -> None:
    """X-Forwarded-For has no effect unless it comes from a proxy in `trusted_proxies`."""
    served = Served("--trusted-proxies", proxies, **environment)
    try:
        served.say(FORGED)
        event = served.wait_for("request")
    finally:
        served.stop()

    assert event["client"] == logged


def test_only_the_address_from_the_proxy_is_trusted(served_behind_proxy: Served) -> None:
    """The last address in X-Forwarded-For counts, because the client can forge the others."""
    served_behind_proxy.say(FORGED.replace(b"203.0.113.7", b"198.51.100.1, 203.0.113.7"))

    assert served_behind_proxy.wait_for("request")["client"] == "203.0.113.7"


@pytest.fixture
def served_behind_proxy() -> Iterator[Served]:
    """A service that trusts a proxy on this machine."""
    served = Served("--trusted-proxies", "127.0.0.1")
    yield served
    served.stop()


def test_pages_of_allowed_origins_can_read_responses(client: TestClient) -> None:
    """A response to an allowed origin has the CORS fields with the exposed headers."""
    headers = client.post("/classify", content=b"no image", headers={"origin": "https://b.org"}).headers

    assert headers["access-control-allow-origin"] == "https://b.org"
    assert set(headers["access-control-expose-headers"].split(", ")) == {
        "X-Request-ID",
        "Server-Timing",
        "Retry-After",
        "X-Class-Index",
        "X-Image-Region",
        "Inference-Header-Content-Length",
    }


def test_pages_of_other_origins_cannot(client: TestClient) -> None:
    """A response to another origin has no Access-Control-Allow-Origin field."""
    headers = client.get("/health/live", headers={"origin": "https://c.org"}).headers

    assert "access-control-allow-origin" not in headers


PREFLIGHT = {
    "origin": "https://a.org",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-request-timeout,traceparent",
}


@pytest.mark.parametrize("origins", ["https://a.org", "*"])
def test_a_preflight_request_needs_no_key(origins: str) -> None:
    """A preflight request succeeds without a key, and the page can read a refusal."""
    settings = {"device": "cpu", "cors_origins": origins, "api_keys": "0123456789abcdef"}
    with TestClient(create_app(Settings.model_validate(settings))) as client:
        preflight = client.options("/classify", headers=PREFLIGHT)
        refused = client.post("/classify", headers={"origin": "https://a.org"})

    assert (preflight.status_code, refused.status_code) == (200, 401)
    assert {answer.headers["access-control-allow-origin"] for answer in (preflight, refused)} == {origins}
    assert "x-request-id" in preflight.headers


def test_without_the_setting_there_is_no_cors() -> None:
    """Without `cors_origins`, responses have no CORS fields, and a preflight request gets 405."""
    with TestClient(create_app(Settings(device="cpu"))) as client:
        answers = [client.options("/classify", headers=PREFLIGHT), client.get("/model", headers=PREFLIGHT)]

    assert [answer.status_code for answer in answers] == [405, 200]
    assert [name for answer in answers for name in answer.headers if name.startswith("access-control")] == []
