"""The decoder written again gives diffusers' frames: any size, length, chunk size and precision."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers import Collect
from vdkit import DecodeConfig, decode_async, decode_sync, load_decoder
from vdkit.decode import frames_to_uint8
from vdkit.measure.profiler import count_flops
from vdkit.models.fast import Convolution, PlainPasses, Space, Work, why_plain
from vdkit.models.fast.decoder import FastWanDecoder
from vdkit.models.wan import WanDecoder, known_faults

SMALL = {
    16: {"base_dim": 16, "z_dim": 16, "num_res_blocks": 1},
    48: {
        "base_dim": 16, "decoder_base_dim": 32, "z_dim": 48, "num_res_blocks": 1,
        "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2,
        "scale_factor_spatial": 16,
    },
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def random_vae(channels, **thinner):
    """Small, but of the real architecture; gains and biases are random too, not 1 and 0."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        vae = AutoencoderKLWan(**SMALL[channels] | thinner)
        for name, parameter in vae.decoder.named_parameters():
            if name.endswith(("gamma", "bias")):
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return vae


@pytest.fixture(scope="module", params=[16, 48])
def pair(request):
    vae = random_vae(request.param)
    return WanDecoder(vae, "stock"), FastWanDecoder(vae, "fast")


def noise(decoder, frames, height, width, seed=0):
    shape = (1, decoder.latent_channels, frames, height, width)
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return made.to(decoder.dtype)


@torch.inference_mode()
def frames_of(decoder, latents, chunk_size):
    state = decoder.begin(latents)
    made = [decoder.decode_chunk(state, 0, 1)]
    count = latents.shape[2]
    for start in range(1, count, chunk_size):
        made.append(decoder.decode_chunk(state, start, min(start + chunk_size, count)))
    return torch.cat(made, 2)


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 3, 5), (2, 1, 1), (5, 4, 6), (6, 3, 4)]
)
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4])
def test_the_frames_are_those_of_diffusers(pair, frames, height, width, chunk_size):
    latents = noise(pair[0], frames, height, width)
    expected, made = (frames_of(decoder, latents, chunk_size) for decoder in pair)
    assert made.shape == expected.shape and made.dtype == expected.dtype
    assert (made - expected).abs().max() < 2e-5


@pytest.mark.parametrize("chunk_size", [1, 4])
def test_the_frames_are_those_of_a_whole_decode(pair, chunk_size):
    stock, fast = pair
    latents = noise(stock, 6, 3, 4)
    with torch.inference_mode():
        whole = stock.decode_video(latents, lambda index: None)
    assert (frames_of(fast, latents, chunk_size) - whole).abs().max() < 2e-5


def test_chunk_sizes_agree_within_one_level(pair):
    _, fast = pair
    latents = noise(fast, 6, 3, 4)
    pixels = [frames_to_uint8(frames_of(fast, latents, size)).int() for size in (1, 2, 4)]
    assert all((other - pixels[0]).abs().max() <= 1 for other in pixels[1:])


def test_two_videos_in_turns_do_not_disturb_each_other(pair):
    _, fast = pair
    videos = [noise(fast, 5, 3, 4, seed) for seed in (0, 1)]
    alone = [frames_of(fast, video, 2) for video in videos]
    with torch.inference_mode():
        states = [fast.begin(video) for video in videos]
        turns = [[], []]
        for start, stop in ((0, 1), (1, 3), (3, 5)):
            for state, made in zip(states, turns, strict=True):
                made.append(fast.decode_chunk(state, start, stop))
    for made, expected in zip(turns, alone, strict=True):
        assert torch.equal(torch.cat(made, 2), expected)


def test_another_thread_waits_while_one_prepares(pair, monkeypatch):
    """What it launches would become a part of the plan, and never run."""
    _, fast = pair
    latents = noise(fast, 3, 2, 3)
    expected, made, waits = frames_of(fast, latents, 1), [], threading.Event()
    other = threading.Thread(target=lambda: made.append(frames_of(fast, latents, 1)))

    class Swallowing(PlainPasses):
        def convolve(self, call): ...

    class Watched:
        lock = threading.RLock()

        def __enter__(self):
            if threading.current_thread() is other:
                waits.set()
            return self.lock.__enter__()

        def __exit__(self, *error):
            return self.lock.__exit__(*error)

    @contextmanager
    def planning():
        real, fast._passes = fast._passes, Swallowing()
        other.start()
        assert waits.wait(20) and not made
        yield SimpleNamespace(build=lambda: None)
        fast._passes = real

    monkeypatch.setattr(fast, "_lock", Watched())
    kernels = SimpleNamespace(planning=planning, tune=lambda plan, tune: None)
    monkeypatch.setattr(fast, "kernels", kernels)
    fast.prepare(2, 3, 1)
    other.join()
    assert torch.equal(made[0], expected)


def test_chunks_may_grow_and_shrink(pair):
    latents = noise(pair[0], 9, 3, 4)
    with torch.inference_mode():
        made = []
        for decoder in pair:
            state = decoder.begin(latents)
            cuts = ((0, 1), (1, 2), (2, 6), (6, 7), (7, 9))
            made.append(torch.cat([decoder.decode_chunk(state, *cut) for cut in cuts], 2))
    assert (made[0] - made[1]).abs().max() < 2e-5


@pytest.mark.parametrize(("dtype", "least_db"), [(torch.float16, 60), (torch.bfloat16, 48)])
def test_half_precision_on_the_trained_miniature(dtype, least_db):
    """Against diffusers in float32 on the same weights."""
    exact = load_decoder("tiny-wan", "cpu")
    latents = noise(exact, 3, 4, 6)
    expected = frames_of(exact, latents, 1)
    fast = FastWanDecoder(load_decoder("tiny-wan", "cpu", dtype).vae, "fast")
    made = frames_of(fast, latents.to(dtype), 2)
    assert made.dtype == dtype
    mse = (made.float() - expected).square().mean(dim=(0, 1, 3, 4))  # by frame
    psnr_db = 10 * torch.log10(2.0**2 / mse)  # values span -1 to 1
    assert psnr_db.min() >= least_db, psnr_db


def test_sync_and_async_give_the_same_bytes():
    fast = FastWanDecoder(random_vae(16), "fast")
    latents = noise(fast, 5, 3, 4)
    sinks = [Collect(), Collect()]
    for path, sink in zip((decode_sync, decode_async), sinks, strict=True):
        path(fast, latents, sink, config=DecodeConfig(chunk_size=2), progress=False)
    assert sinks[0].sha256 == sinks[1].sha256 and sinks[0].frames == 17


@pytest.mark.parametrize("chunk", [(0, 2), (1, 2), (0, 0), (0, 9)])
def test_chunks_out_of_order_are_refused(pair, chunk):
    _, fast = pair
    state = fast.begin(noise(fast, 5, 3, 4))
    with pytest.raises(ValueError, match="cannot follow latent frame 0 of 5"):
        fast.decode_chunk(state, *chunk)


def test_a_convolution_after_doubling_is_four_small_ones():
    source = torch.nn.Conv2d(4, 8, 3, padding=1)
    frames = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    expected = source(torch.nn.functional.interpolate(frames, scale_factor=2.0, mode="nearest"))
    bordered = torch.nn.functional.pad(frames, (1, 1, 1, 1))
    for phase, weight in enumerate(Convolution(source).weights):
        y, x = divmod(phase, 2)
        made = torch.nn.functional.conv2d(bordered[:, :, y : y + 4, x : x + 6], weight[:, :, 0])
        made = made + source.bias[:, None, None]
        assert torch.allclose(made, expected[:, :, y::2, x::2], atol=1e-5)


def test_a_ring_keeps_its_past_when_it_grows():
    convolution, cpu = Convolution(torch.nn.Conv3d(1, 1, (3, 1, 1))), torch.device("cpu")
    space = Space(cpu, torch.float32)
    for clock, frames in ((0, 1), (1, 1), (2, 3), (5, 1), (6, 2)):
        step = Work(PlainPasses(), space, clock, 1, 0, frames)
        ring = space.ring(convolution, step, (1, 1))
        past = [number for number in (clock - 2, clock - 1) if number >= 0]
        held = ring.inner()[ring.numbers(step, -2, 2)].flatten().tolist()
        assert held[2 - len(past) :] == past
        for number, slot in enumerate(ring.numbers(step, 0, frames), clock):
            ring.inner()[slot] = number
    assert len(ring.data) == 5 and space.nbytes == ring.data.nbytes


def test_pixels_written_at_once_are_the_same_bytes(pair):
    _, fast = pair
    latents = noise(fast, 4, 2, 3)
    expected, state = frames_to_uint8(frames_of(fast, latents, 2)), fast.begin(latents)
    outs = []
    for start, stop in ((0, 1), (1, 3), (3, 4)):
        frames = 4 * (stop - start) if start else 1
        outs.append(torch.empty(frames, *expected.shape[1:], dtype=torch.uint8))
        fast.decode_into(state, start, stop, outs[-1])
    assert torch.equal(torch.cat(outs), expected)
    with pytest.raises(ValueError, match="contiguous uint8"):
        fast.decode_into(fast.begin(latents), 0, 1, torch.empty(1, 16, 24, 3))


def test_it_says_that_it_runs_without_kernels(pair):
    assert pair[1].notes == ("fast decoder in plain torch: its kernels need CUDA, this is cpu",)


def test_its_memory_is_known_before(pair, monkeypatch):
    """The estimate is what a steady chunk takes, without taking it; more where norms are apart."""
    _, fast = pair
    latents = noise(fast, 3, 3, 4)
    estimate = fast.working_bytes(2, 3, 4)
    state = fast.begin(latents)
    fast.decode_chunk(state, 0, 1)
    frames = fast.decode_chunk(state, 1, 3)
    assert estimate == state.space.nbytes + frames.nbytes
    monkeypatch.setattr(PlainPasses, "fuses", lambda passes, call: False)
    assert fast.working_bytes(2, 3, 4) > estimate


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 2), (1, 4)])
def test_its_operations_are_counted_as_torch_would(pair, start, stop):
    _, fast = pair
    state = fast.begin(noise(fast, 4, 3, 4))
    if start:
        fast.decode_chunk(state, 0, 1)
    with FlopCounterMode(display=False) as counter:
        fast.decode_chunk(state, start, stop)
    # A CPU's attention is one that the counter does not know: two products of [12, C] by [C, 12].
    channels = len(fast._network._attention.gain)
    attention = 4 * (stop - start) * 12 * 12 * channels
    assert fast.chunk_flops(start, stop, 3, 4) == counter.get_total_flops() + attention


def test_the_profile_takes_the_decoders_own_count(pair):
    _, fast = pair
    counts = count_flops(fast, noise(fast, 6, 3, 4), 2)
    assert counts == [fast.chunk_flops(*span, 3, 4) for span in ((0, 1), (1, 3), (3, 5), (5, 6))]
    assert counts[1] == counts[2] > counts[3] > counts[0]


@pytest.mark.parametrize(
    ("torch_version", "cudnn", "dtype", "said"),
    [
        ("2.13.0", 90900, torch.bfloat16, "cuDNN 90900 gives wrong convolutions"),
        ("2.9.0+cu130", 91900, torch.float16, "torch 2.9.0 does not use cuDNN"),
        ("2.13.0", 90900, torch.float16, None),
        ("2.13.0", 91100, torch.bfloat16, None),
        ("2.9.0", None, torch.bfloat16, None),
    ],
)
def test_known_faults_are_named(torch_version, cudnn, dtype, said):
    notes = known_faults(torch_version, cudnn, dtype)
    assert (said in notes[0]) if said else notes == ()


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "channels", "said"),
    [
        ("cuda", torch.float16, (7, 5), 96, "this is 7.5"),
        ("cuda", torch.float16, (8, 6), 96, None),
        ("cuda", torch.float32, (9, 0), 96, "this is float32"),
        ("cuda", torch.float16, (9, 0), 12, "multiples of 16 channels, not 12"),
        ("cuda", torch.float16, (12, 0), 96, None),
        ("cpu", torch.float16, None, 96, "this is cpu"),
    ],
)
def test_it_says_why_it_has_no_kernels(monkeypatch, device, dtype, capability, channels, said):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("vdkit.models.fast.find_spec", lambda name: True)
    reason = why_plain(torch.device(device), dtype, [16, channels])
    assert (said in reason) if said else reason is None


def test_it_says_that_triton_is_missing(monkeypatch):
    monkeypatch.setattr("vdkit.models.fast.find_spec", lambda name: None)
    assert why_plain(torch.device("cuda"), torch.float16, [16]) == "Triton is not installed"


def test_what_begins_no_video_is_refused(pair):
    _, fast = pair
    latents = noise(fast, 2, 3, 4)
    for wrong in (latents[0], latents.repeat(2, 1, 1, 1, 1), latents[:, :-1], latents.half()):
        with pytest.raises(ValueError, match=r"is needed$"):
            fast.begin(wrong)


def test_pixels_cannot_go_to_another_device(pair):
    _, fast = pair
    state = fast.begin(noise(fast, 1, 2, 2))
    side = 2 * fast.spatial_factor
    out = torch.empty(1, side, side, 3, dtype=torch.uint8, device="meta")
    with pytest.raises(ValueError, match=r"on meta; contiguous uint8 .* on cpu is needed"):
        fast.decode_into(state, 0, 1, out)
    assert state.next_start == 0


def test_preparing_for_nothing_is_refused(pair):
    with pytest.raises(ValueError, match="latents of 4x6 in chunks of 0: use 1 or more"):
        pair[1].prepare(4, 6, 0)


def test_only_chunks_that_come_again_are_recorded(monkeypatch):
    """Which chunks become CUDA graphs; what a graph does is left to a GPU."""
    fast, recorded, replayed = FastWanDecoder(random_vae(16), "fast"), [], []

    class Graph:
        def replay(self):
            replayed.append(self)

    @contextmanager
    def graph(made, capture_error_mode):
        recorded.append(made)
        yield

    monkeypatch.setattr(fast, "_graphs", True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    latents = noise(fast, 8, 2, 2)
    for videos in (1, 2, 3):  # chunks of 1, 2, 2, 2 and, short, 1
        frames_of(fast, latents, 2)
        assert len(recorded) == 1 and len(replayed) == 3 * videos - 1
    frames_of(fast, latents, 3)  # larger buffers void what was recorded
    state = fast.begin(latents)
    assert set(state.space.graphs) == {(3, torch.float32)} and len(recorded) == 2
