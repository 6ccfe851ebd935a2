"""The explorer without its widgets: what was measured, and one thread that measures.

Knows decoders and sinks only through a `Workshop`, so it is tested without any of them.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vdkit.explorer.views import bench_command
from vdkit.predict.book import MODES, CostBook, Decoding, Forecast, Setting, forecast

if TYPE_CHECKING:
    import torch

    from vdkit.decode.protocols import ChunkDecoder
    from vdkit.measure.study import SinkFactory
    from vdkit.record.recording import Recording
    from vdkit.record.runs import SinkInfo


CALIBRATION_LATENT_FRAMES = 9
"""Enough for steady chunks of one and of two latent frames."""

SMALLEST_SPATIAL_FACTOR = 8
"""Pixels per latent of Wan 2.1's VAE; that of Wan 2.2 has 16."""

LARGEST_SIDE = 8192
"""Of a video, pixels: beyond it nothing fits, and a slip of the finger would take hours."""

_ANY_CHUNK_SIZE = frozenset({"diffusers", "channels_last"})
"""Variants that need no set-up for a chunk size, so that calibration may take several."""


@dataclass(frozen=True, slots=True)
class SessionRun:
    """One measured setting.

    Attributes:
        number: from 1.
        forecast: made before it was measured.
        result: the benchmark, modes sync and async.
    """

    number: int
    forecast: Forecast
    result: Recording

    @property
    def setting(self) -> Setting:
        """What was measured."""
        return self.forecast.setting


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the job in hand is: what it does, its share done (0 to 1), seconds left if known."""

    doing: str
    share: float
    left_s: float | None


class Session:
    """Runs of one notebook, and at most one job at a time, on a thread of its own.

    Args:
        workshop: decoders, latents and sinks.
        results: folder of recorded benchmarks that predictions may use; None: none.
    """

    def __init__(self, workshop: Workshop, results: Path | None = None) -> None:
        self.workshop = workshop
        self.book = CostBook()
        if results is not None and results.is_dir():
            self.book.read(results)
        self.runs: list[SessionRun] = []
        self.error: str | None = None
        self._decoder: tuple[tuple[str, str], Any] | None = None
        self._thread: threading.Thread | None = None
        self._cancel = threading.Event()
        self._progress = Progress("", 0.0, None)

    @property
    def running(self) -> bool:
        """Whether a job is in hand."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def progress(self) -> Progress:
        """Of the job in hand, or of the last one."""
        return self._progress

    def machines(self) -> tuple[str, ...]:
        """This machine, then those that were recorded."""
        here = self.workshop.machine
        return (here, *(name for name in self.book.machines() if name != here))

    def forecast(self, setting: Setting) -> Forecast:
        """What a setting would give; raises as `vdkit.predict.book.forecast`.

        ValueError too for sides that the decoder has no latents for.
        """
        here = setting.decoding.machine == self.workshop.machine
        self._check_sides(setting.decoding)
        return forecast(self.book, setting, self.workshop.vram_bytes if here else None)

    def _check_sides(self, decoding: Decoding) -> None:
        """Sides are multiples of the decoder's factor: 8, or what the loaded one says."""
        loaded = (
            self._decoder if self._decoder and self._decoder[0][0] == decoding.decoder else None
        )
        factor = loaded[1].spatial_factor if loaded else SMALLEST_SPATIAL_FACTOR
        for name, side in (("height", decoding.height), ("width", decoding.width)):
            if side > LARGEST_SIDE:
                raise ValueError(f"{name} is {side}; use {LARGEST_SIDE} pixels at the most")
            if side % factor:
                near = max(factor, round(side / factor) * factor)
                raise ValueError(f"{name} is {side}; use a multiple of {factor}, e.g. {near}")

    def measured(self, setting: Setting) -> SessionRun | None:
        """The latest run of a setting."""
        return next((run for run in reversed(self.runs) if run.setting == setting), None)

    def run(self, setting: Setting, rounds: int, folder: str = "") -> None:
        """Measure a setting on the thread: ``rounds`` of sync and async, in turns.

        Args:
            setting: of this machine.
            rounds: timed runs of each path, 1 or more.
            folder: where the sink writes; empty: the system's temporary folder.

        Raises:
            RuntimeError: a job is in hand.
            ValueError: the setting is another machine's.
        """
        self._start(lambda: self._measure(setting, rounds, folder), setting)

    def calibrate(self, setting: Setting, folder: str = "") -> None:
        """Measure the costs of a setting on the thread, with a short video; raises as `run`."""
        self._start(lambda: self._calibrate(setting, folder), setting)

    def cancel(self) -> None:
        """Stop the job in hand within a chunk; none is no error."""
        self._cancel.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the job in hand; False if it is still at work after ``timeout_s``."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return not self.running

    def close(self) -> None:
        """Stop the job in hand, wait for it, and let go of the decoder."""
        self.cancel()
        self.wait()
        self._release()

    def _start(self, job: Callable[[], None], setting: Setting) -> None:
        if self.running:
            raise RuntimeError(
                f"a job is in hand ({self._progress.doing}); cancel it or wait for it"
            )
        self._check_sides(setting.decoding)
        if setting.decoding.machine != self.workshop.machine:
            raise ValueError(
                f"{setting.decoding.machine} cannot be measured from here; choose "
                f"{self.workshop.machine}"
            )
        self._cancel.clear()
        self.error = None
        self._progress = Progress("starting", 0.0, None)
        self._thread = threading.Thread(target=self._guard, args=(job,), name="vdkit-explorer")
        self._thread.daemon = True  # a kernel that is told to end does not wait for a measurement
        self._thread.start()

    def _guard(self, job: Callable[[], None]) -> None:
        from vdkit.decode.protocols import DecodeCancelled

        full = False
        try:
            job()
            self._progress = replace(self._progress, doing="done", share=1.0, left_s=None)
        except DecodeCancelled as stopped:
            self._progress = replace(self._progress, doing="cancelled", left_s=None)
            self.error = f"Cancelled: {stopped}"
        except Exception as error:  # whatever a decoder or a sink raises is shown, not lost
            self._progress = replace(self._progress, doing="failed", left_s=None)
            self.error = f"{type(error).__name__}: {error}"
            full = "memory" in self.error.lower()
        if full:  # only now: the error's frames held the decoder and its tensors
            self._release()

    def _measure(self, setting: Setting, rounds: int, folder: str) -> None:
        decoding = setting.decoding
        try:
            known = self.book.lookup(decoding).exact
        except LookupError:
            known = False
        if not known:
            self._calibrate(setting, folder)
        before = self.forecast(setting)
        result = self._bench(
            setting, folder, setting.latent_frames, (setting.config.chunk_size,), rounds, 1,
            "measuring", self._command(setting, rounds, folder),
        )[0]  # fmt: skip
        self.runs.append(SessionRun(len(self.runs) + 1, before, result))

    def _command(self, setting: Setting, rounds: int, folder: str) -> str | None:
        """What measures the same from the command line; None if that does not know its parts."""
        decoding = setting.decoding
        if {decoding.decoder, decoding.sink} & set(self.workshop.own):
            return None
        return bench_command(setting, rounds, folder)

    def _calibrate(self, setting: Setting, folder: str) -> None:
        own = setting.config.chunk_size
        sizes = {own, 1, 2} if setting.decoding.variant in _ANY_CHUNK_SIZE else {own}
        frames = max(CALIBRATION_LATENT_FRAMES, 1 + 3 * own)
        free = replace(setting, mb_per_s=None)
        self._bench(free, folder, frames, tuple(sorted(sizes)), 2, 0, "measuring costs")

    def _bench(
        self,
        setting: Setting,
        folder: str,
        latent_frames: int,
        chunk_sizes: tuple[int, ...],
        rounds: int,
        warmup: int,
        doing: str,
        command: str | None = None,
    ) -> list[Recording]:
        """One benchmark for each chunk size, watched and put into the book."""
        from vdkit.measure.plans import run_benchmark
        from vdkit.measure.study import prepare

        decoding = setting.decoding
        factory, info = self.workshop.sink(decoding.sink, folder, setting.mb_per_s)
        decoder = self._load(decoding)
        latents = self.workshop.latents(decoder, latent_frames, decoding.height, decoding.width)
        made = []
        for done, size in enumerate(chunk_sizes):
            self._say(f"preparing {decoding.decoder} ({decoding.variant})")
            prepare(decoder, latents, size)
            config = replace(setting.config, chunk_size=size)
            since_s = time.perf_counter()

            def report(frames: int, total: int, done: int = done, since_s: float = since_s) -> None:
                share = (done + frames / total) / len(chunk_sizes)
                spent_s = time.perf_counter() - since_s
                left_s = spent_s * (total * (len(chunk_sizes) - done) / frames - 1)
                self._progress = Progress(doing, share, left_s)

            self._say(doing, done / len(chunk_sizes))
            result = run_benchmark(
                decoder, latents, factory, sink_info=info, modes=MODES, config=config,
                fps=setting.fps, runs=rounds, warmup=warmup, label="explorer",
                latents_source="random", command=command, progress=report, cancel=self._cancel,
            )  # fmt: skip
            self.book.add(result, decoding.machine, decoding.decoder, decoding.sink)
            made.append(result)
        return made

    def _say(self, doing: str, share: float = 0.0) -> None:
        from vdkit.decode.protocols import DecodeCancelled

        if self._cancel.is_set():
            raise DecodeCancelled(f"before {doing}")
        self._progress = Progress(doing, share, None)

    def _load(self, decoding: Decoding) -> ChunkDecoder:
        """The decoder; the one before is let go of first, so that two never share the memory."""
        from vdkit.decode.protocols import require

        key = (decoding.decoder, decoding.variant)
        if self._decoder is None or self._decoder[0] != key:
            self._release()
            self._say(f"loading {decoding.decoder} ({decoding.variant})")
            loaded = self.workshop.load(*key)
            require(loaded, "ChunkDecoder", ("device", "spatial_factor", "begin", "decode_chunk"))
            self._decoder = (key, loaded)
        decoder: ChunkDecoder = self._decoder[1]
        return decoder

    def _release(self) -> None:
        """Let go of the decoder and of what torch keeps for it."""
        on_gpu = self._decoder is not None and self._decoder[1].device.type == "cuda"
        self._decoder = None
        gc.collect()
        if on_gpu:
            import torch

            torch.cuda.empty_cache()


class Workshop(Protocol):
    """Where a session gets what it measures.

    Attributes:
        machine: what costs measured here are filed under, e.g. ``this machine (NVIDIA H200)``.
        dtype: of the decoders it loads, as records name it.
        vram_bytes: device memory; None on a CPU.
        decoders, variants, sinks: names to choose from.
        own: those of them that the command line does not know.
    """

    machine: str
    dtype: str
    vram_bytes: int | None
    decoders: Sequence[str]
    variants: Sequence[str]
    sinks: Sequence[str]
    own: Sequence[str]

    def load(self, decoder: str, variant: str) -> ChunkDecoder:
        """A decoder; raises whatever loading it raises."""

    def latents(
        self, decoder: ChunkDecoder, latent_frames: int, height: int, width: int
    ) -> torch.Tensor:
        """Latents [1, C, T, h, w] of a video of this size in pixels."""

    def sink(self, name: str, folder: str, mb_per_s: float | None) -> tuple[SinkFactory, SinkInfo]:
        """A factory of fresh sinks, and how records describe them."""
