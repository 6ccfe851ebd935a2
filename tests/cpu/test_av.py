"""Video with sound: two decoders as one job, on every path, and one file in the end."""

import json
import threading
from contextlib import nullcontext
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLLTX2Audio
from diffusers.pipelines.ltx2 import LTX2Vocoder

from tests.helpers import Collect, NearestAudio, NearestDecoder, latents_for, leftovers
from vdkit import (
    DecodeConfig,
    MemorySink,
    Mp4Sink,
    PngSink,
    RawSink,
    compute_only,
    decode_async,
    decode_diffusers,
    decode_sync,
    document_of,
    load_decoder,
    load_latents,
    probe,
    run_benchmark,
    save_latents,
)
from vdkit.decode import AvLatents, DecodeCancelled, Traits
from vdkit.decode.media import MediaInfo
from vdkit.models.sound import LTX2Sound, WithSound
from vdkit.predict import plan_of, predict, video_info
from vdkit.predict.fit import fit_costs
from vdkit.sinks import WavSink

CHUNKED = (decode_sync, decode_async)


class Sound(NearestAudio):
    """Sound whose every sample says where it is: 40 samples a latent."""

    name, temporal_factor, sample_rate, channels, latent_channels = "count", 40, 8000, 2, 1

    def begin(self, latents):
        self.begun = getattr(self, "begun", 0) + 1
        return {"at": 0}

    def end(self, state):
        self.begun -= 1
        assert state.pop("at") is not None

    def decode_chunk(self, state, start, stop):
        assert state["at"] == start
        state["at"] = stop
        counted = torch.arange(40 * start, 40 * stop, device=self.device) % 2000
        return torch.stack((counted, -counted))[None] / 32767

    def decode_video(self, latents, before_frame):
        return self.decode_chunk({"at": 0}, 0, latents.shape[2])

    def to_numpy(self, frames):
        return frames[0].T.cpu().numpy()


def pair(fps="24000/1001", frames=5, sound=1000, padded=False, device="cpu", **video):
    decoder = WithSound(NearestDecoder(device, **video), Sound(device), fps, padded)
    return decoder, AvLatents(latents_for(decoder.video, frames), torch.zeros(1, 1, sound))


def taken_apart(sink):
    rows, samples, at = [], [], 0
    for chunk in sink.chunks:
        pictures, heard = sink.info.split(chunk, at)
        rows.append(pictures)
        samples.append(heard)
        at += len(chunk)
    return np.concatenate(rows), np.concatenate(samples)


@pytest.mark.parametrize(
    ("fps", "sound", "padded", "expected"),
    [
        ("24000/1001", 1000, False, 5672),  # 17 frames are 5672.3 samples; the sound is longer
        ("24", 141, False, 5640),  # it ends before the video does
        ("24", 141, True, 5666),  # and goes on as silence
        ("16", 2, False, 80),  # in the first frame
        ("16000", 9, False, 8),  # less than a sample a frame
    ],
)
@pytest.mark.parametrize("chunk_size", [1, 3])
def test_frames_and_samples_are_those_of_each_decoder(
    fps, sound, padded, expected, chunk_size, device
):
    decoder, latents = pair(fps, 5, sound, padded, device)
    decode_sync(decoder.video, latents.video, alone := Collect(), progress=False)
    counted = np.arange(expected) % 2000
    counted[40 * sound :] = 0
    for path in CHUNKED:
        for on_gpu in (True, False):
            config = DecodeConfig(chunk_size, uint8_on_gpu=on_gpu, sync_uint8_on_gpu=on_gpu)
            sink = Collect()
            result = path(decoder, latents, sink, config=config, progress=False, fps=3)
            pictures, samples = taken_apart(sink)
            assert np.array_equal(pictures, np.concatenate(alone.chunks))
            assert samples.dtype == np.int16
            assert np.array_equal(samples, np.stack((counted, -counted), 1))
            assert sink.info.samples == expected and sink.info.fps == Fraction(fps)
            assert result.info == sink.info and decoder.audio.begun == 0
    assert compute_only(decoder, latents, config=config, progress=False).info == sink.info


def test_the_whole_decode_and_its_numpy_give_the_same_rows(device):
    decoder, latents = pair(sound=130, device=device)
    video = NearestDecoder()

    def whole(latents, before_frame):
        before_frame(0)
        parts = [video.decode_chunk(latents, 0, 1), video.decode_chunk(latents, 1, 5)]
        return torch.cat(parts, 2)

    def to_numpy(frames):
        from diffusers.video_processor import VideoProcessor

        return VideoProcessor().postprocess_video(frames, output_type="np")[0]

    decoder.video.decode_video, decoder.video.to_numpy = whole, to_numpy
    decode_diffusers(decoder, latents, one := Collect(), progress=False)
    decode_sync(decoder, latents, other := Collect(), progress=False)
    pictures, samples = taken_apart(one)
    expected, heard = taken_apart(other)
    assert np.array_equal(pictures, expected) and np.array_equal(samples, heard)
    assert len(samples) == 40 * 130


def test_a_decoder_without_a_whole_decode_is_named():
    decoder, latents = pair()
    with pytest.raises(TypeError, match="NearestDecoder is no WholeVideoDecoder: it lacks decode_"):
        decode_diffusers(decoder, latents, Collect(), progress=False)


class Clicks(Sound):
    """24 kHz, 960 samples a latent, silent but for a click at every half second."""

    temporal_factor, sample_rate = 960, 24000

    def decode_chunk(self, state, start, stop):
        at = torch.arange(960 * start, 960 * stop)
        return ((at % 12000 < 24) * 0.9).expand(1, 2, -1).clone()


@pytest.mark.parametrize(("codec", "rate"), [("aac", 24000), ("opus", 48000)])
def test_a_file_with_sound_is_in_step_and_of_one_length(tmp_path, codec, rate):
    decoder = WithSound(NearestDecoder(), Clicks(), 24, padded=True)
    latents = AvLatents(latents_for(decoder.video, 19), torch.zeros(1, 1, 70))
    path = tmp_path / "clip.mp4"
    result = decode_async(decoder, latents, Mp4Sink(path, sound=codec), progress=False)
    assert result.info.frames == 73 and result.info.samples == 73000 and not leftovers(tmp_path)
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert video.average_rate == 24 and video.frames == 73
        assert sound.rate == rate and sound.codec_context.layout.name == "stereo"
        assert sound.codec_context.name == codec
        seconds = [float(one.duration * one.time_base) for one in (video, sound)]
        assert seconds[1] == pytest.approx(73000 / 24000, abs=1e-3)
        assert seconds[0] == pytest.approx(seconds[1], abs=1e-3)
    with av.open(str(path)) as container:
        decoded = list(container.decode(audio=0))
    first_s = float(decoded[0].pts * decoded[0].time_base)
    heard = np.concatenate([frame.to_ndarray()[0] for frame in decoded])
    for click_s in (0.5, 1.0, 1.5, 2.0, 2.5):
        around = slice(*(int((click_s - first_s + d) * rate) for d in (-0.2, 0.2)))
        found_s = (around.start + np.abs(heard[around]).argmax()) / rate + first_s
        assert abs(found_s - click_s) < 1024 / 24000, "within one frame of sound"


def test_sound_that_ends_early_is_written_as_it_is_and_said(tmp_path):
    decoder = WithSound(NearestDecoder(), Clicks(), 24)
    latents = AvLatents(latents_for(decoder.video, 7), torch.zeros(1, 1, 25))
    path = tmp_path / "clip.mp4"
    decode_async(decoder, latents, Mp4Sink(path), progress=False)
    with av.open(str(path)) as container:
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(1.0, abs=1e-3)
    recorded = run_benchmark(
        decoder, latents, lambda label: nullcontext(MemorySink()), modes=("sync", "async"),
        baseline="sync", runs=2, warmup=0, progress=False,
    )  # fmt: skip
    work = recorded.workload
    assert (work.medium, work.samples, work.sample_rate, work.channels) == ("av", 24000, 24000, 2)
    assert work.fps == 24 and recorded.frames_identical
    words = "1.04 s of video with sound, 24000 Hz, 2 channels, which ends 41.7 ms before the video"
    said = document_of(recorded).text()
    assert words in said and "RTF" in said
    assert "25 frames of 24x40 with sound" in document_of(recorded).html("foot")
    arm = recorded.arms["async"]
    made = predict(
        fit_costs(recorded), video_info(recorded), arm.config, plan=plan_of([arm], 1)
    )  # fmt: skip
    assert made.run.d2h_bytes == arm.timed[0].d2h_bytes
    other = AvLatents(latents.video, latents.audio + 1)
    again = run_benchmark(
        decoder, other, lambda label: nullcontext(MemorySink()), modes=("async",),
        baseline="async", runs=1, warmup=0, progress=False,
    )  # fmt: skip
    assert again.workload.latents_sha256 != work.latents_sha256


def test_raw_rows_can_be_taken_apart_by_what_stands_beside_them(tmp_path):
    decoder, latents = pair(sound=130)
    decode_async(decoder, latents, RawSink(tmp_path / "clip.rgb"), progress=False)
    said = json.loads((tmp_path / "clip.rgb.json").read_text())
    names = ("height", "width", "sample_rate", "channels", "samples")
    height, width, *sound = (said[name] for name in names)
    info = MediaInfo(said["shape"][0], height, width, Fraction(said["fps_exact"]), "av", *sound)
    rows = np.fromfile(tmp_path / "clip.rgb", np.uint8).reshape(said["shape"])
    pictures, samples = info.split(rows, 0)
    assert pictures.shape == (17, 24, 40, 3) and len(samples) == 5200
    assert np.array_equal(samples[:, 0], np.arange(5200) % 2000)


@pytest.mark.parametrize("fault", ["video", "audio", "begin", "cancel"])
@pytest.mark.parametrize("path", CHUNKED)
def test_both_states_are_ended_whatever_happens(path, fault, tmp_path, monkeypatch, device):
    decoder, latents = pair(fail_at=2 if fault == "video" else None, device=device)
    ended, cancel, error = [], threading.Event(), RuntimeError
    decoder.video.end = ended.append
    if fault == "audio":
        monkeypatch.setattr(decoder.audio, "decode_chunk", lambda *arguments: 1 / 0)
        error = ZeroDivisionError
    elif fault == "begin":
        monkeypatch.setattr(decoder.audio, "begin", lambda latents: 1 / 0)
        error = ZeroDivisionError
    elif fault == "cancel":
        error = DecodeCancelled
    sink = Mp4Sink(tmp_path / "clip.mp4")
    progress = (lambda done, frames: cancel.set()) if fault == "cancel" else False
    with pytest.raises(error):
        path(decoder, latents, sink, progress=progress, cancel=cancel)
    assert len(ended) == 1 and getattr(decoder.audio, "begun", 0) == 0
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_is_refused_before_anything_runs(tmp_path):
    decoder, latents = pair()
    for given, error, words in (
        (latents.video, TypeError, "video with sound needs a pair, of video .* and of audio"),
        ((latents.video,), TypeError, "latents are a tuple; video with sound needs a pair"),
        ((latents.audio, latents.video), ValueError, "shape .*, 3 axes; use .* for video"),
        ((latents.video, torch.zeros(1, 3, 9)), ValueError, "3 channels, this decoder takes 1"),
    ):
        with pytest.raises(error, match=words):
            decode_async(decoder, given, Collect(), progress=False)
    for sink in (PngSink(tmp_path / "clip"), WavSink(tmp_path / "clip.wav")):
        with pytest.raises(TypeError, match=r"makes video with sound; use Mp4Sink or RawSink"):
            decode_async(decoder, latents, sink, progress=False)
    with pytest.raises(TypeError, match="nearest makes video and nearest video; give a decoder of"):
        WithSound(NearestDecoder(), NearestDecoder())
    with pytest.raises(ValueError, match=r"in torch.float64, count on cpu in torch.float32; put"):
        WithSound(NearestDecoder(dtype=torch.float64), Sound())
    with pytest.raises(ValueError, match="fps is 0; it must be above 0"):
        WithSound(NearestDecoder(), Sound(), 0)
    with pytest.raises(ValueError, match="sound is 'mp3'; use aac or opus"):
        Mp4Sink(tmp_path / "clip.mp4", sound="mp3")
    decoder.audio.sample_rate = 9000
    odd = WithSound(decoder.video, decoder.audio)
    with pytest.raises(ValueError, match=r"opus takes 8000, .* has 9000; use sound='aac' or Raw"):
        decode_async(odd, latents, Mp4Sink(tmp_path / "clip.mp4", sound="opus"), progress=False)
    nine = Sound()
    nine.channels, nine.decode_chunk = 9, lambda state, start, stop: torch.zeros(1, 9, 40)
    many = WithSound(NearestDecoder(), nine, 24)
    with pytest.raises(ValueError, match="aac has 1 to 8 channels, not 9; use RawSink"):
        decode_async(many, latents, Mp4Sink(tmp_path / "clip.mp4"), progress=False)
    with pytest.raises(ValueError, match="probe its video and its sound, each by itself"):
        probe(decoder)
    assert not list(tmp_path.iterdir())


# --- LTX-2's sound -------------------------------------------------------------------------------


def thin():
    torch.manual_seed(0)
    made = AutoencoderKLLTX2Audio(base_channels=16), LTX2Vocoder(hidden_channels=64)
    return [one.requires_grad_(False) for one in made]


@pytest.fixture(scope="module")
def parts():
    return thin()


@torch.inference_mode()
def test_ltx2_sound_is_its_own_decode_whole_and_in_chunks(parts):
    vae, vocoder = parts
    sound = LTX2Sound(vae, vocoder, "thin")
    assert (sound.sample_rate, sound.channels, sound.latent_channels) == (24000, 2, 8)
    assert sound.temporal_factor == 960 and Traits.of(sound).exact and sound.features == 16
    latents = torch.randn(1, 8, 30, 16, generator=torch.Generator().manual_seed(1))
    own = vocoder(vae.decode(latents, return_dict=False)[0])
    assert own.shape == (1, 2, 960 * 30 - 720)
    assert torch.equal(sound.decode_video(latents, lambda position: None), own)
    for size in (1, 4, 9, 40):
        decode_sync(sound, latents, sink := Collect(), config=DecodeConfig(size), progress=False)
        made = np.concatenate(sink.chunks).T.astype(int)
        assert np.abs(made - (own[0] * 32767).round().numpy()).max() <= 1 and own.abs().max() > 0.05
    sound.reach = 5  # what is left out of the vocoder's window is heard
    state = sound.begin(latents)
    cut = torch.cat([sound.decode_chunk(state, at, at + 2) for at in range(0, 30, 2)], 2)
    assert (cut - own).abs().max() > 1e-7
    sound.end(state)
    assert not state.memory
    wide = AutoencoderKLLTX2Audio(base_channels=16, causality_axis="width")
    with pytest.raises(ValueError, match="thin: causality_axis is 'width', not 'height'"):
        LTX2Sound(wide, vocoder, "thin")
    with pytest.raises(RuntimeError, match="invalid for input"):
        sound.denormalize(latents)  # thin: statistics of another size
    full = AutoencoderKLLTX2Audio(base_channels=128, ch_mult=(1, 1, 1), num_res_blocks=1)
    full.latents_mean.copy_(torch.arange(128.0))
    shifted = LTX2Sound(full, vocoder, "full").denormalize(torch.zeros(1, 8, 2, 16))
    assert shifted[0, 3, 1, 5] == 3 * 16 + 5


def test_latents_of_both_by_size_or_from_a_file(tmp_path):
    decoder, _ = pair("24")
    latents = load_latents("random:33x16x24", decoder, seed=3)
    assert latents.video.shape == (1, 4, 9, 2, 3)
    assert latents.audio.shape == (1, 1, round(33 / 24 * 8000 / 40))
    save_latents(tmp_path / "both.safetensors", latents)
    read = load_latents(tmp_path / "both.safetensors", decoder)
    assert all(torch.equal(*two) for two in zip(latents, read, strict=True))
    save_latents(tmp_path / "one.safetensors", latents.video)
    with pytest.raises(ValueError, match="has no audio_latents; video with sound needs latents"):
        load_latents(tmp_path / "one.safetensors", decoder)
    with pytest.raises(ValueError, match="makes video; write random:FRAMESxHxW in"):
        load_latents("random:2s", decoder)


def test_probe_finds_ltx2_sound_exact():
    vae, vocoder = thin()
    found = probe(LTX2Sound(vae.double(), vocoder.double(), "thin"), chunk_sizes=(1, 3))
    assert found.verdict[0] == "Stream it with chunks of 1 or more latents: exact."
    assert not found.causal and 4 < found.look_ahead.zero < 5, "the vocoder looks ahead"


def test_a_folder_gives_video_sound_or_both(parts, tmp_path):
    vae, vocoder = parts
    folder = tmp_path / "ltx2"
    vae.save_pretrained(folder / "audio_vae")
    vocoder.save_pretrained(folder / "vocoder")
    sound = load_decoder(f"{folder}:audio", "cpu")
    assert sound.name == "ltx2:audio" and isinstance(sound, LTX2Sound)
    latents = torch.randn(1, 8, 5, 16)
    with torch.inference_mode():
        assert torch.equal(
            sound.decode_video(latents, lambda position: None), vocoder(vae.decode(latents)[0])
        )
    with pytest.raises(FileNotFoundError, match=r"neither config.json nor vae/config.json"):
        load_decoder(f"{folder}:av", "cpu")
    load_decoder("tiny-wan", "cpu").vae.save_pretrained(folder / "vae")
    both = load_decoder(f"{folder}:av", "cpu")
    assert both.name == "ltx2 + ltx2:audio" and both.fps == 24 and both.latent_channels == (16, 8)
    assert both.weights_sha256() != load_decoder(f"{folder}:audio", "cpu").weights_sha256()
    for source, words in (
        ("wan2.1:av", "'wan2.1' has no sound; ltx2 has"),
        (f"{folder / 'vae'}:audio", "has no sound: audio_vae/config.json is not there"),
        (f"{tmp_path}/none:av", "does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            load_decoder(source, "cpu")
    (folder / "vocoder" / "config.json").write_text('{"_class_name": "LTX2VocoderWithBWE"}')
    with pytest.raises(ValueError, match="is 'LTX2VocoderWithBWE'; vdkit decodes LTX2Vocoder"):
        load_decoder(f"{folder}:audio", "cpu")
