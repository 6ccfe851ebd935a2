"""Draws from the rounds of an A/A control: how often `decide` calls what is there, or is not.

No torch: recorded rounds can be judged again, with other numbers of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vdkit.record.old_aa import ARMS, CALLED_BY, MetricControl
from vdkit.record.stats import MORE, decide, paired_ratio, runs_needed, summarize, wilson


def check_draws(rounds: int, pairs: int, splits: int) -> None:
    """ValueError, with what is allowed, for draws that could say nothing."""
    fewest = runs_needed(paired=True)
    if pairs < fewest:
        raise ValueError(
            f"pairs is {pairs}; fewer than {fewest} can never be called different, so use "
            f"{fewest} or more"
        )
    if rounds < pairs:
        raise ValueError(
            f"rounds is {rounds} and pairs {pairs}: a split draws its pairs from the rounds, so "
            f"use {pairs} rounds or more"
        )
    if splits < 1:
        raise ValueError(f"splits is {splits}; use 1 or more")


def judge(
    values: Mapping[str, Sequence[float]], pairs: int, splits: int, seed: int = 0
) -> MetricControl:
    """Ask ``splits`` times whether ``pairs`` rounds show a difference.

    Each split draws rounds without replacement. In arms a and b it swaps the labels of every
    round with probability 1/2, so that not even a real difference between the two could be the
    reason for a call: whatever is called is false. Arm slow keeps its label, and counts as found
    if it is called slower than a. The same draws are also judged unpaired.

    Splits share rounds, so they are not independent: the Wilson intervals, which take them to be,
    are narrower than they should be. More rounds mend that, more splits do not.

    Args:
        values: arm to its values by round, above 0, all of the same length.
        pairs, splits: as `check_draws` allows.
        seed: of draws and swaps.
    """
    a, b, slow = (np.asarray(values[arm], dtype=np.float64) for arm in ARMS)
    check_draws(a.size, pairs, splits)
    random = np.random.default_rng(seed)
    false_calls, found = dict.fromkeys(CALLED_BY, 0), dict.fromkeys(CALLED_BY, 0)
    for _ in range(splits):
        drawn = random.choice(a.size, pairs, replace=False)
        swapped = random.integers(0, 2, pairs).astype(bool)
        left = np.where(swapped, b[drawn], a[drawn])
        right = np.where(swapped, a[drawn], b[drawn])
        for how in CALLED_BY:
            same = decide(left.tolist(), right.tolist(), paired=how == "paired")
            false_calls[how] += same.called
            planted = decide(a[drawn].tolist(), slow[drawn].tolist(), paired=how == "paired")
            found[how] += planted.verdict == MORE
    return MetricControl(
        arms={arm: summarize(values[arm]) for arm in ARMS},
        planted=paired_ratio(values["slow"], values["a"]),
        false_calls={how: wilson(count, splits) for how, count in false_calls.items()},
        found={how: wilson(count, splits) for how, count in found.items()},
    )
