"""Golden samples: images whose pixels and logits are known, run on the device that will serve before it serves.

They catch what nothing else does: another Pillow that resamples differently, a driver that computes differently, a
provider that lost an operator.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from app.bundle import Bundle
from app.engine import Engine
from app.errors import BundleError, ServiceError
from app.image import MOST_PIXELS, Limits, open_image, to_rgb
from app.preprocess import preprocess


def check_golden(bundle: Bundle, engine: Engine) -> None:
    """Run every golden sample through the very path a request takes.

    Raises:
        BundleError: an image cannot be read, or becomes other pixels than at export.
        DeviceError: the logits on this device are not those the bundle promises.
    """
    pixels = np.stack([_pixels(bundle, index) for index in range(len(bundle.manifest.golden.samples))])
    engine.self_test(pixels, bundle.golden_logits, bundle.manifest.golden.tolerance)


def pixels_digest(pixels: NDArray[np.uint8]) -> str:
    """SHA-256 of pixels in raster order, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _pixels(bundle: Bundle, index: int) -> NDArray[np.uint8]:
    sample = bundle.manifest.golden.samples[index]
    try:
        image = to_rgb(open_image((bundle.folder / sample.file).read_bytes(), Limits(MOST_PIXELS)))
    except ServiceError as error:
        raise BundleError(f"golden sample {sample.file}: {error.detail}") from error
    pixels = preprocess(image, bundle.manifest.preprocessing)
    if pixels_digest(pixels) != sample.pixels_sha256:
        raise BundleError(
            f"golden sample {sample.file} becomes other pixels here than at export: is Pillow another one?"
        )
    return pixels
