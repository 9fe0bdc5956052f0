"""A reader of pickled files that runs no code from them.

Tensors and plain data are read. An object of any other class becomes a `RecordedObject` with its
attributes and items. Nothing that a file names is imported or called. Knows nothing about networks.
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

# The hint, at the end of a message, for a file that cannot be read.
SAVE_STATE_DICT = 'save the weights alone where it was made: torch.save(model.state_dict(), "weights.pth")'
# The hint for a file that ends too early.
FETCH_AGAIN = "compare its size and checksum with the original's, and fetch it again"

# Modules and names that run commands, open files or import code. A file that asks for one of them
# is taken for an attack and refused. Any other name is harmless, because nothing is imported or
# called.
DANGEROUS_MODULES = {
    *("code", "ctypes", "importlib", "marshal", "nt", "os", "pdb", "posix", "pty", "runpy", "shutil", "socket"),
    *("subprocess", "sys", "webbrowser"),
}
DANGEROUS_NAMES = {
    *("__import__", "apply", "breakpoint", "compile", "eval", "exec", "execfile", "file", "input", "open"),  # builtins
    *("_pickle.loads", "codecs.open", "io.open", "pickle.load", "pickle.loads", "torch.load", "torch.hub.load"),
}
# Names of modules in Python 2, which the pickles of `torch.save` contain for compatibility.
PYTHON_3 = {"__builtin__": "builtins", "commands": "subprocess", "copy_reg": "copyreg"}
# Characters of a class's name in a message.
MAX_NAME_LENGTH = 100
# Bytes of a numpy array that is read. Settings and class names are shorter.
MAX_ARRAY_BYTES = 1_000_000
# numpy's type codes of integers, floats, booleans (b1), text and bytes.
PLAIN_CODE = re.compile(r"[bi][1248]|u[1248]|f[248]|[US]\d{1,5}")


class RecordedObject(Mapping[str, Any]):
    """The attributes and items of a pickled object by name, without its class.

    It accepts every operation that a pickle can apply to an object, and only stores names and
    values.
    """

    class_name = "object"  # of the class that the pickle names; set in subclasses

    def __new__(cls, *_: Any, **__: Any) -> Self:
        made = super().__new__(cls)
        made._values = {}
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        self._values: dict[Any, Any]  # made by __new__, because not every operation calls __init__

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
        """Store the attributes: a dictionary, or a pair of a dictionary and the values of slots."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping):
                self._values |= {name: value for name, value in part.items() if not str(name).startswith("__")}

    def __call__(self, *_: Any, **__: Any) -> Self:
        """Return an empty record in place of a function's result."""
        return type(self)()

    def append(self, _: Any) -> None:
        """Drop an item of a list."""

    def extend(self, _: Any) -> None:
        """Drop items of a list."""

    def add(self, _: Any) -> None:
        """Drop an item of a set."""

    @property
    def is_network(self) -> bool:
        """True if the object is a `torch.nn.Module` with submodules."""
        return bool(self._values.get("_modules"))


class Dtype:
    """The type code and byte order of a pickled numpy dtype."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self._code, self._order = str(code), "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in {"<", ">", "|"}:
            self._order = state[1]

    def values(self, data: Any) -> np.ndarray[Any, Any] | None:
        """Return the numbers or strings in these bytes; None for other types and long arrays."""
        if not isinstance(data, bytes) or len(data) > MAX_ARRAY_BYTES or not PLAIN_CODE.fullmatch(self._code):
            return None
        return np.frombuffer(data, dtype=np.dtype(self._order + self._code))


class Array(list[Any]):
    """A numpy array as nested lists. It holds one `RecordedObject` if the values are not read."""

    class_name = "numpy.ndarray"

    def __setstate__(self, state: Any) -> None:
        match state:
            case (_, tuple() as shape, Dtype() as dtype, by_columns, bytes() as data):
                if (values := dtype.values(data)) is not None:
                    self[:] = values.reshape(shape, order="F" if by_columns else "C").tolist()
            case (_, tuple(), Dtype(), _, list() as objects) if all(isinstance(value, str | int) for value in objects):
                self[:] = objects


def _scalar(dtype: Any = None, data: Any = None, *_: Any) -> Any:
    """Return the number or string in a numpy scalar; a record for other types."""
    values = dtype.values(data) if isinstance(dtype, Dtype) else None
    return RecordedObject() if values is None else values.item()


def _array(*_: Any) -> Array:
    """Return an array of one unknown value, which its state replaces."""
    return Array([RecordedObject()])


def _bytes(text: Any = "", *_: Any) -> bytes:
    """Return the bytes that pickle protocol 2 writes as Latin-1 text."""
    return text.encode("latin1") if isinstance(text, str) else b""


class Rebuild:
    """One of torch's functions that make a tensor from its storage, without gradient."""

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
        return RecordedObject()


# Globals that numpy, the standard library and torch use for plain values → their replacements.
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
    """An unpickler that imports nothing: it makes tensors, plain values and `RecordedObject`s."""

    def find_class(self, module: str, name: str, /) -> Any:
        """Return the replacement of a global.

        Raises:
            CheckpointError: the global could run code.
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
        # torch reads dump_patches of a network's class; a true value would make torch write a file.
        return type(name, (RecordedObject,), {"class_name": _shown(module, name), "dump_patches": False})


def _shown(module: str, name: str) -> str:
    return "".join(filter(str.isprintable, f"{module}.{name}"))[:MAX_NAME_LENGTH]


def load(file: Any, **options: Any) -> Any:
    """Return the next object of an open file. `torch.load` calls it in place of `pickle.load`."""
    return Unpickler(file, **options).load()


def read(file: Path) -> Any:
    """Return the content of a file of `torch.save`: tensors, plain data and `RecordedObject`s.

    torch's own restricted reader goes first. If it refuses a class or an operation, `Unpickler`
    reads the file. A TorchScript or tar file does not reach `Unpickler`, because the first reader
    raises another error.

    Raises:
        CheckpointError: the file is damaged, has another format, or asks for a global that could
            run code.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of unusual protocols and of changed source code
        try:
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                return torch.load(file, map_location="cpu", weights_only=False, pickle_module=sys.modules[__name__])
        except CheckpointError as error:
            raise CheckpointError(f"{file.name} {error}; it is not read. If you trust it, {SAVE_STATE_DICT}") from error
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"{file.name} is not a file of weights, or is damaged: {FETCH_AGAIN}") from error
        except Exception as error:  # a damaged pickle may raise any error
            if "magic number" in str(error):
                raise CheckpointError(
                    f"{file.name} is a pickle that torch.save did not write; {SAVE_STATE_DICT}"
                ) from error
            raise CheckpointError(f"{file.name} is damaged: {FETCH_AGAIN}") from error
