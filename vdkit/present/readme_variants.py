"""Recorded variants, for README and its page of results: rows, kernels that go away, steps."""

from __future__ import annotations

from pathlib import Path

from vdkit.measure.money import mean_energy_j
from vdkit.measure.profile_records import read_profile
from vdkit.measure.records import BenchmarkResult
from vdkit.measure.stats import Ratio
from vdkit.measure.variant_records import (
    Comparison,
    alone_bytes,
    latent_frame_ms,
    read_variants,
)
from vdkit.present.digits import mean_words, ratio_decimals, ratio_words, shown
from vdkit.present.profile_tables import window_rows
from vdkit.present.table import markdown_table

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
        "diffusers / variant, with 95 % intervals. "
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
        f"(n = {len(made.baseline.timed('compute'))}).",
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
        work, runs = result.workload, result.timed("compute")
        clocks = [run.gpu_after.sm_clock_mhz or 0 for run in runs if run.gpu_after is not None]
        energy = mean_energy_j(result.timed("async"))
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


def fastest_words(result: BenchmarkResult, overlap: Ratio | None) -> str:
    """Sync over async of the fastest runs, to the place where ``overlap`` ends."""
    if overlap is None:
        return "-"
    sync, overlapped = (min(result.latencies(mode)) for mode in ("sync", "async"))
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
