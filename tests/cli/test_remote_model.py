"""A model in a running service: what is sent, and what each answer means."""

from collections.abc import Callable, Iterator

import pytest

from app.bundle.load import Bundle
from app.cli.remote_model import RemoteModel, Unreachable
from app.errors import BadRequest, RetryableError, ServiceError, StartError
from app.local_model import open_model
from app.service_address import KEY_VARIABLE
from tests.support.fake_server import (
    FakeServer,
    Script,
    announce,
    break_off,
    drip_content,
    drip_headers,
    flood,
    hang_up,
    reply,
    silence,
)
from tests.support.served import Served

SEVEN = {"predictions": [{"index": 7, "label": "seven", "score": 0.9}]}
IMAGE = b"an image"
KEY = "a-key-of-a-service"

Serve = Callable[..., FakeServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A function that starts a server with scripted answers. The servers stop after the test."""
    servers = list[FakeServer]()

    def start(*scripts: Script) -> FakeServer:
        servers.append(FakeServer(*scripts))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers of these tests are on this machine, and no proxy reaches them."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def problem(status: int, code: str, detail: str) -> Script:
    return reply(status, {"code": code, "detail": detail})


def test_a_service_answers_as_a_model_in_this_process(served: Served, demo: Bundle) -> None:
    """Classes and pictures are those of `LocalModel`."""
    image = (demo.folder / "golden/seven.png").read_bytes()
    asked = RemoteModel(served.url)
    with open_model(device="cpu", threads=1) as model:
        here, there = model.classify(image, 3), asked.classify(image, 3)

        assert [(one.index, one.label) for one in there.predictions] == [
            (one.index, one.label) for one in here.predictions
        ]
        assert [one.score for one in there.predictions] == pytest.approx([one.score for one in here.predictions])
        assert asked.draw_evidence(image).png == model.draw_evidence(image).png


def test_the_image_is_the_content(serve: Serve) -> None:
    """The request has the bytes of the image, the number of classes, and the key in the header."""
    server = serve(reply(200, SEVEN))

    assert RemoteModel(f"{server.url}/digits/", KEY).classify(IMAGE, 3).predictions[0].label == "seven"
    (request,) = server.requests
    assert (request.method, request.path, request.content) == ("POST", "/digits/classify?top_k=3", IMAGE)
    assert request.headers["authorization"] == f"Bearer {KEY}"


def test_without_a_number_the_service_decides(serve: Serve) -> None:
    """Without a number of classes and a key, the request has neither."""
    server = serve(reply(200, SEVEN))
    RemoteModel(server.url.removeprefix("http://")).classify(IMAGE)

    (request,) = server.requests
    assert request.path == "/classify"
    assert "authorization" not in request.headers


def test_evidence_is_a_picture(serve: Serve) -> None:
    """The content is the picture, and a header field names the class."""
    server = serve(reply(200, b"a picture", X_Class_Index="7"))

    drawn = RemoteModel(server.url).draw_evidence(IMAGE)
    assert (drawn.index, drawn.png) == (7, b"a picture")
    assert server.requests[0].path == "/classify?evidence=true&format=png"


@pytest.mark.parametrize("status", [413, 415, 422, 429, 500, 503, 504])
def test_a_refused_image_has_the_sentence_of_the_service(serve: Serve, status: int) -> None:
    """A problem document is about this image. The others can still be classified."""
    server = serve(problem(status, "a_code", "The image is bad."))

    with pytest.raises(ServiceError, match=r"^The image is bad\.$"):
        RemoteModel(server.url).classify(IMAGE)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(413, BadRequest), (422, BadRequest), (429, RetryableError), (503, RetryableError), (500, ServiceError)],
)
def test_a_refusal_tells_whose_fault_it_is(serve: Serve, status: int, kind: type[ServiceError]) -> None:
    """The image is bad, or the service is overloaded, or it failed."""
    server = serve(problem(status, "a_code", "A sentence."))

    with pytest.raises(ServiceError) as caught:
        RemoteModel(server.url).classify(IMAGE)
    assert type(caught.value) is kind


def test_a_service_describes_itself(served: Served) -> None:
    """Name, version, devices and times of batches are those of `GET /model`."""
    found = RemoteModel(served.url).describe()

    assert found is not None
    assert (found.name, found.engines[0].device) == ("digits", "cpu")
    assert [bucket.batch for bucket in found.engines[0].buckets][:2] == [1, 2]


@pytest.mark.parametrize("script", [hang_up, reply(404, b"<html>"), reply(200, b"<html>"), reply(200, {"name": 1})])
def test_a_service_without_a_description_has_none(serve: Serve, script: Script) -> None:
    """A service without `GET /model` is no error."""
    assert RemoteModel(serve(script).url).describe() is None


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_cannot_hold_are_no_description(serve: Serve, number: str) -> None:
    """Python reads them, and JSON cannot be written with them."""
    engine = f'{{"device": "cpu", "buckets": [{{"batch": 1, "milliseconds": {number}}}]}}'
    server = serve(reply(200, f'{{"version": "1", "name": "digits", "engines": [{engine}]}}'.encode()))

    assert RemoteModel(server.url).describe() is None


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_score_that_is_no_number_is_of_another_server(serve: Serve, number: str) -> None:
    """The line of JSON of an image could not hold it."""
    server = serve(reply(200, f'{{"predictions": [{{"index": 7, "label": "seven", "score": {number}}}]}}'.encode()))

    with pytest.raises(StartError, match="does not answer as swin-serve does"):
        RemoteModel(server.url).classify(IMAGE)


def test_proxies_are_used_unless_they_are_excluded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load goes to the service itself, so its first question does, too."""
    proxy, server = serve(reply(200, SEVEN)), serve(reply(200, SEVEN))
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", proxy.url)

    RemoteModel(server.url).classify(IMAGE)
    assert (len(proxy.requests), len(server.requests)) == (1, 0)
    RemoteModel(server.url, has_proxies=False).classify(IMAGE)
    assert (len(proxy.requests), len(server.requests)) == (1, 1)


def test_messages_name_the_argument(serve: Serve) -> None:
    """A command can have another name for the address than `--url`."""
    with pytest.raises(StartError, match=r"give the address of swin-serve as URL$"):
        RemoteModel(serve(reply(404, b"<html>")).url, name="URL").classify(IMAGE)


def test_a_service_that_does_not_answer_in_time_is_said(serve: Serve) -> None:
    """The sentence has the timeout."""
    with pytest.raises(Unreachable, match=r"no answer within 0\.1 s$"):
        RemoteModel(serve(silence).url, timeout_s=0.1).classify(IMAGE)


@pytest.mark.parametrize("script", [drip_headers, drip_content])
def test_the_whole_answer_has_one_timeout(serve: Serve, script: Script) -> None:
    """An answer that comes byte by byte ends there, too: each read takes less time than the timeout."""
    with pytest.raises(Unreachable, match=r"no answer within 0\.5 s$"):
        RemoteModel(serve(script).url, timeout_s=0.5).classify(IMAGE)


@pytest.mark.parametrize("script", [announce(2**40), flood])
def test_an_endless_answer_is_not_kept(serve: Serve, script: Script) -> None:
    """More than the maximum is refused, whether or not the length is announced."""
    with pytest.raises(StartError, match=r"does not answer as swin-serve does: an answer has more than 64 MiB$"):
        RemoteModel(serve(script).url).classify(IMAGE)


@pytest.mark.parametrize(("key", "reason"), [(None, "needs an API key"), (KEY, "refuses the API key")])
def test_a_missing_key_is_a_wrong_request(serve: Serve, key: str | None, reason: str) -> None:
    """The sentence names the variable, and not the key."""
    server = serve(problem(401, "unauthorized", "Send one API key."))

    with pytest.raises(StartError, match=f"the service {reason}; set {KEY_VARIABLE}$"):
        RemoteModel(server.url, key).classify(IMAGE)


@pytest.mark.parametrize(
    "script",
    [
        reply(404, b"<html>"),
        reply(200, b"<html>"),
        reply(200, {"predictions": "none"}),
        problem(404, "not_found", "There is no /x/classify."),
        problem(405, "method_not_allowed", "GET only."),
    ],
)
def test_another_server_is_a_wrong_request(serve: Serve, script: Script) -> None:
    """An answer that is not swin-serve's says that the address is wrong."""
    server = serve(script)

    with pytest.raises(StartError, match=server.url):
        RemoteModel(server.url).classify(IMAGE)


def test_a_picture_without_a_class_is_of_another_server(serve: Serve) -> None:
    """A success without the header field that names the class is not swin-serve's."""
    with pytest.raises(StartError, match="does not answer as swin-serve does"):
        RemoteModel(serve(reply(200, b"a picture")).url).draw_evidence(IMAGE)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_get_the_key(serve: Serve, status: int) -> None:
    """No request goes to the other address."""
    other = serve(reply(200, SEVEN))
    server = serve(reply(status, Location=f"{other.url}/classify"))

    with pytest.raises(StartError, match=f"answers {status}"):
        RemoteModel(server.url, KEY).classify(IMAGE)
    assert other.requests == []


@pytest.mark.parametrize("script", [hang_up, break_off, reply(502, b"<html>")])
def test_no_answer_is_said(serve: Serve, script: Script) -> None:
    """A lost connection, and the answer of a proxy without a service, are about all images."""
    server = serve(script)

    with pytest.raises(Unreachable, match=f"^{server.url} gives no answer: "):
        RemoteModel(server.url).classify(IMAGE)


def test_a_closed_port_is_said(serve: Serve) -> None:
    """The reason is that of the system."""
    server = serve(reply())
    server.stop()

    with pytest.raises(Unreachable, match=r"gives no answer: Connection refused$"):
        RemoteModel(server.url).classify(IMAGE)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "ftp://host",
        "http://host:port",
        "http://host:0",
        "http://host/?a=b",
        "http://a b",
        "http://[::1",
        "http://a..b",
        f"http://{'a' * 70}",
    ],
)
def test_a_wrong_address_is_a_wrong_request(url: str) -> None:
    """The sentence has the address and an example."""
    with pytest.raises(StartError, match=r"not the address of a service; give one as http://HOST:PORT$"):
        RemoteModel(url)


def test_a_password_in_the_address_is_not_shown() -> None:
    """A user name in an address is refused without repeating the address."""
    with pytest.raises(StartError) as refused:
        RemoteModel("https://me:secret@example.org")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("key", ["", "two words", "a line\n", "é"])
def test_a_key_that_cannot_be_sent_is_not_shown(key: str) -> None:
    """A header field cannot hold it. The sentence names the variable only."""
    with pytest.raises(StartError, match=f"^the API key in {KEY_VARIABLE} is not valid: a key has no space"):
        RemoteModel("http://localhost", key)
