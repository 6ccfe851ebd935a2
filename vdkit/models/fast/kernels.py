"""The fast decoder's passes by Triton: a causal convolution with all that follows it, and a norm.

Frames have a border of one pixel of zeros, [H + 2, W + 2, C]. Seen as rows of C values, each tap of
a convolution is then the same rows at a fixed distance, and the convolution a sum of matrix
products over shifted rows: no padding, and the tensor memory accelerator fetches every operand.
The epilogue adds bias and the way around, normalizes, activates, and writes where the next
convolution reads.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from vdkit.decode.engines import seconds_on
from vdkit.decode.terminal import Bar
from vdkit.models.fast import Convolution, ConvolutionCall, Copies, Frames, PlainPasses, Work
from vdkit.models.fast.tiles import ALIGNED, BUDGET_S, Choices, Cut, Gpu, Resources, Shape

_NORM_VALUES = 4096  # that a program of the norm holds
EPSILON = tl.constexpr(1e-12)
"""Of torch.nn.functional.normalize, which diffusers' norm calls."""
_ROUND = tl.constexpr(12582912.0)  # 1.5 * 2**23: added and taken away, float32 rounds half to even


_INTEGERS = (
    "rows", "wide", "high", "frames", "x_slots", "x_start", "summed_slots", "summed_start",
    "normed_slots", "normed_start", "out_frames", "out_start", "out_slots", "copies_start",
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
    made = value * (1.0 / tl.maximum(tl.sqrt(square), EPSILON)) * gain
    if ACTIVATE:
        made = made / (1.0 + tl.exp(-made))
    return made


@triton.jit
def _read(
    x, slot, row, column, rows,
    ROWS: tl.constexpr, K: tl.constexpr, C: tl.constexpr, POINTERS: tl.constexpr,
):  # fmt: skip
    """[ROWS, K] from ``row`` of frame ``slot`` on; by address, what lies outside of it is 0."""
    if POINTERS:
        r = row + tl.arange(0, ROWS)[:, None]
        place = x + slot.to(tl.int64) * rows * C + r * C + column + tl.arange(0, K)[None, :]
        return tl.load(place, (r >= 0) & (r < rows), 0.0)
    else:
        return x.load([slot * rows + row, column])


@triton.jit
def _weights(
    w, k, column, K: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr, POINTERS: tl.constexpr
):
    if POINTERS:
        place = (k + tl.arange(0, K)[:, None]) * N + column + tl.arange(0, WIDTH)[None, :]
        return tl.load(w + place)
    else:
        return w.load([k, column])


@triton.jit
def _around(
    frames, at, p, p0, column, rows,
    BM: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr, POINTERS: tl.constexpr,
):  # fmt: skip
    """[BM, WIDTH] of frame ``at``, float32."""
    if POINTERS:
        place = frames + at * rows * OUT + p * OUT + column + tl.arange(0, WIDTH)[None, :]
        return tl.load(place, p < rows, 0.0).to(tl.float32)
    else:
        return frames.load([at.to(tl.int32), p0, column]).reshape(BM, WIDTH).to(tl.float32)


@triton.jit
def _copied(
    frames, at, p, column, rows, cell,
    FACTOR: tl.constexpr, REPEATS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Of frame ``at`` for each column the channel that `Copies` names, float32."""
    if FACTOR == 2 * REPEATS and frames.dtype.element_ty.primitive_bitwidth == 16:
        # One of each two: the pairs lie side by side.
        pairs = tl.cast(frames, tl.pointer_type(tl.int32), bitcast=True)
        place = pairs + at * rows * (CHANNELS // 2) + p * (CHANNELS // 2) + column
        half = tl.load(place, p < rows, 0) >> (cell // REPEATS * 16)
        value = half.to(tl.int16).to(frames.dtype.element_ty, bitcast=True)
    else:
        pick = column if REPEATS == FACTOR else (column * FACTOR + cell) // REPEATS
        place = frames + at * rows * CHANNELS + p * CHANNELS + pick
        value = tl.load(place, p < rows, 0.0)
    return value.to(tl.float32)


@triton.jit
def _write(
    frames, at, p, p0, column, rows, value,
    BM: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr, POINTERS: tl.constexpr,
):  # fmt: skip
    """[BM, WIDTH] into frame ``at``; what is beyond it is not written."""
    if POINTERS:
        place = frames + at * rows * OUT + p * OUT + column + tl.arange(0, WIDTH)[None, :]
        tl.store(place, value, p < rows)
    else:
        frames.store([at.to(tl.int32), p0, column], value.reshape(1, BM, WIDTH))


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
    copies_start,
    X_RATE: tl.constexpr, SUMMED_RATE: tl.constexpr, NORMED_RATE: tl.constexpr,
    C: tl.constexpr, N: tl.constexpr, OUT: tl.constexpr,
    KT: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr,
    ENLARGE: tl.constexpr, AROUND: tl.constexpr, SUMMED: tl.constexpr, NORMED: tl.constexpr,
    TAIL: tl.constexpr, PATCH: tl.constexpr,
    TIME: tl.constexpr, REPEATS: tl.constexpr, COPIED: tl.constexpr, POINTERS: tl.constexpr,
    BM: tl.constexpr, K: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, TT: tl.constexpr,
):  # fmt: skip
    """``frames`` output frames of a causal convolution over bordered frames.

    A program makes BM rows of TT frames and N1 + N2 of the N columns, because 96 and 192 are no
    powers of two. Frame t of the input is slot ``(clock * X_RATE + x_start + t) % x_slots``, the
    past before it; ``summed`` and ``normed`` likewise. ``control`` holds the clock and, for the
    tail, the address of the pixels and whether one was not finite.

    ENLARGE: nearest-neighbour doubling and a 3x3 convolution are, for each of the four pixels of
    an enlarged cell, a 2x2 convolution of the small picture; its weights lie one after the other.
    AROUND is then `Copies` of COPIED channels: ``around`` by TIME, from ``copies_start`` on.
    N = 2 OUT: the second half of the columns is a frame of its own, the next one.
    POINTERS: operands come by address; else by the tensor memory accelerator, as descriptors.
    TAIL: clamped pixels, 1: uint8 [F, H, W, 3], 2: [3, F, H, W] in the dtype of ``x``; each pixel
    of the convolution is PATCH x PATCH pixels of the picture.
    """
    tiles: tl.constexpr = N // (N1 + N2)
    across: tl.constexpr = tiles * (4 if ENLARGE else 1)
    pid = tl.program_id(0) // across  # those of the same rows at once: they find them in the cache
    col = tl.program_id(0) % tiles * (N1 + N2)
    phase = tl.program_id(0) % across // tiles
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
    DTYPE: tl.constexpr = x.dtype.element_ty if POINTERS else x.dtype
    k0 = phase * (KT * area * C)

    a1 = tl.zeros((BM, N1), tl.float32)
    if N2 > 0:
        a2 = tl.zeros((BM, N2), tl.float32)
    if TT == 1:
        slot = past
        row = p0 - top * wide - left
        c = 0
        x_tap = 0
        y_tap = 0
        for i in range(KT * area * blocks):
            part = _read(x, slot, row, c, rows, BM, K, C, POINTERS)
            a1 = tl.dot(part, _weights(w1, k0 + i * K, col, K, N1, N, POINTERS), a1)
            if N2 > 0:
                a2 = tl.dot(part, _weights(w2, k0 + i * K, col + N1, K, N2, N, POINTERS), a2)
            c = tl.where(c + K == C, 0, c + K)
            x_tap += (c == 0).to(tl.int32)
            row += (c == 0).to(tl.int32) + tl.where(x_tap == KX, wide - KX, 0)
            y_tap += (x_tap == KX).to(tl.int32)
            x_tap = tl.where(x_tap == KX, 0, x_tap)
            row -= tl.where(y_tap == KY, KY * wide, 0)
            slot += (y_tap == KY).to(tl.int32)
            slot = tl.where(slot == x_slots, 0, slot)
            y_tap = tl.where(y_tap == KY, 0, y_tap)
    else:  # two frames share what they read: two of their four input frames, and the weights
        b1 = tl.zeros((BM, N1), tl.float32)
        if N2 > 0:
            b2 = tl.zeros((BM, N2), tl.float32)
        row = p0 - top * wide - left
        c = 0
        x_tap = 0
        for i in range(area * blocks):
            k = i * K
            v1 = (
                _weights(w1, k, col, K, N1, N, POINTERS),
                _weights(w1, area * C + k, col, K, N1, N, POINTERS),
                _weights(w1, 2 * area * C + k, col, K, N1, N, POINTERS),
            )
            if N2 > 0:
                n = col + N1
                v2 = (
                    _weights(w2, k, n, K, N2, N, POINTERS),
                    _weights(w2, area * C + k, n, K, N2, N, POINTERS),
                    _weights(w2, 2 * area * C + k, n, K, N2, N, POINTERS),
                )
            for f in tl.static_range(4):
                part = _read(x, (past + f) % x_slots, row, c, rows, BM, K, C, POINTERS)
                if f < 3:
                    a1 = tl.dot(part, v1[f], a1)
                    if N2 > 0:
                        a2 = tl.dot(part, v2[f], a2)
                if f > 0:
                    b1 = tl.dot(part, v1[f - 1], b1)
                    if N2 > 0:
                        b2 = tl.dot(part, v2[f - 1], b2)
            c = tl.where(c + K == C, 0, c + K)
            x_tap += (c == 0).to(tl.int32)
            row += (c == 0).to(tl.int32) + tl.where(x_tap == KX, wide - KX, 0)
            x_tap = tl.where(x_tap == KX, 0, x_tap)

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
            given = s1.to(DTYPE).to(tl.float32)
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
                tl.store(address.to(tl.pointer_type(DTYPE)) + place, pixel.to(DTYPE), there)
        elif ENLARGE:
            # Neighbours here are two apart there: rows by address. One frame fits 32 bits.
            q = (2 * (p // wide) - 1 + py) * (2 * wide - 2) + 2 * (p % wide) - 1 + px
            size = (2 * high - 2) * (2 * wide - 2)
            place = q * OUT + col
            if AROUND:
                at = (copies_start + frame) // TIME
                cell = (copies_start + frame) % TIME * 4 + phase
                s1 += _copied(around, at, p, col + c1, rows, cell, TIME * 4, REPEATS, COPIED)
                if N2 > 0:
                    s2 += _copied(around, at, p, col + c2, rows, cell, TIME * 4, REPEATS, COPIED)
            if SUMMED:
                slot = (clock * SUMMED_RATE + summed_start + frame) % summed_slots
                target = summed + slot * size * OUT
                tl.store(target + place + c1, s1.to(DTYPE), inside)
                if N2 > 0:
                    tl.store(target + place + c2, s2.to(DTYPE), inside)
            if NORMED:
                slot = (clock * NORMED_RATE + normed_start + frame) % normed_slots
                target = normed + slot * size * OUT
                square = tl.sum(s1 * s1, 1)[:, None]
                if N2 > 0:
                    square += tl.sum(s2 * s2, 1)[:, None]
                made = _norm_silu(s1, square, tl.load(gain + c1), True)
                tl.store(target + place + c1, made.to(DTYPE), inside)
                if N2 > 0:
                    made = _norm_silu(s2, square, tl.load(gain + c2), True)
                    tl.store(target + place + c2, made.to(DTYPE), inside)
        else:
            # Whole rows, border included, which stays zero; what is beyond a frame is not written.
            first = col
            if N == 2 * OUT:
                frame = 2 * frame + col // OUT
                first = col % OUT
            if AROUND:
                s1 += _around(around, frame, p, p0, first, rows, BM, N1, OUT, POINTERS)
                if N2 > 0:
                    s2 += _around(around2, frame, p, p0, first + N1, rows, BM, N2, OUT, POINTERS)
            s1 = tl.where(inside, s1, 0.0)
            if N2 > 0:
                s2 = tl.where(inside, s2, 0.0)
            if SUMMED:
                at = (clock * SUMMED_RATE + summed_start + frame) % summed_slots
                made = s1.to(DTYPE)
                _write(summed, at, p, p0, first, rows, made, BM, N1, OUT, POINTERS)
                if N2 > 0:
                    made = s2.to(DTYPE)
                    _write(summed2, at, p, p0, first + N1, rows, made, BM, N2, OUT, POINTERS)
            if NORMED:
                at = (clock * NORMED_RATE + normed_start + frame) % normed_slots
                square = tl.sum(s1 * s1, 1)[:, None]
                if N2 > 0:
                    square += tl.sum(s2 * s2, 1)[:, None]
                made = _norm_silu(s1, square, tl.load(gain + c1), True)
                _write(normed, at, p, p0, 0, rows, made.to(DTYPE), BM, N1, OUT, POINTERS)
                if N2 > 0:
                    made = _norm_silu(s2, square, tl.load(gain + c2), True).to(DTYPE)
                    _write(normed2, at, p, p0, N1, rows, made, BM, N2, OUT, POINTERS)


class Launch:
    """A kernel with all that it takes."""

    def __init__(self, kernel: Any, grid: tuple[int, int], *args: Any, **options: Any) -> None:
        self.kernel, self.grid, self.args, self.options = kernel, grid, args, options
        shapes = tuple(tuple(getattr(arg, "block_shape", ())) for arg in args)
        self.key = (kernel, shapes, tuple(options.items()))  # what it is compiled for

    def run(self) -> None:
        """Launch it."""
        self.kernel[self.grid](*self.args, **self.options)

    def build(self) -> Any:
        """Compile it; one compiled on this machine before comes from Triton's cache."""
        return self.kernel.warmup(*self.args, grid=self.grid, **self.options)


@dataclass(slots=True)
class Plan:
    """What would have been launched."""

    launches: dict[Any, Launch] = field(default_factory=dict)  # one of each compiled kernel
    calls: dict[Shape, ConvolutionCall] = field(default_factory=dict)

    def build(self) -> None:
        """Compile all of it, in parallel."""
        _in_parallel([launch.build for launch in self.launches.values()])


class KernelPasses(PlainPasses):
    """A convolution with what follows it in one kernel, and a norm.

    Args:
        gpu: that they run on; None: in Triton's interpreter.
        convolutions: all that will run; their weights are laid out once, here.

    Attributes:
        choices: how convolutions are cut.
    """

    def __init__(self, gpu: Gpu | None, convolutions: Sequence[Convolution]) -> None:
        self._interpreted = gpu is None
        code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
        gpu = gpu or Gpu("interpreter", (9, 0), 1 << 20)
        self.choices = Choices(gpu, f"triton {triton.__version__} {code}")
        self._laid_out = {one: _laid_out(one) for one in convolutions}
        self._plan: Plan | None = None

    def fuses(self, call: ConvolutionCall) -> bool:
        """Whether a program holds all columns, so that it can normalize."""
        return self.choices.of(self._shape(call)).columns == call.convolution.out

    @contextmanager
    def planning(self) -> Iterator[Plan]:
        """Inside, nothing is launched; the plan says what would have been."""
        before, self._plan = self._plan, Plan()
        try:
            yield self._plan
        finally:
            self._plan = before

    def _launch(self, kernel: Any, grid: tuple[int, int], *args: Any, **options: Any) -> None:
        launch = Launch(kernel, grid, *args, **options)
        if self._plan is None:
            launch.run()
        else:
            self._plan.launches[launch.key] = launch

    def _shape(self, call: ConvolutionCall) -> Shape:
        convolution, work = call.convolution, call.work
        follows = {"a": call.around, "s": call.summed, "n": call.normed, "p": call.pixels}
        return Shape(
            convolution.channels, self._laid_out[convolution][0].shape[1], convolution.out,
            convolution.kernel, convolution.enlarging,
            "".join(letter for letter, there in follows.items() if there is not None),
            work.frames, call.source.size, str(call.source.data.dtype).removeprefix("torch."),
        )  # fmt: skip

    def tune(self, plan: Plan, tune: str) -> None:
        """Choose tiles for what ``plan`` calls, by timing on the GPU; see `tiles.Choices.tune`.

        What the calls write is lost.
        """
        shapes = [] if self._interpreted else self.choices.open(plan.calls, tune)
        if not shapes:
            return
        told = f"tuning {len(shapes)} kernels for {self.choices.gpu.name}, once, <= {BUDGET_S:g} s"
        with Bar(True, total=len(shapes), desc=told) as bar:
            launches: dict[Cut, list[Launch]] = {}

            def compiled(shape: Shape, which: list[Cut]) -> dict[Cut, Resources]:
                launches.clear()
                try:
                    for tiles in which:
                        self.choices.taken[shape] = tiles
                        with self.planning() as apart:
                            self.convolve(plan.calls[shape])
                        launches[tiles] = list(apart.launches.values())
                finally:
                    self.choices.taken.pop(shape)
                built = _in_parallel([partial(_built, one[0]) for one in launches.values()])
                found = [one and _resources(one) for one in built]
                return {t: r for t, r in zip(launches, found, strict=True) if r is not None}

            def seconds(shape: Shape, tiles: Cut) -> float:
                if (pixels := plan.calls[shape].pixels) is not None:
                    plan.calls[shape].work.space.control[1].fill_(pixels.target.data_ptr())

                def run() -> None:
                    for launch in launches[tiles]:
                        launch.run()

                run()
                return median(seconds_on(plan.calls[shape].source.data.device, run, 7))

            for _ in self.choices.tune(shapes, compiled, seconds):
                bar.add()

    def convolve(self, call: ConvolutionCall) -> None:
        """Carry out ``call``, its norm as a kernel of its own if no program can hold it."""
        shape = self._shape(call)
        if self._plan is not None:
            self._plan.calls.setdefault(shape, call)
        tiles = self.choices.of(shape)
        if call.normed is None or call.gain is None or tiles.columns == call.convolution.out:
            self._convolve(call, tiles)
            return
        apart = call.without_norm()
        assert apart.summed is not None
        self._convolve(apart, tiles)
        self.norm(call.work, apart.summed, call.normed, call.gain)

    def _convolve(self, call: ConvolutionCall, tiles: Cut) -> None:
        convolution, work, source = call.convolution, call.work, call.source
        matrix, bias = self._laid_out[convolution]
        named = {"AROUND": call.around, "SUMMED": call.summed, "NORMED": call.normed}
        for frames in (source, *named.values()):
            if frames is not None and not frames.data.is_contiguous():
                raise RuntimeError(
                    f"frames of shape {tuple(frames.data.shape)} have strides "
                    f"{frames.data.stride()}: the kernels need them contiguous"
                )
        pointers, copies = self.choices.gpu.pointers, call.copies or Copies(0, 1, 0)
        widths = (tiles.wide, tiles.narrow or tiles.wide)

        def tiled(data: torch.Tensor, shape: list[int]) -> Any:
            return data if pointers else TensorDescriptor.from_tensor(data, shape)

        places: list[Any] = []  # tiles of both column parts, or twice the address
        slots: list[int] = []
        for name, frames in named.items():
            data = source.data if frames is None else frames.data
            if frames is None or convolution.enlarging:
                places += [data, data]
            else:
                places += [tiled(data.flatten(1, 2), [1, tiles.rows, n]) for n in widths]
            if name != "AROUND":
                slots += (1, 0) if frames is None else (len(data), work.first(frames))
        height, width = source.size
        programs = triton.cdiv((height + 2) * (width + 2), tiles.rows)
        programs *= work.frames // tiles.frames * len(convolution.weights)
        programs *= matrix.shape[1] // tiles.columns
        pixels, (time, tall, broad) = call.pixels, convolution.kernel
        options: dict[str, Any] = {}
        if not self._interpreted:
            options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
            options["maxnreg"] = tiles.registers
        self._launch(
            convolve,
            (programs, 1),
            tiled(source.data.view(-1, convolution.channels), [tiles.rows, tiles.depth]),
            *(tiled(matrix, [tiles.depth, n]) for n in widths),
            bias, *places, bias if call.gain is None else call.gain, work.space.control,
            width + 2, height + 2, work.frames, len(source.data), call.source_start, *slots,
            0 if pixels is None else pixels.target.shape[2], 0 if pixels is None else pixels.start,
            copies.start,
            X_RATE=source.rate,
            SUMMED_RATE=0 if call.summed is None else call.summed.rate,
            NORMED_RATE=0 if call.normed is None else call.normed.rate,
            C=convolution.channels, N=matrix.shape[1], OUT=convolution.out,
            KT=time, KY=tall, KX=broad, ENLARGE=convolution.enlarging,
            TAIL=0 if pixels is None else 1 if pixels.target.dtype == torch.uint8 else 2,
            PATCH=1 if pixels is None else pixels.patch,
            TIME=copies.time, REPEATS=copies.repeats, POINTERS=pointers,
            COPIED=call.around.data.shape[-1] if call.around and call.copies else 0,
            **{name: frames is not None for name, frames in named.items()},
            BM=tiles.rows, K=tiles.depth, N1=tiles.wide, N2=tiles.narrow, TT=tiles.frames,
            **options,
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


def _built(launch: Launch) -> Any:
    """It compiled; None if this Triton cannot: then it is no candidate."""
    with suppress(Exception):
        return launch.build()


def _resources(built: Any) -> Resources | None:
    """What a compiled kernel takes; None if it is more than the GPU has."""
    try:
        built._init_handles()
    except triton.OutOfResources:
        return None
    return Resources(built.metadata.shared, built.n_regs, built.n_spills)


def _in_parallel(work: Sequence[Callable[[], Any]]) -> list[Any]:
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    with ThreadPoolExecutor(len(cores)) as pool:
        return [one.result() for one in [pool.submit(call) for call in work]]
