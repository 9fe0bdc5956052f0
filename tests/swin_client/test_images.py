"""`swin_client/images.py`: the bytes of what can be classified."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image
from swin_client import Client, UnusableImage
from swin_client.images import is_url, reader_of

from tests.support.images import encode
from tests.support.served import Served


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_sent_as_they_are(kind: type[bytes]) -> None:
    """So are their mutable kinds."""
    assert reader_of(kind(b"abc"))() == b"abc"


def test_a_path_is_a_file(tmp_path: Path) -> None:
    """Strings and every kind of path name it."""
    path = tmp_path / "image"
    path.write_bytes(b"abc")
    with os.scandir(tmp_path) as entries:
        paths = [path, str(path), *entries]

    assert [reader_of(each)() for each in paths] == [b"abc"] * 3


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_read_is_an_error(name: str, tmp_path: Path) -> None:
    """The error names it, and has the error of the system as its cause."""
    with pytest.raises(UnusableImage, match=r"cannot read .*: ") as raised:
        reader_of(tmp_path / name)()
    assert isinstance(raised.value.__cause__, OSError)


@pytest.mark.parametrize("wrong", [None, 7, [b"abc"], object()])
def test_another_type_is_refused(wrong: object) -> None:
    """The program has to change it, so the error is not one of a call."""
    with pytest.raises(TypeError, match="give a path, a URL, bytes or an image of Pillow"):
        reader_of(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "is_one"),
    [("http://a/b", True), ("HTTPS://a", True), ("ftp://a", False), ("a/http://b", False), (b"http://a", False)],
)
def test_a_string_that_begins_as_one_is_a_url(image: str | bytes, is_one: bool) -> None:  # noqa: FBT001
    """Other strings are paths, and bytes are never a URL."""
    assert is_url(image) is is_one


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_images_of_all_modes_are_sent_as_png(mode: str) -> None:
    """A mode that PNG has is kept."""
    with Image.open(io.BytesIO(reader_of(Image.new(mode, (3, 2)))())) as image:
        assert (image.format, image.size) == ("PNG", (3, 2))
        assert image.mode == (mode if mode in {"1", "L", "LA", "P", "RGB", "RGBA"} else "RGB")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pillow_image_is_classified_as_its_file(orientation: int, service: Served, seven: Path) -> None:
    """Orientation and color profile of the file reach the service."""
    with Image.open(seven) as image:
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = encode(image.convert("RGB"), exif=exif)
    with Client(service.url) as client, Image.open(io.BytesIO(file)) as image:
        assert client.classify(image).predictions == client.classify(file).predictions


def test_the_color_profile_is_sent() -> None:
    """The service converts the colors, as it does for a file."""
    image = Image.new("RGB", (1, 1))
    image.info["icc_profile"] = b"profile"

    with Image.open(io.BytesIO(reader_of(image)())) as sent:
        assert sent.info["icc_profile"] == b"profile"


def test_a_damaged_image_of_pillow_is_an_error(seven: Path) -> None:
    """Pillow reads the pixels when they are encoded."""
    with Image.open(io.BytesIO(seven.read_bytes()[:60])) as image, pytest.raises(UnusableImage, match="cannot encode"):
        reader_of(image)()
