"""The figures of a timeline, each with its window named; no torch."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from vdkit.decode.chunks import FIRST_STEADY_CHUNK
from vdkit.trace.completeness import Check, check_trace
from vdkit.trace.stalls import (
    SHORT_NS,
    Stalls,
    record_intervals,
    run_window,
    stalls_from_records,
    stalls_from_trace,
)
from vdkit.trace.timeline import (
    COMMUNICATION,
    D2H,
    KERNEL,
    Alignment,
    Intervals,
    Recorded,
    Timeline,
    clip,
    gaps,
    length,
    overlap,
    to_ns,
)

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
    stalls = {name: _stalls(timeline, window) for name, window in find_windows(timeline).items()}
    copies = timeline.gpu.of(D2H)
    recorded = sum(chunk.d2h_bytes for chunk in run.chunks) if run else 0
    return Analysis(
        device=timeline.device,
        windows={name: _window(timeline, one) for name, one in stalls.items()},
        longest_gaps=_longest(timeline, next(iter(stalls.values()))),
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


def _stalls(timeline: Timeline, window: tuple[int, int]) -> Stalls:
    if len(timeline.kernels):
        return stalls_from_trace(timeline, window)
    assert timeline.run is not None and timeline.config is not None
    return stalls_from_records(timeline.run, timeline.config, window)


def _window(timeline: Timeline, stalls: Stalls) -> WindowFigures:
    if not len(timeline.kernels):
        assert timeline.run is not None
        compute, copies, _ = record_intervals(timeline.run)
        return _figures(stalls, compute, copies)
    gpu = timeline.gpu
    everything, between = (
        length(clip(events.union(), stalls.window)) / 1e9 for events in (gpu, gpu.of(COMMUNICATION))
    )
    made = _figures(stalls, timeline.kernels.union(), gpu.of(D2H).union())
    return replace(made, gpu_busy_s=everything, communication_s=between)


def _figures(stalls: Stalls, compute: Intervals, copies: Intervals) -> WindowFigures:
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
        gpu_busy_s=None,
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
    kernels, traced = timeline.chunk_kernels(), len(timeline.kernels) > 0
    found = []
    for chunk in timeline.run.chunks:
        mine = kernels.get(chunk.index)
        busy = length(mine.union()) / 1e9 if mine else 0.0
        found.append(
            ChunkFigures(
                index=chunk.index,
                kernels=len(mine or ()) if traced else None,
                compute_s=busy if traced else chunk.span_s("decode") or 0.0,
                copy_s=chunk.span_s("copy"),
                convert_s=chunk.span_s("convert"),
                write_s=chunk.span_s("write"),
            )
        )
    return tuple(found)


def find_windows(timeline: Timeline) -> dict[str, tuple[int, int]]:
    """Window names to (start, stop), ns; those that the run is too short for are left out."""
    if timeline.run is None:
        return {"trace": timeline.gpu.span}
    return {"run": run_window(timeline.run)} | steady_windows(chunk_starts(timeline))


def steady_windows(starts: Sequence[int]) -> dict[str, tuple[int, int]]:
    """``steady`` and ``two chunks`` from the start of each chunk's compute, ns.

    The two chunks are the consecutive steady ones that take the median time: a typical pair.
    """
    first = min(FIRST_STEADY_CHUNK, len(starts) // 2)
    if first < 1 or len(starts) < first + 2:
        return {}
    found = {"steady": (starts[first], starts[-1])}
    pairs = list(zip(starts[first:], starts[first + 2 :], strict=False))
    if pairs:
        median = statistics.median(stop - start for start, stop in pairs)
        found["two chunks"] = min(pairs, key=lambda pair: abs(pair[1] - pair[0] - median))
    return found


def chunk_starts(timeline: Timeline) -> list[int]:
    """When each chunk's compute began: its first kernel, or its event where there is no trace."""
    assert timeline.run is not None
    kernels = timeline.chunk_kernels()
    return [
        kernels[chunk.index].span[0] if chunk.index in kernels else event
        for chunk, event in zip(timeline.run.chunks, record_intervals(timeline.run)[2], strict=True)
    ]


def busy_percent(run: Recorded) -> dict[str, float]:
    """Share of each window in which the compute stream was at work, %, from a run's records.

    ``run`` and, if there are chunks enough, ``steady`` and ``two chunks``. Chunk resolution: gaps
    between the kernels of a chunk count as work.
    """
    compute, _, starts = record_intervals(run)
    windows = {"run": run_window(run)} | steady_windows(starts)
    return {
        name: 100 * length(clip(compute, (start, stop))) / (stop - start)
        for name, (start, stop) in windows.items()
    }


# First match wins. The division and the scaling of an unfused norm are elementwise kernels.
# torch.compile's kernels are named after all that they fuse, a convolution's bias among it.
FAMILIES = (
    ("communication", r"\b(nccl|rccl|msccl)|nvshmem|cross_device_reduce"),
    ("matrix multiply", r"Cijk_"),
    ("elementwise", r"^triton_poi_"),
    ("normalization", r"^triton_(red|per)_"),
    ("layout conversion", r"nchwToNhwc|nhwcToNchw|nchw2nhwc|nhwc2nchw|transpose"),
    (
        "convolution",
        r"conv(?!e)|fprop|dgrad|wgrad|implicit_gemm|igemm_(?:fwd|bwd|wrw)|winograd|\dcudnn|scudnn",
    ),
    ("matrix multiply", r"(?<!fb)gemm|nvjet|cutlass|cublas|fmha|flash|attention|matmul"),
    ("normalization", r"norm|welford|rsqrt"),
    (
        "copy, cat, pad, cast",
        r"copy_kernel|CatArray|FillFunctor|_pad|convert|gather(?!TopK)|index_?select|"
        r"(?<!rotary)(?<!rotary_)embedding",
    ),
    ("upsampling", r"upsample|interpolate"),
    ("elementwise", r"elementwise|silu|clamp"),
)
_FAMILIES = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in FAMILIES)


@dataclass(frozen=True, slots=True)
class Family:
    """Kernels of one kind: how many, seconds summed, share of all kernel time in percent."""

    name: str
    kernels: int
    seconds: float
    percent: float


def family_of(kernel: str) -> str:
    """The family of a kernel by its name; ``other`` if no rule fits."""
    return next((name for name, rule in _FAMILIES if rule.search(kernel)), "other")


@dataclass(frozen=True, slots=True)
class FamilyShare:
    """A family over the steady window: its kernels, and their ms per latent frame decoded in it."""

    family: Family
    ms_per_latent_frame: float


def kernel_families(
    timeline: Timeline, window: tuple[int, int] | None = None
) -> tuple[Family, ...]:
    """Kernel time by family, largest first.

    Args:
        timeline: with kernels, of compute or communication; without any the answer is empty.
        window: only kernels that start in it, (start, stop) in ns; None: the whole trace.
    """
    kernels = timeline.gpu.of(KERNEL, COMMUNICATION)
    if window is not None:
        kernels = kernels.where((kernels.start_ns >= window[0]) & (kernels.start_ns < window[1]))
    if not len(kernels):
        return ()
    seconds, counts = defaultdict[str, float](float), Counter[str]()
    spent = np.bincount(kernels.name, (kernels.stop_ns - kernels.start_ns) / 1e9)
    often = np.bincount(kernels.name)
    for index in np.flatnonzero(often).tolist():
        family = family_of(timeline.names[index])
        seconds[family] += float(spent[index])
        counts[family] += int(often[index])
    total = sum(seconds.values())
    return tuple(
        Family(name, counts[name], spent_s, 100 * spent_s / total)
        for name, spent_s in sorted(seconds.items(), key=lambda one: -one[1])
    )


def steady_families(timeline: Timeline) -> tuple[FamilyShare, ...]:
    """`kernel_families` of window ``steady``; empty for a run too short to have one."""
    if timeline.run is None or "steady" not in (windows := find_windows(timeline)):
        return ()
    start, stop = windows["steady"]
    latent_frames = sum(
        chunk.latent_stop - chunk.latent_start
        for chunk, begun in zip(timeline.run.chunks, chunk_starts(timeline), strict=True)
        if start <= begun < stop
    )
    return tuple(
        FamilyShare(family, 1e3 * family.seconds / latent_frames)
        for family in kernel_families(timeline, (start, stop))
    )


@dataclass(frozen=True, slots=True)
class Agreement:
    """Stalls between chunks (last compute of one to first of the next), two ways, s.

    Attributes:
        records_s, trace_s: from event records and from the trace: gaps above 20 us in either.
        gaps: how many those are, of ``of`` places between chunks.
    """

    records_s: float
    trace_s: float
    gaps: int
    of: int

    @property
    def difference_s(self) -> float:
        return abs(self.records_s - self.trace_s)

    @property
    def difference_percent(self) -> float:
        """Of the larger; 0 if there are no gaps."""
        larger = max(self.records_s, self.trace_s)
        return 100 * self.difference_s / larger if larger else 0.0


def agreement(timeline: Timeline) -> Agreement | None:
    """Chunk-level gaps both ways; None without a trace or with fewer than two chunks."""
    run = timeline.run
    if run is None or len(run.chunks) < 2:
        return None
    kernels = timeline.chunk_kernels()
    if any(chunk.index not in kernels for chunk in run.chunks):
        return None
    traced = [kernels[chunk.index].span for chunk in run.chunks]
    noted = [
        (to_ns(chunk.decode_start_s or 0.0), to_ns(chunk.decode_done_s or 0.0))
        for chunk in run.chunks
    ]
    between = ([max(0, b[0] - a[1]) for a, b in pairwise(spans)] for spans in (noted, traced))
    pairs = list(zip(*between, strict=True))
    long = [pair for pair in pairs if max(pair) > SHORT_NS]
    records, trace = (sum(pair[side] for pair in long) / 1e9 for side in (0, 1))
    return Agreement(records, trace, len(long), len(pairs))
