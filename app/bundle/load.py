"""The files of a bundle → `Bundle`, checked against the manifest.

Each file is opened once. The bytes that are hashed are the bytes that are used until the process ends: small files stay
in memory, weights in private copies. Rewriting a bundle in place changes nothing for a service that has read it.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from app.bundle.manifest import (
    GOLDEN_LOGITS,
    HEAD_BIAS,
    HEAD_WEIGHT,
    LABEL_LIST,
    LABELS,
    MANIFEST,
    MODEL,
    Label,
    Manifest,
)
from app.bundle.private_file import PrivateFile
from app.errors import BundleError, sentence


@dataclass(frozen=True)
class Head:
    """The layer that ends the network: logits = weight · mean token + bias."""

    weight: NDArray[np.float32]  # classes, channels
    bias: NDArray[np.float32]  # classes


@dataclass(frozen=True)
class Contents:
    """What of a bundle other processes get to know, too: all but the network and its golden samples."""

    manifest: Manifest
    labels: tuple[Label, ...]
    head: Head


@dataclass(frozen=True)
class Bundle(Contents):
    """A bundle that was read and whose files are what the manifest says.

    `folder` is where the bundle was: what lies there now may be another one.
    """

    folder: Path
    golden_logits: NDArray[np.float32]  # samples, classes
    golden_images: Mapping[str, bytes]  # encoded, by file name
    network: PrivateFile
    others: Mapping[str, PrivateFile]  # files without a name in this module: weights that the network may refer to
    sizes: Mapping[str, int]  # bytes of each file that the manifest lists

    @property
    def model(self) -> Path:
        """The private copy of the ONNX file. The path is this process's own, and valid as long as the bundle lives."""
        return self.network.path


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and check every file against the manifest.

    Raises:
        BundleError: in one sentence, what is missing, damaged or contradictory.
    """
    # Resolved once: a link that is moved to another bundle meanwhile does not mix the two.
    place = folder.resolve()
    manifest = _read_manifest(folder, place)
    files = _read_files(folder, place, manifest)
    try:
        labels = LABEL_LIST.validate_json(files.held[LABELS])
        golden_logits = _array(files.held[GOLDEN_LOGITS])
        # Mapped, not read: with many classes it is large, and no one may ever ask for evidence.
        weight = np.load(files.copied[HEAD_WEIGHT].path, mmap_mode="r").view(np.ndarray)
        head = Head(weight, _array(files.held[HEAD_BIAS]))
    except (OSError, EOFError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise BundleError(f"bundle {folder}: {sentence(error)}") from error
    if len(labels) != manifest.classes:
        raise BundleError(f"bundle {folder}: {len(labels)} labels for {manifest.classes} classes")
    for name, array, expected in (
        (GOLDEN_LOGITS, golden_logits, (len(manifest.golden.samples), manifest.classes)),
        (HEAD_WEIGHT, head.weight, (manifest.classes, manifest.evidence.channels)),
        (HEAD_BIAS, head.bias, (manifest.classes,)),
    ):
        if array.shape != expected or array.dtype != np.float32:
            raise BundleError(f"bundle {folder}: {name} is {array.shape}, expected {expected}")
    return Bundle(
        manifest,
        labels,
        head,
        folder=folder,
        golden_logits=golden_logits,
        network=files.copied[MODEL],
        others={name: copy for name, copy in files.copied.items() if name not in {MODEL, HEAD_WEIGHT}},
        golden_images={sample.file: files.held[sample.file] for sample in manifest.golden.samples},
        sizes=files.sizes,
    )


def contents(bundle: Contents) -> Contents:
    """Return what other processes get to know of a bundle. A private copy stays in the process that made it."""
    return Contents(bundle.manifest, bundle.labels, bundle.head)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class _Files:
    """Content of the files of a bundle: in memory, or as private copies."""

    held: dict[str, bytes] = field(default_factory=dict)
    copied: dict[str, PrivateFile] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def _read_manifest(folder: Path, place: Path) -> Manifest:
    try:
        return Manifest.model_validate_json((place / MANIFEST).read_bytes())
    except OSError as error:
        raise BundleError(f"no bundle at {folder}: cannot read {MANIFEST} ({error.strerror})") from error
    except ValidationError as error:
        raise BundleError(f"bundle {folder}: {MANIFEST}: {sentence(error)}") from error


def _read_files(folder: Path, place: Path, manifest: Manifest) -> _Files:
    held = {LABELS, GOLDEN_LOGITS, HEAD_BIAS, *(sample.file for sample in manifest.golden.samples)}
    if missing := {MODEL, HEAD_WEIGHT, *held} - manifest.files.keys():
        raise BundleError(f"bundle {folder}: {MANIFEST} lists no digest for {', '.join(sorted(missing))}")
    files = _Files()
    for name, expected in manifest.files.items():
        path = place / name
        if not path.resolve().is_relative_to(place):
            raise BundleError(f"bundle {folder}: {name} is outside the bundle")
        if not path.is_file():
            raise BundleError(f"bundle {folder}: {name} is missing")
        try:
            found = _read(path, name, files, is_held=name in held)
        except OSError as error:
            raise BundleError(
                f"bundle {folder}: cannot read {name}, or keep a private copy of it ({error.strerror}); "
                "TMPDIR names the folder for copies"
            ) from error
        if found != expected:
            raise BundleError(
                f"bundle {folder}: {name} is not the file the manifest describes (its SHA-256 differs); if the bundle "
                "is being replaced, start again afterwards, else copy or export the bundle again"
            )
    return files


def _read(path: Path, name: str, files: _Files, *, is_held: bool) -> str:
    """SHA-256 of the very bytes that are kept."""
    with path.open("rb") as source:
        if is_held:
            files.held[name] = content = source.read()
            files.sizes[name] = len(content)
            return hashlib.sha256(content).hexdigest()
        files.copied[name] = copy = PrivateFile(source)
    files.sizes[name] = copy.size
    return copy.sha256


def _array(content: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array
