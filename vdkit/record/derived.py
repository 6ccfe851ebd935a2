"""What is left to gain from a recorded decoder: by hiding its copies, and by better kernels.

Everything is per latent frame over whole runs, so that the parts of a run add up to its latency.
No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from vdkit.record.recording import Arm, Ceiling, Recording
    from vdkit.record.runs import Run


STEPS = ("decode", "copy", "convert", "write")


@dataclass(frozen=True, slots=True)
class Overlap:
    """One decoder, sync against async: ms per latent frame, means of the timed runs.

    Attributes:
        sync_ms: step (decode, copy, convert, write) to its time in mode sync, where the steps
            follow each other.
        sync_rest_ms: what mode sync takes beyond them: opening and closing the sink, launches on
            an idle device.
        async_decode_ms: time that mode async decodes.
        async_rest_ms: what it takes beyond that: everything that is not hidden.
    """

    sync_ms: Mapping[str, float]
    sync_rest_ms: float
    async_decode_ms: float
    async_rest_ms: float

    @property
    def sync_total_ms(self) -> float:
        """Latency of mode sync per latent frame."""
        return math.fsum(self.sync_ms.values()) + self.sync_rest_ms

    @property
    def async_total_ms(self) -> float:
        """Latency of mode async per latent frame."""
        return self.async_decode_ms + self.async_rest_ms

    @property
    def beside_ms(self) -> float:
        """What mode sync takes beside decoding: all that could be hidden."""
        return self.sync_total_ms - self.sync_ms["decode"]

    @property
    def beside_percent(self) -> float:
        """`beside_ms` as a share of mode sync."""
        return 100 * self.beside_ms / self.sync_total_ms

    @property
    def hidden_percent(self) -> float:
        """Share of `beside_ms` that does not show in mode async."""
        return 100 * (1 - self.async_rest_ms / self.beside_ms)


def overlap_of(result: Recording) -> Overlap:
    """Sync against async of one benchmark; ValueError if it lacks either of them."""
    sync, overlapped = (_arm(result, mode, "sync and async") for mode in ("sync", "async"))
    scale = 1e3 / result.workload.latent_frames
    steps = {step: scale * _mean_s(sync.timed, step) for step in STEPS}
    decode_ms = scale * _mean_s(overlapped.timed, "decode")
    rest_ms = scale * sync.latency.mean - math.fsum(steps.values())
    return Overlap(steps, rest_ms, decode_ms, scale * overlapped.latency.mean - decode_ms)


def _arm(result: Recording, mode: str, needed: str) -> Arm:
    if mode not in result.arms:
        raise ValueError(
            f"{result.label} has no runs of mode {mode}; run the benchmark with {needed}"
        )
    return result.arms[mode]


def _mean_s(runs: Sequence[Run], step: str) -> float:
    """Seconds of a step per run, 0 where a run has no such step."""
    spans = (chunk.span_s(step) or 0.0 for run in runs for chunk in run.chunks)
    return math.fsum(spans) / len(runs)


@dataclass(frozen=True, slots=True)
class Headroom:
    """Mode compute_only of one decoder against the fastest that its arithmetic could be.

    Attributes:
        compute_ms: per latent frame, mean of the timed runs.
        tflop_per_s: operations over that time.
        ceiling_ms: the same operations at the rate of a large matrix product.
    """

    compute_ms: float
    tflop_per_s: float
    ceiling_ms: float

    @property
    def percent(self) -> float:
        """Of the ceiling's rate."""
        return 100 * self.ceiling_ms / self.compute_ms


def headroom_of(result: Recording, tflop: float, ceiling: Ceiling) -> Headroom:
    """How near mode compute_only comes to ``ceiling``.

    Args:
        tflop: floating-point operations of the whole video, 1e12, a multiply-add as two, as of
            `vdkit.measure.profiler.count_flops`. Variants are comparable by one count.
        ceiling: of the same device and dtype.

    Raises:
        ValueError: no runs of mode compute_only, another dtype, or no operations.
    """
    arm = _arm(result, "compute_only", "compute_only")
    if ceiling.dtype != result.workload.dtype:
        raise ValueError(
            f"the ceiling is one of {ceiling.dtype}, the decoder ran in {result.workload.dtype}; "
            "measure it in that dtype"
        )
    if not (math.isfinite(tflop) and tflop > 0):
        raise ValueError(f"tflop is {tflop:g}; give the operations of the whole video, above 0")
    latency_s, scale = arm.latency.mean, 1e3 / result.workload.latent_frames
    return Headroom(scale * latency_s, tflop / latency_s, scale * tflop / ceiling.tflop_per_s)


@dataclass(frozen=True, slots=True)
class VramPoint:
    """One path at one length.

    Attributes:
        mode: ``diffusers``, ``sync``, ``async`` or ``compute_only``.
        frames: of the video, in pixels.
        peak_bytes: allocated at most by this decoder, its weights included.
        device: that decoded.
    """

    mode: str
    frames: int
    peak_bytes: int
    device: str


def vram_points(results: Iterable[Recording], other_bytes: int = 0) -> list[VramPoint]:
    """Every mode of benchmarks of different lengths; nothing of those on a CPU.

    Args:
        results: of `vdkit.run_benchmark`.
        other_bytes: device bytes held by others meanwhile, such as another model; subtracted.
    """
    return [
        VramPoint(arm.mode, arm.workload.frames, peak - other_bytes, result.provenance.device)
        for result in results
        for arm in result.arms.values()
        if (peak := arm.vram_peak_bytes) is not None
    ]


def recorded_vram(
    recorded: pd.DataFrame,
    modes: Sequence[str] = ("diffusers", "async"),
    *,
    decoder: str = "wan2.1",
    dtype: str = "float16",
    height: int = 480,
    width: int = 832,
) -> list[VramPoint]:
    """Every recorded length of one decoder as diffusers runs it (variant ``diffusers``), chunk 1.

    By benchmarks, variants and sweeps. Where a mode was recorded more than once at a length, on any
    device, the newest counts.

    Args:
        recorded: of `vdkit.load_results`.
        modes: to look for; a mode that a recording has not is missing at that length.
        decoder, dtype, height, width: of the workload.
    """
    if recorded.empty:
        return []
    wanted = {"decoder": decoder, "dtype": dtype, "height": height, "width": width,
              "chunk_size": 1, "variant": "diffusers", "warmup": False}  # fmt: skip
    kept = recorded["vram_peak_bytes"].notna() & recorded["mode"].isin(modes)
    kept &= ~recorded["kind"].isin(("aa", "ablation", "profile"))
    for name, value in wanted.items():
        kept &= recorded[name] == value
    points = []
    for _, runs in recorded[kept].groupby(["mode", "frames"]):
        newest = runs[runs["created_utc"] == runs["created_utc"].max()]
        mode, frames, device = newest[["mode", "frames", "device"]].iloc[0]
        other = newest["other_bytes"].astype(float).fillna(0.0)
        peak = int((newest["vram_peak_bytes"] - other).max())
        points.append(VramPoint(mode, int(frames), peak, device))
    return points


def vram_growth_bytes(points: Iterable[VramPoint], mode: str) -> float | None:
    """Bytes that each frame of video adds, by a line through all lengths; None below two."""
    mine = {point.frames: point.peak_bytes for point in points if point.mode == mode}
    return float(np.polyfit([*mine], [*mine.values()], 1)[0]) if len(mine) > 1 else None
