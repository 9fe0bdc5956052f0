"""`swin-serve score` at the command line: rows, messages, exit codes, and what it needs."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from app.cli.main import main
from app.scoring import job
from app.scoring.errors import ScoringFailed, SourcesChanged
from app.settings import DEMO_BUNDLE, Settings
from tests.scoring.drawn import write_images
from tests.support.served import run

ROOT = Path(__file__).parents[2]
GOLDEN = DEMO_BUNDLE / "golden"
CPU = ("--device", "cpu", "--threads", "1", "--batch", "4")


def test_a_folder_becomes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command reads digits right, says what it wrote, and exits with 0."""
    output = tmp_path / "digits.parquet"

    assert main(["score", f"{GOLDEN}/*.png", "--output", str(output), "--top-k", "2", "--embedding", *CPU]) == 0
    rows = pq.read_table(output).to_pylist()
    assert {Path(row["source"]).stem: row["label"] for row in rows} == {row["label"]: row["label"] for row in rows}
    assert {len(row["top_k"]) for row in rows} == {2}
    assert {len(row["embedding"]) for row in rows} == {96}
    assert capsys.readouterr().out.startswith(f"{output}: 10 rows, 0 of them without a result, ")


def test_a_run_that_is_complete_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again changes nothing and says so."""
    command = ["score", str(GOLDEN), "--output", str(tmp_path / "digits.parquet"), *CPU]
    main(command)
    capsys.readouterr()

    assert main(command) == 0
    assert capsys.readouterr().out.endswith("without a result, all from an earlier start\n")


def test_bad_images_are_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad images are counted, and do not change the exit code."""
    folder = write_images(tmp_path / "images", 10, bad_every=5)

    assert main(["score", str(folder), "--output", str(tmp_path / "out.parquet"), *CPU]) == 0
    assert "10 rows, 2 of them without a result" in capsys.readouterr().out


def test_no_image_at_all_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If no image can be read, the rows have the reasons, and the exit code is 1."""
    folder = write_images(tmp_path / "images", 3, bad_every=1)
    command = ["score", str(folder), "--output", str(tmp_path / "out.parquet"), *CPU]

    for _ in range(2):
        assert main(command) == 1
        assert "none of the 3 images has a result" in capsys.readouterr().err
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 3


@pytest.mark.parametrize(
    ("option", "command"), [([], "the same command"), (["--overwrite"], "the same command without --overwrite")]
)
def test_the_way_to_go_on_keeps_the_rows(
    option: list[str],
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After a stop and after a failure, the command that is advised does not begin again."""
    arguments = ["score", str(GOLDEN), "--output", str(tmp_path / "out.parquet"), *option]

    monkeypatch.setattr(job, "score", lambda *_: job.Result(10, 4, 0, scored=4, seconds=1))
    assert main(arguments) == 1
    assert capsys.readouterr().err == f"swin-serve: stopped after 4 of 10 images; {command} goes on from there\n"

    def fail(*_: object) -> None:
        raise ScoringFailed("the disk is full")

    monkeypatch.setattr(job, "score", fail)
    assert main(arguments) == 1
    expected = f"swin-serve: the disk is full; {command} goes on from the rows that are written\n"
    assert capsys.readouterr().err == expected


def test_a_run_that_cannot_go_on_does_not_advise_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the sources have changed, the message does not advise the same command."""

    def fail(*_: object) -> None:
        raise SourcesChanged("the sources have changed")

    monkeypatch.setattr(job, "score", fail)

    assert main(["score", str(GOLDEN), "--output", str(tmp_path / "out.parquet")]) == 1
    assert capsys.readouterr().err == "swin-serve: the sources have changed\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.png", "--output", "out.parquet"], "there is no file or folder missing.png, and no file matches it"),
        ([str(GOLDEN), "--output", "out.csv"], "cannot write out.csv: give the path of a file that ends with .parquet"),
        ([str(GOLDEN), "--output", "out.parquet", "--bundle", "none"], "no bundle at none"),
        ([str(GOLDEN), "--output", "out.parquet", "--device", "cuda"], "swin-serve[gpu]"),
        ([str(GOLDEN), "--output", "out.parquet", "--decode", "slow"], "--decode 'slow': not one of the choices"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each wrong request ends with one line and exit code 2, and leaves no file."""
    monkeypatch.chdir(tmp_path)

    assert main(["score", *arguments]) == 2
    errors = capsys.readouterr().err
    assert sentence in errors
    assert len(errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: SOURCE, --output"),
        (["a.png", "--output", "o.parquet", "--batch", "0"], "'0' is no whole number from 1 to 1024"),
        (["a.png", "--output", "o.parquet", "--port", "1"], "unrecognized arguments: --port"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that is missing, wrong, or of the service is named."""
    with pytest.raises(SystemExit) as exit_:
        main(["score", *arguments])

    errors = capsys.readouterr().err
    assert exit_.value.code == 2
    assert sentence in errors
    assert len(errors.splitlines()) == 1


def test_settings_come_from_the_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of a setting counts, and an option wins over it."""
    monkeypatch.setenv("SWIN_TOP_K", "3")
    monkeypatch.setenv("SWIN_FORMATS", "jpeg")
    output = tmp_path / "out.parquet"
    main(["score", str(GOLDEN / "seven.png"), "--output", str(output), "--formats", "png", *CPU])

    assert {len(row["top_k"]) for row in pq.read_table(output).to_pylist()} == {3}


@pytest.mark.parametrize("library", ["pyarrow", "rich"])
def test_a_missing_extra_is_one_sentence(tmp_path: Path, library: str) -> None:
    """Without the libraries of the extra, the sentence has the command that installs them."""
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError('gone', name={library!r})")

    ended = run("score", str(GOLDEN), "--output", str(tmp_path / "out.parquet"), PYTHONPATH=str(tmp_path))

    assert ended.returncode == 2
    assert ended.stderr == ("swin-serve: swin-serve score needs pyarrow and rich: pip install 'swin-serve[offline]'\n")


def test_the_service_does_not_need_the_extra() -> None:
    """The command line is imported, and its help is printed, without the libraries of the extra."""
    blocked = (
        "import sys; sys.modules.update(dict.fromkeys(('pyarrow', 'rich'))); from app.cli.main import main; main()"
    )

    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", blocked, "score", "--help"], capture_output=True, text=True, cwd=ROOT, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_the_help_has_no_option_of_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    """Options about HTTP and queues do not apply."""
    with pytest.raises(SystemExit):
        main(["score", "--help"])

    text = capsys.readouterr().out
    assert {name for name in Settings.model_fields if f"--{name.replace('_', '-')} " in text} >= {"bundle", "decode"}
    assert not [word for word in ("--port", "--max-queue-size", "uploads") if word in text]
