"""`vdkit check`: is a recording whole, can its code be had, do its tables follow from its runs?"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from vdkit.cli import columns, command
from vdkit.cli.read import OTHERS, document_at
from vdkit.predict.grid import PLAN as SWEEP_PLAN
from vdkit.predict.grid import Sweep
from vdkit.present import filled, reproduction
from vdkit.present.columns import Asked
from vdkit.present.fanout import video_rows
from vdkit.present.reproduction import Reproduction
from vdkit.present.sweep_document import cell_records
from vdkit.present.words import noise_note
from vdkit.record import SUMS, sha256
from vdkit.record.fanout import FANOUT, Fanout
from vdkit.record.recording import FILE, Recording
from vdkit.record.results import OLD_FILES, recorded_file, runs_frame
from vdkit.record.runs import Provenance, Workload
from vdkit.trace.figures import analyze
from vdkit.trace.files import read_trace

if TYPE_CHECKING:
    import pandas as pd

_FIGURE = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?!\w)")
HASHED_UTC = "2026-11-26T17:41"  # the commands write hashes since
Lines = dict[str, list[tuple[int, list[str]]]]
"""The words of a line, which are all but its figures, to its numbers and figures."""


@dataclass(slots=True)
class Checked:
    """What was looked at in a folder, what a reader should know, and what is wrong."""

    looked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """In a word."""
        return "WRONG" if self.wrong else "note" if self.notes else "ok"


@command("<folders>")
def run_check(options: argparse.Namespace) -> int:
    """is a recording whole, and does every figure follow from its runs?

    Reads every recording in a folder and all below it, of any age; asks for commit, clean tree,
    hashes and versions; compares files with their hashes, and tables, rows and traces with what the
    raw runs give today. Exit status 1 if something is wrong.
    """
    marks = {FILE, *OLD_FILES, SWEEP_PLAN, FANOUT, reproduction.PLAN, *OTHERS}
    found: dict[Path, Checked] = {}
    for given in options.folders:
        homes = {one.parent for one in given.rglob("*.json") if one.name in marks}
        if not homes:
            raise FileNotFoundError(f"no recording at {str(given)!r}; give a folder that has one")
        for home in sorted(homes - found.keys()):
            made = found[home] = check_folder(home)
            looked = f"{made.state:6}{home}: {', '.join(made.looked)}".rstrip(": ")
            print(filled(looked, columns(), 6), flush=True)
            for kind, told in (("wrong", made.wrong), ("note", made.notes)):
                for line in told:
                    print(filled(f"{'':6}{kind}: {line}", columns(), 12))
    states = [one.state for one in found.values()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("ok", "note", "WRONG"))
    print(f"{len(states)} checked: {counts}")
    return 1 if "WRONG" in states else 0


def check_folder(home: Path) -> Checked:
    """Check what is recorded in ``home``."""
    made = Checked()
    for name in OTHERS:
        if (home / name).is_file():
            made.notes.append(f"no recording: {name} holds {OTHERS[name]}")
            return made
    table = home / "table.md"
    text = table.read_text() if table.is_file() else ""
    price = re.search(r"Price: \$([\d.]+) ", text)
    try:
        asked = Asked(float(price[1]) if price else None, "J / " in text)
        found, document = document_at(home, asked)
    except (ValueError, OSError) as error:
        made.wrong.append(str(error))
        return made
    if isinstance(found, Reproduction) and found.left:
        done = f"{len(found.plan.stages) - len(found.left)} of {len(found.plan.stages)} stages"
        made.notes.append(f"{done} are made; go on: vdkit reproduce --resume {home}")
        return made
    other, old = list[str](), False
    recordings: list[Recording] = []
    if isinstance(found, Recording):
        recordings, old = [found], recorded_file(home).name != FILE
    elif isinstance(found, Sweep):
        recordings, old = list(found.results.values()), any(home.glob("result_*.json"))
    elif isinstance(found, Fanout):
        _provenance(found.provenance, found.videos[0].workload, found.command, made)
    for one in recordings:
        _provenance(one.provenance, one.workload, one.command, made)
        if (told := noise_note(one).removeprefix("Note: ")) and told not in made.notes:
            made.notes.append(told)
    runs = sum(len(arm.runs) for one in recordings for arm in one.arms.values())
    made.looked += [f"{runs} runs"] * bool(runs)
    whole = found.plan if isinstance(found, Reproduction | Sweep) else found
    if not (home / SUMS).is_file() and whole.provenance.created_utc >= HASHED_UTC:
        made.notes.append(f"{SUMS} is missing: words and pictures may be others than it made")
    made.wrong += _sums(home, made.looked)
    other += _text(text, document.markdown(), made.looked)
    if isinstance(found, Recording):
        other += _traces(home, found, made)
        if not old or (home / "runs.csv").is_file():
            made.wrong += _rows(home / "runs.csv", runs_frame(found), made.looked)
    elif isinstance(found, Sweep):
        made.wrong += _rows(home / "cells.csv", cell_records(found), made.looked)
    elif isinstance(found, Fanout):
        made.wrong += _rows(home / "videos.csv", video_rows(found), made.looked)
    if old and other:
        n = f" (and {len(other) - 1} more)" if len(other) > 1 else ""
        made.notes.append(f"of an earlier schema, perhaps by other rules: {other[0]}{n}")
    else:
        made.wrong += other
    return made


def _provenance(one: Provenance, work: Workload, command: str | None, made: Checked) -> None:
    """What a reader who wants to measure it again misses; of cells, once."""
    gpu = not one.compute_capability or (one.driver and one.cuda and one.device_uuid)
    for told, to, lacks in (
        ("no commit is recorded, so its code cannot be had", made.wrong, not one.git_commit),
        ("no versions of torch and numpy are recorded", made.wrong,
         not {"torch", "numpy"} <= one.packages.keys()),
        ("driver, CUDA version or UUID of the GPU is not recorded", made.wrong, not gpu),
        ("recorded from a changed tree: its commit is not all of its code", made.notes,
         one.git_dirty),
        ("no hash of the weights is recorded", made.notes, work.weights_sha256 is None),
        ("no command line is recorded: it was run from Python", made.notes, command is None),
    ):  # fmt: skip
        if lacks and told not in to:
            to.append(told)


def _sums(home: Path, looked: list[str]) -> Iterable[str]:
    """Files that are not what they were when their hashes were written beside them."""
    if not (home / SUMS).is_file():
        looked.append("no hashes")
        return
    lines = [line.split("  ", 1) for line in (home / SUMS).read_text().splitlines()]
    looked.append(f"{len(lines)} hashes")
    for digest, name in lines:
        if not (home / name).is_file():
            yield f"{name} is missing"
        elif sha256(home / name) != digest:
            yield f"{name} is not what was recorded: its SHA-256 is another"


def _lines(text: str) -> Lines:
    found: Lines = defaultdict(list)
    for number, line in enumerate(text.splitlines(), 1):
        if figures := _FIGURE.findall(line):
            found[re.sub(r"\s+", " ", _FIGURE.sub("#", line))].append((number, figures))
    return found


def _agree(one: str, other: str) -> bool:
    """Whether two figures are one, rounded; to the same place they have to be equal."""
    few, many = sorted(len(figure.partition(".")[2]) for figure in (one, other))
    apart = abs(float(one) - float(other))
    return apart == 0 if few == many else apart <= 0.5 * 10.0**-few + 0.5 * 10.0**-many


def _text(stored: str, derived: str, looked: list[str]) -> Iterable[str]:
    """Figures of ``table.md`` that are not those which the runs give in the same words."""
    if not stored:
        yield "table.md is missing"
        return
    today, compared, unlike = _lines(derived), 0, 0
    for words, lines in _lines(stored).items():
        there = [figures for _, figures in today.get(words, ())]
        for number, figures in lines:
            pairs = (zip(figures, one, strict=True) for one in there)
            off = min(([p for p in one if not _agree(*p)] for one in pairs), key=len, default=None)
            if off is None or (off and len(there) != len(lines)):  # rows are named otherwise today
                unlike += len(figures)
                continue
            compared += len(figures)
            for mine, theirs in off[:1]:
                yield f"table.md, line {number}, {_row(words)}: {mine}, the runs give {theirs}"
    more = f" ({unlike} more in words that are not today's)" if unlike else ""
    looked.append(f"{compared} figures of table.md{more}")


def _row(words: str) -> str:
    """What a line is about: of a table's its cells of words."""
    cells = (cell.strip() for cell in words.split("|") if re.search(r"[^\W\d_]", cell))
    return shorten(", ".join(cells), 60, placeholder=" ...")


def _rows(path: Path, rows: Any, looked: list[str]) -> Iterable[str]:
    """Columns of a CSV that are not those of the ``rows`` which a recording gives."""
    import pandas as pd

    if not path.is_file():
        yield f"{path.name} is missing"
        return
    stored, derived = pd.read_csv(path), pd.DataFrame(rows)
    for name in stored.columns.intersection(derived.columns).difference(["mode"]):
        if _plain(stored[name]) != _plain(derived[name]):
            yield f"{path.name}: column {name} is not that of the runs"
    looked.append(path.name)


def _plain(column: pd.Series[Any]) -> list[str]:
    """Cells in no order, whatever type a column has become in a file."""
    texts = column.astype(object).where(column.notna() & (column != ""), "nan")
    return sorted(repr(float(one)) if not isinstance(one, str) else one for one in texts)


def _traces(home: Path, found: Recording, made: Checked) -> Iterable[str]:
    """What is recorded of each window against what its trace gives; windows that are others now."""
    profiles = [arm.profile for arm in found.arms.values() if arm.profile]
    for one in profiles:
        try:
            windows = analyze(read_trace(home / one.trace)).windows
        except (ValueError, OSError) as error:
            made.wrong.append(f"{one.trace}: {error}")
            continue
        for name, stored in one.analysis.windows.items():
            again = windows.get(name)
            if again is None or again.start_s != stored.start_s:
                yield f"{one.trace}: window {name!r} is another today"
            elif (stored.busy_s, stored.stall_s) != (again.busy_s, again.stall_s):
                made.wrong.append(f"{one.trace} does not give the recorded window {name!r}")
    made.looked += [f"{len(profiles)} traces"] * bool(profiles)
