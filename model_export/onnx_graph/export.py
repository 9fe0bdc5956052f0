"""Static network → ONNX: one file, a symbolic batch axis, named input and outputs."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch

from app.inference.session import INPUT, OUTPUT, TOKENS
from model_export.errors import ExportError
from model_export.network.static import StaticSwin

OPSET = 23
"""The first with `Attention` and, like 20, `Gelu` as single nodes."""

PROTOBUF_LIMIT = 2**31


def to_onnx(network: StaticSwin, input_size: tuple[int, int], path: Path) -> int:
    """Write the network to `path`. Returns the number of its nodes.

    Raises:
        ExportError: the exporter froze the batch axis, or the graph does not fit one file.
    """
    pixels = torch.zeros((2, *input_size, 3), dtype=torch.uint8)  # two: the exporter treats a batch of 1 as a constant
    with _quiet():
        program = torch.onnx.export(
            network,
            (pixels,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT, TOKENS],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1)}},
            external_data=False,
        )
    if program is None:
        raise ExportError("the ONNX exporter returned nothing")
    model = program.model_proto
    _anonymise(model)
    _check(model)
    if model.ByteSize() >= PROTOBUF_LIMIT:
        raise ExportError(f"the graph has {model.ByteSize() / 1e9:.1f} GB; one ONNX file holds 2 GB")
    path.write_bytes(model.SerializeToString(deterministic=True))
    return len(model.graph.node)


def _check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model)
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(f"the exporter froze the batch axis of {value.name}")


def _anonymise(model: onnx.ModelProto) -> None:
    """The exporter notes for each node where in whose source file it came from: megabytes, and other people's paths."""
    parts = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer]
    for part in (*parts, *model.graph.value_info):
        part.doc_string = ""
        part.ClearField("metadata_props")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of torchvision operators it does not find, and of its own deprecations."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
