"""The exported trace: valid for Perfetto, and the whole timeline again when read."""

import gzip
import json

import numpy as np
import pytest

from tests.cpu.test_trace import chunked
from tests.perfetto import load, problems
from tests.timelines import timeline
from vdkit.trace import Alignment
from vdkit.trace.figures import analyze
from vdkit.trace.files import read_trace, tracks, write_trace


@pytest.fixture
def made():
    whole = chunked()
    whole.alignment = Alignment(1000, 2000, 1500, 3000)
    whole.timed_latency_s = (0.0091, 0.0089)
    whole.nvml = {"time_s": [-0.001, 0.001, 0.004], "power_w": [100.5, None, 300.0]}
    return whole


def test_valid_for_perfetto(made, tmp_path):
    trace = load(write_trace(made, tmp_path / "t.json.gz"))
    assert problems(trace) == []
    names = {
        e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M" and "name" in e["args"]
    }
    assert {
        "main thread", "writer thread", "compute stream 7", "copy stream 9",
        "decode (CUDA events)", "copy (CUDA events)", "CUDA calls of thread 1",
    } <= names  # fmt: skip
    counters = {e["name"] for e in trace["traceEvents"] if e["ph"] == "C"}
    assert counters == {"slots in use", "power_w"}
    slots = [e["args"]["slots"] for e in trace["traceEvents"] if e["name"] == "slots in use"]
    assert min(slots) == 0 and slots[-1] == 0
    kernels = [e for e in trace["traceEvents"] if e.get("cat") == "kernel"]
    assert {e["args"]["chunk"] for e in kernels} == set(range(9))


def test_the_check_notices_what_perfetto_would_hide():
    event = {"ph": "X", "name": "k", "pid": 1, "tid": 1, "ts": 0, "dur": 10, "args": {"chunk": 0}}
    name = {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": "t"}}
    assert problems({"traceEvents": [event, name]}) == []
    later = {**event, "ts": 5}
    assert "overlaps" in problems({"traceEvents": [event, later, name]})[0]
    assert "no name" in problems({"traceEvents": [event]})[0]
    for key, value in (("ts", -1), ("dur", None), ("pid", "a"), ("args", {}), ("name", "")):
        assert problems({"traceEvents": [{**event, key: value}, name]})


def test_read_back_whole(made, tmp_path):
    again = read_trace(write_trace(made, tmp_path / "t.json.gz"))
    for kind in ("gpu", "calls"):
        before, after = getattr(made, kind), getattr(again, kind)
        order = [np.lexsort((e.correlation, e.start_ns)) for e in (before, after)]
        for column in ("start_ns", "stop_ns", "lane", "kind", "correlation", "chunk"):
            a, b = (getattr(e, column)[o] for e, o in zip((before, after), order, strict=True))
            if not (kind == "calls" and column == "lane"):  # threads are numbered anew
                assert a.tolist() == b.tolist(), (kind, column)
    assert again.run == made.run and again.config == made.config
    assert again.alignment == made.alignment and again.nvml == made.nvml
    assert again.timed_latency_s == made.timed_latency_s
    one, two = analyze(made), analyze(again)
    assert one.windows == two.windows and one.checks == two.checks


def test_negative_times_are_moved_and_come_back(made, tmp_path):
    made.shift(-7_000_000)
    made.assign_chunks()
    path = write_trace(made, tmp_path / "t.json.gz")
    assert problems(load(path)) == []
    assert read_trace(path).gpu.span == made.gpu.span


def test_nothing_is_overwritten_and_foreign_traces_are_refused(made, tmp_path):
    path = write_trace(made, tmp_path / "t.json.gz")
    with pytest.raises(FileExistsError, match="append-only"):
        write_trace(made, path)
    with pytest.raises(ValueError, match="only a run of vdkit"):
        write_trace(timeline([(0, 1, 0)]), tmp_path / "other.json.gz")
    assert [p.name for p in tmp_path.iterdir()] == ["t.json.gz"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda own: own.update(schema=99), "reads up to 1; update"),
        (lambda own: own.pop("run"), "damaged vdkit records"),
        (lambda own: own["run"].update(mode=3), "damaged vdkit records"),
        (lambda own: own["config"].update(slots=99), "use 1 to 16"),
    ],
)
def test_damaged_records_are_named(made, tmp_path, damage, message):
    trace = load(write_trace(made, tmp_path / "t.json.gz"))
    damage(trace["vdkit"])
    path = tmp_path / "bad.json.gz"
    path.write_bytes(gzip.compress(json.dumps(trace).encode()))
    with pytest.raises(ValueError, match=message) as caught:
        read_trace(path)
    assert "bad.json.gz" in str(caught.value)


def test_tracks():
    spans = [(0, 10), (2, 5), (4, 12), (5, 9), (12, 20), (13, 30), (40, 41)]
    starts, stops = zip(*spans, strict=True)
    assert tracks(starts, stops) == [0, 0, 1, 0, 0, 1, 0]
