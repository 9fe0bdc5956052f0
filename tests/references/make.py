"""The writer of the reference files: `python -m tests.references.make`. It needs timm and torchvision.

A wheel of torchvision is built for one build of torch. Beside another build, for example for CPUs, its import fails
when it registers operators that its library does not contain. The references do not need these operators, so their
registration is skipped.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model_export.checkpoints.variants import TORCHVISION as PUBLISHED
from model_export.checkpoints.variants import VARIANTS
from tests.references import cases
from tests.references.draw import draw, draw_picture, draw_pixels

HERE = Path(__file__).parent
COMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask")


def skip_torchvision_operators() -> None:
    """Skip the registration of torchvision operators, until the process ends."""
    register: Any = torch.library.register_fake

    def register_others(name: Any, *arguments: Any, **options: Any) -> Any:
        if str(name).startswith("torchvision::"):
            return lambda function: function
        return register(name, *arguments, **options)

    torch.library.register_fake = register_others


def run(network: nn.Module, size: tuple[int, int]) -> tuple[dict[str, Any], Any, Any]:
    """Return the shapes of the weights by name, and the logits and embeddings of two images.

    The embeddings are the input of the last linear layer, which is the head in both libraries.
    """
    state = network.state_dict()
    for name, value in state.items():
        if not name.endswith(COMPUTED):
            value.copy_(torch.from_numpy(draw(name, tuple(value.shape))))
    network.eval()
    pixels = torch.from_numpy(draw_pixels(2, *size)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    *_, head = (module for module in network.modules() if isinstance(module, nn.Linear))
    embeddings = list[Any]()
    head.register_forward_pre_hook(lambda _, arguments: embeddings.extend(arguments))
    with torch.inference_mode():
        logits = network((pixels - mean) / std)
    return {name: list(value.shape) for name, value in state.items()}, logits.numpy(), embeddings[0].numpy()


class References:
    """The content of a reference file: arrays by name, and a JSON text with versions and shapes."""

    def __init__(self, **versions: str) -> None:
        self.meta: dict[str, Any] = {"versions": versions, "shapes": {}}
        self.arrays: dict[str, Any] = {}

    def network(self, name: str, network: nn.Module, size: tuple[int, int], *, embedding: bool = False) -> None:
        """Run a network, and store its shapes, its logits and optionally its embeddings."""
        print(name, file=sys.stderr)  # noqa: T201 (progress, because this takes minutes)
        self.meta["shapes"][name], self.arrays[name], embeddings = run(network, size)
        if embedding:
            self.arrays[f"{name} embedding"] = embeddings

    def transform(self, name: str, transform: Callable[[Any], Any]) -> None:
        """Store the pixels of the reference images after a transform without normalization."""
        for place, size in enumerate(cases.PICTURES):
            image = transform(draw_picture(*size))
            self.arrays[f"{name} {place}"] = np.asarray((image * 255).round().to(torch.uint8).permute(1, 2, 0))

    def pipeline(self, network: nn.Module, size: tuple[int, int], transform: Callable[[Any], Any]) -> None:
        """Store the scores of a network for the reference images."""
        self.network("pipeline", network, size)
        images = torch.stack([transform(draw_picture(*shape)) for shape in cases.PICTURES])
        with torch.inference_mode():
            self.arrays["pipeline scores"] = network(images).softmax(dim=1).numpy()

    def save(self, name: str) -> None:
        """Write the file."""
        meta = np.frombuffer(json.dumps(self.meta).encode(), np.uint8)
        np.savez_compressed(HERE / f"{name}.npz", meta=meta, **self.arrays)


def write_timm() -> None:
    """Write `timm.npz`."""
    import timm
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    found = References(timm=timm.__version__, torch=torch.__version__)
    for name, case in cases.TIMM.items():
        arguments = cases.SMALL | {key: value for key, value in case.items() if key != "version"}
        network = SwinTransformerV2 if case.get("version") == 2 else SwinTransformer
        found.network(name, network(**arguments), tuple(case["img_size"]), embedding=True)
    for name, variant in VARIANTS.items():
        found.network(name, timm.create_model(name), (variant.side, variant.side))
    for name, case in cases.TRANSFORMS.items():
        found.transform(name, timm.data.create_transform(**case, mean=(0, 0, 0), std=(1, 1, 1)))
    transform = timm.data.create_transform(**cases.TIMM_RECIPE)
    found.pipeline(SwinTransformer(**(cases.SMALL | cases.TIMM_PIPELINE)), (64, 64), transform)
    found.save("timm")


def write_torchvision() -> None:
    """Write `torchvision.npz`."""
    import torchvision
    from torchvision.models import swin_transformer as parts

    def make(case: dict[str, Any]) -> nn.Module:
        arguments = cases.SMALL | {key: value for key, value in case.items() if key not in {"version", "img_size"}}
        arguments |= {"patch_size": [4, 4], "window_size": [arguments["window_size"]] * 2}
        if case.get("version") == 2:
            arguments |= {"block": parts.SwinTransformerBlockV2, "downsample_layer": parts.PatchMergingV2}
        network: nn.Module = parts.SwinTransformer(**arguments)
        return network

    def preset(case: dict[str, Any], **options: Any) -> Callable[[Any], Any]:
        mode = torchvision.transforms.InterpolationMode(case["interpolation"])
        presets = torchvision.transforms._presets  # noqa: SLF001 (the weights of torchvision refer to these)
        made: Callable[[Any], Any] = presets.ImageClassification(**(case | {"interpolation": mode} | options))
        return made

    found = References(torchvision=torchvision.__version__, torch=torch.__version__)
    for name, case in cases.TORCHVISION.items():
        found.network(name, make(case), tuple(case["img_size"]), embedding=True)
    for name, (variant, _) in PUBLISHED.items():
        side = VARIANTS[variant].side
        found.network(name, torchvision.models.get_model(name), (side, side))
    for name, case in cases.PRESETS.items():
        found.transform(name, preset(case, mean=(0, 0, 0), std=(1, 1, 1)))
    found.pipeline(make(cases.TORCHVISION_PIPELINE), (64, 64), preset(cases.TORCHVISION_RECIPE))
    found.save("torchvision")


if __name__ == "__main__":
    skip_torchvision_operators()
    write_torchvision()
    write_timm()
