"""`model_export/checkpoints/`: Hugging Face folders are read, or refused with an error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.bundle.manifest import Label
from model_export.checkpoints.checkpoint import Options
from model_export.checkpoints.detect import read_checkpoint
from model_export.checkpoints.preprocessing import RecipeOptions
from model_export.errors import CheckpointError, RequestError, UnsupportedModel
from tests.support.networks import save_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a valid checkpoint, which a test may damage."""
    return save_checkpoint(tmp_path / "checkpoint")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_labels_come_in_the_order_of_their_numbers(folder: Path) -> None:
    """The string keys of `id2label` are sorted as numbers: class 10 comes after class 9."""
    edit(folder / "config.json", id2label={str(index): f"name {index}" for index in reversed(range(10))})

    labels = read_checkpoint(str(folder)).labels

    assert [f"name {index}" for index in range(10)] == [label.name for label in labels]


def test_the_id_of_a_folder_is_its_name(folder: Path) -> None:
    """The source id of a local folder is its name without the path."""
    assert read_checkpoint(str(folder)).source.id == "checkpoint"


@pytest.mark.parametrize(
    ("settings", "activation"),
    [
        ({}, "softmax"),
        ({"problem_type": "single_label_classification"}, "softmax"),
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
    ],
)
def test_the_activation_is_the_pipeline_s(folder: Path, settings: dict[str, str], activation: str) -> None:
    """`problem_type` gives the activation of the transformers pipeline."""
    edit(folder / "config.json", **settings)

    assert activation == read_checkpoint(str(folder)).activation


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model_type": "vit"}, "model_type is 'vit'"),
        ({"architectures": ["SwinForMaskedImageModeling"]}, "not an image classifier"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"num_channels": 1}, "num_channels is 1"),
        ({"problem_type": "regression"}, "regression"),
        ({"patch_size": [4, 2]}, "not square"),
    ],
)
def test_other_networks_are_refused(folder: Path, settings: dict[str, Any], sentence: str) -> None:
    """A configuration of another network than a Swin classifier is refused with the value."""
    edit(folder / "config.json", **settings)

    with pytest.raises(UnsupportedModel, match=sentence):
        read_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"depths": [2, 4]}, r"swin\.encoder\.layers\.1\.blocks\.2\.attention\.self\.query\.bias is missing"),
        ({"depths": [2, 1]}, r"blocks\.1\.\S+ is unknown"),
        ({"window_size": 2}, r"relative_position_bias_table has shape 49×2"),
        (
            {"id2label": {"0": "a", "1": "b"}},
            r"classifier\.weight has shape 10×48, the configuration asks for 2×48",
        ),
        ({"id2label": {"1": "a", "2": "b"}}, "does not count from 0 to 1"),
        ({"id2label": {"a": "0", "b": "1"}}, "does not map class numbers"),
        ({"id2label": ["a", "b"]}, "id2label: Input should be an object"),
        ({"depths": "ab"}, "depths: "),
        ({"depths": [2.5, 2]}, r"depths\.0: "),
        ({"embed_dim": None}, "embed_dim: "),
        ({"num_heads": 2}, "num_heads: "),
        ({"layer_norm_eps": "1e-5"}, "layer_norm_eps: "),
        ({"image_size": "x"}, "image_size"),
        ({"window_size": 0}, "window_size: "),
        ({"use_absolute_embeddings": True, "image_size": 64}, "position embedding is for"),
    ],
)
def test_a_configuration_that_contradicts_its_weights_is_refused(
    folder: Path, settings: dict[str, Any], sentence: str
) -> None:
    """Missing and unknown weights, wrong shapes and invalid values are named in the error."""
    edit(folder / "config.json", **settings)

    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(str(folder))


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    """A weight with NaN is refused by name."""
    edit_weights(folder, lambda weights: weights["classifier.bias"].fill_(float("nan")))

    with pytest.raises(CheckpointError, match=r"classifier\.bias holds values that are not finite"):
        read_checkpoint(str(folder))


def test_half_precision_weights_are_read(folder: Path) -> None:
    """Weights saved as bfloat16 become float32."""

    def halve(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: weight.bfloat16() for name, weight in weights.items()})

    edit_weights(folder, halve)

    assert torch.float32 == read_checkpoint(str(folder)).network.head.weight.dtype


def test_computed_buffers_of_older_versions_are_left_out(folder: Path) -> None:
    """A checkpoint with a relative position index, which older versions saved, is read."""
    name = "swin.encoder.layers.0.blocks.0.attention.self.relative_position_index"
    edit_weights(folder, lambda weights: weights.update({name: torch.zeros(16, 16, dtype=torch.int64)}))

    read_checkpoint(str(folder))


def test_shards_are_joined(folder: Path) -> None:
    """Shards give the same network as one file, and another digest."""
    whole = read_checkpoint(str(folder))
    weights = load_file(folder / "model.safetensors")
    parts = {"a.safetensors": sorted(weights)[:30], "b.safetensors": sorted(weights)[30:]}
    for name, keys in parts.items():
        save_file({key: weights[key] for key in keys}, folder / name)
    places = {key: name for name, keys in parts.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "model.safetensors").unlink()

    joined = read_checkpoint(str(folder))

    assert all(torch.equal(*pair) for pair in zip(whole.network.parameters(), joined.network.parameters(), strict=True))
    assert whole.source.weights_sha256 != joined.source.weights_sha256


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ({"weight_map": {"a": "../elsewhere.safetensors"}}, "is not the name of a file beside it"),
        ({"weight_map": ["a"]}, "weight_map does not map"),
        ({"weight_map": {"a": "gone.safetensors"}}, "there is no gone.safetensors"),
    ],
)
def test_shards_are_files_beside_their_index(folder: Path, index: dict[str, Any], sentence: str) -> None:
    """An index that names files in other folders, or missing files, is refused."""
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(str(folder))


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000], ids=["cut off", "a list", "nested"])
def test_a_configuration_that_is_not_a_json_object_is_refused(folder: Path, text: str) -> None:
    """A configuration that is cut off, a list, or nested too deeply is refused."""
    (folder / "config.json").write_text(text)

    with pytest.raises(CheckpointError, match="JSON"):
        read_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    """The error on a missing file has its name."""
    (folder / name).unlink()

    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(str(folder))


def test_truncated_weights_are_refused(folder: Path) -> None:
    """A truncated safetensors file is reported as damaged."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])

    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        read_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"image_processor_type": "ConvNextImageProcessor"}, "ConvNextImageProcessor is not known"),
        ({"do_resize": False}, "do_resize is false; only true is supported"),
        ({"size": {"shortest_edge": 40}}, "images keep their shape"),
        ({"size": {"longest_edge": 40}}, 'size {"longest_edge": 40} is not supported'),
        ({"resample": 9}, "contradicts itself"),
        ({"resample": -2}, "contradicts itself"),
        ({"size": 0}, "contradicts itself"),
        ({"do_center_crop": True, "crop_size": {"height": 64, "width": 64}}, "larger than the resized image"),
        ({"image_mean": [0.5]}, "contradicts itself"),
        ({"image_std": [0.5, 0.5, 0]}, "std is 0, not above 0; give another with --std"),
        ({"image_mean": [0.5, 0.5, float("nan")]}, "not all finite; give others with --mean and --std"),
        ({"rescale_factor": 0}, "scaled by 0, which is not above 0"),
    ],
)
def test_preprocessing_that_cannot_be_reproduced_is_refused(
    folder: Path, settings: dict[str, Any], sentence: str
) -> None:
    """Preprocessing with unsupported or contradicting values raises an error of one line."""
    edit(folder / "preprocessor_config.json", **settings)

    with pytest.raises(RequestError, match=sentence) as error:
        read_checkpoint(str(folder))

    assert "\n" not in str(error.value)


def test_the_oldest_form_of_the_preprocessor_is_read(folder: Path) -> None:
    """`feature_extractor_type` and one number for the size are read, as in early checkpoints."""
    settings = {"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 3, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))

    recipe = read_checkpoint(str(folder)).preprocessing

    assert (recipe.resize.mode, recipe.interpolation, recipe.mean) == ("squash", "bicubic", (0, 0, 0))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    """A name that starts like a path is not fetched from the hub."""
    with pytest.raises(CheckpointError, match="there is no"):
        read_checkpoint(name)


def test_an_id_is_fetched_from_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client gets id and revision, and the source has the commit of the download."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = folder.rename(folder.with_name(commit))
    calls = []

    def snapshot_download(repository: str, *, revision: str, allow_patterns: list[str]) -> str:
        calls.append((repository, revision, "config.json" in allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    source = read_checkpoint("user/swin", Options(revision="v2")).source

    assert calls == [("user/swin", "v2", True)]
    assert ("user/swin", commit) == (source.id, source.revision)


def test_an_unreachable_hub_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the hub cannot be reached, the error names the missing folder and the hub."""

    def snapshot_download(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("the hub cannot be reached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)

    with pytest.raises(CheckpointError, match="no file or folder 'user/swin', and it cannot be fetched from the hub"):
        read_checkpoint("user/swin")


RESIZED = RecipeOptions(fit="shorter-side", resize=(40, 40), crop=(32, 32), interpolation="bicubic")


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"size": {"shortest_edge": 40}}, RESIZED),
        ({"size": {"shortest_edge": 40}}, RecipeOptions(crop=(32, 32))),
        ({"do_resize": False}, RESIZED),
        ({"do_pad": True}, RESIZED),
        ({"image_processor_type": "ConvNextImageProcessor"}, RESIZED),
        ({"size": {"longest_edge": 40}}, RESIZED),
        ({"size": {"height": 40, "width": 40}, "resample": 9, "do_center_crop": True, "crop_size": 32}, RESIZED),
    ],
)
def test_options_replace_preprocessing_that_cannot_be_used(
    folder: Path, settings: dict[str, Any], options: RecipeOptions
) -> None:
    """Options replace values of `preprocessor_config.json` that alone would be refused."""
    edit(folder / "preprocessor_config.json", **settings)

    recipe = read_checkpoint(str(folder), Options(recipe=options)).preprocessing

    assert getattr(recipe.resize, "size", None) == 40
    assert recipe.output_size == (32, 32)


def test_one_number_stands_for_all_channels(folder: Path) -> None:
    """One number for `image_mean` applies to all channels, as in the library's processors."""
    edit(folder / "preprocessor_config.json", image_mean=0.25, image_std=0.5)

    assert read_checkpoint(str(folder)).preprocessing.mean == (0.25, 0.25, 0.25)


def test_labels_replace_names_that_cannot_be_used(folder: Path) -> None:
    """`--labels` replaces an invalid `id2label`; without it, the error names `--labels`."""
    given = tuple(Label(name=f"mine {index}", wnid=None) for index in range(10))
    edit(folder / "config.json", id2label={"1": "a", "3": None})
    assert read_checkpoint(str(folder), Options(labels=given)).labels == given

    edit(folder / "config.json", id2label={str(index): index + 1 for index in range(10)})
    assert read_checkpoint(str(folder)).labels[0].name == "1"

    edit(folder / "config.json", id2label={"1": "a", "3": "b"})
    with pytest.raises(CheckpointError, match="give the names with --labels"):
        read_checkpoint(str(folder))
