"""Two structures of latents that diffusers has no class for, made of Wan's blocks.

Both have two kinds of latents, larger ones at an eighth of the picture's sides and smaller ones at
a sixteenth, packed into one tensor at a sixteenth, and what `AutoencoderKLWan` has inside: so the
miniature's `encode` and `decode` train them, and vdkit's `WanDecoder` streams them as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanCausalConv3d,
    WanDecoder3d,
    WanEncoder3d,
    unpatchify,
)
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from recipe import decode, encode
from torch import nn
from torch.nn.functional import interpolate

LATER, SOONER = [False, True, True], [True, True, False]
"""Which steps of a decoder double time: those from a sixteenth, and from an eighth, of the sides,
so that levels of equal size have equal times."""
Cache = list[Any]


def pack(large: torch.Tensor, small: torch.Tensor, span: int) -> torch.Tensor:
    """[B, L, N, 2h, 2w] and [B, S, span N, h, w] to [B, 4 L + span S, N, h, w]; see `unpack`."""
    squares = large.unflatten(4, (-1, 2)).unflatten(3, (-1, 2))  # [B, L, N, h, 2, w, 2]
    squares = squares.permute(0, 1, 4, 6, 2, 3, 5).flatten(1, 3)
    steps = small.unflatten(2, (-1, span)).movedim(3, 2).flatten(1, 2)
    return torch.cat((squares, steps), 1)


def unpack(latents: torch.Tensor, large: int, span: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two that `pack` took; ``large`` is L."""
    squares, steps = latents.tensor_split((4 * large,), 1)
    steps = steps.unflatten(1, (-1, span)).movedim(2, 3).flatten(2, 3)
    squares = squares.unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 5, 2, 6, 3)
    return squares.flatten(5).flatten(3, 4), steps


def run(layer: Any, x: torch.Tensor, cache: Cache, index: list[int]) -> torch.Tensor:
    """A causal convolution that goes on from the last two moments it saw, which it renews."""
    past, cache[index[0]] = cache[index[0]], x[:, :, -2:].clone()
    if past is not None and x.shape[2] == 1:
        cache[index[0]] = torch.cat((past[:, :, -1:], x), 2)
    index[0] += 1
    made: torch.Tensor = layer(x, past)
    return made


class PackedEncoder(nn.Module):
    """Wan's encoder with two heads: a large latent every ``span`` steps, a small one each step."""

    def __init__(self, trunk: WanEncoder3d, features: int, large: int, small: int, span: int):
        super().__init__()
        self.trunk, self.span = trunk, span
        self.large = nn.Conv3d(features, 2 * large, (span, 1, 1), stride=(span, 1, 1))
        self.small = nn.Conv3d(features, 2 * small, (1, 2, 2), stride=(1, 2, 2))

    def forward(self, frames: torch.Tensor, feat_cache: Cache, feat_idx: list[int]) -> torch.Tensor:
        """Posterior parameters [B, 2 C, N, h, w] of the first frame, or of all that follow."""
        first = frames.shape[2] == 1
        if not first and frames.shape[2] % (4 * self.span):
            raise ValueError(
                f"{frames.shape[2]} frames follow the first; use a multiple of {4 * self.span}"
            )
        features = self.trunk(frames, feat_cache=feat_cache, feat_idx=feat_idx)
        if first:  # it fills its span: of the equal small latents the last is decoded
            features = features.expand(-1, -1, self.span, -1, -1)
        large, small = self.large(features).chunk(2, 1), self.small(features).chunk(2, 1)
        halves = [pack(*pair, self.span) for pair in zip(large, small, strict=True)]
        return torch.cat(halves, 1)


class TappedDecoder(WanDecoder3d):
    """Wan's decoder, from whose blocks another can take over."""

    def forward(
        self, x: torch.Tensor, feat_cache: Cache, feat_idx: list[int], first_chunk: bool = False,
        added: tuple[torch.Tensor, ...] = (),
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:  # fmt: skip
        """The frames, and what each block of the way up made.

        Args:
            added: to what ``conv_in`` and the first blocks make.
        """
        taps: list[torch.Tensor] = []
        x = run(self.conv_in, x, feat_cache, feat_idx)
        x = x + added[0] if added else x
        x = self.mid_block(x, feat_cache=feat_cache, feat_idx=feat_idx)
        for i, block in enumerate(self.up_blocks, 1):
            x = block(x, feat_cache=feat_cache, feat_idx=feat_idx, first_chunk=first_chunk)
            x = x + added[i] if i < len(added) else x
            taps.append(x)
        x = self.nonlinearity(self.norm_out(x))
        return run(self.conv_out, x, feat_cache, feat_idx), taps


class TwoLevels(nn.Module):
    """A coarse level, whose frames are the preview, and a fine one, which adds what is missing.

    ``full``: whether the fine level runs. In training the frames [B, 6, F, H, W] are both, the full
    ones first.
    """

    def __init__(self, coarse: TappedDecoder, fine: TappedDecoder, large: int) -> None:
        super().__init__()
        self.coarse, self.fine, self.large, self.full = coarse, fine, large, True
        inputs = [block.upsamplers[0].resample[1].out_channels for block in coarse.up_blocks[:3]]
        outputs = [fine.conv_in.out_channels]
        outputs += [block.upsamplers[0].resample[1].out_channels for block in fine.up_blocks[:2]]
        pairs = zip(inputs, outputs, strict=True)
        self.skips = nn.ModuleList(nn.Conv3d(i, o, 1) for i, o in pairs)

    def forward(
        self, x: torch.Tensor, feat_cache: Cache, feat_idx: list[int], first_chunk: bool = False
    ) -> torch.Tensor:
        fine, coarse = unpack(x, self.large, 1)
        made, taps = self.coarse(coarse, feat_cache, feat_idx, first_chunk)
        preview = unpatchify(made, patch_size=2)
        if not self.full:
            return preview
        added = tuple(skip(tap) for skip, tap in zip(self.skips, taps, strict=False))
        missing, _ = self.fine(fine, feat_cache, feat_idx, first_chunk, added)
        frames = preview + missing
        return torch.cat((frames, preview), 1) if self.training else frames


class Spans(nn.Module):
    """Wan's decoder on contents that last for ``span`` steps beside the motion of each step."""

    def __init__(self, decoder: WanDecoder3d, large: int, span: int) -> None:
        super().__init__()
        self.steps, self.large, self.span = decoder, large, span

    def forward(
        self, x: torch.Tensor, feat_cache: Cache, feat_idx: list[int], first_chunk: bool = False
    ) -> torch.Tensor:
        content, motion = unpack(x, self.large, self.span)
        content = content.repeat_interleave(self.span, 2)
        motion = interpolate(motion, scale_factor=(1, 2, 2))
        both = torch.cat((content, motion), 1)
        both = both[:, :, -1:] if first_chunk else both
        made: torch.Tensor = self.steps(both, feat_cache, feat_idx, first_chunk)
        return made


class TimeThenSpace(nn.Module):
    """A causal 3x3x3 convolution in two: one over time, which alone remembers, one in space."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.time = WanCausalConv3d(inputs, inputs, (3, 1, 1), padding=(1, 0, 0))
        self.space = nn.Conv3d(inputs, outputs, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        made: torch.Tensor = self.space(self.time(x, cache_x))
        return made


def factorize(module: nn.Module) -> None:
    """Put `TimeThenSpace` in place of every causal 3x3x3 convolution."""
    for name, child in module.named_children():
        if isinstance(child, WanCausalConv3d) and child.kernel_size == (3, 3, 3):
            setattr(module, name, TimeThenSpace(child.in_channels, child.out_channels))
        else:
            factorize(child)


@torch.no_grad()
def hold_still(module: nn.Module) -> None:
    """Let every moment be seen, and made, for itself: a picture is learned before what moves in it.

    Causal convolutions ignore the past, the present counts for it; those over time alone hand on
    what they get.
    """
    for part in module.modules():
        if isinstance(part, WanCausalConv3d) and part.kernel_size[0] == 3:
            part.weight[:, :, :-1] = 0
            part.weight[:, :, -1] *= 3**0.5
            if part.kernel_size == (3, 1, 1):
                same = torch.eye(part.in_channels)
                part.weight[:, :, -1, 0, 0] = same.repeat(part.out_channels // len(same), 1)
                nn.init.zeros_(part.bias)


class PackedVAE(ModelMixin, ConfigMixin):
    """What both structures have, under the names of `AutoencoderKLWan`.

    Frames are [B, 3, F, H, W] RGB in [-1, 1], their sides multiples of 16; latents [B, C, N, h, w].
    """

    def _hold(self, encoder: nn.Module, decoder: nn.Module) -> None:
        self.encoder, self.decoder = encoder, decoder
        self.quant_conv, self.post_quant_conv = nn.Identity(), nn.Identity()
        self._cached_conv_counts = {
            name: sum(isinstance(part, WanCausalConv3d) for part in whole.modules())
            for name, whole in (("encoder", encoder), ("decoder", decoder))
        }

    def encode(self, frames: torch.Tensor, return_dict: bool = True) -> Any:
        """As `AutoencoderKLWan.encode`."""
        found = DiagonalGaussianDistribution(encode(self, frames))
        return AutoencoderKLOutput(latent_dist=found) if return_dict else (found,)

    def decode(self, latents: torch.Tensor, return_dict: bool = True) -> Any:
        """As `AutoencoderKLWan.decode`: frames in [-1, 1]."""
        frames = decode(self, latents).clamp(-1, 1)
        return DecoderOutput(sample=frames) if return_dict else (frames,)

    def clear_cache(self) -> None:
        """Nothing: a cache belongs to its call."""


class HierarchicalVAE(PackedVAE):
    """Two levels: coarse latents at 16x16x4 decode a preview, fine ones at 8x8x4 complete it.

    Args:
        z_dim: channels of the packed latents: 4 x ``fine_channels``, then those of the coarse ones.
        encoder_dim, coarse_dim, fine_dim: widths, as ``base_dim`` of `AutoencoderKLWan`.
        features: that the encoder's heads share.
        adaptive_threshold: of `data.structures.decoders.complexity`, once it is calibrated.
    """

    @register_to_config
    def __init__(
        self, z_dim: int = 64, fine_channels: int = 12, encoder_dim: int = 8, coarse_dim: int = 8,
        fine_dim: int = 8, dim_mult: tuple[int, ...] = (1, 2, 4, 4),
        fine_mult: tuple[int, ...] = (1, 2, 4, 4), num_res_blocks: int = 2, features: int = 64,
        scale_factor_spatial: int = 16, scale_factor_temporal: int = 4,
        patch_size: int | None = None, latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None, adaptive_threshold: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        small, blocks = z_dim - 4 * fine_channels, {"num_res_blocks": num_res_blocks}
        trunk = WanEncoder3d(
            3, encoder_dim, features, [*dim_mult], temperal_downsample=SOONER[::-1], **blocks
        )
        coarse = TappedDecoder(
            coarse_dim, small, [*dim_mult], temperal_upsample=LATER, out_channels=12, **blocks
        )
        fine = TappedDecoder(
            fine_dim, fine_channels, [*fine_mult], temperal_upsample=SOONER, **blocks
        )
        self._hold(
            PackedEncoder(trunk, features, fine_channels, small, 1),
            TwoLevels(coarse, fine, fine_channels),
        )


class FactorizedVAE(PackedVAE):
    """Content and motion apart: a spatial latent for a segment of 16 frames, at 8x8, and a small
    temporal one for every four, at 16x16. The first frame is a segment of its own.

    Args:
        z_dim: channels of the packed latents: 4 x (``content_channels`` + those of the motion).
        encoder_dim, decoder_dim: widths, as ``base_dim`` of `AutoencoderKLWan`.
        features: that the encoder's heads share.
    """

    @register_to_config
    def __init__(
        self, z_dim: int = 128, content_channels: int = 16, encoder_dim: int = 8,
        decoder_dim: int = 8, dim_mult: tuple[int, ...] = (1, 2, 4, 4), num_res_blocks: int = 2,
        features: int = 64, scale_factor_spatial: int = 16, scale_factor_temporal: int = 16,
        patch_size: int | None = None, latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        span, blocks = scale_factor_temporal // 4, {"num_res_blocks": num_res_blocks}
        small = (z_dim - 4 * content_channels) // span
        trunk = WanEncoder3d(
            3, encoder_dim, features, [*dim_mult], temperal_downsample=SOONER[::-1], **blocks
        )
        steps = WanDecoder3d(
            decoder_dim, content_channels + small, [*dim_mult], temperal_upsample=SOONER, **blocks
        )
        factorize(trunk)
        factorize(steps)
        self._hold(
            PackedEncoder(trunk, features, content_channels, small, span),
            Spans(steps, content_channels, span),
        )
