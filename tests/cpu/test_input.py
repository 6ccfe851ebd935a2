"""Bad input: every path says what is wrong, with which value, and what is right."""

import pytest
import torch
from safetensors.torch import save_file

from tests.helpers import Collect, NearestDecoder, latents_for
from vdkit import (
    DecodeConfig,
    compute_only,
    decode_async,
    decode_diffusers,
    decode_sync,
    load_decoder,
    load_latents,
)

PATHS = [decode_diffusers, decode_sync, decode_async, compute_only]
GOOD = torch.zeros(1, 16, 3, 2, 2)


def poisoned(value, frame):
    latents = GOOD.clone()
    latents[0, 5, frame, 1, 0] = value
    return latents


@pytest.fixture(scope="module")
def decoder():
    return load_decoder("tiny-wan", "cpu")


BAD = {
    "rank 3": (GOOD[0, 0], ValueError, r"shape \(3, 2, 2\), 3 axes; use \[C, T, h, w\]"),
    "rank 6": (GOOD[None], ValueError, "6 axes"),
    "batch": (
        GOOD.repeat(2, 1, 1, 1, 1),
        ValueError,
        "batch of 2 videos; decode them one at a time",
    ),
    "channels": (GOOD[:, :4], ValueError, "4 channels, this decoder takes 16"),
    "axes swapped": (GOOD.transpose(1, 2), ValueError, r"3 channels.*not \[T, C, h, w\]"),
    "integers": (GOOD.int(), TypeError, "torch.int32; use torch.float16"),
    "double": (GOOD.double(), TypeError, "torch.float64"),
    "numpy": (GOOD.numpy(), TypeError, "latents are a ndarray"),
    "no frames": (GOOD[:, :, :0], ValueError, "latent frames, height and width must each be 1"),
    "no height": (GOOD[..., :0, :], ValueError, "must each be 1 or more"),
    "NaN": (poisoned(torch.nan, 2), ValueError, "NaN in latent frame 2"),
    "inf": (poisoned(-torch.inf, 1), ValueError, "inf in latent frame 1"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("path", PATHS)
def test_bad_latents(decoder, path, case):
    latents, kind, message = BAD[case]
    sink = Collect()
    with pytest.raises(kind, match=message):
        path(decoder, latents, sink, progress=False)
    assert not sink.calls, "nothing may be opened for input that cannot be decoded"


def test_values_that_overflow_the_decoders_dtype():
    half = NearestDecoder(dtype=torch.float16)
    latents = latents_for(half)
    latents[0, 0, 3] = 1e6
    with pytest.raises(ValueError, match=r"values up to 1e\+06, which become inf in torch.float16"):
        decode_sync(half, latents, Collect(), progress=False)


@pytest.mark.parametrize("path", PATHS)
def test_four_axes_and_other_float_dtypes_are_fine(decoder, path):
    for latents in (GOOD[0], GOOD.half(), GOOD.bfloat16()):
        path(decoder, latents, Collect(), progress=False)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fps", [0, -24, "often"])
def test_bad_fps(decoder, path, fps):
    with pytest.raises(ValueError, match="fps is"):
        path(decoder, GOOD, Collect(), fps=fps, progress=False)


def test_what_is_no_decoder_or_no_sink(decoder):
    with pytest.raises(TypeError, match="str is no ChunkDecoder: it lacks name, device"):
        decode_sync("wan2.1", GOOD, Collect(), progress=False)
    for sink in (None, "clip.mp4", print):
        with pytest.raises(TypeError, match=r"is no Sink: it lacks .*write"):
            decode_async(decoder, GOOD, sink, progress=False)


@pytest.mark.parametrize("path", [decode_sync, decode_async, compute_only])
def test_a_decoder_that_returns_the_wrong_shape(path):
    class Wrong(NearestDecoder):
        def decode_chunk(self, state, start, stop):
            return super().decode_chunk(state, start, stop)[:, :, :1]

    decoder = Wrong()
    with pytest.raises(
        ValueError, match=r"'nearest' returned .* \(1, 3, 1, 24, 40\), expected \(1, 3, 4"
    ):
        path(decoder, latents_for(decoder), Collect(), config=DecodeConfig(), progress=False)


def test_a_decoder_that_returns_another_dtype():
    class Wrong(NearestDecoder):
        def decode_chunk(self, state, start, stop):
            return super().decode_chunk(state, start, stop).double()

    decoder = Wrong()
    with pytest.raises(ValueError, match=r"returned torch.float64, but its dtype is torch.float32"):
        decode_async(decoder, latents_for(decoder), Collect(), progress=False)


def test_wrong_types_are_named():
    decoder = NearestDecoder()
    latents = latents_for(decoder)
    with pytest.raises(TypeError, match="config is a dict; a DecodeConfig is needed"):
        decode_async(decoder, latents, Collect(), config={}, progress=False)
    with pytest.raises(TypeError, match=r"cancel is a bool; a threading.Event is needed"):
        decode_async(decoder, latents, Collect(), cancel=True, progress=False)
    with pytest.raises(ValueError, match="pinned_memory is 'no'; use True or False"):
        DecodeConfig(pinned_memory="no")


class TestLatents:
    def test_random(self, decoder):
        latents = load_latents("random:17x16x24", decoder, seed=3)
        assert latents.shape == (1, 16, 5, 2, 3) and latents.dtype is torch.float32
        assert torch.equal(latents, load_latents("random:17x16x24", decoder, seed=3))
        assert not torch.equal(latents, load_latents("random:17x16x24", decoder, seed=4))

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("random:16x16x24", "16 pixel frames .* use 13 or 17"),
            ("random:17x15x24", "height 15 is not a multiple of 8, use 16"),
            ("random:17x16x25", "width 25 is not a multiple of 8, use 24"),
            ("random:17x0x24", "height 0 is not a multiple of 8, use 8"),
            ("random:0x16x24", "0 pixel frames"),
            ("random:9x16000000x16000000", "do not fit in memory"),
            ("random:17x16", "write random:FRAMESxHxW"),
            ("random:17x-16x24", "write random:FRAMESxHxW"),
        ],
    )
    def test_impossible_sizes(self, decoder, spec, message):
        with pytest.raises(ValueError, match=message):
            load_latents(spec, decoder)

    def test_file(self, decoder, tmp_path):
        path = tmp_path / "a.safetensors"
        save_file({"latents": GOOD, "other": GOOD[0].clone()}, path)
        assert torch.equal(load_latents(path, decoder), GOOD)
        save_file({"only": GOOD[0]}, path)
        assert torch.equal(load_latents(str(path), decoder), GOOD[0])
        save_file({"a": GOOD, "b": GOOD.clone()}, path)
        with pytest.raises(ValueError, match="no tensor 'latents' but a, b"):
            load_latents(path, decoder)
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(ValueError, match="damaged or cut short"):
            load_latents(path, decoder)

    def test_no_file_and_no_pickle(self, decoder, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no latents file 'nowhere.safetensors'"):
            load_latents("nowhere.safetensors", decoder)
        pickled = tmp_path / "latents.pt"
        torch.save(GOOD, pickled)
        with pytest.raises(ValueError, match="not safetensors; nothing else is read"):
            load_latents(pickled, decoder)
