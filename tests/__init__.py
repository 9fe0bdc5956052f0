"""Tests, in packages with the names of the code: `tests/batching/test_batcher.py` tests `app/batching/batcher.py`."""

import os

# torch's threads spin while they wait for each other. Beside other processes, an epoch of the demonstration's training
# then takes nine times the CPU time and eight times as long. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# ONNX Runtime sends its first report while it is imported, unless this variable is set. Tests import it in any order.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
