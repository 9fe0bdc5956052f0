"""The self-test of a device: golden samples, images with known pixels and logits.

Every device runs them before it serves. The self-test finds errors that no other check finds:
another version of Pillow that resamples differently, a driver that computes differently, a provider
that lost an operator.
"""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.bundle.digests import pixels_digest
from app.bundle.load import Bundle
from app.bundle.manifest import GoldenSample
from app.errors import BundleError, ServiceError
from app.images.decode import Picture, decode_image
from app.images.preprocess import preprocess
from app.inference.engine import Engine, open_engine
from app.inference.session import Network
from app.system.device import CPU, Device

log = logging.getLogger("swin.start")


def open_verified(
    bundle: Bundle,
    device: Device,
    threads: int,
    buckets: Sequence[int],
    *,
    while_cheaper: bool = False,
    graphs: bool = True,
) -> Engine:
    """Open the bundle's network on this device, run the self-test, and warm the engine up.

    Args:
        bundle: with the network and its golden samples.
        device: where the network must run.
        threads: threads for one batch on the CPU.
        buckets: the batch sizes that will be run.
        while_cheaper: keep only the buckets that are worth their memory: see `Engine.warm_up`.
        graphs: see `open_engine`.

    Raises:
        DeviceError: the device is not there, or does not compute the logits that the bundle
            promises.
        BundleError: the bundle contradicts itself.
    """
    engine = open_unverified(bundle, device, threads, buckets, graphs=graphs)
    try:
        check_golden(bundle, engine)
        log.debug("golden samples agree")
        engine.warm_up(while_cheaper=while_cheaper)
        log.debug("warm")
        if device != CPU:  # on a GPU, each size has its own memory and perhaps its own graph
            check_golden(bundle, engine, engine.buckets)
    except BaseException:
        engine.close()
        raise
    return engine


def open_unverified(
    bundle: Bundle, device: Device, threads: int, buckets: Sequence[int], *, graphs: bool = True
) -> Engine:
    """Open the bundle's network on this device, without the self-test and without warm-up.

    Raises:
        DeviceError: the device is not there, or the network would not run on it.
        BundleError: the bundle contradicts itself.
    """
    manifest = bundle.manifest
    network = Network(
        bundle.model,
        input_size=(manifest.input_height, manifest.input_width),
        classes=manifest.classes,
        tokens=(manifest.evidence.positions, manifest.evidence.channels),
        half=manifest.precision == "fp16",
        others={name: copy.path for name, copy in bundle.others.items() if copy.size},  # an empty file has no weights
    )
    return open_engine(network, device, threads=threads, buckets=buckets, graphs=graphs)


def check_golden(bundle: Bundle, engine: Engine, sizes: Sequence[int] = (1,)) -> None:
    """Run every golden sample from its bytes to its logits, in batches of each of these sizes.

    Raises:
        BundleError: an image cannot be read, or decodes to different pixels than at export.
        DeviceError: the device does not compute the logits that the bundle promises.
    """
    pixels = golden_pixels(bundle)
    for size in sizes:
        engine.self_test(pixels, bundle.golden_logits, bundle.manifest.golden.tolerance, size)


def golden_pixels(bundle: Bundle) -> NDArray[np.uint8]:
    """Return the network's input for the golden samples: (samples, height, width, 3).

    Raises:
        BundleError: an image cannot be read, or decodes to different pixels than at export.
    """
    return np.stack([_pixels(bundle, sample) for sample in bundle.manifest.golden.samples])


def golden_pictures(bundle: Bundle) -> dict[str, Picture]:
    """Return the golden samples' images, RGB, by file name.

    Raises:
        BundleError: an image cannot be read.
    """
    return {name: _picture(name, content) for name, content in bundle.golden_images.items()}


def _picture(name: str, content: bytes) -> Picture:
    try:
        return decode_image(content)
    except ServiceError as error:
        raise BundleError(f"golden sample {name}: {error.detail}") from error


def _pixels(bundle: Bundle, sample: GoldenSample) -> NDArray[np.uint8]:
    image = _picture(sample.file, bundle.golden_images[sample.file])
    pixels = preprocess(image, bundle.manifest.preprocessing)
    if pixels_digest(pixels) != sample.pixels_sha256:
        raise BundleError(
            f"golden sample {sample.file} decodes to different pixels than at export; check the Pillow version"
        )
    return pixels
