"""What the explorer leaves behind: a run's record, the picture and the table, for a report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vdkit.measure.folders import check_out, result_folder
from vdkit.measure.records import write_result
from vdkit.present.explorer_tables import run_rows
from vdkit.present.explorer_words import setting_words
from vdkit.present.table import Table

if TYPE_CHECKING:
    from vdkit.present.explorer_session import SessionRun
    from vdkit.present.live_timeline import LiveTimeline


def runs_table(runs: Sequence[SessionRun]) -> Table:
    """The runs of a session as a table in any form; one run at least."""
    return Table(
        run_rows(runs),
        caption=f"Measured with the explorer on {runs[0].result.provenance.device}",
        note="Seconds are means of n runs in turns. Predicted before each run was measured. Busy: "
        "compute stream at work in the steady window, from event records.",
    )


def export(
    run: SessionRun, runs: Sequence[SessionRun], picture: LiveTimeline, label: str, out: Path
) -> list[Path]:
    """Write a new folder under ``out``; nothing recorded earlier is touched.

    Args:
        run: whose record is written, as ``result.json``.
        runs: of the table, as ``table.csv``, ``table.md`` and ``table.tex``.
        picture: of that run, as ``timeline.png``, ``.svg`` and ``.pdf``.
        label: end of the folder's name.
        out: parent of the new folder, which is made if need be.

    Returns:
        The files written.

    Raises:
        ValueError: a label too long for a file name.
        OSError: ``out`` cannot be written to.
    """
    check_out(out, label, "results folder")
    result = run.result.model_copy(update={"label": label or setting_words(run.setting)})
    folder = result_folder(out, result.label, result.provenance, partial(write_result, result))
    written = [folder / "result.json"]
    written += [picture.save(folder / f"timeline.{ending}") for ending in ("png", "svg", "pdf")]
    return written + runs_table(runs).write(folder, "table")
