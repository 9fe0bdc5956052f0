"""The head of a network: the one linear layer among the weights outside the body.

Knows names and shapes, and nothing about the body.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_export.checkpoints.other_networks import refuse_if_known
from model_export.errors import CheckpointError, UnsupportedModel

# Names of losses and metrics, which a training module holds beside the network. The shape of such a
# weight decides whether the network needs it, because metric learning keeps the weights of the
# classes in the loss.
LOSS_OR_METRIC = re.compile(
    r"(^|[._])(loss(es|_?fn|_?func)?|criterion|criteria|bce|cross_?entropy|class_weights?|pos_weight|metrics?|acc|accuracy|"
    r"top\d|acc\d|f1(_?score)?|auroc|auc|precision|recall|confmat|confusion_matrix|mean_metric)\d?([._]|$)",
    re.IGNORECASE,
)
# Names of the length and the direction into which weight normalization splits a weight.
WEIGHT_NORM = re.compile(r"(^|\.)(weight_[gv]|parametrizations\.weight\.original[01])$")


class RemainingWeights(NamedTuple):
    """The weights of a state dict outside the body of its network."""

    weights: Mapping[str, Any]
    state_dict: Mapping[str, Any]  # with the body
    features: int | None  # length of the body's output
    prefix: str  # prefix of the body's names
    outer: str  # prefix of all names in the file


def find_head(rest: RemainingWeights) -> str:
    """Return the name of the head, a linear layer, up to `weight` and `bias`.

    Raises:
        CheckpointError: there is no head, or a weight outside body and head is unknown.
        UnsupportedModel: the head is not one linear layer.
    """
    heads = {
        name.removesuffix("weight"): {name, f"{name.removesuffix('weight')}bias"}
        for name, value in rest.weights.items()
        if name.endswith("weight") and _is_linear(value) and rest.features in (None, value.shape[1])
    }
    own = {stem: names for stem, names in heads.items() if not LOSS_OR_METRIC.search(stem)} or heads
    for stem, names in own.items():
        bias, size = rest.weights.get(f"{stem}bias"), rest.weights[f"{stem}weight"].shape
        left = {name: value for name, value in rest.weights.items() if name not in names}
        unknown = [name for name, value in left.items() if not _is_loss_or_metric(name, value, size)]
        if not unknown and (bias is None or bias.shape == size[:1]):
            return stem
    raise _no_head_error(rest, own)


def _is_linear(value: Tensor) -> bool:
    """Return whether this is a matrix, or a 1×1 convolution, which is equivalent on the mean."""
    return value.ndim == 2 or (value.ndim == 4 and value.shape[2:] == (1, 1))  # noqa: PLR2004 (a matrix, a convolution)


def _is_loss_or_metric(name: str, value: Tensor, head: torch.Size) -> bool:
    """Return whether a weight is of a loss or metric without which the head computes the same.

    The head does not need class weights, centers (classes, features) or confusion matrices
    (classes, classes). A loss with another matrix on the head's output, such as ArcFace or a proxy
    loss, computes the class scores itself.
    """
    if not LOSS_OR_METRIC.search(name):
        return False
    if value.ndim < 2 or value.shape == (head[0], head[0]):  # noqa: PLR2004 (a matrix)
        return True
    if value.shape == head[:2]:
        return not name.endswith("weight")
    return head[0] not in value.shape


def _no_head_error(rest: RemainingWeights, heads: Mapping[str, set[str]]) -> CheckpointError | UnsupportedModel:
    """Return the error for weights outside the body that are not one linear layer."""
    if error := _loss_error(rest, heads):
        return error
    weights = {name: value for name, value in rest.weights.items() if not LOSS_OR_METRIC.search(name)}
    if not weights:
        refuse_if_known({name: value for name, value in rest.state_dict.items() if name.endswith("mask_token")})
        return CheckpointError(
            "there is no head for classes in these weights: they are a backbone, which has to be fine-tuned first"
        )
    refuse_if_known(rest.state_dict)
    shown = _shown(weights, rest.outer)
    if normed := next((name for name in weights if WEIGHT_NORM.search(name)), None):
        return UnsupportedModel(
            f"{rest.outer}{normed} is of a head with weight normalization; remove the normalization before saving, "
            "with torch.nn.utils.remove_weight_norm or parametrize.remove_parametrizations"
        )
    if len(heads) == 1:
        [(stem, names)] = heads.items()
        beside = {name: value for name, value in weights.items() if name not in names}
        if beside and not _is_in_head(beside, stem, rest.prefix):
            inner = rest.prefix if stem.startswith(rest.prefix) else parent(rest.prefix)
            is_outside = inner and not any(name.startswith(inner) for name in beside)
            key = (rest.outer + inner).removesuffix(".")
            hint = f"; if the network does not use it, give --weights {key}" if is_outside else ""
            return CheckpointError(f"beside the network there is {_shown(beside, rest.outer)}, which is unknown{hint}")
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


def _loss_error(rest: RemainingWeights, heads: Mapping[str, set[str]]) -> CheckpointError | None:
    """Return the error for a loss that may hold the classes; None if there is none."""
    outputs: set[int | None] = {len(rest.weights[f"{stem}weight"]) for stem in heads}
    for name, value in rest.weights.items():
        if LOSS_OR_METRIC.search(name) and value.ndim > 1 and (outputs or {rest.features}) & {*value.shape}:
            return CheckpointError(
                f"the classes may be in {rest.outer}{name} ({shape(value)}), a loss with weights of its own, which is "
                "not exported; train one linear layer on the features, or leave an unused loss out of the file"
            )
    return None


def _is_in_head(beside: Mapping[str, Any], stem: str, prefix: str) -> bool:
    """Return whether all these are in the linear layer's module: `head.0.` beside `head.3.`."""
    module = parent(stem)
    return bool(module) and module != prefix and all(name.startswith(module) for name in beside)


def parent(prefix: str) -> str:
    """Return the prefix without its last part: `model.backbone.` → `model.`."""
    above, dot, _ = prefix.removesuffix(".").rpartition(".")
    return above + dot


def _shown(values: Mapping[str, Tensor], outer: str) -> str:
    shapes = (f"{outer}{name} ({shape(values[name])})" for name in sorted(values)[:5])
    return ", ".join([*shapes, *(["…"] if len(values) > 5 else [])])  # noqa: PLR2004 (the number of names shown)


def shape(value: Tensor) -> str:
    """Return a tensor's shape as text: 37×48, or "a number" for a scalar."""
    return "×".join(map(str, value.shape)) or "a number"
