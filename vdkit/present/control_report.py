"""An A/A control as text and as a picture of its rounds. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from vdkit.present.digits import mean_decimals, shown
from vdkit.present.style import STYLE, WIDTH_IN
from vdkit.present.table import Table, markdown_table
from vdkit.present.tables import NAMES, setting, what_and_where
from vdkit.record.old_aa import ARMS, CALLED_BY, FALSE_CALLS_AT_MOST, FOUND_AT_LEAST
from vdkit.record.stats import CALL_BELOW_P

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vdkit.record.old_aa import ControlResult
    from vdkit.record.recording import BenchmarkResult
    from vdkit.record.stats import Share, Summary

TITLES = {"latency_s": "latency", "ttff_s": "TTFF"}
COLORS = {"a": "#0072B2", "b": "#56B4E9", "slow": "#D55E00"}
MARKERS = {"a": "o", "b": "s", "slow": "^"}


def arm_rows(control: ControlResult) -> list[dict[str, str]]:
    """One row per arm: means, and spread as the standard deviation in % of the mean."""
    rows = []
    for arm in ARMS:
        row = {"arm": arm, "n": str(control.plan.rounds)}
        for metric, judged in control.metrics.items():
            summary = judged.arms[arm]
            row[f"{TITLES[metric]} s"] = shown(summary.mean, mean_decimals(summary))
            row[f"{TITLES[metric]} spread %"] = f"{spread_percent(summary):.2f}"
        if any(control.throttled.values()):
            count = control.throttled[arm]
            row["throttled"] = f"{count} of {control.plan.rounds}{'†' if count else ''}"
        rows.append(row)
    return rows


def spread_percent(summary: Summary) -> float:
    """Coefficient of variation: sample standard deviation, % of the mean."""
    return 100 * summary.std / summary.mean


def call_rows(control: ControlResult) -> list[dict[str, str]]:
    """One row per metric and way to ask."""
    rows = []
    for metric, judged in control.metrics.items():
        for how in CALLED_BY:
            quiet, sharp = judged.aims_met(how)
            rows.append(
                {
                    "metric": TITLES[metric],
                    "asked": how,
                    "a against b: called": share_words(judged.false_calls[how]),
                    f"at most {FALSE_CALLS_AT_MOST:.0%}".replace("%", " %"): _aim(quiet),
                    "slow against a: found": share_words(judged.found[how]),
                    f"at least {FOUND_AT_LEAST:.0%}".replace("%", " %"): _aim(sharp),
                }
            )
    return rows


def share_words(share: Share) -> str:
    """``2 of 40 = 5.0 % [1.4, 16.5]``."""
    return (
        f"{share.count} of {share.n} = {100 * share.count / share.n:.1f} % "
        f"[{100 * share.low:.1f}, {100 * share.high:.1f}]"
    )


def _aim(met: bool) -> str:
    return "met" if met else "NOT MET"


def control_tables(control: ControlResult) -> list[Table]:
    """The arms, then how often a difference was called."""
    return [Table(arm_rows(control), setting(control)), Table(call_rows(control), "Calls")]


def control_text(control: ControlResult) -> str:
    """Setting, what was planted, arms, calls, and how to read them."""
    plan = control.plan
    parts = [
        setting(control),
        f"{NAMES[plan.mode]}, {plan.rounds} rounds, in each every arm once in random order: a and "
        "b are the same setting, slow is the same with work planted after every chunk.",
        _planted(control),
        markdown_table(arm_rows(control)),
        markdown_table(call_rows(control)),
        f"{plan.splits} splits: each draws {plan.pairs} of the {plan.rounds} rounds and asks as "
        f"vdkit compare does (p < {CALL_BELOW_P:g}, and an interval without 1). Labels of a and b "
        "are swapped at random, so every call there is a false one. [ ]: Wilson 95 % intervals; "
        "they take the splits as independent, which draws from the same rounds are not. Spread: "
        "standard deviation, % of the mean."
        + (" † Runs with a throttle reason." if any(control.throttled.values()) else ""),
    ]
    return "\n\n".join(parts)


def _planted(control: ControlResult) -> str:
    made, plan = control.calibration, control.plan
    latency = control.metrics["latency_s"]
    planned = 100 * made.planted_s / latency.arms["a"].mean
    text = (
        f"Planted: {plan.plant_percent:g} % of a chunk's {1e3 * made.chunk_s:.3f} ms, as "
        f"{made.products} products of {made.matrix_size}x{made.matrix_size} {made.matrix_dtype} "
        f"matrices of {1e3 * made.product_s:.4f} ms in a run: {planned:+.2f} % of its latency."
    )
    measured = []
    for metric, judged in control.metrics.items():
        low, high = judged.planted.low, judged.planted.high
        interval = "" if low is None or high is None else f" [{_plus(low)}, {_plus(high)}]"
        measured.append(f"{TITLES[metric]} {_plus(judged.planted.value)}{interval} %")
    text += f" Measured, slow against a: {', '.join(measured)}."
    if "ttff_s" in control.metrics and made.first_s is None:
        text += (
            " Each latent frame has the same share, so the first one, which is decoded faster, is "
            "slowed by more of its time."
        )
    return text


def _plus(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.2f}"


def control_summary(control: ControlResult, whole: bool = True) -> dict[str, Any]:
    """For one line of JSON: all but the orders, or (not ``whole``) only the counts."""
    if whole:
        return control.model_dump(mode="json", exclude={"plan": {"orders"}})
    return {
        metric: {
            "planted": round(judged.planted.value, 6),
            "false_calls": {how: judged.false_calls[how].count for how in CALLED_BY},
            "found": {how: judged.found[how].count for how in CALLED_BY},
            "splits": control.plan.splits,
        }
        for metric, judged in control.metrics.items()
    }


def plot_rounds(arms: Mapping[str, BenchmarkResult], title: str | None = None) -> Figure:
    """Latency of every round of each arm, with the arms' means as lines.

    Args:
        arms: arm to its runs, of one mode.
        title: None: what ran, and where.

    Returns:
        The figure, not registered with pyplot.
    """
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(WIDTH_IN, 2.7), layout="constrained")
        for arm, result in arms.items():
            (mode,) = result.modes
            runs = result.timed(mode)
            mean = result.modes[mode].latency_s.mean
            ax.plot(
                [run.round for run in runs], [run.latency_s for run in runs], linestyle="",
                marker=MARKERS[arm], markersize=3.5, color=COLORS[arm], alpha=0.85,
                label=f"{arm}: mean {mean:.4f} s, spread "
                f"{spread_percent(result.modes[mode].latency_s):.2f} %",
            )  # fmt: skip
            ax.axhline(mean, color=COLORS[arm], linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        ax.set_xlabel("round")
        ax.set_ylabel("latency, s")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        first = next(iter(arms.values()))
        (mode,) = first.modes
        ax.set_title(title or f"{NAMES[mode]}: {what_and_where(first)}", loc="left", fontsize=8)
        figure.legend(
            loc="outside lower center", ncols=len(arms), frameon=False, fontsize=7,
            handletextpad=0.2, columnspacing=1.2,
        )  # fmt: skip
        plt.close(figure)
    return figure
