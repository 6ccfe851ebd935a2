"""Every kind of record as `Table`: for notebooks, papers and ``vdkit show --format``. No torch.

`benchmark_table` is in ``tables``, `sweep_table` in ``sweep_tables`` and the list of all recordings
in ``results_table``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdkit.measure.money import mean_energy_j
from vdkit.present.money_cells import money_legend, price_line
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
    from vdkit.measure.compare import Comparison
    from vdkit.measure.control_records import ControlResult
    from vdkit.measure.profile_records import ProfileResult
    from vdkit.measure.records import BenchmarkResult
    from vdkit.measure.variant_records import Comparison as Variants


def _lines(*lines: str) -> str:
    return "\n".join(line for line in lines if line)


def breakdown_table(result: BenchmarkResult) -> Table:
    """Where each mode's time goes: seconds per run of every step, a row per mode."""
    return Table(breakdown_rows(result), "Where the time goes, seconds per run")


def comparison_table(
    comparison: Comparison, usd_per_hour: float | None = None, energy: bool = False
) -> Table:
    """B against A: a row per metric and mode, as ``vdkit compare`` prints it."""
    from vdkit.present import compare_tables as words

    return Table(
        words.comparison_rows(comparison, usd_per_hour, energy),
        _lines(
            f"A: {words.recording(comparison.a)}",
            f"B: {words.recording(comparison.b)}",
            price_line(usd_per_hour),
            words.across_lines(comparison),
        ),
        _lines(words.comparison_legend(comparison), words.comparison_notes(comparison)),
    )


def variant_table(made: Variants, usd_per_hour: float | None = None, energy: bool = False) -> Table:
    """Variants of a decoder: a row per variant and mode."""
    from vdkit.present.variants_table import variant_lines, variant_rows, variants_legend

    measured = (
        (result.provenance.device, mean_energy_j(result.timed(name)), one.latency_s.mean)
        for result in made.results.values()
        for name, one in result.modes.items()
    )
    against = made.baseline.baseline
    return Table(
        variant_rows(made, usd_per_hour, energy),
        _lines(setting(made.baseline), price_line(usd_per_hour)),
        _lines(
            *variant_lines(made),
            variants_legend(made),
            money_legend(measured, usd_per_hour, energy, against),
        ),
    )


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
