"""The classifier that the settings ask for, in front of a batcher."""

from app.batching.types import Queue
from app.bundle.load import Contents
from app.classification.classifier import Classifier, ClassifierConfig
from app.classification.decoding import Decoder, DecoderConfig
from app.images.decode import FORMATS, Limits, configure_pillow
from app.observability.metrics import Metrics
from app.settings import Settings


def open_classifier(
    settings: Settings, contents: Contents, batcher: Queue, decode_threads: int, metrics: Metrics
) -> Classifier:
    """Return a classifier of a network that `batcher` runs. Close its decoder at the end.

    Args:
        settings: how images are decoded, and the limits.
        contents: labels, preprocessing and last layer of the network.
        batcher: runs the network.
        decode_threads: threads of the decode pool.
        metrics: counts the busy seconds of these threads, and cancelled images.
    """
    configure_pillow()
    manifest = contents.manifest
    decoder = Decoder(
        DecoderConfig(
            preprocessing=manifest.preprocessing,
            limits=Limits(
                pixels=round(settings.max_megapixels * 1e6),
                # Without AVIF, if this build of Pillow cannot read it.
                formats=tuple(name for name in settings.formats if name in FORMATS),
            ),
            convert_profiles=settings.color_profiles == "convert",
            fast_decode=settings.decode == "fast",
            threads=decode_threads,
            max_queue_size=settings.max_decode_queue_size,
        ),
        on_cancel=lambda stage: metrics.cancelled.labels(stage).inc(),
        on_busy=metrics.decode_busy_seconds.inc,
    )
    config = ClassifierConfig(
        labels=contents.labels, activation=manifest.activation, head=contents.head, last_map=manifest.evidence
    )
    return Classifier(batcher, decoder, config)
