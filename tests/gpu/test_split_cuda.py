"""One video over two GPUs: the frames of one, with CUDA graphs too, and one whole file."""

from functools import partial

import pytest
import torch
import torch.distributed as dist

from tests.cpu.test_wan_fast import frames_of, noise, random_vae
from vdkit import DecodeConfig, RawSink, decode_async, load_decoder
from vdkit.decode.ranks import run_ranks
from vdkit.models.fast.decoder import FastWanDecoder
from vdkit.models.split import SplitDecoder, Strip, decode_split
from vdkit.models.wan import WanDecoder
from vdkit.sinks.files import JoinedRawSink

HEIGHT, WIDTH = 7, 6

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")


def made(device, channels=16, kind=WanDecoder, dtype=torch.float16):
    return kind(random_vae(channels).to(device, dtype), "thin")


def apart_db(device, channels, kind, chunk_size):
    """How near this rank's rows of a video come to those of one GPU; the second of two videos."""
    alone, split = (made(device, channels, kind) for _ in range(2))
    split = SplitDecoder(split, Strip(HEIGHT))
    latents = noise(alone, 13, HEIGHT, WIDTH).to(device)
    frames_of(split, split.part(latents), chunk_size)
    parts, whole = (
        frames_of(split, split.part(latents), chunk_size),
        frames_of(alone, latents, chunk_size),
    )
    first = split.strip.rows.start * alone.spatial_factor
    expected = whole[..., first : first + parts.shape[3], :]
    return float(10 * torch.log10(4 / (parts.float() - expected.float()).square().mean()))


@pytest.mark.parametrize("chunk_size", [1, 2])
@pytest.mark.parametrize("kind", [WanDecoder, FastWanDecoder])
@pytest.mark.parametrize("channels", [16, 48])
def test_the_frames_are_those_of_one_gpu(channels, kind, chunk_size):
    found = run_ranks(2, apart_db, channels, kind, chunk_size, kind="cuda")
    assert min(found) >= 60, found


def fails(device):
    """Rank 0 waits in NCCL for one that is gone."""
    if dist.get_rank() == 1:
        raise ValueError("planted")
    split = SplitDecoder(made(device), Strip(HEIGHT))
    frames_of(split, split.part(noise(split, 5, HEIGHT, WIDTH).to(device)), 1)
    torch.cuda.synchronize()


def test_one_that_fails_ends_the_other():
    with pytest.raises(ValueError, match="planted"):
        run_ranks(2, fails, kind="cuda")


LOADS = {
    "float32": (partial(made, dtype=torch.float32), 1),
    "fast": (partial(load_decoder, "tiny-wan", dtype="float16", variant="fast"), 2),
}
"""What loads, and levels by which a pixel may differ."""


@pytest.mark.parametrize("what", LOADS)
def test_the_joined_file_is_that_of_one_gpu(what, tmp_path):
    load, levels = LOADS[what]
    decoder, config = load("cuda"), DecodeConfig(chunk_size=2)
    files, latents = [tmp_path / "one.rgb", tmp_path / "two.rgb"], noise(decoder, 9, HEIGHT, WIDTH)
    decode_async(decoder, latents, RawSink(files[0]), config=config, progress=False)
    decode_split(load, latents, JoinedRawSink(files[1]), 2, config=config, progress=False)
    one, two = (torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8) for file in files)
    assert one.shape == two.shape and (one.int() - two.int()).abs().max() <= levels
