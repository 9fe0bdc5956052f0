"""Pickled files: tensors and plain data are read, objects of any other class become a record of what they held.

Nothing that a file names is imported or called. Knows nothing about networks.
"""

import pickle
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from model_export.errors import CheckpointError

WAY_OUT = 'save the weights alone where it was made: torch.save(model.state_dict(), "weights.pth")'
"""What to do about a file that cannot be read, for the end of a sentence."""

CUT_OFF = "compare its size and checksum with the original's, and fetch it again"
"""What to do about a file that ends too early."""

# Modules and names that give a command, a file, a program or a library to the caller. A file that asks for one of them
# is an attack, so it is refused. Any other name is harmless, because nothing is imported or called.
DANGEROUS_MODULES = {
    *("code", "ctypes", "importlib", "marshal", "nt", "os", "pdb", "posix", "pty", "runpy", "shutil", "socket"),
    *("subprocess", "sys", "webbrowser"),
}
DANGEROUS_NAMES = {
    *("__import__", "apply", "breakpoint", "compile", "eval", "exec", "execfile", "file", "input", "open"),  # builtins
    *("_pickle.loads", "codecs.open", "io.open", "pickle.load", "pickle.loads", "torch.load", "torch.hub.load"),
}
# What `torch.save` writes for these modules: its pickles are for Python 2, too.
PYTHON_3 = {"__builtin__": "builtins", "commands": "subprocess", "copy_reg": "copyreg"}
LONGEST_NAME = 100
"""Characters of a class's name that are repeated in a sentence."""

LONGEST_ARRAY = 1_000_000
"""Bytes of numpy's arrays that are read; settings and names of classes are shorter."""

PLAIN_CODE = re.compile(r"[bi][1248]|u[1248]|f[248]|[US]\d{1,5}")
"""numpy's codes of whole numbers, fractions, truth (b1), text and bytes."""


class Recorded(Mapping[str, Any]):
    """What a pickle says of an object: its attributes and items by name, without its class.

    It takes every step that a pickle can ask of an object, and does nothing but remember names and values.
    """

    class_name = "object"  # of the class that the pickle names; set in subclasses

    def __new__(cls, *_: Any, **__: Any) -> Self:
        made = super().__new__(cls)
        made._values = {}
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        self._values: dict[Any, Any]  # made by __new__: not every step calls __init__

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<recorded {self.class_name}>"

    def __setitem__(self, name: Any, value: Any) -> None:
        self._values[name] = value

    def __setstate__(self, state: Any) -> None:
        """Remember attributes: a dictionary, or a pair of it and of what is in slots."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping):
                self._values |= {name: value for name, value in part.items() if not str(name).startswith("__")}

    def __call__(self, *_: Any, **__: Any) -> Self:
        """Return another record: the pickle calls what it takes for a function."""
        return type(self)()

    def append(self, _: Any) -> None:
        """Forget an item of a list."""

    def extend(self, _: Any) -> None:
        """Forget items of a list."""

    def add(self, _: Any) -> None:
        """Forget an item of a set."""

    @property
    def is_network(self) -> bool:
        """Whether it is a `torch.nn.Module` that holds others."""
        return bool(self._values.get("_modules"))


class Dtype:
    """What a pickle says of a dtype of numpy's: its code and the order of its bytes."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self._code, self._order = str(code), "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in {"<", ">", "|"}:
            self._order = state[1]

    def values(self, data: Any) -> np.ndarray[Any, Any] | None:
        """Return the numbers or strings in these bytes; None for other kinds, and for many."""
        if not isinstance(data, bytes) or len(data) > LONGEST_ARRAY or not PLAIN_CODE.fullmatch(self._code):
            return None
        return np.frombuffer(data, dtype=np.dtype(self._order + self._code))


class Array(list[Any]):
    """An array of numpy's as nested lists; with a record in it where its values are not read."""

    class_name = "numpy.ndarray"

    def __setstate__(self, state: Any) -> None:
        match state:
            case (_, tuple() as shape, Dtype() as dtype, by_columns, bytes() as data):
                if (values := dtype.values(data)) is not None:
                    self[:] = values.reshape(shape, order="F" if by_columns else "C").tolist()
            case (_, tuple(), Dtype(), _, list() as objects) if all(isinstance(value, str | int) for value in objects):
                self[:] = objects


def _scalar(dtype: Any = None, data: Any = None, *_: Any) -> Any:
    """Return the number or string that a numpy scalar is; a record where it is of another kind."""
    values = dtype.values(data) if isinstance(dtype, Dtype) else None
    return Recorded() if values is None else values.item()


def _array(*_: Any) -> Array:
    """Return an array of one unknown value, which its state replaces."""
    return Array([Recorded()])


def _bytes(text: Any = "", *_: Any) -> bytes:
    """Return the bytes that protocol 2 writes as text."""
    return text.encode("latin1") if isinstance(text, str) else b""


class Rebuild:
    """One of torch's functions that make a tensor of its storage; its result is a plain tensor without gradient."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any) -> Any:
        """Make the tensor."""
        match self._name, arguments:
            case "_rebuild_tensor", (storage, offset, size, stride):
                return torch._utils._rebuild_tensor(storage, offset, size, stride)  # noqa: SLF001 (the format's own)
            case "_rebuild_tensor_v2", (storage, offset, size, stride, *_):
                return torch._utils._rebuild_tensor(storage, offset, size, stride)  # noqa: SLF001 (the format's own)
            case "_rebuild_parameter" | "_rebuild_parameter_with_state", (Tensor() as data, *_):
                return data
            case "_rebuild_from_type_v2", (Rebuild() as function, _, tuple() as inner, *_):
                return function(*inner)
        return Recorded()


# What numpy, the standard library and torch name for plain values, and what makes them here.
PLAIN: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
    ("numpy", "dtype"): Dtype,
    ("_codecs", "encode"): _bytes,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("torch", "Size"): tuple,
}
REBUILDS = {
    **{("torch._utils", name): name for name in ("_rebuild_tensor", "_rebuild_tensor_v2")},
    **{("torch._utils", name): name for name in ("_rebuild_parameter", "_rebuild_parameter_with_state")},
    ("torch._tensor", "_rebuild_from_type_v2"): "_rebuild_from_type_v2",
}


class Unpickler(pickle.Unpickler):
    """Reads a pickle and imports nothing: tensors and dictionaries are real, everything else is `Recorded`."""

    def find_class(self, module: str, name: str, /) -> Any:
        """Return what stands for a global.

        Raises:
            CheckpointError: it is one that attacks ask for.
        """
        module = PYTHON_3.get(module, module)
        called = f"{module}.{name.split('.', maxsplit=1)[0]}".removeprefix("builtins.")
        if module.split(".", maxsplit=1)[0] in DANGEROUS_MODULES or called in DANGEROUS_NAMES:
            raise CheckpointError(f"asks for {_shown(module, name)}, which could run code and belongs to no weights")
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in PLAIN:
            return PLAIN[module, name]
        if (module, name) in REBUILDS:
            return Rebuild(REBUILDS[module, name])
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        # torch asks a network's class for dump_patches; true would make it write a file.
        return type(name, (Recorded,), {"class_name": _shown(module, name), "dump_patches": False})


def _shown(module: str, name: str) -> str:
    return "".join(filter(str.isprintable, f"{module}.{name}"))[:LONGEST_NAME]


def load(file: Any, **options: Any) -> Any:
    """Return the next pickle of an open file, as `pickle.load` does; `torch.load` asks for it."""
    return Unpickler(file, **options).load()


def read(file: Path) -> Any:
    """Return what `torch.save` wrote: tensors, plain data, and `Recorded` objects.

    torch's own reader goes first. Where it refuses a class or a step, `Unpickler` reads around it. A TorchScript or tar
    file never gets so far: the first reader ends with another error.

    Raises:
        CheckpointError: the file is damaged, is something else, or asks for what could run code.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unusual protocols, of sources that changed
        try:
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                return torch.load(file, map_location="cpu", weights_only=False, pickle_module=sys.modules[__name__])
        except CheckpointError as error:
            raise CheckpointError(f"{file.name} {error}; it is not read. If it is yours, {WAY_OUT}") from error
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"{file.name} is not a file of weights, or is damaged: {CUT_OFF}") from error
        except Exception as error:  # a damaged pickle makes its reader raise anything
            if "magic number" in str(error):
                raise CheckpointError(f"{file.name} is a pickle that torch.save did not write; {WAY_OUT}") from error
            raise CheckpointError(f"{file.name} is damaged: {CUT_OFF}") from error
