"""The user's images: files, folders, and those that are left out."""

import os
from pathlib import Path

import pytest

from app.bundle.load import Bundle
from app.errors import StartError
from app.images.reading import ImageReader, image_reader
from app.settings import Settings
from app.tuning import samples
from app.tuning.samples import Samples, read_samples

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

    assert any("large.png: The image is longer than 1 MiB" in reason for reason in found.left_out)


def test_a_pipe_is_left_out(folder: Path, reader: ImageReader) -> None:
    """Reading a pipe would wait for another process."""
    os.mkfifo(folder / "pipe.png")

    found = read_samples([folder], reader, MEGABYTE)

    assert any("pipe.png: The file cannot be read: it is not a regular file" in reason for reason in found.left_out)


def test_without_any_image_there_is_nothing_to_measure(folder: Path, reader: ImageReader) -> None:
    """The sentence names a file and its fault."""
    (folder / "more" / "two.png").unlink()
    (folder / "one.png").write_bytes(b"damaged")

    with pytest.raises(StartError, match=rf"^--images: {folder}/notes.txt: The content is text"):
        read_samples([folder / "notes.txt"], reader, MEGABYTE)
    with pytest.raises(StartError, match=r"^--images: none of the 2 files can be used; .*: The (image|content) .*\.$"):
        read_samples([folder], reader, MEGABYTE)
    with pytest.raises(StartError, match=r"^--images: there are no files in .*more$"):
        read_samples([folder / "more"], reader, MEGABYTE)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "No such file or directory"),
        ("notes.txt/below", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("nul\0", "embedded null byte"),
    ],
)
def test_a_path_that_cannot_be_read_is_named(folder: Path, reader: ImageReader, name: str, reason: str) -> None:
    """The sentence has the reason of the system."""
    with pytest.raises(StartError, match=rf"^--images: cannot read .*: {reason}$"):
        read_samples([folder / "one.png", folder / name], reader, MEGABYTE)


@pytest.fixture
def png(demo: Bundle) -> bytes:
    return (demo.folder / "golden/one.png").read_bytes()


@pytest.fixture
def many(png: bytes, tmp_path: Path) -> Path:
    """Return a folder of 40 images. Each is longer than the same image by the number in its name."""
    for number in range(40):
        (tmp_path / f"{number:02}.png").write_bytes(png + bytes(number))
    return tmp_path


def numbers(found: Samples, png: bytes) -> list[int]:
    return [len(image) - len(png) for image in found.images]


def test_images_are_in_a_random_order(many: Path, png: bytes, reader: ImageReader) -> None:
    """The order does not follow the names, and is the same in each run."""
    found = numbers(read_samples([many], reader, MEGABYTE), png)

    assert sorted(found) == [*range(40)]
    assert found != sorted(found)
    assert found == numbers(read_samples([many], reader, MEGABYTE), png)


def test_of_many_images_a_random_part_is_used(
    many: Path, png: bytes, reader: ImageReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part spans the whole list, and the remark has the numbers."""
    monkeypatch.setattr(samples, "MAX_IMAGES", 10)

    found = read_samples([many], reader, MEGABYTE)

    assert (len(found.images), found.found) == (10, 40)
    assert min(numbers(found, png)) < 20 <= max(numbers(found, png))
    assert found.remark == "10 of 40 files are read, chosen at random: the maximum is 10 images"


def test_images_are_found_among_many_other_files(
    many: Path, reader: ImageReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are no images do not count against the number of images."""
    monkeypatch.setattr(samples, "MAX_IMAGES", 40)
    for number in range(100):
        (many / f"{number}.txt").write_text("no image")

    found = read_samples([many], reader, MEGABYTE)

    assert len(found.images) == 40


def test_the_number_of_files_is_bounded(folder: Path, reader: ImageReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million texts are not read for a few images. The sentence has the bound."""
    monkeypatch.setattr(samples, "MAX_FILES", 30)
    texts = folder / "texts"
    texts.mkdir()
    for number in range(40):
        (texts / f"{number}.txt").write_text("no image")

    with pytest.raises(StartError, match=r"; 30 of 40 files are read, chosen at random: the maximum is 30 files$"):
        read_samples([texts], reader, MEGABYTE)


def test_the_bytes_that_are_read_are_bounded(many: Path, reader: ImageReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound counts all files, also those that are no images."""
    monkeypatch.setattr(samples, "MAX_READ_BYTES", 100_000)
    for path in many.iterdir():
        path.write_bytes(b"no image" + bytes(20_000))

    with pytest.raises(StartError, match=r"; 5 of 40 files are read, .* MiB of files$"):
        read_samples([many], reader, MEGABYTE)


def test_the_bytes_of_all_images_are_bounded(
    tmp_path: Path, png: bytes, reader: ImageReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first image that does not fit ends the reading: all small ones after it would be too many of the sample."""
    monkeypatch.setattr(samples, "MAX_BYTES", 100_000)
    for number in range(40):
        (tmp_path / f"large {number}.png").write_bytes(png + bytes(10_000))
        (tmp_path / f"small {number}.png").write_bytes(png)

    found = read_samples([tmp_path], reader, MEGABYTE)

    small = sum(len(image) == len(png) for image in found.images)
    assert len(found.images) - small == 9
    assert 0 < small < 20
    assert found.remark is not None
    assert found.remark.startswith(f"{len(found.images)} of 80 files are read")


def test_an_image_above_the_bound_is_said_to_be_too_long(
    many: Path, reader: ImageReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence is about the size, although the service would read the image. The others are used."""
    monkeypatch.setattr(samples, "MAX_IMAGE_BYTES", MEGABYTE)
    (many / "giant.png").write_bytes((many / "00.png").read_bytes() + bytes(MEGABYTE))

    with pytest.raises(StartError, match=r"^--images: .*/giant.png: The image is longer than 1 MiB\.$"):
        read_samples([many / "giant.png"], reader, 2 * MEGABYTE)
    assert len(read_samples([many], reader, 2 * MEGABYTE).images) == 40
