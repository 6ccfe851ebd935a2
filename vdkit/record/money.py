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
    return _above_zero(
        "the price", usd_per_hour, " USD per hour", "give what an hour costs, as 3.36"
    )


def usd_per_video_hour(rtf: float, usd_per_hour: float) -> float:
    """US dollars for an hour of video, decoded one video at a time: RTF times price.

    Args:
        rtf: real-time factor, decode seconds per second of video.
        usd_per_hour: price of an hour of the machine, US dollars.

    Raises:
        ValueError: either is not finite and above 0.
    """
    return _above_zero("rtf", rtf, "", "use decode seconds over video seconds") * check_price(
        usd_per_hour
    )


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
    remedy = "use the mean of timed runs"
    _above_zero("latency_a_s", latency_a_s, " s", remedy)
    _above_zero("latency_b_s", latency_b_s, " s", remedy)
    _above_zero("video_s", video_s, " s", "use frames over frames per second")
    _above_zero("video_hours", video_hours, " h", "the post takes 1000")
    return check_price(usd_per_hour) * (latency_a_s - latency_b_s) / video_s * video_hours


def run_energy_j(run: Run) -> float | None:
    """Joules of the whole device from before a run to after it.

    None on a CPU, where NVML does not answer the counter, and where the counter went back (it
    starts again when the driver is loaded). The counter moves about every 100 ms, so the joules of
    runs shorter than about 1 s are imprecise.
    """
    before = run.gpu_before.energy_j if run.gpu_before is not None else None
    after = run.gpu_after.energy_j if run.gpu_after is not None else None
    if before is None or after is None or after < before:
        return None
    return after - before


def mean_energy_j(runs: Sequence[Run]) -> float | None:
    """Joules per run, mean; None unless `run_energy_j` has an answer for every one of them."""
    joules = [run_energy_j(run) for run in runs]
    known = [value for value in joules if value is not None]
    return sum(known) / len(known) if known and len(known) == len(joules) else None


def energy_j_per_video_s(runs: Sequence[Run], seconds: float) -> float | None:
    """Joules per second of video: mean over ``runs``, all of one video, over its playing time.

    Args:
        runs: recorded runs of one mode, without warm-ups.
        seconds: playing time of the video, s.

    Returns:
        None unless every run has readings of the energy counter (`run_energy_j`).

    Raises:
        ValueError: ``seconds`` is not finite and above 0.
    """
    _above_zero("seconds", seconds, " s", "use the workload's playing time")
    energy_j = mean_energy_j(runs)
    return None if energy_j is None else energy_j / seconds


def _above_zero(name: str, value: float, unit: str, remedy: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value:g}{unit}; it must be finite and above 0 ({remedy})")
    return value
