"""``vdkit recommend``: chunk size and slots within limits, from recorded runs. No torch, no GPU."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.money import PRICE
from vdkit.cli.sweep import numbers

if TYPE_CHECKING:
    from vdkit.decode.chunks import VideoInfo
    from vdkit.measure.costs import StageCosts


def add_recommend(commands: Any) -> None:
    command = commands.add_parser(
        "recommend",
        help="which chunk size and how many slots, within limits, and what to buy next",
        description="Fits the costs of each step from recorded benchmarks (several chunk sizes of "
        "one setting are best) or takes those of a sweep, predicts mode async at every chunk size "
        "and slot count, and names the smallest that is within 1 % of the fastest, the reason, and "
        "what storage, PCIe and decoder of twice the speed would gain.",
    )
    add = command.add_argument
    add("results", type=Path, nargs="+", metavar="RESULT", help="folders of bench, or one of sweep")
    add("--vram-gb", type=float, metavar="GB", help="limit on peak VRAM (10**9 bytes)")
    add("--pinned-mb", type=float, metavar="MB", help="limit on the ring's pinned memory")
    add("--ttff-s", type=float, metavar="S", help="limit on the time to the first frame")
    add("--storage-mb-s", type=float, metavar="MB/S", help="storage that keeps up only so far")
    add("--burst-mb", type=float, metavar="MB", help="what a cache in front of it takes at once")
    add("--frames", type=int, help="length of the video in pixel frames (default: the recorded)")
    add("--chunks", default="1,2,4", help="chunk sizes to choose from (default: 1,2,4)")
    add("--ring-slots", default="1,2,3,4", help="slots to choose from (default: 1,2,3,4)")
    add(PRICE, type=float, metavar="PRICE", help="price of an hour of the machine, US dollars")
    add("--json", action="store_true", help="print only one line of JSON")
    command.set_defaults(run=run_recommend)


def run_recommend(options: argparse.Namespace) -> int:
    from vdkit.decode.chunks import DecodeConfig
    from vdkit.measure.advice import Limits, recommend
    from vdkit.measure.costs import Storage
    from vdkit.measure.money import check_price
    from vdkit.present.advice_text import advice_record, advice_text

    def scaled(value: float | None, unit: float) -> float | None:
        return None if value is None else value * unit

    if options.usd_per_hour is not None:
        check_price(options.usd_per_hour)
    limits = Limits(scaled(options.vram_gb, 1e9), scaled(options.pinned_mb, 1e6), options.ttff_s)
    chunks = numbers("chunks", options.chunks, int)
    slots = numbers("ring-slots", options.ring_slots, int)
    for size in chunks:
        for count in slots:
            DecodeConfig(size, count)  # says what is wrong with it
    if options.burst_mb is not None and options.storage_mb_s is None:
        raise ValueError("--burst-mb is the cache of a storage; give its --storage-mb-s too")
    costs, info, setting = _costs(options.results)
    if options.storage_mb_s is not None:
        burst_bytes = round((options.burst_mb or 0) * 1e6)
        costs = replace(costs, storage=Storage(options.storage_mb_s, burst_bytes))
    if options.frames is not None:
        info = replace(info, frames=options.frames)
    advice = recommend(costs, limits, info=info, chunks=chunks, slots=slots)
    if not options.json:
        print(f"{setting}\n\n{advice_text(advice, options.usd_per_hour)}\n")
    print(json.dumps(advice_record(advice), separators=(",", ":")))
    return 0


def _costs(where: list[Path]) -> tuple[StageCosts, VideoInfo, str]:
    """Costs, video, and what they are of, from a sweep's folder or from benchmarks."""
    from vdkit.measure.fit import fit_costs
    from vdkit.measure.predict import video_info
    from vdkit.measure.records import read_result
    from vdkit.measure.sweep_records import PLAN, read_sweep
    from vdkit.present.tables import what_and_where

    sweeps = [path for path in where if (path / PLAN).is_file()]
    if not sweeps:
        results = [read_result(path) for path in where]
        sizes = sorted({result.config.chunk_size for result in results})
        said = f"fitted at chunk size{'s' * (len(sizes) > 1)} {', '.join(map(str, sizes))}"
        costs = fit_costs(*results)
        return costs, video_info(results[0]), f"{what_and_where(results[0])}; {said}"
    if len(where) > 1:
        raise ValueError(f"{sweeps[0]} is a sweep, which has all it needs: give it alone")
    sweep = read_sweep(sweeps[0])
    if sweep.predictions is None:
        raise ValueError(
            f"{sweeps[0]} has no fitted costs yet; finish it with vdkit sweep --resume {sweeps[0]}"
        )
    fitted = ", ".join(cell.key for cell in sweep.predictions.fitted_from)
    info = video_info(next(iter(sweep.results.values())))
    return sweep.predictions.costs, info, f"{what_and_where(sweep.plan)}; fitted from {fitted}"
