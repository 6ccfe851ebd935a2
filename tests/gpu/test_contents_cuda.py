"""The widened miniature, drawn clips and grain on CUDA: real pictures in half precision."""

import pytest
import torch

from tests.helpers import Collect
from vdkit import decode_async, decode_diffusers, decode_sync, load_decoder, load_latents
from vdkit.decode import frames_to_uint8

SPEC = "clips:17x192x320:a red star rotates over a gray background"


def frames_of(decoder, latents):
    latents = latents.to(decoder.device, decoder.dtype)
    state, count = decoder.begin(latents), latents.shape[2]
    with torch.inference_mode():
        made = [decoder.decode_chunk(state, i, i + 1) for i in range(count)]
    return torch.cat(made, 2).float()


@pytest.mark.parametrize("variant", ["diffusers", "channels_last", "fast"])
def test_the_widened_decoder_makes_the_miniatures_pictures(variant):
    tiny = load_decoder("tiny-wan", "cuda", "float32")
    latents = load_latents(SPEC, tiny)
    wide = load_decoder("wan2.1", "cuda", "float16", variant)
    off = (frames_of(wide, latents) - frames_of(tiny, latents)).square().mean().sqrt()
    assert off <= 4e-3, "54 dB, of values from -1 to 1"


def test_encoding_leaves_the_memory_as_it_was():
    decoder = load_decoder("tiny-wan", "cuda")
    before = torch.cuda.memory_allocated()
    latents = load_latents("clips:13x720x1280", decoder)
    assert latents.device.type == "cpu" and latents.shape == (1, 16, 4, 90, 160)
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("variant", ["diffusers", "fast"])
def test_grain_is_the_same_on_every_path(variant):
    decoder = load_decoder("wan2.1", "cuda", "float16", variant, grain=3.0)
    latents = load_latents(SPEC, decoder)
    paths = [decode_sync, decode_async] + [decode_diffusers] * (variant == "diffusers")
    hashes = set()
    for path in paths:
        path(decoder, latents, sink := Collect(), progress=False)
        hashes.add(sink.sha256)
    assert len(hashes) == 1
    plain = load_decoder("wan2.1", "cuda", "float16", variant)
    levels = [frames_to_uint8(frames_of(one, latents)).float() for one in (plain, decoder)]
    free = ((levels[0] > 15) & (levels[0] < 240)).all(3)
    assert float((levels[1] - levels[0])[free].std()) == pytest.approx(3, rel=0.05)
