"""A training step of the full-size decoder: what checkpointing and autocast save, and cost.

diffusers' Wan VAE has no checkpointing of its own; its blocks write into a cache as they run. Here
a block is given the cache as it was, and hands back what it wrote: run again, it does the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from statistics import median
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanResample,
    WanResidualBlock,
)
from recipe import decode
from torch import nn
from torch.utils.checkpoint import checkpoint

from data.structures.measuring import Row, filled, in_turns, interval, wait
from data.structures.recipe import parameters_of

BLOCKS = (WanResidualBlock, WanAttentionBlock, WanResample)
WAYS = {  # checkpointed, autocast
    "plain": (False, False), "checkpointed": (True, False), "autocast": (False, True),
    "both": (True, True),
}  # fmt: skip


@contextmanager
def checkpointed(decoder: nn.Module) -> Iterator[None]:
    """Within, each of `BLOCKS` keeps its inputs for backward, and computes the rest again there."""
    blocks: list[Any] = [module for module in decoder.modules() if isinstance(module, BLOCKS)]
    for block in blocks:
        block.forward = partial(_checkpointed, partial(type(block).forward, block))
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _checkpointed(
    forward: Any, x: torch.Tensor, feat_cache: list[Any] | None = None, feat_idx: Any = None
) -> Any:
    how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if feat_cache is None:
        return checkpoint(forward, x, **how)
    begin = feat_idx[0]

    def pure(x: torch.Tensor, *past: Any) -> tuple[Any, ...]:
        cache, index = list(past), [0]
        made = forward(x, feat_cache=cache, feat_idx=index)
        return made, *cache[: index[0]]

    made, *written = checkpoint(pure, x, *feat_cache[begin:], **how)
    feat_cache[begin : begin + len(written)] = written
    feat_idx[0] += len(written)
    return made


def decoder_of(width: int, device: torch.device) -> Any:
    """Wan 2.1's decoder, float32, its weights random; the encoder is left out."""
    with torch.device("meta"):
        vae: Any = AutoencoderKLWan(base_dim=width)
    vae.encoder = vae.quant_conv = None
    return filled(vae, device, torch.float32).train().requires_grad_(True)


def allocated(device: torch.device) -> int:
    """Bytes on a GPU; 0 on a CPU, where nobody counts."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def step(
    vae: Any,
    latents: torch.Tensor,
    target: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    way: str,
) -> Row:
    """Forward, L1, backward, AdamW: seconds, and bytes, which are None on a CPU.

    ``activation_bytes``: what forward left for backward; ``backward_peak_bytes``: in all, up to the
    optimizer, whose own temporaries ``peak_bytes`` has too.
    """
    device, (again, low) = latents.device, WAYS[way]
    cuda = device.type == "cuda"
    optimizer.zero_grad(set_to_none=True)
    wait(device)
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    before, begin = allocated(device), time.perf_counter()
    with (
        checkpointed(vae.decoder) if again else nullcontext(),
        torch.autocast(device.type, torch.bfloat16, enabled=low),
    ):
        loss = (decode(vae, latents) - target).abs().mean()
    kept = allocated(device) - before
    loss.backward()
    peak = torch.cuda.max_memory_allocated(device) if cuda else None
    optimizer.step()
    wait(device)
    return {
        "step_s": time.perf_counter() - begin,
        "activation_bytes": kept if cuda else None,
        "backward_peak_bytes": peak,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if cuda else None,
    }


def training_rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """A row for each of `WAYS` and number of latent frames."""
    device, (height, width) = arguments.device, arguments.trained_size
    vae = decoder_of(arguments.trained_width, device)
    optimizer = torch.optim.AdamW(vae.parameters(), 1e-5)
    for count in (5, 1):
        torch.manual_seed(0)
        shape = (1, vae.config.z_dim, count, height // 8, width // 8)
        latents = torch.randn(shape, device=device)
        target = torch.rand((1, 3, 4 * count - 3, height, width), device=device) * 2 - 1
        arms = {way: partial(step, vae, latents, target, optimizer, way) for way in WAYS}
        for way, seen in in_turns(arms, arguments.rounds).items():
            moments = [value for of in optimizer.state.values() for value in of.values()]
            weights = list(vae.parameters())
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            yield {
                "way": way, "checkpointed": WAYS[way][0], "autocast": WAYS[way][1],
                "latent_frames": count, "frames": target.shape[2], "height": height, "width": width,
                "parameters": parameters_of(vae),
                "state_bytes": sum(one.nbytes for one in (*weights, *gradients, *moments)),
                **seen[-1], **interval("step_s", [one["step_s"] for one in seen]),
                "step_median_s": median(one["step_s"] for one in seen),
            }  # fmt: skip
