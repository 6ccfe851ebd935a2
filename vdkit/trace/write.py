"""A run as one Chrome JSON trace that Perfetto opens: host, streams, slots and NVML on one clock.

Every slice carries its chunk in ``args``. Slices that overlap without nesting go to tracks of their
own, because Perfetto hides them on one track. The file keeps the run's records under ``vdkit``, so
that `vdkit.trace.read.read_trace` gives the whole timeline back.
Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vdkit.decode.chunks import DecodeConfig
from vdkit.record.runs import Run
from vdkit.record.store import written
from vdkit.trace.timeline import (
    COMMUNICATION,
    D2H,
    KERNEL,
    MEMSET,
    Alignment,
    Events,
    Recorded,
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
_ON_GPU = ("decode", "copy")


def write_trace(timeline: Timeline, path: str | Path) -> Path:
    """Write ``path`` (``.json.gz``) under a temporary name, then rename.

    Raises:
        ValueError: the timeline has no run; another program's trace is a Chrome trace already.
        FileExistsError: there is one already; recorded traces are never overwritten.
    """
    path = Path(path)
    if not isinstance(timeline.run, Run) or timeline.config is None:
        raise ValueError("only a run of vdkit can be exported; this timeline has no records")
    shift = _shift(timeline)
    head = {
        "schema": SCHEMA,
        "shift_ns": shift,
        "device": timeline.device,
        "run": timeline.run.model_dump(mode="json"),
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
        lines = _Lines(timeline, shift).all(timeline.run, timeline.config)
        packed.write(next(lines).encode())
        for line in lines:
            packed.write(f",\n{line}".encode())
        packed.write(b"\n]}\n")
    return path


def _shift(timeline: Timeline) -> int:
    """What to add so that no time is negative, ns."""
    assert timeline.run is not None
    first = [int(e.start_ns.min()) for e in (timeline.gpu, timeline.calls) if len(e)]
    for chunk in timeline.run.chunks:
        spans = (chunk.slot_wait_start_s, chunk.launch_start_s, chunk.decode_start_s)
        first += [to_ns(span) for span in spans if span is not None]
    return -min([0, *first])


def restore(timeline: Timeline, own: dict[str, Any], file: Path) -> None:
    """Put the records that `write_trace` kept back into a timeline read from ``file``."""
    try:
        if own["schema"] > SCHEMA:
            raise ValueError(f"schema {own['schema']}, this vdkit reads up to {SCHEMA}; update it")
        mode = own["run"]["mode"]
        mode = "compute_only" if mode == "compute" else mode  # what earlier traces call it
        timeline.run = Run.model_validate({**own["run"], "mode": mode})
        timeline.config = DecodeConfig(**own["config"])
        if own["alignment"] is not None:
            timeline.alignment = Alignment(**own["alignment"])
        timeline.timed_latency_s = tuple(float(s) for s in own["timed_latency_s"])
        timeline.dropped = (*own["dropped"], *timeline.dropped)
        timeline.nvml = own["nvml"]
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


class _Lines:
    """The trace's events, a line of JSON each; times are shifted by ``shift`` ns.

    Numbers tracks by title as they are met; `metadata` names and orders them in the end.
    """

    def __init__(self, timeline: Timeline, shift: int) -> None:
        self.timeline, self.shift = timeline, shift
        self.names = [json.dumps(name) for name in timeline.names]
        self.numbers: dict[tuple[int, str], int] = {}

    def all(self, run: Recorded, config: DecodeConfig) -> Iterator[str]:
        gpu, calls = self.timeline.gpu, self.timeline.calls
        yield from self.steps(run, threaded=run.mode == "async" and config.writer_thread)
        for lane in np.unique(gpu.lane).tolist():
            mine = gpu.where(gpu.lane == lane)
            role = "compute stream" if len(mine.of(KERNEL)) else "stream"
            if role == "stream" and len(mine.of(D2H)):
                role = "copy stream"
            yield from self.events(mine, _GPU, f"{role} {lane}", _gpu_values)
        for lane in np.unique(calls.lane).tolist():
            title = f"CUDA calls of thread {lane}"
            yield from self.events(calls.where(calls.lane == lane), _HOST, title, _call_values)
        yield from self.slots(run)
        yield from self.nvml()
        yield from self.metadata()

    def steps(self, run: Recorded, threaded: bool) -> Iterator[str]:
        """What the run recorded of each chunk."""
        for index in range(len(run.chunks)):
            for step in chunk_steps(run, index):
                writer = threaded and step.name in ("convert", "write")
                process, title = _HOST, "writer thread" if writer else "main thread"
                if step.name in _ON_GPU:
                    process, title = _GPU, f"{step.name} (CUDA events)"
                name, track = json.dumps(f"{step.name} {index}"), self.track(process, title)
                times, args = (to_ns(step.start_s), to_ns(step.stop_s)), f'{{"chunk":{index}}}'
                yield self.slice(name, "vdkit", process, track, *times, args)

    def events(
        self, events: Events, process: int, title: str, values: Callable[..., tuple[str, str]]
    ) -> Iterator[str]:
        """Of one stream or thread, on as many tracks as it takes."""
        places = tracks(events.start_ns.tolist(), events.stop_ns.tolist())
        columns = (getattr(events, column).tolist() for column in Events.__slots__)
        for place, (start, stop, name, *row) in zip(
            places, zip(*columns, strict=True), strict=True
        ):
            category, args = values(*row)
            track = self.track(process, f"{title} ({place + 1})" if place else title)
            yield self.slice(self.names[name], category, process, track, start, stop, args)

    def slots(self, run: Recorded) -> Iterator[str]:
        """Slots in use: taken when acquired, given back when written."""
        changes = []
        for chunk in run.chunks:
            if chunk.slot is not None and chunk.slot_acquired_s is not None:
                changes.append((to_ns(chunk.slot_acquired_s), 1))
                changes.append((to_ns(chunk.write_done_s or run.latency_s), -1))
        used = 0
        for at, change in sorted(changes):
            used += change
            yield self.counter("slots in use", at, {"slots": used})

    def nvml(self) -> Iterator[str]:
        columns = self.timeline.nvml
        for name in _NVML_COUNTERS:
            for time_s, value in zip(
                columns.get("time_s", []), columns.get(name, []), strict=False
            ):
                at = to_ns(time_s or 0.0)
                if value is not None and at + self.shift >= 0:
                    yield self.counter(name, at, {name: value})

    def metadata(self) -> Iterator[str]:
        names = {_HOST: "vdkit host", _GPU: f"GPU: {self.timeline.device}", _COUNTERS: "counters"}
        rows = [("process", process, 0, name, process) for process, name in names.items()]
        rows += [("thread", process, n, t, n) for (process, t), n in self.numbers.items()]
        for kind, process, track, name, place in rows:
            for what, values in (("name", {"name": name}), ("sort_index", {"sort_index": place})):
                event = {"ph": "M", "name": f"{kind}_{what}", "pid": process, "tid": track}
                yield json.dumps(event | {"args": values})

    def track(self, process: int, title: str) -> int:
        return self.numbers.setdefault((process, title), len(self.numbers) + 1)

    def slice(
        self, name: str, category: str, process: int, track: int, start: int, stop: int, args: str
    ) -> str:
        """One complete event; ``name`` and ``args`` are JSON already, times in ns."""
        return (
            f'{{"ph":"X","name":{name},"cat":"{category}","pid":{process},"tid":{track},'
            f'"ts":{_us(start + self.shift)},"dur":{_us(max(stop - start, 0))},"args":{args}}}'
        )

    def counter(self, name: str, at: int, values: dict[str, float]) -> str:
        body = json.dumps({"ph": "C", "name": name, "pid": _COUNTERS, "tid": 0, "args": values})
        return f'{body[:-1]}, "ts": {_us(at + self.shift)}}}'


def _us(ns: int) -> str:
    return f"{ns // 1000}.{ns % 1000:03d}"


def _gpu_values(lane: int, kind: int, correlation: int, nbytes: int, chunk: int) -> tuple[str, str]:
    """Category and ``args``."""
    runs = kind in (KERNEL, COMMUNICATION)
    size = "" if runs else f'"bytes":{nbytes},'
    return (
        "kernel" if runs else "gpu_memset" if kind == MEMSET else "gpu_memcpy",
        f'{{"device":0,"stream":{lane},"correlation":{correlation},{size}"chunk":{chunk}}}',
    )


def _call_values(
    lane: int, kind: int, correlation: int, nbytes: int, chunk: int
) -> tuple[str, str]:
    return "cuda_runtime", f'{{"correlation":{correlation},"chunk":{chunk}}}'
