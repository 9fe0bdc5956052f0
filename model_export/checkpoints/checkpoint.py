"""The input of every checkpoint reader, its result, and the steps that all readers share.

A reader of one source finds weights and settings. `assemble` combines them with the options and
fills the network. Knows nothing about file formats.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from app.bundle.manifest import Activation, Label, LabelsFrom, Preprocessing, PreprocessingFrom, Source, SourceKind
from model_export.checkpoints.files.weights import Weights, digest_of
from model_export.checkpoints.imagenet import imagenet_labels
from model_export.checkpoints.preprocessing import RecipeOptions, apply_options, describe_steps
from model_export.checkpoints.reference import Reference
from model_export.checkpoints.swin_weights import StateDict
from model_export.checkpoints.variants import describe_network, published_preprocessing
from model_export.errors import CheckpointError, RequestError, UnsupportedModel
from model_export.network.swin import Swin, SwinConfig
from model_export.network.windows import Size, by

# transformers gives these names to classes without a name.
PLACEHOLDER = re.compile(r"LABEL_\d+")

# The first word of the origin of a value that neither checkpoint nor options state.
ASSUMED = "assumed"


@dataclass(frozen=True)
class Options:
    """Options of the command line that replace the checkpoint's values. Sizes: (height, width)."""

    source: SourceKind | None = None
    revision: str | None = None
    architecture: str | None = None
    weights: str | None = None  # the set to take from a file with several
    input_size: Size | None = None
    window: int | None = None
    labels: tuple[Label, ...] | None = None
    activation: Activation | None = None
    recipe: RecipeOptions = field(default_factory=RecipeOptions)

    @property
    def size(self) -> Size | None:
        """The input size that the options ask for; `--crop` implies one."""
        return self.input_size or self.recipe.crop


# Makes the reference of a network with its weights. The boolean is true if the network was resized.
MakeReference = Callable[[Swin, Preprocessing, bool], Reference]


@dataclass(frozen=True)
class RawCheckpoint:
    """Weights by the names of their source library, with the files that held them."""

    kind: SourceKind
    id: str
    revision: str | None
    files: list[Path]
    weights: StateDict


@dataclass(frozen=True)
class Decision:
    """One choice of an export: its value, its origin, and the options that change it."""

    subject: str
    value: str
    origin: str
    options: str

    @property
    def is_assumed(self) -> bool:
        """True if neither checkpoint nor options state the value.

        A wrong assumption gives wrong predictions.
        """
        return self.origin.startswith(ASSUMED)

    def row(self) -> tuple[str, str, str]:
        """Return the cells of a table. `warnings` has the complete sentence on an assumption."""
        return self.subject, self.value, ASSUMED if self.is_assumed else self.origin


def warnings(decisions: Iterable[Decision]) -> Iterator[str]:
    """Yield a line for each assumption. The parts of one recipe share a line."""
    for origin, made in groupby(filter(lambda each: each.is_assumed, decisions), lambda each: each.origin):
        parts = list(made)
        values = "; ".join(f"{part.subject}: {part.value}" for part in parts)
        options = ", ".join(part.options for part in parts if part.options)
        yield f"{values}; {origin}; change {'it' if len(parts) == 1 else 'them'} with {options}"


@dataclass(frozen=True)
class Origins:
    """Origins of the values that are not in the tensors, as text for the terminal."""

    network: str
    size: str
    windows: str
    recipe: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)  # of the recipe, where their origin differs from `recipe`
    labels: str = ""
    fine_tune: str = ""  # the sign that the network was trained on other classes
    notes: tuple[str, ...] = ()
    shape: str = "the configuration"  # origin of the shapes that the weights must have


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, preprocessing, labels, activation and reference."""

    source: Source
    network: Swin
    preprocessing: Preprocessing
    labels: tuple[Label, ...]
    activation: Activation
    reference: Reference
    decisions: tuple[Decision, ...] = ()
    notes: tuple[str, ...] = ()  # on the reading of weights and settings


def preprocessing_origin(options: Options, *, is_declared: bool) -> PreprocessingFrom:
    """Return the origin of the preprocessing. `is_declared`: the checkpoint has one of its own."""
    if options.recipe.has_changes:
        return "options"
    return "checkpoint" if is_declared else "published recipe"


def choose_labels(
    classes: int, own: tuple[Label, ...] | None, options: Options
) -> tuple[tuple[Label, ...], LabelsFrom]:
    """Return the labels and their origin.

    The options come first, then the checkpoint, then ImageNet's labels for the same number of
    classes, then numbers.

    Args:
        classes: the number of classes.
        own: the labels in the checkpoint; None if it has none.
        options: of the command line.

    Raises:
        RequestError, CheckpointError: the number of names differs from the number of classes.
    """
    if options.labels is not None:
        if len(options.labels) != classes:
            raise RequestError(f"--labels names {len(options.labels)} classes, the network has {classes}")
        return _check_encodable(options.labels, "--labels"), "options"
    if own is not None:
        if len(own) != classes:
            raise CheckpointError(f"the configuration names {len(own)} classes, the network has {classes}")
        return _check_encodable(own, "the configuration"), "checkpoint"
    if published := imagenet_labels(classes):
        return published, "published names"
    return tuple(Label(name=str(index), wnid=None) for index in range(classes)), "numbers"


def _check_encodable(labels: tuple[Label, ...], origin: str) -> tuple[Label, ...]:
    """Return the labels.

    Raises:
        RequestError: a name holds a lone surrogate, which JSON can express and UTF-8 cannot.
    """
    for index, label in enumerate(labels):
        try:
            label.name.encode()
        except UnicodeEncodeError as error:
            raise RequestError(f"{origin}: the name of class {index} holds half a character; write it again") from error
    return labels


def resize_config(config: SwinConfig, options: Options) -> SwinConfig:
    """Return the configuration with the input size and window of the options.

    Swin V2 then still scales its offsets by the windows of the training (section 3.3 of its paper).

    Raises:
        UnsupportedModel: a position embedding or bias table that is not square would be
            interpolated.
    """
    windows = ((options.window, options.window),) * len(config.depths) if options.window else config.window_sizes
    if (options.size or config.input_size, windows) == (config.input_size, config.window_sizes):
        return config
    trained = (config.windowing(stage, 0).size[0] for stage in range(len(config.depths)))
    pretrained = (given or side for given, side in zip(config.pretrained_window_sizes, trained, strict=False))
    resized = replace(
        config,
        input_size=options.size or config.input_size,
        window_sizes=windows,
        pretrained_window_sizes=tuple(pretrained),
    )
    _check_square(config, resized)
    return resized


def _check_square(trained: SwinConfig, wanted: SwinConfig) -> None:
    maps = [("the position embedding", trained.stage_grid(0), wanted.stage_grid(0))] if trained.ape else []
    if trained.version == 1:
        for stage in range(len(trained.depths)):
            old, new = (config.windowing(stage, 0).size for config in (trained, wanted))
            maps.append((f"the bias table of stage {stage}", old, new))
    for name, old, new in maps:
        if old != new and (old[0] != old[1] or new[0] != new[1]):
            sizes = f"{by(old)} to {by(new)}"
            raise UnsupportedModel(f"{name} would go from {sizes}; only squares are interpolated")


def assemble(
    raw: RawCheckpoint,
    trained: SwinConfig,
    config: SwinConfig,
    weights: Weights,
    *,
    recipe: Preprocessing | None,
    labels: tuple[Label, ...] | None,
    activation: Activation,
    reference: MakeReference,
    name_in_file: Callable[[str], str],
    options: Options,
    origins: Origins,
) -> Checkpoint:
    """Return the checkpoint that a reader found, with the options applied. Every reader ends here.

    Args:
        raw: the weights and their files.
        trained: the configuration of the trained network.
        config: the configuration to export, with another input size or window if the options ask
            for it.
        weights: by the names of `swin.py`.
        recipe: the checkpoint's own preprocessing; None if it has none.
        labels: the checkpoint's own labels; None if it has none.
        activation: the function that the source library applies to the logits.
        reference: makes the reference that the network is compared with.
        name_in_file: maps a name of `swin.py` to the name in the source library.
        options: of the command line.
        origins: of input size, windows, preprocessing and labels.

    Raises:
        CheckpointError: weights or labels do not fit the network.
        RequestError: the options do not fit the network.
    """
    network = Swin(config)
    if config != trained:
        wanted = network.state_dict()
        weights = {name: resize_weight(name, weight, wanted.get(name, weight)) for name, weight in weights.items()}
    load_weights(network, weights, lambda name: raw.weights.name_in_file(name_in_file(name)), origins.shape)
    declared_or_published = recipe or published_preprocessing(raw.kind, config)
    preprocessing = apply_options(declared_or_published, options.recipe, config.input_size)
    names, labels_from = choose_labels(config.num_classes, labels, options)
    source = Source(
        kind=raw.kind,
        id=raw.id,
        revision=raw.revision,
        weights_sha256=digest_of(raw.files),
        preprocessing_from=preprocessing_origin(options, is_declared=recipe is not None),
        labels_from=labels_from,
    )
    return Checkpoint(
        source,
        network,
        preprocessing,
        names,
        options.activation or activation,
        reference(network, preprocessing, config != trained),
        tuple(_decisions(source, config, preprocessing, names, options, origins)),
        (*raw.weights.notes, *origins.notes),
    )


def _decisions(  # noqa: PLR0917 (by position)
    source: Source,
    config: SwinConfig,
    recipe: Preprocessing,
    labels: tuple[Label, ...],
    options: Options,
    origins: Origins,
) -> Iterator[Decision]:
    yield Decision("network", describe_network(config), origins.network, "")
    size_from = "--input-size" if options.input_size else "--crop" if options.size else origins.size
    yield Decision("input size", by(config.input_size), size_from, "--input-size")
    sides = [str(h) if h == w else by((h, w)) for h, w in config.window_sizes]
    windows = sides[0] if len(set(sides)) == 1 else ", ".join(sides)
    yield Decision("windows", windows, "--window" if options.window else origins.windows, "--window")
    for part, (value, changed_with) in describe_steps(recipe).items():
        yield Decision(part, value, _part_from(part, source, recipe, options, origins), changed_with)
    first = "; ".join(label.name for label in labels[:3])
    shown = f"{len(labels)} classes: {first}{' …' if len(labels) > 3 else ''}"  # noqa: PLR2004 (the number of labels shown)
    yield Decision("labels", shown, _labels_from(source, labels, origins), "--labels FILE")


def _part_from(part: str, source: Source, recipe: Preprocessing, options: Options, origins: Origins) -> str:
    """Return the origin of a part of the preprocessing: an option, the checkpoint, or an assumption."""
    given, fit = options.recipe, "--fit" if options.recipe.fit else "--resize"
    if part == "resize" and (given.fit or given.resize):
        return fit
    if part == "crop" and recipe.crop is None and (given.fit or given.resize):
        return fit
    if getattr(given, part, None) is not None:
        return f"--{part}"
    return origins.parts.get(
        part, origins.recipe or f"assumed: {source.kind}'s published recipe, because the checkpoint has none"
    )


def _labels_from(source: Source, labels: tuple[Label, ...], origins: Origins) -> str:
    match source.labels_from:
        case "options":
            return "--labels"
        case "numbers":
            return "numbers, because the checkpoint names no classes"
        case "published names":
            doubt = (
                f"{origins.fine_tune}, so these are wrong if it was trained on other classes"
                if origins.fine_tune
                else ""
            )
            doubt = doubt or "wrong if the network was trained on other classes"
            return f"assumed: ImageNet's names, because their number is {len(labels)}; {doubt}"
        case _ if all(PLACEHOLDER.fullmatch(label.name) for label in labels):
            return "the checkpoint, where they are placeholders and no names"
        case _:
            return origins.labels or "the checkpoint"


def load_weights(
    network: Swin,
    weights: Mapping[str, Tensor],
    name_in_file: Callable[[str], str] = str,
    shape_from: str = "the configuration",
) -> None:
    """Load the weights into the network as float32, and freeze it.

    Args:
        network: receives the weights.
        weights: by the names of `swin.py`.
        name_in_file: maps a name of `swin.py` to the name in the file, for messages.
        shape_from: origin of the network's shapes, for messages.

    Raises:
        CheckpointError: lists weights that are missing, unknown, of another shape or not finite.
    """
    wanted = network.state_dict()
    errors = [
        *(f"{name_in_file(name)} is missing" for name in wanted.keys() - weights.keys()),
        *(f"{name_in_file(name)} is unknown" for name in weights.keys() - wanted.keys()),
        *(
            f"{name_in_file(name)} has shape {_shape(weights[name])}, {shape_from} asks for {_shape(wanted[name])}"
            for name in wanted.keys() & weights.keys()
            if weights[name].shape != wanted[name].shape
        ),
    ]
    if errors:
        first, rest = sorted(errors)[:5], len(errors) - 5
        raise CheckpointError(f"weights: {'; '.join(first)}{f'; and {rest} more' if rest > 0 else ''}")
    if broken := [name for name, weight in weights.items() if not weight.float().isfinite().all()]:
        raise CheckpointError(f"weights: {name_in_file(min(broken))} holds values that are not finite")
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    network.requires_grad_(requires_grad=False).eval()


def _shape(weight: Tensor) -> str:
    return "×".join(map(str, weight.shape)) or "of one number"


def resize_weight(name: str, weight: Tensor, wanted: Tensor) -> Tensor:
    """Return a bias table or position embedding in the shape of `wanted`, other weights unchanged.

    Bias tables are `(offsets, heads)`, position embeddings `(1, positions, channels)`. Both are
    interpolated as square maps and bicubically, as in the authors' `load_pretrained`. A weight
    stays unchanged if a map is not square.
    """
    if weight.shape == wanted.shape:
        return weight
    if name.endswith("relative_position_bias_table") and weight.ndim == wanted.ndim == 2:  # noqa: PLR2004 (offsets, heads)
        return _bicubic(weight.T[None], wanted.shape[0])[0].T
    if name.endswith(("absolute_pos_embed", "position_embeddings")) and weight.ndim == wanted.ndim:
        return _bicubic(weight.mT, wanted.shape[1]).mT
    return weight


def _bicubic(values: Tensor, length: int) -> Tensor:
    """Resize `(1, channels, side²)` to `(1, channels, length)`; maps that are not square stay."""
    old, new = round(values.shape[2] ** 0.5), round(length**0.5)
    if old**2 != values.shape[2] or new**2 != length:
        return values
    return F.interpolate(values.float().unflatten(2, (old, old)), (new, new), mode="bicubic").flatten(2)
