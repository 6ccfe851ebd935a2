"""Traces on disk: any Kineto trace as a `Timeline`, and a run of vdkit as one that Perfetto opens.

Read are Chrome JSON files, plain or gzip, of any program. Timestamps keep their nanoseconds: Kineto
writes microseconds with three decimals, counted from boot or from 1970, where a float would round
to a quarter of a microsecond.

Written are host, streams, slots and NVML on one clock. Every slice carries its chunk in ``args``.
Slices that overlap without nesting go to tracks of their own, because Perfetto hides them on one
track. The file keeps the run's records under ``vdkit``, so that reading gives the whole timeline
back. Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vdkit.decode.chunks import DecodeConfig
from vdkit.record import written
from vdkit.trace import (
    CLOCK_MARKER,
    COMMUNICATION,
    D2D,
    D2H,
    H2D,
    KERNEL,
    MEMSET,
    OTHER_COPY,
    Alignment,
    Events,
    Timeline,
    chunk_steps,
    family_of,
    merged,
    to_ns,
)

if TYPE_CHECKING:
    from vdkit.record.runs import Run

_SPACE = re.compile(r"\s*")
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})?|[\x00-\x1f]')
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
    own, listed = head.get("vdkit"), ", ".join(map(str, devices))
    if gpu is not None and gpu not in devices:
        raise ValueError(f"{file} has no events of GPU {gpu}; it has {listed or 'none of any GPU'}")
    if not devices and own is None and require_gpu:
        raise ValueError(
            f"{file} holds no GPU events ({collected.count} events in all); profile with "
            "ProfilerActivity.CUDA on a machine with a GPU"
        )
    if len(devices) > 1 and gpu is None:
        raise ValueError(f"{file} has events of GPUs {listed}; choose one with --gpu")
    device = next(iter(devices), 0) if gpu is None else gpu
    rows = [row for there, found in collected.gpu.items() if there[0] == device for row in found]
    calls = _calls(collected, device, rows)
    try:
        gpu_events, call_events = Events.from_rows(rows), Events.from_rows(calls)
        ops = {thread: merged(spans) for thread, spans in collected.ops.items()}
    except OverflowError as error:
        raise ValueError(
            f"{file} is damaged: a stream, correlation or size is beyond 64 bits"
        ) from error
    between = np.array([family_of(name) == "communication" for name in collected.names], bool)
    gpu_events.kind[(gpu_events.kind == KERNEL) & between[gpu_events.name]] = COMMUNICATION
    timeline = Timeline(
        gpu=gpu_events, calls=call_events, calls_elsewhere=len(collected.calls) - len(calls),
        ops=ops, names=[name.encode(errors="replace").decode() for name in collected.names],
        device=_device_name(head, device), dropped=tuple(collected.dropped + _dropped(head)),
        markers=tuple(sorted(collected.markers)), notes=tuple(notes),
    )  # fmt: skip
    if own is not None:
        _restore(timeline, own, file)
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
    at = _SPACE.match(text).end()  # type: ignore[union-attr]
    if text[at : at + 1] not in ("{", "["):
        what = f"it begins with {text[at : at + 12]!r}" if text[at:] else "it is empty"
        raise ValueError(f"{file} is not a trace: {what}")
    collected = Collected(file)
    # Numbers with a point stay text until `_ns` reads them exactly; the rest are ints.
    decoder = json.JSONDecoder(parse_float=str, object_hook=collected.parsed)
    try:
        data, at = decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at").rstrip(": ")
        where = f"{what} at line {error.lineno}, column {error.colno}"
        if error.msg.startswith("Invalid"):  # inside a string: a control character, an escape
            notes.append(f"{where}: replaced")
            return _read(file, _ESCAPE.sub(_strict, text), notes)
        found = collected.count or '"traceEvents"' in text
        what = "cut short or damaged: " if found else "not a trace: it is not JSON, "
        raise ValueError(f"{file} is {what}{where}") from error
    except RecursionError as error:
        raise ValueError(f"{file} is cut short or damaged: it is nested too deep") from error
    head = data if isinstance(data, dict) else {"traceEvents": data}
    if not isinstance(events := head.pop("traceEvents", None), list):
        raise ValueError(f"{file} is not a trace: it has no traceEvents")
    for number, event in enumerate(events, start=1):
        if event is not _TAKEN:
            collected.add(event, number)
    if rest := text[at:].strip():
        notes.append(f"{len(rest)} characters after the end of the JSON, {rest[:12]!r}: not read")
    return collected, head


def _strict(escape: re.Match[str]) -> str:
    """An escape as it is, a lone backslash doubled, a control character as a space."""
    if len(escape[0]) > 1:
        return escape[0]
    return r"\\" if escape[0] == "\\" else " "


def _device_name(head: dict[str, Any], device: int) -> str:
    listed = head.get("deviceProperties")
    known = [p for p in (listed if isinstance(listed, list) else ()) if isinstance(p, dict)]
    names = (str(p.get("name") or "").strip() for p in known if p.get("id") == device)
    return next(filter(None, names), f"GPU {device}")


def _dropped(head: dict[str, Any]) -> list[str]:
    """Warnings and errors of the profiler that speak of dropped events."""
    given = (head.get(key) or [] for key in ("WARNING", "ERROR"))
    said = [str(one) for some in given for one in (some if isinstance(some, list) else [some])]
    return [message for message in said if DROPPED.search(message)]


DROPPED = re.compile(r"\b(dropp\w*|lost)\b.*\b(event|record|activit|buffer)|buffer.*\bdropp", re.I)

# Capitalized: what Kineto wrote before torch 1.12.
_GPU = {
    "kernel": KERNEL, "gpu_memcpy": OTHER_COPY, "gpu_memset": MEMSET,
    "Kernel": KERNEL, "Memcpy": OTHER_COPY, "Memset": MEMSET,
}  # fmt: skip
_CALLS = ("cuda_runtime", "cuda_driver", "Runtime")
_OPS = ("cpu_op", "Operator")
_COPIES = (("DtoH", D2H), ("HtoD", H2D), ("DtoD", D2D))
_FAR_NS = 2**62
_TAKEN: Any = object()


class Collected:
    """What is kept of each event: a short row, so that memory stays far below the text's size."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.gpu: dict[tuple[int, Any], list[tuple[int, ...]]] = {}  # by device and pid
        self.calls: list[tuple[int, ...]] = []
        self.threads: dict[tuple[Any, Any], int] = {}  # number of (pid, tid)
        self.ops: dict[int, list[tuple[int, int]]] = {}
        self.names: dict[str, int] = {}
        self.dropped: list[str] = []
        self.markers: list[tuple[int, int]] = []
        self.count = 0

    def parsed(self, value: dict[str, Any]) -> Any:
        """Of each object, as it is parsed: an event is added and not kept; others stay."""
        if "ph" not in value or "pid" not in value:
            return value
        self.add(value, self.count + 1)
        return _TAKEN

    def add(self, event: Any, number: int) -> None:
        """Keep one event; ValueError, with the file, the event and the value, for a damaged one."""
        self.count += 1
        try:
            self._take(event)
        except (TypeError, KeyError, AttributeError, ArithmeticError, ValueError) as error:
            raise ValueError(
                f"{self.file} is damaged or no Chrome trace: event {number} {fault(event)}"
            ) from error

    def _take(self, event: Any) -> None:
        category = event.get("cat")
        if event.get("ph") != "X":
            if category != "ac2g" and DROPPED.search(str(event.get("name", ""))):
                self.dropped.append(str(event["name"]))
            return
        details = event.get("args", {})
        if (kind := _GPU.get(category)) is not None:
            name, pid, stream = event["name"], event.get("pid"), details.get("stream")
            if kind == OTHER_COPY:
                kind = next((code for word, code in _COPIES if word in name), OTHER_COPY)
            device = details.get("device", 0 if stream is not None else _last(pid))
            stream = _last(event["tid"]) if stream is None else stream
            row = (
                *_span(event), self._name(name), int(stream), kind,
                int(details.get("correlation", -1)), int(details.get("bytes", 0)),
            )  # fmt: skip
            self.gpu.setdefault((int(device), pid), []).append(row)
        elif category in _CALLS:
            name, correlation = self._name(event["name"]), int(details.get("correlation", -1))
            self.calls.append((*_span(event), name, self._thread(event), 0, correlation, 0))
        elif category in _OPS:
            self.ops.setdefault(self._thread(event), []).append(_span(event))
        elif category == "user_annotation" and event["name"] == CLOCK_MARKER:
            self.markers.append(_span(event))
        elif category == "overhead" and DROPPED.search(event["name"]):
            self.dropped.append(event["name"])

    def _thread(self, event: dict[str, Any]) -> int:
        """Threads of several processes may share an id."""
        return self.threads.setdefault((event.get("pid"), event["tid"]), len(self.threads))

    def _name(self, name: str) -> int:
        if not isinstance(name, str):
            raise TypeError(name)
        return self.names.setdefault(name, len(self.names))


def fault(event: Any) -> str:
    """What is wrong with an event that could not be kept, in words; its name in front."""
    if not isinstance(event, dict):
        return f"is {_short(event)}, not an object"
    name = event.get("name")
    label = f"({_short(name)})" if "name" in event else "(without a name)"
    if not isinstance(name, str):
        return f"{label} needs a name that is text"
    for key in ("ts", "dur"):
        if key not in event:
            return f"{label} has no {key}"
        try:
            value = Decimal(str(event[key]))
        except InvalidOperation:
            return f"{label} has {key} {_short(event[key])}, which is no number"
        if not value.is_finite() or abs(value) * 1000 >= _FAR_NS:
            return f"{label} has {key} {_short(event[key])}, which is no time in microseconds"
        if key == "dur" and value < 0:
            return f"{label} has dur {event[key]}: a negative length"
    details = event.get("args", {})
    if not isinstance(details, dict):
        return f"{label} has args {_short(details)}, not an object"
    for key in ("stream", "device", "correlation", "bytes"):
        try:
            int(details.get(key, 0))
        except (TypeError, ValueError):
            return f"{label} has {key} {_short(details[key])}, which is no whole number"
    where = f"pid {_short(event.get('pid'))}, tid {_short(event.get('tid'))}"
    if event.get("cat") in _GPU and details.get("stream") is None:
        return f"{label} has no stream in its args, nor device and stream in {where}"
    return f"{label} has no thread that can be read: {where}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}"


def _last(place: Any) -> int:
    """The number of a device or stream, as in ``7`` or ``"stream 7"``."""
    return int(str(place).rpartition(" ")[2])


def _span(event: dict[str, Any]) -> tuple[int, int]:
    """(start, stop) in ns; ValueError for a negative length or a time out of range."""
    start, length = _ns(event["ts"]), _ns(event["dur"])
    if not (0 <= length < _FAR_NS and -_FAR_NS < start < _FAR_NS):
        raise ValueError(length)
    return start, start + length


def _ns(value: Any) -> int:
    """Microseconds, as JSON had them, to integer ns; exact for up to three decimals."""
    if isinstance(value, int):
        return value * 1000
    whole, _, fraction = value.partition(".")
    if len(fraction) <= 3 and fraction.isdigit() and whole.isdigit():
        return int(whole) * 1000 + int(fraction.ljust(3, "0"))
    return round(Decimal(value) * 1000)


SCHEMA = 1
_HOST, _DEVICE, _COUNTERS = 1, 2, 3
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
    from vdkit.record.runs import Run  # pydantic, which reading does without

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


def _restore(timeline: Timeline, own: dict[str, Any], file: Path) -> None:
    """Put the records that `write_trace` kept back into a timeline read from ``file``."""
    from vdkit.record.runs import Run

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
    names = {_HOST: "vdkit host", _DEVICE: f"GPU: {timeline.device}", _COUNTERS: "counters"}
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
                place = (_DEVICE, f"{step} (CUDA events)")
            times = to_ns(start_s), to_ns(stop_s)
            yield *place, f"{step} {index}", "vdkit", *times, {"chunk": index}
    for process, events in ((_DEVICE, timeline.gpu), (_HOST, timeline.calls)):
        for lane in np.unique(events.lane).tolist():
            mine = events.where(events.lane == lane)
            role = "compute " * bool(len(mine.of(KERNEL))) or "copy " * bool(len(mine.of(D2H)))
            title = f"{role}stream {lane}" if process == _DEVICE else f"CUDA calls of thread {lane}"
            yield from _lane(mine, process, title, timeline.names)


def _lane(events: Events, process: int, title: str, names: Sequence[str]) -> Iterator[Slice]:
    """The events of one stream or thread, on as many tracks as it takes."""
    columns = [getattr(events, column).tolist() for column in _COLUMNS]
    places = tracks(*columns[:2])
    for place, row in zip(places, zip(*columns, strict=True), strict=True):
        start, stop, name, kind, lane, correlation, nbytes, chunk = row
        category, args = "cuda_runtime", {"correlation": correlation, "chunk": chunk}
        if process == _DEVICE:
            category, args = "kernel", {"device": 0, "stream": lane} | args
            if kind not in (KERNEL, COMMUNICATION):
                category = "gpu_memset" if kind == MEMSET else "gpu_memcpy"
                args["bytes"] = nbytes
        track = f"{title} ({place + 1})" if place else title
        yield process, track, names[name], category, start, stop, args


def _counters(timeline: Timeline, run: Run) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Slots in use (taken when acquired, given back when written), and what NVML sampled."""
    held, used = [one for one in run.chunks if None not in (one.slot, one.slot_acquired_s)], 0
    changes = [(to_ns(one.slot_acquired_s), 1) for one in held]
    changes += [(to_ns(one.write_done_s or run.latency_s), -1) for one in held]
    for at, change in sorted(changes):
        used += change
        yield "slots in use", at, {"slots": used}
    for name in (name for name in _NVML_COUNTERS if name in timeline.nvml):
        for time_s, value in zip(timeline.nvml["time_s"], timeline.nvml[name], strict=True):
            if value is not None:
                yield name, to_ns(time_s), {name: value}
