"""Tables for people: a recorded benchmark as Markdown and CSV. No torch, no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vdkit.decode.chunks import PRIMITIVES
from vdkit.measure.money import mean_energy_j
from vdkit.measure.records import comparable
from vdkit.present.digits import (
    DIGITS_LEGEND,
    decimals_for,
    mean_decimals,
    mean_words,
    ratio_words,
    shown,
)
from vdkit.present.money_cells import money_cells, money_legend, price_line
from vdkit.present.table import Table, markdown_table

if TYPE_CHECKING:
    import pandas as pd

    from vdkit.measure.ablation_records import Ablation
    from vdkit.measure.control_records import ControlResult
    from vdkit.measure.profile_records import ProfileResult
    from vdkit.measure.records import BenchmarkResult, Run, SinkInfo, Workload
    from vdkit.measure.sweep_records import SweepPlan

NAMES = {
    "diffusers": "diffusers (whole video)",
    "sync": "sync (chunked)",
    "async": "async (chunked)",
    "compute": "compute only (floor)",
}
"""What tables and plots call the modes."""


def benchmark_rows(
    result: BenchmarkResult, usd_per_hour: float | None = None, energy: bool = False
) -> list[dict[str, str]]:
    """One row per mode, every cell ready to show; with money and energy if asked (`money_cells`).

    Raises:
        ValueError: ``usd_per_hour`` is not finite and above 0.
    """
    rows = []
    baseline_s = result.modes[result.baseline].latency_s.mean
    for name, mode in result.modes.items():
        latency, ttff = mode.latency_s, mode.ttff_s
        few = "†" if latency.n < 100 else ""
        last = mean_decimals(latency)
        row = {
            "mode": NAMES[name],
            "mean s": shown(latency.mean, last),
            "median s": shown(latency.median, last),
            f"P99 s{few}": shown(latency.p99, last),
            "min s": shown(latency.min, last),
            "max s": shown(latency.max, last),
            "std s": shown(latency.std, decimals_for(latency.std)) if latency.n > 1 else "-",
            "n": str(latency.n),
            "TTFF s": shown(ttff.mean, mean_decimals(ttff)) if ttff else "-",
            "RTF": shown(mode.rtf, mean_decimals(latency, 1 / result.workload.seconds)),
            f"{result.baseline} / mode": ratio_words(mode.speedup) if mode.speedup else "1",
            "D2H MB": f"{mode.d2h_bytes / 1e6:.1f}",
            "pinned MB": f"{mode.pinned_bytes / 1e6:.1f}",
        }
        if mode.vram_peak_bytes is not None:
            row["peak VRAM GB"] = f"{mode.vram_peak_bytes / 1e9:.2f}"
        if any(other.throttled_runs for other in result.modes.values()):
            row["throttled"] = f"{mode.throttled_runs} of {latency.n}"
        row |= money_cells(
            latency.mean,
            None if name == result.baseline else baseline_s,
            result.workload.seconds,
            mean_energy_j(result.timed(name)),
            usd_per_hour,
            energy,
        )
        rows.append(row)
    return rows


def caption(result: BenchmarkResult) -> str:
    """What was measured and where, in three lines or so."""
    first = result.timed(next(iter(result.modes)))[0]
    clocks = ""
    if first.gpu_after is not None and first.gpu_after.sm_clock_mhz is not None:
        clocks = f", SM clock {first.gpu_after.sm_clock_mhz:.0f} MHz after the first run"
    return setting(result, clocks) + "\n" + _frames_line(result)


def setting(
    result: BenchmarkResult | ProfileResult | SweepPlan | ControlResult, clocks: str = ""
) -> str:
    """Workload, configuration, sink and machine of a record, in two lines."""
    work, config, where = result.workload, result.config, result.provenance
    off = [words for name, words in PRIMITIVES.items() if not getattr(config, name)]
    limited = where.torch_threads not in (None, where.host_cores)
    threads = f" (torch on {where.torch_threads})" if limited else ""
    return (
        f"{decoder_words(work)} in {work.dtype}, {work.frames} frames ({work.latent_frames} "
        f"latent) of {work.height}x{work.width} at {work.fps:g} fps = {work.seconds:.2f} s of "
        f"video. Chunk {config.chunk_size}, {config.slots} slots"
        + (f", without {', '.join(off)}" if off else "")
        + f"; sink: {sink_words(result.sink)}."
        + "".join(f" Note: {note}." for note in work.notes)
        + "\n"
        f"Device: {where.device}{clocks}; torch {where.packages.get('torch', '?')}"
        + (f", CUDA {where.cuda}, cuDNN {where.cudnn}, driver {where.driver}" if where.cuda else "")
        + f"; {where.host_cores} host cores{threads}; {where.created_utc}; commit "
        + f"{(where.git_commit or 'unknown')[:7]}{' (dirty)' if where.git_dirty else ''}."
    )


def decoder_words(work: Workload) -> str:
    """The decoder's name, and its variant unless it is diffusers as it is."""
    return work.decoder + (f" ({work.variant})" if work.variant != "diffusers" else "")


def sink_words(sink: SinkInfo) -> str:
    """Where frames went: kind, file system, and what slows it down."""
    return (
        sink.kind
        + (f" on {sink.storage}" if sink.storage else "")
        + (", fsynced" if sink.durable else "")
        + (f", held to {sink.throttle_mb_per_s:g} MB/s" if sink.throttle_mb_per_s else "")
    )


def what_and_where(result: BenchmarkResult | ProfileResult | SweepPlan | Ablation) -> str:
    """Decoder, dtype, size and device, for a title."""
    work = result.workload
    return (
        f"{decoder_words(work)} in {work.dtype}, {work.frames} frames of "
        f"{work.height}x{work.width}, {result.provenance.device}"
    )


def _frames_line(result: BenchmarkResult) -> str:
    delivered = [name for name, mode in result.modes.items() if mode.frame_sha256]
    compared = [
        name
        for name in delivered
        if comparable(name, result.modes[name].frame_sha256, result.config)
    ]
    left_out = [name for name in delivered if name not in compared]
    note = f" Not compared at chunk sizes above 1: {', '.join(left_out)}." if left_out else ""
    if result.frames_identical is None:
        return "Frames were not compared: that takes two modes that deliver them." + note
    verdict = "identical, byte for byte" if result.frames_identical else "NOT IDENTICAL"
    return f"Frames of {', '.join(compared)}: {verdict}.{note}"


def breakdown_rows(result: BenchmarkResult) -> list[dict[str, str]]:
    """Where each mode's time goes: seconds per run summed over chunks, mean of the timed runs.

    ``gaps`` is the compute stream idle between the first decode and the last; the other columns
    overlap it, or each other, where a mode overlaps them.
    """
    rows = []
    for name in result.modes:
        runs = result.timed(name)
        row = {"mode": NAMES[name]}
        for column, step in (
            ("decode", "decode"),
            ("copy", "copy"),
            ("convert on host", "convert"),
            ("write", "write"),
        ):
            spans = [_total(run, step) for run in runs]
            taken = [span for span in spans if span is not None]
            row[f"{column} s"] = mean_words(taken) if taken else "-"
        row["open + close s"] = mean_words(
            [(r.sink_open_s or 0) + (r.sink_close_s or 0) for r in runs]
        )
        row["gaps s"] = mean_words([_gaps(run) for run in runs])
        rows.append(row)
    return rows


def breakdown_table(result: BenchmarkResult) -> Table:
    """`breakdown_rows` in every form."""
    return Table(breakdown_rows(result), "Where the time goes, seconds per run")


def _total(run: Run, step: str) -> float | None:
    """Seconds of one step in a run; None if the mode has no such step."""
    spans = [(getattr(c, f"{step}_start_s"), getattr(c, f"{step}_done_s")) for c in run.chunks]
    taken = [done - start for start, done in spans if start is not None and done is not None]
    return sum(taken) if taken else None


def _gaps(run: Run) -> float:
    starts = [chunk.decode_start_s or 0.0 for chunk in run.chunks]
    ends = [chunk.decode_done_s or 0.0 for chunk in run.chunks]
    return sum(max(0.0, start - end) for start, end in zip(starts[1:], ends, strict=False))


def legend(result: BenchmarkResult) -> str:
    """What the columns mean."""
    few = next(iter(result.modes.values())).latency_s.n < 100
    slowed = any(mode.throttled_runs for mode in result.modes.values())
    return (
        "Latency: wall clock from the call until the sink was closed (compute only: until the "
        f"device was done). RTF: mean latency / {result.workload.seconds:.2f} s. TTFF: until the "
        "sink had the first frame, mean. Speed-up: geometric mean of the ratios of interleaved "
        "pairs with its 95 % interval (Student's t on log ratios; where one run in ten of one side "
        f"stalls to twice its time, ten pairs cover only 65 %). {DIGITS_LEGEND}"
        + (" † n < 100: read P99 as the maximum." if few else "")
        + (" Throttled: the GPU named a reason for a lower clock." if slowed else "")
    )


def noise_note(result: BenchmarkResult) -> str:
    """A warning if the machine was too busy for the table to mean much, else nothing."""
    shaky = [name for name, m in result.modes.items() if m.latency_s.max > 1.5 * m.latency_s.min]
    if not shaky:
        return ""
    return (
        f"Note: runs of {', '.join(shaky)} differ by more than half; something else was using this "
        "machine, so these ratios say little."
    )


def benchmark_table(
    result: BenchmarkResult, usd_per_hour: float | None = None, energy: bool = False
) -> Table:
    """`benchmark_rows` with caption and legend: a row per mode, in every form.

    Raises:
        ValueError: ``usd_per_hour`` is not finite and above 0.
    """
    above, below = _around(result, usd_per_hour, energy)
    return Table(benchmark_rows(result, usd_per_hour, energy), above, below)


def _around(result: BenchmarkResult, usd_per_hour: float | None, energy: bool) -> tuple[str, str]:
    """What stands above the table and below it."""
    device = result.provenance.device
    measured = [
        (device, mean_energy_j(result.timed(name)), mode.latency_s.mean)
        for name, mode in result.modes.items()
    ]
    above = [caption(result), price_line(usd_per_hour)]
    below = [
        legend(result),
        money_legend(measured, usd_per_hour, energy, result.baseline),
        noise_note(result),
    ]
    return "\n".join(filter(None, above)), "\n\n".join(filter(None, below))


def text_report(
    result: BenchmarkResult,
    columns: Sequence[str] | None = None,
    usd_per_hour: float | None = None,
    energy: bool = False,
) -> str:
    """Caption, table, legend and, if need be, a warning.

    Args:
        columns: only these; None for all.
        usd_per_hour, energy: as for `benchmark_rows`.
    """
    rows = benchmark_rows(result, usd_per_hour, energy)
    if columns is not None:
        rows = [{name: row[name] for name in columns} for row in rows]
    above, below = _around(result, usd_per_hour, energy)
    return "\n\n".join([above, markdown_table(rows), below])


def markdown_report(
    result: BenchmarkResult,
    heading: str = "#",
    usd_per_hour: float | None = None,
    energy: bool = False,
) -> str:
    """``table.md``: the label as a heading, then `text_report`."""
    text = text_report(result, None, usd_per_hour, energy)
    return f"{heading} {result.label}\n\n{text}\n"


def runs_frame(result: BenchmarkResult) -> pd.DataFrame:
    """One row per run, warm-ups included, in full precision, without the per-chunk records."""
    import pandas as pd

    rows = []
    for run in result.runs:
        row = run.model_dump(mode="json", exclude={"chunks", "gpu_before", "gpu_after"})
        for moment in ("before", "after"):
            reading = getattr(run, f"gpu_{moment}")
            if reading is not None:
                values = reading.model_dump(
                    mode="json", exclude={"unsupported", "throttle_reasons"}
                )
                row |= {f"{name}_{moment}": value for name, value in values.items()}
                row[f"throttle_reasons_{moment}"] = "; ".join(reading.throttle_reasons)
        rows.append(row)
    return pd.DataFrame(rows)
