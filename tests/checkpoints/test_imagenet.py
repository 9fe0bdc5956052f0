"""`model_export/checkpoints/imagenet.py`: names as data."""

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
    """A few classes that everybody knows; 359 is where the authors' own table from 22k to 1k has the tench."""
    assert labels(classes)[index] == Label(name=name, wnid=wnid)


@pytest.mark.parametrize("classes", [1000, 21841])
def test_every_id_occurs_once_and_in_order(classes: int) -> None:
    """As many classes as promised, sorted by WordNet id, each with a name."""
    wnids = [label.wnid for label in labels(classes)]

    assert len(wnids) == classes
    assert wnids == sorted({wnid for wnid in wnids if wnid})
    assert all(label.name.strip() == label.name != "" for label in labels(classes))


def test_the_large_list_holds_all_of_the_small_one_but_the_teddy() -> None:
    """The release of fall 2011 lacks one class of ILSVRC 2012."""
    assert {label.wnid for label in labels(1000)} - {label.wnid for label in labels(21841)} == {"n04399382"}


def test_two_classes_are_called_crane() -> None:
    """The only name of the 1,000 that occurs twice: a bird and a machine."""
    names = [label.name for label in labels(1000)]

    assert {name for name in names if names.count(name) > 1} == {"crane"}


def test_there_are_no_names_for_other_numbers() -> None:
    """Ten classes could be anything."""
    assert imagenet_labels(10) is None


@pytest.mark.parametrize("lemmas", [1, None])
def test_names_of_imagenet_get_their_ids(lemmas: int | None) -> None:
    """Whether a checkpoint gives all lemmas of a class or the first: names stay as they are, and ids are added."""
    names = [", ".join(label.name.split(", ")[:lemmas]) for label in labels(1000)]

    found = with_wnids([Label(name=name, wnid=None) for name in names])

    assert [label.name for label in found] == names
    assert [label.wnid for label in found] == [label.wnid for label in labels(1000)]


def test_a_thousand_other_classes_get_none() -> None:
    """One name at another place, and it is not ImageNet's list."""
    names = [label.name for label in labels(1000)]
    names[0], names[1] = names[1], names[0]

    assert {label.wnid for label in with_wnids([Label(name=name, wnid=None) for name in names])} == {None}


def test_checkpoints_of_hugging_face_get_them(tmp_path: Path) -> None:
    """`id2label` of a published checkpoint is enough to match folders that are named by id."""
    names = {index: label.name for index, label in enumerate(labels(1000))}
    folder = save_checkpoint(tmp_path / "checkpoint", num_labels=1000, id2label=names)

    assert read_checkpoint(str(folder)).labels == labels(1000)
