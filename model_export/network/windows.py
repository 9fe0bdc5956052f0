"""Windows on a feature map: padding, rolling, partition, attention mask, and the way back. Knows no weights.

Feature maps are `(batch, height, width, channels)`. Windows are `(batch, windows, area, channels)`, in raster order.
Sizes and shifts are `(height, width)` in positions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True)
class Windowing:
    """The partition of one block's feature map into windows.

    Attributes:
        size: the window.
        shift: the number of positions by which the map is rolled.
        mask_value: added to the attention scores of positions that are neighbors only because of the roll.
        roll_before_padding: the order of rolling and padding where the windows do not divide the map. timm rolls
            first; all other sources pad first.
    """

    size: Size
    shift: Size
    mask_value: float
    roll_before_padding: bool

    @property
    def area(self) -> int:
        """The number of positions in a window."""
        return self.size[0] * self.size[1]

    def cut(self, x: Tensor) -> Tensor:
        """Pad, roll and partition: `(batch, height, width, channels)` → `(batch, windows, area, channels)`."""
        back = (-self.shift[0], -self.shift[1])
        if self.roll_before_padding:
            x = pad_to_windows(torch.roll(x, back, dims=(1, 2)), self.size)
        else:
            x = torch.roll(pad_to_windows(x, self.size), back, dims=(1, 2))
        return window_partition(x, self.size)

    def join(self, windows: Tensor, height: int, width: int) -> Tensor:
        """Undo `cut`: `(batch, windows, area, channels)` → `(batch, height, width, channels)`."""
        x = window_reverse(windows, self.size, *self.padded(height, width))
        if self.roll_before_padding:
            return torch.roll(x[:, :height, :width], self.shift, dims=(1, 2))
        return torch.roll(x, self.shift, dims=(1, 2))[:, :height, :width]

    def padded(self, height: int, width: int) -> Size:
        """Return the height and width of the map after padding to whole windows."""
        return height + -height % self.size[0], width + -width % self.size[1]

    def mask(self, height: int, width: int) -> Tensor:
        """Return the mask that is added to the scores on a map of this size: `(windows or 1, area, area)`."""
        return shift_mask(*self.padded(height, width), self.size, self.shift, self.mask_value)


def by(size: Size | None) -> str:
    """Format a size as `224×192`. Return an empty string without a size."""
    return "×".join(map(str, size or ()))


def in_windows(x: Tensor, windowing: Windowing, attend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Cut the map `(batch, height, width, channels)`, apply `attend(windows, mask)`, and join the result."""
    _, height, width, _ = x.shape
    mask = windowing.mask(height, width).to(x.device)
    return windowing.join(attend(windowing.cut(x), mask), height, width)


def pad_to_windows(x: Tensor, window: Size) -> Tensor:
    """Pad `(batch, height, width, channels)` with zeros at the bottom and right to multiples of the window."""
    _, height, width, _ = x.shape
    return F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))


def window_partition(x: Tensor, window: Size) -> Tensor:
    """Partition `(batch, height, width, channels)` into `(batch, windows, area, channels)`, in raster order."""
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))  # batch, rows, height, columns, width, channels
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def window_reverse(windows: Tensor, window: Size, height: int, width: int) -> Tensor:
    """Undo `window_partition`: `(batch, windows, area, channels)` → `(batch, height, width, channels)`."""
    x = windows.unflatten(2, window).unflatten(1, (height // window[0], width // window[1]))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def relative_position_index(window: Size) -> Tensor:
    """Return the row of the bias table for each pair of positions in a window: `(area, area)`."""
    axes = torch.meshgrid(torch.arange(window[0]), torch.arange(window[1]), indexing="ij")
    rows, columns = (axis.flatten() for axis in axes)
    row_offsets = rows[:, None] - rows[None, :] + window[0] - 1
    column_offsets = columns[:, None] - columns[None, :] + window[1] - 1
    return row_offsets * (2 * window[1] - 1) + column_offsets


def shift_mask(height: int, width: int, window: Size, shift: Size, mask_value: float) -> Tensor:
    """Return `mask_value` for pairs that share a window only because of the roll, else 0 (figure 4 of the paper).

    The shape is `(windows, area, area)`, or `(1, area, area)` without a shift.
    """
    if not any(shift):
        area = window[0] * window[1]
        return torch.zeros(1, area, area)

    def regions(side: int, window: int, shift: int) -> Tensor:
        """Return 0 for the windows that do not wrap, 1 and 2 for the two parts of the last window, which wraps."""
        position = torch.arange(side)
        return (position >= side - window).int() + (position >= side - shift).int()

    region = regions(height, window[0], shift[0])[:, None] * 3 + regions(width, window[1], shift[1])[None, :]
    region = window_partition(region[None, :, :, None], window)[0, :, :, 0]  # windows, area
    return torch.where(region[:, :, None] == region[:, None, :], 0.0, mask_value)
