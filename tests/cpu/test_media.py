"""Images and audio take the paths that video takes: same bytes, plans, errors and endings."""

import itertools
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.helpers import Collect, NearestAudio, NearestDecoder, NearestImages, latents_for
from vdkit import DecodeConfig, compute_only, decode_async, decode_diffusers, decode_sync
from vdkit.decode import DecodeCancelled, Traits, to_levels
from vdkit.decode.chunks import chunks_of
from vdkit.decode.media import MEDIA, MediaInfo

PATHS = (decode_sync, decode_async, compute_only)
WRITING = (decode_diffusers, decode_sync, decode_async)
OTHERS = (NearestImages, NearestAudio)


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
    "video for images": (NearestImages, IMAGES[None], ValueError, "5 axes; use .*decoder of image"),
    "video for audio": (NearestAudio, IMAGES[None], ValueError, "5 axes; use .*decoder of audio"),
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
    with pytest.raises(ValueError, match="returned frames of shape") as caught:
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
