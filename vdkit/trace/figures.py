"""The figures of a timeline, each with its window named, and whether its trace is complete.

Profilers drop events without a word; the checks notice. No torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vdkit.decode.chunks import FIRST_STEADY_CHUNK
from vdkit.trace import (
    COMMUNICATION,
    D2H,
    KERNEL,
    Alignment,
    Recorded,
    Timeline,
    clip,
    family_of,
    gaps,
    length,
    to_ns,
    union,
)
from vdkit.trace.stalls import SHORT_NS, Stalls, record_intervals, run_window, stalls_of

TOLERANCE_NS = 200_000
"""How far a kernel may lie outside its chunk's CUDA events, beside the clocks' residuals."""
CLOCKS_NS = 20_000
"""How far host and GPU clocks of a trace may be apart."""
GAP_BOUNDS_US = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1_000.0, 10_000.0)
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
        seconds = self.communication_s
        return None if seconds is None else 100 * seconds / max(self.window_s, 1e-9)


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
class Check:
    """One check: its name, whether it passed, and the figures it looked at.

    ``ok`` is None where there was nothing to check, with the reason in ``detail``.
    """

    name: str
    ok: bool | None
    detail: str


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
        return 100 * (self.profiled_latency_s / statistics.fmean(self.timed_latency_s) - 1)


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
    stalls = {name: stalls_of(timeline, window) for name, window in find_windows(timeline).items()}
    copies = timeline.gpu.of(D2H)
    recorded = sum(chunk.d2h_bytes for chunk in run.chunks) if run else 0
    return Analysis(
        device=timeline.device,
        windows={name: _window(timeline, one) for name, one in stalls.items()},
        longest_gaps=tuple(_longest(timeline, next(iter(stalls.values())))),
        chunks=tuple(_chunks(timeline, run)) if run else (), families=kernel_families(timeline),
        d2h_bytes=int(copies.nbytes.sum()) if len(copies) else recorded, kernels=len(kernels),
        checks=check_trace(timeline), agreement=agreement(timeline), alignment=timeline.alignment,
        profiled_latency_s=run.latency_s if run else None, timed_latency_s=timeline.timed_latency_s,
        notes=timeline.notes,
    )  # fmt: skip


def _window(timeline: Timeline, stalls: Stalls) -> WindowFigures:
    gpu, window, run = timeline.gpu, stalls.window, timeline.run
    compute, copies = timeline.kernels.union(), gpu.of(D2H).union()
    everything, between = (
        length(clip(events.union(), window)) / 1e9 for events in (gpu, gpu.of(COMMUNICATION))
    )
    if not (traced := len(timeline.kernels) > 0) and run is not None:
        compute, copies, _ = record_intervals(run)
    sizes = np.diff(gaps(compute, window), axis=0)[0] / 1e3
    places = np.searchsorted(GAP_BOUNDS_US, sizes)
    bins = [sizes[places == place] for place in range(len(GAP_BOUNDS_US) + 1)]
    copies, computing = clip(copies, window), clip(compute, window)
    copied = length(copies)
    either = length(union(*(np.concatenate(both) for both in zip(copies, computing, strict=True))))
    hidden = copied + length(computing) - either
    return WindowFigures(
        start_s=window[0] / 1e9,
        stop_s=window[1] / 1e9,
        resolution=stalls.resolution,
        busy_s=stalls.busy_ns / 1e9,
        kernel_utilization_percent=100 * stalls.busy_ns / max(window[1] - window[0], 1),
        gpu_busy_s=everything if traced else None,
        gap_count=int(sizes.size),
        gap_median_us=float(np.median(sizes)) if sizes.size else 0.0,
        gap_p99_us=float(np.percentile(sizes, 99)) if sizes.size else 0.0,
        gap_max_us=float(sizes.max(initial=0.0)),
        gap_histogram=tuple(
            (bound, len(some), float(some.sum() / 1e6))
            for bound, some in zip((*GAP_BOUNDS_US, None), bins, strict=True)
        ),
        stall_s={cause: value / 1e9 for cause, value in stalls.by_cause_ns.items()},
        drain_s={cause: value / 1e9 for cause, value in stalls.drain_ns.items()},
        explained_percent=stalls.explained_percent,
        d2h_s=copied / 1e9,
        copy_hidden_percent=100 * hidden / copied if copied else None,
        communication_s=between if traced else None,
    )


def _longest(timeline: Timeline, stalls: Stalls) -> Iterator[LongGap]:
    kernels = timeline.kernels
    for gap in sorted(stalls.gaps, key=lambda gap: -gap.length_ns)[:LONGEST]:
        at = int(np.searchsorted(kernels.start_ns, gap.stop_ns))
        name = timeline.names[kernels.name[at]] if at < len(kernels) else ""
        yield LongGap(gap.start_ns / 1e9, gap.length_ns / 1e3, gap.cause, gap.before, name)


def _chunks(timeline: Timeline, run: Recorded) -> Iterator[ChunkFigures]:
    kernels, traced = timeline.chunk_kernels(), len(timeline.kernels) > 0
    for chunk in run.chunks:
        mine = kernels.get(chunk.index)
        busy_s = length(mine.union()) / 1e9 if mine else 0.0
        yield ChunkFigures(
            chunk.index,
            len(mine or ()) if traced else None,
            busy_s if traced else chunk.span_s("decode") or 0.0,
            *(chunk.span_s(step) for step in ("copy", "convert", "write")),
        )


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
    if pairs := list(zip(starts[first:], starts[first + 2 :], strict=False)):
        median = statistics.median(stop - start for start, stop in pairs)
        found["two chunks"] = min(pairs, key=lambda pair: abs(pair[1] - pair[0] - median))
    return found


def chunk_starts(timeline: Timeline) -> list[int]:
    """When each chunk's compute began: its first kernel, or its event where there is no trace."""
    assert timeline.run is not None
    kernels, run = timeline.chunk_kernels(), timeline.run
    starts = zip(run.chunks, record_intervals(run)[2], strict=True)
    return [kernels[one.index].span[0] if one.index in kernels else at for one, at in starts]


def busy_percent(run: Recorded) -> dict[str, float]:
    """Share of each window in which the compute stream was at work, %, from a run's records.

    ``run`` and, if there are chunks enough, ``steady`` and ``two chunks``. Chunk resolution: gaps
    between the kernels of a chunk count as work.
    """
    compute, _, starts = record_intervals(run)
    windows = {"run": run_window(run)} | steady_windows(starts)
    return {n: 100 * length(clip(compute, w)) / (w[1] - w[0]) for n, w in windows.items()}


@dataclass(frozen=True, slots=True)
class Family:
    """Kernels of one kind: how many, seconds summed, share of all kernel time in percent."""

    name: str
    kernels: int
    seconds: float
    percent: float


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
    spent = np.bincount(kernels.name, (kernels.stop_ns - kernels.start_ns) / 1e9)
    often, found = np.bincount(kernels.name), dict[str, tuple[int, float]]()
    for index in np.flatnonzero(often).tolist():
        family = family_of(timeline.names[index])
        count, seconds = found.get(family, (0, 0.0))
        found[family] = count + int(often[index]), seconds + float(spent[index])
    total = sum(seconds for _, seconds in found.values())
    families = (Family(name, *of, 100 * of[1] / total) for name, of in found.items())
    return tuple(sorted(families, key=lambda one: -one.seconds))


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
    run, kernels = timeline.run, timeline.chunk_kernels()
    if run is None or len(run.chunks) < 2 or any(c.index not in kernels for c in run.chunks):
        return None
    noted = [(to_ns(chunk.decode_start_s), to_ns(chunk.decode_done_s)) for chunk in run.chunks]
    spans = np.array([noted, [kernels[chunk.index].span for chunk in run.chunks]])
    between = np.maximum(spans[:, 1:, 0] - spans[:, :-1, 1], 0)
    long = between[:, between.max(axis=0) > SHORT_NS]
    records, trace = (long.sum(axis=1) / 1e9).tolist()
    return Agreement(records, trace, long.shape[1], between.shape[1])


def check_trace(timeline: Timeline) -> tuple[Check, ...]:
    """Every check that this timeline allows; other programs' traces allow the first few."""
    found, run = timeline.dropped, timeline.run
    detail = "; ".join(found[:3]) if found else "no marker of dropped events"
    checks = [Check("dropped events", not found, detail)]
    if len(timeline.kernels):
        checks += [_launches(timeline), _causal(timeline)]
        checks += _against_records(timeline, run) if run is not None and run.chunks else ()
    elif run is not None and timeline.device != "cpu":
        checks.append(Check("kernels", False, f"none, of a run on {timeline.device}"))
    return tuple(checks)


_NO_CALLS = "the trace holds no calls to match with its kernels"


def _launches(timeline: Timeline) -> Check:
    """Each launch call has its kernel, and each kernel its launch call.

    What another program launched before its recording began is no loss: ids count upwards.
    """
    title, calls, names = "launches = kernels", timeline.calls, timeline.names
    ran = set(timeline.gpu.of(KERNEL, COMMUNICATION).correlation.tolist()) - {-1}
    called = set(calls.correlation.tolist()) - {-1}
    if not called or not ran:
        return Check(title, None, _NO_CALLS)
    launching = np.array(["Launch" in name and "Host" not in name for name in names])
    graphs = np.array(["GraphLaunch" in name or "BeginCapture" in name for name in names])
    launches = calls.where((launching & ~graphs)[calls.name])
    asked = set(launches.correlation.tolist())
    lost, stray = asked - ran, ran - called
    detail = f"{len(asked)} launches, {len(lost)} without a kernel"
    without = np.isin(launches.correlation, list(lost))
    last = launches.start_ns[~without].max(initial=-1)
    if after := int((launches.start_ns[without] > last).sum()):
        detail += f" ({after} at the end: the trace stopped before they ran)"
    detail += f"; {len(stray)} kernels without a launch"
    if before := {one for one in stray if one < min(called)}:
        detail += f" ({len(before)} launched before the trace begins: it started in mid-run)"
    if timeline.run is None:
        stray -= before
    if timeline.calls_elsewhere:
        detail += f"; {timeline.calls_elsewhere} calls of other GPUs left out"
    if graphs[calls.name].any() and not stray:  # captured launches run later, or never
        return Check(title, None, f"{detail}; with CUDA graphs that tells nothing")
    return Check(title, not lost and not stray, detail)


def _causal(timeline: Timeline) -> Check:
    """Nothing starts before the call that launched it, as far as the clocks can tell."""
    name, launched = "starts after launches", timeline.launches(timeline.gpu)[0]
    if not len(early := (launched - timeline.gpu.start_ns)[launched >= 0]):
        return Check(name, None, _NO_CALLS)
    count, worst = int((early > CLOCKS_NS).sum()), max(int(early.max()), 0)
    allowed = f"at most {worst / 1e3:.0f} us (allowed {CLOCKS_NS / 1e3:.0f})"
    return Check(name, not count, f"{count} of {len(early)} before; {allowed}")


def _against_records(timeline: Timeline, run: Recorded) -> Iterator[Check]:
    """The trace against what the decode path recorded, as far as the clocks can tell."""
    chunks, kernels, name = run.chunks, timeline.chunk_kernels(), "kernels per chunk"
    count = {chunk.index: len(kernels.get(chunk.index, ())) for chunk in chunks}
    sizes = [chunk.latent_stop - chunk.latent_start for chunk in chunks]
    steady = list(zip(chunks, sizes, strict=True))[min(FIRST_STEADY_CHUNK, len(chunks) // 2) :]
    numbers = {count[chunk.index] for chunk, size in steady if size == max(sizes)}
    if len(chunks) == 1:
        yield Check(name, bool(count[0]), f"{count[0]} kernels in the one chunk")
    else:
        values = " or ".join(map(str, sorted(numbers)))
        yield Check(name, len(numbers) == 1 and 0 not in numbers, f"{values} in the steady state")

    allowed, clocks = TOLERANCE_NS, timeline.alignment
    if clocks is not None:
        allowed += clocks.host_residual_ns + clocks.record_residual_ns
    worst = 0
    for chunk in (chunk for chunk in chunks if chunk.index in kernels):
        first, last = kernels[chunk.index].span  # between the chunk's two CUDA events
        early, late = to_ns(chunk.decode_start_s) - first, last - to_ns(chunk.decode_done_s)
        worst = max(worst, early, abs(late))
    detail = f"at most {worst / 1e3:.0f} us apart (allowed {allowed / 1e3:.0f})"
    if missing := len(chunks) - len(kernels):
        detail += f"; {missing} chunks without kernels"
    yield Check("kernels within CUDA events", worst <= allowed and not missing, detail)

    (first, last), latency = timeline.kernels.span, to_ns(run.latency_s)
    ok = first >= -TOLERANCE_NS and last <= latency + TOLERANCE_NS
    detail = f"kernels from {first / 1e6:.1f} to {last / 1e6:.1f} ms, run of {latency / 1e6:.1f} ms"
    yield Check("kernels within the run", ok, detail)

    copies, wanted = timeline.gpu.of(D2H), {chunk.index: chunk.d2h_bytes for chunk in chunks}
    if not any(wanted.values()) and not (copies.chunk >= 0).any():
        yield Check("copies", None, f"{run.mode} copies nothing to the host")
    elif run.mode == "diffusers":  # VideoProcessor copies; the record knows how much
        whole = sum(wanted.values())
        copied = int(copies.nbytes[copies.nbytes >= whole].sum())
        yield Check("copies", copied == whole, f"{copied} bytes copied of {whole}")
    else:
        right = sum(copies.nbytes[copies.chunk == n].sum() == size for n, size in wanted.items())
        detail = f"{right} of {len(chunks)} chunks copied whole"
        yield Check("copies", bool(right == len(chunks)), detail)
