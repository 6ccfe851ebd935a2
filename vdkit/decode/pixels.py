"""From decoder output to what a sink takes, with the same bytes on every device and path."""

from __future__ import annotations

import torch


def frames_to_uint8(frames: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """[1, 3, F, H, W] RGB in [-1, 1] to uint8 [F, H, W, 3] in [0, 255], on the same device.

    Computed as diffusers' VideoProcessor and ``(x * 255).round()`` do, in float32 and one rounding
    per operation, so that the CPU and the GPU give the same bytes. Values outside [-1, 1] clamp.

    Args:
        out: uint8 [F, H, W, 3] to fill; a new contiguous tensor if None.
    """
    planes = frames[0].permute(1, 2, 3, 0)
    if out is None:
        out = torch.empty(planes.shape, dtype=torch.uint8, device=planes.device)
    if planes.device.type == "cpu":
        for channel in range(planes.shape[3]):  # one plane at a time stays in the cache
            _quantize(planes[..., channel], out[..., channel])
    else:
        _quantize(planes, out)
    return out


def _quantize(values: torch.Tensor, out: torch.Tensor) -> None:
    exact = values.to(torch.float32, copy=True)
    out.copy_(exact.mul_(0.5).add_(0.5).clamp_(0.0, 1.0).mul_(255.0).round_())


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
    if not isinstance(latents, torch.Tensor):
        raise TypeError(f"latents are a {type(latents).__name__}; a torch.Tensor is needed")
    shape = tuple(latents.shape)
    if latents.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise TypeError(
            f"latents are {latents.dtype}; use torch.float16, torch.bfloat16 or torch.float32"
        )
    if latents.dim() == 4:
        latents = latents[None]
    if latents.dim() != 5:
        raise ValueError(
            f"latents have shape {shape}, {len(shape)} axes; use [C, T, h, w] or [1, C, T, h, w] "
            "(channels, latent frames, height / factor, width / factor)"
        )
    if latents.shape[0] != 1:
        raise ValueError(f"latents hold a batch of {shape[0]} videos; decode them one at a time")
    if latents.shape[1] != channels:
        hint = (
            "; the axes are [C, T, h, w], not [T, C, h, w]" if latents.shape[2] == channels else ""
        )
        raise ValueError(
            f"latents have {latents.shape[1]} channels, this decoder takes {channels}{hint}"
        )
    if 0 in latents.shape[2:]:
        raise ValueError(
            f"latents have shape {shape}: latent frames, height and width must each be 1 or more"
        )
    moved = latents.to(device=device, dtype=dtype)
    bad = (~torch.isfinite(moved)).sum(dim=(0, 1, 3, 4)).tolist()
    if any(bad):
        frame = next(i for i, count in enumerate(bad) if count)
        cause = _nonfinite_cause(latents[:, :, frame], dtype)
        raise ValueError(
            f"latents have {cause} in latent frame {frame} ({sum(bad)} such values in all)"
        )
    return moved


def _nonfinite_cause(frame: torch.Tensor, dtype: torch.dtype) -> str:
    if torch.isnan(frame).any():
        return "NaN"
    if torch.isinf(frame).any():
        return "inf"
    return f"values up to {frame.abs().max().item():.3g}, which become inf in {dtype}, "
