"""Frames in the sink's own format: against swscale, and the same bytes on every path."""

import json
import os
import subprocess
import sys
from fractions import Fraction
from importlib.util import find_spec

import av
import numpy as np
import pytest
import torch

from tests.helpers import Collect, NearestDecoder, latents_for
from vdkit import DecodeConfig, RawSink
from vdkit.decode.media import MediaInfo
from vdkit.decode.paths import PATHS
from vdkit.decode.pixels import to_format

FORMATS = ("yuv420p", "nv12")


class Whole(NearestDecoder):
    """One that has a whole decode too."""

    def decode_video(self, latents, before_frame):
        before_frame(0)
        first = self.decode_chunk(latents, 0, 1)
        return torch.cat([first, self.decode_chunk(latents, 1, latents.shape[2])], 2)

    def to_numpy(self, frames):
        return ((frames[0] + 1) / 2).permute(1, 2, 3, 0).numpy()


def collected(mode, pixel_format="rgb24", config=DecodeConfig()):
    decoder, sink = Whole(), Collect()
    sink.pixel_format = pixel_format
    latents = latents_for(decoder, 6, 2, 4)
    done = PATHS[mode](decoder, latents, sink, config=config, progress=False)
    return np.concatenate(sink.chunks), done


def swscale(rgb, pixel_format):
    """One picture by FFmpeg's accurate path, chroma sited left."""
    height, width = rgb.shape[:2]
    graph = av.filter.Graph()
    source = graph.add("buffer", f"video_size={width}x{height}:pix_fmt=rgb24:time_base=1/16")
    scale = graph.add(
        "scale", "flags=area+accurate_rnd+full_chroma_inp:out_color_matrix=bt709:out_range=tv:"
        "out_h_chr_pos=0:out_v_chr_pos=128",
    )  # fmt: skip
    made, end = graph.add("format", pixel_format), graph.add("buffersink")
    for one, other in ((source, scale), (scale, made), (made, end)):
        one.link_to(other)
    graph.configure()
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    frame.pts, frame.time_base = 0, Fraction(1, 16)
    graph.push(frame)
    return graph.pull().to_ndarray()


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size", [(16, 16), (50, 66), (96, 160)])
def test_within_one_level_of_swscale(pixel_format, size):
    rgb = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    made = to_format(torch.from_numpy(rgb), pixel_format).numpy()
    expected = np.stack([swscale(one, pixel_format) for one in rgb])
    assert np.abs(made.astype(int) - expected).max() <= 1
    assert (made == expected).mean() > 0.9


def test_black_white_and_gray_are_exact():
    levels = torch.tensor([0, 255, 128], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 2, 4, 3)
    assert to_format(levels, "yuv420p").view(3, -1).tolist() == [
        [y] * 8 + [128] * 4 for y in (16, 235, 126)
    ]


def test_both_formats_hold_the_same_planes():
    rgb = torch.randint(0, 256, (2, 6, 8, 3), dtype=torch.uint8)
    apart, together = (to_format(rgb, one).flatten(1) for one in FORMATS)
    assert torch.equal(apart[:, :48], together[:, :48])
    assert torch.equal(apart[:, 48:60], together[:, 48::2])
    assert torch.equal(apart[:, 60:], together[:, 49::2])


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("mode", ["sync", "async", "diffusers"])
def test_every_path_gives_the_same_bytes(mode, on_device, pixel_format):
    rgb, _ = collected("sync")
    expected = to_format(torch.from_numpy(rgb), pixel_format).numpy()
    config = DecodeConfig(2, 3, uint8_on_gpu=on_device, sync_uint8_on_gpu=on_device)
    made, done = collected(mode, pixel_format, config)
    assert np.array_equal(made, expected) and done.info.pixel_format == pixel_format
    copied = expected.nbytes if on_device and mode != "diffusers" else 4 * rgb.nbytes
    assert done.d2h_bytes == copied


def test_a_raw_file_says_what_it_holds(tmp_path):
    rgb, _ = collected("sync")
    path, decoder = tmp_path / "clip.yuv", Whole()
    sink = RawSink(path, pixel_format="yuv420p")
    PATHS["async"](decoder, latents_for(decoder, 6, 2, 4), sink, progress=False)
    told = json.loads((tmp_path / "clip.yuv.json").read_text())
    assert told["layout"] == "T, yuv420p, BT.709, limited range, chroma left"
    assert (told["height"], told["width"]) == rgb.shape[1:3]
    made = np.fromfile(path, np.uint8).reshape(told["shape"])
    assert np.array_equal(made, to_format(torch.from_numpy(rgb), "yuv420p").numpy())


def test_bad_formats_are_named():
    with pytest.raises(ValueError, match="pixel_format is 'yuv444'; use one of rgb24, yuv420p"):
        RawSink("x.yuv", pixel_format="yuv444")
    with pytest.raises(
        ValueError, match="nv12 needs even sides, the video is 3x4; use a sink of rgb24"
    ):
        MediaInfo(1, 3, 4, Fraction(16), pixel_format="nv12")


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton, which GPU builds bring")
def test_the_kernel_gives_the_same_bytes():
    code = """
import torch
from vdkit.decode.kernel import planes
from vdkit.decode.pixels import to_format
torch.manual_seed(0)
for shape in ((2, 6, 10), (1, 4, 300), (3, 2, 258)):
    rgb = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)
    for given in (rgb, rgb.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)):
        for name in ("yuv420p", "nv12"):
            expected = to_format(given, name)
            rows = torch.zeros(shape[0], expected[0].numel() + 7, dtype=torch.uint8)
            made = rows[:, :-7].unflatten(1, expected.shape[1:])
            planes(given, made, name == "nv12")
            assert torch.equal(made, expected) and not rows[:, -7:].any(), (shape, name)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
