"""`swin-serve` as a process: signals, sockets, exit codes."""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.bundle.digests import file_digest
from app.bundle.load import Bundle
from app.settings import DEMO_BUNDLE
from benchmarks.load.served import START_SECONDS
from tests.chaos.broken_engine import VARIABLE, inject
from tests.support.images import encode
from tests.support.served import Served, everything, run, stop_amid

HALF = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf"


def test_clients_on_real_sockets_get_their_own_answers(served: Served) -> None:
    """Sixty-four clients send distinct images at once, and each gets the answer that its image gets alone."""
    random = np.random.default_rng(1)
    images = [encode(Image.fromarray(random.integers(0, 256, (32, 32), np.uint8))) for _ in range(64)]
    limits = httpx.Limits(max_connections=64)
    with httpx.Client(base_url=served.url, limits=limits) as client, ThreadPoolExecutor(64) as callers:

        def ask(image: bytes) -> str:
            rows = client.post("/classify?top_k=10", content=image).json()["predictions"]
            return str([(row["index"], round(row["score"], 4)) for row in rows])

        alone = [ask(image) for image in images]
        together = list(callers.map(ask, images))

    assert len(set(alone)) == 64
    assert alone == together


def test_a_start_logs_its_stages() -> None:
    """Each stage of the start logs a line when it ends."""
    stages = ["starting", "bundle loaded", "session is open", "golden samples agree", "warm", "ready", "listening"]
    served = Served("--log-level", "debug")
    served.stop()

    said = [event["message"] for event in served.starting if str(event["logger"]).startswith("swin.")]
    assert stages == list(dict.fromkeys(said))  # a small network is opened twice: with all threads, and with one


def test_sigterm_drains_and_exits_with_0(served: Served, demo: Bundle) -> None:
    """The process answers a request that is in flight at the signal, then exits with 0."""
    image = (demo.folder / "golden/seven.png").read_bytes()
    head = f"POST /classify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(image)}\r\n\r\n".encode()
    with served.connect() as connection:
        stop_amid(served, connection, head + image[:10])
        served.wait_for("draining")
        connection.sendall(image[10:])
        answer = everything(connection)

    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"seven"' in answer
    assert served.process.wait(timeout=START_SECONDS) == 0


def test_a_client_too_slow_for_the_drain_is_answered(http_workers: str) -> None:
    """A request that is incomplete after `drain_timeout` is answered with a problem document."""
    served = Served("--drain-timeout", "1", "--http-workers", http_workers)
    try:
        with served.connect() as connection:
            stop_amid(served, connection, HALF)
            answer = everything(connection)
        code = served.process.wait(timeout=START_SECONDS)
    finally:
        served.stop()

    assert answer.startswith(b"HTTP/1.1 503")
    assert b'"code":"draining"' in answer
    assert code == 0


def test_a_client_that_disconnects_does_not_hold_up_the_drain(http_workers: str) -> None:
    """The drain ends at once if the client of the last request disconnects."""
    served = Served("--drain-timeout", "600", "--http-workers", http_workers)
    try:
        with served.connect() as connection:
            stop_amid(served, connection, HALF)
            served.wait_for("draining")
        code = served.process.wait(timeout=START_SECONDS)
    finally:
        served.stop()

    assert code == 0


def test_an_engine_that_hangs_does_not_hold_up_the_exit(tmp_path: Path, demo: Bundle, http_workers: str) -> None:
    """A run that never ends is left behind: its client is answered, and the process exits with 0."""
    order = tmp_path / "order"
    options = ("--drain-timeout", "1", "--http-workers", http_workers)
    served = Served(*options, module="tests.chaos.broken_engine", **{VARIABLE: str(order)})
    files = [("files", (demo.folder / f"golden/{name}.png").read_bytes()) for name in ("one", "two", "three", "four")]
    try:
        inject("hang 600", order)
        with ThreadPoolExecutor(1) as callers:
            call = callers.submit(httpx.post, f"{served.url}/classify/batch", files=files, timeout=START_SECONDS)
            while order.exists():  # until the engine has it
                time.sleep(0.05)
            served.process.send_signal(signal.SIGTERM)
            code = served.process.wait(timeout=START_SECONDS)
            answer = call.result()
    finally:
        served.stop()

    assert (answer.status_code, answer.json()["code"], code) == (503, "draining", 0)


def test_sigterm_ends_a_service_that_is_starting(tmp_path: Path) -> None:
    """The process exits at once with 0, also as the first process of a container."""
    os.mkfifo(tmp_path / "manifest.json")
    command = [sys.executable, "-m", "app", "--bundle", str(tmp_path), "--port", "0"]
    starting = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 (our own interpreter)
    with (tmp_path / "manifest.json").open("w"):  # as soon as the service opens it, too; it then waits for its content
        starting.send_signal(signal.SIGTERM)
        _, errors = starting.communicate(timeout=START_SECONDS)

    assert (starting.returncode, errors) == (0, "")


def test_a_bundle_with_other_results_here_is_not_served(tmp_path: Path) -> None:
    """The golden samples run on the device before the first connection is accepted."""
    folder = shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")
    np.save(folder / "golden/logits.npy", np.load(folder / "golden/logits.npy") + 0.01)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["golden/logits.npy"] = file_digest(folder / "golden/logits.npy")
    (folder / "manifest.json").write_text(json.dumps(manifest))

    ended = run("--bundle", str(folder), "--device", "cpu", "--port", "0")

    assert ended.returncode == 2
    assert "swin-serve: golden sample 0 differs by 0.01 on cpu" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_bundle_rewritten_in_place_changes_no_answer(tmp_path: Path, demo: Bundle, http_workers: str) -> None:
    """Overwriting or truncating the files changes no answer of the process, a restarted engine or a new HTTP worker."""
    folder, order = shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle"), tmp_path / "order"
    options = ("--bundle", str(folder), "--http-workers", http_workers, "--batch-timeout", "0.5")
    served = Served(*options, module="tests.chaos.broken_engine", **{VARIABLE: str(order)})
    image = (demo.folder / "golden/seven.png").read_bytes()

    def ask() -> object:
        return httpx.post(f"{served.url}/classify?evidence=true", content=image, timeout=START_SECONDS).json()

    try:
        answers = [ask()]
        for path in (path for path in folder.rglob("*") if path.is_file()):
            path.write_bytes(bytes(path.stat().st_size))  # on the same inode
        answers.append(ask())
        for path in (path for path in folder.rglob("*") if path.is_file()):
            os.truncate(path, 0)
        inject("raise", order)
        httpx.post(f"{served.url}/classify/batch", files=[("files", image)] * 8, timeout=START_SECONDS)
        served.wait_for("engine restarted")
        answers.append(ask())
        for event in [event for event in served.starting if event["message"] == "HTTP worker started"]:
            os.kill(int(str(event["pid"])), signal.SIGKILL)
            served.wait_for("HTTP worker started")
            answers.append(ask())
    finally:
        served.stop()

    assert answers == answers[:1] * (3 + int(http_workers))


def test_readiness_goes_off_before_the_port_closes(http_workers: str) -> None:
    """During `drain_delay` the service still classifies, and readiness is off."""
    served = Served("--drain-delay", "60", "--http-workers", http_workers)
    try:
        before = httpx.get(f"{served.url}/health/ready").status_code
        served.process.send_signal(signal.SIGTERM)
        served.wait_for("draining")
        ready = httpx.get(f"{served.url}/health/ready")
        live = httpx.get(f"{served.url}/health/live").status_code
        image = encode(Image.new("L", (8, 8)))
        classified = httpx.post(f"{served.url}/classify", content=image).status_code
        served.process.send_signal(signal.SIGTERM)  # the second one does not wait for the delay
        code = served.process.wait(timeout=START_SECONDS)
    finally:
        served.stop()

    assert (before, ready.status_code, ready.json()["status"], live, classified) == (200, 503, "draining", 200, 200)
    assert code == 0


def test_cuda_without_cuda_is_one_sentence_and_exit_code_2() -> None:
    """`--device cuda` on a machine without CUDA is an error, not a session on the CPU."""
    ended = run("run", "--device", "cuda", "--port", "0")

    assert ended.returncode == 2
    assert "swin-serve: this ONNX Runtime is built without CUDAExecutionProvider" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_check_prints_what_a_start_verifies(demo: Bundle) -> None:
    """`check` prints a line for bundle, device, nodes and each batch size, and serves nothing."""
    ended = run("check", "--device", "cpu", "--max-batch", "1", "--threads", "1")

    lines = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [f"bundle   {demo.manifest.name}, fp32", "engine   cpu, golden samples agree"] == lines[:2]
    assert [line.split()[0] for line in lines[2:]] == ["nodes", "runtime", "threads", "batch"]


def test_check_without_the_device_is_one_sentence_and_exit_code_2() -> None:
    """`check` exits with the code of a failed start."""
    ended = run("check", "--device", "cuda:1")

    assert ended.returncode == 2
    assert "swin-serve: this ONNX Runtime is built without CUDAExecutionProvider" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_port_in_use_is_one_sentence_and_exit_code_2(served: Served) -> None:
    """A second service on the same port is refused with one sentence."""
    ended = run("--port", served.url.rsplit(":", 1)[1])

    assert ended.returncode == 2
    assert "Address already in use" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_of_two_services_started_at_once_one_gets_the_port() -> None:
    """Two services can bind a port while neither listens. The later one is refused with one sentence."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "app", "--device", "cpu", "--log-level", "error", "--port", port]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]  # noqa: S603 (our own)
    loser: queue.Queue[subprocess.Popen[str]] = queue.Queue()

    def wait_for(process: subprocess.Popen[str]) -> None:
        process.wait()
        loser.put(process)

    for process in both:
        threading.Thread(target=wait_for, args=[process], daemon=True).start()
    try:
        ended = loser.get(timeout=START_SECONDS)
        assert ended.stderr is not None
        lines = ended.stderr.read().splitlines()
    finally:
        for process in both:
            process.terminate()
            process.communicate()

    assert ended.returncode == 2
    assert lines[0].startswith("swin-serve: cannot listen")
    assert len(lines) == 1


def test_a_missing_bundle_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    """A missing bundle is one sentence with exit code 2."""
    ended = run("--bundle", str(tmp_path), "--port", "0")

    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--port", "99999"], {}),
        (["--device", "gpu"], {}),
        (["--nonsense"], {}),
        (["--drain-delay", "inf"], {}),
        (["--host", ""], {}),
        (["--max-client-batch-size", "300"], {}),
        (["--cors-origins", "https://example.org/"], {}),
        ([], {"SWIN_MAX_BATCH": "0"}),
        ([], {"SWIN_TRUSTED_PROXIES": "127.0.0.1,proxy"}),
        (["serve"], {}),
    ],
)
def test_bad_options_end_with_exit_code_2(arguments: list[str], environment: dict[str, str]) -> None:
    """An invalid value, an unknown option and an unknown command exit with 2."""
    ended = run(*arguments, **environment)

    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_without_onnx_runtime_the_extras_are_named(tmp_path: Path) -> None:
    """Without an extra there is no ONNX Runtime. The sentence names the extras."""
    (tmp_path / "onnxruntime.py").write_text("raise ModuleNotFoundError(name='onnxruntime')")

    ended = run(PYTHONPATH=str(tmp_path))

    assert ended.returncode == 2
    assert "swin-serve[cpu]" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_misspelled_variable_is_logged() -> None:
    """A variable with the prefix of settings that names none is logged."""
    ended = run("--bundle", "/nowhere", "--port", "0", SWIN_MAXBATCH="4")

    assert "no such setting variable=SWIN_MAXBATCH" in ended.stderr


def test_an_option_wins_over_the_environment() -> None:
    """`--port` overrides SWIN_PORT."""
    ended = run("--port", "99999", SWIN_PORT="0")

    assert ended.returncode == 2
