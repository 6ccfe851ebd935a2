"""Where the explorer gets decoders, latents and sinks; `vdkit.explore` has the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from vdkit.decode.protocols import ChunkDecoder
    from vdkit.measure.bench import SinkFactory
    from vdkit.measure.records import SinkInfo


class Workshop(Protocol):
    """Where a session gets what it measures.

    Attributes:
        machine: what costs measured here are filed under, e.g. ``this machine (NVIDIA H200)``.
        dtype: of the decoders it loads, as records name it.
        vram_bytes: device memory; None on a CPU.
        decoders, variants, sinks: names to choose from.
        own: those of them that the command line does not know.
    """

    machine: str
    dtype: str
    vram_bytes: int | None
    decoders: Sequence[str]
    variants: Sequence[str]
    sinks: Sequence[str]
    own: Sequence[str]

    def load(self, decoder: str, variant: str) -> ChunkDecoder:
        """A decoder; raises whatever loading it raises."""

    def latents(
        self, decoder: ChunkDecoder, latent_frames: int, height: int, width: int
    ) -> torch.Tensor:
        """Latents [1, C, T, h, w] of a video of this size in pixels."""

    def sink(self, name: str, folder: str, mb_per_s: float | None) -> tuple[SinkFactory, SinkInfo]:
        """A factory of fresh sinks, and how records describe them."""
