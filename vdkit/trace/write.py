"""A run as one Chrome JSON trace that Perfetto opens: host, streams, slots and NVML on one clock.

Every slice carries its chunk in ``args``. Slices that overlap without nesting go to tracks of their
own, because Perfetto hides them on one track. The file keeps the run's records under ``vdkit``, so
that `vdkit.trace.read.read_trace` gives the whole timeline back.
Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vdkit.decode.chunks import DecodeConfig
from vdkit.record import written
from vdkit.record.runs import Run
from vdkit.trace import (
    COMMUNICATION,
    D2H,
    KERNEL,
    MEMSET,
    Alignment,
    Events,
    Timeline,
    chunk_steps,
    to_ns,
)

SCHEMA = 1
_HOST, _GPU, _COUNTERS = 1, 2, 3
_NVML_COUNTERS = (
    "power_w", "sm_clock_mhz", "memory_clock_mhz", "temperature_c", "gpu_util_percent",
    "sm_active_percent", "tensor_active_percent", "dram_bandwidth_percent", "pcie_tx_mb_per_s",
)  # fmt: skip
_COLUMNS = ("start_ns", "stop_ns", "name", "kind", "lane", "correlation", "nbytes", "chunk")
Slice = tuple[int, str, str, str, int, int, dict[str, Any]]
"""Process, track's title, name, category, start and stop in ns, arguments."""


def write_trace(timeline: Timeline, path: str | Path) -> Path:
    """Write ``path`` (``.json.gz``) under a temporary name, then rename.

    Raises:
        ValueError: the timeline has no run; another program's trace is a Chrome trace already.
        FileExistsError: there is one already; recorded traces are never overwritten.
    """
    path, run = Path(path), timeline.run
    if not isinstance(run, Run) or timeline.config is None:
        raise ValueError("only a run of vdkit can be exported; this timeline has no records")
    firsts = [int(e.start_ns.min()) for e in (timeline.gpu, timeline.calls) if len(e)]
    firsts += [to_ns(step.start_s) for n in range(len(run.chunks)) for step in chunk_steps(run, n)]
    shift = -min(0, *firsts)  # no time is negative
    head = {
        "schema": SCHEMA,
        "shift_ns": shift,
        "device": timeline.device,
        "run": run.model_dump(mode="json"),
        "config": asdict(timeline.config),
        "alignment": asdict(timeline.alignment) if timeline.alignment else None,
        "timed_latency_s": list(timeline.timed_latency_s),
        "dropped": list(timeline.dropped),
        "nvml": timeline.nvml,
    }
    with (
        written(path, new=True) as partial,
        partial.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
    ):
        packed.write(f'{{"vdkit": {json.dumps(head)},\n"displayTimeUnit": "ms",\n'.encode())
        packed.write(b'"traceEvents": [\n')
        encode, comma = json.JSONEncoder(separators=(",", ":")).encode, ""
        for event in _events(timeline, run, timeline.config, shift):
            packed.write(f"{comma}{encode(event)}".encode())
            comma = ",\n"
        packed.write(b"\n]}\n")
    return path


def restore(timeline: Timeline, own: dict[str, Any], file: Path) -> None:
    """Put the records that `write_trace` kept back into a timeline read from ``file``."""
    try:
        if own["schema"] > SCHEMA:
            raise ValueError(f"schema {own['schema']}, this vdkit reads up to {SCHEMA}; update it")
        timeline.run = Run.model_validate(own["run"])
        timeline.config = DecodeConfig(**own["config"])
        if own["alignment"] is not None:
            timeline.alignment = Alignment(**own["alignment"])
        timeline.timed_latency_s = tuple(float(s) for s in own["timed_latency_s"])
        timeline.dropped = (*own["dropped"], *timeline.dropped)
        timeline.nvml = {
            name: [None if value is None else float(value) for value in column]
            for name, column in own["nvml"].items()
        }
        timeline.device = own["device"]
        shift = int(own["shift_ns"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds damaged vdkit records: {error}") from error
    timeline.shift(-shift)
    timeline.assign_chunks()


def tracks(starts: Sequence[int], stops: Sequence[int]) -> list[int]:
    """A track for each slice (by start): the first on which it overlaps none or nests."""
    open_until: list[list[int]] = []
    places = []
    for start, stop in zip(starts, stops, strict=True):
        for place, stack in enumerate(open_until):
            while stack and stack[-1] <= start:
                stack.pop()
            if not stack or stop <= stack[-1]:
                stack.append(stop)
                places.append(place)
                break
        else:
            open_until.append([stop])
            places.append(len(open_until) - 1)
    return places


def _events(
    timeline: Timeline, run: Run, config: DecodeConfig, shift: int
) -> Iterator[dict[str, Any]]:
    """The trace's events; tracks are numbered as they are met, and named in the end."""
    numbers: dict[tuple[int, str], int] = {}
    for process, title, name, category, start, stop, args in _slices(timeline, run, config):
        track = numbers.setdefault((process, title), len(numbers) + 1)
        yield {
            "ph": "X", "name": name, "cat": category, "pid": process, "tid": track,
            "ts": (start + shift) / 1e3, "dur": max(stop - start, 0) / 1e3, "args": args,
        }  # fmt: skip
    for name, at, values in _counters(timeline, run):
        if at + shift >= 0:
            counter = {"ph": "C", "name": name, "pid": _COUNTERS, "tid": 0, "args": values}
            yield counter | {"ts": (at + shift) / 1e3}
    names = {_HOST: "vdkit host", _GPU: f"GPU: {timeline.device}", _COUNTERS: "counters"}
    rows = [("process", process, 0, name, process) for process, name in names.items()]
    rows += [("thread", process, n, title, n) for (process, title), n in numbers.items()]
    for kind, process, track, name, place in rows:
        for what, value in (("name", name), ("sort_index", place)):
            event = {"ph": "M", "name": f"{kind}_{what}", "pid": process, "tid": track}
            yield event | {"args": {what: value}}


def _slices(timeline: Timeline, run: Run, config: DecodeConfig) -> Iterator[Slice]:
    """What the run recorded of each chunk, then the trace's streams and threads."""
    threaded = run.mode == "async" and config.writer_thread
    for index in range(len(run.chunks)):
        for step, start_s, stop_s in chunk_steps(run, index):
            writer = threaded and step in ("convert", "write")
            place = (_HOST, "writer thread" if writer else "main thread")
            if step in ("decode", "copy"):
                place = (_GPU, f"{step} (CUDA events)")
            times, args = (to_ns(start_s), to_ns(stop_s)), {"chunk": index}
            yield *place, f"{step} {index}", "vdkit", *times, args
    for process, events in ((_GPU, timeline.gpu), (_HOST, timeline.calls)):
        for lane in np.unique(events.lane).tolist():
            mine = events.where(events.lane == lane)
            role = "compute " * bool(len(mine.of(KERNEL))) or "copy " * bool(len(mine.of(D2H)))
            title = f"{role}stream {lane}" if process == _GPU else f"CUDA calls of thread {lane}"
            yield from _lane(mine, process, title, timeline.names)


def _lane(events: Events, process: int, title: str, names: Sequence[str]) -> Iterator[Slice]:
    """The events of one stream or thread, on as many tracks as it takes."""
    columns = [getattr(events, column).tolist() for column in _COLUMNS]
    places = tracks(*columns[:2])
    for place, row in zip(places, zip(*columns, strict=True), strict=True):
        start, stop, name, kind, lane, correlation, nbytes, chunk = row
        category, args = "cuda_runtime", {"correlation": correlation, "chunk": chunk}
        if process == _GPU:
            category, args = "kernel", {"device": 0, "stream": lane} | args
            if kind not in (KERNEL, COMMUNICATION):
                category = "gpu_memset" if kind == MEMSET else "gpu_memcpy"
                args["bytes"] = nbytes
        track = f"{title} ({place + 1})" if place else title
        yield process, track, names[name], category, start, stop, args


def _counters(timeline: Timeline, run: Run) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Slots in use (taken when acquired, given back when written), and what NVML sampled."""
    changes = []
    for chunk in run.chunks:
        if chunk.slot is not None and chunk.slot_acquired_s is not None:
            changes.append((to_ns(chunk.slot_acquired_s), 1))
            changes.append((to_ns(chunk.write_done_s or run.latency_s), -1))
    used = 0
    for at, change in sorted(changes):
        used += change
        yield "slots in use", at, {"slots": used}
    columns = timeline.nvml
    for name in _NVML_COUNTERS:
        for time_s, value in zip(columns.get("time_s", []), columns.get(name, []), strict=False):
            if value is not None:
                yield name, to_ns(time_s), {name: value}
