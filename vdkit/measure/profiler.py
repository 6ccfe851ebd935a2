"""One decode under torch.profiler, apart from every timed run, as a `Timeline` on one clock.

The profiler slows what it watches and now and then loses events: so a profiled run is never timed,
timed runs of the same setting stand beside it, and `check_trace` looks at every trace.
"""

from __future__ import annotations

import csv
import gc
import io
import math
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from vdkit.decode import ChunkDecoder, Sink, begun
from vdkit.decode.chunks import DecodeConfig, chunks_of
from vdkit.decode.engines import on_device, seconds_on
from vdkit.measure import study
from vdkit.measure.nvml import NvmlSampler, Samples, check_interval
from vdkit.record.recording import ArmProfile, Ceiling, Recording, Sampling, usual_baseline
from vdkit.record.runs import Run, gpu_uuid
from vdkit.trace import CLOCK_MARKER, Alignment, Timeline, to_ns
from vdkit.trace.figures import Analysis, analyze, check_trace, chunk_starts
from vdkit.trace.files import read_trace

_MARKERS = 5
_COUNTED_CHUNKS = 4

Bracket = tuple[int, int]
"""Host clock before and after a marker, ns."""


def profile_run(
    mode: str, decoder: ChunkDecoder, latents: torch.Tensor, sink: Sink, *,
    fps: int | float | str | Fraction = 16, config: DecodeConfig = DecodeConfig(),
    keep: str | Path | None = None,
) -> Timeline:  # fmt: skip
    """Decode once under torch.profiler (CPU and CUDA activities, all threads).

    A throw-away session comes first, because Kineto loses kernels while it starts up. The trace is
    put on the host clock by markers around the run, so that kernels, CUDA events and the host's
    records share one axis whose zero is the call.

    Args:
        mode: key of `vdkit.measure.study.MODES`.
        decoder, latents, sink, fps, config: as for `decode_async`.
        keep: also leave Kineto's own trace here (``.json`` or ``.json.gz``).

    Returns:
        A timeline; on a CPU it holds records and host operators only.

    Raises:
        ValueError: unknown mode; FileExistsError: ``keep`` is there; or as `decode_async`.
    """
    if mode not in study.MODES:
        raise ValueError(f"mode {mode!r} is unknown; use one of {', '.join(study.MODES)}")
    keep = None if keep is None else Path(keep)
    if keep is not None and keep.exists():
        raise FileExistsError(f"{keep} is there already; give another name")
    on_gpu = decoder.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities):
        torch.ones(8, device=decoder.device).add(1).sum().item()
    threads = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with profile(activities=activities, experimental_config=threads) as session:
        before = _mark()
        done = study.MODES[mode](decoder, latents, sink, fps=fps, config=config, progress=False)
        after = _mark()
    with tempfile.TemporaryDirectory(prefix="vdkit-") as folder:
        file = keep or Path(folder) / "trace.json"
        session.export_chrome_trace(str(file))
        timeline = read_trace(file, decoder.device.index if on_gpu else None, require_gpu=on_gpu)
    offset, residual = align(timeline.markers, before, after)
    timeline.shift(offset - to_ns(done.started_s))
    timeline.run, timeline.started_s = study.as_run(done, 0), done.started_s
    timeline.config, timeline.device = config, done.device
    timeline.assign_chunks()
    kernels = timeline.chunk_kernels()
    apart = [  # the end of each chunk's last kernel, and its event
        abs(to_ns(chunk.decode_done_s or 0.0) - kernels[chunk.index].span[1])
        for chunk in done.chunks
        if chunk.index in kernels
    ]
    timeline.alignment = Alignment(
        host_residual_ns=residual,
        event_residual_ns=max(apart) if apart else None,
        event_median_ns=round(statistics.median(apart)) if apart else None,
        record_residual_ns=to_ns(done.clock_residual_s),
    )
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
    for brackets, mine in ((before, markers[: len(before)]), (after, markers[len(before) :])):
        pairs = zip(brackets, mine, strict=True)
        ends.append(min(((b[1] - b[0]) - (m[1] - m[0]), (sum(b) - sum(m)) // 2) for b, m in pairs))
    (width, offset), (other_width, other) = ends
    apart = abs(offset - other) // 2
    return (offset + other) // 2, max(width // 2 + 1, other_width // 2 + 1, apart)


@torch.inference_mode()
def count_flops(decoder: ChunkDecoder, latents: torch.Tensor, chunk_size: int) -> list[int]:
    """Floating-point operations of each chunk's decode, by torch's FlopCounter.

    Counts convolutions, matrix products and attention, a multiply-add as two. The first
    `_COUNTED_CHUNKS` chunks are run and counted; later ones do the work of the last of them, in
    proportion to their frames. A decoder with kernels that torch cannot count has a method
    ``chunk_flops`` instead.

    Args:
        latents: as `ChunkDecoder.begin` takes them.
    """
    chunks = chunks_of(decoder, latents, chunk_size)
    counts: list[int] = []
    own = getattr(decoder, "chunk_flops", None)
    if own is not None:
        size = latents.shape[-2:]
        spans = ((chunk.latent_start, chunk.latent_stop) for chunk in chunks)
        return [own(start, stop, *size) for start, stop in spans]
    counter = FlopCounterMode(display=False)
    with on_device(decoder.device), counter, begun(decoder, latents) as state:
        for chunk in chunks[:_COUNTED_CHUNKS]:
            already = counter.get_total_flops()
            decoder.decode_chunk(state, chunk.latent_start, chunk.latent_stop)
            counts.append(counter.get_total_flops() - already)
    last = chunks[len(counts) - 1]
    for chunk in chunks[len(counts) :]:
        counts.append(round(counts[_COUNTED_CHUNKS - 1] * chunk.frames / last.frames))
    return counts


@torch.inference_mode()
def measure_ceiling(device: torch.device, dtype: torch.dtype) -> Ceiling:
    """The rate of one large matrix product on random values: what the device can do at best."""
    size, repeats = (8192, 20) if device.type == "cuda" else (1024, 5)
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn((size, size), generator=generator, device=device, dtype=dtype) for _ in range(2)
    )
    out = torch.empty_like(left)
    seconds = seconds_on(device, lambda: torch.mm(left, right, out=out), repeats + 3)
    return Ceiling(
        size=size,
        dtype=str(dtype).removeprefix("torch."),
        n=repeats,
        tflop_per_s=2 * size**3 / statistics.median(seconds[3:]) / 1e12,
    )


@dataclass(frozen=True, slots=True)
class Profile:
    """What `run_profile` gives: the record, the timelines to export, NVML samples by run."""

    recording: Recording
    timelines: dict[str, Timeline]
    samples: dict[str, Samples]

    def nvml_csv(self) -> str:
        """All samples of all runs, in full precision; empty text without a GPU, and for None."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerows([["run", *one.columns] for one in self.samples.values()][:1])
        for name, one in self.samples.items():
            table.writerows([name, *row] for row in zip(*one.columns.values(), strict=True))
        return text.getvalue()


class _Try(NamedTuple):
    """A profiled run, its NVML samples on a GPU, and where Kineto's own trace was left."""

    run: Run
    timeline: Timeline
    samples: tuple[Samples, ...]
    file: Path | None


class _Sampled(study.Bench):
    """A bench whose runs are sampled; ``samples`` holds those of each arm, 0 s at its call."""

    def __init__(self, bench: study.Bench, uuid: str | None, interval_s: float) -> None:
        vars(self).update(vars(bench))  # the same decoder and video
        self.uuid, self.interval_s = uuid, interval_s
        self.samples: dict[str, list[Samples]] = {mode: [] for mode in study.MODES}

    def sampler(self) -> Any:
        """None without a GPU."""
        return NvmlSampler(self.uuid, self.interval_s) if self.uuid else nullcontext()

    def run(self, mode: str, number: int, sink: Sink, config: DecodeConfig) -> Run:
        gc.collect()
        with self.sampler() as sampler:
            done = self.decode(mode, sink, config)
        mine = sampler.samples.between(-math.inf, math.inf, done.started_s)
        self.samples[mode].append(mine)
        return study.as_run(done, number)


class _Profiled(_Sampled):
    """A bench whose runs are profiled, and on a GPU sampled; ``tries`` holds those of each arm."""

    keep: Path | None = None
    tries: dict[str, list[_Try]]

    def run(self, mode: str, number: int, sink: Sink, config: DecodeConfig) -> Run:
        gc.collect()
        file = self.keep / f"kineto_{mode}-{number}.json.gz" if self.keep else None
        with self.sampler() as sampler:
            made = profile_run(
                mode, self.decoder, self.latents, sink, fps=self.fps, config=config, keep=file
            )
        run, begun_s = made.run, made.started_s
        assert isinstance(run, Run)
        mine: list[Samples] = []
        if sampler is not None:
            end_s = begun_s + run.latency_s
            mine = [sampler.samples.between(begun_s - 0.1, end_s + 0.1, begun_s)]
            made.nvml = dict(mine[0].columns)
        self.tries[mode].append(_Try(run, made, tuple(mine), file))
        return run


def run_profile(
    decoder: ChunkDecoder, latents: torch.Tensor, sink_factory: study.SinkFactory, *,
    modes: Sequence[str] = tuple(study.MODES), runs: int = 5, profiled: int = 3,
    nvml_interval_s: float = 0.02, keep: Path | None = None, progress: bool = True,
    **shared: Unpack[study.Shared],
) -> Profile:  # fmt: skip
    """Time each path in turns with the NVML sampler off and on, then profile each a few times.

    Timed runs are those of `vdkit.measure.study.measure`; the sampled ones, on a GPU only, take
    turns with them. No profiled run is timed; of those of a path a typical one is kept.

    Args:
        decoder, latents, sink_factory, modes, shared: as for `run_benchmark`.
        runs: timed rounds, 1 or more.
        profiled: profiled runs of each path, 1 or more; the one nearest their median is kept, of
            those whose trace lost no events if there are any.
        nvml_interval_s: between NVML samples, s.
        keep: folder in which Kineto's own traces of the kept runs are left as well.
        progress: show a tqdm bar of runs.

    Raises:
        ValueError: unknown or repeated mode, no runs, an interval out of range; bad input as for
            `decode_async`.
    """
    study.check_modes(modes)
    check_interval(nvml_interval_s)
    if profiled < 1:
        raise ValueError(f"profiled is {profiled}; use 1 or more")
    bench = study.Bench(decoder, latents, sink_factory, **shared)
    uuid = gpu_uuid(decoder.device)
    sampled = _Sampled(bench, uuid, nvml_interval_s)
    profiling = _Profiled(bench, uuid, nvml_interval_s)
    profiling.keep, profiling.tries = keep, {mode: [] for mode in modes}
    plans, turns, again = {mode: bench.arm(mode) for mode in modes}, {}, {}
    for mode, plan in plans.items():
        turns[mode] = plan
        again[f"{mode}, profiled"] = replace(plan, bench=profiling, hashed=False)
        if uuid:
            turns[f"{mode}, sampled"] = replace(plan, bench=sampled, hashed=False)
    measured = study.measure(turns, runs, 0, progress=progress)
    study.measure(again, profiled, 0, progress=progress)
    flops = count_flops(decoder, bench.latents.to(decoder.device), bench.config.chunk_size)
    timelines: dict[str, Timeline] = {}
    samples: dict[str, Samples] = {}
    profiles = {}
    for mode, made in profiling.tries.items():
        kept = _typical(made)
        kept.timeline.timed_latency_s = tuple(run.latency_s for run in measured.runs[mode])
        timelines[mode] = kept.timeline
        mine = sampled.samples[mode]
        samples |= {f"{mode}-{number:03d}": one for number, one in enumerate(mine)}
        samples |= {f"{mode}-profiled": one for one in kept.samples}
        analysis = analyze(kept.timeline)
        held = (Counter(one.throttle_reasons) for one in (*mine, *kept.samples))
        profiles[mode] = ArmProfile(
            sampled=tuple(measured.runs.get(f"{mode}, sampled", [])),
            energy_j=tuple(joules for one in mine if (joules := one.energy_j()) is not None),
            throttled_samples=dict(sum(held, Counter())), run=kept.run, analysis=analysis,
            tflop=sum(flops) / 1e12 if any(flops) else None,
            tflop_per_s=_rates(analysis, kept.timeline, flops), trace=f"trace_{mode}.json.gz",
            latencies_s=tuple(one.run.latency_s for one in made),
        )  # fmt: skip
    taken, sampling = list(samples.values()), None
    if taken:
        sampling = Sampling(
            interval_s=nvml_interval_s, samples=sum(map(len, taken)),
            mean_cost_ms=statistics.fmean(one.mean_cost_ms for one in taken),
            unsupported=taken[0].unsupported,
        )  # fmt: skip
    recording = replace(measured, plans=plans).recording(
        "profile",
        usual_baseline(plans),
        sampling=sampling,
        ceiling=measure_ceiling(decoder.device, decoder.dtype) if any(flops) else None,
    )
    arms = {m: a.model_copy(update={"profile": profiles[m]}) for m, a in recording.arms.items()}
    return Profile(recording.model_copy(update={"arms": arms}), timelines, samples)


def _typical(tries: Sequence[_Try]) -> _Try:
    """The run nearest the median, of whole traces if there are any; only its file stays."""
    whole = [one for one in tries if not any(c.ok is False for c in check_trace(one.timeline))]
    median = statistics.median(one.run.latency_s for one in tries)
    kept = min(whole or tries, key=lambda one: abs(one.run.latency_s - median))
    for one in tries:
        if one.file is not None and one is not kept:
            one.file.unlink()
    if kept.file is not None:
        kept.file.rename(kept.file.with_name(re.sub(r"-\d+\.", ".", kept.file.name)))
    return kept


def _rates(analysis: Analysis, timeline: Timeline, flops: list[int]) -> dict[str, float]:
    """Operations per second of each window that holds whole chunks, 1e12/s."""
    assert timeline.run is not None
    if not any(flops):
        return {}
    rates = {"run": sum(flops) / analysis.windows["run"].window_s / 1e12}
    steady = analysis.windows.get("steady")
    if steady is not None:
        starts = np.array(chunk_starts(timeline)) / 1e9
        inside = (starts >= steady.start_s - 1e-9) & (starts < steady.stop_s - 1e-9)
        rates["steady"] = float(np.array(flops)[inside].sum()) / steady.window_s / 1e12
    return rates
