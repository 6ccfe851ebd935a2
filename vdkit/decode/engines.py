"""The compute and the copy engine of a device: what runs after what, and when it ran.

The decode paths are written once against these few calls. On CUDA they are streams and events; on a
CPU the same calls run at once and read the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, Literal

import torch

from vdkit.decode.chunks import FIRST_STEADY_CHUNK

Lane = Literal["compute", "copy"]
Mark = Any
"""A moment on a lane: a CUDA event, or a clock reading on a CPU."""
_ANCHOR_S = 2.0


class EventClock:
    """When CUDA events happened, on the host's clock.

    The time between two events is known in float32 milliseconds: to 0.1 us over 2 s, but to 31 us
    over 300 s. So each is measured from an anchor, an event of some 2 s before at the most, and
    that from the anchor before it.
    """

    def __init__(self, first: Any, first_s: float) -> None:
        """``first`` has happened at ``first_s``, a reading of `time.perf_counter`."""
        first.host_s = self._anchor_s = first_s
        self._anchor = first

    def note(self, event: Any, now_s: float) -> None:
        """Call it as ``event`` is recorded."""
        event.anchor = self._anchor
        if now_s - self._anchor_s >= _ANCHOR_S:
            self._anchor, self._anchor_s = event, now_s

    def host_time(self, event: Any) -> float:
        """`time.perf_counter` reading of a noted event that has happened, s; to about 1 us."""
        chain = [event]
        while not hasattr(chain[-1], "host_s"):
            chain.append(chain[-1].anchor)
        for later, anchor in reversed(list(pairwise(chain))):
            later.host_s = anchor.host_s + float(anchor.elapsed_time(later)) / 1e3
        return float(event.host_s)


class CudaEngine(EventClock):
    """Two CUDA streams, ordered by events; event times are read after the end, never during a run.

    The compute stream is the caller's current stream, so work queued before the call is ordered
    before it and the caching allocator sees one stream. The copy stream is separate, or the same
    one if ``copy_stream`` is False.
    """

    def __init__(self, device: torch.device, copy_stream: bool = True) -> None:
        self.device = device
        self.name = torch.cuda.get_device_name(device)
        compute = torch.cuda.current_stream(device)
        copy = torch.cuda.Stream(device) if copy_stream else compute
        self._streams = {"compute": compute, "copy": copy}
        self._steady_mallocs: int | None = None
        compute.synchronize()  # not the device: another thread may be capturing
        torch.cuda.reset_peak_memory_stats(device)
        first, first_s, self.clock_residual_s = self._read_clock()
        super().__init__(first, first_s)

    def _read_clock(self) -> tuple[torch.cuda.Event, float, float]:
        """An event, its host time, and how far that can be wrong; the streams are idle here."""
        event = torch.cuda.Event(enable_timing=True)
        before = time.perf_counter()
        event.record(self._streams["compute"])
        event.synchronize()
        after = time.perf_counter()
        return event, (before + after) / 2, (after - before) / 2

    def mark(self, lane: Lane) -> Mark:
        """Note the moment the lane gets here; a host thread that waits for it sleeps."""
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record(self._streams[lane])
        self.note(event, time.perf_counter())
        return event

    def after(self, lane: Lane, mark: Mark | None) -> None:
        """Let later work of the lane wait for ``mark``; the host does not wait."""
        if mark is not None:
            self._streams[lane].wait_event(mark)

    def copy(self, host: torch.Tensor, device: torch.Tensor) -> None:
        """Copy on the copy lane; returns at once if ``host`` is pinned, else after the copy."""
        with torch.cuda.stream(self._streams["copy"]):
            host.copy_(device, non_blocking=host.is_pinned())

    def wait(self, mark: Mark) -> None:
        """Block the calling thread until ``mark``, without spinning and without the GIL."""
        mark.synchronize()

    def note_chunk(self, index: int) -> None:
        """Count cudaMalloc calls from the first steady chunk on."""
        if index == FIRST_STEADY_CHUNK:
            self._steady_mallocs = self._mallocs()

    def _mallocs(self) -> int:
        return int(torch.cuda.memory_stats(self.device).get("num_device_alloc", 0))

    def finish(self) -> None:
        """Wait for both lanes and check the event clock against the host clock once more."""
        for stream in self._streams.values():
            stream.synchronize()
        end, end_s, half_width_s = self._read_clock()
        self.note(end, end_s)
        drift_s = abs(self.host_time(end) - end_s)
        self.clock_residual_s = max(self.clock_residual_s, half_width_s, drift_s)

    def vram_peak_bytes(self) -> int:
        """Highest torch allocation since the engine was made."""
        return torch.cuda.max_memory_allocated(self.device)

    def device_mallocs_steady(self, chunks: int) -> int | None:
        """cudaMalloc calls since the first steady chunk; None if the video is too short."""
        if self._steady_mallocs is None or chunks < 2 * FIRST_STEADY_CHUNK:
            return None
        return self._mallocs() - self._steady_mallocs

    def abandon(self) -> None:
        """After a failure: let the device rest, so that buffers can be freed. Never raises."""
        try:
            for stream in self._streams.values():
                stream.synchronize()
        except RuntimeError:
            pass  # the device reports the failure that is already on its way to the caller


class HostEngine:
    """The same calls on a CPU: work is done when the call returns, a mark is a clock reading."""

    clock_residual_s = 0.0
    name = "cpu"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self, lane: Lane) -> Mark:
        return time.perf_counter()

    def copy(self, host: torch.Tensor, device: torch.Tensor) -> None:
        host.copy_(device)

    def host_time(self, mark: Mark) -> float:
        return mark

    def _nothing(self, *arguments: Any) -> None:
        """There is nothing to wait for, and nothing to count."""

    after = wait = note_chunk = finish = abandon = _nothing
    vram_peak_bytes = device_mallocs_steady = _nothing


Engine = CudaEngine | HostEngine


def make_engine(device: torch.device, copy_stream: bool = True) -> Engine:
    """The engine of ``device``; its clock starts here, with its streams idle."""
    return CudaEngine(device, copy_stream) if device.type == "cuda" else HostEngine(device)


def on_device(device: torch.device) -> Any:
    """Context that makes ``device`` current, so that a second GPU's streams are its own."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def seconds_on(device: torch.device, work: Callable[[], object], times: int) -> list[float]:
    """Seconds of each call of ``work``: by CUDA events on a GPU, by the clock elsewhere."""
    found = []
    for _ in range(times):
        if device.type == "cuda":
            with torch.cuda.device(device):
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                work()
                stop.record()
                stop.synchronize()
                found.append(start.elapsed_time(stop) / 1e3)
        else:
            begun = time.perf_counter()
            work()
            found.append(time.perf_counter() - begun)
    return found
