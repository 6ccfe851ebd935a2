"""Timelines from recorded runs: matplotlib only, no torch, no figure that a table lacks.

Every bar is drawn by `draw_bars`, at its exact place: bars snapped to pixels would make equal
events unequally wide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vdkit.decode.chunks import DecodeConfig, DecodeResult
from vdkit.present import style
from vdkit.present.columns import NAMES
from vdkit.present.words import config_words, what_and_where
from vdkit.record.recording import Recording
from vdkit.record.runs import Run
from vdkit.trace import Recorded, Timeline
from vdkit.trace.figures import steady_windows
from vdkit.trace.stalls import (
    Stalls,
    record_intervals,
    run_window,
    stalls_from_records,
    stalls_from_trace,
)

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
_PAIR_ENDS: Any = _CLOSED | {"linestyle": ":"}


def _spans(run: Recorded, lane: str) -> Iterable[tuple[Any, float, float]]:
    """Chunk, start and end of one step, s, where it was done."""
    step = "decode" if lane == "compute" else lane
    for chunk in run.chunks:
        start, stop = getattr(chunk, f"{step}_start_s"), getattr(chunk, f"{step}_done_s")
        if start is not None and stop is not None:
            yield chunk, start, stop


def drawn_lanes(runs: Collection[Recorded]) -> list[str]:
    """The lanes that any of the runs has."""
    return [lane for lane in style.LANES if any(True for run in runs for _ in _spans(run, lane))]


def lane_handles(runs: Collection[Run | DecodeResult]) -> list[Patch | Line2D]:
    """Legend entries of the lanes that any of the runs has."""
    words = style.LANE_MEANING
    if all(run.vram_peak_bytes is None and not run.pinned_bytes for run in runs):  # on a CPU
        words = words | {
            "compute": "decode (the decoder's call)", "copy": "copy from memory to memory"
        }  # fmt: skip
    return [Patch(color=style.TONES[lane][0], label=words[lane]) for lane in drawn_lanes(runs)]


def cause_handle(cause: str, words: str = "") -> Patch:
    """The legend entry of a stall's cause, with more ``words`` behind it."""
    color, hatch = style.CAUSE_COLORS[cause]
    return Patch(facecolor=color, hatch=hatch, edgecolor="black", linewidth=0.0,
                 label=f"stall: {cause}{words}")  # fmt: skip


def draw_bars(
    ax: Axes, lefts: Any, lengths: Any, lows: Any, highs: Any, colors: Any, **look: Any
) -> PolyCollection:
    """Bars at exactly these places, one collection; each argument is a value for all, or one each.

    Unless ``look`` says otherwise they have an edge in their color, so that the shortest is seen.
    """
    left, length, low, high = np.broadcast_arrays(lefts, lengths, lows, highs)
    x = np.stack([left, left + length, left + length, left], axis=-1)
    corners = np.stack([x, np.stack([low, low, high, high], axis=-1)], axis=-1)
    boxes: Any = corners.reshape(-1, 4, 2)
    drawn: dict[str, Any] = {"edgecolors": "face", "linewidths": 0.3} | look
    bars = PolyCollection(boxes, facecolors=colors, snap=False, **drawn)
    ax.add_collection(bars, autolim=False)
    return bars


def draw_lanes(
    ax: Axes, runs: Sequence[Run | DecodeResult], limits: tuple[float, float],
    begins: Sequence[float] = (0.0, 0.0), scale: float = 1.0, numbers: bool = True,
) -> list[Any]:  # fmt: skip
    """A lane for each step and a bar for each chunk; of two runs, one bar above the other.

    Args:
        limits: of the axis, whose unit is ``scale`` to the second.
        begins: what is 0 on the axis, in s of each run.
        numbers: write a chunk's number into its bar where it fits.

    Returns what was drawn.
    """
    lanes = drawn_lanes(runs)
    height = 2 * BAR / len(runs)
    rows = [
        (left, right - left, row - BAR + place * (height + 0.01), chunk.index, style.TONES[lane])
        for place, (run, begin_s) in enumerate(zip(runs, begins, strict=False))
        for row, lane in enumerate(lanes)
        for chunk, start, stop in _spans(run, lane)
        if (left := max((start - begin_s) * scale, limits[0]))
        <= (right := min((stop - begin_s) * scale, limits[1]))  # a step of 0 s is a bar, too
    ]
    lefts, lengths, lows = np.array([row[:3] for row in rows], dtype=float).reshape(-1, 3).T
    colors = [tones[index % 2] for *_, index, tones in rows]
    drawn: list[Any] = [draw_bars(ax, lefts, lengths, lows, lows + height, colors)]
    look: Any = {"ha": "center", "fontsize": 6.5}
    for left, length, low, index, _ in rows if numbers else ():
        if length > _NUMBERED * (limits[1] - limits[0]):
            place, ink = (left + length / 2, low + height / 2), ("white", "black")[index % 2]
            drawn.append(style.say(ax, *place, str(index), color=ink, **look))
    ax.set_yticks(range(len(lanes)), lanes)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlim(*limits)
    return drawn


def draw_stalls(
    ax: Axes, stalls: Stalls, limits: tuple[float, float], begin_s: float = 0.0,
    scale: float = 1.0, height: float = 2 * BAR,
) -> tuple[list[Any], list[str]]:  # fmt: skip
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
    look: Any = {"edgecolors": "black", "linewidths": 0}
    for cause, pieces in spans.items():
        color, hatch = style.CAUSE_COLORS[cause]
        left, length = np.array(pieces).T
        wide = length > _HATCHED * width
        for some, lines in ((~wide, None), (wide, hatch or None)):
            if some.any():
                place = left[some], length[some], -BAR, height - BAR
                drawn.append(draw_bars(ax, *place, color, hatch=lines, **look))
    seen = [c for c, pieces in spans.items() if sum(n for _, n in pieces) >= _VISIBLE * width]
    return drawn, seen


def plot_lanes(run: Run, ax: Axes, limits: tuple[float, float]) -> None:
    """Draw one run: a lane each for compute, copy, convert and write, a bar for each chunk.

    Args:
        limits: (start, stop) in seconds since the call.
    """
    draw_lanes(ax, [run], limits)
    ax.set_ylim(len(drawn_lanes([run])) - 0.45, -0.55)
    if limits[0] <= run.latency_s <= limits[1]:
        ax.axvline(run.latency_s, **_CLOSED)


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
    lanes = [len(drawn_lanes([run])) for run in runs.values()]
    words = title_of(title)
    height = 0.95 + sum(0.24 * count + 0.34 for count in lanes) + 0.1 * words.count("\n")
    grid: Any = {"sharex": True, "gridspec_kw": {"height_ratios": lanes}}
    span = window or (0.0, 1.005 * max(run.latency_s for run in runs.values()))
    with style.chart(height, len(runs), title=words, **grid) as (figure, axes):
        for ax, (name, run) in zip(axes[:, 0], runs.items(), strict=True):
            plot_lanes(run, ax, span)
            ax.set_title(f"{NAMES.get(name, name)}: {run.latency_s:.3f} s", loc="left", pad=3)
        axes[-1, 0].set_xlabel("time since the call, s")
        handles = lane_handles(runs.values())
        if any(span[0] <= run.latency_s <= span[1] for run in runs.values()):
            handles.append(Line2D([], [], label="sink closed", **_CLOSED))
        rows = 1 + (sum(len(str(handle.get_label())) + 7 for handle in handles) > LEGEND_CHARACTERS)
        style.legend_below(figure, handles, ncols=-(-len(handles) // rows))
    return style.keep_data(figure, _kept(runs))


def steady_window(run: Run, chunks: int = 3) -> tuple[float, float]:
    """A window around ``chunks`` consecutive chunks in the middle of a run, for a zoom.

    From the start of the first chunk's decode to the end of the last one's; the whole run if it is
    too short to have a middle.
    """
    first = (len(run.chunks) - chunks) // 2
    if first >= 1:
        begin = run.chunks[first].decode_start_s
        end = run.chunks[first + chunks - 1].decode_done_s
        if begin is not None and end is not None:
            return begin, end
    return 0.0, run.latency_s


def two_chunks(run: Recorded) -> tuple[float, float] | None:
    """Two consecutive periods in the middle of a run, s; None if it is too short."""
    window = steady_windows(record_intervals(run)[2]).get("two chunks")
    return None if window is None else (window[0] / 1e9, window[1] / 1e9)


def run_stalls(run: Run, config: DecodeConfig, timeline: Timeline | None = None) -> Stalls:
    """Stalls of window ``run``: from its trace where that holds kernels, else from its records."""
    if timeline is not None and len(timeline.kernels):
        return stalls_from_trace(timeline, run_window(run))
    return stalls_from_records(run, config)


_FROM = {
    "kernel": "from the trace (kernel resolution)",
    "chunk": "from event records (chunk resolution: only between chunks)",
}


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
    """
    stalls = {m: run_stalls(run, config, (timelines or {}).get(m)) for m, run in runs.items()}
    windows = windows or {mode: two_chunks(run) for mode, run in runs.items()}
    widest = max((w[1] - w[0] for w in windows.values() if w is not None), default=0.0)
    limits = (0.0, 1.005 * max(run.latency_s for run in runs.values()))
    causes: list[str] = []
    lanes = [len(drawn_lanes([run])) for run in runs.values()]
    height = 1.95 + sum(0.27 * count + 0.3 for count in lanes)
    grid = {"height_ratios": lanes, "width_ratios": (1.7, 1)}
    words = "\n".join(filter(None, (warning, title_of(title))))
    with style.chart(height, len(runs), 2, sharex="col", gridspec_kw=grid) as (figure, axes):
        zoomed = []
        for (whole, zoom), (mode, run) in zip(axes, runs.items(), strict=True):
            plot_lanes(run, whole, limits)
            causes += draw_stalls(whole, stalls[mode], limits)[1]
            whole.set_title(f"{NAMES.get(mode, mode)}: {run.latency_s:.3f} s", loc="left", pad=3)
            if (window := windows[mode]) is None:
                zoom.set_axis_off()
                continue
            pair, length_ms = (0.0, 1e3 * widest), 1e3 * (window[1] - window[0])
            draw_lanes(zoom, [run], pair, window[:1], 1e3)
            causes += draw_stalls(zoom, stalls[mode], pair, window[0], 1e3)[1]
            zoom.set_ylim(whole.get_ylim())
            zoom.axvline(length_ms, **_PAIR_ENDS)
            zoom.set_title(f"two chunks: {length_ms:.1f} ms", loc="left", pad=3)
            zoomed.append(zoom)
        axes[-1, 0].set_xlabel("time since the call, s")
        for ax in zoomed[-1:]:
            ax.set_xlabel("time, ms")
            ax.tick_params(labelbottom=True)
        handles = [*lane_handles(runs.values()), Line2D([], [], label="sink closed", **_CLOSED)]
        if zoomed:
            handles.append(Line2D([], [], label="end of two chunks", **_PAIR_ENDS))
        for cause in (cause for cause in style.CAUSE_COLORS if cause in causes):
            took = " / ".join(f"{one.by_cause_ns[cause] / 1e6:.1f}" for one in stalls.values())
            handles.append(cause_handle(cause, f", {took} ms"))
        origins = " and ".join(
            _FROM[how] for how in sorted({s.resolution for s in stalls.values()})
        )
        said = f"Stalls above 20 us of {' / '.join(stalls)}, window run, {origins}"
        style.legend_below(figure, handles, ncols=3, fontsize=6.5, title=said, title_fontsize=6.5)
        if words:
            color = style.RED if warning else "black"
            figure.suptitle(words, fontsize=8, x=0.01, ha="left", color=color)
    gaps = [
        {"run": mode, "lane": f"stall: {piece.cause}", "start_s": piece.start_ns / 1e9,
         "stop_s": piece.stop_ns / 1e9}
        for mode, found in stalls.items() for gap in found.gaps for piece in gap.pieces
    ]  # fmt: skip
    return style.keep_data(figure, [*_kept(runs), *gaps])
