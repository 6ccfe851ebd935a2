"""Windows of latent frames against exact streaming: a table, and the picture of their borders."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vdkit.present import Cell, Number, Table, filled, mean_of, number
from vdkit.present.document import Document, Part, Picture, section
from vdkit.record.stats import mean_half_width
from vdkit.record.windows import Windowed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = ("#D55E00", "#E69F00", "#56B4E9", "#0072B2", "#CC79A7", "#009E73")
_NOTES = {
    "overlap": "Overlap: latent frames.",
    "missing": "Missing: frames that exact streaming has beyond those.",
    "PSNR dB": "PSNR: against exact streaming, of the frames there are.",
    "at the border": "At the border: error of the first frame from there on, levels of 255, root "
    "mean square.",
    "step": "Step: the largest change from frame to frame there, over the median elsewhere.",
    "pulse": "Pulse: flicker at the windows' period, levels: what of that change repeats from "
    "border to border, beyond what does with a period of a latent frame more and less.",
    "seconds": "Seconds, GiB: of the decode, which keeps its frames on the host.",
}
"""Of the columns that need one."""


def _alike(several: Sequence[Windowed]) -> dict[tuple[str, int], list[Windowed]]:
    """By name and overlap: one of each clip."""
    found: dict[tuple[str, int], list[Windowed]] = {}
    for one in several:
        found.setdefault((one.name, one.overlap), []).append(one)
    return found


def _mean(values: Sequence[float | None], decimals: int, interval: bool = False) -> Number | None:
    """Of those that there are."""
    there = [one for one in values if one is not None and math.isfinite(one)]
    if not there:
        return None
    mean, std = float(np.mean(there)), float(np.std(there, ddof=1)) if len(there) > 1 else 0.0
    half = mean_half_width(std, len(there)) if interval else None
    return Number(mean, decimals, *(() if half is None else (mean - half, mean + half)))


def _seen(verdicts: Sequence[str]) -> str:
    """Of several clips: how often each."""
    found = sorted(Counter(verdicts).items())
    return "; ".join(f"{one} {n}x" if one and len(verdicts) > 1 else one for one, n in found)


def windowed_table(several: Sequence[Windowed]) -> Table:
    """A row for each name and overlap: mean of all clips that were made so."""
    rows: list[dict[str, Cell]] = []
    for (name, overlap), clips in _alike(several).items():
        exact, peaks = all(one.exact for one in clips), [one.peak_bytes for one in clips]
        rows.append({
            "made by": name,
            "overlap": None if exact else number(overlap),
            "clips": number(len(clips)),
            "frames": _mean([len(one.shown) for one in clips], 0),
            "missing": _mean([one.missing for one in clips], 0),
            "PSNR dB": "exact" if exact else _mean([one.psnr_db for one in clips], 1, True),
            "at the border": _mean([one.border_levels for one in clips], 1),
            "step": _mean([one.step for one in clips], 1),
            "pulse": _mean([one.pulse_levels for one in clips], 1),
            "seconds": mean_of([s for one in clips for s in one.seconds[1:] or one.seconds]),
            "peak GiB": _mean([peak and peak / 2**30 for peak in peaks], 2),
            "seen": _seen([one.verdict for one in clips]),
        })  # fmt: skip
    shown = [name for name in (*rows, {})[0] if any(row[name] for row in rows)]
    note = " ".join(_NOTES[name] for name in shown if name in _NOTES)
    return Table([{name: row[name] for name in shown} for row in rows], note=filled(note, 100))


def windows_document(several: Sequence[Windowed]) -> Document:
    """Table and picture of clips made in windows."""
    parts: list[Part] = [windowed_table(several)]
    if any(one.errors and not one.exact for one in several):
        what = "Error by distance from a border, a line for each overlap"
        parts.append(Picture(lambda: plot_windowed(several), what, "", "windows"))
    title = "Windows of latent frames"
    return Document(title, "Against exact streaming", (), (section("windows", title, *parts),))


def plot_windowed(several: Sequence[Windowed], title: str | None = None) -> Figure:
    """Error by distance from the nearest border, a line for each overlap, of all clips; a panel for
    each name. Exact streaming is the line at the bottom.

    Raises:
        ValueError: none has an error against exact streaming.
    """
    from matplotlib.lines import Line2D

    from vdkit.present.style import chart, keep_data, legend_below

    shown = _alike([one for one in several if one.errors and not one.exact])
    if not shown:
        raise ValueError("nothing has an error by distance; measure windows with exact=")
    panels = list(dict.fromkeys(name for name, _ in shown))
    overlaps = sorted({overlap for _, overlap in shown})
    rows: list[tuple[str, int, int, float]] = []
    with chart(2.6, 1, len(panels), title, sharey=True) as (figure, axes):
        of_panel = dict(zip(panels, axes[0], strict=True))
        for (name, overlap), clips in shown.items():
            found: dict[int, list[float]] = {}
            for after, error in (item for one in clips for item in one.errors.items()):
                found.setdefault(after, []).append(error)
            dots = [(at, math.hypot(*found[at]) / len(found[at]) ** 0.5) for at in sorted(found)]
            rows += [(name, overlap, *dot) for dot in dots]
            look = {"color": _COLORS[overlaps.index(overlap) % len(_COLORS)], "linewidth": 0.9}
            at = range(dots[0][0], dots[-1][0] + 1)  # no line leads over missing frames
            of_panel[name].plot(
                at, [dict(dots).get(n, math.nan) for n in at], ".-", markersize=3, **look
            )
        for name, ax in of_panel.items():
            ax.axhline(0, color="black", linewidth=2, clip_on=False)
            ax.axvline(0, color="#888888", linewidth=0.5, linestyle=":")
            ax.set_title(name, loc="left")
            ax.set_xlabel("frames after the nearest border")
        axes[0, 0].set(ylim=(0, None), ylabel="RMS error, levels of 255")
        lines = {f"overlap {n}": color for n, color in zip(overlaps, _COLORS, strict=False)}
        lines["exact streaming"] = "black"
        made = [Line2D([], [], color=color, label=label) for label, color in lines.items()]
        legend_below(figure, made, ncols=6)
    return keep_data(figure, rows, ("name", "overlap", "frames after", "levels"))
