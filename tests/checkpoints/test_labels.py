"""`--labels`: each form of a file with class names is read correctly, or refused with an error."""

import json
from pathlib import Path

import pytest

from model_export.checkpoints.imagenet import imagenet_labels
from model_export.cli.arguments import read_labels
from model_export.errors import RequestError

FOLDERS = sorted(str(number) for number in range(11))  # as ImageFolder sorts them: 0, 1, 10, 2, …

NAMES = [f"name {index}" for index in range(11)]

READ: dict[str, tuple[str, list[str]]] = {
    "ImageFolder's class_to_idx": ('{"cat": 1, "ant": 0, "dog": 2}', ["ant", "cat", "dog"]),
    "class_to_idx of folders that are numbers": (
        json.dumps({name: index for index, name in enumerate(FOLDERS)}),
        FOLDERS,
    ),
    "class_to_idx of folders that do not count from 0": ('{"11": 1, "7": 0}', ["7", "11"]),
    "class_to_idx with numbers as strings": ('{"7": "1", "3": "0"}', ["3", "7"]),
    "id2label": (json.dumps({str(index): f"name {index}" for index in reversed(range(11))}), NAMES),
    "id2label with a permutation as names": ('{"0": "1", "1": "2", "2": "0"}', ["1", "2", "0"]),
    "id2label with numbers for names": ('{"0": 7, "1": 3}', ["7", "3"]),
    "a configuration with id2label": ('{"model_type": "swin", "id2label": {"0": "cat", "1": "dog"}}', ["cat", "dog"]),
    "idx_to_class with numbers for names": ('{"idx_to_class": {"0": 4, "1": 2, "2": 0, "3": 1, "4": 3}}', [*"42013"]),
    "id2label with numbers from a permutation": ('{"id2label": {"0": 1, "1": 2, "2": 0}}', ["1", "2", "0"]),
    "class_to_idx with text for numbers": ('{"class_to_idx": {"0": "1", "1": "2", "2": "0"}}', ["2", "0", "1"]),
    "both ways of a configuration": (
        '{"id2label": {"0": "cat", "1": "dog"}, "label2id": {"dog": 1, "cat": "0"}}',
        ["cat", "dog"],
    ),
    "pairs of class_to_idx": ('{"class_to_idx": [["dog", 1], ["cat", 0]]}', ["cat", "dog"]),
    "a list inside an object": ('{"classes": ["cat", "dog"], "version": 3}', ["cat", "dog"]),
    "a list of numbers": ("[3, 1, 2]", ["3", "1", "2"]),
    "Keras's class index": ('{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}', ["tench", "goldfish"]),
    "COCO's categories": ('[{"id": 1, "name": "dog"}, {"id": 0, "name": "cat"}]', ["cat", "dog"]),
    "blank lines at the end": ("cat\ndog\n\n \n", ["cat", "dog"]),
    "numbered lines": ("1 dog\n0 cat\n", ["cat", "dog"]),
    "numbered lines with colons": ("0: cat\n1: dog, puppy\n", ["cat", "dog, puppy"]),
    "a CSV without a header": ("0,cat\n1,dog\n", ["cat", "dog"]),
    "a CSV with a header": ('index,name\n1,"dog, puppy"\n0,cat\n', ["cat", "dog, puppy"]),
    "a CSV from name to number": ("cat,1\nant,0\n", ["ant", "cat"]),
    "a TSV with a header": ("label\tid\ndog\t1\ncat\t0\n", ["cat", "dog"]),
    "names with commas": ("tench, Tinca tinca\ngoldfish, Carassius\n", ["tench, Tinca tinca", "goldfish, Carassius"]),
    "names that end with numbers": ("breed 1\nbreed 0\n", ["breed 1", "breed 0"]),
    "names that begin with years": ("2012 Audi A4\n1991 BMW M5\n", ["2012 Audi A4", "1991 BMW M5"]),
    "names that begin with one year": ("2012 Audi A4\n2012 BMW M5\n", ["2012 Audi A4", "2012 BMW M5"]),
    "names that begin with small numbers": ("3 Series\n3 Series Touring\n", ["3 Series", "3 Series Touring"]),
    "one name that begins with a number": ("7 Up\n", ["7 Up"]),
    "names that end with years": ("Audi A4, 2012\nBMW M5, 1991\n", ["Audi A4, 2012", "BMW M5, 1991"]),
    "CUB's folders": ("001.Albatross\n002.Auklet\n", ["001.Albatross", "002.Auklet"]),
    "names that are numbers": ("7\n3\n", ["7", "3"]),
    "the same name twice": ("crane\ndog\ncrane\n", ["crane", "dog", "crane"]),
    "WordNet ids and names": ("n01440764 tench, Tinca tinca\nn01443537 goldfish\n", ["tench, Tinca tinca", "goldfish"]),
}


@pytest.mark.parametrize("case", READ)
def test_names_are_read_in_the_order_of_the_classes(case: str, tmp_path: Path) -> None:
    """Each form gives the names in the order of the classes."""
    text, names = READ[case]
    (tmp_path / "labels").write_text("\ufeff" + text, encoding="utf-8")

    assert names == [label.name for label in read_labels(tmp_path / "labels")]


REFUSED = {
    "numbers from 1": ('{"1": "cat", "2": "dog"}', "run from 1 to 2, but classes count from 0; subtract 1"),
    "numbers from 1 as values": ('{"cat": 1, "dog": 2}', "run from 1 to 2, but classes count from 0"),
    "lines numbered from 1": ("1 cat\n2 dog\n", "run from 1 to 2, but classes count from 0"),
    "CUB's classes.txt": ("1 001.Albatross\n2 002.Auklet\n", "run from 1 to 2, but classes count from 0; subtract 1"),
    "numbers that may belong to the names": ("1 euro\n2 euro\n", "give the names as a JSON list"),
    "a column of other numbers": ("12,cat\n15,dog\n", "class 0 has no name"),
    "a last column of other numbers": ("cat,12\ndog,15\n", "class 0 has no name"),
    "a gap": ('{"0": "cat", "2": "dog"}', "class 1 has no name"),
    "a gap in lines": ("0 cat\n2 dog\n", "class 1 has no name"),
    "two names for a class": ('{"cat": 0, "dog": 0}', "class 0 has several names"),
    "two classes of one name": ('{"cat": 0, "cat": 1}', "'cat' occurs twice"),
    "names to names": ('{"cat": "Katze"}', "maps neither numbers to names nor names to numbers"),
    "an object that can be read both ways": (
        '{"0": 1, "1": "2", "2": 0}',
        "can be read as names of numbers and as numb",
    ),
    "two lists that differ": (
        '{"classes": ["cat", "dog"], "names": ["dog", "cat"]}',
        "classes and names name the classes",
    ),
    "id2label of names to numbers": ('{"id2label": {"cat": 0, "dog": 1}}', "not every class has a number"),
    "a fraction": ("[0.5]", "0.5 is not the name of a class"),
    "truth": ("[true, false]", "true is not the name of a class"),
    "half a file": ('["cat", "do', "begins like JSON but is not"),
    "nothing": ("\n\n", "it is empty"),
    "an empty list": ("[]", "it names no class"),
    "a blank line between": ("cat\n\ndog\n", "class 1 has no name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_ambiguous_and_incomplete_names_are_refused(case: str, tmp_path: Path) -> None:
    """Ambiguous or incomplete names raise an error with the file's name and the reason."""
    text, sentence = REFUSED[case]
    (tmp_path / "labels").write_text(text, encoding="utf-8")

    with pytest.raises(RequestError) as refused:
        read_labels(tmp_path / "labels")

    assert "labels does not name classes" in str(refused.value)
    assert sentence in str(refused.value)


def test_text_of_another_encoding_is_refused(tmp_path: Path) -> None:
    """A file in UTF-16, as spreadsheets save it, is refused."""
    (tmp_path / "labels.txt").write_bytes("cat\ndog\n".encode("utf-16"))

    with pytest.raises(RequestError, match="it is not text in UTF-8"):
        read_labels(tmp_path / "labels.txt")


def test_a_thousand_wordnet_ids_get_imagenet_s_names(tmp_path: Path) -> None:
    """The 1,000 WordNet ids of ImageNet's folders become ImageNet's labels."""
    published = imagenet_labels(1000) or ()
    (tmp_path / "labels.json").write_text(json.dumps({label.wnid: index for index, label in enumerate(published)}))

    assert read_labels(tmp_path / "labels.json") == published
