"""Profiled runs on this machine: one clock, a record, pictures, and the command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from tests.cpu.test_trace import EVENTS, chunked, write
from tests.helpers import NearestDecoder, latents_for
from tests.perfetto import load, problems
from tests.timelines import timeline
from vdkit.__main__ import main
from vdkit.decode.chunks import DecodeConfig
from vdkit.measure.profiler import align, count_flops, measure_ceiling, profile_run, run_profile
from vdkit.present import charts, nvml_chart, overlap
from vdkit.present import profile_tables as tables
from vdkit.present import tables as tables_of
from vdkit.present.profile_report import analysis_text, profile_text
from vdkit.present.profile_tables import incomplete, warning
from vdkit.record.old_profile import read_profile, write_profile
from vdkit.record.runs import SinkInfo
from vdkit.sinks.files import NullSink
from vdkit.sinks.spec import SinkSpec
from vdkit.trace.figures import analyze
from vdkit.trace.read import read_trace

(PROFILE,) = (Path(__file__).parents[2] / "results").glob("*2ad74eb_aws-profile")


@pytest.fixture(scope="module")
def recorded():
    decoder = NearestDecoder(delay_s=0.002)
    return run_profile(
        decoder, latents_for(decoder, frames=9), SinkSpec("null").fresh,
        sink_info=SinkInfo(**SinkSpec("null").describe()), modes=("sync", "async", "compute"),
        runs=2, progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["sync", "async", "compute"])
def test_profile_run_gives_records_and_trace_on_one_clock(mode):
    decoder = NearestDecoder(delay_s=0.001)
    made = profile_run(mode, decoder, latents_for(decoder, frames=9), NullSink())
    assert made.run.mode == mode and len(made.run.chunks) == 9 and made.device == "cpu"
    assert len(made.kernels) == 0 and made.alignment.event_residual_ns is None
    assert 0 < made.alignment.host_residual_ns < 50_000_000
    # the decoder's operators lie inside the launches that the records name
    slack = made.alignment.host_residual_ns + 200_000
    launches = [(c.launch_start_s * 1e9, c.launch_done_s * 1e9) for c in made.run.chunks]
    threads = [
        sum(((a >= lo - slack) & (b <= hi + slack)).sum() for lo, hi in launches)
        for a, b in made.ops.values()
    ]
    assert max(threads) >= 9
    analysis = analyze(made)
    assert list(analysis.windows) == ["run", "steady", "two chunks"] and not analysis.failed
    assert {w.resolution for w in analysis.windows.values()} == {"chunk"}


def test_bad_calls(tmp_path):
    decoder = NearestDecoder()
    latents = latents_for(decoder)
    with pytest.raises(ValueError, match="'fast' is unknown; use one of diffusers, sync"):
        profile_run("fast", decoder, latents, NullSink())
    there = tmp_path / "t.json"
    there.write_text("mine")
    with pytest.raises(FileExistsError, match="is there already"):
        profile_run("sync", decoder, latents, NullSink(), keep=there)
    assert there.read_text() == "mine"
    with pytest.raises(RuntimeError, match="the decoder failed"):
        profile_run("async", NearestDecoder(fail_at=2), latents, NullSink())
    profile_run("async", decoder, latents, NullSink(), keep=tmp_path / "kept.json.gz")
    with pytest.raises(ValueError, match="no GPU events"):
        read_trace(tmp_path / "kept.json.gz")


def test_align_takes_the_narrowest_bracket_and_says_what_is_left():
    markers = ((1000, 1010), (2000, 2010), (9000, 9010), (9900, 9910))
    before = [(5900, 6500), (6990, 7020)]  # the second is narrow: offset 5000
    after = [(13996, 14020), (14800, 15900)]  # the first is narrow: offset 5003
    offset, residual = align(markers, before, after)
    assert offset == 5001 and residual == 11
    with pytest.raises(RuntimeError, match="3 of 4 clock markers"):
        align(markers[:3], before, after)


def test_flops_and_ceiling():
    from vdkit import load_decoder

    decoder = load_decoder("tiny-wan", "cpu")
    latents = latents_for(decoder, frames=9, height=2, width=3)
    single = count_flops(decoder, latents, 1)
    assert len(single) == 9 and 0 < single[0] < single[3] and len(set(single[3:])) == 1
    pairs = count_flops(decoder, latents[:, :, :8], 2)
    assert len(pairs) == 5 and pairs[3] == 2 * single[3] and pairs[4] == single[3]
    assert sum(count_flops(NearestDecoder(), latents_for(NearestDecoder()), 1)) == 0
    assert measure_ceiling(torch.device("cpu"), torch.float32).tflop_per_s > 0


def test_the_record(recorded, tmp_path):
    result = recorded.result
    assert [len(m.timed) for m in result.arms.values()] == [2, 2, 2]
    assert all(m.analysis.profiler_cost_percent is not None for m in result.arms.values())
    path = write_profile(result, tmp_path)
    again = read_profile(tmp_path)
    assert again.model_dump_json() == result.model_dump_json()
    with pytest.raises(FileExistsError, match="append-only"):
        write_profile(result, tmp_path)
    path.write_text(path.read_text().replace('"schema_version":5', '"schema_version":9'))
    with pytest.raises(ValueError, match="reads up to 5"):
        read_profile(tmp_path)
    with pytest.raises(FileNotFoundError, match="no result at"):
        read_profile(tmp_path / "absent")
    assert recorded.nvml_csv() == "" and result.nvml_samples is None


def test_stalls_of_every_window_add_up(recorded):
    for one in recorded.result.arms.values():
        for window in one.analysis.windows.values():
            assert sum(window.stall_s.values()) == pytest.approx(window.idle_s, abs=1e-12)
            assert window.explained_percent == 100


def test_pictures(recorded, tmp_path):
    result = recorded.result
    analyses = {mode: one.analysis for mode, one in result.arms.items()}
    runs = {mode: one.profiled for mode, one in result.arms.items()}
    latencies = {mode: [run.latency_s for run in m.timed] for mode, m in result.arms.items()}
    nvml = {
        "time_s": list(np.linspace(0, 0.1, 20)), "power_w": [300.0] * 20,
        "sm_active_percent": [None, 50.0] * 10,
    }  # fmt: skip
    figures = [
        charts.plot_utilization(analyses), charts.plot_waterfall(analyses),
        charts.plot_latencies(latencies), nvml_chart.plot_nvml(runs["async"], nvml),
        overlap.plot_overlap(runs, result.config),
    ]  # fmt: skip
    for figure in figures:
        assert figure.get_figwidth() * 2.54 == pytest.approx(16)
        figure.savefig(tmp_path / "t.png")
    import matplotlib.pyplot as plt

    assert not plt.get_fignums()
    figure, ax = plt.subplots()
    for draw in (charts.plot_utilization, charts.plot_waterfall):
        assert draw(analyses, ax) is figure
    assert charts.plot_latencies(latencies, ax) is figure
    plt.close(figure)


def test_the_timeline_shades_the_stalls_that_the_table_names():
    """The trace's, where there is one: a late launch inside a chunk is in no event record."""
    made = chunked()
    late = made.gpu.chunk == 4
    made.gpu = made.gpu.where(~late | (made.gpu.start_ns % 1_000_000 == 0))
    assert analyze(made).windows["run"].stall_s["unknown"] > 0
    runs = {"async": made.run}
    for timelines, seen, words in (
        ({"async": made}, True, "from the trace (kernel resolution)"),
        (None, False, "from event records (chunk resolution"),
    ):
        found = "\n".join(
            t.get_text()
            for t in texts(overlap.plot_overlap(runs, made.config, None, "", timelines))
        )
        assert ("stall: unknown" in found) is seen and words in found
        assert "end of two chunks" in found and "slot held by copy" not in found
    profile = read_profile(PROFILE)
    trace = read_trace(PROFILE / profile.modes["sync"].trace)
    stalls = overlap.run_stalls(profile.modes["sync"].profiled, profile.config, trace)
    table = profile.modes["sync"].analysis.windows["run"].stall_s
    for cause in ("launch late", "host work", "synchronous copy"):
        assert stalls.by_cause_ns[cause] / 1e9 == pytest.approx(table[cause])


def test_pictures_say_what_they_show(recorded, tmp_path):
    """Model, size, dtype and device above each; legends of what is there; nothing overprinted."""
    result = recorded.result
    where = tables_of.what_and_where(result)
    assert where == "nearest in float32, 33 frames of 24x40, cpu"
    charts.write_charts(result, tmp_path, recorded.timelines)
    figure = charts.plot_latencies({"a": [1.0, 1.0]}, title=where)
    words = "\n".join(t.get_text() for t in texts(figure))
    assert where in words and "n < 100: read it as the maximum" in words
    mean, p99 = figure.axes[0].collections[1:3]
    (above,), (below,) = mean.get_paths(), p99.get_paths()
    assert above.get_extents().ymax < 0 < below.get_extents().ymin
    analyses = {mode: one.analysis for mode, one in result.arms.items()}
    for draw in (charts.plot_utilization, charts.plot_waterfall):
        assert any(where in t.get_text() for t in texts(draw(analyses, title=where)))
    far = read_profile(PROFILE)
    modes = {mode: one.analysis for mode, one in far.modes.items()}
    cut = [t.get_text() for t in texts(charts.plot_waterfall(modes))]
    assert cut.count("//") == 2 and any("does not start at 0" in text for text in cut)
    runs = {mode: one.profiled for mode, one in result.arms.items()}
    for name, run, label in (
        ("cpu", runs["async"], "decode (the decoder's call)"),
        ("gpu", far.modes["async"].profiled, "decode on the compute stream"),
    ):
        figure = overlap.plot_overlap({"async": run}, result.config, name)
        assert label in [t.get_text() for t in texts(figure)]


def test_throttling_is_shaded_and_named(recorded):
    run = recorded.result.arms["async"].profiled
    bits = [0.0, None, 4.0, None, 12.0, 0.0]
    nvml = {"time_s": [0.01 * n for n in range(6)], "power_w": [9.0] * 6}
    nvml["clock_event_reasons"] = bits
    assert nvml_chart.throttled_spans(nvml) == [
        (0.02, 0.04, "software power cap"),
        (0.04, 0.05, "software power cap, hardware slowdown"),
    ]
    for reasons, label in (
        (bits, "throttled:\nsoftware power cap"),
        ([0.0] * 6, "never throttled"),
    ):
        figure = nvml_chart.plot_nvml(run, nvml | {"clock_event_reasons": reasons})
        assert label in [t.get_text() for t in texts(figure)]
    del nvml["clock_event_reasons"]
    found = [t.get_text() for t in texts(nvml_chart.plot_nvml(run, nvml))]
    assert not any("throttled" in text for text in found)


def test_on_a_cpu_tables_speak_of_decoder_calls(recorded):
    text = profile_text(recorded.result)
    one = analysis_text("async", recorded.result.arms["async"].analysis)
    for words in (text, one):
        assert "decoder call %" in words and "On a CPU there are no kernels" in words
        for absent in (
            "kernel utilization",
            "D2H",
            "| kernels",
            "0 kernels",
            "events against host",
        ):
            assert absent not in words
    assert "no nvml.csv: there was no GPU" in text and "9 decoder calls" in one
    gpu = profile_text(read_profile(PROFILE))
    assert "kernel utilization %" in gpu and "On a CPU" not in gpu and "no nvml.csv" not in gpu
    figure = charts.plot_utilization({"async": recorded.result.arms["async"].analysis})
    assert any("decoder calls, %" in text.get_text() for text in texts(figure))


def test_tables_explain_themselves():
    made = chunked()
    raw = timeline([(0, 10, 0), (15, 20, 1), (200, 210, 2)])
    (row,) = tables.window_rows({"async": analyze(raw)})
    assert (row["gaps"], row["> 20 us"]) == ("2", "1")
    text = analysis_text("t", analyze(raw))
    assert "Window `trace`: first to last event of the GPU" in text
    assert "- unknown: none of these, or the trace does not say" in text
    assert "- slot held by copy" not in text
    assert "Window `trace`" not in analysis_text("async", analyze(made))
    made.timed_latency_s = (2 * made.run.latency_s,)
    assert "-50.0 % (within noise)" in analysis_text("async", analyze(made))
    made.timed_latency_s = (made.run.latency_s / 2,)
    assert "+100.0 %\n" in analysis_text("async", analyze(made))
    assert [tables.significant(v) for v in (0.0123456, 1.5, 134.49, 2672.4, None)] == [
        "0.0123", "1.50", "134", "2672", "-",
    ]  # fmt: skip
    raw.names[0] = "void at::native::elementwise_kernel<" + "x" * 200 + "direct_copy_kernel>"
    (gap,) = tables.gap_rows(analyze(raw))
    assert len(gap["next kernel"]) == 60 and gap["next kernel"].endswith("direct_copy_kernel>")


def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_text()]


def test_a_failed_check_is_in_red_words_everywhere(recorded):
    made = chunked()
    made.gpu = made.gpu.where(made.gpu.correlation != 55)
    bad = {"async": analyze(made), "sync": analyze(made)}
    assert "INCOMPLETE TRACE (async): launches = kernels" in "\n".join(incomplete(bad))
    assert warning(bad, "terminal").startswith("\x1b[1;31mINCOMPLETE TRACE")
    assert 'style="color:#c00000">INCOMPLETE' in warning(bad, "markdown")
    assert "INCOMPLETE TRACE" in analysis_text("async", bad["async"])
    words = "\n".join(incomplete(bad))
    for figure in (
        charts.plot_utilization(bad), charts.plot_waterfall(bad),
        overlap.plot_overlap({"async": made.run}, DecodeConfig(), "title", words),
    ):  # fmt: skip
        red = [t for t in texts(figure) if t.get_color() == charts.RED]
        assert any("INCOMPLETE TRACE" in t.get_text() for t in red)
    good = {mode: one.analysis for mode, one in recorded.result.arms.items()}
    assert warning(good, "terminal") == "" and "INCOMPLETE" not in profile_text(recorded.result)


def test_vdkit_profile_and_show_and_analyze(tmp_path, capsys):
    arguments = ["--latents", "random:33x16x16", "--runs", "1", "--modes", "sync,async"]
    arguments += ["--device", "cpu"]
    assert main(["profile", *arguments, "--sink", "null", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    last = json.loads(out.splitlines()[-1])
    home = Path(last["folder"])
    assert last["failed_checks"] == {} and "profiler cost %" in out
    assert {path.name for path in home.iterdir()} == {
        "profile.json", "table.md", "timeline.png", "utilization.png", "waterfall.png",
        "latency.png", "trace_sync.json.gz", "trace_async.json.gz",
    }  # fmt: skip
    for mode in ("sync", "async"):
        assert problems(load(home / f"trace_{mode}.json.gz")) == []
    assert main(["show", str(home)]) == 0
    assert "Where window 'run' went" in capsys.readouterr().out
    assert main(["show", str(home), "--zoom", "2"]) == 2
    assert "this is a profile" in capsys.readouterr().err
    assert main(["analyze", str(home / "trace_async.json.gz"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    first = json.loads((home / "profile.json").read_text())["modes"]["async"]["analysis"]
    for name, window in first["windows"].items():
        for key in ("busy_s", "kernel_utilization_percent", "start_s", "stop_s"):
            assert again["windows"][name][key] == pytest.approx(window[key], rel=1e-6)


def test_vdkit_analyze_a_foreign_trace(tmp_path, capsys):
    path = write(tmp_path / "t.json", {"traceEvents": EVENTS})
    assert main(["analyze", str(path)]) == 0
    out = capsys.readouterr().out
    assert "convolution" in out and "layout conversion" in out and "Longest gaps" in out
    lost = write(tmp_path / "lost.json", [*EVENTS, {**EVENTS[1], "args": {"correlation": 77}}])
    assert main(["analyze", str(lost)]) == 1
    captured = capsys.readouterr()
    assert "INCOMPLETE TRACE" in captured.out and "the trace is incomplete" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyze", "absent.json"], "no trace at absent.json"),
        (["profile", "--runs", "0", "--latents", "random:9x16x16"], "runs is 0; use 1 or more$"),
        (["profile", "--modes", "fast", "--latents", "random:9x16x16"], "modes fast: use any of"),
        (
            ["profile", "--nvml-ms", "0", "--latents", "random:9x16x16"],
            r"--nvml-ms is 0 ms; use 1 to 10000 ms",
        ),
        (["profile", "--nvml-ms", "nan", "--latents", "random:9x16x16"], "--nvml-ms is nan ms"),
        (["profile", "--nvtx", "--latents", "random:9x16x16"], "nvtx ranges need a CUDA device"),
    ],
)
def test_bad_input_on_the_command_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    more = ["--device", "cpu", "--sink", "null"] if arguments[0] == "profile" else []
    assert main([*arguments, *more]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.glob("results/2*"))


def test_nvtx_must_be_a_truth_value():
    with pytest.raises(ValueError, match="nvtx is 'yes'"):
        DecodeConfig(nvtx="yes")
