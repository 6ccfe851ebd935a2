"""The tests of the decode paths again, on CUDA; and the order of two streams, which a CPU has not.

What is seen there depends on who is faster, so the GPU is made the slower one by far.
"""

import pytest
import torch

from tests.cpu.test_paths import *  # noqa: F403
from tests.helpers import Collect, NearestDecoder, latents_for
from vdkit import DecodeConfig, NullSink, decode_async, decode_sync
from vdkit.decode.paths import compute_only


class Lingering(NearestDecoder):
    """Keeps the GPU busy for some 20 ms before each chunk; counts the chunks done at each launch.

    Launching a chunk takes the host a fraction of that.
    """

    def __init__(self):
        super().__init__("cuda")
        self.done, self.at_launch = [], []

    def decode_chunk(self, state, start, stop):
        self.at_launch.append(sum(event.query() for event in self.done))
        torch.cuda._sleep(40_000_000)  # clock cycles
        frames = super().decode_chunk(state, start, stop)
        self.done.append(torch.cuda.Event())
        self.done[-1].record()
        return frames


@pytest.mark.parametrize("uint8_on_gpu", [True, False])
def test_a_copy_waits_for_its_decode(uint8_on_gpu):
    """Begun before, it would take what the slot held, two chunks earlier or never written."""
    decoder = Lingering()
    latents = latents_for(decoder, frames=6)
    expected, sink = Collect(), Collect()
    decode_sync(NearestDecoder("cuda"), latents, expected, progress=False)
    config = DecodeConfig(slots=2, uint8_on_gpu=uint8_on_gpu)
    decode_async(decoder, latents, sink, config=config, progress=False)
    assert sink.sha256 == expected.sha256


@pytest.mark.parametrize("path", [decode_async, compute_only])
def test_two_chunks_are_launched_ahead_and_no_more(path):
    decoder = Lingering()
    latents = latents_for(decoder, frames=8)
    for _ in range(2):  # the first time kernels are loaded, which may wait for the device
        decoder.done, decoder.at_launch = [], []
        path(decoder, latents, NullSink(), config=DecodeConfig(slots=8), progress=False)
    assert decoder.at_launch == [0, 0, 1, 2, 3, 4, 5, 6]
