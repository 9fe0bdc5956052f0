"""`app/system/device.py`: the names of devices."""

import pytest

from app.system.device import CPU, Device, devices, one_device


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("cpu", [CPU]),
        ("cuda", [Device("cuda", 0)]),
        ("cuda:1", [Device("cuda", 1)]),
        ("cuda:2,0", [Device("cuda", 2), Device("cuda", 0)]),
        ("tensorrt", [Device("tensorrt", 0)]),
        ("tensorrt:0,1", [Device("tensorrt", 0), Device("tensorrt", 1)]),
    ],
)
def test_devices_are_named_in_order(names: str, expected: list[Device]) -> None:
    """`cuda` alone is the first GPU, and several devices keep the order of their names."""
    assert expected == devices(names)


@pytest.mark.parametrize("names", ["", "gpu", "trt", "cuda:", "cuda:-1", "cuda:0,", "cpu:1", "cuda:0,0", "cuda:0,00"])
def test_other_names_are_refused(names: str) -> None:
    """A device that is named twice is refused too: it would hold the weights twice."""
    with pytest.raises(ValueError, match=r"is no device|names a GPU twice"):
        devices(names)


@pytest.mark.parametrize("name", ["cpu", "cuda:0", "cuda:11", "tensorrt:1"])
def test_a_device_is_shown_by_its_name(name: str) -> None:
    """A name in the log or in `GET /model` is a valid setting."""
    assert name == str(one_device(name))


def test_several_devices_are_refused_where_one_is_used() -> None:
    """The second device is not dropped silently."""
    with pytest.raises(ValueError, match="several devices"):
        one_device("cuda:0,1")
