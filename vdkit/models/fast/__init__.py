"""The blocks of Wan's decoder as passes over bordered frames; diffusers' names, where it has them.

A convolution is one pass, from what its ring holds to the next one's ring, with the norm between
them if a program holds all channels. In a ring the last frames of the chunk before are still
there: nothing is concatenated, padded or cloned.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F

from vdkit.decode import frames_to_uint8

_AT_ONCE = 2
"""Frames of a later stage: the kernels make two at once; more would only take more memory."""
_EARLY_STAGES = 2
"""Stages whose frames are small: all of a chunk at once fill a GPU better."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames with a border of one pixel of zeros, as a ring or one after the other."""

    data: torch.Tensor  # [slots, H + 2, W + 2, C]; the border is never written
    rate: int = 0  # of a ring: frames for each latent frame, by which it turns; 0: no ring

    @property
    def size(self) -> tuple[int, int]:
        """Height and width without the border."""
        return self.data.shape[1] - 2, self.data.shape[2] - 2

    def numbers(self, work: Work, start: int, count: int) -> list[int]:
        """The slots of ``count`` frames from frame ``start`` of the chunk on."""
        first = work.clock * self.rate + start
        return [(first + frame) % len(self.data) for frame in range(count)]

    def inner(self) -> torch.Tensor:
        """[slots, H, W, C] without the border, a view."""
        return self.data[:, 1:-1, 1:-1]


class Space:
    """The memory of one video: a ring in front of each convolution over time, and scratch.

    Attributes:
        control: int64 [3] on the device: the clock, the address that pixels go to, and 1 once a
            pixel of the video was not finite. Kernels find them there, so that a recorded graph
            need not change from chunk to chunk.
        buffers: how many have been made; the same number again means the same buffers.
        graphs: kinds of chunk as recorded CUDA graphs, which hold for these buffers.
        done: recorded behind the last chunk; None: on a CPU, or there was none.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.control = torch.zeros(3, dtype=torch.int64, device=device)
        self.buffers = 0
        self.done: torch.cuda.Event | None = None
        self.graphs: dict[Any, torch.cuda.CUDAGraph] = {}
        self._dtype = dtype
        self._rings: dict[Convolution, Frames] = {}
        self._scratch: dict[tuple[Any, ...], Frames] = {}

    def ring(self, owner: Convolution, work: Work, size: tuple[int, int]) -> Frames:
        """What ``owner`` reads: its past and the work's frames. A larger work makes it grow."""
        old = self._rings.get(owner)
        needed = owner.leading + work.frames
        if old is not None and len(old.data) >= needed:
            return old
        new = Frames(self._zeros(needed, *size, owner.channels), work.rate)
        if old is not None:
            before = work.start - owner.leading
            source, target = (ring.numbers(work, before, owner.leading) for ring in (old, new))
            new.data[target] = old.data[source]
        self._rings[owner] = new
        return new

    def scratch(self, name: str, frames: int, size: tuple[int, int], channels: int) -> Frames:
        """Frames that last no longer than a step; the same for the same name and size."""
        key = (name, size, channels)
        found = self._scratch.get(key)
        if found is None or len(found.data) < frames:
            found = self._scratch[key] = Frames(self._zeros(frames, *size, channels))
        return found

    def _zeros(self, frames: int, height: int, width: int, channels: int) -> torch.Tensor:
        self.buffers += 1
        self.graphs.clear()
        shape = (frames, height + 2, width + 2, channels)
        return torch.zeros(shape, dtype=self._dtype, device=self.control.device)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(made.data.nbytes for made in (*self._rings.values(), *self._scratch.values()))

    def clear(self) -> None:
        """Before a video begins its past is zeros, and finite."""
        self.control[2].zero_()
        for ring in self._rings.values():
            ring.data.zero_()


class Convolution:
    """A causal convolution over time, one over time alone, or nearest doubling and one in space.

    Args:
        source: of diffusers.
        norm: the `WanRMS_norm` in front of it, whose SiLU comes in between.

    Attributes:
        leading: frames of the past that it reads.
        channels, out: of its input and of each frame it makes.
        kernel: over time, height and width; of an enlarging one that of each of the four pixels
            that a pixel becomes.
        doubling: it makes two frames of one.
        weights: [out, channels, time, height, width] each; four for an enlarging one; twice as
            many outputs for a doubling one.
        bias: [out], of all frames it makes.
        gain: of ``norm``, [channels] float32; None: there is none.
    """

    def __init__(self, source: Any, norm: Any = None) -> None:
        weight = source.weight.detach()
        self._source = source
        self.enlarging = weight.dim() == 4
        self.weights = _folded(weight) if self.enlarging else [weight]
        self.kernel: tuple[int, int, int] = tuple(self.weights[0].shape[2:])
        self.leading = self.kernel[0] - 1
        self.doubling = self.kernel == (3, 1, 1)
        self.channels = weight.shape[1]
        self.out = weight.shape[0] // (2 if self.doubling else 1)
        self.bias = source.bias.detach()
        self.gain = None if norm is None else _gain(norm)

    def release(self) -> None:
        """Leave the weights to who has laid them out in another way; only their shapes stay."""
        self._source.to("cpu")
        self.weights = [weight.to("meta") for weight in self.weights]


def _gain(norm: Any) -> torch.Tensor:
    gain: torch.Tensor = norm.gamma.detach().flatten().float() * norm.scale
    return gain


def _folded(weight: torch.Tensor) -> list[torch.Tensor]:
    """A 3x3 convolution of a doubled picture as four 2x2 ones of the picture itself.

    Of three neighbours in the doubled picture two are the same pixel; which two depends on where
    in its cell a pixel lies, upper left to lower right here.
    """

    def halves(of: torch.Tensor, dim: int) -> list[torch.Tensor]:
        first, middle, last = of.unbind(dim)
        pairs = (first, middle + last), (first + middle, last)
        return [torch.stack(pair, dim) for pair in pairs]

    return [
        both[:, :, None].to(weight.dtype)
        for rows in halves(weight.float(), 2)
        for both in halves(rows, 3)
    ]


@dataclass(frozen=True, slots=True)
class Pixels:
    """Where finished pixels go."""

    target: torch.Tensor  # uint8 [F, H, W, 3], or [1, 3, F, H, W] in the decoder's dtype
    patch: int  # pixels of the picture for each of the convolution, in height and in width
    start: int = 0  # the first frame of this work in it


@dataclass(frozen=True, slots=True)
class Copies:
    """`DupUp3D`, the way around a stage of Wan 2.2: repeats, over time and space.

    Channel c of position (t, y, x) in a cell of ``time x 2 x 2`` is channel
    ``(4 * time * c + 4 * t + 2 * y + x) // repeats`` of what is repeated.
    """

    time: int
    repeats: int
    channels: int  # of what it makes
    start: int = 0  # the first frame, of those that it makes

    def of(self, frames: torch.Tensor, count: int) -> torch.Tensor:
        """``count`` enlarged frames [T, 2 H, 2 W, ``channels``] of ``frames`` [T, H, W, C]."""
        _, height, width, _ = frames.shape
        made = frames.new_empty(count, 2 * height, 2 * width, self.channels)
        first = torch.arange(self.channels, device=frames.device) * self.time * 4
        for index in range(count):
            frame, t = divmod(self.start + index, self.time)
            for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
                picks = (first + 4 * t + 2 * y + x) // self.repeats
                made[index, y::2, x::2] = frames[frame][..., picks]
        return made


@dataclass(frozen=True, slots=True)
class ConvolutionCall:
    """One call of a convolution: what it reads, and what is done with the sums."""

    convolution: Convolution
    work: Work
    source: Frames
    source_start: int  # the frame of ``source`` to read from
    around: Frames | None = None  # added to the sums, from frame 0 on
    copies: Copies | None = None  # of an enlarging one, how ``around`` is enlarged first
    summed: Frames | None = None  # gets the sums
    normed: Frames | None = None  # gets them normalized and activated
    gain: torch.Tensor | None = None  # by which
    pixels: Pixels | None = None  # gets them as pixels; then nothing else is written

    def without_norm(self) -> ConvolutionCall:
        """With sums to normalize afterwards."""
        assert self.normed is not None
        size, out = self.normed.size, self.convolution.out
        summed = self.summed or self.work.space.scratch("sums", self.work.frames, size, out)
        return replace(self, summed=summed, normed=None, gain=None)


class PlainPasses:
    """A convolution with what follows it, and a norm, each by torch's own operations."""

    def convolve(self, call: ConvolutionCall) -> None:
        """Carry out ``call``."""
        work, convolution, leading = call.work, call.convolution, call.convolution.leading
        start, count = call.source_start - leading, work.frames + leading
        made = _convolved(convolution, call.source.data[call.source.numbers(work, start, count)])
        if convolution.doubling:
            made = made.unflatten(-1, (2, convolution.out)).movedim(3, 1).flatten(0, 1)
        if call.around is not None:
            around = call.around.inner()
            made = made + (
                call.copies.of(around, len(made)) if call.copies else around[: len(made)]
            )
        if call.pixels is not None:
            made = made.to(call.source.data.dtype)
            finite = made.isfinite()
            work.space.control[2].logical_or_(~finite.all())
            _write_pixels(torch.where(finite, made, torch.nan), call.pixels)
        if call.summed is not None:
            work.write(made, call.summed)
        if call.normed is not None and call.gain is not None:
            work.write(_normalized(made, call.gain), call.normed)

    def fuses(self, call: ConvolutionCall) -> bool:
        """Whether the norm of what ``call`` makes, if there is one, is a part of it."""
        return True

    def norm(
        self, work: Work, source: Frames, target: Frames, gain: torch.Tensor, silu: bool = True
    ) -> None:
        """Normalize the work's frames of ``source`` into ``target``; in float32, rounded once."""
        work.write(_normalized(source.inner()[: work.frames], gain, silu), target)


class ImaginedPasses(PlainPasses):
    """For a walk that takes no memory: torch's on the device meta, fused as the ``real`` ones."""

    def __init__(self, real: PlainPasses) -> None:
        self._real = real

    def convolve(self, call: ConvolutionCall) -> None:
        """Carry out ``call``."""
        whole = call.normed is None or self._real.fuses(call)
        super().convolve(call if whole else call.without_norm())


def _convolved(convolution: Convolution, window: torch.Tensor) -> torch.Tensor:
    """[T, H, W, C out] from the bordered ``window`` [T + leading, H + 2, W + 2, C].

    On a CPU in float32, as the kernels' sums are; on CUDA cuDNN rounds them to the dtype.
    """
    window = window.float() if window.device.type == "cpu" else window
    bias = convolution.bias.to(window)
    weights = [weight.to(window) for weight in convolution.weights]
    if convolution.enlarging:
        count, height, width = (window.shape[0], window.shape[1] - 2, window.shape[2] - 2)
        made = window.new_empty(count, 2 * height, 2 * width, convolution.out)
        for phase, weight in enumerate(weights):
            y, x = divmod(phase, 2)
            part = window[:, y : y + height + 1, x : x + width + 1].permute(0, 3, 1, 2)
            cells = F.conv2d(part, weight[:, :, 0], bias)
            made[:, y::2, x::2] = cells.permute(0, 2, 3, 1)
        return made
    if convolution.kernel[1:] == (1, 1):
        window = window[:, 1:-1, 1:-1]
    volume = F.conv3d(window.permute(3, 0, 1, 2)[None], weights[0], bias)
    return volume[0].permute(1, 2, 3, 0)


def _normalized(frames: torch.Tensor, gain: torch.Tensor, silu: bool = True) -> torch.Tensor:
    exact = F.normalize(frames.float(), dim=-1) * gain.to(frames.device)
    return F.silu(exact) if silu else exact


def _write_pixels(made: torch.Tensor, pixels: Pixels) -> None:
    """[F, H, W, 3 x patch x patch] into the frames from ``pixels.start`` on.

    In the decoder's dtype already, so that both kinds of target hold the same picture.
    """
    count, height, width, _ = made.shape
    size = pixels.patch
    cells = made.clamp(-1.0, 1.0).view(count, height, width, 3, size, size)
    planes = cells.permute(3, 0, 1, 5, 2, 4).reshape(3, count, height * size, width * size)
    stop = pixels.start + count
    if pixels.target.dtype == torch.uint8:
        frames_to_uint8(planes[None], pixels.target[pixels.start : stop])
    else:
        pixels.target[0, :, pixels.start : stop] = planes


class KernelError(RuntimeError):
    """This Triton, or its compiler, makes none of a kernel."""


def why_plain(device: torch.device, dtype: torch.dtype, channels: Sequence[int]) -> str | None:
    """Why the kernels do not run here; None if they do. ``channels``: of what they would read."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return f"its kernels need CUDA, this is {device}"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if odd := [count for count in channels if count % 16]:
        return f"its kernels need multiples of 16 channels, not {odd[0]}"
    if interpreted:
        return None
    if dtype == torch.float32:
        return "its kernels are for float16 and bfloat16, this is float32"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"its kernels need compute capability 8.0 or higher, this is {major}.{minor}"
    return None


@dataclass(frozen=True, slots=True)
class Work:
    """Frames of one stage of a video that are worked on at once: by what, in which memory."""

    passes: PlainPasses
    space: Space
    clock: int  # latent frames decoded before this chunk
    rate: int  # frames of the stage for each latent frame
    start: int  # the first frame, counted from ``clock * rate``
    frames: int  # how many

    def first(self, target: Frames) -> int:
        """The frame at which the first one is written: scratch begins at 0."""
        return self.start if target.rate else 0

    def write(self, made: torch.Tensor, target: Frames) -> None:
        """Round [F, H, W, C] into ``target``."""
        slots = target.numbers(self, self.first(target), len(made))
        target.inner()[slots] = made.to(target.data.dtype)

    def convolve(
        self, convolution: Convolution, source: Frames, source_start: int | None = None, *,
        around: Frames | None = None, copies: Copies | None = None, summed: Frames | None = None,
        then: Convolution | None = None, pixels: Pixels | None = None,
    ) -> None:  # fmt: skip
        """Convolve, add ``around``, write ``summed``, and normalize into where ``then`` reads."""
        start = self.start if source_start is None else source_start
        normed = gain = None
        if then is not None:
            height, width = source.size
            size = (2 * height, 2 * width) if convolution.enlarging else (height, width)
            normed, gain = self.space.ring(then, self, size), then.gain
        self.passes.convolve(ConvolutionCall(
            convolution, self, source, start, around, copies, summed, normed, gain, pixels,
        ))  # fmt: skip

    def norm(self, source: Frames, then: Convolution) -> None:
        """Normalize what no convolution has left that way into where ``then`` reads."""
        assert then.gain is not None
        self.passes.norm(self, source, self.space.ring(then, self, source.size), then.gain)


class ResidualBlock:
    """`WanResidualBlock`: norm, convolution, norm, convolution, and the way around them.

    Its first norm is a part of whatever comes before it.
    """

    def __init__(self, source: Any) -> None:
        self.first = Convolution(source.conv1, source.norm1)
        self.second = Convolution(source.conv2, source.norm2)
        same = isinstance(source.conv_shortcut, torch.nn.Identity)
        self.shortcut = None if same else source.conv_shortcut

    def __call__(
        self, work: Work, given: Frames, then: Convolution | None, keep: bool = True,
        to: Frames | None = None,
    ) -> Frames:  # fmt: skip
        """``given``: what the first norm was of. ``keep``: the sums are needed, not only ``then``.

        ``to``: where the sums go if not over ``given``.
        """
        space, size = work.space, given.size
        work.convolve(self.first, space.ring(self.first, work, size), then=self.second)
        around, out = given, given
        if self.shortcut is not None:  # a 1x1x1 convolution is a matrix product
            around = space.scratch("around", work.frames, size, self.second.out)
            rows = given.data[: work.frames].flatten(0, 2)
            around.data[: work.frames].flatten(0, 2).copy_(_product(rows, self.shortcut))
            out = space.scratch("stage", work.frames, size, self.second.out)
        ring = space.ring(self.second, work, size)
        summed = (to or out) if keep else None
        work.convolve(self.second, ring, around=around, summed=summed, then=then)
        return out


class Attention:
    """`WanAttentionBlock`: one head over the pixels of each frame; in place."""

    def __init__(self, source: Any) -> None:
        self.gain = _gain(source.norm)
        self.to_qkv, self.proj = source.to_qkv, source.proj

    def __call__(self, work: Work, frames: Frames) -> None:
        count, channels = work.frames, len(self.gain)
        normed = work.space.scratch("attention", count, frames.size, channels)
        work.passes.norm(work, frames, normed, self.gain, False)
        inner = normed.inner()[:count]
        rows = inner.reshape(count, 1, -1, channels)  # [T, one head, H * W, C]
        query, key, value = _product(rows, self.to_qkv).chunk(3, dim=-1)
        seen = F.scaled_dot_product_attention(query, key, value)
        frames.inner()[:count] += _product(seen, self.proj).view_as(inner)


def _product(rows: torch.Tensor, source: Any) -> torch.Tensor:
    """A convolution of a single tap, as the matrix product it is."""
    weight, bias = source.weight.flatten(1), source.bias
    return F.linear(rows, weight.to(rows.device), bias.to(rows.device))


class UpStage:
    """`WanUpBlock` or `WanResidualUpBlock`: residual blocks, and what leads to the next stage."""

    def __init__(self, source: Any) -> None:
        self.blocks = [ResidualBlock(block) for block in source.resnets]
        around = getattr(source, "avg_shortcut", None)
        self.copies: Copies | None = None
        if around is not None:
            self.copies = Copies(around.factor_t, around.repeats, around.out_channels)
        upsamplers = getattr(source, "upsamplers", None)
        upsampler = upsamplers[0] if upsamplers else getattr(source, "upsampler", None)
        time = getattr(upsampler, "time_conv", None)
        self.time = None if time is None else Convolution(time)
        self.enlarge = None if upsampler is None else Convolution(upsampler.resample[1])


class Network:
    """`WanDecoder3d`: first convolution, middle, stages, head."""

    def __init__(self, source: Any) -> None:
        self.conv_in = Convolution(source.conv_in)
        first, second = source.mid_block.resnets
        self._mid = ResidualBlock(first), ResidualBlock(second)
        self._attention = Attention(source.mid_block.attentions[0])
        self._stages = [UpStage(block) for block in source.up_blocks]
        self._head = Convolution(source.conv_out, source.norm_out)

    def convolutions(self) -> list[Convolution]:
        """All of them, in no order that matters."""
        blocks = [*self._mid, *(block for stage in self._stages for block in stage.blocks)]
        pairs = [one for block in blocks for one in (block.first, block.second)]
        between = [one for stage in self._stages for one in (stage.time, stage.enlarge) if one]
        return [self.conv_in, *pairs, *between, self._head]

    def run(self, work: Work, latents: Frames, pixels: Pixels, first: bool) -> None:
        """From the latents in the first ring to pixels; the first latent frame becomes one."""
        before, after = self._mid
        frames = work.space.scratch("stage", work.frames, latents.size, self.conv_in.out)
        work.convolve(self.conv_in, latents, summed=frames, then=before.first)
        frames = before(work, frames, None)
        self._attention(work, frames)
        work.norm(frames, after.first)
        frames = after(work, frames, self._stages[0].blocks[0].first)
        self._stage(0, work, frames, pixels, first)

    def _stage(self, index: int, work: Work, frames: Frames, pixels: Pixels, first: bool) -> None:
        """From what the stage's first norm was made of to pixels; the first latent frame is one."""
        stage, head, space = self._stages[index], self._head, work.space
        around = None
        if stage.copies is not None:  # what it is made of is written over below
            channels = frames.data.shape[-1]
            around = space.scratch("copied", work.frames, frames.size, channels)
            around.data[: work.frames] = frames.data[: work.frames]
        doubled = None if first or stage.time is None else space.ring(stage.time, work, frames.size)
        *blocks, last = stage.blocks
        for block, following in zip(blocks, stage.blocks[1:], strict=True):
            frames = block(work, frames, following.first)
        if stage.enlarge is None:
            frames = last(work, frames, head, keep=False)
            work.convolve(head, space.ring(head, work, frames.size), pixels=pixels)
            return
        frames = last(work, frames, None, to=doubled)
        count, rate = work.frames, work.rate * (1 if stage.time is None else 2)
        if stage.time is not None and doubled is not None:
            count *= 2
            frames = space.scratch("pairs", count, frames.size, stage.time.out)
            work.convolve(stage.time, doubled, summed=frames)
        height, width = frames.size
        size, entry = (2 * height, 2 * width), self._stages[index + 1].blocks[0].first
        at_once = count if index + 1 < _EARLY_STAGES else min(count, _AT_ONCE)
        for offset in range(0, count, at_once):
            start = rate - 1 if first else work.start * count // work.frames + offset
            number = min(at_once, count - offset)
            part = replace(work, rate=rate, start=start, frames=number)
            larger = space.scratch("stage", number, size, stage.enlarge.out)
            copies = stage.copies  # of the first latent frame only the last is taken
            if copies is not None:
                copies = replace(copies, start=copies.time - 1 if first else offset)
            part.convolve(
                stage.enlarge, frames, offset, around=around, copies=copies, summed=larger,
                then=entry,
            )  # fmt: skip
            at = replace(pixels, start=pixels.start * count // work.frames + offset)
            self._stage(index + 1, part, larger, at, first)
