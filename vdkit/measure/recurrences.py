"""The decode paths as recurrences: which step waits for what, and so when each begins and ends.

A step starts when its input is there, its engine is free and its slot is free: maxima of sums, so
that no faster step makes a run slower, and with a writer thread no further slot. (Without one more
slots let the host write later, which costs time if a cache in front of the storage lies idle.)

Not modelled: copies that slow kernels down, a full launch queue (its launches end later, but the
compute stream has work then), how the writer thread and the launching thread share the cores, and
in mode diffusers the copies by which its output grows with each latent frame: 0.6 % of the run at
641 frames of 480x832 on an H200, less in shorter ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from vdkit.decode.chunks import LAUNCH_AHEAD, Chunk, ChunkRecord, DecodeConfig, VideoInfo
from vdkit.measure.costs import StageCosts

MODES = ("diffusers", "sync", "async", "compute")
FLOAT32_BYTES = 4  # what VideoProcessor copies


def is_pinned(costs: StageCosts, config: DecodeConfig, mode: str) -> bool:
    """Whether frames go to pinned host memory, so that a copy does not block the host."""
    return mode == "async" and config.pinned_memory and costs.cuda


def converts_on_gpu(config: DecodeConfig, mode: str) -> bool:
    """Whether mode sync or async makes its frames uint8 before they are copied."""
    return config.sync_uint8_on_gpu if mode == "sync" else config.uint8_on_gpu


def d2h_value_bytes(costs: StageCosts, config: DecodeConfig, mode: str) -> int:
    """Bytes per color value that go to the host; 0 if none do."""
    if mode in ("sync", "async"):
        return 1 if converts_on_gpu(config, mode) else costs.element_bytes
    return {"diffusers": FLOAT32_BYTES, "compute": 0}[mode]


class Pipeline:
    """One run in the making: when both streams and the storage are next free, s since the call.

    Each path is a method that walks its thread's calls in order, fills the records and returns the
    latency. ``host_s`` is the clock of the thread that launches.
    """

    def __init__(
        self,
        costs: StageCosts,
        times: Mapping[str, Sequence[float]],
        config: DecodeConfig,
        chunks: Sequence[Chunk],
        info: VideoInfo,
        mode: str,
    ) -> None:
        self.costs, self.times, self.config, self.info = costs, times, config, info
        self.mode = mode
        frame_bytes = info.frame_bytes * d2h_value_bytes(costs, config, mode)
        self.records = [
            ChunkRecord(
                index=chunk.index, latent_start=chunk.latent_start, latent_stop=chunk.latent_stop,
                frame_start=chunk.frame_start, frame_stop=chunk.frame_stop,
                d2h_bytes=chunk.frames * frame_bytes,
            )
            for chunk in chunks
        ]  # fmt: skip
        self.slots = min(config.slots, len(chunks))
        self.pinned = is_pinned(costs, config, mode)
        self.decoded_s: list[float] = []
        self.copied_s: list[float] = []
        self.compute_free_s = self.copy_free_s = self.cache_empty_s = 0.0
        self.sink_open_s = costs.open.seconds(info.frames)
        self.sink_close_s: float | None = None

    def walk(self) -> float:
        """Walk the path; returns the latency, s."""
        threaded = self.mode == "async" and self.config.writer_thread
        return {
            "diffusers": self.serial,
            "sync": self.serial,
            "async": self.threaded if threaded else self.inline,
            "compute": self.compute,
        }[self.mode]()

    def launch(self, record: ChunkRecord, host_s: float) -> float:
        """Launch the decode; returns when the call comes back."""
        start_s = host_s + self.costs.step_s
        done_s = start_s + self.times["launch"][record.index]
        # Queued kernels run back to back; on an idle stream the first ones wait for their launch.
        frames = record.frame_stop - record.frame_start
        lead_s = self.costs.lead.seconds(frames, record.index == 0)
        begin_s = max(start_s + lead_s, self.compute_free_s)
        decoded_s = max(begin_s + self.times["decode"][record.index], done_s)
        record.launch_start_s, record.launch_done_s = start_s, done_s
        record.decode_start_s = max(start_s, self.compute_free_s)
        record.decode_done_s = self.compute_free_s = decoded_s
        self.decoded_s.append(decoded_s)
        return done_s

    def copy(self, record: ChunkRecord) -> float:
        """Copy to the host behind the decode; returns when it is done."""
        start_s = max(self.decoded_s[-1], self.copy_free_s)
        done_s = start_s + self.times["copy"][record.index]
        record.copy_start_s, record.copy_done_s = start_s, done_s
        self.copy_free_s = done_s
        if not self.config.copy_stream:
            self.compute_free_s = done_s
        self.copied_s.append(done_s)
        return done_s

    def write(self, record: ChunkRecord, at_s: float) -> float:
        """Convert, if the host has to, and write; returns when the sink lets go."""
        if "convert" in self.times:
            record.convert_start_s = at_s
            ready_s = max(at_s, self.decoded_s[record.index])  # waits only in mode diffusers
            at_s = record.convert_done_s = ready_s + self.times["convert"][record.index]
        done_s = at_s + self.times["write"][record.index]
        storage = self.costs.storage
        if storage is not None:
            rate = storage.mb_per_s * 1e6
            nbytes = (record.frame_stop - record.frame_start) * self.info.frame_bytes
            begin_s = max(at_s, self.cache_empty_s)
            done_s = max(done_s, begin_s + (nbytes - storage.burst_bytes) / rate)
            self.cache_empty_s = max(done_s, begin_s + nbytes / rate)
        record.write_start_s, record.write_done_s = at_s, done_s
        return done_s

    def close(self, at_s: float) -> float:
        """Close the sink; returns the latency."""
        durable = self.costs.storage is not None and self.costs.storage.durable
        stored_s = max(at_s, self.cache_empty_s) if durable else at_s
        done_s = stored_s + self.costs.close.seconds(self.info.frames)
        self.sink_close_s = done_s - at_s
        return done_s

    def ahead(self, index: int, host_s: float) -> float:
        """The host sleeps until no more than `LAUNCH_AHEAD` chunks are in front of it."""
        if index < LAUNCH_AHEAD:
            return host_s
        return max(host_s, self.decoded_s[index - LAUNCH_AHEAD] + self.costs.wake_s)

    def compute(self) -> float:
        host_s = self.costs.setup_s
        for record in self.records:
            host_s = self.launch(record, self.ahead(record.index, host_s))
        return max(host_s, self.compute_free_s + self.costs.wake_s)

    def serial(self) -> float:
        """Modes sync and diffusers; in the latter the conversion holds the copy."""
        host_s = self.costs.setup_s + self.sink_open_s
        for record in self.records:
            host_s = self.launch(record, host_s)
            if "copy" in self.times:
                host_s = self.copy(record)
            host_s = self.write(record, host_s)
        return self.close(host_s)

    def decode_and_copy(self, record: ChunkRecord, host_s: float) -> float:
        """One chunk of mode async, its slot acquired; returns when the host goes on."""
        if not self.pinned:  # the copy before blocked the host: there is nothing to sleep on
            self.launch(record, host_s)
            return self.copy(record)
        host_s = self.launch(record, self.ahead(record.index, host_s))
        self.copy(record)
        return host_s

    def ready(self, index: int) -> float:
        """When the thread that writes has seen the copy's end."""
        return self.copied_s[index] + (self.costs.wake_s if self.pinned else 0.0)

    def threaded(self) -> float:
        host_s = self.costs.setup_s
        writer_s = host_s + self.sink_open_s
        for record in self.records:
            record.slot = record.index % self.slots
            record.slot_wait_start_s = record.slot_acquired_s = host_s
            if record.index >= self.slots:
                held = self.records[record.index - self.slots]
                assert held.write_done_s is not None
                if held.write_done_s > host_s:
                    record.slot_held_by = held.phase_at(host_s)
                    record.slot_acquired_s = host_s = held.write_done_s
            host_s = self.decode_and_copy(record, host_s)
            writer_s = self.write(record, max(writer_s, self.ready(record.index)))
        return self.close(writer_s)

    def inline(self) -> float:
        host_s = self.costs.setup_s + self.sink_open_s
        pending: deque[ChunkRecord] = deque()

        def write_until(left: int, host_s: float) -> float:
            while len(pending) > left:
                record = pending.popleft()
                host_s = self.write(record, max(host_s, self.ready(record.index)))
            return host_s

        for record in self.records:
            host_s = write_until(self.slots - 1, host_s)
            record.slot = record.index % self.slots
            record.slot_wait_start_s = record.slot_acquired_s = host_s
            host_s = self.decode_and_copy(record, host_s)
            pending.append(record)
            host_s = write_until(LAUNCH_AHEAD, host_s)
        return self.close(write_until(0, host_s))
