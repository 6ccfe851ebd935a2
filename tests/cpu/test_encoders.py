"""Encoders: one file of the segments of several, other codecs and formats, and how they end."""

import threading
import time
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from tests.cpu.test_av import Clicks
from tests.helpers import NearestDecoder, latents_for, leftovers, wait_for
from vdkit import (
    DecodeConfig,
    MemorySink,
    Mp4Sink,
    PngSink,
    decode_async,
    decode_sync,
    document_of,
    run_benchmark,
)
from vdkit.decode import AvLatents
from vdkit.decode.chunks import segment_lengths
from vdkit.decode.media import MediaInfo
from vdkit.measure.quality import psnr_db, ssim
from vdkit.measure.study import described
from vdkit.models.sound import WithSound
from vdkit.sinks import SinkSpec
from vdkit.sinks.files import Encoders, Parts
from vdkit.sinks.mp4 import CODECS

HEIGHT, WIDTH, FPS = 32, 48, Fraction(24000, 1001)


def frames_of(count):
    """A bright block that is one column further in every frame, over a ramp."""
    made = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    made[:] = (np.arange(WIDTH) * 3)[:, None]
    for index, frame in enumerate(made):
        frame[8:24, index % 40 : index % 40 + 6] = 250
    return made


def begins(count, encoders, segment=8):
    """First frame of each segment."""
    lengths = segment_lengths(count, encoders, segment)
    return [sum(lengths[:index]) for index in range(len(lengths))]


def written(path, frames, step=3, pixel_format="rgb24", **options):
    sink = Mp4Sink(path, **{"crf": 1, **options})
    height = frames.shape[1] if pixel_format == "rgb24" else frames.shape[1] * 2 // 3
    sink.open(MediaInfo(len(frames), height, frames.shape[2], FPS, pixel_format=pixel_format))
    for first in range(0, len(frames), step):
        buffer = frames[first : first + step].copy()
        sink.write(buffer)
        buffer[:] = 0  # it is the ring's: nothing may be read from it later
    sink.close()
    assert not running() and not leftovers(path.parent)
    return path


def running():
    return [one for one in threading.enumerate() if one.name.startswith("vdkit-encoder")]


def boxes(path):
    """Names of the file's outermost boxes, in order, and the bytes of each."""
    data, at, found = path.read_bytes(), 0, {}
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.setdefault(data[at + 4 : at + 8].decode(), size)
        at += size
    return found


def read(path):
    """(frames, their times, packets as (pts, dts, key), parameter sets)."""
    assert list(boxes(path)) == ["ftyp", "moov", "free", "mdat"], "it plays before all is there"
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


CASES = [("h264", encoders, count) for encoders in (2, 3) for count in (1, 2, 8, 9, 26, 31, 33)]
CASES += [(codec, 3, count) for codec in ("hevc", "av1") for count in (1, 2, 21)]


@pytest.mark.parametrize(("codec", "encoders", "count"), CASES)
def test_one_file_of_all_segments(tmp_path, codec, encoders, count):
    frames = frames_of(count)
    if codec == "hevc":  # which takes no smaller ones
        frames = frames.repeat(2, 1).repeat(2, 2)
    options = {"codec": codec, "crf": 1 if codec == "h264" else None}
    made = written(tmp_path / "clip.mp4", frames, encoders=encoders, segment=8, **options)
    found, times, packets, sets = read(made)
    alone, usual, _, its_sets = read(written(tmp_path / "one.mp4", frames, **options))
    assert times == usual and sets == its_sets, "any player takes it for one encoder's"
    assert np.abs(found - frames).mean() < np.abs(alone - frames).mean() + 0.5
    others = [[np.abs(one - frame).mean() for frame in frames] for one in found]
    assert [int(np.argmin(one)) for one in others] == list(range(count)), "out of order"
    keys = [one[0] for one in packets if one[2]]
    assert keys == [times[at] for at in begins(count, encoders)], "each needs no other"
    dts = [one[1] for one in packets]
    assert len(set(np.diff(dts))) <= 1 and all(one[1] <= one[0] for one in packets)
    with av.open(str(made)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
        assert context.codec_tag == {"h264": "avc1", "hevc": "hvc1", "av1": "av01"}[codec]


@pytest.mark.parametrize("form", ["yuv420p", "nv12"])
@pytest.mark.parametrize("encoders", [1, 2])
def test_frames_in_the_sinks_own_format_are_encoded_as_they_are(tmp_path, form, encoders):
    """The same frames as of RGB that the sink converts, with sound beside it too.

    Without loss, for what x264 chooses in so small a picture varies from run to run.
    """
    frames, options = frames_of(21), {"encoders": encoders, "segment": 8, "crf": 0}
    # AREA: as the sink converts
    yuv = np.stack([
        av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
            format=form, interpolation="AREA", src_colorspace="ITU709", dst_colorspace="ITU709",
            dst_color_range="MPEG",
        ).to_ndarray()
        for frame in frames
    ])  # fmt: skip
    usual, times, *_ = read(written(tmp_path / "rgb.mp4", frames, **options))
    found, its_times, *_ = read(written(tmp_path / "yuv.mp4", yuv, pixel_format=form, **options))
    assert times == its_times and np.array_equal(found, usual)
    info = MediaInfo(21, HEIGHT, WIDTH, FPS, "av", 24000, 1, 21000, form)
    rows = np.zeros(info.shape(21), np.uint8)
    rows[:, : yuv[0].size] = yuv.reshape(21, -1)
    sink = Mp4Sink(tmp_path / "av.mp4", pixel_format=form, **options)
    sink.open(info)
    sink.write(rows)
    sink.close()
    with av.open(str(sink.path)) as container:
        assert container.streams.audio[0].duration >= 21000
        heard = list(container.decode(video=0))
    assert np.array_equal([one.to_ndarray(format="rgb24") for one in heard], usual)


def test_room_for_what_is_needed_to_play(tmp_path):
    """Every frame a key frame, one chunk of the file each, and sound in short packets."""
    info = MediaInfo(300, HEIGHT, WIDTH, Fraction(240), "av", 8000, 1, 10000)
    sink = Mp4Sink(tmp_path / "clip.mp4", gop=1, sound="opus")
    sink.open(info)
    for _ in range(300):
        sink.write(np.zeros(info.shape(1), np.uint8))
    sink.close()
    found = boxes(sink.path)
    assert list(found)[:2] == ["ftyp", "moov"] and found["moov"] < 0.7 * (4000 + 40 * 321)
    with av.open(str(sink.path)) as container:
        assert all(one.is_keyframe for one in list(container.demux(video=0))[:-1])


@pytest.mark.parametrize("codec", CODECS)
def test_key_frames_as_often_as_asked(tmp_path, codec):
    """NVENC, where there is none, says what it lacks."""
    sink = Mp4Sink(tmp_path / "clip.mp4", codec=codec, gop=5, encoders=2, segment=12)
    info = MediaInfo(24, 160, 192, FPS)
    try:
        sink.open(info)
    except ValueError as error:
        sink.abort()
        words = f"no encoder opens for 160x192 as yuv420p; {codec}: FFmpeg said "
        assert str(error).startswith(words) and str(error).endswith("; use auto or h264")
        assert codec.endswith("nvenc") and not list(tmp_path.iterdir())
        return
    sink.write(np.random.default_rng(0).integers(0, 255, info.shape(24), np.uint8))
    sink.close()
    with av.open(str(sink.path)) as container:
        packets = [one for one in container.demux(video=0) if one.size]
        keys = [round(one.pts * one.time_base * FPS) for one in packets if one.is_keyframe]
    own = begins(24, 2, 12)
    assert {*own} <= {*keys} and all(b - a <= 5 for a, b in pairwise([*keys, 24]))


@pytest.mark.parametrize(
    ("options", "size", "form", "words"),
    [
        (
            {"codec": "hevc"},
            (48, 96),
            "yuv420p",
            "libx265: needs sides of 64 pixels; use another size, codec",
        ),
        (
            {"codec": "av1"},
            (64, 64),
            "nv12",
            "libsvtav1: takes no nv12, but yuv420p; use another size",
        ),
    ],
)
def test_frames_that_an_encoder_cannot_take(tmp_path, options, size, form, words):
    sink = Mp4Sink(tmp_path / "clip.mp4", **options)
    with pytest.raises(
        ValueError, match=rf"no encoder opens for {size[0]}x{size[1]} as {form}; {words}"
    ):
        sink.open(MediaInfo(1, *size, FPS, pixel_format=form))
    sink.abort()
    assert not list(tmp_path.iterdir())


def test_auto_takes_what_can_be_opened_and_says_why(tmp_path, monkeypatch):
    def opened():
        sink = Mp4Sink(tmp_path / "clip.mp4", codec="auto", encoders=2, crf=20)
        assert sink.encoder == "auto"
        sink.open(MediaInfo(1, HEIGHT, WIDTH, FPS))
        sink.write(frames_of(1))
        sink.close()
        return sink.encoder

    real = CODECS["h264_nvenc"]
    taken = "x264 veryfast crf 20, 2 encoders, segments of 16"
    for name, words in (("libx264", taken), ("no_such", f"{taken}; no_such: FFmpeg said no_such")):
        monkeypatch.setitem(
            CODECS, "h264_nvenc", replace(real, name=name, words="x264", preset="veryfast")
        )
        assert opened() == words
    monkeypatch.setitem(CODECS, "h264_nvenc", replace(real, name="no_such_nvenc"))
    monkeypatch.setitem(CODECS, "h264", replace(real, name="no_such_either"))
    with pytest.raises(ValueError, match=r"no_such_nvenc: FFmpeg said .*; no_such_either: F"):
        opened()


def test_segments_that_begin_in_different_ways_are_not_joined(tmp_path, monkeypatch):
    real = Mp4Sink._tell

    def other(sink, codec, context, threads=0):
        real(sink, codec, context, threads)
        if context is not sink._stream.codec_context:
            context.options = {**context.options, "profile": "baseline"}

    monkeypatch.setattr(Mp4Sink, "_tell", other)
    with pytest.raises(RuntimeError, match="x264 began its segments in different ways"):
        decode_sync(
            NearestDecoder(), latents_for(NearestDecoder(), 5),
            Mp4Sink(tmp_path / "clip.mp4", encoders=2, segment=4), progress=False,
        )  # fmt: skip
    assert not list(tmp_path.iterdir()) and not running()


def test_what_the_writing_thread_was_at(tmp_path):
    frames = frames_of(20)
    info = MediaInfo(20, HEIGHT, WIDTH, FPS)
    for make, there in (
        (lambda: Mp4Sink(tmp_path / "a.mp4"), {"encode", "mux"}),
        (lambda: Mp4Sink(tmp_path / "b.mp4", encoders=2), {"encode", "mux", "full", "encoders"}),
        (lambda: PngSink(tmp_path / "c"), {"encode"}),
        (lambda: PngSink(tmp_path / "d", workers=2), {"full", "encoders"}),
    ):
        sink = make()
        assert set(sink.parts) == {"encode", "mux", "full", "encoders"} and not sum(
            sink.parts.values()
        )
        begun = time.perf_counter()
        sink.open(info)
        sink.write(frames)
        sink.close()
        taken = time.perf_counter() - begun
        assert {part for part, seconds in sink.parts.items() if seconds} == there
        assert sum(sink.parts[part] for part in ("encode", "mux", "full")) <= taken


def test_a_player_can_begin_at_every_segment(tmp_path):
    frames = frames_of(40)
    path = written(tmp_path / "clip.mp4", frames, encoders=3, segment=8)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for first in (begins(40, 3)[index] for index in (-1, 1, 3)):
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
    wait_for(lambda: len(taken) == 15, 20)
    writer.join(0.2)
    assert len(taken) == 15, "two segments under way, one that waits, one that is to be handed"
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
    side = Encoders(2, 5, taken.append, Parts())
    side.hand(lambda: first.wait(20) and "a", size=3)
    side.hand(lambda: first.set() or "b", size=2)
    side.hand(lambda: "c", size=1)
    assert taken[:1] == ["a"]
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
        ({"codec": "vp9"}, "codec is 'vp9'; use h264, hevc, av1, .* or auto"),
        ({"preset": "veryfst"}, "preset is 'veryfst'; use ultrafast, .* with codec h264"),
        ({"preset": 8, "codec": "hevc"}, "preset is 8; use ultrafast, .* with codec hevc"),
        ({"preset": "p8", "codec": "av1_nvenc"}, "preset is 'p8'; use p1, .* with codec av1_nvenc"),
        ({"preset": "p1", "codec": "auto"}, "codec 'auto' knows none: each has its own"),
        ({"crf": 52}, "crf is 52; use 0 .lossless. to 51 with codec h264"),
        ({"crf": 0, "codec": "auto"}, "crf is 0; use 1 to 51 with codec auto"),
        ({"crf": 64, "codec": "av1"}, "crf is 64; use 1 to 63 with codec av1"),
        ({"gop": 0}, "gop is 0; use 1 frame"),
        ({"pixel_format": "yuv444p"}, "pixel_format is 'yuv444p'; use one of rgb24, yuv420p, nv12"),
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
        ("mp4,encodes=2", "sink 'mp4' has no options encodes; it has crf, preset"),
        ("mp4,encoders=many", "encoders is many; use 1 to 64"),
        ("null,encoders=2", "sink 'null' has no options encoders; it has none"),
    ):
        with pytest.raises(ValueError, match=words):
            SinkSpec.of(text)


def test_what_the_file_kept_of_its_frames_is_recorded(tmp_path):
    """Of one file for each sink, against the RGB frames; where none is written nothing is said."""
    decoder = NearestDecoder()
    latents = latents_for(decoder, 11)
    spec = SinkSpec("mp4", tmp_path, options={"encoders": 2, "segment": 8, "crf": 30})
    coarse = SinkSpec("mp4", tmp_path, options={"codec": "av1", "crf": 60})
    other = {"coarse": {"mode": "sync", "sink": coarse.fresh, "sink_info": described(coarse.fresh)}}
    recorded = run_benchmark(
        decoder, latents, spec.fresh, modes=("sync", "async", "compute_only"), extra=other, runs=1,
        warmup=0, progress=False,
    )  # fmt: skip
    arms = recorded.arms
    assert arms["compute_only"].file is arms["compute_only"].sink.encoder is None
    assert arms["sync"].file == arms["async"].file
    assert arms["async"].sink.encoder == "x264 veryfast crf 30, 2 encoders, segments of 8"
    assert arms["coarse"].sink.encoder == "SVT-AV1 10 crf 60"
    kept, sink = MemorySink(), Mp4Sink(tmp_path / "clip.mp4", **spec.options)
    for one in (kept, sink):
        decode_sync(decoder, latents, one, progress=False)
    with av.open(str(sink.path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    chosen = [index * 40 // 32 for index in range(33)]
    at, made = kept.frames[chosen], np.stack(shown)[chosen]
    file = arms["sync"].file
    assert (file.bytes, file.frames) == (sink.path.stat().st_size, 33)
    assert file.psnr_db == pytest.approx(psnr_db(at, made).clip, abs=0.01)
    assert file.ssim == pytest.approx(ssim(at, made).clip, abs=1e-3)
    assert arms["coarse"].file.psnr_db < file.psnr_db
    said = document_of(recorded).text()
    assert all(f"file {one}" in said for one in ("MB", "PSNR dB", "SSIM"))
    assert "33, spread over the video" in said and "x264 veryfast crf 30, 2 encoders" in said


@pytest.mark.parametrize("path", [decode_sync, decode_async])
@pytest.mark.parametrize("form", ["rgb24", "yuv420p", "nv12"])
def test_a_decode_gives_what_the_sink_wants(tmp_path, path, form):
    """Of whatever form, the pictures are those."""
    decoder, kept = NearestDecoder(), MemorySink()
    sink = Mp4Sink(tmp_path / "clip.mp4", crf=0, encoders=2, segment=8, pixel_format=form)
    done = path(decoder, latents_for(decoder, 5), sink, progress=False)
    assert done.info.pixel_format == form
    decode_sync(decoder, latents_for(decoder, 5), kept, progress=False)
    with av.open(str(sink.path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.abs(np.stack(shown).astype(int) - kept.frames).mean() < 6  # of blocks of one color
