"""The benchmark: modes run in turns, every raw value kept, frames proved identical.

Knows decoders and sinks only by protocol: it is handed a decoder and a sink factory.
"""

from __future__ import annotations

import gc
import hashlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from vdkit.decode.bar import Bar
from vdkit.decode.chunks import DecodeConfig, DecodeResult, VideoInfo, exact_fps, pixel_frames
from vdkit.decode.pipelined import decode_async
from vdkit.decode.pixels import check_latents
from vdkit.decode.protocols import ChunkDecoder, Progress, Sink, require
from vdkit.decode.sequential import compute_only, decode_diffusers, decode_sync
from vdkit.measure.nvml import GpuReading, Nvml
from vdkit.record.machine import collect_provenance, gpu_uuid, tensor_sha256
from vdkit.record.recording import BenchmarkResult, Mode, Run, SinkInfo, Workload, identical

if TYPE_CHECKING:
    import numpy as np
    import torch

    from vdkit.decode.protocols import ChunkDecoder


MODES: Mapping[str, Callable[..., DecodeResult]] = {
    "diffusers": decode_diffusers,
    "sync": decode_sync,
    "async": decode_async,
    "compute": compute_only,
}
"""Every decode path by the name that records and tables use."""

SinkFactory = Callable[[str], AbstractContextManager[Sink]]
"""Called with a run's label; entering gives a fresh sink, leaving removes what it wrote."""


def run_benchmark(
    decoder: ChunkDecoder,
    latents: torch.Tensor,
    sink_factory: SinkFactory,
    *,
    sink_info: SinkInfo,
    modes: Sequence[str] = tuple(MODES),
    baseline: str | None = None,
    config: DecodeConfig = DecodeConfig(),
    fps: int | float | str | Fraction = 16,
    runs: int = 10,
    warmup: int = 1,
    source: str | None = None,
    latents_source: str = "given",
    seed: int = 0,
    label: str = "bench",
    command: str | None = None,
    setup_s: float | None = None,
    progress: Progress = True,
    cancel: threading.Event | None = None,
) -> BenchmarkResult:
    """Run decode paths in turns (A B B A ...) and record everything.

    Each mode first runs once, untimed, into a hash, which proves the frames identical and warms the
    device up; then come ``warmup`` and ``runs`` rounds with a fresh sink each. Nothing is measured
    inside a run but what the decode path itself records.

    Args:
        decoder, latents, config, fps: as for `decode_async`.
        sink_factory: gives the sink of one run, and removes its output after.
        sink_info: how the record describes the sink.
        modes: keys of `MODES`.
        baseline: the mode that speed-ups are against; None: the first of sync, diffusers, async,
            compute.
        runs, warmup: timed and untimed rounds; warm-up runs are kept apart in the record.
        source, latents_source, seed, label, command, setup_s: for the record only.
        progress: True for a tqdm bar of runs, False for none, or a callable (frames decoded, frames
            to decode in all), called on this thread as chunks of every run are written: it should
            take no time.
        cancel: set it to stop within a chunk.

    Raises:
        DecodeCancelled: ``cancel`` was set.
        ValueError: unknown or repeated mode, no runs, a baseline that does not run; or bad input as
            for `decode_async`.
    """
    baseline = check_plan(modes, baseline, runs, warmup)
    bench = Bench(decoder, latents, fps, source, latents_source, seed, setup_s)
    bench.cancel = cancel
    if callable(progress):
        bench.watch(progress, len(modes) * (1 + warmup + runs))
    with progress_bar(len(modes) * (1 + warmup + runs), progress is True) as advance:
        hashes = {}
        for mode in modes:
            hashes[mode] = bench.frame_hash(mode, config)
            advance()
        records: list[Run] = []
        for number in range(-warmup, runs):
            order = modes if number % 2 == 0 else tuple(reversed(modes))
            for mode in order:
                with sink_factory(f"{mode}-{number + warmup:03d}") as sink:
                    records.append(bench.run(mode, number, sink, config))
                advance()
    return bench.result(
        hashes,
        records,
        config=config,
        sink_info=sink_info,
        baseline=baseline,
        label=label,
        command=command,
    )


class Bench:
    """One decoder and one video, set up once, to run any path on in any configuration.

    Args:
        decoder, latents, fps: as for `decode_async`.
        source, latents_source, seed, setup_s: for the record only.
    """

    other_bytes: int | None = None
    """Device bytes held by others, for the record."""
    cancel: threading.Event | None = None
    """Stops the decode in hand with `DecodeCancelled`."""

    def __init__(
        self,
        decoder: ChunkDecoder,
        latents: torch.Tensor,
        fps: int | float | str | Fraction = 16,
        source: str | None = None,
        latents_source: str = "given",
        seed: int = 0,
        setup_s: float | None = None,
    ) -> None:
        require(decoder, "ChunkDecoder", (*ChunkDecoder.__annotations__, "begin", "decode_chunk"))
        self.decoder, self.fps, self.setup_s = decoder, fps, setup_s
        # Kept on the host: each run moves them, and so holds no more of them than it needs.
        host = torch.device("cpu")
        self.latents = check_latents(latents, decoder.latent_channels, host, decoder.dtype)
        self.workload = describe_workload(decoder, self.latents, fps, source, latents_source, seed)
        self.nvml = open_nvml(decoder.device)
        self._progress: Progress = False
        self._frames_before = 0

    def watch(self, report: Callable[[int, int], None], decodes: int) -> None:
        """Report (frames decoded, frames in all) over this many decodes to come."""
        total = decodes * self.workload.frames

        def forward(done: int, _: int) -> None:
            report(self._frames_before + done, total)

        self._progress = forward

    def prepare(self, chunk_size: int) -> None:
        """Let the decoder do its one-time work for this chunk size; it counts as set-up."""
        self.setup_s = (self.setup_s or 0.0) + prepare(self.decoder, self.latents, chunk_size)

    def frame_hash(self, mode: str, config: DecodeConfig) -> str | None:
        """Run once, untimed, into a hash."""
        if mode == "diffusers" and not hasattr(self.decoder, "decode_video"):
            raise TypeError(
                f"{type(self.decoder).__name__} is no WholeVideoDecoder: it lacks decode_video; "
                f"leave out mode diffusers: modes={tuple(MODES)[1:]}"
            )
        hasher = FrameHasher()
        self._decode(mode, hasher, config)
        return None if mode == "compute" else hasher.sha256

    def run(self, mode: str, number: int, sink: Sink, config: DecodeConfig) -> Run:
        """One run into a fresh sink; ``number`` is its round, below 0 for a warm-up."""
        gc.collect()  # or a collection of the last run's garbage falls into this one
        before = self.nvml.read() if self.nvml else None
        done = self._decode(mode, sink, config)
        after = self.nvml.read() if self.nvml else None
        return as_run(done, number, before, after)

    def _decode(self, mode: str, sink: Sink, config: DecodeConfig) -> DecodeResult:
        done = MODES[mode](
            self.decoder, self.latents, sink, fps=self.fps, config=config, progress=self._progress,
            cancel=self.cancel,
        )  # fmt: skip
        self._frames_before += self.workload.frames
        return done

    def result(
        self,
        hashes: Mapping[str, str | None],
        records: Sequence[Run],
        *,
        config: DecodeConfig,
        sink_info: SinkInfo,
        baseline: str,
        label: str,
        command: str | None = None,
    ) -> BenchmarkResult:
        """The runs as a record. ``hashes``: mode to what `frame_hash` gave, in order of the table.

        Every mode needs a timed run.
        """
        driver = self.nvml.driver if self.nvml else None
        return BenchmarkResult(
            label=label,
            command=command,
            provenance=collect_provenance(self.decoder.device, driver),
            workload=self.workload,
            config=config,
            sink=sink_info,
            baseline=baseline,
            frames_identical=identical(hashes, config),
            modes={
                mode: Mode.of(mode, baseline, records, sha256, self.workload.seconds)
                for mode, sha256 in hashes.items()
            },
            runs=tuple(records),
            setup_s=self.setup_s,
            other_bytes=self.other_bytes,
        )


def check_plan(modes: Sequence[str], baseline: str | None, runs: int, warmup: int) -> str:
    """The baseline of a sound plan; ValueError, with what is allowed, for any other."""
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise ValueError(
            f"modes {', '.join(unknown) or 'are missing'}: use any of {', '.join(MODES)}"
        )
    if len(set(modes)) != len(modes):
        raise ValueError(f"modes {', '.join(modes)}: each may be named once")
    if runs < 1:
        raise ValueError(f"runs is {runs}; use 1 or more")
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}; use 0 or more")
    if baseline is None:
        return next(mode for mode in ("sync", "diffusers", "async", "compute") if mode in modes)
    if baseline not in modes:
        raise ValueError(f"baseline {baseline!r} is not among the modes {', '.join(modes)}")
    return baseline


@contextmanager
def progress_bar(total: int, show: bool) -> Iterator[Callable[[], object]]:
    """A bar of runs, advanced by calling what it yields."""
    with Bar(show, total=total, desc="runs", unit="run") as bar:
        yield bar.add


def describe_workload(
    decoder: ChunkDecoder,
    latents: torch.Tensor,
    fps: int | float | str | Fraction,
    source: str | None,
    latents_source: str,
    seed: int,
) -> Workload:
    """What is decoded; ``latents`` are [1, C, T, h, w], checked already."""
    _, _, frames, height, width = latents.shape
    weights = getattr(decoder, "weights_sha256", None)
    return Workload(
        decoder=decoder.name,
        source=source or decoder.name,
        dtype=str(decoder.dtype).removeprefix("torch."),
        weights_sha256=weights() if weights is not None else None,
        latents=latents_source,
        latents_sha256=tensor_sha256(latents),
        seed=seed,
        latent_frames=frames,
        latent_height=height,
        latent_width=width,
        frames=pixel_frames(frames, decoder.temporal_factor),
        height=height * decoder.spatial_factor,
        width=width * decoder.spatial_factor,
        fps=float(exact_fps(fps)),
        variant=getattr(decoder, "variant", "diffusers"),
        notes=tuple(getattr(decoder, "notes", ())),
    )


def prepare(decoder: ChunkDecoder, latents: torch.Tensor, chunk_size: int) -> float:
    """Let the decoder do its one-time work for these latents and chunks, if it has any; s."""
    work = getattr(decoder, "prepare", None)
    if work is None:
        return 0.0
    begun = time.perf_counter()
    work(*latents.shape[-2:], chunk_size)
    return time.perf_counter() - begun


def as_run(
    done: DecodeResult,
    number: int,
    before: GpuReading | None = None,
    after: GpuReading | None = None,
) -> Run:
    """A finished decode as a record; ``number`` is its round, below 0 for a warm-up."""
    return Run(
        mode=done.mode,
        round=number,
        warmup=number < 0,
        latency_s=done.latency_s,
        ttff_s=done.ttff_s,
        sink_open_s=done.sink_open_s,
        sink_close_s=done.sink_close_s,
        vram_peak_bytes=done.vram_peak_bytes,
        device_mallocs_steady=done.device_mallocs_steady,
        pinned_bytes=done.pinned_bytes,
        ring_bytes=done.ring_bytes,
        d2h_bytes=done.d2h_bytes,
        clock_residual_s=done.clock_residual_s,
        gpu_before=before,
        gpu_after=after,
        throttled=any(
            reading is not None and reading.throttle_reasons for reading in (before, after)
        ),
        chunks=done.chunks,
    )


def open_nvml(device: torch.device) -> Nvml | None:
    """NVML on ``device``; None on a CPU, and with a warning where NVML does not answer."""
    uuid = gpu_uuid(device)
    if uuid is None:
        return None
    try:
        return Nvml(uuid)
    except (RuntimeError, ImportError) as error:
        warnings.warn(f"clocks and throttling are not recorded: {error}", stacklevel=3)
        return None


class FrameHasher:
    """A sink that only hashes: the proof that two runs gave the same frames."""

    def open(self, info: VideoInfo) -> None:
        self._digest = hashlib.sha256(f"{info.height}x{info.width}".encode())

    def write(self, frames: np.ndarray) -> None:
        self._digest.update(frames.data)

    def close(self) -> None:
        self.sha256 = self._digest.hexdigest()

    def abort(self) -> None:
        pass
