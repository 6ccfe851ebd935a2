"""What is said of what instruments saw: a profile, any trace, a decoder's anatomy. No torch.

The anatomy is what `vdkit probe` found: a verdict, checks, how far a latent counts, seams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from vdkit.decode.media import MEDIA
from vdkit.present import Cell, Number, Table, mean_of, number, ratio_of, significant, words
from vdkit.present.columns import NOTHING, Asked, Row, cells, energy_words, legend, mode_name
from vdkit.present.document import Document, Part, Picture, Text, lines, section
from vdkit.present.documents import Said, Source, prediction_section
from vdkit.record.anatomy import Anatomy, Reach
from vdkit.record.runs import MODES
from vdkit.record.stats import geometric_ratio
from vdkit.trace.stalls import CAUSES, SHORT_NS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vdkit.record.recording import Recording
    from vdkit.record.runs import Finding
    from vdkit.trace.figures import Analysis

    Analyses = Mapping[str, Analysis]

_VERDICTS = {True: "ok", False: "FAILED", None: "not checked"}
_WINDOWS = ("trace", "run", "steady", "two chunks")
NOISE = "within noise"  # a profiler cannot speed a run up: a cost below 0 is no figure
ON_CPU = (
    "On a CPU there are no kernels: busy is the decoder's calls, gaps lie between them, both from "
    "the event records, and copies go from memory to memory."
)
TRACE_WINDOW = (
    "Window `trace`: first to last event of the GPU. This trace has no records of a run (they are "
    "in what `vdkit profile` writes), which windows `run` and `steady` and figures by chunk need."
)
_PICTURES = {
    "latency": "The timed runs, without profiler and sampler.",
    "utilization": "Share of each window in which the GPU computes.",
    "waterfall": "Where the milliseconds went from sync to async, by cause.",
    "timeline": "Sync over async, whole runs and two chunks of each; what the decoder waits for "
    "is shaded by cause.",
    "nvml": "NVML's samples under the timeline of the profiled run.",
}


def analyses_of(recording: Recording) -> dict[str, Analysis]:
    """The analysis of each arm that was profiled."""
    return {name: arm.profile.analysis for name, arm in recording.arms.items() if arm.profile}


def incomplete(analyses: Analyses) -> str:
    """A line for each failed check: figures of such a trace must not be trusted."""
    failed = [(name, check) for name, one in analyses.items() for check in one.failed]
    return lines(*(f"INCOMPLETE TRACE ({n}): {one.name}: {one.detail}" for n, one in failed))


def on_cpu(analyses: Analyses) -> bool:
    """Whether these ran on a CPU, where compute is the decoder's call."""
    return all(analysis.device == "cpu" for analysis in analyses.values())


def cost_cell(analysis: Analysis) -> Cell:
    """The profiler's cost, %; None without timed runs."""
    percent = analysis.profiler_cost_percent
    return NOISE if percent is not None and percent < 0 else number(percent, 1, sign=True)


def doctor_table(findings: Sequence[Finding]) -> Table:
    """What `vdkit doctor` found, a row each."""
    rows, groups = list[dict[str, Cell]](), set[str]()
    for one in findings:
        group = " " if one.group in groups else one.group
        groups.add(one.group)
        found = lines(one.value, f"-> {one.remedy}" if one.remedy else "")
        rows.append({"of": group, "what": one.name, "is": one.state, "found": found})
    counts = Counter(one.state for one in findings)
    return Table(rows, note=", ".join(f"{counts[state]} {state}" for state in counts))


def windows_table(analyses: Analyses) -> Table:
    """A row per path and window: utilization, busy seconds, gaps, hidden copies."""
    cpu = on_cpu(analyses)
    busy, copied = ("decoder call %", "copy ms") if cpu else ("kernel utilization %", "D2H ms")
    windows = [(m, name, w) for m, a in analyses.items() for name, w in a.windows.items()]
    ranks, short = any(window.communication_s for *_, window in windows), SHORT_NS / 1e3
    rows: list[dict[str, Cell]] = [
        {
            "path": MODES.get(mode, mode),
            "window": name,
            "from": "trace" if one.resolution == "kernel" else "records",
            "length s": Number(one.window_s, 3),
            "busy s": Number(one.busy_s, 3),
            busy: Number(one.kernel_utilization_percent, 2),
            **({"communication %": number(one.communication_percent, 2)} if ranks else {}),
            "gaps": Number(one.gap_count, 0),
            "> 20 us": Number(sum(n for end, n, _ in one.gap_histogram if (end or 1e9) > short), 0),
            "median us": Number(one.gap_median_us, 1),
            "P99 us": Number(one.gap_p99_us, 0),
            "max us": Number(one.gap_max_us, 0),
            copied: Number(1e3 * one.d2h_s, 2),
            "copy hidden %": number(one.copy_hidden_percent, 1),
            "stalls explained %": Number(one.explained_percent, 2),
        }
        for mode, name, one in windows
    ]
    return Table(rows, "Windows")


def stalls_table(analyses: Analyses, window: str) -> Table | None:
    """A row per cause, milliseconds by path, then busy time and the window; None without it."""
    there = {mode: a.windows[window] for mode, a in analyses.items() if window in a.windows}
    if not there:
        return None
    seconds: dict[str, list[float]] = {}
    for cause in CAUSES:
        if any(lost := [one.stall_s[cause] for one in there.values()]):
            seconds["gaps up to 20 us" if cause == "short" else cause] = lost
        kinds = dict.fromkeys(kind for one in there.values() for kind in one.drain_s)
        if cause == "drain" and len(kinds) > 1:
            for kind in kinds:
                seconds[f"  in it: {kind}"] = [one.drain_s.get(kind, 0) for one in there.values()]
    seconds["busy"] = [one.busy_s for one in there.values()]
    seconds["window"] = [one.window_s for one in there.values()]
    paths = [MODES.get(mode, mode) for mode in there]
    rows = [
        {"ms": label} | {p: number(s, 3, 1e3) for p, s in zip(paths, lost, strict=True)}
        for label, lost in seconds.items()
    ]
    return Table(rows, f"Where window {window!r} went")


def cause_words(analyses: Analyses) -> str:
    """What each stall cause means that any window has, a line each."""
    windows = [window for one in analyses.values() for window in one.windows.values()]
    met = {cause for one in windows for cause, value in one.stall_s.items() if value}
    met = met.union(*(one.drain_s for one in windows))
    return lines(*(f"- {c}: {text}" for c, text in CAUSES.items() if c in met - {"short"}))


def coverage_words(analyses: Analyses) -> str:
    """How much of what async gains when timed lies between the two profiled runs, if both ran."""
    pair = [analyses.get(mode) for mode in ("sync", "async")]
    known = [one for one in pair if one and one.timed_latency_s and "run" in one.windows]
    if len(known) < 2:
        return ""
    sync, overlapped = known
    timed_ms = 1e3 * (fmean(sync.timed_latency_s) - fmean(overlapped.timed_latency_s))
    shown_ms = 1e3 * (sync.windows["run"].window_s - overlapped.windows["run"].window_s)
    timed, shown = significant(timed_ms), significant(shown_ms)
    if timed_ms <= 0:
        so = f"so the {shown} ms between the profiled runs explain nothing."
        return f"Timed, async gains nothing over sync ({timed} ms), {so}"
    percent = 100 * shown_ms / timed_ms
    text = f"Of what async gains when timed, the waterfall explains {shown} of {timed} ms"
    more = ": profiled, the paths lie further apart than timed" if percent > 105 else ""
    less = ": the rest is not in the profiled runs" if percent < 95 else ""
    return f"{text} ({percent:.0f} %){more}{less}."


def families_table(analyses: Analyses) -> Table | None:
    """A row per kernel family: milliseconds by path; of one path share and count too."""
    found = {mode: {f.name: f for f in one.families} for mode, one in analyses.items()}
    rows = []
    for name in dict.fromkeys(name for families in found.values() for name in families):
        row: dict[str, Cell] = {"kernel family": name}
        for mode, families in found.items():
            mine = families.get(name)
            row[f"{MODES.get(mode, mode)} ms"] = number(mine.seconds if mine else None, 1, 1e3)
            if mine and len(found) == 1:
                row |= {"share %": Number(mine.percent, 1), "kernels": Number(mine.kernels, 0)}
        rows.append(row)
    return Table(rows, "Kernel time of the whole trace") if rows else None


def trust_words(mode: str, analysis: Analysis, profiled: int = 1) -> str:
    """Profiler cost, clocks, agreement of records and trace, checks and notes, as a list.

    ``profiled``: how many runs were profiled, of which this is the one nearest their median.
    """
    told = []
    if analysis.profiled_latency_s is not None:
        of = f" (of {profiled} profiled runs the one nearest their median)" if profiled > 1 else ""
        beside = "; no timed run stands beside it"
        if (timed := analysis.timed_latency_s) and (cost := cost_cell(analysis)):
            costs = f"'s cost is {NOISE}" if cost == NOISE else f" costs {cost} %"
            beside = f", timed {fmean(timed):.3f} s (mean of {len(timed)}): the profiler{costs}"
        told.append(f"profiled {analysis.profiled_latency_s:.3f} s{of}{beside}")
    if (clocks := analysis.alignment) is not None:
        text = f"clocks agree within {clocks.host_residual_ns / 1e3:.0f} us (host against trace)"
        if analysis.device != "cpu":
            text += f", {clocks.record_residual_ns / 1e3:.0f} us (events against host)"
        if clocks.event_residual_ns is not None and clocks.event_median_ns is not None:
            text += f", events against kernels {clocks.event_median_ns / 1e3:.0f} us in the median"
            text += f", {clocks.event_residual_ns / 1e3:.0f} us at most"
        told.append(text)
    if (both := analysis.agreement) is not None:
        told.append(
            f"stalls between chunks ({both.gaps} of {both.of}): {1e3 * both.records_s:.3f} ms from "
            f"event records, {1e3 * both.trace_s:.3f} ms from the trace, "
            f"{1e3 * both.difference_s:.3f} ms or {both.difference_percent:.1f} % apart"
        )
    told += [f"{_VERDICTS[check.ok]}: {check.name}: {check.detail}" for check in analysis.checks]
    told += [f"note: {note}" for note in analysis.notes]
    return lines(f"{MODES.get(mode, mode)}:", *(f"- {line}" for line in told))


def _gaps_table(analysis: Analysis, window: str, between: str) -> Table:
    """Distribution of the gaps of a window: how many, and what they sum to."""
    histogram = analysis.windows[window].gap_histogram
    lows = [0.0, *(high or 0.0 for high, *_ in histogram)]
    rows = [
        {"gap": f"above {low:g} us" if high is None else f"{low:g} to {high:g} us"}
        | {"count": Number(count, 0), "ms": Number(1e3 * seconds, 3)}
        for low, (high, count, seconds) in zip(lows, histogram, strict=False)
    ]
    return Table(rows, f"Gaps between {between}")


def longest_table(analysis: Analysis) -> Table | None:
    """The longest gaps, longest first; a kernel's long name is cut in its middle."""
    rows = [
        {
            "at s": number(gap.start_s, 6),
            "us": Number(gap.length_us, 1),
            "cause": gap.cause,
            "before chunk": Number(gap.before_chunk, 0) if gap.before_chunk >= 0 else None,
            "next kernel": name if len(name) <= 60 else f"{name[:29]}...{name[-28:]}",
        }
        for gap in analysis.longest_gaps
        for name in [gap.next_kernel]
    ]
    return Table(rows, "Longest gaps") if rows else None


def _chunks_table(analysis: Analysis) -> Table | None:
    """A row per chunk: kernels (on a GPU), milliseconds of compute, copy, conversion, write."""
    steps = ("compute", "copy", "convert", "write")
    rows = [
        {"chunk": number(chunk.index)}
        | ({} if chunk.kernels is None else {"kernels": number(chunk.kernels)})
        | {f"{step} ms": number(getattr(chunk, f"{step}_s"), 3, 1e3) for step in steps}
        for chunk in analysis.chunks
    ]
    return Table(rows, "Chunks") if rows else None


def analysis_document(name: str, analysis: Analysis) -> Document:
    """Everything about one trace; ``name``: of its path, or of its file."""
    one = {name: analysis}
    main = next(window for window in _WINDOWS if window in analysis.windows)
    cpu = on_cpu(one)
    copied = f"{analysis.d2h_bytes / 1e6:.1f}"
    work = f"{len(analysis.chunks)} decoder calls" if cpu else f"{analysis.kernels} kernels"
    return Document(
        name, f"Analysis of a trace · {analysis.device}", (),
        (
            section(
                "results", "Results", Text(incomplete(one), "warning"),
                Text(f"{name} on {analysis.device}: {work}, {copied} MB copied to the host"),
                windows_table(one),
                Text(ON_CPU if cpu else TRACE_WINDOW if main == "trace" else "", "note"),
                stalls_table(one, main), Text(cause_words(one), "note"),
                _gaps_table(analysis, main, "decoder calls" if cpu else "kernels"),
                families_table(one), longest_table(analysis), _chunks_table(analysis),
            ),
            section("trust", "How far to trust the trace", Text(trust_words(name, analysis))),
        ),
    )  # fmt: skip


def paths_table(recording: Recording, asked: Asked = NOTHING) -> Table:
    """A row per path: timed and profiled latency, rate, energy, sampling cost, throttling, money.

    Joules are those of the sampled runs wherever they were recorded.
    """
    base, top = recording.base, recording.ceiling
    device, seconds = recording.provenance.device, recording.workload.seconds
    arms = {name: (arm, arm.profile) for name, arm in recording.arms.items() if arm.profile}
    sampled = any(seen.energy_j for _, seen in arms.values())
    throttled = any(seen.throttled_samples for _, seen in arms.values())
    asked = replace(asked, energy=asked.energy and not sampled)
    beside = [Row({}, a, None if a is base else base, device=device) for a, _ in arms.values()]
    whole, (each, counted) = base.workload.kind.whole, energy_words(base.workload)
    rows: list[dict[str, Cell]] = []
    prices = cells("money", beside, "", asked)
    for (name, (arm, seen)), money in zip(arms.items(), prices, strict=True):
        rate = seen.tflop_per_s if seen.tflop_per_s.get("steady") != 0 else {}  # kernels uncounted
        joules = fmean(seen.energy_j) if seen.energy_j else None
        row: dict[str, Cell] = {
            "path": mode_name(name, recording.workload),
            "timed s": mean_of(arm.latencies),
            "n": Number(len(arm.timed), 0),
            "profiled s": Number(seen.run.latency_s, 3),
            "profiler cost %": cost_cell(seen.analysis),
            "TFLOP/s run": significant(rate.get("run")),
            "TFLOP/s steady": significant(rate.get("steady")),
            "of ceiling %": number(rate.get("steady"), 1, 100 / top.tflop_per_s) if top else None,
        }
        if sampled:
            row |= {f"J / {whole}": number(joules, 0), each: number(joules, 1, 1 / seconds)}
        if slower := [run.latency_s for run in seen.sampled]:
            row["sampled / plain"] = ratio_of(geometric_ratio(slower, arm.latencies))
        if throttled:
            row["throttled"] = ", ".join(seen.throttled_samples) or "no"
        rows.append(row | money)
    note = lines(
        f"{each}: difference of NVML's energy counter over each sampled run, {counted}" * sampled,
        legend("money", beside, recording.baseline, asked),
    )
    return Table(rows, lines(words.setting(recording), asked.line), note)


def ceiling_words(recording: Recording) -> str:
    """The measured ceiling, and what sampling NVML cost and did not answer."""
    told = []
    if (top := recording.ceiling) is not None:
        told.append(
            f"Ceiling: a {top.size}x{top.size} matrix product in {top.dtype} runs at "
            f"{top.tflop_per_s:.3g} TFLOP/s (median of {top.n}). TFLOP/s: operations counted by "
            "torch's FlopCounter (by the decoder itself where the kernels are its own), over the "
            "window of the profiled run."
        )
    if (sampling := recording.sampling) is None:
        return lines(*told, "No NVML samples and no nvml.csv: there was no GPU to ask.")
    told.append(
        f"NVML sampled every {1e3 * sampling.interval_s:g} ms; one sample takes "
        f"{sampling.mean_cost_ms:.1f} ms of its thread. sampled / plain: latency with the "
        "sampler over latency without, interleaved pairs, Student-t 95 % interval."
    )
    absent = "; ".join(f"{name} ({why})" for name, why in sampling.unsupported.items())
    return lines(*told, f"Not answered by NVML here: {absent}." if absent else "")


def profile(recording: Recording, asked: Asked, source: Source) -> Said:
    """Everything about one profile."""
    from vdkit.present.timeline import profile_figures

    shown = {name: mode_name(name, recording.workload) for name in recording.arms}
    own = {name: name if said == MODES.get(name) else said for name, said in shown.items()}
    lead = words.what_sentence(recording), words.gain_sentence(recording.arms)
    analyses = {own[name]: one for name, one in analyses_of(recording).items()}
    figures = profile_figures(recording, source.home).items()
    drawn = {name: Picture(draw, (said := _PICTURES[name]), said, name) for name, draw in figures}
    absent = Text("No nvml.csv lies beside the record.", "note")
    counts = {own[n]: len(a.profile.latencies_s) for n, a in recording.arms.items() if a.profile}
    trust = [Text(trust_words(n, one, counts[n]), "note") for n, one in analyses.items()]
    return (
        "Profile",
        (*lead, _care(recording, analyses)),
        (
            section(
                "results", "Results", Text(incomplete(analyses), "warning"),
                paths_table(recording, asked), Text(ceiling_words(recording), "note"),
                drawn["latency"],
            ),
            section(
                "utilization", "Utilization", drawn["utilization"], windows_table(analyses),
                Text(ON_CPU if on_cpu(analyses) else "", "note"),
            ),
            section(
                "stalls", "Stalls by cause", stalls_table(analyses, "run"),
                stalls_table(analyses, "steady"), Text(cause_words(analyses), "note"),
                drawn.get("waterfall"), Text(coverage_words(analyses)),
            ),
            section("timeline", "Timeline", drawn["timeline"]),
            section("families", "Kernel families", families_table(analyses)),
            section("nvml", "Power, clocks, activity", drawn.get("nvml", absent), page_only=True),
            section("trust", "How far to trust the traces", *trust),
            prediction_section([recording]),
        ),
    )  # fmt: skip


def _care(recording: Recording, analyses: Analyses) -> str:
    """What to know about the profile before its figures."""
    held = [m for m, a in recording.arms.items() if a.profile and a.profile.throttled_samples]
    failed = sum(len(one.failed) for one in analyses.values())
    return words.read_with_care([
        words.count_words(recording.arms),
        f"a throttle reason was set in samples of {', '.join(held)}" if held else "",
        f"{failed} CHECKS OF THE TRACES FAILED" if failed else "",
        "profiled runs are slower, and their latency is no figure",
        words.frames_words(recording),
    ])  # fmt: skip


def anatomy_document(found: Anatomy) -> Document:
    """Everything that was found of one decoder."""
    count, units = len(found.failed), MEDIA[found.medium].unit + "s"
    wrong, rest = lines(*found.verdict[:count]), " ".join(found.verdict[count:])
    kept = [("yes" if one.ok else "NO", one) for one in found.checks]
    checks = [{"check": one.name, "kept": said, "found": one.detail} for said, one in kept]
    parts: list[Part] = [Text(wrong, "warning"), Text(rest), Table(checks, _tried(found, units))]
    if found.history and found.look_ahead:
        sides = {"later output": found.history, "earlier output": found.look_ahead}
        text = "Latents from which on the influence of a latent is below 1 %, below 0.1 % and 0:"
        rows = [{"influence on": name, **_ends(reach)} for name, reach in sides.items()]
        parts.append(Table(rows, text))
    compared: list[dict[str, Cell]] = [
        {
            "decoded in": f"{what} of {one.size}",
            "PSNR dB": "exact" if one.exact else number(one.db, 1),
            "largest difference": f"{one.max_abs:.1e}",
            "missing": f"{one.missing} {units}" if one.missing else None,
        }
        for what, several in (("chunks", found.streamed), ("parts, halo", found.seams))
        for one in several
    ]
    if compared:
        parts.append(Table(compared, "Against the whole; of parts the two latents at the cut:"))
    if found.influence:
        alt = "Influence over the distance in latents, and PSNR at the seam over halo"
        parts.append(Picture(lambda: plot_anatomy(found), alt, rest, "anatomy"))
    made = section("anatomy", "Temporal anatomy", *parts)
    return Document(found.name, f"Probe · {found.medium}", tuple(found.verdict), (made,))


def anatomies_table(several: Iterable[Anatomy]) -> Table:
    """A row for each: how far a latent counts at all, and what follows from that."""
    return Table(
        [
            {
                "decoder": found.name,
                "medium": found.medium,
                "causal": {None: None, True: "yes", False: "no"}[found.causal],
                "history": _ends(found.history).get("0"),
                "look-ahead": _ends(found.look_ahead).get("0"),
                "verdict": " ".join(found.verdict[len(found.failed) :]),
                "not kept": "; ".join(f"{one.name}: {one.detail}" for one in found.failed) or None,
            }
            for found in several
        ],
        note="History, look-ahead: latents from which on the influence of one on later, and on "
        "earlier, output is 0.",
    )


def _tried(found: Anatomy, units: str) -> str:
    sizes = dict.fromkeys((found.first_units, found.units_per_latent))
    cuts = (f"{', '.join(map(str, cuts)) or 'none'} of {n}" for n, cuts in found.borders.items())
    per, each = " + ".join(map(str, sizes)), ", ".join(map(str, found.lengths))
    units = units.removesuffix("s") if per == "1" else units
    said = (
        f"{found.name}: latents {list(found.latents)} in {found.dtype}, {per} {units} a latent "
        f"({each} of the first 1, 2, ...). Decoded alone, these first latents give what they give "
        f"in the whole: {'; '.join(cuts)}."
    )
    if found.state_bytes:
        last, growth = found.state_bytes[-1], found.state_growth
        more = f", {growth:,} bytes more with every chunk" if growth else ", of any length"
        said += f" It remembers {last:,} bytes at the end in chunks of {found.state_chunk}{more}."
    return said


def _ends(reach: Reach | None) -> dict[str, Cell]:
    """From where on a latent's influence is below 1 %, below 0.1 % and 0."""
    if reach is None:
        return {}
    ends = {"below 1 %": reach.percent, "below 0.1 %": reach.permille, "0": reach.zero}
    return {k: f"> {reach.tried:g}" if end is None else number(end, 2) for k, end in ends.items()}


def plot_anatomy(found: Anatomy) -> Figure:
    """Influence over the distance in latents, on a log axis, and PSNR at the seam over halo.

    Raises:
        ValueError: nothing is known of its influence.
    """
    from vdkit.present.style import TONES, chart, keep_data

    if not found.influence:
        raise ValueError(f"of {found.name} no influence could be measured; mend what failed first")
    look = {"marker": ".", "linewidth": 0.8, "markersize": 3}
    seams = [(one.size, one.db) for one in found.seams if one.db is not None]
    title = " ".join([f"{found.name}:", *found.verdict])
    with chart(2.3, 1, 1 + bool(seams), title) as (figure, axes):
        left, right = axes[0, 0], axes[0, -1]
        shown = [one for one in found.influence if one[1] > 0]
        left.plot(*zip(*shown, strict=True), color=TONES["compute"][0], **look)
        left.set(yscale="log", ylabel="influence, of that at 0")
        left.set_xlabel("latents from its own output; left: earlier, right: later output")
        left.axvline(0, color="#888888", linewidth=0.5)
        low, high = (at for at, _ in (shown[0], shown[-1]))
        left.set_xlim(min(low, -1) - 0.1, max(high, 1) + 0.1)
        for ax, levels in ((left, (0.01, 0.001)), (right, (found.target_db,) if seams else ())):
            for level in levels:
                ax.axhline(level, color="#888888", linewidth=0.5)
        if seams:
            sizes, db = zip(*seams, strict=True)
            right.plot(sizes, db, color=TONES["copy"][0], **look)
            right.set_xscale("symlog", base=2, linthresh=1)
            right.set_xticks(sizes, map(str, sizes))
            right.set(xlim=(-0.2, 1.2 * max(sizes) + 0.2), xlabel="halo, latents")
            right.set_ylabel("PSNR at the seam, dB")
    rows = [("influence", *dot) for dot in found.influence] + [("seam", *dot) for dot in seams]
    return keep_data(figure, rows, ("panel", "x", "y"))
