"""A bundle whose network takes milliseconds for an image and computes what the demonstration bundle computes."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from app.bundle.digests import file_digest
from app.bundle.manifest import MANIFEST, MODEL
from app.inference.session import INPUT, OUTPUT
from app.settings import DEMO_BUNDLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Columns and number of the added products.
WIDTH, PRODUCTS = 256, 8

# Rows of the added products for one image: about 4 ms on one core.
ROWS = 1000

# The rows grow with this power of the batch. So a batch of twice the size saves 8 % of the time of an image, and
# warm-up finds that all batches up to 64 pay.
GROWTH = 0.88


def slow_bundle(folder: Path, rows: float = ROWS) -> Path:
    """Write the demonstration bundle to a folder, with products whose result is multiplied by zero."""
    shutil.copytree(DEMO_BUNDLE, folder)
    model = onnx.load(folder / MODEL)
    graph = model.graph
    (last,) = [node for node in graph.node if OUTPUT in node.output]
    last.output[[*last.output].index(OUTPUT)] = "fast"
    constants: dict[str, NDArray[Any]] = {
        "slow growth": np.array([GROWTH], np.float32),
        "slow rows": np.array([rows], np.float32),
        "slow width": np.array([WIDTH], np.int64),
        "slow row": np.full((1, WIDTH), 0.01, np.float32),
        "slow weight": np.full((WIDTH, WIDTH), 1 / WIDTH, np.float32),
        "slow zero": np.zeros((), np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    products = [f"slow product {index}" for index in range(PRODUCTS)]
    graph.node.extend(
        [
            helper.make_node("Shape", [INPUT], ["slow batch"], start=0, end=1),
            helper.make_node("Cast", ["slow batch"], ["slow size"], to=TensorProto.FLOAT),
            helper.make_node("Pow", ["slow size", "slow growth"], ["slow power"]),
            helper.make_node("Mul", ["slow power", "slow rows"], ["slow number"]),
            helper.make_node("Cast", ["slow number"], ["slow count"], to=TensorProto.INT64),
            helper.make_node("Concat", ["slow count", "slow width"], ["slow shape"], axis=0),
            helper.make_node("Expand", ["slow row", "slow shape"], ["slow begin"]),
            *(
                helper.make_node("MatMul", [operand, "slow weight"], [product])
                for operand, product in zip(["slow begin", *products], products, strict=False)
            ),
            helper.make_node("ReduceMean", [products[-1]], ["slow mean"], keepdims=0),
            helper.make_node("Mul", ["slow mean", "slow zero"], ["slow nothing"]),
            helper.make_node("Add", ["fast", "slow nothing"], [OUTPUT]),
        ]
    )
    onnx.save(model, folder / MODEL)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][MODEL] = file_digest(folder / MODEL)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder
