"""Public decoders that have no adapter, by the protocol alone: a few lines, and all of the kit."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

from tests.cpu.test_probe import MemoryDecoder
from tests.helpers import Collect
from vdkit import (
    DecodeConfig,
    NullSink,
    decode_async,
    decode_sync,
    document_of,
    probe,
    run_benchmark,
)
from vdkit.decode import Traits, to_levels

pytestmark = pytest.mark.usefixtures("one_thread")


class TinyImages:
    """diffusers' AutoencoderTiny: images by themselves, in [0, 1] before it stretches them."""

    name, medium, latent_channels, spatial_factor = "taesd", "images", 4, 8
    value_range = (0.0, 1.0)

    def __init__(self, vae):
        self.vae, self.device, self.dtype = vae, vae.device, vae.dtype

    def begin(self, latents):
        return latents

    def decode_chunk(self, state, start, stop):
        return self.vae.decode(state[start:stop]).sample.add(1).mul(0.5).clamp(0, 1)


def tiny():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
            num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4,
        )  # fmt: skip
        vae.decoder.layers[-1].bias.data.fill_(0.5)  # in the middle of the range
    return TinyImages(vae.eval().requires_grad_(False))


def memory():
    made = MemoryDecoder()
    made.dtype = torch.float32
    for part in (*made.blocks, *made.doubling):
        part.float()
    return made


PLUGINS = {
    "AutoencoderTiny": (tiny, (5, 4, 2, 3), (5, 16, 24, 3)),
    "TAEHV's shape": (memory, (1, 4, 6, 2, 3), (21, 16, 24, 3)),
}


def noise(shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


@pytest.mark.parametrize("name", PLUGINS)
def test_every_path_gives_the_whole_in_its_own_range(name):
    make, shape, wanted = PLUGINS[name]
    decoder = make()
    latents = noise(shape)
    with torch.inference_mode():
        count = shape[0] if name == "AutoencoderTiny" else shape[2]
        whole = decoder.decode_chunk(decoder.begin(latents), 0, count)
        assert whole.min() >= 0 and whole.max() <= 1 and whole.std() > 0.02
        levels = to_levels(whole, Traits.of(decoder)).numpy()
    assert levels.shape == wanted and abs(levels.mean() - 255 * whole.mean()) < 0.5
    for path in (decode_sync, decode_async):
        for size in (1, 2, 5):
            sink, config = Collect(), DecodeConfig(size, uint8_on_gpu=size != 2)
            path(decoder, latents, sink, config=config, progress=False)
            made = np.concatenate(sink.chunks)
            assert made.shape == wanted and sink.info.medium == Traits.of(decoder).medium.name
            assert np.abs(made.astype(int) - levels).max() <= 1, (path, size)  # sums round


def test_their_anatomy():
    images = probe(tiny(), noise((5, 4, 4, 4)))
    assert not images.failed and (images.first_units, images.units_per_latent) == (1, 1)
    assert images.history.zero == images.look_ahead.zero == 0 and images.value_range == (0, 1)
    assert images.verdict == ["Stream it with chunks of 1 or more latents: exact."]
    video = probe(MemoryDecoder(), noise((1, 4, 15, 2, 2), torch.float64))
    assert not video.failed and (video.first_units, video.units_per_latent) == (1, 4)
    assert video.history.zero == 3.25 and video.look_ahead.zero == 0 and video.causal
    assert video.value_range == (0, 1) and video.verdict == images.verdict
    # Five frames, each a slice that keeps its chunk alive, the first one that of the latents.
    assert set(video.state_bytes) == {8 * 4 * 2 * 2 * (1 + 2 + 2 + 4)} and video.state_growth == 0


@pytest.mark.parametrize("name", PLUGINS)
def test_a_benchmark_of_them(name):
    make, shape, wanted = PLUGINS[name]
    decoder = make()
    done = run_benchmark(
        decoder, noise(shape), lambda label: nullcontext(NullSink()),
        modes=("sync", "async", "compute_only"), runs=1, warmup=0, progress=False,
    )  # fmt: skip
    assert done.frames_identical and done.workload.frames == wanted[0]
    unit = "images" if name == "AutoencoderTiny" else "frames"
    assert f"{wanted[0]} {unit}" in document_of(done).lead[0]
