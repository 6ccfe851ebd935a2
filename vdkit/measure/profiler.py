"""One decode under torch.profiler, apart from every timed run, as a `Timeline` on one clock.

The profiler slows what it watches and now and then loses events: so a profiled run is never timed,
timed runs of the same setting stand beside it, and `check_trace` looks at every trace.
"""

from __future__ import annotations

import gc
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from vdkit.decode.chunks import DecodeConfig, plan_chunks
from vdkit.decode.engines import on_device
from vdkit.decode.pixels import check_latents
from vdkit.decode.protocols import ChunkDecoder, Sink
from vdkit.measure.nvml import NvmlSampler, Samples, check_interval
from vdkit.measure.study import (
    MODES,
    SinkFactory,
    as_run,
    check_plan,
    describe_workload,
    open_nvml,
    progress_bar,
)
from vdkit.record.machine import collect_provenance, gpu_uuid
from vdkit.record.old_profile import Ceiling, ModeProfile, ProfileResult
from vdkit.record.runs import Run
from vdkit.record.stats import paired_ratio
from vdkit.trace.figures import Analysis, analyze, chunk_starts
from vdkit.trace.read import read_trace
from vdkit.trace.timeline import CLOCK_MARKER, Alignment, Timeline, to_ns

if TYPE_CHECKING:
    from vdkit.record.runs import SinkInfo
    from vdkit.trace.timeline import Timeline


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
        mode: key of `vdkit.measure.study.MODES`.
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


@dataclass(frozen=True, slots=True)
class Profile:
    """What `run_profile` gives: the record, the timelines to export, NVML samples by run."""

    result: ProfileResult
    timelines: dict[str, Timeline]
    samples: dict[str, Samples]

    def nvml_csv(self) -> str:
        """All samples of all runs as CSV, the run's name in front; empty text without a GPU."""
        lines: list[str] = []
        for name, samples in self.samples.items():
            header, *rows = samples.to_csv().splitlines()
            lines += ["run," + header] if not lines else []
            lines += [f"{name},{row}" for row in rows]
        return "\n".join(lines) + "\n" if lines else ""


class _Runner:
    """One decode at a time with everything else fixed, with the sampler on or off."""

    def __init__(
        self,
        decoder: ChunkDecoder,
        latents: torch.Tensor,
        sink_factory: SinkFactory,
        config: DecodeConfig,
        fps: Any,
        interval_s: float,
        keep: Path | None,
    ) -> None:
        self.decoder, self.latents, self.sink_factory = decoder, latents, sink_factory
        self.config, self.fps, self.interval_s, self.keep = config, fps, interval_s, keep
        self.uuid = gpu_uuid(decoder.device)
        self.samples: dict[str, Samples] = {}

    def timed(self, mode: str, number: int, sampled: bool) -> Run:
        gc.collect()
        with self.sink_factory(f"{mode}-{number + 1:03d}") as sink:
            if not sampled or self.uuid is None:
                done = MODES[mode](
                    self.decoder, self.latents, sink,
                    fps=self.fps, config=self.config, progress=False,
                )  # fmt: skip
            else:
                with NvmlSampler(self.uuid, self.interval_s) as sampler:
                    done = MODES[mode](
                        self.decoder, self.latents, sink,
                        fps=self.fps, config=self.config, progress=False,
                    )  # fmt: skip
                self.samples[f"{mode}-{number:03d}"] = sampler.samples.between(
                    -math.inf, math.inf, done.started_s
                )
        return as_run(done, number)

    def profiled(self, mode: str, timed: Sequence[Run]) -> Timeline:
        gc.collect()
        options: dict[str, Any] = {
            "fps": self.fps,
            "config": self.config,
            "timed_latency_s": tuple(run.latency_s for run in timed),
            "keep": None if self.keep is None else self.keep / f"kineto_{mode}.json.gz",
        }
        with self.sink_factory(f"{mode}-profiled") as sink:
            if self.uuid is None:
                return profile_run(mode, self.decoder, self.latents, sink, **options)
            with NvmlSampler(self.uuid, self.interval_s) as sampler:
                timeline = profile_run(mode, self.decoder, self.latents, sink, **options)
        assert timeline.run is not None
        begun_s, stop_s = timeline.started_s, timeline.started_s + timeline.run.latency_s
        mine = sampler.samples.between(begun_s - 0.1, stop_s + 0.1, begun_s)
        self.samples[f"{mode}-profiled"] = mine
        timeline.nvml = dict(mine.columns)
        return timeline


def run_profile(
    decoder: ChunkDecoder,
    latents: torch.Tensor,
    sink_factory: SinkFactory,
    *,
    sink_info: SinkInfo,
    modes: Sequence[str] = tuple(MODES),
    config: DecodeConfig = DecodeConfig(),
    fps: int | float | str | Fraction = 16,
    runs: int = 5,
    nvml_interval_s: float = 0.02,
    source: str | None = None,
    latents_source: str = "given",
    seed: int = 0,
    label: str = "profile",
    command: str | None = None,
    keep: Path | None = None,
    progress: bool = True,
) -> Profile:
    """Time each path in turns with the NVML sampler off and on, then profile each once.

    Per mode: one warm-up; ``runs`` pairs of a plain and a sampled run, in alternating order (on a
    CPU only plain ones); one profiled run. The profiled run is never timed.

    Args:
        decoder, latents, sink_factory, sink_info, modes, config, fps: as for `run_benchmark`.
        runs: timed rounds, 1 or more.
        nvml_interval_s: between NVML samples, s.
        source, latents_source, seed, label, command: for the record only.
        keep: folder in which Kineto's own traces are left as well.
        progress: show a tqdm bar of runs.

    Raises:
        ValueError: unknown or repeated mode, no runs, an interval out of range; bad input as for
            `decode_async`.
    """
    check_plan(modes, None, runs, 0)
    check_interval(nvml_interval_s)
    host = torch.device("cpu")
    ready = check_latents(latents, decoder.latent_channels, host, decoder.dtype)
    workload = describe_workload(decoder, ready, fps, source, latents_source, seed)
    runner = _Runner(decoder, ready, sink_factory, config, fps, nvml_interval_s, keep)
    kinds = (False, True) if runner.uuid else (False,)
    timed: dict[tuple[str, bool], list[Run]] = {(m, s): [] for m in modes for s in kinds}
    timelines: dict[str, Timeline] = {}
    with progress_bar(len(modes) * (2 + runs * len(kinds)), progress) as advance:
        for mode in modes:
            runner.arms[mode, -1, False].timed
            advance()
        for number in range(runs):
            turn = [(mode, sampled) for mode in modes for sampled in kinds]
            for mode, sampled in turn if number % 2 == 0 else reversed(turn):
                timed[mode, sampled].append(runner.arms[mode, number, sampled].timed)
                advance()
        for mode in modes:
            timelines[mode] = runner.profiled(mode, timed[mode, False])
            advance()
    flops = count_flops(decoder, ready.to(decoder.device), config.chunk_size)
    nvml = open_nvml(decoder.device)
    samples = list(runner.samples.values())
    result = ProfileResult(
        label=label,
        command=command,
        provenance=collect_provenance(decoder.device, nvml.driver if nvml else None),
        workload=workload,
        config=config,
        sink=sink_info,
        nvml_interval_s=nvml_interval_s if samples else None,
        nvml_samples=sum(len(s.columns["time_s"]) for s in samples) if samples else None,
        nvml_mean_cost_ms=sum(s.mean_cost_ms for s in samples) / len(samples) if samples else None,
        nvml_unsupported=samples[0].unsupported if samples else {},
        ceiling=measure_ceiling(decoder.device, decoder.dtype) if any(flops) else None,
        modes={
            mode: _mode_profile(
                mode, timed[mode, False], timed.get((mode, True), []), timelines[mode],
                runner.samples, flops, config,
            )
            for mode in modes
        },
    )  # fmt: skip
    return Profile(result, timelines, runner.samples)


def _mode_profile(
    mode: str,
    plain: list[Run],
    sampled: list[Run],
    timeline: Timeline,
    samples: dict[str, Samples],
    flops: list[int],
    config: DecodeConfig,
) -> ModeProfile:
    assert isinstance(timeline.run, Run)
    analysis = analyze(timeline)
    mine = {name: s for name, s in samples.items() if name.rsplit("-", 1)[0] == mode}
    energy = [s.energy_j() for name, s in mine.items() if not name.endswith("-profiled")]
    reasons: dict[str, int] = {}
    for one in mine.values():
        for reason, count in one.throttle_reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return ModeProfile(
        timed=tuple(plain),
        sampled=tuple(sampled),
        sampling_cost=paired_ratio(
            [run.latency_s for run in sampled], [run.latency_s for run in plain]
        )
        if sampled
        else None,
        energy_j=tuple(value for value in energy if value is not None),
        throttled_samples=reasons,
        profiled=timeline.run,
        analysis=analysis,
        tflop=sum(flops) / 1e12 if any(flops) else None,
        tflop_per_s=_rates(analysis, timeline, flops),
        trace=f"trace_{mode}.json.gz",
    )


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
