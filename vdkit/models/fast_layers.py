"""What the fast decoder is built of: convolutions that keep their past, and what is pending.

Activations are [T, H, W, C]. A convolution over time reads a buffer whose leading frames are the
last ones of the chunk before: they stay where they are, and nothing is concatenated or padded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from vdkit.models.kernels import add_norm


@dataclass(slots=True)
class FastState:
    """One video being decoded: its latents and what its convolutions remember.

    Attributes:
        latents: [1, C, T, h, w] after ``post_quant_conv``.
        buffers: convolution to its input, [leading + T, H, W, C]; zeros before the video begins.
        next_start: the latent frame that has to come next.
    """

    latents: torch.Tensor
    buffers: dict[Convolution, torch.Tensor] = field(default_factory=dict)
    next_start: int = 0


class Convolution:
    """A causal convolution over time, or one within frames, on [T, H, W, C].

    Its bias is left to whoever reads what it gives: that is one pass less.

    Attributes:
        leading: frames of the past that it reads in front of the present ones.
    """

    def __init__(self, source: Any) -> None:
        layout = torch.channels_last_3d if source.weight.dim() == 5 else torch.channels_last
        self.weight = source.weight.detach().contiguous(memory_format=layout)
        self.bias = None if source.bias is None else source.bias.detach()
        *_, self.height, self.width = source.weight.shape
        self.leading = source.weight.shape[2] - 1 if source.weight.dim() == 5 else 0
        self.channels = source.weight.shape[1]

    def input(self, state: FastState, frames: int, height: int, width: int) -> torch.Tensor:
        """Where the next ``frames`` frames are to be written: a view behind the leading ones."""
        needed = self.leading + frames
        buffer = state.buffers.get(self)
        if buffer is None or buffer.shape[0] < needed:
            larger = self.weight.new_zeros(needed, height, width, self.channels)
            if buffer is not None:
                larger[: self.leading] = buffer[: self.leading]
            state.buffers[self] = buffer = larger
        return buffer[self.leading : needed]

    def __call__(self, state: FastState, frames: int) -> torch.Tensor:
        """Convolve what `input` was filled with; [T, H, W, channels out].

        The last frames then move to the front, for the next chunk.
        """
        buffer = state.buffers[self][: self.leading + frames]
        padding = (self.height // 2, self.width // 2)
        if self.weight.dim() == 5:
            made = F.conv3d(buffer.permute(3, 0, 1, 2)[None], self.weight, padding=(0, *padding))[
                0
            ].permute(1, 2, 3, 0)
        else:
            made = F.conv2d(buffer.permute(0, 3, 1, 2), self.weight, padding=padding).permute(
                0, 2, 3, 1
            )
        for frame in range(self.leading):  # in order: with one new frame source and target overlap
            buffer[frame] = buffer[frames + frame]
        return check_layout(made) if made.device.type == "cuda" else made.contiguous()


def check_layout(frames: torch.Tensor) -> torch.Tensor:
    """``frames`` [T, H, W, C], if its memory is in that order; a lost layout is slow, not wrong.

    For CUDA: a CPU's convolutions choose their own layout.

    Raises:
        RuntimeError: the memory is laid out in another way.
    """
    if not frames.is_contiguous():
        raise RuntimeError(
            f"an activation of shape {tuple(frames.shape)} has strides {frames.stride()}: the "
            "channels-last layout was lost"
        )
    return frames


@dataclass(slots=True)
class Pending:
    """An activation that is not added up yet: ``inner + bias + around``, [T, H, W, C].

    Whoever reads it next adds while reading.
    """

    inner: torch.Tensor
    bias: torch.Tensor | None = None
    around: torch.Tensor | None = None

    def settle(self) -> torch.Tensor:
        """Add up in place."""
        for part in (self.bias, self.around):
            if part is not None:
                self.inner += part
        self.bias = self.around = None
        return self.inner


class Norm:
    """`WanRMS_norm` and, unless it is an attention's, SiLU; in float32, rounded once."""

    def __init__(self, source: Any, kernels: bool, activate: bool = True) -> None:
        self.gain = source.gamma.detach().flatten().float() * source.scale
        self.activate = activate
        self.kernels = kernels

    def __call__(
        self, given: Pending, out: torch.Tensor, summed: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Into ``out``, returned; ``summed`` gets the activation itself, added up."""
        return add_norm(
            given.inner, self.gain, out, bias=given.bias, around=given.around, summed=summed,
            activate=self.activate, kernels=self.kernels,
        )  # fmt: skip

    def both(self, given: Pending, out: torch.Tensor) -> torch.Tensor:
        """Into ``out``; returns the activation itself, added up."""
        if given.bias is None and given.around is None:
            self(given, out)
            return given.inner
        summed = torch.empty_like(given.inner)
        self(given, out, summed)
        return summed
