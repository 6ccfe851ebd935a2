"""What a caller brings, decoder, latents and sink, and the bytes that every path makes of them.

Nothing has to be inherited. Torch is loaded on use: a recording opens without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from vdkit.decode.chunks import VideoInfo

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

        The bytes have to be those of `frames_to_uint8` of `decode_chunk`.

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
            f"(see vdkit.decode.{kind})"
        )


def frames_to_uint8(frames: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """[1, 3, F, H, W] RGB in [-1, 1] to uint8 [F, H, W, 3] in [0, 255], on the same device.

    Computed as diffusers' VideoProcessor and ``(x * 255).round()`` do, in float32 and one rounding
    per operation, so that the CPU and the GPU give the same bytes. Values outside [-1, 1] clamp.

    Args:
        out: uint8 [F, H, W, 3] to fill; a new contiguous tensor if None.
    """
    import torch

    pixels = frames[0].permute(1, 2, 3, 0)
    if out is None:
        out = torch.empty(pixels.shape, dtype=torch.uint8, device=pixels.device)
    planes = range(3) if pixels.device.type == "cpu" else (slice(None),)  # one stays in the cache
    for plane in planes:
        exact = pixels[..., plane].to(torch.float32, copy=True)
        exact.mul_(0.5).add_(0.5).clamp_(0.0, 1.0).mul_(255.0).round_()
        out[..., plane].copy_(exact)
    return out


def check_latents(
    latents: torch.Tensor, channels: int, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """Validate latents and bring them to the decoder: [1, C, T, h, w] on ``device`` in ``dtype``.

    Args:
        latents: [C, T, h, w] or [1, C, T, h, w]; float16, bfloat16 or float32; finite; already
            de-normalized if they come from a pipeline.

    Raises:
        TypeError: not a tensor, or not of a float dtype named above.
        ValueError: wrong rank, batch, channels or an empty axis; NaN or inf, named with its latent
            frame.
    """
    import torch

    if not isinstance(latents, torch.Tensor):
        raise TypeError(f"latents are a {type(latents).__name__}; a torch.Tensor is needed")
    if latents.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise TypeError(
            f"latents are {latents.dtype}; use torch.float16, torch.bfloat16 or torch.float32"
        )
    shape = tuple(latents.shape)
    if len(shape) not in (4, 5):
        raise ValueError(
            f"latents have shape {shape}, {len(shape)} axes; use [C, T, h, w] or [1, C, T, h, w] "
            "(channels, latent frames, height / factor, width / factor)"
        )
    if len(shape) == 4:
        latents = latents[None]
    videos, found, *sizes = latents.shape
    if videos != 1:
        raise ValueError(f"latents hold a batch of {videos} videos; decode them one at a time")
    if found != channels:
        hint = "; the axes are [C, T, h, w], not [T, C, h, w]" if sizes[0] == channels else ""
        raise ValueError(f"latents have {found} channels, this decoder takes {channels}{hint}")
    if 0 in sizes:
        raise ValueError(
            f"latents have shape {shape}: latent frames, height and width must each be 1 or more"
        )
    moved = latents.to(device=device, dtype=dtype)
    bad = (~torch.isfinite(moved)).sum(dim=(0, 1, 3, 4)).tolist()
    if any(bad):
        index = next(i for i, count in enumerate(bad) if count)
        frame = latents[:, :, index]
        cause = f"values up to {frame.abs().max().item():.3g}, which become inf in {dtype},"
        if not frame.isfinite().all():
            cause = "NaN" if frame.isnan().any() else "inf"
        raise ValueError(
            f"latents have {cause} in latent frame {index} ({sum(bad)} such values in all)"
        )
    return moved
