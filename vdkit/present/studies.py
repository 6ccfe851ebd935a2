"""What is said of variants of a decoder, and of primitives off one by one. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from vdkit.present.columns import NAMES, NOTHING, Asked, Row, cells, legend
from vdkit.present.document import Document, Part, Picture, Text, lines, section
from vdkit.present.documents import Source, ends, prediction_section, timeline_parts
from vdkit.present.table import Cell, Number, Table, mean_of, ratio_of
from vdkit.present.words import (
    care_words,
    count_words,
    frames_line,
    noise_note,
    overlap_words,
    read_with_care,
    setting,
    what_and_where,
    what_sentence,
)
from vdkit.record.recording import Arm, Recording
from vdkit.record.stats import LESS, MORE, Decision, decide

ARITHMETIC = ("convolution", "matrix multiply")
"""Families of kernels whose work is counted as operations; the others move memory."""

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
    ends = list(recording.families.items())
    if len(ends) < 2:
        return ""
    (first, a), (last, b) = ends[0], ends[-1]
    whole, useful = (
        [sum(one.ms_per_latent_frame for one in shares if keep(one)) for shares in (a, b)]
        for keep in (lambda one: True, lambda one: one.family.name in ARITHMETIC)
    )
    rest = [both - some for both, some in zip(whole, useful, strict=True)]
    return (
        f"From {first} to {last} kernels go from {whole[0]:.1f} to {whole[1]:.1f} ms per latent "
        f"frame: convolutions and matrix products from {useful[0]:.1f} to {useful[1]:.1f}, all "
        f"others from {rest[0]:.1f} to {rest[1]:.1f}."
    )


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


def variants_document(recording: Recording, asked: Asked, source: Source) -> Document:
    """Variants side by side, their kernels, timelines and predictions."""
    from vdkit.present.study_charts import plot_families

    parts = {name: recording.of_variant(name) for name in recording.variants}
    noise = lines(*(f"{n}: {said}" for n, one in parts.items() if (said := noise_note(one))))
    words = "Kernels of the steady window by family, milliseconds per latent frame, profiled apart."
    families: list[Part] = [Text("No kernel families are recorded.")]
    if recording.families:
        draw = partial(plot_families, recording.families)
        families = [
            Picture(draw, words, words, "families"),
            Text(families_words(recording)),
            families_table(recording),
        ]
    timelines: list[Part] = []
    for name, one in parts.items():
        timelines += [Text(name, "head"), *timeline_parts(one, name)]
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
            section("families", "Kernels by family", *families, page_only=True),
            section("timeline", "Timelines", *timelines, page_only=True),
            prediction_section(list(parts.values())),
            *ends([recording], [source]),
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
        count_words(recording.arms),
        f"some runs of {', '.join(held)} had a throttle reason set" if held else "",
        f"FRAMES OF THE MODES OF {', '.join(unlike)} ARE NOT IDENTICAL" if unlike else "",
        "" if unlike else same if compared else "frames were not compared",
    ]
    who = f"{recording.workload.decoder}, run as {', '.join(parts)},"
    return what_sentence(recording, who), gain + ".", read_with_care(care)


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
    """In words: without what the decode took longer, and without what no longer."""
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
        said = ", ".join(f"{name} {100 * (longer[name] - 1):.1f} %" for name in ranked)
        parts.append(f"Slower than with {recording.baseline}: {said}.")
    if rest:
        parts.append(f"Not seen to be slower: {', '.join(rest)}.")
    if same := [name for name, arm in arms.items() if arm.same_code]:
        parts.append(
            f"The same code as {recording.baseline}, because the device is a CPU: "
            f"{', '.join(same)} (how far they are from 0 is what noise does)."
        )
    return " ".join(filter(None, [*parts, overlap_words(recording.arms, recording.baseline)]))


def ablation_document(recording: Recording, asked: Asked, source: Source) -> Document:
    """What each primitive buys."""
    from vdkit.present.study_charts import plot_ablation

    words = ablation_words(recording)
    picture = Picture(
        partial(plot_ablation, {recording.label: recording}),
        "A bar for each primitive: how much longer a decode takes without it",
        "How much longer a decode takes with a primitive off, with a 95 % interval; dots are "
        "rounds.",
        "ablation",
    )
    return Document(
        recording.label,
        f"Each primitive off in turn · {what_and_where(recording)}",
        (what_sentence(recording), words, read_with_care(care_words(recording))),
        (
            section(
                "results",
                "Results",
                Text(noise_note(recording), "warning"),
                ablation_table(recording),
                Text(words),
            ),
            section("picture", "Picture", picture, page_only=True),
            *ends([recording], [source]),
        ),
    )
