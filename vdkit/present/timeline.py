"""Timelines from recorded runs: matplotlib only, no torch, no figure that a table lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vdkit.decode.chunks import DecodeConfig
from vdkit.present.columns import NAMES
from vdkit.present.style import (
    CAUSE_COLORS,
    CPU_MEANING,
    LANE_MEANING,
    LANES,
    RED,
    SPANS,
    STYLE,
    TONES,
    WIDTH_IN,
)
from vdkit.trace.figures import steady_windows
from vdkit.trace.stalls import (
    Stalls,
    record_intervals,
    run_window,
    stalls_from_records,
    stalls_from_trace,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vdkit.decode.chunks import DecodeResult
    from vdkit.record.runs import Run
    from vdkit.trace.stalls import Stalls
    from vdkit.trace.timeline import Recorded, Timeline


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


_VISIBLE = 1e-3
"""A cause is in the legend from this share of an axis on: half a pixel of a printed figure."""


def run_stalls(run: Run, config: DecodeConfig, timeline: Timeline | None = None) -> Stalls:
    """Stalls of window ``run``: from its trace where that holds kernels, else from its records."""
    if timeline is not None and len(timeline.kernels):
        return stalls_from_trace(timeline, run_window(run))
    return stalls_from_records(run, config)


def plot_stalls(stalls: Stalls, ax: Axes) -> list[str]:
    """Shade the gaps of the compute lane by cause; returns the causes that can be seen.

    Args:
        stalls: of the run that `plot_lanes` drew.
        ax: what it drew on; only what lies in its limits is shaded.
    """
    start, stop = ax.get_xlim()
    spans: dict[str, list[tuple[float, float]]] = {}
    for gap in stalls.gaps:
        for piece in gap.pieces:
            left, right = max(piece.start_ns / 1e9, start), min(piece.stop_ns / 1e9, stop)
            if right > left:
                spans.setdefault(piece.cause, []).append((left, right - left))
    seen = []
    for cause, pieces in spans.items():
        color, hatch = CAUSE_COLORS[cause]
        # A hatch would fill a narrow piece with black; snapped to pixels, one would grow or vanish.
        for wide in (False, True):
            mine = [one for one in pieces if (one[1] > 0.01 * (stop - start)) == wide]
            ax.broken_barh(
                mine, (-0.36, 0.72), facecolor=color, hatch=hatch if wide else "",
                edgecolor="black", linewidth=0.0, snap=False,
            )  # fmt: skip
        if sum(length for _, length in pieces) >= _VISIBLE * (stop - start):
            seen.append(cause)
    return seen


def two_chunks(run: Recorded) -> tuple[float, float] | None:
    """Two consecutive periods in the middle of a run, s; None if it is too short."""
    window = steady_windows(record_intervals(run)[2]).get("two chunks")
    return None if window is None else (window[0] / 1e9, window[1] / 1e9)


def plot_overlap(
    runs: Mapping[str, Run],
    config: DecodeConfig,
    title: str | None = None,
    warning: str = "",
    timelines: Mapping[str, Timeline] | None = None,
) -> Figure:
    """Whole runs above each other on one time axis, and two consecutive chunks of each beside.

    Gaps of the compute lane are shaded by cause: at kernel resolution where ``timelines`` has the
    run's trace, else at chunk resolution from its event records. The legend says which.

    Args:
        runs: mode to run, drawn top down.
        config: how they were decoded.
        title: above the figure.
        warning: red words above the figure: failed checks of the trace that the runs belong to.
        timelines: mode to the timeline of the same run.

    Returns:
        The figure, not registered with pyplot.
    """
    with plt.rc_context(STYLE):
        lanes = [len(drawn_lanes([run])) for run in runs.values()]
        height = 1.95 + sum(0.27 * count + 0.3 for count in lanes)
        figure, axes = plt.subplots(
            len(runs), 2, squeeze=False, figsize=(WIDTH_IN, height), layout="constrained",
            gridspec_kw={"height_ratios": lanes, "width_ratios": (1.7, 1)},
        )  # fmt: skip
        longest = 1.005 * max(run.latency_s for run in runs.values())
        windows = {mode: two_chunks(run) for mode, run in runs.items()}
        widest = max((w[1] - w[0] for w in windows.values() if w is not None), default=None)
        stalls = {m: run_stalls(run, config, (timelines or {}).get(m)) for m, run in runs.items()}
        causes: list[str] = []
        for row, (mode, run) in enumerate(runs.items()):
            whole, zoom = axes[row]
            plot_lanes(run, whole, (0.0, longest))
            causes += plot_stalls(stalls[mode], whole)
            whole.set_title(f"{NAMES[mode]}: {run.latency_s:.3f} s", loc="left", pad=3)
            window = windows[mode]
            if window is None or widest is None:
                zoom.set_axis_off()
                continue
            plot_lanes(run, zoom, (window[0], window[0] + widest))
            causes += plot_stalls(stalls[mode], zoom)
            zoom.axvline(window[1], color="black", linewidth=0.6, linestyle=":")
            zoom.xaxis.set_major_formatter(
                lambda value, _, zero=window[0]: f"{1e3 * (value - zero):.0f}"
            )
            ticks = zoom.xaxis.get_major_locator().tick_values(0, 1e3 * widest)
            zoom.set_xticks([window[0] + t / 1e3 for t in ticks if 0 <= t <= 1e3 * widest])
            zoom.set_title(f"two chunks: {1e3 * (window[1] - window[0]):.1f} ms", loc="left", pad=3)
        axes[-1, 0].set_xlabel("time since the call, s")
        axes[-1, 1].set_xlabel("time, ms")
        _legend(figure, runs, causes, widest is not None, stalls)
        if title or warning:
            figure.suptitle(
                "\n".join(part for part in (warning, title) if part), fontsize=8.5, x=0.01,
                ha="left", color=RED if warning else "black",
            )  # fmt: skip
        plt.close(figure)
    return figure


_FROM = {
    "kernel": "from the trace (kernel resolution)",
    "chunk": "from event records (chunk resolution: only between chunks)",
}


def _legend(
    figure: Figure,
    runs: Mapping[str, Run],
    causes: list[str],
    zoomed: bool,
    stalls: Mapping[str, Stalls],
) -> None:
    """What can be seen, each once, the stalls with their milliseconds and where they come from."""
    handles = lane_handles(runs.values())
    handles.append(
        Line2D([], [], color="black", linewidth=0.8, linestyle=(0, (3, 2)), label="sink closed")
    )
    if zoomed:
        handles.append(
            Line2D([], [], color="black", linewidth=0.8, linestyle=":", label="end of two chunks")
        )
    for cause, (color, hatch) in CAUSE_COLORS.items():
        if cause in causes:
            took = " / ".join(f"{one.by_cause_ns[cause] / 1e6:.1f}" for one in stalls.values())
            handles.append(
                Patch(
                    facecolor=color,
                    hatch=hatch,
                    edgecolor="black",
                    linewidth=0.0,
                    label=f"stall: {cause}, {took} ms",
                )
            )
    origins = " and ".join(_FROM[one] for one in sorted({s.resolution for s in stalls.values()}))
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=6.5,
        handlelength=1.6, columnspacing=1.2,
        title=f"Stalls above 20 us of {' / '.join(stalls)}, window run, {origins}",
    )  # fmt: skip
    legend.get_title().set_fontsize(6.5)


def spans_of(
    run: Run | DecodeResult, step: str, begin_s: float, scale: float, limits: tuple[float, float]
) -> np.ndarray:
    """[n, 3]: start, length, parity of each chunk's step that lies within ``limits``."""
    rows = [
        (start, done, chunk.index % 2)
        for chunk in run.chunks
        if (start := getattr(chunk, f"{step}_start_s")) is not None
        and (done := getattr(chunk, f"{step}_done_s")) is not None
    ]
    table = np.array(rows, dtype=float).reshape(-1, 3)
    left = np.clip((table[:, 0] - begin_s) * scale, *limits)
    right = np.clip((table[:, 1] - begin_s) * scale, *limits)
    return np.column_stack([left, right - left, table[:, 2]])[right > left]


def rectangles(spans: np.ndarray, low: float, high: float) -> np.ndarray:
    """[n, 4, 2]: corners of bars that start at ``spans[:, 0]`` and are ``spans[:, 1]`` long."""
    left, right = spans[:, 0], spans[:, 0] + spans[:, 1]
    x = np.stack([left, right, right, left], axis=1)
    y = np.broadcast_to(np.array([low, low, high, high]), x.shape)
    return np.stack([x, y], axis=2)


def stall_bars(
    stalls: Stalls, begin_s: float, scale: float, limits: tuple[float, float]
) -> dict[str, list[tuple[float, float]]]:
    """Causes to the (start, length) of what can be seen of them."""
    found: dict[str, list[tuple[float, float]]] = {}
    for gap in stalls.gaps:
        for piece in gap.pieces:
            left, right = (
                min(max((at / 1e9 - begin_s) * scale, limits[0]), limits[1])
                for at in (piece.start_ns, piece.stop_ns)
            )
            if right - left > 5e-4 * (limits[1] - limits[0]):
                found.setdefault(piece.cause, []).append((left, right - left))
    return found
