"""NVML samples under the timeline of the run that they were taken in. matplotlib only, no torch."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from vdkit.measure.nvml import THROTTLE_BITS
from vdkit.present.plots import plot_lanes
from vdkit.present.style import RED, STYLE, WIDTH_IN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vdkit.measure.records import Run

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
    mine = [row for row in rows if row["run"] == run]
    if not mine:
        known = ", ".join(dict.fromkeys(row["run"] for row in rows))
        raise ValueError(f"{path} has no run {run!r}; it has {known}")
    return {
        name: [float(row[name]) if row[name] else None for row in mine]
        for name in mine[0]
        if name != "run"
    }
