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
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from app.bundle import Label, Source, digest
from app.ranking import Activation
from model_export.checkpoints.checkpoint import Checkpoint, load_weights
from model_export.errors import CheckpointError, UnsupportedModel
from model_export.preprocessing import from_huggingface
from model_export.swin import Swin, SwinConfig

FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "model.safetensors.index.json")

RENAMES = (
    (r"^swin\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^swin\.embeddings\.norm\.", "patch_embed.norm."),
    (r"^swin\.embeddings\.position_embeddings$", "absolute_pos_embed"),
    (r"^swin\.encoder\.layers\.", "layers."),
    (r"^swin\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
QKV = re.compile(r"(?P<layer>.*\.attn)\.(?P<part>query|key|value)\.(?P<kind>weight|bias)")
COMPUTED = re.compile(r"\.relative_position_index$")
"""Buffers older versions saved; `swin.py` computes them."""


def read(folder: Path, source_id: str, revision: str | None) -> Checkpoint:
    """Read a folder with the files of a `SwinForImageClassification`.

    Raises:
        CheckpointError: a file is missing, damaged, or contradicts another.
        UnsupportedModel: it is something else than a Swin (v1) image classifier.
    """
    settings = _json(folder / "config.json")
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
        activation=_activation(settings),
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
            f"no folder '{repository}' here, and the hub did not give it: {_sentence(error)}"
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
        from transformers import SwinForImageClassification

        return SwinForImageClassification.from_pretrained(self._folder, dtype=torch.float32).eval()


def _config(settings: Mapping[str, Any], input_size: tuple[int, int], num_classes: int) -> SwinConfig:
    kind = settings.get("model_type")
    if kind != "swin":
        raise UnsupportedModel(f"config.json: model_type is {kind!r}; only 'swin' is exported")
    if "SwinForImageClassification" not in (heads := settings.get("architectures") or ["SwinForImageClassification"]):
        raise UnsupportedModel(f"config.json: the checkpoint is a {heads[0]}, not an image classifier")
    for key, wanted in (("hidden_act", "gelu"), ("num_channels", 3)):
        if (value := settings.get(key, wanted)) != wanted:
            raise UnsupportedModel(f"config.json: {key} is {value!r}; only {wanted!r} is exported")
    ape = bool(settings.get("use_absolute_embeddings", False))
    image_size = _pair(settings.get("image_size", 224))
    if ape and image_size != input_size:
        raise CheckpointError(f"the position embedding is for {image_size} pixels, but images arrive with {input_size}")
    patch_height, patch_width = _pair(settings.get("patch_size", 4))
    if patch_height != patch_width:
        raise UnsupportedModel(f"config.json: patches of {patch_height}×{patch_width} pixels are not square")
    return SwinConfig(
        input_size=input_size,
        num_classes=num_classes,
        patch_size=patch_height,
        embed_dim=settings.get("embed_dim", 96),
        depths=tuple(settings.get("depths", (2, 2, 6, 2))),
        num_heads=tuple(settings.get("num_heads", (3, 6, 12, 24))),
        window_size=settings.get("window_size", 7),
        mlp_ratio=settings.get("mlp_ratio", 4.0),
        qkv_bias=settings.get("qkv_bias", True),
        ape=ape,
        norm_eps=settings.get("layer_norm_eps", 1e-5),
    )


def _labels(settings: Mapping[str, Any]) -> tuple[Label, ...]:
    names = settings.get("id2label")
    if names is None:
        names = {str(index): f"LABEL_{index}" for index in range(settings.get("num_labels", 2))}
    try:
        by_index = {int(index): str(name) for index, name in names.items()}
    except (AttributeError, ValueError) as error:
        raise CheckpointError("config.json: id2label does not map class numbers to names") from error
    if sorted(by_index) != list(range(len(by_index))):
        raise CheckpointError(f"config.json: id2label does not count from 0 to {len(by_index) - 1}")
    return tuple(Label(name=by_index[index], wnid=None) for index in range(len(by_index)))


def _activation(settings: Mapping[str, Any]) -> Activation:
    """What the library's own pipeline does with the logits."""
    problem = settings.get("problem_type")
    if problem == "regression":
        raise UnsupportedModel("config.json: problem_type is 'regression'; only classifiers are exported")
    return "sigmoid" if problem == "multi_label_classification" or len(_labels(settings)) == 1 else "softmax"


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    names = set(_json(index).get("weight_map", {}).values()) if index.is_file() else {"model.safetensors"}
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
            raise CheckpointError(f"{file.name} is damaged: {_sentence(error)}") from error
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
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {_sentence(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return content


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
