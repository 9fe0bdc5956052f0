"""`app/scoring/items.py`: pixels of files and contents, or the reason why there are none."""

import os
from pathlib import Path

import numpy as np
import pytest

from app.bundle.load import Bundle
from app.images.decode import Limits
from app.images.reading import ImageReader
from app.scoring.items import Item, pixels_of
from tests.scoring.drawn import drawn


@pytest.fixture
def reader(demo: Bundle) -> ImageReader:
    return ImageReader(demo.manifest.preprocessing, Limits())


def test_a_file_and_its_content_have_the_same_pixels(reader: ImageReader, tmp_path: Path) -> None:
    """The pixels of an image do not depend on where it comes from."""
    (data,) = drawn(1)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    of_file, of_content = pixels_of(Item("a", path), reader), pixels_of(Item("a", content=data), reader)

    assert isinstance(of_file, np.ndarray)
    assert np.array_equal(of_file, of_content)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "The file cannot be read: No such file or directory."),
        ("folder", "The file cannot be read: Is a directory."),
        ("pipe", "The file cannot be read: it is not a regular file."),
        ("nul\0", "The file cannot be read: embedded null byte."),
        ("text", "The content is text, not an image; send the bytes of the image itself."),
        ("empty", "The image is empty."),
        ("large", "The image is longer than 0.5 MiB."),
    ],
)
def test_a_bad_file_has_a_reason(reader: ImageReader, tmp_path: Path, name: str, reason: str) -> None:
    """Each file that is no image has one sentence, and none of them blocks."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("not an image")
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(bytes(2**19 + 1))

    assert pixels_of(Item(name, tmp_path / name), reader, 2**19) == reason


def test_a_row_without_an_image_has_a_reason(reader: ImageReader) -> None:
    """A row with neither a path nor content is not an error of the run."""
    assert pixels_of(Item("table.csv#3"), reader) == "The row has no image."


def test_the_size_of_content_is_bounded(reader: ImageReader) -> None:
    """Content above the maximum is refused without being decoded."""
    assert pixels_of(Item("a", content=bytes(9)), reader, 8) == f"The image is longer than {8 / 2**20:g} MiB."
