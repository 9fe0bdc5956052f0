"""Conversion of an exported graph to half precision, for GPUs. Some nodes stay in float32.

A cast stands only between a float32 node and an fp16 node. Two neighbors that both stay in float32 exchange float32,
and so do the outputs of the graph. ONNX Runtime's own converter casts between such neighbors too. If several kept nodes
read one tensor, that converter casts the tensor once for each, under one name.

The conversion assumes a graph from `export.py`: no subgraphs and no float tensors in attributes. Norms compute in
float32 in any case (`stash_type`), and their epsilon is a number, not a tensor.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from model_export.errors import ExportError
from model_export.onnx_graph.kept_nodes import end_nodes

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
SUFFIX = {FLOAT: "fp32", HALF: "fp16"}
FP16_MAX, FP16_MIN = float(np.finfo(np.float16).max), float(np.finfo(np.float16).smallest_normal)

# Operators of the cosine attention of version 2, which divides vectors by their lengths. They stay in float32: fp16
# cannot hold the squares of the lengths, and the lower bound of the lengths, 1e-12, is 0 in fp16.
LENGTH_OPERATORS = {"ReduceL2", "Clip", "Max", "Div"}


def write_fp16(source: Path, output: Path) -> tuple[str, ...]:
    """Write the graph in half precision. Return the names of the nodes that stay in float32."""
    model = onnx.load(source)
    kept = *end_nodes(model), *(node.name for node in model.graph.node if node.op_type in LENGTH_OPERATORS)
    convert_to_fp16(model, kept)
    onnx.save(model, output)
    return kept


def convert_to_fp16(model: onnx.ModelProto, kept: Collection[str]) -> None:
    """Convert the model in place. Inputs and outputs of the graph keep their types.

    Args:
        model: a float32 model.
        kept: the names of the nodes that stay in float32.

    Raises:
        ExportError: a constant is infinite in fp16, or a scalar constant is 0 in fp16.
    """
    graph = model.graph
    outputs = {value.name for value in graph.output}
    # The current type of every float tensor, by name.
    types = {constant.name: FLOAT for constant in graph.initializer if constant.data_type == FLOAT}
    nodes: list[NodeProto] = []
    for node in graph.node:
        wanted = FLOAT if node.name in kept or outputs & set(node.output) else HALF
        nodes.extend(_cast_inputs(graph, node, wanted, types))
        # The cast of the bytes has no float input, so its output type is set here.
        is_first_cast = node.op_type == "Cast" and node.attribute[0].i == FLOAT
        if is_first_cast:
            node.attribute[0].i = wanted
        if is_first_cast or any(name in types for name in node.input):
            types.update(dict.fromkeys(node.output, wanted))
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    constants = [constant for constant in graph.initializer if constant.name in used]
    for name in ("node", "initializer", "value_info"):  # value_info has the old types
        graph.ClearField(name)
    graph.node.extend(nodes)
    graph.initializer.extend(constants)


def _cast_inputs(graph: GraphProto, node: NodeProto, wanted: int, types: dict[str, int]) -> Iterator[NodeProto]:
    """Make the node read every float in the wanted type. Yield the new casts, and update `types`."""
    constants = {constant.name: constant for constant in graph.initializer}
    for index, name in enumerate(node.input):
        if types.get(name, wanted) == wanted:
            continue
        converted = f"{name}_{SUFFIX[wanted]}"
        node.input[index] = converted
        if converted in types:
            continue
        types[converted] = wanted
        if name in constants:
            graph.initializer.append(_fp16_constant(constants[name], converted))
        else:
            yield helper.make_node("Cast", [name], [converted], name=f"cast_{converted}", to=wanted)


def _fp16_constant(constant: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(constant)
    largest = float(np.abs(values).max(initial=0))
    if largest > FP16_MAX or (values.ndim == 0 and 0 < largest < FP16_MIN):
        raise ExportError(
            f"the constant {constant.name}, {largest:.3g}, does not fit into fp16; choose another --precision"
        )
    return numpy_helper.from_array(values.astype(np.float16), name)
