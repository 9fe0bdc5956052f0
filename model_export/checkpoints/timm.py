"""timm: a folder or hub repository with its `config.json`, or a bare state dict.

`config.json` has the architecture's name, the arguments it was made with, and `pretrained_cfg` with the preprocessing.
Its networks merge at the beginning of a stage, everybody else's at the end of the one before. Early versions of timm
used the authors' names; such a state dict is told from theirs by `--source timm` only.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from app.bundle import Label, Preprocessing
from model_export.checkpoints import state_dict
from model_export.checkpoints.checkpoint import Checkpoint, Options, Reference
from model_export.checkpoints.reference import Ours, in_steps, library
from model_export.checkpoints.state_dict import Found, Stated
from model_export.checkpoints.weights import Weights
from model_export.errors import CheckpointError, UnsupportedModel
from model_export.imagenet import imagenet_labels
from model_export.preprocessing import from_timm
from model_export.swin import Swin, SwinConfig
from model_export.variants import Variant, named

MERGING = re.compile(r"^layers\.(\d+)\.downsample\.")

SHAPES = {"img_size", "patch_size", "embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "qkv_bias"}
"""Arguments that shape the network and are followed."""

WITHOUT_EFFECT = {"drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init", "num_classes"}
"""Of training only, or told by the weights."""

ONLY = {  # arguments of which one value is supported, and that value
    "in_chans": 3,
    "global_pool": "avg",
    "always_partition": False,
    "head_dim": None,
    "act_layer": "gelu",
    "norm_layer": "layernorm",
    "strict_img_size": True,
    "dynamic_img_size": False,
}


def read(found: Found, config: Mapping[str, Any] | None, options: Options) -> Checkpoint:
    """Read weights with timm's names, and what `config.json` says of them, if there is one.

    Raises:
        CheckpointError: weights and configuration are damaged or contradict each other.
        UnsupportedModel: the network was made with arguments that are not followed.
    """
    stated = Stated({}) if config is None else _stated(config)
    name = options.architecture or (config or {}).get("architecture")

    def reference(network: Swin, recipe: Preprocessing, stated: Stated, options: Options) -> Reference:
        if options.resizes:
            return Ours(network, recipe, "timm interpolates bias tables otherwise")
        is_own = stated.recipe is not None and not options.recipe.says_anything
        cfg = (config or {}).get("pretrained_cfg") if is_own else None
        arguments = (config or {}).get("model_args") or {}
        asked = timm_reference(found.weights, network, recipe, name=name, arguments=arguments, preprocessing=cfg)
        return asked or Ours(network, recipe, "timm is not installed")

    return state_dict.read(found, dialect="timm", rename=renamed, reference=reference, stated=stated, options=options)


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


def _stated(config: Mapping[str, Any]) -> Stated:
    cfg, arguments = config.get("pretrained_cfg") or {}, config.get("model_args") or {}
    if not isinstance(cfg, dict) or not isinstance(arguments, dict):
        raise CheckpointError("config.json: pretrained_cfg and model_args are no objects")
    variant = named(str(config["architecture"]))
    if variant is None:
        raise UnsupportedModel(f"config.json: architecture {config['architecture']!r} is no Swin that is known here")
    if (pool := config.get("global_pool") or "avg") != "avg":
        raise UnsupportedModel(f"config.json: global_pool is {pool!r}; only 'avg' is exported")
    size = _input_size(cfg, arguments, variant)
    shape = {"input_size": size, "qkv_bias": arguments.get("qkv_bias", True)} | _shape(arguments, variant)
    return Stated(shape, lambda size: from_timm(cfg, size), _labels(config, cfg), variant)


def _input_size(cfg: Mapping[str, Any], arguments: Mapping[str, Any], variant: Variant) -> tuple[int, int]:
    _, *given = cfg.get("input_size") or (3, variant.side, variant.side)
    made_for = _pair(arguments.get("img_size") or given)
    if tuple(given) != made_for:
        raise CheckpointError(f"config.json: the network is made for {made_for} pixels, its images have {tuple(given)}")
    return made_for


def _shape(arguments: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    for name, value in arguments.items():
        if name not in SHAPES | WITHOUT_EFFECT | ONLY.keys() | {"pretrained_window_sizes"}:
            raise UnsupportedModel(f"config.json: model_args has {name}, which is not known here")
        if name in ONLY and value not in (None, ONLY[name]):
            raise UnsupportedModel(f"config.json: {name} is {value!r}; only {ONLY[name]!r} is exported")
    stages = len(arguments.get("depths") or variant.depths)
    shape: dict[str, Any] = {
        name: tuple(arguments[name]) for name in ("depths", "num_heads", "pretrained_window_sizes") if name in arguments
    }
    shape |= {name: arguments[name] for name in ("embed_dim", "mlp_ratio", "patch_size") if name in arguments}
    if "window_size" in arguments:
        shape["window_sizes"] = _windows(arguments["window_size"], stages)
    if not all(isinstance(value, int | float | tuple) for value in shape.values()):
        raise UnsupportedModel("config.json: model_args has sizes that differ from stage to stage")
    return shape


def _windows(value: Any, stages: int) -> tuple[tuple[int, int], ...]:
    """One side, one (height, width), or one of either for each stage; two numbers are a height and a width."""
    if isinstance(value, int) or (len(value) == 2 and stages != 2 and all(isinstance(side, int) for side in value)):  # noqa: PLR2004 (height, width)
        return (_pair(value),) * stages
    return tuple(_pair(side) for side in value)


def _labels(config: Mapping[str, Any], cfg: Mapping[str, Any]) -> tuple[Label, ...] | None:
    """`label_names`, with `label_descriptions` for people where there are any; ImageNet's names are its wnids."""
    names = config.get("label_names") or cfg.get("label_names")
    if not names:
        return None
    published = imagenet_labels(len(names))
    if published and [label.wnid for label in published] == list(names):
        return published
    said = config.get("label_descriptions") or cfg.get("label_descriptions") or {}
    return tuple(Label(name=str(said.get(name, name)), wnid=None) for name in names)


def _pair(value: Any) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)


def timm_reference(
    weights: Weights,
    network: Swin,
    recipe: Preprocessing,
    *,
    name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> Reference | None:
    """The network of timm with these weights, by name where it has one; None where timm is not installed."""
    timm = library("timm")
    if timm is None:
        return None
    if name is not None:
        options = {"num_classes": network.config.num_classes, "img_size": network.config.input_size}
        model = timm.create_model(name, pretrained=False, **(options | dict(arguments or {})))
    else:
        model = _model(timm, network.config)
    return TimmReference(timm, model, weights, recipe, preprocessing)


def _model(timm: Any, config: SwinConfig) -> Any:
    arguments = {
        "img_size": config.input_size,
        "patch_size": config.patch_size,
        "num_classes": config.num_classes,
        "embed_dim": config.embed_dim,
        "depths": config.depths,
        "num_heads": config.num_heads,
        "window_size": config.window_sizes,
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
    }
    if config.version == 1:
        return timm.models.swin_transformer.SwinTransformer(**arguments)
    arguments["pretrained_window_sizes"] = config.pretrained_window_sizes
    return timm.models.swin_transformer_v2.SwinTransformerV2(**arguments)


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
        """RGB image → normalised float32 (1, 3, height, width)."""
        if self._transform is None:
            return in_steps(image, self._recipe)
        images: Tensor = self._transform(image)[None]
        return images

    def logits(self, images: Tensor) -> Tensor:
        """Normalised images → (batch, classes)."""
        with torch.inference_mode():
            logits: Tensor = self._model(images)
        return logits


def _filtered(timm: Any, weights: Weights, model: Any) -> Any:
    """As timm loads them: without computed tables, under its own names."""
    modules = timm.models.swin_transformer, timm.models.swin_transformer_v2
    is_2 = isinstance(model, modules[1].SwinTransformerV2)
    return modules[is_2].checkpoint_filter_fn(dict(weights), model)
