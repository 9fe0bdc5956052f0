"""Tests of `swin-export build`, from a checkpoint to a bundle that gives the scores of its source."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient
from transformers import pipeline

from app.bundle.load import load_bundle
from app.classification.embedding import mean_token
from app.classification.evidence import contributions
from app.errors import BundleError
from app.images.preprocess import decode_pixels, preprocess
from app.inference.engine import open_engine
from app.inference.self_test import check_golden
from app.main import create_app
from app.settings import DEMO_BUNDLE, Settings
from model_export.build import build
from model_export.bundle_io.write import bundle_folder
from model_export.cli.main import main
from model_export.console import Progress
from model_export.errors import RequestError, VerificationFailed
from tests.references.draw import draw_picture
from tests.support.engines import engine_of
from tests.support.images import encode
from tests.support.networks import exported_before, save_checkpoint

QUIET = Progress(quiet=True)
SIZES = [(120, 90), (90, 120), (300, 40), (64, 64), (17, 23)]


@pytest.fixture
def exported(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the ONNX export by the graph in the bundle of `tiny_checkpoint`."""
    monkeypatch.setattr("model_export.build.to_onnx", exported_before(tiny_bundle))


def test_the_service_equals_the_pipeline(tiny_checkpoint: Path, tiny_bundle: Path) -> None:
    """Top-5 labels and their order equal the transformers pipeline, and scores differ by at most 1e-4."""
    classify = pipeline("image-classification", model=str(tiny_checkpoint))
    images = [draw_picture(*size, seed) for seed, size in enumerate(SIZES)]
    with TestClient(create_app(Settings(bundle=tiny_bundle, device="cpu"))) as client:
        for image in images:
            expected = classify(image, top_k=5)
            answer = client.post("/classify", content=encode(image)).json()["predictions"]

            assert [row["label"] for row in expected] == [row["label"] for row in answer]
            assert np.allclose([row["score"] for row in expected], [row["score"] for row in answer], atol=1e-4)


def test_version_2_is_built_and_served(tmp_path: Path) -> None:
    """A bundle of Swin V2 equals the pipeline, and its graph has constants for bias network and temperatures."""
    checkpoint = save_checkpoint(tmp_path / "checkpoint", version=2, image_size=64, pretrained_window_sizes=[6, 0])
    build(str(checkpoint), tmp_path / "bundle", progress=QUIET)
    operators = {node.op_type for node in onnx.load(tmp_path / "bundle/model.onnx").graph.node}
    expected = pipeline("image-classification", model=str(checkpoint))(draw_picture(120, 90), top_k=5)
    with TestClient(create_app(Settings(bundle=tmp_path / "bundle", device="cpu"))) as client:
        answer = client.post("/classify", content=encode(draw_picture(120, 90))).json()["predictions"]

    assert load_bundle(tmp_path / "bundle").manifest.architecture.family == "swin_v2"
    assert not operators & {"Sigmoid", "Exp", "Relu", "Log", "Where", "Shape"}
    assert [row["label"] for row in expected] == [row["label"] for row in answer]
    assert np.allclose([row["score"] for row in expected], [row["score"] for row in answer], atol=1e-4)


def test_the_random_network_distinguishes_images(tiny_bundle: Path) -> None:
    """The logits of different images differ, so that comparing them is meaningful."""
    logits = load_bundle(tiny_bundle).golden_logits

    assert len(set(logits.argmax(axis=1))) > 1 or np.ptp(logits, axis=0).max() > 0.1 * np.ptp(logits)


def test_the_batch_axis_is_symbolic(tiny_bundle: Path) -> None:
    """Input and outputs have the names and shapes of the bundle format, with a symbolic batch axis."""
    graph = onnx.load(tiny_bundle / "model.onnx").graph

    def shape(value: onnx.ValueInfoProto) -> list[str | int]:
        return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]

    assert [(value.name, shape(value)) for value in graph.input] == [("pixels", ["batch", 64, 64, 3])]
    outputs = [("logits", ["batch", 20]), ("tokens", ["batch", 16, 96])]
    assert outputs == [(value.name, shape(value)) for value in graph.output]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_the_graph_computes_no_constants(tiny_bundle: Path) -> None:
    """The graph contains no roll, no mask and no index arithmetic."""
    operators = {node.op_type for node in onnx.load(tiny_bundle / "model.onnx").graph.node}

    assert not operators & {
        "ScatterND",
        "ScatterElements",
        "Where",
        "Range",
        "Shape",
        "Concat",
        "Div",
        "Sqrt",
        "Expand",
    }


def test_no_path_of_the_machine_is_stored(tiny_bundle: Path) -> None:
    """Graph, manifest and labels contain no path of the exporting machine."""
    for name in ("model.onnx", "manifest.json", "labels.json"):
        assert not re.search(rb"(\.py\b|/(home|root|tmp|usr|work)/)", (tiny_bundle / name).read_bytes())


def test_the_manifest_contains_the_verification(tiny_bundle: Path) -> None:
    """The manifest lists every stage with its difference, including all batch sizes."""
    verified = load_bundle(tiny_bundle).manifest.verified

    names = [stage.name for stage in verified.stages]
    assert names[:4] == ["preprocessing, mean", "preprocessing, largest", "network", "static"]
    assert names[4:8] == ["onnx, batch of 1", "onnx, batch of 2", "onnx, batch of 3", "onnx, batch of 8"]
    assert names[8:] == ["evidence", "embedding", "end to end"]
    assert all(stage.difference <= stage.tolerance for stage in verified.stages)
    assert verified.top1_agreement == 1


def test_the_golden_samples_pass_the_self_test(tiny_bundle: Path) -> None:
    """The self-test of the service accepts the exported golden samples."""
    bundle = load_bundle(tiny_bundle)

    check_golden(bundle, engine_of(bundle))


@pytest.mark.usefixtures("exported")
def test_given_images_become_golden_samples(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """`--images` stores the images of a folder as PNG golden samples."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(2):
        (photos / f"photo-{seed}.jpg").write_bytes(encode(draw_picture(700, 500, seed), "JPEG"))

    assert main(["build", str(tiny_checkpoint), str(tmp_path / "out"), "--images", str(photos), "--quiet"]) == 0

    golden = load_bundle(tmp_path / "out").manifest.golden
    assert [sample.file for sample in golden.samples] == ["golden/photo-0.png", "golden/photo-1.png"]


def off_by(amount: float) -> Callable[..., Any]:
    """Return an `open_engine` that opens engines with `amount` added to all logits."""

    def open_faulty_engine(*arguments: Any, **options: Any) -> Any:
        engine = open_engine(*arguments, **options)
        run = engine.run
        engine.run = lambda pixels: run(pixels) + amount  # type: ignore[method-assign]  # the defect
        return engine

    return open_faulty_engine


DEFECTS: dict[str, tuple[str, Any]] = {
    "preprocessing, mean": (
        "model_export.verification.images.preprocess",
        lambda image, recipe: preprocess(image, recipe) ^ 1,
    ),
    "network": ("model_export.network.swin.WindowAttention.position_bias", lambda part: torch.zeros(part.heads, 1, 1)),
    "static": ("model_export.network.static.StaticAttention.forward", lambda _, x: torch.zeros_like(x)),
    "onnx, batch of 1": ("model_export.build.open_engine", off_by(1e-3)),
    "evidence": (
        "model_export.verification.parity.contributions",
        lambda tokens, head: contributions(tokens, head) * 1.01,
    ),
    "embedding": ("model_export.verification.parity.mean_token", lambda tokens: mean_token(tokens)[::-1]),
    "end to end": (
        "model_export.verification.parity.decode_pixels",
        lambda data, recipe: decode_pixels(data, recipe)[::-1, ::-1].copy(),
    ),
}


@pytest.mark.usefixtures("exported")
@pytest.mark.parametrize("stage", DEFECTS)
def test_a_difference_is_found_at_its_stage(
    stage: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect in one stage fails the verification at this stage, and leaves no files behind."""
    monkeypatch.setattr(*DEFECTS[stage])

    with pytest.raises(VerificationFailed) as failure:
        build(str(tiny_checkpoint), tmp_path / "out", progress=QUIET)

    assert failure.value.stage == stage
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("exported")
def test_a_bundle_that_the_service_would_reject_is_not_written(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader of the service checks the bundle before it is moved to its destination."""
    monkeypatch.setattr("model_export.build.write_labels", lambda folder, _: (folder / "labels.json").write_text("[]"))

    with pytest.raises(BundleError, match="0 labels for 20 classes"):
        build(str(tiny_checkpoint), tmp_path / "out", progress=QUIET)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_appears_during_the_export_is_kept(tmp_path: Path) -> None:
    """A folder that appears at the destination during the export is not replaced."""
    output = tmp_path / "out"

    def export() -> None:
        with bundle_folder(output, replace=False) as folder:
            shutil.copytree(DEMO_BUNDLE, folder, dirs_exist_ok=True)
            output.mkdir()
            (output / "thesis.tex").write_text("years of work")

    with pytest.raises(RequestError, match="exists"):
        export()
    assert (output / "thesis.tex").read_text() == "years of work"


def test_an_interrupted_replacement_keeps_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the last rename fails, the old bundle is restored."""
    output = shutil.copytree(DEMO_BUNDLE, tmp_path / "out")
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == "bundle":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), bundle_folder(output, replace=True) as folder:
        shutil.copytree(DEMO_BUNDLE, folder, dirs_exist_ok=True)

    assert load_bundle(output).manifest.name == "digits"


def test_an_existing_bundle_is_kept_without_force(tiny_checkpoint: Path, tiny_bundle: Path) -> None:
    """Without --force, an existing output is refused before the export, with exit code 2."""
    before = (tiny_bundle / "manifest.json").read_bytes()

    assert main(["build", str(tiny_checkpoint), str(tiny_bundle)]) == 2
    assert before == (tiny_bundle / "manifest.json").read_bytes()


@pytest.mark.usefixtures("exported")
def test_force_replaces_a_bundle_and_nothing_else(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """--force replaces a bundle, but not a folder that is not a bundle."""
    output, other = tmp_path / "out", tmp_path / "other"
    build(str(tiny_checkpoint), output, name="old", progress=QUIET)
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")

    build(str(tiny_checkpoint), output, name="new", replace=True, progress=QUIET)
    with pytest.raises(RequestError, match="not a bundle"):
        build(str(tiny_checkpoint), other, replace=True, progress=QUIET)

    assert load_bundle(output).manifest.name == "new"
    assert {output, other} == set(tmp_path.iterdir())


def test_a_failure_is_one_line_and_names_its_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint that contradicts itself gives exit code 2, one sentence and no bundle."""
    folder = save_checkpoint(tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text()) | {"window_size": 2}
    (folder / "config.json").write_text(json.dumps(config))

    code = main(["build", str(folder), str(tmp_path / "out")])

    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert lines[-2] == "✗ read the checkpoint"
    assert "relative_position_bias_table" in lines[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_without_its_libraries_the_extra_is_named(library: str, tmp_path: Path) -> None:
    """If a library is missing, `swin-export` names the extra to install before it reads the checkpoint."""
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError(name='{library}')")
    command = [sys.executable, "-m", "model_export", "build", "checkpoint", "bundle"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 (our own)

    assert ended.returncode == 2
    assert f"{library} is not installed; swin-export needs: pip install 'swin-serve[cpu,export]'" in ended.stderr


def test_the_help_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    """`swin-export build --help` contains options, examples and exit codes."""
    with pytest.raises(SystemExit) as exit_:
        main(["build", "--help"])

    text = capsys.readouterr().out
    assert exit_.value.code == 0
    for part in ("CHECKPOINT", "OUTPUT", "--revision", "--images", "--force", "examples:", "exit codes:"):
        assert part in text


def test_an_impossible_output_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An output that cannot be written gives exit code 2 before the checkpoint is read."""
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    refused = {"x" * 300: "File name too long", "link": "is a broken symbolic link"}
    for name, sentence in refused.items():
        assert main(["build", "no-checkpoint", str(tmp_path / name), "--force"]) == 2
        assert sentence in capsys.readouterr().err

    assert main(["build", "no-checkpoint", ".", "--force"]) == 2
    assert "is the current folder" in capsys.readouterr().err


def test_a_full_disk_is_refused_before_the_export(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the disk is too small for the bundle, the build ends with exit code 2 before the export."""
    monkeypatch.setattr("model_export.bundle_io.write.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr("model_export.build.to_onnx", None)

    assert main(["build", str(tiny_checkpoint), str(tmp_path / "out")]) == 2
    assert "has 0 MB left, the export needs about" in capsys.readouterr().err


def test_a_network_with_equal_logits_is_refused_before_the_export(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A last layer of zeros gives all images the same logits, and the build ends with exit code 2."""
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "zeros")
    weights = load_file(copy / "model.safetensors")
    save_file(
        {name: weight * 0 if name.startswith("classifier.") else weight for name, weight in weights.items()},
        copy / "model.safetensors",
        {"format": "pt"},
    )
    monkeypatch.setattr("model_export.build.to_onnx", None)

    assert main(["build", str(copy), str(tmp_path / "out")]) == 2
    assert "the last layer is all zeros" in capsys.readouterr().err


def test_a_lone_surrogate_in_a_label_is_refused_before_the_export(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A label with a lone surrogate, which UTF-8 cannot encode, gives exit code 2."""
    (tmp_path / "labels.json").write_text(json.dumps(["\ud800", *map(str, range(19))]))

    options = ["--labels", str(tmp_path / "labels.json")]
    assert main(["build", str(tiny_checkpoint), str(tmp_path / "out"), *options]) == 2
    assert "--labels: the name of class 0 holds half a character" in capsys.readouterr().err


def test_assumptions_are_printed_even_if_quiet(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --quiet, an assumed preprocessing is still printed."""
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "silent")
    (copy / "preprocessor_config.json").unlink()
    monkeypatch.setattr("model_export.bundle_io.write.shutil.disk_usage", lambda _: SimpleNamespace(free=0))

    assert main(["build", str(copy), str(tmp_path / "out"), "--quiet"]) == 2
    first, _ = capsys.readouterr().err.splitlines()
    assert "resize: to 64×64" in first
    assert "assumed: huggingface's published recipe, because the checkpoint has none" in first
    assert "change them with --fit" in first
