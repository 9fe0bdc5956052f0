"""What an ONNX graph is made of: operators, constants, and what one image costs."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from model_export.errors import ExportError

Shape = tuple[int, ...]
Shapes = Sequence[Shape]


def operators(model: ModelProto) -> dict[str, int]:
    """Nodes by operator, the most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def constant_bytes(model: ModelProto) -> dict[str, int]:
    """Bytes of the initializers by element type, the largest first."""
    sizes = Counter[str]()
    for tensor in model.graph.initializer:
        kind = TensorProto.DataType.Name(tensor.data_type).lower()
        sizes[kind] += math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return dict(sizes.most_common())


def signature(model: ModelProto) -> dict[str, str]:
    """Inputs and outputs as `uint8 (batch, 224, 224, 3)`, by name."""
    return {value.name: _described(value) for value in (*model.graph.input, *model.graph.output)}


def graph_macs(model: ModelProto) -> int:
    """Multiply-accumulates that one image takes in matrix products, convolutions and attention.

    This is what the literature on Swin calls FLOPs; additions, norms and activations are not counted. Shapes are those
    that ONNX infers for a batch of 1, so the count is of the graph as it is, not of the network it was made from.

    Raises:
        ExportError: the shape of an operand cannot be inferred.
    """
    shapes = shapes_of_one_image(model)
    return sum(_macs(node, shapes) for node in model.graph.node if node.op_type in MACS)


def _macs(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    try:
        return MACS[node.op_type](node, [shapes[name] for name in node.input if name], shapes[node.output[0]])
    except KeyError as error:
        raise ExportError(f"the shape of {error.args[0]} at a {node.op_type} is not known") from error


def _of_product(_: NodeProto, inputs: Shapes, output: Shape) -> int:
    """(…, rows, inner) · (…, inner, columns) → (…, rows, columns)."""
    return math.prod(output) * inputs[0][-1]


def _of_gemm(node: NodeProto, inputs: Shapes, output: Shape) -> int:
    """As a product, but the first operand may come transposed."""
    is_transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(output) * inputs[0][0 if is_transposed else 1]


def _of_convolution(_: NodeProto, inputs: Shapes, output: Shape) -> int:
    """Weights (out, in / groups, height, width): each output value is a product with one of the first axis."""
    return math.prod(output) * math.prod(inputs[1][1:])


def _of_attention(_: NodeProto, inputs: Shapes, output: Shape) -> int:
    """Queries (batch, heads, positions, width): scores against every key, and their products with the values."""
    query, key = inputs[:2]
    return math.prod(query) * key[-2] + math.prod(output) * key[-2]


MACS: dict[str, Callable[[NodeProto, Shapes, Shape], int]] = {
    "MatMul": _of_product,
    "MatMulInteger": _of_product,
    "QLinearMatMul": _of_product,
    "Gemm": _of_gemm,
    "Conv": _of_convolution,
    "Attention": _of_attention,
}


def shapes_of_one_image(model: ModelProto) -> dict[str, Shape]:
    """By name, for every value whose shape is known once the batch is 1."""
    one = ModelProto()
    one.CopyFrom(model)
    del one.graph.value_info[:]  # these speak of any batch
    for value in (*one.graph.input, *one.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(one, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _described(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type).lower()
    return f"{kind} ({', '.join(str(dim.dim_param or dim.dim_value) for dim in tensor.shape.dim)})"
