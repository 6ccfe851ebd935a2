"""Cells and lines about money and energy, for any table that has a latency in each row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vdkit.record.money import (
    PUBLISHED_ASYNC_S,
    PUBLISHED_LATENT_FRAMES,
    PUBLISHED_SAVING_USD,
    PUBLISHED_SYNC_S,
    PUBLISHED_USD_PER_HOUR,
    published_costs,
    saving_usd,
    usd_per_video_hour,
)

COST, SAVING, ENERGY = "USD / video h", "saves USD / 1000 h", "J / video s"

_COUNTER_S = 1.0  # shorter runs are too few steps of NVML's energy counter


def money_cells(
    latency_s: float,
    baseline_latency_s: float | None,
    video_s: float,
    energy_j: float | None,
    usd_per_hour: float | None = None,
    energy: bool = False,
) -> dict[str, str]:
    """The extra cells of one row: nothing unless a price is given or energy asked for.

    Args:
        latency_s: mean latency of the row, s.
        baseline_latency_s: mean latency of what savings are against; None for the baseline itself,
            or where there is none, and the saving is ``-``.
        video_s: playing time of the video, s.
        energy_j: mean joules of a run; None, shown as ``-``, without a reading.
        usd_per_hour: price of an hour of the machine; None for no cells of money.
        energy: whether to add joules per second of video.

    Raises:
        ValueError: as `usd_per_video_hour` and `saving_usd`.
    """
    cells = {}
    if usd_per_hour is not None:
        cells[COST] = four_digits(usd_per_video_hour(latency_s / video_s, usd_per_hour))
        cells[SAVING] = "-"
        if baseline_latency_s is not None:
            saved = saving_usd(baseline_latency_s, latency_s, video_s, usd_per_hour)
            cells[SAVING] = _dollars(saved)
    if energy:
        cells[ENERGY] = "-" if energy_j is None else f"{energy_j / video_s:.1f}"
    return cells


def four_digits(value: float) -> str:
    """Four significant digits, or every digit before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.4g}"


def _dollars(value: float) -> str:
    """Whole dollars, cents below 10; never a negative zero."""
    digits = 0 if abs(value) >= 10 else 2
    return f"{round(value, digits) + 0.0:.{digits}f}"


def price_line(usd_per_hour: float | None) -> str:
    """For a table's caption: the price, and that it was given; empty without one."""
    if usd_per_hour is None:
        return ""
    cents = f"{usd_per_hour:.2f}"
    price = cents if float(cents) == usd_per_hour else f"{usd_per_hour:g}"
    return f"Price: ${price} per hour of the machine (an input, not a part of the record)."


def money_legend(
    rows: Iterable[tuple[str, float | None, float]],
    usd_per_hour: float | None = None,
    energy: bool = False,
    baseline: str = "the baseline",
) -> str:
    """What the extra columns mean and where they are weak, for under the table; may be empty.

    Args:
        rows: of the table: device, joules of a run or None, mean latency in s.
        usd_per_hour, energy: as for `money_cells`.
        baseline: the mode that savings are against.
    """
    lines = []
    if usd_per_hour is not None:
        lines.append(
            f"{COST}: RTF x price, with one video on the machine at a time. {SAVING}: against "
            f"{baseline}, over 1,000 hours of video; below 0 it costs more."
        )
    return "\n".join([*lines, *(_energy_lines(list(rows)) if energy else ())])


def _energy_lines(rows: Sequence[tuple[str, float | None, float]]) -> list[str]:
    lines = []
    if any(joules is not None for _, joules, _ in rows):
        lines.append(
            f"{ENERGY}: difference of NVML's energy counter over each run, the whole GPU and "
            "nothing else, mean, over the seconds of video."
        )
    if any(joules is not None and latency_s < _COUNTER_S for _, joules, latency_s in rows):
        lines.append(
            f"{ENERGY} is imprecise for runs below {_COUNTER_S:g} s: the counter moves only about "
            "every 100 ms."
        )
    without = {device for device, joules, _ in rows if joules is None}
    if "cpu" in without:
        lines.append("no energy: runs on a CPU have no NVML counter")
    if gpus := sorted(without - {"cpu"}):
        lines.append(f"no energy: NVML gave no counter around every run on {', '.join(gpus)}")
    return lines


def published_rows() -> list[dict[str, str]]:
    """The published example of money, under either reading of its video, ready to show."""
    reading = f"{PUBLISHED_LATENT_FRAMES} latent frames as"
    return [
        {
            reading: f"{one.frames} frames at {one.fps:g} fps",
            "video s": f"{one.video_s:.3f}",
            "RTF sync": f"{one.sync_rtf:.3f}",
            "RTF async": f"{one.async_rtf:.3f}",
            "sync USD / video h": four_digits(one.sync_usd_per_video_hour),
            "async USD / video h": four_digits(one.async_usd_per_video_hour),
            SAVING: f"{one.saving_usd:.0f} ± {one.rounding_usd:.0f}",
            "published": f"~{PUBLISHED_SAVING_USD:.0f}",
        }
        for one in published_costs()
    ]


def published_lines() -> tuple[str, str]:
    """What is above that table and below it."""
    costs = published_costs()
    (fits,) = (one for one in costs if one.explained)
    others = " and ".join(f"{one.frames} frames at {one.fps:g} fps" for one in costs if one != fits)
    return (
        f"Money, the published example: sync {PUBLISHED_SYNC_S} s, async {PUBLISHED_ASYNC_S} s, "
        f"${PUBLISHED_USD_PER_HOUR} per hour; ± is what rounding both to 10 ms leaves open:",
        f"The published ${PUBLISHED_SAVING_USD:.0f} is ${abs(fits.off_usd):.1f} "
        f"{'more' if fits.off_usd > 0 else 'less'} than {fits.frames} frames at {fits.fps:g} fps "
        f"give, within that rounding; {others}, which {PUBLISHED_LATENT_FRAMES} latent frames are, "
        "cannot give it.",
    )
