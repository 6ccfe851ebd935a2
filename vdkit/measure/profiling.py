"""The profile: timed runs with and without NVML sampling, then one profiled run of each path."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vdkit.decode.chunks import DecodeConfig
from vdkit.decode.pixels import check_latents
from vdkit.decode.protocols import ChunkDecoder
from vdkit.measure.bench import MODES, SinkFactory, check_plan, progress_bar
from vdkit.measure.describe import as_run, describe_workload, open_nvml
from vdkit.measure.figures import Analysis, analyze
from vdkit.measure.profile_records import ModeProfile, ProfileResult
from vdkit.measure.profiler import count_flops, measure_ceiling, profile_run
from vdkit.measure.provenance import collect_provenance, gpu_uuid
from vdkit.measure.records import Run
from vdkit.measure.sampler import NvmlSampler, check_interval
from vdkit.measure.samples import Samples
from vdkit.measure.stats import paired_ratio
from vdkit.measure.windows import chunk_starts

if TYPE_CHECKING:
    from vdkit.measure.records import SinkInfo
    from vdkit.measure.timeline import Timeline


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
            runner.timed(mode, -1, False)
            advance()
        for number in range(runs):
            turn = [(mode, sampled) for mode in modes for sampled in kinds]
            for mode, sampled in turn if number % 2 == 0 else reversed(turn):
                timed[mode, sampled].append(runner.timed(mode, number, sampled))
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
