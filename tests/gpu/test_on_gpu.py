"""On a GPU of NVIDIA's: what no stand-in can show. Skipped where there is none, with the reason."""

import ctypes
from collections.abc import Iterator
from random import Random

import httpx
import numpy as np
import pytest

from app.bundle.load import Bundle
from app.errors import DeviceError
from app.inference import cuda
from app.inference.engine import Engine
from app.inference.self_test import golden_pixels, open_proved
from app.inference.session import require_gpu_build
from app.system.device import CPU, Device
from tests.support.served import Served

BUCKETS = (1, 2, 4, 8, 16)
BATCHES, SETTLED = 1000, 50
"""Batches, and those after which memory has to be what it will be."""


def what_is_missing() -> str:
    """In a sentence; empty if nothing is."""
    try:
        require_gpu_build()
        cuda.gpus()
    except DeviceError as error:
        return str(error)
    return ""


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing())]


@pytest.fixture(scope="module")
def engine(demo: Bundle) -> Engine:
    """The demonstration network on the first GPU, proved and warm."""
    return open_proved(demo, Device("cuda"), 1, BUCKETS)


def free_bytes() -> int:
    """Of the GPU's memory."""
    library = cuda._loaded("libcudart")  # noqa: SLF001 (the one that the engine uses)
    assert library
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert library["cudaMemGetInfo"](ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value


def test_the_network_runs_where_it_says(engine: Engine) -> None:
    """On CUDA alone, as graphs, with all versions told; that golden samples agree was asked when it was opened."""
    assert [*engine.device_report.nodes] == ["CUDAExecutionProvider"]
    assert engine.device_report.graphs
    assert engine.device_report.gpu
    assert all((engine.device_report.gpu.name, engine.device_report.gpu.cuda, engine.device_report.gpu.cudnn))


def test_any_batch_gives_what_the_cpu_gives(demo: Bundle, engine: Engine) -> None:
    """In any order of sizes, with tokens and without, and in memory that is taken once."""
    random, images = Random(0), golden_pixels(demo)
    expected = open_proved(demo, CPU, 1, [1]).run
    classes = np.concatenate([expected(image[None]) for image in images]).argmax(1)
    free = list[int]()
    for number in range(BATCHES):
        rows = random.choices(range(len(images)), k=random.randint(1, BUCKETS[-1]))
        logits = engine.run_with_tokens(images[rows])[0] if number % 10 == 0 else engine.run(images[rows])
        assert np.array_equal(classes[rows], logits.argmax(1))
        free.append(free_bytes())

    assert min(free[SETTLED:]) == max(free[SETTLED:])


@pytest.fixture
def on_cuda() -> Iterator[Served]:
    """A service that was told to be there."""
    served = Served("--device", "cuda")
    yield served
    served.stop()


def test_a_service_on_cuda_answers_as_the_bundle_promises(on_cuda: Served, demo: Bundle) -> None:
    """Its golden samples, over HTTP, by their best class."""
    files = [(demo.folder / sample.file).read_bytes() for sample in demo.manifest.golden.samples]
    answers = [httpx.post(f"{on_cuda.url}/classify", content=file).json() for file in files]
    engines = httpx.get(f"{on_cuda.url}/model").json()["engines"]

    assert [answer["predictions"][0]["index"] for answer in answers] == [*demo.golden_logits.argmax(1)]
    assert {engine["device"] for engine in engines} == {"cuda:0"}
