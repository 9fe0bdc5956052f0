"""The framing of requests by RFC 9112: the ends of header sections and chunked bodies, and the framing fields.

Knows no sockets. The parser (httptools) finds most faults; the checks here find the others.
"""

import re
from collections.abc import Sequence

from app.errors import HeadersTooLarge, MalformedRequest, NotSupported, ServiceError, WrongVersion

# Limit in bytes of a request line and its header fields together. The same limit holds for the
# trailer fields of a chunked body.
MAX_HEAD_BYTES = 64 * 2**10

# Header fields as pairs of name and value.
Fields = Sequence[tuple[bytes, bytes]]

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rb"(%s) ([!-~\x80-\xff]+) HTTP/1\.([01])\r\n" % TOKEN)
ANY_REQUEST_LINE = re.compile(rb"%s +[^\r\n]+ HTTP/(\d\.\d)\r?\n" % TOKEN)
FIELD_LINE = re.compile(rb"^(%s):[ \t]*([^\r\n]*?)[ \t]*\r?$" % TOKEN, re.MULTILINE)
EMPTY_LINES = re.compile(rb"[\r\n]*")

# A bare line feed ends a line here, so that the section reaches the parser, which refuses it.
END_OF_SECTION = re.compile(rb"\n\r?\n")

AUTHORITY = rb"(?:[\w.~!$&'()*+,;=%-]*|\[[\w.~!$&'()*+,;=:%-]+\])(?::\d{0,5})?"
HOST = re.compile(AUTHORITY, re.ASCII)
ABSOLUTE_TARGET = re.compile(rb"https?://(%s)(/[^?]*)?(\?.*)?" % AUTHORITY, re.IGNORECASE | re.ASCII)

UPGRADE_FIELD = re.compile(rb"(?<=\n)upgrade:", re.IGNORECASE)

# The first byte that a TLS client sends (RFC 8446, section 5.1: content type `handshake`).
TLS_HANDSHAKE = 0x16

# Fields that determine the host and the end of the content.
FRAMING = {b"host", b"content-length", b"transfer-encoding"}

CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")


class HeaderSectionBuffer:
    """A buffer that joins the pieces in which a header section arrives."""

    def __init__(self) -> None:
        self.held = bytearray()  # the beginning of a section that has not ended yet

    def cut(self, data: bytes, start: int) -> tuple[bytes | None, int]:
        """Return the section that ends in `data[start:]`, and the index of the first byte after it.

        If no section ends there, hold the bytes and return None as the section. Empty lines before
        a request line are skipped (RFC 9112, section 2.2).
        """
        if self.held:
            return self._complete(data, start)
        if data[start] in b"\r\n":
            start = EMPTY_LINES.match(data, start).end()  # type: ignore[union-attr]  # (always matches)
        # `find` comes first, because a regular expression takes ten times as long. If an empty line
        # with bare line feeds precedes this end, the parser refuses the section anyway.
        if (crlf := data.find(b"\r\n\r\n", start)) >= 0:
            return data[start : crlf + 4], crlf + 4
        if end := END_OF_SECTION.search(data, start):
            return data[start : end.end()], end.end()
        self.held += memoryview(data)[start:]
        return None, len(data)

    def _complete(self, data: bytes, start: int) -> tuple[bytes | None, int]:
        known = len(self.held)
        self.held += memoryview(data)[start:]
        end = END_OF_SECTION.search(self.held, max(known - 2, 0))
        if end is None:
            return None, len(data)
        section = bytes(self.held[: end.end()])
        self.held.clear()
        return section, start + len(section) - known


class ChunkedBody:
    """A search for the end of one chunked body (RFC 9112, section 7.1) that skips the chunk data."""

    def __init__(self) -> None:
        self._data_left = 0  # bytes of the current chunk, with the line end after its data
        self._line = bytearray()
        self._trailer_bytes: int | None = None  # set when the last chunk has arrived

    def find_end(self, data: bytes, start: int) -> int | None:
        """Return the index of the first byte after the body, or None if the body goes on after `data`.

        Raises:
            MalformedRequest: a chunk does not begin with its size.
            HeadersTooLarge: a line or the trailer section is too long.
        """
        while start < len(data):
            if self._data_left:
                step = min(self._data_left, len(data) - start)
                self._data_left -= step
                start += step
                continue
            line_end = data.find(b"\n", start) + 1
            self._line += memoryview(data)[start : line_end or len(data)]
            if len(self._line) + (self._trailer_bytes or 0) > MAX_HEAD_BYTES:
                raise HeadersTooLarge
            if not line_end:
                return None
            start = line_end
            if self._ends_with(bytes(self._line)):
                return start
            self._line.clear()
        return None

    def _ends_with(self, line: bytes) -> bool:
        """Process one line of the framing. Return whether the body ends with this line."""
        if self._trailer_bytes is not None:
            self._trailer_bytes += len(line)
            return line == b"\r\n"
        size = CHUNK_SIZE.match(line)
        if size is None:
            raise MalformedRequest("A chunk of the body does not begin with its size in hexadecimal digits.")
        count = int(size[0], 16)
        if count:
            self._data_left = count + len(b"\r\n")
        else:
            self._trailer_bytes = 0
        return False


def check_incomplete_section(held: bytes | bytearray) -> None:
    """Raise an error if the beginning of a header section can never become a valid one.

    A client that waits for a response then gets it before `header_timeout`.
    """
    if not re.match(TOKEN, held) or (b"\n" in held and not ANY_REQUEST_LINE.match(held)):
        raise request_line_error(held)


def request_line_error(section: bytes | bytearray) -> ServiceError:
    """Return the error for a section, or the beginning of one, with a first line that does not match `REQUEST_LINE`."""
    if section[0] == TLS_HANDSHAKE:
        return MalformedRequest(
            "The client sent a TLS handshake, but this port serves plain HTTP. Use http:// instead of https://."
        )
    line = ANY_REQUEST_LINE.match(section)
    if line and line[1] not in {b"1.0", b"1.1"}:
        return WrongVersion(f"The request has version HTTP/{line[1].decode()}. Send HTTP/1.1.")
    return MalformedRequest(
        "The first line is not a request line: method, target without spaces, and version, separated by single "
        "spaces. An example: GET /health/ready HTTP/1.1"
    )


def has_request_line(section: bytes | bytearray) -> bool:
    """Return whether the first line is a request line of any HTTP version.

    If so, the lines after it are header fields.
    """
    return ANY_REQUEST_LINE.match(section) is not None


def fields_of(section: bytes | bytearray) -> list[tuple[bytes, bytes]]:
    """Return the header fields with names in lower case. The parser may have refused the section."""
    return [(name.lower(), value) for name, value in FIELD_LINE.findall(section)]


def without_upgrade(section: bytes) -> bytes:
    """Return the section with the field `Upgrade` renamed, so that the parser ignores it.

    The parser would take the content for data of the offered protocol. A server may ignore the
    field (RFC 9110, section 7.8). Java's HTTP client sends it with its first request to a server.
    """
    return UPGRADE_FIELD.sub(b"x-upgrade:", section)


def origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Return a request target as path and query (RFC 9112, section 3.2), and its authority or None.

    Raises:
        MalformedRequest: the target is neither a path nor an http URL, nor `*` with OPTIONS.
    """
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target, None
    absolute = ABSOLUTE_TARGET.fullmatch(target)
    if absolute is None:
        raise MalformedRequest("The request target is neither a path nor an http URL. Send a path such as /classify.")
    authority, path, query = absolute.groups(b"")
    return (path or b"/") + query, authority


def content_length(fields: Fields, *, is_http_1_0: bool) -> int | None:
    """Return the number of bytes of content that follow a header section; None if it is chunked.

    Args:
        fields: header fields with names in lower case. The parser has refused a Content-Length that
            is no number or stands beside Transfer-Encoding.
        is_http_1_0: whether the request has version HTTP/1.0.

    Raises:
        MalformedRequest: Host or Transfer-Encoding breaks a rule of RFC 9112.
        NotSupported: Transfer-Encoding is not `chunked`.
    """
    framing = [field for field in fields if field[0] in FRAMING]
    hosts = [value for name, value in framing if name == b"host"]
    if len(hosts) != 1 and not (is_http_1_0 and not hosts):
        raise MalformedRequest(f"The request has {len(hosts)} header fields named Host. Send exactly one.")
    if hosts and not HOST.fullmatch(hosts[0]):
        raise MalformedRequest("The header field Host is not a host name or an address, with an optional port.")
    if len(framing) == len(hosts):
        return 0
    codings = [value.lower() for name, value in framing if name == b"transfer-encoding"]
    if not codings:
        return int(next(value for name, value in framing if name == b"content-length"))
    if is_http_1_0:
        raise MalformedRequest("A request of HTTP/1.0 cannot have Transfer-Encoding. Send HTTP/1.1 or Content-Length.")
    if codings != [b"chunked"]:
        raise NotSupported("The only supported Transfer-Encoding is chunked.")
    return None
