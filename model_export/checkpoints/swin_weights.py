"""The weights of the one Swin in a state dict, by the usual names of its source library.

Training code puts a network behind a prefix, replaces its head and saves other tensors beside both.
The name of the first layer gives the prefix and the source library. Knows nothing about files.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from app.bundle.manifest import SourceKind
from model_export.checkpoints import openmmlab
from model_export.checkpoints.files.pickles import SAVE_STATE_DICT
from model_export.checkpoints.head import RemainingWeights, find_head, parent, shape
from model_export.checkpoints.other_networks import refuse
from model_export.errors import CheckpointError

# Counters that averaging (EMA, SWA) saves among the weights.
AVERAGING_COUNTERS = re.compile(r"(^|\.)(n_averaged|num_updates)$")
# States of torchmetrics, some of which grow with the number of images.
METRIC_STATES = re.compile(r"\.(tp|fp|tn|fn|confmat|preds|target|correct|total|mean_value|sum_value)$")

# torch.compile, activation checkpointing and FSDP insert these parts into names, at each module
# that they wrap.
WRAPPED = r"(?:(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.)"
# Buffers that the source libraries compute from the sizes. Some libraries save them.
COMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask")
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


class Layout(NamedTuple):
    """Names of the parts of a network in one source library."""

    kind: SourceKind
    first: str  # weight of the first layer, which every Swin has
    body: re.Pattern[str]
    norm: str  # weight of the last norm; its length is the number of features
    head: str


# timm shares the authors' layout. Only patch merging and head have other names.
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
# The name of the first layer's weight → a pattern of the end of its name behind any prefix.
FIRST_LAYERS = {
    layout.first: re.compile(rf"(?<![^.]){layout.first.replace('.', rf'[.]{WRAPPED}*')}$") for layout in LAYOUTS
}

TIMM_HEAD = "head.fc."
# Usual heads of the libraries that keep the head outside the module of the body, by the name of the
# first layer.
HEADS_OUTSIDE = {"embeddings.patch_embeddings.projection.weight": "classifier.", openmmlab.FIRST: TIMM_HEAD}
MERGING = re.compile(r"layers\.(\d+)\.downsample\.")


class StateDict(dict[str, Tensor]):
    """Weights by the usual names of their source library, with their names in the file.

    Attributes:
        kind: the library of these names; names of timm count as the authors'.
        notes: on the reading of these weights, as sentences for the terminal.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], kind: SourceKind, names_in_file: Mapping[str, str], prefix: str
    ) -> None:
        super().__init__(weights)
        self.kind = kind
        self.notes = list[str]()
        self._names_in_file, self._prefix = names_in_file, prefix

    def name_in_file(self, name: str) -> str:
        """Return a weight's name in the file, also if the file lacks the weight."""
        return self._names_in_file.get(name, self._prefix + name)


def find_prefixes(names: Mapping[str, Any]) -> list[str]:
    """Return the prefix of each Swin in a state dict."""
    return sorted({prefix for _, prefix in _matches(names)})


def _matches(names: Mapping[Any, Any]) -> Iterator[tuple[Layout, str]]:
    for name in names:
        for layout in LAYOUTS:
            if isinstance(name, str) and (found := FIRST_LAYERS[layout.first].search(name)):
                yield layout, name[: found.start()]


def extract_network(weights: Mapping[str, Any], outer: str = "") -> StateDict:
    """Return the one Swin in a state dict.

    Args:
        weights: a state dict with exactly one prefix of a Swin.
        outer: a prefix that the names have in the file and not here.

    Raises:
        CheckpointError: the head is not a linear layer, or another weight may belong to the
            network.
        UnsupportedModel: the network is not a Swin classifier.
    """
    layout, prefix = next(_matches(weights))
    body, rest = {}, {}
    for name, value in weights.items():
        inside = re.sub(WRAPPED, "", name.removeprefix(prefix))
        if name.startswith(prefix) and layout.body.match(inside):
            body[inside] = name
        elif not AVERAGING_COUNTERS.search(name) and not METRIC_STATES.search(name):
            rest[name] = value
    if "blocks." not in "".join(body) and layout.kind != "torchvision":
        refuse(weights)
    if any("lora_" in name for name in weights):
        refuse(weights)
    _refuse_other_values({outer + name: weights[name] for name in [*body.values(), *rest]})
    features = _length(weights, prefix + layout.norm)
    usual = _usual_head(layout, body)
    stem = find_head(RemainingWeights(rest, weights, features, prefix, outer))
    head = {f"{usual}{kind}": f"{stem}{kind}" for kind in ("weight", "bias") if f"{stem}{kind}" in rest}
    if layout.kind == "huggingface":
        model = "swinv2." if any(name.endswith("logit_scale") for name in body) else "swin."
        body = {model + inside: name for inside, name in body.items()}
    names_in_file = body | head
    _refuse_unreadable({outer + name: weights[name] for name in names_in_file.values()})
    tensors = {inside: weights[name] for inside, name in names_in_file.items()}
    tensors[f"{usual}weight"] = tensors[f"{usual}weight"].flatten(1)  # a 1×1 convolution becomes a matrix
    made = _state_dict(
        layout, tensors, {inside: outer + name for inside, name in names_in_file.items()}, outer + prefix
    )
    if f"{usual}bias" not in made:
        made[f"{usual}bias"] = made[f"{usual}weight"].new_zeros(len(made[f"{usual}weight"]))
        made.notes.append(
            f"head: {outer}{stem}weight has no bias; a head that normalizes its features or weights (cosine, ArcFace) "
            "is computed in another way, and its scores would be wrong"
        )
    if stem not in {f"{prefix}head.", f"{prefix}{TIMM_HEAD}", f"{parent(prefix)}{HEADS_OUTSIDE.get(layout.first)}"}:
        made.notes.append(
            f"head: {outer}{stem}weight is taken for the one linear layer after the mean over the last map"
        )
    return made


def _state_dict(layout: Layout, tensors: dict[str, Tensor], names_in_file: dict[str, str], prefix: str) -> StateDict:
    if layout.first == openmmlab.FIRST:
        made = StateDict(openmmlab.converted(tensors), "original", openmmlab.names(names_in_file), prefix)
        made.notes.append("the names are OpenMMLab's; patch merging was converted to the authors' order")
        return made
    simmim = {name: name.replace(".rpe_mlp.", ".cpb_mlp.") for name in tensors}
    prefix = prefix.removesuffix("swin.").removesuffix("swinv2.") if layout.kind == "huggingface" else prefix
    return StateDict(
        {simmim[name]: tensor for name, tensor in tensors.items()},
        layout.kind,
        {simmim[name]: called for name, called in names_in_file.items()},
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
            raise CheckpointError(f"weights: {name} is a {kind}, not a tensor; {SAVE_STATE_DICT}")


def _refuse_unreadable(weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for tensors that are not stored as floating-point numbers."""
    for name, value in weights.items():
        is_stored = value.layout is torch.strided and value.device.type != "meta"
        if not is_stored or (value.dtype not in FLOATS and not name.endswith(COMPUTED)):
            kind = f"{value.layout}, {value.device.type}, {value.dtype}" if not is_stored else str(value.dtype)
            raise CheckpointError(
                f"weights: {name} holds {kind.replace('torch.', '')}, which is not supported; save the weights where "
                "they were made, not quantized, as dense tensors of float32"
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"weights: {name} declares {shape(value)} numbers, and the file holds fewer; {SAVE_STATE_DICT}"
            )
