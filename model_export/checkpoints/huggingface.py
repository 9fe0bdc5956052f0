"""The reader of Hugging Face's checkpoints: a `save_pretrained` folder or a repository on the hub.

Reads `config.json`, the weights and `preprocessor_config.json` without the transformers library.
The library is only the reference of the proof. A key that a file lacks has the library's documented
default.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from app.bundle.manifest import Activation, Label, Preprocessing
from app.errors import sentence
from model_export.checkpoints.checkpoint import Checkpoint, Options, Origins, RawCheckpoint, assemble, resize_config
from model_export.checkpoints.files.folder import read_json, weight_files
from model_export.checkpoints.files.weights import Weights, read_files, unwrap
from model_export.checkpoints.imagenet import with_wnids
from model_export.checkpoints.preprocessing import HUGGINGFACE_KEYS, from_huggingface, parts_by_default
from model_export.checkpoints.reference import FallbackReference, Reference, library_reference, preprocess_to_tensor
from model_export.errors import CheckpointError, RequestError, UnsupportedModel
from model_export.network.swin import Swin, SwinConfig
from model_export.network.windows import Size, Windowing, by

# Model types, and the class of their image classifiers.
CLASSIFIERS = {"swin": "SwinForImageClassification", "swinv2": "Swinv2ForImageClassification"}
# The library's Swin V2 adds the mask of shifted windows, -100, twice. Swin V2 scales attention
# scores so much that -100 and -200 give different logits.
MASKED_TWICE = -200.0
LABELS_HINT = "give the names with --labels"

Count = Annotated[int, Field(gt=0)]


class Settings(BaseModel):
    """The keys of `config.json` that the export uses, with the library's defaults."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model_type: str
    architectures: list[str] | None = None
    image_size: Count | tuple[Count, Count] = 224
    patch_size: Count | tuple[Count, Count] = 4
    num_channels: Count = 3
    embed_dim: Count = 96
    depths: tuple[Count, ...] = (2, 2, 6, 2)
    num_heads: tuple[Count, ...] = (3, 6, 12, 24)
    window_size: Count = 7
    mlp_ratio: Annotated[float, Field(gt=0, lt=100)] = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    use_absolute_embeddings: bool = False
    layer_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    problem_type: str | None = None
    id2label: Any = None  # checked later, because --labels may replace it
    num_labels: Count = 2
    pretrained_window_sizes: tuple[int, ...] | None = None


# Patterns of transformers' names → names of swin.py. transformers 5 writes files with the names of
# transformers 4, and has other names for its modules.
RENAMES = (
    (r"^swin(?:v2)?\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^swin(?:v2)?\.embeddings\.norm\.", "patch_embed.norm."),
    (r"^swin(?:v2)?\.embeddings\.position_embeddings$", "absolute_pos_embed"),
    (r"^swin(?:v2)?\.encoder\.layers\.", "layers."),
    (r"^swin(?:v2)?\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(?:self\.)?continuous_position_bias_mlp\.", ".attn.cpb_mlp."),
    (r"\.attention\.relative_position_bias\.", ".attn."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.(?:self\.)?", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
OWN_NAMES = (  # patterns of swin.py's names, replacements for transformers 4, replacements for the modules of version 5
    (r"^patch_embed\.proj\.", *("embeddings.patch_embeddings.projection.",) * 2),
    (r"^patch_embed\.norm\.", *("embeddings.norm.",) * 2),
    (r"^absolute_pos_embed$", *("embeddings.position_embeddings",) * 2),
    (r"^layers\.", *("encoder.layers.",) * 2),
    (r"^norm\.", *("layernorm.",) * 2),
    (r"^head\.", *("classifier.",) * 2),
    (r"\.norm1\.", *(".layernorm_before.",) * 2),
    (r"\.norm2\.", *(".layernorm_after.",) * 2),
    (r"\.mlp\.fc1\.", ".intermediate.dense.", ".mlp.fc1."),
    (r"\.mlp\.fc2\.", ".output.dense.", ".mlp.fc2."),
    (r"\.attn\.proj\.", ".attention.output.dense.", ".attention.o_proj."),
    (r"\.attn\.qkv\.", ".attention.self.query.", ".attention.q_proj."),
    (r"\.attn\.q_bias$", *(".attention.self.query.bias",) * 2),
    (r"\.attn\.v_bias$", *(".attention.self.value.bias",) * 2),
    (r"\.attn\.cpb_mlp\.", *(".attention.self.continuous_position_bias_mlp.",) * 2),
    (r"\.attn\.relative_", ".attention.self.relative_", ".attention.relative_position_bias.relative_"),
    (r"\.attn\.", ".attention.self.", ".attention."),
)
QKV = re.compile(r"(?P<layer>.*\.attn)\.(?P<part>[qkv])(?:uery|ey|alue)?\.(?P<kind>weight|bias)")
PARTS = {"q": "query", "k": "key", "v": "value"}
# Buffers that older versions saved. `swin.py` computes them.
COMPUTED = re.compile(r"\.relative_(position_index|coords_table)$")


def read(folder: Path, source_id: str, revision: str | None, options: Options) -> Checkpoint:
    """Read the folder of a `SwinForImageClassification` or `Swinv2ForImageClassification`.

    Raises:
        CheckpointError: a file is missing, damaged, or contradicts another.
        UnsupportedModel: the network is not a Swin image classifier.
    """
    if options.architecture is not None:
        raise RequestError("--architecture is for bare state dicts; this folder's config.json has the architecture")
    settings = _settings(folder)
    own_labels = _labels(settings, options)
    own_recipe, trained_size, parts = _recipe(folder, _pair(settings.image_size), options)
    files = weight_files(folder)
    raw_weights = unwrap(read_files(files), options.weights)
    if raw_weights.kind != "huggingface":
        raise CheckpointError(
            f"{files[0].name} beside config.json has the weight names of another library, not Hugging Face's"
        )
    weights = dict(_renamed(raw_weights))
    head = weights.get("head.weight")
    classes = len(own_labels) if options.labels is None or head is None else len(head)
    trained = _config(settings, trained_size, classes)
    config = resize_config(trained, options)
    if config.version != 1 and _windows(trained) != _windows(replace(trained, input_size=_pair(settings.image_size))):
        raise UnsupportedModel(
            "config.json: Swin V2 has the windows of image_size; the preprocessor's size gives other windows"
        )
    if config.version != 1 and config.input_size[0] != config.input_size[1]:
        raise UnsupportedModel(
            f"Swin V2 on images of {by(config.input_size)} pixels: transformers supports square images only"
        )
    _check_width(config, weights)

    def reference(network: Swin, recipe: Preprocessing, is_resized: bool) -> Reference:  # noqa: FBT001 (by position)
        if is_resized:
            return FallbackReference(network, recipe, "transformers does not resize networks")
        is_own = own_recipe is not None and not options.recipe.has_changes

        def make(_: Any) -> Reference:
            return TransformersReference(folder, raw_weights, None if is_own else recipe)

        return library_reference("transformers", make, network, recipe)

    return assemble(
        RawCheckpoint("huggingface", source_id, revision, files, raw_weights),
        trained,
        config,
        weights,
        recipe=own_recipe,
        labels=own_labels,
        activation=_activation(settings, len(own_labels)),
        reference=reference,
        name_in_file=partial(_source_name, raw_weights),
        options=options,
        origins=Origins(
            network="config.json",
            size="config.json" if own_recipe is None else "preprocessor_config.json",
            windows="config.json",
            recipe="" if own_recipe is None else "preprocessor_config.json",
            parts=parts,
            labels="config.json",
        ),
    )


def _windows(config: SwinConfig) -> list[Windowing]:
    return [config.windowing(stage, 1) for stage in range(len(config.depths))]


def _check_width(config: SwinConfig, weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for a wrong width, before a network larger than memory is made."""
    first = weights.get("patch_embed.proj.weight")
    if first is not None and len(first) != config.embed_dim:
        raise CheckpointError(f"config.json asks for embed_dim {config.embed_dim}, the weights have {len(first)}")


def _recipe(folder: Path, image_size: Size, options: Options) -> tuple[Preprocessing | None, Size, Mapping[str, str]]:
    """Return the folder's own preprocessing, or None, the size of its output, and the origins of its defaults."""
    if not (folder / "preprocessor_config.json").exists():
        return None, image_size, {}
    declared = read_json(folder, "preprocessor_config.json")
    parts = parts_by_default(declared, HUGGINGFACE_KEYS, "transformers")
    return *from_huggingface(declared, image_size, options.recipe), parts


class TransformersReference:
    """The transformers library's network and image processor, loaded at the first use."""

    is_independent = True

    def __init__(self, folder: Path, weights: Weights, recipe: Preprocessing | None = None) -> None:
        """`weights` has the library's names; `recipe` replaces the folder's own image processor."""
        import transformers

        transformers.utils.logging.disable_progress_bar()  # the proof shows its own progress
        self.name = f"transformers {transformers.__version__}"
        self._folder, self._weights, self._recipe = folder, weights, recipe

    def images(self, image: Image.Image) -> Tensor:
        if self._recipe is not None:
            return preprocess_to_tensor(image, self._recipe)
        pixel_values: Tensor = self._processor(images=image, return_tensors="pt")["pixel_values"]
        return pixel_values.float()

    def logits(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self._network(pixel_values=images).logits
        return logits

    def embedding(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            embedding: Tensor = self._network.base_model(pixel_values=images).pooler_output
        return embedding

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoImageProcessor

        # Swin checkpoints were made with Pillow's resampling, which differs from torchvision's.
        return AutoImageProcessor.from_pretrained(self._folder, backend="pil")

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoConfig, AutoModelForImageClassification

        config = AutoConfig.from_pretrained(self._folder)
        empty = AutoModelForImageClassification.from_config(config)
        # The weights in the folder may have a prefix or another head. The library would fill these
        # with random numbers.
        network, loading = type(empty).from_pretrained(
            None, config=config, state_dict=dict(self._weights), dtype=torch.float32, output_loading_info=True
        )
        if loading["missing_keys"] or loading["mismatched_keys"]:
            raise ValueError("transformers would fill weights with random numbers")
        return network.eval()


def _settings(folder: Path) -> Settings:
    try:
        settings = Settings.model_validate_json(json.dumps(read_json(folder)))
    except ValidationError as error:
        raise CheckpointError(f"config.json: {sentence(error)}") from error
    if settings.model_type not in CLASSIFIERS:
        raise UnsupportedModel(
            f"config.json: model_type is '{settings.model_type}'; only {' and '.join(CLASSIFIERS)} are exported"
        )
    if settings.architectures and CLASSIFIERS[settings.model_type] not in settings.architectures:
        raise UnsupportedModel(f"config.json: a {settings.architectures[0]} is not an image classifier")
    if settings.hidden_act != "gelu":
        raise UnsupportedModel(f"config.json: hidden_act is '{settings.hidden_act}'; only 'gelu' is exported")
    if settings.num_channels != 3:  # noqa: PLR2004 (red, green, blue)
        raise UnsupportedModel(f"config.json: num_channels is {settings.num_channels}; only RGB is exported")
    if settings.problem_type == "regression":
        raise UnsupportedModel("config.json: problem_type is 'regression'; only classifiers are exported")
    return settings


def _config(settings: Settings, input_size: Size, num_classes: int) -> SwinConfig:
    image_size = _pair(settings.image_size)
    if settings.use_absolute_embeddings and image_size != input_size:
        raise CheckpointError(
            f"the position embedding is for {by(image_size)} pixels, but preprocessing ends with {by(input_size)}"
        )
    patch_height, patch_width = _pair(settings.patch_size)
    if patch_height != patch_width:
        raise UnsupportedModel(f"config.json: patches of {patch_height}×{patch_width} pixels are not square")
    return SwinConfig(
        input_size=input_size,
        num_classes=num_classes,
        patch_size=patch_height,
        embed_dim=settings.embed_dim,
        depths=settings.depths,
        num_heads=settings.num_heads,
        window_sizes=((settings.window_size, settings.window_size),) * len(settings.depths),
        mlp_ratio=settings.mlp_ratio,
        qkv_bias=settings.qkv_bias,
        ape=settings.use_absolute_embeddings,
        norm_eps=settings.layer_norm_eps,
        **(_version_2_fields(settings) if settings.model_type == "swinv2" else {}),
    )


def _version_2_fields(settings: Settings) -> dict[str, Any]:
    pretrained = settings.pretrained_window_sizes or (0,) * len(settings.depths)
    return {
        "version": 2,
        "pretrained_window_sizes": pretrained,
        "mask_value": MASKED_TWICE,
        "floor_grid_for_windows": True,
    }


def _labels(settings: Settings, options: Options) -> tuple[Label, ...]:
    if options.labels is not None:
        return options.labels
    if settings.id2label is not None and not isinstance(settings.id2label, dict):
        raise CheckpointError(f"config.json: id2label: Input should be an object from number to name; {LABELS_HINT}")
    names = settings.id2label or {str(index): f"LABEL_{index}" for index in range(settings.num_labels)}
    if "num_labels" in settings.model_fields_set and len(names) != settings.num_labels:
        raise CheckpointError(
            f"config.json: num_labels is {settings.num_labels}, id2label names {len(names)}; {LABELS_HINT}"
        )
    if not all(index.isdecimal() for index in names):
        raise CheckpointError(f"config.json: id2label does not map class numbers to names; {LABELS_HINT}")
    if strange := [name for name in names.values() if not isinstance(name, str | int) or isinstance(name, bool)]:
        raise CheckpointError(
            f"config.json: id2label: {json.dumps(strange[0])} is not the name of a class; {LABELS_HINT}"
        )
    by_index = {int(index): str(name) for index, name in names.items()}
    if sorted(by_index) != list(range(len(names))):
        raise CheckpointError(f"config.json: id2label does not count from 0 to {len(names) - 1}; {LABELS_HINT}")
    return with_wnids([Label(name=by_index[index], wnid=None) for index in range(len(names))])


def _activation(settings: Settings, num_classes: int) -> Activation:
    """Return the function that the library's own pipeline applies to the logits."""
    is_multi_label = settings.problem_type == "multi_label_classification" or num_classes == 1
    return "sigmoid" if is_multi_label else "softmax"


def _renamed(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights by the names of `swin.py`, with query, key and value joined."""
    separate: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, weight in weights.items():
        if COMPUTED.search(name):
            continue
        original = _original_name(name)
        if match := QKV.fullmatch(original):
            separate.setdefault((match["layer"], match["kind"]), {})[match["part"]] = weight
        else:
            yield original, weight
    for (layer, kind), parts in separate.items():
        if kind == "bias" and parts.keys() == {"q", "v"}:  # in Swin V2 the key has no bias
            yield f"{layer}.q_bias", parts["q"]
            yield f"{layer}.v_bias", parts["v"]
            continue
        if missing := PARTS.keys() - parts.keys():
            names = " and no ".join(sorted(PARTS[part] for part in missing))
            raise CheckpointError(f"weights: {layer} has no {names} {kind}")  # `layer` is the name of swin.py
        yield f"{layer}.qkv.{kind}", torch.cat([parts[part] for part in PARTS])


def _original_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _source_name(weights: Weights, name: str) -> str:
    """Return the name of a weight of `swin.py` in the library's version of the file."""
    model = "swinv2." if any(own.startswith("swinv2.") for own in weights) else "swin."
    is_new = any(".q_proj." in own for own in weights)
    for own, old, new in OWN_NAMES:
        name = re.sub(own, new if is_new else old, name)
    return name if name.startswith("classifier.") else model + name


def _pair(value: int | Size) -> Size:
    return (value, value) if isinstance(value, int) else value
