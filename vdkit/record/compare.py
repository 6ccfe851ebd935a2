"""Two recordings against each other: what changed, what only varied, what must not be compared.

A mean that is 1 % lower today than yesterday may be the change in the code or the machine's mood.
Here a difference has to be larger than what relabeled runs give by chance. Another machine, decoder
or frame hash makes it a stated comparison; other media are refused. And the comparison is judged
itself: by recorded rounds of one setting against itself, and against planted work. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

import numpy as np

from vdkit.record.money import run_energy_j
from vdkit.record.recording import Recording, comparable
from vdkit.record.runs import Run
from vdkit.record.stats import (
    CALL_BELOW_P,
    LESS,
    MORE,
    TOO_FEW,
    Decision,
    Proportion,
    Ratio,
    Summary,
    decide,
    paired_ratio,
    runs_needed,
    summarize,
    wilson,
)


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of one run, lower is better; ``more`` and ``less`` are the words for a change."""

    more: str
    less: str
    read: Callable[[Run], float | None]


METRICS = {
    "latency_s": Metric("slower", "faster", lambda run: run.latency_s),
    "ttff_s": Metric("slower", "faster", lambda run: run.ttff_s),
    "vram_peak_bytes": Metric("more", "less", lambda run: run.vram_peak_bytes),
    "pinned_bytes": Metric("more", "less", lambda run: run.pinned_bytes),
    "energy_j": Metric("more", "less", run_energy_j),
}
"""What is compared, by name; ``energy_j`` is the NVML counter after a run minus before it."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric of one arm (or pair of arms), A against B.

    Attributes:
        mode_a, mode_b: names of the arms; of a benchmark, its modes.
        mean_a, mean_b: in the metric's unit.
        n_a, n_b: timed runs.
        throttled_a, throttled_b: those of them with a throttle reason.
        decision: ratio B / A with its interval, p and verdict.
    """

    mode_a: str
    mode_b: str
    metric: str
    mean_a: float
    mean_b: float
    n_a: int
    n_b: int
    throttled_a: int
    throttled_b: int
    decision: Decision

    @property
    def verdict(self) -> str:
        """What B is against A: the metric's own word, or why there is none."""
        words = {MORE: METRICS[self.metric].more, LESS: METRICS[self.metric].less}
        return words.get(self.decision.verdict, self.decision.verdict)

    def worse_than(self, percent: float) -> bool:
        """Called, and the mean is more than ``percent`` above A's."""
        return self.decision.verdict == MORE and self.mean_b > self.mean_a * (1 + percent / 100)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A against B.

    Attributes:
        paired: runs were compared round by round.
        rows: by mode, then metric.
        stated: what makes this more than a comparison of code: machine, decoder, latents, frames.
        differences: what else differs; usually the object of the comparison is among them.
        left_out: (metric, mode, reason) of what the records do not allow to compare.
    """

    a: Recording
    b: Recording
    paired: bool
    rows: tuple[Compared, ...]
    stated: tuple[Difference, ...]
    differences: tuple[Difference, ...]
    left_out: tuple[tuple[str, str, str], ...]

    @property
    def tests(self) -> int:
        """Rows with runs enough to call a difference."""
        return sum(row.decision.verdict != TOO_FEW for row in self.rows)

    @property
    def expected_false_calls(self) -> float:
        """Differences to be expected from chance alone, at most, if nothing changed."""
        return self.tests * CALL_BELOW_P


def compare_results(
    a: Recording,
    b: Recording,
    *,
    paired: bool | None = None,
    across: bool = False,
    modes: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    mode_pairs: Sequence[tuple[str, str]] | None = None,
) -> Comparison:
    """Compare every metric of every mode that both recordings have.

    Args:
        a, b: as `read_recording` gives them; the same one twice only with ``mode_pairs``.
        paired: round i of A beside round i of B, for runs made in turns. None: only where both
            are one recording, whose modes were run in turns.
        across: compare other media (frames, height, width) all the same.
        modes: only these; None: all in common.
        metrics: only these keys of `METRICS`; None: all that both recorded.
        mode_pairs: (mode of A, mode of B), instead of ``modes``.

    Raises:
        ValueError: nothing to compare, a recording against itself, rounds that do not pair up, or
            recordings that differ in what must be equal (lists all of it).
    """
    pairs = _mode_pairs(a, b, modes, mode_pairs)
    one = a is b or a == b
    if one and any(mode_a == mode_b for mode_a, mode_b in pairs):
        raise ValueError(
            "A and B hold the same runs, and runs against themselves say nothing; give two "
            "recordings, or two modes of this one with --mode-a and --mode-b"
        )
    media = _unequal(a.workload, b.workload, SAME_MEDIA)
    if media and not across:
        raise ValueError(
            f"A and B decode other media: {'; '.join(map(str, media))}; a ratio of their times "
            "says nothing. --across gives it all the same and says so"
        )
    stated = [*media, *stated_differences(a, b, pairs)]
    paired = one if paired is None else paired
    if paired:
        for mode_a, mode_b in pairs:
            _check_rounds(mode_a, a.arms[mode_a].timed, mode_b, b.arms[mode_b].timed)
    chosen = _metrics(metrics)
    rows: list[Compared] = []
    left_out: list[tuple[str, str, str]] = []
    for mode_a, mode_b in pairs:
        for metric in chosen:
            left, right = a.arms[mode_a], b.arms[mode_b]
            decision = _decision(left.timed, right.timed, metric, paired)
            if isinstance(decision, str):
                name = mode_a if mode_a == mode_b else f"{mode_a} and {mode_b}"
                left_out.append((metric, name, decision))
                continue
            rows.append(
                Compared(
                    mode_a=mode_a,
                    mode_b=mode_b,
                    metric=metric,
                    mean_a=fmean(_values(left.timed, metric)),
                    mean_b=fmean(_values(right.timed, metric)),
                    n_a=len(left.timed),
                    n_b=len(right.timed),
                    throttled_a=left.throttled_runs,
                    throttled_b=right.throttled_runs,
                    decision=decision,
                )
            )
    compared = {row.metric for row in rows}
    if absent := [metric for metric in metrics or () if metric not in compared]:
        why = {metric: reason for metric, _, reason in left_out}
        raise ValueError(
            f"nothing to compare in {', '.join(f'{m} ({why[m]})' for m in absent)}; leave it out "
            "of --metrics"
        )
    return Comparison(
        a, b, paired, tuple(rows), tuple(stated), tuple(differences(a, b)), tuple(left_out)
    )


def _mode_pairs(
    a: Recording,
    b: Recording,
    modes: Sequence[str] | None,
    mode_pairs: Sequence[tuple[str, str]] | None,
) -> list[tuple[str, str]]:
    if modes is not None and mode_pairs is not None:
        raise ValueError("give modes or pairs of modes, not both")
    have = f"A has {', '.join(a.arms)}; B has {', '.join(b.arms)}"
    if mode_pairs is None:
        common = [mode for mode in a.arms if mode in b.arms]
        wanted = common if modes is None else modes
        if not common:
            raise ValueError(
                f"no mode in common: {have}; name one of each with --mode-a and --mode-b"
            )
        mode_pairs = [(mode, mode) for mode in wanted]
    if not mode_pairs or len(set(mode_pairs)) != len(mode_pairs):
        raise ValueError(f"modes {list(mode_pairs)}: name at least one, and each once")
    for mode_a, mode_b in mode_pairs:
        if mode_a not in a.arms or mode_b not in b.arms:
            asked = mode_a if mode_a == mode_b else f"{mode_a} (A) and {mode_b} (B)"
            raise ValueError(f"mode {asked} is not in both recordings: {have}")
    return list(mode_pairs)


def _metrics(metrics: Sequence[str] | None) -> list[str]:
    unknown = [metric for metric in metrics or () if metric not in METRICS]
    if unknown or (metrics is not None and not metrics):
        raise ValueError(
            f"metric {', '.join(unknown) or 'is missing'}: use any of {', '.join(METRICS)}"
        )
    return [metric for metric in METRICS if metrics is None or metric in metrics]


def _check_rounds(mode_a: str, a: Sequence[Run], mode_b: str, b: Sequence[Run]) -> None:
    """ValueError unless every round of one side has its partner on the other."""
    rounds = {side: [run.round for run in runs] for side, runs in (("A", a), ("B", b))}
    faults = []
    for side, other in (("A", "B"), ("B", "A")):
        lacks = sorted(set(rounds[other]) - set(rounds[side]))
        twice = sorted({n for n in rounds[side] if rounds[side].count(n) > 1})
        faults += [f"{side} lacks {', '.join(map(str, lacks))}"] if lacks else []
        faults += [f"{side} has {', '.join(map(str, twice))} more than once"] if twice else []
    if faults:
        raise ValueError(
            f"rounds of {mode_a} (A) and {mode_b} (B) do not pair up: {'; '.join(faults)}; "
            "pairs are for runs made in turns, compare others unpaired (--no-paired)"
        )


def _values(runs: Sequence[Run], metric: str) -> list[float]:
    """Of the runs that recorded it."""
    read = METRICS[metric].read
    return [value for run in runs if (value := read(run)) is not None]


def _decision(a: Sequence[Run], b: Sequence[Run], metric: str, paired: bool) -> Decision | str:
    """Whether B differs, or why the records do not allow to ask."""
    values_a, values_b = _values(a, metric), _values(b, metric)
    if len(values_a) < len(a) or len(values_b) < len(b):
        return "not recorded in every run"
    if not any(values_a) and not any(values_b):
        return "0 in every run"
    if min(*values_a, *values_b) < 0:
        return "below 0 in some run"
    return decide(values_a, values_b, paired=paired)


SAME_MACHINE = ("device", "device_uuid", "vram_bytes", "cpu", "host_cores")
SAME_WORK = ("decoder", "dtype", "weights_sha256", "latents_sha256")
SAME_MEDIA = ("frames", "height", "width")
_NO_MATTER = {"created_utc", "packages"}  # said elsewhere: in the caption, and package by package


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of the records that is ``a`` in A and ``b`` in B, in words."""

    name: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.name} {self.a} against {self.b}"


def stated_differences(
    a: Recording, b: Recording, pairs: Sequence[tuple[str, str]]
) -> list[Difference]:
    """What two recordings need in common for a ratio to be of the code alone, and have not."""
    found = _unequal(a.provenance, b.provenance, SAME_MACHINE)
    found += _unequal(a.workload, b.workload, SAME_WORK)
    for mode_a, mode_b in pairs:
        sha_a, sha_b = a.arms[mode_a].frame_sha256, b.arms[mode_b].frame_sha256
        # One path must give its own frames again; diffusers' need not be those of the others.
        alike = mode_a == mode_b or (comparable(a.arms[mode_a]) and comparable(b.arms[mode_b]))
        if alike and sha_a is not None and sha_b is not None and sha_a != sha_b:
            name = mode_a if mode_a == mode_b else f"{mode_a} and {mode_b}"
            found.append(Difference(f"frame_sha256 of {name}", _words(sha_a), _words(sha_b)))
    return found


def differences(a: Recording, b: Recording) -> list[Difference]:
    """All else that differs: code, versions, configuration, sink."""
    known = {*SAME_MACHINE, *_NO_MATTER}
    made = [name for name in type(a.provenance).model_fields if name not in known]
    work = [name for name in type(a.workload).model_fields if name not in SAME_WORK]
    found = _unequal(a.provenance, b.provenance, made)
    packages_a, packages_b = a.provenance.packages, b.provenance.packages
    for name in sorted(packages_a.keys() | packages_b.keys()):
        versions = packages_a.get(name, "missing"), packages_b.get(name, "missing")
        found += [Difference(name, *versions)] if versions[0] != versions[1] else []
    found += _unequal(a.workload, b.workload, work)
    found += _unequal(a.config, b.config, [field.name for field in fields(a.config)])
    sink = _unequal(a.sink, b.sink, list(type(a.sink).model_fields))
    found += [Difference(f"sink {one.name}", one.a, one.b) for one in sink]
    return found + _unequal(a, b, ["baseline"])


def _unequal(a: Any, b: Any, names: Sequence[str]) -> list[Difference]:
    values = [(name, getattr(a, name), getattr(b, name)) for name in names]
    return [Difference(name, _words(x), _words(y)) for name, x, y in values if x != y]


def _words(value: Any) -> str:
    """A value as a reader wants it: hashes cut to 12 digits."""
    text = f"{value:.12g}" if isinstance(value, float) else str(value)
    return text[:12] if len(text) >= 40 and text.isalnum() else text


ARMS = ("a", "b", "slow")
"""Of an A/A control: the same setting twice, and the same with work planted after every chunk."""
CALLED_BY = ("paired", "unpaired")
FALSE_CALLS_AT_MOST, FOUND_AT_LEAST = 0.05, 0.95
"""Shares of the splits that a comparison to rely on has to reach."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How one metric of an A/A control fared.

    Attributes:
        arms: arm to summary of its timed runs.
        planted: slow over a, paired by round, over all rounds: what was really planted.
        false_calls: `CALLED_BY` to splits where a was called different from itself.
        found: `CALLED_BY` to splits where slow was called slower than a.
    """

    arms: dict[str, Summary]
    planted: Ratio
    false_calls: dict[str, Proportion]
    found: dict[str, Proportion]

    def aims_met(self, how: str) -> tuple[bool, bool]:
        """Whether false calls were few enough, and finds many enough, of one of `CALLED_BY`."""
        quiet, found = self.false_calls[how], self.found[how]
        return quiet.count <= FALSE_CALLS_AT_MOST * quiet.n, found.count >= FOUND_AT_LEAST * found.n


def judged(recording: Recording) -> dict[str, Judged]:
    """Latency and, where there is a sink, TTFF of an A/A control, by `judge`."""
    plan = recording.planted
    if plan is None:
        raise ValueError(f"{recording.label} is no A/A control; record one with vdkit bench --aa")
    found = {}
    for metric in ("latency_s", "ttff_s"):
        values = {arm: [getattr(run, metric) for run in recording.arms[arm].timed] for arm in ARMS}
        if all(value is not None for one in values.values() for value in one):
            found[metric] = judge(values, plan.pairs, plan.splits, plan.seed)
    return found


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


def judge(values: Mapping[str, Sequence[float]], pairs: int, splits: int, seed: int = 0) -> Judged:
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
    return Judged(
        arms={arm: summarize(values[arm]) for arm in ARMS},
        planted=paired_ratio(values["slow"], values["a"]),
        false_calls={how: wilson(count, splits) for how, count in false_calls.items()},
        found={how: wilson(count, splits) for how, count in found.items()},
    )
