"""How four families of training scripts write their settings: timm's, torchvision's references, the authors', others.

They decide over the published recipe, because the run evaluated its images so. The settings' own keys tell the family.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from app.bundle.manifest import CenterCrop, Cover, Preprocessing, ShorterSide, SourceKind, Squash
from model_export.checkpoints.checkpoint import Options
from model_export.checkpoints.files.pickles import WAY_OUT
from model_export.checkpoints.preprocessing import PILLOW, from_timm
from model_export.checkpoints.training import forms, saved_settings
from model_export.checkpoints.training.saved_settings import Level, Setting
from model_export.checkpoints.training.types import Training
from model_export.checkpoints.variants import LARGE, cover, named, recipe
from model_export.errors import CheckpointError, UnsupportedModel
from model_export.network.windows import Size, by

Value = TypeVar("Value")

CROPS = ("val_crop_size", "crop_size")
SIZES = (
    *("img_size", "image_size", "input_size", "IMG_SIZE", "resolution", *CROPS),
    *("im_size", "imgsz", "image_resolution", "img_resolution", "input_resolution"),
)
RESIZES = ("val_resize_size", "resize_size")
MEANS = ("mean", "image_mean", "img_mean", "pixel_mean", "norm_mean")
STDS = ("std", "image_std", "img_std", "pixel_std", "norm_std")
INTERPOLATIONS = ("interpolation", "INTERPOLATION", "val_interpolation", "resample")
NOT_FOLLOWED = (*RESIZES, *MEANS, *STDS, *INTERPOLATIONS, "crop_pct", "crop_mode", "resize", "test_crop_ratio")
MODELS = ("model", "model_name", "arch", "architecture", "backbone", "net", "encoder", "variant")
DATASETS = ("dataset", "data_dir", "data", "data_path", "DATASET", "data_set")
CLASSES = ("num_classes", "nb_classes", "n_classes", "NUM_CLASSES")

TIMM = "crop_pct"
TORCHVISION = {"val_resize_size", "val_crop_size", "resize_size"}
RESIZE, CROP = 256, 224  # defaults of torchvision's references

SMALLEST_RESIZED = 32
"""Pixels of the authors' input up to which their transforms do not resize."""

interpolation = forms.choice("--interpolation", (*PILLOW, "nearest-exact"))


def is_timm(content: Mapping[str, Any], file: Path) -> bool:
    """Whether timm's training script wrote the file: old releases of timm use the authors' names of weights."""
    for place, values in saved_settings.levels(content):
        if place and {TIMM, "img_size"} <= values.keys() and isinstance(values.get("model"), str):
            return True
    arch = content.get("arch")
    if isinstance(arch, str) and (named(arch) is not None or arch.lower().startswith("swintransformer")):
        return True
    return _args_yaml(file) is not None


def settings_of(kind: SourceKind, content: Mapping[str, Any], file: Path, options: Options) -> Training:
    """Return what the file's own settings say, or those in the `args.yaml` that timm writes beside it.

    Raises:
        UnsupportedModel: a setting cannot be followed.
        CheckpointError: a setting cannot be read, or two contradict each other.
    """
    levels = saved_settings.levels(content)
    if kind == "timm" and not any(TIMM in level.values for level in levels) and (beside := _args_yaml(file)):
        levels.append(beside)
    timm = [level for level in levels if TIMM in level.values]
    torchvision = [level for level in levels if TORCHVISION & level.values.keys()]
    authors = [level for level in levels if isinstance(level.values.get("DATA"), Mapping)]
    for found, read in ((timm, _of_timm), (torchvision, _of_torchvision), (authors, _of_authors)):
        if found:
            own = found[0]
            training = read(own if own.place else Level("the file", own.values), options)
            return _with_others(training, own.place, levels, options)
    return _of_others(levels, options)


def _with_others(training: Training, own: str, levels: list[Level], options: Options) -> Training:
    """Return the settings of one place, with notes on what other places say.

    Raises:
        CheckpointError: another place says another input size.
    """
    others = [level for level in levels if level.place != own and not level.place.startswith(f"{own}.")]
    for setting in saved_settings.within(others, SIZES):
        other = forms.unless(options.size, forms.size, setting)
        if options.size is None and training.input_size and other != training.input_size:
            raise CheckpointError(
                f"{training.place} and {setting.name} have two input sizes, {by(training.input_size)} and "
                f"{by(other)}; say which with --input-size"
            )
    notes = [
        f"{setting.name} is {forms.shown(setting.value)}, which is not followed, because {training.place} decides"
        for setting in saved_settings.within(others, NOT_FOLLOWED)
    ]
    return replace(training, notes=(*training.notes, *notes, *saved_settings.unread(levels)))


def _args_yaml(file: Path) -> Level | None:
    """The settings of the run whose folder this is; None where there are none, or of another script."""
    path = file.with_name("args.yaml")
    args = saved_settings.of_yaml(path)
    is_timm_s = isinstance(args, Mapping) and isinstance(args.get("model"), str) and TIMM in args
    return Level("args.yaml", args) if is_timm_s else None


def _read(
    level: Level, keys: tuple[str, ...], form: Callable[[Setting], Value], replaced: object = None
) -> Value | None:
    """Return the first of these settings that says something, unless it cannot be read and an option replaces it."""
    setting = next(saved_settings.within([level], keys), None)
    return None if setting is None else forms.unless(replaced, form, setting)


def _of_timm(level: Level, options: Options) -> Training:
    """As `timm.data.resolve_data_config` reads them: settings, then the network's own, then ImageNet's."""
    place, args = level
    name = args.get("model") if isinstance(args.get("model"), str) else None
    variant = named(name) if name else None
    arguments = args.get("model_kwargs") or {}
    if not isinstance(arguments, Mapping):
        raise CheckpointError(
            f"{place}: model_kwargs is {forms.shown(arguments)}, which says nothing of a network; {WAY_OUT}"
        )
    made_for = _read(Level(f"{place}: model_kwargs", arguments), ("img_size",), forms.size, options.size)
    size = _read(level, ("input_size", "img_size"), forms.size, options.size) or made_for
    if made_for not in (None, size):
        raise CheckpointError(f"{place}: the network is made for {by(made_for)} pixels, its images have {by(size)}")
    size = size or ((variant.side, variant.side) if variant else None)
    _check_rgb(level)
    recipe_options = options.recipe
    words = _read(level, ("interpolation",), forms.choice("--interpolation", PILLOW), recipe_options.interpolation)
    mode = _read(level, ("crop_mode",), forms.choice("--fit", ("center", "squash", "border")), recipe_options.fit)
    share = _read(level, ("crop_pct",), forms.share, recipe_options.resize)
    said = {
        "interpolation": words or "bicubic",
        "crop_mode": mode,
        "crop_pct": share or (1.0 if variant and variant.side >= LARGE else 0.9),
        "mean": _read(level, ("mean",), forms.channels("--mean"), recipe_options.mean),
        "std": _read(level, ("std",), forms.channels("--std"), recipe_options.std),
    }
    is_guess = name is not None and variant is None and share is None and not recipe_options.resize
    guess = f"{place}: crop_pct is not set, and what {name} has is not known here; 0.9 is assumed, --resize changes it"
    return Training(
        place=place,
        architecture=name,
        is_of_network=True,
        input_size=size,
        recipe=partial(from_timm, said, options=recipe_options, where=place),
        arguments={key: value for key, value in arguments.items() if key != "img_size"},
        dataset=_dataset(level),
        classes=_count(level),
        notes=(guess,) if is_guess else (),
    )


def _check_rgb(level: Level) -> None:
    place, args = level
    channels = next(saved_settings.within([level], ("in_chans", "chans")), Setting(place, "in_chans", forms.RGB))
    mode = args.get("input_img_mode") or "RGB"
    if channels.value != forms.RGB or mode != "RGB":
        in_mode = "" if mode == "RGB" else f", mode {mode}"
        raise UnsupportedModel(
            f"{place}: images have {forms.shown(channels.value)} channels{in_mode}; only RGB is exported"
        )
    if (args.get("gp") or "avg") != "avg":
        raise UnsupportedModel(f"{place}: gp is {args['gp']}; only average pooling is exported")


def _of_torchvision(level: Level, options: Options) -> Training:
    """As the references' `ClassificationPresetEval` reads them; 256, 224 and bilinear are the script's defaults."""
    place, args = level
    asked = options.recipe
    is_replaced = asked.resize or asked.fit
    crop = _read(level, (*CROPS, *SIZES), forms.size, options.size) or (CROP, CROP)
    resize = _read(level, RESIZES, forms.side, is_replaced) or RESIZE
    words = _read(level, INTERPOLATIONS, interpolation, asked.interpolation) or "bilinear"
    changes = {"interpolation": words.removesuffix("-exact")} | _mean_and_std([level], options)  # Pillow has one of two

    def made(size: Size) -> Preprocessing:
        scaled = resize if size == crop else resize * size[0] // crop[0]
        shorter: ShorterSide | Cover = ShorterSide(mode="shorter_side", size=scaled)
        if size[0] != size[1]:
            shorter = cover(size, min(crop) / resize)
        if is_replaced:
            shorter = cover(size, 1.0)  # replaced by the options
        middle = CenterCrop(height=size[0], width=size[1], rounding="half_even")
        return recipe(shorter, middle).model_copy(update=changes)

    if not is_replaced and resize < min(crop):
        raise UnsupportedModel(
            f"{place}: val_resize_size {resize} is below val_crop_size {min(crop)}, so the run filled images up with "
            "black; give another with --resize"
        )
    backend = str(args.get("backend") or "pil").lower()
    note = f"{place}: the run resized with torch (backend {backend}); swin-serve uses Pillow, close but not equal"
    return Training(
        place=place,
        architecture=args.get("model") if isinstance(args.get("model"), str) else None,
        is_of_network=True,
        input_size=crop,
        recipe=made,
        dataset=_dataset(level),
        classes=_count(level),
        notes=() if backend == "pil" else (note,),
    )


def _of_authors(level: Level, options: Options) -> Training:
    """As `data/build.py` reads them."""
    place = level.place
    data, test, model = (_inside(level, key) for key in ("DATA", "TEST", "MODEL"))
    kind = str(model.values.get("TYPE") or "swin")
    if kind not in {"swin", "swinv2"}:
        raise UnsupportedModel(f"{place}: MODEL.TYPE is {kind}; only swin and swinv2 are exported")
    shape = _inside(model, "SWINV2" if kind == "swinv2" else "SWIN").values
    if shape.get("IN_CHANS", forms.RGB) != forms.RGB:
        raise UnsupportedModel(f"{place}: images have {shape['IN_CHANS']} channels; only RGB is exported")
    if shape.get("QK_SCALE") is not None:
        raise UnsupportedModel(f"{place}: QK_SCALE is {shape['QK_SCALE']}; only the default is exported")
    input_size = _read(data, ("IMG_SIZE",), forms.size, options.size)
    words = _read(data, ("INTERPOLATION",), forms.choice("--interpolation", PILLOW), options.recipe.interpolation)
    if words is not None and words not in {"bicubic", "lanczos", "hamming"}:
        words = "bilinear"  # as `_pil_interp` does
    is_small = input_size is not None and max(input_size) <= SMALLEST_RESIZED
    is_cropped = _read(test, ("CROP",), forms.is_true("--fit"), options.recipe.fit) is not False and not is_small

    def made(size: Size) -> Preprocessing:
        if is_cropped:
            crop = CenterCrop(height=size[0], width=size[1], rounding="half_even")
            done = recipe(cover(size, 224 / 256), crop)
        else:
            done = recipe(Squash(mode="squash", height=size[0], width=size[1]), None)
        return done.model_copy(update={"interpolation": options.recipe.interpolation or words or "bicubic"})

    note = f"{place}: the run did not resize its images of {by(input_size)} pixels; swin-serve resizes others"
    return Training(
        place=place,
        input_size=input_size,
        recipe=made,
        windows=_windows(Level(f"{place}: MODEL.SWINV2", shape), options) if kind == "swinv2" else {},
        dataset=_dataset(data),
        classes=_count(model),
        notes=(note,) if is_small else (),
    )


def _windows(level: Level, options: Options) -> dict[str, Any]:
    """Return the windows of Swin V2 as fields of SwinConfig."""
    depths, window = level.values.get("DEPTHS") or (), level.values.get("WINDOW_SIZE")
    if not depths or not window:
        return {}
    pretrained = level.values.get("PRETRAINED_WINDOW_SIZES") or [0] * len(depths)
    values = [window, *pretrained]
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        if options.architecture:
            return {}
        raise CheckpointError(f"{level.place}: its windows are not whole numbers; say which with --architecture")
    return {"window_sizes": ((window, window),) * len(depths), "pretrained_window_sizes": tuple(pretrained)}


def _of_others(levels: list[Level], options: Options) -> Training:
    """Lightning's hyper-parameters, or another script's settings: what several places say has to agree."""
    size, size_at = _agreed(levels, SIZES, forms.size, options.size, "--input-size")
    words, words_at = _agreed(levels, INTERPOLATIONS, interpolation, options.recipe.interpolation, "--interpolation")
    changes = _mean_and_std(levels, options)
    if words:
        changes["interpolation"] = words.removesuffix("-exact")
    inside = [level for level in levels if level.place]
    names = [setting for setting in saved_settings.within(inside, MODELS) if isinstance(setting.value, str)]
    name = next((setting for setting in names if named(setting.value)), None)
    places = [*size_at, *words_at, *(setting.place for setting in saved_settings.within(levels, (*MEANS, *STDS)))]
    places += [name.place] if name else []
    followed = {*MEANS, *STDS, *INTERPOLATIONS}
    rest = tuple(key for key in NOT_FOLLOWED if key not in followed)
    return Training(
        place=" and ".join(dict.fromkeys(place or "the file" for place in places)),
        architecture=name.value if name else None,
        input_size=size,
        dataset=next(filter(None, map(_dataset, inside)), None),
        classes=next((count for level in inside if (count := _count(level)) is not None), None),
        changes=changes,
        notes=(
            *(
                f"{setting.name} is {forms.shown(setting.value)}, which is not followed; say it with --fit and --resize"
                for setting in saved_settings.within(levels, rest)
            ),
            *saved_settings.unread(levels),
        ),
    )


def _mean_and_std(levels: list[Level], options: Options) -> dict[str, Any]:
    """Return mean and standard deviation of the recipe, where the settings say both.

    Raises:
        CheckpointError: they say one of them.
    """
    asked = options.recipe
    mean, at = _agreed(levels, MEANS, forms.channels("--mean"), asked.mean, "--mean")
    std, std_at = _agreed(levels, STDS, forms.channels("--std"), asked.std, "--std")
    if mean and std:
        mean, std = forms.in_unit(mean, std)
        return {"mean": mean, "std": std}
    if (mean and not asked.std) or (std and not asked.mean):
        raise CheckpointError(
            f"{(at or std_at)[0] or 'the file'} has one of mean and std; give both with --mean and --std"
        )
    return {}


def _agreed(
    levels: list[Level], keys: tuple[str, ...], form: Callable[[Setting], Value], replaced: object, option: str
) -> tuple[Value | None, list[str]]:
    """Return what all settings with these keys say, and the places that say it.

    Raises:
        CheckpointError: they differ, and no option replaces them.
    """
    found = [(setting, forms.unless(replaced, form, setting)) for setting in saved_settings.within(levels, keys)]
    values = {value for _, value in found if value is not None}
    if len(values) > 1 and replaced is None:
        said = (f"{setting.name} ({forms.shown(setting.value)})" for setting, _ in found)
        raise CheckpointError(f"{' and '.join(said)} differ; say which with {option}")
    if len(values) != 1:
        return None, []
    return next(iter(values)), [setting.place for setting, _ in found]


def _inside(level: Level, key: str) -> Level:
    value = level.values.get(key)
    return Level(f"{level.place}: {key}", value if isinstance(value, Mapping) else {})


def _dataset(level: Level) -> str | None:
    return next(
        (setting.value for setting in saved_settings.within([level], DATASETS) if isinstance(setting.value, str)), None
    )


def _count(level: Level) -> int | None:
    return next(
        (setting.value for setting in saved_settings.within([level], CLASSES) if type(setting.value) is int), None
    )
