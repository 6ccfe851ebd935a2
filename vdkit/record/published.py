"""The published figures that vdkit is read beside, and what follows from them by arithmetic.

AWS and Synthesia, 2026-05-19, "How Synthesia optimizes generative AI video inference on Amazon EC2
G7e instances": the Wan 2.1 VAE decoder of diffusers on one g7e.2xlarge, 41 latent frames, one
warm-up and ten decodes of each path. The money of the same post is in `vdkit.record.money`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vdkit.record.money import PUBLISHED_ASYNC_S, PUBLISHED_SYNC_S

PUBLISHED_SOURCE = "AWS and Synthesia, 2026-05-19"
PUBLISHED_DEVICE = "G7e (RTX PRO 6000)"
PUBLISHED_RUNS = 10


@dataclass(frozen=True, slots=True)
class Published:
    """One path of the post.

    Attributes:
        min_s, mean_s, p99_s: latency of ten decodes, s.
        utilization_percent: kernel utilization over two consecutive chunks in the steady state.
        rtf: real-time factor.
    """

    min_s: float
    mean_s: float
    p99_s: float
    utilization_percent: float
    rtf: float

    @property
    def busy_s(self) -> float:
        """Kernel seconds of a run, if the utilization were that of the whole run."""
        return self.mean_s * self.utilization_percent / 100

    @property
    def slowest_s(self) -> tuple[float, float]:
        """Bounds of the slowest decode, s: the linear P99 of ten lies between the two slowest.

        At least P99 itself; at most what P99 allows with the second slowest as fast as the fastest.
        """
        _, share = p99_ranks(PUBLISHED_RUNS)
        return self.p99_s, (self.p99_s - (1 - share) * self.min_s) / share


PUBLISHED = {
    "sync": Published(21.98, PUBLISHED_SYNC_S, 22.01, 82.0, 3.21),
    "async": Published(20.16, PUBLISHED_ASYNC_S, 20.20, 99.9, 2.95),
}
"""Mode to its figures."""


def p99_ranks(n: int) -> tuple[int, float]:
    """(rank, share): the linear P99 of n values is share of the way from that rank to the next.

    Ranks count from 1, the smallest value; for fewer than 101 values the next one is the largest.

    Raises:
        ValueError: fewer than two values have no two to lie between.
    """
    if n < 2:
        raise ValueError(f"P99 of {n} values lies between no two of them; use 2 or more")
    place = 99 * (n - 1)
    return place // 100 + 1, place % 100 / 100


def implied_sync_percent() -> float:
    """Utilization of a whole published sync run, if its kernels take as long as those of async.

    Both paths run the same decoder, and async is at most busy for its whole run, so this is close
    to the largest that sync's can be over a whole run.
    """
    return 100 * PUBLISHED["async"].busy_s / PUBLISHED["sync"].mean_s
