"""A bare state dict, of any of the sources that save one: what the shapes say of the network, and what they do not.

Sizes, depths, heads and classes are read off the weights. Window and input size are, too, where the source saves the
tables it computes (the authors and torchvision do, timm does not); otherwise they are those of the published variant
that was named, or of the only one that fits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from app.bundle import Label, Preprocessing
from model_export.checkpoints.checkpoint import Checkpoint, Found, MakeReference, Options, assemble, at_size
from model_export.checkpoints.parts import some
from model_export.checkpoints.weights import Weights
from model_export.errors import CheckpointError, RequestError
from model_export.swin import Dialect, SwinConfig
from model_export.variants import VARIANTS, Variant, fitting, named
from model_export.windows import Size

COMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask")
"""Buffers that hold no weights: sources compute them from the sizes, and some save them all the same."""


@dataclass(frozen=True)
class Stated:
    """What a configuration beside the weights says; None where it is silent."""

    config: Mapping[str, Any]  # fields of SwinConfig
    recipe: Callable[[Size], Preprocessing] | None = None
    labels: tuple[Label, ...] | None = None
    classes: int | None = None
    variant: Variant | None = None


SILENT = Stated({})


def read(
    found: Found,
    *,
    dialect: Dialect,
    rename: Callable[[Weights], Weights],
    in_file: Callable[[str], str] = str,
    reference: MakeReference,
    stated: Stated = SILENT,
    options: Options,
) -> Checkpoint:
    """Weights by their source's own names → checkpoint.

    Args:
        found: the weights and where they were.
        dialect: whose treatment of maps that windows do not divide.
        rename: to the names of `swin.py`; buffers may stay in.
        in_file: from a name of `swin.py` to the source's own.
        reference: makes what the result is compared with.
        stated: what is known beside the weights.
        options: what the person at the terminal says.

    Raises:
        CheckpointError: the weights are no Swin, contradict what was said of them, or leave something open.
    """
    own = rename(found.weights)
    tables = {name: own.pop(name) for name in list(own) if name.endswith(COMPUTED)}
    trained = _trained(own, tables, dialect, stated, options, in_file=lambda name: found.weights.in_file(in_file(name)))
    config = at_size(trained, options)
    return assemble(
        found,
        trained,
        config,
        own,
        recipe=stated.recipe and stated.recipe(config.input_size),
        labels=stated.labels,
        activation="sigmoid" if config.num_classes == 1 else "softmax",
        reference=reference,
        in_file=in_file,
        options=options,
    )


def _trained(
    weights: Weights,
    tables: Weights,
    dialect: Dialect,
    stated: Stated,
    options: Options,
    *,
    in_file: Callable[[str], str],
) -> SwinConfig:
    """The network as it was trained."""
    measured = _measured(weights, in_file)
    variant = _variant(options) or stated.variant
    names = list(fitting(measured["version"], measured["embed_dim"], measured["depths"], measured["num_heads"]))
    said = dict(stated.config)
    windows = said.pop("window_sizes", None) or (variant and variant.window_sizes)
    windows = windows or _windows(weights, tables, len(measured["depths"]))
    if windows is None:
        hint = f"say which with --architecture: {', '.join(names)}" if names else "name one with --architecture"
        raise CheckpointError(f"these weights do not say the size of their windows; {hint}")
    known = variant or next((VARIANTS[name] for name in names if VARIANTS[name].has_windows(windows)), None)
    size = said.pop("input_size", None) or _input_size(tables, measured["patch_size"])
    size = size or (known and (known.side, known.side)) or options.size
    if size is None:
        raise CheckpointError("these weights do not say the size of their images; give it with --input-size")
    if stated.classes not in (None, measured["num_classes"]):
        raise CheckpointError(f"the configuration has {stated.classes} classes, the weights {measured['num_classes']}")
    shape = {"input_size": size, "window_sizes": tuple(windows), "dialect": dialect}
    if variant:
        shape |= {"embed_dim": variant.embed_dim, "depths": variant.depths, "num_heads": variant.num_heads}
        shape |= {"version": variant.version, "pretrained_window_sizes": variant.pretrained_windows}
    elif measured["version"] == 2:  # noqa: PLR2004 (Swin V2)
        shape["pretrained_window_sizes"] = _pretrained(tables, windows)
    asked = measured | shape | said
    for name in ("version", "embed_dim", "depths", "num_heads", "patch_size", "qkv_bias"):
        if asked[name] != measured[name]:
            who = f"--architecture {options.architecture}" if options.architecture else "the configuration"
            fit = f"; they fit {', '.join(names)}" if options.architecture and names else ""
            raise CheckpointError(
                f"{who} asks for {name} {_listed(asked[name])}, the weights have {_listed(measured[name])}{fit}"
            )
    in_weights = _windows(weights, tables, len(measured["depths"]))
    if options.architecture and variant and in_weights and not variant.has_windows(in_weights):
        raise CheckpointError(
            f"--architecture {options.architecture} has windows of {_listed(variant.windows)}, the weights of "
            f"{_listed(tuple(side for side, _ in in_weights))}"
        )
    return SwinConfig(**asked)


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _variant(options: Options) -> Variant | None:
    if options.architecture is None:
        return None
    variant = named(options.architecture)
    if variant is None:
        raise RequestError(f"--architecture {options.architecture} is not known; {', '.join(VARIANTS)} are")
    return variant


def _measured(weights: Weights, in_file: Callable[[str], str]) -> dict[str, Any]:
    """What the shapes of the weights decide.

    Raises:
        CheckpointError: a weight that every Swin has is missing.
    """
    try:
        embed_dim, _, patch_height, patch_width = weights["patch_embed.proj.weight"].shape
        stages = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
        depths = tuple(_count(weights, f"layers.{stage}.blocks.") for stage in range(stages))
        attention = [f"layers.{stage}.blocks.0.attn." for stage in range(stages)]
        version = 2 if f"{attention[0]}logit_scale" in weights else 1
        heads = tuple(
            weights[f"{place}logit_scale"].shape[0]
            if version == 2  # noqa: PLR2004 (Swin V2)
            else weights[f"{place}relative_position_bias_table"].shape[1]
            for place in attention
        )
        hidden, dim = weights["layers.0.blocks.0.mlp.fc1.weight"].shape
        classes = weights["head.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"weights: {in_file(error.args[0])} is missing") from error
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"weights: they do not have a Swin's shapes; {some(weights)} are among them") from error
    if patch_height != patch_width:
        raise CheckpointError(f"weights: patches of {patch_height}×{patch_width} pixels are not square")
    return {
        "version": version,
        "num_classes": classes,
        "patch_size": patch_height,
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": heads,
        "mlp_ratio": hidden / dim,
        "qkv_bias": f"{attention[0]}{'q_bias' if version == 2 else 'qkv.bias'}" in weights,  # noqa: PLR2004 (Swin V2)
        "patch_norm": "patch_embed.norm.weight" in weights,
        "ape": "absolute_pos_embed" in weights,
    }


def _count(weights: Weights, prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def _windows(weights: Weights, tables: Weights, stages: int) -> tuple[Size, ...] | None:
    """By stage, from the rows of the bias table (2·side - 1)², or of the index table side²·side²."""
    found = []
    for stage in range(stages):
        place = f"layers.{stage}.blocks.0.attn."
        bias, index = weights.get(f"{place}relative_position_bias_table"), tables.get(f"{place}relative_position_index")
        if bias is not None:
            side = (math.isqrt(bias.shape[0]) + 1) // 2
        elif index is not None:
            side = math.isqrt(math.isqrt(index.numel()))
        else:
            return None
        found.append((side, side))
    return tuple(found)


def _input_size(tables: Weights, patch: int) -> Size | None:
    """From the first stage's mask, (windows, area, area): windows × area positions, taken to be a square."""
    mask = tables.get("layers.0.blocks.1.attn_mask")
    if mask is None:
        return None
    positions = mask.shape[0] * mask.shape[1]
    side = math.isqrt(positions)
    return (side * patch, side * patch) if side**2 == positions else None


def _pretrained(tables: Weights, windows: Sequence[Size]) -> tuple[int, ...]:
    """From the largest log-spaced offset, log2(8·(side - 1) / (pretrained - 1) + 1) / log2(8) (equation 4 of V2)."""
    found = []
    for stage, (side, _) in enumerate(windows):
        table = tables.get(f"layers.{stage}.blocks.0.attn.relative_coords_table")
        if table is None or side == 1:
            found.append(0)
            continue
        in_windows = (8 ** float(table.max()) - 1) / 8
        found.append(round((side - 1) / in_windows) + 1)
    return tuple(found)


def renamed(weights: Mapping[str, Tensor], rename: Callable[[str], str]) -> Weights:
    """Each weight by its new name.

    Raises:
        CheckpointError: two weights would get one name.
    """
    own = {rename(name): weight for name, weight in weights.items()}
    if len(own) != len(weights):
        raise CheckpointError("weights: two of them are the same layer's")
    return own
