"""A sweep in pictures: latency as a heat map, predicted against measured, what to set and when."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vdkit.predict.advise import StoragePoint, storage_sensitivity
from vdkit.predict.grid import Cell, Sweep, measured_s
from vdkit.present.style import MODE_COLORS, TONES, WIDTH_IN, chart, keep_data, legend_below, say
from vdkit.present.sweep_document import cell_records, speed_words, verdict
from vdkit.present.words import what_and_where
from vdkit.record.runs import MODES

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
BANDS = {2: "#DDDDDD", 5: "#F0F0F0"}
"""Errors, %, that the scatter plot shades."""
TITLE_CHARACTERS = 105
"""Of a line above a figure of 16 cm."""
_PANEL_IN, _COLUMN_IN, _BESIDE_IN = 0.2, 0.45, 1.3
"""Of a heat map: around a panel, a column (more if the title needs it), and beside all panels."""
WIDE_ENOUGH = 0.06
"""Of a strip's width: a setting that its words fit into."""


def plot_heatmap(sweep: Sweep, beside: Sequence[Sweep] = ()) -> Figure:
    """Mean latency, s: a panel per sink speed, chunk sizes down, paths and slots across.

    Large: measured; small: error of the prediction, %. Empty: not done. As wide as its columns
    need, 16 cm at the most.

    Args:
        beside: sweeps whose maps it is compared with: the colors mean the same in all of them.
    """
    cells = _mapped(sweep)
    speeds = _speeds(cells)
    sizes = sorted({cell.chunk_size for cell in cells})
    columns = sorted(
        {(cell.mode, cell.slots) for cell in cells},
        key=lambda one: (MODES.index(one[0]), one[1] or 0),
    )
    names = [mode if slots is None else f"{mode}\n{_slots(slots)}" for mode, slots in columns]
    maps = (sweep, *beside)
    known = [measured_s(one.results[c]) for one in maps for c in _mapped(one) if c in one.results]
    panel_in = max(1.0, _PANEL_IN + _COLUMN_IN * len(columns))
    across = max(1, min(len(speeds), int((WIDTH_IN - _BESIDE_IN) / panel_in)))
    down = -(-len(speeds) // across)
    width_in = min(WIDTH_IN, _BESIDE_IN + across * panel_in)
    size_in = (width_in, 1.0 + down * (0.62 + 0.36 * len(sizes)))
    title = _title(
        sweep, "mean latency in s; below it, what the prediction was off, % (fit: fitted from)",
        width_in,
    )  # fmt: skip
    colors = {"cmap": "cividis_r", "vmin": min(known, default=0), "vmax": max(known, default=1)}
    with chart(0, down, across, title, sharey=True, figsize=size_in) as (figure, axes):
        for ax in axes.flat[len(speeds) :]:
            ax.set_axis_off()
        for ax, speed in zip(axes.flat, speeds, strict=False):
            here = {
                (sizes.index(cell.chunk_size), columns.index((cell.mode, cell.slots))): cell
                for cell in cells
                if cell.mb_per_s == speed
            }
            grid = np.full((len(sizes), len(columns)), np.nan)
            for place, cell in here.items():
                if cell in sweep.results:
                    grid[place] = measured_s(sweep.results[cell])
            image = ax.imshow(grid, aspect="auto", **colors)
            for (y, x), cell in here.items():
                _annotate(ax, sweep, cell, x, y, image)
            ax.set_xticks(range(len(columns)), names)
            ax.set_yticks(range(len(sizes)), [f"chunk {size}" for size in sizes])
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            ax.set_title(f"sink at {speed_words(speed)}", loc="left")
        bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=30, pad=0.01)
        bar.set_label("mean latency, s")
        bar.outline.set_visible(False)
    return keep_data(figure, cell_records(sweep))


def _speeds(cells: Iterable[Cell]) -> list[float | None]:
    """Of the sinks, the fastest first; None: without a limit."""
    return sorted({cell.mb_per_s for cell in cells}, key=lambda s: -(s or float("inf")))


def _mapped(sweep: Sweep) -> list[Cell]:
    """All cells but those without a sink, unless there are no others."""
    every = sweep.plan.all_cells
    return [cell for cell in every if cell.mode != "compute_only"] or list(every)


def _title(sweep: Sweep, words: str, width_in: float = WIDTH_IN) -> str:
    """What was swept and ``words``, in lines that fit the figure."""
    per_line = int(TITLE_CHARACTERS * width_in / WIDTH_IN)
    said = (f"{sweep.plan.label}: {what_and_where(sweep.plan)}", words)
    return "\n".join(textwrap.fill(line, per_line) for line in said)


def _slots(count: int) -> str:
    return f"{count} slot{'s' * (count != 1)}"


def _annotate(ax: Axes, sweep: Sweep, cell: Cell, x: int, y: int, image: AxesImage) -> None:
    if cell in sweep.unfit:
        say(ax, x, y, "does\nnot fit", ha="center", fontsize=6)
    if cell in sweep.unfit or cell not in sweep.results:
        return
    value = measured_s(sweep.results[cell])
    red, green, blue, _ = image.to_rgba(np.array([value]))[0]
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
    error = sweep.error_percent(cell)
    small = "-" if error is None else f"{round(error, 1) + 0.0:+.1f}"
    small = "fit" if cell in sweep.plan.fit_cells else small
    say(ax, x, y - 0.14, f"{value:.2f}", ha="center", color=ink, fontsize=7.5)
    say(ax, x, y + 0.27, small, ha="center", color=ink, fontsize=5.5)


def plot_predictions(sweep: Sweep) -> Figure:
    """Predicted against measured mean latency, and the error, one mark per cell.

    Color: path; shape: sink speed; hollow: used for the fit. A bar spans the error against the
    fastest and the slowest run of the cell.
    """
    found = {cell: one for cell in sweep.results if (one := sweep.predicted(cell)) is not None}
    speeds = _speeds(found)
    mark: dict[str, Any] = {"markersize": 4, "linewidth": 0, "markeredgewidth": 0.8}
    title = _title(sweep, verdict(sweep))
    with chart(3.1, 1, 2, title, width_ratios=(1, 1.25)) as (figure, ((left, right),)):
        every = []
        for cell, one in found.items():
            latency = sweep.results[cell].arms[cell.mode].latency
            color, marker = MODE_COLORS[cell.mode], MARKERS[speeds.index(cell.mb_per_s) % 8]
            face = "none" if cell in sweep.plan.fit_cells else color
            style = mark | {"color": color, "marker": marker, "markerfacecolor": face}
            low, error, high = (
                100 * (one.latency_s / t - 1) for t in (latency.max, latency.mean, latency.min)
            )
            left.plot(latency.mean, one.latency_s, **style)
            right.plot([latency.mean] * 2, [low, high], color=color, linewidth=0.5, alpha=0.6)
            right.plot(latency.mean, error, **style)
            every += [latency.mean, one.latency_s]
        if every:
            span = (0.95 * min(every), 1.05 * max(every))
            left.plot(span, span, color="black", linewidth=0.6)
            left.set(xlim=span, ylim=span)
        right.axhline(0, color="black", linewidth=0.6)
        for percent, tone in BANDS.items():
            right.axhspan(-percent, percent, color=tone, zorder=-percent, linewidth=0)
        right.yaxis.set_major_locator(ticker.MaxNLocator(7))
        right.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        for ax, words in ((left, "predicted latency, s"), (right, "error of the prediction, %")):
            ax.set(xlabel="measured mean latency, s", ylabel=words)
            ax.xaxis.set_major_locator(ticker.MaxNLocator(6))
        modes = [mode for mode in MODE_COLORS if any(cell.mode == mode for cell in found)]
        marks = [(mode, MODE_COLORS[mode], "o", MODE_COLORS[mode]) for mode in modes]
        marks += [
            (speed_words(speed), "black", MARKERS[index % 8], "black")
            for index, speed in enumerate(speeds)
        ]
        handles: list[Line2D | Patch] = [
            Line2D([], [], color=color, marker=marker, linewidth=0, markersize=4, label=label,
                   markerfacecolor=face)
            for label, color, marker, face in (*marks, ("used for the fit", "black", "o", "none"))
        ]  # fmt: skip
        handles.append(Line2D([], [], color="black", linewidth=0.5, label="fastest to slowest run"))
        handles += [Patch(color=tone, label=f"±{percent} %") for percent, tone in BANDS.items()]
        legend_below(figure, handles, ncols=-(-len(handles) // 2), handlelength=2)
    return keep_data(figure, [one for one in cell_records(sweep) if one["predicted_latency_s"]])


def plot_sensitivity(sweeps: Mapping[str, Sweep]) -> Figure:
    """Predicted latency against storage speed, and below it the recommended setting.

    Args:
        sweeps: title to what `storage_sensitivity` is asked about; drawn below each other.
    """
    panels = {title: storage_sensitivity(sweep) for title, sweep in sweeps.items()}
    height, count = 0.4 + 2.3 * len(panels), len(panels)
    with chart(height, 2 * count, height_ratios=(5, 1) * count) as (figure, axes):
        for ax, strip, (title, points) in zip(
            axes[::2, 0], axes[1::2, 0], panels.items(), strict=True
        ):
            speeds = [one.mb_per_s for one in points]
            storage = [one.storage_s for one in points]
            sync = [(one.mb_per_s, one.sync_s) for one in points if one.sync_s is not None]
            async_s = [one.advice.prediction.run.latency_s for one in points]
            dashes = {"color": TONES["write"][0], "linestyle": (0, (3, 3)), "zorder": 3}
            ax.plot(speeds, storage, label="storage alone", **dashes)
            if sync:
                color = MODE_COLORS["sync"]
                ax.plot(*zip(*sync, strict=True), color=color, label="sync, at that chunk size")
            ax.plot(speeds, async_s, color=MODE_COLORS["async"], label="async, as recommended")
            _log_axes(ax, strip, speeds, [*storage, *async_s, *(value for _, value in sync)])
            ax.set_ylabel("predicted latency, s")
            ax.set_title(title, loc="left", fontsize=8)
            _draw_settings(strip, points)
        axes[-1, 0].set_xlabel("storage speed, MB/s")
        handles, _ = axes[0, 0].get_legend_handles_labels()
        legend_below(figure, handles, ncols=3, handlelength=2)
    rows = [
        {"panel": title, "storage_mb_per_s": one.mb_per_s}
        | {"chunk_size": one.advice.config.chunk_size, "slots": one.advice.config.slots}
        | {"async_s": one.advice.prediction.run.latency_s}
        | {"sync_s": one.sync_s, "storage_s": one.storage_s}
        for title, points in panels.items()
        for one in points
    ]
    return keep_data(figure, rows)


def _log_axes(ax: Axes, strip: Axes, speeds: Sequence[float], values: Sequence[float]) -> None:
    """Logarithmic, with plain numbers, and one speed axis for both."""
    for one in (ax, strip):
        one.set(xscale="log", xlim=(speeds[0], speeds[-1]))
    ax.tick_params(labelbottom=False)
    ax.set(yscale="log", ylim=(max(min(values), max(values) / 100), 1.1 * max(values)))
    for axis in (ax.xaxis, strip.xaxis, ax.yaxis):
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(ticker.NullLocator())


def _draw_settings(ax: Axes, points: Sequence[StoragePoint]) -> None:
    """A strip of the recommended settings; each begins halfway from the point before."""
    speeds = [one.mb_per_s for one in points]
    edges = [speeds[0], *(math.sqrt(a * b) for a, b in pairwise(speeds)), speeds[-1]]
    sizes = sorted({one.advice.config.chunk_size for one in points})
    first = 0
    settings = groupby(points, lambda one: (one.advice.config.chunk_size, one.advice.config.slots))
    for (size, slots), same in settings:
        last = first + sum(1 for _ in same)
        left, right = edges[first], edges[last]
        dark = sizes.index(size) % 2 == 0
        tone = TONES["compute"][0 if dark else 1]
        ax.barh(0, right - left, left=left, height=0.8, color=tone, edgecolor="white")
        if math.log(right / left) > WIDE_ENOUGH * math.log(edges[-1] / edges[0]):
            style = {"ha": "center", "fontsize": 6, "color": "white" if dark else "black"}
            say(ax, math.sqrt(left * right), 0, f"chunk {size}\n{_slots(slots)}", **style)
        first = last
    ax.set_yticks([])
    ax.spines[["left", "bottom"]].set_visible(False)
