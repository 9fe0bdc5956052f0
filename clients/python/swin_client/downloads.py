"""Download of an image by its URL, within limits of bytes, redirects and time. Never has the API key."""

import httpx

from swin_client.errors import TEMPORARY_STATUSES, DeadlineExceeded, DownloadFailed, retry_after_of
from swin_client.exchange import IO, Answer, Deadline, Reception, TooManyBytes, without_answer

MAX_REDIRECTS = 5

SCHEMES = frozenset({"http", "https"})

# Without compression, so that the limit of bytes is that of the image. `close`: images come from many hosts, once each.
HEADERS = {"Accept": "image/*, */*;q=0.1", "Accept-Encoding": "identity", "Connection": "close"}


async def download(io: IO, url: str, max_bytes: int, user_agent: str, deadline: Deadline) -> bytes:
    """Return the content at a URL of http or https.

    Raises:
        DownloadFailed: there is none, or it is too large.
        DeadlineExceeded: it did not arrive in time.
    """
    try:
        request = _request(url, user_agent, deadline)
        for _ in range(MAX_REDIRECTS + 1):
            answer = await _fetch(io, request, max_bytes, deadline)
            if answer.next_request is None:
                return _content(request.url, answer)
            request = _next(request.url, answer.next_request, deadline)
    except DeadlineExceeded as error:
        raise DeadlineExceeded(f"{error.detail}: {shown(url)} was being downloaded") from error
    raise DownloadFailed(f"cannot download {shown(url)}: it has more than {MAX_REDIRECTS} redirects")


def shown(url: str | httpx.URL) -> str:
    """Return a URL for a message: without user, password and query, which can be secret."""
    parsed = httpx.URL(url)
    return str(parsed.copy_with(userinfo=b"", query=None, fragment=None))


def _request(url: str, user_agent: str, deadline: Deadline) -> httpx.Request:
    try:
        return httpx.Request(
            "GET", url, headers=HEADERS | {"User-Agent": user_agent}, extensions={"timeout": deadline.timeouts()}
        )
    except (httpx.InvalidURL, UnicodeError) as error:
        raise DownloadFailed(f"cannot download the image: its URL is not valid: {error}") from error


def _next(url: httpx.URL, request: httpx.Request, deadline: Deadline) -> httpx.Request:
    if request.url.scheme not in SCHEMES:
        raise DownloadFailed(f"cannot download {shown(url)}: it redirects to a URL of {request.url.scheme}")
    request.extensions = {"timeout": deadline.timeouts()}
    return request


async def _fetch(io: IO, request: httpx.Request, max_bytes: int, deadline: Deadline) -> Answer:
    try:
        return await io.fetch(request, Reception(deadline, max_bytes, only_success=True))
    except TooManyBytes:
        detail = f"cannot download {shown(request.url)}: it is longer than max_download_bytes, {max_bytes}"
        raise DownloadFailed(detail) from None
    except httpx.RequestError as error:
        cause = without_answer(error, deadline)
        if isinstance(cause, DeadlineExceeded):
            raise cause from error
        detail = f"cannot download {shown(request.url)}: {cause}"
        raise DownloadFailed(detail, is_temporary=cause.is_temporary) from error


def _content(url: httpx.URL, answer: Answer) -> bytes:
    if answer.status != httpx.codes.OK:
        failed = DownloadFailed(
            f"cannot download {shown(url)}: its server answers {answer.status}",
            is_temporary=answer.status in TEMPORARY_STATUSES,
        )
        failed.status, failed.retry_after = answer.status, retry_after_of(answer.headers)
        raise failed
    coding = answer.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise DownloadFailed(f"cannot download {shown(url)}: its server compresses it as {coding}, although not asked")
    return answer.content
