"""The same network with everything that does not depend on pixels baked into constants.

What `swin.py` computes for every image, this file computes once:

- shift mask + relative position bias → one constant per block, (windows or 1, heads, area, area);
- roll and window partition → one gather. The residual stream stays in *window order*: norm and MLP work position by
  position and do not care, so the way from one block's windows to the next block's is a single index vector;
- patch merging's 2×2 neighbourhood → a gather from the last block's window order;
- query scale → the qkv weights; version 2's network for the position bias → the same constant as the bias itself;
- normalisation → the patch projection, so the input is the bytes themselves.

A *position* is a place on the feature map, counted in raster order. A *slot* is a place in the residual stream. An
*order* is the vector that says which position each slot holds; slots that only fill a window up hold `PADDING`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from model_export.swin import Block, PatchMerging, Stage, Swin, SwinConfig, WindowAttention
from model_export.swin_v2 import CosineAttention
from model_export.windows import pad_to_windows, window_partition

PADDING = -1


class StaticSwin(nn.Module):
    """Pixels, uint8 RGB (batch, height, width, 3) → logits and tokens, float32.

    Logits are (batch, classes). Tokens are what they are the mean of, before the head: (batch, positions, channels), in
    raster order of the last map.
    """

    def __init__(self, network: Swin, scale: float, mean: Sequence[float], std: Sequence[float]) -> None:
        """Bake `network`, whose images were normalised as (scale · byte - mean) / std, per channel."""
        super().__init__()
        order = block_order(network.config, 0, 0)
        self.embed = StaticPatchEmbed(network, scale, mean, std, order)
        self.steps = nn.ModuleList(bake_steps(network, order))
        self.norm = network.norm
        self.head = network.head

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(pixels)  # batch, slots, channels
        for step in self.steps:
            x = step(x)
        tokens = self.norm(x)  # batch, positions, channels
        return self.head(tokens.mean(dim=1)), tokens


def bake_steps(network: Swin, order: Tensor) -> Iterator[nn.Module]:
    """Blocks, mergings and the gathers between them, from the first block's order to the last map's raster order."""
    config = network.config
    for stage, layer in enumerate(cast("Iterable[Stage]", network.layers)):
        for number, block in enumerate(cast("Iterable[Block]", layer.blocks)):
            wanted = block_order(config, stage, number)
            yield from reorder(order, wanted)
            yield StaticBlock(block, config.stage_grid(stage), wanted)
            order = wanted
        if layer.downsample is not None:
            wanted = block_order(config, stage + 1, 0)
            yield StaticPatchMerging(layer.downsample, config.stage_grid(stage), order, wanted)
            order = wanted
    height, width = config.stage_grid(len(config.depths) - 1)
    yield from reorder(order, torch.arange(height * width))


class StaticPatchEmbed(nn.Module):
    """The convolution as a matrix product over patches of bytes, with the normalisation folded into its weights."""

    position_embedding: Tensor | None
    order: Tensor

    def __init__(self, network: Swin, scale: float, mean: Sequence[float], std: Sequence[float], order: Tensor) -> None:
        super().__init__()
        self.patch = network.config.patch_size
        convolution = network.patch_embed.proj
        # Folded in float64: bytes are 255 times larger than what they stand for, and the offset cancels most of it.
        weight = convolution.weight.detach().double()  # channels, 3, patch, patch
        means, stds = (torch.tensor(values).double().view(3, 1, 1) for values in (mean, std))
        offset = (weight * means / stds).sum(dim=(1, 2, 3))
        weight = weight * scale / stds
        self.proj = linear(weight.permute(0, 2, 3, 1).flatten(1), _bias(convolution).double() - offset)
        self.norm = network.patch_embed.norm
        self.register_buffer("order", order.clamp(min=0))
        embedding = network.absolute_pos_embed.detach()[:, self.order] if network.config.ape else None
        self.register_buffer("position_embedding", embedding)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch))
        # batch, rows, patch, columns, patch, 3
        x = x.transpose(2, 3).flatten(3).flatten(1, 2)  # batch, positions, patch²·3
        x = x.index_select(1, self.order).float()  # gathered as bytes: a quarter of the traffic
        x = self.norm(self.proj(x))  # batch, slots, channels
        return x if self.position_embedding is None else x + self.position_embedding


class StaticBlock(nn.Module):
    """One block, of either version, on a residual stream that is already in its window order."""

    def __init__(self, block: Block, grid: tuple[int, int], order: Tensor) -> None:
        super().__init__()
        self.norms_after = block.norms_after
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attention = StaticAttention(block.attn, grid, order)
        self.mlp = block.mlp

    def forward(self, x: Tensor) -> Tensor:
        if self.norms_after:
            x = x + self.norm1(self.attention(x))
            return x + self.norm2(self.mlp(x))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class StaticAttention(nn.Module):
    """Attention inside windows that lie one after the other, with mask and position bias in one constant."""

    bias: Tensor
    is_real: Tensor | None
    scale: Tensor | None

    def __init__(self, attention: WindowAttention | CosineAttention, grid: tuple[int, int], order: Tensor) -> None:
        super().__init__()
        self.heads, self.area = attention.heads, attention.windowing.area
        self.qkv, scale = joint_projection(attention)
        self.proj = attention.proj
        self.register_buffer("scale", scale)  # of cosine attention; otherwise it is in the weights
        bias = attention.position_bias() + attention.windowing.mask(*grid)[:, None]  # windows or 1, heads, area, area
        self.register_buffer("bias", bias.detach())
        is_real = (order != PADDING).float()[:, None]  # slots, 1
        self.register_buffer("is_real", None if is_real.all() else is_real)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_real is not None:
            x = x * self.is_real  # what fills a window up is zero, as published
        qkv = self.qkv(x).unflatten(1, (-1, self.area)).unflatten(3, (3, self.heads, -1))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each batch, windows, heads, area, dim
        if self.scale is not None:
            q, k = self.scale * unit(q), unit(k)
        weights = (q @ k.mT + self.bias).softmax(dim=-1)  # batch, windows, heads, area, area
        x = (weights @ v).transpose(2, 3).flatten(3).flatten(1, 2)  # batch, slots, channels
        return self.proj(x)


class StaticPatchMerging(nn.Module):
    """Gathers each 2×2 neighbourhood from the old window order, straight into the new one."""

    neighbours: Tensor
    is_real: Tensor | None

    def __init__(self, merging: PatchMerging, grid: tuple[int, int], order: Tensor, wanted: Tensor) -> None:
        super().__init__()
        self.norm_after = merging.norm_after
        self.norm, self.reduction = merging.norm, merging.reduction
        neighbourhoods = window_partition(pad_to_windows(raster(*grid), (2, 2)), (2, 2))
        positions = neighbourhoods[0, :, :, 0] + PADDING  # merged positions, 4
        positions = positions[:, [0, 2, 1, 3]]  # the published order goes down the columns first
        positions = positions[wanted.clamp(min=0)]  # slots, 4
        self.register_buffer("neighbours", slots_of(positions.flatten(), order))
        is_real = (positions != PADDING).float()[:, :, None]  # slots, 4, 1
        self.register_buffer("is_real", None if is_real.all() else is_real)

    def forward(self, x: Tensor) -> Tensor:
        x = x.index_select(1, self.neighbours).unflatten(1, (-1, 4))  # batch, slots, 4, channels
        if self.is_real is not None:
            x = x * self.is_real
        x = x.flatten(2)  # batch, slots, 4·channels
        return self.norm(self.reduction(x)) if self.norm_after else self.reduction(self.norm(x))


class Gather(nn.Module):
    """Moves slots: (batch, slots, channels) → (batch, other slots, channels)."""

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.index)


def reorder(order: Tensor, wanted: Tensor) -> Iterator[Gather]:
    """The gather from one order to another; none where nothing moves."""
    if not torch.equal(order, wanted):
        yield Gather(slots_of(wanted, order))


def slots_of(positions: Tensor, order: Tensor) -> Tensor:
    """The slot that holds each position. For padding any slot will do: whoever reads it masks it."""
    slot = torch.zeros(int(order.max()) + 1, dtype=torch.int64)
    is_real = order != PADDING
    slot[order[is_real]] = torch.arange(len(order))[is_real]
    return slot[positions.clamp(min=0)]


def block_order(config: SwinConfig, stage: int, block: int) -> Tensor:
    """The order a block works in: its windows one after the other, rolled by its shift."""
    return config.windowing(stage, block).cut(raster(*config.stage_grid(stage))).flatten() + PADDING


def raster(height: int, width: int) -> Tensor:
    """A feature map (1, height, width, 1) of positions + 1: what padding fills with zeros is then PADDING + 1."""
    return torch.arange(1, height * width + 1).view(1, height, width, 1)


def joint_projection(attention: WindowAttention | CosineAttention) -> tuple[nn.Linear, Tensor | None]:
    """Query, key and value in one layer, and what the unit vectors of cosine attention are still to be scaled by."""
    weight = attention.qkv.weight.detach().double()
    if isinstance(attention, CosineAttention):
        bias = attention.qkv_bias()
        return linear(weight, torch.zeros(len(weight)) if bias is None else bias.detach()), attention.scale().detach()
    factor = torch.ones(3, len(weight) // 3, dtype=torch.float64)
    factor[0] = attention.scale
    factor = factor.flatten()
    return linear(weight * factor[:, None], _bias(attention.qkv).double() * factor), None


def unit(x: Tensor) -> Tensor:
    """Each vector divided by its length, as `torch.nn.functional.normalize` does, in fewer nodes."""
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A float32 layer with these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight.float())
    layer.bias = nn.Parameter(bias.float())
    return layer


def _bias(layer: nn.Linear | nn.Conv2d) -> Tensor:
    return torch.zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias.detach()
