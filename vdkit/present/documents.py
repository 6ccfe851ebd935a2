"""What is said of a recorded study, by kind: one document each, for every way to show it. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from vdkit.present.table import Cell, Number, Table, mean_of, ratio_of
from vdkit.present.words import (
    setting,
    what_and_where,
    what_sentence,
)
from vdkit.record.recording import Arm, Recording, comparable
from vdkit.record.stats import LESS, MORE, Decision, Ratio, decide, paired_ratio

if TYPE_CHECKING:
    from vdkit.record.runs import Run

CHUNKS = 4
"""Consecutive chunks in a picture of the steady window."""
_FEW = 5
_STEPS = {"decode": "decoding", "copy": "copying", "convert": "converting", "write": "writing"}
BOUND = 0.95  # TODO(merge): vdkit.predict.advise.BOUND


@dataclass(frozen=True, slots=True)
class Source:
    """Where a recording was read.

    Attributes:
        home: the folder with what was written beside it; None: it was not read.
        name: of the folder or file, to show.
        sha256: of the recording's file.
    """

    home: Path | None = None
    name: str = ""
    sha256: str = ""


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
    return _KINDS[recording.kind](recording, asked, source)


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


def frames_line(recording: Recording) -> str:
    """Whether the frames of the arms are the same bytes."""
    delivered = [name for name, arm in recording.arms.items() if arm.frame_sha256]
    compared = [name for name in delivered if comparable(recording.arms[name])]
    left_out = [name for name in delivered if name not in compared]
    note = f" Not compared at chunk sizes above 1: {', '.join(left_out)}." if left_out else ""
    if recording.frames_identical is None:
        return "Frames were not compared: that takes two modes that deliver them." + note
    verdict = "identical, byte for byte" if recording.frames_identical else "NOT IDENTICAL"
    return f"Frames of {', '.join(compared)}: {verdict}.{note}"


def noise_note(recording: Recording) -> str:
    """A warning if the machine was too busy for the table to mean much, else nothing."""
    shaky = [n for n, a in recording.arms.items() if a.latency.max > 1.5 * a.latency.min]
    if not shaky:
        return ""
    return (
        f"Note: runs of {', '.join(shaky)} differ by more than half; something else was using this "
        "machine, so these ratios say little."
    )


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


def _benchmark(recording: Recording, asked: Asked, source: Source) -> Document:
    from vdkit.present.predicted import prediction_section

    return Document(
        recording.label,
        f"Benchmark · {what_and_where(recording)}",
        (
            what_sentence(recording),
            gain_sentence(recording.arms),
            _care(
                [_count(recording.arms), _throttle(recording.arms), _frames(recording)],
                _limit(recording),
            ),
        ),  # fmt: skip
        (
            section("results", "Results", *_benchmark_parts(recording, asked)),
            section("timeline", "Timeline", *timeline_parts(recording), page_only=True),
            prediction_section([recording]),
            *_ends([recording], [source]),
        ),
    )


def _benchmark_parts(recording: Recording, asked: Asked) -> list[Part]:
    unlike = "The modes gave different frames." if recording.frames_identical is False else ""
    return [
        Text(lines(unlike, noise_note(recording)), "warning"),
        benchmark_table(recording, asked),
        breakdown_table(recording),
    ]


def timeline_parts(recording: Recording, who: str = "", dots: bool = True) -> list[Part]:
    """Sync over async in the steady window, and (``dots``) the latency of every timed run."""
    from vdkit.present.profile_charts import plot_latencies
    from vdkit.present.timeline import plot_timeline, steady_window

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
                partial(plot_timeline, runs, window),
                f"Timeline of {' over '.join(runs)}{who}, a lane for each step",
                f"{what} of {' above '.join(NAMES.get(n, n) for n in runs)}{who}, on one time "
                "axis: of each mode the timed run nearest to its median. A bar is a chunk, with "
                "its number; where the lane of compute is empty the decoder waits.",
                "timeline",
            )
        )
    if dots:
        latencies = {name: arm.latencies for name, arm in recording.arms.items()}
        parts.append(
            Picture(
                partial(plot_latencies, latencies),
                f"Latency of every timed run{who}, by mode",
                f"Every timed run{who}.",
                "latency",
            )
        )
    return parts


# --- variants of a decoder -----------------------------------------------------------------------


def variant_rows(recording: Recording) -> list[Row]:
    """A row per variant and mode; its ratio is against the first variant in the same mode."""
    first, *_ = recording.variants
    rows = []
    for name, arm in recording.arms.items():
        variant = name.partition("/")[0]
        own = recording.of_variant(variant)
        rows.append(
            Row(
                {"variant": variant, "mode": NAMES[arm.mode]},
                arm,
                recording.arms.get(f"{first}/{arm.mode}") if variant != first else None,
                None if arm.mode == own.baseline else own.base,
                recording.provenance.device,
            )
        )
    return rows


def variant_table(recording: Recording, asked: Asked = NOTHING) -> Table:
    """A row per variant and mode, with caption and legend."""
    rows = variant_rows(recording)
    first = recording.variants[0]
    against = recording.baseline.partition("/")[2]
    return Table(
        cells("variants", rows, f"{first} / variant", asked),
        lines(setting(recording), asked.line),
        f"{legend('variants', rows, against, asked)} {first} / variant: of the same mode.",
    )


def variant_lines(recording: Recording) -> list[str]:
    """What else the runs say."""
    parts = {name: recording.of_variant(name) for name in recording.variants}
    first = recording.variants[0]
    setups = {name: one.base.setup_s for name, one in parts.items()}
    setup = [f"{name} {taken:.1f} s" for name, taken in setups.items() if taken is not None]
    found = [f"set-up (load and prepare, outside all runs): {', '.join(setup)}"] if setup else []
    overlap = [
        f"{name} {ratio_of(ratio)}"
        for name, one in parts.items()
        if (ratio := one.ratio("sync", "async")) is not None
    ]
    if overlap:
        found.append(f"sync / async: {', '.join(overlap)}")
    for name in recording.variants[1:]:
        both = recording.ratio(f"{first}/diffusers", f"{name}/async")
        if both is not None:
            found.append(f"{first}, mode diffusers / {name}, async: {ratio_of(both)}")
    found += [_variant_frames(name, one) for name, one in parts.items()]
    if recording.psnr_db:
        values = ", ".join(
            f"{name} equal" if psnr is None else f"{name} {psnr:.1f} dB"
            for name, psnr in recording.psnr_db.items()
        )
        found.append(
            "uint8 frames against diffusers' in float32 (PSNR, latent frames 0 to "
            f"{recording.psnr_latent_frames - 1}): {values}"
        )
    for name, modes in recording.skipped.items():
        found.append(f"{name}: mode {', '.join(modes)} was skipped, it decodes by chunk only")
    for name, one in parts.items():
        found += [f"{name}: {note}" for note in one.workload.notes if name != first]
    return found


def _variant_frames(name: str, one: Recording) -> str:
    words = {
        True: "identical, byte for byte",
        False: "NOT IDENTICAL",
        None: "not compared: that takes two modes that deliver them at one chunk size",
    }
    hashes = {mode: arm.frame_sha256 for mode, arm in one.arms.items() if arm.frame_sha256}
    whole = hashes.pop("diffusers", None)
    if one.frames_identical is False and len(hashes) > 1 and len({*hashes.values()}) == 1:
        return (
            f"{name}: frames of {', '.join(hashes)}: identical, byte for byte; those of mode "
            f"diffusers are NOT ({str(whole)[:8]} against {next(iter(hashes.values()))[:8]})"
        )
    return f"{name}: frames of its modes: {words[one.frames_identical]}"


def _variants(recording: Recording, asked: Asked, source: Source) -> Document:
    from vdkit.present.predicted import prediction_section
    from vdkit.present.study_charts import plot_families

    parts = {name: recording.of_variant(name) for name in recording.variants}
    noise = lines(*(f"{n}: {said}" for n, one in parts.items() if (said := noise_note(one))))
    words = "Kernels of the steady window by family, milliseconds per latent frame, profiled apart."
    families: Part = Text("No kernel families are recorded.")
    if recording.families:
        draw = partial(plot_families, recording.families)
        families = Picture(draw, words, words, "families")
    timelines: list[Part] = []
    for name, one in parts.items():
        timelines += [Text(name, "head"), *timeline_parts(one, f", variant {name}", dots=False)]
    told = "\n".join(f"- {line}" for line in variant_lines(recording))
    return Document(
        recording.label,
        f"Variants of a decoder · {what_and_where(recording)}",
        _variants_lead(recording, parts),
        (
            section(
                "results",
                "Variants side by side",
                Text(noise, "warning"),
                variant_table(recording, asked),
                Text(told),
            ),
            section("families", "Kernels by family", families, page_only=True),
            section("timeline", "Timelines", *timelines, page_only=True),
            prediction_section(list(parts.values())),
            *_ends([recording], [source]),
        ),
    )


def _variants_lead(recording: Recording, parts: Mapping[str, Recording]) -> tuple[str, ...]:
    first = recording.variants[0]
    modes = parts[first].arms
    mode = next(m for m in ("compute_only", "async", "sync", "diffusers") if m in modes)
    there = {name: one.arms[mode].latency.mean for name, one in parts.items() if mode in one.arms}
    best = min(there, key=lambda name: there[name])
    arms = parts[best].arms
    steady = arms["compute_only"].latent_frame_ms if "compute_only" in arms else []
    frame = f", {mean_of(steady)} ms per latent frame when steady" if steady else ""
    gain = f"In mode {mode} {best} takes {mean_of(arms[mode].latencies)} s a video{frame}"
    ratio = recording.ratio(f"{first}/{mode}", f"{best}/{mode}")
    if best != first and ratio is not None:
        gain += f": {first} / {best} is {ratio_of(ratio)}"
    if (hidden := parts[best].ratio("sync", "async")) is not None:
        gain += f"; sync / async of {best} is {ratio_of(hidden)}"
    held = [name for name, one in parts.items() if any(a.throttled_runs for a in one.arms.values())]
    unlike = [name for name, one in parts.items() if one.frames_identical is False]
    compared = [name for name, one in parts.items() if one.frames_identical is not None]
    same = f"each mode of {', '.join(compared)} gave the same frames"
    care = [
        _count(recording.arms),
        f"some runs of {', '.join(held)} had a throttle reason set" if held else "",
        f"FRAMES OF THE MODES OF {', '.join(unlike)} ARE NOT IDENTICAL" if unlike else "",
        "" if unlike else same if compared else "frames were not compared",
    ]
    who = f"{recording.workload.decoder}, run as {', '.join(parts)},"
    return what_sentence(recording, who), gain + ".", _care(care)


# --- an ablation ---------------------------------------------------------------------------------


def decision_of(recording: Recording, name: str) -> Decision | None:
    """Whether an arm differs from the baseline, as `vdkit compare` asks; None for the baseline."""
    if name == recording.baseline:
        return None
    return decide(recording.base.latencies, recording.arms[name].latencies, paired=True)


def _reads_as(arm: Arm, decision: Decision | None) -> str | None:
    if decision is None:
        return None
    if arm.same_code:
        return "same code here: noise"
    return {MORE: "slower", LESS: "faster"}.get(decision.verdict, decision.verdict)


def inverse(ratio: Ratio | None) -> Ratio | None:
    """A ratio the other way around."""
    if ratio is None or ratio.low is None or ratio.high is None:
        return ratio and Ratio(1 / ratio.value, None, None, ratio.pairs)
    return Ratio(1 / ratio.value, 1 / ratio.high, 1 / ratio.low, ratio.pairs)


def ablation_table(recording: Recording) -> Table:
    """A row per setting: latency, ratio to "all on", what that reads as, bytes."""
    over = f"/ {recording.baseline}"
    rows = []
    for name, arm in recording.arms.items():
        row = Row({"setting": name}, arm, device=recording.provenance.device)
        (made,) = cells("ablation", [row], over)
        decision = decision_of(recording, name)
        added_ms = 1e3 * (arm.latency.mean - recording.base.latency.mean)
        made[over] = ratio_of(decision.ratio) if decision else Number(1, 0)
        made["ms more"] = Number(added_ms, 1, sign=True) if decision else None
        made["reads as"] = _reads_as(arm, decision)
        rows.append(made)
    note = legend("ablation", [Row({}, arm) for arm in recording.arms.values()])
    return Table(rows, setting(recording) + "\n" + frames_line(recording), note)


def ablation_words(recording: Recording) -> str:
    """In a sentence: without what the decode took longer, and without what no longer."""
    arms = {n: a for n, a in recording.arms.items() if n != recording.baseline and a.mode != "sync"}
    longer: dict[str, float] = {}
    for name, arm in arms.items():
        decision = decision_of(recording, name)
        if decision and decision.ratio and decision.verdict == MORE and not arm.same_code:
            longer[name] = decision.ratio.value
    rest = [name for name, arm in arms.items() if name not in longer and not arm.same_code]
    parts = []
    if longer:
        ranked = sorted(longer, key=lambda name: -longer[name])
        said = ", ".join(f"**{name}** {100 * (longer[name] - 1):.1f} %" for name in ranked)
        parts.append(f"slower than with {recording.baseline}: {said}")
    if rest:
        parts.append(f"not seen to be slower: {', '.join(rest)}")
    if same := [name for name, arm in arms.items() if arm.same_code]:
        parts.append(
            f"the same code as {recording.baseline}, because the device is a CPU: "
            f"{', '.join(same)} (how far they are from 0 is what noise does)"
        )
    return "; ".join(parts) + "."


def _ablation(recording: Recording, asked: Asked, source: Source) -> Document:
    from vdkit.present.study_charts import plot_ablation

    words = ablation_words(recording)
    picture = Picture(
        partial(plot_ablation, {recording.label: recording}),
        "A bar for each primitive: how much longer a decode takes without it",
        "How much longer a decode takes with a primitive off, with a 95 % interval; dots are rounds.",
        "ablation",
    )
    return Document(
        recording.label,
        f"Each primitive off in turn · {what_and_where(recording)}",
        (what_sentence(recording), f"{words[:1].upper()}{words[1:]}".replace("**", ""),
         _care([_count(recording.arms), _throttle(recording.arms), _frames(recording)])),
        (
            section("results", "Results", Text(noise_note(recording), "warning"),
                    ablation_table(recording), Text(words)),
            section("picture", "Picture", picture, page_only=True),
            *_ends([recording], [source]),
        ),
    )  # fmt: skip


# --- what several kinds share --------------------------------------------------------------------


def _ends(recordings: Sequence[Recording], sources: Sequence[Source]) -> tuple[Section, Section]:
    """Provenance and how to reproduce; a column for each of two recordings."""
    columns = []
    for recording, source in zip(recordings, sources, strict=True):
        own = {"record": source.name, "SHA-256 of the record": source.sha256}
        columns.append(_facts(recording) | {name: value for name, value in own.items() if value})
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
    hashes: dict[str, list[str]] = {}
    for name, arm in recording.arms.items():
        if arm.frame_sha256 is not None:
            hashes.setdefault(arm.frame_sha256, []).append(name)
    found["frames, SHA-256"] = "; ".join(f"{h} ({', '.join(n)})" for h, n in hashes.items()) or None
    if recording.kind == "bench" and recording.base.setup_s is not None:
        found["set-up"] = f"{recording.base.setup_s:.1f} s"
    return {name: str(value) for name, value in found.items() if value is not None}


def gain_sentence(arms: Mapping[str, Arm]) -> str:
    """What async gained over sync, and how near it is to the compute floor."""
    if "async" not in arms or "sync" not in arms:
        there = ", ".join(arms)
        return f"What async gains over sync is not in this record, whose modes are {there}."
    ratio = paired_ratio(arms["sync"].latencies, arms["async"].latencies)
    sync_s, async_s = (mean_of(arms[mode].latencies) for mode in ("sync", "async"))
    text = f"Async takes {async_s} s a video and sync {sync_s} s: sync / async is "
    text += str(ratio_of(ratio))
    if ratio.low is not None and ratio.high is not None and ratio.low <= 1 <= ratio.high:
        text += ", which leaves room for no gain at all"
    if "compute_only" in arms:
        floor = arms["compute_only"].latencies
        over = 100 * (paired_ratio(arms["async"].latencies, floor).value - 1)
        where = "above" if over >= 0 else "below"
        text += f", and async is {abs(over):.2f} % {where} the compute floor of {mean_of(floor)} s"
        text += " (scatter)" if over < 0 else ""
    return text + "."


def _limit(recording: Recording) -> list[str]:
    """The step that fills an async run, if one does."""
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


def _care(care: Sequence[str], found: Sequence[str] = ()) -> str:
    """What was found, then what the reader has to know about it."""
    told = [*found, "read with care: " + "; ".join(part for part in care if part)]
    text = "; ".join(told)
    return f"{text[:1].upper()}{text[1:]}."


def _count(arms: Mapping[str, Arm]) -> str:
    """How many runs the means are of, and what so few cannot tell."""
    counts = sorted({len(arm.timed) for arm in arms.values()})
    n = f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
    if counts[0] == 1:
        return f"{n}: one run has no interval"
    if counts[0] < _FEW:
        return f"{n}: the intervals are no more than the spread"
    return f"{n}, so P99 is close to the maximum" if counts[0] < 100 else n


def _throttle(arms: Mapping[str, Arm]) -> str:
    held = sum(arm.throttled_runs for arm in arms.values())
    timed = sum(len(arm.timed) for arm in arms.values())
    return f"{held} of {timed} timed runs had a throttle reason set" if held else ""


def _frames(recording: Recording) -> str:
    """Whether the arms gave the same frames, in a few words."""
    return {
        True: "frames of the modes that were compared are identical, byte for byte",
        False: "FRAMES OF THE MODES ARE NOT IDENTICAL",
        None: "frames were not compared",
    }[recording.frames_identical]


_KINDS: Mapping[str, Callable[[Recording, Asked, Source], Document]] = {
    "bench": _benchmark,
    "cell": _benchmark,
    "variants": _variants,
    "ablation": _ablation,
}
