"""Which engines serve, on GPUs that are stand-ins: how many, where, and another in the place of one that failed."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from app.bundle.load import Bundle
from app.cli.check import facts
from app.errors import DeviceError
from app.inference.engine import Engine
from app.inference.pool import another, open_engines
from app.inference.self_test import open_unproved
from app.main import _describe
from app.observability.metrics import Metrics, exposition
from app.settings import Settings
from app.system.device import CPU, Device
from tests.support.engines import GPU


@pytest.fixture
def broken() -> set[Device]:
    """GPUs that do not prove themselves."""
    return set()


@pytest.fixture(autouse=True)
def _two_gpus(monkeypatch: pytest.MonkeyPatch, broken: set[Device]) -> None:
    """Each engine has a session of its own, which says it is where it was asked to be."""

    def proved(bundle: Bundle, device: Device, threads: int, buckets: Sequence[int], **options: bool) -> Engine:
        if device in broken:
            raise DeviceError(f"{device} is broken")
        engine = open_unproved(bundle, CPU, threads, buckets)
        device_report = replace(engine.device_report, device=device, gpu=GPU, graphs=options.get("graphs", True))
        engine = Engine(engine._session, device_report, buckets)  # noqa: SLF001 (the same)
        engine.bucket_seconds = {1: 1.0}
        return engine

    monkeypatch.setattr("app.inference.pool.open_proved", proved)
    monkeypatch.setattr("app.inference.pool.require_gpu_build", lambda: None)
    monkeypatch.setattr("app.inference.cuda.gpus", lambda: 2)


def places(bundle: Bundle, **settings: object) -> list[str]:
    return [str(engine.device_report.device) for engine in open_engines(bundle, Settings.model_validate(settings))]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"device": "cpu"}, ["cpu"]),
        ({"device": "cpu", "engines": 2}, ["cpu", "cpu"]),
        ({"device": "cuda"}, ["cuda:0", "cuda:0"]),
        ({"device": "cuda:1,0", "engines": 1}, ["cuda:1", "cuda:0"]),
        ({"device": "auto"}, ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]),
    ],
)
def test_engines_are_opened_where_they_were_asked_for(
    demo: Bundle, settings: dict[str, object], expected: list[str]
) -> None:
    """One on the CPU and two on each GPU, unless their number was given; `auto` takes every GPU."""
    assert expected == places(demo, **settings)


@pytest.mark.parametrize(
    ("indices", "expected"), [([0], ["cuda:1"]), ([1], ["cuda:0"]), ([0, 1], ["cpu"])], ids=["0", "1", "both"]
)
def test_auto_leaves_out_what_does_not_prove_itself(
    demo: Bundle, broken: set[Device], indices: list[int], expected: list[str]
) -> None:
    """The others serve; the CPU only where no GPU does."""
    broken.update(Device("cuda", index) for index in indices)

    assert expected == places(demo, instances_per_device=1)


def test_a_gpu_that_was_named_is_not_left_out(demo: Bundle, broken: set[Device]) -> None:
    """Half of what was asked for is not what was asked for."""
    broken.add(Device("cuda", 1))

    with pytest.raises(DeviceError, match="cuda:1 is broken"):
        places(demo, device="cuda:0,1")


def test_engines_of_a_gpu_share_no_session(demo: Bundle) -> None:
    """On one session, their batches would wait for each other; those of the CPU share the weights."""
    first, second = open_engines(demo, Settings(device="cuda"))
    one, two = open_engines(demo, Settings(device="cpu", instances_per_device=2))

    assert not first.shares_session(second)
    assert one.shares_session(two)


def test_another_is_on_the_device_of_the_failed_one(demo: Bundle) -> None:
    """On its own GPU, and on a session of its own, though the other engine there has one that still works."""
    engines = open_engines(demo, Settings(device="cuda:0,1"))

    renewed = another(demo, engines, engines[2])

    assert Device("cuda", 1) == renewed.device_report.device
    assert [engine for engine in engines if engine.shares_session(renewed)] == []


@pytest.mark.parametrize(("engines", "graphs"), [(1, True), (2, False)])
def test_no_graph_is_recorded_beside_other_engines(demo: Bundle, engines: int, *, graphs: bool) -> None:
    """Whose calls to CUDA would fail meanwhile: what is renewed while they run does without."""
    opened = open_engines(demo, Settings(device="cuda", instances_per_device=engines))

    renewed = another(demo, opened, opened[0])

    assert all(engine.device_report.graphs for engine in opened)
    assert renewed.device_report.graphs == graphs


@pytest.mark.parametrize("graphs", [True, False])
def test_graphs_are_recorded_unless_the_setting_says_otherwise(demo: Bundle, *, graphs: bool) -> None:
    """For all engines of all GPUs alike."""
    opened = open_engines(demo, Settings(device="cuda:0,1", cuda_graphs=graphs))

    assert [engine.device_report.graphs for engine in opened] == [graphs] * 4


def test_check_tells_of_a_gpu_all_that_is_between_it_and_the_network() -> None:
    """Its name, the driver and what it runs, CUDA and cuDNN, and how batches are launched."""
    told = list(facts(Settings(device="cuda", instances_per_device=1)))

    assert told[3:7] == [
        "gpu      NVIDIA H200",
        "driver   of unknown version, for CUDA up to 13.1",
        "cuda     13.0, cuDNN 9.10.2",
        "graphs   on",
    ]


def test_every_engine_is_in_the_metrics(demo: Bundle) -> None:
    """With its place, by the number that its busy time has."""
    metrics = Metrics()
    _describe(demo, open_engines(demo, Settings(device="cuda:0,1", instances_per_device=1)), metrics)

    lines = exposition(metrics.counts()).decode().splitlines()
    told = sorted(line for line in lines if line.startswith("swin_engine_info{"))
    assert len(told) == 2
    assert all(f'engine="{number}"' in line and f'device="cuda:{number}"' in line for number, line in enumerate(told))
