"""A graph of only the matrix products of another graph: the minimum that any graph of the network computes."""

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from model_export.onnx_graph.analysis import Shape, shapes_of_one_image

PRODUCTS = {"MatMul", "Gemm"}


def products_of(model: ModelProto) -> ModelProto:
    """Return a graph of the same products with the same shapes, for any batch size.

    Weights are the same constants, so that the runtime packs them as in the whole graph. Activations
    are inputs of the graph, one for each shape. Biases are left out. One number of each product is an
    output, because the runtime removes nodes without a consumer.
    """
    shapes = shapes_of_one_image(model)
    constants = {constant.name: constant for constant in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    read = {name for node in products for name in node.input[:2]}
    inputs = {_named(shapes[name]): _of_one(shapes[name]) for name in read - constants.keys()}
    graph = helper.make_graph(
        [part for node in products for part in _alone(node, shapes, constants)],
        "products",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape[1:]])
            for name, shape in inputs.items()
        ],
        [_one(node, shapes) for node in products],
        [*(_weight(node, constants[node.input[1]]) for node in products if node.input[1] in constants), *_ends()],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _alone(node: NodeProto, shapes: Mapping[str, Shape], constants: Mapping[str, TensorProto]) -> Iterator[NodeProto]:
    """Yield the product without its bias, and a slice of one number."""
    operands = [name if name in constants else _named(shapes[name]) for name in node.input[:2]]
    rank = len(_of_one(shapes[node.input[0]]))
    yield helper.make_node("MatMul", operands, [node.name], name=node.name)
    yield helper.make_node("Slice", [node.name, f"zeros {rank}", f"ones {rank}"], [f"{node.name}_one"])


def _one(node: NodeProto, shapes: Mapping[str, Shape]) -> ValueInfoProto:
    ones = [1] * len(_of_one(shapes[node.input[0]]))
    return helper.make_tensor_value_info(f"{node.name}_one", TensorProto.FLOAT, ones)


def _weight(node: NodeProto, constant: TensorProto) -> TensorProto:
    is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    values = numpy_helper.to_array(constant)
    return numpy_helper.from_array(values.T.copy() if is_transposed else values, constant.name)


def _of_one(shape: Shape) -> Shape:
    """Return the shape with a leading batch axis.

    Where the graph has that axis does not change the products.
    """
    return (1, *shape)


def _named(shape: Shape) -> str:
    return "x".join(map(str, _of_one(shape)))


def _ends() -> Iterator[TensorProto]:
    """Yield the start and end constants of a slice of one number, for each rank."""
    for rank in range(3, 7):
        yield numpy_helper.from_array(np.zeros(rank, np.int64), f"zeros {rank}")
        yield numpy_helper.from_array(np.ones(rank, np.int64), f"ones {rank}")
