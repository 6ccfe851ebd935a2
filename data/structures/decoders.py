"""The structures' decoders, for vdkit: streamed, whole or by their preview, or as each chunk needs.

    vdkit probe data.structures.decoders:hierarchical

from the top of the repository. The standard family is stock diffusers, and loads by its folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch

from data.structures import HOME
from data.structures.recipe import STRUCTURES
from data.structures.structures import HierarchicalVAE, PackedVAE, unpack
from vdkit.models.loading import resolve_device, resolve_dtype
from vdkit.models.wan import WanDecoder, WanState, check_order

TOLERATED = 0.05  # share of the chunks decoded coarsely that may lose more than they should


def complexity(latents: torch.Tensor, fine_channels: int) -> torch.Tensor:
    """Of every latent frame of packed [1, C, T, h, w], float32 [T]: how much the fine level holds.

    The standard deviation of its values over the picture, the root mean square over channels. A
    constant is no detail.
    """
    fine, _ = unpack(latents.float(), fine_channels, 1)
    return fine[0].var((2, 3), correction=0).mean(0).sqrt()


def coarse_chunks(latents: torch.Tensor, fine_channels: int, threshold: float) -> list[bool]:
    """Which latent frames may take the coarse decode: whose `complexity` is below ``threshold``.

    The first may not, unless all may (``inf``): the fine level has to begin with it.
    """
    if threshold in (0, math.inf):
        return [threshold > 0] * latents.shape[2]
    below: list[bool] = (complexity(latents, fine_channels) < threshold).tolist()
    return [False, *below[1:]]


def calibrate(complexities: torch.Tensor, lost_db: torch.Tensor, allowed_db: float) -> float:
    """The threshold of `coarse_chunks` that saves most at equal quality.

    Args:
        complexities, lost_db: [N] of chunks: what each is, and what the coarse decode costs it.
        allowed_db: what it may cost; more than that only `TOLERATED` of the chunks below.

    Returns:
        0.0 where no chunk may.
    """
    order = complexities.double().sort()
    above = (lost_db.to(order.indices.device)[order.indices] > allowed_db).double().cumsum(0)
    counts = torch.arange(1, len(above) + 1, device=above.device)
    # equal ones are on one side of a threshold
    ends = torch.cat((order.values[:-1] < order.values[1:], torch.ones_like(counts[:1]).bool()))
    good = torch.nonzero((above <= TOLERATED * counts) & ends).flatten()
    if not len(good):
        return 0.0
    last = int(good[-1])
    following = order.values[last + 1] if last + 1 < len(counts) else 2 * order.values[last]
    return float((order.values[last] + following) / 2)


@dataclass(slots=True)
class LevelsState(WanState):
    """As `WanState`, and which latent frames take the coarse decode."""

    coarse: tuple[bool, ...] = ()


class PackedDecoder(WanDecoder):
    """`WanDecoder` of a `PackedVAE`."""

    @property
    def working_bytes(self) -> Any:
        """Not there: it counts the blocks of Wan's own decoder."""
        raise AttributeError("working_bytes")

    def decode_video(
        self, latents: torch.Tensor, before_frame: Callable[[int], None]
    ) -> torch.Tensor:
        """All of [1, C, T, h, w], latent frame by latent frame: diffusers has no other way."""
        state, made = self.begin(latents), []
        for t in range(latents.shape[2]):
            before_frame(t)
            made.append(self.decode_chunk(state, t, t + 1))
        return torch.cat(made, 2)


class LevelsDecoder(PackedDecoder):
    """`PackedDecoder` of a `HierarchicalVAE`, which decodes latent frames in full or coarsely.

    Args:
        vae, name: as for `WanDecoder`.
        threshold: of `coarse_chunks`: 0 decodes all in full, ``inf`` gives the preview of all.
    """

    def __init__(self, vae: HierarchicalVAE, name: str, threshold: float = 0.0) -> None:
        super().__init__(vae, name)
        self.threshold = threshold

    def begin(self, latents: torch.Tensor) -> LevelsState:
        """As `WanDecoder.begin`; an adaptive decode waits for the device once, here."""
        state = super().begin(latents)
        coarse = coarse_chunks(latents, self.vae.config.fine_channels, self.threshold)
        return LevelsState(state.latents, state.cache, coarse=tuple(coarse))

    def decode_chunk(self, state: LevelsState, start: int, stop: int) -> torch.Tensor:
        """As `WanDecoder.decode_chunk`. The fine level, where it was left out, goes on from what it
        saw last."""
        check_order(state.next_start, start, stop, state.latents.shape[2])
        made = []
        for coarse, positions in groupby(range(start, stop), key=lambda t: state.coarse[t]):
            self.vae.decoder.full = not coarse
            begin, *rest = positions
            made.append(super().decode_chunk(state, begin, begin + 1 + len(rest)))
        return made[0] if len(made) == 1 else torch.cat(made, 2)


def decoders_of(name: str, model: Any) -> dict[str, WanDecoder]:
    """Every way to decode a structure's latents, ``full`` first."""
    if not isinstance(model, HierarchicalVAE):
        kind = PackedDecoder if isinstance(model, PackedVAE) else WanDecoder
        return {"full": kind(model, name)}
    thresholds = {"full": 0.0, "preview": math.inf}
    if model.config.adaptive_threshold is not None:
        thresholds["adaptive"] = model.config.adaptive_threshold
    return {way: LevelsDecoder(model, f"{name}, {way}", at) for way, at in thresholds.items()}


def shipped(name: str, way: str = "full") -> WanDecoder:
    """A trained structure's decoder, on the GPU in float16 or on the CPU in float32.

    Raises:
        FileNotFoundError: it was not trained yet.
    """
    folder, device = HOME / name, resolve_device("auto")
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no weights; train them: python -m data.structures.together --help"
        )
    dtype = resolve_dtype(None, device)
    model = STRUCTURES[name].make.from_pretrained(folder, torch_dtype=dtype)
    ways = decoders_of(name, model.to(device))
    if way not in ways:
        raise ValueError(f"{folder} has no {way!r} decode; use {', '.join(ways)}")
    return ways[way]


hierarchical, preview, adaptive = (
    partial(shipped, "hierarchical", way) for way in ("full", "preview", "adaptive")
)
factorized = partial(shipped, "factorized")
