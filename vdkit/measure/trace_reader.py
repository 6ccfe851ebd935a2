"""Reading a Kineto trace (Chrome JSON, plain or gzip) into a `Timeline`; any program's, no torch.

Timestamps keep their nanoseconds: Kineto writes microseconds with three decimals, counted from
boot or from 1970, where a float would round to a quarter of a microsecond.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vdkit.measure.families import family_of
from vdkit.measure.intervals import Intervals, union
from vdkit.measure.timeline import COMMUNICATION, KERNEL, Events, Timeline
from vdkit.measure.trace_events import DROPPED, Collected

_SPACE = re.compile(r"[\s,]*")
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})?|[\x00-\x1f]')

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
            chosen, a GPU that is not in it, or one whose events are of several processes. The
            message names the file and what to do.
    """
    file = Path(path)
    notes: list[str] = []
    collected, head = _read(file, _text(file, notes), notes)
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
    rows = [row for there, found in collected.gpu.items() if there[0] == device for row in found]
    calls = _calls(collected, device, rows)
    try:
        gpu_events, call_events = Events.from_rows(rows), Events.from_rows(calls)
        ops = {thread: _merged(spans) for thread, spans in collected.ops.items()}
    except OverflowError as error:
        raise ValueError(
            f"{file} is damaged: a stream, correlation or size is beyond 64 bits"
        ) from error
    between = np.array([family_of(name) == "communication" for name in collected.names], bool)
    gpu_events.kind[(gpu_events.kind == KERNEL) & between[gpu_events.name]] = COMMUNICATION
    timeline = Timeline(
        gpu=gpu_events,
        calls=call_events,
        calls_elsewhere=len(collected.calls) - len(calls),
        ops=ops,
        names=[name.encode(errors="replace").decode() for name in collected.names],
        device=_device_name(head, device),
        dropped=tuple(collected.dropped + _dropped(head)),
        markers=tuple(sorted(collected.markers)),
        notes=tuple(notes),
    )
    if own is not None:
        from vdkit.measure.export import restore

        restore(timeline, own, file)
    elif starts := [int(e.start_ns.min()) for e in (timeline.gpu, timeline.calls) if len(e)]:
        timeline.shift(-min(starts))
    return timeline


def _calls(collected: Collected, device: int, rows: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The calls of the process whose events a GPU's are; ValueError where those may be several.

    Ranks merged into one file share correlation and thread ids, so that nothing tells them apart.
    """
    mine = {row[5] for row in rows} - {-1}
    theirs = {row[5] for there in collected.gpu.values() for row in there} - mine - {-1}
    pids = [pid for pid, _ in collected.threads]
    owners: dict[Any, set[int]] = {}
    for row in collected.calls if len(set(pids)) > 1 else ():
        if row[5] in mine:
            owners.setdefault(pids[row[3]], set()).add(row[5])
    for many in (owners, {pid for there, pid in collected.gpu if there == device}):
        if len(many) > 1:
            shared = set.intersection(*owners.values()) if many is owners else set()
            raise ValueError(
                f"{collected.file} holds several ranks: events of GPU {device} are of processes "
                + " and ".join(sorted(map(str, many)))
                + (f", whose calls share {len(shared)} correlation ids" if shared else "")
                + "; give a trace of one rank"
            )
    return [
        row
        for row in collected.calls
        if row[5] not in theirs and (not owners or pids[row[3]] in owners)
    ]


def _text(file: Path, notes: list[str]) -> str:
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
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            if raw.lstrip()[:1] not in (b"{", b"["):
                raise
            notes.append(f"byte {error.start} is no UTF-8 (0x{raw[error.start]:02x}): replaced")
            return raw.decode(errors="replace")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{file} is a gzip file that was cut short or damaged; copy it again"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not a trace: it is not JSON text (byte {error.start} is "
            f"0x{error.object[error.start]:02x})"
        ) from error


def _read(file: Path, text: str, notes: list[str]) -> tuple[Collected, dict[str, Any]]:
    """Collect every event as it is parsed; returns them and the other top-level entries."""
    head: dict[str, Any] = {}
    found = False
    collected = Collected(file)
    add = collected.add
    try:
        at = _SPACE.match(text).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "[":
            found = True
            for event, stop in _items(text, at):
                if event is not _END:
                    add(event)
                at = stop
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
            at += 1
        else:
            what = f"it begins with {text[at : at + 12]!r}" if text[at:] else "it is empty"
            raise ValueError(f"{file} is not a trace: {what}")
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at").rstrip(": ")
        where = f"{what} at line {error.lineno}, column {error.colno}"
        if error.msg.startswith("Invalid"):  # inside a string: a control character, an escape
            notes.append(f"{where}: replaced")
            return _read(file, _ESCAPE.sub(_strict, text), notes)
        if found:
            raise ValueError(f"{file} is cut short or damaged: {where}") from error
        raise ValueError(f"{file} is not a trace: it is not JSON ({where})") from error
    except (IndexError, RecursionError) as error:
        what = "it ends too early" if isinstance(error, IndexError) else "it is nested too deep"
        raise ValueError(f"{file} is cut short or damaged: {what}") from error
    if not found:
        raise ValueError(f"{file} is not a trace: it has no traceEvents")
    if rest := text[at:].strip():
        notes.append(f"{len(rest)} characters after the end of the JSON, {rest[:12]!r}: not read")
    return collected, head


def _strict(escape: re.Match[str]) -> str:
    """An escape as it is, a lone backslash doubled, a control character as a space."""
    if len(escape[0]) > 1:
        return escape[0]
    return r"\\" if escape[0] == "\\" else " "


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
            return str(properties.get("name") or "").strip() or f"GPU {device}"
    return f"GPU {device}"


def _dropped(head: dict[str, Any]) -> list[str]:
    """Warnings and errors of the profiler that speak of dropped events."""
    found = []
    for key in ("WARNING", "ERROR"):
        messages = head.get(key) or []
        messages = messages if isinstance(messages, list) else [messages]
        found += [str(message) for message in messages if DROPPED.search(str(message))]
    return found
