"""The fast decoder's passes in torch alone: the definition that the kernels are held to.

They run where the kernels do not: on a CPU, in float32, on GPUs without a tensor memory
accelerator.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

import torch
import torch.nn.functional as F

from vdkit.decode.pixels import frames_to_uint8
from vdkit.models.fast_layers import Frames, Job, Norm, Pixels, Space, Step


class PlainPasses:
    """A convolution with what follows it, and a norm, each by torch's own operations."""

    def convolve(self, space: Space, job: Job) -> None:
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

    def fuses(self, job: Job) -> bool:
        """Whether the norm of what ``job`` makes can be a part of it."""
        return True

    def norm(self, space: Space, source: Frames, target: Frames, norm: Norm, step: Step) -> None:
        """Normalize the step's frames of ``source`` into ``target``."""
        made = _normalized(source.inner()[: step.frames], norm)
        _write(made, target, step, step.start if target.rate else 0)


def _convolved(job: Job, window: torch.Tensor) -> torch.Tensor:
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


def _write(made: torch.Tensor, target: Frames, step: Step, start: int) -> None:
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
