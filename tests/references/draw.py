"""Random weights and images that are equal on every machine.

The weights come from the legacy generator of numpy, which has a frozen stream. The seed is the name of the parameter.
"""

import math
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def draw(name: str, shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """Draw a parameter. Its scale is so large that attention, masks and position biases all change the logits.

    The numbers are uniform: normal numbers for 200 million parameters would take longer than running the network.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()) ^ seed)
    noise: NDArray[np.float32] = (random.random_sample(shape).astype(np.float32) - 0.5) * 12**0.5  # variance 1
    scale, offset = _spread(name, shape)
    noise *= scale
    noise += offset
    return noise


def _spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return the standard deviation and the mean of a parameter."""
    if name.endswith("bias_table"):
        return 2, 0
    if name.endswith("logit_scale"):
        return 1.5, 2.5  # some heads exceed the clamp at log 100
    if "norm" in name and name.endswith("weight"):
        return 0.2, 1
    return ((2 / math.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.2), 0


def draw_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw an image with smooth parts and edges, different for each seed."""
    random = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = random.uniform(2, 40, (3, 2))
    levels = np.stack([np.sin(across * x + down * y) for across, down in waves], axis=-1)
    levels[: height // 3, : width // 2] = random.uniform(-1, 1, 3)
    return Image.fromarray((127.5 + 127.5 * levels).astype(np.uint8))


def draw_pixels(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Draw images of enlarged coarse noise: `(count, height, width, 3)`."""
    random = np.random.RandomState(0)
    coarse = random.randint(0, 256, (count, -(-height // 8), -(-width // 8), 3)).astype(np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
