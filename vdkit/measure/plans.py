"""What to compare, as plans of arms: paths, variants of a decoder, or primitives off one by one."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import numpy as np
import torch

from vdkit.decode import ChunkDecoder, Progress
from vdkit.decode.chunks import PRIMITIVES, DecodeConfig
from vdkit.decode.job import DecodeOutOfMemory
from vdkit.decode.paths import decode_sync
from vdkit.measure.study import (
    MODES,
    ArmPlan,
    Bench,
    SinkFactory,
    check_modes,
    check_rounds,
    measure,
    recording_of,
)
from vdkit.record.recording import Recording, usual_baseline
from vdkit.record.runs import SinkInfo
from vdkit.sinks import MemorySink, SinkSpec
from vdkit.trace.figures import FamilyShare, steady_families

WATCHED_CHUNKS = 5
"""How much of the video is compared with float32: enough for every step to have been in use."""
ALL_ON, ONE_SLOT, NONE, NONE_UINT8 = (
    "all on",
    "one slot",
    "none (sync)",
    "none (sync), uint8 on the GPU",
)
CUDA_ONLY = frozenset({"pinned_memory", "copy_stream"})
"""Primitives that exist on CUDA only: elsewhere the same code runs with them on or off."""


def run_benchmark(
    decoder: ChunkDecoder,
    latents: torch.Tensor,
    sink_factory: SinkFactory,
    *,
    sink_info: SinkInfo | None = None,
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
    extra: Callable[[ArmPlan], dict[str, ArmPlan]] = lambda first: {},
    progress: Progress = True,
    cancel: threading.Event | None = None,
) -> Recording:
    """Run decode paths in turns (A B B A ...) and record everything: `vdkit.measure.study.measure`.

    Args:
        decoder, latents, config, fps: as for `decode_async`.
        sink_factory: gives the sink of one run, and removes its output after.
        sink_info: how the record describes the sink; None: as `described` does.
        modes: keys of `MODES`.
        baseline: the mode that speed-ups are against; None: the first of sync, diffusers, async,
            compute_only.
        runs, warmup: timed and untimed rounds; warm-up runs are kept apart in the record.
        source, latents_source, seed, label, command, setup_s: for the record only.
        extra: is given the first arm's plan, and gives further arms, as copies with changes.
        progress: True for a tqdm bar of runs, False for none, or a callable (frames decoded, frames
            to decode in all), called on this thread as chunks of every run are written: it should
            take no time.
        cancel: set it to stop within a chunk.

    Raises:
        DecodeCancelled: ``cancel`` was set.
        ValueError: unknown or repeated mode, no runs, a baseline that does not run; or bad input as
            for `decode_async`.
    """
    check_modes(modes, baseline)
    check_rounds(runs, warmup)
    bench = Bench(decoder, latents, fps, source, latents_source, seed, setup_s)
    bench.cancel = cancel
    info = sink_info or described(sink_factory)
    plans = {mode: ArmPlan(bench, mode, config, sink_factory, info) for mode in modes}
    plans |= extra(plans[modes[0]])
    measured = measure(plans, runs, warmup, progress=progress)
    return recording_of(measured, "bench", baseline or usual_baseline(plans), label, command)


SYNC_UINT8, AS_WRITTEN = "sync, uint8 on the GPU", "diffusers, export_to_video"


def headline_arms(
    modes: Sequence[str], export: tuple[SinkFactory, SinkInfo] | None = None
) -> Callable[[ArmPlan], dict[str, ArmPlan]]:
    """Arms that say what a ratio of the paths is made of, for ``extra`` of `run_benchmark`.

    ``sync, uint8 on the GPU``: how much of what async gains is the conversion, and not overlap.
    ``diffusers, export_to_video``: an MP4 as a diffusers user writes it; its frames, which it
    truncates, are exempt from the comparison.

    Args:
        export: a sink of kind ``export_to_video``; None: the sink is no MP4.
    """

    def arms(first: ArmPlan) -> dict[str, ArmPlan]:
        made = {}
        if {"sync", "async"} <= set(modes) and first.bench.decoder.device.type == "cuda":
            config = replace(first.config, sync_uint8_on_gpu=True)
            made[SYNC_UINT8] = replace(first, mode="sync", config=config)
        if export is not None and "diffusers" in modes:
            sink, info = export
            made[AS_WRITTEN] = replace(
                first, mode="diffusers", sink=sink, sink_info=info, hashed=False
            )
        return made

    return arms


def described(sink_factory: SinkFactory) -> SinkInfo:
    """For the record: what a `SinkSpec` says of itself, any other sink by the name of its class."""
    spec = getattr(sink_factory, "__self__", None)
    if isinstance(spec, SinkSpec):
        return SinkInfo(**spec.describe())
    with sink_factory("described") as sink:
        return SinkInfo(kind=type(sink).__name__, storage=None)


Variants = Sequence[tuple[str, Callable[[], ChunkDecoder]]]
"""Names, as records call them, and how to get each decoder."""


def run_variants(
    variants: Variants,
    latents_for: Callable[[ChunkDecoder], torch.Tensor],
    sink_factory: SinkFactory,
    *,
    sink_info: SinkInfo | None = None,
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
) -> Recording:
    """Get every variant, then run all their modes in turns (A B B A over variant and mode).

    Args:
        variants: the first is what the others are compared with.
        latents_for: gives the latents for the first decoder; all decode the same.
        sink_factory, sink_info, config, fps, runs, warmup: as for `run_benchmark`.
        modes: of every variant; ``diffusers`` is skipped for those without ``decode_video``.
        baseline: the mode that speed-ups within a variant are against; None: as `run_benchmark`.
        source, latents_source, seed, label, command: for the record only.
        families: afterwards profile one ``compute_only`` run of each variant, on CUDA.
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
    if wrong := [name for name in names if not name or "/" in name]:
        raise ValueError(f"variant {wrong[0]!r}: give a name without a slash")
    check_modes(modes, baseline)
    check_rounds(runs, warmup)
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
    info = sink_info or described(sink_factory)
    plans: dict[str, ArmPlan] = {}
    skipped: dict[str, tuple[str, ...]] = {}
    for name, bench in benches.items():
        if bench.decoder.device.type == "cuda":
            bench.other_bytes = sum(size for other, size in own.items() if other != name)
        there = [m for m in modes if m != "diffusers" or hasattr(bench.decoder, "decode_video")]
        if len(there) < len(modes):
            skipped[name] = ("diffusers",)
            say(f"{name}: mode diffusers is skipped, this decoder decodes by chunk only")
        if not there:
            raise ValueError(
                f"variant {name!r} decodes by chunk only; add sync, async or compute_only"
            )
        words = partial(_naming, name, guard)
        for mode in there:
            plans[f"{name}/{mode}"] = ArmPlan(bench, mode, config, sink_factory, info, guard=words)
    measured = measure(plans, runs, warmup, progress=progress)
    first = [plan.mode for key, plan in plans.items() if key.startswith(f"{names[0]}/")]
    shares: Mapping[str, tuple[FamilyShare, ...]] = {}
    if families:
        shares, why = _families(benches, config)
        if why:
            say(f"no kernel families: {why}")
    psnr_db, length = _psnr_db(benches, exact, config, say) if exact else ({}, 0)
    chosen = baseline if baseline in first else usual_baseline(dict.fromkeys(first))
    return recording_of(
        measured,
        "variants",
        f"{names[0]}/{chosen}",
        label,
        command,
        skipped=skipped,
        psnr_db=psnr_db,
        psnr_latent_frames=length,
        families=shares,
    )


@contextmanager
def _naming(variant: str, guard: Callable[[str], AbstractContextManager[None]]) -> Iterator[None]:
    """``guard``, and the variant in front of what a decode path says of it."""
    try:
        with guard(variant):
            yield
    except DecodeOutOfMemory as error:
        raise DecodeOutOfMemory(f"variant {variant!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"variant {variant!r}: {error}") from error


def _families(
    benches: Mapping[str, Bench], config: DecodeConfig
) -> tuple[dict[str, tuple[FamilyShare, ...]], str | None]:
    """Profile one run of each; or why there is nothing to show."""
    from vdkit.measure.profiler import profile_run

    found = {}
    for name, bench in benches.items():
        if bench.decoder.device.type != "cuda":
            return {}, "a CPU has no kernels"
        gc.collect()
        try:
            timeline = profile_run(
                "compute_only", bench.decoder, bench.latents, MemorySink(), fps=bench.fps,
                config=config,
            )  # fmt: skip
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
    sink = MemorySink()
    decode_sync(decoder, latents, sink, config=config, progress=False)
    return sink.frames


def _allocated() -> int:
    """Device bytes that tensors of this process hold."""
    if not torch.cuda.is_initialized():
        return 0
    gc.collect()
    return sum(torch.cuda.memory_allocated(index) for index in range(torch.cuda.device_count()))


@dataclass(frozen=True, slots=True)
class AblationArm:
    """One way to decode: mode and configuration, and whether it is the code of "all on" here."""

    mode: str
    config: DecodeConfig
    same_code: bool = False


def ablation_settings(config: DecodeConfig, on_gpu: bool) -> dict[str, AblationArm]:
    """All on, then each primitive off alone, one slot, and none of them (`decode_sync`).

    And once more none, but the conversion to uint8 on the GPU: what lies between that and "all on"
    is overlap.

    Args:
        config: chunk size and slots; every primitive has to be on.
        on_gpu: whether the decoder is on CUDA.

    Raises:
        ValueError: a primitive is off already, or there is no second slot to take away.
    """
    off = [words for name, words in PRIMITIVES.items() if not getattr(config, name)]
    if off:
        raise ValueError(f"off already: {', '.join(off)}; begin with every primitive on")
    if config.slots < 2:
        raise ValueError(f"slots is {config.slots}; use 2 or more, so that one can be taken away")
    settings = {ALL_ON: AblationArm("async", config)}
    for name, words in PRIMITIVES.items():
        same = name in CUDA_ONLY and not on_gpu
        settings[f"no {words}"] = AblationArm("async", replace(config, **{name: False}), same)
    settings[ONE_SLOT] = AblationArm("async", replace(config, slots=1))
    settings[NONE] = AblationArm("sync", config)
    settings[NONE_UINT8] = AblationArm("sync", replace(config, sync_uint8_on_gpu=True))
    return settings


def run_ablation(
    decoder: ChunkDecoder,
    latents: torch.Tensor,
    sink_factory: SinkFactory,
    *,
    sink_info: SinkInfo | None = None,
    config: DecodeConfig = DecodeConfig(),
    only: Sequence[str] | None = None,
    fps: int | float | str | Fraction = 16,
    runs: int = 8,
    source: str | None = None,
    latents_source: str = "given",
    seed: int = 0,
    label: str = "ablation",
    command: str | None = None,
    setup_s: float | None = None,
    progress: bool = True,
) -> Recording:
    """What each primitive of `decode_async` buys: switched off one at a time, all in turns.

    A design with five ingredients invites belief. A difference from "all on" is called only as
    `vdkit compare` calls one, so that an ingredient that buys nothing is seen too.

    Args:
        decoder, latents, config, fps: as for `decode_async`.
        sink_factory, sink_info: as for `run_benchmark`.
        only: names of the settings to run besides "all on"; None: all of them.
        runs: timed rounds, 1 or more; below 8 no difference can be called (`decide`).
        source, latents_source, seed, label, command, setup_s: for the record only.
        progress: show a tqdm bar of runs.

    Raises:
        ValueError: no runs, a name that is no setting; as `ablation_settings`; or bad input as for
            `decode_async`.
    """
    check_rounds(runs, 0)
    settings = ablation_settings(config, decoder.device.type == "cuda")
    if only is not None:
        unknown = [name for name in only if name not in settings]
        if unknown:
            raise ValueError(f"no setting {', '.join(unknown)}; use any of {', '.join(settings)}")
        settings = {name: one for name, one in settings.items() if name in (ALL_ON, *only)}
    bench = Bench(decoder, latents, fps, source, latents_source, seed, setup_s)
    info = sink_info or described(sink_factory)
    plans = {
        name: ArmPlan(bench, one.mode, one.config, sink_factory, info, one.same_code)
        for name, one in settings.items()
    }
    measured = measure(plans, runs, 0, progress=progress)
    return recording_of(measured, "ablation", ALL_ON, label, command)
