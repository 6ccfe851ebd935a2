"""Tables for people: a recorded profile, or the analysis of any trace. No torch, no GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vdkit.measure.stalls import CAUSES
from vdkit.present.tables import NAMES, markdown_table, setting

if TYPE_CHECKING:
    from vdkit.measure.figures import Analysis, WindowFigures
    from vdkit.measure.profile_records import ModeProfile, ProfileResult

RED, PLAIN = "\x1b[1;31m", "\x1b[0m"
VERDICTS = {True: "ok", False: "FAILED", None: "not checked"}
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


def _number(value: float | None, pattern: str) -> str:
    return "-" if value is None else format(value, pattern)


def window_rows(analyses: Mapping[str, Analysis]) -> list[dict[str, str]]:
    """One row per path and window: utilization, busy seconds, gaps, hidden copies."""
    rows = []
    for mode, analysis in analyses.items():
        for name, window in analysis.windows.items():
            rows.append(
                {
                    "path": NAMES.get(mode, mode),
                    "window": name,
                    "from": "trace" if window.resolution == "kernel" else "records",
                    "length s": f"{window.window_s:.3f}",
                    "busy s": f"{window.busy_s:.3f}",
                    "kernel utilization %": f"{window.kernel_utilization_percent:.2f}",
                    "gaps": str(window.gap_count),
                    "median us": f"{window.gap_median_us:.1f}",
                    "P99 us": f"{window.gap_p99_us:.0f}",
                    "max us": f"{window.gap_max_us:.0f}",
                    "D2H ms": f"{1e3 * window.d2h_s:.2f}",
                    "copy hidden %": _number(window.copy_hidden_percent, ".1f"),
                    "stalls explained %": f"{window.explained_percent:.2f}",
                }
            )
    return rows


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
            "next kernel": gap.next_kernel.replace("|", "/")[:60] or "-",
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
    """One row per chunk: kernels, and milliseconds of compute, copy, conversion and write."""

    def ms(value: float | None) -> str:
        return _number(None if value is None else 1e3 * value, ".3f")

    return [
        {
            "chunk": str(chunk.index),
            "kernels": "-" if chunk.kernels is None else str(chunk.kernels),
            "compute ms": ms(chunk.compute_s),
            "copy ms": ms(chunk.copy_s),
            "convert ms": ms(chunk.convert_s),
            "write ms": ms(chunk.write_s),
        }
        for chunk in analysis.chunks
    ]


def trust_lines(mode: str, analysis: Analysis) -> str:
    """Profiler cost, clocks, agreement of records and trace, and every check, as a list."""
    name, lines = NAMES.get(mode, mode), []
    if analysis.profiled_latency_s is not None:
        cost = analysis.profiler_cost_percent
        lines.append(
            f"profiled {analysis.profiled_latency_s:.3f} s"
            + (
                f", timed {sum(analysis.timed_latency_s) / len(analysis.timed_latency_s):.3f} s "
                f"(mean of {len(analysis.timed_latency_s)}): the profiler costs {cost:+.1f} %"
                if cost is not None
                else "; no timed run stands beside it"
            )
        )
    if (clocks := analysis.alignment) is not None:
        events = (
            f", events against kernels {clocks.event_median_ns / 1e3:.0f} us in the median, "
            f"{clocks.event_residual_ns / 1e3:.0f} us at most"
            if clocks.event_residual_ns is not None and clocks.event_median_ns is not None
            else ""
        )
        lines.append(
            f"clocks agree within {clocks.host_residual_ns / 1e3:.0f} us (host against trace), "
            f"{clocks.record_residual_ns / 1e3:.0f} us (events against host){events}"
        )
    if (both := analysis.agreement) is not None:
        lines.append(
            f"stalls between chunks ({both.gaps} of {both.of}): {1e3 * both.records_s:.3f} ms from "
            f"event records, {1e3 * both.trace_s:.3f} ms from the trace, "
            f"{1e3 * both.difference_s:.3f} ms or {both.difference_percent:.1f} % apart"
        )
    lines += [f"{VERDICTS[check.ok]}: {check.name}: {check.detail}" for check in analysis.checks]
    return f"{name}:\n" + "\n".join(f"- {line}" for line in lines)


def analysis_text(name: str, analysis: Analysis, style: str = "plain") -> str:
    """Everything about one trace, for a terminal or Markdown."""
    one = {name: analysis}
    main = next(window for window in WINDOWS if window in analysis.windows)
    parts = [
        warning(one, style),
        f"{name} on {analysis.device}: {analysis.kernels} kernels, "
        f"{analysis.d2h_bytes / 1e6:.1f} MB copied to the host",
        markdown_table(window_rows(one)),
        f"Window {main!r}, by cause:\n\n" + markdown_table(stall_rows(one, main)),
        "Gaps between kernels:\n\n" + markdown_table(histogram_rows(analysis, main)),
    ]
    if analysis.families:
        parts.append(markdown_table(family_rows(one)))
    if analysis.longest_gaps:
        parts.append("Longest gaps:\n\n" + markdown_table(gap_rows(analysis), right=False))
    if analysis.chunks:
        parts.append("Chunks:\n\n" + markdown_table(chunk_rows(analysis)))
    parts.append(trust_lines(name, analysis))
    return "\n\n".join(part for part in parts if part)


def mode_rows(result: ProfileResult) -> list[dict[str, str]]:
    """One row per path: timed and profiled latency, sampling cost, rate, energy, throttling."""
    rows = []
    for mode, one in result.modes.items():
        latencies = [run.latency_s for run in one.timed]
        row = {
            "path": NAMES[mode],
            "timed s": f"{sum(latencies) / len(latencies):.3f}",
            "n": str(len(latencies)),
            "profiled s": f"{one.profiled.latency_s:.3f}",
            "profiler cost %": _number(one.analysis.profiler_cost_percent, "+.1f"),
        }
        for window in ("run", "steady"):
            rate = one.tflop_per_s.get(window)
            row[f"TFLOP/s {window}"] = _number(rate, ".1f" if (rate or 0) >= 1 else ".3f")
        if result.ceiling is not None and "steady" in one.tflop_per_s:
            share = 100 * one.tflop_per_s["steady"] / result.ceiling.tflop_per_s
            row["of ceiling %"] = f"{share:.1f}"
        else:
            row["of ceiling %"] = "-"
        if one.energy_j:
            energy = sum(one.energy_j) / len(one.energy_j)
            row["J per video"] = f"{energy:.0f}"
            row["J per video s"] = f"{energy / result.workload.seconds:.1f}"
        if one.sampling_cost is not None:
            row["sampled / plain"] = _ratio(one)
        if any(other.throttled for other in result.modes.values()):
            row["throttled"] = ", ".join(one.throttled_samples) or "no"
        rows.append(row)
    return rows


def _ratio(one: ModeProfile) -> str:
    ratio = one.sampling_cost
    assert ratio is not None
    if ratio.low is None:
        return f"{ratio.value:.4f}"
    return f"{ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}]"


def profile_text(result: ProfileResult, style: str = "plain") -> str:
    """The whole profile, for a terminal or Markdown."""
    analyses = {mode: one.analysis for mode, one in result.modes.items()}
    parts = [
        warning(analyses, style),
        setting(result),
        markdown_table(mode_rows(result)),
        _ceiling_line(result),
        markdown_table(window_rows(analyses)),
    ]
    for window in ("run", "steady"):
        if rows := stall_rows(analyses, window):
            parts.append(f"Where window {window!r} went:\n\n{markdown_table(rows)}")
    if rows := family_rows(analyses):
        parts.append(f"Kernel time of the whole trace:\n\n{markdown_table(rows)}")
    parts += [trust_lines(mode, analysis) for mode, analysis in analyses.items()]
    return "\n\n".join(part for part in parts if part)


def _ceiling_line(result: ProfileResult) -> str:
    lines = []
    if (top := result.ceiling) is not None:
        lines.append(
            f"Ceiling: a {top.size}x{top.size} matrix product in {top.dtype} runs at "
            f"{top.tflop_per_s:.3g} TFLOP/s (median of {top.n}). TFLOP/s: operations counted by "
            "torch's FlopCounter over the window of the profiled run."
        )
    if result.nvml_mean_cost_ms is not None and result.nvml_interval_s is not None:
        lines.append(
            f"NVML sampled every {1e3 * result.nvml_interval_s:g} ms; one sample takes "
            f"{result.nvml_mean_cost_ms:.1f} ms of its thread. sampled / plain: latency with the "
            "sampler over latency without, interleaved pairs, bootstrap 95 % interval."
        )
    if result.nvml_unsupported:
        absent = "; ".join(f"{name} ({why})" for name, why in result.nvml_unsupported.items())
        lines.append(f"Not answered by NVML here: {absent}.")
    return "\n".join(lines)
