"""``vdkit results``: every recording in one list, as a user meets it."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vdkit import load_results, read_recording
from vdkit.__main__ import main

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
FOLDER = next(RESULTS.glob("*c942496_aws-float16"))
DISK = next(RESULTS.glob("*aws-disk"))


def put(folder, change=None, name="result.json", source=FOLDER):
    """A recorded result copied into ``folder``, changed on the way."""
    data = json.loads((source / "result.json").read_text())
    if change is not None:
        change(data)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(data))
    return folder / name


def run(capsys, *arguments):
    status = main(["results", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def table(text):
    """The rows of the list as dictionaries, by the columns' places in the header."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.lstrip().startswith("#"))
    return [line.split() for line in lines[start + 2 : lines.index("", start)]]


class TestList:
    def test_oldest_first_with_what_is_the_same_above(self, capsys):
        status, out, _ = run(capsys, f"{RESULTS}/2*")
        assert status == 0
        frame = load_results(f"{RESULTS}/2*")
        # A sweep's cells are folded into one line; variants have one each.
        frame = frame[~frame["file"].str.contains("_chunk")]
        recordings = frame.groupby(["folder", "file"])["arm"].nunique()
        rows = table(out)
        assert len(rows) == recordings.sum()
        numbers = [int(row[0]) for row in rows]
        assert numbers == sorted(numbers) and set(numbers) == set(range(1, len(recordings) + 1))
        assert [f"{row[1]} {row[2]}" for row in rows] == sorted(f"{r[1]} {r[2]}" for r in rows)
        for folder in frame["folder"].unique():
            assert folder in out

    def test_it_fits_a_wide_terminal(self, capsys):
        _, out, _ = run(capsys, f"{RESULTS}/20261120T*", f"{RESULTS}/20261121T0[01]*")
        lines = [line for line in out.splitlines() if line.startswith((" ", "1"))]
        assert max(map(len, lines)) <= 160
        assert "device H200, decoder wan2.1" in out.splitlines()[0]
        assert "without" not in out.split("\n\n")[1]

    def test_columns_appear_where_recordings_differ(self, tmp_path, capsys):
        def other(data):
            data["config"]["pinned_memory"] = False
            data["sink"]["throttle_mb_per_s"] = 50
            data["provenance"]["git_dirty"] = True

        put(tmp_path / "a")
        put(tmp_path / "b", other)
        _, out, _ = run(capsys, tmp_path, "--modes", "async")
        head = out.split("\n\n")[0]
        assert "size 480x832" in head and "sink" not in head and "without" not in head
        first, second = out.split("\n\n")[1].splitlines()[2:]
        assert "c942496 " in first and "c942496*" in second
        assert "raw on tmpfs, held to 50 MB/s" in second and "pinned memory" in second
        assert "* the code was changed from that commit" in out

    def test_runs(self, capsys):
        _, out, _ = run(capsys, DISK, "--runs")
        assert len(table(out)) == sum(len(arm.runs) for arm in read_recording(DISK).arms.values())
        assert "warm-up" in out and "latency s" in out and "mean s" not in out

    def test_modes(self, capsys):
        _, out, _ = run(capsys, DISK, "--modes", "async, sync")
        assert len(table(out)) == 2 and "compute_only" not in out
        status, out, err = run(capsys, DISK, "--modes", "diffusers")
        assert status == 2 and out == ""
        assert (
            "no run of mode diffusers is recorded there; use any of sync, async, compute_only"
            in err
        )

    def test_several_paths_count_once(self, capsys):
        _, out, _ = run(capsys, DISK, DISK / "result.json", FOLDER, f"{RESULTS}/*aws-disk")
        assert len(table(out)) == 3 + 4

    def test_a_folder_with_brackets_is_no_pattern(self, tmp_path, capsys):
        put(tmp_path / "[1]")
        assert run(capsys, tmp_path / "[1]")[0] == 0

    def test_different_frames_are_told(self, tmp_path, capsys):
        def differ(data):
            data.update(frames_identical=False, label="odd")
            data["modes"]["async"]["frame_sha256"] = "0" * 64

        put(tmp_path, differ)
        assert "FRAMES NOT IDENTICAL in 1 (odd)" in run(capsys, tmp_path)[1]
        assert "NOT IDENTICAL" not in run(capsys, FOLDER)[1]

    def test_two_files_of_one_folder_are_two_recordings(self, tmp_path, capsys):
        put(tmp_path)
        put(tmp_path, name="result_slow_storage.json")
        _, out, _ = run(capsys, tmp_path, "--modes", "async")
        assert [row[0] for row in table(out)] == ["1", "2"]
        assert f"2  {tmp_path}/result_slow_storage.json" in out
        assert "  file  " not in out

    def test_many_files_of_one_folder_are_one_line_of_paths(self, tmp_path, capsys):
        put(tmp_path / "0")
        for chunk in range(1, 8):
            put(
                tmp_path / "sweep",
                lambda data, chunk=chunk: data["config"].update(chunk_size=chunk),
                f"result_chunk-{chunk}.json",
            )
        _, out, _ = run(capsys, tmp_path, "--modes", "async")
        assert [row[0] for row in table(out)] == list("12345678")
        assert all(f"  result_chunk-{chunk}.json  " in out for chunk in range(1, 8))
        assert out.strip().splitlines()[-2:] == [
            f"  1  {tmp_path / '0'}",
            f"2-8  {tmp_path / 'sweep'}/FILE",
        ]
        assert main(["show", str(tmp_path / "sweep" / "result_chunk-3.json")]) == 0


class TestMoneyAndEnergy:
    def test_columns_when_asked(self, capsys):
        _, out, _ = run(capsys, FOLDER, "--usd-per-hour", "3.36", "--energy")
        result = read_recording(FOLDER)
        rows = dict(zip(result.arms, table(out), strict=True))
        for mode, row in rows.items():
            assert float(row[-3]) == pytest.approx(result.arms[mode].rtf * 3.36, rel=1e-3)
            assert 200 < float(row[-1]) < 300
        saved = 3360 * (result.arms["sync"].rtf - result.arms["async"].rtf)
        assert rows["sync"][-2] == "-" and rows["async"][-2] == f"{saved:.0f}"
        assert "Price: $3.36" in out and "against sync," in out
        assert "USD" not in run(capsys, FOLDER)[1]

    def test_the_saving_is_there_without_the_baselines_row(self, capsys):
        with_base = run(capsys, FOLDER, "--usd-per-hour", "2")[1]
        alone = run(capsys, FOLDER, "--usd-per-hour", "2", "--modes", "async")[1]
        assert table(alone)[0] == table(with_base)[2]

    def test_a_run_is_priced_against_its_pair(self, capsys):
        out = json.loads(run(capsys, DISK, "--runs", "--json", "--usd-per-hour", "2")[1])
        rows = [row for row in out["rows"] if row["mode"] == "async"]
        assert rows
        for row in rows:
            saved = 2000 * (row["baseline_s"] - row["latency_s"]) / row["video_s"]
            assert row["saving_usd_per_1000_h"] == pytest.approx(saved)

    def test_a_bad_price(self, capsys):
        status, out, err = run(capsys, FOLDER, "--usd-per-hour", "-1")
        assert status == 2 and "the price is -1 USD per hour" in err and out == ""


class TestForPrograms:
    def test_json_is_one_line_and_agrees_with_the_record(self, capsys):
        _, out, _ = run(capsys, FOLDER, "--json", "--usd-per-hour", "3.36", "--energy")
        (line,) = out.splitlines()
        rows = {row["mode"]: row for row in json.loads(line)["rows"]}
        result = read_recording(FOLDER)
        assert rows["sync"]["saving_usd_per_1000_h"] is None
        for mode, row in rows.items():
            assert row["mean_s"] == pytest.approx(result.arms[mode].latency.mean)
            assert row["commit"] == result.provenance.git_commit and row["file"] == "result.json"
            assert row["energy_j_per_video_s"] == pytest.approx(row["energy_j"] / row["video_s"])
        assert "usd_per_hour" not in run(capsys, FOLDER, "--json")[1]

    def test_csv_holds_every_column_of_every_run(self, tmp_path, capsys):
        file = tmp_path / "all.csv"
        status, out, _ = run(capsys, DISK, "--modes", "async", "--csv", file)
        frame, back = load_results(DISK), pd.read_csv(file)
        assert status == 0 and f"All {len(frame)} runs" in out
        assert list(back.columns) == list(frame.columns)
        np.testing.assert_array_equal(back["latency_s"], frame["latency_s"])
        assert list(back["mode"]) == list(frame["mode"])

    def test_csv_is_never_overwritten(self, tmp_path, capsys):
        file = tmp_path / "all.csv"
        file.write_text("mine")
        status, out, err = run(capsys, DISK, "--csv", file)
        assert status == 2 and "is there already; name a new file or remove it" in err
        assert file.read_text() == "mine" and out == ""
        status, _, err = run(capsys, DISK, "--csv", tmp_path / "no" / "all.csv")
        assert status == 2 and "there is no folder" in err

    def test_a_reader_that_stops_reading_is_no_error(self):
        for options in ("", "--runs --json"):
            command = f"{sys.executable} -m vdkit results {options} | head -c 20"
            done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
            assert done.stderr == "" and len(done.stdout) == 20


class TestWhatCannotBeRead:
    @pytest.fixture
    def mixed(self, tmp_path):
        put(tmp_path / "good")
        put(tmp_path / "newer", lambda data: data.update(schema_version=99))
        (tmp_path / "cut").mkdir()
        whole = (FOLDER / "result.json").read_text()
        (tmp_path / "cut" / "result.json").write_text(whole[:5000])
        return tmp_path

    def test_it_is_named_a_line_each_and_the_rest_is_listed(self, mixed, capsys):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            status, out, err = run(capsys, mixed)
        assert status == 0 and len(table(out)) == 4
        cut, newer = err.splitlines()
        assert cut.startswith("vdkit: warning: left out: ") and "cut/result.json" in cut
        assert newer.startswith("vdkit: warning: left out: ") and "schema version 99" in newer

    @pytest.mark.parametrize(
        "command", ["results", "show", "report", "recommend", "compare", "show --format csv"]
    )
    def test_one_that_is_asked_for_by_name_is_refused(self, mixed, capsys, command):
        (mixed / "deep").mkdir()
        (mixed / "deep" / "result.json").write_text("[" * 100_000)
        name, *options = command.split()
        if name == "report":
            options += ["--out", str(mixed / "report.html")]
        for folder in ("newer", "cut", "deep"):
            file = str(mixed / folder / "result.json")
            others = [str(mixed / "good")] if name == "compare" else []
            assert main([name, *others, file, *options]) == 2
            said = capsys.readouterr()
            assert file in said.err and said.out == "" and not (mixed / "report.html").exists()

    def test_nothing_but_that(self, mixed, capsys):
        status, out, err = run(capsys, mixed / "cut")
        assert status == 2 and out == ""
        assert "that can be read (1 left out); give the folder" in err.splitlines()[-1]

    @pytest.mark.parametrize(
        ("where", "message"),
        [
            ("", "no recording at"),
            ("no", "no results at"),
            ("*.nothing", "no recording at"),
        ],
    )
    def test_nothing_there(self, tmp_path, capsys, where, message):
        status, out, err = run(capsys, tmp_path / where)
        assert status == 2 and message in err and out == "" and "Traceback" not in err

    def test_the_default_is_results(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        status, _, err = run(capsys)
        assert status == 2 and "no results at 'results'" in err
        shutil.copytree(DISK, tmp_path / "results" / "one")
        status, out, _ = run(capsys)
        assert status == 0 and "results/one" in out

    def test_other_programs_records_are_not_listed(self, capsys):
        (folder,) = RESULTS.glob("*analyze-vs-hta")
        status, _, err = run(capsys, folder)
        assert status == 2 and "no recording at" in err and "left out" not in err


def test_the_cells_of_a_sweep_take_one_line_unless_asked_for(capsys):
    folder = next(RESULTS.glob("*_sweep-cpu"))
    benchmark = next(RESULTS.glob("*c942496_aws-float16"))
    for given, cells in (
        ([str(folder.parent / "*sweep-cpu"), str(benchmark)], 0),
        ([str(folder)], 48),
        ([str(folder.parent / "*sweep-cpu"), "--cells"], 48),
    ):
        assert main(["results", *given]) == 0
        out = capsys.readouterr().out
        assert out.count("sweep-cpu: ") == cells
        assert ("48 cells measured. 42 cells predicted from 6" in out) == (cells == 0)
