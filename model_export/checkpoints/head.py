"""The head of a network among what a state dict has beside its body: one linear layer, or a sentence why there is none.

Knows shapes and names, and nothing about the body.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_export.checkpoints.others import refuse_known
from model_export.errors import CheckpointError, UnsupportedModel

# Names of losses and metrics, which a training module holds beside the network. The shape of a weight with such a name
# decides whether the network needs it: metric learning keeps its classes in the loss.
BESIDE = re.compile(
    r"(^|[._])(loss(es|_?fn|_?func)?|criterion|criteria|bce|cross_?entropy|class_weights?|pos_weight|metrics?|acc|accuracy|"
    r"top\d|acc\d|f1(_?score)?|auroc|auc|precision|recall|confmat|confusion_matrix|mean_metric)\d?([._]|$)",
    re.IGNORECASE,
)
# What weight normalization makes of a weight: its length and its direction.
NORMED = re.compile(r"(^|\.)(weight_[gv]|parametrizations\.weight\.original[01])$")


class Rest(NamedTuple):
    """What a state dict has beside the body of its network."""

    weights: Mapping[str, Any]
    everything: Mapping[str, Any]  # of the state dict
    features: int | None  # that the body ends with
    prefix: str  # of the body
    outer: str  # prefix of all names in the file


def head_of(rest: Rest) -> str:
    """The name of the head, a linear layer, up to `weight` and `bias`."""
    heads = {
        name.removesuffix("weight"): {name, f"{name.removesuffix('weight')}bias"}
        for name, value in rest.weights.items()
        if name.endswith("weight") and _is_linear(value) and rest.features in (None, value.shape[1])
    }
    own = {stem: names for stem, names in heads.items() if not BESIDE.search(stem)} or heads
    for stem, names in own.items():
        bias, size = rest.weights.get(f"{stem}bias"), rest.weights[f"{stem}weight"].shape
        left = {name: value for name, value in rest.weights.items() if name not in names}
        unknown = [name for name, value in left.items() if not _is_beside(name, value, size)]
        if not unknown and (bias is None or bias.shape == size[:1]):
            return stem
    raise _complaint(rest, own)


def _is_linear(value: Tensor) -> bool:
    """Whether it is a matrix, or a convolution over 1×1, which computes the same after the mean."""
    return value.ndim == 2 or (value.ndim == 4 and value.shape[2:] == (1, 1))  # noqa: PLR2004 (a matrix, a convolution)


def _is_beside(name: str, value: Tensor, head: torch.Size) -> bool:
    """Whether it belongs to a loss or a metric that the network of a head (classes, features) does without.

    It does without weights of classes, centers (classes, features) and counts (classes, classes). A loss with another
    matrix on the head's outputs, as ArcFace and proxies have, computes the classes itself.
    """
    if not BESIDE.search(name):
        return False
    if value.ndim < 2 or value.shape == (head[0], head[0]):  # noqa: PLR2004 (a matrix)
        return True
    if value.shape == head[:2]:
        return not name.endswith("weight")
    return head[0] not in value.shape


def _complaint(rest: Rest, heads: Mapping[str, set[str]]) -> CheckpointError | UnsupportedModel:
    """Why what is beside the body is no head."""
    if complaint := _of_loss(rest, heads):
        return complaint
    weights = {name: value for name, value in rest.weights.items() if not BESIDE.search(name)}
    if not weights:
        refuse_known({name: value for name, value in rest.everything.items() if name.endswith("mask_token")})
        return CheckpointError(
            "there is no head for classes in these weights: they are a backbone, which has to be fine-tuned first"
        )
    refuse_known(rest.everything)
    shown = _shown(weights, rest.outer)
    if normed := next((name for name in weights if NORMED.search(name)), None):
        return UnsupportedModel(
            f"{rest.outer}{normed} is of a head with weight normalization; take it off before saving, with "
            "torch.nn.utils.remove_weight_norm or parametrize.remove_parametrizations"
        )
    if len(heads) == 1:
        [(stem, names)] = heads.items()
        beside = {name: value for name, value in weights.items() if name not in names}
        if beside and not _is_in_head(beside, stem, rest.prefix):
            inner = rest.prefix if stem.startswith(rest.prefix) else parent(rest.prefix)
            is_outside = inner and not any(name.startswith(inner) for name in beside)
            key = (rest.outer + inner).removesuffix(".")
            way = f"; if that is no part of it, say --weights {key}" if is_outside else ""
            return CheckpointError(f"beside the network there is {_shown(beside, rest.outer)}, which is unknown{way}")
    names = {name.rpartition(".")[0] for name in weights}
    if len(names) > 1:
        several = f"there are several heads on the features: {shown}; keep one of them in the file"
        layers = (
            f"the head has more than one layer: {shown}; only Swin's own head, one linear layer, is exported, so "
            "fine-tune the network with one"
        )
        return UnsupportedModel(several if len({parent(stem) for stem in heads}) > 1 else layers)
    ends = "" if rest.features is None else f" with {rest.features} features"
    return CheckpointError(f"after a network{ends} there is {shown}, which is not one linear layer on them")


def _of_loss(rest: Rest, heads: Mapping[str, set[str]]) -> CheckpointError | None:
    """Return what to say of a loss that keeps the classes, where there is one."""
    outputs: set[int | None] = {len(rest.weights[f"{stem}weight"]) for stem in heads}
    for name, value in rest.weights.items():
        if BESIDE.search(name) and value.ndim > 1 and (outputs or {rest.features}) & {*value.shape}:
            return CheckpointError(
                f"the classes may be in {rest.outer}{name} ({shape(value)}), a loss with weights of its own, which is "
                "not exported; train one linear layer on the features, or leave an unused loss out of the file"
            )
    return None


def _is_in_head(beside: Mapping[str, Any], stem: str, prefix: str) -> bool:
    """Whether all these are in the same module as the linear layer: `head.0.` beside `head.3.`."""
    module = parent(stem)
    return bool(module) and module != prefix and all(name.startswith(module) for name in beside)


def parent(prefix: str) -> str:
    """Take off the last part: `model.backbone.` → `model.`."""
    above, dot, _ = prefix.removesuffix(".").rpartition(".")
    return above + dot


def _shown(values: Mapping[str, Tensor], outer: str) -> str:
    shapes = (f"{outer}{name} ({shape(values[name])})" for name in sorted(values)[:5])
    return ", ".join([*shapes, *(["…"] if len(values) > 5 else [])])  # noqa: PLR2004 (as many as were named)


def shape(value: Tensor) -> str:
    """Return a tensor's shape in words."""
    return "×".join(map(str, value.shape)) or "a number"
