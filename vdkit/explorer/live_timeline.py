"""A timeline that is redrawn while a slider moves: one figure, kept, and only its bars replaced.

`vdkit.present.timeline` makes a figure for every call, which a report can wait for and a slider can
not. Here each lane is one collection of bars, and the axes stay.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vdkit.decode.chunks import DecodeResult
from vdkit.explorer import SessionRun
from vdkit.predict.advise import SettingPrediction
from vdkit.present.style import CAUSE_COLORS, STYLE, WIDTH_IN
from vdkit.present.timeline import (
    BAR,
    cause_handle,
    draw_lanes,
    draw_stalls,
    lane_handles,
    two_chunks,
)
from vdkit.present.words import config_words
from vdkit.record.runs import Run
from vdkit.trace.stalls import Stalls

HEIGHT_IN = 2.6
"""With the controls above it, the whole picture is seen in JupyterLab on 1280 x 800 pixels."""
SCREEN_DPI = 190
LANES = 4  # room for compute, copy, convert and write in every panel, so that nothing jumps
LEGEND_PART = 0.135
"""Of the picture's height, at its bottom: the legend's alone."""
_FONT: Any = {**STYLE, "font.size": 7.0, "axes.titlesize": 7.0}
DASHES: tuple[Any, ...] = ((0, (4, 2)), ":")
WHOSE = ("predicted: ", "measured: ")
"""Lines of the first run of a panel, and of the second, and what they are called."""
_LINE: Any = {"color": "black", "linewidth": 0.8}


@dataclass(frozen=True, slots=True)
class Panel:
    """One row of the picture.

    Attributes:
        title: above it.
        runs: one, or a predicted and a measured one, which lies below the other in each lane.
        stalls: of the first, shaded by cause.
    """

    title: str
    runs: tuple[Run | DecodeResult, ...]
    stalls: Stalls


def setting_panels(predicted: SettingPrediction, run: SessionRun | None) -> list[Panel]:
    """Both paths of a setting; its run, if there is one, below the prediction in each lane."""
    panels = []
    for mode, made in predicted.predictions.items():
        measured = (run.shown(mode),) if run else ()
        title = f"{mode}: predicted {made.run.latency_s:.3f} s"
        for one in measured:
            title += f" (upper bars), measured {one.latency_s:.3f} s (lower bars)"
        panels.append(Panel(title, (made.run, *measured), made.stalls))
    return panels


def pair_panels(runs: Sequence[SessionRun]) -> list[Panel]:
    """Mode async of each run."""
    panels = []
    for run in runs:
        shown = run.shown("async")
        title = f"run {run.number}, async: {shown.latency_s:.3f} s. "
        title += config_words(run.setting.config)
        panels.append(Panel(title, (shown,), run.stalls("async")))
    return panels


class LiveTimeline:
    """Two panels above each other: whole runs at the left, two consecutive chunks at the right."""

    def __init__(self) -> None:
        with mpl.rc_context(_FONT):
            self.figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=SCREEN_DPI)
            self._canvas = FigureCanvasAgg(self.figure)
            add = self.figure.add_axes
            self._axes: list[tuple[Axes, Axes]] = [
                (add((0.078, bottom, 0.552, 0.308)), add((0.66, bottom, 0.322, 0.308)))
                for bottom in (0.624, 0.238)
            ]
            for ax in self.figure.axes:
                ax.tick_params(axis="y", length=0)
                ax.tick_params(axis="x", length=2, pad=1.5)
                ax.spines["left"].set_visible(False)
                ax.set_ylim(LANES - 0.45, -0.55)
                ax.set_title(" ", loc="left", pad=2)
            for _, zoom in self._axes:
                zoom.tick_params(labelleft=False)
            self._axes[1][0].set_xlabel("time since the call, s", labelpad=0.5)
            self._axes[1][1].set_xlabel("time, ms", labelpad=0.5)
        self._drawn: list[Any] = []
        self._legend: Any = None
        self._labels: tuple[Any, ...] = ()
        self._strips: dict[tuple[Any, ...], np.ndarray] = {}

    def draw(self, panels: Sequence[Panel]) -> None:
        """Show these panels, two at the most; fewer leave the rest of the room empty."""
        for artist in self._drawn:
            artist.remove()
        self._drawn.clear()
        with mpl.rc_context(_FONT):
            runs = [run for panel in panels for run in panel.runs]
            longest = max((run.latency_s for run in runs), default=1.0)
            windows = {id(run): window for run in runs if (window := two_chunks(run))}
            widest = max((stop - start for start, stop in windows.values()), default=0.0)
            causes: set[str] = set()
            for ax in self.figure.axes:
                ax.set_visible(False)
            for (whole, zoom), panel in zip(self._axes, panels, strict=False):
                ends = [(0.0, run.latency_s) for run in panel.runs]
                causes |= self._panel(whole, panel, panel.title, ends, longest, 1.0)
                if all(id(run) in windows for run in panel.runs):
                    ends = [windows[id(run)] for run in panel.runs]
                    took = " / ".join(f"{1e3 * (stop - start):.1f}" for start, stop in ends)
                    title = f"two chunks, to the line: {took} ms"
                    causes |= self._panel(zoom, panel, title, ends, widest, 1e3)
            for upper, lower in zip(*self._axes, strict=True):
                upper.tick_params(labelbottom=not lower.get_visible())
            self._name(panels, causes)

    def say(self, words: str) -> None:
        """Show words in place of timelines: why there are none."""
        self.draw([])
        style: Any = {"ha": "center", "va": "center", "fontsize": 7, "color": "#444444"}
        self._drawn.append(self.figure.text(0.5, 0.6, words, wrap=True, **style))

    def _panel(
        self, ax: Axes, panel: Panel, title: str, spans: Sequence[tuple[float, float]],
        widest_s: float, scale: float,
    ) -> set[str]:  # fmt: skip
        """Bars of one panel on one axis, and a line where each run's (start, stop) ends.

        x is the time since that start, times ``scale``. Returns the causes of stalls to be seen.
        """
        ax.set_visible(True)
        limits = (0.0, 1.005 * widest_s * scale)
        begins = [begin for begin, _ in spans]
        ax.set_title(title, loc="left", pad=2)
        self._drawn += draw_lanes(ax, panel.runs, limits, begins, scale, numbers=False)
        ax.xaxis.set_major_locator(MaxNLocator(6 if scale == 1 else 5))
        for (begin, end), dashes in zip(spans, DASHES, strict=False):
            self._drawn.append(ax.axvline((end - begin) * scale, linestyle=dashes, **_LINE))
        height = 2 * BAR / len(panel.runs)
        drawn, seen = draw_stalls(ax, panel.stalls, limits, begins[0], scale, height)
        self._drawn += drawn
        return set(seen)

    def _name(self, panels: Sequence[Panel], causes: set[str]) -> None:
        """The legend: lanes, causes, and whose end each line is."""
        handles: list[Any] = []
        if panels:
            handles += lane_handles([run for panel in panels for run in panel.runs])
            handles += [cause_handle(cause) for cause in CAUSE_COLORS if cause in causes]
            whose = WHOSE if any(len(panel.runs) == 2 for panel in panels) else ("",)
            for name, dashes in zip(whose, DASHES, strict=False):
                label = f"{name}sink closed"
                handles.append(Line2D([], [], label=label, linestyle=dashes, **_LINE))
        labels = tuple(handle.get_label() for handle in handles)
        if labels == self._labels:
            return
        if self._legend is not None:
            self._legend.remove()
        self._labels, self._legend = labels, None
        if handles:
            self._legend = self.figure.legend(
                handles=handles, loc="lower center", ncols=4, frameon=False, fontsize=6,
                handlelength=1.8, columnspacing=1.1, bbox_to_anchor=(0.5, -0.012), labelspacing=0.3,
            )  # fmt: skip

    def png(self) -> bytes:
        """The picture for the screen; each legend is drawn once, for all pictures that have it."""
        from PIL import Image

        if self._legend is None:
            pixels = self._pixels(self.figure)
        else:
            if self._labels not in self._strips:
                alone = self._pixels(self.figure.patch, self._legend)
                self._strips[self._labels] = alone[int((1 - LEGEND_PART) * len(alone)) :]
            self._legend.set_visible(False)
            pixels, strip = self._pixels(self.figure), self._strips[self._labels]
            self._legend.set_visible(True)
            pixels[-len(strip) :] = strip
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "png", compress_level=1)
        return data.getvalue()

    def _pixels(self, *artists: Any) -> np.ndarray:
        """Of these alone, RGB, uint8 [height, width, 3]."""
        renderer = self._canvas.get_renderer()
        renderer.clear()
        for artist in artists:
            artist.draw(renderer)
        return np.array(np.asarray(self._canvas.buffer_rgba())[..., :3])

    def save(self, path: Path) -> Path:
        """Write the picture for a report; the ending says as what: png, svg or pdf."""
        with mpl.rc_context(STYLE):
            self.figure.savefig(path)
        return path
