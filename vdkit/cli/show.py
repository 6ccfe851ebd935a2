"""``vdkit show``: a recorded benchmark or profile, printed and drawn again. No torch, no GPU."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.money import add_money, money
from vdkit.cli.workload import MODES

if TYPE_CHECKING:
    from vdkit.present.table import Table

FORMATS = ("text", "markdown", "latex", "csv")
"""Forms of a table, which are methods of `vdkit.Table` too."""

_OTHERS = {
    "result_hta.json": "tools/analyze_vs_hta.py's times of vdkit analyze against "
    "HolisticTraceAnalysis; read that file, README says what it holds",
}
"""Records of other programs that lie under results/ too."""


def left_out(error: Exception) -> None:
    """Name what cannot be read, on standard error."""
    print(f"vdkit: warning: left out: {error}", file=sys.stderr)


def add_show(commands: Any) -> None:
    show = commands.add_parser(
        "show",
        help="print a recorded benchmark, profile, sweep or control; draw a benchmark's timeline",
        description="Prints what bench and demo (result.json, or variants.json), profile "
        "(profile.json), sweep (sweep.json) or aa (aa.json) recorded. The options draw a "
        "benchmark's timeline; the pictures of the others lie beside them.",
    )
    show.add_argument(
        "result",
        type=Path,
        help="a folder of bench, demo, profile, sweep or aa, or the JSON file in it",
    )
    show.add_argument("--modes", help=f"draw only these of {MODES} (default: all)")
    show.add_argument("--timeline", type=Path, help="write the timeline here (.png, .svg or .pdf)")
    show.add_argument(
        "--zoom", type=int, metavar="N", help="draw only N consecutive chunks from the middle"
    )
    show.add_argument(
        "--format",
        choices=FORMATS,
        help="print the tables alone: aligned text, Markdown, LaTeX (booktabs) or CSV (the first "
        "table, intervals in columns of their own)",
    )
    add_money(show)
    show.set_defaults(run=run_show)


def run_show(options: argparse.Namespace) -> int:
    """Print what is recorded at ``options.result``; returns the exit status."""
    where: Path = options.result
    asked = money(options)
    _check_record(where)
    kind = _kind(where)
    if options.format is not None or kind != "result.json":
        what, text, tables = _read(where, kind, asked)
        if options.format is not None:
            what = "--format, which prints tables only"
        _no_options(options, what)
        try:
            made = [] if options.format is None else tables()
            del made[1 if options.format == "csv" else len(made) :]
            forms = [getattr(one, options.format)().rstrip("\n") for one in made] or [text()]
        except LookupError as error:
            raise ValueError(f"{where} is damaged: it has no {error}") from error
        print("\n\n".join(forms))
        return 0
    from vdkit.present.table import markdown_table
    from vdkit.present.tables import breakdown_rows, text_report, what_and_where
    from vdkit.present.timeline import plot_timeline, steady_window
    from vdkit.record.old_variants import alone
    from vdkit.record.recording import read_recording
    from vdkit.record.store import check_file, written

    if options.timeline is not None:
        check_file(options.timeline, "timeline", ".png", ".svg", ".pdf")
    if options.zoom is not None and options.zoom < 1:
        raise ValueError(f"zoom is {options.zoom}; draw 1 chunk or more")
    if options.zoom is not None and options.timeline is None:
        raise ValueError("zoom is for a picture; name one with --timeline FILE")
    result = alone(read_recording(where))
    wanted = options.modes.split(",") if options.modes else list(result.arms)
    missing = [mode for mode in wanted if mode not in result.arms]
    if missing:
        raise ValueError(
            f"no mode {', '.join(missing)} in this result; it has {', '.join(result.arms)}"
        )
    runs = {mode: result.arms[mode].typical() for mode in wanted}
    window = None
    if options.zoom is not None:
        runs = {mode: run for mode, run in runs.items() if len(run.chunks) > 1} or runs
        middle = runs.get("async") or next(iter(runs.values()))
        most = len(middle.chunks) - 2
        if options.zoom > most:
            raise ValueError(
                f"zoom is {options.zoom}, but {middle.mode} has {len(middle.chunks)} chunks: "
                + (f"draw {most} at the most" if most > 0 else "draw it whole, without --zoom")
            )
        window = steady_window(middle, options.zoom)
    print(text_report(result, **asked))
    print(f"\nWhere the time goes:\n\n{markdown_table(breakdown_rows(result))}")
    if options.timeline is not None:
        title = f"{result.label}\n{what_and_where(result)}"
        with written(options.timeline) as partial:
            plot_timeline(runs, window, title=title).savefig(partial)
        print(f"\nTimeline in {options.timeline}")
    return 0


def _kind(where: Path) -> str:
    """Which record this is, by its file's name; ``result.json`` for what has no other."""
    for name in ("profile.json", "sweep.json", "aa.json", "variants.json"):
        if (where / name).is_file() or where.name == name:
            return name
    return "result.json"


def _read(
    where: Path, kind: str, asked: dict[str, Any]
) -> tuple[str, Callable[[], str], Callable[[], list[Table]]]:
    """What is recorded: what that is called, how to print it, and its tables, the main one first"""
    if kind == "profile.json":
        from vdkit.present.profile_report import profile_tables, profile_text
        from vdkit.record.old_profile import read_profile

        profile, style = read_profile(where), "terminal" if sys.stdout.isatty() else "plain"
        text = partial(profile_text, profile, style, **asked)
        return "a profile", text, partial(profile_tables, profile, **asked)
    if kind == "sweep.json":
        from vdkit.predict.grid import read_sweep
        from vdkit.present.sweep_tables import sweep_table, sweep_text

        sweep = read_sweep(where.parent if where.name == kind else where, left_out)
        return "a sweep", partial(sweep_text, sweep, **asked), lambda: [sweep_table(sweep, **asked)]
    if kind == "aa.json":
        from vdkit.present.control_report import control_tables, control_text
        from vdkit.record.old_aa import read_control

        control = read_control(where)
        return "an A/A control", partial(control_text, control), partial(control_tables, control)
    from vdkit.record.old_variants import alone, read_variants

    if kind == "variants.json":
        from vdkit.present.variants_table import variant_table, variants_text

        made = read_variants(where)
        text = partial(variants_text, made, **asked)
        return "a run of variants", text, lambda: [variant_table(made, **asked)]
    from vdkit.present.tables import benchmark_table, breakdown_table, text_report
    from vdkit.record.recording import read_recording

    result = alone(read_recording(where))
    text = partial(text_report, result, **asked)
    return "a benchmark", text, lambda: [benchmark_table(result, **asked), breakdown_table(result)]


def _check_record(where: Path) -> None:
    """ValueError or FileNotFoundError, with what is there instead, for what is no record."""
    if where.name in _OTHERS and where.is_file():
        raise ValueError(f"{where} is no record that show prints: it holds {_OTHERS[where.name]}")
    names = ("result.json", "profile.json", "sweep.json", "aa.json", "variants.json")
    known = [where / name for name in names]
    if not where.is_dir() or any(file.is_file() for file in known):
        return
    there = sorted(path.name for path in where.iterdir())
    for name in there:
        if name in _OTHERS:
            raise ValueError(f"{where} is no benchmark or profile: {name} has {_OTHERS[name]}")
    holds = f"; it holds {', '.join(there[:5])}{', ...' * (len(there) > 5)}" if there else ""
    raise FileNotFoundError(
        f"no result at {where}: no {', '.join(names[:-1])} or {names[-1]}{holds}"
    )


def _no_options(options: argparse.Namespace, what: str) -> None:
    if options.timeline is not None or options.zoom is not None or options.modes is not None:
        raise ValueError(
            f"this is {what}: its pictures lie beside it; leave out --timeline, --zoom, --modes"
        )
