"""A VAE made wider without changing what it computes: real pictures at a larger model's cost.

Every channel becomes several that carry the same value. A convolution then sees each of its inputs
several times and takes an equal share of each, plus noise that cancels over the copies, so that no
weights are equal and a GPU multiplies figures as varied as a trained model's.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan

SEED = 0


def widened(vae: AutoencoderKLWan, base_dim: int, decoder_base_dim: int) -> AutoencoderKLWan:
    """An `AutoencoderKLWan` of these widths, multiples of ``vae``'s, with the function of ``vae``.

    In the dtype and on the device of ``vae``; encodes and decodes as it does but for rounding.

    Raises:
        ValueError: a width that is no multiple.
    """
    config = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    wide = {"base_dim": base_dim, "decoder_base_dim": decoder_base_dim}
    for name, width in wide.items():
        if width < config[name] or width % config[name]:
            raise ValueError(f"{name} is {width}; use a multiple of {config[name]}")
    with torch.device("meta"):
        made = AutoencoderKLWan(**config | wide)
    noise = torch.Generator().manual_seed(SEED)
    weights = vae.state_dict()
    grown = {
        name: _grown(name, weights[name], tuple(room.shape), noise)
        for name, room in made.state_dict().items()
    }
    made.load_state_dict(grown, assign=True)
    return made.train(vae.training)


def _grown(
    name: str, weight: torch.Tensor, shape: tuple[int, ...], noise: torch.Generator
) -> torch.Tensor:
    """One parameter at ``shape``: outputs repeated, inputs shared out."""
    if tuple(weight.shape) == shape:
        return weight.clone()
    # Queries, keys and values, and the two frames that one becomes, lie behind one another.
    doubled = name.startswith("decoder.") and "time_conv" in name
    parts = list(weight.chunk(3 if "to_qkv" in name else 1 + doubled))
    copies = shape[0] // weight.shape[0]
    if "to_qkv" in name:  # attention divides by the root of a width that is larger now
        parts[0] = parts[0] * copies**-0.5
    grown = torch.cat([part for part in parts for _ in range(copies)])
    inputs = shape[1] // weight.shape[1] if weight.dim() > 1 else 1
    if inputs == 1:
        return grown
    shared = (grown / inputs)[:, None].repeat(1, inputs, *[1] * (weight.dim() - 1))
    drawn = torch.randn(shared.shape, generator=noise, dtype=torch.float32).to(shared)
    shared += (drawn - drawn.mean(1, keepdim=True)) * shared.std()
    return shared.flatten(1, 2)
