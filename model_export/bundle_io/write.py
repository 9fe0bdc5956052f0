"""The atomic writing of a bundle. Runs no network.

The bundle is written to a temporary folder beside its destination, read back with the reader of the service, and then
renamed. A failure leaves the destination unchanged.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.bundle.digests import file_digest, pixels_digest
from app.bundle.load import Head, load_bundle
from app.bundle.manifest import GOLDEN_LOGITS, HEAD_BIAS, HEAD_WEIGHT, LABELS, MANIFEST, GoldenSample, Label, Manifest
from model_export.errors import RequestError
from model_export.verification.images import Images
from model_export.verification.parity import png


@contextlib.contextmanager
def bundle_folder(output: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a temporary folder. It is renamed to `output` at the end of the block, or removed after an exception.

    Raises:
        RequestError: `output` exists and must not be replaced, or is not a bundle.
    """
    check_output(output, replace=replace)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        yield folder
        load_bundle(folder)  # raise if the service would reject the bundle
        check_output(output, replace=replace)  # again, because minutes have passed
        _move(folder, output, Path(scratch) / "old")


def _move(folder: Path, output: Path, old: Path) -> None:
    if output.exists():
        output.rename(old)
    try:
        folder.rename(output)
    except BaseException:
        if old.exists():
            old.rename(output)
        raise


def check_output(output: Path, *, replace: bool) -> None:
    """Raise if the bundle cannot be written to `output`. Called before the export, which can take long.

    Raises:
        RequestError: the parent folder is missing or read-only, or `output` exists and must not be replaced.
    """
    try:
        _check_output(output, replace=replace)
    except OSError as error:  # for example a name that is too long, or a folder without permission
        raise RequestError(f"cannot write {output}: {error.strerror}; choose another OUTPUT") from error


def check_space(output: Path, needed: int) -> None:
    """Raise RequestError if the disk of `output` has less than `needed` bytes left."""
    free = shutil.disk_usage(output.parent).free
    if free < needed:
        raise RequestError(
            f"the disk of {output.parent} has {free / 1e6:.0f} MB left, the export needs about {needed / 1e6:.0f} MB; "
            "free some space or choose an OUTPUT on another disk"
        )


def _check_output(output: Path, *, replace: bool) -> None:
    if output.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise RequestError(f"{output} is the current folder or contains it; choose another OUTPUT")
    if output.is_symlink() and not output.exists():
        raise RequestError(f"{output} is a broken symbolic link; remove it or choose another OUTPUT")
    if not output.parent.is_dir():
        raise RequestError(f"there is no folder {output.parent} to write {output.name} into; create it first")
    if not os.access(output.parent, os.W_OK):
        raise RequestError(f"the folder {output.parent} is read-only; choose another OUTPUT")
    if output.exists() and not replace:
        raise RequestError(f"{output} exists; replace it with --force or choose another OUTPUT")
    if output.exists() and not (output / MANIFEST).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise RequestError(f"{output} is not a bundle and is not replaced; choose another OUTPUT")


def write_golden(
    folder: Path, images: Images, pixels: NDArray[np.uint8], logits: NDArray[np.float32]
) -> list[GoldenSample]:
    """Write the images and the logits of the golden samples.

    Args:
        folder: the bundle.
        images: the images by name.
        pixels: the preprocessed images, `(samples, height, width, 3)`.
        logits: `(samples, classes)`.
    """
    (folder / "golden").mkdir()
    np.save(folder / GOLDEN_LOGITS, logits)
    samples = []
    for (name, image), row in zip(images.items(), pixels, strict=True):
        file = f"golden/{name}.png"
        (folder / file).write_bytes(png(image))
        samples.append(GoldenSample(file=file, pixels_sha256=pixels_digest(row)))
    return samples


def write_labels(folder: Path, labels: Sequence[Label]) -> None:
    """Write the labels in the order of the classes."""
    rows = ",\n".join(json.dumps(label.model_dump(), ensure_ascii=False) for label in labels)
    (folder / LABELS).write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def write_head(folder: Path, head: Head) -> None:
    """Write weight and bias of the head. The service computes evidence from them and does not parse the graph."""
    (folder / "head").mkdir()
    np.save(folder / HEAD_WEIGHT, head.weight)
    np.save(folder / HEAD_BIAS, head.bias)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest with the digest of every other file."""
    files = {
        path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    manifest = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
