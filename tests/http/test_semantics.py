"""Tests of general HTTP semantics: HEAD, PUT, slashes, encodings, prefixes, messages, and the page of `/docs`."""

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
READ = ["/health/live", "/health/ready", "/metrics", "/model", "/model/report", "/docs", "/openapi.json"]


def service(**settings: Any) -> TestClient:
    """Return a client of a service with the demo bundle."""
    app = create_app(Settings.model_validate({"device": "cpu", "threads": 1, **settings}))
    return TestClient(app, follow_redirects=False)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with default settings."""
    with service() as client:
        yield client


@pytest.fixture(scope="module")
def prefixed() -> Iterator[TestClient]:
    """A client of a service with an API key, behind a proxy with a prefix."""
    with service(root_path="/ai/digits", api_keys=KEY) as client:
        yield client


@pytest.mark.parametrize("path", READ)
@pytest.mark.parametrize("slash", ["", "/"])
def test_head_is_get_without_content(client: TestClient, path: str, slash: str) -> None:
    """HEAD, as sent by `wget --spider`, has the status and the headers of GET."""
    get, head = client.get(path + slash), client.head(path + slash)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert "content-length" in head.headers


def test_head_needs_a_key_where_get_does() -> None:
    """HEAD and GET need a key for the same paths."""
    with service(api_keys=KEY) as client:
        statuses = [client.head(path).status_code for path in READ]
        assert statuses == [client.get(path).status_code for path in READ]
        assert [client.head(path, headers=CREDENTIALS).status_code for path in READ] == [200] * len(READ)


def test_head_is_counted_with_its_route(client: TestClient) -> None:
    """Metrics count HEAD under the path of its route, without a slash at the end."""
    before = value(client, "swin_requests_total", route="/health/ready", code="200")
    client.head("/health/ready")
    client.head("/health/ready/")
    client.get("/health/ready/")

    assert value(client, "swin_requests_total", route="/health/ready", code="200") == before + 3
    assert value(client, "swin_requests_total", route="/health/ready/", code="200") == 0


@pytest.mark.parametrize("path", ["/classify", "/classify/"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_put_is_post(client: TestClient, demo: Bundle, path: str, method: str) -> None:
    """PUT, as sent by `curl -T`, has the result of POST, with or without a slash at the end."""
    image = digit(demo, "seven")
    answer = client.request(method, path, content=image, headers=EVIL)

    assert answer.json() == client.post("/classify", content=image).json()
    assert "location" not in answer.headers


def test_a_batch_allows_a_slash_at_the_end(client: TestClient, demo: Bundle) -> None:
    """`/classify/batch/` is served as `/classify/batch`."""
    answer = client.post("/classify/batch/", files={"files": digit(demo, "two")})

    assert answer.json()["results"][0]["predictions"][0]["label"] == "two"


@pytest.mark.parametrize("path", ["/classify//", "/health/", "/nowhere/", "/docs/oauth2-redirect", "/classify/x/"])
def test_no_path_redirects(client: TestClient, path: str) -> None:
    """An unknown path gets 404, not a redirect that repeats the Host field."""
    answer = client.get(path, headers=EVIL)

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "evil.example" not in str(answer.headers) + answer.text
    assert "/classify, /classify/batch" in answer.json()["detail"]


def test_the_root_takes_images_and_has_the_page(client: TestClient) -> None:
    """`PUT /` gets 405 with the methods of Hugging Face's client and of browsers."""
    answer = client.put("/", headers=EVIL)

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, GET, HEAD")
    assert "evil.example" not in str(answer.headers) + answer.text


def test_put_to_the_name_of_a_file_gets_advice(client: TestClient, demo: Bundle) -> None:
    """`curl -T photo.jpg http://host/classify/` adds the name of the file; the message explains that."""
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
def test_a_wrong_method_gets_the_allowed_ones(client: TestClient, method: str, path: str, allowed: str) -> None:
    """`Allow` and the message of a 405 list all methods of the path (RFC 9110, section 15.5.6)."""
    answer = client.request(method, path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert (answer.json()["code"], allowed in answer.json()["detail"]) == ("method_not_allowed", True)


def test_options_of_the_server_list_all_methods(client: TestClient) -> None:
    """`OPTIONS *` gets 204 with all methods of the server (RFC 9110, section 9.3.7)."""
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
    """PUT and POST ask for admission with the size of the body."""
    asked = list[int]()
    monkeypatch.setattr(client.app.state.service.classifier, "admit", asked.append)  # type: ignore[attr-defined]  # (a FastAPI)
    client.put("/classify", content=b"x" * 7)
    client.post("/classify", content=b"x" * 8)

    assert asked == [7, 8]


def test_pages_can_send_put() -> None:
    """A preflight request for PUT succeeds for an allowed origin."""
    asked = {"origin": "https://a.org", "access-control-request-method": "PUT"}
    with service(cors_origins="https://a.org") as client:
        answer = client.options("/classify", headers=asked)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, POST, PUT"


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate", "GZIP", "gzip, br", "x-unknown", "aws-chunked"])
@pytest.mark.parametrize("path", ["/classify", "/classify/batch"])
def test_an_encoded_body_is_refused_by_name(client: TestClient, demo: Bundle, coding: str, path: str) -> None:
    """A body with a content coding gets 415 with Accept-Encoding (RFC 9110, section 15.5.16)."""
    headers = {"content-encoding": coding, "content-type": "multipart/form-data; boundary=B"}
    answer = client.post(path, content=gzip.compress(digit(demo, "two")), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_encoding")
    assert answer.headers["accept-encoding"] == "identity"
    assert f"Content-Encoding: {coding}" in answer.json()["detail"]


def test_one_of_several_encodings_is_enough(client: TestClient) -> None:
    """A coding in the second of two Content-Encoding fields is refused, too."""
    headers = [("content-encoding", "identity"), ("content-encoding", "gzip")]

    assert client.post("/classify", content=b"x", headers=headers).status_code == 415


@pytest.mark.parametrize("coding", ["identity", "Identity", "", "identity, identity", "identity,"])
def test_identity_is_no_encoding(client: TestClient, demo: Bundle, coding: str) -> None:
    """A Content-Encoding of `identity` is accepted."""
    answer = client.post("/classify", content=digit(demo, "two"), headers={"content-encoding": coding})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/x-www-form-urlencoded", "text/plain; charset=utf-8", "multipart/related", "x"],
)
def test_the_content_decides_and_the_content_type_explains(client: TestClient, demo: Bundle, content_type: str) -> None:
    """An image is accepted with any Content-Type; otherwise, the message names the Content-Type and the remedy."""
    headers = {"content-type": content_type}
    image = client.post("/classify", content=digit(demo, "two"), headers=headers)
    none = client.post("/classify", content=b'{"image": "iVBOR"}', headers=headers)

    assert (image.status_code, none.status_code) == (200, 415)
    assert f"Content-Type: {content_type.partition(';')[0]}. Send the bytes of the image" in none.json()["detail"]


@pytest.mark.parametrize("content_type", [None, "image/png", "application/octet-stream"])
def test_a_plausible_content_type_is_not_mentioned(client: TestClient, content_type: str | None) -> None:
    """The message does not mention a Content-Type that an image can have."""
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
    """Each problem document repeats its detail as `error`, which clients of other servers read."""
    answer = client.post(path, **options).json()

    assert answer["error"] == answer["detail"] != ""


def test_the_problems_of_a_batch_have_an_error_too(client: TestClient) -> None:
    """The problem of each image in a batch repeats its detail as `error`."""
    (result,) = client.post("/classify/batch", files={"files": b"no image"}).json()["results"]

    assert result["error"]["error"] == result["error"]["detail"]


def test_the_openapi_document_is_complete(client: TestClient) -> None:
    """OpenAPI has the member `error`, PUT but no HEAD, and a distinct name for each operation."""
    document = client.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    methods = {path: set(operations) for path, operations in document["paths"].items()}

    assert "error" in document["components"]["schemas"]["Problem"]["required"]
    assert methods["/classify"] == {"post", "put"}
    assert methods["/health/ready"] == {"get"}
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert "servers" not in document


class Links(HTMLParser):
    """The links of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found = list[str]()
        self.feed(page)

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in {"href", "src", "srcset", "action", "data"}]


ANY_HOST = re.compile(r"""(?:https?:)?//[\w.-]+\.\w+""")
# The beginning of the name of SVG in inline drawings, which is not loaded.
SVG_NAMESPACE = "http://www.w3.org/"


def test_the_page_names_no_other_host(client: TestClient) -> None:
    """The page and its styles load from this service only, and the policy forbids other hosts."""
    page = client.get("/docs")
    links = Links(page.text).found

    assert links == [f"/docs/{STYLE}", f"/docs/{ICON}", f"/docs/{SCRIPT}"]
    assert ANY_HOST.findall(page.text) == []
    assert set(ANY_HOST.findall(client.get(links[0]).text)) <= {SVG_NAMESPACE[:-1]}
    assert '"validatorUrl": null' in page.text
    assert "http" not in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


def test_the_files_of_the_page_are_served(client: TestClient) -> None:
    """The service serves the files of Swagger UI unchanged."""
    kinds = {SCRIPT: "text/javascript", STYLE: "text/css", ICON: "image/png"}
    for name, kind in kinds.items():
        answer = client.get(f"/docs/{name}")
        assert answer.content == (ASSETS / name).read_bytes()
        assert answer.headers["content-type"].partition(";")[0] in {kind, "application/javascript"}


@pytest.mark.parametrize("prefix", ["", "/ai/digits"], ids=["stripped", "kept"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_prefix_may_be_stripped_or_not(prefixed: TestClient, demo: Bundle, prefix: str, slash: str) -> None:
    """Routes and links of the page work, whether or not the proxy strips the prefix."""
    page = prefixed.get(f"{prefix}/docs{slash}", headers=CREDENTIALS).text
    document = prefixed.get(f"{prefix}/openapi.json{slash}", headers=CREDENTIALS).json()
    answer = prefixed.post(f"{prefix}/classify{slash}", content=digit(demo, "two"), headers=CREDENTIALS)

    assert Links(page).found == [f"/ai/digits/docs/{name}" for name in (STYLE, ICON, SCRIPT)]
    assert "url: '/ai/digits/openapi.json'" in page
    assert document["servers"] == [{"url": "/ai/digits"}]
    assert answer.json()["predictions"][0]["label"] == "two"
    assert [prefixed.get(f"{prefix}{path}{slash}").status_code for path in READ] == [200, 200, 200, 401, 401, 401, 401]
    assert prefixed.get(f"/ai/digits/docs/{STYLE}", headers=CREDENTIALS).status_code == 200


@pytest.mark.parametrize("path", ["/ai/digits", "/ai/digitsdocs", "/ai/docs", "/ai/digits/ai/digits/docs"])
def test_only_the_whole_prefix_is_removed(prefixed: TestClient, path: str) -> None:
    """A path with a part of the prefix, or with the prefix twice, is unknown."""
    assert prefixed.get(path, headers=CREDENTIALS).status_code == 404


def test_a_client_cannot_set_the_prefix(client: TestClient) -> None:
    """X-Forwarded-Prefix, which any client can send, has no effect."""
    headers = {"x-forwarded-prefix": "/evil", "x-forwarded-host": "evil.example", **EVIL}

    assert "evil" not in client.get("/docs", headers=headers).text
    assert "servers" not in client.get("/openapi.json", headers=headers).json()


def test_the_prefix_can_come_from_the_server(demo: Bundle) -> None:
    """Without the setting, the root path of the ASGI server is the prefix."""
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
    """A prefix that is not a path, or ends in a slash, is refused."""
    with pytest.raises(ValidationError, match="a path begins with / and does not end with it"):
        Settings(root_path=prefix)


def test_the_log_has_the_path_of_the_request(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """The log shows the path as sent, with its slash at the end."""
    with caplog.at_level("INFO", "swin.request"):
        client.get("/health/live/")

    assert [getattr(record, "path", None) for record in caplog.records] == ["/health/live/"]


def test_a_problem_with_a_long_path_is_valid_json(client: TestClient) -> None:
    """The message repeats a long path with quotation marks and line feeds, escaped and shortened."""
    answer = client.get(f"/{'x%22%0a' * 300}")

    assert json.loads(answer.content)["status"] == 404
    assert len(answer.content) < 2000


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("foo=1", "There is no parameter 'foo'; the parameters are top_k, evidence, embedding, format, class."),
        ("top_k=1&top_k=2", "The parameter 'top_k' is given more than once; give it once."),
        ("top_k=abc", "top_k 'abc' is not a whole number; give a whole number from 1."),
        ("top_k=0", "top_k '0' is too small; give a whole number from 1."),
        ("class=-1", "class '-1' is too small; give a whole number from 0."),
        ("evidence=maybe", "evidence 'maybe' is neither true nor false; give true or false."),
        ("format=gif", "format 'gif' is not one of the choices; give json or png."),
    ],
)
def test_an_invalid_parameter_is_explained(client: TestClient, query: str, detail: str) -> None:
    """The message has the name and the value of the parameter, the fault, and the valid values."""
    assert client.post(f"/classify?{query}", content=b"x").json()["detail"] == detail


@pytest.mark.parametrize("value", ["soon", "0", "inf", ""])
def test_an_invalid_timeout_is_explained(client: TestClient, value: str) -> None:
    """The message has the value of X-Request-Timeout, the fault, and the valid values."""
    detail = client.post("/classify", content=b"x", headers={"X-Request-Timeout": value}).json()["detail"]

    assert detail.startswith(f"X-Request-Timeout '{value}' is ")
    assert detail.endswith("give a number of seconds above zero.")


@pytest.mark.parametrize("path", ["/docs", "/docs/swagger-ui.css"])
def test_the_docs_have_security_headers(client: TestClient, path: str) -> None:
    """The files of the page forbid the guessing of types, and the page forbids frames."""
    answer = client.get(path)

    assert answer.headers["x-content-type-options"] == "nosniff"
    if path == "/docs":
        assert "frame-ancestors 'none'; base-uri 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("content_type", ["application/json", "image/png", "application/x-www-form-urlencoded"])
def test_a_batch_that_is_not_a_form_is_explained(client: TestClient, content_type: str) -> None:
    """The message has the Content-Type of the request and the remedy."""
    answer = client.post("/classify/batch", content=b"{}", headers={"content-type": content_type})

    assert f"The request has Content-Type: {content_type}. Send the images as" in answer.json()["detail"]


def test_messages_about_images_of_a_batch_do_not_mention_the_body(client: TestClient) -> None:
    """Messages about empty images and other contents in a batch do not call them the body."""
    files = [("files", ("a", content)) for content in (b"", b"some text", b'{"a": 1}', b"\x1f\x8b\x08")]
    results = client.post("/classify/batch", files=files).json()["results"]

    assert [result for result in results if "The body" in result["error"]["detail"]] == []
