"""The MP4 that a diffusers user writes, through the sink that calls export_to_video."""

import json
import shlex
import sys
import threading
from itertools import count

import av
import numpy as np
import psutil
import pytest

from tests.helpers import Collect, NearestDecoder, file_size_limit, latents_for, leftovers
from vdkit import DecodeCancelled, decode_async, decode_diffusers, decode_sync, load_decoder
from vdkit.__main__ import main
from vdkit.decode.media import MediaInfo
from vdkit.decode.paths import compute_only
from vdkit.sinks import ExportToVideoSink, SinkSpec, ThrottledSink
from vdkit.sinks.mp4 import export_encoder

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="pip install 'vdkit[export]'")
ENCODER = f"export_to_video, imageio-ffmpeg {imageio_ffmpeg.__version__}"


@pytest.fixture(scope="module")
def decoder():
    return load_decoder("tiny-wan", "cpu")


@pytest.fixture
def latents(decoder):
    return latents_for(decoder, frames=3, height=4, width=6)


class Floats(Collect):
    wants_float = True


def pixels_of(path):
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_the_file_is_the_one_that_a_user_writes(decoder, latents, tmp_path):
    from diffusers.utils import export_to_video

    sink = ExportToVideoSink(tmp_path / "clip.mp4")
    result = decode_diffusers(decoder, latents, sink, fps=24, progress=False)
    (chunk,) = result.chunks
    assert chunk.decode_done_s <= chunk.convert_done_s <= chunk.write_start_s < chunk.write_done_s
    assert export_encoder() == ENCODER and not leftovers(tmp_path)

    decode_diffusers(decoder, latents, floats := Floats(), progress=False)
    (frames,) = floats.chunks
    assert frames.dtype == np.float32 and frames.shape == (9, 32, 48, 3)
    assert 0 <= frames.min() < 0.2 and 0.8 < frames.max() <= 1
    export_to_video(frames, str(tmp_path / "theirs.mp4"), fps=24)
    assert sink.path.read_bytes() == (tmp_path / "theirs.mp4").read_bytes()

    truncated = (frames * 255).astype(np.uint8)
    found = pixels_of(sink.path)
    assert found.shape == truncated.shape
    error = np.abs(found.astype(int) - truncated).mean()
    assert error < 0.3 * np.abs(found[::-1].astype(int) - truncated).mean()
    with av.open(str(sink.path)) as container:
        assert container.streams.video[0].average_rate == 24


def test_the_float_frames_are_those_that_become_bytes(decoder, latents):
    decode_diffusers(decoder, latents, floats := Floats(), progress=False)
    decode_diffusers(decoder, latents, rounded := Collect(), progress=False)
    assert np.array_equal((floats.chunks[0] * 255).round().astype("uint8"), rounded.chunks[0])


@pytest.mark.parametrize("path", [decode_sync, decode_async])
def test_other_paths_have_no_float_frames(decoder, latents, tmp_path, path):
    sink = ExportToVideoSink(tmp_path / "clip.mp4")
    words = f"ExportToVideoSink takes .* {path.__name__} gives uint8; use decode_diffusers"
    with pytest.raises(TypeError, match=words):
        path(decoder, latents, sink, progress=False)
    with pytest.raises(TypeError, match="ExportToVideoSink cannot be throttled"):
        ThrottledSink(sink, 100)
    sink.open(MediaInfo(9, 32, 48, 24))
    with pytest.raises(TypeError, match=r"takes float frames in .*, not uint8"):
        sink.write(np.zeros((9, 32, 48, 3), np.uint8))
    sink.abort()
    compute_only(decoder, latents, sink, progress=False)  # which opens no sink
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("fault", ["decoder", "cancel", "interrupt", "disk"])
def test_a_failure_leaves_what_was_there(decoder, latents, tmp_path, monkeypatch, fault, earlier):
    from imageio.plugins.ffmpeg import FfmpegFormat

    path = tmp_path / "clip.mp4"
    if earlier:
        decode_diffusers(decoder, latents, ExportToVideoSink(path), progress=False)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}

    def interrupted(writer, frame, meta, real=FfmpegFormat.Writer._append_data, count=count()):
        if next(count) == 4:
            raise KeyboardInterrupt
        real(writer, frame, meta)

    cancel, limit, error = threading.Event(), 10**9, RuntimeError
    if fault == "decoder":
        monkeypatch.setattr(decoder, "to_numpy", lambda frames: frames.no_such)
        error = AttributeError
    elif fault == "cancel":
        cancel.set()
        error = DecodeCancelled
    elif fault == "interrupt":
        real, slow = imageio_ffmpeg.get_ffmpeg_exe(), tmp_path.with_name("ffmpeg-that-starts-late")
        slow.write_text(f'#!/bin/sh\nsleep 0.3\nexec {shlex.quote(real)} "$@"\n')
        slow.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(slow))
        monkeypatch.setattr(FfmpegFormat.Writer, "_append_data", interrupted)
        error = KeyboardInterrupt
    else:
        limit, error = 1000, OSError
    with file_size_limit(limit), pytest.raises(error) as caught:
        decode_diffusers(decoder, -latents, ExportToVideoSink(path), progress=False, cancel=cancel)
    if fault == "disk":
        assert f"ExportToVideoSink {path}: what was written" in caught.value.__notes__[0]
    assert not [child.name() for child in psutil.Process().children() if "ffmpeg" in child.name()]
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_the_encoder_is_missed_before_anything_is_decoded(tmp_path, monkeypatch):
    from diffusers.utils import import_utils

    decoder = NearestDecoder(fail_at=0)
    decoder.decode_video = lambda *arguments: pytest.fail("decoded")
    decoder.to_numpy = None
    path = tmp_path / "clip.mp4"
    for missing, words in (
        ("imageio_ffmpeg", "imageio, but not imageio-ffmpeg, .* pip install imageio imageio-ffm"),
        ("both", "finds neither imageio nor OpenCV .* pip install imageio imageio-ffmpeg"),
    ):
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
        if missing == "both":
            monkeypatch.setattr(import_utils, "is_imageio_available", lambda: False)
            monkeypatch.setattr(import_utils, "is_opencv_available", lambda: False)
        with pytest.raises(ImportError, match=words):
            decode_diffusers(decoder, latents_for(decoder), ExportToVideoSink(path), progress=False)
        with pytest.raises(ImportError, match=words):
            SinkSpec("export_to_video", tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_imageio_opencv_encodes(decoder, latents, tmp_path, monkeypatch):
    import cv2
    from diffusers.utils import export_utils, import_utils

    for module in (import_utils, export_utils):
        monkeypatch.setattr(module, "is_imageio_available", lambda: False)
    sink = ExportToVideoSink(tmp_path / "clip.mp4")
    decode_diffusers(decoder, latents, sink, progress=False)
    assert export_encoder() == f"export_to_video, OpenCV {cv2.__version__}"
    assert pixels_of(sink.path).shape == (9, 32, 48, 3)


def test_in_a_record(tmp_path, capsys):
    bench = ["bench", "--device", "cpu", "--latents", "random:9x16x16", "--runs", "1", "--json"]
    bench += ["--sink", f"export_to_video:{tmp_path}", "--out", str(tmp_path / "results")]
    assert main(bench) == 2
    assert "--modes diffusers, or sink mp4" in capsys.readouterr().err
    assert main([*bench, "--modes", "diffusers,compute"]) == 0
    sink = json.loads(capsys.readouterr().out)["arms"]["diffusers"]["sink"]
    assert (sink["kind"], sink["encoder"]) == ("export_to_video", ENCODER)
    bench[bench.index("--sink") + 1] = f"mp4,preset=ultrafast,crf=40:{tmp_path}"
    assert main([*bench, "--modes", "diffusers"]) == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    own, theirs = arms["diffusers"], arms["diffusers, export_to_video"]
    assert own["sink"]["encoder"] == "x264 ultrafast crf 40" and theirs["sink"]["options"] == {}
    assert own["file"]["frames"] == theirs["file"]["frames"] == 9
    assert own["file"]["error"] > theirs["file"]["error"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["results"]


def test_names_that_others_take_for_something_else(decoder, latents, tmp_path):
    for name in ("12:30.mp4", "x" * 240 + ".mp4"):
        decode_diffusers(decoder, latents, ExportToVideoSink(tmp_path / name), progress=False)
        assert (tmp_path / name).exists() and not leftovers(tmp_path)
    with pytest.raises(ValueError, match=r"writes .mp4 files, not 'a.mov'"):
        ExportToVideoSink(tmp_path / "a.mov")
