"""A comparison of two recordings as text: what was called, and how far to trust it. No torch."""

from __future__ import annotations

from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

from vdkit.measure.compare import METRICS
from vdkit.measure.money import mean_energy_j
from vdkit.measure.stats import CALL_BELOW_P, TOO_FEW, runs_needed
from vdkit.present.digits import DIGITS_LEGEND, mean_words, ratio_words, shown
from vdkit.present.money_cells import money_cells, money_legend, price_line
from vdkit.present.table import Table, markdown_table
from vdkit.present.tables import NAMES, what_and_where

if TYPE_CHECKING:
    from vdkit.measure.compare import Comparison, Row
    from vdkit.measure.records import BenchmarkResult

UNITS = {
    "latency_s": ("latency s", 1.0, None),
    "ttff_s": ("TTFF s", 1.0, None),
    "vram_peak_bytes": ("peak VRAM GB", 1e9, 3),
    "pinned_bytes": ("pinned MB", 1e6, 1),
    "energy_j": ("energy J", 1.0, None),
}
"""Metric to its name in tables, what to divide by, and decimals: None where runs scatter."""
assert UNITS.keys() == METRICS.keys()


def comparison_rows(
    comparison: Comparison, usd_per_hour: float | None = None, energy: bool = False
) -> list[dict[str, str]]:
    """One row per metric and mode, every cell ready to show.

    ``usd_per_hour``, ``energy``: what B costs, and saves against A, in the rows of the latency.
    """
    throttled = any(row.throttled_a or row.throttled_b for row in comparison.rows)
    rows = []
    for row in comparison.rows:
        name = UNITS[row.metric][0]
        cells = {
            "mode": _modes(row),
            "metric": name,
            "A": _mean(row.metric, comparison.a, row.mode_a),
            "B": _mean(row.metric, comparison.b, row.mode_b),
            "B / A": ratio_words(row.decision.ratio),
            "p": f"{row.decision.p:.4f}",
            "n": f"{row.n_a} pairs" if comparison.paired else f"{row.n_a}, {row.n_b}",
            "B is": row.verdict,
        }
        if throttled:
            sides = ((row.throttled_a, row.n_a), (row.throttled_b, row.n_b))
            counts = [f"{count} of {n}{'†' if count else ''}" for count, n in sides]
            cells["throttled A"], cells["throttled B"] = counts
        cells |= _money(comparison, row, usd_per_hour, energy)
        rows.append(cells)
    return rows


def _mean(metric: str, result: BenchmarkResult, mode: str) -> str:
    """Of the timed runs: bytes as ever, what scatters as far as its interval goes."""
    _, unit, decimals = UNITS[metric]
    read = (METRICS[metric].read(run) for run in result.timed(mode))
    values = [value / unit for value in read if value is not None]
    return mean_words(values) if decimals is None else shown(fmean(values), decimals)


def _money(
    comparison: Comparison, row: Row, usd_per_hour: float | None, energy: bool
) -> dict[str, str]:
    """The extra cells; ``-`` in the rows that are not of the latency."""
    a, b = comparison.a, comparison.b
    same_video = a.workload.seconds == b.workload.seconds
    of_latency = row.metric == "latency_s"
    cells = money_cells(
        row.mean_b if of_latency else 1.0, row.mean_a if of_latency and same_video else None,
        b.workload.seconds, mean_energy_j(b.timed(row.mode_b)), usd_per_hour, energy,
    )  # fmt: skip
    return {f"B: {name}": value if of_latency else "-" for name, value in cells.items()}


def _modes(row: Row) -> str:
    if row.mode_a == row.mode_b:
        return NAMES[row.mode_a]
    return f"A {row.mode_a}, B {row.mode_b}"


def comparison_text(
    comparison: Comparison, usd_per_hour: float | None = None, energy: bool = False
) -> str:
    """`comparison_table` as Markdown that reads well in a terminal."""
    table = comparison_table(comparison, usd_per_hour, energy)
    return "\n\n".join([table.caption, markdown_table(table.rows), table.note])


def comparison_table(
    comparison: Comparison, usd_per_hour: float | None = None, energy: bool = False
) -> Table:
    """Both recordings in words, the table, what its columns mean, and what else differs.

    ``usd_per_hour``, ``energy``: as for `comparison_rows`.
    """
    a, b = comparison.a, comparison.b
    one = a is b
    heads = [f"A and B: {recording(a)}"] if one else [f"A: {recording(a)}", f"B: {recording(b)}"]
    # Compared across machines or workloads there is no one line that is true of both.
    if not comparison.mismatches:
        heads.append(f"{'It ran' if one else 'Both ran'} {what_and_where(a)}.")
    if usd_per_hour is not None:
        heads.append(price_line(usd_per_hour))
    device = b.provenance.device
    measured = [
        (device, mean_energy_j(b.timed(row.mode_b)), row.mean_b)
        for row in comparison.rows
        if row.metric == "latency_s"
    ]
    above = ["\n".join(heads), across_lines(comparison)]
    below = [
        comparison_legend(comparison),
        money_legend(measured, usd_per_hour, energy, "A"),
        comparison_notes(comparison),
    ]
    return Table(
        comparison_rows(comparison, usd_per_hour, energy),
        "\n\n".join(filter(None, above)),
        "\n\n".join(filter(None, below)),
    )


def recording(result: BenchmarkResult) -> str:
    """Label, date and commit, in one line."""
    made = result.provenance
    commit = f"{(made.git_commit or 'unknown')[:7]}{' (dirty)' if made.git_dirty else ''}"
    return f"{result.label}, {made.created_utc}, commit {commit}"


def across_lines(comparison: Comparison) -> str:
    """What must be equal and is not, as a list; empty if nothing."""
    if not comparison.mismatches:
        return ""
    return "COMPARED ACROSS what must be equal for a comparison to mean anything:\n" + "\n".join(
        f"- {one}" for one in comparison.mismatches
    )


def comparison_legend(comparison: Comparison) -> str:
    """What the columns of `comparison_rows` mean, and how far to trust a call."""
    how = (
        "Paired: round i of A beside round i of B."
        if comparison.paired
        else "Not paired: what only the hour changed (temperature, other programs) counts too."
    )
    interval = "Student's t on log ratios" if comparison.paired else "Welch's t on logarithms"
    text = (
        f"A, B: means. B / A: ratio of geometric means with its 95 % interval ({interval}). {how} "
        f"A difference is called if p < {CALL_BELOW_P:g} (two-sided permutation test) and the "
        f"interval leaves out 1. {DIGITS_LEGEND}"
    )
    tests = comparison.tests
    if tests:
        what = f"{tests} {'tests' if tests > 1 else 'test'}"
        text += (
            f" {what} at {CALL_BELOW_P * 100:g} %: if nothing had changed, up to "
            f"{comparison.expected_false_calls:.2f} false calls by chance."
        )
    if any(row.decision.verdict == TOO_FEW for row in comparison.rows):
        text += f" {TOO_FEW.capitalize()}: at least {_needed(comparison.paired)} are needed."
    if any(row.throttled_a or row.throttled_b for row in comparison.rows):
        text += (
            " † Runs with a throttle reason: the GPU was held below the clock it wanted, so what "
            "differs may be its clocks."
        )
    return text


def _needed(paired: bool) -> str:
    """How many runs a call takes, in words."""
    return f"{runs_needed(paired)} {'pairs of runs' if paired else 'runs of each side'}"


def comparison_notes(comparison: Comparison) -> str:
    """What else differs, uncommitted code, and what was not compared."""
    lines = []
    if comparison.differences:
        lines.append(f"What differs (A against B): {'; '.join(map(str, comparison.differences))}.")
    elif not comparison.mismatches and comparison.a is not comparison.b:
        lines.append("What differs: nothing that is recorded.")
    sides = (("A", comparison.a), ("B", comparison.b))
    dirty = [name for name, side in sides if side.provenance.git_dirty]
    if dirty:
        lines.append(
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
        lines.append(f"Not compared: {told}.")
    return "\n".join(lines)


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
    return short | {
        "expected_false_calls": comparison.expected_false_calls,
        "rows": [_row(row) for row in comparison.rows],
        "across": [asdict(one) for one in comparison.mismatches],
        "differences": [asdict(one) for one in comparison.differences],
        "left_out": [
            {"metric": metric, "mode": mode, "reason": reason}
            for metric, mode, reason in comparison.left_out
        ],
    }


def _row(row: Row) -> dict[str, Any]:
    cells = asdict(row)
    decision = cells.pop("decision")
    return cells | decision | {"verdict": row.verdict}
