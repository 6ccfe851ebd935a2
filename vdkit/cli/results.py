"""The commands that read many recordings: the list of all, and the advice that they give."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.options import ALL_MODES, PRICE, add_money, asked, numbers, words
from vdkit.cli.read import FORMATS, left_out, opened

if TYPE_CHECKING:
    from vdkit.predict import StageCosts
    from vdkit.predict.fit import Evidence
    from vdkit.present.columns import Asked
    from vdkit.record.recording import Recording


def add_results(commands: Any) -> None:
    """``recommend`` and ``results``."""
    _add_recommend(commands)
    _add_results(commands)


def _add_recommend(commands: Any) -> None:
    command = commands.add_parser(
        "recommend",
        help="which chunk size and how many slots, within limits, and what to buy next",
        description="Fits the costs of each step from recorded benchmarks (several chunk sizes of "
        "one setting are best) or takes those of a sweep, predicts mode async at every chunk size "
        "and slot count, and names the smallest that is as fast as can be told, the reason, and "
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
    """Print the advice; returns the exit status."""
    from vdkit.decode.chunks import DecodeConfig, check_chunk, latent_frames
    from vdkit.predict import Storage
    from vdkit.predict.advise import Limits, recommend
    from vdkit.predict.recurrence import video_info
    from vdkit.present.sweep_document import advice_document, advice_record
    from vdkit.present.words import what_and_where

    wants = asked(options)
    for name in ("vram_gb", "pinned_mb", "ttff_s", "burst_mb"):
        value = getattr(options, name)
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"--{name.replace('_', '-')} is {value:g}; give 0 or more")
    limits = Limits(
        options.vram_gb and options.vram_gb * 1e9,
        options.pinned_mb and options.pinned_mb * 1e6,
        options.ttff_s,
    )
    chosen = None if options.chunks is None else numbers("chunks", options.chunks, int)
    slots = numbers("ring-slots", options.ring_slots, int)
    for size in chosen or [1]:
        for count in slots:
            DecodeConfig(size, count)  # says what is wrong with it
    if options.burst_mb is not None and options.storage_mb_s is None:
        raise ValueError("--burst-mb is the cache of a storage; give its --storage-mb-s too")
    costs, results, evidence = _costs(options.results)
    info, sizes = video_info(results[0]), sorted({one.config.chunk_size for one in results})
    chunks = chosen or sizes
    if options.storage_mb_s is not None:
        burst_bytes = round((options.burst_mb or 0) * 1e6)
        costs = replace(costs, storage=Storage(options.storage_mb_s, burst_bytes))
    if options.frames is not None:
        info = replace(info, frames=options.frames)
    check_chunk(max(chosen or [1]), latent_frames(info.frames))
    advice = recommend(costs, limits, info=info, chunks=chunks, slots=slots, evidence=evidence)
    if not options.json:
        modes = dict.fromkeys(mode for result in results for mode in result.arms)
        print(
            f"{what_and_where(results[0])}; fitted at chunk size{'s' * (len(sizes) > 1)} "
            f"{', '.join(map(str, sizes))} of {', '.join(modes)}"
        )
        print("\n".join(_doubts(results, chunks, sizes)))
        print(f"{advice_document(advice, wants).text()}\n")
    print(json.dumps(advice_record(advice), separators=(",", ":")))
    return 0


def _costs(where: list[Path]) -> tuple[StageCosts, list[Recording], Evidence]:
    """Costs, the recordings they are fitted from, and how good the fit is."""
    from vdkit.predict.fit import fit_costs, fit_evidence
    from vdkit.predict.grid import PLAN, Sweep
    from vdkit.record.recording import read_recording

    sweeps = [path for path in where if (path / PLAN).is_file()]
    if not sweeps:
        results = [read_recording(path) for path in where]
        costs = fit_costs(*results)
        return costs, results, fit_evidence(costs, *results)
    if len(where) > 1:
        raise ValueError(f"{sweeps[0]} is a sweep, which has all it needs: give it alone")
    sweep = opened(sweeps[0])
    assert isinstance(sweep, Sweep)
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
    return sweep.predictions.costs, results, sweep.evidence()


def _doubts(results: list[Recording], chunks: list[int], sizes: list[int]) -> list[str]:
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
    return [*lines, ""]


def _add_results(commands: Any) -> None:
    results = commands.add_parser(
        "results",
        help="list everything recorded",
        description="One row per recording and arm, the oldest first. Files that cannot be read "
        "are named on standard error and left out.",
    )
    results.add_argument(
        "where",
        nargs="*",
        default=["results"],
        metavar="PATTERN",
        help="folders, searched with all folders in them, result files, or quoted patterns, ** for "
        "any depth (default: results)",
    )
    results.add_argument("--runs", action="store_true", help="a row for every run, warm-ups too")
    results.add_argument(
        "--cells", action="store_true", help="a row for every cell of a sweep too, not one line"
    )
    results.add_argument("--modes", help=f"only these of {ALL_MODES} (default: all)")
    results.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="also write every column of every run of every mode here, as CSV",
    )
    form = results.add_mutually_exclusive_group()
    form.add_argument(
        "--format",
        choices=FORMATS,
        help="print the table alone: aligned text, Markdown, LaTeX (booktabs) or CSV of what is "
        "shown (--csv has everything, unrounded)",
    )
    form.add_argument("--json", action="store_true", help="print only one line of JSON")
    add_money(results)
    results.set_defaults(run=run_results)


def run_results(options: argparse.Namespace) -> int:
    """List what is recorded at ``options.where``; returns the exit status."""
    from vdkit.present.results_list import results_table, results_text
    from vdkit.record.results import find_recordings, frame_of, rows_by_mode, rows_by_run
    from vdkit.record.store import check_file, write_atomically

    wants = asked(options)
    if options.csv is not None:
        check_file(options.csv, "--csv")
        if os.path.lexists(options.csv):
            raise FileExistsError(
                f"--csv {str(options.csv)!r} is there already; name a new file or remove it"
            )
    skipped: list[Exception] = []
    found = find_recordings(options.where, skipped.append)
    for error in skipped:
        left_out(error)
    if not found:
        raise FileNotFoundError(
            f"no recording at {', '.join(map(repr, options.where))}"
            + (f" that can be read ({len(skipped)} left out)" if skipped else "")
            + "; give the folder that bench wrote into, or one above it"
        )
    frame = frame_of(found)
    modes = words(options.modes)
    if options.csv is not None:
        write_atomically(options.csv, frame.to_csv(index=False), new=True)
    if options.json:
        rows = (rows_by_run if options.runs else rows_by_mode)(found)
        rows = [_priced(row, wants) for row in rows if modes is None or row["mode"] in modes]
        print(json.dumps({"rows": rows}, separators=(",", ":")))
        return 0
    sweeps = [] if options.cells or options.runs else _sweeps(found, options.where)
    shown = [one for one in found if one[0].parent not in sweeps]
    if options.format is not None:
        if not shown:
            raise ValueError("only sweeps are recorded there; add --cells for a row of each cell")
        if sweeps:
            print(f"vdkit: {len(sweeps)} sweeps left out; --cells adds them", file=sys.stderr)
        table = results_table(shown, wants, options.runs, modes)
        print(getattr(table, options.format)().rstrip("\n"))
        return 0
    if shown:
        print(results_text(shown, wants, options.runs, modes))
    if sweeps:
        print(("\n" if shown else "") + _sweep_lines(sweeps))
    if options.csv is not None:
        print(f"\nAll {len(frame)} runs, {len(frame.columns)} columns, in {options.csv}")
    return 0


def _priced(row: dict[str, Any], wants: Asked) -> dict[str, Any]:
    """A row with the values behind the cells of money and energy, where they are asked for."""
    from vdkit.record.money import saving_usd, usd_per_video_hour

    more: dict[str, Any] = {}
    if wants.usd_per_hour is not None:
        latency_s = row["mean_s"] if "n" in row else row["latency_s"]
        base_s, video_s = row["baseline_s"], row["video_s"]
        more["usd_per_hour"] = wants.usd_per_hour
        more["usd_per_video_hour"] = usd_per_video_hour(row["rtf"], wants.usd_per_hour)
        more["saving_usd_per_1000_h"] = (
            None if base_s is None else saving_usd(base_s, latency_s, video_s, wants.usd_per_hour)
        )
    if wants.energy:
        joules = row["energy_j"]
        more["energy_j_per_video_s"] = None if joules is None else joules / row["video_s"]
    return row | more


def _sweeps(found: Sequence[tuple[Path, Recording]], where: Sequence[str]) -> list[Path]:
    """Folders of sweeps among them, but for those that were asked for by name."""
    from vdkit.predict.grid import PLAN

    named = {Path(one) for one in where}
    folders = dict.fromkeys(path.parent for path, _ in found)
    return [
        one
        for one in folders
        if (one / PLAN).is_file() and not any(path in (one, *one.iterdir()) for path in named)
    ]


def _sweep_lines(folders: Sequence[Path]) -> str:
    from vdkit.predict.grid import read_sweep
    from vdkit.present.sweep_document import verdict

    lines = ["Sweeps (vdkit show FOLDER prints one, --cells lists their cells here):"]
    for folder in folders:
        try:
            sweep = read_sweep(folder, lambda error: None)  # a cell's file has been named
        except (ValueError, OSError) as error:
            left_out(error)
            continue
        lines.append(f"  {folder}\n    {len(sweep.results)} cells measured. {verdict(sweep)}")
    return "\n".join(lines)
