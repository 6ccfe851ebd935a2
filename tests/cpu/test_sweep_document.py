"""A recorded sweep as a document: what is measured, predicted and advised, to the last digit."""

from dataclasses import replace
from pathlib import Path

import pytest

from vdkit import recommend_from
from vdkit.predict.grid import Cell, read_sweep
from vdkit.present.columns import SAVING, Asked
from vdkit.present.sweep_document import (
    advice_document,
    advice_line,
    cell_line,
    cell_records,
    sweep_document,
    sweep_table,
    verdict,
)

RESULTS = Path(__file__).parents[2] / "results"
ONE = Cell(mode="async", chunk_size=2, slots=1)


@pytest.fixture(scope="module")
def sweep():
    return read_sweep(next(RESULTS.glob("*_sweep-14-threads")))


def row_of(table, cell):
    (row,) = [
        row
        for row in table.rows
        if (row["mode"], row["chunk"].value, row["slots"] and row["slots"].value) == (
            cell.mode, cell.chunk_size, cell.slots,
        ) and row["sink MB/s"] == ("full" if cell.mb_per_s is None else f"{cell.mb_per_s:g}")
    ]  # fmt: skip
    return row


def test_a_row_says_what_the_cell_says(sweep):
    table = sweep_table(sweep, Asked(3.36))
    assert len(table.rows) == len(sweep.plan.all_cells) == len(cell_records(sweep))
    arm, row = sweep.results[ONE].base, row_of(table, ONE)
    assert row["measured s"].value == arm.latency.mean and row["max s"].value == arm.latency.max
    assert row["predicted s"].value == sweep.predicted(ONE).latency_s
    assert str(row["error %"]) == f"{sweep.error_percent(ONE):+.2f}"
    sync = Cell(mode="sync", chunk_size=2)
    saved = sweep.results[sync].base.latency.mean - arm.latency.mean
    seconds = sweep.plan.workload.seconds
    assert row[SAVING].value == pytest.approx(3360 * saved / seconds)
    assert row_of(table, sync)[SAVING] is None and "mode sync at the same chunk" in table.note
    assert SAVING not in sweep_table(sweep).columns


def test_the_document(sweep):
    document = sweep_document(sweep)
    text = document.text()
    assert "54 cells predicted from 6: median error 0.09 %" in text and verdict(sweep) in text
    assert "Frames are identical, byte for byte, in every cell of a chunk size." in text
    assert f"- Sink at 40 MB/s: {advice_line(recommend_from(sweep, mb_per_s=40.0))}." in text
    assert [part.name for part in document.sections[1].parts] == ["heatmap", "scatter"]
    assert document.sections[1].parts[0].draw().axes


def test_what_is_not_done_is_said(sweep):
    results = {cell: one for cell, one in sweep.results.items() if cell != ONE}
    partial = replace(sweep, results=results, unfit={ONE: "no memory\nof the GPU"})
    text = sweep_document(partial).text()
    assert f"{ONE.words} does not fit: no memory (the rest is in unfit_{ONE.key}.json)" in text
    assert row_of(sweep_table(partial, Asked(2.0)), ONE)["measured s"] == "does not fit"
    assert cell_line(partial, ONE) == f"{ONE.words}: does not fit in memory"
    left = replace(sweep, results=results)
    assert "59 of 60 cells are done." in sweep_document(left).text()
    assert row_of(sweep_table(left), ONE)["measured s"] == "to do"
    lost = sweep_document(replace(sweep, predictions=None)).text()
    assert f"predictions.json is missing; vdkit sweep --resume {sweep.folder}" in lost


def test_nothing_measured_yet(sweep):
    empty = replace(sweep, results={}, predictions=None)
    assert "No cell has been both predicted and measured yet." in sweep_document(empty).text()
    assert sweep_table(empty, Asked(2.0)).rows[0]["measured s"] == "to do"


def test_advice(sweep):
    advice = recommend_from(sweep)
    document = advice_document(advice, Asked(3.36))
    (table,) = document.tables()
    assert [row["verdict"] for row in table.rows].count("recommended") == 1
    (row,) = [row for row in table.rows if row["verdict"] == "recommended"]
    assert row["latency s"].value == advice.prediction.run.latency_s
    rtf = advice.prediction.run.latency_s / sweep.plan.workload.seconds
    assert row["USD / video h"].value == pytest.approx(3.36 * rtf)
    assert document.text().startswith(f"Use {advice_line(advice)}.\nAt twice the speed")
    assert all(remark in document.text() for remark in advice.remarks)
