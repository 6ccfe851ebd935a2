"""One call of a decode path: its checked inputs, its clock, and how it ends well or badly.

Every path runs inside a `Job`, so that all accept the same input, leave the same records and clean
up in the same order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

from vdkit.decode.bar import Bar
from vdkit.decode.chunks import (
    LAUNCH_AHEAD,
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
from vdkit.decode.protocols import (
    ChunkDecoder,
    DecodeCancelled,
    Progress,
    Sink,
    require,
    wants_float,
)
from vdkit.decode.signals import HeldSignals

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
        allow_nonfinite: bool,
    ) -> None:
        self.start_s = time.perf_counter()
        self.mode = mode
        require(decoder, "ChunkDecoder", (*ChunkDecoder.__annotations__, "begin", "decode_chunk"))
        if mode != "compute_only":
            require(sink, "Sink", ("open", "write", "close", "abort"))
            if mode != "diffusers" and wants_float(sink):
                raise TypeError(
                    f"{type(sink).__name__} takes diffusers' float frames, decode_{mode} gives "
                    "uint8; use decode_diffusers, or another sink"
                )
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
        self.frames_done = self._frames_reported = 0
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
        self._finite = torch.empty(len(self.chunks), dtype=torch.bool, device=decoder.device)
        self._allow_nonfinite = allow_nonfinite
        self.records: list[ChunkRecord] = []
        self.marks: list[dict[str, Mark]] = []
        self.ttff_s: float | None = None
        self.sink_open_s: float | None = None
        self.sink_close_s: float | None = None
        self._sink_unfinished = False
        self._end_s: float | None = None
        self._allocated_before = _allocated_bytes(decoder.device)
        self.engine: Engine = make_engine(decoder.device, config.copy_stream)
        self._callback = progress if callable(progress) else None
        self._bar = Bar(progress is True, total=self.info.frames, desc=mode, unit="frame")
        self.writer: Any = None
        """`vdkit.decode.pipelined` puts its writer and ring here, to be ended with the job."""
        self.signals = HeldSignals()  # last: from here on `__exit__` cleans up

    def now(self) -> float:
        """Seconds since the call."""
        return time.perf_counter() - self.start_s

    def check(self) -> None:
        """Where the caller's thread may stop: progress, signals that came, and the cancel."""
        self.report()
        self.signals.deliver()
        if self.cancel is not None and self.cancel.is_set():
            raise DecodeCancelled(
                f"{self.mode} decode cancelled near frame {self.frames_done} of {self.info.frames}"
            )

    def report(self) -> None:
        """Tell the caller how far it is, if it is further."""
        if self.frames_done > self._frames_reported:
            self._frames_reported = self.frames_done
            self._bar.to(self.frames_done)
            if self._callback is not None:
                with self.signals:
                    self._callback(self.frames_done, self.info.frames)

    def begin(self) -> Any:
        """The decoder's state for these latents, which the job gives up."""
        with self.signals:
            return self.decoder.begin(self.take_latents())

    def steps(self) -> Iterator[tuple[Chunk, ChunkRecord]]:
        """Each chunk with an empty record for it, as long as nothing says stop."""
        for chunk in self.chunks:
            self.check()
            yield chunk, ChunkRecord(**asdict(chunk))
        self.check()

    @contextmanager
    def launch(self, record: ChunkRecord) -> Iterator[None]:
        """Around the call that decodes: the record begins, with its times and its NVTX range."""
        self.records.append(record)
        self.engine.note_chunk(record.index)
        record.launch_start_s = self.now()
        start = self.engine.mark("compute")
        with self.range("launch", record.index):
            yield
        self.marks.append({"decode_start_s": start, "decode_done_s": self.engine.mark("compute")})
        record.launch_done_s = self.now()

    def wait_for_launched(self) -> None:
        """Let no more than `LAUNCH_AHEAD` chunks be launched before the first is decoded."""
        if len(self.marks) >= LAUNCH_AHEAD:
            self.engine.wait(self.marks[-LAUNCH_AHEAD]["decode_done_s"])
            self.check()

    def decode(self, state: Any, chunk: Chunk) -> torch.Tensor:
        """A chunk's frames, [1, 3, F, H, W] in the decoder's dtype, checked."""
        with self.signals:
            frames = self.decoder.decode_chunk(state, chunk.latent_start, chunk.latent_stop)
        return self.check_frames(frames, chunk.frames)

    def check_frames(self, frames: torch.Tensor, count: int) -> torch.Tensor:
        """The decoder's output, if it has the shape that `ChunkDecoder.decode_chunk` promises.

        Whether it is finite is noted on the device, for `check_finite`.
        """
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
        # One pass without a temporary, for NaN is in both extremes.
        finite = torch.stack(torch.aminmax(frames)).isfinite()
        torch.all(finite, out=self._finite[len(self.records) - 1])
        return frames

    def decode_uint8(self, state: Any, chunk: Chunk, out: torch.Tensor) -> None:
        """Decode a chunk into ``out``, uint8 [F, H, W, 3], by ``decode_into`` if there is one."""
        into = getattr(self.decoder, "decode_into", None)
        try:
            if into is None:
                frames_to_uint8(self.decode(state, chunk), out)
                return
            with self.signals:
                nonfinite = into(state, chunk.latent_start, chunk.latent_stop, out)
        finally:
            del out  # or the traceback of an error would keep the slot's memory
        if not isinstance(nonfinite, torch.Tensor):
            raise TypeError(
                f"decode_into of decoder {self.decoder.name!r} does not return whether it made NaN "
                "or inf (see vdkit.decode.protocols.IntoDecoder)"
            )
        torch.logical_not(nonfinite, out=self._finite[len(self.records) - 1])

    def check_finite(self) -> None:
        """ValueError if a chunk held NaN or inf; call it when all has been decoded."""
        finite = [] if self._allow_nonfinite else self._finite[: len(self.records)].tolist()
        if not all(finite):
            record = self.records[finite.index(False)]
            raise ValueError(
                f"decoder {self.decoder.name!r} gave NaN or inf in {self.decoder.dtype}, first in "
                f"chunk {record.index} (latent frames {record.latent_start} to "
                f"{record.latent_stop - 1}); try another dtype, de-normalize pipeline latents, or "
                "pass allow_nonfinite=True"
            )

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
        with self.range("write", record.index), self.signals:
            self.sink.write(frames)
        record.write_done_s = self.now()
        if self.ttff_s is None:
            self.ttff_s = record.write_done_s
        self.frames_done = record.frame_stop

    def close_sink(self) -> None:
        """Complete the output, unless frames were not finite; all has been decoded."""
        if self.sink is not None:
            self.check_finite()
            start_s = self.now()
            self.sink.close()
            self._sink_unfinished = False
            self._end_s = self.now()
            self.sink_close_s = self._end_s - start_s

    def finish(self) -> None:
        """Let the device come to rest, and time the records; without a sink the latency ends."""
        self.engine.finish()
        if self._end_s is None:
            self._end_s = self.now()
        for record, marks in zip(self.records, self.marks, strict=True):
            for name, mark in marks.items():
                setattr(record, name, self.engine.host_time(mark) - self.start_s)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End the writer, bring device and sink to rest, let go of all; then signals may raise.

        Raises:
            DecodeOutOfMemory: in place of an out-of-memory error, with what fits.
        """
        try:
            if error is not None:
                self._fail(error)
        finally:
            if self.writer is not None:
                self.writer.ring.release()
            del self._finite  # the error's frames hold the job
            self._bar.close()
            self.signals.release()

    def _fail(self, error: BaseException) -> None:
        if self.writer is not None:
            self.writer.stop(error)
        self.engine.abandon()
        if self.sink is not None and self._sink_unfinished:
            self._sink_unfinished = False
            try:
                self.sink.abort()
            except BaseException as second:
                error.add_note(
                    f"cleaning up the sink failed too: {type(second).__name__}: {second}"
                )
            else:
                inner = getattr(self.sink, "inner", self.sink)
                if isinstance(error, OSError) and hasattr(inner, "path"):
                    error.add_note(
                        f"{type(inner).__name__} {inner.path}: what was written of it is removed, "
                        "an earlier one is as it was"
                    )
        if isinstance(error, torch.OutOfMemoryError):
            raise DecodeOutOfMemory(f"{error}\n{self._what_fits()}") from error

    def _what_fits(self) -> str:
        """Estimated device bytes by chunk size and slots, beside what is there."""
        working = getattr(self.decoder, "working_bytes", None)
        if working is None:
            return f"decoder {self.decoder.name!r} has no working_bytes() to estimate what fits"
        height, width = self._latent_size
        one = self.decoder.temporal_factor * self.info.frame_bytes  # a slot's, by latent frame
        if not self.config.uint8_on_gpu:
            one *= self.decoder.dtype.itemsize
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
                need = working(chunk_size, height, width) + slots * chunk_size * one
                verdict = "" if free is None else " fits" if need <= free else " does not fit"
                cells.append(f"{slots} slots {need / 2**30:.1f}{verdict}")
            lines.append(f"  chunk_size {chunk_size}: " + ", ".join(cells))
        return "\n".join(lines)

    def result(self, *, pinned_bytes: int = 0, ring_bytes: int = 0) -> DecodeResult:
        """Freeze the records of a run that has finished."""
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


def _allocated_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
