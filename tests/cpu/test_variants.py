"""Every variant of the decoder gives diffusers' frames; the compiled one compiles only at first."""

from types import SimpleNamespace

import pytest
import torch

from tests.cpu.test_wan_fast import frames_of, noise, random_vae
from tests.helpers import Collect
from vdkit import DecodeConfig, decode_async, decode_diffusers, decode_sync, load_decoder
from vdkit.measure.profiler import count_flops
from vdkit.models import VARIANTS
from vdkit.models.fast.decoder import FastWanDecoder
from vdkit.models.wan import ChannelsLastWanDecoder, CompiledWanDecoder, WanDecoder

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (3, 4)


class Backend:
    """Runs what dynamo hands over as it is, and counts how often it is asked to."""

    def __init__(self):
        self.compiled = 0

    def __call__(self, graph, inputs):
        self.compiled += 1
        return graph.forward


@pytest.fixture(scope="module", params=[16, 48])
def stock(request):
    return WanDecoder(random_vae(request.param), "stock")


@pytest.fixture(scope="module")
def made(stock):
    """One decoder of each variant, of the same weights, prepared for chunks of 1 and 2."""
    channels = stock.latent_channels
    decoders = {
        "channels_last": ChannelsLastWanDecoder(random_vae(channels), "made"),
        "compiled": CompiledWanDecoder(random_vae(channels), "made", Backend()),
        "fast": FastWanDecoder(random_vae(channels), "made"),
    }
    for chunk_size in (1, 2):
        decoders["compiled"].prepare(*SIZE, chunk_size)
    return decoders


@pytest.mark.parametrize("variant", ["channels_last", "compiled", "fast"])
@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_the_frames_are_those_of_diffusers(stock, made, variant, chunk_size):
    latents = noise(stock, 6, *SIZE)  # chunks of 2: 1, 2, 2, 1; those of 3 are not compiled
    expected = frames_of(stock, latents, chunk_size)
    frames = frames_of(made[variant], latents, chunk_size)
    assert frames.shape == expected.shape and frames.dtype == expected.dtype
    assert (frames - expected).abs().max() < 2e-5


@pytest.mark.parametrize("variant", ["channels_last", "compiled", "fast"])
def test_two_videos_in_turns_do_not_disturb_each_other(made, variant):
    decoder = made[variant]
    videos = [noise(decoder, 7, *SIZE, seed) for seed in (0, 1)]
    alone = [frames_of(decoder, video, 2) for video in videos]
    turns = [[], []]
    with torch.inference_mode():
        states = [decoder.begin(video) for video in videos]
        for start, stop in ((0, 1), (1, 3), (3, 5), (5, 7)):
            for state, frames in zip(states, turns, strict=True):
                frames.append(decoder.decode_chunk(state, start, stop))
    for frames, expected in zip(turns, alone, strict=True):
        assert torch.equal(torch.cat(frames, 2), expected)


def test_nothing_is_compiled_after_prepare(made):
    """Not in a longer video, at its short last chunk, at other sizes, outside inference mode."""
    decoder = made["compiled"]
    before = decoder._backend.compiled
    assert before == 2
    for frames, chunk_size, size in ((8, 2, SIZE), (5, 1, SIZE), (5, 4, SIZE), (5, 1, (2, 5))):
        frames_of(decoder, noise(decoder, frames, *size), chunk_size)
    state = decoder.begin(noise(decoder, 5, *SIZE))
    for start in range(5):
        decoder.decode_chunk(state, start, start + 1)
    decoder.prepare(*SIZE, 2)
    assert decoder._backend.compiled == before


def test_the_steady_step_is_the_compiled_one():
    decoder = CompiledWanDecoder(random_vae(16), "made", Backend())
    decoder.prepare(*SIZE, 2)
    ((key, step),) = decoder._steps.items()
    calls = []
    decoder._steps[key] = lambda *given: calls.append(1) or step(*given)
    frames_of(decoder, noise(decoder, 8, *SIZE), 2)  # 1, 2, 2, 2, 1
    assert len(calls) == 2 and decoder._backend.compiled == 1


@pytest.mark.parametrize("variant", ["channels_last", "compiled"])
def test_frames_may_be_kept(made, variant):
    """Later chunks do not write into earlier frames."""
    decoder = made[variant]
    latents = noise(decoder, 7, *SIZE)
    with torch.inference_mode():
        state = decoder.begin(latents)
        kept, copies = [], []
        for start in range(7):
            kept.append(decoder.decode_chunk(state, start, start + 1))
            copies.append(kept[-1].clone())
    assert all(torch.equal(one, copy) for one, copy in zip(kept, copies, strict=True))


@pytest.mark.parametrize("variant", ["channels_last", "compiled"])
def test_every_path_gives_the_same_bytes(made, variant):
    decoder = made[variant]
    latents = noise(decoder, 6, *SIZE)
    hashes = set()
    for path in (decode_sync, decode_async):
        sink = Collect()
        path(decoder, latents, sink, config=DecodeConfig(chunk_size=2), progress=False)
        hashes.add(sink.sha256)
    assert len(hashes) == 1
    if not hasattr(decoder, "decode_video"):
        return
    whole = Collect()
    decode_diffusers(decoder, latents, whole, progress=False)
    assert whole.frames == 21


@pytest.mark.parametrize("chunk", [(0, 2), (3, 5), (5, 8)])
def test_chunks_out_of_order_are_refused(made, chunk):
    decoder = made["compiled"]
    state = decoder.begin(noise(decoder, 7, *SIZE))
    done = 0
    for start, stop in ((0, 1), (1, 3), (3, 5)) if chunk == (5, 8) else ():
        decoder.decode_chunk(state, start, stop)
        done = stop
    with pytest.raises(ValueError, match=f"cannot follow latent frame {done} of 7"):
        decoder.decode_chunk(state, *chunk)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_loader_knows_every_variant(variant):
    decoder, stock = load_decoder("tiny-wan", "cpu", None, variant), load_decoder("tiny-wan", "cpu")
    assert (decoder.name, decoder.variant) == ("tiny-wan", variant)
    assert decoder.weights_sha256() == stock.weights_sha256()
    latents = noise(stock, 5, 2, 3)
    assert torch.equal(decoder.denormalize(latents), stock.denormalize(latents))
    expected, frames = (frames_of(one, latents, 2) for one in (stock, decoder))
    assert (frames - expected).abs().max() < 2e-5


def test_channels_last_is_the_layout_of_the_weights():
    vae = load_decoder("tiny-wan", "cpu", None, "channels_last").vae
    for weight in vae.decoder.parameters():
        if weight.dim() == 5:
            assert weight.is_contiguous(memory_format=torch.channels_last_3d)
        if weight.dim() == 4:
            assert weight.is_contiguous(memory_format=torch.channels_last)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="use one of diffusers, channels_last, compiled, fast"):
        load_decoder("tiny-wan", "cpu", None, "turbo")


def test_what_cannot_be_compiled_says_so():
    def broken(graph, inputs):
        raise OSError("no compiler here")

    decoder = CompiledWanDecoder(random_vae(16), "made", broken)
    with pytest.raises(ValueError, match=r"variant 'compiled' cannot be .*no compiler.*C\+\+"):
        decoder.prepare(*SIZE, 1)
    frames_of(decoder, noise(decoder, 3, *SIZE), 1)  # it still decodes, as it is


def test_a_wrong_compilation_is_noticed():
    def wrong(graph, inputs):
        def run(*given):
            frames, *cache = graph.forward(*given)
            return frames, *(entry + 1 for entry in cache)

        return run

    decoder = CompiledWanDecoder(random_vae(16), "made", wrong)
    with pytest.raises(ValueError, match="gives other frames than the same decoder uncompiled"):
        decoder.prepare(*SIZE, 1)
    assert not decoder._steps


def test_operations_are_counted_through_the_compiled_step(stock, made):
    latents = noise(stock, 5, *SIZE)
    expected = count_flops(stock, latents, 1)
    assert count_flops(made["compiled"], latents, 1) == expected


def test_a_compiled_decoder_has_no_whole_video_decode():
    """It would be diffusers' own loop over modules that are not compiled."""
    decoder = CompiledWanDecoder(random_vae(16), "small")
    assert not hasattr(decoder, "decode_video")
    with pytest.raises(TypeError, match="no WholeVideoDecoder: it lacks decode_video"):
        decode_diffusers(decoder, noise(decoder, 2, 2, 2), Collect(), progress=False)


@pytest.mark.parametrize(("device", "warned"), [("cuda", ["slow here"]), ("cpu", [])])
def test_what_is_known_of_a_gpu_is_warned_of(monkeypatch, recwarn, device, warned):
    def made(vae, name):
        return SimpleNamespace(device=torch.device(device), notes=("slow here",))

    monkeypatch.setattr("vdkit.models.fast.checked.CheckedFastDecoder", made)
    load_decoder("tiny-wan", "cpu", variant="fast")
    assert [str(one.message) for one in recwarn if "slow" in str(one.message)] == warned


def test_more_decoders_and_sizes_than_torch_would_recompile():
    """Each has code of its own, so that no limit is reached."""
    limit = 1  # of 8
    backend = Backend()
    decoder = CompiledWanDecoder(random_vae(16), "made", backend)
    with torch._dynamo.config.patch(recompile_limit=limit):
        for width in range(1, limit + 3):
            decoder.prepare(1, width, 1)
    assert backend.compiled == limit + 2
