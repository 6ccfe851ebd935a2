"""One decode under torch.profiler, apart from every timed run, as a `Timeline` on one clock.

The profiler slows what it watches and now and then loses events: so a profiled run is never timed,
timed runs of the same setting stand beside it, and `check_trace` looks at every trace.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from vdkit.decode.chunks import DecodeConfig, plan_chunks
from vdkit.decode.engines import on_device
from vdkit.decode.protocols import ChunkDecoder, Sink
from vdkit.measure.bench import MODES
from vdkit.measure.describe import as_run
from vdkit.measure.profile_records import Ceiling
from vdkit.measure.timeline import CLOCK_MARKER, Alignment, Timeline, to_ns
from vdkit.measure.trace_reader import read_trace

_MARKERS = 5
_COUNTED_CHUNKS = 4

Bracket = tuple[int, int]
"""Host clock before and after a marker, ns."""


def profile_run(
    mode: str,
    decoder: ChunkDecoder,
    latents: torch.Tensor,
    sink: Sink,
    *,
    fps: int | float | str | Fraction = 16,
    config: DecodeConfig = DecodeConfig(),
    timed_latency_s: tuple[float, ...] = (),
    keep: str | Path | None = None,
) -> Timeline:
    """Decode once under torch.profiler (CPU and CUDA activities, all threads).

    A throw-away session comes first, because Kineto loses kernels while it starts up. The trace is
    put on the host clock by markers around the run, so that kernels, CUDA events and the host's
    records share one axis whose zero is the call.

    Args:
        mode: key of `vdkit.measure.bench.MODES`.
        decoder, latents, sink, fps, config: as for `decode_async`.
        timed_latency_s: latencies of unprofiled runs of this setting, kept beside the figures.
        keep: also leave Kineto's own trace here (``.json`` or ``.json.gz``).

    Returns:
        A timeline; on a CPU it holds records and host operators only.

    Raises:
        ValueError: unknown mode; FileExistsError: ``keep`` is there; or as `decode_async`.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown; use one of {', '.join(MODES)}")
    keep = None if keep is None else Path(keep)
    if keep is not None and keep.exists():
        raise FileExistsError(f"{keep} is there already; give another name")
    on_gpu = decoder.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    options: dict[str, Any] = {"activities": activities, "acc_events": True}
    with profile(**options):
        torch.ones(8, device=decoder.device).add(1).sum().item()
    threads = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with profile(**options, experimental_config=threads) as session:
        before = _mark()
        done = MODES[mode](decoder, latents, sink, fps=fps, config=config, progress=False)
        after = _mark()
    with _trace_file(keep) as file:
        session.export_chrome_trace(str(file))
        timeline = read_trace(file, decoder.device.index if on_gpu else None, require_gpu=on_gpu)
    offset, residual = align(timeline.markers, before, after)
    timeline.shift(offset - to_ns(done.started_s))
    timeline.run = as_run(done, 0)
    timeline.started_s = done.started_s
    timeline.config = config
    timeline.device = done.device
    timeline.timed_latency_s = timed_latency_s
    timeline.assign_chunks()
    timeline.alignment = _alignment(timeline, residual, to_ns(done.clock_residual_s))
    return timeline


def _mark() -> list[Bracket]:
    brackets = []
    for _ in range(_MARKERS):
        start = time.perf_counter_ns()
        with record_function(CLOCK_MARKER):
            pass
        brackets.append((start, time.perf_counter_ns()))
    return brackets


def align(
    markers: tuple[tuple[int, int], ...], before: list[Bracket], after: list[Bracket]
) -> tuple[int, int]:
    """(offset, residual) in ns: trace time plus offset is host time.

    The marker with the narrowest bracket at either end counts; the residual is half a bracket, or
    half of how far the two ends disagree, whichever is more.

    Raises:
        RuntimeError: the trace does not hold every marker; the profiler dropped events.
    """
    if len(markers) != len(before) + len(after):
        raise RuntimeError(
            f"the trace holds {len(markers)} of {len(before) + len(after)} clock markers: the "
            "profiler dropped events; profile again"
        )
    ends = []
    first, last = markers[: len(before)], markers[len(before) :]
    for brackets, mine in ((before, first), (after, last)):
        widths = [
            (stop - start) - (done - begun)
            for (start, stop), (begun, done) in zip(brackets, mine, strict=True)
        ]
        best = int(np.argmin(widths))
        offset = (sum(brackets[best]) - sum(mine[best])) // 2
        ends.append((offset, widths[best] // 2 + 1))
    offset = (ends[0][0] + ends[1][0]) // 2
    apart = abs(ends[0][0] - ends[1][0]) // 2
    return offset, max(ends[0][1], ends[1][1], apart)


def _alignment(timeline: Timeline, residual: int, recorded: int) -> Alignment:
    """How far the end of each chunk's last kernel lies from its event, beside what is known."""
    assert timeline.run is not None
    kernels = timeline.kernels
    apart = []
    for chunk in timeline.run.chunks:
        mine = kernels.chunk == chunk.index
        if mine.any():
            last = int(kernels.stop_ns[mine].max())
            apart.append(abs(to_ns(chunk.decode_done_s or 0.0) - last))
    return Alignment(
        host_residual_ns=residual,
        event_residual_ns=max(apart) if apart else None,
        event_median_ns=round(statistics.median(apart)) if apart else None,
        record_residual_ns=recorded,
    )


@contextmanager
def _trace_file(keep: Path | None) -> Iterator[Path]:
    """Where Kineto writes: the file to keep, or one that goes again."""
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="vdkit-") as folder:
        yield Path(folder) / "trace.json"


@torch.inference_mode()
def count_flops(decoder: ChunkDecoder, latents: torch.Tensor, chunk_size: int) -> list[int]:
    """Floating-point operations of each chunk's decode, by torch's FlopCounter.

    Counts convolutions, matrix products and attention, a multiply-add as two. The first
    `_COUNTED_CHUNKS` chunks are run and counted; later ones do the work of the last of them, in
    proportion to their latent frames. A decoder with kernels that torch cannot count has a method
    ``chunk_flops`` instead.

    Args:
        latents: [1, C, T, h, w] on the decoder's device, in its dtype.
    """
    chunks = plan_chunks(latents.shape[2], chunk_size, decoder.temporal_factor)
    counts: list[int] = []
    own = getattr(decoder, "chunk_flops", None)
    if own is not None:
        size = latents.shape[-2:]
        spans = ((chunk.latent_start, chunk.latent_stop) for chunk in chunks)
        return [own(start, stop, *size) for start, stop in spans]
    with on_device(decoder.device), FlopCounterMode(display=False) as counter:
        state = decoder.begin(latents)
        for chunk in chunks[:_COUNTED_CHUNKS]:
            already = counter.get_total_flops()
            decoder.decode_chunk(state, chunk.latent_start, chunk.latent_stop)
            counts.append(counter.get_total_flops() - already)
    last = chunks[len(counts) - 1]
    for chunk in chunks[len(counts) :]:
        share = (chunk.latent_stop - chunk.latent_start) / (last.latent_stop - last.latent_start)
        counts.append(round(counts[_COUNTED_CHUNKS - 1] * share))
    return counts


@torch.inference_mode()
def measure_ceiling(device: torch.device, dtype: torch.dtype) -> Ceiling:
    """The rate of one large matrix product on random values: what the device can do at best."""
    on_gpu = device.type == "cuda"
    size, repeats = (8192, 20) if on_gpu else (1024, 5)
    generator = torch.Generator(device).manual_seed(0)
    shape = (size, size)
    left, right = (
        torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(2)
    )
    out = torch.empty_like(left)
    seconds = []
    for _ in range(repeats + 3):
        if on_gpu:
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            torch.mm(left, right, out=out)
            stop.record()
            stop.synchronize()
            seconds.append(start.elapsed_time(stop) / 1e3)
        else:
            begun = time.perf_counter()
            torch.mm(left, right, out=out)
            seconds.append(time.perf_counter() - begun)
    typical = statistics.median(seconds[3:])
    return Ceiling(
        size=size,
        dtype=str(dtype).removeprefix("torch."),
        n=repeats,
        tflop_per_s=2 * size**3 / typical / 1e12,
    )
