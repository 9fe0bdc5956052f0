"""`app/http/middleware/context.py` and what stands in front of it: whose request it is, and of which trace."""

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
    """The demonstration bundle, served; two web sites may ask."""
    settings = Settings.model_validate({"device": "cpu", "cors_origins": "https://a.org,https://b.org"})
    with TestClient(create_app(settings), client=("192.0.2.1", 50000)) as client:
        yield client


class Fields(logging.Handler):
    """What belongs to the request of each line, at the moment it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = list[dict[str, object]]()

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        self.seen.append(logs._fields(record))


@pytest.fixture
def fields() -> Iterator[Fields]:
    """Of every line about requests."""
    handler, log = Fields(), logging.getLogger("swin.request")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield handler
    log.setLevel(logging.NOTSET)
    log.removeHandler(handler)


@pytest.mark.parametrize(
    "given",
    [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00", f"cc-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-01-more"],
)
def test_the_trace_of_the_caller_is_in_every_line(client: TestClient, fields: Fields, given: str) -> None:
    """Version 00 and later ones, which may say more."""
    client.post("/classify", content=b"no image", headers={"traceparent": given})

    assert [each["trace_id"] for each in fields.seen] == [TRACE, TRACE]  # refused, and the request itself


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
def test_a_trace_that_is_not_valid_is_ignored(client: TestClient, fields: Fields, given: list[str]) -> None:
    """As W3C Trace Context has it; the request itself is answered."""
    answer = client.get("/health/live", headers=[("traceparent", value) for value in given])

    assert answer.status_code == 200
    assert ["trace_id" in each for each in fields.seen] == [False]


def test_a_trace_ends_with_its_request(client: TestClient, fields: Fields) -> None:
    """The next request on the same connection has its own."""
    client.get("/health/live", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    client.get("/health/live")

    assert ["trace_id" in each for each in fields.seen] == [True, False]


def test_the_caller_s_address_is_logged(client: TestClient, fields: Fields) -> None:
    """Who connected."""
    client.get("/health/live")

    assert [each["client"] for each in fields.seen] == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("proxies", "environment", "logged"),
    [
        ("", {}, "127.0.0.1"),
        ("", {"FORWARDED_ALLOW_IPS": "*"}, "127.0.0.1"),
        ("10.0.0.0/8", {}, "127.0.0.1"),
        ("127.0.0.0/8", {}, "203.0.113.7"),
    ],
    ids=["nobody", "uvicorn's own variable", "another proxy", "this proxy"],
)
def test_only_trusted_proxies_say_who_asks(proxies: str, environment: dict[str, str], logged: str) -> None:
    """A forged X-Forwarded-For changes nothing unless it comes from where the setting says."""
    served = Served("--trusted-proxies", proxies, **environment)
    try:
        served.say(FORGED)
        event = served.wait_for("request")
    finally:
        served.stop()

    assert event["client"] == logged


def test_a_proxy_is_believed_the_last_step_only(served_behind_proxy: Served) -> None:
    """What a caller wrote into the header before the proxy added its own line is not believed."""
    served_behind_proxy.say(FORGED.replace(b"203.0.113.7", b"198.51.100.1, 203.0.113.7"))

    assert served_behind_proxy.wait_for("request")["client"] == "203.0.113.7"


@pytest.fixture
def served_behind_proxy() -> Iterator[Served]:
    """A service that trusts a proxy on this machine."""
    served = Served("--trusted-proxies", "127.0.0.1")
    yield served
    served.stop()


def test_pages_of_listed_sites_may_ask(client: TestClient) -> None:
    """They are let in, and see the headers that say something about the answer."""
    headers = client.post("/classify", content=b"no image", headers={"origin": "https://b.org"}).headers

    assert headers["access-control-allow-origin"] == "https://b.org"
    assert set(headers["access-control-expose-headers"].split(", ")) == {
        "X-Request-ID",
        "Server-Timing",
        "Retry-After",
        "X-Class-Index",
    }


def test_pages_of_other_sites_may_not(client: TestClient) -> None:
    """Their browsers keep the answer to themselves."""
    headers = client.get("/health/live", headers={"origin": "https://c.org"}).headers

    assert "access-control-allow-origin" not in headers


PREFLIGHT = {
    "origin": "https://a.org",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-request-timeout,traceparent",
}


@pytest.mark.parametrize("origins", ["https://a.org", "*"])
def test_a_browser_asks_without_a_key_what_a_page_may_do(origins: str) -> None:
    """The question before the request carries no key; the refusal after it can be read by the page."""
    settings = {"device": "cpu", "cors_origins": origins, "api_keys": "0123456789abcdef"}
    with TestClient(create_app(Settings.model_validate(settings))) as client:
        preflight = client.options("/classify", headers=PREFLIGHT)
        refused = client.post("/classify", headers={"origin": "https://a.org"})

    assert (preflight.status_code, refused.status_code) == (200, 401)
    assert {answer.headers["access-control-allow-origin"] for answer in (preflight, refused)} == {origins}
    assert "x-request-id" in preflight.headers


def test_without_the_setting_nothing_is_said_of_origins() -> None:
    """No header of CORS at all, and no answer to a preflight."""
    with TestClient(create_app(Settings(device="cpu"))) as client:
        answers = [client.options("/classify", headers=PREFLIGHT), client.get("/model", headers=PREFLIGHT)]

    assert [answer.status_code for answer in answers] == [405, 200]
    assert [name for answer in answers for name in answer.headers if name.startswith("access-control")] == []
