"""Latents of drawn clips: the miniature's world at any size, encoded by the miniature."""

from __future__ import annotations

import re
import sys
from functools import cache, lru_cache
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

from vdkit.decode import Traits
from vdkit.decode.engines import on_device
from vdkit.models.latents import latent_size

SPEC = re.compile(r"clips:(\d+)x(\d+)x(\d+)(?::(.+))?")
NAME = "vdkit_tiny_wan_clips"


def clip_latents(text: str, decoder: Any, seed: int) -> torch.Tensor:
    """Posterior means, float32 [1, 16, T, h, w] on the CPU, of the clip that `SPEC` names.

    Encoded on the decoder's device in float32, four frames at a time; the last are kept.

    Raises:
        ValueError: a size that cannot be, a caption that is none, a decoder of other latents.
    """
    caption = clip_caption(text, seed)
    units, height, width = (int(side) for side in _parts(text)[:3])
    check_takes(text, decoder)
    latent_size(text, Traits.of(decoder), units, height, width)
    return _encoded(caption, units, height, width, seed, decoder.device)


def check_takes(text: str, decoder: Any) -> None:
    """ValueError for a decoder of other latents than those of clips."""
    traits, channels = Traits.of(decoder), decoder.latent_channels
    takes = (traits.medium.name, channels, *traits.spatial_factor, traits.temporal_factor)
    if takes != ("video", 16, 8, 8, 4):
        raise ValueError(
            f"latents {text!r} are those of Wan 2.1's VAE, video in 16 channels, 8x8 in space and "
            f"4 in time; decoder {decoder.name!r} makes {traits.medium.called} of others; use "
            f"random:{traits.medium.sample} or a file"
        )


def clip_caption(text: str, seed: int) -> str:
    """What the clip shows; without a caption in ``text`` the seed says.

    Raises:
        ValueError: no clip of this world; says what there is.
    """
    said, clips = _parts(text)[3], _clips()
    try:
        drawn = clips.parse(said) if said else clips.random_scene(_chance(seed, 0))
    except ValueError as error:
        raise ValueError(f"latents {text!r}: {error}") from error
    caption: str = drawn.caption
    return caption


def _parts(text: str) -> tuple[str, ...]:
    """Frames, height, width and caption, which may be missing."""
    found = SPEC.fullmatch(text)
    if found is None:
        raise ValueError(
            f"latents {text!r}: write clips:FRAMESxHxW or clips:FRAMESxHxW:CAPTION, e.g. "
            "clips:161x480x832 or 'clips:33x96x160:a red star rotates over a gray background'"
        )
    return found.groups()


def _chance(seed: int, what: int) -> np.random.Generator:
    return np.random.default_rng((seed, what))


@cache
def _clips() -> Any:
    """``clips.py`` of the miniature, which is data to the package."""
    from vdkit.models.loading import shipped

    file = shipped("tiny-wan") / "clips.py"
    spec = spec_from_file_location(NAME, file)
    assert spec is not None and spec.loader is not None
    sys.modules[NAME] = module = module_from_spec(spec)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
@torch.inference_mode()
def _encoded(
    caption: str, count: int, height: int, width: int, seed: int, device: torch.device
) -> torch.Tensor:
    from vdkit.models.loading import load_decoder

    clips, vae = _clips(), load_decoder("tiny-wan", device, "float32").vae
    tracks = clips.draw_tracks([clips.parse(caption)], _chance(seed, 1), count, height, width)
    convolutions = sum(isinstance(one, WanCausalConv3d) for one in vae.encoder.modules())
    memory: list[Any] = [None] * convolutions
    made = []
    with on_device(device):
        for stop in range(1, count + 1, 4):
            frames = clips.render(tracks, device, max(0, stop - 4), stop).permute(0, 4, 1, 2, 3)
            values = frames.float().div_(127.5).sub_(1.0)
            moments = vae.quant_conv(vae.encoder(values, feat_cache=memory, feat_idx=[0]))
            made.append(moments[:, : vae.config.z_dim].cpu())
    if device.type == "cuda":
        del vae, memory, frames, values, moments
        torch.cuda.empty_cache()  # what is measured next starts as without it
    return torch.cat(made, 2).clone()
