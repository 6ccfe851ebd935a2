"""What a sweep's settings cost in dollars and joules, for people. No torch, no GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdkit.predict.advise import Limits, storage_sensitivity
from vdkit.present.money_cells import COST, SAVING, four_digits, price_line
from vdkit.present.sweep_tables import sweep_rows
from vdkit.present.table import markdown_table
from vdkit.present.tables import what_and_where
from vdkit.record.money import saving_usd, usd_per_video_hour

if TYPE_CHECKING:
    from vdkit.predict.grid import Sweep

_COLUMNS = ("mode", "chunk", "slots", "measured s", COST, SAVING, "J / video s", "VRAM GB")


def money_rows(sweep: Sweep, usd_per_hour: float, slots: int = 2) -> list[dict[str, str]]:
    """The measured cells at full speed, ready to show; savings against sync of that chunk size.

    Args:
        usd_per_hour: price of an hour of the machine, US dollars.
        slots: only cells of mode async with so many.

    Raises:
        ValueError: the price is not finite and above 0.
    """
    return [
        {name: row[name] for name in _COLUMNS if name in row}
        for row in sweep_rows(sweep, usd_per_hour, energy=True)
        if row["sink MB/s"] == "full"
        and row["slots"] in ("-", str(slots))
        and row["min to max s"] != "-"
    ]


def saving_line(sweep: Sweep, limits: Limits, mb_per_s: float, usd_per_hour: float) -> str:
    """What the recommended setting saves against sync where storage has this speed, predicted.

    Raises:
        ValueError: as `storage_sensitivity`, or the sweep has no mode sync to compare with.
    """
    (point,) = storage_sensitivity(sweep, [mb_per_s], limits)
    if point.sync_s is None:
        raise ValueError(f"{sweep.plan.label} has no cell of mode sync; sweep sync and async")
    config, run = point.advice.config, point.advice.prediction.run
    video_s = run.info.seconds
    hour, sync_hour = (
        usd_per_video_hour(latency_s / video_s, usd_per_hour)
        for latency_s in (run.latency_s, point.sync_s)
    )
    saved = saving_usd(point.sync_s, run.latency_s, video_s, usd_per_hour)
    return (
        f"With storage at {mb_per_s:g} MB/s the recommended chunk {config.chunk_size} and "
        f"{config.slots} slot{'s' * (config.slots != 1)} cost ${four_digits(hour)} for an hour of "
        f"video, sync at that chunk size ${four_digits(sync_hour)}: predicted to save "
        f"${saved:.0f} in 1,000 hours."
    )


def sweep_money_text(sweep: Sweep, limits: Limits, mb_per_s: float, usd_per_hour: float) -> str:
    """Price, `money_rows` as a table and `saving_line`, as Markdown."""
    table = markdown_table(money_rows(sweep, usd_per_hour))
    parts = [
        f"{what_and_where(sweep.plan)}. {price_line(usd_per_hour)}",
        table,
        "† a run had a throttle reason set." if "†" in table else "",
        saving_line(sweep, limits, mb_per_s, usd_per_hour),
    ]
    return "\n\n".join(part for part in parts if part)
