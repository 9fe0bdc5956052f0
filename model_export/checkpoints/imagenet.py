"""Names of the classes of ImageNet, in the order in which published networks have them.

    data/labels/imagenet_1k.tsv    the 1,000 classes of ILSVRC 2012
    data/labels/imagenet_22k.tsv   the 21,841 classes of the release of fall 2011

Both are sorted by WordNet id. A name is the list of lemmas that WordNet 3.0 has for that id (Princeton University; its
license lies beside them), which is also what Hugging Face's checkpoints say. Two of the 1,000 are called "crane": only
ids name a class for certain. The 22k classes hold all of the 1,000 but one, n04399382 "teddy, teddy bear".
"""

import csv
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from app.bundle.manifest import Label

FILES = {1000: "imagenet_1k.tsv", 21841: "imagenet_22k.tsv"}


@cache
def imagenet_labels(classes: int) -> tuple[Label, ...] | None:
    """The published names for this number of classes; None where there are none."""
    if classes not in FILES:
        return None
    text = (files("model_export") / "data" / "labels" / FILES[classes]).read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return tuple(Label(name=row["name"], wnid=row["wnid"]) for row in rows)


def with_wnids(labels: Sequence[Label]) -> tuple[Label, ...]:
    """The labels as they are called, with the ids of ImageNet's classes where these are its classes in its order.

    They are if each has a lemma in common with the class at its place: some give all lemmas of a class, some the first.
    """
    published = imagenet_labels(len(labels))
    if published is None or not all(map(_share_a_lemma, labels, published)):
        return tuple(labels)
    return tuple(Label(name=label.name, wnid=known.wnid) for label, known in zip(labels, published, strict=True))


def _share_a_lemma(one: Label, other: Label) -> bool:
    return not set(one.name.split(", ")).isdisjoint(other.name.split(", "))
