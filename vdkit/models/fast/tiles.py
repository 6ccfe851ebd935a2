"""How a convolution is cut into programs: measured once, else by a bounded tuning on the GPU.

The tables hold for compute capability 9.0, whose GPUs they were measured on. On others, and for
shapes that they do not know, what the compiler says of registers and shared memory leaves few
candidates; these are timed, and the fastest is kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

TUNE = ("auto", "off", "force")
"""``auto``: shapes that no table knows are tuned, once; ``off``: none; ``force``: all, whatever the
cache has, once a process."""
BUDGET_S = 60.0
ALIGNED = 16  # channels: what a tensor core multiplies at once
_WORTH_FLOPS = 1 << 31  # below, a convolution takes microseconds however it is cut
_KNOWN_CHANNELS = {16, 48, 96, 192, 256, 384, 512, 1024}  # which the tables were measured with


@dataclass(frozen=True, slots=True)
class Gpu:
    """What the choice depends on; an imagined one can be compiled for, not run."""

    name: str
    capability: tuple[int, int]
    shared_bytes: int  # that a program may have

    @classmethod
    def of(cls, device: torch.device) -> Gpu:
        """The GPU ``device``."""
        found: Any = torch.cuda.get_device_properties(device)
        shared: int = found.shared_memory_per_block_optin
        return cls(found.name, (found.major, found.minor), shared)

    @property
    def pointers(self) -> bool:
        """It has no tensor memory accelerator."""
        return self.capability < (9, 0)

    @property
    def warpgroups(self) -> bool:
        """Four warps multiply together, out of shared memory."""
        return self.capability[0] == 9


@dataclass(frozen=True, slots=True)
class Shape:
    """What a convolution's speed depends on, beside the GPU."""

    channels: int
    columns: int  # of its weights: outputs, padded to 16, of a doubling one twice as many
    out: int
    kernel: tuple[int, int, int]
    enlarging: bool
    epilogue: str  # letters of what follows the sums: around, summed, normed, pixels
    frames: int
    size: tuple[int, int]  # height and width of what it reads
    dtype: str

    @property
    def flops(self) -> int:
        """Of one call."""
        taps = self.kernel[0] * self.kernel[1] * self.kernel[2] * (4 if self.enlarging else 1)
        pixels = self.frames * self.size[0] * self.size[1]
        return 2 * pixels * taps * self.channels * self.columns

    @property
    def known(self) -> bool:
        """Whether the tables were measured with it."""
        return {self.channels, self.out if self.out >= ALIGNED else ALIGNED} <= _KNOWN_CHANNELS


@dataclass(frozen=True, slots=True)
class Cut:
    """How a convolution is cut.

    Attributes:
        rows, frames: of a program.
        depth: channels of a step.
        wide, narrow: columns, in two parts where their number is no power of two.
        warps, stages: of a program; steps whose operands are on their way at once.
        registers: of a thread, so that more programs run at once; None: what the compiler takes.
    """

    rows: int
    depth: int
    wide: int
    narrow: int = 0
    frames: int = 1
    warps: int = 4
    stages: int = 3
    registers: int | None = None

    @property
    def columns(self) -> int:
        """Of a program."""
        return self.wide + self.narrow


def split(columns: int) -> tuple[int, int]:
    """Columns of a program as two powers of two, the second perhaps 0.

    All of them if that is possible up to 192, so that a program can normalize; else a divisor.
    """
    high = 1 << (columns.bit_length() - 1)
    low = columns - high
    if columns <= 192 and (low == 0 or (low >= ALIGNED and low & (low - 1) == 0)):
        return high, low
    return min(columns & -columns, 128), 0


def _pairs(shape: Shape, columns: int) -> bool:
    """Whether a program may make two frames."""
    return shape.kernel == (3, 3, 3) and columns <= 96 and shape.frames % 2 == 0


def usual(shape: Shape, gpu: Gpu) -> Cut:
    """Without tuning; of compute capability 9.0 the fastest of some twenty on an H200."""
    group = shape.out if shape.columns == 2 * shape.out else shape.columns
    wide, narrow = split(group)
    columns = wide + narrow
    depth = min(shape.channels & -shape.channels, 64)
    if gpu.warpgroups and depth == 64:
        if group % 256 == 0:  # two warpgroups with 128 sums a thread
            high, low = (128, 128) if shape.enlarging else (256, 0)
            return Cut(128, depth, high, low, warps=8)
        if group == 384 and shape.frames > 1:
            return Cut(256, depth, wide, warps=8, stages=4)
        if shape.enlarging and columns == 192:
            return Cut(64, depth, wide, narrow)
    if _pairs(shape, columns) and columns <= 16:
        return Cut(128, min(depth, 32), wide, narrow, 2, warps=8 if gpu.warpgroups else 4)
    if _pairs(shape, columns) and gpu.warpgroups:  # for three programs at once; others would spill
        return Cut(64, min(depth, 32), wide, narrow, 2, stages=2, registers=168)
    wide_sums = shape.enlarging and "a" in shape.epilogue  # and their addresses: many registers
    warps = 4 if (gpu.warpgroups and not wide_sums) or columns <= 64 else 8
    if columns > 128:  # smaller steps leave room for a second program
        return Cut(128, min(depth, 32), wide, narrow, warps=warps, stages=4)
    room = gpu.shared_bytes // (2 * depth * (128 + columns))
    return Cut(128, depth, wide, narrow, warps=warps, stages=max(1, min(3, room)))


def candidates(shape: Shape, gpu: Gpu) -> list[Cut]:
    """`usual`, and some more that are legal; the most promising first."""
    first = usual(shape, gpu)
    group = shape.out if shape.columns == 2 * shape.out else shape.columns
    cuts = [split(group)]
    if group % 256 == 0:
        cuts.append((128, 128) if shape.enlarging else (256, 0))
    most = min(shape.channels & -shape.channels, 64)
    found = [first]
    for wide, narrow in reversed(cuts):
        for rows, warps in ((128, 8), (256, 8), (128, 4), (64, 4)):
            if rows * (wide + narrow) > 128 * 256:
                continue
            for depth, stages in ((most, 3), (most, 4), (most // 2, 4)):
                if depth >= ALIGNED:
                    found.append(Cut(rows, depth, wide, narrow, 1, warps, stages))
        if gpu.warpgroups and 64 < wide + narrow <= 96:  # three programs at once, or four
            for stages, registers in ((3, 168), (4, 152), (4, 128)):
                depth = min(most, 32)
                found.append(Cut(128, depth, wide, narrow, 1, 4, stages, registers))
        if _pairs(shape, wide + narrow):
            for rows, warps, stages in ((128, 8, 2), (128, 8, 3), (64, 4, 3), (64, 8, 2)):
                depth = min(most, 32)
                found.append(Cut(rows, depth, wide, narrow, 2, warps, stages))
    return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Resources:
    """What a program takes, as the compiler says."""

    shared_bytes: int
    registers: int
    spilled_bytes: int


class Choices:
    """Cut by shape: tuned ones, else the `usual`.

    Args:
        gpu: that they are for.
        code: of the kernels, so that what was chosen for others is not taken.
    """

    def __init__(self, gpu: Gpu, code: str) -> None:
        self.gpu, self.code = gpu, code
        self.taken: dict[Shape, Cut] = {}

    def of(self, shape: Shape) -> Cut:
        """How ``shape`` is cut."""
        return self.taken.get(shape) or usual(shape, self.gpu)

    def open(self, shapes: Iterable[Shape], tune: str) -> list[Shape]:
        """Of ``shapes`` those to tune, the largest first; what the cache has of others is taken."""
        measured, left = self.gpu.capability == (9, 0), []
        for shape in shapes:
            if tune == "off" or shape.flops < _WORTH_FLOPS or shape in self.taken:
                continue
            if tune == "auto" and measured and shape.known:
                continue
            if tune == "auto" and (cached := self._cached(shape)) is not None:
                self.taken[shape] = cached
            else:
                left.append(shape)
        return sorted(left, key=lambda shape: shape.flops, reverse=True)

    def tune(
        self,
        shapes: Iterable[Shape],
        compiled: Callable[[Shape, list[Cut]], Mapping[Cut, Resources]],
        seconds: Callable[[Shape, Cut], float],
        budget_s: float = BUDGET_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> Iterator[Shape]:
        """Take and keep the fastest for each shape; yields it when done, until time is up.

        Args:
            compiled: of those that can be compiled, what they take.
            seconds: of one call, measured.
            budget_s: after so long no other is begun; what is left stays as it is.
        """
        end = clock() + budget_s
        for shape in shapes:
            if clock() >= end:
                return
            found = compiled(shape, candidates(shape, self.gpu))
            fit = {t: r for t, r in found.items() if r.shared_bytes <= self.gpu.shared_bytes}
            first = usual(shape, self.gpu)
            least = min((one.spilled_bytes for one in fit.values()), default=0)
            timed: dict[Cut, float] = {}
            for tiles, takes in fit.items():
                if tiles != first and (takes.spilled_bytes > least or clock() >= end):
                    continue
                timed[tiles] = seconds(shape, tiles)
            if timed:
                best = min(timed, key=lambda one: timed[one])
                self.taken[shape] = best
                self._keep(shape, best, timed[best])
            yield shape

    def _key(self, shape: Shape) -> dict[str, Any]:
        gpu = [self.gpu.name, *self.gpu.capability]
        return json.loads(json.dumps({"gpu": gpu, "code": self.code, "shape": asdict(shape)}))

    def _file(self, shape: Shape) -> Path:
        named = hashlib.sha256(json.dumps(self._key(shape)).encode()).hexdigest()[:24]
        return cache_folder() / "tiles" / f"{named}.json"

    def _cached(self, shape: Shape) -> Cut | None:
        """What an earlier tuning chose; None if there was none, or its file is none of ours."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            held = json.loads(self._file(shape).read_text())
            tiles = Cut(**held["tiles"])
            if held["key"] == self._key(shape) and tiles in candidates(shape, self.gpu):
                return tiles
        return None

    def _keep(self, shape: Shape, tiles: Cut, seconds: float) -> None:
        """Leave the choice for the next process; where that cannot be, it is made again there."""
        held = {"key": self._key(shape), "tiles": asdict(tiles), "seconds": seconds}
        file = self._file(shape)
        partial = file.with_name(f".{uuid.uuid4().hex}")
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_text(json.dumps(held))
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where vdkit keeps what it need not find out again: ``$XDG_CACHE_HOME/vdkit``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "vdkit"
