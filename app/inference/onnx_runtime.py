"""ONNX Runtime, loaded as this service wants it: it reports nothing to its maker, and only errors on stderr."""

import os

# It reports its use from the moment it is imported, unless this is set before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

onnxruntime.set_default_logger_severity(3)  # errors: why a provider does not load is said nowhere else

__all__ = ["onnxruntime"]
