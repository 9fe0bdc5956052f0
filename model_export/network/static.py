"""The same network as `swin.py`, with all computation that does not depend on pixels baked into constants.

`swin.py` repeats the following for every image. This module computes it once:

- The shift mask and the relative position bias become one constant per block, `(windows or 1, heads, area, area)`.
- The roll and the window partition become one gather. The residual stream stays in *window order*. Norm and MLP work
  position by position, so a single index vector leads from the windows of one block to those of the next.
- The 2×2 neighborhood of patch merging becomes a gather from the window order of the last block.
- The query scale becomes part of the query weights. The position-bias network of version 2 becomes the bias itself.
- The bias of the key disappears, and that of the value becomes part of the output bias (see `projections`).
- The normalization becomes part of the patch projection, so the input is bytes.

A *position* is a place on the feature map, counted in raster order. A *slot* is a place in the residual stream. An
*order* is a vector with the position of each slot. Slots that only fill a window contain `PADDING`.

The stream has two axes, `(slots·batch, channels)`, so that a projection with its bias is one `Gemm`. Query, key and
value are one product each, so that no tensor is split. The slots hold the first position of every window, then the
second position of every window, and so on. In each slot, the images of the batch are adjacent. With this layout,
attention transposes the first axis only, and the products of ONNX Runtime read it without a copy.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_export.network.swin import Block, Mlp, PatchMerging, Stage, Swin, SwinConfig, WindowAttention
from model_export.network.swin_v2 import CosineAttention
from model_export.network.windows import pad_to_windows, window_partition

PADDING = -1


class StaticSwin(nn.Module):
    """The static network: uint8 RGB pixels `(batch, height, width, 3)` → float32 logits and tokens.

    The logits are `(batch, classes)`. The tokens are the last feature map in raster order, `(batch, positions,
    channels)`. The head is applied to the mean of the tokens.
    """

    def __init__(self, network: Swin, scale: float, mean: Sequence[float], std: Sequence[float]) -> None:
        """Build the static form of `network`.

        `network` takes `(scale · byte - mean) / std`, per channel. The static form computes that from the bytes.
        """
        super().__init__()
        order = block_order(network.config, 0, 0)
        self.embed = StaticPatchEmbed(network, scale, mean, std, order)
        self.steps = nn.ModuleList(bake_steps(network, order))
        self.norm = network.norm
        self.head = network.head
        self.positions = math.prod(network.config.stage_grid(len(network.config.depths) - 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(pixels)  # slots·batch, channels
        for step in self.steps:
            x = step(x)
        tokens = self.norm(x).unflatten(0, (self.positions, -1)).transpose(0, 1)  # batch, positions, channels
        return self.head(tokens.mean(dim=1)), tokens


def bake_steps(network: Swin, order: Tensor) -> Iterator[nn.Module]:
    """Yield the blocks, the mergings and the gathers between them.

    The input has the order of the first block. The output has the raster order of the last map.
    """
    config = network.config
    for stage, layer in enumerate(cast("Iterable[Stage]", network.layers)):
        for number, block in enumerate(cast("Iterable[Block]", layer.blocks)):
            target = block_order(config, stage, number)
            yield from reorder(order, target)
            yield StaticBlock(block, config.stage_grid(stage), target)
            order = target
        if layer.downsample is not None:
            target = block_order(config, stage + 1, 0)
            yield StaticPatchMerging(layer.downsample, config.stage_grid(stage), order, target)
            order = target
    height, width = config.stage_grid(len(config.depths) - 1)
    yield from reorder(order, torch.arange(height * width))


class StaticPatchEmbed(nn.Module):
    """The patch projection as a matrix product over bytes, with the normalization folded into its weights."""

    position_embedding: Tensor | None
    order: Tensor

    def __init__(self, network: Swin, scale: float, mean: Sequence[float], std: Sequence[float], order: Tensor) -> None:
        super().__init__()
        self.patch = network.config.patch_size
        convolution = network.patch_embed.proj
        # Fold in float64: bytes are up to 255, and the offset cancels most of each sum.
        weight = convolution.weight.detach().double()  # channels, 3, patch, patch
        means, stds = (torch.tensor(values).double().view(3, 1, 1) for values in (mean, std))
        offset = (weight * means / stds).sum(dim=(1, 2, 3))
        weight = weight * scale / stds
        self.proj = Linear(weight.permute(0, 2, 3, 1).flatten(1), _bias(convolution).double() - offset)
        self.norm = network.patch_embed.norm
        self.register_buffer("order", order.clamp(min=0))
        embedding = network.absolute_pos_embed.detach()[0, self.order, None] if network.config.ape else None
        self.register_buffer("position_embedding", embedding)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch))
        # batch, rows, patch, columns, patch, 3
        x = x.transpose(2, 3).flatten(3).flatten(1, 2)  # batch, positions, patch²·3
        x = x.index_select(1, self.order).transpose(0, 1)  # gather bytes: a quarter of the memory traffic of floats
        x = self.norm(self.proj(x.flatten(0, 1).float()))  # slots·batch, channels
        if self.position_embedding is None:
            return x
        return (x.unflatten(0, (len(self.order), -1)) + self.position_embedding).flatten(0, 1)


class StaticBlock(nn.Module):
    """A block of either version. The residual stream is in the window order of the block."""

    def __init__(self, block: Block, grid: tuple[int, int], order: Tensor) -> None:
        super().__init__()
        self.post_norm = block.post_norm
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attention = StaticAttention(block.attn, grid, order)
        self.mlp = StaticMlp(block.mlp)

    def forward(self, x: Tensor) -> Tensor:
        if self.post_norm:
            x = x + self.norm1(self.attention(x))
            return x + self.norm2(self.mlp(x))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class StaticAttention(nn.Module):
    """Attention inside the windows of a stream in window order. Mask and position bias are one constant."""

    bias: Tensor
    is_real: Tensor | None
    scale: Tensor | None

    def __init__(self, attention: WindowAttention | CosineAttention, grid: tuple[int, int], order: Tensor) -> None:
        super().__init__()
        self.heads, self.area = attention.heads, attention.windowing.area
        self.windows = len(order) // self.area
        self.query, self.key, self.value, self.proj = projections(attention)
        is_cosine = isinstance(attention, CosineAttention)  # in version 1, the query weights contain the scale
        self.register_buffer("scale", attention.scale().detach()[:, 0] if is_cosine else None)  # heads, 1
        bias = attention.position_bias() + attention.windowing.mask(*grid)[:, None]  # windows or 1, heads, area, area
        self.register_buffer("bias", bias.detach()[:, None])  # one for all images of a batch
        is_real = (order != PADDING).float()[:, None, None]  # slots, 1, 1
        self.register_buffer("is_real", None if is_real.all() else is_real)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_real is not None:  # padding is zero, as published
            x = (x.unflatten(0, (len(self.is_real), -1)) * self.is_real).flatten(0, 1)
        q, k, v = (self.in_heads(projection(x)) for projection in (self.query, self.key, self.value))
        if self.scale is not None:
            q, k = self.scale * unit(q), unit(k)
        q, k, v = (x.permute(1, 2, 3, 0, 4) for x in (q, k, v))  # windows, batch, heads, area, dim
        weights = (q @ k.mT + self.bias).softmax(dim=-1)  # windows, batch, heads, area, area
        return self.proj((weights @ v).permute(3, 0, 1, 2, 4).flatten(3).flatten(0, 2))  # slots·batch, channels

    def in_heads(self, x: Tensor) -> Tensor:
        """Split `(slots·batch, channels)` into `(area, windows, batch, heads, dim)`."""
        return x.unflatten(1, (self.heads, -1)).unflatten(0, (self.area, self.windows, -1))


class StaticMlp(nn.Module):
    """The two linear layers of a block, with the exact GELU between them."""

    def __init__(self, mlp: Mlp) -> None:
        super().__init__()
        self.fc1, self.fc2 = (Linear(layer.weight, layer.bias) for layer in (mlp.fc1, mlp.fc2))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class StaticPatchMerging(nn.Module):
    """The gather of each 2×2 neighborhood from the old window order into the new one, and its projection."""

    neighbors: Tensor
    is_real: Tensor | None

    def __init__(self, merging: PatchMerging, grid: tuple[int, int], order: Tensor, new_order: Tensor) -> None:
        super().__init__()
        self.post_norm = merging.post_norm
        self.norm, self.reduction = merging.norm, Linear(merging.reduction.weight)
        neighborhoods = window_partition(pad_to_windows(raster(*grid), (2, 2)), (2, 2))
        positions = neighborhoods[0, :, :, 0] + PADDING  # merged positions, 4
        positions = positions[:, [0, 2, 1, 3]]  # the published order is column by column
        positions = positions[new_order.clamp(min=0)]  # slots, 4
        self.slots = len(order)
        self.register_buffer("neighbors", slots_of(positions.flatten(), order))
        is_real = (positions != PADDING).float()[:, :, None, None]  # slots, 4, 1, 1
        self.register_buffer("is_real", None if is_real.all() else is_real)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(0, (self.slots, -1)).index_select(0, self.neighbors).unflatten(0, (-1, 4))
        if self.is_real is not None:
            x = x * self.is_real
        x = x.transpose(1, 2).flatten(2).flatten(0, 1)  # slots·batch, 4·channels
        return self.norm(self.reduction(x)) if self.post_norm else self.reduction(self.norm(x))


class Gather(nn.Module):
    """A permutation of slots: `(slots·batch, channels)` → `(new slots·batch, channels)`."""

    index: Tensor

    def __init__(self, index: Tensor, slots: int) -> None:
        super().__init__()
        self.slots = slots
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.slots, -1)).index_select(0, self.index).flatten(0, 1)


def reorder(order: Tensor, new_order: Tensor) -> Iterator[Gather]:
    """Yield the gather from one order to another, or nothing if both are equal."""
    if not torch.equal(order, new_order):
        yield Gather(slots_of(new_order, order), len(order))


def slots_of(positions: Tensor, order: Tensor) -> Tensor:
    """Return the slot of each position. Padding gets an arbitrary slot, because its readers mask it."""
    slot = torch.zeros(int(order.max()) + 1, dtype=torch.int64)
    is_real = order != PADDING
    slot[order[is_real]] = torch.arange(len(order))[is_real]
    return slot[positions.clamp(min=0)]


def block_order(config: SwinConfig, stage: int, block: int) -> Tensor:
    """Return the order of a block: the first position of each shifted window, then the second, and so on."""
    windows = config.windowing(stage, block).cut(raster(*config.stage_grid(stage)))  # 1, windows, area, 1
    return windows.transpose(1, 2).flatten() + PADDING


def raster(height: int, width: int) -> Tensor:
    """Return a feature map `(1, height, width, 1)` of positions + 1, so that zero padding means `PADDING` + 1."""
    return torch.arange(1, height * width + 1).view(1, height, width, 1)


class Linear(nn.Module):
    """A linear layer `(rows, in)` → `(rows, out)` as one node: `Gemm`, or `MatMul` without a bias.

    The weight is stored as `(in, out)`, as the product reads it. A `Gemm` that transposes or has no bias is slower.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Take `weight` as `(out, in)`, the layout of `torch.nn.Linear`."""
        super().__init__()
        self.register_buffer("weight", weight.detach().float().T.contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)


def projections(attention: WindowAttention | CosineAttention) -> tuple[Linear, Linear, Linear, Linear]:
    """Return the layers of query, key, value and output, computed in float64. Only query and output have a bias.

    The bias of the key adds the same number to all scores of a row, so the softmax cancels it. Version 2 has none. The
    bias of the value passes through the attention unchanged, because the weights of a row sum to 1. Therefore it is
    added to the bias of the output.
    """
    query, key, value = attention.qkv.weight.detach().double().chunk(3)
    q_bias, _, v_bias = _qkv_bias(attention).double().chunk(3)
    factor = 1.0 if isinstance(attention, CosineAttention) else attention.scale
    output = attention.proj.weight.detach().double()
    out_bias = _bias(attention.proj).double() + output @ v_bias
    return Linear(query * factor, q_bias * factor), Linear(key), Linear(value), Linear(output, out_bias)


def _qkv_bias(attention: WindowAttention | CosineAttention) -> Tensor:
    if not isinstance(attention, CosineAttention):
        return _bias(attention.qkv)
    bias = attention.qkv_bias()
    return torch.zeros(len(attention.qkv.weight)) if bias is None else bias.detach()


def unit(x: Tensor) -> Tensor:
    """Divide each vector by its length. Same as `torch.nn.functional.normalize`, in fewer nodes."""
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def _bias(layer: nn.Linear | nn.Conv2d) -> Tensor:
    return torch.zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias.detach()
