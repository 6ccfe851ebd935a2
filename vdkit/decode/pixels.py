"""Pictures as an encoder wants them: 4:2:0, made of RGB levels where they are, the same bytes
everywhere.

H.264 and its successors take Y, and U and V of a quarter of the pixels: half the bytes of RGB. Made
on the GPU they halve the copy to the host, and the encoder's thread need not convert.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from vdkit.decode.media import MediaInfo

SHIFT = 16
LUMA = (11966, 40254, 4064)
BLUE, RED = (-6596, -22189, 28784), (28784, -26145, -2639)
"""R, G and B to Y, U and V of BT.709 in limited range, times 65536: 219 / 255 and 224 / 255 of its
0.2126, 0.7152, 0.0722. Gray has U and V of exactly 128."""


def to_format(
    rgb: torch.Tensor, pixel_format: str, out: torch.Tensor | None = None
) -> torch.Tensor:
    """RGB levels as ``yuv420p`` or ``nv12``: BT.709, limited range (Y 16 to 235), on their device.

    All is whole numbers, rounded once, half up: every device gives the same bytes. Chroma is sited
    left, as H.264 assumes where nothing is said: at the left of two columns and between two rows,
    (1, 2, 1) / 4 across (at the edge (2, 1) / 3) and (1, 1) / 2 down. Within one level of swscale's
    accurate path (area, ``accurate_rnd``, ``full_chroma_inp``, ``out_h_chr_pos=0``).

    Args:
        rgb: uint8 [F, H, W, 3], of any strides; H and W even.
        out: uint8 [F, H * 3 / 2, W] to fill, each picture contiguous; a new tensor if None.

    Returns:
        Of each picture H rows of Y, then U and V, [H / 2, W / 2] each: one after the other, or of
        ``nv12`` in turns.
    """
    count, height, width, _ = rgb.shape
    if out is None:
        out = rgb.new_empty(count, height * 3 // 2, width)
    together = pixel_format == "nv12"
    if rgb.device.type == "cuda" and _has_triton():
        from vdkit.decode.kernel import planes

        planes(rgb, out, together)
        return out
    for picture, made in zip(rgb, out, strict=True):  # one at a time stays in the cache
        levels = [picture[..., channel].int() for channel in range(3)]
        made[:height] = _weighted(levels, LUMA, 16, SHIFT)
        cells = [_cells(one) for one in levels]
        below = made[height:].view(-1)
        for index, weights in enumerate((BLUE, RED)):
            part = below[index::2] if together else below.chunk(2)[index]
            part[:] = _weighted(cells, weights, 128, SHIFT + 3).view(-1)
    return out


def _weighted(
    channels: list[torch.Tensor], weights: tuple[int, int, int], base: int, shift: int
) -> torch.Tensor:
    made = channels[0] * weights[0]
    for one, weight in zip(channels[1:], weights[1:], strict=True):
        made.add_(one, alpha=weight)
    made.add_((base << shift) + (1 << shift - 1))
    return made.bitwise_right_shift_(shift)


def _cells(levels: torch.Tensor) -> torch.Tensor:
    """[H, W] to [H / 2, W / 2]: eight times the mean around the left of each cell."""
    rows = levels[::2] + levels[1::2]
    cells = torch.add(rows[:, 1::2], rows[:, ::2], alpha=2)
    cells[:, 1:] += rows[:, 1:-1:2]
    cells[:, 0] = (4 * cells[:, 0] + 1) // 3
    return cells


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def rows_to_format(rows: torch.Tensor, info: MediaInfo, out: torch.Tensor) -> None:
    """What a sink gets, but with RGB pictures, in the format of ``info``; of video, with sound too.

    Args:
        rows: uint8 [F, H, W, 3], or of ``av`` [F, bytes].
        out: uint8, `MediaInfo.shape`.
    """
    if info.medium == "video":
        to_format(rows, info.pixel_format, out)
        return
    size, made = info.height * info.width * 3, math.prod(info.picture_shape)
    pictures = rows[:, :size].unflatten(1, (info.height, info.width, 3))
    to_format(pictures, info.pixel_format, out[:, :made].unflatten(1, info.picture_shape))
    out[:, made:] = rows[:, size:]
