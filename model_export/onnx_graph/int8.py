"""Quantization of an exported graph to int8, for CPUs.

The weights of matrix products become int8, with one scale per channel. They use 7 bits (`reduce_range`): CPUs without
VNNI add two products in 16 bits. 8 bits could overflow there, and the same bundle would give other results.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from app.inference import onnx_runtime
from app.inference.session import INPUT
from model_export.onnx_graph.kept_nodes import end_nodes, weighted_products

# uint8 RGB, (images, height, width, 3).
Pixels = NDArray[np.uint8]


def write_int8(source: Path, output: Path, calibration: Pixels | None = None) -> tuple[str, ...]:
    """Write the graph with quantized matrix products. Return the names of the nodes that stay in float32.

    Without `calibration`, the quantization is dynamic: each batch sets the scale of its activations. With
    `calibration`, the scales are constants. Products of two activations, in attention, stay in float32.
    """
    onnx_runtime.load()  # before the next import, which would start ONNX Runtime with telemetry
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static  # noqa: PLC0415 (after the load)
    from onnxruntime.quantization.onnx_model import ONNXModel  # noqa: PLC0415 (likewise)

    model = onnx.load(source)
    # No dynamically quantized kernel of ONNX Runtime includes the bias of a Gemm.
    ONNXModel(model).replace_gemm_with_matmul()
    kept = end_nodes(model)
    quantized = [node.name for node in weighted_products(model) if node.name not in kept]
    # The value infos contain shapes of weights that the replacement has transposed.
    del model.graph.value_info[:]
    options = {
        "op_types_to_quantize": ["MatMul"],
        "nodes_to_quantize": quantized,
        "per_channel": True,
        "reduce_range": True,
        "weight_type": QuantType.QInt8,
    }
    with _quiet():
        if calibration is None:
            quantize_dynamic(model, output, **options)
        else:
            # The next node reads floats, so a quantized product would be converted back at once.
            extra = {"OpTypesToExcludeOutputQuantization": ["MatMul"]}
            reader = CalibrationReader(calibration)
            quantize_static(model, output, reader, quant_format=QuantFormat.QDQ, extra_options=extra, **options)
    return kept


class CalibrationReader:
    """A reader that gives the quantizer one calibration image at a time.

    It has the one method of `CalibrationDataReader` that the quantizer calls.
    """

    def __init__(self, pixels: Pixels) -> None:
        self._images = iter(pixels)

    def get_next(self) -> dict[str, Pixels] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer's advice to preprocess the graph, which changes nothing here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
