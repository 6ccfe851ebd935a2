"""What is said of a recorded study, as a document: the way in, what kinds share, and a benchmark.

The other kinds lie in `studies` and `profile_document` beside it. No torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vdkit.present.columns import NAMES, NOTHING, Asked, Row, cells, legend
from vdkit.present.document import (
    Document,
    Facts,
    Part,
    Picture,
    Section,
    Text,
    lines,
    section,
)
from vdkit.present.table import Cell, Number, Table, mean_of
from vdkit.present.words import (
    care_words,
    frames_line,
    gain_sentence,
    noise_note,
    read_with_care,
    setting,
    what_and_where,
    what_sentence,
)
from vdkit.record.recording import FILE, Recording
from vdkit.record.upgrade import OLD_FILES, recorded_file

if TYPE_CHECKING:
    from vdkit.record.runs import Run

CHUNKS = 4
"""Consecutive chunks in a picture of the steady window."""
_STEPS = {"decode": "decoding", "copy": "copying", "convert": "converting", "write": "writing"}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a recording was read.

    Attributes:
        home: the folder with what was written beside it; None: it was not read.
        name: of the folder or file, to show.
        sha256: of every file that the recording was read from, by its name.
    """

    home: Path | None = None
    name: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)


def source_of(path: Path) -> Source:
    """Where `vdkit.record.recording.read_recording` reads ``path``; errors as there."""
    file = recorded_file(path)
    home = file.resolve().parent
    whole = path.is_dir() or file.name in (FILE, *OLD_FILES)
    beside = home.glob("result_*.json") if file.name in ("variants.json", "aa.json") else ()
    return Source(
        home,
        f"{home.name}/{file.name}" if whole else file.name,
        {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in (file, *sorted(beside))},
    )


def document_of(
    recording: Recording, asked: Asked = NOTHING, source: Source = Source()
) -> Document:
    """Everything about one recording.

    Args:
        asked: a price, joules.
        source: where it was read, for the page.

    Raises:
        ValueError: the price is not finite and above 0.
    """
    if recording.kind == "profile":
        from vdkit.present.profile_document import profile_document

        return profile_document(recording, asked, source)
    from vdkit.present import studies  # which imports this module

    others = {
        "variants": studies.variants_document,
        "ablation": studies.ablation_document,
        "aa": studies.control_document,
    }
    return others.get(recording.kind, benchmark_document)(recording, asked, source)


# --- a benchmark ---------------------------------------------------------------------------------


def benchmark_rows(recording: Recording) -> list[Row]:
    """A row per arm, against the baseline."""
    return [
        Row(
            {"mode": NAMES.get(name, name)},
            arm,
            None if name == recording.baseline else recording.base,
            device=recording.provenance.device,
        )
        for name, arm in recording.arms.items()
    ]


def benchmark_table(recording: Recording, asked: Asked = NOTHING) -> Table:
    """A row per arm, with caption and legend."""
    rows = benchmark_rows(recording)
    over = f"{recording.baseline} / mode"
    return Table(
        cells("bench", rows, over, asked),
        lines(caption(recording), asked.line),
        lines(legend("bench", rows, recording.baseline, asked)),
    )


def caption(recording: Recording) -> str:
    """What was measured and where, in three lines or so."""
    typical = recording.base.typical()
    reading = typical.gpu_during or typical.gpu_after
    clocks = ""
    if reading is not None and reading.sm_clock_mhz is not None:
        when = "in" if typical.gpu_during else "after"
        clocks = f", SM clock {reading.sm_clock_mhz:.0f} MHz {when} a run of {recording.baseline}"
    return setting(recording, clocks) + "\n" + frames_line(recording)


def breakdown_table(recording: Recording) -> Table:
    """Where each arm's time goes: seconds per run summed over chunks, mean of the timed runs."""
    rows = []
    for name, arm in recording.arms.items():
        row: dict[str, Cell] = {"mode": NAMES.get(name, name)}
        for column, step in (
            ("decode", "decode"),
            ("copy", "copy"),
            ("convert on host", "convert"),
            ("write", "write"),
        ):
            spans = [span for run in arm.timed if (span := _total(run, step)) is not None]
            row[f"{column} s"] = mean_of(spans) if spans else None
        row["open + close s"] = mean_of(
            [(r.sink_open_s or 0) + (r.sink_close_s or 0) for r in arm.timed]
        )
        row["gaps s"] = mean_of([_gaps(run) for run in arm.timed])
        rows.append(row)
    return Table(
        rows,
        "Where the time goes, seconds per run",
        "Summed over chunks, mean of the timed runs. Gaps: the compute stream idle between the "
        "first decode and the last; the other columns overlap it, or each other, where a mode "
        "overlaps them.",
    )


def _total(run: Run, step: str) -> float | None:
    """Seconds of one step in a run; None if the mode has no such step."""
    taken = [span for chunk in run.chunks if (span := chunk.span_s(step)) is not None]
    return sum(taken) if taken else None


def _gaps(run: Run) -> float:
    starts = [chunk.decode_start_s or 0.0 for chunk in run.chunks]
    ends = [chunk.decode_done_s or 0.0 for chunk in run.chunks]
    return sum(max(0.0, start - end) for start, end in zip(starts[1:], ends, strict=False))


def benchmark_document(recording: Recording, asked: Asked, source: Source) -> Document:
    """Decode paths against each other: results, timeline, prediction."""
    return Document(
        recording.label,
        f"Benchmark · {what_and_where(recording)}",
        (
            what_sentence(recording),
            gain_sentence(recording.arms),
            read_with_care(care_words(recording), _limit(recording)),
        ),
        (
            section("results", "Results", *_benchmark_parts(recording, asked)),
            section("timeline", "Timeline", *timeline_parts(recording), page_only=True),
            prediction_section([recording]),
            *ends([recording], [source]),
        ),
    )


def _benchmark_parts(recording: Recording, asked: Asked) -> list[Part]:
    unlike = "The modes gave different frames." if recording.frames_identical is False else ""
    return [
        Text(lines(unlike, noise_note(recording)), "warning"),
        benchmark_table(recording, asked),
        breakdown_table(recording),
    ]


def timeline_parts(recording: Recording, variant: str = "") -> list[Part]:
    """Sync over async in the steady window and, but of a ``variant``, every timed run's latency."""
    from vdkit.present.timeline import plot_latencies, plot_timeline, steady_window

    who = variant and f", variant {variant}"
    drawn = {name: arm.typical() for name, arm in recording.arms.items()}
    runs = {name: run for name, run in drawn.items() if name in ("sync", "async")} or drawn
    runs = {name: run for name, run in runs.items() if run.chunks}
    parts: list[Part] = []
    if runs:
        middle = runs.get("async") or next(iter(runs.values()))
        whole = len(middle.chunks) < CHUNKS + 2
        window = None if whole else steady_window(middle, CHUNKS)
        what = "Whole runs" if whole else f"{CHUNKS} chunks from the middle"
        parts.append(
            Picture(
                partial(plot_timeline, runs, window, recording),
                f"Timeline of {' over '.join(runs)}{who}, a lane for each step",
                f"{what} of {' above '.join(NAMES.get(n, n) for n in runs)}{who}, on one time "
                "axis: of each mode the timed run nearest to its median. A bar is a chunk, with "
                "its number; where the lane of compute is empty the decoder waits.",
                f"timeline_{variant}" if variant else "timeline",
            )
        )
    if not variant:
        latencies = {name: arm.latencies for name, arm in recording.arms.items()}
        parts.append(
            Picture(
                partial(plot_latencies, latencies),
                "Latency of every timed run, by mode",
                "Every timed run.",
                "latency",
            )
        )
    return parts


def prediction_section(recordings: Sequence[Recording]) -> Section:
    """Latency from the costs of each step beside the measured one, or why there is none."""
    from vdkit.predict.fit import fit_costs
    from vdkit.predict.recurrence import predict, video_info

    rows: list[dict[str, Cell]] = []
    missing = []
    for one in recordings:
        work = one.workload
        labels: dict[str, Cell] = {"variant": work.variant} if len(recordings) > 1 else {}
        who = f"{work.variant}, " if labels else ""
        try:
            if not all(run.chunks for arm in one.arms.values() for run in arm.runs):
                raise ValueError("its runs hold no chunks")
            costs = fit_costs(one)
        except ValueError as error:
            missing.append(f"- {who}not predicted: {error}.")
            continue
        factor = (work.frames - 1) // (work.latent_frames - 1) if work.latent_frames > 1 else 4
        for name, arm in one.arms.items():
            shown = NAMES.get(name, name)
            try:
                made = predict(costs, video_info(one), arm.config, arm.mode, temporal_factor=factor)
            except ValueError as error:
                missing.append(f"- {who}{shown} not predicted: {error}.")
                continue
            predicted_s, measured_s = made.run.latency_s, arm.latency.mean
            rows.append(
                labels
                | {
                    "mode": shown,
                    "predicted s": Number(predicted_s, 3),
                    "measured s": Number(measured_s, 3),
                    "error %": Number(100 * (predicted_s / measured_s - 1), 2, sign=True),
                }
            )
    words = (
        "The pipeline model puts the mean cost of each step of a chunk together again. The costs "
        "are fitted to these very runs: a small error says that the steps explain the latency, a "
        "large one that something else takes time. Neither says how well another setting would be "
        "predicted, which vdkit sweep tests."
    )
    table = Table(rows, note=words) if rows else None
    told = Text("\n".join(missing), "note")
    return section("predicted", "Predicted against measured", table, told, page_only=True)


# --- what several kinds share --------------------------------------------------------------------


def results_of(recording: Recording, asked: Asked, side: str, source: Source) -> list[Section]:
    """Results and timeline of one of two recordings, for the page of both."""
    made = document_of(recording, asked, source).sections
    titles = {"results": f"{side}: {recording.label}", "timeline": f"Timeline of {side}"}
    return [
        replace(one, name=f"{one.name}-{side}", title=titles[one.name], page_only=True)
        for one in made
        if one.name in titles
    ]


def ends(recordings: Sequence[Recording], sources: Sequence[Source]) -> tuple[Section, Section]:
    """Provenance and how to reproduce; a column for each of two recordings."""
    columns = []
    for recording, source in zip(recordings, sources, strict=True):
        own = {"record": source.name} if source.name else {}
        own |= {f"SHA-256 of {name}": sha256 for name, sha256 in source.sha256.items()}
        columns.append(_facts(recording) | own)
    names = dict.fromkeys(name for column in columns for name in column)
    pair = len(columns) > 1
    facts = Facts(
        [(name, *(column.get(name, "-") for column in columns)) for name in names],
        ("", "A", "B") if pair else (),
        "Rows that differ are shaded." if pair else "",
    )
    commands: list[Part] = []
    for side, recording in zip(("A", "B") if pair else ("",), recordings, strict=True):
        commit = recording.provenance.git_commit
        commands.append(Text(side, "head"))
        if recording.command is None:
            commands.append(Text("No command line is recorded: it was run from Python."))
        else:
            at = f"git checkout {commit}\n" if commit else ""
            commands.append(Text(at + recording.command, "code"))
    return (
        section("provenance", "Provenance", facts, page_only=True),
        section("reproduce", "How to reproduce", *commands, page_only=True),
    )


def _facts(recording: Recording) -> dict[str, str]:
    made, work = recording.provenance, recording.workload
    dirty = " with uncommitted changes" if made.git_dirty else ""
    found: dict[str, object] = {
        "label": recording.label,
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
    variants = recording.variants if recording.kind == "variants" else []
    for who, one in {v: recording.of_variant(v) for v in variants}.items() or (("", recording),):
        hashes: dict[str, list[str]] = {}
        for name, arm in one.arms.items():
            if arm.frame_sha256 is not None:
                hashes.setdefault(arm.frame_sha256, []).append(name)
        told = "; ".join(f"{sha256} ({', '.join(names)})" for sha256, names in hashes.items())
        found[f"frames{who and ' of '}{who}, SHA-256"] = told or None
    if recording.kind == "bench" and recording.base.setup_s is not None:
        found["set-up"] = f"{recording.base.setup_s:.1f} s"
    return {name: str(value) for name, value in found.items() if value is not None}


def _limit(recording: Recording) -> list[str]:
    """The step that fills an async run, if one does."""
    from vdkit.predict.advise import BOUND

    if "async" not in recording.arms:
        return []
    runs = recording.arms["async"].timed
    total = sum(run.latency_s for run in runs)
    shares = {
        words: sum(_total(run, step) or 0.0 for run in runs) / total
        for step, words in _STEPS.items()
    }
    most = max(shares, key=lambda words: shares[words])
    if shares[most] >= BOUND:
        return [f"{most} fills {100 * shares[most]:.1f} % of an async run and limits it"]
    return [f"no step fills an async run ({most}, the longest, is {100 * shares[most]:.1f} %)"]
