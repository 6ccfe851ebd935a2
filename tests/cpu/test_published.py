"""The published figures: what is said to follow from them does."""

from pathlib import Path

import numpy as np
import pytest

from tools.readme import MAIN
from vdkit import read_profile, read_result
from vdkit.present.published_table import (
    WINDOW,
    beside_rows,
    implied_lines,
    published_beside_rows,
    utilization_rows,
)
from vdkit.record.money import PUBLISHED_ASYNC_S, PUBLISHED_SYNC_S
from vdkit.record.published import PUBLISHED, implied_sync_percent, p99_ranks

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("n", [2, 10, 57, 100, 101, 201])
def test_p99_lies_where_it_is_said_to(n):
    values = np.sort(np.random.default_rng(n).random(n))
    rank, share = p99_ranks(n)
    above = values[min(rank, n - 1)]
    expected = values[rank - 1] + share * (above - values[rank - 1])
    assert np.percentile(values, 99) == pytest.approx(expected)


def test_p99_of_one_lies_nowhere():
    with pytest.raises(ValueError, match="P99 of 1 values"):
        p99_ranks(1)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_bounds_of_the_slowest_give_the_published_p99(mode):
    one = PUBLISHED[mode]
    low, high = one.slowest_s
    assert one.min_s < one.mean_s < one.p99_s == low < high
    assert np.percentile([one.min_s] * 9 + [high], 99) == pytest.approx(one.p99_s)
    assert np.percentile([one.min_s] * 8 + [low] * 2, 99) == pytest.approx(one.p99_s)


def test_one_source_for_the_means():
    assert (PUBLISHED["sync"].mean_s, PUBLISHED["async"].mean_s) == (
        PUBLISHED_SYNC_S, PUBLISHED_ASYNC_S,
    )  # fmt: skip


def test_both_utilizations_cannot_be_of_whole_runs():
    assert PUBLISHED["async"].busy_s > 1.1 * PUBLISHED["sync"].busy_s
    assert PUBLISHED["sync"].utilization_percent < implied_sync_percent() < 100
    windows, basis, tail, gain = implied_lines()
    assert "18.03 s of kernels" in windows and "20.15 s" in windows and "91.6 %" in windows
    assert "164 frames at 24 fps" in basis and "161 frames at 16 fps" in basis
    assert "91 % of the way from run 9 to run 10" in tail and "22.01 to 22.013 s" in tail
    assert "1.090" in gain


@pytest.fixture(scope="module")
def recorded():
    (profile,) = (ROOT / "results").glob("*2ad74eb_aws-profile")
    modes = read_profile(profile).modes
    analyses = {mode: modes[mode].analysis for mode in ("sync", "async")}
    return read_result(ROOT / "results" / MAIN), analyses


def test_rows_stand_below_each_other(recorded):
    result, analyses = recorded
    rows = published_beside_rows(3.36) + beside_rows("recorded", result, analyses, 3.36)
    assert len({tuple(row) for row in rows}) == 1 and len(rows) == 4
    column = f"kernel utilization %, {WINDOW}"
    assert [row[column] for row in rows[:2]] == ["82.0", "99.9"]
    busy = analyses["async"].windows[WINDOW].kernel_utilization_percent
    assert rows[3][column] == f"{busy:.1f}"
    assert rows[2]["sync / path"] == rows[0]["sync / path"] == "1"
    assert "[" in rows[3]["sync / path"] and "[" not in rows[1]["sync / path"]
    assert float(rows[0]["USD / video h"]) == pytest.approx(3.21 * 3.36, rel=1e-3)
    assert [row["n"] for row in rows] == ["10"] * 4


def test_without_a_profile_no_utilization_is_claimed(recorded):
    result, _ = recorded
    assert [row[f"kernel utilization %, {WINDOW}"] for row in beside_rows("x", result, {})] == [
        "-", "-",
    ]  # fmt: skip


def test_utilization_by_window(recorded):
    _, analyses = recorded
    rows = utilization_rows({"recorded": analyses})
    assert [row["two chunks %"] for row in rows[:2]] == ["82.0", "99.9"]
    assert rows[0]["run %"] == "-" and rows[2]["of"] == "kernels"
    shown = f"{analyses['sync'].windows['run'].kernel_utilization_percent:.2f}"
    assert rows[2]["run %"] == shown
    assert utilization_rows({"recorded": analyses}, published=False) == rows[2:]
