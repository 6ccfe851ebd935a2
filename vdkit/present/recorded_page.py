"""``results/README.md``: every recorded run in tables and pictures, from the records beside it."""

from __future__ import annotations

from pathlib import Path

from vdkit.measure.control_records import read_control
from vdkit.measure.profile_records import read_profile
from vdkit.measure.records import BenchmarkResult, read_result
from vdkit.measure.stats import Ratio, paired_ratio
from vdkit.measure.sweep_records import Cell, Sweep, median_and_worst, read_sweep
from vdkit.present.control_report import share_words, spread_percent
from vdkit.present.digits import mean_decimals, ratio_words, shown
from vdkit.present.money_cells import published_lines, published_rows
from vdkit.present.profile_tables import mode_rows, stall_rows, window_rows
from vdkit.present.readme_variants import fastest_words, variant_lines
from vdkit.present.table import markdown_table
from vdkit.present.tables import benchmark_rows, breakdown_rows, caption, legend

MAIN = "20261121T004501Z_nvidia-h200_c942496_aws-float16"
"""The run that is shown whole, with its timeline; every other recorded run gets a row."""

PROFILE = "20261121T040400Z_nvidia-h200_2ad74eb_aws-profile"
"""The profile that is shown."""

SWEEP = "20261121T114058Z_nvidia-h200_6a035e9_sweep-14-threads"
"""The sweep whose pictures are shown."""

PICTURE = "timeline.png"
PICTURE = "timeline.png"

_HEAD = """# Recorded results

Written by `make readme` from the records in this folder; a test fails when they differ.
A folder is one recording, with its raw values;
[README](../README.md#cite-and-reproduce) says how to read it again.
[LOG.md](LOG.md) has what was expected before a measurement, and what came out."""

_COLUMNS = ("mode", "mean s", "P99 s†", "max s", "n", "TTFF s", "RTF", "D2H MB", "peak VRAM GB")


def recorded_page(root: Path) -> str:
    """The whole page, from ``root/results``; its links are relative to that folder."""
    parts = (
        _HEAD,
        "\n".join(["## One run, whole", "", *main_lines(root, ""), "", *_breakdown_lines(root)]),
        "\n".join(["## Every benchmark", "", *_benchmark_lines(root)]),
        "\n".join(["## Variants of the decoder", "", *variant_lines(root)]),
        "\n".join(["## A profile", "", *_profile_lines(root)]),
        "\n".join(["## Sweeps", "", *_sweep_lines(root)]),
        "\n".join(["## Is the comparison to be trusted?", "", *_control_lines(root)]),
        "\n".join(["## Money", "", *_money_lines()]),
    )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main_lines(root: Path, where: str) -> list[str]:
    """The run that is shown whole, as a table with its caption and legend.

    Args:
        root: of the repository.
        where: what leads from the page to ``results``: empty, or a path that ends in ``/``.
    """
    result = read_result(root / "results" / MAIN)
    wanted = (*_COLUMNS, f"{result.baseline} / mode")
    return [
        caption(result).replace("\n", "  \n"),
        "",
        markdown_table([{name: row[name] for name in wanted} for row in benchmark_rows(result)]),
        "",
        legend(result),
        f"Raw values: [{MAIN}]({where}{MAIN}).",
        "",
        f"![Four chunks of sync and of async on one time axis]({where}{MAIN}/{PICTURE})",
    ]


def _breakdown_lines(root: Path) -> list[str]:
    return [
        "Where the time goes, in seconds per run (async copies and writes under the decode; in "
        "diffusers the copy is a part of the conversion):",
        "",
        markdown_table(breakdown_rows(read_result(root / "results" / MAIN))),
    ]


def _benchmark_lines(root: Path) -> list[str]:
    return [
        "Geometric means of the ratios of pairs, with their 95 % intervals; "
        "† some runs had a throttle reason set, which the record names.",
        "",
        markdown_table([_row(folder) for folder in recorded_folders(root)]),
        "",
        "Up to commit ef89707 the diffusers path converted on the host, which is slower than what "
        "pipelines do; its ratios of those commits are not comparable with later ones.",
    ]


def _profile_lines(root: Path) -> list[str]:
    """The recorded profile: utilization by window, stalls by cause, its pictures."""
    result = read_profile(root / "results" / PROFILE)
    analyses = {mode: one.analysis for mode, one in result.modes.items()}
    wanted = (
        "path", "window", "length s", "busy s", "kernel utilization %", "copy hidden %",
        "stalls explained %",
    )  # fmt: skip
    windows = [{name: row[name] for name in wanted} for row in window_rows(analyses)]
    costs = ("path", "timed s", "n", "profiled s", "profiler cost %", "sampled / plain")
    found = sorted(path.parent.name for path in (root / "results").glob("2*/profile.json"))
    others = ", ".join(f"[{name}]({name})" for name in found if name != PROFILE)
    return [
        "Profiled (preset aws in float16, one H200; sampled / plain: what NVML sampling costs):",
        "",
        markdown_table([{name: row[name] for name in costs} for row in mode_rows(result)]),
        "",
        markdown_table(windows),
        "",
        "Where window `run` went:",
        "",
        markdown_table(stall_rows(analyses, "run")),
        "",
        f"![Sync over async, stalls shaded by cause]({PROFILE}/timeline.png)",
        f"![Where the milliseconds went from sync to async]({PROFILE}/waterfall.png)",
        "",
        f"All of it, with traces for Perfetto: [{PROFILE}]({PROFILE}). Other profiles: {others}.",
    ]


def _money_lines() -> list[str]:
    """The published example of money, from the published latencies and price."""
    above, below = published_lines()
    return [above, "", markdown_table(published_rows()), "", below]


def _sweep_lines(root: Path) -> list[str]:
    """Recorded sweeps: a row each, and the pictures of the one that README shows."""
    sweeps = [read_sweep(path.parent) for path in sorted((root / "results").glob("2*/sweep.json"))]
    if not sweeps:
        return []
    return [
        "Mean latency predicted from the cells of the fit, then measured (absolute error, "
        "cells of the fit left out):",
        "",
        markdown_table([_sweep_row(sweep) for sweep in sweeps]),
        "",
        f"![Predicted against measured latency]({SWEEP}/scatter.png)",
        f"![Latency by chunk size, slots and sink speed]({SWEEP}/heatmap.png)",
        "",
    ]


def _sweep_row(sweep: Sweep) -> dict[str, str]:
    work, made, errors = sweep.plan.workload, sweep.plan.provenance, sweep.errors()
    median, worst, where = median_and_worst(errors)
    return {
        "sweep": f"[{sweep.plan.label}]({sweep.folder.name})",
        "device": made.device.removeprefix("NVIDIA "),
        "torch threads": str(made.torch_threads),
        "what": f"{work.decoder}, {work.dtype}, {work.frames} frames of {work.height}x{work.width}",
        "runs a cell": str(sweep.plan.runs),
        "fitted from": str(len(sweep.plan.fit_cells)),
        "predicted": str(len(errors)),
        "median error %": f"{median:.2f}",
        **{f"{mode} %": _median(errors, mode) for mode in ("sync", "async")},
        "worst %": f"{worst:.2f}",
        "where": where.words,
    }


def _median(errors: dict[Cell, float], mode: str) -> str:
    mine = {cell: error for cell, error in errors.items() if cell.mode == mode}
    return f"{median_and_worst(mine)[0]:.2f}" if mine else "-"


def _control_lines(root: Path) -> list[str]:
    """Recorded controls of the comparison, a row each."""
    files = sorted((root / "results").glob("2*/aa.json"))
    if not files:
        return []
    rows = []
    for file in files:
        control = read_control(file)
        latency, plan = control.metrics["latency_s"], control.plan
        low, high = latency.planted.low, latency.planted.high
        assert low is not None and high is not None  # a control has rounds enough
        rows.append(
            {
                "control": f"[{control.label}]({file.parent.name})",
                "device": control.provenance.device.removeprefix("NVIDIA "),
                "path": plan.mode,
                "rounds": str(plan.rounds),
                "spread %": f"{spread_percent(latency.arms['a']):.2f}",
                "false calls": share_words(latency.false_calls["paired"]),
                "planted %": f"{plan.plant_percent:g}",
                "measured %": f"{100 * (latency.planted.value - 1):.2f} "
                f"[{100 * (low - 1):.2f}, {100 * (high - 1):.2f}]",
                "found": share_words(latency.found["paired"]),
            }
        )
    return [
        "Whether `vdkit compare` is to be trusted: a setting against itself, and against itself "
        f"with work planted ({plan.pairs} pairs a draw, latency, Wilson 95 % intervals):",
        "",
        markdown_table(rows),
        "",
    ]


def recorded_folders(root: Path) -> list[Path]:
    """The folders of recorded benchmarks, in order of time."""
    return sorted(path.parent for path in (root / "results").glob("2*/result.json"))


def _row(folder: Path) -> dict[str, str]:
    result = read_result(folder)
    work, latency = result.workload, result.modes["async"].latency_s
    hidden = _ratio(result, "sync", "async")
    throttled = any(mode.throttled_runs for mode in result.modes.values())
    return {
        "run": f"[{result.label}]({folder.name})" + ("†" if throttled else ""),
        "commit": (result.provenance.git_commit or "unknown")[:7],
        "n": str(len(result.timed("async"))),
        "device": result.provenance.device.removeprefix("NVIDIA "),
        "dtype": work.dtype,
        "size": f"{work.height}x{work.width}",
        "frames": str(work.frames),
        "chunk": str(result.config.chunk_size),
        "sink": ", ".join(filter(None, (result.sink.kind, result.sink.storage))),
        "async s": shown(latency.mean, mean_decimals(latency)),
        "VRAM GB": f"{(result.modes['async'].vram_peak_bytes or 0) / 1e9:.3f}",
        "pinned MB": f"{result.modes['async'].pinned_bytes / 1e6:.1f}",
        "async / compute": ratio_words(_ratio(result, "async", "compute")),
        "sync / async": ratio_words(hidden),
        "the same, fastest runs": fastest_words(result, hidden),
        "diffusers / async": ratio_words(_ratio(result, "diffusers", "async")),
    }


def _ratio(result: BenchmarkResult, over: str, under: str) -> Ratio | None:
    if over not in result.modes or under not in result.modes:
        return None
    return paired_ratio(result.latencies(over), result.latencies(under))
