"""The explorer without a browser: its session, its thread, its words, its files."""

import contextlib
import io
import re
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from PIL import Image

import vdkit
from tests.helpers import Collect, NearestAudio, NearestDecoder, NearestImages, wait_for
from vdkit.cli import build_parser
from vdkit.decode.chunks import DecodeConfig
from vdkit.explorer import SessionRun, bench_command, difference_words, setting_panels
from vdkit.predict.advise import Setting
from vdkit.predict.fit import Decoding
from vdkit.record.results import read_recording

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 99 GiB"
RECORDED = Path(__file__).parents[2] / "results"


class Plugins:
    """Decoders that cost nothing, or a lot, or fail; those that were loaded; a full disk."""

    def __init__(self):
        self.loaded = []
        self.decoders = {
            "nearest": lambda: self.load(delay_s=0.002),
            "slow": lambda: self.load(delay_s=0.02),
            "greedy": lambda: self.load(fail_at=1, error=torch.OutOfMemoryError(OUT_OF_MEMORY)),
            "absent": self.absent,
            "broken": object,
        }
        self.sinks = {"full": self.full}

    def load(self, **how):
        made = NearestDecoder(**how)
        self.loaded.append(weakref.ref(made))
        return made

    def absent(self):
        raise FileNotFoundError("'absent' is neither a local folder nor a hub repository")

    def full(self, label):
        error = OSError(28, "No space left on device")
        return contextlib.nullcontext(Collect(fail="write", at=2, error=error))


def explore(results, plugins=None, **given):
    plugins = plugins or Plugins()
    start = {
        "decoder": "nearest", "size": "32x48", "latent_frames": 9, "sink": "null",
        "decoders": plugins.decoders, "sinks": plugins.sinks, "device": "cpu", "calibrate": False,
    }  # fmt: skip
    return vdkit.explore(results=results, **(start | given))


@pytest.fixture
def plugins():
    return Plugins()


@pytest.fixture
def explorer(tmp_path, plugins):
    made = explore(tmp_path / "results", plugins, rounds=1)
    yield made
    made.close()
    assert threads() == []


@pytest.fixture(scope="module")
def open_one(tmp_path_factory):
    """(Calibrated, then measured in two rounds, what it showed in between)."""
    made = explore(tmp_path_factory.mktemp("session") / "results", rounds=2)
    made.calibrate(wait_s=60)
    assert made.session.error is None
    before = SimpleNamespace(
        predicted=made._predicted, remarks=made.remarks, keys=closing_keys(made)
    )
    made.run(wait_s=60)
    yield made, before
    made.close()


@pytest.fixture
def before(open_one):
    return open_one[1]


@pytest.fixture
def measured(open_one):
    """The one of this module; every knob is put back. Another one that is opened closes it."""
    made, _ = open_one
    knobs = {control: control.value for control in made.controls.drawn}
    yield made
    for control, value in knobs.items():
        control.value = value


def closing_keys(explorer):
    """Label to line style of the keys that say when a sink was closed."""
    (legend,) = explorer._picture.figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    drawn = dict(zip(words, legend.legend_handles, strict=True))
    return {name: line.get_linestyle() for name, line in drawn.items() if "closed" in name}


def threads():
    return [one.name for one in threading.enumerate() if one.name.startswith("vdkit-explorer")]


def image(explorer):
    return Image.open(io.BytesIO(explorer._image.value))


def test_calibrated_every_knob_changes_the_picture(measured, before):
    assert "Costs of each step on this machine (CPU): measured (2 benchmarks)." in before.remarks
    c = measured.controls
    size, seen = image(measured).size, {measured._image.value}
    changes = [
        (c.chunk_size, 2), (c.slots, 1), (c.latent_frames, 21), (c.held, True), (c.speed, 1.0),
        (c.primitives["writer_thread"], False), (c.size, "64x96"),
    ]  # fmt: skip
    for control, value in changes:
        control.value = value
        assert measured._image.value not in seen, control.description
        seen.add(measured._image.value)
        assert image(measured).size == size, "the page would jump"


def test_other_chunk_size_and_size_are_marked_as_guesses(measured):
    measured.controls.chunk_size.value = 5
    assert "Chunk size 5 was not measured here, only 1 and 2" in " ".join(measured.remarks)
    measured.controls.size.value = "64x96"
    assert "a guess: scaled by pixels from 32x48" in measured.remarks[0]


def test_run_measures_both_paths_and_says_how_they_differ(measured):
    explorer = measured
    (run,) = explorer.session.runs
    assert list(run.recording.arms) == ["sync", "async"]
    assert run.recording.arms["async"].latency.n == 2
    assert run.recording.frames_identical is True
    assert explorer.remarks[0].startswith("Run 1: sync took ")
    assert "predicted" in explorer.remarks[0] and "sync / async" in explorer.remarks[0]
    predicted = run.predicted.predictions["async"].run.latency_s
    shown = explorer.table().frame()
    ratio = run.recording.arms["async"].typical().latency_s / predicted
    assert shown.loc[0, "measured / predicted"] == pytest.approx(ratio, abs=0.1)
    assert f"{predicted:.4f}" in explorer._figures.value


def test_the_prediction_shown_with_a_run_was_made_before_it(measured, before):
    explorer, run = measured, measured.session.runs[0]
    assert run.predicted.predictions["async"].run == before.predicted.predictions["async"].run
    assert explorer._predicted is run.predicted
    explorer.controls.slots.value = 3
    assert explorer._predicted is not run.predicted
    explorer.controls.slots.value = 2
    assert explorer._predicted is run.predicted, "back at the setting its run is shown again"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": "big"}, "size is 'big'; give height x width in pixels"),
        ({"size": "30x48"}, "height is 30; use a multiple of 8, e.g. 32"),
        ({"size": "100000x48"}, "height is 100000; use 8192 pixels at the most"),
        ({"latent_frames": 9, "chunk_size": 8, "slots": 16}, "2 chunks: more slots"),
        ({"slots": 1}, "With one slot no chunk is decoded before"),
        ({"sink": "mp4"}, "Nothing is known yet of nearest (diffusers) in float32 to mp4 on this"),
        ({"variant": "fast"}, "Nothing is known yet of nearest (fast)"),
    ],
)
def test_impossible_or_idle_settings_are_explained(measured, change, words):
    for name, value in change.items():
        getattr(measured.controls, name).value = value
    assert words in " ".join(measured.remarks)


def test_slow_storage_is_named_as_the_bottleneck(measured):
    measured.controls.hold_storage(0.1)
    assert "The sink is the bottleneck" in " ".join(measured.remarks)
    measured.controls.hold_storage(None)
    assert "bottleneck" not in " ".join(measured.remarks)


def test_export_writes_everything_and_touches_nothing(measured):
    explorer = measured
    first = explorer.export()
    names = {path.name for path in first}
    pictures = {f"timeline.{ending}" for ending in ("png", "svg", "pdf", "csv")}
    assert names == pictures | {"recording.json", "table.csv", "table.md", "table.tex"}
    folder = first[0].parent
    assert folder.parent == explorer.results and "_explorer" in folder.name
    kept, made = read_recording(folder), explorer.session.runs[0].recording
    assert {name: arm.latencies for name, arm in kept.arms.items()} == {
        name: arm.latencies for name, arm in made.arms.items()
    }
    assert kept.label == "explorer"
    assert Image.open(folder / "timeline.png").size[0] > 1000
    assert (folder / "timeline.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (folder / "timeline.svg").read_text()
    assert pd.read_csv(folder / "table.csv").loc[0, "run"] == 1
    assert "toprule" in (folder / "table.tex").read_text()
    assert all(name in explorer._exported.value for name in names)
    before = {path: path.read_bytes() for path in first}
    second = explorer.export()
    assert second[0].parent != folder
    assert {path: path.read_bytes() for path in first} == before


def test_what_cannot_be_written_is_said(measured, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(measured, "results", tmp_path / "file")
    measured.controls.export.click()
    assert "results folder" in measured._exported.value
    assert "is a file; give a folder" in measured._exported.value


@pytest.fixture(scope="module")
def recorded():
    made = explore(RECORDED)
    yield made
    made.close()


def test_it_reads_in_a_page_without_widgets(measured):
    bundle = measured._repr_mimebundle_()
    assert bundle["text/plain"].startswith("The explorer")
    assert measured.snapshot().data == measured._image.value


def test_an_export_is_of_one_run_whatever_is_on_the_screen(measured):
    explorer = measured
    first = {path.name: path for path in explorer.export()}
    explorer.controls.size.value = "64x96"
    explorer.controls.latent_frames.value = 40
    again = {path.name: path for path in explorer.export()}
    assert again["timeline.png"].read_bytes() == first["timeline.png"].read_bytes()
    assert "Run 1, written into" in explorer._exported.value
    assert read_recording(again["recording.json"].parent).workload.latent_frames == 9


def test_a_record_says_how_to_measure_it_again(measured):
    setting = measured.setting
    command = bench_command(setting, 2).split()
    assert command[:2] == ["vdkit", "bench"] and "random:33x32x48" in command
    slow = replace(setting, mb_per_s=5.0, config=DecodeConfig(2, 3, writer_thread=False))
    words = bench_command(slow, 2, "/dev/shm")
    assert "--sink null:/dev/shm" in words
    asked = build_parser().parse_args(words.split()[1:])
    assert (asked.chunk, asked.slots, asked.writer_thread) == (2, 3, False)
    assert (asked.throttle_mb_s, asked.runs, asked.modes) == (5.0, 2, "sync,async")
    assert measured.session.runs[0].recording.command is None, "the command line lacks the decoder"


def test_each_line_has_its_own_key(measured, before):
    keys = closing_keys(measured)
    assert list(before.keys) == ["sink closed"]
    assert list(keys) == ["predicted: sink closed", "measured: sink closed"]
    for whole, zoom in measured._picture._axes:
        for ax in (whole, zoom):
            assert [line.get_linestyle() for line in ax.lines] == list(keys.values())


def test_before_anything_is_known_it_says_so_and_how_to_know(explorer):
    assert "Nothing is known yet of nearest (diffusers)" in explorer.remarks[0]
    assert "Calibrate measures it" in explorer.remarks[0]
    assert image(explorer).size[0] > 1000
    with pytest.raises(RuntimeError, match=r"nothing is measured yet.*press Run"):
        explorer.export()
    explorer.controls.export.click()
    assert "press Run" in explorer._exported.value, "the button shows what the call raises"


def test_two_runs_side_by_side(explorer):
    explorer.run(wait_s=60)
    explorer.controls.view.value = "side by side"
    assert "1 against run 1" in explorer.remarks[0]
    explorer.controls.decoder.value = "slow"
    explorer.run(wait_s=60)
    assert (explorer.controls.first.value, explorer.controls.second.value) == tuple(
        explorer.session.runs
    )
    assert explorer.remarks[0].startswith("Run 2 against run 1: sync took ")
    assert "longer than " in explorer.remarks[0] or "times as long as " in explorer.remarks[0]
    assert "run 1" in explorer._figures.value and "run 2" in explorer._figures.value
    assert len(explorer.table().rows) == 2


def test_cancel_stops_within_a_chunk_and_leaves_it_usable(explorer):
    explorer.controls.decoder.value = "slow"
    explorer.controls.latent_frames.value = 161
    explorer.run()
    assert explorer.controls.run.disabled and not explorer.controls.cancel.disabled
    session = explorer.session
    wait_for(lambda: session.progress.doing == "measuring" and session.progress.share > 0, 60)
    assert session.progress.left_s is not None
    begun = time.perf_counter()
    explorer.controls.cancel.click()
    assert explorer.wait(30)
    assert time.perf_counter() - begun < 161 * 0.02, "it decoded on to the end"
    assert explorer.session.runs == [] and "cancelled" in explorer.remarks[0].lower()
    assert "cancelled" in explorer.controls.state.value
    assert not explorer.controls.run.disabled and explorer.controls.cancel.disabled
    explorer.controls.decoder.value = "nearest"
    explorer.controls.latent_frames.value = 9
    assert "cancelled" not in explorer.remarks[0].lower(), "the message has been read"
    explorer.run(wait_s=60)
    assert len(explorer.session.runs) == 1


FAILURES = (
    ({"sink": "full"}, "No space left on device"),
    ({"sink": "full", "view": "side by side"}, "No space left on device"),
    ({"decoder": "greedy"}, "out of memory"),
    ({"decoder": "absent"}, "neither a local folder nor a hub repository"),
    ({"decoder": "broken"}, "object is no ChunkDecoder: it lacks name, device"),
    ({"sink": "raw", "folder": "/no/such/folder"}, "'/no/such/folder' does not exist"),
)


def test_a_failure_is_shown_and_leaves_it_usable(explorer, plugins):
    c = explorer.controls
    for done, (change, words) in enumerate(FAILURES):
        for name, value in change.items():
            getattr(c, name).value = value
        explorer.run(wait_s=60)
        assert words in explorer.remarks[0]
        assert "vdkit-warning" in explorer._remarks.value
        assert c.state.value == "failed"
        if c.decoder.value == "greedy":
            assert {one() for one in plugins.loaded} == {None}, "a failed decoder is held"
        c.sink.value, c.decoder.value, c.view.value = "null", "nearest", "this setting"
        explorer.run(wait_s=60)
        assert explorer.session.error is None and len(explorer.session.runs) == done + 1


def test_a_recorded_machine_predicts_and_cannot_be_measured(recorded):
    made = recorded
    made.controls.machine.value = "NVIDIA H200, recorded"
    assert (made.controls.decoder.value, made.controls.size.value) == ("wan2.1", "480x832")
    assert "Costs of each step on NVIDIA H200, recorded" in made.remarks[0]
    assert made.controls.run.disabled
    made.run(wait_s=60)
    assert "cannot be measured from here" in made.remarks[0] and made.session.runs == []


def test_picture_remark_and_table_are_of_one_run(recorded):
    explorer = recorded
    explorer.controls.machine.value = "NVIDIA H200, recorded"
    explorer.controls.latent_frames.value = 41
    (folder,) = RECORDED.glob("20261121T004501Z_*_aws-float16")
    run = SessionRun(1, explorer._predicted, read_recording(folder))
    explorer.session.runs.append(run)
    explorer._redraw()
    for mode in ("sync", "async"):
        latencies = sorted(run.recording.arms[mode].latencies)
        assert run.shown[mode].run.latency_s in latencies[4:6], "the nearest to the median of 10"
    sync_s, async_s = (run.shown[mode].run.latency_s for mode in ("sync", "async"))
    assert f"{sync_s:.3f}" != f"{run.recording.arms['sync'].latency.mean:.3f}", (
        "or it shows nothing"
    )
    assert explorer.remarks[0] == difference_words(run)
    assert f"sync took {sync_s:.3f} s" in explorer.remarks[0]
    assert f"async took {async_s:.3f} s" in explorer.remarks[0]
    assert "nearest to the median of 10" in explorer.remarks[0]
    for seconds, panel in zip((sync_s, async_s), setting_panels(run.predicted, run), strict=True):
        assert f"measured {seconds:.3f} s" in panel.title
    row = explorer.table().frame().loc[0]
    assert row["sync s"] == pytest.approx(sync_s, abs=5e-4)
    assert row["async s"] == pytest.approx(async_s, abs=5e-5)
    assert f"{sync_s:.3f}" in explorer._figures.value


def test_no_thread_is_left_and_one_at_a_time_is_open():
    first = explore("/none", decoder="slow", latent_frames=161, calibrate=True)
    wait_for(lambda: threads(), 10)
    second = explore("/none")
    assert threads() == [] and first.comm is None
    second.close()


def test_a_setting_of_another_machine_is_refused(explorer):
    setting = explorer.setting
    with pytest.raises(ValueError, match="cannot be measured from here"):
        explorer.session.run(1, elsewhere(setting))


def elsewhere(setting):
    return Setting(replace(setting.decoding, machine="another"), setting.length)


def test_a_size_that_cannot_be_is_refused_before_it_runs(explorer, plugins):
    explorer.controls.size.value = "31x48"
    explorer.run(wait_s=60)
    assert "height is 31; use a multiple of 8" in explorer.remarks[0]
    assert plugins.loaded == [], "nothing was loaded"


def test_closed_is_closed(tmp_path):
    made = explore(tmp_path)
    made.close()
    made.close()
    for use in (made.run, made.calibrate, made.export):
        with pytest.raises(RuntimeError, match=r"is closed; call vdkit.explore\(\) again"):
            use()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sink": "nope"}, "sink is 'nope'; use one of raw, png, jpeg, webp, mp4, null, full"),
        ({"variant": "quick"}, "variant is 'quick'; use one of diffusers, channels_last"),
        ({"chunk_size": 9}, "chunk_size is 9; use 1 to 8"),
        ({"slots": 0}, "slots is 0; use 1 to 16"),
        ({"medium": "film"}, "medium is 'film'; use one of video, images, audio"),
        ({"medium": "audio", "seconds": 0}, "seconds is 0; use 1 to 60"),
        ({"medium": "audio", "sink": "png"}, "sink is 'png'; use one of raw, wav, flac, null"),
        ({"latent_frames": 1}, "latent_frames is 1; use 2 to 161"),
        ({"rounds": 0}, "rounds is 0; use 1 to 99"),
        ({"mb_per_s": 0}, "mb_per_s is 0; use 0.1 to 10000 MB/s"),
        ({"mb_per_s": -5}, "mb_per_s is -5; use"),
        ({"content": "grain"}, "content is 'grain'; use one of noise"),
        ({"sink": "mp4", "pixel_format": "yuv444p"}, "pixel_format is 'yuv444p'; use one of yuv"),
        ({"sink": "mp4", "encoders": 17}, "encoders is 17; use one of 1, 2, 3"),
        ({"encoders": 2}, "encoders is 2; use one of 1"),
    ],
)
def test_first_values_that_no_control_has_are_refused(given, words, tmp_path):
    with pytest.raises(ValueError) as refused:
        explore(tmp_path, **given)
    assert words in str(refused.value)


def test_content_format_and_encoders_are_measured_and_predicted(tmp_path):
    made = explore(
        tmp_path, decoder="tiny-wan", size="16x16", latent_frames=5, sink="mp4", content="grain",
        pixel_format="nv12", encoders=2, rounds=1,
    )  # fmt: skip
    try:
        made.run(wait_s=300)
        (run,) = made.session.runs
        arm = run.recording.arms["async"]
        assert arm.workload.content == "grain" and arm.workload.latents.startswith("clips:17x16x16")
        assert (arm.sink.pixel_format, arm.sink.options["encoders"]) == ("nv12", 2)
        said = "tiny-wan (diffusers), 5 x 16x16 (grain) to mp4, nv12, 2 encoders"
        assert said in made.controls.first.label
        assert " --grain 3 " in run.recording.command
        assert " --sink mp4,pixel_format=nv12,encoders=2" in run.recording.command
        assert arm.timed[0].encoders_s and run.predicted.predictions["async"].run.encoders_s
        made.controls.encoders.value = 4
        assert "othing is known yet of 4 encoders side by side, only of 2" in " ".join(made.remarks)
        made.calibrate(wait_s=300)
        made.controls.encoders.value = 3
        assert "3 encoders were not measured here, only 2 and 4" in " ".join(made.remarks)
        drawn = made._image.value
        made.controls.encoders.value = 2
        assert made._image.value != drawn
        made.controls.content.value = "flat"
        assert "a guess: measured with grain" in " ".join(made.remarks)
        made.controls.pixel_format.value = "yuv420p"
        assert "a guess: measured with grain, measured in nv12" in " ".join(made.remarks)
        made.controls.decoder.value = "wan2.2"
        assert made.controls.content.options == ("noise",) and made.controls.content.disabled
        made.controls.sink.value = "raw"
        assert made.controls.encoders.disabled and made.controls.pixel_format.value == "rgb24"
    finally:
        made.close()


# --- images and audio -----------------------------------------------------------------------------


class Plain(NearestDecoder):
    """A class without ``medium`` makes video."""


OWN = {
    "pictures": NearestImages, "sounds": NearestAudio, "plain": Plain,
    "unknown": lambda: NearestAudio(),
}  # fmt: skip


def shown(*controls):
    return [control.layout.display != "none" for control in controls]


def figures(explorer):
    """First column of the table of figures."""
    return re.findall(r"<tr><td[^>]*>([^<]*)</td>", explorer._figures.value)


@pytest.fixture
def media(tmp_path):
    made = explore(tmp_path / "results", decoder="plain", decoders=OWN, sinks={}, rounds=1)
    yield made
    made.close()


MEDIA_WORDS = {
    "images": ("pictures", "32x48", "first image, s", "images / s", {"png", "jpeg", "webp"}),
    "audio": ("sounds", None, "first sample, s", "real-time factor", {"wav", "flac"}),
}


@pytest.mark.parametrize("medium", MEDIA_WORDS)
def test_a_medium_has_its_decoders_sizes_sinks_and_units(media, medium):
    c, (decoder, size, first, rate, sinks) = media.controls, MEDIA_WORDS[medium]
    assert shown(c.medium, c.size, c.latent_frames, c.seconds) == [True, True, True, False]
    assert "real-time factor" in figures(media) and "pictures" not in c.decoder.options
    c.medium.value = medium
    thin = {"images": "thin-flux", "audio": "thin-mimi"}[medium]
    assert c.decoder.value == thin and {decoder, "unknown"} < set(c.decoder.options)
    assert "plain" not in c.decoder.options and "tiny-wan" not in c.decoder.options
    assert set(c.sink.options) == sinks | {"raw", "null"} and c.sink.value == "null"
    audio = medium == "audio"
    assert shown(c.size, c.latent_frames, c.seconds) == [not audio, not audio, audio]
    assert c.latent_frames.description == ("latent frames" if audio else "images")
    assert c.variant.disabled and c.chunk_size.max == (64 if audio else 8)
    assert [first, rate] == [name for name in figures(media) if name in (first, rate)]
    c.decoder.value, c.size.value = decoder, size or c.size.value
    c.latent_frames.value, c.seconds.value = 9, 1
    media.run(wait_s=60)
    (run,) = media.session.runs
    work = run.recording.workload
    assert (work.medium, work.seconds) == (medium, 1 if audio else 9)
    assert media.remarks[0].startswith("Run 1: sync took ")
    row = media.table().frame().loc[0]
    assert row["size"] == ("2 channels" if audio else "32x48 (noise)")
    made = run.shown["async"].run
    if audio:
        assert row["RTF async"] == pytest.approx(made.latency_s, rel=0.1)
        assert row["latent frames"] == 4000
    else:
        assert row["images / s async"] == pytest.approx(9 / made.latency_s, rel=0.1)
        assert "RTF async" not in row
    said = f"{decoder} (diffusers), {'1 s' if audio else '9 x 32x48 (noise)'} to null"
    assert said in c.first.label
    names = figures(media)
    c.medium.value = "video"
    assert c.decoder.value == "tiny-wan" and not c.variant.disabled
    assert shown(c.size, c.latent_frames, c.seconds) == [True, True, False]
    assert len(figures(media)) == len(names), "the page would jump"
    c.view.value = "side by side"
    assert "run 1" in media._figures.value and rate in figures(media)


def test_the_medium_of_a_class_is_the_first_one(tmp_path):
    given = {"decoders": OWN, "sinks": {}, "decoder": "sounds", "seconds": 2}
    made = explore(tmp_path, **given, chunk_size=40)
    c = made.controls
    assert (c.medium.value, c.decoder.value, made.setting.length) == ("audio", "sounds", 2)
    assert made.setting.decoding.medium == "audio" and c.chunk_size.value == 40
    made.close()


def test_a_decoder_of_another_medium_says_so(media):
    c = media.controls
    c.decoder.value = "unknown"
    media.run(wait_s=60)
    assert "decoder 'unknown' makes audio; set the medium to that" in media.remarks[0]
    c.medium.value = "audio"
    assert c.decoder.value == "unknown", "it may be one of audio"
    c.seconds.value = 1
    media.run(wait_s=60)
    assert media.session.error is None and len(media.session.runs) == 1


def test_a_medium_is_changed_in_one_redraw(media, monkeypatch):
    drawn = []
    monkeypatch.setattr(media._picture, "png", lambda: drawn.append(1) or b"")
    for name in ("images", "audio", "video"):
        media.controls.medium.value = name
    assert len(drawn) == 3


def test_a_run_is_shown_in_one_redraw(explorer, monkeypatch):
    explorer.run(wait_s=60)
    drawn = []
    monkeypatch.setattr(explorer._picture, "png", lambda: drawn.append(1) or b"")
    explorer.run(wait_s=60)
    assert len(drawn) == 1 and len(explorer.session.runs) == 2


def test_images_and_audio_are_predicted_at_other_lengths_and_chunks(media):
    c = media.controls
    for medium, decoder, unit in (("images", "pictures", 1), ("audio", "sounds", 6)):
        c.medium.value = medium
        c.decoder.value = decoder
        media.calibrate(wait_s=60)
        assert media.session.error is None
        c.latent_frames.value, c.seconds.value, c.chunk_size.value = 7, 2, 3
        run = media._predicted.predictions["async"].run
        count = 7 if medium == "images" else 8000
        assert run.info.frames == count * unit and run.info.medium == medium
        assert [chunk.frames for chunk in run.chunks[:2]] == [3 * unit] * 2
        assert run.chunks[-1].frames == (count % 3 or 3) * unit
    c.chunk_size.value, c.seconds.value = 64, 1
    assert media._predicted.predictions["async"].run.chunks[0].frames == 64 * 6


def test_a_recorded_machine_offers_what_was_recorded_there(recorded):
    c = recorded.controls
    c.machine.value = recorded.session.here.name
    assert shown(c.medium) == [True]
    c.medium.value = "audio"
    c.machine.value = "NVIDIA H200, recorded"
    assert (c.medium.value, shown(c.medium, c.size, c.seconds)) == ("video", [False, True, False])
    assert (c.decoder.value, c.size.value) == ("wan2.1", "480x832")
    assert "Costs of each step on NVIDIA H200, recorded" in recorded.remarks[0]


def test_the_command_of_each_medium():
    asked = {"images": (8, "8x32x48"), "audio": (10, "10s"), "video": (9, "65x32x48")}
    for medium, (length, words) in asked.items():
        size = (1, 1) if medium == "audio" else (32, 48)
        decoding = Decoding("here", "x", "diffusers", "float32", *size, "raw", medium)
        setting = Setting(decoding, length)
        assert f"random:{words}" in bench_command(setting, 2, factor=8).split()
