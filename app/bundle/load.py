"""The reader of bundles, which checks every file against the manifest. Knows no image.

Each file is opened once. The bytes that are hashed are the bytes that are used until the process
ends: small files stay in memory, and weights stay in private copies. So a running service is safe
from changes to the bundle's folder.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from app.bundle.digests import bytes_digest
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
    """The last layer of the network: logits = weight · mean token + bias."""

    weight: NDArray[np.float32]  # (classes, channels)
    bias: NDArray[np.float32]  # (classes,)


@dataclass(frozen=True)
class Sample:
    """A golden sample."""

    file: str  # in the bundle
    image: bytes  # encoded
    logits: NDArray[np.float32]  # (classes,)


@dataclass(frozen=True)
class Contents:
    """The parts of a bundle for HTTP workers: all but the network."""

    manifest: Manifest
    labels: tuple[Label, ...]
    head: Head
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Bundle(Contents):
    """A bundle that has been read, with files that match the manifest.

    `folder` is the place from which the bundle was read. It may hold another bundle by now.
    """

    folder: Path
    golden_logits: NDArray[np.float32]  # (samples, classes)
    network: PrivateFile
    others: Mapping[str, PrivateFile]  # all other files, such as weights that the network refers to
    sizes: Mapping[str, int]  # in bytes, of each file that the manifest lists

    @cached_property
    def golden_images(self) -> Mapping[str, bytes]:
        """The encoded images of the golden samples, by file name."""
        return {sample.file: sample.image for sample in self.samples}

    @property
    def model(self) -> Path:
        """The path of the private copy of the ONNX file.

        The path works only in this process, and as long as the bundle object exists.
        """
        return self.network.path


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and check every file against the manifest.

    Raises:
        BundleError: a file is missing, damaged, or contradicts the manifest. The message is one
        sentence.
    """
    # The path is resolved once. If a link is moved to another bundle meanwhile, the two are not
    # mixed.
    root = folder.resolve()
    manifest = _read_manifest(folder, root)
    files = _read_files(folder, root, manifest)
    try:
        labels = LABEL_LIST.validate_json(files.held[LABELS])
        golden_logits = _array(files.held[GOLDEN_LOGITS])
        # The weight is mapped, not read: it is large with many classes, and only evidence needs it.
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
    samples = zip((sample.file for sample in manifest.golden.samples), golden_logits, strict=True)
    return Bundle(
        manifest,
        labels,
        head,
        tuple(Sample(file, files.held[file], logits) for file, logits in samples),
        folder=folder,
        golden_logits=golden_logits,
        network=files.copied[MODEL],
        others={name: copy for name, copy in files.copied.items() if name not in {MODEL, HEAD_WEIGHT}},
        sizes=files.sizes,
    )


def contents(bundle: Contents) -> Contents:
    """Return the parts of a bundle for HTTP workers. Private copies cannot leave this process."""
    return Contents(bundle.manifest, bundle.labels, bundle.head, bundle.samples)


@dataclass
class _Files:
    """The content of a bundle's files, in memory or as private copies."""

    held: dict[str, bytes] = field(default_factory=dict)
    copied: dict[str, PrivateFile] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def _read_manifest(folder: Path, root: Path) -> Manifest:
    try:
        return Manifest.model_validate_json((root / MANIFEST).read_bytes())
    except OSError as error:
        raise BundleError(f"no bundle at {folder}: cannot read {MANIFEST} ({error.strerror})") from error
    except ValidationError as error:
        raise BundleError(f"bundle {folder}: {MANIFEST}: {sentence(error)}") from error


def _read_files(folder: Path, root: Path, manifest: Manifest) -> _Files:
    held = {LABELS, GOLDEN_LOGITS, HEAD_BIAS, *(sample.file for sample in manifest.golden.samples)}
    if missing := {MODEL, HEAD_WEIGHT, *held} - manifest.files.keys():
        raise BundleError(f"bundle {folder}: {MANIFEST} lists no digest for {', '.join(sorted(missing))}")
    files = _Files()
    for name, expected in manifest.files.items():
        path = root / name
        if not path.resolve().is_relative_to(root):
            raise BundleError(f"bundle {folder}: {name} is outside the bundle")
        if not path.is_file():
            raise BundleError(f"bundle {folder}: {name} is missing")
        try:
            found = _read(path, name, files, is_held=name in held)
        except OSError as error:
            raise BundleError(
                f"bundle {folder}: cannot read {name}, or keep a private copy of it ({error.strerror}); "
                "set TMPDIR to a folder with room for copies"
            ) from error
        if found != expected:
            raise BundleError(
                f"bundle {folder}: {name} is not the file that the manifest describes (its SHA-256 differs); "
                "if the bundle is being replaced, start again afterwards, else copy or export the bundle again"
            )
    return files


def _read(path: Path, name: str, files: _Files, *, is_held: bool) -> str:
    """Keep the content of a file, and return the digest of the bytes that are kept."""
    with path.open("rb") as source:
        if is_held:
            files.held[name] = content = source.read()
            files.sizes[name] = len(content)
            return bytes_digest(content)
        files.copied[name] = copy = PrivateFile(source)
    files.sizes[name] = copy.size
    return copy.sha256


def _array(content: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array
