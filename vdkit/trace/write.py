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
    to_ns,
)

SCHEMA = 1
_HOST, _GPU, _COUNTERS = 1, 2, 3
_NVML_COUNTERS = (
    "power_w", "sm_clock_mhz", "memory_clock_mhz", "temperature_c", "gpu_util_percent",
    "sm_active_percent", "tensor_active_percent", "dram_bandwidth_percent", "pcie_tx_mb_per_s",
)  # fmt: skip
_STEPS = ("slot_wait", "launch", "convert", "write")


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
        first = True
        for line in _lines(timeline, shift):
            packed.write((line if first else ",\n" + line).encode())
            first = False
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
        exact = json.loads(json.dumps(own), parse_float=float)
        timeline.run = Run.model_validate(_numbers(exact["run"]))
        timeline.config = DecodeConfig(**exact["config"])
        if exact["alignment"] is not None:
            timeline.alignment = Alignment(**exact["alignment"])
        timeline.timed_latency_s = tuple(float(value) for value in exact["timed_latency_s"])
        timeline.dropped = (*exact["dropped"], *timeline.dropped)
        timeline.nvml = _numbers(exact["nvml"])
        timeline.device = exact["device"]
        shift = int(exact["shift_ns"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds damaged vdkit records: {error}") from error
    timeline.shift(-shift)
    timeline.assign_chunks()


def _numbers(value: Any) -> Any:
    """Text that the exact parser kept for numbers with a point, back to floats."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


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


def _us(ns: int) -> str:
    return f"{ns // 1000}.{ns % 1000:03d}"


class _Tracks:
    """Track numbers by title, with the metadata events that name and order them."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[int, str], int] = {}

    def of(self, process: int, title: str, place: int = 0) -> int:
        title = f"{title} ({place + 1})" if place else title
        return self.numbers.setdefault((process, title), len(self.numbers) + 1)

    def metadata(self, device: str) -> Iterator[str]:
        names = {_HOST: "vdkit host", _GPU: f"GPU: {device}", _COUNTERS: "counters"}
        for process, name in names.items():
            yield _meta("process_name", process, 0, {"name": name})
            yield _meta("process_sort_index", process, 0, {"sort_index": process})
        for (process, title), number in self.numbers.items():
            yield _meta("thread_name", process, number, {"name": title})
            yield _meta("thread_sort_index", process, number, {"sort_index": number})


def _meta(name: str, process: int, track: int, values: dict[str, Any]) -> str:
    return json.dumps({"ph": "M", "name": name, "pid": process, "tid": track, "args": values})


def _slice(
    name: str, category: str, process: int, track: int, start: int, stop: int, values: str
) -> str:
    """One complete event; ``name`` and ``values`` are JSON already, times in ns."""
    return (
        f'{{"ph":"X","name":{name},"cat":"{category}","pid":{process},"tid":{track},'
        f'"ts":{_us(start)},"dur":{_us(max(stop - start, 0))},"args":{values}}}'
    )


def _lines(timeline: Timeline, shift: int) -> Iterator[str]:
    run = timeline.run
    assert run is not None
    named = _Tracks()
    yield from _host_slices(run, timeline, named, shift)
    names = [json.dumps(name) for name in timeline.names]
    yield from _gpu_slices(timeline, names, named, shift)
    yield from _call_slices(timeline.calls, names, named, shift)
    yield from _slot_counter(run, shift)
    yield from _nvml_counters(timeline, shift)
    yield from named.metadata(timeline.device)


def _host_slices(run: Recorded, timeline: Timeline, named: _Tracks, shift: int) -> Iterator[str]:
    assert timeline.config is not None
    threaded = run.mode == "async" and timeline.config.writer_thread
    for chunk in run.chunks:
        for step in _STEPS:
            edges = "slot_acquired_s" if step == "slot_wait" else f"{step}_done_s"
            start, stop = getattr(chunk, f"{step}_start_s"), getattr(chunk, edges)
            if start is None or stop is None:
                continue
            writer = threaded and step in ("convert", "write")
            track = named.of(_HOST, "writer thread" if writer else "main thread")
            label = json.dumps(f"{step.replace('_', ' ')} {chunk.index}")
            yield _slice(
                label, "vdkit", _HOST, track, to_ns(start) + shift, to_ns(stop) + shift,
                f'{{"chunk":{chunk.index}}}',
            )  # fmt: skip
    for chunk in run.chunks:
        for title, step in (("decode (CUDA events)", "decode"), ("copy (CUDA events)", "copy")):
            start, stop = getattr(chunk, f"{step}_start_s"), getattr(chunk, f"{step}_done_s")
            if start is not None and stop is not None:
                yield _slice(
                    json.dumps(f"{step} {chunk.index}"), "vdkit", _GPU, named.of(_GPU, title),
                    to_ns(start) + shift, to_ns(stop) + shift, f'{{"chunk":{chunk.index}}}',
                )  # fmt: skip


def _gpu_slices(timeline: Timeline, names: list[str], named: _Tracks, shift: int) -> Iterator[str]:
    gpu = timeline.gpu
    kernels = gpu.of(KERNEL)
    for lane in np.unique(gpu.lane).tolist():
        mine = gpu.where(gpu.lane == lane)
        computes = bool((kernels.lane == lane).any())
        copies = bool((mine.kind == D2H).any())
        role = "compute stream" if computes else "copy stream" if copies else "stream"
        places = tracks(mine.start_ns.tolist(), mine.stop_ns.tolist())
        for place, row in zip(places, _rows(mine), strict=True):
            start, stop, name, _, kind, correlation, nbytes, chunk = row
            runs = kind in (KERNEL, COMMUNICATION)
            category = "kernel" if runs else "gpu_memset" if kind == MEMSET else "gpu_memcpy"
            size = "" if runs else f'"bytes":{nbytes},'
            values = (
                f'{{"device":0,"stream":{lane},"correlation":{correlation},{size}"chunk":{chunk}}}'
            )
            track = named.of(_GPU, f"{role} {lane}", place)
            yield _slice(names[name], category, _GPU, track, start + shift, stop + shift, values)


def _call_slices(calls: Events, names: list[str], named: _Tracks, shift: int) -> Iterator[str]:
    for lane in np.unique(calls.lane).tolist():
        mine = calls.where(calls.lane == lane)
        places = tracks(mine.start_ns.tolist(), mine.stop_ns.tolist())
        for place, row in zip(places, _rows(mine), strict=True):
            start, stop, name, _, _, correlation, _, chunk = row
            values = f'{{"correlation":{correlation},"chunk":{chunk}}}'
            track = named.of(_HOST, f"CUDA calls of thread {lane}", place)
            yield _slice(
                names[name], "cuda_runtime", _HOST, track, start + shift, stop + shift, values
            )


def _rows(events: Events) -> Iterator[tuple[int, ...]]:
    columns = [getattr(events, column).tolist() for column in Events.__slots__]
    return zip(*columns, strict=True)


def _counter(name: str, at: int, values: dict[str, float]) -> str:
    body = json.dumps({"ph": "C", "name": name, "pid": _COUNTERS, "tid": 0, "args": values})
    return f'{body[:-1]}, "ts": {_us(at)}}}'


def _slot_counter(run: Recorded, shift: int) -> Iterator[str]:
    """Slots in use: taken when acquired, given back when written."""
    changes = []
    for chunk in run.chunks:
        if chunk.slot is not None and chunk.slot_acquired_s is not None:
            changes.append((to_ns(chunk.slot_acquired_s), 1))
            changes.append((to_ns(chunk.write_done_s or run.latency_s), -1))
    used = 0
    for at, change in sorted(changes):
        used += change
        yield _counter("slots in use", at + shift, {"slots": used})


def _nvml_counters(timeline: Timeline, shift: int) -> Iterator[str]:
    times = timeline.nvml.get("time_s", [])
    for name in _NVML_COUNTERS:
        for time_s, value in zip(times, timeline.nvml.get(name, []), strict=False):
            at = to_ns(time_s or 0.0) + shift
            if value is not None and at >= 0:
                yield _counter(name, at, {name: value})
