"""Tests of `model_export/onnx_graph/fp16.py`."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from model_export.errors import ExportError
from model_export.network.static import StaticSwin
from model_export.network.swin import Swin, SwinConfig
from model_export.onnx_graph.export import to_onnx
from model_export.onnx_graph.fp16 import convert_to_fp16
from tests.support.networks import randomize

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
LENGTHS = {"ReduceL2", "Clip", "Div"}
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    """Export a small Swin V2 in float32. Its cosine attention divides by lengths of at least 1e-12."""
    network = Swin(
        SwinConfig(
            input_size=(32, 32),
            num_classes=7,
            embed_dim=24,
            depths=(2, 2),
            num_heads=(2, 4),
            window_sizes=((4, 4), (4, 4)),
            version=2,
            pretrained_window_sizes=(0, 0),
        )
    )
    randomize(network)
    path = tmp_path_factory.mktemp("graphs") / "model.onnx"
    to_onnx(StaticSwin(network.eval(), 1 / 255, [0.5] * 3, [0.5] * 3).eval(), (32, 32), path)
    return onnx.load(path)


@pytest.fixture
def model(exported: ModelProto) -> ModelProto:
    """A copy of the exported graph to convert."""
    return copy.deepcopy(exported)


def lengths(model: ModelProto) -> set[str]:
    return {node.name for node in model.graph.node if node.op_type in LENGTHS}


def logits(model: ModelProto) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(["logits"], {"pixels": PIXELS})[0]
    return result


def float_types(model: ModelProto) -> dict[str, int]:
    """Return the type that ONNX infers for every float tensor."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    types |= {constant.name: constant.data_type for constant in graph.initializer}
    return {name: type_ for name, type_ in types.items() if type_ in FLOATS}


def test_each_node_computes_in_its_type(model: ModelProto) -> None:
    """Kept nodes and nodes with an output of the graph compute in float32, all other nodes in fp16."""
    kept = lengths(model)
    convert_to_fp16(model, kept)
    types = float_types(model)

    for node in model.graph.node:
        if node.op_type == "Cast":
            continue
        is_kept = node.name in kept or {"logits", "tokens"} & set(node.output)
        wanted = TensorProto.FLOAT if is_kept else TensorProto.FLOAT16
        assert {types[name] for name in (*node.input, *node.output) if name in types} <= {wanted}


def test_nothing_is_rounded_between_kept_neighbors(model: ModelProto) -> None:
    """No cast reads the output of a cast, and no tensor is cast twice to one type."""
    convert_to_fp16(model, lengths(model))
    casts = [node for node in model.graph.node if node.op_type == "Cast"]

    assert not {node.input[0] for node in casts} & {node.output[0] for node in casts}
    assert len(casts) == len({(node.input[0], node.attribute[0].i) for node in casts})


def test_it_computes_the_same_within_half_precision(exported: ModelProto, model: ModelProto) -> None:
    """The logits are float32 and differ from the float32 graph by less than 1 % of their range."""
    convert_to_fp16(model, lengths(model))
    before, after = logits(exported), logits(model)

    onnx.checker.check_model(model, full_check=True)
    assert after.dtype == np.float32
    assert 0 < np.abs(before - after).max() < 0.01 * np.ptp(before)


def test_keeping_everything_changes_nothing(exported: ModelProto, model: ModelProto) -> None:
    """If all nodes are kept, nodes and constants are unchanged."""
    convert_to_fp16(model, {node.name for node in model.graph.node})

    assert list(exported.graph.node) == list(model.graph.node)
    assert list(exported.graph.initializer) == list(model.graph.initializer)


def test_constants_are_half_as_large(exported: ModelProto, model: ModelProto) -> None:
    """A constant is stored in one type only, so that the file shrinks by at least 40 %."""
    convert_to_fp16(model, lengths(model))

    assert model.ByteSize() < 0.6 * exported.ByteSize()


@pytest.mark.parametrize("value", [1e-12, 1e5])
def test_a_scalar_out_of_range_is_refused(model: ModelProto, value: float) -> None:
    """A scalar constant that is 0 or infinite in fp16 is refused by name: 1e-12 would cause a division by zero."""
    clip = next(node for node in model.graph.node if node.op_type == "Clip")
    bound = next(constant for constant in model.graph.initializer if constant.name == clip.input[1])
    bound.CopyFrom(numpy_helper.from_array(np.array(value, np.float32), bound.name))

    with pytest.raises(ExportError, match=f"{bound.name}.*does not fit into fp16"):
        convert_to_fp16(model, ())
