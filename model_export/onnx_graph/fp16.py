"""float32 graph → fp16 graph, with some nodes left in float32.

Casts stand only where the two meet: between neighbors that both stay in float32 nothing is rounded, nor is what they
hand out of the graph. That is what ONNX Runtime's own converter does not do, and it casts a tensor that several kept
nodes read once for each, under one name. The graph has no subgraphs and no float tensors in attributes; norms compute
in float32 by themselves (`stash_type`), and their epsilon is a number, not a tensor.
"""

from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from model_export.errors import ExportError

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
SUFFIX = {FLOAT: "fp32", HALF: "fp16"}
LARGEST, SMALLEST = float(np.finfo(np.float16).max), float(np.finfo(np.float16).smallest_normal)


def to_half(model: onnx.ModelProto, kept: Collection[str]) -> None:
    """Convert in place; `kept` are the names of nodes to leave. Inputs and outputs of the graph keep their types.

    Raises:
        ExportError: a constant would be infinite in fp16, or is a single number that would vanish.
    """
    graph = model.graph
    outputs = {value.name for value in graph.output}
    types = {constant.name: FLOAT for constant in graph.initializer if constant.data_type == FLOAT}  # of float tensors
    nodes: list[NodeProto] = []
    for node in graph.node:
        wanted = FLOAT if node.name in kept or outputs & set(node.output) else HALF
        nodes.extend(_feed(graph, node, wanted, types))
        begins = node.op_type == "Cast" and node.attribute[0].i == FLOAT  # bytes become floats: no input tells
        if begins:
            node.attribute[0].i = wanted
        if begins or any(name in types for name in node.input):
            types.update(dict.fromkeys(node.output, wanted))
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    constants = [constant for constant in graph.initializer if constant.name in used]
    for name in ("node", "initializer", "value_info"):  # the last has the old types
        graph.ClearField(name)
    graph.node.extend(nodes)
    graph.initializer.extend(constants)


def _feed(graph: GraphProto, node: NodeProto, wanted: int, types: dict[str, int]) -> Iterator[NodeProto]:
    """Let the node read every float in the type it computes in; yields the casts that takes and nobody made before."""
    constants = {constant.name: constant for constant in graph.initializer}
    for index, name in enumerate(node.input):
        if types.get(name, wanted) == wanted:
            continue
        other = f"{name}_{SUFFIX[wanted]}"
        node.input[index] = other
        if other in types:
            continue
        types[other] = wanted
        if name in constants:
            graph.initializer.append(_half(constants[name], other))
        else:
            yield helper.make_node("Cast", [name], [other], name=f"cast_{other}", to=wanted)


def _half(constant: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(constant)
    largest = float(np.abs(values).max(initial=0))
    if largest > LARGEST or (values.ndim == 0 and 0 < largest < SMALLEST):
        raise ExportError(f"the constant {constant.name}, {largest:.3g}, does not fit into fp16")
    return numpy_helper.from_array(values.astype(np.float16), name)
