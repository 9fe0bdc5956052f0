# /// script
# dependencies = [
#     "torchserve==0.12.0", "torch-model-archiver==0.12.0", "torch==2.13.0", "pyyaml==6.0.3",
#     "onnxruntime==1.31.1", "numpy==2.4.6", "pillow==13.0.0",
# ]
# ///
"""TorchServe: a server in Java that sends batches to worker processes. It needs a Java runtime.

This file is also the handler that torch-model-archiver packs with the model.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ts.torch_handler.base_handler import BaseHandler

from benchmarks.comparison.baselines.network import CPUS, MAX_BATCH, PORT, Network, Recipe

SETTINGS = f"""\
inference_address=http://127.0.0.1:{PORT}
management_address=http://127.0.0.1:{{management}}
metrics_address=http://127.0.0.1:{{metrics}}
grpc_inference_port={{inference_grpc}}
grpc_management_port={{management_grpc}}
disable_token_authorization=true
enable_envvars_config=false
"""
MODEL_SETTINGS = f"""\
minWorkers: {CPUS}
maxWorkers: {CPUS}
batchSize: {MAX_BATCH}
maxBatchDelay: 1
"""
LOGGING = """\
<Configuration><Loggers><Root level="error"/></Loggers></Configuration>
"""


class Classify(BaseHandler):
    """One worker for each core. It decodes images and runs the network."""

    def initialize(self, context: Any) -> None:  # noqa: ARG002 (MODEL names the folder of the model)
        """Load the network at the start of the worker."""
        self.recipe, self.network, self.initialized = Recipe(), Network(threads=1), True

    def preprocess(self, data: Sequence[Mapping[str, bytes]]) -> list[NDArray[np.uint8]]:
        """Return the pixels of each image, (height, width, 3)."""
        return [self.recipe.read(row.get("data") or row["body"]) for row in data]

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002 (the signature of its base class)
        """Return the predictions of a batch."""
        return self.network.classify(data)

    def postprocess(self, data: Any) -> Any:
        """Return the predictions: one element per image."""
        return data


def serve(folder: Path) -> int:
    """Archive the handler, run the server until it ends, and return its exit code."""
    (folder / "model.yaml").write_text(MODEL_SETTINGS)
    (folder / "log4j2.xml").write_text(LOGGING)
    ports = {
        name: PORT + step for step, name in enumerate(["management", "metrics", "inference_grpc", "management_grpc"], 1)
    }
    (folder / "config.properties").write_text(SETTINGS.format(**ports))
    tools = Path(sys.executable).parent
    archive = ["--model-name", "swin", "--version", "1", "--handler", __file__, "--export-path", str(folder)]
    archive += ["--config-file", str(folder / "model.yaml")]
    subprocess.run([tools / "torch-model-archiver", *archive], check=True)  # noqa: S603 (a tool of this environment)
    run = ["--start", "--foreground", "--model-store", str(folder), "--models", "swin=swin.mar"]
    run += ["--ts-config", str(folder / "config.properties"), "--disable-token-auth"]
    run += ["--log-config", str(folder / "log4j2.xml")]
    variables = {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(Path.cwd()), "LOG_LOCATION": str(folder)}
    environment = os.environ | variables
    return subprocess.run([tools / "torchserve", *run], check=False, env=environment).returncode  # noqa: S603 (likewise)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as store:
        sys.exit(serve(Path(store)))
