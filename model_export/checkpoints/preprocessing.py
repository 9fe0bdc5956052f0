"""The preprocessing that a checkpoint's configuration declares, and its changes by options.

A step that the service cannot reproduce exactly is refused. Knows nothing about weights.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, assert_never, get_args

from app.bundle.manifest import CenterCrop, Cover, Interpolation, Pad, Preprocessing, ShorterSide, Squash
from app.errors import sentence
from model_export.checkpoints.variants import MEAN, STD, cover
from model_export.errors import CheckpointError, RequestError, UnsupportedModel
from model_export.network.windows import Size

Resize = Squash | ShorterSide | Cover | Pad
Channels = tuple[float, float, float]
Fit = Literal["shorter-side", "squash", "pad"]

# Interpolations in the order of Pillow's numbers, which Hugging Face's files have.
PILLOW_INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
# Image processors that Swin checkpoints name. All of them do the same.
HUGGINGFACE_PROCESSORS = frozenset(
    {"ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil", "ViTFeatureExtractor"}
)
# Defaults of `ViTImageProcessor`, for the keys that a file lacks.
HUGGINGFACE_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_pad": False,
}


@dataclass(frozen=True)
class RecipeOptions:
    """Options of the command line for the preprocessing. Sizes are (height, width)."""

    fit: Fit | None = None
    resize: Size | None = None
    crop: Size | None = None
    interpolation: Interpolation | None = None
    mean: Channels | None = None
    std: Channels | None = None

    @property
    def has_changes(self) -> bool:
        """True if an option is set."""
        return self != RecipeOptions()


NO_OPTIONS = RecipeOptions()
# Parts of the preprocessing, in the order of their execution.
PARTS = ("resize", "interpolation", "crop", "rescale", "mean", "std")
# Parts, and the keys that declare them. A part without its key has the library's default.
HUGGINGFACE_KEYS = {
    "resize": "size",
    "interpolation": "resample",
    "crop": "do_center_crop",
    "rescale": "rescale_factor",
    "mean": "image_mean",
    "std": "image_std",
}
TIMM_KEYS = {"resize": "crop_pct", "interpolation": "interpolation", "rescale": "", "mean": "mean", "std": "std"}
# timm's `DEFAULT_CROP_PCT`.
DEFAULT_CROP_FRACTION = 0.875
MAX_CROP_FRACTION = 2
REPLACE_HINT = "replace it with --fit, --resize, --interpolation, --mean and --std"
# Steps of image processors that options and the file's other keys can describe completely.
KNOWN_STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_pad"}


def apply_options(recipe: Preprocessing, options: RecipeOptions, input_size: Size) -> Preprocessing:
    """Return the preprocessing with the options' values and an output of `input_size`.

    Raises:
        RequestError: the options contradict each other, or the normalization gives no finite
            numbers.
    """
    recipe = _resize_in_proportion(recipe, input_size)
    mean, std = options.mean or recipe.mean, options.std or recipe.std
    resize, crop = recipe.resize, recipe.crop
    try:
        if options.fit or options.resize:
            resize = _fit(options, recipe.resize, input_size, mean)
            crop = None if isinstance(resize, Squash | Pad) else crop
        if options.crop or (crop is None and not isinstance(resize, Squash | Pad)):
            rounding = crop.rounding if crop else "half_even"
            crop = CenterCrop(height=input_size[0], width=input_size[1], rounding=rounding)
        new = Preprocessing(
            resize=resize,
            crop=crop,
            interpolation=options.interpolation or recipe.interpolation,
            scale=recipe.scale,
            mean=mean,
            std=std,
        )
    except ValueError as error:
        raise RequestError(f"these options give no valid preprocessing: {sentence(error)}") from error
    if new.output_size != input_size:
        raise RequestError(
            f"preprocessing would end with {_pixels(new.output_size)}, the network takes {_pixels(input_size)}; "
            "crop images with --crop, or give the network another size with --input-size"
        )
    _check_numbers(new)
    return new


def _check_numbers(recipe: Preprocessing) -> None:
    """Raise RequestError for a normalization that gives no finite numbers."""
    if not all(map(math.isfinite, (recipe.scale, *recipe.mean, *recipe.std))):
        raise RequestError("preprocessing: mean, std and scale are not all finite; give others with --mean and --std")
    if min(recipe.std) <= 0:
        raise RequestError(f"preprocessing: std is {min(recipe.std):g}, not above 0; give another with --std")
    if recipe.scale <= 0:
        raise RequestError(f"preprocessing: bytes are scaled by {recipe.scale:g}, which is not above 0")


def _pixels(size: Size | None) -> str:
    return f"{size[0]}×{size[1]} pixels" if size else "images of any size"


def _resize_in_proportion(recipe: Preprocessing, input_size: Size) -> Preprocessing:
    """Return the preprocessing for another input size, in proportion and rounded down."""
    old = recipe.output_size
    if old is None or old == input_size:
        return recipe
    height, width = input_size
    crop = recipe.crop and recipe.crop.model_copy(update={"height": height, "width": width})
    resize = recipe.resize
    match resize:
        case ShorterSide() if height * old[1] == width * old[0]:
            resize = resize.model_copy(update={"size": resize.size * height // old[0]})
        case ShorterSide():
            resize = cover(input_size, min(old) / resize.size)
        case _:
            sides = {"height": resize.height * height // old[0], "width": resize.width * width // old[1]}
            resize = resize.model_copy(update=sides)
    return recipe.model_copy(update={"resize": resize, "crop": crop})


def _fit(options: RecipeOptions, resize: Resize, input_size: Size, mean: Channels) -> Resize:
    modes: dict[str, Fit] = {"squash": "squash", "pad": "pad", "shorter_side": "shorter-side", "cover": "shorter-side"}
    fit = options.fit or modes[resize.mode]
    if fit == "shorter-side":
        if options.resize is None and isinstance(resize, ShorterSide | Cover):
            return resize
        if options.resize is None:
            raise RequestError("--fit shorter-side needs --resize with the length of the shorter side")
        height, width = options.resize
        return ShorterSide(mode="shorter_side", size=height) if height == width else cover((height, width), 1.0)
    height, width = options.resize or input_size
    if fit == "squash":
        return Squash(mode="squash", height=height, width=width)
    red, green, blue = (round(255 * channel) for channel in mean)
    return Pad(mode="pad", height=height, width=width, fill=(red, green, blue))


def from_timm(
    settings: Mapping[str, Any],
    input_size: Size,
    *,
    options: RecipeOptions = NO_OPTIONS,
    where: str = "pretrained_cfg",
) -> Preprocessing:
    """Return the preprocessing that `timm.data.create_transform` makes from these settings.

    Args:
        settings: timm's keys and values.
        input_size: of the network.
        options: settings that the options replace are not checked.
        where: the name of the settings in messages.

    Raises:
        UnsupportedModel: the service does not support a step of the preprocessing.
        CheckpointError: the settings contradict themselves.
    """
    interpolation: Any = options.interpolation or settings.get("interpolation") or "bicubic"
    mode = "center" if options.fit else settings.get("crop_mode") or "center"
    if interpolation not in get_args(Interpolation):
        raise UnsupportedModel(
            f"{where}: interpolation '{interpolation}' is not supported; give another with --interpolation"
        )
    if mode not in {"center", "squash", "border"}:
        raise UnsupportedModel(f"{where}: crop_mode '{mode}' is not supported; replace it with --fit and --resize")
    try:
        fraction = DEFAULT_CROP_FRACTION if options.resize else settings.get("crop_pct") or DEFAULT_CROP_FRACTION
        if not isinstance(fraction, int | float):
            raise ValueError(f"crop_pct is {_json(fraction)}, not a number")  # noqa: TRY301, TRY004 (reported with the others)
        if not 0 < fraction <= MAX_CROP_FRACTION:
            raise ValueError(f"crop_pct is {fraction:g}, not a fraction of the image")  # noqa: TRY301 (reported with the others)
        mean = options.mean or to_channels(settings.get("mean") or MEAN)
        std = options.std or to_channels(settings.get("std") or STD)
        resize: Resize = cover(input_size, fraction)
        height, width = (resize.size,) * 2 if isinstance(resize, ShorterSide) else (resize.height, resize.width)
        if mode == "squash":
            resize = Squash(mode="squash", height=height, width=width)
        elif mode == "border":
            red, green, blue = (round(255 * channel) for channel in mean)
            resize = Pad(mode="pad", height=height, width=width, fill=(red, green, blue))
        crop = CenterCrop(height=input_size[0], width=input_size[1], rounding="half_even")
        return Preprocessing(resize=resize, crop=crop, interpolation=interpolation, scale=1 / 255, mean=mean, std=std)
    except (TypeError, ValueError, ZeroDivisionError) as error:  # pydantic's ValidationError is a ValueError
        raise CheckpointError(f"{where} contradicts itself: {sentence(error)}; {REPLACE_HINT}") from error


def from_huggingface(
    settings: Mapping[str, Any], image_size: Size, options: RecipeOptions = NO_OPTIONS
) -> tuple[Preprocessing, Size]:
    """Return the preprocessing in a `preprocessor_config.json` and its output (height, width).

    Args:
        settings: the file's content.
        image_size: of the network; used if the options replace the resize.
        options: settings that the options replace are not checked.

    Raises:
        UnsupportedModel: the service does not support a step of the preprocessing.
        CheckpointError: the settings contradict themselves.
    """
    _check_processor(settings, options)
    recipe = HUGGINGFACE_DEFAULTS | {key: value for key, value in settings.items() if value is not None}
    if options.fit:  # replaces the whole resize; only the crop to the network's size remains
        is_whole = options.fit == "squash"
        recipe |= {"do_resize": True, "size": dict(zip(("height", "width"), image_size, strict=True)), "do_pad": False}
        recipe |= {"do_center_crop": False} if is_whole else {}
    for key, wanted in (("do_resize", True), ("do_pad", False)):
        if recipe[key] is not wanted:
            raise UnsupportedModel(
                f"preprocessor_config.json: {key} is {_json(recipe[key])}; only {_json(wanted)} is supported; "
                "replace it with --fit and --resize"
            )
    try:
        do_crop = recipe["do_center_crop"] and not options.fit
        resize = _resize(recipe["size"])
        crop = _crop(recipe["crop_size"] if "crop_size" in recipe else recipe["size"]) if do_crop else None
        if options.crop and crop is None and isinstance(resize, ShorterSide):
            crop = CenterCrop(height=options.crop[0], width=options.crop[1], rounding="down")
        preprocessing = Preprocessing(
            resize=resize,
            crop=crop,
            interpolation=options.interpolation or _interpolation(recipe["resample"]),
            scale=recipe["rescale_factor"] if recipe["do_rescale"] else 1.0,
            mean=options.mean or (to_channels(recipe["image_mean"]) if recipe["do_normalize"] else (0.0, 0.0, 0.0)),
            std=options.std or (to_channels(recipe["image_std"]) if recipe["do_normalize"] else (1.0, 1.0, 1.0)),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise CheckpointError(
            f"preprocessor_config.json contradicts itself: {sentence(error)}; {REPLACE_HINT}"
        ) from error
    size = preprocessing.output_size
    if size is None:
        side = recipe["size"]["shortest_edge"]
        raise UnsupportedModel(
            f"preprocessor_config.json: images keep their shape after a resize of the shorter side to {side}, but the "
            f"network needs one size; crop them with --crop {min(side, *image_size)}, or squash them with --fit squash"
        )
    return preprocessing, size


def _check_processor(settings: Mapping[str, Any], options: RecipeOptions) -> None:
    """Raise UnsupportedModel for an unknown processor that options and file do not describe."""
    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type") or "ViTImageProcessor"
    if kind in HUGGINGFACE_PROCESSORS:
        return
    unknown_steps = [
        key for key, value in settings.items() if key.startswith("do_") and value is True and key not in KNOWN_STEPS
    ]
    if unknown_steps:
        raise UnsupportedModel(f"preprocessor_config.json: {kind} does {unknown_steps[0]}, which is not supported")
    described = {
        "--fit": options.fit,
        "--resize": options.resize or options.fit in {"squash", "pad"},
        "--interpolation": options.interpolation or settings.get("resample") is not None,
        "--mean": options.mean or settings.get("image_mean") is not None or settings.get("do_normalize") is False,
        "--std": options.std or settings.get("image_std") is not None or settings.get("do_normalize") is False,
    }
    if missing := [option for option, value in described.items() if not value]:
        raise UnsupportedModel(
            f"preprocessor_config.json: {kind} is not known, {', '.join(sorted(HUGGINGFACE_PROCESSORS))} are; "
            f"describe its steps with {', '.join(missing)}"
        )


def _json(value: Any) -> str:
    return json.dumps(value, default=str)


def _resize(size: Any) -> Squash | ShorterSide:
    match size:
        case int() | float() if not isinstance(size, bool) and size == int(size):
            return Squash(mode="squash", height=int(size), width=int(size))
        case [height, width] | {"height": height, "width": width}:
            return Squash(mode="squash", height=height, width=width)
        case {"shortest_edge": side}:
            return ShorterSide(mode="shorter_side", size=side)
    raise UnsupportedModel(
        f"preprocessor_config.json: size {_json(size)} is not supported; replace it with --fit and --resize"
    )


def _interpolation(resample: Any) -> Interpolation:
    if resample not in range(len(PILLOW_INTERPOLATIONS)):
        raise ValueError(f"resample is {_json(resample)}, not one of Pillow's numbers")
    return PILLOW_INTERPOLATIONS[resample]


def _crop(size: Any) -> CenterCrop:
    match size:
        case int():
            height, width = size, size
        case [height, width] | {"height": height, "width": width}:
            pass
        case _:
            raise ValueError(f"crop_size is {_json(size)}, not a height and a width")
    return CenterCrop(height=height, width=width, rounding="down")


def to_channels(values: Any) -> Channels:
    """Return red, green and blue from three numbers, or from one number for all.

    Raises:
        ValueError: the values are not one or three numbers.
    """
    is_one = isinstance(values, int | float)
    numbers = [values] if is_one else values
    if not isinstance(numbers, list | tuple) or not all(isinstance(value, int | float) for value in numbers):
        raise ValueError(f"{_json(values)} is not a number for each of three channels")
    if is_one:
        numbers = [values] * 3
    if len(numbers) != 3:  # noqa: PLR2004 (red, green, blue)
        raise ValueError(f"{_json(values)} is not a number for each of three channels")
    red, green, blue = map(float, numbers)
    return red, green, blue


def describe_preprocessing(recipe: Preprocessing) -> str:
    """Return resize, interpolation and crop as text for the terminal, without the normalization."""
    kept = f", keep the middle {recipe.crop.height}×{recipe.crop.width}" if recipe.crop else ""
    return f"resize {_describe_resize(recipe)} ({recipe.interpolation}){kept}"


def describe_steps(recipe: Preprocessing) -> dict[str, tuple[str, str]]:
    """Return each part of the preprocessing as text for the terminal, with the options that change it."""
    crop = f"the middle {recipe.crop.height}×{recipe.crop.width}" if recipe.crop else "none"
    mean, std = (", ".join(f"{channel:.4g}" for channel in channels) for channels in (recipe.mean, recipe.std))
    rescale = f"1/{1 / recipe.scale:.6g}" if recipe.scale < 1 else f"{recipe.scale:.6g}"
    values = (_describe_resize(recipe), recipe.interpolation, crop, f"bytes × {rescale}", mean, std)
    options = ("--fit, --resize", "--interpolation", "--crop", "", "--mean", "--std")
    return dict(zip(PARTS, zip(values, options, strict=True), strict=True))


def parts_by_default(settings: Mapping[str, Any], keys: Mapping[str, str], library: str) -> dict[str, str]:
    """Return the origin of each part of the preprocessing without a key in the settings."""
    return {part: f"default of {library}" for part, key in keys.items() if settings.get(key) is None}


def _describe_resize(recipe: Preprocessing) -> str:
    match recipe.resize:
        case Squash(height=height, width=width):
            return f"to {height}×{width}, whatever the shape"
        case ShorterSide(size=size):
            return f"the shorter side to {size}"
        case Cover(height=height, width=width):
            return f"to cover {height}×{width}, keeping the shape"
        case Pad(height=height, width=width):
            return f"to fit into {height}×{width}, keeping the shape, and fill the rest"
        case _:
            assert_never(recipe.resize)
