"""Tests of ratios, of the order of rounds, and of the matrix products of a graph."""

import numpy as np
import onnx
import onnxruntime
import pytest

from app.bundle.load import Bundle
from app.settings import DEMO_BUNDLE
from benchmarks.model.costs import session_of
from benchmarks.model.interleave import Cost, Spread, interleaved, results
from benchmarks.model.products import products_of
from model_export.onnx_graph.analysis import graph_macs
from tests.support.engines import engine_of

SPINNING = "session.intra_op.allow_spinning"


@pytest.fixture(scope="module")
def whole() -> onnx.ModelProto:
    """The graph of the demonstration bundle."""
    return onnx.load(DEMO_BUNDLE / "model.onnx")


def test_ratios_are_taken_within_a_round() -> None:
    """A slow round of the machine does not change the ratio: it affects both candidates."""
    costs = {"engine": [Cost(10, 20), Cost(20, 40), Cost(30, 60)], "other": [Cost(15, 20), Cost(30, 40), Cost(45, 60)]}

    other = results(costs, "engine")["other"]

    assert Spread(1.5, 1.5, 1.5) == other.wall_ratio
    assert Spread(1, 1, 1) == other.cpu_ratio
    assert Spread(30, 22.5, 37.5) == other.wall


def test_the_order_changes_from_round_to_round() -> None:
    """The first candidate, and the predecessor of each, differ between rounds."""
    orders = ["".join(interleaved("ABCD", number)) for number in range(4)]

    assert orders == ["ABCD", "BADC", "CDAB", "DCBA"]


def test_the_products_are_complete(whole: onnx.ModelProto) -> None:
    """The graph of products has as many multiplications as the whole graph, including attention."""
    assert graph_macs(whole) == graph_macs(products_of(whole))


def test_all_products_are_computed(whole: onnx.ModelProto) -> None:
    """ONNX Runtime removes none of the products: each has one number as output, for any batch size."""
    session = onnxruntime.InferenceSession(products_of(whole).SerializeToString(), providers=["CPUExecutionProvider"])
    expected = sum(node.op_type in {"MatMul", "Gemm"} for node in whole.graph.node)
    inputs = {value.name: np.ones((3, *value.shape[1:]), np.float32) for value in session.get_inputs()}

    numbers = session.run(None, inputs)

    assert expected == len(numbers)
    assert {1} == {number.size for number in numbers}
    assert all(np.abs(number).max() > 0 for number in numbers)


def test_graphs_are_compared_with_the_engine_s_options(demo: Bundle) -> None:
    """All session options, and the spinning of idle threads, equal those of the service."""
    engine = engine_of(demo)

    expected = engine._session.get_session_options()  # noqa: SLF001 (the options of the service)
    options = session_of(DEMO_BUNDLE / "model.onnx", engine.device_report.threads).get_session_options()

    names = [name for name in dir(expected) if not name.startswith("_") and not callable(getattr(expected, name))]
    assert "enable_mem_pattern" in names
    assert [(name, getattr(options, name)) for name in names] == [(name, getattr(expected, name)) for name in names]
    assert options.get_session_config_entry(SPINNING) == expected.get_session_config_entry(SPINNING)
