"""`vdkit reproduce`, whole on a tiny clip: interrupted, copied, failing; `vdkit check` of it."""

import io
import json
import os
import re
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from statistics import fmean

import pytest

from tools.readme import Recorded, by_gpu
from vdkit import cli
from vdkit.__main__ import main
from vdkit.cli import checked, reproduce
from vdkit.present.columns import COST, Asked
from vdkit.present.reproduction import (
    ON_CPU,
    PLAN,
    figures_table,
    machine_lines,
    read_reproduction,
    reproduction_document,
)
from vdkit.present.results_list import PUBLISHED
from vdkit.record import SUMS
from vdkit.record.results import read_recording

RESULTS = Path(__file__).parents[2] / "results"
NAMES = ["doctor", "bench", "profile", "sweep", "variants", "mp4"]
FINDING = {"group": "system", "name": "OS", "state": "note", "value": "a", "remedy": "b"}


def run(*arguments):
    """Exit status, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(list(map(str, arguments)))
    return status, out.getvalue(), err.getvalue()


def doctor(options):
    print(json.dumps({"wrong": 1, "findings": [FINDING]}))
    return 1


def failing(error):
    def fail(options):
        (options.out / "half").mkdir()
        raise error

    return fail


def replaced(patch, name, function):
    """A command that does something else."""
    cli.build_parser()  # knows them all
    patch.setitem(cli.COMMANDS, name, (function, *cli.COMMANDS[name][1:]))


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Interrupted in its third stage, copied, gone on with while one fails, then finished."""
    first, copy = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there") / "a copy"
    told = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(reproduce, "stages_of", partial(reproduce.stages_of, clip="clips:33x16x16"))
        replaced(patch, "doctor", doctor)
        with pytest.MonkeyPatch.context() as stopped:
            replaced(stopped, "profile", failing(KeyboardInterrupt()))
            told["interrupted"] = run("reproduce", "--out", first)
        (folder,) = first.iterdir()
        told["left"] = sorted(one.name for one in folder.iterdir())
        bench = (folder / "bench" / "recording.json").read_bytes()
        shutil.move(folder, copy)
        with pytest.MonkeyPatch.context() as stopped:
            replaced(stopped, "sweep", failing(ValueError("no such thing")))
            told["failed"] = run("reproduce", "--resume", copy)
        told["table"] = (copy / "table.md").read_text()
        told["bench"] = bench == (copy / "bench" / "recording.json").read_bytes()
        told["finished"] = run("reproduce", "--resume", copy, "--json")
        for name in ("bench", "profile", "sweep", "decode", "doctor"):
            replaced(patch, name, failing(AssertionError("was run again")))
        told["again"] = run("reproduce", "--resume", copy, "--usd-per-hour", "3.36")
    return {"folder": copy, "first": folder, **told}


def test_an_interrupted_one_leaves_nothing_half_and_says_how_to_go_on(story):
    status, out, err = story["interrupted"]
    assert status == 130 and story["left"] == ["bench", "doctor", PLAN]
    command = f"vdkit reproduce --resume {shlex.quote(str(story['first']))}"
    assert f"finished stages are kept, go on with: {command}" in err
    assert ON_CPU in out and re.search(r"6 of 6 stages to run, about \d", out)
    assert re.findall(r"^(\w+) +begins, about", out, re.MULTILINE) == NAMES[:3]


def test_check_says_that_one_is_not_finished(copy):
    shutil.rmtree(copy / "sweep")
    found = checked.check_folder(copy)
    assert not found.wrong and found.notes == [
        f"5 of 6 stages are made; go on: vdkit reproduce --resume {copy}"
    ]


def test_a_copy_goes_on_and_what_is_finished_is_not_run_again(story):
    assert story["bench"] and story["failed"][1].count("begins, about") == 4
    assert story["again"][0] == 0 and "0 of 6 stages to run" in story["again"][1]
    for path in story["folder"].rglob("*"):
        if path.suffix in (".json", ".md", ".html", ".csv") or path.name == SUMS:
            text = path.read_text()
            assert not any(str(place) in text for place in (story["first"].parent, story["folder"]))


def test_a_failed_stage_is_told_and_the_others_go_on(story):
    status, _, err = story["failed"]
    assert status == 1 and "sweep: no such thing" in err and "--resume" in err
    assert "Not recorded yet: sweep" in story["table"] and "sweep: no such thing" in story["table"]
    assert "## mp4" in story["table"]
    assert not list(story["folder"].glob(".*"))


def test_a_finished_one_is_whole(story):
    status, out, _ = story["finished"]
    assert status == 0 and len(out.splitlines()) == 1
    answer = json.loads(out)
    assert answer["failed"] == {} and len(answer["figures"]) == 19
    made = read_reproduction(story["folder"])
    assert [stage.name for stage in made.plan.stages] == NAMES and made.left == []
    assert {name: getattr(one, "kind", "sweep") for name, one in made.made.items()} == {
        "bench": "bench", "profile": "profile", "sweep": "sweep", "variants": "variants",
        "mp4": "bench",
    }  # fmt: skip
    assert (story["folder"] / "mp4" / "clip.mp4").stat().st_size > 500
    assert made.recording("mp4").sink.kind == "mp4"
    arms = made.recording("bench").arms.values()
    (bench,) = (stage for stage in made.plan.stages if stage.name == "bench")
    assert bench.decodes == sum(len(arm.runs) + 1 for arm in arms)
    each_s = fmean(arm.latency.median for arm in arms)
    assert made.expected_s(bench) == bench.setup_s + bench.decodes * each_s


def test_the_first_table_has_ours_beside_the_published(story):
    made = read_reproduction(story["folder"])
    bench, profile = made.recording("bench"), made.recording("profile")
    table = figures_table(bench, profile, Asked(3.36))
    rows = {row["figure"]: (row["published"], row["ours"]) for row in table.rows}
    for path, post in PUBLISHED.items():
        arm = bench.arms[path]
        window = profile.arms[path].profile.analysis.windows["two chunks"]
        for name, theirs, own in (
            ("min s", post.min_s, arm.latency.min), ("mean s", post.mean_s, arm.latency.mean),
            ("P99 s", post.p99_s, arm.latency.p99), ("n", 10, 5),
            ("utilization %, two chunks", post.utilization_percent,
             window.kernel_utilization_percent),
            ("RTF, 164 frames at 24 fps", post.rtf, None),
            ("RTF, 36 frames at 24 fps", None, arm.latency.mean / 36 * 24),
            ("RTF, 161 frames at 16 fps", post.mean_s / (161 / 16), None),
            ("RTF, 33 frames at 16 fps", None, arm.rtf),
            (f"{COST}, 164 frames at 24 fps", post.rtf * 3.36, None),
            (f"{COST}, 36 frames at 24 fps", None, arm.latency.mean / 36 * 24 * 3.36),
            (f"{COST}, 161 frames at 16 fps", post.mean_s / (161 / 16) * 3.36, None),
            (f"{COST}, 33 frames at 16 fps", None, arm.rtf * 3.36),
        ):  # fmt: skip
            shown = [cell and cell.value for cell in rows.pop(f"{path}, {name}")]
            assert shown == pytest.approx([theirs, own])
    assert [str(rows.pop("sync / async")[0])] == ["1.090"] and not rows
    assert "ours / published" not in table.columns  # of another video that says nothing
    recorded = read_recording(next(RESULTS.glob("*c4ae14f_aws-float16")))
    table = figures_table(recorded, None)
    assert [row["ours / published"].value for row in table.rows if row["figure"] == "sync, mean s"]
    rows = {row["figure"]: row for row in table.rows if "frames at" in row["figure"]}
    assert len(rows) == 4 and all(row["published"] and row["ours"] for row in rows.values())
    assert "sync, RTF, 164 frames at 24 fps" in rows and "sync, RTF, 161 frames at 16 fps" in rows


def test_the_report_holds_every_stage(story):
    page = (story["folder"] / "report.html").read_text()
    for name in ("published", "stages", "implied", *NAMES, "bench-page", "sweep-page"):
        assert f'<section id="{name}">' in page, name
    assert "This is NOT the published workload" in page and "Price: $3.36" in page
    text = (story["folder"] / "table.md").read_text()
    assert text.index("| sync, min s") < text.index("| dtype") < text.index("## bench")
    assert run("show", story["folder"])[0] == 0
    assert run("report", story["folder"], "--out", story["folder"].parent / "again.html")[0] == 0
    assert run("show", story["folder"], "--timeline", "t.png")[0] == 2


def test_lines_keep_to_a_terminal(story, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for command in (
        ("reproduce", "--resume", story["folder"], "--usd-per-hour", "3.36"),
        ("check", story["folder"]),
        ("check", RESULTS / "20261121T120550Z_nvidia-h200_6a035e9_aa-async"),
    ):
        status, out, _ = run(*command)
        assert status == 0
        for line in out.splitlines():
            assert len(line) <= 100 or len(line.split()) == 1, line
    assert "table.md, line 8, Planted: " in " ".join(out.split())


def test_another_machine_is_stated_per_stage(story):
    made = read_reproduction(story["folder"])
    assert machine_lines(made) == []
    one = made.made["variants"]
    where = one.provenance.model_copy(update={"device": "NVIDIA T", "driver": "1.2"})
    made.made["variants"] = one.model_copy(update={"provenance": where})
    (line,) = machine_lines(made)
    assert line.startswith("variants is of another machine or code than bench: device NVIDIA T")
    assert line in reproduction_document(made).text()


def test_wrong_input_is_refused_before_anything_is_measured(story, tmp_path):
    status, _, err = run("reproduce", "--resume", story["folder"], "--decoder", "wan2.2")
    assert status == 2 and "was begun with the usual decoder" in err
    assert run("reproduce", "--resume", tmp_path)[0] == 2
    status, _, err = run("reproduce", "--out", tmp_path, "--decoder", tmp_path / "none")
    assert status == 2 and not list(tmp_path.iterdir())
    status, _, err = run("reproduce", "--out", tmp_path, "--decoder", "dac")
    assert status == 2 and "decoder 'dac' makes audio" in err and not list(tmp_path.iterdir())
    path = story["folder"] / PLAN
    plan = json.loads(path.read_text()) | {"decoder": "Wan of a folder"}
    (tmp_path / PLAN).write_text(json.dumps(plan))
    status, _, err = run("reproduce", "--resume", tmp_path)
    assert status == 2 and "Wan of a folder" in err and "a folder" in err


def test_the_stages_of_a_gpu_are_commands_and_take_twenty_minutes():
    stages = reproduce.stages_of(True, "a folder")
    assert [stage.name for stage in stages] == NAMES
    for stage in stages[1:]:
        for command in stage.commands:
            options = cli.parse(shlex.split(command))
            assert options.decoder == "a folder"
    recorded = read_recording(next(RESULTS.glob("*c4ae14f_aws-float16")))
    each_s = fmean(arm.latency.mean for arm in recorded.arms.values())
    assert pytest.approx(each_s, rel=0.05) == reproduce.GPU_DECODE_S
    for decode_s, minutes in ((each_s, 13), (8.0, 20)):
        whole_s = sum(one.setup_s + one.decodes * decode_s for one in stages)
        assert whole_s < 60 * minutes


# vdkit check


@pytest.fixture
def copy(story, tmp_path):
    return Path(shutil.copytree(story["folder"], tmp_path / "copy"))


def wrong(folder):
    """What check finds wrong in one folder."""
    return checked.check_folder(folder).wrong


def test_what_was_recorded_passes(story):
    status, out, _ = run("check", story["folder"])
    assert status == 0 and "6 checked: " in out and "0 WRONG" in out
    for told in ("2 traces", "runs.csv", "cells.csv", "hashes", "figures of table.md"):
        assert told in out
    assert "more in words" not in out
    assert run("check", story["folder"] / "mp4" / "clip.mp4")[0] == 2


def test_a_changed_digit_in_a_table_is_noticed(copy):
    home = copy / "bench"
    text = (home / "table.md").read_text()
    figure = re.search(r"\| sync \(chunked\) +\| +([\d.]+)", text)
    digit = str((int(figure[1][-1]) + 1) % 10)
    changed = text[: figure.end() - 1] + digit + text[figure.end() :]
    (home / "table.md").write_text(changed)
    by_hash, by_runs = wrong(home)
    assert "table.md is not what was recorded" in by_hash
    assert f"{figure[1][:-1]}{digit}, the runs give {figure[1]}" in by_runs
    (home / SUMS).unlink()
    assert wrong(home) == [by_runs]
    assert any(
        note.startswith("SHA256SUMS is missing") for note in checked.check_folder(home).notes
    )


@pytest.mark.parametrize("stage", ["bench", "mp4"])
def test_a_changed_digit_in_a_raw_run_is_noticed(copy, stage):
    home = copy / stage
    (home / SUMS).unlink()
    data = json.loads((home / "recording.json").read_text())
    data["arms"]["sync"]["runs"][-1]["latency_s"] += 1e-6
    (home / "recording.json").write_text(json.dumps(data))
    assert "runs.csv: column latency_s is not that of the runs" in wrong(home)


def test_runs_that_something_disturbed_are_noted(copy):
    data = json.loads((copy / "bench" / "recording.json").read_text())
    data["arms"]["sync"]["runs"][-1]["latency_s"] *= 9
    (copy / "bench" / "recording.json").write_text(json.dumps(data))
    (note,) = (one for one in checked.check_folder(copy / "bench").notes if "half" in one)
    assert re.match("runs of .*sync.* differ by more than half; something else was using", note)


def test_a_missing_or_broken_file_is_noticed(copy):
    for name in ("trace_sync.json.gz", "runs.csv", "table.md"):
        (copy / "profile" / name).unlink()
    found = "\n".join(wrong(copy / "profile"))
    assert found.count("is missing") == 5 and "trace_sync.json.gz: " in found
    (copy / "sweep" / "cells.csv").write_text("mode,latency_mean_s\nsync,1\n")
    (copy / "sweep" / SUMS).unlink()
    assert wrong(copy / "sweep") == ["cells.csv: column latency_mean_s is not that of the runs"]
    (copy / "bench" / "recording.json").write_text("{")
    status, out, _ = run("check", copy / "bench", copy / "profile")
    assert status == 1 and "2 checked: 0 ok, 0 note, 2 WRONG" in out and "is not JSON" in out


def test_a_trace_of_another_run_is_noticed(copy):
    home = copy / "profile"
    os.replace(home / "trace_sync.json.gz", home / "trace_async.json.gz")
    assert any("does not give" in one or "is another" in one for one in wrong(home))


def test_what_provenance_lacks_is_told(copy):
    home = copy / "bench"
    data = json.loads((home / "recording.json").read_text())
    data["provenance"] |= {"git_commit": "0" * 40, "git_dirty": True}
    (home / "recording.json").write_text(json.dumps(data | {"command": None}))
    notes = checked.check_folder(home).notes
    assert any("changed tree" in note for note in notes)
    assert any("no command line" in note for note in notes)
    data["provenance"] |= {"git_commit": None, "packages": {}}
    (home / "recording.json").write_text(json.dumps(data))
    found = wrong(home)
    assert "no commit is recorded, so its code cannot be had" in found
    assert "no versions of torch and numpy are recorded" in found


def test_everything_committed_passes_or_says_honestly_why_not():
    status, out, _ = run("check", RESULTS)
    assert status == 0 and "0 WRONG" in out
    reasons = re.findall(r"note: (.*)", out)
    known = ("of an earlier schema, perhaps by other rules", "recorded from a changed tree",
             "no recording: ")  # fmt: skip
    assert reasons and all(reason.startswith(known) for reason in reasons)
    assert int(re.search(r"(\d+) ok", out)[1]) > 20


def test_the_page_of_results_lists_a_folder_of_stages_by_its_device(story, tmp_path):
    name = "20261201T000000Z_cpu_abc_reproduce"
    shutil.copytree(story["folder"], tmp_path / "results" / name)
    made = Recorded(tmp_path)
    assert set(made.all) == {
        f"{name}/{stage}" for stage in NAMES if stage not in ("doctor", "sweep")
    }
    assert set(made.sweeps) == {f"{name}/sweep"}
    line = by_gpu(made)
    assert line.startswith("- **cpu**: ") and line.count(f"]({name}/") == 5
