"""`swin_client/downloads.py`: images by URL, with hosts that behave and hosts that do not."""

from pathlib import Path

import pytest
from swin_client import ConnectionFailed, DeadlineExceeded, DownloadFailed
from swin_client.downloads import MAX_REDIRECTS, shown

from tests.support.both_clients import Ask
from tests.support.fake_server import (
    Script,
    announce,
    break_off,
    drip_content,
    drip_headers,
    fake_server,
    hang_up,
    reply,
    silence,
)
from tests.support.served import Served

KEY = "a-key-of-the-tests"


def redirect_to(url: str) -> Script:
    return reply(302, b"", Location=url)


def test_an_image_is_downloaded_and_classified(ask: Ask, service: Served, seven: Path) -> None:
    """The result is that of the file."""
    with fake_server(reply(200, seven.read_bytes())) as host:
        (by_url,) = ask(service.url, f"{host.url}/images/seven.png?size=1")

    assert by_url == ask(service.url, seven)[0]
    assert host.requests[0].path == "/images/seven.png?size=1"


def test_the_host_of_an_image_gets_neither_key_nor_cookies(ask: Ask, seven: Path, service: Served) -> None:
    """The key belongs to the service, also if the image has the same address. Cookies are not kept."""
    with fake_server(reply(200, seven.read_bytes(), Set_Cookie="a=1; Path=/")) as host:
        ask(service.url, f"{host.url}/a", f"{host.url}/b", api_key=KEY)

    for request in host.requests:
        assert KEY not in str(request.headers)
        assert "cookie" not in request.headers


def test_redirects_are_followed(ask: Ask, seven: Path, service: Served) -> None:
    """A relative one, and one to another host. Cookies of a redirect are not kept either."""
    with (
        fake_server(reply(200, seven.read_bytes())) as last,
        fake_server(reply(302, b"", Location="/b", Set_Cookie="a=1; Path=/"), redirect_to(f"{last.url}/c")) as first,
    ):
        (result,) = ask(service.url, f"{first.url}/a")

    assert result.best.label == "seven"
    requests = [*first.requests, *last.requests]
    assert [request.path for request in requests] == ["/a", "/b", "/c"]
    assert not any("cookie" in request.headers for request in requests)


def test_redirects_are_bounded(ask: Ask) -> None:
    """A host that redirects for ever is left after a few."""
    with fake_server(redirect_to("/again")) as host, pytest.raises(DownloadFailed, match="more than 5 redirects"):
        ask("http://127.0.0.1:9", f"{host.url}/")
    assert len(host.requests) == 1 + MAX_REDIRECTS


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/image"])
def test_a_redirect_to_another_scheme_is_refused(ask: Ask, target: str) -> None:
    """Only http and https are opened."""
    with fake_server(redirect_to(target)) as host, pytest.raises(DownloadFailed, match="redirects to a URL of f"):
        ask("http://127.0.0.1:9", f"{host.url}/")


@pytest.mark.parametrize(
    "large",
    [
        announce(1001),
        reply(200, b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n", Content_Length="", Transfer_Encoding="chunked"),
    ],
    ids=["announced", "chunked"],
)
def test_a_large_image_is_not_downloaded(ask: Ask, large: Script) -> None:
    """With a Content-Length, its content is not even read. The error names the limit."""
    with fake_server(large) as host, pytest.raises(DownloadFailed, match="longer than max_download_bytes, 1000"):
        ask("http://127.0.0.1:9", f"{host.url}/", max_download_bytes=1000)


def test_an_image_of_the_largest_size_is_downloaded(ask: Ask, service: Served, seven: Path) -> None:
    """The limit is inclusive."""
    with fake_server(reply(200, seven.read_bytes())) as host:
        assert ask(service.url, host.url, max_download_bytes=seven.stat().st_size)


@pytest.mark.parametrize("status", [204, 304, 403, 404, 500])
def test_an_answer_without_an_image_is_an_error(ask: Ask, status: int) -> None:
    """The error has the status. It is not repeated."""
    with fake_server(reply(status)) as host, pytest.raises(DownloadFailed, match=f"answers {status}") as raised:
        ask("http://127.0.0.1:9", f"{host.url}/")
    assert raised.value.status == status
    assert len(host.requests) == 1


@pytest.mark.parametrize("failure", [hang_up, break_off, reply(503, b"", Retry_After="0")])
def test_a_temporary_failure_is_repeated(ask: Ask, failure: Script, service: Served, seven: Path) -> None:
    """A download changes nothing."""
    with fake_server(failure, reply(200, seven.read_bytes())) as host:
        assert ask(service.url, host.url)[0].best.label == "seven"
    assert len(host.requests) == 2


def test_a_host_that_is_not_there_is_a_failed_download(ask: Ask) -> None:
    """A service that is not there is another error."""
    with fake_server(hang_up) as host:
        pass  # it has stopped
    with pytest.raises(DownloadFailed, match=f"cannot download {host.url}/a: cannot connect"):
        ask("http://127.0.0.1:9", f"{host.url}/a", max_retries=0)
    with pytest.raises(ConnectionFailed):
        ask(host.url, b"image", max_retries=0)


@pytest.mark.parametrize("slow", [silence, drip_headers, drip_content])
def test_a_slow_host_cannot_hold_the_client(ask: Ask, slow: Script) -> None:
    """The timeout of the call ends the download, however the host keeps its connection alive."""
    with (
        fake_server(slow) as host,
        pytest.raises(DeadlineExceeded, match=r"within 0.3 s: http.*/a was being downloaded"),
    ):
        ask("http://127.0.0.1:9", f"{host.url}/a", timeout=0.3)


def test_a_compressed_answer_is_refused(ask: Ask) -> None:
    """A few bytes could become gigabytes."""
    with (
        fake_server(reply(200, b"abc", Content_Encoding="gzip")) as host,
        pytest.raises(DownloadFailed, match="as gzip"),
    ):
        ask("http://127.0.0.1:9", f"{host.url}/")
    assert host.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "url", ["http://", "http://[", "http://a b/", "http://:80/", "http://a:99999999/", "http://\x00/"]
)
def test_a_url_that_is_not_valid_is_an_error(ask: Ask, url: str) -> None:
    """The error is that of a download, so other images are not affected."""
    with pytest.raises(DownloadFailed, match="cannot download"):
        ask("http://127.0.0.1:9", url, max_retries=0)


def test_messages_do_not_show_secrets() -> None:
    """Users, passwords and queries are left out, because signed URLs have them."""
    assert shown("https://user:pass@host:1/a/b?signature=1#c") == "https://host:1/a/b"


def test_a_download_is_not_repeated_with_the_classification(ask: Ask, seven: Path) -> None:
    """After a lost connection to the service, the client sends the bytes that it has."""
    good = reply(200, {"predictions": [{"index": 7, "label": "seven", "score": 1}]})
    with fake_server(reply(200, seven.read_bytes())) as host, fake_server(hang_up, good) as service:
        ask(service.url, host.url)

    assert len(host.requests) == 1
    assert [request.content for request in service.requests] == [seven.read_bytes()] * 2


def test_the_host_of_an_image_learns_nothing_else(ask: Ask, seven: Path, service: Served) -> None:
    """The header section has what a download needs, and the name of the client."""
    with fake_server(reply(200, seven.read_bytes())) as host:
        ask(service.url, host.url)

    assert set(host.requests[0].headers) == {"host", "accept", "accept-encoding", "connection", "user-agent"}
    assert host.requests[0].headers["user-agent"] == "swin-client"
