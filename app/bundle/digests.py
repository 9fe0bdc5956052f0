"""SHA-256 digests in hexadecimal, as the manifest lists them. Knows nothing about bundles."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def bytes_digest(content: bytes) -> str:
    """Return the digest of the content."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a file, without reading all of it into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pixels_digest(pixels: NDArray[np.uint8]) -> str:
    """Return the digest of pixels in raster order."""
    return bytes_digest(np.ascontiguousarray(pixels).tobytes())
