"""The exported graph in another precision: half floats for GPUs, bytes for CPUs.

Both begin with the float32 graph that was proved, and leave some of its nodes as they are:

- the patch projection: its inputs are bytes up to 255 and its weights have the normalization folded in, so most of what
  it adds up cancels;
- the mean over positions and the head: they cost nothing, and logits stay sums of evidence;
- version 2's division by a vector's length, in half floats: lengths are squared, and bounded below by 1e-12.

Weights in bytes have 7 bits (`reduce_range`): CPUs without VNNI add two products in 16 bits, which 8 would overflow,
and the same bundle would answer otherwise there.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from app.bundle.manifest import Method
from app.inference import onnx_runtime
from app.inference.session import INPUT
from model_export.onnx_graph.fp16 import to_half

Pixels = NDArray[np.uint8]
Names = tuple[str, ...]
Reduced = Literal["fp16", "int8"]

PRODUCTS = {"MatMul", "Gemm"}
LENGTHS = {"ReduceL2", "Clip", "Max", "Div"}
"""Operators that only the cosine attention of version 2 has."""


def convert(precision: Reduced, source: Path, output: Path, calibration: Pixels | None) -> tuple[Method, Names]:
    """Write the graph in another precision. Returns how that was done, and the names of the nodes left in float32."""
    if precision == "fp16":
        return "fp16", to_fp16(source, output)
    return "int8 dynamic" if calibration is None else "int8 calibrated", to_int8(source, output, calibration)


def to_fp16(source: Path, output: Path) -> Names:
    """Write the graph in half floats; inputs and outputs keep their types. Returns the nodes that stay in float32."""
    model = onnx.load(source)
    kept = *_ends(model), *(node.name for node in model.graph.node if node.op_type in LENGTHS)
    to_half(model, kept)
    onnx.save(model, output)
    return kept


def to_int8(source: Path, output: Path, calibration: Pixels | None) -> Names:
    """Write the graph with the weights of its products in bytes, a scale for each channel. Returns those that stay.

    Activations are scaled by what they hold, batch by batch; with `calibration` (images, height, width, 3) once and for
    all. Products of two activations, in attention, stay in float32.
    """
    onnx_runtime.load()  # turns telemetry off before the next import would start it
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static  # noqa: PLC0415
    from onnxruntime.quantization.onnx_model import ONNXModel  # noqa: PLC0415

    model = onnx.load(source)
    ONNXModel(model).replace_gemm_with_matmul()  # no kernel scales by batch and has the bias in it
    kept = _ends(model)
    weighted = [node.name for node in _weighted(model) if node.name not in kept]
    del model.graph.value_info[:]  # has shapes of weights that are transposed here
    options = {
        "op_types_to_quantize": ["MatMul"],
        "nodes_to_quantize": weighted,
        "per_channel": True,
        "reduce_range": True,
        "weight_type": QuantType.QInt8,
    }
    with _quiet():
        if calibration is None:
            quantize_dynamic(model, output, **options)
        else:
            # Products give floats. In bytes they would only be made floats again, by what comes next.
            extra = {"OpTypesToExcludeOutputQuantization": ["MatMul"]}
            reader = Calibration(calibration)
            quantize_static(model, output, reader, quant_format=QuantFormat.QDQ, extra_options=extra, **options)
    return kept


class Calibration:  # a CalibrationDataReader, which only asks for get_next
    """Hands out one image at a time."""

    def __init__(self, pixels: Pixels) -> None:
        self._rows = iter(pixels)

    def get_next(self) -> dict[str, Pixels] | None:
        """The next image as the graph takes it; None after the last."""
        row = next(self._rows, None)
        return None if row is None else {INPUT: row[None]}


def _ends(model: onnx.ModelProto) -> Names:
    """Patch projection; last norm, mean and head."""
    nodes = list(model.graph.node)
    first, *_ = _weighted(model)
    norm = max(place for place, node in enumerate(nodes) if node.op_type == "LayerNormalization")
    return first.name, *(node.name for node in nodes[norm:])


def _weighted(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Products with a constant, in the order they are computed."""
    constants = {constant.name for constant in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in PRODUCTS and node.input[1] in constants]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer recommends a preparation that changes nothing here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
