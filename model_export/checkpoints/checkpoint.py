"""What every reader is asked, what it returns, and how it fills the network."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from app.bundle.manifest import Activation, Label, LabelsFrom, Preprocessing, PreprocessingFrom, Source, SourceKind
from model_export.checkpoints.files.weights import Weights, digest_of
from model_export.checkpoints.imagenet import imagenet_labels
from model_export.checkpoints.parts import StateDict
from model_export.checkpoints.preprocessing import RecipeOptions, changed, in_words
from model_export.checkpoints.reference import Reference
from model_export.checkpoints.variants import published_recipe
from model_export.errors import CheckpointError, RequestError, UnsupportedModel
from model_export.network.swin import Swin, SwinConfig
from model_export.network.windows import Size, by

PLACEHOLDER = re.compile(r"LABEL_\d+")
"""What transformers calls a class that nobody named."""


@dataclass(frozen=True)
class Options:
    """What the person at the terminal says where the checkpoint is silent, or wrong. Sizes are (height, width)."""

    source: SourceKind | None = None
    revision: str | None = None
    architecture: str | None = None
    weights: str | None = None  # which set of them, where a file holds several
    input_size: Size | None = None
    window: int | None = None
    labels: tuple[Label, ...] | None = None
    activation: Activation | None = None
    recipe: RecipeOptions = field(default_factory=RecipeOptions)

    @property
    def size(self) -> Size | None:
        """The input size asked for; a crop asks for one, too."""
        return self.input_size or self.recipe.crop


MakeReference = Callable[[Swin, Preprocessing, bool], Reference]
"""Of a network with its weights, its preprocessing, and whether it was resized."""


@dataclass(frozen=True)
class RawCheckpoint:
    """Weights by their source's names, and where they were."""

    kind: SourceKind
    id: str
    revision: str | None
    files: list[Path]
    weights: StateDict


@dataclass(frozen=True)
class Decision:
    """One choice that an export makes: the value, where it came from, and the options that change it."""

    subject: str
    value: str
    origin: str
    options: str

    @property
    def is_assumed(self) -> bool:
        """Whether nobody said it: a network that was trained otherwise would be served wrong."""
        return self.origin.startswith("assumed")

    def __str__(self) -> str:
        return f"{self.subject}: {self.value}; {self.origin}; change it with {self.options}"


@dataclass(frozen=True)
class Origins:
    """Where a reader found what the weights alone do not say, in words for people."""

    size: str
    windows: str
    recipe: str = ""
    labels: str = ""
    fine_tune: str = ""  # what shows that the network was trained on other classes
    notes: tuple[str, ...] = ()
    shape: str = "the configuration"  # that the weights have to have


@dataclass(frozen=True)
class Checkpoint:
    """A network with everything that was decided when it was trained."""

    source: Source
    network: Swin
    preprocessing: Preprocessing
    labels: tuple[Label, ...]
    activation: Activation
    reference: Reference
    decisions: tuple[Decision, ...] = ()
    notes: tuple[str, ...] = ()  # on how the weights were read


def origin(options: Options, *, is_stated: bool) -> PreprocessingFrom:
    """Where the preprocessing came from."""
    if options.recipe.says_anything:
        return "options"
    return "checkpoint" if is_stated else "published recipe"


def choose_labels(
    classes: int, own: tuple[Label, ...] | None, options: Options
) -> tuple[tuple[Label, ...], LabelsFrom]:
    """The names of the classes and where they are from: the options, the checkpoint, ImageNet by count, or numbers.

    Raises:
        RequestError, CheckpointError: there are more or fewer names than classes.
    """
    if options.labels is not None:
        if len(options.labels) != classes:
            raise RequestError(f"--labels names {len(options.labels)} classes, the network has {classes}")
        return _writable(options.labels, "--labels"), "options"
    if own is not None:
        if len(own) != classes:
            raise CheckpointError(f"the configuration names {len(own)} classes, the network has {classes}")
        return _writable(own, "the configuration"), "checkpoint"
    if published := imagenet_labels(classes):
        return published, "published names"
    return tuple(Label(name=str(index), wnid=None) for index in range(classes)), "numbers"


def _writable(labels: tuple[Label, ...], who: str) -> tuple[Label, ...]:
    """Return the labels.

    Raises:
        RequestError: one holds half a character, as JSON can, which no file in UTF-8 holds.
    """
    for index, label in enumerate(labels):
        try:
            label.name.encode()
        except UnicodeEncodeError as error:
            raise RequestError(f"{who}: the name of class {index} holds half a character; write it again") from error
    return labels


def at_size(config: SwinConfig, options: Options) -> SwinConfig:
    """The network as it was trained, or with the input and window asked for.

    Version 2 then measures offsets in the windows it was trained with (there section 3.3).

    Raises:
        UnsupportedModel: position embedding or bias tables would be interpolated, and are not square.
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
    found: RawCheckpoint,
    trained: SwinConfig,
    config: SwinConfig,
    weights: Weights,
    *,
    recipe: Preprocessing | None,
    labels: tuple[Label, ...] | None,
    activation: Activation,
    reference: MakeReference,
    in_file: Callable[[str], str],
    options: Options,
    origins: Origins,
) -> Checkpoint:
    """The second half of every reader: what the checkpoint says, completed and overruled.

    Args:
        found: the weights and where they were.
        trained: the network as it was trained.
        config: the network asked for.
        weights: by the names of `swin.py`.
        recipe: the checkpoint's own preprocessing; None where it has none.
        labels: its own; None where it has none.
        activation: what its source does with the logits.
        reference: makes what the result is compared with.
        in_file: from a name of `swin.py` to the source's usual one.
        options: what the person at the terminal says.
        origins: where the reader found the size, the preprocessing and the labels.

    Raises:
        CheckpointError: weights or labels are not the network's.
        RequestError: the options do not fit it.
    """
    network = Swin(config)
    if config != trained:
        wanted = network.state_dict()
        weights = {name: resized(name, weight, wanted.get(name, weight)) for name, weight in weights.items()}
    load_weights(network, weights, lambda name: found.weights.in_file(in_file(name)), origins.shape)
    done = changed(recipe or published_recipe(found.kind, config), options.recipe, config.input_size)
    names, labels_from = choose_labels(config.num_classes, labels, options)
    source = Source(
        kind=found.kind,
        id=found.id,
        revision=found.revision,
        weights_sha256=digest_of(found.files),
        preprocessing_from=origin(options, is_stated=recipe is not None),
        labels_from=labels_from,
    )
    made = reference(network, done, config != trained)
    return Checkpoint(
        source,
        network,
        done,
        names,
        options.activation or activation,
        made,
        tuple(_decisions(source, config, done, names, options, origins)),
        (*found.weights.notes, *origins.notes),
    )


def _decisions(  # noqa: PLR0917 (by place)
    source: Source,
    config: SwinConfig,
    recipe: Preprocessing,
    labels: tuple[Label, ...],
    options: Options,
    origins: Origins,
) -> Iterator[Decision]:
    height, width = config.input_size
    size_from = "from --input-size" if options.input_size else "from --crop" if options.size else origins.size
    yield Decision("input size", f"{height}×{width}", size_from, "--input-size")
    sides = [str(h) if h == w else f"{h}×{w}" for h, w in config.window_sizes]
    windows = sides[0] if len(set(sides)) == 1 else ", ".join(sides)
    yield Decision("windows", windows, "from --window" if options.window else origins.windows, "--window")
    mean, std = (",".join(f"{channel:.4g}" for channel in channels) for channels in (recipe.mean, recipe.std))
    yield Decision(
        "preprocessing",
        f"{in_words(recipe)}, mean {mean}, std {std}",
        _recipe_from(source, options, origins),
        "--fit, --resize, --crop, --interpolation, --mean, --std",
    )
    first = "; ".join(label.name for label in labels[:3])
    shown = f"{len(labels)}: {first}{' …' if len(labels) > 3 else ''}"  # noqa: PLR2004 (as many as are shown)
    yield Decision("labels", shown, _labels_from(source, labels, origins), "--labels FILE")


def _recipe_from(source: Source, options: Options, origins: Origins) -> str:
    own = f"from {origins.recipe or 'the checkpoint'}"
    published = f"assumed: the checkpoint does not say it, {source.kind}'s published recipe does it so"
    if source.preprocessing_from == "options":
        rest = own if origins.recipe else published
        said = (f"--{item.name}" for item in fields(options.recipe) if getattr(options.recipe, item.name) is not None)
        return f"{', '.join(said)} from the options, the rest {rest}"
    return own if source.preprocessing_from == "checkpoint" else published


def _labels_from(source: Source, labels: tuple[Label, ...], origins: Origins) -> str:
    match source.labels_from:
        case "options":
            return "from --labels"
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
            return "from the checkpoint, where they are placeholders and no names"
        case _:
            return f"from {origins.labels or 'the checkpoint'}"


def load_weights(
    network: Swin,
    weights: Mapping[str, Tensor],
    in_file: Callable[[str], str] = str,
    asked_by: str = "the configuration",
) -> None:
    """Fill the network; every weight must be there, fit, and be used.

    Args:
        network: to fill.
        weights: by its names.
        in_file: from its names to those that the person at the terminal knows.
        asked_by: what the shapes of the network come from.

    Raises:
        CheckpointError: lists what is missing, left over or of another shape.
    """
    wanted = network.state_dict()
    complaints = [
        *(f"{in_file(name)} is missing" for name in wanted.keys() - weights.keys()),
        *(f"{in_file(name)} is unknown" for name in weights.keys() - wanted.keys()),
        *(
            f"{in_file(name)} has shape {_shape(weights[name])}, {asked_by} asks for {_shape(wanted[name])}"
            for name in wanted.keys() & weights.keys()
            if weights[name].shape != wanted[name].shape
        ),
    ]
    if complaints:
        first, rest = sorted(complaints)[:5], len(complaints) - 5
        raise CheckpointError(f"weights: {'; '.join(first)}{f'; and {rest} more' if rest > 0 else ''}")
    if broken := [name for name, weight in weights.items() if not weight.float().isfinite().all()]:
        raise CheckpointError(f"weights: {in_file(min(broken))} holds values that are not finite")
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    network.requires_grad_(requires_grad=False).eval()


def _shape(weight: Tensor) -> str:
    return "×".join(map(str, weight.shape)) or "of one number"


def resized(name: str, weight: Tensor, wanted: Tensor) -> Tensor:
    """A bias table (offsets, heads) or position embedding (1, positions, channels) for another window or input.

    Bicubic, as the authors' `load_pretrained` does when it fine-tunes at another resolution; tables and maps are taken
    to be square there, and are so here unless the new one is not. Any other weight is returned as it is.
    """
    if weight.shape == wanted.shape:
        return weight
    if name.endswith("relative_position_bias_table") and weight.ndim == wanted.ndim == 2:  # noqa: PLR2004 (offsets, heads)
        return _bicubic(weight.T[None], wanted.shape[0])[0].T
    if name.endswith(("absolute_pos_embed", "position_embeddings")) and weight.ndim == wanted.ndim:
        return _bicubic(weight.mT, wanted.shape[1]).mT
    return weight


def _bicubic(values: Tensor, length: int) -> Tensor:
    """(1, channels, side²) → (1, channels, length), where that is a square; unchanged otherwise."""
    old, new = round(values.shape[2] ** 0.5), round(length**0.5)
    if old**2 != values.shape[2] or new**2 != length:
        return values
    return F.interpolate(values.float().unflatten(2, (old, old)), (new, new), mode="bicubic").flatten(2)
