"""Reading a Kineto trace (Chrome JSON, plain or gzip) into a `Timeline`; any program's, no torch.

Timestamps keep their nanoseconds: Kineto writes microseconds with three decimals, counted from
boot or from 1970, where a float would round to a quarter of a microsecond.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vdkit.measure.intervals import Intervals, union
from vdkit.measure.timeline import Events, Timeline
from vdkit.measure.trace_events import DROPPED, Collected

_SPACE = re.compile(r"[\s,]*")

# Numbers with a point stay text until `_ns` reads them exactly; the rest are ints.
_DECODER = json.JSONDecoder(parse_float=str)
_END = object()
_TRACES = ("*.json.gz", "*trace*.json", "*kineto*.json")


def read_trace(path: str | Path, gpu: int | None = None, require_gpu: bool = True) -> Timeline:
    """Read one trace.

    Args:
        path: ``.json`` or ``.json.gz``, an object with ``traceEvents`` or a list of events.
        gpu: which device, if the trace holds several. Calls whose kernels or copies ran on another
            are left out (`Timeline.calls_elsewhere`); calls without any stay.
        require_gpu: False accepts a trace without GPU events.

    Raises:
        FileNotFoundError: nothing there. IsADirectoryError: a folder; its traces are named.
        ValueError: not a trace, a damaged event, cut short, no GPU events, several GPUs and none
            chosen, or a GPU that is not in it. The message names the file and what to do.
    """
    file = Path(path)
    collected = Collected(file)
    head = _read(file, _text(file), collected.add)
    devices = sorted({device for device, _ in collected.gpu})
    own = head.get("vdkit")
    if gpu is not None and gpu not in devices:
        raise ValueError(
            f"{file} has no events of GPU {gpu}; it has "
            + (", ".join(map(str, devices)) if devices else "none of any GPU")
        )
    if not devices and own is None and require_gpu:
        raise ValueError(
            f"{file} holds no GPU events ({collected.count} events in all); profile with "
            "ProfilerActivity.CUDA on a machine with a GPU"
        )
    if len(devices) > 1 and gpu is None:
        raise ValueError(
            f"{file} has events of GPUs {', '.join(map(str, devices))}; choose one with --gpu"
        )
    device = gpu if gpu is not None else devices[0] if devices else 0
    rows = [row for there, row in collected.gpu if there == device]
    theirs = {row[5] for there, row in collected.gpu if there != device}
    theirs -= {row[5] for row in rows} | {-1}
    calls = [row for row in collected.calls if row[5] not in theirs]
    try:
        gpu_events, call_events = Events.from_rows(rows), Events.from_rows(calls)
        ops = {thread: _merged(spans) for thread, spans in collected.ops.items()}
    except OverflowError as error:
        raise ValueError(
            f"{file} is damaged: a stream, thread, correlation or size is beyond 64 bits"
        ) from error
    timeline = Timeline(
        gpu=gpu_events,
        calls=call_events,
        calls_elsewhere=len(collected.calls) - len(calls),
        ops=ops,
        names=list(collected.names),
        device=_device_name(head, device),
        dropped=tuple(collected.dropped + _dropped(head)),
        markers=tuple(sorted(collected.markers)),
    )
    if own is not None:
        from vdkit.measure.export import restore

        restore(timeline, own, file)
    elif starts := [int(e.start_ns.min()) for e in (timeline.gpu, timeline.calls) if len(e)]:
        timeline.shift(-min(starts))
    return timeline


def _text(file: Path) -> str:
    if file.is_dir():
        names = {p.name for pattern in _TRACES for p in file.glob(pattern) if p.is_file()}
        shown = f"one of {', '.join(sorted(names)[:8])}" if names else "the folder holds none"
        raise IsADirectoryError(f"{file} is a folder; give a trace (.json or .json.gz): {shown}")
    if not file.is_file():
        raise FileNotFoundError(f"no trace at {file}")
    raw = file.read_bytes()
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        return raw.decode()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{file} is a gzip file that was cut short or damaged; copy it again"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not a trace: it is not JSON text (byte {error.start} is "
            f"0x{error.object[error.start]:02x})"
        ) from error


def _read(file: Path, text: str, add: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Hand every event to ``add`` as it is parsed; returns the other top-level entries."""
    head: dict[str, Any] = {}
    found = False
    try:
        at = _SPACE.match(text).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "[":
            found = True
            for event, _ in _items(text, at):
                if event is not _END:
                    add(event)
        elif text[at : at + 1] == "{":
            at += 1
            while text[(at := _SPACE.match(text, at).end())] != "}":  # type: ignore[union-attr]
                key, at = _DECODER.raw_decode(text, at)
                colon = text.find(":", at)
                if not isinstance(key, str) or colon < 0:
                    raise json.JSONDecodeError("A name and a colon are expected", text, at)
                at = _SPACE.match(text, colon + 1).end()  # type: ignore[union-attr]
                if key == "traceEvents" and text[at] == "[":
                    found = True
                    for event, stop in _items(text, at):
                        if event is not _END:
                            add(event)
                        at = stop
                else:
                    head[key], at = _DECODER.raw_decode(text, at)
        else:
            what = f"it begins with {text[at : at + 12]!r}" if text[at:] else "it is empty"
            raise ValueError(f"{file} is not a trace: {what}")
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
        if found:
            raise ValueError(f"{file} is cut short or damaged: {where}") from error
        raise ValueError(f"{file} is not a trace: it is not JSON ({where})") from error
    except (IndexError, RecursionError) as error:
        what = "it ends too early" if isinstance(error, IndexError) else "it is nested too deep"
        raise ValueError(f"{file} is cut short or damaged: {what}") from error
    if not found:
        raise ValueError(f"{file} is not a trace: it has no traceEvents")
    return head


def _items(text: str, at: int) -> Iterator[tuple[Any, int]]:
    """The values of the list that opens at ``at``, each with where it ends; then `_END`."""
    decode, skip = _DECODER.raw_decode, _SPACE.match
    at = skip(text, at + 1).end()  # type: ignore[union-attr]
    while text[at] != "]":
        value, at = decode(text, at)
        at = skip(text, at).end()  # type: ignore[union-attr]
        yield value, at
    yield _END, at + 1


def _merged(spans: list[tuple[int, int]]) -> Intervals:
    table = np.array(spans, np.int64).reshape(-1, 2)
    return union(table[:, 0], table[:, 1])


def _device_name(head: dict[str, Any], device: int) -> str:
    listed = head.get("deviceProperties")
    for properties in listed if isinstance(listed, list) else []:
        if isinstance(properties, dict) and properties.get("id") == device:
            return str(properties.get("name", "GPU"))
    return f"GPU {device}"


def _dropped(head: dict[str, Any]) -> list[str]:
    """Warnings and errors of the profiler that speak of dropped events."""
    found = []
    for key in ("WARNING", "ERROR"):
        messages = head.get(key) or []
        messages = messages if isinstance(messages, list) else [messages]
        found += [str(message) for message in messages if DROPPED.search(str(message))]
    return found
