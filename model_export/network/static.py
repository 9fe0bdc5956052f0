"""The same network with everything that does not depend on pixels baked into constants.

What `swin.py` computes for every image, this file computes once:

- shift mask + relative position bias → one constant per block, (windows or 1, heads, area, area);
- roll and window partition → one gather. The residual stream stays in *window order*: norm and MLP work position by
  position and do not care, so the way from one block's windows to the next block's is a single index vector;
- patch merging's 2×2 neighborhood → a gather from the last block's window order;
- query scale → the query weights; version 2's network for the position bias → the same constant as the bias itself;
- the biases of key and value → nothing and the output's bias (`projections` says why);
- normalization → the patch projection, so the input is the bytes themselves.

The stream has two axes only, (slots·batch, channels), so that a projection and its bias are one `Gemm`. Query, key and
value come from a product each, so that nothing has to be cut apart. Slots lie with the first position of every window
before the second of any, and with the images of a batch side by side: what attention has to transpose is then the first
axis alone, which ONNX Runtime's products read as it lies.

A *position* is a place on the feature map, counted in raster order. A *slot* is a place in the residual stream. An
*order* is the vector that says which position each slot holds; slots that only fill a window up hold `PADDING`.
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
    """Pixels, uint8 RGB (batch, height, width, 3) → logits and tokens, float32.

    Logits are (batch, classes). Tokens are what they are the mean of, before the head: (batch, positions, channels), in
    raster order of the last map.
    """

    def __init__(self, network: Swin, scale: float, mean: Sequence[float], std: Sequence[float]) -> None:
        """Bake `network`, whose images were normalized as (scale · byte - mean) / std, per channel."""
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
    """The convolution as a matrix product over patches of bytes, with the normalization folded into its weights."""

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
        self.proj = Linear(weight.permute(0, 2, 3, 1).flatten(1), _bias(convolution).double() - offset)
        self.norm = network.patch_embed.norm
        self.register_buffer("order", order.clamp(min=0))
        embedding = network.absolute_pos_embed.detach()[0, self.order, None] if network.config.ape else None
        self.register_buffer("position_embedding", embedding)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch))
        # batch, rows, patch, columns, patch, 3
        x = x.transpose(2, 3).flatten(3).flatten(1, 2)  # batch, positions, patch²·3
        x = x.index_select(1, self.order).transpose(0, 1)  # as bytes: a quarter of the traffic
        x = self.norm(self.proj(x.flatten(0, 1).float()))  # slots·batch, channels
        if self.position_embedding is None:
            return x
        return (x.unflatten(0, (len(self.order), -1)) + self.position_embedding).flatten(0, 1)


class StaticBlock(nn.Module):
    """One block, of either version, on a residual stream that is already in its window order."""

    def __init__(self, block: Block, grid: tuple[int, int], order: Tensor) -> None:
        super().__init__()
        self.norms_after = block.norms_after
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attention = StaticAttention(block.attn, grid, order)
        self.mlp = StaticMlp(block.mlp)

    def forward(self, x: Tensor) -> Tensor:
        if self.norms_after:
            x = x + self.norm1(self.attention(x))
            return x + self.norm2(self.mlp(x))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class StaticAttention(nn.Module):
    """Attention inside the windows of a stream in their order, with mask and position bias in one constant."""

    bias: Tensor
    is_real: Tensor | None
    scale: Tensor | None

    def __init__(self, attention: WindowAttention | CosineAttention, grid: tuple[int, int], order: Tensor) -> None:
        super().__init__()
        self.heads, self.area = attention.heads, attention.windowing.area
        self.windows = len(order) // self.area
        self.query, self.key, self.value, self.proj = projections(attention)
        is_cosine = isinstance(attention, CosineAttention)  # otherwise its scale is in the weights
        self.register_buffer("scale", attention.scale().detach()[:, 0] if is_cosine else None)  # heads, 1
        bias = attention.position_bias() + attention.windowing.mask(*grid)[:, None]  # windows or 1, heads, area, area
        self.register_buffer("bias", bias.detach()[:, None])  # the same for each image
        is_real = (order != PADDING).float()[:, None, None]  # slots, 1, 1
        self.register_buffer("is_real", None if is_real.all() else is_real)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_real is not None:  # what fills a window up is zero, as published
            x = (x.unflatten(0, (len(self.is_real), -1)) * self.is_real).flatten(0, 1)
        q, k, v = (self.in_heads(projection(x)) for projection in (self.query, self.key, self.value))
        if self.scale is not None:
            q, k = self.scale * unit(q), unit(k)
        q, k, v = (x.permute(1, 2, 3, 0, 4) for x in (q, k, v))  # windows, batch, heads, area, dim
        weights = (q @ k.mT + self.bias).softmax(dim=-1)  # windows, batch, heads, area, area
        return self.proj((weights @ v).permute(3, 0, 1, 2, 4).flatten(3).flatten(0, 2))  # slots·batch, channels

    def in_heads(self, x: Tensor) -> Tensor:
        """(slots·batch, channels) → (area, windows, batch, heads, dim)."""
        return x.unflatten(1, (self.heads, -1)).unflatten(0, (self.area, self.windows, -1))


class StaticMlp(nn.Module):
    """The two layers of a block, with the exact GELU between them."""

    def __init__(self, mlp: Mlp) -> None:
        super().__init__()
        self.fc1, self.fc2 = (Linear(layer.weight, layer.bias) for layer in (mlp.fc1, mlp.fc2))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class StaticPatchMerging(nn.Module):
    """Gathers each 2×2 neighborhood from the old window order, straight into the new one."""

    neighbors: Tensor
    is_real: Tensor | None

    def __init__(self, merging: PatchMerging, grid: tuple[int, int], order: Tensor, wanted: Tensor) -> None:
        super().__init__()
        self.norm_after = merging.norm_after
        self.norm, self.reduction = merging.norm, Linear(merging.reduction.weight)
        neighborhoods = window_partition(pad_to_windows(raster(*grid), (2, 2)), (2, 2))
        positions = neighborhoods[0, :, :, 0] + PADDING  # merged positions, 4
        positions = positions[:, [0, 2, 1, 3]]  # the published order goes down the columns first
        positions = positions[wanted.clamp(min=0)]  # slots, 4
        self.slots = len(order)
        self.register_buffer("neighbors", slots_of(positions.flatten(), order))
        is_real = (positions != PADDING).float()[:, :, None, None]  # slots, 4, 1, 1
        self.register_buffer("is_real", None if is_real.all() else is_real)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(0, (self.slots, -1)).index_select(0, self.neighbors).unflatten(0, (-1, 4))
        if self.is_real is not None:
            x = x * self.is_real
        x = x.transpose(1, 2).flatten(2).flatten(0, 1)  # slots·batch, 4·channels
        return self.norm(self.reduction(x)) if self.norm_after else self.reduction(self.norm(x))


class Gather(nn.Module):
    """Moves slots: (slots·batch, channels) → (other slots·batch, channels)."""

    index: Tensor

    def __init__(self, index: Tensor, slots: int) -> None:
        super().__init__()
        self.slots = slots
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.slots, -1)).index_select(0, self.index).flatten(0, 1)


def reorder(order: Tensor, wanted: Tensor) -> Iterator[Gather]:
    """The gather from one order to another; none where nothing moves."""
    if not torch.equal(order, wanted):
        yield Gather(slots_of(wanted, order), len(order))


def slots_of(positions: Tensor, order: Tensor) -> Tensor:
    """The slot that holds each position. For padding any slot will do: whoever reads it masks it."""
    slot = torch.zeros(int(order.max()) + 1, dtype=torch.int64)
    is_real = order != PADDING
    slot[order[is_real]] = torch.arange(len(order))[is_real]
    return slot[positions.clamp(min=0)]


def block_order(config: SwinConfig, stage: int, block: int) -> Tensor:
    """The order a block works in: the first position of each of its windows, rolled by its shift; then the second."""
    windows = config.windowing(stage, block).cut(raster(*config.stage_grid(stage)))  # 1, windows, area, 1
    return windows.transpose(1, 2).flatten() + PADDING


def raster(height: int, width: int) -> Tensor:
    """A feature map (1, height, width, 1) of positions + 1: what padding fills with zeros is then PADDING + 1."""
    return torch.arange(1, height * width + 1).view(1, height, width, 1)


class Linear(nn.Module):
    """(rows, in) → (rows, out), as one node: `Gemm`, or `MatMul` where there is no bias.

    Its weight is kept as (in, out), as the product reads it. A `Gemm` that has to transpose, or has no bias, is slower.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` is (out, in), as everybody else has it."""
        super().__init__()
        self.register_buffer("weight", weight.detach().float().T.contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)


def projections(attention: WindowAttention | CosineAttention) -> tuple[Linear, Linear, Linear, Linear]:
    """Query, key, value and output, in float64 until they are baked. Only query and output keep a bias.

    A key's bias adds the same to every score of a row, which the softmax does not see (version 2 has none). A value's
    passes through the attention unchanged, because the weights of a row add up to 1: so it is the output's.
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
    """Each vector divided by its length, as `torch.nn.functional.normalize` does, in fewer nodes."""
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def _bias(layer: nn.Linear | nn.Conv2d) -> Tensor:
    return torch.zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias.detach()
