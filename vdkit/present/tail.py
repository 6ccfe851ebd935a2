"""The whole tail in a table and a picture: where the time until the closed file went."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.patches import Patch

from vdkit.decode.chunks import DecodeConfig, DecodeResult
from vdkit.present import Cell, Number, Table, style
from vdkit.present.columns import mode_name
from vdkit.present.words import what_and_where
from vdkit.record.recording import Recording
from vdkit.trace import Recorded
from vdkit.trace.tail import PARTS, REST, Tail, life_of, tail_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Runs = Recording | Mapping[str, DecodeResult]
"""A recording, of whose arms the run nearest to the median is told; or results by name."""

_TONES = style.TONES
LOOKS = {
    "setup": ("#DDDDDD", ""),
    "open": ("#BBBBBB", ""),
    "between": ("#888888", ""),
    "slot wait": ("#888888", "////"),
    "launch": ("#F0E442", ""),
    "queue": (_TONES["compute"][1], "////"),
    "decode": (_TONES["compute"][0], ""),
    "copy": (_TONES["copy"][0], ""),
    "wait": (_TONES["copy"][1], "////"),
    "convert": (_TONES["convert"][0], ""),
    "hand over": (_TONES["write"][1], ""),
    "encode": (_TONES["write"][0], ""),
    "mux": (_TONES["convert"][1], ""),
    "encoder full": ("#E69F00", ""),
    "close": ("#BBBBBB", "////"),
    "close: encode": (_TONES["write"][0], "////"),
    "close: mux": (_TONES["convert"][1], "////"),
    "close: encoder full": ("#E69F00", "////"),
    REST: ("#FFFFFF", "xxxx"),
}
"""Color and hatch of each part."""
_INK = dict.fromkeys(("decode", "copy", "encode"), "white")


def _tails(runs: Runs, life: bool = False) -> dict[str, Tail]:
    """Where the latency of each went, ns; with ``life`` the mean over the lives of its chunks."""
    drawn: dict[str, tuple[Recorded, DecodeConfig]]
    if isinstance(runs, Recording):
        work = runs.workload
        drawn = {mode_name(n, work): (a.typical(), a.config) for n, a in runs.arms.items()}
    else:
        drawn = {name: (run, run.config) for name, run in runs.items()}
    if not life:
        return {name: tail_of(*both) for name, both in drawn.items()}
    means = {}
    for name, (run, _) in drawn.items():
        lives = [life_of(run, index) for index in range(len(run.chunks))]
        means[name] = {part: round(statistics.fmean(one[part] for one in lives)) for part in PARTS}
    return means


def tail_table(runs: Runs, life: bool = False) -> Table:
    """A row per part that any of them has, ms, and what it is; the parts add up.

    Args:
        runs: of which the whole latency, from the call to the closed file.
        life: of a chunk from its launch until it was written, mean over chunks, instead.
    """
    tails = _tails(runs, life)
    shown = [part for part in PARTS if part == REST or any(one[part] for one in tails.values())]
    rows: list[dict[str, Cell]] = []
    for name in (*shown, "sum"):
        row: dict[str, Cell] = {"ms": name}
        for arm, one in tails.items():
            row[arm] = Number((one[name] if name in one else sum(one.values())) / 1e6, 3)
        rows.append(row | {"what": PARTS.get(name, "the whole")})
    whole = "until the closed file went, by what the thread that closes it was at or waited for"
    chunk = "of a chunk went, from its launch until it was written, mean of all chunks"
    return Table(rows, f"Where the time {chunk if life else whole}")


def plot_tail(runs: Runs, title: str | None = None) -> Figure:
    """The same as a waterfall: a bar for each arm, ms, and what is unaccounted for beside it."""
    tails, rows = _tails(runs), []
    for name, one in tails.items():
        bar = [style.Part(p, one[p] / 1e6, *LOOKS[p], ink=_INK.get(p, "black")) for p in PARTS]
        whole = sum(one.values())
        words = f"{whole / 1e6:.1f} ms, {REST} {100 * one[REST] / whole:.2f} %"
        rows.append(style.ChartRow(name, [part for part in bar if part.length > 0], words))
    there = [part for part in PARTS if any(one[part] > 0 for one in tails.values())]
    if title is None and isinstance(runs, Recording):
        title = f"{runs.label}: {what_and_where(runs)}"
    words = "ms from the call to the closed file"
    options: Any = {"title": title, "room": 0.4}
    with style.row_chart({"": rows}, words, row_in=0.34, **options) as (figure, _):
        handles = [
            Patch(facecolor=color, hatch=hatch, edgecolor="black", linewidth=0, label=part)
            for part in there
            for color, hatch in [LOOKS[part]]
        ]
        style.legend_below(figure, handles, ncols=6, fontsize=6.5)
    return figure
