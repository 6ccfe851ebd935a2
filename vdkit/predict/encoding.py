"""Encoders as a part of the pipeline model: on the thread that writes, or side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vdkit.decode.chunks import SEGMENT, SINK_PARTS, segment_lengths
from vdkit.predict.shared import Clock, Mark, Steps, Task

Floats = NDArray[np.float64]


def line_above_zero(sizes: Floats, seconds: Floats) -> tuple[float, float]:
    """(fixed, per size) by least squares with neither below 0, of two different sizes or more."""
    table = np.column_stack([np.ones_like(sizes), sizes])
    best: list[float] = np.linalg.lstsq(table, seconds, rcond=None)[0].tolist()
    if min(best) < 0:  # the optimum lies on an edge, where one of the two parts is 0
        edges = [float(seconds.mean()), 0.0], [0.0, float(sizes @ seconds / (sizes @ sizes))]
        best = min(edges, key=lambda c: float(((table @ c - seconds) ** 2).sum()))
    return best[0], best[1]


@dataclass(frozen=True, slots=True)
class Encoding:
    """What encoding costs: on the thread that writes, or side by side on threads of their own.

    Several encoders get a segment of `vdkit.decode.chunks.segment_lengths` each, once all of its
    frames have come. Up to ``encoders`` + 1 whole segments are under way or wait; with more the
    write waits for the oldest.

    Attributes:
        encoders: how many; 1: one for all, on the thread that writes.
        measured: (encoders, seconds of one of so many on a frame), ascending. They share the cores:
            of other numbers it is as `line_above_zero` says; with one number measured only that
            one is known.
        segment: frames of a segment.
        mux_s: packets written, on the thread that writes, s a frame.
        behind: frames that an encoder on the thread that writes has still to encode at the close.
        words: of the encoder, e.g. ``x264 veryfast``.
        cores: that it was measured on; 0: not known.
    """

    encoders: int
    measured: tuple[tuple[int, float], ...]
    segment: int = SEGMENT
    mux_s: float = 0.0
    behind: float = 0.0
    words: str = ""
    cores: int = 0

    def __post_init__(self) -> None:
        if self.encoders < 1 or self.segment < 1:
            said = f"{self.encoders} encoders on segments of {self.segment} frames"
            raise ValueError(f"{said} cannot be; use 1 or more of each")
        if not self.knows(self.encoders):
            counts = ", ".join(str(count) for count, _ in self.measured) or "none"
            raise ValueError(
                f"what {self.encoders} encoders side by side take is not known, only of {counts}: "
                "record it, or fit from recordings of two other numbers of encoders"
            )

    def knows(self, encoders: int) -> bool:
        """Whether it can be told of so many."""
        return len(self.measured) > 1 or encoders in dict(self.measured)

    @property
    def frame_s(self) -> float:
        """One of ``encoders`` on a frame, s."""
        known = dict(self.measured)
        if self.encoders in known:
            return known[self.encoders]
        stays_s, grows_s = line_above_zero(*np.array(self.measured).T)
        return stays_s + grows_s * self.encoders

    @property
    def core_s(self) -> float:
        """Core-seconds that a frame takes at the most: `cores` are shared out among the encoders,
        and of the measured numbers of them that counts which left the fewest threads idle.

        ValueError if no number above 1 was measured: the threads of one work unseen.
        """
        known = [s * max(1.0, self.cores / n) for n, s in self.measured if n > 1]
        if not known or not self.cores:
            raise ValueError(
                "what encoding takes of the cores is not known: give a recording of 2 or more "
                "encoders side by side too, best of as many as cores"
            )
        return min(known)

    def times(self, factor: float) -> Encoding:
        """With encoders that take ``factor`` times as long."""
        return replace(self, measured=tuple((n, factor * s) for n, s in self.measured))


class Side:
    """The encoders of one run: what they are at, and the segments that are under way or wait.

    Its methods are parts of the process that writes. ``busy_s``: at work on threads of their own;
    None if there are none.

    Args:
        work: makes the `Task` of a step from its begin, seconds and frames.
    """

    def __init__(
        self, costs: Encoding, frames: int, clock: Clock,
        work: Callable[[str, float, float, float], Task],
    ) -> None:  # fmt: skip
        self.costs, self.frames, self._clock, self._work = costs, frames, clock, work
        self.alone = costs.encoders == 1
        self.busy_s = None if self.alone else 0.0
        lengths = segment_lengths(frames, costs.encoders, costs.segment)
        self._segments = deque((size, Mark(), Mark()) for size in lengths)  # handed over, encoded
        self._todo = iter(tuple(self._segments))  # the first to be free takes the next
        self._under_way: deque[tuple[int, Mark]] = deque()
        self._written = self._gathered = 0

    def processes(self) -> list[Steps[None]]:
        """The encoders that have a thread of their own."""
        return [] if self.alone else [self._encode() for _ in range(self.costs.encoders)]

    def _encode(self) -> Steps[None]:
        free_s = 0.0
        for size, handed, encoded in self._todo:
            begin_s = max(free_s, (yield handed))
            free_s = yield self._work("encode", begin_s, self.costs.frame_s * size, size)
            self.busy_s = (self.busy_s or 0.0) + free_s - begin_s
            self._clock.set(encoded, free_s)

    def write(
        self, frames: int, at_s: float, handing_s: float
    ) -> Steps[tuple[float, dict[str, float]]]:
        """Hand over frames, which by itself takes ``handing_s``.

        Returns when that is done, and what was spent beside it, s, by `SINK_PARTS`.
        """
        costs, spent = self.costs, dict.fromkeys(SINK_PARTS, 0.0)
        before, self._written = self._written, self._written + frames
        if self.alone:
            at_s = yield self._work("write", at_s, handing_s, frames)
            ready = [max(0.0, n - costs.behind) for n in (before, self._written)]
            at_s = yield from self._spend("encode", at_s, costs.frame_s, ready[1] - ready[0], spent)
            return (yield from self._spend("mux", at_s, costs.mux_s, frames, spent)), spent
        left = frames
        while left:
            size, handed, encoded = self._segments[0]
            piece = min(left, size - self._gathered)
            at_s = yield self._work("write", at_s, handing_s * piece / frames, piece)
            left, self._gathered = left - piece, self._gathered + piece
            if self._gathered == size:
                self._segments.popleft()
                self._gathered = 0
                at_s = yield from self._make_room(at_s, size, spent)
                self._under_way.append((size, encoded))
                self._clock.set(handed, at_s)
        return at_s, spent

    def _spend(
        self, part: str, at_s: float, frame_s: float, frames: float, spent: dict[str, float]
    ) -> Steps[float]:
        done_s = yield self._work(part, at_s, frame_s * frames, frames)
        spent[part] += done_s - at_s
        return done_s

    def _make_room(self, at_s: float, size: int, spent: dict[str, float]) -> Steps[float]:
        """What has ended is written, and the oldest waited for where too much is under way."""
        most, ahead = (self.costs.encoders + 1) * self.costs.segment, self._under_way
        while ahead and (sum(n for n, _ in ahead) + size > most or ahead[0][1].at_s is not None):
            at_s = yield from self._take(at_s, spent)
        return at_s

    def _take(self, at_s: float, spent: dict[str, float]) -> Steps[float]:
        """Wait for the oldest segment and write it; returns when that is done."""
        size, encoded = self._under_way.popleft()
        ready_s = max(at_s, (yield encoded))
        spent["full"] += ready_s - at_s
        return (yield from self._spend("mux", ready_s, self.costs.mux_s, size, spent))

    def close(self, at_s: float) -> Steps[tuple[float, dict[str, float]]]:
        """Encode and write what is left; returns as `write`."""
        spent = dict.fromkeys(SINK_PARTS, 0.0)
        if self.alone:
            left = min(self.costs.behind, self.frames)
            at_s = yield from self._spend("encode", at_s, self.costs.frame_s, left, spent)
        while self._under_way:
            at_s = yield from self._take(at_s, spent)
        return at_s, spent
