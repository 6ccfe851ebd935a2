"""Real pictures at real cost: the widened miniature, drawn clips as latents, film grain."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import Collect, NearestAudio, NearestDecoder, NearestImages, latents_for
from vdkit import (
    decode_async,
    decode_diffusers,
    decode_sync,
    load_decoder,
    load_latents,
    read_recording,
)
from vdkit.__main__ import main
from vdkit.models.grain import Grained
from vdkit.models.latents import latents_metadata
from vdkit.models.loading import TINY_WAN
from vdkit.models.widened import widened

sys.path.insert(0, str(TINY_WAN))
from clips import draw_tracks, parse, render

STAR = "a red star rotates over a gray background"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny():
    return load_decoder("tiny-wan", "cpu", "float32")


def frames_of(decoder, latents, size=1):
    state, starts = decoder.begin(latents), (0, *range(1, latents.shape[2], size))
    chunks = [(start, start + size if start else 1) for start in starts]
    with torch.inference_mode():
        return torch.cat([decoder.decode_chunk(state, *chunk) for chunk in chunks], 2)


def test_wan21_makes_the_pictures_of_the_miniature(tiny):
    """By diffusers' modules and by the fast decoder; with weights that are all different."""
    latents = latents_for(tiny, 2, 3, 2)
    chance = torch.get_rng_state()
    wide = load_decoder("wan2.1", "cpu", "float32")
    assert torch.equal(torch.get_rng_state(), chance)
    expected = frames_of(tiny, latents)
    assert expected.std() > 0.05
    torch.testing.assert_close(frames_of(wide, latents), expected, rtol=0, atol=1e-5)
    plain, small = wide.vae.decoder.mid_block.resnets[0].conv1.weight, tiny.vae.decoder
    copies = plain.unflatten(1, (6, -1))
    assert (copies[:, 0] - copies[:, 1]).abs().median() > 0.1 * plain.std()
    once = small.mid_block.resnets[0].conv1.weight
    torch.testing.assert_close(copies.sum(1), once.repeat(6, 1, 1, 1, 1), rtol=0, atol=1e-6)
    fast = load_decoder("wan2.1", "cpu", "float32", "fast")
    torch.testing.assert_close(frames_of(fast, latents), expected, rtol=0, atol=1e-4)
    assert fast.name == wide.name == "wan2.1"


def test_widening_keeps_the_function_exactly(tiny):
    """In float64, of the encoder too; seeded; only multiples."""
    narrow = load_decoder("tiny-wan", "cpu", "float32").vae.double()
    wide, again = (widened(narrow, 24, 32) for _ in range(2))
    latents, video = (torch.randn(1, n, f, s, s).double() for n, f, s in ((16, 2, 3), (3, 5, 32)))
    with torch.inference_mode():
        made, once = (one.decode(latents).sample for one in (wide, narrow))
        torch.testing.assert_close(made, once, rtol=0, atol=1e-12)
        made, once = (one.encode(video).latent_dist.parameters for one in (wide, narrow))
        torch.testing.assert_close(made, once, rtol=0, atol=1e-12)
    assert all(map(torch.equal, wide.state_dict().values(), again.state_dict().values()))
    with pytest.raises(ValueError, match="decoder_base_dim is 40; use a multiple of 16"):
        widened(narrow, 24, 40)


def test_clips_grow_with_the_picture():
    """Five times the size, and every 5x5 pixels together are what was one."""
    small, large = (
        render(draw_tracks([parse(STAR)], np.random.default_rng(0), 33, *size), "cpu", 8, 10)
        for size in ((96, 160), (480, 800))
    )
    assert large.shape == (1, 2, 480, 800, 3)
    means = large.float().unflatten(2, (96, 5)).unflatten(4, (160, 5)).mean((3, 5))
    off = (means - small.float()).abs()
    assert off.mean() < 0.7 and off.amax() < 60 and small.float().std() > 10


def test_latents_of_clips_are_the_miniatures_encoding(tiny):
    spec = f"clips:9x32x48:{STAR}"
    latents = load_latents(spec, tiny, 4)
    tracks = draw_tracks([parse(STAR)], np.random.default_rng((4, 1)), 9, 32, 48)
    video = render(tracks).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    with torch.inference_mode():
        whole = tiny.vae.encode(video).latent_dist.mode()
    assert latents.dtype is torch.float32 and latents.shape == (1, 16, 3, 4, 6)
    torch.testing.assert_close(latents, whole, rtol=0, atol=1e-4)
    told = latents_metadata("clips:9x32x48", 4)
    assert told["seed"] == "4" and told["normalization"] == "undone"
    chosen = load_latents("clips:9x32x48", tiny, 4)
    assert torch.equal(chosen, load_latents(f"clips:9x32x48:{told['prompt']}", tiny, 4))
    assert not torch.equal(chosen, load_latents("clips:9x32x48", tiny, 5))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("clips:10x32x48", r"'clips:10x32x48': .*9 or 13"),
        ("clips:9x30x48", "height 30 is not a multiple of 8, use 32"),
        ("clips:9", r"write clips:FRAMESxHxW or clips:FRAMESxHxW:CAPTION"),
        ("clips:9x32x48:a red dog moves left over a gray background", "'a red dog .*shapes circle"),
        ("clips:9x32x48:a red star", "does not end in 'over a ... background' with one of black"),
    ],
)
def test_clips_that_cannot_be(tiny, spec, message):
    with pytest.raises(ValueError, match=message):
        load_latents(spec, tiny)


def test_clips_for_another_decoder():
    with pytest.raises(ValueError, match=r"'nearest' makes video of others; use random:"):
        load_latents("clips:9x32x48", NearestDecoder())


def test_grain_is_the_same_on_every_path_and_what_was_asked_for(tiny):
    grained = load_decoder("tiny-wan", "cpu", "float32", grain=3.0)
    latents = load_latents(f"clips:9x96x160:{STAR}", tiny)
    made = []
    for decode, decoder in (
        (decode_async, tiny), (decode_sync, grained), (decode_async, grained),
        (decode_diffusers, grained),
    ):  # fmt: skip
        decode(decoder, latents, sink := Collect(), progress=False)
        made.append(np.concatenate(sink.chunks).astype(int))
    clean, *others = made
    assert all(np.array_equal(one, others[0]) for one in others)
    grain = others[0] - clean
    free = (clean > 15).all(3) & (clean < 240).all(3)  # where nothing is clamped
    assert grain[free].std() == pytest.approx(3, rel=0.05) and abs(grain[free].mean()) < 0.1
    assert abs(grain[..., 0] - grain[..., 1]).max() <= 1, "more than rounding tells colors apart"
    frames = [one[..., 0].ravel() for one in grain]
    assert abs(np.corrcoef(frames) - np.eye(9)).max() < 0.05
    assert grained.notes == ("film grain of 3 levels",) and grained.name == "tiny-wan"
    assert not hasattr(grained, "decode_into") and not hasattr(grained, "prepare")


def test_grain_of_two_sizes_in_turns_and_beyond_the_range():
    decoder = Grained(NearestDecoder(), 30.0)
    latents = [torch.randn(1, 4, 2, *size) * 3 for size in ((2, 3), (4, 5))]
    alone = [frames_of(decoder, one) for one in latents]
    states = [decoder.begin(one) for one in latents]
    turns = [[decoder.decode_chunk(state, *at) for state in states] for at in ((0, 1), (1, 2))]
    for made, expected in zip(zip(*turns, strict=True), alone, strict=True):
        assert torch.equal(torch.cat(made, 2), expected) and expected.abs().max() == 1
    latents[0][0, 0, 1, 0, 0] = torch.nan
    assert frames_of(decoder, latents[0]).isnan().sum() == 4 * 64  # four frames of eight by eight
    pictures = torch.randn(3, 4, 2, 2)
    hashes = set()
    for decode in (decode_async, decode_diffusers):
        images = Grained(NearestImages(), 3.0)
        decode(images, pictures, sink := Collect(), progress=False)
        hashes.add(sink.sha256)
    decode_async(NearestImages(), pictures, clean := Collect(), progress=False)
    assert len(hashes) == 1 and clean.sha256 not in hashes
    with pytest.raises(ValueError, match="grain is 3, but nearest-audio makes audio; leave it out"):
        Grained(NearestAudio(), 3.0)
    with pytest.raises(ValueError, match="grain is 0; use levels above 0, up to 255"):
        load_decoder("tiny-wan", "cpu", grain=0.0)


@pytest.mark.parametrize(
    ("more", "content"),
    [
        (["--latents", "clips:5x16x16"], "flat"),
        (["--latents", "clips:5x16x16", "--grain", "3"], "grain"),
        (["--latents", "random:5x16x16", "--grain", "3"], "noise"),
    ],
)
def test_the_content_is_recorded_and_shown(tmp_path, capsys, more, content):
    common = ["bench", "--device", "cpu", "--runs", "1", "--warmup", "0", "--modes", "async"]
    assert main([*common, *more, "--sink", "null", "--out", str(tmp_path)]) == 0
    assert f"of 16x16 ({content}) at 16 fps" in capsys.readouterr().out
    work = read_recording(next(Path(tmp_path).iterdir())).workload
    assert work.content == content
    assert work.notes == (("film grain of 3 levels",) if "--grain" in more else ())
    if content != "noise":
        prompt = latents_metadata("clips:5x16x16")["prompt"]
        assert work.latents == f"clips:5x16x16:{prompt}"
