"""Settings of a training run replace the published preprocessing, and options replace the settings.

Expected sizes are those of timm 1.0.31's `resolve_data_config` and `create_transform`, of
torchvision 0.28's `ImageClassification`, and of `data/build.py` in the authors' repository.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from app.bundle.manifest import Cover, Preprocessing, ShorterSide, Squash
from model_export.checkpoints import timm
from model_export.checkpoints.checkpoint import Checkpoint, Options
from model_export.checkpoints.detect import read_checkpoint
from model_export.checkpoints.files.pickles import RecordedObject
from model_export.checkpoints.preprocessing import RecipeOptions
from model_export.checkpoints.training import saved_settings
from model_export.errors import CheckpointError, RequestError
from tests.references import cases
from tests.references.stored import stored
from tests.support.networks import save_checkpoint

KWARGS = {key: value for key, value in cases.SMALL.items() if key != "num_classes"}
HALF = (0.5, 0.5, 0.5)


def timm_args(**changes: Any) -> dict[str, Any]:
    """Return the settings that timm's train.py saves, with its defaults."""
    defaults: dict[str, Any] = {"model": "swin_tiny_patch4_window7_224", "img_size": 64, "input_size": None}
    defaults |= {"in_chans": None, "crop_pct": None, "mean": None, "std": None, "interpolation": "", "gp": None}
    return defaults | {"num_classes": 10, "model_kwargs": KWARGS, "dataset": ""} | changes


def saved(folder: Path, kind: str = "timm", **beside: Any) -> Path:
    """Write a file with the weights of a small network and these values. Return its path."""
    names = "timm" if kind == "original" else kind
    weights = stored(names).state_dict("plain")
    weights = timm.renamed(weights) if kind == "original" else weights
    torch.save({"state_dict" if kind == "timm" else "model": weights, **beside}, folder / "weights.pth")
    return folder / "weights.pth"


def read(file: Path, **options: Any) -> Checkpoint:
    return read_checkpoint(str(file), Options(**options))


def summary(recipe: Preprocessing) -> tuple[Any, ...]:
    """Return the resize, whether the preprocessing crops, the interpolation and the mean."""
    match recipe.resize:
        case ShorterSide(size=size):
            resized: Any = size
        case Squash(height=height, width=width) | Cover(height=height, width=width):
            resized = (recipe.resize.mode, height, width)
        case _:
            resized = recipe.resize.mode
    return resized, recipe.crop is not None, recipe.interpolation, recipe.mean


IMAGENET = (0.485, 0.456, 0.406)
TIMM: dict[str, tuple[dict[str, Any], tuple[int, int], tuple[Any, ...]]] = {
    "nothing but the size": ({}, (64, 64), (71, True, "bicubic", IMAGENET)),
    "crop_pct": ({"crop_pct": 1.0}, (64, 64), (64, True, "bicubic", IMAGENET)),
    "interpolation": ({"interpolation": "bilinear"}, (64, 64), (71, True, "bilinear", IMAGENET)),
    "mean and std": ({"mean": [0.5] * 3, "std": [0.5] * 3}, (64, 64), (71, True, "bicubic", HALF)),
    "one mean for all": ({"mean": [0.5]}, (64, 64), (71, True, "bicubic", HALF)),
    "input_size goes first": ({"input_size": [3, 96, 96]}, (96, 96), (106, True, "bicubic", IMAGENET)),
    "not square": ({"input_size": [3, 64, 96]}, (64, 96), (("cover", 71, 106), True, "bicubic", IMAGENET)),
    "squash": ({"crop_mode": "squash"}, (64, 64), (("squash", 71, 71), True, "bicubic", IMAGENET)),
    "only the network's": (
        {"img_size": None, "model_kwargs": KWARGS | {"img_size": 96}},
        (96, 96),
        (106, True, "bicubic", IMAGENET),
    ),
    "a large input, by a name of a small one": ({"img_size": 448}, (448, 448), (497, True, "bicubic", IMAGENET)),
    "a large one's name": (
        {"model": "swin_base_patch4_window12_384", "img_size": 64},
        (64, 64),
        (64, True, "bicubic", IMAGENET),
    ),
}


@pytest.mark.parametrize("case", TIMM)
def test_timm_s_settings_are_followed(case: str, tmp_path: Path) -> None:
    """Input size, crop, interpolation and mean are those of the run's evaluation."""
    changes, size, expected = TIMM[case]
    checkpoint = read(saved(tmp_path, args=argparse.Namespace(**timm_args(**changes))))

    assert checkpoint.network.config.input_size == size
    assert summary(checkpoint.preprocessing) == expected
    assert checkpoint.source.preprocessing_from == "checkpoint"


def test_args_yaml_beside_the_file_is_read(tmp_path: Path) -> None:
    """A file without settings gets those of the `args.yaml` in its folder."""
    file = saved(tmp_path)
    (tmp_path / "args.yaml").write_text(yaml.safe_dump(timm_args(crop_pct=1.0, img_size=96)))
    checkpoint = read(file)

    assert checkpoint.network.config.input_size == (96, 96)
    assert summary(checkpoint.preprocessing) == (96, True, "bicubic", IMAGENET)


def test_args_yaml_of_another_run_is_refused(tmp_path: Path) -> None:
    """An `args.yaml` with another number of classes is refused with a hint."""
    file = saved(tmp_path)
    (tmp_path / "args.yaml").write_text(yaml.safe_dump(timm_args(num_classes=99)))

    with pytest.raises(CheckpointError, match=r"args\.yaml .* 99 classes, the weights have 10; move it away"):
        read(file)


TORCHVISION: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "the script's defaults": ({}, (70, True, "bilinear", IMAGENET)),
    "as swin_t was trained": ({"interpolation": "bicubic", "val_resize_size": 66}, (66, True, "bicubic", IMAGENET)),
}


@pytest.mark.parametrize("case", TORCHVISION)
def test_torchvision_s_settings_are_followed(case: str, tmp_path: Path) -> None:
    """Resize and interpolation are those of the settings; the script's default is bilinear."""
    changes, expected = TORCHVISION[case]
    args = {
        "val_resize_size": 70,
        "val_crop_size": 64,
        "interpolation": "bilinear",
        "backend": "PIL",
    }
    checkpoint = read(saved(tmp_path, "torchvision", args=argparse.Namespace(**args | changes)))

    assert checkpoint.network.config.input_size == (64, 64)
    assert summary(checkpoint.preprocessing) == expected


def test_another_backend_gives_a_note(tmp_path: Path) -> None:
    """A note reports that the run resized images with torch, and not with Pillow."""
    args = {"val_resize_size": 70, "val_crop_size": 64, "interpolation": "bilinear", "backend": "tensor"}
    notes = read(saved(tmp_path, "torchvision", args=argparse.Namespace(**args))).notes

    assert any("backend tensor" in note for note in notes)


AUTHORS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[Any, ...]]] = {
    "cropped": ({}, {}, (73, True, "bicubic", IMAGENET)),
    "not cropped": ({}, {"CROP": False}, (("squash", 64, 64), False, "bicubic", IMAGENET)),
    "bilinear": ({"INTERPOLATION": "bilinear"}, {}, (73, True, "bilinear", IMAGENET)),
    "an interpolation that their code does not support": (
        {"INTERPOLATION": "nearest"},
        {},
        (73, True, "bilinear", IMAGENET),
    ),
}


@pytest.mark.parametrize("case", AUTHORS)
def test_the_authors_settings_are_followed(case: str, tmp_path: Path) -> None:
    """`TEST.CROP` decides whether images are squashed or cropped."""
    data, test, expected = AUTHORS[case]
    config = {"DATA": {"IMG_SIZE": 64, "INTERPOLATION": "bicubic"} | data, "TEST": {"CROP": True} | test}
    checkpoint = read(saved(tmp_path, "original", config=config))

    assert (checkpoint.source.kind, checkpoint.network.config.input_size) == ("original", (64, 64))
    assert summary(checkpoint.preprocessing) == expected


def test_options_decide_over_settings(tmp_path: Path) -> None:
    """An option replaces the run's setting, even an unsupported one; the other settings stay."""
    file = saved(tmp_path, args=argparse.Namespace(**timm_args(interpolation="random", crop_pct=1.0)))
    checkpoint = read(file, recipe=RecipeOptions(interpolation="bilinear"))

    assert summary(checkpoint.preprocessing) == (64, True, "bilinear", IMAGENET)
    assert checkpoint.source.preprocessing_from == "options"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"interpolation": "random"}, "interpolation 'random' is not supported; give another with --interpolation"),
        ({"crop_mode": "random"}, "crop_mode 'random' is not supported; give another with --fit"),
        ({"in_chans": 1}, "1 channels; only RGB"),
        ({"input_size": [4, 64, 64]}, "4 channels; only RGB"),
        ({"gp": "max"}, "gp is max; only average"),
        ({"crop_pct": -1}, "crop_pct is -1"),
        ({"crop_pct": [0.9, 1]}, r"crop_pct is \[0.9, 1\], not a number"),
        ({"img_size": 64.5}, "img_size is 64.5, which is not an image size; give --input-size"),
        ({"std": [0.2, 0.2, 0]}, "std is 0, not above 0"),
        (
            {"model_kwargs": ["img_size"]},
            r'model_kwargs is \["img_size"\], not the arguments of a network; save the weights',
        ),
        ({"mean": [0.5, 0.5]}, "not a number for each of three channels"),
        ({"model_kwargs": KWARGS | {"img_size": 32}}, "made for 32×32 pixels, its images have 64×64"),
    ],
)
def test_a_setting_that_cannot_be_followed_is_refused(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    """A setting that is not supported raises an error with its name and value."""
    with pytest.raises(RequestError, match=sentence):
        read(saved(tmp_path, args=argparse.Namespace(**timm_args(**changes))))


def test_old_files_of_timm_get_timm_s_recipe(tmp_path: Path) -> None:
    """A file with the authors' names and timm's `arch` gets timm's preprocessing."""
    torch.save(
        {"arch": "swin_tiny_patch4_window7_224", "state_dict": timm.renamed(stored("timm").state_dict("plain"))},
        tmp_path / "model_best.pth.tar",
    )
    checkpoint = read(tmp_path / "model_best.pth.tar", input_size=(64, 64))

    assert (checkpoint.source.kind, summary(checkpoint.preprocessing)[0]) == ("timm", 71)


def decision_line(checkpoint: Checkpoint, subject: str) -> str:
    """Return subject, value and origin of a decision, and the options that change it."""
    decision = next(decision for decision in checkpoint.decisions if decision.subject == subject)
    return f"{decision.subject}: {decision.value}; {decision.origin}; {decision.options}"


TINY = "swin_tiny_patch4_window7_224"


@pytest.mark.parametrize(
    ("case", "options", "place"),
    [
        ("plain", {"input_size": (64, 64)}, "the weights"),
        (TINY, {"architecture": TINY}, f"--architecture {TINY}"),
        ("plain", {"input_size": (64, 64), "window": 8}, "--window"),
    ],
)
def test_the_line_of_the_windows_has_their_origin(
    case: str, options: dict[str, Any], place: str, tmp_path: Path
) -> None:
    """The line on the windows names weights, `--architecture` or `--window` as their origin."""
    torch.save(stored("timm").state_dict(case), tmp_path / "weights.pth")

    assert f"; {place}; " in decision_line(read(tmp_path / "weights.pth", **options), "windows")


def test_the_line_of_the_windows_names_the_configuration_that_has_them(tmp_path: Path) -> None:
    """The line on the windows of a Hugging Face folder names `config.json`."""
    folder = save_checkpoint(tmp_path / "saved", image_size=64)

    assert decision_line(read_checkpoint(str(folder), Options()), "windows") == "windows: 4; config.json; --window"


def test_an_assumed_size_is_marked(tmp_path: Path) -> None:
    """The lines on assumed input size and labels are marked as assumed and name the options."""
    torch.save(stored("timm").state_dict("swin_tiny_patch4_window7_224"), tmp_path / "weights.pth")
    checkpoint = read(tmp_path / "weights.pth")

    assert "224×224; assumed: the weights do not contain it" in decision_line(checkpoint, "input size")
    assert "--input-size" in decision_line(checkpoint, "input size")
    assert "assumed: ImageNet's names, because their number is 1000" in decision_line(checkpoint, "labels")
    assert "--labels" in decision_line(checkpoint, "labels")


def test_masks_of_any_stage_give_the_size(tmp_path: Path) -> None:
    """The attention masks of the second stage give the input size."""
    weights = timm.renamed(stored("timm").state_dict("plain"))
    weights["layers.1.blocks.1.attn_mask"] = torch.zeros(9, 16, 16)  # 12×12 positions of 8 pixels
    torch.save({"model": weights}, tmp_path / "weights.pth")
    checkpoint = read(tmp_path / "weights.pth")

    assert checkpoint.network.config.input_size == (96, 96)
    assert "; the attention masks in the file; " in decision_line(checkpoint, "input size")


def test_settings_that_contradict_the_tensors_are_refused(tmp_path: Path) -> None:
    """Settings and attention masks with different input sizes raise an error with both sizes."""
    weights = stored("timm").state_dict("plain")
    weights["layers.1.blocks.1.attn_mask"] = torch.zeros(9, 16, 16)
    torch.save({"state_dict": weights, "args": argparse.Namespace(**timm_args())}, tmp_path / "weights.pth")

    with pytest.raises(
        CheckpointError, match="args has an input size of 64×64 pixels, but the attention masks are for 96×96"
    ):
        read(tmp_path / "weights.pth")


NAMES = [f"class {letter}" for letter in "abcdefghij"]
PLACES: dict[str, dict[str, Any]] = {
    "class_to_idx": {"class_to_idx": {name: index for index, name in enumerate(NAMES)}},
    "classes": {"classes": NAMES},
    "Lightning": {"hyper_parameters": {"class_to_idx": {name: index for index, name in enumerate(NAMES)}}},
    "args": {"args": argparse.Namespace(classes=NAMES, lr=0.1)},
    "names of numpy": {"classes": np.array(NAMES)},
    "label2id": {"config": {"label2id": {name: index for index, name in enumerate(NAMES)}}},
    "idx_to_class": {"idx_to_class": dict(enumerate(NAMES))},
    "a data module's class": {"DigitsDataModule": {"class_to_idx": {name: i for i, name in enumerate(NAMES)}}},
    "tensors": {"class_to_idx": {name: torch.tensor(index) for index, name in enumerate(NAMES)}},
    "pairs": {"class_to_idx": [(name, index) for index, name in enumerate(NAMES)]},
    "OpenMMLab": {"meta": {"CLASSES": tuple(NAMES), "epoch": 3}},
    "mmpretrain": {"meta": {"dataset_meta": {"classes": NAMES}}},
}


@pytest.mark.parametrize("place", PLACES)
def test_names_beside_the_weights_are_used(place: str, tmp_path: Path) -> None:
    """Class names are found under each key and at each depth where scripts save them."""
    checkpoint = read(saved(tmp_path, **PLACES[place]), input_size=(64, 64))

    assert [label.name for label in checkpoint.labels] == NAMES
    assert checkpoint.source.labels_from == "checkpoint"


def test_names_of_other_classes_are_refused(tmp_path: Path) -> None:
    """A `class_to_idx` with another number of classes raises an error that names `--labels`."""
    file = saved(tmp_path, class_to_idx={"cat": 0, "dog": 1})

    with pytest.raises(CheckpointError, match="class_to_idx names 2 classes, the network has 10; give their names"):
        read(file, input_size=(64, 64))


def test_lightning_s_hyper_parameters_give_the_size(tmp_path: Path) -> None:
    """Hyper-parameters give the input size, and the preprocessing stays an assumption."""
    checkpoint = read(saved(tmp_path, hyper_parameters={"image_size": 96, "lr": 1e-3}))

    assert checkpoint.network.config.input_size == (96, 96)
    assert re.search("96×96; hyper_parameters", decision_line(checkpoint, "input size"))
    assert "assumed" in decision_line(checkpoint, "resize")


def test_only_the_parts_that_settings_leave_open_are_assumed(tmp_path: Path) -> None:
    """If hyper-parameters have mean and standard deviation only, the rest of the preprocessing is assumed."""
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    checkpoint = read(saved(tmp_path, hyper_parameters={"image_size": 96, **half}))
    assumed = [decision.subject for decision in checkpoint.decisions if decision.is_assumed]

    assert assumed == ["resize", "interpolation", "crop", "rescale"]
    assert "published recipe, because hyper_parameters has mean and std only" in decision_line(checkpoint, "crop")


SQUARE = (96, 96)
SIZES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "a number of numpy": ({"img_size": np.int64(96)}, SQUARE),
    "text": ({"img_size": "96"}, SQUARE),
    "text with both sides": ({"img_size": "64x96"}, (64, 96)),
    "a fraction without a rest": ({"img_size": 96.0}, SQUARE),
    "a list of one": ({"img_size": [96]}, SQUARE),
    "channels first": ({"input_size": (3, 64, 96)}, (64, 96)),
    "channels last": ({"image_size": [64, 96, 3]}, (64, 96)),
    "a batch": ({"input_size": [1, 3, 64, 96]}, (64, 96)),
    "a shape of torch": ({"img_size": torch.Size([64, 96])}, (64, 96)),
    "a tensor": ({"img_size": torch.tensor([64, 96])}, (64, 96)),
    "height and width": ({"image_size": {"height": 64, "width": 96}}, (64, 96)),
    "deep inside": ({"data": {"transform": {"val": {"img_size": 96}}}}, SQUARE),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_are_read_in_every_form(case: str, tmp_path: Path) -> None:
    """An input size is read at any depth, as numbers, text, lists, arrays or tensors."""
    settings, size = SIZES[case]
    checkpoint = read(saved(tmp_path, hyper_parameters=settings, stops=np.float64(1)))

    assert checkpoint.network.config.input_size == size
    assert "; hyper_parameters" in decision_line(checkpoint, "input size")


TEXT = "DATA:\n  IMG_SIZE: 96\nTEST:\n  CROP: false\n"
BESIDE: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "mean as tensors": (
        {"hyper_parameters": {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3,), 0.5)}},
        (71, True, "bicubic", HALF),
    ),
    "mean as arrays": (
        {"cfg": {"data": {"image_mean": np.full(3, 0.5), "image_std": np.full(3, 0.5)}}},
        (71, True, "bicubic", HALF),
    ),
    "one number": ({"hyper_parameters": {"mean": 0.5, "std": 0.5}}, (71, True, "bicubic", HALF)),
    "levels of 255": ({"opt": {"mean": [127.5] * 3, "std": [127.5] * 3}}, (71, True, "bicubic", HALF)),
    "at the top": ({"mean": [0.5] * 3, "std": [0.5] * 3}, (71, True, "bicubic", HALF)),
    "interpolation": ({"hparams": {"interpolation": "bilinear"}}, (71, True, "bilinear", IMAGENET)),
    "torchvision's settings": (
        {"args": {"val_resize_size": 80, "val_crop_size": 64, "interpolation": "bilinear"}},
        (80, True, "bilinear", IMAGENET),
    ),
    "timm's settings in another place": (
        {"hyper_parameters": {"crop_pct": 1.0, "img_size": 64, "interpolation": "bilinear"}},
        (64, True, "bilinear", IMAGENET),
    ),
    "numbers of numpy in timm's settings": (
        {"args": timm_args(crop_pct=np.float64(1.0), img_size=np.int64(64), mean=np.full(3, 0.5), std=np.full(3, 0.5))},
        (64, True, "bicubic", HALF),
    ),
    "the authors' settings as text": ({"config": TEXT}, (("squash", 64, 64), False, "bicubic", IMAGENET)),
}


@pytest.mark.parametrize("case", BESIDE)
def test_settings_of_any_family_are_followed(case: str, tmp_path: Path) -> None:
    """The keys of the settings decide how they are read, not the names of the weights."""
    beside, expected = BESIDE[case]
    checkpoint = read(saved(tmp_path, **beside), input_size=(64, 64))

    assert summary(checkpoint.preprocessing) == expected
    assert checkpoint.source.preprocessing_from == "checkpoint"


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "two sizes of one place": (
        {"hyper_parameters": {"img_size": 96, "crop_size": 64}},
        (
            r"hyper_parameters: img_size \(96\) and hyper_parameters: crop_size \(64\) differ; "
            "choose one with --input-size"
        ),
    ),
    "two sizes of two places": (
        {"hyper_parameters": {"img_size": 96}, "datamodule_hyper_parameters": {"img_size": 64}},
        "differ; choose one with --input-size",
    ),
    "timm's settings and others": (
        {"args": timm_args(), "hyper_parameters": {"img_size": 96}},
        "args and hyper_parameters: img_size have two input sizes, 64×64 and 96×96; choose one with --input-size",
    ),
    "a size that is no number": (
        {"hyper_parameters": {"img_size": argparse.Namespace(train=96)}},
        "img_size is an object of argparse.Namespace, which is not an image size; give --input-size",
    ),
    "half a normalization": (
        {"hyper_parameters": {"mean": [0.5] * 3}},
        "has one of mean and std; give both with --mean",
    ),
    "a mean that is none": (
        {"hyper_parameters": {"mean": "imagenet", "std": [0.5] * 3}},
        'mean is "imagenet", which is not a number for each of three channels; give --mean',
    ),
    "another network's run": (
        {"args": timm_args(model="resnet50", model_kwargs={})},
        "args names resnet50, which is not a known Swin, .* or name the Swin with --architecture",
    ),
    "a larger network's run": (
        {"args": timm_args(model="swin_base_patch4_window12_384", img_size=None, model_kwargs={})},
        "args names swin_base_patch4_window12_384, which has another shape than the weights",
    ),
    "a set of names": ({"img_size": 64, "classes": set(NAMES)}, "classes: it is a set, which has no order"),
    "two equal names": (
        {"img_size": 64, "classes": [*NAMES[:9], NAMES[0]]},
        "classes gives two classes the name 'class a'",
    ),
    "numbers from 1": (
        {"img_size": 64, "class_to_idx": {name: index for index, name in enumerate(NAMES, 1)}},
        "class_to_idx: its numbers run from 1 to 10, but classes count from 0",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradicting_settings_are_refused(case: str, tmp_path: Path) -> None:
    """Settings that contradict each other raise an error with file, setting and option."""
    beside, sentence = CONTRADICTIONS[case]

    with pytest.raises(RequestError, match=sentence) as refused:
        read(saved(tmp_path, **beside))

    assert "weights.pth" in str(refused.value)


def test_an_option_replaces_what_cannot_be_read(tmp_path: Path) -> None:
    """Settings that cannot be read do not matter if options replace them."""
    file = saved(tmp_path, hyper_parameters={"img_size": argparse.Namespace(), "mean": "own", "std": "own"})
    checkpoint = read(file, input_size=(64, 64), recipe=RecipeOptions(mean=HALF, std=HALF))

    assert (checkpoint.network.config.input_size, checkpoint.preprocessing.mean) == ((64, 64), HALF)


def test_args_yaml_of_another_network_is_refused(tmp_path: Path) -> None:
    """An `args.yaml` with the name of another network is refused with a hint."""
    file = saved(tmp_path)
    (tmp_path / "args.yaml").write_text(yaml.safe_dump(timm_args(model="resnet50", img_size=448, model_kwargs={})))

    with pytest.raises(CheckpointError, match=r"args\.yaml names resnet50, .*; move it away if it is not of this run"):
        read(file)


def test_args_yaml_beside_old_names_is_timm_s(tmp_path: Path) -> None:
    """A file with the authors' names is timm's if timm's `args.yaml` is beside it."""
    file = saved(tmp_path, "original")
    (tmp_path / "args.yaml").write_text(yaml.safe_dump(timm_args(crop_pct=1.0, img_size=96)))
    checkpoint = read(file)

    assert (checkpoint.source.kind, checkpoint.network.config.input_size) == ("timm", (96, 96))
    assert summary(checkpoint.preprocessing) == (96, True, "bicubic", IMAGENET)


def test_metadata_of_safetensors_is_read(tmp_path: Path) -> None:
    """Input size and class names are read from the metadata of a safetensors file."""
    metadata = {"img_size": "96", "class_names": json.dumps(NAMES), "format": "pt"}
    save_file(stored("timm").state_dict("plain"), tmp_path / "weights.safetensors", metadata=metadata)
    checkpoint = read(tmp_path / "weights.safetensors")

    assert checkpoint.network.config.input_size == (96, 96)
    assert [label.name for label in checkpoint.labels] == NAMES


NOTES: dict[str, tuple[dict[str, Any], str]] = {
    "lists that may hold something else": ({"hyper_parameters": {"names": NAMES}}, "hyper_parameters.names may name"),
    "classes of another number": ({"classes": ["cat", "dog"]}, "classes names 2 classes, the network has 10, so it is"),
    "text that is not YAML": (
        {"meta": {"cfg": "model = dict(\n    type='X')\n"}},
        "meta: cfg is text that is not a YAML mapping",
    ),
    "settings that are not used": (
        {"hyper_parameters": {"resize": 80, "img_size": 64}},
        "hyper_parameters: resize is 80, which is not used",
    ),
    "settings beside timm's": (
        {"args": timm_args(), "hyper_parameters": {"mean": [0.5] * 3}},
        r"hyper_parameters: mean is \[0.5, 0.5, 0.5\], which is not used, because args decides",
    ),
}


@pytest.mark.parametrize("case", NOTES)
def test_unused_settings_give_a_note(case: str, tmp_path: Path) -> None:
    """A setting or list that is not used is reported in a note."""
    beside, note = NOTES[case]
    checkpoint = read(saved(tmp_path, **beside), input_size=(64, 64))

    assert any(re.search(note, line) for line in checkpoint.notes)
    assert checkpoint.labels[0].name == "0"


def test_masks_that_are_not_square_need_the_size(tmp_path: Path) -> None:
    """Masks of a map that is not square need an `--input-size` with the same positions."""
    weights = timm.renamed(stored("timm").state_dict("plain"))
    weights["layers.1.blocks.1.attn_mask"] = torch.zeros(6, 16, 16)  # 8×12 positions of 8 pixels
    torch.save({"model": weights}, tmp_path / "weights.pth")

    with pytest.raises(
        CheckpointError, match=r"for 96 positions of 8×8 pixels, which is no square .* --input-size HxW"
    ):
        read(tmp_path / "weights.pth", input_size=(64, 64))
    assert read(tmp_path / "weights.pth", input_size=(64, 96)).network.config.input_size == (64, 96)


def test_windows_of_model_kwargs_that_differ_are_named(tmp_path: Path) -> None:
    """Settings that contradict the shapes of the weights are named in the error."""
    args = timm_args(model_kwargs=KWARGS | {"window_size": 8})

    with pytest.raises(CheckpointError, match="args: model_kwargs asks for 225"):
        read(saved(tmp_path, args=args))


AVERAGES: dict[str, str] = {"ema.state_dict": "ema", "callbacks.EMA.ema_state_dict": "callbacks"}


@pytest.mark.parametrize("path", AVERAGES)
def test_averages_at_other_levels_are_named(path: str, tmp_path: Path) -> None:
    """A second set of weights is named with its path, and `--weights` takes that path."""
    weights = stored("timm").state_dict("plain")
    inner: Any = weights
    for key in reversed(path.split(".")):
        inner = {key: inner}
    torch.save({"state_dict": weights, **inner}, tmp_path / "weights.pth")

    with pytest.raises(CheckpointError, match=rf"several sets of weights: .*{path}.*; choose one with --weights"):
        read(tmp_path / "weights.pth", input_size=(64, 64))
    assert read(tmp_path / "weights.pth", input_size=(64, 64), weights=path).labels


def test_windows_that_may_be_cut_off_are_an_assumption(tmp_path: Path) -> None:
    """An input size that follows only from smaller windows is marked as assumed."""
    weights = timm.renamed(stored("timm").state_dict("plain"))
    heads = weights["layers.1.blocks.0.attn.relative_position_bias_table"].shape[1]
    for block in (0, 1):
        weights[f"layers.1.blocks.{block}.attn.relative_position_bias_table"] = torch.zeros(9, heads)
    torch.save({"model": weights}, tmp_path / "weights.pth")
    checkpoint = read(tmp_path / "weights.pth")

    assert checkpoint.network.config.input_size == (16, 16)
    assert "assumed: the windows of the last stages are as large as their feature maps" in decision_line(
        checkpoint, "input size"
    )


def saved_with_windows(folder: Path) -> Path:
    """Write a file of the authors' Swin V2 with windows in its settings. Return its path."""
    weights = stored("timm").state_dict("v2")
    shape = {"DEPTHS": [2, 2], "WINDOW_SIZE": 16, "PRETRAINED_WINDOW_SIZES": [8, 8]}
    config = {"DATA": {"IMG_SIZE": 64}, "MODEL": {"TYPE": "swinv2", "SWINV2": shape}}
    torch.save({"model": timm.renamed(weights), "config": config}, folder / "weights.pth")
    return folder / "weights.pth"


def test_the_line_of_the_windows_names_the_settings_that_have_them(tmp_path: Path) -> None:
    """The line on windows from the settings of a run names the settings."""
    line = decision_line(read(saved_with_windows(tmp_path)), "windows")

    assert line == "windows: 16; config; --window"


def test_windows_of_the_settings_that_contradict_an_architecture_are_refused(tmp_path: Path) -> None:
    """Settings and `--architecture` with different windows raise an error with both."""
    file = saved_with_windows(tmp_path)
    trained = read(file).network.config

    assert (trained.window_sizes, trained.pretrained_window_sizes) == (((16, 16),) * 2, (8, 8))
    with pytest.raises(CheckpointError, match="window8_256 has windows of 8, 8, 8, 8, config of 16, 16; leave"):
        read(file, architecture="swinv2_tiny_window8_256")


def test_configurations_of_omegaconf_are_read() -> None:
    """The objects in which OmegaConf keeps mappings and values become plain settings."""
    value, configuration = RecordedObject(), RecordedObject()
    value["_val"] = 96
    configuration["_content"] = {"img_size": value}
    [_, section] = saved_settings.find_sections({"hyper_parameters": configuration})

    assert section == ("hyper_parameters", {"img_size": 96})
