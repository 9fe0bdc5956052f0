"""Tests on an NVIDIA GPU. They are skipped without one, with the reason."""

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
from app.inference.self_test import golden_pixels, open_verified
from app.inference.session import require_gpu_build
from app.system.device import CPU, Device
from tests.support.served import Served

BUCKETS = (1, 2, 4, 8, 16)

# Number of batches, and the number after which the used memory must be constant.
BATCHES, WARM_UP = 1000, 50


def missing() -> str:
    """Return the reason to skip, or an empty string."""
    try:
        require_gpu_build()
        cuda.gpu_count()
    except DeviceError as error:
        return str(error)
    return ""


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def engine(demo: Bundle) -> Engine:
    """The engine of the demonstration bundle on the first GPU, verified and warm."""
    return open_verified(demo, Device("cuda"), 1, BUCKETS)


def free_bytes() -> int:
    """Return the free bytes of the GPU."""
    library = cuda._loaded("libcudart")  # noqa: SLF001 (the library that the engine uses)
    assert library
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert library["cudaMemGetInfo"](ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value


def test_the_network_runs_on_cuda(engine: Engine) -> None:
    """All nodes run on CUDA as graphs, and the device report has all versions."""
    assert [*engine.device_report.nodes] == ["CUDAExecutionProvider"]
    assert engine.device_report.graphs
    assert engine.device_report.gpu
    assert all((engine.device_report.gpu.name, engine.device_report.gpu.cuda, engine.device_report.gpu.cudnn))


def test_any_batch_has_the_classes_of_the_cpu(demo: Bundle, engine: Engine) -> None:
    """Random batch sizes, with tokens and without, agree with the CPU, and memory does not grow."""
    random, images = Random(0), golden_pixels(demo)
    expected = open_verified(demo, CPU, 1, [1]).run
    classes = np.concatenate([expected(image[None]) for image in images]).argmax(1)
    free = list[int]()
    for number in range(BATCHES):
        rows = random.choices(range(len(images)), k=random.randint(1, BUCKETS[-1]))
        logits = engine.run_with_tokens(images[rows])[0] if number % 10 == 0 else engine.run(images[rows])
        assert np.array_equal(classes[rows], logits.argmax(1))
        free.append(free_bytes())

    assert min(free[WARM_UP:]) == max(free[WARM_UP:])


@pytest.fixture
def on_cuda() -> Iterator[Served]:
    """A service with `--device cuda`."""
    served = Served("--device", "cuda")
    yield served
    served.stop()


def test_a_service_on_cuda_classifies_the_golden_samples(on_cuda: Served, demo: Bundle) -> None:
    """Over HTTP, the best class of each golden sample is that of the bundle."""
    files = [(demo.folder / sample.file).read_bytes() for sample in demo.manifest.golden.samples]
    answers = [httpx.post(f"{on_cuda.url}/classify", content=file).json() for file in files]
    engines = httpx.get(f"{on_cuda.url}/model").json()["engines"]

    assert [answer["predictions"][0]["index"] for answer in answers] == [*demo.golden_logits.argmax(1)]
    assert {engine["device"] for engine in engines} == {"cuda:0"}
