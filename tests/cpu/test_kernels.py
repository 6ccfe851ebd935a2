"""Triton's kernels in its interpreter against torch's operations, and how they are cut."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="needs Triton, which GPU builds bring"
)

PASSES = """
import itertools
import torch
from types import SimpleNamespace
from vdkit.models.fast import Convolution, PlainPasses, Space, Work
from vdkit.models.fast.kernels import KernelPasses

torch.manual_seed(0)
size, cpu = (2, 5), torch.device("cpu")
cases = (
    [torch.nn.Conv3d(*channels, 3) for channels in ((16, 16), (32, 48), (16, 96), (16, 192))]
    + [torch.nn.Conv3d(16, 64, (3, 1, 1)), torch.nn.Conv2d(32, 48, 3), torch.nn.Conv2d(16, 96, 3)]
)
# bfloat16 is left to a GPU: the interpreter's matrix products take its bits for integers.
for source, frames, dtype in itertools.product(cases, (1, 2), (torch.float32, torch.float16)):
    convolution = Convolution(source.to(dtype))
    most = {torch.float32: 1e-5, torch.float16: 4e-3}[dtype]
    norm = SimpleNamespace(gamma=torch.rand(convolution.out), scale=1.0)
    after = Convolution(torch.nn.Conv3d(convolution.out, 16, 3).to(dtype), norm)
    written = frames * (2 if convolution.doubling else 1)
    larger = (2 * size[0], 2 * size[1]) if convolution.enlarging else size
    filling = torch.randn(8, *size, convolution.channels).to(dtype)
    sides = torch.randn(8, *larger, convolution.out).to(dtype)
    kept = []
    for passes in (PlainPasses(), KernelPasses(cpu, [convolution])):
        space = Space(cpu, dtype)
        work = Work(passes, space, clock=3, rate=2, start=1, frames=frames)
        space.control[0] = work.clock
        ring = space.ring(convolution, work, size)
        ring.inner()[:] = filling[: len(ring.data)]
        around = space.scratch("around", written, larger, convolution.out)
        around.inner()[:] = sides[:written]
        summed = space.scratch("sums", written, larger, convolution.out)
        causal = convolution.kernel == (3, 3, 3)
        work.convolve(
            convolution, ring, around=around if causal else None, summed=summed,
            then=None if convolution.doubling else after,
        )
        made = [summed.data.float()]
        if not convolution.doubling:
            made.append(space.ring(after, work, larger).data.float())
        kept.append(made)
    for plain, kernel in zip(*kept, strict=True):
        border = kernel.clone()
        border[:, 1:-1, 1:-1] = 0
        assert not border.any() and plain.any()
        assert (plain - kernel).abs().max() <= most * (1 + plain.abs().max()), source
print("alike")
"""

DECODE = """
import torch
from tests.cpu.test_wan_fast import frames_of, noise, random_vae
from vdkit.decode.pixels import frames_to_uint8
from vdkit.models.wan import WanDecoder
from vdkit.models.fast.decoder import FastWanDecoder
for channels in (16, 48):
    vae = random_vae(channels)
    stock, fast = WanDecoder(vae, "stock"), FastWanDecoder(vae, "fast")
    assert not fast.notes
    latents = noise(stock, 3, 1, 2)
    expected, made = frames_of(stock, latents, 1), frames_of(fast, latents, 2)
    assert (expected - made).abs().max() < 2e-5
    state = fast.begin(latents)
    levels = frames_to_uint8(made)
    for start, stop, frames in ((0, 1, slice(0, 1)), (1, 3, slice(1, 9))):
        out = torch.empty_like(levels[frames])
        fast.decode_into(state, start, stop, out)
        assert torch.equal(out, levels[frames])
print("alike")
"""


@needs_triton
@pytest.mark.parametrize("code", [PASSES, DECODE], ids=["passes", "decoder"])
def test_triton_gives_the_same(code):
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=environment)  # fmt: skip
    assert done.stdout.strip() == "alike", done.stderr


@needs_triton
@pytest.mark.parametrize(
    ("columns", "parts"),
    [(16, (16, 0)), (48, (32, 16)), (96, (64, 32)), (128, (128, 0)), (192, (128, 64)),
     (112, (16, 0)), (256, (128, 0)), (384, (128, 0)), (768, (128, 0)), (1024, (128, 0))],
)  # fmt: skip
def test_columns_are_cut_into_powers_of_two(columns, parts):
    from vdkit.models.fast.kernels import split

    assert split(columns) == parts and columns % sum(parts) == 0
