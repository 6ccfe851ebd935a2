"""Profiled runs on this machine: one clock, a record, pictures, and the command line."""

import json
import re
from dataclasses import replace
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
from vdkit.measure import profiler
from vdkit.measure.profiler import align, count_flops, measure_ceiling, profile_run, run_profile
from vdkit.present import instruments as documents
from vdkit.present import timeline as drawn
from vdkit.present.columns import Asked
from vdkit.present.documents import Source, document_of
from vdkit.present.words import what_and_where
from vdkit.record.recording import write_recording
from vdkit.record.results import read_recording
from vdkit.record.runs import SinkInfo
from vdkit.sinks import NullSink, SinkSpec
from vdkit.trace.figures import analyze, steady_windows
from vdkit.trace.files import read_trace
from vdkit.trace.stalls import run_window, stalls_of

(PROFILE,) = (Path(__file__).parents[2] / "results").glob("*2ad74eb_aws-profile")


@pytest.fixture(scope="module")
def far():
    """A profile recorded on a GPU."""
    return read_recording(PROFILE)


def document(recording, home=None):
    return document_of(recording, Asked(), Source(home))


def analysis_text(name, analysis):
    return documents.analysis_document(name, analysis).text()


@pytest.fixture(scope="module")
def recorded():
    decoder = NearestDecoder(delay_s=0.002)
    return run_profile(
        decoder, latents_for(decoder, frames=9), SinkSpec("null").fresh,
        sink_info=SinkInfo(**SinkSpec("null").describe()), modes=("sync", "async", "compute_only"),
        runs=2, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def recording(recorded):
    return recorded.recording


@pytest.mark.parametrize("mode", ["sync", "async", "compute_only"])
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


def test_the_record(recorded, recording, tmp_path):
    arms = recording.arms
    assert recording.kind == "profile" and recording.baseline == "sync"
    assert list(arms) == list(recorded.timelines) == ["sync", "async", "compute_only"]
    assert [len(arm.timed) for arm in arms.values()] == [2, 2, 2]
    assert recording.frames_identical is True
    for mode, arm in arms.items():
        assert arm.profile.analysis.timed_latency_s == tuple(arm.latencies)
        assert len(arm.profile.latencies_s) == 3 and arm.profile.sampled == ()
        assert arm.profile.run.latency_s == np.median(arm.profile.latencies_s)
        assert recorded.timelines[mode].run == arm.profile.run
    write_recording(recording, tmp_path)
    assert read_recording(tmp_path).model_dump_json() == recording.model_dump_json()
    assert recorded.nvml_csv() == "" and recording.sampling is None


def tried(latency_s, whole=True, file=None):
    made = chunked()
    made.run = made.run.model_copy(update={"latency_s": latency_s})
    made.dropped = () if whole else ("CUPTI dropped 12 activity records",)
    return profiler._Try(made.run, made, (), file)


def test_a_typical_profiled_run_is_kept(tmp_path):
    """The nearest to the median of all, if its trace is whole; of a single one, that one."""
    one, two, three = tried(0.0095), tried(0.0093), tried(0.0099)
    assert profiler._typical([one, two, three]) is one
    assert profiler._typical([two]) is two
    lost = tried(0.0095, whole=False)
    assert profiler._typical([lost, two, three]) is two
    assert profiler._typical([lost]) is lost
    files = [tmp_path / f"kineto_sync-{number}.json.gz" for number in range(3)]
    for file in files:
        file.write_text(file.name)
    lengths = (0.0099, 0.0095, 0.0093)
    profiler._typical([tried(s, file=f) for s, f in zip(lengths, files, strict=True)])
    (kept,) = tmp_path.iterdir()
    assert kept.name == "kineto_sync.json.gz" and kept.read_text() == "kineto_sync-1.json.gz"


def test_on_a_gpu_sampled_runs_take_turns_with_timed_ones(monkeypatch):
    """A device that is one by its UUID only: the runs are this CPU's."""
    asked = []

    class Sampler:
        def __init__(self, uuid, interval_s):
            asked.append((uuid, interval_s))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            columns = {"time_s": [-1e9, 1e9], "energy_j": [1.0, 3.0]}
            columns |= {"clock_event_reasons": [4, 0]}
            self.samples = profiler.Samples(0.0, columns, {"power_w": "Not Supported"}, 0.01)

    monkeypatch.setattr(profiler, "gpu_uuid", lambda device: "GPU-1")
    monkeypatch.setattr(profiler, "NvmlSampler", Sampler)
    decoder = NearestDecoder()
    made = run_profile(
        decoder, latents_for(decoder, frames=3), SinkSpec("null").fresh,
        sink_info=SinkInfo(kind="null", storage=None), modes=("sync", "async"), runs=2,
        profiled=1, progress=False,
    )  # fmt: skip
    assert asked == [("GPU-1", 0.02)] * 6
    assert list(made.recording.arms) == ["sync", "async"]
    profile = made.recording.arms["async"].profile
    assert [run.round for run in profile.sampled] == [0, 1] and profile.energy_j == (2.0, 2.0)
    assert profile.throttled_samples == {"software power cap": 2}  # none within the profiled run
    sampling = made.recording.sampling
    assert (sampling.samples, sampling.interval_s, sampling.mean_cost_ms) == (8, 0.02, 10 / 3)
    assert list(made.samples) == [
        "sync-000", "sync-001", "sync-profiled", "async-000", "async-001", "async-profiled",
    ]  # fmt: skip
    header, *rows = made.nvml_csv().splitlines()
    assert header == "run,time_s,energy_j,clock_event_reasons" and len(rows) == 8
    name, samples = next(iter(made.samples.items()))
    first = [repr(column[0]) for column in samples.columns.values()]  # in full precision
    assert rows[0] == ",".join([name, *("" if one == "None" else one for one in first)])
    (row, _) = documents.paths_table(made.recording).rows
    assert row["J / video"].value == 2 and row["throttled"] == "software power cap"
    assert row["sampled / plain"].low < row["sampled / plain"].value
    words = documents.ceiling_words(made.recording)
    assert "Not answered by NVML here: power_w (Not Supported)." in words


def test_two_chunks_are_a_typical_pair():
    starts = [0, 1, 2, 3, 10, 30, 33, 36, 45, 55]  # pairs from 30: 6, 12, 19
    assert steady_windows(starts) == {"steady": (30, 55), "two chunks": (33, 45)}
    assert steady_windows(starts[:3]) == {"steady": (1, 2)} and steady_windows([0, 1]) == {}


def test_stalls_of_every_window_add_up(recording):
    for arm in recording.arms.values():
        for window in arm.profile.analysis.windows.values():
            assert sum(window.stall_s.values()) == pytest.approx(
                window.window_s - window.busy_s, abs=1e-12
            )
            assert window.explained_percent == 100


def test_pictures(recording, tmp_path):
    analyses = documents.analyses_of(recording)
    runs = {mode: arm.profile.run for mode, arm in recording.arms.items()}
    latencies = {mode: arm.latencies for mode, arm in recording.arms.items()}
    nvml = {
        "time_s": list(np.linspace(0, 0.1, 20)), "power_w": [300.0] * 20,
        "sm_active_percent": [None, 50.0] * 10,
    }  # fmt: skip
    figures = [
        drawn.plot_utilization(analyses), drawn.plot_waterfall(analyses),
        drawn.plot_latencies(latencies), drawn.plot_nvml(runs["async"], nvml),
        drawn.plot_overlap(runs, recording.config),
    ]  # fmt: skip
    for figure in figures:
        assert figure.get_figwidth() * 2.54 == pytest.approx(16)
        figure.savefig(tmp_path / "t.png")
    import matplotlib.pyplot as plt

    assert not plt.get_fignums()


def test_the_timeline_shades_the_stalls_that_the_table_names(far):
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
            t.get_text() for t in texts(drawn.plot_overlap(runs, made.config, None, "", timelines))
        )
        assert ("stall: unknown" in found) is seen and words in found
        assert "end of two chunks" in found and "slot held by copy" not in found
    profile = far.arms["sync"].profile
    trace = read_trace(PROFILE / profile.trace)
    stalls = stalls_of(trace, run_window(profile.run))
    table = profile.analysis.windows["run"].stall_s
    for cause in ("launch late", "host work", "synchronous copy"):
        assert stalls.by_cause_ns[cause] / 1e9 == pytest.approx(table[cause])


def test_pictures_say_what_they_show(recording, far, tmp_path):
    """Model, size, dtype and device above each; legends of what is there; nothing overprinted."""
    where = what_and_where(recording)
    assert where == "nearest in float32, 33 frames of 24x40, cpu"
    made = drawn.profile_figures(recording)
    assert set(made) == {"latency", "utilization", "timeline", "waterfall"}
    for name, draw in made.items():
        assert any(where in t.get_text() for t in texts(draw())), name
    assert "nvml" in drawn.profile_figures(far, PROFILE)
    figure = drawn.plot_latencies({"a": [1.0, 1.0]}, title=where)
    words = "\n".join(t.get_text() for t in texts(figure))
    assert where in words and "n < 100: read it as the maximum" in words
    mean, p99 = figure.axes[0].collections[1:3]
    (above,), (below,) = mean.get_paths(), p99.get_paths()
    assert above.get_extents().ymax < 1 < below.get_extents().ymin
    cut = [t.get_text() for t in texts(drawn.plot_waterfall(documents.analyses_of(far)))]
    assert cut.count("//") == 2 and any("does not start at 0" in text for text in cut)
    assert any("explains 325 of 159 ms (205 %)" in text for text in cut)
    for name, run, label in (
        ("cpu", recording.arms["async"].profile.run, "decode (the decoder's call)"),
        ("gpu", far.arms["async"].profile.run, "decode on the compute stream"),
    ):
        figure = drawn.plot_overlap({"async": run}, recording.config, name)
        assert label in [t.get_text() for t in texts(figure)]


def gains(timed, profiled):
    """Analyses of sync and async that took so many ms, timed and profiled."""
    found = {}
    for mode, timed_ms, profiled_ms in zip(("sync", "async"), timed, profiled, strict=True):
        made = chunked()
        made.timed_latency_s = (timed_ms / 1e3,) * 2
        one = analyze(made)
        run = replace(one.windows["run"], start_s=0.0, stop_s=profiled_ms / 1e3)
        found[mode] = replace(one, windows={"run": run})
    return found


@pytest.mark.parametrize(
    ("timed", "profiled", "words"),
    [
        ((4000, 3740), (3900, 3815), "explains 85.0 of 260 ms (33 %): the rest is not in the prof"),
        ((4000, 3740), (4000, 3750), "explains 250 of 260 ms (96 %)."),
        ((4000, 3740), (4400, 3880), "explains 520 of 260 ms (200 %): profiled, the paths lie fur"),
        ((4000, 3740), (3800, 3826), "explains -26.0 of 260 ms (-10 %): the rest is not in the"),
        ((3740, 3743), (3900, 3850), "gains nothing over sync (-3.00 ms), so the 50.0 ms between"),
    ],
)
def test_what_the_waterfall_explains_of_the_timed_effect(timed, profiled, words):
    made = gains(timed, profiled)
    assert words in documents.coverage_words(made)
    assert documents.coverage_words({"sync": made["sync"]}) == ""
    figure = drawn.plot_waterfall(made)
    axis = figure.axes[0].xaxis.label
    assert words in axis.get_text().replace("\n", " ")
    figure.draw_without_rendering()
    box = axis.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width, "cut off"


def test_throttling_is_shaded_and_named(recording):
    run = recording.arms["async"].profile.run
    bits = [0.0, None, 4.0, None, 12.0, 0.0]
    nvml = {"time_s": [0.01 * n for n in range(6)], "power_w": [9.0] * 6}
    nvml["clock_event_reasons"] = bits
    assert drawn.throttled_spans(nvml) == [
        (0.02, 0.04, "software power cap"),
        (0.04, 0.05, "software power cap, hardware slowdown"),
    ]
    for reasons, label in (
        (bits, "throttled:\nsoftware power cap"),
        ([0.0] * 6, "never throttled"),
    ):
        figure = drawn.plot_nvml(run, nvml | {"clock_event_reasons": reasons})
        assert label in [t.get_text() for t in texts(figure)]
    del nvml["clock_event_reasons"]
    found = [t.get_text() for t in texts(drawn.plot_nvml(run, nvml))]
    assert not any("throttled" in text for text in found)


def test_on_a_cpu_tables_speak_of_decoder_calls(recording, far):
    analyses = documents.analyses_of(recording)
    text = document(recording).text()
    one = analysis_text("async", analyses["async"])
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
    gpu = document(far).text()
    assert "kernel utilization %" in gpu and "On a CPU" not in gpu and "no nvml.csv" not in gpu
    figure = drawn.plot_utilization({"async": analyses["async"]})
    assert any("decoder calls, %" in text.get_text() for text in texts(figure))


def test_tables_explain_themselves():
    made = chunked()
    raw = timeline([(0, 10, 0), (15, 20, 1), (200, 210, 2)])
    (row,) = documents.windows_table({"async": analyze(raw)}).rows
    assert (row["gaps"].value, row["> 20 us"].value) == (2, 1)
    text = analysis_text("t", analyze(raw))
    assert "Window `trace`: first to last event of the GPU" in text
    assert "- unknown: none of these, or the trace does not say" in text
    assert "- slot held by copy" not in text
    assert "Window `trace`" not in analysis_text("async", analyze(made))
    made.timed_latency_s = (2 * made.run.latency_s,)
    cheap = analyze(made)
    assert "the profiler's cost is within noise\n" in analysis_text("async", cheap)
    assert documents.cost_cell(cheap) == "within noise"
    said = drawn.plot_utilization({"async": cheap}).get_suptitle()
    assert said == "profiler cost: async within noise"
    made.timed_latency_s = (made.run.latency_s / 2,)
    assert "the profiler costs +100.0 %\n" in analysis_text("async", analyze(made))
    raw.names[0] = "void at::native::elementwise_kernel<" + "x" * 200 + "direct_copy_kernel>"
    (gap,) = documents.longest_table(analyze(raw)).rows
    assert len(gap["next kernel"]) == 60 and gap["next kernel"].endswith("direct_copy_kernel>")


def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_text()]


def test_a_failed_check_is_in_red_words_everywhere(recording):
    made = chunked()
    made.gpu = made.gpu.where(made.gpu.correlation != 55)
    bad = {"async": analyze(made), "sync": analyze(made)}
    words = documents.incomplete(bad)
    assert "INCOMPLETE TRACE (async): launches = kernels" in words
    arms = {
        name: arm.model_copy(
            update={"profile": arm.profile.model_copy(update={"analysis": bad["sync"]})}
        )
        for name, arm in recording.arms.items()
    }
    for shown in (
        document(recording.model_copy(update={"arms": arms})),
        documents.analysis_document("async", bad["async"]),
    ):
        assert shown.text(terminal=True).startswith("\x1b[1;31mINCOMPLETE TRACE")
        assert shown.text().startswith("INCOMPLETE TRACE")
        assert shown.tables()[1].caption.startswith("INCOMPLETE TRACE")
        assert '<div class="warning"><p>INCOMPLETE TRACE' in shown.html("foot")
    for figure in (
        drawn.plot_utilization(bad), drawn.plot_waterfall(bad),
        drawn.plot_overlap({"async": made.run}, DecodeConfig(), "title", words),
    ):  # fmt: skip
        red = [t for t in texts(figure) if t.get_color() == drawn.style.RED]
        assert any("INCOMPLETE TRACE" in t.get_text() for t in red)
    assert "INCOMPLETE" not in document(recording).text(terminal=True)


def test_the_document_holds_values(far):
    """The figures of the page are those recorded; two that are asked alike are answered alike."""
    shown = document_of(far, Asked(3.36), Source(PROFILE))
    paths, windows, run, steady, families = shown.tables()
    sync, overlapped = paths.rows[1:3]
    assert str(sync["timed s"]) == "3.839" and str(sync["profiler cost %"]) == "+6.4"
    assert str(sync["sampled / plain"]) == "1.036 [1.023, 1.050]"
    assert overlapped["saves USD / 1000 h"].value == pytest.approx(53, abs=0.5)
    assert str(sync["J / video s"]) == "251.9" and str(sync["of ceiling %"]) == "17.8"
    frame = windows.frame()
    assert frame["kernel utilization %"].tolist()[:2] == [75.41, 90.38]
    assert run.rows[-1]["sync (chunked)"].value == pytest.approx(4063.162, abs=1e-3)
    assert [str(row["ms"]) for row in steady.rows][-2:] == ["busy", "window"]
    assert len(families.rows) == 8
    page = shown.html("foot")
    for anchor in ("results", "timeline", "stalls", "utilization", "families", "nvml", "trust"):
        assert f'<section id="{anchor}">' in page
    assert page.count("<img ") == 5 and page.count("explains 325 of 159 ms (205 %)") == 1
    assert "profiled runs are slower" in shown.lead[-1]


def test_vdkit_profile_and_show_and_analyze(tmp_path, capsys):
    arguments = ["--latents", "random:9x16x16", "--runs", "1", "--modes", "sync,async"]
    arguments += ["--device", "cpu"]
    assert main(["profile", *arguments, "--sink", "null", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    last = json.loads(out.splitlines()[-1])
    home = Path(last["folder"])
    assert "profiler cost %" in out
    assert {path.name for path in home.iterdir()} == {
        "recording.json", "runs.csv", "table.md", "timeline.png", "utilization.png",
        "waterfall.png", "latency.png", "trace_sync.json.gz", "trace_async.json.gz", "SHA256SUMS",
    }  # fmt: skip
    for mode in ("sync", "async"):
        assert problems(load(home / f"trace_{mode}.json.gz")) == []
    assert main(["show", str(home)]) == 0
    assert "Where window 'run' went" in capsys.readouterr().out
    assert main(["show", str(home), "--zoom", "2"]) == 2
    assert "--zoom is for a picture" in capsys.readouterr().err
    assert main(["analyze", str(home / "trace_async.json.gz"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    first = read_recording(home).arms["async"].profile.analysis
    for name, window in first.windows.items():
        for key in ("busy_s", "kernel_utilization_percent", "start_s", "stop_s"):
            assert again["windows"][name][key] == pytest.approx(getattr(window, key), rel=1e-6)


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
