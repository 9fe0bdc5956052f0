"""Multipart forms (RFC 7578), read as they arrive. Knows nothing about image formats, time limits or the network."""

import re

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError

from app.errors import InvalidParameter, UnsupportedEncoding
from app.http.header_parameters import parameters_of

# Text fields that a form may have beside its images. None is used, but clients send some.
MAX_TEXT_FIELDS = 16

MAX_TEXT_BYTES = 2**20

# Java's and .NET's clients write up to six headers in a part; a header holds at most a long file name.
MAX_PART_HEADERS, MAX_HEADER_BYTES = 32, 4096

# RFC 2046, 5.1.1, allows white space after a boundary; this is the most that is looked for before the first part.
MAX_PADDING = 128

MAX_SHOWN = 100  # characters of a name that is repeated in a sentence

# The header of a part, wherever it stands. One that belongs to no part is that of an image which would vanish.
PART_HEADER = re.compile(rb"[\r\n]content-disposition[ \t]{0,8}:[ \t]{0,8}(?:form-data|attachment|file)", re.IGNORECASE)
MAX_PART_HEADER = 60  # bytes in which one begins

# The beginnings of images that are text: data URLs, SVG, and base64 of JPEG, PNG, GIF, RIFF, TIFF and AVIF.
IMAGE_AS_TEXT = re.compile(
    rb"""(?:\A\s*+|["'])(?:data:image/|/9j/|_9j_|iVBORw0KGgo|R0lGOD[dl]h|UklGR|SUkqA|TU0AK)"""
    rb"|(?:\A\s*+|[\"'])AAAA..Z0eXB|<(?:svg:)?svg[\s>/]",
    re.IGNORECASE,
)
MAX_LOOKED_AT = 4096  # bytes of a text

PLAIN_ENCODINGS = {"", "7bit", "8bit", "binary", "identity"}


def has_parts(content_type: str) -> bool:
    """Return whether a Content-Type is that of a multipart form."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


class Form:
    """The images of one field of a form, in the order of their parts.

    A part is an image if its field is the image field, with or without a file name. Text in other fields is dropped.
    An image in another field is refused: dropped, it would be missing from the answer without a word.

    Args:
        content_type: the request's, with the boundary.
        field: the image field.
        max_client_batch_size: how many images the form may have.

    Raises:
        InvalidParameter: the content type has no boundary, or none that can be used.
    """

    def __init__(self, content_type: str, field: str, max_client_batch_size: int) -> None:
        self._field, self._max_images = field, max_client_batch_size
        self._images = list[bytes]()
        self._fields = list[str]()  # of all parts whose headers have arrived
        self._parts = 0
        self._is_whole = False
        self._seen, self._read, self._last = 0, 0, b"\n"  # headers of parts in the body, of parts that were read
        self._before = bytearray(b"\n")  # the end of what came before the first part, as if on a line of its own
        self._boundary = _boundary(content_type)
        first = re.escape(self._boundary)
        self._first = re.compile(rb"\n" + first + rb"(--|[ \t]{0,%d}\r?\n)" % MAX_PADDING)
        self._hidden = re.compile(first + rb"(?:--|[ \t]{0,%d}+[\r\n])" % MAX_PADDING)
        self._parser: MultipartParser | None = None
        self._name, self._value, self._headers = b"", b"", dict[str, str]()

    def feed(self, data: bytes) -> None:
        """Read the next piece of the body.

        Raises:
            InvalidParameter: the form is malformed, has too many parts, or an image in another field.
            UnsupportedEncoding: a part is encoded.
        """
        self._count_headers(data)
        if self._is_whole:
            return  # RFC 2046, 5.1.1: what follows the last boundary is to be ignored
        if self._parser is None:
            data = self._begin(data)
        if self._parser is not None:
            try:
                self._parser.write(data)
            except FormParserError as error:
                raise InvalidParameter(self._what_is_malformed(str(error))) from error

    def images(self) -> list[bytes]:
        """Return the images. Call this at the end of the body.

        Raises:
            InvalidParameter: the form is cut off before its last boundary, or has no image.
        """
        if not self._is_whole:
            raise InvalidParameter(self._what_is_missing())
        if self._seen > self._read:
            raise InvalidParameter(
                f"The form is malformed: it has {self._seen} headers Content-Disposition, but {self._read} parts with "
                f"one. Before each part, its boundary, {self._boundary.decode()}, must be on a line of its own, "
                "between CRLF and CRLF; the last boundary must be at the end."
            )
        if not self._images:
            there = ", ".join(f"'{name}'" for name in dict.fromkeys(self._fields))
            beside = f"; it has {there}" if there else ""
            raise InvalidParameter(f"The form has no file in a field named '{self._field}'{beside}.")
        return self._images

    def _what_is_malformed(self, reason: str) -> str:
        """Return a sentence for what the parser says."""
        where = f"The form is malformed in its part {self._parts}"
        if "header count" in reason:
            return f"{where}: it has more than {MAX_PART_HEADERS} headers."
        if "header size" in reason:
            return f"{where}: a header is longer than {MAX_HEADER_BYTES} bytes."
        if "character 32 in header" in reason or "character 9 in header" in reason:
            return (
                f"{where}: a header line begins with white space, or has some before its colon, or has no colon. "
                "Write each header in one line, as Name: value."
            )
        if "header" in reason:
            return (
                f"{where}: a line of its headers is no header. Lines must end in CRLF, and an empty line must stand "
                "between the headers and the content."
            )
        return f"{where}: its boundary is not a line that ends in CRLF."

    def _count_headers(self, data: bytes) -> None:
        data, end = self._last + data, 0
        for match in PART_HEADER.finditer(data):
            self._seen, end = self._seen + 1, match.end()
        self._last = data[max(end, len(data) - MAX_PART_HEADER) :]

    def _what_is_missing(self) -> str:
        boundary = self._boundary.decode("latin-1")
        if self._parser is None:
            return f"The form cannot be read: its first boundary, {boundary}, is missing or cut off."
        return f"The form is cut off in its part {self._parts}: its last boundary, {boundary}--, is missing."

    def _begin(self, data: bytes) -> bytes:
        """Return what the parser is to read: the first boundary and all after it. What is before it is ignored."""
        self._before += data
        first = self._first.search(self._before)
        if first is None:
            del self._before[: -(len(self._boundary) + MAX_PADDING + 3)]
            return b""
        if first[1].endswith(b"\n") and not first[1].endswith(b"\r\n"):
            raise InvalidParameter("The lines of the form end in LF; RFC 7578 requires CRLF.")
        self._parser = MultipartParser(
            self._boundary[2:],
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )
        begun = self._boundary + first[1].lstrip(b" \t") + self._before[first.end() :]
        self._before = bytearray()
        return begun

    def _on_part_begin(self) -> None:
        self._parts += 1
        self._headers = {}
        self._content, self._size = list[bytes](), 0

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._read += PART_HEADER.match(b"\n" + self._name + b":" + self._value) is not None
        self._headers[self._name.decode("latin-1").lower()] = _text(self._value)
        self._name = self._value = b""

    def _on_headers_finished(self) -> None:
        parameters = _parameters(self._headers.get("content-disposition", ""))
        name, *others = parameters.get("name", [None])
        if name is None:
            raise InvalidParameter(f"Part {self._parts} of the form has no name; name it '{self._field}'.")
        if others:
            raise InvalidParameter(f"Part {self._parts} of the form has more than one name; name it '{self._field}'.")
        self._fields.append(_shown(name))
        self._is_image = name == self._field
        content_type = self._headers.get("content-type", "").lower()
        self._is_file = "filename" in parameters or content_type.startswith(("image/", "application/octet-stream"))
        if content_type.startswith("multipart/"):
            raise InvalidParameter(
                f"Part {self._parts} of the form is a form itself. Send each image as a part of its own, in the "
                f"field '{self._field}'."
            )
        if self._is_image:
            self._check_image()
        elif any(parameters.get("filename", ())):
            self._refuse_file()
        elif self._parts - len(self._images) > MAX_TEXT_FIELDS:
            raise InvalidParameter(
                f"The form has more than {MAX_TEXT_FIELDS} fields beside '{self._field}'; send fewer."
            )

    def _check_image(self) -> None:
        if len(self._images) == self._max_images:
            raise InvalidParameter(
                f"The form has more than {self._max_images} images; send several requests."
                if self._max_images > 1
                else f"The form has more than one image in the field '{self._field}'; send several to /classify/batch."
            )
        for header in ("content-transfer-encoding", "content-encoding"):
            encoding = self._headers.get(header, "").strip()
            if encoding.lower() not in PLAIN_ENCODINGS:
                raise UnsupportedEncoding(
                    f"Part {self._parts} of the form has {header.title()}: {_shown(encoding)}. "
                    "Send the bytes of the image themselves."
                )

    def _refuse_file(self) -> None:
        raise InvalidParameter(
            f"The form has a file in the field '{self._fields[-1]}'; send images in the field '{self._field}'."
        )

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        self._size += len(piece)
        if self._is_image:
            self._content.append(piece)
            return
        if self._size > MAX_TEXT_BYTES:
            raise InvalidParameter(
                f"The text in the field '{self._fields[-1]}' is longer than {MAX_TEXT_BYTES // 2**20} MiB; send images "
                f"in '{self._field}'."
            )
        # Text has no zero byte; an image of each format has some. An empty file is a file input that was left empty.
        if self._is_file or b"\0" in piece:
            self._refuse_file()
        self._content.append(piece)

    def _on_part_end(self) -> None:
        content = b"".join(self._content)
        self._content = []
        self._refuse_hidden_boundary(content)
        if self._is_image:
            self._images.append(content)
        elif IMAGE_AS_TEXT.search(content[:MAX_LOOKED_AT]):
            self._refuse_file()

    def _refuse_hidden_boundary(self, content: bytes) -> None:
        """Refuse a part that has swallowed the next one: before or after a boundary, a part of CRLF is missing."""
        place = content.find(self._boundary)  # faster than the expression, and mostly all that is needed
        if place >= 0 and self._hidden.search(content, place):
            raise InvalidParameter(
                f"The form is malformed: a boundary in its part {self._parts} is not on a line of its own, between "
                "CRLF and CRLF."
            )

    def _on_end(self) -> None:
        self._is_whole = True


def _boundary(content_type: str) -> bytes:
    """Return the boundary as it begins each part, with its two hyphens."""
    if len(content_type) > MAX_HEADER_BYTES:
        raise InvalidParameter(f"The Content-Type is longer than {MAX_HEADER_BYTES} bytes.")
    boundary, *others = _parameters(content_type).get("boundary", [""])
    if others:
        raise InvalidParameter("The Content-Type has more than one boundary. Leave that header to the HTTP client.")
    if not boundary:
        raise InvalidParameter(
            "The Content-Type is multipart/form-data without a boundary. Leave that header to the HTTP client: it "
            "knows the boundary that it writes."
        )
    if len(boundary) > MAX_SHOWN or not boundary.isascii():  # RFC 2046, 5.1.1: at most 70 ASCII characters
        raise InvalidParameter("The boundary of the form is too long or not ASCII; RFC 2046 allows 70 characters.")
    return b"--" + boundary.encode()


def _parameters(header: str) -> dict[str, list[str]]:
    try:
        return parameters_of(header)
    except ValueError as error:
        raise InvalidParameter(f"A header of the form cannot be read, as {error}: {_shown(header)}") from error


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _shown(name: str) -> str:
    """Return the beginning of it, in one line."""
    shown = name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}…"
    return (
        shown if shown.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in shown)
    )
