"""One state dict → the weights of its Swin, by the usual names of its source.

Finds the network behind a prefix, its head, and what lies beside both. Knows nothing about files.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from torch import Tensor

from app.bundle import SourceKind
from model_export.checkpoints import openmmlab
from model_export.checkpoints.pickles import WAY_OUT, Recorded
from model_export.errors import CheckpointError, UnsupportedModel

BATCH = re.compile(r"(^|\.)(n_averaged|num_updates)$")
"""Counters that averaging writes among the weights."""

# Parts of a training module that do not take part in the network: losses, and metrics with their states.
BESIDE = re.compile(
    r"(^|[._])(loss(es|_?fn|_?func)?|criterion|criteria|bce|cross_?entropy|class_weights?|pos_weight|metrics?|acc|accuracy|"
    r"top\d|acc\d|f1(_?score)?|auroc|auc|precision|recall|confmat|confusion_matrix|mean_metric)\d?([._]|$)"
    r"|\.(tp|fp|tn|fn|confmat|preds|target|correct|total|mean_value|sum_value)$",
    re.IGNORECASE,
)


class Layout(NamedTuple):
    """How a source calls the parts of a network."""

    kind: SourceKind
    first: str  # layer, which no Swin lacks
    body: re.Pattern[str]
    norm: str  # the last one, whose length is the number of features
    head: str


LAYOUTS = (
    Layout(
        "original",
        "patch_embed.proj.weight",
        re.compile(r"(patch_embed|layers\.\d+|norm)\.|absolute_pos_embed$"),
        "norm.weight",
        "head.",
    ),
    Layout("torchvision", "features.0.0.weight", re.compile(r"(features|norm)\."), "norm.weight", "head."),
    Layout(
        "huggingface",
        "embeddings.patch_embeddings.projection.weight",
        re.compile(r"(embeddings|encoder|layernorm)\."),
        "layernorm.weight",
        "classifier.",
    ),
    Layout("original", openmmlab.FIRST, openmmlab.BODY, "norm3.weight", "head."),
)
"""timm's layout is the authors' but for merging and head."""
TIMM_HEAD = "head.fc."
HEADS_OUTSIDE = {"embeddings.patch_embeddings.projection.weight": "classifier.", openmmlab.FIRST: TIMM_HEAD}
"""Of the sources whose head is beside the network with the rest."""
MERGING = re.compile(r"layers\.(\d+)\.downsample\.")

PEFT = "call merge_and_unload() on the model with the adapter, and save_pretrained() on the result"
# Names that only another network has, and what it is.
OTHERS = (
    (r"\blora_[AB]\b|\.base_layer\.|\.modules_to_save\.", f"a PEFT adapter; {PEFT}"),
    (r"\.meta_mlp\.", "timm's swinv2_cr, which is another network than Swin V2"),
    (r"\.residual_group\.", "SwinIR, which restores images"),
    (r"(^|\.)swinViT\.", "Swin UNETR, which segments volumes"),
    (
        r"(^|\.)(rpn_head|roi_head|bbox_head|mask_head|decode_head|auxiliary_head|neck|fpn|sem_seg_head|rpn|roi_heads)\.",
        "a network for detection or segmentation",
    ),
    (r"(^|\.)(mask_token$|decoder\.)", "a masked-image-modeling network, which has no head for classes yet"),
    (r"(^|\.)(cls_token|class_token)$", "a Vision Transformer (ViT, DeiT or BEiT)"),
    (r"\.(conv_dw|dwconv|depthwise_conv)\.|\.layer_scale$", "a convolutional network (ConvNeXt)"),
    (r"(^|\.)layer[1-4]\.0\.(conv1|bn1)\.|(^|\.)bn1\.running_mean$", "a ResNet"),
    (r"(^|\.)(conv_stem|features\.\d+\.\d+\.block|features\.denseblock1)\.?", "a convolutional network"),
)


class StateDict(dict[str, Tensor]):
    """Weights by the usual names of their source, and what they are called in the file.

    Attributes:
        kind: whose names these are; timm's count as the authors' here.
        notes: what was made of them, in sentences for the terminal.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], kind: SourceKind, in_file: Mapping[str, str], prefix: str
    ) -> None:
        super().__init__(weights)
        self.kind = kind
        self.notes = list[str]()
        self._in_file, self._prefix = in_file, prefix

    def in_file(self, name: str) -> str:
        """Return what the file calls a weight, or would call it if it had it."""
        return self._in_file.get(name, self._prefix + name)


def prefixes(names: Mapping[str, Any]) -> list[str]:
    """Return where networks begin: for each first layer of a Swin, what comes before its usual name."""
    return sorted({prefix for _, prefix in _found(names)})


def _found(names: Mapping[Any, Any]) -> Iterator[tuple[Layout, str]]:
    for name in names:
        for layout in LAYOUTS:
            if isinstance(name, str) and (name == layout.first or name.endswith(f".{layout.first}")):
                yield layout, name.removesuffix(layout.first)


def network_of(weights: Mapping[str, Any], outer: str = "") -> StateDict:
    """Return the one network in a state dict.

    Args:
        weights: with exactly one prefix of a network.
        outer: a prefix that was taken off their names before; the file has it.

    Raises:
        CheckpointError: its head is not a linear layer, or something beside it may belong to it.
        UnsupportedModel: it is another network.
    """
    layout, prefix = next(_found(weights))
    body, rest = {}, {}
    for name, value in weights.items():
        inside = name.removeprefix(prefix)
        if name.startswith(prefix) and layout.body.match(inside):
            body[inside] = name
        elif not BATCH.search(name) and not BESIDE.search(name):
            rest[name] = value
    if "blocks." not in "".join(body) and layout.kind != "torchvision":
        refuse_others(weights)
    if any("lora_" in name for name in weights):
        refuse_others(weights)
    _refuse_other_values({outer + name: weights[name] for name in [*body.values(), *rest]})
    features = _length(weights, prefix + layout.norm)
    usual = _usual_head(layout, body)
    stem = _head_of(Rest(rest, weights, features, prefix, outer))
    head = {f"{usual}{kind}": f"{stem}{kind}" for kind in ("weight", "bias") if f"{stem}{kind}" in rest}
    if layout.kind == "huggingface":
        model = "swinv2." if any(name.endswith("logit_scale") for name in body) else "swin."
        body = {model + inside: name for inside, name in body.items()}
    in_file = body | head
    tensors = {inside: weights[name] for inside, name in in_file.items()}
    made = _made(layout, tensors, {inside: outer + name for inside, name in in_file.items()}, outer + prefix)
    _complete(made, usual)
    if stem not in {f"{prefix}head.", f"{prefix}{TIMM_HEAD}", f"{_parent(prefix)}{HEADS_OUTSIDE.get(layout.first)}"}:
        called = f"{outer}{stem}weight"
        made.notes.append(f"head: {called} is taken for the one linear layer after the mean over the last map")
    return made


def _made(layout: Layout, tensors: dict[str, Tensor], in_file: dict[str, str], prefix: str) -> StateDict:
    if layout.first == openmmlab.FIRST:
        made = StateDict(openmmlab.converted(tensors), "original", openmmlab.names(in_file), prefix)
        made.notes.append("the names are OpenMMLab's; its patch merging was put into the authors' order")
        return made
    simmim = {name: name.replace(".rpe_mlp.", ".cpb_mlp.") for name in tensors}
    prefix = prefix.removesuffix("swin.").removesuffix("swinv2.") if layout.kind == "huggingface" else prefix
    return StateDict(
        {simmim[name]: tensor for name, tensor in tensors.items()},
        layout.kind,
        {simmim[name]: called for name, called in in_file.items()},
        prefix,
    )


def _complete(made: StateDict, head: str) -> None:
    """Give a head without a bias one of zeros."""
    weight = made[f"{head}weight"]
    made.setdefault(f"{head}bias", weight.new_zeros(len(weight)))


def _parent(prefix: str) -> str:
    """Take off the last part: `model.backbone.` → `model.`."""
    above, dot, _ = prefix.removesuffix(".").rpartition(".")
    return above + dot


def _usual_head(layout: Layout, body: Mapping[str, Any]) -> str:
    merging = {match[1] for name in body if (match := MERGING.match(name))}
    is_timm = layout.kind == "original" and merging and "0" not in merging
    return TIMM_HEAD if is_timm else layout.head


def _length(weights: Mapping[str, Any], name: str) -> int | None:
    value = weights.get(name)
    return len(value) if isinstance(value, Tensor) and value.ndim else None


class Rest(NamedTuple):
    """What a state dict has beside the body of its network."""

    weights: Mapping[str, Any]
    everything: Mapping[str, Any]  # of the state dict
    features: int | None  # that the body ends with
    prefix: str  # of the body
    outer: str  # prefix of all names in the file


def _head_of(rest: Rest) -> str:
    """The name of the head, a linear layer, up to `weight` and `bias`."""
    heads = {
        name.removesuffix("weight"): {name, f"{name.removesuffix('weight')}bias"}
        for name, value in rest.weights.items()
        if name.endswith("weight") and value.ndim == 2 and rest.features in (None, value.shape[1])  # noqa: PLR2004 (a matrix)
    }
    for stem, names in heads.items():
        bias = rest.weights.get(f"{stem}bias")
        if rest.weights.keys() <= names and (bias is None or bias.shape == rest.weights[f"{stem}weight"].shape[:1]):
            return stem
    raise _complaint(rest, heads)


def _complaint(rest: Rest, heads: Mapping[str, set[str]]) -> CheckpointError | UnsupportedModel:
    """Why what is beside the body is no head."""
    if not rest.weights:
        refuse_known({name: value for name, value in rest.everything.items() if name.endswith("mask_token")})
        return CheckpointError(
            "there is no head for classes in these weights: they are a backbone, which has to be fine-tuned first"
        )
    refuse_known(rest.everything)
    if len(heads) == 1:
        [(stem, names)] = heads.items()
        beside = {name: value for name, value in rest.weights.items() if name not in names}
        if beside:
            inner = rest.prefix if stem.startswith(rest.prefix) else _parent(rest.prefix)
            is_outside = inner and not any(name.startswith(inner) for name in beside)
            key = (rest.outer + inner).removesuffix(".")
            way = f"; if that is no part of it, say --weights {key}" if is_outside else ""
            return CheckpointError(f"beside the network there is {_shown(beside, rest.outer)}, which is unknown{way}")
    shown = _shown(rest.weights, rest.outer)
    if sum(value.ndim == 2 for value in rest.weights.values()) > 1:  # noqa: PLR2004 (a matrix)
        return UnsupportedModel(
            f"the head has more than one layer: {shown}; only Swin's own head, one linear layer, is exported"
        )
    ends = "" if rest.features is None else f" with {rest.features} features"
    return CheckpointError(f"after a network{ends} there is {shown}, which is not one linear layer on them")


def refuse_others(names: Mapping[Any, Any]) -> NoReturn:
    """Raise with the names of some weights, and with the name of their network if it is one that is known here.

    Raises:
        UnsupportedModel: always.
    """
    known = _known(names)
    raise UnsupportedModel(f"no Swin Transformer's weights among {some(names)}{f'; {known}' if known else ''}")


def refuse_known(names: Mapping[Any, Any]) -> None:
    """Raise with the name of another network, if it is one that is known here.

    Raises:
        UnsupportedModel: it is another network.
    """
    if known := _known(names):
        raise UnsupportedModel(f"{known}; only Swin classifiers are exported")


def _known(names: Mapping[Any, Any]) -> str | None:
    for pattern, what in OTHERS:
        if found := next((str(name) for name in names if re.search(pattern, str(name))), None):
            return f"{found} belongs to {what}"
    return None


def _refuse_other_values(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if not isinstance(value, Tensor):
            kind = value.class_name if isinstance(value, Recorded) else type(value).__name__
            raise CheckpointError(f"weights: {name} is a {kind}, not a tensor; {WAY_OUT}")


def _shown(values: Mapping[str, Tensor], outer: str) -> str:
    shapes = (f"{outer}{name} ({_shape(values[name])})" for name in sorted(values)[:5])
    return ", ".join([*shapes, *(["…"] if len(values) > 5 else [])])  # noqa: PLR2004 (as many as were named)


def _shape(value: Tensor) -> str:
    return "×".join(map(str, value.shape)) or "a number"


def some(names: Mapping[Any, Any]) -> str:
    """The first few names."""
    first = ", ".join(str(name) for name in list(names)[:5])
    return f"{first}, …" if len(names) > 5 else first or "nothing"  # noqa: PLR2004 (as many as were named)
