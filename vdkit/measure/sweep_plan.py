"""Which cells a sweep has, which of them costs are fitted from, and how long the rest may take."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vdkit.decode.bar import Bar
from vdkit.decode.chunks import MAX_SLOTS
from vdkit.measure.costs import check_speed
from vdkit.measure.records import MODE_NAMES
from vdkit.measure.sweep_records import Cell, Sweep, measured_s

FIT_SIZES = 3
"""Chunk sizes that costs are fitted from, at the most: copies and conversions are no straight line,
so two tell little of a third."""


def check_chunk(size: int, latent_frames: int) -> None:
    """ValueError for a chunk larger than what a video has beside its first latent frame."""
    most = max(1, latent_frames - 1)
    if size > most:
        raise ValueError(
            f"chunk size {size}: the video has {latent_frames} latent frames, the first is a chunk "
            f"of its own, so use 1 to {most}"
        )


def plan_cells(
    modes: Sequence[str],
    chunks: Sequence[int],
    slots: Sequence[int],
    speeds: Sequence[float | None],
    latent_frames: int | None = None,
    seed: int = 0,
) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
    """(fit cells, other cells) of a grid; each in random order, so that drift is no axis.

    The fit cells are every mode at full speed at up to `FIT_SIZES` of the chunk sizes (smallest,
    middle, largest), with 2 slots or, if 2 is not among ``slots``, the nearest. They are measured
    also where ``speeds`` leaves full speed out, since a throttled run hides what a write costs.
    Modes without a ring have one cell for all slots, mode compute one for all speeds, and mode
    diffusers one for all chunk sizes.

    Args:
        speeds: MB/s; None is full speed.
        latent_frames: of the video; None: not known yet, and chunk sizes have no upper bound.

    Raises:
        ValueError: an empty axis, a value that is twice there, of no use or out of range.
    """
    for name, values in (
        ("modes", modes),
        ("chunks", chunks),
        ("slots", slots),
        ("speeds", speeds),
    ):
        if not values:
            raise ValueError(f"{name} is empty; a sweep needs at least one value")
        if len(set(values)) != len(values):
            raise ValueError(f"{name} has a value twice: {', '.join(map(str, values))}")
    for mode in modes:
        if mode not in MODE_NAMES:
            raise ValueError(f"mode {mode!r} is unknown; use any of {', '.join(MODE_NAMES)}")
    for size in chunks:
        if size < 1:
            raise ValueError(f"chunk size is {size}; use 1 or more")
        if latent_frames is not None:
            check_chunk(size, latent_frames)
    for count in slots:
        if not 1 <= count <= MAX_SLOTS:
            raise ValueError(f"slots is {count}; use 1 to {MAX_SLOTS}")
    for speed in speeds:
        if speed is not None:
            check_speed(speed)
    if all(mode == "diffusers" for mode in modes):
        raise ValueError("mode diffusers alone has no chunks to sweep; add sync or async")

    def cell(mode: str, size: int, count: int, speed: float | None) -> Cell:
        return Cell(
            mode=mode,
            chunk_size=1 if mode == "diffusers" else size,
            slots=count if mode == "async" else None,
            mb_per_s=None if mode == "compute" else speed,
        )

    ordered = sorted(chunks)
    picks = {0, len(ordered) // 2, len(ordered) - 1}
    near = min(slots, key=lambda count: (abs(count - 2), count))
    fit = {cell(m, ordered[i], near, None): None for m in modes for i in sorted(picks)}
    grid = {
        cell(m, size, count, speed): None
        for m in modes
        for size in chunks
        for count in slots
        for speed in speeds
    }
    shuffled = random.Random(seed)
    first, rest = list(fit), [one for one in grid if one not in fit]
    shuffled.shuffle(first)
    shuffled.shuffle(rest)
    return tuple(first), tuple(rest)


def seconds_left(sweep: Sweep, done_runs: int = 0, overhead: float = 1.0) -> float | None:
    """Estimate of the time that the cells left will take, s; None while nothing is known.

    By their predictions, or the mean of the measured cells where there is none.

    Args:
        done_runs: of the first cell left.
        overhead: wall clock over latency, 1 or more: sinks are made and removed between runs.
    """
    known = [measured_s(result) for result in sweep.results.values()]
    left = 0.0
    for index, cell in enumerate(sweep.left):
        one = sweep.predicted(cell)
        if one is None and not known:
            return None
        each = one.latency_s if one is not None else sum(known) / len(known)
        left += each * (sweep.plan.runs - (done_runs if index == 0 else 0))
    return left * overhead


class SweepBar:
    """A bar of runs with the time left."""

    def __init__(self, sweep: Sweep, bar: Bar) -> None:
        self.clear = bar.clear
        self._bar, self._total = bar, len(sweep.left) * sweep.plan.runs
        self._start_s, self._latencies_s, self._cell_runs = time.perf_counter(), 0.0, 0

    def run_done(self, sweep: Sweep, latency_s: float) -> None:
        """One more run of the first cell left."""
        self._latencies_s += latency_s
        self._cell_runs += 1
        self._show(sweep)

    def cell_begins(self, sweep: Sweep) -> None:
        """The first cell left has no runs yet."""
        self._cell_runs = 0
        self._show(sweep)

    def _show(self, sweep: Sweep) -> None:
        spent_s = time.perf_counter() - self._start_s
        overhead = max(1.0, spent_s / self._latencies_s) if self._latencies_s else 1.0
        left_s = seconds_left(sweep, self._cell_runs, overhead)
        words = "time left not known yet" if left_s is None else f"about {_duration(left_s)} left"
        self._bar.to(self._total - len(sweep.left) * sweep.plan.runs + self._cell_runs, words)


@contextmanager
def sweep_bar(sweep: Sweep, show: bool) -> Iterator[SweepBar]:
    """The bar of the cells left, on standard error."""
    total = len(sweep.left) * sweep.plan.runs
    form = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} runs{postfix}"
    with Bar(show, total=total, desc="sweep", bar_format=form) as bar:
        yield SweepBar(sweep, bar)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
