"""Variants of a decoder in two pictures: what async hides of each, and what its kernels leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vdkit.present.style import MODE_COLORS, RED, STYLE, TONES, WIDTH_IN
from vdkit.present.tables import NAMES
from vdkit.record.derived import STEPS, Headroom, Overlap, overlap_of, vram_growth_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vdkit.record.derived import VramPoint
    from vdkit.record.recording import Recording


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
    """A figure with an axis for each height, below each other."""
    figure, axes = plt.subplots(
        len(heights_in), 1, squeeze=False, layout="constrained",
        figsize=(WIDTH_IN, 0.45 + sum(heights_in) + 0.2 * len(heights_in)),
        gridspec_kw={"height_ratios": heights_in},
    )  # fmt: skip
    plt.close(figure)
    return figure, list(axes[:, 0])


def plot_hiding(panels: Mapping[str, Mapping[str, Recording]]) -> Figure:
    """Where the time of sync and async goes, ms per latent frame: two bars for each variant.

    Args:
        panels: title to variants, name to benchmark with the modes sync and async; drawn below
            each other, each on its own axis.

    Raises:
        ValueError: a benchmark without one of the two modes.
    """
    heights = [0.42 + 0.42 * len(variants) for variants in panels.values()]
    with plt.rc_context(STYLE):
        figure, axes = _stacked(heights)
        for ax, (title, variants) in zip(axes, panels.items(), strict=True):
            _draw_hiding(ax, {name: overlap_of(result) for name, result in variants.items()})
            ax.set_title(title, loc="left", fontsize=8)
        axes[-1].set_xlabel("ms per latent frame, mean latency of the run over its latent frames")
        handles = [
            Patch(color=_STEP_COLORS.get(s, _REST), label=w) for s, w in _STEP_MEANING.items()
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
            fontsize=7, handlelength=1.4, columnspacing=1.2,
        )  # fmt: skip
    return figure


def _draw_hiding(ax: Axes, variants: Mapping[str, Overlap]) -> None:
    longest = max(max(one.sync_total_ms, one.async_total_ms) for one in variants.values())
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
    ax.set_xlim(0, 1.55 * longest)


def _stack(ax: Axes, row: float, parts: list[tuple[float, str]]) -> None:
    left = 0.0
    for width, color in parts:
        ax.barh(row, max(0.0, width), left=left, height=0.36, color=color)
        left += max(0.0, width)


def plot_headroom(panels: Mapping[str, Mapping[str, Headroom]]) -> Figure:
    """Compute per latent frame of each variant, and the ceiling of its arithmetic as a line.

    Args:
        panels: title to variants by name, all of one count of operations; each on its own axis.
    """
    heights = [0.4 + 0.26 * len(variants) for variants in panels.values()]
    with plt.rc_context(STYLE):
        figure, axes = _stacked(heights)
        for ax, (title, variants) in zip(axes, panels.items(), strict=True):
            longest = max(one.compute_ms for one in variants.values())
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
            ax.set_xlim(0, 1.7 * longest)
            ax.set_title(title, loc="left", fontsize=8)
        axes[-1].set_xlabel("compute only, ms per latent frame")
        line = Line2D(
            [], [], color=RED, linewidth=1, linestyle=(0, (4, 2)),
            label="ceiling: the same operations at the rate of a large matrix product",
        )  # fmt: skip
        figure.legend(handles=[line], loc="outside lower center", frameon=False, fontsize=7)
    return figure


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
    return figure


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
