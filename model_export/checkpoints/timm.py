"""timm: a folder or hub repository with its `config.json`, or a bare state dict.

`config.json` has the architecture's name, the arguments it was made with, and `pretrained_cfg` with the preprocessing.
Its networks merge at the beginning of a stage, everybody else's at the end of the one before. Early versions of timm
used the authors' names; such a state dict is told from theirs by `--source timm` only.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from app.bundle.manifest import Label, Preprocessing
from app.errors import sentence
from model_export.checkpoints import state_dict
from model_export.checkpoints.checkpoint import Checkpoint, Options, RawCheckpoint
from model_export.checkpoints.files.weights import Weights
from model_export.checkpoints.labels import from_data
from model_export.checkpoints.preprocessing import from_timm
from model_export.checkpoints.reference import Ours, Reference, ask, in_steps
from model_export.checkpoints.state_dict import Metadata
from model_export.checkpoints.training.types import NO_TRAINING, Training
from model_export.checkpoints.variants import VARIANTS, Variant, named
from model_export.errors import CheckpointError, UnsupportedModel
from model_export.network.swin import Swin, SwinConfig
from model_export.network.windows import Size

MERGING = re.compile(r"^layers\.(\d+)\.downsample\.")

Count = Annotated[int, Field(gt=0, lt=100_000)]
Ratio = Annotated[float, Field(gt=0, lt=100)]


class Arguments(BaseModel):
    """`model_args`: what the network was made with. What is not here, or has another value, is not followed."""

    model_config = ConfigDict(strict=True, extra="forbid")

    img_size: Count | tuple[Count, Count] | None = None
    patch_size: Count = 4
    embed_dim: Count | None = None
    depths: tuple[Count, ...] | None = None
    num_heads: tuple[Count, ...] | None = None
    window_size: Count | tuple[Count | tuple[Count, Count], ...] | None = None
    pretrained_window_sizes: tuple[int, ...] | None = None
    mlp_ratio: Ratio | None = None
    qkv_bias: bool = True
    num_classes: Count | None = None
    in_chans: Literal[3] = 3
    global_pool: Literal["avg"] = "avg"
    always_partition: Literal[False] = False
    strict_img_size: Literal[True] = True
    dynamic_img_size: Literal[False] = False
    head_dim: None = None
    act_layer: Literal["gelu"] = "gelu"
    drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    weight_init: str = ""


class Recipe(BaseModel):
    """`pretrained_cfg`, as far as it says how images are prepared and what the classes are called."""

    model_config = ConfigDict(strict=True, extra="ignore")

    input_size: tuple[Count, Count, Count] | None = None
    interpolation: Any = None  # preprocessing and names are looked at later: options may replace them
    crop_pct: Any = None
    crop_mode: Any = None
    mean: Any = None
    std: Any = None
    num_classes: Count | None = None
    label_names: Any = None
    label_descriptions: Any = None
    labels: Any = None  # of early versions

    @property
    def says_how(self) -> bool:
        """Whether it speaks of preprocessing at all."""
        return any((self.interpolation, self.crop_pct, self.crop_mode, self.mean, self.std))


class Config(Recipe):
    """`config.json`. Early versions have no `pretrained_cfg`, but its keys at the top."""

    architecture: str
    global_pool: Literal["avg", ""] | None = None
    model_args: Arguments = Arguments()
    pretrained_cfg: Recipe | None = None


def read(
    found: RawCheckpoint,
    config: Mapping[str, Any] | None,
    options: Options,
    training: Training = NO_TRAINING,
    content: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Read weights with timm's names, and what `config.json` or a run's settings say of them, if there are any.

    Raises:
        CheckpointError: weights and configuration are damaged or contradict each other.
        UnsupportedModel: the network was made with arguments that are not followed.
    """
    parsed = None if config is None else _parsed(config)
    stated = _stated(parsed, options) if parsed else _of_run(training)
    name = options.architecture or (parsed.architecture if parsed else None)
    training = _with_arch(training, content or {})

    def reference(network: Swin, recipe: Preprocessing, is_resized: bool) -> Reference:  # noqa: FBT001 (by place)
        if is_resized:
            return Ours(network, recipe, "resized, which timm does otherwise")
        is_own = stated.recipe is not None and not options.recipe.says_anything
        cfg = (config or {}).get("pretrained_cfg", config) if is_own else None
        arguments = (config or {}).get("model_args") or {}
        return timm_reference(found.weights, network, recipe, name=name, arguments=arguments, preprocessing=cfg)

    return state_dict.read(
        found,
        window_convention="timm",
        rename=renamed,
        in_file=partial(_own_name, found.weights),
        reference=reference,
        stated=stated,
        training=training,
        content=content,
        options=options,
    )


def _of_run(training: Training) -> Metadata:
    """The arguments with which a run made its network.

    Raises:
        UnsupportedModel: one of them is not followed.
    """
    if not training.arguments:
        return Metadata({})
    try:
        arguments = Arguments.model_validate_json(json.dumps(training.arguments))
    except TypeError as error:  # of json: a value that is none of its kinds
        raise UnsupportedModel(f"{training.place}: model_kwargs hold what is not a number, a name or a list") from error
    except ValidationError as error:
        raise UnsupportedModel(f"{training.place}: model_kwargs are not followed: {sentence(error)}") from error
    variant = named(training.architecture or "")
    stages = len(arguments.depths or (variant.depths if variant else ()))
    shape = _shape(arguments, stages)
    return Metadata(shape, classes=arguments.num_classes, place=training.place)


def _with_arch(training: Training, content: Mapping[str, Any]) -> Training:
    """The settings, with the name that timm saves beside the weights where they have none."""
    arch = content.get("arch")
    if training.architecture or not isinstance(arch, str) or named(arch) is None:
        return training
    return replace(training, architecture=arch, place=training.place or "arch")


def renamed(weights: Weights) -> Weights:
    """By the names of `swin.py`."""
    if "layers.0.downsample.reduction.weight" in weights:  # of an early version: the authors' names
        return dict(weights)
    return state_dict.renamed(weights, _original_name)


def is_timm(weights: Mapping[str, Any]) -> bool:
    """Whether names that begin like the authors' go on like timm's."""
    return "head.fc.weight" in weights


def _original_name(name: str) -> str:
    name = MERGING.sub(lambda match: f"layers.{int(match[1]) - 1}.downsample.", name)
    return name.replace("head.fc.", "head.")


def _own_name(weights: Weights, name: str) -> str:
    """What timm calls a weight of `swin.py`."""
    if not is_timm(weights):
        return name
    name = MERGING.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample.", name)
    return re.sub("^head[.]", "head.fc.", name)


def _parsed(config: Mapping[str, Any]) -> Config:
    try:
        return Config.model_validate_json(json.dumps(config))
    except ValidationError as error:
        raise CheckpointError(f"config.json: {sentence(error)}") from error


def _stated(config: Config, options: Options) -> Metadata:
    variant, recipe = named(config.architecture), config.pretrained_cfg or config
    if "swinv2_cr" in config.architecture:
        raise UnsupportedModel(
            f"config.json: architecture '{config.architecture}' is no Swin that is known here: swinv2_cr is another "
            "network than Swin V2"
        )
    if variant is None:
        raise UnsupportedModel(f"config.json: architecture '{config.architecture}' is no Swin that is known here")
    counts = {config.num_classes, recipe.num_classes, config.model_args.num_classes} - {None}
    if len(counts) > 1:
        said = " and of ".join(str(count) for count in sorted(filter(None, counts)))
        raise CheckpointError(f"config.json: it says of {said} classes that they are all")
    return Metadata(
        _shape(config.model_args, len(config.model_args.depths or variant.depths))
        | {"input_size": _input_size(recipe, config.model_args, variant)},
        partial(from_timm, recipe.model_dump(), options=options.recipe) if recipe.says_how else None,
        None if options.labels is not None else _labels(config, recipe),
        next(iter(counts), None),
        variant,
    )


def _input_size(recipe: Recipe, arguments: Arguments, variant: Variant) -> Size:
    _, *given = recipe.input_size or (3, variant.side, variant.side)
    made_for = _pair(arguments.img_size or (given[0], given[1]))
    if recipe.input_size and tuple(given) != made_for:
        sizes = ["×".join(map(str, size)) for size in (made_for, given)]
        raise CheckpointError(f"config.json: the network is made for {sizes[0]} pixels, its images have {sizes[1]}")
    return made_for


def _shape(arguments: Arguments, stages: int) -> dict[str, Any]:
    shape = arguments.model_dump(
        include={"patch_size", "embed_dim", "depths", "num_heads", "pretrained_window_sizes", "mlp_ratio", "qkv_bias"},
        exclude_none=True,
    )
    if arguments.window_size is not None:
        shape["window_sizes"] = _windows(arguments.window_size, stages)
    return shape


def _windows(value: Any, stages: int) -> tuple[Size, ...]:
    """One side, one (height, width), or one of either for each stage; two numbers are a height and a width."""
    is_pair = isinstance(value, tuple) and len(value) == 2 != stages and all(isinstance(side, int) for side in value)  # noqa: PLR2004 (height, width)
    if isinstance(value, int) or is_pair:
        return (_pair(value),) * stages
    return tuple(_pair(side) for side in value)


def _labels(config: Config, recipe: Recipe) -> tuple[Label, ...] | None:
    """`label_names`, with `label_descriptions` for people where there are any; ImageNet's names are its wnids."""
    names = config.label_names or recipe.label_names or config.labels
    if not names:
        return None
    try:
        labels = from_data(names)
    except ValueError as error:
        raise CheckpointError(
            f"config.json: label_names: {sentence(error)}; or give the names with --labels"
        ) from error
    said = config.label_descriptions or recipe.label_descriptions or {}
    if not isinstance(said, Mapping) or all(label.wnid for label in labels):
        return labels
    return tuple(Label(name=str(said.get(label.name, label.name)), wnid=None) for label in labels)


def _pair(value: Any) -> Size:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


def timm_reference(
    weights: Weights,
    network: Swin,
    recipe: Preprocessing,
    *,
    name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> Reference:
    """Return the network of timm with these weights, by name where it has one, or `swin.py` where timm has none."""

    def make(timm: Any) -> Reference | None:
        if network.config.ape or not network.config.patch_norm:  # which timm's networks do not have
            return None
        if name is None:
            model = _model(timm, network.config)
        else:
            variant = named(name)
            own = next((own for own, known in VARIANTS.items() if known is variant), name)
            options = {"num_classes": network.config.num_classes, "img_size": network.config.input_size}
            model = timm.create_model(own, pretrained=False, **(options | dict(arguments or {})))
        return TimmReference(timm, model, weights, recipe, preprocessing)

    return ask("timm", make, network, recipe)


def _model(timm: Any, config: SwinConfig) -> Any:
    arguments = {
        "img_size": config.input_size,
        "patch_size": config.patch_size,
        "num_classes": config.num_classes,
        "embed_dim": config.embed_dim,
        "depths": config.depths,
        "num_heads": config.num_heads,
        "window_size": _window_argument(config.window_sizes),
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
    }
    if config.version == 1:
        return timm.models.swin_transformer.SwinTransformer(**arguments)
    arguments["pretrained_window_sizes"] = config.pretrained_window_sizes
    return timm.models.swin_transformer_v2.SwinTransformerV2(**arguments)


def _window_argument(windows: tuple[Size, ...]) -> Any:
    """Return one number where all windows are the same square: releases of timm up to 1.0.22 know no other form."""
    sides = {side for window in windows for side in window}
    return sides.pop() if len(sides) == 1 else windows


class TimmReference:
    """timm's own network and, where the checkpoint has its configuration, its own transforms."""

    is_independent = True

    def __init__(
        self, timm: Any, model: Any, weights: Weights, recipe: Preprocessing, preprocessing: Mapping[str, Any] | None
    ) -> None:
        self.name = f"timm {timm.__version__}"
        self._model, self._recipe, self._transform = model, recipe, None
        self._model.load_state_dict(_filtered(timm, weights, model))
        self._model.float().eval()
        if preprocessing is not None:
            config = timm.data.resolve_data_config(pretrained_cfg=dict(preprocessing))
            self._transform = timm.data.create_transform(**config)

    def images(self, image: Image.Image) -> Tensor:
        """RGB image → normalized float32 (1, 3, height, width)."""
        if self._transform is None:
            return in_steps(image, self._recipe)
        images: Tensor = self._transform(image)[None]
        return images

    def logits(self, images: Tensor) -> Tensor:
        """Normalized images → (batch, classes)."""
        with torch.inference_mode():
            logits: Tensor = self._model(images)
        return logits


def _filtered(timm: Any, weights: Weights, model: Any) -> Any:
    """As timm loads them: without computed tables, under its own names."""
    modules = timm.models.swin_transformer, timm.models.swin_transformer_v2
    is_2 = isinstance(model, modules[1].SwinTransformerV2)
    return modules[is_2].checkpoint_filter_fn(dict(weights), model)
