"""What names a device, and what does not."""

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
    """`cuda` alone is the first GPU; several keep the order they were given in."""
    assert expected == devices(names)


@pytest.mark.parametrize("names", ["", "gpu", "trt", "cuda:", "cuda:-1", "cuda:0,", "cpu:1", "cuda:0,0", "cuda:0,00"])
def test_what_names_no_device_is_refused(names: str) -> None:
    """Nor does one that is named twice pass: it would hold the weights twice in silence."""
    with pytest.raises(ValueError, match=r"is no device|names a GPU twice"):
        devices(names)


@pytest.mark.parametrize("name", ["cpu", "cuda:0", "cuda:11", "tensorrt:1"])
def test_a_device_is_shown_as_it_is_asked_for(name: str) -> None:
    """What the log and `GET /model` show can be given back as a setting."""
    assert name == str(one_device(name))


def test_several_are_not_one() -> None:
    """Where one device is used, the second is not dropped in silence."""
    with pytest.raises(ValueError, match="several devices"):
        one_device("cuda:0,1")
