"""Charts of a recorded profile or benchmark: bars, waterfall, strips. matplotlib only, no torch.

Each draws on an ``ax``, or without one makes a figure; either way it returns the figure. Its
``title`` says what was measured; below it stands what the profiler cost, where one ran.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vdkit.present import style
from vdkit.present.columns import NAMES
from vdkit.present.profile_document import NOISE, analyses_of, coverage_words, incomplete, on_cpu
from vdkit.present.timeline import plot_lanes, plot_overlap
from vdkit.present.words import what_and_where
from vdkit.record.machine import THROTTLE_BITS
from vdkit.record.recording import Recording
from vdkit.record.runs import Run
from vdkit.trace.figures import Analysis
from vdkit.trace.read import read_trace


@contextmanager
def _chart(
    ax: Axes | None, height_in: float, words: Sequence[str | None],
    analyses: Mapping[str, Analysis] | None = None,
) -> Iterator[tuple[Figure, Axes]]:  # fmt: skip
    """``ax`` and its figure, or new ones; above it what was measured and failed checks, in red."""
    made: Any = nullcontext((ax.get_figure(root=True), [[ax]])) if ax else style.chart(height_in)
    with made as (figure, ((ax,),)), plt.rc_context(style.STYLE):
        yield figure, ax
        ax.set_title("\n".join(filter(None, words)), loc="left", fontsize=7)
        if warning := incomplete(analyses or {}):
            ax.annotate(
                warning, (0, 1), (0, 16), xycoords="axes fraction", textcoords="offset points",
                color=style.RED, fontsize=7, va="bottom", annotation_clip=False,
            )  # fmt: skip


def _cost(analyses: Mapping[str, Analysis]) -> str:
    """The profiler's own cost, as it stands beside every figure."""
    costs = {mode: a.profiler_cost_percent for mode, a in analyses.items()}
    known = {mode: percent for mode, percent in costs.items() if percent is not None}
    words = [f"{m} {NOISE if p < 0 else f'{p:+.1f} %'}" for m, p in known.items()]
    return f"profiler cost: {', '.join(words)}" if words else "profiler cost unknown"


def plot_utilization(
    analyses: Mapping[str, Analysis], ax: Axes | None = None, title: str | None = None
) -> Figure:
    """Kernel utilization by window and path, as bars with their figure."""
    modes = {
        window: there
        for window in ("run", "steady", "two chunks")
        if (there := [mode for mode, one in analyses.items() if window in one.windows])
    }
    height = 0.9 + 0.17 * sum(len(names) + 1 for names in modes.values())
    with _chart(ax, height, (title, _cost(analyses)), analyses) as (figure, ax):
        place, ticks = 0.0, []
        for window, names in modes.items():
            for row, mode in enumerate(names):
                percent = analyses[mode].windows[window].kernel_utilization_percent
                color = style.MODE_COLORS.get(mode, "#0072B2")
                ax.barh(place + row, percent, color=color, height=0.8)
                style.say(ax, percent + 0.6, place + row, f"{percent:.2f} %")
                style.say(ax, 1, place + row, mode, color="white")
            ticks.append(place + (len(names) - 1) / 2)
            place += len(names) + 0.7
        style.name_rows(ax, list(modes), ticks)
        what = "decoder calls" if on_cpu(analyses) else "kernel utilization"
        ax.set(xlim=(0, 112), xticks=range(0, 101, 20), xlabel=f"{what}, % of the window")
    return figure


def plot_waterfall(
    analyses: Mapping[str, Analysis],
    ax: Axes | None = None,
    *,
    start: str = "sync",
    stop: str = "async",
    window: str = "run",
    title: str | None = None,
) -> Figure:
    """Where the milliseconds went between two paths: busy time and each stall cause.

    Below stands how much of what async gains when timed lies between the two profiled runs.

    Args:
        start, stop: the two paths; both must be in ``analyses``.
        window: which window of both.
    """
    first, last = analyses[start].windows[window], analyses[stop].windows[window]
    steps = [("busy", 1e3 * (last.busy_s - first.busy_s), "#0072B2", "")]
    for cause, (color, hatch) in style.CAUSE_COLORS.items():
        change = 1e3 * (last.stall_s[cause] - first.stall_s[cause])
        if abs(change) >= 1e-4 * 1e3 * first.window_s:
            label = "gaps up to 20 us" if cause == "short" else cause
            steps.append((label, change, color, hatch))
    rest = 1e3 * (last.window_s - first.window_s) - sum(step[1] for step in steps)
    if abs(rest) >= 0.05:
        steps.append(("all others", rest, "#BBBBBB", ""))
    steps = [steps[0], *sorted(steps[1:], key=lambda step: step[1])]
    begin, end = 1e3 * first.window_s, 1e3 * last.window_s
    ends = [begin, *(begin + gone for gone in accumulate(step[1] for step in steps))]
    left = max(0.0, min(ends) - 0.25 * max(max(ends) - min(ends), 0.02 * min(ends)))
    width = 1.16 * (max(ends) - left)
    pair, bottom = {mode: analyses[mode] for mode in (start, stop)}, len(steps) + 1
    height = 1.25 + 0.22 * (len(steps) + 2)
    with _chart(ax, height, (title, _cost(pair)), pair) as (figure, ax):
        for row, mode, whole in ((0, start, begin), (bottom, stop, end)):
            ax.barh(row, whole, color=style.MODE_COLORS.get(mode, "#888888"), height=0.7)
            style.say(ax, whole + 0.012 * width, row, f"{whole:#.4g} ms".replace(". ", " "))
            if left > 0:  # a gap in each bar that is cut off
                cut: Any = {"fontsize": 14, "color": "white", "weight": "bold"}
                style.say(ax, left + 0.02 * width, row, "//", **cut)
        look: dict[str, Any] = {"height": 0.7, "edgecolor": "black", "linewidth": 0.3}
        for row, (_, change, color, hatch) in enumerate(steps, start=1):
            before, after = ends[row - 1 : row + 1]
            ax.barh(row, change, left=before, facecolor=color, hatch=hatch, **look)
            ax.plot([before, before], [row - 0.65, row + 0.35], color="black", linewidth=0.5)
            style.say(ax, max(before, after) + 0.012 * width, row, f"{change:+.1f} ms")
        style.name_rows(ax, [start, *(step[0] for step in steps), stop])
        broken = " (the axis does not start at 0)" if left > 0 else ""
        below = coverage_words(pair).replace(": ", ":\n") if window == "run" else ""
        words = "\n".join(filter(None, (f"window '{window}', ms{broken}", below)))
        ax.set(xlim=(left, left + width), xlabel=words)
    return figure


def plot_latencies(
    latencies: Mapping[str, Sequence[float]], ax: Axes | None = None, title: str | None = None
) -> Figure:
    """Every timed run as a dot, by path; the mean as a line above it, P99 as one below.

    Args:
        latencies: mode to latencies of the timed runs, s.
    """
    with _chart(ax, 1.05 + 0.33 * len(latencies), (title,)) as (figure, ax):
        few = min(len(values) for values in latencies.values()) < 100
        p99 = "P99 (below; n < 100: read it as the maximum)" if few else "P99 (below)"
        mean: dict[str, Any] = {"color": "black", "linewidth": 1.2}
        tail = mean | {"color": style.RED}
        for row, (mode, values) in enumerate(latencies.items()):
            color = style.MODE_COLORS.get(mode, "#0072B2")
            ax.scatter(values, [row] * len(values), s=10, color=color, alpha=0.6, linewidth=0)
            ax.vlines(np.mean(values), row - 0.4, row - 0.1, **mean)
            ax.vlines(np.percentile(values, 99), row + 0.1, row + 0.4, **tail)
        ax.vlines([], 0, 0, label="mean (above)", **mean)
        ax.vlines([], 0, 0, label=p99, **tail)
        names = [f"{mode} (n = {len(values)})" for mode, values in latencies.items()]
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(latencies) - 0.5, -0.5)
        ax.set_xlabel("latency, s (the axis does not start at 0)")
        style.legend_below(figure, loc="outside lower right", ncols=2)
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
    drawn: dict[str, Callable[[], Figure]] = {
        "latency": partial(plot_latencies, latencies, title=f"Timed runs: {where}"),
        "utilization": partial(plot_utilization, analyses, title=titled),
        "timeline": partial(_plot_timeline, recording, home, titled),
    }
    if {"sync", "async"} <= analyses.keys():
        drawn["waterfall"] = partial(plot_waterfall, analyses, title=titled)
    if home is not None and (home / "nvml.csv").exists():
        name = "async" if "async" in analyses else next(iter(analyses))
        profile = recording.arms[name].profile
        assert profile is not None
        columns = read_nvml_csv(home / "nvml.csv", f"{name}-profiled")
        title = f"{NAMES[name]}, profiled: {where}"
        drawn["nvml"] = partial(plot_nvml, profile.run, columns, title)
    return drawn


def _plot_timeline(recording: Recording, home: Path | None, title: str) -> Figure:
    """Sync over async, or what there is, with the stalls of the traces beside the recording."""
    profiles = {name: arm.profile for name, arm in recording.arms.items() if arm.profile}
    shown = {n: p for n, p in profiles.items() if n in ("sync", "async")} or profiles
    mine = {name: one.analysis for name, one in shown.items()}
    paths = {name: home / one.trace for name, one in shown.items()} if home else {}
    traces = {name: read_trace(path) for name, path in paths.items() if path.is_file()}
    pairs = {name: one.windows.get("two chunks") for name, one in mine.items()}
    windows = {n: (pair.start_s, pair.stop_s) if pair else None for n, pair in pairs.items()}
    runs, words = {name: one.run for name, one in shown.items()}, f"{title}\n{_cost(mine)}"
    return plot_overlap(runs, recording.config, words, incomplete(mine), traces, windows)


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
    there = [(label, [one for one in lines if nvml.get(one[0])]) for label, lines in _NVML_ROWS]
    rows = [(label, lines) for label, lines in there if lines]
    grid: Any = {"sharex": True, "gridspec_kw": {"height_ratios": [1.1, *([1] * len(rows))]}}
    height = 1.5 + 0.85 * len(rows)
    with style.chart(height, 1 + len(rows), title=title, **grid) as (figure, axes):
        plot_lanes(run, axes[0, 0], (0.0, 1.005 * run.latency_s))
        times = np.array(nvml["time_s"], float)
        held = throttled_spans(nvml)
        shade: dict[str, Any] = {"facecolor": style.RED, "alpha": 0.15}
        for ax, (label, lines) in zip(axes[1:, 0], rows, strict=True):
            for column, color, name in lines:
                values = np.array(nvml[column], float)  # None becomes NaN
                known = np.isfinite(values)
                ax.plot(times[known], values[known], color=color, linewidth=1, label=name)
            ax.set_ylabel(label, fontsize=7)
            if "%" in label:
                ax.set(ylim=(0, 105), yticks=range(0, 101, 25))
            else:
                ax.set_ylim(bottom=0)
                ax.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
            for start, stop, _ in held or []:
                ax.axvspan(start, stop, linewidth=0, **shade)
            if label == _NVML_ROWS[0][0] and held is not None:
                for reasons in dict.fromkeys(names for *_, names in held):
                    ax.fill_between([], [], label=f"throttled:\n{reasons}", **shade)
                if not held:
                    ax.plot([], [], linestyle="", label="never throttled")
            ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7)
        axes[-1, 0].set_xlabel("time since the call, s")
    return figure


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
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    old = run.replace("compute_only", "compute")  # what earlier files call it
    if not (mine := [row for row in rows if row["run"] in (run, old)]):
        known = ", ".join(dict.fromkeys(row["run"] for row in rows))
        raise ValueError(f"{path} has no run {run!r}; it has {known}")
    names = [name for name in mine[0] if name != "run"]
    return {name: [float(row[name]) if row[name] else None for row in mine] for name in names}
