"""``vdkit report``: recorded runs as one HTML file. No torch, no GPU."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.money import add_money, money

if TYPE_CHECKING:
    from vdkit.present.report_parts import Source

_NAMES = ("result.json", "profile.json", "variants.json")
_OTHERS = {"sweep.json": "a sweep", "aa.json": "an A/A control"}


def add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="a recorded run, or two compared, as one self-contained HTML file",
        description="Writes what bench and demo (result.json, or variants.json) or profile "
        "(profile.json) recorded as one HTML file: summary, tables, pictures drawn anew, "
        "provenance and command line. It runs no script, loads nothing and prints to A4. Two "
        "benchmarks are compared, the second against the first.",
    )
    report.add_argument(
        "records", type=Path, nargs="+", metavar="RUN", help="a folder, or the JSON file in it"
    )
    report.add_argument(
        "--out",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="write it here (default: report.html); an earlier report is replaced, another file "
        "never",
    )
    report.add_argument(
        "--across",
        action="store_true",
        help="compare different machines, decoders, latents or frames all the same",
    )
    add_money(report)
    report.set_defaults(run=run_report)


def run_report(options: argparse.Namespace) -> int:
    """Write the report, print where it is and its size; returns the exit status."""
    asked = money(options)
    out: Path = options.out
    _check_out(out)
    if len(options.records) > 2:
        raise ValueError(f"{len(options.records)} runs; give one, or two to compare")
    if options.across and len(options.records) == 1:
        raise ValueError("--across is for a comparison; give two runs")
    sources = [_read(path) for path in options.records]
    from vdkit.present.report import report
    from vdkit.record.store import write_atomically

    try:
        text = report(sources, across=options.across, **asked)
    except LookupError as error:
        raise ValueError(f"{options.records[0]} is damaged: it has no {error}") from error
    new = not out.exists()
    _check_out(out)
    write_atomically(out, text, new)
    print(f"Report in {out} ({len(text) / 1e3:.0f} kB)")
    return 0


def _check_out(out: Path) -> None:
    """Before anything is read: can a report be written at ``out``?"""
    from vdkit.present.report_html import MARKER
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


def _read(path: Path) -> Source:
    """The record at ``path``; ValueError or FileNotFoundError, with the remedy, if it is none."""
    from vdkit.record.old_profile import read_profile
    from vdkit.record.old_variants import read_variants
    from vdkit.record.recording import read_recording

    file = _file(path)
    kind = _kind(file)
    if kind == "variants":
        return _source(read_variants(file), file, path)
    return _source(read_profile(file) if kind == "profile" else read_recording(file), file, path)


def _source(record: Any, file: Path, path: Path) -> Source:
    from vdkit.present.report_parts import Source

    home = file.resolve().parent
    name = f"{home.name}/{file.name}" if path.is_dir() or file.name in _NAMES else file.name
    return Source(record, home, name, hashlib.sha256(file.read_bytes()).hexdigest())


def _file(path: Path) -> Path:
    """The JSON file that ``path`` is, or that lies in it."""
    if path.name in _OTHERS or (path.is_dir() and any((path / n).is_file() for n in _OTHERS)):
        what = next(w for n, w in _OTHERS.items() if path.name == n or (path / n).is_file())
        raise ValueError(f"{path} is {what}, of which there is no report; vdkit show prints it")
    if not path.is_dir():
        return path
    found = [path / name for name in _NAMES if (path / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"no record at {path}: no {', '.join(_NAMES[:-1])} or {_NAMES[-1]}; give the folder "
            "that bench or profile wrote into"
        )
    return found[0]


def _kind(file: Path) -> str:
    """What a record is by what it holds; anything else is for `read_recording` to refuse."""
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return "benchmark"
    if not isinstance(data, dict):
        return "benchmark"
    if "variants" in data and "psnr_db" in data:
        return "variants"
    return "profile" if "nvml_interval_s" in data else "benchmark"
