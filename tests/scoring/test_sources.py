"""`app/scoring/sources.py` and `tables.py`: every kind of source becomes the same items in the same order."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.scoring.errors import SourceError
from app.scoring.items import Item
from app.scoring.sources import Sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a folder of small files, some of them hidden."""
    for name in ("b.png", "a.png", "sub/c.png", "sub/.d.png", ".hidden/e.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "images"


def items(*arguments: str | Path, column: str | None = None, after: int = 0) -> Sequence[Item]:
    sources = Sources([str(each) for each in arguments], column)
    sources.survey()
    return [*sources.items_after(after)]


def write_table(path: Path, /, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_a_folder_is_listed_by_name(folder: Path) -> None:
    """Files are in the order of their names, folders after files, and hidden ones are left out."""
    assert [item.source for item in items(folder)] == [
        str(folder / "a.png"),
        str(folder / "b.png"),
        str(folder / "sub/c.png"),
    ]


def test_sources_are_read_one_after_the_other(folder: Path) -> None:
    """Arguments keep their order, and a file can be named twice."""
    assert [item.path for item in items(folder / "b.png", folder / "sub", folder / "b.png")] == [
        folder / "b.png",
        folder / "sub/c.png",
        folder / "b.png",
    ]


@pytest.mark.parametrize(
    ("pattern", "names"), [("*.png", ["a.png", "b.png"]), ("**/*.png", ["a.png", "b.png", "sub/c.png"])]
)
def test_a_glob_is_sorted(folder: Path, pattern: str, names: list[str]) -> None:
    """The matches of a glob are in the order of their names; two stars search in folders, too."""
    assert [item.path for item in items(folder / pattern)] == [folder / name for name in names]


def test_a_glob_can_match_folders(folder: Path) -> None:
    """A folder that matches is read as a folder; with two stars, its files match already."""
    assert [item.path for item in items(folder / "s*")] == [folder / "sub/c.png"]
    assert [item.path for item in items(folder / "**")] == [folder / name for name in ("a.png", "b.png", "sub/c.png")]


def test_a_file_with_stars_in_its_name_is_that_file(folder: Path) -> None:
    """A path that exists is not a glob."""
    (folder / "[a].png").touch()

    assert [item.path for item in items(folder / "[a].png")] == [folder / "[a].png"]


def test_a_list_is_relative_to_its_file(folder: Path) -> None:
    """The paths of a list are relative to its folder; the output names them as they are written."""
    (folder / "list.txt").write_text("\ufeffb.png\r\n\nsub/c.png\n/nowhere/d.png")

    assert items(folder / "list.txt") == [
        Item("b.png", folder / "b.png"),
        Item("sub/c.png", folder / "sub/c.png"),
        Item("/nowhere/d.png", Path("/nowhere/d.png")),
    ]


def test_a_csv_column_is_found_by_its_name(folder: Path) -> None:
    """The column `path` needs no option. An empty cell is an item without an image."""
    table = folder / "table.csv"
    table.write_text('label,path\nx,b.png\ny,\nz,"a.png"\n')

    assert items(table) == [Item("b.png", folder / "b.png"), Item(f"{table}#1"), Item("a.png", folder / "a.png")]
    assert items(table, column="label")[0].source == "x"


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_a_parquet_column_of_paths(folder: Path, kind: pa.DataType) -> None:
    """Paths can be any kind of text."""
    paths = pa.array(["b.png", None, "a.png"]).cast(kind)
    table = write_table(folder / "table.parquet", path=paths, label=["x", "y", "z"])

    assert [item.path for item in items(table)] == [folder / "b.png", None, folder / "a.png"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
def test_a_parquet_column_of_images(folder: Path, kind: pa.DataType) -> None:
    """A column of bytes is found by its type. Its items are named by file and row."""
    table = write_table(folder / "table.parquet", picture=pa.array([b"1", None, b"3"], kind), path=["x", "y", "z"])

    assert items(table) == [Item(f"{table}#0", content=b"1"), Item(f"{table}#1"), Item(f"{table}#2", content=b"3")]


def test_a_parquet_column_of_a_data_set(folder: Path) -> None:
    """A column with bytes and path, as of Hugging Face, has images; the path counts only without bytes."""
    rows = [{"bytes": b"1", "path": "x.png"}, {"bytes": None, "path": "a.png"}, {"bytes": None, "path": None}]
    table = write_table(folder / "table.parquet", image=rows, label=[1, 2, 3])

    assert items(table) == [
        Item(f"{table}#0", content=b"1"),
        Item("a.png", folder / "a.png"),
        Item(f"{table}#2"),
    ]


def sources_of_all_kinds(folder: Path) -> list[Path]:
    (folder / "list.txt").write_text("b.png\nsub/c.png\na.png\n")
    (folder / "table.csv").write_text("path\nb.png\nsub/c.png\na.png\n")
    write_table(folder / "images.parquet", image=[str(number).encode() for number in range(7)])
    write_table(folder / "paths.parquet", path=[f"{number}.png" for number in range(7)])
    return [folder / name for name in ("sub", "list.txt", "table.csv", "images.parquet", "paths.parquet")]


def test_a_run_can_begin_anywhere(folder: Path) -> None:
    """The items after a position are the tail of all items, across sources of all kinds."""
    sources = sources_of_all_kinds(folder)
    everything = items(*sources)

    assert len(everything) == 21
    for position in range(len(everything) + 1):
        assert items(*sources, after=position) == everything[position:]


def test_the_survey_counts_what_is_listed(folder: Path) -> None:
    """The number of images of a survey is that of the items."""
    sources = Sources([str(path) for path in sources_of_all_kinds(folder)])

    assert sources.survey().images == len([*sources.items_after(0)])


@pytest.mark.parametrize("kind", ["sub", "list.txt", "table.csv", "images.parquet", "paths.parquet"])
def test_a_changed_source_has_another_digest(folder: Path, kind: str) -> None:
    """A file that is replaced, and a row that is added, change the digest; reading again does not."""
    sources_of_all_kinds(folder)
    source = str(folder / kind)
    before = Sources([source]).survey()

    assert Sources([source]).survey() == before
    for name in ("sub/c.png", "images.parquet", "0.png"):
        (folder / name).touch()
        os.utime(folder / name, ns=(1, 1))
    assert Sources([source]).survey() != before


def test_the_output_is_not_part_of_the_source(folder: Path) -> None:
    """The file and the folder of the output are left out, if they are in a folder that is scored."""
    sources = Sources([str(folder)], left_out=[folder / "sub", folder / "a.png"])
    sources.survey()

    assert [item.path for item in sources.items_after(0)] == [folder / "b.png"]


@pytest.mark.parametrize("pattern", ["*", "**", "**/*"])
def test_the_output_matches_no_glob(folder: Path, pattern: str) -> None:
    """Neither the output nor a file in its folder is an image, however a glob finds it."""
    sources = Sources([str(folder / pattern)], left_out=[folder / "sub", folder / "a.png"])
    sources.survey()

    assert [item.path for item in sources.items_after(0)] == [folder / "b.png"]


def test_a_glob_of_the_output_alone_is_refused(folder: Path) -> None:
    """A glob that finds only what is left out finds nothing."""
    with pytest.raises(SourceError, match="no file matches it"):
        Sources([str(folder / "s*")], left_out=[folder / "sub"])


def test_a_name_that_is_not_text_is_read(tmp_path: Path) -> None:
    """A file name that is not UTF-8 has a readable source, and its path is that of the file."""
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(b"1")
    (item,) = items(tmp_path)

    assert item.source.endswith("caf\ufffd.png")
    assert item.path is not None
    assert item.path.read_bytes() == b"1"


@pytest.mark.parametrize(
    ("columns", "column", "sentence"),
    [
        (
            {"a": ["x"], "b": ["y"]},
            None,
            "columns a, b, and none is known to hold paths or images; choose one by --column",
        ),
        ({"file": ["x"], "path": ["y"]}, None, "several can hold paths or images; choose one by --column"),
        ({"path": ["x"]}, "image", "has no column image; it has path"),
        ({"path": ["x"], "label": [1]}, "label", "the column label of .* has the type int64; choose one with"),
    ],
)
def test_an_unclear_column_is_one_sentence(
    tmp_path: Path, columns: dict[str, Any], column: str | None, sentence: str
) -> None:
    """The sentence names the columns, and the option that chooses."""
    with pytest.raises(SourceError, match=sentence):
        items(write_table(tmp_path / "table.parquet", **columns), column=column)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("bad.parquet", b"PAR1", "bad.parquet cannot be read as Parquet"),
        ("bad.csv", b'path\n"a', "bad.csv cannot be read as CSV"),
        ("two.csv", b"a,b\n1,2\n", r"two.csv has the columns a, b, and none is known"),
        ("empty.csv", b"", r"has the columns \(none\)"),
        ("empty.txt", b"\n", "there are no images at the source"),
    ],
)
def test_a_bad_list_is_one_sentence(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    """A list or a table that cannot be read is refused before the first image."""
    (tmp_path / name).write_bytes(content)

    with pytest.raises(SourceError, match=sentence):
        items(tmp_path / name)


@pytest.mark.parametrize("argument", ["missing.png", "missing/*.png", "missing" * 50])
def test_a_source_that_is_not_there_is_named(tmp_path: Path, argument: str) -> None:
    """A path that does not exist, and a glob without matches, are refused."""
    with pytest.raises(SourceError, match=r"there is no file or folder .*missing"):
        items(tmp_path / argument)


def test_a_folder_that_has_gone_is_named(folder: Path) -> None:
    """A folder can disappear between the start and its listing."""
    sources = Sources([str(folder / "sub")])
    (folder / "sub").rename(folder / "other")

    with pytest.raises(SourceError, match=r"cannot read the folder .*sub: No such file"):
        sources.survey()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """A folder without files is more likely a mistake than work."""
    with pytest.raises(SourceError, match="there are no images at the source"):
        items(tmp_path)
