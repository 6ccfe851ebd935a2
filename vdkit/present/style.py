"""How pictures look and are saved, with their data: 16 cm wide, for colorblind eyes.

No figure is registered with pyplot: a notebook shows it as a cell's last expression, a script saves
it with ``savefig`` or `vdkit.save_figure`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vdkit.record import new_paths, written

WIDTH_IN = 16 / 2.54  # of a figure in a report
LINE_CHARACTERS = 100  # of a line above such a figure; what is longer is wrapped

# Okabe and Ito's color-blind safe palette, a light and a dark tone for even and odd chunks.
TONES = {
    "compute": ("#0072B2", "#56B4E9"),
    "copy": ("#D55E00", "#E8925A"),
    "convert": ("#CC79A7", "#E2B1CB"),
    "write": ("#009E73", "#66C4A9"),
}
LANE_MEANING = {
    "compute": "decode on the compute stream",
    "copy": "copy to the host",
    "convert": "convert on the host",
    "write": "write to the sink",
}
# Causes share the color of what the stream waits for; hatches tell them from the work itself.
CAUSE_COLORS = {
    "launch late": ("#F0E442", "...."),
    "synchronous copy": ("#D55E00", "////"),
    "slot held by copy": ("#E8925A", "\\\\\\\\"),
    "slot held by sink": ("#009E73", "////"),
    "encoder full": ("#E69F00", "////"),
    "host work": ("#CC79A7", "////"),
    "device copy": ("#E69F00", "...."),
    "fill": ("#BBBBBB", ""),
    "drain": ("#888888", ""),
    "unknown": ("#000000", "xxxx"),
    "short": ("#DDDDDD", ""),
}
MODE_COLORS = {
    "diffusers": "#CC79A7",
    "sync": "#D55E00",
    "async": "#0072B2",
    "compute_only": "#888888",
}
FAMILY_COLORS = {
    "convolution": ("#0072B2", "white"),
    "matrix multiply": ("#56B4E9", "black"),
    "elementwise": ("#D55E00", "white"),
    "normalization": ("#CC79A7", "black"),
    "layout conversion": ("#E69F00", "black"),
    "copy, cat, pad, cast": ("#F0E442", "black"),
    "upsampling": ("#009E73", "white"),
    "communication": ("#000000", "white"),
    "other": ("#888888", "black"),
}
"""Of kernel families, and the ink that can be read on them, in order of drawing."""
RED = "#C00000"
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.5,
    "figure.dpi": 200,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label may hold dollars
}


@contextmanager
def chart(
    height_in: float, rows: int = 1, columns: int = 1, title: str | None = None,
    warning: str = "", width_in: float = WIDTH_IN, **options: Any,
) -> Iterator[tuple[Figure, Any]]:  # fmt: skip
    """A figure in this style and its axes, [rows, columns]; ``title`` stands above it at the left.

    Args:
        height_in: where the words above take one line.
        warning: red words above the title, which is red then, too.
        options: of `matplotlib.pyplot.subplots`.
    """
    per_line = int(LINE_CHARACTERS * width_in / WIDTH_IN)
    lines = (*warning.splitlines(), *(title or "").splitlines())
    words = "\n".join(textwrap.fill(line, per_line) for line in lines)
    given: dict[str, Any] = {"squeeze": False, "layout": "constrained"}
    given["figsize"] = (width_in, height_in + 0.12 * words.count("\n"))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, **(given | options))
        plt.close(figure)
        yield figure, axes
        if words:
            color = RED if warning else "black"
            figure.suptitle(words, fontsize=8, x=0.01, ha="left", color=color)


class Part(NamedTuple):
    """A part of a row's bar: what it is and how long; its value stands in it in ``ink``."""

    name: str
    length: float
    color: str
    hatch: str = ""
    edge: str = "none"
    ink: str = ""


@dataclass(frozen=True, slots=True)
class ChartRow:
    """What is known of one arm, in one row.

    Attributes:
        name: at the axis.
        parts: of its bar, laid end to end from ``left``.
        words: behind all that is drawn.
        dots: a value for each run, in ``color``.
        interval: low and high around the value, or nothing.
        gap: free above it, in rows.
    """

    name: str
    parts: Sequence[Part] = ()
    words: str = ""
    left: float = 0.0
    dots: Sequence[float] = ()
    interval: Sequence[float] = ()
    color: str = "black"
    gap: float = 0.0

    @property
    def ends(self) -> list[float]:
        """Where its parts begin and end."""
        return list(accumulate((part.length for part in self.parts), initial=self.left))

    @property
    def extent(self) -> list[float]:
        """All that is drawn of it; of runs alone no bar's beginning."""
        return [*(() if self.dots and not self.parts else self.ends), *self.dots, *self.interval]

    @property
    def data(self) -> list[tuple[str, float]]:
        """What it shows: its parts, the interval and each run."""
        interval = zip(("low", "high"), self.interval, strict=False)
        return [*(part[:2] for part in self.parts), *interval, *(("run", one) for one in self.dots)]


@contextmanager
def row_chart(
    panels: Mapping[str, Sequence[ChartRow]], xlabel: str,
    limits: tuple[float, float] | None = None, *, row_in: float = 0.3, room: float = 0.12,
    across: bool = False, **options: Any,
) -> Iterator[tuple[Figure, list[Axes]]]:  # fmt: skip
    """Values by row, with intervals and runs: panels on one axis, with what they show as data.

    Args:
        panels: title to rows; below each other, or side by side if ``across``.
        limits: of the axis; None: all that is drawn, 0, and ``room`` (a part of that) for words.
        row_in: height of a row, in.
        options: of `chart`.
    """
    places = {t: list(accumulate(1 + row.gap for row in rows)) for t, rows in panels.items()}
    heights = [0.15 + 0.2 * bool(t) + row_in * (ys[-1] - ys[0] + 1) for t, ys in places.items()]
    shape = (1, len(panels)) if across else (len(panels), 1)
    height_in = 0.55 + (max(heights) if across else sum(heights))
    grid = {} if across else {"height_ratios": heights}
    every = [row for rows in panels.values() for row in rows]
    drawn = [0.0, *(value for row in every for value in row.extent)]
    low, span = min(drawn), max(drawn) - min(drawn) or 1.0
    given: dict[str, Any] = {"sharex": True, "sharey": across, "gridspec_kw": grid}
    with chart(height_in, *shape, **(given | options)) as (figure, axes):
        for ax, (title, rows) in zip(axes.flat, panels.items(), strict=True):
            for row, y in zip(rows, places[title], strict=True):
                _draw_row(ax, row, y, span)
            ax.set_title(title, loc="left", fontsize=8)
            ax.set_yticks(places[title], [row.name for row in rows])
            ax.tick_params(axis="y", length=0)
            ax.set(ylim=(places[title][-1] + 0.55, places[title][0] - 0.55), xlabel=xlabel)
            ax.label_outer()
        axes[0, 0].set_xlim(limits or (low - 0.04 * span * (low < 0), low + (1 + room) * span))
        yield figure, list(axes.flat)
    kept = [(t, row.name, *one) for t, rows in panels.items() for row in rows for one in row.data]
    keep_data(figure, kept, ("panel", "row", "what", "value"))


def _draw_row(ax: Axes, row: ChartRow, y: float, span: float) -> None:
    for part, left in zip(row.parts, row.ends, strict=False):
        edge = {"edgecolor": part.edge, "linewidth": 0.3 * (part.edge == "black")}
        look: dict[str, Any] = {"facecolor": part.color, "hatch": part.hatch} | edge
        ax.barh(y, part.length, left=left, height=0.72, **look)
        if part.ink and part.length > 0.04 * span:
            inside = f"{part.length:.2f}"
            say(ax, left + part.length / 2, y, inside, color=part.ink, fontsize=6, ha="center")
    if row.interval:
        ax.plot(row.interval, [y, y], color="black", linewidth=1.1, marker="|", zorder=3)
    if row.dots:
        at, size = y + 0.2 * bool(row.parts), 4 if row.parts else 10
        look = {"s": size, "color": row.color, "alpha": 0.5, "linewidth": 0}
        ax.scatter(row.dots, [at] * len(row.dots), **look)
    look = {"va": "center", "fontsize": 7, "color": "black" if row.parts else "#666666"}
    ax.annotate(row.words, (max(row.extent), y), (4, 0), textcoords="offset points", **look)


def legend_below(figure: Figure, handles: Sequence[Any] | None = None, **style: Any) -> None:
    """A legend below all axes, of ``handles`` or of what has a label."""
    usual = {"loc": "outside lower center", "frameon": False, "fontsize": 7}
    style = usual | {"columnspacing": 1.2, "handlelength": 1.4} | style
    figure.legend(**style if handles is None else style | {"handles": handles})


def say(ax: Axes, x: float, y: float, words: str, **style: Any) -> Any:
    """Words in or beside a bar, on its middle."""
    return ax.text(x, y, words, **{"va": "center", "fontsize": 7, **style})


def keep_data(figure: Figure, rows: Sequence[Any], columns: Sequence[str] = ()) -> Figure:
    """Attach what a figure shows, for `save_figure`.

    Each mark is a mapping of column to value, or its values in the order of ``columns``.
    """
    made = [dict(zip(columns, row, strict=True)) for row in rows] if columns else rows
    figure.vdkit_data = made  # type: ignore[attr-defined]
    return figure


def save_figure(figure: Figure, folder: Path | str, name: str) -> list[Path]:
    """``name.png``, ``name.svg`` and ``name.pdf`` in ``folder``, and the data shown, ``name.csv``.

    The folder is made if need be. Nothing is overwritten: if one of the four is there, none is
    written. Each appears under its name only when complete.

    Args:
        figure: of any ``plot_...`` of vdkit, which knows what it shows.

    Returns:
        The four paths.

    Raises:
        FileExistsError: a file is there; give another name, or remove it first.
        ValueError: ``name`` is empty or a path, or the figure is not one of vdkit's.
    """
    import pandas as pd

    if (rows := getattr(figure, "vdkit_data", None)) is None:
        raise ValueError("the figure has no data to write beside it; use its savefig")
    *pictures, table = new_paths(folder, name, ("png", "svg", "pdf", "csv"))
    with plt.rc_context(STYLE):
        for path in pictures:
            with written(path, new=True) as partial:
                figure.savefig(partial)
    with written(table, new=True) as partial:
        pd.DataFrame(rows).to_csv(partial, index=False, lineterminator="\n")
    return [*pictures, table]
