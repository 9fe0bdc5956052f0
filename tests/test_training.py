"""Settings that a training script saved beside the weights decide over the published recipe, and options over them.

Expected sizes are those of timm 1.0.31's `resolve_data_config` and `create_transform`, of torchvision 0.28's
`ImageClassification`, and of `data/build.py` in the authors' repository.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from app.bundle import Cover, Preprocessing, ShorterSide, Squash
from model_export import checkpoints
from model_export.checkpoints import timm
from model_export.checkpoints.checkpoint import Checkpoint, Options
from model_export.errors import CheckpointError, RequestError
from model_export.preprocessing import RecipeOptions
from tests.references import cases
from tests.references.stored import stored

KWARGS = {key: value for key, value in cases.SMALL.items() if key != "num_classes"}
HALF = (0.5, 0.5, 0.5)


def timm_args(**changes: Any) -> dict[str, Any]:
    """What timm's train.py keeps, with its defaults."""
    defaults: dict[str, Any] = {"model": "swin_tiny_patch4_window7_224", "img_size": 64, "input_size": None}
    defaults |= {"in_chans": None, "crop_pct": None, "mean": None, "std": None, "interpolation": "", "gp": None}
    return defaults | {"num_classes": 10, "model_kwargs": KWARGS, "dataset": ""} | changes


def saved(folder: Path, kind: str = "timm", **beside: Any) -> Path:
    """A file with the weights of a small network, and what lies beside them."""
    names = "timm" if kind == "original" else kind
    weights = stored(names).state_dict("plain")
    weights = timm.renamed(weights) if kind == "original" else weights
    torch.save({"state_dict" if kind == "timm" else "model": weights, **beside}, folder / "weights.pth")
    return folder / "weights.pth"


def read(file: Path, **options: Any) -> Checkpoint:
    return checkpoints.read(str(file), Options(**options))


def in_numbers(recipe: Preprocessing) -> tuple[Any, ...]:
    """Resize, whether it crops, interpolation, mean."""
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
    """Input size, crop, interpolation and mean are those with which the run evaluated."""
    changes, size, expected = TIMM[case]
    checkpoint = read(saved(tmp_path, args=argparse.Namespace(**timm_args(**changes))))

    assert checkpoint.network.config.input_size == size
    assert in_numbers(checkpoint.preprocessing) == expected
    assert checkpoint.source.preprocessing_from == "checkpoint"


def test_args_yaml_beside_the_file_is_as_good(tmp_path: Path) -> None:
    """The script of timm writes the settings into its output folder, too; a file without them gets those."""
    file = saved(tmp_path)
    (tmp_path / "args.yaml").write_text(yaml.safe_dump(timm_args(crop_pct=1.0, img_size=96)))
    checkpoint = read(file)

    assert checkpoint.network.config.input_size == (96, 96)
    assert in_numbers(checkpoint.preprocessing) == (96, True, "bicubic", IMAGENET)


def test_args_yaml_of_another_run_is_refused(tmp_path: Path) -> None:
    """Other classes than the weights have: the sentence says what to do."""
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
    """Its references evaluate with bilinear interpolation unless told otherwise."""
    changes, expected = TORCHVISION[case]
    args = {
        "val_resize_size": 70,
        "val_crop_size": 64,
        "interpolation": "bilinear",
        "backend": "PIL",
        "model": "swin_t",
    }
    checkpoint = read(saved(tmp_path, "torchvision", args=argparse.Namespace(**args | changes)))

    assert checkpoint.network.config.input_size == (64, 64)
    assert in_numbers(checkpoint.preprocessing) == expected


def test_another_backend_is_said(tmp_path: Path) -> None:
    """Images that the run resized with torch are resized with Pillow here."""
    args = {"val_resize_size": 70, "val_crop_size": 64, "interpolation": "bilinear", "backend": "tensor"}
    notes = read(saved(tmp_path, "torchvision", args=argparse.Namespace(**args))).notes

    assert any("backend tensor" in note for note in notes)


AUTHORS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[Any, ...]]] = {
    "cropped": ({}, {}, (73, True, "bicubic", IMAGENET)),
    "not cropped": ({}, {"CROP": False}, (("squash", 64, 64), False, "bicubic", IMAGENET)),
    "bilinear": ({"INTERPOLATION": "bilinear"}, {}, (73, True, "bilinear", IMAGENET)),
    "an interpolation that their code does not know": (
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
    assert in_numbers(checkpoint.preprocessing) == expected


def test_options_decide_over_settings(tmp_path: Path) -> None:
    """What the person at the terminal says replaces what the run says, and the rest stays."""
    file = saved(tmp_path, args=argparse.Namespace(**timm_args(interpolation="random", crop_pct=1.0)))
    checkpoint = read(file, recipe=RecipeOptions(interpolation="bilinear"))

    assert in_numbers(checkpoint.preprocessing) == (64, True, "bilinear", IMAGENET)
    assert checkpoint.source.preprocessing_from == "options"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"interpolation": "random"}, "interpolation 'random' is not supported; give another with --interpolation"),
        ({"crop_mode": "random"}, "crop_mode 'random' is not supported; say how with --fit"),
        ({"in_chans": 1}, "1 channels; only RGB"),
        ({"input_size": [4, 64, 64]}, "4 channels; only RGB"),
        ({"gp": "max"}, "gp is max; only average"),
        ({"crop_pct": -1}, "crop_pct is -1"),
        ({"crop_pct": [0.9]}, r"crop_pct is \[0.9\], not a number"),
        ({"img_size": 64.5}, r"64.5 is no size of images; save the weights alone"),
        ({"std": [0.2, 0.2, 0]}, "std is 0, not above 0"),
        ({"model_kwargs": ["img_size"]}, r'model_kwargs is \["img_size"\]; save the weights alone'),
        ({"mean": [0.5, 0.5]}, "not a number for each of three channels"),
        ({"model_kwargs": KWARGS | {"img_size": 32}}, "made for 32×32 pixels, its images have 64×64"),
    ],
)
def test_a_setting_that_cannot_be_followed_is_refused(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    """Never dropped: a sentence names it."""
    with pytest.raises(RequestError, match=sentence):
        read(saved(tmp_path, args=argparse.Namespace(**timm_args(**changes))))


def test_old_files_of_timm_get_timm_s_recipe(tmp_path: Path) -> None:
    """Before timm 0.9 its names of weights were the authors'; `arch` says that timm made the file."""
    torch.save(
        {"arch": "swin_tiny_patch4_window7_224", "state_dict": timm.renamed(stored("timm").state_dict("plain"))},
        tmp_path / "model_best.pth.tar",
    )
    checkpoint = read(tmp_path / "model_best.pth.tar", input_size=(64, 64))

    assert (checkpoint.source.kind, in_numbers(checkpoint.preprocessing)[0]) == ("timm", 71)


def told(checkpoint: Checkpoint, subject: str) -> str:
    return next(str(decision) for decision in checkpoint.decisions if decision.subject == subject)


def test_an_assumed_size_is_called_so(tmp_path: Path) -> None:
    """Bare weights of a published shape do not say it; the line names the option."""
    torch.save(stored("timm").state_dict("swin_tiny_patch4_window7_224"), tmp_path / "weights.pth")
    checkpoint = read(tmp_path / "weights.pth")

    assert "224×224; assumed: the weights do not say it" in told(checkpoint, "input size")
    assert "--input-size" in told(checkpoint, "input size")
    assert "assumed: ImageNet's names, because their number is 1000" in told(checkpoint, "labels")
    assert "--labels" in told(checkpoint, "labels")


def test_masks_of_any_stage_tell_the_size(tmp_path: Path) -> None:
    """The authors save them where windows are shifted."""
    weights = timm.renamed(stored("timm").state_dict("plain"))
    weights["layers.1.blocks.1.attn_mask"] = torch.zeros(9, 16, 16)  # 12×12 positions of 8 pixels
    torch.save({"model": weights}, tmp_path / "weights.pth")
    checkpoint = read(tmp_path / "weights.pth")

    assert checkpoint.network.config.input_size == (96, 96)
    assert "from the attention masks" in told(checkpoint, "input size")


def test_settings_against_the_tensors_are_refused(tmp_path: Path) -> None:
    """Masks for another size than the settings name: the person at the terminal says which."""
    weights = stored("timm").state_dict("plain")
    weights["layers.1.blocks.1.attn_mask"] = torch.zeros(9, 16, 16)
    torch.save({"state_dict": weights, "args": argparse.Namespace(**timm_args())}, tmp_path / "weights.pth")

    with pytest.raises(CheckpointError, match="args says 64×64 pixels, but the attention masks are for 96×96"):
        read(tmp_path / "weights.pth")


NAMES = [f"class {letter}" for letter in "abcdefghij"]
PLACES: dict[str, dict[str, Any]] = {
    "class_to_idx": {"class_to_idx": {name: index for index, name in enumerate(NAMES)}},
    "classes": {"classes": NAMES},
    "Lightning": {"hyper_parameters": {"class_to_idx": {name: index for index, name in enumerate(NAMES)}}},
    "args": {"args": argparse.Namespace(classes=NAMES, lr=0.1)},
    "OpenMMLab": {"meta": {"CLASSES": tuple(NAMES), "epoch": 3}},
    "mmpretrain": {"meta": {"dataset_meta": {"classes": NAMES}}},
}


@pytest.mark.parametrize("place", PLACES)
def test_names_beside_the_weights_are_used(place: str, tmp_path: Path) -> None:
    """Wherever scripts keep them."""
    checkpoint = read(saved(tmp_path, **PLACES[place]), input_size=(64, 64))

    assert [label.name for label in checkpoint.labels] == NAMES
    assert checkpoint.source.labels_from == "checkpoint"


def test_names_of_other_classes_are_refused(tmp_path: Path) -> None:
    """Unless others are given."""
    file = saved(tmp_path, class_to_idx={"cat": 0, "dog": 1})

    with pytest.raises(CheckpointError, match="class_to_idx names 2 classes, the network has 10; give their names"):
        read(file, input_size=(64, 64))


def test_lightning_s_hyper_parameters_tell_the_size(tmp_path: Path) -> None:
    """And the line says so, because the rest of the recipe stays an assumption."""
    checkpoint = read(saved(tmp_path, hyper_parameters={"image_size": 96, "lr": 1e-3}))

    assert checkpoint.network.config.input_size == (96, 96)
    assert re.search("96×96; from hyper_parameters", told(checkpoint, "input size"))
    assert "assumed" in told(checkpoint, "preprocessing")
