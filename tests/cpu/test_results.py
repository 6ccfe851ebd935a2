"""All recorded runs as one table; what cannot be read is named, never fatal."""

import json
import shutil
import warnings
from pathlib import Path

import pytest

from vdkit import load_results
from vdkit.predict.fit import CostBook
from vdkit.record.results import (
    SkippedResultWarning,
    find_recordings,
    read_recording,
    rows_of,
    runs_frame,
)
from vdkit.record.runs import todays_mode

RESULTS = Path(__file__).parents[2] / "results"
FOLDER = next(RESULTS.glob("*c942496_aws-float16"))


@pytest.fixture
def copies(tmp_path):
    for i in range(3):
        (tmp_path / str(i)).mkdir()
        shutil.copy(FOLDER / "result.json", tmp_path / str(i))
    return tmp_path


def test_every_recorded_run_is_a_row():
    with warnings.catch_warnings():
        warnings.simplefilter("error", SkippedResultWarning)
        frame = load_results(f"{RESULTS}/2*/**")
    names = (
        "recording.json",
        "cell_*.json",
        "result.json",
        "result_*_chunk*.json",
        "variants.json",
        "aa.json",
        "profile.json",
    )
    recorded = {file for name in names for file in RESULTS.glob(f"2*/**/{name}")}
    found = {Path(one.folder) / one.file for one in frame.itertuples()}
    assert len(recorded) >= 99 and found == recorded
    assert set(frame["variant"]) == {"diffusers", "channels_last", "compiled", "fast"}
    assert {"bench", "variants", "aa", "profile", "cell"} <= set(frame["kind"])
    for file in sorted(recorded):
        result = read_recording(file)
        rows = frame[(frame["folder"] == str(file.parent)) & (frame["file"] == file.name)]
        arms = {
            name: arm for name, arm in result.arms.items() if (result.kind, name) != ("aa", "slow")
        }
        assert set(rows["arm"]) == set(arms) and len(rows) == sum(
            len(a.runs) for a in arms.values()
        )
        for name, arm in arms.items():
            timed = rows[(rows["arm"] == name) & ~rows["warmup"]].sort_values("round")
            assert list(timed["latency_s"]) == arm.latencies
            assert timed["rtf"].mean() == pytest.approx(arm.rtf)
            assert set(timed["mode"]) == {arm.mode}
        assert set(rows["commit"]) == {result.provenance.git_commit}
        assert set(rows["kind"]) == {result.kind}
    assert frame["created_utc"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("form", "slow"),
    [
        ("{}", True),
        ("{}/aa.json", True),
        ("{}/*", False),
        ("{}/..", False),
        ("{}/../*aa-cpu", False),
    ],
)
def test_the_arm_with_planted_work_is_there_only_if_it_is_named(form, slow):
    folder = next(RESULTS.glob("*_aa-cpu"))
    frame = load_results(form.format(folder))
    assert ("slow" in set(frame[frame["kind"] == "aa"]["arm"])) == slow
    assert len(load_results(folder / "result_slow.json")) == len(
        read_recording(folder).arms["a"].runs
    )


def test_a_variant_is_compared_with_its_own_baseline():
    folder = next(RESULTS.glob("*90fbdee_variants-480p-float16"))
    whole, found = read_recording(folder), find_recordings(folder)
    rows = {row["arm"]: row for row in rows_of(found, by_run=False)}
    assert list(rows) == list(whole.arms)
    for variant in whole.benchmarks:
        sync = whole.arms[f"{variant}/sync"]
        assert rows[f"{variant}/sync"]["baseline_s"] is None
        assert rows[f"{variant}/async"]["baseline_s"] == sync.latency.mean
        assert rows[f"{variant}/async"]["baseline"] == f"{variant}/sync"
    by_round = {run.round: run.latency_s for run in whole.arms["fast/sync"].runs}
    pairs = {
        row["round"]: row["baseline_s"]
        for row in rows_of(found, by_run=True)
        if row["arm"] == "fast/async"
    }
    assert pairs == by_round


def test_the_runs_of_one_recording_in_full_precision():
    folder = next(RESULTS.glob("*c942496_aws-float16"))
    frame, result = runs_frame(read_recording(folder)), read_recording(folder)
    assert len(frame) == sum(len(arm.runs) for arm in result.arms.values())
    assert not {"chunks", "gpu_before"} & set(frame.columns)
    run, row = result.arms["async"].timed[0], frame[frame["arm"] == "async"].iloc[1]
    assert row["latency_s"] == run.latency_s and row["energy_j_after"] == run.gpu_after.energy_j
    assert row["throttle_reasons_after"] == "; ".join(run.gpu_after.throttle_reasons)


def test_a_fresh_clones_results_give_no_warning_of_any_kind():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = load_results(f"{RESULTS}/**")
    assert len(frame) >= 246 and not frame["file"].str.contains("hta").any()


def test_what_early_records_say_of_their_runs_is_what_is_derived_from_them():
    compared = 0
    for file in RESULTS.glob("*/result*.json"):
        stored = json.loads(file.read_text()).get("modes", {})  # all but tools/analyze_vs_hta.py's
        for arm in read_recording(file).arms.values() if stored else ():
            said = {todays_mode(mode): one for mode, one in stored.items()}[arm.mode]
            summary = arm.latency
            for name in ("n", "mean", "median", "min", "max", "p99"):
                assert getattr(summary, name) == pytest.approx(said["latency_s"][name], rel=1e-9)
            assert arm.throttled_runs == said["throttled_runs"]
            compared += 1
    assert compared > 100


def test_a_row_says_what_machine_and_code_made_it():
    result = read_recording(FOLDER)
    made = result.provenance
    row = load_results(FOLDER).iloc[0]
    assert row["commit"] == made.git_commit and row["file"] == "result.json"
    for name in ("vdkit", "git_dirty", "device", "device_uuid", "vram_bytes", "driver", "cuda",
                 "cudnn", "cpu", "host_cores", "os", "python"):  # fmt: skip
        assert row[name] == getattr(made, name), name
    for name in ("torch", "diffusers"):
        assert row[name] == made.packages[name]


def test_joules_of_a_run_are_its_counters_difference():
    result = read_recording(FOLDER)
    frame = load_results(FOLDER)
    runs = [run for arm in result.arms.values() for run in arm.runs]
    for joules, run in zip(frame["energy_j"], runs, strict=True):
        assert joules == run.gpu_after.energy_j - run.gpu_before.energy_j


def test_several_patterns_and_no_file_twice(copies):
    frame = load_results([copies / "0", f"{copies}/*", copies / "1" / "result.json"])
    assert len(frame) == 3 * len(load_results(copies / "0"))


def test_files_beside_each_other_are_told_apart(copies):
    shutil.copy(copies / "0" / "result.json", copies / "0" / "result_cell-2.json")
    frame = load_results(copies / "0")
    assert set(frame["file"]) == {"result.json", "result_cell-2.json"}
    assert frame["folder"].nunique() == 1


@pytest.mark.parametrize("form", ["{}", "{}/**", "{}/*", "{}/*/result.json"])
def test_folders_and_patterns(copies, form):
    frame = load_results(form.format(copies))
    assert frame["folder"].nunique() == 3


def test_one_file(copies):
    assert load_results(copies / "0" / "result.json")["folder"].unique() == [str(copies / "0")]


def changed(change):
    """A text of JSON to the same with its data changed."""

    def spoil(text):
        data = json.loads(text)
        change(data)
        return json.dumps(data)

    return spoil


def put(value, *path):
    """As `changed`: one value of the data."""

    def change(data):
        for name in path[:-1]:
            data = data[name]
        data[path[-1]] = value

    return changed(change)


SPOILED = [
    (lambda text: "[" * 100_000, r"is not JSON .*: recursion limit"),
    (lambda text: text.replace("NVIDIA", "\\ud800"), "is not JSON"),
    (put(0, "schema_version"), "is not a vdkit result: its schema_version is 0"),
    (put(True, "schema_version"), "is not a vdkit result: its schema_version is True"),
    (put(0, "workload", "fps"), "workload.fps: Input should be greater than 0"),
    (put(0, "workload", "frames"), "workload.frames: Input should be greater than 0"),
    (put(10**400, "workload", "frames"), "does not hold a valid result"),
    (put(float("nan"), "runs", 3, "latency_s"), "is not JSON"),
    (
        lambda text: text.replace('"ring_bytes":', '"sink_open_s":1e999,"ring_bytes":', 1),
        "sink_open_s: Input should be a finite number",
    ),
    (put(-1.0, "runs", 0, "latency_s"), r"runs\.0\.latency_s: Input should be greater than 0"),
    (put(-1e-3, "runs", 3, "ttff_s"), r"ttff_s: Input should be greater than or equal to 0"),
    (put(-3, "runs", 3, "pinned_bytes"), r"pinned_bytes: Input should be greater than or equal"),
    (put(1.5, "runs", 3, "chunks", "slot"), "does not hold a valid result"),
    (put(1e9, "runs", 3, "chunks", "decode_done_s", 0), "outside of its run"),
    (put(7, "runs", 3, "chunks", "frame_start", 0), "do not add up"),
    (put(1, "runs", 3, "d2h_bytes"), "do not add up"),
    (put("turbo", "runs", 0, "mode"), "of another mode or video"),
    (put(99, "runs", 4, "round"), "are no pairs with the baseline's"),
]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        *SPOILED,
        (lambda text: text[: len(text) // 2], "1/result.json is not JSON .* or was cut short"),
        (lambda text: "", "1/result.json is not JSON"),
        (lambda text: "[]", "1/result.json is not a vdkit result"),
        (
            lambda text: json.dumps({**json.loads(text), "schema_version": 99}),
            "1/result.json has schema version 99",
        ),
        (
            lambda text: json.dumps({**json.loads(text), "runs": []}),
            "1/result.json does not hold a valid result",
        ),
    ],
)
def test_what_cannot_be_read_is_left_out_and_named(copies, spoil, message):
    file = copies / "1" / "result.json"
    file.write_text(spoil(file.read_text()))
    with pytest.warns(SkippedResultWarning, match=message) as caught:
        frame = load_results(copies)
    assert set(frame["folder"]) == {str(copies / "0"), str(copies / "2")}
    assert str(file) in str(caught[0].message)
    with pytest.raises(ValueError, match=message):
        read_recording(file)


def test_what_is_no_text_or_no_file_is_left_out_too(copies):
    (copies / "1" / "result.json").write_bytes(b"\xff\xfe\x00")
    (copies / "2" / "result.json").unlink()
    (copies / "2" / "result.json").mkdir()
    with pytest.warns(SkippedResultWarning) as caught:
        assert load_results(copies)["folder"].unique() == [str(copies / "0")]
    said = [str(one.message) for one in caught]
    assert f"{copies}/1/result.json is not JSON" in said[0]
    assert f"{copies}/2/result.json is a folder" in said[1] and len(said) == 2
    book = CostBook()
    book.read(copies)
    assert len(book.machines()) == 1


def test_nothing_found(tmp_path):
    assert load_results(tmp_path).empty
    with pytest.raises(FileNotFoundError, match="no results at"):
        load_results(tmp_path / "no")
