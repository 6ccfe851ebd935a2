"""The A/A control: does the comparison call a difference where there is none, and find a real one?

One setting runs against itself, and against itself with real work planted after every chunk. A
comparison that has not been seen to stay quiet and to speak up is an opinion.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from vdkit.decode.chunks import FIRST_STEADY_CHUNK, DecodeConfig
from vdkit.decode.protocols import ChunkDecoder
from vdkit.measure.study import MODES, Bench, SinkFactory, progress_bar
from vdkit.record.judge import check_draws, judge
from vdkit.record.old_aa import ARMS, Calibration, ControlResult, MetricControl, Plan
from vdkit.record.recording import BenchmarkResult, Run, SinkInfo

WARMUP = 1
PRODUCTS_TIMED, TIMINGS = 20, 9
# On a GPU one product lasts far longer than its launch; on a CPU it is a fraction of a small plant.
MATRICES = {"cuda": (4096, torch.float16), "cpu": (192, torch.float32)}


def default_plant_percent(device: torch.device) -> float:
    """2 % of a chunk's decode on a GPU, 5 % on a CPU, whose timing scatters more."""
    return 2.0 if device.type == "cuda" else 5.0


class PlantedDecoder:
    """A decoder that does needless work behind every chunk, and gives the same frames.

    The work is matrix products on the decoder's device and stream, so that it delays what comes
    after as a slower kernel would. Each latent frame has its share of products, the first one,
    which a causal decoder has sooner, a smaller one; a share that is not whole is made up over the
    frames after it.

    Args:
        decoder: any `ChunkDecoder`.
        products_per_latent_frame: 0 or more; may be changed between runs.
        first_share: of the first latent frame, as a part of what the others have.
    """

    def __init__(
        self,
        decoder: ChunkDecoder,
        products_per_latent_frame: float = 0.0,
        first_share: float = 1.0,
    ) -> None:
        self._decoder = decoder
        self.products_per_latent_frame = products_per_latent_frame
        self.first_share = first_share
        kind = decoder.device.type
        self.size, self.matrix_dtype = MATRICES.get(kind, MATRICES["cpu"])
        random = torch.Generator(decoder.device).manual_seed(0)
        self._left, self._right, self._product = (
            torch.randn(
                self.size, self.size,
                generator=random, dtype=self.matrix_dtype, device=decoder.device,
            )
            for _ in range(3)
        )  # fmt: skip
        if kind == "cuda":  # filled on this stream, but read on those of the decode paths
            torch.cuda.current_stream(decoder.device).synchronize()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def decode_chunk(self, state: Any, start: int, stop: int) -> torch.Tensor:
        frames = self._decoder.decode_chunk(state, start, stop)
        self.work(self.products_until(stop) - self.products_until(start))
        return frames

    def products_until(self, latent_frame: int) -> int:
        """Products planted before this latent frame."""
        shares = latent_frame - 1 + self.first_share if latent_frame else 0.0
        return math.floor(self.products_per_latent_frame * shares)

    @torch.no_grad()
    def work(self, products: int) -> None:
        """Multiply on the current stream, without waiting for it."""
        for _ in range(products):
            torch.mm(self._left, self._right, out=self._product)


def time_product(planted: PlantedDecoder) -> float:
    """Median time of one product, s: by CUDA events on a GPU, by the clock elsewhere."""
    on_gpu = planted.device.type == "cuda"
    planted.work(PRODUCTS_TIMED)
    times_s = []
    for _ in range(TIMINGS):
        if on_gpu:
            with torch.cuda.device(planted.device):
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                first.record()
                planted.work(PRODUCTS_TIMED)
                last.record()
                last.synchronize()
                times_s.append(first.elapsed_time(last) / 1e3)
        else:
            start_s = time.perf_counter()
            planted.work(PRODUCTS_TIMED)
            times_s.append(time.perf_counter() - start_s)
    return statistics.median(times_s) / PRODUCTS_TIMED


def chunk_seconds(run: Run) -> tuple[float, float]:
    """Decode time of the first chunk, and the median of the steady ones, s.

    The median is of all but the first if there are no steady ones, of the first if it is alone.
    """
    spans = [
        chunk.decode_done_s - chunk.decode_start_s
        for chunk in run.chunks
        if chunk.decode_done_s is not None and chunk.decode_start_s is not None
    ]
    return spans[0], statistics.median(spans[FIRST_STEADY_CHUNK:] or spans[1:] or spans)


def calibrate(
    planted: PlantedDecoder,
    first_s: float,
    chunk_s: float,
    plant_percent: float,
    chunk_size: int,
    frames: int,
) -> Calibration:
    """Set the products of ``planted`` to last ``plant_percent`` of the decode of every chunk.

    Args:
        first_s, chunk_s: decode time of the first latent frame, and of ``chunk_size`` others, s.
        frames: latent frames of the video.

    Raises:
        ValueError: one product is longer than half of the work to plant, so that it cannot be
            dosed.
    """
    product_s = time_product(planted)
    wanted_s = chunk_s * plant_percent / 100
    if product_s > wanted_s / 2:
        least = 200 * product_s / chunk_s
        raise ValueError(
            f"plant is {plant_percent:g} % of a chunk's {chunk_s * 1e3:.3g} ms, which is "
            f"{wanted_s * 1e3:.3g} ms, but one product of {planted.size}x{planted.size} matrices "
            f"takes {product_s * 1e3:.3g} ms: plant {math.ceil(least * 1.1):g} % or more, or "
            "decode larger frames or chunks"
        )
    planted.products_per_latent_frame = wanted_s / product_s / chunk_size
    planted.first_share = first_s * chunk_size / chunk_s
    return Calibration(
        matrix_size=planted.size,
        matrix_dtype=str(planted.matrix_dtype).removeprefix("torch."),
        product_s=product_s,
        first_s=first_s,
        chunk_s=chunk_s,
        products_per_latent_frame=planted.products_per_latent_frame,
        products=planted.products_until(frames),
    )


@dataclass(frozen=True, slots=True)
class Control:
    """What `run_control` gives: the record, and the runs of each of `ARMS`."""

    result: ControlResult
    arms: dict[str, BenchmarkResult]


def check_control(
    mode: str, rounds: int, pairs: int, splits: int, plant_percent: float | None
) -> None:
    """ValueError, with what is allowed, for a plan that cannot be run or could say nothing."""
    if mode not in MODES or mode == "diffusers":
        raise ValueError(
            f"mode {mode!r} cannot be controlled: use one of sync, async, compute "
            "(diffusers decodes whole videos, and work is planted after chunks)"
        )
    check_draws(rounds, pairs, splits)
    if plant_percent is not None and not 0 < plant_percent <= 1000:
        raise ValueError(f"plant is {plant_percent:g} %; use more than 0 and up to 1000")


def run_control(
    decoder: ChunkDecoder,
    latents: torch.Tensor,
    sink_factory: SinkFactory,
    *,
    sink_info: SinkInfo,
    mode: str = "async",
    rounds: int = 40,
    pairs: int = 10,
    splits: int = 40,
    plant_percent: float | None = None,
    config: DecodeConfig = DecodeConfig(),
    fps: int | float | str | Fraction = 16,
    source: str | None = None,
    latents_source: str = "given",
    seed: int = 0,
    label: str = "aa",
    command: str | None = None,
    progress: bool = True,
) -> Control:
    """Run a setting twice, and with planted work, in turns; then judge draws of the rounds.

    Args:
        decoder, latents, config, fps: as for `decode_async`.
        sink_factory, sink_info, source, latents_source, label, command: as for `run_benchmark`.
        mode: sync, async or compute.
        rounds: each runs every arm once, in random order.
        pairs, splits: as for `judge`.
        plant_percent: work planted after each chunk, % of its decode time; None:
            `default_plant_percent`.
        seed: of the orders, draws and swaps; also recorded as that of the latents.
        progress: show a tqdm bar of runs.

    Raises:
        ValueError: a plan as in `check_control`, work that cannot be dosed (see `calibrate`),
            arms whose frames differ; or bad input as for `decode_async`.
    """
    check_control(mode, rounds, pairs, splits, plant_percent)
    percent = default_plant_percent(decoder.device) if plant_percent is None else plant_percent
    planted = PlantedDecoder(decoder)
    plain = Bench(decoder, latents, fps, source, latents_source, seed)
    slow = Bench(planted, latents, fps, source, latents_source, seed)
    benches = {"a": plain, "b": plain, "slow": slow}
    random = np.random.default_rng(seed)
    orders = [tuple(random.permutation(ARMS).tolist()) for _ in range(WARMUP + rounds)]
    runs: dict[str, list[Run]] = {arm: [] for arm in ARMS}
    with progress_bar(len(ARMS) * (1 + len(orders)) + 1, progress) as advance:
        sha256 = {}
        for arm in ("a", "b"):
            sha256[arm] = plain.frame_hash(mode, config)
            advance()
        with sink_factory("calibration") as sink:
            spans_s = chunk_seconds(plain.run(mode, -1, sink, config))
        frames = plain.workload.latent_frames
        calibration = calibrate(planted, *spans_s, percent, config.chunk_size, frames)
        advance()
        sha256["slow"] = slow.frame_hash(mode, config)
        advance()
        _check_frames(sha256)
        for number, order in enumerate(orders, start=-WARMUP):
            for arm in order:
                with sink_factory(f"{arm}-{number + WARMUP:03d}") as sink:
                    runs[arm].append(benches[arm].run(mode, number, sink, config))
                advance()
    arms = {
        arm: benches[arm].result(
            {mode: sha256[arm]}, runs[arm], config=config, sink_info=sink_info,
            baseline=mode, label=f"{label}-{arm}", command=command,
        )
        for arm in ARMS
    }  # fmt: skip
    result = ControlResult(
        label=label,
        command=command,
        provenance=arms["a"].provenance,
        workload=plain.workload,
        config=config,
        sink=sink_info,
        plan=Plan(
            mode=mode, rounds=rounds, warmup=WARMUP, pairs=pairs, splits=splits,
            plant_percent=percent, seed=seed, orders=tuple(orders),
        ),
        calibration=calibration,
        metrics=_judged(arms, mode, pairs, splits, seed),
        throttled={arm: arms[arm].modes[mode].throttled_runs for arm in ARMS},
    )  # fmt: skip
    return Control(result, arms)


def _check_frames(sha256: dict[str, str | None]) -> None:
    if sha256["b"] != sha256["a"]:
        raise ValueError(
            "the decoder gave different frames in two runs of the same setting, so no comparison "
            "of its runs means anything; make it deterministic"
        )
    if sha256["slow"] != sha256["a"]:
        raise ValueError("the planted work changed the frames, so the arms cannot be compared")


def _judged(
    arms: dict[str, BenchmarkResult], mode: str, pairs: int, splits: int, seed: int
) -> dict[str, MetricControl]:
    judged = {}
    for metric in ("latency_s", "ttff_s"):
        values = {
            arm: [getattr(run, metric) for run in result.timed(mode)]
            for arm, result in arms.items()
        }
        if all(value is not None for one in values.values() for value in one):
            judged[metric] = judge(values, pairs, splits, seed)
    return judged
