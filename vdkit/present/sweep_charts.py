"""A sweep in pictures: latency as a heat map, predicted against measured, what to set and when."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import (
    FormatStrFormatter,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from vdkit.predict.advise import storage_sensitivity
from vdkit.predict.grid import Cell, Sweep, measured_s
from vdkit.present.style import MODE_COLORS, STYLE, TONES, WIDTH_IN, keep_data
from vdkit.present.sweep_document import cell_records, speed_words, verdict
from vdkit.present.words import what_and_where
from vdkit.record.runs import MODES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from vdkit.predict.advise import StoragePoint

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
BAND_PERCENT = (2, 5)
"""Errors that the scatter plot shades."""
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
    speeds = sorted({cell.mb_per_s for cell in cells}, key=lambda s: -(s or float("inf")))
    sizes = sorted({cell.chunk_size for cell in cells})
    columns = sorted(
        {(cell.mode, cell.slots) for cell in cells},
        key=lambda one: (MODES.index(one[0]), one[1] or 0),
    )
    known = [
        measured_s(one.results[cell])
        for one in (sweep, *beside)
        for cell in _mapped(one)
        if cell in one.results
    ]
    panel_in = max(1.0, _PANEL_IN + _COLUMN_IN * len(columns))
    across = max(1, min(len(speeds), int((WIDTH_IN - _BESIDE_IN) / panel_in)))
    down = -(-len(speeds) // across)
    width_in = min(WIDTH_IN, _BESIDE_IN + across * panel_in)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            down, across, squeeze=False, layout="constrained", sharey=True,
            figsize=(width_in, 1.0 + down * (0.62 + 0.36 * len(sizes))),
        )  # fmt: skip
        plt.close(figure)
        panels = list(axes.flat)
        for ax in panels[len(speeds) :]:
            ax.set_axis_off()
        for ax, speed in zip(panels, speeds, strict=False):
            here = {
                (sizes.index(cell.chunk_size), columns.index((cell.mode, cell.slots))): cell
                for cell in cells
                if cell.mb_per_s == speed
            }
            grid = np.full((len(sizes), len(columns)), np.nan)
            for place, cell in here.items():
                if cell in sweep.results:
                    grid[place] = measured_s(sweep.results[cell])
            image = ax.imshow(
                grid, cmap="cividis_r", aspect="auto",
                vmin=min(known, default=0), vmax=max(known, default=1),
            )  # fmt: skip
            for (y, x), cell in here.items():
                _annotate(ax, sweep, cell, x, y, image)
            ax.set_xticks(range(len(columns)), [_column_name(*one) for one in columns])
            ax.set_yticks(range(len(sizes)), [f"chunk {size}" for size in sizes])
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            ax.set_title(f"sink at {speed_words(speed)}", loc="left")
        bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=30, pad=0.01)
        bar.set_label("mean latency, s")
        bar.outline.set_visible(False)
        _title(
            figure, sweep,
            "mean latency in s; below it, what the prediction was off, % (fit: fitted from)",
        )  # fmt: skip
    return keep_data(figure, cell_records(sweep))


def _mapped(sweep: Sweep) -> list[Cell]:
    """All cells but those without a sink, unless there are no others."""
    every = sweep.plan.all_cells
    return [cell for cell in every if cell.mode != "compute_only"] or list(every)


def _title(figure: Figure, sweep: Sweep, words: str) -> None:
    """What was swept and ``words``, in lines that fit the figure."""
    per_line = int(TITLE_CHARACTERS * figure.get_figwidth() / WIDTH_IN)
    said = (f"{sweep.plan.label}: {what_and_where(sweep.plan)}", words)
    text = "\n".join(textwrap.fill(line, per_line) for line in said)
    figure.suptitle(text, fontsize=8, x=0.01, ha="left")


def _column_name(mode: str, slots: int | None) -> str:
    if slots is None:
        return mode
    return f"{mode}\n{slots} slot{'s' * (slots != 1)}"


def _annotate(ax: Axes, sweep: Sweep, cell: Cell, x: int, y: int, image: AxesImage) -> None:
    if cell in sweep.unfit:
        ax.text(x, y, "does\nnot fit", ha="center", va="center", fontsize=6)
        return
    if cell not in sweep.results:
        return
    value = measured_s(sweep.results[cell])
    red, green, blue, _ = image.to_rgba(np.array([value]))[0]
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
    error = sweep.error_percent(cell)
    small = "-" if error is None else f"{round(error, 1) + 0.0:+.1f}"
    small = "fit" if cell in sweep.plan.fit_cells else small
    ax.text(x, y - 0.14, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=7.5)
    ax.text(x, y + 0.27, small, ha="center", va="center", color=ink, fontsize=5.5)


def plot_predictions(sweep: Sweep) -> Figure:
    """Predicted against measured mean latency, and the error, one mark per cell.

    Color: path; shape: sink speed; hollow: used for the fit. A bar spans the error against the
    fastest and the slowest run of the cell.
    """
    shown = [cell for cell in sweep.results if sweep.predicted(cell) is not None]
    speeds = sorted({cell.mb_per_s for cell in shown}, key=lambda s: -(s or float("inf")))
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(WIDTH_IN, 3.1), layout="constrained", width_ratios=(1, 1.25)
        )
        lows, highs = [], []
        for cell in shown:
            one = sweep.predicted(cell)
            assert one is not None
            latency = sweep.results[cell].arms[cell.mode].latency
            color, marker = MODE_COLORS[cell.mode], MARKERS[speeds.index(cell.mb_per_s) % 8]
            face = "none" if cell in sweep.plan.fit_cells else color
            style = {"color": color, "marker": marker, "markerfacecolor": face,
                     "markersize": 4, "linewidth": 0, "markeredgewidth": 0.8}  # fmt: skip
            left.plot(latency.mean, one.latency_s, **style)
            error = 100 * (one.latency_s / latency.mean - 1)
            ends = [100 * (one.latency_s / t - 1) for t in (latency.max, latency.min)]
            right.plot([latency.mean] * 2, ends, color=color, linewidth=0.5, alpha=0.6)
            right.plot(latency.mean, error, **style)
            lows.append(min(latency.mean, one.latency_s))
            highs.append(max(latency.mean, one.latency_s))
        if shown:
            span = (0.95 * min(lows), 1.05 * max(highs))
            left.plot(span, span, color="black", linewidth=0.6)
            left.set_xlim(span)
            left.set_ylim(span)
        left.set_xlabel("measured mean latency, s")
        left.set_ylabel("predicted latency, s")
        right.axhline(0, color="black", linewidth=0.6)
        for percent, tone in zip(BAND_PERCENT, ("#DDDDDD", "#F0F0F0"), strict=True):
            right.axhspan(-percent, percent, color=tone, zorder=-percent, linewidth=0)
        right.set_xlabel("measured mean latency, s")
        right.set_ylabel("error of the prediction, %")
        right.yaxis.set_major_locator(MaxNLocator(7))
        right.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        for ax in (left, right):
            ax.xaxis.set_major_locator(MaxNLocator(6))
        _legend(figure, shown, speeds, sweep)
        _title(figure, sweep, verdict(sweep))
        plt.close(figure)
    return keep_data(figure, [one for one in cell_records(sweep) if one["predicted_latency_s"]])


def _legend(figure: Figure, shown: list[Cell], speeds: list[float | None], sweep: Sweep) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def mark(label: str, color: str, marker: str, hollow: bool = False) -> Line2D:
        return Line2D([], [], color=color, marker=marker, linewidth=0, markersize=4, label=label,
                      markerfacecolor="none" if hollow else color)  # fmt: skip

    modes = [mode for mode in MODE_COLORS if any(cell.mode == mode for cell in shown)]
    handles: list[Line2D | Patch] = [mark(mode, MODE_COLORS[mode], "o") for mode in modes]
    handles += [mark(speed_words(speed), "black", MARKERS[i % 8]) for i, speed in enumerate(speeds)]
    handles.append(mark("used for the fit", "black", "o", hollow=True))
    handles.append(Line2D([], [], color="black", linewidth=0.5, label="fastest to slowest run"))
    handles.append(Patch(color="#DDDDDD", label=f"±{BAND_PERCENT[0]} %"))
    handles.append(Patch(color="#F0F0F0", label=f"±{BAND_PERCENT[1]} %"))
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // 2),
                  frameon=False, fontsize=7, columnspacing=1.2)  # fmt: skip


def plot_sensitivity(sweeps: Mapping[str, Sweep]) -> Figure:
    """Predicted latency against storage speed, and below it the recommended setting.

    Args:
        sweeps: title to what `storage_sensitivity` is asked about; drawn below each other.
    """
    panels = {title: storage_sensitivity(sweep) for title, sweep in sweeps.items()}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            2 * len(panels), 1, squeeze=False, layout="constrained",
            figsize=(WIDTH_IN, 0.4 + 2.3 * len(panels)), height_ratios=(5, 1) * len(panels),
        )  # fmt: skip
        plt.close(figure)
        for row, (title, points) in enumerate(panels.items()):
            ax, strip = axes[2 * row, 0], axes[2 * row + 1, 0]
            speeds = [one.mb_per_s for one in points]
            sync = [(one.mb_per_s, one.sync_s) for one in points if one.sync_s is not None]
            storage = [one.storage_s for one in points]
            async_s = [one.advice.prediction.run.latency_s for one in points]
            ax.plot(speeds, storage, color="#009E73", linestyle=(0, (3, 3)), zorder=3,
                    label="storage alone")  # fmt: skip
            if sync:
                ax.plot(*zip(*sync, strict=True), color=MODE_COLORS["sync"],
                        label="sync, at that chunk size")  # fmt: skip
            ax.plot(speeds, async_s, color=MODE_COLORS["async"], label="async, as recommended")
            _log_axes(ax, strip, speeds, [*storage, *async_s, *(value for _, value in sync)])
            ax.set_ylabel("predicted latency, s")
            ax.set_title(title, loc="left", fontsize=8)
            _draw_settings(strip, points)
        axes[-1, 0].set_xlabel("storage speed, MB/s")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False,
                      fontsize=7)  # fmt: skip
    return keep_data(
        figure,
        [
            {
                "panel": title,
                "storage_mb_per_s": one.mb_per_s,
                "chunk_size": one.advice.config.chunk_size,
                "slots": one.advice.config.slots,
                "async_s": one.advice.prediction.run.latency_s,
                "sync_s": one.sync_s,
                "storage_s": one.storage_s,
            }
            for title, points in panels.items()
            for one in points
        ],
    )


def _log_axes(ax: Axes, strip: Axes, speeds: Sequence[float], values: Sequence[float]) -> None:
    """Logarithmic, with plain numbers, and one speed axis for both."""
    for one in (ax, strip):
        one.set_xscale("log")
        one.set_xlim(speeds[0], speeds[-1])
        one.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        one.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        one.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(labelbottom=False)
    ax.set_yscale("log")
    ax.set_ylim(max(min(values), max(values) / 100), 1.1 * max(values))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def _draw_settings(ax: Axes, points: Sequence[StoragePoint]) -> None:
    """A strip of the recommended settings; each begins halfway from the point before."""
    speeds = [one.mb_per_s for one in points]
    edges = [speeds[0], *(math.sqrt(a * b) for a, b in pairwise(speeds)), speeds[-1]]
    width = math.log(edges[-1] / edges[0])
    first = 0
    settings = [(one.advice.config.chunk_size, one.advice.config.slots) for one in points]
    sizes = sorted({size for size, _ in settings})
    for index, (size, slots) in enumerate(settings):
        if index + 1 < len(settings) and settings[index + 1] == (size, slots):
            continue
        left, right = edges[first], edges[index + 1]
        tone = TONES["compute"][sizes.index(size) % 2]
        ax.barh(0, right - left, left=left, height=0.8, color=tone, edgecolor="white")
        if math.log(right / left) > WIDE_ENOUGH * width:
            ax.text(
                math.sqrt(left * right), 0, f"chunk {size}\n{slots} slot{'s' * (slots != 1)}",
                ha="center", va="center", fontsize=6,
                color="white" if tone == TONES["compute"][0] else "black",
            )  # fmt: skip
        first = index + 1
    ax.set_yticks([])
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
