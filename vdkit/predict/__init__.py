"""What each step of a chunk costs: typed in, or fitted from recorded runs.

The costs of one machine, decoder, dtype, frame size and sink; `vdkit.predict.recurrence` turns them
into the timeline of any chunk size, number of slots and choice of primitives.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeGuard

import numpy as np


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one step of one chunk: ``fixed_s`` + ``per_frame_s`` x pixel frames.

    ``first_s``, if given, is the whole cost for the first chunk, whose one latent frame takes
    another way through a causal decoder and becomes one pixel frame.

    ``measured``, if given, are (pixel frames, seconds), the frames ascending, of a step that is no
    straight line, such as a copy that leaves the cache: between them the cost is interpolated,
    beyond them ``per_frame_s`` leads on.
    """

    fixed_s: float = 0.0
    per_frame_s: float = 0.0
    first_s: float | None = None
    measured: tuple[tuple[float, float], ...] = ()

    def seconds(self, frames: float, first: bool = False) -> float:
        """Cost of a chunk of ``frames`` pixel frames, s; ``first``: it is the first chunk."""
        if first and self.first_s is not None:
            return self.first_s
        if not self.measured:
            return self.fixed_s + self.per_frame_s * frames
        sizes, seconds = zip(*self.measured, strict=True)
        beyond = frames - min(max(frames, sizes[0]), sizes[-1])
        return max(0.0, float(np.interp(frames, sizes, seconds)) + self.per_frame_s * beyond)

    def check(self, name: str) -> None:
        """ValueError, with ``name``, for a part that is no duration, or sizes out of order."""
        _check_seconds(f"{name}.fixed_s", self.fixed_s)
        _check_seconds(f"{name}.per_frame_s", self.per_frame_s)
        if self.first_s is not None:
            _check_seconds(f"{name}.first_s", self.first_s)
        sizes = [size for size, _ in self.measured]
        if sizes != sorted(set(sizes)):
            remedy = "give each size once, ascending"
            raise ValueError(f"{name}.measured has the pixel frames {sizes}; {remedy}")
        for size, seconds in self.measured:
            _check_seconds(f"{name}.measured at {size} frames", seconds)

    def times(self, factor: float) -> Cost:
        """This cost ``factor`` times: 0.5 is a resource of twice the speed."""
        first_s = None if self.first_s is None else self.first_s * factor
        measured = tuple((size, seconds * factor) for size, seconds in self.measured)
        return Cost(self.fixed_s * factor, self.per_frame_s * factor, first_s, measured)


@dataclass(frozen=True, slots=True)
class Storage:
    """Storage that keeps up only so far; its speed is that of the uint8 frames handed to the sink.

    Attributes:
        mb_per_s: sustained speed in MB/s (10**6 bytes), above 0.
        burst_bytes: what a cache in front takes at the speed of the write step; it empties at the
            sustained speed, also between writes. 0: no cache, as `vdkit.ThrottledSink`.
    """

    mb_per_s: float
    burst_bytes: int = 0

    def __post_init__(self) -> None:
        check_speed(self.mb_per_s)
        if self.burst_bytes < 0:
            raise ValueError(f"burst_bytes is {self.burst_bytes}; use 0 (no cache) or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCosts:
    """Costs of every step, and of what happens once; s unless a name says otherwise.

    Attributes:
        decode: the compute stream on one chunk whose kernels are all queued.
        launch: the host's call into the decoder. On a CPU it is the decode itself.
        copy: to pinned host memory; the frames count as uint8 frames, and full-precision frames
            as ``element_bytes`` of those; None: not known, an error where it is needed.
        pageable_copy: the same to pageable memory; None: not known.
        convert: conversion of one chunk to uint8 on the host; None: not known.
        video_convert: copy and conversion of a whole video by VideoProcessor; None: not known.
        write: the call into the sink, as fast as its storage takes it; None: not known.
        storage: holds writes to a storage speed; None: ``write`` is all.
        open, close: of the sink, by the pixel frames of the whole video.
        setup_s: from the call until the sink may open and the first slot is asked for.
        step_s: the host's own work around each launch.
        wake_s: from an event of the GPU until the thread that sleeps on it goes on.
        lead: what a decode takes longer when its launch begins on an idle compute stream, because
            its first kernels are shorter than their launches.
        element_bytes: of one value of the decoder's output.
        cuda: False for a CPU: nothing is pinned, and copies block the host.
        vram_bytes: (pixel frames in the largest chunk, peak without the ring) of chunked paths.
    """

    decode: Cost
    launch: Cost = Cost()
    lead: Cost = Cost()
    copy: Cost | None = Cost()
    pageable_copy: Cost | None = None
    convert: Cost | None = None
    video_convert: Cost | None = None
    write: Cost | None = Cost()
    storage: Storage | None = None
    open: Cost = Cost()
    close: Cost = Cost()
    setup_s: float = 0.0
    step_s: float = 0.0
    wake_s: float = 0.0
    element_bytes: int = 2
    cuda: bool = True
    vram_bytes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if name.endswith("_s"):
                _check_seconds(name, value)
            elif isinstance(value, Cost):
                value.check(name)
            elif field.type == "Cost" or (field.type == "Cost | None" and value is not None):
                remedy = "give a Cost(fixed_s, per_frame_s) in seconds"
                raise TypeError(f"{name} is {value!r}; {remedy}")
        if self.element_bytes not in (2, 4):
            raise ValueError(
                f"element_bytes is {self.element_bytes!r}; use 2 (half precision) or 4 (float32)"
            )

    def known(self, name: str, needed_by: str) -> Cost:
        """The cost ``name``; ValueError, with the remedy, if it is not known."""
        cost = getattr(self, name)
        if cost is None:
            raise ValueError(
                f"{needed_by} needs the cost {name}, which is None: give StageCosts a {name}, or "
                "fit from a benchmark that ran such a path"
            )
        return cost

    def at_speed(self, mb_per_s: float | None) -> StageCosts:
        """With storage of this speed, MB/s; None: as they are."""
        return self if mb_per_s is None else replace(self, storage=Storage(mb_per_s))

    def times(self, factor: float, *names: str) -> StageCosts:
        """With these costs, where they are known, ``factor`` times: 0.5 is twice the speed."""
        known = {name: cost for name in names if (cost := getattr(self, name)) is not None}
        return replace(self, **{name: cost.times(factor) for name, cost in known.items()})

    def vram_peak_bytes(self, frames: int) -> int | None:
        """Peak without the ring when the largest chunk has ``frames`` pixel frames.

        As measured, or by the line through two or more measured sizes; None if neither is there.
        """
        measured = dict(self.vram_bytes)
        if frames in measured:
            return measured[frames]
        if len(measured) < 2:
            return None
        slope, base = np.polyfit(list(measured), list(measured.values()), 1)
        return round(base + slope * frames)


def check_speed(mb_per_s: object) -> None:
    """ValueError unless ``mb_per_s`` is a storage speed in MB/s: a byte to a petabyte a second."""
    if not _is_number(mb_per_s) or not 1e-6 <= mb_per_s <= 1e9:
        remedy = "give one above 0, from 1e-06 to 1e+09"
        raise ValueError(f"storage speed is {mb_per_s!r} MB/s; {remedy}")


def _check_seconds(name: str, value: object) -> None:
    if not _is_number(value):
        raise ValueError(f"{name} is {value!r}; give seconds as a number, 0 or more")
    if not 0 <= value <= 1e9:
        raise ValueError(f"{name} is {value}; a cost is a number of seconds, 0 to 1e9")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
