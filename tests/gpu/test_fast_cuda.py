"""The fast decoder's kernels on a GPU: exact, whatever the size, and nothing done twice."""

import threading
from contextlib import contextmanager

import pytest
import torch
from diffusers import AutoencoderKLWan

from tests.cpu.test_wan_fast import frames_of, noise, random_vae
from tests.helpers import Collect
from vdkit import DecodeConfig, decode_async, decode_sync, load_decoder
from vdkit.decode import frames_to_uint8
from vdkit.models.fast import Frames, tiles
from vdkit.models.fast.checked import CheckedFastDecoder
from vdkit.models.fast.decoder import FastWanDecoder
from vdkit.models.wan import WanDecoder

LEAST_DB = {torch.float16: 60, torch.bfloat16: 48}

needs_kernels = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0),
    reason="the kernels need compute capability 8.0",
)
pytestmark = needs_kernels


def pair(vae, dtype, kernels=True):
    """diffusers in float32, and the fast decoder in ``dtype`` on the same weights, rounded."""
    exact = WanDecoder(vae.to("cuda", torch.float32), "stock")
    half = AutoencoderKLWan.from_config(vae.config)
    half.load_state_dict(vae.state_dict())
    return exact, FastWanDecoder(half.to("cuda", dtype), "fast", kernels)


def psnr_db(made, exact):
    return (10 * torch.log10(4 / (made.float() - exact).square().mean())).item()


def on_gpu(decoder, *shape, seed=0):
    return noise(decoder, *shape, seed=seed).cuda()


@pytest.fixture(scope="module", params=[16, 48])
def small(request):
    with torch.inference_mode(False):
        return random_vae(request.param)


@pytest.mark.parametrize("dtype", LEAST_DB)
@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 3, 5), (2, 2, 3), (5, 4, 6), (9, 7, 5)]
)
def test_the_frames_are_those_of_diffusers(small, dtype, frames, height, width):
    exact, fast = pair(small, dtype)
    latents = on_gpu(exact, frames, height, width)
    expected = frames_of(exact, latents, 1)
    levels = []
    for chunk_size in (1, 2, 3, 4):
        made = frames_of(fast, latents.to(dtype), chunk_size)
        assert made.shape == expected.shape and made.dtype == dtype
        assert psnr_db(made, expected) >= LEAST_DB[dtype]
        levels.append(frames_to_uint8(made).int())
    assert not fast.notes
    assert all((other - levels[0]).abs().max() <= 1 for other in levels[1:])


@pytest.mark.parametrize("dtype", LEAST_DB)
def test_the_trained_miniature(dtype):
    exact = load_decoder("tiny-wan", "cuda", "float32")
    fast = FastWanDecoder(load_decoder("tiny-wan", "cuda", dtype).vae, "fast")
    latents = on_gpu(exact, 9, 12, 20)
    made = frames_of(fast, latents.to(dtype), 2)
    assert psnr_db(made, frames_of(exact, latents, 1)) >= LEAST_DB[dtype]


@pytest.mark.parametrize("dtype", LEAST_DB)
@pytest.mark.parametrize("source", ["wan2.1", "wan2.2"])
def test_the_real_architectures(source, dtype):
    exact = load_decoder(source, "cuda", "float32")
    latents = on_gpu(exact, 5, 16, 21)
    expected = frames_of(exact, latents, 1)
    del exact
    fast = FastWanDecoder(load_decoder(source, "cuda", dtype).vae, "fast")
    made = [frames_of(fast, latents.to(dtype), size) for size in (1, 2, 4)]
    assert min(psnr_db(one, expected) for one in made) >= LEAST_DB[dtype]
    levels = [frames_to_uint8(one).int() for one in made]
    assert all((other - levels[0]).abs().max() <= 1 for other in levels[1:])


@pytest.mark.parametrize("dtype", LEAST_DB)
@pytest.mark.parametrize("capability", [(12, 0), (8, 6), (8, 0)])
@pytest.mark.parametrize("source", ["wan2.1", "wan2.2"])
def test_what_is_cut_for_other_gpus_is_right_here(source, capability, dtype):
    exact = load_decoder(source, "cuda", "float32")
    latents = on_gpu(exact, 5, 16, 21)
    expected = frames_of(exact, latents, 1)
    del exact
    fast = FastWanDecoder(load_decoder(source, "cuda", dtype).vae, "fast")
    fast.kernels.choices.gpu = tiles.Gpu("another", capability, 101376)
    for size in (1, 2):
        made = frames_of(fast, latents.to(dtype), size)
        assert psnr_db(made, expected) >= LEAST_DB[dtype]


@pytest.mark.parametrize("source", ["wan2.1", "wan2.2"])
def test_what_is_tuned_is_right_and_kept(source, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tiles, "_WORTH_FLOPS", 0)
    decoders = []
    for tune in ("force", "auto"):
        vae = load_decoder(source, "cuda", "float16").vae
        decoders.append(CheckedFastDecoder(vae, "fast", tune))
        decoders[-1].prepare(6, 8, 1)
    tuned, later = (decoder.kernels.choices.taken for decoder in decoders)
    assert tuned and len(list((tmp_path / "vdkit/tiles").iterdir())) == len(tuned)
    assert later.items() <= tuned.items() and decoders[0].variant == "fast"


@pytest.mark.parametrize("table", [(9, 0), (8, 6)])
def test_a_wrong_cut_never_makes_a_picture(small, table, monkeypatch):
    stock, _ = pair(small, torch.float16)
    usual = tiles.usual

    def shallow(shape, gpu):
        """Leaves out all input channels but the first few."""
        right = usual(shape, gpu)
        return tiles.Cut(right.rows, 1 << shape.channels.bit_length(), right.wide, right.narrow)

    monkeypatch.setattr(tiles, "usual", shallow)
    monkeypatch.setattr("vdkit.models.fast.checked.EXACT", ("diffusers", "channels_last"))
    decoder = CheckedFastDecoder(stock.vae.to(torch.float16), "fast", "off")
    decoder.kernels.choices.gpu = tiles.Gpu("another", table, 232448)
    with pytest.warns(UserWarning, match="fast is not used: its frames are wrong here"):
        decoder.prepare(6, 8, 1)
    latents = on_gpu(decoder, 3, 6, 8)
    assert decoder.variant in ("diffusers", "channels_last") and "wrong" in decoder.notes[0]
    assert torch.equal(frames_of(decoder, latents, 1), frames_of(decoder, latents, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_torch_alone_does_the_same(small, dtype):
    exact, plain = pair(small, dtype, kernels=False)
    latents = on_gpu(exact, 5, 4, 6)
    made = frames_of(plain, latents.to(dtype), 2)
    assert psnr_db(made, frames_of(exact, latents, 1)) >= 60
    assert "plain torch" in plain.notes[0]


def test_float32_says_why_it_has_no_kernels(small):
    _, fast = pair(small, torch.float32)
    assert "float16 and bfloat16" in fast.notes[0]


@torch.inference_mode()
def test_two_videos_in_turns_do_not_disturb_each_other(small):
    _, fast = pair(small, torch.float16)
    videos = [on_gpu(fast, 8, 3, 4, seed=seed) for seed in (0, 1)]
    alone = [frames_of(fast, video, 1) for video in videos]
    states = [fast.begin(video) for video in videos]
    turns = [[], []]
    for start in range(8):
        for state, made in zip(states, turns, strict=True):
            made.append(fast.decode_chunk(state, start, start + 1))
    assert all(state.space.graphs for state in states)
    for made, expected in zip(turns, alone, strict=True):
        assert torch.equal(torch.cat(made, 2), expected)


@torch.inference_mode()
def test_pixels_written_at_once_are_the_same_bytes(small):
    _, fast = pair(small, torch.float16)
    latents = on_gpu(fast, 6, 3, 5)
    height, width = 3 * fast.spatial_factor, 5 * fast.spatial_factor
    expected, state = frames_to_uint8(frames_of(fast, latents, 2)), fast.begin(latents)
    outs = []
    for start, stop in ((0, 1), (1, 3), (3, 5), (5, 6)):
        frames = 4 * (stop - start) if start else 1
        outs.append(torch.empty(frames, height, width, 3, dtype=torch.uint8, device="cuda"))
        fast.decode_into(state, start, stop, outs[-1])
    assert torch.equal(torch.cat(outs), expected)
    for wrong in (outs[0].float(), outs[0].cpu()):
        with pytest.raises(ValueError, match="contiguous uint8"):
            fast.decode_into(fast.begin(latents), 0, 1, wrong)


@torch.inference_mode()
def test_a_short_last_chunk_is_not_recorded(small):
    _, fast = pair(small, torch.float16)
    latents = on_gpu(fast, 6, 3, 4)
    fast.prepare(3, 4, 2)
    made = [frames_of(fast, latents, 2) for _ in range(3)]
    assert all(torch.equal(one, made[0]) for one in made[1:])
    state = fast.begin(latents)
    assert set(state.space.graphs) == {(2, torch.float16), (2, torch.uint8)}


@torch.inference_mode()
def test_a_vae_may_be_given_up(small):
    """What load_decoder does: the convolutions move to the host, the frames stay the same."""
    _, fast = pair(small, torch.float16)
    latents, digest = on_gpu(fast, 3, 3, 4), fast.weights_sha256()
    expected = frames_of(fast, latents, 1)
    held = torch.cuda.memory_allocated()
    fast.release_vae()
    assert torch.cuda.memory_allocated() < held
    assert torch.equal(frames_of(fast, latents, 1), expected)
    assert fast.weights_sha256() == digest


@torch.inference_mode()
def test_the_next_video_waits_for_the_last_one_on_another_stream(small):
    _, fast = pair(small, torch.float16)
    videos = [on_gpu(fast, 6, 3, 4, seed=seed) for seed in (0, 1)]
    expected = [frames_of(fast, video, 1) for video in videos]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in videos]
    made = []
    for _ in range(5):
        for video, stream in zip(videos, streams, strict=True):
            with torch.cuda.stream(stream):
                made.append(frames_of(fast, video, 1))
    torch.cuda.synchronize()
    for index, one in enumerate(made):
        assert torch.equal(one, expected[index % 2])


@pytest.mark.parametrize("chunk_size", [1, 2])
def test_sync_and_async_give_the_same_bytes(small, chunk_size):
    _, fast = pair(small, torch.float16)
    latents, sinks = on_gpu(fast, 9, 3, 4), [Collect(), Collect()]
    for path, sink in zip((decode_sync, decode_async), sinks, strict=True):
        path(fast, latents, sink, config=DecodeConfig(chunk_size=chunk_size), progress=False)
    assert sinks[0].sha256 == sinks[1].sha256 and sinks[0].frames == 33


@torch.inference_mode()
def test_what_is_prepared_is_not_done_again(small):
    """After `prepare` a video takes no memory and records no graph."""
    _, fast = pair(small, torch.float16)
    fast.prepare(4, 6, 2)
    latents = on_gpu(fast, 9, 4, 6)
    state = fast.begin(latents)
    graphs = dict(state.space.graphs)
    assert set(graphs) == {(2, torch.float16), (2, torch.uint8)}
    before = torch.cuda.memory_stats()["num_device_alloc"]
    for start, stop in ((0, 1), (1, 3), (3, 5), (5, 7), (7, 9)):
        fast.decode_chunk(state, start, stop)
    assert state.space.graphs == graphs
    assert torch.cuda.memory_stats()["num_device_alloc"] == before


def test_another_thread_decodes_right_while_one_prepares(small, monkeypatch):
    """Neither the plan nor a graph that is recorded swallows what the other one launches."""
    _, fast = pair(small, torch.float16)
    latents = on_gpu(fast, 6, 3, 4)
    expected, made, begun = frames_of(fast, latents, 1), [], threading.Event()
    torch.cuda.synchronize()

    def decode():
        begun.wait()
        with torch.cuda.stream(torch.cuda.Stream()):
            made.extend(frames_of(fast, latents, 1) for _ in range(10))
            torch.cuda.current_stream().synchronize()

    @contextmanager
    def planning():
        with plan() as made:
            begun.set()
            yield made

    plan = fast.kernels.planning
    monkeypatch.setattr(fast.kernels, "planning", planning)
    other = threading.Thread(target=decode)
    other.start()
    for size in ((3, 4), (5, 6)):
        fast.prepare(*size, 2)
    other.join()
    assert len(made) == 10 and all(torch.equal(one, expected) for one in made)
    assert torch.equal(frames_of(fast, latents, 1), expected)


@torch.inference_mode()
def test_the_memory_of_a_video_is_kept_for_the_next(small):
    _, fast = pair(small, torch.float16)
    latents = on_gpu(fast, 3, 3, 4)
    first = frames_of(fast, latents, 1)
    held = torch.cuda.memory_allocated()
    assert torch.equal(frames_of(fast, latents, 1), first)
    assert torch.cuda.memory_allocated() <= held + 2 * first.nbytes


@torch.inference_mode()
def test_a_lost_layout_is_an_error(small, monkeypatch):
    _, fast = pair(small, torch.float16)

    def turned(space, owner, step, size):
        frames = kept(space, owner, step, size)
        return Frames(frames.data.transpose(1, 2), frames.rate)

    kept = type(fast.begin(on_gpu(fast, 2, 3, 4)).space).ring
    monkeypatch.setattr("vdkit.models.fast.Space.ring", turned)
    state = fast.begin(on_gpu(fast, 2, 4, 4))
    with pytest.raises(RuntimeError, match="the kernels need them contiguous"):
        fast.decode_chunk(state, 0, 1)


@pytest.mark.parametrize("chunk_size", [1, 2, 4])
@torch.inference_mode()
def test_its_memory_is_known_before(chunk_size):
    fast = FastWanDecoder(load_decoder("wan2.1", "cuda", "float16").vae, "fast")
    estimate = fast.working_bytes(chunk_size, 30, 52)
    latents = on_gpu(fast, 1 + 2 * chunk_size, 30, 52)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    state = fast.begin(latents)
    for start in (0, 1, 1 + chunk_size):
        fast.decode_chunk(state, start, start + chunk_size if start else 1)
    used = torch.cuda.max_memory_allocated() - before
    assert 0.85 * used <= estimate <= 1.15 * used
