"""`--precision`: half floats and bytes, and what the manifest says they cost."""

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
from model_export.verification.precision_report import PrecisionOptions, logits
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
    """Take the graph of the demonstration classifier from the bundle that ships."""
    monkeypatch.setattr("model_export.build.to_onnx", exported_before(DEMO_BUNDLE))


@pytest.fixture(scope="session", params=PRECISIONS)
def reduced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demonstration classifier in another precision."""
    output = tmp_path_factory.mktemp("reduced") / "bundle"
    options = PRECISIONS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model_export.build.to_onnx", exported_before(DEMO_BUNDLE))
        build(str(CHECKPOINT), output, precision=options, images=training_digits(8), progress=QUIET)
    return load_bundle(output)


def correct(bundle: Bundle) -> int:
    """Of the 360 digits that were held out."""
    _, held_out = digits()
    pixels = np.stack([preprocess(image, bundle.manifest.preprocessing) for image in held_out.images])
    answers = logits(engine_of(bundle, buckets=[8]), pixels, 8)
    return int((answers.argmax(axis=1) == held_out.classes).sum())


def test_held_out_digits_are_read_as_well(reduced: Bundle, demo: Bundle) -> None:
    """At most one of 360 digits more is misread: 0.28 points."""
    assert correct(demo) - correct(reduced) <= 1


def test_the_ledger_is_in_the_manifest(reduced: Bundle) -> None:
    """How it was made, that it is smaller, how far it is off, and what was left in float32."""
    ledger = reduced.manifest.ledger

    assert ledger.method in PRECISIONS
    assert reduced.manifest.precision == ledger.method[:4]
    assert ledger.bytes == reduced.model.stat().st_size < 0.75 * ledger.fp32_bytes
    assert 0 < ledger.max_logit_difference <= 0.05 * ledger.logit_range
    assert ledger.top1_agreement >= 0.99
    assert [bucket.batch for bucket in ledger.buckets] == [1, 8]
    assert {"ReduceMean"} < {node.op_type for node in graph_of(reduced).node if node.name in ledger.kept_float32}


def graph_of(bundle: Bundle) -> onnx.GraphProto:
    return onnx.load(bundle.model).graph


def test_the_weights_are_small(reduced: Bundle) -> None:
    """What is kept in float32 is a small part: biases, norms and the ends of the network."""
    wide = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
    sizes = {constant.name: np.prod(constant.dims) for constant in graph_of(reduced).initializer}
    floats = sum(sizes[constant.name] for constant in graph_of(reduced).initializer if constant.data_type in wide)

    assert floats < 0.1 * sum(sizes.values())


def test_golden_samples_are_the_converted_graph_s(reduced: Bundle, demo: Bundle) -> None:
    """The service's own check passes, and would not if another network's logits were promised."""
    check_golden(reduced, engine_of(reduced))

    assert reduced.manifest.golden.tolerance > demo.manifest.golden.tolerance


def test_calibrated_rows_do_not_depend_on_their_batch(reduced: Bundle) -> None:
    """Only int8 dynamic scales activations by what a batch holds; the ledger says by how much that moves a logit."""
    ledger = reduced.manifest.ledger
    moves = ledger.max_batch_difference / ledger.logit_range

    assert (moves > 0.005) is (ledger.method == "int8 dynamic")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_version_2_as_well(precision: str, tmp_path: Path) -> None:
    """Cosine attention divides by lengths whose squares and bounds half floats do not hold: those stay."""
    folder = save_checkpoint(tmp_path / "checkpoint", version=2, image_size=64, window_size=8)
    options = ["--precision", precision, "--min-agreement", "0.8", "--quiet"]

    assert main(["build", str(folder), str(tmp_path / "bundle"), *options]) == 0

    ledger = load_bundle(tmp_path / "bundle").manifest.ledger
    assert ledger.max_logit_difference <= 0.1 * ledger.logit_range


@pytest.mark.usefixtures("exported")
def test_too_much_loss_is_refused(tmp_path: Path) -> None:
    """Below the agreement asked for there is no bundle; the sentence has the figure."""
    options = PrecisionOptions("int8", min_agreement=1.01)

    with pytest.raises(PrecisionLost, match=r"int8 gives the best class of float32 for \d+\.\d% of 64 images"):
        build(str(CHECKPOINT), tmp_path / "out", precision=options, images=training_digits(8), progress=QUIET)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("exported")
def test_images_to_calibrate_with_are_a_folder(tmp_path: Path) -> None:
    """`--calibrate` takes a folder's images through the checkpoint's own preprocessing."""
    (tmp_path / "photos").mkdir()
    for seed in range(12):
        (tmp_path / "photos" / f"{seed}.png").write_bytes(encode(draw_picture(90, 70, seed)))
    options = ["--precision", "int8", "--calibrate", str(tmp_path / "photos"), "--min-agreement", "0.5", "--quiet"]

    assert main(["build", str(CHECKPOINT), str(tmp_path / "bundle"), *options]) == 0

    ledger = load_bundle(tmp_path / "bundle").manifest.ledger
    assert (ledger.method, ledger.images) == ("int8 calibrated", 12 + len(images.generated()))


def test_calibration_is_for_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In another precision there is nothing to calibrate: one sentence, exit code 2."""
    options = ["--precision", "fp16", "--calibrate", str(tmp_path)]

    assert main(["build", str(CHECKPOINT), str(tmp_path / "out"), *options]) == 2
    assert "--calibrate is for --precision int8" in capsys.readouterr().err
