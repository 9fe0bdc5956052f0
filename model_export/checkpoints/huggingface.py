"""Hugging Face: a `save_pretrained` folder or the id of a repository on the hub.

Reads `config.json`, `model.safetensors` (or its shards) and `preprocessor_config.json` itself; the transformers library
is asked only for the reference of the proof. Where a file leaves a key out, the library's documented default holds.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from app.bundle import Activation, Label, Source, digest
from app.errors import sentence
from model_export.checkpoints.checkpoint import Checkpoint, load_weights
from model_export.errors import CheckpointError, UnsupportedModel
from model_export.preprocessing import from_huggingface
from model_export.swin import Swin, SwinConfig

FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")
"""Of the repository's top level: a training run's own checkpoints are in folders below."""

CLASSIFIERS = {"swin": "SwinForImageClassification", "swinv2": "Swinv2ForImageClassification"}
"""Model types, and the class of their image classifiers."""

MASKED_TWICE = -200.0
"""The library's version 2 adds the mask of shifted windows twice: with its steep temperatures, that can be seen."""

Count = Annotated[int, Field(gt=0)]


class Settings(BaseModel):
    """The part of `config.json` that decides; `SwinConfig`'s documented defaults for what it leaves out."""

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
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    use_absolute_embeddings: bool = False
    layer_norm_eps: float = 1e-5
    problem_type: str | None = None
    id2label: dict[str, str] | None = None
    num_labels: Count = 2
    pretrained_window_sizes: tuple[int, ...] | None = None


RENAMES = (
    (r"^swin(?:v2)?\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^swin(?:v2)?\.embeddings\.norm\.", "patch_embed.norm."),
    (r"^swin(?:v2)?\.embeddings\.position_embeddings$", "absolute_pos_embed"),
    (r"^swin(?:v2)?\.encoder\.layers\.", "layers."),
    (r"^swin(?:v2)?\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.self\.continuous_position_bias_mlp\.", ".attn.cpb_mlp."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
QKV = re.compile(r"(?P<layer>.*\.attn)\.(?P<part>query|key|value)\.(?P<kind>weight|bias)")
COMPUTED = re.compile(r"\.relative_(position_index|coords_table)$")
"""Buffers older versions saved; `swin.py` computes them."""


def read(folder: Path, source_id: str, revision: str | None) -> Checkpoint:
    """Read a folder with the files of a `SwinForImageClassification` or `Swinv2ForImageClassification`.

    Raises:
        CheckpointError: a file is missing, damaged, or contradicts another.
        UnsupportedModel: it is something else than a Swin image classifier.
    """
    settings = _settings(folder)
    labels = _labels(settings)
    preprocessing, input_size = from_huggingface(_json(folder / "preprocessor_config.json"))
    config = _config(settings, input_size, len(labels))
    files = _weight_files(folder)
    network = Swin(config)
    load_weights(network, dict(_renamed(_load(files))))
    return Checkpoint(
        source=Source(kind="huggingface", id=source_id, revision=revision, weights_sha256=_digest(files)),
        network=network,
        preprocessing=preprocessing,
        labels=labels,
        activation=_activation(settings, len(labels)),
        reference=TransformersReference(folder),
    )


def download(repository: str, revision: str | None) -> tuple[Path, str]:
    """Fetch a repository's files from the hub. Returns their folder and the commit.

    Raises:
        CheckpointError: there is no such repository, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"no folder '{repository}' here, and the hub did not give it: {sentence(error)}"
        ) from error
    return folder, folder.name  # the cache names a snapshot's folder by its commit


class TransformersReference:
    """The transformers library's own image processor and network, loaded when first asked."""

    def __init__(self, folder: Path) -> None:
        import transformers

        transformers.utils.logging.disable_progress_bar()  # the proof shows progress of its own
        self.name = f"transformers {transformers.__version__}"
        self._folder = folder

    def images(self, image: Image.Image) -> Tensor:
        """RGB image → normalised float32 (1, 3, height, width)."""
        pixel_values: Tensor = self._processor(images=image, return_tensors="pt")["pixel_values"]
        return pixel_values.float()

    def logits(self, images: Tensor) -> Tensor:
        """Normalised images → (batch, classes)."""
        with torch.inference_mode():
            logits: Tensor = self._network(pixel_values=images).logits
        return logits

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoImageProcessor

        # Pillow's resampling, not torchvision's: the two differ, and Swin checkpoints were made with Pillow's.
        return AutoImageProcessor.from_pretrained(self._folder, backend="pil")

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModelForImageClassification

        return AutoModelForImageClassification.from_pretrained(self._folder, dtype=torch.float32).eval()


def _settings(folder: Path) -> Settings:
    try:
        settings = Settings.model_validate_json(json.dumps(_json(folder / "config.json")))
    except ValidationError as error:
        raise CheckpointError(f"config.json: {sentence(error)}") from error
    if settings.model_type not in CLASSIFIERS:
        raise UnsupportedModel(f"config.json: model_type is {settings.model_type!r}, none of {sorted(CLASSIFIERS)}")
    if settings.architectures and CLASSIFIERS[settings.model_type] not in settings.architectures:
        raise UnsupportedModel(f"config.json: a {settings.architectures[0]} is not an image classifier")
    if settings.hidden_act != "gelu":
        raise UnsupportedModel(f"config.json: hidden_act is {settings.hidden_act!r}; only 'gelu' is exported")
    if settings.num_channels != 3:  # noqa: PLR2004 (red, green, blue)
        raise UnsupportedModel(f"config.json: num_channels is {settings.num_channels}; only RGB is exported")
    if settings.problem_type == "regression":
        raise UnsupportedModel("config.json: problem_type is 'regression'; only classifiers are exported")
    return settings


def _config(settings: Settings, input_size: tuple[int, int], num_classes: int) -> SwinConfig:
    image_size = _pair(settings.image_size)
    if settings.use_absolute_embeddings and image_size != input_size:
        raise CheckpointError(f"the position embedding is for {image_size} pixels, but images arrive with {input_size}")
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
        window_size=settings.window_size,
        mlp_ratio=settings.mlp_ratio,
        qkv_bias=settings.qkv_bias,
        ape=settings.use_absolute_embeddings,
        norm_eps=settings.layer_norm_eps,
        **(_of_version_2(settings, input_size) if settings.model_type == "swinv2" else {}),
    )


def _of_version_2(settings: Settings, input_size: tuple[int, int]) -> dict[str, Any]:
    if input_size[0] != input_size[1]:
        raise UnsupportedModel(f"Swin V2 on {input_size[0]}×{input_size[1]} pixels: the library takes square ones only")
    pretrained = settings.pretrained_window_sizes or (0,) * len(settings.depths)
    return {"version": 2, "pretrained_window_sizes": pretrained, "masked": MASKED_TWICE}


def _labels(settings: Settings) -> tuple[Label, ...]:
    names = settings.id2label or {str(index): f"LABEL_{index}" for index in range(settings.num_labels)}
    if not all(index.isdecimal() for index in names):
        raise CheckpointError("config.json: id2label does not map class numbers to names")
    by_index = {int(index): name for index, name in names.items()}
    if sorted(by_index) != list(range(len(names))):
        raise CheckpointError(f"config.json: id2label does not count from 0 to {len(names) - 1}")
    return tuple(Label(name=by_index[index], wnid=None) for index in range(len(names)))


def _activation(settings: Settings, num_classes: int) -> Activation:
    """What the library's own pipeline does with the logits."""
    is_multi_label = settings.problem_type == "multi_label_classification" or num_classes == 1
    return "sigmoid" if is_multi_label else "softmax"


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        places = _json(index).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise CheckpointError(f"{index.name}: weight_map does not map weights to files")
        names = {str(name) for name in places.values()}
        if strangers := [name for name in names if Path(name).name != name]:
            raise CheckpointError(f"{index.name}: {min(strangers)} is not the name of a file beside it")
    files = [folder / name for name in sorted(names)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f"there is no {missing[0]} in {folder}")
    return files


def _load(files: list[Path]) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            weights |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file.name} is damaged: {sentence(error)}") from error
    return weights


def _renamed(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names of the original code; query, key and value joined into one projection, as there."""
    apart: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, weight in weights.items():
        if COMPUTED.search(name):
            continue
        original = _original_name(name)
        if match := QKV.fullmatch(original):
            apart.setdefault((match["layer"], match["kind"]), {})[match["part"]] = weight
        else:
            yield original, weight
    for (layer, kind), parts in apart.items():
        if kind == "bias" and parts.keys() == {"query", "value"}:  # version 2: a key has none
            yield f"{layer}.q_bias", parts["query"]
            yield f"{layer}.v_bias", parts["value"]
            continue
        if absent := {"query", "key", "value"} - parts.keys():
            raise CheckpointError(f"weights: {layer} has no {' and no '.join(sorted(absent))} {kind}")
        yield f"{layer}.qkv.{kind}", torch.cat([parts["query"], parts["key"], parts["value"]])


def _original_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _digest(files: list[Path]) -> str:
    """SHA-256 of the weights: of the file, or of the shards' digests."""
    digests = [digest(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {sentence(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return content


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
