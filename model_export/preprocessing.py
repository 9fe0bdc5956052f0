"""Finds the checkpoint's own preprocessing. What cannot be reproduced exactly is refused, not approximated."""

from collections.abc import Mapping
from typing import Any

from app.bundle import CenterCrop, Interpolation, Preprocessing, ShorterSide, Squash
from app.errors import sentence
from model_export.errors import CheckpointError, UnsupportedModel

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


def _channels(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
