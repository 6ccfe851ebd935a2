"""Statistics of repeated runs: numpy only, so that results can be read anywhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_RESAMPLES = 10_000
EXACT_SIGN_FLIPS = 16_384
"""Up to so many (14 pairs) all sign flips are tried; above, `PERMUTATIONS` random ones."""
EXACT_RELABELINGS = 20_000
"""Up to so many (8 runs against 8 are 12,870) all relabelings are tried; above, random ones."""
PERMUTATIONS = 10_000
CALL_BELOW_P = 0.01
"""A difference is called below this p. A comparison tests several metrics of several modes at once:
at the customary 0.05 a table of 20 tests would hold one false call, at 0.01 five such tables do."""

MORE, LESS = "more", "less"
NO_DIFFERENCE = "no difference seen"
TOO_FEW = "too few runs to tell"


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


def summarize(values: Sequence[float]) -> Summary:
    """Summary of at least one finite value; ``std`` is the sample deviation (0 for one value)."""
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"cannot summarize {list(values)!r}: at least one finite value is needed")
    return Summary(
        n=int(data.size),
        mean=float(data.mean()),
        median=float(np.median(data)),
        min=float(data.min()),
        max=float(data.max()),
        p99=float(np.percentile(data, 99)),
        std=float(data.std(ddof=1)) if data.size > 1 else 0.0,
    )


_T_97_5 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""97.5 % points of Student's t for 1, 2, ... 20 degrees of freedom."""


def mean_half_width(std: float, n: int) -> float | None:
    """Half of the 95 % interval of a mean of n values by Student's t; None for one value.

    Args:
        std: their sample deviation; the answer is in its unit.
    """
    if n == 1:
        return None
    z, freedom = 1.959964, n - 1
    # Above the table the first term of Cornish and Fisher's expansion is right to 0.4 %.
    t = _T_97_5[freedom - 1] if freedom <= len(_T_97_5) else z + (z**3 + z) / (4 * freedom)
    return t * std / math.sqrt(n)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of means with its bootstrap 95 % interval; none for a single pair or value.

    ``pairs`` is 0 where the two sides are not paired (`unpaired_ratio`).
    """

    value: float
    low: float | None
    high: float | None
    pairs: int


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float], seed: int = 0) -> Ratio:
    """Ratio of means of values measured in pairs: element i of both in the same round.

    The interval is the percentile bootstrap over pairs (Efron and Tibshirani, 1993, chapter 13),
    `BOOTSTRAP_RESAMPLES` resamples, seeded, so that a record gives the same interval again.

    Raises:
        ValueError: lengths differ, no pairs, or a value that is not above 0.
    """
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if top.shape != bottom.shape or top.size == 0:
        raise ValueError(f"pairs are needed, got {top.size} and {bottom.size} values")
    if not ((top > 0).all() and (bottom > 0).all()):
        raise ValueError("a ratio of means needs values above 0")
    value = float(top.mean() / bottom.mean())
    if top.size == 1:
        return Ratio(value, None, None, 1)
    picks = np.random.default_rng(seed).integers(0, top.size, (BOOTSTRAP_RESAMPLES, top.size))
    ratios = top[picks].mean(axis=1) / bottom[picks].mean(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Ratio(value, float(low), float(high), int(top.size))


def unpaired_ratio(
    numerator: Sequence[float], denominator: Sequence[float], seed: int = 0
) -> Ratio:
    """Ratio of means of two independent sets of values, of any sizes.

    The interval is the percentile bootstrap, each side resampled by itself (Efron and Tibshirani,
    1993, chapter 8), `BOOTSTRAP_RESAMPLES` resamples, seeded; none if a side has a single value.

    Raises:
        ValueError: an empty side, or a value that is not above 0.
    """
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if top.size == 0 or bottom.size == 0:
        raise ValueError(f"values are needed on both sides, got {top.size} and {bottom.size}")
    if not ((top > 0).all() and (bottom > 0).all()):
        raise ValueError("a ratio of means needs values above 0")
    value = float(top.mean() / bottom.mean())
    if min(top.size, bottom.size) == 1:
        return Ratio(value, None, None, 0)
    random = np.random.default_rng(seed)
    above, below = (
        side[random.integers(0, side.size, (BOOTSTRAP_RESAMPLES, side.size))].mean(axis=1)
        for side in (top, bottom)
    )
    low, high = np.percentile(above / below, [2.5, 97.5])
    return Ratio(value, float(low), float(high), 0)


def permutation_p(
    a: Sequence[float], b: Sequence[float], *, paired: bool = False, seed: int = 0
) -> float:
    """Two-sided permutation test on the difference of means: how often chance does as much.

    Paired, the sign of each pair's difference is flipped; unpaired, the labels of all values are
    dealt anew. All possibilities are tried if they are at most `EXACT_SIGN_FLIPS` or
    `EXACT_RELABELINGS`, else `PERMUTATIONS` seeded random ones, with 1 added to both counts, so
    that p is never 0 (Phipson and Smyth, 2010).

    Returns:
        p in (0, 1]; 1 if all values are equal.

    Raises:
        ValueError: an empty side, a value that is not finite, or pairs of unequal number.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.size == 0 or right.size == 0:
        raise ValueError(f"values are needed on both sides, got {left.size} and {right.size}")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise ValueError("a permutation test needs finite values")
    if paired and left.size != right.size:
        raise ValueError(f"pairs are needed, got {left.size} and {right.size} values")
    if paired:
        observed, null, scale, exact = _sign_flips(right - left, seed)
    else:
        observed, null, scale, exact = _relabelings(left, right, seed)
    # The same sum in another order differs in its last bits; that must still count as equal.
    as_far = int((null >= observed - 1e-12 * scale).sum())
    return as_far / null.size if exact else (1 + as_far) / (1 + null.size)


_Null = tuple[float, NDArray[np.float64], float, bool]
"""Observed statistic, its values under the null, the size of what was summed, all tried."""


def _sign_flips(differences: NDArray[np.float64], seed: int) -> _Null:
    n = differences.size
    exact = 2**n <= EXACT_SIGN_FLIPS
    if exact:
        flips = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        flips = np.random.default_rng(seed).integers(0, 2, (PERMUTATIONS, n))
    null = np.abs((1.0 - 2.0 * flips) @ differences)
    return abs(float(differences.sum())), null, float(np.abs(differences).sum()), exact


def _relabelings(left: NDArray[np.float64], right: NDArray[np.float64], seed: int) -> _Null:
    pooled = np.concatenate([left, right])
    n, total = left.size, left.size + right.size
    if np.ptp(pooled) == 0:
        return 0.0, np.zeros(1), 0.0, True
    # The sum of all is fixed, so the difference of means grows with the sum of one side alone.
    centered = pooled - pooled.mean()
    expected = n * centered.mean()
    exact = math.comb(total, n) <= EXACT_RELABELINGS
    if exact:
        picks = np.array(list(itertools.combinations(range(total), n)))
    else:
        deck = np.tile(np.arange(total), (PERMUTATIONS, 1))
        picks = np.random.default_rng(seed).permuted(deck, axis=1)[:, :n]
    null = np.abs(centered[picks].sum(axis=1) - expected)
    observed = abs(float(centered[:n].sum() - expected))
    return observed, null, float(np.abs(centered).sum()), exact


def smallest_p(n_a: int, n_b: int, paired: bool) -> float:
    """The p of `permutation_p` when the two sides could not be further apart."""
    if paired:
        return 2 / 2**n_a if 2**n_a <= EXACT_SIGN_FLIPS else 1 / (1 + PERMUTATIONS)
    relabelings = math.comb(n_a + n_b, n_a)
    if relabelings > EXACT_RELABELINGS:
        return 1 / (1 + PERMUTATIONS)
    # Sides of equal size may be swapped: the same distance once more.
    return (2 if n_a == n_b else 1) / relabelings


def runs_needed(paired: bool) -> int:
    """Fewest runs of each side with which a difference can be called at all."""
    return next(n for n in itertools.count(2) if smallest_p(n, n, paired) < CALL_BELOW_P)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether b differs from a.

    Attributes:
        verdict: `MORE` or `LESS` (b than a; the difference is called), `NO_DIFFERENCE` or
            `TOO_FEW`.
        ratio: mean of b over mean of a; None where a value is 0.
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


def decide(a: Sequence[float], b: Sequence[float], *, paired: bool, seed: int = 0) -> Decision:
    """Compare values of 0 or more. A difference is called if both of two ways to ask see it.

    They are p below `CALL_BELOW_P` and a bootstrap 95 % interval of the ratio without 1 (which
    says nothing, and is not asked, where a value is 0).

    Raises:
        ValueError: as `permutation_p`.
    """
    p = permutation_p(a, b, paired=paired, seed=seed)
    best = smallest_p(len(a), len(b), paired)
    ratio = None
    if min(a) > 0 and min(b) > 0:
        ratio = paired_ratio(b, a, seed) if paired else unpaired_ratio(b, a, seed)
    if best >= CALL_BELOW_P or min(len(a), len(b)) == 1:
        return Decision(TOO_FEW, ratio, p, best)
    more = float(np.mean(b)) > float(np.mean(a))
    apart = True
    if ratio is not None and ratio.low is not None and ratio.high is not None:
        apart = ratio.low > 1 if more else ratio.high < 1
    called = p < CALL_BELOW_P and apart
    return Decision((MORE if more else LESS) if called else NO_DIFFERENCE, ratio, p, best)


@dataclass(frozen=True, slots=True)
class Share:
    """``count`` of ``n`` with the Wilson 95 % interval of the share, 0 to 1 (Wilson, 1927)."""

    count: int
    n: int
    low: float
    high: float


def wilson(count: int, n: int) -> Share:
    """The share of ``count`` in ``n`` independent trials; ValueError unless 0 <= count <= n > 0."""
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"{count} of {n} is no share; count 0 to n of 1 or more")
    z = 1.959963984540054  # 97.5 % point of the normal distribution
    share, spread = count / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / spread
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / spread
    return Share(count, n, max(0.0, middle - half), min(1.0, middle + half))
