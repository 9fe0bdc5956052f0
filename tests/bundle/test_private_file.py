"""`app/bundle/private_file.py`: a copy stays as it is, on disk or in memory."""

import errno
import gc
import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

from app.bundle.load import load_bundle
from app.bundle.private_file import CHUNK_BYTES, PrivateFile
from app.errors import BundleError
from app.settings import DEMO_BUNDLE

CONTENT = bytes(range(256)) * (CHUNK_BYTES // 256) + b"and a last, shorter piece"


def no_room(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(params=["on disk", "in memory", "in memory, after the disk was full"])
def copy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PrivateFile:
    """Return a copy of `CONTENT`."""
    if request.param == "in memory":
        monkeypatch.setattr(tempfile, "TemporaryFile", no_room)
    if request.param.endswith("full"):
        write, failures = os.write, iter([True])
        monkeypatch.setattr(os, "write", lambda *to: no_room() if next(failures, False) else write(*to))
    return PrivateFile(io.BytesIO(CONTENT))


def test_a_copy_is_the_content_and_its_digest(copy: PrivateFile) -> None:
    """A copy has the content and its digest, each time that it is read."""
    assert (copy.sha256, copy.size) == (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    assert copy.path.read_bytes() == copy.path.read_bytes() == CONTENT


def test_a_copy_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder for temporary files has no name that another process could open."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    copy = PrivateFile(io.BytesIO(CONTENT))

    assert list(tmp_path.iterdir()) == []
    assert copy.path.resolve().parent == tmp_path


def test_a_copy_is_freed_with_its_object() -> None:
    """The descriptor and the space of a copy are freed together with its object."""
    copy = PrivateFile(io.BytesIO(CONTENT))
    path = copy.path
    del copy
    gc.collect()

    assert not path.exists()


def test_no_room_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file, the reason and the variable to set."""
    monkeypatch.setattr(tempfile, "TemporaryFile", no_room)
    monkeypatch.setattr(os, "memfd_create", no_room)

    with pytest.raises(BundleError, match=r"keep a private copy of it \(No space left on device\); set TMPDIR"):
        load_bundle(DEMO_BUNDLE)
