"""`swin-serve tune` as a process: a whole run, and runs that are stopped."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.bundle.load import Bundle, load_bundle
from app.load.cpu_times import MAX_OTHER_SHARE
from app.settings import Settings
from app.system.cpus import available_cpus
from app.tuning.costs import CostMeter
from benchmarks.load.served import START_SECONDS
from tests.support.slow_bundle import slow_bundle
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc")

# The variable by which all processes of one run are found, also those whose parent has ended.
MARK = "TUNE_TEST_MARK"

# Phases, by the beginning of the line that tells of them.
PHASES = {"costs": "measuring", "start": "starting", "trial": "trial", "confirmation": "confirmation"}


# The command with an engine that never opens.
STUCK = """
import sys, threading
import app.tuning.costs
from app.cli.main import main
app.tuning.costs.open_engines = lambda *_: threading.Event().wait()
sys.exit(main(sys.argv[1:]))
"""


@contextmanager
def tuning(mark: str, *options: str, program: Sequence[str] = ("-m", "app")) -> Iterator["subprocess.Popen[str]"]:
    """Run the command, and kill it at the end, if it still runs."""
    process = subprocess.Popen(  # noqa: S603 (this interpreter)
        [sys.executable, *program, "tune", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {MARK: mark},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def marked(mark: str) -> list[int]:
    """Return the processes with this mark."""
    wanted = f"{MARK}={mark}".encode()
    found = list[int]()
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # another user's, or ended
            continue
    return found


@pytest.fixture
def images(demo: Bundle) -> str:
    return str(demo.folder / "golden")


def test_a_short_run_has_an_answer(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes settings with which a service can start, and leaves no process. Half of a second holds anywhere."""
    mark, output = str(uuid.uuid4()), tmp_path / "tuned.env"
    options = ("--images", images, "--slo", "p50=0.5s", "--minutes", "0.3", "--device", "cpu", "--json")

    with tuning(mark, *options, "--output", str(output)) as process:
        answer, errors = process.communicate(timeout=START_SECONDS)

    assert process.returncode == 0, errors
    record = json.loads(answer)
    assert record["requests_per_second"] > 0
    assert record["images"] == 10  # logits.npy is no image
    assert "logits.npy" in errors
    for line in output.read_text().splitlines():
        if line and not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    assert {name: getattr(Settings(), name) for name in record["settings"]} == record["settings"]
    assert marked(mark) == []


def test_a_latency_that_no_service_holds_is_said(images: str) -> None:
    """The exit code is 1, and the sentence names the costs that take the time."""
    options = ("--images", images, "--slo", "p50=0.1ms", "--minutes", "0.25", "--device", "cpu", "--max-batch", "1")

    with tuning(str(uuid.uuid4()), *options) as process:
        answer, _ = process.communicate(timeout=START_SECONDS)

    assert process.returncode == 1
    assert "p50 <= 0.1 ms cannot be held: with one request at a time" in answer
    assert "The network takes" in answer


def stopped(
    signal_: signal.Signals, phase: str, images: str, *, program: Sequence[str] = ("-m", "app")
) -> tuple[int, str]:
    """Stop a run when it is in a phase. Return its exit code and its messages, when none of its processes is left."""
    mark, messages = str(uuid.uuid4()), ""
    options = ("--images", images, "--slo", "p50=0.5s", "--minutes", "0.5", "--device", "cpu")
    with tuning(mark, *options, program=program) as process:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).partition("left: ")[2].startswith(PHASES[phase]):
            assert line, f"the run ended before the phase {phase}"
            messages += line
        process.send_signal(signal_)
        code = process.wait(timeout=START_SECONDS)
        until(lambda: not marked(mark))
        return code, messages + process.stderr.read()


def test_a_killed_run_leaves_no_process(images: str) -> None:
    """SIGKILL in the trials, while several services run: they end by themselves."""
    assert stopped(signal.SIGKILL, "trial", images)[0] == -signal.SIGKILL


def test_a_run_is_stopped_while_an_engine_opens(images: str) -> None:
    """Nothing can cancel this. The process ends without the thread that waits for the engine."""
    code, messages = stopped(signal.SIGTERM, "costs", images, program=("-c", STUCK))

    assert code == 1
    assert "stopped before there was an answer" in messages
    assert "Traceback" not in messages


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_run_leaves_no_process_in_any_phase(phase: str, images: str) -> None:
    """SIGKILL lets no program clean up, so each service watches for it."""
    assert stopped(signal.SIGKILL, phase, images)[0] == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_ends_its_processes_first(signal_: signal.Signals, phase: str, images: str) -> None:
    """The exit code is 1, because there is no answer."""
    code, messages = stopped(signal_, phase, images)

    assert code == 1
    assert "stopped before there was an answer" in messages
    assert "Traceback" not in messages


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(available_cpus() == 1, reason="a second engine needs a second CPU")
def test_a_slow_engine_gets_small_batches(images: str, tmp_path: Path) -> None:
    """A second engine pays, because the network uses one thread. A large batch keeps one busy while the other waits."""
    bundle = slow_bundle(tmp_path / "slow")
    engine = CostMeter(load_bundle(bundle), Settings(device="cpu")).engines([1], 60)[1]
    objective = f"p95={3e3 * engine.batches[1].seconds:.0f}ms"
    options = ("--bundle", str(bundle), "--images", images, "--slo", objective, "--minutes", "4", "--device", "cpu")

    with tuning(str(uuid.uuid4()), *options, "--json") as process:
        answer, errors = process.communicate(timeout=350)

    assert answer, errors
    record = json.loads(answer)
    if record["noise"] > MAX_OTHER_SHARE:
        pytest.skip(f"other programs took {record['noise']:.0%} of the CPUs")
    assert process.returncode == 0, record["answer"]
    assert record["settings"]["instances_per_device"] > 1
    assert record["settings"]["max_batch"] in {1, 2}
    assert not record["defaults_are_as_good"]
