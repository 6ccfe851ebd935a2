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
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from vdkit.measure.intervals import Intervals, union
from vdkit.measure.timeline import (
    CLOCK_MARKER,
    D2D,
    D2H,
    H2D,
    KERNEL,
    MEMSET,
    OTHER_COPY,
    Events,
    Timeline,
)

_GPU = {"kernel": KERNEL, "gpu_memcpy": OTHER_COPY, "gpu_memset": MEMSET}
_CALLS = ("cuda_runtime", "cuda_driver")
_COPIES = (("DtoH", D2H), ("HtoD", H2D), ("DtoD", D2D))
_SPACE = re.compile(r"[\s,]*")
_DROPPED = re.compile(r"\b(dropp\w*|lost)\b.*\b(event|record|activit|buffer)|buffer.*\bdropp", re.I)

# Numbers with a point stay text until `_ns` reads them exactly; the rest are ints.
_DECODER = json.JSONDecoder(parse_float=str)


def read_trace(path: str | Path, gpu: int | None = None, require_gpu: bool = True) -> Timeline:
    """Read one trace.

    Args:
        path: ``.json`` or ``.json.gz``, an object with ``traceEvents`` or a list of events.
        gpu: which device, if the trace holds several. Calls whose kernels or copies ran on another
            are left out (`Timeline.calls_elsewhere`); calls without any stay.
        require_gpu: False accepts a trace without GPU events.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not a trace, cut short, no GPU events, several GPUs and none chosen, or a GPU
            that is not in it. The message names the file and what to do.
    """
    file = Path(path)
    collected = _Collected()
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
    timeline = Timeline(
        gpu=Events.from_rows(rows),
        calls=Events.from_rows(calls),
        calls_elsewhere=len(collected.calls) - len(calls),
        ops={thread: _merged(spans) for thread, spans in collected.ops.items()},
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
    if not file.is_file():
        raise FileNotFoundError(f"no trace at {file}")
    raw = file.read_bytes()
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        return raw.decode()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{file} is a gzip file that was cut short or damaged ({error}); copy it again"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a trace: it is not JSON text ({error})") from error


def _read(file: Path, text: str, add: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Hand every event to ``add`` as it is parsed; returns the other top-level entries."""
    head: dict[str, Any] = {}
    found = False
    try:
        at = _SPACE.match(text).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "[":
            found = True
            for event, _ in _items(text, at):
                add(event)
        elif text[at : at + 1] == "{":
            at += 1
            while text[(at := _SPACE.match(text, at).end())] != "}":  # type: ignore[union-attr]
                key, at = _DECODER.raw_decode(text, at)
                at = _SPACE.match(text, text.index(":", at) + 1).end()  # type: ignore[union-attr]
                if key == "traceEvents" and text[at] == "[":
                    found = True
                    for event, stop in _items(text, at):
                        if event is not None:
                            add(event)
                        at = stop
                else:
                    head[key], at = _DECODER.raw_decode(text, at)
        else:
            what = f"it begins with {text[at : at + 12]!r}" if text[at:] else "it is empty"
            raise ValueError(f"{file} is not a trace: {what}")
    except (json.JSONDecodeError, IndexError) as error:
        if found or isinstance(error, IndexError):
            raise ValueError(f"{file} is cut short or damaged: {error}") from error
        raise ValueError(f"{file} is not a trace: it is not JSON ({error})") from error
    except (TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{file} is not a Chrome trace: an event has no usable {error}") from error
    if not found:
        raise ValueError(f"{file} is not a trace: it has no traceEvents")
    return head


def _items(text: str, at: int) -> Iterator[tuple[Any, int]]:
    """The values of the list that opens at ``at``, each with where it ends; the last is None."""
    decode, skip = _DECODER.raw_decode, _SPACE.match
    at = skip(text, at + 1).end()  # type: ignore[union-attr]
    while text[at] != "]":
        value, at = decode(text, at)
        at = skip(text, at).end()  # type: ignore[union-attr]
        yield value, at
    yield None, at + 1


class _Collected:
    """What is kept of each event: a short row, so that memory stays far below the text's size."""

    def __init__(self) -> None:
        self.gpu: list[tuple[int, tuple[int, ...]]] = []
        self.calls: list[tuple[int, ...]] = []
        self.ops: dict[int, list[tuple[int, int]]] = {}
        self.names: dict[str, int] = {}
        self.dropped: list[str] = []
        self.markers: list[tuple[int, int]] = []
        self.count = 0

    def add(self, event: Any) -> None:
        if event is None:
            return
        self.count += 1
        category = event.get("cat")
        if event.get("ph") != "X":
            if category != "ac2g" and _DROPPED.search(str(event.get("name", ""))):
                self.dropped.append(str(event["name"]))
            return
        kind = _GPU.get(category)
        if kind is not None:
            start = _ns(event["ts"])
            details = event["args"]
            name = event["name"]
            if kind == OTHER_COPY:
                kind = next((code for word, code in _COPIES if word in name), OTHER_COPY)
            row = (
                start, start + _ns(event["dur"]), self._name(name), int(details["stream"]), kind,
                int(details.get("correlation", -1)), int(details.get("bytes", 0)),
            )  # fmt: skip
            self.gpu.append((int(details.get("device", 0)), row))
        elif category in _CALLS:
            start = _ns(event["ts"])
            correlation = int(event.get("args", {}).get("correlation", -1))
            self.calls.append(
                (start, start + _ns(event["dur"]), self._name(event["name"]), _thread(event["tid"]),
                 0, correlation, 0)
            )  # fmt: skip
        elif category == "cpu_op":
            start = _ns(event["ts"])
            span = (start, start + _ns(event["dur"]))
            self.ops.setdefault(_thread(event["tid"]), []).append(span)
        elif category == "user_annotation" and event["name"] == CLOCK_MARKER:
            start = _ns(event["ts"])
            self.markers.append((start, start + _ns(event["dur"])))
        elif category == "overhead" and _DROPPED.search(event["name"]):
            self.dropped.append(event["name"])

    def _name(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))


def _thread(tid: Any) -> int:
    try:
        return int(tid)
    except ValueError:  # a name, as in "stream 7"
        return zlib.crc32(str(tid).encode())


def _ns(value: Any) -> int:
    """Microseconds, as JSON had them, to integer ns; exact for up to three decimals."""
    if isinstance(value, int):
        return value * 1000
    whole, _, fraction = value.partition(".")
    if len(fraction) <= 3 and fraction.isdigit() and whole.isdigit():
        return int(whole) * 1000 + int(fraction.ljust(3, "0"))
    return round(Decimal(value) * 1000)


def _merged(spans: list[tuple[int, int]]) -> Intervals:
    table = np.array(spans, np.int64).reshape(-1, 2)
    return union(table[:, 0], table[:, 1])


def _device_name(head: dict[str, Any], device: int) -> str:
    for properties in head.get("deviceProperties") or []:
        if properties.get("id") == device:
            return str(properties.get("name", "GPU"))
    return f"GPU {device}"


def _dropped(head: dict[str, Any]) -> list[str]:
    """Warnings and errors of the profiler that speak of dropped events."""
    found = []
    for key in ("WARNING", "ERROR"):
        messages = head.get(key) or []
        messages = messages if isinstance(messages, list) else [messages]
        found += [str(message) for message in messages if _DROPPED.search(str(message))]
    return found
