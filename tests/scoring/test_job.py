"""`app/scoring/job.py`: a run writes the same file, whether or not it is stopped, and refuses what has changed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.bundle.manifest import MANIFEST
from app.scoring import job
from app.scoring.errors import OutputError, ScoringFailed, SourcesChanged
from app.scoring.items import Item
from app.scoring.job import Request, Result, score
from app.scoring.output import Output
from app.scoring.rows import Columns
from app.scoring.scorer import Scorer
from app.scoring.sources import Sources
from app.settings import DEMO_BUNDLE, Settings
from benchmarks.load.served import START_SECONDS
from tests.scoring.drawn import drawn, write_images

SETTINGS = Settings(device="cpu", threads=1)
BAD = "The PNG data is truncated or corrupt."


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Write 50 images, of which every fifth is cut off."""
    return write_images(tmp_path / "images", 50, bad_every=5)


def request(source: Path, output: str = "out.parquet", **options: Any) -> Request:
    columns = options.pop("columns", Columns(logits=True))
    return Request([str(source)], source.parent / output, columns, **{"batch": 4} | options)


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def test_every_image_has_a_row(images: Path) -> None:
    """Rows are in the order of the files. A bad image has its reason, and null in the other columns."""
    result = score(request(images), SETTINGS)
    found = rows(images.parent / "out.parquet")

    assert (result.total, result.done, result.missing, result.scored) == (50, 50, 10, 50)
    assert [row["source"] for row in found] == [str(path) for path in sorted(images.iterdir())]
    for number, row in enumerate(found):
        if number % 5 == 4:
            assert row["error"] == BAD
            assert {row[name] for name in ("label", "index", "score", "top_k", "logits")} == {None}
        else:
            assert row["error"] is None
            assert (row["index"], row["label"], row["score"]) == tuple(
                row["top_k"][0][name] for name in ("index", "label", "score")
            )
            assert len(row["logits"]) == 10


def test_nothing_is_left_beside_the_file(images: Path) -> None:
    """When the run is complete, the folder of its parts is gone."""
    score(request(images), SETTINGS)

    assert sorted(path.name for path in images.parent.iterdir()) == ["images", "out.parquet"]


class Stop(Exception):
    """Ends a run like the death of its process."""


@contextmanager
def stopped_after(parts: int, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write a part for each chunk, and end the run after so many parts."""
    write, left = Output.write, [parts]

    def write_and_stop(output: Output, first: int, batches: Sequence[pa.RecordBatch]) -> None:
        if not left[0]:
            raise Stop
        left[0] -= 1
        write(output, first, batches)

    with patch.context() as patched:
        patched.setattr(job, "PART_SECONDS", 0)
        patched.setattr(Output, "write", write_and_stop)
        with pytest.raises(Stop):
            yield


@pytest.mark.parametrize("parts", [0, 1, 5, 12])
def test_a_continued_run_gives_the_same_file(images: Path, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a run that was ended and continued equals that of a run without an end, byte for byte."""
    score(request(images, "whole.parquet"), SETTINGS)
    with stopped_after(parts, monkeypatch):
        score(request(images), SETTINGS)
    result = score(request(images), SETTINGS)

    assert result.scored == 50 - 4 * parts
    assert (images.parent / "out.parquet").read_bytes() == (images.parent / "whole.parquet").read_bytes()


def test_what_was_measured_stays(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A continued run keeps the batch size that its first start measured. Threads change no bit, and are not kept."""
    opened = list[tuple[int | None, int | None]]()

    class Noted(Scorer):
        def __init__(self, settings: Settings, columns: Columns, batch: int | None = None) -> None:
            opened.append((settings.threads, batch))
            super().__init__(settings, columns, batch)

    settings = Settings(device="cpu")
    with stopped_after(1, monkeypatch):
        score(request(images, batch=None), settings, Noted)
    run = json.loads((images.parent / "out.parquet.parts/run.json").read_text())
    score(request(images, batch=None), settings, Noted)

    assert opened == [(None, None), (None, run["engine"]["batch"])]
    assert set(run["engine"]) == {"device", "batch"}


def test_a_complete_run_is_not_repeated(images: Path) -> None:
    """A second start finds the file, opens no engine, and changes nothing."""
    score(request(images), SETTINGS)
    before = (images.parent / "out.parquet").read_bytes()

    assert score(request(images), SETTINGS, lambda *_: pytest.fail("an engine was opened")) == Result(
        50, 50, 10, scored=0, seconds=0
    )
    assert (images.parent / "out.parquet").read_bytes() == before
    assert not (images.parent / "out.parquet.parts").exists()


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "top k 5, and it is 3 now": ({"columns": Columns(3, logits=True)}, {}),
    "logits True, and it is False now": ({"columns": Columns()}, {}),
    "embedding False, and it is True now": ({"columns": Columns(logits=True, embedding=True)}, {}),
    "batch 4, and it is 5 now": ({"batch": 5}, {}),
    "decode exact, and it is fast now": ({}, {"decode": "fast"}),
    "color profiles convert, and it is ignore now": ({}, {"color_profiles": "ignore"}),
    r"max megapixels 64(\.0)?, and it is 1": ({}, {"max_megapixels": 1}),
    "formats .*, and it is .'png'. now": ({}, {"formats": ("png",)}),
}


@pytest.mark.parametrize("is_complete", [False, True], ids=["parts", "file"])
@pytest.mark.parametrize("sentence", CHANGES)
def test_changed_options_are_refused(
    images: Path,
    sentence: str,
    is_complete: bool,  # noqa: FBT001 (a parameter of the test)
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run with other options neither continues nor replaces an output, and the sentence names the option."""
    if is_complete:
        score(request(images), SETTINGS)
    else:
        with stopped_after(2, monkeypatch):
            score(request(images), SETTINGS)
    options, settings = CHANGES[sentence]

    with pytest.raises(OutputError, match=f"out.parquet was begun with {sentence}"):
        score(request(images, **options), SETTINGS.model_copy(update=settings))


def test_a_changed_source_is_refused(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is added, and one that is replaced, end in a sentence."""
    with stopped_after(2, monkeypatch):
        score(request(images), SETTINGS)
    (images / "99999.png").write_bytes(drawn(1)[0])
    with pytest.raises(OutputError, match=r"begun with source 50 images \(.*and it is 51 images"):
        score(request(images), SETTINGS)
    (images / "99999.png").unlink()
    os.utime(images / "00000.png", ns=(1, 1))

    with pytest.raises(OutputError, match=r"begun with source 50 images \(.*and it is 50 images"):
        score(request(images), SETTINGS)


def test_a_changed_bundle_is_refused(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of two networks are never mixed, also if both are at the same place."""
    bundle = shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")
    settings = SETTINGS.model_copy(update={"bundle": bundle})
    with stopped_after(2, monkeypatch):
        score(request(images), settings)
    manifest = json.loads((bundle / MANIFEST).read_text()) | {"activation": "sigmoid"}
    (bundle / MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(OutputError, match="begun with bundle"):
        score(request(images), settings)


def test_overwrite_begins_again(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `overwrite`, neither parts nor the file of another run count."""
    score(request(images), SETTINGS)
    with stopped_after(2, monkeypatch):
        score(request(images, columns=Columns(2), overwrite=True), SETTINGS)
    assert len(rows(images.parent / "out.parquet")[0]["top_k"]) == 5  # the file stays until another one is complete
    result = score(request(images, columns=Columns(1), overwrite=True), SETTINGS)

    assert result.scored == 50
    assert len(rows(images.parent / "out.parquet")[0]["top_k"]) == 1


@pytest.mark.parametrize("content", [b"not a table", None], ids=["text", "table"])
def test_a_file_of_another_program_is_kept(images: Path, content: bytes | None) -> None:
    """A file that is not from this command is not replaced."""
    output = images.parent / "out.parquet"
    if content is None:
        pq.write_table(pa.table({"a": [1]}), output)
    else:
        output.write_bytes(content)

    with pytest.raises(OutputError, match="choose another --output, or --overwrite"):
        score(request(images), SETTINGS)
    assert not (images.parent / "out.parquet.parts").exists()


@pytest.mark.parametrize("name", ["notes.txt", "rows-1.parquet", "run.json.old"])
def test_a_folder_of_another_program_is_kept(images: Path, name: str) -> None:
    """A folder at the place of the parts that has other files is refused, and nothing in it changes."""
    file = images.parent / "out.parquet.parts" / name
    file.parent.mkdir()
    file.touch()

    with pytest.raises(OutputError, match=f"{name} is not from swin-serve score; move it away"):
        score(request(images, overwrite=True), SETTINGS)
    assert [*file.parent.iterdir()] == [file]


def test_a_file_that_arrives_beside_the_parts_is_kept(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run removes its own files only."""
    file = images.parent / "out.parquet.parts" / "notes.txt"
    monkeypatch.setattr(Changing, "after", staticmethod(file.touch))

    assert score(request(images), SETTINGS, Changing).is_complete
    assert [*file.parent.iterdir()] == [file]


@pytest.mark.parametrize("name", ["out.csv", "missing/out.parquet", "images"])
def test_an_output_that_cannot_be_written_is_refused_first(images: Path, name: str) -> None:
    """A wrong suffix, a missing folder and a folder are refused before any work."""
    with pytest.raises(OutputError, match="cannot write"):
        score(request(images, name), SETTINGS)


def test_two_runs_do_not_write_the_same_output(images: Path) -> None:
    """A second process is refused while the first one writes."""
    with Output(images.parent / "out.parquet").locked(), pytest.raises(OutputError, match="another process writes"):
        score(request(images), SETTINGS)


def test_a_source_that_shrinks_is_a_failure(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that loses rows during the run does not end in a short file."""
    monkeypatch.setattr(Sources, "items_after", lambda *_: iter(()))

    with pytest.raises(SourcesChanged, match="the sources have changed since the start, when they had 50 images"):
        score(request(images), SETTINGS)
    assert not (images.parent / "out.parquet").exists()


@pytest.mark.parametrize("pattern", ["*", "**"])
def test_a_glob_beside_the_output_goes_on(images: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts and the lock of a run do not match its own glob: it has the same images at the next start."""
    glob = images / pattern
    with stopped_after(2, monkeypatch):
        score(request(glob), SETTINGS)

    assert score(request(glob), SETTINGS).total == 50
    assert score(request(glob), SETTINGS).scored == 0


class Changing(Scorer):
    """A scorer beside which the folder changes, before its images are listed or after the last row."""

    before: Callable[[], object] = staticmethod(lambda: None)
    after: Callable[[], object] = staticmethod(lambda: None)

    def batches(self, items: Iterable[Item]) -> Generator[pa.RecordBatch, None, None]:
        self.before()
        yield from super().batches(items)
        self.after()


def test_a_file_that_arrives_during_the_run_is_a_failure(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file does not silently take the place of the last one."""
    new = images / "00000a.png"
    monkeypatch.setattr(Changing, "before", staticmethod(lambda: new.write_bytes(drawn(1)[0])))

    with pytest.raises(SourcesChanged, match="have changed since the start, when they had 50 images"):
        score(request(images), SETTINGS, Changing)
    assert not (images.parent / "out.parquet").exists()


def test_a_folder_that_goes_during_the_run_is_a_failure(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be listed again has changed."""
    monkeypatch.setattr(Changing, "after", staticmethod(lambda: shutil.rmtree(images)))

    with pytest.raises(SourcesChanged, match="have changed since the start: cannot read the folder"):
        score(request(images), SETTINGS, Changing)


def test_a_full_disk_is_a_failure(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that cannot be written ends the run with the reason, and the next start goes on."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", fail)
        with pytest.raises(ScoringFailed, match=r"cannot write .*: No space left"):
            score(request(images), SETTINGS)
    assert score(request(images), SETTINGS).is_complete


def test_the_file_does_not_depend_on_its_parts(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups have equal numbers of rows, however the parts were cut."""
    monkeypatch.setattr("app.scoring.output.GROUP_ROWS", 16)
    score(request(images), SETTINGS)
    monkeypatch.setattr(job, "PART_SECONDS", 0)
    score(request(images, "small.parquet"), SETTINGS)

    metadata = pq.read_metadata(images.parent / "out.parquet")
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [16, 16, 16, 2]
    assert (images.parent / "out.parquet").read_bytes() == (images.parent / "small.parquet").read_bytes()


def test_a_part_ends_at_a_number_of_bytes(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are not collected in memory beyond a number of bytes, however fast they are."""
    firsts, write = list[int](), Output.write

    def noted(output: Output, first: int, batches: Sequence[pa.RecordBatch]) -> None:
        firsts.append(first)
        write(output, first, batches)

    monkeypatch.setattr(Output, "write", noted)
    monkeypatch.setattr(job, "PART_SECONDS", START_SECONDS)
    monkeypatch.setattr(job, "GROUP_BYTES", 1)
    score(request(images), SETTINGS)

    assert firsts == [*range(0, 50, 4)]


def command(images: Path, parts: int = 4, *more: str) -> list[str]:
    options = ["--device", "cpu", "--threads", "1", "--batch", "4", "--logits", *more]
    output = str(images.parent / "out.parquet")
    return [sys.executable, "-m", "tests.scoring.held", str(parts), "score", str(images), "--output", output, *options]


@contextmanager
def held(images: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the command in a process, and wait until it has written four parts."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(images), text=True, **pipes) as process:  # type: ignore[call-overload]  # noqa: S603
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_killed_process_is_continued(images: Path) -> None:
    """After SIGKILL, the same command gives the same file as a run that was not killed."""
    score(request(images, "whole.parquet"), SETTINGS)
    with held(images) as process:
        process.kill()
        process.wait(START_SECONDS)
    assert not (images.parent / "out.parquet").exists()
    result = score(request(images), SETTINGS)

    assert result.scored == 50 - 4 * 4
    assert (images.parent / "out.parquet").read_bytes() == (images.parent / "whole.parquet").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_with_a_sentence(images: Path, number: signal.Signals) -> None:
    """At Ctrl-C and SIGTERM the rows so far are kept, and the sentence says how to go on."""
    with held(images) as process:
        process.send_signal(number)
        _, errors = process.communicate("\n", timeout=START_SECONDS)

    assert process.returncode == 1
    assert errors.splitlines()[-1] == ("swin-serve: stopped after 16 of 50 images; the same command goes on from there")
    assert score(request(images), SETTINGS).scored == 50 - 16
