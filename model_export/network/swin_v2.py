"""The attention of Swin Transformer V2: cosine attention with a position bias from a small network.

Source: Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", 2022, section 3. Parameter names are
those of the original code.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_export.network.windows import Size, Windowing, in_windows, relative_position_index

# Width of the hidden layer of the network that computes the position bias.
BIAS_HIDDEN = 512
# The learned temperature is at least 0.01 (section 3.2).
MAX_LOGIT_SCALE = math.log(100)


class CosineAttention(nn.Module):
    """Attention by the cosine between query and key, with a learned temperature per head (equation 2)."""

    def __init__(self, dim: int, heads: int, windowing: Windowing, *, pretrained: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads, self.windowing = heads, windowing
        self.pretrained = (pretrained, pretrained) if pretrained else windowing.size
        self.logit_scale = nn.Parameter(torch.zeros(heads, 1, 1))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, BIAS_HIDDEN), nn.ReLU(), nn.Linear(BIAS_HIDDEN, heads, bias=False))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None  # the key has no bias, as published
        self.proj = nn.Linear(dim, dim)

    def position_bias(self) -> Tensor:
        """Return the position bias that is added to the scores, from 0 to 16: `(heads, area, area)`."""
        table = self.cpb_mlp(log_spaced_offsets(self.windowing.size, self.pretrained))  # offsets, heads
        return 16 * table[relative_position_index(self.windowing.size)].permute(2, 0, 1).sigmoid()

    def scale(self) -> Tensor:
        """Return 1 / temperature: `(heads, 1, 1)`."""
        return self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()

    def qkv_bias(self) -> Tensor | None:
        """Return the bias of the joint projection: `(3·channels,)`."""
        if self.q_bias is None or self.v_bias is None:
            return None
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def forward(self, x: Tensor) -> Tensor:
        return in_windows(x, self.windowing, self.attend)

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        qkv = F.linear(x, self.qkv.weight, self.qkv_bias()).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each batch, windows, heads, area, dim
        cosine = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
        scores = cosine * self.scale() + self.position_bias() + mask[:, None]  # batch, windows, heads, area, area
        x = (scores.softmax(dim=-1) @ v).transpose(2, 3).flatten(3)  # batch, windows, area, channels
        return self.proj(x)


def log_spaced_offsets(window: Size, pretrained: Size) -> Tensor:
    """Return the log-spaced offsets (row, column) between two positions of a window: `(offsets, 2)` (equation 4).

    The unit is the pretrained window: before the logarithm, its edge is at ±8.
    """

    def spaced(side: int, trained: int) -> Tensor:
        offsets = torch.arange(-(side - 1), side).float() / max(trained - 1, 1) * 8
        return offsets.sign() * (offsets.abs() + 1).log2() / math.log2(8)

    return torch.cartesian_prod(*map(spaced, window, pretrained))
