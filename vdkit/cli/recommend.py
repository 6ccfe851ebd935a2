"""``vdkit recommend``: chunk size and slots within limits, from recorded runs. No torch, no GPU."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.money import PRICE
from vdkit.cli.show import left_out
from vdkit.cli.sweep import numbers

if TYPE_CHECKING:
    from vdkit.predict.costs import StageCosts
    from vdkit.record.recording import Recording


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
    add("--chunks", help="chunk sizes to choose from (default: those that were measured)")
    add("--ring-slots", default="1,2,3,4", help="slots to choose from (default: 1,2,3,4)")
    add(PRICE, type=float, metavar="PRICE", help="price of an hour of the machine, US dollars")
    add("--json", action="store_true", help="print only one line of JSON")
    command.set_defaults(run=run_recommend)


def run_recommend(options: argparse.Namespace) -> int:
    from vdkit.decode.chunks import DecodeConfig, latent_frames
    from vdkit.measure.sweep import check_chunk
    from vdkit.predict.advise import Limits, recommend
    from vdkit.predict.costs import Storage
    from vdkit.predict.recurrence import video_info
    from vdkit.present.advice_text import advice_record, advice_text
    from vdkit.present.tables import what_and_where
    from vdkit.record.money import check_price

    if options.usd_per_hour is not None:
        check_price(options.usd_per_hour)
    for name in ("vram_gb", "pinned_mb", "ttff_s", "burst_mb"):
        value = getattr(options, name)
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"--{name.replace('_', '-')} is {value:g}; give 0 or more")
    limits = Limits(
        options.vram_gb and options.vram_gb * 1e9,
        options.pinned_mb and options.pinned_mb * 1e6,
        options.ttff_s,
    )
    asked = None if options.chunks is None else numbers("chunks", options.chunks, int)
    slots = numbers("ring-slots", options.ring_slots, int)
    for size in asked or [1]:
        for count in slots:
            DecodeConfig(size, count)  # says what is wrong with it
    if options.burst_mb is not None and options.storage_mb_s is None:
        raise ValueError("--burst-mb is the cache of a storage; give its --storage-mb-s too")
    costs, results, fitted = _costs(options.results)
    info, sizes = video_info(results[0]), sorted({one.config.chunk_size for one in results})
    chunks = asked or sizes
    if options.storage_mb_s is not None:
        burst_bytes = round((options.burst_mb or 0) * 1e6)
        costs = replace(costs, storage=Storage(options.storage_mb_s, burst_bytes))
    if options.frames is not None:
        info = replace(info, frames=options.frames)
    check_chunk(max(asked or [1]), latent_frames(info.frames))
    advice = recommend(costs, limits, info=info, chunks=chunks, slots=slots)
    if not options.json:
        print(f"{what_and_where(results[0])}; {fitted}")
        print("\n".join(_notes(results, chunks, sizes)))
        print(f"{advice_text(advice, options.usd_per_hour)}\n")
    print(json.dumps(advice_record(advice), separators=(",", ":")))
    return 0


def _costs(where: list[Path]) -> tuple[StageCosts, list[Recording], str]:
    """Costs, the records they are fitted from, and that in words; a sweep's, or benchmarks'."""
    from vdkit.predict.fit import fit_costs
    from vdkit.predict.grid import PLAN, read_sweep
    from vdkit.record.old_variants import alone
    from vdkit.record.recording import read_recording

    sweeps = [path for path in where if (path / PLAN).is_file()]
    if not sweeps:
        results = [alone(read_recording(path)) for path in where]
        return fit_costs(*results), results, _fitted(results)
    if len(where) > 1:
        raise ValueError(f"{sweeps[0]} is a sweep, which has all it needs: give it alone")
    sweep = read_sweep(sweeps[0], left_out)
    if sweep.predictions is None:
        raise ValueError(
            f"{sweeps[0]} has no fitted costs yet; finish it with vdkit sweep --resume {sweeps[0]}"
        )
    if not any(cell.mode == "async" for cell in sweep.predictions.fitted_from):
        raise ValueError(
            f"{sweeps[0]} has no cell of mode async, which is what is recommended for; sweep async"
        )
    results = [sweep.results[c] for c in sweep.predictions.fitted_from if c in sweep.results]
    if not results:
        raise ValueError(f"{sweeps[0]} lacks the cells that its costs were fitted from; resume it")
    return sweep.predictions.costs, results, _fitted(results)


def _fitted(results: list[Recording]) -> str:
    sizes = sorted({result.config.chunk_size for result in results})
    modes = dict.fromkeys(mode for result in results for mode in result.arms)
    plural = "s" * (len(sizes) > 1)
    return f"fitted at chunk size{plural} {', '.join(map(str, sizes))} of {', '.join(modes)}"


def _notes(results: list[Recording], chunks: list[int], sizes: list[int]) -> list[str]:
    """What makes the fit or the advice doubtful; an empty line at the end."""
    lines = []
    machines = {(one.provenance.device_uuid, one.provenance.cpu) for one in results}
    if len(machines) > 1:
        lines.append(f"Note: fitted from runs of {len(machines)} machines; costs hold for one.")
    outside = [size for size in chunks if not sizes[0] <= size <= sizes[-1]]
    if outside:
        lines.append(
            f"Note: chunk size {', '.join(map(str, outside))} is beyond the measured ones, so its "
            "latency is a guess: what a call costs by itself is known only from two sizes on."
        )
    runs = [run for one in results for run in one.runs if not run.warmup]
    if throttled := sum(run.throttled for run in runs):
        lines.append(f"Note: {throttled} of {len(runs)} runs had a throttle reason set.")
    return [*lines, ""]
