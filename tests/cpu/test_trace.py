"""Reading Kineto traces, of any program: exact times, clear errors; figures and completeness."""

import copy
import gzip
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from tests.timelines import chunk, run, timeline
from vdkit.present.instruments import analysis_document, trust_words
from vdkit.present.style import FAMILY_COLORS
from vdkit.trace import COMMUNICATION, FAMILIES, family_of
from vdkit.trace.figures import TOLERANCE_NS, analyze, check_trace
from vdkit.trace.files import read_trace, write_trace


def kernel(start, duration, stream=7, device=0, correlation=1, name="conv_fprop", cat="kernel"):
    return {
        "ph": "X", "cat": cat, "name": name, "pid": device, "tid": stream, "ts": start,
        "dur": duration,
        "args": {"stream": stream, "device": device, "correlation": correlation, "bytes": 8},
    }  # fmt: skip


def launch(start, correlation=1, name="cudaLaunchKernel", tid=5, pid=1):
    return {
        "ph": "X", "cat": "cuda_runtime", "name": name, "pid": pid, "tid": tid, "ts": start,
        "dur": 5, "args": {"correlation": correlation},
    }  # fmt: skip


def operator(start, duration, pid=1, tid=5):
    return {
        "ph": "X", "cat": "cpu_op", "name": "aten::conv", "pid": pid, "tid": tid, "ts": start,
        "dur": duration,
    }  # fmt: skip


EVENTS = [
    {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "python"}},
    launch(100),
    kernel(110, 50),
    launch(120, 2),
    kernel(200, 50, correlation=2, name="nchwToNhwcKernel"),
    kernel(250, 30, 9, cat="gpu_memcpy", name="Memcpy DtoH (Device -> Pinned)", correlation=3),
    kernel(280, 10, cat="gpu_memset", name="Memset (Device)", correlation=4),
]


def write(path, data, packed=True):
    text = data if isinstance(data, str) else json.dumps(data)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


@pytest.mark.parametrize("form", ["object", "list", "unpacked", "list without its end"])
def test_every_form_of_chrome_trace(tmp_path, form):
    data = {"schemaVersion": 1, "traceEvents": EVENTS, "deviceProperties": [{"id": 0, "name": "G"}]}
    if form.startswith("list"):
        data = EVENTS
    path = write(tmp_path / "t.json", data, packed=form != "unpacked")
    if form == "list without its end":
        write(path, json.dumps(EVENTS)[:-1])
        with pytest.raises(ValueError, match="cut short"):
            read_trace(path)
        return
    made = read_trace(path)
    assert len(made.kernels) == 2 and len(made.calls) == 2 and len(made.gpu) == 4
    assert made.gpu.span == (10_000, 190_000)  # the first event, a launch at 100 us, is time 0
    figures = analyze(made).windows["trace"]
    assert figures.window_s == pytest.approx(180e-6)
    assert figures.busy_s == pytest.approx(100e-6)
    assert figures.gpu_busy_s == pytest.approx(140e-6)
    assert figures.kernel_utilization_percent == pytest.approx(100 * 100 / 180)
    assert figures.d2h_s == pytest.approx(30e-6) and figures.copy_hidden_percent == 0
    assert figures.busy_s + sum(figures.stall_s.values()) == pytest.approx(figures.window_s)
    assert made.device == ("GPU 0" if form == "list" else "G")


@pytest.mark.parametrize("base", [0, 4368630778434, 1_700_000_000_000_000])
@pytest.mark.parametrize("step", ["microseconds", "nanoseconds"])
def test_times_are_exact_whatever_they_count_from(tmp_path, base, step):
    """Counted from 1970, a float64 of microseconds would round to a quarter of one."""
    fraction = "" if step == "microseconds" else ".123"
    text = json.dumps({"traceEvents": [kernel("A", "B"), kernel("C", "B", correlation=2)]})
    text = text.replace('"A"', f"{base + 10}{fraction}").replace('"B"', f"5{fraction}")
    text = text.replace('"C"', f"{base + 30}.001")
    made = read_trace(write(tmp_path / "t.json", text))
    extra = 0 if step == "microseconds" else 123
    assert (made.gpu.stop_ns - made.gpu.start_ns).tolist() == [5000 + extra] * 2
    assert made.gpu.start_ns.tolist() == [0, 20_001 - extra]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello", "not a trace: it begins with 'hello'"),
        ("", "is empty"),
        ("[]", "no GPU events .0 events in all"),
        ("{}", "is not a trace: it has no traceEvents"),
        ('{"a": 1}', "is not a trace: it has no traceEvents"),
        ('"text"', "not a trace: it begins with"),
        ('{"traceEvents": 3}', "no traceEvents"),
        ('{"traceEvents": [3]}', "no Chrome trace: event 1 is 3, not an object"),
        ("[{}, null]", "event 2 is None, not an object"),
        ('{"traceEvents": [{"ph": "X", "cat": "kernel", "name": "k"}]}', "event 1 .'k'. has no ts"),
        ('{"a"', "Expecting ':' delimiter at line 1, column 5"),
        ("{[1]: 2}", "not JSON, Expecting property name"),
        ('{"traceEvents": [', "cut short or damaged: Expecting value at line 1, column 18"),
        ("[" * 100_000, "it is nested too deep"),
        (json.dumps([*EVENTS, kernel(1, 2, correlation=2**70)]), "beyond 64 bits"),
        (json.dumps({"traceEvents": [launch(1)]}), "holds no GPU events .*ProfilerActivity.CUDA"),
        (json.dumps({"traceEvents": EVENTS})[:-40], "cut short or damaged"),
        (json.dumps({"traceEvents": [*EVENTS, kernel(1, 2, device=1)]}), "GPUs 0, 1; choose one"),
    ],
)  # fmt: skip
def test_bad_input_is_named(tmp_path, content, message):
    path = write(tmp_path / "bad.json", content)
    with pytest.raises(ValueError, match=message) as caught:
        read_trace(path)
    assert "bad.json" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dur": -5}, "has dur -5: a negative length"),
        ({"dur": -0.5}, "has dur -0.5: a negative length"),
        ({"dur": float("nan")}, "has dur nan, which is no time"),
        ({"ts": float("inf")}, "has ts inf, which is no time"),
        ({"ts": 10**30}, "has ts 10*, which is no time"),
        ({"ts": "soon"}, "has ts 'soon', which is no number"),
        ({"ts": None}, "has ts None, which is no number"),
        ({"args": 3}, "has args 3, not an object"),
        (
            {"args": {}, "tid": "a"},
            "no stream in its args, nor device and stream in pid 0, tid 'a'",
        ),
        ({"args": {"stream": 7, "device": "a"}}, "has device 'a', which is no whole number"),
        ({"args": {"stream": [], "device": 0}}, "has stream .., which is no whole number"),
        ({"name": 4}, r"\(4\) needs a name that is text"),
        ({"cat": "cuda_runtime", "tid": []}, r"no thread that can be read: pid 0, tid \[\]"),
    ],
)
def test_a_damaged_event_is_named_with_its_value(tmp_path, change, message):
    path = write(tmp_path / "bad.json", [*EVENTS, {**kernel(900, 5), **change}])
    with pytest.raises(ValueError, match=message) as caught:
        read_trace(path)
    assert "bad.json" in str(caught.value) and "event 8 (" in str(caught.value)


def test_a_folder_names_its_traces(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder; .* the folder holds none"):
        read_trace(tmp_path)
    for name in ("profile.json", "trace_sync.json.gz", "kineto_sync.json.gz"):
        write(tmp_path / name, EVENTS)
    with pytest.raises(IsADirectoryError, match=r"one of kineto_sync.json.gz, trace_sync.json.gz$"):
        read_trace(tmp_path)


def test_damaged_files(tmp_path):
    whole = write(tmp_path / "t.json.gz", {"traceEvents": EVENTS}).read_bytes()
    for cut in (len(whole) // 2, len(whole) - 4):
        (tmp_path / "t.json.gz").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="gzip file that was cut short"):
            read_trace(tmp_path / "t.json.gz")
    (tmp_path / "t.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"not JSON text \(byte 0 is 0xff\)"):
        read_trace(tmp_path / "t.json")
    with pytest.raises(FileNotFoundError, match="no trace at"):
        read_trace(tmp_path / "absent.json")


def test_two_gpus(tmp_path):
    path = write(tmp_path / "t.json", [*EVENTS, kernel(0, 20, device=1, correlation=9)])
    assert len(read_trace(path, gpu=0).kernels) == 2
    assert len(read_trace(path, gpu=1).kernels) == 1
    with pytest.raises(ValueError, match="no events of GPU 2; it has 0, 1"):
        read_trace(path, gpu=2)


def test_calls_of_another_gpu_are_not_lost_kernels(tmp_path):
    other = [launch(300, 9), kernel(310, 20, device=1, correlation=9)]
    path = write(tmp_path / "t.json", [*EVENTS, *other])
    made = read_trace(path, gpu=0)
    assert made.calls_elsewhere == 1 and checks(made)["launches = kernels"] is True
    assert "1 calls of other GPUs left out" in details(made)["launches = kernels"]
    assert checks(read_trace(path, gpu=1))["launches = kernels"] is True
    nowhere = write(tmp_path / "n.json", [*EVENTS, *other, launch(400, 10)])
    assert checks(read_trace(nowhere, gpu=0))["launches = kernels"] is False  # whose, nobody knows


def rank(number, first=0, pid=None):
    """A rank of a merged file: process 500 or 501, thread 5, on GPU 0 or 1, five kernels."""
    device, late = number, 90 * number
    found = [operator(50 * number, 900, 500 + number)]
    for index in range(5):
        begin, one = 200 * index + late, first + index
        found.append(launch(begin, one, pid=500 + number))
        found.append({**kernel(begin + 100, 50 - 9 * number, 7, device, one)})
    return [event | ({"pid": pid} if pid and event["cat"] == "kernel" else {}) for event in found]


def test_ranks_in_one_file_are_as_if_alone(tmp_path):
    """They have thread ids in common; only the second rank's last kernel was lost."""
    ranks = [rank(0), rank(1, first=100)[:-1]]
    both = write(tmp_path / "both.json", ranks[0] + ranks[1])
    for gpu, events in enumerate(ranks):
        merged = analyze(read_trace(both, gpu=gpu))
        alone = analyze(read_trace(write(tmp_path / "one.json", events)))
        (one,), (other,) = merged.windows.values(), alone.windows.values()
        assert (one.stall_s, one.busy_s) == (other.stall_s, other.busy_s)
        assert one.stall_s["launch late"] > 0 and bool(merged.failed) is bool(gpu)
    assert list(read_trace(both, gpu=0).ops) == [0, 1]


def test_ranks_that_nothing_tells_apart_are_refused(tmp_path):
    shared = write(tmp_path / "t.json", rank(0) + rank(1))
    for gpu in (0, 1):
        with pytest.raises(ValueError, match="500 and 501, whose calls share 5 correlation ids; g"):
            read_trace(shared, gpu=gpu)
    mixed = write(tmp_path / "t.json", rank(0) + [e | {"pid": 501} for e in rank(0, first=50)])
    with pytest.raises(ValueError, match="events of GPU 0 are of processes 500 and 501; give"):
        read_trace(mixed)
    named = [*rank(0, pid="[TP0] 0"), kernel(0, 9, correlation=77) | {"pid": "[TP1] 0"}]
    with pytest.raises(ValueError, match=r"processes \[TP0\] 0 and \[TP1\] 0; give a trace of one"):
        read_trace(write(tmp_path / "t.json", named))


def test_kineto_before_torch_1_12(tmp_path):
    """Categories were capitalized, and a GPU event's thread was a name."""
    old = {
        "kernel": "Kernel", "gpu_memcpy": "Memcpy", "gpu_memset": "Memset",
        "cuda_runtime": "Runtime", "cpu_op": "Operator",
    }  # fmt: skip
    new = [*EVENTS, operator(100, 30), operator(318, 9), launch(320, 5), kernel(330, 9, 7, 0, 5)]
    events = [event | {"cat": old.get(event.get("cat"))} for event in new]
    events = [e | {"tid": f"stream {e['tid']}"} if e["pid"] == 0 else e for e in events]
    found, wanted = (
        analyze(read_trace(write(tmp_path / "t.json", some))) for some in (events, new)
    )
    assert asdict(found) == asdict(wanted) and found.windows["trace"].stall_s["host work"] > 0


@pytest.mark.parametrize("tid", [9, "stream 9"])
def test_device_and_stream_may_be_in_pid_and_tid(tmp_path, tid):
    event = kernel(300, 5, device=2) | {"tid": tid}
    for args in ({"args": {"External id": 2}}, {"args": {"stream": None}}, {}):
        del event["args"]
        event |= args
        made = read_trace(write(tmp_path / "t.json", [event]))
        assert made.device == "GPU 2" and made.gpu.lane.tolist() == [9]
        event["args"] = 0


@pytest.mark.parametrize("name", [{"name": ""}, {"name": " "}, {"name": None}, {}])
def test_a_gpu_without_a_name_has_its_number(tmp_path, name):
    data = {"traceEvents": EVENTS, "deviceProperties": [{"id": 0} | name]}
    assert read_trace(write(tmp_path / "t.json", data)).device == "GPU 0"


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        (b"python", b"\x1b", "Invalid control character at line 1, column 76: replaced"),
        (b"python", b"\n", "Invalid control character"),
        (b"python", rb"C:\Users\new", r"Invalid \escape"),
        (b"python", rb"\u12", r"Invalid \uXXXX escape"),
        (b"python", b"\xff", "byte 75 is no UTF-8 (0xff): replaced"),
        (b"}]", b'}] {"a": 1}', "8 characters after the end of the JSON, '{\"a\": 1}': not read"),
    ],
)
def test_what_can_be_read_is_read_with_a_note(tmp_path, old, new, note):
    """Line ends and escapes that are right stay right."""
    path, text = tmp_path / "t.json", json.dumps(EVENTS).encode()
    path.write_bytes(text)
    wanted = analyze(read_trace(path))
    assert not wanted.notes and "note" not in analysis_document("t", wanted).text()
    path.write_bytes(text.replace(old, new).replace(b"conv_", rb"\u0063onv_") + b"\n")
    found = analyze(read_trace(path))
    assert asdict(found) == asdict(wanted) | {"notes": found.notes} and note in found.notes[0]
    assert len(found.notes) == 1 and f"\n- note: {note}" in analysis_document("t", found).text()
    path.write_bytes(b'{"traceEvents":' + text.replace(old, new) + b"}")
    if old == b"python":
        assert len(analyze(read_trace(path)).notes) == 1
    path.write_bytes(b'{"traceEvents":' + text + b"}}")
    assert read_trace(path).notes == ("1 characters after the end of the JSON, '}': not read",)


def test_a_name_that_no_terminal_can_print_is_replaced(tmp_path):
    made = read_trace(write(tmp_path / "t.json", [kernel(0, 9, name="\ud800k")]))
    assert made.names == ["?k"]


def test_communication_is_no_compute(tmp_path):
    calls = [launch(0, 1), launch(20, 2)]
    gemm = kernel(10, 100, correlation=1, name="sm90_xmma_gemm")
    ring = kernel(110, 900, 7, correlation=2, name="ncclDevKernel_AllGather_RING_LL(a<4096ul>)")
    made = analyze(read_trace(write(tmp_path / "t.json", [*calls, gemm, ring])))
    (window,) = made.windows.values()
    assert window.kernel_utilization_percent == pytest.approx(10) and not made.failed
    assert window.communication_percent == pytest.approx(90) and window.gpu_busy_s == 1e-3
    assert [(f.name, round(f.percent)) for f in made.families] == [
        ("communication", 90), ("matrix multiply", 10),
    ]  # fmt: skip
    assert "| communication % |" in analysis_document("t", made).text()
    assert "communication %" not in analysis_document("t", analyze(chunked())).text()
    again = kernel(1010, 100, correlation=3)  # queued behind the ring: no device copy
    made = read_trace(write(tmp_path / "t.json", [*calls, gemm, ring, launch(40, 3), again]))
    stalls = analyze(made).windows["trace"].stall_s
    assert stalls["unknown"] == pytest.approx(900e-6) and stalls["device copy"] == 0
    with pytest.raises(ValueError, match="no compute kernels among 1 GPU events"):
        analyze(read_trace(write(tmp_path / "t.json", [ring])))
    made = chunked()
    made.names.append("ncclDevKernel_Broadcast")
    made.gpu.name[15], made.gpu.kind[15] = len(made.names) - 1, COMMUNICATION
    kept = read_trace(write_trace(made, tmp_path / "own.json.gz"))
    assert kept.gpu.kind.tolist() == made.gpu.kind.tolist() and COMMUNICATION in kept.gpu.kind


@pytest.mark.parametrize(("early", "ok"), [(-4, True), (15, True), (21, False), (4000, False)])
def test_nothing_starts_before_its_launch(tmp_path, early, ok):
    """Clocks of host and GPU may be some microseconds apart."""
    events = [launch(5000), kernel(5000 - early, 100), launch(9000, 2), kernel(9100, 9, 7, 0, 2)]
    made = read_trace(write(tmp_path / "t.json", events))
    assert checks(made)["starts after launches"] is ok
    wanted = f"{int(not ok)} of 2 before; at most {max(early, 0)} us (allowed 20)"
    assert details(made)["starts after launches"] == wanted


def test_a_trace_of_copies_only_has_no_utilization(tmp_path):
    made = read_trace(write(tmp_path / "t.json", EVENTS[-2:]))
    with pytest.raises(ValueError, match="no compute kernels among 2 GPU events"):
        analyze(made)
    made = chunked()
    made.gpu = made.gpu.where(made.gpu.kind != 0)
    assert checks(made)["kernels"] is False  # of a run on a GPU: they were lost


def test_hta_counts_copies_as_busy_and_rounds_to_microseconds(tmp_path):
    """Where HolisticTraceAnalysis 0.5.0 differs, and why; its answers here were read off it."""
    starts = ["10.5", "30.5", "50.5"]
    text = json.dumps([kernel(f"S{i}", "D", correlation=i) for i in range(3)])
    for index, start in enumerate(starts):
        text = text.replace(f'"S{index}"', start)
    made = read_trace(write(tmp_path / "t.json", text.replace('"D"', "10.25")))
    window = analyze(made).windows["trace"]
    assert (window.window_s, window.gpu_busy_s) == (50.25e-6, 30.75e-6)
    begin = [math.ceil(float(s)) for s in starts]
    end = [math.floor(float(s) + 10.25) for s in starts]
    busy = sum(b - a for a, b in zip(begin, end, strict=True))
    span = end[-1] - begin[0]
    assert (span, busy, span - busy) == (49, 27, 22)  # HTA: kernel_time, busy, idle_time, us
    copies = analyze(read_trace(write(tmp_path / "c.json", EVENTS))).windows["trace"]
    assert copies.gpu_busy_s > copies.busy_s  # kernels alone are what we call utilization


def test_longest_gaps_and_histogram_count_every_gap():
    made = timeline([(i * 100, i * 100 + 40 + i, None) for i in range(30)])
    analysis = analyze(made)
    lengths = [gap.length_us for gap in analysis.longest_gaps]
    assert len(lengths) == 20 and lengths == sorted(lengths, reverse=True) and lengths[0] == 60
    window = analysis.windows["trace"]
    assert sum(count for _, count, _ in window.gap_histogram) == window.gap_count == 29
    assert sum(s for *_, s in window.gap_histogram) == pytest.approx(
        window.window_s - window.busy_s
    )
    assert window.gap_max_us == 60 and window.gap_median_us == 46


def test_hidden_copies():
    made = timeline([(0, 100, 0), (100, 200, 0)], [(90, 110), (190, 230)])
    window = analyze(made).windows["trace"]
    assert window.d2h_s == pytest.approx(60e-6)
    assert window.copy_hidden_percent == pytest.approx(100 * 30 / 60)


def chunked(count=9):
    """A run of equal chunks, 10 kernels each, whose copies hide."""
    chunks = [
        chunk(i, (i * 1000, i * 1000 + 990), (i * 1000 - 500, i * 1000 - 400), slot=i % 2,
              wait=(i * 1000 - 600, i * 1000 - 600), copy=(i * 1000 + 990, i * 1000 + 1090),
              write=(i * 1000 + 1095, i * 1000 + 1150))
        for i in range(count)
    ]  # fmt: skip
    kernels = [
        (i * 1000 + 99 * k, i * 1000 + 99 * k + 99, i * 1000 - 490 + 5 * k)
        for i in range(count)
        for k in range(10)
    ]
    made = timeline(kernels, recorded=run("async", chunks, count * 1000 + 200))
    made.gpu = timeline(kernels, [(i * 1000 + 990, i * 1000 + 1090) for i in range(count)]).gpu
    made.gpu.correlation[made.gpu.kind == 1] = range(1000, 1000 + count)
    calls = timeline([(0, 1, i * 1000 - 395) for i in range(count)]).calls
    calls.correlation[:] = range(1000, 1000 + count)
    calls.name[:] = 2
    for column in made.calls.__slots__:
        both = [getattr(made.calls, column), getattr(calls, column)]
        setattr(made.calls, column, np.concatenate(both))
    made.assign_chunks()
    return made


@pytest.mark.parametrize(
    ("count", "first", "last", "middle"), [(3, 1, 2, None), (9, 4, 8, 4), (14, 5, 13, 5)]
)
def test_windows_and_chunks(count, first, last, middle):
    analysis = analyze(chunked(count))
    spans = {name: (one.start_s, one.stop_s) for name, one in analysis.windows.items()}
    del spans["run"]
    expected = {"steady": (first, last)}
    if middle is not None:
        expected["two chunks"] = (middle, middle + 2)
    assert spans == {name: (a / 1e3, b / 1e3) for name, (a, b) in expected.items()}
    assert [c.kernels for c in analysis.chunks] == [10] * count
    steady = analysis.windows["steady"]
    assert steady.kernel_utilization_percent == pytest.approx(99)
    assert analysis.chunks[2].compute_s == pytest.approx(990e-6)
    assert analysis.chunks[2].copy_s == pytest.approx(100e-6)
    assert steady.copy_hidden_percent == pytest.approx(90)


def checks(made):
    return {check.name: check.ok for check in check_trace(made)}


def details(made):
    return {check.name: check.detail for check in check_trace(made)}


def test_a_whole_trace_passes_every_check():
    found = checks(chunked())
    assert all(found.values()) and len(found) == 7


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (lambda t: t.gpu.where(t.gpu.correlation != 55), "kernels per chunk"),
        (lambda t: t.gpu.where(t.gpu.correlation != 55), "launches = kernels"),
        (lambda t: t.gpu.where(t.gpu.correlation != 1003), "copies"),
        (lambda t: t.gpu.where(t.gpu.chunk != 6), "kernels within CUDA events"),
    ],
)
def test_a_lost_event_is_noticed(damage, check):
    made = chunked()
    made.gpu = damage(made)
    assert checks(made)[check] is False
    assert check in [failed.name for failed in analyze(made).failed]


@pytest.mark.parametrize(
    ("event", "moved"), [("decode_start_s", 1), ("decode_done_s", -1), ("decode_done_s", 1)]
)
def test_kernels_are_held_against_both_events(event, moved):
    """A kernel before the start, one after the end, and none up to the end."""
    for times, ok in ((0.5, True), (1.5, False)):
        made = chunked()
        record = made.run.chunks[6]
        setattr(record, event, getattr(record, event) + times * moved * TOLERANCE_NS / 1e9)
        assert checks(made)["kernels within CUDA events"] is ok


def test_what_cannot_be_checked_is_not_called_ok(tmp_path):
    name = "launches = kernels"
    bare = timeline([(0, 100, None)])
    assert checks(bare)[name] is None and "no calls to match" in details(bare)[name]
    graph = [*EVENTS[:3], launch(5, 3), launch(120, 2, "cudaGraphLaunch"), EVENTS[4]]
    made = read_trace(write(tmp_path / "g.json", graph))
    assert checks(made)[name] is None and "with CUDA graphs" in details(made)[name]
    asking = [*EVENTS, launch(99, 98, "cudaThreadExchangeStreamCaptureMode")]
    assert checks(read_trace(write(tmp_path / "c.json", asking)))[name] is True
    stray = read_trace(write(tmp_path / "s.json", [*graph, kernel(300, 5, correlation=99)]))
    assert checks(stray)[name] is False
    made = chunked()
    made.run = run("compute_only", [replace(c, d2h_bytes=0) for c in made.run.chunks], 9200)
    assert checks(made)["copies"] is False  # the trace holds copies that no record has
    made.gpu = made.gpu.where(made.gpu.kind == 0)
    assert checks(made)["copies"] is None and not analyze(made).failed
    assert "not checked: copies: compute_only copies nothing" in trust_words(
        "compute_only", analyze(made)
    )


def test_a_trace_of_the_middle_of_a_run_is_named():
    made = timeline([(i * 100, i * 100 + 90, i * 100 - 20) for i in range(1, 9)])
    calls = made.calls
    made.calls = calls.where(calls.correlation > 3)
    made.ops = {1: (np.array([0]), np.array([900_000]))}
    name = "launches = kernels"
    assert "3 kernels without a launch (3 launched before the trace begins" in details(made)[name]
    assert checks(made)[name] is True
    made.run = run("compute_only", (), 900)  # our own recording begins before the run: a loss
    assert checks(made)[name] is False
    made.run = None
    made.gpu.start_ns[1:3] += 60_000  # gaps in front of two of them, inside an operator
    assert analyze(made).windows["trace"].stall_s["unknown"] == pytest.approx(140e-6)
    made.calls = calls.where(~np.isin(calls.correlation, (1, 2, 3, 6)))  # one call really lost
    assert "4 kernels without a launch (3 launched before" in details(made)[name]
    assert checks(made)[name] is False
    made.calls, made.gpu = calls, made.gpu.where(made.gpu.correlation < 7)
    assert "2 without a kernel (2 at the end: the trace stopped" in details(made)[name]
    made.gpu = made.gpu.where(made.gpu.correlation != 3)
    assert "3 without a kernel (2 at the end" in details(made)[name]


def test_a_shifted_clock_and_a_marker_of_dropped_events_are_noticed():
    made = chunked()
    made.gpu.start_ns += 5_000_000
    made.gpu.stop_ns += 5_000_000
    found = checks(made)
    assert not found["kernels within CUDA events"] and not found["kernels within the run"]
    made = chunked()
    made.dropped = ("CUPTI dropped 12 activity records",)
    assert not checks(made)["dropped events"]


@pytest.mark.parametrize(
    "marker",
    [
        {"ph": "i", "name": "Dropped 12 events", "ts": 1, "s": "g"},
        {"ph": "X", "cat": "overhead", "name": "Buffer dropped", "ts": 1, "dur": 1},
    ],
)
def test_markers_of_dropped_events_are_found(tmp_path, marker):
    made = read_trace(write(tmp_path / "t.json", [*copy.deepcopy(EVENTS), marker]))
    assert not checks(made)["dropped events"]
    message = {"WARNING": ["CUPTI dropped 3 activity records"], "traceEvents": EVENTS}
    assert not checks(read_trace(write(tmp_path / "t.json", message)))["dropped events"]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("sm90_xmma_fprop_implicit_gemm_f16f16_nhwc_cudnn", "convolution"),
        ("void cudnn::engines_precompiled::nchwToNhwcKernel<__half>", "layout conversion"),
        ("nvjet_sm90_hsh_160x192", "matrix multiply"),
        ("void at::native::elementwise_kernel<direct_copy_kernel_cuda(x)>", "copy, cat, pad, cast"),
        ("void at::native::CatArrayBatchedCopy<half>", "copy, cat, pad, cast"),
        ("reduce_kernel<NormTwoOps<float>>", "normalization"),
        ("void upsample_nearest2d_out_frame<float>", "upsampling"),
        ("vectorized_elementwise_kernel<8, silu_kernel>", "elementwise"),
        ("triton_poi_fused_add_cat_convolution_silu_3", "elementwise"),
        ("triton_per_fused_convolution_linalg_vector_norm_5", "normalization"),
        ("_add_norm", "normalization"),
        ("Cijk_Ailk_Bljk_HHS_BH_Bias_MT128x128x32_TransposeLDS", "matrix multiply"),
        ("void cutlass::Kernel<cutlass::gemm::NumericConverter<half, float>>", "matrix multiply"),
        ("volta_scudnn_128x64_relu_interior_nn_v1", "convolution"),
        ("turing_fp16_s1688cudnn_fp16_256x64_ldg8_relu_f2f_exp_interior_nhwc", "convolution"),
        ("igemm_fwd_gtcx3_nhwc_fp16", "convolution"),
        ("volta_igemm_int8_128x128_ldg16", "matrix multiply"),
        ("void cudnn::ops::convertTensor_kernel<float, half>", "copy, cat, pad, cast"),
        ("split_embedding_codegen_forward_unweighted_kernel", "copy, cat, pad, cast"),
        ("void fbgemm_gpu::bounds_check_indices_kernel<long>", "other"),
        ("void vllm::rotary_embedding_kernel<half, true>", "other"),
        ("void at::native::(anonymous namespace)::indexSelectLargeIndex", "copy, cat, pad, cast"),
        ("void at::native::vectorized_gather_kernel<16, long>", "copy, cat, pad, cast"),
        ("void at::native::sbtopk::gatherTopK<float>", "other"),
        ("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "communication"),
        ("ncclKernel_ReduceScatter_RING_LL_Sum_half", "communication"),
        ("rcclGenericKernel(ncclDevComm*)", "communication"),
        ("void vllm::cross_device_reduce_1stage<half, 8>", "communication"),
        ("something_else", "other"),
    ],
)
def test_kernel_families(name, family):
    assert family_of(name) == family and {one for one, _ in FAMILIES} <= set(FAMILY_COLORS)
