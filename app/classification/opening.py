"""The classifier that the settings ask for, in front of a batcher."""

from app.batching.types import Queue
from app.bundle.load import Contents
from app.classification.classifier import Classifier, ClassifierConfig
from app.classification.decoding import Decoder, DecoderConfig
from app.images.decode import configure_pillow
from app.images.reading import image_reader
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
        DecoderConfig(image_reader(settings, manifest.preprocessing), decode_threads, settings.max_decode_queue_size),
        on_cancel=lambda stage: metrics.cancelled.labels(stage).inc(),
        on_busy=metrics.decode_busy_seconds.inc,
    )
    config = ClassifierConfig(
        labels=contents.labels, activation=manifest.activation, head=contents.head, last_map=manifest.evidence
    )
    return Classifier(batcher, decoder, config)
