"""Two recordings in a report: the verdicts, or why there are none. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdkit.present.compare_tables import (
    across_lines,
    comparison_legend,
    comparison_notes,
    comparison_rows,
)
from vdkit.present.money_cells import money_legend, price_line
from vdkit.present.report_html import box, prose, table
from vdkit.record.compare import differences, mismatches
from vdkit.record.money import mean_energy_j

if TYPE_CHECKING:
    from vdkit.record.compare import Comparison
    from vdkit.record.recording import BenchmarkResult


def compared(comparison: Comparison, usd_per_hour: float | None, energy: bool) -> str:
    """The verdicts, with what must be equal and is not above them."""
    b = comparison.b
    measured = [
        (b.provenance.device, mean_energy_j(b.timed(row.mode_b)), row.mean_b)
        for row in comparison.rows
        if row.metric == "latency_s"
    ]
    parts = [
        box(across_lines(comparison)),
        prose(price_line(usd_per_hour), "note"),
        table(comparison_rows(comparison, usd_per_hour, energy)),
        prose(comparison_legend(comparison), "note"),
        prose(money_legend(measured, usd_per_hour, energy, "A"), "note"),
        prose(comparison_notes(comparison)),
    ]
    return "\n".join(part for part in parts if part)


def refused(a: BenchmarkResult, b: BenchmarkResult, refusal: str) -> str:
    """Why there is no table, and everything that differs."""
    unequal, other = mismatches(a, b, shared_modes(a, b)), differences(a, b)
    parts = [
        box(refusal),
        table([{"must be equal": x.name, "A": x.a, "B": x.b} for x in unequal]),
        table([{"differs too": x.name, "A": x.a, "B": x.b} for x in other]),
    ]
    return "\n".join(part for part in parts if part)


def shared_modes(a: BenchmarkResult, b: BenchmarkResult) -> list[tuple[str, str]]:
    """(mode, mode) of each that both have, as `mismatches` takes them."""
    return [(mode, mode) for mode in a.modes if mode in b.modes]
