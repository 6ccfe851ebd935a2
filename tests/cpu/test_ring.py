"""The ring's order and waits."""

import threading
import time

import pytest
import torch

from vdkit.decode.chunks import ChunkRecord
from vdkit.decode.paths import Ring


def record(index):
    return ChunkRecord(index=index, latent_start=0, latent_stop=1, frame_start=0, frame_stop=1)


def make_ring(slots=2):
    return Ring(slots, 24, torch.uint8, torch.device("cpu"), pinned=False)


def acquire(ring, index, check=lambda: None):
    chunk = record(index)
    return chunk, ring.acquire(chunk, time.perf_counter, check)


def test_a_slot_goes_round():
    ring = make_ring()
    chunk, slot = acquire(ring, 0)
    assert slot.record is chunk and chunk.slot == 0
    ring.free(slot)
    assert slot.record is None
    with pytest.raises(RuntimeError, match="slot 0 is free already"):
        ring.free(slot)
    assert acquire(ring, 3)[1].index == 1 and acquire(ring, 2)[1] is slot


def test_acquire_waits_for_the_writer_and_notes_it():
    ring = make_ring(slots=1)
    _, slot = acquire(ring, 0)

    def writer():
        time.sleep(0.04)
        ring.free(slot)

    thread = threading.Thread(target=writer)
    thread.start()
    chunk, again = acquire(ring, 1)
    thread.join()
    assert again is slot and slot.record is chunk
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
