"""The images of `swin-serve bench`: which files of which folders, in which order, and how many."""

import os
from pathlib import Path

import pytest

from app.cli.bench_images import read_images
from app.errors import StartError

PNG = b"\x89PNG\r\n\x1a\n"


def write(folder: Path, *names: str, content: bytes = PNG) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content + name.encode())


def names_of(arguments: list[Path], folder: Path, max_bytes: int = 10_000) -> tuple[list[str], list[str]]:
    found = read_images([str(each) for each in arguments], max_bytes)
    return [str(Path(image.name).relative_to(folder)) for image in found.images], list(found.left_out)


def test_a_folder_is_its_images_by_name(tmp_path: Path) -> None:
    """Folders in it are part of it. Hidden files and folders are left out without a word."""
    write(tmp_path, "b.png", "a.png", "inner/c.png", ".hidden.png", ".git/d.png")

    assert names_of([tmp_path], tmp_path) == (["a.png", "b.png", "inner/c.png"], [])


def test_other_files_of_a_folder_are_counted(tmp_path: Path) -> None:
    """A text, a NumPy array and a broken link are no images."""
    write(tmp_path, "a.png")
    write(tmp_path, "notes.txt", content=b"a text")
    write(tmp_path, "logits.npy", content=b"\x93NUMPY")
    (tmp_path / "broken.png").symlink_to(tmp_path / "missing.png")

    images, (sentence,) = names_of([tmp_path], tmp_path)
    assert images == ["a.png"]
    assert sentence.endswith("left out: 3.")


def test_a_named_file_may_hold_anything(tmp_path: Path) -> None:
    """The service decides on it. Files are in the order in which they are given, and as often."""
    write(tmp_path, "b.png")
    write(tmp_path, "a.bin", content=b"raw")

    images = [tmp_path / "b.png", tmp_path / "a.bin", tmp_path / "b.png"]
    assert names_of(images, tmp_path) == (["b.png", "a.bin", "b.png"], [])


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Images beyond the room are left out and counted. A smaller one after them still fits."""
    write(tmp_path, "a.png", "b.png")
    write(tmp_path, "c.png", content=PNG + bytes(10))
    write(tmp_path, "d.png")

    images, (sentence,) = names_of([tmp_path], tmp_path, max_bytes=40)
    assert images == ["a.png", "b.png", "d.png"]
    assert sentence.endswith(": 1.")


@pytest.mark.parametrize("name", ["missing.png", "pipe", "x" * 300])
def test_a_named_file_must_be_readable(tmp_path: Path, name: str) -> None:
    """The sentence names the file and the reason."""
    if name == "pipe":
        os.mkfifo(tmp_path / name)
    with pytest.raises(StartError, match=rf"{name}: The file cannot be read: "):
        read_images([str(tmp_path / name)])


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    """The sentence names the folder, and what was left out."""
    write(tmp_path, "notes.txt", content=b"a text")

    with pytest.raises(StartError, match=rf"^there is no image in {tmp_path}; .* left out: 1\.$"):
        read_images([str(tmp_path)])
