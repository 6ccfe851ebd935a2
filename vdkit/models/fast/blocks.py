"""The blocks of Wan's decoder as passes over bordered frames; diffusers' names, where it has them.

A convolution is one pass, from what its ring holds to the next one's ring, with the norm between
them if a program holds all channels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from vdkit.models.fast.layers import (
    Convolution,
    ConvolutionCall,
    Entry,
    Frames,
    Norm,
    Pixels,
    Space,
    StageFrames,
)

_AT_ONCE = 2
"""Frames of a later stage: the kernels make two at once; more would only take more memory."""
_EARLY_STAGES = 2
"""Stages whose frames are small: all of a chunk at once fill a GPU better."""


class Passes(Protocol):
    """What carries a convolution out: `PlainPasses` or `KernelPasses`."""

    def convolve(self, space: Space, job: ConvolutionCall) -> None:
        """Carry out ``job``."""

    def fuses(self, job: ConvolutionCall) -> bool:
        """Whether the norm of what ``job`` makes can be a part of it."""

    def norm(
        self, space: Space, source: Frames, target: Frames, norm: Norm, step: StageFrames
    ) -> None:
        """Normalize the step's frames of ``source`` into ``target``."""


class NoPasses:
    """Only counts, so that a walk through the decoder tells what it would take.

    Attributes:
        flops: of convolutions, a multiply-add as two.
    """

    def __init__(self, real: Passes) -> None:
        self.fuses = real.fuses
        self.flops = 0

    def convolve(self, space: Space, job: ConvolutionCall) -> None:
        height, width = job.source.size
        values = sum(weight.numel() for weight in job.convolution.weights)
        self.flops += 2 * values * height * width * job.step.frames

    def norm(
        self, space: Space, source: Frames, target: Frames, norm: Norm, step: StageFrames
    ) -> None:
        pass


class Work:
    """A step of a video: its memory, its frames, and the passes that carry it out."""

    def __init__(self, passes: Passes, space: Space, step: StageFrames) -> None:
        self.passes, self.space, self.step = passes, space, step

    def at(self, step: StageFrames) -> Work:
        """The same video, other frames."""
        return Work(self.passes, self.space, step)

    def convolve(
        self,
        convolution: Convolution,
        source: Frames,
        source_start: int | None = None,
        *,
        around: Frames | None = None,
        summed: Frames | None = None,
        then: Entry | None = None,
        pixels: Pixels | None = None,
    ) -> None:
        """Convolve, add ``around``, write ``summed``, and normalize into where ``then`` reads."""
        start = self.step.start if source_start is None else source_start
        job = ConvolutionCall(convolution, self.step, source, start, around, summed, pixels=pixels)
        if then is None:
            self.passes.convolve(self.space, job)
            return
        height, width = source.size
        size = (2 * height, 2 * width) if convolution.enlarging else (height, width)
        ring = self.space.ring(then.convolution, self.step, size)
        if self.passes.fuses(job):
            self.passes.convolve(self.space, replace(job, normed=ring, norm=then.norm))
            return
        if summed is None:
            summed = self.space.scratch("sums", self.step.frames, size, convolution.out)
        self.passes.convolve(self.space, replace(job, summed=summed))
        self.passes.norm(self.space, summed, ring, then.norm, self.step)

    def norm(self, source: Frames, then: Entry) -> None:
        """Normalize what no convolution has left that way into where ``then`` reads."""
        ring = self.space.ring(then.convolution, self.step, source.size)
        self.passes.norm(self.space, source, ring, then.norm, self.step)


class ResidualBlock:
    """`WanResidualBlock`: norm, convolution, norm, convolution, and the way around them.

    Its first norm is a part of whatever comes before it: ``entry``.
    """

    def __init__(self, source: Any) -> None:
        self.entry = Entry(Norm.of(source.norm1), Convolution(source.conv1))
        self.middle = Entry(Norm.of(source.norm2), Convolution(source.conv2))
        same = isinstance(source.conv_shortcut, torch.nn.Identity)
        self.shortcut = None if same else source.conv_shortcut

    def __call__(
        self, work: Work, given: Frames, then: Entry | None, keep: bool, to: Frames | None = None
    ) -> Frames:
        """``given``: what ``entry`` was made of. ``keep``: the sums are needed, not only ``then``.

        ``to``: where the sums go if not over ``given``.
        """
        step, size = work.step, given.size
        first, second = self.entry.convolution, self.middle.convolution
        work.convolve(first, work.space.ring(first, step, size), then=self.middle)
        around, out = given, given
        if self.shortcut is not None:  # a 1x1x1 convolution is a matrix product
            around = work.space.scratch("around", step.frames, size, second.out)
            rows = given.data[: step.frames].flatten(0, 2)
            around.data[: step.frames].flatten(0, 2).copy_(_product(rows, self.shortcut))
            out = work.space.scratch("stage", step.frames, size, second.out)
        ring = work.space.ring(second, step, size)
        summed = (to or out) if keep else None
        work.convolve(second, ring, around=around, summed=summed, then=then)
        return out


class Attention:
    """`WanAttentionBlock`: one head over the pixels of each frame; in place."""

    def __init__(self, source: Any) -> None:
        self.norm = Norm.of(source.norm, activate=False)
        self.to_qkv, self.proj = source.to_qkv, source.proj

    def __call__(self, work: Work, frames: Frames) -> None:
        count = work.step.frames
        normed = work.space.scratch("attention", count, frames.size, frames.channels)
        work.passes.norm(work.space, frames, normed, self.norm, work.step)
        inner = normed.inner()[:count]
        rows = inner.reshape(count, 1, -1, frames.channels)  # [T, one head, H * W, C]
        query, key, value = _product(rows, self.to_qkv).chunk(3, dim=-1)
        seen = F.scaled_dot_product_attention(query, key, value)
        frames.inner()[:count] += _product(seen, self.proj).view_as(inner)


def _product(rows: torch.Tensor, source: Any) -> torch.Tensor:
    """A convolution of a single tap, as the matrix product it is."""
    weight, bias = source.weight.flatten(1), source.bias
    return F.linear(rows, weight.to(rows.device), bias.to(rows.device))


class Duplication:
    """`DupUp3D`, the way around a stage of Wan 2.2: repeats, over time and space, added in place.

    Each of the ``time x 2 x 2`` positions inside an enlarged cell takes other channels.
    """

    def __init__(self, source: Any, device: torch.device) -> None:
        self.time, self.space = source.factor_t, source.factor_s
        picks = torch.arange(source.out_channels * source.factor, device=device) // source.repeats
        self.picks = picks.view(source.out_channels, self.time, self.space, self.space)

    def add(self, frames: torch.Tensor, to: torch.Tensor, start: int, first: bool) -> None:
        """Add frames [T, H, W, C in], enlarged, from enlarged frame ``start`` on, to all of ``to``.

        Of the first latent frame only its last copy is taken.
        """
        for index in range(len(to)):
            frame, t = (0, self.time - 1) if first else divmod(start + index, self.time)
            for y in range(self.space):
                for x in range(self.space):
                    cell = to[index, y :: self.space, x :: self.space]
                    cell += frames[frame][..., self.picks[:, t, y, x].to(cell.device)]


class UpStage:
    """`WanUpBlock` or `WanResidualUpBlock`: residual blocks, and what leads to the next stage."""

    def __init__(self, source: Any, device: torch.device) -> None:
        self.blocks = [ResidualBlock(block) for block in source.resnets]
        around = getattr(source, "avg_shortcut", None)
        self.around = None if around is None else Duplication(around, device)
        upsamplers = getattr(source, "upsamplers", None)
        upsampler = upsamplers[0] if upsamplers else getattr(source, "upsampler", None)
        time = getattr(upsampler, "time_conv", None)
        self.time = None if time is None else Convolution(time)
        self.enlarge = None if upsampler is None else Convolution(upsampler.resample[1])

    @property
    def entry(self) -> Entry:
        return self.blocks[0].entry


class Network:
    """`WanDecoder3d`: first convolution, middle, stages, head."""

    def __init__(self, source: Any, device: torch.device) -> None:
        self.conv_in = Convolution(source.conv_in)
        first, second = source.mid_block.resnets
        self._mid = ResidualBlock(first), ResidualBlock(second)
        self._attention = Attention(source.mid_block.attentions[0])
        self._stages = [UpStage(block, device) for block in source.up_blocks]
        self._head = Entry(Norm.of(source.norm_out), Convolution(source.conv_out))

    def convolutions(self) -> list[Convolution]:
        """All of them, in no order that matters."""
        blocks = [*self._mid, *(block for stage in self._stages for block in stage.blocks)]
        between = [one for stage in self._stages for one in (stage.time, stage.enlarge) if one]
        entries = [entry for block in blocks for entry in (block.entry, block.middle)]
        return [self.conv_in, *(entry.convolution for entry in (*entries, self._head)), *between]

    def run(self, work: Work, latents: Frames, pixels: Pixels, first: bool) -> None:
        """From the latents in the first ring to pixels; the first latent frame becomes one."""
        before, after = self._mid
        frames = work.space.scratch("stage", work.step.frames, latents.size, self.conv_in.out)
        work.convolve(self.conv_in, latents, summed=frames, then=before.entry)
        frames = before(work, frames, None, keep=True)
        self._attention(work, frames)
        work.norm(frames, after.entry)
        frames = after(work, frames, self._stages[0].entry, keep=True)
        self._stage(0, work, frames, pixels, first)

    def _stage(self, index: int, work: Work, frames: Frames, pixels: Pixels, first: bool) -> None:
        """From what the stage's first norm was made of to pixels; the first latent frame is one."""
        stage, last = self._stages[index], index + 1 == len(self._stages)
        step, space = work.step, work.space
        around = None if stage.around is None else frames.inner()[: step.frames].clone()
        doubled = stage.time is not None and not first
        to = space.ring(stage.time, step, frames.size) if stage.time and doubled else None
        for number, block in enumerate(stage.blocks, 1):
            if number < len(stage.blocks):
                frames = block(work, frames, stage.blocks[number].entry, keep=True)
            else:
                frames = block(work, frames, self._head if last else None, not last, to)
        if stage.enlarge is None:
            head = self._head.convolution
            work.convolve(head, space.ring(head, step, frames.size), pixels=pixels)
            return
        count, rate = step.frames, step.rate * (1 if stage.time is None else 2)
        if stage.time is not None and to is not None:
            count *= 2
            frames = space.scratch("pairs", count, frames.size, stage.time.out)
            work.convolve(stage.time, to, summed=frames)
        height, width = frames.size
        size, following = (2 * height, 2 * width), self._stages[index + 1]
        at_once = count if index + 1 < _EARLY_STAGES else min(count, _AT_ONCE)
        for offset in range(0, count, at_once):
            start = rate - 1 if first else step.start * count // step.frames + offset
            number = min(at_once, count - offset)
            part = work.at(StageFrames(step.clock, rate, start, number))
            larger = space.scratch("stage", number, size, stage.enlarge.out)
            then = following.entry if around is None else None
            part.convolve(stage.enlarge, frames, offset, summed=larger, then=then)
            if stage.around is not None and around is not None:
                stage.around.add(around, larger.inner()[:number], offset, first)
                part.norm(larger, following.entry)
            at = replace(pixels, start=pixels.start * count // step.frames + offset)
            self._stage(index + 1, part, larger, at, first)
