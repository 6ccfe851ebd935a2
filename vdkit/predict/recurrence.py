"""The pipeline as a model: from what each step costs to when each step of each chunk happens.

Gives the records of a real run, so that the same plots, tables and stall causes read them. The
costs are typed in (`vdkit.predict.StageCosts`) or come from recorded runs (`vdkit.predict.fit`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vdkit.decode.chunks import (
    LAUNCH_AHEAD,
    ChunkRecord,
    DecodeConfig,
    DecodeResult,
    exact_fps,
    latent_frames,
    plan_chunks,
)
from vdkit.decode.media import MediaInfo
from vdkit.predict import StageCosts
from vdkit.record.runs import MODES
from vdkit.trace.figures import busy_percent
from vdkit.trace.stalls import Stalls, stalls_from_records

if TYPE_CHECKING:
    from vdkit.record.recording import Arm, Recording


_CLOCK_S = 1e-9  # stall causes are whole nanoseconds


@dataclass(frozen=True, slots=True)
class Prediction:
    """A modelled run.

    Attributes:
        run: as a decode path returns it, with one `ChunkRecord` per chunk; its device is
            ``predicted``, its ``vram_peak_bytes`` None where `StageCosts.vram_bytes` does not tell.
        stalls: of the window from the first launch to the end, at chunk resolution.
        utilization_percent: share of each window in which the compute stream was at work, %:
            ``run`` and, if there are chunks enough, ``steady`` and ``two chunks``
            (`vdkit.trace.figures`).
    """

    run: DecodeResult
    stalls: Stalls
    utilization_percent: dict[str, float]


def predict(
    costs: StageCosts,
    info: MediaInfo,
    config: DecodeConfig = DecodeConfig(),
    mode: str = "async",
    *,
    temporal_factor: int = 4,
) -> Prediction:
    """Every start and end of one run of one decode path.

    Args:
        costs: of the machine, decoder, frame size and sink.
        info: the video; the costs must be those of its frame size.
        config: chunk size, slots and primitives, read as the path itself reads them.
        mode: ``diffusers``, ``sync``, ``async`` or ``compute_only``.
        temporal_factor: pixel frames per latent frame after the first.

    Raises:
        ValueError: unknown mode, or a cost that this path needs and that is not known; names the
            value and what to do.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; use one of {', '.join(MODES)}")
    count = latent_frames(info.frames, temporal_factor)
    chunk_size = None if mode == "diffusers" else config.chunk_size
    chunks = plan_chunks(count, chunk_size, temporal_factor)
    times = _times(costs, chunks, config, mode, temporal_factor)
    for index, seconds in enumerate(times["decode"]):
        if seconds < _CLOCK_S:
            raise ValueError(
                f"decode takes {seconds} s for chunk {index}; its cost must be {_CLOCK_S} s or more"
            )
    run = Pipeline(costs, times, config, chunks, info, mode).run()
    return Prediction(run, stalls_from_records(run, config), busy_percent(run))


def video_info(recorded: Recording | Arm) -> MediaInfo:
    """The video of a recording or of one arm."""
    load = recorded.workload
    return MediaInfo(load.frames, load.height, load.width, exact_fps(load.fps))


def _times(
    costs: StageCosts, chunks: Sequence[ChunkRecord], config: DecodeConfig, mode: str, factor: int
) -> dict[str, list[float]]:
    """Seconds of each step that the path has, by chunk."""
    pinned, value_bytes = is_pinned(costs.cuda, config, mode), _d2h_value_bytes(costs, config, mode)
    whole = mode != "async" or (pinned and config.uint8_on_gpu)
    why = f"mode {mode}{'' if whole else ' without a primitive'}"
    names = {"launch": "launch", "decode": "decode"}
    if mode == "diffusers":
        names["convert"] = "video_convert"
    elif mode != "compute_only":
        names["copy"] = "copy" if pinned else "pageable_copy"
        if value_bytes > 1:
            names["convert"] = "convert"
    if mode != "compute_only":
        names["write"] = "write"
    found = {}
    for step, name in names.items():
        cost, scale = costs.known(name, why), value_bytes if step == "copy" else 1
        each = [cost.seconds(chunk.frames * scale, chunk.index == 0) for chunk in chunks]
        if mode == "diffusers" and step in ("launch", "decode"):  # one call per latent frame
            calls = plan_chunks(chunks[0].latent_stop, 1, factor)
            each = [sum(cost.seconds(call.frames, call.index == 0) for call in calls)]
        found[step] = each
    return found


def is_pinned(cuda: bool, config: DecodeConfig, mode: str) -> bool:
    """Whether frames go to pinned host memory, so that a copy does not block the host."""
    return mode == "async" and config.pinned_memory and cuda


def _d2h_value_bytes(costs: StageCosts, config: DecodeConfig, mode: str) -> int:
    """Bytes per color value that go to the host, 1 where the GPU converts; 0 if none do."""
    if {"sync": config.sync_uint8_on_gpu, "async": config.uint8_on_gpu}.get(mode, False):
        return 1
    return {"diffusers": 4, "compute_only": 0}.get(mode, costs.element_bytes)


class Pipeline:
    """One run in the making: when both streams and the storage are next free, s since the call.

    A path is a method that walks its threads' calls in order, fills the records and returns the
    latency. ``host_s`` is the clock of the thread that launches. ``times``: step to its seconds by
    chunk.
    """

    def __init__(
        self,
        costs: StageCosts,
        times: Mapping[str, Sequence[float]],
        config: DecodeConfig,
        chunks: Sequence[ChunkRecord],
        info: MediaInfo,
        mode: str,
    ) -> None:
        self.costs, self.times, self.config, self.info, self.mode = costs, times, config, info, mode
        self.frame_bytes = info.frame_bytes * _d2h_value_bytes(costs, config, mode)
        self.records = [
            replace(chunk, d2h_bytes=chunk.frames * self.frame_bytes) for chunk in chunks
        ]
        self.slots = min(config.slots, len(chunks))
        self.pinned = is_pinned(costs.cuda, config, mode)
        self.decoded_s: list[float] = []
        self.compute_free_s = self.copy_free_s = self.cache_empty_s = 0.0
        self.sink_open_s = costs.open.seconds(info.frames)
        self.sink_close_s: float | None = None

    def run(self) -> DecodeResult:
        """Walk the path."""
        threaded = self.threaded if self.config.writer_thread else self.inline
        paths = {"compute_only": self.compute, "async": threaded}
        latency_s = paths.get(self.mode, self.inline)()
        most = max(record.frames for record in self.records)
        has_sink = self.mode != "compute_only"
        buffers = {"async": self.slots, "compute_only": 1}.get(self.mode, 0)
        ring_bytes = buffers * most * (self.frame_bytes if has_sink else self.info.frame_bytes)
        beside = None if self.mode == "diffusers" else self.costs.vram_peak_bytes(most)
        return DecodeResult(
            mode=self.mode, device="predicted", info=self.info, config=self.config, started_s=0.0,
            latency_s=latency_s, ttff_s=self.records[0].write_done_s,
            sink_open_s=self.sink_open_s if has_sink else None, sink_close_s=self.sink_close_s,
            pinned_bytes=ring_bytes if self.pinned else 0, ring_bytes=ring_bytes,
            vram_peak_bytes=None if beside is None else beside + ring_bytes,
            device_mallocs_steady=None, clock_residual_s=0.0, chunks=tuple(self.records),
        )  # fmt: skip

    def launch(self, record: ChunkRecord, host_s: float) -> float:
        """Launch the decode; returns when the call comes back.

        Where no copy blocks the host, it first sleeps until no more than `LAUNCH_AHEAD` chunks are
        in front of it.
        """
        free = self.pinned or self.mode == "compute_only"
        if free and record.index >= LAUNCH_AHEAD:
            host_s = max(host_s, self.decoded_s[record.index - LAUNCH_AHEAD] + self.costs.wake_s)
        start_s = host_s + self.costs.step_s
        done_s = start_s + self.times["launch"][record.index]
        # Queued kernels run back to back; on an idle stream the first ones wait for their launch.
        lead_s = self.costs.lead.seconds(record.frames, record.index == 0)
        begin_s = max(start_s + lead_s, self.compute_free_s)
        decoded_s = max(begin_s + self.times["decode"][record.index], done_s)
        record.launch_start_s, record.launch_done_s = start_s, done_s
        record.decode_start_s = max(start_s, self.compute_free_s)
        record.decode_done_s = self.compute_free_s = decoded_s
        self.decoded_s.append(decoded_s)
        return done_s

    def decode_and_copy(self, record: ChunkRecord, host_s: float) -> float:
        """Launch, and copy to the host behind the decode; returns when the host goes on."""
        host_s = self.launch(record, host_s)
        if "copy" not in self.times:  # mode diffusers, whose conversion holds the copy
            return host_s
        start_s = max(self.decoded_s[-1], self.copy_free_s)
        done_s = start_s + self.times["copy"][record.index]
        record.copy_start_s, record.copy_done_s = start_s, done_s
        self.copy_free_s = done_s
        if not self.config.copy_stream:
            self.compute_free_s = done_s
        return host_s if self.pinned else done_s

    def write(self, record: ChunkRecord, at_s: float) -> float:
        """Once its copy has been seen to end, convert, if the host has to, and write.

        Returns when the sink lets go.
        """
        seen_s = (record.copy_done_s or 0.0) + (self.costs.wake_s if self.pinned else 0.0)
        at_s = max(at_s, seen_s)
        if "convert" in self.times:
            record.convert_start_s = at_s
            ready_s = max(at_s, self.decoded_s[record.index])  # waits only in mode diffusers
            at_s = record.convert_done_s = ready_s + self.times["convert"][record.index]
        done_s = at_s + self.times["write"][record.index]
        storage = self.costs.storage
        if storage is not None:
            rate = storage.mb_per_s * 1e6
            nbytes = record.frames * self.info.frame_bytes
            begin_s = max(at_s, self.cache_empty_s)
            done_s = max(done_s, begin_s + (nbytes - storage.burst_bytes) / rate)
            self.cache_empty_s = max(done_s, begin_s + nbytes / rate)
        record.write_start_s, record.write_done_s = at_s, done_s
        return done_s

    def close(self, at_s: float) -> float:
        """Close the sink; returns the latency."""
        self.sink_close_s = self.costs.close.seconds(self.info.frames)
        return at_s + self.sink_close_s

    def compute(self) -> float:
        """Mode compute_only."""
        host_s = self.costs.setup_s
        for record in self.records:
            host_s = self.launch(record, host_s)
        return max(host_s, self.compute_free_s + self.costs.wake_s)

    def threaded(self) -> float:
        """Mode async."""
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
            writer_s = self.write(record, writer_s)
        return self.close(writer_s)

    def inline(self) -> float:
        """The paths without a writer thread: only mode async has chunks in front of the write."""
        host_s = self.costs.setup_s + self.sink_open_s
        pending: deque[ChunkRecord] = deque()

        def write_until(left: int, host_s: float) -> float:
            while len(pending) > left:
                host_s = self.write(pending.popleft(), host_s)
            return host_s

        for record in self.records:
            if self.mode == "async":
                host_s = write_until(self.slots - 1, host_s)
                record.slot = record.index % self.slots
                record.slot_wait_start_s = record.slot_acquired_s = host_s
            host_s = self.decode_and_copy(record, host_s)
            pending.append(record)
            host_s = write_until(LAUNCH_AHEAD if self.mode == "async" else 0, host_s)
        return self.close(write_until(0, host_s))
