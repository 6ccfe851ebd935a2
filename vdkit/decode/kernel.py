# mypy: disable-error-code="no-untyped-def"
"""The Triton kernel of `vdkit.decode.pixels`, with the Triton that comes with torch on CUDA."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from vdkit.decode.pixels import BLUE, LUMA, RED, SHIFT

_CELLS = 128
_HALF = 1 << SHIFT - 1


@triton.jit
def _planes(
    rgb, out, f_stride, y_stride, x_stride, c_stride, out_stride, height, wide,
    TOGETHER: tl.constexpr, CELLS: tl.constexpr, SHIFT: tl.constexpr,
    Y0: tl.constexpr, Y1: tl.constexpr, Y2: tl.constexpr,
    U0: tl.constexpr, U1: tl.constexpr, U2: tl.constexpr,
    V0: tl.constexpr, V1: tl.constexpr, V2: tl.constexpr,
):  # fmt: skip
    """Four pixels a cell; ``wide`` cells in a row, ``height`` rows of cells."""
    frame, row = (tl.program_id(0) // height).to(tl.int64), tl.program_id(0) % height
    cell = tl.program_id(1) * CELLS + tl.arange(0, CELLS)
    there = cell < wide
    source = rgb + frame * f_stride
    target = out + frame * out_stride
    width = 2 * wide
    half = 1 << (SHIFT - 1)
    r = tl.zeros((CELLS,), tl.int32)
    g = tl.zeros((CELLS,), tl.int32)
    b = tl.zeros((CELLS,), tl.int32)
    for y in tl.static_range(2):
        for x in tl.static_range(3):
            column = 2 * cell + x - 1
            at = source + (2 * row + y) * y_stride + column * x_stride
            inside = there & (column >= 0)
            red = tl.load(at, inside, 0).to(tl.int32)
            green = tl.load(at + c_stride, inside, 0).to(tl.int32)
            blue = tl.load(at + 2 * c_stride, inside, 0).to(tl.int32)
            if x > 0:
                level = (Y0 * red + Y1 * green + Y2 * blue + (16 << SHIFT) + half) >> SHIFT
                tl.store(target + (2 * row + y) * width + column, level.to(tl.uint8), there)
            r += red * (1 + x % 2)
            g += green * (1 + x % 2)
            b += blue * (1 + x % 2)
    r = tl.where(cell == 0, (4 * r + 1) // 3, r)  # the edge has no pixel at its left
    g = tl.where(cell == 0, (4 * g + 1) // 3, g)
    b = tl.where(cell == 0, (4 * b + 1) // 3, b)
    u = (U0 * r + U1 * g + U2 * b + (128 << (SHIFT + 3)) + (half << 3)) >> (SHIFT + 3)
    v = (V0 * r + V1 * g + V2 * b + (128 << (SHIFT + 3)) + (half << 3)) >> (SHIFT + 3)
    below = target + 2 * height * width
    place = row * wide + cell
    if TOGETHER:
        tl.store(below + 2 * place, u.to(tl.uint8), there)
        tl.store(below + 2 * place + 1, v.to(tl.uint8), there)
    else:
        tl.store(below + place, u.to(tl.uint8), there)
        tl.store(below + height * wide + place, v.to(tl.uint8), there)


def planes(rgb: torch.Tensor, out: torch.Tensor, together: bool) -> None:
    """As `vdkit.decode.pixels.to_format`, on the current stream; ``together``: as ``nv12``."""
    count, height, width, _ = rgb.shape
    grid = (count * height // 2, triton.cdiv(width // 2, _CELLS))
    weights = dict(
        zip(
            ("Y0", "Y1", "Y2", "U0", "U1", "U2", "V0", "V1", "V2"),
            (*LUMA, *BLUE, *RED),
            strict=True,
        )
    )
    _planes[grid](
        rgb, out, *rgb.stride(), out.stride(0), height // 2, width // 2,
        TOGETHER=together, CELLS=_CELLS, SHIFT=SHIFT, **weights,
    )  # fmt: skip
