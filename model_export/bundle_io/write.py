"""A bundle appears whole or not at all: written beside its place, hashed, read back, renamed."""

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
    """A temporary folder that becomes `output` if the block ends without an error, and vanishes otherwise.

    Raises:
        RequestError: `output` exists and may not be replaced, or is not a bundle.
    """
    check_place(output, replace=replace)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        yield folder
        load_bundle(folder)  # what is put in place is what the service will accept
        check_place(output, replace=replace)  # again: minutes have passed
        _put(folder, output, Path(scratch) / "old")


def _put(folder: Path, output: Path, old: Path) -> None:
    if output.exists():
        output.rename(old)
    try:
        folder.rename(output)
    except BaseException:
        if old.exists():
            old.rename(output)
        raise


def check_place(output: Path, *, replace: bool) -> None:
    """Tell before hours of work, not after, that the result would have nowhere to go.

    Raises:
        RequestError: its folder is missing or read-only, or something is there that may not be replaced.
    """
    try:
        _check_place(output, replace=replace)
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise RequestError(f"{output} cannot be written: {error.strerror}") from error


def check_space(output: Path, needed: int) -> None:
    """Raise RequestError if the disk of `output` has less than so many bytes left."""
    free = shutil.disk_usage(output.parent).free
    if free < needed:
        raise RequestError(
            f"{output.parent} has {free / 1e6:.0f} MB left, the export needs about {needed / 1e6:.0f} MB; "
            "make room, or give an OUTPUT on another disk"
        )


def _check_place(output: Path, *, replace: bool) -> None:
    if output.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise RequestError(
            f"{output} is the current folder or one around it; give the folder of the bundle another name"
        )
    if output.is_symlink() and not output.exists():
        raise RequestError(f"{output} is a link to nothing; remove it, or give another OUTPUT")
    if not output.parent.is_dir():
        raise RequestError(f"there is no folder {output.parent} to write {output.name} into")
    if not os.access(output.parent, os.W_OK):
        raise RequestError(f"{output.parent} cannot be written to")
    if output.exists() and not replace:
        raise RequestError(f"{output} exists; --force replaces it")
    if output.exists() and not (output / MANIFEST).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise RequestError(f"{output} is not a bundle; it is left alone")


def write_golden(
    folder: Path, images: Images, pixels: NDArray[np.uint8], logits: NDArray[np.float32]
) -> list[GoldenSample]:
    """Write images and logits; pixels (samples, height, width, 3), logits (samples, classes)."""
    (folder / "golden").mkdir()
    np.save(folder / GOLDEN_LOGITS, logits)
    samples = []
    for (name, image), row in zip(images.items(), pixels, strict=True):
        file = f"golden/{name}.png"
        (folder / file).write_bytes(png(image))
        samples.append(GoldenSample(file=file, pixels_sha256=pixels_digest(row)))
    return samples


def write_labels(folder: Path, labels: Sequence[Label]) -> None:
    """Write the names of the classes in their order."""
    rows = ",\n".join(json.dumps(label.model_dump(), ensure_ascii=False) for label in labels)
    (folder / LABELS).write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def write_head(folder: Path, head: Head) -> None:
    """Write the last layer a second time, for who wants evidence: the service does not read weights out of graphs."""
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
