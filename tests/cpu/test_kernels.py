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
from vdkit.models.fast import Convolution, Copies, PlainPasses, Space, Work
from vdkit.models.fast.kernels import KernelPasses
from vdkit.models.fast.tiles import Gpu, Cut

torch.manual_seed(0)
size, cpu = (2, 5), torch.device("cpu")
pairs = (16, 16), (32, 48), (16, 96), (16, 192), (16, 256)
cases = (
    [torch.nn.Conv3d(*channels, 3) for channels in pairs]
    + [torch.nn.Conv3d(16, 64, (3, 1, 1)), torch.nn.Conv2d(32, 48, 3), torch.nn.Conv2d(16, 96, 3)]
)
# bfloat16 is left to a GPU: the interpreter's matrix products take its bits for integers.
kinds = (torch.float32, torch.float16)
for source, frames, dtype, old in itertools.product(cases, (1, 2), kinds, (False, True)):
    convolution = Convolution(source.to(dtype))
    most = {torch.float32: 1e-5, torch.float16: 4e-3}[dtype]
    norm = SimpleNamespace(gamma=torch.rand(convolution.out), scale=1.0)
    after = Convolution(torch.nn.Conv3d(convolution.out, 16, 3).to(dtype), norm)
    written = frames * (2 if convolution.doubling else 1)
    larger = (2 * size[0], 2 * size[1]) if convolution.enlarging else size
    filling = torch.randn(8, *size, convolution.channels).to(dtype)
    # Around an enlarging one goes a small picture, of more channels or of as many.
    copies, beside = None, (*larger, convolution.out)
    if convolution.enlarging:
        copies = Copies(frames, 2 if frames == 1 else 8, convolution.out, frames - 1)
        beside = (*size, convolution.out * 4 * frames // copies.repeats)
    sides = torch.randn(8, *beside).to(dtype)
    kept = []
    kernels = KernelPasses(None, [convolution])
    if convolution.out == 256:  # in one part, normalized, as tuning may choose
        kernels.choices.of = lambda shape: Cut(64, 16, 256)
    if old:
        kernels.choices.gpu = Gpu("without tensor memory accelerator", (8, 0), 1 << 20)
    for passes in (PlainPasses(), kernels):
        space = Space(cpu, dtype)
        work = Work(passes, space, clock=3, rate=2, start=1, frames=frames)
        space.control[0] = work.clock
        ring = space.ring(convolution, work, size)
        ring.inner()[:] = filling[: len(ring.data)]
        around = space.scratch("around", 2 * written, beside[:2], beside[2])
        around.inner()[:] = sides[: 2 * written]
        summed = space.scratch("sums", written, larger, convolution.out)
        causal = convolution.kernel == (3, 3, 3)
        work.convolve(
            convolution, ring, around=around if causal or copies else None, copies=copies,
            summed=summed, then=None if convolution.doubling else after,
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
from vdkit.decode import frames_to_uint8
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
