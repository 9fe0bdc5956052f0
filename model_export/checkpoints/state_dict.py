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

from app.bundle import Label, Preprocessing, SourceKind
from model_export.checkpoints.checkpoint import Checkpoint, Found, MakeReference, Options, Origins, assemble, at_size
from model_export.checkpoints.parts import some
from model_export.checkpoints.training import NO_TRAINING, Training, labels_of
from model_export.checkpoints.weights import Weights
from model_export.errors import CheckpointError, RequestError
from model_export.swin import Dialect, SwinConfig
from model_export.variants import VARIANTS, Variant, fitting, named, published_recipe
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
    place: str = "config.json"  # what says it, for people


SILENT = Stated({})
SHAPE = ("version", "embed_dim", "depths", "num_heads")
"""What a published variant has in common with its weights."""


def read(
    found: Found,
    *,
    dialect: Dialect,
    rename: Callable[[Weights], Weights],
    in_file: Callable[[str], str] = str,
    reference: MakeReference,
    stated: Stated = SILENT,
    training: Training = NO_TRAINING,
    content: Mapping[str, Any] | None = None,
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
        training: the settings of the run that made them.
        content: all that was in the file.
        options: what the person at the terminal says.

    Raises:
        CheckpointError: the weights are no Swin, contradict what was said of them, or leave something open.
    """
    own = rename(found.weights)
    tables = {name: own.pop(name) for name in list(own) if name.endswith(COMPUTED)}
    trained, size_from, notes = _trained(
        own,
        tables,
        dialect,
        stated,
        training,
        options,
        in_file=lambda name: found.weights.in_file(in_file(name)),
    )
    config = at_size(trained, options)
    recipe, recipe_from = _recipe(found.kind, config, stated, training)
    labels, labels_from = stated.labels, ""
    if labels is None and options.labels is None and content is not None:
        labels, labels_from = labels_of(content, config.num_classes) or (None, "")
    return assemble(
        found,
        trained,
        config,
        own,
        recipe=recipe,
        labels=labels,
        activation="sigmoid" if config.num_classes == 1 else "softmax",
        reference=reference,
        in_file=in_file,
        options=options,
        origins=Origins(size_from, recipe_from, labels_from, _fine_tune(training), (*training.notes, *notes)),
    )


def _recipe(
    kind: SourceKind, config: SwinConfig, stated: Stated, training: Training
) -> tuple[Preprocessing | None, str]:
    """The checkpoint's own preprocessing, and what says it."""
    if stated.recipe:
        return stated.recipe(config.input_size), stated.place
    if training.recipe:
        return training.recipe(config.input_size), training.place
    if training.normalization:
        mean, std = training.normalization
        published = published_recipe(kind, config).model_copy(update={"mean": mean, "std": std})
        return published, f"{training.place} (mean and std; the resize is assumed: {kind}'s published one)"
    return None, ""


def _fine_tune(training: Training) -> str:
    if not training.place:
        return ""
    data = f" with data {training.dataset}" if training.dataset else ""
    return f"the file is of a training run{data}"


def _trained(  # noqa: C901, PLR0912, PLR0917 (one question after the other, in order of weight)
    weights: Weights,
    tables: Weights,
    dialect: Dialect,
    stated: Stated,
    training: Training,
    options: Options,
    *,
    in_file: Callable[[str], str],
) -> tuple[SwinConfig, str, list[str]]:
    """The network as it was trained, where its input size came from, and what people should know."""
    measured, notes = _measured(weights, in_file), list[str]()
    variant = _variant(options) or stated.variant
    named_windows = variant and variant.window_sizes
    if variant is None and training.architecture and (run := named(training.architecture)):
        if all(measured[name] == getattr(run, name) for name in SHAPE):
            variant = run
        elif not stated.config:
            notes.append(f"{training.place} names {training.architecture}, whose shape is another than the weights'")
    names = list(fitting(measured["version"], measured["embed_dim"], measured["depths"], measured["num_heads"]))
    said = dict(training.windows if measured["version"] == 2 else {}) | dict(stated.config)  # noqa: PLR2004 (Swin V2)
    windows = said.pop("window_sizes", None) or named_windows
    windows = windows or _windows(weights, tables, len(measured["depths"])) or (variant and variant.window_sizes)
    if windows is None:
        hint = f"say which with --architecture: {', '.join(names)}" if names else "name one with --architecture"
        raise CheckpointError(f"these weights do not say the size of their windows; {hint}")
    if stated.classes not in (None, measured["num_classes"]):
        raise CheckpointError(f"the configuration has {stated.classes} classes, the weights {measured['num_classes']}")
    if training.classes not in (None, measured["num_classes"]):
        if training.place == "args.yaml":
            raise CheckpointError(
                f"args.yaml beside the weights is of a run with {training.classes} classes, the weights have "
                f"{measured['num_classes']}; move it away if it is not of this run"
            )
        notes.append(f"{training.place} has {training.classes} classes, the weights {measured['num_classes']}")
    shape: dict[str, Any] = {"window_sizes": tuple(windows), "dialect": dialect}
    if variant:
        shape |= {"embed_dim": variant.embed_dim, "depths": variant.depths, "num_heads": variant.num_heads}
        shape |= {"version": variant.version, "pretrained_window_sizes": variant.pretrained_windows}
    elif measured["version"] == 2:  # noqa: PLR2004 (Swin V2)
        shape["pretrained_window_sizes"] = _pretrained(tables, windows)
    size_said = said.pop("input_size", None)
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
    known = next((name for name in names if VARIANTS[name] is variant), None) or next(
        (name for name in names if variant is None and VARIANTS[name].has_windows(windows)), None
    )
    evidence = _evidence(weights, tables, measured["patch_size"], windows)
    for size, place in ((size_said, stated.place), (training.input_size, training.place)):
        if size is not None:
            if evidence and evidence[0] != size and options.size is None:
                raise CheckpointError(
                    f"{place} says {size[0]}×{size[1]} pixels, but {evidence[1]} "
                    f"{'are' if evidence[1].endswith('s') else 'is'} for {evidence[0][0]}×{evidence[0][1]}; "
                    "say which with --input-size"
                )
            return SwinConfig(**asked, input_size=size), f"from {place}", notes
    if evidence:
        return SwinConfig(**asked, input_size=evidence[0]), f"from {evidence[1]} in the file", notes
    published = VARIANTS[known] if known else variant
    if options.size and (published is None or _same_windows(asked, options.size, published)):
        return SwinConfig(**asked, input_size=options.size), "from --input-size", notes
    if published is None:
        raise CheckpointError("these weights do not say the size of their images; give it with --input-size")
    said_by = "--architecture" if options.architecture else training.place if variant and training.architecture else ""
    origin = f"the published {known or 'network'} has it"
    origin = f"{said_by} names it: {origin}" if said_by else f"assumed: the weights do not say it, {origin}"
    return SwinConfig(**asked, input_size=(published.side, published.side)), origin, notes


def _same_windows(asked: Mapping[str, Any], size: Size, published: Variant) -> bool:
    """Whether the network computes the same at this size: no window is cut, so no table would be interpolated."""
    configs = [SwinConfig(**asked, input_size=side) for side in (size, (published.side, published.side))]
    if asked["ape"]:
        return False
    here, there = ([config.windowing(stage, 0).size for stage in range(len(config.depths))] for config in configs)
    return here == there


def _evidence(weights: Weights, tables: Weights, patch: int, windows: Sequence[Size]) -> tuple[Size, str] | None:
    """The input size that the file's tensors are for, and which of them; None where they leave it open."""
    if size := _of_mask(tables, patch, len(windows)):
        return size, "the attention masks"
    embedding = weights.get("absolute_pos_embed")
    if embedding is not None and (side := math.isqrt(embedding.shape[1])) ** 2 == embedding.shape[1]:
        return (side * patch, side * patch), "the position embedding"
    if size := _of_cut_windows(windows, patch):
        return size, "the windows of the last stages"
    return None


def _of_cut_windows(windows: Sequence[Size], patch: int) -> Size | None:
    """A window that is smaller than the one before is as large as its map, and later ones are halved with it."""
    sides = [height for height, width in windows if height == width]
    first = next((stage for stage, side in enumerate(sides) if side != sides[0]), None)
    if first is None or len(sides) != len(windows):
        return None
    grid = sides[first]
    if grid > sides[0] or any(side != grid >> later for later, side in enumerate(sides[first:])):
        return None
    side = grid * patch << first
    return side, side


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
            if (2 * side - 1) ** 2 != bias.shape[0]:  # not square: the shape is not told by the area
                return None
        elif index is not None:
            side = math.isqrt(math.isqrt(index.numel()))
        else:
            return None
        found.append((side, side))
    return tuple(found)


def _of_mask(tables: Weights, patch: int, stages: int) -> Size | None:
    """From a stage's mask, (windows, area, area): windows × area positions, taken to be a square."""
    for stage in range(stages):
        mask = tables.get(f"layers.{stage}.blocks.1.attn_mask")
        if mask is not None and mask.ndim >= 2:  # noqa: PLR2004 (windows, area)
            positions = mask.shape[0] * mask.shape[1]
            side = math.isqrt(positions)
            return ((side * patch << stage,) * 2) if side**2 == positions else None
    return None


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
