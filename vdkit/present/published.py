"""The published figures that vdkit is read beside, and what follows from them by arithmetic.

AWS and Synthesia, 2026-05-19, "How Synthesia optimizes generative AI video inference on Amazon EC2
G7e instances": the Wan 2.1 VAE decoder of diffusers on one g7e.2xlarge, 41 latent frames, one
warm-up and ten decodes of each path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    from vdkit.trace.figures import Analysis

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
        _, share = p99_ranks(RUNS)
        return self.p99_s, (self.p99_s - (1 - share) * self.min_s) / share


SYNC = Published(21.98, 21.99, 22.01, 82.0, 3.21)
ASYNC = Published(20.16, 20.17, 20.20, 99.9, 2.95)
PUBLISHED = {"sync": SYNC, "async": ASYNC}


@dataclass(frozen=True, slots=True)
class Reading:
    """What the published latencies mean if the video, whose length the post leaves out, is this."""

    frames: int
    fps: float

    def __str__(self) -> str:
        return f"{self.frames} frames at {self.fps:g} fps"

    @property
    def seconds(self) -> float:
        """Playing time, s."""
        return self.frames / self.fps

    @property
    def saving_usd(self) -> float:
        """What async saves over 1,000 hours of video."""
        return saving_usd(SYNC.mean_s, ASYNC.mean_s, self.seconds, USD_PER_HOUR)

    @property
    def rounding_usd(self) -> float:
        """How far it moves, either way, with latencies that round to those published."""
        return USD_PER_HOUR * LATENCY_STEP_S / self.seconds * 1000

    @property
    def explains(self) -> bool:
        """Whether the published saving follows, within that rounding."""
        return abs(SAVING_USD - self.saving_usd) <= self.rounding_usd

    @property
    def rtfs(self) -> str:
        """Real-time factors of sync and async, to show."""
        return f"{SYNC.mean_s / self.seconds:.3f}, {ASYNC.mean_s / self.seconds:.3f}"


# The published RTF follow if each latent frame is four frames at 24 fps; a causal VAE gives
# 4 (T - 1) + 1 frames, and Wan's own rate is 16 fps.
FITS = Reading(4 * LATENT_FRAMES, 24.0)
CAUSAL = Reading(4 * (LATENT_FRAMES - 1) + 1, 16.0)


def p99_ranks(n: int) -> tuple[int, float]:
    """(rank, share): the linear P99 of n values is share of the way from that rank to the next.

    Ranks count from 1, the smallest value; for fewer than 101 values the next one is the largest.

    Raises:
        ValueError: fewer than two values have no two to lie between.
    """
    if n < 2:
        raise ValueError(f"P99 of {n} values lies between no two of them; use 2 or more")
    place = 99 * (n - 1)
    return place // 100 + 1, place % 100 / 100


def implied_sync_percent() -> float:
    """Utilization of a whole published sync run, if its kernels take as long as those of async.

    Both paths run the same decoder, and async is at most busy for its whole run, so this is close
    to the largest that sync's can be over a whole run.
    """
    return 100 * ASYNC.busy_s / SYNC.mean_s


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
    rows = []
    for path, one in PUBLISHED.items():
        row = _row(f"published, {DEVICE}", path, (one.min_s, one.mean_s, one.p99_s), 2, RUNS)
        row |= {_column(w): None for w in WINDOWS}
        row[_column("two chunks")] = Number(one.utilization_percent, 1)
        rows.append(row | _ends(Number(one.rtf, 2), one.rtf, asked))
    rows[0]["sync / path"], rows[1]["sync / path"] = Number(1, 0), Number(_gain(), 3)
    for name, recording in (recordings or {}).items():
        rows += _recorded(name, recording, (profiles or {}).get(name, recording), asked)
    note = (
        "Utilization: kernels over the window. P99 of so few is nearly the maximum. Published: "
        "AWS and Synthesia, 2026-05-19, ten runs, of which the post gives no raw values."
    )
    return Table(rows, asked.line, note)


def _recorded(
    name: str, recording: Recording, profile: Recording, asked: Asked
) -> Iterator[dict[str, Cell]]:
    for path in PUBLISHED:
        arm, seen = recording.arms[path], profile.arms[path].profile
        latency = arm.latency
        figures, place = (latency.min, latency.mean, latency.p99), summary_decimals(latency)
        row = _row(f"{name}, {recording.provenance.device}", path, figures, place, latency.n)
        row |= {_column(w): _share(seen.analysis, w) if seen else None for w in WINDOWS}
        row |= _ends(mean_of(arm.latencies, 1 / arm.workload.seconds), arm.rtf, asked)
        over = recording.ratio("sync", path) if path != "sync" else None
        yield row | {"sync / path": ratio_of(over) or Number(1, 0)}


def _row(
    name: str, path: str, latency: tuple[float, ...], decimals: int, n: int
) -> dict[str, Cell]:
    names = ("min s", "mean s", "P99 s")
    figures = {c: Number(value, decimals) for c, value in zip(names, latency, strict=True)}
    return {"benchmark": name, "path": path, **figures, "n": Number(n, 0)}


def _ends(rtf: Number, value: float, asked: Asked) -> dict[str, Cell]:
    if asked.usd_per_hour is None:
        return {"RTF": rtf}
    return {"RTF": rtf, COST: significant(usd_per_video_hour(value, asked.usd_per_hour), 4)}


def _column(window: str) -> str:
    return f"utilization %, {window}"


def _share(analysis: Analysis, window: str) -> Number | None:
    found = analysis.windows.get(window)
    if found is None:
        return None
    mark = "" if found.resolution == "kernel" else "of decoder calls"
    return Number(found.kernel_utilization_percent, 2, mark=mark)


def _gain() -> float:
    return SYNC.mean_s / ASYNC.mean_s


def published_lines() -> list[str]:
    """What the published figures imply, computed from them."""
    rank, share = p99_ranks(RUNS)
    low, high = SYNC.slowest_s
    off = SAVING_USD - FITS.saving_usd
    return [
        f"**Two windows.** {SYNC.utilization_percent:g} % of {SYNC.mean_s} s would be "
        f"{SYNC.busy_s:.2f} s of kernels, {ASYNC.utilization_percent:g} % of {ASYNC.mean_s} s "
        f"{ASYNC.busy_s:.2f} s. Both paths run the same decoder, so the utilizations cannot both "
        "be of whole runs: they are of two consecutive chunks. If async's kernels take "
        f"{ASYNC.busy_s:.2f} s, those of a whole sync run fill {implied_sync_percent():.1f} % of "
        "it.",
        f"**A real-time factor has a basis.** {SYNC.rtf} and {ASYNC.rtf} are what {FITS} give "
        f"({FITS.rtfs}); {CAUSAL}, which {LATENT_FRAMES} latent frames become, give {CAUSAL.rtfs}. "
        f"The latency is the same. At ${USD_PER_HOUR} per hour the former save "
        f"${FITS.saving_usd:.0f} ± {FITS.rounding_usd:.0f} in 1,000 hours of video (± is what "
        f"rounding both latencies to 10 ms leaves open; published: about ${SAVING_USD:.0f}, "
        f"${abs(off):.1f} {'more' if off > 0 else 'less'}), the latter "
        f"${CAUSAL.saving_usd:.0f} ± {CAUSAL.rounding_usd:.0f}.",
        f"**P99 of {RUNS} is nearly the maximum.** It lies {100 * share:.0f} % of the way from run "
        f"{rank} to run {rank + 1} in order of length, so the slowest sync decode took {low:.2f} "
        f"to {high:.3f} s. A tail cannot be seen in so few.",
        f"**The gain is {_gain():.3f}.** No interval can be made from two means: the post gives no "
        "raw values. Here every run is kept, and the ratio has one.",
    ]
