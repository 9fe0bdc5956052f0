"""Benchmarks of the service, mostly over real sockets. Not part of the distribution."""

import os

# ONNX Runtime sends its first report while it is imported, unless this variable is set. Some benchmarks run other
# graphs and servers, which import it without the service's code.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
