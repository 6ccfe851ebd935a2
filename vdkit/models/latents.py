"""Latents to decode: seeded random ones, or a safetensors file."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from vdkit.decode.chunks import latent_frames
from vdkit.decode.protocols import ChunkDecoder


def load_latents(spec: str | Path, decoder: ChunkDecoder, seed: int = 0) -> torch.Tensor:
    """Latents [1, C, T, h, w], float32, on the CPU.

    Args:
        spec: ``random:FRAMESxHxW`` in pixels, e.g. ``random:161x480x832``, standard normal from
            ``seed``; or a safetensors file with a tensor ``latents`` (or only one tensor), [C, T,
            h, w] or [1, C, T, h, w].
        decoder: gives channels and factors.

    Raises:
        ValueError: a size the decoder cannot produce, or a file that is damaged or has no latents.
        FileNotFoundError: no such file.
    """
    text = str(spec)
    if text.startswith("random:"):
        return _random(text, decoder, seed)
    path = Path(spec)
    if not path.is_file():
        raise FileNotFoundError(
            f"no latents file {text!r}; give a safetensors file or random:FRAMESxHxW, e.g. "
            f"random:161x480x832"
        )
    if path.suffix != ".safetensors":
        raise ValueError(f"latents file {text!r} is not safetensors; nothing else is read")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"latents file {text!r} is damaged or cut short: {error}") from error
    if "latents" in tensors:
        return tensors["latents"]
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    raise ValueError(
        f"latents file {text!r} has no tensor 'latents' but "
        f"{', '.join(sorted(tensors)) or 'nothing'}"
    )


def _random(text: str, decoder: ChunkDecoder, seed: int) -> torch.Tensor:
    sizes = re.fullmatch(r"random:(\d+)x(\d+)x(\d+)", text)
    if sizes is None:
        raise ValueError(
            f"latents {text!r}: write random:FRAMESxHxW in pixels, e.g. random:161x480x832"
        )
    frames, height, width = (int(size) for size in sizes.groups())
    factor = decoder.spatial_factor
    try:
        count = latent_frames(frames, decoder.temporal_factor)
    except ValueError as error:
        raise ValueError(f"latents {text!r}: {error}") from None
    for name, side in (("height", height), ("width", width)):
        if side < 1 or side % factor:
            near = max(factor, round(side / factor) * factor)
            raise ValueError(
                f"latents {text!r}: {name} {side} is not a multiple of {factor}, use {near}"
            )
    shape = (
        1,
        decoder.latent_channels,
        count,
        height // factor,
        width // factor,
    )
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}; use 0 to 2**63 - 1")
    try:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    except RuntimeError as error:
        raise ValueError(f"latents {text!r}: {list(shape)} do not fit in memory") from error
