"""Tests of `app/http/routes/page.py`: the files of the page over HTTP, without a browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.bundle.load import Bundle
from app.http.routes.page import FILES, INDEX
from app.main import create_app
from app.settings import Settings
from tests.http.test_service import digit

WEB = Path(__file__).parents[2] / "app" / "web"
KEY = "a-key-of-the-tests-0123456789"
PATHS = ["/", *(f"/web/{name}" for name in sorted(FILES) if name != INDEX)]
# The largest size of all files of the page together, in bytes.
BUDGET = 150 * 1024
# The names of media types and XML, which are not loaded.
NOT_LOADED = {"http://www.w3.org/2000/svg"}


def service(**settings: object) -> TestClient:
    """Return a client of a service with the demo bundle."""
    return TestClient(create_app(Settings.model_validate({"device": "cpu", "threads": 1, **settings})))


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with default settings."""
    with service() as client:
        yield client


def test_each_file_of_the_folder_is_served(client: TestClient) -> None:
    """`/` is the page, and each other file of `app/web` is below `/web`, unchanged."""
    names = {path.name for path in WEB.iterdir()}
    contents = {name: client.get("/" if name == INDEX else f"/web/{name}").content for name in names}

    assert contents == {name: (WEB / name).read_bytes() for name in names}


@pytest.mark.parametrize("path", PATHS)
def test_a_file_is_sent_compressed_or_as_it_is(client: TestClient, path: str) -> None:
    """Both encodings have the same content, and tags of their own."""
    plain, packed = (client.get(path, headers={"accept-encoding": each}) for each in ("identity", "gzip"))

    assert plain.content == packed.content
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"])
    assert plain.headers["etag"] != packed.headers["etag"]
    assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize("path", PATHS)
def test_a_file_that_the_browser_has_is_not_sent_again(client: TestClient, path: str) -> None:
    """Browsers ask each time. With the tag of the present version they get 304, with another one the file."""
    first = client.get(path)
    same = client.get(path, headers={"if-none-match": first.headers["etag"]})
    changed = client.get(path, headers={"if-none-match": '"another"'})

    assert first.headers["cache-control"] == "no-cache"
    assert (same.status_code, same.content) == (304, b"")
    assert (changed.status_code, changed.content) == (200, first.content)


@pytest.mark.parametrize("path", PATHS)
def test_the_policy_allows_this_service_only(client: TestClient, path: str) -> None:
    """The policy forbids other hosts, scripts and styles inside of HTML, frames and texts as scripts."""
    headers = client.get(path).headers
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";") if " " in part.strip()
    )

    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["permissions-policy"].startswith("camera=(self)")


def test_no_file_names_another_host() -> None:
    """The files contain no address of a host, and no link from the root: a prefix works without a setting."""
    text = "\n".join(path.read_text() for path in WEB.iterdir())

    assert set(re.findall(r"""https?://[^\s"'`<$]+""", text)) == NOT_LOADED
    assert re.findall(r"""(?:href|src)="/""", text) == []


def test_the_page_names_each_module_once() -> None:
    """`index.html` loads all modules at once: the browser does not find them one after another."""
    page = (WEB / INDEX).read_text()
    modules = {path.name for path in WEB.glob("*.js")}

    assert sorted(re.findall(r'(?:href|src)="web/([\w.]+\.js)"', page)) == sorted(modules)


def test_the_page_is_small() -> None:
    """All files together are within the budget, before compression."""
    assert sum(path.stat().st_size for path in WEB.iterdir()) <= BUDGET


def test_head_is_get_without_content(client: TestClient) -> None:
    """HEAD of the page has the headers of GET."""
    get, head = client.get("/"), client.head("/")

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("accepted", ["application/json", "image/*", "*/*"])
def test_every_client_gets_the_page(client: TestClient, accepted: str) -> None:
    """There is only one representation, which `Accept` does not change (RFC 9110, section 12.4.1)."""
    assert client.get("/", headers={"accept": accepted}).headers["content-type"] == "text/html; charset=utf-8"


def test_post_still_classifies(client: TestClient, demo: Bundle) -> None:
    """`POST /` is the task API of Hugging Face, with and without the page."""
    with service(page=False) as without:
        answers = [each.post("/", content=digit(demo, "two")).json()[0]["label"] for each in (client, without)]

    assert answers == ["two", "two"]


def test_the_page_can_be_turned_off() -> None:
    """Without the setting, `/` allows POST only, and there are no files."""
    with service(page=False) as client:
        answer = client.get("/")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert client.get("/web/main.js").status_code == 404


def test_files_need_no_key_and_data_does() -> None:
    """A browser cannot send a key for a page. What the page asks for needs one, and so does `POST /`."""
    closed = ["/model", "/model/report", "/model/golden/seven.png", "/web/unknown.js", "/docs"]
    with service(api_keys=KEY) as client:
        assert {path: client.get(path).status_code for path in PATHS} == dict.fromkeys(PATHS, 200)
        assert {path: client.head(path).status_code for path in PATHS} == dict.fromkeys(PATHS, 200)
        assert {path: client.get(path).status_code for path in closed} == dict.fromkeys(closed, 401)
        assert [client.post(path, content=b"x").status_code for path in ("/", "/classify", "/preprocess")] == [401] * 3


def test_without_the_page_its_paths_need_a_key() -> None:
    """The paths of the page are open only if the page is there."""
    with service(api_keys=KEY, page=False) as client:
        assert [client.get(path).status_code for path in ("/", "/web/main.js")] == [401, 401]


def test_openapi_still_declares_the_key_of_post() -> None:
    """The open page does not open `POST /` in the OpenAPI document."""
    document = create_app(Settings.model_validate({"api_keys": KEY})).openapi()

    assert document["paths"]["/"].keys() == {"get", "post"}
    assert "security" not in document["paths"]["/"]["get"]
    assert document["paths"]["/"]["post"]["security"] == [{"key": []}]


@pytest.mark.parametrize("prefix", ["", "/ai/digits"], ids=["stripped", "kept"])
def test_a_prefix_may_be_stripped_or_not(prefix: str) -> None:
    """The page and its files are served whether or not the proxy strips the prefix, also without a key."""
    with service(root_path="/ai/digits", api_keys=KEY) as client:
        assert {path: client.get(prefix + path).status_code for path in PATHS} == dict.fromkeys(PATHS, 200)
        assert client.post(f"{prefix}/", content=b"x").status_code == 401
