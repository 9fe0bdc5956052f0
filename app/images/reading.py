"""The way from an encoded image to the network's input, as the settings say. Knows no threads and no network."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Preprocessing
from app.images.decode import FORMATS, Limits, Picture, open_image, shrink, to_rgb
from app.images.preprocess import min_decoded_size, preprocess
from app.settings import Settings


@dataclass(frozen=True)
class ImageReader:
    """How images are decoded and preprocessed, and their limits."""

    preprocessing: Preprocessing
    limits: Limits
    convert_profiles: bool = True  # whether ICC profiles are converted to sRGB
    fast_decode: bool = False  # whether large JPEGs are decoded at a fraction of their size

    def pixels(self, data: bytes) -> NDArray[np.uint8]:
        """Return the pixels of an encoded image, (height, width, 3).

        Raises:
            UnsupportedImage, UnreadableImage, ImageTooLarge: see `decode_image`.
        """
        return preprocess(self.to_rgb(open_image(data, self.limits)), self.preprocessing)

    def to_rgb(self, image: Picture) -> Picture:
        """Decode an opened image, as large as preprocessing needs it.

        Raises:
            UnreadableImage: the data is truncated or corrupt.
        """
        if self.fast_decode:
            shrink(image, min_decoded_size(image.size, self.preprocessing))
        return to_rgb(image, follow_profile=self.convert_profiles)


def image_reader(settings: Settings, preprocessing: Preprocessing) -> ImageReader:
    """Return the reader of the settings, for the preprocessing of a bundle."""
    # Without AVIF, if this build of Pillow cannot read it.
    formats = tuple(name for name in settings.formats if name in FORMATS)
    return ImageReader(
        preprocessing,
        Limits(pixels=round(settings.max_megapixels * 1e6), formats=formats),
        convert_profiles=settings.color_profiles == "convert",
        fast_decode=settings.decode == "fast",
    )
