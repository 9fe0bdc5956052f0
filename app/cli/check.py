"""`swin-serve check`: all that a start proves, told to people, and no service."""

from collections.abc import Iterator

from app.bundle.load import load_bundle
from app.inference.engine import Engine
from app.inference.pool import open_engines
from app.settings import Settings


def facts(settings: Settings) -> Iterator[str]:
    """A line for each, once it is proved.

    Raises:
        StartError: in one sentence, why a service could not start.
    """
    bundle = load_bundle(settings.bundle)
    yield f"bundle   {bundle.manifest.name}, {bundle.manifest.precision}"
    engines = open_engines(bundle, settings)
    try:
        for engine in engines:
            yield from _facts(engine)
    finally:
        for engine in engines:
            engine.close()


def _facts(engine: Engine) -> Iterator[str]:
    device_report = engine.device_report
    yield f"engine   {device_report.device}, golden samples agree"
    yield from (f"nodes    {count} on {provider}" for provider, count in device_report.nodes.items())
    if device_report.gpu:
        yield f"gpu      {device_report.gpu.name}"
        yield f"driver   {device_report.gpu.driver or 'of unknown version'}, for CUDA up to {device_report.gpu.driver_cuda}"
        yield f"cuda     {device_report.gpu.cuda or 'not loaded'}, cuDNN {device_report.gpu.cudnn or 'not loaded'}"
        yield f"graphs   {'on' if device_report.graphs else 'off'}"
    yield f"runtime  ONNX Runtime {device_report.runtime}"
    yield f"threads  {device_report.threads}"
    yield from (f"batch    {size} in {seconds * 1e3:.2f} ms" for size, seconds in engine.bucket_seconds.items())
