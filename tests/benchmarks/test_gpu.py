"""Tests of `benchmarks.gpu`: goals, figures, failures and records; and a dry run of all parts on the CPU."""

import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from app.bundle.load import Bundle
from app.errors import DeviceError
from app.system.device import Device
from benchmarks.gpu import command, parts
from benchmarks.gpu.command import verdict
from benchmarks.gpu.goals import goals
from benchmarks.gpu.parts import DRY, PARTS
from benchmarks.load import record
from benchmarks.load.record import ROOT
from benchmarks.model import costs
from benchmarks.model.engine import rate
from benchmarks.model.interleave import CandidateProcess, Cost, _serve
from benchmarks.model.networks import network_of

ENGINE = [
    {"engines": 1, "batch": 1, "ms": 0.7, "images_per_second": 1400},
    {"engines": 2, "batch": 64, "ms": 10.0, "images_per_second": 12_800},
]


def reached(**parts: Any) -> dict[str, tuple[float, bool]]:
    """Return the value of each goal of Swin-T, and whether it is met."""
    return {row["goal"]: (row["value"], row["is_met"]) for row in goals({"swin-t": parts})}


def test_goals_cover_only_measured_parts() -> None:
    """Each goal has its own figure; parts that failed or did not run have no goals."""
    assert reached(engine=[*ENGINE, {"failed": "no siblings"}], memory=[{"failed": "no such device"}]) == {
        "engine, images/s": (12_800, True),
        "batch of 1, ms": (0.7, True),
    }


def test_some_goals_apply_to_one_network() -> None:
    """The rates of Swin-T are no goals of Swin-L."""
    assert goals({"swin-l": {"engine": ENGINE}}) == []


def test_the_minimum_gain_over_compiled_torch_counts() -> None:
    """The minimum is taken over all batch sizes of compiled torch, without other candidates."""
    rows = [
        {"candidate": name, "of_engine": times}
        for name, times in (("torch, eager", 1.1), ("torch.compile, default", 1.2), ("torch.compile, default", 3.0))
    ]

    assert reached(baselines=rows) == {"torch.compile, of the engine's time": (1.2, False)}
    assert reached(baselines=rows[:1]) == {}


def test_golden_samples_and_drawn_images_have_to_agree() -> None:
    """The worse figure of the two counts."""
    rows = [{"images": "golden", "top1": 1.0, "delta": 0.03}, {"images": "drawn", "top1": 0.99, "delta": 0.01}]

    assert reached(agreement=rows) == {"top-1 agreement": (0.99, False), "Δlogit, of the range": (0.03, False)}


@pytest.mark.parametrize(("wrong", "lost", "expected"), [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_no_response_may_be_wrong_or_lost(wrong: int, lost: int, *, expected: bool) -> None:
    """One wrong or lost response misses the goal, at any rate of the service."""
    found = reached(service=[{"share": 0.85, "wrong": wrong, "lost": lost}])

    assert found == {"service, of the possible rate": (0.85, True), "wrong or lost": (wrong + lost, expected)}


def test_agreement_compares_best_classes_and_logits() -> None:
    """Two images of three have the same best class, and the difference is relative to the range from -6 to 4."""
    expected = np.array([[4, 0], [0, 1], [-6, 0]], np.float32)
    found = np.array([[3.5, 0], [1, 0], [-6, 0]], np.float32)

    assert parts._agreement(found, expected) == {"count": 3, "top1": 0.6667, "delta": 0.1}  # noqa: SLF001 (part of a row)


@pytest.mark.parametrize(
    ("row", "is_met", "is_dry", "expected"),
    [({}, True, False, 0), ({}, False, False, 1), ({}, False, True, 0), ({"failed": "x"}, True, True, 1)],
)
def test_the_verdict_depends_on_goals_and_failures(
    row: dict[str, Any], *, is_met: bool, is_dry: bool, expected: int
) -> None:
    """A missed goal fails, except in a dry run; a failed part always fails."""
    figures = {"networks": {"swin-t": {"engine": [row]}}, "goals": [{"is_met": is_met}]}

    assert verdict(figures, is_dry=is_dry) == expected


def test_the_other_parts_run_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failed part keeps its rows and ends with a row that holds the reason."""

    def fails(*_: Any) -> Any:
        yield {"batch": 1}
        raise DeviceError("out of memory")

    monkeypatch.setitem(PARTS, "engine", fails)
    monkeypatch.setitem(PARTS, "memory", lambda *_: iter([{"batches": 50}]))
    (tmp_path / "model.onnx").write_bytes(bytes(parts.MIB))

    assert measured(lambda: tmp_path, "engine", "memory") == {
        "export": [{"bundle": tmp_path.name, "mib": 1.0}],
        "engine": [{"batch": 1}, {"failed": "DeviceError: out of memory"}],
        "memory": [{"batches": 50}],
    }


def test_a_failed_export_is_a_row() -> None:
    """The row holds the reason, and no part of that network runs."""

    def fails() -> Path:
        raise subprocess.CalledProcessError(1, "swin-export")

    assert measured(fails, "engine") == {
        "export": [{"failed": "CalledProcessError: Command 'swin-export' returned non-zero exit status 1."}]
    }


def measured(find: Callable[[], Path], *parts: str) -> dict[str, list[Any]]:
    """Return the rows of these parts for one network."""
    return {part: list(rows) for part, rows in command.measure(find, DRY, Namespace(parts=parts))}


def test_memory_growth_counts_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first tenth of the samples is warm-up, and a peak counts even if it has passed."""
    samples = [10, 90, 100, *[100] * 15, 103, 101]
    monkeypatch.setattr(parts, "_in_process", lambda *_: (5000, [each * parts.MIB for each in samples]))

    assert list(parts.memory(Path(), DRY, Namespace())) == [{"batches": 5000, "mib": 101, "growth_mib": 3}]


def test_without_a_float32_bundle_golden_samples_are_compared(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are compared with the logits in the bundle; drawn images have no reference."""
    found_logits = {"golden": demo.golden_logits, "drawn": np.zeros((16, 10), np.float32)}
    monkeypatch.setattr(parts, "_in_process", lambda *_: found_logits)

    found = list(parts.agreement(demo.folder, DRY, Namespace()))

    assert found == [{"images": "golden", "count": len(demo.golden_logits), "top1": 1.0, "delta": 0.0}]


class Scripted:
    """A candidate process that behaves as its name says: it runs, dies or hangs."""

    closed = 0

    def __init__(self, name: str) -> None:
        self._name = name

    def cost(self, size: int, images: int, timeout_s: float) -> Cost:
        """Return a cost, or raise as the behavior demands."""
        assert (size, images, timeout_s) == (2, 2, DRY.compile_seconds)
        if self._name == "dies":
            raise EOFError
        if self._name == "hangs":
            raise TimeoutError
        return Cost(1, 1)

    def close(self) -> None:
        """Count the call."""
        Scripted.closed += 1


def warm_up(monkeypatch: pytest.MonkeyPatch, **makers: str) -> list[str]:
    """Return the names of the candidates that pass the warm-up."""
    monkeypatch.setattr(parts, "CandidateProcess", Scripted)
    named: Any = {name.replace("_", ", "): behavior for name, behavior in makers.items()}
    with ExitStack() as ends:
        return [name for name, _ in parts._warm_up(named, DRY, ends)]  # noqa: SLF001 (selects the candidates)


def test_a_candidate_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate that dies or hangs is left out, and all processes are closed."""
    before = Scripted.closed

    assert warm_up(monkeypatch, engine="runs", timm_exported="dies", torch_eager="hangs") == ["engine"]
    assert Scripted.closed == before + 3


def test_without_the_engine_there_is_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part fails if the engine fails: all figures are relative to it."""
    with pytest.raises(EOFError):
        warm_up(monkeypatch, engine="dies")


@pytest.mark.parametrize(
    ("behaviors", "expected"),
    [
        (["runs", "runs", "runs"], "max-autotune"),
        (["hangs", "runs", "runs"], "reduce-overhead"),
        (["dies", "hangs", "runs"], "default"),
    ],
)
def test_torch_is_compiled_with_the_first_mode_that_works(
    monkeypatch: pytest.MonkeyPatch, behaviors: list[str], expected: str
) -> None:
    """One compiled candidate takes part: the first mode that runs within the timeout."""
    modes = [f"torch.compile_{mode}" for mode in parts.COMPILERS]
    names = warm_up(monkeypatch, engine="runs", **dict(zip(modes, behaviors, strict=True)))

    assert names == ["engine", f"torch.compile, {expected}"]


def test_baselines_have_the_bundle_s_network(demo: Bundle) -> None:
    """The network of a library has as many parameters as that of the bundle."""
    network = network_of("transformers", parts.shape_of(demo), None)

    assert sum(each.numel() for each in network.parameters()) == demo.manifest.architecture.parameters


def test_a_graph_that_falls_back_to_the_cpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device of the session is checked, because ONNX Runtime falls back without an error."""

    class Fallback:
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(costs, "session_of", lambda *_, **__: Fallback())

    with pytest.raises(DeviceError, match="runs on CPUExecutionProvider"):
        costs.of_graph(Path("plain.onnx"), 1, (1,), Device("cuda"))


def test_a_candidate_that_takes_too_long_is_terminated() -> None:
    """The timeout ends its process, which would disturb the others."""
    candidate = CandidateProcess(partial(partial, time.sleep))  # an image takes a second

    with pytest.raises(TimeoutError):
        candidate.cost(600, timeout_s=0.01)
    candidate.close()  # waits for the end of the process


@pytest.mark.filterwarnings("ignore")  # the process warns as it dies
def test_a_candidate_that_dies_is_an_error() -> None:
    """All calls raise EOFError, whichever error the pipe raises."""
    candidate = CandidateProcess(cast("Any", partial(int, "no number")))

    with pytest.raises(EOFError):
        candidate.cost(1)
    with pytest.raises(EOFError):
        candidate.cost(1)


def test_a_candidate_runs_whole_batches() -> None:
    """It runs at least the requested number of images, after one batch that does not count."""
    batches = list[int]()

    class Pipe:
        def __init__(self) -> None:
            self._requests = iter([(4, 10)])

        def recv(self) -> tuple[int, int]:
            for request in self._requests:
                return request
            raise EOFError

        def send(self, _: Cost) -> None:
            batches.append(-1)

    _serve(lambda: batches.append, cast("Any", Pipe()))

    assert batches == [4, 4, 4, 4, -1]


def test_the_engines_run_only_their_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the warm batch sizes run, and the best of them is reported."""
    sizes, now = set[int](), [0.0]

    class Timed:
        buckets, image_shape = (2, 16), (1, 1, 3)

        def run(self, pixels: Any) -> None:
            sizes.add(len(pixels))
            now[0] += 0.001

    monkeypatch.setattr("benchmarks.model.engine.time.perf_counter", lambda: now[0])
    found = rate([cast("Any", Timed())], 0.05)

    assert sizes == {2, 16}
    assert found["batch"] == 16


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of records."""
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_records_are_loaded_for_the_same_code_on_the_same_machine(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record of the same code is loaded; a record of other code is ignored."""
    assert record.load("gpu") == {}
    record.save("gpu", {"figure": 1})

    assert json.loads((results / "gpu.json").read_text()) == record.load("gpu")
    assert record.load("gpu")["figure"] == 1
    monkeypatch.setattr(record, "_commit", lambda: "another")
    assert record.load("gpu") == {}


def test_a_copy_without_its_history_can_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a git history, the commit is `unknown`."""
    monkeypatch.setattr(record, "ROOT", tmp_path)

    assert record._commit() == "unknown"  # noqa: SLF001 (part of the record)


@pytest.mark.parametrize(
    ("changed", "is_dirty"), [("benchmarks/results/gpu.json", False), ("app/inference/engine.py", True)]
)
def test_saved_records_do_not_count_as_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, *, is_dirty: bool
) -> None:
    """A changed record does not make the commit dirty, so that the next run adds to it."""
    monkeypatch.setattr(record, "ROOT", tmp_path)
    (tmp_path / changed).parent.mkdir(parents=True)
    (tmp_path / changed).write_text("before")
    author = ("-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    for arguments in (("init", "--quiet"), ("add", "."), (*author, "commit", "--quiet", "--message", "B")):
        record._git(*arguments)  # noqa: SLF001 (the same command as in the record)
    commit = record._commit()  # noqa: SLF001 (part of the record)
    (tmp_path / changed).write_text("after")

    assert record._commit() == (f"{commit}-dirty" if is_dirty else commit)  # noqa: SLF001 (part of the record)


def test_without_a_gpu_the_command_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the missing GPU before anything is measured."""
    monkeypatch.setenv("PATH", "")

    with pytest.raises(SystemExit, match="2"):
        command.main(["--sizes", "T"])
    assert "no NVIDIA GPU: nvidia-smi is not on the PATH; use --dry-run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_measures_all_parts() -> None:
    """Each part has its rows, and all candidates that can run on the CPU take part."""
    dry_run = [sys.executable, "-m", "benchmarks.gpu", "--dry-run"]
    done = subprocess.run(dry_run, capture_output=True, text=True, cwd=ROOT, check=False)  # noqa: S603 (a module of this repository)

    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])["networks"]["narrow"]
    assert list(measured) == ["export", *PARTS]
    assert {row["candidate"] for row in measured["baselines"]} >= {"engine", "transformers, exported", "torch, eager"}
    assert [row["images"] for row in measured["agreement"]] == ["golden", "drawn"]
    assert measured["memory"][0]["batches"] == DRY.sequence
    assert (measured["service"][0]["wrong"], measured["service"][0]["lost"]) == (0, 0)
