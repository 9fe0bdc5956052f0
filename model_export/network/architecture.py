"""A network → what the manifest says of its architecture. Knows no weights' names."""

from app.bundle.manifest import Architecture, LastMap
from model_export.network.swin import Swin, SwinConfig


def architecture_of(network: Swin) -> Architecture:
    """The network, as the manifest has it."""
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
        parameters=parameters_of(network),
    )


def last_map(config: SwinConfig) -> LastMap:
    """The map whose tokens the head averages."""
    last = len(config.depths) - 1
    height, width = config.stage_grid(last)
    return LastMap(height=height, width=width, channels=config.stage_dim(last), stride=config.patch_size << last)


def parameters_of(network: Swin) -> int:
    """Numbers that were trained."""
    return sum(parameter.numel() for parameter in network.parameters())
