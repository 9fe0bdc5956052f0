"""Tests of the service with HTTP workers in processes of their own, some of which crash, hang or do not start."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import app
from app.backend import open_backend
from app.bundle.load import Bundle
from app.cli.run import default_http_workers
from app.errors import StartError
from app.main import open_supervisor
from app.observability.metrics import Metrics
from app.observability.tracing import NoTracer
from app.observability.utilization import InstanceCounts
from app.processes.supervisor import WorkerLost
from app.processes.worker_config import worker_config
from app.settings import Settings
from benchmarks.load.served import START_SECONDS
from tests.support.images import encode
from tests.support.served import Served, run
from tests.support.waiting import until

TWO = ("--http-workers", "2")
KILLS, KILLING_SECONDS = 20, 60


@pytest.fixture
def http_workers() -> str:
    """Return the number of HTTP workers of the `served` fixture."""
    return "2"


def pids(served: Served) -> list[int]:
    """Return the process ids of the first HTTP workers, by index."""
    events = [event for event in served.starting if event["message"] == "HTTP worker started"]
    return [int(str(event["pid"])) for event in sorted(events, key=lambda event: int(str(event["index"])))]


def images(count: int) -> list[bytes]:
    """Return small images that are all different."""
    random = np.random.default_rng(0)
    return [encode(Image.fromarray(random.integers(0, 256, (32, 32), np.uint8))) for _ in range(count)]


def sample(url: str, name: str) -> float:
    """Return the value of a metric, summed over its labels."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def test_http_workers_answer_as_one_process_does(served: Served, demo: Bundle) -> None:
    """Every golden sample gets the same labels, scores and evidence as from a service of one process."""
    alone = Served()
    files = [path.read_bytes() for path in sorted((demo.folder / "golden").glob("*.png"))]
    options = "?top_k=10&evidence=true"
    try:
        answers = [
            [httpx.post(f"{each.url}/classify{options}", content=file).json() for file in files]
            for each in (served, alone)
        ]
    finally:
        alone.stop()

    assert answers[0] == answers[1]


def test_one_http_worker_is_a_process_of_its_own() -> None:
    """With `--http-workers 1`, HTTP and decoding run in another process than the engine."""
    served = Served("--http-workers", "1")
    try:
        code = httpx.get(f"{served.url}/health/ready").status_code
        processes = pids(served)
    finally:
        served.stop()

    assert code == 200
    assert len({*processes, served.process.pid}) == 2


def test_metrics_are_of_all_processes(served: Served) -> None:
    """`/metrics` counts the requests of all HTTP workers and the batches of the engines, whichever worker replies."""
    for image in images(12):  # each on a connection of its own
        assert httpx.post(f"{served.url}/classify", content=image).status_code == 200

    until(lambda: sample(served.url, "swin_stage_seconds_count") == 12 * 6)
    counts = {sample(served.url, "swin_stage_seconds_count") for _ in range(6)}
    assert counts == {12 * 6}
    assert sample(served.url, "swin_batch_size_sum") == 12
    assert sample(served.url, "swin_ready") == 1
    model = httpx.get(f"{served.url}/model").json()
    assert model["engines"][0]["device"] == "cpu"
    assert ", 2 HTTP workers at " in model["bottleneck"]


def test_both_http_workers_get_connections(served: Served) -> None:
    """The kernel spreads 64 connections over all HTTP workers."""
    with ThreadPoolExecutor(16) as clients:
        list(clients.map(lambda image: httpx.post(f"{served.url}/classify", content=image), images(64)))
    used = [cpu_ticks(pid) for pid in pids(served)]
    with ThreadPoolExecutor(16) as clients:
        list(clients.map(lambda image: httpx.post(f"{served.url}/classify", content=image), images(64)))

    assert all(cpu_ticks(pid) > before for pid, before in zip(pids(served), used, strict=True))


def cpu_ticks(pid: int) -> int:
    """Return the user and system CPU time of a process in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_killed_http_worker_is_restarted_and_only_its_requests_fail(served: Served) -> None:
    """If a worker is killed 20 times under load, or as often as 60 s allow, only its requests fail; nothing leaks."""
    ended, outcomes = threading.Event(), list[tuple[int, str]]()
    killed, other = pids(served)
    files = images(16)

    def call(number: int) -> None:
        for image in cycle(files[number:] + files[:number]):
            if ended.is_set():
                return
            try:
                outcomes.append((number, str(httpx.post(f"{served.url}/classify", content=image).status_code)))
            except httpx.TransportError as error:
                outcomes.append((number, type(error).__name__))

    before, held = sample(served.url, "swin_batch_size_sum"), resources(served)
    with ThreadPoolExecutor(8) as clients:
        for number in range(8):
            clients.submit(call, number)
        ends, kills = time.monotonic() + KILLING_SECONDS, 0
        try:
            while kills < 2 or (kills < KILLS and time.monotonic() < ends):
                time.sleep(0.1)  # so that the kill hits any stage of its requests
                os.kill(killed, signal.SIGKILL)
                served.wait_for("HTTP worker exited")
                killed = int(str(served.wait_for("HTTP worker started")["pid"]))
                kills += 1
        finally:
            ended.set()

    seen = {outcome for _, outcome in outcomes}
    assert "200" in seen
    assert seen <= {"200", "ReadError", "RemoteProtocolError", "ConnectError", "WriteError"}
    assert Path(f"/proc/{other}").exists()
    assert sample(served.url, "swin_http_worker_restarts_total") == kills
    until(lambda: sample(served.url, "swin_queue_depth") == 0)  # the killed workers had images in the queue
    assert sample(served.url, "swin_batch_size_sum") - before >= sum(outcome == "200" for _, outcome in outcomes)
    assert httpx.post(f"{served.url}/classify", content=files[0]).status_code == 200
    until(lambda: resources(served) == held)


def resources(served: Served) -> tuple[int, int]:
    """Return the number of open files and of mapped tensor pools of the engine process."""
    return served.usage().files, Path(f"/proc/{served.process.pid}/maps").read_text().count("swin-slots")


def test_metrics_of_an_exited_http_worker_are_kept(served: Served) -> None:
    """Counters do not decrease when HTTP workers exit: their last reported metrics are kept."""
    for image in images(12):
        httpx.post(f"{served.url}/classify", content=image)
    until(lambda: sample(served.url, "swin_stage_seconds_count") == 12 * 6)
    for pid in pids(served):
        os.kill(pid, signal.SIGKILL)
    for _ in pids(served):
        served.wait_for("HTTP worker started")

    assert sample(served.url, "swin_stage_seconds_count") == 12 * 6


def test_a_http_worker_that_times_out_is_restarted() -> None:
    """A worker without a heartbeat is killed, and a new one serves the connections of its listener."""
    served = Served(*TWO, "--batch-timeout", "1")
    try:
        os.kill(pids(served)[0], signal.SIGSTOP)
        served.wait_for("HTTP worker timed out")
        served.wait_for("HTTP worker started")
        codes = {httpx.post(f"{served.url}/classify", content=image).status_code for image in images(16)}
    finally:
        served.stop()

    assert codes == {200}


def test_http_workers_end_with_the_service(served: Served) -> None:
    """After SIGTERM to the engine process alone, all workers exit before it does, and the exit code is 0."""
    served.process.terminate()

    assert served.process.wait(timeout=START_SECONDS) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids(served))


def test_http_workers_do_not_outlive_the_engine_process(served: Served) -> None:
    """If the engine process is killed, all workers exit, so that the port is free for the next service."""
    served.process.kill()
    served.process.wait()

    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids(served)))


def test_a_port_in_use_is_an_error_with_http_workers_too(served: Served) -> None:
    """HTTP workers share a port only with the workers of the same service."""
    port = served.url.rsplit(":", 1)[1]

    for options in ((), TWO):
        ended = run("--port", port, *options)
        assert ended.returncode == 2
        assert "Address already in use" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("before", ["0", "2"])
def test_the_next_service_gets_the_port_at_once(before: str) -> None:
    """A new service can bind the port while connections of the previous one are still in TIME_WAIT."""
    served = Served("--http-workers", before)
    with httpx.Client() as client:
        assert client.get(f"{served.url}/health/live").status_code == 200
        served.process.terminate()
        served.process.wait(START_SECONDS)
    served.stop()

    again = Served("--port", str(served.address[1]), *TWO)
    try:
        code = httpx.get(f"{again.url}/health/live").status_code
    finally:
        again.stop()
    assert code == 200


@pytest.mark.anyio
async def test_a_http_worker_that_cannot_be_restarted_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """If restarts keep failing, `watch` raises `WorkerLost`: connections to that worker would wait forever."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with asyncio.timeout(START_SECONDS), open_supervisor(Settings(device="cpu"), [listener]) as opened:
        monkeypatch.setattr("sys.executable", "/bin/false")
        monkeypatch.setattr("app.processes.supervisor.RESTART_DELAY_SECONDS", 0)
        (worker,) = opened._workers  # noqa: SLF001 (to kill it)
        worker.process.kill()

        with pytest.raises(WorkerLost, match="HTTP worker 0 exited 10 times in a row before it was ready"):
            await opened.watch()


@pytest.mark.anyio
async def test_a_paused_service_times_out_no_http_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the engine process was paused too, as in a paused container, no heartbeat has expired."""
    monkeypatch.setattr("app.processes.supervisor.HEARTBEAT_TIMEOUT_SECONDS", 2)
    listener = socket.create_server(("127.0.0.1", 0))
    settings = Settings(device="cpu", batch_timeout=1)
    async with asyncio.timeout(START_SECONDS), open_supervisor(settings, [listener]) as opened:
        (worker,) = opened._workers  # noqa: SLF001 (to pause it)
        os.kill(worker.process.pid, signal.SIGSTOP)
        time.sleep(3)  # noqa: ASYNC251 (the event loop has to pause, too)
        os.kill(worker.process.pid, signal.SIGCONT)
        await asyncio.sleep(1.5)  # enough for a check and a heartbeat

        assert not worker.has_exited


@pytest.mark.anyio
async def test_http_workers_that_cannot_start_fail_the_start_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a worker exits before it is ready, the start of the service fails without further tries."""
    monkeypatch.setattr("sys.executable", "/bin/false")
    monkeypatch.setattr("app.processes.supervisor.RESTART_DELAY_SECONDS", 3600)  # longer than the test
    settings, listener = Settings(device="cpu"), socket.create_server(("127.0.0.1", 0))
    with pytest.raises(StartError, match="an HTTP worker exited, or was not ready after 60 s; see the log"):
        async with asyncio.timeout(START_SECONDS), open_supervisor(settings, [listener]):
            pass


def test_http_workers_import_the_same_package(tmp_path: Path) -> None:
    """HTTP workers do not import a module named `app` from the working directory."""
    (tmp_path / "app.py").write_text("raise SystemExit('not this one')")
    paths = os.pathsep.join([str(Path(app.__file__).parents[1]), *sys.path])
    command = [sys.executable, "-P", "-m", "app", "--device", "cpu", "--port", "0", *TWO]
    with subprocess.Popen(  # noqa: S603 (this interpreter)
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        line = next(line for line in process.stderr if "listening" in line or "exited" in line)
        process.terminate()
        process.stderr.read()

    assert "listening" in line
    assert process.returncode == 0


@pytest.mark.parametrize(("cpus", "http_workers"), [(1, 0), (2, 0), (4, 0), (5, 2), (16, 8), (128, 32)])
def test_http_workers_follow_the_cpus(cpus: int, http_workers: int) -> None:
    """By default, up to four CPUs get one process without HTTP workers, and more CPUs about half as many workers."""
    assert default_http_workers(cpus) == http_workers


@pytest.mark.anyio
async def test_limits_of_the_whole_service_are_shared_out() -> None:
    """Each of three workers gets a share of the limits, but enough for a whole request and an uneven spread."""
    given = {"max_connections": 1000, "max_decode_queue_size": 30, "max_uploads_mib": 40, "max_body_mib": 32}
    settings = Settings.model_validate({"device": "cpu", "max_queue_size": 100, "max_batch": 8, **given})
    backend = open_backend(settings, Metrics("batcher"), NoTracer(), InstanceCounts())
    config = worker_config(
        settings,
        backend.bundle,
        backend.batcher.limits,
        len(backend.engines),
        http_workers=3,
        decode_threads=2,
        is_traced=False,
    )
    await backend.batcher.drain()

    shares = config.settings
    assert (shares.max_connections, shares.max_decode_queue_size, shares.max_uploads_mib) == (389, 30, 32)
    assert config.layout.slots == 100 + 2 * backend.batcher.limits.max_batch


def test_a_service_with_http_workers_logs_its_address_once(served: Served) -> None:
    """The event `listening` is logged once, after all workers are ready."""
    messages = [event["message"] for event in served.starting]
    started = [place for place, message in enumerate(messages) if message == "HTTP worker started"]

    assert messages.count("listening") == 1
    assert messages.index("listening") > max(started)
    assert json.loads(json.dumps(served.starting[-1]))["url"].startswith("http://127.0.0.1:")
