"""`app/inference/pool.py` with fake GPUs: engines that serve, and their replacements."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from app.backend import _describe
from app.bundle.load import Bundle
from app.cli.check import facts
from app.errors import DeviceError
from app.inference.engine import Engine
from app.inference.pool import open_engines, open_replacement
from app.inference.self_test import open_unverified
from app.observability.aggregation import exposition
from app.observability.metrics import Metrics
from app.settings import Settings
from app.system.device import CPU, Device
from tests.support.engines import GPU


@pytest.fixture
def broken() -> set[Device]:
    """Return the set of GPUs that fail verification; a test adds to it."""
    return set()


@pytest.fixture(autouse=True)
def _two_gpus(monkeypatch: pytest.MonkeyPatch, broken: set[Device]) -> None:
    """Let each engine have a session of its own that reports the requested device."""

    def open_on(bundle: Bundle, device: Device, threads: int, buckets: Sequence[int], **options: bool) -> Engine:
        if device in broken:
            raise DeviceError(f"{device} is broken")
        engine = open_unverified(bundle, CPU, threads, buckets)
        device_report = replace(engine.device_report, device=device, gpu=GPU, graphs=options.get("graphs", True))
        engine = Engine(engine._session, device_report, buckets)  # noqa: SLF001 (the same session)
        engine.bucket_seconds = {1: 1.0}
        return engine

    monkeypatch.setattr("app.inference.pool.open_verified", open_on)
    monkeypatch.setattr("app.inference.pool.require_gpu_build", lambda: None)
    monkeypatch.setattr("app.inference.cuda.gpu_count", lambda: 2)


def places(bundle: Bundle, **settings: object) -> list[str]:
    return [str(engine.device_report.device) for engine in open_engines(bundle, Settings.model_validate(settings))]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"device": "cpu"}, ["cpu"]),
        ({"device": "cpu", "instances_per_device": 2}, ["cpu", "cpu"]),
        ({"device": "cuda"}, ["cuda:0", "cuda:0"]),
        ({"device": "cuda:1,0", "instances_per_device": 1}, ["cuda:1", "cuda:0"]),
        ({"device": "auto"}, ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]),
    ],
)
def test_engines_are_opened_on_the_requested_devices(
    demo: Bundle, settings: dict[str, object], expected: list[str]
) -> None:
    """By default the CPU has one engine and each GPU has two; `auto` takes every GPU."""
    assert expected == places(demo, **settings)


@pytest.mark.parametrize(
    ("indices", "expected"), [([0], ["cuda:1"]), ([1], ["cuda:0"]), ([0, 1], ["cpu"])], ids=["0", "1", "both"]
)
def test_auto_skips_gpus_that_fail_verification(
    demo: Bundle, broken: set[Device], indices: list[int], expected: list[str]
) -> None:
    """The other GPUs serve; the CPU serves only if no GPU does."""
    broken.update(Device("cuda", index) for index in indices)

    assert expected == places(demo, instances_per_device=1)


def test_a_named_gpu_is_not_skipped(demo: Bundle, broken: set[Device]) -> None:
    """If a GPU that the setting names fails, the start fails."""
    broken.add(Device("cuda", 1))

    with pytest.raises(DeviceError, match="cuda:1 is broken"):
        places(demo, device="cuda:0,1")


def test_engines_of_a_gpu_share_no_session(demo: Bundle) -> None:
    """On one session, batches of a GPU would wait for each other; the CPU's engines share one."""
    first, second = open_engines(demo, Settings(device="cuda"))
    one, two = open_engines(demo, Settings(device="cpu", instances_per_device=2))

    assert not first.shares_session(second)
    assert one.shares_session(two)


def test_a_replacement_is_on_the_device_of_the_failed_engine(demo: Bundle) -> None:
    """It has a session of its own, although the other engine on this GPU still works."""
    engines = open_engines(demo, Settings(device="cuda:0,1"))

    replacement = open_replacement(demo, engines, engines[2])

    assert Device("cuda", 1) == replacement.device_report.device
    assert [engine for engine in engines if engine.shares_session(replacement)] == []


@pytest.mark.parametrize(("engines", "graphs"), [(1, True), (2, False)])
def test_no_graph_is_recorded_beside_other_engines(demo: Bundle, engines: int, *, graphs: bool) -> None:
    """Recording would make CUDA calls of other engines fail, so the replacement uses no graph."""
    opened = open_engines(demo, Settings(device="cuda", instances_per_device=engines))

    replacement = open_replacement(demo, opened, opened[0])

    assert all(engine.device_report.graphs for engine in opened)
    assert replacement.device_report.graphs == graphs


@pytest.mark.parametrize("graphs", [True, False])
def test_graphs_are_recorded_unless_the_setting_says_otherwise(demo: Bundle, *, graphs: bool) -> None:
    """The setting applies to all engines of all GPUs."""
    opened = open_engines(demo, Settings(device="cuda:0,1", cuda_graphs=graphs))

    assert [engine.device_report.graphs for engine in opened] == [graphs] * 4


def test_check_lists_the_software_of_a_gpu() -> None:
    """The lines name the GPU, the driver, CUDA and cuDNN, and say whether graphs are used."""
    lines = list(facts(Settings(device="cuda", instances_per_device=1)))

    assert lines[3:7] == [
        "gpu      NVIDIA H200",
        "driver   of unknown version, for CUDA up to 13.1",
        "cuda     13.0, cuDNN 9.10.2",
        "graphs   on",
    ]


def test_every_engine_is_in_the_metrics(demo: Bundle) -> None:
    """Each engine is listed with its device, under the number that its busy time has."""
    metrics = Metrics()
    _describe(demo, open_engines(demo, Settings(device="cuda:0,1", instances_per_device=1)), metrics)

    lines = exposition(metrics.counts()).decode().splitlines()
    engines = sorted(line for line in lines if line.startswith("swin_engine_info{"))
    assert len(engines) == 2
    assert all(
        f'engine="{number}"' in line and f'device="cuda:{number}"' in line for number, line in enumerate(engines)
    )


@pytest.mark.parametrize("device", ["cpu", "cuda:0,1"])
def test_engines_are_opened_for_a_given_batch_size(demo: Bundle, device: str) -> None:
    """With a batch size, no other size is measured or kept, except single images."""
    engines = open_engines(demo, Settings(device=device), batch=24)

    assert {engine.buckets for engine in engines} == {(1, 24)}
