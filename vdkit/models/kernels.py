"""The passes between convolutions, each fused into one: a Triton kernel, and the same in torch.

Both round where the other rounds: once for the sum that goes on as the way around, once at the end.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:  # no GPU build of torch: the plain passes are the only ones
    triton = None

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-12
"""Of torch.nn.functional.normalize, which diffusers' norm calls."""
_ROW_VALUES = 4096  # values a program holds; more rows for fewer channels


def has_kernels(device: torch.device) -> bool:
    """Whether the Triton kernels run here: on CUDA, or anywhere under ``TRITON_INTERPRET=1``."""
    return triton is not None and (
        device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    )


def add_norm(
    frames: Tensor,
    gain: Tensor,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    around: Tensor | None = None,
    summed: Tensor | None = None,
    activate: bool = True,
    kernels: bool = False,
) -> Tensor:
    """``silu(normalize(frames + bias + around) * gain)`` into ``out``, which is returned.

    Args:
        frames: [..., C] contiguous, float16, bfloat16 or float32.
        gain: [C] float32.
        out: as ``frames``.
        bias: [C]; ``around``: as ``frames``; None: nothing is added.
        summed: gets ``frames + bias + around``, rounded; None: not kept.
        activate: False leaves SiLU out.
        kernels: use Triton; the tensors must be where `has_kernels` says that it runs.
    """
    if kernels:
        return _launch(frames, gain, out, bias, around, summed, activate)
    value = frames if bias is None and around is None else frames.float()
    if bias is not None:
        value = value + bias
    if around is not None:
        value = value + around
    value = value.to(frames.dtype)
    if summed is not None:
        summed.copy_(value)
    exact = F.normalize(value.float(), dim=-1) * gain
    return out.copy_(F.silu(exact) if activate else exact)


def _launch(
    frames: Tensor,
    gain: Tensor,
    out: Tensor,
    bias: Tensor | None,
    around: Tensor | None,
    summed: Tensor | None,
    activate: bool,
) -> Tensor:
    channels = frames.shape[-1]
    rows = frames.numel() // channels
    for tensor in (frames, out, around, summed):
        if tensor is not None and not tensor.is_contiguous():
            raise RuntimeError(
                f"a tensor of shape {tuple(tensor.shape)} has strides {tensor.stride()}: the "
                "kernels need it contiguous"
            )
    width = triton.next_power_of_2(channels)
    block = max(1, _ROW_VALUES // width)
    unused = frames  # a pointer that is not read
    _add_norm[(triton.cdiv(rows, block),)](
        frames,
        gain,
        unused if bias is None else bias,
        unused if around is None else around,
        unused if summed is None else summed,
        out,
        rows,
        CHANNELS=channels,
        WIDTH=width,
        BLOCK=block,
        EPSILON=EPSILON,
        HAS_BIAS=bias is not None,
        HAS_AROUND=around is not None,
        KEEP_SUM=summed is not None,
        ACTIVATE=activate,
    )
    return out


if triton is not None:

    @triton.jit
    def _add_norm(
        frames,
        gain,
        bias,
        around,
        summed,
        out,
        rows,
        CHANNELS: tl.constexpr,
        WIDTH: tl.constexpr,
        BLOCK: tl.constexpr,
        EPSILON: tl.constexpr,
        HAS_BIAS: tl.constexpr,
        HAS_AROUND: tl.constexpr,
        KEEP_SUM: tl.constexpr,
        ACTIVATE: tl.constexpr,
    ) -> None:
        row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
        column = tl.arange(0, WIDTH)[None, :]
        there = (row < rows) & (column < CHANNELS)
        place = row * CHANNELS + column
        value = tl.load(frames + place, there, 0.0).to(tl.float32)
        if HAS_BIAS:
            value += tl.load(bias + column, column < CHANNELS, 0.0).to(tl.float32)
        if HAS_AROUND:
            value += tl.load(around + place, there, 0.0).to(tl.float32)
        rounded = value.to(frames.dtype.element_ty)
        if KEEP_SUM:
            tl.store(summed + place, rounded, there)
        value = tl.where(there, rounded.to(tl.float32), 0.0)
        length = tl.sqrt(tl.sum(value * value, 1)[:, None])
        made = value / tl.maximum(length, EPSILON)
        made *= tl.load(gain + column, column < CHANNELS, 0.0)
        if ACTIVATE:
            made = made / (1.0 + tl.exp(-made))
        tl.store(out + place, made.to(out.dtype.element_ty), there)
