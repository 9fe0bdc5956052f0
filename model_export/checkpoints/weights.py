"""Files of weights → tensors by name. A file cannot run code: safetensors, or pickles of which only tensors are read.

What a training run wraps around the weights ({"model": …, "optimizer": …}) is taken off here, and so is a prefix that
all names share ("module.", "_orig_mod.").
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from app.bundle import SourceKind, digest
from app.errors import sentence
from model_export.checkpoints import pickles
from model_export.checkpoints.pickles import WAY_OUT, Recorded
from model_export.errors import CheckpointError

Weights = dict[str, Tensor]

ANCHORS: dict[str, SourceKind] = {
    "patch_embed.proj.weight": "original",
    "features.0.0.weight": "torchvision",
    "embeddings.patch_embeddings.projection.weight": "huggingface",
}
"""The first layer, which no Swin lacks, as each source calls it. timm's differ from the originals further on."""

BOOKKEEPING = {"n_averaged"}
"""Counters that averaging writes among the weights."""


def read_files(files: Sequence[Path]) -> dict[str, Any]:
    """All that is in one file, or in the shards of one.

    Raises:
        CheckpointError: a file is missing, damaged, or would run code.
    """
    content: dict[str, Any] = {}
    for file in files:
        content |= _safetensors(file) if _is_safetensors(file) else _pickled(file)
    return content


def digest_of(files: Sequence[Path]) -> str:
    """SHA-256 of the weights: of the file, or of the shards' digests."""
    digests = [digest(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def unwrap(content: Mapping[str, Any], key: str | None = None) -> Weights:
    """The weights in what a file held, without the prefix they share.

    Args:
        content: of the file.
        key: of the set to take, where a training run saved several (`model_ema`).

    Raises:
        CheckpointError: there is no Swin in it, or more than one and no `key`.
    """
    inside = {name: value for name, value in content.items() if isinstance(name, str)}
    sets = {name: value for name, value in {"": content, **inside}.items() if _is_swin(value)}
    if key is not None:
        if key not in sets:
            raise CheckpointError(f"there are no weights under '{key}', but under {sorted(sets) or 'nothing'}")
        return _unprefixed(sets[key])
    if len(sets) > 1:
        raise CheckpointError(f"several sets of weights: {', '.join(sorted(sets))}; say which with --weights")
    if not sets:
        raise CheckpointError(f"no Swin Transformer's weights among {_some(content)}")
    return _unprefixed(next(iter(sets.values())))


def anchor(names: Mapping[str, Any]) -> tuple[SourceKind, str] | None:
    """The source whose names these are, and the prefix they share."""
    for suffix, source in ANCHORS.items():
        for name in names:
            if name == suffix or name.endswith(f".{suffix}"):
                return source, name.removesuffix(suffix)
    return None


def _is_swin(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value) and anchor(value) is not None


def _unprefixed(weights: Mapping[str, Any]) -> Weights:
    found = anchor(weights)
    source, prefix = found or ("", "")
    if source == "huggingface":  # its names begin with the model's own name
        prefix = prefix.removesuffix("swin.").removesuffix("swinv2.")
    tensors = {name.removeprefix(prefix): value for name, value in weights.items() if name not in BOOKKEEPING}
    if len(tensors) < len(weights.keys() - BOOKKEEPING):
        raise CheckpointError(f"weights: some are there twice, with '{prefix}' and without")
    if strangers := [name for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"weights: {min(strangers)} is not a tensor")
    return tensors


def _is_safetensors(file: Path) -> bool:
    """By content: a header's length, then the header, which is JSON. A pickle's first bytes are none of it."""
    try:
        with file.open("rb") as opened:
            head = opened.read(9)
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    return head[8:9] == b"{" or file.suffix == ".safetensors"


def _safetensors(file: Path) -> Weights:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file.name} is damaged: {sentence(error)}") from error


def _pickled(file: Path) -> dict[str, Any]:
    content = pickles.read(file)
    if isinstance(content, Recorded) and content.is_network:
        raise CheckpointError(
            f"{file.name} holds a whole network, a pickled {content.class_name}, which only its own code can read; "
            f"{WAY_OUT}"
        )
    if not isinstance(content, dict):
        kind = content.class_name if isinstance(content, Recorded) else type(content).__name__
        raise CheckpointError(f"{file.name} holds a {kind}, not weights by name; {WAY_OUT}")
    return content


def _some(names: Mapping[str, Any]) -> str:
    first = ", ".join(str(name) for name in list(names)[:5])
    return f"{first}, …" if len(names) > 5 else first or "nothing"  # noqa: PLR2004 (as many as were named)
