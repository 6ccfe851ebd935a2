"""One call of a decode path: its checked inputs, its clock, and how it ends well or badly.

Every path starts by making a `Job` and ends in `Job.result` or `Job.fail`, so that they accept the
same input, leave the same records and clean up in the same order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

from vdkit.decode.chunks import (
    Chunk,
    ChunkRecord,
    DecodeConfig,
    DecodeResult,
    VideoInfo,
    exact_fps,
    pixel_frames,
    plan_chunks,
)
from vdkit.decode.engines import Engine, Mark, make_engine
from vdkit.decode.pixels import check_latents, frames_to_uint8
from vdkit.decode.protocols import ChunkDecoder, DecodeCancelled, Progress, Sink, require

if TYPE_CHECKING:
    import numpy as np


class DecodeOutOfMemory(torch.OutOfMemoryError):
    """CUDA out of memory; the message says what was asked for and estimates what fits."""


class Job:
    """Checked inputs and state shared by every decode path; arguments as for `decode_async`."""

    def __init__(
        self,
        mode: str,
        decoder: ChunkDecoder,
        latents: torch.Tensor,
        sink: Sink | None,
        fps: int | float | str | Fraction,
        config: DecodeConfig,
        progress: Progress,
        cancel: threading.Event | None,
    ) -> None:
        self.start_s = time.perf_counter()
        self.mode = mode
        require(decoder, "ChunkDecoder", (*ChunkDecoder.__annotations__, "begin", "decode_chunk"))
        if mode != "compute":
            require(sink, "Sink", ("open", "write", "close", "abort"))
        if not isinstance(config, DecodeConfig):
            raise TypeError(f"config is a {type(config).__name__}; a DecodeConfig is needed")
        if cancel is not None and not hasattr(cancel, "is_set"):
            raise TypeError(f"cancel is a {type(cancel).__name__}; a threading.Event is needed")
        if config.nvtx and decoder.device.type != "cuda":
            raise ValueError(f"nvtx ranges need a CUDA device; this decoder is on {decoder.device}")
        self.decoder = decoder
        self.sink = sink
        self.config = config
        self.cancel = cancel
        self._latents: torch.Tensor | None = check_latents(
            latents, decoder.latent_channels, decoder.device, decoder.dtype
        )
        _, _, frames, height, width = self._latents.shape
        self._latent_size = (height, width)
        self.info = VideoInfo(
            pixel_frames(frames, decoder.temporal_factor),
            height * decoder.spatial_factor,
            width * decoder.spatial_factor,
            exact_fps(fps),
        )
        self.chunks = plan_chunks(frames, config.chunk_size, decoder.temporal_factor)
        self.records: list[ChunkRecord] = []
        self.ttff_s: float | None = None
        self.sink_open_s: float | None = None
        self.sink_close_s: float | None = None
        self._sink_unfinished = False
        self._end_s: float | None = None
        self._allocated_before = _allocated_bytes(decoder.device)
        self.engine: Engine = make_engine(decoder.device, config.copy_stream)
        self._report, self._end_progress = _reporter(progress, mode, self.info.frames)

    def now(self) -> float:
        """Seconds since the call."""
        return time.perf_counter() - self.start_s

    def check_cancel(self) -> None:
        """Raise `DecodeCancelled` if the caller asked for it."""
        if self.cancel is not None and self.cancel.is_set():
            done = self.records[-1].frame_start if self.records else 0
            raise DecodeCancelled(
                f"{self.mode} decode cancelled near frame {done} of {self.info.frames}"
            )

    def check_frames(self, frames: torch.Tensor, count: int) -> torch.Tensor:
        """The decoder's output, if it has the shape that `ChunkDecoder.decode_chunk` promises."""
        expected = (1, 3, count, self.info.height, self.info.width)
        if tuple(frames.shape) != expected:
            raise ValueError(
                f"decoder {self.decoder.name!r} returned frames of shape {tuple(frames.shape)}, "
                f"expected {expected} = [1, 3, F, H, W]"
            )
        if frames.dtype != self.decoder.dtype:
            raise ValueError(
                f"decoder {self.decoder.name!r} returned {frames.dtype}, but its dtype is "
                f"{self.decoder.dtype}"
            )
        return frames

    def decode_uint8(self, state: Any, chunk: Chunk, out: torch.Tensor) -> None:
        """Decode a chunk into ``out``, uint8 [F, H, W, 3], by ``decode_into`` if there is one."""
        into = getattr(self.decoder, "decode_into", None)
        if into is not None:
            into(state, chunk.latent_start, chunk.latent_stop, out)
            return
        frames = self.decoder.decode_chunk(state, chunk.latent_start, chunk.latent_stop)
        frames_to_uint8(self.check_frames(frames, chunk.frames), out)

    def range(self, step: str, index: int) -> AbstractContextManager[Any]:
        """An NVTX range around one step of one chunk, if the config asks for them."""
        return torch.cuda.nvtx.range(f"{step} {index}") if self.config.nvtx else nullcontext()

    def take_latents(self) -> torch.Tensor:
        """The latents on the device, given up by the job so that they need not stay there."""
        latents, self._latents = self._latents, None
        assert latents is not None
        return latents

    def open_sink(self) -> None:
        if self.sink is not None:
            start_s = self.now()
            self._sink_unfinished = True
            self.sink.open(self.info)
            self.sink_open_s = self.now() - start_s

    def write(self, record: ChunkRecord, frames: np.ndarray) -> None:
        """Hand one chunk to the sink and note when."""
        assert self.sink is not None
        record.write_start_s = self.now()
        with self.range("write", record.index):
            self.sink.write(frames)
        record.write_done_s = self.now()
        if self.ttff_s is None:
            self.ttff_s = record.write_done_s
        self.report(record.frame_stop)

    def report(self, frames_done: int) -> None:
        self._report(frames_done, self.info.frames)

    def close_sink(self) -> None:
        if self.sink is not None:
            start_s = self.now()
            self.sink.close()
            self._sink_unfinished = False
            self._end_s = self.now()
            self.sink_close_s = self._end_s - start_s

    def finish(self) -> None:
        """Let the device come to rest; without a sink the latency ends here."""
        self.engine.finish()
        if self._end_s is None:
            self._end_s = self.now()

    def fail(self, error: BaseException) -> None:
        """Bring device and sink to rest; the caller re-raises ``error``.

        Call it when no thread uses the sink any more.

        Raises:
            DecodeOutOfMemory: in place of an out-of-memory error, with what fits.
        """
        self.engine.abandon()
        self._end_progress()
        if self.sink is not None and self._sink_unfinished:
            try:
                self.sink.abort()
            except Exception as second:
                error.add_note(
                    f"cleaning up the sink failed too: {type(second).__name__}: {second}"
                )
        if isinstance(error, torch.OutOfMemoryError):
            raise DecodeOutOfMemory(f"{error}\n{self._what_fits()}") from error

    def ring_bytes_per_slot(self, chunk_size: int) -> int:
        """Bytes of one device (or host) buffer of the ring."""
        values = chunk_size * self.decoder.temporal_factor * self.info.frame_bytes
        return values if self.config.uint8_on_gpu else values * self.decoder.dtype.itemsize

    def _what_fits(self) -> str:
        """Estimated device bytes by chunk size and slots, beside what is there."""
        working = getattr(self.decoder, "working_bytes", None)
        if working is None:
            return f"decoder {self.decoder.name!r} has no working_bytes() to estimate what fits"
        height, width = self._latent_size
        free = None
        if self.decoder.device.type == "cuda":
            device = self.decoder.device
            free = torch.cuda.mem_get_info(device)[0]
            # What this decode took is still held by the error's frames, and will be free again.
            free += torch.cuda.memory_reserved(device) - self._allocated_before
        lines = [
            f"asked for: {self.decoder.name} at {self.info.height}x{self.info.width}, "
            f"chunk_size {self.config.chunk_size}, {self.config.slots} slots",
            "estimated need beside the weights, GiB"
            + (f" ({free / 2**30:.1f} GiB free):" if free is not None else ":"),
        ]
        for chunk_size in sorted({1, 2, 4, 8, self.config.chunk_size}):
            cells = []
            for slots in sorted({1, 2, 4, 16, self.config.slots}):
                need = working(chunk_size, height, width) + slots * self.ring_bytes_per_slot(
                    chunk_size
                )
                verdict = "" if free is None else " fits" if need <= free else " does not fit"
                cells.append(f"{slots} slots {need / 2**30:.1f}{verdict}")
            lines.append(f"  chunk_size {chunk_size}: " + ", ".join(cells))
        return "\n".join(lines)

    def result(self, *, pinned_bytes: int = 0, ring_bytes: int = 0) -> DecodeResult:
        """Freeze the records of a run that has finished."""
        self._end_progress()
        assert self._end_s is not None
        return DecodeResult(
            mode=self.mode,
            device=self.engine.name,
            info=self.info,
            config=self.config,
            started_s=self.start_s,
            latency_s=self._end_s,
            ttff_s=self.ttff_s,
            sink_open_s=self.sink_open_s,
            sink_close_s=self.sink_close_s,
            pinned_bytes=pinned_bytes,
            ring_bytes=ring_bytes,
            vram_peak_bytes=self.engine.vram_peak_bytes(),
            device_mallocs_steady=self.engine.device_mallocs_steady(len(self.records)),
            clock_residual_s=self.engine.clock_residual_s,
            chunks=tuple(self.records),
        )

    def resolve(self, record: ChunkRecord, **marks: Mark) -> None:
        """Put engine marks into the record as seconds since the call: ``decode_start_s=mark``."""
        for name, mark in marks.items():
            setattr(record, name, self.engine.host_time(mark) - self.start_s)


def _allocated_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _reporter(
    progress: Progress, mode: str, frames: int
) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    """(report, end) for the caller's wish; the bar is tqdm's and goes to standard error."""
    if callable(progress):
        return progress, lambda: None
    if not progress:
        return lambda done, total: None, lambda: None
    from tqdm.auto import tqdm

    bar = tqdm(total=frames, desc=mode, unit="frame", leave=False)

    def report(done: int, total: int) -> None:
        bar.update(done - bar.n)

    return report, bar.close
