"""From recorded benchmarks to the costs of each step, by least squares.

Means, not medians: a run's latency is a sum, and what stalls now and then is a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from vdkit.predict.costs import Cost, StageCosts

if TYPE_CHECKING:
    from vdkit.decode.chunks import ChunkRecord, DecodeConfig
    from vdkit.record.recording import Recording
    from vdkit.record.runs import Run

_ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


def fit_costs(*results: Recording) -> StageCosts:
    """Costs from the timed runs of one or several benchmarks of one setting, at any chunk sizes.

    ``decode`` and ``launch`` have a cost of their own for the first chunk. For the others chunks of
    two sizes are needed to tell the fixed from the per-frame part. If all have one size (a short
    last chunk is a second one), all of a decode is taken as per frame and all of a launch as fixed,
    since the kernels grow with the frames and their number does not: good at the measured chunk
    size, a guess at any other. Copy, conversion and write are taken as linear down to the one
    frame of the first chunk. Open and close are taken as fixed unless videos of two lengths were
    measured. Peak VRAM is known at the measured chunk sizes only, and between and beyond them from
    two sizes on.

    ``decode`` is of chunks that were queued in time (modes async, compute); what a decode takes
    more on an idle stream (mode sync) becomes ``lead``, less the conversion on the GPU, which
    only the former do. What no run shows stays unknown (None) or 0.

    From three sizes on (the first chunk's one frame counts for copy, conversion and write) a step
    costs at each measured size what it cost there, since host conversions stall by the call rather
    than by the frame, and copies of 20 MB and more to pageable memory often take five times as long
    as the line says. Mode sync is predicted well at the measured chunk sizes only.

    Raises:
        ValueError: no results, results that differ in more than chunk size, slots, primitives and
            video length, or a sink that was throttled, whose write cost cannot be seen.
    """
    _check_one_setting(results)
    runs = [(result.config, run) for result in results for run in result.runs if not run.warmup]
    load = results[0].workload
    element_bytes = _ELEMENT_BYTES[load.dtype]
    frame_bytes = load.height * load.width * 3
    cuda = results[0].provenance.device != "cpu"
    chunked = [(config, run) for config, run in runs if run.mode != "diffusers"]
    if not chunked:
        raise ValueError("mode diffusers alone shows no chunk; fit from a run of sync or async too")
    step_s = _mean(step for _, run in chunked for step in _steps_s(run))
    decode, launch, lead = _decode_and_launch([run for _, run in chunked])
    copies: dict[bool, _Points] = {True: _Points(), False: _Points()}
    for config, run in chunked:
        pinned = run.mode == "async" and config.pinned_memory and cuda
        for chunk in run.chunks:
            copies[pinned].add(chunk.d2h_bytes / frame_bytes, chunk.span_s("copy"))
    convert = _points(chunked, lambda chunk: chunk.span_s("convert"))
    write = _points(runs, lambda chunk: chunk.span_s("write"))
    opened, closed = _Points(), _Points()
    for _, run in runs:
        opened.add(run.chunks[-1].frame_stop, run.sink_open_s)
        closed.add(run.chunks[-1].frame_stop, run.sink_close_s)
    video = _points(
        [(config, run) for config, run in runs if run.mode == "diffusers"], _video_conversion
    )
    return StageCosts(
        decode=decode,
        launch=launch,
        lead=lead,
        copy=copies[True].fit(),
        pageable_copy=copies[False].fit(),
        convert=convert.fit(),
        video_convert=video.fit(),
        write=write.fit(),
        setup_s=_mean(_setup_s(config, run, step_s) for config, run in chunked),
        open=opened.fit("fixed") or Cost(),
        close=closed.fit("fixed") or Cost(),
        step_s=step_s,
        wake_s=_mean(wake for config, run in chunked for wake in _wakes_s(config, run)),
        element_bytes=element_bytes,
        cuda=cuda,
        vram_bytes=_vram(chunked),
    )


def _check_one_setting(results: Sequence[Recording]) -> None:
    if not results:
        raise ValueError("no benchmark to fit costs from; give one or more, as read_result reads")
    settings = [
        {
            "device": result.provenance.device,
            "decoder": result.workload.decoder,
            "dtype": result.workload.dtype,
            "height": result.workload.height,
            "width": result.workload.width,
            "sink": result.sink.kind,
            "storage": result.sink.storage,
            "durable": result.sink.durable,
        }
        for result in results
    ]
    for result, setting in zip(results, settings, strict=True):
        if result.sink.throttle_mb_per_s is not None:
            raise ValueError(
                f"{result.label!r} was throttled to {result.sink.throttle_mb_per_s} MB/s, which "
                "hides what a write costs; fit from an unthrottled run, and give the costs a "
                "Storage(mb_per_s)"
            )
        for name, value in setting.items():
            if value != settings[0][name]:
                raise ValueError(
                    f"{name} is {value!r} in {result.label!r} and {settings[0][name]!r} in "
                    f"{results[0].label!r}; fit each setting by itself"
                )
    if results[0].workload.dtype not in _ELEMENT_BYTES:
        raise ValueError(
            f"dtype is {results[0].workload.dtype!r}; known are {', '.join(_ELEMENT_BYTES)}"
        )


class _Points:
    """Measured (pixel frames, seconds) of one step."""

    def __init__(self) -> None:
        self.frames: list[float] = []
        self.seconds: list[float] = []

    def add(self, frames: float, seconds: float | None) -> None:
        if seconds is not None:
            self.frames.append(frames)
            self.seconds.append(seconds)

    def fit(self, alone: Literal["fixed", "per frame"] = "per frame") -> Cost | None:
        """Least squares with neither part below 0; one size alone gives one part, ``alone``.

        From three sizes on the means of each are kept too.
        """
        if not self.seconds:
            return None
        frames, seconds = np.array(self.frames), np.array(self.seconds)
        fixed = (float(seconds.mean()), 0.0)
        per_frame = (0.0, float(frames @ seconds / (frames @ frames)))
        if np.ptp(frames) == 0:
            return Cost(*(fixed if alone == "fixed" else per_frame))
        table = np.column_stack([np.ones_like(frames), frames])
        both = np.linalg.lstsq(table, seconds, rcond=None)[0]
        if not (both >= 0).all():  # the optimum lies on an edge, where one of the two parts is 0
            both = np.array(
                min((fixed, per_frame), key=lambda c: float(((table @ c - seconds) ** 2).sum()))
            )
        sizes = np.unique(frames)
        measured = tuple((float(s), float(seconds[frames == s].mean())) for s in sizes)
        return Cost(float(both[0]), float(both[1]), None, measured if len(measured) > 2 else ())


def _points(
    runs: Sequence[tuple[DecodeConfig, Run]], seconds: Callable[[ChunkRecord], float | None]
) -> _Points:
    points = _Points()
    for _, run in runs:
        for chunk in run.chunks:
            points.add(chunk.frame_stop - chunk.frame_start, seconds(chunk))
    return points


def _mean(values: Iterator[float]) -> float:
    """Mean, at least 0 (clocks differ by microseconds); 0 of nothing."""
    found = list(values)
    return max(0.0, float(np.mean(found))) if found else 0.0


def _decode_and_launch(runs: Sequence[Run]) -> tuple[Cost, Cost, Cost]:
    """(decode, launch, lead): queued decodes if there are any, launches that no full queue held."""
    spans = {(queued, step): _Points() for queued in (True, False) for step in ("launch", "decode")}
    first: dict[str, list[float]] = {"launch": [], "decode": []}
    for run in runs:
        for chunk in run.chunks:
            start, launched = chunk.decode_start_s, chunk.launch_done_s
            assert start is not None and launched is not None
            for step in ("launch", "decode"):
                seconds = chunk.span_s(step)
                assert seconds is not None
                if chunk.index == 0:
                    first[step].append(seconds)
                else:
                    frames = chunk.frame_stop - chunk.frame_start
                    spans[start >= launched, step].add(frames, seconds)
    late = spans[False, "decode"]
    decode = spans[True, "decode"].fit() or late.fit()
    launch = spans[False, "launch"].fit("fixed") or spans[True, "launch"].fit("fixed")
    lead = Cost()
    if decode is not None and spans[True, "decode"].seconds:
        longer: dict[float, list[float]] = {}
        for size, took in zip(late.frames, late.seconds, strict=True):
            longer.setdefault(size, []).append(took - decode.seconds(size))
        means = tuple((size, _mean(iter(longer[size]))) for size in sorted(longer))
        fixed_s = _mean(mean for _, mean in means)
        lead = Cost(fixed_s, 0.0, 0.0, means if len(means) > 1 else ())
    firsts = {step: float(np.mean(seconds)) for step, seconds in first.items()}
    decode, launch = decode or Cost(), launch or Cost()
    return (
        replace(decode, first_s=firsts["decode"]),  # holds its lead: it always finds it idle
        replace(launch, first_s=firsts["launch"]),
        lead,
    )


def _video_conversion(chunk: ChunkRecord) -> float | None:
    """Copy and conversion in mode diffusers: what lies between the decode and the write."""
    converted, decoded = chunk.convert_done_s, chunk.decode_done_s
    return None if converted is None or decoded is None else converted - decoded


def _threaded(config: DecodeConfig, run: Run) -> bool:
    return run.mode == "async" and config.writer_thread


def _setup_s(config: DecodeConfig, run: Run, step_s: float) -> float:
    """From the call until the sink opens or the first slot is asked for."""
    first = run.chunks[0]
    reached = first.slot_wait_start_s
    if reached is None:
        assert first.launch_start_s is not None
        reached = first.launch_start_s - step_s
    return reached - (0.0 if _threaded(config, run) else run.sink_open_s or 0.0)


def _steps_s(run: Run) -> Iterator[float]:
    """Mode sync: what lies between the steps of a chunk and before the next chunk's launch."""
    if run.mode != "sync":
        return
    for before, chunk in pairwise(run.chunks):
        steps = [before.span_s(step) for step in ("decode", "copy", "convert", "write")]
        assert chunk.launch_start_s is not None and before.launch_start_s is not None
        yield chunk.launch_start_s - before.launch_start_s - sum(step or 0.0 for step in steps)


def _wakes_s(config: DecodeConfig, run: Run) -> Iterator[float]:
    """From a copy's end to the writer's next step, where the writer slept on it."""
    if not (_threaded(config, run) and config.pinned_memory):
        return
    for before, chunk in pairwise(run.chunks):
        begun = chunk.write_start_s if chunk.convert_start_s is None else chunk.convert_start_s
        copied, written = chunk.copy_done_s, before.write_done_s
        if begun is not None and copied is not None and written is not None and written < copied:
            yield begun - copied


def _vram(runs: Sequence[tuple[DecodeConfig, Run]]) -> tuple[tuple[int, int], ...]:
    """(pixel frames in the largest chunk, highest peak beside the ring) of every chunk size."""
    found: dict[int, int] = {}
    for _, run in runs:
        if run.vram_peak_bytes is not None:
            most = max(chunk.frame_stop - chunk.frame_start for chunk in run.chunks)
            found[most] = max(found.get(most, 0), run.vram_peak_bytes - run.ring_bytes)
    return tuple(sorted(found.items()))
