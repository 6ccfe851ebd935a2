"""How many digits a figure has earned: the last one shown is the second of its 95 % interval.

A mean of 4.185 s known to 0.057 s ends at the millisecond; a fourth decimal would say nothing. One
rule for every table, so that no column looks more certain than the runs behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vdkit.record.stats import mean_half_width, summarize

if TYPE_CHECKING:
    from vdkit.record.stats import Ratio, Summary

MOST_DECIMALS = 4
"""Of seconds that is 0.1 ms: below it lies the host's timing noise, whatever an interval says."""
DIGITS_LEGEND = (
    "Digits: down to the second one of the 95 % interval of the mean (Student's t) or ratio, "
    f"{MOST_DECIMALS} decimals at the most; three digits for a single run."
)


def decimals_for(half_width: float | None, value: float = 0.0) -> int:
    """Decimals that end at the second significant digit of ``half_width``, 4 at the most.

    Args:
        half_width: half of a 95 % interval, in the unit of the value; None if there is no interval
            (a single run), and the value gets three significant digits; 0 if all runs agree.
        value: needed without an interval only.

    Returns:
        Below 0 for tens, hundreds and so on.
    """
    if half_width is None:
        return 0 if value == 0 else min(MOST_DECIMALS, 2 - _exponent(value, 2))
    return MOST_DECIMALS if half_width == 0 else min(MOST_DECIMALS, 1 - _exponent(half_width, 1))


def _exponent(value: float, decimals: int) -> int:
    """Of ten, once the value is rounded: 9.99 to two digits is 10, which has one digit more."""
    return int(f"{value:.{decimals}e}".partition("e")[2])


def shown(value: float, decimals: int) -> str:
    """The value to so many decimals; never a negative zero."""
    return f"{round(value, decimals) + 0.0:.{max(0, decimals)}f}"


def to_interval(value: float, low: float | None = None, high: float | None = None) -> str:
    """``1.147 [1.125, 1.168]``: a value and its 95 % interval, all to the same place.

    Without an interval ``1.15``; if it has no width (all runs agree) only the value.
    """
    if low is None or high is None:
        return shown(value, decimals_for(None, value))
    decimals = decimals_for((high - low) / 2)
    if low == high:
        return shown(value, decimals)
    return f"{shown(value, decimals)} [{shown(low, decimals)}, {shown(high, decimals)}]"


def ratio_words(ratio: Ratio | None) -> str:
    """A ratio as `to_interval`; ``1.15 (n = 1)`` without an interval, ``-`` for None."""
    if ratio is None:
        return "-"
    text = to_interval(ratio.value, ratio.low, ratio.high)
    return f"{text} (n = 1)" if ratio.low is None else text


def ratio_decimals(ratio: Ratio) -> int:
    """Where `ratio_words` ends, for another figure of the same runs."""
    if ratio.low is None or ratio.high is None:
        return decimals_for(None, ratio.value)
    return decimals_for((ratio.high - ratio.low) / 2)


def mean_decimals(summary: Summary, scale: float = 1.0) -> int:
    """Where the mean of these runs ends: for it, and for what else is shown of the same runs.

    Args:
        scale: what the mean is multiplied by before it is shown, above 0.
    """
    half = mean_half_width(summary.std, summary.n)
    return decimals_for(None if half is None else half * scale, summary.mean * scale)


def mean_words(values: Sequence[float], scale: float = 1.0) -> str:
    """The mean of at least one run's values, times ``scale``."""
    summary = summarize(values)
    return shown(summary.mean * scale, mean_decimals(summary, scale))
