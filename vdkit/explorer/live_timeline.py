"""A timeline that is redrawn while a slider moves: one figure, kept, and only its bars replaced.

`vdkit.present.timeline` makes a figure for every call, which a report can wait for and a slider can
not. Here each lane is one collection of bars, and the axes stay.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from vdkit.present.style import CAUSE_COLORS, STYLE, WIDTH_IN
from vdkit.present.timeline import (
    BAR,
    cause_handle,
    draw_lanes,
    draw_stalls,
    lane_handles,
    two_chunks,
)

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from vdkit.decode.chunks import DecodeResult
    from vdkit.record.runs import Run
    from vdkit.trace.stalls import Stalls

HEIGHT_IN = 3.2
SCREEN_DPI = 190
LANES = 4  # room for compute, copy, convert and write in every panel, so that nothing jumps
LEGEND_PART = 0.13
"""Of the picture's height, at its bottom: the legend's alone."""
_FONT = 7.0


@dataclass(frozen=True, slots=True)
class Panel:
    """One row of the picture.

    Attributes:
        title: above it.
        predicted, measured: runs; with both, the measured one lies below the predicted one in each
            lane.
        stalls: of the run that is drawn first, shaded by cause.
    """

    title: str
    predicted: DecodeResult | None = None
    measured: Run | None = None
    stalls: Stalls | None = None

    @property
    def runs(self) -> tuple[Run | DecodeResult, ...]:
        """Those there are, the predicted one first."""
        return tuple(run for run in (self.predicted, self.measured) if run is not None)


class LiveTimeline:
    """Two panels above each other: whole runs at the left, two consecutive chunks at the right."""

    def __init__(self) -> None:
        with mpl.rc_context({**STYLE, "font.size": _FONT, "axes.titlesize": _FONT}):
            self.figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=SCREEN_DPI)
            self._canvas = FigureCanvasAgg(self.figure)
            self._axes: list[tuple[Axes, Axes]] = []
            for bottom in (0.625, 0.255):
                whole = self.figure.add_axes((0.078, bottom, 0.552, 0.315))
                zoom = self.figure.add_axes((0.66, bottom, 0.322, 0.315))
                self._axes.append((whole, zoom))
            for pair in self._axes:
                for ax in pair:
                    ax.tick_params(axis="y", length=0)
                    ax.tick_params(axis="x", length=2, pad=2)
                    ax.spines["left"].set_visible(False)
                    ax.set_ylim(LANES - 0.45, -0.55)
                    ax.set_title(" ", loc="left", pad=3)
            self._axes[1][0].set_xlabel("time since the call, s", labelpad=2)
            self._axes[1][1].set_xlabel("time, ms", labelpad=2)
        self._drawn: list[Any] = []
        self._legend: Any = None
        self._labels: tuple[Any, ...] = ()
        self._strip: np.ndarray | None = None
        self._shown = False

    def draw(self, panels: Sequence[Panel]) -> None:
        """Show these panels, two at the most; fewer leave the rest of the room empty."""
        for artist in self._drawn:
            artist.remove()
        self._drawn.clear()
        with mpl.rc_context({**STYLE, "font.size": _FONT}):
            runs = [run for panel in panels for run in panel.runs]
            longest = 1.005 * max((run.latency_s for run in runs), default=1.0)
            windows = {id(run): two_chunks(run) for run in runs}
            widest = max((w[1] - w[0] for w in windows.values() if w is not None), default=None)
            causes: list[str] = []
            for row, (whole, zoom) in enumerate(self._axes):
                for ax in (whole, zoom):
                    ax.set_visible(row < len(panels))
                if row >= len(panels):
                    continue
                panel = panels[row]
                whole.set_title(panel.title, loc="left", pad=3)
                causes += self._panel(whole, panel, (0.0, longest), [0.0] * 2, 1.0)
                starts = [windows[id(run)] for run in panel.runs]
                zoom.set_visible(widest is not None and all(starts))
                if widest is None or not all(starts):
                    continue
                known = [window for window in starts if window is not None]
                lengths = " / ".join(f"{1e3 * (w[1] - w[0]):.1f}" for w in known)
                zoom.set_title(f"two chunks: {lengths} ms", loc="left", pad=3)
                begins = [window[0] for window in known]
                self._panel(zoom, panel, (0.0, 1e3 * widest), begins, 1e3)
                for place, window in enumerate(known):
                    line = zoom.axvline(
                        1e3 * (window[1] - window[0]), color="black", linewidth=0.6,
                        linestyle=":" if place else (0, (4, 2)),
                    )  # fmt: skip
                    self._drawn.append(line)
            for upper, lower in zip(*self._axes, strict=True):
                shared = lower.get_visible()
                upper.tick_params(labelbottom=not shared)
            self._name(panels, causes)

    def say(self, words: str) -> None:
        """Show words in place of timelines: why there are none."""
        self.draw([])
        text = self.figure.text(
            0.5, 0.6, words, ha="center", va="center", fontsize=_FONT, color="#444444", wrap=True
        )
        self._drawn.append(text)

    def _panel(
        self,
        ax: Axes,
        panel: Panel,
        limits: tuple[float, float],
        begins: Sequence[float],
        scale: float,
    ) -> list[str]:
        """Bars of one panel on one axis, x = (time - begin) x scale; the causes that are seen."""
        self._drawn += draw_lanes(ax, panel.runs, limits, begins, scale, numbers=False)
        ax.xaxis.set_major_locator(MaxNLocator(6 if scale == 1 else 5))
        if scale != 1:
            ax.set_yticklabels([])
        both = len(panel.runs) == 2
        for run in panel.runs if scale == 1 else ():
            end = ax.axvline(
                run.latency_s, color="black", linewidth=0.8,
                linestyle=":" if run is panel.measured and both else (0, (4, 2)),
            )  # fmt: skip
            self._drawn.append(end)
        if panel.stalls is None:
            return []
        height = 2 * BAR / len(panel.runs)
        drawn, seen = draw_stalls(ax, panel.stalls, limits, begins[0], scale, height)
        self._drawn += drawn
        return seen

    def _name(self, panels: Sequence[Panel], causes: Sequence[str]) -> None:
        """The legend: lanes, causes, and which of two bars is which."""
        self._shown = bool(panels)
        if self._legend is not None:
            self._legend.set_visible(self._shown)
        if not panels:
            return
        runs = [run for panel in panels for run in panel.runs]
        handles: list[Any] = list(lane_handles(runs))
        handles += [cause_handle(cause) for cause in CAUSE_COLORS if cause in causes]
        both = any(len(panel.runs) == 2 for panel in panels)
        closed = "predicted: sink closed" if both else "sink closed"
        dashes: dict[str, Any] = {"color": "black", "linewidth": 0.8}
        handles.append(Line2D([], [], linestyle=(0, (4, 2)), label=closed, **dashes))
        if both:
            handles.append(Line2D([], [], linestyle=":", label="measured: sink closed", **dashes))
            handles.append(Patch(facecolor="none", label="upper bar: predicted, lower: measured"))
        labels = tuple(handle.get_label() for handle in handles)
        if labels == self._labels:
            return
        if self._legend is not None:
            self._legend.remove()
        self._labels, self._strip = labels, None
        self._legend = self.figure.legend(
            handles=handles, loc="lower center", ncols=4, frameon=False, fontsize=6,
            handlelength=1.5, columnspacing=1.1, bbox_to_anchor=(0.5, -0.008),
            labelspacing=0.35,
        )  # fmt: skip

    def png(self) -> bytes:
        """The picture for the screen."""
        from PIL import Image

        if self._strip is None:
            self._strip = self._draw_legend()
        if self._legend is not None:
            self._legend.set_visible(False)
        self._canvas.draw()
        pixels = np.array(np.asarray(self._canvas.buffer_rgba())[..., :3])
        if self._legend is not None:
            self._legend.set_visible(bool(self._shown))
        if self._shown:
            pixels[-len(self._strip) :] = self._strip
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "png", compress_level=1)
        return data.getvalue()

    def _draw_legend(self) -> np.ndarray:
        """The lowest part of the picture with the legend alone; kept, for it changes rarely."""
        others = [artist for artist in self.figure.get_children() if artist is not self._legend]
        seen = [artist.get_visible() for artist in others]
        for artist in others[1:]:  # the first is the background
            artist.set_visible(False)
        self._canvas.draw()
        for artist, visible in zip(others, seen, strict=True):
            artist.set_visible(visible)
        pixels = np.asarray(self._canvas.buffer_rgba())[..., :3]
        return pixels[int((1 - LEGEND_PART) * len(pixels)) :].copy()

    def save(self, path: Path) -> Path:
        """Write the picture for a report; the ending says as what: png, svg or pdf."""
        with mpl.rc_context(STYLE):
            self.figure.savefig(path)
        return path
