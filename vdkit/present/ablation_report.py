"""An ablation as a table, a picture and a sentence. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vdkit.present.digits import ratio_words
from vdkit.present.style import STYLE, WIDTH_IN
from vdkit.present.tables import sink_words, what_and_where
from vdkit.record.old_ablation import ALL_ON, NONE
from vdkit.record.stats import CALL_BELOW_P, LESS, MORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vdkit.record.old_ablation import Ablation, Arm

SEEN, UNSEEN = "#0072B2", "#BBBBBB"
RATIO = "/ all on"


def ablation_rows(ablation: Ablation) -> list[dict[str, str]]:
    """One row per setting: latency, ratio to "all on" with its interval, bytes."""
    base = ablation.arms[ALL_ON]
    rows = []
    for name, arm in ablation.arms.items():
        added_ms = 1e3 * (arm.latency_s.mean - base.latency_s.mean)
        rows.append(
            {
                "setting": name,
                "mean s": f"{arm.latency_s.mean:.3f}",
                "min s": f"{arm.latency_s.min:.3f}",
                "max s": f"{arm.latency_s.max:.3f}",
                "n": str(arm.latency_s.n),
                RATIO: ratio_words(arm.ratio) if arm.ratio else "1",
                "ms more": "-" if arm is base else f"{added_ms:+.1f}",
                "reads as": _verdict(arm),
                "D2H MB": f"{max(run.d2h_bytes for run in arm.runs) / 1e6:.1f}",
                "pinned MB": f"{max(run.pinned_bytes for run in arm.runs) / 1e6:.1f}",
            }
        )
    return rows


def _verdict(arm: Arm) -> str:
    if arm.decision is None:
        return "-"
    if arm.setting.same_code:
        return "same code here: noise"
    return {MORE: "slower", LESS: "faster"}.get(arm.decision.verdict, arm.decision.verdict)


def ablation_words(ablation: Ablation) -> str:
    """In a sentence: without what the decode took longer, and without what no longer."""
    arms = {name: arm for name, arm in ablation.arms.items() if name not in (ALL_ON, NONE)}
    longer = {n: arm.ratio.value for n, arm in arms.items() if arm.ratio and _slower(arm)}
    rest = [name for name, arm in arms.items() if name not in longer and not arm.setting.same_code]
    parts = []
    if longer:
        ranked = sorted(longer, key=lambda name: -longer[name])
        said = ", ".join(f"**{name}** {100 * (longer[name] - 1):.1f} %" for name in ranked)
        parts.append(f"slower than with all on: {said}")
    if rest:
        parts.append(f"not seen to be slower: {', '.join(rest)}")
    same = [name for name, arm in arms.items() if arm.setting.same_code]
    if same:
        parts.append(
            f"the same code as all on, because the device is a CPU: {', '.join(same)} "
            "(how far they are from 0 is what noise does)"
        )
    return f"Sink {sink_words(ablation.sink)}: " + "; ".join(parts) + "."


def _slower(arm: Arm) -> bool:
    return arm.called and arm.decision is not None and arm.decision.verdict == MORE


def plot_ablation(ablations: Mapping[str, Ablation], title: str | None = None) -> Figure:
    """How much longer a decode takes with a primitive off: a bar each, with a 95 % interval.

    Args:
        ablations: title of a panel to what was measured, drawn from left to right. Each panel has
            a scale of its own.
        title: above the figure; None: what ran, and where.

    Returns:
        The figure, not registered with pyplot.
    """
    names = list(dict.fromkeys(n for one in ablations.values() for n in one.arms if n != ALL_ON))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(ablations), sharey=True, squeeze=False, layout="constrained",
            figsize=(WIDTH_IN, 1.15 + 0.3 * len(names)),
        )  # fmt: skip
        for ax, (panel, one) in zip(axes[0], ablations.items(), strict=True):
            _draw(one, names, ax)
            ax.set_title(f"{panel}: all on {one.arms[ALL_ON].latency_s.mean:.3f} s", loc="left")
        axes[0, 0].set_yticks(range(len(names)), names)
        axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
        _legend(figure, ablations)
        first = next(iter(ablations.values()))
        figure.suptitle(title or what_and_where(first), fontsize=8.5, x=0.01, ha="left")
        plt.close(figure)
    return figure


def _draw(ablation: Ablation, names: list[str], ax: Axes) -> None:
    ends = [0.0]
    for row, name in enumerate(names):
        if name not in ablation.arms:
            ax.text(0, row, " not run", va="center", fontsize=7, color="#666666")
            continue
        arm = ablation.arms[name]
        assert arm.ratio is not None
        ratio, same = arm.ratio, arm.setting.same_code
        percent = 100 * (ratio.value - 1)
        color = SEEN if arm.called else UNSEEN
        ax.barh(
            row, percent, height=0.62, color=color, hatch="////" if same else "",
            edgecolor="white" if same else color, linewidth=0.0,
        )  # fmt: skip
        rounds = [100 * (value - 1) for value in ablation.round_ratios(name)]
        ax.scatter(rounds, [row + 0.2] * len(rounds), s=4, color="black", alpha=0.45, linewidth=0)
        spread = [percent, *rounds]
        if ratio.low is not None and ratio.high is not None:
            low, high = 100 * (ratio.low - 1), 100 * (ratio.high - 1)
            ax.plot([low, high], [row, row], color="black", linewidth=1.1, zorder=3)
            for end in (low, high):
                ax.plot([end, end], [row - 0.13, row + 0.13], color="black", linewidth=1.1)
            spread += [low, high]
        ax.annotate(
            f"{percent:+.1f} %", (max(0.0, *spread), row), (4, 0), textcoords="offset points",
            va="center", fontsize=7,
        )  # fmt: skip
        ends += spread
    span = max(ends) - min(ends) or 1.0
    ax.set_xlim(min(ends) - 0.04 * span, max(ends) + 0.3 * span)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("longer than with all on, %")


def _legend(figure: Figure, ablations: Mapping[str, Ablation]) -> None:
    arms = [arm for one in ablations.values() for arm in one.arms.values()]
    handles: list[Patch | Line2D] = [
        Patch(color=SEEN, label=f"called (p < {CALL_BELOW_P:g}, interval without 0)"),
        Patch(color=UNSEEN, label="no difference seen"),
    ]
    if any(arm.setting.same_code for arm in arms):
        handles.append(
            Patch(
                facecolor=UNSEEN, hatch="////", edgecolor="white", linewidth=0.0,
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
