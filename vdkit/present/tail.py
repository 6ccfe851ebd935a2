"""The whole tail in a table and a picture: where the time until the closed file went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from matplotlib.patches import Patch

from vdkit.decode.chunks import DecodeResult
from vdkit.present import Cell, Number, Table, style
from vdkit.present.columns import mode_name
from vdkit.present.words import what_and_where
from vdkit.record.recording import Recording
from vdkit.trace.tail import PARTS, REST, Tail, tail_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Runs = Recording | Mapping[str, DecodeResult]
"""A recording, of whose arms the run nearest to the median is told; or results by name."""

_GRAY, _ENCODER, _WAITS = "#BBBBBB", style.TONES["write"], "////"
LOOKS = {
    "setup": ("#DDDDDD", ""),
    "open": (_GRAY, ""),
    "between": ("#888888", ""),
    "slot wait": ("#888888", _WAITS),
    "launch": (style.TONES["compute"][1], ""),
    "queue": (style.TONES["compute"][1], _WAITS),
    "decode": (style.TONES["compute"][0], ""),
    "copy": (style.TONES["copy"][0], ""),
    "wait": (style.TONES["copy"][1], _WAITS),
    "convert": (style.TONES["convert"][0], ""),
    "hand over": (_ENCODER[1], ""),
    "encode": (_ENCODER[0], ""),
    "mux": (_ENCODER[1], "...."),
    "encoder full": (_ENCODER[1], _WAITS),
    "close": (_GRAY, "...."),
    REST: ("#FFFFFF", "xxxx"),
}
"""Color and hatch of each part: a color for each step, hatched while it is waited for."""


def _tails(runs: Runs) -> tuple[dict[str, Tail], list[str]]:
    """Where the latency of each went, ns, and the parts of 0.05 ms or more in any."""
    if isinstance(runs, Recording):
        arms = {mode_name(name, runs.workload): arm for name, arm in runs.arms.items()}
        tails = {name: tail_of(arm.typical(), arm.config) for name, arm in arms.items()}
    else:
        tails = {name: tail_of(run, run.config) for name, run in runs.items()}
    return tails, [part for part in PARTS if any(one[part] >= 50_000 for one in tails.values())]


def tail_table(runs: Runs) -> Table:
    """What the whole latency, from the call to the closed file, went to, ms.

    A row for each part that any of them has, or for each of them, whichever is narrower.
    """
    tails, there = _tails(runs)
    shown = [*(part for part in there if part != REST), REST, "sum"]
    cells = {name: one | {"sum": sum(one.values())} for name, one in tails.items()}
    ms = {name: {part: Number(one[part] / 1e6, 1) for part in shown} for name, one in cells.items()}
    if sum(map(len, tails)) > sum(map(len, shown)):
        rows: list[dict[str, Cell]] = [{"ms": name, **one} for name, one in ms.items()]
    else:
        rows = [{"ms": part, **{name: ms[name][part] for name in ms}} for part in shown]
    said = [f"{part}: {PARTS[part]}" for part in shown[:-1] if PARTS[part]]
    told = "By what the thread that closes the file was at or waited for; parts below 0.05 ms not"
    title = "From the call to the closed file"
    if isinstance(runs, Recording):
        title += ", of each arm the run nearest to its median"
    return Table(rows, title, f"{told} shown. {'; '.join(said)}.")


def plot_tail(runs: Runs, title: str | None = None) -> Figure:
    """The same as a waterfall: a bar for each arm, ms; the legend has what can be seen of it."""
    tails, there = _tails(runs)
    sums = {name: sum(one.values()) for name, one in tails.items()}
    rows = []
    for name, one in tails.items():
        bar = [style.Part(p, one[p] / 1e6, *LOOKS[p]) for p in there if one[p] > 0]
        rows.append(style.ChartRow(name, bar, f"{sums[name] / 1e6:.1f} ms"))
    if title is None and isinstance(runs, Recording):
        title = f"{runs.label}: {what_and_where(runs)}"
    rest = max(100 * abs(one[REST]) / sums[name] for name, one in tails.items())
    words = f"ms from the call to the closed file; at most {rest:.2f} % {REST}"
    with style.row_chart({"": rows}, words, row_in=0.34, room=0.2, title=title) as (figure, _):
        seen = max(sums.values()) / 300
        handles = [
            Patch(facecolor=LOOKS[part][0], hatch=LOOKS[part][1], linewidth=0, label=part)
            for part in there if any(one[part] > seen for one in tails.values())
        ]  # fmt: skip
        style.legend_below(figure, handles, ncols=6)
    return figure
