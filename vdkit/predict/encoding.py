"""Encoders as a part of the pipeline model: on the thread that writes, or side by side."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vdkit.decode.chunks import SEGMENT, SINK_PARTS, segment_lengths

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

    def times(self, factor: float) -> Encoding:
        """With encoders that take ``factor`` times as long."""
        return replace(self, measured=tuple((n, factor * s) for n, s in self.measured))


class Side:
    """The encoders of one run: when each is free, and the segments that are under way or wait.

    ``busy_s``: at work on threads of their own; None if there are none.
    """

    def __init__(self, costs: Encoding, frames: int) -> None:
        self.costs, self.frames = costs, frames
        self.alone = costs.encoders == 1
        self.busy_s = None if self.alone else 0.0
        self._lengths = deque(segment_lengths(frames, costs.encoders, costs.segment))
        self._free_s = [0.0] * costs.encoders
        self._under_way: deque[tuple[float, int]] = deque()  # end, frames
        self._written = self._gathered = 0

    def write(self, frames: int, begin_s: float, done_s: float) -> dict[str, float]:
        """Hand over frames, which by itself takes from ``begin_s`` to ``done_s``.

        Returns what the thread that writes spends beside that, s, by `SINK_PARTS`.
        """
        costs, spent = self.costs, dict.fromkeys(SINK_PARTS, 0.0)
        before, self._written = self._written, self._written + frames
        if self.alone:
            ready = [max(0.0, n - costs.behind) for n in (before, self._written)]
            spent["encode"] = costs.frame_s * (ready[1] - ready[0])
            spent["mux"] = costs.mux_s * frames
            return spent
        for frame in range(1, frames + 1):
            self._gathered += 1
            if self._gathered == self._lengths[0]:
                at_s = begin_s + (done_s - begin_s) * frame / frames + sum(spent.values())
                self._hand(at_s, spent)
        return spent

    def _hand(self, at_s: float, spent: dict[str, float]) -> None:
        """A whole segment, at ``at_s``: what has ended is written, and room made for it."""
        size, self._gathered = self._lengths.popleft(), 0
        most, ahead = (self.costs.encoders + 1) * self.costs.segment, self._under_way
        while ahead and (sum(n for _, n in ahead) + size > most or ahead[0][0] <= at_s):
            at_s = self._take(at_s, spent)
        took_s = self.costs.frame_s * size
        end_s = max(at_s, heapq.heappop(self._free_s)) + took_s
        heapq.heappush(self._free_s, end_s)
        ahead.append((end_s, size))
        self.busy_s = (self.busy_s or 0.0) + took_s

    def _take(self, at_s: float, spent: dict[str, float]) -> float:
        """Wait for the oldest segment and write it; returns when that is done."""
        end_s, size = self._under_way.popleft()
        spent["full"] += max(0.0, end_s - at_s)
        spent["mux"] += self.costs.mux_s * size
        return max(at_s, end_s) + self.costs.mux_s * size

    def close(self, at_s: float) -> dict[str, float]:
        """Encode and write what is left; s by `SINK_PARTS`."""
        spent = dict.fromkeys(SINK_PARTS, 0.0)
        if self.alone:
            spent["encode"] = self.costs.frame_s * min(self.costs.behind, self.frames)
        while self._under_way:
            at_s = self._take(at_s, spent)
        return spent
