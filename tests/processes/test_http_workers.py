"""Several processes that speak HTTP before one that has the engines: the same service, one of which may die."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import app
from app.bundle.load import Bundle
from app.cli.run import default_http_workers
from app.errors import StartError
from app.main import _papers, open_backend, open_supervisor
from app.observability.metrics import Metrics
from app.observability.utilization import Parts
from app.processes.supervisor import WorkerLost
from app.settings import Settings
from benchmarks.load.served import START_SECONDS
from tests.support.images import encode
from tests.support.served import Served, run

TWO = ("--http-workers", "2")
KILLS, KILLING_SECONDS = 20, 60


@pytest.fixture
def http_workers() -> str:
    """Of every service here."""
    return "2"


def pids(served: Served) -> list[int]:
    """Of its HTTP workers, by index, as they first were."""
    lives = [event for event in served.starting if event["message"] == "http_worker"]
    return [int(str(event["pid"])) for event in sorted(lives, key=lambda event: int(str(event["index"])))]


def images(count: int) -> list[bytes]:
    """Small ones, all different."""
    random = np.random.default_rng(0)
    return [encode(Image.fromarray(random.integers(0, 256, (32, 32), np.uint8))) for _ in range(count)]


def sample(url: str, name: str) -> float:
    """What the metrics say of this one, over all labels."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does in its own time, such as tell what it has counted."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_http_workers_answer_as_one_process_does(served: Served, demo: Bundle) -> None:
    """Every golden sample gets the label, the score and the evidence that the network in this very process gets."""
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
    """So on two CPUs one reads, decodes and answers, and the other computes."""
    served = Served("--http-workers", "1")
    try:
        code = httpx.get(f"{served.url}/health/ready").status_code
        processes = pids(served)
    finally:
        served.stop()

    assert code == 200
    assert len({*processes, served.process.pid}) == 2


def test_metrics_are_of_all_processes(served: Served) -> None:
    """Whichever HTTP worker is asked, all requests of all HTTP workers and the batches of the engines are counted."""
    for image in images(12):  # each on a connection of its own
        assert httpx.post(f"{served.url}/classify", content=image).status_code == 200

    until(lambda: sample(served.url, "swin_stage_seconds_count") == 12 * 6)
    told = {sample(served.url, "swin_stage_seconds_count") for _ in range(6)}
    assert told == {12 * 6}
    assert sample(served.url, "swin_batch_size_sum") == 12
    assert sample(served.url, "swin_ready") == 1
    model = httpx.get(f"{served.url}/model").json()
    assert model["engines"][0]["device"] == "cpu"
    assert ", 2 HTTP workers at " in model["bottleneck"]


def test_both_http_workers_get_connections(served: Served) -> None:
    """The kernel spreads them: of 64 connections, each HTTP worker has some."""
    with ThreadPoolExecutor(16) as callers:
        list(callers.map(lambda image: httpx.post(f"{served.url}/classify", content=image), images(64)))
    used = [cpu_ticks(pid) for pid in pids(served)]
    with ThreadPoolExecutor(16) as callers:
        list(callers.map(lambda image: httpx.post(f"{served.url}/classify", content=image), images(64)))

    assert all(cpu_ticks(pid) > before for pid, before in zip(pids(served), used, strict=True))


def cpu_ticks(pid: int) -> int:
    """Of the process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_http_worker_that_dies_is_replaced_and_nothing_else_suffers(served: Served) -> None:
    """Killed twenty times under load, or as often as a busy machine can start it again in a minute.

    Its callers see that, the others are answered, nothing stays behind.
    """
    ended, outcomes = threading.Event(), list[tuple[int, str]]()
    doomed, spared = pids(served)
    files = images(16)

    def call(number: int) -> None:
        for image in cycle(files[number:] + files[:number]):
            if ended.is_set():
                return
            try:
                outcomes.append((number, str(httpx.post(f"{served.url}/classify", content=image).status_code)))
            except httpx.TransportError as error:
                outcomes.append((number, type(error).__name__))

    before, held = sample(served.url, "swin_batch_size_sum"), holds(served)
    with ThreadPoolExecutor(8) as callers:
        for number in range(8):
            callers.submit(call, number)
        ends, kills = time.monotonic() + KILLING_SECONDS, 0
        try:
            while kills < 2 or (kills < KILLS and time.monotonic() < ends):
                time.sleep(0.1)  # under load, whatever it is doing
                os.kill(doomed, signal.SIGKILL)
                served.wait_for("an HTTP worker died")
                doomed = int(str(served.wait_for("http_worker")["pid"]))
                kills += 1
        finally:
            ended.set()

    seen = {outcome for _, outcome in outcomes}
    assert "200" in seen
    assert seen <= {"200", "ReadError", "RemoteProtocolError", "ConnectError", "WriteError"}
    assert Path(f"/proc/{spared}").exists()
    assert sample(served.url, "swin_http_worker_restarts_total") == kills
    until(lambda: sample(served.url, "swin_queue_depth") == 0)  # those who were killed had rows in it
    assert sample(served.url, "swin_batch_size_sum") - before >= sum(outcome == "200" for _, outcome in outcomes)
    assert httpx.post(f"{served.url}/classify", content=files[0]).status_code == 200
    until(lambda: holds(served) == held)


def holds(served: Served) -> tuple[int, int]:
    """Files that the process of the engines has open, and memories of slots that it has mapped."""
    return served.usage().files, Path(f"/proc/{served.process.pid}/maps").read_text().count("swin-slots")


def test_what_a_dead_http_worker_counted_stays_counted(served: Served) -> None:
    """Counters do not fall: what it said last is kept."""
    for image in images(12):
        httpx.post(f"{served.url}/classify", content=image)
    until(lambda: sample(served.url, "swin_stage_seconds_count") == 12 * 6)
    for pid in pids(served):
        os.kill(pid, signal.SIGKILL)
    for _ in pids(served):
        served.wait_for("http_worker")

    assert sample(served.url, "swin_stage_seconds_count") == 12 * 6


def test_a_http_worker_that_is_stuck_is_replaced() -> None:
    """One that says nothing for some seconds is ended, and another takes its place and its connections."""
    served = Served(*TWO, "--batch-timeout", "1")
    try:
        os.kill(pids(served)[0], signal.SIGSTOP)
        served.wait_for("an HTTP worker is stuck")
        served.wait_for("http_worker")
        codes = {httpx.post(f"{served.url}/classify", content=image).status_code for image in images(16)}
    finally:
        served.stop()

    assert codes == {200}


def test_http_workers_end_with_the_service(served: Served) -> None:
    """After a SIGTERM to it alone, and before it ends itself, with 0."""
    served.process.terminate()

    assert served.process.wait(timeout=START_SECONDS) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids(served))


def test_http_workers_do_not_outlive_the_engines(served: Served) -> None:
    """Where their process is killed, nothing can be answered: they leave the port to the next one."""
    served.process.kill()
    served.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids(served)))


def test_a_port_in_use_is_told_by_http_workers_too(served: Served) -> None:
    """That several share a port is between the HTTP workers of one service."""
    port = served.url.rsplit(":", 1)[1]

    for options in ((), TWO):
        ended = run("--port", port, *options)
        assert ended.returncode == 2
        assert "Address already in use" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("before", ["0", "2"])
def test_the_next_service_gets_the_port_at_once(before: str) -> None:
    """Though connections of the last one still end, which it closed itself."""
    served = Served("--http-workers", before)
    with httpx.Client() as caller:
        assert caller.get(f"{served.url}/health/live").status_code == 200
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
async def test_a_http_worker_that_does_not_come_back_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections would wait for ever: who watches over the service has to see to it."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with asyncio.timeout(START_SECONDS), open_supervisor(Settings(device="cpu"), [listener]) as opened:
        monkeypatch.setattr("sys.executable", "/bin/false")
        monkeypatch.setattr("app.processes.supervisor.PAUSE_SECONDS", 0)
        (life,) = opened._lives  # noqa: SLF001 (to kill it)
        life.process.kill()

        with pytest.raises(WorkerLost, match="HTTP worker 0 ends before it has begun, again and again"):
            await opened.watch()


@pytest.mark.anyio
async def test_a_http_worker_is_not_stuck_because_all_were_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that comes late itself, as in a container that was paused, is held against nobody."""
    monkeypatch.setattr("app.processes.supervisor.MUTE_SECONDS", 2)
    listener = socket.create_server(("127.0.0.1", 0))
    settings = Settings(device="cpu", batch_timeout=1)
    async with asyncio.timeout(START_SECONDS), open_supervisor(settings, [listener]) as opened:
        (life,) = opened._lives  # noqa: SLF001 (to look at)
        os.kill(life.process.pid, signal.SIGSTOP)
        time.sleep(3)  # noqa: ASYNC251 (the loop is what stands still)
        os.kill(life.process.pid, signal.SIGCONT)
        await asyncio.sleep(1.5)  # in which it is looked at, and heard

        assert not life.has_ended


@pytest.mark.anyio
async def test_http_workers_that_cannot_begin_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start fails with a sentence, and nobody goes on trying."""
    monkeypatch.setattr("sys.executable", "/bin/false")
    monkeypatch.setattr("app.processes.supervisor.PAUSE_SECONDS", 3600)  # before it would be tried again
    settings, listener = Settings(device="cpu"), socket.create_server(("127.0.0.1", 0))
    with pytest.raises(StartError, match="an HTTP worker did not begin"):
        async with asyncio.timeout(START_SECONDS), open_supervisor(settings, [listener]):
            pass


def test_http_workers_are_of_the_same_package(tmp_path: Path) -> None:
    """Whatever else is called `app` in the folder where the service is started."""
    (tmp_path / "app.py").write_text("raise SystemExit('not this one')")
    paths = os.pathsep.join([str(Path(app.__file__).parents[1]), *sys.path])
    command = [sys.executable, "-P", "-m", "app", "--device", "cpu", "--port", "0", *TWO]
    with subprocess.Popen(  # noqa: S603 (our own interpreter)
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        said = next(line for line in process.stderr if "listening" in line or "died" in line)
        process.terminate()
        process.stderr.read()

    assert "listening" in said
    assert process.returncode == 0


@pytest.mark.parametrize(("cpus", "http_workers"), [(1, 0), (2, 0), (4, 0), (5, 2), (16, 8), (128, 32)])
def test_http_workers_come_with_cpus(cpus: int, http_workers: int) -> None:
    """Unless the setting says: one process on a small machine, else one for two CPUs."""
    assert default_http_workers(cpus) == http_workers


@pytest.mark.anyio
async def test_limits_of_the_whole_service_are_shared_out() -> None:
    """Three take what one process would; each can take the largest body, the images of one request, uneven dealing."""
    given = {"max_connections": 1000, "max_decode_queue_size": 30, "max_uploads_mib": 40, "max_body_mib": 32}
    settings = Settings.model_validate({"device": "cpu", "max_queue_size": 100, "max_batch": 8, **given})
    backend = open_backend(settings, Metrics("queue"), Parts())
    config = _papers(backend, 3, decode_threads=2)
    await backend.batcher.drain()

    shares = config.settings
    assert (shares.max_connections, shares.max_decode_queue_size, shares.max_uploads_mib) == (389, 30, 32)
    assert config.shapes.slots == 100 + 2 * backend.batcher.limits.max_batch


def test_a_service_with_http_workers_says_where_once(served: Served) -> None:
    """One address, in one line, when all of them take connections."""
    said = [event["message"] for event in served.starting]

    assert said.count("listening") == 1
    assert said.index("listening") > max(place for place, message in enumerate(said) if message == "http_worker")
    assert json.loads(json.dumps(served.starting[-1]))["url"].startswith("http://127.0.0.1:")
