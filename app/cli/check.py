"""`swin-serve check`: verify a bundle and its devices as a start does, and print the findings. Serves nothing."""

from collections.abc import Iterator

from app.bundle.load import load_bundle
from app.inference.engine import Engine
from app.inference.pool import open_engines
from app.settings import Settings


def facts(settings: Settings) -> Iterator[str]:
    """Yield one line for each fact, once it is verified.

    Raises:
        StartError: the service could not start with these settings.
    """
    bundle = load_bundle(settings.bundle)
    yield f"bundle   {bundle.manifest.name}, {bundle.manifest.precision}"
    engines = open_engines(bundle, settings)
    try:
        for engine in engines:
            yield from _facts_of(engine)
    finally:
        for engine in engines:
            engine.close()


def _facts_of(engine: Engine) -> Iterator[str]:
    report = engine.device_report
    yield f"engine   {report.device}, golden samples agree"
    yield from (f"nodes    {count} on {provider}" for provider, count in report.nodes.items())
    if report.gpu:
        yield f"gpu      {report.gpu.name}"
        yield f"driver   {report.gpu.driver or 'of unknown version'}, for CUDA up to {report.gpu.driver_cuda}"
        yield f"cuda     {report.gpu.cuda or 'not loaded'}, cuDNN {report.gpu.cudnn or 'not loaded'}"
        yield f"graphs   {'on' if report.graphs else 'off'}"
    yield f"runtime  ONNX Runtime {report.runtime}"
    yield f"threads  {report.threads}"
    yield from (f"batch    {size} in {seconds * 1e3:.2f} ms" for size, seconds in engine.bucket_seconds.items())
