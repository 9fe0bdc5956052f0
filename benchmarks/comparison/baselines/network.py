"""Decoding, preprocessing and inference of the baselines: Pillow, numpy and ONNX Runtime, without swin-serve.

Two environment variables configure it. `MODEL` is a folder with `plain.onnx`, `recipe.json` and
`labels.json` (see `benchmarks/model/workload_models.py`). `PORT` is the port of the server.
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

MODEL = Path(os.environ.get("MODEL", "."))
PORT = int(os.environ.get("PORT", "8000"))
MAX_BATCH = 8
CPUS = len(os.sched_getaffinity(0))
TOP = 5


class Recipe:
    """The preprocessing of the checkpoint without normalization: RGB, resize, center crop."""

    def __init__(self, folder: Path = MODEL) -> None:
        recipe = json.loads((folder / "recipe.json").read_text())
        self._shorter, self._crop = recipe["shorter_side"], recipe["crop"]

    def read(self, data: bytes) -> NDArray[np.uint8]:
        """Decode an image and return its pixels, (height, width, 3)."""
        image = Image.open(io.BytesIO(data)).convert("RGB")
        shorter, crop = min(image.size), self._crop
        size = (self._shorter * image.width // shorter, self._shorter * image.height // shorter)
        image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - crop) // 2, (size[1] - crop) // 2
        return np.asarray(image.crop((left, top, left + crop, top + crop)))


class Network:
    """The plain export on ONNX Runtime, with all graph optimizations and without spinning threads."""

    def __init__(self, folder: Path = MODEL, threads: int = CPUS) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(folder / "plain.onnx"), options, providers=providers)
        recipe = json.loads((folder / "recipe.json").read_text())
        self._mean = np.array(recipe["mean"], np.float32) * 255
        self._factor = 1 / (np.array(recipe["std"], np.float32) * 255)
        self._labels = json.loads((folder / "labels.json").read_text())

    def classify(self, pixels: Sequence[NDArray[np.uint8]]) -> list[Mapping[str, Any]]:
        """Return the five best classes of each image, given pixels of (height, width, 3)."""
        values = (np.stack(pixels) - self._mean) * self._factor  # (batch, height, width, 3)
        planes = np.ascontiguousarray(values.transpose(0, 3, 1, 2))  # (batch, 3, height, width)
        (logits,) = self._session.run(None, {"pixel_values": planes})
        return [self._best(row) for row in logits]

    def _best(self, logits: NDArray[np.float32]) -> Mapping[str, Any]:
        powers = np.exp(logits - logits.max())
        scores = powers / powers.sum()
        best = np.argsort(-scores, kind="stable")[:TOP]
        rows = [{"index": int(i), "label": self._labels[i], "score": float(scores[i])} for i in best]
        return {"predictions": rows}
