"""The shared reader of bare state dicts of the authors, timm and torchvision.

Depths, widths, heads and classes follow from the shapes of the weights. Window and input size
follow from computed tables, which the authors and torchvision save and timm does not. Settings of
the training run and options come before the tables. Without either, the published variant with
these shapes decides. Knows nothing about the format of files.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    resize_config,
)
from model_export.checkpoints.files.pickles import SAVE_STATE_DICT
from model_export.checkpoints.files.weights import Weights
from model_export.checkpoints.other_networks import first_few
from model_export.checkpoints.preprocessing import PARTS
from model_export.checkpoints.saved_labels import SavedLabels, find_labels
from model_export.checkpoints.swin_weights import COMPUTED
from model_export.checkpoints.training.types import NO_TRAINING, Training
from model_export.checkpoints.variants import (
    VARIANTS,
    Variant,
    find_variant,
    published_preprocessing,
    variants_with_sizes,
)
from model_export.errors import CheckpointError, RequestError
from model_export.network.swin import SwinConfig, WindowConvention
from model_export.network.windows import Size, by


@dataclass(frozen=True)
class DeclaredConfig:
    """Values that a configuration beside the weights declares; None for a value that is absent."""

    config: Mapping[str, Any]  # fields of SwinConfig
    recipe: Callable[[Size], Preprocessing] | None = None
    parts: Mapping[str, str] = field(default_factory=dict)  # origins of parts of the recipe that it does not declare
    labels: tuple[Label, ...] | None = None
    classes: int | None = None
    variant: Variant | None = None
    place: str = "config.json"  # the configuration's name in messages


NO_CONFIG = DeclaredConfig({})
# Fields of SwinConfig that the weights of a published variant determine.
SHAPE = ("version", "embed_dim", "depths", "num_heads")
# The name, in messages, of windows that are as large as the feature map of their stage.
CUT_WINDOWS = "the windows of the last stages"
# The version of Swin V2, which has tables and names of its own.
V2 = 2


def read(
    raw: RawCheckpoint,
    *,
    window_convention: WindowConvention,
    rename: Callable[[Weights], Weights],
    name_in_file: Callable[[str], str] = str,
    reference: MakeReference,
    declared: DeclaredConfig = NO_CONFIG,
    training: Training = NO_TRAINING,
    content: Mapping[str, Any] | None = None,
    options: Options,
) -> Checkpoint:
    """Return the checkpoint with these weights.

    Args:
        raw: the weights and their files.
        window_convention: the library that defines the padding of maps that windows do not divide.
        rename: maps the weights to the names of `swin.py`; computed buffers may stay in.
        name_in_file: maps a name of `swin.py` to the name in the source library.
        reference: makes the reference that the network is compared with.
        declared: the configuration beside the weights.
        training: the settings of the training run.
        content: the whole content of the file.
        options: of the command line.

    Raises:
        CheckpointError: the weights are not a Swin's, contradict settings or options, or leave a
            value open.
    """
    own = rename(raw.weights)
    tables = {name: own.pop(name) for name in list(own) if name.endswith(COMPUTED)}
    measured = _measured(own, lambda name: raw.weights.name_in_file(name_in_file(name)))
    inputs = _Inputs(own, tables, measured, declared, training, options)
    trained, size_from, windows_from, notes = _trained(inputs, window_convention)
    config = resize_config(trained, options)
    recipe, recipe_from, parts = _recipe(raw.kind, config, declared, training)
    own_labels = SavedLabels(declared.labels, declared.place, ())
    if declared.labels is None and options.labels is None and content is not None:
        own_labels = find_labels(content, config.num_classes)
    return assemble(
        raw,
        trained,
        config,
        own,
        recipe=recipe,
        labels=own_labels.labels,
        activation="sigmoid" if config.num_classes == 1 else "softmax",
        reference=reference,
        name_in_file=name_in_file,
        options=options,
        origins=Origins(
            _network_from(inputs),
            size_from,
            windows_from,
            recipe_from,
            parts,
            own_labels.place,
            _fine_tune(training),
            (*training.notes, *notes, *own_labels.notes),
            f"{declared.place}: model_kwargs" if training.arguments else "the configuration",
        ),
    )


def _network_from(inputs: "_Inputs") -> str:
    if inputs.options.architecture:
        return "--architecture"
    return inputs.declared.place if inputs.declared.variant else "the weights"


def _recipe(
    kind: SourceKind, config: SwinConfig, declared: DeclaredConfig, training: Training
) -> tuple[Preprocessing | None, str, Mapping[str, str]]:
    """Return the checkpoint's own preprocessing, its origin, and the parts with another origin."""
    if declared.recipe:
        return declared.recipe(config.input_size), declared.place, declared.parts
    if training.recipe:
        return training.recipe(config.input_size), training.place, {}
    if training.changes:
        published = published_preprocessing(kind, config).model_copy(update=training.changes)
        assumed = (
            f"assumed: {kind}'s published recipe, because {training.place} has {' and '.join(training.changes)} only"
        )
        return published, training.place, {part: assumed for part in PARTS if part not in training.changes}
    return None, "", {}


def _fine_tune(training: Training) -> str:
    if not training.place:
        return ""
    data = f" with data {training.dataset}" if training.dataset else ""
    return f"the file is of a training run{data}"


@dataclass(frozen=True)
class _Inputs:
    """All sources of the configuration: tensors, declared values, training settings and options."""

    weights: Weights
    tables: Weights
    measured: Mapping[str, Any]  # fields of SwinConfig that follow from shapes
    declared: DeclaredConfig
    training: Training
    options: Options

    @property
    def declared_fields(self) -> dict[str, Any]:
        """Fields of SwinConfig that a configuration or a run's settings declare."""
        return dict(self.training.windows if self.measured["version"] == V2 else {}) | dict(self.declared.config)

    @property
    def matching_variants(self) -> list[str]:
        """Names of the published variants with these sizes."""
        return list(variants_with_sizes(*(self.measured[name] for name in SHAPE)))

    @property
    def windows(self) -> tuple[Size, ...] | None:
        """Windows by stage, from the tensors; None if the tensors leave them open."""
        return _windows(self.weights, self.tables, len(self.measured["depths"]))

    @property
    def named_variant(self) -> Variant | None:
        """The variant that the options or the configuration name."""
        return _variant(self.options) or self.declared.variant


def _trained(inputs: _Inputs, window_convention: WindowConvention) -> tuple[SwinConfig, str, str, list[str]]:
    """Return the trained configuration, the origins of input size and windows, and notes."""
    variant, notes = _choose_variant(inputs)
    windows, windows_from = _choose_windows(inputs, variant)
    notes += _check_classes(inputs)
    declared = inputs.declared_fields
    declared_size = declared.pop("input_size", None)
    fields = {
        **inputs.measured,
        **_shape(inputs, variant, windows),
        "window_convention": window_convention,
        **declared,
        "window_sizes": windows,
    }
    _check_fields(inputs, fields)
    _check_windows(inputs)
    size, size_from = _input_size(inputs, fields, variant, declared_size)
    return SwinConfig(**fields, input_size=size), size_from, windows_from, notes


def _choose_variant(inputs: _Inputs) -> tuple[Variant | None, list[str]]:
    """Return the variant that options, configuration or settings name, and notes.

    Raises:
        CheckpointError: the settings belong to a training run of another network.
    """
    name, place = inputs.training.architecture, inputs.training.place
    run = find_variant(name) if name else None
    if name is None or (
        run is None and (inputs.named_variant or re.search(r"swin|^(hf[-_]hub|local-dir):", name.lower()))
    ):
        return inputs.named_variant, []
    if run and all(inputs.measured[part] == inputs.declared_fields.get(part, getattr(run, part)) for part in SHAPE):
        has_its_shape = all(inputs.measured[part] == getattr(run, part) for part in SHAPE)
        return inputs.named_variant or (run if has_its_shape else None), []
    mismatch = "which has another shape than the weights" if run else "which is not a known Swin"
    note = f"{place} names {name}, {mismatch}"
    if not inputs.training.must_match_weights:
        return inputs.named_variant, [note]
    hint = "move it away if it is not of this run" if place == "args.yaml" else SAVE_STATE_DICT
    or_name = "" if run else ", or name the Swin with --architecture"
    raise CheckpointError(f"{note}, so the settings seem to be of another network's run; {hint}{or_name}")


def _choose_windows(inputs: _Inputs, variant: Variant | None) -> tuple[tuple[Size, ...], str]:
    """Return the windows by stage and their origin.

    Settings come first, then a variant that options or configuration name, then the tensors, then a
    variant that the run names.

    Raises:
        CheckpointError: `--architecture` contradicts the settings, or the windows are open.
    """
    named, declared = _variant(inputs.options), inputs.declared_fields.get("window_sizes")
    if declared:
        place = inputs.declared.place if "window_sizes" in inputs.declared.config else inputs.training.place
        if named and (len(declared) != len(named.windows) or not named.has_windows(declared)):
            raise CheckpointError(
                f"--architecture {inputs.options.architecture} has windows of {_listed(named.windows)}, {place} of "
                f"{_listed(tuple(side for side, _ in declared))}; leave --architecture out if these are the run's"
            )
        return tuple(declared), place
    if variant and inputs.named_variant:
        named_by = f"--architecture {inputs.options.architecture}" if named else inputs.declared.place
        return tuple(variant.window_sizes), named_by
    if inputs.windows:
        return tuple(inputs.windows), "the weights"
    if variant:
        return tuple(variant.window_sizes), inputs.training.place
    names = inputs.matching_variants
    hint = f"choose one with --architecture: {', '.join(names)}" if names else "name one with --architecture"
    raise CheckpointError(f"the size of the windows does not follow from these weights; {hint}")


def _check_classes(inputs: _Inputs) -> list[str]:
    """Return a note if the run's settings have another number of classes.

    Raises:
        CheckpointError: the configuration, or an `args.yaml` beside the weights, has another number
            of classes.
    """
    declared, run, classes = inputs.declared.classes, inputs.training.classes, inputs.measured["num_classes"]
    place = inputs.training.place
    if declared not in (None, classes):
        raise CheckpointError(f"the configuration has {declared} classes, the weights {classes}")
    if run in (None, classes):
        return []
    if place == "args.yaml":
        raise CheckpointError(
            f"args.yaml beside the weights is of a run with {run} classes, the weights have {classes}; "
            "move it away if it is not of this run"
        )
    return [f"{place} has {run} classes, the weights {classes}"]


def _shape(inputs: _Inputs, variant: Variant | None, windows: Sequence[Size]) -> dict[str, Any]:
    """Return the fields of SwinConfig that follow from the variant."""
    if variant:
        shape = {name: getattr(variant, name) for name in SHAPE}
        return shape | {"pretrained_window_sizes": variant.pretrained_windows}
    return {"pretrained_window_sizes": _pretrained(inputs.tables, windows)} if inputs.measured["version"] == V2 else {}


def _check_fields(inputs: _Inputs, fields: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the variant or the configuration contradicts the weights."""
    architecture = inputs.options.architecture
    for name in (*SHAPE, "patch_size", "qkv_bias"):
        if fields[name] != inputs.measured[name]:
            place = f"{inputs.declared.place}: model_kwargs" if inputs.training.arguments else "the configuration"
            origin = f"--architecture {architecture}" if architecture else place
            matching = ", ".join(inputs.matching_variants)
            hint = f"; they fit {matching}" if architecture and matching else ""
            raise CheckpointError(
                f"{origin} asks for {name} {_listed(fields[name])}, "
                f"the weights have {_listed(inputs.measured[name])}{hint}"
            )


def _check_windows(inputs: _Inputs) -> None:
    """Raise CheckpointError if `--architecture` has other windows than the tensors."""
    variant, windows = _variant(inputs.options), inputs.windows
    if variant and windows and not variant.has_windows(windows):
        raise CheckpointError(
            f"--architecture {inputs.options.architecture} has windows of {_listed(variant.windows)}, the weights of "
            f"{_listed(tuple(side for side, _ in windows))}"
        )


def _input_size(
    inputs: _Inputs, fields: Mapping[str, Any], variant: Variant | None, declared_size: Size | None
) -> tuple[Size, str]:
    """Return the input size and its origin: settings, tensors, options or published variant."""
    size, size_from = _size_and_origin(inputs, fields, variant, declared_size)
    _check_masks(inputs, fields["patch_size"], size)
    return size, size_from


def _check_masks(inputs: _Inputs, patch: int, size: Size) -> None:
    """Raise CheckpointError if masks of a map that is not square are for another input size."""
    found = _mask_positions(inputs.tables, len(inputs.measured["depths"]))
    if found is None or math.isqrt(found[1]) ** 2 == found[1]:
        return
    stage, positions = found
    height, width = (-(-side // (patch << stage)) for side in size)
    if height * width != positions:
        raise CheckpointError(
            f"the attention masks are for {positions} positions of {patch << stage}×{patch << stage} pixels, which is "
            f"no square and not {by(size)} pixels; give the size of the training images with --input-size HxW"
        )


def _size_and_origin(
    inputs: _Inputs, fields: Mapping[str, Any], variant: Variant | None, declared_size: Size | None
) -> tuple[Size, str]:
    by_tensors = _size_by_tensors(inputs.weights, inputs.tables, fields["patch_size"], fields["window_sizes"])
    if by_tensors and by_tensors[1] == CUT_WINDOWS and "window_sizes" in inputs.declared_fields:
        by_tensors = None  # the settings declare these windows, so no map has cut them
    if declared_size is not None:
        return _size_by_settings(inputs, by_tensors, declared_size, inputs.declared.place)
    if inputs.training.input_size is not None:
        return _size_by_settings(inputs, by_tensors, inputs.training.input_size, inputs.training.place)
    if by_tensors and by_tensors[1] == CUT_WINDOWS and not _is_published(inputs, by_tensors[0], fields["window_sizes"]):
        return by_tensors[0], f"assumed: {CUT_WINDOWS} are as large as their feature maps at this size"
    if by_tensors:
        return by_tensors[0], f"{by_tensors[1]} in the file"
    return _size_by_variant(inputs, fields, variant)


def _is_published(inputs: _Inputs, size: Size, windows: Sequence[Size]) -> bool:
    """Return whether a published variant with these shapes has these windows at this input size."""
    variants = [VARIANTS[name] for name in inputs.matching_variants]
    return any((variant.side, variant.side) == size and variant.has_windows(windows) for variant in variants)


def _size_by_settings(inputs: _Inputs, by_tensors: tuple[Size, str] | None, size: Size, place: str) -> tuple[Size, str]:
    if by_tensors and by_tensors[0] != size and inputs.options.size is None:
        verb = "are" if by_tensors[1].endswith("s") else "is"
        raise CheckpointError(
            f"{place} has an input size of {by(size)} pixels, but {by_tensors[1]} {verb} for "
            f"{by(by_tensors[0])}; choose one with --input-size"
        )
    return size, place


def _size_by_variant(inputs: _Inputs, fields: Mapping[str, Any], variant: Variant | None) -> tuple[Size, str]:
    """Return the size of the named variant, or of the first with these shapes and windows."""
    matching = {name: VARIANTS[name] for name in inputs.matching_variants}
    known = next((name for name, published in matching.items() if published is variant), None)
    if variant is None:
        known = next((name for name, own in matching.items() if own.has_windows(fields["window_sizes"])), None)
    published = VARIANTS[known] if known else variant
    size = inputs.options.size
    if size and (published is None or _same_windows(fields, size, published)):
        return size, "--input-size"
    if published is None:
        raise CheckpointError("the input size does not follow from these weights; give it with --input-size")
    run_place = inputs.training.place if variant and inputs.training.architecture else ""
    named_by = "--architecture" if inputs.options.architecture else run_place
    origin = f"the published {known or 'network'} has it"
    origin = f"{named_by} names it: {origin}" if named_by else f"assumed: the weights do not contain it, {origin}"
    return (published.side, published.side), origin


def _same_windows(fields: Mapping[str, Any], size: Size, published: Variant) -> bool:
    """Return whether both input sizes give the same windows, without interpolated tables."""
    configs = [SwinConfig(**fields, input_size=side) for side in (size, (published.side, published.side))]
    if fields["ape"]:
        return False
    here, there = ([config.windowing(stage, 0).size for stage in range(len(config.depths))] for config in configs)
    return here == there


def _size_by_tensors(weights: Weights, tables: Weights, patch: int, windows: Sequence[Size]) -> tuple[Size, str] | None:
    """Return the input size that tensors imply and their name; None if they leave it open."""
    if size := _size_by_mask(tables, patch, len(windows)):
        return size, "the attention masks"
    embedding = weights.get("absolute_pos_embed")
    if embedding is not None and (side := math.isqrt(embedding.shape[1])) ** 2 == embedding.shape[1]:
        return (side * patch, side * patch), "the position embedding"
    if size := _size_by_cut_windows(windows, patch):
        return size, CUT_WINDOWS
    return None


def _size_by_cut_windows(windows: Sequence[Size], patch: int) -> Size | None:
    """Return the input size that smaller windows in the last stages imply; None if there are none.

    A window that is smaller than the first is as large as its map. The windows of later stages are
    halved with the map.
    """
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
    variant = find_variant(options.architecture)
    if variant is None:
        raise RequestError(f"--architecture {options.architecture} is not known; {', '.join(VARIANTS)} are")
    return variant


def _measured(weights: Weights, name_in_file: Callable[[str], str]) -> dict[str, Any]:
    """Return the fields of SwinConfig that follow from the shapes of the weights.

    Raises:
        CheckpointError: a weight that every Swin has is missing, or the patches are not square.
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
        raise CheckpointError(f"weights: {name_in_file(error.args[0])} is missing") from error
    except (ValueError, IndexError) as error:
        raise CheckpointError(
            f"weights: they do not have the shapes of a Swin; {first_few(weights)} are among them"
        ) from error
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
    """Return the windows by stage; None if a stage leaves its window open.

    The bias table has (2·side - 1)² rows, the index table side²·side² entries.
    """
    found = []
    for stage in range(stages):
        place = f"layers.{stage}.blocks.0.attn."
        bias, index = weights.get(f"{place}relative_position_bias_table"), tables.get(f"{place}relative_position_index")
        if bias is not None:
            side = (math.isqrt(bias.shape[0]) + 1) // 2
            if (2 * side - 1) ** 2 != bias.shape[0]:  # not a square window: the area leaves its shape open
                return None
        elif index is not None:
            side = math.isqrt(math.isqrt(index.numel()))
        else:
            return None
        found.append((side, side))
    return tuple(found)


def _size_by_mask(tables: Weights, patch: int, stages: int) -> Size | None:
    """Return the input size that the first mask implies; None if its map is not square."""
    found = _mask_positions(tables, stages)
    if found is None or (side := math.isqrt(found[1])) ** 2 != found[1]:
        return None
    return (side * patch << found[0],) * 2


def _mask_positions(tables: Weights, stages: int) -> tuple[int, int] | None:
    """Return the first stage with a mask `(windows, area, area)`, and windows × area."""
    for stage in range(stages):
        mask = tables.get(f"layers.{stage}.blocks.1.attn_mask")
        if mask is not None and mask.ndim > 1:
            return stage, mask.shape[0] * mask.shape[1]
    return None


def _pretrained(tables: Weights, windows: Sequence[Size]) -> tuple[int, ...]:
    """Return the pretrained windows by stage, from the largest offset of each coordinate table.

    The offset is log2(8·(side - 1) / (pretrained - 1) + 1) / log2(8) (equation 4 of the paper on
    Swin V2).
    """
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
    """Return the weights by their new names.

    Raises:
        CheckpointError: two weights get the same name.
    """
    own = {rename(name): weight for name, weight in weights.items()}
    if len(own) != len(weights):
        raise CheckpointError("weights: two of them belong to the same layer")
    return own
