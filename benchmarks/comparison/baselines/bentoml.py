# /// script
# dependencies = ["bentoml==1.4.39", "onnxruntime==1.31.1", "numpy==2.4.6", "pillow==13.0.0"]
# ///
"""BentoML with a worker process for each core, without batches: these need lists of files, not a raw body."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType

from benchmarks.comparison.baselines.network import CPUS, PORT, Network, Recipe


@bentoml.service(workers=CPUS, traffic={"timeout": 60, "max_concurrency": 64}, logging={"access": {"enabled": False}})
class Classify:
    """A service that decodes and runs one image at a time in each of its threads."""

    def __init__(self) -> None:
        self.recipe, self.network = Recipe(), Network(threads=1)

    @bentoml.api(route="/classify")
    def classify(self, image: Annotated[Path, ContentType("image/*")], /) -> dict[str, Any]:
        """Return the predictions of the image in the request body."""
        return dict(self.network.classify([self.recipe.read(image.read_bytes())])[0])


if __name__ == "__main__":
    program = str(Path(sys.executable).with_name("bentoml"))
    address = ["--host", "127.0.0.1", "--port", str(PORT)]
    os.environ["BENTOML_DO_NOT_TRACK"] = "1"
    os.execv(program, [program, "serve", "benchmarks.comparison.baselines.bentoml:Classify", *address])  # noqa: S606 (the program of this environment)
