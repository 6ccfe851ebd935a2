"""``vdkit compare``."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.money import add_money, money

if TYPE_CHECKING:
    from vdkit.record.compare import Comparison


def add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="two recorded benchmarks: what changed, and what is only chance",
        description="Compares latency, time to the first frame, memory and energy of two recorded "
        "benchmarks, B against A, mode by mode. Recordings of different machines, decoders, "
        "latents or frames are refused. The last line of standard output is one line of JSON: "
        "what was called; with --json it is the only line, and everything.",
    )
    add = compare.add_argument
    result = "a folder of bench, or a result file"
    add("a", type=Path, metavar="A", help=f"{result}: before")
    add("b", type=Path, metavar="B", help=f"{result}: after")
    add("--modes", help="only these, separated by commas (default: all that both have)")
    add("--mode-a", metavar="MODE", help="compare this mode of A ...")
    add("--mode-b", metavar="MODE", help="... with this mode of B, which may be the same recording")
    add(
        "--metrics",
        help="only these of latency_s, ttff_s, vram_peak_bytes, pinned_bytes, energy_j "
        "(default: all that are recorded)",
    )
    add(
        "--paired",
        action=argparse.BooleanOptionalAction,
        help="round i of A beside round i of B, for runs made in turns (default: only within one "
        "recording)",
    )
    add(
        "--across",
        action="store_true",
        help="compare different machines, decoders, latents or frames all the same",
    )
    add(
        "--fail-above",
        metavar="PERCENT",
        help="exit status 1 if a called difference is worse by more than this, e.g. 2%%",
    )
    add("--json", action="store_true", help="print only the line of JSON")
    add_money(compare)
    compare.set_defaults(run=run_compare)


def run_compare(options: argparse.Namespace) -> int:
    from vdkit.present.compare_tables import comparison_record, comparison_text
    from vdkit.record.compare import compare_results
    from vdkit.record.old_variants import alone
    from vdkit.record.recording import read_recording

    asked = money(options)
    limit = None if options.fail_above is None else _percent(options.fail_above)
    pair = None
    if (options.mode_a is None) != (options.mode_b is None):
        raise ValueError("--mode-a and --mode-b belong together; give both")
    if options.mode_a is not None:
        pair = [(options.mode_a, options.mode_b)]
    same = options.a.exists() and options.b.exists() and options.a.samefile(options.b)
    a = alone(read_recording(options.a))
    comparison = compare_results(
        a,
        a if same else alone(read_recording(options.b)),
        paired=options.paired,
        across=options.across,
        modes=_names(options.modes),
        metrics=_names(options.metrics),
        mode_pairs=pair,
    )
    failed = [] if limit is None else _gate(comparison, limit)
    if not options.json:
        print(f"{comparison_text(comparison, **asked)}\n")
    record = {"a": str(options.a), "b": str(options.b)}
    record |= comparison_record(comparison, whole=options.json)
    print(json.dumps(record, separators=(",", ":")))
    for line in failed:
        print(f"vdkit: error: {line}", file=sys.stderr)
    return 1 if failed else 0


def _names(given: str | None) -> list[str] | None:
    return None if given is None else [name.strip() for name in given.split(",")]


def _percent(given: str) -> float:
    """``2%`` or ``2`` as 2.0."""
    try:
        percent = float(given.strip().removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not (math.isfinite(percent) and percent >= 0):
        raise ValueError(f"--fail-above is {given!r}; give 0 or more percent, e.g. 2%")
    return percent


def _gate(comparison: Comparison, limit: float) -> list[str]:
    """What is worse by more than ``limit`` percent; ValueError if nothing could have been."""
    from vdkit.record.stats import runs_needed

    if not comparison.tests:
        needed = runs_needed(comparison.paired)
        have = min(min(row.n_a, row.n_b) for row in comparison.rows)
        raise ValueError(
            f"--fail-above can never fail here: {have} {'run' if have == 1 else 'runs'} of a side "
            f"cannot tell a difference from chance; record at least {needed} "
            + ("pairs" if comparison.paired else "of each side")
        )
    lines = []
    for row in comparison.rows:
        if row.worse_than(limit):
            mode = row.mode_a if row.mode_a == row.mode_b else f"{row.mode_b} against {row.mode_a}"
            by = f"{100 * (row.mean_b / row.mean_a - 1):+.2f} %" if row.mean_a else "from 0"
            lines.append(f"{row.metric} of {mode} is {row.verdict}: {by}, allowed are +{limit:g} %")
    return lines
