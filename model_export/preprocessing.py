"""Finds the checkpoint's own preprocessing, and changes it as asked. What cannot be reproduced exactly is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from app.bundle import CenterCrop, Cover, Interpolation, Pad, Preprocessing, ShorterSide, Squash
from app.errors import sentence
from model_export.errors import CheckpointError, RequestError, UnsupportedModel
from model_export.variants import MEAN, STD, cover
from model_export.windows import Size

Resize = Squash | ShorterSide | Cover | Pad
Channels = tuple[float, float, float]
Fit = Literal["shorter-side", "squash", "pad"]

PILLOW: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Interpolations in the order of Pillow's numbers, which is how Hugging Face writes them."""

HUGGINGFACE_PROCESSORS = frozenset(
    {"ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil", "ViTFeatureExtractor"}
)
"""What Swin checkpoints name, over the years; all of them do the same."""

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
"""Of `ViTImageProcessor`, for the keys a file leaves out."""


@dataclass(frozen=True)
class RecipeOptions:
    """What the person at the terminal says of the preprocessing. Sizes are (height, width)."""

    fit: Fit | None = None
    resize: Size | None = None
    crop: Size | None = None
    interpolation: Interpolation | None = None
    mean: Channels | None = None
    std: Channels | None = None

    @property
    def says_anything(self) -> bool:
        """Whether there is anything to change."""
        return self != RecipeOptions()


def changed(recipe: Preprocessing, options: RecipeOptions, input_size: Size) -> Preprocessing:
    """The recipe with what the options say in place of its own; it ends with `input_size`.

    Raises:
        RequestError: the options contradict each other.
    """
    recipe = _scaled(recipe, input_size)
    mean, std = options.mean or recipe.mean, options.std or recipe.std
    resize, crop = recipe.resize, recipe.crop
    try:
        if options.fit or options.resize:
            resize = _fitted(options, recipe.resize, input_size, mean)
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
        raise RequestError(f"these options make no preprocessing: {sentence(error)}") from error
    if new.output_size != input_size:
        raise RequestError(
            f"preprocessing would end with {new.output_size} pixels, the network takes {input_size}; "
            "--crop cuts the middle out, --input-size makes it another network"
        )
    return new


def _scaled(recipe: Preprocessing, input_size: Size) -> Preprocessing:
    """For another input size: all sizes in proportion, rounded down."""
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


def _fitted(options: RecipeOptions, resize: Resize, input_size: Size, mean: Channels) -> Resize:
    modes: dict[str, Fit] = {"squash": "squash", "pad": "pad", "shorter_side": "shorter-side", "cover": "shorter-side"}
    fit = options.fit or modes[resize.mode]
    if fit == "shorter-side":
        if options.resize is None and isinstance(resize, ShorterSide | Cover):
            return resize
        if options.resize is None:
            raise RequestError("--fit shorter-side needs --resize: how long is the shorter side to be?")
        height, width = options.resize
        return ShorterSide(mode="shorter_side", size=height) if height == width else cover((height, width), 1.0)
    height, width = options.resize or input_size
    if fit == "squash":
        return Squash(mode="squash", height=height, width=width)
    red, green, blue = (round(255 * channel) for channel in mean)
    return Pad(mode="pad", height=height, width=width, fill=(red, green, blue))


def from_timm(settings: Mapping[str, Any], input_size: Size) -> Preprocessing:
    """The recipe in a `pretrained_cfg`, as `timm.data.create_transform` reads it.

    Raises:
        UnsupportedModel: the recipe has a step the service does not do.
        CheckpointError: the recipe contradicts itself.
    """
    interpolation: Any = settings.get("interpolation") or "bicubic"
    mode = settings.get("crop_mode") or "center"
    if interpolation not in get_args(Interpolation):
        raise UnsupportedModel(f"pretrained_cfg: interpolation {interpolation!r} is not supported")
    try:
        fraction = float(settings.get("crop_pct") or 0.875)
        mean, std = _channels(settings.get("mean") or MEAN), _channels(settings.get("std") or STD)
        resize: Resize = cover(input_size, fraction)
        height, width = (resize.size,) * 2 if isinstance(resize, ShorterSide) else (resize.height, resize.width)
        if mode == "squash":
            resize = Squash(mode="squash", height=height, width=width)
        elif mode == "border":
            red, green, blue = (round(255 * channel) for channel in mean)
            resize = Pad(mode="pad", height=height, width=width, fill=(red, green, blue))
        elif mode != "center":
            raise UnsupportedModel(f"pretrained_cfg: crop_mode {mode!r} is not supported")
        crop = CenterCrop(height=input_size[0], width=input_size[1], rounding="half_even")
        return Preprocessing(resize=resize, crop=crop, interpolation=interpolation, scale=1 / 255, mean=mean, std=std)
    except (TypeError, ValueError, ZeroDivisionError) as error:  # pydantic's ValidationError is a ValueError
        raise CheckpointError(f"pretrained_cfg contradicts itself: {sentence(error)}") from error


def from_huggingface(settings: Mapping[str, Any]) -> tuple[Preprocessing, tuple[int, int]]:
    """The recipe in a `preprocessor_config.json`, and the (height, width) it ends with.

    Raises:
        UnsupportedModel: the recipe has a step the service does not do.
        CheckpointError: the recipe contradicts itself.
    """
    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type") or "ViTImageProcessor"
    if kind not in HUGGINGFACE_PROCESSORS:
        raise UnsupportedModel(f"preprocessor_config.json: {kind} is not known; {sorted(HUGGINGFACE_PROCESSORS)} are")
    recipe = HUGGINGFACE_DEFAULTS | {key: value for key, value in settings.items() if value is not None}
    for key, wanted in (("do_resize", True), ("do_rescale", True), ("do_pad", False)):
        if recipe[key] is not wanted:
            raise UnsupportedModel(f"preprocessor_config.json: {key} is {recipe[key]}; only {wanted} is supported")
    try:
        preprocessing = Preprocessing(
            resize=_resize(recipe["size"]),
            crop=_crop(recipe["crop_size"]) if recipe["do_center_crop"] else None,
            interpolation=_interpolation(recipe["resample"]),
            scale=recipe["rescale_factor"],
            mean=_channels(recipe["image_mean"]) if recipe["do_normalize"] else (0.0, 0.0, 0.0),
            std=_channels(recipe["image_std"]) if recipe["do_normalize"] else (1.0, 1.0, 1.0),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise CheckpointError(f"preprocessor_config.json contradicts itself: {sentence(error)}") from error
    size = preprocessing.output_size
    if size is None:
        raise UnsupportedModel("preprocessor_config.json: images keep their shape, but the network needs one size")
    return preprocessing, size


def _resize(size: Any) -> Squash | ShorterSide:
    match size:
        case int():
            return Squash(mode="squash", height=size, width=size)
        case {"height": height, "width": width}:
            return Squash(mode="squash", height=height, width=width)
        case {"shortest_edge": side}:
            return ShorterSide(mode="shorter_side", size=side)
    raise UnsupportedModel(f"preprocessor_config.json: size {size} is not supported")


def _interpolation(resample: Any) -> Interpolation:
    if resample not in range(len(PILLOW)):
        raise ValueError(f"resample is {resample!r}, not a number of Pillow's")
    return PILLOW[resample]


def _crop(size: Any) -> CenterCrop:
    height, width = (size, size) if isinstance(size, int) else (size["height"], size["width"])
    return CenterCrop(height=height, width=width, rounding="down")


def _channels(values: Any) -> Channels:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
