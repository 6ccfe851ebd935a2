"""Timelines made by hand, with answers that a person can check. Times in microseconds."""

import numpy as np

from vdkit.decode.chunks import ChunkRecord, DecodeConfig
from vdkit.record.runs import Run
from vdkit.trace import D2D, D2H, KERNEL, MEMSET, Events, Timeline

COPY_STREAM = 9


def chunk(index, decode, launch=None, slot=None, **spans):
    """A record; spans are (start, stop) in us: wait=, copy=, convert=, write=."""
    launch = launch or decode
    names = {"wait": ("slot_wait_start_s", "slot_acquired_s")}
    values = {}
    for step, (start, stop) in {"decode": decode, "launch": launch, **spans}.items():
        first, last = names.get(step, (f"{step}_start_s", f"{step}_done_s"))
        values |= {first: start / 1e6, last: stop / 1e6}
    return ChunkRecord(
        index=index, latent_start=index, latent_stop=index + 1, frame_start=4 * index,
        frame_stop=4 * index + 4, slot=slot, d2h_bytes=100 if "copy" in spans else 0, **values,
    )  # fmt: skip


def run(mode, chunks, latency):
    """A recorded run of these chunks; latency in us."""
    return Run(
        mode=mode, round=0, warmup=False, latency_s=latency / 1e6, ttff_s=None, sink_open_s=0.0,
        sink_close_s=0.0, vram_peak_bytes=None, device_mallocs_steady=None, pinned_bytes=0,
        ring_bytes=0, d2h_bytes=0, clock_residual_s=0.0, gpu_before=None, gpu_after=None,
        throttled=False, chunks=tuple(chunks),
    )  # fmt: skip


def timeline(kernels=(), copies=(), inner=(), recorded=None, config=None, ops=()):
    """A timeline from (start, stop, launch start, stream) kernels and (start, stop) copies, in us.

    A launch call lasts 5 us. ``copies``: D2H on COPY_STREAM, or (start, stop, stream).
    ``inner``: device copies on stream 7; a third value "memset" makes it a memset.
    """
    gpu, calls = [], []
    for correlation, (start, stop, launch, *stream) in enumerate(kernels, start=1):
        gpu.append((start * 1000, stop * 1000, 0, next(iter(stream), 7), KERNEL, correlation, 0))
        if launch is not None:
            calls.append((launch * 1000, (launch + 5) * 1000, 1, 1, 0, correlation, 0))
    for start, stop, *stream in copies:
        gpu.append((start * 1000, stop * 1000, 2, next(iter(stream), COPY_STREAM), D2H, -1, 100))
    for start, stop, *what in inner:
        gpu.append((start * 1000, stop * 1000, 3, 7, MEMSET if what else D2D, -1, 100))
    spans = np.array(ops, np.int64).reshape(-1, 2) * 1000
    made = Timeline(
        gpu=Events.from_rows(gpu),
        calls=Events.from_rows(calls),
        ops={1: (spans[:, 0], spans[:, 1])} if len(ops) else {},
        names=["kernel", "cudaLaunchKernel", "Memcpy DtoH", "Memcpy DtoD"],
        device="test",
        run=recorded,
        config=config or (DecodeConfig() if recorded else None),
    )
    made.assign_chunks()
    return made


def ms(stalls):
    """Causes in us, without those that are 0."""
    return {cause: value // 1000 for cause, value in stalls.by_cause_ns.items() if value}


def adds_up(stalls):
    """Busy and causes are the window, exactly; pieces are their gaps, exactly."""
    whole = stalls.window[1] - stalls.window[0]
    pieces = all(
        sum(p.stop_ns - p.start_ns for p in gap.pieces) == gap.length_ns for gap in stalls.gaps
    )
    drained = sum(stalls.drain_ns.values()) == stalls.by_cause_ns["drain"]
    return stalls.busy_ns + sum(stalls.by_cause_ns.values()) == whole and pieces and drained
