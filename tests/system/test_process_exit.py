"""`app/system/process_exit.py`: a process ends as Python ends it, unless a thread times out."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.load.served import START_SECONDS, Served

ROOT = Path(__file__).parents[2]
THREADS = """\
import atexit, sys, threading
from app.system.process_exit import end
atexit.register(print, "finished")
threading.Thread(target={work}, name={name!r}, daemon=True).start()
sys.exit(end(3))
"""


def ended(work: str, name: str) -> subprocess.CompletedProcess[str]:
    code = THREADS.format(work=work, name=name)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)  # noqa: S603 (code of this test)


@pytest.mark.parametrize("name", ["engine-gpu_0", "engine-0_0", "decode_1", "classify_0", "costs_0"])
def test_a_process_waits_for_its_pool_threads(name: str) -> None:
    """When the threads have ended, Python ends the process and runs its exit handlers."""
    done = ended("lambda: __import__('time').sleep(0.3)", name)

    assert (done.returncode, done.stdout, done.stderr) == (3, "finished\n", "")


@pytest.mark.parametrize("name", ["engine-gpu_0", "engine-0_0", "decode_1", "classify_0", "costs_0"])
def test_a_process_exits_without_a_thread_that_times_out(name: str) -> None:
    """After the timeout, the log names the thread, and nothing is cleaned up."""
    done = ended("threading.Event().wait", name)

    assert (done.returncode, done.stdout) == (3, "")
    assert "threads timed out at exit" in done.stderr


def test_one_module_calls_os_exit() -> None:
    """All other modules return or raise."""
    users = [path.name for path in (ROOT / "app").rglob("*.py") if "os._exit(" in path.read_text()]

    assert users == ["process_exit.py"]


WITH_BINDINGS = """\
import atexit, sys
from app.cli.main import main
from app.inference.io_binding import Bindings
from app.inference.engine import Engine
original = Engine.__init__
def init(self, session, device_report, buckets, bindings=None):
    original(self, session, device_report, buckets, bindings or Bindings(session, ("cpu", 0)))
Engine.__init__ = init
atexit.register(open, {marker!r}, "w")
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("http_workers", ["0", "1"])
def test_sigterm_ends_as_python_ends(http_workers: str, tmp_path: Path) -> None:
    """The exit code is 0 and no thread times out, also if engines have threads, as on a GPU."""
    marker = tmp_path / "finished"
    (tmp_path / "with_bindings.py").write_text(WITH_BINDINGS.format(marker=str(marker)))
    served = Served("--http-workers", http_workers, module="with_bindings", PYTHONPATH=f"{tmp_path}:{ROOT}")
    try:
        served.process.send_signal(signal.SIGTERM)
        code = served.process.wait(timeout=START_SECONDS)
    finally:
        served.stop()

    assert code == 0
    assert marker.exists()
    assert not [event for event in events_after_start(served) if event["message"] == "threads timed out at exit"]


def events_after_start(served: Served) -> list[dict[str, object]]:
    """Return the events that the service has logged after its start."""
    return [served.log.get_nowait() for _ in range(served.log.qsize())]
