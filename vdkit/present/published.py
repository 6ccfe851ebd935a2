"""The published figures that vdkit is read beside, and what follows from them by arithmetic.

AWS and Synthesia, 2026-05-19, "How Synthesia optimizes generative AI video inference on Amazon EC2
G7e instances": the Wan 2.1 VAE decoder of diffusers on one g7e.2xlarge, 41 latent frames, one
warm-up and ten decodes of each path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vdkit.present.columns import COST, Asked
from vdkit.present.table import (
    Cell,
    Number,
    Table,
    mean_of,
    ratio_of,
    significant,
    summary_decimals,
)
from vdkit.record.money import saving_usd, usd_per_video_hour

if TYPE_CHECKING:
    from vdkit.record.recording import Recording

DEVICE = "G7e (RTX PRO 6000)"
RUNS = 10
LATENT_FRAMES = 41
USD_PER_HOUR = 3.36
SAVING_USD = 896.0
"""About that much, says the post, for 1,000 hours of video."""
LATENCY_STEP_S = 0.01
WINDOWS = ("run", "steady", "two chunks")


@dataclass(frozen=True, slots=True)
class Published:
    """One path of the post.

    Attributes:
        min_s, mean_s, p99_s: latency of ten decodes, s.
        utilization_percent: kernel utilization over two consecutive chunks in the steady state.
        rtf: real-time factor.
    """

    min_s: float
    mean_s: float
    p99_s: float
    utilization_percent: float
    rtf: float

    @property
    def busy_s(self) -> float:
        """Kernel seconds of a run, if the utilization were that of the whole run."""
        return self.mean_s * self.utilization_percent / 100

    @property
    def slowest_s(self) -> tuple[float, float]:
        """Bounds of the slowest decode, s: the linear P99 of ten lies between the two slowest.

        At least P99 itself; at most what P99 allows with the second slowest as fast as the fastest.
        """
        return self.p99_s, (self.p99_s - (1 - P99_SHARE) * self.min_s) / P99_SHARE


P99_RANK, P99_SHARE = 99 * (RUNS - 1) // 100 + 1, 99 * (RUNS - 1) % 100 / 100
"""P99 of the runs, in order of length, is that share of the way from that one to the next."""
SYNC = Published(21.98, 21.99, 22.01, 82.0, 3.21)
ASYNC = Published(20.16, 20.17, 20.20, 99.9, 2.95)
PUBLISHED = {"sync": SYNC, "async": ASYNC}


@dataclass(frozen=True, slots=True)
class Reading:
    """A length of the video, which the post leaves out, and what the latencies mean with it."""

    frames: int
    fps: float

    def __str__(self) -> str:
        return f"{self.frames} frames at {self.fps:g} fps"

    @property
    def rtfs(self) -> str:
        """Real-time factors of sync and async, to show."""
        return ", ".join(f"{one.mean_s * self.fps / self.frames:.3f}" for one in (SYNC, ASYNC))

    @property
    def saving_usd(self) -> float:
        """What async saves over 1,000 hours of video."""
        return saving_usd(SYNC.mean_s, ASYNC.mean_s, self.frames / self.fps, USD_PER_HOUR)

    @property
    def rounding_usd(self) -> float:
        """How far it moves, either way, with latencies that round to those published."""
        return 1000 * USD_PER_HOUR * LATENCY_STEP_S * self.fps / self.frames


# The published RTF follow if each latent frame is four frames at 24 fps; a causal VAE gives
# 4 (T - 1) + 1 frames, and Wan's own rate is 16 fps.
FITS = Reading(4 * LATENT_FRAMES, 24.0)
CAUSAL = Reading(4 * (LATENT_FRAMES - 1) + 1, 16.0)


def published_table(
    recordings: Mapping[str, Recording] | None = None,
    profiles: Mapping[str, Recording] | None = None,
    asked: Asked = Asked(USD_PER_HOUR),
) -> Table:
    """The published figures of both paths, then those of recordings: a row each.

    Args:
        recordings: what to call it, to one with the arms sync and async.
        profiles: the same name to a profile of the same setting, for the utilization by window;
            without one it is the recording's own, or missing.
        asked: a price, for what an hour of video costs.
    """
    rows = [
        _row(
            f"published, {DEVICE}", path, (one.min_s, one.mean_s, one.p99_s), 2, RUNS,
            {"two chunks": Number(one.utilization_percent, 1)}, Number(one.rtf, 2), asked,
            None if path == "sync" else Number(SYNC.mean_s / one.mean_s, 3),
        )
        for path, one in PUBLISHED.items()
    ]  # fmt: skip
    for name, recording in (recordings or {}).items():
        profile = (profiles or {}).get(name, recording)
        for path in PUBLISHED:
            arm, seen = recording.arms[path], profile.arms[path].profile
            busy = {
                window: Number(
                    one.kernel_utilization_percent, 2,
                    mark="" if one.resolution == "kernel" else "of decoder calls",
                )
                for window, one in (seen.analysis.windows if seen else {}).items()
            }  # fmt: skip
            latency, rtf = arm.latency, mean_of(arm.latencies, 1 / arm.workload.seconds)
            figures, last = (latency.min, latency.mean, latency.p99), summary_decimals(latency)
            over = None if path == "sync" else ratio_of(recording.ratio("sync", path))
            who = f"{name}, {recording.provenance.device}"
            rows.append(_row(who, path, figures, last, latency.n, busy, rtf, asked, over))
    note = (
        "Utilization: kernels over the window. P99 of so few is nearly the maximum. Published: "
        "AWS and Synthesia, 2026-05-19, ten runs, of which the post gives no raw values."
    )
    return Table(rows, asked.line, note)


def _row(
    name: str,
    path: str,
    latency: tuple[float, float, float],
    decimals: int,
    n: int,
    busy: Mapping[str, Number],
    rtf: Number,
    asked: Asked,
    over: Number | None,
) -> dict[str, Cell]:
    figures = zip(("min s", "mean s", "P99 s"), latency, strict=True)
    row: dict[str, Cell] = {"benchmark": name, "path": path}
    row |= {column: Number(value, decimals) for column, value in figures}
    row |= {"n": Number(n, 0), "RTF": rtf}
    row |= {f"utilization %, {window}": busy.get(window) for window in WINDOWS}
    if asked.usd_per_hour is not None:
        row[COST] = significant(usd_per_video_hour(rtf.value, asked.usd_per_hour), 4)
    return row | {"sync / path": over or Number(1, 0)}


def published_lines() -> list[str]:
    """What the published figures imply, computed from them."""
    low, high = SYNC.slowest_s
    off = SAVING_USD - FITS.saving_usd
    return [
        f"**Two windows.** {SYNC.utilization_percent:g} % of {SYNC.mean_s} s would be "
        f"{SYNC.busy_s:.2f} s of kernels, {ASYNC.utilization_percent:g} % of {ASYNC.mean_s} s "
        f"{ASYNC.busy_s:.2f} s. Both paths run the same decoder, so the utilizations cannot both "
        "be of whole runs: they are of two consecutive chunks. If async's kernels take "
        f"{ASYNC.busy_s:.2f} s, those of a whole sync run fill "
        f"{100 * ASYNC.busy_s / SYNC.mean_s:.1f} % of it.",
        f"**A real-time factor has a basis.** {SYNC.rtf} and {ASYNC.rtf} are what {FITS} give "
        f"({FITS.rtfs}); {CAUSAL}, which {LATENT_FRAMES} latent frames become, give {CAUSAL.rtfs}. "
        f"The latency is the same. At ${USD_PER_HOUR} per hour the former save "
        f"${FITS.saving_usd:.0f} ± {FITS.rounding_usd:.0f} in 1,000 hours of video (± is what "
        f"rounding both latencies to 10 ms leaves open; published: about ${SAVING_USD:.0f}, "
        f"${abs(off):.1f} {'more' if off > 0 else 'less'}), the latter "
        f"${CAUSAL.saving_usd:.0f} ± {CAUSAL.rounding_usd:.0f}.",
        f"**P99 of {RUNS} is nearly the maximum.** It lies {100 * P99_SHARE:.0f} % of the way from "
        f"run {P99_RANK} to run {P99_RANK + 1} in order of length, so the slowest sync decode took "
        f"{low:.2f} to {high:.3f} s. A tail cannot be seen in so few.",
        f"**The gain is {SYNC.mean_s / ASYNC.mean_s:.3f}.** No interval can be made from two "
        "means: the post gives no raw values. Here every run is kept, and the ratio has one.",
    ]
