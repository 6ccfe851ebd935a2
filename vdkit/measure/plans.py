"""Variants of one decoder side by side: every variant and mode in turns, in one run.

Knows decoders by protocol: it is handed a way to get each.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch

from vdkit.decode.chunks import DecodeConfig
from vdkit.decode.job import DecodeOutOfMemory
from vdkit.decode.protocols import ChunkDecoder
from vdkit.decode.sequential import decode_sync
from vdkit.measure.profiler import profile_run
from vdkit.measure.study import Bench, SinkFactory, check_plan, progress_bar
from vdkit.record.machine import collect_provenance
from vdkit.record.old_ablation import ALL_ON, Ablation, Arm, Setting, ablation_settings
from vdkit.record.old_variants import Comparison, VariantsIndex
from vdkit.record.recording import Run, SinkInfo
from vdkit.record.stats import decide, summarize
from vdkit.trace.figures import Share, steady_families

if TYPE_CHECKING:
    import torch

    from vdkit.decode.chunks import VideoInfo
    from vdkit.decode.protocols import ChunkDecoder
    from vdkit.record.recording import Run, SinkInfo


Variants = Sequence[tuple[str, Callable[[], ChunkDecoder]]]
"""Names, as records call them, and how to get each decoder."""

WATCHED_CHUNKS = 5
"""How much of the video is compared with float32: enough for every step to have been in use."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What `run_variants` gives.

    Attributes:
        comparison: the record.
        families: variant to its steady kernels by family; empty where there are none, and
            ``why_no_families`` says why.
    """

    comparison: Comparison
    families: Mapping[str, tuple[Share, ...]]
    why_no_families: str | None


def run_variants(
    variants: Variants,
    latents_for: Callable[[ChunkDecoder], torch.Tensor],
    sink_factory: SinkFactory,
    *,
    sink_info: SinkInfo,
    modes: Sequence[str],
    baseline: str | None = None,
    config: DecodeConfig = DecodeConfig(),
    fps: int | float | str | Fraction = 16,
    runs: int = 10,
    warmup: int = 1,
    source: str | None = None,
    latents_source: str = "given",
    seed: int = 0,
    label: str = "variants",
    command: str | None = None,
    families: bool = True,
    exact: Callable[[], ChunkDecoder] | None = None,
    guard: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
    say: Callable[[str], None] = lambda line: None,
    progress: bool = True,
) -> Measured:
    """Get every variant, then run all their modes in turns (A B B A over variant and mode).

    Args:
        variants: the first is what the others are compared with.
        latents_for: gives the latents for the first decoder; all decode the same.
        sink_factory, sink_info, config, fps, runs, warmup: as for `run_benchmark`.
        modes: of every variant; ``diffusers`` is skipped for those without ``decode_video``.
        baseline: the mode that speed-ups within a variant are against; None: as `run_benchmark`.
        source, latents_source, seed, label, command: for the record only.
        families: afterwards profile one ``compute`` run of each variant, on CUDA.
        exact: gives the decoder in float32, with which frames are compared; None: they are not.
        guard: entered with a variant's name wherever it is loaded or first run, to word errors.
        say: is told what the user should know meanwhile.

    Raises:
        ValueError: a plan that is wrong, or a variant that has none of the modes; or bad input as
            for `decode_async`.
    """
    names = [name for name, _ in variants]
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"variants {', '.join(names) or 'are missing'}: name each once")
    check_plan(modes, baseline, runs, warmup)
    benches: dict[str, Bench] = {}
    own: dict[str, int] = {}
    latents = None
    for name, get in variants:
        before, begun = _allocated(), time.perf_counter()
        with guard(name):
            decoder = get()
            loaded_s = time.perf_counter() - begun
            latents = latents_for(decoder) if latents is None else latents
            bench = Bench(decoder, latents, fps, source, latents_source, seed, loaded_s)
            bench.prepare(config.chunk_size)
        benches[name] = bench
        own[name] = _allocated() - before
        say(f"set-up of {name}: {bench.setup_s:.1f} s")
    plans, skipped = _plans(benches, modes, say)
    for name, bench in benches.items():
        if bench.decoder.device.type == "cuda":
            bench.other_bytes = sum(size for other, size in own.items() if other != name)
    pairs = [(name, mode) for name, plan in plans.items() for mode in plan]
    hashes: dict[str, dict[str, str | None]] = {name: {} for name in benches}
    records: dict[str, list[Run]] = {name: [] for name in benches}
    with progress_bar(len(pairs) * (1 + warmup + runs), progress) as advance:
        for name, mode in pairs:
            with guard(name), _naming(name):
                hashes[name][mode] = benches[name].frame_hash(mode, config)
            advance()
        for number in range(-warmup, runs):
            for name, mode in pairs if number % 2 == 0 else reversed(pairs):
                with sink_factory(f"{name}-{mode}-{number + warmup:03d}") as sink:
                    records[name].append(benches[name].run(mode, number, sink, config))
                advance()
    results = {
        name: bench.result(
            hashes[name],
            records[name],
            config=config,
            sink_info=sink_info,
            baseline=check_plan(
                plans[name], baseline if baseline in plans[name] else None, runs, warmup
            ),
            label=f"{label}: {name}",
            command=command,
        )
        for name, bench in benches.items()
    }
    found, why = _families(benches, config) if families else ({}, "they were not asked for")
    psnr_db, length = _psnr_db(benches, exact, config, say) if exact else ({}, 0)
    index = VariantsIndex(
        label=label,
        command=command,
        provenance=results[names[0]].provenance,
        variants=tuple(names),
        baseline=names[0],
        skipped=skipped,
        psnr_db=psnr_db,
        psnr_latent_frames=length,
    )
    return Measured(Comparison(index, results), found, why)


def _plans(
    benches: Mapping[str, Bench], modes: Sequence[str], say: Callable[[str], None]
) -> tuple[dict[str, list[str]], dict[str, tuple[str, ...]]]:
    """The modes of each variant, and those that it cannot run."""
    plans: dict[str, list[str]] = {}
    skipped: dict[str, tuple[str, ...]] = {}
    for name, bench in benches.items():
        whole = hasattr(bench.decoder, "decode_video")
        plans[name] = [mode for mode in modes if mode != "diffusers" or whole]
        if len(plans[name]) < len(modes):
            skipped[name] = ("diffusers",)
            say(f"{name}: mode diffusers is skipped, this decoder decodes by chunk only")
        if not plans[name]:
            raise ValueError(f"variant {name!r} decodes by chunk only; add sync, async or compute")
    return plans, skipped


def _families(
    benches: Mapping[str, Bench], config: DecodeConfig
) -> tuple[dict[str, tuple[Share, ...]], str | None]:
    """Profile one run of each; or why there is nothing to show."""
    found = {}
    for name, bench in benches.items():
        if bench.decoder.device.type != "cuda":
            return {}, "a CPU has no kernels"
        gc.collect()
        try:
            timeline = profile_run(
                "compute", bench.decoder, bench.latents, _Kept(), fps=bench.fps, config=config
            )
        except RuntimeError as error:  # the timed runs are not lost for it
            return {}, f"profiling {name} failed: {error}"
        found[name] = steady_families(timeline)
        if not found[name]:
            return {}, "the video is too short for a steady window"
    return found, None


def _psnr_db(
    benches: Mapping[str, Bench],
    exact: Callable[[], ChunkDecoder],
    config: DecodeConfig,
    say: Callable[[str], None],
) -> tuple[dict[str, float | None], int]:
    """PSNR of each variant's first frames against float32, None for equal; of how many latent."""
    from vdkit.measure.quality import psnr_db

    bench = next(iter(benches.values()))
    latents = bench.latents[:, :, : 1 + (WATCHED_CHUNKS - 1) * config.chunk_size]
    reduced = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # or convolutions round as float16 does
    try:
        expected = _frames(exact(), latents, replace(config, chunk_size=1))
    except torch.OutOfMemoryError as error:  # the timed runs are not lost for it
        say(f"frames are not compared with float32: {str(error).splitlines()[0]}")
        return {}, 0
    finally:
        torch.backends.cudnn.allow_tf32 = reduced
    found: dict[str, float | None] = {}
    for name, one in benches.items():
        made = psnr_db(_frames(one.decoder, latents, config), expected).clip
        found[name] = made if math.isfinite(made) else None
    return found, latents.shape[2]


def _frames(decoder: ChunkDecoder, latents: torch.Tensor, config: DecodeConfig) -> np.ndarray:
    sink = _Kept()
    decode_sync(decoder, latents, sink, config=config, progress=False)
    return np.concatenate(sink.chunks)


class _Kept:
    """A sink that keeps its frames."""

    def open(self, info: VideoInfo) -> None:
        self.chunks: list[np.ndarray] = []

    def write(self, frames: np.ndarray) -> None:
        self.chunks.append(frames.copy())

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


@contextmanager
def _naming(variant: str) -> Iterator[None]:
    """The variant in front of what a decode path says of it."""
    try:
        yield
    except DecodeOutOfMemory as error:
        raise DecodeOutOfMemory(f"variant {variant!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"variant {variant!r}: {error}") from error


def _allocated() -> int:
    """Device bytes that tensors of this process hold."""
    if not torch.cuda.is_initialized():
        return 0
    gc.collect()
    return sum(torch.cuda.memory_allocated(index) for index in range(torch.cuda.device_count()))


def run_ablation(
    decoder: ChunkDecoder,
    latents: torch.Tensor,
    sink_factory: SinkFactory,
    *,
    sink_info: SinkInfo,
    config: DecodeConfig = DecodeConfig(),
    only: Sequence[str] | None = None,
    fps: int | float | str | Fraction = 16,
    runs: int = 8,
    latents_source: str = "given",
    progress: bool = True,
) -> Ablation:
    """Run `ablation_settings` in turns, forwards and backwards, with a fresh sink for each run.

    Each setting first runs once, untimed, into a hash, which proves the frames identical and warms
    the device up.

    Args:
        decoder, latents, config, fps: as for `decode_async`.
        sink_factory, sink_info, latents_source: as for `run_benchmark`.
        only: names of the settings to run besides "all on"; None: all of them.
        runs: timed rounds, 1 or more; below 8 no difference can be called (`decide`).
        progress: show a tqdm bar of runs.

    Raises:
        ValueError: no runs, a name that is no setting; as `ablation_settings`; or bad input as for
            `decode_async`.
    """
    if runs < 1:
        raise ValueError(f"runs is {runs}; use 1 or more")
    settings = ablation_settings(config, decoder.device.type == "cuda")
    if only is not None:
        unknown = [name for name in only if name not in settings]
        if unknown:
            raise ValueError(f"no setting {', '.join(unknown)}; use any of {', '.join(settings)}")
        settings = {name: one for name, one in settings.items() if name in (ALL_ON, *only)}
    bench = Bench(decoder, latents, fps, latents_source=latents_source)
    made: dict[str, list[Run]] = {name: [] for name in settings}
    hashes = []
    with progress_bar(len(settings) * (1 + runs), progress) as advance, _quick_collections():
        for one in settings.values():
            hashes.append(bench.frame_hash(one.mode, one.config))
            advance()
        for number in range(runs):
            turn = list(enumerate(settings.items()))
            for place, (name, one) in turn if number % 2 == 0 else reversed(turn):
                with sink_factory(f"ablation-{place}-{number:03d}") as sink:
                    made[name].append(bench.run(one.mode, number, sink, one.config))
                advance()
    driver = bench.nvml.driver if bench.nvml else None
    return Ablation(
        provenance=collect_provenance(decoder.device, driver),
        workload=bench.workload,
        config=config,
        sink=sink_info,
        arms=_arms(settings, made),
        frames_identical=len(set(hashes)) == 1 if len(hashes) > 1 else None,
    )


@contextmanager
def _quick_collections() -> Iterator[None]:
    """Have collections look at new objects only.

    One is made before each of many runs, and would take longer than a short run where a notebook
    has filled the process.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _arms(settings: Mapping[str, Setting], made: Mapping[str, Sequence[Run]]) -> dict[str, Arm]:
    latencies = {name: [run.latency_s for run in runs] for name, runs in made.items()}
    return {
        name: Arm(
            setting=one,
            runs=tuple(made[name]),
            latency_s=summarize(latencies[name]),
            decision=None
            if name == ALL_ON
            else decide(latencies[ALL_ON], latencies[name], paired=True),
        )
        for name, one in settings.items()
    }
