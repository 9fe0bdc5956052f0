"""Tests of `swin-export build` with checkpoints of every source, valid and invalid."""

import argparse
import json
import os
import pickle
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from starlette.testclient import TestClient
from torch import Tensor

from app.bundle.load import load_bundle
from app.main import create_app
from app.settings import Settings
from model_export.checkpoints import timm
from model_export.checkpoints.checkpoint import Checkpoint, Options
from model_export.checkpoints.detect import read_checkpoint
from model_export.cli.arguments import read_labels
from model_export.cli.main import main
from model_export.errors import CheckpointError, RequestError
from tests.export.conftest import ARGUMENTS, BREEDS, FLOWERS
from tests.references import cases
from tests.references.draw import draw_picture
from tests.references.stored import Stored, stored
from tests.support.images import encode
from tests.support.networks import save_checkpoint


def answers(bundle: Path) -> list[list[tuple[str, float]]]:
    """Return the top 5 labels and scores of the service for the reference images."""
    with TestClient(create_app(Settings(bundle=bundle, device="cpu"))) as client:
        bodies = [encode(draw_picture(*size)) for size in cases.PICTURES]
        found = [client.post("/classify?top_k=5", content=body).json()["predictions"] for body in bodies]
    return [[(row["label"], row["score"]) for row in rows] for rows in found]


def assert_equals_the_library(bundle: Path, library: Stored, names: list[str]) -> None:
    """Assert that the top 5 and their order are equal, with scores within 1e-4."""
    for scores, answer in zip(library.arrays["pipeline scores"], answers(bundle), strict=True):
        best = np.argsort(-scores)[:5]

        assert [names[index] for index in best] == [label for label, _ in answer]
        assert np.allclose(scores[best], [score for _, score in answer], atol=1e-4)


def test_a_fine_tune_of_timm(timm_folder: Path, tmp_path: Path) -> None:
    """A timm folder is served with the labels and preprocessing of its config.json, and with the scores of timm."""
    assert main(["build", str(timm_folder), str(tmp_path / "bundle"), "--quiet"]) == 0

    assert_equals_the_library(tmp_path / "bundle", stored("timm"), BREEDS)
    source = load_bundle(tmp_path / "bundle").manifest.source
    assert (source.kind, source.preprocessing_from, source.labels_from) == ("timm", "checkpoint", "checkpoint")


def test_a_fine_tune_of_torchvision(torchvision_file: Path, tmp_path: Path) -> None:
    """A torchvision file is served with the labels and preprocessing of options, and the scores of torchvision."""
    labels = str(tmp_path / "flowers.txt")
    options = ["--labels", labels, "--resize", "70", "--fit", "shorter-side", "--crop", "64"]
    options += ["--interpolation", "bilinear", "--quiet"]

    assert main(["build", str(torchvision_file), str(tmp_path / "bundle"), *options]) == 0

    assert_equals_the_library(tmp_path / "bundle", stored("torchvision"), FLOWERS)
    source = load_bundle(tmp_path / "bundle").manifest.source
    assert (source.kind, source.preprocessing_from, source.labels_from) == ("torchvision", "options", "options")


def test_a_pickle_equals_safetensors(timm_folder: Path) -> None:
    """Without a safetensors file, the tensors are read from pytorch_model.bin."""
    weights = load_file(timm_folder / "model.safetensors")
    expected = read_checkpoint(str(timm_folder))
    (timm_folder / "model.safetensors").unlink()
    torch.save(weights, timm_folder / "pytorch_model.bin")

    assert_same_network(expected, read_checkpoint(str(timm_folder)))


def test_sharded_pickles_equal_safetensors(tmp_path: Path) -> None:
    """The shards of pytorch_model.bin in a save_pretrained folder give the same network as safetensors."""
    folder = save_checkpoint(tmp_path / "checkpoint")
    expected = read_checkpoint(str(folder))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for file, part in shards.items():
        torch.save({name: weights[name] for name in part}, folder / file)
    places = {name: file for file, part in shards.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))

    assert_same_network(expected, read_checkpoint(str(folder)))


def assert_same_network(expected: Checkpoint, actual: Checkpoint) -> None:
    wanted, found = expected.network.state_dict(), actual.network.state_dict()

    assert expected.network.config == actual.network.config
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize(("key", "prefix"), [("model", ""), ("state_dict", "module."), (None, "_orig_mod.module.")])
def test_training_wrappers_are_removed(key: str | None, prefix: str, tmp_path: Path) -> None:
    """A dictionary around the weights and a common prefix of their names are removed."""
    plain = stored("timm").state_dict("pipeline")
    weights: dict[str, Any] = {f"{prefix}{name}": weight for name, weight in plain.items()}
    settings = {"optimizer": {"state": {}}, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save({key: weights, **settings} if key else weights, tmp_path / "weights.pth")
    checkpoint = read_checkpoint(str(tmp_path / "weights.pth"), Options(input_size=(64, 64)))

    assert torch.equal(plain["head.fc.weight"], checkpoint.network.head.weight)


def test_a_set_of_weights_is_chosen(tmp_path: Path) -> None:
    """`--weights` selects one of two sets of weights; without it, the checkpoint is refused."""
    weights = stored("torchvision").state_dict("pipeline")
    average = {f"module.{name}": weight + 1 for name, weight in weights.items() if weight.is_floating_point()}
    torch.save({"model": weights, "model_ema": average | {"n_averaged": torch.tensor(3)}}, tmp_path / "both.pth")
    options = Options(input_size=(64, 64), weights="model_ema")
    average["head.weight"] = average.pop("module.head.weight")

    with pytest.raises(CheckpointError, match="several sets of weights: model, model_ema; choose one with --weights"):
        read_checkpoint(str(tmp_path / "both.pth"))
    assert torch.equal(average["head.weight"], read_checkpoint(str(tmp_path / "both.pth"), options).network.head.weight)


def test_saved_tables_determine_the_windows(tmp_path: Path) -> None:
    """For version 2 files of the original code, the saved tables determine windows, pretrained windows and input."""
    weights = timm.renamed(stored("timm").state_dict("swinv2_base_window12to16_192to256"))
    for stage, (window, pretrained) in enumerate([(16, 12), (16, 12), (16, 12), (8, 6)]):
        place = f"layers.{stage}.blocks.0.attn."
        weights[f"{place}relative_position_index"] = torch.zeros(window**2, window**2, dtype=torch.int64)
        offsets = torch.arange(1 - window, window) / (pretrained - 1) * 8
        spaced = offsets.sign() * (offsets.abs() + 1).log2() / 3
        weights[f"{place}relative_coords_table"] = torch.stack(torch.meshgrid(spaced, spaced, indexing="ij"), -1)[None]
    weights["layers.0.blocks.1.attn_mask"] = torch.zeros(16, 256, 256)
    torch.save({"model": weights}, tmp_path / "weights.pth")
    config = read_checkpoint(str(tmp_path / "weights.pth")).network.config

    assert config.window_sizes == ((16, 16), (16, 16), (16, 16), (8, 8))
    assert config.pretrained_window_sizes == (12, 12, 12, 6)
    assert config.input_size == (256, 256)


def test_another_input_size_interpolates_the_tables(timm_folder: Path) -> None:
    """For a window of 6 instead of 4, a bias table of 7×7 offsets is interpolated to 11×11 offsets."""
    trained = read_checkpoint(str(timm_folder)).network
    resized = read_checkpoint(str(timm_folder), Options(input_size=(96, 96), window=6)).network
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    tables = [network.get_parameter(name) for network in (trained, resized)]
    expected = torch.nn.functional.interpolate(tables[0].T.view(1, 2, 7, 7), (11, 11), mode="bicubic")

    assert resized.config.window_sizes == ((6, 6), (6, 6))
    assert torch.equal(expected.view(2, 121).T, tables[1])
    assert torch.allclose(tables[0][24], tables[1][60], atol=0.2)


def test_a_resized_network_is_built(timm_folder: Path, tmp_path: Path) -> None:
    """`--input-size` changes the input of the bundle and its preprocessing."""
    assert main(["build", str(timm_folder), str(tmp_path / "bundle"), "--input-size", "96x128", "--quiet"]) == 0

    manifest = load_bundle(tmp_path / "bundle").manifest
    assert (manifest.input_height, manifest.input_width) == (96, 128)
    assert manifest.preprocessing.output_size == (96, 128)


def test_images_can_be_padded(timm_folder: Path, tmp_path: Path) -> None:
    """`--fit pad` pads with the mean color."""
    assert main(["build", str(timm_folder), str(tmp_path / "bundle"), "--fit", "pad", "--quiet"]) == 0

    resize = load_bundle(tmp_path / "bundle").manifest.preprocessing.resize
    assert (resize.mode, getattr(resize, "fill", None)) == ("pad", (124, 116, 104))


class RunsCode:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def runs_code(folder: Path, file: Path) -> list[str]:
    torch.save({"model": {"patch_embed.proj.weight": RunsCode(folder / "trace")}}, file)
    return []


def is_a_plain_pickle(_: Path, file: Path) -> list[str]:
    file.write_bytes(pickle.dumps({"model": os.system}))
    return []


def changed(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path, Path], list[str]]:
    def save(_: Path, file: Path) -> list[str]:
        weights = stored("timm").state_dict("pipeline")
        change(weights)
        torch.save(weights, file)
        return ["--input-size", "64"]

    return save


def truncated(_: Path, file: Path) -> list[str]:
    changed(lambda _: None)(file.parent, file)
    file.write_bytes(file.read_bytes()[:50_000])
    return []


def text(_: Path, file: Path) -> list[str]:
    file.write_text("not weights")
    return []


def empty(_: Path, file: Path) -> list[str]:
    file.touch()
    return []


def without_a_tensor(_: Path, file: Path) -> list[str]:
    torch.save({}, file)
    return []


def of_another_network(_: Path, file: Path) -> list[str]:
    torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, file)
    return []


def of_another_architecture(folder: Path, file: Path) -> list[str]:
    options = changed(lambda _: None)(folder, file)
    return [*options, "--architecture", "swin_base_patch4_window7_224"]


def with_a_label_too_few(folder: Path, file: Path) -> list[str]:
    options = changed(lambda _: None)(folder, file)
    (folder / "labels.txt").write_text("one\ntwo\n")
    return [*options, "--labels", str(folder / "labels.txt")]


def without_a_window(_: Path, file: Path) -> list[str]:
    torch.save(stored("timm").state_dict("swinv2_tiny_window8_256"), file)
    return []


def that_the_original_code_rejects(_: Path, file: Path) -> list[str]:
    torch.save({"model": timm.renamed(stored("timm").state_dict("swin_tiny_patch4_window7_224"))}, file)
    return ["--input-size", "384"]


REFUSED: dict[str, tuple[Callable[[Path, Path], list[str]], str]] = {
    "runs code": (
        runs_code,
        "weights.pth asks for posix.mkdir, which could run code and belongs to no weights; it is not read",
    ),
    "plain pickle": (is_a_plain_pickle, "weights.pth asks for posix.system, which could run code"),
    "truncated": (truncated, "weights.pth is damaged"),
    "text": (text, "weights.pth is text, not weights; it begins with: not weights"),
    "empty": (empty, "weights.pth is empty"),
    "without a tensor": (without_a_tensor, "weights.pth: the checkpoint holds no weights"),
    "another network": (of_another_network, "no Swin Transformer's weights among layer1.0.conv1.weight"),
    "missing": (changed(lambda weights: weights.pop("norm.bias")), "norm.bias is missing"),
    "unknown": (changed(lambda weights: weights.update(extra=torch.zeros(1))), r"extra \(1\), which is unknown"),
    "not finite": (
        changed(lambda weights: weights["norm.bias"].fill_(torch.nan)),
        "norm.bias holds values that are not",
    ),
    "another architecture": (
        of_another_architecture,
        "swin_base_patch4_window7_224 asks for embed_dim 128, the weights have 24",
    ),
    "labels": (with_a_label_too_few, "--labels names 2 classes, the network has 37"),
    "no window": (without_a_window, "--architecture: swinv2_tiny_window8_256, swinv2_tiny_window16_256"),
    "padding": (that_the_original_code_rejects, "windows of 7 do not divide a map of 96×96"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad file gives one sentence, exit code 2 and no bundle, and code in the file does not run."""
    make, sentence = REFUSED[case]
    options = make(tmp_path, tmp_path / "weights.pth")

    assert main(["build", str(tmp_path / "weights.pth"), str(tmp_path / "out"), "--quiet", *options]) == 2

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(sentence, error)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "trace").exists()


FOLDERS: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"architecture": "vit_base_patch16_224"}, "'vit_base_patch16_224' is not a known Swin"),
    "sizes": (
        {"model_args": ARGUMENTS | {"embed_dim": 48}},
        "asks for embed_dim 48, the weights have 24",
    ),
    "depths": (
        {"model_args": ARGUMENTS | {"depths": [2, 3]}},
        "asks for depths 2, 3, the weights have 2, 2",
    ),
    "labels": ({"label_names": BREEDS[1:]}, "names 36 classes, the network has 37"),
    "images": (
        {"pretrained_cfg": {"input_size": [3, 32, 32]}},
        "made for 64×64 pixels, its images have 32×32",
    ),
    "pooling": ({"global_pool": "max"}, "global_pool: Input should be 'avg'"),
    "argument": ({"model_args": {"spatial_gating": True}}, "model_args.spatial_gating: unknown key"),
    "crop mode": ({"pretrained_cfg": cases.TIMM_RECIPE | {"crop_mode": "random"}}, "crop_mode 'random'"),
    "interpolation": ({"pretrained_cfg": cases.TIMM_RECIPE | {"interpolation": "random"}}, "interpolation 'random'"),
    "fraction": (
        {"pretrained_cfg": cases.TIMM_RECIPE | {"crop_pct": -1}},
        "crop_pct is -1, not a fraction of the image",
    ),
    "classes": ({"num_classes": 99}, "different numbers of classes, 37 and 99"),
    "classes of the weights": (
        {"num_classes": 99, "model_args": ARGUMENTS | {"num_classes": 99}, "pretrained_cfg": cases.TIMM_RECIPE},
        "has 99 classes, the weights 37",
    ),
    "a hole in the labels": ({"label_names": {"0": "a", "2": "b"}}, "does not count from 0 to 1"),
    "sizes that are none": ({"model_args": {"embed_dim": 24.5}}, "embed_dim: Input should be a valid integer"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_contradictory_configuration_is_refused(
    case: str, timm_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config.json of timm that contradicts the weights or itself gives one sentence, exit code 2 and no bundle."""
    change, sentence = FOLDERS[case]
    config = json.loads((timm_folder / "config.json").read_text())
    (timm_folder / "config.json").write_text(json.dumps(config | change))

    assert main(["build", str(timm_folder), str(tmp_path / "out"), "--quiet"]) == 2

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(sentence, error)
    assert not (tmp_path / "out").exists()


def test_a_truncated_safetensors_is_refused(
    timm_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A truncated file gives one sentence with its name, exit code 2 and no bundle."""
    file = timm_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])

    assert main(["build", str(timm_folder), str(tmp_path / "out"), "--quiet"]) == 2
    assert "model.safetensors is damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--crop", "32", "--input-size", "64"], "--crop and --input-size differ"),
        (["--architecture", "swin_huge"], "--architecture swin_huge is not known"),
        (["--labels", "nowhere.txt"], "nowhere.txt does not name classes"),
        (["--resize", "32"], "a crop of 64×64 is larger than the resized image"),
        (["--fit", "squash", "--resize", "96"], "would end with 96×96 pixels, the network takes 64×64 pixels"),
        (["--fit", "pad", "--mean", "123,116,103"], "these options give no valid preprocessing"),
        (["--window", "6", "--input-size", "16x64"], "only squares are interpolated"),
    ],
)
def test_options_that_contradict_are_refused(
    options: list[str], sentence: str, timm_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options that contradict the checkpoint or each other give one sentence, exit code 2 and no bundle."""
    assert main(["build", str(timm_folder), str(tmp_path / "out"), "--quiet", *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"\xef\xbb\xbfone\r\ntwo\r\n", ["one", "two"]),
        (b'["one", "two"]', ["one", "two"]),
        (b'{"1": "two", "0": "one"}', ["one", "two"]),
        (b'[{"name": "one", "wnid": "n01440764"}, {"name": "two"}]', ["one", "two"]),
    ],
)
def test_labels_are_lines_or_json(content: bytes, names: list[str], tmp_path: Path) -> None:
    """Labels are read from lines, from a list, from `id2label` and from names with WordNet ids."""
    (tmp_path / "labels").write_bytes(content)

    assert names == [label.name for label in read_labels(tmp_path / "labels")]


@pytest.mark.parametrize("content", [b"", b"one\n\ntwo\n", b"[null]", b'{"0": "one", "2": "two"}', b"[1", b"\xff"])
def test_a_file_without_class_names_is_refused(content: bytes, tmp_path: Path) -> None:
    """An empty name, missing numbers and content that is not text give an error with the name of the file."""
    (tmp_path / "labels").write_bytes(content)

    with pytest.raises(RequestError, match="labels"):
        read_labels(tmp_path / "labels")


@pytest.mark.parametrize(
    "option",
    [
        ["--std", "0"],
        ["--mean", "nan"],
        ["--mean", "1,2"],
        ["--crop", "0"],
        ["--window", "0"],
        ["--min-agreement", "2"],
    ],
)
def test_an_invalid_value_is_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid value gives exit code 2 and the name of the option, before a file is read."""
    with pytest.raises(SystemExit) as ended:
        main(["build", "nowhere", "out", *option])

    assert ended.value.code == 2
    assert f"argument {option[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize("source", ["timm", "huggingface"])
def test_a_pickle_in_a_folder_cannot_run_code(
    source: str, timm_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pytorch_model.bin that would run code gives one sentence, exit code 2 and no bundle."""
    folder = timm_folder if source == "timm" else save_checkpoint(tmp_path / "checkpoint")
    (folder / "model.safetensors").unlink()
    runs_code(tmp_path, folder / "pytorch_model.bin")

    assert main(["build", str(folder), str(tmp_path / "out"), "--quiet"]) == 2
    assert "pytorch_model.bin asks for posix.mkdir" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "trace").exists()


def test_a_yacs_configuration_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The yacs configuration that the original code pickles beside the weights is skipped."""
    config = types.ModuleType("yacs.config")
    config.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})  # type: ignore[attr-defined]  # an attribute of the new module
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", config)
    weights = timm.renamed(stored("timm").state_dict("plain"))
    settings = config.CfgNode(MODEL=config.CfgNode(NAME="swin"))
    torch.save({"model": weights, "config": settings}, tmp_path / "ckpt_epoch_299.pth")

    assert read_checkpoint(str(tmp_path / "ckpt_epoch_299.pth"), Options(input_size=(64, 64))).source.kind == "original"


def test_early_configurations_of_timm(timm_folder: Path) -> None:
    """Without `pretrained_cfg`, its keys are read from the top level, and class names from the object `labels`."""
    config = json.loads((timm_folder / "config.json").read_text())
    del config["pretrained_cfg"], config["label_names"]
    early = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "input_size": [3, 64, 64],
    }
    config |= early | {"labels": {str(index): name for index, name in enumerate(BREEDS)}}
    (timm_folder / "config.json").write_text(json.dumps(config))
    checkpoint = read_checkpoint(str(timm_folder))

    assert [label.name for label in checkpoint.labels] == BREEDS
    assert (checkpoint.preprocessing.mean, checkpoint.preprocessing.interpolation) == ((0.5, 0.5, 0.5), "bilinear")


def test_the_current_input_size_changes_nothing(timm_folder: Path) -> None:
    """`--input-size` with the size of the checkpoint keeps the network and its reference."""
    expected, asked = (read_checkpoint(str(timm_folder), options) for options in (None, Options(input_size=(64, 64))))

    assert expected.network.config == asked.network.config
    assert expected.reference.name == asked.reference.name


def test_an_architecture_beside_a_configuration_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--architecture` is refused for a folder with a config.json of transformers."""
    folder = save_checkpoint(tmp_path / "checkpoint")

    assert main(["build", str(folder), str(tmp_path / "out"), "--architecture", "swin_tiny_patch4_window7_224"]) == 2
    assert "--architecture is for bare state dicts" in capsys.readouterr().err
