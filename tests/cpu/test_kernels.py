"""The fused passes: in torch against their definition, in Triton's interpreter against torch."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from vdkit.models.kernels import add_norm


@pytest.mark.parametrize("parts", [(), ("bias",), ("around",), ("bias", "around")])
@pytest.mark.parametrize("activate", [True, False])
def test_it_is_what_it_says(parts, activate):
    draw = torch.Generator().manual_seed(0)
    frames, around = torch.randn(2, 2, 3, 4, 5, generator=draw)
    bias, gain = torch.randn(2, 5, generator=draw)
    summed, out = torch.empty_like(frames), torch.empty_like(frames)
    given = {"bias": bias, "around": around}
    made = add_norm(frames, gain, out, summed=summed, activate=activate,
                    **{part: given[part] for part in parts})  # fmt: skip
    total = frames + sum(given[part] for part in parts)
    expected = total / total.square().sum(-1, keepdim=True).sqrt() * gain
    expected = expected * torch.sigmoid(expected) if activate else expected
    assert made is out and torch.allclose(out, expected, atol=1e-6)
    assert torch.allclose(summed, total)


def test_nothing_divides_by_zero():
    zeros = torch.zeros(1, 1, 1, 4)
    assert torch.equal(add_norm(zeros, torch.ones(4), torch.ones(1, 1, 1, 4)), zeros)


COMPARE = """
import torch
from vdkit.models.kernels import add_norm
draw = torch.Generator().manual_seed(0)
for dtype, most in ((torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)):
    for channels in (3, 16, 96, 384):
        shape = (2, 3, 5, channels)
        frames, around = (torch.randn(shape, generator=draw).to(dtype) for _ in range(2))
        bias, gain = torch.randn(channels, generator=draw).to(dtype), torch.rand(channels)
        for given in ({}, {"bias": bias}, {"around": around}, {"bias": bias, "around": around}):
            for activate in (True, False):
                made = []
                for kernels in (False, True):
                    out, summed = torch.zeros_like(frames), torch.zeros_like(frames)
                    add_norm(frames, gain, out, summed=summed, activate=activate, kernels=kernels,
                             **given)
                    made.append((out.float(), summed.float()))
                for plain, fused in zip(*made):
                    assert (plain - fused).abs().max() <= most * (1 + plain.abs().max())
print("alike")
"""

DECODE = """
import torch
from tests.cpu.test_wan_fast import frames_of, noise, random_vae
from vdkit.models.wan import WanDecoder
from vdkit.models.wan_fast import FastWanDecoder
for channels in (16, 48):
    vae = random_vae(channels)
    stock, fast = WanDecoder(vae, "stock"), FastWanDecoder(vae, "fast")
    assert fast._norm_out.kernels
    latents = noise(stock, 3, 1, 2)
    assert (frames_of(stock, latents, 1) - frames_of(fast, latents, 2)).abs().max() < 2e-5
print("alike")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton, which GPU builds bring")
@pytest.mark.parametrize("code", [COMPARE, DECODE], ids=["pass", "decoder"])
def test_triton_gives_the_same(code):
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=environment)  # fmt: skip
    assert done.stdout.strip() == "alike", done.stderr
