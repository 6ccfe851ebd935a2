"""A run on one clock: what the GPU did, what the host called, what the decode path recorded.

A `Timeline` comes from a Kineto trace (`vdkit.trace.files`), of vdkit's own or of any
program, and needs neither torch nor a GPU. Times are integer nanoseconds, so that busy time and
gaps add up to the window exactly.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vdkit.decode.chunks import DecodeConfig, DecodeResult

if TYPE_CHECKING:
    from vdkit.record.runs import Run

KERNEL, D2H, H2D, D2D, MEMSET, OTHER_COPY, COMMUNICATION = range(7)
"""Kinds of GPU events."""
CLOCK_MARKER = "vdkit:clock"
Ns = NDArray[np.int64]
Intervals = tuple[Ns, Ns]
"""Starts and stops, int64 ns. Merged: sorted, not empty, neither overlapping nor touching."""
Recorded: TypeAlias = "DecodeResult | Run"
"""What the decode path recorded of a run, now or read from a recording."""


def to_ns(seconds: float | None) -> int:
    """Seconds as integer ns; 0 for a time that was not recorded."""
    return round((seconds or 0.0) * 1e9)


@dataclass(slots=True)
class Events:
    """Events as columns of equal length, by start.

    Attributes:
        start_ns, stop_ns: int64, on the timeline's clock.
        name: index into `Timeline.names`.
        lane: CUDA stream of a GPU event, number of the thread of a host call.
        kind: one of KERNEL to COMMUNICATION for GPU events; 0 for host calls.
        correlation: joins a GPU event to the host call that launched it; -1 if unknown.
        nbytes: of copies and memsets, else 0.
        chunk: index of the chunk the event belongs to, -1 if none.
    """

    start_ns: Ns
    stop_ns: Ns
    name: NDArray[np.int32]
    lane: NDArray[np.int64]
    kind: NDArray[np.int8]
    correlation: NDArray[np.int64]
    nbytes: NDArray[np.int64]
    chunk: NDArray[np.int32]

    def __len__(self) -> int:
        return int(self.start_ns.size)

    def where(self, keep: NDArray[np.bool_]) -> Events:
        """The events for which ``keep`` is True."""
        return Events(*(getattr(self, column)[keep] for column in self.__slots__))

    def of(self, *kinds: int) -> Events:
        """The events of these kinds."""
        return self.where(np.isin(self.kind, kinds))

    def union(self) -> Intervals:
        """When at least one of them was running."""
        return union(self.start_ns, self.stop_ns)

    @property
    def span(self) -> tuple[int, int]:
        """First start to last stop, ns."""
        return int(self.start_ns.min()), int(self.stop_ns.max())

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[int, ...]]) -> Events:
        """From (start, stop, name, lane, kind, correlation, nbytes), chunk -1; sorted here."""
        table = np.array(rows, np.int64).reshape(-1, 7)
        table = table[np.argsort(table[:, 0], kind="stable")]
        start, stop, name, lane, kind, correlation, nbytes = table.T.copy()
        return cls(
            start, stop, name.astype(np.int32), lane, kind.astype(np.int8), correlation, nbytes,
            np.full(len(table), -1, np.int32),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Alignment:
    """How well the three clocks agree: host (`time.perf_counter`), trace, CUDA events.

    Attributes:
        host_residual_ns: host against trace: half the width of the narrowest bracket around a
            marker, or how far the brackets at start and end drifted apart, whichever is more.
        event_residual_ns: CUDA events against trace: the largest distance of a chunk's
            ``decode_done`` event from the end of its last kernel; None without kernels.
        event_median_ns: the median of the same.
        record_residual_ns: CUDA events against host, as the decode path itself measured it.
    """

    host_residual_ns: int
    event_residual_ns: int | None
    event_median_ns: int | None
    record_residual_ns: int


@dataclass(slots=True)
class Timeline:
    """One run on one GPU.

    Attributes:
        gpu: kernels, communication among them, copies and memsets.
        calls: CUDA runtime and driver calls of the host.
        ops: host operators (PyTorch's ``cpu_op``), merged per thread; for traces of other programs.
        names: event names.
        device: the GPU's name, as far as the trace tells.
        run, config: what the decode path recorded, on this clock (0 is the call); None for other
            programs' traces, whose clock starts at the first event.
        alignment: of the clocks; None for other programs' traces.
        started_s: `time.perf_counter` at the call; meaningful in the process that ran it only.
        timed_latency_s: latencies of timed runs of the same setting without a profiler, s.
        dropped: markers of dropped events that the trace holds.
        markers: (start, stop) of `CLOCK_MARKER` annotations, ns, for the alignment of clocks.
        nvml: columns of NVML samples by name, ``time_s`` among them; empty if none were taken.
        calls_elsewhere: calls left out because what they launched ran on another GPU.
        notes: what of the file was not read as it stands there.
    """

    gpu: Events
    calls: Events
    ops: dict[int, Intervals]
    names: list[str]
    device: str
    run: Recorded | None = None
    config: DecodeConfig | None = None
    alignment: Alignment | None = None
    started_s: float = 0.0
    timed_latency_s: tuple[float, ...] = ()
    dropped: tuple[str, ...] = ()
    markers: tuple[tuple[int, int], ...] = ()
    nvml: dict[str, list[float | None]] = field(default_factory=dict)
    calls_elsewhere: int = 0
    notes: tuple[str, ...] = ()

    @property
    def kernels(self) -> Events:
        """Compute kernels: no copies, no memsets, no communication between GPUs."""
        return self.gpu.of(KERNEL)

    def chunk_kernels(self) -> dict[int, Events]:
        """The compute kernels of each chunk that has any."""
        kernels = self.kernels
        there = np.unique(kernels.chunk[kernels.chunk >= 0]).tolist()
        return {index: kernels.where(kernels.chunk == index) for index in there}

    def shift(self, by_ns: int) -> None:
        """Move everything from the trace by ``by_ns``; records and NVML samples stay."""
        for events in (self.gpu, self.calls):
            events.start_ns += by_ns
            events.stop_ns += by_ns
        self.ops = {thread: (a + by_ns, b + by_ns) for thread, (a, b) in self.ops.items()}
        self.markers = tuple((start + by_ns, stop + by_ns) for start, stop in self.markers)

    def launches(self, events: Events) -> tuple[Ns, Ns, NDArray[np.int64]]:
        """(start, stop, thread) of the call that launched each event; -1 where there is none."""
        calls = self.calls
        order = np.argsort(calls.correlation, kind="stable")
        at = np.searchsorted(calls.correlation, events.correlation, sorter=order)
        row = np.append(order, -1)[at]
        known = np.append(calls.correlation, -1)[row] == events.correlation
        found = known & (events.correlation >= 0)
        start, stop, thread = (
            np.where(found, np.append(column, -1)[row], -1)
            for column in (calls.start_ns, calls.stop_ns, calls.lane)
        )
        return start, stop, thread

    def assign_chunks(self) -> None:
        """Give GPU events and calls the chunk in whose host span they were called.

        A span opens with the launch and closes when the host turns to something else: conversion,
        the next chunk's slot, or its launch; the last one at the latest when its chunk is written.
        So it holds the decode and the copy, but no conversion.
        """
        if self.run is None or not self.run.chunks:
            return
        chunks, ends = self.run.chunks, []
        for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
            stops = [chunk.convert_start_s] if self.run.mode in ("sync", "diffusers") else []
            if following is None:
                stops += [chunk.write_start_s]
            else:
                stops += [following.slot_wait_start_s, following.launch_start_s]
            ends.append(to_ns(min((s for s in stops if s is not None), default=self.run.latency_s)))
        begin = np.array([to_ns(chunk.launch_start_s) for chunk in chunks], np.int64)
        index = np.array([chunk.index for chunk in chunks], np.int64)
        called = (self.gpu, self.launches(self.gpu)[0]), (self.calls, self.calls.start_ns)
        for events, when in called:
            at = np.searchsorted(begin, when, side="right") - 1
            events.chunk[:] = np.where((at >= 0) & (when < np.array(ends)[at]), index[at], -1)


def union(starts: Ns, stops: Ns) -> Intervals:
    """Merged union of any intervals, in any order; empty ones vanish, touching ones join."""
    keep = stops > starts
    order = np.argsort(starts[keep], kind="stable")
    starts, reach = starts[keep][order], np.maximum.accumulate(stops[keep][order])
    apart = starts[1:] > reach[:-1]
    edge = np.ones(min(len(starts), 1), bool)
    return starts[np.concatenate((edge, apart))], reach[np.concatenate((apart, edge))]


def merged(spans: Sequence[tuple[int, int]]) -> Intervals:
    """`union` of (start, stop) pairs, ns."""
    starts, stops = np.array(spans, np.int64).reshape(-1, 2).T
    return union(starts, stops)


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
    begin, end = np.append(window[0], stops), np.append(starts, window[1])
    keep = end > begin
    return begin[keep], end[keep]


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


def family_of(kernel: str) -> str:
    """The family of a kernel by its name; ``other`` if no rule fits."""
    return next((name for name, rule in _FAMILIES if rule.search(kernel)), "other")


class ChunkStep(NamedTuple):
    """One step of one chunk.

    Attributes:
        name: one of `STEPS`.
        start_s, stop_s: since the call. ``decode`` and ``copy`` are the device's, by events; the
            others the host's.
    """

    name: str
    start_s: float
    stop_s: float

    @property
    def length_s(self) -> float:
        return self.stop_s - self.start_s


STEPS = {"slot wait": ("slot_wait_start_s", "slot_acquired_s")} | {
    step: (f"{step}_start_s", f"{step}_done_s")
    for step in ("launch", "decode", "copy", "convert", "write")
}
"""The steps of a chunk in the order of the pipeline: the fields of its record that hold each."""


def chunk_steps(run: Recorded, index: int) -> tuple[ChunkStep, ...]:
    """The steps that a chunk went through, in the order of the pipeline.

    Raises:
        ValueError: the run has no such chunk.
    """
    if not 0 <= index < len(run.chunks):
        raise ValueError(f"chunk {index} is not among the {len(run.chunks)} of this run")
    spans = {s: [getattr(run.chunks[index], t) for t in times] for s, times in STEPS.items()}
    return tuple(ChunkStep(step, *span) for step, span in spans.items() if None not in span)


def balancing_mb_per_s(run: Recorded, frame_bytes: int) -> float:
    """The storage speed, MB/s (10**6 bytes), at which a write takes as long as a decode did.

    There overlap can gain the most. The median over all chunks but the first, which is shorter;
    ValueError without another. ``frame_bytes``: of one uint8 RGB frame.
    """
    took = [(chunk.frame_stop - chunk.frame_start, chunk.span_s("decode")) for chunk in run.chunks]
    if not (speeds := [frames / decode_s for frames, decode_s in took[1:] if decode_s]):
        raise ValueError(f"mode {run.mode!r} decoded a single chunk; two or more are needed")
    return statistics.median(speeds) * frame_bytes / 1e6
