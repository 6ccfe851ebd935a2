"""The windows that figures are given for; every figure names its own.

``run`` is from the first launch to the end (sink closed); ``steady`` whole periods, from the start
of the first steady chunk's compute to the start of the last chunk's, so that fill and drain are
left out; ``two chunks`` two consecutive periods in the middle, the window of the published post;
``trace``, for other programs' traces, first to last GPU event.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vdkit.decode.chunks import FIRST_STEADY_CHUNK
from vdkit.measure.intervals import clip, length
from vdkit.measure.stalls import record_intervals, run_window
from vdkit.measure.timeline import Recorded, Timeline


def find_windows(timeline: Timeline) -> dict[str, tuple[int, int]]:
    """Window names to (start, stop), ns; those that the run is too short for are left out."""
    run = timeline.run
    if run is None:
        return {"trace": timeline.span}
    starts = chunk_starts(timeline)
    windows = {"run": run_window(run)}
    return windows | steady_windows(starts)


def steady_windows(starts: Sequence[int]) -> dict[str, tuple[int, int]]:
    """``steady`` and ``two chunks`` from the start of each chunk's compute, ns."""
    count = len(starts)
    first = min(FIRST_STEADY_CHUNK, count // 2)
    found = {}
    if first >= 1 and count - 1 > first:
        found["steady"] = (starts[first], starts[count - 1])
        middle = max(first, (count - 3) // 2)
        if middle + 2 <= count - 1:
            found["two chunks"] = (starts[middle], starts[middle + 2])
    return found


def chunk_starts(timeline: Timeline) -> list[int]:
    """When each chunk's compute began: its first kernel, or its event where there is no trace."""
    assert timeline.run is not None
    spans = chunk_spans_on_gpu(timeline)
    events = record_intervals(timeline.run)[2]
    return [
        spans[chunk.index][0] if chunk.index in spans else events[position]
        for position, chunk in enumerate(timeline.run.chunks)
    ]


def chunk_spans_on_gpu(timeline: Timeline) -> dict[int, tuple[int, int]]:
    """Chunk to (first kernel start, last kernel stop)."""
    kernels = timeline.kernels
    spans = {}
    for index in np.unique(kernels.chunk[kernels.chunk >= 0]).tolist():
        mine = kernels.chunk == index
        spans[index] = (int(kernels.start_ns[mine].min()), int(kernels.stop_ns[mine].max()))
    return spans


def busy_percent(run: Recorded) -> dict[str, float]:
    """Share of each window in which the compute stream was at work, %, from a run's records.

    ``run`` and, if there are chunks enough, ``steady`` and ``two chunks``. Chunk resolution: gaps
    between the kernels of a chunk count as work.
    """
    compute, _, starts = record_intervals(run)
    windows = {"run": run_window(run)} | steady_windows(starts)
    return {
        name: 100 * length(clip(compute, window)) / (window[1] - window[0])
        for name, window in windows.items()
    }
