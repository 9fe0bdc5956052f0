"""The user's images: files, folders, and those that are left out."""

from pathlib import Path

import pytest

from app.bundle.load import Bundle
from app.errors import StartError
from app.images.reading import ImageReader, image_reader
from app.settings import Settings
from app.tuning import samples
from app.tuning.samples import read_samples

MEGABYTE = 2**20


@pytest.fixture
def reader(demo: Bundle) -> ImageReader:
    return image_reader(Settings(), demo.manifest.preprocessing)


@pytest.fixture
def folder(demo: Bundle, tmp_path: Path) -> Path:
    """Return a folder with two images, one of them in another folder, and files that are no images."""
    (tmp_path / "more").mkdir()
    (tmp_path / "one.png").write_bytes((demo.folder / "golden/one.png").read_bytes())
    (tmp_path / "more" / "two.png").write_bytes((demo.folder / "golden/two.png").read_bytes())
    (tmp_path / ".hidden.png").write_bytes((demo.folder / "golden/three.png").read_bytes())
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_is_read_with_its_folders(folder: Path, reader: ImageReader) -> None:
    """Hidden files are left out silently, other files that are no images by name."""
    found = read_samples([folder], reader, MEGABYTE)

    contents = {(folder / name).read_bytes() for name in ("one.png", "more/two.png")}
    assert {*found.images} == contents
    assert [reason.partition(":")[0] for reason in found.left_out] == [str(folder / "notes.txt")]


def test_files_can_be_named(folder: Path, reader: ImageReader) -> None:
    """Files and folders can be mixed."""
    assert len(read_samples([folder / "one.png", folder / "more"], reader, MEGABYTE).images) == 2


def test_an_image_that_the_service_would_refuse_is_left_out(folder: Path, reader: ImageReader) -> None:
    """The limit of the body applies."""
    (folder / "large.png").write_bytes((folder / "one.png").read_bytes() + bytes(MEGABYTE))

    found = read_samples([folder], reader, MEGABYTE)

    assert any("large.png: it is longer than 1 MiB" in reason for reason in found.left_out)


def test_without_any_image_there_is_nothing_to_measure(folder: Path, reader: ImageReader) -> None:
    """The sentence names the first file and its fault."""
    with pytest.raises(StartError, match=r"none of the 1 files is an image .*notes.txt"):
        read_samples([folder / "notes.txt"], reader, MEGABYTE)
    with pytest.raises(StartError, match="there is no file or folder"):
        read_samples([folder / "missing"], reader, MEGABYTE)


def test_of_many_images_an_even_part_is_used(
    folder: Path, reader: ImageReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part spans the whole list: photos of a camera are sorted by time."""
    (folder / "notes.txt").unlink()
    for number in range(40):
        (folder / f"{number:02}.png").write_bytes((folder / "one.png").read_bytes() + bytes(number))
    monkeypatch.setattr(samples, "MAX_IMAGES", 4)

    found = read_samples([folder], reader, MEGABYTE)

    sizes = [len(image) for image in found.images]
    assert (len(sizes), found.found) == (4, 42)
    assert sizes == sorted(sizes)
    assert sizes[-1] - sizes[0] >= 20
