"""Latents to decode: seeded random ones, or a safetensors file; and how such files are written."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch

from vdkit.decode.chunks import latent_frames
from vdkit.decode.protocols import ChunkDecoder


def load_latents(spec: str | Path, decoder: ChunkDecoder, seed: int = 0) -> torch.Tensor:
    """Latents on the CPU: random ones [1, C, T, h, w], float32; a file's as it holds them.

    Args:
        spec: ``random:FRAMESxHxW`` in pixels, e.g. ``random:161x480x832``, standard normal from
            ``seed``; or a safetensors file with a tensor ``latents`` (or only one tensor), [C, T,
            h, w] or [1, C, T, h, w].
        decoder: gives channels and factors of random ones; not used for a file.

    Raises:
        ValueError: a size the decoder cannot produce, or a file that is damaged or has no latents.
        FileNotFoundError: no such file.
    """
    text = str(spec)
    if text.startswith("random:"):
        return _random(text, decoder, seed)
    path = _file(spec)
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


def save_latents(
    path: str | Path, latents: torch.Tensor, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write latents that `load_latents` reads; an interrupted write leaves what was there.

    Args:
        path: ends in ``.safetensors``; an existing file is replaced.
        latents: [C, T, h, w] or [1, C, T, h, w], any float dtype.
        metadata: text by name, e.g. `GeneratedLatents.metadata`.

    Raises:
        ValueError: another ending.
        FileNotFoundError: no such folder.
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    check_latents_path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        save_file({"latents": latents.detach().cpu().contiguous()}, partial, dict(metadata or {}))
        partial.chmod(0o644)  # safetensors writes files that only their owner may read
        partial.replace(path)
    except SafetensorError as error:
        raise OSError(f"latents file {str(path)!r} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def check_latents_path(path: Path) -> None:
    """ValueError or FileNotFoundError if `save_latents` could not write ``path``."""
    if path.suffix != ".safetensors":
        raise ValueError(f"latents file {str(path)!r}: end the name in .safetensors")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} for {path.name}")


def latents_metadata(path: str | Path) -> dict[str, str]:
    """What a latents file says about itself: prompt, seed, shape, normalization, source, ...

    Empty for a file that says nothing. Raises as `load_latents` does.
    """
    from safetensors import SafetensorError, safe_open

    path = _file(path)
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"latents file {str(path)!r} is damaged or cut short: {error}") from error


def _file(spec: str | Path) -> Path:
    path = Path(spec)
    if not path.is_file():
        raise FileNotFoundError(
            f"no latents file {str(spec)!r}; give a safetensors file or random:FRAMESxHxW, e.g. "
            f"random:161x480x832"
        )
    if path.suffix != ".safetensors":
        raise ValueError(f"latents file {str(spec)!r} is not safetensors; nothing else is read")
    return path


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
