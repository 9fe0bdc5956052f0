"""`model_export/checkpoints/files/pickles.py`: weights are read, and no code runs."""

import argparse
import builtins
import collections
import datetime as dt
import enum
import fractions
import functools
import os
import pathlib
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_export.checkpoints.files.pickles import RecordedObject
from model_export.checkpoints.files.weights import read_files
from model_export.errors import CheckpointError
from tests.support.pickled import FORMATS, save_with, set_trap

WEIGHTS = {"patch_embed.proj.weight": torch.arange(6.0)}


def push_text(text: str) -> bytes:
    """Return the opcode that pushes a text."""
    return pickle.BINUNICODE + len(text.encode()).to_bytes(4, "little") + text.encode()


def push_global(module: str, name: str) -> bytes:
    """Return the opcodes that push a global."""
    return push_text(module) + push_text(name) + pickle.STACK_GLOBAL


COMMAND = "mkdir trace"
TRAP = push_global("trap", "Network")
# Opcodes that ask for a global that could run code.
HARMFUL: dict[str, bytes] = {
    "os.system": push_global("os", "system") + push_text(COMMAND) + b"\x85R",
    "posix.system, protocol 0": f"cposix\nsystem\n(V{COMMAND}\ntR".encode(),
    "nt.system": push_global("nt", "system") + push_text(COMMAND) + b"\x85R",
    "subprocess.Popen": push_global("subprocess", "Popen") + push_text(COMMAND) + b"\x85R",
    "eval": push_global("builtins", "eval") + push_text("__import__('os').mkdir('trace')") + b"\x85R",
    "exec": push_global("builtins", "exec") + push_text("import os; os.mkdir('trace')") + b"\x85R",
    "exec of Python 2": push_global("__builtin__", "eval") + push_text("__import__('os').mkdir('trace')") + b"\x85R",
    "__import__": push_global("builtins", "__import__") + push_text("trap") + b"\x85R",
    "import_module": push_global("importlib", "import_module") + push_text("trap") + b"\x85R",
    "runpy": push_global("runpy", "run_module") + push_text("trap") + b"\x85R",
    "getattr of an import": (
        push_global("builtins", "getattr")
        + (push_global("builtins", "__import__") + push_text("os") + b"\x85R")
        + push_text("system")
        + b"\x86R"
        + push_text(COMMAND)
        + b"\x85R"
    ),
    "a name with dots": push_global("builtins", "open.__self__.eval") + push_text("__import__('trap')") + b"\x85R",
    "INST": f"(V{COMMAND}\nios\nsystem\n".encode(),
    "OBJ": b"(" + push_global("os", "system") + push_text(COMMAND) + b"o",
    "a pickle in a pickle": push_global("pickle", "loads") + b"C\x0ccos\nmkdir\n(V.\x85R",
}
# Opcodes that name a module which leaves a trace if it is imported. They are harmless if it is not
# imported.
TRAPPED: dict[str, bytes] = {
    "a function of a module": push_global("trap", "run") + push_text(COMMAND) + b"\x85R",
    "GLOBAL": b"ctrap\nrun\n)R",
    "NEWOBJ": TRAP + b")\x81",
    "NEWOBJ_EX": TRAP + b")}" + push_text("shape") + b"K\x01s\x92",
    "INST": b"(K\x01itrap\nNetwork\n",
    "OBJ": b"(" + TRAP + b"K\x01o",
    "BUILD": TRAP + b")\x81}" + push_text("training") + b"\x88sb",
    "BUILD of slots": TRAP + b")\x81N}" + push_text("training") + b"\x88s\x86b",
    "BUILD of no mapping": TRAP + b")\x81K\x01b",
    "items": TRAP + b")\x81(" + push_text("item") + b"K\x01u",
    "an item": TRAP + b")\x81" + push_text("item") + b"K\x01s",
    "APPEND": TRAP + b")\x81K\x01a",
    "APPENDS": TRAP + b")\x81(K\x01K\x02e",
    "ADDITEMS": TRAP + b")\x81(K\x01K\x02\x90",
    "a key of a dictionary": b"}" + TRAP + b")\x81K\x01s",
    "getattr": push_global("builtins", "getattr") + TRAP + push_text("run") + b"\x86R)R",
    "attrgetter": push_global("operator", "attrgetter") + push_text("system") + b"\x85R" + TRAP + b"\x85R)R",
    "a chain of calls": push_global("functools", "partial") + TRAP + b"\x85R)R)R",
    "a class made while running": push_global("copyreg", "_reconstructor")
    + TRAP
    + push_global("builtins", "object")
    + b"N\x87R",
    "a name with dots": push_global("trap", "Network.__init__.__globals__") + b")R",
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", HARMFUL)
def test_a_file_that_could_run_code_is_refused_and_not_run(
    case: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that asks for a harmful global is refused with its name, and nothing is run."""
    trace = set_trap(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    save_with(HARMFUL[case], {"model": WEIGHTS}, tmp_path / "weights.pth", form)

    with pytest.raises(CheckpointError, match=r"^weights\.pth asks for \S+, which could run code .* torch\.save\("):
        read_files([tmp_path / "weights.pth"])

    assert not trace.exists()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", TRAPPED)
def test_a_named_module_is_not_imported(case: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations on an unknown class import nothing, and the weights after them are read."""
    trace = set_trap(tmp_path, monkeypatch)
    save_with(TRAPPED[case], {"model": WEIGHTS}, tmp_path / "weights.pth", form)

    content = read_files([tmp_path / "weights.pth"])

    assert torch.equal(content["model"]["patch_embed.proj.weight"], WEIGHTS["patch_embed.proj.weight"])
    assert not trace.exists()
    assert "trap" not in sys.modules


def test_the_trap_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own unpickler imports the trap, so the two tests before would fail with it."""
    trace = set_trap(tmp_path, monkeypatch)

    with pytest.raises(AttributeError):
        pickle.loads(b"ctrap\nrun\n)R.")  # noqa: S301 (made right here)

    assert trace.exists()
    del sys.modules["trap"]


class Color(enum.Enum):
    """A class of a training script, which the reader cannot import."""

    RED = 1


class Meter:
    """A class with a `__setstate__` that fails the test if it is called."""

    def __init__(self) -> None:
        self.average = 0.5

    def __setstate__(self, state: Any) -> None:
        raise AssertionError(f"called with {state}")

    def mean(self) -> float:
        """Return the average; pickled as a bound method."""
        return self.average


class Slotted:
    """A class with slots."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 3


def _scheduler() -> Any:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return torch.optim.lr_scheduler.StepLR(optimizer, 3)


def _marked() -> torch.Tensor:
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.__dict__["from_expert"] = 3  # as mixture-of-experts code marks parameters
    return weight


# Objects that training scripts save beside the weights.
EXTRAS: dict[str, Callable[[], Any]] = {
    "a numpy scalar": lambda: np.float64(81.2),
    "a numpy array": lambda: np.arange(3),
    "a numpy array of objects": lambda: np.array([Meter()]),
    "a numpy type": lambda: np.dtype("f4"),
    "a path": lambda: pathlib.Path("/runs"),
    "a date": lambda: dt.datetime.now(dt.UTC),
    "a period": lambda: dt.timedelta(seconds=3),
    "a default dictionary": lambda: collections.defaultdict(list, a=[1]),
    "a counter": lambda: collections.Counter("abc"),
    "a queue": lambda: collections.deque([1, 2], maxlen=3),
    "a set": lambda: {1, 2},
    "a fraction": lambda: fractions.Fraction(1, 2),
    "a range": lambda: range(3),
    "a loss": lambda: torch.nn.CrossEntropyLoss(torch.ones(5)),
    "an optimizer": lambda: torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1),
    "a scheduler": _scheduler,
    "a generator": lambda: np.random.default_rng(0),
    "an enumeration": lambda: Color.RED,
    "a class": lambda: Color,
    "a bound method": lambda: Meter().mean,
    "a function": lambda: functools.partial(os.path.join, "a"),
    "a partial function": lambda: functools.partial(torch.nn.Linear, in_features=3),
    "a device": lambda: torch.device("cpu"),
    "a shape": lambda: torch.Size([1, 2]),
    "a type": lambda: torch.float16,
    "an object": Meter,
    "an object with slots": Slotted,
    "a tensor with attributes": _marked,
    "a sparse tensor": lambda: torch.eye(2).to_sparse(),
    "a namespace": lambda: types.SimpleNamespace(lr=0.1),
    "an error": lambda: ValueError("diverged"),
    "a builtin": lambda: builtins.len,
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", EXTRAS)
def test_the_weights_beside_an_object_are_read(case: str, form: str, tmp_path: Path) -> None:
    """The weights are read, whatever object a script saved beside them."""
    content = {"extra": EXTRAS[case](), "model": WEIGHTS}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=FORMATS[form])

    read = read_files([tmp_path / "weights.pth"])

    assert torch.equal(read["model"]["patch_embed.proj.weight"], WEIGHTS["patch_embed.proj.weight"])


def _of_module(monkeypatch: pytest.MonkeyPatch, module: str, name: str, base: type) -> Any:
    """Return a class of a library that is not installed."""
    made = type(name, (base,), {"__module__": module})
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), types.ModuleType(".".join(parts[:count])))
    monkeypatch.setattr(sys.modules[module], name, made, raising=False)
    return made


@pytest.mark.parametrize("form", FORMATS)
def test_settings_become_plain_data(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of argparse, yacs, Lightning and scripts become mappings of their content."""
    yacs = _of_module(monkeypatch, "yacs.config", "CfgNode", dict)
    lightning = _of_module(monkeypatch, "pytorch_lightning.utilities.parsing", "AttributeDict", dict)
    own = _of_module(monkeypatch, "train", "Settings", object)()
    own.mean = (0.5, 0.5, 0.5)
    content = {
        "model": WEIGHTS,
        "args": argparse.Namespace(img_size=448, root=pathlib.Path("/data")),
        "config": yacs(TEST=yacs(CROP=False), DATA=yacs(IMG_SIZE=256)),
        "hyper_parameters": lightning(lr=0.1, data={"size": 64}),
        "cfg": own,
    }
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=FORMATS[form])
    monkeypatch.undo()

    read = read_files([tmp_path / "weights.pth"])

    assert read["args"]["img_size"] == 448
    assert (read["config"]["TEST"]["CROP"], read["config"]["DATA"]["IMG_SIZE"]) == (False, 256)
    assert dict(read["hyper_parameters"]) == {"lr": 0.1, "data": {"size": 64}}
    assert dict(read["cfg"]) == {"mean": (0.5, 0.5, 0.5)}
    assert all(isinstance(read[name], RecordedObject) for name in ("args", "config", "hyper_parameters", "cfg"))


VALUES: dict[str, tuple[Any, Any]] = {
    "a whole number": (np.int64(448), 448),
    "a fraction": (np.float32(0.5), 0.5),
    "truth": (np.bool_(True), True),
    "a name": (np.str_("ant"), "ant"),
    "numbers": (np.array([0.485, 0.456]), [0.485, 0.456]),
    "a matrix by columns": (np.asfortranarray(np.arange(6).reshape(2, 3)), [[0, 1, 2], [3, 4, 5]]),
    "big-endian numbers": (np.array([1, 2], dtype=">i4"), [1, 2]),
    "names": (np.array(["ant", "bee"]), ["ant", "bee"]),
    "names as objects": (np.array(["ant", "bee"], dtype=object), ["ant", "bee"]),
    "a shape": (torch.Size([64, 96]), (64, 96)),
    "a set": ({1, 2}, {1, 2}),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", VALUES)
def test_plain_values_of_libraries_are_read(case: str, form: str, tmp_path: Path) -> None:
    """Numbers, texts and arrays of numpy and torch become plain values of Python."""
    value, expected = VALUES[case]
    content = {"model": WEIGHTS, "value": value, "stops": Meter()}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=FORMATS[form])

    assert read_files([tmp_path / "weights.pth"])["value"] == expected


@pytest.mark.parametrize("form", FORMATS)
def test_a_whole_network_is_named(form: str, tmp_path: Path) -> None:
    """A file of `torch.save(model)` raises an error with the model's class and a hint."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    torch.save(network, tmp_path / "model.pth", _use_new_zipfile_serialization=FORMATS[form])

    with pytest.raises(CheckpointError, match=r"a whole network, .*Sequential, .*torch\.save\(model\.state_dict"):
        read_files([tmp_path / "model.pth"])


def test_a_class_name_cannot_control_the_terminal(tmp_path: Path) -> None:
    """Names in a file are shown without control characters and shortened."""
    steps = push_global("os", "system\x1b[31m\n" + "x" * 1000)
    save_with(steps, {"model": WEIGHTS}, tmp_path / "weights.pth", "zip")

    with pytest.raises(CheckpointError) as refused:
        read_files([tmp_path / "weights.pth"])

    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def test_no_program_is_started(tmp_path: Path) -> None:
    """A pickle that asks for a program is refused, and the program is not started."""

    class Starts:
        def __reduce__(self) -> tuple[Any, ...]:
            return subprocess.check_call, (["mkdir", str(tmp_path / "trace")],)

    torch.save({"model": WEIGHTS, "extra": Starts()}, tmp_path / "weights.pth")

    with pytest.raises(CheckpointError, match=r"subprocess\.check_call"):
        read_files([tmp_path / "weights.pth"])

    assert not (tmp_path / "trace").exists()
