"""The asynchronous decode path: decode, copy and write of different chunks at the same time.

Each primitive that makes it fast (pinned memory, copy stream, more than one slot, writer thread,
uint8 on the GPU) can be switched off on its own, with the same bytes in the end.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from fractions import Fraction

import torch

from vdkit.decode.chunks import LAUNCH_AHEAD, ChunkRecord, DecodeConfig, DecodeResult
from vdkit.decode.engines import on_device
from vdkit.decode.job import Job
from vdkit.decode.pixels import frames_to_uint8
from vdkit.decode.protocols import ChunkDecoder, Progress, Sink
from vdkit.decode.ring import Ring, Slot, SlotState

_POLL_S = 0.05


class InlineWriter:
    """The sink on the caller's thread: chunks are written between launches."""

    def __init__(self, job: Job, ring: Ring) -> None:
        self.job = job
        self.ring = ring
        self._pending: deque[Slot] = deque()

    def start(self) -> None:
        self.job.open_sink()

    def acquire(self, record: ChunkRecord) -> Slot:
        """The slot for this chunk; if none is free the oldest is written out first."""
        while len(self._pending) >= len(self.ring.slots):
            self.write_out(self._pending.popleft())
        return self.ring.acquire(record, self.job.now, self.job.check)

    def put(self, slot: Slot) -> None:
        """Take over a slot whose copy is queued; write older ones while the GPU has work."""
        self._pending.append(slot)
        while len(self._pending) > LAUNCH_AHEAD:
            self.write_out(self._pending.popleft())

    def drain(self) -> None:
        """Write what is left and close the sink."""
        while self._pending:
            self.write_out(self._pending.popleft())
            self.job.check()
        self.job.close_sink()

    def stop(self, error: BaseException) -> None:
        """After a failure: nothing runs here that would have to stop."""

    def write_out(self, slot: Slot) -> None:
        """COPYING -> READY -> WRITING -> FREE for one slot."""
        record = slot.record
        assert record is not None
        self.job.engine.wait(slot.copy_done)
        self.ring.move(slot, SlotState.READY)
        host = slot.views(_buffer_shape(self.job, record))[1]
        pixels = None
        try:
            if not self.job.config.uint8_on_gpu:
                record.convert_start_s = self.job.now()
                with self.job.range("convert", record.index):
                    host = frames_to_uint8(host)
                record.convert_done_s = self.job.now()
            self.ring.move(slot, SlotState.WRITING)
            pixels = host.numpy()
            self.job.write(record, pixels)
        finally:
            del host, pixels  # an exception keeps this frame; it must not keep the buffers
        self.ring.move(slot, SlotState.FREE)


class ThreadWriter(InlineWriter):
    """The sink on a thread of its own, while the caller launches on."""

    def __init__(self, job: Job, ring: Ring) -> None:
        super().__init__(job, ring)
        self._queue: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self._stopping = self._closing = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="vdkit-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            with on_device(self.job.engine.device):
                if not self._stopping:
                    self.job.open_sink()
                while not self._stopping and (slot := self._queue.get()) is not None:
                    if not self._stopping:
                        self.write_out(slot)
                if not self._stopping:
                    self._closing = True
                    self.job.close_sink()
        except BaseException as error:  # carried to the caller's thread
            self._error = error
        finally:
            self.ring.wake()

    def _check(self) -> None:
        """Raise what the writer raised, or the caller's cancel; report what it has written."""
        if self._error is not None:
            raise self._error
        self.job.check()

    def acquire(self, record: ChunkRecord) -> Slot:
        return self.ring.acquire(record, self.job.now, self._check)

    def put(self, slot: Slot) -> None:
        self._queue.put(slot)

    def drain(self) -> None:
        self._queue.put(None)
        while self._thread.is_alive():
            if not self._closing:  # later a cancel is too late: the output is complete
                self.job.check()
            self._thread.join(_POLL_S)
        if self._error is not None:
            raise self._error
        self.job.report()

    def stop(self, error: BaseException) -> None:
        """End the thread; at most the one ``write`` in progress is waited for."""
        self._stopping = True
        self._queue.put(None)
        interrupt = getattr(self.job.sink, "interrupt", None)
        if interrupt is not None:
            try:
                interrupt()
            except Exception as second:
                error.add_note(f"sink.interrupt() failed too: {type(second).__name__}: {second}")
        if self._thread.ident is not None:
            self._thread.join()


def _buffer_shape(job: Job, record: ChunkRecord) -> tuple[int, ...]:
    """uint8 THWC if converted on the GPU, else the decoder's own [1, 3, F, H, W]."""
    frames, info = record.frame_stop - record.frame_start, job.info
    if job.config.uint8_on_gpu:
        return (frames, info.height, info.width, 3)
    return (1, 3, frames, info.height, info.width)


def _name_holders(records: list[ChunkRecord], slots: int) -> None:
    """Say for each chunk that waited for its slot what the slot's last chunk was doing."""
    for holder, record in zip(records, records[slots:], strict=False):
        waited_from, until = record.slot_wait_start_s, record.slot_acquired_s
        if waited_from is not None and until is not None and until > waited_from:
            record.slot_held_by = holder.phase_at(waited_from)


@torch.inference_mode()
def decode_async(
    decoder: ChunkDecoder,
    latents: torch.Tensor,
    sink: Sink,
    *,
    fps: int | float | str | Fraction = 16,
    config: DecodeConfig = DecodeConfig(),
    progress: Progress = True,
    cancel: threading.Event | None = None,
    allow_nonfinite: bool = False,
) -> DecodeResult:
    """Decode chunk by chunk with compute, copy and write overlapped.

    For each chunk the host takes a free slot of the ring, launches the decode into the slot's
    device buffer on the compute stream, and queues the copy to the slot's pinned buffer on the
    copy stream; the writer thread waits for the copy, writes, and frees the slot. Frames reach the
    sink in order. On a CPU decoder the same code runs with clock readings for events and memcpy
    for copies.

    Args:
        decoder: any `ChunkDecoder`.
        latents: [C, T, h, w] or [1, C, T, h, w]; float16, bfloat16 or float32, as the decoder takes
            them (de-normalized); moved to its device and dtype.
        sink: any `Sink`; receives uint8 RGB [F, H, W, 3] in [0, 255].
        fps: frame rate of the video; the real-time factor and the file's timing follow from it.
        config: chunk size, slots and primitives.
        progress: True for a tqdm bar, False for none, or a callable (frames done, frames in all),
            called on the caller's thread as frames have been written.
        cancel: an event; once set, the decode ends with `DecodeCancelled` as soon as what is
            launched (two chunks at the most) and a write in progress are done. While the sink is
            closing it is too late, and the decode ends well.
        allow_nonfinite: let NaN and inf pass, as black or white.

    On CUDA torch's peak memory statistics of the device are reset at the call. Ctrl-C acts at once
    in the decoder and in ``progress``, else between steps; while the sink closes, after it.

    Returns:
        Latency, memory and one `ChunkRecord` per chunk.

    Raises:
        TypeError, ValueError: bad latents, decoder, sink, fps or config; the message says what is
            right.
        ValueError: the decoder gave NaN or inf; names the first chunk.
        DecodeCancelled: ``cancel`` was set.
        DecodeOutOfMemory: CUDA memory ran out; the message estimates what fits.
        Exception: whatever the decoder or the sink raised, unchanged. After any failure the writer
            thread is gone, the ring is released and the sink has been aborted.
    """
    job = Job("async", decoder, latents, sink, fps, config, progress, cancel, allow_nonfinite)
    engine = job.engine
    state = frames = device = host = None
    with job, on_device(decoder.device):
        try:
            values = max(chunk.frames for chunk in job.chunks) * job.info.frame_bytes
            dtype = torch.uint8 if config.uint8_on_gpu else decoder.dtype
            pinned = config.pinned_memory and decoder.device.type == "cuda"
            slots = min(config.slots, len(job.chunks))
            ring = Ring(slots, values, dtype, decoder.device, pinned)
            writer = ThreadWriter(job, ring) if config.writer_thread else InlineWriter(job, ring)
            job.writer = writer
            writer.start()
            state = job.begin()
            for chunk, record in job.steps():
                with job.range("slot wait", chunk.index):
                    slot = writer.acquire(record)
                job.wait_for_launched()
                device, host = slot.views(_buffer_shape(job, record))
                engine.after("compute", slot.copy_done)
                with job.launch(record):
                    if config.uint8_on_gpu:
                        job.decode_uint8(state, chunk, device)
                    else:
                        frames = job.decode(state, chunk)
                        device.copy_(frames)
                ring.move(slot, SlotState.COPYING)
                engine.after("copy", job.marks[-1]["decode_done_s"])
                copy_start = engine.mark("copy")
                with job.range("copy", chunk.index):
                    engine.copy(host, device)
                slot.copy_done = engine.mark("copy")
                job.marks[-1] |= {"copy_start_s": copy_start, "copy_done_s": slot.copy_done}
                record.d2h_bytes = host.nbytes
                writer.put(slot)
            writer.drain()
            job.finish()
            _name_holders(job.records, slots)
            return job.result(pinned_bytes=ring.pinned_bytes, ring_bytes=ring.ring_bytes)
        finally:
            state = frames = device = host = None
