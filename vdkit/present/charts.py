"""Charts of studies: variants, primitives off one by one, rounds, sweeps. matplotlib, no torch.

Panels that are compared share their axis; an axis that does not start at 0 says so. What overlap
hides and headroom are per latent frame over whole runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vdkit.predict.advise import storage_sensitivity
from vdkit.predict.fleet import Fleet
from vdkit.predict.grid import Sweep
from vdkit.predict.shared import SHARED
from vdkit.present import ratio_of, style
from vdkit.present.comparison import spread_percent
from vdkit.present.documents import decision_of
from vdkit.present.sweep_document import cell_records, speed_words, verdict
from vdkit.present.words import slots_words, what_and_where
from vdkit.record.recording import Arm, Recording
from vdkit.record.runs import MODES
from vdkit.record.stats import CALL_BELOW_P
from vdkit.trace.figures import FamilyShare

_BLUE, _GREY = "#0072B2", "#BBBBBB"
_DASHES: Any = {"linewidth": 1, "linestyle": (0, (4, 2))}


_STEPS = {
    "decode": (style.TONES["compute"][0], "decode"),
    **{lane: (style.TONES[lane][0], words) for lane, words in style.LANE_MEANING.items()},
    "rest": (_GREY, "open, close and wait"),
}
del _STEPS["compute"]
"""Color and meaning of what a run's time goes to."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """One decoder, sync against async: ms per latent frame, means of the timed runs.

    Attributes:
        sync_ms: what mode sync does one after the other: ``decode``, ``copy``, ``convert``,
            ``write``, and ``rest``: opening and closing the sink, launches on an idle device.
        async_ms: ``decode``, and ``rest``: everything that is not hidden behind it.
    """

    sync_ms: Mapping[str, float]
    async_ms: Mapping[str, float]

    @property
    def beside_ms(self) -> float:
        """What mode sync takes beside decoding: all that could be hidden."""
        return math.fsum(self.sync_ms.values()) - self.sync_ms["decode"]

    @property
    def beside_percent(self) -> float:
        """`beside_ms` as a share of mode sync."""
        return 100 * self.beside_ms / math.fsum(self.sync_ms.values())

    @property
    def hidden_percent(self) -> float:
        """Share of `beside_ms` that does not show in mode async."""
        return 100 * (1 - self.async_ms["rest"] / self.beside_ms)


def _parts_ms(result: Recording, mode: str, *steps: str) -> dict[str, float]:
    """Each step and the rest of a run, which add up to its latency."""
    arm, scale = _arm(result, mode, "sync and async"), 1e3 / result.workload.latent_frames
    chunks, scale_one = [chunk for run in arm.timed for chunk in run.chunks], scale / len(arm.timed)
    parts = {s: scale_one * math.fsum(chunk.span_s(s) or 0.0 for chunk in chunks) for s in steps}
    return parts | {"rest": scale * arm.latency.mean - math.fsum(parts.values())}


def _arm(result: Recording, mode: str, needed: str) -> Arm:
    if mode not in result.arms:
        raise ValueError(
            f"{result.label} has no runs of mode {mode}; run the benchmark with {needed}"
        )
    return result.arms[mode]


def overlaps_of(recording: Recording) -> dict[str, Overlap]:
    """Variant to its sync against async, ms per latent frame; ValueError without both modes."""
    steps = ("decode", "copy", "convert", "write")
    return {
        name: Overlap(_parts_ms(one, "sync", *steps), _parts_ms(one, "async", "decode"))
        for name, one in recording.benchmarks.items()
    }


def hiding_words(recording: Recording) -> str:
    """What is not decoding, of the first variant and of the last, and what overlap makes of it."""
    (first, a), *_, (last, b) = [*overlaps_of(recording).items()] * 2
    ratios = [ratio_of(recording.ratio(f"{name}/sync", f"{name}/async")) for name in (first, last)]
    return (
        f"Of {first} and {last}, what is not decoding takes {a.beside_ms:.1f} and "
        f"{b.beside_ms:.1f} ms per latent frame, {a.beside_percent:.0f} % and "
        f"{b.beside_percent:.0f} % of sync; sync / async is {ratios[0]} and {ratios[1]}."
    )


def plot_hiding(recordings: Mapping[str, Recording]) -> Figure:
    """Where the time of sync and async goes, ms per latent frame: two bars for each variant.

    Args:
        recordings: title to a benchmark, or one of variants, of one medium, with the modes sync
            and async; drawn below each other.

    Raises:
        ValueError: a variant without one of the two modes.
    """
    panels: dict[str, list[style.ChartRow]] = {}
    for title, recording in recordings.items():
        panels[title] = rows = []
        for name, one in overlaps_of(recording).items():
            sync_ms, async_ms = sum(one.sync_ms.values()), sum(one.async_ms.values())
            words = f"{sync_ms:.1f} ms: {one.beside_percent:.0f} % of it is not decoding"
            rows.append(style.ChartRow(f"{name}  sync", _stack(one.sync_ms), words, gap=0.35))
            words = f"{async_ms:.1f} ms: {one.hidden_percent:.0f} % of that hidden, sync / async "
            words += f"{sync_ms / async_ms:.2f}"
            rows.append(style.ChartRow("async", _stack(one.async_ms), words))
    latent = recording.workload.kind.position
    words = f"ms per {latent}, mean latency of the run over its {latent}s"
    with style.row_chart(panels, words, row_in=0.19, room=0.55) as (figure, _):
        handles = [Patch(color=color, label=label) for color, label in _STEPS.values()]
        style.legend_below(figure, handles, ncols=len(handles))
    return figure


def _stack(took_ms: Mapping[str, float]) -> list[style.Part]:
    return [style.Part(s, max(0.0, took_ms.get(s, 0.0)), color) for s, (color, _) in _STEPS.items()]


class Headroom(NamedTuple):
    """Mode compute_only of one decoder against the fastest that its arithmetic could be.

    Attributes:
        compute_ms: per latent frame, mean of the timed runs.
        tflop_per_s: operations over that time.
        ceiling_ms: the same operations at the rate of a large matrix product.
        percent: of that rate.
    """

    compute_ms: float
    tflop_per_s: float
    ceiling_ms: float
    percent: float


def headrooms_of(recording: Recording, profile: Recording) -> dict[str, Headroom]:
    """Variant to how near its mode compute_only comes to the ceiling of ``profile``.

    All by the operations that the profile counted of mode compute_only, of the whole video, a
    multiply-add as two: so variants are comparable.

    Raises:
        ValueError: no runs of mode compute_only; no ceiling, one of another dtype, or no operations
            counted.
    """
    seen, ceiling = profile.arms.get("compute_only"), profile.ceiling
    if ceiling is None or not (tflop := seen and seen.profile and seen.profile.tflop):
        raise ValueError(f"{profile.label} has no ceiling; profile compute_only for one")
    if ceiling.dtype != recording.workload.dtype:
        raise ValueError(
            f"the ceiling is one of {ceiling.dtype}, the decoder ran in {recording.workload.dtype};"
            " measure it in that dtype"
        )
    scale, rooms = 1e3 / recording.workload.latent_frames, {}
    for name, one in recording.benchmarks.items():
        latency_s = _arm(one, "compute_only", "compute_only").latency.mean
        rate, top = tflop / latency_s, ceiling.tflop_per_s
        rooms[name] = Headroom(scale * latency_s, rate, scale * tflop / top, 100 * rate / top)
    return rooms


def headroom_words(recording: Recording, profile: Recording) -> str:
    """How much of the ceiling the variants reach."""
    rooms = headrooms_of(recording, profile)
    said = ", ".join(f"{name} {one.percent:.0f} %" for name, one in rooms.items())
    return f"Of the ceiling of its arithmetic: {said}."


def plot_headroom(recordings: Mapping[str, tuple[Recording, Recording]]) -> Figure:
    """Compute per latent frame of each variant, and the ceiling of its arithmetic as a line.

    Args:
        recordings: title to variants, and a profile of the first on the same video, whose count of
            operations is that of all; drawn below each other.

    Raises:
        ValueError: as `headrooms_of`.
    """
    rooms = {title: headrooms_of(*both) for title, both in recordings.items()}
    what, color = "compute only, ms per latent frame", style.MODE_COLORS["compute_only"]
    panels: dict[str, list[style.ChartRow]] = {}
    for title, variants in rooms.items():
        panels[title] = rows = []
        for name, one in variants.items():
            words = f"{one.compute_ms:.1f} ms, {one.tflop_per_s:.3g} TFLOP/s, {one.percent:.0f} % "
            bar = [style.Part(what, one.compute_ms, color)]
            rows.append(style.ChartRow(name, bar, f"{words}of the ceiling"))
    with style.row_chart(panels, what, row_in=0.26, room=0.7) as (figure, axes):
        for ax, variants in zip(axes, rooms.values(), strict=True):
            for ceiling_ms in {one.ceiling_ms for one in variants.values()}:
                ax.axvline(ceiling_ms, color=style.RED, **_DASHES)
        words = "ceiling: the same operations at the rate of a large matrix product"
        style.legend_below(figure, [Line2D([], [], label=words, color=style.RED, **_DASHES)])
    return figure


def plot_ablation(ablations: Mapping[str, Recording]) -> Figure:
    """How much longer a decode takes with a primitive off: a bar each, with a 95 % interval.

    Args:
        ablations: title of a panel to what was measured, drawn from left to right on one scale.
    """
    one = next(iter(ablations.values()))
    names = dict.fromkeys(n for each in ablations.values() for n in each.arms if n != each.baseline)
    panels = {
        f"{panel}: {each.baseline} {each.base.latency.mean:.3f} s": [
            _ablated(each, n) for n in names
        ]
        for panel, each in ablations.items()
    }
    words, room = f"longer than with {one.baseline}, %", 0.3 * len(panels) ** 0.5
    options: Any = {"title": what_and_where(one), "across": True, "room": room}
    with style.row_chart(panels, words, **options) as (figure, axes):
        for ax in axes:
            ax.axvline(0, color="black", linewidth=0.8)
            ax.spines["left"].set_visible(False)
        same: Any = {"facecolor": _GREY, "hatch": "////", "edgecolor": "white", "linewidth": 0}
        there = any(arm.same_code for each in ablations.values() for arm in each.arms.values())
        handles: list[Any] = [
            Patch(color=_BLUE, label=f"called (p < {CALL_BELOW_P:g}, interval without 0)"),
            Patch(color=_GREY, label="no difference seen"),
            *([Patch(label="same code on a CPU", **same)] if there else []),
            Line2D([], [], color="black", linewidth=1.1, label="95 % interval"),
            Line2D([], [], color="black", marker="o", markersize=2, linewidth=0, label="one round"),
        ]
        style.legend_below(figure, handles, ncols=len(handles), fontsize=6.5, columnspacing=1.0)
    return figure


def _ablated(one: Recording, name: str) -> style.ChartRow:
    """How much longer it took, %, in all and by round."""
    if name not in one.arms:
        return style.ChartRow(name, words="not run")
    arm, decision = one.arms[name], decision_of(one, name)
    assert decision is not None and decision.ratio is not None
    ratio = decision.ratio
    known = [value for value in (ratio.value, ratio.low, ratio.high) if value is not None]
    percent, *interval = (100 * (value - 1) for value in known)
    look = (_GREY, "////", "white") if arm.same_code else (_BLUE if decision.called else _GREY,)
    pairs = zip(one.base.latencies, arm.latencies, strict=True)
    rounds = [100 * (b / a - 1) for a, b in pairs]
    bar = [style.Part("longer, %", percent, *look)]
    return style.ChartRow(name, bar, f"{percent:+.1f} %", dots=rounds, interval=interval)


def plot_families(
    families: Mapping[str, Sequence[FamilyShare]], title: str | None = None
) -> Figure:
    """A stacked bar per variant: ms of kernels per latent frame, by family."""
    rows, met = [], {one.family.name for shares in families.values() for one in shares}
    there = {family: look for family, look in style.FAMILY_COLORS.items() if family in met}
    for name, shares in families.items():
        took = {one.family.name: one.ms_per_latent_frame for one in shares}
        bar = [style.Part(f, took.get(f, 0.0), color, ink=ink) for f, (color, ink) in there.items()]
        rows.append(style.ChartRow(name, bar, f"{sum(took.values()):.2f}"))
    words = "kernels by family, ms per latent frame (profiled, steady window)"
    with style.row_chart({"": rows}, words, row_in=0.34, title=title) as (figure, _):
        handles = [Patch(color=color, label=name) for name, (color, _) in there.items()]
        style.legend_below(figure, handles, ncols=4, fontsize=6, handlelength=2, columnspacing=2)
    return figure


_ROUNDS = {"a": ("#0072B2", "o"), "b": ("#56B4E9", "s"), "slow": ("#D55E00", "^")}


def plot_rounds(recording: Recording) -> Figure:
    """Latency of every round of each arm of an A/A control, with the arms' means as lines."""
    title = f"{MODES[recording.base.mode]}: {what_and_where(recording)}"
    rows = [(n, run.round, run.latency_s) for n in _ROUNDS for run in recording.arms[n].timed]
    with style.chart(2.7, title=title) as (figure, ((ax,),)):
        for name, (color, marker) in _ROUNDS.items():
            arm = recording.arms[name]
            mean, spread = arm.latency.mean, spread_percent(arm.latency)
            look: Any = {"marker": marker, "markersize": 3.5, "color": color, "alpha": 0.85}
            look |= {"label": f"{name}: mean {mean:.4f} s, spread {spread:.2f} %", "linestyle": ""}
            ax.plot([run.round for run in arm.timed], arm.latencies, **look)
            ax.axhline(mean, color=color, zorder=1, **_DASHES)
        ax.set(xlabel="round", ylabel="latency, s\n(the axis does not start at 0)")
        ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        style.legend_below(figure, ncols=len(_ROUNDS), handlelength=2, handletextpad=0.2)
    return style.keep_data(figure, rows, ("arm", "round", "latency_s"))


MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
BANDS = {2: "#DDDDDD", 5: "#F0F0F0"}  # errors, %, that the scatter plot shades
# Of a heat map: around a panel, a column (more if the title needs it), and beside all panels.
_PANEL_IN, _COLUMN_IN, _BESIDE_IN = 0.2, 0.45, 1.3
WIDE_ENOUGH = 0.06  # of a strip's width: a setting that its words fit into


def plot_heatmap(sweep: Sweep) -> Figure:
    """Mean latency, s: a panel per sink speed, chunk sizes down, paths and slots across.

    Large: measured; small: error of the prediction, %. Empty: not done. As wide as its columns
    need, 16 cm at the most.
    """
    every, order = cell_records(sweep), list(MODES)
    rows = [row for row in every if row["mode"] != "compute_only"] or every  # it has no sink
    speeds, sizes = _speeds(rows), sorted({row["chunk_size"] for row in rows})
    columns = {(order.index(row["mode"]), row["slots"] or 0) for row in rows}
    paths = [(order[mode], slots or None) for mode, slots in sorted(columns)]
    names = [mode if slots is None else f"{mode}\n{slots_words(slots)}" for mode, slots in paths]
    known = [row["latency_mean_s"] for row in rows if row["latency_mean_s"] is not None]
    panel_in = max(1.0, _PANEL_IN + _COLUMN_IN * len(paths))
    across = max(1, min(len(speeds), int((style.WIDTH_IN - _BESIDE_IN) / panel_in)))
    down = -(-len(speeds) // across)
    width_in = min(style.WIDTH_IN, _BESIDE_IN + across * panel_in)
    height_in = 0.88 + down * (0.62 + 0.36 * len(sizes))
    said = "mean latency in s; below it, what the prediction was off, % (fit: fitted from)"
    title = f"{sweep.plan.label}: {what_and_where(sweep.plan)}\n{said}"
    colors = {"cmap": "cividis_r", "vmin": min(known, default=0), "vmax": max(known, default=1)}
    with style.chart(height_in, down, across, title, width_in=width_in, sharey=True) as (
        figure,
        axes,
    ):
        for ax in axes.flat[len(speeds) :]:
            ax.set_axis_off()
        for ax, speed in zip(axes.flat, speeds, strict=False):
            grid = np.full((len(sizes), len(paths)), np.nan)
            image = ax.imshow(grid, aspect="auto", **colors)
            for row in (row for row in rows if row["sink_mb_per_s"] == speed):
                y, x = sizes.index(row["chunk_size"]), paths.index((row["mode"], row["slots"]))
                grid[y, x] = row["latency_mean_s"]
                _annotate(ax, row, x, y, image)
            image.set_data(grid)
            ax.set_xticks(range(len(paths)), names)
            ax.set_yticks(range(len(sizes)), [f"chunk {size}" for size in sizes])
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            ax.set_title(f"sink at {speed_words(speed)}", loc="left")
        bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=30, pad=0.01)
        bar.set_label("mean latency, s")
        bar.outline.set_visible(False)
    return style.keep_data(figure, every)


def _speeds(rows: Sequence[dict[str, Any]]) -> list[float | None]:
    """Of the sinks, the fastest first; None: without a limit."""
    return sorted({row["sink_mb_per_s"] for row in rows}, key=lambda s: -(s or float("inf")))


def _annotate(ax: Axes, row: dict[str, Any], x: int, y: int, image: Any) -> None:
    value, error = row["latency_mean_s"], row["error_percent"]
    if row["outcome"] == "does not fit":
        style.say(ax, x, y, "does\nnot fit", ha="center", fontsize=6)
    elif value is not None:
        red, green, blue, _ = image.to_rgba(np.array([value]))[0]
        ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
        small = "-" if error is None else f"{round(error, 1) + 0.0:+.1f}"
        small = "fit" if row["role"] == "fit" else small
        shown = f"{value:#.3g}".rstrip(".")
        style.say(ax, x, y - 0.14, shown, ha="center", color=ink, fontsize=7.5)
        style.say(ax, x, y + 0.27, small, ha="center", color=ink, fontsize=5.5)


def plot_predictions(sweep: Sweep) -> Figure:
    """Predicted against measured mean latency, and the error, one mark per cell.

    Color: path; shape: sink speed; hollow: used for the fit. A bar spans the error against the
    fastest and the slowest run of the cell.
    """
    predicted = [row for row in cell_records(sweep) if row["predicted_latency_s"]]
    rows = [row for row in predicted if row["latency_mean_s"]]
    shapes = dict(zip(_speeds(rows), MARKERS * len(rows), strict=False))
    mark: dict[str, Any] = {"markersize": 4, "linewidth": 0, "markeredgewidth": 0.8}
    title = f"{sweep.plan.label}: {what_and_where(sweep.plan)}\n{verdict(sweep)}"
    with style.chart(3.1, 1, 2, title, width_ratios=(1, 1.25)) as (figure, ((left, right),)):
        for row in rows:
            color, mean, told = style.MODE_COLORS[row["mode"]], *(row[k] for k in _BOTH)
            face = "none" if row["role"] == "fit" else color
            marker = shapes[row["sink_mb_per_s"]]
            look = mark | {"color": color, "marker": marker, "markerfacecolor": face}
            ends = [100 * (told / row[f"latency_{end}_s"] - 1) for end in ("max", "min")]
            left.plot(mean, told, **look)
            right.plot([mean] * 2, ends, color=color, linewidth=0.5, alpha=0.6)
            right.plot(mean, 100 * (told / mean - 1), **look)
        if every := [row[key] for row in rows for key in _BOTH]:
            span = (0.95 * min(every), 1.05 * max(every))
            left.plot(span, span, color="black", linewidth=0.6)
            left.set(xlim=span, ylim=span)
        right.axhline(0, color="black", linewidth=0.6)
        for percent, tone in BANDS.items():
            right.axhspan(-percent, percent, color=tone, zorder=-percent, linewidth=0)
        right.yaxis.set_major_locator(ticker.MaxNLocator(7))
        right.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        for ax, words in ((left, "predicted latency, s"), (right, "error of the prediction, %")):
            ax.set(xlabel="measured mean latency, s", ylabel=words)
            ax.xaxis.set_major_locator(ticker.MaxNLocator(6))
        there = {row["mode"] for row in rows}
        marks = [(mode, c, "o", c) for mode, c in style.MODE_COLORS.items() if mode in there]
        marks += [(speed_words(s), "black", marker, "black") for s, marker in shapes.items()]
        handles: list[Any] = [
            Line2D([], [], label=label, color=color, marker=marker, markerfacecolor=face, **mark)
            for label, color, marker, face in (*marks, ("used for the fit", "black", "o", "none"))
        ]
        handles.append(Line2D([], [], color="black", linewidth=0.5, label="fastest to slowest run"))
        handles += [Patch(color=tone, label=f"±{percent} %") for percent, tone in BANDS.items()]
        style.legend_below(figure, handles, ncols=-(-len(handles) // 2), handlelength=2)
    return style.keep_data(figure, predicted)


_BOTH = ("latency_mean_s", "predicted_latency_s")
_STORAGE = {"color": style.TONES["write"][0], "linestyle": (0, (3, 3))}
_CURVES: dict[str, Any] = {
    "storage_s": {"label": "storage alone"} | _STORAGE,
    "sync_s": {"label": "sync, at that chunk size", "color": style.MODE_COLORS["sync"]},
    "async_s": {"label": "async, as recommended", "color": style.MODE_COLORS["async"]},
}


def plot_sensitivity(sweeps: Mapping[str, Sweep]) -> Figure:
    """Predicted latency against storage speed, and below it the recommended setting.

    Args:
        sweeps: title to what `storage_sensitivity` is asked about; drawn below each other.
    """
    rows: list[dict[str, Any]] = [
        {"panel": title, "storage_mb_per_s": one.mb_per_s}
        | {"chunk_size": one.advice.config.chunk_size, "slots": one.advice.config.slots}
        | {"async_s": one.advice.prediction.run.latency_s}
        | {"sync_s": one.sync_s, "storage_s": one.storage_s}
        for title, sweep in sweeps.items()
        for one in storage_sensitivity(sweep)
    ]
    count = len(sweeps)
    grid = {"height_ratios": (5, 1) * count}
    with style.chart(0.4 + 2.3 * count, 2 * count, gridspec_kw=grid) as (figure, axes):
        for (ax, strip), title in zip(axes.reshape(-1, 2), sweeps, strict=True):
            mine = [row for row in rows if row["panel"] == title]
            speeds, values = [row["storage_mb_per_s"] for row in mine], []
            for key, look in _CURVES.items():
                known = [row for row in mine if row[key] is not None]
                values += [row[key] for row in known]
                if known:
                    ax.plot([r["storage_mb_per_s"] for r in known], [r[key] for r in known], **look)
            _log_axes(ax, strip, speeds, values)
            ax.set_ylabel("predicted latency, s")
            ax.set_title(title, loc="left", fontsize=8)
            _draw_settings(strip, speeds, [(row["chunk_size"], row["slots"]) for row in mine])
        axes[-1, 0].set_xlabel("storage speed, MB/s")
        style.legend_below(figure, axes[0, 0].lines, ncols=3, handlelength=2)
    return style.keep_data(figure, rows)


def _log_axes(ax: Axes, strip: Axes, speeds: Sequence[float], values: Sequence[float]) -> None:
    """Logarithmic, with plain numbers, and one speed axis for both."""
    for one in (ax, strip):
        one.set(xscale="log", xlim=(speeds[0], speeds[-1]))
    ax.tick_params(labelbottom=False)
    ax.set(yscale="log", ylim=(max(min(values), max(values) / 100), 1.1 * max(values)))
    for axis in (ax.xaxis, strip.xaxis, ax.yaxis):
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(ticker.NullLocator())


def _draw_settings(ax: Axes, speeds: Sequence[float], settings: Sequence[tuple[int, int]]) -> None:
    """A strip of the recommended settings; each begins halfway from the point before."""
    edges = [speeds[0], *(math.sqrt(a * b) for a, b in pairwise(speeds)), speeds[-1]]
    sizes = sorted({size for size, _ in settings})
    for (size, slots), same in groupby(range(len(settings)), lambda index: settings[index]):
        places = list(same)
        left, right = edges[places[0]], edges[places[-1] + 1]
        light = sizes.index(size) % 2
        tone, ink = style.TONES["compute"][light], ("white", "black")[light]
        ax.barh(0, right - left, left=left, height=0.8, color=tone, edgecolor="white")
        if math.log(right / left) > WIDE_ENOUGH * math.log(edges[-1] / edges[0]):
            words = f"chunk {size}\n{slots_words(slots)}"
            style.say(ax, math.sqrt(left * right), 0, words, ha="center", fontsize=6, color=ink)
    ax.set_yticks([])
    ax.spines[["left", "bottom"]].set_visible(False)


_USED = dict(zip(SHARED, ("#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"), strict=True))


def plot_fleet(made: Fleet) -> Figure:
    """Simulated throughput by number of GPUs, and how much of each resource is in use, %."""
    gpus, per_hour = [one.gpus for one in made.points], [one.per_hour for one in made.points]
    title = "Simulated, not measured, from the costs of one GPU"
    with style.chart(2.6, 1, 2, title=title) as (figure, axes):
        left, right = axes[0]
        one_h = made.points[0].per_hour / made.points[0].efficiency_percent * 100 / gpus[0]
        left.plot(
            gpus, [one_h * n for n in gpus], color=_GREY, label="as many times one", **_DASHES
        )
        left.plot(gpus, per_hour, "o-", color=_BLUE, markersize=3, label="simulated")
        for one in made.points:
            at, words = (one.gpus, one.per_hour), f"{one.efficiency_percent:.0f} %"
            left.annotate(words, at, (4, -7), textcoords="offset points", fontsize=6)
        left.margins(0.08, 0.15)
        left.set(yscale="log", ylabel=f"{made.info.kind.whole}s an hour")
        for name in made.points[0].used_percent:
            used = [one.used_percent[name] for one in made.points]
            right.plot(gpus, used, "o-", color=_USED[name], markersize=3, label=name)
        right.set(ylim=(0, 105), ylabel="in use, %")
        for ax in (left, right):
            ax.set(xscale="log", xlabel="GPUs", xticks=gpus, xticklabels=map(str, gpus))
            ax.xaxis.set_minor_locator(ticker.NullLocator())
        style.legend_below(figure, ncols=7, handlelength=2)
    return style.keep_data(figure, [asdict(one) for one in made.points])
