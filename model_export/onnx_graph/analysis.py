"""Statistics of an ONNX graph: operators, constants, and multiply-accumulates per image. Knows no files."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from model_export.errors import ExportError

Shape = tuple[int, ...]
Shapes = Sequence[Shape]


def operators(model: ModelProto) -> dict[str, int]:
    """Count the nodes by operator, the most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def constant_bytes(model: ModelProto) -> dict[str, int]:
    """Sum the bytes of the initializers by element type, the largest first."""
    sizes = Counter[str]()
    for tensor in model.graph.initializer:
        kind = TensorProto.DataType.Name(tensor.data_type).lower()
        sizes[kind] += math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return dict(sizes.most_common())


def signature(model: ModelProto) -> dict[str, str]:
    """Return the type and shape of each input and output by name, such as `uint8 (batch, 224, 224, 3)`."""
    return {value.name: _described(value) for value in (*model.graph.input, *model.graph.output)}


def graph_macs(model: ModelProto) -> int:
    """Count the multiply-accumulates of matrix products, convolutions and attention for one image.

    The papers on Swin call this number FLOPs. Additions, norms and activations are not counted. The shapes are those
    that ONNX infers for a batch of 1, so the count describes the graph and not its source network.

    Raises:
        ExportError: ONNX cannot infer the shape of an operand.
    """
    shapes = shapes_of_one_image(model)
    return sum(_macs(node, shapes) for node in model.graph.node if node.op_type in MACS)


def _macs(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    try:
        return MACS[node.op_type](node, [shapes[name] for name in node.input if name], shapes[node.output[0]])
    except KeyError as error:
        raise ExportError(f"cannot infer the shape of {error.args[0]}, an operand of a {node.op_type}") from error


def _product_macs(_: NodeProto, inputs: Shapes, output: Shape) -> int:
    """Count a product `(…, rows, inner) · (…, inner, columns) → (…, rows, columns)`."""
    return math.prod(output) * inputs[0][-1]


def _gemm_macs(node: NodeProto, inputs: Shapes, output: Shape) -> int:
    """Count a product with a first operand that may be transposed."""
    is_transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(output) * inputs[0][0 if is_transposed else 1]


def _convolution_macs(_: NodeProto, inputs: Shapes, output: Shape) -> int:
    """Count a convolution with weights `(out, in / groups, height, width)`; each output value uses one `out` row."""
    return math.prod(output) * math.prod(inputs[1][1:])


def _attention_macs(_: NodeProto, inputs: Shapes, output: Shape) -> int:
    """Count the scores of each query and key, and the product of scores and values.

    Queries are `(batch, heads, positions, width)`.
    """
    query, key = inputs[:2]
    return math.prod(query) * key[-2] + math.prod(output) * key[-2]


MACS: dict[str, Callable[[NodeProto, Shapes, Shape], int]] = {
    "MatMul": _product_macs,
    "MatMulInteger": _product_macs,
    "QLinearMatMul": _product_macs,
    "Gemm": _gemm_macs,
    "Conv": _convolution_macs,
    "Attention": _attention_macs,
}


def shapes_of_one_image(model: ModelProto) -> dict[str, Shape]:
    """Return the shapes by name of all values with a known shape for a batch of 1."""
    one = ModelProto()
    one.CopyFrom(model)
    del one.graph.value_info[:]  # these have a symbolic batch axis
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
