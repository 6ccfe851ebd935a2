"""Two recordings, or two modes of one, as a document: what was called, and how far to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from vdkit.present.columns import NAMES, NOTHING, Asked, Row, columns_of
from vdkit.present.document import Document, Part, lines, section
from vdkit.present.documents import Source, ends, results_of
from vdkit.present.table import DIGITS_LEGEND, Cell, Number, Table, mean_of, ratio_of
from vdkit.present.words import read_with_care, recording_words, what_and_where, what_sentence
from vdkit.record.compare import METRICS, Compared, Comparison
from vdkit.record.recording import Recording
from vdkit.record.stats import CALL_BELOW_P, TOO_FEW, runs_needed

UNITS = {
    "latency_s": ("latency s", 1.0, None),
    "ttff_s": ("TTFF s", 1.0, None),
    "vram_peak_bytes": ("peak VRAM GB", 1e9, 3),
    "pinned_bytes": ("pinned MB", 1e6, 1),
    "energy_j": ("energy J", 1.0, None),
}
"""Metric to its name in tables, what to divide by, and decimals: None where runs scatter."""
assert UNITS.keys() == METRICS.keys()


def comparison_table(comparison: Comparison, asked: Asked = NOTHING) -> Table:
    """A row per metric and mode, both recordings above, below what the columns mean.

    ``asked``: what B costs, and saves against A, in the rows of the latency.
    """
    a, b = comparison.a, comparison.b
    one = a is b
    heads = [f"A and B: {recording_words(a)}"] if one else [
        f"A: {recording_words(a)}", f"B: {recording_words(b)}"
    ]  # fmt: skip
    # Compared across machines or workloads there is no one line that is true of both.
    if not comparison.stated:
        heads.append(f"{'It ran' if one else 'Both ran'} {what_and_where(a)}.")
    above = [lines(*heads, asked.line), stated_words(comparison)]
    below = [_legend(comparison, asked), _notes(comparison)]
    return Table(
        _rows(comparison, asked), "\n\n".join(filter(None, above)), "\n\n".join(filter(None, below))
    )


def _rows(comparison: Comparison, asked: Asked) -> list[dict[str, Cell]]:
    throttled = any(row.throttled_a or row.throttled_b for row in comparison.rows)
    rows = []
    for row in comparison.rows:
        cells: dict[str, Cell] = {
            "mode": _modes(row),
            "metric": UNITS[row.metric][0],
            "A": _mean(row.metric, comparison.a, row.mode_a),
            "B": _mean(row.metric, comparison.b, row.mode_b),
            "B / A": ratio_of(row.decision.ratio),
            "p": Number(row.decision.p, 4),
            "n": f"{row.n_a} pairs" if comparison.paired else f"{row.n_a}, {row.n_b}",
            "B is": row.verdict,
        }
        if throttled:
            sides = ((row.throttled_a, row.n_a), (row.throttled_b, row.n_b))
            counts = [f"{count} of {n}{'†' if count else ''}" for count, n in sides]
            cells["throttled A"], cells["throttled B"] = counts
        arm = _priced(comparison, row)
        for column in _money([arm], asked):
            cells[f"B: {column.name}"] = (
                column.read(arm, asked) if row.metric == "latency_s" else None
            )
        rows.append(cells)
    return rows


def _priced(comparison: Comparison, row: Compared) -> Row:
    """B's arm, which saves against A's if both decoded the same length of video."""
    arm, base = comparison.b.arms[row.mode_b], comparison.a.arms[row.mode_a]
    same = arm.workload.seconds == base.workload.seconds
    device = comparison.b.provenance.device
    return Row({}, arm, None, base if same else None, device)


def _money(rows: Sequence[Row], asked: Asked) -> list[Any]:
    return list(columns_of("money", rows, asked))


def _mean(metric: str, recording: Recording, mode: str) -> Number:
    """Of the timed runs: bytes as ever, what scatters as far as its interval goes."""
    _, unit, decimals = UNITS[metric]
    read = (METRICS[metric](run) for run in recording.arms[mode].timed)
    values = [value / unit for value in read if value is not None]
    return mean_of(values) if decimals is None else Number(fmean(values), decimals)


def _modes(row: Compared) -> str:
    if row.mode_a == row.mode_b:
        return NAMES.get(row.mode_a, row.mode_a)
    return f"A {row.mode_a}, B {row.mode_b}"


def stated_words(comparison: Comparison) -> str:
    """What makes this more than a comparison of two commits, as a list; empty if nothing."""
    if not comparison.stated:
        return ""
    return "COMPARED ACROSS what differs, so a ratio is of that too:\n" + "\n".join(
        f"- {one}" for one in comparison.stated
    )


def _legend(comparison: Comparison, asked: Asked) -> str:
    """What the columns mean, and how far to trust a call."""
    how = (
        "Paired: round i of A beside round i of B."
        if comparison.paired
        else "Not paired: what only the hour changed (temperature, other programs) counts too, so "
        "that a second session of the same thing is called different more often than p says."
    )
    text = (
        f"A, B: means. B / A: geometric mean with a Student-t 95 % interval. {how} A difference "
        f"is called if p < {CALL_BELOW_P:g} (two-sided permutation test) and the interval leaves "
        f"out 1. {DIGITS_LEGEND}"
    )
    if tests := comparison.tests:
        what = f"{tests} {'tests' if tests > 1 else 'test'}"
        text += (
            f" {what} at {CALL_BELOW_P * 100:g} %: if nothing had changed, up to "
            f"{comparison.expected_false_calls:.2f} false calls by chance."
        )
    if any(row.decision.verdict == TOO_FEW for row in comparison.rows):
        needed = "pairs of runs" if comparison.paired else "runs of each side"
        text += (
            f" {TOO_FEW.capitalize()}: at least {runs_needed(comparison.paired)} {needed} are "
            "needed."
        )
    if any(row.throttled_a or row.throttled_b for row in comparison.rows):
        text += (
            " † Runs with a throttle reason: the GPU was held below the clock it wanted, so what "
            "differs may be its clocks."
        )
    priced = [_priced(comparison, row) for row in comparison.rows if row.metric == "latency_s"]
    money = [column.says(priced, "A") for column in _money(priced, asked)] if priced else []
    return lines(text, *money)


def _notes(comparison: Comparison) -> str:
    """What else differs, uncommitted code, and what was not compared."""
    found = []
    if comparison.differences:
        found.append(f"What differs (A against B): {'; '.join(map(str, comparison.differences))}.")
    elif not comparison.stated and comparison.a is not comparison.b:
        found.append("What differs: nothing that is recorded.")
    sides = (("A", comparison.a), ("B", comparison.b))
    if dirty := [name for name, side in sides if side.provenance.git_dirty]:
        found.append(
            f"{' and '.join(dirty)} ran code with uncommitted changes: the commit does not say "
            "which."
        )
    reasons: dict[tuple[str, str], list[str]] = {}
    for metric, mode, reason in comparison.left_out:
        reasons.setdefault((metric, reason), []).append(mode)
    if reasons:
        told = "; ".join(
            f"{metric} of {', '.join(modes)} ({reason})"
            for (metric, reason), modes in reasons.items()
        )
        found.append(f"Not compared: {told}.")
    return "\n".join(found)


def comparison_record(comparison: Comparison, whole: bool = True) -> dict[str, Any]:
    """For one line of JSON: everything, or (not ``whole``) the ratio of what was called."""
    short: dict[str, Any] = {"paired": comparison.paired, "tests": comparison.tests}
    if not whole:
        called: dict[str, dict[str, float | None]] = {}
        for row in comparison.rows:
            if row.decision.called:
                mode = row.mode_a if row.mode_a == row.mode_b else f"{row.mode_a}->{row.mode_b}"
                ratio = row.decision.ratio
                called.setdefault(mode, {})[row.metric] = round(ratio.value, 6) if ratio else None
        return short | {"called": called}
    rows = []
    for row in comparison.rows:
        made = asdict(row)
        rows.append(made | made.pop("decision") | {"verdict": row.verdict})
    return short | {
        "expected_false_calls": comparison.expected_false_calls,
        "rows": rows,
        "across": [asdict(one) for one in comparison.stated],
        "differences": [asdict(one) for one in comparison.differences],
        "left_out": [
            {"metric": metric, "mode": mode, "reason": reason}
            for metric, mode, reason in comparison.left_out
        ],
    }


def comparison_document(
    comparison: Comparison,
    asked: Asked = NOTHING,
    sources: Sequence[Source] = (Source(), Source()),
) -> Document:
    """The verdicts, then each recording by itself."""
    a, b = comparison.a, comparison.b
    parts: list[Part] = [comparison_table(comparison, asked)]
    title = f"{b.label} against {a.label}" if a.label != b.label else f"{a.label}, twice"
    if a is b:
        title = f"Modes of {a.label}"
    both = [a, b] if a is not b else [a]
    sides = list(zip("AB", both, sources, strict=True)) if a is not b else []
    return Document(
        title,
        "Two recordings compared",
        _lead(comparison),
        (
            section("comparison", "B against A", *parts),
            *(part for side, one, source in sides for part in results_of(one, asked, side, source)),
            *ends(both, sources[: len(both)]),
        ),
    )


def _lead(comparison: Comparison) -> tuple[str, ...]:
    a, b = comparison.a, comparison.b
    first, second = what_sentence(a), what_sentence(b)
    ran = f"in both {first}" if first == second else f"in A {first[:-1]}, in B {second}"
    told = "; ".join(
        f"{row.mode_b}: {row.verdict}"
        + (f", B / A {ratio_of(row.decision.ratio)}" if row.decision.ratio else "")
        for row in comparison.rows
        if row.metric == "latency_s"
    )
    care = [
        "runs of one round are pairs"
        if comparison.paired
        else "the recordings are not paired, so what only the hour changed counts too",
        f"n = {min(min(row.n_a, row.n_b) for row in comparison.rows)}",
        "some runs had a throttle reason set"
        if any(row.throttled_a or row.throttled_b for row in comparison.rows)
        else "",
        "THEY DIFFER IN MORE THAN CODE" if comparison.stated else "",
    ]
    return (
        f"A is {recording_words(a)}, and B is {recording_words(b)}; {ran}",
        f"Latency of B against A, {told}.",
        read_with_care(care),
    )
