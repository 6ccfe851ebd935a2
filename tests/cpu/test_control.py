"""The A/A control: quiet about nothing, loud about planted work, recorded whole or not at all."""

import contextlib
import io
import json
import math
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from tests.helpers import Collect, NearestDecoder, latents_for
from vdkit import decode_sync, document_of, load_results, read_recording
from vdkit.__main__ import main
from vdkit.decode import frames_to_uint8
from vdkit.decode.chunks import DecodeConfig
from vdkit.measure.plans import PlantedDecoder, calibrate, chunk_seconds, run_aa
from vdkit.present.charts import plot_rounds
from vdkit.record.compare import ARMS, HOUR_CALLS, check_draws, compare_results, judge, judged
from vdkit.record.recording import Planted
from vdkit.record.runs import SinkInfo
from vdkit.record.stats import wilson

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ["bench", "--aa", "--device", "cpu", "--latents", "random:9x16x16", "--sink", "null",
         "--runs", "8", "--pairs", "8", "--splits", "3", "--plant", "60"]  # fmt: skip


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """It takes a tenth of a second before every run, and only matters to their times."""
    monkeypatch.setattr("vdkit.measure.study.gc.collect", lambda: 0)


@contextmanager
def collected(label):
    yield Collect()


def controlled(decoder=None, **options):
    decoder = decoder or NearestDecoder(delay_s=0.002)
    given = {"rounds": 8, "pairs": 8, "splits": 2, "plant_percent": 100, "progress": False}
    return run_aa(
        decoder,
        latents_for(decoder),
        collected,
        sink_info=SinkInfo(kind="collect", storage=None),
        **given | options,
    )


class Into(NearestDecoder):
    """Also decodes into a buffer, as the paths then prefer, and counts how often."""

    into = 0

    def decode_into(self, state, start, stop, out):
        self.into += 1
        frames = self.decode_chunk(state, start, stop)
        frames_to_uint8(frames, out)
        return (~frames.isfinite()).any()


def drawn(shift=1.0, rounds=40, scatter=0.01, bias=1.0, seed=0):
    random = np.random.default_rng(seed)
    noise = np.exp(scatter * random.standard_normal((3, rounds)))
    return {"a": noise[0], "b": bias * noise[1], "slow": shift * noise[2]}


def test_a_planted_decoder_gives_the_same_frames_and_does_the_work(monkeypatch):
    multiply, ran = torch.mm, []
    monkeypatch.setattr(torch, "mm", lambda *of, **to: ran.append(multiply(*of, **to)))
    decoder = NearestDecoder()
    planted = PlantedDecoder(decoder, 20.0)
    plain, slow = Collect(), Collect()
    latents = latents_for(decoder)
    decode_sync(decoder, latents, plain, progress=False)
    assert not ran
    decode_sync(planted, latents, slow, progress=False)
    assert plain.sha256 == slow.sha256
    assert planted.name == "nearest" and planted.temporal_factor == 4
    assert len(ran) == planted.done == 20 * latents.shape[2]
    assert {one.shape for one in ran} == {(planted.size, planted.size)}


@pytest.mark.parametrize("rate", [0.0, 0.3, 2.0, 2.7])
def test_shares_that_are_not_whole_add_up(rate):
    planted = PlantedDecoder(NearestDecoder(), rate)
    done = []
    planted.work = done.append
    state = torch.zeros(1, 4, 10, 1, 1)
    for start, stop in ((0, 1), (1, 4), (4, 7), (7, 10)):
        planted.decode_chunk(state, start, stop)
    assert sum(done) == math.floor(rate * 10) == planted.products_until(10)
    assert all(abs(count - 3 * rate) < 1 for count in done[1:])


def test_calibration_doses_the_work(monkeypatch):
    planted = PlantedDecoder(NearestDecoder())
    monkeypatch.setattr("vdkit.measure.plans.time_product", lambda planted: 1e-4)
    made = calibrate(planted, 0.010, 0.080, 5, chunk_size=2, frames=21)
    assert made["products_per_latent_frame"] == pytest.approx(0.05 * 0.080 / 1e-4 / 2)
    assert planted.products_per_latent_frame == made["products_per_latent_frame"]
    assert planted.products_until(1) == 5  # 5 % of 10 ms
    assert made["products"] == 405
    plan = Planted(pairs=8, splits=1, percent=5, seed=0, orders=(), **made)
    assert plan.planted_s == pytest.approx(0.05 * (0.010 + 10 * 0.080))
    calibrate(planted, 0.004, 0.004, 5, 1, 21)  # two products to a chunk: just fine enough
    with pytest.raises(ValueError, match=r"0.19 ms, but one product .* takes 0.1 ms: plant 6 %"):
        calibrate(planted, 0.0038, 0.0038, 5, 1, 21)


def test_the_chunk_time_is_of_steady_chunks():
    class Run:
        def __init__(self, spans):
            self.chunks = [Mock(span_s=lambda step, took=took: took) for took in spans]

    assert chunk_seconds(Run([9, 8, 8, 8, 8, 1, 2, 3])) == (9, 2)
    assert chunk_seconds(Run([9, 4, 5, 6])) == (9, 5)
    assert chunk_seconds(Run([9])) == (9, 9)


def test_nothing_is_called_where_nothing_is_even_if_the_arms_differ():
    for bias in (1.0, 1.5):  # labels are swapped: a real difference of a and b is no false call
        judged = judge(drawn(bias=bias), 10, 40)
        assert judged.false_calls["paired"].count <= 2
        assert judged.false_calls["unpaired"].count <= 2
        assert judged.false_calls["paired"].n == 40


def test_what_is_planted_is_found_and_only_if_slower():
    assert judge(drawn(1.05), 10, 40).found["paired"].count == 40
    assert judge(drawn(1.0), 10, 40).found["paired"].count <= 2
    faster = judge(drawn(0.9), 10, 40)
    assert faster.found["paired"].count == faster.found["unpaired"].count == 0
    assert faster.planted.value == pytest.approx(0.9, abs=0.01)


def test_pairing_finds_what_drift_hides():
    values = drawn(1.05, scatter=0.005)
    drift = np.linspace(1, 1.5, 40)
    judged = judge({arm: drift * one for arm, one in values.items()}, 10, 40)
    assert judged.found["paired"].count == 40 and judged.found["unpaired"].count < 20


def test_blocks_of_one_arm_are_compared_as_sessions_are():
    drift = np.repeat([1.0, 1.02, 1.04, 1.06], 10)  # another hour, another clock
    values = {arm: drift * one for arm, one in drawn(scatter=1e-4).items()}
    assert judge(values, 10, 5).hour_calls == wilson(18, 18)
    assert judge(drawn(), 10, 5).hour_calls.count <= 2
    assert judge(drawn(rounds=19), 10, 5).hour_calls is None


def test_the_caution_of_compare_is_what_the_recorded_controls_say():
    found = [
        judged(one) for folder in Path("results").glob("*_aa-*") for one in [read_recording(folder)]
    ]
    assert len(found) == 2
    for metric, calls in HOUR_CALLS.items():
        each = [one[metric].hour_calls for one in found]
        assert calls == (sum(one.count for one in each), sum(one.n for one in each))


def test_draws_are_seeded():
    values = drawn(1.012, scatter=0.015)
    assert judge(values, 10, 30, seed=1) == judge(values, 10, 30, seed=1)
    assert judge(values, 10, 30, seed=1).found != judge(values, 10, 30, seed=2).found


@pytest.mark.parametrize(
    ("rounds", "pairs", "splits", "message"),
    [
        (40, 7, 40, "pairs is 7; fewer than 8 can never be called"),
        (9, 10, 40, "rounds is 9 and pairs 10: .* use 10 rounds or more"),
        (40, 10, 0, "splits is 0"),
    ],
)
def test_draws_that_could_say_nothing(rounds, pairs, splits, message):
    with pytest.raises(ValueError, match=message):
        check_draws(rounds, pairs, splits)


def test_rounds_run_every_arm_once_in_seeded_random_order():
    recording = controlled()
    plan = recording.planted
    assert len(plan.orders) == 9 and all(sorted(order) == sorted(ARMS) for order in plan.orders)
    assert len(set(plan.orders)) > 1
    assert controlled().planted.orders == plan.orders
    assert controlled(seed=1).planted.orders != plan.orders
    assert recording.kind == "aa" and tuple(recording.arms) == ARMS and recording.label == "aa"
    for arm in recording.arms.values():
        assert [run.round for run in arm.runs] == list(range(-1, 8)) and arm.runs[0].warmup
        assert arm.mode == "async"
    hashes = {arm.frame_sha256 for arm in recording.arms.values()}
    assert len(hashes) == 1 and None not in hashes
    assert plan.done == (plan.products,) * 8


@pytest.mark.parametrize("mode", ["async", "compute_only"])
def test_a_decoder_that_decodes_into_a_buffer_gets_the_work_too(mode):
    decoder = Into(delay_s=0.002)
    planted = controlled(decoder, mode=mode).planted
    assert decoder.into > 0 and planted.products > 0
    assert planted.done == (planted.products,) * 8


def test_work_that_does_not_run_is_an_error(monkeypatch):
    """As it would be if a path went past what plants it."""
    monkeypatch.setattr(PlantedDecoder, "_decode_into", lambda self, *given: self._go(*given))
    monkeypatch.setattr(
        PlantedDecoder, "_go", lambda self, *given: self._decoder.decode_into(*given), raising=False
    )
    with pytest.raises(RuntimeError, match=r"every slow run, 0 to 0 did; the decoder has a way"):
        controlled(Into(delay_s=0.002), mode="compute_only")


def test_figures_are_those_of_the_runs():
    recording = controlled(mode="sync")
    latency = judged(recording)["latency_s"]
    slow, a = (recording.arms[arm].latencies for arm in ("slow", "a"))
    assert latency.planted.value == pytest.approx(math.exp(np.log(np.divide(slow, a)).mean()))
    pair = compare_results(recording, recording, modes=[("a", "slow")])
    assert pair.paired and pair.rows[0].decision.ratio == latency.planted


def test_compute_has_no_first_frame():
    recording = controlled(mode="compute_only")
    assert list(judged(recording)) == ["latency_s"]
    assert "TTFF" not in document_of(recording).text()


def test_another_recording_has_no_verdict():
    recording = controlled().model_copy(update={"planted": None})
    with pytest.raises(ValueError, match="aa is no A/A control; record one with vdkit bench --aa"):
        judged(recording)


def test_a_decoder_that_gives_other_frames_every_time_is_refused():
    class Moody(NearestDecoder):
        def decode_chunk(self, state, start, stop):
            frames = super().decode_chunk(state, start, stop)
            return torch.rand_like(frames)

    with pytest.raises(ValueError, match="different frames in two runs of the same setting"):
        controlled(Moody(delay_s=0.002))


def test_the_table_says_whether_the_aims_were_met():
    recording = controlled()
    document, found = document_of(recording), judged(recording)
    for how in ("paired", "unpaired"):
        quiet, sharp = found["latency_s"].aims_met(how)
        assert quiet == (found["latency_s"].false_calls[how].count <= 0.05 * 2)
        assert sharp == (found["latency_s"].found[how].count >= 0.95 * 2)
    text = document.text()
    assert text.count("NOT MET") == sum(
        not met for one in found.values()
        for how in ("paired", "unpaired") for met in one.aims_met(how)
    )  # fmt: skip
    assert "Planted: 100 % of a chunk's" in text and "Measured, slow against a: latency +" in text
    arms, calls = document.tables()
    assert [row["latency s"].value for row in arms.rows] == [
        recording.arms[arm].latency.mean for arm in ARMS
    ]
    share = found["latency_s"].found["paired"]
    cell = calls.rows[0]["slow against a: found %"]
    assert (cell.value, cell.low) == (100 * share.count / 2, 100 * share.low)
    assert str(cell).startswith(f"{50 * share.count:.1f} ({share.count} of 2) [")


def test_the_picture_shows_every_round_outside_the_legend(tmp_path):
    figure = plot_rounds(controlled())
    (ax,) = figure.axes
    points = [line for line in ax.lines if line.get_marker() != "None"]
    assert [len(line.get_xdata()) for line in points] == [8, 8, 8]
    assert "does not start at 0" in ax.get_ylabel() and ax.get_ylim()[0] > 0
    assert figure.get_figwidth() == pytest.approx(16 / 2.54)
    figure.savefig(tmp_path / "rounds.png")  # which lays it out
    (legend,) = figure.legends
    assert legend.get_window_extent().y1 <= ax.get_tightbbox().y0 + 1


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(Folder, what was printed) of one `vdkit bench --aa`."""
    out, printed = tmp_path_factory.mktemp("aa"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*QUICK, "--out", str(out), "--mode", "sync"]) == 0
    (folder,) = out.iterdir()
    return folder, printed.getvalue()


def test_aa_records_everything_and_compare_reads_it(made, capsys):
    folder, printed = made
    lines = printed.splitlines()
    assert folder.name.endswith("_aa") and json.loads(lines[-1])["folder"] == str(folder)
    assert {path.name for path in folder.iterdir()} >= {
        "recording.json", "rounds.png", "runs.csv", "table.md",
    }  # fmt: skip
    recording = read_recording(folder)
    assert recording.base.mode == "sync" and recording.planted.percent == 60
    assert "vdkit bench --aa" in recording.command and recording.config == DecodeConfig()
    assert document_of(recording).text() in (folder / "table.md").read_text()
    for arm in ARMS:
        assert len(recording.arms[arm].timed) == 8
    assert main(["compare", str(folder), str(folder), "--mode-a", "a", "--mode-b", "b"]) == 0
    assert main(["show", str(folder)]) == 0
    assert "8 rounds" in capsys.readouterr().out


def test_the_slow_arm_is_not_among_the_results_unless_named(made):
    folder, _ = made
    frame = load_results(folder.parent)
    assert set(frame["arm"]) == {"a", "b"} and len(frame) == 18
    assert len(load_results(f"{folder.parent}/**")) == 18
    assert len(load_results(folder / "recording.json")) == 27


def test_json_only(tmp_path, capsys):
    main([*QUICK, "--out", str(tmp_path), "--json", "--label", "own"])
    (line,) = capsys.readouterr().out.splitlines()
    whole = json.loads(line)
    assert whole["folder"].endswith("_own") and "paired" in whole["calls"]["latency_s"]["found"]
    assert whole["planted"]["percent"] == 60 and whole["arms"]["slow"]["latency_s"]["n"] == 8


def test_an_interrupt_leaves_nothing(tmp_path, capsys, monkeypatch):
    def stop(record, path):
        raise KeyboardInterrupt

    monkeypatch.setattr("vdkit.record.recording.write_record", stop)
    assert main([*QUICK, "--out", str(tmp_path)]) == 130
    assert list(tmp_path.iterdir()) == []
    assert "nothing was recorded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "diffusers"], "mode 'diffusers' cannot be controlled: use one of sync, async"),
        (["--mode", "sync,async"], "mode 'sync,async' cannot be controlled"),
        (["--pairs", "3"], "pairs is 3; fewer than 8"),
        (["--runs", "7"], "rounds is 7 and pairs 8"),
        (["--splits", "0"], "splits is 0"),
        (["--plant", "0"], "plant is 0 %; use more than 0"),
        (["--plant", "nan"], "plant is nan %"),
        (["--plant", "0.001"], "but one product of 192x192 matrices takes"),
        (["--slots", "99"], "slots is 99"),
    ],
)
def test_bad_input_is_said_in_one_line(arguments, message, tmp_path, capsys):
    assert main([*QUICK, "--out", str(tmp_path), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and list(tmp_path.iterdir()) == []
