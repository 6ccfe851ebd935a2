"""What is decoded when, and when each step happened: plans and records as plain data.

Torch-free on purpose: a recorded run must open on any machine, with or without a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from vdkit.decode import Traits
from vdkit.decode.media import MEDIA, Medium

if TYPE_CHECKING:
    import torch

    from vdkit.decode.media import MediaInfo

MAX_SLOTS = 16
FIRST_STEADY_CHUNK = 5
"""The causal cache is complete after three chunks, the caching allocator settles in two more."""
LAUNCH_AHEAD = 2
"""Chunks the host may launch before the first of them has been decoded. Two keep the compute stream
busy; more would only make a cancelled run wait longer for work that cannot be called back."""
SEGMENT = 16
"""Frames of a segment, unless a sink is told otherwise."""
SHORTEST_SEGMENT = 4
"""Frames; a shorter one would be mostly its first frame, which refers to no other."""
PRIMITIVES = {
    "pinned_memory": "pinned memory",
    "copy_stream": "copy stream",
    "writer_thread": "writer thread",
    "uint8_on_gpu": "uint8 on the GPU",
}
"""The fields of `DecodeConfig` that switch a primitive of `decode_async` off, in words."""
SINK_PARTS = ("encode", "mux", "full")
"""What the thread that writes may be at inside a sink that says so (see `vdkit.decode.Sink`)."""
CUDA_ONLY = ("pinned_memory", "copy_stream")
"""Primitives that exist on CUDA only: elsewhere the same code runs with them on or off."""


def pixel_frames(latent_frames: int, temporal_factor: int = 4) -> int:
    """Pixel frames of a causal video VAE: ``temporal_factor * (latent_frames - 1) + 1``."""
    if latent_frames < 1:
        raise ValueError(f"latents have {latent_frames} latent frames; at least 1 is needed")
    return temporal_factor * (latent_frames - 1) + 1


def latent_frames(frames: int, temporal_factor: int = 4) -> int:
    """Latent frames behind ``frames`` pixel frames; the inverse of `pixel_frames`.

    Raises:
        ValueError: no whole number of latent frames gives this count; names the neighbours.
    """
    if frames < 1 or (frames - 1) % temporal_factor:
        below = max(1, (max(frames, 1) - 1) // temporal_factor * temporal_factor + 1)
        raise ValueError(
            f"{frames} pixel frames do not come from whole latent frames: a causal VAE gives "
            f"{temporal_factor}*(T-1)+1, so use {below} or {below + temporal_factor}"
        )
    return (frames - 1) // temporal_factor + 1


def plan_chunks(
    latent_frames: int,
    chunk_size: int | None,
    temporal_factor: int = 4,
    first_units: int | None = 1,
) -> tuple[ChunkRecord, ...]:
    """Cut latents into chunks of ``chunk_size`` latent frames: records that have no times yet.

    Where the first latent frame becomes ``first_units``, one pixel frame of a causal video, and
    every later one ``temporal_factor``, it is a chunk of its own; with ``first_units`` None, as of
    images and audio, all are alike. The last chunk may be short. With ``chunk_size`` None the whole
    is one chunk, as diffusers decodes it.

    Raises:
        ValueError: ``latent_frames`` or ``chunk_size`` is below 1.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(
            f"chunk_size is {chunk_size}; it counts latent frames per call, so use 1 or more"
        )
    pixel_frames(latent_frames)  # or there is nothing to do
    extra = 0 if first_units is None else temporal_factor - first_units
    begin = 1 if first_units and chunk_size else chunk_size or latent_frames
    cuts = pairwise([0, *range(begin, latent_frames, chunk_size or latent_frames), latent_frames])
    return _as_chunks([(a, b, temporal_factor * (b - a) - (0 if a else extra)) for a, b in cuts])


def _as_chunks(plan: Sequence[tuple[int, int, int]]) -> tuple[ChunkRecord, ...]:
    """(latent start, latent stop, units) of each chunk as records that have no times yet."""
    stops = list(accumulate(units for _, _, units in plan))
    return tuple(
        ChunkRecord(
            index=i, latent_start=start, latent_stop=stop, frame_start=last - units, frame_stop=last
        )
        for i, ((start, stop, units), last) in enumerate(zip(plan, stops, strict=True))
    )


def chunks_of(
    decoder: Any, latents: torch.Tensor, chunk_size: int | None
) -> tuple[ChunkRecord, ...]:
    """The chunks that a decoder wants these latents in: its own plan, checked, or the usual one.

    Args:
        latents: as `vdkit.decode.check_latents` leaves them.
        chunk_size: latent positions per chunk; None: the whole is one.

    Raises:
        ValueError: a plan that leaves latents out, takes them twice or promises nothing; names the
            decoder, the chunk and what is right.
    """
    traits = Traits.of(decoder)
    medium, count = traits.medium, latents.shape[traits.medium.axis]
    if (own := getattr(decoder, "plan", None)) is None:
        return plan_chunks(count, chunk_size, traits.temporal_factor, medium.first_units)
    plan = [tuple(chunk) for chunk in own(latents, chunk_size)]
    at = 0
    for index, chunk in enumerate(plan):
        said = f"decoder {decoder.name!r}: plan(latents, {chunk_size}) has {chunk} as chunk {index}"
        if len(chunk) != 3 or not all(isinstance(value, int) for value in chunk):
            raise ValueError(f"{said}; give (start, stop, units), whole numbers")
        start, stop, units = chunk
        flush = index and index == len(plan) - 1 and start == stop
        if start != at or (stop <= start and not flush):
            raise ValueError(
                f"{said}; it must begin at {medium.position} {at}, where the one before ends, and "
                "take 1 or more (only the last may take none)"
            )
        if units < 1:
            raise ValueError(f"{said}; it must become 1 or more {medium.unit}s")
        at = stop
    if at != count:
        raise ValueError(
            f"decoder {decoder.name!r}: plan(latents, {chunk_size}) ends at {medium.position} {at} "
            f"of {count}; it must take them all, and no more"
        )
    return _as_chunks(plan if chunk_size else [(0, at, sum(units for *_, units in plan))])


def segment_lengths(frames: int, encoders: int, segment: int) -> tuple[int, ...]:
    """Frames of each segment of a video that so many encoders share, in order.

    ``segment`` each, but shorter towards the end: what is left to encode when the last frame comes
    is the last ``encoders`` segments, and where the encoders just keep up, each being ``encoders``
    times slower than the frames come, those end together if each is ``encoders - 1`` of
    ``encoders`` of the one before. The last has `SHORTEST_SEGMENT` frames.
    """
    if encoders == 1:
        return (frames,)
    lengths, length = [], float(min(SHORTEST_SEGMENT, segment))
    while frames > 0:
        lengths.append(min(frames, segment, math.ceil(length)))
        frames -= lengths[-1]
        length *= encoders / (encoders - 1)
    return tuple(sorted(lengths, reverse=True))  # what was left for the first has its place


def exact_fps(fps: int | float | str | Fraction) -> Fraction:
    """The frame rate as an exact fraction: 16, 23.976 and ``"24000/1001"`` mean just that.

    Raises:
        ValueError: not a positive number.
    """
    try:
        exact = fps if isinstance(fps, Fraction) else Fraction(str(fps))
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"fps is {fps!r}; give a number such as 16 or a ratio such as 24000/1001"
        ) from None
    if exact <= 0:
        raise ValueError(f"fps is {fps}; it must be above 0")
    if exact.numerator >= 2**31 or exact.denominator >= 2**31:
        raise ValueError(f"fps is {fps}; no video file holds that exactly, use e.g. 24000/1001")
    return exact


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """The knobs of a decode. Each primitive of `decode_async` can be switched off on its own.

    `decode_sync` and `decode_diffusers` have none of the primitives. `decode_sync` reads only
    ``chunk_size`` and ``sync_uint8_on_gpu``, `decode_diffusers` nothing: diffusers decodes one
    latent frame at a time.

    Attributes:
        chunk_size: latent frames per decoder call, 1 or more.
        slots: ring slots, 1 to 16; each is one device buffer and one host buffer.
        pinned_memory: page-locked host buffers, so that copies do not block the host (CUDA only).
        copy_stream: device-to-host copies on a CUDA stream of their own (CUDA only).
        writer_thread: the sink runs on its own thread instead of between launches.
        uint8_on_gpu: convert on the GPU and copy uint8; otherwise copy full-precision frames and
            convert on the host.
        nvtx: NVTX ranges by chunk and step around the host's calls, for Nsight Systems (CUDA only).
        sync_uint8_on_gpu: let `decode_sync` do what ``uint8_on_gpu`` says of `decode_async`. The
            published baseline converts on the host, so it is a field of its own, False by default.
    """

    chunk_size: int = 1
    slots: int = 2
    pinned_memory: bool = True
    copy_stream: bool = True
    writer_thread: bool = True
    uint8_on_gpu: bool = True
    nvtx: bool = False
    sync_uint8_on_gpu: bool = False

    def __post_init__(self) -> None:
        for name, most in (("chunk_size", None), ("slots", MAX_SLOTS)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name} is {value!r}; it must be a whole number")
            if not 1 <= value <= (most or value):
                raise ValueError(f"{name} is {value}; use 1 {f'to {most}' if most else 'or more'}")
        for name in (*PRIMITIVES, "nvtx", "sync_uint8_on_gpu"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; use True or False")


@dataclass(slots=True, kw_only=True)
class ChunkRecord:
    """One chunk, decoded in one call, and when each step of it happened.

    Times are s since the call, None where there was no such step and before there has been one.
    ``launch``, ``slot_wait``, ``convert`` and ``write`` are host-clock readings; ``decode`` and
    ``copy`` come from CUDA events put on the host clock (on a CPU, clock readings). ``decode``
    covers the conversion to uint8 where that runs on the GPU.

    Attributes:
        index: position in the video, from 0.
        latent_start, latent_stop: latent frames, of a batch latent images; half-open.
        frame_start, frame_stop: frames, images or samples that those become, half-open.
        begun_s: when the host turned to the chunk; None in old records.
        slot: ring slot, None on paths without a ring.
        slot_wait_start_s, slot_acquired_s: waiting for the slot; equal when it was free.
        slot_held_by: what the chunk before in that slot was at when waiting began: ``decoding``
            (the GPU is the slowest part: all is well), ``copying``, ``ready`` (the writer is
            behind) or ``writing``. None if the slot was free.
        launch_start_s, launch_done_s: the host's call into the decoder.
        decode_start_s, decode_done_s: the compute stream working on the chunk.
        copy_start_s, copy_done_s: the device-to-host copy.
        convert_start_s, convert_done_s: conversion to uint8 on the host.
        write_start_s, write_done_s: the call into the sink.
        encode_s, mux_s, full_s: of the write, how many seconds an encoder was at work on the thread
            that writes, packets were written, and a free encoder was waited for; None where the
            sink does not say it.
        d2h_bytes: bytes copied to the host.
    """

    index: int
    latent_start: int
    latent_stop: int
    frame_start: int
    frame_stop: int
    begun_s: float | None = None
    slot: int | None = None
    slot_wait_start_s: float | None = None
    slot_acquired_s: float | None = None
    slot_held_by: str | None = None
    launch_start_s: float | None = None
    launch_done_s: float | None = None
    decode_start_s: float | None = None
    decode_done_s: float | None = None
    copy_start_s: float | None = None
    copy_done_s: float | None = None
    convert_start_s: float | None = None
    convert_done_s: float | None = None
    write_start_s: float | None = None
    write_done_s: float | None = None
    encode_s: float | None = None
    mux_s: float | None = None
    full_s: float | None = None
    d2h_bytes: int = 0

    @property
    def frames(self) -> int:
        """Frames, images or samples in this chunk."""
        return self.frame_stop - self.frame_start

    def phase_at(self, time_s: float) -> str:
        """What the chunk was at ``time_s`` after the call, while it held its slot."""
        for phase, until_s in (
            ("decoding", self.decode_done_s),
            ("copying", self.copy_done_s),
            ("ready", self.write_start_s),
        ):
            if until_s is not None and time_s < until_s:
                return phase
        return "writing"

    def span_s(self, step: str) -> float | None:
        """Seconds that ``decode``, ``copy``, ``convert`` or ``write`` took; None without it."""
        start, stop = getattr(self, f"{step}_start_s"), getattr(self, f"{step}_done_s")
        return None if start is None or stop is None else stop - start


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeResult:
    """One finished decode.

    Attributes:
        mode: ``diffusers``, ``sync``, ``async`` or ``compute_only``.
        device: name of the device that decoded, as torch reports it.
        started_s: `time.perf_counter` at the call; every other time counts from it.
        latency_s: wall clock from the call until the sink was closed.
        ttff_s: from the call until the sink had accepted the first frame; None without a sink.
        sink_open_s, sink_close_s: duration of ``sink.open`` and ``sink.close``; None without a
            sink.
        sink_open_start_s: when the sink began to open; None without one, and in old records.
        sink_close_parts: of `SINK_PARTS` the seconds that ``sink.close`` spent in each, as of a
            chunk's write; empty where the sink does not say it.
        encoders_s: seconds that encoders on other threads were at work, in all, each counted by
            itself; None where the sink has none.
        pinned_bytes: page-locked host memory of the ring.
        ring_bytes: device memory of the ring.
        vram_peak_bytes: highest torch allocation during the call, weights included; None on a CPU.
        device_mallocs_steady: cudaMalloc calls from the sixth chunk on (0 is the aim); None on a
            CPU and for videos under ten chunks.
        clock_residual_s: largest disagreement between the CUDA-event clock and the host clock.
        chunks: one record per chunk, in order.
    """

    mode: str
    device: str
    info: MediaInfo
    config: DecodeConfig
    started_s: float
    latency_s: float
    ttff_s: float | None
    sink_open_s: float | None
    sink_close_s: float | None
    pinned_bytes: int
    ring_bytes: int
    vram_peak_bytes: int | None
    device_mallocs_steady: int | None
    clock_residual_s: float
    chunks: tuple[ChunkRecord, ...]
    sink_open_start_s: float | None = None
    sink_close_parts: dict[str, float] = field(default_factory=dict)
    encoders_s: float | None = None

    @property
    def rtf(self) -> float:
        """Real-time factor: latency over playing time. Below 1 is faster than real time. Of images
        it is seconds per image."""
        return self.latency_s / self.info.seconds

    @property
    def d2h_bytes(self) -> int:
        """Bytes copied from the device to the host."""
        return sum(chunk.d2h_bytes for chunk in self.chunks)


def check_chunk(size: int, latent_frames: int, medium: Medium = MEDIA["video"]) -> None:
    """ValueError for a chunk larger than all latent frames, or images, but a first one alone."""
    most = max(1, latent_frames - bool(medium.first_units))
    if size > most:
        alone = ", the first is a chunk of its own" * bool(medium.first_units)
        raise ValueError(
            f"chunk size {size}: the {medium.whole} has {latent_frames} {medium.position}s{alone}, "
            f"so use 1 to {most}"
        )
