"""What the fast decoder is built of: bordered frames, and convolutions over them.

A convolution over time reads a ring of frames in which the last ones of the chunk before are still
there: nothing is concatenated, padded or cloned.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F

from vdkit.decode import frames_to_uint8


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames with a border of one pixel of zeros, as a ring or one after the other.

    Attributes:
        data: [slots, H + 2, W + 2, C]; the border is never written.
        rate: of a ring: frames for each latent frame, by which it turns; 0: no ring.
    """

    data: torch.Tensor
    rate: int = 0

    @property
    def slots(self) -> int:
        return self.data.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width without the border."""
        return self.data.shape[1] - 2, self.data.shape[2] - 2

    @property
    def channels(self) -> int:
        return self.data.shape[3]

    def numbers(self, step: StageFrames, start: int, count: int) -> list[int]:
        """The slots of ``count`` frames from frame ``start`` of the chunk on."""
        first = step.clock * self.rate + start
        return [(first + frame) % self.slots for frame in range(count)]

    def inner(self) -> torch.Tensor:
        """[slots, H, W, C] without the border, a view."""
        return self.data[:, 1:-1, 1:-1]


@dataclass(frozen=True, slots=True)
class StageFrames:
    """Frames of one stage that are worked on at once.

    Attributes:
        clock: latent frames decoded before this chunk.
        rate: frames of the stage for each latent frame.
        start: the first frame, counted from ``clock * rate``.
        frames: how many.
    """

    clock: int
    rate: int
    start: int
    frames: int


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

    def ring(self, owner: Convolution, step: StageFrames, size: tuple[int, int]) -> Frames:
        """What ``owner`` reads: its past and the step's frames. A larger step makes it grow."""
        old = self._rings.get(owner)
        needed = owner.leading + step.frames
        if old is not None and old.slots >= needed:
            return old
        new = Frames(self._zeros(needed, *size, owner.channels), step.rate)
        if old is not None:
            before = step.start - owner.leading
            source, target = (ring.numbers(step, before, owner.leading) for ring in (old, new))
            new.data[target] = old.data[source]
        self._rings[owner] = new
        return new

    def scratch(self, name: str, frames: int, size: tuple[int, int], channels: int) -> Frames:
        """Frames that last no longer than a step; the same for the same name and size."""
        key = (name, size, channels)
        found = self._scratch.get(key)
        if found is None or found.slots < frames:
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
        return sum(
            frames.data.nbytes for frames in (*self._rings.values(), *self._scratch.values())
        )

    def clear(self) -> None:
        """Before a video begins its past is zeros, and finite."""
        self.control[2].zero_()
        for ring in self._rings.values():
            ring.data.zero_()


@dataclass(slots=True, weakref_slot=True)
class FastState:
    """One video being decoded.

    Attributes:
        latents: [T, h, w, C] after ``post_quant_conv``.
        space: what its convolutions remember.
        next_start: the latent frame that has to come next.
        ran: kind of chunk to the buffers there were when it last ran.
    """

    latents: torch.Tensor
    space: Space
    next_start: int = 0
    ran: dict[Any, int] = field(default_factory=dict)


class Convolution:
    """A causal convolution over time, one over time alone, or nearest doubling and one in space.

    Attributes:
        leading: frames of the past that it reads.
        channels, out: of its input and of each frame it makes.
        kernel: over time, height and width; of an enlarging one that of each of the four pixels
            that a pixel becomes.
        doubling: it makes two frames of one.
        weights: [out, channels, time, height, width] each; four for an enlarging one; twice as
            many outputs for a doubling one.
        bias: [out], of all frames it makes.
    """

    def __init__(self, source: Any) -> None:
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

    def release(self) -> None:
        """Leave the weights to who has laid them out in another way; only their shapes stay."""
        self._source.to("cpu")
        self.weights = [weight.to("meta") for weight in self.weights]


def _folded(weight: torch.Tensor) -> list[torch.Tensor]:
    """A 3x3 convolution of a doubled picture as four 2x2 ones of the picture itself.

    Of three neighbours in the doubled picture two are the same pixel; which two depends on where
    in its cell a pixel lies, upper left to lower right here.
    """
    exact = weight.float()
    rows = (
        torch.stack([exact[:, :, 0], exact[:, :, 1] + exact[:, :, 2]], 2),
        torch.stack([exact[:, :, 0] + exact[:, :, 1], exact[:, :, 2]], 2),
    )
    folded = []
    for half in rows:
        left, middle, right = half.unbind(3)
        for pair in ((left, middle + right), (left + middle, right)):
            folded.append(torch.stack(pair, 3)[:, :, None].to(weight.dtype))
    return folded


@dataclass(frozen=True, slots=True)
class Norm:
    """`WanRMS_norm`, and SiLU unless it is an attention's; in float32, rounded once.

    Attributes:
        gain: [C] float32.
    """

    gain: torch.Tensor
    activate: bool = True

    @classmethod
    def of(cls, source: Any, activate: bool = True) -> Norm:
        return cls(source.gamma.detach().flatten().float() * source.scale, activate)


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a residual block begins, or the head: a norm, and the convolution that reads it."""

    norm: Norm
    convolution: Convolution


@dataclass(frozen=True, slots=True)
class Pixels:
    """Where finished pixels go.

    Attributes:
        target: uint8 [F, H, W, 3], or [1, 3, F, H, W] in the decoder's dtype.
        start: the first frame of this step in it.
        patch: pixels of the picture for each of the convolution, in height and in width.
    """

    target: torch.Tensor
    patch: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class ConvolutionCall:
    """One call of a convolution: what it reads, and what is done with the sums.

    Attributes:
        source, source_start: what it reads, from which frame on.
        around: is added to the sums, but not to an enlarging convolution's; frames from 0 on.
        summed: gets the sums.
        normed: gets them normalized and activated.
        norm: how.
        pixels: gets them as pixels; then nothing else is written.
    """

    convolution: Convolution
    step: StageFrames
    source: Frames
    source_start: int
    around: Frames | None = None
    summed: Frames | None = None
    normed: Frames | None = None
    norm: Norm | None = None
    pixels: Pixels | None = None

    def start(self, frames: Frames) -> int:
        """The frame at which this step's first frame is written: scratch begins at 0."""
        return self.step.start if frames.rate else 0


class PlainPasses:
    """A convolution with what follows it, and a norm, each by torch's own operations."""

    def convolve(self, space: Space, job: ConvolutionCall) -> None:
        """Carry out ``job``."""
        step, convolution = job.step, job.convolution
        numbers = job.source.numbers(
            step, job.source_start - convolution.leading, step.frames + convolution.leading
        )
        made = _convolved(job, job.source.data[numbers])
        if convolution.doubling:
            made = made.unflatten(-1, (2, convolution.out)).movedim(3, 1).flatten(0, 1)
        if job.around is not None:
            made = made + job.around.inner()[: len(made)]
        if job.pixels is not None:
            made = made.to(job.source.data.dtype)
            finite = made.isfinite()
            space.control[2].logical_or_(~finite.all())
            _write_pixels(torch.where(finite, made, torch.nan), job.pixels)
        if job.summed is not None:
            _write(made, job.summed, step, job.start(job.summed))
        if job.normed is not None and job.norm is not None:
            _write(_normalized(made, job.norm), job.normed, step, job.start(job.normed))

    def fuses(self, job: ConvolutionCall) -> bool:
        """Whether the norm of what ``job`` makes can be a part of it."""
        return True

    def norm(
        self, space: Space, source: Frames, target: Frames, norm: Norm, step: StageFrames
    ) -> None:
        """Normalize the step's frames of ``source`` into ``target``."""
        made = _normalized(source.inner()[: step.frames], norm)
        _write(made, target, step, step.start if target.rate else 0)


def _convolved(job: ConvolutionCall, window: torch.Tensor) -> torch.Tensor:
    """[T, H, W, C out] from the bordered ``window`` [T + leading, H + 2, W + 2, C].

    On a CPU in float32, as the kernels' sums are; on CUDA cuDNN rounds them to the dtype.
    """
    convolution = job.convolution
    weights, bias = convolution.weights, convolution.bias
    if window.device.type == "cpu":
        window, bias = window.float(), bias.float()
        weights = [weight.float() for weight in weights]
    height, width = job.source.size
    if convolution.enlarging:
        made = window.new_empty(len(window), 2 * height, 2 * width, convolution.out)
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


def _normalized(frames: torch.Tensor, norm: Norm) -> torch.Tensor:
    exact = F.normalize(frames.float(), dim=-1) * norm.gain
    return F.silu(exact) if norm.activate else exact


def _write(made: torch.Tensor, target: Frames, step: StageFrames, start: int) -> None:
    slots = target.numbers(step, start, len(made))
    target.inner()[slots] = made.to(target.data.dtype)


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


def why_plain(device: torch.device, dtype: torch.dtype, channels: Sequence[int]) -> str | None:
    """Why the kernels do not run here; None if they do. ``channels``: of what they would read."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return f"its kernels need CUDA, this is {device}"
    if find_spec("triton") is None:
        return "Triton is not installed"
    odd = [count for count in channels if count % 16]
    if odd:
        return f"its kernels need multiples of 16 channels, not {odd[0]}"
    if interpreted:
        return None
    if dtype == torch.float32:
        return "its kernels are for float16 and bfloat16, this is float32"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 9:
        return f"its kernels need compute capability 9.0 or higher, this is {major}.{minor}"
    return None
