"""`swin-serve classify` at the command line: answers, pictures, messages, exit codes, and what it needs."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.bundle.load import Bundle
from app.cli.main import main
from app.local_model import open_model
from app.service_address import KEY_VARIABLE
from app.settings import DEMO_BUNDLE
from tests.support.fake_server import FakeServer, reply, silence
from tests.support.served import Served, run
from tests.support.waiting import HANG_SECONDS

GOLDEN = DEMO_BUNDLE / "golden"
SEVEN, ONE = str(GOLDEN / "seven.png"), str(GOLDEN / "one.png")
CPU = ("--device", "cpu", "--threads", "1")
KEY = "a-key-of-a-service"
ANSWER = {"predictions": [{"index": 7, "label": "seven", "score": 0.5}]}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A service that takes everything for a seven."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = FakeServer(reply(200, ANSWER))
    yield server
    server.stop()


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Return the cells of each line of the output."""
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_each_image_has_its_best_classes(capsys: pytest.CaptureFixture[str]) -> None:
    """The command reads digits right, in the order in which they are given, and exits with 0."""
    digits = [str(path) for path in sorted(GOLDEN.glob("*.png"))]

    assert main(["classify", *digits, "--top-k", "2", *CPU]) == 0
    lines = lines_of(capsys)
    assert [line[0] for line in lines] == [name for name in digits for _ in range(2)]
    assert [line[2] for line in lines[::2]] == [Path(name).stem for name in digits]


def test_a_service_gives_the_same_answers(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--url` the output is that of the same bundle in this process."""
    assert main(["classify", ONE, SEVEN, *CPU]) == 0
    here = lines_of(capsys)
    assert main(["classify", ONE, SEVEN, "--url", served.url]) == 0

    assert lines_of(capsys) == here


def test_json_has_a_line_for_each_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad image has a line too, and its sentence is on standard error."""
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")

    assert main(["classify", str(bad), SEVEN, "--json", *CPU]) == 1
    output = capsys.readouterr()
    first, second = map(json.loads, output.out.splitlines())
    assert first["image"] == str(bad)
    assert output.err == f"swin-serve: {bad}: {first['error']}\n"
    assert second["predictions"][0]["label"] == "seven"


def test_bad_images_do_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file and a folder have a sentence each; the others have answers; the exit code is 1."""
    assert main(["classify", "missing.png", str(GOLDEN), SEVEN, "--top-k", "1", *CPU]) == 1

    output = capsys.readouterr()
    assert [line.split("\t")[2] for line in output.out.splitlines()] == ["seven"]
    assert output.err.splitlines() == [
        "swin-serve: missing.png: The file cannot be read: No such file or directory.",
        f"swin-serve: {GOLDEN}: The file cannot be read: Is a directory.",
    ]


def test_an_image_comes_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`-` is the image on standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(SEVEN).read_bytes())))

    assert main(["classify", "-", "--top-k", "1", *CPU]) == 0
    assert [line[::2] for line in lines_of(capsys)] == [["-", "seven"]]


@pytest.mark.parametrize("image", ["-", "large.png"])
def test_a_long_image_is_refused(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image in this process has at most `max_body_mib`, also from standard input."""
    content = bytes(2**20 + 1)
    monkeypatch.chdir(tmp_path)
    Path("large.png").write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    assert main(["classify", image, "--max-body-mib", "1", *CPU]) == 1
    assert capsys.readouterr().err == f"swin-serve: {image}: The image is longer than 1 MiB.\n"


@pytest.mark.parametrize("is_remote", [False, True])
def test_evidence_is_a_picture_of_each_image(*, is_remote: bool, tmp_path: Path, demo: Bundle, served: Served) -> None:
    """Each picture is that of `LocalModel`, and has the name of its image."""
    where = ("--url", served.url) if is_remote else CPU
    folder = tmp_path / "new" / "evidence"

    assert main(["classify", ONE, SEVEN, "--evidence", str(folder), *where]) == 0
    with open_model(demo.folder, device="cpu", threads=1) as model:
        for name in ("one", "seven"):
            drawn = model.draw_evidence((GOLDEN / f"{name}.png").read_bytes())
            assert (folder / f"{name}.evidence.png").read_bytes() == drawn.png


def test_a_picture_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The image has no answer then, and the exit code is 1."""
    picture = tmp_path / "seven.evidence.png"
    picture.mkdir()

    assert main(["classify", SEVEN, "--evidence", str(tmp_path), *CPU]) == 1
    assert capsys.readouterr() == ("", f"swin-serve: {SEVEN}: cannot write {picture}: Is a directory\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-", "-"], "- is given 2 times, and standard input holds one image"),
        ([SEVEN, "--bundle", "none"], "no bundle at none"),
        ([SEVEN, "--device", "cuda"], "swin-serve[gpu]"),
        ([SEVEN, "--top-k", "0"], "--top-k '0': too small"),
        ([SEVEN, "--url", "ftp://host"], "--url 'ftp://host': not the address of a service"),
        ([SEVEN, "--url", "http://a..b"], "--url 'http://a..b': not the address of a service"),
        ([SEVEN, "--url", "host", "--bundle", "b"], "--bundle has no effect with --url"),
        ([SEVEN, "--url", "host", "--max-body-mib", "1"], "--max-body-mib has no effect with --url"),
        (["a/x.png", "b/x.jpg", "--evidence", "."], "2 images would be written to x.evidence.png"),
        ([SEVEN, "--evidence", f"{SEVEN}/folder"], "cannot make the folder"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each wrong request ends with one line and exit code 2."""
    assert main(["classify", *arguments]) == 2

    errors = capsys.readouterr().err
    assert sentence in errors
    assert len(errors.splitlines()) == 1


def test_a_service_without_an_answer_is_one_sentence(service: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """If the service cannot be reached, no sentence is repeated for each image, and the exit code is 1."""
    service.stop()

    assert main(["classify", *[SEVEN] * 20, "--url", service.url]) == 1
    assert capsys.readouterr() == ("", f"swin-serve: {service.url} gives no answer: Connection refused\n")


def test_the_key_comes_from_the_environment(service: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable holds the key, which the header has."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)

    assert main(["classify", SEVEN, "--url", service.url]) == 0
    assert service.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("way", ["neither", "option", "variable"])
def test_the_service_decides_how_many_classes_unless_told(
    way: str, service: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a number that the option or the variable sets is sent."""
    if way == "variable":
        monkeypatch.setenv("SWIN_TOP_K", "3")
    main(["classify", SEVEN, "--url", service.url, *(("--top-k", "3") if way == "option" else ())])

    assert service.requests[0].path == ("/classify" if way == "neither" else "/classify?top_k=3")


def test_a_service_is_asked_without_onnx_runtime(service: FakeServer, tmp_path: Path) -> None:
    """With `--url` the base install is enough: neither ONNX Runtime nor rich is imported."""
    for library in ("onnxruntime", "rich"):
        (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError('gone', name={library!r})")

    ended = run("classify", SEVEN, "--url", service.url, PYTHONPATH=str(tmp_path))

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{SEVEN}\t7\tseven\t0.5000\n", "")


def test_standard_error_is_empty_after_success() -> None:
    """The log of the start is not shown, unless the variable of its level asks for it."""
    quiet = run("classify", SEVEN, *CPU)
    verbose = run("classify", SEVEN, *CPU, SWIN_LOG_LEVEL="info")

    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert "ready" in verbose.stderr


def test_a_reader_that_ends_early_is_no_error() -> None:
    """If the reader of the output closes it, as `head` does, there is no trace."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "app", "classify", SEVEN, *CPU]
    with os.fdopen(writing, "wb") as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603 (our own)

    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_a_service(service: FakeServer, number: signal.Signals) -> None:
    """The command does not wait for answers that do not come. Its exit code is 1, without a trace."""
    service._scripts[:] = [silence]  # noqa: SLF001 (the scripts of this server)
    command = [sys.executable, "-m", "app", "classify", SEVEN, "--url", service.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 (our own)
    service.wait_for_request()
    process.send_signal(number)
    _, errors = process.communicate(timeout=HANG_SECONDS)

    assert process.returncode == 1
    assert "Traceback" not in errors


def test_many_images_have_a_bar_beside_the_lines(service: FakeServer) -> None:
    """On a terminal standard error shows a bar. The lines are on standard output, none of them lost."""
    terminal, end = os.openpty()
    command = [sys.executable, "-m", "app", "classify", *[SEVEN] * 20, "--url", service.url]
    shown = list[bytes]()
    reader = threading.Thread(target=lambda: shown.extend(_read_all(terminal)))
    reader.start()
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        command, stdout=subprocess.PIPE, stderr=end, text=True, check=False, env=os.environ | {"TERM": "xterm"}
    )
    os.close(end)
    reader.join(HANG_SECONDS)
    os.close(terminal)

    assert done.stdout.splitlines() == [f"{SEVEN}\t7\tseven\t0.5000"] * 20
    assert b"20/20" in b"".join(shown)
    assert b"seven" not in b"".join(shown)


def _read_all(terminal: int) -> Iterator[bytes]:
    """Yield what is written to a terminal, until its other end is closed."""
    try:
        while piece := os.read(terminal, 65536):
            yield piece
    except OSError:  # EIO: the other end is closed
        return
