"""Charts of a recorded profile or benchmark: bars, waterfall, strips. matplotlib only, no torch.

Each takes an ``ax`` to draw on, or makes a figure; either way it returns the figure.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from vdkit.present.columns import NAMES
from vdkit.present.profile_document import NOISE, analyses_of, coverage_words, incomplete, on_cpu
from vdkit.present.style import CAUSE_COLORS, MODE_COLORS, RED, STYLE, WIDTH_IN
from vdkit.present.timeline import plot_lanes, plot_overlap
from vdkit.present.words import what_and_where
from vdkit.record.machine import THROTTLE_BITS
from vdkit.trace.read import read_trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vdkit.record.recording import Recording
    from vdkit.record.runs import Run
    from vdkit.trace.figures import Analysis


def _figure(ax: Axes | None, height_in: float) -> tuple[Figure, Axes]:
    if ax is not None:
        figure = ax.get_figure(root=True)
        assert figure is not None
        return figure, ax
    figure, ax = plt.subplots(figsize=(WIDTH_IN, height_in), layout="constrained")
    plt.close(figure)
    return figure, ax


def _warn(ax: Axes, analyses: Mapping[str, Analysis]) -> None:
    """Failed checks in red words above the axes."""
    if words := incomplete(analyses):
        ax.annotate(
            words, (0, 1), (0, 16), xycoords="axes fraction",
            textcoords="offset points", color=RED, fontsize=7, va="bottom", annotation_clip=False,
        )  # fmt: skip


def _cost(analyses: Mapping[str, Analysis]) -> str:
    """The profiler's own cost, as it stands beside every figure."""
    costs = {mode: a.profiler_cost_percent for mode, a in analyses.items()}
    known = {mode: percent for mode, percent in costs.items() if percent is not None}
    words = [f"{m} {NOISE if p < 0 else f'{p:+.1f} %'}" for m, p in known.items()]
    return f"profiler cost: {', '.join(words)}" if words else "profiler cost unknown"


def _title(ax: Axes, title: str | None, *more: str) -> None:
    """What was measured, and ``more`` on lines below it, left above the axes."""
    lines = [line for line in (title, *more) if line]
    ax.set_title("\n".join(lines), loc="left", fontsize=7)


def plot_utilization(
    analyses: Mapping[str, Analysis], ax: Axes | None = None, title: str | None = None
) -> Figure:
    """Kernel utilization by window and path, as bars with their figure.

    Args:
        analyses: mode to analysis.
        ax: where to draw; None makes a figure.
        title: what was measured; the profiler's cost stands below it.
    """
    with plt.rc_context(STYLE):
        windows = [w for w in ("run", "steady", "two chunks") if _have(analyses, w)]
        figure, ax = _figure(ax, 0.9 + 0.17 * sum(len(_have(analyses, w)) + 1 for w in windows))
        place, ticks = 0.0, []
        for window in windows:
            modes = _have(analyses, window)
            for offset, mode in enumerate(modes):
                percent = analyses[mode].windows[window].kernel_utilization_percent
                row = place + offset
                ax.barh(row, percent, color=MODE_COLORS.get(mode, "#0072B2"), height=0.8)
                ax.text(percent + 0.6, row, f"{percent:.2f} %", va="center", fontsize=7)
                ax.text(1, row, mode, va="center", fontsize=7, color="white")
            ticks.append((place + (len(modes) - 1) / 2, window))
            place += len(modes) + 0.7
        ax.set_yticks([at for at, _ in ticks], [name for _, name in ticks])
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set_xlim(0, 112)
        ax.set_xticks(range(0, 101, 20))
        what = "decoder calls" if on_cpu(analyses) else "kernel utilization"
        ax.set_xlabel(f"{what}, % of the window")
        _title(ax, title, _cost(analyses))
        _warn(ax, analyses)
    return figure


def _have(analyses: Mapping[str, Analysis], window: str) -> list[str]:
    return [mode for mode, analysis in analyses.items() if window in analysis.windows]


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
        analyses: mode to analysis; both paths must be there.
        ax: where to draw; None makes a figure.
        start, stop: the two paths.
        window: which window of both.
        title: what was measured; the profiler's cost stands below it.
    """
    first, last = analyses[start].windows[window], analyses[stop].windows[window]
    steps = [("busy", 1e3 * (last.busy_s - first.busy_s), "#0072B2", "")]
    for cause, (color, hatch) in CAUSE_COLORS.items():
        change = 1e3 * (last.stall_s[cause] - first.stall_s[cause])
        if abs(change) >= 1e-4 * 1e3 * first.window_s:
            label = "gaps up to 20 us" if cause == "short" else cause
            steps.append((label, change, color, hatch))
    rest = 1e3 * (last.window_s - first.window_s) - sum(step[1] for step in steps)
    if abs(rest) >= 0.05:
        steps.append(("all others", rest, "#BBBBBB", ""))
    steps = [steps[0], *sorted(steps[1:], key=lambda step: step[1])]
    with plt.rc_context(STYLE):
        figure, ax = _figure(ax, 1.25 + 0.22 * (len(steps) + 2))
        level = 1e3 * first.window_s
        ax.barh(0, level, color=MODE_COLORS.get(start, "#888888"), height=0.7)
        ends = [level]
        for row, (_, change, color, hatch) in enumerate(steps, start=1):
            ax.barh(
                row, change, left=level, facecolor=color, hatch=hatch, height=0.7,
                edgecolor="black", linewidth=0.3,
            )  # fmt: skip
            ax.plot([level, level], [row - 0.65, row + 0.35], color="black", linewidth=0.5)
            level += change
            ends.append(level)
        bottom = len(steps) + 1
        ax.barh(bottom, 1e3 * last.window_s, color=MODE_COLORS.get(stop, "#888888"), height=0.7)
        low = min(ends)
        span = max(ends) - low
        left = max(0.0, low - 0.25 * max(span, 0.02 * low))
        right = max(ends) + 0.16 * (max(ends) - left)
        ax.set_xlim(left, right)
        for row, end in enumerate([ends[0], *ends[1:], 1e3 * last.window_s]):
            text = (
                f"{end:#.4g} ms".replace(". ", " ")
                if row in (0, bottom)
                else f"{steps[row - 1][1]:+.1f} ms"
            )
            at = end if row in (0, bottom) else max(end, ends[row - 1])
            ax.text(at + 0.012 * (right - left), row, text, va="center", fontsize=7)
        labels = [start, *(step[0] for step in steps), stop]
        ax.set_yticks(range(len(labels)), labels)
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        broken = " (the axis does not start at 0)" if left > 0 else ""
        for row in (0, bottom) if left > 0 else ():  # a gap in each bar that is cut off
            ax.text(
                left + 0.02 * (right - left), row, "//", va="center", fontsize=14, color="white",
                weight="bold",
            )  # fmt: skip
        pair = {mode: analyses[mode] for mode in (start, stop)}
        below = coverage_words(pair).replace(": ", ":\n") if window == "run" else ""
        ax.set_xlabel("\n".join(filter(None, (f"window '{window}', ms{broken}", below))))
        _title(ax, title, _cost(pair))
        _warn(ax, pair)
    return figure


def plot_latencies(
    latencies: Mapping[str, Sequence[float]], ax: Axes | None = None, title: str | None = None
) -> Figure:
    """Every timed run as a dot, by path; the mean as a line above it, P99 as one below.

    Args:
        latencies: mode to latencies of the timed runs, s.
        ax: where to draw; None makes a figure.
        title: what was measured.
    """
    with plt.rc_context(STYLE):
        figure, ax = _figure(ax, 1.05 + 0.33 * len(latencies))
        for row, (mode, values) in enumerate(latencies.items()):
            data = np.asarray(values)
            color = MODE_COLORS.get(mode, "#0072B2")
            ax.scatter(data, np.full(data.size, row), s=10, color=color, alpha=0.6, linewidth=0)
            ax.vlines(data.mean(), row - 0.4, row - 0.1, color="black", linewidth=1.2)
            ax.vlines(np.percentile(data, 99), row + 0.1, row + 0.4, color=RED, linewidth=1.2)
        few = min(len(values) for values in latencies.values()) < 100
        ax.vlines([], 0, 0, color="black", linewidth=1.2, label="mean (above)")
        p99 = "P99 (below; n < 100: read it as the maximum)" if few else "P99 (below)"
        ax.vlines([], 0, 0, color=RED, linewidth=1.2, label=p99)
        counts = {mode: len(values) for mode, values in latencies.items()}
        ax.set_yticks(
            range(len(latencies)), [f"{mode} (n = {count})" for mode, count in counts.items()]
        )
        ax.set_ylim(len(latencies) - 0.5, -0.5)
        ax.set_xlabel("latency, s (the axis does not start at 0)")
        _title(ax, title)
        figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=7)
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
    traces = {name: home / one.trace for name, one in shown.items()} if home else {}
    pairs = {name: one.windows.get("two chunks") for name, one in mine.items()}
    return plot_overlap(
        {name: one.run for name, one in shown.items()},
        recording.config,
        f"{title}\n{_cost(mine)}",
        incomplete(mine),
        {name: read_trace(path) for name, path in traces.items() if path.is_file()},
        {n: (pair.start_s, pair.stop_s) if pair else None for n, pair in pairs.items()},
    )


_NVML_ROWS = (
    ("power, W", (("power_w", "#D55E00", "board"),)),
    ("clock, MHz", (("sm_clock_mhz", "#0072B2", "SM"), ("memory_clock_mhz", "#56B4E9", "memory"))),
    (
        "GPM, %",
        (
            ("sm_active_percent", "#009E73", "SM active"),
            ("tensor_active_percent", "#CC79A7", "tensor active"),
            ("dram_bandwidth_percent", "#E69F00", "DRAM bandwidth,\nof its peak"),
        ),
    ),
)


def plot_nvml(
    run: Run, nvml: Mapping[str, Sequence[float | None]], title: str | None = None
) -> Figure:
    """NVML samples (power, clocks, activity) under the timeline of the run they were taken in.

    Where a throttle reason was set the rows are shaded; the legend names it, or says never.

    Args:
        run: a recorded run.
        nvml: column to values, ``time_s`` (s since the call) among them; fields that the device
            does not answer are left out of the picture.
        title: above the figure.
    """
    rows = [(label, [line for line in lines if nvml.get(line[0])]) for label, lines in _NVML_ROWS]
    rows = [(label, lines) for label, lines in rows if lines]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1 + len(rows), 1, sharex=True, squeeze=False, layout="constrained",
            figsize=(WIDTH_IN, 1.5 + 0.85 * len(rows)),
            gridspec_kw={"height_ratios": [1.1, *([1] * len(rows))]},
        )  # fmt: skip
        plot_lanes(run, axes[0, 0], (0.0, 1.005 * run.latency_s))
        times = np.array(nvml["time_s"], float)
        held = throttled_spans(nvml)
        for ax, (label, lines) in zip(axes[1:, 0], rows, strict=True):
            for column, color, name in lines:
                values = np.array([np.nan if v is None else v for v in nvml[column]], float)
                there = np.isfinite(values)
                ax.plot(times[there], values[there], color=color, linewidth=1, label=name)
            ax.set_ylabel(label, fontsize=7)
            if "%" in label:
                ax.set_ylim(0, 105)
                ax.set_yticks(range(0, 101, 25))
            else:
                ax.set_ylim(bottom=0)
                ax.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
            _shade(ax, held, label.startswith(_NVML_ROWS[0][0]))
            ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7)
        axes[-1, 0].set_xlabel("time since the call, s")
        if title:
            figure.suptitle(title, fontsize=8.5, x=0.01, ha="left")
        plt.close(figure)
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
    for place, (start, bits) in enumerate(read):
        stop = read[min(place + 1, len(read) - 1)][0]
        if names := [name for name, bit in THROTTLE_BITS.items() if bits & bit]:
            spans.append((start, stop, ", ".join(names)))
    return spans


def _shade(ax: Axes, held: list[tuple[float, float, str]] | None, named: bool) -> None:
    """Shade the throttled spans; ``named``: with an entry each in this row's legend."""
    for start, stop, _ in held or []:
        ax.axvspan(start, stop, facecolor=RED, alpha=0.15, linewidth=0)
    if named and held is not None:
        for reasons in dict.fromkeys(names for *_, names in held):
            ax.fill_between([], [], facecolor=RED, alpha=0.15, label=f"throttled:\n{reasons}")
        if not held:
            ax.plot([], [], linestyle="", label="never throttled")


def read_nvml_csv(path: Path, run: str) -> dict[str, list[float | None]]:
    """The columns of one run in ``nvml.csv``; ValueError, with the names, if it is not there."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    old = run.replace("compute_only", "compute")  # what earlier files call it
    mine = [row for row in rows if row["run"] in (run, old)]
    if not mine:
        known = ", ".join(dict.fromkeys(row["run"] for row in rows))
        raise ValueError(f"{path} has no run {run!r}; it has {known}")
    return {
        name: [float(row[name]) if row[name] else None for row in mine]
        for name in mine[0]
        if name != "run"
    }
