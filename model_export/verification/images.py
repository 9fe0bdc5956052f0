"""The images of the golden samples: what the proof compares on, and what the service must reproduce at every start.

They are kept as PNG, and not too large: lossless, so their pixels do not depend on which JPEG decoder a machine has.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from app.bundle.manifest import Preprocessing
from app.errors import ServiceError, UnsupportedImage
from app.images.decode import decode_image
from app.images.preprocess import preprocess
from model_export.errors import RequestError

MAX_IMAGES = 8
LONGEST_SIDE = 640
SHAPES = {"landscape": (320, 240), "portrait": (210, 290), "panorama": (400, 130), "small": (48, 48)}
"""(width, height); odd margins, upscaling and downscaling all occur."""

Images = Mapping[str, Image.Image]


def from_folder(folder: Path, most: int = MAX_IMAGES) -> Images:
    """The first images of a folder by name, RGB, shrunk to `LONGEST_SIDE`.

    Raises:
        RequestError: there is none, or one cannot be read.
    """
    if not folder.is_dir():
        raise RequestError(f"there is no folder {folder}")
    images: dict[str, Image.Image] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            image = decode_image(path.read_bytes())
        except UnsupportedImage:
            continue  # a README, a .DS_Store
        except ServiceError as error:
            raise RequestError(f"{path}: {error.detail}") from error
        except OSError as error:
            raise RequestError(f"cannot read {path}: {error.strerror}") from error
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        images[path.stem if path.stem not in images else path.name] = image
        if len(images) == most:
            break
    if not images:
        raise RequestError(f"there is no image in {folder}")
    return images


def generated(sets: int = 1) -> Images:
    """Pictures for when nobody gives any, one of each shape in a set: smooth colors with hard-edged shapes on them."""
    images = {}
    for seed in range(sets):
        random = np.random.default_rng(seed)
        for name, size in SHAPES.items():
            images[f"{name}-{seed}" if seed else name] = _picture(random, *size)
    return images


def pixels_of(images: Images, recipe: Preprocessing) -> NDArray[np.uint8]:
    """What the network gets to see of them: (images, height, width, 3)."""
    return np.stack([preprocess(image, recipe) for image in images.values()])


def _picture(random: np.random.Generator, width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = random.uniform(1, 9, (3, 2)) * 2 * np.pi
    channels = [127.5 + 127.5 * np.sin(across * x + down * y) for across, down in waves]
    image = Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        corners = random.integers(0, (width, height), (2, 2))
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        color = tuple(int(value) for value in random.integers(0, 256, 3))
        draw = pen.ellipse if random.integers(2) else pen.rectangle
        draw((int(left), int(top), int(right), int(bottom)), fill=color)
    return image
