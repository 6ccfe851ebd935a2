"""The pipeline as a model: from what each step of a chunk costs to when each step happens.

Costs are of one machine, decoder, dtype, frame size and sink, typed in or fitted from recorded runs
(`vdkit.predict.fit`); they give the timeline of any chunk size, number of slots and choice of
primitives as the records of a real run, so that the same plots, tables and stall causes read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from vdkit.decode.chunks import (
    LAUNCH_AHEAD,
    SINK_PARTS,
    ChunkRecord,
    DecodeConfig,
    DecodeResult,
    latent_frames,
    plan_chunks,
)
from vdkit.decode.media import MediaInfo
from vdkit.predict.encoding import Encoding, Side
from vdkit.predict.shared import Clock, Mark, Steps, Task, wants_of
from vdkit.record.runs import MODES
from vdkit.trace.figures import busy_percent
from vdkit.trace.stalls import Stalls, stalls_from_records

if TYPE_CHECKING:
    from vdkit.record.recording import Arm, Recording
    from vdkit.record.runs import Workload


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one step of one chunk: ``fixed_s`` + ``per_frame_s`` x pixel frames.

    ``first_s``, if given, is the whole cost for the first chunk, whose one latent frame takes
    another way through a causal decoder and becomes one pixel frame; a `Cost` of its own where the
    first chunk is as long as the others. Frames are images or samples where those are decoded.

    ``measured``, if given, are (pixel frames, seconds), the frames ascending, of a step that is no
    straight line, such as a copy that leaves the cache: between them the cost is interpolated,
    beyond them ``per_frame_s`` leads on.
    """

    fixed_s: float = 0.0
    per_frame_s: float = 0.0
    first_s: float | Cost | None = None
    measured: tuple[tuple[float, float], ...] = ()

    def seconds(self, frames: float, first: bool = False) -> float:
        """Cost of a chunk of ``frames`` pixel frames, s; ``first``: it is the first chunk."""
        if first and self.first_s is not None:
            own = self.first_s
            return own.seconds(frames) if isinstance(own, Cost) else own
        if not self.measured:
            return self.fixed_s + self.per_frame_s * frames
        sizes, seconds = zip(*self.measured, strict=True)
        beyond = frames - min(max(frames, sizes[0]), sizes[-1])
        return max(0.0, float(np.interp(frames, sizes, seconds)) + self.per_frame_s * beyond)

    def check(self, name: str) -> None:
        """ValueError, with ``name``, for a part that is no duration, or sizes out of order."""
        _check_seconds(f"{name}.fixed_s", self.fixed_s)
        _check_seconds(f"{name}.per_frame_s", self.per_frame_s)
        if isinstance(self.first_s, Cost):
            self.first_s.check(f"{name}.first_s")
        elif self.first_s is not None:
            _check_seconds(f"{name}.first_s", self.first_s)
        sizes = [size for size, _ in self.measured]
        if sizes != sorted(set(sizes)):
            remedy = "give each size once, ascending"
            raise ValueError(f"{name}.measured has the pixel frames {sizes}; {remedy}")
        for size, seconds in self.measured:
            _check_seconds(f"{name}.measured at {size} frames", seconds)

    def times(self, factor: float) -> Cost:
        """This cost ``factor`` times: 0.5 is a resource of twice the speed."""
        own = self.first_s
        first_s = own.times(factor) if isinstance(own, Cost) else own and own * factor
        measured = tuple((size, seconds * factor) for size, seconds in self.measured)
        return Cost(self.fixed_s * factor, self.per_frame_s * factor, first_s, measured)


@dataclass(frozen=True, slots=True)
class Storage:
    """Storage that keeps up only so far; its speed is that of the uint8 frames handed to the sink.

    Attributes:
        mb_per_s: sustained speed in MB/s (10**6 bytes), above 0.
        burst_bytes: what a cache in front takes at the speed of the write step; it empties at the
            sustained speed, also between writes. 0: no cache, as `vdkit.ThrottledSink`.
    """

    mb_per_s: float
    burst_bytes: int = 0

    def __post_init__(self) -> None:
        check_speed(self.mb_per_s)
        if self.burst_bytes < 0:
            raise ValueError(f"burst_bytes is {self.burst_bytes}; use 0 (no cache) or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCosts:
    """Costs of every step, and of what happens once; s unless a name says otherwise.

    Attributes:
        decode: the compute stream on one chunk whose kernels are all queued.
        launch: the host's call into the decoder. On a CPU it is the decode itself.
        copy: to pinned host memory; the frames count as uint8 frames, and full-precision frames
            as ``element_bytes`` of those; None: not known, an error where it is needed.
        pageable_copy: the same to pageable memory; None: not known.
        convert: conversion of one chunk to uint8 on the host; None: not known.
        video_convert: copy and conversion of a whole video by VideoProcessor; None: not known.
        write: the call into the sink, as fast as its storage takes it, without ``encoding`` if that
            is given; None: not known.
        encoding: of a sink that encodes; None: it is a part of ``write``.
        storage: holds writes to a storage speed; None: ``write`` is all.
        open, close: of the sink, by the pixel frames of the whole video.
        setup_s: from the call until the sink may open and the first slot is asked for.
        step_s: the host's own work around each launch.
        wake_s: from an event of the GPU until the thread that sleeps on it goes on.
        lead: what a decode takes longer when its launch begins on an idle compute stream, because
            its first kernels are shorter than their launches.
        element_bytes: of one value of the decoder's output.
        cuda: False for a CPU: nothing is pinned, and copies block the host.
        vram_bytes: (pixel frames in the largest chunk, peak without the ring) of chunked paths.
    """

    decode: Cost
    launch: Cost = Cost()
    lead: Cost = Cost()
    copy: Cost | None = Cost()
    pageable_copy: Cost | None = None
    convert: Cost | None = None
    video_convert: Cost | None = None
    write: Cost | None = Cost()
    encoding: Encoding | None = None
    storage: Storage | None = None
    open: Cost = Cost()
    close: Cost = Cost()
    setup_s: float = 0.0
    step_s: float = 0.0
    wake_s: float = 0.0
    element_bytes: int = 2
    cuda: bool = True
    vram_bytes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if name.endswith("_s"):
                _check_seconds(name, value)
            elif isinstance(value, Cost):
                value.check(name)
            elif isinstance(value, Encoding):
                for count, took_s in value.measured:
                    _check_seconds(f"{name} by {count}", took_s)
            elif field.type == "Cost" or (field.type == "Cost | None" and value is not None):
                remedy = "give a Cost(fixed_s, per_frame_s) in seconds"
                raise TypeError(f"{name} is {value!r}; {remedy}")
        if self.element_bytes not in (2, 4):
            raise ValueError(
                f"element_bytes is {self.element_bytes!r}; use 2 (half precision) or 4 (float32)"
            )

    def known(self, name: str, needed_by: str) -> Cost:
        """The cost ``name``; ValueError, with the remedy, if it is not known."""
        cost = getattr(self, name)
        if cost is None:
            raise ValueError(
                f"{needed_by} needs the cost {name}, which is None: give StageCosts a {name}, or "
                "fit from a benchmark that ran such a path"
            )
        return cost

    def at_speed(self, mb_per_s: float | None) -> StageCosts:
        """With storage of this speed, MB/s; None: as they are."""
        return self if mb_per_s is None else replace(self, storage=Storage(mb_per_s))

    def of_encoders(self, count: int | None) -> StageCosts:
        """With so many encoders side by side; None, or costs without `Encoding`: as they are.

        ValueError if that is not known.
        """
        if count is None or self.encoding is None:
            return self
        return replace(self, encoding=replace(self.encoding, encoders=count))

    def times(self, factor: float, *names: str) -> StageCosts:
        """With these costs, where they are known, ``factor`` times: 0.5 is twice the speed."""
        known = {name: cost for name in names if (cost := getattr(self, name)) is not None}
        return replace(self, **{name: cost.times(factor) for name, cost in known.items()})

    def vram_peak_bytes(self, frames: int) -> int | None:
        """Peak without the ring when the largest chunk has ``frames`` pixel frames.

        As measured, or by the line through two or more measured sizes; None if neither is there.
        """
        measured = dict(self.vram_bytes)
        if frames in measured:
            return measured[frames]
        if len(measured) < 2:
            return None
        slope, base = np.polyfit(list(measured), list(measured.values()), 1)
        return round(base + slope * frames)


def check_speed(mb_per_s: object) -> None:
    """ValueError unless ``mb_per_s`` is a storage speed in MB/s: a byte to a petabyte a second."""
    if not _is_number(mb_per_s) or not 1e-6 <= mb_per_s <= 1e9:
        remedy = "give one above 0, from 1e-06 to 1e+09"
        raise ValueError(f"storage speed is {mb_per_s!r} MB/s; {remedy}")


def _check_seconds(name: str, value: object) -> None:
    if not _is_number(value):
        raise ValueError(f"{name} is {value!r}; give seconds as a number, 0 or more")
    if not 0 <= value <= 1e9:
        raise ValueError(f"{name} is {value}; a cost is a number of seconds, 0 to 1e9")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)


_CLOCK_S = 1e-9  # stall causes are whole nanoseconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run, as a rule a modelled one, and what is read of its records.

    Attributes:
        run: as a decode path returns it, with one `ChunkRecord` per chunk; modelled its device is
            ``predicted``, its ``vram_peak_bytes`` None where `StageCosts.vram_bytes` does not tell.
        stalls: of the window from the first launch to the end, at chunk resolution.
        utilization_percent: share of each window in which the compute stream was at work, %:
            ``run`` and, if there are chunks enough, ``steady`` and ``two chunks``
            (`vdkit.trace.figures`).
    """

    run: DecodeResult
    stalls: Stalls
    utilization_percent: dict[str, float]

    @classmethod
    def of(cls, run: DecodeResult) -> Outcome:
        """Read the records of a run."""
        return cls(run, stalls_from_records(run, run.config), busy_percent(run))


def predict(
    costs: StageCosts, info: MediaInfo, config: DecodeConfig = DecodeConfig(), mode: str = "async",
    *, temporal_factor: int = 4, plan: Sequence[ChunkRecord] | None = None,
) -> Outcome:  # fmt: skip
    """Every start and end of one run of one decode path.

    Args:
        costs: of the machine, decoder, frame size and sink.
        info: the video, images or audio; the costs must be those of its frame size.
        config: chunk size, slots and primitives, read as the path itself reads them.
        mode: ``diffusers``, ``sync``, ``async`` or ``compute_only``.
        temporal_factor: pixel frames per latent frame after the first.
        plan: the chunks, as `plan_of` has them from recordings; None: those of a causal video.

    Raises:
        ValueError: unknown mode, a cost that this path needs and that is not known, or chunks that
            only the decoder knows; names the value and what to do.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; use one of {', '.join(MODES)}")
    if info.medium != "video" and (plan is None or mode == "diffusers"):
        raise ValueError(
            f"how the {info.kind.whole} is cut into chunks only a recording tells, and of the "
            "chunked modes alone; take one of these, and its plan_of"
        )
    chunks = plan
    if chunks is None or mode == "diffusers":
        count = latent_frames(info.frames, temporal_factor)
        chunks = plan_chunks(count, config.chunk_size, temporal_factor)
        if plan is not None and tuple(plan) != chunks:
            raise ValueError("how long the whole takes does not follow from such chunks")
        if mode == "diffusers":
            chunks = plan_chunks(count, None, temporal_factor)
    pipeline = Pipeline(costs, config, chunks, info, mode, temporal_factor)
    for index, seconds in enumerate(pipeline.times["decode"]):
        if seconds < _CLOCK_S:
            raise ValueError(
                f"decode takes {seconds} s for chunk {index}; its cost must be {_CLOCK_S} s or more"
            )
    return Outcome.of(pipeline.run())


def video_info(recorded: Recording | Arm) -> MediaInfo:
    """What was decoded in a recording or in one arm: a video, images or audio."""
    load = recorded.workload
    sound = load.sample_rate, load.channels, load.samples
    size = load.frames, load.height, load.width, load.rate
    return MediaInfo(*size, load.medium, *sound, pixel_format=recorded.sink.pixel_format)


def units_per_latent(work: Workload) -> int:
    """What a latent becomes (of a video the second and later ones): frames, images or samples."""
    first = work.kind.first_units
    if first is None:
        return -(-work.frames // work.latent_frames)
    return max(1, (work.frames - first) // max(1, work.latent_frames - 1))


def usual_plan(
    work: Workload, chunk_size: int, frames: int | None = None
) -> tuple[ChunkRecord, ...]:
    """The chunks of a decoder that has no plan of its own, for what was decoded or ``frames`` units
    of it; ValueError for a number of frames that a video cannot have."""
    factor, first = units_per_latent(work), work.kind.first_units
    count, frames = work.latent_frames, frames or work.frames
    if frames != work.frames:
        count = latent_frames(frames, factor) if first else -(-frames // factor)
    *most, last = plan_chunks(count, chunk_size, factor, first)
    return (*most, replace(last, frame_stop=frames))


def _recorded_plan(arm: Arm) -> tuple[ChunkRecord, ...]:
    names = ("index", "latent_start", "latent_stop", "frame_start", "frame_stop")
    bare = [{n: getattr(chunk, n) for n in names} for chunk in arm.timed[0].chunks]
    return tuple(ChunkRecord(**chunk) for chunk in bare)


def has_own_plan(arm: Arm) -> bool:
    """Whether the chunks that an arm recorded are not the usual ones."""
    return _recorded_plan(arm) != usual_plan(arm.workload, arm.config.chunk_size)


def plan_of(
    arms: Iterable[Arm], chunk_size: int, frames: int | None = None
) -> tuple[ChunkRecord, ...] | None:
    """The chunks of a chunk size, without times, as arms of one decoder recorded them.

    If it was not recorded, or of another length, and the decoder has no plan of its own: the usual
    ones. None if no chunks were recorded.

    Args:
        frames: frames, images or samples; None: as many as were decoded.

    Raises:
        ValueError: it was not recorded, and what was shows that the decoder cuts in its own way; or
            a number of frames that a video cannot have.
    """
    own, usual = False, None
    for arm in (arm for arm in arms if arm.mode != "diffusers" and arm.timed[0].chunks):
        work = arm.workload
        if arm.config.chunk_size == chunk_size and frames in (None, work.frames):
            return _recorded_plan(arm)
        own |= has_own_plan(arm)
        usual = usual or usual_plan(work, chunk_size, frames)
    if own:
        raise ValueError(
            f"chunk size {chunk_size} is not recorded{' at that length' if frames else ''}, and "
            "only the decoder knows how it cuts there; measure it"
        )
    return usual


def is_pinned(cuda: bool, config: DecodeConfig, mode: str) -> bool:
    """Whether frames go to pinned host memory, so that a copy does not block the host."""
    return mode == "async" and config.pinned_memory and cuda


class Pipeline:
    """One run in the making, a process for each thread and stream; s since the clock began.

    ``times`` has each step of the path with its seconds by chunk. ``host_s`` is the time of the
    thread that launches, ``ended`` the end.

    Args:
        clock: of this run and of others beside it; None: it is alone.
        stored: bytes that reach the storage for each byte that the sink gets.
    """

    def __init__(
        self, costs: StageCosts, config: DecodeConfig, chunks: Sequence[ChunkRecord],
        info: MediaInfo, mode: str, factor: int = 4, clock: Clock | None = None,
        stored: float = 1.0,
    ) -> None:  # fmt: skip
        self.costs, self.config, self.info, self.mode = costs, config, info, mode
        on_gpu = {"sync": config.sync_uint8_on_gpu, "async": config.uint8_on_gpu}.get(mode)
        itemsize = info.kind.itemsize
        wide = {"diffusers": 4, "compute_only": 0}.get(mode, costs.element_bytes)
        value_bytes = itemsize if on_gpu else wide  # that go to the host
        same = value_bytes == itemsize
        values = math.prod(info.decoded_shape(1))
        self.frame_bytes = info.frame_bytes if same else values * value_bytes
        self.records = [
            replace(chunk, d2h_bytes=chunk.frames * self.frame_bytes) for chunk in chunks
        ]
        self.slots = min(config.slots, len(chunks))
        self.pinned = is_pinned(costs.cuda, config, mode)
        names = {"launch": "launch", "decode": "decode"}
        if mode == "diffusers":
            names |= {"convert": "video_convert", "write": "write"}
        elif mode != "compute_only":
            names["copy"] = "copy" if self.pinned else "pageable_copy"
            names |= {"write": "write"} if on_gpu else {"convert": "convert", "write": "write"}
        copied = self.frame_bytes / info.frame_bytes
        self.times = {n: self._seconds(n, of, copied, factor) for n, of in names.items()}
        self.clock, self.stored = clock or Clock(), stored
        self.ring, self.has_sink = mode == "async", mode != "compute_only"
        self.threaded = self.ring and config.writer_thread
        self.open_s, self.close_s = (c.seconds(info.frames) for c in (costs.open, costs.close))
        self.copy_free_s, self.cache_empty_s, self.begun = 0.0, 0.0, 0
        self.launched, self.decoded, self.copied, self.written = (
            [Mark() for _ in chunks] for _ in range(4)
        )
        self.ended, self.close_parts = Mark(), dict[str, float]()
        self.encoding = costs.encoding and Side(costs.encoding, info.frames, self.clock, self._work)

    def _seconds(self, step: str, name: str, copied: float, factor: int) -> list[float]:
        whole = self.mode != "async" or (self.pinned and self.config.uint8_on_gpu)
        cost = self.costs.known(name, f"mode {self.mode}{'' if whole else ' without a primitive'}")
        scale = copied if step == "copy" else 1
        if self.mode == "diffusers" and step in ("launch", "decode"):  # one call per latent frame
            calls = plan_chunks(self.records[0].latent_stop, 1, factor)
            return [sum(cost.seconds(call.frames, call.index == 0) for call in calls)]
        return [cost.seconds(one.frames * scale, one.index == 0) for one in self.records]

    def _work(self, step: str, begin_s: float, seconds: float, frames: float) -> Task:
        """A step on so many frames, with what it wants of `SHARED` where that is scarce."""
        if not self.clock.capacity:
            return Task(begin_s, seconds)
        side = self.costs.encoding
        encodes = side and step == "encode" and "cores" in self.clock.capacity
        core_s = side.core_s * frames if side and encodes else seconds
        stores = step == ("mux" if side else "write")
        stored_bytes = frames * self.info.frame_bytes * self.stored if stores else 0.0
        return Task(
            begin_s, seconds, wants_of(step, core_s, frames * self.frame_bytes, stored_bytes)
        )

    def _step(self, step: str, record: ChunkRecord, begin_s: float) -> Task:
        return self._work(step, begin_s, self.times[step][record.index], record.frames)

    def run(self) -> DecodeResult:
        """Let it run by itself, to its end; fills the records."""
        self.start()
        self.clock.run()
        return self._result()

    def start(self, at_s: float = 0.0) -> None:
        """Let it begin, and whatever else is on its clock go on."""
        begun_s = at_s + self.costs.setup_s
        processes = [self._launch(begun_s), self._compute()]
        if "copy" in self.times and self.config.copy_stream:
            processes.append(self._copies())
        if self.threaded:
            processes.append(self._finish(begun_s + self.open_s))
        if self.encoding and self.has_sink:
            processes += self.encoding.processes()
        self.clock.start(*processes)

    def _launch(self, host_s: float) -> Steps[None]:
        """The thread that launches; it writes too if no other does."""
        if self.has_sink and not self.threaded:
            host_s += self.open_s
        for index, record in enumerate(self.records):
            record.begun_s = host_s
            if self.ring:
                if not self.threaded:
                    host_s = yield from self._write_up_to(index + 1 - self.slots, host_s)
                record.slot = index % self.slots
                record.slot_wait_start_s = record.slot_acquired_s = host_s
                if index >= self.slots:
                    held = self.records[index - self.slots]
                    free_s = yield self.written[held.index]
                    if free_s > host_s:
                        record.slot_held_by = held.phase_at(host_s)
                        record.slot_acquired_s = host_s = free_s
            # Where no copy blocks the host, it sleeps with `LAUNCH_AHEAD` chunks in front of it.
            if (self.pinned or not self.has_sink) and index >= LAUNCH_AHEAD:
                decoded_s = yield self.decoded[index - LAUNCH_AHEAD]
                host_s = max(host_s, decoded_s + self.costs.wake_s)
            record.launch_start_s = host_s + self.costs.step_s
            host_s = yield self._step("launch", record, record.launch_start_s)
            record.launch_done_s = host_s
            self.clock.set(self.launched[index], host_s)
            if "copy" in self.times and not self.pinned:
                host_s = yield self.copied[index]
            if self.has_sink and not self.threaded:  # only mode async has chunks ahead of the write
                ahead = LAUNCH_AHEAD if self.ring else 0
                host_s = yield from self._write_up_to(index + 1 - ahead, host_s)
        if not self.has_sink:
            decoded_s = yield self.decoded[-1]
            self.clock.set(self.ended, max(host_s, decoded_s + self.costs.wake_s))
        elif not self.threaded:
            yield from self._finish(host_s)

    def _compute(self) -> Steps[None]:
        """The compute stream, which copies too where copies have no stream of their own."""
        free_s = 0.0
        for record in self.records:
            done_s = yield self.launched[record.index]
            start_s = record.launch_start_s or 0.0
            # Queued kernels run back to back; on an idle stream the first wait for their launch.
            lead_s = self.costs.lead.seconds(record.frames, record.index == 0)
            begin_s = max(start_s + lead_s, free_s)
            record.decode_start_s = max(start_s, free_s)
            free_s = max(begin_s + self.times["decode"][record.index], done_s)
            record.decode_done_s = free_s
            self.clock.set(self.decoded[record.index], free_s)
            if "copy" in self.times and not self.config.copy_stream:
                free_s = yield from self._copy(record)

    def _copies(self) -> Steps[None]:
        """The copy stream."""
        for record in self.records:
            yield from self._copy(record)

    def _copy(self, record: ChunkRecord) -> Steps[float]:
        start_s = max((yield self.decoded[record.index]), self.copy_free_s)
        self.copy_free_s = yield self._step("copy", record, start_s)
        record.copy_start_s, record.copy_done_s = start_s, self.copy_free_s
        self.clock.set(self.copied[record.index], self.copy_free_s)
        return self.copy_free_s

    def _write_up_to(self, stop: int, at_s: float) -> Steps[float]:
        """Write the chunks before ``stop`` that are not yet; returns when their thread goes on."""
        while self.begun < stop:
            self.begun += 1
            at_s = yield from self._write(self.records[self.begun - 1], at_s)
        return at_s

    def _write(self, record: ChunkRecord, at_s: float) -> Steps[float]:
        """Once its copy has been seen to end, convert, if the host has to, and write.

        Returns when the sink lets go.
        """
        if "copy" in self.times:  # mode diffusers has it in its conversion
            copied_s = yield self.copied[record.index]
            at_s = max(at_s, copied_s + (self.costs.wake_s if self.pinned else 0.0))
        if "convert" in self.times:
            record.convert_start_s = at_s
            ready_s = max(at_s, (yield self.decoded[record.index]))  # waits only in mode diffusers
            at_s = record.convert_done_s = yield self._step("convert", record, ready_s)
        if self.encoding:
            write_s = self.times["write"][record.index]
            done_s, spent = yield from self.encoding.write(record.frames, at_s, write_s)
            record.encode_s, record.mux_s, record.full_s = (spent[part] for part in SINK_PARTS)
        else:
            done_s = yield self._step("write", record, at_s)
        storage = self.costs.storage
        if storage is not None:
            rate = storage.mb_per_s * 1e6
            nbytes = record.frames * self.info.frame_bytes
            begin_s = max(at_s, self.cache_empty_s)
            done_s = max(done_s, begin_s + (nbytes - storage.burst_bytes) / rate)
            self.cache_empty_s = max(done_s, begin_s + nbytes / rate)
        record.write_start_s, record.write_done_s = at_s, done_s
        self.clock.set(self.written[record.index], done_s)
        return done_s

    def _finish(self, at_s: float) -> Steps[None]:
        """Write what is left, and close the sink."""
        at_s = yield from self._write_up_to(len(self.records), at_s)
        if self.encoding:
            at_s, self.close_parts = yield from self.encoding.close(at_s)
        self.clock.set(self.ended, at_s + self.close_s)

    def _result(self) -> DecodeResult:
        most = max(record.frames for record in self.records)
        buffers = {"async": self.slots, "compute_only": 1}.get(self.mode, 0)
        ring_bytes = buffers * most * (self.frame_bytes if self.has_sink else self.info.frame_bytes)
        beside = None if self.mode == "diffusers" else self.costs.vram_peak_bytes(most)
        close_s = self.close_s + sum(self.close_parts.values())
        assert self.ended.at_s is not None
        return DecodeResult(
            mode=self.mode, device="predicted", info=self.info, config=self.config, started_s=0.0,
            latency_s=self.ended.at_s, ttff_s=self.records[0].write_done_s,
            sink_open_s=self.open_s if self.has_sink else None,
            sink_close_s=close_s if self.has_sink else None,
            pinned_bytes=ring_bytes if self.pinned else 0, ring_bytes=ring_bytes,
            vram_peak_bytes=None if beside is None else beside + ring_bytes,
            device_mallocs_steady=None, clock_residual_s=0.0, chunks=tuple(self.records),
            sink_open_start_s=self.costs.setup_s if self.has_sink else None,
            sink_close_parts=self.close_parts,
            encoders_s=self.encoding.busy_s if self.encoding else None,
        )  # fmt: skip
