"""Costs by setting, what a setting would give, and the picture that follows a slider."""

import io
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from vdkit.decode.chunks import DecodeConfig
from vdkit.explorer import LiveTimeline, Panel
from vdkit.predict import predict, video_info
from vdkit.predict.advise import Setting, predict_setting
from vdkit.predict.fit import CostBook, Decoding, fit_costs
from vdkit.present.style import STYLE
from vdkit.record.results import read_recording
from vdkit.record.runs import SinkInfo

RESULTS = Path(__file__).parents[2] / "results"
RECORDED = RESULTS / "20261121T004501Z_nvidia-h200_c942496_aws-float16"
CHUNK_2 = RESULTS / "20261120T235018Z_nvidia-h200_ed2f46d_aws-chunk-2"
HERE = Decoding("here", "wan2.1", "diffusers", "float16", 480, 832, "raw")


@pytest.fixture(scope="module")
def recorded():
    return read_recording(RECORDED)


def of_all_arms(recording, **given):
    arms = {name: arm.model_copy(update=given) for name, arm in recording.arms.items()}
    return recording.model_copy(update={"arms": arms})


@pytest.fixture
def book(recorded):
    book = CostBook()
    assert book.add(recorded, "here")
    return book


def test_exact_costs_are_those_of_the_fit(book, recorded):
    known = book.lookup(HERE)
    assert known.origin.startswith("measured") and known.chunk_sizes == (1,)
    assert known.costs == fit_costs(recorded)
    book.add(read_recording(CHUNK_2), "here")
    assert book.lookup(HERE).costs == fit_costs(recorded, read_recording(CHUNK_2))
    assert book.lookup(HERE).chunk_sizes == (1, 2)


def test_a_later_benchmark_of_the_same_configuration_replaces_the_earlier(book, recorded):
    book.add(recorded.model_copy(update={"label": "later"}), "here")
    assert book.lookup(HERE).origin == "measured (1 benchmark)"


def test_costs_of_sync_are_not_lost_to_a_later_benchmark_without(book, recorded):
    """Into another sink of that name; alone, such a benchmark is kept, and sync is not known."""
    some = {name: arm for name, arm in recorded.arms.items() if arm.mode != "sync"}
    bare = of_all_arms(
        recorded.model_copy(update={"arms": some, "baseline": "async"}),
        sink=SinkInfo(kind="raw", storage="another"),
    )
    assert not book.add(bare, "here") and book.lookup(HERE).costs == fit_costs(recorded)
    assert book.add(bare, "there")
    with pytest.raises(LookupError, match="sync was not measured with these"):
        predict_setting(book, Setting(replace(HERE, machine="there"), 41))


def test_another_size_is_scaled_by_pixels_and_says_so(book):
    small = replace(HERE, height=240, width=416)
    exact, scaled = book.lookup(HERE).costs, book.lookup(small)
    assert "a guess: scaled by pixels from 480x832" in scaled.origin
    assert scaled.costs.decode.seconds(4) == pytest.approx(exact.decode.seconds(4) / 4)
    assert scaled.costs.launch == exact.launch and scaled.costs.vram_bytes == ()


def test_a_sink_that_was_not_measured_is_not_guessed_but_null_is_free(book, recorded):
    null = replace(HERE, sink="null")
    assert book.lookup(null).costs.write.seconds(4) == 0
    assert "writes taken as free" in book.lookup(null).origin
    assert book.lookup(null).costs.decode == book.lookup(HERE).costs.decode
    with pytest.raises(LookupError, match=r"nothing is known yet of wan2.1 .* to png on here"):
        book.lookup(replace(HERE, sink="png"))


def test_contents_and_formats_share_no_costs_unsaid(book, recorded):
    noise = book.lookup(HERE).costs
    flat = book.lookup(replace(HERE, content="flat"))
    assert (flat.origin, flat.costs) == ("a guess: measured with noise", noise)
    half = book.lookup(replace(HERE, pixel_format="nv12"))
    assert half.origin == "a guess: measured in rgb24"
    for step in ("copy", "write"):
        whole_s, half_s = (getattr(one, step).seconds(4) for one in (noise, half.costs))
        assert half_s == pytest.approx(whole_s / 2)
    assert half.costs.decode == noise.decode
    drawn = recorded.workload.model_copy(update={"content": "flat", "latents": "clips:161x480x832"})
    book.add(of_all_arms(recorded, workload=drawn), "here")
    assert book.lookup(replace(HERE, content="flat")).origin == "measured (1 benchmark)"
    assert book.lookup(HERE).origin == "measured (1 benchmark)"
    assert book.lookup(replace(HERE, content="flat", height=240)).origin.count("measured") == 0


def test_a_number_of_encoders_that_was_not_recorded_is_no_silent_guess(book):
    setting = Setting(HERE, 41)
    assert predict_setting(book, setting).setting.encoders == 1
    with pytest.raises(LookupError, match="of 4 encoders side by side, only of 1"):
        predict_setting(book, replace(setting, encoders=4))


def test_what_is_not_known_is_named(book):
    with pytest.raises(LookupError, match=r"nothing is known yet of wan2.1 \(fast\) in float16"):
        book.lookup(replace(HERE, variant="fast"))
    with pytest.raises(LookupError, match="on elsewhere"):
        book.lookup(replace(HERE, machine="elsewhere"))


def test_a_throttled_benchmark_tells_no_costs(book, recorded):
    slow = of_all_arms(recorded, sink=SinkInfo(kind="raw", storage=None, throttle_mb_per_s=9.0))
    assert not book.add(slow, "here")


def test_the_recorded_folder_is_read_whole():
    book = CostBook()
    book.read(RESULTS)
    known = book.known("NVIDIA H200, recorded")
    assert {key.variant for key in known} == {"diffusers", "channels_last", "compiled", "fast"}
    exact = book.lookup(replace(HERE, machine="NVIDIA H200, recorded"))
    assert {1, 2, 4} <= set(exact.chunk_sizes)


def test_a_prediction_is_the_prediction_with_the_storage_held(book, recorded):
    made = predict_setting(book, Setting(HERE, 41))
    for mode in ("sync", "async"):
        alone = predict(fit_costs(recorded), video_info(recorded), DecodeConfig(), mode)
        assert made.predictions[mode].run.latency_s == alone.run.latency_s
    held = predict_setting(book, Setting(HERE, 41, mb_per_s=30.0))
    bytes_in_all = 161 * 480 * 832 * 3
    assert held.predictions["async"].run.latency_s > bytes_in_all / 30e6
    assert any("The sink is the bottleneck" in remark for remark in held.remarks)
    assert not any("bottleneck" in remark for remark in made.remarks)


@pytest.mark.parametrize(
    ("config", "latent_frames", "words"),
    [
        (DecodeConfig(slots=1), 41, "With one slot"),
        (DecodeConfig(slots=16), 5, "5 chunks: more slots"),
        (DecodeConfig(chunk_size=8), 5, "it is two chunks"),
        (DecodeConfig(), 1, "a single chunk"),
        (DecodeConfig(chunk_size=3), 41, "Chunk size 3 was not measured"),
    ],
)
def test_remarks_say_what_is_in_the_way(book, config, latent_frames, words):
    made = predict_setting(book, Setting(HERE, latent_frames, config))
    assert any(words in remark for remark in made.remarks)


def test_what_does_not_fit_is_said(book):
    assert any("does not fit" in r for r in predict_setting(book, Setting(HERE, 41), 10**9).remarks)
    assert not any("not fit" in r for r in predict_setting(book, Setting(HERE, 41), 10**11).remarks)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"H\.264 in 4:2:0 needs even sides"):
        Setting(replace(HERE, height=481, sink="mp4"), 41)
    with pytest.raises(ValueError, match="storage speed is 0"):
        Setting(HERE, 41, mb_per_s=0)


@pytest.fixture
def panels(book, recorded):
    made = predict_setting(book, Setting(HERE, 41))
    return [
        Panel(mode, (one.run, recorded.arms[mode].typical()), one.stalls)
        for mode, one in made.predictions.items()
    ]


def boxes(ax):
    """(left, right) of every bar on an axis, one collection after the other."""
    return [
        np.array([(p.vertices[:, 0].min(), p.vertices[:, 0].max()) for p in one.get_paths()])
        for one in ax.collections
    ]


def test_every_chunk_of_every_lane_is_drawn_where_it_was(panels):
    picture = LiveTimeline()
    picture.draw(panels)
    for (whole, _), panel in zip(picture._axes, panels, strict=True):
        drawn = boxes(whole)[0]
        spans = [
            (getattr(c, f"{step}_start_s"), getattr(c, f"{step}_done_s"))
            for run in panel.runs
            for step in ("decode", "copy", "convert", "write")
            for c in run.chunks
            if getattr(c, f"{step}_start_s") is not None
        ]
        assert len(drawn) == len(spans)
        np.testing.assert_allclose(np.sort(drawn[:, 0]), np.sort([a for a, _ in spans]))


def test_drawn_again_nothing_is_left_of_before(panels):
    picture = LiveTimeline()
    picture.draw(panels)
    counts = [len(ax.collections) + len(ax.lines) for pair in picture._axes for ax in pair]
    first = picture.png()
    picture.draw(panels[:1])
    assert not picture._axes[1][0].get_visible()
    picture.draw(panels)
    assert [len(ax.collections) + len(ax.lines) for pair in picture._axes for ax in pair] == counts
    assert picture.png() == first
    assert len(picture.figure.legends) == 1


def test_words_in_place_of_a_picture_and_files_for_a_report(panels, tmp_path):
    picture = LiveTimeline()
    picture.say("nothing is known")
    size = Image.open(io.BytesIO(picture.png())).size
    picture.draw(panels)
    assert Image.open(io.BytesIO(picture.png())).size == size
    assert not picture.figure.texts
    with mpl.rc_context(STYLE):
        picture.figure.savefig(tmp_path / "t.svg")
    assert "predicted: sink closed" in (tmp_path / "t.svg").read_text()
