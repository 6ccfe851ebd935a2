"""The ring's states and waits."""

import threading
import time

import pytest
import torch

from vdkit.decode.chunks import ChunkRecord
from vdkit.decode.ring import Ring, SlotState


def record(index):
    return ChunkRecord(index=index, latent_start=0, latent_stop=1, frame_start=0, frame_stop=1)


def make_ring(slots=2):
    return Ring(slots, 24, torch.uint8, torch.device("cpu"), pinned=False)


def acquire(ring, index, check=lambda: None):
    chunk = record(index)
    return chunk, ring.acquire(chunk, time.perf_counter, check)


CYCLE = [SlotState.COPYING, SlotState.READY, SlotState.WRITING, SlotState.FREE]


def test_a_slot_goes_round():
    ring = make_ring()
    chunk, slot = acquire(ring, 0)
    assert slot.state is SlotState.DECODING and slot.record is chunk and chunk.slot == 0
    for state in CYCLE:
        ring.move(slot, state)
    assert slot.record is None
    assert acquire(ring, 3)[1].index == 1 and acquire(ring, 2)[1] is slot


@pytest.mark.parametrize("done", range(4))
def test_no_step_can_be_skipped_or_repeated(done):
    ring = make_ring()
    _, slot = acquire(ring, 0)
    for state in CYCLE[:done]:
        ring.move(slot, state)
    for state in SlotState:
        if state is not CYCLE[done]:
            with pytest.raises(
                RuntimeError, match=f"slot 0 is {slot.state}, next is {CYCLE[done]}"
            ):
                ring.move(slot, state)


def test_acquire_waits_for_the_writer_and_notes_it():
    ring = make_ring(slots=1)
    _, slot = acquire(ring, 0)

    def writer():
        for state in CYCLE:
            time.sleep(0.01)
            ring.move(slot, state)

    thread = threading.Thread(target=writer)
    thread.start()
    chunk, again = acquire(ring, 1)
    thread.join()
    assert again is slot and slot.state is SlotState.DECODING
    assert chunk.slot_acquired_s > chunk.slot_wait_start_s


def test_a_free_slot_costs_no_wait():
    chunk, _ = acquire(make_ring(), 0)
    assert chunk.slot_acquired_s == chunk.slot_wait_start_s


def test_a_waiting_acquire_can_be_stopped():
    ring = make_ring(slots=1)
    acquire(ring, 0)

    def check():
        raise InterruptedError("the writer died")

    with pytest.raises(InterruptedError):
        acquire(ring, 1, check)


def test_views_are_the_front_of_the_buffers():
    ring = make_ring()
    device, host = ring.slots[0].views((2, 2, 3))
    assert device.shape == host.shape == (2, 2, 3)
    assert device.is_contiguous() and host.is_contiguous()
    assert device.untyped_storage().nbytes() == 24
    assert ring.ring_bytes == 48 and ring.pinned_bytes == 0
