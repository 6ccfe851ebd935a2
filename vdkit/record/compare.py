"""Two recordings against each other: what changed, what only varied, what must not be compared.

A mean that is 1 % lower today than yesterday may be the change in the code or the machine's mood.
Here a difference has to be larger than what relabeled runs give by chance, and recordings from
different machines or of different frames are refused unless the caller insists. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from vdkit.record.recording import BenchmarkResult, Run, comparable
from vdkit.record.stats import CALL_BELOW_P, LESS, MORE, TOO_FEW, Decision, decide


def _energy_j(run: Run) -> float | None:
    if run.gpu_before is None or run.gpu_after is None:
        return None
    before, after = run.gpu_before.energy_j, run.gpu_after.energy_j
    return None if before is None or after is None else after - before


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
    "energy_j": Metric("more", "less", _energy_j),
}
"""What is compared, by name; ``energy_j`` is the NVML counter after a run minus before it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one mode (or pair of modes), A against B.

    Attributes:
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
        mismatches: what would have been refused; empty unless compared ``across`` it.
        differences: what else differs; usually the object of the comparison is among them.
        left_out: (metric, mode, reason) of what the records do not allow to compare.
    """

    a: BenchmarkResult
    b: BenchmarkResult
    paired: bool
    rows: tuple[Row, ...]
    mismatches: tuple[Difference, ...]
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
    a: BenchmarkResult,
    b: BenchmarkResult,
    *,
    paired: bool | None = None,
    across: bool = False,
    modes: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    mode_pairs: Sequence[tuple[str, str]] | None = None,
) -> Comparison:
    """Compare every metric of every mode that both recordings have.

    Args:
        a, b: as `read_result` gives them; the same one twice only with ``mode_pairs``.
        paired: round i of A beside round i of B, for runs made in turns. None: only where both
            are one recording, whose modes were run in turns.
        across: compare different machines, decoders, latents or frames all the same.
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
    forbidding = mismatches(a, b, pairs)
    if forbidding and not across:
        raise ValueError(
            f"A and B must not be compared: {'; '.join(map(str, forbidding))}. "
            "--across compares them all the same and says so"
        )
    paired = one if paired is None else paired
    if paired:
        for mode_a, mode_b in pairs:
            _check_rounds(a.timed(mode_a), b.timed(mode_b))
    chosen = _metrics(metrics)
    rows: list[Row] = []
    left_out: list[tuple[str, str, str]] = []
    for mode_a, mode_b in pairs:
        for metric in chosen:
            made = _row(a.timed(mode_a), b.timed(mode_b), metric, paired)
            if isinstance(made, Row):
                rows.append(made)
            else:
                name = mode_a if mode_a == mode_b else f"{mode_a} and {mode_b}"
                left_out.append((metric, name, made))
    compared = {row.metric for row in rows}
    if absent := [metric for metric in metrics or () if metric not in compared]:
        why = {metric: reason for metric, _, reason in left_out}
        raise ValueError(
            f"nothing to compare in {', '.join(f'{m} ({why[m]})' for m in absent)}; leave it out "
            "of --metrics"
        )
    return Comparison(
        a, b, paired, tuple(rows), tuple(forbidding), tuple(differences(a, b)), tuple(left_out)
    )


def _mode_pairs(
    a: BenchmarkResult,
    b: BenchmarkResult,
    modes: Sequence[str] | None,
    mode_pairs: Sequence[tuple[str, str]] | None,
) -> list[tuple[str, str]]:
    if modes is not None and mode_pairs is not None:
        raise ValueError("give modes or pairs of modes, not both")
    have = f"A has {', '.join(a.modes)}; B has {', '.join(b.modes)}"
    if mode_pairs is None:
        common = [mode for mode in a.modes if mode in b.modes]
        wanted = common if modes is None else modes
        if not common:
            raise ValueError(
                f"no mode in common: {have}; name one of each with --mode-a and --mode-b"
            )
        mode_pairs = [(mode, mode) for mode in wanted]
    if not mode_pairs or len(set(mode_pairs)) != len(mode_pairs):
        raise ValueError(f"modes {list(mode_pairs)}: name at least one, and each once")
    for mode_a, mode_b in mode_pairs:
        if mode_a not in a.modes or mode_b not in b.modes:
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


def _check_rounds(a: Sequence[Run], b: Sequence[Run]) -> None:
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
            f"rounds of {a[0].mode} (A) and {b[0].mode} (B) do not pair up: {'; '.join(faults)}; "
            "pairs are for runs made in turns, compare others unpaired (--no-paired)"
        )


def _row(a: Sequence[Run], b: Sequence[Run], metric: str, paired: bool) -> Row | str:
    """The row, or why there is none."""
    read = METRICS[metric].read
    values_a = [value for run in a if (value := read(run)) is not None]
    values_b = [value for run in b if (value := read(run)) is not None]
    if len(values_a) < len(a) or len(values_b) < len(b):
        return "not recorded in every run"
    if not any(values_a) and not any(values_b):
        return "0 in every run"
    if min(*values_a, *values_b) < 0:
        return "below 0 in some run"
    return Row(
        mode_a=a[0].mode,
        mode_b=b[0].mode,
        metric=metric,
        mean_a=sum(values_a) / len(a),
        mean_b=sum(values_b) / len(b),
        n_a=len(a),
        n_b=len(b),
        throttled_a=sum(run.throttled for run in a),
        throttled_b=sum(run.throttled for run in b),
        decision=decide(values_a, values_b, paired=paired),
    )


SAME_MACHINE = ("device", "device_uuid", "vram_bytes", "cpu", "host_cores")
SAME_WORK = ("decoder", "dtype", "weights_sha256", "latents_sha256", "frames", "height", "width")
_NO_MATTER = {"created_utc", "packages"}  # said elsewhere: in the caption, and package by package


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of the records that is ``a`` in A and ``b`` in B, in words."""

    name: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.name} {self.a} against {self.b}"


def mismatches(
    a: BenchmarkResult, b: BenchmarkResult, pairs: Sequence[tuple[str, str]]
) -> list[Difference]:
    """What two recordings must have in common to be compared, and have not."""
    found = _unequal(a.provenance, b.provenance, SAME_MACHINE)
    found += _unequal(a.workload, b.workload, SAME_WORK)
    for mode_a, mode_b in pairs:
        sha_a, sha_b = a.modes[mode_a].frame_sha256, b.modes[mode_b].frame_sha256
        # One path must give its own frames again; diffusers' need not be those of the others.
        alike = mode_a == mode_b or (
            comparable(mode_a, sha_a, a.config) and comparable(mode_b, sha_b, b.config)
        )
        if alike and sha_a is not None and sha_b is not None and sha_a != sha_b:
            name = mode_a if mode_a == mode_b else f"{mode_a} and {mode_b}"
            found.append(Difference(f"frame_sha256 of {name}", _words(sha_a), _words(sha_b)))
    return found


def differences(a: BenchmarkResult, b: BenchmarkResult) -> list[Difference]:
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
