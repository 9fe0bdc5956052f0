"""Drawn images, as files of a folder. Knows no model."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.images import encode


def drawn(count: int) -> list[bytes]:
    """Return different PNGs of 32×32 pixels, the same at every call."""
    random = np.random.default_rng(5)
    return [encode(Image.fromarray(random.integers(0, 256, (32, 32), np.uint8))) for _ in range(count)]


def write_images(folder: Path, count: int, bad_every: int = 0) -> Path:
    """Write images with sorted names. Every so many files, one is cut off."""
    folder.mkdir(exist_ok=True)
    for number, data in enumerate(drawn(count)):
        is_bad = bool(bad_every) and number % bad_every == bad_every - 1
        (folder / f"{number:05}.png").write_bytes(data[:100] if is_bad else data)
    return folder
