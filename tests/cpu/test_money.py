"""Money and energy: by hand, against the published example, and in every table that shows them."""

import json
import math
import re
from pathlib import Path

import pytest

from vdkit import document_of, read_recording
from vdkit.__main__ import main
from vdkit.cli import command_line
from vdkit.present.columns import COST, ENERGY, SAVING, Asked, Row, cells, legend
from vdkit.present.documents import benchmark_table
from vdkit.present.instruments import paths_table
from vdkit.record.recording import (
    saving_usd,
    usd_per_video_hour,
)

RESULTS = Path(__file__).parents[2] / "results"
FOLDER = next(RESULTS.glob("*c942496_aws-float16"))
PROFILE = next(RESULTS.glob("*2ad74eb_aws-profile"))
QUICK = ["--device", "cpu", "--latents", "random:9x16x16", "--sink", "null", "--runs"]


@pytest.fixture(scope="module")
def result():
    return read_recording(FOLDER)


@pytest.fixture
def run(result):
    return result.base.timed[0]


def with_energy(run, before_j, after_j, latency_s=None):
    return run.model_copy(
        update={
            "gpu_before": run.gpu_before.model_copy(update={"energy_j": before_j}),
            "gpu_after": run.gpu_after.model_copy(update={"energy_j": after_j}),
            "latency_s": run.latency_s if latency_s is None else latency_s,
        }
    )


def with_runs(result, change):
    arms = {
        name: arm.model_copy(update={"runs": tuple(map(change, arm.runs))})
        for name, arm in result.arms.items()
    }
    return result.model_copy(update={"arms": arms})


def on_cpu(result):
    where = result.provenance.model_copy(update={"device": "cpu", "cuda": None})
    bare = with_runs(
        result, lambda run: run.model_copy(update={"gpu_before": None, "gpu_after": None})
    )
    return bare.model_copy(update={"provenance": where})


def arm_of(result, latency_s, joules=None, video_s=10):
    """A row of one run that took so long and so much, of so much video."""
    arm = result.base
    run = with_energy(arm.timed[0], 0.0, joules, latency_s)
    load = arm.workload.model_copy(update={"fps": arm.workload.frames / video_s})
    return arm.model_copy(update={"runs": (run,), "workload": load})


class TestByHand:
    def test_half_real_time_at_two_dollars_is_one_dollar_an_hour(self):
        assert usd_per_video_hour(0.5, 2.0) == 1.0

    def test_saving_is_the_difference_of_two_costs(self):
        # RTF 0.8 and 0.5: 0.3 x $2 x 1000 h
        assert saving_usd(0.8, 0.5, 2) == pytest.approx(600)
        assert saving_usd(0.5, 0.8, 2) == pytest.approx(-600)

    @pytest.mark.parametrize("bad", [0, -1.5, math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_and_above_zero_is_named(self, bad):
        shown = re.escape(f"is {bad:g}")
        calls = [
            ("the price", lambda: Asked(bad)),
            ("the price", lambda: usd_per_video_hour(1, bad)),
            ("rtf", lambda: usd_per_video_hour(bad, 1)),
            ("rtf", lambda: saving_usd(bad, 1, 1)),
            ("rtf", lambda: saving_usd(1, bad, 1)),
            ("the price", lambda: saving_usd(1, 1, bad)),
        ]
        for name, call in calls:
            with pytest.raises(ValueError, match=f"{name} {shown}.*must be finite and above 0"):
                call()


class TestEnergy:
    def mean_of(self, result, *joules):
        runs = tuple(with_energy(result.base.timed[0], 0, one) for one in joules)
        return result.base.model_copy(update={"runs": runs}).energy_j

    def test_joules_are_the_difference_of_the_counters(self, run):
        assert with_energy(run, 1000.5, 1250.75).energy_j == pytest.approx(250.25)

    def test_no_answer_is_none(self, run):
        assert with_energy(run, None, 5.0).energy_j is None
        assert with_energy(run, 5.0, None).energy_j is None
        assert with_energy(run, 5.0, 4.0).energy_j is None, "the counter started again"
        assert run.model_copy(update={"gpu_before": None, "gpu_after": None}).energy_j is None

    def test_the_mean_is_that_of_all_runs(self, result):
        assert self.mean_of(result, 100, 300) == 200

    def test_one_run_without_a_reading_leaves_the_mean_unknown(self, result):
        assert self.mean_of(result, 100, None) is None

    def test_recorded_joules_are_recorded_watts(self, result):
        """Energy over latency is a power that lies between idle and the H200's 700 W."""
        for mode in result.arms:
            for run in result.arms[mode].timed:
                assert 100 < run.energy_j / run.latency_s < 750


class TestCells:
    """The columns of money and energy, for the arm of a table."""

    def cells_of(self, row, *asked, **more):
        return cells("money", [row], asked=Asked(*asked, **more))[0]

    def test_nothing_unless_asked(self, result):
        row = Row({}, arm_of(result, 5, 50.0), arm_of(result, 8))
        assert self.cells_of(row) == {} and Asked().line == ""
        assert "USD" not in legend("money", [row]) and "energy" not in legend("money", [row])

    def test_all_of_them(self, result):
        row = Row({}, arm_of(result, 5, 50.0), arm_of(result, 8))
        found = self.cells_of(row, 2.0, energy=True)
        assert {name: str(cell) for name, cell in found.items()} == {
            COST: "1.000", SAVING: "600", ENERGY: "5.0",
        }  # fmt: skip

    def test_the_baseline_saves_nothing_and_a_slower_mode_less(self, result):
        alone = Row({}, arm_of(result, 8))
        assert self.cells_of(alone, 2.0)[SAVING] is None
        slower = Row({}, arm_of(result, 8), arm_of(result, 5))
        assert str(self.cells_of(slower, 2.0)[SAVING]) == "-600"
        same = Row({}, arm_of(result, 1.0), arm_of(result, 1.0 - 1e-9))
        assert str(self.cells_of(same, 2.0)[SAVING]) == "0.00"
        assert self.cells_of(alone, energy=True) == {ENERGY: None}

    def test_savings_can_be_against_another_than_the_ratio(self, result):
        row = Row({}, arm_of(result, 5), arm_of(result, 9), arm_of(result, 8))
        assert str(self.cells_of(row, 2.0)[SAVING]) == "600"

    @pytest.mark.parametrize(
        ("value", "shown"), [(0.012345, "0.01235"), (1.39742, "1.397"), (12345.6, "12346")]
    )
    def test_four_digits(self, result, value, shown):
        row = Row({}, arm_of(result, value * 10))
        assert str(self.cells_of(row, 1.0)[COST]) == shown

    def test_short_runs_and_missing_counters_are_said(self, result):
        def said(*rows):
            return legend("money", rows, asked=Asked(energy=True))

        short = said(Row({}, arm_of(result, 0.4, 5.0), device="H200"))
        assert "imprecise for runs below 1 s" in short and "No energy" not in short
        assert "imprecise" not in said(Row({}, arm_of(result, 1.4, 5.0), device="H200"))
        cpu = Row({}, arm_of(result, 0.1), device="cpu")
        assert said(cpu).startswith("No energy: runs on a CPU have no NVML counter.")
        both = said(cpu, Row({}, arm_of(result, 1.0), device="T4"))
        assert "on T4" in both and "runs on a CPU" in both


class TestTables:
    def test_a_benchmark_shows_them_when_asked(self, result):
        plain, rows = (benchmark_table(result, a).rows for a in (Asked(), Asked(3.36, True)))
        for before, row, arm in zip(plain, rows, result.arms.values(), strict=True):
            assert list(row)[: len(before)] == list(before)
            assert row[COST].value == pytest.approx(arm.rtf * 3.36)
            expected = arm.energy_j / result.workload.seconds
            assert row[ENERGY].value == pytest.approx(expected)
            assert str(row[ENERGY]) == f"{expected:.1f}"
        saved = 3360 * (result.arms["sync"].rtf - result.arms["async"].rtf)
        by_mode = dict(zip(result.arms, rows, strict=True))
        assert by_mode["sync"][SAVING] is None and str(by_mode["async"][SAVING]) == f"{saved:.0f}"
        assert by_mode["diffusers"][SAVING].value < 0
        report = document_of(result, Asked(3.36, True)).markdown()
        assert "Price: $3.36 per hour of the machine (an input" in report
        bare = document_of(result).text()
        assert "Price" not in bare and "energy" not in bare

    def test_a_benchmark_on_a_cpu_says_why_there_is_no_energy(self, result):
        bare = on_cpu(result)
        table = benchmark_table(bare, Asked(energy=True))
        assert {row[ENERGY] for row in table.rows} == {None}
        assert "runs on a CPU have no NVML counter" in table.note
        assert COST not in table.columns

    def test_a_profile_shows_them_when_asked(self):
        profile = read_recording(PROFILE)
        rows = dict(zip(profile.arms, paths_table(profile, Asked(3.36)).rows, strict=True))
        mean = {mode: arm.latency.mean for mode, arm in profile.arms.items()}
        for mode, row in rows.items():
            cost = mean[mode] / profile.workload.seconds * 3.36
            assert row[COST].value == pytest.approx(cost)
        rtf = {mode: arm.rtf for mode, arm in profile.arms.items()}
        saved = saving_usd(rtf["sync"], rtf["async"], 3.36)
        assert str(rows["async"][SAVING]) == f"{saved:.0f}" and rows["sync"][SAVING] is None
        plain = paths_table(profile)
        assert COST not in plain.columns and ENERGY in plain.columns
        assert "Price: $3.36" in document_of(profile, Asked(3.36)).text()
        assert "Price" not in document_of(profile).text()

    def test_a_profile_without_readings_says_so_only_when_asked(self):
        profile = read_recording(PROFILE)
        arms = {
            mode: arm.model_copy(
                update={"profile": arm.profile.model_copy(update={"energy_j": ()})}
            )
            for mode, arm in on_cpu(profile).arms.items()
        }
        bare = on_cpu(profile).model_copy(update={"arms": arms})
        assert ENERGY not in paths_table(bare).columns
        asked = Asked(energy=True)
        assert {row[ENERGY] for row in paths_table(bare, asked).rows} == {None}
        assert "runs on a CPU have no NVML counter" in document_of(bare, asked).text()
        assert "No energy" not in document_of(bare).text()


class TestCommands:
    def test_bench_shows_the_price_and_does_not_record_it(self, tmp_path, capsys):
        out = ["--out", str(tmp_path), "--usd-per-hour", "3.375", "--energy"]
        assert main(["bench", *QUICK, "2", "--warmup", "0", "--modes", "sync,async", *out]) == 0
        printed = capsys.readouterr().out
        (folder,) = tmp_path.iterdir()
        for text in (printed, (folder / "table.md").read_text()):
            assert "Price: $3.375 per hour" in text and COST in text and SAVING in text
            assert "No energy: runs on a CPU" in text
        raw = (folder / "recording.json").read_text()
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
        monkeypatch.setattr("vdkit.cli.load", None)
        assert main([*command, "--usd-per-hour", price]) == 2
        captured = capsys.readouterr()
        assert f"the price is {price} USD per hour" in captured.err and captured.out == ""

    @pytest.mark.parametrize("form", ["--usd-per-hour 3", "--usd-per-hour=3", "--usd 3", "--u=3"])
    def test_the_price_is_left_out_of_the_recorded_command(self, form):
        price = form.split()
        for given in (["bench", *price, "--runs", "3"], ["bench", "--runs", "3", *price]):
            assert command_line(given) == "vdkit bench --runs 3"
