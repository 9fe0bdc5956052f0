"""What HTTP clients expect of any server: HEAD, PUT, slashes at the end, encodings, prefixes; and a page for people."""

import gzip
import json
import re
from collections.abc import Iterator, MutableMapping
from html.parser import HTMLParser
from typing import Any

import anyio
import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from app.bundle.load import Bundle
from app.http.routes.docs import ASSETS, ICON, SCRIPT, STYLE
from app.main import create_app
from app.settings import Settings
from tests.http.test_service import digit, value

KEY = "a-key-of-the-tests-0123456789"
CREDENTIALS = {"authorization": f"Bearer {KEY}"}
EVIL = {"host": "evil.example"}
READ = ["/health/live", "/health/ready", "/metrics", "/model", "/docs", "/openapi.json"]


def service(**settings: Any) -> TestClient:
    """The demonstration bundle, served."""
    app = create_app(Settings.model_validate({"device": "cpu", "threads": 1, **settings}))
    return TestClient(app, follow_redirects=False)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A service as it is by default."""
    with service() as client:
        yield client


@pytest.fixture(scope="module")
def prefixed() -> Iterator[TestClient]:
    """A service behind a proxy that has a prefix for it, and with keys."""
    with service(root_path="/ai/digits", api_keys=KEY) as client:
        yield client


@pytest.mark.parametrize("path", READ)
@pytest.mark.parametrize("slash", ["", "/"])
def test_head_is_get_without_a_body(client: TestClient, path: str, slash: str) -> None:
    """As `wget --spider` and uptime monitors ask: the same status and the same headers."""
    get, head = client.get(path + slash), client.head(path + slash)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert "content-length" in head.headers


def test_head_needs_a_key_where_get_does() -> None:
    """And is open where that is."""
    with service(api_keys=KEY) as client:
        statuses = [client.head(path).status_code for path in READ]
        assert statuses == [client.get(path).status_code for path in READ]
        assert [client.head(path, headers=CREDENTIALS).status_code for path in READ] == [200] * len(READ)


def test_head_is_counted_with_its_route(client: TestClient) -> None:
    """Under the route's name, with a slash at its end or without."""
    before = value(client, "swin_requests_total", route="/health/ready", code="200")
    client.head("/health/ready")
    client.head("/health/ready/")
    client.get("/health/ready/")

    assert value(client, "swin_requests_total", route="/health/ready", code="200") == before + 3
    assert value(client, "swin_requests_total", route="/health/ready/", code="200") == 0


@pytest.mark.parametrize("path", ["/classify", "/classify/"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_put_is_post(client: TestClient, demo: Bundle, path: str, method: str) -> None:
    """`curl -T photo.jpg`; and a slash at the end changes nothing."""
    image = digit(demo, "seven")
    answer = client.request(method, path, content=image, headers=EVIL)

    assert answer.json() == client.post("/classify", content=image).json()
    assert "location" not in answer.headers


def test_a_batch_takes_a_slash_too(client: TestClient, demo: Bundle) -> None:
    """Forms go to both spellings."""
    answer = client.post("/classify/batch/", files={"files": digit(demo, "two")})

    assert answer.json()["results"][0]["predictions"][0]["label"] == "two"


@pytest.mark.parametrize("path", ["/classify//", "/health/", "/nowhere/", "/docs/oauth2-redirect", "/classify/x/", "/"])
def test_no_path_is_answered_by_a_redirect(client: TestClient, path: str) -> None:
    """Least of all to an address made of the caller's `Host`."""
    answer = client.get(path, headers=EVIL)

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "evil.example" not in str(answer.headers) + answer.text
    assert "/classify, /classify/batch" in answer.json()["detail"]


def test_an_image_put_to_its_own_name_is_told_where_it_goes(client: TestClient, demo: Bundle) -> None:
    """`curl -T photo.jpg http://host/classify/` adds the name of the file."""
    answer = client.put("/classify/photo.jpg", content=digit(demo, "two"))

    assert answer.status_code == 404
    assert "send the image to /classify. curl -T adds the name of the file" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/classify", "POST, PUT"),
        ("OPTIONS", "/classify", "POST, PUT"),
        ("HEAD", "/classify/", "POST, PUT"),
        ("PUT", "/classify/batch", "POST"),
        ("POST", "/health/ready", "GET, HEAD"),
        ("PUT", "/model", "GET, HEAD"),
        ("DELETE", "/docs", "GET, HEAD"),
    ],
)
def test_other_methods_are_told_which_there_are(client: TestClient, method: str, path: str, allowed: str) -> None:
    """RFC 9110, 15.5.6: in `Allow`, all of the path's."""
    answer = client.request(method, path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert (answer.json()["code"], allowed in answer.json()["detail"]) == ("method_not_allowed", True)


def test_the_server_as_a_whole_is_asked_for_its_methods(client: TestClient) -> None:
    """RFC 9110, 9.3.7: `OPTIONS *` is about no resource, so it is answered like a ping, with the methods there are."""
    messages = list[dict[str, Any]]()
    scope = {"type": "http", "method": "OPTIONS", "path": "*", "raw_path": b"*", "query_string": b"", "headers": []}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        messages.append(dict(message))

    anyio.run(client.app, scope, receive, send)

    assert messages[0]["status"] == 204
    assert (b"allow", b"GET, HEAD, OPTIONS, POST, PUT") in messages[0]["headers"]


def test_put_is_refused_before_its_body_is_read(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Admission is asked for every method that brings an image."""
    asked = list[int]()
    monkeypatch.setattr(client.app.state.service.classifier, "admit", asked.append)  # type: ignore[attr-defined]  # (FastAPI's)
    client.put("/classify", content=b"x" * 7)
    client.post("/classify", content=b"x" * 8)

    assert asked == [7, 8]


def test_pages_may_put() -> None:
    """A preflight for PUT is answered as one for POST."""
    asked = {"origin": "https://a.org", "access-control-request-method": "PUT"}
    with service(cors_origins="https://a.org") as client:
        answer = client.options("/classify", headers=asked)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, POST, PUT"


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate", "GZIP", "gzip, br", "x-unknown", "aws-chunked"])
@pytest.mark.parametrize("path", ["/classify", "/classify/batch"])
def test_an_encoded_body_is_refused_by_name(client: TestClient, demo: Bundle, coding: str, path: str) -> None:
    """RFC 9110, 15.5.16: with what would have been accepted."""
    headers = {"content-encoding": coding, "content-type": "multipart/form-data; boundary=B"}
    answer = client.post(path, content=gzip.compress(digit(demo, "two")), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_encoding")
    assert answer.headers["accept-encoding"] == "identity"
    assert f"Content-Encoding: {coding}" in answer.json()["detail"]


def test_one_of_several_encodings_is_enough(client: TestClient) -> None:
    """Headers of one name are one list."""
    headers = [("content-encoding", "identity"), ("content-encoding", "gzip")]

    assert client.post("/classify", content=b"x", headers=headers).status_code == 415


@pytest.mark.parametrize("coding", ["identity", "Identity", "", "identity, identity", "identity,"])
def test_identity_is_no_encoding(client: TestClient, demo: Bundle, coding: str) -> None:
    """It says that there is none."""
    answer = client.post("/classify", content=digit(demo, "two"), headers={"content-encoding": coding})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/x-www-form-urlencoded", "text/plain; charset=utf-8", "multipart/related", "x"],
)
def test_the_content_decides_and_the_content_type_explains(client: TestClient, demo: Bundle, content_type: str) -> None:
    """An image is one under any content type; of anything else it is said what came and what to send."""
    headers = {"content-type": content_type}
    image = client.post("/classify", content=digit(demo, "two"), headers=headers)
    none = client.post("/classify", content=b'{"image": "iVBOR"}', headers=headers)

    assert (image.status_code, none.status_code) == (200, 415)
    assert f"Content-Type: {content_type.partition(';')[0]}. Send the bytes of the image" in none.json()["detail"]


@pytest.mark.parametrize("content_type", [None, "image/png", "application/octet-stream"])
def test_a_content_type_of_images_explains_nothing(client: TestClient, content_type: str | None) -> None:
    """What is wrong is the content."""
    headers = {} if content_type is None else {"content-type": content_type}

    assert "Content-Type" not in client.post("/classify", content=b"no image", headers=headers).json()["detail"]


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/classify", {"content": b"no image"}),
        ("/classify", {"content": b""}),
        ("/classify?top_k=0", {"content": b"x"}),
        ("/classify", {"files": {"x": b"x"}}),
        ("/classify", {"content": b"x", "headers": {"content-encoding": "gzip"}}),
        ("/nowhere", {}),
        ("/model", {}),
    ],
)
def test_each_problem_has_its_detail_as_error_too(client: TestClient, path: str, options: dict[str, Any]) -> None:
    """Clients of other servers look there."""
    answer = client.post(path, **options).json()

    assert answer["error"] == answer["detail"] != ""


def test_the_problems_of_a_batch_have_it_too(client: TestClient) -> None:
    """Of each image."""
    (result,) = client.post("/classify/batch", files={"files": b"no image"}).json()["results"]

    assert result["error"]["error"] == result["error"]["detail"]


def test_openapi_knows_it(client: TestClient) -> None:
    """The member, PUT, and no HEAD beside each GET; each operation has a name of its own."""
    document = client.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    methods = {path: set(operations) for path, operations in document["paths"].items()}

    assert "error" in document["components"]["schemas"]["Problem"]["required"]
    assert methods["/classify"] == {"post", "put"}
    assert methods["/health/ready"] == {"get"}
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert "servers" not in document


class Links(HTMLParser):
    """What a page loads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found = list[str]()
        self.feed(page)

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag refers to."""
        self.found += [value or "" for name, value in attrs if name in {"href", "src", "srcset", "action", "data"}]


ANY_HOST = re.compile(r"""(?:https?:)?//[\w.-]+\.\w+""")
DRAWINGS = "http://www.w3.org/"  # names of SVG, which is inline


def test_the_page_names_no_other_host(client: TestClient) -> None:
    """It and its styles are of this service, and the browser is told to load nothing else."""
    page = client.get("/docs")
    links = Links(page.text).found

    assert links == [f"/docs/{STYLE}", f"/docs/{ICON}", f"/docs/{SCRIPT}"]
    assert ANY_HOST.findall(page.text) == []
    assert set(ANY_HOST.findall(client.get(links[0]).text)) <= {DRAWINGS[:-1]}
    assert '"validatorUrl": null' in page.text
    assert "http" not in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


def test_all_that_the_page_loads_is_there(client: TestClient) -> None:
    """Swagger UI's files, as the package that brings them has them."""
    kinds = {SCRIPT: "text/javascript", STYLE: "text/css", ICON: "image/png"}
    for name, kind in kinds.items():
        answer = client.get(f"/docs/{name}")
        assert answer.content == (ASSETS / name).read_bytes()
        assert answer.headers["content-type"].partition(";")[0] in {kind, "application/javascript"}


@pytest.mark.parametrize("prefix", ["", "/ai/digits"], ids=["stripped", "kept"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_prefix_may_be_stripped_or_not(prefixed: TestClient, demo: Bundle, prefix: str, slash: str) -> None:
    """Routes, open paths, and all that the page loads: links have the prefix, as browsers need it."""
    page = prefixed.get(f"{prefix}/docs{slash}", headers=CREDENTIALS).text
    document = prefixed.get(f"{prefix}/openapi.json{slash}", headers=CREDENTIALS).json()
    answer = prefixed.post(f"{prefix}/classify{slash}", content=digit(demo, "two"), headers=CREDENTIALS)

    assert Links(page).found == [f"/ai/digits/docs/{name}" for name in (STYLE, ICON, SCRIPT)]
    assert "url: '/ai/digits/openapi.json'" in page
    assert document["servers"] == [{"url": "/ai/digits"}]
    assert answer.json()["predictions"][0]["label"] == "two"
    assert [prefixed.get(f"{prefix}{path}{slash}").status_code for path in READ] == [200, 200, 200, 401, 401, 401]
    assert prefixed.get(f"/ai/digits/docs/{STYLE}", headers=CREDENTIALS).status_code == 200


@pytest.mark.parametrize("path", ["/ai/digits", "/ai/digitsdocs", "/ai/docs", "/ai/digits/ai/digits/docs"])
def test_a_prefix_is_taken_off_once_and_whole(prefixed: TestClient, path: str) -> None:
    """Nothing else is a path of the service."""
    assert prefixed.get(path, headers=CREDENTIALS).status_code == 404


def test_a_caller_cannot_say_the_prefix(client: TestClient) -> None:
    """X-Forwarded-Prefix comes from anybody."""
    headers = {"x-forwarded-prefix": "/evil", "x-forwarded-host": "evil.example", **EVIL}

    assert "evil" not in client.get("/docs", headers=headers).text
    assert "servers" not in client.get("/openapi.json", headers=headers).json()


def test_the_prefix_of_the_server_counts(demo: Bundle) -> None:
    """Who embeds the application may tell uvicorn instead."""
    app = create_app(Settings(device="cpu", threads=1))
    with TestClient(app, root_path="/mine") as client:
        page = client.get("/mine/docs").text
        answer = client.post("/mine/classify", content=digit(demo, "two"))

    assert "url: '/mine/openapi.json'" in page
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "prefix", ["digits", "/", "/digits/", "//x", "/a b", "/a'b", '/"', "/<x>", "/..", "/a/../b", "/ü"]
)
def test_a_prefix_is_a_path(prefix: str) -> None:
    """It is written into a page; and with a slash at its end, no link would be right."""
    with pytest.raises(ValidationError, match="a path begins with / and does not end with it"):
        Settings(root_path=prefix)


def test_the_log_has_the_path_that_was_asked_for(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """Also where another is served for it."""
    with caplog.at_level("INFO", "swin.request"):
        client.get("/health/live/")

    assert [getattr(record, "path", None) for record in caplog.records] == ["/health/live/"]


def test_a_problem_is_json_in_each_of_its_members(client: TestClient) -> None:
    """A path from outside is repeated, but in a string, and not without end."""
    answer = client.get(f"/{'x%22%0a' * 300}")

    assert json.loads(answer.content)["status"] == 404
    assert len(answer.content) < 2000


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("foo=1", "There is no option 'foo'; the options are top_k, evidence, format, class."),
        ("top_k=abc", "top_k 'abc' is not a whole number; give a whole number from 1."),
        ("top_k=0", "top_k '0' is too small; give a whole number from 1."),
        ("class=-1", "class '-1' is too small; give a whole number from 0."),
        ("evidence=maybe", "evidence 'maybe' is neither true nor false; give true or false."),
        ("format=gif", "format 'gif' is not one of the choices; give json or png."),
    ],
)
def test_a_wrong_option_is_told_in_words(client: TestClient, query: str, said: str) -> None:
    """What it is, its value, what is wrong, and what there is."""
    assert client.post(f"/classify?{query}", content=b"x").json()["detail"] == said


@pytest.mark.parametrize("value", ["soon", "0", "inf", ""])
def test_a_wrong_timeout_is_told_in_words(client: TestClient, value: str) -> None:
    """Likewise."""
    detail = client.post("/classify", content=b"x", headers={"X-Request-Timeout": value}).json()["detail"]

    assert detail.startswith(f"X-Request-Timeout '{value}' is ")
    assert detail.endswith("give a number of seconds above zero.")


@pytest.mark.parametrize("path", ["/docs", "/docs/swagger-ui.css"])
def test_the_docs_are_framed_and_guessed_by_nobody(client: TestClient, path: str) -> None:
    """Browsers take each file for what it is called."""
    answer = client.get(path)

    assert answer.headers["x-content-type-options"] == "nosniff"
    if path == "/docs":
        assert "frame-ancestors 'none'; base-uri 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("content_type", ["application/json", "image/png", "application/x-www-form-urlencoded"])
def test_a_batch_that_is_no_form_is_told_what_came(client: TestClient, content_type: str) -> None:
    """And what to send."""
    answer = client.post("/classify/batch", content=b"{}", headers={"content-type": content_type})

    assert f"The request has Content-Type: {content_type}. Send the images as" in answer.json()["detail"]


def test_the_images_of_a_batch_are_not_called_its_body(client: TestClient) -> None:
    """Empty ones, and those that are something else."""
    files = [("files", ("a", content)) for content in (b"", b"some text", b'{"a": 1}', b"\x1f\x8b\x08")]
    results = client.post("/classify/batch", files=files).json()["results"]

    assert [result for result in results if "The body" in result["error"]["detail"]] == []
