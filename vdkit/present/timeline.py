"""Timelines from recorded runs: matplotlib only, no torch, no figure that a table lacks.

Every bar is drawn by `draw_bars`, at its exact place: bars snapped to pixels would make equal
events unequally wide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PolyCollection
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
    keep_data,
)
from vdkit.present.words import config_words, what_and_where
from vdkit.record.recording import Recording
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

    from vdkit.decode.chunks import DecodeConfig, DecodeResult
    from vdkit.record.runs import Run
    from vdkit.trace.timeline import Recorded, Timeline

LEGEND_CHARACTERS = 130
"""Of a legend in one row, 7 for each entry's sample; a longer one takes two rows."""
BAR = 0.36
"""Half the height of a bar; lanes are 1 apart."""
_NUMBERED = 0.035
"""Of an axis: a bar that its chunk's number fits into."""
_HATCHED = 0.01
"""Of an axis: a hatch would fill a narrower piece with black."""
_VISIBLE = 1e-3
"""Of an axis: half a pixel of a printed figure; a cause that takes less is not in the legend."""
_CLOSED: Any = {"color": "black", "linewidth": 0.8, "linestyle": (0, (3, 2))}


def drawn_lanes(runs: Iterable[Recorded]) -> list[str]:
    """The lanes that any of the runs has."""
    chunks = [chunk for run in runs for chunk in run.chunks]
    return [
        lane
        for lane in LANES
        if any(getattr(chunk, f"{SPANS[lane]}_start_s") is not None for chunk in chunks)
    ]


def lane_handles(runs: Iterable[Run | DecodeResult]) -> list[Patch | Line2D]:
    """Legend entries of the lanes that any of the runs has."""
    runs = list(runs)
    on_cpu = all(run.vram_peak_bytes is None and not run.pinned_bytes for run in runs)
    words = CPU_MEANING if on_cpu else LANE_MEANING
    return [Patch(color=TONES[lane][0], label=words[lane]) for lane in drawn_lanes(runs)]


def cause_handle(cause: str, words: str = "") -> Patch:
    """The legend entry of a stall's cause, with more ``words`` behind it."""
    color, hatch = CAUSE_COLORS[cause]
    return Patch(facecolor=color, hatch=hatch, edgecolor="black", linewidth=0.0,
                 label=f"stall: {cause}{words}")  # fmt: skip


def draw_bars(
    ax: Axes, lefts: Any, lengths: Any, lows: Any, highs: Any, colors: Any, **style: Any
) -> PolyCollection:
    """Bars at exactly these places, one collection; each argument is a value for all, or one each.

    Unless ``style`` says otherwise they have an edge in their color, so that the shortest is seen.
    """
    left, length, low, high = np.broadcast_arrays(lefts, lengths, lows, highs)
    x = np.stack([left, left + length, left + length, left], axis=-1)
    corners = np.stack([x, np.stack([low, low, high, high], axis=-1)], axis=-1)
    look: dict[str, Any] = {"edgecolors": "face", "linewidths": 0.3} | style
    boxes: Any = corners.reshape(-1, 4, 2)
    bars = PolyCollection(boxes, facecolors=colors, snap=False, **look)
    ax.add_collection(bars, autolim=False)
    return bars


def draw_lanes(
    ax: Axes,
    runs: Sequence[Run | DecodeResult],
    limits: tuple[float, float],
    begins: Sequence[float] = (0.0, 0.0),
    scale: float = 1.0,
    numbers: bool = True,
) -> list[Any]:
    """A lane for each step and a bar for each chunk; of two runs, one bar above the other.

    Args:
        limits: of the axis, whose unit is ``scale`` to the second.
        begins: what is 0 on the axis, in s of each run.
        numbers: write a chunk's number into its bar where it fits.

    Returns:
        What was drawn.
    """
    lanes = drawn_lanes(runs)
    height = 2 * BAR / len(runs)
    bars = [
        (left, right - left, row - BAR + place * (height + 0.01), chunk.index, TONES[lane])
        for place, (run, begin_s) in enumerate(zip(runs, begins, strict=False))
        for row, lane in enumerate(lanes)
        for chunk, start, stop in _spans(run, lane)
        if (left := max((start - begin_s) * scale, limits[0]))
        < (right := min((stop - begin_s) * scale, limits[1]))
    ]
    place = np.array([bar[:3] for bar in bars], dtype=float).reshape(-1, 3)
    colors = [tones[index % 2] for *_, index, tones in bars]
    low = place[:, 2]
    drawn: list[Any] = [draw_bars(ax, place[:, 0], place[:, 1], low, low + height, colors)]
    for left, length, low_at, index, _ in bars if numbers else ():
        if length > _NUMBERED * (limits[1] - limits[0]):
            ink = "white" if index % 2 == 0 else "black"
            drawn.append(ax.text(left + length / 2, low_at + height / 2, str(index), color=ink,
                                 ha="center", va="center", fontsize=6.5))  # fmt: skip
    ax.set_yticks(range(len(lanes)), lanes)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlim(*limits)
    return drawn


def _spans(run: Recorded, lane: str) -> Iterable[tuple[Any, float, float]]:
    """Chunk, start and end of one step, s, where it was done."""
    for chunk in run.chunks:
        start = getattr(chunk, f"{SPANS[lane]}_start_s")
        stop = getattr(chunk, f"{SPANS[lane]}_done_s")
        if start is not None and stop is not None:
            yield chunk, start, stop


def draw_stalls(
    ax: Axes,
    stalls: Stalls,
    limits: tuple[float, float],
    begin_s: float = 0.0,
    scale: float = 1.0,
    height: float = 2 * BAR,
) -> tuple[list[Any], list[str]]:
    """Shade the gaps of the compute lane by cause; what was drawn, and the causes to be seen.

    Args:
        stalls: of the run that `draw_lanes` drew with these limits, begin and scale.
    """
    width = limits[1] - limits[0]
    spans: dict[str, list[tuple[float, float]]] = {}
    for piece in (piece for gap in stalls.gaps for piece in gap.pieces):
        left = max((piece.start_ns / 1e9 - begin_s) * scale, limits[0])
        right = min((piece.stop_ns / 1e9 - begin_s) * scale, limits[1])
        if right > left:
            spans.setdefault(piece.cause, []).append((left, right - left))
    drawn = []
    for cause, pieces in spans.items():
        color, hatch = CAUSE_COLORS[cause]
        table = np.array(pieces)
        wide = table[:, 1] > _HATCHED * width
        for part, lines in ((table[~wide], None), (table[wide], hatch or None)):
            if len(part):
                bars = draw_bars(
                    ax, part[:, 0], part[:, 1], -BAR, height - BAR, color,
                    hatch=lines, edgecolors="black", linewidths=0,
                )  # fmt: skip
                drawn.append(bars)
    seen = [c for c, pieces in spans.items() if sum(n for _, n in pieces) >= _VISIBLE * width]
    return drawn, seen


def plot_lanes(run: Run, ax: Axes, window: tuple[float, float] | None = None) -> Axes:
    """Draw one run: a lane each for compute, copy, convert and write, a bar for each chunk.

    Args:
        run: a recorded run.
        ax: where to draw.
        window: (start, stop) in seconds since the call; None: the whole run.
    """
    limits = window or (0.0, run.latency_s)
    draw_lanes(ax, [run], limits)
    ax.set_ylim(len(drawn_lanes([run])) - 0.45, -0.55)
    if limits[0] <= run.latency_s <= limits[1]:
        ax.axvline(run.latency_s, **_CLOSED)
    return ax


def title_of(title: str | Recording | None) -> str:
    """Words as they are; of a recording: label, decoder, size, device, chunk and slots."""
    if isinstance(title, Recording):
        return f"{title.label}: {what_and_where(title)}. {config_words(title.config)}"
    return title or ""


def _kept(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """The bars as rows: run, lane, chunk, start and stop in s."""
    return [
        {"run": name, "lane": lane, "chunk": chunk.index, "start_s": start, "stop_s": stop}
        for name, run in runs.items()
        for lane in drawn_lanes([run])
        for chunk, start, stop in _spans(run, lane)
    ]


def plot_timeline(
    runs: Mapping[str, Run] | Recording,
    window: tuple[float, float] | None = None,
    title: str | Recording | None = None,
) -> Figure:
    """The runs above each other on one time axis, from their records.

    Args:
        runs: mode to run, drawn top down; of a recording, the run of each arm that is nearest to
            its median.
        window: (start, stop) in seconds since each call, to zoom; None: the longest run, whole.
        title: above the figure; a recording is named with decoder, size, chunk, slots and device.

    Returns:
        The figure, not registered with pyplot: a notebook shows it as a cell's last expression, a
        script saves it with ``savefig`` or `vdkit.save_figure`.
    """
    if isinstance(runs, Recording):
        title = runs if title is None else title
        runs = {name: arm.typical() for name, arm in runs.arms.items()}
    with plt.rc_context(STYLE):
        lanes = [len(drawn_lanes([run])) for run in runs.values()]
        words = title_of(title)
        height = 0.95 + sum(0.24 * count + 0.34 for count in lanes) + 0.1 * words.count("\n")
        figure, axes = plt.subplots(
            len(runs), 1, sharex=True, squeeze=False, figsize=(WIDTH_IN, height),
            gridspec_kw={"height_ratios": lanes}, layout="constrained",
        )  # fmt: skip
        span = window or (0.0, 1.005 * max(run.latency_s for run in runs.values()))
        for ax, (name, run) in zip(axes[:, 0], runs.items(), strict=True):
            plot_lanes(run, ax, span)
            ax.set_title(f"{NAMES.get(name, name)}: {run.latency_s:.3f} s", loc="left", pad=3)
        axes[-1, 0].set_xlabel("time since the call, s")
        handles = lane_handles(runs.values())
        if any(span[0] <= run.latency_s <= span[1] for run in runs.values()):
            handles.append(Line2D([], [], label="sink closed", **_CLOSED))
        rows = 1 + (sum(len(str(handle.get_label())) + 7 for handle in handles) > LEGEND_CHARACTERS)
        figure.legend(
            handles=handles, loc="outside lower center", ncols=-(-len(handles) // rows),
            frameon=False, fontsize=7, handlelength=1.4, columnspacing=1.2,
        )  # fmt: skip
        if words:
            figure.suptitle(words, fontsize=8, x=0.01, ha="left")
        plt.close(figure)
    return keep_data(figure, _kept(runs))


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


def two_chunks(run: Recorded) -> tuple[float, float] | None:
    """Two consecutive periods in the middle of a run, s; None if it is too short."""
    window = steady_windows(record_intervals(run)[2]).get("two chunks")
    return None if window is None else (window[0] / 1e9, window[1] / 1e9)


def run_stalls(run: Run, config: DecodeConfig, timeline: Timeline | None = None) -> Stalls:
    """Stalls of window ``run``: from its trace where that holds kernels, else from its records."""
    if timeline is not None and len(timeline.kernels):
        return stalls_from_trace(timeline, run_window(run))
    return stalls_from_records(run, config)


def plot_overlap(
    runs: Mapping[str, Run],
    config: DecodeConfig,
    title: str | Recording | None = None,
    warning: str = "",
    timelines: Mapping[str, Timeline] | None = None,
    windows: Mapping[str, tuple[float, float] | None] | None = None,
) -> Figure:
    """Whole runs above each other on one time axis, and two consecutive chunks of each beside.

    Gaps of the compute lane are shaded by cause: at kernel resolution where ``timelines`` has the
    run's trace, else at chunk resolution from its event records. The legend says which.

    Args:
        runs: mode to run, drawn top down.
        config: how they were decoded.
        title: above the figure, as for `plot_timeline`.
        warning: red words above the figure: failed checks of the trace that the runs belong to.
        timelines: mode to the timeline of the same run.
        windows: mode to the window of the two chunks, s; None: as the event records have it.

    Returns:
        The figure, not registered with pyplot.
    """
    stalls = {m: run_stalls(run, config, (timelines or {}).get(m)) for m, run in runs.items()}
    windows = windows or {mode: two_chunks(run) for mode, run in runs.items()}
    widest = max((w[1] - w[0] for w in windows.values() if w is not None), default=0.0)
    longest = 1.005 * max(run.latency_s for run in runs.values())
    causes: list[str] = []
    with plt.rc_context(STYLE):
        lanes = [len(drawn_lanes([run])) for run in runs.values()]
        height = 1.95 + sum(0.27 * count + 0.3 for count in lanes)
        figure, axes = plt.subplots(
            len(runs), 2, squeeze=False, figsize=(WIDTH_IN, height), layout="constrained",
            sharex="col", gridspec_kw={"height_ratios": lanes, "width_ratios": (1.7, 1)},
        )  # fmt: skip
        for (whole, zoom), (mode, run) in zip(axes, runs.items(), strict=True):
            plot_lanes(run, whole, (0.0, longest))
            causes += draw_stalls(whole, stalls[mode], (0.0, longest))[1]
            whole.set_title(f"{NAMES.get(mode, mode)}: {run.latency_s:.3f} s", loc="left", pad=3)
            window = windows[mode]
            if window is None:
                zoom.set_axis_off()
                continue
            limits, length_ms = (0.0, 1e3 * widest), 1e3 * (window[1] - window[0])
            draw_lanes(zoom, [run], limits, window[:1], 1e3)
            causes += draw_stalls(zoom, stalls[mode], limits, window[0], 1e3)[1]
            zoom.set_ylim(whole.get_ylim())
            zoom.axvline(length_ms, color="black", linewidth=0.6, linestyle=":")
            zoom.set_title(f"two chunks: {length_ms:.1f} ms", loc="left", pad=3)
        zoomed = [ax for ax, window in zip(axes[:, 1], windows.values(), strict=True) if window]
        axes[-1, 0].set_xlabel("time since the call, s")
        for ax in zoomed[-1:]:
            ax.set_xlabel("time, ms")
            ax.tick_params(labelbottom=True)
        _legend(figure, runs, causes, bool(zoomed), stalls)
        if words := "\n".join(filter(None, (warning, title_of(title)))):
            figure.suptitle(words, fontsize=8, x=0.01, ha="left", color=RED if warning else "black")
        plt.close(figure)
    gaps = [
        {"run": mode, "lane": f"stall: {piece.cause}", "start_s": piece.start_ns / 1e9,
         "stop_s": piece.stop_ns / 1e9}
        for mode, found in stalls.items() for gap in found.gaps for piece in gap.pieces
    ]  # fmt: skip
    return keep_data(figure, [*_kept(runs), *gaps])


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
    handles = [*lane_handles(runs.values()), Line2D([], [], label="sink closed", **_CLOSED)]
    if zoomed:
        dots: Any = {"color": "black", "linewidth": 0.8, "linestyle": ":"}
        handles.append(Line2D([], [], label="end of two chunks", **dots))
    for cause in (cause for cause in CAUSE_COLORS if cause in causes):
        took = " / ".join(f"{one.by_cause_ns[cause] / 1e6:.1f}" for one in stalls.values())
        handles.append(cause_handle(cause, f", {took} ms"))
    origins = " and ".join(_FROM[one] for one in sorted({s.resolution for s in stalls.values()}))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=6.5,
        handlelength=1.6, columnspacing=1.2, title_fontsize=6.5,
        title=f"Stalls above 20 us of {' / '.join(stalls)}, window run, {origins}",
    )  # fmt: skip
