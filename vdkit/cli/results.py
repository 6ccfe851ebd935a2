"""``vdkit results``: every recorded benchmark in one list. No torch, no GPU."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.money import add_money, money
from vdkit.cli.show import FORMATS, left_out
from vdkit.cli.workload import MODES

if TYPE_CHECKING:
    import pandas as pd


def add_results(commands: Any) -> None:
    results = commands.add_parser(
        "results",
        help="list all recorded benchmarks",
        description="One row per recorded benchmark and mode, the oldest first, of what bench and "
        "demo recorded (not profiles: vdkit show prints one). Files that cannot be read are named "
        "on standard error and left out.",
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
    results.add_argument("--modes", help=f"only these of {MODES} (default: all)")
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
    from vdkit.present.results_table import results_table, results_text
    from vdkit.record.results import rows_by_mode, rows_by_run
    from vdkit.record.store import check_file, write_atomically

    asked = money(options)
    if options.csv is not None:
        check_file(options.csv, "--csv")
        if os.path.lexists(options.csv):
            raise FileExistsError(
                f"--csv {str(options.csv)!r} is there already; name a new file or remove it"
            )
    frame = _load(options.where)
    rows = _only((rows_by_run if options.runs else rows_by_mode)(frame), options.modes)
    if options.csv is not None:
        write_atomically(options.csv, frame.to_csv(index=False), new=True)
    if options.json:
        print(json.dumps({"rows": _with_money(rows, **asked)}, separators=(",", ":")))
        return 0
    sweeps = [] if options.cells or options.runs else _sweeps(rows, options.where)
    shown = [row for row in rows if row["folder"] not in sweeps]
    if options.format is not None:
        if not shown:
            raise ValueError("only sweeps are recorded there; add --cells for a row of each cell")
        if sweeps:
            print(f"vdkit: {len(sweeps)} sweeps left out; --cells adds them", file=sys.stderr)
        print(getattr(results_table(shown, **asked), options.format)().rstrip("\n"))
        return 0
    if shown:
        print(results_text(shown, **asked))
    if sweeps:
        print(("\n" if shown else "") + _sweep_lines(sweeps))
    if options.csv is not None:
        print(f"\nAll {len(frame)} runs, {len(frame.columns)} columns, in {options.csv}")
    return 0


def _sweeps(rows: list[dict[str, Any]], where: Sequence[str]) -> list[str]:
    """Folders of sweeps among the rows, but for those that were asked for by name."""
    from vdkit.predict.grid import PLAN

    named = {Path(one) for one in where}
    folders = dict.fromkeys(row["folder"] for row in rows)
    return [
        one
        for one in folders
        if (Path(one) / PLAN).is_file()
        and not any(path == Path(one) or path.parent == Path(one) for path in named)
    ]


def _sweep_lines(folders: list[str]) -> str:
    from vdkit.predict.grid import read_sweep
    from vdkit.present.sweep_tables import verdict

    lines = ["Sweeps (vdkit show FOLDER prints one, --cells lists their cells here):"]
    for folder in folders:
        try:
            sweep = read_sweep(folder, lambda error: None)  # a cell's file has been named
        except (ValueError, OSError) as error:
            left_out(error)
            continue
        lines.append(f"  {folder}\n    {len(sweep.results)} cells measured. {verdict(sweep)}")
    return "\n".join(lines)


def _load(where: Sequence[str]) -> pd.DataFrame:
    """All runs; a line on standard error for each file left out, FileNotFoundError for none."""
    from vdkit.record.results import load_results

    skipped: list[Exception] = []
    frame = load_results(where, skipped.append)
    for error in skipped:
        left_out(error)
    if frame.empty:
        raise FileNotFoundError(
            f"no recorded benchmark at {', '.join(map(repr, where))}"
            + (f" that can be read ({len(skipped)} left out)" if skipped else "")
            + "; give the folder that bench wrote into, or one above it"
        )
    return frame


def _only(rows: list[dict[str, Any]], modes: str | None) -> list[dict[str, Any]]:
    """The rows of these modes; ValueError for one that nothing was recorded of."""
    if modes is None:
        return rows
    wanted = [mode.strip() for mode in modes.split(",")]
    there = list(dict.fromkeys(row["mode"] for row in rows))
    if missing := [mode for mode in wanted if mode not in there]:
        raise ValueError(
            f"no run of mode {', '.join(missing)} is recorded there; use any of {', '.join(there)}"
        )
    return [row for row in rows if row["mode"] in wanted]


def _with_money(
    rows: list[dict[str, Any]], usd_per_hour: float | None, energy: bool
) -> list[dict[str, Any]]:
    """Rows with the values behind the cells of money and energy, where they are asked for."""
    from vdkit.record.money import saving_usd, usd_per_video_hour

    made = []
    for row in rows:
        more: dict[str, Any] = {}
        if usd_per_hour is not None:
            latency_s = row["mean_s"] if "n" in row else row["latency_s"]
            base_s, video_s = row["baseline_s"], row["video_s"]
            more["usd_per_hour"] = usd_per_hour
            more["usd_per_video_hour"] = usd_per_video_hour(row["rtf"], usd_per_hour)
            more["saving_usd_per_1000_h"] = (
                None if base_s is None else saving_usd(base_s, latency_s, video_s, usd_per_hour)
            )
        if energy:
            joules = row["energy_j"]
            more["energy_j_per_video_s"] = None if joules is None else joules / row["video_s"]
        made.append(row | more)
    return made
