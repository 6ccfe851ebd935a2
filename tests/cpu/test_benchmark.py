"""Statistics, the benchmark's plan, its records, tables and pictures."""

import errno
import gc
import itertools
import re
import subprocess
import sys
import weakref
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import NearestDecoder, latents_for, leftovers
from vdkit import (
    DecodeConfig,
    RawSink,
    document_of,
    load_decoder,
    plot_timeline,
    read_recording,
    run_benchmark,
)
from vdkit.decode.paths import PATHS
from vdkit.measure.nvml import Nvml
from vdkit.measure.study import MODES, FrameHasher
from vdkit.present import Number, summary_decimals
from vdkit.present.documents import benchmark_table, breakdown_table, caption
from vdkit.present.timeline import steady_window
from vdkit.present.words import noise_note, overlap_words
from vdkit.record import check_out, result_folder
from vdkit.record.recording import write_recording
from vdkit.record.results import runs_frame
from vdkit.record.runs import COMMIT_VARIABLE, THROTTLE_BITS, SinkInfo, git_state
from vdkit.record.runs import MODES as NAMES
from vdkit.record.stats import geometric_ratio, summarize
from vdkit.sinks import SinkSpec

NULL = SinkSpec("null")


def bench(decoder=None, latents=None, factory=NULL.fresh, **options):
    decoder = decoder or NearestDecoder()
    latents = latents_for(decoder) if latents is None else latents
    options = {"modes": ("sync", "async", "compute_only"), "runs": 3, "progress": False} | options
    return run_benchmark(
        decoder, latents, factory, sink_info=SinkInfo(kind="null", storage=None), **options
    )


RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def result():
    return bench(
        load_decoder("tiny-wan", "cpu"),
        modes=("diffusers", "sync", "async", "compute_only"),
        fps=24,
        latents=latents_for(load_decoder("tiny-wan", "cpu"), frames=7),
    )


class TestStatistics:
    def test_summary_of_known_values(self):
        summary = summarize([4.0, 1.0, 2.0, 3.0])
        assert (summary.n, summary.mean, summary.median, summary.min, summary.max) == (
            4,
            2.5,
            2.5,
            1,
            4,
        )
        assert summary.p99 == pytest.approx(3.97)
        assert summary.std == pytest.approx(np.std([1, 2, 3, 4], ddof=1))
        assert summarize([5.0]).std == 0

    @pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
    def test_nothing_to_summarize(self, values):
        with pytest.raises(ValueError, match="at least one finite value"):
            summarize(values)

    def test_ratio_is_paired(self):
        """Drift shared by both modes of a round cancels; unpaired it would swamp the 2 %."""
        drift = np.linspace(1, 3, 20)
        ratio = geometric_ratio(1.02 * drift, drift)
        assert ratio.value == pytest.approx(1.02)
        assert 1.0199 < ratio.low <= ratio.value <= ratio.high < 1.0201
        assert ratio.pairs == 20

    def test_interval_by_hand(self):
        """Ratios 2 and 8: geometric mean 4, standard error of the log ln 2, and t is 12.706."""
        ratio = geometric_ratio([2.0, 24.0], [1.0, 3.0])
        assert ratio.value == pytest.approx(4)
        ends = 4 * 2**-12.70620, 4 * 2**12.70620
        assert (ratio.low, ratio.high) == pytest.approx(ends, rel=1e-4)

    def test_one_pair_has_no_interval(self):
        assert geometric_ratio([2.0], [1.0]).low is None

    def test_constant_pairs_have_an_interval_without_width(self):
        ratio = geometric_ratio([0.3] * 3, [0.1] * 3)
        assert ratio.low == ratio.value == ratio.high == pytest.approx(3)

    @pytest.mark.parametrize(("a", "b"), [([1.0], []), ([], []), ([1.0], [0.0]), ([-1.0], [1.0])])
    def test_bad_pairs(self, a, b):
        with pytest.raises(ValueError):
            geometric_ratio(a, b)


@pytest.fixture
def automatic_gc_off():
    gc.disable()
    yield
    gc.enable()


class TestPlan:
    def test_modes_are_called_the_same_everywhere(self):
        assert list(MODES) == list(NAMES) and set(PATHS) == set(NAMES)

    def test_modes_take_turns(self):
        labels = []

        def factory(label):
            labels.append(label)
            return NULL.fresh(label)

        result = bench(factory=factory, modes=("async", "sync"), runs=4, warmup=2)
        assert labels == [
            "async-000", "sync-000", "sync-001", "async-001", "async-002", "sync-002",
            "sync-003", "async-003", "async-004", "sync-004", "sync-005", "async-005",
        ]  # fmt: skip
        for mode, arm in result.arms.items():
            made = [(run.mode, run.round, run.warmup) for run in arm.runs]
            assert made == [(mode, number, number < 0) for number in range(-2, 4)]
        assert result.arms["sync"].latency.n == 4

    def test_sinks_are_fresh_and_named_and_garbage_is_gone(self, tmp_path, automatic_gc_off):
        labels, garbage = [], []
        spec = SinkSpec("raw", tmp_path)

        class Watched(RawSink):
            def open(self, info):
                assert garbage[-1]() is None, "garbage from before is left for the run"
                super().open(info)

        @contextmanager
        def factory(label):
            labels.append(label)
            cycle = Watched(tmp_path / "cycle")
            cycle.itself = cycle
            garbage.append(weakref.ref(cycle))
            del cycle
            with spec.fresh(label) as sink:
                yield Watched(sink.path)

        bench(factory=factory, runs=2, modes=("sync", "async"))
        assert labels == [
            "async-000", "sync-000", "sync-001", "async-001", "async-002", "sync-002",
        ]  # fmt: skip
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"modes": ()}, "modes are missing"),
            ({"modes": ("sync", "fast")}, "modes fast: use any of diffusers, sync, async, compute"),
            ({"modes": ("sync", "sync")}, "each may be named once"),
            ({"runs": 0}, "runs is 0"),
            ({"warmup": -1}, "warmup is -1; use 0 or more"),
            ({"baseline": "diffusers"}, "baseline 'diffusers' is not among the modes"),
        ],
    )
    def test_bad_plans(self, options, message):
        with pytest.raises(ValueError, match=message):
            bench(**options)

    def test_different_frames_are_noticed(self):
        class Drifting(NearestDecoder):
            calls = 0

            def begin(self, latents):
                self.calls += 1
                return latents + (1.0 if self.calls == 2 else 0.0)

        result = bench(Drifting())
        assert result.frames_identical is False
        assert "NOT IDENTICAL" in caption(result)

    def test_diffusers_is_not_compared_at_larger_chunks(self):
        decoder = load_decoder("tiny-wan", "cpu")
        result = bench(
            decoder, latents_for(decoder, 5), modes=("diffusers", "sync", "async"), runs=1,
            config=DecodeConfig(chunk_size=2),
        )  # fmt: skip
        assert result.frames_identical
        assert "Frames of sync, async: identical" in caption(result)
        assert "Not compared at chunk sizes above 1: diffusers" in caption(result)

    def test_one_mode_alone_proves_nothing(self):
        result = bench(modes=("async", "compute_only"), runs=1)
        assert result.frames_identical is None
        assert "Frames were not compared" in caption(result)

    def test_nan_frames_are_an_error_not_black(self):
        class Overflowing(NearestDecoder):
            def decode_chunk(self, state, start, stop):
                return super().decode_chunk(state, start, stop) * float("nan" if start == 3 else 1)

        with pytest.raises(
            ValueError, match=r"NaN or inf in torch.float32, first in chunk 3 \(latent frames 3"
        ):
            bench(Overflowing())


class TestRecord:
    def test_figures_follow_from_the_raw_values(self, result):
        for name, mode in result.arms.items():
            raw = [run.latency_s for run in result.arms[name].timed]
            assert mode.latency == summarize(raw)
            assert mode.rtf == pytest.approx(np.mean(raw) / (25 / 24))
        base = [run.latency_s for run in result.arms["sync"].timed]
        ours = [run.latency_s for run in result.arms["async"].timed]
        assert result.speedup("async") == geometric_ratio(base, ours)
        assert result.speedup("sync") is None and result.baseline == "sync"
        assert result.frames_identical
        hashes = {mode.frame_sha256 for mode in result.arms.values()}
        assert hashes == {result.arms["sync"].frame_sha256, None}

    def test_says_where_it_comes_from(self, result):
        where, work = result.provenance, result.workload
        assert where.device == "cpu" and where.host_cores >= 1 and where.packages["torch"]
        assert len(work.weights_sha256) == len(work.latents_sha256) == 64
        assert (work.frames, work.latent_frames, work.height, work.width) == (25, 7, 24, 40)
        assert work.seconds == pytest.approx(25 / 24)
        for mode, arm in result.arms.items():
            assert {len(run.chunks) for run in arm.runs} == {1 if mode == "diffusers" else 7}

    def test_comes_back_from_the_file(self, result, tmp_path):
        write_recording(result, tmp_path)
        again = read_recording(tmp_path)
        assert list(again.arms) == list(result.arms) and again.workload == result.workload
        for mode, arm in result.arms.items():
            for old, new in zip(arm.runs, again.arms[mode].runs, strict=True):
                assert old.latency_s == new.latency_s
                assert new.chunks[-1].decode_done_s == pytest.approx(
                    old.chunks[-1].decode_done_s, abs=1e-9
                )
        assert read_recording(tmp_path / "recording.json") == again

    def test_is_never_overwritten(self, result, tmp_path):
        write_recording(result, tmp_path)
        with pytest.raises(FileExistsError, match="append-only"):
            write_recording(result, tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda text: text[:-200], "is not JSON .*, or was cut short"),
            (lambda text: "[1, 2]", "not a vdkit result"),
            (lambda text: "{}", "not a vdkit result"),
            (
                lambda text: text.replace('"schema_version":6', '"schema_version":99'),
                "schema version 99",
            ),
            (
                lambda text: text.replace('"latency_s":', '"latency_ms":'),
                "does not hold a valid result",
            ),
            (
                lambda text: text.replace('"baseline":"sync"', '"baseline":"x"'),
                "baseline 'x' is not",
            ),
            (lambda text: text.replace('"warmup":false', '"warmup":true'), "has no timed run"),
            (lambda text: text.replace('"async"', '"turbo"'), "mode 'turbo' is unknown"),
            (lambda text: re.sub(r'"slot":\[[^]]*\]', '"slot":[0]', text), "differ in length"),
        ],
    )
    def test_damaged_files_are_named(self, result, tmp_path, change, message):
        path = write_recording(result, tmp_path)
        path.write_text(change(path.read_text()))
        with pytest.raises(ValueError, match=message) as caught:
            read_recording(tmp_path)
        assert str(path) in str(caught.value)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no result at"):
            read_recording(tmp_path)

    def test_many_processes_at_once_overwrite_nothing(self, result, tmp_path):
        """Of those that write one name one wins, and is told so; folders are everyone's own."""
        write_recording(result, tmp_path)
        code = """
import os, sys
from functools import partial
from pathlib import Path
from vdkit.record import result_folder
from vdkit.record.recording import write_recording
from vdkit.record.results import read_recording
home, names, result = Path(sys.argv[1]), range(10), read_recording(sys.argv[1])
for name in names:
    (home / str(name)).mkdir()
ready, gates = os.pipe(), [os.pipe() for _ in names]
for number in range(6):
    if os.fork() == 0:
        for gate in gates:
            os.close(gate[1])
        mine, won = result.model_copy(update={"label": f"child {number}"}), []

        def after_all(publish):
            def call(*arguments):
                os.write(ready[1], b".")
                os.read(gates[name][0], 1)  # until the parent closes its end, when all are here
                return publish(*arguments)

            return call

        os.link, os.replace = after_all(os.link), after_all(os.replace)
        for name in names:
            try:
                write_recording(mine, home / str(name))
                won.append(name)
            except FileExistsError:
                pass
        name = 0  # its gate is open
        for _ in range(4):
            result_folder(home / "new", "x", mine.provenance, partial(write_recording, mine))
        (home / f"won{number}").write_text(" ".join(map(str, won)))
        os._exit(0)
for gate in gates:
    for _ in range(6):
        os.read(ready[0], 1)
    os.close(gate[1])
sys.exit(any(os.wait()[1] for _ in range(6)))
"""
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
        won = {n: (tmp_path / f"won{n}").read_text().split() for n in range(6)}
        assert sorted(itertools.chain(*won.values())) == sorted(map(str, range(10)))
        for number, names in won.items():
            for name in names:
                assert read_recording(tmp_path / name).label == f"child {number}"
        labels = [read_recording(folder).label for folder in (tmp_path / "new").iterdir()]
        assert sorted(labels) == sorted(f"child {n}" for n in range(6) for _ in range(4))
        assert not leftovers(tmp_path)

    def test_without_hard_links_nothing_is_overwritten_either(self, result, tmp_path, monkeypatch):
        def no_links(*_):
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr("os.link", no_links)
        path = write_recording(result, tmp_path)
        kept = path.read_bytes()
        with pytest.raises(FileExistsError, match="append-only"):
            write_recording(result.model_copy(update={"label": "other"}), tmp_path)
        assert path.read_bytes() == kept and list(tmp_path.iterdir()) == [path]

    def test_folder_name(self, result, tmp_path):
        folder = result_folder(tmp_path, result.label, result.provenance)
        again = result_folder(tmp_path, result.label, result.provenance)
        assert again.name == folder.name + "-2"
        assert re.fullmatch(r"\d{8}T\d{6}Z_cpu_[0-9a-z]{5,7}(-dirty)?_bench", folder.name)

    def test_bad_places_are_seen_first(self, tmp_path):
        check_out(tmp_path / "new" / "er", "label")
        assert not list(tmp_path.iterdir())
        (tmp_path / "file").touch()
        for out in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(OSError, match="file"):
                check_out(out, "label")
        with pytest.raises(OSError, match="cannot be written to"):
            check_out(Path("/proc/nope"), "label")
        with pytest.raises(ValueError, match="has 300 characters; use 100"):
            check_out(tmp_path, "x" * 300)

    def test_commit_can_be_named_outside_git(self, tmp_path, monkeypatch):
        assert git_state(tmp_path) == (None, None)
        monkeypatch.setenv(COMMIT_VARIABLE, "abc123-dirty")
        assert git_state(tmp_path) == ("abc123", True)
        monkeypatch.setenv(COMMIT_VARIABLE, "abc123")
        assert git_state(tmp_path) == ("abc123", False)


class TestPresentation:
    def test_table_shows_what_was_measured(self, result):
        rows = benchmark_table(result).rows
        assert [row["mode"] for row in rows] == list(NAMES.values())
        for row, arm in zip(rows, result.arms.values(), strict=True):
            last = summary_decimals(arm.latency)
            assert (
                str(row["mean s"]) == str(Number(arm.latency.mean, last)) and str(row["n"]) == "3"
            )
            assert str(row["P99 s†"]) == str(Number(arm.latency.p99, last))
            assert row["mean s"].value == arm.latency.mean
        report = document_of(result).markdown()
        assert "25 frames (7 latent) of 24x40 at 24 fps = 1.04 s of video" in report
        lines = [line for line in report.splitlines() if line.startswith("|")]
        assert len(lines) == 6 + 6 and len({line.count("|") for line in lines[:6]}) == 1

    def test_breakdown_adds_up(self, result):
        rows = dict(zip(result.arms, breakdown_table(result).rows, strict=True))
        parts = sum(
            cell.value for name, cell in rows["sync"].items() if name not in ("mode", "gaps s")
        )
        assert rows["diffusers"]["copy s"] is None, "VideoProcessor copies within the conversion"
        assert parts <= result.arms["sync"].latency.mean + 0.001
        assert rows["compute_only"]["copy s"] is rows["compute_only"]["write s"] is None
        assert noise_note(result) == "" or "ratios say little" in noise_note(result)

    def test_noise_is_warned_of(self, result):
        even = {
            name: arm.model_copy(
                update={"runs": tuple(r.model_copy(update={"latency_s": 1.0}) for r in arm.runs)}
            )
            for name, arm in result.arms.items()
        }
        assert noise_note(result.model_copy(update={"arms": even})) == ""
        first, *others = even["sync"].timed
        slow = first.model_copy(update={"latency_s": 100.0})
        arm = even["sync"].model_copy(update={"runs": (slow, *others)})
        noisy = result.model_copy(update={"arms": {**even, "sync": arm}})
        assert "runs of sync" in noise_note(noisy) and "ratios say little" in noise_note(noisy)
        assert document_of(noisy).text().startswith("Note: runs of ")

    def test_overlap_is_told_from_the_conversion(self, result):
        """Sync 3 s, with the conversion on the GPU 2 s, async 1 s: a factor 1.5 and a factor 2."""
        assert overlap_words(result.arms, "async") == ""

        def lasting(mode, latency_s, **config):
            arm = result.arms[mode]
            runs = [
                run.model_copy(
                    update={"latency_s": latency_s, "warmup": False}
                    | ({"chunks": tuple(map(without_conversion, run.chunks))} if config else {})
                )
                for run in arm.timed
            ]
            return arm.model_copy(update={"runs": tuple(runs), "config": DecodeConfig(**config)})

        def without_conversion(chunk):
            return replace(chunk, convert_start_s=None, convert_done_s=None)

        arms = {
            "sync": lasting("sync", 3.0),
            "async": lasting("async", 1.0),
            "sync, uint8 on the GPU": lasting("sync", 2.0, sync_uint8_on_gpu=True),
        }
        words = overlap_words(arms, "async")
        assert "Of sync / async, 1.5000 is the conversion to uint8 on the GPU" in words
        assert "2.0000 is overlap (sync, uint8 on the GPU / async)." in words
        made = result.model_copy(update={"arms": arms})
        assert any(words in sentence for sentence in document_of(made).lead)

    def test_runs_keep_full_precision(self, result, tmp_path):
        import pandas as pd

        runs_frame(result).to_csv(tmp_path / "runs.csv", index=False)
        table = pd.read_csv(tmp_path / "runs.csv")
        runs = [run for arm in result.arms.values() for run in arm.runs]
        assert list(table["latency_s"]) == [run.latency_s for run in runs]
        assert len(table) == 16

    def test_the_legend_fits_the_picture(self, result):
        """On a CPU and, with its shorter and longer words, on a GPU."""
        gpu = read_recording(next(RESULTS.glob("*c942496_aws-float16")))
        for one in (result, gpu):
            figure = plot_timeline({mode: one.arms[mode].typical() for mode in ("sync", "async")})
            figure.draw_without_rendering()
            (legend,) = figure.legends
            box, room = legend.get_window_extent(), figure.bbox
            assert room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0

    def test_timeline_has_a_bar_for_every_step(self, result):
        figure = plot_timeline({mode: result.arms[mode].typical() for mode in ("sync", "async")})
        sync, overlapped = figure.axes
        assert [label.get_text() for label in sync.get_yticklabels()] == [
            "compute",
            "copy",
            "convert",
            "write",
        ]
        assert [label.get_text() for label in overlapped.get_yticklabels()] == [
            "compute",
            "copy",
            "write",
        ]
        bars = [sum(len(one.get_paths()) for one in ax.collections) for ax in figure.axes]
        assert bars == [4 * 7, 3 * 7]
        assert sync.get_xlim() == overlapped.get_xlim()

    def test_zoom_shows_the_middle(self, result):
        run = result.arms["async"].typical()
        start, stop = steady_window(run, 3)
        assert (start, stop) == (run.chunks[2].decode_start_s, run.chunks[4].decode_done_s)
        assert steady_window(result.arms["diffusers"].typical(), 3) == (
            0.0,
            result.arms["diffusers"].typical().latency_s,
        )


class FakeNvml:
    """As pynvml, for a device that answers some questions."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self, reasons=0, refuse=()):
        self.reasons, self.refuse = reasons, refuse

    def __getattr__(self, name):
        def call(*arguments):
            if name in self.refuse:
                raise self.NVMLError("Not Supported")
            return {
                "nvmlDeviceGetClockInfo": 1980,
                "nvmlDeviceGetPowerUsage": 690_500,
                "nvmlDeviceGetTemperature": 61,
                "nvmlDeviceGetTotalEnergyConsumption": 5_000,
                "nvmlDeviceGetCurrentClocksEventReasons": self.reasons,
                "nvmlSystemGetDriverVersion": "580.1",
            }.get(name)

        return call


class TestNvml:
    @pytest.fixture
    def reading(self, monkeypatch):
        def read(**behaviour):
            fake = FakeNvml(**behaviour)
            monkeypatch.setitem(__import__("sys").modules, "pynvml", fake)
            return Nvml("GPU-1").read()

        return read

    def test_units(self, reading):
        found = reading()
        assert (found.sm_clock_mhz, found.power_w, found.energy_j) == (1980, 690.5, 5.0)
        assert found.throttle_reasons == () and found.unsupported == {}

    def test_throttling_is_named(self, reading):
        bits = THROTTLE_BITS["software power cap"] | THROTTLE_BITS["hardware thermal"] | 0x1
        assert reading(reasons=bits).throttle_reasons == ("software power cap", "hardware thermal")

    def test_what_is_not_answered_is_absent_not_zero(self, reading):
        found = reading(refuse=("nvmlDeviceGetPowerUsage",))
        assert found.power_w is None and found.unsupported == {"power_w": "Not Supported"}

    def test_unusable_nvml_says_why(self, reading):
        with pytest.raises(RuntimeError, match="NVML cannot read GPU-1: Not Supported"):
            reading(refuse=("nvmlInit",))


def test_a_decoder_that_lacks_something_is_named_itself():
    """Not what the benchmark wraps around it."""
    with pytest.raises(TypeError, match="NearestDecoder is no WholeVideoDecoder") as caught:
        bench(modes=("sync", "diffusers"))
    assert "modes=('sync', 'async', 'compute_only')" in str(caught.value)

    class Partly(NearestDecoder):
        begin = property()

    with pytest.raises(TypeError, match="Partly is no ChunkDecoder: it lacks begin"):
        bench(Partly(), latents_for(NearestDecoder()))


def test_hasher_sees_order_and_size():
    from vdkit.decode.media import MediaInfo

    def digest(frames, height=2):
        hasher = FrameHasher()
        hasher.open(MediaInfo(len(frames), height, 2, 16))
        for frame in frames:
            hasher.write(frame)
        hasher.close()
        return hasher.sha256

    a, b = np.zeros((1, 2, 2, 3), np.uint8), np.ones((1, 2, 2, 3), np.uint8)
    assert digest([a, b]) == digest([a, b]) != digest([b, a])
    assert digest([a, b]) == digest([np.concatenate([a, b])])
    assert digest([a, b]) != digest([a, b], height=1)
