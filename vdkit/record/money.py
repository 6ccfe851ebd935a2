"""Money and energy: what seconds of decoding cost, in dollars at a price given and in joules.

The price is an input of the reader's, never a part of a record: prices change, recorded seconds do
not. Joules come from the readings of NVML's energy counter around each recorded run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vdkit.record.runs import Run


def check_price(usd_per_hour: float) -> float:
    """``usd_per_hour`` as it is; ValueError unless it is finite and above 0."""
    remedy = "give what an hour costs, as 3.36"
    return _above_zero("the price", usd_per_hour, " USD per hour", remedy)


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


def saving_usd(
    latency_a_s: float,
    latency_b_s: float,
    video_s: float,
    usd_per_hour: float,
    video_hours: float = 1000.0,
) -> float:
    """US dollars that decoding as b instead of as a saves; below 0 if b is the slower one.

    Args:
        latency_a_s, latency_b_s: mean latency of the same video decoded either way, s.
        video_s: playing time of that video, s: frames over frame rate.
        usd_per_hour: price of an hour of the machine, US dollars.
        video_hours: how much video, hours.

    Raises:
        ValueError: an argument is not finite and above 0.
    """
    for name, value, unit, remedy in (
        ("latency_a_s", latency_a_s, "s", "use the mean of timed runs"),
        ("latency_b_s", latency_b_s, "s", "use the mean of timed runs"),
        ("video_s", video_s, "s", "use frames over frames per second"),
        ("video_hours", video_hours, "h", "the post takes 1000"),
    ):
        _above_zero(name, value, f" {unit}", remedy)
    return check_price(usd_per_hour) * (latency_a_s - latency_b_s) / video_s * video_hours


def run_energy_j(run: Run) -> float | None:
    """Joules of the whole device from before a run to after it.

    None on a CPU, where NVML does not answer the counter, and where the counter went back (it
    starts again when the driver is loaded). The counter moves about every 100 ms, so the joules of
    runs shorter than about 1 s are imprecise.
    """
    before, after = (one.energy_j if one else None for one in (run.gpu_before, run.gpu_after))
    return None if before is None or after is None or after < before else after - before


def mean_energy_j(runs: Sequence[Run]) -> float | None:
    """Joules per run, mean; None unless `run_energy_j` has an answer for every one of them."""
    known = [joules for run in runs if (joules := run_energy_j(run)) is not None]
    return sum(known) / len(known) if known and len(known) == len(runs) else None


def _above_zero(name: str, value: float, unit: str, remedy: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value:g}{unit}; it must be finite and above 0 ({remedy})")
    return value
