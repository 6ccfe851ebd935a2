"""What is said of studies: variants of a decoder, primitives off one by one, an A/A control.

No torch. Of a control: does a comparison stay quiet, and find what was planted?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from vdkit.present.columns import NAMES, NOTHING, Asked, Row, cells, legend
from vdkit.present.document import Document, Part, Picture, Text, lines, section
from vdkit.present.documents import Source, ends, prediction_section, timeline_parts
from vdkit.present.table import Cell, Number, Table, mean_of, ratio_of, summary_decimals
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
from vdkit.record import compare
from vdkit.record.recording import Arm, Recording
from vdkit.record.stats import CALL_BELOW_P, LESS, MORE, Decision, Proportion, Summary, decide

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
        labels: dict[str, Cell] = {"variant": variant, "mode": NAMES[arm.mode]}
        other = recording.arms.get(f"{first}/{arm.mode}") if variant != first else None
        base = None if arm.mode == own.baseline else own.base
        rows.append(Row(labels, arm, other, base, recording.provenance.device))
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
    overlap = [(name, one.ratio("sync", "async")) for name, one in parts.items()]
    if said := [f"{name} {ratio_of(ratio)}" for name, ratio in overlap if ratio is not None]:
        found.append(f"sync / async: {', '.join(said)}")
    for name in recording.variants[1:]:
        both = recording.ratio(f"{first}/diffusers", f"{name}/async")
        if both is not None:
            found.append(f"{first}, mode diffusers / {name}, async: {ratio_of(both)}")
    found += [_variant_frames(name, one) for name, one in parts.items()]
    if psnrs := recording.psnr_db.items():
        values = [name + (" equal" if db is None else f" {db:.1f} dB") for name, db in psnrs]
        found.append(
            "uint8 frames against diffusers' in float32 (PSNR, latent frames 0 to "
            f"{recording.psnr_latent_frames - 1}): {', '.join(values)}"
        )
    for name, modes in recording.skipped.items():
        found.append(f"{name}: mode {', '.join(modes)} was skipped, it decodes by chunk only")
    for name in recording.variants[1:]:
        found += [f"{name}: {note}" for note in parts[name].workload.notes]
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
    first, last = ends[0][0], ends[-1][0]
    a, b = (
        {one.family.name: one.ms_per_latent_frame for one in shares}
        for _, shares in (ends[0], ends[-1])
    )
    (whole_a, sums_a), (whole_b, sums_b) = (
        (sum(ms.values()), sum(ms.get(name, 0.0) for name in ARITHMETIC)) for ms in (a, b)
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
    words = {
        True: "identical, byte for byte",
        False: "NOT IDENTICAL",
        None: "not compared: that takes two modes that deliver them at one chunk size",
    }
    return f"{name}: frames of its modes: {words[one.frames_identical]}"


def variants_document(recording: Recording, asked: Asked, source: Source) -> Document:
    """Variants side by side, their kernels, timelines and predictions."""
    from vdkit.present.charts import plot_families

    parts = {name: recording.of_variant(name) for name in recording.variants}
    noise = lines(*(f"{n}: {said}" for n, one in parts.items() if (said := noise_note(one))))
    words = "Kernels of the steady window by family, milliseconds per latent frame, profiled apart."
    families: list[Part] = [Text("No kernel families are recorded.")]
    if recording.families:
        picture = Picture(partial(plot_families, recording.families), words, words, "families")
        families = [picture, Text(families_words(recording)), families_table(recording)]
    timelines: list[Part] = []
    for name, one in parts.items():
        timelines += [Text(name, "head"), *timeline_parts(one, name)]
    told = Text("\n".join(f"- {line}" for line in variant_lines(recording)))
    results = Text(noise, "warning"), variant_table(recording, asked), told
    return Document(
        recording.label,
        f"Variants of a decoder · {what_and_where(recording)}",
        _variants_lead(recording, parts),
        (
            section("results", "Variants side by side", *results),
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
    same = [name for name, arm in arms.items() if arm.same_code]
    asked = {name: decision_of(recording, name) for name in arms if name not in same}
    longer = {n: d.ratio.value for n, d in asked.items() if d and d.ratio and d.verdict == MORE}
    parts = []
    if longer:
        ranked = sorted(longer, key=lambda name: -longer[name])
        said = ", ".join(f"{name} {100 * (longer[name] - 1):.1f} %" for name in ranked)
        parts.append(f"Slower than with {recording.baseline}: {said}.")
    if rest := [name for name in asked if name not in longer]:
        parts.append(f"Not seen to be slower: {', '.join(rest)}.")
    if same:
        parts.append(
            f"The same code as {recording.baseline}, because the device is a CPU: "
            f"{', '.join(same)} (how far they are from 0 is what noise does)."
        )
    return " ".join(filter(None, [*parts, overlap_words(recording.arms, recording.baseline)]))


def ablation_document(recording: Recording, asked: Asked, source: Source) -> Document:
    """What each primitive buys."""
    from vdkit.present.charts import plot_ablation

    words = ablation_words(recording)
    return _document(
        recording, source, "Each primitive off in turn", (words,),
        (ablation_table(recording), Text(words)), "Picture",
        Picture(
            partial(plot_ablation, {recording.label: recording}),
            "A bar for each primitive: how much longer a decode takes without it",
            "How much longer a decode takes with a primitive off, with a 95 % interval; dots are "
            "rounds.",
            "ablation",
        ),
    )  # fmt: skip


def _document(
    recording: Recording, source: Source, what: str, lead: Sequence[str], results: Sequence[Part],
    title: str, picture: Picture,
) -> Document:  # fmt: skip
    """Results and one picture of a study."""
    results = Text(noise_note(recording), "warning"), *results
    return Document(
        recording.label,
        f"{what} · {what_and_where(recording)}",
        (what_sentence(recording), *lead, read_with_care(care_words(recording))),
        (
            section("results", "Results", *results),
            section("picture", title, picture, page_only=True),
            *ends([recording], [source]),
        ),
    )


# --- an A/A control -------------------------------------------------------------------------------

TITLES = {"latency_s": "latency", "ttff_s": "TTFF"}
"""What it is asked about, in tables."""


def spread_percent(summary: Summary) -> float:
    """Coefficient of variation: sample standard deviation, % of the mean."""
    return 100 * summary.std / summary.mean


def aa_arms_table(recording: Recording, found: Mapping[str, compare.Judged]) -> Table:
    """A row per arm: means, and spread as the standard deviation in % of the mean."""
    throttled = any(arm.throttled_runs for arm in recording.arms.values())
    rows = []
    for name in compare.ARMS:
        arm = recording.arms[name]
        row: dict[str, Cell] = {"arm": name, "n": Number(len(arm.timed), 0)}
        for metric, one in found.items():
            summary = one.arms[name]
            row[f"{TITLES[metric]} s"] = Number(summary.mean, summary_decimals(summary))
            row[f"{TITLES[metric]} spread %"] = Number(spread_percent(summary), 2)
        if throttled:
            count = arm.throttled_runs
            row["throttled"] = f"{count} of {len(arm.timed)}{'†' * bool(count)}"
        rows.append(row)
    rounds = (
        f"{NAMES[recording.base.mode]}, {len(recording.base.timed)} rounds, in each every arm once "
        "in random order: a and b are the same setting, slow is the same with work planted after "
        "every chunk."
    )
    caption = "\n\n".join((setting(recording), rounds, planted_words(recording, found)))
    note = (
        "Spread: standard deviation, % of the mean." + " † Runs with a throttle reason." * throttled
    )
    return Table(rows, caption, note)


def calls_table(recording: Recording, found: Mapping[str, compare.Judged]) -> Table:
    """A row per metric and way to ask: how often a difference was called."""
    at_most = f"at most {100 * compare.FALSE_CALLS_AT_MOST:g} %"
    at_least = f"at least {100 * compare.FOUND_AT_LEAST:g} %"
    rows: list[dict[str, Cell]] = []
    for metric, one in found.items():
        for how in compare.CALLED_BY:
            quiet, sharp = ("met" if met else "NOT MET" for met in one.aims_met(how))
            row: dict[str, Cell] = {"metric": TITLES[metric], "asked": how}
            row |= {"a against b: called %": _share(one.false_calls[how]), at_most: quiet}
            row |= {"slow against a: found %": _share(one.found[how]), at_least: sharp}
            rows.append(row)
    plan = recording.planted
    assert plan is not None
    note = (
        f"{plan.splits} splits: each draws {plan.pairs} of the {len(recording.base.timed)} rounds "
        f"and asks as vdkit compare does (p < {CALL_BELOW_P:g}, and an interval without 1). Labels "
        "of a and b are swapped at random, so every call there is a false one. [ ]: Wilson 95 % "
        "intervals; they take the splits as independent, which draws from the same rounds are not."
    )
    return Table(rows, "Calls", note)


def _share(share: Proportion) -> Number:
    low, high = 100 * share.low, 100 * share.high
    return Number(100 * share.count / share.n, 1, low, high, mark=f"{share.count} of {share.n}")


def planted_words(recording: Recording, found: Mapping[str, compare.Judged]) -> str:
    """What was planted, and how much slower it made arm slow."""
    made = recording.planted
    assert made is not None
    planned = 100 * made.planted_s / recording.arms["a"].latency.mean
    said = []
    for metric, one in found.items():
        ratio = one.planted
        low, high = (None if end is None else 100 * (end - 1) for end in (ratio.low, ratio.high))
        more = Number(100 * (ratio.value - 1), 2, low, high, sign=True)
        said.append(f"{TITLES[metric]} {more} %")
    text = (
        f"Planted: {made.percent:g} % of a chunk's {1e3 * made.chunk_s:.3f} ms, as {made.products} "
        f"products of {made.matrix_size}x{made.matrix_size} {made.matrix_dtype} matrices of "
        f"{1e3 * made.product_s:.4f} ms in a run: {planned:+.2f} % of its latency. Measured, slow "
        f"against a: {', '.join(said)}."
    )
    if "ttff_s" in found and made.first_s is None:
        text += (
            " Each latent frame has the same share, so the first one, which is decoded faster, is "
            "slowed by more of its time."
        )
    return text


def control_document(recording: Recording, asked: Asked, source: Source) -> Document:
    """Arms, calls and every round of an A/A control."""
    from vdkit.present.charts import plot_rounds

    found = compare.judged(recording)
    latency = found["latency_s"]
    told = "; ".join(
        f"{how}, {latency.false_calls[how].count} false calls in {latency.false_calls[how].n} "
        f"splits, and what was planted found in {latency.found[how].count}"
        for how in compare.CALLED_BY
    )
    lead = f"Latency, asked as vdkit compare does: {told}."
    return _document(
        recording, source, "A setting against itself", (lead,),
        (aa_arms_table(recording, found), calls_table(recording, found)), "Rounds",
        Picture(
            partial(plot_rounds, recording),
            "Latency of every round by arm, with the means as lines",
            "Latency of every round of each arm; lines are the means.",
            "rounds",
        ),
    )  # fmt: skip
