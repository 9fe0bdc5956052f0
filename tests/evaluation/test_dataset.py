"""`model_export/evaluation/dataset.py`: which class an image is of."""

from pathlib import Path

import pytest

from app.bundle.manifest import Label
from model_export.errors import RequestError
from model_export.evaluation.dataset import LabeledImage, read, subsample

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
    """Each of the three names the class."""
    assert read(folders(tmp_path, name), LABELS) == [LabeledImage(tmp_path / name / "1.jpg", 0)]


def test_the_table_says_how_it_names_classes(tmp_path: Path) -> None:
    """Paths are relative to the file, columns in any order, and a mark at the beginning of the file is not read."""
    (tmp_path / "a.csv").write_text("wnid,path\nn03126707,x/1.jpg\nn01440764,2.jpg\n", encoding="utf-8-sig")

    images = read(tmp_path / "a.csv", LABELS)

    assert images == [LabeledImage(tmp_path / "x/1.jpg", 2), LabeledImage(tmp_path / "2.jpg", 0)]


def test_a_name_of_two_classes_is_refused(tmp_path: Path) -> None:
    """The sentence says what to write instead."""
    with pytest.raises(RequestError, match="2 classes are called crane; say n02012849 or n03126707 instead"):
        read(folders(tmp_path, "crane"), LABELS)


def test_unknown_folders_are_listed(tmp_path: Path) -> None:
    """All are looked at before anything is said; the first five are named."""
    data = folders(tmp_path, "0", *(f"unknown-{number}" for number in range(7)))

    with pytest.raises(RequestError, match=r"called unknown-0, .*, unknown-4 and 2 more$"):
        read(data, LABELS)


def test_a_number_is_a_label_where_labels_are_numbers(tmp_path: Path) -> None:
    """With the labels 1, 2 and 3 a folder 1 is of the first class, and a folder 0 of none."""
    labels = [Label(name=name, wnid=None) for name in "123"]

    assert read(folders(tmp_path / "a", "1"), labels)[0].device_report == 0
    with pytest.raises(RequestError, match="no class of the bundle is called 0"):
        read(folders(tmp_path / "b", "0"), labels)


def test_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    """What file managers and version control leave behind."""
    data = folders(tmp_path, "0", ".git")
    (data / "0" / ".DS_Store").touch()

    assert [image.path.name for image in read(data, LABELS)] == ["1.jpg"]


def test_only_the_classes_asked_for(tmp_path: Path) -> None:
    """The images of all others are left out."""
    data = folders(tmp_path, "0", "1", "2")

    assert [image.device_report for image in read(data, LABELS, ["n02012849"])] == [1]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("1.jpg,crane\n", "the first line must name the columns"),
        ("path,label,index\n", "the first line must name the columns"),
        ("path,wnid\n", "there are no images"),
        ("path,index\n1.jpg,3\n", "no class of the bundle is called 3"),
        ('path,index\n"1.jpg,3\n', "cannot be read as CSV"),
    ],
)
def test_a_table_that_says_too_little_is_refused(table: str, reason: str, tmp_path: Path) -> None:
    """In a sentence."""
    (tmp_path / "a.csv").write_text(table)

    with pytest.raises(RequestError, match=reason):
        read(tmp_path / "a.csv", LABELS)


def test_a_few_of_many_are_spread() -> None:
    """Both ends are taken, and no image twice; more than there are is all."""
    images = [LabeledImage(Path(str(number)), number) for number in range(100)]

    assert [image.device_report for image in subsample(images, 4)] == [0, 33, 66, 99]
    assert subsample(images, 1000) == images
