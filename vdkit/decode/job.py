"""One call of a decode path: its checked inputs, its clock, and how it ends well or badly.

Every path runs inside a `Job`, so that all accept the same input, leave the same records and clean
up in the same order.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from vdkit.decode import (
    ChunkDecoder,
    DecodeCancelled,
    Progress,
    Sink,
    Traits,
    check_latents,
    check_medium,
    end_state,
    info_of,
    require,
    to_levels,
    wants_float,
)
from vdkit.decode.chunks import (
    LAUNCH_AHEAD,
    SINK_PARTS,
    ChunkRecord,
    DecodeConfig,
    DecodeResult,
    chunks_of,
    exact_fps,
)
from vdkit.decode.engines import Mark, make_engine, on_device
from vdkit.decode.pixels import rows_to_format
from vdkit.decode.terminal import Bar, HeldSignals

if TYPE_CHECKING:
    import numpy as np


class DecodeOutOfMemory(torch.OutOfMemoryError, MemoryError):
    """CUDA out of memory; the message says what was asked for and estimates what fits."""


class DecodePath(Protocol):
    """How every decode path is called; `vdkit.decode_async` says what the arguments are."""

    def __call__(
        self,
        decoder: ChunkDecoder,
        latents: torch.Tensor,
        sink: Sink | None = None,
        *,
        fps: int | float | str | Fraction = 16,
        config: DecodeConfig = DecodeConfig(),
        progress: Progress = True,
        cancel: threading.Event | None = None,
        allow_nonfinite: bool = False,
    ) -> DecodeResult: ...


PATHS: dict[str, DecodePath] = {}
"""Every decode path by its mode."""

_whole = inspect.signature(DecodePath.__call__)
_SIGNATURE = _whole.replace(parameters=list(_whole.parameters.values())[1:])


def decode_path(mode: str) -> Callable[[Callable[[Job], DecodeResult]], DecodePath]:
    """Make what is to be done with a `Job` the decode path ``mode``, which does it in one."""

    def make(run: Callable[[Job], DecodeResult]) -> DecodePath:
        @functools.wraps(run, ("__module__", "__name__", "__qualname__", "__doc__"))
        def path(*arguments: Any, **named: Any) -> DecodeResult:
            given = _SIGNATURE.bind(*arguments, **named)
            given.apply_defaults()
            with torch.inference_mode():
                job = Job(mode, **given.arguments)
                with job, on_device(job.decoder.device):
                    return run(job)

        path.__signature__ = _SIGNATURE  # type: ignore[attr-defined]
        PATHS[mode] = path
        return path

    return make


@dataclass(eq=False)
class Job:
    """Checked inputs and state shared by every decode path; inputs as for `decode_async`."""

    mode: str
    decoder: Any
    latents: Any
    sink: Any
    fps: int | float | str | Fraction
    config: DecodeConfig
    progress: Progress
    cancel: threading.Event | None
    allow_nonfinite: bool

    def __post_init__(self) -> None:
        self.start_s = time.perf_counter()
        decoder, config = self.decoder, self.config
        self.traits = Traits.of(decoder)
        medium = self.traits.medium
        if self.mode != "compute_only":
            require(self.sink, "Sink", ("open", "write", "close", "abort"))
            check_medium(self.sink, medium, f"decoder {decoder.name!r}")
        if self.mode in ("sync", "async") and wants_float(self.sink):
            raise TypeError(
                f"{type(self.sink).__name__} takes diffusers' float frames, decode_{self.mode} "
                "gives uint8; use decode_diffusers, or another sink"
            )
        if not isinstance(config, DecodeConfig):
            raise TypeError(f"config is a {type(config).__name__}; a DecodeConfig is needed")
        if (cancel := self.cancel) is not None and not hasattr(cancel, "is_set"):
            raise TypeError(f"cancel is a {type(cancel).__name__}; a threading.Event is needed")
        if config.nvtx and decoder.device.type != "cuda":
            raise ValueError(f"nvtx ranges need a CUDA device; this decoder is on {decoder.device}")
        self.latents = check_latents(
            self.latents, decoder.latent_channels, decoder.device, decoder.dtype, medium
        )
        shape = tuple(self.latents.shape)
        self.latent_size = self.traits.latent_size(shape)
        chunk_size = None if self.mode == "diffusers" else config.chunk_size
        self.chunks = chunks_of(decoder, self.latents, chunk_size)
        self.rgb_info = info_of(
            decoder, self.latents, self.chunks[-1].frame_stop, exact_fps(self.fps)
        )
        self.info = self.rgb_info
        if medium.name in ("video", "av"):
            wanted = getattr(self.sink, "pixel_format", "rgb24")
            self.info = replace(self.rgb_info, pixel_format=wanted)
        self._rgb: torch.Tensor | None = None
        self._finite = torch.empty(len(self.chunks), dtype=torch.bool, device=decoder.device)
        self.marks: list[dict[str, Mark]] = []
        self.frames_done = self._frames_reported = 0
        self.ring_bytes = self.pinned_bytes = 0
        self.ttff_s: float | None = None
        self.sink_open_s: float | None = None
        self.sink_open_start_s: float | None = None
        self.sink_close_s: float | None = None
        self.sink_close_parts: dict[str, float] = {}
        self.encoders_s: float | None = None
        self._end_s: float | None = None
        self._sink_unfinished = False
        self._states: list[Any] = []
        self._allocated_before = 0
        if decoder.device.type == "cuda":
            self._allocated_before = torch.cuda.memory_allocated(decoder.device)
        self.engine = make_engine(decoder.device, config.copy_stream)
        self._bar = Bar(
            self.progress is True, total=self.info.frames, desc=self.mode, unit=medium.unit
        )
        self.writer: Any = None
        """`vdkit.decode.paths` puts its writer and ring here, to be ended with the job."""
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
                f"{self.mode} decode cancelled near {self.traits.medium.unit} {self.frames_done} "
                f"of {self.info.frames}"
            )

    def report(self) -> None:
        """Tell the caller how far it is, if it is further."""
        if self.frames_done > self._frames_reported:
            self._frames_reported = self.frames_done
            self._bar.to(self.frames_done)
            if callable(self.progress):
                with self.signals:
                    self.progress(self.frames_done, self.info.frames)

    def take_latents(self) -> torch.Tensor:
        """The latents on the device, given up by the job so that they need not stay there."""
        latents, self.latents = self.latents, None
        return cast(torch.Tensor, latents)

    def begin(self) -> Any:
        """The decoder's state for these latents, which the job gives up."""
        ends = hasattr(self.decoder, "end")
        with self.signals:
            # No handler runs between the return of `begin` and the state's being in the list, so
            # that whatever was begun is ended.
            self._states.extend(map(self.decoder.begin, (self.take_latents(),)))
        return self._states[0] if ends else self._states.pop()

    def _end_state(self, error: BaseException | None) -> None:
        """Let the decoder free its state, once, when nothing works on it any more."""
        while self._states:
            state = self._states.pop()
            try:
                with on_device(self.decoder.device):
                    end_state(self.decoder, state)
            except BaseException as second:
                if error is None:
                    raise
                error.add_note(
                    f"end of decoder {self.decoder.name!r} failed too: "
                    f"{type(second).__name__}: {second}"
                )

    def steps(self) -> Iterator[ChunkRecord]:
        """Each chunk in turn, as long as nothing says stop."""
        for record in self.chunks:
            record.begun_s = self.now()
            self.check()
            yield record
        self.check()

    def range(self, name: str, record: ChunkRecord) -> contextlib.AbstractContextManager[Any]:
        """An NVTX range around one step of one chunk, if the config asks for them."""
        if not self.config.nvtx:
            return contextlib.nullcontext()
        return torch.cuda.nvtx.range(f"{name} {record.index}")

    @contextlib.contextmanager
    def step(self, name: str, record: ChunkRecord) -> Iterator[None]:
        """Around what the host does with one chunk: its times in the record, its NVTX range."""
        setattr(record, f"{name}_start_s", self.now())
        with self.range(name, record):
            yield
        setattr(record, f"{name}_done_s", self.now())

    @contextlib.contextmanager
    def launch(self, record: ChunkRecord) -> Iterator[None]:
        """Around the call that decodes: a step of the host, and one of the compute stream."""
        self.engine.note_chunk(record.index)
        with self.step("launch", record):
            start = self.engine.mark("compute")
            yield
            done = self.engine.mark("compute")
            self.marks.append({"decode_start_s": start, "decode_done_s": done})

    def wait_for_launched(self) -> None:
        """Let no more than `LAUNCH_AHEAD` chunks be launched before the first is decoded."""
        if len(self.marks) >= LAUNCH_AHEAD:
            self.engine.wait(self.marks[-LAUNCH_AHEAD]["decode_done_s"])
            self.check()

    def decode(self, state: Any, record: ChunkRecord) -> torch.Tensor:
        """A chunk as `ChunkDecoder.decode_chunk` gives it, checked."""
        with self.signals:
            frames = self.decoder.decode_chunk(state, record.latent_start, record.latent_stop)
        return self.check_frames(frames, record)

    def check_frames(self, frames: torch.Tensor, record: ChunkRecord) -> torch.Tensor:
        """The decoder's output, if it has the shape that `ChunkDecoder.decode_chunk` promises.

        Whether it is finite is noted on the device, for `check_finite`.
        """
        expected = self.info.decoded_shape(record.frames)
        if not isinstance(frames, torch.Tensor) or tuple(frames.shape) != expected:
            kind = type(frames).__name__
            got = f"shape {tuple(frames.shape)}" if isinstance(frames, torch.Tensor) else kind
            raise ValueError(
                f"decoder {self.decoder.name!r} returned {got} for "
                f"{self.traits.medium.positions(record.latent_start, record.latent_stop)}, "
                f"expected {expected} = {self.traits.medium.decoded}"
            )
        if frames.dtype != self.decoder.dtype:
            raise ValueError(
                f"decoder {self.decoder.name!r} returned {frames.dtype}, but its dtype is "
                f"{self.decoder.dtype}"
            )
        # One pass without a temporary, for NaN is in both extremes.
        finite = torch.stack(torch.aminmax(frames)).isfinite()
        torch.all(finite, out=self._finite[record.index])
        return frames

    def decode_uint8(self, state: Any, record: ChunkRecord, out: torch.Tensor) -> None:
        """Decode a chunk into ``out``, as the sink gets it, by ``decode_into`` if there is one."""
        if self.info == self.rgb_info:
            self._decode_levels(state, record, out)
            return
        if self._rgb is None:
            most = max(chunk.frames for chunk in self.chunks)
            self._rgb = out.new_empty(self.rgb_info.shape(most))
        rgb = self._rgb[: record.frames]
        self._decode_levels(state, record, rgb)
        rows_to_format(rgb, self.info, out)

    def _decode_levels(self, state: Any, record: ChunkRecord, out: torch.Tensor) -> None:
        into = getattr(self.decoder, "decode_into", None)
        if into is None:
            to_levels(self.decode(state, record), self.traits, out)
            return
        with self.signals:
            nonfinite = into(state, record.latent_start, record.latent_stop, out)
        if not isinstance(nonfinite, torch.Tensor):
            raise TypeError(
                f"decode_into of decoder {self.decoder.name!r} does not return whether it made NaN "
                "or inf (see vdkit.decode.IntoDecoder)"
            )
        torch.logical_not(nonfinite, out=self._finite[record.index])

    def check_finite(self) -> None:
        """ValueError if a chunk held NaN or inf; call it when all has been decoded."""
        finite = [] if self.allow_nonfinite else self._finite.tolist()
        if not all(finite):
            record = self.chunks[finite.index(False)]
            raise ValueError(
                f"decoder {self.decoder.name!r} gave NaN or inf in {self.decoder.dtype}, first in "
                f"chunk {record.index} ("
                f"{self.traits.medium.positions(record.latent_start, record.latent_stop)}); try "
                "another dtype, de-normalize pipeline latents, or pass allow_nonfinite=True"
            )

    def convert(self, record: ChunkRecord, frames: torch.Tensor) -> torch.Tensor:
        """A chunk as the sink gets it, made on the host."""
        with self.step("convert", record):
            return self.in_format(to_levels(frames, self.traits))

    def in_format(self, rows: torch.Tensor) -> torch.Tensor:
        """Levels with RGB pictures as the sink gets them, made where they are."""
        if self.info == self.rgb_info:
            return rows
        made = rows.new_empty(self.info.shape(len(rows)))
        rows_to_format(rows, self.info, made)
        return made

    def open_sink(self) -> None:
        self.sink_open_start_s = start_s = self.now()
        self._sink_unfinished = True
        self.sink.open(self.info)
        self.sink_open_s = self.now() - start_s

    def _parts(self) -> dict[str, float]:
        """What the sink says it was at since it was opened (see `Sink`), s."""
        return dict(getattr(self.sink, "parts", {}))

    def _spent(self, before: dict[str, float]) -> dict[str, float]:
        """Seconds of each of `SINK_PARTS` since `_parts` gave ``before``."""
        now = self._parts()
        return {name: now[name] - before.get(name, 0.0) for name in SINK_PARTS if name in now}

    def write(self, record: ChunkRecord, frames: np.ndarray) -> None:
        """Hand one chunk to the sink and note when."""
        before = self._parts()
        with self.step("write", record), self.signals:
            self.sink.write(frames)
        for name, spent_s in self._spent(before).items():
            setattr(record, f"{name}_s", spent_s)
        if self.ttff_s is None:
            self.ttff_s = record.write_done_s
        self.frames_done = record.frame_stop

    def close_sink(self) -> None:
        """Complete the output, unless frames were not finite; all has been decoded."""
        self.check_finite()
        before, start_s = self._parts(), self.now()
        self.sink.close()
        self._sink_unfinished = False
        self._end_s = self.now()
        self.sink_close_s = self._end_s - start_s
        self.sink_close_parts = self._spent(before)
        self.encoders_s = self._parts().get("encoders")

    def finish(self) -> DecodeResult:
        """Let the device come to rest, and time the records; without a sink the latency ends."""
        self.engine.finish()
        if self._end_s is None:
            self._end_s = self.now()
            self.check_finite()
        for record, marks in zip(self.chunks, self.marks, strict=True):
            for name, mark in marks.items():
                setattr(record, name, self.engine.host_time(mark) - self.start_s)
        return DecodeResult(
            mode=self.mode, device=self.engine.name, info=self.info, config=self.config,
            started_s=self.start_s, latency_s=self._end_s, ttff_s=self.ttff_s,
            sink_open_s=self.sink_open_s, sink_close_s=self.sink_close_s,
            pinned_bytes=self.pinned_bytes, ring_bytes=self.ring_bytes,
            vram_peak_bytes=self.engine.vram_peak_bytes(),
            device_mallocs_steady=self.engine.device_mallocs_steady(len(self.chunks)),
            clock_residual_s=self.engine.clock_residual_s, chunks=self.chunks,
            sink_open_start_s=self.sink_open_start_s, sink_close_parts=self.sink_close_parts,
            encoders_s=self.encoders_s,
        )  # fmt: skip

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
            else:
                self._end_state(None)
        finally:
            if error is not None:
                _clear_frames(error)
            if self.writer is not None:
                self.writer.ring.release()
            self.writer = self.latents = self._rgb = None
            del self._finite  # `path` holds the job, and the error holds that
            self._bar.close()
            self.signals.release()

    def _fail(self, error: BaseException) -> None:
        if self.writer is not None:
            self.writer.stop(error)
        self.engine.abandon()
        self._end_state(error)
        if self._sink_unfinished:
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
        decoder, config = self.decoder, self.config
        working = getattr(decoder, "working_bytes", None)
        if working is None:
            less = (
                "use decode_async, which decodes by chunk" if self.mode == "diffusers" else
                f"use smaller chunks (chunk_size is {config.chunk_size}), fewer slots "
                f"({config.slots}), or decode a smaller {self.traits.medium.whole}"
            )  # fmt: skip
            return f"decoder {decoder.name!r} has no working_bytes() to estimate what fits; {less}"
        one = (
            self.info.frame_bytes
            if config.uint8_on_gpu
            else (math.prod(self.info.decoded_shape(1)) * decoder.dtype.itemsize)
        )
        one *= self.traits.temporal_factor  # a slot's, by latent
        free, told = None, ""
        if decoder.device.type == "cuda":
            # What this decode took is still held by the error's frames, and will be free again.
            taken = torch.cuda.memory_reserved(decoder.device) - self._allocated_before
            free = torch.cuda.mem_get_info(decoder.device)[0] + taken
            told = f" ({free / 2**30:.1f} GiB free)"
        lines = [
            f"asked for: {decoder.name} at {self.info.height}x{self.info.width}, "
            f"chunk_size {config.chunk_size}, {config.slots} slots",
            f"estimated need beside the weights, GiB{told}:",
        ]
        for chunk_size in sorted({1, 2, 4, 8, config.chunk_size}):
            cells = []
            for slots in sorted({1, 2, 4, 16, config.slots}):
                need = working(chunk_size, *self.latent_size) + slots * chunk_size * one
                verdict = "" if free is None else " fits" if need <= free else " does not fit"
                cells.append(f"{slots} slots {need / 2**30:.1f}{verdict}")
            lines.append(f"  chunk_size {chunk_size}: " + ", ".join(cells))
        return "\n".join(lines)


def _clear_frames(error: BaseException) -> None:
    """Empty the kit's own frames in a traceback: whoever keeps the error must not keep buffers."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).startswith("vdkit.decode."):
            with contextlib.suppress(RuntimeError):  # `path` is running, and has none
                frame.clear()
