"""Files in both formats of `torch.save`, with opcodes inserted at the start of the pickle."""

import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

FORMATS = {"zip": True, "legacy": False}
# The number of pickles before the content: magic number, protocol, system.
LEGACY_HEADER = 3


def save_with(steps: bytes, content: Any, file: Path, form: str) -> None:
    """Write `content`. A reader runs `steps` first and drops their result."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=FORMATS[form])
    buffer.seek(0)
    file.write_bytes(_in_zip(steps, buffer) if form == "zip" else _in_legacy(steps, buffer))


def _with(steps: bytes, pickled: bytes) -> bytes:
    """Insert `steps` after the two bytes of the protocol; the opcode `0` drops the result."""
    return b"\x80\x04" + steps + b"0" + pickled[2:]


def _in_zip(steps: bytes, saved: io.BytesIO) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(saved) as before, zipfile.ZipFile(written, "w") as after:
        for name in before.namelist():
            record = before.read(name)
            after.writestr(name, _with(steps, record) if name.endswith("/data.pkl") else record)
    return written.getvalue()


def _in_legacy(steps: bytes, saved: io.BytesIO) -> bytes:
    for _ in range(LEGACY_HEADER):
        pickle.load(saved)  # noqa: S301 (written by this module)
    before = saved.tell()
    everything = saved.getvalue()
    return everything[:before] + _with(steps, everything[before:])


TRAP = """\
from pathlib import Path
Path({trace!r}).mkdir()
"""


def set_trap(folder: Path, monkeypatch: Any) -> Path:
    """Make a module `trap` importable; return the path of the folder that importing it creates."""
    (folder / "modules").mkdir()
    (folder / "modules" / "trap.py").write_text(TRAP.format(trace=str(folder / "trace")))
    monkeypatch.syspath_prepend(folder / "modules")
    monkeypatch.delitem(sys.modules, "trap", raising=False)
    return folder / "trace"
