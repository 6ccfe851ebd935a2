"""One event of a Chrome trace at a time: what is kept of it, and what is wrong with a bad one."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from vdkit.measure.timeline import CLOCK_MARKER, D2D, D2H, H2D, KERNEL, MEMSET, OTHER_COPY

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

    def add(self, event: Any) -> None:
        """Keep one event; ValueError, with the file, the event and the value, for a damaged one."""
        self.count += 1
        try:
            self._take(event)
        except (TypeError, KeyError, AttributeError, ArithmeticError, ValueError) as error:
            raise ValueError(
                f"{self.file} is damaged or no Chrome trace: event {self.count} {fault(event)}"
            ) from error

    def _take(self, event: Any) -> None:
        category = event.get("cat")
        if event.get("ph") != "X":
            if category != "ac2g" and DROPPED.search(str(event.get("name", ""))):
                self.dropped.append(str(event["name"]))
            return
        kind = _GPU.get(category)
        if kind is not None:
            start, stop = _span(event)
            details = event.get("args", {})
            name, pid = event["name"], event.get("pid")
            if kind == OTHER_COPY:
                kind = next((code for word, code in _COPIES if word in name), OTHER_COPY)
            stream, device = details.get("stream"), details.get("device", 0)
            if stream is None:
                stream, device = _last(event["tid"]), details.get("device", _last(pid))
            row = (
                start, stop, self._name(name), int(stream), kind,
                int(details.get("correlation", -1)), int(details.get("bytes", 0)),
            )  # fmt: skip
            self.gpu.setdefault((int(device), pid), []).append(row)
        elif category in _CALLS:
            start, stop = _span(event)
            correlation = int(event.get("args", {}).get("correlation", -1))
            self.calls.append(
                (start, stop, self._name(event["name"]), self._thread(event), 0, correlation, 0)
            )
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
        number = self.names.get(name)
        if number is None:
            if not isinstance(name, str):
                raise TypeError(name)
            number = self.names[name] = len(self.names)
        return number


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
