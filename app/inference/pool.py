"""The engines that serve: their devices, number and threads, and replacements after a failure.

Knows no queue: the batcher decides when an engine has failed.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from app.bundle.load import Bundle
from app.errors import DeviceError
from app.inference import cuda
from app.inference.engine import Engine
from app.inference.self_test import check_golden, open_verified
from app.inference.session import require_gpu_build
from app.settings import Settings
from app.system.cpus import available_cpus
from app.system.device import CPU, Device, devices

log = logging.getLogger("swin.start")

# Networks that take at most so many seconds for an image are also tried with one thread. With two
# threads they need a third more CPU time or more, and decoding needs this CPU time too.
SMALL_NETWORK_SECONDS = 0.01

# A small network gets all threads only if they make it at least so many times as fast as one
# thread.
MIN_SPEEDUP = 1.5

# The engines of a device, unless `instances_per_device` is set. The second engine of a GPU is meant
# to copy its batch while the first one computes.
CPU_INSTANCES, GPU_INSTANCES = 1, 2


class Buckets(NamedTuple):
    """The batch sizes to open an engine for."""

    sizes: Sequence[int]
    while_cheaper: bool  # see `Engine.warm_up`


def open_engines(bundle: Bundle, settings: Settings, *, batch: int | None = None) -> list[Engine]:
    """Open the engines of every device in `settings.device`.

    With `auto`, open those of every GPU that passes the self-test, and log why another GPU is not
    used. If there is none, use the CPU.

    Args:
        bundle: with the network.
        settings: the devices, and the number of engines and threads.
        batch: the only batch size to be warm for, beside 1. None: all sizes up to
            `settings.max_batch` that make an image cheaper.

    Raises:
        DeviceError: a device that the setting names, or the CPU, does not pass the self-test.
    """
    engines = list[Engine]()
    buckets = _measured_buckets(settings) if batch is None else Buckets(sorted({1, batch}), while_cheaper=False)
    with _close_on_failure(engines):
        if settings.device != "auto":
            for device in devices(settings.device):
                engines += _open_on(device, bundle, settings, buckets)
        else:
            for on_gpu in _open_on_gpus(bundle, settings, buckets):
                engines += on_gpu
            if not engines:
                engines += _open_on(CPU, bundle, settings, buckets)
    return engines


@contextlib.contextmanager
def _close_on_failure(engines: Sequence[Engine]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for engine in engines:
            engine.close()
        raise


def _open_on_gpus(bundle: Bundle, settings: Settings, buckets: Buckets) -> Iterator[list[Engine]]:
    try:
        require_gpu_build()
        count = cuda.gpu_count()
    except DeviceError as error:
        log.info("no GPU can be used", extra={"device": "auto", "why": str(error)})
        return
    for index in range(count):
        try:
            yield _open_on(Device("cuda", index), bundle, settings, buckets)
        except DeviceError as error:
            log.warning("a GPU is not used", extra={"device": "auto", "gpu": index, "why": str(error)})


def _open_on(device: Device, bundle: Bundle, settings: Settings, buckets: Buckets) -> list[Engine]:
    """Open all engines of one device.

    Engines on the CPU share a session. An engine on a GPU has a session of its own, because a
    session has one stream.
    """
    if device == CPU:
        engine = _open_on_cpu(bundle, settings, buckets)
        return [engine, *(engine.sibling() for _ in range((settings.instances_per_device or CPU_INSTANCES) - 1))]
    sizes, while_cheaper = buckets
    first = open_verified(
        bundle, device, settings.threads or 1, sizes, while_cheaper=while_cheaper, graphs=settings.cuda_graphs
    )
    engines = [first]
    with _close_on_failure(engines):
        for _ in range((settings.instances_per_device or GPU_INSTANCES) - 1):
            engines.append(_open_like(bundle, first, graphs=settings.cuda_graphs))  # noqa: PERF401 (on a failure, the engines opened so far are closed)
    return engines


def _open_on_cpu(bundle: Bundle, settings: Settings, buckets: Buckets) -> Engine:
    """Open an engine with the threads of the setting.

    By default, the engine gets a thread for each CPU, unless the network is too small to gain by
    it.
    """
    instances = settings.instances_per_device or CPU_INSTANCES
    threads = settings.threads or max(available_cpus() // instances, 1)
    engine = open_verified(bundle, CPU, threads, buckets.sizes, while_cheaper=buckets.while_cheaper)
    if settings.threads or threads == 1 or engine.image_seconds > SMALL_NETWORK_SECONDS:
        return engine
    with_one_thread = open_verified(bundle, CPU, 1, buckets.sizes, while_cheaper=buckets.while_cheaper)
    return with_one_thread if with_one_thread.image_seconds < MIN_SPEEDUP * engine.image_seconds else engine


def open_replacement(bundle: Bundle, engines: Sequence[Engine], failed: Engine) -> Engine:
    """Open an engine in the place of one that failed, on its device.

    On the CPU, the replacement joins the session of a replacement that was opened before. So a
    session that several engines shared and lost is in memory once more, not once for each engine.

    On a GPU, the replacement uses no CUDA graphs if other engines run meanwhile: while ONNX Runtime
    records a graph, no other thread of the process may call CUDA.

    Raises:
        StartError: the device or the bundle has changed since the start.
    """
    for engine in engines:
        if (
            failed.device_report.device == CPU
            and engine.device_report == failed.device_report
            and not engine.shares_session(failed)
        ):
            sibling = engine.sibling()
            check_golden(bundle, sibling)
            return sibling
    return _open_like(bundle, failed, graphs=failed.device_report.graphs and len(engines) == 1)


def _open_like(bundle: Bundle, engine: Engine, *, graphs: bool) -> Engine:
    """Open an engine as `engine` was opened, on a session of its own."""
    report = engine.device_report
    return open_verified(bundle, report.device, report.threads, engine.buckets, graphs=graphs)


def _measured_buckets(settings: Settings) -> Buckets:
    """Return the powers of two below the largest batch, and the largest batch itself."""
    largest = min(settings.max_batch, settings.max_queue_size)
    return Buckets([*(1 << power for power in range((largest - 1).bit_length())), largest], while_cheaper=True)
