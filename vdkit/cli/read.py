"""The commands that read one recording, or two: any of them takes any kind. No torch, no GPU."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.options import add_money, asked, words

if TYPE_CHECKING:
    from vdkit.predict.grid import Sweep
    from vdkit.present.columns import Asked
    from vdkit.present.document import Document
    from vdkit.record.compare import Comparison
    from vdkit.record.recording import Recording

FORMATS = ("text", "markdown", "latex", "csv")
"""Forms of a table, which are methods of `vdkit.Table` too."""
RESULT = "a folder of bench, profile, sweep or demo, or the JSON file in it"
_OTHERS = {
    "result_hta.json": "tools/analyze_vs_hta.py's times of vdkit analyze against "
    "HolisticTraceAnalysis",
    "redraw.json": "tools/explorer_redraw.py's times of the explorer",
}
"""Records of other programs that lie under results/ too."""


def left_out(error: Exception) -> None:
    """Name what cannot be read, on standard error."""
    print(f"vdkit: warning: left out: {error}", file=sys.stderr)


def opened(path: Path) -> Recording | Sweep:
    """The recording at ``path``, of any kind and age.

    Raises:
        FileNotFoundError, ValueError: there is none; names what is there.
    """
    from vdkit.predict.grid import PLAN, read_sweep
    from vdkit.record.recording import read_recording

    home = path.parent if path.name == PLAN else path
    if (home / PLAN).is_file():
        return read_sweep(home, left_out)
    there = {one.name for one in path.iterdir()} if path.is_dir() else {path.name}
    for name in there & _OTHERS.keys():
        if path.exists():
            raise ValueError(
                f"{path} is no recording: {name} holds {_OTHERS[name]}; read that file"
            )
    return read_recording(path)


def document_at(path: Path, wants: Asked) -> tuple[Recording | Sweep, Document]:
    """What is recorded at ``path``, and what is said of it."""
    from vdkit.predict.grid import Sweep
    from vdkit.present.documents import document_of, source_of
    from vdkit.present.sweep_document import sweep_document

    found = opened(path)
    if isinstance(found, Sweep):
        return found, sweep_document(found, wants)
    return found, document_of(found, wants, source_of(path))


def add_reads(commands: Any) -> None:
    """``compare``, ``analyze``, ``show`` and ``report``."""
    _add_compare(commands)
    analyze = commands.add_parser(
        "analyze",
        help="the figures of a profile for any Kineto trace, on a machine without a GPU",
        description="Utilization, gaps, stalls by cause and kernel families of a PyTorch profiler "
        "trace, of vdkit's own or any program's.",
    )
    analyze.add_argument("trace", type=Path, help="a trace: .json or .json.gz")
    analyze.add_argument("--gpu", type=int, help="which GPU, if the trace holds several")
    analyze.add_argument("--json", action="store_true", help="print only one line of JSON")
    analyze.set_defaults(run=run_analyze)
    show = commands.add_parser(
        "show",
        help="print a recording of any kind; draw a benchmark's timeline",
        description="Prints what bench, demo, profile or sweep recorded. --timeline draws the "
        "timeline of timed runs; other pictures lie beside the recording.",
    )
    show.add_argument("result", type=Path, help=RESULT)
    show.add_argument("--modes", help="draw only these arms (default: all)")
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
    report = commands.add_parser(
        "report",
        help="a recording, or two compared, as one self-contained HTML file",
        description="Writes a recording of any kind as one HTML file: summary, tables, pictures "
        "drawn anew, provenance and command line. It runs no script, loads nothing and prints to "
        "A4. Two are compared, the second against the first.",
    )
    report.add_argument("records", type=Path, nargs="+", metavar="RUN", help=RESULT)
    report.add_argument(
        "--out",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="write it here (default: report.html); an earlier report is replaced, another file "
        "never",
    )
    report.add_argument("--across", action="store_true", help="compare other media all the same")
    add_money(report)
    report.set_defaults(run=run_report)


def run_show(options: argparse.Namespace) -> int:
    """Print what is recorded at ``options.result``; returns the exit status."""
    from vdkit.predict.grid import Sweep
    from vdkit.record.store import check_file

    wants = asked(options)
    drawing = [n for n in ("timeline", "zoom", "modes") if getattr(options, n) is not None]
    if drawing and options.format is not None:
        raise ValueError(f"--format prints tables only; leave out --{drawing[0]}")
    if options.zoom is not None and options.zoom < 1:
        raise ValueError(f"zoom is {options.zoom}; draw 1 chunk or more")
    if options.timeline is None and drawing:
        raise ValueError(f"--{drawing[0]} is for a picture; name one with --timeline FILE")
    if options.timeline is not None:
        check_file(options.timeline, "timeline", ".png", ".svg", ".pdf")
    found, document = document_at(options.result, wants)
    if drawing and isinstance(found, Sweep):
        raise ValueError(f"{options.result} is a sweep; draw one of its cells, a file in it")
    if options.format is not None:
        tables = document.tables()
        tables = tables[:1] if options.format == "csv" else tables
        print("\n\n".join(getattr(one, options.format)().rstrip("\n") for one in tables))
        return 0
    draw = _timeline(found, options) if options.timeline is not None else None  # may refuse
    print(document.text(terminal=sys.stdout.isatty()))
    if draw is not None:
        draw()
        print(f"\nTimeline in {options.timeline}")
    return 0


def _timeline(recording: Any, options: argparse.Namespace) -> Any:
    """What draws the timeline of an arm's typical run above another's; ValueError if it cannot."""
    from vdkit.present.timeline import plot_timeline, steady_window
    from vdkit.present.words import config_words, what_and_where
    from vdkit.record.store import written

    wanted = words(options.modes) or list(recording.arms)
    if missing := [name for name in wanted if name not in recording.arms]:
        raise ValueError(
            f"no arm {', '.join(missing)} in this recording; it has {', '.join(recording.arms)}"
        )
    runs = {name: recording.arms[name].typical() for name in wanted}
    window = None
    if options.zoom is not None:
        runs = {name: run for name, run in runs.items() if len(run.chunks) > 1} or runs
        middle = runs.get("async") or next(iter(runs.values()))
        most = len(middle.chunks) - 2
        if options.zoom > most:
            raise ValueError(
                f"zoom is {options.zoom}, but {middle.mode} has {len(middle.chunks)} chunks: "
                + (f"draw {most} at the most" if most > 0 else "draw it whole, without --zoom")
            )
        window = steady_window(middle, options.zoom)
    how = config_words(recording.config)
    title = f"{recording.label}: {how[:1].lower()}{how[1:]}\n{what_and_where(recording)}"

    def draw() -> None:
        with written(options.timeline) as partial:
            plot_timeline(runs, window, title=title).savefig(partial)

    return draw


def run_report(options: argparse.Namespace) -> int:
    """Write the page, print where it is and its size; returns the exit status."""
    import vdkit
    from vdkit.predict.grid import Sweep
    from vdkit.present.comparison import comparison_document
    from vdkit.present.documents import source_of
    from vdkit.record.compare import compare_results
    from vdkit.record.store import write_atomically

    wants = asked(options)
    out: Path = options.out
    _check_page(out)
    if len(options.records) > 2:
        raise ValueError(f"{len(options.records)} recordings; give one, or two to compare")
    if len(options.records) == 1:
        if options.across:
            raise ValueError("--across is for a comparison; give two recordings")
        found, document = document_at(options.records[0], wants)
        made_of = options.records[0].resolve().name
        if not isinstance(found, Sweep):
            made_of = source_of(options.records[0]).name
    else:
        a, b = (opened(path) for path in options.records)
        if isinstance(a, Sweep) or isinstance(b, Sweep):
            raise ValueError("a sweep is no side of a comparison; give two of its cells' files")
        comparison = compare_results(a, b, across=options.across)
        sources = [source_of(path) for path in options.records]
        document = comparison_document(comparison, wants, sources)
        made_of = " and ".join(source.name for source in sources)
    foot = f"Made by vdkit report {vdkit.__version__} from {made_of}; nothing was measured anew."
    text = document.html(foot)
    new = not out.exists()
    _check_page(out)
    write_atomically(out, text, new)
    print(f"Report in {out} ({len(text) / 1e3:.0f} kB)")
    return 0


def _check_page(out: Path) -> None:
    """Before anything is read: can a report be written at ``out``?"""
    from vdkit.present.document import MARKER
    from vdkit.record.store import check_file

    check_file(out, "--out", ".html", ".htm")
    if out.exists() or out.is_symlink():
        head = b""
        if out.is_file() and not out.is_symlink():
            with out.open("rb") as file:
                head = file.read(200)
        if MARKER.encode() not in head:
            raise FileExistsError(
                f"--out {str(out)!r} is there and no report of vdkit; name a new file or remove it"
            )


def run_analyze(options: argparse.Namespace) -> int:
    """Print the figures of a trace; returns the exit status."""
    from vdkit.trace.figures import analyze
    from vdkit.trace.read import read_trace

    timeline = read_trace(options.trace, options.gpu)
    try:
        analysis = analyze(timeline)
    except ValueError as error:
        raise ValueError(f"{options.trace}: {error}") from error
    if options.json:
        print(json.dumps({"trace": str(options.trace), **asdict(analysis)}, separators=(",", ":")))
    else:
        from vdkit.present.profile_document import analysis_document

        name = timeline.run.mode if timeline.run else options.trace.name
        print(analysis_document(name, analysis).text(terminal=sys.stdout.isatty()))
    if analysis.failed:
        print("vdkit: error: the trace is incomplete", file=sys.stderr)
        return 1
    return 0


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="two recordings: what changed, and what is only chance",
        description="Compares latency, time to the first frame, memory and energy of two "
        "recordings, B against A, arm by arm. What else differs (machine, decoder, frames) stands "
        "above the table; other media are refused. The last line of standard output is one line of "
        "JSON: what was called; with --json it is the only line, and everything.",
    )
    add = compare.add_argument
    add("a", type=Path, metavar="A", help=f"before: {RESULT}")
    add("b", type=Path, metavar="B", help="after")
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
    add("--across", action="store_true", help="compare other media (frames, size) all the same")
    add(
        "--fail-above",
        metavar="PERCENT",
        help="exit status 1 if a called difference is worse by more than this, e.g. 2%%",
    )
    add("--json", action="store_true", help="print only the line of JSON")
    add_money(compare)
    compare.set_defaults(run=run_compare)


def run_compare(options: argparse.Namespace) -> int:
    """Print what differs between two recordings; returns the exit status."""
    from vdkit.predict.grid import Sweep
    from vdkit.present.comparison import comparison_record, comparison_table
    from vdkit.record.compare import compare_results

    wants = asked(options)
    limit = None if options.fail_above is None else _percent(options.fail_above)
    if (options.mode_a is None) != (options.mode_b is None):
        raise ValueError("--mode-a and --mode-b belong together; give both")
    pair = [(options.mode_a, options.mode_b)] if options.mode_a is not None else None
    same = options.a.exists() and options.b.exists() and options.a.samefile(options.b)
    a = opened(options.a)
    b = a if same else opened(options.b)
    if isinstance(a, Sweep) or isinstance(b, Sweep):
        raise ValueError("a sweep is no side of a comparison; give two of its cells' files")
    comparison = compare_results(
        a,
        b,
        paired=options.paired,
        across=options.across,
        modes=words(options.modes),
        metrics=words(options.metrics),
        mode_pairs=pair,
    )
    failed = [] if limit is None else _gate(comparison, limit)
    if not options.json:
        print(f"{comparison_table(comparison, wants).markdown()}\n")
    record = {"a": str(options.a), "b": str(options.b)}
    record |= comparison_record(comparison, whole=options.json)
    print(json.dumps(record, separators=(",", ":")))
    for line in failed:
        print(f"vdkit: error: {line}", file=sys.stderr)
    return 1 if failed else 0


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
