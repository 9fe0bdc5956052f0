"""`app/images/sniff.py`: names of other formats, and advice to the client."""

import base64
import gzip
import io
import json
import lzma
import zipfile
import zlib

import pytest
from PIL import Image

from app.errors import UnreadableImage, UnsupportedImage
from app.images.decode import Limits, open_image
from app.images.sniff import explain, format_of
from tests.references.draw import draw_picture
from tests.support.images import encode

FORMATS = ("jpeg", "png", "avif")
PNG = encode(draw_picture(40, 30))
JPEG = encode(draw_picture(40, 30), "JPEG")


def boxes(brand: bytes, *compatible: bytes) -> bytes:
    head = b"ftyp" + brand + b"\0\0\0\0" + b"".join(compatible)
    return (len(head) + 4).to_bytes(4) + head + bytes(40)


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jpg", data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (boxes(b"heic", b"mif1", b"heic"), "HEIC"),
        (boxes(b"mif1", b"mif1", b"heic"), "HEIC"),
        (boxes(b"mif1", b"mif1"), "HEIF"),
        (boxes(b"isom", b"isom", b"mp42"), "video"),
        (boxes(b"qt  "), "video"),
        (boxes(b"crx "), "CR3"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000"),
        (b"\xff\x4f\xff\x51" + bytes(40), "JPEG 2000"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "PDF"),
        (b"8BPS\0\1" + bytes(40), "PSD"),
        (b"\0\0\1\0\1\0" + bytes(40), "ICO"),
        (b"v/1\x01" + bytes(40), "OpenEXR"),
        (bytes(128) + b"DICM" + bytes(40), "DICOM"),
        (b"\x1aE\xdf\xa3" + bytes(40), "WebM"),
        (b"RIFF\0\0\0\0AVI " + bytes(40), "AVI"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(40), "CR2"),
        (b"FUJIFILMCCD-RAW " + bytes(40), "camera raw"),
        (b"P6\n2 2\n255\n" + bytes(12), "Netpbm"),
        (b"\x93NUMPY\1\0" + bytes(40), "NumPy"),
        (b"qoif" + bytes(40), "QOI"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_formats_are_named(data: bytes, name: str) -> None:
    """The refusal of a format that is not read names it, and lists the formats that are read."""
    with pytest.raises(UnsupportedImage) as refusal:
        open_image(data, Limits(1_000_000))

    assert name in refusal.value.detail
    assert "not read; send JPEG, PNG" in refusal.value.detail


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(JPEG), "packed with gzip; unpack"),
        (zipped(JPEG), "packed with zip; unpack"),
        (zlib.compress(JPEG), "packed with zlib; unpack"),
        (lzma.compress(JPEG), "packed with xz; unpack"),
        (b"BZh91AY&SY" + bytes(range(256)), "packed with bzip2; unpack"),
        (b"\x28\xb5\x2f\xfd" + bytes(range(256)), "packed with zstd; unpack"),
        (json.dumps({"image": base64.b64encode(JPEG).decode()}).encode(), "JSON; decode its base64"),
        (json.dumps({"instances": [{"b64": base64.b64encode(PNG).decode()}]}, indent=2).encode(), "decode its base64"),
        (b'{"url": "https://example.org/a.jpg"}', "JSON, which is not read"),
        (b"data:image/png;base64," + base64.b64encode(PNG), "data URL; decode"),
        (b'"data:image/png;base64,' + base64.b64encode(PNG) + b'"', "data URL; decode"),
        (base64.b64encode(JPEG), "base64; decode"),
        (base64.encodebytes(PNG), "base64; decode"),
        (base64.urlsafe_b64encode(JPEG), "base64; decode"),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "HTML page"),
        (b"<html><head><title>403</title></head></html>", "HTML page"),
        (b"https://example.org/cat.jpg\n", "URL"),
        (b'--abc\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + JPEG, "send Content-Type: multipart"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS"),
        (str(JPEG).encode(), "Python bytes"),
        (JPEG.hex().encode(), "hexadecimal"),
        (b"@photos/cat.jpg", "name of a file"),
        (JPEG.decode("utf-8", "replace").encode(), "as if they were text"),
        (PNG.replace(b"\r\n", b"\n"), "as if they were text"),
        (b"hello, this is a text\n", "text, not an image"),
        (bytes(1000), "all zero"),
    ],
)
def test_the_advice_fits_the_body(data: bytes, words: str) -> None:
    """The refusal of a body without an image, or with a wrapped one, says what it is and what to send."""
    with pytest.raises(UnsupportedImage) as refusal:
        open_image(data, Limits(1_000_000))

    assert words in refusal.value.detail


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF"])
def test_a_truncated_image_is_damaged_and_not_unknown(kind: str) -> None:
    """A truncated file of a supported format is never called unknown."""
    data = encode(Image.new("RGB", (64, 64), "red"), kind)[:24]

    assert format_of(data) == kind.lower()
    with pytest.raises((UnreadableImage, UnsupportedImage)) as refusal:
        open_image(data, Limits(1_000_000))
    assert kind in refusal.value.detail
    assert "none of" not in refusal.value.detail


def test_unknown_bytes_are_called_unknown() -> None:
    """The refusal of unknown bytes lists the formats."""
    assert explain(b"\x07\x03\x9f" * 30, FORMATS) == "The bytes are none of JPEG, PNG, AVIF."


def test_long_bodies_are_not_read_to_their_end() -> None:
    """Only the beginning of a body of 64 MiB is examined, because patterns take time in proportion to it."""
    assert "base64" in explain(base64.b64encode(JPEG)[:400] + b"A" * 2**26, FORMATS)
    assert "text, not an image" in explain(b"<!--" * 2**24, FORMATS)
