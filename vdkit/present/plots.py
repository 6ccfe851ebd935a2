"""Timelines from recorded runs: matplotlib only, no torch, no figure that a table lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vdkit.present.style import (
    CPU_MEANING,
    LANE_MEANING,
    LANES,
    SPANS,
    STYLE,
    TONES,
    WIDTH_IN,
)
from vdkit.present.tables import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vdkit.measure.records import Run
    from vdkit.measure.timeline import Recorded


LEGEND_CHARACTERS = 130
"""Of a legend in one row, 7 for each entry's sample; a longer one takes two rows."""


def drawn_lanes(runs: Iterable[Recorded]) -> list[str]:
    """The lanes that any of the runs has."""
    chunks = [chunk for run in runs for chunk in run.chunks]
    return [
        lane
        for lane in LANES
        if any(getattr(chunk, f"{SPANS[lane]}_start_s") is not None for chunk in chunks)
    ]


def lane_handles(runs: Iterable[Run]) -> list[Patch | Line2D]:
    """Legend entries of the lanes that any of the runs has."""
    runs = list(runs)
    on_cpu = all(run.vram_peak_bytes is None for run in runs)
    words = CPU_MEANING if on_cpu else LANE_MEANING
    return [Patch(color=TONES[lane][0], label=words[lane]) for lane in drawn_lanes(runs)]


def plot_lanes(run: Run, ax: Axes, window: tuple[float, float] | None = None) -> Axes:
    """Draw one run: a lane each for compute, copy, convert and write, a bar for each chunk.

    Args:
        run: a recorded run.
        ax: where to draw.
        window: (start, stop) in seconds since the call; None: the whole run.
    """
    start, stop = window or (0.0, run.latency_s)
    lanes = drawn_lanes([run])
    for row, lane in enumerate(lanes):
        for chunk in run.chunks:
            begin = getattr(chunk, f"{SPANS[lane]}_start_s")
            end = getattr(chunk, f"{SPANS[lane]}_done_s")
            if begin is None or end is None or end < start or begin > stop:
                continue
            left, right = max(begin, start), min(end, stop)
            tone = TONES[lane][chunk.index % 2]
            ax.barh(
                row, right - left, left=left, height=0.72, color=tone, edgecolor=tone, linewidth=0.5
            )
            if right - left > 0.035 * (stop - start):
                ax.text(
                    (left + right) / 2, row, str(chunk.index), ha="center", va="center",
                    fontsize=6.5, color="white" if chunk.index % 2 == 0 else "black",
                )  # fmt: skip
    ax.set_yticks(range(len(lanes)), lanes)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(len(lanes) - 0.45, -0.55)
    ax.set_xlim(start, stop)
    if window is None or start <= run.latency_s <= stop:
        ax.axvline(run.latency_s, color="black", linewidth=0.8, linestyle=(0, (3, 2)))
    return ax


def plot_timeline(
    runs: Mapping[str, Run], window: tuple[float, float] | None = None, title: str | None = None
) -> Figure:
    """The runs above each other on one time axis, from their records.

    Args:
        runs: mode to run, drawn top down.
        window: (start, stop) in seconds since each call, to zoom; None: the longest run, whole.
        title: above the figure.

    Returns:
        The figure, not registered with pyplot: a notebook shows it as a cell's last expression, a
        script saves it with ``savefig``.
    """
    with plt.rc_context(STYLE):
        lanes = [len(drawn_lanes([run])) for run in runs.values()]
        height = 0.95 + sum(0.24 * count + 0.34 for count in lanes)
        figure, axes = plt.subplots(
            len(runs), 1, sharex=True, squeeze=False, figsize=(WIDTH_IN, height),
            gridspec_kw={"height_ratios": lanes}, layout="constrained",
        )  # fmt: skip
        span = window or (0.0, 1.005 * max(run.latency_s for run in runs.values()))
        for ax, (mode, run) in zip(axes[:, 0], runs.items(), strict=True):
            plot_lanes(run, ax, span)
            ax.set_title(f"{NAMES[mode]}: {run.latency_s:.3f} s", loc="left", fontsize=8, pad=3)
        axes[-1, 0].set_xlabel("time since the call, s")
        handles = lane_handles(runs.values())
        if any(span[0] <= run.latency_s <= span[1] for run in runs.values()):
            handles.append(
                Line2D(
                    [], [], color="black", linewidth=0.8, linestyle=(0, (3, 2)), label="sink closed"
                )
            )
        rows = 1 + (sum(len(str(handle.get_label())) + 7 for handle in handles) > LEGEND_CHARACTERS)
        figure.legend(
            handles=handles, loc="outside lower center", ncols=-(-len(handles) // rows),
            frameon=False,
            fontsize=7, handlelength=1.4, columnspacing=1.2,
        )  # fmt: skip
        if title:
            figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        plt.close(figure)
    return figure


def steady_window(run: Run, chunks: int = 3) -> tuple[float, float]:
    """A window around ``chunks`` consecutive chunks in the middle of a run, for a zoom.

    From the start of the first chunk's decode to the end of the last one's; the whole run if it is
    too short to have a middle.
    """
    first = (len(run.chunks) - chunks) // 2
    if first < 1:
        return 0.0, run.latency_s
    begin = run.chunks[first].decode_start_s
    end = run.chunks[first + chunks - 1].decode_done_s
    if begin is None or end is None:
        return 0.0, run.latency_s
    return begin, end
