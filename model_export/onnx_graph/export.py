"""Export of the static network to ONNX: one file, a symbolic batch axis, named input and outputs."""

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

# The first opset with a single node for `Attention`. A single node for `Gelu` exists since opset 20.
OPSET = 23

# Protobuf cannot serialize a message of 2 GiB or more.
PROTOBUF_LIMIT = 2**31


def to_onnx(network: StaticSwin, input_size: tuple[int, int], path: Path) -> int:
    """Write the network to `path`. Return the number of its nodes.

    Raises:
        ExportError: the exporter made the batch axis constant, or the graph does not fit into one file.
    """
    pixels = torch.zeros((2, *input_size, 3), dtype=torch.uint8)  # the exporter treats a batch of 1 as a constant
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
        raise ExportError("the ONNX exporter of torch returned nothing")
    model = program.model_proto
    _remove_source_locations(model)
    _check(model)
    if model.ByteSize() >= PROTOBUF_LIMIT:
        raise ExportError(f"the graph has {model.ByteSize() / 1e9:.1f} GB; one ONNX file holds at most 2 GB")
    path.write_bytes(model.SerializeToString(deterministic=True))
    return len(model.graph.node)


def _check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model)
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(f"the ONNX exporter made the batch axis of {value.name} constant")


def _remove_source_locations(model: onnx.ModelProto) -> None:
    """Remove the source file and line that the exporter stores per node: megabytes with paths of this machine."""
    parts = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer]
    for part in (*parts, *model.graph.value_info):
        part.doc_string = ""
        part.ClearField("metadata_props")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which warns about missing torchvision operators and its own deprecations."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
