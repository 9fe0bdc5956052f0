"""Tests of `swin-export inspect` and of the multiply-accumulate count of a graph."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.bundle.manifest import CenterCrop, Cover, Pad, Preprocessing, ShorterSide, Squash
from app.settings import DEMO_BUNDLE
from model_export.bundle_io.describe import inspect
from model_export.checkpoints.preprocessing import describe_preprocessing
from model_export.cli.main import main
from model_export.errors import ExportError
from model_export.onnx_graph.analysis import graph_macs


def graph(node: onnx.NodeProto, image: Sequence[int | str], *constants: Sequence[int]) -> onnx.ModelProto:
    """Build a graph of one node. Its first operand has a symbolic batch axis; the others are constants."""
    first, *others = node.input
    value = helper.make_tensor_value_info(first, TensorProto.FLOAT, ["batch", *image])
    output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, ["batch", *"abc"[: len(image)]])
    weights = [
        numpy_helper.from_array(np.zeros(shape, np.float32), name)
        for name, shape in zip(others, constants, strict=True)
    ]
    body = helper.make_graph([node], "one", [value], [output], weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 23)])


@pytest.mark.parametrize(
    ("node", "shapes", "macs"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["y"]), [(7, 5), (5, 3)], 7 * 5 * 3),
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1), [(5,), (3, 5), (3,)], 5 * 3),
        (
            helper.make_node("Conv", ["x", "w"], ["y"], strides=[4, 4], group=3),
            [(3, 8, 12), (6, 1, 4, 4)],
            6 * 2 * 3 * 16,
        ),
        (
            helper.make_node("Attention", ["q", "k", "v"], ["y"]),
            [(2, 7, 4), (1, 2, 9, 4), (1, 2, 9, 5)],
            2 * 7 * 9 * 4 + 2 * 7 * 9 * 5,
        ),
        (helper.make_node("Relu", ["x"], ["y"]), [(9,)], 0),
    ],
)
def test_multiply_accumulates_of_operators(node: onnx.NodeProto, shapes: list[tuple[int, ...]], macs: int) -> None:
    """The count for one image equals a count by hand."""
    assert graph_macs(graph(node, *shapes)) == macs


def test_a_graph_with_unknown_shapes_is_refused() -> None:
    """A product with an unknown shape is refused instead of counted wrongly."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])

    with pytest.raises(ExportError, match="cannot infer the shape of x, an operand of a MatMul"):
        graph_macs(graph(node, ("n", 5), (5, 3)))


def test_multiply_accumulates_of_the_demo_bundle() -> None:
    """The count equals equation 2 of the paper for two stages of two blocks, with 8×8×48 and 4×4×96 tokens."""
    stages, window, mlp_ratio = ((64, 48), (16, 96)), 4 * 4, 3
    blocks = sum(2 * ((4 + 2 * mlp_ratio) * hw * c**2 + 2 * window * hw * c) for hw, c in stages)
    embedding, merging, head = 64 * (4 * 4 * 3) * 48, 16 * (4 * 48) * 96, 96 * 10

    assert graph_macs(onnx.load(DEMO_BUNDLE / "model.onnx")) == embedding + blocks + merging + head


@pytest.mark.parametrize(
    ("resize", "crop", "words"),
    [
        (Squash(mode="squash", height=32, width=48), None, "resize to 32×48, whatever the shape (bicubic)"),
        (
            ShorterSide(mode="shorter_side", size=256),
            224,
            "resize the shorter side to 256 (bicubic), keep the middle 224×224",
        ),
        (
            Cover(mode="cover", height=256, width=256),
            224,
            "resize to cover 256×256, keeping the shape (bicubic), keep the middle 224×224",
        ),
        (
            Pad(mode="pad", height=32, width=32, fill=(0, 0, 0)),
            None,
            "resize to fit into 32×32, keeping the shape, and fill the rest (bicubic)",
        ),
    ],
)
def test_preprocessing_in_words(resize: Squash | ShorterSide | Cover | Pad, crop: int | None, words: str) -> None:
    """Each kind of resize has its description."""
    recipe = Preprocessing(
        resize=resize,
        crop=CenterCrop(height=crop, width=crop, rounding="down") if crop else None,
        interpolation="bicubic",
        scale=1 / 255,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )

    assert describe_preprocessing(recipe) == words


def test_counts_and_sizes_are_those_of_the_files() -> None:
    """The numbers of nodes and bytes equal those of the files of the demo bundle."""
    facts, model = inspect(DEMO_BUNDLE), onnx.load(DEMO_BUNDLE / "model.onnx")

    assert facts["graph"]["nodes"] == len(model.graph.node) == sum(facts["graph"]["operators"].values())
    assert sum(facts["graph"]["constants"].values()) == sum(len(one.raw_data) for one in model.graph.initializer)
    assert facts["graph"]["signature"] == {
        "pixels": "uint8 (batch, 32, 32, 3)",
        "logits": "float (batch, 10)",
        "tokens": "float (batch, 16, 96)",
    }
    assert facts["files"]["model.onnx"] == (DEMO_BUNDLE / "model.onnx").stat().st_size
    assert facts["labels"] == {"count": 10, "first": ["zero", "one", "two", "three", "four"]}


def test_the_tables_contain_all_parts(capsys: pytest.CaptureFixture[str]) -> None:
    """The tables contain source, architecture, verification, graph and accuracy."""
    assert main(["inspect", str(DEMO_BUNDLE)]) == 0

    shown = capsys.readouterr().out
    for part in (
        "demo_checkpoint",
        "depths [2, 2]",
        "multiply-accumulates",
        "end to end",
        "LayerNormalization",
        "99.72 %",
    ):
        assert part in shown


def test_json_equals_the_description(capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` prints the object that `inspect` returns."""
    assert main(["inspect", str(DEMO_BUNDLE), "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == inspect(DEMO_BUNDLE)


def test_a_missing_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without a bundle gives one line and exit code 2."""
    assert main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"swin-export: no bundle at {tmp_path}")
