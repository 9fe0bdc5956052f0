"""The nodes of an exported graph that stay in float32 in every precision. Knows no conversion.

These nodes are the two ends of the network:

- The patch projection. Its inputs are bytes up to 255, and the normalization is folded into its weights, so most of
  each sum cancels.
- The last norm, the mean over positions and the head. They cost almost nothing, and in float32 the logits stay exact
  sums of the evidence.
"""

from onnx import ModelProto, NodeProto

PRODUCTS = {"MatMul", "Gemm"}


def end_nodes(model: ModelProto) -> tuple[str, ...]:
    """Return the names of the patch projection, the last norm, the mean and the head."""
    nodes = list(model.graph.node)
    first, *_ = weighted_products(model)
    norm = max(index for index, node in enumerate(nodes) if node.op_type == "LayerNormalization")
    return first.name, *(node.name for node in nodes[norm:])


def weighted_products(model: ModelProto) -> list[NodeProto]:
    """Return the matrix products with a constant, in the order of computation."""
    constants = {constant.name for constant in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in PRODUCTS and node.input[1] in constants]
