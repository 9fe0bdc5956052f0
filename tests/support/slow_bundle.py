"""The demonstration bundle with a network that is slow, whatever the number of its threads."""

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

# The number of added sums for one image: about 8 ms. They run one after the other, and ONNX Runtime computes each by
# one thread, because every element needs the one before.
SUMS, WIDTH = 160, 16_384

# The number of sums grows with this power of the batch. So a batch of twice the size saves 8 % of the time of an image,
# and warm-up finds that all batches up to 64 pay.
GROWTH = 0.88


def slow_bundle(folder: Path, sums: float = SUMS) -> Path:
    """Write the demonstration bundle to a folder, with sums of zeros that are added to the logits."""
    shutil.copytree(DEMO_BUNDLE, folder)
    model = onnx.load(folder / MODEL)
    graph = model.graph
    (last,) = [node for node in graph.node if OUTPUT in node.output]
    last.output[[*last.output].index(OUTPUT)] = "fast"
    constants: dict[str, NDArray[Any]] = {
        "slow growth": np.array([GROWTH], np.float32),
        "slow sums": np.array([sums], np.float32),
        "slow axis": np.array(1, np.int64),
        "slow begin": np.zeros((1, WIDTH), np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend(
        [
            helper.make_node("Shape", [INPUT], ["slow batch"], start=0, end=1),
            helper.make_node("Cast", ["slow batch"], ["slow size"], to=TensorProto.FLOAT),
            helper.make_node("Pow", ["slow size", "slow growth"], ["slow power"]),
            helper.make_node("Mul", ["slow power", "slow sums"], ["slow number"]),
            helper.make_node("Cast", ["slow number"], ["slow count"], to=TensorProto.INT64),
            helper.make_node("Loop", ["slow count", "", "slow begin"], ["slow end"], body=_one_sum()),
            helper.make_node("ReduceMean", ["slow end"], ["slow zero"], keepdims=0),
            helper.make_node("Add", ["fast", "slow zero"], [OUTPUT]),
        ]
    )
    onnx.save(model, folder / MODEL)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][MODEL] = file_digest(folder / MODEL)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def _one_sum() -> onnx.GraphProto:
    """Return the body of the loop: the cumulative sum of the row so far."""
    row = (TensorProto.FLOAT, [1, WIDTH])
    return helper.make_graph(
        [
            helper.make_node("Identity", ["slow goes on"], ["slow still goes on"]),
            helper.make_node("CumSum", ["slow row", "slow axis"], ["slow next row"]),
        ],
        "slow sum",
        [
            helper.make_tensor_value_info("slow index", TensorProto.INT64, []),
            helper.make_tensor_value_info("slow goes on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("slow row", *row),
        ],
        [
            helper.make_tensor_value_info("slow still goes on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("slow next row", *row),
        ],
    )
