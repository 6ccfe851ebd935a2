"""README's figures come from recorded runs: ``make readme`` writes them, a test compares them.

README has a short block; all tables are on the page `tools.readme`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vdkit.predict.grid import Cell, Sweep, median_and_worst, read_sweep
from vdkit.present.control_report import share_words, spread_percent
from vdkit.present.digits import mean_decimals, mean_words, ratio_decimals, ratio_words, shown
from vdkit.present.money_cells import published_lines, published_rows
from vdkit.present.profile_tables import mode_rows, stall_rows, window_rows
from vdkit.present.table import markdown_table
from vdkit.present.tables import benchmark_rows, breakdown_rows, caption, legend
from vdkit.present.timeline import plot_timeline, steady_window
from vdkit.record.money import mean_energy_j
from vdkit.record.old_aa import read_control
from vdkit.record.old_profile import read_profile
from vdkit.record.old_variants import (
    Comparison,
    alone_bytes,
    latent_frame_ms,
    read_variants,
)
from vdkit.record.recording import Recording, read_recording
from vdkit.record.stats import Ratio, paired_ratio
from vdkit.record.store import write_atomically

BEGIN = "<!-- recorded: written by `make readme` -->"
END = "<!-- end of recorded -->"
PAGE = "results/README.md"


def recorded_block(root: Path) -> str:
    """The generated part of README, from ``root/results``."""
    result = read_recording(root / "results" / MAIN)
    overlap = paired_ratio(result.arms["sync"].latencies, result.arms["async"].latencies)
    return "\n".join(
        [
            BEGIN,
            *main_lines(root, "results/"),
            "",
            f"Between the fastest runs sync / async is {fastest_words(result, overlap)}: in sync "
            "some conversions on the host stall, and async has none.",
            "",
            *fast_lines(root, "results/"),
            "",
            f"All recorded tables and pictures: [{PAGE}]({PAGE}).",
            END,
        ]
    )


def with_block(readme: str, block: str) -> str:
    """README with its generated part replaced; ValueError unless each marker is there once."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"README needs the markers {BEGIN!r} and {END!r}, once each")
    before, rest = readme.split(BEGIN)
    return before + block + rest.split(END)[1]


def main(path: Path) -> None:
    """Rewrite ``path`` and the page of results, and draw the picture beside the recorded run."""
    root = path.resolve().parent
    write_atomically(path, with_block(path.read_text(), recorded_block(root)))
    write_atomically(root / PAGE, recorded_page(root))
    result = read_recording(root / "results" / MAIN)
    runs = {
        mode: min(result.arms[mode].timed, key=lambda run: run.latency_s)
        for mode in ("sync", "async")
    }
    work = result.workload
    figure = plot_timeline(
        runs,
        steady_window(runs["async"], 4),
        title=f"Fastest runs on {result.provenance.device}: {work.decoder} in {work.dtype}, "
        f"{work.height}x{work.width}, middle of the run",
    )
    figure.savefig(root / "results" / MAIN / PICTURE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))


VARIANTS = "20261121T151751Z_nvidia-h200_90fbdee_variants-480p-float16"
"""The run of several variants whose pictures are shown."""

FAST_PROFILE = "20261121T151948Z_nvidia-h200_90fbdee_fast-profile"
"""The profile of the fast decoder."""


def variant_lines(root: Path) -> list[str]:
    """Recorded variants: a row each, the kernels that go away, and the steps that led there."""
    files = sorted((root / "results").glob("2*/variants.json"))
    made = {path.parent.name: read_variants(path) for path in files}
    several = {name: one for name, one in made.items() if len(one.index.variants) > 1}
    steps = {name: one for name, one in made.items() if name not in several}
    if not several:
        return []
    return [
        "One interleaved run for each size and dtype (preset aws; "
        "those of commit 90fbdee at the same time on four GPUs of one host, 16 cores each; every "
        "mode once untimed, then timed). ms per latent frame: steady state, compute only, as is "
        "diffusers / variant, with 95 % intervals, which under n = 5 are no more than the spread. "
        "Whole video: mode diffusers of variant diffusers. † some runs had a throttle reason set: "
        "the power cap, which the SM clock after a run shows. J: energy of a video, mode async. "
        "In sync single conversions on the host stall for up to 0.2 s; the fastest runs have the "
        "fewest of them.",
        "",
        markdown_table([row for name, one in several.items() for row in _summary_rows(one, name)]),
        "",
        f"![Kernels by family, milliseconds per latent frame]({VARIANTS}/families.png)",
        f"![Sync and async on the fast decoder]({VARIANTS}/timeline_fast.png)",
        "",
        "With `fast` a convolution's kernel is also norm, SiLU, the way around and what leads to "
        "the next size. What a bar lacks to the table's milliseconds is no kernel's: the table is "
        "timed, the bar profiled.",
        "",
        "Steps on the way to it (480x832, float16; each folder has its kernel families and "
        "timeline, [LOG.md](LOG.md) what was expected):",
        "",
        markdown_table([_step_row(one, name) for name, one in steps.items()]),
        "",
        "Kernel utilization with it, profiled, window `steady`: "
        f"{_utilization(root / 'results' / FAST_PROFILE)} "
        f"([{FAST_PROFILE}]({FAST_PROFILE})).",
        "",
    ]


def fast_lines(root: Path, where: str) -> list[str]:
    """What the fast decoder gains, in a sentence, and its kernels as a picture.

    Args:
        root: of the repository.
        where: what leads from the page to ``results``: empty, or a path that ends in ``/``.
    """
    made = read_variants(root / "results" / VARIANTS)
    base, work = made.index.baseline, made.baseline.workload
    faster = ratio_words(made.ratio((base, "compute"), ("fast", "compute")))
    hidden = {
        name: ratio_words(made.ratio((name, "sync"), (name, "async"))) for name in (base, "fast")
    }
    return [
        f"The same decoder, {work.height}x{work.width} in {work.dtype}, as variant `fast` takes "
        f"{_milliseconds(made, 'fast')} ms per latent frame instead of {_milliseconds(made, base)}"
        f" (steady chunks, compute only); of whole runs {base} / fast is {faster}. With it sync / "
        f"async is {hidden['fast']}, in that run {hidden[base]} without it "
        f"(n = {len(made.baseline.arms['compute'].timed)}; under n = 5 an "
        "interval is no more than the spread).",
        "",
        f"![Kernels by family, milliseconds per latent frame]({where}{VARIANTS}/families.png)",
    ]


def _utilization(folder: Path) -> str:
    analyses = {mode: one.analysis for mode, one in read_profile(folder).modes.items()}
    return ", ".join(
        f"{row['path']} {row['kernel utilization %']} %"
        for row in window_rows(analyses)
        if row["window"] == "steady"
    )


def _summary_rows(made: Comparison, folder: str) -> list[dict[str, str]]:
    """A recorded run of several variants, a row each; ratios are of mode compute."""
    rows = []
    for name, result in made.results.items():
        work, runs = result.workload, result.arms["compute_only"].timed
        clocks = [run.gpu_after.sm_clock_mhz or 0 for run in runs if run.gpu_after is not None]
        energy = mean_energy_j(result.arms["async"].timed)
        overlap = made.ratio((name, "sync"), (name, "async"))
        whole = made.ratio(("diffusers", "diffusers"), (name, "async"))
        over = made.ratio((made.index.baseline, "compute"), (name, "compute"))
        rows.append(
            {
                "run": f"[{work.height}x{work.width}, {work.dtype}]({folder})",
                "variant": name + ("†" if any(run.throttled for run in runs) else ""),
                "n": str(len(runs)),
                "ms per latent frame": _milliseconds(made, name),
                "diffusers / variant": ratio_words(over) if name != made.index.baseline else "1",
                "sync / async": ratio_words(overlap),
                "the same, fastest": fastest_words(result, overlap),
                "whole video / async": ratio_words(whole),
                "VRAM GB": f"{(alone_bytes(result, 'async') or 0) / 1e9:.2f}",
                "set-up s": f"{result.setup_s or 0:.1f}",
                "SM MHz": f"{sum(clocks) / len(clocks):.0f}" if clocks else "-",
                "J": "-" if energy is None else f"{energy:.0f}",
            }
        )
    return rows


def fastest_words(result: Recording, overlap: Ratio | None) -> str:
    """Sync over async of the fastest runs, to the place of the ratio of means ``overlap``."""
    if overlap is None:
        return "-"
    sync, overlapped = (min(result.arms[mode].latencies) for mode in ("sync", "async"))
    return shown(sync / overlapped, ratio_decimals(overlap))


def _step_row(made: Comparison, folder: str) -> dict[str, str]:
    """A recorded run of one variant in one row."""
    (name,) = made.index.variants
    return {
        "run": f"[{made.index.label}]({folder})",
        "commit": (made.index.provenance.git_commit or "unknown")[:7],
        "ms per latent frame": _milliseconds(made, name),
        "peak VRAM GB": f"{(alone_bytes(made.baseline, 'compute') or 0) / 1e9:.2f}",
    }


def _milliseconds(made: Comparison, variant: str) -> str:
    values = latent_frame_ms(made.results[variant])
    return mean_words(values) if values else "-"


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
    result = read_recording(root / "results" / MAIN)
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
        markdown_table(breakdown_rows(read_recording(root / "results" / MAIN))),
    ]


def _benchmark_lines(root: Path) -> list[str]:
    return [
        "Ratios of means with their 95 % intervals, which under n = 5 are no more than the spread; "
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
    analyses = {mode: one.analysis for mode, one in result.arms.items()}
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
    result = read_recording(folder)
    work, latency = result.workload, result.arms["async"].latency
    hidden = _ratio(result, "sync", "async")
    throttled = any(mode.throttled_runs for mode in result.arms.values())
    return {
        "run": f"[{result.label}]({folder.name})" + ("†" if throttled else ""),
        "commit": (result.provenance.git_commit or "unknown")[:7],
        "n": str(len(result.arms["async"].timed)),
        "device": result.provenance.device.removeprefix("NVIDIA "),
        "dtype": work.dtype,
        "size": f"{work.height}x{work.width}",
        "frames": str(work.frames),
        "chunk": str(result.config.chunk_size),
        "sink": ", ".join(filter(None, (result.sink.kind, result.sink.storage))),
        "async s": shown(latency.mean, mean_decimals(latency)),
        "VRAM GB": f"{(result.arms['async'].vram_peak_bytes or 0) / 1e9:.3f}",
        "pinned MB": f"{result.arms['async'].pinned_bytes / 1e6:.1f}",
        "async / compute": ratio_words(_ratio(result, "async", "compute")),
        "sync / async": ratio_words(hidden),
        "the same, fastest runs": fastest_words(result, hidden),
        "diffusers / async": ratio_words(_ratio(result, "diffusers", "async")),
    }


def _ratio(result: Recording, over: str, under: str) -> Ratio | None:
    if over not in result.arms or under not in result.arms:
        return None
    return paired_ratio(result.arms[over].latencies, result.arms[under].latencies)
