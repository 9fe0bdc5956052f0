"""Source libraries of other releases: modules that fail where such a release fails."""

import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def failing_timm(version: str) -> types.ModuleType:
    """Return a timm with classes of other arguments, such as 0.4.12 and 0.6.13."""

    def refuse(*_: Any, **__: Any) -> None:
        raise TypeError("'<=' not supported between instances of 'int' and 'tuple'")

    models = types.SimpleNamespace(
        swin_transformer=types.SimpleNamespace(SwinTransformer=refuse),
        swin_transformer_v2=types.SimpleNamespace(SwinTransformerV2=refuse),
    )
    return module("timm", version, models=models, create_model=refuse)


def wrong_timm(version: str) -> types.ModuleType:
    """Return a timm with a network that loads all weights and computes something else."""

    class Network(nn.Module):
        def __init__(self, num_classes: int, embed_dim: int, depths: Sequence[int], **_: Any) -> None:
            super().__init__()
            self.channels = embed_dim << (len(depths) - 1)
            self.head = nn.Linear(self.channels, num_classes)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.forward_head(self.forward_features(images))

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((1, 2, 3))[:, None].expand(-1, self.channels)

        def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
            return features if pre_logits else self.head(features)

        def load_state_dict(self, *_: Any, **__: Any) -> Any:
            return None

    parts = types.SimpleNamespace(
        SwinTransformer=Network, SwinTransformerV2=Network, checkpoint_filter_fn=lambda weights, _: weights
    )
    other = types.SimpleNamespace(SwinTransformerV2=type("Other", (), {}), checkpoint_filter_fn=None)
    models = types.SimpleNamespace(swin_transformer=parts, swin_transformer_v2=other)
    return module("timm", version, models=models, create_model=lambda _, **arguments: Network(**arguments))


def failing_torchvision(version: str) -> types.ModuleType:
    """Return a torchvision without a Swin."""
    return module("torchvision", version, models=types.SimpleNamespace(), transforms=types.SimpleNamespace())


def module(name: str, version: str, **attributes: Any) -> types.ModuleType:
    """Return a module with this name and version."""
    made = types.ModuleType(name)
    made.__dict__.update(attributes, __version__=version)
    return made
