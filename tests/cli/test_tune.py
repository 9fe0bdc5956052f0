"""`swin-serve tune` at the command line: requests that are refused before anything is measured."""

import sys
from pathlib import Path

import pytest

from app.bundle.load import Bundle
from app.cli import tune
from app.cli.main import main
from tests.tuning.test_answer import result


@pytest.fixture
def images(demo: Bundle) -> str:
    return str(demo.folder / "golden/seven.png")


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, which has to refuse, and return its only line."""
    try:
        code = main(["tune", *arguments])
    except SystemExit as exit_:
        code = int(str(exit_.code))
    output = capsys.readouterr()
    assert (code, output.out) == (2, "")
    (line,) = output.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--slo", "50ms"], "--slo '50ms': not an objective; give a percentile"),
        (["--slo", "p99=50ms", "--minutes", "0"], "'0' is no number of minutes from 0.25 to 1440"),
        (["--slo", "p99=50ms", "--minutes", "nan"], "'nan' is no number of minutes"),
        (["--slo", "p99=50ms", "--rate", "-3"], "'-3' is no number of requests per second"),
        (["--slo", "p99=50ms", "--rate", "nan"], "'nan' is no number of requests per second"),
        (["--slo", "p99=50ms", "--output", "missing/tuned.env"], "--output missing/tuned.env: cannot write this file"),
        (["--slo", "p99=50ms", "--report", "."], "--report .: cannot write this file"),
        (["--slo", "p99=50ms", "--output", "a", "--report", "a"], "--output and --report are the same file, a"),
        (["--slo", "p99=50ms", "--bundle", "missing"], "missing"),
        (["--slo", "p99=50ms", "--max-batch", "0"], "--max-batch '0'"),
        ([], "the following arguments are required: --slo"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    arguments: list[str], expected: str, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused with exit code 2 before a process starts."""
    assert expected in refusal(capsys, "--images", images, *arguments)


def test_without_an_image_nothing_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with the file and its fault."""
    (tmp_path / "notes.txt").write_text("no image")

    assert "notes.txt" in refusal(capsys, "--slo", "p99=50ms", "--images", str(tmp_path / "notes.txt"))


def test_a_report_needs_matplotlib(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence comes at the start, not after the minutes of the run."""
    monkeypatch.delitem(sys.modules, "app.load.picture", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    line = refusal(capsys, "--slo", "p99=50ms", "--images", images, "--report", str(tmp_path / "tuned.html"))

    assert line == "swin-serve: swin-serve tune --report needs matplotlib: pip install 'swin-serve[bench]'"


def test_other_systems_are_named(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CPU times of processes are read in /proc, which macOS does not have."""
    monkeypatch.setattr("app.cli.tune.PROC", tmp_path)

    assert "swin-serve tune needs Linux" in refusal(capsys, "--slo", "p99=50ms", "--images", images)


@pytest.mark.skipif(sys.platform != "linux", reason="the command needs Linux")
def test_too_few_open_files_are_refused(
    images: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names the limit before a process starts."""
    monkeypatch.setattr(tune, "raise_soft_limit", lambda needed: min(needed, 120))

    line = refusal(capsys, "--slo", "p99=50ms", "--images", images)

    assert line == (
        "swin-serve: swin-serve tune opens up to 512 connections; this process may open only 56; raise ulimit -n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the command needs Linux")
def test_the_settings_do_not_need_standard_output(
    images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the table cannot be printed, the settings are written all the same. The exit code is 1."""
    monkeypatch.setattr(tune, "_run", lambda *_: result())
    output = tmp_path / "tuned.env"

    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["tune", "--slo", "p99=50ms", "--images", images, "--output", str(output)]) == 1
    sentence = "swin-serve: cannot write to standard output: No space left on device"
    assert capsys.readouterr().err.splitlines() == [sentence]
    assert "SWIN_MAX_BATCH=4" in output.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the command needs Linux")
def test_the_settings_follow_the_table(
    images: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a file for them, they are printed below the table and the sentence, and end with one line break."""
    monkeypatch.setattr(tune, "_run", lambda *_: result())

    assert main(["tune", "--slo", "p99=50ms", "--images", images]) == 0
    output = capsys.readouterr().out
    table, sentence, settings = output.split("\n\n", 2)
    assert len(table.splitlines()) > 1
    assert sentence.startswith("These settings hold")
    assert "SWIN_MAX_BATCH=4\n" in settings
    assert output.endswith("\n")
    assert not output.endswith("\n\n")


@pytest.mark.skipif(sys.platform != "linux", reason="the command needs Linux")
def test_a_part_of_the_files_is_said_to_be_one(
    demo: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five of the ten images are enough here, and the line has the numbers."""
    monkeypatch.setattr(tune, "_run", lambda *_: result())
    monkeypatch.setattr("app.tuning.samples.MAX_IMAGES", 5)

    assert main(["tune", "--slo", "p99=50ms", "--images", str(demo.folder / "golden")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(line.endswith("of 11 files are read, chosen at random: the maximum is 5 images") for line in lines), (
        lines
    )
