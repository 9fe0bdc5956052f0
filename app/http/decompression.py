"""Compressed request bodies: gzip and deflate, decompressed in pieces of bounded size. Knows no request."""

import zlib
from collections.abc import Iterator, Sequence

from app.errors import InvalidBody, UnsupportedEncoding
from app.http.request_head import Scope
from app.validation_messages import shorten

# Limit in bytes of one piece of a decompressed body.
PIECE_BYTES = 2**16

# The window sizes that tell zlib which header to expect. HTTP's deflate is the zlib format (RFC 9110, section 8.4.1.2).
WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Decompressor:
    """A compressed body, decompressed as it arrives."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._stream = zlib.decompressobj(WINDOW_BITS[coding])

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next piece of the body decompresses to. A bomb is expanded only as far as it is read.

        Raises:
            InvalidBody: the body is damaged, or continues behind the end of the compressed data.
        """
        is_more = bool(data)
        while is_more:
            if self._stream.eof:
                raise InvalidBody(f"The body continues behind the end of its {self._coding} data.")
            try:
                piece = self._stream.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise InvalidBody(f"The {self._coding} data of the body is damaged.") from error
            yield piece
            data = self._stream.unused_data or self._stream.unconsumed_tail
            # A full piece can have a rest inside of zlib, although all input was read.
            is_more = bool(data) or (len(piece) == PIECE_BYTES and not self._stream.eof)

    def check_end(self) -> None:
        """Check that the compressed data is complete. Call this method at the end of the body.

        Raises:
            InvalidBody: the end of the compressed data is missing.
        """
        if not self._stream.eof:
            raise InvalidBody(f"The {self._coding} data of the body is not complete.")


def content_codings(scope: Scope) -> list[str]:
    """Return the codings of a request's body, without `identity`."""
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"content-encoding"]
    codings = [part.strip() for value in values for part in value.split(",")]
    return [coding for coding in codings if coding.lower() not in {"", "identity"}]


def decompressor_of(codings: Sequence[str]) -> Decompressor | None:
    """Return a decompressor for the codings of a body, or None if it has none.

    Raises:
        UnsupportedEncoding: the service cannot decompress the body.
    """
    if not codings:
        return None
    if len(codings) > 1 or codings[0].lower() not in WINDOW_BITS:
        raise UnsupportedEncoding(
            f"The body has Content-Encoding: {shorten(', '.join(codings))}. Send it as gzip, as deflate, or as it is.",
            accepted="gzip, deflate, identity",
        )
    return Decompressor(codings[0].lower())
