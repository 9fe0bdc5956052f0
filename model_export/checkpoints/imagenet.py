"""The class names of ImageNet, in the order of the outputs of published networks.

    data/labels/imagenet_1k.tsv    the 1,000 classes of ILSVRC 2012
    data/labels/imagenet_22k.tsv   the 21,841 classes of the release of fall 2011

Both are sorted by WordNet id. A name is the list of lemmas of that id in WordNet 3.0 (Princeton
University; the license is in the same folder). Hugging Face's checkpoints have the same names. Two
of the 1,000 classes are named "crane", so only an id identifies a class. The 22k classes include
all of the 1,000 but n04399382 "teddy, teddy bear".
"""

import csv
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from app.bundle.manifest import Label

FILES = {1000: "imagenet_1k.tsv", 21841: "imagenet_22k.tsv"}


@cache
def imagenet_labels(classes: int) -> tuple[Label, ...] | None:
    """Return ImageNet's labels for this number of classes; None for any other number."""
    if classes not in FILES:
        return None
    text = (files("model_export") / "data" / "labels" / FILES[classes]).read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return tuple(Label(name=row["name"], wnid=row["wnid"]) for row in rows)


def with_wnids(labels: Sequence[Label]) -> tuple[Label, ...]:
    """Return the labels, with WordNet ids if they name ImageNet's classes in ImageNet's order.

    They do if each name shares a lemma with the class of the same index. Some checkpoints give all
    lemmas of a class, others the first.
    """
    published = imagenet_labels(len(labels))
    if published is None or not all(map(_share_a_lemma, labels, published)):
        return tuple(labels)
    return tuple(Label(name=label.name, wnid=known.wnid) for label, known in zip(labels, published, strict=True))


def _share_a_lemma(one: Label, other: Label) -> bool:
    return not set(one.name.split(", ")).isdisjoint(other.name.split(", "))
