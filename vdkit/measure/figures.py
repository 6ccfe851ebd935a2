"""The figures of a timeline, each with its window named (`vdkit.measure.windows`); no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vdkit.measure.agreement import Agreement, agreement
from vdkit.measure.completeness import Check, check_trace
from vdkit.measure.families import Family, kernel_families
from vdkit.measure.intervals import Intervals, clip, gaps, length, overlap
from vdkit.measure.stalls import (
    Stalls,
    record_intervals,
    stalls_from_records,
    stalls_from_trace,
)
from vdkit.measure.timeline import COMMUNICATION, D2H, Alignment, Recorded, Timeline
from vdkit.measure.windows import find_windows

GAP_BOUNDS_US = (2, 5, 10, 20, 50, 100, 1_000, 10_000)
LONGEST = 20


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """One window of one timeline; seconds, percent.

    Attributes:
        start_s, stop_s: on the run's clock.
        resolution: ``kernel`` (trace) or ``chunk`` (event records: gaps inside chunks are unseen).
        busy_s: union of compute kernels inside the window (no copies, no memsets).
        kernel_utilization_percent: busy over window.
        gpu_busy_s: union of everything on the GPU, copies and memsets too; None without a trace.
        gap_count, gap_median_us, gap_p99_us, gap_max_us: of all gaps between kernels.
        gap_histogram: upper bound in us (last: None) to (count, seconds).
        stall_s: gaps above 20 us by cause, and ``short``; adds up to window minus busy.
        drain_s: what the host was at during the drain, as causes; adds up to ``stall_s["drain"]``.
        explained_percent: share of stall time with a cause other than unknown.
        d2h_s: union of copies to the host; ``copy_hidden_percent``: the share of it under a
            compute kernel, None without copies.
        communication_s: union of communication kernels (NCCL, RCCL); None without a trace.
    """

    start_s: float
    stop_s: float
    resolution: str
    busy_s: float
    kernel_utilization_percent: float
    gpu_busy_s: float | None
    gap_count: int
    gap_median_us: float
    gap_p99_us: float
    gap_max_us: float
    gap_histogram: tuple[tuple[float | None, int, float], ...]
    stall_s: dict[str, float]
    drain_s: dict[str, float]
    explained_percent: float
    d2h_s: float
    copy_hidden_percent: float | None
    communication_s: float | None = None

    @property
    def window_s(self) -> float:
        return self.stop_s - self.start_s

    @property
    def communication_percent(self) -> float | None:
        if self.communication_s is None:
            return None
        return 100 * self.communication_s / max(self.window_s, 1e-9)

    @property
    def idle_s(self) -> float:
        return self.window_s - self.busy_s


@dataclass(frozen=True, slots=True)
class LongGap:
    """One of the longest gaps: start on the run's clock, cause and the kernel that ended it."""

    start_s: float
    length_us: float
    cause: str
    before_chunk: int
    next_kernel: str


@dataclass(frozen=True, slots=True)
class ChunkFigures:
    """One chunk: kernels and their busy time (from the trace), copy, conversion and write, s."""

    index: int
    kernels: int | None
    compute_s: float
    copy_s: float | None
    convert_s: float | None
    write_s: float | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything that is said about one timeline."""

    device: str
    windows: dict[str, WindowFigures]
    longest_gaps: tuple[LongGap, ...]
    chunks: tuple[ChunkFigures, ...]
    families: tuple[Family, ...]
    d2h_bytes: int
    kernels: int
    checks: tuple[Check, ...]
    agreement: Agreement | None
    alignment: Alignment | None
    profiled_latency_s: float | None
    timed_latency_s: tuple[float, ...]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        """Checks that failed; if there are any, no figure of this trace is to be trusted."""
        return tuple(check for check in self.checks if check.ok is False)

    @property
    def profiler_cost_percent(self) -> float | None:
        """How much longer the profiled run took than the timed runs' mean."""
        if self.profiled_latency_s is None or not self.timed_latency_s:
            return None
        mean = sum(self.timed_latency_s) / len(self.timed_latency_s)
        return 100 * (self.profiled_latency_s / mean - 1)


def analyze(timeline: Timeline) -> Analysis:
    """All figures of a timeline; at chunk resolution where it holds no kernels.

    Raises:
        ValueError: neither kernels nor records of a run: utilization and stalls are of either.
    """
    run, kernels = timeline.run, timeline.kernels
    if run is None and not len(kernels):
        raise ValueError(
            f"no compute kernels among {len(timeline.gpu)} GPU events: there is no "
            "utilization and no stall to tell of"
        )
    windows: dict[str, WindowFigures] = {}
    whole: Stalls | None = None
    for name, window in find_windows(timeline).items():
        if len(kernels):
            stalls = stalls_from_trace(timeline, window)
        else:
            assert run is not None and timeline.config is not None
            stalls = stalls_from_records(run, timeline.config, window)
        windows[name] = _window(timeline, stalls)
        whole = whole or stalls
    assert whole is not None
    copies = timeline.gpu.of(D2H)
    recorded = sum(chunk.d2h_bytes for chunk in run.chunks) if run else 0
    return Analysis(
        device=timeline.device,
        windows=windows,
        longest_gaps=_longest(timeline, whole),
        chunks=_chunks(timeline),
        families=kernel_families(timeline),
        d2h_bytes=int(copies.nbytes.sum()) if len(copies) else recorded,
        kernels=len(kernels),
        checks=check_trace(timeline),
        agreement=agreement(timeline),
        alignment=timeline.alignment,
        profiled_latency_s=run.latency_s if run else None,
        timed_latency_s=timeline.timed_latency_s,
        notes=timeline.notes,
    )


def record_figures(run: Recorded, stalls: Stalls) -> WindowFigures:
    """The same figures from event records alone, for a run that was never profiled."""
    compute, copies, _ = record_intervals(run)
    return _figures(stalls, compute, copies, None)


def _window(timeline: Timeline, stalls: Stalls) -> WindowFigures:
    if not len(timeline.kernels):
        assert timeline.run is not None
        return record_figures(timeline.run, stalls)
    everything = length(clip(timeline.gpu.union(), stalls.window))
    kernels, copies = timeline.kernels.union(), timeline.gpu.of(D2H).union()
    between = length(clip(timeline.gpu.of(COMMUNICATION).union(), stalls.window))
    return replace(_figures(stalls, kernels, copies, everything), communication_s=between / 1e9)


def _figures(
    stalls: Stalls, compute: Intervals, copies: Intervals, gpu_busy_ns: int | None
) -> WindowFigures:
    start, stop = stalls.window
    begin, end = gaps(compute, stalls.window)
    sizes = (end - begin) / 1e3
    inside = clip(copies, stalls.window)
    copied = length(inside)
    bounds = np.array([0, *GAP_BOUNDS_US, np.inf])
    places = np.searchsorted(bounds, sizes, side="left") - 1
    histogram = tuple(
        (
            None if np.isinf(bounds[place + 1]) else float(bounds[place + 1]),
            int((places == place).sum()),
            float(sizes[places == place].sum() / 1e6),
        )
        for place in range(len(bounds) - 1)
    )
    return WindowFigures(
        start_s=start / 1e9,
        stop_s=stop / 1e9,
        resolution=stalls.resolution,
        busy_s=stalls.busy_ns / 1e9,
        kernel_utilization_percent=100 * stalls.busy_ns / max(stop - start, 1),
        gpu_busy_s=None if gpu_busy_ns is None else gpu_busy_ns / 1e9,
        gap_count=int(sizes.size),
        gap_median_us=float(np.median(sizes)) if sizes.size else 0.0,
        gap_p99_us=float(np.percentile(sizes, 99)) if sizes.size else 0.0,
        gap_max_us=float(sizes.max()) if sizes.size else 0.0,
        gap_histogram=histogram,
        stall_s={cause: value / 1e9 for cause, value in stalls.by_cause_ns.items()},
        drain_s={cause: value / 1e9 for cause, value in stalls.drain_ns.items()},
        explained_percent=stalls.explained_percent,
        d2h_s=copied / 1e9,
        copy_hidden_percent=100 * length(overlap(inside, compute)) / copied if copied else None,
    )


def _longest(timeline: Timeline, stalls: Stalls) -> tuple[LongGap, ...]:
    kernels = timeline.kernels
    longest = sorted(stalls.gaps, key=lambda gap: -gap.length_ns)[:LONGEST]
    found = []
    for gap in longest:
        at = int(np.searchsorted(kernels.start_ns, gap.stop_ns))
        name = timeline.names[kernels.name[at]] if at < len(kernels) else ""
        found.append(LongGap(gap.start_ns / 1e9, gap.length_ns / 1e3, gap.cause, gap.before, name))
    return tuple(found)


def _chunks(timeline: Timeline) -> tuple[ChunkFigures, ...]:
    if timeline.run is None:
        return ()

    def span(start: float | None, stop: float | None) -> float | None:
        return None if start is None or stop is None else stop - start

    kernels = timeline.kernels
    found = []
    for chunk in timeline.run.chunks:
        mine = kernels.where(kernels.chunk == chunk.index)
        compute = length(mine.union()) / 1e9 if len(kernels) else None
        found.append(
            ChunkFigures(
                index=chunk.index,
                kernels=len(mine) if len(kernels) else None,
                compute_s=compute
                if compute is not None
                else span(chunk.decode_start_s, chunk.decode_done_s) or 0.0,
                copy_s=span(chunk.copy_start_s, chunk.copy_done_s),
                convert_s=span(chunk.convert_start_s, chunk.convert_done_s),
                write_s=span(chunk.write_start_s, chunk.write_done_s),
            )
        )
    return tuple(found)
