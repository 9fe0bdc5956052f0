"""The images of the verification and the golden samples.

The service must reproduce the logits of the golden samples at every start. The samples are stored as small PNG files:
PNG is lossless, so the pixels do not depend on the JPEG decoder of a machine.
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

# Maximum number of golden samples.
MAX_IMAGES = 8
# Maximum side of a golden sample, in pixels.
LONGEST_SIDE = 640
# Name → (width, height) of the generated images, in pixels. Odd margins, upscaling and downscaling all occur.
SHAPES = {"landscape": (320, 240), "portrait": (210, 290), "panorama": (400, 130), "small": (48, 48)}

Images = Mapping[str, Image.Image]


def read_images(folder: Path, max_images: int = MAX_IMAGES) -> Images:
    """Read the first images of a folder, sorted by name, as RGB, and shrink them to `LONGEST_SIDE`.

    Files that are not images are skipped.

    Raises:
        RequestError: the folder contains no image, or an image cannot be read.
    """
    if not folder.is_dir():
        raise RequestError(f"there is no folder {folder}")
    images: dict[str, Image.Image] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            image = decode_image(path.read_bytes())
        except UnsupportedImage:
            continue  # for example a README or a .DS_Store
        except ServiceError as error:
            raise RequestError(f"{path}: {error.detail}") from error
        except OSError as error:
            raise RequestError(f"cannot read {path}: {error.strerror}") from error
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        images[path.stem if path.stem not in images else path.name] = image
        if len(images) == max_images:
            break
    if not images:
        raise RequestError(f"there is no image in {folder}; give another folder")
    return images


def generate_images(sets: int = 1) -> Images:
    """Draw images to use if none are given: smooth colors with hard-edged shapes. A set has one image per `SHAPES`."""
    images = {}
    for seed in range(sets):
        random = np.random.default_rng(seed)
        for name, size in SHAPES.items():
            images[f"{name}-{seed}" if seed else name] = _picture(random, *size)
    return images


def preprocess_images(images: Images, recipe: Preprocessing) -> NDArray[np.uint8]:
    """Preprocess the images to the input of the network, `(images, height, width, 3)`."""
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
