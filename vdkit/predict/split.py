"""What a decode split over GPUs by rows takes, from one GPU's time and what is exchanged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What a rank sends for each latent frame of a steady chunk, how often and how many bytes: to
    its neighbors, which share the link, and to all."""

    halos: float
    halo_bytes: float
    gathers: float
    gather_bytes: float


@dataclass(frozen=True, slots=True)
class Link:
    """Between two GPUs: bytes a second in one direction, and what an exchange of no bytes takes,
    with the small kernels around it."""

    bytes_per_s: float
    exchange_s: float


def predict_split(
    one_s: float, share: float, sent: Exchanged, link: Link, launch_s: float = 0.0
) -> dict[str, float]:
    """Seconds per latent frame by cause: ``compute``, ``halo``, ``gather`` and ``launches``.

    Their sum is the time of the slowest rank, for nothing overlaps.

    Args:
        one_s: of one GPU, steady, per latent frame: of the whole picture, or of a strip of it.
        share: of that picture, what the rank with most rows has; 1 / ranks if it divides.
        launch_s: of the host, to launch a latent frame; the GPU waits where that is longer.
    """
    made = {
        "compute": one_s * share,
        "halo": sent.halos * link.exchange_s + sent.halo_bytes / link.bytes_per_s,
        "gather": sent.gathers * link.exchange_s + sent.gather_bytes / link.bytes_per_s,
    }
    return made | {"launches": max(0.0, launch_s - sum(made.values()))}
