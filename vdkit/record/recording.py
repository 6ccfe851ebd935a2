"""A finished study on disk: one file, one schema. What is said of it is derived when it is read.

A `Recording` holds `Arm` objects by name, an arm its raw runs; means, ratios and verdicts are
computed from those, so that no stored summary can contradict them. So is money, whose price is an
input of the reader's (prices change, recorded seconds do not). No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from vdkit.decode.chunks import FIRST_STEADY_CHUNK, DecodeConfig, DecodeResult
from vdkit.record import write_record
from vdkit.record.runs import (
    CHUNK_TIMES,
    Mode,
    NotNegative,
    Provenance,
    Record,
    Run,
    Seconds,
    Share,
    SinkInfo,
    Workload,
)
from vdkit.record.stats import Ratio, Summary, geometric_ratio, summarize
from vdkit.trace.figures import Analysis, FamilyShare
from vdkit.trace.stalls import CAUSES

SCHEMA_VERSION = 6
"""Earlier files are of several kinds, each with a count of its own up to 5; `upgrade` reads all."""
FILE = "recording.json"
KINDS = ("bench", "variants", "ablation", "aa", "profile", "cell")


class ArmProfile(Record):
    """What was seen of one arm with instruments on, apart from its timed runs.

    Attributes:
        sampled: runs with the NVML sampler on, by round; empty without a GPU.
        energy_j: NVML energy counter over each sampled run.
        throttled_samples: of how many NVML samples a throttle reason was set, by reason.
        run: the profiled run nearest the median of all of them; its latency is never a benchmark.
        latencies_s: of every profiled run; empty in earlier records, which made one.
        analysis: of its timeline.
        tflop: floating-point operations of the whole video by torch's FlopCounter, 1e12; None if
            it counted none.
        tflop_per_s: window name to operations done in it over its length.
        trace: file name of the exported trace.
    """

    sampled: tuple[Run, ...]
    energy_j: tuple[float, ...]
    throttled_samples: dict[str, int]
    run: Run
    analysis: Analysis
    tflop: float | None
    tflop_per_s: dict[str, float]
    trace: str
    latencies_s: tuple[Seconds, ...] = ()

    @field_validator("analysis")
    @classmethod
    def _with_later_causes(cls, value: Analysis) -> Analysis:
        """What was recorded before there was a cause has none of it."""
        for window in value.windows.values():
            window.stall_s.setdefault("encoder full", 0.0)
        return value

    @model_validator(mode="after")
    def _whole(self) -> ArmProfile:
        for name, window in self.analysis.windows.items():
            if missing := CAUSES.keys() - window.stall_s.keys():
                raise ValueError(f"window {name!r} has no {missing.pop()!r} among its stalls")
        return self


class FileQuality(Record):
    """A written video file, and what it kept of the frames that went into its encoder.

    Of an untimed look at one file of these frames and this sink, decoded again to RGB, so that what
    4:2:0 loses counts.

    Attributes:
        bytes: of the whole file, sound too.
        frames: that were compared, spread over the video; 0: they could not be, as where the file
            has another size.
        error: mean squared error of all of them over 255 squared.
        ssim: mean of theirs; None also where they are smaller than its window.
    """

    bytes: NotNegative
    frames: NotNegative = 0
    error: Share | None = None
    ssim: float | None = None

    @property
    def psnr_db(self) -> float | None:
        """Of all compared frames together; inf for equal."""
        if self.error is None:
            return None
        return -10 * math.log10(self.error) if self.error else math.inf


class Arm(Record):
    """One way to decode, and all runs of it.

    Attributes:
        runs: warm-ups included.
        frame_sha256: of all frames, from an untimed run; None where no frames leave the GPU, or
            where the sink makes its own of them.
        whole_error: of chunks that only approximate the decoder's own whole decode, of that untimed
            run: mean squared error of all frames, and of the worst chunk, over 255 squared, of
            audio over its mean square; None: not measured, or exact.
        at_once: of mode diffusers: all latents were decoded in one call, so that sums may round
            otherwise than those of chunks.
        setup_s: to load the decoder and to prepare it, outside all runs; None: not measured.
        other_bytes: device bytes that others, such as other variants, held meanwhile.
        same_code: on this device it runs what the baseline runs: its ratio shows noise alone.
        file: what its sink wrote, of one that encodes video; None in earlier records.
    """

    mode: Mode
    workload: Workload
    config: DecodeConfig
    sink: SinkInfo
    runs: tuple[Run, ...]
    frame_sha256: str | None = None
    whole_error: tuple[Share, Share] | None = None
    at_once: bool = False
    setup_s: Seconds | None = None
    other_bytes: NotNegative | None = None
    same_code: bool = False
    file: FileQuality | None = None
    profile: ArmProfile | None = None

    @model_validator(mode="after")
    def _whole(self) -> Arm:
        for run in self.runs:
            chunks, size = run.chunks, sum(chunk.d2h_bytes for chunk in run.chunks)
            stops = [0, *(chunk.frame_stop for chunk in chunks)]
            if run.mode != self.mode or stops[-1] != self.workload.frames:
                raise ValueError(f"a run of mode {run.mode!r} is of another mode or video")
            if [chunk.frame_start for chunk in chunks] != stops[:-1] or size != run.d2h_bytes:
                raise ValueError(f"the chunks of a run of mode {run.mode!r} do not add up to it")
            times = [getattr(chunk, name) for chunk in chunks for name in CHUNK_TIMES]
            if not all(time is None or -1 <= time <= run.latency_s + 1 for time in times):
                raise ValueError(f"a chunk was at work outside of its run of {run.latency_s} s")
        return self

    @cached_property
    def timed(self) -> tuple[Run, ...]:
        """Timed runs by round: round i of any two arms of a recording is a pair."""
        return tuple(sorted((r for r in self.runs if not r.warmup), key=lambda run: run.round))

    def values(self, name: str) -> list[float]:
        """What was measured under this name of the timed runs by round, but for None."""
        read = [getattr(run, name) for run in self.timed]
        return [value for value in read if value is not None]

    @cached_property
    def latencies(self) -> list[float]:
        """Latency of the timed runs by round, s."""
        return self.values("latency_s")

    @cached_property
    def latency(self) -> Summary:
        """Of the timed runs, s."""
        return summarize(self.latencies)

    @cached_property
    def ttff(self) -> Summary | None:
        """Time to the first frame of the timed runs, s; None where no frame is delivered."""
        return summarize(known) if (known := self.values("ttff_s")) else None

    @property
    def rtf(self) -> float:
        """Real-time factor: mean latency over playing time."""
        return self.latency.mean / self.workload.seconds

    @property
    def vram_peak_bytes(self) -> int | None:
        """Largest over the timed runs, without what others held meanwhile; None on a CPU."""
        peak = max((run.vram_peak_bytes or 0) for run in self.timed)
        return peak - (self.other_bytes or 0) if peak else None

    @property
    def pinned_bytes(self) -> int:
        """Pinned host memory, largest over the timed runs."""
        return max(run.pinned_bytes for run in self.timed)

    @property
    def d2h_bytes(self) -> int:
        """Copied to the host, largest over the timed runs."""
        return max(run.d2h_bytes for run in self.timed)

    @property
    def energy_j(self) -> float | None:
        """Joules of a timed run, mean; None unless every one of them has an answer."""
        known = self.values("energy_j")
        return sum(known) / len(known) if known and len(known) == len(self.timed) else None

    @property
    def whole_db(self) -> tuple[float, float] | None:
        """PSNR, of audio signal to noise, of all frames and of the worst chunk; inf for equal."""
        if self.whole_error is None:
            return None
        clip, worst = (-10 * math.log10(one) if one else math.inf for one in self.whole_error)
        return clip, worst

    @property
    def throttled_runs(self) -> int:
        """Timed runs with a throttle reason."""
        return sum(run.throttled for run in self.timed)

    @property
    def latent_frame_ms(self) -> list[float]:
        """Decode time per latent frame of each timed run, steady chunks of full size only, ms.

        From the end of one chunk's decode to the end of the next's, where nothing but decoding
        happens in mode compute_only. A run without a steady chunk is left out.
        """
        taken = [steady_ms(run, self.config.chunk_size) for run in self.timed]
        return [value for value in taken if value is not None]

    def typical(self) -> Run:
        """The timed run nearest to the median latency: the one to draw."""
        return min(self.timed, key=lambda run: abs(run.latency_s - self.latency.median))


def steady_ms(run: Run | DecodeResult, chunk_size: int) -> float | None:
    """`Arm.latent_frame_ms` of one run."""
    first = max(1, min(FIRST_STEADY_CHUNK, len(run.chunks) // 2))
    seconds, latent_frames = 0.0, 0
    for before, chunk in pairwise(run.chunks[first - 1 :]):
        length = chunk.latent_stop - chunk.latent_start
        done_s, last_s = chunk.decode_done_s, before.decode_done_s
        if length >= chunk_size and done_s is not None and last_s is not None:
            seconds, latent_frames = seconds + (done_s - last_s), latent_frames + length
    return 1e3 * seconds / latent_frames if latent_frames else None


class Planted(Record):
    """Work planted in arm ``slow``, and how often the comparison was asked about it.

    Attributes:
        pairs, splits: rounds drawn each time, and how many times.
        percent: asked for, % of the decode time of a chunk.
        seed: of orders, draws and swaps.
        orders: of the arms by round, warm-up first.
        matrix_size, matrix_dtype: of the square matrix products that are the work.
        product_s: one product, median.
        chunk_s: decode of one chunk, median of the steady chunks of an untimed run.
        first_s: decode of the first chunk, whose work is in proportion; None in early records,
            where the first latent frame had as many products as the others.
        products_per_latent_frame: planted for each latent frame after the first.
        products: in a whole run.
        done: really run in each run of ``slow``, as counted; empty in early records.
    """

    pairs: int
    splits: int
    percent: float
    seed: int
    orders: tuple[tuple[str, ...], ...]
    matrix_size: int
    matrix_dtype: str
    product_s: float
    chunk_s: float
    first_s: float | None = None
    products_per_latent_frame: float
    products: int
    done: tuple[int, ...] = ()

    @property
    def planted_s(self) -> float:
        """Planned for a whole run, s."""
        return self.products * self.product_s


class Ceiling(Record):
    """Measured matrix-multiply rate: a square product of ``size`` in ``dtype``, median of ``n``."""

    size: int
    dtype: str
    n: int
    tflop_per_s: float


class Sampling(Record):
    """The NVML sampler of a profile: its interval, samples, their cost, what was not answered."""

    interval_s: float
    samples: int
    mean_cost_ms: float
    unsupported: dict[str, str] = Field(default_factory=dict)


class Recording(Record):
    """One study: the question, the machine and every raw value.

    Attributes:
        kind: of `KINDS`.
        baseline: the arm that ratios and savings are against.
        arms: by name, in order of the tables. A benchmark's and a profile's are called as their
            mode, those of several variants ``VARIANT/MODE``.
        skipped: variant to the modes that it cannot run.
        psnr_db: variant to the PSNR of its uint8 frames against diffusers' in float32, of the
            first ``psnr_latent_frames``; None if they are equal; empty if not asked for.
        families: variant to its kernels of the steady window by family; empty on a CPU.
        planted: of an A/A control.
        sampling, ceiling: of a profile; None without a GPU, or without operations counted.
    """

    schema_version: int = SCHEMA_VERSION
    kind: str
    label: str
    command: str | None
    provenance: Provenance
    baseline: str
    arms: dict[str, Arm] = Field(min_length=1)
    skipped: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    psnr_db: dict[str, float | None] = Field(default_factory=dict)
    psnr_latent_frames: int = 0
    families: dict[str, tuple[FamilyShare, ...]] = Field(default_factory=dict)
    planted: Planted | None = None
    sampling: Sampling | None = None
    ceiling: Ceiling | None = None

    @model_validator(mode="after")
    def _whole(self) -> Recording:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is unknown; known are {', '.join(KINDS)}")
        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline!r} is not among the arms {list(self.arms)}")
        rounds = [run.round for run in self.base.timed]
        for name, arm in self.arms.items():
            if not arm.timed:
                raise ValueError(f"arm {name!r} has no timed run")
            if [run.round for run in arm.timed] != rounds or len({*rounds}) < len(rounds):
                raise ValueError(f"the runs of arm {name!r} are no pairs with the baseline's")
        return self

    @property
    def base(self) -> Arm:
        """The arm that ratios are against."""
        return self.arms[self.baseline]

    @property
    def workload(self) -> Workload:
        """What the baseline decoded."""
        return self.base.workload

    @property
    def config(self) -> DecodeConfig:
        """How the baseline decoded."""
        return self.base.config

    @property
    def sink(self) -> SinkInfo:
        """Where the baseline's frames went."""
        return self.base.sink

    @property
    def frames_identical(self) -> bool | None:
        """Whether all arms that must give the same bytes did; None if fewer than two must.

        Variants round differently, so each has to agree with itself only.
        """
        found = {identical(one.arms) for one in self.benchmarks.values()}
        return next((verdict for verdict in (False, True) if verdict in found), None)

    def ratio(self, over: str, under: str) -> Ratio | None:
        """Latency of one arm over another's, paired by round; None if one is not there."""
        if over not in self.arms or under not in self.arms:
            return None
        return geometric_ratio(self.arms[over].latencies, self.arms[under].latencies)

    def speedup(self, name: str) -> Ratio | None:
        """The baseline's latency over an arm's; None for the baseline itself."""
        return None if name == self.baseline else self.ratio(self.baseline, name)

    @cached_property
    def benchmarks(self) -> dict[str, Recording]:
        """Variant to its arms by mode, a benchmark of its own; of another kind "" to the whole.

        In order; the first variant is what the others are compared with.
        """
        if self.kind != "variants":
            return {"": self}
        named: dict[str, dict[str, Arm]] = {}
        for name, arm in self.arms.items():
            variant, _, mode = name.partition("/")
            named.setdefault(variant, {})[mode] = arm
        made, wanted = {}, self.baseline.partition("/")[2]
        for variant, arms in named.items():
            told = {"label": f"{self.label}: {variant}", "arms": arms, "kind": "bench",
                    "baseline": wanted if wanted in arms else usual_baseline(arms)}  # fmt: skip
            made[variant] = self.model_copy(update=told)
        return made

    def of_variant(self, variant: str) -> Recording:
        """One of `benchmarks`."""
        return self.benchmarks[variant]


def usual_baseline(modes: Mapping[str, Any]) -> str:
    """What ratios are against unless told: sync, or the first there is."""
    return next(m for m in ("sync", "diffusers", "async", "compute_only") if m in modes)


def comparable(arm: Arm) -> bool:
    """Whether an arm's frames must equal those of others byte for byte.

    diffusers decodes one latent frame per call, so at a larger chunk size its convolutions sum in
    another order and its frames may differ by one uint8 level: there it is not compared. Images
    and audio it decodes in one call, as some decoders do videos (``at_once``), and a decoder may
    say that its chunks are not ``exact``: there decibels tell.
    """
    work = arm.workload
    alike = work.exact and work.medium == "video" and arm.config.chunk_size == 1
    same_calls = alike and not arm.at_once
    return arm.frame_sha256 is not None and (arm.mode != "diffusers" or same_calls)


def identical(arms: Mapping[str, Arm]) -> bool | None:
    """Whether the compared arms gave the same bytes; None if fewer than two can be compared."""
    compared = [arm.frame_sha256 for arm in arms.values() if comparable(arm)]
    return len(set(compared)) == 1 if len(compared) > 1 else None


def write_recording(recording: Recording, folder: Path) -> Path:
    """Write it into ``folder`` as one line of JSON; FileExistsError if one is there already."""
    return write_record(recording, folder / FILE)


def usd_per_video_hour(rtf: float, usd_per_hour: float) -> float:
    """US dollars for an hour of video, decoded one video at a time: RTF times price.

    Args:
        rtf: real-time factor, decode seconds per second of video.
        usd_per_hour: price of an hour of the machine, US dollars.

    Raises:
        ValueError: either is not finite and above 0.
    """
    for value, what, remedy in (
        (rtf, f"rtf is {rtf:g}", "use decode seconds over video seconds"),
        (usd_per_hour, f"the price is {usd_per_hour:g} USD per hour",
         "give what an hour costs, as 3.36"),
    ):  # fmt: skip
        if not 0 < value < math.inf:
            raise ValueError(f"{what}; it must be finite and above 0 ({remedy})")
    return rtf * usd_per_hour


def saving_usd(rtf_a: float, rtf_b: float, usd_per_hour: float) -> float:
    """US dollars that decoding as b instead of as a saves in 1,000 hours of video.

    Below 0 if b is the slower one; arguments and ValueError as of `usd_per_video_hour`.
    """
    cost_a, cost_b = (usd_per_video_hour(rtf, usd_per_hour) for rtf in (rtf_a, rtf_b))
    return 1000 * (cost_a - cost_b)
