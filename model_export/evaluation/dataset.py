"""Labeled images on disk: a folder with one folder per class, or a CSV file. Reads no image.

    DATA/tench/1.jpg …            folders named by label, WordNet id or index, as in the bundle's labels.json
    DATA.csv: path,label          or path,wnid or path,index; paths are relative to the file

All class names are checked before the first image is read.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from app.bundle.manifest import Label
from app.errors import sentence
from model_export.errors import RequestError

LabelKind = Literal["label", "wnid", "index"]
LABEL_KINDS: tuple[LabelKind, ...] = ("label", "wnid", "index")
# Maximum number of unknown names in an error message.
MAX_NAMES = 5


class LabeledImage(NamedTuple):
    """A file and the index of its class."""

    path: Path
    target: int


class ClassNames:
    """The names of the classes of a bundle: labels, WordNet ids and indices."""

    def __init__(self, labels: Sequence[Label]) -> None:
        self._labels = labels
        self._indices: dict[LabelKind, Mapping[str, list[int]]] = {
            "label": _by_name(label.name for label in labels),
            "wnid": _by_name(label.wnid for label in labels),
            "index": _by_name(map(str, range(len(labels)))),
        }

    @property
    def kinds(self) -> tuple[LabelKind, ...]:
        """The kinds that a name of unknown kind may have, in the order of the search.

        If a label is a number, indices are excluded: labels 1 to 10 of the classes 0 to 9 would be ambiguous.
        """
        return LABEL_KINDS[:2] if any(label.name.isdecimal() for label in self._labels) else LABEL_KINDS

    def indices(self, names: Iterable[str], kinds: Sequence[LabelKind]) -> dict[str, int]:
        """Return the class index of each name.

        Raises:
            RequestError: a name belongs to no class or to several classes.
        """
        found = {name: self._index(name, kinds) for name in names}
        if unknown := sorted(name for name, index in found.items() if index is None):
            rest = f" and {len(unknown) - MAX_NAMES} more" if len(unknown) > MAX_NAMES else ""
            raise RequestError(
                f"no class of the bundle has the name {', '.join(unknown[:MAX_NAMES])}{rest}; names are in labels.json"
            )
        return {name: index for name, index in found.items() if index is not None}

    def _index(self, name: str, kinds: Sequence[LabelKind]) -> int | None:
        for kind in kinds:
            match self._indices[kind].get(name, []):
                case [index]:
                    return index
                case [_, _, *_] as several:
                    others = " or ".join(self._labels[index].wnid or str(index) for index in several)
                    raise RequestError(f"{len(several)} classes have the name {name}; use {others} instead")
        return None


def list_images(data: Path, labels: Sequence[Label], classes: Sequence[str] = ()) -> list[LabeledImage]:
    """List the images of a folder in the order of their names, or of a CSV file in the order of its rows.

    Args:
        data: the folder or the CSV file.
        labels: the labels of the bundle.
        classes: classes by label, wnid or index. If given, the images of other classes are omitted.

    Raises:
        RequestError: there are no images, or a class name is unknown or ambiguous.
    """
    names = ClassNames(labels)
    if data.is_dir():
        images = _from_folder(data, names)
    elif data.is_file():
        images = _from_csv(data, names)
    else:
        raise RequestError(f"there is no folder or file {data}")
    if classes:
        targets = set(names.indices(classes, names.kinds).values())
        images = [image for image in images if image.target in targets]
    if not images:
        raise RequestError(f"there are no images in {data}")
    return images


def subsample(images: Sequence[LabeledImage], limit: int) -> list[LabeledImage]:
    """Return at most `limit` images, evenly spread, because the first images all belong to the first classes."""
    picked = np.linspace(0, len(images) - 1, min(limit, len(images)))
    return [images[round(position)] for position in picked]


def _by_name(names: Iterable[str | None]) -> Mapping[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        if name is not None:
            found[name].append(index)
    return dict(found)


def _from_folder(data: Path, names: ClassNames) -> list[LabeledImage]:
    folders = sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith("."))
    indices = names.indices((folder.name for folder in folders), names.kinds)
    return [
        LabeledImage(path, indices[folder.name])
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _from_csv(data: Path, names: ClassNames) -> list[LabeledImage]:
    try:
        with data.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            kind = _label_column(data, rows.fieldnames or ())
            pairs = [(row["path"] or "", row[kind] or "") for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise RequestError(f"{data} cannot be read as CSV: {sentence(error)}") from error
    indices = names.indices({name for _, name in pairs}, [kind])
    return [LabeledImage(data.parent / path, indices[name]) for path, name in pairs]


def _label_column(data: Path, columns: Sequence[str]) -> LabelKind:
    given = [kind for kind in LABEL_KINDS if kind in columns]
    if "path" not in columns or len(given) != 1:
        raise RequestError(f"{data}: the first line must name the columns path and one of {', '.join(LABEL_KINDS)}")
    return given[0]
