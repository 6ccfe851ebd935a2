"""The four ways to decode: what people have today, the floor, and the one that hides what it can.

`decode_diffusers` is what a diffusers user writes, `decode_sync` the published chunked baseline,
`decode_async` does decode, copy and write of different chunks at the same time, and `compute_only`
is the floor that it is held against. All leave the same records, so that they can be laid side by
side. Each is written as what it does with its `Job` and called as `DecodePath` says.

Async has a ring: slots, each a device buffer paired with a host buffer, handed out in order. A slot
is free again only after the host has seen its copy finish and the sink has let go of its host
buffer. So neither buffer is ever reused early, and nothing depends on the caching allocator's
``record_stream``. Slots change hands through queues whose put and get nothing interrupts halfway.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from vdkit.decode import require, wants_float
from vdkit.decode.chunks import LAUNCH_AHEAD, ChunkRecord, DecodeResult
from vdkit.decode.engines import Mark, on_device
from vdkit.decode.job import PATHS as PATHS
from vdkit.decode.job import Job, decode_path
from vdkit.decode.media import MEDIA
from vdkit.decode.terminal import Wake

if TYPE_CHECKING:
    import numpy as np

    from vdkit.decode.media import MediaInfo

_POLL_S = 0.05


@decode_path("diffusers")
def decode_diffusers(job: Job) -> DecodeResult:
    """Decode as a diffusers user does: whole video, VideoProcessor to numpy, uint8, write.

    Images and audio go the same way, by the decoder's own ``to_numpy``. As in diffusers' pipelines
    VideoProcessor gets the frames on the device and copies them itself, so that the copy is a part
    of ``convert`` in the record. They are made float32 before and not after, so that the bytes
    equal those of the other paths. As in diffusers' ``export_to_video`` all frames become uint8 one
    by one, then all are written (but rounded, where that truncates).
    A sink that ``wants_float`` gets VideoProcessor's frames as they are. The record holds one
    chunk, the whole video. ``cancel`` is looked at before each latent frame.
    Arguments, result and errors are those of `decode_async`, but the decoder is a
    `WholeVideoDecoder`, and ``config`` is recorded but not read.

    Raises:
        TypeError: the decoder cannot decode a whole video (it has no ``decode_video`` and
            ``to_numpy``).
    """
    require(job.decoder, "WholeVideoDecoder", ("decode_video", "to_numpy"))
    job.open_sink()
    for record in job.steps():
        with job.launch(record):
            with job.signals:
                frames = job.decoder.decode_video(job.take_latents(), lambda _: job.check())
            job.check_frames(frames, record)
        job.check()
        with job.step("convert", record):
            exact = frames.float()
            del frames
            record.d2h_bytes = exact.nbytes
            with job.signals:
                video = job.decoder.to_numpy(exact)
                del exact
                if not wants_float(job.sink):
                    made = _rounded_rows if job.info.medium == "av" else _rounded
                    levels = torch.from_numpy(made(video, job.rgb_info))
                    video = job.in_format(levels).numpy()
        job.write(record, video)
    job.close_sink()
    return job.finish()


def _rounded(video: np.ndarray, info: MediaInfo) -> np.ndarray:
    """float [F, H, W, 3] in [0, 1], in any order, to uint8 in C order, frame by frame.

    Of audio float [S, channels] in [-1, 1] to int16.
    """
    expected, medium = info.shape(info.frames), info.kind
    if video.shape != expected:
        raise ValueError(
            f"to_numpy gave shape {video.shape}, expected {expected} = {medium.layout}"
        )
    made = torch.empty(expected, dtype=getattr(torch, medium.dtype)).numpy()
    if medium.name == "audio":  # of which nothing has clamped the values
        made[...] = (video.clip(-1, 1) * medium.levels).round()
        return made
    for frame, out in zip(video, made, strict=True):
        out[...] = (frame * medium.levels).round()  # in [0, 255], so the cast is exact
    return made


def _rounded_rows(parts: tuple[np.ndarray, np.ndarray], info: MediaInfo) -> np.ndarray:
    """float [F, H*W*3] in [0, 1] and [F, samples*channels] in [-1, 1] to rows, uint8 [F, bytes]."""
    pictures, sound = parts
    made = torch.empty(info.shape(info.frames), dtype=torch.uint8).numpy()
    picture = info.frame_bytes - 2 * info.sound_values
    if len(pictures) != info.frames or pictures.size != info.frames * picture:
        raise ValueError(
            f"to_numpy gave shape {pictures.shape}, expected {(info.frames, picture)} = [F, H*W*3]"
        )
    for frame, out in zip(pictures, made, strict=True):
        out[:picture] = (frame.reshape(-1) * 255).round()
    made[:, picture:].view("<i2")[...] = (sound.clip(-1, 1) * MEDIA["audio"].levels).round()
    return made


@decode_path("sync")
def decode_sync(job: Job) -> DecodeResult:
    """Decode chunk by chunk, one step after the other: the published baseline.

    Each chunk is decoded, its full-precision frames are copied to pageable host memory while the
    host waits, converted to uint8 on the host and written. With ``sync_uint8_on_gpu`` the frames
    become uint8 on the device, as in `decode_async`, and one byte per value is copied; the record
    then has no ``convert``. Of ``config`` only these two, ``chunk_size`` and
    ``sync_uint8_on_gpu``, count. Arguments, result and errors are those of `decode_async`.
    """
    on_gpu = job.config.sync_uint8_on_gpu
    job.open_sink()
    state = job.begin()
    for record in job.steps():
        with job.launch(record):
            if on_gpu:
                frames = _empty(job, record.frames)
                job.decode_uint8(state, record, frames)
            else:
                frames = job.decode(state, record)
        copy_start = job.engine.mark("compute")
        with job.range("copy", record):
            host = frames.to("cpu", copy=True)
        copy_done = job.engine.mark("compute")
        job.marks[-1] |= {"copy_start_s": copy_start, "copy_done_s": copy_done}
        record.d2h_bytes = host.nbytes
        del frames
        job.write(record, (host if on_gpu else job.convert(record, host)).numpy())
    job.close_sink()
    return job.finish()


@decode_path("compute_only")
def compute_only(job: Job) -> DecodeResult:
    """Decode and convert on the device, copy nothing, write nothing: the floor for `decode_async`.

    ``sink`` is accepted so that all paths are called alike; it is never opened. Of ``config`` only
    ``chunk_size`` counts. Arguments, result and errors are otherwise those of `decode_async`.
    """
    out = _empty(job, max(record.frames for record in job.chunks))
    job.ring_bytes = out.nbytes
    state = job.begin()
    for record in job.steps():
        job.wait_for_launched()
        with job.launch(record):
            job.decode_uint8(state, record, out[: record.frames])
        job.frames_done = record.frame_stop
    return job.finish()


def _empty(job: Job, units: int) -> torch.Tensor:
    """For so many frames, images or samples as the sink gets them, on the device."""
    dtype = getattr(torch, job.info.kind.dtype)
    return torch.empty(job.info.shape(units), dtype=dtype, device=job.decoder.device)


class Slot:
    """One pair of buffers and the chunk that is in them."""

    def __init__(self, index: int, device: torch.Tensor, host: torch.Tensor) -> None:
        self.index, self.device, self.host = index, device, host
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
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._wake = Wake()
        self.slots = []
        for index in range(slots):
            on_device = torch.empty(values, dtype=dtype, device=device)
            on_host = torch.empty(values, dtype=dtype, pin_memory=pinned)
            self.slots.append(Slot(index, on_device, on_host))
            self._free.put(self.slots[-1])
        self.ring_bytes = slots * values * dtype.itemsize
        self.pinned_bytes = self.ring_bytes if pinned else 0

    def free(self, slot: Slot) -> None:
        """Give a slot away that was written out; only the thread that has it may.

        Raises:
            RuntimeError: nobody has it: two chunks would share its buffers.
        """
        if slot.record is None:
            raise RuntimeError(f"slot {slot.index} is free already")
        slot.record = None
        self._free.put(slot)
        self._wake.set()

    def acquire(
        self, record: ChunkRecord, now: Callable[[], float], check: Callable[[], None]
    ) -> Slot:
        """Wait for the chunk's slot and take it; the record notes the wait.

        ``check`` is called first and while waiting and may raise, so that neither a dead writer nor
        a cancel leaves the caller waiting.
        """
        record.slot_wait_start_s = record.slot_acquired_s = now()
        check()
        while self._free.empty():
            check()
            self._wake.wait(_POLL_S)
            record.slot_acquired_s = now()
        slot = self._free.get()
        record.slot = slot.index
        slot.record = record
        return slot

    def wake(self) -> None:
        """Let a waiting `acquire` call its ``check``."""
        self._wake.set()

    def release(self) -> None:
        """Let go of all buffers; an exception or a debugger may still hold a slot."""
        for slot in self.slots:
            del slot.device, slot.host
        self.slots.clear()


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
        """Wait for a slot's copy, hand it to the sink, and free it."""
        record = slot.record
        assert record is not None
        self.job.engine.wait(slot.copy_done)
        _, host = slot.views(_buffer_shape(self.job, record))
        if not self.job.config.uint8_on_gpu:
            host = self.job.convert(record, host)
        self.job.write(record, host.numpy())
        self.ring.free(slot)


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
    """The sink's if converted on the GPU, else the decoder's own."""
    shape = job.info.shape if job.config.uint8_on_gpu else job.info.decoded_shape
    return shape(record.frames)


def _name_holders(records: Sequence[ChunkRecord], slots: int) -> None:
    """Say for each chunk that waited for its slot what the slot's last chunk was doing."""
    for holder, record in zip(records, records[slots:], strict=False):
        waited_from, until = record.slot_wait_start_s, record.slot_acquired_s
        if waited_from is not None and until is not None and until > waited_from:
            record.slot_held_by = holder.phase_at(waited_from)


@decode_path("async")
def decode_async(job: Job) -> DecodeResult:
    """Decode chunk by chunk with compute, copy and write overlapped.

    For each chunk the host takes a free slot of the ring, launches the decode into the slot's
    device buffer on the compute stream, and queues the copy to the slot's pinned buffer on the
    copy stream; the writer thread waits for the copy, writes, and frees the slot. Frames reach the
    sink in order. On a CPU decoder the same code runs with clock readings for events and memcpy
    for copies.

    Args:
        decoder: any `ChunkDecoder`.
        latents: [C, T, h, w] or [1, C, T, h, w]; of images [N, C, h, w]; of audio [C, T], [1, C, T]
            or [1, C, T, F]; float16, bfloat16 or float32, as the decoder takes them
            (de-normalized); moved to its device and dtype.
        sink: any `Sink` of the decoder's medium; receives uint8 RGB [F, H, W, 3] in [0, 255], of
            audio int16 [S, channels].
        fps: frame rate of a video; the real-time factor and the file's timing follow from it. Audio
            has its sample rate, and images have none.
        config: chunk size, slots and primitives.
        progress: True for a tqdm bar, False for none, or a callable (frames, images or samples done
            and in all), called on the caller's thread as they have been written.
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
    config, engine = job.config, job.engine
    values = max(math.prod(_buffer_shape(job, record)) for record in job.chunks)
    dtype = getattr(torch, job.info.kind.dtype) if config.uint8_on_gpu else job.decoder.dtype
    pinned = config.pinned_memory and job.decoder.device.type == "cuda"
    slots = min(config.slots, len(job.chunks))
    ring = Ring(slots, values, dtype, job.decoder.device, pinned)
    job.ring_bytes, job.pinned_bytes = ring.ring_bytes, ring.pinned_bytes
    job.writer = writer = (ThreadWriter if config.writer_thread else InlineWriter)(job, ring)
    writer.start()
    state = job.begin()
    for record in job.steps():
        with job.range("slot wait", record):
            slot = writer.acquire(record)
        job.wait_for_launched()
        device, host = slot.views(_buffer_shape(job, record))
        engine.after("compute", slot.copy_done)
        with job.launch(record):
            if config.uint8_on_gpu:
                job.decode_uint8(state, record, device)
            else:
                device.copy_(job.decode(state, record))
        engine.after("copy", job.marks[-1]["decode_done_s"])
        copy_start = engine.mark("copy")
        with job.range("copy", record):
            engine.copy(host, device)
        slot.copy_done = engine.mark("copy")
        job.marks[-1] |= {"copy_start_s": copy_start, "copy_done_s": slot.copy_done}
        record.d2h_bytes = host.nbytes
        writer.put(slot)
    writer.drain()
    result = job.finish()
    _name_holders(result.chunks, slots)
    return result
