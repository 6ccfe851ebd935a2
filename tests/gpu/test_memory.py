"""VRAM and pinned memory: flat in the video's length, nothing allocated in the steady state."""

import gc

import pytest
import torch

from tests.helpers import Collect, NearestDecoder, latents_for
from vdkit import DecodeConfig, NullSink, decode_async, decode_sync, load_decoder
from vdkit.decode.job import DecodeOutOfMemory
from vdkit.decode.paths import compute_only


@pytest.fixture
def tiny():
    return load_decoder("tiny-wan", "cuda")


@pytest.mark.parametrize("path", [decode_sync, decode_async, compute_only])
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_memory_is_flat(tiny, path, chunk_size):
    config = DecodeConfig(chunk_size=chunk_size, slots=3)
    peaks, pinned = [], []
    for frames in (9, 41):
        latents = latents_for(tiny, frames=frames, height=32, width=32)
        result = path(tiny, latents, NullSink(), config=config, progress=False)
        moved = latents.numel() * tiny.dtype.itemsize  # the latents themselves
        peaks.append(result.vram_peak_bytes - moved)
        pinned.append(result.pinned_bytes)
    assert abs(peaks[1] - peaks[0]) <= 0.01 * peaks[0]
    assert pinned[0] == pinned[1]


@pytest.mark.parametrize("path", [decode_async, compute_only])
def test_no_device_allocation_in_the_steady_state(tiny, path):
    """From an empty cache the allocator may be one block short, in the first run or the second."""
    torch.cuda.empty_cache()
    latents = latents_for(tiny, frames=21, height=32, width=32)
    found = [path(tiny, latents, NullSink(), progress=False) for _ in range(4)]
    mallocs = [result.device_mallocs_steady for result in found]
    assert sum(mallocs[:2]) <= 1 and mallocs[2:] == [0, 0]


def test_ring_is_what_it_says(tiny):
    gc.collect()
    before = torch.cuda.memory_allocated()
    latents = latents_for(tiny, frames=5, height=32, width=32)
    result = decode_async(tiny, latents, NullSink(), config=DecodeConfig(slots=4), progress=False)
    assert result.ring_bytes == result.pinned_bytes == 4 * 4 * 256 * 256 * 3
    gc.collect()
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("fail", ["decoder", "sink"])
def test_failure_gives_the_memory_back(fail):
    decoder = NearestDecoder("cuda", fail_at=5 if fail == "decoder" else None)
    sink = Collect(fail="write" if fail == "sink" else None, at=4)
    latents = latents_for(decoder, frames=12, height=32, width=32)
    gc.collect()
    before = torch.cuda.memory_allocated()
    pinned = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    inputs = latents.numel() * 4  # the decoder's own frames, in the traceback, hold their input
    try:
        decode_async(decoder, latents, sink, progress=False)
    except (RuntimeError, OSError):
        gc.collect()
        assert torch.cuda.memory_allocated() - before <= (inputs if fail == "decoder" else 0)
        assert torch.cuda.host_memory_stats()["allocated_bytes.current"] == pinned
    else:
        pytest.fail("nothing failed")


@pytest.mark.parametrize("path", [decode_sync, decode_async])
def test_real_out_of_memory(path):
    """wan2.1 with under 1 GB left on the device: it does not fit, the message says what would."""
    decoder = load_decoder("wan2.1", "cuda")
    latents = latents_for(decoder, frames=9, height=60, width=104)
    gc.collect()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    occupied = torch.empty(free - 900_000_000, dtype=torch.uint8, device="cuda")
    with pytest.raises(DecodeOutOfMemory, match="chunk_size 1: 1 slots") as caught:
        path(decoder, latents, Collect(), config=DecodeConfig(chunk_size=4), progress=False)
    message = str(caught.value)
    assert "does not fit" in message and "GiB free" in message
    small = latents[:, :, :3, :8, :8]
    path(decoder, small, Collect(), progress=False)
    del occupied
    torch.cuda.empty_cache()  # or the next model is put into the middle of it


@pytest.mark.parametrize("chunk_size", [1, 2, 4])
@pytest.mark.parametrize("source", ["wan2.1", "wan2.2"])
def test_estimate_against_the_real_peak(source, chunk_size):
    """What an out-of-memory message promises must not be far from what a decode takes."""
    decoder = load_decoder(source, "cuda")
    factor = decoder.spatial_factor
    height, width = 480 // factor, 832 // factor
    weights = torch.cuda.memory_allocated()
    latents = latents_for(decoder, frames=1 + 2 * chunk_size, height=height, width=width)
    config = DecodeConfig(chunk_size=chunk_size, slots=1)
    result = compute_only(decoder, latents, config=config, progress=False)
    real = result.vram_peak_bytes - weights - result.ring_bytes
    estimate = decoder.working_bytes(chunk_size, height, width)
    print(
        f"{source} chunk {chunk_size}: peak {real / 2**30:.2f}, estimate {estimate / 2**30:.2f} GiB"
    )
    assert 0.9 * real <= estimate <= 1.5 * real
