"""Labeled images on disk: a folder for each class, or a table.

    DATA/tench/1.jpg …            folders named by label, by WordNet id or by index, as in the bundle's labels.json
    DATA.csv: path,label          or path,wnid or path,index; paths are relative to the file

Everything that can be wrong with the names is told before any image is read.
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
WAYS: tuple[LabelKind, ...] = ("label", "wnid", "index")
MAX_NAMES = 5
"""As many are listed when something is wrong with more."""


class LabeledImage(NamedTuple):
    """A file, and the index of the class it is of."""

    path: Path
    device_report: int


class Names:
    """What the classes of a bundle may be called."""

    def __init__(self, labels: Sequence[Label]) -> None:
        self._labels = labels
        self._called: dict[LabelKind, Mapping[str, list[int]]] = {
            "label": _by_name(label.name for label in labels),
            "wnid": _by_name(label.wnid for label in labels),
            "index": _by_name(map(str, range(len(labels)))),
        }

    @property
    def ways(self) -> tuple[LabelKind, ...]:
        """How a name that does not say its kind is read, in this order.

        Not by index where labels are numbers themselves: 1 … 10 for the classes 0 … 9 would be confused.
        """
        return WAYS[:2] if any(label.name.isdecimal() for label in self._labels) else WAYS

    def indices(self, names: Iterable[str], ways: Sequence[LabelKind]) -> dict[str, int]:
        """The classes of these names.

        Raises:
            RequestError: some name no class, or several classes.
        """
        found = {name: self._index(name, ways) for name in names}
        if unknown := sorted(name for name, index in found.items() if index is None):
            rest = f" and {len(unknown) - MAX_NAMES} more" if len(unknown) > MAX_NAMES else ""
            raise RequestError(f"no class of the bundle is called {', '.join(unknown[:MAX_NAMES])}{rest}")
        return {name: index for name, index in found.items() if index is not None}

    def _index(self, name: str, ways: Sequence[LabelKind]) -> int | None:
        for way in ways:
            match self._called[way].get(name, []):
                case [index]:
                    return index
                case [_, _, *_] as several:
                    others = " or ".join(self._labels[index].wnid or str(index) for index in several)
                    raise RequestError(f"{len(several)} classes are called {name}; say {others} instead")
        return None


def read(data: Path, labels: Sequence[Label], only: Sequence[str] = ()) -> list[LabeledImage]:
    """The images of a folder of folders, or of a table, in the order of the names or of the rows.

    Args:
        data: the folder, or the CSV file.
        labels: of the bundle.
        only: classes, by label, wnid or index; the images of all others are left out.

    Raises:
        RequestError: there are none, or a class cannot be told.
    """
    names = Names(labels)
    if data.is_dir():
        images = _of_folder(data, names)
    elif data.is_file():
        images = _of_table(data, names)
    else:
        raise RequestError(f"there is no {data}")
    if only:
        wanted = set(names.indices(only, names.ways).values())
        images = [image for image in images if image.device_report in wanted]
    if not images:
        raise RequestError(f"there are no images in {data}")
    return images


def subsample(images: Sequence[LabeledImage], most: int) -> list[LabeledImage]:
    """So many of them, evenly spread: the first ones would all be of the first classes."""
    picked = np.linspace(0, len(images) - 1, min(most, len(images)))
    return [images[round(place)] for place in picked]


def _by_name(names: Iterable[str | None]) -> Mapping[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        if name is not None:
            found[name].append(index)
    return dict(found)


def _of_folder(data: Path, names: Names) -> list[LabeledImage]:
    folders = sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith("."))
    indices = names.indices((folder.name for folder in folders), names.ways)
    return [
        LabeledImage(path, indices[folder.name])
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _of_table(data: Path, names: Names) -> list[LabeledImage]:
    try:
        with data.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            way = _way(data, rows.fieldnames or ())
            pairs = [(row["path"] or "", row[way] or "") for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise RequestError(f"{data} cannot be read as CSV: {sentence(error)}") from error
    indices = names.indices({name for _, name in pairs}, [way])
    return [LabeledImage(data.parent / path, indices[name]) for path, name in pairs]


def _way(data: Path, columns: Sequence[str]) -> LabelKind:
    given = [way for way in WAYS if way in columns]
    if "path" not in columns or len(given) != 1:
        raise RequestError(f"{data}: the first line must name the columns path and one of {', '.join(WAYS)}")
    return given[0]
