"""Sets of time intervals as pairs of integer arrays: unions, gaps and overlaps, exact to the ns.

Everything that is said about a timeline (busy, idle, hidden) is one of these few operations.
Integers, so that parts add up to the whole exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ns = NDArray[np.int64]
Intervals = tuple[Ns, Ns]
"""Starts and stops, int64 ns. Merged: sorted, not empty, neither overlapping nor touching."""


def empty() -> Intervals:
    """No intervals."""
    return np.empty(0, np.int64), np.empty(0, np.int64)


def union(starts: Ns, stops: Ns) -> Intervals:
    """Merged union of any intervals, in any order; empty ones vanish, touching ones join."""
    keep = stops > starts
    starts, stops = starts[keep], stops[keep]
    if starts.size == 0:
        return empty()
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(stops[order])
    first = np.concatenate(([True], starts[1:] > reach[:-1]))
    last = np.concatenate((first[1:], [True]))
    return starts[first], reach[last]


def clip(intervals: Intervals, window: tuple[int, int]) -> Intervals:
    """The part of merged intervals inside ``window`` (start, stop)."""
    starts = np.maximum(intervals[0], window[0])
    stops = np.minimum(intervals[1], window[1])
    keep = stops > starts
    return starts[keep], stops[keep]


def length(intervals: Intervals) -> int:
    """Sum of lengths, ns."""
    return int((intervals[1] - intervals[0]).sum())


def gaps(intervals: Intervals, window: tuple[int, int]) -> Intervals:
    """What merged intervals leave free of ``window``; the two add up to the window exactly."""
    starts, stops = clip(intervals, window)
    begin = np.concatenate((np.array([window[0]], np.int64), stops))
    end = np.concatenate((starts, np.array([window[1]], np.int64)))
    keep = end > begin
    return begin[keep], end[keep]


def overlap(one: Intervals, other: Intervals) -> Intervals:
    """Where two merged sets of intervals both are."""
    if one[0].size == 0 or other[0].size == 0:
        return empty()
    window = (int(min(one[0][0], other[0][0])), int(max(one[1][-1], other[1][-1])))
    without = (gaps(one, window), gaps(other, window))
    starts = np.concatenate((without[0][0], without[1][0]))
    stops = np.concatenate((without[0][1], without[1][1]))
    return gaps(union(starts, stops), window)
