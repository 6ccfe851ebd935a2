"""What follows from recorded runs: money, what overlap hides, headroom, memory over the length.

The price is an input of the reader's, never a part of a record: prices change, recorded seconds do
not. Times are per latent frame over whole runs, so that the parts of a run add up to its latency.
No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from vdkit.record.recording import Arm, Ceiling, Recording


def check_price(usd_per_hour: float) -> float:
    """``usd_per_hour`` as it is; ValueError unless it is finite and above 0."""
    _above_zero("the price", usd_per_hour, " USD per hour", "give what an hour costs, as 3.36")
    return usd_per_hour


def usd_per_video_hour(rtf: float, usd_per_hour: float) -> float:
    """US dollars for an hour of video, decoded one video at a time: RTF times price.

    Args:
        rtf: real-time factor, decode seconds per second of video.
        usd_per_hour: price of an hour of the machine, US dollars.

    Raises:
        ValueError: either is not finite and above 0.
    """
    _above_zero("rtf", rtf, "", "use decode seconds over video seconds")
    return rtf * check_price(usd_per_hour)


def saving_usd(rtf_a: float, rtf_b: float, usd_per_hour: float) -> float:
    """US dollars that decoding as b instead of as a saves in 1,000 hours of video.

    Below 0 if b is the slower one; arguments and ValueError as of `usd_per_video_hour`.
    """
    cost_a, cost_b = (usd_per_video_hour(rtf, usd_per_hour) for rtf in (rtf_a, rtf_b))
    return 1000 * (cost_a - cost_b)


def _above_zero(name: str, value: float, unit: str, remedy: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value:g}{unit}; it must be finite and above 0 ({remedy})")


@dataclass(frozen=True, slots=True)
class Overlap:
    """One decoder, sync against async: ms per latent frame, means of the timed runs.

    Attributes:
        sync_ms: what mode sync does one after the other: ``decode``, ``copy``, ``convert``,
            ``write``, and ``rest``: opening and closing the sink, launches on an idle device.
        async_ms: ``decode``, and ``rest``: everything that is not hidden behind it.
    """

    sync_ms: Mapping[str, float]
    async_ms: Mapping[str, float]

    @property
    def beside_ms(self) -> float:
        """What mode sync takes beside decoding: all that could be hidden."""
        return math.fsum(self.sync_ms.values()) - self.sync_ms["decode"]

    @property
    def beside_percent(self) -> float:
        """`beside_ms` as a share of mode sync."""
        return 100 * self.beside_ms / math.fsum(self.sync_ms.values())

    @property
    def hidden_percent(self) -> float:
        """Share of `beside_ms` that does not show in mode async."""
        return 100 * (1 - self.async_ms["rest"] / self.beside_ms)


def overlap_of(result: Recording) -> Overlap:
    """Sync against async of one benchmark; ValueError if it lacks either of them."""

    def parts_ms(mode: str, *steps: str) -> dict[str, float]:
        arm, scale = _arm(result, mode, "sync and async"), 1e3 / result.workload.latent_frames
        chunks = [chunk for run in arm.timed for chunk in run.chunks]
        parts = {
            step: scale * math.fsum(chunk.span_s(step) or 0.0 for chunk in chunks) / len(arm.timed)
            for step in steps
        }
        return parts | {"rest": scale * arm.latency.mean - math.fsum(parts.values())}

    return Overlap(
        parts_ms("sync", "decode", "copy", "convert", "write"), parts_ms("async", "decode")
    )


def _arm(result: Recording, mode: str, needed: str) -> Arm:
    if mode not in result.arms:
        raise ValueError(
            f"{result.label} has no runs of mode {mode}; run the benchmark with {needed}"
        )
    return result.arms[mode]


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


RECORDED = {"decoder": "wan2.1", "dtype": "float16", "height": 480, "width": 832,
            "chunk_size": 1, "variant": "diffusers", "mode": ("diffusers", "async"),
            "kind": ("bench", "variants", "cell")}  # fmt: skip
"""Column of `vdkit.load_results` to what it shall hold: which runs tell how memory grows."""


def vram_points(
    runs: pd.DataFrame, other_bytes: int = 0, wanted: Mapping[str, object] | None = None
) -> list[VramPoint]:
    """Every mode at every length, of the newest recording of it; nothing of those on a CPU.

    Args:
        runs: of `vdkit.load_results`.
        other_bytes: device bytes held by others meanwhile, such as another model; subtracted.
        wanted: as `RECORDED`; None: all.
    """
    if runs.empty:
        return []
    kept = runs["vram_peak_bytes"].notna() & ~runs["warmup"]
    for name, value in (wanted or {}).items():
        kept &= runs[name].isin(value if isinstance(value, tuple) else (value,))
    points = []
    for _, one in runs[kept].groupby(["mode", "frames"], sort=False):
        newest = one[one["created_utc"] == one["created_utc"].max()]
        mode, frames, device = newest[["mode", "frames", "device"]].iloc[0]
        peaks = newest["vram_peak_bytes"] - newest["other_bytes"].astype(float).fillna(0.0)
        points.append(VramPoint(mode, int(frames), int(peaks.max()) - other_bytes, device))
    return points


def vram_growth_bytes(points: Iterable[VramPoint], mode: str) -> float | None:
    """Bytes that each frame of video adds, by a line through all lengths; None below two."""
    mine = {point.frames: point.peak_bytes for point in points if point.mode == mode}
    return float(np.polyfit([*mine], [*mine.values()], 1)[0]) if len(mine) > 1 else None
