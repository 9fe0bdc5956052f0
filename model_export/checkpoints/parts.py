"""One state dict → the weights of its Swin, by the usual names of its source.

Finds the network behind a prefix, its head, and what lies beside both. Knows nothing about files.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from app.bundle.manifest import SourceKind
from model_export.checkpoints import openmmlab
from model_export.checkpoints.files.pickles import WAY_OUT
from model_export.checkpoints.head import Rest, head_of, parent, shape
from model_export.checkpoints.others import refuse_others
from model_export.errors import CheckpointError

BATCH = re.compile(r"(^|\.)(n_averaged|num_updates)$")
"""Counters that averaging writes among the weights."""

# States of torchmetrics, which grow with the images that were counted.
STATES = re.compile(r"\.(tp|fp|tn|fn|confmat|preds|target|correct|total|mean_value|sum_value)$")

# What compilation, checkpointing and FSDP put into names, at each module that they wrap.
WRAPPED = r"(?:(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.)"
COMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask")
"""Buffers that hold no weights: sources compute them from the sizes, and some save them all the same."""

FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


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
FIRSTS = {layout.first: re.compile(rf"(?<![^.]){layout.first.replace('.', rf'[.]{WRAPPED}*')}$") for layout in LAYOUTS}
"""The end of the first layer's name, by its usual one."""

TIMM_HEAD = "head.fc."
HEADS_OUTSIDE = {"embeddings.patch_embeddings.projection.weight": "classifier.", openmmlab.FIRST: TIMM_HEAD}
"""Of the sources whose head is beside the network with the rest."""
MERGING = re.compile(r"layers\.(\d+)\.downsample\.")


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
            if isinstance(name, str) and (found := FIRSTS[layout.first].search(name)):
                yield layout, name[: found.start()]


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
        inside = re.sub(WRAPPED, "", name.removeprefix(prefix))
        if name.startswith(prefix) and layout.body.match(inside):
            body[inside] = name
        elif not BATCH.search(name) and not STATES.search(name):
            rest[name] = value
    if "blocks." not in "".join(body) and layout.kind != "torchvision":
        refuse_others(weights)
    if any("lora_" in name for name in weights):
        refuse_others(weights)
    _refuse_other_values({outer + name: weights[name] for name in [*body.values(), *rest]})
    features = _length(weights, prefix + layout.norm)
    usual = _usual_head(layout, body)
    stem = head_of(Rest(rest, weights, features, prefix, outer))
    head = {f"{usual}{kind}": f"{stem}{kind}" for kind in ("weight", "bias") if f"{stem}{kind}" in rest}
    if layout.kind == "huggingface":
        model = "swinv2." if any(name.endswith("logit_scale") for name in body) else "swin."
        body = {model + inside: name for inside, name in body.items()}
    in_file = body | head
    _refuse_unreadable({outer + name: weights[name] for name in in_file.values()})
    tensors = {inside: weights[name] for inside, name in in_file.items()}
    tensors[f"{usual}weight"] = tensors[f"{usual}weight"].flatten(1)  # of a convolution over 1×1
    made = _made(layout, tensors, {inside: outer + name for inside, name in in_file.items()}, outer + prefix)
    if f"{usual}bias" not in made:
        made[f"{usual}bias"] = made[f"{usual}weight"].new_zeros(len(made[f"{usual}weight"]))
        made.notes.append(
            f"head: {outer}{stem}weight has no bias; a head that normalizes its features or weights (cosine, ArcFace) "
            "is computed otherwise, and its scores would be wrong"
        )
    if stem not in {f"{prefix}head.", f"{prefix}{TIMM_HEAD}", f"{parent(prefix)}{HEADS_OUTSIDE.get(layout.first)}"}:
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


def _usual_head(layout: Layout, body: Mapping[str, Any]) -> str:
    merging = {match[1] for name in body if (match := MERGING.match(name))}
    is_timm = layout.kind == "original" and merging and "0" not in merging
    return TIMM_HEAD if is_timm else layout.head


def _length(weights: Mapping[str, Any], name: str) -> int | None:
    value = weights.get(name)
    return len(value) if isinstance(value, Tensor) and value.ndim else None


def _refuse_other_values(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if not isinstance(value, Tensor):
            kind = getattr(value, "class_name", type(value).__name__)
            raise CheckpointError(f"weights: {name} is a {kind}, not a tensor; {WAY_OUT}")


def _refuse_unreadable(weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for tensors of other numbers, or without numbers."""
    for name, value in weights.items():
        is_stored = value.layout is torch.strided and value.device.type != "meta"
        if not is_stored or (value.dtype not in FLOATS and not name.endswith(COMPUTED)):
            kind = f"{value.layout}, {value.device.type}, {value.dtype}" if not is_stored else str(value.dtype)
            raise CheckpointError(
                f"weights: {name} holds {kind.replace('torch.', '')}, which is not read; save the weights where they "
                "were made, not quantized, as ordinary tensors of float32"
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(f"weights: {name} says {shape(value)} numbers, and the file holds fewer; {WAY_OUT}")
