"""Multipart forms (RFC 7578), read as they arrive. Knows nothing about image formats, timeouts or connections."""

import re
from collections.abc import Sequence

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError

from app.errors import InvalidParameter, UnsupportedEncoding
from app.http.header_parameters import parameters_of
from app.validation_messages import shorten

# Limit of text fields in a form. The service ignores their values, but clients send some.
MAX_TEXT_FIELDS = 16

# Limit of one text field in bytes.
MAX_TEXT_BYTES = 2**20

# Limits of the headers of a part. The clients of Java and .NET write up to six headers. The longest
# values are file names.
MAX_PART_HEADERS, MAX_HEADER_BYTES = 32, 4096

# Limit in bytes of the white space after the first boundary, which RFC 2046, section 5.1.1, allows.
MAX_PADDING = 128

# Limit of a boundary in characters. RFC 2046, section 5.1.1, allows 70.
MAX_BOUNDARY = 100

# The header of a part, anywhere in the body. If the parser finds fewer of them, an image is missing.
PART_HEADER = re.compile(rb"[\r\n]content-disposition[ \t]{0,8}:[ \t]{0,8}(?:form-data|attachment|file)", re.IGNORECASE)
# Limit in bytes of a match of `PART_HEADER`.
MAX_PART_HEADER = 60

# The beginnings of images in text form: data URLs, SVG, and base64 of JPEG, PNG, GIF, RIFF, TIFF and AVIF.
IMAGE_AS_TEXT = re.compile(
    rb"""(?:\A\s*+|["'])(?:data:image/|/9j/|_9j_|iVBORw0KGgo|R0lGOD[dl]h|UklGR|SUkqA|TU0AK)"""
    rb"|(?:\A\s*+|[\"'])AAAA..Z0eXB|<(?:svg:)?svg[\s>/]",
    re.IGNORECASE,
)
# Bytes of a text that are searched for an image.
MAX_SEARCHED_BYTES = 4096

# Encodings that do not change the content.
PLAIN_ENCODINGS = {"", "7bit", "8bit", "binary", "identity"}


def has_parts(content_type: str) -> bool:
    """Return whether a Content-Type is `multipart/form-data`."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


class Form:
    """The images of one field of a form, in the order of their parts.

    Each part of the image field is an image, with or without a file name. Text in other fields is
    dropped. An image in another field is refused: if it were dropped, the results would silently
    lack it.

    Args:
        content_type: the Content-Type of the request, with the boundary.
        fields: the names of the image field, of which messages say the first.
        max_images: the limit of images in the form.

    Raises:
        InvalidParameter: the content type has no boundary, or one that is not valid.
    """

    def __init__(self, content_type: str, fields: Sequence[str], max_images: int) -> None:
        self._image_fields, self._field, self._max_images = fields, fields[0], max_images
        self._images = list[bytes]()
        self._fields = list[str]()  # field names of the parts so far
        self._parts = 0
        self._is_complete = False
        self._headers_seen, self._headers_parsed = 0, 0  # matches of `PART_HEADER` in the body, and by the parser
        self._tail = b"\n"  # the end of the body so far, in which a `PART_HEADER` can begin
        self._preamble = bytearray(b"\n")  # its end; the line feed lets the first boundary begin a line
        self._boundary = _boundary(content_type)
        first = re.escape(self._boundary)
        self._first = re.compile(rb"\n" + first + rb"(--|[ \t]{0,%d}\r?\n)" % MAX_PADDING)
        self._hidden_boundary = re.compile(first + rb"(?:--|[ \t]{0,%d}+[\r\n])" % MAX_PADDING)
        self._parser: MultipartParser | None = None
        self._name, self._value, self._headers = b"", b"", dict[str, str]()

    def feed(self, data: bytes) -> None:
        """Read the next piece of the body.

        Raises:
            InvalidParameter: the form is malformed, has too many parts, or an image in another field.
            UnsupportedEncoding: a part has an encoding, such as base64.
        """
        self._count_headers(data)
        if self._is_complete:
            return  # the epilogue is ignored (RFC 2046, section 5.1.1)
        if self._parser is None:
            data = self._begin(data)
        if self._parser is not None:
            try:
                self._parser.write(data)
            except FormParserError as error:
                raise InvalidParameter(self._malformed_detail(str(error))) from error

    def images(self) -> list[bytes]:
        """Return the images. Call this method at the end of the body.

        Raises:
            InvalidParameter: the form is malformed, incomplete, or has no image.
        """
        if not self._is_complete:
            raise InvalidParameter(self._incomplete_detail())
        if self._headers_seen > self._headers_parsed:
            raise InvalidParameter(
                f"The form is malformed: it has {self._headers_seen} Content-Disposition headers, but only "
                f"{self._headers_parsed} parts with one. Put the boundary, {self._boundary.decode()}, before each part "
                "on a line of its own, between CRLF and CRLF, and the last boundary at the end."
            )
        if not self._images:
            others = ", ".join(f"'{name}'" for name in dict.fromkeys(self._fields))
            addition = f"; it has {others}" if others else ""
            raise InvalidParameter(f"The form has no file in a field named '{self._field}'{addition}.")
        return self._images

    def _malformed_detail(self, reason: str) -> str:
        """Return a sentence for a message of the parser."""
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
                f"{where}: a line of its headers is not a header. End each line in CRLF, and put an empty line between "
                "the headers and the content."
            )
        return f"{where}: the line of its boundary does not end in CRLF."

    def _count_headers(self, data: bytes) -> None:
        data, end = self._tail + data, 0
        for match in PART_HEADER.finditer(data):
            self._headers_seen, end = self._headers_seen + 1, match.end()
        self._tail = data[max(end, len(data) - MAX_PART_HEADER) :]

    def _incomplete_detail(self) -> str:
        boundary = self._boundary.decode("latin-1")
        if self._parser is None:
            return f"The form cannot be read: its first boundary, {boundary}, is missing or cut off."
        return f"The form is cut off in its part {self._parts}: its last boundary, {boundary}--, is missing."

    def _begin(self, data: bytes) -> bytes:
        """Open the parser at the first boundary. Return the bytes from there on, without the preamble."""
        self._preamble += data
        first = self._first.search(self._preamble)
        if first is None:
            del self._preamble[: -(len(self._boundary) + MAX_PADDING + 3)]
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
        beginning = self._boundary + first[1].lstrip(b" \t") + self._preamble[first.end() :]
        self._preamble = bytearray()
        return beginning

    def _on_part_begin(self) -> None:
        self._parts += 1
        self._headers = {}
        self._content, self._size = list[bytes](), 0

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers_parsed += PART_HEADER.match(b"\n" + self._name + b":" + self._value) is not None
        self._headers[self._name.decode("latin-1").lower()] = _text(self._value)
        self._name = self._value = b""

    def _on_headers_finished(self) -> None:
        parameters = _parameters(self._headers.get("content-disposition", ""))
        name, *others = parameters.get("name", [None])
        if name is None:
            raise InvalidParameter(f"Part {self._parts} of the form has no name; name it '{self._field}'.")
        if others:
            raise InvalidParameter(f"Part {self._parts} of the form has more than one name; name it '{self._field}'.")
        self._fields.append(shorten(name))
        self._is_image = name in self._image_fields
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
                    f"Part {self._parts} of the form has {header.title()}: {shorten(encoding)}. "
                    "Send the bytes of the image without this encoding."
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
        # A text has no zero byte, but images of all formats have some. An empty file is allowed, because
        # browsers send one for an empty file input.
        if self._is_file or b"\0" in piece:
            self._refuse_file()
        self._content.append(piece)

    def _on_part_end(self) -> None:
        content = b"".join(self._content)
        self._content = []
        self._refuse_hidden_boundary(content)
        if self._is_image:
            self._images.append(content)
        elif IMAGE_AS_TEXT.search(content[:MAX_SEARCHED_BYTES]):
            self._refuse_file()

    def _refuse_hidden_boundary(self, content: bytes) -> None:
        """Refuse a part that contains a boundary with a damaged line end, because the next part is inside it."""
        place = content.find(self._boundary)  # faster than the expression, and enough for most parts
        if place >= 0 and self._hidden_boundary.search(content, place):
            raise InvalidParameter(
                f"The form is malformed: a boundary in its part {self._parts} is not on a line of its own, between "
                "CRLF and CRLF."
            )

    def _on_end(self) -> None:
        self._is_complete = True


def _boundary(content_type: str) -> bytes:
    """Return the boundary with the two hyphens before it."""
    if len(content_type) > MAX_HEADER_BYTES:
        raise InvalidParameter(f"The Content-Type is longer than {MAX_HEADER_BYTES} bytes.")
    boundary, *others = _parameters(content_type).get("boundary", [""])
    if others:
        raise InvalidParameter("The Content-Type has more than one boundary. Leave that header to the HTTP client.")
    if not boundary:
        raise InvalidParameter(
            "The Content-Type is multipart/form-data without a boundary. Leave that header to the HTTP client, which "
            "chooses the boundary."
        )
    if len(boundary) > MAX_BOUNDARY or not boundary.isascii():
        raise InvalidParameter("The boundary of the form is too long or not ASCII; RFC 2046 allows 70 characters.")
    return b"--" + boundary.encode()


def _parameters(header: str) -> dict[str, list[str]]:
    try:
        return parameters_of(header)
    except ValueError as error:
        raise InvalidParameter(f"A header of the form cannot be read, because {error}: {shorten(header)}") from error


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
