"""The fast decoder's passes by Triton: a causal convolution with all that follows it, and a norm.

Frames have a border of one pixel of zeros, [H + 2, W + 2, C]. Seen as rows of C values, each tap of
a convolution is then the same rows at a fixed distance, and the convolution a sum of matrix
products over shifted rows: no padding, and the tensor memory accelerator fetches every operand.
The epilogue adds bias and the way around, normalizes, activates, and writes where the next
convolution reads.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from vdkit.models.fast import Convolution, ConvolutionCall, Frames, PlainPasses, Work

ALIGNED = 16  # channels: what a tensor core multiplies at once
_NORM_VALUES = 4096  # that a program of the norm holds
EPSILON = tl.constexpr(1e-12)
"""Of torch.nn.functional.normalize, which diffusers' norm calls."""
_ROUND = tl.constexpr(12582912.0)  # 1.5 * 2**23: added and taken away, float32 rounds half to even


_INTEGERS = (
    "rows", "wide", "high", "frames", "x_slots", "x_start", "summed_slots", "summed_start",
    "normed_slots", "normed_start", "out_frames", "out_start", "out_slots",
)  # fmt: skip
"""Compiled once for any value of these, not again where one happens to be 1 or a multiple of 16."""


@triton.jit
def _inside(p, wide, high):
    """Whether row ``p`` of a bordered frame is a pixel, not border."""
    y = p // wide
    x = p - y * wide
    return (x > 0) & (x < wide - 1) & (y > 0) & (y < high - 1)


@triton.jit
def _norm_silu(value, square, gain, ACTIVATE: tl.constexpr):
    made = value / tl.maximum(tl.sqrt(square), EPSILON) * gain
    if ACTIVATE:
        made = made / (1.0 + tl.exp(-made))
    return made


@triton.jit(do_not_specialize=_INTEGERS)
def norm(
    frames, out, gain, control, rows, wide, high, out_slots, out_start,
    RATE: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ACTIVATE: tl.constexpr,
):  # fmt: skip
    """RMS norm over C, gain and SiLU of bordered frames; program (i, t): rows i of frame t.

    Frame t of the output goes to slot ``(clock * RATE + out_start + t) % out_slots``.
    """
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    t = tl.program_id(1)
    column = tl.arange(0, WIDTH)[None, :]
    there = _inside(p, wide, high) & (column < C)
    value = tl.load(frames + (t.to(tl.int64) * rows + p) * C + column, there, 0.0).to(tl.float32)
    factor = tl.load(gain + column, column < C, 0.0)
    made = _norm_silu(value, tl.sum(value * value, 1)[:, None], factor, ACTIVATE)
    slot = (tl.load(control) * RATE + out_start + t) % out_slots
    tl.store(out + (slot * rows + p) * C + column, made.to(out.dtype.element_ty), there)


@triton.jit(do_not_specialize=_INTEGERS)
def convolve(
    x, w1, w2, bias, around, around2, summed, summed2, normed, normed2, gain, control,
    wide, high, frames,
    x_slots, x_start, summed_slots, summed_start, normed_slots, normed_start, out_frames, out_start,
    X_RATE: tl.constexpr, SUMMED_RATE: tl.constexpr, NORMED_RATE: tl.constexpr,
    C: tl.constexpr, N: tl.constexpr, OUT: tl.constexpr,
    KT: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr,
    ENLARGE: tl.constexpr, AROUND: tl.constexpr, SUMMED: tl.constexpr, NORMED: tl.constexpr,
    TAIL: tl.constexpr, PATCH: tl.constexpr,
    BM: tl.constexpr, K: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, TT: tl.constexpr,
):  # fmt: skip
    """``frames`` output frames of a causal convolution over bordered frames.

    A program makes BM rows of TT frames and N1 + N2 of the N columns, because 96 and 192 are no
    powers of two. Frame t of the input is slot ``(clock * X_RATE + x_start + t) % x_slots``, the
    past before it; ``summed`` and ``normed`` likewise. ``control`` holds the clock and, for the
    tail, the address of the pixels and whether one was not finite.

    ENLARGE: nearest-neighbour doubling and a 3x3 convolution are, for each of the four pixels of
    an enlarged cell, a 2x2 convolution of the small picture; its weights lie one after the other.
    N = 2 OUT: the second half of the columns is a frame of its own, the next one.
    TAIL: clamped pixels, 1: uint8 [F, H, W, 3], 2: [3, F, H, W] in the dtype of ``x``; each pixel
    of the convolution is PATCH x PATCH pixels of the picture.
    """
    pid = tl.program_id(0)
    tiles: tl.constexpr = N // (N1 + N2)
    col = tl.program_id(1) % tiles * (N1 + N2)
    phase = tl.program_id(1) // tiles
    py = phase // 2
    px = phase % 2
    groups = frames // TT
    t0 = pid % groups * TT
    p0 = pid // groups * BM
    rows = wide * high
    clock = tl.load(control)
    past = ((clock * X_RATE + x_start + t0 + x_slots - (KT - 1)) % x_slots).to(tl.int32)
    top = (KY - 1) // 2 if not ENLARGE else 1 - py
    left = (KX - 1) // 2 if not ENLARGE else 1 - px
    blocks: tl.constexpr = C // K
    area: tl.constexpr = KY * KX
    k0 = phase * (KT * area * C)

    a1 = tl.zeros((BM, N1), tl.float32)
    if N2 > 0:
        a2 = tl.zeros((BM, N2), tl.float32)
    if TT == 1:
        for i in range(KT * area * blocks):
            tap = i // blocks
            row = (past + tap // area) % x_slots * rows + p0
            row += (tap // KX % KY - top) * wide + tap % KX - left
            part = x.load([row, i % blocks * K])
            a1 = tl.dot(part, w1.load([k0 + i * K, col]), a1)
            if N2 > 0:
                a2 = tl.dot(part, w2.load([k0 + i * K, col + N1]), a2)
    else:  # two frames share what they read: two of their four input frames, and the weights
        b1 = tl.zeros((BM, N1), tl.float32)
        if N2 > 0:
            b2 = tl.zeros((BM, N2), tl.float32)
        for i in range(area * blocks):
            tap = i // blocks
            row = p0 + (tap // KX - top) * wide + tap % KX - left
            c = i % blocks * K
            k = tap * C + c
            v1 = (w1.load([k, col]), w1.load([area * C + k, col]), w1.load([2 * area * C + k, col]))
            if N2 > 0:
                n = col + N1
                v2 = (w2.load([k, n]), w2.load([area * C + k, n]), w2.load([2 * area * C + k, n]))
            for f in tl.static_range(4):
                part = x.load([(past + f) % x_slots * rows + row, c])
                if f < 3:
                    a1 = tl.dot(part, v1[f], a1)
                    if N2 > 0:
                        a2 = tl.dot(part, v2[f], a2)
                if f > 0:
                    b1 = tl.dot(part, v1[f - 1], b1)
                    if N2 > 0:
                        b2 = tl.dot(part, v2[f - 1], b2)

    p = p0 + tl.arange(0, BM)[:, None]
    inside = _inside(p, wide, high)
    c1 = tl.arange(0, N1)[None, :]
    f1 = tl.load(bias + col + c1)
    if N2 > 0:
        c2 = N1 + tl.arange(0, N2)[None, :]
        f2 = tl.load(bias + col + c2)
    for t in tl.static_range(TT):
        s1 = (a1 if t == 0 else b1) + f1
        if N2 > 0:
            s2 = (a2 if t == 0 else b2) + f2
        frame = (t0 + t).to(tl.int64)
        if TAIL > 0:
            channel = c1 // (PATCH * PATCH)
            y = (p // wide - 1) * PATCH + c1 % PATCH
            across = (p % wide - 1) * PATCH + c1 // PATCH % PATCH
            tall = (high - 2) * PATCH
            broad = (wide - 2) * PATCH
            there = inside & (c1 < OUT)
            given = s1.to(x.dtype).to(tl.float32)
            pixel = tl.minimum(tl.maximum(given, -1.0), 1.0)
            broken = there & ~(tl.abs(given) < float("inf"))
            tl.store(control + 2, 1, tl.max(tl.max(broken.to(tl.int32), 1), 0) > 0)
            address = tl.load(control + 1)
            frame += out_start
            if TAIL == 1:
                level = (pixel * 0.5 + 0.5) * 255.0
                place = ((frame * tall + y) * broad + across) * 3 + channel
                target = address.to(tl.pointer_type(tl.uint8)) + place
                tl.store(target, ((level + _ROUND) - _ROUND).to(tl.uint8), there)
            else:
                place = ((channel * out_frames + frame) * tall + y) * broad + across
                pixel = tl.where(broken, float("nan"), pixel)
                tl.store(address.to(tl.pointer_type(x.dtype)) + place, pixel.to(x.dtype), there)
        elif ENLARGE:
            # Neighbours here are two apart there: rows by address. One frame fits 32 bits.
            q = (2 * (p // wide) - 1 + py) * (2 * wide - 2) + 2 * (p % wide) - 1 + px
            size = (2 * high - 2) * (2 * wide - 2)
            place = q * OUT + col
            if SUMMED:
                slot = (clock * SUMMED_RATE + summed_start + frame) % summed_slots
                target = summed + slot * size * OUT
                tl.store(target + place + c1, s1.to(x.dtype), inside)
                if N2 > 0:
                    tl.store(target + place + c2, s2.to(x.dtype), inside)
            if NORMED:
                slot = (clock * NORMED_RATE + normed_start + frame) % normed_slots
                target = normed + slot * size * OUT
                square = tl.sum(s1 * s1, 1)[:, None]
                if N2 > 0:
                    square += tl.sum(s2 * s2, 1)[:, None]
                made = _norm_silu(s1, square, tl.load(gain + c1), True)
                tl.store(target + place + c1, made.to(x.dtype), inside)
                if N2 > 0:
                    made = _norm_silu(s2, square, tl.load(gain + c2), True)
                    tl.store(target + place + c2, made.to(x.dtype), inside)
        else:
            # Whole rows, border included, which stays zero; what is beyond a frame is not written.
            first = col
            if N == 2 * OUT:
                frame = 2 * frame + col // OUT
                first = col % OUT
            if AROUND:
                at = frame.to(tl.int32)
                s1 += around.load([at, p0, first]).reshape(BM, N1).to(tl.float32)
                if N2 > 0:
                    s2 += around2.load([at, p0, first + N1]).reshape(BM, N2).to(tl.float32)
            s1 = tl.where(inside, s1, 0.0)
            if N2 > 0:
                s2 = tl.where(inside, s2, 0.0)
            if SUMMED:
                at = ((clock * SUMMED_RATE + summed_start + frame) % summed_slots).to(tl.int32)
                summed.store([at, p0, first], s1.to(x.dtype).reshape(1, BM, N1))
                if N2 > 0:
                    summed2.store([at, p0, first + N1], s2.to(x.dtype).reshape(1, BM, N2))
            if NORMED:
                at = ((clock * NORMED_RATE + normed_start + frame) % normed_slots).to(tl.int32)
                square = tl.sum(s1 * s1, 1)[:, None]
                if N2 > 0:
                    square += tl.sum(s2 * s2, 1)[:, None]
                made = _norm_silu(s1, square, tl.load(gain + c1), True)
                normed.store([at, p0, 0], made.to(x.dtype).reshape(1, BM, N1))
                if N2 > 0:
                    made = _norm_silu(s2, square, tl.load(gain + c2), True)
                    normed2.store([at, p0, N1], made.to(x.dtype).reshape(1, BM, N2))


class KernelPasses(PlainPasses):
    """A convolution with what follows it in one kernel, and a norm.

    Args:
        convolutions: all that will run; their weights are laid out once, here.
    """

    def __init__(self, device: torch.device, convolutions: Sequence[Convolution]) -> None:
        self._interpreted = device.type == "cpu"
        self._shared_bytes, self._registers = 1 << 20, None
        if not self._interpreted:
            properties: Any = torch.cuda.get_device_properties(device)
            self._shared_bytes = properties.shared_memory_per_block_optin
            if properties.major == 9:  # for three programs at once; later GPUs would spill
                self._registers = 168
        self._laid_out = {one: _laid_out(one) for one in convolutions}
        self._planned: dict[Any, Callable[[], object]] | None = None

    def fuses(self, call: ConvolutionCall) -> bool:
        """Whether a program holds all columns, so that it can normalize."""
        tiles = self._tiles(call)
        return tiles["N1"] + tiles["N2"] == call.convolution.out

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
        cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
        with ThreadPoolExecutor(len(cores)) as pool:
            for built in [pool.submit(build) for build in builds]:
                built.result()

    def _launch(self, kernel: Any, grid: tuple[int, int], *args: Any, **options: Any) -> None:
        if self._planned is None:
            kernel[grid](*args, **options)
            return
        shapes = tuple(tuple(getattr(arg, "block_shape", ())) for arg in args)
        key = (kernel, shapes, tuple(options.items()))
        self._planned[key] = partial(kernel.warmup, *args, grid=grid, **options)

    def _tiles(self, call: ConvolutionCall) -> dict[str, Any]:
        """How a convolution is cut; the figures were the fastest of some twenty on an H200.

        BM, TT: rows and frames of a program. K: channels of a step. N1, N2: columns, in two parts
        where their number is no power of two. num_stages: steps whose operands are on their way at
        once. maxnreg: registers of a thread, so that more programs run at once.
        """
        convolution = call.convolution
        doubling, total = convolution.doubling, self._laid_out[convolution][0].shape[1]
        wide, narrow = split(convolution.out if doubling else total)
        columns = wide + narrow
        depth = min(convolution.channels & -convolution.channels, 64)
        rows, frames, registers = 128, 1, None
        if convolution.kernel == (3, 3, 3) and columns <= 96 and call.work.frames % 2 == 0:
            depth, frames, stages = min(depth, 32), 2, 3
            if columns > 16:
                rows, stages, registers = 64, 2, self._registers
        elif columns > 128:  # smaller steps leave room for a second program
            depth, stages = min(depth, 32), 4
        else:
            room = self._shared_bytes // (2 * depth * (128 + columns))
            stages = max(1, min(3, room))
        tiles = {"BM": rows, "K": depth, "N1": wide, "N2": narrow, "TT": frames}
        if self._interpreted:
            return tiles
        return tiles | {"num_warps": 4, "num_stages": stages, "maxnreg": registers}

    def convolve(self, call: ConvolutionCall) -> None:
        """Carry out ``call``."""
        convolution, work, source = call.convolution, call.work, call.source
        tiles = self._tiles(call)
        matrix, bias = self._laid_out[convolution]
        named = {"AROUND": call.around, "SUMMED": call.summed, "NORMED": call.normed}
        for frames in (source, *named.values()):
            if frames is not None and not frames.data.is_contiguous():
                raise RuntimeError(
                    f"frames of shape {tuple(frames.data.shape)} have strides "
                    f"{frames.data.stride()}: the kernels need them contiguous"
                )
        widths = (tiles["N1"], tiles["N2"] or tiles["N1"])
        places: list[Any] = []  # tiles of both column parts, or twice the address
        slots: list[int] = []
        for name, frames in named.items():
            data = source.data if frames is None else frames.data
            if frames is None or convolution.enlarging:
                places += [data, data]
            else:
                rows = data.flatten(1, 2)
                places += [TensorDescriptor.from_tensor(rows, [1, tiles["BM"], n]) for n in widths]
            if name != "AROUND":
                slots += (1, 0) if frames is None else (len(data), work.first(frames))
        height, width = source.size
        programs = triton.cdiv((height + 2) * (width + 2), tiles["BM"])
        columns = matrix.shape[1] // (tiles["N1"] + tiles["N2"])
        pixels, (time, tall, broad) = call.pixels, convolution.kernel
        flat = source.data.view(-1, convolution.channels)
        self._launch(
            convolve,
            (programs * (work.frames // tiles["TT"]), columns * len(convolution.weights)),
            TensorDescriptor.from_tensor(flat, [tiles["BM"], tiles["K"]]),
            *(TensorDescriptor.from_tensor(matrix, [tiles["K"], n]) for n in widths),
            bias, *places, bias if call.gain is None else call.gain, work.space.control,
            width + 2, height + 2, work.frames, len(source.data), call.source_start, *slots,
            0 if pixels is None else pixels.target.shape[2], 0 if pixels is None else pixels.start,
            X_RATE=source.rate,
            SUMMED_RATE=0 if call.summed is None else call.summed.rate,
            NORMED_RATE=0 if call.normed is None else call.normed.rate,
            C=convolution.channels, N=matrix.shape[1], OUT=convolution.out,
            KT=time, KY=tall, KX=broad, ENLARGE=convolution.enlarging,
            TAIL=0 if pixels is None else 1 if pixels.target.dtype == torch.uint8 else 2,
            PATCH=1 if pixels is None else pixels.patch,
            **{name: frames is not None for name, frames in named.items()},
            **tiles,
        )  # fmt: skip

    def norm(
        self, work: Work, source: Frames, target: Frames, gain: torch.Tensor, silu: bool = True
    ) -> None:
        """Normalize the work's frames of ``source`` into ``target``."""
        height, width = source.size
        rows, channels = (height + 2) * (width + 2), len(gain)
        power = triton.next_power_of_2(channels)
        block = max(1, _NORM_VALUES // power)
        grid = (triton.cdiv(rows, block), work.frames)
        place = (rows, width + 2, height + 2, len(target.data), work.first(target))
        constants = {"RATE": target.rate, "C": channels, "WIDTH": power, "BLOCK": block}
        tensors = (source.data, target.data, gain, work.space.control)
        self._launch(norm, grid, *tensors, *place, **constants, ACTIVATE=silu)


def _laid_out(convolution: Convolution) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights as [taps x channels, columns], columns padded to 16, and the bias."""
    columns = convolution.weights[0].shape[0]
    parts = [weight.permute(2, 3, 4, 1, 0).reshape(-1, columns) for weight in convolution.weights]
    pad = (0, -columns % ALIGNED)
    matrix, bias = F.pad(torch.cat(parts), pad), F.pad(convolution.bias.float(), pad)
    return matrix.contiguous(), bias.contiguous()


def split(columns: int) -> tuple[int, int]:
    """Columns of a program as two powers of two, the second perhaps 0.

    All of them if that is possible up to 192, so that a program can normalize; else a divisor.
    """
    high = 1 << (columns.bit_length() - 1)
    low = columns - high
    if columns <= 192 and (low == 0 or (low >= ALIGNED and low & (low - 1) == 0)):
        return high, low
    return min(columns & -columns, 128), 0
