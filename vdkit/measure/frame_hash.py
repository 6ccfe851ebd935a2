"""The proof that two runs gave the same frames, and that no NaN hides in their bytes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

from vdkit.decode.chunks import VideoInfo
from vdkit.decode.protocols import ChunkDecoder

if TYPE_CHECKING:
    import numpy as np


class FrameHasher:
    """A sink that only hashes: the proof that two runs gave the same frames."""

    def open(self, info: VideoInfo) -> None:
        self._digest = hashlib.sha256(f"{info.height}x{info.width}".encode())

    def write(self, frames: np.ndarray) -> None:
        self._digest.update(frames.data)

    def close(self) -> None:
        self.sha256 = self._digest.hexdigest()

    def abort(self) -> None:
        pass


class FiniteDecoder:
    """A decoder that refuses to give NaN or inf, which uint8 would hide; for untimed runs."""

    def __init__(self, decoder: ChunkDecoder) -> None:
        self._decoder = decoder

    def __getattr__(self, name: str) -> Any:
        if name == "decode_into":  # pixels do not show it
            raise AttributeError(name)
        return getattr(self._decoder, name)

    def decode_chunk(self, state: Any, start: int, stop: int) -> torch.Tensor:
        frames = self._decoder.decode_chunk(state, start, stop)
        if not torch.isfinite(frames).all():
            raise ValueError(
                f"decoder {self.name!r} gave NaN or inf in {self.dtype} for latent frames "
                f"{start} to {stop - 1}; try another dtype, and de-normalize pipeline latents"
            )
        return frames
