"""Every decode path, every primitive on and off: the same bytes, records that make sense."""

import itertools
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.helpers import Collect, NearestDecoder, latents_for, writer_threads
from vdkit import (
    DecodeConfig,
    Mp4Sink,
    NullSink,
    PngSink,
    RawSink,
    compute_only,
    decode_async,
    decode_diffusers,
    decode_sync,
    load_decoder,
)
from vdkit.decode import DecodeCancelled
from vdkit.decode.engines import HostEngine
from vdkit.decode.media import MediaInfo
from vdkit.decode.paths import Ring, _rounded
from vdkit.sinks import ThrottledSink

SWITCHES = ("pinned_memory", "copy_stream", "writer_thread", "uint8_on_gpu")
COMBINATIONS = list(itertools.product([True, False], repeat=len(SWITCHES)))


@pytest.fixture(scope="module")
def tiny():
    made = {}

    def make(device):
        if device not in made:
            made[device] = load_decoder("tiny-wan", device)
        return made[device]

    return make


def frames_of(path, decoder, latents, **options):
    sink = Collect()
    result = path(decoder, latents, sink, progress=False, **options)
    assert sink.calls == ["open", *["write"] * len(sink.chunks), "close"]
    assert result.started_s + result.latency_s >= sink.closed_s, "the latency holds the close"
    return sink


@pytest.mark.parametrize("chunk_size", [1, 2, 3])
@pytest.mark.parametrize("name", ["nearest", "tiny-wan"])
def test_every_combination_gives_the_same_bytes(tiny, device, name, chunk_size):
    """On a CPU the slow decoder has one number of slots with each setting of the switches."""
    decoder = tiny(device) if name == "tiny-wan" else NearestDecoder(device)
    every = (1, 2, 3, 16)
    latents = latents_for(decoder, frames=6)
    reference = frames_of(decode_sync, decoder, latents, config=DecodeConfig(chunk_size=chunk_size))
    assert reference.frames == 21
    config = DecodeConfig(chunk_size=chunk_size, sync_uint8_on_gpu=True)
    sink = frames_of(decode_sync, decoder, latents, config=config)
    assert sink.sha256 == reference.sha256
    for index, values in enumerate(COMBINATIONS):
        few = every[(index + index // 4) % 4 :][:1]  # each number meets each value of a switch
        for slots in few if device == "cpu" and name == "tiny-wan" else every:
            switches = dict(zip(SWITCHES, values, strict=True))
            config = DecodeConfig(chunk_size=chunk_size, slots=slots, **switches)
            sink = frames_of(decode_async, decoder, latents, config=config)
            assert sink.sha256 == reference.sha256, config
            threads = {"vdkit-writer"} if config.writer_thread else {"MainThread"}
            assert sink.threads == threads


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_diffusers_path_gives_the_same_bytes_at_chunk_1(tiny, device, frames):
    decoder = tiny(device)
    latents = latents_for(decoder, frames=frames)
    theirs = frames_of(decode_diffusers, decoder, latents)
    ours = frames_of(decode_async, decoder, latents)
    assert theirs.sha256 == ours.sha256
    assert len(theirs.chunks) == 1 and len(ours.chunks) == frames
    pixels = theirs.chunks[0]
    assert pixels.dtype == np.uint8 and pixels.shape == (4 * (frames - 1) + 1, 24, 40, 3)
    assert pixels.std() > 5, "a flat picture would compare equal for the wrong reason"


@pytest.mark.parametrize("path", [decode_sync, decode_async])
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_sinks_hold_what_was_decoded(tiny, device, path, chunk_size, tmp_path):
    from PIL import Image

    decoder = tiny(device)
    latents = latents_for(decoder, frames=4, height=4, width=6)
    config = DecodeConfig(chunk_size=chunk_size)
    expected = np.concatenate(frames_of(path, decoder, latents, config=config).chunks)
    raw, folder, movie = tmp_path / "a.rgb", tmp_path / "frames", tmp_path / "a.mp4"
    for sink in (
        RawSink(raw),
        PngSink(folder),
        Mp4Sink(movie, crf=0),
        ThrottledSink(RawSink(tmp_path / "b.rgb"), mb_per_s=1000),
        NullSink(),
    ):
        path(decoder, latents, sink, config=config, progress=False)
    for file in (raw, tmp_path / "b.rgb"):
        assert np.array_equal(np.fromfile(file, np.uint8).reshape(expected.shape), expected)
    pictures = sorted(folder.iterdir())
    assert np.array_equal(np.stack([np.asarray(Image.open(p)) for p in pictures]), expected)
    assert movie.stat().st_size > 0


@pytest.mark.parametrize("path", [decode_sync, decode_async, compute_only, decode_diffusers])
def test_records_are_ordered_and_complete(tiny, device, path):
    decoder = tiny(device)
    latents = latents_for(decoder, frames=7, height=8, width=8)
    sink = NullSink()
    result = path(decoder, latents, sink, fps=24, progress=False)
    slack = result.clock_residual_s + 1e-9
    assert result.info.frames == 25 and result.info.fps == 24
    assert result.rtf == pytest.approx(result.latency_s / (25 / 24))
    chunks = result.chunks
    assert [c.index for c in chunks] == list(range(len(chunks)))
    assert chunks[0].frame_start == 0 and chunks[-1].frame_stop == 25
    steps = [("launch_start_s", "launch_done_s"), ("decode_start_s", "decode_done_s")]
    if path is not compute_only:
        steps += [("write_start_s", "write_done_s")]
    if path in (decode_sync, decode_async):
        steps += [("copy_start_s", "copy_done_s")]
    for chunk in chunks:
        for start, done in steps:
            assert -slack <= getattr(chunk, start) <= getattr(chunk, done) + slack
            assert getattr(chunk, done) <= result.latency_s + slack
        if path in (decode_sync, decode_async):
            assert chunk.decode_done_s <= chunk.copy_start_s + slack
            assert chunk.copy_done_s <= chunk.write_start_s + slack
        if path is decode_diffusers:  # VideoProcessor copies within the conversion
            assert chunk.copy_start_s is None
            assert chunk.decode_done_s <= chunk.convert_done_s + slack
            assert chunk.convert_done_s <= chunk.write_start_s + slack
    for earlier, later in itertools.pairwise(chunks):
        assert earlier.decode_done_s <= later.decode_start_s + slack
        assert earlier.frame_stop == later.frame_start
    if path is compute_only:
        assert result.ttff_s is None and result.d2h_bytes == 0
    else:
        assert result.ttff_s == chunks[0].write_done_s
        width = {decode_async: 1, decode_diffusers: 4}.get(path, decoder.dtype.itemsize)
        assert result.d2h_bytes == 25 * 64 * 64 * 3 * width


@pytest.mark.parametrize("on_gpu", [False, True])
def test_sync_converts_on_the_device_if_told_so(tiny, device, on_gpu):
    decoder = tiny(device)
    config = DecodeConfig(uint8_on_gpu=not on_gpu, sync_uint8_on_gpu=on_gpu)
    latents = latents_for(decoder, frames=3)
    result = decode_sync(decoder, latents, NullSink(), config=config, progress=False)
    for chunk in result.chunks:
        width = 1 if on_gpu else decoder.dtype.itemsize
        assert chunk.d2h_bytes == (chunk.frame_stop - chunk.frame_start) * 24 * 40 * 3 * width
        assert (chunk.convert_start_s is None) == (chunk.convert_done_s is None) == on_gpu
        slack = result.clock_residual_s + 1e-9
        assert chunk.decode_done_s <= chunk.copy_start_s + slack
        assert chunk.copy_done_s <= chunk.write_start_s + slack


@pytest.mark.parametrize("order", "CF")
def test_the_diffusers_path_rounds_frame_by_frame_as_the_whole_would(order):
    """In either order of axes in memory; 0.5 to even, and both ends of the scale."""
    video = np.random.default_rng(0).random((3, 8, 12, 3), np.float32)
    video[0, 0, :4, 0] = (0, 1, 0.5 / 255, 1.5 / 255)
    video = np.asarray(video, order=order)
    pixels = _rounded(video, MediaInfo(3, 8, 12, Fraction(16)))
    assert np.array_equal(pixels, (video * 255).round().astype("uint8"))
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous


def test_async_works_ahead_while_the_sink_is_slow(device, monkeypatch):
    """Order, not time: while chunk i is written, later chunks are decoded, up to the slots."""
    writing, launched, waits = ([threading.Event() for _ in range(8)] for _ in range(3))
    real = Ring.acquire

    def acquire(ring, record, now, check):
        def seen():
            time_s = now()
            waits[record.index].set()
            return time_s

        return real(ring, record, seen, check)

    monkeypatch.setattr(Ring, "acquire", acquire)

    class Following(NearestDecoder):
        def decode_chunk(self, state, start, stop):
            assert start < 2 or writing[start - 2].wait(10)
            frames = super().decode_chunk(state, start, stop)
            launched[start].set()
            return frames

    def ahead_of(count):
        writing[count - 1].set()
        assert launched[min(count + 1, 7)].wait(10)
        assert waits[min(count + 2, 7)].wait(10), "nobody waits for this slot"

    decoder = Following(device)
    latents = latents_for(decoder, frames=8)
    sink = Collect(on_write=ahead_of)
    result = decode_async(decoder, latents, sink, config=DecodeConfig(slots=3), progress=False)
    chunks = result.chunks
    for index in range(3, 8):
        writing, ahead = chunks[index - 3], chunks[index]
        assert chunks[index - 1].decode_done_s < writing.write_done_s
        assert writing.write_done_s <= ahead.slot_acquired_s <= ahead.launch_start_s
        assert ahead.slot == index % 3
        assert ahead.slot_held_by == "writing"
        assert ahead.slot_wait_start_s < ahead.slot_acquired_s
    assert chunks[0].slot_held_by is None


@pytest.mark.parametrize("path", [decode_async, compute_only])
def test_two_chunks_are_launched_ahead_and_no_more(path, monkeypatch):
    """Chunk i is launched after the wait for chunk i - 2, and without one for chunk i - 1."""
    waited, at_launch = [], []

    class Noting(NearestDecoder):
        def decode_chunk(self, state, start, stop):
            at_launch.append(list(waited))
            return super().decode_chunk(state, start, stop)

    monkeypatch.setattr(HostEngine, "wait", lambda engine, mark: waited.append(mark))
    decoder = Noting()
    result = path(decoder, latents_for(decoder, frames=8), NullSink(), progress=False)
    done = [result.started_s + chunk.decode_done_s for chunk in result.chunks]
    seen = [sum(any(abs(m - d) < 1e-9 for m in marks) for d in done) for marks in at_launch]
    assert seen == [0, 0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("slots", [1, 2, 16])
def test_slot_reuse_under_a_sink_of_changing_speed(device, slots):
    decoder = NearestDecoder(device)
    latents = latents_for(decoder, frames=60, height=6, width=6)
    expected = frames_of(decode_sync, decoder, latents)
    random = np.random.default_rng(0)
    sink = Collect()
    sink.on_write = lambda count: setattr(sink, "write_s", float(random.choice([0, 0.0005, 0.004])))
    decode_async(decoder, latents, sink, config=DecodeConfig(slots=slots), progress=False)
    assert sink.sha256 == expected.sha256


def test_two_videos_of_one_decoder_in_turns(tiny, device):
    decoder = tiny(device)
    videos = [
        latents_for(decoder, frames=4, seed=seed).to(decoder.device, decoder.dtype)
        for seed in (1, 2)
    ]
    with torch.inference_mode():
        alone = []
        for latents in videos:
            state = decoder.begin(latents)
            alone.append([decoder.decode_chunk(state, i, i + 1) for i in range(4)])
        states = [decoder.begin(latents) for latents in videos]
        mixed = [[decoder.decode_chunk(state, i, i + 1) for state in states] for i in range(4)]
    for video in (0, 1):
        for index in range(4):
            assert torch.equal(alone[video][index], mixed[index][video])
    assert not torch.equal(alone[0][3], alone[1][3])


@pytest.mark.parametrize("path", [decode_sync, decode_async, compute_only, decode_diffusers])
def test_progress_and_cancel(tiny, device, path):
    decoder = tiny(device)
    latents = latents_for(decoder, frames=5)
    seen = []
    path(decoder, latents, NullSink(), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (17, 17) and seen == sorted(seen)
    cancel = threading.Event()
    cancel.set()
    sink = Collect()
    with pytest.raises(DecodeCancelled, match=r"cancelled near frame \d+ of 17"):
        path(decoder, latents, sink, progress=False, cancel=cancel)
    assert "close" not in sink.calls
    path(decoder, latents, sink := Collect(), progress=False, cancel=threading.Event())
    assert sink.frames == (0 if path is compute_only else 17)


@pytest.mark.parametrize("fail", ["no", "decoder", "sink"])
@pytest.mark.parametrize("path", [decode_sync, decode_async])
def test_the_bar_is_shown_by_default_and_taken_away(device, capsys, path, fail):
    decoder = NearestDecoder(device, fail_at=3 if fail == "decoder" else None)
    error = None
    try:
        path(decoder, latents_for(decoder), Collect(fail="write" if fail == "sink" else None, at=2))
    except (RuntimeError, OSError) as raised:
        error = raised  # as a notebook keeps it, and with it the bar's last owner
    shown = capsys.readouterr().err
    assert path.__name__.removeprefix("decode_") in shown and (error is None) == (fail == "no")
    assert shown.endswith("\r") and not shown.rstrip("\r").rpartition("\r")[2].strip(), repr(shown)


def test_third_party_decoder_needs_no_inheritance(device):
    decoder = NearestDecoder(device)
    latents = latents_for(decoder)
    assert (
        frames_of(decode_async, decoder, latents).sha256
        == frames_of(decode_sync, decoder, latents).sha256
    )
    with pytest.raises(
        TypeError, match="NearestDecoder is no WholeVideoDecoder: it lacks decode_video"
    ):
        decode_diffusers(decoder, latents, NullSink(), progress=False)
    assert not writer_threads()
