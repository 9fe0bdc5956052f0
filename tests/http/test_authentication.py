"""Tests of `app/http/middleware/authentication.py`: which requests need a key, and that no output has one."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.testclient import TestClient

from app.main import create_app
from app.observability.logging import JsonLine, TextLine
from app.settings import Settings
from tests.support.images import encode
from tests.support.served import Served, answer_of, run

OLD, NEW = "the-old-key-0123456789", "the-new-key-0123456789"
IMAGE = encode(Image.new("L", (8, 8)))
ROUTES = ["/model", "/docs", "/openapi.json", "/nowhere"]
OPEN = ["/health/live", "/health/ready", "/metrics", "/v2/health/live", "/v2/health/ready", "/ping"]


def service(**settings: bool) -> TestClient:
    """Return a client of a service with the demo bundle that asks for a key."""
    return TestClient(create_app(Settings.model_validate({"device": "cpu", "api_keys": f"{OLD},{NEW}", **settings})))


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with keys and otherwise default settings."""
    with service() as client:
        yield client


def ask(client: TestClient, *credentials: str | bytes) -> int:
    """Return the status of a request with these `Authorization` fields."""
    return client.post(
        "/classify", content=IMAGE, headers=[(b"authorization", as_bytes(each)) for each in credentials]
    ).status_code


def as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


@pytest.mark.parametrize(
    "credentials",
    [f"Bearer {OLD}", f"Bearer {NEW}", f"bearer {NEW}", f"BEARER   {NEW} "],
    ids=["old", "new", "lower case", "spaces"],
)
def test_each_key_is_accepted(client: TestClient, credentials: str) -> None:
    """Each of two keys is accepted, with the scheme in any case, so that keys can be rotated."""
    assert ask(client, credentials) == 200


@pytest.mark.parametrize(
    "credentials",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        [NEW],
        [f"Bearer {NEW[:-1]}"],
        [f"Bearer {NEW}x"],
        [f"Bearer {NEW.upper()}"],
        [f"Bearer {OLD},{NEW}"],
        [f"Bearer {OLD} {NEW}"],
        [f"Basic {NEW}"],
        [f"Bearer\t{NEW}"],
        ["Bearer ключ-ключ-ключ-ключ"],
        [b"Bearer \xff\xfe" + NEW.encode()],
        [f"Bearer {NEW}", f"Bearer {NEW}"],
        [f"Bearer {NEW}", "Basic dXNlcjpwYXNz"],
    ],
)
def test_other_credentials_are_refused(client: TestClient, credentials: list[str | bytes]) -> None:
    """No key, an unknown key, another scheme, or several `Authorization` fields get 401."""
    assert ask(client, *credentials) == 401


def test_a_refusal_has_the_challenge(client: TestClient) -> None:
    """A refusal is a problem document with WWW-Authenticate and the request ID, and is counted."""
    answer = client.post("/classify", content=IMAGE, headers={"x-request-id": "abc"})

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.headers["www-authenticate"], answer.headers["x-request-id"]) == ("Bearer", "abc")
    assert 'swin_rejected_total{reason="unauthorized"}' in client.get("/metrics").text


@pytest.mark.parametrize("path", ROUTES)
def test_all_other_paths_need_a_key(client: TestClient, path: str) -> None:
    """Without a key, the model, the documentation and unknown paths get 401."""
    assert client.get(path).status_code == 401


def test_a_key_is_valid_for_all_paths(client: TestClient) -> None:
    """With a key, each path has its usual status."""
    statuses = [client.get(path, headers={"authorization": f"Bearer {OLD}"}).status_code for path in ROUTES]

    assert statuses == [200, 200, 200, 404]


@pytest.mark.parametrize("health_open", [True, False])
@pytest.mark.parametrize("metrics_open", [True, False])
def test_health_and_metrics_are_open_by_settings(health_open: bool, metrics_open: bool) -> None:  # noqa: FBT001 (pytest passes them by name)
    """Each setting opens its own paths, and OpenAPI declares the same."""
    with service(health_open=health_open, metrics_open=metrics_open) as client:
        statuses = [client.get(path).status_code for path in OPEN]
        document = client.get("/openapi.json", headers={"authorization": f"Bearer {OLD}"}).json()

    health, metrics = 200 if health_open else 401, 200 if metrics_open else 401
    locked = {path for path in document["paths"] if "security" in next(iter(document["paths"][path].values()))}
    assert statuses == [health, health, metrics, health, health, health]
    assert document["paths"].keys() - locked == {
        path for path, status in zip(OPEN, statuses, strict=True) if status == 200
    }


def test_nothing_is_declared_without_keys() -> None:
    """Without keys, OpenAPI declares no security scheme."""
    document = create_app(Settings(device="cpu")).openapi()

    assert "securitySchemes" not in document["components"]


def test_a_refused_body_is_not_read() -> None:
    """A request without a key gets 401 before its body arrives."""
    served = Served(SWIN_API_KEYS=NEW)
    try:
        with served.connect() as connection:
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
            status, _, problem = answer_of(connection)
    finally:
        served.stop()

    assert (status, problem["code"]) == (401, "unauthorized")


def test_the_health_check_of_the_container_sends_a_key() -> None:
    """The health check succeeds although `/health/*` needs a key."""
    served = Served("--no-health-open", SWIN_API_KEYS=f"{OLD},{NEW}")
    host, port = served.url.removeprefix("http://").split(":")
    environment = {"SWIN_HOST": host, "SWIN_PORT": port, "SWIN_API_KEYS": f"{OLD},{NEW}"}
    command = [sys.executable, "-IS", "docker/healthcheck.py"]
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 (a script of the project)
    finally:
        served.stop()

    assert (ended.stdout, ended.returncode) == ('200 {"status":"ready"}\n', 0)


WRITTEN = "what-the-image-says"


def images() -> list[bytes]:
    """Return images with text in their metadata, some of them damaged, and a text."""
    text = PngInfo()
    text.add_text("Comment", WRITTEN)
    png = encode(Image.new("L", (300, 300)), pnginfo=text)
    tiff = encode(Image.new("L", (8, 8)), "TIFF", description=WRITTEN)
    return [png, tiff, png[:-20], tiff[:-20], WRITTEN.encode()]


def test_the_log_holds_no_key_and_no_image() -> None:
    """At log level `debug`, the log has no key, known or unknown, and no text from an image."""
    served = Served("--log-level", "debug", SWIN_API_KEYS=f"{OLD},{NEW}")
    unknown = "an-unknown-key-0123456789"
    try:
        for key in (OLD, NEW, unknown):
            for image in images():
                head = f"POST /classify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(image)}\r\n"
                served.say(f"{head}Authorization: Bearer {key}\r\n\r\n".encode() + image)
        served.say(f"GET /health/live HTTP/1.1\r\nAuthorization: Bearer {NEW}\r\n\0broken\r\n\r\n".encode())
    finally:
        served.stop()

    lines = [json.dumps(event) for event in served.log.queue]
    assert sum('"message": "request"' in line for line in lines) == 15
    assert [line for line in lines for secret in (OLD, NEW, unknown, WRITTEN) if secret in line] == []


def test_no_response_holds_a_key(client: TestClient) -> None:
    """No response contains a key, with or without one in the request."""
    opened = {"authorization": f"Bearer {OLD}"}
    answers = [client.get(path, headers=headers).text for path in ROUTES + OPEN for headers in (opened, {})]

    assert [answer for answer in answers if OLD in answer or NEW in answer] == []


@pytest.mark.parametrize("formatter", [TextLine(), JsonLine()])
def test_settings_do_not_show_keys(formatter: logging.Formatter) -> None:
    """The settings as repr, JSON and in a log line do not contain a key."""
    settings = Settings.model_validate({"api_keys": NEW})
    shown = [repr(settings), str(settings.model_dump()), settings.model_dump_json()]
    shown.append(formatter.format(logging.makeLogRecord({"msg": "%s", "args": (settings,), "settings": settings})))

    assert [text for text in shown if NEW in text] == []


@pytest.mark.parametrize(
    "keys", ["too-short", f"{NEW},too-short", f"{NEW},", ",", "a key with blanks in it", "ключ" * 8]
)
def test_an_invalid_key_is_refused_without_repeating_it(keys: str) -> None:
    """An invalid or empty key ends the start with exit code 2 and one sentence without the key."""
    ended = run(SWIN_API_KEYS=keys)

    assert ended.returncode == 2
    assert "a key has at least 16 characters" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert [key for key in keys.split(",") if key and key in ended.stderr] == []


def test_help_shows_no_key() -> None:
    """`--help` shows the default of `api_keys`, not the value of the variable."""
    assert NEW not in run("run", "--help", SWIN_API_KEYS=NEW).stdout
