"""Each thing that CUDA can lack, told by name: with a driver that is a stand-in."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import nvidia
from app.errors import DeviceError


class Driver(dict[str, Callable[[Any], int]]):
    """NVIDIA's, with so many GPUs, up to a version of CUDA, or failing at a question or at the start."""

    def __init__(self, gpus: int = 2, version: int = 13000, *, start: int = 0, failing: str = "") -> None:
        for question, value in (("cuDeviceGetCount", gpus), ("cuDriverGetVersion", version)):
            self[question] = self._answering(value, 999 if question == failing else 0)
        self.cuInit = lambda _: start

    @staticmethod
    def _answering(value: int, code: int) -> Callable[[Any], int]:
        def answer(place: Any) -> int:
            place._obj.value = value  # noqa: SLF001 (what byref leaves of its argument)
            return code

        return answer


def having(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.setattr(nvidia, "_load", lambda _: driver)


@pytest.mark.parametrize(
    ("driver", "sentence"),
    [
        (Driver(start=100), "NVIDIA's driver is there, but it shows no GPU"),
        (Driver(start=803), "NVIDIA's driver is there, but it fails with CUDA error 803"),
        (Driver(failing="cuDeviceGetCount"), "answers cuDeviceGetCount with CUDA error 999"),
        (Driver(gpus=1), "there is no GPU 1: the driver shows 1, counted from 0"),
        (Driver(version=12040), r"runs CUDA up to 12\.4, this ONNX Runtime is built for 13\.0: update the driver"),
    ],
    ids=["no GPU", "no start", "no answer", "no such GPU", "too old"],
)
def test_a_driver_that_does_not_do_is_told_why(driver: Driver, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found and wanted stand in one sentence."""
    having(monkeypatch, driver)

    with pytest.raises(DeviceError, match=sentence):
        nvidia.check_gpu(1, "13.0")


@pytest.mark.parametrize("built_for", ["12.8", "13.0", "13.2"])
def test_a_driver_runs_what_is_older_and_of_its_own_major_version(
    built_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA keeps to its major version both ways; refusing more would refuse what works."""
    having(monkeypatch, Driver(version=13000))

    nvidia.check_gpu(1, built_for)


def test_gpus_are_those_the_driver_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those in the machine: CUDA_VISIBLE_DEVICES is the driver's affair."""
    having(monkeypatch, Driver(gpus=3))

    assert nvidia.gpus() == 3


def test_a_missing_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the loader says it, and what helps in a container."""
    monkeypatch.setattr(nvidia, "DRIVER", "libnot-there.so.1")

    with pytest.raises(DeviceError, match=r"no NVIDIA driver \(libnot-there\.so\.1: .*--gpus all"):
        nvidia.gpus()


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that the loader cannot find, and the package that brings it."""

    def load(name: str, _: int = ctypes.RTLD_LOCAL) -> None:
        if name.endswith(nvidia.CUDA):
            raise OSError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.setattr(nvidia, "_load", load)

    with pytest.raises(DeviceError, match=r"\(libcudnn\.so\.9: .*pip install 'swin-serve\[gpu\]'"):
        nvidia.check_libraries(tmp_path)


def test_what_the_provider_expects_is_loaded_for_all_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the symbols of the shared library only if that came first, and globally."""
    loaded = list[tuple[str, int]]()
    monkeypatch.setattr(nvidia, "_load", lambda name, mode=ctypes.RTLD_LOCAL: loaded.append((Path(name).name, mode)))

    nvidia.check_libraries(tmp_path)

    assert loaded == [(nvidia.SHARED, ctypes.RTLD_GLOBAL), (nvidia.CUDA, ctypes.RTLD_LOCAL)]
