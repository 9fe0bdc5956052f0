"""Files of folders: their order, and those that are left out. Contents of files: see `tests/scoring/test_items.py`."""

from pathlib import Path

import pytest

from app.errors import StartError
from app.images.files import files_of, is_folder


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names_of(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in files_of(folder)]


def test_files_come_before_folders(tmp_path: Path) -> None:
    """Both are sorted by name, in each folder."""
    write(tmp_path, "a/z.png", "a/b.png", "z.png", "b.png")

    assert names_of(tmp_path) == ["b.png", "z.png", "a/b.png", "a/z.png"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    """A folder that is named itself can be hidden, or be in a hidden folder."""
    write(tmp_path, ".photos/a.png", ".photos/.b.png", ".photos/.git/c.png")

    assert names_of(tmp_path / ".photos") == ["a.png"]


def test_chosen_folders_are_not_entered(tmp_path: Path) -> None:
    """A path that is left out takes all below it along."""
    write(tmp_path, "a.png", "rows/b.png")

    assert [*files_of(tmp_path, lambda path: path.name == "rows")] == [tmp_path / "a.png"]


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    """Links to folders are not followed."""
    write(tmp_path, "a.png")
    (tmp_path / "loop").symlink_to(tmp_path)

    assert names_of(tmp_path) == ["a.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Here, it does not exist: permissions do not stop the superuser."""
    with pytest.raises(StartError, match=rf"^cannot read the folder {tmp_path}/missing: No such file or directory$"):
        names_of(tmp_path / "missing")


@pytest.mark.parametrize("name", ["x" * 300, "nul\0", "file", "file/below"])
def test_a_name_that_the_system_refuses_is_no_folder(tmp_path: Path, name: str) -> None:
    """`is_folder` raises no error: the reader of the file has the reason."""
    write(tmp_path, "file")

    assert not is_folder(tmp_path / name)
