"""The fast decoder's passes by Triton kernels: weights laid out for them, tiles, launches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from vdkit.models.fast import kernels
from vdkit.models.fast.layers import Convolution, ConvolutionCall, Frames, Norm, Space, StageFrames

if TYPE_CHECKING:
    from torch import Tensor

ALIGNED = 16  # channels: what a tensor core multiplies at once
_NORM_VALUES = 4096  # that a program of the norm holds


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a convolution is cut: rows, frames and columns of a program, depth of a step.

    The figures in `KernelPasses` were the fastest of some twenty on an H200.

    Attributes:
        rows, frames, depth: output rows and frames of a program; channels it multiplies at once.
        wide, narrow: columns, in two parts where their number is no power of two.
        stages: steps whose operands are on their way at once.
        registers: of a thread, at most, so that more programs run at once.
    """

    rows: int
    frames: int
    depth: int
    wide: int
    narrow: int
    stages: int
    registers: int | None = None


class KernelPasses:
    """A convolution with what follows it in one kernel, and a norm.

    Args:
        convolutions: all that will run; their weights are laid out once, here.
    """

    def __init__(self, device: torch.device, convolutions: Sequence[Convolution]) -> None:
        self._interpreted = device.type == "cpu"
        limit, self._registers = 1 << 20, None
        if not self._interpreted:
            properties: Any = torch.cuda.get_device_properties(device)
            limit = properties.shared_memory_per_block_optin
            if properties.major == 9:  # for three programs at once; later GPUs would spill
                self._registers = 168
        self._shared_bytes = limit
        self._matrices: dict[Convolution, Tensor] = {}
        self._biases: dict[Convolution, Tensor] = {}
        self._planned: dict[Any, Callable[[], object]] | None = None
        for convolution in convolutions:
            self._lay_out(convolution)

    def _lay_out(self, convolution: Convolution) -> None:
        """Lay the weights out as [taps x channels, columns], columns padded to 16."""
        columns = convolution.weights[0].shape[0]
        missing = -columns % ALIGNED
        parts = [
            weight.permute(2, 3, 4, 1, 0).reshape(-1, columns) for weight in convolution.weights
        ]
        matrix = torch.nn.functional.pad(torch.cat(parts), (0, missing))
        self._matrices[convolution] = matrix.contiguous()
        bias = torch.nn.functional.pad(convolution.bias.float(), (0, missing))
        self._biases[convolution] = bias.contiguous()

    def fuses(self, job: ConvolutionCall) -> bool:
        """Whether a program holds all columns, so that it can normalize."""
        tiles = self._tiles(job)
        return tiles.wide + tiles.narrow == job.convolution.out

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Inside, nothing is launched; on leaving, what would have been is compiled, in parallel.

        A kernel that has been compiled on this machine before comes from Triton's cache.
        """
        self._planned = {}
        try:
            yield
            builds = list(self._planned.values())
        finally:
            self._planned = None
        with ThreadPoolExecutor(_cores()) as pool:
            for built in [pool.submit(build) for build in builds]:
                built.result()

    def _launch(self, kernel: Any, grid: tuple[int, int], *args: Any, **options: Any) -> None:
        if self._planned is None:
            kernel[grid](*args, **options)
            return
        shapes = tuple(tuple(getattr(arg, "block_shape", ())) for arg in args)
        key = (kernel, shapes, tuple(options.items()))
        self._planned[key] = partial(kernel.warmup, *args, grid=grid, **options)

    def _tiles(self, job: ConvolutionCall) -> Tiles:
        convolution = job.convolution
        doubling, total = convolution.doubling, self._matrices[convolution].shape[1]
        wide, narrow = split(convolution.out if doubling else total)
        columns = wide + narrow
        depth = min(convolution.channels & -convolution.channels, 64)
        if convolution.kernel == (3, 3, 3) and columns <= 96 and job.step.frames % 2 == 0:
            rows, stages = (64, 2) if columns > 16 else (128, 3)
            registers = self._registers if columns > 16 else None
            return Tiles(rows, 2, min(depth, 32), wide, narrow, stages, registers)
        if columns > 128:  # smaller steps leave room for a second program
            return Tiles(128, 1, min(depth, 32), wide, narrow, 4)
        room = self._shared_bytes // (2 * depth * (128 + columns))
        return Tiles(128, 1, depth, wide, narrow, max(1, min(3, room)))

    def convolve(self, space: Space, job: ConvolutionCall) -> None:
        """Carry out ``job``."""
        convolution, step, tiles = job.convolution, job.step, self._tiles(job)
        matrix, source = self._matrices[convolution], job.source.data
        for frames in (job.source, job.around, job.summed, job.normed):
            if frames is not None and not frames.data.is_contiguous():
                raise RuntimeError(
                    f"frames of shape {tuple(frames.data.shape)} have strides "
                    f"{frames.data.stride()}: the kernels need them contiguous"
                )
        summed, normed, around = job.summed, job.normed, job.around
        height, width = job.source.size
        pixels = job.pixels
        tail = 0 if pixels is None else 1 if pixels.target.dtype == torch.uint8 else 2
        rows = (height + 2) * (width + 2)
        columns = matrix.shape[1] // (tiles.wide + tiles.narrow)
        grid = (
            triton.cdiv(rows, tiles.rows) * (step.frames // tiles.frames),
            columns * len(convolution.weights),
        )
        flat = source.view(-1, convolution.channels)
        time, tall, broad = convolution.kernel
        options = (
            {}
            if self._interpreted
            else {"num_warps": 4, "num_stages": tiles.stages, "maxnreg": tiles.registers}
        )
        self._launch(
            kernels.convolve,
            grid,
            TensorDescriptor.from_tensor(flat, [tiles.rows, tiles.depth]),
            TensorDescriptor.from_tensor(matrix, [tiles.depth, tiles.wide]),
            TensorDescriptor.from_tensor(matrix, [tiles.depth, tiles.narrow or tiles.wide]),
            self._biases[convolution],
            *self._parts(source, around, tiles, convolution.enlarging),
            *self._parts(source, summed, tiles, convolution.enlarging),
            *self._parts(source, normed, tiles, convolution.enlarging),
            self._biases[convolution] if job.norm is None else job.norm.gain,
            space.control,
            width + 2,
            height + 2,
            step.frames,
            job.source.slots,
            job.source_start,
            1 if summed is None else summed.slots,
            0 if summed is None else job.start(summed),
            1 if normed is None else normed.slots,
            0 if normed is None else job.start(normed),
            0 if pixels is None else pixels.target.shape[2],
            0 if pixels is None else pixels.start,
            X_RATE=job.source.rate,
            SUMMED_RATE=0 if summed is None else summed.rate,
            NORMED_RATE=0 if normed is None else normed.rate,
            C=convolution.channels,
            N=matrix.shape[1],
            OUT=convolution.out,
            KT=time,
            KY=tall,
            KX=broad,
            ENLARGE=convolution.enlarging,
            AROUND=around is not None,
            SUMMED=summed is not None,
            NORMED=normed is not None,
            TAIL=tail,
            PATCH=1 if pixels is None else pixels.patch,
            BM=tiles.rows,
            K=tiles.depth,
            N1=tiles.wide,
            N2=tiles.narrow,
            TT=tiles.frames,
            **options,
        )

    def _parts(
        self, source: Tensor, frames: Frames | None, tiles: Tiles, by_address: bool
    ) -> tuple[Tensor | TensorDescriptor, Tensor | TensorDescriptor]:
        """``frames`` as the kernel takes them: tiles of both column parts, or the address twice."""
        if frames is None or by_address:
            data = source if frames is None else frames.data
            return data, data
        data = frames.data.flatten(1, 2)
        return tuple(
            TensorDescriptor.from_tensor(data, [1, tiles.rows, columns])
            for columns in (tiles.wide, tiles.narrow or tiles.wide)
        )

    def norm(
        self, space: Space, source: Frames, target: Frames, norm: Norm, step: StageFrames
    ) -> None:
        """Normalize the step's frames of ``source`` into ``target``."""
        height, width = source.size
        rows, power = (height + 2) * (width + 2), triton.next_power_of_2(source.channels)
        block = max(1, _NORM_VALUES // power)
        options = {"RATE": target.rate, "C": source.channels, "WIDTH": power, "BLOCK": block}
        self._launch(
            kernels.norm,
            (triton.cdiv(rows, block), step.frames),
            source.data,
            target.data,
            norm.gain,
            space.control,
            rows,
            width + 2,
            height + 2,
            target.slots,
            step.start if target.rate else 0,
            **options,
            ACTIVATE=norm.activate,
        )


def _cores() -> int:
    """Logical cores that this process may use."""
    cores = getattr(os, "sched_getaffinity", None)
    return len(cores(0)) if cores else os.cpu_count() or 1


def split(columns: int) -> tuple[int, int]:
    """Columns of a program as two powers of two, the second perhaps 0.

    All of them if that is possible up to 192, so that a program can normalize; else a divisor.
    """
    high = 1 << (columns.bit_length() - 1)
    low = columns - high
    if columns <= 192 and (low == 0 or (low >= ALIGNED and low & (low - 1) == 0)):
        return high, low
    return min(columns & -columns, 128), 0
