"""Which engines serve: on what device, how many, with how many threads; and another in the place of one that failed."""

import contextlib
import logging
from collections.abc import Iterator, Sequence

from app.bundle.load import Bundle
from app.errors import DeviceError
from app.inference import cuda
from app.inference.engine import Engine
from app.inference.self_test import check_golden, open_proved
from app.inference.session import require_gpu_build
from app.settings import Settings
from app.system.cpus import available_cpus
from app.system.device import CPU, Device, devices

log = logging.getLogger("swin.start")

SMALL_SECONDS, MIN_GAIN = 0.01, 1.5
"""Networks that take less for an image are tried with one thread, too: two take a third more CPU time for theirs, or
more, and decoding wants it. Those that are not at least so many times as fast with all threads get one."""

ON_CPU, ON_GPU = 1, 2
"""Engines unless the setting says: a second one on a GPU is meant to copy its batch while the first computes."""


def open_engines(bundle: Bundle, settings: Settings) -> list[Engine]:
    """On each device asked for; for `auto` on all GPUs that prove themselves, or else on the CPU, saying why.

    Raises:
        DeviceError: a device that was asked for cannot be proved.
    """
    engines = list[Engine]()
    with _closed_on_failure(engines):
        if settings.device != "auto":
            for device in devices(settings.device):
                engines += _open_on(device, bundle, settings)
        else:
            for proven in _open_proven_gpus(bundle, settings):
                engines += proven
    return engines or _open_on(CPU, bundle, settings)


@contextlib.contextmanager
def _closed_on_failure(engines: Sequence[Engine]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for engine in engines:
            engine.close()
        raise


def _open_proven_gpus(bundle: Bundle, settings: Settings) -> Iterator[list[Engine]]:
    try:
        require_gpu_build()
        count = cuda.gpus()
    except DeviceError as error:
        log.info("no CUDA", extra={"device": "auto", "why": str(error)})
        return
    for index in range(count):
        try:
            yield _open_on(Device("cuda", index), bundle, settings)
        except DeviceError as error:
            log.warning("a GPU is left out", extra={"device": "auto", "gpu": index, "why": str(error)})


def _open_on(device: Device, bundle: Bundle, settings: Settings) -> list[Engine]:
    """All engines of one device: on the CPU they share a session, on a GPU each has its own stream, hence session."""
    if device == CPU:
        engine = _open_on_cpu(bundle, settings)
        return [engine, *(engine.sibling() for _ in range((settings.instances_per_device or ON_CPU) - 1))]
    threads, buckets = settings.threads or 1, _buckets(settings)
    first = open_proved(bundle, device, threads, buckets, while_cheaper=True, graphs=settings.cuda_graphs)
    engines = [first]
    with _closed_on_failure(engines):
        for _ in range((settings.instances_per_device or ON_GPU) - 1):
            engines.append(_like(bundle, first, graphs=settings.cuda_graphs))  # noqa: PERF401 (what was opened before a failure is closed)
    return engines


def _open_on_cpu(bundle: Bundle, settings: Settings) -> Engine:
    """With the threads asked for; else with all there are, unless the network is too small to gain by them."""
    threads, buckets = (
        settings.threads or max(available_cpus() // (settings.instances_per_device or ON_CPU), 1),
        _buckets(settings),
    )
    engine = open_proved(bundle, CPU, threads, buckets, while_cheaper=True)
    if settings.threads or threads == 1 or engine.image_seconds > SMALL_SECONDS:
        return engine
    alone = open_proved(bundle, CPU, 1, buckets, while_cheaper=True)
    return alone if alone.image_seconds < MIN_GAIN * engine.image_seconds else engine


def another(bundle: Bundle, engines: Sequence[Engine], failed: Engine) -> Engine:
    """In the place of one that failed, on its device: on the CPU on a session that another was restarted with.

    So what several engines shared and lost is in memory once more, not once for each of them. On a GPU without graphs,
    if other engines run meanwhile: while ONNX Runtime records one, no thread of the process may ask CUDA for anything.

    Raises:
        StartError: the device, or the bundle, is not what it was.
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
    return _like(bundle, failed, graphs=failed.device_report.graphs and len(engines) == 1)


def _like(bundle: Bundle, engine: Engine, *, graphs: bool) -> Engine:
    """One more as this one, on a session of its own."""
    return open_proved(bundle, engine.device_report.device, engine.device_report.threads, engine.buckets, graphs=graphs)


def _buckets(settings: Settings) -> list[int]:
    """Powers of two, and the largest batch itself."""
    largest = min(settings.max_batch, settings.max_queue_size)
    return [*(1 << power for power in range((largest - 1).bit_length())), largest]
