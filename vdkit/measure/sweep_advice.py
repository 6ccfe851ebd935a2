"""What a sweep's fitted costs recommend, for storage of any speed. No torch, no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vdkit.measure.advice import Limits, Recommendation, recommend
from vdkit.measure.costs import Storage
from vdkit.measure.predict import predict, video_info

if TYPE_CHECKING:
    from vdkit.measure.sweep_records import Sweep


@dataclass(frozen=True, slots=True)
class StoragePoint:
    """What storage of one speed asks for.

    Attributes:
        mb_per_s: storage speed, MB/s (10**6 bytes).
        advice: chunk size and slots of mode async, and their predicted latency.
        sync_s: predicted latency of mode sync at that chunk size; None if no cell ran it.
        storage_s: time that storage of that speed takes for the frames alone.
    """

    mb_per_s: float
    advice: Recommendation
    sync_s: float | None
    storage_s: float


def recommend_from(
    sweep: Sweep, limits: Limits = Limits(), mb_per_s: float | None = None
) -> Recommendation:
    """`recommend` by a sweep's costs, among the chunk sizes and slots that it asked about.

    Args:
        limits: what a setting may use.
        mb_per_s: storage speed, MB/s; None: as fast as the swept sink goes.

    Raises:
        ValueError: the sweep has no fitted costs or no measured cell of mode async; or as
            `recommend`.
    """
    grid = [cell for cell in sweep.plan.all_cells if cell.mode == "async"]
    if sweep.predictions is None or not any(cell in sweep.results for cell in grid):
        raise ValueError(
            f"{sweep.plan.label} has no fitted costs of mode async; sweep async, to the end"
        )
    costs = sweep.predictions.costs
    return recommend(
        costs if mb_per_s is None else replace(costs, storage=Storage(mb_per_s)),
        limits,
        info=video_info(next(iter(sweep.results.values()))),
        chunks=sorted({cell.chunk_size for cell in grid}),
        slots=sorted({cell.slots for cell in grid if cell.slots is not None}),
        config=sweep.plan.config,
    )


def storage_sensitivity(
    sweep: Sweep, speeds: Sequence[float] | None = None, limits: Limits = Limits()
) -> tuple[StoragePoint, ...]:
    """The recommendation at each storage speed, and what mode sync would take.

    Args:
        speeds: MB/s; None: 33, evenly on a logarithmic axis, from where storage takes eight times
            the recommended latency at full speed to where it takes an eighth of it.

    Raises:
        ValueError: as `recommend_from`.
    """
    free = recommend_from(sweep, limits).prediction.run
    mb = free.info.frames * free.info.frame_bytes / 1e6
    if speeds is None:
        speeds = [mb / free.latency_s * 2 ** (step / 16 * 3) for step in range(-16, 17)]
    return tuple(_point(sweep, limits, speed, mb) for speed in speeds)


def _point(sweep: Sweep, limits: Limits, mb_per_s: float, mb: float) -> StoragePoint:
    advice = recommend_from(sweep, limits, mb_per_s)
    sync_s = None
    if sweep.predictions is not None and any(c.mode == "sync" for c in sweep.results):
        held = replace(sweep.predictions.costs, storage=Storage(mb_per_s))
        sync_s = predict(held, advice.prediction.run.info, advice.config, "sync").run.latency_s
    return StoragePoint(mb_per_s, advice, sync_s, mb / mb_per_s)
