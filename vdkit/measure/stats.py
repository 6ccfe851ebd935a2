"""Statistics of repeated runs: numpy only, so that results can be read anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BOOTSTRAP_RESAMPLES = 10_000


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


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of means with its bootstrap 95 % interval over pairs; none for a single pair."""

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
