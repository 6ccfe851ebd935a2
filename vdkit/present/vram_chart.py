"""Peak device memory against the length of the video, as lines. matplotlib only, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt

from vdkit.measure.vram import vram_growth_bytes
from vdkit.present.style import MODE_COLORS, STYLE, WIDTH_IN
from vdkit.present.tables import NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vdkit.measure.vram import VramPoint

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
