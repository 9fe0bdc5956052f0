"""Windows on a feature map: how it is padded, rolled and cut, who may attend to whom, and how it is put together again.

Feature maps are (batch, height, width, channels); windows (batch, windows, window², channels), in raster order.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def in_shifted_windows(
    x: Tensor, window: int, shift: int, masked: float, attend: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Pad → shift → partition → `attend(windows, mask)` → reverse: (batch, height, width, channels) both ways."""
    _, height, width, _ = x.shape
    x = pad_to_windows(x, window)
    _, padded_height, padded_width, _ = x.shape
    x = torch.roll(x, (-shift, -shift), dims=(1, 2))
    x = window_partition(x, window)  # batch, windows, area, channels
    x = attend(x, shift_mask(padded_height, padded_width, window, shift, masked).to(x.device))
    x = window_reverse(x, window, padded_height, padded_width)  # batch, height, width, channels
    x = torch.roll(x, (shift, shift), dims=(1, 2))
    return x[:, :height, :width]


def pad_to_windows(x: Tensor, window: int) -> Tensor:
    """Zeros below and to the right until both sides are multiples of the window: (batch, height, width, channels)."""
    _, height, width, _ = x.shape
    return F.pad(x, (0, 0, 0, -width % window, 0, -height % window))


def window_partition(x: Tensor, window: int) -> Tensor:
    """(batch, height, width, channels) → (batch, windows, window², channels), windows in raster order."""
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # batch, rows, window, columns, window, channels
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def window_reverse(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """(batch, windows, window², channels) → (batch, height, width, channels): the inverse of `window_partition`."""
    x = windows.unflatten(2, (window, window)).unflatten(1, (height // window, width // window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each pair of positions in a window: (window², window²)."""
    rows, columns = (axis.flatten() for axis in torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij"))
    row_offsets = rows[:, None] - rows[None, :] + window - 1
    column_offsets = columns[:, None] - columns[None, :] + window - 1
    return row_offsets * (2 * window - 1) + column_offsets


def shift_mask(height: int, width: int, window: int, shift: int, masked: float) -> Tensor:
    """`masked` for pairs that share a window only because the map was rolled (figure 4).

    Returns (windows, window², window²), or (1, …) where nothing was rolled.
    """
    if shift == 0:
        return torch.zeros(1, window**2, window**2)

    def regions(side: int) -> Tensor:  # 0: untouched windows, 1 and 2: the two parts of the last, wrapped one
        position = torch.arange(side)
        return (position >= side - window).int() + (position >= side - shift).int()

    region = regions(height)[:, None] * 3 + regions(width)[None, :]
    region = window_partition(region[None, :, :, None], window)[0, :, :, 0]  # windows, area
    return torch.where(region[:, :, None] == region[:, None, :], 0.0, masked)
