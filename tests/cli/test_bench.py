"""`swin-serve bench` at the command line: figures, files, messages, exit codes, and what it needs."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.cli import bench
from app.cli.main import main
from app.load.sweep import SHARES
from app.service_address import KEY_VARIABLE
from app.settings import DEMO_BUNDLE
from tests.support.fake_server import FakeServer, Handler, Script, hang_up, reply, silence
from tests.support.served import Served, run
from tests.support.waiting import HANG_SECONDS

GOLDEN = DEMO_BUNDLE / "golden"
SEVEN = str(GOLDEN / "seven.png")
ANSWER = {"predictions": [{"index": 7, "label": "seven", "score": 0.5}]}
HOSTILE = "<script>alert('x')</script>"
MODEL = {
    "version": "9.9",
    "name": HOSTILE,
    "engines": [{"device": f"{HOSTILE}\x1b[2J", "buckets": [{"batch": 1, "milliseconds": 0.5}]}],
}
KEY = "a-key-of-a-service"

# Windows so short that their figures mean nothing.
SHORT = ("--seconds", "0.2", "--warm-up", "0")
ONE_WINDOW = (*SHORT, "--clients", "1", "--rates", "none")


def by_path(*images: Script, model: Script | None = None) -> Script:
    """Return a script for all requests: each POST has the next script, and the last one serves all others."""
    scripts, lock = list(images), threading.Lock()

    def script(handler: Handler) -> None:
        if handler.received.method == "GET":
            (model or reply(404))(handler)
            return
        with lock:
            chosen = scripts.pop(0) if len(scripts) > 1 else scripts[0]
        chosen(handler)

    return script


Serve = Callable[..., FakeServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A function that starts a service with scripted answers to images. The services stop after the test."""
    servers = list[FakeServer]()

    def start(*images: Script, model: Script | None = None) -> FakeServer:
        servers.append(FakeServer(by_path(*images, model=model)))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def posts(server: FakeServer) -> int:
    """Return the number of images that the service got."""
    return sum(request.method == "POST" for request in server.requests)


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the JSON document, which is the only line of the output."""
    (line,) = capsys.readouterr().out.splitlines()
    found: dict[str, Any] = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return found


def started(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "app", "bench", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 (our own)


def test_a_service_is_measured_by_closed_and_open_loops(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for each kind: three numbers of clients, then shares of the best rate. Each window has a line before."""
    assert main(["bench", served.url, str(GOLDEN), *SHORT]) == 0

    output = capsys.readouterr()
    head, closed, opened, *_ = output.out.split("\n\n")
    assert head.startswith(f"digits ({served.url}): 10 images of ")
    assert [line.split()[0] for line in closed.splitlines()[2:]] == ["1", "8", "32"]
    assert len(opened.splitlines()[2:]) == len(SHARES)
    assert len(output.err.splitlines()) == 3 + len(SHARES)


def test_json_is_one_line_with_all_figures(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """The line has the service, the images, each window, and what measured it."""
    assert (
        main(["bench", served.url, SEVEN, *SHORT, "--clients", "2", "--rates", "50,100", "--seed", "7", "--json"]) == 0
    )

    found = document(capsys)
    assert (found["url"], found["model"]["name"], found["seed"]) == (served.url, "digits", 7)
    assert found["images"] == {"number": 1, "bytes": Path(SEVEN).stat().st_size}
    (closed,) = found["closed"]
    assert closed["clients"] == 2
    assert 0 < closed["p50_ms"] <= closed["p90_ms"] <= closed["p99_ms"] <= closed["max_ms"]
    assert closed["ok"] > 0
    assert closed["other_cores"] >= 0
    assert [row["arrivals_per_second"] for row in found["open"]] == [50, 100]
    assert {"late_ms", "refused", "failed", "lost"} <= set(found["open"][0])
    assert found["is_complete"]
    assert found["faults"] == []
    assert found["client"]["versions"]["uvloop"]


def test_the_guide_names_each_key_of_the_json(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of the guide has the keys of the object and of its windows."""
    assert main(["bench", served.url, SEVEN, *SHORT, "--clients", "2", "--rates", "50", "--json"]) == 0

    found = document(capsys)
    guide = (Path(__file__).parents[2] / "docs/how-to/command-line.md").read_text()
    missing = {key for key in found | found["closed"][0] | found["open"][0] if f"`{key}`" not in guide}
    assert missing == set()


def test_images_are_sent_in_turn(serve: Serve, tmp_path: Path) -> None:
    """The load holds the bytes of all images, also of those that were not tried alone."""
    for number in range(20):
        (tmp_path / f"{number:02}.png").write_bytes(b"\x89PNG\r\n\x1a\n%02d" % number)
    server = serve(reply(200, ANSWER))

    assert main(["bench", server.url, str(tmp_path), *ONE_WINDOW]) == 0
    contents = [request.content[-2:] for request in server.requests if request.method == "POST"]
    assert len(set(contents)) == 20
    tried = contents.index(b"00", 1)
    assert tried <= bench.MAX_TRIED
    assert contents[tried : tried + 20] == [b"%02d" % number for number in range(20)]


@pytest.mark.parametrize(("number", "tried"), [(1, 1), (8, 8), (9, 8), (10, 8), (100, 8)])
def test_a_few_images_are_tried_evenly(number: int, tried: int, serve: Serve, tmp_path: Path) -> None:
    """At most 8 of all images are sent alone: the first one, and others at nearly equal distances."""
    for place in range(number):
        (tmp_path / f"{place:03}.png").write_bytes(b"\x89PNG\r\n\x1a\n%03d" % place)
    server = serve(reply(200, ANSWER), model=silence)
    process = started(server.url, str(tmp_path))
    for _ in range(tried + 1):  # and the question for what is in service
        server.wait_for_request()
    process.kill()
    process.communicate(timeout=HANG_SECONDS)

    places = [int(request.content[-3:]) for request in server.requests if request.method == "POST"]
    distances = {after - before for before, after in itertools.pairwise([*places, number])}
    assert (places[0], len(places)) == (0, tried)
    assert max(distances) - min(distances) <= 1


def test_the_key_is_sent_with_each_request(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable holds the key, which the header of each request has: of questions, metrics and load."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    server = serve(reply(200, ANSWER))

    assert main(["bench", f"{server.url}/digits/", SEVEN, *ONE_WINDOW]) == 0
    assert {request.headers.get("authorization") for request in server.requests} == {f"Bearer {KEY}"}
    assert {request.path for request in server.requests} == {"/digits/classify", "/digits/model", "/digits/metrics"}


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (
            reply(401, {"code": "unauthorized", "detail": "Send a key."}),
            "the service needs an API key; set SWIN_API_KEY",
        ),
        (reply(302, b"", Location="http://192.0.2.1/"), "/classify answers 302 Found; give the address"),
        (reply(200, b"<html>a proxy</html>"), "/classify does not answer as swin-serve does"),
        (reply(404, b"<html>"), "/classify answers 404 Not Found; give the address of swin-serve as URL"),
        (reply(415, {"code": "unsupported_image", "detail": "Send\x1b JPEG."}), f"{SEVEN}: Send\\x1b JPEG."),
    ],
)
def test_a_wrong_request_is_refused_before_the_load(
    script: Script, sentence: str, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key, an address or an image that is refused is one sentence and exit code 2, after one request."""
    server = serve(script)

    assert main(["bench", server.url, SEVEN, *ONE_WINDOW]) == 2
    output = capsys.readouterr()
    assert sentence in output.err
    assert (output.out, len(output.err.splitlines())) == ("", 1)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "script", [hang_up, reply(502, b"<html>"), reply(500, {"code": "internal_error", "detail": "The service failed."})]
)
def test_a_service_that_cannot_answer_is_one_sentence(
    script: Script, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lost connection, a proxy without a service and a failing service are exit code 1, before the load."""
    server = serve(script)

    assert main(["bench", server.url, SEVEN, *ONE_WINDOW]) == 1
    output = capsys.readouterr()
    assert (output.out, len(output.err.splitlines())) == ("", 1)
    assert len(server.requests) == 1


def test_an_unreachable_service_is_one_sentence(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence has the address and the reason."""
    server = serve(hang_up)
    server.stop()

    assert main(["bench", server.url, SEVEN]) == 1
    assert capsys.readouterr() == ("", f"swin-serve: {server.url} gives no answer: Connection refused\n")


def test_refusals_are_a_result(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """A service that refuses everything is measured: no latency, no rate for an open loop, exit code 0."""
    server = serve(reply(429, {"code": "overloaded", "detail": "Try again."}))

    assert main(["bench", server.url, SEVEN, *SHORT, "--clients", "1,2", "--json"]) == 0
    found = document(capsys)
    assert [row["p99_ms"] for row in found["closed"]] == [None, None]
    assert all(row["refused"] > 0 and row["ok"] == 0 for row in found["closed"])
    assert found["open"] == []
    assert any("give --rates" in remark for remark in found["remarks"])


def test_failed_responses_are_counted_by_status(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """A service that fails under load is exit code 1, and the figures are printed."""
    server = serve(reply(200, ANSWER), reply(500, b"no"))

    assert main(["bench", server.url, SEVEN, *ONE_WINDOW]) == 1
    output = capsys.readouterr()
    failed = output.out.split("\n\n")[1].splitlines()[-1].split()[-2]
    assert f"swin-serve: {failed} responses failed, by status: 500 ({failed})" in output.err


def test_a_service_that_dies_ends_the_load(served: Served) -> None:
    """The windows before are printed, no further ones are tried, and the exit code is 1."""
    windows = 200  # a minute: the service dies within it, also on a busy machine
    clients = ",".join(["2"] * windows)
    process = started(served.url, SEVEN, "--seconds", "0.3", "--warm-up", "0", "--clients", clients, "--timeout", "5")
    assert process.stderr is not None
    process.stderr.readline()  # of the first window
    served.process.kill()
    output, errors = process.communicate(timeout=HANG_SECONDS)

    assert process.returncode == 1
    rows = output.split("\n\n")[1].splitlines()[2:]
    assert 1 < len(rows) < windows
    assert int(rows[-1].split()[-1]) > 0  # lost
    assert "the service gives no answer any more" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_prints_what_was_measured(number: signal.Signals, serve: Serve) -> None:
    """A signal within a window ends the load. The complete windows are printed, and the exit code is 1."""
    samples, is_held = list[str](), threading.Event()

    def sample(handler: Handler) -> None:
        samples.extend(["metrics"] * (handler.received.path == "/metrics"))
        reply(404)(handler)

    def answer(handler: Handler) -> None:
        if len(samples) <= 2:  # before and after the first window
            reply(200, ANSWER)(handler)
            return
        is_held.set()
        silence(handler)

    process = started(serve(answer, model=sample).url, SEVEN, *SHORT, "--clients", "1,1", "--timeout", "1000")
    assert is_held.wait(HANG_SECONDS)
    process.send_signal(number)
    output, errors = process.communicate(timeout=HANG_SECONDS)

    assert process.returncode == 1
    assert len(output.split("\n\n")[1].splitlines()) == 2 + 1
    assert errors.splitlines()[-1] == f"swin-serve: stopped after 1 of {2 + len(SHARES)} windows"
    assert "Traceback" not in errors


def test_sigterm_before_the_load_is_no_success(serve: Serve) -> None:
    """A signal during the first question ends the command with exit code 1: nothing is measured."""
    server = serve(silence)
    process = started(server.url, SEVEN)
    server.wait_for_request()
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=HANG_SECONDS)

    assert (process.returncode, output, errors) == (1, "", "")


def test_proxies_are_not_used(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question before the load goes the way of the load: to the service itself."""
    proxy, server = serve(reply(200, ANSWER)), serve(reply(200, ANSWER))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")

    assert main(["bench", server.url, SEVEN, *ONE_WINDOW]) == 0
    assert proxy.requests == []


def test_picture_and_report_are_written(serve: Serve, tmp_path: Path) -> None:
    """The picture is a PNG. The report is a page with the figures, where names of the service are text."""
    server = serve(reply(200, ANSWER), model=reply(200, MODEL))
    files = ("--picture", str(tmp_path / "a.png"), "--report", str(tmp_path / "a.html"))

    assert main(["bench", server.url, SEVEN, *SHORT, "--clients", "1", "--rates", "20", *files]) == 0
    assert Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())).format == "PNG"
    page = (tmp_path / "a.html").read_text()
    assert page.replace(server.url, "").count("://") == 0
    assert "<script" not in page
    assert "\x1b" not in page
    assert "Open loop" in page
    assert "swin-serve 9.9" in page
    assert "<svg" in page


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /dev/full")
@pytest.mark.parametrize("as_json", [False, True])
def test_files_and_faults_do_not_need_standard_output(
    *,
    as_json: bool,
    serve: Serve,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the figures cannot be printed, the files are written, and standard error has the faults of the load."""
    server = serve(reply(200, ANSWER), reply(500, b"no"))
    files = ("--picture", str(tmp_path / "a.png"), "--report", str(tmp_path / "a.html"))

    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["bench", server.url, SEVEN, *ONE_WINDOW, *files, *(["--json"] if as_json else [])]) == 1
    _, faults, sentence = capsys.readouterr().err.splitlines()
    assert "responses failed, by status: 500" in faults
    assert sentence == "swin-serve: cannot write to standard output: No space left on device"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /dev/full")
def test_a_file_that_cannot_be_written_is_a_fault(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures are printed, and name the file."""
    server = serve(reply(200, ANSWER))

    assert main(["bench", server.url, SEVEN, *ONE_WINDOW, "--report", "/dev/full", "--json"]) == 1
    output = capsys.readouterr()
    fault = "cannot write /dev/full: No space left on device"
    assert json.loads(output.out)["faults"] == [fault]
    assert output.err.splitlines()[-1] == f"swin-serve: {fault}"


@pytest.mark.parametrize("option", ["--picture", "--report"])
def test_without_matplotlib_there_is_no_picture(option: str, serve: Serve, tmp_path: Path) -> None:
    """The extra that is missing is named before any request."""
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('gone', name='matplotlib')")
    server = serve(reply(200, ANSWER))

    ended = run("bench", server.url, SEVEN, option, str(tmp_path / "file"), PYTHONPATH=str(tmp_path))

    sentence = f"swin-serve: swin-serve bench {option} needs matplotlib: pip install 'swin-serve[bench]'\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", sentence)
    assert server.requests == []


def test_the_base_install_is_enough(serve: Serve, tmp_path: Path) -> None:
    """Without pictures, neither matplotlib, rich nor ONNX Runtime is imported."""
    for library in ("matplotlib", "onnxruntime", "rich"):
        (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError('gone', name={library!r})")
    server = serve(reply(200, ANSWER))

    ended = run("bench", server.url, SEVEN, *ONE_WINDOW, PYTHONPATH=str(tmp_path))

    assert (ended.returncode, len(ended.stderr.splitlines())) == (0, 1)
    assert "closed loop" in ended.stdout


@pytest.mark.parametrize(
    ("terminal_kind", "hidden", "expected"),
    [("xterm", "", b"1/1"), ("xterm", "rich", b"1 client: "), ("dumb", "", b"1 client: ")],
)
def test_a_terminal_has_a_bar(terminal_kind: str, hidden: str, expected: bytes, serve: Serve) -> None:
    """On a terminal, standard error counts the windows. A dumb one, and one without rich, has lines."""
    program = f"import sys; sys.modules[{hidden!r}] = None; from app.cli.main import main; sys.exit(main())"
    terminal, end = os.openpty()
    shown = list[bytes]()
    reader = threading.Thread(target=lambda: shown.extend(_read_all(terminal)))
    reader.start()
    command = [sys.executable, "-c", program, "bench", serve(reply(200, ANSWER)).url, SEVEN, *ONE_WINDOW]
    environment = os.environ | {"TERM": terminal_kind}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=end, check=False, env=environment)  # noqa: S603 (our own)
    os.close(end)
    reader.join(HANG_SECONDS)
    os.close(terminal)

    assert done.returncode == 0
    assert b"closed loop" in done.stdout
    assert expected in b"".join(shown)


def _read_all(terminal: int) -> Iterator[bytes]:
    """Yield what is written to a terminal, until its other end is closed."""
    try:
        while piece := os.read(terminal, 65536):
            yield piece
    except OSError:  # EIO: the other end is closed
        return


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--clients", "0"], "'0' is no whole number from 1 to 10000"),
        (["--clients", "1,"], "'' is no whole number"),
        (["--clients", "x"], "'x' is no whole number"),
        (["--rates", "0"], "'0' is no rate above 0"),
        (["--rates", "inf"], "'inf' is no rate"),
        (["--rates", "nan"], "'nan' is no rate"),
        (["--seconds", "0"], "'0' is no time above 0"),
        (["--warm-up", "-1"], "'-1' is no time"),
        (["--timeout", "x"], "'x' is no time"),
        (["--seed", "-1"], "'-1' is no whole number"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence has the value and what is expected. The exit code is 2."""
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "localhost:1", SEVEN, *arguments])

    errors = capsys.readouterr().err
    assert exit_.value.code == 2
    assert sentence in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["localhost:1", SEVEN, "--clients", "none"], "--clients none leaves no rate to take shares of"),
        (["localhost:1", SEVEN, "--clients", "none", "--rates", "none"], "leave nothing to measure"),
        (["localhost:1", "missing.png"], "missing.png: The file cannot be read"),
        (["ftp://localhost", SEVEN], "the URL 'ftp://localhost': not the address of a service"),
        (["http://a..b", SEVEN], "the URL 'http://a..b': not the address of a service"),
        ([f"{'a' * 70}:1", SEVEN], "not the address of a service"),
        (["localhost:1", SEVEN, "--picture", "missing/a.png"], "--picture missing/a.png: cannot write this file"),
        (["localhost:1", SEVEN, "--report", str(GOLDEN)], "cannot write this file"),
        (["localhost:1", SEVEN, "--report", "/tmp/a", "--picture", "/tmp/a"], "are the same file"),  # noqa: S108 (not written)
    ],
)
def test_a_wrong_request_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence is on standard error, and the exit code is 2."""
    assert main(["bench", *arguments]) == 2

    errors = capsys.readouterr().err
    assert sentence in errors
    assert len(errors.splitlines()) == 1


def test_more_clients_than_files_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A closed loop with more connections than the system allows is refused before the load."""
    monkeypatch.setattr(bench, "raise_soft_limit", lambda needed: min(needed, 100))

    assert main(["bench", "localhost:1", SEVEN, "--clients", "1,37"]) == 2
    assert "--clients 37: this process may open only 36 connections; raise ulimit -n" in capsys.readouterr().err


def test_an_open_loop_has_a_bounded_number_of_clients(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Requests beyond wait for a client, and their latencies count from the arrival."""
    monkeypatch.setattr(bench, "MAX_OPEN_CLIENTS", 2)

    def slow(handler: Handler) -> None:
        handler.server.owner.stopping.wait(0.1)
        reply(200, ANSWER)(handler)

    server = serve(reply(200, ANSWER), slow)
    window = ("--seconds", "0.5", "--warm-up", "0", "--clients", "none", "--rates", "100")
    assert main(["bench", server.url, SEVEN, *window, "--json"]) == 0

    (row,) = document(capsys)["open"]
    ports = {request.connection for request in server.requests if request.path == "/classify"}
    assert len(ports) <= 1 + 2  # that of the image alone, and two of the load
    assert row["p99_ms"] > 1000
    assert row["lost"] == 0
