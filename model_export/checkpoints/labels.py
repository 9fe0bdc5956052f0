"""Parsers of class names: lines, tables, lists, and JSON objects in both directions.

Data that does not name classes, or that can be read in two ways, raises `ValueError`. Knows nothing
about the files.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from app.bundle.manifest import Label
from model_export.checkpoints.imagenet import imagenet_labels

# Keys of class names in JSON files and checkpoints: of objects from name to number, of objects from
# number to name, and of lists. The key decides the direction of an object, whatever its values look
# like.
TO_NUMBER = (
    "class_to_idx",
    "class2idx",
    "class_to_index",
    "class_to_id",
    "class2id",
    "label2id",
    "label_to_idx",
    "label2idx",
)
TO_NAME = (
    "id2label",
    "idx_to_class",
    "idx2class",
    "index_to_class",
    "id_to_class",
    "id2class",
    "idx2label",
    "idx_to_label",
)
LISTS = ("classes", "CLASSES", "class_names", "label_names", "categories")
# Keys of lists that may hold class names or other data.
AMBIGUOUS_KEYS = ("labels", "names")
KEYS = (*TO_NUMBER, *TO_NAME, *LISTS, *AMBIGUOUS_KEYS)
NUMBER_COLUMNS = ("index", "id", "idx", "class_id", "class_index", "label_id", "number")
NAME_COLUMNS = ("name", "label", "class", "class_name", "label_name")
WNID = re.compile(r"n\d{8}")
NUMBERED = re.compile(r"\s*(?P<index>\d+)(?:\s*(?P<sign>[,;:\t])\s*|\s+)(?P<name>\S.*)")
BY_WNID = re.compile(r"(?P<wnid>n\d{8})[\s,;]+(?P<name>\S.*)")
AFTER_NAME = re.compile(r"(?P<name>.*\S)\s*(?:(?P<sign>[,;\t](?! ))|[,;])\s*(?P<index>\d+)\s*")
LIST_HINT = "give one name per line, in the order of the classes"
JSON_HINT = "or, where the numbers belong to the names, give the names as a JSON list"


def from_text(text: str) -> tuple[Label, ...]:
    """Return the labels in a file: JSON, a table with a header, or lines."""
    if text.lstrip().startswith(("[", "{")):
        return from_data(json.loads(text, object_pairs_hook=_unique))
    lines = re.split(r"\r\n|\r|\n", text)
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError("it is empty")
    return _check_names(_parse_table(lines) or _parse_lines(lines))


def from_data(data: Any, key: str = "") -> tuple[Label, ...]:
    """Return the labels in a list or in an object from number to name or from name to number.

    Args:
        data: from JSON or from a checkpoint.
        key: of the data in its file; decides the direction of an object.
    """
    if isinstance(data, Mapping):
        inside = {key: data[key] for key in KEYS if isinstance(data.get(key), Mapping | list | tuple)}
        if inside:
            found = {inner: from_data(value, inner) for inner, value in inside.items()}
            if len(set(found.values())) > 1:
                raise ValueError(f"its {' and '.join(found)} name the classes differently; {LIST_HINT}")
            return next(iter(found.values()))
        return _check_names(_parse_object(data, key))
    if isinstance(data, set | frozenset):
        raise ValueError(f"it is a set, which has no order; {LIST_HINT}")  # noqa: TRY004 (read from a file)
    if not isinstance(data, list | tuple):
        raise ValueError("it holds neither a list nor an object")  # noqa: TRY004 (read from a file)
    if data and all(isinstance(entry, Mapping) and _index_of(entry) is not None for entry in data):
        return _check_names(_sort_by_number([(_index_of(entry), _label(entry)) for entry in data]))
    if data and key in TO_NUMBER:  # pairs, as from `.items()`
        return _check_names(_parse_object(_pairs(data), key))
    return _check_names([_label(entry) for entry in data])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise ValueError(f"'{twice[0]}' occurs twice")
    return dict(pairs)


def _pairs(data: Sequence[Any]) -> dict[Any, Any]:
    """Return the object with these pairs of name and number."""
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str | int) for pair in data):  # noqa: PLR2004 (a pair)
        raise ValueError(f"it holds neither an object nor pairs of name and number; {LIST_HINT}")
    return _unique([(name, number) for name, number in data])


def _parse_object(data: Mapping[Any, Any], key: str) -> list[Label]:
    """Return the labels of an object; its key or its numbers decide the direction.

    If both sides number all classes, the types decide: values that are numbers are ImageFolder's
    `class_to_idx`, values that are text are `id2label`.
    """
    keys, values = [_number(name) for name in data], [_number(value) for value in data.values()]
    by_value = [(index, name) for name, index in zip(data, values, strict=True)]
    by_key = list(zip(keys, data.values(), strict=True))
    if key in TO_NUMBER or key in TO_NAME:
        return _sort_by_number([(index, _label(name)) for index, name in (by_value if key in TO_NUMBER else by_key)])
    kinds = {type(value) for value in data.values()}
    if _is_complete_range(keys) and _is_complete_range(values) and kinds not in ({int}, {str}):
        raise ValueError(f"it can be read as names of numbers and as numbers of names; {LIST_HINT}")
    if _is_complete_range(values) and (kinds == {int} or not _is_complete_range(keys)):
        return _sort_by_number([(index, _label(name)) for index, name in by_value])
    if _is_complete_range(keys):
        return _sort_by_number([(index, _label(name)) for index, name in by_key])
    if None not in keys:
        raise ValueError(_numbering_error(keys))
    if None not in values:
        raise ValueError(_numbering_error(values))
    raise ValueError("it maps neither numbers to names nor names to numbers")


def _parse_table(lines: Sequence[str]) -> list[Label] | None:
    """Return the labels of a table with a header; None if the first line is not a header."""
    delimiter = next((sign for sign in "\t;," if sign in lines[0]), None)
    if delimiter is None:
        return None
    header = [column.strip().strip('"').lower() for column in lines[0].split(delimiter)]
    name = next((column for column in NAME_COLUMNS if column in header), None)
    index = next((column for column in NUMBER_COLUMNS if column in header), None)
    if index is None and header in (["class", "label"], ["name", "label"]):  # the second column is the number
        index, name = "label", header[0]
    if name is None or (index is None and "wnid" not in header):
        return None
    found = [
        {column: (value or "").strip() for column, value in zip(header, row, strict=False)}
        for row in csv.reader(lines[1:], delimiter=delimiter, skipinitialspace=True)
        if any(row)
    ]
    labels = [Label(name=row.get(name, ""), wnid=row.get("wnid") or None) for row in found]
    if index is None:
        return labels
    return _sort_by_number([(_number(row.get(index)), label) for row, label in zip(found, labels, strict=True)])


def _parse_lines(lines: Sequence[str]) -> list[Label]:
    if all(matches := [BY_WNID.fullmatch(line) for line in lines]):
        return [Label(name=match["name"].strip(), wnid=match["wnid"]) for match in matches if match]
    for form in (NUMBERED, AFTER_NAME):
        numbered = [match for line in lines if (match := form.fullmatch(line))]
        if len(numbered) == len(lines) and _are_numbers_of_classes(numbered):
            return _parse_numbered(numbered)
    return [Label(name=line.strip(), wnid=None) for line in lines]


def _are_numbers_of_classes(matches: Sequence[re.Match[str]]) -> bool:
    """Return whether the numbers are class numbers, not a part of the name ("2012 Audi A4").

    They are if a sign separates number and name in every line. Separated by blanks, they are if
    they are distinct and none exceeds the number of lines.
    """
    numbers = [int(match["index"]) for match in matches]
    return all(match["sign"] for match in matches) or (
        len(set(numbers)) == len(numbers) and max(numbers) <= len(numbers)
    )


def _parse_numbered(matches: Sequence[re.Match[str]]) -> list[Label]:
    try:
        return _sort_by_number(
            [(int(match["index"]), Label(name=match["name"].strip(), wnid=None)) for match in matches]
        )
    except ValueError as error:
        raise ValueError(f"{error}; {JSON_HINT}") from error


def _sort_by_number(entries: Sequence[tuple[int | None, Label]]) -> list[Label]:
    indices = [index for index, _ in entries]
    if not _is_complete_range(indices):
        raise ValueError(_numbering_error(indices))
    return [label for _, label in sorted(entries, key=lambda entry: entry[0] or 0)]


def _is_complete_range(indices: Sequence[int | None]) -> bool:
    """Return whether these are the numbers of all classes, each once."""
    return sorted(index for index in indices if index is not None) == list(range(len(indices)))


def _numbering_error(indices: Sequence[int | None]) -> str:
    known = sorted(index for index in indices if index is not None)
    if len(known) < len(indices):
        return f"not every class has a number; {LIST_HINT}"
    if known == list(range(1, len(known) + 1)):
        return f"its numbers run from 1 to {len(known)}, but classes count from 0; subtract 1, or {LIST_HINT}"
    if twice := [index for index, count in Counter(known).items() if count > 1]:
        return f"class {twice[0]} has several names; {LIST_HINT}"
    missing = next(index for index in range(len(known)) if index not in known)
    return f"it does not count from 0 to {len(known) - 1}: class {missing} has no name; {LIST_HINT}"


def _number(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return int(value) if isinstance(value, int) or (value.isascii() and value.strip().isdigit()) else None


def _index_of(entry: Mapping[str, Any]) -> int | None:
    return next((_number(entry[key]) for key in NUMBER_COLUMNS if key in entry), None)


def _label(entry: Any) -> Label:
    """Return the label in a name, a number, `{"name": …, "wnid": …}`, or a pair of id and name."""
    if isinstance(entry, Label):
        return entry
    if isinstance(entry, str) or (isinstance(entry, int) and not isinstance(entry, bool)):
        return Label(name=str(entry).strip(), wnid=None)
    if isinstance(entry, Mapping):
        name = next((entry[key] for key in NAME_COLUMNS if key in entry), None)
        wnid = entry.get("wnid")
        if isinstance(name, str | int) and isinstance(wnid, str | None):
            return Label(name=str(name), wnid=wnid)
    match entry:
        case [str() as wnid, str() as name] if WNID.fullmatch(wnid):
            return Label(name=name, wnid=wnid)
    raise ValueError(f"{json.dumps(entry, default=repr)} is not the name of a class")


def _check_names(labels: Sequence[Label]) -> tuple[Label, ...]:
    """Return the labels; the WordNet ids of all ImageNet classes become ImageNet's labels.

    Raises:
        ValueError: there are no labels, or one has no name.
    """
    if not labels:
        raise ValueError("it names no class")
    if nameless := [index for index, label in enumerate(labels) if not label.name.strip()]:
        raise ValueError(f"class {nameless[0]} has no name")
    published = imagenet_labels(len(labels)) if WNID.fullmatch(labels[0].name) else None
    if published and [label.wnid for label in published] == [label.name for label in labels]:
        return published
    return tuple(labels)
