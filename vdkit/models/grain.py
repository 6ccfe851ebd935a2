"""Film grain on what a decoder makes: an encoder then has a natural video's work.

Drawn shapes on plain ground cost an encoder a third of what textured pictures do, and noise more
than those. The three contents that an encoder is timed with: ``flat`` (drawn clips), ``grain``
(these with grain), ``noise`` (random latents, or a decoder with random weights).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from vdkit.decode import Traits, end_state

SEED = 0


@dataclass(slots=True)
class GrainState:
    """The decoder's own state, the grain of its size, and how many frames came out of it."""

    inner: Any
    picture: torch.Tensor
    frames: int = 0


class Grained:
    """A decoder of video or images whose frames get grain; all else is the decoder's.

    The grain is normal, the same in R, G and B, and deterministic: every frame takes it out of one
    picture of twice its size at a place that a hash of the frame's number gives, so no encoder can
    predict it. It is added on the device, in ``dtype``, the same in a whole decode and in chunks.
    Values stay inside ``value_range``; NaN stays NaN, and inf becomes it. Of ways to decode only
    ``decode_chunk`` and ``decode_video``: no ``decode_into``.

    Args:
        decoder: which is this one's from now on.
        sigma: standard deviation, in levels of 255.

    Raises:
        ValueError: a sigma that is not above 0, or a decoder of sound.
    """

    def __init__(self, decoder: Any, sigma: float) -> None:
        traits = Traits.of(decoder)
        if not 0 < sigma <= 255:
            raise ValueError(f"grain is {sigma:g}; use levels above 0, up to 255, e.g. 3")
        if traits.medium.name not in ("video", "images"):
            raise ValueError(
                f"grain is {sigma:g}, but {decoder.name} makes {traits.medium.called}; leave it out"
            )
        self.decoder, self.grain = decoder, sigma
        self._range, self._images = traits.value_range, traits.medium.name == "images"
        self._factors, self._picture = traits.spatial_factor, torch.empty(0, 0)

    def __getattr__(self, name: str) -> Any:
        # Not pixels without grain; nor what is not there yet while this is copied or unpickled.
        if name.startswith("decode") and name != "decode_video":
            raise AttributeError(name)
        found = getattr(self.decoder, name)
        if name != "decode_video":
            return found

        def decode_video(*given: Any) -> torch.Tensor:
            """The decoder's own, with grain."""
            frames: torch.Tensor = found(*given)
            return self._on(frames, self._drawn(*frames.shape[-2:]), 0)

        return decode_video

    @property
    def notes(self) -> tuple[str, ...]:
        """The decoder's, and the grain."""
        return (*getattr(self.decoder, "notes", ()), f"film grain of {self.grain:g} levels")

    def begin(self, latents: torch.Tensor) -> GrainState:
        """As the decoder's."""
        rows, columns = latents.shape[-2:]
        picture = self._drawn(rows * self._factors[0], columns * self._factors[1])
        return GrainState(self.decoder.begin(latents), picture)

    def decode_chunk(self, state: GrainState, start: int, stop: int) -> torch.Tensor:
        """As the decoder's, with grain."""
        frames = self.decoder.decode_chunk(state.inner, start, stop)
        made = self._on(frames, state.picture, state.frames)
        state.frames += frames.shape[0 if self._images else 2]
        return made

    def end(self, state: GrainState) -> None:
        """As the decoder's."""
        end_state(self.decoder, state.inner)

    def _drawn(self, height: int, width: int) -> torch.Tensor:
        """The picture of grain for frames of this size, on the device; the last is kept."""
        if self._picture.shape != (2 * height, 2 * width):
            low, high = self._range
            seeded = torch.Generator().manual_seed(SEED)
            drawn = torch.randn(2 * height, 2 * width, generator=seeded)
            drawn *= self.grain * (high - low) / 255
            self._picture = drawn.to(self.decoder.device, self.decoder.dtype)
        return self._picture

    def _on(self, frames: torch.Tensor, picture: torch.Tensor, first: int) -> torch.Tensor:
        """``frames`` and their grain; ``first`` is the number of the first of them."""
        made = torch.empty_like(frames)
        clean, grainy = (x if self._images else x[0].transpose(0, 1) for x in (frames, made))
        height, width = frames.shape[-2:]
        for number, (frame, out) in enumerate(zip(clean, grainy, strict=True), first):
            digest = hashlib.sha256(number.to_bytes(8, "big")).digest()
            y, x = (int.from_bytes(part) for part in (digest[:8], digest[8:16]))
            y, x = y % (height + 1), x % (width + 1)
            torch.add(frame, picture[y : y + height, x : x + width], out=out)
        # Clamped, inf would hide; times 0 it is NaN.
        return made.clamp_(*self._range).add_(frames * 0)
