"""Comparison of swin-serve, libvips and OpenCV on generated images of every kind.

`python -m tests.differential` compares the whole matrix, which takes minutes. `--count` compares
some of each format.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyvips
from numpy.typing import NDArray

from app.errors import ServiceError, UnsupportedImage
from app.images.decode import Limits, open_image, to_rgb
from tests.differential import bmp, gif, jpeg, png, tiff
from tests.differential.matrix import Case

Pixels = NDArray[Any]

MATRICES: Mapping[str, Any] = {
    "tiff": tiff,
    "png": png,
    "bmp": bmp,
    "gif": gif,
    "jpeg": jpeg,
}
LIMITS = Limits(pixels=1_000_000)

# The largest mean difference of two decoders, in levels of 255. They round and enlarge the chroma
# of a JPEG differently.
MAX_DIFFERENCE = 3


class Rule(NamedTuple):
    """Kinds that both references decode to other pixels, and the reason why swin-serve is right."""

    reason: str
    covers: Callable[[str, Mapping[str, Any]], bool]


EXCEPTIONS: Mapping[str, Rule] = {
    "TIFF with an extra sample of unspecified meaning": Rule(
        "TIFF 6.0 (ExtraSamples = 0) does not call the sample alpha, so it is ignored. "
        "The references take it for alpha.",
        lambda name, kind: name == "tiff" and kind["alpha"] == "x",
    ),
}


class Finding(NamedTuple):
    """A case with a wrong result."""

    case: Case
    what: str


def served(data: bytes) -> Pixels | ServiceError:
    """Return the pixels that swin-serve decodes, or its refusal."""
    try:
        return np.asarray(to_rgb(open_image(data, LIMITS))).astype(int)
    except ServiceError as error:
        return error


def by_libvips(data: bytes) -> Pixels | None:
    """Return the pixels that libvips decodes, upright and over white, or None if it cannot read the file."""
    try:
        image = pyvips.Image.new_from_buffer(data, "").autorot()
        image = image.colourspace("srgb") if image.interpretation != "multiband" else image
        image = image.flatten(background=255) if image.hasalpha() else image
        image = image.bandjoin([image, image]) if image.bands == 1 else image
        pixels: Pixels = image.cast("uchar").numpy()[..., :3].astype(int)
    except pyvips.Error:
        return None
    return pixels


def by_opencv(data: bytes) -> Pixels | None:
    """Return the pixels that OpenCV decodes, over white.

    Return None if it cannot read the file, or takes alpha for a second gray.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None or pixels.dtype not in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        return None
    levels = pixels.astype(float) / (257 if pixels.dtype == np.uint16 else 1)
    levels = levels[..., None].repeat(3, -1) if levels.ndim == 2 else levels
    if levels.shape[-1] == 4:
        alpha = levels[..., 3:] / 255
        levels = levels[..., :3] * alpha + 255 * (1 - alpha)
    return levels[..., ::-1] if levels.shape[-1] == 3 else None


def are_alike(left: Pixels, right: Pixels) -> bool:
    """Return whether two images have the same size and a mean difference of at most `MAX_DIFFERENCE`."""
    return left.shape == right.shape and float(np.abs(left.astype(float) - right).mean()) <= MAX_DIFFERENCE


def examined(name: str, case: Case) -> tuple[str, Finding | None]:
    """Return the result (`agreed`, `alone`, `refused`, `wrong` or an exception), and the finding if any."""
    decoded = served(case.data)
    if isinstance(decoded, ServiceError):
        is_named = isinstance(decoded, UnsupportedImage) and name.upper() in decoded.detail
        return "refused", None if is_named else Finding(case, f"{decoded.code}: {decoded.detail}")
    if not are_alike(decoded, case.shown):
        return "wrong", Finding(case, "other pixels than were encoded")
    vips, opencv = by_libvips(case.data), by_opencv(case.data)
    if vips is None or opencv is None or not are_alike(vips, opencv):
        return "alone", None  # the references disagree
    if are_alike(decoded, vips):
        return "agreed", None
    rule = next((title for title, rule in EXCEPTIONS.items() if rule.covers(name, case.kind)), "")
    return rule or "wrong", None if rule else Finding(case, "other pixels than libvips and OpenCV agree on")


def cases(name: str, count: int | None = None, seed: int = 0) -> Iterator[Case]:
    """Return all cases of a format, or a random sample of `count` cases."""
    matrix = MATRICES[name]
    kinds = list(matrix.kinds())
    if count is not None and count < len(kinds):
        kinds = Random(seed).sample(kinds, count)
    return (matrix.make(kind) for kind in kinds)


def run(name: str, count: int | None = None, seed: int = 0) -> tuple[Counter[str], list[Finding]]:
    """Return the counts of results for a format, and the findings."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    results = [examined(name, case) for case in cases(name, count, seed)]
    return Counter(result for result, _ in results), [finding for _, finding in results if finding]


def main() -> int:
    """Return 1 if there is a finding or an exception without a case, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--count", type=int, help="number of kinds to compare of each format (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    every, is_wrong = Counter[str](), False
    for name in MATRICES:
        counts, findings = run(name, options.count, options.seed)
        every += counts
        is_wrong |= bool(findings)
        print(f"{name}: {counts.total()} files, {', '.join(f'{number} {what}' for what, number in counts.items())}")
        for finding in findings[:20]:
            print(f"  {finding.case.name}: {finding.what}")
    unused = EXCEPTIONS.keys() - every.keys() if options.count is None else set()
    for title in unused:
        print(f"no file needs the exception: {title}")
    return 1 if is_wrong or unused else 0
