"""CPU time that `decode=fast` saves, and how often it changes the best class.

    python -m benchmarks.behavior.decoding [--bundle DIR]

For the demonstration bundle, the images are all scanned digits, enlarged to JPEGs. For another
bundle, they are photos in several sizes: those of `--photos DIR`, or drawn ones. The figures are CPU
milliseconds of decoding and preprocessing an image, one after the other.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.bundle.load import Bundle, load_bundle
from app.images.decode import MAX_PIXELS, Limits, open_image, shrink, to_rgb
from app.images.preprocess import min_decoded_size, preprocess
from app.inference.self_test import open_unverified
from app.settings import DEMO_BUNDLE
from app.system.device import CPU
from benchmarks.load.images import encode
from benchmarks.load.record import record
from model_export.demo import digits
from tests.references.draw import draw_picture

# Lengths of the longer side of the images, in pixels.
SIDES = {"digits": (64, 128, 256, 512), "photos": (500, 1024, 2048, 4096)}

# Number of drawn images.
DRAWN = 40
LIMITS = Limits(MAX_PIXELS)


@dataclass(frozen=True)
class Line:
    """Figures of images of one size: a line of the table."""

    longer_side: int
    images: int
    exact_ms: float
    fast_ms: float
    other_best_class: int  # images with a changed best class
    other_logits: float  # median of the maximum difference of an image's logits, relative to their range


def main() -> int:
    """Measure, print and record. Return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behavior.decoding", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=DEMO_BUNDLE)
    parser.add_argument(
        "--photos", type=Path, metavar="DIR", help="folder of images to resize (default: drawn pictures)"
    )
    args = parser.parse_args()
    kind = "digits" if args.bundle == DEMO_BUNDLE else "photos"
    images = [image for part in digits() for image in part.images] if kind == "digits" else _photos(args.photos)
    bundle = load_bundle(args.bundle)
    print("longer side   images   exact ms   fast ms   other best class   other logits")
    lines = [_compare(bundle, images, side) for side in SIDES[kind]]
    record(f"decoding-{kind}", {"bundle": bundle.manifest.name, "sizes": [asdict(line) for line in lines]})
    return 0


def _photos(folder: Path | None) -> Sequence[Image.Image]:
    if folder is None:
        return [draw_picture(1000, 750, seed) for seed in range(DRAWN)]
    return [Image.open(path).convert("RGB") for path in sorted(folder.iterdir())]


def _compare(bundle: Bundle, images: Sequence[Image.Image], side: int) -> Line:
    engine = open_unverified(bundle, CPU, 1, [1])
    seconds, differences, changed = np.zeros(2), list[float](), 0
    for image in images:
        data = _enlarged(image, side)
        logits = list[NDArray[np.float32]]()
        for mode, is_fast in enumerate((False, True)):
            started = time.thread_time()
            pixels = _pixels(data, bundle, is_fast=is_fast)
            seconds[mode] += time.thread_time() - started
            logits.append(engine.run(pixels[None])[0])
        exact, fast = logits
        changed += int(exact.argmax() != fast.argmax())
        differences.append(float(np.abs(exact - fast).max() / np.ptp(exact)))
    exact_ms, fast_ms = seconds / len(images) * 1e3
    line = Line(side, len(images), round(exact_ms, 2), round(fast_ms, 2), changed, round(median(differences), 5))
    print("{:11}{:9}{:11.2f}{:10.2f}{:19}{:15.5f}".format(*asdict(line).values()), flush=True)
    return line


def _enlarged(image: Image.Image, side: int) -> bytes:
    scale = side / max(image.size)
    return encode(
        image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC), "JPEG"
    )


def _pixels(data: bytes, bundle: Bundle, *, is_fast: bool) -> NDArray[Any]:
    image, recipe = open_image(data, LIMITS), bundle.manifest.preprocessing
    if is_fast:
        shrink(image, min_decoded_size(image.size, recipe))
    return preprocess(to_rgb(image), recipe)


if __name__ == "__main__":
    raise SystemExit(main())
