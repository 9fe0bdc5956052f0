"""Requests as RFC 9112 frames them: where a header section and a chunked body end, and what a header section must say.

Knows no sockets. The parser finds most faults itself; the checks here are for the faults that it lets pass.
"""

import re
from collections.abc import Sequence

from app.errors import HeadersTooLarge, MalformedRequest, NotSupported, ServiceError, WrongVersion

# The most bytes of a request line and its header fields together, and of the trailer fields of a chunked body.
MAX_HEAD_BYTES = 64 * 2**10

Fields = Sequence[tuple[bytes, bytes]]

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rb"(%s) ([!-~\x80-\xff]+) HTTP/1\.([01])\r\n" % TOKEN)
ANY_REQUEST_LINE = re.compile(rb"%s +[^\r\n]+ HTTP/(\d\.\d)\r?\n" % TOKEN)
FIELD_LINE = re.compile(rb"^(%s):[ \t]*([^\r\n]*?)[ \t]*\r?$" % TOKEN, re.MULTILINE)
EMPTY_LINES = re.compile(rb"[\r\n]*")

# Bare line feeds count as ends of lines here, so that the parser gets to see them. The parser then refuses them.
END_OF_SECTION = re.compile(rb"\n\r?\n")

AUTHORITY = rb"(?:[\w.~!$&'()*+,;=%-]*|\[[\w.~!$&'()*+,;=:%-]+\])(?::\d{0,5})?"
HOST = re.compile(AUTHORITY, re.ASCII)
ABSOLUTE_TARGET = re.compile(rb"https?://(%s)(/[^?]*)?(\?.*)?" % AUTHORITY, re.IGNORECASE | re.ASCII)

UPGRADE_FIELD = re.compile(rb"(?<=\n)upgrade:", re.IGNORECASE)

# The first byte of a TLS record that opens a connection (RFC 8446, section 5.1: content type `handshake`).
TLS_HANDSHAKE = 0x16

# Fields that say which server a request is for, and where its content ends.
FRAMING = {b"host", b"content-length", b"transfer-encoding"}

CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")


class Sections:
    """Header sections, each put together from the pieces in which it arrives."""

    def __init__(self) -> None:
        self.held = bytearray()  # the beginning of a section that has not ended yet

    def cut(self, data: bytes, start: int) -> tuple[bytes | None, int]:
        """Return the section that ends in `data[start:]`, and where the bytes after it start.

        Without an end, return None and hold the bytes. Empty lines before a request line are skipped (RFC 9112, 2.2).
        """
        if self.held:
            return self._complete(data, start)
        if data[start] in b"\r\n":
            start = EMPTY_LINES.match(data, start).end()  # type: ignore[union-attr]  # (it matches no bytes, too)
        # This search comes first, because a regular expression takes ten times as long. Where a line ends in a bare
        # line feed before that, the parser refuses the section anyway.
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


class Chunks:
    """The end of one chunked body, found without looking at the data in the chunks."""

    def __init__(self) -> None:
        self._data_left = 0  # of the current chunk, with the line end behind the data
        self._line = bytearray()
        self._trailer_bytes: int | None = None  # None until the last chunk

    def end(self, data: bytes, start: int) -> int | None:
        """Return where the bytes after the body start, or None if `data` does not contain the end.

        Raises:
            MalformedRequest, HeadersTooLarge: a line is not what it must be, or is too long.
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
            if self._takes_last(bytes(self._line)):
                return start
            self._line.clear()
        return None

    def _takes_last(self, line: bytes) -> bool:
        if self._trailer_bytes is not None:
            self._trailer_bytes += len(line)
            return line == b"\r\n"
        size = CHUNK_SIZE.match(line)
        if size is None:
            raise MalformedRequest("A chunk of the body does not begin with its size.")
        count = int(size[0], 16)
        if count:
            self._data_left = count + len(b"\r\n")
        else:
            self._trailer_bytes = 0
        return False


def check_beginning(held: bytes | bytearray) -> None:
    """Raise if what has arrived of a header section can never become one, so that the client need not wait."""
    if not re.match(TOKEN, held) or (b"\n" in held and not ANY_REQUEST_LINE.match(held)):
        raise wrong_line(held)


def wrong_line(section: bytes | bytearray) -> ServiceError:
    """Return the refusal of a section whose first line is not `REQUEST_LINE`."""
    if section[0] == TLS_HANDSHAKE:
        return MalformedRequest(
            "The client speaks TLS, but this port speaks plain HTTP. Use http:// instead of https://."
        )
    line = ANY_REQUEST_LINE.match(section)
    if line and line[1] not in {b"1.0", b"1.1"}:
        return WrongVersion(f"The request is of HTTP/{line[1].decode()}. Send HTTP/1.1.")
    return MalformedRequest("The first line is not a request line. Send one such as: GET /health/ready HTTP/1.1.")


def is_for_this_server(section: bytes | bytearray) -> bool:
    """Return whether the first line is a request line of any version, so that the lines after it are header fields."""
    return ANY_REQUEST_LINE.match(section) is not None


def fields_of(section: bytes | bytearray) -> list[tuple[bytes, bytes]]:
    """Return the header fields of a section that the parser may have refused, names in lower case."""
    return [(name.lower(), value) for name, value in FIELD_LINE.findall(section)]


def without_upgrade(section: bytes) -> bytes:
    """Rename the field `Upgrade`, because the parser would give the content to the protocol that the field names.

    HTTP/1.1 is the only protocol here, and a server may ignore the field (RFC 9110, 7.8). Java's HTTP client sends
    it with its first request to a server.
    """
    return UPGRADE_FIELD.sub(b"x-upgrade:", section)


def origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Return a request target as path and query, and the authority that it names, if any.

    Raises:
        MalformedRequest: there is no such target, or none of this method.
    """
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target, None
    absolute = ABSOLUTE_TARGET.fullmatch(target)
    if absolute is None:
        raise MalformedRequest("The request target is neither a path nor a URL of HTTP.")
    authority, path, query = absolute.groups(b"")
    return (path or b"/") + query, authority


def content_length(fields: Fields, *, is_old: bool) -> int | None:
    """Return how many bytes of content follow a header section; None if they come in chunks.

    Args:
        fields: names in lower case. The parser has refused lengths that are no numbers, and a length beside chunks.
        is_old: whether the request is of HTTP/1.0.

    Raises:
        MalformedRequest, NotSupported: the fields break a rule of RFC 9112.
    """
    framing = [field for field in fields if field[0] in FRAMING]
    hosts = [value for name, value in framing if name == b"host"]
    if len(hosts) != 1 and not (is_old and not hosts):
        raise MalformedRequest(f"The request has {len(hosts)} header fields named Host. Send exactly one.")
    if hosts and not HOST.fullmatch(hosts[0]):
        raise MalformedRequest("The header field Host is not a host name or address, with or without a port.")
    if len(framing) == len(hosts):
        return 0
    codings = [value.lower() for name, value in framing if name == b"transfer-encoding"]
    if not codings:
        return int(next(value for name, value in framing if name == b"content-length"))
    if is_old:
        raise MalformedRequest("A request of HTTP/1.0 cannot have the header field Transfer-Encoding.")
    if codings != [b"chunked"]:
        raise NotSupported("The only Transfer-Encoding that is read is: chunked.")
    return None
