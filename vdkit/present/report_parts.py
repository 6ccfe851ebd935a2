"""Parts of a report that several kinds of record share. matplotlib, no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vdkit.predict.fit import fit_costs
from vdkit.predict.recurrence import predict, video_info
from vdkit.present.money_cells import money_legend, price_line
from vdkit.present.profile_charts import plot_latencies
from vdkit.present.report_html import box, facts, heading, picture, pre, prose, section, table
from vdkit.present.tables import (
    NAMES,
    benchmark_rows,
    breakdown_rows,
    caption,
    legend,
    noise_note,
)
from vdkit.present.timeline import plot_timeline, steady_window
from vdkit.record.money import mean_energy_j
from vdkit.record.old_variants import variant_file

if TYPE_CHECKING:
    from vdkit.record.old_profile import ProfileResult
    from vdkit.record.old_variants import Comparison
    from vdkit.record.recording import BenchmarkResult

CHUNKS = 4
"""Consecutive chunks in a picture of the steady window."""


@dataclass(frozen=True, slots=True)
class Source:
    """A record as it was read.

    Attributes:
        record: of bench or demo, profile, or variants.
        home: the folder with what was written beside it.
        name: of the folder or file, to show.
        sha256: of the record's file.
    """

    record: BenchmarkResult | ProfileResult | Comparison
    home: Path
    name: str
    sha256: str


def benchmark_parts(result: BenchmarkResult, usd_per_hour: float | None, energy: bool) -> str:
    """Caption, table, where the time goes, and what the columns mean."""
    measured = [
        (result.provenance.device, mean_energy_j(result.timed(name)), mode.latency_s.mean)
        for name, mode in result.modes.items()
    ]
    unlike = "The modes gave different frames." if result.frames_identical is False else ""
    below = [legend(result), money_legend(measured, usd_per_hour, energy, result.baseline)]
    return "\n".join(
        [
            box(unlike),
            box(noise_note(result)),
            prose("\n".join(x for x in (caption(result), price_line(usd_per_hour)) if x), "note"),
            table(benchmark_rows(result, usd_per_hour, energy), "Latency, memory and ratio"),
            prose("\n".join(line for line in below if line), "note"),
            table(breakdown_rows(result), "Where the time goes, seconds per run"),
            prose(
                "Summed over chunks, mean of the timed runs. Gaps: the compute stream idle between "
                "the first decode and the last; the other columns overlap it, or each other, where "
                "a mode overlaps them.",
                "note",
            ),
        ]
    )


def timeline_parts(result: BenchmarkResult, who: str = "", dots: bool = True) -> str:
    """Sync over async in the steady window, and (``dots``) the latency of every timed run."""
    drawn = {mode: result.typical(mode) for mode in result.modes}
    runs = {mode: run for mode, run in drawn.items() if mode in ("sync", "async")} or drawn
    runs = {mode: run for mode, run in runs.items() if run.chunks}
    parts = []
    if runs:
        middle = runs.get("async") or next(iter(runs.values()))
        whole = len(middle.chunks) < CHUNKS + 2
        window = None if whole else steady_window(middle, CHUNKS)
        what = "Whole runs" if whole else f"{CHUNKS} chunks from the middle"
        alt = f"Timeline of {' over '.join(runs)}{who}, a lane for each step"
        words = (
            f"{what} of {' above '.join(NAMES[mode] for mode in runs)}{who}, on one time axis: of "
            "each mode the timed run nearest to its median. A bar is a chunk, with its number; "
            "where the lane of compute is empty the decoder waits."
        )
        parts.append(picture(plot_timeline(runs, window), alt, words))
    if dots:
        dotted = plot_latencies({mode: result.latencies(mode) for mode in result.modes})
        alt = f"Latency of every timed run{who}, by mode"
        parts.append(picture(dotted, alt, f"Every timed run{who}."))
    return "\n".join(parts)


def prediction_section(results: Sequence[BenchmarkResult]) -> str:
    """Latency from the costs of each step beside the measured one, or why there is none."""
    rows, missing = [], []
    for result in results:
        who = f"{result.workload.variant}, " if len(results) > 1 else ""
        try:
            if not all(run.chunks for run in result.runs):
                raise ValueError("its runs hold no chunks")
            costs, work = fit_costs(result), result.workload
        except ValueError as error:
            missing.append(f"{who}not predicted: {error}.")
            continue
        factor = (work.frames - 1) // (work.latent_frames - 1) if work.latent_frames > 1 else 4
        for mode, one in result.modes.items():
            try:
                made = predict(
                    costs, video_info(result), result.config, mode, temporal_factor=factor
                )
            except ValueError as error:
                missing.append(f"{who}{NAMES[mode]} not predicted: {error}.")
                continue
            measured_s = one.latency_s.mean
            error_percent = 100 * (made.run.latency_s / measured_s - 1)
            rows.append(
                ({"variant": work.variant} if len(results) > 1 else {})
                | {
                    "mode": NAMES[mode],
                    "predicted s": f"{made.run.latency_s:.3f}",
                    "measured s": f"{measured_s:.3f}",
                    "error %": f"{error_percent:+.2f}",
                }
            )
    words = (
        "The pipeline model puts the mean cost of each step of a chunk together again. The costs "
        "are fitted to these very runs: a small error says that the steps explain the latency, a "
        "large one that something else takes time. Neither says how well another setting would be "
        "predicted, which vdkit sweep tests."
    )
    told = "\n".join(f"- {line}" for line in missing)
    return section(
        "predicted",
        "Predicted against measured",
        table(rows),
        prose(words if rows else "", "note"),
        prose(told, "note"),
    )


def no_prediction() -> str:
    """The same part of a profile."""
    return section(
        "predicted",
        "Predicted against measured",
        prose(
            "Left out: costs are fitted to a recorded benchmark, and this is a profile. A report "
            "of a run of vdkit bench has them."
        ),
    )


def provenance_section(
    results: Sequence[BenchmarkResult | ProfileResult],
    sources: Sequence[Source],
    own: Sequence[dict[str, str]] = (),
) -> str:
    """Code, machine, versions and hashes; a column for each of two records.

    ``own``: of each record, instead of what its modes say.
    """
    own = own or [_mode_facts(result) for result in results]
    columns = [
        _facts(result) | more | {"record": source.name, "SHA-256 of the record": source.sha256}
        for result, source, more in zip(results, sources, own, strict=True)
    ]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, *(column.get(name, "-") for column in columns)) for name in names]
    heads = ("", "A", "B") if len(columns) > 1 else ()
    note = "Rows that differ are shaded." if len(columns) > 1 else ""
    return section("provenance", "Provenance", facts(rows, heads), prose(note, "note"))


def _facts(result: BenchmarkResult | ProfileResult) -> dict[str, str]:
    made, work = result.provenance, result.workload
    dirty = " with uncommitted changes" if made.git_dirty else ""
    found: dict[str, object] = {
        "label": result.label,
        "recorded": made.created_utc,
        "commit": f"{made.git_commit or 'unknown'}{dirty}",
        "vdkit": made.vdkit,
        "device": made.device,
        "GPU UUID": made.device_uuid,
        "GPU memory": None if made.vram_bytes is None else f"{made.vram_bytes / 1e9:.1f} GB",
        "compute capability": made.compute_capability,
        "driver": made.driver,
        "CUDA": made.cuda,
        "cuDNN": made.cudnn,
        "processor": f"{made.cpu}, {made.host_cores} cores"
        + (f", torch on {made.torch_threads}" if made.torch_threads else ""),
        "system": f"{made.os}, Python {made.python}",
        "packages": ", ".join(f"{name} {version}" for name, version in made.packages.items()),
        "malloc": made.malloc,
        "decoder": f"{work.decoder}, from {work.source}, variant {work.variant}, {work.dtype}",
        "weights, SHA-256": work.weights_sha256,
        "latents": f"{work.latents}, seed {work.seed}",
        "latents, SHA-256": work.latents_sha256,
        "notes": "; ".join(work.notes) or None,
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _mode_facts(result: BenchmarkResult | ProfileResult) -> dict[str, str]:
    """Hashes of the frames of each mode, and the set-up, where they are recorded."""
    found = {}
    for name, mode in result.modes.items():
        if (sha256 := getattr(mode, "frame_sha256", None)) is not None:
            found[f"frames of {name}, SHA-256"] = sha256
    setup_s = getattr(result, "setup_s", None)
    return found | ({} if setup_s is None else {"set-up": f"{setup_s:.1f} s"})


def variant_facts(made: Comparison, home: Path) -> dict[str, str]:
    """What the provenance of several variants says of each; their files are in ``home``."""
    load = made.baseline.workload
    found = {
        "label": made.index.label,
        "recorded": made.index.provenance.created_utc,
        "decoder": f"{load.decoder}, from {load.source}, {load.dtype}",
        "variants": ", ".join(made.results),
    }
    for name, result in made.results.items():
        hashes: dict[str, list[str]] = {}
        for mode, one in result.modes.items():
            if one.frame_sha256 is not None:
                hashes.setdefault(one.frame_sha256, []).append(mode)
        if told := "; ".join(f"{sha} ({', '.join(modes)})" for sha, modes in hashes.items()):
            found[f"frames of {name}, SHA-256"] = told
    for name in made.results:
        file = home / variant_file(name)
        found[f"SHA-256 of {file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def command_section(commands: Sequence[tuple[str, str | None, str | None]]) -> str:
    """How to run it again: (heading, recorded command line, commit) of each record."""
    parts = []
    for head, command, commit in commands:
        if command is None:
            parts.append(
                heading(head) + prose("No command line is recorded: it was run from Python.")
            )
            continue
        at = f"git checkout {commit}\n" if commit else ""
        parts += [heading(head), pre(at + command)]
    return section("reproduce", "How to reproduce", *parts)
