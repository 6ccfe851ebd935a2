"""Bad input: every path says what is wrong, with which value, and what is right."""

import io
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_bytes
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
from vdkit.__main__ import main
from vdkit.models.latents import latents_metadata

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
        ValueError, match=r"'nearest' returned .* \(1, 3, 1, 24, 40\) .*, expected \(1, 3, 4"
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


def saved(save, value=GOOD, **options):
    buffer = io.BytesIO()
    save(value, buffer, **options)
    return buffer.getvalue()


WHOLE = save_bytes({"latents": GOOD})
FILES = {
    "torch": (saved(torch.save), "is a pickle, which can run code"),
    "torch, cut short": (saved(torch.save)[:300], "is a pickle"),
    "torch, before 1.6": (
        saved(torch.save, _use_new_zipfile_serialization=False),
        "is a pickle, which can run code",
    ),
    "pickle": (pickle.dumps([1]), "is a pickle, which can run code"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "is a Git LFS pointer; fetch the file itself: git lfs pull",
    ),
    "page": (b"\n<!doctype HTML><title>Sign in</title>", "is a web page; download the file"),
    "page, no doctype": (b"\xef\xbb\xbf<html>", "is a web page"),
    "JSON": (b'{"error": "Invalid username or password."}', "is no safetensors file"),
    "numpy": (saved(lambda value, file: np.save(file, value)), "is no safetensors file"),
    "empty": (b"", "is empty"),
    "one byte": (WHOLE[:1], "is damaged or cut short"),
    "cut in its header": (WHOLE[:40], "is damaged or cut short"),
    "cut in its data": (WHOLE[:-8], "is damaged or cut short"),
    "cut, its first byte a pickle's": (b"\x80\x02" + bytes(6) + b'{"a"', "is damaged or cut short"),
}


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
        with pytest.raises(FileNotFoundError, match=r"no latents file 'nowhere.safetensors'"):
            load_latents("nowhere.safetensors", decoder)

    @pytest.mark.parametrize("ending", ["latent", "SAFETENSORS", "pt"])
    def test_comfyui(self, decoder, tmp_path, ending):
        """As its SaveLatent writes: an empty tensor beside the latents marks them as unscaled."""
        path = tmp_path / f"ComfyUI_00001_.{ending}"
        mark = {"latent_format_version_0": torch.tensor([])}
        save_file({"latent_tensor": GOOD, **mark, "noise_mask": GOOD + 1}, path, {"prompt": "{}"})
        assert torch.equal(load_latents(path, decoder), GOOD)
        assert latents_metadata(path) == {"prompt": "{}"}
        save_file({"latent_tensor": GOOD}, path)
        with pytest.raises(ValueError, match=r"without latent_format_version_0: .*save it there"):
            load_latents(path, decoder)

    def test_several_tensors(self, decoder, tmp_path, capsys):
        path = tmp_path / "bundle.safetensors"
        odd = {
            "half": torch.zeros(3),
            "four": GOOD[:, :4].clone(),
            "two": GOOD.repeat(2, 1, 1, 1, 1),
        }
        odd["number"] = torch.tensor(1.0)
        for fitting in (GOOD + 1, GOOD[0] + 1, GOOD.to(torch.float8_e4m3fn)):
            save_file({**odd, "z": fitting}, path)
            with pytest.warns(UserWarning, match=r"taking 'z' of .*four \[1, 4, 3, 2, 2\]"):
                assert torch.equal(load_latents(path, decoder), fitting)
        with pytest.raises(TypeError, match=r"latents are torch\.float8_e4m3fn; use"):
            decode_sync(decoder, fitting, Collect(), progress=False)
        assert main(["decode", str(path), "--device", "cpu", "--out", str(tmp_path / "v.mp4")]) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[0].startswith("vdkit: warning: latents file ") and "taking 'z'" in said[0]
        assert said[1].startswith("vdkit: error: ") and "torch.float8_e4m3fn" in said[1]
        for tensors, words in (
            ({**odd, "a": GOOD, "b": GOOD + 1}, r"2 that fit 16 channels.*a \[1, 16, 3, 2, 2\]"),
            (odd, r"0 that fit 16 channels.*four \[1, 4, 3, 2, 2\], half \[3\], number \[\]"),
            ({f"{i:02}": GOOD + i for i in range(20)}, r"20 that fit.*08 \[.*\], \.\.\.$"),
            ({}, "0 that fit 16 channels.*it is empty"),
        ):
            save_file(tensors, path)
            with pytest.raises(ValueError, match=rf"no tensor 'latents', and {words}"):
                load_latents(path, decoder)

    @pytest.mark.parametrize("ending", ["safetensors", "latent", "bin"])
    @pytest.mark.parametrize("kind", FILES)
    def test_other_files_are_called_what_they_are(self, decoder, tmp_path, kind, ending):
        content, words = FILES[kind]
        path = tmp_path / f"file.{ending}"
        path.write_bytes(content)
        for read in (lambda: load_latents(path, decoder), lambda: latents_metadata(path)):
            with pytest.raises(ValueError, match=rf"file\.{ending} {words}"):
                read()
