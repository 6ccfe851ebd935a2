"""Public decoders chunk by chunk: the frames of their own decode, or as near as they say."""

import json
import math
import weakref
from contextlib import nullcontext
from functools import cache

import pytest
import torch

from tests.helpers import Collect
from tests.zoo import CONFIGS, driven, latents_of, streamed
from vdkit import (
    decode_async,
    decode_diffusers,
    decode_sync,
    document_of,
    load_decoder,
    run_benchmark,
    run_variants,
)
from vdkit.decode import Traits
from vdkit.decode.chunks import chunks_of
from vdkit.decode.media import MEDIA
from vdkit.models.adapters import ADAPTERS, AudioHalo, Halo
from vdkit.models.loading import ARCHITECTURES, _seeded, medium_of
from vdkit.record.recording import comparable

pytestmark = pytest.mark.usefixtures("one_thread")
EXACT = [
    name for name in CONFIGS
    if name not in ("AutoencoderKLHunyuanVideo", "AutoencoderOobleck", "DacModel")
    and "LTX" not in name
]  # fmt: skip
HALOS = [name for name in CONFIGS if name not in EXACT and name != "AutoencoderKLHunyuanVideo"]
FLOAT32_INSIDE = "VibeVoiceAcousticTokenizerModel"  # its norms compute so in float64 too


@cache
def decoder_of(name, dtype=torch.float32):
    made = load_decoder({"_class_name": name, **CONFIGS[name]}, "cpu", "float32")
    if dtype == torch.float32:
        return made
    return ADAPTERS[name](torch.nn.Module.to(made.model, dtype), name)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def whole_of(decoder, latents):
    asked = []
    made = decoder.decode_video(latents, asked.append)
    assert asked == [0]
    return made


def decibels(made, whole):
    error = (made - whole).double().square().mean()
    return math.inf if error == 0 else float(10 * torch.log10(4 / error))


def test_every_adapter_is_tried_and_has_what_a_decoder_needs():
    assert set(CONFIGS) == set(ADAPTERS) and set(EXACT) | set(HALOS) < set(ADAPTERS)
    for name in ADAPTERS:
        traits = Traits.of(decoder_of(name))
        assert traits.exact == (name in EXACT), name


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_chunks_are_those_of_the_whole_decode(name, dtype):
    decoder = decoder_of(name, dtype)
    most = {torch.float32: 1e-5, torch.float64: 1e-6 if name == FLOAT32_INSIDE else 1e-12}[dtype]
    for count, sizes in ((1, [1]), (2, [1]), (5, [1, 3]), (6, [2, None])):
        latents = latents_of(decoder, count, seed=count)
        whole = whole_of(decoder, latents)
        assert whole.std() > 0.05, "a flat picture would compare equal for the wrong reason"
        for size in sizes:
            made = streamed(decoder, latents, size)
            assert made.dtype == dtype and made.shape == whole.shape
            apart = (made - whole).abs().max().item()
            assert apart <= most, (count, size, apart)


@pytest.mark.parametrize("name", [n for n in EXACT if n not in ("AutoencoderKL", "AutoencoderDC")])
def test_a_later_chunk_depends_on_what_is_remembered(name):
    """Else the test above would hold for a decoder that forgets."""
    decoder = decoder_of(name)
    latents = latents_of(decoder, 5)
    other = latents.clone()
    other[:, :, 0] += 1.0
    last, changed = (list(driven(decoder, z, 2))[1] for z in (latents, other))
    assert (last - changed).abs().max() > 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_two_decodes_in_turns(name):
    decoder = decoder_of(name)
    pair = [latents_of(decoder, 6, seed) for seed in (1, 2)]
    alone = [list(driven(decoder, z, 2)) for z in pair]
    turns = zip(*(driven(decoder, z, 2) for z in pair), strict=True)
    for index, both in enumerate(turns):
        for made, expected in zip(both, alone, strict=True):
            assert torch.equal(made, expected[index]), index
    assert (alone[0][0] - alone[1][0]).abs().max() > 1e-3
    whole = whole_of(decoder, pair[0])  # between chunks of another: as ever
    other = driven(decoder, pair[1], 2)
    next(other)
    assert torch.equal(whole_of(decoder, pair[0]), whole)
    assert torch.equal(next(other), alone[1][1])


@pytest.mark.parametrize("name", CONFIGS)
def test_end_frees_and_chunks_come_in_order(name):
    decoder = decoder_of(name)
    latents = latents_of(decoder, 6)
    state = decoder.begin(latents)
    first, second, *_ = decoder.plan(latents, 1)
    for start, stop in (second[:2], (0, 0), (0, 7)):
        with pytest.raises(ValueError, match=r"cannot follow latent position 0 of 6"):
            decoder.decode_chunk(state, start, stop)
    decoder.decode_chunk(state, *first[:2])
    held = [weakref.ref(v) for v in state.memory.values() if isinstance(v, torch.Tensor)]
    decoder.end(state)
    assert not state.memory and state.latents.numel() == 0
    assert not any(ref() is not None for ref in held)
    with pytest.raises(ValueError, match="of 0; chunks are decoded in order"):
        decoder.decode_chunk(state, *second[:2])


def test_plans():
    """CogVideoX's and HunyuanVideo's own batches, whole; of the others what any decoder has."""
    cog, tiles = decoder_of("AutoencoderKLCogVideoX"), decoder_of("AutoencoderKLHunyuanVideo")

    def plan(decoder, count, size):
        return decoder.plan(latents_of(decoder, count), size)

    assert plan(cog, 7, 1) == [(0, 3, 9), (3, 5, 8), (5, 7, 8)]
    assert plan(cog, 6, 2) == [(0, 2, 8), (2, 4, 8), (4, 6, 8)]
    assert plan(cog, 9, 4) == [(0, 3, 9), (3, 7, 16), (7, 9, 8)]
    assert plan(cog, 1, 1) == [(0, 1, 1)] and plan(cog, 4, None) == [(0, 4, 16)]
    assert plan(tiles, 9, 1) == [(0, 4, 13), (4, 7, 12), (7, 9, 8)]
    assert plan(tiles, 11, 6) == [(0, 4, 13), (4, 10, 24), (10, 11, 4)]
    assert plan(tiles, 4, 1) == [(0, 4, 13)]

    class Plain:
        def __init__(self, like):
            for name in (*Traits.__annotations__, "name", "device", "dtype", "latent_channels"):
                if hasattr(like, name):
                    setattr(self, name, getattr(like, name))

        def begin(self, latents): ...
        def decode_chunk(self, state, start, stop): ...

    for name in set(EXACT) - {"AutoencoderKLCogVideoX"}:
        decoder = decoder_of(name)
        for count in (1, 2, 7):
            for size in (1, 2, 3, 9, None):
                latents = latents_of(decoder, count)
                usual = chunks_of(Plain(decoder), latents, size)
                assert chunks_of(decoder, latents, size) == usual, (name, count, size)


@pytest.mark.parametrize("name", HALOS)
def test_a_wider_halo_is_nearer_and_the_widest_exact(name):
    decoder = decoder_of(name)
    kind = type(decoder)
    fixed = {"medium": decoder.medium} if kind is AudioHalo else {}
    fixed["whole"] = decoder._whole.func
    count = 8 if decoder.medium == "video" else 30
    latents = latents_of(decoder, count)
    whole = whole_of(decoder, latents)
    found = []
    for halo in (1, 3, count - 1):
        one = kind(decoder.model, name, halo=halo, **fixed)
        made = streamed(one, latents, 2)
        assert made.shape == whole.shape
        found.append(decibels(made, whole))
    assert found[0] + 6 < found[1] <= found[2] == math.inf, found
    one = kind(decoder.model, name, halo=count, **fixed)
    assert one.plan(latents, None) == decoder.plan(latents, None)
    with pytest.raises(ValueError, match=f"halo is {count}, but there are {count} latents: "):
        one.plan(latents, 1)


def test_a_halo_is_given_where_there_is_one():
    ltx = {"_class_name": "AutoencoderKLLTXVideo", **CONFIGS["AutoencoderKLLTXVideo"]}
    assert load_decoder(ltx, "cpu", halo=5).halo == 5 and load_decoder(ltx, "cpu").halo == 8
    tiles = {"_class_name": "AutoencoderKLHunyuanVideo", **CONFIGS["AutoencoderKLHunyuanVideo"]}
    for source in ("tiny-wan", "thin-flux", tiles):
        with pytest.raises(ValueError, match=r"halo is 5, but .* has none; leave it out"):
            load_decoder(source, "cpu", halo=5)


def test_prepare_states_the_error():
    for name, words in (
        ("AutoencoderOobleck", "signal to noise"),
        ("AutoencoderKLLTX2Video", "PSNR"),
    ):
        decoder = load_decoder({"_class_name": name, **CONFIGS[name]}, "cpu", "float32")
        assert decoder.notes == (
            f"chunks approximate the whole decode, by a halo of {decoder.halo} latents; prepare() "
            "measures how well",
        )
        decoder = type(decoder)(decoder.model, name, halo=2, medium=decoder.medium)
        decoder.prepare(2, 3, 2)
        (note,) = decoder.notes
        stated = float(note.split("latents: ")[1].split(" dB")[0])
        assert f"dB {words} in the worst chunk of 2" in note
        noise = torch.Generator().manual_seed(0)
        shape = (1, decoder.latent_channels, 9, *((2, 3) if decoder.medium == "video" else ()))
        latents = torch.randn(shape, generator=noise)
        whole, worst, at = whole_of(decoder, latents), math.inf, 0
        for made in driven(decoder, latents, 2):
            part = whole[:, :, at : at + made.shape[2]]
            power = part.square().mean() if decoder.medium == "audio" else torch.tensor(4.0)
            worst = min(worst, 10 * math.log10(power / (made - part).square().mean()))
            at += made.shape[2]
        assert stated == pytest.approx(worst, abs=0.06) and 10 < worst < 100
    with pytest.raises(ValueError, match="halo is 0; it counts latents on each side"):
        Halo(decoder.model, name, halo=0)


def test_an_odd_stride_gives_fewer_samples():
    """DAC at 24 kHz: (T * 4 * 5 - 1) * 2 samples here; all of them come, in the right places."""
    decoder = decoder_of("DacModel")
    assert decoder.temporal_factor == 40
    latents = latents_of(decoder, 6)
    assert [units for *_, units in decoder.plan(latents, 2)] == [80, 80, 78]
    assert whole_of(decoder, latents).shape[2] == 238


@pytest.mark.parametrize("count", [4, 5, 7, 8, 9, 12])
def test_tiles_are_diffusers_own(count):
    decoder = decoder_of("AutoencoderKLHunyuanVideo")
    latents = latents_of(decoder, count)
    whole = whole_of(decoder, latents)
    decoder.model.use_framewise_decoding = True
    try:
        own = decoder.model.decode(latents).sample
    finally:
        decoder.model.use_framewise_decoding = False
    for size in (1, 6, None):
        assert torch.equal(streamed(decoder, latents, size), own), size
    assert decibels(own, whole) == math.inf if count == 4 else 5 < decibels(own, whole) < 60


BAD = {
    "audio for video": ("AutoencoderKLQwenImage", (1, 16, 9), "have shape"),
    "video for audio": ("MimiModel", (1, 16, 3, 2, 2), "have shape"),
    "video for images": ("AutoencoderKL", (1, 4, 3, 2, 2), "have shape"),
    "too few channels": ("AutoencoderKLCogVideoX", (1, 12, 3, 2, 2), "12 channels, .* takes 16"),
    "too many channels": ("AutoencoderOobleck", (1, 9, 5), "9 channels, .* takes 8"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_latents(case):
    name, shape, words = BAD[case]
    sink = Collect()
    with pytest.raises(ValueError, match=words):
        decode_async(decoder_of(name), torch.zeros(shape), sink, progress=False)
    assert not sink.chunks


@pytest.mark.parametrize(
    "name", ["AutoencoderKL", "AutoencoderKLCogVideoX", "AutoencoderKLHunyuanVideo15", "MimiModel"]
)
def test_every_path_gives_the_same(name):
    decoder = decoder_of(name)
    latents = latents_of(decoder, 5)
    whole = whole_of(decoder, latents)
    found = []
    for path in (decode_diffusers, decode_sync, decode_async):
        sink = Collect()
        path(decoder, latents, sink, progress=False)
        assert sink.info.medium == decoder.medium
        assert sink.frames == sink.info.frames == whole.shape[MEDIA[decoder.medium].axis]
        found.append(sink.chunks)
    levels = [torch.cat([torch.from_numpy(c).int() for c in chunks]) for chunks in found]
    assert torch.equal(levels[1], levels[2])
    assert (levels[0] - levels[1]).abs().max() <= 1  # rounded sums of another order
    assert levels[0].float().std() > 1


def measured(name, count=8, **options):
    made = decoder_of(name)
    with torch.inference_mode(False):
        return run_benchmark(
            made, latents_of(made, count), lambda label: nullcontext(Collect()), runs=1, warmup=0,
            progress=False, **options,
        )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["AutoencoderKLQwenImage", "AutoencoderKLCosmos", "AutoencoderKLHunyuanVideo15"]
)
def test_a_whole_decode_in_one_call_is_compared_in_decibels(name):
    """It sums in another order, so its bytes may differ by a level: that is no failed check."""
    done = measured(name)
    assert done.frames_identical and done.workload.exact
    whole, *chunked = done.arms.values()
    assert whole.at_once and whole.whole_error is None and not comparable(whole)
    hashes = {arm.frame_sha256 for arm in done.arms.values() if arm.frame_sha256}
    assert len(hashes) == 2, "else there would be nothing to tell apart"
    for arm in chunked[:2]:
        assert 70 < arm.whole_db[1] < arm.whole_db[0] < math.inf
    db, worst = (f"{one:.1f} dB" for one in chunked[0].whole_db)
    told = (
        f"; but for rounding: {db} (PSNR; {worst} in the worst chunk) against the decoder's own who"
    )
    text = document_of(done).text()
    assert (
        told in text
        and told in document_of(done).lead[-1]
        and "Not compared with the whole: diffusers." in text
    )
    assert "approximate" not in text
    without = measured(name, modes=("sync", "async"))
    assert without.base.whole_error is None and "whole decode" not in document_of(without).text()


@pytest.mark.parametrize("name", ["AutoencoderKL", "MimiModel"])
def test_variants_of_another_medium_are_compared_with_float32(name):
    made = decoder_of(name)
    coarse = load_decoder({"_class_name": name, **CONFIGS[name]}, "cpu", "bfloat16")
    with torch.inference_mode(False):
        done = run_variants(
            [("exact", lambda: made), ("coarse", lambda: coarse)],
            lambda decoder: latents_of(decoder, 9), lambda label: nullcontext(Collect()),
            modes=("sync",), runs=1, warmup=0, progress=False, exact=lambda: made,
            families=False,
        )  # fmt: skip
    assert done.psnr_db["exact"] is None and 15 < done.psnr_db["coarse"] < 70
    assert done.psnr_latent_frames == 5
    told, position = ("int16 samples", "latent frames") if name == "MimiModel" else (
        "uint8 images", "latent images")  # fmt: skip
    ratio = "signal to noise" if name == "MimiModel" else "PSNR"
    told += f" against diffusers' in float32 ({ratio}, {position} 0 to 4): exact equal, coarse "
    assert told + f"{done.psnr_db['coarse']:.1f} dB" in document_of(done).text()


@pytest.mark.parametrize("name", ["AutoencoderKL", "AutoencoderKLMochi", "MimiModel"])
def test_folders(name, tmp_path):
    made = decoder_of(name)
    home = tmp_path / "pipeline" / "vae" if name == "AutoencoderKL" else tmp_path / "pipeline"
    fresh = load_decoder({"_class_name": name, **CONFIGS[name]}, "cpu", "float32")
    fresh.model.save_pretrained(home)
    loaded = load_decoder(tmp_path / "pipeline", "cpu")
    assert type(loaded) is type(made) and loaded.name == "pipeline"
    assert loaded.weights_sha256() == fresh.weights_sha256() == made.weights_sha256()
    latents = latents_of(loaded, 3)
    assert torch.equal(streamed(loaded, latents, 1), streamed(made, latents, 1))
    with pytest.raises(ValueError, match=rf"'fast' is Wan's; pipeline \({name}\) has only 'diff"):
        load_decoder(tmp_path / "pipeline", "cpu", variant="fast")
    (weights,) = home.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged or cut short"):
        load_decoder(tmp_path / "pipeline", "cpu")


def test_weights_of_another_model(tmp_path):
    for name, change in (
        ("AutoencoderKL", {"layers_per_block": 3}),
        ("MimiModel", {"num_filters": 8, "num_hidden_layers": 3}),
    ):
        home = tmp_path / name
        load_decoder({"_class_name": name, **CONFIGS[name]}, "cpu").model.save_pretrained(home)
        config = json.loads((home / "config.json").read_text()) | change
        (home / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="do not fit its configuration"):
            load_decoder(home, "cpu")


def test_unknown_classes():
    with pytest.raises(
        ValueError, match="the configuration describes 'VQModel'; vdkit decodes Auto"
    ):
        load_decoder({"_class_name": "VQModel"}, "cpu")


PUBLISHED = {  # latent channels; pixels and frames, or samples, per latent
    "flux": (16, 8, 1), "qwen-image": (16, 8, 4), "cogvideox": (16, 8, 4), "mochi": (12, 8, 6),
    "hunyuanvideo": (16, 8, 4), "hunyuanvideo1.5": (32, 16, 4), "ltx": (128, 32, 8),
    "ltx2": (128, 32, 8), "oobleck": (64, 44100, 2048), "dac": (1024, 44100, 512),
    "mimi": (512, 24000, 1920), "vibevoice": (64, 24000, 3200), "thin-flux": (16, 8, 1),
    "thin-mimi": (64, 24000, 1920),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_architectures_have_the_published_figures(name):
    assert {"wan2.1", "wan2.1-random", "wan2.2", *PUBLISHED} == set(ARCHITECTURES)
    with torch.inference_mode(False), torch.device("meta"):
        model = _seeded(ARCHITECTURES[name])
    decoder = ADAPTERS[type(model).__name__](model, name)
    assert medium_of(ARCHITECTURES[name]) == decoder.medium
    factor = decoder.sample_rate if decoder.medium == "audio" else decoder.spatial_factor
    assert (decoder.latent_channels, factor, decoder.temporal_factor) == PUBLISHED[name]


def test_denormalize_is_the_pipelines_arithmetic():
    flux = decoder_of("AutoencoderKL")
    latents = latents_of(flux, 2)
    scaled = load_decoder(
        {"_class_name": "AutoencoderKL", **CONFIGS["AutoencoderKL"], "scaling_factor": 0.3611,
         "shift_factor": 0.1159}, "cpu",
    )  # fmt: skip
    torch.testing.assert_close(scaled.denormalize(latents), latents / 0.3611 + 0.1159)
    torch.testing.assert_close(flux.denormalize(latents), latents / 0.18215)
    qwen, ltx = decoder_of("AutoencoderKLQwenImage"), decoder_of("AutoencoderKLLTXVideo")
    latents = latents_of(qwen, 2)
    mean, std = (
        torch.tensor(qwen.model.config[f"latents_{kind}"]).view(1, 16, 1, 1, 1)
        for kind in ("mean", "std")
    )
    torch.testing.assert_close(qwen.denormalize(latents), latents * std + mean)
    assert torch.equal(qwen.denormalize(latents)[0], qwen.denormalize(latents[0]))
    latents = latents_of(ltx, 2)
    ltx.model.latents_mean += 0.5
    try:
        torch.testing.assert_close(ltx.denormalize(latents), latents + 0.5)
    finally:
        ltx.model.latents_mean -= 0.5
    audio = decoder_of("MimiModel")
    assert torch.equal(audio.denormalize(latents_of(audio, 2)), latents_of(audio, 2))
