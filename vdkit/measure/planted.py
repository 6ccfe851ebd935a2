"""Work planted behind every chunk: does the comparison find it, and stay quiet where there is none?

One setting runs against itself, and against itself with real work planted. A comparison that has
not been seen to stay quiet and to speak up is an opinion.
"""

from __future__ import annotations

import math
import statistics
import time
from fractions import Fraction
from typing import Any

import torch

from vdkit.decode import ChunkDecoder
from vdkit.decode.chunks import FIRST_STEADY_CHUNK, DecodeConfig
from vdkit.measure.plans import described
from vdkit.measure.study import MODES, ArmPlan, Bench, Measured, SinkFactory, measure, recording_of
from vdkit.record.compare import check_draws
from vdkit.record.recording import Planted, Recording
from vdkit.record.runs import Run, SinkInfo

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
        self.done = 0
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
        if hasattr(decoder, "decode_into"):  # or the paths would go past the work
            self.decode_into = self._decode_into
        if kind == "cuda":  # filled on this stream, but read on those of the decode paths
            torch.cuda.current_stream(decoder.device).synchronize()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def decode_chunk(self, state: Any, start: int, stop: int) -> torch.Tensor:
        frames = self._decoder.decode_chunk(state, start, stop)
        self._plant(start, stop)
        return frames

    def _decode_into(self, state: Any, start: int, stop: int, out: torch.Tensor) -> Any:
        flag = self._decoder.decode_into(state, start, stop, out)  # type: ignore[attr-defined]
        self._plant(start, stop)
        return flag

    def _plant(self, start: int, stop: int) -> None:
        self.work(self.products_until(stop) - self.products_until(start))

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
    percent: float,
    chunk_size: int,
    frames: int,
) -> dict[str, Any]:
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
        "matrix_size": planted.size,
        "matrix_dtype": str(planted.matrix_dtype).removeprefix("torch."),
        "product_s": product_s,
        "first_s": first_s,
        "chunk_s": chunk_s,
        "products_per_latent_frame": planted.products_per_latent_frame,
        "products": planted.products_until(frames),
    }


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
    decoder: ChunkDecoder,
    latents: torch.Tensor,
    sink_factory: SinkFactory,
    *,
    sink_info: SinkInfo | None = None,
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
    setup_s: float | None = None,
    progress: bool = True,
) -> Recording:
    """Run a setting twice, ``a`` and ``b``, and with planted work, ``slow``, in random turns.

    `vdkit.record.compare.judge` then asks, over and over, about rounds drawn at random.

    Args:
        decoder, latents, config, fps: as for `decode_async`.
        sink_factory, sink_info, source, latents_source, label, command: as for `run_benchmark`.
        mode: sync, async or compute_only.
        rounds: each runs every arm once, in random order.
        pairs, splits: as for `judge`.
        plant_percent: work planted after each chunk, % of its decode time; None:
            `default_plant_percent`.
        seed: of the orders, draws and swaps; also recorded as that of the latents.
        progress: show a tqdm bar of runs.

    Raises:
        ValueError: a plan as in `check_plant`, work that cannot be dosed (see `calibrate`),
            arms whose frames differ; or bad input as for `decode_async`.
        RuntimeError: the planted work did not run as often as it should.
    """
    check_plant(mode, rounds, pairs, splits, plant_percent)
    percent = default_plant_percent(decoder.device) if plant_percent is None else plant_percent
    planted = PlantedDecoder(decoder)
    plain = Bench(decoder, latents, fps, source, latents_source, seed, setup_s)
    slow = Bench(planted, latents, fps, source, latents_source, seed, setup_s)
    info = sink_info or described(sink_factory)
    plans = {
        arm: ArmPlan(bench, mode, config, sink_factory, info)
        for arm, bench in (("a", plain), ("b", plain), ("slow", slow))
    }
    made: dict[str, Any] = {}
    turns: list[str] = []
    done: list[int] = []

    def before_rounds(measured: Measured) -> None:
        with sink_factory("calibration") as sink:
            spans_s = chunk_seconds(plain.run(mode, -1, sink, config))
        count = plain.workload.latent_frames
        made.update(calibrate(planted, *spans_s, percent, config.chunk_size, count))
        measured.sha256["slow"] = slow.frame_hash(mode, config)
        _check_frames(measured.sha256)
        planted.done = 0

    def after_run(arm: str, run: Run) -> None:
        turns.append(arm)
        if arm == "slow" and not run.warmup:
            done.append(planted.done)
        planted.done = 0

    measured = measure(
        plans, rounds, WARMUP, order="random", seed=seed, progress=progress,
        before_rounds=before_rounds, after_run=after_run,
    )  # fmt: skip
    if any(count != made["products"] for count in done):
        raise RuntimeError(
            f"{made['products']} products were to run behind the chunks of every slow run, "
            f"{min(done)} to {max(done)} did; the decoder has a way past decode_chunk"
        )
    orders = tuple(tuple(turns[at : at + len(plans)]) for at in range(0, len(turns), len(plans)))
    record = Planted(
        pairs=pairs, splits=splits, percent=percent, seed=seed, orders=orders, done=tuple(done),
        **made,
    )  # fmt: skip
    return recording_of(measured, "aa", "a", label, command, planted=record)


def _check_frames(sha256: dict[str, str | None]) -> None:
    if sha256["b"] != sha256["a"]:
        raise ValueError(
            "the decoder gave different frames in two runs of the same setting, so no comparison "
            "of its runs means anything; make it deterministic"
        )
    if sha256["slow"] != sha256["a"]:
        raise ValueError("the planted work changed the frames, so the arms cannot be compared")
