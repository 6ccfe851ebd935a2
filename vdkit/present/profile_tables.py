"""Tables for people: a recorded profile, or the analysis of any trace. No torch, no GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vdkit.present.digits import mean_words, ratio_words
from vdkit.present.money_cells import ENERGY, money_cells, money_legend
from vdkit.present.tables import NAMES
from vdkit.trace.stalls import CAUSES, SHORT_NS

if TYPE_CHECKING:
    from vdkit.record.old_profile import ModeProfile, ProfileResult
    from vdkit.trace.figures import Analysis, WindowFigures

RED, PLAIN = "\x1b[1;31m", "\x1b[0m"
VERDICTS = {True: "ok", False: "FAILED", None: "not checked"}
UTILIZATION = "kernel utilization %"
WINDOWS = ("trace", "run", "steady", "two chunks")


def incomplete(analyses: Mapping[str, Analysis]) -> list[str]:
    """A line for each failed check: figures of such a trace must not be trusted."""
    return [
        f"INCOMPLETE TRACE ({name}): {check.name}: {check.detail}"
        for name, analysis in analyses.items()
        for check in analysis.failed
    ]


def warning(analyses: Mapping[str, Analysis], style: str) -> str:
    """The failed checks in red: ``terminal``, ``markdown`` or ``plain`` (no color); else empty."""
    lines = incomplete(analyses)
    if not lines:
        return ""
    if style == "terminal":
        return "\n".join(f"{RED}{line}{PLAIN}" for line in lines)
    if style == "markdown":
        return "\n\n".join(f'<b style="color:#c00000">{line}</b>' for line in lines)
    return "\n".join(lines)


def on_cpu(analyses: Mapping[str, Analysis]) -> bool:
    """Whether these ran on a CPU, where compute is the decoder's call."""
    return all(analysis.device == "cpu" for analysis in analyses.values())


def cost(analysis: Analysis, unit: str = "") -> str:
    """The profiler's cost in percent: a profiler cannot speed a run up, so below 0 it is noise."""
    percent = analysis.profiler_cost_percent
    if percent is None:
        return "-"
    return f"{percent:+.1f}{unit}" + (" (within noise)" if percent < 0 else "")


def middle(text: str, width: int) -> str:
    """Text cut in the middle: the ends of a kernel's name tell more than what is between."""
    half = (width - 3) // 2
    return text if len(text) <= width else f"{text[: width - 3 - half]}...{text[-half:]}"


def significant(value: float | None) -> str:
    """Three significant digits, or every digit before the point; ``-`` for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def _number(value: float | None, pattern: str) -> str:
    return "-" if value is None else format(value, pattern)


def window_rows(analyses: Mapping[str, Analysis]) -> list[dict[str, str]]:
    """One row per path and window: utilization, busy seconds, gaps, hidden copies."""
    rows = []
    busy, copy = ("decoder call %", "copy ms") if on_cpu(analyses) else (UTILIZATION, "D2H ms")
    between = "communication %"
    ranks = any(w.communication_s for a in analyses.values() for w in a.windows.values())
    for mode, analysis in analyses.items():
        for name, window in analysis.windows.items():
            rows.append(
                {
                    "path": NAMES.get(mode, mode),
                    "window": name,
                    "from": "trace" if window.resolution == "kernel" else "records",
                    "length s": f"{window.window_s:.3f}",
                    "busy s": f"{window.busy_s:.3f}",
                    busy: f"{window.kernel_utilization_percent:.2f}",
                    **({between: _number(window.communication_percent, ".2f")} if ranks else {}),
                    "gaps": str(window.gap_count),
                    "> 20 us": str(_long_gaps(window)),
                    "median us": f"{window.gap_median_us:.1f}",
                    "P99 us": f"{window.gap_p99_us:.0f}",
                    "max us": f"{window.gap_max_us:.0f}",
                    copy: f"{1e3 * window.d2h_s:.2f}",
                    "copy hidden %": _number(window.copy_hidden_percent, ".1f"),
                    "stalls explained %": f"{window.explained_percent:.2f}",
                }
            )
    return rows


def _long_gaps(window: WindowFigures) -> int:
    """How many gaps are stalls: above 20 us, a bound of the histogram."""
    return sum(n for high, n, _ in window.gap_histogram if high is None or high > SHORT_NS / 1e3)


def stall_rows(analyses: Mapping[str, Analysis], window: str) -> list[dict[str, str]]:
    """One row per cause, milliseconds by path; the last rows are busy time and the window."""
    there = {mode: a.windows[window] for mode, a in analyses.items() if window in a.windows}
    rows = []
    for cause in CAUSES:
        if any(figures.stall_s[cause] for figures in there.values()):
            label = "gaps up to 20 us" if cause == "short" else cause
            cells = {NAMES.get(m, m): f"{1e3 * f.stall_s[cause]:.3f}" for m, f in there.items()}
            rows.append({"ms": label, **cells})
        if cause == "drain":
            rows += _drain_rows(there)
    busy = {NAMES.get(m, m): f"{1e3 * f.busy_s:.3f}" for m, f in there.items()}
    whole = {NAMES.get(m, m): f"{1e3 * f.window_s:.3f}" for m, f in there.items()}
    return [*rows, {"ms": "busy", **busy}, {"ms": "window", **whole}] if there else []


def _drain_rows(there: Mapping[str, WindowFigures]) -> list[dict[str, str]]:
    """What the host was at during the drain, where that is more than one thing."""
    kinds = list(dict.fromkeys(cause for f in there.values() for cause in f.drain_s))
    if len(kinds) < 2:
        return []
    return [
        {
            "ms": f"  in it: {cause}",
            **{NAMES.get(m, m): f"{1e3 * f.drain_s.get(cause, 0):.3f}" for m, f in there.items()},
        }
        for cause in kinds
    ]


def family_rows(analyses: Mapping[str, Analysis]) -> list[dict[str, str]]:
    """One row per kernel family: milliseconds and share of kernel time by path."""
    names = list(dict.fromkeys(f.name for a in analyses.values() for f in a.families))
    rows = []
    for name in names:
        row = {"kernel family": name}
        for mode, analysis in analyses.items():
            mine = next((f for f in analysis.families if f.name == name), None)
            label = NAMES.get(mode, mode)
            row[f"{label} ms"] = f"{1e3 * mine.seconds:.1f}" if mine else "-"
            row["share %"] = f"{mine.percent:.1f}" if mine else "-"
            row["kernels"] = str(mine.kernels) if mine else "-"
            if len(analyses) > 1:
                del row["share %"], row["kernels"]
        rows.append(row)
    return rows


def gap_rows(analysis: Analysis, count: int = 20) -> list[dict[str, str]]:
    """The longest gaps, longest first."""
    return [
        {
            "at s": f"{gap.start_s:.6f}",
            "us": f"{gap.length_us:.1f}",
            "cause": gap.cause,
            "before chunk": str(gap.before_chunk) if gap.before_chunk >= 0 else "-",
            "next kernel": middle(gap.next_kernel.replace("|", "/"), 60) or "-",
        }
        for gap in analysis.longest_gaps[:count]
    ]


def histogram_rows(analysis: Analysis, window: str) -> list[dict[str, str]]:
    """Distribution of the gaps of a window: how many, and what they sum to."""
    rows, low = [], 0.0
    for high, count, seconds in analysis.windows[window].gap_histogram:
        label = f"{low:g} to {high:g} us" if high is not None else f"above {low:g} us"
        rows.append({"gap": label, "count": str(count), "ms": f"{1e3 * seconds:.3f}"})
        low = high if high is not None else low
    return rows


def chunk_rows(analysis: Analysis) -> list[dict[str, str]]:
    """One row per chunk: kernels (on a GPU), milliseconds of compute, copy, conversion, write."""

    def ms(value: float | None) -> str:
        return _number(None if value is None else 1e3 * value, ".3f")

    return [
        {
            "chunk": str(chunk.index),
            **({} if chunk.kernels is None else {"kernels": str(chunk.kernels)}),
            "compute ms": ms(chunk.compute_s),
            "copy ms": ms(chunk.copy_s),
            "convert ms": ms(chunk.convert_s),
            "write ms": ms(chunk.write_s),
        }
        for chunk in analysis.chunks
    ]


def mode_rows(
    result: ProfileResult, usd_per_hour: float | None = None, energy: bool = False
) -> list[dict[str, str]]:
    """One row per path: timed and profiled latency, sampling cost, rate, energy, throttling.

    Joules of the sampled runs are there wherever they were recorded; ``energy`` shows that they
    are missing, too. Money (`money_cells`) is that of the timed mean.

    Raises:
        ValueError: ``usd_per_hour`` is not finite and above 0.
    """
    rows = []
    baseline = _baseline(result)
    for mode, one in result.arms.items():
        row = {
            "path": NAMES[mode],
            "timed s": mean_words([run.latency_s for run in one.timed]),
            "n": str(len(one.timed)),
            "profiled s": f"{one.profiled.latency_s:.3f}",
            "profiler cost %": cost(one.analysis),
        }
        for window in ("run", "steady"):
            row[f"TFLOP/s {window}"] = significant(one.tflop_per_s.get(window))
        if result.ceiling is not None and "steady" in one.tflop_per_s:
            share = 100 * one.tflop_per_s["steady"] / result.ceiling.tflop_per_s
            row["of ceiling %"] = f"{share:.1f}"
        else:
            row["of ceiling %"] = "-"
        money = money_cells(
            _timed_s(one),
            None if mode == baseline else _timed_s(result.arms[baseline]),
            result.workload.seconds,
            _energy_j(one),
            usd_per_hour,
            energy or any(other.energy_j for other in result.arms.values()),
        )
        if ENERGY in money:
            row["J / video"] = _number(_energy_j(one), ".0f")
            row[ENERGY] = money.pop(ENERGY)
        if one.sampling_cost is not None:
            row["sampled / plain"] = ratio_words(one.sampling_cost)
        if any(other.throttled for other in result.arms.values()):
            row["throttled"] = ", ".join(one.throttled_samples) or "no"
        rows.append(row | money)
    return rows


def mode_legend(
    result: ProfileResult, usd_per_hour: float | None = None, energy: bool = False
) -> str:
    """What the columns of `mode_rows` on money and energy mean, if they were asked for."""
    device = result.provenance.device
    measured = [(device, _energy_j(one), _timed_s(one)) for one in result.arms.values()]
    return money_legend(measured, usd_per_hour, energy, _baseline(result))


def _baseline(result: ProfileResult) -> str:
    """What savings are against: the mode that a benchmark takes for its baseline."""
    return next(mode for mode in ("sync", *NAMES) if mode in result.arms)


def _timed_s(one: ModeProfile) -> float:
    """Mean latency of the timed runs, s."""
    return sum(run.latency_s for run in one.timed) / len(one.timed)


def _energy_j(one: ModeProfile) -> float | None:
    """Mean joules of the sampled runs; None without any."""
    return sum(one.energy_j) / len(one.energy_j) if one.energy_j else None
