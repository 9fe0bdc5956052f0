"""Conventions of training scripts: timm's, torchvision's, the authors' and others'.

The keys of the settings determine the convention. The settings come before the published
preprocessing, because the training run evaluated its images with them. Knows nothing about weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from app.bundle.manifest import CenterCrop, Cover, Preprocessing, ShorterSide, SourceKind, Squash
from model_export.checkpoints.checkpoint import Options
from model_export.checkpoints.files.pickles import SAVE_STATE_DICT
from model_export.checkpoints.preprocessing import PILLOW_INTERPOLATIONS, from_timm
from model_export.checkpoints.training.saved_settings import (
    Section,
    Setting,
    find_sections,
    find_settings,
    notes_on_unparsed_text,
    read_yaml,
)
from model_export.checkpoints.training.types import Training
from model_export.checkpoints.training.value_parsers import (
    RGB_CHANNELS,
    boolean_parser,
    channels_parser,
    choice_parser,
    format_value,
    parse_fraction,
    parse_side,
    parse_size,
    parse_unless_replaced,
    scale_to_unit,
)
from model_export.checkpoints.variants import LARGE_SIDE, cover, find_variant, imagenet_preprocessing
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
PREPROCESSING_KEYS = (*RESIZES, *MEANS, *STDS, *INTERPOLATIONS, "crop_pct", "crop_mode", "resize", "test_crop_ratio")
MODELS = ("model", "model_name", "arch", "architecture", "backbone", "net", "encoder", "variant")
DATASETS = ("dataset", "data_dir", "data", "data_path", "DATASET", "data_set")
CLASSES = ("num_classes", "nb_classes", "n_classes", "NUM_CLASSES")

TIMM_KEY = "crop_pct"
TORCHVISION_KEYS = {"val_resize_size", "val_crop_size", "resize_size"}
TORCHVISION_RESIZE, TORCHVISION_CROP = 256, 224  # defaults of torchvision's references

# Side in pixels of the input up to which the authors' transforms do not resize images.
MAX_UNRESIZED_SIDE = 32

parse_interpolation = choice_parser("--interpolation", (*PILLOW_INTERPOLATIONS, "nearest-exact"))


def is_timm(content: Mapping[str, Any], file: Path) -> bool:
    """Return whether an early version of timm wrote a file with the authors' names."""
    for place, values in find_sections(content):
        if place and {TIMM_KEY, "img_size"} <= values.keys() and isinstance(values.get("model"), str):
            return True
    arch = content.get("arch")
    if isinstance(arch, str) and (find_variant(arch) is not None or arch.lower().startswith("swintransformer")):
        return True
    return _read_args_yaml(file) is not None


def read_settings(kind: SourceKind, content: Mapping[str, Any], file: Path, options: Options) -> Training:
    """Return the settings of the training run that wrote the checkpoint.

    timm's settings come before torchvision's, those before Microsoft's, and those before settings of other scripts.
    If a file of timm has none, the `args.yaml` in its folder has them.

    Raises:
        UnsupportedModel: a setting is not supported.
        CheckpointError: a setting cannot be read, or two settings contradict each other.
    """
    sections = find_sections(content)
    has_timm_settings = any(TIMM_KEY in section.values for section in sections)
    if kind == "timm" and not has_timm_settings and (args_yaml := _read_args_yaml(file)):
        sections.append(args_yaml)
    timm = [section for section in sections if TIMM_KEY in section.values]
    torchvision = [section for section in sections if TORCHVISION_KEYS & section.values.keys()]
    authors = [section for section in sections if isinstance(section.values.get("DATA"), Mapping)]
    for candidates, parse in ((timm, _parse_timm), (torchvision, _parse_torchvision), (authors, _parse_authors)):
        if candidates:
            decisive = candidates[0]
            # Messages need a name for the top level.
            named = decisive if decisive.place else Section("the file", decisive.values)
            return _with_notes_on_others(parse(named, options), decisive.place, sections, options)
    return _parse_others(sections, options)


def _with_notes_on_others(training: Training, own: str, sections: list[Section], options: Options) -> Training:
    """Return the settings of one place, with notes on settings of other places.

    Raises:
        CheckpointError: another place has another input size.
    """
    others = [section for section in sections if section.place != own and not section.place.startswith(f"{own}.")]
    for setting in find_settings(others, SIZES):
        other = parse_unless_replaced(options.size, parse_size, setting)
        if options.size is None and training.input_size and other != training.input_size:
            raise CheckpointError(
                f"{training.place} and {setting.name} have two input sizes, {by(training.input_size)} and "
                f"{by(other)}; choose one with --input-size"
            )
    notes = [
        f"{setting.name} is {format_value(setting.value)}, which is not used, because {training.place} decides"
        for setting in find_settings(others, PREPROCESSING_KEYS)
    ]
    return replace(training, notes=(*training.notes, *notes, *notes_on_unparsed_text(sections)))


def _read_args_yaml(file: Path) -> Section | None:
    """Return the `args.yaml` in the file's folder; None if there is none or it is not timm's."""
    path = file.with_name("args.yaml")
    args = read_yaml(path)
    is_timm_run = isinstance(args, Mapping) and isinstance(args.get("model"), str) and TIMM_KEY in args
    return Section("args.yaml", args) if is_timm_run else None


def _read(
    section: Section, keys: tuple[str, ...], parse: Callable[[Setting], Value], replaced: object = None
) -> Value | None:
    """Return the first of these settings that is set; None if an option replaces a bad value."""
    setting = next(find_settings([section], keys), None)
    return None if setting is None else parse_unless_replaced(replaced, parse, setting)


def _parse_timm(section: Section, options: Options) -> Training:
    """Return the settings of timm's script as `timm.data.resolve_data_config` reads them.

    The run's settings come first, then those of the network, then ImageNet's defaults.
    """
    place, args = section
    name = args.get("model") if isinstance(args.get("model"), str) else None
    variant = find_variant(name) if name else None
    arguments = args.get("model_kwargs") or {}
    if not isinstance(arguments, Mapping):
        raise CheckpointError(
            f"{place}: model_kwargs is {format_value(arguments)}, not the arguments of a network; {SAVE_STATE_DICT}"
        )
    made_for = _read(Section(f"{place}: model_kwargs", arguments), ("img_size",), parse_size, options.size)
    size = _read(section, ("input_size", "img_size"), parse_size, options.size) or made_for
    if made_for not in (None, size):
        raise CheckpointError(f"{place}: the network is made for {by(made_for)} pixels, its images have {by(size)}")
    size = size or ((variant.side, variant.side) if variant else None)
    _check_rgb(section)
    recipe_options = options.recipe
    parse_pillow_interpolation = choice_parser("--interpolation", PILLOW_INTERPOLATIONS)
    interpolation = _read(section, ("interpolation",), parse_pillow_interpolation, recipe_options.interpolation)
    parse_mode = choice_parser("--fit", ("center", "squash", "border"))
    mode = _read(section, ("crop_mode",), parse_mode, recipe_options.fit)
    fraction = _read(section, ("crop_pct",), parse_fraction, recipe_options.resize)
    settings = {
        "interpolation": interpolation or "bicubic",
        "crop_mode": mode,
        "crop_pct": fraction or (1.0 if variant and variant.side >= LARGE_SIDE else 0.9),
        "mean": _read(section, ("mean",), channels_parser("--mean"), recipe_options.mean),
        "std": _read(section, ("std",), channels_parser("--std"), recipe_options.std),
    }
    is_assumed = name is not None and variant is None and fraction is None and not recipe_options.resize
    note = (
        f"{place}: crop_pct is not set, and the default of {name} is unknown; 0.9 is assumed, change it with --resize"
    )
    return Training(
        place=place,
        architecture=name,
        must_match_weights=True,
        input_size=size,
        recipe=partial(from_timm, settings, options=recipe_options, where=place),
        arguments={key: value for key, value in arguments.items() if key != "img_size"},
        dataset=_dataset(section),
        classes=_count(section),
        notes=(note,) if is_assumed else (),
    )


def _check_rgb(section: Section) -> None:
    place, args = section
    channels = next(find_settings([section], ("in_chans", "chans")), Setting(place, "in_chans", RGB_CHANNELS))
    mode = args.get("input_img_mode") or "RGB"
    if channels.value != RGB_CHANNELS or mode != "RGB":
        in_mode = "" if mode == "RGB" else f", mode {mode}"
        raise UnsupportedModel(
            f"{place}: images have {format_value(channels.value)} channels{in_mode}; only RGB is exported"
        )
    if (args.get("gp") or "avg") != "avg":
        raise UnsupportedModel(f"{place}: gp is {args['gp']}; only average pooling is exported")


def _parse_torchvision(section: Section, options: Options) -> Training:
    """Return the settings of torchvision's script as `ClassificationPresetEval` reads them.

    The script's defaults are a resize to 256, a crop of 224 and bilinear interpolation.
    """
    place, args = section
    recipe_options = options.recipe
    is_replaced = recipe_options.resize or recipe_options.fit
    crop = _read(section, (*CROPS, *SIZES), parse_size, options.size) or (TORCHVISION_CROP, TORCHVISION_CROP)
    resize = _read(section, RESIZES, parse_side, is_replaced) or TORCHVISION_RESIZE
    interpolation = _read(section, INTERPOLATIONS, parse_interpolation, recipe_options.interpolation) or "bilinear"
    # Pillow has one kind of "nearest"; torch distinguishes "nearest" and "nearest-exact".
    changes = {"interpolation": interpolation.removesuffix("-exact")} | _mean_and_std([section], options)

    def make_preprocessing(size: Size) -> Preprocessing:
        scaled = resize if size == crop else resize * size[0] // crop[0]
        shorter: ShorterSide | Cover = ShorterSide(mode="shorter_side", size=scaled)
        if size[0] != size[1]:
            shorter = cover(size, min(crop) / resize)
        if is_replaced:
            shorter = cover(size, 1.0)  # a placeholder, which the options replace
        middle = CenterCrop(height=size[0], width=size[1], rounding="half_even")
        return imagenet_preprocessing(shorter, middle).model_copy(update=changes)

    if not is_replaced and resize < min(crop):
        raise UnsupportedModel(
            f"{place}: val_resize_size {resize} is below val_crop_size {min(crop)}, so the run padded images with "
            "black; give another size with --resize"
        )
    backend = str(args.get("backend") or "pil").lower()
    note = (
        f"{place}: the run resized with torch (backend {backend}); swin-serve uses Pillow, "
        "which gives slightly different pixels"
    )
    return Training(
        place=place,
        architecture=args.get("model") if isinstance(args.get("model"), str) else None,
        must_match_weights=True,
        input_size=crop,
        recipe=make_preprocessing,
        dataset=_dataset(section),
        classes=_count(section),
        notes=() if backend == "pil" else (note,),
    )


def _parse_authors(section: Section, options: Options) -> Training:
    """Return the settings of the authors' script as their `data/build.py` reads them."""
    place = section.place
    data, test, model = (_inside(section, key) for key in ("DATA", "TEST", "MODEL"))
    kind = str(model.values.get("TYPE") or "swin")
    if kind not in {"swin", "swinv2"}:
        raise UnsupportedModel(f"{place}: MODEL.TYPE is {kind}; only swin and swinv2 are exported")
    shape = _inside(model, "SWINV2" if kind == "swinv2" else "SWIN").values
    if shape.get("IN_CHANS", RGB_CHANNELS) != RGB_CHANNELS:
        raise UnsupportedModel(f"{place}: images have {shape['IN_CHANS']} channels; only RGB is exported")
    if shape.get("QK_SCALE") is not None:
        raise UnsupportedModel(f"{place}: QK_SCALE is {shape['QK_SCALE']}; only the default is exported")
    input_size = _read(data, ("IMG_SIZE",), parse_size, options.size)
    parse_pillow_interpolation = choice_parser("--interpolation", PILLOW_INTERPOLATIONS)
    interpolation = _read(data, ("INTERPOLATION",), parse_pillow_interpolation, options.recipe.interpolation)
    if interpolation is not None and interpolation not in {"bicubic", "lanczos", "hamming"}:
        interpolation = "bilinear"  # as `_pil_interp` does
    is_small = input_size is not None and max(input_size) <= MAX_UNRESIZED_SIDE
    is_cropped = _read(test, ("CROP",), boolean_parser("--fit"), options.recipe.fit) is not False and not is_small

    def make_preprocessing(size: Size) -> Preprocessing:
        if is_cropped:
            crop = CenterCrop(height=size[0], width=size[1], rounding="half_even")
            preprocessing = imagenet_preprocessing(cover(size, 224 / 256), crop)
        else:
            preprocessing = imagenet_preprocessing(Squash(mode="squash", height=size[0], width=size[1]), None)
        return preprocessing.model_copy(
            update={"interpolation": options.recipe.interpolation or interpolation or "bicubic"}
        )

    note = (
        f"{place}: the run did not resize images of {by(input_size)} pixels; swin-serve resizes images of other sizes"
    )
    return Training(
        place=place,
        input_size=input_size,
        recipe=make_preprocessing,
        windows=_windows(Section(f"{place}: MODEL.SWINV2", shape), options) if kind == "swinv2" else {},
        dataset=_dataset(data),
        classes=_count(model),
        notes=(note,) if is_small else (),
    )


def _windows(section: Section, options: Options) -> dict[str, Any]:
    """Return the windows of Swin V2 as fields of SwinConfig."""
    depths, window = section.values.get("DEPTHS") or (), section.values.get("WINDOW_SIZE")
    if not depths or not window:
        return {}
    pretrained = section.values.get("PRETRAINED_WINDOW_SIZES") or [0] * len(depths)
    values = [window, *pretrained]
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        if options.architecture:
            return {}
        raise CheckpointError(f"{section.place}: the windows are not integers; name the network with --architecture")
    return {"window_sizes": ((window, window),) * len(depths), "pretrained_window_sizes": tuple(pretrained)}


def _parse_others(sections: list[Section], options: Options) -> Training:
    """Return the settings of Lightning or another script. Settings of the same meaning must agree.

    Raises:
        CheckpointError: they do not agree, or one cannot be read.
    """
    size, size_at = _agreed_value(sections, SIZES, parse_size, options.size, "--input-size")
    interpolation, interpolation_at = _agreed_value(
        sections, INTERPOLATIONS, parse_interpolation, options.recipe.interpolation, "--interpolation"
    )
    changes = _mean_and_std(sections, options)
    if interpolation:
        changes["interpolation"] = interpolation.removesuffix("-exact")
    inside = [section for section in sections if section.place]
    names = [setting for setting in find_settings(inside, MODELS) if isinstance(setting.value, str)]
    name = next((setting for setting in names if find_variant(setting.value)), None)
    places = [
        *size_at,
        *interpolation_at,
        *(setting.place for setting in find_settings(sections, (*MEANS, *STDS))),
    ]
    places += [name.place] if name else []
    used = {*MEANS, *STDS, *INTERPOLATIONS}
    unused = tuple(key for key in PREPROCESSING_KEYS if key not in used)
    return Training(
        place=" and ".join(dict.fromkeys(place or "the file" for place in places)),
        architecture=name.value if name else None,
        input_size=size,
        dataset=next(filter(None, map(_dataset, inside)), None),
        classes=next((count for section in inside if (count := _count(section)) is not None), None),
        changes=changes,
        notes=(
            *(
                f"{setting.name} is {format_value(setting.value)}, which is not used; set it with --fit and --resize"
                for setting in find_settings(sections, unused)
            ),
            *notes_on_unparsed_text(sections),
        ),
    )


def _mean_and_std(sections: list[Section], options: Options) -> dict[str, Any]:
    """Return the fields for mean and standard deviation; none if the settings have neither.

    Raises:
        CheckpointError: the settings have one of the two, and no option gives the other.
    """
    recipe_options = options.recipe
    mean, at = _agreed_value(sections, MEANS, channels_parser("--mean"), recipe_options.mean, "--mean")
    std, std_at = _agreed_value(sections, STDS, channels_parser("--std"), recipe_options.std, "--std")
    if mean and std:
        mean, std = scale_to_unit(mean, std)
        return {"mean": mean, "std": std}
    if (mean and not recipe_options.std) or (std and not recipe_options.mean):
        raise CheckpointError(
            f"{(at or std_at)[0] or 'the file'} has one of mean and std; give both with --mean and --std"
        )
    return {}


def _agreed_value(
    sections: list[Section], keys: tuple[str, ...], parse: Callable[[Setting], Value], replaced: object, option: str
) -> tuple[Value | None, list[str]]:
    """Return the common value of all settings with these keys, and their places.

    Raises:
        CheckpointError: the values differ, and no option replaces them.
    """
    found = [(setting, parse_unless_replaced(replaced, parse, setting)) for setting in find_settings(sections, keys)]
    values = {value for _, value in found if value is not None}
    if len(values) > 1 and replaced is None:
        shown = (f"{setting.name} ({format_value(setting.value)})" for setting, _ in found)
        raise CheckpointError(f"{' and '.join(shown)} differ; choose one with {option}")
    if len(values) != 1:
        return None, []
    return next(iter(values)), [setting.place for setting, _ in found]


def _inside(section: Section, key: str) -> Section:
    value = section.values.get(key)
    return Section(f"{section.place}: {key}", value if isinstance(value, Mapping) else {})


def _dataset(section: Section) -> str | None:
    return next(
        (setting.value for setting in find_settings([section], DATASETS) if isinstance(setting.value, str)),
        None,
    )


def _count(section: Section) -> int | None:
    return next(
        (setting.value for setting in find_settings([section], CLASSES) if type(setting.value) is int),
        None,
    )
