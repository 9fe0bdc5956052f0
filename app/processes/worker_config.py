"""The configuration of one HTTP worker: its share of the limits of the service. Knows no process and no socket."""

import math
from typing import NamedTuple

from app.batching.admission import BatcherLimits
from app.bundle.load import Bundle, Contents, contents
from app.processes.shared_memory import TensorLayout
from app.settings import Settings
from app.system.open_files import connections_within_limit

# Standard deviations above its share of connections that one worker accepts before it refuses. The kernel assigns
# connections to workers at random, so some workers get more than their share.
MAX_DEVIATIONS = 3


class WorkerConfig(NamedTuple):
    """What an HTTP worker gets from the engine process at its start, beside file descriptors."""

    settings: Settings
    bundle: Contents
    limits: BatcherLimits
    layout: TensorLayout
    decode_threads: int
    is_traced: bool  # whether the engine process records batches
    grpc_address: str | None  # the one that all workers share; None: no gRPC


def worker_config(
    settings: Settings,
    bundle: Bundle,
    limits: BatcherLimits,
    engines: int,
    *,
    http_workers: int,
    decode_threads: int,
    is_traced: bool,
    grpc_address: str | None = None,
) -> WorkerConfig:
    """Return what each of `http_workers` workers starts with; `decode_threads` is the number for one worker."""
    manifest = bundle.manifest

    def share(total: int) -> int:
        return -(-total // http_workers)

    shares = {
        "max_decode_queue_size": max(
            share(settings.max_decode_queue_size), min(settings.max_decode_queue_size, settings.max_client_batch_size)
        ),
        # This process has the same limit of open files as its workers.
        "max_connections": connections_within_limit(
            max_connections_of_one(settings.max_connections, http_workers), servers=1 if grpc_address is None else 2
        ),
        "max_uploads_mib": max(share(settings.max_uploads_mib), settings.max_body_mib),
    }
    layout = TensorLayout(
        # Images that wait, images that run, and results on their way back.
        slots=settings.max_queue_size + 2 * limits.max_batch * engines,
        pixels=(manifest.input_height, manifest.input_width, 3),
        classes=manifest.classes,
        tokens=(manifest.evidence.positions, manifest.evidence.channels),
    )
    own = settings.model_copy(update=shares)
    return WorkerConfig(own, contents(bundle), limits, layout, decode_threads, is_traced, grpc_address)


def max_connections_of_one(connections: int, http_workers: int) -> int:
    """Return the maximum number of connections of one worker, at most that of the service."""
    share = connections / http_workers
    return min(math.ceil(share + MAX_DEVIATIONS * math.sqrt(share)), connections)
