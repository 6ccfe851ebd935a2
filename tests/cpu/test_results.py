"""All recorded runs as one table; what cannot be read is named, never fatal."""

import json
import shutil
import warnings
from pathlib import Path

import pytest

from vdkit import load_results, read_result
from vdkit.measure.cost_book import CostBook
from vdkit.measure.results import SkippedResultWarning
from vdkit.measure.stats import paired_ratio

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
    recorded = {*RESULTS.glob("2*/result.json"), *RESULTS.glob("2*/result_*_chunk*.json")}
    for index in RESULTS.glob("2*/variants.json"):
        names = json.loads(index.read_text())["variants"]
        recorded |= {index.with_name(f"result_{name}.json") for name in names}
    found = {Path(one.folder) / one.file for one in frame.itertuples()}
    # Benchmarks, the cells of sweeps, and variants.
    assert len(recorded) >= 149 and found == recorded
    assert set(frame["variant"]) == {"diffusers", "channels_last", "compiled", "fast"}
    for file in RESULTS.glob("2*/result.json"):
        result, rows = read_result(file), frame[frame["folder"] == str(file.parent)]
        assert len(rows) == len(result.runs)
        timed = rows[(rows["mode"] == "async") & ~rows["warmup"]]
        assert list(timed["latency_s"]) == result.latencies("async")
        assert timed["rtf"].mean() == pytest.approx(result.modes["async"].rtf)
        assert set(rows["commit"]) == {result.provenance.git_commit}
    assert frame["created_utc"].is_monotonic_increasing


def test_a_fresh_clones_results_give_no_warning_of_any_kind():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = load_results(f"{RESULTS}/**")
    assert len(frame) >= 246 and not frame["file"].str.contains("hta").any()


def test_a_row_says_what_machine_and_code_made_it():
    result = read_result(FOLDER)
    made = result.provenance
    row = load_results(FOLDER).iloc[0]
    assert row["commit"] == made.git_commit and row["file"] == "result.json"
    for name in ("vdkit", "git_dirty", "device", "device_uuid", "vram_bytes", "driver", "cuda",
                 "cudnn", "cpu", "host_cores", "os", "python"):  # fmt: skip
        assert row[name] == getattr(made, name), name
    for name in ("torch", "diffusers"):
        assert row[name] == made.packages[name]


def test_joules_of_a_run_are_its_counters_difference():
    result = read_result(FOLDER)
    frame = load_results(FOLDER)
    for joules, run in zip(frame["energy_j"], result.runs, strict=True):
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


def scale_all_latencies(data):
    for run in data["runs"]:
        run["latency_s"] *= 1.5


SPOILED = [
    (lambda text: "[" * 100_000, "is not JSON, or was cut short: recursion limit"),
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
    (put(-1.0, "runs", 3, "latency_s"), "runs.3.latency_s: Input should be greater than 0"),
    (put(-1e-3, "runs", 3, "ttff_s"), "runs.3.ttff_s: Input should be greater than or equal to 0"),
    (put(-3, "runs", 3, "pinned_bytes"), "runs.3.pinned_bytes"),
    (put(1.5, "runs", 3, "chunks", "slot"), "does not hold a valid result"),
    (put(1e9, "runs", 3, "chunks", "decode_done_s", 0), "outside of its run"),
    (put(7, "runs", 3, "chunks", "frame_start", 0), "do not add up"),
    (put(1, "runs", 3, "d2h_bytes"), "do not add up"),
    (put("turbo", "runs", 3, "mode"), "of another mode or video"),
    (changed(scale_all_latencies), "the summary of mode 'diffusers' contradicts its runs"),
    (put(1.0, "modes", "async", "latency_s", "p99"), "summary of mode 'async' contradicts"),
    (put(9.0, "modes", "async", "rtf"), "summary of mode 'async' contradicts"),
    (put(1, "modes", "async", "throttled_runs"), "summary of mode 'async' contradicts"),
    (put(99, "runs", 4, "round"), "are no pairs with the baseline's"),
    (put("0" * 64, "modes", "async", "frame_sha256"), "frames_identical contradicts"),
]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        *SPOILED,
        (lambda text: text[: len(text) // 2], "1/result.json is not JSON, or was cut short"),
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
        read_result(file)


def test_a_speedup_is_derived_and_the_stored_one_not_believed(copies):
    file = copies / "1" / "result.json"
    before = read_result(file)
    file.write_text(put(9.0, "modes", "async", "speedup", "value")(file.read_text()))
    found = read_result(file)
    assert found.modes == before.modes and '"value":9.0' in file.read_text().replace(" ", "")
    assert found.modes["async"].speedup == paired_ratio(*map(found.latencies, ("sync", "async")))


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
