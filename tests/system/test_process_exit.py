"""`app/system/process_exit.py`: a process ends as Python ends it, unless a thread is stuck; only this module does."""

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
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)  # noqa: S603 (our own)


@pytest.mark.parametrize("name", ["engine-gpu_0", "engine-0_0", "decode_1"])
def test_a_process_waits_for_its_pool_threads(name: str) -> None:
    """Then Python ends it, and runs what was registered for the end."""
    done = ended("lambda: __import__('time').sleep(0.3)", name)

    assert (done.returncode, done.stdout, done.stderr) == (3, "finished\n", "")


@pytest.mark.parametrize("name", ["engine-gpu_0", "engine-0_0", "decode_1"])
def test_a_process_leaves_a_stuck_thread_behind(name: str) -> None:
    """After a bound, with a line in the log that names it; nothing else is cleaned up."""
    done = ended("threading.Event().wait", name)

    assert (done.returncode, done.stdout) == (3, "")
    assert "exit without stuck threads" in done.stderr


def test_one_module_leaves_at_once() -> None:
    """The others return, or raise."""
    users = [path.name for path in (ROOT / "app").rglob("*.py") if "os._exit(" in path.read_text()]

    assert users == ["process_exit.py"]


WITH_BINDINGS = """\
import atexit, sys
from app.cli.main import main
from app.inference.io_binding import Bindings
from app.inference.engine import Engine
honest = Engine.__init__
def init(self, session, truth, buckets, bindings=None):
    honest(self, session, truth, buckets, bindings or Bindings(session, ("cpu", 0)))
Engine.__init__ = init
atexit.register(open, {marker!r}, "w")
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("http_workers", ["0", "1"])
def test_sigterm_ends_as_python_ends(http_workers: str, tmp_path: Path) -> None:
    """Also where each engine has a thread of its own, as on a GPU: exit code 0, and no thread that is left behind."""
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
    assert not [event for event in iter_log(served) if event["message"] == "exit without stuck threads"]


def iter_log(served: Served) -> list[dict[str, object]]:
    """What it logged after its start."""
    return [served.log.get_nowait() for _ in range(served.log.qsize())]
