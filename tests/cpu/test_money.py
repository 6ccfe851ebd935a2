"""Money and energy: by hand, against the published example, and in every table that shows them."""

import json
import math
import re
from pathlib import Path

import pytest
from vdkit.cli.money import without_price
from vdkit.present.money_cells import (
    COST,
    ENERGY,
    SAVING,
    four_digits,
    money_cells,
    money_legend,
    price_line,
    published_lines,
    published_rows,
)
from vdkit.present.profile_report import profile_text
from vdkit.present.profile_tables import mode_rows
from vdkit.present.tables import benchmark_rows, markdown_report, text_report

from vdkit import (
    energy_j_per_video_s,
    read_profile,
    read_result,
    run_energy_j,
    saving_usd,
    usd_per_video_hour,
)
from vdkit.__main__ import main
from vdkit.record.money import check_price, mean_energy_j, published_costs

RESULTS = Path(__file__).parents[2] / "results"
FOLDER = next(RESULTS.glob("*c942496_aws-float16"))
PROFILE = next(RESULTS.glob("*aws-profile"))
QUICK = ["--device", "cpu", "--latents", "random:9x16x16", "--sink", "null", "--runs"]


@pytest.fixture(scope="module")
def result():
    return read_result(FOLDER)


def with_energy(run, before_j, after_j, latency_s=None):
    return run.model_copy(
        update={
            "gpu_before": run.gpu_before.model_copy(update={"energy_j": before_j}),
            "gpu_after": run.gpu_after.model_copy(update={"energy_j": after_j}),
            "latency_s": run.latency_s if latency_s is None else latency_s,
        }
    )


def with_runs(result, change):
    return result.model_copy(update={"runs": tuple(change(run) for run in result.runs)})


def on_cpu(result):
    where = result.provenance.model_copy(update={"device": "cpu", "cuda": None})
    bare = with_runs(
        result, lambda run: run.model_copy(update={"gpu_before": None, "gpu_after": None})
    )
    return bare.model_copy(update={"provenance": where})


class TestByHand:
    def test_half_real_time_at_two_dollars_is_one_dollar_an_hour(self):
        assert usd_per_video_hour(0.5, 2.0) == 1.0

    def test_saving_is_the_difference_of_two_costs(self):
        # 10 s of video in 8 s or in 5 s: RTF 0.8 and 0.5; 0.3 x $2 x 1000 h
        assert saving_usd(8, 5, 10, 2) == pytest.approx(600)
        assert saving_usd(5, 8, 10, 2) == pytest.approx(-600)
        assert saving_usd(8, 5, 10, 2, video_hours=1) == pytest.approx(0.6)
        apart = usd_per_video_hour(0.8, 2) - usd_per_video_hour(0.5, 2)
        assert saving_usd(8, 5, 10, 2) == pytest.approx(1000 * apart)

    @pytest.mark.parametrize("bad", [0, -1.5, math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_and_above_zero_is_named(self, bad):
        shown = re.escape(f"is {bad:g}")
        calls = [
            ("the price", lambda: check_price(bad)),
            ("the price", lambda: usd_per_video_hour(1, bad)),
            ("rtf", lambda: usd_per_video_hour(bad, 1)),
            ("latency_a_s", lambda: saving_usd(bad, 1, 1, 1)),
            ("latency_b_s", lambda: saving_usd(1, bad, 1, 1)),
            ("video_s", lambda: saving_usd(1, 1, bad, 1)),
            ("the price", lambda: saving_usd(1, 1, 1, bad)),
            ("video_hours", lambda: saving_usd(1, 1, 1, 1, bad)),
            ("seconds", lambda: energy_j_per_video_s([], bad)),
        ]
        for name, call in calls:
            with pytest.raises(ValueError, match=f"{name} {shown}.*must be finite and above 0"):
                call()


class TestPublishedExample:
    def test_164_frames_at_24_fps_give_the_published_saving_within_rounding(self):
        one, _ = published_costs()
        assert (one.frames, one.fps) == (164, 24)
        assert (round(one.sync_rtf, 3), round(one.async_rtf, 3)) == (3.218, 2.952)
        assert round(one.saving_usd) == 895 and one.explained
        assert 0 < one.off_usd < 2
        # both latencies move by 5 ms the other way: 0.01 s x 24 / 164 x $3.36 x 1000
        assert one.rounding_usd == pytest.approx(0.01 * 24 / 164 * 3360)

    def test_161_frames_at_16_fps_do_not(self):
        _, one = published_costs()
        assert (one.frames, one.fps) == (161, 16)
        assert (round(one.sync_rtf, 3), round(one.async_rtf, 3)) == (2.185, 2.004)
        assert round(one.saving_usd) == 608 and not one.explained
        assert one.sync_usd_per_video_hour == pytest.approx(2.18534 * 3.36, abs=1e-4)

    def test_the_table_says_how_far_off(self):
        rows = published_rows()
        assert [row[SAVING] for row in rows] == ["895 ± 5", "608 ± 3"]
        below = published_lines()[1]
        assert "$1.1 more than 164 frames at 24 fps" in below and "cannot give it" in below


class TestEnergy:
    def test_joules_are_the_difference_of_the_counters(self, result):
        run = with_energy(result.runs[0], 1000.5, 1250.75)
        assert run_energy_j(run) == pytest.approx(250.25)

    def test_no_answer_is_none(self, result):
        run = result.runs[0]
        assert run_energy_j(with_energy(run, None, 5.0)) is None
        assert run_energy_j(with_energy(run, 5.0, None)) is None
        assert run_energy_j(with_energy(run, 5.0, 4.0)) is None, "the counter started again"
        assert run_energy_j(run.model_copy(update={"gpu_before": None, "gpu_after": None})) is None

    def test_per_video_second_is_the_mean_run_over_the_playing_time(self, result):
        runs = [with_energy(result.runs[0], 0, joules) for joules in (100, 300)]
        assert energy_j_per_video_s(runs, 10) == pytest.approx(20)

    def test_one_run_without_a_reading_leaves_the_mean_unknown(self, result):
        runs = [with_energy(result.runs[0], 0, joules) for joules in (100, None)]
        assert energy_j_per_video_s(runs, 10) is None and mean_energy_j([]) is None

    def test_recorded_joules_are_recorded_watts(self, result):
        """Energy over latency is a power that lies between idle and the H200's 700 W."""
        for mode in result.arms:
            for run in result.arms[mode].timed:
                assert 100 < run_energy_j(run) / run.latency_s < 750


class TestCells:
    def test_nothing_unless_asked(self):
        assert money_cells(1, 2, 10, 50.0) == {}
        assert price_line(None) == money_legend([("cpu", None, 1.0)]) == ""

    def test_all_of_them(self):
        cells = money_cells(5, 8, 10, 50.0, usd_per_hour=2, energy=True)
        assert cells == {COST: "1.000", SAVING: "600", ENERGY: "5.0"}

    def test_the_baseline_saves_nothing_and_a_slower_mode_less(self):
        assert money_cells(8, None, 10, None, 2)[SAVING] == "-"
        assert money_cells(8, 5, 10, None, 2)[SAVING] == "-600"
        assert money_cells(1.0, 1.0 - 1e-9, 10, None, 2)[SAVING] == "0.00"
        assert money_cells(8, None, 10, None, energy=True) == {ENERGY: "-"}

    @pytest.mark.parametrize(
        ("value", "shown"), [(0.012345, "0.01235"), (1.39742, "1.397"), (12345.6, "12346")]
    )
    def test_four_digits(self, value, shown):
        assert four_digits(value) == shown

    def test_short_runs_and_missing_counters_are_said(self):
        short = money_legend([("H200", 5.0, 0.4)], energy=True)
        assert "imprecise for runs below 1 s" in short and "no energy" not in short
        assert "imprecise" not in money_legend([("H200", 5.0, 1.4)], energy=True)
        assert money_legend([("cpu", None, 0.1)], energy=True) == (
            "no energy: runs on a CPU have no NVML counter"
        )
        both = money_legend([("cpu", None, 1.0), ("T4", None, 1.0)], energy=True)
        assert "on T4" in both and "runs on a CPU" in both


class TestTables:
    def test_a_benchmark_shows_them_when_asked(self, result):
        plain, rows = benchmark_rows(result), benchmark_rows(result, 3.36, energy=True)
        for before, row, (name, mode) in zip(plain, rows, result.arms.items(), strict=True):
            assert list(row)[: len(before)] == list(before)
            assert float(row[COST]) == pytest.approx(mode.rtf * 3.36, rel=1e-3)
            expected = energy_j_per_video_s(result.arms[name].timed, result.workload.seconds)
            assert row[ENERGY] == f"{expected:.1f}"
        saved = 3360 * (result.arms["sync"].rtf - result.arms["async"].rtf)
        by_mode = dict(zip(result.arms, rows, strict=True))
        assert by_mode["sync"][SAVING] == "-" and by_mode["async"][SAVING] == f"{saved:.0f}"
        assert float(by_mode["diffusers"][SAVING]) < 0
        report = markdown_report(result, usd_per_hour=3.36, energy=True)
        assert "Price: $3.36 per hour of the machine (an input" in report
        assert "Price" not in text_report(result) and "energy" not in text_report(result)

    def test_a_benchmark_on_a_cpu_says_why_there_is_no_energy(self, result):
        bare = on_cpu(result)
        assert {row[ENERGY] for row in benchmark_rows(bare, energy=True)} == {"-"}
        assert "runs on a CPU have no NVML counter" in text_report(bare, energy=True)
        assert COST not in text_report(bare, energy=True)

    def test_a_profile_shows_them_when_asked(self):
        profile = read_profile(PROFILE)
        rows = dict(zip(profile.modes, mode_rows(profile, 3.36), strict=True))
        timed = {m: [run.latency_s for run in one.timed] for m, one in profile.modes.items()}
        mean = {mode: sum(values) / len(values) for mode, values in timed.items()}
        for mode, row in rows.items():
            cost = mean[mode] / profile.workload.seconds * 3.36
            assert float(row[COST]) == pytest.approx(cost, rel=1e-3)
        saved = saving_usd(mean["sync"], mean["async"], profile.workload.seconds, 3.36)
        assert rows["async"][SAVING] == f"{saved:.0f}" and rows["sync"][SAVING] == "-"
        assert COST not in mode_rows(profile)[0] and ENERGY in mode_rows(profile)[0]
        text = profile_text(profile, usd_per_hour=3.36)
        assert "Price: $3.36" in text and "Price" not in profile_text(profile)

    def test_a_profile_without_readings_says_so_only_when_asked(self):
        profile = read_profile(PROFILE)
        bare = profile.model_copy(
            update={
                "provenance": profile.provenance.model_copy(update={"device": "cpu"}),
                "modes": {
                    mode: one.model_copy(update={"energy_j": ()})
                    for mode, one in profile.modes.items()
                },
            }
        )
        assert ENERGY not in mode_rows(bare)[0]
        assert {row[ENERGY] for row in mode_rows(bare, energy=True)} == {"-"}
        assert "runs on a CPU have no NVML counter" in profile_text(bare, energy=True)
        assert "no energy" not in profile_text(bare)


class TestCommands:
    def test_bench_shows_the_price_and_does_not_record_it(self, tmp_path, capsys):
        out = ["--out", str(tmp_path), "--usd-per-hour", "3.375", "--energy"]
        assert main(["bench", *QUICK, "2", "--warmup", "0", "--modes", "sync,async", *out]) == 0
        printed = capsys.readouterr().out
        (folder,) = tmp_path.iterdir()
        for text in (printed, (folder / "table.md").read_text()):
            assert "Price: $3.375 per hour" in text and COST in text and SAVING in text
            assert "no energy: runs on a CPU" in text
        raw = (folder / "result.json").read_text()
        assert "3.375" not in raw and "usd" not in raw and "--energy" in json.loads(raw)["command"]
        assert main(["show", str(folder), "--usd-per-hour", "2"]) == 0
        assert "Price: $2.00 per hour" in capsys.readouterr().out

    def test_show_of_a_profile(self, capsys):
        assert main(["show", str(PROFILE), "--usd-per-hour", "3.36", "--energy"]) == 0
        printed = capsys.readouterr().out
        assert COST in printed and "J / video s: difference of NVML's" in printed

    @pytest.mark.parametrize("price", ["0", "-2", "nan", "inf"])
    @pytest.mark.parametrize(
        "command",
        [["bench", *QUICK, "1"], ["profile", *QUICK, "1"], ["show", str(FOLDER)]],
        ids=["bench", "profile", "show"],
    )
    def test_a_price_that_is_none_is_refused_before_anything_is_loaded(
        self, command, price, capsys, monkeypatch
    ):
        monkeypatch.setattr("vdkit.cli.bench.load", None)
        monkeypatch.setattr("vdkit.cli.profile.load", None)
        assert main([*command, "--usd-per-hour", price]) == 2
        captured = capsys.readouterr()
        assert f"the price is {price} USD per hour" in captured.err and captured.out == ""

    @pytest.mark.parametrize("form", ["--usd-per-hour 3", "--usd-per-hour=3", "--usd 3", "--u=3"])
    def test_the_price_is_left_out_of_the_recorded_command(self, form):
        assert without_price(["bench", *form.split(), "--runs", "3"]) == ["bench", "--runs", "3"]
        assert without_price(["bench", "--runs", "3", *form.split()]) == ["bench", "--runs", "3"]
