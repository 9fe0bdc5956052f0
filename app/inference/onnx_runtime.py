"""ONNX Runtime, loaded at its first use, without telemetry.

Importing `app.inference` changes no global state; `load` does.
"""

import os
from functools import cache
from types import ModuleType

from app.errors import StartError

# The severity of errors in ONNX Runtime: 0 is verbose, 4 is fatal.
ERROR_SEVERITY = 3


@cache
def load() -> ModuleType:
    """Return the module `onnxruntime`, configured: telemetry is off, and only errors go to stderr.

    Raises:
        StartError: ONNX Runtime is not installed.
    """
    # ONNX Runtime sends its first report while it is imported, unless this variable is set before.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime  # noqa: PLC0415 (importing it loads a library and, by default, starts telemetry)
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise StartError("ONNX Runtime is not installed: pip install 'swin-serve[cpu]', or [gpu]") from error
    # Errors stay on: the reason why a provider does not load appears on stderr only.
    onnxruntime.set_default_logger_severity(ERROR_SEVERITY)
    module: ModuleType = onnxruntime
    return module
