"""Timelines of runs, and what else a profile shows: matplotlib only, no torch.

Every bar of a timeline is drawn by `draw_bars`, at its exact place: bars snapped to pixels would
make equal events unequally wide. No figure shows what no table has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, MultipleLocator

from vdkit.decode.chunks import DecodeConfig, DecodeResult
from vdkit.present import style
from vdkit.present.instruments import NOISE, analyses_of, coverage_words, incomplete, on_cpu
from vdkit.present.style import ChartRow, Part
from vdkit.present.words import config_words, what_and_where
from vdkit.record.recording import Recording
from vdkit.record.runs import MODES, THROTTLE_BITS, Run
from vdkit.trace import Recorded, Timeline
from vdkit.trace.figures import Analysis, steady_windows
from vdkit.trace.files import read_trace
from vdkit.trace.stalls import Stalls, record_intervals, run_window, stalls_from_records, stalls_of

LEGEND_CHARACTERS = 130  # of a legend in one row, 7 for each entry's sample
BAR = 0.36  # half the height of a bar; lanes are 1 apart
# Parts of an axis: a bar that its chunk's number fits into; a piece that a hatch would fill with
# black; half a pixel of a printed figure, so that a cause that takes less is not in the legend.
_NUMBERED, _HATCHED, _VISIBLE = 0.035, 0.01, 1e-3
_CLOSED: Any = {"color": "black", "linewidth": 0.8, "linestyle": (0, (3, 2))}
Windows = Mapping[str, tuple[float, float] | None]
"""Mode to start and stop of two chunks, s; None of a run that is too short."""
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
    return [lane for lane in style.TONES if any(True for run in runs for _ in _spans(run, lane))]


def lane_handles(runs: Collection[Run | DecodeResult]) -> list[Patch | Line2D]:
    """Legend entries of the lanes that any of the runs has."""
    words = dict(style.LANE_MEANING)
    if all(run.vram_peak_bytes is None and not run.pinned_bytes for run in runs):  # on a CPU
        words |= {"compute": "decode (the decoder's call)", "copy": "copy from memory to memory"}
    return [Patch(color=style.TONES[lane][0], label=words[lane]) for lane in drawn_lanes(runs)]


def cause_handle(cause: str, words: str = "") -> Patch:
    """The legend entry of a stall's cause, with more ``words`` behind it."""
    (color, hatch), label = style.CAUSE_COLORS[cause], f"stall: {cause}{words}"
    return Patch(facecolor=color, hatch=hatch, edgecolor="black", linewidth=0.0, label=label)


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
    drawn, seen, width = [], [], limits[1] - limits[0]
    look: Any = {"edgecolors": "black", "linewidths": 0}
    for cause in dict.fromkeys(piece.cause for piece in stalls.pieces):
        color, hatch = style.CAUSE_COLORS[cause]
        edges = np.array([piece[:2] for piece in stalls.pieces if piece.cause == cause]).T / 1e9
        left, right = np.clip((edges - begin_s) * scale, *limits)
        length, wide = right - left, right - left > _HATCHED * width
        for some, lines in ((~wide & (length > 0), None), (wide, hatch or None)):
            if some.any():
                place = left[some], length[some], -BAR, height - BAR
                drawn.append(draw_bars(ax, *place, color, hatch=lines, **look))
        if length.sum() >= _VISIBLE * width:
            seen.append(cause)
    return drawn, seen


def _draw_run(
    ax: Axes, run: Run, limits: tuple[float, float], stalls: Stalls | None = None,
    begin_s: float = 0.0, scale: float = 1.0,
) -> list[str]:  # fmt: skip
    """One run's lanes, where its sink was closed, and its stalls; those causes to be seen."""
    draw_lanes(ax, [run], limits, [begin_s], scale)
    ax.set_ylim(len(drawn_lanes([run])) - 0.45, -0.55)
    if scale == 1 and limits[0] <= run.latency_s <= limits[1]:
        ax.axvline(run.latency_s, **_CLOSED)
    return draw_stalls(ax, stalls, limits, begin_s, scale)[1] if stalls else []


def _draw_runs(
    runs: Mapping[str, Run], title: str | Recording | None, span: tuple[float, float] | None = None,
    warning: str = "", stalls: Mapping[str, Stalls] | None = None, windows: Windows | None = None,
) -> Figure:  # fmt: skip
    """The runs above each other on one time axis; with ``windows`` a zoom of each beside it."""
    stalls, windows, causes = stalls or {}, windows or {}, []
    span = span or (0.0, 1.005 * max(run.latency_s for run in runs.values()))
    if isinstance(title, Recording):
        title = f"{title.label}: {what_and_where(title)}. {config_words(title.config)}"
    lanes = [len(drawn_lanes([run])) for run in runs.values()]
    height = 0.95 + sum(0.24 * count + 0.34 for count in lanes)
    grid = {"height_ratios": lanes, "width_ratios": (1.7, 1)[: 1 + bool(windows)]}
    shape = (height + bool(stalls), len(runs), 1 + bool(windows))
    widest_ms = max((1e3 * (w[1] - w[0]) for w in windows.values() if w), default=0.0)
    handles: list[Any] = lane_handles(runs.values())
    with style.chart(*shape, title, warning, sharex="col", gridspec_kw=grid) as (figure, axes):
        for (whole, *zooms), (name, run) in zip(axes, runs.items(), strict=True):
            causes += _draw_run(whole, run, span, stalls.get(name))
            whole.set_title(f"{MODES.get(name, name)}: {run.latency_s:.3f} s", loc="left", pad=3)
            for zoom in zooms:
                if (window := windows[name]) is None:
                    zoom.set_axis_off()
                    continue
                pair, stop_ms = (0.0, widest_ms), 1e3 * (window[1] - window[0])
                causes += _draw_run(zoom, run, pair, stalls.get(name), window[0], 1e3)
                zoom.axvline(stop_ms, **_PAIR_ENDS)
                zoom.set_title(f"two chunks: {stop_ms:.1f} ms", loc="left", pad=3)
        axes[-1, 0].set_xlabel("time since the call, s")
        if any(span[0] <= run.latency_s <= span[1] for run in runs.values()):
            handles.append(Line2D([], [], label="sink closed", **_CLOSED))
        if zoomed := [axes[row, 1] for row, window in enumerate(windows.values()) if window]:
            handles.append(Line2D([], [], label="end of two chunks", **_PAIR_ENDS))
            zoomed[-1].set_xlabel("time, ms")
            zoomed[-1].tick_params(labelbottom=True)
        for cause in (cause for cause in style.CAUSE_COLORS if cause in causes):
            took = " / ".join(f"{one.by_cause_ns[cause] / 1e6:.1f}" for one in stalls.values())
            handles.append(cause_handle(cause, f", {took} ms"))
        how = " and ".join(_FROM[how] for how in sorted({s.resolution for s in stalls.values()}))
        said = f"Stalls above 20 us of {' / '.join(stalls)}, window run, {how}" if stalls else None
        rows = 1 + (sum(len(one.get_label()) + 7 for one in handles) > LEGEND_CHARACTERS)
        columns = 3 if stalls else -(-len(handles) // rows)
        look: Any = {"fontsize": 6.5, "title": said, "title_fontsize": 6.5}
        style.legend_below(figure, handles, ncols=columns, **look)
    kept: list[tuple[Any, ...]] = []
    for name, run in runs.items():
        for lane in drawn_lanes([run]):
            kept += [(name, lane, chunk.index, *ends) for chunk, *ends in _spans(run, lane)]
    for name, found in stalls.items():
        kept += [(name, f"stall: {c}", None, a / 1e9, b / 1e9) for a, b, c, *_ in found.pieces]
    return style.keep_data(figure, kept, ("run", "lane", "chunk", "start_s", "stop_s"))


_FROM = {
    "kernel": "from the trace (kernel resolution)",
    "chunk": "from event records (chunk resolution: only between chunks)",
}


def plot_timeline(
    runs: Mapping[str, Run] | Recording, window: tuple[float, float] | None = None,
    title: str | Recording | None = None,
) -> Figure:  # fmt: skip
    """The runs above each other on one time axis, from their records.

    Args:
        runs: mode to run, drawn top down; of a recording, the run of each arm that is nearest to
            its median.
        window: (start, stop) in seconds since each call, to zoom; None: the longest run, whole.
        title: above the figure; a recording is named with decoder, size, chunk, slots and device.
    """
    if isinstance(runs, Recording):
        title = runs if title is None else title
        runs = {name: arm.typical() for name, arm in runs.arms.items()}
    return _draw_runs(runs, title, window)


def steady_window(run: Run, chunks: int = 3) -> tuple[float, float]:
    """A window around ``chunks`` consecutive chunks in the middle of a run, for a zoom.

    From the start of the first chunk's decode to the end of the last one's; the whole run if it is
    too short to have a middle.
    """
    if (first := (len(run.chunks) - chunks) // 2) >= 1:
        middle = run.chunks[first : first + chunks]
        begin, end = middle[0].decode_start_s, middle[-1].decode_done_s
        if begin is not None and end is not None:
            return begin, end
    return 0.0, run.latency_s


def two_chunks(run: Recorded) -> tuple[float, float] | None:
    """Two consecutive periods in the middle of a run, s; None if it is too short."""
    window = steady_windows(record_intervals(run)[2]).get("two chunks")
    return None if window is None else (window[0] / 1e9, window[1] / 1e9)


def plot_overlap(
    runs: Mapping[str, Run], config: DecodeConfig, title: str | Recording | None = None,
    warning: str = "", timelines: Mapping[str, Timeline] | None = None,
    windows: Windows | None = None,
) -> Figure:  # fmt: skip
    """Whole runs above each other on one time axis, and two consecutive chunks of each beside.

    Gaps of the compute lane are shaded by cause: at kernel resolution where ``timelines`` has the
    run's trace, else at chunk resolution from its event records. The legend says which.

    Args:
        runs: mode to run, drawn top down.
        config: how they were decoded.
        title: above the figure, as for `plot_timeline`.
        warning: red words above the figure: failed checks of the trace that the runs belong to.
        timelines: mode to the timeline of the same run; those of other modes are left alone.
        windows: mode to the window of the two chunks, s; None: as the event records have it.
    """
    stalls = {mode: stalls_from_records(run, config) for mode, run in runs.items()}
    traced = {mode: made for mode, made in (timelines or {}).items() if mode in runs}
    stalls |= {mode: stalls_of(made, run_window(runs[mode])) for mode, made in traced.items()}
    windows = windows or {mode: two_chunks(run) for mode, run in runs.items()}
    return _draw_runs(runs, title, None, warning, stalls, windows)


_BLUE = style.TONES["compute"][0]
_MEAN: Any = {"color": "black", "linewidth": 1.2}


def _costs(title: str | None, analyses: Mapping[str, Analysis]) -> str:
    """The title, and below it what the profiler itself cost, as it stands beside every figure."""
    costs = {mode: a.profiler_cost_percent for mode, a in analyses.items()}
    known = {mode: percent for mode, percent in costs.items() if percent is not None}
    words = ", ".join(f"{m} {NOISE if p < 0 else f'{p:+.1f} %'}" for m, p in known.items())
    cost = f"profiler cost: {words}" if words else "profiler cost unknown"
    return f"{title}\n{cost}" if title else cost


def plot_utilization(analyses: Mapping[str, Analysis], title: str | None = None) -> Figure:
    """Kernel utilization by window and path, as bars with their figure."""
    what = "decoder calls" if on_cpu(analyses) else "kernel utilization"
    panels: dict[str, list[ChartRow]] = {}
    for window in ("run", "steady", "two chunks"):
        for mode, one in analyses.items():
            if window in one.windows:
                percent = one.windows[window].kernel_utilization_percent
                bar = Part(what, percent, style.MODE_COLORS.get(mode, _BLUE))
                panels.setdefault(window, []).append(ChartRow(mode, [bar], f"{percent:.2f} %"))
    options: Any = {"title": _costs(title, analyses), "warning": incomplete(analyses)}
    words, limits = f"{what}, % of the window", (0.0, 112.0)
    with style.row_chart(panels, words, limits, row_in=0.18, **options) as (figure, axes):
        axes[0].set_xticks(range(0, 101, 20))
    return figure


def plot_waterfall(analyses: Mapping[str, Analysis], title: str | None = None) -> Figure:
    """Where the milliseconds of the run went from sync to async: busy time and each stall cause.

    Below stands how much of what async gains when timed lies between the two profiled runs.
    """
    pair = {mode: analyses[mode] for mode in ("sync", "async")}
    first, last = (one.windows["run"] for one in pair.values())
    begin, end = 1e3 * first.window_s, 1e3 * last.window_s
    busy = Part("busy", 1e3 * (last.busy_s - first.busy_s), _BLUE, "", "black")
    stalls = [
        Part("gaps up to 20 us" if cause == "short" else cause, change, *look, "black")
        for cause, look in style.CAUSE_COLORS.items()
        if abs(change := 1e3 * (last.stall_s[cause] - first.stall_s[cause])) >= 1e-4 * begin
    ]
    rest = end - begin - busy.length - sum(part.length for part in stalls)
    stalls += [Part("all others", rest, "#BBBBBB", "", "black")] if abs(rest) >= 0.05 else []
    rows, at = [], begin
    for part in (busy, *sorted(stalls, key=lambda part: part.length)):
        rows.append(ChartRow(part.name, [part], f"{part.length:+.1f} ms", left=at))
        at += part.length
    for place, mode, whole in ((0, "sync", begin), (len(rows) + 1, "async", end)):
        words = f"{whole:#.4g} ms".replace(". ", " ")
        rows.insert(place, ChartRow(mode, [Part("run", whole, style.MODE_COLORS[mode])], words))
    ends = [row.ends[-1] for row in rows]
    left = max(0.0, min(ends) - 0.25 * max(max(ends) - min(ends), 0.02 * min(ends)))
    width = 1.16 * (max(ends) - left)
    broken = " (the axis does not start at 0)" if left > 0 else ""
    below = re.sub(r"(:|,(?= so)) ", r"\1\n", coverage_words(pair))
    words = "\n".join(filter(None, (f"window 'run', ms{broken}", below)))
    options: Any = {"title": _costs(title, pair), "warning": incomplete(pair), "row_in": 0.22}
    with style.row_chart({"": rows}, words, (left, left + width), **options) as (figure, (ax,)):
        for row, one in enumerate(rows[1:-1], start=2):  # from where the row before ends
            ax.plot([one.left] * 2, [row - 0.65, row + 0.35], color="black", linewidth=0.5)
        cut: Any = {"fontsize": 14, "color": "white", "weight": "bold"}
        for row in (1, len(rows)) if left > 0 else ():  # a gap in each bar that is cut off
            style.say(ax, left + 0.02 * width, row, "//", **cut)
    return figure


def plot_latencies(latencies: Mapping[str, Sequence[float]], title: str | None = None) -> Figure:
    """Every timed run as a dot, by path; the mean as a line above it, P99 as one below.

    Args:
        latencies: mode to latencies of the timed runs, s.
    """
    few = min(len(values) for values in latencies.values()) < 100
    p99 = "P99 (below; n < 100: read it as the maximum)" if few else "P99 (below)"
    tail, words = _MEAN | {"color": style.RED}, "latency, s (the axis does not start at 0)"
    rows = [
        ChartRow(f"{mode} (n = {len(values)})", dots=values, color=color)
        for mode, values in latencies.items()
        for color in [style.MODE_COLORS.get(mode, _BLUE)]
    ]
    with style.row_chart({"": rows}, words, row_in=0.33, title=title) as (figure, (ax,)):
        ax.set_xlim(auto=True)
        for row, values in enumerate(latencies.values(), start=1):
            ax.vlines(np.mean(values), row - 0.4, row - 0.1, **_MEAN)
            ax.vlines(np.percentile(values, 99), row + 0.1, row + 0.4, **tail)
        ax.autoscale(axis="x")
        looks = {"mean (above)": _MEAN, p99: tail}
        handles = [Line2D([], [], label=label, **look) for label, look in looks.items()]
        style.legend_below(figure, handles, loc="outside lower right", ncols=2)
    return figure


def profile_figures(
    recording: Recording, home: Path | None = None
) -> dict[str, Callable[[], Figure]]:
    """Every picture of a profile by name, each drawn when called.

    Args:
        home: the folder with its traces and ``nvml.csv``. Of a path whose trace is not there stalls
            come from the event records.
    """
    where = what_and_where(recording)
    analyses, titled = analyses_of(recording), f"Profiled runs: {where}"
    latencies = {name: arm.latencies for name, arm in recording.arms.items()}
    profiles = {name: arm.profile for name, arm in recording.arms.items() if arm.profile}
    shown = {n: p for n, p in profiles.items() if n in ("sync", "async")} or profiles
    mine = {name: analyses[name] for name in shown}

    def lanes() -> Figure:
        """Sync over async, or what there is, with the stalls of the traces beside the recording."""
        paths = {name: home / one.trace for name, one in shown.items()} if home else {}
        traces = {name: read_trace(path) for name, path in paths.items() if path.is_file()}
        pairs = {name: one.windows.get("two chunks") for name, one in mine.items()}
        windows = {name: (p.start_s, p.stop_s) if p else None for name, p in pairs.items()}
        runs, words = {name: one.run for name, one in shown.items()}, _costs(titled, mine)
        return plot_overlap(runs, recording.config, words, incomplete(mine), traces, windows)

    drawn: dict[str, Callable[[], Figure]] = {
        "latency": partial(plot_latencies, latencies, f"Timed runs: {where}"),
        "utilization": partial(plot_utilization, analyses, titled),
        "timeline": lanes,
    }
    if {"sync", "async"} <= analyses.keys():
        drawn["waterfall"] = partial(plot_waterfall, analyses, titled)
    if home is not None and (home / "nvml.csv").exists():
        name = "async" if "async" in profiles else next(iter(profiles))
        columns = read_nvml_csv(home / "nvml.csv", f"{name}-profiled")
        title = f"{MODES[name]}, profiled: {where}"
        drawn["nvml"] = partial(plot_nvml, profiles[name].run, columns, title)
    return drawn


_NVML_ROWS = (
    ("power, W", [("power_w", "#D55E00", "board")]),
    ("clock, MHz", [("sm_clock_mhz", "#0072B2", "SM"), ("memory_clock_mhz", "#56B4E9", "memory")]),
    ("GPM, %", [("sm_active_percent", "#009E73", "SM active"),
                ("tensor_active_percent", "#CC79A7", "tensor active"),
                ("dram_bandwidth_percent", "#E69F00", "DRAM bandwidth,\nof its peak")]),
)  # fmt: skip


def plot_nvml(
    run: Run, nvml: Mapping[str, Sequence[float | None]], title: str | None = None
) -> Figure:
    """NVML samples (power, clocks, activity) under the timeline of the run they were taken in.

    Where a throttle reason was set the rows are shaded; the legend names it, or says never.

    Args:
        nvml: column to values, ``time_s`` (s since the call) among them; fields that the device
            does not answer are left out of the picture.
    """
    known = {label: [one for one in lines if nvml.get(one[0])] for label, lines in _NVML_ROWS}
    rows = {label: lines for label, lines in known.items() if lines}
    grid: Any = {"sharex": True, "gridspec_kw": {"height_ratios": [1.1, *([1] * len(rows))]}}
    held, shade = throttled_spans(nvml), {"facecolor": style.RED, "alpha": 0.15, "linewidth": 0}
    times = np.array(nvml["time_s"], float)
    with style.chart(1.5 + 0.85 * len(rows), 1 + len(rows), title=title, **grid) as (figure, axes):
        _draw_run(axes[0, 0], run, (0.0, 1.005 * run.latency_s))
        for ax, (label, lines) in zip(axes[1:, 0], rows.items(), strict=True):
            for column, color, name in lines:
                values = np.array(nvml[column], float)  # None becomes NaN
                told = np.isfinite(values)
                ax.plot(times[told], values[told], color=color, linewidth=1, label=name)
            ax.set_ylabel(label, fontsize=7)
            ax.set_ylim(0, 105 if "%" in label else None)
            ticks = MultipleLocator(25) if "%" in label else MaxNLocator(4, min_n_ticks=3)
            ax.yaxis.set_major_locator(ticks)
            for start, stop, _ in held or []:
                ax.axvspan(start, stop, **shade)
            if label == _NVML_ROWS[0][0] and held is not None:
                for reasons in dict.fromkeys(names for *_, names in held):
                    ax.fill_between([], [], label=f"throttled:\n{reasons}", **shade)
                if not held:
                    ax.plot([], [], linestyle="", label="never throttled")
            ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7)
        axes[-1, 0].set_xlabel("time since the call, s")
    return style.keep_data(figure, list(zip(*nvml.values(), strict=True)), list(nvml))


def throttled_spans(
    nvml: Mapping[str, Sequence[float | None]],
) -> list[tuple[float, float, str]] | None:
    """(start, stop, reasons), s: from each reading with a throttle reason set to the next reading.

    None if the samples do not hold the clock event reasons.
    """
    if not nvml.get("clock_event_reasons"):
        return None
    pairs = zip(nvml["time_s"], nvml["clock_event_reasons"], strict=True)
    read = [(t, int(bits)) for t, bits in pairs if t is not None and bits is not None]
    spans = []
    for (start, bits), (stop, _) in zip(read, [*read[1:], *read[-1:]], strict=True):
        if names := [name for name, bit in THROTTLE_BITS.items() if bits & bit]:
            spans.append((start, stop, ", ".join(names)))
    return spans


def read_nvml_csv(path: Path, run: str) -> dict[str, list[float | None]]:
    """The columns of one run in ``nvml.csv``; ValueError, with the names, if it is not there."""
    import pandas as pd

    rows = pd.read_csv(path)
    old = run.replace("compute_only", "compute")  # what earlier files call it
    mine = rows[rows["run"].isin((run, old))].drop(columns="run")
    if mine.empty:
        raise ValueError(f"{path} has no run {run!r}; it has {', '.join(rows['run'].unique())}")
    return {str(name): [None if x != x else x for x in values] for name, values in mine.items()}
