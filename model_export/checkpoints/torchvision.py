"""The reader of torchvision's state dicts: `swin_t`, `swin_s`, `swin_b` and `swin_v2_*`."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from app.bundle.manifest import Preprocessing, ShorterSide
from model_export.checkpoints import state_dict, swin_weights
from model_export.checkpoints.checkpoint import Checkpoint, Options, RawCheckpoint
from model_export.checkpoints.files.weights import Weights
from model_export.checkpoints.reference import FallbackReference, Reference, library_reference, preprocess_to_tensor
from model_export.checkpoints.training.types import NO_TRAINING, Training
from model_export.network.swin import Swin, SwinConfig

RENAMES = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)
PLACE = re.compile(r"^features\.(?P<place>\d+)\.(?:(?P<block>\d+)\.)?(?P<rest>.+)$")
JOINT_BIAS = re.compile(r"(?P<layer>.*\.attn)\.qkv\.bias$")


def read(
    raw: RawCheckpoint, options: Options, training: Training = NO_TRAINING, content: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Read a state dict of torchvision.

    Raises:
        CheckpointError: the weights are not a Swin's, or leave a value open.
    """

    def reference(network: Swin, recipe: Preprocessing, _: bool) -> Reference:  # noqa: FBT001 (by position)
        if options.window:
            return FallbackReference(network, recipe, "torchvision does not resize windows")

        def make(torchvision: Any) -> Reference:
            return TorchvisionReference(torchvision, raw.weights, network.config, recipe)

        return library_reference("torchvision", make, network, recipe)

    return state_dict.read(
        raw,
        window_convention="torchvision",
        rename=renamed,
        name_in_file=_source_name,
        reference=reference,
        training=training,
        content=content,
        options=options,
    )


def renamed(weights: Weights) -> Weights:
    """Return the weights by the names of `swin.py`."""
    own = state_dict.renamed(weights, _original_name)
    for name in list(own):
        layer = (match := JOINT_BIAS.match(name)) and match["layer"]
        # Swin V2 has no bias for the key: torchvision sets that part of the joint bias to zero.
        if layer and f"{layer}.logit_scale" in own:
            own[f"{layer}.q_bias"], _, own[f"{layer}.v_bias"] = own.pop(name).chunk(3)
    return own


def _original_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    place = PLACE.match(name)
    if place is None:
        return name
    stage, is_merging = divmod(int(place["place"]) - 1, 2)  # after the patches, blocks and merging alternate
    if is_merging:
        return f"layers.{stage}.downsample.{place['rest']}"
    return f"layers.{stage}.blocks.{place['block']}.{place['rest']}"


def _source_name(name: str) -> str:
    """Return torchvision's name of a weight of `swin.py`."""
    place = re.match(r"layers\.(?P<stage>\d+)\.(?P<part>blocks\.\d+|downsample)\.(?P<rest>.+)", name)
    if place:
        position = 2 * int(place["stage"]) + 1 + (place["part"] == "downsample")
        part = place["part"].removeprefix("blocks.").removeprefix("downsample")
        name = ".".join(filter(None, ["features", str(position), part, place["rest"]]))
    for inner, own in ((".mlp.fc1.", ".mlp.0."), (".mlp.fc2.", ".mlp.3."), (".q_bias", ".qkv.bias")):
        name = name.replace(inner, own)
    return name.replace("patch_embed.proj.", "features.0.0.").replace("patch_embed.norm.", "features.0.2.")


class TorchvisionReference:
    """torchvision's network and transforms."""

    is_independent = True

    def __init__(self, torchvision: Any, weights: Weights, config: SwinConfig, recipe: Preprocessing) -> None:
        self.name = f"torchvision {torchvision.__version__}"
        self._recipe, self._transform = recipe, _transform(torchvision, recipe)
        module = torchvision.models.swin_transformer
        version_2 = {"block": module.SwinTransformerBlockV2, "downsample_layer": module.PatchMergingV2}
        self._network = module.SwinTransformer(
            patch_size=[config.patch_size] * 2,
            embed_dim=config.embed_dim,
            depths=list(config.depths),
            num_heads=list(config.num_heads),
            window_size=list(config.window_sizes[0]),
            mlp_ratio=config.mlp_ratio,
            num_classes=config.num_classes,
            **(version_2 if config.version == 2 else {}),  # noqa: PLR2004 (Swin V2)
        )
        own = {name: weight for name, weight in weights.items() if not name.endswith(swin_weights.COMPUTED)}
        self._network.load_state_dict(self._network.state_dict() | own)
        self._network.float().eval()

    def images(self, image: Image.Image) -> Tensor:
        images: Tensor = (
            preprocess_to_tensor(image, self._recipe) if self._transform is None else self._transform(image)[None]
        )
        return images

    def logits(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self._network(images)
        return logits

    def embedding(self, images: Tensor) -> Tensor:
        network = self._network
        with torch.inference_mode():
            last_map = network.permute(network.norm(network.features(images)))  # batch, channels, height, width
            embedding: Tensor = network.flatten(network.avgpool(last_map))
        return embedding


def _transform(torchvision: Any, recipe: Preprocessing) -> Any:
    """Return torchvision's own transforms; None if they cannot express the preprocessing."""
    resize, crop = recipe.resize, recipe.crop
    if not isinstance(resize, ShorterSide) or crop is None or crop.height != crop.width:
        return None
    return torchvision.transforms._presets.ImageClassification(  # noqa: SLF001 (the class that torchvision's weights use)
        crop_size=crop.height,
        resize_size=resize.size,
        mean=recipe.mean,
        std=recipe.std,
        interpolation=torchvision.transforms.InterpolationMode(recipe.interpolation),
    )
