"""File formats by their first bytes, and advice on what to send instead. Decodes no image."""

import base64
import binascii
import re
from collections.abc import Callable, Sequence

# The first bytes of a body that are examined.
MAX_EXAMINED = 4096

# Signatures of formats: offset, bytes and name. The names of formats that swin-serve may read are
# in lower case.
SIGNATURES = (
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (0, b"BM", "bmp"),
    (8, b"WEBP", "webp"),
    (8, b"CR\x02", "Canon CR2 (camera raw)"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (0, b"II+\0", "tiff"),
    (0, b"MM\0+", "tiff"),
    (0, b"MM*\0", "tiff"),
    (0, b"II\0*", "tiff"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"\xff\xd8", "jpeg"),
    (0, b"%PDF-", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"\0\0\x01\0", "an icon (ICO)"),
    (0, b"\0\0\x02\0", "a cursor (CUR)"),
    (0, b"icns", "an icon (ICNS)"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (128, b"DICM", "DICOM"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"gimp xcf", "GIMP (XCF)"),
    (0, b"farbfeld", "farbfeld"),
    (0, b"FLIF", "FLIF"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"\x01\xda", "SGI"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"\xd7\xcd\xc6\x9a", "Windows metafile (WMF)"),
    (40, b" EMF", "Windows metafile (EMF)"),
    (0, b"\xab\x4b\x54\x58\x20", "KTX"),
    (0, b"SDPX", "DPX"),
    (0, b"XPDS", "DPX"),
    (0, b"/* XPM", "XPM"),
    (0, b"#define ", "XBM"),
    (0, b"FUJIFILMCCD-RAW", "Fujifilm RAF (camera raw)"),
    (0, b"IIRO", "Olympus ORF (camera raw)"),
    (0, b"IIRS", "Olympus ORF (camera raw)"),
    (0, b"MMOR", "Olympus ORF (camera raw)"),
    (0, b"IIU\0", "Panasonic RW2 (camera raw)"),
    (0, b"FOVb", "Sigma X3F (camera raw)"),
    (0, b"\0MRM", "Minolta MRW (camera raw)"),
    (0, b"\x1aE\xdf\xa3", "a video (WebM or Matroska)"),
    (8, b"AVI ", "a video (AVI)"),
    (8, b"WAVE", "sound (WAV)"),
    (0, b"FLV\x01", "a video (FLV)"),
    (0, b"\0\0\x01\xba", "a video (MPEG)"),
    (0, b"\0\0\x01\xb3", "a video (MPEG)"),
    (0, b"OggS", "Ogg (sound or a video)"),
    (0, b"ID3", "sound (MP3)"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a video (WMV)"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of Microsoft Office"),
    (0, b"SQLite format 3\0", "a SQLite database"),
    (0, b"\x7fELF", "a program"),
)

# Signatures of archives and compressed bodies.
PACKED = (
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (0, b"Rar!\x1a\x07", "RAR"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"\x1f\x9d", "compress (.Z)"),
    (257, b"ustar", "tar"),
)
# The possible headers of a zlib stream with a window of 32 KiB (RFC 1950). zlib has no signature.
ZLIB = {b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"}

# The formats of files of boxes (ISO/IEC 14496-12), by brand.
BRANDS = {
    b"avif": "avif",
    b"avis": "avif",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"heim": "HEIC",
    b"heis": "HEIC",
    b"hevc": "HEIC",
    b"hevx": "HEIC",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
    b"crx ": "Canon CR3 (camera raw)",
    b"jp2 ": "JPEG 2000",
    b"jxl ": "JPEG XL",
}

# The beginnings of images in which every byte above 127 was replaced or encoded as if the file were
# text.
TEXT_MANGLED = (
    b"\xef\xbf\xbdPNG",
    b"\xc2\x89PNG",
    b"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd",
    b"\xc3\xbf\xc3\x98\xc3\xbf",
)
# The signature of a PNG contains both kinds of line ends, so that a transfer that changes them is
# detected.
LINE_ENDS_CHANGED = re.compile(rb"\x89PNG(?!\r\n\x1a\n)[\r\n\x1a]")

BASE64 = re.compile(rb"[A-Za-z0-9+/_\-\s]{24,}=*\s*\Z")
BASE64_OF_IMAGE = re.compile(rb"/9j/|_9j_|iVBORw0KGgo|R0lGOD|UklGR|Qk[0-3]|SUkq|TU0A")
HEX_OF_IMAGE = re.compile(rb"(?:0x)?(?:ffd8ff|89504e470d0a|474946383[79]61|52494646|49492a00|4d4d002a)", re.IGNORECASE)
DATA_URL = re.compile(rb"""["']?data:[\w/+.\-]*[;,]""", re.IGNORECASE)
URL = re.compile(rb"""["']?(?:https?|ftp|file|s3|gs|blob)://\S+["']?\s*\Z""", re.IGNORECASE)
FILE_NAME = re.compile(rb"@?[\w./\\:~ \-]{1,255}\.(?:jpe?g|png|webp|gif|bmp|tiff?|avif|heic)\s*\Z", re.IGNORECASE)
MULTIPART = re.compile(rb"(?:\r?\n)?--[^\r\n]{1,200}\r?\n(?:[^\r\n]+\r?\n)*?content-disposition:", re.IGNORECASE)
HTML = re.compile(
    rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|title|script)\b",
    re.IGNORECASE | re.DOTALL,
)
SVG = re.compile(
    rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!doctype\s+svg[^>]*>\s*)?<(?:svg:)?svg\b", re.IGNORECASE | re.DOTALL
)
PYTHON_BYTES = re.compile(rb"""b["']\\x[0-9a-f]{2}|b["'](?:GIF8|BM|RIFF)""", re.IGNORECASE)
NETPBM = re.compile(rb"P[1-7F]\s")
GIT_LFS = re.compile(rb"version https://git-lfs")
XML = re.compile(rb"<\?xml\b|<[A-Za-z!][^<]{0,200}>")
FORM = re.compile(rb"[\w.\[\]\-]{1,64}=[^\s]{16,}\Z")

ADVICE = "send the bytes of the image itself"


def format_of(data: bytes) -> str:
    """Return the format by its signature, or an empty text.

    The name is in lower case for a format that swin-serve may read, and a display name for any
    other format.
    """
    if data[4:8] == b"ftyp":
        return _of_boxes(data[: min(max(int.from_bytes(data[:4]), 16), 256)])
    if data[8:12] == b"WEBP" and data[:4] != b"RIFF":
        return ""
    return next((name for place, mark, name in SIGNATURES if data.startswith(mark, place)), "")


def explain(data: bytes, formats: Sequence[str]) -> str:
    """Return a sentence on what a body without a readable image is, and what to send instead."""
    data = data[:MAX_EXAMINED]
    wanted = _listed([name.upper() for name in formats])
    if not any(data):
        return f"The bytes are all zero; send {wanted}."
    if text := _of_text(data.removeprefix(b"\xef\xbb\xbf").lstrip()):
        return text
    if packed := _packing_of(data):
        return f"The content is packed with {packed}; unpack it and {ADVICE}."
    if name := format_of(data) or ("Netpbm (PBM, PGM, PPM)" if NETPBM.match(data) else ""):
        return f"The bytes are {name.upper() if name.islower() else name}, which is not read; send {wanted}."
    if _is_text(data):
        return f"The content is text, not an image; {ADVICE}."
    return f"The bytes are none of {', '.join(formats).upper()}."


def _packing_of(data: bytes) -> str:
    return next((name for place, mark, name in PACKED if data.startswith(mark, place)), "zlib" * (data[:2] in ZLIB))


def _listed(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _of_boxes(head: bytes) -> str:
    """Return the format by the major brand, then by the compatible brands.

    HEIF counts only if nothing else is found: HEIC and AVIF belong to its family.
    """
    brands = [head[8:12], *(head[place : place + 4] for place in range(16, len(head) - 3, 4))]
    found = [BRANDS[brand] for brand in brands if brand in BRANDS]
    return next((name for name in found if name != "HEIF"), next(iter(found), "a video (MP4 or QuickTime)"))


def _of_text(data: bytes) -> str:
    return next((words.format(ADVICE) for matches, words in WRAPPINGS if matches(data)), "")


def _is_json(data: bytes) -> bool:
    return data[:1] in {b"{", b"["} and _is_text(data)


def _is_json_of_base64(data: bytes) -> bool:
    return _is_json(data) and (b"base64" in data or BASE64_OF_IMAGE.search(data) is not None)


def _is_mangled_as_text(data: bytes) -> bool:
    return data.startswith(TEXT_MANGLED) or LINE_ENDS_CHANGED.match(data) is not None


def _is_text(data: bytes) -> bool:
    """Return whether the data is printable UTF-8. The last character may be cut off."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if error.start < len(data) - 3:  # not a character that is cut off at the end
            return False
        text = data[: error.start].decode()
    return all(letter.isprintable() or letter in "\r\n\t\f" for letter in text)


def _is_base64(data: bytes) -> bool:
    """Return whether the data is base64 of a known format or an archive."""
    head = re.sub(rb"\s", b"", data.strip(b"\"'"))[:64]
    head = head[: len(head) // 4 * 4]
    if not head or not BASE64.match(head):
        return False
    try:
        decoded = base64.b64decode(head, altchars=b"-_" if b"-" in head or b"_" in head else None, validate=True)
    except binascii.Error:
        return False
    return bool(format_of(decoded)) or any(decoded.startswith(mark, place) for place, mark, _ in PACKED)


# Tests for the beginning of a body, each with the sentence for the client. The first match counts.
WRAPPINGS: tuple[tuple[Callable[[bytes], object], str], ...] = (
    (
        _is_mangled_as_text,
        "The bytes of the image were changed as if they were text; {}, unchanged (curl: --data-binary).",
    ),
    (
        MULTIPART.match,
        (
            "The content is a form, but the Content-Type header field is not that of a form; "
            "send Content-Type: multipart/form-data with its boundary, as HTTP clients do by default."
        ),
    ),
    (DATA_URL.match, "The content is a data URL; decode what follows its comma and {}."),
    (SVG.match, "The bytes are SVG, which is not read; convert it to PNG and send the PNG."),
    (HTML.match, "The content is an HTML page (often a login or an error page), not an image; {}."),
    (_is_json_of_base64, "The content is JSON; decode its base64 and {}."),
    (_is_json, "The content is JSON, which is not read; {}."),
    (URL.match, "The content is a URL, and swin-serve does not download images; download the image and {}."),
    (_is_base64, "The content is base64; decode it and {}."),
    (HEX_OF_IMAGE.match, "The content is an image in hexadecimal digits; decode it and {}."),
    (PYTHON_BYTES.match, "The content is the text of a Python bytes object; {}."),
    (GIT_LFS.match, "The content is a Git LFS pointer, not the file; run git lfs pull and {}."),
    (FILE_NAME.match, "The content is the name of a file, not its content; {} (curl: --data-binary @FILE)."),
    (FORM.match, "The content is a form without a file (application/x-www-form-urlencoded); {}."),
    (XML.match, "The content is XML, not an image; {}."),
)
