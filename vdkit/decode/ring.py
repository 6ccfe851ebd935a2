"""The ring: N slots, each a device buffer paired with a host buffer, handed out in order.

A slot is FREE only after the host has seen its copy finish and the sink has let go of its host
buffer. So neither buffer is ever reused early, and nothing depends on the caching allocator's
``record_stream``. Slots change hands through queues whose put and get nothing interrupts halfway.
"""

from __future__ import annotations

import contextlib
import math
import queue
from collections.abc import Callable
from enum import StrEnum

import torch

from vdkit.decode.chunks import ChunkRecord
from vdkit.decode.engines import Mark


class SlotState(StrEnum):
    """FREE -> DECODING -> COPYING -> READY -> WRITING -> FREE."""

    FREE = "free"
    DECODING = "decoding"
    COPYING = "copying"
    READY = "ready"
    WRITING = "writing"


_ORDER = list(SlotState)
_POLL_S = 0.05


class Slot:
    """One pair of buffers and the chunk that is in them."""

    def __init__(self, index: int, device: torch.Tensor, host: torch.Tensor) -> None:
        self.index, self.device, self.host = index, device, host
        self.state = SlotState.FREE
        self.record: ChunkRecord | None = None
        self.copy_done: Mark = None

    def views(self, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """The front of the device and of the host buffer as contiguous tensors of ``shape``."""
        count = math.prod(shape)
        return self.device[:count].view(shape), self.host[:count].view(shape)


class Ring:
    """Slots in rotation: chunk i lives in slot i mod N, so slots come free in order."""

    def __init__(
        self, slots: int, values: int, dtype: torch.dtype, device: torch.device, pinned: bool
    ) -> None:
        """Allocate everything at once. ``values``: elements of ``dtype`` in one buffer."""
        self._free: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self.slots = []
        for index in range(slots):
            on_device = torch.empty(values, dtype=dtype, device=device)
            on_host = torch.empty(values, dtype=dtype, pin_memory=pinned)
            self.slots.append(Slot(index, on_device, on_host))
            self._free.put(self.slots[-1])
        self.ring_bytes = slots * values * dtype.itemsize
        self.pinned_bytes = self.ring_bytes if pinned else 0

    def move(self, slot: Slot, to: SlotState) -> None:
        """Take a slot one state on; any other step is a lifetime error, RuntimeError.

        Only the thread that has the slot may; FREE gives it away.
        """
        expected = _ORDER[(_ORDER.index(slot.state) + 1) % len(_ORDER)]
        if to is not expected:
            raise RuntimeError(f"slot {slot.index} is {slot.state}, next is {expected}, not {to}")
        slot.state = to
        if to is SlotState.FREE:
            slot.record = None
            self._free.put(slot)

    def acquire(
        self, record: ChunkRecord, now: Callable[[], float], check: Callable[[], None]
    ) -> Slot:
        """Wait for the chunk's slot and take it (-> DECODING); the record notes the wait.

        ``check`` is called first and while waiting and may raise, so that neither a dead writer nor
        a cancel leaves the caller waiting.
        """
        record.slot_wait_start_s = record.slot_acquired_s = now()
        check()
        slot = None if self._free.empty() else self._free.get()
        while slot is None:
            check()
            with contextlib.suppress(queue.Empty):
                slot = self._free.get(timeout=_POLL_S)
            record.slot_acquired_s = now()
        record.slot = slot.index
        self.move(slot, SlotState.DECODING)
        slot.record = record
        return slot

    def wake(self) -> None:
        """Let a waiting `acquire` call its ``check``."""
        self._free.put(None)

    def release(self) -> None:
        """Let go of all buffers; an exception or a debugger may still hold a slot."""
        for slot in self.slots:
            del slot.device, slot.host
        self.slots.clear()
