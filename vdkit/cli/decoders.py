"""Decoders and latents as the options name them, and errors that name the variant."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from vdkit.decode.protocols import ChunkDecoder


def start_device(options: argparse.Namespace) -> None:
    """Load the libraries and wake the device, which is no decoder's set-up.

    Raises:
        ValueError: no such device.
    """
    import torch

    from vdkit.models.loading import resolve_device

    torch.zeros(1, device=resolve_device(options.device))


def load_variant(options: argparse.Namespace, variant: str) -> ChunkDecoder:
    """The decoder that the options name, run in this way."""
    from vdkit.models.loading import load_decoder
    from vdkit.record.machine import keep_freed_memory

    decoder: ChunkDecoder = load_decoder(options.decoder, options.device, options.dtype, variant)
    if decoder.device.type == "cpu":
        keep_freed_memory()
    return decoder


def latents_of(decoder: Any, options: argparse.Namespace) -> torch.Tensor:
    """The latents that the options name, as ``decoder`` takes them."""
    from vdkit.measure.sweep import check_chunk
    from vdkit.models.latents import latents_metadata, load_latents

    latents = load_latents(options.latents, decoder, options.seed)
    if latents.dim() > 3:  # else the decode says what is wrong with it
        check_chunk(options.chunk, latents.shape[-3])
    if options.denormalize:
        if latents_metadata(options.latents).get("normalization") == "undone":
            raise ValueError(
                f"{options.latents} says that its normalization is undone already; leave out "
                "--denormalize"
            )
        latents = decoder.denormalize(latents)
    return latents


@contextmanager
def getting(variant: str) -> Iterator[None]:
    """Errors of loading, preparing or running a variant name it, and the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        line = f"{error}".partition("\n")[0] or type(error).__name__
        if isinstance(error, MemoryError) or "out of memory" in line.lower():
            raise MemoryError(
                f"variant {variant!r} does not fit into memory ({line}); use a smaller video or "
                "--chunk, or fewer variants"
            ) from error
        if variant == "diffusers":
            raise
        raise ValueError(f"variant {variant!r} cannot be had: {line}; take another") from error
