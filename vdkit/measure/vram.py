"""Peak device memory against the length of the video, by decode path, from records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from vdkit.measure.records import BenchmarkResult


@dataclass(frozen=True, slots=True)
class VramPoint:
    """One path at one length.

    Attributes:
        mode: ``diffusers``, ``sync``, ``async`` or ``compute``.
        frames: of the video, in pixels.
        peak_bytes: allocated at most by this decoder, its weights included.
        device: that decoded.
    """

    mode: str
    frames: int
    peak_bytes: int
    device: str


def vram_points(results: Iterable[BenchmarkResult], other_bytes: int = 0) -> list[VramPoint]:
    """Every mode of benchmarks of different lengths; nothing of those on a CPU.

    Args:
        results: of `vdkit.run_benchmark`.
        other_bytes: device bytes held by others meanwhile, such as another model; subtracted.
    """
    return [
        VramPoint(
            mode,
            result.workload.frames,
            one.vram_peak_bytes - other_bytes,
            result.provenance.device,
        )
        for result in results
        for mode, one in result.modes.items()
        if one.vram_peak_bytes is not None
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

    Where a mode was recorded more than once at a length, on any device, the newest counts.

    Args:
        recorded: of `vdkit.load_results`.
        modes: to look for; a mode that a recording has not is missing at that length.
        decoder, dtype, height, width: of the workload.
    """
    if recorded.empty:
        return []
    wanted = {
        "decoder": decoder,
        "dtype": dtype,
        "height": height,
        "width": width,
        "chunk_size": 1,
        "variant": "diffusers",
    }
    here = recorded[~recorded["warmup"].astype(bool) & recorded["vram_peak_bytes"].notna()]
    for name, value in wanted.items():
        here = here[here[name] == value]
    points = []
    for _, runs in here[here["mode"].isin(modes)].groupby(["mode", "frames"]):
        newest = runs[runs["created_utc"] == runs["created_utc"].max()]
        mode, frames, device = newest[["mode", "frames", "device"]].iloc[0]
        other = newest["other_bytes"].astype(float).fillna(0.0)
        peak = int((newest["vram_peak_bytes"] - other).max())
        points.append(VramPoint(mode, int(frames), peak, device))
    return points


def vram_growth_bytes(points: Iterable[VramPoint], mode: str) -> float | None:
    """Bytes that each frame of video adds, by a line through all lengths; None below two."""
    mine = {point.frames: point.peak_bytes for point in points if point.mode == mode}
    if len(mine) < 2:
        return None
    return float(np.polyfit(list(mine), list(mine.values()), 1)[0])
