"""Records that are printed as several tables, each as `Table`. No torch.

Those of one table have it beside their rows: `benchmark_table` in ``tables``, `comparison_table` in
``compare_tables``, `variant_table`, `sweep_table` and `results_table` likewise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdkit.present.money_cells import price_line
from vdkit.present.profile_tables import (
    family_rows,
    mode_legend,
    mode_rows,
    stall_rows,
    warning,
    window_rows,
)
from vdkit.present.table import Table
from vdkit.present.tables import breakdown_rows, setting

if TYPE_CHECKING:
    from vdkit.measure.control_records import ControlResult
    from vdkit.measure.profile_records import ProfileResult
    from vdkit.measure.records import BenchmarkResult


def _lines(*lines: str) -> str:
    return "\n".join(line for line in lines if line)


def breakdown_table(result: BenchmarkResult) -> Table:
    """Where each mode's time goes: seconds per run of every step, a row per mode."""
    return Table(breakdown_rows(result), "Where the time goes, seconds per run")


def control_tables(control: ControlResult) -> list[Table]:
    """An A/A control: the arms, then how often a difference was called."""
    from vdkit.present.control_report import arm_rows, call_rows

    return [Table(arm_rows(control), setting(control)), Table(call_rows(control), "Calls")]


def profile_tables(
    result: ProfileResult, usd_per_hour: float | None = None, energy: bool = False
) -> list[Table]:
    """A profile: paths, windows, stalls of each window, kernel families; warnings above each."""
    analyses = {mode: one.analysis for mode, one in result.modes.items()}
    failed = warning(analyses, "plain")
    made = [
        Table(
            mode_rows(result, usd_per_hour, energy),
            _lines(failed, setting(result), price_line(usd_per_hour)),
            mode_legend(result, usd_per_hour, energy),
        ),
        Table(window_rows(analyses), _lines(failed, "Windows")),
    ]
    for window in ("run", "steady"):
        if rows := stall_rows(analyses, window):
            made.append(Table(rows, _lines(failed, f"Where window {window} went, ms")))
    if rows := family_rows(analyses):
        made.append(Table(rows, _lines(failed, "Kernel time of the whole trace")))
    return made
