"""Tests of `model_export/evaluation/dataset.py`."""

from pathlib import Path

import pytest

from app.bundle.manifest import Label
from model_export.errors import RequestError
from model_export.evaluation.dataset import LabeledImage, list_images, subsample

LABELS = (
    Label(name="tench, Tinca tinca", wnid="n01440764"),
    Label(name="crane", wnid="n02012849"),
    Label(name="crane", wnid="n03126707"),
)


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "1.jpg").touch()
    return root


@pytest.mark.parametrize("name", ["tench, Tinca tinca", "n01440764", "0"])
def test_a_folder_is_named_by_label_id_or_index(name: str, tmp_path: Path) -> None:
    """A folder can be named by label, WordNet id or index."""
    assert list_images(folders(tmp_path, name), LABELS) == [LabeledImage(tmp_path / name / "1.jpg", 0)]


def test_a_table_is_read(tmp_path: Path) -> None:
    """Paths are relative to the file, columns have any order, and a byte order mark is skipped."""
    (tmp_path / "a.csv").write_text("wnid,path\nn03126707,x/1.jpg\nn01440764,2.jpg\n", encoding="utf-8-sig")

    images = list_images(tmp_path / "a.csv", LABELS)

    assert images == [LabeledImage(tmp_path / "x/1.jpg", 2), LabeledImage(tmp_path / "2.jpg", 0)]


def test_a_name_of_two_classes_is_refused(tmp_path: Path) -> None:
    """A name of two classes is refused, and the error lists unambiguous names."""
    with pytest.raises(RequestError, match="2 classes have the name crane; use n02012849 or n03126707 instead"):
        list_images(folders(tmp_path, "crane"), LABELS)


def test_unknown_folders_are_listed(tmp_path: Path) -> None:
    """The error lists the first five unknown folders and the number of the others."""
    data = folders(tmp_path, "0", *(f"unknown-{number}" for number in range(7)))

    with pytest.raises(RequestError, match=r"name unknown-0, .*, unknown-4 and 2 more;"):
        list_images(data, LABELS)


def test_a_number_is_a_label_if_labels_are_numbers(tmp_path: Path) -> None:
    """With the labels 1, 2 and 3, a folder 1 belongs to the first class, and a folder 0 is unknown."""
    labels = [Label(name=name, wnid=None) for name in "123"]

    assert list_images(folders(tmp_path / "a", "1"), labels)[0].target == 0
    with pytest.raises(RequestError, match="no class of the bundle has the name 0"):
        list_images(folders(tmp_path / "b", "0"), labels)


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    """Hidden files and folders, such as .DS_Store and .git, are skipped."""
    data = folders(tmp_path, "0", ".git")
    (data / "0" / ".DS_Store").touch()

    assert [image.path.name for image in list_images(data, LABELS)] == ["1.jpg"]


def test_only_the_given_classes_are_listed(tmp_path: Path) -> None:
    """With `classes`, images of other classes are omitted."""
    data = folders(tmp_path, "0", "1", "2")

    assert [image.target for image in list_images(data, LABELS, ["n02012849"])] == [1]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("1.jpg,crane\n", "the first line must name the columns"),
        ("path,label,index\n", "the first line must name the columns"),
        ("path,wnid\n", "there are no images"),
        ("path,index\n1.jpg,3\n", "no class of the bundle has the name 3"),
        ('path,index\n"1.jpg,3\n', "cannot be read as CSV"),
    ],
)
def test_an_invalid_table_is_refused(table: str, reason: str, tmp_path: Path) -> None:
    """A table with a wrong header, no rows, an unknown class or broken quotes is refused."""
    (tmp_path / "a.csv").write_text(table)

    with pytest.raises(RequestError, match=reason):
        list_images(tmp_path / "a.csv", LABELS)


def test_a_subsample_is_evenly_spread() -> None:
    """A subsample is evenly spread and includes both ends; a limit above the number of images returns all."""
    images = [LabeledImage(Path(str(number)), number) for number in range(100)]

    assert [image.target for image in subsample(images, 4)] == [0, 33, 66, 99]
    assert subsample(images, 1000) == images
