"""`swin-serve score --ray` writes the rows that a run without Ray writes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock, patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import DeviceError, StartError
from app.scoring.errors import ScoringFailed
from app.scoring.items import Item
from app.scoring.rows import Columns
from app.settings import Settings
from app.system.processes import process_tree
from benchmarks.load.ray_cluster import ROOT
from benchmarks.load.served import START_SECONDS
from tests.ray.cluster import command_of, wait_until
from tests.ray.fakes import FakeRay, FakeWorker
from tests.scoring.drawn import drawn, write_images

pytest.importorskip("ray", reason="Ray is not installed; `make test-ray` runs these tests")

# Two images a batch: 64 a block.
OPTIONS = ("--device", "cpu", "--batch", "2", "--logits", "--embedding")


@pytest.fixture
def module() -> ModuleType:
    """The module that uses Ray."""
    return import_module("app.scoring.cluster")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with 300 images: five blocks, of which the last is short. Every seventh image is cut off."""
    return write_images(tmp_path / "images", 300, bad_every=7)


def score(source: Path | str, output: Path, *options: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder."""
    process = start(source, output, *options, folder=folder)
    out, errors = process.communicate(timeout=START_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def start(
    source: Path | str, output: Path, *options: str, folder: Path = ROOT, program: Sequence[str] = ("app",)
) -> subprocess.Popen[str]:
    """Start the command in a folder. `program` is its module, with arguments before those of the command."""
    return subprocess.Popen(  # noqa: S603 (this interpreter)
        [sys.executable, "-m", *program, "score", str(source), "--output", str(output), *OPTIONS, *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def held(source: Path, output: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command, and wait until it has written four parts, of a batch each. A line lets it go on."""
    program = ("tests.scoring.held", "4")
    with start(source, output, *options, program=program) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            assert len(parts_of(output)) == 4
            assert not output.exists()
            yield process
        finally:
            process.kill()


def parts_of(output: Path) -> list[Path]:
    """Return the parts of an output that is not complete."""
    return list(output.with_name(f"{output.name}.parts").glob("rows-*"))


def test_the_rows_are_those_of_a_run_without_ray(cluster: str, images: Path) -> None:
    """The file is the same, byte for byte, with several workers and with images that cannot be decoded."""
    folder = images.parent
    without = score(images.name, folder / "without.parquet", folder=folder)
    with_ray = score(images.name, folder / "with.parquet", "--ray", cluster, folder=folder)

    assert (without.returncode, with_ray.returncode) == (0, 0), with_ray.stderr
    assert (folder / "with.parquet").read_bytes() == (folder / "without.parquet").read_bytes()


def test_images_in_tables_are_sent_to_the_workers(cluster: str, tmp_path: Path) -> None:
    """The content of images in a table goes to the workers, with the same rows."""
    pq.write_table(pa.table({"image": pa.array(drawn(100), pa.binary())}), tmp_path / "table.parquet")
    outputs = [tmp_path / "without.parquet", tmp_path / "with.parquet"]
    score(tmp_path / "table.parquet", outputs[0])
    score(tmp_path / "table.parquet", outputs[1], "--ray", cluster)

    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_a_run_goes_on_without_ray(cluster: str, images: Path) -> None:
    """A run on a cluster that was stopped goes on without Ray, and the rows are the same."""
    folder = images.parent
    score(images, folder / "without.parquet")
    with held(images, folder / "with.parquet", "--ray", cluster) as process:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate("\n", timeout=START_SECONDS)
    assert process.returncode == 1
    assert "stopped after 8 of 300 images" in errors
    last = score(images, folder / "with.parquet")

    assert last.returncode == 0, last.stderr
    assert (folder / "with.parquet").read_bytes() == (folder / "without.parquet").read_bytes()


def test_a_worker_that_dies_changes_no_row(cluster: str, tmp_path: Path) -> None:
    """If the workers are killed, Ray starts them again and sends their blocks again.

    While the command is held, two workers have at most eight of the ten blocks. So the rows of the
    last ones come from processes that Ray has started again.
    """
    images = write_images(tmp_path / "images", 600, bad_every=7)
    outputs = [tmp_path / "without.parquet", tmp_path / "with.parquet"]
    score(images, outputs[0], "--threads", "2")
    wait_until(lambda: import_module("ray").available_resources().get("CPU", 0) >= 2)  # those of the last test
    with held(images, outputs[1], "--ray", cluster, "--threads", "2") as process:
        killed = workers()
        assert 1 <= len(killed) <= 2
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        _, errors = process.communicate("\n", timeout=START_SECONDS)

    assert process.returncode == 0, errors
    assert outputs[1].read_bytes() == outputs[0].read_bytes()


def test_a_block_that_ends_its_worker_ends_the_run(cluster: str, images: Path) -> None:
    """Ray does not start a worker again without end, and the sentence names the first image of the block."""
    process = start(images, images.parent / "out.parquet", "--ray", cluster, program=("tests.ray.dying",))
    _, errors = process.communicate(timeout=START_SECONDS)

    assert process.returncode == 1, errors
    first = min(images.iterdir())
    assert f"a worker has failed in the images from {first} on: " in errors.splitlines()[-1]


def workers() -> list[int]:
    """Return the process ids of the workers."""
    return [pid for pid in process_tree(os.getpid()) if command_of(pid).startswith("ray::Worker")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--ray", "127.0.0.1:1"), "no cluster of Ray at 127.0.0.1:1: "),
        (("--ray", "ray://127.0.0.1:10001"), "ray://127.0.0.1:10001 is for Ray Client"),
        (("--threads", "64"), "has a worker's resources free"),
        (("--device", "cuda"), "the cluster has no GPU for the device cuda"),
    ],
)
def test_what_cannot_run_is_refused(cluster: str, images: Path, options: tuple[str, ...], sentence: str) -> None:
    """A cluster that cannot be used ends the command with 2 and a sentence."""
    result = score(images, images.parent / "out.parquet", "--ray", cluster, *options)

    assert result.returncode == 2, result.stderr
    assert sentence in result.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "[::1]:6379"])
def test_the_host_of_an_address_can_be_a_number(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """An address of IPv6 has brackets around the host, as in a URL. A connection takes it without them."""
    connect = Mock()
    monkeypatch.setattr(module.socket, "create_connection", connect)
    module.check_reachable(address)

    assert connect.call_args.args[0] in {("127.0.0.1", 6379), ("::1", 6379)}


@pytest.mark.parametrize(("given", "reports"), [(None, "0"), ("1", "1")])
def test_a_local_cluster_reports_nothing(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, given: str | None, reports: str
) -> None:
    """Ray's reports to its makers are off for `local`, unless the user has turned them on."""
    if given is None:
        monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    else:
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", given)
    found = []

    def init(*_: object, **__: object) -> None:
        found.append(os.environ.get("RAY_USAGE_STATS_ENABLED"))
        raise RuntimeError("no cluster in this test")

    monkeypatch.setattr(module.ray, "init", init)
    with patch.dict(os.environ), pytest.raises(StartError, match="no cluster in this test"):
        module.ClusterScorer("local", Settings(), Columns())
    assert found == [reports]


def test_blocks_end_at_chunks(module: ModuleType) -> None:
    """Blocks have whole chunks, so that rows do not depend on the cut, and a bounded number of items."""
    items = [Item(str(number)) for number in range(205)]
    blocks = list(module.blocks(items, 3))

    assert [len(block) for block in blocks] == [96, 96, 13]
    assert [item for block in blocks for item in block] == items


def test_large_images_make_small_blocks(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block ends after the chunk that reaches the number of bytes."""
    monkeypatch.setattr(module, "MAX_BLOCK_BYTES", 100)
    items = [Item("", content=bytes(30)) for _ in range(10)]

    assert [len(block) for block in module.blocks(items, 2)] == [4, 4, 2]


@pytest.mark.parametrize(
    ("settings", "nodes", "resources", "count"),
    [
        ({"device": "cpu"}, [{"CPU": 8.0}], {"num_cpus": 1}, 8),
        ({"device": "cpu"}, [{"CPU": 8.0, "GPU": 2.0}], {"num_cpus": 1}, 8),
        ({"threads": 3}, [{"CPU": 8.0}], {"num_cpus": 3}, 2),
        ({"threads": 2}, [{"CPU": 3.0}, {"CPU": 3.0}, {}], {"num_cpus": 2}, 2),
        ({}, [{"CPU": 8.0, "GPU": 2.0}], {"num_gpus": 1, "num_cpus": 4}, 2),
        ({}, [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], {"num_gpus": 1, "num_cpus": 4}, 2),
        ({}, [{"CPU": 96.0, "GPU": 8.0}, {"CPU": 7.0, "GPU": 2.5}], {"num_gpus": 1, "num_cpus": 3}, 10),
        ({}, [{"CPU": 3.0, "GPU": 4.0}], {"num_gpus": 1, "num_cpus": 1}, 3),
        ({}, [{"CPU": 8.0, "GPU": 2.0}, {"GPU": 1.0}], {"num_gpus": 1, "num_cpus": 4}, 2),
        ({"decode_threads": 8}, [{"CPU": 8.0, "GPU": 2.0}], {"num_gpus": 1, "num_cpus": 8}, 1),
    ],
)
def test_workers_follow_from_the_resources(
    module: ModuleType,
    settings: dict[str, Any],
    nodes: list[dict[str, float]],
    resources: dict[str, float],
    count: int,
) -> None:
    """A worker takes a GPU where there is one, and CPUs for its threads, all on one node."""
    gpus = sum(node.get("GPU", 0) for node in nodes)
    _, found = module.placement(Settings(**settings), nodes, gpus)

    assert found == resources
    assert module.worker_count(nodes, found) == count


def test_a_worker_without_a_gpu_uses_none(module: ModuleType) -> None:
    """Ray hides no GPU from a worker that reserves none, so the settings do."""
    settings, _ = module.placement(Settings(device="auto"), [{"CPU": 8.0}])

    assert settings.device == "cpu"


def test_a_worker_with_a_gpu_decodes_on_the_cpus_that_it_reserves(module: ModuleType) -> None:
    """Eight workers on a node would otherwise decode with all of its CPUs each."""
    settings, resources = module.placement(Settings(), [{"CPU": 96.0, "GPU": 8.0}], 8)

    assert settings.decode_threads == resources["num_cpus"] == 12


@pytest.mark.parametrize("device", ["auto", "cuda", "tensorrt"])
def test_reserved_gpus_are_not_used(module: ModuleType, device: str) -> None:
    """If other programs have reserved all GPUs, a run that can use them does not fall back to the CPU."""
    with pytest.raises(DeviceError, match="other programs have reserved all GPUs"):
        module.placement(Settings(device=device), [{"CPU": 8.0, "GPU": 0.5}, {"CPU": 8.0}], 2)


def test_a_worker_without_a_place_is_left_out(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run does not wait for a worker whose resources another program has taken: it goes on with the others."""
    ray = FakeRay(places=2)
    monkeypatch.setattr(module, "ray", ray)
    workers = [FakeWorker(number) for number in range(3)]

    assert module.placed(workers) == workers[:2]
    assert ray.killed == workers[2:]


def test_a_cluster_without_a_place_is_refused(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no worker finds a place, the command ends with a sentence instead of waiting."""
    monkeypatch.setattr(module, "ray", FakeRay(places=0))

    with pytest.raises(DeviceError, match="has not started a worker in 60 s"):
        module.placed([FakeWorker(0)])


def facts(module: ModuleType, **changed: Any) -> Any:
    """Return the properties of a worker of the demonstration bundle, with some of them changed."""
    opened = module.Worker(Settings(device="cpu", threads=1), Columns(top_k=1)).open(2)
    return replace(opened, **changed)


@pytest.mark.parametrize("changed", [{"bundle": "0"}, {"versions": {"onnxruntime": "0"}}, {"devices": ["cuda"]}])
def test_a_worker_that_starts_again_is_compared(module: ModuleType, changed: dict[str, Any]) -> None:
    """Ray can start a worker again on a node that would compute other rows: it computes no block there."""
    worker = module.Worker(Settings(device="cpu", threads=1), Columns(top_k=1))

    for _ in range(2):  # a refused worker gets further blocks
        with pytest.raises(StartError, match=f"the nodes of the cluster differ in {next(iter(changed))}"):
            worker.table([Item("none")], facts(module, **changed))
    assert worker.table([Item("none")], facts(module)).num_rows == 1


def test_a_refused_worker_ends_the_run_with_a_sentence(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work fails after it had begun, so the rows so far stay and the exit code is 1."""
    failure = module.RayTaskError("table", "trace", DeviceError("no GPU"))
    monkeypatch.setattr(module.ray, "get", Mock(side_effect=failure))

    with pytest.raises(ScoringFailed, match="cannot start again: no GPU"):
        list(module.rows_of("a block", "a.png"))
