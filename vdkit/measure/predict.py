"""The pipeline as a model: from what each step costs to when each step of each chunk happens.

Gives the records of a real run, so that the same plots, tables and stall causes read them. The
costs come from `vdkit.measure.costs` (typed in) or `vdkit.measure.fit` (recorded runs), the rules
from `vdkit.measure.recurrences`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vdkit.decode.chunks import (
    Chunk,
    DecodeConfig,
    DecodeResult,
    VideoInfo,
    exact_fps,
    latent_frames,
    plan_chunks,
)
from vdkit.measure.costs import Cost, StageCosts, check_seconds
from vdkit.measure.recurrences import MODES, Pipeline, converts_on_gpu, d2h_value_bytes, is_pinned
from vdkit.measure.stalls import Stalls, stalls_from_records
from vdkit.measure.windows import busy_percent

if TYPE_CHECKING:
    from vdkit.measure.records import BenchmarkResult

_CLOCK_S = 1e-9  # stall causes are whole nanoseconds


@dataclass(frozen=True, slots=True)
class Prediction:
    """A modelled run.

    Attributes:
        run: as a decode path returns it, with one `ChunkRecord` per chunk; its device is
            ``predicted``, its ``vram_peak_bytes`` None where `StageCosts.vram_bytes` does not tell.
        stalls: of the window from the first launch to the end, at chunk resolution.
        utilization_percent: share of each window in which the compute stream was at work, %:
            ``run`` and, if there are chunks enough, ``steady`` and ``two chunks``
            (`vdkit.measure.windows`).
    """

    run: DecodeResult
    stalls: Stalls
    utilization_percent: dict[str, float]


def predict(
    costs: StageCosts,
    info: VideoInfo,
    config: DecodeConfig = DecodeConfig(),
    mode: str = "async",
    *,
    temporal_factor: int = 4,
    replay: Mapping[str, Sequence[float]] | None = None,
) -> Prediction:
    """Every start and end of one run of one decode path.

    Args:
        costs: of the machine, decoder, frame size and sink.
        info: the video; the costs must be those of its frame size.
        config: chunk size, slots and primitives, read as the path itself reads them.
        mode: ``diffusers``, ``sync``, ``async`` or ``compute``.
        temporal_factor: pixel frames per latent frame after the first.
        replay: step (launch, decode, copy, convert, write) to measured seconds by chunk, in place
            of the costs, e.g. from `vdkit.measure.costs.recorded_times`. A replayed decode already
            holds ``lead``, and a replayed write ``storage``: neither is added again.

    Raises:
        ValueError: unknown mode, a cost that this path needs and that is not known, or a replay
            that does not fit; names the value and what to do.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; use one of {', '.join(MODES)}")
    count = latent_frames(info.frames, temporal_factor)
    if mode == "diffusers":
        chunks: tuple[Chunk, ...] = (Chunk(0, 0, count, 0, info.frames),)
    else:
        chunks = plan_chunks(count, config.chunk_size, temporal_factor)
    times = _times(costs, chunks, config, mode, temporal_factor)
    if replay is not None:
        times |= _checked_replay(replay, times, len(chunks), mode)
        costs = replace(
            costs,
            lead=Cost() if "decode" in replay else costs.lead,
            storage=None if "write" in replay else costs.storage,
        )
    for index, seconds in enumerate(times["decode"]):
        if seconds < _CLOCK_S:
            raise ValueError(
                f"decode takes {seconds} s for chunk {index}; its cost must be {_CLOCK_S} s or more"
            )
    model = Pipeline(costs, times, config, chunks, info, mode)
    latency_s = model.walk()
    return _prediction(model, info, mode, latency_s)


def video_info(result: BenchmarkResult) -> VideoInfo:
    """The video of a recorded benchmark."""
    load = result.workload
    return VideoInfo(load.frames, load.height, load.width, exact_fps(load.fps))


def _times(
    costs: StageCosts, chunks: Sequence[Chunk], config: DecodeConfig, mode: str, factor: int
) -> dict[str, list[float]]:
    """Seconds of each step that the path has, by chunk."""

    def column(cost: Cost, scale: int = 1) -> list[float]:
        return [cost.seconds(chunk.frames * scale, chunk.index == 0) for chunk in chunks]

    if mode == "diffusers":  # one call of the decoder per latent frame
        calls = plan_chunks(chunks[0].latent_stop, 1, factor)
        found = {
            name: [sum(cost.seconds(call.frames, call.index == 0) for call in calls)]
            for name, cost in (("launch", costs.launch), ("decode", costs.decode))
        }
        found["convert"] = column(costs.known("video_convert", "mode diffusers"))
        return found | {"write": column(costs.known("write", "mode diffusers"))}
    found = {"launch": column(costs.launch), "decode": column(costs.decode)}
    if mode == "compute":
        return found
    pinned = is_pinned(costs, config, mode)
    off = "" if mode == "sync" or (pinned and config.uint8_on_gpu) else " without a primitive"
    why = f"mode {mode}{off}"
    copy = costs.known("copy" if pinned else "pageable_copy", why)
    found["copy"] = column(copy, d2h_value_bytes(costs, config, mode))
    if not converts_on_gpu(config, mode):
        found["convert"] = column(costs.known("convert", why))
    return found | {"write": column(costs.known("write", why))}


def _checked_replay(
    replay: Mapping[str, Sequence[float]], times: Mapping[str, object], count: int, mode: str
) -> dict[str, list[float]]:
    for step, seconds in replay.items():
        if step not in times:
            raise ValueError(
                f"replay has {step!r}, a step that this {mode} run lacks; leave it out, it has "
                f"{', '.join(times)}"
            )
        if not hasattr(seconds, "__len__"):
            raise ValueError(f"replay of {step} is {seconds!r}; give seconds, one for each chunk")
        if len(seconds) != count:
            raise ValueError(
                f"replay of {step} has {len(seconds)} times for {count} chunks; replay with the "
                "recorded run's own video and chunk size"
            )
        for index, value in enumerate(seconds):
            check_seconds(f"replay of {step}, chunk {index},", value)
    return {step: [float(value) for value in seconds] for step, seconds in replay.items()}


def _prediction(model: Pipeline, info: VideoInfo, mode: str, latency_s: float) -> Prediction:
    most = max(record.frame_stop - record.frame_start for record in model.records)
    value_bytes = 1 if mode == "compute" else d2h_value_bytes(model.costs, model.config, mode)
    buffers = {"async": model.slots, "compute": 1}.get(mode, 0)
    ring_bytes = buffers * most * info.frame_bytes * value_bytes
    beside = None if mode == "diffusers" else model.costs.vram_peak_bytes(most)
    has_sink = mode != "compute"
    run = DecodeResult(
        mode=mode,
        device="predicted",
        info=info,
        config=model.config,
        started_s=0.0,
        latency_s=latency_s,
        ttff_s=model.records[0].write_done_s,
        sink_open_s=model.sink_open_s if has_sink else None,
        sink_close_s=model.sink_close_s,
        pinned_bytes=ring_bytes if model.pinned else 0,
        ring_bytes=ring_bytes,
        vram_peak_bytes=None if beside is None else beside + ring_bytes,
        device_mallocs_steady=None,
        clock_residual_s=0.0,
        chunks=tuple(model.records),
    )
    return Prediction(run, stalls_from_records(run, model.config), busy_percent(run))
