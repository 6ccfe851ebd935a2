"""Pictures of the structures: what each gives for its size and its time, and one clip through all.

Figures have what they show attached, for `vdkit.save_figure`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from data.structures.recipe import STRUCTURES
from data.structures.record import Row
from vdkit.present.style import chart, keep_data, legend_below, say

AXES = {
    "kb_per_s": "latents, kB per second of video",
    "ms_per_video_s": "decode at full-size width, ms per second of video",
}
COLORS = {8: "#0072B2", 16: "#D55E00", 0: "#009E73"}
"""Of the standard family by pixels to a latent's side; 0: of the others."""
ERROR_TIMES = 4
"""How much stronger `plot_side_by_side` shows errors than they are."""


def trade_offs(quality: Iterable[Row], cost: Iterable[Row], measure: str = "psnr_db") -> list[Row]:
    """Of each structure and way: quality (mean over clips), bytes, time; highest measure first.

    Args:
        quality, cost: rows of these two kinds of recordings. A way without a cost, as one that is
            another for each clip, has None for it.
        measure: a column of ``quality``.
    """
    took = {(row["structure"], row["way"]): row["ms_per_video_s"] for row in cost}
    found: dict[tuple[str, str], list[float]] = {}
    sizes: dict[tuple[str, str], float] = {}
    for row in quality:
        key = row["structure"], row["way"]
        if row["clip"] is None:  # what is of all clips
            sizes[key] = row["latent_bytes_per_s"] / 1000
        elif row[measure] is not None:
            found.setdefault(key, []).append(row[measure])
    rows = [
        {
            "structure": key[0], "way": key[1], "clips": len(values), measure: mean(values),
            "kb_per_s": sizes[key], "ms_per_video_s": took.get(key),
        }
        for key, values in found.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row[measure])


def front(rows: Sequence[Row], axis: str, measure: str, lower: bool = False) -> list[Row]:
    """Those that no other beats in both, by ``axis``, of which less is better.

    Args:
        lower: less of the measure is better, too.
    """
    sign = -1 if lower else 1
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row[axis], -sign * row[measure])):
        if not best or sign * row[measure] > sign * best[-1][measure]:
            best.append(row)
    return best


def plot_trade_offs(
    rows: Sequence[Row], measure: str = "psnr_db", words: str = "PSNR dB", lower: bool = False
) -> Figure:
    """Quality over size, and over time: a dot for each of `trade_offs`, a line through the best."""
    handles: dict[str, Any] = {}
    with chart(3.4, 1, len(AXES), sharey=True) as (figure, axes):
        for ax, (axis, label) in zip(axes[0], AXES.items(), strict=True):
            there = [row for row in rows if row[axis] is not None]
            best = front(there, axis, measure, lower)
            line = [[row[key] for row in best] for key in (axis, measure)]
            ax.step(*line, where="post", color="#888888", linewidth=0.8, zorder=0)
            for row in there:
                name, way = row["structure"], row["way"]
                standard = name.startswith("z")
                family = STRUCTURES[name].spatial if standard else 0
                filled = COLORS[family] if way == "full" else "white"
                kind = f"standard, {family}x{family}" if standard else "two kinds of latents"
                look: Any = {"marker": "o", "color": COLORS[family], "markersize": 5, "ls": ""}
                ax.plot(row[axis], row[measure], mfc=filled, **look)
                handles[kind] = Line2D([], [], label=kind, **look)
                short = name.partition("-")[0] if standard else name
                text = short if way == "full" else f"{short}, {way}"
                say(ax, row[axis], row[measure], f" {text}", va="bottom", fontsize=6)
            ax.set(xscale="log", xlabel=label)
            ax.margins(x=0.35)
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter("")
        axes[0, 0].set_ylabel(words)
        legend_below(figure, list(handles.values()), ncols=3)
    return keep_data(figure, rows)


def plot_side_by_side(
    clip: np.ndarray, made: Mapping[str, np.ndarray], frame: int | None = None, columns: int = 4
) -> Figure:
    """One frame of a clip, and of what each structure made of it, each above its error.

    Args:
        clip: uint8 [F, H, W, 3].
        made: by name, of the same shape.
        frame: its number; None: the middle one.
    """
    at, names = len(clip) // 2 if frame is None else frame, ["original", *made]
    across = min(columns, len(names))
    rows = 2 * -(-len(names) // across)
    height, width = clip.shape[1:3]
    source, shown = clip[at].astype(int), list[Row]()
    with chart(6.3 / across * height / width * rows + 0.2 * rows, rows, across) as (figure, axes):
        for ax in axes.flat:
            ax.axis("off")
        for n, name in enumerate(names):
            picture = made[name][at].astype(int) if name in made else source
            error = np.abs(picture - source)
            row, column = 2 * (n // across), n % across
            axes[row, column].imshow(picture)
            axes[row, column].set_title(name, loc="left", fontsize=7)
            shown.append({"name": name, "frame": at, "mean_abs_levels": float(error.mean())})
            if name in made:
                axes[row + 1, column].imshow(255 - np.clip(ERROR_TIMES * error, 0, 255))
        axes[1, 0].text(0, 0.5, f"below each:\nits error x {ERROR_TIMES}", fontsize=7, va="center",
                        transform=axes[1, 0].transAxes)  # fmt: skip
    return keep_data(figure, shown)
