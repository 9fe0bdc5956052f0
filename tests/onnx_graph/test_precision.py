"""Tests of `--precision`: builds in fp16 and int8, and the precision report in the manifest."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from app.bundle.load import Bundle, load_bundle
from app.images.preprocess import preprocess
from app.inference.self_test import check_golden
from app.settings import DEMO_BUNDLE
from model_export.build import build
from model_export.cli.main import main
from model_export.console import Progress
from model_export.demo import CHECKPOINT, digits
from model_export.errors import PrecisionLost
from model_export.verification import images
from model_export.verification.images import Images
from model_export.verification.precision_report import PrecisionOptions, run_in_batches
from tests.references.draw import draw_picture
from tests.support.engines import engine_of
from tests.support.images import encode
from tests.support.networks import exported_before, save_checkpoint

QUIET = Progress(quiet=True)


def training_digits(count: int) -> Images:
    train, _ = digits()
    return {f"digit {index}": image for index, image in enumerate(train.images[:count])}


PRECISIONS = {
    "fp16": PrecisionOptions("fp16"),
    "int8 dynamic": PrecisionOptions("int8"),
    "int8 calibrated": PrecisionOptions("int8", training_digits(64)),
}


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the ONNX export by the graph of the demo bundle."""
    monkeypatch.setattr("model_export.build.to_onnx", exported_before(DEMO_BUNDLE))


@pytest.fixture(scope="session", params=PRECISIONS)
def reduced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo classifier in another precision."""
    output = tmp_path_factory.mktemp("reduced") / "bundle"
    options = PRECISIONS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model_export.build.to_onnx", exported_before(DEMO_BUNDLE))
        build(str(CHECKPOINT), output, precision=options, images=training_digits(8), progress=QUIET)
    return load_bundle(output)


def correct(bundle: Bundle) -> int:
    """Count the correct predictions for the 360 held-out digits."""
    _, held_out = digits()
    pixels = np.stack([preprocess(image, bundle.manifest.preprocessing) for image in held_out.images])
    answers = run_in_batches(engine_of(bundle, buckets=[8]), pixels, 8)
    return int((answers.argmax(axis=1) == held_out.classes).sum())


def test_the_accuracy_is_kept(reduced: Bundle, demo: Bundle) -> None:
    """At most one more of 360 held-out digits is wrong, 0.28 percentage points."""
    assert correct(demo) - correct(reduced) <= 1


def test_the_precision_report_is_in_the_manifest(reduced: Bundle) -> None:
    """The manifest contains method, size, differences, timings and the nodes kept in float32."""
    report = reduced.manifest.ledger

    assert report.method in PRECISIONS
    assert reduced.manifest.precision == report.method[:4]
    assert report.bytes == reduced.model.stat().st_size < 0.75 * report.fp32_bytes
    assert 0 < report.max_logit_difference <= 0.05 * report.logit_range
    assert report.top1_agreement >= 0.99
    assert [bucket.batch for bucket in report.buckets] == [1, 8]
    assert {"ReduceMean"} < {node.op_type for node in graph_of(reduced).node if node.name in report.kept_float32}


def graph_of(bundle: Bundle) -> onnx.GraphProto:
    return onnx.load(bundle.model).graph


def test_the_weights_are_small(reduced: Bundle) -> None:
    """At most 10 % of the constants are float32: biases, norms and the ends of the network."""
    wide = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
    sizes = {constant.name: np.prod(constant.dims) for constant in graph_of(reduced).initializer}
    floats = sum(sizes[constant.name] for constant in graph_of(reduced).initializer if constant.data_type in wide)

    assert floats < 0.1 * sum(sizes.values())


def test_golden_samples_are_of_the_converted_graph(reduced: Bundle, demo: Bundle) -> None:
    """The self-test of the service passes with the logits of the converted graph."""
    check_golden(reduced, engine_of(reduced))

    assert reduced.manifest.golden.tolerance > demo.manifest.golden.tolerance


def test_calibrated_rows_do_not_depend_on_their_batch(reduced: Bundle) -> None:
    """Only with int8 dynamic, logits depend on the other images of a batch, as the precision report states."""
    report = reduced.manifest.ledger
    moves = report.max_batch_difference / report.logit_range

    assert (moves > 0.005) is (report.method == "int8 dynamic")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_version_2_is_converted(precision: str, tmp_path: Path) -> None:
    """A Swin V2 is converted, with the lengths of its cosine attention kept in float32."""
    folder = save_checkpoint(tmp_path / "checkpoint", version=2, image_size=64, window_size=8)
    options = ["--precision", precision, "--min-agreement", "0.8", "--quiet"]

    assert main(["build", str(folder), str(tmp_path / "bundle"), *options]) == 0

    report = load_bundle(tmp_path / "bundle").manifest.ledger
    assert report.max_logit_difference <= 0.1 * report.logit_range


@pytest.mark.usefixtures("exported")
def test_too_low_agreement_is_refused(tmp_path: Path) -> None:
    """Below the minimum agreement, no bundle is written, and the error contains the agreement."""
    options = PrecisionOptions("int8", min_agreement=1.01)

    with pytest.raises(PrecisionLost, match=r"the best class of int8 equals that of float32 for \d+\.\d% of 64 images"):
        build(str(CHECKPOINT), tmp_path / "out", precision=options, images=training_digits(8), progress=QUIET)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("exported")
def test_calibration_images_are_read_from_a_folder(tmp_path: Path) -> None:
    """`--calibrate` calibrates int8 with the images of a folder."""
    (tmp_path / "photos").mkdir()
    for seed in range(12):
        (tmp_path / "photos" / f"{seed}.png").write_bytes(encode(draw_picture(90, 70, seed)))
    options = ["--precision", "int8", "--calibrate", str(tmp_path / "photos"), "--min-agreement", "0.5", "--quiet"]

    assert main(["build", str(CHECKPOINT), str(tmp_path / "bundle"), *options]) == 0

    report = load_bundle(tmp_path / "bundle").manifest.ledger
    assert (report.method, report.images) == ("int8 calibrated", 12 + len(images.generate_images()))


def test_calibration_is_for_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--calibrate` without int8 gives one sentence and exit code 2."""
    options = ["--precision", "fp16", "--calibrate", str(tmp_path)]

    assert main(["build", str(CHECKPOINT), str(tmp_path / "out"), *options]) == 2
    assert "--calibrate is for --precision int8" in capsys.readouterr().err
