"""Studies as pictures: variants of a decoder, primitives off one by one, rounds, peak memory.

Panels that are compared share their axis; an axis that does not start at 0 says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from vdkit.present.columns import NAMES
from vdkit.present.control import spread_percent
from vdkit.present.studies import decision_of
from vdkit.present.style import FAMILY_COLORS, MODE_COLORS, RED, STYLE, TONES, WIDTH_IN, keep_data
from vdkit.present.table import ratio_of
from vdkit.present.words import what_and_where
from vdkit.record.derived import (
    STEPS,
    Headroom,
    Overlap,
    headroom_of,
    overlap_of,
    recorded_vram,
    vram_growth_bytes,
    vram_points,
)
from vdkit.record.stats import CALL_BELOW_P

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vdkit.record.derived import VramPoint
    from vdkit.record.recording import Recording
    from vdkit.trace.figures import FamilyShare


_STEP_COLORS = {step: TONES["compute" if step == "decode" else step][0] for step in STEPS}
_REST = "#BBBBBB"
_STEP_MEANING = {
    "decode": "decode",
    "copy": "copy to the host",
    "convert": "convert on the host",
    "write": "write to the sink",
    "rest": "open, close and wait",
}


def _stacked(heights_in: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """A figure with panels of these heights below each other, on one horizontal axis."""
    figure, axes = plt.subplots(
        len(heights_in), 1, squeeze=False, sharex=True, layout="constrained",
        figsize=(WIDTH_IN, 0.45 + sum(heights_in) + 0.2 * len(heights_in)),
        gridspec_kw={"height_ratios": heights_in},
    )  # fmt: skip
    plt.close(figure)
    return figure, list(axes[:, 0])


def overlaps_of(recording: Recording) -> dict[str, Overlap]:
    """Variant to its sync against async, ms per latent frame; ValueError without both modes."""
    return {name: overlap_of(recording.of_variant(name)) for name in recording.variants}


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
    heights = [0.42 + 0.42 * len(variants) for variants in panels.values()]
    overlaps = [one for variants in panels.values() for one in variants.values()]
    longest = max(max(one.sync_total_ms, one.async_total_ms) for one in overlaps)
    with plt.rc_context(STYLE):
        figure, axes = _stacked(heights)
        axes[0].set_xlim(0, 1.55 * longest)
        for ax, (title, variants) in zip(axes, panels.items(), strict=True):
            _draw_hiding(ax, variants, longest)
            ax.set_title(title, loc="left", fontsize=8)
        axes[-1].set_xlabel("ms per latent frame, mean latency of the run over its latent frames")
        handles = [
            Patch(color=_STEP_COLORS.get(s, _REST), label=w) for s, w in _STEP_MEANING.items()
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
            fontsize=7, handlelength=1.4, columnspacing=1.2,
        )  # fmt: skip
    rows = [
        {"panel": title, "variant": name}
        | {f"sync_{step}_ms": ms for step, ms in one.sync_ms.items()}
        | {"sync_rest_ms": one.sync_rest_ms, "async_decode_ms": one.async_decode_ms}
        | {"async_rest_ms": one.async_rest_ms, "hidden_percent": one.hidden_percent}
        for title, variants in panels.items()
        for name, one in variants.items()
    ]
    return keep_data(figure, rows)


def _draw_hiding(ax: Axes, variants: Mapping[str, Overlap], longest: float) -> None:
    ticks, labels = [], []
    for row, (name, one) in enumerate(variants.items()):
        top, bottom = row - 0.2, row + 0.2
        parts = [(one.sync_ms[step], _STEP_COLORS[step]) for step in STEPS]
        _stack(ax, top, [*parts, (one.sync_rest_ms, _REST)])
        _stack(
            ax, bottom, [(one.async_decode_ms, _STEP_COLORS["decode"]), (one.async_rest_ms, _REST)]
        )
        end = 0.01 * longest
        ax.text(
            one.sync_total_ms + end, top,
            f"{one.sync_total_ms:.1f} ms: {one.beside_percent:.0f} % of it is not decoding",
            va="center", fontsize=6.5,
        )  # fmt: skip
        ax.text(
            one.async_total_ms + end, bottom,
            f"{one.async_total_ms:.1f} ms: {one.hidden_percent:.0f} % of that hidden, sync / async "
            f"{one.sync_total_ms / one.async_total_ms:.2f}",
            va="center", fontsize=6.5,
        )  # fmt: skip
        ticks += [top, bottom]
        labels += [f"{name}  sync", "async"]
    ax.set_yticks(ticks, labels)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()


def _stack(ax: Axes, row: float, parts: list[tuple[float, str]]) -> None:
    left = 0.0
    for width, color in parts:
        ax.barh(row, max(0.0, width), left=left, height=0.36, color=color)
        left += max(0.0, width)


def headrooms_of(recording: Recording, profile: Recording) -> dict[str, Headroom]:
    """Variant to how near it comes to the ceiling of ``profile``, by its count of operations.

    Raises:
        ValueError: no mode compute_only or no ceiling; as `headroom_of`.
    """
    seen = profile.arms["compute_only"].profile if "compute_only" in profile.arms else None
    if profile.ceiling is None or seen is None or seen.tflop is None:
        raise ValueError(f"{profile.label} has no ceiling; profile compute_only for one")
    return {
        name: headroom_of(recording.of_variant(name), seen.tflop, profile.ceiling)
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
    heights = [0.4 + 0.26 * len(variants) for variants in panels.values()]
    longest = max(one.compute_ms for variants in panels.values() for one in variants.values())
    with plt.rc_context(STYLE):
        figure, axes = _stacked(heights)
        axes[0].set_xlim(0, 1.7 * longest)
        for ax, (title, variants) in zip(axes, panels.items(), strict=True):
            for row, one in enumerate(variants.values()):
                ax.barh(row, one.compute_ms, height=0.7, color=MODE_COLORS["compute_only"])
                ax.text(
                    one.compute_ms + 0.01 * longest, row,
                    f"{one.compute_ms:.1f} ms, {one.tflop_per_s:.3g} TFLOP/s, "
                    f"{one.percent:.0f} % of the ceiling",
                    va="center", fontsize=7,
                )  # fmt: skip
            for ceiling_ms in {one.ceiling_ms for one in variants.values()}:
                ax.axvline(ceiling_ms, color=RED, linewidth=1, linestyle=(0, (4, 2)))
            ax.set_yticks(range(len(variants)), list(variants))
            ax.tick_params(axis="y", length=0)
            ax.invert_yaxis()
            ax.set_title(title, loc="left", fontsize=8)
        axes[-1].set_xlabel("compute only, ms per latent frame")
        line = Line2D(
            [], [], color=RED, linewidth=1, linestyle=(0, (4, 2)),
            label="ceiling: the same operations at the rate of a large matrix product",
        )  # fmt: skip
        figure.legend(handles=[line], loc="outside lower center", frameon=False, fontsize=7)
    rows = [
        {"panel": title, "variant": name, **asdict(one)}
        for title, variants in panels.items()
        for name, one in variants.items()
    ]
    return keep_data(figure, rows)


_LINES: tuple[dict[str, Any], ...] = (
    {"marker": "o"},
    {"marker": "s", "markerfacecolor": "white", "linestyle": "--"},
)


def plot_vram(measured: Mapping[str, Sequence[VramPoint]], title: str | None = None) -> Figure:
    """A line for each path, over the pixel frames of the video.

    Args:
        measured: where or when, in words, to its points; two at most, the second dashed.
        title: above the figure.

    Returns:
        The figure, not registered with pyplot.

    Raises:
        ValueError: no points, or more than two sets.
    """
    sets = {words: points for words, points in measured.items() if points}
    if not 1 <= len(sets) <= len(_LINES):
        raise ValueError(f"{len(sets)} sets of points; give 1 or {len(_LINES)} that are not empty")
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(WIDTH_IN, 2.9), layout="constrained")
        plt.close(figure)
        for style, (words, points) in zip(_LINES, sets.items(), strict=False):
            for mode in (name for name in NAMES if name in {p.mode for p in points}):
                mine = sorted((p.frames, p.peak_bytes / 1e9) for p in points if p.mode == mode)
                grows = vram_growth_bytes(points, mode)
                more = "" if grows is None else f", {round(grows / 1e6, 2) + 0.0:+.2f} MB"
                more += " a frame on average" if more else ""
                ax.plot(
                    *zip(*mine, strict=True), color=MODE_COLORS[mode], markersize=4, linewidth=1.2,
                    label=f"{NAMES[mode]}: {words}{more}", **style,
                )  # fmt: skip
        ax.set_ylim(0, 1.12 * ax.get_ylim()[1])
        ax.set_xlim(0, 1.05 * max(p.frames for points in sets.values() for p in points))
        ax.set_xlabel("frames in the video")
        ax.set_ylabel("peak VRAM of the decode, GB,\nweights in it")
        figure.legend(loc="outside lower left", ncols=1, frameon=False, fontsize=7)
        if title:
            ax.set_title(title, loc="left", fontsize=8)
    rows = [{"set": words, **asdict(p)} for words, points in sets.items() for p in points]
    return keep_data(figure, rows)


def vram_sets(
    here: Sequence[Recording], recorded: pd.DataFrame, other_bytes: int = 0
) -> dict[str, list[VramPoint]]:
    """Points of what was measured here and of what is recorded, by where; `vram_points` of each."""
    sets = {"here": vram_points(here, other_bytes), "recorded": recorded_vram(recorded)}
    return {f"{how}, {points[0].device}": points for how, points in sets.items() if points}


def vram_words(points: Sequence[VramPoint]) -> str:
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
    growth = [vram_growth_bytes(points, mode) for mode in ("diffusers", "async")]
    if growth[0] is not None and growth[1] is not None:
        text += (
            f" Over all lengths a frame adds {growth[0] / 1e6:.2f} MB on average to the first and "
            f"{growth[1] / 1e6:.2f} MB to the second."
        )
    return text


_SEEN, _UNSEEN = "#0072B2", "#BBBBBB"


def plot_ablation(ablations: Mapping[str, Recording], title: str | None = None) -> Figure:
    """How much longer a decode takes with a primitive off: a bar each, with a 95 % interval.

    Args:
        ablations: title of a panel to what was measured, drawn from left to right on one scale.
        title: above the figure; None: what ran, and where.

    Returns:
        The figure, not registered with pyplot.
    """
    settings = [n for one in ablations.values() for n in one.arms if n != one.baseline]
    names = list(dict.fromkeys(settings))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(ablations), sharex=True, sharey=True, squeeze=False, layout="constrained",
            figsize=(WIDTH_IN, 1.15 + 0.3 * len(names)),
        )  # fmt: skip
        plt.close(figure)
        ends = [0.0]
        for ax, (panel, one) in zip(axes[0], ablations.items(), strict=True):
            ends += _draw_ablation(ax, one, names)
            base = f"{one.baseline} {one.base.latency.mean:.3f} s"
            ax.set_title(f"{panel}: {base}", loc="left")
            ax.set_xlabel(f"longer than with {one.baseline}, %")
        span = max(ends) - min(ends) or 1.0
        room = 0.3 * len(ablations) ** 0.5
        axes[0, 0].set_xlim(min(ends) - 0.04 * span, max(ends) + room * span)
        axes[0, 0].set_yticks(range(len(names)), names)
        axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
        same = any(arm.same_code for one in ablations.values() for arm in one.arms.values())
        _ablation_legend(figure, same)
        first = next(iter(ablations.values()))
        figure.suptitle(title or what_and_where(first), fontsize=8.5, x=0.01, ha="left")
    rows = [
        {"panel": panel, "setting": name, "round": run.round, "latency_s": run.latency_s}
        for panel, one in ablations.items()
        for name, arm in one.arms.items()
        for run in arm.timed
    ]
    return keep_data(figure, rows)


def _draw_ablation(ax: Axes, one: Recording, names: Sequence[str]) -> list[float]:
    """Everything that is drawn of one recording, %."""
    drawn = []
    base = one.base.latencies
    for row, name in enumerate(names):
        if name not in one.arms:
            ax.text(0, row, " not run", va="center", fontsize=7, color="#666666")
            continue
        arm, decision = one.arms[name], decision_of(one, name)
        assert decision is not None and decision.ratio is not None
        ratio = decision.ratio
        percent = 100 * (ratio.value - 1)
        color = _SEEN if decision.called and not arm.same_code else _UNSEEN
        ax.barh(
            row, percent, height=0.62, color=color, hatch="////" if arm.same_code else "",
            edgecolor="white" if arm.same_code else color, linewidth=0.0,
        )  # fmt: skip
        rounds = [100 * (b / a - 1) for a, b in zip(base, arm.latencies, strict=True)]
        ax.scatter(rounds, [row + 0.2] * len(rounds), s=4, color="black", alpha=0.45, linewidth=0)
        spread = [percent, *rounds]
        if ratio.low is not None and ratio.high is not None:
            interval = [100 * (ratio.low - 1), 100 * (ratio.high - 1)]
            ax.plot(interval, [row, row], color="black", linewidth=1.1, zorder=3)
            for end in interval:
                ax.plot([end, end], [row - 0.13, row + 0.13], color="black", linewidth=1.1)
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


def _ablation_legend(figure: Figure, same_code: bool) -> None:
    handles: list[Patch | Line2D] = [
        Patch(color=_SEEN, label=f"called (p < {CALL_BELOW_P:g}, interval without 0)"),
        Patch(color=_UNSEEN, label="no difference seen"),
    ]
    if same_code:
        handles.append(
            Patch(
                facecolor=_UNSEEN, hatch="////", edgecolor="white", linewidth=0.0,
                label="same code on a CPU",
            )
        )  # fmt: skip
    handles += [
        Line2D([], [], color="black", linewidth=1.1, label="95 % interval"),
        Line2D([], [], color="black", marker="o", markersize=2, linestyle="", label="one round"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
        fontsize=6.5, handlelength=1.4, columnspacing=1.0,
    )  # fmt: skip


_WIDE_ENOUGH = 0.04  # of the longest bar: a segment that its value fits into


def plot_families(
    families: Mapping[str, Sequence[FamilyShare]], title: str | None = None
) -> Figure:
    """A stacked bar per variant: ms of kernels per latent frame, by family."""
    totals = {name: sum(s.ms_per_latent_frame for s in shares) for name, shares in families.items()}
    longest = max(totals.values())
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(
            figsize=(WIDTH_IN, 1.1 + 0.34 * len(families)), layout="constrained"
        )
        plt.close(figure)
        for row, (name, shares) in enumerate(families.items()):
            values = {share.family.name: share.ms_per_latent_frame for share in shares}
            left = 0.0
            for family, (color, ink) in FAMILY_COLORS.items():
                value = values.get(family, 0.0)
                ax.barh(row, value, left=left, color=color, height=0.7)
                if value >= _WIDE_ENOUGH * longest:
                    ax.text(
                        left + value / 2, row, f"{value:.2f}", color=ink, fontsize=6,
                        ha="center", va="center",
                    )  # fmt: skip
                left += value
            ax.text(left + 0.01 * longest, row, f"{totals[name]:.2f}", va="center", fontsize=7)
        ax.set_yticks(range(len(families)), list(families))
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.1 * longest)
        ax.set_xlabel("kernels by family, ms per latent frame (profiled, steady window)")
        there = {share.family.name for shares in families.values() for share in shares}
        handles = [
            Patch(color=color, label=family)
            for family, (color, _) in FAMILY_COLORS.items()
            if family in there
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=6
        )
        if title:
            ax.set_title(title, loc="left", fontsize=7)
    rows = [
        {"variant": name, "family": one.family.name, "ms_per_latent_frame": one.ms_per_latent_frame}
        for name, shares in families.items()
        for one in shares
    ]
    return keep_data(figure, rows)


_ROUNDS = {"a": ("#0072B2", "o"), "b": ("#56B4E9", "s"), "slow": ("#D55E00", "^")}


def plot_rounds(recording: Recording, title: str | None = None) -> Figure:
    """Latency of every round of each arm of an A/A control, with the arms' means as lines.

    Args:
        title: None: what ran, and where.

    Returns:
        The figure, not registered with pyplot.
    """
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(WIDTH_IN, 2.7), layout="constrained")
        plt.close(figure)
        for name, (color, marker) in _ROUNDS.items():
            arm = recording.arms[name]
            mean = arm.latency.mean
            ax.plot(
                [run.round for run in arm.timed], arm.latencies, linestyle="", marker=marker,
                markersize=3.5, color=color, alpha=0.85,
                label=f"{name}: mean {mean:.4f} s, spread {spread_percent(arm.latency):.2f} %",
            )  # fmt: skip
            ax.axhline(mean, color=color, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        ax.set_xlabel("round")
        ax.set_ylabel("latency, s\n(the axis does not start at 0)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        what = f"{NAMES[recording.base.mode]}: {what_and_where(recording)}"
        ax.set_title(title or what, loc="left", fontsize=8)
        figure.legend(
            loc="outside lower center", ncols=len(_ROUNDS), frameon=False, fontsize=7,
            handletextpad=0.2, columnspacing=1.2,
        )  # fmt: skip
    rows = [
        {"arm": name, "round": run.round, "latency_s": run.latency_s}
        for name in _ROUNDS
        for run in recording.arms[name].timed
    ]
    return keep_data(figure, rows)
