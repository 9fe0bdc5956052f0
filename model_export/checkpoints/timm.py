"""The reader of timm's checkpoints: a folder with `config.json`, or a bare state dict.

`config.json` has the architecture's name, its arguments, and `pretrained_cfg` with the
preprocessing. timm merges patches at the beginning of a stage, the other libraries at the end of
the stage before. Early versions of timm used the authors' names. Without timm's settings in the
file or beside it, only `--source timm` distinguishes such a state dict from the authors'.
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
from model_export.checkpoints.preprocessing import TIMM_KEYS, from_timm, parts_by_default
from model_export.checkpoints.reference import FallbackReference, Reference, library_reference, preprocess_to_tensor
from model_export.checkpoints.state_dict import DeclaredConfig
from model_export.checkpoints.training.types import NO_TRAINING, Training
from model_export.checkpoints.variants import VARIANTS, Variant, find_variant
from model_export.errors import CheckpointError, UnsupportedModel
from model_export.network.swin import Swin, SwinConfig
from model_export.network.windows import Size

MERGING = re.compile(r"^layers\.(\d+)\.downsample\.")

Count = Annotated[int, Field(gt=0, lt=100_000)]
Ratio = Annotated[float, Field(gt=0, lt=100)]


class ModelArguments(BaseModel):
    """`model_args`, the arguments of timm's network. Other arguments and values are refused."""

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


class PretrainedConfig(BaseModel):
    """The part of `pretrained_cfg` that has preprocessing and labels."""

    model_config = ConfigDict(strict=True, extra="ignore")

    input_size: tuple[Count, Count, Count] | None = None
    interpolation: Any = None  # preprocessing and labels are checked later, because options may replace them
    crop_pct: Any = None
    crop_mode: Any = None
    mean: Any = None
    std: Any = None
    num_classes: Count | None = None
    label_names: Any = None
    label_descriptions: Any = None
    labels: Any = None  # written by early versions

    @property
    def has_preprocessing(self) -> bool:
        """True if a value for the preprocessing is set."""
        return any((self.interpolation, self.crop_pct, self.crop_mode, self.mean, self.std))


class Config(PretrainedConfig):
    """`config.json`. Early versions have the keys of `pretrained_cfg` at its top level."""

    architecture: str
    global_pool: Literal["avg", ""] | None = None
    model_args: ModelArguments = ModelArguments()
    pretrained_cfg: PretrainedConfig | None = None


def read(
    raw: RawCheckpoint,
    config: Mapping[str, Any] | None,
    options: Options,
    training: Training = NO_TRAINING,
    content: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Read weights with timm's names, with `config.json` or with the settings of a training run.

    Args:
        raw: the weights and their files.
        config: the content of `config.json`; None for a bare state dict.
        options: of the command line.
        training: the settings of the training run.
        content: the whole content of the file; None for a folder.

    Raises:
        CheckpointError: weights or configuration are damaged, or contradict each other.
        UnsupportedModel: an argument of the network is not supported.
    """
    parsed = None if config is None else _parsed(config)
    declared = _declared(parsed, options) if parsed else _declared_by_run(training)
    name = options.architecture or (parsed.architecture if parsed else None)
    training = _with_saved_architecture(training, content or {})

    def reference(network: Swin, recipe: Preprocessing, is_resized: bool) -> Reference:  # noqa: FBT001 (by position)
        if is_resized:
            return FallbackReference(network, recipe, "timm interpolates resized networks in another way")
        is_own = declared.recipe is not None and not options.recipe.has_changes
        cfg = (config or {}).get("pretrained_cfg", config) if is_own else None
        arguments = (config or {}).get("model_args") or {}
        return timm_reference(raw.weights, network, recipe, name=name, arguments=arguments, preprocessing=cfg)

    return state_dict.read(
        raw,
        window_convention="timm",
        rename=renamed,
        name_in_file=partial(_source_name, raw.weights),
        reference=reference,
        declared=declared,
        training=training,
        content=content,
        options=options,
    )


def _declared_by_run(training: Training) -> DeclaredConfig:
    """Return the configuration that a run's `model_kwargs` declare.

    Raises:
        UnsupportedModel: an argument is not supported.
    """
    if not training.arguments:
        return DeclaredConfig({})
    try:
        arguments = ModelArguments.model_validate_json(json.dumps(training.arguments))
    except TypeError as error:  # a value that JSON cannot express
        raise UnsupportedModel(
            f"{training.place}: model_kwargs hold a value that is not a number, a name or a list"
        ) from error
    except ValidationError as error:
        raise UnsupportedModel(f"{training.place}: model_kwargs are not supported: {sentence(error)}") from error
    variant = find_variant(training.architecture or "")
    stages = len(arguments.depths or (variant.depths if variant else ()))
    shape = _shape(arguments, stages)
    return DeclaredConfig(shape, classes=arguments.num_classes, place=training.place)


def _with_saved_architecture(training: Training, content: Mapping[str, Any]) -> Training:
    """Return the settings, with timm's `arch` beside the weights if they have no architecture."""
    arch = content.get("arch")
    if training.architecture or not isinstance(arch, str) or find_variant(arch) is None:
        return training
    return replace(training, architecture=arch, place=training.place or "arch")


def renamed(weights: Weights) -> Weights:
    """Return the weights by the names of `swin.py`."""
    if "layers.0.downsample.reduction.weight" in weights:  # an early version, with the authors' names
        return dict(weights)
    return state_dict.renamed(weights, _original_name)


def is_timm(weights: Mapping[str, Any]) -> bool:
    """Return whether weights in the authors' layout have timm's name of the head."""
    return "head.fc.weight" in weights


def _original_name(name: str) -> str:
    name = MERGING.sub(lambda match: f"layers.{int(match[1]) - 1}.downsample.", name)
    return name.replace("head.fc.", "head.")


def _source_name(weights: Weights, name: str) -> str:
    """Return timm's name of a weight of `swin.py`."""
    if not is_timm(weights):
        return name
    name = MERGING.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample.", name)
    return re.sub("^head[.]", "head.fc.", name)


def _parsed(config: Mapping[str, Any]) -> Config:
    try:
        return Config.model_validate_json(json.dumps(config))
    except ValidationError as error:
        raise CheckpointError(f"config.json: {sentence(error)}") from error


def _declared(config: Config, options: Options) -> DeclaredConfig:
    variant, recipe = find_variant(config.architecture), config.pretrained_cfg or config
    if "swinv2_cr" in config.architecture:
        raise UnsupportedModel(
            f"config.json: architecture '{config.architecture}' is not a known Swin: swinv2_cr is another "
            "network than Swin V2"
        )
    if variant is None:
        raise UnsupportedModel(f"config.json: architecture '{config.architecture}' is not a known Swin")
    counts = {config.num_classes, recipe.num_classes, config.model_args.num_classes} - {None}
    if len(counts) > 1:
        declared = " and ".join(str(count) for count in sorted(filter(None, counts)))
        raise CheckpointError(f"config.json: it declares different numbers of classes, {declared}")
    return DeclaredConfig(
        _shape(config.model_args, len(config.model_args.depths or variant.depths))
        | {"input_size": _input_size(recipe, config.model_args, variant)},
        partial(from_timm, recipe.model_dump(), options=options.recipe) if recipe.has_preprocessing else None,
        parts_by_default(recipe.model_dump(), TIMM_KEYS, "timm"),
        None if options.labels is not None else _labels(config, recipe),
        next(iter(counts), None),
        variant,
    )


def _input_size(recipe: PretrainedConfig, arguments: ModelArguments, variant: Variant) -> Size:
    _, *given = recipe.input_size or (3, variant.side, variant.side)
    made_for = _pair(arguments.img_size or (given[0], given[1]))
    if recipe.input_size and tuple(given) != made_for:
        sizes = ["×".join(map(str, size)) for size in (made_for, given)]
        raise CheckpointError(f"config.json: the network is made for {sizes[0]} pixels, its images have {sizes[1]}")
    return made_for


def _shape(arguments: ModelArguments, stages: int) -> dict[str, Any]:
    shape = arguments.model_dump(
        include={"patch_size", "embed_dim", "depths", "num_heads", "pretrained_window_sizes", "mlp_ratio", "qkv_bias"},
        exclude_none=True,
    )
    if arguments.window_size is not None:
        shape["window_sizes"] = _windows(arguments.window_size, stages)
    return shape


def _windows(value: Any, stages: int) -> tuple[Size, ...]:
    """Return the windows by stage, from one side or (height, width) for all stages or for each.

    Two numbers are a height and a width, unless the network has two stages.
    """
    is_pair = isinstance(value, tuple) and len(value) == 2 != stages and all(isinstance(side, int) for side in value)  # noqa: PLR2004 (height, width)
    if isinstance(value, int) or is_pair:
        return (_pair(value),) * stages
    return tuple(_pair(side) for side in value)


def _labels(config: Config, recipe: PretrainedConfig) -> tuple[Label, ...] | None:
    """Return `label_names`, replaced by `label_descriptions` if there are any; None without names.

    timm's `label_names` for ImageNet are WordNet ids, which `from_data` replaces by ImageNet's
    names.
    """
    names = config.label_names or recipe.label_names or config.labels
    if not names:
        return None
    try:
        labels = from_data(names)
    except ValueError as error:
        raise CheckpointError(
            f"config.json: label_names: {sentence(error)}; or give the names with --labels"
        ) from error
    descriptions = config.label_descriptions or recipe.label_descriptions or {}
    if not isinstance(descriptions, Mapping) or all(label.wnid for label in labels):
        return labels
    return tuple(Label(name=str(descriptions.get(label.name, label.name)), wnid=None) for label in labels)


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
    """Return timm's network with these weights, or a `FallbackReference` if timm has none.

    Args:
        weights: by the names in the checkpoint.
        network: `swin.py` with the same weights.
        recipe: the preprocessing of the export.
        name: of the architecture in timm; None to make the network from the configuration of
            `network`.
        arguments: of the network in timm.
        preprocessing: `pretrained_cfg`, for timm's own transforms; None to use `recipe`.
    """

    def make(timm: Any) -> Reference | None:
        if network.config.ape or not network.config.patch_norm:  # not supported by timm's networks
            return None
        if name is None:
            model = _model(timm, network.config)
        else:
            variant = find_variant(name)
            own = next((own for own, known in VARIANTS.items() if known is variant), name)
            options = {"num_classes": network.config.num_classes, "img_size": network.config.input_size}
            model = timm.create_model(own, pretrained=False, **(options | dict(arguments or {})))
        return TimmReference(timm, model, weights, recipe, preprocessing)

    return library_reference("timm", make, network, recipe)


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
    """Return one number for equal square windows: timm up to 1.0.22 accepts no other form."""
    sides = {side for window in windows for side in window}
    return sides.pop() if len(sides) == 1 else windows


class TimmReference:
    """timm's network and, if the checkpoint has timm's configuration, timm's transforms."""

    is_independent = True

    def __init__(
        self, timm: Any, model: Any, weights: Weights, recipe: Preprocessing, preprocessing: Mapping[str, Any] | None
    ) -> None:
        self.name = f"timm {timm.__version__}"
        self._model, self._recipe, self._transform = model, recipe, None
        self._model.load_state_dict(_convert_weights(timm, weights, model))
        self._model.float().eval()
        if preprocessing is not None:
            config = timm.data.resolve_data_config(pretrained_cfg=dict(preprocessing))
            self._transform = timm.data.create_transform(**config)

    def images(self, image: Image.Image) -> Tensor:
        if self._transform is None:
            return preprocess_to_tensor(image, self._recipe)
        images: Tensor = self._transform(image)[None]
        return images

    def logits(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self._model(images)
        return logits

    def embedding(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            embedding: Tensor = self._model.forward_head(self._model.forward_features(images), pre_logits=True)
        return embedding


def _convert_weights(timm: Any, weights: Weights, model: Any) -> Any:
    """Return the weights without computed tables and by timm's current names."""
    modules = timm.models.swin_transformer, timm.models.swin_transformer_v2
    is_2 = isinstance(model, modules[1].SwinTransformerV2)
    return modules[is_2].checkpoint_filter_fn(dict(weights), model)
