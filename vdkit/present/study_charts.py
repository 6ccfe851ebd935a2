"""Studies as pictures: variants of a decoder, primitives off one by one, rounds, peak memory.

Panels that are compared share their axis; an axis that does not start at 0 says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from vdkit.present import style
from vdkit.present.columns import NAMES
from vdkit.present.comparison import spread_percent
from vdkit.present.documents import decision_of
from vdkit.present.table import ratio_of
from vdkit.present.words import what_and_where
from vdkit.record import derived
from vdkit.record.recording import Recording
from vdkit.record.stats import CALL_BELOW_P
from vdkit.trace.figures import FamilyShare

if TYPE_CHECKING:
    import pandas as pd


_STEPS = {
    "decode": (style.TONES["compute"][0], "decode"),
    **{lane: (style.TONES[lane][0], style.LANE_MEANING[lane]) for lane in style.LANES[1:]},
    "rest": ("#BBBBBB", "open, close and wait"),
}
"""Color and meaning of what a run's time goes to."""


@contextmanager
def _stacked(
    panels: Mapping[str, Mapping[str, Any]], row_in: float, end: float, words: str
) -> Iterator[tuple[Figure, list[tuple[Axes, Any]]]]:
    """Panels below each other, each with its rows, on one axis from 0 to ``end``, ``words``."""
    heights = [0.4 + row_in * len(rows) for rows in panels.values()]
    grid, count = {"height_ratios": heights}, len(panels)
    height = 0.45 + sum(heights) + 0.2 * count
    with style.chart(height, count, sharex=True, gridspec_kw=grid) as (figure, axes):
        for ax, (title, rows) in zip(axes[:, 0], panels.items(), strict=True):
            ax.set_title(title, loc="left", fontsize=8)
            style.name_rows(ax, list(rows))
        axes[-1, 0].set(xlim=(0, end), xlabel=words)
        yield figure, list(zip(axes[:, 0], panels.values(), strict=True))


def overlaps_of(recording: Recording) -> dict[str, derived.Overlap]:
    """Variant to its sync against async, ms per latent frame; ValueError without both modes."""
    return {name: derived.overlap_of(recording.of_variant(name)) for name in recording.variants}


def hiding_words(recording: Recording) -> str:
    """What is not decoding, of the first variant and of the last, and what overlap makes of it."""
    ends = list(overlaps_of(recording).items())
    (first, a), (last, b) = ends[0], ends[-1]
    ratios = [recording.ratio(f"{name}/sync", f"{name}/async") for name in (first, last)]
    return (
        f"Of {first} and {last}, what is not decoding takes {a.beside_ms:.1f} and "
        f"{b.beside_ms:.1f} ms per latent frame, {a.beside_percent:.0f} % and "
        f"{b.beside_percent:.0f} % of sync; sync / async is {ratio_of(ratios[0])} and "
        f"{ratio_of(ratios[1])}."
    )


def plot_hiding(recordings: Mapping[str, Recording]) -> Figure:
    """Where the time of sync and async goes, ms per latent frame: two bars for each variant.

    Args:
        recordings: title to one of variants with the modes sync and async; drawn below each other.

    Raises:
        ValueError: a variant without one of the two modes.
    """
    panels = {title: overlaps_of(recording) for title, recording in recordings.items()}
    overlaps = [one for variants in panels.values() for one in variants.values()]
    longest = max(max(one.sync_total_ms, one.async_total_ms) for one in overlaps)
    gap = 0.01 * longest
    words = "ms per latent frame, mean latency of the run over its latent frames"
    with _stacked(panels, 0.42, 1.55 * longest, words) as (figure, drawn):
        for ax, variants in drawn:
            for row, one in enumerate(variants.values()):
                top, bottom = row - 0.2, row + 0.2
                _stack(ax, top, dict(one.sync_ms) | {"rest": one.sync_rest_ms})
                _stack(ax, bottom, {"decode": one.async_decode_ms, "rest": one.async_rest_ms})
                sync_ms, async_ms = one.sync_total_ms, one.async_total_ms
                words = f"{sync_ms:.1f} ms: {one.beside_percent:.0f} % of it is not decoding"
                style.say(ax, sync_ms + gap, top, words, fontsize=6.5)
                words = f"{async_ms:.1f} ms: {one.hidden_percent:.0f} % of that hidden, "
                words += f"sync / async {sync_ms / async_ms:.2f}"
                style.say(ax, async_ms + gap, bottom, words, fontsize=6.5)
            places = [row + half for row in range(len(variants)) for half in (-0.2, 0.2)]
            pairs = [word for name in variants for word in (f"{name}  sync", "async")]
            style.name_rows(ax, pairs, places)
        handles = [Patch(color=color, label=words) for color, words in _STEPS.values()]
        style.legend_below(figure, handles, ncols=len(handles))
    rows = [
        {"panel": title, "variant": name}
        | {f"sync_{step}_ms": ms for step, ms in one.sync_ms.items()}
        | {"sync_rest_ms": one.sync_rest_ms, "async_decode_ms": one.async_decode_ms}
        | {"async_rest_ms": one.async_rest_ms, "hidden_percent": one.hidden_percent}
        for title, variants in panels.items()
        for name, one in variants.items()
    ]
    return style.keep_data(figure, rows)


def _stack(ax: Axes, row: float, parts_ms: dict[str, float]) -> None:
    left = 0.0
    for step, (color, _) in _STEPS.items():
        width = max(0.0, parts_ms.get(step, 0.0))
        ax.barh(row, width, left=left, height=0.36, color=color)
        left += width


def headrooms_of(recording: Recording, profile: Recording) -> dict[str, derived.Headroom]:
    """Variant to how near it comes to the ceiling of ``profile``, by its count of operations.

    Raises:
        ValueError: no mode compute_only or no ceiling; as `headroom_of`.
    """
    seen = profile.arms["compute_only"].profile if "compute_only" in profile.arms else None
    if profile.ceiling is None or seen is None or seen.tflop is None:
        raise ValueError(f"{profile.label} has no ceiling; profile compute_only for one")
    return {
        name: derived.headroom_of(recording.of_variant(name), seen.tflop, profile.ceiling)
        for name in recording.variants
    }


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
    panels = {title: headrooms_of(*both) for title, both in recordings.items()}
    longest = max(one.compute_ms for variants in panels.values() for one in variants.values())
    dashed: dict[str, Any] = {"color": style.RED, "linewidth": 1, "linestyle": (0, (4, 2))}
    words = "compute only, ms per latent frame"
    with _stacked(panels, 0.26, 1.7 * longest, words) as (figure, drawn):
        for ax, variants in drawn:
            for row, one in enumerate(variants.values()):
                ax.barh(row, one.compute_ms, height=0.7, color=style.MODE_COLORS["compute_only"])
                words = f"{one.compute_ms:.1f} ms, {one.tflop_per_s:.3g} TFLOP/s, "
                words += f"{one.percent:.0f} % of the ceiling"
                style.say(ax, one.compute_ms + 0.01 * longest, row, words)
            for ceiling_ms in {one.ceiling_ms for one in variants.values()}:
                ax.axvline(ceiling_ms, **dashed)
        words = "ceiling: the same operations at the rate of a large matrix product"
        style.legend_below(figure, [Line2D([], [], label=words, **dashed)])
    rows = [
        {"panel": title, "variant": name, **asdict(one)}
        for title, variants in panels.items()
        for name, one in variants.items()
    ]
    return style.keep_data(figure, rows)


_LINES: tuple[dict[str, Any], ...] = (
    {"marker": "o"},
    {"marker": "s", "markerfacecolor": "white", "linestyle": "--"},
)


def plot_vram(
    measured: Mapping[str, Sequence[derived.VramPoint]], title: str | None = None
) -> Figure:
    """A line for each path, over the pixel frames of the video.

    Args:
        measured: where or when, in words, to its points; two at most, the second dashed.

    Raises:
        ValueError: no points, or more than two sets.
    """
    sets = {words: points for words, points in measured.items() if points}
    if not 1 <= len(sets) <= len(_LINES):
        raise ValueError(f"{len(sets)} sets of points; give 1 or {len(_LINES)} that are not empty")
    with style.chart(2.9) as (figure, ((ax,),)):
        for look, (words, points) in zip(_LINES, sets.items(), strict=False):
            for mode in (name for name in NAMES if name in {p.mode for p in points}):
                mine = sorted((p.frames, p.peak_bytes / 1e9) for p in points if p.mode == mode)
                grows = derived.vram_growth_bytes(points, mode)
                label = f"{NAMES[mode]}: {words}"
                if grows is not None:
                    label += f", {round(grows / 1e6, 2) + 0.0:+.2f} MB a frame on average"
                mark = {"color": style.MODE_COLORS[mode], "markersize": 4, "linewidth": 1.2}
                ax.plot(*zip(*mine, strict=True), label=label, **mark | look)
        longest = max(p.frames for points in sets.values() for p in points)
        ax.set(
            xlim=(0, 1.05 * longest), ylim=(0, 1.12 * ax.get_ylim()[1]),
            xlabel="frames in the video", ylabel="peak VRAM of the decode, GB,\nweights in it",
        )  # fmt: skip
        style.legend_below(figure, loc="outside lower left", handlelength=2)
        ax.set_title(title or "", loc="left", fontsize=8)
    rows = [{"set": words, **asdict(p)} for words, points in sets.items() for p in points]
    return style.keep_data(figure, rows)


def vram_sets(
    here: Sequence[Recording], recorded: pd.DataFrame, other_bytes: int = 0
) -> dict[str, list[derived.VramPoint]]:
    """Points of what was measured here and of what is recorded, by where; `vram_points` of each."""
    measured = derived.vram_points(here, other_bytes)
    sets = {"here": measured, "recorded": derived.recorded_vram(recorded)}
    return {f"{how}, {points[0].device}": points for how, points in sets.items() if points}


def vram_words(points: Sequence[derived.VramPoint]) -> str:
    """Whole video against chunked, in words: at the longest length that has both, and per frame.

    Raises:
        ValueError: no length has both ``diffusers`` and ``async``.
    """
    whole = {p.frames: p for p in points if p.mode == "diffusers"}
    chunked = {p.frames: p for p in points if p.mode == "async"}
    both = sorted(whole.keys() & chunked.keys())
    if not both:
        raise ValueError("no length was decoded both whole (diffusers) and in chunks (async)")
    longest = both[-1]
    text = (
        f"{longest} frames decoded whole need {whole[longest].peak_bytes / 1e9:.2f} GB, in chunks "
        f"{chunked[longest].peak_bytes / 1e9:.2f} GB."
    )
    growth = [derived.vram_growth_bytes(points, mode) for mode in ("diffusers", "async")]
    if growth[0] is not None and growth[1] is not None:
        text += (
            f" Over all lengths a frame adds {growth[0] / 1e6:.2f} MB on average to the first and "
            f"{growth[1] / 1e6:.2f} MB to the second."
        )
    return text


_SEEN, _UNSEEN = "#0072B2", "#BBBBBB"
_SAME_CODE: Any = {
    "facecolor": _UNSEEN, "hatch": "////", "edgecolor": "white", "linewidth": 0.0
}  # fmt: skip


def plot_ablation(ablations: Mapping[str, Recording], title: str | None = None) -> Figure:
    """How much longer a decode takes with a primitive off: a bar each, with a 95 % interval.

    Args:
        ablations: title of a panel to what was measured, drawn from left to right on one scale.
        title: above the figure; None: what ran, and where.
    """
    settings = [n for one in ablations.values() for n in one.arms if n != one.baseline]
    names = list(dict.fromkeys(settings))
    title = title or what_and_where(next(iter(ablations.values())))
    height, count = 1.15 + 0.3 * len(names), len(ablations)
    with style.chart(height, 1, count, title, sharex=True, sharey=True) as (figure, axes):
        ends = [0.0]
        for ax, (panel, one) in zip(axes[0], ablations.items(), strict=True):
            ends += _draw_ablation(ax, one, names)
            ax.set_title(f"{panel}: {one.baseline} {one.base.latency.mean:.3f} s", loc="left")
            ax.set_xlabel(f"longer than with {one.baseline}, %")
        span = max(ends) - min(ends) or 1.0
        axes[0, 0].set(
            xlim=(min(ends) - 0.04 * span, max(ends) + 0.3 * count**0.5 * span),
            yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5),
        )  # fmt: skip
        handles: list[Patch | Line2D] = [
            Patch(color=_SEEN, label=f"called (p < {CALL_BELOW_P:g}, interval without 0)"),
            Patch(color=_UNSEEN, label="no difference seen"),
            Line2D([], [], color="black", linewidth=1.1, label="95 % interval"),
            Line2D([], [], color="black", marker="o", markersize=2, linestyle="",
                   label="one round"),
        ]  # fmt: skip
        if any(arm.same_code for one in ablations.values() for arm in one.arms.values()):
            handles.insert(2, Patch(label="same code on a CPU", **_SAME_CODE))
        style.legend_below(figure, handles, ncols=len(handles), fontsize=6.5, columnspacing=1.0)
    rows = [
        {"panel": panel, "setting": name, "round": run.round, "latency_s": run.latency_s}
        for panel, one in ablations.items()
        for name, arm in one.arms.items()
        for run in arm.timed
    ]
    return style.keep_data(figure, rows)


def _draw_ablation(ax: Axes, one: Recording, names: Sequence[str]) -> list[float]:
    """Everything that is drawn of one recording, %."""
    drawn = []
    line: dict[str, Any] = {"color": "black", "linewidth": 1.1}
    for row, name in enumerate(names):
        if name not in one.arms:
            style.say(ax, 0, row, " not run", color="#666666")
            continue
        arm, decision = one.arms[name], decision_of(one, name)
        assert decision is not None and decision.ratio is not None
        ratio = decision.ratio
        percent = 100 * (ratio.value - 1)
        plain = {"color": _SEEN if decision.called else _UNSEEN, "linewidth": 0.0}
        ax.barh(row, percent, height=0.62, **(_SAME_CODE if arm.same_code else plain))
        pairs = zip(one.base.latencies, arm.latencies, strict=True)
        rounds = [100 * (b / a - 1) for a, b in pairs]
        ax.scatter(rounds, [row + 0.2] * len(rounds), s=4, color="black", alpha=0.45, linewidth=0)
        spread = [percent, *rounds]
        if ratio.low is not None and ratio.high is not None:
            interval = [100 * (ratio.low - 1), 100 * (ratio.high - 1)]
            ax.plot(interval, [row, row], zorder=3, **line)
            for end in interval:
                ax.plot([end, end], [row - 0.13, row + 0.13], **line)
            spread += interval
        ax.annotate(
            f"{percent:+.1f} %", (max(0.0, *spread), row), (4, 0), textcoords="offset points",
            va="center", fontsize=7,
        )  # fmt: skip
        drawn += spread
    ax.axvline(0, color="black", linewidth=0.8)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return drawn


_WIDE_ENOUGH = 0.04  # of the longest bar: a segment that its value fits into


def plot_families(
    families: Mapping[str, Sequence[FamilyShare]], title: str | None = None
) -> Figure:
    """A stacked bar per variant: ms of kernels per latent frame, by family."""
    totals = {name: sum(s.ms_per_latent_frame for s in shares) for name, shares in families.items()}
    longest = max(totals.values())
    with style.chart(1.1 + 0.34 * len(families)) as (figure, ((ax,),)):
        for row, (name, shares) in enumerate(families.items()):
            values = {share.family.name: share.ms_per_latent_frame for share in shares}
            left = 0.0
            for family, (color, ink) in style.FAMILY_COLORS.items():
                value = values.get(family, 0.0)
                ax.barh(row, value, left=left, color=color, height=0.7)
                if value >= _WIDE_ENOUGH * longest:
                    place = left + value / 2, row
                    style.say(ax, *place, f"{value:.2f}", color=ink, fontsize=6, ha="center")
                left += value
            style.say(ax, left + 0.01 * longest, row, f"{totals[name]:.2f}")
        style.name_rows(ax, list(families))
        words = "kernels by family, ms per latent frame (profiled, steady window)"
        ax.set(xlim=(0, 1.1 * longest), xlabel=words)
        there = {share.family.name for shares in families.values() for share in shares}
        shown = [(name, color) for name, (color, _) in style.FAMILY_COLORS.items() if name in there]
        handles = [Patch(color=color, label=name) for name, color in shown]
        style.legend_below(figure, handles, ncols=4, fontsize=6, handlelength=2, columnspacing=2)
        ax.set_title(title or "", loc="left", fontsize=7)
    rows = [
        {"variant": name, "family": one.family.name, "ms_per_latent_frame": one.ms_per_latent_frame}
        for name, shares in families.items()
        for one in shares
    ]
    return style.keep_data(figure, rows)


_ROUNDS = {"a": ("#0072B2", "o"), "b": ("#56B4E9", "s"), "slow": ("#D55E00", "^")}


def plot_rounds(recording: Recording, title: str | None = None) -> Figure:
    """Latency of every round of each arm of an A/A control, with the arms' means as lines.

    Args:
        title: None: what ran, and where.
    """
    with style.chart(2.7) as (figure, ((ax,),)):
        for name, (color, marker) in _ROUNDS.items():
            arm, mean = recording.arms[name], recording.arms[name].latency.mean
            ax.plot(
                [run.round for run in arm.timed], arm.latencies, linestyle="", marker=marker,
                markersize=3.5, color=color, alpha=0.85,
                label=f"{name}: mean {mean:.4f} s, spread {spread_percent(arm.latency):.2f} %",
            )  # fmt: skip
            ax.axhline(mean, color=color, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        ax.set(xlabel="round", ylabel="latency, s\n(the axis does not start at 0)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        what = f"{NAMES[recording.base.mode]}: {what_and_where(recording)}"
        ax.set_title(title or what, loc="left", fontsize=8)
        style.legend_below(figure, ncols=len(_ROUNDS), handlelength=2, handletextpad=0.2)
    rows = [
        {"arm": name, "round": run.round, "latency_s": run.latency_s}
        for name in _ROUNDS
        for run in recording.arms[name].timed
    ]
    return style.keep_data(figure, rows)
