"""What to set and what to buy: the pipeline model asked about every setting within limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from vdkit.decode.chunks import MAX_SLOTS, DecodeConfig, VideoInfo
from vdkit.predict.costs import Cost, StageCosts, Storage
from vdkit.predict.recurrence import Prediction, predict, video_info

if TYPE_CHECKING:
    from vdkit.predict.grid import Sweep


CHUNKS, SLOTS = (1, 2, 4), (1, 2, 3, 4)
NEAR = 1.01
"""A setting within 1 % of the best is as good: what it saves in memory is worth more."""
BOUND = 0.95
"""A step is what bounds a run if it takes this share of the latency or more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a setting may use at the most; None: no limit.

    Attributes:
        vram_bytes: peak on the device, ring included.
        pinned_bytes: page-locked host memory of the ring.
        ttff_s: until the sink has the first frame.
    """

    vram_bytes: float | None = None
    pinned_bytes: float | None = None
    ttff_s: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"limit {field.name} is {value}; give 0 or more, or None for none")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One setting as predicted; ``over``: the limits that it breaks, in words."""

    config: DecodeConfig
    prediction: Prediction
    over: tuple[str, ...]

    @property
    def latency_s(self) -> float:
        return self.prediction.run.latency_s


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A resource made twice as fast, at the same setting.

    Attributes:
        resource: ``storage``, ``PCIe`` or ``decoder``.
        latency_s: predicted.
        gain_percent: latency saved, %.
    """

    resource: str
    latency_s: float
    gain_percent: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A setting, why, and what would help next.

    Attributes:
        config: chunk size and slots to use.
        prediction: of that setting.
        best_latency_s: of the fastest setting within the limits.
        bound: the step that the latency cannot fall below: ``storage``, ``decoder``, ``PCIe``,
            ``host``, or None if none fills `BOUND` of the run.
        reason: one sentence.
        what_if: the largest gain first.
        candidates: every setting asked about, also those over the limits.
    """

    config: DecodeConfig
    prediction: Prediction
    best_latency_s: float
    bound: str | None
    reason: str
    what_if: tuple[WhatIf, ...]
    candidates: tuple[Candidate, ...]


def recommend(
    costs: StageCosts,
    limits: Limits = Limits(),
    *,
    info: VideoInfo,
    chunks: Sequence[int] = CHUNKS,
    slots: Sequence[int] = SLOTS,
    config: DecodeConfig = DecodeConfig(),
    temporal_factor: int = 4,
) -> Recommendation:
    """The smallest chunk and then slots of mode async within 1 % of the best predicted latency.

    Chunk size comes first, because it costs more memory than slots do.

    Args:
        costs: of the machine, decoder, frame size and sink; beyond the chunk sizes that they were
            fitted from they are extrapolated.
        info: the video.
        chunks, slots: what may be chosen.
        config: the primitives.

    Raises:
        ValueError: nothing to choose from, no setting within the limits (names the least that each
            would have to be), or a limit on VRAM where the costs do not know it.
    """
    if not chunks or not slots:
        raise ValueError("nothing to choose from: give at least one chunk size and one slot count")
    candidates = []
    for size in sorted(set(chunks)):
        for count in sorted(set(slots)):
            one = replace(config, chunk_size=size, slots=count)
            made = predict(costs, info, one, temporal_factor=temporal_factor)
            candidates.append(Candidate(one, made, _over(made, limits)))
    allowed = [candidate for candidate in candidates if not candidate.over]
    if not allowed:
        raise ValueError(f"no setting keeps the limits; {_least(candidates, limits)}")
    best = min(candidate.latency_s for candidate in allowed)
    chosen = next(candidate for candidate in allowed if candidate.latency_s <= NEAR * best)
    what_if = _what_if(costs, info, chosen, temporal_factor)
    bound = _bound(chosen)
    return Recommendation(
        chosen.config,
        chosen.prediction,
        best,
        bound,
        _reason(costs, info, chosen, bound, candidates, what_if, temporal_factor),
        what_if,
        tuple(candidates),
    )


def _over(made: Prediction, limits: Limits) -> tuple[str, ...]:
    run = made.run
    if limits.vram_bytes is not None and run.vram_peak_bytes is None:
        raise ValueError(
            "VRAM is limited, but these costs do not know it at every chunk size asked for: fit "
            "them from GPU runs at two chunk sizes or more, ask only for the fitted one, or give "
            "StageCosts.vram_bytes"
        )
    used = {"vram_bytes": run.vram_peak_bytes, "pinned_bytes": run.pinned_bytes,
            "ttff_s": run.ttff_s}  # fmt: skip
    return tuple(
        name
        for name, value in used.items()
        if (most := getattr(limits, name)) is not None and value is not None and value > most
    )


def _least(candidates: Sequence[Candidate], limits: Limits) -> str:
    """The least of each limited quantity, in words."""
    words = {
        "vram_bytes": ("VRAM", 1e9, "GB", lambda run: run.vram_peak_bytes),
        "pinned_bytes": ("pinned memory", 1e6, "MB", lambda run: run.pinned_bytes),
        "ttff_s": ("time to the first frame", 1.0, "s", lambda run: run.ttff_s),
    }
    said = []
    for name, (what, scale, unit, value) in words.items():
        most = getattr(limits, name)
        if most is not None:
            least = min(value(candidate.prediction.run) for candidate in candidates)
            said.append(
                f"{what} is at least {least / scale:.3g} {unit} (the limit is "
                f"{most / scale:.3g} {unit})"
            )
    return ", ".join(said) + "; loosen one, or allow smaller chunks or fewer slots"


def _busy_s(candidate: Candidate) -> dict[str, float]:
    """Seconds that each resource works in the run, waiting for others left out."""

    def total(step: str) -> float:
        return sum(c.span_s(step) or 0.0 for c in candidate.prediction.run.chunks)

    run = candidate.prediction.run
    sink_s = (run.sink_open_s or 0.0) + (run.sink_close_s or 0.0)
    return {
        "decoder": total("decode"),
        "storage": total("write") + sink_s,
        "PCIe": total("copy"),
        "host": total("convert"),
    }


def _bound(candidate: Candidate) -> str | None:
    busy = _busy_s(candidate)
    most = max(busy, key=lambda name: busy[name])
    return most if busy[most] >= BOUND * candidate.latency_s else None


def _what_if(
    costs: StageCosts, info: VideoInfo, chosen: Candidate, factor: int
) -> tuple[WhatIf, ...]:
    def half(cost: Cost | None) -> Cost | None:
        return None if cost is None else cost.times(0.5)

    disk, write = costs.storage, half(costs.write)
    decode = costs.decode.times(0.5)
    changed = {
        "storage": replace(costs, write=write)
        if disk is None
        else replace(costs, write=write, storage=replace(disk, mb_per_s=2 * disk.mb_per_s)),
        "PCIe": replace(costs, copy=half(costs.copy), pageable_copy=half(costs.pageable_copy)),
        "decoder": replace(costs, decode=decode)
        if costs.cuda
        else replace(costs, decode=decode, launch=costs.launch.times(0.5)),
    }
    found = []
    for resource, faster in changed.items():
        latency_s = predict(faster, info, chosen.config, temporal_factor=factor).run.latency_s
        found.append(WhatIf(resource, latency_s, 100 * (1 - latency_s / chosen.latency_s)))
    return tuple(sorted(found, key=lambda one: -one.gain_percent))


_REMEDY = {
    "storage": "a faster disk",
    "PCIe": "a faster link to the host",
    "decoder": "a faster decoder",
}
_NAMES = {
    "storage": "writing",
    "PCIe": "copying",
    "decoder": "decoding",
    "host": "converting on the host",
}


def seconds(value_s: float) -> str:
    """Three digits, as ``3.65 s`` or ``41.2 ms``."""
    return f"{value_s:.3g} s" if value_s >= 1 else f"{1e3 * value_s:.3g} ms"


def _reason(
    costs: StageCosts,
    info: VideoInfo,
    chosen: Candidate,
    bound: str | None,
    candidates: Sequence[Candidate],
    what_if: Sequence[WhatIf],
    factor: int,
) -> str:
    """Why this setting: what bounds it, whether slots would help, what would."""
    fastest = min(candidate.latency_s for candidate in candidates)
    more = replace(chosen.config, slots=MAX_SLOTS)
    with_more_s = predict(costs, info, more, temporal_factor=factor).run.latency_s
    slots_help = with_more_s * NEAR < chosen.latency_s
    busy = _busy_s(chosen)
    if bound == "storage" and costs.storage is not None:
        held = f"{costs.storage.mb_per_s:g} MB/s holds every setting at {seconds(fastest)} or more"
    elif bound is not None:
        held = f"{_NAMES[bound]} takes {busy[bound]:.3g} of {seconds(chosen.latency_s)}"
    else:
        order = sorted(busy, key=lambda name: -busy[name])[:2]
        held = " and ".join(f"{_NAMES[name]} ({seconds(busy[name])})" for name in order)
        held += f" overlap only in part in {seconds(chosen.latency_s)}"
    slots = (
        f"more slots would bring {seconds(with_more_s)} but are not allowed"
        if slots_help
        else "more slots do not help"
    )
    first = what_if[0]
    if first.gain_percent < 100 * (NEAR - 1):
        helps = "and neither does a resource of twice the speed"
    else:
        helps = f"{_REMEDY[first.resource]} does (x 2: {seconds(first.latency_s)})"
        helps = helps if not slots_help else f"and {helps}"
    return f"{f'{bound}-bound' if bound else 'not bound by one step'}: {held}; {slots}, {helps}"


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
