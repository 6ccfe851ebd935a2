"""Statistics of repeated runs. scipy is imported where it is used, so that vdkit starts quickly."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXACT_UP_TO = 20_000
"""Up to so many (14 pairs, 8 runs against 8) all permutations are tried; above, random ones."""
PERMUTATIONS = 10_000
CALL_BELOW_P = 0.01
"""A difference is called below this p. A comparison tests several metrics of several modes at once:
at the customary 0.05 a table of 20 tests would hold one false call, at 0.01 five such tables do."""

MORE, LESS = "more", "less"
NO_DIFFERENCE = "no difference seen"
TOO_FEW = "too few runs to tell"

_Values = NDArray[np.float64]
Values = Sequence[float] | _Values  # of one side


@dataclass(frozen=True, slots=True)
class Summary:
    """Location and spread of n values, in the unit of the values.

    ``p99`` is numpy's linear percentile; under 100 values it lies between the two largest and says
    little about a tail, so show ``n`` and ``max`` beside it.
    """

    n: int
    mean: float
    median: float
    min: float
    max: float
    p99: float
    std: float


def summarize(values: Values) -> Summary:
    """Summary of at least one finite value; ``std`` is the sample deviation (0 for one value)."""
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"cannot summarize {list(values)!r}: at least one finite value is needed")
    std = data.std(ddof=1) if data.size > 1 else 0.0
    found = (data.mean(), np.median(data), data.min(), data.max(), np.percentile(data, 99), std)
    return Summary(int(data.size), *map(float, found))


def _t(freedom: float) -> float:
    """97.5 % point of Student's t, as ``scipy.stats.t`` gives it, in a third of its import time."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def mean_half_width(std: float, n: int) -> float | None:
    """Half of the 95 % interval of a mean of n values by Student's t; None for one value.

    Args:
        std: their sample deviation; the answer is in its unit.
    """
    return None if n == 1 else _t(n - 1) * std / math.sqrt(n)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of geometric means with its 95 % interval; none for a single pair or value.

    The interval is Student's t on logarithms: for lognormal values it covers the ratio in 95 of 100
    recordings, from two pairs on. Rare stalls break that: if each run of one side takes twice as
    long with probability 0.1, intervals of 2, 4, 10 and 40 pairs cover the long-run ratio in 82,
    42, 65 and 92 of 100. ``pairs`` is 0 where the sides are not paired.
    """

    value: float
    low: float | None
    high: float | None
    pairs: int


def geometric_ratio(numerator: Values, denominator: Values, *, paired: bool = True) -> Ratio:
    """Ratio of the geometric means of two sets of values.

    Paired, element i of both is of the same round, and what a round does to both sides cancels. The
    sides may have any sizes if not: Welch's t, for two sides rarely scatter alike (Welch, 1947),
    covers 93 to 98 %, the most for two runs against two. No interval if a side has a single value.

    Raises:
        ValueError: an empty side, pairs of unequal number, or a value that is not finite and above
            0.
    """
    top, bottom = _sides(numerator, denominator, paired=paired, above_0=True)
    logs = [np.log(top / bottom)] if paired else [np.log(top), np.log(bottom)]
    moved = [one - one[0] for one in logs]  # or values that are all equal would scatter
    means = [float(one[0] + rest.mean()) for one, rest in zip(logs, moved, strict=True)]
    log, freedom = means[0] - sum(means[1:]), min(one.size for one in logs) - 1.0
    pairs = top.size if paired else 0
    if freedom == 0:
        return Ratio(math.exp(log), None, None, pairs)
    errors = [float(one.std(ddof=1)) / math.sqrt(one.size) for one in moved]
    error = math.hypot(*errors)
    if error > 0 and not paired:
        parts = zip(errors, logs, strict=True)
        freedom = 1 / sum((one / error) ** 4 / (side.size - 1) for one, side in parts)
    half = _t(freedom) * error
    return Ratio(math.exp(log), math.exp(log - half), math.exp(log + half), pairs)


def _sides(a: Values, b: Values, *, paired: bool, above_0: bool = False) -> tuple[_Values, _Values]:
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if paired and left.size != right.size:
        raise ValueError(f"pairs are needed, got {left.size} and {right.size} values")
    if left.size == 0 or right.size == 0:
        raise ValueError(f"values are needed on both sides, got {left.size} and {right.size}")
    both = np.concatenate([left, right])
    if not np.isfinite(both).all():
        raise ValueError(f"finite values are needed, got {both[~np.isfinite(both)][0]}")
    if above_0 and both.min() <= 0:
        raise ValueError(f"a ratio needs values above 0, got {both.min():g}")
    return left, right


def permutation_p(a: Values, b: Values, *, paired: bool = False, seed: int = 0) -> float:
    """Two-sided permutation test on the difference of means: how often chance does as much.

    Paired, the sign of each pair's difference is flipped; unpaired, the labels of all values are
    dealt anew. All possibilities are tried if they are at most `EXACT_UP_TO`, else `PERMUTATIONS`
    seeded random ones, with 1 added to both counts, so that p is never 0 (Phipson and Smyth, 2010).

    Returns:
        p in (0, 1]; 1 if all values are equal.

    Raises:
        ValueError: an empty side, a value that is not finite, or pairs of unequal number.
    """
    # scipy's permutation_test takes 8 times as long, too long for the many draws of an A/A control.
    left, right = _sides(a, b, paired=paired)
    n, total = left.size, left.size + right.size
    exact = _possible(n, right.size, paired) <= EXACT_UP_TO
    deals = _deals(n, total, paired, seed)
    if paired:
        terms = right - left
        observed, null = terms.sum(), deals @ terms
    else:
        # All terms add up to 0, so the difference of means grows with the sum of one side alone.
        terms = np.concatenate([left, right])
        terms -= terms.mean()
        observed, null = terms[:n].sum(), terms[deals].sum(axis=1)
    # The same sum in another order differs in its last bits; that must still count as equal.
    as_far = int((np.abs(null) >= abs(observed) - 1e-12 * np.abs(terms).sum()).sum())
    return as_far / null.size if exact else (1 + as_far) / (1 + null.size)


@functools.lru_cache(maxsize=4)  # the draws of an A/A control all have the same
def _deals(n: int, total: int, paired: bool, seed: int) -> np.ndarray:
    """Paired, the sign of each difference; else which values are dealt to the first side."""
    possible, random = _possible(n, total - n, paired), np.random.default_rng(seed)
    if paired:
        if possible <= EXACT_UP_TO:
            flips = (np.arange(possible)[:, None] >> np.arange(n)) & 1
        else:
            flips = random.integers(0, 2, (PERMUTATIONS, n))
        return 1.0 - 2.0 * flips
    if possible <= EXACT_UP_TO:
        return np.array(list(itertools.combinations(range(total), n)))
    return random.permuted(np.tile(np.arange(total), (PERMUTATIONS, 1)), axis=1)[:, :n].copy()


def _possible(n_a: int, n_b: int, paired: bool) -> int:
    return 2**n_a if paired else math.comb(n_a + n_b, n_a)


def smallest_p(n_a: int, n_b: int, paired: bool) -> float:
    """The p of `permutation_p` when the two sides could not be further apart."""
    possible = _possible(n_a, n_b, paired)
    if possible > EXACT_UP_TO:
        return 1 / (1 + PERMUTATIONS)
    # All signs flipped, or sides of equal size swapped: the same distance once more.
    return (2 if paired or n_a == n_b else 1) / possible


def runs_needed(paired: bool) -> int:
    """Fewest runs of each side with which a difference can be called at all."""
    return next(n for n in itertools.count(2) if smallest_p(n, n, paired) < CALL_BELOW_P)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether b differs from a.

    Attributes:
        verdict: `MORE` or `LESS` (b than a; the difference is called), `NO_DIFFERENCE` or
            `TOO_FEW`.
        ratio: b over a; None where a value is 0.
        p: of `permutation_p`.
        smallest_p: what p could be at best with so many runs.
    """

    verdict: str
    ratio: Ratio | None
    p: float
    smallest_p: float

    @property
    def called(self) -> bool:
        """A difference was called."""
        return self.verdict in (MORE, LESS)


def decide(a: Values, b: Values, *, paired: bool) -> Decision:
    """Compare values of 0 or more. A difference is called if both of two ways to ask see it.

    They are p below `CALL_BELOW_P` and a 95 % interval of the ratio without 1 (which says nothing,
    and is not asked, where a value is 0). ValueError as `permutation_p`.
    """
    p = permutation_p(a, b, paired=paired)
    best = smallest_p(len(a), len(b), paired)
    ratio = geometric_ratio(b, a, paired=paired) if min(a) > 0 and min(b) > 0 else None
    if best >= CALL_BELOW_P or min(len(a), len(b)) == 1:
        return Decision(TOO_FEW, ratio, p, best)
    more, apart = float(np.mean(b)) > float(np.mean(a)), True
    if ratio is not None and ratio.low is not None and ratio.high is not None:
        apart = ratio.low > 1 if more else ratio.high < 1
    called = p < CALL_BELOW_P and apart
    return Decision((MORE if more else LESS) if called else NO_DIFFERENCE, ratio, p, best)


@dataclass(frozen=True, slots=True)
class Proportion:
    """``count`` of ``n`` with the Wilson 95 % interval of the share, 0 to 1 (Wilson, 1927)."""

    count: int
    n: int
    low: float
    high: float


def wilson(count: int, n: int) -> Proportion:
    """The share of ``count`` in ``n`` independent trials; ValueError unless 0 <= count <= n > 0."""
    from scipy.stats import binomtest

    if not 0 <= count <= n or n < 1:
        raise ValueError(f"{count} of {n} is no share; count 0 to n of 1 or more")
    low, high = binomtest(count, n).proportion_ci(method="wilson")
    return Proportion(count, n, float(low), float(high))
