"""What to compare, as plans of arms: paths, variants, primitives off one by one, planted work."""

from __future__ import annotations

import gc
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Unpack

import torch

from vdkit.decode import ChunkDecoder, Progress
from vdkit.decode.chunks import CUDA_ONLY, FIRST_STEADY_CHUNK, PRIMITIVES, DecodeConfig
from vdkit.decode.engines import seconds_on
from vdkit.decode.job import DecodeOutOfMemory
from vdkit.decode.paths import decode_sync
from vdkit.measure.study import (
    MODES,
    ArmPlan,
    Bench,
    FrameHasher,
    Measured,
    Shared,
    SinkFactory,
    check_modes,
    check_rounds,
    described,
    measure,
)
from vdkit.record.compare import check_draws
from vdkit.record.recording import Planted, Recording, usual_baseline
from vdkit.record.runs import Run
from vdkit.sinks import MemorySink
from vdkit.trace.figures import FamilyShare, steady_families

WATCHED_CHUNKS = 5
"""How much of the video is compared with float32: enough for every step to have been in use."""
ALL_ON, ONE_SLOT, NONE = "all on", "one slot", "none (sync)"
NONE_UINT8 = f"{NONE}, uint8 on the GPU"


def run_benchmark(
    decoder: ChunkDecoder, latents: torch.Tensor, sink_factory: SinkFactory, *,
    modes: Sequence[str] = tuple(MODES), baseline: str | None = None, runs: int = 10,
    warmup: int = 1, extra: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    progress: Progress = True, cancel: threading.Event | None = None, **shared: Unpack[Shared],
) -> Recording:  # fmt: skip
    """Run decode paths in turns (A B B A ...) and record everything: `vdkit.measure.study.measure`.

    Args:
        decoder, latents: as for `decode_async`.
        sink_factory: gives the sink of one run, and removes its output after.
        modes: keys of `MODES`.
        baseline: the mode that speed-ups are against; None: the first of sync, diffusers, async,
            compute_only.
        runs, warmup: timed and untimed rounds; warm-up runs are kept apart in the record.
        extra: further arms by name: their mode and other fields of `vdkit.measure.study.ArmPlan`.
        progress: True for a tqdm bar of runs, False for none, or a callable (frames decoded, frames
            to decode in all), called on this thread as chunks of every run are written: it should
            take no time.
        cancel: set it to stop within a chunk.
        shared: sink_info, config, fps, and what the record says: `vdkit.measure.study.Shared`.

    Raises:
        DecodeCancelled: ``cancel`` was set.
        ValueError: unknown or repeated mode, no runs, a baseline that does not run; or bad input as
            for `decode_async`.
    """
    check_modes(modes, baseline)
    bench = Bench(decoder, latents, sink_factory, **shared)
    bench.cancel = cancel
    plans = {mode: bench.arm(mode) for mode in modes}
    plans |= {name: bench.arm(**fields) for name, fields in extra.items()}
    measured = measure(plans, runs, warmup, progress=progress)
    return measured.recording("bench", baseline or usual_baseline(plans))


SYNC_UINT8, AS_WRITTEN = "sync, uint8 on the GPU", "diffusers, export_to_video"


def headline_arms(
    on_gpu: bool, config: DecodeConfig, modes: Sequence[str], export: SinkFactory | None = None,
    sinks: Sequence[SinkFactory] = (),
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Arms that say what a ratio of the paths is made of, for ``extra`` of `run_benchmark`.

    ``sync, uint8 on the GPU``: how much of what async gains is the conversion, and not overlap.
    ``diffusers, export_to_video``: an MP4 as a diffusers user writes it; its frames, which it
    truncates, are exempt from the comparison. ``async, mp4 encoders=4``: a path into another sink.

    Args:
        export: gives a sink of kind ``export_to_video``; None: the sink is no MP4.
        sinks: further ones, each for all paths.
    """
    made: dict[str, dict[str, Any]] = {}
    if {"sync", "async"} <= set(modes) and on_gpu:
        made[SYNC_UINT8] = {"mode": "sync", "config": replace(config, sync_uint8_on_gpu=True)}
    if export is not None and "diffusers" in modes:
        made[AS_WRITTEN] = {"mode": "diffusers", "sink": export, "hashed": False}
    for sink in sinks:
        info = described(sink)
        words = " ".join([info.kind, *(f"{k}={v}" for k, v in info.options.items())])
        for mode in (mode for mode in modes if mode != "compute_only"):
            made[f"{mode}, {words}"] = {"mode": mode, "sink": sink}
    return made


Variants = Sequence[tuple[str, Callable[[], ChunkDecoder]]]
"""Names, as records call them, and how to get each decoder."""


def run_variants(
    variants: Variants, latents_for: Callable[[ChunkDecoder], torch.Tensor],
    sink_factory: SinkFactory, *, modes: Sequence[str], baseline: str | None = None, runs: int = 10,
    warmup: int = 1, extra: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    families: bool = True, exact: Callable[[], ChunkDecoder] | None = None,
    guard: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
    say: Callable[[str], None] = lambda line: None, progress: bool = True, **shared: Unpack[Shared],
) -> Recording:  # fmt: skip
    """Get every variant, then run all their modes in turns (A B B A over variant and mode).

    Args:
        variants: the first is what the others are compared with.
        latents_for: gives the latents for the first decoder; all decode the same.
        sink_factory, runs, warmup, shared: as for `run_benchmark`.
        modes: of every variant; ``diffusers`` is skipped for those without ``decode_video``.
        baseline: the mode that speed-ups within a variant are against; None: as `run_benchmark`.
        extra: further arms of the first variant, as of `run_benchmark`.
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
            shared["setup_s"] = time.perf_counter() - begun
            latents = latents_for(decoder) if latents is None else latents
            bench = benches[name] = Bench(decoder, latents, sink_factory, **shared)
            bench.prepare(bench.config.chunk_size)
        own[name] = _allocated() - before
        say(f"set-up of {name}: {bench.setup_s:.1f} s")
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
        more = extra if name == names[0] else {}
        plans |= {f"{name}/{arm}": bench.arm(**one, guard=words) for arm, one in more.items()}
        plans |= {f"{name}/{mode}": bench.arm(mode, guard=words) for mode in there}
    measured = measure(plans, runs, warmup, progress=progress)
    first = [mode for mode in modes if f"{names[0]}/{mode}" in plans]
    shares, why = _families(benches) if families else ({}, None)
    if why:
        say(f"no kernel families: {why}")
    psnr_db, length = _psnr_db(benches, exact, say) if exact else ({}, 0)
    chosen = baseline if baseline in first else usual_baseline(dict.fromkeys(first))
    return measured.recording(
        "variants", f"{names[0]}/{chosen}", skipped=skipped, psnr_db=psnr_db,
        psnr_latent_frames=length, families=shares,
    )  # fmt: skip


@contextmanager
def _naming(variant: str, guard: Callable[[str], AbstractContextManager[None]]) -> Iterator[None]:
    """``guard``, and the variant in front of what a decode path says of it."""
    try:
        with guard(variant):
            yield
    except (DecodeOutOfMemory, ValueError) as error:
        kind = DecodeOutOfMemory if isinstance(error, DecodeOutOfMemory) else ValueError
        raise kind(f"variant {variant!r}: {error}") from error


def _families(
    benches: Mapping[str, Bench],
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
                config=bench.config,
            )  # fmt: skip
        except RuntimeError as error:  # the timed runs are not lost for it
            return {}, f"profiling {name} failed: {error}"
        found[name] = steady_families(timeline)
        if not found[name]:
            return {}, "the video is too short for a steady window"
    return found, None


def _psnr_db(
    benches: Mapping[str, Bench], exact: Callable[[], ChunkDecoder], say: Callable[[str], None]
) -> tuple[dict[str, float | None], int]:
    """dB of each variant's first frames against float32, None for equal; of how many latent."""
    bench = next(iter(benches.values()))
    work, latents = bench.workload, bench.latents
    length = work.latent_frames
    if work.medium != "av":  # of which the sound would have to be cut too
        length = min(length, 1 + (WATCHED_CHUNKS - 1) * bench.config.chunk_size)
        latents = latents.narrow(work.kind.axis, 0, length)
    decoded = partial(decode_sync, latents=latents, progress=False)
    expected = MemorySink()
    reduced = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # or convolutions round as float16 does
    try:
        decoded(exact(), sink=expected, config=replace(bench.config, chunk_size=1))
    except torch.OutOfMemoryError as error:  # the timed runs are not lost for it
        say(f"frames are not compared with float32: {str(error).splitlines()[0]}")
        return {}, 0
    finally:
        torch.backends.cudnn.allow_tf32 = reduced
    found: dict[str, float | None] = {}
    for name, one in benches.items():
        decoded(one.decoder, sink=(compared := FrameHasher(expected.frames)), config=one.config)
        squares, _ = compared.error() or (0.0, 0.0)
        found[name] = -10 * math.log10(squares) if squares else None
    return found, length


def _allocated() -> int:
    """Device bytes that tensors of this process hold."""
    if not torch.cuda.is_initialized():
        return 0
    gc.collect()
    return sum(torch.cuda.memory_allocated(index) for index in range(torch.cuda.device_count()))


def ablation_settings(config: DecodeConfig, on_gpu: bool) -> dict[str, dict[str, Any]]:
    """All on, then each primitive off alone, one slot, and none of them (`decode_sync`).

    And once more none, but the conversion to uint8 on the GPU: what lies between that and "all on"
    is overlap. Each by the fields of its `ArmPlan`, ``same_code`` where it runs what "all on" does.

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
    changes: dict[str, tuple[str, dict[str, Any]]] = {ALL_ON: ("async", {})}
    changes |= {f"no {words}": ("async", {name: False}) for name, words in PRIMITIVES.items()}
    changes |= {ONE_SLOT: ("async", {"slots": 1}), NONE: ("sync", {})}
    changes[NONE_UINT8] = ("sync", {"sync_uint8_on_gpu": True})
    return {
        name: {
            "mode": mode, "config": replace(config, **change),
            "same_code": not on_gpu and not change.keys().isdisjoint(CUDA_ONLY),
        }
        for name, (mode, change) in changes.items()
    }  # fmt: skip


def run_ablation(
    decoder: ChunkDecoder, latents: torch.Tensor, sink_factory: SinkFactory, *,
    only: Sequence[str] | None = None, runs: int = 8, progress: bool = True,
    **shared: Unpack[Shared],
) -> Recording:  # fmt: skip
    """What each primitive of `decode_async` buys: switched off one at a time, all in turns.

    A design with five ingredients invites belief. A difference from "all on" is called only as
    `vdkit compare` calls one, so that an ingredient that buys nothing is seen too.

    Args:
        decoder, latents, sink_factory, shared: as for `run_benchmark`.
        only: names of the settings to run besides "all on"; None: all of them.
        runs: timed rounds, 1 or more; below 8 no difference can be called (`decide`).
        progress: show a tqdm bar of runs.

    Raises:
        ValueError: no runs, a name that is no setting; as `ablation_settings`; or bad input as for
            `decode_async`.
    """
    on_gpu = decoder.device.type == "cuda"
    settings = ablation_settings(shared.get("config", DecodeConfig()), on_gpu)
    chosen = list(settings) if only is None else [ALL_ON, *only]
    if unknown := [name for name in chosen if name not in settings]:
        raise ValueError(f"no setting {', '.join(unknown)}; use any of {', '.join(settings)}")
    bench = Bench(decoder, latents, sink_factory, **shared)
    plans = {name: bench.arm(**one) for name, one in settings.items() if name in chosen}
    return measure(plans, runs, 0, progress=progress).recording("ablation", ALL_ON)


PRODUCTS_TIMED, TIMINGS = 20, 9
# On a GPU one product lasts far longer than its launch; on a CPU it is a fraction of a small plant.
MATRICES = {"cuda": (4096, torch.float16), "cpu": (192, torch.float32)}


class PlantedDecoder:
    """A decoder that does needless work behind every chunk, and gives the same frames.

    The work is matrix products on the decoder's device and stream, so that it delays what comes
    after as a slower kernel would. Each latent frame has its share of products, the first one,
    which a causal decoder has sooner, a smaller one; a share that is not whole is made up over the
    frames after it.

    Args:
        decoder: any `ChunkDecoder`.
        products_per_latent_frame: 0 or more; may be changed between runs, as ``first_share`` may:
            of the first latent frame, as a part of what the others have.
    """

    def __init__(self, decoder: ChunkDecoder, products_per_latent_frame: float = 0.0) -> None:
        self._decoder = decoder
        self.products_per_latent_frame = products_per_latent_frame
        self.first_share, self.done = 1.0, 0
        device = decoder.device
        self.size, self.matrix_dtype = MATRICES.get(device.type, MATRICES["cpu"])
        random, shape = torch.Generator(device).manual_seed(0), (self.size, self.size)
        self._left, self._right, self._product = (
            torch.randn(shape, generator=random, dtype=self.matrix_dtype, device=device)
            for _ in range(3)
        )
        if hasattr(decoder, "decode_into"):  # or the paths would go past the work
            self.decode_into = self._decode_into
        if device.type == "cuda":  # filled on this stream, but read on those of the decode paths
            torch.cuda.current_stream(device).synchronize()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def decode_chunk(self, state: Any, start: int, stop: int) -> torch.Tensor:
        frames = self._decoder.decode_chunk(state, start, stop)
        self.work(self.products_until(stop) - self.products_until(start))
        return frames

    def _decode_into(self, state: Any, start: int, stop: int, out: torch.Tensor) -> Any:
        flag = self._decoder.decode_into(state, start, stop, out)  # type: ignore[attr-defined]
        self.work(self.products_until(stop) - self.products_until(start))
        return flag

    def products_until(self, latent_frame: int) -> int:
        """Products planted before this latent frame."""
        shares = latent_frame - 1 + self.first_share if latent_frame else 0.0
        return math.floor(self.products_per_latent_frame * shares)

    @torch.no_grad()
    def work(self, products: int) -> None:
        """Multiply on the current stream, without waiting for it."""
        for _ in range(products):
            torch.mm(self._left, self._right, out=self._product)
        self.done += products


def time_product(planted: PlantedDecoder) -> float:
    """Median time of one product, s: by CUDA events on a GPU, by the clock elsewhere."""
    seconds = seconds_on(planted.device, lambda: planted.work(PRODUCTS_TIMED), 1 + TIMINGS)
    return statistics.median(seconds[1:]) / PRODUCTS_TIMED


def chunk_seconds(run: Run) -> tuple[float, float]:
    """Decode time of the first chunk, and the median of the steady ones, s.

    The median is of all but the first if there are no steady ones, of the first if it is alone.
    """
    spans = [span_s for chunk in run.chunks if (span_s := chunk.span_s("decode")) is not None]
    return spans[0], statistics.median(spans[FIRST_STEADY_CHUNK:] or spans[1:] or spans)


def calibrate(
    planted: PlantedDecoder, first_s: float, chunk_s: float, percent: float, chunk_size: int,
    frames: int,
) -> dict[str, Any]:  # fmt: skip
    """Set the products of ``planted`` to last ``percent`` of the decode of every chunk.

    Args:
        first_s, chunk_s: decode time of the first latent frame, and of ``chunk_size`` others, s.
        frames: latent frames of the video.

    Returns:
        What `Planted` records of it.

    Raises:
        ValueError: one product is longer than half of the work to plant, so that it cannot be
            dosed.
    """
    product_s = time_product(planted)
    wanted_s = chunk_s * percent / 100
    if product_s > wanted_s / 2:
        least = 200 * product_s / chunk_s
        raise ValueError(
            f"plant is {percent:g} % of a chunk's {chunk_s * 1e3:.3g} ms, which is "
            f"{wanted_s * 1e3:.3g} ms, but one product of {planted.size}x{planted.size} matrices "
            f"takes {product_s * 1e3:.3g} ms: plant {math.ceil(least * 1.1):g} % or more, or "
            "decode larger frames or chunks"
        )
    planted.products_per_latent_frame = wanted_s / product_s / chunk_size
    planted.first_share = first_s * chunk_size / chunk_s
    return {
        "matrix_size": planted.size, "product_s": product_s, "first_s": first_s,
        "matrix_dtype": str(planted.matrix_dtype).removeprefix("torch."), "chunk_s": chunk_s,
        "products_per_latent_frame": planted.products_per_latent_frame,
        "products": planted.products_until(frames),
    }  # fmt: skip


def check_plant(mode: str, rounds: int, pairs: int, splits: int, percent: float | None) -> None:
    """ValueError, with what is allowed, for a plan that cannot be run or could say nothing."""
    if mode not in MODES or mode == "diffusers":
        raise ValueError(
            f"mode {mode!r} cannot be controlled: use one of sync, async, compute_only "
            "(diffusers decodes whole videos, and work is planted after chunks)"
        )
    check_draws(rounds, pairs, splits)
    if percent is not None and not 0 < percent <= 1000:
        raise ValueError(f"plant is {percent:g} %; use more than 0 and up to 1000")


def run_aa(
    decoder: ChunkDecoder, latents: torch.Tensor, sink_factory: SinkFactory, *, mode: str = "async",
    rounds: int = 40, pairs: int = 10, splits: int = 40, plant_percent: float | None = None,
    progress: bool = True, **shared: Unpack[Shared],
) -> Recording:  # fmt: skip
    """Does the comparison find work planted behind every chunk, and stay quiet where there is none?

    Runs a setting twice, ``a`` and ``b``, and with planted work, ``slow``, in random turns.
    `vdkit.record.compare.judge` then asks, over and over, about rounds drawn at random. A
    comparison that has not been seen to stay quiet and to speak up is an opinion.

    Args:
        decoder, latents, sink_factory, shared: as for `run_benchmark`; ``seed`` is also that of the
            orders, draws and swaps.
        mode: sync, async or compute_only.
        rounds: each runs every arm once, in random order.
        pairs, splits: as for `judge`.
        plant_percent: work planted after each chunk, % of its decode time; None: 2 on a GPU, and 5
            on a CPU, whose timing scatters more.
        progress: show a tqdm bar of runs.

    Raises:
        ValueError: a plan as in `check_plant`, work that cannot be dosed (see `calibrate`),
            arms whose frames differ; or bad input as for `decode_async`.
        RuntimeError: the planted work did not run as often as it should.
    """
    check_plant(mode, rounds, pairs, splits, plant_percent)
    usual = 2.0 if decoder.device.type == "cuda" else 5.0
    percent = usual if plant_percent is None else plant_percent
    planted = PlantedDecoder(decoder)
    plain = Bench(decoder, latents, sink_factory, **shared)
    slow = Bench(planted, latents, sink_factory, **shared)
    plans = {"a": plain.arm(mode), "b": plain.arm(mode), "slow": slow.arm(mode)}
    made: dict[str, Any] = {}
    turns: list[tuple[str, int]] = []

    def before_rounds(measured: Measured) -> None:
        with sink_factory("calibration") as sink:
            spans_s = chunk_seconds(plain.run(mode, -1, sink, plain.config))
        count = plain.workload.latent_frames
        made.update(calibrate(planted, *spans_s, percent, plain.config.chunk_size, count))
        measured.seen["slow"] = slow.hashed(mode, slow.config)
        found = {name: seen.frame_sha256 for name, seen in measured.seen.items()}
        if found["b"] != found["a"]:
            raise ValueError(
                "the decoder gave different frames in two runs of the same setting, so no "
                "comparison of its runs means anything; make it deterministic"
            )
        if found["slow"] != found["a"]:
            raise ValueError("the planted work changed the frames, so the arms cannot be compared")
        planted.done = 0

    def after_run(arm: str, run: Run) -> None:
        turns.append((arm, planted.done))
        planted.done = 0

    seed = shared.get("seed", 0)
    measured = measure(
        plans, rounds, 1, order="random", seed=seed, progress=progress,
        before_rounds=before_rounds, after_run=after_run,
    )  # fmt: skip
    names, many = [arm for arm, _ in turns], len(plans)
    done = tuple(count for arm, count in turns[many:] if arm == "slow")  # but for the warm-up
    if any(count != made["products"] for count in done):
        raise RuntimeError(
            f"{made['products']} products were to run behind the chunks of every slow run, "
            f"{min(done)} to {max(done)} did; the decoder has a way past decode_chunk"
        )
    orders = tuple(tuple(names[at : at + many]) for at in range(0, len(names), many))
    record = Planted(
        pairs=pairs, splits=splits, percent=percent, seed=seed, orders=orders, done=done,
        **made,
    )  # fmt: skip
    return measured.recording("aa", "a", planted=record)
