"""Wan's decoder written again for speed, on the weights of any `AutoencoderKLWan`.

Activations are [T, H, W, C] from the first convolution to the last, so that no convolution has to
turn its input around. Each convolution over time reads a buffer whose leading frames are the last
ones of the chunk before: they stay where they are, and nothing is concatenated, padded or cloned.
diffusers' blocks are found again by their names: residual block, attention, upsampling, head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan

from vdkit.models.fast_layers import Convolution, FastState, Norm, Pending
from vdkit.models.kernels import has_kernels
from vdkit.models.wan import WanDecoder, check_order


class ResidualBlock:
    """`WanResidualBlock`: norm, convolution, norm, convolution, and the way around them."""

    def __init__(self, source: Any, kernels: bool) -> None:
        self.norm1, self.conv1 = Norm(source.norm1, kernels), Convolution(source.conv1)
        self.norm2, self.conv2 = Norm(source.norm2, kernels), Convolution(source.conv2)
        same = isinstance(source.conv_shortcut, torch.nn.Identity)
        self.shortcut = None if same else source.conv_shortcut

    def __call__(self, state: FastState, given: Pending) -> Pending:
        count, height, width, _ = given.inner.shape
        around = self.norm1.both(given, self.conv1.input(state, count, height, width))
        if self.shortcut is not None:  # a 1x1x1 convolution is a matrix product
            around = F.linear(around, self.shortcut.weight.flatten(1), self.shortcut.bias)
        inner = Pending(self.conv1(state, count), self.conv1.bias)
        self.norm2(inner, self.conv2.input(state, count, height, width))
        return Pending(self.conv2(state, count), self.conv2.bias, around)


class Attention:
    """`WanAttentionBlock`: one head over the pixels of each frame."""

    def __init__(self, source: Any, kernels: bool) -> None:
        self.norm = Norm(source.norm, kernels, activate=False)
        self.to_qkv, self.proj = source.to_qkv, source.proj

    def __call__(self, state: FastState, given: Pending) -> Pending:
        normed = torch.empty_like(given.inner)
        frames = self.norm.both(given, normed)
        rows = normed.flatten(1, 2)[:, None]  # [T, one head, H * W, C]
        weight, bias = self.to_qkv.weight.flatten(1), self.to_qkv.bias
        query, key, value = F.linear(rows, weight, bias).chunk(3, dim=-1)
        seen = F.scaled_dot_product_attention(query, key, value)
        made = F.linear(seen, self.proj.weight.flatten(1), self.proj.bias)
        return Pending(made.reshape(frames.shape), around=frames)


class Upsampling:
    """`WanResample` upwards: twice the frames, if it has a ``time_conv``, then twice the size."""

    def __init__(self, source: Any) -> None:
        time = getattr(source, "time_conv", None)
        self.time = None if time is None else Convolution(time)
        self.space = Convolution(source.resample[1])

    def __call__(self, state: FastState, given: Pending, first: bool) -> Pending:
        """[T, H, W, C] to [T or 2T, 2H, 2W, C]; the first latent frame stays one frame."""
        frames = given.settle()
        count, height, width, channels = frames.shape
        if self.time is not None and not first:
            self.time.input(state, count, height, width).copy_(frames)
            made = Pending(self.time(state, count), self.time.bias).settle()
            pairs = made.unflatten(-1, (2, channels)).permute(0, 3, 1, 2, 4)
            frames = pairs.reshape(2 * count, height, width, channels)
            count *= 2
        out = self.space.input(state, count, 2 * height, 2 * width)
        spread = out.view(count, height, 2, width, 2, channels)
        spread.copy_(frames[:, :, None, :, None])
        return Pending(self.space(state, count), self.space.bias)


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

    def __init__(self, source: Any, device: torch.device, kernels: bool) -> None:
        self.blocks = [ResidualBlock(block, kernels) for block in source.resnets]
        around = getattr(source, "avg_shortcut", None)
        self.around = None if around is None else Duplication(around, device)
        upsamplers = getattr(source, "upsamplers", None)
        upsampler = upsamplers[0] if upsamplers else getattr(source, "upsampler", None)
        self.upsampling = None if upsampler is None else Upsampling(upsampler)

    def __call__(self, state: FastState, given: Pending, first: bool) -> Pending:
        before = None if self.around is None else given.settle()
        for block in self.blocks:
            given = block(state, given)
        if self.upsampling is not None:
            given = self.upsampling(state, given, first)
        if self.around is not None and before is not None:
            self.around.add(before, given.inner, first)
        return given


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
        kernels = has_kernels(self.device)
        self._conv_in = Convolution(decoder.conv_in)
        first, second = decoder.mid_block.resnets
        self._mid = (
            ResidualBlock(first, kernels),
            Attention(decoder.mid_block.attentions[0], kernels),
            ResidualBlock(second, kernels),
        )
        self._up = [UpBlock(block, self.device, kernels) for block in decoder.up_blocks]
        self._norm_out = Norm(decoder.norm_out, kernels)
        self._conv_out = Convolution(decoder.conv_out)

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
        made = Pending(self._conv_in(state, stop - start), self._conv_in.bias)
        for block in self._mid:
            made = block(state, made)
        for stage in self._up:
            made = stage(state, made, first=start == 0)
        count, height, width, _ = made.inner.shape
        self._norm_out(made, self._conv_out.input(state, count, height, width))
        pixels = Pending(self._conv_out(state, count), self._conv_out.bias).settle()
        return self._to_pixels(pixels.clamp_(-1.0, 1.0))

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
