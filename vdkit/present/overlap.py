"""Two paths above each other, stalls shaded by cause: how much of sync's waiting async hides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vdkit.decode.chunks import DecodeConfig
from vdkit.measure.stalls import (
    Stalls,
    record_intervals,
    run_window,
    stalls_from_records,
    stalls_from_trace,
)
from vdkit.measure.windows import steady_windows
from vdkit.present.plots import drawn_lanes, lane_handles, plot_lanes
from vdkit.present.style import CAUSE_COLORS, RED, STYLE, WIDTH_IN
from vdkit.present.tables import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vdkit.measure.records import Run
    from vdkit.measure.timeline import Recorded, Timeline

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
