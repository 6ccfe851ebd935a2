"""What the thread that launches was doing, and what it thereby kept the compute stream from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vdkit.decode.chunks import DecodeConfig
from vdkit.measure.intervals import Intervals, Ns, empty, union
from vdkit.measure.timeline import Recorded, Timeline, to_ns


class Activity(NamedTuple):
    """What the launching thread was doing, ns, as the cause of a gap that it falls into."""

    start_ns: int
    stop_ns: int
    cause: str


class Host:
    """The launching thread's activities, and the copies that a queued kernel may wait for."""

    def __init__(
        self,
        activities: Sequence[Activity],
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


def host_activities(run: Recorded, config: DecodeConfig) -> list[Activity]:
    """What the thread that launches was doing, from a run's records, each with its stall cause."""
    found: list[Activity] = []

    def add(start_s: float | None, stop_s: float | None, cause: str) -> None:
        if start_s is not None and stop_s is not None and stop_s > start_s:
            found.append(Activity(to_ns(start_s), to_ns(stop_s), cause))

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
            reached = chunk.convert_start_s or chunk.write_start_s
            blocked = [span for span in (chunk.copy_start_s,) if span is not None]
            if reached is not None and blocked:
                add(blocked[0], min(reached, chunk.copy_done_s or reached), "synchronous copy")
    return _disjoint(found)


def _disjoint(activities: list[Activity]) -> list[Activity]:
    """In order of start; a later one begins where the one before ends."""
    result: list[Activity] = []
    for activity in sorted(activities):
        start = max(activity.start_ns, result[-1].stop_ns) if result else activity.start_ns
        if activity.stop_ns > start:
            result.append(activity._replace(start_ns=start))
    return result


def operator_activities(timeline: Timeline, threads: Ns) -> tuple[list[Activity], Intervals]:
    """For other programs' traces: the launching threads inside operators launch, else work.

    Args:
        timeline: of the trace.
        threads: which thread launched each kernel.

    Returns:
        The activities, and when anything is known: between the first and the last operator of a
        launching thread. A thread without operators was not recorded, and may have done anything.
    """
    spans = [
        timeline.ops[thread] for thread in np.unique(threads).tolist() if thread in timeline.ops
    ]
    spans = [span for span in spans if len(span[0])]
    if not spans:
        return [], empty()
    starts, stops = (np.concatenate([span[side] for span in spans]) for side in (0, 1))
    inside = union(starts, stops)
    first, last = (np.array([span[s][at] for span in spans]) for s, at in ((0, 0), (1, -1)))
    activities = [
        Activity(start, stop, "launch late")
        for start, stop in zip(inside[0].tolist(), inside[1].tolist(), strict=True)
    ]
    return activities, union(first, last)
