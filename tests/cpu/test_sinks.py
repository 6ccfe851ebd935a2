"""Sinks on their own: what is in the files, and what they refuse."""

import json
import os
import shutil
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.helpers import Collect, descriptors_in, file_size_limit, leftovers
from vdkit import MemorySink, Mp4Sink, NullSink, PngSink, RawSink
from vdkit.decode import frames_to_uint8
from vdkit.decode.media import MediaInfo
from vdkit.sinks import SinkSpec, ThrottledSink, storage_kind

INFO = MediaInfo(frames=5, height=16, width=24, fps=Fraction(24000, 1001))
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)


def feed(sink, frames=FRAMES, info=INFO):
    sink.open(info)
    sink.write(frames[:1])
    sink.write(frames[1:])
    sink.close()


@pytest.mark.parametrize("durable", [False, True])
def test_raw_and_its_sidecar(tmp_path, durable):
    path = tmp_path / "clip.rgb"
    feed(RawSink(path, durable=durable))
    sidecar = json.loads((tmp_path / "clip.rgb.json").read_text())
    assert sidecar["dtype"] == "uint8" and sidecar["fps_exact"] == "24000/1001"
    assert sidecar["fps"] == pytest.approx(23.976, abs=1e-3)
    assert np.array_equal(np.fromfile(path, sidecar["dtype"]).reshape(sidecar["shape"]), FRAMES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.rgb", "clip.rgb.json"]


@pytest.mark.parametrize("what", ["file", "sidecar", "folder"])
def test_durable_reaches_the_disk(tmp_path, monkeypatch, what):
    """Each file before it gets its name, so that none names less; the folder when both have."""
    sink = RawSink(tmp_path / "clip.rgb", durable=True)
    place = {"file": sink.path, "sidecar": sink.sidecar, "folder": tmp_path}[what]
    synced = []

    def fsync(descriptor, real=os.fsync):
        named = [path for path in (sink.path, sink.sidecar) if path.exists()]
        synced.append((os.fstat(descriptor).st_ino, named))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    feed(sink)
    found = [named for inode, named in synced if inode == place.stat().st_ino]
    assert any(len(named) == 2 if what == "folder" else place not in named for named in found)


@pytest.mark.parametrize("kind", ["raw", "mp4"])
def test_a_file_goes_on_where_the_system_stopped(tmp_path, monkeypatch, kind):
    def write(descriptor, data, real=os.write):
        lengths.append(real(descriptor, data[:1000]))
        return lengths[-1]

    lengths = []
    if kind == "raw":
        monkeypatch.setattr(os, "write", write)
        try:
            feed(RawSink(tmp_path / "clip.rgb"))
        except ValueError as error:
            pytest.fail(str(error))
        pixels = np.fromfile(tmp_path / "clip.rgb", np.uint8)
        assert np.array_equal(pixels, FRAMES.reshape(-1))
        assert len(lengths) == 7 + 1 and sum(lengths[:7]) == FRAMES.nbytes
    else:
        feed(Mp4Sink(tmp_path / "whole.mp4"))
        monkeypatch.setattr(os, "write", write)
        feed(Mp4Sink(tmp_path / "clip.mp4"))
        assert (tmp_path / "clip.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
        assert len(lengths) > 2


def test_raw_is_reserved_at_open_and_invisible_until_closed(tmp_path):
    path = tmp_path / "clip.rgb"
    sink = RawSink(path)
    sink.open(INFO)
    (partial,) = tmp_path.iterdir()
    assert partial.stat().st_size == FRAMES.nbytes and not path.exists()
    sink.abort()
    assert not list(tmp_path.iterdir())


def test_raw_notices_missing_frames(tmp_path):
    sink = RawSink(tmp_path / "clip.rgb")
    sink.open(INFO)
    sink.write(FRAMES[:2])
    with pytest.raises(
        ValueError, match=f"{FRAMES[:2].nbytes} bytes written, {FRAMES.nbytes} announced"
    ):
        sink.close()
    sink.abort()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [Fraction(16), Fraction(24000, 1001), Fraction(2997, 125)])
def test_mp4_has_every_frame_and_the_exact_rate(tmp_path, fps):
    path = tmp_path / "clip.mp4"
    ramp = np.broadcast_to(np.arange(24, dtype=np.uint8)[None, None, :, None] * 10, FRAMES.shape)
    feed(Mp4Sink(path, crf=0), np.ascontiguousarray(ramp), MediaInfo(5, 16, 24, fps))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == fps
        assert float(stream.duration * stream.time_base) == pytest.approx(5 / float(fps), rel=1e-6)
        context = stream.codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
    assert len(decoded) == 5
    assert np.abs(np.stack(decoded).astype(int) - ramp).max() <= 6


def test_png_names_and_replacing(tmp_path):
    folder = tmp_path / "frames"
    feed(PngSink(folder))
    assert sorted(p.name for p in folder.iterdir()) == [f"{i:06d}.png" for i in range(5)]
    feed(PngSink(folder), FRAMES[:3], MediaInfo(3, 16, 24, Fraction(16)))
    assert len(list(folder.iterdir())) == 3
    assert not leftovers(tmp_path)


def test_png_puts_the_earlier_folder_back(tmp_path):
    folder = tmp_path / "frames"
    feed(PngSink(folder))
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    sink = PngSink(folder)
    sink.open(INFO)
    sink.write(FRAMES[::-1])
    (partial,) = (entry for entry in tmp_path.iterdir() if entry != folder)
    shutil.rmtree(partial)  # so that it cannot be given its name
    with pytest.raises(OSError):
        sink.close()
    sink.abort()
    assert [entry.name for entry in tmp_path.iterdir()] == ["frames"]
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before


def test_png_never_deletes_what_it_did_not_make(tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(FileExistsError, match=r"holds thesis.txt, which is no frame"):
        PngSink(tmp_path).open(INFO)
    with pytest.raises(FileExistsError, match="is a file"):
        PngSink(tmp_path / "thesis.txt").open(INFO)
    assert (tmp_path / "thesis.txt").read_text() == "ten years of work"


@pytest.mark.parametrize("make", [RawSink, lambda p: Mp4Sink(f"{p}.mp4"), PngSink])
def test_missing_folder(tmp_path, make):
    with pytest.raises(FileNotFoundError, match="does not exist; create it first"):
        make(tmp_path / "nowhere" / "clip").open(INFO)


@pytest.mark.parametrize(
    ("make", "name", "there"),
    [
        (RawSink, "clip.rgb", "clip.rgb"),
        (RawSink, "clip.rgb", "clip.rgb.json"),
        (Mp4Sink, "clip.mp4", "clip.mp4"),
    ],
)
def test_a_folder_in_the_way_is_seen_before_anything_is_decoded(tmp_path, make, name, there):
    (tmp_path / there).mkdir()
    with pytest.raises(IsADirectoryError, match=f"{there}: it is a folder; give a file name"):
        make(tmp_path / name).open(INFO)
    (tmp_path / there).rmdir()
    os.mkfifo(tmp_path / there)
    with pytest.raises(FileExistsError, match=f"{there}: it is no ordinary file"):
        make(tmp_path / name).open(INFO)
    assert [p.name for p in tmp_path.iterdir()] == [there]


@pytest.mark.parametrize("refused", ["clip.rgb", "clip.rgb.json"])
@pytest.mark.parametrize("earlier", [True, False])
def test_a_raw_file_and_its_sidecar_are_of_one_decode(tmp_path, monkeypatch, refused, earlier):
    if earlier:
        feed(RawSink(tmp_path / "clip.rgb"), FRAMES[:3], MediaInfo(3, 16, 24, Fraction(16)))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def replace(path, target, real=Path.replace):
        if Path(target).name == refused and "partial" in path.name and not denied:
            denied.append(path)
            raise PermissionError(f"not {target}")
        return real(path, target)

    denied = []
    monkeypatch.setattr(Path, "replace", replace)
    sink = RawSink(tmp_path / "clip.rgb")
    with pytest.raises(PermissionError, match="not "):
        feed(sink)
    sink.abort()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_close_that_fails_is_not_repeated(tmp_path, monkeypatch):
    sink = RawSink(tmp_path / "clip.rgb", durable=True)

    def fsync(descriptor):
        assert descriptors_in(tmp_path)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        feed(sink)
    sink.abort()
    sink.abort()
    assert not list(tmp_path.iterdir()) and not descriptors_in(tmp_path)


def test_a_header_that_cannot_be_written_leaves_no_descriptor(tmp_path):
    sink = Mp4Sink(tmp_path / "clip.mp4")
    sink.open(INFO)
    with file_size_limit(10), pytest.raises(OSError, match="File too large"):
        while True:
            sink.write(FRAMES)
    assert descriptors_in(tmp_path)
    sink.abort()
    assert not list(tmp_path.iterdir()) and not descriptors_in(tmp_path)


@pytest.mark.parametrize("make", [RawSink, PngSink, Mp4Sink])
def test_a_symbolic_link_is_followed(tmp_path, make):
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link.mp4", tmp_path / "elsewhere" / "clip.mp4"
    feed(make(target))
    link.symlink_to(target)
    before = target.stat().st_ino
    feed(make(link))
    assert link.is_symlink() and target.stat().st_ino != before
    assert not leftovers(tmp_path) and not leftovers(tmp_path / "elsewhere")


@pytest.mark.parametrize("make", [RawSink, PngSink, Mp4Sink])
def test_names_that_others_take_for_something_else(tmp_path, monkeypatch, make):
    """A colon, where FFmpeg sees a protocol; a name as long as the file system takes."""
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", "x" * 240 + ".mp4"):
        feed(make(name))
        assert Path(name).exists() and not leftovers(tmp_path)


def test_a_sink_serves_one_decode(tmp_path):
    sink = RawSink(tmp_path / "clip.rgb")
    feed(sink)
    with pytest.raises(ValueError, match="has been used; make a new one"):
        sink.open(INFO)


def test_memory_keeps_copies():
    frames = FRAMES.copy()
    sink = MemorySink()
    with pytest.raises(ValueError, match="no decode into it has been completed"):
        _ = sink.frames
    feed(sink, frames)
    frames[:] = 0  # as a ring slot is filled again
    assert np.array_equal(sink.frames, FRAMES) and sink.frames.dtype == np.uint8
    with pytest.raises(ValueError, match="has been used; make a new one"):
        sink.open(INFO)


def test_memory_notices_missing_frames():
    sink = MemorySink()
    sink.open(INFO)
    sink.write(FRAMES[:2])
    with pytest.raises(ValueError, match="2 frames written, 5 announced"):
        sink.close()
    sink.abort()
    with pytest.raises(ValueError, match="no decode into it has been completed"):
        _ = sink.frames


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="even sides, the video is 15x24; use a sink of rgb24"):
        Mp4Sink(tmp_path / "a.mp4").open(MediaInfo(5, 15, 24, Fraction(16)))
    with pytest.raises(ValueError, match=r"writes .mp4 files, not 'a.mov'"):
        Mp4Sink(tmp_path / "a.mov")
    with pytest.raises(ValueError, match="crf is 99"):
        Mp4Sink(tmp_path / "a.mp4", crf=99)
    with pytest.raises(ValueError, match="compression is 10"):
        PngSink(tmp_path, compression=10)
    for speed in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=r"storage speed is .* MB/s; give a speed above 0"):
            ThrottledSink(NullSink(), speed)


def test_throttle_takes_at_least_as_long_as_the_storage_would():
    """However long it idled before: two writes of 50 ms, each after 50 ms of nothing."""
    inner = Collect()
    sink = ThrottledSink(inner, mb_per_s=FRAMES.nbytes / 1e6 / 0.05)
    sink.open(INFO)
    for _ in range(2):
        time.sleep(0.05)
        start = time.perf_counter()
        sink.write(FRAMES)
        assert time.perf_counter() - start >= 0.05
    sink.close()
    assert inner.frames == 10 and inner.calls == ["open", "write", "write", "close"]


def test_an_interrupt_is_handed_on():
    inner = Collect()
    inner.interrupt = lambda: inner.calls.append("interrupt")
    ThrottledSink(ThrottledSink(inner, mb_per_s=1), mb_per_s=1).interrupt()
    assert inner.calls == ["interrupt"]
    ThrottledSink(NullSink(), mb_per_s=1).interrupt()  # which has none to call


def test_specs(tmp_path):
    for kind in ("raw", "png", "mp4"):
        spec = SinkSpec(kind, tmp_path, throttle_mb_per_s=1e4)
        with spec.fresh("run") as sink:
            feed(sink)
            assert list(tmp_path.rglob("run*"))
        assert not list(tmp_path.iterdir())
    assert SinkSpec("null").describe()["storage"] is None
    assert SinkSpec("raw", tmp_path).describe()["storage"] == storage_kind(tmp_path)
    assert SinkSpec("raw").folder == Path(tempfile.gettempdir())
    for bad, kind, message in (
        (
            {"kind": "avi"},
            ValueError,
            "sink 'avi' is unknown; use null, raw, png, .*flac, mp4 or export_to_video",
        ),
        ({"kind": "raw", "folder": tmp_path / "no"}, FileNotFoundError, "does not exist"),
        ({"kind": "raw", "folder": Path(__file__)}, NotADirectoryError, "is a file; give a folder"),
        ({"kind": "null", "folder": tmp_path}, ValueError, "takes no folder"),
        ({"kind": "null", "durable": True}, ValueError, "cannot be durable"),
        ({"kind": "null", "throttle_mb_per_s": 0.0}, ValueError, "storage speed is 0 MB/s"),
        (
            {"kind": "export_to_video", "folder": tmp_path, "throttle_mb_per_s": 9.0},
            ValueError,
            "export_to_video cannot be throttled; use mp4",
        ),
    ):
        with pytest.raises(kind, match=message):
            SinkSpec(**bad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_conversion_to_uint8(dtype):
    """Against the definition, in float64 where that is exact enough to decide every rounding."""
    values = torch.linspace(-1.3, 1.3, 3 * 4 * 16 * 24).reshape(1, 3, 4, 16, 24).to(dtype)
    pixels = frames_to_uint8(values)
    assert pixels.shape == (4, 16, 24, 3) and pixels.dtype is torch.uint8 and pixels.is_contiguous()
    exact = ((values.double() * 0.5 + 0.5).clamp(0, 1) * 255)[0].permute(1, 2, 3, 0)
    assert (pixels.double() - exact).abs().max() <= 0.5 + 1e-4
    assert pixels.min() == 0 and pixels.max() == 255
    assert values.max() > 1, "the input must not have been clamped in place"


@pytest.mark.parametrize("color", [(228, 36, 36), (36, 176, 60), (48, 84, 244), (14, 22, 84)])
def test_mp4_keeps_colors(tmp_path, color):
    """Converted by the matrix that the file names: BT.601 would be off by up to 20 levels."""
    path = tmp_path / "flat.mp4"
    frames = np.full((5, 32, 48, 3), color, np.uint8)
    feed(Mp4Sink(path), frames, MediaInfo(5, 32, 48, Fraction(16)))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
        assert stream.codec_context.colorspace == 1  # BT.709
    assert np.abs(decoded.astype(int) - frames).max() <= 3


def test_a_wait_that_is_over_at_once_ends():
    """The first of queue.SimpleQueue may not: of a microsecond it now and then waits forever."""
    frame = np.zeros((1, 1, 1), np.uint8)

    def write():
        for count in range(40_000):
            ThrottledSink(NullSink(), 1e3).write(np.broadcast_to(frame, (count % 4000, 1, 1)))

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(60)
    assert not writer.is_alive()
