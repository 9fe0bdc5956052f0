"""What `benchmarks/gpu/command.py` makes of what it measures, and that all of it runs that a CPU can run."""

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
from benchmarks.model.interleave import Contestant, Cost, _obey
from benchmarks.model.networks import network_of

ENGINE = [
    {"engines": 1, "batch": 1, "ms": 0.7, "images_per_second": 1400},
    {"engines": 2, "batch": 64, "ms": 10.0, "images_per_second": 12_800},
]


def reached(**parts: Any) -> dict[str, tuple[float, bool]]:
    """Of Swin-T, each goal's figure, and whether it is met."""
    return {row["goal"]: (row["found"], row["is_met"]) for row in goals({"swin-t": parts})}


def test_goals_are_of_what_was_measured() -> None:
    """Each by its own figure; nothing is said of a part that did not run, or failed."""
    assert reached(engine=[*ENGINE, {"failed": "no siblings"}], memory=[{"failed": "no such device"}]) == {
        "images/s of the engine": (12_800, True),
        "ms of a batch of 1": (0.7, True),
    }


def test_some_goals_are_of_one_network_alone() -> None:
    """Nobody expects of Swin-L what Swin-T does."""
    assert goals({"swin-l": {"engine": ENGINE}}) == []


def test_the_least_gain_over_compiled_torch_counts() -> None:
    """Of all batch sizes, and of nobody else."""
    rows = [
        {"contestant": name, "of_engine": times}
        for name, times in (("torch, eager", 1.1), ("torch.compile, default", 1.2), ("torch.compile, default", 3.0))
    ]

    assert reached(peers=rows) == {"torch.compile, of the engine's time": (1.2, False)}
    assert reached(peers=rows[:1]) == {}


def test_golden_samples_and_drawn_images_have_to_agree() -> None:
    """The worse of the two counts."""
    rows = [{"images": "golden", "top1": 1.0, "delta": 0.03}, {"images": "drawn", "top1": 0.99, "delta": 0.01}]

    assert reached(agreement=rows) == {"top-1 agreement": (0.99, False), "Δlogit, of the range": (0.03, False)}


@pytest.mark.parametrize(("wrong", "lost", "expected"), [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_no_answer_may_be_wrong_or_lost(wrong: int, lost: int, *, expected: bool) -> None:
    """However fast the others came."""
    found = reached(service=[{"share": 0.85, "wrong": wrong, "lost": lost}])

    assert found == {"share that the service keeps": (0.85, True), "answers wrong or lost": (wrong + lost, expected)}


def test_agreement_is_of_best_classes_and_of_the_range() -> None:
    """Two images of three have the same best class; the range is from -6 to 4."""
    wanted = np.array([[4, 0], [0, 1], [-6, 0]], np.float32)
    found = np.array([[3.5, 0], [1, 0], [-6, 0]], np.float32)

    assert parts._agree(found, wanted) == {"count": 3, "top1": 0.6667, "delta": 0.1}  # noqa: SLF001 (what two parts are made of)


@pytest.mark.parametrize(
    ("row", "is_met", "is_dry", "expected"),
    [({}, True, False, 0), ({}, False, False, 1), ({}, False, True, 0), ({"failed": "x"}, True, True, 1)],
)
def test_the_verdict_is_about_goals_and_failures(
    row: dict[str, Any], *, is_met: bool, is_dry: bool, expected: int
) -> None:
    """A missed goal fails, but not that of a dry run; a part that failed always does."""
    figures = {"networks": {"swin-t": {"engine": [row]}}, "goals": [{"is_met": is_met}]}

    assert verdict(figures, is_dry=is_dry) == expected


def test_a_part_that_fails_leaves_the_others_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why, after what it had found by then."""

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


def test_a_network_that_cannot_be_exported_leaves_the_others_their_turn() -> None:
    """It says why, and nothing is measured of it."""

    def fails() -> Path:
        raise subprocess.CalledProcessError(1, "swin-export")

    assert measured(fails, "engine") == {
        "export": [{"failed": "CalledProcessError: Command 'swin-export' returned non-zero exit status 1."}]
    }


def measured(find: Callable[[], Path], *parts: str) -> dict[str, list[Any]]:
    """What there is to say of one network."""
    return {part: list(rows) for part, rows in command.found(find, DRY, Namespace(parts=parts))}


def test_memory_grows_after_the_warm_up_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first tenth of the samples took, every batch size needs once; a peak counts, even if it has passed."""
    taken = [10, 90, 100, *[100] * 15, 103, 101]
    monkeypatch.setattr(parts, "_apart", lambda *_: (5000, [each * parts.MIB for each in taken]))

    assert list(parts.memory(Path(), DRY, Namespace())) == [{"batches": 5000, "mib": 101, "growth_mib": 3}]


def test_without_a_float32_bundle_golden_samples_are_compared(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the bundle promises of them; drawn images with nothing."""
    answers = {"golden": demo.golden_logits, "drawn": np.zeros((16, 10), np.float32)}
    monkeypatch.setattr(parts, "_apart", lambda *_: answers)

    found = list(parts.agreement(demo.folder, DRY, Namespace()))

    assert found == [{"images": "golden", "count": len(demo.golden_logits), "top1": 1.0, "delta": 0.0}]


class Scripted:
    """A contestant that does what its name says."""

    closed = 0

    def __init__(self, name: str) -> None:
        self._name = name

    def cost(self, size: int, images: int, patience: float) -> Cost:
        """Of one image."""
        assert (size, images, patience) == (2, 2, DRY.compile_seconds)
        if self._name == "dies":
            raise EOFError
        if self._name == "hangs":
            raise TimeoutError
        return Cost(1, 1)

    def close(self) -> None:
        """Counted."""
        Scripted.closed += 1


def warm(monkeypatch: pytest.MonkeyPatch, **makers: str) -> list[str]:
    """Who takes part."""
    monkeypatch.setattr(parts, "Contestant", Scripted)
    named: Any = {name.replace("_", ", "): behavior for name, behavior in makers.items()}
    with ExitStack() as ends:
        return [name for name, _ in parts._warm(named, DRY, ends)]  # noqa: SLF001 (who takes part)


def test_who_cannot_take_part_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it ends or hangs; its process is ended with the others'."""
    before = Scripted.closed

    assert warm(monkeypatch, engine="runs", timm_exported="dies", torch_eager="hangs") == ["engine"]
    assert Scripted.closed == before + 3


def test_without_the_engine_there_is_no_contest(monkeypatch: pytest.MonkeyPatch) -> None:
    """All others are told in units of it."""
    with pytest.raises(EOFError):
        warm(monkeypatch, engine="dies")


@pytest.mark.parametrize(
    ("behaviors", "expected"),
    [
        (["runs", "runs", "runs"], "max-autotune"),
        (["hangs", "runs", "runs"], "reduce-overhead"),
        (["dies", "hangs", "runs"], "default"),
    ],
)
def test_torch_is_compiled_as_well_as_it_can_be(
    monkeypatch: pytest.MonkeyPatch, behaviors: list[str], expected: str
) -> None:
    """One compiled contestant takes part: the first mode that works in time, with CUDA graphs if any does."""
    modes = [f"torch.compile_{mode}" for mode in parts.COMPILERS]
    names = warm(monkeypatch, engine="runs", **dict(zip(modes, behaviors, strict=True)))

    assert names == ["engine", f"torch.compile, {expected}"]


def test_peers_have_the_bundle_s_network(demo: Bundle) -> None:
    """What is asked of a library has as many parameters."""
    network = network_of("transformers", parts.shape_of(demo), None)

    assert sum(each.numel() for each in network.parameters()) == demo.manifest.architecture.parameters


def test_a_graph_that_fell_back_is_no_contestant(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime says nothing when CUDA does not load."""

    class Fallen:
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(costs, "session_of", lambda *_, **__: Fallen())

    with pytest.raises(DeviceError, match="runs on CPUExecutionProvider"):
        costs.of_graph(Path("plain.onnx"), 1, (1,), Device("cuda"))


def test_a_contestant_that_takes_too_long_is_ended() -> None:
    """Its process, too: nothing is left that would disturb the others."""
    contestant = Contestant(partial(partial, time.sleep))  # an image takes a second

    with pytest.raises(TimeoutError):
        contestant.cost(600, patience=0.01)
    contestant.close()  # waits for its end


@pytest.mark.filterwarnings("ignore")  # of the process that dies
def test_a_contestant_that_dies_is_noticed() -> None:
    """Whatever happens to the pipe."""
    contestant = Contestant(cast("Any", partial(int, "no number")))

    with pytest.raises(EOFError):
        contestant.cost(1)
    with pytest.raises(EOFError):
        contestant.cost(1)


def test_a_contestant_runs_as_many_images_as_asked_for() -> None:
    """In whole batches, after one that does not count."""
    batches = list[int]()

    class Orders:
        def __init__(self) -> None:
            self._orders = iter([(4, 10)])

        def recv(self) -> tuple[int, int]:
            for order in self._orders:
                return order
            raise EOFError

        def send(self, _: Cost) -> None:
            batches.append(-1)

    _obey(lambda: batches.append, cast("Any", Orders()))

    assert batches == [4, 4, 4, 4, -1]


def test_the_engines_rate_is_of_the_sizes_they_are_warm_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other is run, and the best of them is told."""
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
    """A folder for them."""
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_figures_are_kept_for_the_same_code_on_the_same_machine(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run adds to them; those of other code are begun anew."""
    assert record.kept("gpu") == {}
    record.keep("gpu", {"figure": 1})

    assert json.loads((results / "gpu.json").read_text()) == record.kept("gpu")
    assert record.kept("gpu")["figure"] == 1
    monkeypatch.setattr(record, "_commit", lambda: "another")
    assert record.kept("gpu") == {}


def test_a_copy_without_its_history_can_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of no known commit."""
    monkeypatch.setattr(record, "ROOT", tmp_path)

    assert record._commit() == "unknown"  # noqa: SLF001 (of what was measured)


@pytest.mark.parametrize(
    ("changed", "is_dirty"), [("benchmarks/results/gpu.json", False), ("app/inference/engine.py", True)]
)
def test_figures_that_are_kept_do_not_change_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, *, is_dirty: bool
) -> None:
    """Otherwise the second run would begin anew."""
    monkeypatch.setattr(record, "ROOT", tmp_path)
    (tmp_path / changed).parent.mkdir(parents=True)
    (tmp_path / changed).write_text("before")
    author = ("-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    for arguments in (("init", "--quiet"), ("add", "."), (*author, "commit", "--quiet", "--message", "B")):
        record._git(*arguments)  # noqa: SLF001 (where it is asked)
    commit = record._commit()  # noqa: SLF001 (of what was measured)
    (tmp_path / changed).write_text("after")

    assert record._commit() == (f"{commit}-dirty" if is_dirty else commit)  # noqa: SLF001 (of what was measured)


def test_without_a_gpu_nothing_is_begun(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence says what is missing, and what can be done here."""
    monkeypatch.setenv("PATH", "")

    with pytest.raises(SystemExit, match="2"):
        command.main(["--sizes", "T"])
    assert "no NVIDIA GPU here" in capsys.readouterr().err


@pytest.mark.slow
def test_all_of_it_runs_without_a_gpu() -> None:
    """Every part has its rows, and nothing is left out but what this machine has not."""
    dry_run = [sys.executable, "-m", "benchmarks.gpu", "--dry-run"]
    done = subprocess.run(dry_run, capture_output=True, text=True, cwd=ROOT, check=False)  # noqa: S603 (ours)

    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])["networks"]["narrow"]
    assert list(measured) == ["export", *PARTS]
    assert {row["contestant"] for row in measured["peers"]} >= {"engine", "transformers, exported", "torch, eager"}
    assert [row["images"] for row in measured["agreement"]] == ["golden", "drawn"]
    assert measured["memory"][0]["batches"] == DRY.sequence
    assert (measured["service"][0]["wrong"], measured["service"][0]["lost"]) == (0, 0)
