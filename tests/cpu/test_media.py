"""Images and audio take the paths that video takes: same bytes, plans, errors and endings."""

import itertools
import json
import threading
import wave
from contextlib import nullcontext
from fractions import Fraction
from functools import partial

import av
import numpy as np
import pytest
import scipy.io.wavfile
import torch
from PIL import Image

from tests.helpers import (
    Collect,
    NearestAudio,
    NearestDecoder,
    NearestImages,
    file_size_limit,
    latents_for,
    leftovers,
)
from vdkit import (
    DecodeConfig,
    MemorySink,
    Mp4Sink,
    NullSink,
    PngSink,
    RawSink,
    SinkSpec,
    compute_only,
    decode_async,
    decode_diffusers,
    decode_sync,
    document_of,
    load_results,
    read_recording,
    run_benchmark,
)
from vdkit.decode import DecodeCancelled, Traits, to_levels
from vdkit.decode.chunks import chunks_of, plan_chunks
from vdkit.decode.media import MEDIA, MediaInfo
from vdkit.measure.study import as_run
from vdkit.measure.sweep import sweep_grid
from vdkit.predict import (
    Cost,
    StageCosts,
    plan_of,
    predict,
    units_per_latent,
    usual_plan,
    video_info,
)
from vdkit.predict.advise import Limits, recommend, storage_sensitivity
from vdkit.predict.fit import fit_costs, fit_evidence
from vdkit.present.columns import Asked
from vdkit.present.results_list import results_table
from vdkit.present.sweep_document import advice_document, saving_line
from vdkit.present.words import sink_words
from vdkit.record.recording import comparable, write_recording
from vdkit.record.runs import SinkInfo, Workload
from vdkit.sinks import FlacSink, JpegSink, ThrottledSink, WavSink, WebpSink

PATHS = (decode_sync, decode_async, compute_only)
WRITING = (decode_diffusers, decode_sync, decode_async)
OTHERS = (NearestImages, NearestAudio)
NULL = SinkSpec("null").fresh


def decoded(path, decoder, latents, **options):
    sink = Collect()
    result = path(decoder, latents, sink, progress=False, **options)
    return sink, result


# --- the same bytes on every path ----------------------------------------------------------------


def expected_of(decoder, latents):
    """By numpy, in float64 until the end."""
    values = latents.double()
    if decoder.medium == "images":
        pixels = values[:, :3].sigmoid().float().double().permute(0, 2, 3, 1).numpy()
        return np.rint(pixels.repeat(4, 1).repeat(8, 2) * 255).astype(np.uint8)
    samples = values[0, :2].T.numpy().repeat(6, 0)
    return np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)


@pytest.mark.parametrize("make", OTHERS)
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 100])
def test_every_path_and_primitive_gives_the_same_bytes(make, chunk_size, device):
    decoder = make(device)
    latents = latents_for(decoder, frames=7)
    expected = expected_of(decoder, latents)
    whole, _ = decoded(decode_diffusers, decoder, latents)
    assert np.array_equal(np.concatenate(whole.chunks), expected) and len(whole.chunks) == 1
    switches = ("pinned_memory", "copy_stream", "writer_thread", "uint8_on_gpu")
    for values in itertools.product([True, False], repeat=4):
        made = DecodeConfig(chunk_size, 3, **dict(zip(switches, values, strict=True)))
        sink, result = decoded(decode_async, decoder, latents, config=made)
        assert np.array_equal(np.concatenate(sink.chunks), expected), made
        value_bytes = expected.itemsize if made.uint8_on_gpu else 4
        assert result.d2h_bytes == expected.size * value_bytes
    for on_gpu in (True, False):
        config = DecodeConfig(chunk_size, sync_uint8_on_gpu=on_gpu)
        sink, result = decoded(decode_sync, decoder, latents, config=config)
        assert np.array_equal(np.concatenate(sink.chunks), expected)
        units = 1 if decoder.medium == "images" else 6
        assert [len(chunk) for chunk in sink.chunks] == [
            units * min(chunk_size, 7 - start) for start in range(0, 7, chunk_size)
        ]
    assert result.info == sink.info
    floor = compute_only(decoder, latents, config=config, progress=False)
    assert floor.info == sink.info and floor.ring_bytes == max(c.nbytes for c in sink.chunks)


def test_what_a_sink_is_told():
    images, audio = NearestImages(), NearestAudio()
    sink, result = decoded(decode_async, images, latents_for(images, 3), fps=24)
    assert sink.info == MediaInfo(3, 12, 40, Fraction(1), "images")
    assert result.info.seconds == 3 and result.rtf == pytest.approx(result.latency_s / 3)
    sink, result = decoded(decode_async, audio, latents_for(audio, 100), fps=24)
    assert sink.info == MediaInfo(600, 1, 2, Fraction(24000), "audio")
    assert sink.info.frame_bytes == 4 and result.info.seconds == 0.025
    with_features = torch.randn(1, 4, 5, 3)

    class Spectral(NearestAudio):
        def begin(self, latents):
            assert latents.shape == (1, 4, 5, 3)
            return latents[..., 0]

    sink, _ = decoded(decode_sync, Spectral(), with_features)
    assert sink.frames == 30


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0)])
def test_levels_of_both_value_ranges(value_range):
    class Ranged(NearestImages):
        pass

    Ranged.value_range = value_range
    low, high = value_range
    given = torch.tensor([low - 1, low, low + (high - low) * 128 / 255, high, high + 1])
    levels = to_levels(given.expand(1, 3, 1, 5), Traits.of(Ranged()))
    assert levels[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_samples_are_rounded_and_clamped():
    given = torch.tensor([-2, -1, -0.6 / 32767, 0, 0.4 / 32767, 0.6 / 32767, 1, torch.inf])
    levels = to_levels(given.expand(1, 2, 8), Traits.of(NearestAudio()))
    assert levels.dtype == torch.int16 and levels.is_contiguous()
    assert levels[:, 1].tolist() == [-32767, -32767, -1, 0, 0, 1, 32767, 32767]


# --- what is wrong is said before anything is opened ----------------------------------------------

IMAGES, AUDIO = torch.zeros(3, 4, 2, 2), torch.zeros(1, 4, 9)
BAD = {
    "audio for video": (NearestDecoder, AUDIO, ValueError, r"\(1, 4, 9\), 3 axes; use \[C, T, h"),
    "audio spectra for video": (NearestDecoder, AUDIO[..., None], ValueError, "1 channels, .* 4"),
    "video for images": (NearestImages, IMAGES[None], ValueError, "5 axes; use .* for images"),
    "video for audio": (NearestAudio, IMAGES[None], ValueError, "5 axes; use .* for audio"),
    "unequal images": (NearestImages, [IMAGES[0], IMAGES[1]], TypeError, "a list; .*one size"),
    "images swapped": (NearestImages, torch.zeros(4, 3, 2, 2), ValueError, r"not \[C, N, h, w\]"),
    "audio swapped": (NearestAudio, torch.zeros(1, 9, 4), ValueError, r"\[C, T\], not \[T, C\]"),
    "two clips": (NearestAudio, AUDIO.repeat(2, 1, 1), ValueError, "batch of 2 clips; decode"),
    "no images": (NearestImages, IMAGES[:0], ValueError, "latent images, height and width must"),
    "no samples": (NearestAudio, AUDIO[..., :0], ValueError, "latent frames and features must"),
    "NaN image": (NearestImages, IMAGES.log() - IMAGES.log(), ValueError, "NaN in latent image 0"),
    "inf sample": (NearestAudio, torch.eye(4)[None] / 0, ValueError, "(NaN|inf) in latent frame 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("path", PATHS)
def test_bad_latents(case, path):
    make, latents, kind, message = BAD[case]
    sink = Collect()
    with pytest.raises(kind, match=message):
        path(make(), latents, sink, progress=False)
    assert not sink.calls


@pytest.mark.parametrize(
    ("make", "name", "value", "message"),
    [
        (NearestDecoder, "medium", "film", "'nearest': medium is 'film'; use video, images, audio"),
        (NearestDecoder, "medium", 3, "medium is 3; use video"),
        (NearestDecoder, "value_range", (0, 255), r"value_range is \(0, 255\); use \(-1.0, 1.0\)"),
        (NearestAudio, "value_range", (0, 1), r"value_range is \(0, 1\); use \(-1.0, 1.0\)$"),
        (NearestImages, "spatial_factor", (8, 8, 8), "spatial_factor is .*one of height and"),
        (NearestImages, "spatial_factor", 0.5, "spatial_factor is 0.5; use whole numbers"),
        (NearestAudio, "sample_rate", 0, "sample_rate is 0; use whole numbers, 1 or more"),
        (NearestAudio, "channels", None, "channels is None; use"),
        (NearestAudio, "temporal_factor", -1, "temporal_factor is -1; use"),
    ],
)  # fmt: skip
def test_a_decoder_that_says_what_cannot_be(make, name, value, message):
    decoder, sink = make(), Collect()
    latents = latents_for(decoder)
    setattr(decoder, name, value)
    with pytest.raises(ValueError, match=message):
        decode_async(decoder, latents, sink, progress=False)
    assert not sink.calls


def test_a_medium_has_its_own_needs():
    class Deaf(NearestDecoder):
        medium = "audio"

    with pytest.raises(TypeError, match="Deaf is no ChunkDecoder: it lacks sample_rate, channels"):
        decode_sync(Deaf(), AUDIO, Collect(), progress=False)
    for medium, decoder in (("images", NearestImages()), ("audio", NearestAudio())):
        assert Traits.of(decoder).medium is MEDIA[medium]


@pytest.mark.parametrize("make", OTHERS)
@pytest.mark.parametrize("path", PATHS)
def test_a_decoder_that_returns_too_little(make, path):
    class Short(make):
        def decode_chunk(self, state, start, stop):
            made = super().decode_chunk(state, start, stop)
            return made[:, :, :-1] if self.medium == "audio" else made[:-1]

    decoder, axes = Short(), MEDIA[make.medium].decoded
    with pytest.raises(ValueError, match="returned shape") as caught:
        path(decoder, latents_for(decoder), Collect(), progress=False)
    assert str(caught.value).endswith(f"= {axes}")


@pytest.mark.filterwarnings("ignore:invalid value")  # NaN as a whole number
@pytest.mark.parametrize("make", OTHERS)
@pytest.mark.parametrize("path", [decode_sync, decode_async, compute_only, decode_diffusers])
def test_nan_is_named_by_its_position(make, path):
    class Broken(make):
        def decode_chunk(self, state, start, stop):
            made = super().decode_chunk(state, start, stop).clone()
            made[..., -1] = torch.nan if stop == 3 or stop - start > 1 else 0
            return made

    decoder = Broken()
    where = {"images": "latent images 2 to 2", "audio": "latent frames 2 to 2"}[make.medium]
    where = where.replace("2 to 2", "0 to 4") if path is decode_diffusers else where
    with pytest.raises(ValueError, match=f"NaN or inf in torch.float32, first in .*{where}"):
        path(decoder, latents_for(decoder), Collect(), progress=False)
    path(decoder, latents_for(decoder), Collect(), progress=False, allow_nonfinite=True)


def test_to_numpy_has_to_give_what_the_sink_takes():
    class Turned(NearestAudio):
        def to_numpy(self, samples):
            return samples[0].numpy()

    with pytest.raises(ValueError, match=r"shape \(2, 30\), expected \(30, 2\) = \[S, channels\]"):
        decode_diffusers(Turned(), latents_for(Turned()), Collect(), progress=False)


# --- the decoder's own chunks ---------------------------------------------------------------------


class Planned(NearestDecoder):
    """Two latents a call, 3 and then 2 frames, and one more held back until the end."""

    name = "planned"

    def __init__(self, plan=None):
        super().__init__()
        self.made = plan

    def plan(self, latents, chunk_size):
        if self.made is not None:
            return self.made
        size = 2 * (chunk_size or latents.shape[2])
        cuts = [*range(0, latents.shape[2], size), latents.shape[2]]
        plan = [(a, b, b - a + (a == 0)) for a, b in itertools.pairwise(cuts)]
        return [*plan, (cuts[-1], cuts[-1], 1)]

    def decode_chunk(self, state, start, stop):
        index = torch.arange(start, stop) if stop > start else torch.tensor([start - 1])
        index = torch.cat([index[:1], index]) if start == 0 else index
        made = state[:, :3, index].tanh()
        return made.repeat_interleave(8, 3).repeat_interleave(8, 4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("chunk_size", "units"), [(1, [3, 2, 1, 1]), (2, [5, 1, 1])])
def test_chunks_are_those_of_the_decoders_plan(path, chunk_size, units):
    decoder = Planned()
    config = DecodeConfig(chunk_size)
    sink, result = decoded(path, decoder, latents_for(decoder, frames=5), config=config)
    assert [chunk.frames for chunk in result.chunks] == units
    assert result.info.frames == sum(units)
    assert result.chunks[-1].latent_start == result.chunks[-1].latent_stop == 5
    if path is not compute_only:
        assert [len(chunk) for chunk in sink.chunks] == units


def test_a_plan_for_the_whole_is_one_chunk():
    (whole,) = chunks_of(Planned(), latents_for(Planned(), 5), None)
    assert (whole.latent_start, whole.latent_stop, whole.frames) == (0, 5, 7)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([], "ends at latent frame 0 of 5; it must take them all"),
        ([(0, 4, 9)], "ends at latent frame 4 of 5"),
        ([(0, 6, 9)], "ends at latent frame 6 of 5"),
        ([(0, 2, 5), (3, 5, 8)], r"\(3, 5, 8\) as chunk 1; it must begin at latent frame 2"),
        ([(0, 2, 5), (1, 5, 8)], "must begin at latent frame 2"),
        ([(1, 5, 8)], r"\(1, 5, 8\) as chunk 0; it must begin at latent frame 0"),
        ([(0, 0, 1), (0, 5, 9)], r"\(0, 0, 1\) as chunk 0; .*take 1 or more"),
        ([(0, 5, 0)], r"\(0, 5, 0\) as chunk 0; it must become 1 or more frames"),
        ([(0, 5)], r"\(0, 5\) as chunk 0; give \(start, stop, units\)"),
        ([(0, 5, 2.5)], "whole numbers"),
    ],
)
def test_a_plan_that_cannot_be(plan, message):
    decoder, sink = Planned(plan), Collect()
    with pytest.raises(ValueError, match=f"decoder 'planned': plan.latents, 1. .*{message}"):
        decode_async(decoder, latents_for(decoder), sink, progress=False)
    assert not sink.calls


# --- end ------------------------------------------------------------------------------------------


class Ending(NearestDecoder):
    """Notes which states were begun and ended."""

    def __init__(self, **options):
        super().__init__(**options)
        self.begun, self.ended, self.broken = [], [], None

    def begin(self, latents):
        self.begun.append(object())
        return (self.begun[-1], latents)

    def decode_chunk(self, state, start, stop):
        return super().decode_chunk(state[1], start, stop)

    def end(self, state):
        self.ended.append(state[0])
        if self.broken:
            raise self.broken


@pytest.mark.parametrize("path", PATHS)
def test_end_is_called_once_however_the_decode_ends(path):
    latents = latents_for(Ending())
    stopped = Ending(fail_at=2, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        path(stopped, latents, Collect(), progress=False)
    assert stopped.ended == stopped.begun and len(stopped.ended) == 1
    decoder = Ending()
    path(decoder, latents, Collect(), progress=False)
    assert decoder.ended == decoder.begun and len(decoder.ended) == 1
    path(decoder, latents, Collect(), progress=False)
    assert decoder.ended == decoder.begun and len(decoder.ended) == 2
    failing = Ending(fail_at=3)
    with pytest.raises(RuntimeError, match="the decoder failed"):
        path(failing, latents, Collect(), progress=False)
    assert failing.ended == failing.begun and len(failing.ended) == 1
    if path is not compute_only:
        closing = Ending()
        with pytest.raises(OSError, match="the sink failed"):
            path(closing, latents, Collect(fail="close"), progress=False)
        assert closing.ended == closing.begun and len(closing.ended) == 1


@pytest.mark.parametrize("path", PATHS)
def test_end_after_a_cancel_and_not_before_a_begin(path):
    cancel = threading.Event()

    class Cancelling(Ending):
        def decode_chunk(self, state, start, stop):
            cancel.set()
            return super().decode_chunk(state, start, stop)

    decoder = Cancelling()
    with pytest.raises(DecodeCancelled):
        path(decoder, latents_for(decoder), Collect(), progress=False, cancel=cancel)
    assert decoder.ended == decoder.begun and len(decoder.ended) == 1

    class Stillborn(Ending):
        def begin(self, latents):
            raise RuntimeError("no room")

    decoder = Stillborn()
    with pytest.raises(RuntimeError, match="no room"):
        path(decoder, latents_for(decoder), Collect(), progress=False)
    assert not decoder.ended


def test_an_end_that_fails():
    decoder = Ending()
    decoder.broken = KeyError("gone")
    sink = Collect()
    with pytest.raises(KeyError, match="gone"):
        decode_async(decoder, latents_for(decoder), sink, progress=False)
    assert sink.calls[-1] == "close" and len(decoder.ended) == 1
    decoder = Ending(fail_at=1)
    decoder.broken = KeyError("gone")
    with pytest.raises(RuntimeError, match="the decoder failed") as caught:
        decode_async(decoder, latents_for(decoder), Collect(), progress=False)
    assert caught.value.__notes__ == ["end of decoder 'nearest' failed too: KeyError: 'gone'"]


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "unit"), [(NearestImages, "image"), (NearestAudio, "sample")])
def test_progress_and_cancel_count_units(make, unit, capfd):
    decoder, told = make(), []
    cancel = threading.Event()

    def note(done, total):
        told.append((done, total))
        cancel.set()

    with pytest.raises(DecodeCancelled, match=f"cancelled near {unit} [1-9]"):
        decode_sync(decoder, latents_for(decoder), Collect(), progress=note, cancel=cancel)
    total = 5 if unit == "image" else 30
    assert told == [(total // 5, total)]
    decode_sync(decoder, latents_for(decoder), Collect(), progress=True)
    assert f"{unit}/s" in capfd.readouterr().err


# --- sinks ----------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
PICTURES = np.stack([np.full((16, 24, 3), 25 * i, np.uint8) for i in range(9)])
PICTURES += np.arange(24, dtype=np.uint8)[:, None]
PICTURES_INFO = MediaInfo(9, 16, 24, Fraction(1), "images")


def sound(samples=10_001, channels=2, rate=44100):
    info = MediaInfo(samples, 1, channels, Fraction(rate), "audio")
    return RNG.integers(-32768, 32768, (samples, channels), dtype=np.int16), info


def feed(sink, values, info, steps=(1, 4096)):
    """In uneven chunks, each in a buffer that is used again."""
    sink.open(info)
    start = 0
    for step in itertools.cycle(steps):
        if start >= len(values):
            break
        buffer = values[start : start + step].copy()
        sink.write(buffer)
        buffer.fill(7)
        start += step
    sink.close()


def read_pictures(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(
    ("make", "suffix", "options", "lost"),
    [
        (PngSink, ".png", {"compression": 6}, 0),
        (JpegSink, ".jpg", {"quality": 100}, 2),
        (WebpSink, ".webp", {"lossless": True}, 0),
        (WebpSink, ".webp", {"quality": 100}, 2),
    ],
)
def test_pictures_are_whole_and_in_order(tmp_path, make, suffix, options, lost, workers):
    folder = tmp_path / "batch"
    feed(make(folder, workers=workers, **options), PICTURES, PICTURES_INFO, steps=(1, 3))
    names = [path.name for path in sorted(folder.iterdir())]
    assert names == [f"{i:06d}{suffix}" for i in range(9)]
    for found, wanted in zip(read_pictures(folder), PICTURES, strict=True):
        off = np.abs(found.astype(int) - wanted).mean()
        assert off <= lost
        others = [np.abs(found.astype(int) - other).mean() for other in PICTURES]
        assert off == min(others), "it is the picture of its number"
    feed(make(folder, workers=workers), PICTURES[:2], MediaInfo(2, 16, 24, Fraction(1), "images"))
    assert len(list(folder.iterdir())) == 2 and not leftovers(tmp_path)
    assert not encoders()


def encoders():
    return [one for one in threading.enumerate() if one.name.startswith("vdkit-encoder")]


def test_quality_and_level_are_used(tmp_path):
    sizes = {}
    for name, sink in {
        "small png": PngSink(tmp_path / "a", compression=9),
        "fast png": PngSink(tmp_path / "b", compression=0),
        "small jpeg": JpegSink(tmp_path / "c", quality=10),
        "good jpeg": JpegSink(tmp_path / "d", quality=95),
        "small webp": WebpSink(tmp_path / "e", quality=10),
        "good webp": WebpSink(tmp_path / "f", quality=95),
    }.items():
        feed(sink, PICTURES, PICTURES_INFO)
        sizes[name] = sum(path.stat().st_size for path in sink.path.iterdir())
    for kind in ("png", "jpeg", "webp"):
        assert sizes[f"small {kind}"] < sizes[f"{'fast' if kind == 'png' else 'good'} {kind}"]


@pytest.mark.parametrize("path", WRITING)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_in_the_pool_ends_the_decode(tmp_path, path, workers):
    decoder = NearestImages()
    latents = latents_for(decoder, frames=30, height=16, width=16)
    sink = PngSink(tmp_path / "batch", compression=0, workers=workers)
    with file_size_limit(5_000), pytest.raises(OSError, match="File too large"):
        path(decoder, latents, sink, progress=False)
    assert not list(tmp_path.iterdir()) and not encoders()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_aborted_batch_leaves_nothing(tmp_path, workers):
    (tmp_path / "batch").mkdir()
    (tmp_path / "batch" / "000000.jpg").write_bytes(b"earlier")
    decoder = NearestImages(fail_at=3)
    with pytest.raises(RuntimeError, match="the decoder failed"):
        decode_async(
            decoder, latents_for(decoder), JpegSink(tmp_path / "batch", workers=workers),
            progress=False,
        )  # fmt: skip
    assert [path.name for path in (tmp_path / "batch").iterdir()] == ["000000.jpg"]
    assert not leftovers(tmp_path) and not encoders()


def test_an_interrupted_pool_takes_no_more(tmp_path):
    sink = PngSink(tmp_path / "batch", workers=1)
    sink.open(PICTURES_INFO)
    sink.interrupt()
    sink.write(PICTURES)
    with pytest.raises(ValueError, match="0 images written, 9 announced"):
        sink.close()
    sink.abort()
    assert not list(tmp_path.iterdir()) and not encoders()


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_wav_has_every_sample_and_the_right_rate(tmp_path, channels):
    samples, info = sound(channels=channels)
    feed(WavSink(tmp_path / "a.wav"), samples, info)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:4] == (channels, 2, 44100, 10_001)
        found = np.frombuffer(file.readframes(20_000), "<i2").reshape(-1, channels)
    assert np.array_equal(found, samples)
    rate, read = scipy.io.wavfile.read(tmp_path / "a.wav")
    assert rate == 44100 and np.array_equal(read.reshape(-1, channels), samples)


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("compression", [0, 12])
def test_flac_has_every_sample_and_the_right_rate(tmp_path, channels, compression):
    samples, info = sound(channels=channels, rate=24000)
    feed(FlacSink(tmp_path / "a.flac", compression), samples, info)
    with av.open(str(tmp_path / "a.flac")) as container:
        stream = container.streams.audio[0]
        assert stream.rate == 24000 and stream.channels == channels
        assert stream.duration * stream.time_base * 24000 == 10_001
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
    found = np.concatenate([part.reshape(-1, channels) for part in parts])
    assert found.dtype == np.int16 and np.array_equal(found, samples)
    assert [path.name for path in tmp_path.iterdir()] == ["a.flac"]


@pytest.mark.parametrize("kind", ["wav", "flac"])
@pytest.mark.parametrize("path", WRITING)
def test_sound_from_a_decode(tmp_path, kind, path):
    decoder = NearestAudio()
    latents = latents_for(decoder, frames=50)
    sink = {"wav": WavSink, "flac": FlacSink}[kind](tmp_path / f"a.{kind}")
    path(decoder, latents, sink, progress=False)
    with av.open(str(sink.path)) as container:
        assert container.streams.audio[0].rate == 24000
        parts = [frame.to_ndarray().reshape(-1, 2) for frame in container.decode(audio=0)]
    assert np.array_equal(np.concatenate(parts), expected_of(decoder, latents))


@pytest.mark.parametrize("make", [WavSink, FlacSink])
def test_missing_samples_are_noticed(tmp_path, make):
    samples, info = sound()
    sink = make(tmp_path / f"a{make.ending}")
    sink.open(info)
    sink.write(samples[:5000])
    with pytest.raises(ValueError, match="5000 samples written, 10001 announced"):
        sink.close()
    sink.abort()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [WavSink, FlacSink])
def test_a_failed_decode_leaves_the_earlier_file(tmp_path, make):
    place = tmp_path / f"a{make.ending}"
    place.write_bytes(b"earlier")
    decoder = NearestAudio(fail_at=3)
    with pytest.raises(RuntimeError, match="the decoder failed"):
        decode_async(decoder, latents_for(decoder), make(place), progress=False)
    assert place.read_bytes() == b"earlier" and [*tmp_path.iterdir()] == [place]


def test_limits_of_the_formats(tmp_path):
    for make, words in (
        (lambda: PngSink(tmp_path / "a", compression=10), "compression is 10; use 0"),
        (lambda: JpegSink(tmp_path / "a", quality=0), "quality is 0; use 1"),
        (lambda: WebpSink(tmp_path / "a", quality=101), "quality is 101; use 0"),
        (lambda: JpegSink(tmp_path / "a", workers=65), "workers is 65; use 0"),
        (lambda: JpegSink(tmp_path / "a", workers=-1), "workers is -1; use 0"),
        (lambda: FlacSink(tmp_path / "a.flac", 13), "compression is 13; use 0"),
        (lambda: WavSink(tmp_path / "a.mp3"), "WavSink writes .wav files, not 'a.mp3'"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    wide = MediaInfo(1, 8, 16384, Fraction(1), "images")
    with pytest.raises(ValueError, match=r"WebpSink takes sides of 16383 .* these are 8x16384"):
        WebpSink(tmp_path / "a").open(wide)
    with pytest.raises(ValueError, match="FLAC has 1 to 8 channels, not 9; use RawSink"):
        FlacSink(tmp_path / "a.flac").open(sound(channels=9)[1])
    with pytest.raises(ValueError, match="more than the 4 GiB of a WAV file; use FlacSink"):
        WavSink(tmp_path / "a.wav").open(MediaInfo(2**31, 1, 1, Fraction(8000), "audio"))
    assert not list(tmp_path.iterdir())


REFUSED = [
    (NearestDecoder, WavSink, "a.wav", "WavSink takes audio, .* makes video; use Mp4Sink, PngSink"),
    (NearestDecoder, FlacSink, "a.flac", "FlacSink takes audio, .* makes video"),
    (NearestImages, Mp4Sink, "a.mp4", "Mp4Sink takes video .* makes images; use PngSink, J"),
    (NearestImages, FlacSink, "a.flac", "FlacSink takes audio, .* makes images"),
    (NearestAudio, Mp4Sink, "a.mp4", "Mp4Sink takes video .* makes audio; use WavSink"),
    (NearestAudio, PngSink, "a", "PngSink takes video and images, .* makes audio"),
    (NearestAudio, WebpSink, "a", "WebpSink takes video and images, .* makes audio"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "name", "message"), REFUSED)
@pytest.mark.parametrize("path", [decode_sync, decode_async])
def test_a_sink_of_another_medium(tmp_path, make, kind, name, message, path):
    decoder = make()
    decoder.begin = lambda latents: pytest.fail("begun")
    for sink in (kind(tmp_path / name), ThrottledSink(kind(tmp_path / name), 10)):
        with pytest.raises(TypeError, match=message):
            path(decoder, latents_for(decoder), sink, progress=False)
    info = MediaInfo(4, 1, 2, Fraction(4), make.medium if make is not NearestDecoder else "video")
    with pytest.raises(TypeError, match=f"{kind.__name__} takes"):
        kind(tmp_path / name).open(info)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", OTHERS)
def test_raw_and_memory_take_every_medium(tmp_path, make):
    decoder = make()
    latents, memory = latents_for(decoder), MemorySink()
    expected = expected_of(decoder, latents)
    decode_async(decoder, latents, memory, progress=False)
    assert np.array_equal(memory.frames, expected) and memory.frames.dtype == expected.dtype
    decode_async(decoder, latents, RawSink(tmp_path / "a.raw", durable=True), progress=False)
    told = json.loads((tmp_path / "a.raw.json").read_text())
    found = np.fromfile(tmp_path / "a.raw", told["dtype"]).reshape(told["shape"])
    assert np.array_equal(found, expected)
    assert {k: v for k, v in told.items() if k not in ("shape", "dtype")} == (
        {"layout": "NHWC, RGB"} if make is NearestImages else {"layout": "SC", "sample_rate": 24000}
    )


def test_sinks_by_name_take_options(tmp_path):
    spec = SinkSpec("jpeg", tmp_path, options={"quality": 75, "workers": 2})
    with spec.fresh("one") as sink:
        assert isinstance(sink, JpegSink) and (sink.quality, sink.workers) == (75, 2)
    info = SinkInfo(**spec.describe())
    assert sink_words(info).startswith("jpeg (quality 75, workers 2)")
    assert info == SinkInfo(**json.loads(info.model_dump_json()))
    hash(spec)
    for kind, ending in (("wav", ".wav"), ("flac", ".flac")):
        with SinkSpec(kind, tmp_path, throttle_mb_per_s=10).fresh("one") as sink:
            assert sink.inner.path.name == f"one{ending}"
    with pytest.raises(ValueError, match="sink 'png' has no options quality; it has compression"):
        SinkSpec("png", tmp_path, options={"quality": 75})
    with pytest.raises(ValueError, match="sink 'null' has no options workers; it has none"):
        SinkSpec("null", options={"workers": 2})
    with pytest.raises(ValueError, match="quality is 0; use 1"):
        SinkSpec("jpeg", tmp_path, options={"quality": 0})
    assert not list(tmp_path.iterdir())


# --- studies --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=OTHERS)
def recorded(request):
    decoder = request.param()
    latents = latents_for(decoder, frames=12)
    return run_benchmark(
        decoder, latents, lambda label: nullcontext(NullSink()), runs=2, progress=False,
        config=DecodeConfig(3), label="media",
    )  # fmt: skip


def test_a_benchmark_is_recorded_with_its_medium(recorded, tmp_path):
    work = recorded.workload
    if work.medium == "images":
        sizes = (12, 3, 5, 12, 12, 40, 1.0)
    else:
        sizes = (12, 1, 1, 72, 1, 2, 24000.0)
    names = "latent_frames latent_height latent_width frames height width fps"
    assert tuple(getattr(work, name) for name in names.split()) == sizes
    assert recorded.frames_identical and recorded.base.frame_sha256
    assert recorded.arms["diffusers"].frame_sha256 == recorded.base.frame_sha256
    again = read_recording(write_recording(recorded, tmp_path))
    assert again.workload == work and work.exact and again.arms.keys() == recorded.arms.keys()
    old = json.loads(work.model_dump_json())
    del old["medium"], old["exact"]
    assert Workload(**old).medium == "video" and Workload(**old).exact
    with pytest.raises(ValueError, match="medium 'film' is unknown; known are video, images"):
        Workload(**(old | {"medium": "film"}))


def test_its_document_has_the_words_of_its_medium(recorded):
    document = document_of(recorded, Asked(usd_per_hour=3.36, energy=True))
    table = document.tables()[0]
    text, page = document.text(), document.html("foot")
    images = recorded.workload.medium == "images"
    for said in (text, page):
        assert " 1x2" not in said and "video" not in said
        assert ("12 images of 12x40." if images else "72 samples (12 latent) of 2 channels") in said
        assert ("Images" if images else "Samples") + " of sync, async: identical" in said
        assert ("diffusers (whole batch)" if images else "diffusers (whole clip)") in said
    assert ("s a batch and sync" if images else "s a clip and sync") in page
    assert ("decoded 12 images of 12x40, in" if images else "0.00 s of audio in 2 channel") in page
    assert f"chunks of 3 latent {'image' if images else 'frame'}s into NullSink" in page
    assert f"; {'image' if images else 'sample'}s of the modes that were compared are" in page
    wanted = {"images / s", "J / image"}
    other = {"RTF", "USD / audio h", "saves USD / 1000 h", "J / audio s"}
    wanted, other = (wanted, other) if images else (other, wanted)
    assert wanted <= set(table.columns) and not other & set(table.columns)
    (row,) = [row for row in table.rows if row["mode"] == "sync (chunked)"]
    mean_s = recorded.base.latency.mean
    if images:
        assert not any("USD" in name for name in table.columns)
        assert row["images / s"].value == pytest.approx(12 / mean_s)
    else:
        assert row["RTF"].value == pytest.approx(mean_s / (72 / 24000))


def test_lists_and_frames_of_runs_know_their_medium(recorded, tmp_path):
    folder = tmp_path / recorded.workload.medium
    folder.mkdir()
    write_recording(recorded, folder)
    rows, images = load_results(folder), recorded.workload.medium == "images"
    assert set(rows["medium"]) == {recorded.workload.medium}
    assert rows["rtf"].isna().all() if images else (rows["rtf"] > 0).all()
    text = results_table([(folder, recorded)]).text()
    assert ("12x40" if images else "2 channels") in text and "1x2" not in text
    assert ("12 images" if images else "72 samples") in text
    assert f"(time to first {'image' if images else 'sample'})" in text


def test_prediction_of_the_recorded_chunks_and_of_others(recorded):
    costs, medium = fit_costs(recorded), recorded.workload.medium
    arm, info = recorded.arms["async"], video_info(recorded)
    unit = units_per_latent(recorded.workload)
    assert info.medium == medium and unit == (1 if medium == "images" else 6)
    plan = plan_of([arm], 3)
    assert [chunk.frames for chunk in plan] == [arm.workload.frames // 4] * 4
    made = predict(costs, info, arm.config, plan=plan)
    assert [chunk.frames for chunk in made.run.chunks] == [chunk.frames for chunk in plan]
    assert made.run.d2h_bytes == arm.timed[0].d2h_bytes
    synced = recorded.base
    modelled = predict(costs, info, synced.config, "sync", plan=plan)
    assert modelled.run.d2h_bytes == synced.timed[0].d2h_bytes, "float32, and twice int16"
    other = plan_of(recorded.arms.values(), 5)
    assert [chunk.frames for chunk in other] == [5 * unit, 5 * unit, 2 * unit]
    longer = plan_of(recorded.arms.values(), 5, 16 * unit - (unit > 1))
    assert [chunk.latent_stop for chunk in longer] == [5, 10, 15, 16]
    assert longer[-1].frame_stop == 16 * unit - (unit > 1), "a last latent cut short"
    for mode, given in (("async", None), ("diffusers", plan)):
        with pytest.raises(ValueError, match="is cut into chunks only a recording tells"):
            predict(costs, info, DecodeConfig(2), mode, plan=given)
    page = document_of(recorded).html("foot")
    assert "not predicted: how" in page and "diffusers (whole" in page
    assert fit_evidence(costs, recorded).runs == 2 * len(recorded.arms)


FIRST = Cost(0.004, 0.03)
COSTS = StageCosts(
    decode=Cost(0.01, 0.02, FIRST), launch=Cost(0.001, 0, Cost(0.002)), copy=Cost(1e-5, 2e-5),
    pageable_copy=Cost(1e-4, 1e-4), convert=Cost(1e-3, 5e-4), write=Cost(1e-4, 3e-3),
    open=Cost(0.03), close=Cost(4e-4), setup_s=0.003, step_s=1e-4, element_bytes=4,
)  # fmt: skip


def modelled(recorded, mode, size, slots=2, costs=COSTS):
    """What costs give for what was recorded, in other chunks."""
    config = DecodeConfig(size, slots)
    plan = usual_plan(recorded.workload, size)
    return predict(costs, video_info(recorded), config, mode, plan=plan).run


def as_if(recorded, size):
    """The recording as if it had been of ``COSTS``, on a GPU, in chunks of ``size``."""
    arms = {
        mode: recorded.arms[mode].model_copy(
            update={"runs": (as_run(modelled(recorded, mode, size), 0),),
                    "config": DecodeConfig(size)}
        )
        for mode in ("sync", "async")
    }  # fmt: skip
    where = recorded.provenance.model_copy(update={"device": "a GPU"})
    return recorded.model_copy(update={"arms": arms, "baseline": "sync", "provenance": where})


@pytest.mark.parametrize("sizes", [(1, 2, 4), (2, 6)])
def test_what_costs_give_is_predicted_from_some_of_it(recorded, sizes):
    """Chunk sizes, slots and a length that were not seen, to the microsecond."""
    seen = [as_if(recorded, size) for size in sizes]
    found = fit_costs(*seen)
    assert isinstance(found.decode.first_s, Cost)
    assert found.decode.first_s.seconds(3) == pytest.approx(FIRST.seconds(3), rel=1e-6)
    arms = [arm for one in seen for arm in one.arms.values()]
    info = video_info(recorded)
    for mode, size, slots in (("sync", 3, 1), ("async", 3, 1), ("async", 5, 3), ("async", 12, 2)):
        plan = plan_of(arms, size)
        made = predict(found, info, DecodeConfig(size, slots), mode, plan=plan).run
        true = modelled(recorded, mode, size, slots)
        assert made.latency_s == pytest.approx(true.latency_s, rel=1e-3), (mode, size)
        assert made.ttff_s == pytest.approx(true.ttff_s, rel=1e-3)


def test_a_single_chunk_shows_what_the_others_cost(recorded):
    whole = fit_costs(as_if(recorded, 12))
    assert whole.decode.seconds(12) == pytest.approx(whole.decode.first_s.seconds(12))


def test_advice_knows_no_first_frame(recorded):
    """Every chunk size up to the whole, with figures by the medium."""
    seen = [as_if(recorded, size) for size in (1, 4)]
    arms = [arm for one in seen for arm in one.arms.values()]
    info, costs = video_info(recorded), fit_costs(*seen)
    options = {"info": info, "plan": partial(plan_of, arms)}
    advice = recommend(costs, **options, chunks=(1, 4, 12), slots=(1, 2))
    for made, _ in advice.candidates:
        config = made.run.config
        true = modelled(recorded, "async", config.chunk_size, config.slots)
        assert made.run.latency_s == pytest.approx(true.latency_s, rel=1e-3)
    images = recorded.workload.medium == "images"
    text = advice_document(advice, Asked(usd_per_hour=3.36)).text()
    assert ("images / s" in text, "USD / audio h" in text, "Price" in text) == (
        (True, False, False) if images else (False, True, True)
    )
    unit = recorded.workload.kind.unit
    with pytest.raises(ValueError, match=f"time to the first {unit} is at least"):
        recommend(costs, Limits(ttff_s=1e-6), **options)


def test_a_sweep_is_predicted_and_advised_on(recorded, tmp_path):
    decoder = {"images": NearestImages, "audio": NearestAudio}[recorded.workload.medium]()
    sweep = sweep_grid(
        decoder, latents_for(decoder, 12), NULL, tmp_path, chunks=(1, 2, 4, 12),
        slots=(1, 2), modes=("sync", "async"), runs=1, progress=False,
    )  # fmt: skip
    assert not sweep.predictions.unpredicted and len(sweep.predictions.cells) == 12
    for cell in sweep.plan.all_cells:
        made = sweep.predicted(cell)
        plan = plan_of((one.base for one in sweep.results.values()), cell.chunk_size)
        config = cell.config(sweep.plan.config)
        again = predict(
            sweep.predictions.costs, video_info(sweep.results[cell]), config, cell.mode, plan=plan
        )
        assert made.latency_s == again.run.latency_s
    point, *_ = storage_sensitivity(sweep, [1.0])
    assert point.sync_s > 0 and point.advice.prediction.run.info.medium == decoder.medium
    with pytest.raises(ValueError, match=r"chunk size 13: the (batch|clip) has 12 l"):
        sweep_grid(decoder, latents_for(decoder, 12), NULL, tmp_path, chunks=(13,))
    if decoder.medium == "images":
        with pytest.raises(ValueError, match="is of images, which no hour can be paid for"):
            saving_line(sweep, Limits(), 1.0, 3.36)
    else:
        assert "for an hour of audio" in saving_line(sweep, Limits(), 1.0, 3.36)


def test_prediction_of_a_videos_own_plan():
    decoder = Planned()
    done = run_benchmark(
        decoder, latents_for(decoder, 9), lambda label: nullcontext(NullSink()),
        modes=("sync", "async"), runs=1, progress=False,
    )  # fmt: skip
    costs, info = fit_costs(done), video_info(done)
    plan = plan_of(done.arms.values(), 1)
    assert [chunk.frames for chunk in plan] == [3, 2, 2, 2, 1, 1]
    assert [c.frames for c in predict(costs, info, plan=plan).run.chunks] == [3, 2, 2, 2, 1, 1]
    with pytest.raises(ValueError, match="chunk size 2 is not recorded"):
        plan_of(done.arms.values(), 2)
    with pytest.raises(ValueError):
        predict(costs, info, mode="diffusers", plan=plan)
    usual = run_benchmark(
        NearestDecoder(), latents_for(NearestDecoder()), lambda label: nullcontext(NullSink()),
        modes=("sync",), runs=1, progress=False,
    )  # fmt: skip
    assert plan_of(usual.arms.values(), 2) == plan_chunks(5, 2)
    assert plan_of(usual.arms.values(), 2, 33) == plan_chunks(9, 2)
    with pytest.raises(ValueError, match=r"34 pixel frames .*use 33 or 37"):
        plan_of(usual.arms.values(), 2, 34)
    with pytest.raises(ValueError, match="chunk size 1 is not recorded at that length"):
        plan_of(done.arms.values(), 1, 5)


def test_chunks_that_only_approximate_are_not_held_against_the_whole():
    class Rough(NearestImages):
        exact = False

        def decode_video(self, latents, before_frame):
            return super().decode_video(latents, before_frame) * 0.9

    done = run_benchmark(
        Rough(), latents_for(Rough()), lambda label: nullcontext(NullSink()), runs=1, progress=False
    )
    assert not done.workload.exact and done.frames_identical
    assert not comparable(done.arms["diffusers"])
    assert "Not compared with the whole: diffusers." in document_of(done).text()


# --- what only approximates its whole decode is measured against it ------------------------------


def near(make, **changed):
    """A decoder whose chunks say that they are not exact: of odd latents they are 0.1 too high."""

    class Near(make):
        exact = False

        def decode_chunk(self, state, start, stop):
            made = super().decode_chunk(state, start, stop)
            return made + 0.1 if start % 2 and stop - start == 1 else made

    for name, value in changed.items():
        setattr(Near, name, value)
    return Near()


@pytest.mark.parametrize("make", OTHERS)
def test_the_distance_from_the_whole_is_recorded(make, tmp_path):
    decoder = near(make)
    latents = 0.5 * latents_for(decoder, frames=6)
    options = {"runs": 1, "warmup": 0, "progress": False, "baseline": "sync"}
    chunked = run_benchmark(
        decoder, latents, SinkSpec("null").fresh, modes=("sync", "async"), **options
    )
    decode_diffusers(decoder, latents, whole := MemorySink(), progress=False)
    decode_sync(decoder, latents, made := MemorySink(), progress=False)
    error = np.square(made.frames.astype(float) - whole.frames)
    units = len(error) // 6
    power = 255**2 if make is NearestImages else np.square(whole.frames.astype(float)).mean()
    worst = max(error[at : at + units].mean() for at in range(0, len(error), units))
    expected = [-10 * np.log10(one / power) for one in (error.mean(), worst)]
    for arm in chunked.arms.values():
        assert arm.whole_db == pytest.approx(expected) and arm.whole_db[0] > arm.whole_db[1]
    write_recording(chunked, tmp_path)
    read = read_recording(tmp_path)
    assert read.arms["async"].whole_db == chunked.arms["async"].whole_db
    text = document_of(read).text()
    assert "dB of whole (worst chunk)" in text
    assert (
        f"{expected[0]:.1f} ({expected[1]:.1f})" in text and "which there was none of" not in text
    )
    even = run_benchmark(
        near(make),
        latents,
        SinkSpec("null").fresh,
        modes=("sync",),
        config=DecodeConfig(2),
        **options,
    )
    assert even.base.whole_db == (np.inf, np.inf) and "equal (equal)" in document_of(even).text()
    exact = run_benchmark(make(), latents, SinkSpec("null").fresh, modes=("sync",), **options)
    assert exact.base.whole_db is None and "dB of whole" not in document_of(exact).text()


def test_without_a_whole_decode_nothing_is_claimed():
    class Near(NearestDecoder):
        exact = False

    options = {"runs": 1, "warmup": 0, "progress": False, "baseline": "sync"}
    latents = latents_for(Near(), frames=3)
    recorded = run_benchmark(
        Near(), latents, SinkSpec("null").fresh, modes=("sync", "async"), **options
    )
    assert recorded.base.whole_db is None
    text = document_of(recorded).text()
    assert "chunks approximate its whole decode, which there was none of" in text
    assert "dB of whole" not in text
