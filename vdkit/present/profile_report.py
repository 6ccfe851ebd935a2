"""A recorded profile, or the analysis of any trace, as text for people. No torch, no GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vdkit.present.money_cells import price_line
from vdkit.present.profile_tables import (
    VERDICTS,
    WINDOWS,
    chunk_rows,
    cost,
    family_rows,
    gap_rows,
    histogram_rows,
    mode_legend,
    mode_rows,
    on_cpu,
    stall_rows,
    warning,
    window_rows,
)
from vdkit.present.table import Table, markdown_table
from vdkit.present.tables import NAMES, setting
from vdkit.trace.stalls import CAUSES

if TYPE_CHECKING:
    from vdkit.record.old_profile import ProfileResult
    from vdkit.trace.figures import Analysis

ON_CPU = (
    "On a CPU there are no kernels: busy is the decoder's calls, gaps lie between them, both from "
    "the event records, and copies go from memory to memory."
)
TRACE_WINDOW = (
    "Window `trace`: first to last event of the GPU. This trace has no records of a run (they are "
    "in what `vdkit profile` writes), which windows `run` and `steady` and figures by chunk need."
)


def cause_lines(analyses: Mapping[str, Analysis]) -> str:
    """What each stall cause means that any window has, a line each."""
    met = {
        cause
        for analysis in analyses.values()
        for window in analysis.windows.values()
        for cause in (*(c for c, value in window.stall_s.items() if value), *window.drain_s)
    }
    return "\n".join(
        f"- {cause}: {meaning}" for cause, meaning in CAUSES.items() if cause in met - {"short"}
    )


def trust_lines(mode: str, analysis: Analysis) -> str:
    """Profiler cost, clocks, agreement of records and trace, checks and notes, as a list."""
    name, lines = NAMES.get(mode, mode), []
    if analysis.profiled_latency_s is not None:
        lines.append(
            f"profiled {analysis.profiled_latency_s:.3f} s"
            + (
                f", timed {sum(analysis.timed_latency_s) / len(analysis.timed_latency_s):.3f} s "
                f"(mean of {len(analysis.timed_latency_s)}): the profiler costs "
                f"{cost(analysis, ' %')}"
                if analysis.timed_latency_s
                else "; no timed run stands beside it"
            )
        )
    if (clocks := analysis.alignment) is not None:
        records = (
            ""
            if analysis.device == "cpu"
            else f", {clocks.record_residual_ns / 1e3:.0f} us (events against host)"
        )
        events = (
            f", events against kernels {clocks.event_median_ns / 1e3:.0f} us in the median, "
            f"{clocks.event_residual_ns / 1e3:.0f} us at most"
            if clocks.event_residual_ns is not None and clocks.event_median_ns is not None
            else ""
        )
        lines.append(
            f"clocks agree within {clocks.host_residual_ns / 1e3:.0f} us (host against trace)"
            + records
            + events
        )
    if (both := analysis.agreement) is not None:
        lines.append(
            f"stalls between chunks ({both.gaps} of {both.of}): {1e3 * both.records_s:.3f} ms from "
            f"event records, {1e3 * both.trace_s:.3f} ms from the trace, "
            f"{1e3 * both.difference_s:.3f} ms or {both.difference_percent:.1f} % apart"
        )
    lines += [f"{VERDICTS[check.ok]}: {check.name}: {check.detail}" for check in analysis.checks]
    lines += [f"note: {note}" for note in analysis.notes]
    return f"{name}:\n" + "\n".join(f"- {line}" for line in lines)


def analysis_text(name: str, analysis: Analysis, style: str = "plain") -> str:
    """Everything about one trace, for a terminal or Markdown."""
    one = {name: analysis}
    main = next(window for window in WINDOWS if window in analysis.windows)
    cpu = on_cpu(one)
    work = f"{len(analysis.chunks)} decoder calls" if cpu else f"{analysis.kernels} kernels"
    copied = f"{analysis.d2h_bytes / 1e6:.1f} MB copied to the host"
    parts = [
        warning(one, style),
        f"{name} on {analysis.device}: {work}, {copied}",
        markdown_table(window_rows(one)),
        ON_CPU if cpu else TRACE_WINDOW if main == "trace" else "",
        f"Window {main!r}, by cause:\n\n" + markdown_table(stall_rows(one, main)),
        cause_lines(one),
        f"Gaps between {'decoder calls' if cpu else 'kernels'}:\n\n"
        + markdown_table(histogram_rows(analysis, main)),
    ]
    if analysis.families:
        parts.append(markdown_table(family_rows(one)))
    if analysis.longest_gaps:
        parts.append("Longest gaps:\n\n" + markdown_table(gap_rows(analysis), right=False))
    if analysis.chunks:
        parts.append("Chunks:\n\n" + markdown_table(chunk_rows(analysis)))
    parts.append(trust_lines(name, analysis))
    return "\n\n".join(part for part in parts if part)


def profile_text(
    result: ProfileResult,
    style: str = "plain",
    usd_per_hour: float | None = None,
    energy: bool = False,
) -> str:
    """The whole profile, for a terminal or Markdown; ``usd_per_hour``, ``energy``: `mode_rows`."""
    analyses = {mode: one.analysis for mode, one in result.arms.items()}
    parts = [
        warning(analyses, style),
        "\n".join(line for line in (setting(result), price_line(usd_per_hour)) if line),
        markdown_table(mode_rows(result, usd_per_hour, energy)),
        mode_legend(result, usd_per_hour, energy),
        ceiling_lines(result),
        markdown_table(window_rows(analyses)),
        ON_CPU if on_cpu(analyses) else "",
    ]
    for window in ("run", "steady"):
        if rows := stall_rows(analyses, window):
            parts.append(f"Where window {window!r} went:\n\n{markdown_table(rows)}")
    parts.append(cause_lines(analyses))
    if rows := family_rows(analyses):
        parts.append(f"Kernel time of the whole trace:\n\n{markdown_table(rows)}")
    parts += [trust_lines(mode, analysis) for mode, analysis in analyses.items()]
    return "\n\n".join(part for part in parts if part)


def profile_tables(
    result: ProfileResult, usd_per_hour: float | None = None, energy: bool = False
) -> list[Table]:
    """A profile: paths, windows, stalls of each window, kernel families; warnings above each."""
    analyses = {mode: one.analysis for mode, one in result.arms.items()}
    failed = warning(analyses, "plain")
    made = [
        Table(
            mode_rows(result, usd_per_hour, energy),
            _stacked(failed, setting(result), price_line(usd_per_hour)),
            mode_legend(result, usd_per_hour, energy),
        ),
        Table(window_rows(analyses), _stacked(failed, "Windows")),
    ]
    for window in ("run", "steady"):
        if rows := stall_rows(analyses, window):
            made.append(Table(rows, _stacked(failed, f"Where window {window} went, ms")))
    if rows := family_rows(analyses):
        made.append(Table(rows, _stacked(failed, "Kernel time of the whole trace")))
    return made


def _stacked(*lines: str) -> str:
    return "\n".join(line for line in lines if line)


def ceiling_lines(result: ProfileResult) -> str:
    """The measured ceiling, and what sampling NVML cost and did not answer."""
    lines = []
    if (top := result.ceiling) is not None:
        lines.append(
            f"Ceiling: a {top.size}x{top.size} matrix product in {top.dtype} runs at "
            f"{top.tflop_per_s:.3g} TFLOP/s (median of {top.n}). TFLOP/s: operations counted by "
            "torch's FlopCounter (by the decoder itself where the kernels are its own), over the "
            "window of the profiled run."
        )
    if result.nvml_mean_cost_ms is not None and result.nvml_interval_s is not None:
        lines.append(
            f"NVML sampled every {1e3 * result.nvml_interval_s:g} ms; one sample takes "
            f"{result.nvml_mean_cost_ms:.1f} ms of its thread. sampled / plain: latency with the "
            "sampler over latency without, geometric mean of interleaved pairs with its 95 % "
            "interval (Student's t on log ratios)."
        )
    if result.nvml_interval_s is None:
        lines.append("No NVML samples and no nvml.csv: there was no GPU to ask.")
    if result.nvml_unsupported:
        absent = "; ".join(f"{name} ({why})" for name, why in result.nvml_unsupported.items())
        lines.append(f"Not answered by NVML here: {absent}.")
    return "\n".join(lines)
