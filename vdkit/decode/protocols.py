"""The two things a caller brings: a decoder and a sink. Nothing has to be inherited."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch

from vdkit.decode.chunks import VideoInfo

if TYPE_CHECKING:
    import numpy as np

Progress = bool | Callable[[int, int], None]
"""True: a tqdm bar of pixel frames; False: none; a callable gets (frames done, frames in all), on
the caller's thread."""


class ChunkDecoder(Protocol):
    """A causal video decoder that works chunk by chunk.

    All per-video state lives in what `begin` returns, so two videos of one decoder can be decoded
    in turns. Work is launched on the current CUDA stream and must not synchronize the device.

    It may also have ``variant`` and ``notes`` (words), which records keep, and ``prepare(height,
    width, chunk_size)``, of the latents, for work to be done once, such as compiling: commands
    call it before anything is timed.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    latent_channels: int
    spatial_factor: int
    temporal_factor: int

    def begin(self, latents: torch.Tensor) -> Any:
        """Start a video of latents [1, C, T, h, w] on ``device`` in ``dtype``, de-normalized."""

    def decode_chunk(self, state: Any, start: int, stop: int) -> torch.Tensor:
        """Decode latent frames ``start`` to ``stop`` (half-open); in order, first (0, 1).

        Returns:
            [1, 3, F, H, W] RGB in [-1, 1], in ``dtype``, on ``device``; F is 1 for the first
            latent frame and ``temporal_factor`` for each later one; H and W are h and w times
            ``spatial_factor``.
        """


class IntoDecoder(ChunkDecoder, Protocol):
    """A decoder that writes finished pixels itself, which saves a pass over them."""

    def decode_into(self, state: Any, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        """As `decode_chunk`, into ``out``: uint8 [F, H, W, 3], on ``device``.

        The bytes have to be those of `vdkit.decode.pixels.frames_to_uint8` of `decode_chunk`.

        Returns:
            bool [] on ``device``: whether NaN or inf, which the pixels do not show, was among them.
        """


class WholeVideoDecoder(ChunkDecoder, Protocol):
    """A decoder that can also decode a whole video as diffusers does; for `decode_diffusers`."""

    def decode_video(
        self, latents: torch.Tensor, before_frame: Callable[[int], None]
    ) -> torch.Tensor:
        """Decode [1, C, T, h, w] at once; ``before_frame(i)`` is called before latent frame i.

        Returns:
            [1, 3, F, H, W] RGB in [-1, 1].
        """

    def to_numpy(self, frames: torch.Tensor) -> np.ndarray:
        """float32 [1, 3, F, H, W] in [-1, 1] on ``device`` to [F, H, W, 3] in [0, 1]."""


class Sink(Protocol):
    """Terminal consumer of frames. One sink serves one decode.

    The calls come in this order, all from one thread: ``open``, ``write`` for each chunk, then
    ``close``. After a failure ``abort`` comes instead of ``close``, once nothing else is running,
    also when ``open`` itself failed. A sink whose ``write`` can last long may add a method
    ``interrupt()``: it is called from another thread when the decode has failed, and should make
    ``write`` return early. A sink whose ``wants_float`` is True gets, in place of uint8, the float
    frames in [0, 1] of diffusers' VideoProcessor, all in one ``write``: only `decode_diffusers` has
    them, and the other paths raise TypeError.
    """

    def open(self, info: VideoInfo) -> None:
        """Prepare for ``info.frames`` frames."""

    def write(self, frames: np.ndarray) -> None:
        """Consume uint8 RGB [F, H, W, 3], C-contiguous.

        The array is a buffer that is reused after the call: copy to keep.
        """

    def close(self) -> None:
        """Finish; the output is complete when this returns."""

    def abort(self) -> None:
        """Give up: remove what was begun, leave what was there before."""


def wants_float(sink: object) -> bool:
    """Whether a sink takes diffusers' float frames and no others (see `Sink`)."""
    return bool(getattr(sink, "wants_float", False))


class DecodeCancelled(Exception):
    """The caller's ``cancel`` event was set; the output was discarded."""


def require(thing: object, kind: str, members: tuple[str, ...]) -> None:
    """Raise TypeError, naming what is missing, unless ``thing`` has all ``members``."""
    missing = [name for name in members if not hasattr(thing, name)]
    if missing:
        raise TypeError(
            f"{type(thing).__name__} is no {kind}: it lacks {', '.join(missing)} "
            f"(see vdkit.decode.protocols.{kind})"
        )
