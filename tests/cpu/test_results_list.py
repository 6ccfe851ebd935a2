"""The list of recordings: every kind, a row per arm or run, and a ratio's range over sessions."""

import math
from pathlib import Path

import pytest

from vdkit.present.columns import COST, SAVING, Asked
from vdkit.present.results_list import results_table, results_text, session_range
from vdkit.record.results import read_recording, recorded_file

RESULTS = Path(__file__).parents[2] / "results"


def listed(*endings):
    files = [recorded_file(min(RESULTS.glob(f"*{ending}"))) for ending in endings]
    return [(file, read_recording(file)) for file in files]


@pytest.fixture(scope="module")
def bench():
    return listed("c942496_aws-float16")


def test_a_row_per_arm_says_what_the_record_says(bench):
    ((_, recording),) = bench
    table = results_table(bench, Asked(3.36))
    arms = list(recording.arms.values())
    assert [row["mode"] for row in table.rows] == [arm.mode for arm in arms]
    for row, arm in zip(table.rows, arms, strict=True):
        assert row["mean s"].value == arm.latency.mean and row["n"].value == arm.latency.n
        assert row["max s"].value == arm.latency.max and row["RTF"].value == pytest.approx(arm.rtf)
        assert row["P99 s†"].value == pytest.approx(arm.latency.p99)
        assert (row["TTFF s"] is None) == (arm.ttff is None)
        assert row[COST].value == pytest.approx(3.36 * arm.rtf)
    saved = 3360 * (recording.arms["sync"].rtf - recording.arms["async"].rtf)
    savings = [row[SAVING] for row in table.rows]
    assert savings[1] is None and savings[2].value == pytest.approx(saved) and savings[0].value < 0
    assert "device H200" in table.caption and "against sync," in table.note
    assert "device" not in table.columns and "Price" not in results_table(bench).caption
    with pytest.raises(ValueError, match="the price is nan"):
        results_table(bench, Asked(math.nan))


def test_a_row_per_run_is_priced_against_its_pair(bench):
    ((_, recording),) = bench
    table = results_table(bench, Asked(2.0), runs=True, modes=["async"])
    arm, base = recording.arms["async"], recording.base
    assert len(table.rows) == len(arm.runs)
    assert [str(row["round"]) for row in table.rows][:2] == ["warm-up", "0"]
    for row, run in zip(table.rows[1:], arm.timed, strict=True):
        (pair,) = [one for one in base.timed if one.round == run.round]
        saved = 2000 * (pair.latency_s - run.latency_s) / arm.workload.seconds
        assert row["latency s"].value == run.latency_s
        assert row[SAVING].value == pytest.approx(saved)
    assert "against sync in the same round" in table.note


def test_the_saving_is_there_without_the_baselines_row(bench):
    alone = results_table(bench, Asked(2.0), modes=["async"]).rows
    assert alone[0][SAVING] == results_table(bench, Asked(2.0)).rows[2][SAVING]
    with pytest.raises(ValueError, match="no run of mode fast is recorded there; use any of diff"):
        results_table(bench, modes=["fast"])


def test_every_kind_is_listed():
    found = listed("aws-disk", "aws-profile", "90fbdee_variants-480p-float16", "aa-cpu")
    rows = results_table(found).rows
    assert len(rows) == sum(len(recording.arms) for _, recording in found)
    assert list(dict.fromkeys(row["kind"] for row in rows)) == [
        "bench",
        "profile",
        "variants",
        "aa",
    ]
    variants = [row["variant"] for row in rows if row["kind"] == "variants"]
    assert list(dict.fromkeys(variants)) == list(found[2][1].benchmarks)
    assert [row["arm"] for row in rows if row["kind"] == "aa"] == ["a", "b", "slow"]
    assert rows[0]["arm"] is None or rows[0]["arm"] == "-"
    text = results_text(found)
    assert "FRAMES NOT IDENTICAL in 3 (variants-480p-float16)" in text
    assert [line.split()[0] for line in text.splitlines()[-4:]] == ["1", "2", "3", "4"]
    assert text.splitlines()[-4].endswith("_aws-disk")


def test_a_variant_saves_against_its_own_baseline():
    found = listed("90fbdee_variants-480p-float16")
    rows = results_table(found, Asked(2.0)).rows
    fast = found[0][1].benchmarks["fast"]
    (row,) = [row for row in rows if (row["variant"], row["mode"]) == ("fast", "async")]
    saved = fast.base.latency.mean - fast.arms["async"].latency.mean
    assert row[SAVING].value == pytest.approx(2000 * saved / fast.workload.seconds)


def test_many_files_of_one_folder_are_one_line(bench):
    ((file, recording),) = bench
    cells = [(Path("sweep") / f"result_{n}.json", recording) for n in range(6)]
    text = results_text([(file, recording), *cells], modes=["async"])
    assert text.splitlines()[-2:] == [f"  1  {file.parent}", "2-7  sweep/FILE"]
    assert "result_5.json" in text
    two = results_text(cells[:2], modes=["async"])
    assert two.splitlines()[-1] == "2  sweep/result_1.json" and "  file  " not in two


def test_a_ratio_has_a_range_over_sessions(bench):
    found = listed("c942496_aws-float16", "aws-profile", "90fbdee_variants-480p-float16",
                   "aws-720x1280", "aws-chunk-2", "length-81-frames", "aa-cpu")  # fmt: skip
    recordings = [recording for _, recording in found]
    main, profile, variants = recordings[:3]
    ratios = [
        main.ratio("sync", "async").value,
        profile.ratio("sync", "async").value,
        variants.benchmarks["diffusers"].ratio("sync", "async").value,
    ]
    one = session_range(recordings)
    assert (one.low, one.high, one.n) == (min(ratios), max(ratios), 3)
    assert str(one) == f"{min(ratios):.2f} to {max(ratios):.2f} over 3 sessions"
    fast = variants.benchmarks["fast"]
    assert session_range(recordings, like=fast).low == fast.ratio("sync", "async").value
    assert session_range(recordings[-1:]) is None
    assert f"chunk 1, NVIDIA H200, raw: {one}" in results_table(found).note
    assert "session" not in results_table(bench).note
