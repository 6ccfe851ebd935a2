"""Timelines from recorded runs: matplotlib only, no torch, no figure that a table lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vdkit.decode.chunks import ChunkRecord, DecodeConfig
from vdkit.measure.stalls import record_intervals, stalls_from_records
from vdkit.measure.windows import steady_windows
from vdkit.present.style import (
    CAUSE_COLORS,
    LANE_MEANING,
    LANES,
    RED,
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


def _lanes(chunks: Sequence[ChunkRecord]) -> list[str]:
    return [
        lane
        for lane in LANES
        if any(getattr(chunk, f"{SPANS[lane]}_start_s") is not None for chunk in chunks)
    ]


def plot_lanes(run: Run, ax: Axes, window: tuple[float, float] | None = None) -> Axes:
    """Draw one run: a lane each for compute, copy, convert and write, a bar for each chunk.

    Args:
        run: a recorded run.
        ax: where to draw.
        window: (start, stop) in seconds since the call; None: the whole run.
    """
    start, stop = window or (0.0, run.latency_s)
    lanes = _lanes(run.chunks)
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
        lanes = [len(_lanes(run.chunks)) for run in runs.values()]
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
        drawn = [lane for lane in LANES if any(lane in _lanes(run.chunks) for run in runs.values())]
        handles: list[Patch | Line2D] = [
            Patch(color=TONES[lane][0], label=LANE_MEANING[lane]) for lane in drawn
        ]
        if any(span[0] <= run.latency_s <= span[1] for run in runs.values()):
            handles.append(
                Line2D(
                    [], [], color="black", linewidth=0.8, linestyle=(0, (3, 2)), label="sink closed"
                )
            )
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
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


def plot_stalls(run: Run, config: DecodeConfig, ax: Axes) -> list[str]:
    """Shade the gaps of the compute lane by cause; returns the causes drawn.

    Args:
        run, config: a recorded run, and how it was decoded.
        ax: drawn on by `plot_lanes` before; only what lies in its limits is shaded.
    """
    start, stop = ax.get_xlim()
    stalls = stalls_from_records(run, config, (0, round(run.latency_s * 1e9)))
    drawn: list[str] = []
    for gap in stalls.gaps:
        for piece in gap.pieces:
            left, right = max(piece.start_ns / 1e9, start), min(piece.stop_ns / 1e9, stop)
            if right - left < 2e-4 * (stop - start):
                continue
            color, hatch = CAUSE_COLORS[piece.cause]
            hatch = hatch if right - left > 0.01 * (stop - start) else ""
            ax.barh(
                0, right - left, left=left, height=0.72, facecolor=color, hatch=hatch,
                edgecolor="black", linewidth=0.0, alpha=0.85,
            )  # fmt: skip
            if piece.cause not in drawn:
                drawn.append(piece.cause)
    return drawn


def two_chunks(run: Run) -> tuple[float, float] | None:
    """Two consecutive periods in the middle of a run, s; None if it is too short."""
    window = steady_windows(record_intervals(run)[2]).get("two chunks")
    return None if window is None else (window[0] / 1e9, window[1] / 1e9)


def plot_overlap(
    runs: Mapping[str, Run],
    config: DecodeConfig,
    title: str | None = None,
    warning: str = "",
) -> Figure:
    """Whole runs above each other on one time axis, and two consecutive chunks of each beside.

    Gaps of the compute lane are shaded by cause (chunk resolution, from the event records).

    Args:
        runs: mode to run, drawn top down.
        config: how they were decoded.
        title: above the figure.
        warning: red words above the figure: failed checks of the trace that the runs belong to.

    Returns:
        The figure, not registered with pyplot.
    """
    with plt.rc_context(STYLE):
        lanes = [len(_lanes(run.chunks)) for run in runs.values()]
        height = 1.55 + sum(0.27 * count + 0.3 for count in lanes)
        figure, axes = plt.subplots(
            len(runs), 2, squeeze=False, figsize=(WIDTH_IN, height), layout="constrained",
            gridspec_kw={"height_ratios": lanes, "width_ratios": (1.7, 1)},
        )  # fmt: skip
        longest = 1.005 * max(run.latency_s for run in runs.values())
        windows = {mode: two_chunks(run) for mode, run in runs.items()}
        widest = max((w[1] - w[0] for w in windows.values() if w is not None), default=None)
        causes: list[str] = []
        for row, (mode, run) in enumerate(runs.items()):
            whole, zoom = axes[row]
            plot_lanes(run, whole, (0.0, longest))
            causes += plot_stalls(run, config, whole)
            whole.set_title(f"{NAMES[mode]}: {run.latency_s:.3f} s", loc="left", pad=3)
            window = windows[mode]
            if window is None or widest is None:
                zoom.set_axis_off()
                continue
            plot_lanes(run, zoom, (window[0], window[0] + widest))
            causes += plot_stalls(run, config, zoom)
            zoom.axvline(window[1], color="black", linewidth=0.6, linestyle=":")
            zoom.xaxis.set_major_formatter(
                lambda value, _, zero=window[0]: f"{1e3 * (value - zero):.0f}"
            )
            ticks = zoom.xaxis.get_major_locator().tick_values(0, 1e3 * widest)
            zoom.set_xticks([window[0] + t / 1e3 for t in ticks if 0 <= t <= 1e3 * widest])
            zoom.set_title(f"two chunks: {1e3 * (window[1] - window[0]):.1f} ms", loc="left", pad=3)
        axes[-1, 0].set_xlabel("time since the call, s")
        axes[-1, 1].set_xlabel("time, ms")
        _overlap_legend(figure, runs, list(dict.fromkeys(causes)))
        if title or warning:
            figure.suptitle(
                "\n".join(part for part in (warning, title) if part), fontsize=8.5, x=0.01,
                ha="left", color=RED if warning else "black",
            )  # fmt: skip
        plt.close(figure)
    return figure


def _overlap_legend(figure: Figure, runs: Mapping[str, Run], causes: list[str]) -> None:
    drawn = [lane for lane in LANES if any(lane in _lanes(run.chunks) for run in runs.values())]
    handles: list[Patch | Line2D] = [
        Patch(color=TONES[lane][0], label=LANE_MEANING[lane]) for lane in drawn
    ]
    handles.append(
        Line2D([], [], color="black", linewidth=0.8, linestyle=(0, (3, 2)), label="sink closed")
    )
    handles += [
        Patch(
            facecolor=CAUSE_COLORS[cause][0], hatch=CAUSE_COLORS[cause][1], edgecolor="black",
            linewidth=0.0, label=f"stall: {cause}",
        )
        for cause in CAUSE_COLORS
        if cause in causes
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=6.5,
        handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip
