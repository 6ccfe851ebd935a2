"""A benchmark beside the published one: a table, and what the published figures imply. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vdkit.present.digits import ratio_words
from vdkit.present.money_cells import COST, four_digits
from vdkit.record.money import (
    PUBLISHED_LATENT_FRAMES,
    PUBLISHED_USD_PER_HOUR,
    published_costs,
    usd_per_video_hour,
)
from vdkit.record.published import (
    PUBLISHED,
    PUBLISHED_DEVICE,
    PUBLISHED_RUNS,
    implied_sync_percent,
    p99_ranks,
)

if TYPE_CHECKING:
    from vdkit.record.recording import Recording
    from vdkit.trace.figures import Analysis

WINDOW = "two chunks"
_PATHS = ("sync", "async")


def published_beside_rows(usd_per_hour: float = PUBLISHED_USD_PER_HOUR) -> list[dict[str, str]]:
    """The published figures of both paths, as rows of the table that `beside_rows` makes.

    Raises:
        ValueError: the price is not finite and above 0.
    """
    sync_s = PUBLISHED["sync"].mean_s
    return [
        _row(
            f"published, {PUBLISHED_DEVICE}",
            mode,
            (one.min_s, one.mean_s, one.p99_s, PUBLISHED_RUNS),
            f"{one.utilization_percent:.1f}",
            one.rtf,
            "1" if mode == "sync" else f"{sync_s / one.mean_s:.3f}",
            usd_per_hour,
            digits=2,
        )
        for mode, one in PUBLISHED.items()
    ]


def beside_rows(
    name: str,
    result: Recording,
    analyses: Mapping[str, Analysis],
    usd_per_hour: float = PUBLISHED_USD_PER_HOUR,
) -> list[dict[str, str]]:
    """Two rows, sync and async, of a benchmark: to stand below `published_beside_rows`.

    Args:
        name: what to call the benchmark.
        result: has modes sync and async, sync the baseline.
        analyses: mode to analysis of a profiled run of the same setting, for the utilization over
            two consecutive chunks; ``-`` where the run was too short.
        usd_per_hour: price of an hour of the machine, US dollars.

    Raises:
        ValueError: the price is not finite and above 0.
    """
    rows = []
    for mode in _PATHS:
        one = result.arms[mode]
        window = analyses[mode].windows.get(WINDOW) if mode in analyses else None
        busy = "-"
        if window is not None:
            calls = "" if window.resolution == "kernel" else " (decoder calls)"
            busy = f"{window.kernel_utilization_percent:.1f}{calls}"
        latency = one.latency_s
        rows.append(
            _row(
                f"{name}, {result.provenance.device}",
                mode,
                (latency.min, latency.mean, latency.p99, latency.n),
                busy,
                one.rtf,
                ratio_words(one.speedup) if one.speedup else "1",
                usd_per_hour,
            )
        )
    return rows


def _row(
    name: str,
    mode: str,
    latency: tuple[float, float, float, int],
    busy: str,
    rtf: float,
    speedup: str,
    usd_per_hour: float,
    digits: int = 3,
) -> dict[str, str]:
    low, mean, p99, n = latency
    return {
        "benchmark": name,
        "path": mode,
        "min s": f"{low:.{digits}f}",
        "mean s": f"{mean:.{digits}f}",
        "P99 s": f"{p99:.{digits}f}",
        "n": str(n),
        f"kernel utilization %, {WINDOW}": busy,
        "RTF": f"{rtf:.{digits}f}",
        COST: four_digits(usd_per_video_hour(rtf, usd_per_hour)),
        "sync / path": speedup,
    }


def implied_lines() -> list[str]:
    """What the published figures imply, a sentence each, computed from them."""
    sync, other = PUBLISHED["sync"], PUBLISHED["async"]
    rank, share = p99_ranks(PUBLISHED_RUNS)
    low, high = sync.slowest_s
    fits, causal = sorted(published_costs(), key=lambda one: not one.explained)
    return [
        f"**Two windows.** {sync.utilization_percent:g} % of {sync.mean_s} s would be "
        f"{sync.busy_s:.2f} s of kernels, {other.utilization_percent:g} % of {other.mean_s} s "
        f"{other.busy_s:.2f} s. Both paths run the same decoder, so the utilizations cannot both "
        f"be of whole runs: they are of two consecutive chunks. If async's kernels take "
        f"{other.busy_s:.2f} s, those of a whole sync run fill {implied_sync_percent():.1f} % of "
        "it.",
        f"**A real-time factor has a basis.** {sync.rtf} and {other.rtf} are what "
        f"{fits.frames} frames at {fits.fps:g} fps give ({fits.sync_rtf:.3f}, "
        f"{fits.async_rtf:.3f}); {causal.frames} frames at {causal.fps:g} fps, which "
        f"{PUBLISHED_LATENT_FRAMES} latent frames become, give {causal.sync_rtf:.3f} and "
        f"{causal.async_rtf:.3f}. The latency is the same.",
        f"**P99 of {PUBLISHED_RUNS} is nearly the maximum.** It lies {100 * share:.0f} % of the "
        f"way from run {rank} to run {rank + 1} in order of length, so the slowest sync decode "
        f"took {low:.2f} to {high:.3f} s. A tail cannot be seen in so few.",
        f"**The gain is {sync.mean_s / other.mean_s:.3f}.** No interval can be made from two "
        "means: the post gives no raw values. Here every run is kept, and the ratio has one.",
    ]


def utilization_rows(
    measured: Mapping[str, Mapping[str, Analysis]], published: bool = True
) -> list[dict[str, str]]:
    """Utilization of sync and async by window, one row for each; the published ones first.

    Args:
        measured: what to call it, to mode to analysis. On a CPU the figures are of the decoder's
            calls, and column ``of`` says so.
        published: whether to begin with the published rows.
    """
    rows = []
    if published:
        for mode, one in PUBLISHED.items():
            shown = {WINDOW: f"{one.utilization_percent:.1f}"}
            rows.append(_share_row(f"published, {PUBLISHED_DEVICE}", mode, "kernels", shown))
    for name, analyses in measured.items():
        for mode, analysis in analyses.items():
            shares = {w: f"{f.kernel_utilization_percent:.2f}" for w, f in analysis.windows.items()}
            kernels = analysis.windows["run"].resolution == "kernel"
            of = "kernels" if kernels else "decoder calls"
            rows.append(_share_row(name, mode, of, shares))
    return rows


def _share_row(name: str, mode: str, of: str, shares: Mapping[str, str]) -> dict[str, str]:
    windows = {f"{w} %": shares.get(w, "-") for w in ("run", "steady", WINDOW)}
    return {"measured": name, "path": mode, "of": of, **windows}
