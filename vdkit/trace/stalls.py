"""Why the compute stream stood still: every gap, cut where the host turned to something else.

A gap is time inside a window in which no compute kernel runs. Gaps up to `SHORT_NS` are the usual
distance between two kernels and are summed as ``short``. A longer one gets causes: it is cut where
the host's activity or a copy begins or ends, and each piece has exactly one cause, because a
sequential path copies, converts, writes and launches within a single gap. A gap's own cause is the
one that takes most of it. Works from a run's event records alone (chunk resolution, no profiler)
and from a trace (kernel resolution).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from vdkit.decode.chunks import DecodeConfig
from vdkit.trace.timeline import (
    COMMUNICATION,
    D2H,
    KERNEL,
    Intervals,
    Ns,
    Recorded,
    Timeline,
    empty,
    gaps,
    to_ns,
    union,
)

SHORT_NS = 20_000
"""Gaps up to 20 us are counted as the usual distance between kernels, not as stalls."""

CAUSES = {
    "launch late": "the host had not launched yet although nothing blocked it",
    "synchronous copy": "blocked behind a copy to the host that nothing overlaps",
    "slot held by copy": "waiting for a slot whose copy to the host was not done",
    "slot held by sink": "waiting for a slot that the sink had not let go of",
    "host work": "conversion, write or Python between chunks",
    "device copy": "a copy or memset inside the device, which is no compute kernel",
    "fill": "before the first kernel of the run",
    "drain": "after the last kernel of the run",
    "unknown": "none of these, or the trace does not say what the host did",
    "short": "gaps of 20 us and less",
}
"""Every cause, with what it means; ``short`` is no stall but completes the sum."""


class Piece(NamedTuple):
    """A time with one cause, ns on the run's clock: part of a gap, or what the host was at."""

    start_ns: int
    stop_ns: int
    cause: str


@dataclass(frozen=True, slots=True)
class Gap:
    """One gap of the compute stream inside the window.

    Attributes:
        start_ns, stop_ns: clipped to the window.
        cause: the cause with the largest share; see `CAUSES`.
        before: the chunk whose kernel ended it, -1 if unknown or none.
        pieces: what it is made of, in order.
    """

    start_ns: int
    stop_ns: int
    cause: str
    before: int
    pieces: tuple[Piece, ...]

    @property
    def length_ns(self) -> int:
        return self.stop_ns - self.start_ns


@dataclass(frozen=True, slots=True)
class Stalls:
    """All gaps of a window.

    Attributes:
        window: (start, stop), ns.
        busy_ns: length of the union of compute intervals inside it.
        by_cause_ns: cause to ns; the sum is the window minus ``busy_ns``, exactly.
        drain_ns: what the host was at during the drain, as causes; adds up to the drain.
        gaps: those above `SHORT_NS`, in order.
        short_count: how many were shorter.
        resolution: ``chunk`` (event records) or ``kernel`` (trace).
    """

    window: tuple[int, int]
    busy_ns: int
    by_cause_ns: dict[str, int]
    drain_ns: dict[str, int]
    gaps: tuple[Gap, ...]
    short_count: int
    resolution: str

    @property
    def stall_ns(self) -> int:
        """Gaps above `SHORT_NS`, summed."""
        return sum(self.by_cause_ns.values()) - self.by_cause_ns["short"]

    @property
    def explained_percent(self) -> float:
        """Share of the stall time whose cause is not ``unknown``; 100 if there is no stall."""
        if self.stall_ns == 0:
            return 100.0
        return 100 * (1 - self.by_cause_ns["unknown"] / self.stall_ns)


def attribute(
    compute: Intervals,
    window: tuple[int, int],
    host: Host,
    next_launch: dict[int, tuple[tuple[int, int] | None, int]],
    resolution: str,
) -> Stalls:
    """Give every gap of ``compute`` inside ``window`` its causes.

    Args:
        compute: merged intervals of compute work of the whole run, ns: what lies outside of them is
            fill and drain.
        window: (start, stop), ns.
        host: what the launching thread did.
        next_launch: start of a compute interval to ((launch start, stop) or None, chunk).
        resolution: for the result.
    """
    by_cause, drain = Counter(dict.fromkeys(CAUSES, 0)), Counter[str]()
    edges = (int(compute[0][0]), int(compute[1][-1]))
    found: list[Gap] = []
    short = 0
    for start, stop in zip(*(edge.tolist() for edge in gaps(compute, window)), strict=True):
        if stop - start <= SHORT_NS:
            by_cause["short"] += stop - start
            short += 1
            continue
        launch, before = next_launch.get(stop, (None, -1))
        if stop == window[1] and stop not in next_launch:  # the window ends inside the gap
            at = int(np.searchsorted(compute[0], stop))
            if at < len(compute[0]):
                launch, before = next_launch.get(int(compute[0][at]), (None, -1))
        cuts = host.cuts(start, stop) | {t for t in launch or () if start < t < stop}
        cuts |= {t for t in edges if start < t < stop}
        points = [start, *sorted(cuts), stop]
        causes = []
        for left, right in pairwise(points):
            cause = "fill" if right <= edges[0] else host.cause(left, launch)
            if left >= edges[1]:
                drain[cause] += right - left
                cause = "drain"
            causes.append(cause)
        pieces = _joined(points, causes)
        own: Counter[str] = Counter()
        for piece in pieces:
            own[piece.cause] += piece.stop_ns - piece.start_ns
        by_cause.update(own)
        found.append(Gap(start, stop, max(own, key=own.__getitem__), before, tuple(pieces)))
    busy = window[1] - window[0] - sum(by_cause.values())
    return Stalls(window, busy, dict(by_cause), dict(drain), tuple(found), short, resolution)


def _joined(points: Sequence[int], causes: list[str]) -> list[Piece]:
    """Neighbors of one cause as one piece.

    An unknown piece of up to `SHORT_NS` is the way from the launch call, or from a copy's end, to
    the kernel's start: it goes with the piece before it, or with the launch.
    """
    pieces: list[Piece] = []
    for (left, right), cause in zip(pairwise(points), causes, strict=True):
        if cause == "unknown" and right - left <= SHORT_NS:
            cause = pieces[-1].cause if pieces else "launch late"
        if pieces and pieces[-1].cause == cause:
            pieces[-1] = Piece(pieces[-1].start_ns, right, cause)
        else:
            pieces.append(Piece(left, right, cause))
    return pieces


def stalls_from_records(
    run: Recorded, config: DecodeConfig, window: tuple[int, int] | None = None
) -> Stalls:
    """Stalls at chunk resolution, from a run's event records alone.

    Args:
        run: a `DecodeResult` or a recorded `Run`.
        config: of the run.
        window: ns since the call; None: from the first launch to the end of the run.
    """
    compute, copies, starts = record_intervals(run)
    launches: dict[int, tuple[tuple[int, int] | None, int]] = {}
    for chunk, start in zip(run.chunks, starts, strict=True):
        launch = (to_ns(chunk.launch_start_s or 0.0), to_ns(chunk.launch_done_s or 0.0))
        launches[start] = (launch, chunk.index)
    host = Host(host_activities(run, config), copies, empty(), _serial(run, config))
    return attribute(compute, window or run_window(run), host, launches, "chunk")


def record_intervals(run: Recorded) -> tuple[Intervals, Intervals, list[int]]:
    """(compute, copies to the host, start of each chunk's decode) of a run's records, ns."""
    starts = [to_ns(chunk.decode_start_s or 0.0) for chunk in run.chunks]
    stops = [to_ns(chunk.decode_done_s or 0.0) for chunk in run.chunks]
    pairs = [(chunk.copy_start_s, chunk.copy_done_s) for chunk in run.chunks]
    copies = [(to_ns(a), to_ns(b)) for a, b in pairs if a is not None and b is not None]
    table = np.array(copies, np.int64).reshape(-1, 2)
    compute = union(np.array(starts, np.int64), np.array(stops, np.int64))
    return compute, union(table[:, 0], table[:, 1]), starts


def run_window(run: Recorded) -> tuple[int, int]:
    """First launch to the end of the run (sink closed), ns since the call."""
    return to_ns(run.chunks[0].launch_start_s or 0.0), to_ns(run.latency_s)


def stalls_from_trace(timeline: Timeline, window: tuple[int, int]) -> Stalls:
    """Stalls at kernel resolution inside ``window`` (ns on the timeline's clock)."""
    kernels = timeline.kernels
    launch_start, launch_stop, threads = timeline.launches(kernels)
    launches: dict[int, tuple[tuple[int, int] | None, int]] = {}
    known = launch_start >= 0
    for start, begin, end, ok, chunk in zip(
        kernels.start_ns.tolist(), launch_start.tolist(), launch_stop.tolist(), known.tolist(),
        kernels.chunk.tolist(), strict=True,
    ):  # fmt: skip
        launches.setdefault(start, ((begin, end) if ok else None, chunk))
    lanes, counts = np.unique(kernels.lane, return_counts=True)
    compute_lane = int(lanes[np.argmax(counts)])
    to_host = timeline.gpu.of(D2H)
    on_compute = timeline.gpu.lane == compute_lane
    other = ~np.isin(timeline.gpu.kind, (KERNEL, COMMUNICATION, D2H))
    inner = timeline.gpu.where(on_compute & other)
    if timeline.run is not None and timeline.config is not None:
        activities, certain = host_activities(timeline.run, timeline.config), None
        serial = _serial(timeline.run, timeline.config)
    else:
        activities, certain = operator_activities(timeline, threads[known])
        serial = bool((to_host.lane == compute_lane).all())
    host = Host(activities, to_host.union(), inner.union(), serial, certain)
    return attribute(kernels.union(), window, host, launches, "kernel")


def _serial(run: Recorded, config: DecodeConfig) -> bool:
    return run.mode != "async" or not config.copy_stream


class Host:
    """The launching thread's activities, and the copies that a queued kernel may wait for."""

    def __init__(
        self,
        activities: Sequence[Piece],
        copies: Intervals,
        inner: Intervals,
        serial: bool,
        known: Intervals | None = None,
    ) -> None:
        """``copies``: to the host. ``inner``: inside the device, on the compute stream.
        ``serial``: copies to the host run on the compute stream or block the host.
        ``known``: when the trace tells what the host did; None: always."""
        self.known = known
        self.activities = sorted(activities)
        self.starts = [activity.start_ns for activity in self.activities]
        self.copies, self.inner, self.serial = copies, inner, serial

    def cause(self, time_ns: int, launch: tuple[int, int] | None) -> str:
        """The cause at one moment of a gap whose next kernel was launched at ``launch``."""
        if _inside(self.inner, time_ns):
            return "device copy"
        copying = _inside(self.copies, time_ns)
        if copying and self.serial:
            return "synchronous copy"
        if launch is not None and time_ns >= launch[1]:  # queued, and yet it did not start
            return "slot held by copy" if copying else "unknown"
        if self.known is not None and (
            launch is None or (time_ns < launch[0] and not _inside(self.known, time_ns))
        ):
            return "unknown"
        at = bisect_right(self.starts, time_ns) - 1
        if at >= 0 and time_ns < self.activities[at].stop_ns:
            return self.activities[at].cause
        return "host work" if launch is None or time_ns < launch[0] else "launch late"

    def cuts(self, start_ns: int, stop_ns: int) -> set[int]:
        """Moments inside a gap where the cause may change."""
        low = max(bisect_right(self.starts, start_ns) - 1, 0)
        high = bisect_right(self.starts, stop_ns)
        found = {t for a in self.activities[low:high] for t in (a.start_ns, a.stop_ns)}
        for spans in (self.copies, self.inner, self.known or empty()):
            first = int(np.searchsorted(spans[1], start_ns, side="right"))
            last = int(np.searchsorted(spans[0], stop_ns))
            found.update(int(t) for edges in spans for t in edges[first:last])
        return {t for t in found if start_ns < t < stop_ns}


def _inside(spans: Intervals, time_ns: int) -> bool:
    at = int(np.searchsorted(spans[0], time_ns, side="right")) - 1
    return at >= 0 and time_ns < int(spans[1][at])


def host_activities(run: Recorded, config: DecodeConfig) -> list[Piece]:
    """What the thread that launches was doing, from a run's records, each with its stall cause."""
    found: list[Piece] = []

    def add(start_s: float | None, stop_s: float | None, cause: str) -> None:
        if start_s is not None and stop_s is not None and stop_s > start_s:
            found.append(Piece(to_ns(start_s), to_ns(stop_s), cause))

    threaded = run.mode == "async" and config.writer_thread
    chunks = run.chunks
    for chunk in chunks:
        if not threaded:
            add(chunk.convert_start_s, chunk.convert_done_s, "host work")
            add(chunk.write_start_s, chunk.write_done_s, "host work")
        waited, acquired = chunk.slot_wait_start_s, chunk.slot_acquired_s
        if waited is not None and acquired is not None:
            held = next((c for c in reversed(chunks[: chunk.index]) if c.slot == chunk.slot), None)
            copied = (held.copy_done_s if held else None) or waited
            add(waited, min(acquired, copied), "slot held by copy")
            add(max(waited, copied), acquired, "slot held by sink")
        add(chunk.launch_start_s, chunk.launch_done_s, "launch late")
        if run.mode == "sync":  # `.to("cpu")` returns when the copy is done
            reached = chunk.convert_start_s or chunk.write_start_s
            add(chunk.launch_done_s, reached, "synchronous copy")
        elif run.mode == "async" and not config.pinned_memory:
            add(chunk.launch_done_s, chunk.copy_done_s, "synchronous copy")
        elif run.mode == "async" and not threaded:  # an inline writer waits for the copy
            reached = chunk.convert_start_s or chunk.write_start_s or run.latency_s
            add(chunk.copy_start_s, min(reached, chunk.copy_done_s or reached), "synchronous copy")
    return _disjoint(found)


def _disjoint(activities: list[Piece]) -> list[Piece]:
    """In order of start; a later one begins where the one before ends."""
    result: list[Piece] = []
    for activity in sorted(activities):
        start = max(activity.start_ns, result[-1].stop_ns) if result else activity.start_ns
        if activity.stop_ns > start:
            result.append(activity._replace(start_ns=start))
    return result


def operator_activities(timeline: Timeline, threads: Ns) -> tuple[list[Piece], Intervals]:
    """For other programs' traces: the launching threads inside operators launch, else work.

    Args:
        timeline: of the trace.
        threads: which thread launched each kernel.

    Returns:
        The activities, and when anything is known: between the first and the last operator of a
        launching thread. A thread without operators was not recorded, and may have done anything.
    """
    ops = [timeline.ops[t] for t in np.unique(threads).tolist() if t in timeline.ops]
    spans = [span for span in ops if len(span[0])]
    if not spans:
        return [], empty()
    inside = union(*(np.concatenate([span[side] for span in spans]) for side in (0, 1)))
    first, last = (np.array([span[s][at] for span in spans]) for s, at in ((0, 0), (1, -1)))
    pairs = zip(inside[0].tolist(), inside[1].tolist(), strict=True)
    return [Piece(*pair, "launch late") for pair in pairs], union(first, last)
