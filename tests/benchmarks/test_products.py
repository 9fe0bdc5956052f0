"""What `benchmarks/` computes of what it measured, and what it takes for the floor."""

import numpy as np
import onnx
import onnxruntime
import pytest

from app.bundle.load import Bundle
from app.settings import DEMO_BUNDLE
from benchmarks.model.costs import session_of
from benchmarks.model.interleave import Cost, Spread, in_turn, results
from benchmarks.model.products import products_of
from model_export.onnx_graph.analysis import graph_macs
from tests.support.engines import engine_of

SPINNING = "session.intra_op.allow_spinning"


@pytest.fixture(scope="module")
def whole() -> onnx.ModelProto:
    """The graph that ships."""
    return onnx.load(DEMO_BUNDLE / "model.onnx")


def test_a_ratio_is_of_one_round() -> None:
    """A machine that is twice as slow in one round says nothing: both were slow then."""
    costs = {"engine": [Cost(10, 20), Cost(20, 40), Cost(30, 60)], "other": [Cost(15, 20), Cost(30, 40), Cost(45, 60)]}

    other = results(costs, "engine")["other"]

    assert Spread(1.5, 1.5, 1.5) == other.wall_ratio
    assert Spread(1, 1, 1) == other.cpu_ratio
    assert Spread(30, 22.5, 37.5) == other.wall


def test_everybody_begins_and_follows_somebody_else() -> None:
    """Who begins changes from round to round, and who comes before whom."""
    orders = ["".join(in_turn("ABCD", number)) for number in range(4)]

    assert orders == ["ABCD", "BADC", "CDAB", "DCBA"]


def test_the_floor_multiplies_as_often_as_the_graph(whole: onnx.ModelProto) -> None:
    """Products alone are all of the products, those of attention included."""
    assert graph_macs(whole) == graph_macs(products_of(whole))


def test_the_floor_is_computed(whole: onnx.ModelProto) -> None:
    """The runtime leaves none of them out, and answers with one number of each, for any batch."""
    session = onnxruntime.InferenceSession(products_of(whole).SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = sum(node.op_type in {"MatMul", "Gemm"} for node in whole.graph.node)
    inputs = {value.name: np.ones((3, *value.shape[1:]), np.float32) for value in session.get_inputs()}

    numbers = session.run(None, inputs)

    assert wanted == len(numbers)
    assert {1} == {number.size for number in numbers}
    assert all(np.abs(number).max() > 0 for number in numbers)


def test_graphs_are_compared_with_the_engine_s_options(demo: Bundle) -> None:
    """Every option of a session, and whether idle threads spin, is that of the service's own."""
    engine = engine_of(demo)

    ours = engine._session.get_session_options()  # noqa: SLF001 (as it is opened)
    theirs = session_of(DEMO_BUNDLE / "model.onnx", engine.device_report.threads).get_session_options()

    names = [name for name in dir(ours) if not name.startswith("_") and not callable(getattr(ours, name))]
    assert "enable_mem_pattern" in names
    assert [(name, getattr(theirs, name)) for name in names] == [(name, getattr(ours, name)) for name in names]
    assert theirs.get_session_config_entry(SPINNING) == ours.get_session_config_entry(SPINNING)
