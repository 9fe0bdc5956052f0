"""`model_export/checkpoints/imagenet.py`: the class names and WordNet ids of ImageNet."""

from pathlib import Path

import pytest

from app.bundle.manifest import Label
from model_export.checkpoints.detect import read_checkpoint
from model_export.checkpoints.imagenet import imagenet_labels, with_wnids
from tests.support.networks import save_checkpoint

FACTS = [
    (1000, 0, "n01440764", "tench, Tinca tinca"),
    (1000, 207, "n02099601", "golden retriever"),
    (1000, 999, "n15075141", "toilet tissue, toilet paper, bathroom tissue"),
    (21841, 0, "n00004475", "organism, being"),
    (21841, 359, "n01440764", "tench, Tinca tinca"),
    (21841, 21840, "n15102894", "knothole"),
]


def labels(classes: int) -> tuple[Label, ...]:
    found = imagenet_labels(classes)
    assert found is not None
    return found


@pytest.mark.parametrize(("classes", "index", "wnid", "name"), FACTS)
def test_known_classes_are_at_their_places(classes: int, index: int, wnid: str, name: str) -> None:
    """Well-known classes have their indices. The authors' own table has the tench at 359, too."""
    assert labels(classes)[index] == Label(name=name, wnid=wnid)


@pytest.mark.parametrize("classes", [1000, 21841])
def test_every_id_occurs_once_and_in_order(classes: int) -> None:
    """Each list has the promised number of classes, sorted by WordNet id, each with a name."""
    wnids = [label.wnid for label in labels(classes)]

    assert len(wnids) == classes
    assert wnids == sorted({wnid for wnid in wnids if wnid})
    assert all(label.name.strip() == label.name != "" for label in labels(classes))


def test_the_large_list_holds_all_of_the_small_one_but_the_teddy() -> None:
    """The 22k list has all classes of the 1k list but one."""
    assert {label.wnid for label in labels(1000)} - {label.wnid for label in labels(21841)} == {"n04399382"}


def test_two_classes_are_called_crane() -> None:
    """The only name of the 1,000 that occurs twice is "crane", a bird and a machine."""
    names = [label.name for label in labels(1000)]

    assert {name for name in names if names.count(name) > 1} == {"crane"}


def test_there_are_no_names_for_other_numbers() -> None:
    """Ten classes have no published names."""
    assert imagenet_labels(10) is None


@pytest.mark.parametrize("lemmas", [1, None])
def test_names_of_imagenet_get_their_ids(lemmas: int | None) -> None:
    """Names with all lemmas of a class, or with the first, stay unchanged and get WordNet ids."""
    names = [", ".join(label.name.split(", ")[:lemmas]) for label in labels(1000)]

    found = with_wnids([Label(name=name, wnid=None) for name in names])

    assert [label.name for label in found] == names
    assert [label.wnid for label in found] == [label.wnid for label in labels(1000)]


def test_a_thousand_other_classes_get_no_ids() -> None:
    """A list in which two of ImageNet's names are swapped gets no ids."""
    names = [label.name for label in labels(1000)]
    names[0], names[1] = names[1], names[0]

    assert {label.wnid for label in with_wnids([Label(name=name, wnid=None) for name in names])} == {None}


def test_checkpoints_of_hugging_face_get_ids(tmp_path: Path) -> None:
    """The labels of a Hugging Face checkpoint with ImageNet's names get WordNet ids."""
    names = {index: label.name for index, label in enumerate(labels(1000))}
    folder = save_checkpoint(tmp_path / "checkpoint", num_labels=1000, id2label=names)

    assert read_checkpoint(str(folder)).labels == labels(1000)
