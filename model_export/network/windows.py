"""Windows on a feature map: how it is padded, rolled and cut, who may attend to whom, and how it is put together again.

Feature maps are (batch, height, width, channels); windows (batch, windows, area, channels), in raster order. Sizes and
shifts are (height, width) in positions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True)
class Windowing:
    """How one block cuts its map.

    `rolls_first` decides what is rolled where windows do not divide the map: the map and then it is padded (timm), or
    the padded map (everybody else). `masked` is added to the scores of positions that only the roll made neighbors.
    """

    size: Size
    shift: Size
    masked: float
    rolls_first: bool

    @property
    def area(self) -> int:
        """Positions in a window."""
        return self.size[0] * self.size[1]

    def cut(self, x: Tensor) -> Tensor:
        """Pad, roll and partition: (batch, height, width, channels) → (batch, windows, area, channels)."""
        back = (-self.shift[0], -self.shift[1])
        if self.rolls_first:
            x = pad_to_windows(torch.roll(x, back, dims=(1, 2)), self.size)
        else:
            x = torch.roll(pad_to_windows(x, self.size), back, dims=(1, 2))
        return window_partition(x, self.size)

    def join(self, windows: Tensor, height: int, width: int) -> Tensor:
        """Undo `cut`: (batch, windows, area, channels) → (batch, height, width, channels)."""
        x = window_reverse(windows, self.size, *self.padded(height, width))
        if self.rolls_first:
            return torch.roll(x[:, :height, :width], self.shift, dims=(1, 2))
        return torch.roll(x, self.shift, dims=(1, 2))[:, :height, :width]

    def padded(self, height: int, width: int) -> Size:
        """Sides of the map once it is filled up to whole windows."""
        return height + -height % self.size[0], width + -width % self.size[1]

    def mask(self, height: int, width: int) -> Tensor:
        """What the shift adds to the scores on a map of this size: (windows or 1, area, area)."""
        return shift_mask(*self.padded(height, width), self.size, self.shift, self.masked)


def by(size: Size | None) -> str:
    """Return a size in words: 224×192. Without a size, return nothing."""
    return "×".join(map(str, size or ()))


def in_windows(x: Tensor, windowing: Windowing, attend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Cut → `attend(windows, mask)` → join: (batch, height, width, channels) both ways."""
    _, height, width, _ = x.shape
    mask = windowing.mask(height, width).to(x.device)
    return windowing.join(attend(windowing.cut(x), mask), height, width)


def pad_to_windows(x: Tensor, window: Size) -> Tensor:
    """Zeros below and to the right until both sides are multiples of the window's: (batch, height, width, channels)."""
    _, height, width, _ = x.shape
    return F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))


def window_partition(x: Tensor, window: Size) -> Tensor:
    """(batch, height, width, channels) → (batch, windows, area, channels), windows in raster order."""
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))  # batch, rows, height, columns, width, channels
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def window_reverse(windows: Tensor, window: Size, height: int, width: int) -> Tensor:
    """(batch, windows, area, channels) → (batch, height, width, channels): the inverse of `window_partition`."""
    x = windows.unflatten(2, window).unflatten(1, (height // window[0], width // window[1]))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def relative_position_index(window: Size) -> Tensor:
    """Row of the bias table for each pair of positions in a window: (area, area)."""
    axes = torch.meshgrid(torch.arange(window[0]), torch.arange(window[1]), indexing="ij")
    rows, columns = (axis.flatten() for axis in axes)
    row_offsets = rows[:, None] - rows[None, :] + window[0] - 1
    column_offsets = columns[:, None] - columns[None, :] + window[1] - 1
    return row_offsets * (2 * window[1] - 1) + column_offsets


def shift_mask(height: int, width: int, window: Size, shift: Size, masked: float) -> Tensor:
    """`masked` for pairs that share a window only because the map was rolled (figure 4).

    Returns (windows, area, area), or (1, …) where nothing was rolled.
    """
    if not any(shift):
        area = window[0] * window[1]
        return torch.zeros(1, area, area)

    def regions(side: int, window: int, shift: int) -> Tensor:
        """0: untouched windows, 1 and 2: the two parts of the last, wrapped one."""
        position = torch.arange(side)
        return (position >= side - window).int() + (position >= side - shift).int()

    region = regions(height, window[0], shift[0])[:, None] * 3 + regions(width, window[1], shift[1])[None, :]
    region = window_partition(region[None, :, :, None], window)[0, :, :, 0]  # windows, area
    return torch.where(region[:, :, None] == region[:, None, :], 0.0, masked)
