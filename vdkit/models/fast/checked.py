"""The fast decoder as users get it: not before its frames have been held against diffusers'."""

from __future__ import annotations

import math
import warnings
from functools import partial
from importlib import import_module
from typing import Any

import torch
from diffusers import AutoencoderKLWan

from vdkit.decode import frames_to_uint8
from vdkit.decode.engines import on_device, seconds_on
from vdkit.models import VARIANTS
from vdkit.models.fast import KernelError
from vdkit.models.fast.decoder import FastWanDecoder
from vdkit.models.wan import WanDecoder

LEAST_DB = {torch.float16: 55.0, torch.bfloat16: 45.0, torch.float32: 90.0}
"""Peak signal-to-noise ratio of a steady chunk, of values from -1 to 1."""
EXACT = tuple(name for name in VARIANTS if name != "fast")
_STEADY = 4  # chunks, of which the last is a recorded graph


class CheckedFastDecoder:
    """A `FastWanDecoder`; once `prepare` has found its frames wrong, or others faster, another.

    All attributes are those of the decoder that runs, ``variant`` and ``notes`` too, which say why
    it is another.

    Args:
        vae, name, tune: as for `FastWanDecoder`; ``vae`` is this one's from now on.
    """

    def __init__(self, vae: AutoencoderKLWan, name: str, tune: str = "auto") -> None:
        fast = FastWanDecoder(vae, name, tune=tune)
        fast.release_vae()
        self._runs: Any = fast
        self._passed: set[tuple[int, int, int]] = set()

    def __getattr__(self, name: str) -> Any:
        if name == "_runs":  # not there yet while this is copied or unpickled
            raise AttributeError(name)
        return getattr(self._runs, name)

    def prepare(self, height: int, width: int, chunk_size: int) -> None:
        """As the decoder's; then diffusers' modules decode a steady chunk of noise too, once.

        Below `LEAST_DB`, and on a GPU where the kernels do not run or compile, the fastest of
        `EXACT` takes over, with a warning; below compute capability 9.0 also where it is faster.

        Args:
            height, width: of the latents.
            chunk_size: latent frames per call.
        """
        fast, size = self._runs, (height, width)
        with on_device(fast.device):
            try:
                _prepare(fast, size, chunk_size)
            except KernelError as error:
                self._replace(str(error), self._seconds(size, chunk_size))
                return
            if not isinstance(fast, FastWanDecoder) or (*size, chunk_size) in self._passed:
                return
            try:
                where = self._judge(size, chunk_size)
            finally:
                if self._runs is fast:
                    fast.release_vae()
                if fast.device.type == "cuda":
                    torch.cuda.empty_cache()
            self._passed.add((*size, chunk_size))
            if self._runs is fast and where != size:  # what it kept was for the latents asked for
                fast.prepare(height, width, chunk_size)

    def _judge(self, size: tuple[int, int], chunk_size: int) -> tuple[int, int]:
        """Replace the decoder if need be; the latents that it was checked with."""
        fast: FastWanDecoder = self._runs
        if fast.kernels is None:
            if fast.device.type == "cuda":
                self._replace(fast.notes[0], self._seconds(size, chunk_size))
            return size
        db, where = self._checked(size, chunk_size)
        if not db >= LEAST_DB[fast.dtype]:
            why = f"its frames are wrong here: {db:.1f} dB against diffusers' at latents of "
            why += f"{where[0]}x{where[1]}, {LEAST_DB[fast.dtype]:g} asked"
            self._replace(why, self._seconds(size, chunk_size))
        elif fast.kernels.choices.gpu.pointers:
            took = self._seconds(size, chunk_size)
            own = _seconds(fast, _noise(fast, size, chunk_size), chunk_size)
            if own > min(took.values()):
                self._replace(f"{own * 1e3:.1f} ms a chunk, slower", took)
        return where

    def _checked(self, size: tuple[int, int], chunk_size: int) -> tuple[float, tuple[int, int]]:
        """PSNR of the last chunk; at smaller latents where diffusers' modules find no memory."""
        fast: FastWanDecoder = self._runs
        stock = WanDecoder(fast.vae.to(fast.device), fast.name)
        for divisor in (1, 2, 4):
            where = max(1, size[0] // divisor), max(1, size[1] // divisor)
            latents = _noise(fast, where, chunk_size)
            try:
                exact = _last_chunk(stock, latents, chunk_size).float()
            except torch.OutOfMemoryError:
                if divisor == 4:
                    raise
                torch.cuda.empty_cache()
                continue
            break
        made = _last_chunk(fast, latents, chunk_size)
        pixels = frames_to_uint8(made)
        if not torch.equal(_last_chunk(fast, latents, chunk_size, pixels.shape), pixels):
            return -math.inf, where
        error = (made.float() - exact).square().mean().item()
        return (math.inf if error == 0 else 10 * math.log10(4 / error)), where

    def _seconds(self, size: tuple[int, int], chunk_size: int) -> dict[Any, float]:
        """Of a steady chunk by each of `EXACT` that runs here."""
        fast, took = self._runs, {}
        vae = fast.vae.to(fast.device)
        for name in EXACT:
            module, kind = VARIANTS[name].rsplit(".", 1)
            decoder = getattr(import_module(f"vdkit.models.{module}"), kind)(vae, fast.name)
            try:
                _prepare(decoder, size, chunk_size)
                took[decoder] = _seconds(decoder, _noise(fast, size, chunk_size), chunk_size)
            except (ValueError, torch.OutOfMemoryError) as error:
                decoder.notes = (*decoder.notes, f"{name} does not run here: {error}")
        return took

    def _replace(self, why: str, took: dict[Any, float]) -> None:
        fast, best = self._runs, min(took, key=lambda one: took[one])
        timed = ", ".join(f"{one.variant} {took[one] * 1e3:.1f}" for one in took)
        note = f"fast is not used: {why}; {best.variant} runs, of ms a chunk: {timed}"
        best.notes = (note, *best.notes)
        if best.variant == "diffusers":
            for parameter in fast.vae.parameters():  # as it was when it was timed
                parameter.data = parameter.data.contiguous()
        self._runs = best
        warnings.warn(note, stacklevel=4)


def _prepare(decoder: Any, size: tuple[int, int], chunk_size: int) -> None:
    if hasattr(decoder, "prepare"):
        decoder.prepare(*size, chunk_size)


def _noise(decoder: Any, size: tuple[int, int], chunk_size: int) -> torch.Tensor:
    shape = (1, decoder.latent_channels, 1 + (_STEADY - 1) * chunk_size, *size)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(decoder.device, decoder.dtype)


@torch.inference_mode()
def _last_chunk(
    decoder: Any, latents: torch.Tensor, chunk_size: int, into: torch.Size | None = None
) -> torch.Tensor:
    """Frames of the last chunk; ``into``: pixels, [F, H, W, 3] of which it has this shape."""
    state, stop = decoder.begin(latents), 0
    while stop < latents.shape[2]:
        start, stop = stop, stop + (chunk_size if stop else 1)
        if into is None:
            made = decoder.decode_chunk(state, start, stop)
        else:
            shape = into if start else (1, *into[1:])
            made = torch.empty(shape, dtype=torch.uint8, device=latents.device)
            decoder.decode_into(state, start, stop, made)
    return made


@torch.inference_mode()
def _seconds(decoder: Any, latents: torch.Tensor, chunk_size: int) -> float:
    """Of the last chunk, the fastest of three."""
    found = []
    for _ in range(3):
        state, stop = decoder.begin(latents), 0
        while stop < latents.shape[2]:
            start, stop = stop, stop + (chunk_size if stop else 1)
            work = partial(decoder.decode_chunk, state, start, stop)
            took = seconds_on(latents.device, work, 1)
        found += took
    return min(found)
