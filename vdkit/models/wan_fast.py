"""Wan's decoder written again for speed, on the weights of any `AutoencoderKLWan`.

Activations are [T, H, W, C] from the first convolution to the last, so that no convolution has to
turn its input around. Each convolution over time reads a buffer whose leading frames are the last
ones of the chunk before: they stay where they are, and nothing is concatenated, padded or cloned.
diffusers' blocks are found again by their names: residual block, attention, upsampling, head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan

from vdkit.models.wan import WanDecoder, check_order


@dataclass(slots=True)
class FastState:
    """One video being decoded: its latents and what its convolutions remember.

    Attributes:
        latents: [1, C, T, h, w] after ``post_quant_conv``.
        buffers: convolution to its input, [leading + T, H, W, C]; zeros before the video begins.
        next_start: the latent frame that has to come next.
    """

    latents: torch.Tensor
    buffers: dict[Convolution, torch.Tensor] = field(default_factory=dict)
    next_start: int = 0


class Convolution:
    """A causal convolution over time, or one within frames, on [T, H, W, C].

    Attributes:
        leading: frames of the past that it reads in front of the present ones.
    """

    def __init__(self, source: Any) -> None:
        layout = torch.channels_last_3d if source.weight.dim() == 5 else torch.channels_last
        self.weight = source.weight.detach().contiguous(memory_format=layout)
        self.bias = None if source.bias is None else source.bias.detach()
        *_, self.height, self.width = source.weight.shape
        self.leading = source.weight.shape[2] - 1 if source.weight.dim() == 5 else 0
        self.channels = source.weight.shape[1]

    def input(self, state: FastState, frames: int, height: int, width: int) -> torch.Tensor:
        """Where the next ``frames`` frames are to be written: a view behind the leading ones."""
        needed = self.leading + frames
        buffer = state.buffers.get(self)
        if buffer is None or buffer.shape[0] < needed:
            larger = self.weight.new_zeros(needed, height, width, self.channels)
            if buffer is not None:
                larger[: self.leading] = buffer[: self.leading]
            state.buffers[self] = buffer = larger
        return buffer[self.leading : needed]

    def __call__(self, state: FastState, frames: int) -> torch.Tensor:
        """Convolve what `input` was filled with; [T, H, W, channels out].

        The last frames then move to the front, for the next chunk.
        """
        buffer = state.buffers[self][: self.leading + frames]
        padding = (self.height // 2, self.width // 2)
        if self.weight.dim() == 5:
            made = F.conv3d(
                buffer.permute(3, 0, 1, 2)[None], self.weight, self.bias, padding=(0, *padding)
            )[0].permute(1, 2, 3, 0)
        else:
            made = F.conv2d(
                buffer.permute(0, 3, 1, 2), self.weight, self.bias, padding=padding
            ).permute(0, 2, 3, 1)
        for frame in range(self.leading):  # in order: with one new frame source and target overlap
            buffer[frame] = buffer[frames + frame]
        return check_layout(made) if made.device.type == "cuda" else made.contiguous()


def check_layout(frames: torch.Tensor) -> torch.Tensor:
    """``frames`` [T, H, W, C], if its memory is in that order; a lost layout is slow, not wrong.

    For CUDA: a CPU's convolutions choose their own layout.

    Raises:
        RuntimeError: the memory is laid out in another way.
    """
    if not frames.is_contiguous():
        raise RuntimeError(
            f"an activation of shape {tuple(frames.shape)} has strides {frames.stride()}: the "
            "channels-last layout was lost"
        )
    return frames


class Norm:
    """`WanRMS_norm` and, unless it is an attention's, SiLU; in float32, rounded once."""

    def __init__(self, source: Any, activate: bool = True) -> None:
        self.gain = source.gamma.detach().flatten().float() * source.scale
        self.activate = activate

    def __call__(self, frames: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """``frames`` [..., C] to ``out`` of the same shape, returned."""
        exact = F.normalize(frames.float(), dim=-1) * self.gain
        return out.copy_(F.silu(exact) if self.activate else exact)


class ResidualBlock:
    """`WanResidualBlock`: norm, convolution, norm, convolution, and the way around them."""

    def __init__(self, source: Any) -> None:
        self.norm1, self.conv1 = Norm(source.norm1), Convolution(source.conv1)
        self.norm2, self.conv2 = Norm(source.norm2), Convolution(source.conv2)
        same = isinstance(source.conv_shortcut, torch.nn.Identity)
        self.shortcut = None if same else source.conv_shortcut

    def __call__(self, state: FastState, frames: torch.Tensor) -> torch.Tensor:
        count, height, width, _ = frames.shape
        around = frames
        if self.shortcut is not None:  # a 1x1x1 convolution is a matrix product
            weight = self.shortcut.weight.flatten(1)
            around = F.linear(frames, weight, self.shortcut.bias)
        self.norm1(frames, self.conv1.input(state, count, height, width))
        inner = self.conv1(state, count)
        self.norm2(inner, self.conv2.input(state, count, height, width))
        return self.conv2(state, count).add_(around)


class Attention:
    """`WanAttentionBlock`: one head over the pixels of each frame."""

    def __init__(self, source: Any) -> None:
        self.norm = Norm(source.norm, activate=False)
        self.to_qkv, self.proj = source.to_qkv, source.proj

    def __call__(self, state: FastState, frames: torch.Tensor) -> torch.Tensor:
        normed = self.norm(frames, torch.empty_like(frames))
        rows = normed.flatten(1, 2)[:, None]  # [T, one head, H * W, C]
        weight, bias = self.to_qkv.weight.flatten(1), self.to_qkv.bias
        query, key, value = F.linear(rows, weight, bias).chunk(3, dim=-1)
        seen = F.scaled_dot_product_attention(query, key, value)
        made = F.linear(seen, self.proj.weight.flatten(1), self.proj.bias)
        return made.reshape(frames.shape).add_(frames)


class Upsampling:
    """`WanResample` upwards: twice the frames, if it has a ``time_conv``, then twice the size."""

    def __init__(self, source: Any) -> None:
        time = getattr(source, "time_conv", None)
        self.time = None if time is None else Convolution(time)
        self.space = Convolution(source.resample[1])

    def __call__(self, state: FastState, frames: torch.Tensor, first: bool) -> torch.Tensor:
        """[T, H, W, C] to [T or 2T, 2H, 2W, C]; the first latent frame stays one frame."""
        count, height, width, channels = frames.shape
        if self.time is not None and not first:
            self.time.input(state, count, height, width).copy_(frames)
            pairs = self.time(state, count).unflatten(-1, (2, channels))
            frames = pairs.permute(0, 3, 1, 2, 4).reshape(2 * count, height, width, channels)
            count *= 2
        out = self.space.input(state, count, 2 * height, 2 * width)
        spread = out.view(count, height, 2, width, 2, channels)
        spread.copy_(frames[:, :, None, :, None])
        return self.space(state, count)


class Duplication:
    """`DupUp3D`, the way around a stage of Wan 2.2: repeats, over time and space, added in place.

    Each of the ``time x 2 x 2`` positions inside an enlarged cell takes other channels.
    """

    def __init__(self, source: Any, device: torch.device) -> None:
        self.time, self.space = source.factor_t, source.factor_s
        picks = torch.arange(source.out_channels * source.factor, device=device) // source.repeats
        self.picks = picks.view(source.out_channels, self.time, self.space, self.space)

    def add(self, frames: torch.Tensor, to: torch.Tensor, first: bool) -> torch.Tensor:
        """Add ``frames`` [T, H, W, C in], enlarged, to ``to``; of the first only its last copy."""
        skipped = self.time - 1 if first else 0
        for t in range(skipped, self.time):
            for y in range(self.space):
                for x in range(self.space):
                    cell = to[t - skipped :: self.time - skipped, y :: self.space, x :: self.space]
                    cell += frames[..., self.picks[:, t, y, x]]
        return to


class UpBlock:
    """`WanUpBlock` or `WanResidualUpBlock`: residual blocks, upsampling, and a way around both."""

    def __init__(self, source: Any, device: torch.device) -> None:
        self.blocks = [ResidualBlock(block) for block in source.resnets]
        around = getattr(source, "avg_shortcut", None)
        self.around = None if around is None else Duplication(around, device)
        upsamplers = getattr(source, "upsamplers", None)
        upsampler = upsamplers[0] if upsamplers else getattr(source, "upsampler", None)
        self.upsampling = None if upsampler is None else Upsampling(upsampler)

    def __call__(self, state: FastState, frames: torch.Tensor, first: bool) -> torch.Tensor:
        before = frames
        for block in self.blocks:
            frames = block(state, frames)
        if self.upsampling is not None:
            frames = self.upsampling(state, frames, first)
        return frames if self.around is None else self.around.add(before, frames, first)


class FastWanDecoder:
    """The same frames as `WanDecoder`, within rounding, from the same weights; a `ChunkDecoder`.

    Rounding differs from diffusers': norms and SiLU are computed in float32 and rounded once.

    Args:
        vae: the model, in the dtype and on the device it is to run on.
        name: how records call it.
    """

    def __init__(self, vae: AutoencoderKLWan, name: str) -> None:
        self._stock = WanDecoder(vae, name)
        decoder = vae.decoder
        self.name, self.device, self.dtype = name, self._stock.device, self._stock.dtype
        self.latent_channels = self._stock.latent_channels
        self.spatial_factor = self._stock.spatial_factor
        self.temporal_factor = self._stock.temporal_factor
        self._patch: int = vae.config.patch_size or 1
        self._conv_in = Convolution(decoder.conv_in)
        first, second = decoder.mid_block.resnets
        self._mid = (
            ResidualBlock(first),
            Attention(decoder.mid_block.attentions[0]),
            ResidualBlock(second),
        )
        self._up = [UpBlock(block, self.device) for block in decoder.up_blocks]
        self._norm_out, self._conv_out = Norm(decoder.norm_out), Convolution(decoder.conv_out)

    def begin(self, latents: torch.Tensor) -> FastState:
        """Start a video of latents [1, C, T, h, w], de-normalized, on ``device`` in ``dtype``."""
        return FastState(self._stock.begin(latents).latents)

    @torch.no_grad()
    def decode_chunk(self, state: FastState, start: int, stop: int) -> torch.Tensor:
        """Decode latent frames ``start`` to ``stop``: [1, 3, F, H, W] RGB in [-1, 1] in ``dtype``.

        Raises:
            ValueError: the chunk does not follow the one before, or the first is not (0, 1).
        """
        check_order(state.next_start, start, stop, state.latents.shape[2])
        state.next_start = stop
        latents = state.latents[0, :, start:stop].permute(1, 2, 3, 0)
        self._conv_in.input(state, *latents.shape[:3]).copy_(latents)
        frames = self._conv_in(state, stop - start)
        for block in self._mid:
            frames = block(state, frames)
        for stage in self._up:
            frames = stage(state, frames, first=start == 0)
        count, height, width, _ = frames.shape
        self._norm_out(frames, self._conv_out.input(state, count, height, width))
        return self._to_pixels(self._conv_out(state, count)).clamp_(-1.0, 1.0)

    def _to_pixels(self, frames: torch.Tensor) -> torch.Tensor:
        """[F, H, W, 3 x patch x patch] to [1, 3, F, H x patch, W x patch]."""
        count, height, width, _ = frames.shape
        size = self._patch
        cells = frames.view(count, height, width, 3, size, size)
        pixels = cells.permute(3, 0, 1, 5, 2, 4)
        return pixels.reshape(1, 3, count, height * size, width * size)

    def weights_sha256(self) -> str:
        """Hash of the weights that decode, as `WanDecoder.weights_sha256`."""
        return self._stock.weights_sha256()
