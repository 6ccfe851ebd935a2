"""Two recordings against each other: what changed, what only varied, what must not be compared.

A mean that is 1 % lower today than yesterday may be the change in the code or the machine's mood.
Here a difference has to be larger than what relabeled runs give by chance. Another machine, decoder
or frame hash makes it a stated comparison; other media are refused. And the comparison is judged
itself: by recorded rounds of one setting against itself, and against planted work. No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from vdkit.record import stats
from vdkit.record.recording import Recording, comparable
from vdkit.record.runs import Run

METRICS = ("latency_s", "ttff_s", "vram_peak_bytes", "pinned_bytes", "energy_j")
"""What is compared of a run; lower is better."""
SAME_MEDIA = ("medium", "frames", "height", "width")
SAME = (
    *SAME_MEDIA,
    *("device", "device_uuid", "vram_bytes", "cpu", "host_cores"),
    *("decoder", "dtype", "weights_sha256", "latents_sha256", "content"),
)
"""What two recordings need in common for a ratio to be of the code alone."""
HOUR_CALLS = {"latency_s": (3, 36), "ttff_s": (7, 36)}
"""How many of so many blocks of ten runs were called different from another block of their arm,
in the recorded A/A controls (`Judged.hour_calls`; a test counts again)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of the records that is ``a`` in A and ``b`` in B, in words."""

    name: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.name} {self.a} against {self.b}"


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
    decision: stats.Decision

    @property
    def verdict(self) -> str:
        """What B is against A: the metric's own word, or why there is none."""
        words = {stats.MORE: "slower", stats.LESS: "faster"} if self.metric.endswith("_s") else {}
        return words.get(self.decision.verdict, self.decision.verdict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A against B.

    Attributes:
        paired: runs were compared round by round.
        rows: by mode, then metric.
        stated: what makes this more than a comparison of code: media, machine, decoder, frames.
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
        return sum(row.decision.verdict != stats.TOO_FEW for row in self.rows)

    @property
    def expected_false_calls(self) -> float:
        """Differences to be expected if nothing changed: by chance and, unpaired, the hour too."""
        tested = [row.metric for row in self.rows if row.decision.verdict != stats.TOO_FEW]
        hour = {} if self.paired else {name: calls / n for name, (calls, n) in HOUR_CALLS.items()}
        return sum(hour.get(metric, stats.CALL_BELOW_P) for metric in tested)


def compare_results(
    a: Recording, b: Recording, *, paired: bool | None = None, across: bool = False,
    modes: Sequence[str | tuple[str, str]] | None = None, metrics: Sequence[str] | None = None,
) -> Comparison:  # fmt: skip
    """Compare every metric of every mode that both recordings have.

    Args:
        a, b: as `read_recording` gives them; the same one twice only with pairs of modes.
        paired: round i of A beside round i of B, for runs made in turns. None: only where both
            are one recording, whose modes were run in turns.
        across: compare other media (frames, height, width) all the same.
        modes: only these, or pairs of them: (mode of A, mode of B); None: all in common.
        metrics: only these keys of `METRICS`; None: all that both recorded.

    Raises:
        ValueError: nothing to compare, a recording against itself, rounds that do not pair up, or
            recordings that differ in what must be equal (lists all of it).
    """
    pairs, same = _mode_pairs(a, b, modes), a is b or a == b
    if same and any(mode_a == mode_b for mode_a, mode_b in pairs):
        raise ValueError(
            "A and B hold the same runs, and runs against themselves say nothing; give two "
            "recordings, or two modes of this one with --mode-a and --mode-b"
        )
    stated, rest = _differences(a, b, pairs)
    media = [str(one) for one in stated if one.name in SAME_MEDIA]
    if media and not across:
        raise ValueError(
            f"A and B decode other media: {'; '.join(media)}; a ratio of their times "
            "says nothing. --across gives it all the same and says so"
        )
    wanted = METRICS if metrics is None else metrics
    if not wanted or not set(METRICS).issuperset(wanted):
        named = ", ".join(one for one in wanted if one not in METRICS) or "is missing"
        raise ValueError(f"metric {named}: use any of {', '.join(METRICS)}")
    paired = same if paired is None else paired
    rows, left_out = [], []
    for mode_a, mode_b in pairs:
        arms = a.arms[mode_a], b.arms[mode_b]
        if paired:
            _check_rounds(mode_a, arms[0].timed, mode_b, arms[1].timed)
        runs = sum(len(arm.timed) for arm in arms)
        held = arms[0].throttled_runs, arms[1].throttled_runs
        for metric in (one for one in METRICS if one in wanted):
            mine, theirs = (arm.values(metric) for arm in arms)
            if unasked := _unasked([*mine, *theirs], runs):
                left_out.append((metric, _both(mode_a, mode_b), unasked))
                continue
            means, counts = (fmean(mine), fmean(theirs)), (len(mine), len(theirs))
            decision = stats.decide(mine, theirs, paired=paired)
            rows.append(Compared(mode_a, mode_b, metric, *means, *counts, *held, decision))
    compared = {row.metric for row in rows}
    if absent := [metric for metric in metrics or () if metric not in compared]:
        why = {metric: reason for metric, _, reason in left_out}
        named = ", ".join(f"{metric} ({why[metric]})" for metric in absent)
        raise ValueError(f"nothing to compare in {named}; leave it out of --metrics")
    return Comparison(a, b, paired, tuple(rows), tuple(stated), tuple(rest), tuple(left_out))


def _both(mode_a: str, mode_b: str) -> str:
    return mode_a if mode_a == mode_b else f"{mode_a} and {mode_b}"


def _mode_pairs(
    a: Recording, b: Recording, modes: Sequence[str | tuple[str, str]] | None
) -> list[tuple[str, str]]:
    have = f"A has {', '.join(a.arms)}; B has {', '.join(b.arms)}"
    wanted = [mode for mode in a.arms if mode in b.arms] if modes is None else modes
    if modes is None and not wanted:
        raise ValueError(f"no mode in common: {have}; name one of each with --mode-a and --mode-b")
    pairs = [(one, one) if isinstance(one, str) else one for one in wanted]
    if not pairs or len(set(pairs)) != len(pairs):
        raise ValueError(f"modes {pairs}: name at least one, and each once")
    for one, other in pairs:
        if one not in a.arms or other not in b.arms:
            asked = one if one == other else f"{one} (A) and {other} (B)"
            raise ValueError(f"mode {asked} is not in both recordings: {have}")
    return pairs


def _check_rounds(mode_a: str, a: Sequence[Run], mode_b: str, b: Sequence[Run]) -> None:
    """ValueError unless every round of one side has its partner on the other."""
    mine, theirs = ({run.round for run in runs} for runs in (a, b))
    lacking = {"A": theirs - mine, "B": mine - theirs}.items()
    faults = [f"{side} lacks {', '.join(map(str, sorted(some)))}" for side, some in lacking if some]
    if faults:
        raise ValueError(
            f"rounds of {mode_a} (A) and {mode_b} (B) do not pair up: {'; '.join(faults)}; "
            "pairs are for runs made in turns, compare others unpaired (--no-paired)"
        )


def _unasked(values: Sequence[float], runs: int) -> str | None:
    """Why the records do not allow to ask for a difference; None if they do."""
    if len(values) < runs:
        return "not recorded in every run"
    return "below 0 in some run" if min(values) < 0 else None if any(values) else "0 in every run"


def _differences(
    a: Recording, b: Recording, pairs: Iterable[tuple[str, str]]
) -> tuple[list[Difference], list[Difference]]:
    """What is not the same of `SAME` and of the frames, and what else or of the media differs."""
    packages = sorted(a.provenance.packages.keys() | b.provenance.packages)
    mine, theirs = _described(a, packages), _described(b, packages)
    unlike = [name for name in mine if mine[name] != theirs[name]]
    found = {name: Difference(name, _words(mine[name]), _words(theirs[name])) for name in unlike}
    rest = [one for name, one in found.items() if name in SAME_MEDIA or name not in SAME]
    stated = [found[name] for name in SAME if name in found]
    for one, other in pairs:
        arms = a.arms[one], b.arms[other]
        sha_a, sha_b = (arm.frame_sha256 for arm in arms)
        # One path must give its own frames again; diffusers' need not be those of the others.
        alike = one == other or all(map(comparable, arms))
        if alike and sha_a and sha_b and sha_a != sha_b:
            name = f"frame_sha256 of {_both(one, other)}"
            stated.append(Difference(name, _words(sha_a), _words(sha_b)))
    return stated, rest


def _described(one: Recording, packages: Iterable[str]) -> dict[str, Any]:
    """Machine, code, what was decoded, how and where to, by name; not when, which is above."""
    made = one.provenance.model_dump(exclude={"created_utc", "packages"})
    made |= {name: one.provenance.packages.get(name, "missing") for name in packages}
    made |= dict(one.workload) | asdict(one.config)
    made |= {f"sink {name}": value for name, value in one.sink}
    return made | {"baseline": one.baseline}


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
        planted: slow over a, paired by round, over all rounds: what was really planted.
        false_calls: `CALLED_BY` to splits where a was called different from itself.
        found: `CALLED_BY` to splits where slow was called slower than a.
        hour_calls: pairs of blocks of consecutive rounds of one arm that were called different,
            unpaired: what another hour alone does, at least. None below two blocks.
    """

    planted: stats.Ratio
    false_calls: dict[str, stats.Proportion]
    found: dict[str, stats.Proportion]
    hour_calls: stats.Proportion | None

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
        values = {arm: recording.arms[arm].values(metric) for arm in ARMS}
        if all(len(one) == len(recording.base.timed) for one in values.values()):
            found[metric] = judge(values, plan.pairs, plan.splits, plan.seed)
    return found


def check_draws(rounds: int, pairs: int, splits: int) -> None:
    """ValueError, with what is allowed, for draws that could say nothing."""
    if pairs < (fewest := stats.runs_needed(paired=True)):
        never = f"fewer than {fewest} can never be called different"
        raise ValueError(f"pairs is {pairs}; {never}, so use {fewest} or more")
    if rounds < pairs:
        drawn = f"rounds is {rounds} and pairs {pairs}: a split draws its pairs from the rounds"
        raise ValueError(f"{drawn}, so use {pairs} rounds or more")
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

    Beside that, each arm's rounds are cut into blocks of ``pairs`` in a row, and every two blocks
    of an arm are compared unpaired, as two sessions are.

    Args:
        values: arm to its values by round, above 0, all of the same length.
        pairs, splits: as `check_draws` allows.
        seed: of draws and swaps.
    """
    a, b, slow = (np.asarray(values[arm], dtype=np.float64) for arm in ARMS)
    check_draws(a.size, pairs, splits)
    random = np.random.default_rng(seed)
    calls, finds = Counter[str](), Counter[str]()
    for _ in range(splits):
        drawn = random.choice(a.size, pairs, replace=False)
        swapped = random.integers(0, 2, pairs).astype(bool)
        left, right = (np.where(swapped, y[drawn], x[drawn]) for x, y in ((a, b), (b, a)))
        for how in CALLED_BY:
            calls[how] += stats.decide(left, right, paired=how == "paired").called
            planted = stats.decide(a[drawn], slow[drawn], paired=how == "paired")
            finds[how] += planted.verdict == stats.MORE
    quiet = {how: stats.wilson(calls[how], splits) for how in CALLED_BY}
    found = {how: stats.wilson(finds[how], splits) for how in CALLED_BY}
    whole = a.size // pairs * pairs
    cut = [arm[:whole].reshape(-1, pairs) for arm in (a, b, slow)]
    blocks = [two for each in cut for two in combinations(each, 2)]
    called = sum(stats.decide(one, other, paired=False).called for one, other in blocks)
    hour = stats.wilson(called, len(blocks)) if blocks else None
    return Judged(stats.geometric_ratio(values["slow"], values["a"]), quiet, found, hour)
