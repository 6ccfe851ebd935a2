"""What `probe` finds: the known anatomy of public decoders, and planted faults of a plug-in."""

import dataclasses
import json
import math
import re
from functools import partial
from itertools import pairwise

import diffusers
import pytest
import torch
import transformers
from torch.nn.functional import pad

from tests.helpers import NearestDecoder, latents_for
from tests.zoo import CONFIGS, latents_of
from vdkit import NullSink, decode_async, decode_sync, document_of, load_decoder, probe
from vdkit.__main__ import main
from vdkit.models.wan import WanDecoder
from vdkit.present.instruments import anatomies_table, anatomy_document, plot_anatomy


def seeded(make, **config):
    """A thin model in float64 with seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(**config).double().eval().requires_grad_(False)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def vae(name, **config):
    return seeded(getattr(diffusers, name), **config)


EIGHTS = (8, 8, 8, 8)
EIGHT = {"block_out_channels": EIGHTS, "norm_num_groups": 2}
WIDE = {"block_out_channels": (32,) * 5}
COG = EIGHT | {"sample_height": 64, "sample_width": 64}
LTX = {"latent_channels": 8, "block_out_channels": EIGHTS, "decoder_block_out_channels": EIGHTS}
LTX2 = {
    "latent_channels": 8, "block_out_channels": EIGHTS,
    "decoder_block_out_channels": (8, 16, 32), "decoder_spatial_padding_mode": "zeros",
}  # fmt: skip
MOCHI = {
    "encoder_block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4,
    "layers_per_block": (1,) * 5,
}  # fmt: skip
COSMOS = {"encoder_block_out_channels": EIGHTS, "decode_block_out_channels": EIGHTS}
WAN = {"base_dim": 4, "z_dim": 4}
CAUSAL, FREE = (True, 1), (False, None)  # and from which prefix on exact
ALL, ANY = (None, 0), (None, None)  # zero of history and look-ahead
VIDEO = {
    # configuration, shape of latents; what is known, units of the first latent and of later ones
    "AutoencoderKLWan": (WAN, (4, 41, 1, 1), CAUSAL, (38, 0), (1, 4)),
    "AutoencoderKLQwenImage": (WAN, (4, 12, 1, 1), CAUSAL, ALL, (1, 4)),
    "AutoencoderKLLTXVideo": (LTX, (8, 27, 1, 1), FREE, (23, 23), (1, 8)),
    "AutoencoderKLLTX2Video": (LTX2, (8, 12, 1, 1), CAUSAL, ALL, (1, 8)),
    "AutoencoderKLMochi": (MOCHI, (12, 6, 2, 2), CAUSAL, ALL, (1, 6)),
    "AutoencoderKLMagvit": (EIGHT, (16, 9, 1, 1), CAUSAL, ALL, (1, 4)),
    "AutoencoderKLCosmos": (COSMOS, (16, 9, 2, 2), CAUSAL, ALL, (1, 8)),
    "AutoencoderKLHunyuanVideo15": (WIDE, (32, 4, 1, 1), CAUSAL, ALL, (1, 4)),
    "AutoencoderKLHunyuanVideo": (EIGHT, (16, 12, 1, 1), FREE, ANY, (1, 4)),
}
LTX2_FREE = LTX2 | {"decoder_causal": False}


@pytest.mark.parametrize("name", VIDEO)
def test_video_decoders(name):
    config, shape, known, reaches, units = VIDEO[name]
    model, asked = vae(name, **config), {"causal": False} if "LTX2" in name else {}
    model.use_framewise_decoding = False
    found = probe(whole=lambda z: model.decode(z, **asked).sample, latents=noise(1, *shape))
    assert (found.causal, found.exact_from) == known
    zeros = (found.history.zero, found.look_ahead.zero)
    assert tuple(zero and math.ceil(zero) for zero in zeros) == reaches
    if reaches == (23, 23):
        assert zeros == (22.375, 22.375)
    assert (found.first_units, found.units_per_latent) == units
    assert not found.failed and found.streamed == ()
    words = "Causal: chunks are exact if what" if found.causal else "on each side of a cut"
    assert any(words in line for line in found.verdict)


def test_ltx_needs_a_halo():
    model = vae("AutoencoderKLLTXVideo", **LTX)
    found = probe(whole=lambda z: model.decode(z).sample, latents=noise(1, 8, 53, 1, 1))
    for side in (found.history, found.look_ahead):  # 7.6 latents, by other random weights
        assert 7.6 / 2 < side.percent < 2 * 7.6 and side.percent < side.permille < side.zero
    seams = {one.size: one for one in found.seams}
    assert [*seams] == [0, 1, 2, 4, 8, 16, 24] and seams[0].missing == 7
    db = [seams[halo].db for halo in (2, 4, 8, 16, 24)]
    assert db == sorted(db) and db[-1] > 145  # its norms compute in float32
    halo = found.halo_for(40)
    assert halo in (8, 16) and found.halo_for(150) in (24, None)
    words = f"With nothing kept it needs {halo} latents of halo on each side of a cut for 40 dB."
    assert found.verdict == [words]
    (more,) = dataclasses.replace(found, target_db=400).verdict
    assert more.startswith("With nothing kept it does not reach 400 dB with a halo of 24 on each")


def test_ltx2_is_causal_or_not():
    model = vae("AutoencoderKLLTX2Video", **LTX2_FREE)
    free = probe(whole=lambda z: model.decode(z, causal=False).sample, latents=noise(1, 8, 9, 1, 1))
    asked = probe(whole=lambda z: model.decode(z, causal=True).sample, latents=noise(1, 8, 9, 1, 1))
    assert (free.causal, asked.causal) == (False, True)


class CogDecoder:
    """CogVideoX by its own batches, with its own cache."""

    name, device, dtype, latent_channels = "cog", torch.device("cpu"), torch.float64, 16
    spatial_factor, temporal_factor = 8, 4

    def __init__(self):
        self.vae = vae("AutoencoderKLCogVideoX", **COG)

    def plan(self, latents, chunk_size):
        count = latents.shape[2]
        cuts = [*pairwise([0, *range(2 + count % 2, count + 1, 2)])] or [(0, 1)]
        return [(a, b, 4 * (b - a) - 3 * (count % 2) * (a == 0)) for a, b in cuts]

    def begin(self, latents):
        return {"latents": latents, "cache": None}

    def decode_chunk(self, state, start, stop):
        made, state["cache"] = self.vae.decoder(
            state["latents"][:, :, start:stop], conv_cache=state["cache"]
        )
        return made / 3  # random weights go as far

    def decode_video(self, latents, before_frame):
        return self.vae.decode(latents).sample / 3


def test_cogvideox_is_cut_in_its_batches():
    decoder = CogDecoder()
    found = probe(whole=lambda z: decoder.vae.decode(z).sample, latents=noise(1, 16, 13, 1, 1))
    assert not found.causal and found.look_ahead.zero == 1 and found.history.zero is None
    assert found.borders == {9: (3, 5, 7), 8: (2, 4, 6)}
    assert found.lengths == (1, 8, 9, 16, 17, 24, 25, 32, 33)
    assert "exact after latents 3, 5, 7 of 9; 2, 4, 6 of 8." in found.verdict[0]
    found = probe(decoder, noise(1, 16, 9, 1, 1), chunk_sizes=(2,))
    assert found.verdict == ["Stream it with chunks of 2 or more latents: exact."]


class MochiDecoder(CogDecoder):
    """Mochi with its own cache, which is faulty."""

    latent_channels, temporal_factor, plan = 12, 6, None

    def __init__(self):
        self.vae = vae("AutoencoderKLMochi", **MOCHI)

    def decode_chunk(self, state, start, stop):
        made = super().decode_chunk(state, start, stop)
        return made[:, :, 5:] if start == 0 else made


def test_mochis_own_cache_is_found_wrong():
    found = probe(MochiDecoder(), noise(1, 12, 6, 2, 2))
    assert found.causal and found.exact_from == 1
    assert [check.name for check in found.failed] == ["chunks of 1", "chunks of 2", "chunks of 4"]
    assert all(
        re.match(r"\d+\.\d dB against the whole decode, and", c.detail) for c in found.failed
    )


def oobleck():
    model = vae("AutoencoderOobleck", encoder_hidden_size=4, decoder_channels=4,
                channel_multiples=[1] * 5)  # fmt: skip
    return lambda z: model.decode(z).sample, 64


def dac():
    config = transformers.DacConfig(
        encoder_hidden_size=4, decoder_hidden_size=64, hidden_size=32, n_codebooks=2,
        codebook_size=16, codebook_dim=4,
    )  # fmt: skip
    return seeded(transformers.DacModel, config=config).decoder, config.hidden_size


def encodec():
    config = transformers.EncodecConfig(
        num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=16, num_residual_layers=1
    )
    return seeded(transformers.EncodecModel, config=config).decoder, 16


def mimi():
    config = transformers.MimiConfig(
        num_filters=4, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, intermediate_size=32, codebook_size=16,
        codebook_dim=16, vector_quantization_hidden_dimension=16, upsample_groups=32,
    )  # fmt: skip
    model = seeded(transformers.MimiModel, config=config)
    return lambda z: model.decoder(z, use_cache=False)[0], 32


AUDIO = {
    # causal, from which prefix on exact, reach to both sides, samples a latent
    oobleck: (False, None, 9.3, 2048),
    dac: (False, None, 9.2, 512),
    encodec: (True, 7, None, 320),  # the first are mirrored into its padding
    mimi: (True, 1, None, 1920),
}


@pytest.mark.parametrize("make", AUDIO)
def test_audio_decoders(make):
    causal, exact_from, reach, samples = AUDIO[make]
    whole, channels = make()
    found = probe(whole=whole, latents=noise(1, channels, 25), medium="audio")
    assert (found.causal, found.exact_from) == (causal, exact_from)
    assert (found.first_units, found.units_per_latent) == (samples, samples)
    if reach:
        assert found.history.zero == pytest.approx(reach, abs=0.1)
        assert found.look_ahead.zero == pytest.approx(reach, abs=0.1)
        assert found.halo_for(float("inf")) == 10
    assert not found.failed


class MemoryDecoder:
    """Of TAEHV's shape: convolutions that see the frame before, frames doubled twice, [0, 1]."""

    name, device, dtype, latent_channels = "memory", torch.device("cpu"), torch.float64, 4
    spatial_factor, temporal_factor, value_range = 8, 4, (0.0, 1.0)

    def __init__(self, shared=False):
        blocks, grow = (2, 2, 1), torch.nn.Conv2d
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.blocks = [grow(8, 4, 3, padding=1).double() for _ in range(sum(blocks))]
            self.doubling = [grow(4, 8, 1).double() for _ in range(2)]
        self.shared, self.cache, self.ended = shared, {}, 0

    def begin(self, latents):
        if self.shared:
            self.cache.clear()
        return latents, self.cache if self.shared else {}

    def decode_chunk(self, state, start, stop):
        frames = state[0][0, :, start:stop].transpose(0, 1)  # [T, C, h, w]
        for i, block in enumerate(self.blocks):
            before = state[1].get(i, torch.zeros_like(frames[:1]))
            state[1][i] = frames[-1:]
            past = torch.cat([before, frames[:-1]])
            frames = frames + block(torch.cat([frames, past], 1)).tanh()
            if i in (1, 3):
                frames = self.doubling[i // 2](frames).unflatten(1, (2, 4)).flatten(0, 1)
        for axis in (2, 3):
            frames = frames.repeat_interleave(8, axis)
        made = frames[3 * (start == 0) :, :3].sigmoid()  # the first latent gives one frame
        return made.transpose(0, 1)[None]

    def end(self, state):
        self.ended += 1


def test_taehv_shape():
    decoder = MemoryDecoder()
    found = probe(decoder, noise(1, 4, 15, 2, 2))
    assert found.causal and found.exact_from == 1 and found.history.zero == 3.25
    assert found.value_range == (0.0, 1.0)
    assert found.verdict == ["Stream it with chunks of 1 or more latents: exact."]
    begun = decoder.ended
    probe(decoder, noise(1, 4, 5, 2, 2))
    assert decoder.ended > begun


def test_a_cache_of_the_whole_module_is_found():
    found = probe(MemoryDecoder(shared=True), noise(1, 4, 9, 2, 2))
    assert [check.name for check in found.failed] == ["state kept apart"]
    words = "state kept apart: it is shared: what two decoded in turns give differs by up to 0."
    assert found.verdict[0].startswith(words)
    assert found.verdict[1] == "Once that is mended:"
    assert found.verdict[2].startswith("Stream it with chunks of 1")
    assert repr(found).startswith("<Anatomy of memory: state kept apart: ")
    assert document_of(found).text() == anatomy_document(found).text()


class Planted(NearestDecoder):
    """A decoder with one fault, at the third latent and later."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def decode_chunk(self, state, start, stop):
        made = super().decode_chunk(state, start, stop)
        return self.fault(made) if start >= 2 else made


FAULTS = {
    "not finite": (lambda made: made / 0.0, "chunks of 1", "values are NaN or inf"),
    "range": (lambda made: made * 2, "chunks of 1", r"values are -2 to 1\.9\d*, out of \[-1, 1"),
    "short": (lambda m: m[:, :, 1:], "chunks of 1", r"frames 2 to 2: gives .*3, 3, 16, 16.* not "),
    "long": (lambda m: pad(m, (0, 0, 0, 0, 0, 1)), "chunks of 1", r"gives \[1, 3, 5, 16, 16\]"),
    "small": (lambda made: made[..., 1:], "chunks of 1", r"gives \[1, 3, 4, 16, 15\] float32"),
    "dtype": (lambda made: made.double(), "chunks of 1", "float64 cpu, not .* float32 cpu"),
    "random": (lambda made: torch.rand_like(made), "same twice", "two decodes differ by up to"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name):
    fault, check, words = FAULTS[name]
    decoder = Planted(fault)
    if name == "random":
        decoder.decode_chunk = lambda state, start, stop: torch.rand(
            1, 3, 4 * (stop - start) if start else 1, 16, 16
        )
    found = probe(decoder, noise(1, 4, 9, 2, 2))
    failed = {one.name: one.detail for one in found.failed}
    assert re.search(words, failed[check]), failed
    assert found.verdict[0].startswith(found.failed[0].name)


def test_nan_is_that_and_nothing_else():
    found = probe(Planted(lambda made: made * torch.nan), noise(1, 4, 9, 2, 2))
    assert [one.name for one in found.failed] == [f"chunks of {size}" for size in (1, 2, 4)]
    whole = partial(torch.full, fill_value=torch.nan, dtype=torch.float64)
    latents = noise(1, 4, 9, 2, 2)
    found = probe(whole=lambda z: whole((1, 3, z.shape[2], 4, 4)), latents=latents)
    assert [one.name for one in found.failed] == ["finite and in range"]
    assert found.verdict[1:] == ["What depends on what cannot be told."]


def test_latents_that_are_written_to_are_found():
    class InPlace(NearestDecoder):
        def begin(self, latents):
            return super().begin(latents.mul_(0.5))

    latents = noise(1, 4, 9, 2, 2)
    before = latents.clone()
    (wrong,) = probe(InPlace(), latents).failed
    assert wrong.name == "latents left alone" and torch.equal(latents, before)


def test_what_is_no_tensor_is_named():
    class Nothing(NearestDecoder):
        def decode_chunk(self, state, start, stop):
            super().decode_chunk(state, start, stop)

    with pytest.raises(TypeError, match="returned NoneType for latent frames 0 to 0, not a tensor"):
        probe(Nothing(), noise(1, 4, 9, 2, 2))
    for path in (decode_sync, decode_async):
        with pytest.raises(
            ValueError, match=r"returned NoneType for .* expected \(1, 3, 1, 16, 16"
        ):
            path(Nothing(), noise(1, 4, 9, 2, 2).float(), NullSink(), progress=False)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"target_db": math.nan}, ValueError, "target_db is nan; give decibels above 0"),
        ({"chunk_sizes": (1, 0)}, ValueError, "chunk size 0 is none; use 1 or more"),
        ({"latents": torch.zeros(2, 4, 5, 2, 2)}, ValueError, "axis 0 has to be 1, one video"),
        ({"decoder": NearestDecoder}, TypeError, r"is a class; give a decoder, as Nearest\w+\(\)"),
    ],
)
def test_what_cannot_be_probed(given, error, words):
    with pytest.raises(error, match=words):
        probe(**{"decoder": NearestDecoder(), **given})


def test_faults_of_optional_members():
    class Into(NearestDecoder):
        def decode_into(self, state, start, stop, out):
            made = self.decode_chunk(state, start, stop)
            out.copy_((made[0].permute(1, 2, 3, 0) * 127.5 + 127.5).to(torch.uint8))  # cut off
            return torch.tensor(False)

    class Ends(NearestDecoder):
        def end(self, state):
            raise RuntimeError("freed twice")

    class Plans(NearestDecoder):
        def plan(self, latents, chunk_size):
            count = latents.shape[2]
            if chunk_size < count:
                return [(0, 1, 1), (2, count, 8)]
            return [(0, count, 4 * count - 3)]

    class Ignores(NearestDecoder):
        def decode_chunk(self, state, start, stop):
            return super().decode_chunk(state * 0, start, stop)

    def failed(decoder):
        return {one.name: one.detail for one in probe(decoder, noise(1, 4, 5, 2, 2)).failed}

    assert re.fullmatch(r"\d+ bytes are not those of decode_chunk", failed(Into())["decode_into"])
    with pytest.raises(RuntimeError, match="freed twice"):
        probe(Ends(), noise(1, 4, 5, 2, 2))
    assert "(2, 5, 8) as chunk 1; it must begin at latent frame 1" in failed(Plans())["chunks of 1"]
    found = probe(Ignores(), noise(1, 4, 5, 2, 2))
    assert found.failed[0].detail == "another latent 1 changes nothing in its own output"
    assert found.causal is None and found.verdict[1] == "What depends on what cannot be told."
    with pytest.raises(ValueError, match="no influence could be measured"):
        plot_anatomy(found)
    assert "|   NO |" in anatomy_document(found).text()


def test_approximate_is_no_fault_if_it_is_said():
    class Blurred(NearestDecoder):
        exact = False

        def decode_chunk(self, state, start, stop):  # what it has of the next ones
            blurred = (
                state.cumsum(2)[:, :, start:stop] * 0.1 + state[:, :, start:stop].mean() * 0.01
            )
            return (
                super().decode_chunk(blurred, 0, stop - start) if start == 0 else self.rest(blurred)
            )

        def rest(self, blurred):
            return super().decode_chunk(torch.cat([blurred[:, :, :1], blurred], 2), 1, None)

    found = probe(Blurred(), noise(1, 4, 9, 2, 2))
    assert not found.failed and all(one.db and one.db > 20 for one in found.streamed)
    assert re.search(r"Chunks of 1 latent: \d\d\.\d dB against the whole\.", found.verdict[0])


def test_images_and_audio_by_chunk():
    class Images(NearestDecoder):
        medium, spatial_factor, temporal_factor = "images", (2, 1), 1

        def decode_chunk(self, state, start, stop):
            return state[start:stop, :3].tanh().repeat_interleave(2, 2)

    class Audio(NearestDecoder):
        medium, temporal_factor, channels, sample_rate = "audio", 64, 2, 16000

        def decode_chunk(self, state, start, stop):
            return state[:, :2, start:stop].tanh().repeat_interleave(64, 2)

        def decode_into(self, state, start, stop, out):
            made = self.decode_chunk(state, start, stop)[0].T
            out.copy_((made * 32767).round())
            return torch.tensor(False)

    images, audio = probe(Images()), probe(Audio())
    assert images.latents == (5, 4, 4, 4) and audio.latents == (1, 4, 41)
    for found, per in ((images, 1), (audio, 64)):
        assert not found.failed and (found.first_units, found.units_per_latent) == (per, per)
        assert found.verdict == ["Stream it with chunks of 1 or more latents: exact."]
        assert found.history.zero == found.look_ahead.zero == 0
    sees = probe(whole=lambda z: (z + z.roll(-1, 2)).tanh(), medium="audio", latents=noise(1, 1, 9))
    ignores = probe(whole=lambda z: z * 0, medium="audio", latents=noise(1, 1, 9))
    rows = anatomies_table([images, sees, ignores]).rows
    shown = [[str(row[name]) for name in ("medium", "causal", "look-ahead")] for row in rows]
    assert shown[0] == ["images", "yes", "0.00"] and shown[2] == ["audio", "None", "None"]
    assert shown[1] == ["audio", "no", "1.00"] and rows[1]["verdict"] == " ".join(sees.verdict)
    assert rows[2]["not kept"].startswith("reads its latents: another latent")


def test_bad_input():
    decoder, whole = NearestDecoder(), torch.tanh
    with pytest.raises(TypeError, match="object is no ChunkDecoder: it lacks name, device"):
        probe(object())
    for given in ({}, {"decoder": decoder, "whole": whole}, {"whole": whole}):
        with pytest.raises(ValueError, match="give a decoder, or whole="):
            probe(**given)
    with pytest.raises(ValueError, match="medium is 'smell'; use one of video, images, audio"):
        probe(whole=whole, latents=noise(1, 4, 5, 2, 2), medium="smell")
    with pytest.raises(ValueError, match=r"latents \[1, 4, 2, 2, 2\]: video needs 3 or more along"):
        probe(decoder, noise(1, 4, 2, 2, 2))
    with pytest.raises(ValueError, match="axis 1 has to be 4 channels"):
        probe(decoder, noise(1, 5, 4, 2, 2))
    with pytest.raises(ValueError, match="all finite"):
        probe(decoder, noise(1, 4, 4, 2, 2) / 0)


def test_wan_by_chunk_and_its_document(tmp_path):
    decoder = WanDecoder(vae("AutoencoderKLWan", base_dim=4, z_dim=4), "thin wan")
    found = probe(decoder, noise(1, 4, 9, 1, 1))
    assert [one.exact for one in found.streamed] == [True] * 3 and not found.failed
    text = anatomy_document(found).text()
    assert "Stream it with chunks of 1 or more latents: exact." in text
    assert "| later output   |" in text and "| chunks of 2 |   exact |" in text
    assert "1 + 4 frames a latent" in text
    (picture,) = (one for one in anatomy_document(found)["anatomy"].parts if hasattr(one, "draw"))
    picture.draw().savefig(tmp_path / "made.png")
    rows = plot_anatomy(probe(whole=partial(decoder.decode_video, before_frame=lambda i: None),
                              latents=noise(1, 4, 9, 1, 1))).vdkit_data  # fmt: skip
    assert {row["panel"] for row in rows} == {"influence", "seam"}


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    size = ["--latents", "random:9x16x16"]
    assert main(["probe", "tiny-wan", *size, "--picture", "p.png"]) == 0
    said = capsys.readouterr().out
    assert "in float64" in said and "Stream it with chunks of 1" in said
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "mine_of_probe.py").write_text(
        "from tests.helpers import NearestDecoder\n"
        "class Loud(NearestDecoder):\n"
        "    def decode_chunk(self, *a): return super().decode_chunk(*a) * 3\n"
    )
    assert main(["probe", "mine_of_probe:Loud", *size, "--json"]) == 1
    made = json.loads(capsys.readouterr().out)
    range_said, once, chunks_said = made["verdict"]  # and chunks are compared all the same
    assert once == "Once that is mended:"
    assert made["causal"] and "out of [-1, 1]" in range_said
    assert chunks_said == "Stream it with chunks of 1 or more latents: exact."
    assert made["seams"] == [] or made["checks"][0]["ok"] is False
    assert main(["probe", "mine_of_probe:Nope"]) == 2
    assert "give MODULE:NAME" in capsys.readouterr().err
    assert main(["probe", "tiny-wan", "--picture", "p.gif"]) == 2


def test_float32_and_fast(tmp_path):
    decoder = load_decoder("tiny-wan", "cpu", "float32", "fast")
    found = probe(decoder, noise(1, 16, 5, 1, 1))
    assert not found.failed and "decode_into" in [check.name for check in found.checks]


@pytest.mark.parametrize(
    ("name", "growth"),
    [("AutoencoderKLHunyuanVideo15", 2 * 16 * 6 * 4), ("AutoencoderKLQwenImage", 0)],
)
def test_what_is_remembered_is_counted(name, growth):
    """HunyuanVideo 1.5: keys and values of 16 channels at 2x3 places in float32, a latent."""
    decoder = load_decoder({"_class_name": name, **CONFIGS[name]}, "cpu", "float32")
    attention = [m for m in decoder.model.decoder.modules() if "AttnBlock" in type(m).__name__]
    found = probe(decoder, latents_of(decoder, 11), chunk_sizes=(2, 1))
    assert found.state_chunk == 2 and len(found.state_bytes) == 6
    assert found.state_growth == 2 * growth and found.state_bytes[-1] > 10_000
    words = f"{2 * growth:,} bytes more with every chunk" if growth else "of any length"
    assert f"{found.state_bytes[-1]:,} bytes at the end in chunks of 2, {words}" in (
        anatomy_document(found).text()
    )
    if growth:
        assert attention[0].to_k.out_channels == 16


def test_a_decoder_that_remembers_nothing_of_its_own():
    found = probe(NearestDecoder(), latents_for(NearestDecoder(), 9))
    assert set(found.state_bytes) == {0}
