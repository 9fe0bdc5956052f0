"""The Swin Transformer classifier as published. Knows no files and no ONNX.

`static.py` is verified against this network. Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer
using Shifted Windows", 2021, section 3. `swin_v2.py` contains the attention of version 2.

- Parameter names are those of the original code (`layers.0.blocks.0.attn.qkv.weight`). The readers in `checkpoints/`
  map the names of every other source to these names.
- Feature maps are `(batch, height, width, channels)`. Sizes come from the tensor.
- Inference only: no dropout, no stochastic depth, no initialization scheme.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_export.errors import UnsupportedModel
from model_export.network.swin_v2 import CosineAttention
from model_export.network.windows import Size, Windowing, in_windows, pad_to_windows, relative_position_index

# The code base that defines the treatment of maps that the windows do not divide. `SwinConfig.windowing` describes the
# differences.
WindowConvention = Literal["original", "timm", "torchvision"]


@dataclass(frozen=True)
class SwinConfig:
    """The hyperparameters of the network. Sizes are `(height, width)`; the input size is in pixels.

    Raises:
        UnsupportedModel: the numbers contradict each other, or the original code cannot run them.
    """

    input_size: tuple[int, int]
    num_classes: int
    patch_size: int = 4
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_sizes: tuple[Size, ...] = ((7, 7),) * 4  # per stage
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    patch_norm: bool = True
    ape: bool = False  # absolute position embedding
    norm_eps: float = 1e-5  # for the blocks and the last norm; patch embedding and merging always use 1e-5
    version: Literal[1, 2] = 1
    pretrained_window_sizes: tuple[int, ...] = ()  # version 2, per stage; 0: pretrained with `window_sizes`
    mask_value: float = -100.0  # see `Windowing`; the published weights were trained with -100, not with -inf
    window_convention: WindowConvention = "original"
    floor_grid_for_windows: bool = False  # transformers' V2: choose windows as if merging rounded odd sides down

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.num_heads):
            raise UnsupportedModel(f"{len(self.depths)} depths but {len(self.num_heads)} head counts")
        if len(self.depths) != len(self.window_sizes):
            raise UnsupportedModel(f"{len(self.depths)} depths but {len(self.window_sizes)} window sizes")
        windows = (side for window in self.window_sizes for side in window)
        if min(*self.depths, *self.num_heads, *windows, *self.input_size, self.num_classes, self.patch_size) < 1:
            raise UnsupportedModel("depths, heads, classes, windows, patch and input size must all be at least 1")
        for stage, heads in enumerate(self.num_heads):
            if self.stage_dim(stage) % heads:
                raise UnsupportedModel(
                    f"stage {stage}: {self.stage_dim(stage)} channels do not divide by {heads} heads"
                )
        if self.version != 1 and len(self.pretrained_window_sizes) < len(self.depths):
            raise UnsupportedModel(f"{len(self.depths)} stages, {len(self.pretrained_window_sizes)} pretrained windows")
        if any(side % self.patch_size for side in self.input_size):
            height, width = self.input_size
            raise UnsupportedModel(f"input {height}×{width} is not a multiple of the patch size {self.patch_size}")

    @property
    def post_norm(self) -> bool:
        """True if each norm follows its layer, as in version 2; false if it precedes the layer."""
        return self.version != 1

    def stage_dim(self, stage: int) -> int:
        """Return the channels of a stage. Each merging doubles them."""
        return self.embed_dim << stage

    def stage_grid(self, stage: int) -> tuple[int, int]:
        """Return the feature map `(height, width)` of a stage. Merging rounds odd sides up."""
        height, width = (side // self.patch_size for side in self.input_size)
        for _ in range(stage):
            height, width = -(-height // 2), -(-width // 2)
        return height, width

    def _grid_for_windows(self, stage: int) -> Size:
        if not self.floor_grid_for_windows:
            return self.stage_grid(stage)
        height, width = self.stage_grid(0)
        return height >> stage, width >> stage

    def windowing(self, stage: int, block: int) -> Windowing:
        """Return the window partition of a block.

        Every second block shifts its windows by half a window. If the window is larger than the map:

        - The original code uses a square window as large as the shorter side, and does not shift.
        - timm reduces each side of the window separately, and does not shift along a reduced side. It rolls before it
          pads.
        - torchvision keeps the window and pads the map. It does not shift along a side that one window covers.
        """
        (high, wide), (rows, columns) = size, grid = self.window_sizes[stage], self._grid_for_windows(stage)
        shift = high // 2 if rows > high else 0, wide // 2 if columns > wide else 0
        if self.window_convention == "timm":
            size = min(high, rows), min(wide, columns)
        elif self.window_convention == "original" and min(grid) <= min(size):
            side = min(*size, *grid)
            size, shift = (side, side), (0, 0)
        is_shifted = block % 2 == 1
        return Windowing(
            size,
            shift if is_shifted else (0, 0),
            self.mask_value,
            roll_before_padding=self.window_convention == "timm",
        )


class Swin(nn.Module):
    """The classifier: normalized images `(batch, 3, height, width)` → logits `(batch, classes)`."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        if config.ape:
            height, width = config.stage_grid(0)
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, height * width, config.embed_dim))
        self.layers = nn.ModuleList(Stage(config, stage) for stage in range(len(config.depths)))
        last_dim = config.stage_dim(len(config.depths) - 1)
        self.norm = nn.LayerNorm(last_dim, eps=config.norm_eps)
        self.head = nn.Linear(last_dim, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.embedding(images))

    def embedding(self, images: Tensor) -> Tensor:
        """Return the vectors that the head is applied to: `(batch, channels)`."""
        x = self.patch_embed(images)  # batch, height/4, width/4, channels
        if self.config.ape:
            x = x + self.absolute_pos_embed.view(1, *x.shape[1:])
        for stage in self.layers:
            x = stage(x)  # batch, height/2, width/2, 2·channels
        return self.norm(x).mean(dim=(1, 2))


class PatchEmbed(nn.Module):
    """The projection of non-overlapping patches to `embed_dim` channels."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.embed_dim, config.patch_size, stride=config.patch_size)
        self.norm = nn.LayerNorm(config.embed_dim) if config.patch_norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """The blocks at one resolution, then the merging to the next resolution."""

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, stage, block) for block in range(config.depths[stage]))
        is_last = stage == len(config.depths) - 1
        self.downsample = None if is_last else PatchMerging(config.stage_dim(stage), post_norm=config.post_norm)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class Block(nn.Module):
    """Window attention and MLP, each with a norm and a residual connection (equation 3).

    The norm precedes the layer in version 1 and follows it in version 2 (section 3.2 there, residual post norm).
    """

    def __init__(self, config: SwinConfig, stage: int, block: int) -> None:
        super().__init__()
        dim = config.stage_dim(stage)
        self.post_norm = config.post_norm
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn = make_attention(config, stage, block)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        if self.post_norm:
            x = x + self.norm1(self.attn(x))
            return x + self.norm2(self.mlp(x))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def make_attention(config: SwinConfig, stage: int, block: int) -> "WindowAttention | CosineAttention":
    """Return the attention of a block, of the version in `config`."""
    dim, heads = config.stage_dim(stage), config.num_heads[stage]
    windowing = config.windowing(stage, block)
    if config.version == 1:
        return WindowAttention(dim, heads, windowing, qkv_bias=config.qkv_bias)
    pretrained = config.pretrained_window_sizes[stage]
    return CosineAttention(dim, heads, windowing, pretrained=pretrained, qkv_bias=config.qkv_bias)


class Mlp(nn.Module):
    """Two linear layers with the exact GELU (with erf) between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class WindowAttention(nn.Module):
    """Multi-head self-attention inside the windows of a possibly shifted map (W-MSA, SW-MSA; equation 4)."""

    def __init__(self, dim: int, heads: int, windowing: Windowing, *, qkv_bias: bool) -> None:
        super().__init__()
        self.heads, self.windowing = heads, windowing
        self.scale = (dim // heads) ** -0.5
        height, width = windowing.size
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * height - 1) * (2 * width - 1), heads))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def position_bias(self) -> Tensor:
        """Return the position bias that is added to the scores: `(heads, area, area)`."""
        return self.relative_position_bias_table[relative_position_index(self.windowing.size)].permute(2, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return in_windows(x, self.windowing, self.attend)

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # batch, windows, area, 3, heads, dim
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each batch, windows, heads, area, dim
        scores = (q * self.scale) @ k.mT + self.position_bias() + mask[:, None]  # batch, windows, heads, area, area
        x = (scores.softmax(dim=-1) @ v).transpose(2, 3).flatten(3)  # batch, windows, area, channels
        return self.proj(x)


class PatchMerging(nn.Module):
    """The merging of 2×2 neighbors, column by column: half the sides, twice the channels. Odd sides are padded."""

    def __init__(self, dim: int, *, post_norm: bool) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm = nn.LayerNorm(2 * dim if post_norm else 4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_windows(x, (2, 2))
        neighbors = (x[:, row::2, column::2] for column in (0, 1) for row in (0, 1))
        x = torch.cat(list(neighbors), dim=-1)  # batch, height/2, width/2, 4·channels
        return self.norm(self.reduction(x)) if self.post_norm else self.reduction(self.norm(x))
