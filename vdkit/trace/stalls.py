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
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from vdkit.decode.chunks import ChunkRecord, DecodeConfig
from vdkit.trace import (
    COMMUNICATION,
    D2H,
    KERNEL,
    Intervals,
    Ns,
    Recorded,
    Timeline,
    gaps,
    merged,
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
    "encoder full": "the same, where the sink encoded or waited for an encoder most of that write",
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
        resolution: ``chunk`` (event records) or ``kernel`` (trace).
    """

    window: tuple[int, int]
    busy_ns: int
    by_cause_ns: dict[str, int]
    drain_ns: dict[str, int]
    gaps: tuple[Gap, ...]
    resolution: str

    @property
    def pieces(self) -> list[Piece]:
        """What all gaps are made of."""
        return [piece for gap in self.gaps for piece in gap.pieces]

    @property
    def explained_percent(self) -> float:
        """Share of the stall time whose cause is not ``unknown``; 100 if there is no stall."""
        stall_ns = sum(self.by_cause_ns.values()) - self.by_cause_ns["short"]
        return 100 * (1 - self.by_cause_ns["unknown"] / stall_ns) if stall_ns else 100.0


Launches = dict[int, tuple[tuple[int, int] | None, int]]
"""Start of a compute interval to ((launch start, stop) or None, chunk)."""


def attribute(
    compute: Intervals, window: tuple[int, int], host: Host, launches: Launches, resolution: str
) -> Stalls:
    """Give every gap of ``compute`` inside ``window`` (start, stop), ns, its causes.

    Args:
        compute: merged intervals of compute work of the whole run, ns: what lies outside of them is
            fill and drain.
        host: what the launching thread did.
        launches: of the compute intervals.
        resolution: for the result.
    """
    by_cause, drain = Counter(dict.fromkeys(CAUSES, 0)), Counter[str]()
    first, last = int(compute[0][0]), int(compute[1][-1])
    edges = np.union1d(host.edges(), (first, last))
    found: list[Gap] = []
    for start, stop in zip(*(edge.tolist() for edge in gaps(compute, window)), strict=True):
        if stop - start <= SHORT_NS:
            by_cause["short"] += stop - start
            continue
        at = int(np.searchsorted(compute[0], stop))  # later than the gap if the window ends in it
        ending = int(compute[0][at]) if at < len(compute[0]) else stop
        launch, before = launches.get(ending, (None, -1))
        inside = edges[np.searchsorted(edges, start, "right") : np.searchsorted(edges, stop)]
        cuts = {*inside.tolist(), *(t for t in launch or () if start < t < stop)}
        points = [start, *sorted(cuts), stop]
        causes = []
        for left, right in pairwise(points):
            cause = "fill" if right <= first else host.cause(left, launch)
            if left >= last:
                drain[cause] += right - left
                cause = "drain"
            causes.append(cause)
        pieces = _joined(points, causes)
        own: Counter[str] = Counter()
        for piece in pieces:
            own[piece.cause] += piece.stop_ns - piece.start_ns
        by_cause.update(own)
        found.append(Gap(start, stop, max(own, key=own.__getitem__), before, tuple(pieces)))
    busy = window[1] - window[0] - by_cause.total()
    return Stalls(window, busy, dict(by_cause), dict(drain), tuple(found), resolution)


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
    launches: Launches = {
        start: ((to_ns(chunk.launch_start_s), to_ns(chunk.launch_done_s)), chunk.index)
        for chunk, start in zip(run.chunks, starts, strict=True)
    }
    host = Host(host_activities(run, config), copies, merged([]), _serial(run, config))
    return attribute(compute, window or run_window(run), host, launches, "chunk")


def record_intervals(run: Recorded) -> tuple[Intervals, Intervals, list[int]]:
    """(compute, copies to the host, start of each chunk's decode) of a run's records, ns."""
    decodes = [(to_ns(chunk.decode_start_s), to_ns(chunk.decode_done_s)) for chunk in run.chunks]
    copies = [(to_ns(chunk.copy_start_s), to_ns(chunk.copy_done_s)) for chunk in run.chunks]
    return merged(decodes), merged(copies), [start for start, _ in decodes]


def run_window(run: Recorded) -> tuple[int, int]:
    """First launch to the end of the run (sink closed), ns since the call."""
    return to_ns(run.chunks[0].launch_start_s), to_ns(run.latency_s)


def stalls_of(timeline: Timeline, window: tuple[int, int]) -> Stalls:
    """Stalls inside ``window`` (ns on the timeline's clock).

    At kernel resolution where the trace holds kernels, else from the records of its run.
    """
    kernels, gpu, run, config = timeline.kernels, timeline.gpu, timeline.run, timeline.config
    if not len(kernels):
        assert run is not None and config is not None
        return stalls_from_records(run, config, window)
    called = timeline.launches(kernels)
    launches: Launches = {}
    columns = (kernels.start_ns, *called[:2], kernels.chunk)
    for start, begin, end, chunk in zip(*(one.tolist() for one in columns), strict=True):
        launches.setdefault(start, ((begin, end) if begin >= 0 else None, chunk))
    lanes, counts = np.unique(kernels.lane, return_counts=True)
    compute_lane = lanes[np.argmax(counts)]
    to_host = gpu.of(D2H)
    other = ~np.isin(gpu.kind, (KERNEL, COMMUNICATION, D2H))
    inner = gpu.where((gpu.lane == compute_lane) & other)
    if run is not None and config is not None:
        activities, known, serial = host_activities(run, config), None, _serial(run, config)
    else:
        activities, known = operator_activities(timeline, called[2][called[0] >= 0])
        serial = bool((to_host.lane == compute_lane).all())
    host = Host(activities, to_host.union(), inner.union(), serial, known)
    return attribute(kernels.union(), window, host, launches, "kernel")


def _serial(run: Recorded, config: DecodeConfig) -> bool:
    return run.mode != "async" or not config.copy_stream


@dataclass(frozen=True, slots=True)
class Host:
    """The launching thread's activities, and the copies that a queued kernel may wait for.

    Attributes:
        activities: in order, apart from each other.
        copies, inner: to the host; inside the device, on the compute stream.
        serial: copies to the host run on the compute stream or block the host.
        known: when the trace tells what the host did; None: always.
    """

    activities: Sequence[Piece]
    copies: Intervals
    inner: Intervals
    serial: bool
    known: Intervals | None = None

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
        at = bisect_right(self.activities, time_ns, key=_START) - 1
        if at >= 0 and time_ns < self.activities[at].stop_ns:
            return self.activities[at].cause
        return "host work" if launch is None or time_ns < launch[0] else "launch late"

    def edges(self) -> Ns:
        """Every moment where the cause may change, but for launches; ascending."""
        own = np.array([piece[:2] for piece in self.activities], np.int64).ravel()
        return np.unique(np.concatenate([own, *self.copies, *self.inner, *(self.known or ())]))


_START = attrgetter("start_ns")


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
            add(max(waited, copied), acquired, _held_by_sink(held))
        add(chunk.launch_start_s, chunk.launch_done_s, "launch late")
        if run.mode == "sync":  # `.to("cpu")` returns when the copy is done
            reached = chunk.convert_start_s or chunk.write_start_s
            add(chunk.launch_done_s, reached, "synchronous copy")
        elif run.mode == "async" and not config.pinned_memory:
            add(chunk.launch_done_s, chunk.copy_done_s, "synchronous copy")
        elif run.mode == "async" and not threaded:  # an inline writer waits for the copy
            reached = chunk.convert_start_s or chunk.write_start_s or run.latency_s
            add(chunk.copy_start_s, min(reached, chunk.copy_done_s or reached), "synchronous copy")
    apart: list[Piece] = []  # a later one begins where the one before ends
    for one in sorted(found):
        start = max(one.start_ns, apart[-1].stop_ns) if apart else one.start_ns
        if one.stop_ns > start:
            apart.append(one._replace(start_ns=start))
    return apart


def _held_by_sink(held: ChunkRecord | None) -> str:
    """The cause of waiting for a chunk's slot that was copied."""
    encoding_s = 0.0 if held is None else (held.encode_s or 0.0) + (held.full_s or 0.0)
    written_s = held.span_s("write") if held else None
    return "encoder full" if encoding_s > (written_s or 0.0) / 2 else "slot held by sink"


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
    if not (spans := [span for span in ops if len(span[0])]):
        return [], merged([])
    inside = union(*(np.concatenate(edges) for edges in zip(*spans, strict=True)))
    known = merged([(span[0][0], span[1][-1]) for span in spans])
    pairs = zip(inside[0].tolist(), inside[1].tolist(), strict=True)
    return [Piece(*pair, "launch late") for pair in pairs], known
