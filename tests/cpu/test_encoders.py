"""Encoders side by side: one file of their segments, and how they end."""

import threading
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.cpu.test_av import Clicks
from tests.helpers import NearestDecoder, latents_for, leftovers, wait_for
from vdkit import DecodeConfig, Mp4Sink, decode_async, decode_sync
from vdkit.decode import AvLatents
from vdkit.decode.media import MediaInfo
from vdkit.models.sound import WithSound
from vdkit.sinks import SinkSpec
from vdkit.sinks.files import Encoders

HEIGHT, WIDTH, FPS = 32, 48, Fraction(24000, 1001)


def frames_of(count):
    """A bright block that is one column further in every frame, over a ramp."""
    made = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    made[:] = (np.arange(WIDTH) * 3)[:, None]
    for index, frame in enumerate(made):
        frame[8:24, index % 40 : index % 40 + 6] = 250
    return made


def written(path, frames, step=3, **options):
    sink = Mp4Sink(path, crf=1, **options)
    sink.open(MediaInfo(len(frames), HEIGHT, WIDTH, FPS))
    for first in range(0, len(frames), step):
        buffer = frames[first : first + step].copy()
        sink.write(buffer)
        buffer[:] = 0  # it is the ring's: nothing may be read from it later
    sink.close()
    assert not running() and not leftovers(path.parent)
    return path


def running():
    return [one for one in threading.enumerate() if one.name.startswith("vdkit-encoder")]


def read(path):
    """(frames, their times, packets as (pts, dts, key), parameter sets)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == FPS and stream.start_time == 0
        packets = [(one.pts, one.dts, one.is_keyframe) for one in container.demux(stream)][:-1]
        length, sets = float(stream.duration * stream.time_base), stream.codec_context.extradata
        counted = stream.frames
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    assert len(decoded) == counted == len(packets)
    assert length == pytest.approx(counted / float(FPS), rel=1e-6)
    pixels = [frame.to_ndarray(format="rgb24").astype(int) for frame in decoded]
    return np.stack(pixels), [frame.pts for frame in decoded], packets, sets


@pytest.mark.parametrize("encoders", [2, 3])
@pytest.mark.parametrize("count", [1, 2, 8, 9, 26, 31, 33])
def test_one_file_of_all_segments(tmp_path, encoders, count):
    frames = frames_of(count)
    made = written(tmp_path / "clip.mp4", frames, encoders=encoders, segment=8)
    found, times, packets, sets = read(made)
    alone, usual, _, its_sets = read(written(tmp_path / "one.mp4", frames))
    assert times == usual and sets == its_sets, "any player takes it for one encoder's"
    assert np.abs(found - frames).mean() < np.abs(alone - frames).mean() + 0.5
    others = [[np.abs(one - frame).mean() for frame in frames] for one in found]
    assert [int(np.argmin(one)) for one in others] == list(range(count)), "out of order"
    assert [one[0] for one in packets if one[2]] == times[::8], "every segment needs no other"
    dts = [one[1] for one in packets]
    assert len(set(np.diff(dts))) <= 1 and all(one[1] <= one[0] for one in packets)


def test_a_player_can_begin_at_every_segment(tmp_path):
    frames = frames_of(40)
    path = written(tmp_path / "clip.mp4", frames, encoders=3, segment=8)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for first in (32, 8, 24):
            container.seek(round(first / FPS / stream.time_base), stream=stream)
            frame = next(container.decode(stream)).to_ndarray(format="rgb24").astype(int)
            assert int(np.argmin([np.abs(frame - one).mean() for one in frames])) == first


@pytest.mark.parametrize("path", [decode_sync, decode_async])
def test_with_sound(tmp_path, path):
    decoder = WithSound(NearestDecoder(), Clicks(), 24, padded=True)
    latents = AvLatents(latents_for(decoder.video, 19), np_zeros(decoder))
    heard = {}
    for encoders in (1, 3):
        file = tmp_path / f"{encoders}.mp4"
        path(decoder, latents, Mp4Sink(file, encoders=encoders, segment=8), progress=False)
        with av.open(str(file)) as container:
            video, sound = container.streams.video[0], container.streams.audio[0]
            seconds = [float(one.duration * one.time_base) for one in (video, sound)]
            assert video.frames == 73 and seconds[0] == pytest.approx(seconds[1], abs=1e-3)
        with av.open(str(file)) as container:
            heard[encoders] = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], 1)
    assert np.array_equal(heard[1], heard[3])


def np_zeros(decoder):
    import torch

    return torch.zeros(1, decoder.audio.latent_channels, 70)


@pytest.mark.parametrize("path", [decode_sync, decode_async])
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_an_error_in_one_encoder_ends_all(tmp_path, path, nth, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(b"earlier")
    begun = []
    real = Mp4Sink._encode_segment

    def failing(sink, first, coming):
        begun.append(first)
        if len(begun) == nth:
            raise av.error.MemoryError(12, "no memory for an encoder")
        return real(sink, first, coming)

    monkeypatch.setattr(Mp4Sink, "_encode_segment", failing)
    decoder = NearestDecoder()
    sink = Mp4Sink(tmp_path / "clip.mp4", encoders=2, segment=4)
    with pytest.raises(MemoryError, match="no memory for an encoder"):
        path(decoder, latents_for(decoder, 5), sink, progress=False)
    assert (tmp_path / "clip.mp4").read_bytes() == b"earlier"
    assert [one.name for one in tmp_path.iterdir()] == ["clip.mp4"] and not running()


def test_a_decode_that_fails_leaves_nothing(tmp_path):
    decoder = NearestDecoder(fail_at=7)
    sink = Mp4Sink(tmp_path / "clip.mp4", encoders=2, segment=4)
    with pytest.raises(RuntimeError, match="the decoder failed"):
        decode_async(decoder, latents_for(decoder, 9), sink, progress=False)
    assert not list(tmp_path.iterdir()) and not running()


def test_what_waits_is_bounded_and_an_interrupt_ends_the_wait(tmp_path, monkeypatch):
    gate, taken = threading.Event(), []

    def stuck(sink, first, coming):
        gate.wait(20)
        return []

    monkeypatch.setattr(Mp4Sink, "_encode_segment", stuck)
    sink = Mp4Sink(tmp_path / "clip.mp4", encoders=2, segment=4)
    frames = frames_of(40)
    sink.open(MediaInfo(40, HEIGHT, WIDTH, FPS))

    def write():
        for frame in frames:
            sink.write(frame[None])
            taken.append(frame)

    writer = threading.Thread(target=write)
    writer.start()
    wait_for(lambda: len(taken) == 3 * 4, 20)
    writer.join(0.2)
    assert len(taken) == 3 * 4, "two segments under way, one that waits"
    sink.interrupt()
    gate.set()
    writer.join(20)
    assert not writer.is_alive()
    with pytest.raises(ValueError, match="frames written, 40 announced"):
        sink.close()
    sink.abort()
    assert not list(tmp_path.iterdir()) and not running()


def test_results_are_taken_in_order():
    first, taken = threading.Event(), []
    side = Encoders(2, 2, taken.append)
    side.hand(lambda: first.wait(20) and "a")
    side.hand(lambda: first.set() or "b")
    side.hand(lambda: "c")
    assert taken == ["a"]
    side.finish()
    assert taken == ["a", "b", "c"] and not running()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoders": 0}, "encoders is 0; use 1 to 64"),
        ({"encoders": 65}, "encoders is 65; use 1 to 64"),
        ({"encoders": True}, "encoders is True; use 1 to 64"),
        ({"encoders": 2.0}, r"encoders is 2\.0; use 1 to 64"),
        ({"encoders": 2, "segment": 1}, "segment is 1; use 2 frames or more"),
        ({"segment": "8"}, "segment is 8; use 2 frames or more"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        Mp4Sink(tmp_path / "a.mp4", **options)


def test_options_of_a_sink_by_name(tmp_path):
    spec = SinkSpec.of(f"mp4,encoders=2,segment=4,preset=ultrafast:{tmp_path}")
    assert spec.options == {"encoders": 2, "segment": 4, "preset": "ultrafast"}
    assert spec.folder == tmp_path and spec.describe()["options"] == spec.options
    decoder = NearestDecoder()
    with spec.fresh("clip") as sink:
        decode_async(decoder, latents_for(decoder, 5), sink, config=DecodeConfig(2), progress=False)
        assert sink.encoders == 2 and sink.path.exists()
    assert SinkSpec.of("webp,lossless=true").options == {"lossless": True}
    for text, words in (
        ("mp4,encoders", "sink option 'encoders' is none; write mp4,OPTION=VALUE"),
        ("mp4,encoders=", "sink option 'encoders=' is none"),
        ("mp4,encodes=2", "sink 'mp4' has no options encodes; see Mp4Sink"),
        ("mp4,encoders=many", "encoders is many; use 1 to 64"),
        ("null,encoders=2", "sink 'null' has no options encoders; see NullSink"),
    ):
        with pytest.raises(ValueError, match=words):
            SinkSpec.of(text)
