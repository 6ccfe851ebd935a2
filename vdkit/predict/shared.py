"""The clock of the pipeline model, and what decodes side by side share.

A thread or stream is a process: a generator that yields a `Task`, or a `Mark`, and goes on when
that has ended, with the time it is then. Who want the same scarce resource are slowed alike.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from itertools import count
from operator import attrgetter
from typing import Any, TypeVar

SHARED = {
    "cores": "cores",
    "storage": "MB/s",
    "shared storage": "MB/s",
    "memory": "GB/s",
    "PCIe": "GB/s",
}
"""What decodes may share, in amounts a second; of cores an amount is core-seconds."""
_LEAST_S = 1e-9  # of a task that wants any of them
_PASSES = {"copy": 1, "convert": 2, "write": 2, "encode": 1}


def wants_of(step: str, core_s: float, moved_bytes: float, stored_bytes: float) -> dict[str, float]:
    """Amounts of `SHARED` that a step wants, beside what recordings say of its time.

    Recordings have no core-seconds and no traffic of memory. Assumed: a thread fills one core
    while it launches, converts, writes or muxes, and none while it waits; an encoder as
    `Encoding.core_s` says. Frames pass through host memory once in a copy and where they are
    encoded, twice where they are converted or written: at the least, for encoders look around.
    """
    wants = {
        "cores": 0.0 if step == "copy" else core_s,
        "memory": moved_bytes * _PASSES.get(step, 0) / 1e9,
        "PCIe": moved_bytes / 1e9 if step == "copy" else 0.0,
        **dict.fromkeys(("storage", "shared storage"), stored_bytes / 1e6),
    }
    return {name: much for name, much in wants.items() if much}


@dataclass(slots=True, eq=False)
class Task:
    """A step: ``seconds`` from ``begin_s`` on, or longer where others want the same.

    ``wants``: amounts of `SHARED`, spread evenly over it.
    """

    begin_s: float
    seconds: float
    wants: Mapping[str, float] = field(default_factory=dict)
    process: Steps[Any] | None = None
    speed: float = 1.0
    end_s: float = 0.0


@dataclass(slots=True, eq=False)
class Mark:
    """A moment that processes wait for; ``at_s`` is None until it is known."""

    at_s: float | None = None
    waiting: list[Steps[Any]] = field(default_factory=list)


_T = TypeVar("_T")
Steps = Generator[Task | Mark, float, _T]
"""A process, or a part of one that returns something."""


class Clock:
    """Runs processes in the order of time.

    A process may know of a time that the clock has not reached yet; never does it ask for work
    that would begin before the clock.

    Args:
        capacity: of some of `SHARED`, above 0; of others there is always enough.
    """

    def __init__(self, capacity: Mapping[str, float] | None = None) -> None:
        self.capacity = dict(capacity or {})
        self.now_s = 0.0
        self.wanted = dict.fromkeys(self.capacity, 0.0)  # in all
        self._later: list[tuple[float, int, Steps[Any] | Task]] = []
        self._order = count()
        self._going: list[Task] = []  # all that is slowed if others want the same

    def _at(self, at_s: float, what: Steps[Any] | Task) -> None:
        heapq.heappush(self._later, (at_s, next(self._order), what))

    def start(self, *processes: Steps[Any]) -> None:
        """Let them begin, now."""
        for process in processes:
            self._advance(process, None)

    def set(self, mark: Mark, at_s: float) -> None:
        """The moment is known: whoever waits for it goes on."""
        mark.at_s = at_s
        for process in mark.waiting:
            self._advance(process, at_s)

    def run(self) -> None:
        """Until no process can go on."""
        while self._later or self._going:
            first = min(self._going, key=attrgetter("end_s")) if self._going else None
            if first is None or (self._later and self._later[0][0] <= first.end_s):
                self.now_s, _, what = heapq.heappop(self._later)
                if isinstance(what, Task):
                    what.end_s = what.begin_s + what.seconds
                    self._going.append(what)
                    self._share()
                else:
                    self._advance(what, self.now_s)
            else:
                self.now_s = first.end_s
                self._going.remove(first)
                self._share()
                assert first.process is not None
                self._advance(first.process, self.now_s)

    def _advance(self, process: Steps[Any], at_s: float | None) -> None:
        try:
            asked = next(process) if at_s is None else process.send(at_s)
            while isinstance(asked, Mark) and asked.at_s is not None:
                asked = process.send(asked.at_s)
        except StopIteration:
            return
        if isinstance(asked, Mark):
            asked.waiting.append(process)
            return
        scarce = self.capacity.keys() & asked.wants.keys() if self.capacity else ()
        if scarce:
            for name in scarce:
                self.wanted[name] += asked.wants[name]
            asked.process, asked.seconds = process, max(asked.seconds, _LEAST_S)
            asked.wants = {name: asked.wants[name] / asked.seconds for name in scarce}  # a second
            self._at(asked.begin_s, asked)
        else:
            self._at(asked.begin_s + asked.seconds, process)

    def _share(self) -> None:
        """All that is going gets faster alike, until something is used up; who does not want that
        goes on getting faster, up to the speed that it has alone."""
        left, rising, speed = dict(self.capacity), self._going, 0.0
        while rising:
            wanted = {name: sum(work.wants.get(name, 0.0) for work in rising) for name in left}
            most = {name: left[name] / much for name, much in wanted.items() if much > 0}
            speed = max(speed, min(1.0, *most.values()))
            full = {name for name, one in most.items() if one <= speed}
            held = [w for w in rising if speed == 1 or not full.isdisjoint(w.wants)]
            for work in held:
                if work.speed != speed:
                    work.end_s = self.now_s + (work.end_s - self.now_s) * work.speed / speed
                    work.speed = speed
                for name, much in work.wants.items():
                    left[name] -= much * speed
            rising = [work for work in rising if work not in held]
