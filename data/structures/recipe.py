"""Which structures are compared, at what sizes, and for how long all of them are trained.

Widths are multiples of 8, and ``dim_mult`` makes parameters equal within 5 %.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from clips import FPS, FRAMES, HEIGHT, WIDTH
from diffusers import AutoencoderKLWan
from recipe import encode
from torch import nn
from train import LOG_VARIANCE

from data.structures.structures import FactorizedVAE, HierarchicalVAE, hold_still, unpack

MOST_PARAMETERS = 1_450_000  # 2.9 MB in float16
STEPS, BATCH, RATE = 6000, 8, 3e-4
"""Steps of a training at the most, clips a step (2.1 million pixels on average), highest learning
rate. `data.structures.together` measures how many steps there is time for, and gives all as many.
"""
IMAGES = 0.6  # share of the steps on single frames: they take a fifth of the time
WINDOW = 17  # frames of a clip in the middle part of a training: a whole segment of each structure
CUTS = 8  # of so many clips one has a cut, and one of fewer


@dataclass(frozen=True, slots=True)
class Structure:
    """A kind of latents.

    Attributes:
        make: the model's class.
        config: its arguments.
        channels: of its latents, as its decoder takes them.
        spatial, temporal: pixels and frames to a latent, as its decoder takes them.
        parts: channels of the levels or kinds that it packs, in so many latents as ``channels``.
    """

    make: Any
    config: dict[str, Any]
    channels: int
    spatial: int = 8
    temporal: int = 4
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Values of the pictures to a value of the latents."""
        return 3 * self.spatial**2 * self.temporal / self.channels

    def latent_bytes_per_s(
        self, height: int = HEIGHT, width: int = WIDTH, part: str | None = None
    ) -> float:
        """Of float16 latents, or of a part of them, to a second of video at `FPS`."""
        channels = self.parts[part] if part else self.channels
        a_second = FPS / self.temporal * (height / self.spatial) * (width / self.spatial)
        return 2 * channels * a_second


def _standard(z_dim: int, mult: tuple[int, ...], sixteenth: bool = False) -> Structure:
    """Stock diffusers; at 16x16 by patches of 2x2 pixels, as Wan 2.2's."""
    config: dict[str, Any] = {
        "base_dim": 8, "decoder_base_dim": 8, "z_dim": z_dim, "dim_mult": [*mult],
        "latents_mean": [0.0] * z_dim, "latents_std": [1.0] * z_dim,
    }  # fmt: skip
    if sixteenth:
        config |= {"in_channels": 12, "out_channels": 12}
        config |= {"patch_size": 2, "scale_factor_spatial": 16}
    return Structure(AutoencoderKLWan, config, z_dim, 16 if sixteenth else 8)


STRUCTURES = {
    "z4-8x8x4": _standard(4, (1, 2, 3, 6)),
    "z8-8x8x4": _standard(8, (1, 2, 3, 6)),
    "z16-8x8x4": _standard(16, (1, 2, 5, 5)),
    "z32-8x8x4": _standard(32, (1, 2, 5, 5)),
    "z16-16x16x4": _standard(16, (1, 2, 5, 5), True),
    "z48-16x16x4": _standard(48, (1, 3, 4, 5), True),
    "hierarchical": Structure(  # as many values as z16-8x8x4, the preview those of z16-16x16x4
        HierarchicalVAE, {"dim_mult": [1, 2, 4, 4], "fine_mult": [1, 2, 3, 4]},
        64, 16, 4, {"fine": 48, "coarse": 16},
    ),
    "factorized": Structure(  # half the values of z16-8x8x4
        FactorizedVAE, {"dim_mult": [1, 3, 6, 8]}, 128, 16, 16, {"content": 64, "motion": 64}
    ),
}  # fmt: skip
"""By name; a name of the standard family says channels and ratio."""
MINIATURE = "miniature"
KNOWN = STRUCTURES | {MINIATURE: Structure(AutoencoderKLWan, {}, 16)}
"""With the VAE of ``data/tiny-wan``, larger and trained for longer, to compare them with."""


def make(name: str, seed: int = 0) -> Any:
    """An untrained model, its weights by the seed; the caller's random state is left alone.

    Raises:
        ValueError: no such structure.
    """
    if name not in STRUCTURES:
        raise ValueError(f"structure {name!r} is unknown; use {', '.join(STRUCTURES)}")
    structure = STRUCTURES[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = structure.make(**structure.config)
        hold_still(model)
        for head in heads(model):
            head.bias[len(head.bias) // 2 :] = LOG_VARIANCE
    return model


def heads(model: Any) -> tuple[nn.Conv3d, ...]:
    """The convolutions that make latents: means first, then logarithms of variances."""
    if isinstance(model, AutoencoderKLWan):
        return (model.quant_conv,)
    return model.encoder.large, model.encoder.small


@torch.no_grad()
def level(model: Any, video: torch.Tensor) -> None:
    """Make the latents of pictures [B, 3, 1, H, W] 0 in the mean and 1 in spread, by channel.

    Of an untrained model they differ by less than the noise that is added: nothing passes, and
    hundreds of steps are lost.
    """
    latents, made = encode(model, video).chunk(2, 1)[0], heads(model)
    packed = len(made) > 1
    parts = unpack(latents, len(made[0].bias) // 2, model.encoder.span) if packed else (latents,)
    for head, part in zip(made, parts, strict=True):
        axes, count = (0, *range(2, part.ndim)), part.shape[1]
        spread = part.std(axes)
        head.bias[:count] = (head.bias[:count] - part.mean(axes)) / spread
        head.weight[:count] /= spread.view(-1, 1, 1, 1, 1)


def check_size(frames: int, height: int, width: int) -> None:
    """Whether every structure can code clips of this size.

    Raises:
        ValueError: one cannot.
    """
    if frames % 16 != 1 or height % 16 or width % 16:
        raise ValueError(
            f"clips of {frames}x{height}x{width}: use 16 n + 1 frames, and sides that are "
            "multiples of 16"
        )


def parameters_of(model: nn.Module) -> int:
    """How many there are."""
    return sum(parameter.numel() for parameter in model.parameters())


def facts(name: str, model: nn.Module) -> dict[str, Any]:
    """What is known of a structure before it is measured."""
    one = KNOWN[name]
    return {
        "structure": name, "class": type(model).__name__, "parameters": parameters_of(model),
        "channels": one.channels, "spatial": one.spatial, "temporal": one.temporal,
        "ratio": one.ratio, "latent_bytes_per_s": one.latent_bytes_per_s(),
        "latent_bytes_per_s_of": {part: one.latent_bytes_per_s(part=part) for part in one.parts},
        "clips": {"frames": FRAMES, "height": HEIGHT, "width": WIDTH, "fps": FPS},
    }  # fmt: skip
