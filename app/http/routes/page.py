"""`GET /`: the page for browsers, and its files below `/web`. Knows nothing about classification.

The files are in `app/web`. They are read once, when this module is imported, and served from memory.
All links of the page are relative, so it works behind a proxy that adds a prefix to all paths.
"""

import gzip
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from starlette.responses import Response

from app.bundle.digests import bytes_digest
from app.http.request_head import header_of

INDEX = "index.html"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# The page loads from this service only, and runs no script or style inside of HTML.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types"
)
HEADERS = {
    "Cache-Control": "no-cache",  # browsers ask each time whether the file has changed, so a new version arrives
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class File:
    """A file of the page, as it is and compressed."""

    content: bytes
    compressed: bytes
    media_type: str
    digest: str


def _read() -> dict[str, File]:
    """Return the files of the page by name."""
    found = dict[str, File]()
    for entry in files("app").joinpath("web").iterdir():
        media_type = MEDIA_TYPES.get(entry.name[entry.name.rfind(".") :])
        if media_type is not None:
            content = entry.read_bytes()
            found[entry.name] = File(content, gzip.compress(content, mtime=0), media_type, bytes_digest(content)[:16])
    return found


FILES = _read()

# The paths of the page and its files.
PATHS = frozenset({"/", *(f"/web/{name}" for name in FILES)})

router = APIRouter()


async def _file(request: Request, name: str) -> Response:
    """Return a file, compressed if the client accepts it; 304 if the client has it."""
    file = FILES[name]
    is_compressed = "gzip" in header_of(request.scope, b"accept-encoding")
    # The two encodings are different representations (RFC 9110, section 8.8.3).
    tag = f'"{file.digest}{"-gzip" if is_compressed else ""}"'
    headers = HEADERS | {"ETag": tag}
    if tag in header_of(request.scope, b"if-none-match"):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    if is_compressed:
        headers["Content-Encoding"] = "gzip"
    return Response(file.compressed if is_compressed else file.content, headers=headers, media_type=file.media_type)


@router.head("/", include_in_schema=False)
@router.get("/", response_class=HTMLResponse, responses={304: {"description": "The client has this version."}})
async def page(request: Request) -> Response:
    """Return the page for browsers, which works without other hosts."""
    return await _file(request, INDEX)


for each in FILES.keys() - {INDEX}:
    router.add_route(f"/web/{each}", partial(_file, name=each), name=each, include_in_schema=False)
