"""What is said of a recorded study: which tables, pictures and sentences its document has.

A kind of study is one function, named in `document_of`; those of a profile and of an A/A control
lie in `instruments` and `comparison`. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

from vdkit.present import Cell, Number, Table, mean_of, ratio_of, words
from vdkit.present.columns import NOTHING, Asked, Row, cells, legend, mode_name
from vdkit.present.document import Document, Facts, Part, Picture, Section, Text, lines, section
from vdkit.record import sha256
from vdkit.record.anatomy import Anatomy
from vdkit.record.recording import FILE, Arm, Recording
from vdkit.record.results import OLD_FILES, recorded_file
from vdkit.record.stats import LESS, MORE, Decision, decide
from vdkit.record.windows import Windowed
from vdkit.trace.tail import has_parts

CHUNKS = 4  # consecutive ones in a picture of the steady window
ARITHMETIC = ("convolution", "matrix multiply")  # whose work is counted; others move memory
_STEPS = {"decode": "decoding", "copy": "copying", "convert": "converting", "write": "writing"}

Said = tuple[str, tuple[str, ...], tuple[Section, ...]]
"""What kind of study it is, the sentences of the lead, and the sections."""


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
    """Where `vdkit.record.results.read_recording` reads ``path``; errors as there."""
    file = recorded_file(path)
    home = file.resolve().parent
    whole = path.is_dir() or file.name in (FILE, *OLD_FILES)
    beside = home.glob("result_*.json") if file.name in ("variants.json", "aa.json") else ()
    digests = {one.name: sha256(one) for one in (file, *sorted(beside))}
    return Source(home, f"{home.name}/{file.name}" if whole else file.name, digests)


def document_of(
    recording: Recording | Anatomy | list[Windowed], asked: Asked = NOTHING,
    source: Source = Source(),
) -> Document:  # fmt: skip
    """Everything about one recording, or what `vdkit.probe` or `measure_windows` found.

    Args:
        asked: a price, joules.
        source: where it was read, for the page.

    Raises:
        ValueError: the price is not finite and above 0.
    """
    from vdkit.present.comparison import control  # which imports this module, as the next does
    from vdkit.present.instruments import anatomy_document, profile
    from vdkit.present.windows import windows_document

    if isinstance(recording, Anatomy):
        return anatomy_document(recording)
    if isinstance(recording, list):
        return windows_document(recording)
    kinds = {"profile": profile, "variants": _variants, "ablation": _ablation, "aa": control}
    what, lead, sections = kinds.get(recording.kind, _benchmark)(recording, asked, source)
    kicker = f"{what} · {words.what_and_where(recording)}"
    return Document(recording.label, kicker, lead, (*sections, *ends([recording], [source])))


def timeline_parts(recording: Recording, variant: str = "") -> list[Part]:
    """Sync over async in the steady window and, but of a ``variant``, every timed run's latency."""
    from vdkit.present.timeline import plot_latencies, plot_timeline, steady_window

    who = variant and f", variant {variant}"
    drawn = {name: arm.typical() for name, arm in recording.arms.items()}
    pair = {name: run for name, run in drawn.items() if name in ("sync", "async")} or drawn
    parts: list[Part] = []
    if runs := {name: run for name, run in pair.items() if run.chunks}:
        middle = runs.get("async") or next(iter(runs.values()))
        whole = len(middle.chunks) < CHUNKS + 2
        window = None if whole else steady_window(middle, CHUNKS)
        shown = " above ".join(mode_name(name, recording.workload) for name in runs)
        what = "Whole runs" if whole else f"{CHUNKS} chunks from the middle"
        draw = partial(plot_timeline, runs, window, recording)
        alt = f"Timeline of {' over '.join(runs)}{who}, a lane for each step"
        text = (
            f"{what} of {shown}{who}, on one time axis: of each mode the timed run nearest to its "
            "median. A bar is a chunk, with its number; where the lane of compute is empty the "
            "decoder waits."
        )
        parts.append(Picture(draw, alt, text, "_".join(filter(None, ("timeline", variant)))))
    if not variant:
        latencies = {name: arm.latencies for name, arm in recording.arms.items()}
        draw, alt = partial(plot_latencies, latencies), "Latency of every timed run, by mode"
        parts.append(Picture(draw, alt, "Every timed run.", "latency"))
    return parts


def prediction_section(recordings: Sequence[Recording]) -> Section:
    """Latency from the costs of each step beside the measured one, or why there is none."""
    from vdkit.predict import plan_of, predict, units_per_latent, video_info
    from vdkit.predict.fit import encoders_of, fit_costs

    rows: list[dict[str, Cell]] = []
    missing = []
    for one in recordings:
        work, arms = one.workload, one.arms.values()
        labels: dict[str, Cell] = {"variant": work.variant} if len(recordings) > 1 else {}
        who, factor = f"{work.variant}, " if labels else "", units_per_latent(work)
        try:
            if not all(run.chunks for arm in arms for run in arm.runs):
                raise ValueError("its runs hold no chunks")
            costs = fit_costs(one)
        except ValueError as error:
            missing.append(f"- {who}not predicted: {error}.")
            continue
        for name, arm in one.arms.items():
            shown, measured_s = mode_name(name, work), arm.latency.mean
            if arm.sink.kind == "export_to_video":
                missing.append(f"- {who}{shown} not predicted: only diffusers knows its steps.")
                continue
            try:
                made = predict(
                    costs.of_encoders(encoders_of(arm)), video_info(one), arm.config, arm.mode,
                    temporal_factor=factor,
                    plan=plan_of(arms, arm.config.chunk_size),
                )  # fmt: skip
            except ValueError as error:
                missing.append(f"- {who}{shown} not predicted: {error}.")
                continue
            row = labels | {"mode": shown, "predicted s": Number(made.run.latency_s, 3)}
            off = 100 * (made.run.latency_s / measured_s - 1)
            row |= {"measured s": Number(measured_s, 3), "error %": Number(off, 2, sign=True)}
            rows.append(row)
    text = (
        "The pipeline model puts the mean cost of each step of a chunk together again. The costs "
        "are fitted to these very runs: a small error says that the steps explain the latency, a "
        "large one that something else takes time. Neither says how well another setting would be "
        "predicted, which vdkit sweep tests."
    )
    parts = Table(rows, note=text) if rows else None, Text("\n".join(missing), "note")
    return section("predicted", "Predicted against measured", *parts, page_only=True)


def tail_sections(recording: Recording) -> tuple[Section, ...]:
    """Where the time until the closed file went, if a sink said what it was at."""
    if not any(has_parts(arm.typical()) for arm in recording.arms.values()):
        return ()
    from vdkit.present.tail import plot_tail, tail_table

    alt = "A bar for each arm: what the time until the closed file went to"
    text = "Of each arm the timed run nearest to its median; the parts of a bar add up to it."
    picture = Picture(partial(plot_tail, recording), alt, text, "tail")
    return (section("tail", "Until the closed file", tail_table(recording), picture),)


def ends(recordings: Sequence[Recording], sources: Sequence[Source]) -> tuple[Section, Section]:
    """Provenance and how to reproduce; a column for each of two recordings."""
    columns = []
    for recording, source in zip(recordings, sources, strict=True):
        own = {"record": source.name} if source.name else {}
        own |= {f"SHA-256 of {name}": sha256 for name, sha256 in source.sha256.items()}
        columns.append(_facts(recording) | own)
    names = dict.fromkeys(name for column in columns for name in column)
    pair = len(columns) > 1
    rows = [(name, *(column.get(name, "-") for column in columns)) for name in names]
    facts = Facts(rows, ("", "A", "B"), "Rows that differ are shaded.") if pair else Facts(rows)
    commands: list[Part] = []
    for side, recording in zip(("A", "B") if pair else ("",), recordings, strict=True):
        commit, command = recording.provenance.git_commit, recording.command
        typed = Text(f"git checkout {commit}\n{command}" if commit else command or "", "code")
        none = Text("No command line is recorded: it was run from Python.")
        commands += [Text(side, "head"), none if command is None else typed]
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
    for who, one in recording.benchmarks.items():
        given = {name: arm.frame_sha256 for name, arm in one.arms.items() if arm.frame_sha256}
        hashes = {sha256: [n for n in given if given[n] == sha256] for sha256 in given.values()}
        told = "; ".join(f"{sha256} ({', '.join(names)})" for sha256, names in hashes.items())
        found[f"{work.kind.unit}s{who and ' of '}{who}, SHA-256"] = told or None
    if recording.kind == "bench" and recording.base.setup_s is not None:
        found["set-up"] = f"{recording.base.setup_s:.1f} s"
    return {name: str(value) for name, value in found.items() if value is not None}


def study(
    recording: Recording, what: str, lead: str, results: Sequence[Part], title: str, pic: Picture
) -> Said:
    """Results and one picture."""
    warning = Text(words.noise_note(recording), "warning")
    sections = (
        section("results", "Results", warning, *results),
        section("picture", title, pic, page_only=True),
    )
    return what, words.lead_words(recording, lead), sections


def benchmark_table(recording: Recording, asked: Asked = NOTHING, table: str = "bench") -> Table:
    """A row per arm, with caption and legend. ``table``: whose columns of the catalogue."""
    base, where = recording.baseline, recording.provenance.device
    rows = []
    for name, arm in recording.arms.items():
        against = None if name == base else recording.base
        rows.append(Row({"mode": mode_name(name, arm.workload)}, arm, against, device=where))
    above = lines(caption(recording), asked.line)
    shown = cells(table, rows, f"{base} / mode", asked)
    return Table(shown, above, legend(table, rows, base, asked))


def caption(recording: Recording) -> str:
    """What was measured and where, in three lines or so."""
    typical, clocks = recording.base.typical(), ""
    reading, when = typical.gpu_during or typical.gpu_after, "in" if typical.gpu_during else "after"
    if reading is not None and reading.sm_clock_mhz is not None:
        clocks = f", SM clock {reading.sm_clock_mhz:.0f} MHz {when} a run of {recording.baseline}"
    return words.setting(recording, clocks) + "\n" + words.frames_line(recording)


def breakdown_table(recording: Recording) -> Table:
    """Where each arm's time goes: seconds per run summed over chunks, mean of the timed runs."""
    rows: list[dict[str, Cell]] = []
    for name, arm in recording.arms.items():
        on_host = {"convert": "convert on host"}
        taken = {on_host.get(step, step): _totals(arm, step) for step in _STEPS}
        taken["open + close"] = [(r.sink_open_s or 0) + (r.sink_close_s or 0) for r in arm.timed]
        idle = [
            [(b.decode_start_s or 0) - (a.decode_done_s or 0) for a, b in pairwise(run.chunks)]
            for run in arm.timed
        ]
        taken["gaps"] = [sum(gap for gap in gaps if gap > 0) for gaps in idle]
        figures = {f"{what} s": mean_of(s) if s else None for what, s in taken.items()}
        rows.append({"mode": mode_name(name, arm.workload), **figures})
    return Table(
        rows,
        "Where the time goes, seconds per run",
        "Summed over chunks, mean of the timed runs. Gaps: the compute stream idle between the "
        "first decode and the last; the other columns overlap it, or each other, where a mode "
        "overlaps them.",
    )


def _totals(arm: Arm, step: str) -> list[float]:
    """Seconds of one step in each timed run that has it."""
    runs = [[chunk.span_s(step) for chunk in run.chunks] for run in arm.timed]
    taken = [[span for span in spans if span is not None] for spans in runs]
    return [sum(spans) for spans in taken if spans]


def _benchmark(recording: Recording, asked: Asked, source: Source) -> Said:
    """Decode paths against each other: results, timeline, prediction."""
    units = f"{recording.workload.kind.unit}s"
    unlike = f"The modes gave different {units}." if recording.frames_identical is False else ""
    return (
        "Benchmark",
        words.lead_words(recording, words.gain_sentence(recording.arms), _limit(recording)),
        (
            section(
                "results", "Results", Text(lines(unlike, words.noise_note(recording)), "warning"),
                benchmark_table(recording, asked), breakdown_table(recording),
            ),
            *tail_sections(recording),
            section("timeline", "Timeline", *timeline_parts(recording), page_only=True),
            prediction_section([recording]),
        ),
    )  # fmt: skip


def _limit(recording: Recording) -> list[str]:
    """The step that fills an async run, if one does."""
    from vdkit.predict.advise import BOUND

    if "async" not in recording.arms:
        return []
    arm = recording.arms["async"]
    shares = {text: sum(_totals(arm, s)) / sum(arm.latencies) for s, text in _STEPS.items()}
    most = max(shares, key=lambda text: shares[text])
    if shares[most] >= BOUND:
        return [f"{most} fills {100 * shares[most]:.1f} % of an async run and limits it"]
    return [f"no step fills an async run ({most}, the longest, is {100 * shares[most]:.1f} %)"]


def variant_table(recording: Recording, asked: Asked = NOTHING) -> Table:
    """A row per variant and mode, with caption and legend; ratios are of the same mode."""
    first, *_ = recording.benchmarks
    rows = []
    for name, arm in recording.arms.items():
        variant, _, mode = name.partition("/")
        own = recording.benchmarks[variant]
        labels: dict[str, Cell] = {"variant": variant, "mode": mode_name(mode, arm.workload)}
        other = recording.arms.get(f"{first}/{arm.mode}") if variant != first else None
        base = None if arm.mode == own.baseline else own.base
        rows.append(Row(labels, arm, other, base, recording.provenance.device))
    against = recording.baseline.partition("/")[2]
    return Table(
        cells("variants", rows, f"{first} / variant", asked),
        lines(words.setting(recording), asked.line),
        f"{legend('variants', rows, against, asked)} {first} / variant: of the same mode.",
    )


def variant_lines(recording: Recording) -> list[str]:
    """What else the runs say."""
    parts, work = recording.benchmarks, recording.workload
    first, *others = parts
    setups = {name: one.base.setup_s for name, one in parts.items()}
    setup = [f"{name} {taken:.1f} s" for name, taken in setups.items() if taken is not None]
    found = [f"set-up (load and prepare, outside all runs): {', '.join(setup)}"] if setup else []
    overlap = {name: one.ratio("sync", "async") for name, one in parts.items()}
    if said := [f"{name} {ratio_of(ratio)}" for name, ratio in overlap.items() if ratio]:
        found.append(f"sync / async: {', '.join(said)}")
    for name in others:
        if both := recording.ratio(f"{first}/diffusers", f"{name}/async"):
            found.append(f"{first}, mode diffusers / {name}, async: {ratio_of(both)}")
    found += [_variant_frames(name, one) for name, one in parts.items()]
    if psnrs := recording.psnr_db.items():
        values = (name + (" equal" if db is None else f" {db:.1f} dB") for name, db in psnrs)
        of = f"{words.db_words(work)}, {work.kind.positions(0, recording.psnr_latent_frames)}"
        whose = f"{work.kind.dtype} {work.kind.unit}s against diffusers' in float32 ({of})"
        found.append(f"{whose}: {', '.join(values)}")
    for name, modes in recording.skipped.items():
        found.append(f"{name}: mode {', '.join(modes)} was skipped, it decodes by chunk only")
    return [*found, *(f"{name}: {note}" for name in others for note in parts[name].workload.notes)]


def families_table(recording: Recording) -> Table:
    """Kernels of the steady window by variant and family.

    Raises:
        ValueError: none are recorded.
    """
    rows: list[dict[str, Cell]] = [
        {
            "variant": variant,
            "family": one.family.name,
            "kernels": Number(one.family.kernels, 0),
            "ms": Number(1e3 * one.family.seconds, 3),
            "ms per latent frame": Number(one.ms_per_latent_frame, 3),
            "% of kernel time": Number(one.family.percent, 2),
        }
        for variant, shares in recording.families.items()
        for one in shares
    ]
    return Table(rows, "Kernels of the steady window by family")


def families_words(recording: Recording) -> str:
    """Kernel time of the first variant and of the last: arithmetic, and all that is not.

    Empty unless two variants have their kernels recorded.
    """
    if len(recording.families) < 2:
        return ""
    (first, a), *_, (last, b) = recording.families.items()
    whole_a, whole_b = (sum(one.ms_per_latent_frame for one in shares) for shares in (a, b))
    sums_a, sums_b = (
        sum(one.ms_per_latent_frame for one in shares if one.family.name in ARITHMETIC)
        for shares in (a, b)
    )
    return (
        f"From {first} to {last} kernels go from {whole_a:.1f} to {whole_b:.1f} ms per latent "
        f"frame: convolutions and matrix products from {sums_a:.1f} to {sums_b:.1f}, all "
        f"others from {whole_a - sums_a:.1f} to {whole_b - sums_b:.1f}."
    )


def _variant_frames(name: str, one: Recording) -> str:
    hashes = {mode: arm.frame_sha256 for mode, arm in one.arms.items() if arm.frame_sha256}
    whole = hashes.pop("diffusers", None)
    if one.frames_identical is False and len(hashes) > 1 and len({*hashes.values()}) == 1:
        return (
            f"{name}: frames of {', '.join(hashes)}: identical, byte for byte; those of mode "
            f"diffusers are NOT ({str(whole)[:8]} against {next(iter(hashes.values()))[:8]})"
        )
    text = {
        True: "identical, byte for byte",
        False: "NOT IDENTICAL",
        None: "not compared: that takes two modes that deliver them at one chunk size",
    }
    return f"{name}: frames of its modes: {text[one.frames_identical]}"


def _variants(recording: Recording, asked: Asked, source: Source) -> Said:
    """Variants side by side, their kernels, timelines and predictions."""
    from vdkit.present.charts import plot_families

    parts = recording.benchmarks
    noise = lines(*(f"{n}: {said}" for n, one in parts.items() if (said := words.noise_note(one))))
    text = "Kernels of the steady window by family, milliseconds per latent frame, profiled apart."
    families: list[Part] = [Text("No kernel families are recorded.")]
    if recording.families:
        draw = partial(plot_families, recording.families, words.what_and_where(recording))
        picture = Picture(draw, text, text, "families")
        families = [picture, Text(families_words(recording)), families_table(recording)]
    timelines = [p for n, one in parts.items() for p in (Text(n, "head"), *timeline_parts(one, n))]
    told = Text("\n".join(f"- {line}" for line in variant_lines(recording)))
    return (
        "Variants of a decoder",
        _variants_lead(recording, parts),
        (
            section(
                "results", "Variants side by side", Text(noise, "warning"),
                variant_table(recording, asked), told,
            ),
            section("families", "Kernels by family", *families, page_only=True),
            *tail_sections(recording),
            section("timeline", "Timelines", *timelines, page_only=True),
            prediction_section(list(parts.values())),
        ),
    )  # fmt: skip


def _variants_lead(recording: Recording, parts: Mapping[str, Recording]) -> tuple[str, ...]:
    first, *_ = parts
    modes = parts[first].arms
    mode = next(m for m in ("compute_only", "async", "sync", "diffusers") if m in modes)
    there = {name: one.arms[mode].latency.mean for name, one in parts.items() if mode in one.arms}
    best = min(there, key=lambda name: there[name])
    arms = parts[best].arms
    steady = arms["compute_only"].latent_frame_ms if "compute_only" in arms else []
    frame = f", {mean_of(steady)} ms per latent frame when steady" if steady else ""
    whole = recording.workload.kind.whole
    gain = f"In mode {mode} {best} takes {mean_of(arms[mode].latencies)} s a {whole}{frame}"
    ratio = recording.ratio(f"{first}/{mode}", f"{best}/{mode}")
    if best != first and ratio:
        gain += f": {first} / {best} is {ratio_of(ratio)}"
    if hidden := parts[best].ratio("sync", "async"):
        gain += f"; sync / async of {best} is {ratio_of(hidden)}"
    who = f"{recording.workload.decoder}, run as {', '.join(parts)},"
    return words.lead_words(recording, f"{gain}.", who=who)


def decision_of(recording: Recording, name: str) -> Decision | None:
    """Whether an arm differs from the baseline, as `vdkit compare` asks; None for the baseline."""
    if name == recording.baseline:
        return None
    return decide(recording.base.latencies, recording.arms[name].latencies, paired=True)


def ablation_table(recording: Recording) -> Table:
    """A row per setting: latency, ratio to "all on", what that reads as, bytes."""
    over = f"/ {recording.baseline}"
    arms = [Row({"setting": name}, arm) for name, arm in recording.arms.items()]
    rows = cells("ablation", arms, over)
    for made, (name, arm) in zip(rows, recording.arms.items(), strict=True):
        made |= {"ms more": None, "reads as": None}
        if decision := decision_of(recording, name):
            added_ms = 1e3 * (arm.latency.mean - recording.base.latency.mean)
            made[over] = ratio_of(decision.ratio)
            made["ms more"] = Number(added_ms, 1, sign=True)
            said = {MORE: "slower", LESS: "faster"}.get(decision.verdict, decision.verdict)
            made["reads as"] = "same code here: noise" if arm.same_code else said
    above = words.setting(recording) + "\n" + words.frames_line(recording)
    return Table(rows, above, legend("ablation", arms))


def _ablation(recording: Recording, asked: Asked, source: Source) -> Said:
    """What each primitive buys."""
    from vdkit.present.charts import plot_ablation

    text = words.overlap_words(recording.arms, recording.baseline)
    alt = "A bar for each primitive: how much longer a decode takes without it"
    below = "How much longer a decode takes with a primitive off, with a 95 % interval; dots are "
    below += "rounds."
    picture = Picture(partial(plot_ablation, {recording.label: recording}), alt, below, "ablation")
    results = ablation_table(recording), Text(text)
    return study(recording, "Each primitive off in turn", text, results, "Picture", picture)
