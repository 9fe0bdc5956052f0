"""A bare state dict, of any of the sources that save one: what the shapes say of the network, and what they do not.

Sizes, depths, heads and classes are read off the weights. Window and input size are, too, where the source saves the
tables it computes (the authors and torchvision do, timm does not); otherwise they are those of the published variant
that was named, or of the only one that fits.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from app.bundle.manifest import Label, Preprocessing, SourceKind
from model_export.checkpoints.checkpoint import (
    Checkpoint,
    MakeReference,
    Options,
    Origins,
    RawCheckpoint,
    assemble,
    at_size,
)
from model_export.checkpoints.files.pickles import WAY_OUT
from model_export.checkpoints.files.weights import Weights
from model_export.checkpoints.others import some
from model_export.checkpoints.parts import COMPUTED
from model_export.checkpoints.saved_labels import Named, labels_of
from model_export.checkpoints.training.types import NO_TRAINING, Training
from model_export.checkpoints.variants import VARIANTS, Variant, fitting, named, published_recipe
from model_export.errors import CheckpointError, RequestError
from model_export.network.swin import Dialect, SwinConfig
from model_export.network.windows import Size, by


@dataclass(frozen=True)
class Metadata:
    """What a configuration beside the weights says; None where it is silent."""

    config: Mapping[str, Any]  # fields of SwinConfig
    recipe: Callable[[Size], Preprocessing] | None = None
    labels: tuple[Label, ...] | None = None
    classes: int | None = None
    variant: Variant | None = None
    place: str = "config.json"  # what says it, for people


NO_METADATA = Metadata({})
SHAPE = ("version", "embed_dim", "depths", "num_heads")
"""What a published variant has in common with its weights."""

CUT = "the windows of the last stages"
V2 = 2
"""The version of Swin V2, which has other windows and other names of weights."""


def read(
    found: RawCheckpoint,
    *,
    window_convention: Dialect,
    rename: Callable[[Weights], Weights],
    in_file: Callable[[str], str] = str,
    reference: MakeReference,
    stated: Metadata = NO_METADATA,
    training: Training = NO_TRAINING,
    content: Mapping[str, Any] | None = None,
    options: Options,
) -> Checkpoint:
    """Weights by their source's own names → checkpoint.

    Args:
        found: the weights and where they were.
        window_convention: whose treatment of maps that windows do not divide.
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
    measured = _measured(own, lambda name: found.weights.in_file(in_file(name)))
    everything = _Read(own, tables, measured, stated, training, options)
    trained, size_from, windows_from, notes = _trained(everything, window_convention)
    config = at_size(trained, options)
    recipe, recipe_from = _recipe(found.kind, config, stated, training)
    own_labels = Named(stated.labels, "", ())
    if stated.labels is None and options.labels is None and content is not None:
        own_labels = labels_of(content, config.num_classes)
    return assemble(
        found,
        trained,
        config,
        own,
        recipe=recipe,
        labels=own_labels.labels,
        activation="sigmoid" if config.num_classes == 1 else "softmax",
        reference=reference,
        in_file=in_file,
        options=options,
        origins=Origins(
            size_from,
            windows_from,
            recipe_from,
            own_labels.place,
            _fine_tune(training),
            (*training.notes, *notes, *own_labels.notes),
            f"{stated.place}: model_kwargs" if training.arguments else "the configuration",
        ),
    )


def _recipe(
    kind: SourceKind, config: SwinConfig, stated: Metadata, training: Training
) -> tuple[Preprocessing | None, str]:
    """The checkpoint's own preprocessing, and what says it."""
    if stated.recipe:
        return stated.recipe(config.input_size), stated.place
    if training.recipe:
        return training.recipe(config.input_size), training.place
    if training.changes:
        published = published_recipe(kind, config).model_copy(update=training.changes)
        said = " and ".join(training.changes)
        return published, f"{training.place} ({said}; the rest is assumed: {kind}'s published recipe)"
    return None, ""


def _fine_tune(training: Training) -> str:
    if not training.place:
        return ""
    data = f" with data {training.dataset}" if training.dataset else ""
    return f"the file is of a training run{data}"


@dataclass(frozen=True)
class _Read:
    """Everything that says something of the network: the file, what lies beside it, and the person at the terminal."""

    weights: Weights
    tables: Weights
    measured: Mapping[str, Any]  # fields of SwinConfig that shapes decide
    stated: Metadata
    training: Training
    options: Options

    @property
    def said(self) -> dict[str, Any]:
        """Fields of SwinConfig that a configuration or a run's settings give."""
        return dict(self.training.windows if self.measured["version"] == V2 else {}) | dict(self.stated.config)

    @property
    def fits(self) -> list[str]:
        """Names of the published variants with these sizes."""
        return list(fitting(*(self.measured[name] for name in SHAPE)))

    @property
    def windows(self) -> tuple[Size, ...] | None:
        """By stage, as far as the tensors tell them."""
        return _windows(self.weights, self.tables, len(self.measured["depths"]))

    @property
    def named(self) -> Variant | None:
        """The variant that the person or the configuration names."""
        return _variant(self.options) or self.stated.variant


def _trained(read: _Read, window_convention: Dialect) -> tuple[SwinConfig, str, str, list[str]]:
    """Return the network as it was trained, where its input size and windows came from, and what people should know."""
    variant, notes = _published(read)
    windows, windows_from = _asked_windows(read, variant)
    notes += _check_classes(read)
    said = read.said
    size_said = said.pop("input_size", None)
    asked = {
        **read.measured,
        **_shape(read, variant, windows),
        "window_convention": window_convention,
        **said,
        "window_sizes": windows,
    }
    _check_asked(read, asked)
    _check_windows(read)
    size, size_from = _input_size(read, asked, variant, size_said)
    return SwinConfig(**asked, input_size=size), size_from, windows_from, notes


def _published(read: _Read) -> tuple[Variant | None, list[str]]:
    """Return the variant that was named, be it by the run's settings, and a note where its shape is another.

    Raises:
        CheckpointError: the script made another network by that name.
    """
    name, place = read.training.architecture, read.training.place
    run = named(name) if name else None
    if name is None or (run is None and (read.named or re.search(r"swin|^(hf[-_]hub|local-dir):", name.lower()))):
        return read.named, []
    if run and all(read.measured[part] == read.said.get(part, getattr(run, part)) for part in SHAPE):
        is_run_s = all(read.measured[part] == getattr(run, part) for part in SHAPE)
        return read.named or (run if is_run_s else None), []
    is_what = "whose shape is another than the weights'" if run else "which is no Swin that is known here"
    note = f"{place} names {name}, {is_what}"
    if not read.training.is_of_network:
        return read.named, [note]
    way = "move it away if it is not of this run" if place == "args.yaml" else WAY_OUT
    or_say = "" if run else ", or say with --architecture which Swin it is"
    raise CheckpointError(f"{note}, so the settings seem to be of another network's run; {way}{or_say}")


def _asked_windows(read: _Read, variant: Variant | None) -> tuple[tuple[Size, ...], str]:
    """Return the windows by stage and what says them: a person or settings, else the tensors, else a published variant.

    Raises:
        CheckpointError: `--architecture` contradicts the settings, or nothing says the windows.
    """
    asked, said = _variant(read.options), read.said.get("window_sizes")
    if said:
        place = read.stated.place if "window_sizes" in read.stated.config else read.training.place
        if asked and (len(said) != len(asked.windows) or not asked.has_windows(said)):
            raise CheckpointError(
                f"--architecture {read.options.architecture} has windows of {_listed(asked.windows)}, {place} of "
                f"{_listed(tuple(side for side, _ in said))}; leave --architecture out if these are the run's"
            )
        return tuple(said), f"from {place}"
    if variant and read.named:
        named_by = f"--architecture {read.options.architecture}" if asked else read.stated.place
        return tuple(variant.window_sizes), f"from {named_by}"
    if read.windows:
        return tuple(read.windows), "from the weights"
    if variant:
        return tuple(variant.window_sizes), f"from {read.training.place}"
    names = read.fits
    hint = f"say which with --architecture: {', '.join(names)}" if names else "name one with --architecture"
    raise CheckpointError(f"these weights do not say the size of their windows; {hint}")


def _check_classes(read: _Read) -> list[str]:
    """Return a note where the run's settings count other classes, which may be of its dataset before it was changed."""
    stated, run, classes = read.stated.classes, read.training.classes, read.measured["num_classes"]
    place = read.training.place
    if stated not in (None, classes):
        raise CheckpointError(f"the configuration has {stated} classes, the weights {classes}")
    if run in (None, classes):
        return []
    if place == "args.yaml":
        raise CheckpointError(
            f"args.yaml beside the weights is of a run with {run} classes, the weights have {classes}; "
            "move it away if it is not of this run"
        )
    return [f"{place} has {run} classes, the weights {classes}"]


def _shape(read: _Read, variant: Variant | None, windows: Sequence[Size]) -> dict[str, Any]:
    """Return the fields of SwinConfig that the variant gives."""
    if variant:
        shape = {name: getattr(variant, name) for name in SHAPE}
        return shape | {"pretrained_window_sizes": variant.pretrained_windows}
    return {"pretrained_window_sizes": _pretrained(read.tables, windows)} if read.measured["version"] == V2 else {}


def _check_asked(read: _Read, asked: Mapping[str, Any]) -> None:
    """Raise CheckpointError where the variant or the configuration contradicts the weights."""
    architecture = read.options.architecture
    for name in (*SHAPE, "patch_size", "qkv_bias"):
        if asked[name] != read.measured[name]:
            said_by = f"{read.stated.place}: model_kwargs" if read.training.arguments else "the configuration"
            who = f"--architecture {architecture}" if architecture else said_by
            fit = f"; they fit {', '.join(read.fits)}" if architecture and read.fits else ""
            raise CheckpointError(
                f"{who} asks for {name} {_listed(asked[name])}, the weights have {_listed(read.measured[name])}{fit}"
            )


def _check_windows(read: _Read) -> None:
    """Raise CheckpointError where the variant that the person named has other windows than the tensors."""
    variant, windows = _variant(read.options), read.windows
    if variant and windows and not variant.has_windows(windows):
        raise CheckpointError(
            f"--architecture {read.options.architecture} has windows of {_listed(variant.windows)}, the weights of "
            f"{_listed(tuple(side for side, _ in windows))}"
        )


def _input_size(
    read: _Read, asked: Mapping[str, Any], variant: Variant | None, size_said: Size | None
) -> tuple[Size, str]:
    """Return the input size and where it came from: settings, tensors, the person, else the published variant."""
    size, size_from = _size_and_origin(read, asked, variant, size_said)
    _check_masks(read, asked["patch_size"], size)
    return size, size_from


def _check_masks(read: _Read, patch: int, size: Size) -> None:
    """Raise CheckpointError where attention masks of another shape than a square are for another size."""
    found = _positions(read.tables, len(read.measured["depths"]))
    if found is None or math.isqrt(found[1]) ** 2 == found[1]:
        return
    stage, positions = found
    height, width = (-(-side // (patch << stage)) for side in size)
    if height * width != positions:
        raise CheckpointError(
            f"the attention masks are for {positions} positions of {patch << stage}×{patch << stage} pixels, which is "
            f"no square and not {by(size)} pixels; say how high and wide the images were with --input-size HxW"
        )


def _size_and_origin(
    read: _Read, asked: Mapping[str, Any], variant: Variant | None, size_said: Size | None
) -> tuple[Size, str]:
    evidence = _evidence(read.weights, read.tables, asked["patch_size"], asked["window_sizes"])
    if evidence and evidence[1] == CUT and "window_sizes" in read.said:
        evidence = None  # these windows were asked for, not cut off
    if size_said is not None:
        return _of_settings(read, evidence, size_said, read.stated.place)
    if read.training.input_size is not None:
        return _of_settings(read, evidence, read.training.input_size, read.training.place)
    if evidence and evidence[1] == CUT and not _is_published(read, evidence[0], asked["window_sizes"]):
        return evidence[0], f"assumed: {CUT} would be cut off so at this size"
    if evidence:
        return evidence[0], f"from {evidence[1]} in the file"
    return _of_published(read, asked, variant)


def _is_published(read: _Read, size: Size, windows: Sequence[Size]) -> bool:
    """Whether a published variant with these sizes has these windows at this input size."""
    fits = [VARIANTS[name] for name in read.fits]
    return any((fit.side, fit.side) == size and fit.has_windows(windows) for fit in fits)


def _of_settings(read: _Read, evidence: tuple[Size, str] | None, size: Size, place: str) -> tuple[Size, str]:
    if evidence and evidence[0] != size and read.options.size is None:
        verb = "are" if evidence[1].endswith("s") else "is"
        raise CheckpointError(
            f"{place} says {by(size)} pixels, but {evidence[1]} {verb} for "
            f"{by(evidence[0])}; say which with --input-size"
        )
    return size, f"from {place}"


def _of_published(read: _Read, asked: Mapping[str, Any], variant: Variant | None) -> tuple[Size, str]:
    """Return the size of the variant that was named, or of the first that fits and has these windows."""
    fits = {name: VARIANTS[name] for name in read.fits}
    known = next((name for name, published in fits.items() if published is variant), None)
    if variant is None:
        known = next((name for name, fit in fits.items() if fit.has_windows(asked["window_sizes"])), None)
    published = VARIANTS[known] if known else variant
    size = read.options.size
    if size and (published is None or _same_windows(asked, size, published)):
        return size, "from --input-size"
    if published is None:
        raise CheckpointError("these weights do not say the size of their images; give it with --input-size")
    is_run_s = variant and read.training.architecture
    said_by = "--architecture" if read.options.architecture else read.training.place if is_run_s else ""
    origin = f"the published {known or 'network'} has it"
    origin = f"{said_by} names it: {origin}" if said_by else f"assumed: the weights do not say it, {origin}"
    return (published.side, published.side), origin


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
        return size, CUT
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
        version = V2 if f"{attention[0]}logit_scale" in weights else 1
        heads = tuple(
            weights[f"{place}logit_scale"].shape[0]
            if version == V2
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
        "qkv_bias": f"{attention[0]}{'q_bias' if version == V2 else 'qkv.bias'}" in weights,
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
    """From a stage's mask, where its positions are a square."""
    found = _positions(tables, stages)
    if found is None or (side := math.isqrt(found[1])) ** 2 != found[1]:
        return None
    return (side * patch << found[0],) * 2


def _positions(tables: Weights, stages: int) -> tuple[int, int] | None:
    """The first stage with a mask, (windows, area, area), and its windows × area positions."""
    for stage in range(stages):
        mask = tables.get(f"layers.{stage}.blocks.1.attn_mask")
        if mask is not None and mask.ndim > 1:
            return stage, mask.shape[0] * mask.shape[1]
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
