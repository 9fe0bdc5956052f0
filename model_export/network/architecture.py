"""The architecture of a network as the manifest stores it. Knows no names of weights."""

from app.bundle.manifest import Architecture, LastMap
from model_export.network.swin import Swin, SwinConfig


def architecture_of(network: Swin) -> Architecture:
    """Describe the network for the manifest."""
    config = network.config
    return Architecture(
        family="swin" if config.version == 1 else "swin_v2",
        patch_size=config.patch_size,
        embed_dim=config.embed_dim,
        depths=config.depths,
        num_heads=config.num_heads,
        window_sizes=config.window_sizes,
        dialect=config.window_convention,
        mlp_ratio=float(config.mlp_ratio),
        qkv_bias=config.qkv_bias,
        patch_norm=config.patch_norm,
        absolute_position_embedding=config.ape,
        norm_eps=config.norm_eps,
        parameters=parameter_count(network),
    )


def last_map(config: SwinConfig) -> LastMap:
    """Describe the last feature map. The head averages its tokens."""
    last = len(config.depths) - 1
    height, width = config.stage_grid(last)
    return LastMap(height=height, width=width, channels=config.stage_dim(last), stride=config.patch_size << last)


def parameter_count(network: Swin) -> int:
    """Count the trained numbers of the network."""
    return sum(parameter.numel() for parameter in network.parameters())
