"""What each primitive of `decode_async` buys: switched off one at a time, everything in turns.

A design with five ingredients invites belief. Here each is taken away alone, the runs are
interleaved, and a difference from "all on" is called only as `vdkit compare` calls one, so that an
ingredient that buys nothing is seen too.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING

from vdkit.decode.chunks import DecodeConfig
from vdkit.measure.ablation_records import ALL_ON, Ablation, Arm, Setting, ablation_settings
from vdkit.measure.bench import Bench, SinkFactory, progress_bar
from vdkit.measure.provenance import collect_provenance
from vdkit.measure.stats import decide, summarize

if TYPE_CHECKING:
    import torch

    from vdkit.decode.protocols import ChunkDecoder
    from vdkit.measure.records import Run, SinkInfo


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
