"""Settings that a training script saved beside the weights: timm's train.py, torchvision's references, the authors'.

They decide over the published recipe, because the run evaluated its images so. Knows neither weights nor networks.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from app.bundle import CenterCrop, Label, Preprocessing, ShorterSide, SourceKind, Squash
from app.errors import sentence
from model_export import class_names
from model_export.checkpoints.pickles import WAY_OUT
from model_export.errors import CheckpointError, UnsupportedModel
from model_export.preprocessing import PILLOW, Channels, RecipeOptions, channels_of, from_timm
from model_export.variants import LARGE, cover, named, recipe
from model_export.windows import Size

MakeRecipe = Callable[[Size], Preprocessing]

# Keys under which scripts keep settings, and Lightning keeps what the module was made with.
PLACES = (
    "args",
    "config",
    "hyper_parameters",
    "hparams",
    "cfg",
    "opt",
    "settings",
    "meta",
    "datamodule_hyper_parameters",
)
NESTED = (*PLACES, "model", "data", "dataset_meta", "dataset")
SIZE_KEYS = ("img_size", "image_size", "input_size", "IMG_SIZE", "resolution", "val_crop_size", "crop_size")
MODEL_KEYS = ("model", "model_name", "arch", "architecture", "backbone", "net", "encoder", "variant")
DATASETS = ("dataset", "data_dir", "data", "data_path", "DATASET", "data_set")
CLASSES = ("num_classes", "nb_classes", "n_classes", "NUM_CLASSES")

TIMM_KEYS = {"crop_pct", "img_size"}
TORCHVISION_SIZES = {"val_crop_size": 224, "val_resize_size": 256}
"""Settings of torchvision's references, and what the script takes where they are not given."""

RGB = 3
SMALLEST_RESIZED = 32
"""Pixels of the authors' input up to which their transforms do not resize."""


@dataclass(frozen=True)
class Training:
    """What a run's settings say; None where they are silent. `place` is their name for people."""

    place: str = ""
    architecture: str | None = None
    input_size: Size | None = None
    recipe: MakeRecipe | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of timm's network
    windows: Mapping[str, Any] = field(default_factory=dict)  # of Swin V2, as fields of SwinConfig
    dataset: str | None = None
    classes: int | None = None
    normalization: tuple[Channels, Channels] | None = None  # mean and standard deviation, where only these are said
    notes: tuple[str, ...] = ()


NO_TRAINING = Training()


def is_timm(content: Mapping[str, Any]) -> bool:
    """Whether timm's training script wrote the file: old releases of timm use the authors' names of weights."""
    args = content.get("args")
    if isinstance(args, Mapping) and args.keys() >= TIMM_KEYS and isinstance(args.get("model"), str):
        return True
    arch = content.get("arch")
    return isinstance(arch, str) and (named(arch) is not None or arch.lower().startswith("swintransformer"))


def settings_of(kind: SourceKind, content: Mapping[str, Any], file: Path, options: RecipeOptions) -> Training:
    """Return what the file's own settings say, or those in the `args.yaml` that timm writes beside it.

    Raises:
        UnsupportedModel: a setting cannot be followed.
        CheckpointError: a setting makes no sense.
    """
    args, config = content.get("args"), content.get("config")
    try:
        if kind == "timm":
            if isinstance(args, Mapping) and TIMM_KEYS & args.keys():
                return _of_timm(args, "args", options)
            if beside := _args_yaml(file):
                return _of_timm(beside, "args.yaml", options)
        if kind == "torchvision" and isinstance(args, Mapping) and TORCHVISION_SIZES.keys() & args.keys():
            return _of_torchvision(args, options)
        if isinstance(config, Mapping) and isinstance(config.get("DATA"), Mapping):
            return _of_authors(config, options)
        return _of_others(content)
    except (TypeError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"the settings beside the weights have values that their script does not write; {WAY_OUT}"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"the settings beside the weights make no sense: {sentence(error)}; {WAY_OUT}") from error


def labels_of(content: Mapping[str, Any], classes: int) -> tuple[tuple[Label, ...], str] | None:
    """Return the names that a script saved for so many classes, and where; None where it saved none.

    Raises:
        CheckpointError: two places name the classes otherwise, or a `class_to_idx` is for another number of them.
    """
    found: dict[str, tuple[Label, ...]] = {}
    for place, mapping in _mappings(content):
        for key in class_names.KEYS:
            if isinstance(mapping.get(key), Mapping | list | tuple):
                labels = _labels(mapping[key])
                name = f"{place}.{key}" if place else key
                if key == "class_to_idx" and (labels is None or len(labels) != classes):
                    many = "does not count its classes" if labels is None else f"names {len(labels)} classes"
                    raise CheckpointError(f"{name} {many}, the network has {classes}; give their names with --labels")
                if labels is not None and len(labels) == classes:
                    found[name] = labels
    if len(set(found.values())) > 1:
        raise CheckpointError(f"{' and '.join(found)} name the classes otherwise; give their names with --labels")
    return (next(iter(found.values())), next(iter(found))) if found else None


def _labels(value: Any) -> tuple[Label, ...] | None:
    try:
        return class_names.from_data(value)
    except ValueError:  # something else of that name
        return None


def _mappings(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return the file's own level, then its places of settings, and one level inside these."""
    yield "", content
    for place in (*PLACES, "dataset_meta"):
        inside = content.get(place)
        if isinstance(inside, Mapping):
            yield place, inside
            for key in NESTED:
                if isinstance(inside.get(key), Mapping):
                    yield f"{place}.{key}", inside[key]


def _args_yaml(file: Path) -> Mapping[str, Any] | None:
    """The settings of the run whose folder this is; None where there are none, or of another network."""
    path = file.with_name("args.yaml")
    if not path.is_file():
        return None
    try:
        args = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read; move it away if it is not of this run") from error
    is_timm_s = isinstance(args, Mapping) and isinstance(args.get("model"), str) and TIMM_KEYS & args.keys()
    return args if is_timm_s else None


def _of_timm(args: Mapping[str, Any], place: str, options: RecipeOptions) -> Training:
    """As `timm.data.resolve_data_config` reads them: settings, then the network's own, then ImageNet's."""
    name = args.get("model") if isinstance(args.get("model"), str) else None
    channels = next((args[key] for key in ("in_chans", "chans") if args.get(key) is not None), RGB)
    arguments = args.get("model_kwargs") or {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"model_kwargs is {json.dumps(arguments, default=str)}")  # noqa: TRY004 (read from a file)
    side = arguments.get("img_size")
    size = _pair(side) if side is not None else None
    if given := args.get("input_size"):
        if isinstance(given, int):
            size = _pair(given)
        else:
            channels, *size_of_images = given
            size = _pair(size_of_images)
    elif args.get("img_size"):
        size = _pair(args["img_size"])
    if side is not None and _pair(side) != size:
        made_for, given = ("×".join(map(str, sides)) for sides in (_pair(side), size or ("none",)))
        raise CheckpointError(f"{place}: the network is made for {made_for} pixels, its images have {given}")
    if channels != RGB or (args.get("input_img_mode") or "RGB") != "RGB":
        mode = f", mode {args['input_img_mode']}" if args.get("input_img_mode") else ""
        raise UnsupportedModel(f"{place}: images have {channels} channels{mode}; only RGB is exported")
    if (args.get("gp") or "avg") != "avg":
        raise UnsupportedModel(f"{place}: gp is {args['gp']}; only average pooling is exported")
    variant = named(name) if name else None
    size = size or ((variant.side, variant.side) if variant else None)
    own = {"crop_pct": 1.0 if variant and variant.side >= LARGE else 0.9, "interpolation": "bicubic"}
    given_settings = {key: args.get(key) or own.get(key) for key in ("crop_pct", "crop_mode", "interpolation")}
    given_settings |= {key: channels_of(_single(args[key])) for key in ("mean", "std") if args.get(key) is not None}
    return Training(
        place=place,
        architecture=name,
        input_size=size,
        recipe=partial(from_timm, given_settings, options=options, where=place),
        arguments={key: value for key, value in arguments.items() if key != "img_size"},
        dataset=_dataset(args),
        classes=_count(args),
    )


def _of_torchvision(args: Mapping[str, Any], options: RecipeOptions) -> Training:
    """As the references' `ClassificationPresetEval` reads them; 256, 224 and bilinear are the script's defaults."""
    crop, resize = (_pair(args.get(key) or usual)[0] for key, usual in TORCHVISION_SIZES.items())
    wanted = options.interpolation or args.get("interpolation") or "bilinear"
    interpolation = "nearest" if wanted == "nearest-exact" else wanted  # Pillow has one of the two
    if interpolation not in PILLOW:
        raise UnsupportedModel(f"args: interpolation {wanted} is not supported; give another with --interpolation")

    def made(size: Size) -> Preprocessing:
        side = resize if size == (crop, crop) else resize * size[0] // crop
        shorter = ShorterSide(mode="shorter_side", size=side) if size[0] == size[1] else cover(size, crop / resize)
        if options.resize or options.fit:
            shorter = cover(size, 1.0)  # replaced by the options
        middle = CenterCrop(height=size[0], width=size[1], rounding="half_even")
        return recipe(shorter, middle).model_copy(update={"interpolation": interpolation})

    if not options.resize and not options.fit and resize < crop:
        raise UnsupportedModel(
            f"args: val_resize_size {resize} is below val_crop_size {crop}, so the run filled images up with black; "
            "give another with --resize"
        )
    backend = str(args.get("backend") or "pil").lower()
    note = f"args: the run resized with torch (backend {backend}); swin-serve resizes with Pillow, close but not equal"
    return Training(
        place="args",
        architecture=args.get("model") if isinstance(args.get("model"), str) else None,
        input_size=_pair(crop),
        recipe=made,
        dataset=_dataset(args),
        notes=() if backend == "pil" else (note,),
    )


def _of_authors(config: Mapping[str, Any], options: RecipeOptions) -> Training:
    """As `data/build.py` reads them."""
    data, test, model = (_inside(config, key) for key in ("DATA", "TEST", "MODEL"))
    kind = str(model.get("TYPE") or "swin")
    if kind not in {"swin", "swinv2"}:
        raise UnsupportedModel(f"config: MODEL.TYPE is {kind}; only swin and swinv2 are exported")
    shape = _inside(model, "SWINV2" if kind == "swinv2" else "SWIN")
    if shape.get("IN_CHANS", RGB) != RGB:
        raise UnsupportedModel(f"config: images have {shape['IN_CHANS']} channels; only RGB is exported")
    if shape.get("QK_SCALE") is not None:
        raise UnsupportedModel(f"config: QK_SCALE is {shape['QK_SCALE']}; only the default is exported")
    given = data.get("IMG_SIZE")
    input_size = _pair(given) if given else None
    interpolation = options.interpolation or str(data.get("INTERPOLATION") or "bicubic")
    if interpolation not in {"bicubic", "lanczos", "hamming"} and options.interpolation is None:
        interpolation = "bilinear"  # as `_pil_interp` does
    is_small = input_size is not None and max(input_size) <= SMALLEST_RESIZED
    is_cropped = bool(test.get("CROP", True)) and not is_small

    def made(size: Size) -> Preprocessing:
        if is_cropped:
            crop = CenterCrop(height=size[0], width=size[1], rounding="half_even")
            done = recipe(cover(size, 224 / 256), crop)
        else:
            done = recipe(Squash(mode="squash", height=size[0], width=size[1]), None)
        return done.model_copy(update={"interpolation": interpolation})

    windows: dict[str, Any] = {}
    depths = shape.get("DEPTHS") or ()
    if kind == "swinv2" and shape.get("WINDOW_SIZE"):
        windows["window_sizes"] = (_pair(shape["WINDOW_SIZE"]),) * len(depths)
        pretrained = shape.get("PRETRAINED_WINDOW_SIZES") or (0,) * len(depths)
        windows["pretrained_window_sizes"] = tuple(int(side) for side in pretrained)
    note = f"config: the run did not resize its images, which had {given}×{given} pixels; swin-serve resizes others"
    return Training(
        place="config",
        input_size=input_size,
        recipe=made,
        windows=windows if depths else {},
        dataset=str(data["DATASET"]) if data.get("DATASET") else None,
        classes=_count(model),
        notes=(note,) if is_small else (),
    )


def _of_others(content: Mapping[str, Any]) -> Training:
    """Lightning's hyper-parameters, or another script's settings: the size of images and the network's name."""
    size, name, dataset, classes, normalization = None, None, None, None, None
    place = ""
    for where, mapping in _mappings(content):
        if not where:
            continue
        found = next((_size(mapping[key]) for key in SIZE_KEYS if key in mapping and _size(mapping[key])), None)
        called = (mapping.get(key) for key in MODEL_KEYS)
        known = next((value for value in called if isinstance(value, str) and named(value)), None)
        mean, std = (_some_channels(mapping.get(key)) for key in ("mean", "std"))
        if mean and std and not normalization:
            unit = 255 if max(mean) > 1 else 1  # some scripts count in levels of 255
            normalization = channels_of([value / unit for value in mean]), channels_of([value / unit for value in std])
        place = place or (where if found or known or (mean and std) else "")
        size, name = size or found, name or known
        dataset, classes = dataset or _dataset(mapping), classes or _count(mapping)
    return Training(place, name, size, dataset=dataset, classes=classes, normalization=normalization)


def _size(value: Any) -> Size | None:
    match value:
        case bool():
            return None
        case int() if value >= SMALLEST_RESIZED:
            return value, value
        case [int() as height, int() as width]:
            return height, width
        case [3, int() as height, int() as width]:
            return height, width
    return None


def _pair(value: Any) -> Size:
    """Return (height, width) of one side or of both.

    Raises:
        ValueError: these are no numbers of pixels.
    """
    values = list(value) if isinstance(value, list | tuple) else [value]
    match values * 2 if len(values) == 1 else values:
        case [int() as height, int() as width] if min(height, width) > 0:
            return height, width
    raise ValueError(f"{json.dumps(value, default=str)} is no size of images")


def _single(values: Any) -> Any:
    """A list of one number, as timm's command line gives it, stands for all channels."""
    return values[0] if isinstance(values, list | tuple) and len(values) == 1 else values


def _some_channels(values: Any) -> Channels | None:
    is_list = isinstance(values, list | tuple) and len(values) == RGB
    return channels_of(values) if is_list and all(isinstance(value, int | float) for value in values) else None


def _inside(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, Mapping) else {}


def _dataset(settings: Mapping[str, Any]) -> str | None:
    return next((str(settings[key]) for key in DATASETS if isinstance(settings.get(key), str) and settings[key]), None)


def _count(settings: Mapping[str, Any]) -> int | None:
    return next((settings[key] for key in CLASSES if isinstance(settings.get(key), int)), None)
