"""Two recordings, or two modes of one, as a document: what was called, and how far to trust it.

And an A/A control: does a comparison stay quiet, and find what was planted? No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from statistics import fmean
from typing import Any

from vdkit.present import DIGITS_LEGEND, Cell, Number, Table, mean_of, ratio_of
from vdkit.present.columns import NOTHING, Asked, Row, cells, meanings, mode_name
from vdkit.present.document import Document, Picture, lines, section
from vdkit.present.documents import Said, Source, document_of, ends, study
from vdkit.present.words import read_with_care, recording_words, setting, what_and_where
from vdkit.record import compare
from vdkit.record.compare import METRICS, Comparison
from vdkit.record.recording import Recording
from vdkit.record.runs import MODES
from vdkit.record.stats import CALL_BELOW_P, TOO_FEW, Proportion, Summary, runs_needed, summarize

UNITS = {
    "latency_s": ("latency s", 1.0, None),
    "ttff_s": ("TTFF s", 1.0, None),
    "vram_peak_bytes": ("peak VRAM GB", 1e9, 3),
    "pinned_bytes": ("pinned MB", 1e6, 1),
    "energy_j": ("energy J", 1.0, None),
}
"""Metric to its name in tables, what to divide by, and decimals: None where runs scatter."""
assert tuple(UNITS) == METRICS
TITLES = {"latency_s": "latency", "ttff_s": "TTFF"}  # what an A/A control is asked about


def comparison_table(comparison: Comparison, asked: Asked = NOTHING) -> Table:
    """A row per metric and mode, both recordings above, below what the columns mean.

    ``asked``: what B costs, and saves against A, in the rows of the latency.
    """
    a, b = comparison.a, comparison.b
    heads = [f"A: {recording_words(a)}", f"B: {recording_words(b)}"]
    if a is b:
        heads = [f"A and B: {recording_words(a)}"]
    stated = [f"- {one}" for one in comparison.stated]
    if stated:
        stated.insert(0, "COMPARED ACROSS what differs, so a ratio is of that too:")
    else:  # compared across machines or workloads there is no one line that is true of both
        heads.append(f"{'It ran' if a is b else 'Both ran'} {what_and_where(a)}.")
    throttled = any(row.throttled_a or row.throttled_b for row in comparison.rows)
    rows, priced = [], []
    for row in comparison.rows:
        one, other = a.arms[row.mode_a], b.arms[row.mode_b]
        mode = f"A {row.mode_a}, B {row.mode_b}"
        made: dict[str, Cell] = {
            "mode": mode_name(row.mode_a, one.workload) if row.mode_a == row.mode_b else mode,
            "metric": UNITS[row.metric][0],
            "A": _mean(row.metric, a, row.mode_a),
            "B": _mean(row.metric, b, row.mode_b),
            "B / A": ratio_of(row.decision.ratio),
            "p": Number(row.decision.p, 4),
            "n": f"{row.n_a} pairs" if comparison.paired else f"{row.n_a}, {row.n_b}",
            "B is": row.verdict,
        }
        if throttled:
            made["throttled A"] = _held(row.throttled_a, row.n_a)
            made["throttled B"] = _held(row.throttled_b, row.n_b)
        if row.metric == "latency_s":
            # B saves against A if both decoded the same length of video.
            base = one if one.workload.seconds == other.workload.seconds else None
            priced.append(Row({}, other, None, base, b.provenance.device))
            (money,) = cells("money", priced[-1:], asked=asked)
            made |= {f"B: {name}": cell for name, cell in money.items()}
        rows.append(made)
    said = meanings("money", priced, "A", asked)
    above = lines(*heads, asked.line), "\n".join(stated)
    below = lines(_legend(comparison, throttled), *said), _notes(comparison)
    return Table(rows, "\n\n".join(filter(None, above)), "\n\n".join(filter(None, below)))


def _held(count: int, n: int) -> str:
    return f"{count} of {n}{'†' * bool(count)}"


def _mean(metric: str, recording: Recording, mode: str) -> Number:
    """Of the timed runs: bytes as ever, what scatters as far as its interval goes."""
    _, unit, decimals = UNITS[metric]
    values = [value / unit for value in recording.arms[mode].values(metric)]
    return mean_of(values) if decimals is None else Number(fmean(values), decimals)


def _legend(comparison: Comparison, throttled: bool) -> str:
    """What the columns mean, and how far to trust a call."""
    paired, tests, each = comparison.paired, comparison.tests, f"{CALL_BELOW_P * 100:g} %"
    how = "Not paired: what only the hour changed (temperature, other programs) counts too."
    how = "Paired: round i of A beside round i of B." if paired else how
    often = f"{comparison.expected_false_calls:.2f} false calls"
    hour = ", ".join(f"{TITLES[m]} {c} of {n}" for m, (c, n) in compare.HOUR_CALLS.items())
    chance = (
        f"up to {often} by chance."
        if paired
        else f"about {often}: so often were the recorded A/A controls called different from "
        f"themselves at another time ({hour}), and {each} of the rest."
    )
    few = any(row.decision.verdict == TOO_FEW for row in comparison.rows)
    needed = "pairs of runs" if paired else "runs of each side"
    said = {
        f"A, B: means. B / A: geometric mean with a Student-t 95 % interval. {how} A difference is "
        f"called if p < {CALL_BELOW_P:g} (two-sided permutation test) and the interval leaves out "
        f"1. {DIGITS_LEGEND}": True,
        f"{tests} test{'s' * (tests > 1)} at {each}: if nothing had changed, {chance}": tests,
        f"{TOO_FEW.capitalize()}: at least {runs_needed(paired)} {needed} are needed.": few,
        "† Runs with a throttle reason: the GPU was held below the clock it wanted, so what "
        "differs may be its clocks.": throttled,
    }
    return " ".join(words for words, true in said.items() if true)


def _notes(comparison: Comparison) -> str:
    """What else differs, uncommitted code, and what was not compared."""
    a, b = comparison.a, comparison.b
    found = []
    if comparison.differences:
        found.append(f"What differs (A against B): {'; '.join(map(str, comparison.differences))}.")
    elif not comparison.stated and a is not b:
        found.append("What differs: nothing that is recorded.")
    sides = {"A": a.provenance.git_dirty, "B": b.provenance.git_dirty}
    if who := " and ".join(name for name, dirty in sides.items() if dirty):
        found.append(f"{who} ran code with uncommitted changes: the commit does not say which.")
    modes: dict[tuple[str, str], list[str]] = {}
    for metric, mode, why in comparison.left_out:
        modes.setdefault((metric, why), []).append(mode)
    told = [f"{metric} of {', '.join(of)} ({why})" for (metric, why), of in modes.items()]
    return lines(*found, f"Not compared: {'; '.join(told)}." if told else "")


def comparison_record(comparison: Comparison, whole: bool = True) -> dict[str, Any]:
    """For one line of JSON: everything, or (not ``whole``) the ratio of what was called."""
    short: dict[str, Any] = {"paired": comparison.paired, "tests": comparison.tests}
    if not whole:
        called: dict[str, dict[str, float | None]] = {}
        for row in (row for row in comparison.rows if row.decision.called):
            mode = row.mode_a if row.mode_a == row.mode_b else f"{row.mode_a}->{row.mode_b}"
            ratio = row.decision.ratio
            called.setdefault(mode, {})[row.metric] = round(ratio.value, 6) if ratio else None
        return short | {"called": called}
    made = [(asdict(row), row.verdict) for row in comparison.rows]
    names = ("metric", "mode", "reason")
    return short | {
        "expected_false_calls": comparison.expected_false_calls,
        "rows": [row | row.pop("decision") | {"verdict": verdict} for row, verdict in made],
        "across": [asdict(one) for one in comparison.stated],
        "differences": [asdict(one) for one in comparison.differences],
        "left_out": [dict(zip(names, one, strict=True)) for one in comparison.left_out],
    }


def comparison_document(
    comparison: Comparison, asked: Asked = NOTHING, sources: Sequence[Source] = (Source(), Source())
) -> Document:
    """The verdicts, then results and timeline of each recording by itself."""
    a, b = comparison.a, comparison.b
    both = [a] if a is b else [a, b]
    latencies = [row for row in comparison.rows if row.metric == "latency_s"]
    ratios = [one and f", B / A {ratio_of(one)}" for one in (r.decision.ratio for r in latencies)]
    pairs = zip(latencies, ratios, strict=True)
    told = "; ".join(f"{row.mode_b}: {row.verdict}{ratio or ''}" for row, ratio in pairs)
    title = f"{b.label} against {a.label}" if a.label != b.label else f"{a.label}, twice"
    sections = [section("comparison", "B against A", comparison_table(comparison, asked))]
    for side, one, source in zip("AB", both, sources, strict=False) if a is not b else ():
        titles = {"results": f"{side}: {one.label}", "timeline": f"Timeline of {side}"}
        sections += [
            replace(part, name=f"{part.name}-{side}", title=titles[part.name], page_only=True)
            for part in document_of(one, asked, source).sections
            if part.name in titles
        ]
    held = any(row.throttled_a or row.throttled_b for row in comparison.rows)
    how = "the recordings are not paired, so what only the hour changed counts too"
    care = [
        "runs of one round are pairs" if comparison.paired else how,
        f"n = {min(min(row.n_a, row.n_b) for row in comparison.rows)}",
        "some runs had a throttle reason set" if held else "",
        "THEY DIFFER IN MORE THAN CODE" if comparison.stated else "",
    ]
    lead = f"Latency of B against A, {told}.", read_with_care(care)
    title = f"Modes of {a.label}" if a is b else title
    sections += ends(both, sources[: len(both)])
    return Document(title, "Two recordings compared", lead, tuple(sections))


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
        for metric in found:
            values = arm.values(metric)
            row[f"{TITLES[metric]} s"] = mean_of(values)
            row[f"{TITLES[metric]} spread %"] = Number(spread_percent(summarize(values)), 2)
        if throttled:
            row["throttled"] = _held(arm.throttled_runs, len(arm.timed))
        rows.append(row)
    rounds = (
        f"{MODES[recording.base.mode]}, {len(recording.base.timed)} rounds, in each every arm once "
        "in random order: a and b are the same setting, slow is the same with work planted after "
        "every chunk."
    )
    caption = "\n\n".join((setting(recording), rounds, planted_words(recording, found)))
    mark = " † Runs with a throttle reason." * throttled
    return Table(rows, caption, f"Spread: standard deviation, % of the mean.{mark}")


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
        if one.hour_calls is not None:
            row = {"metric": TITLES[metric], "asked": "unpaired, other rounds"}
            rows.append(row | {"a against b: called %": _share(one.hour_calls)})
    plan = recording.planted
    assert plan is not None
    note = (
        f"{plan.splits} splits: each draws {plan.pairs} of the {len(recording.base.timed)} rounds "
        f"and asks as vdkit compare does (p < {CALL_BELOW_P:g}, and an interval without 1). Labels "
        "of a and b are swapped at random, so every call there is a false one. [ ]: Wilson 95 % "
        "intervals; they take the splits as independent, which draws from the same rounds are not. "
        f"Other rounds: every two blocks of {plan.pairs} rounds in a row of one arm, as two "
        "sessions are compared."
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
    alike = (
        " Each latent frame has the same share, so the first one, which is decoded faster, is "
        "slowed by more of its time."
    ) * ("ttff_s" in found and made.first_s is None)
    return (
        f"Planted: {made.percent:g} % of a chunk's {1e3 * made.chunk_s:.3f} ms, as {made.products} "
        f"products of {made.matrix_size}x{made.matrix_size} {made.matrix_dtype} matrices of "
        f"{1e3 * made.product_s:.4f} ms in a run: {planned:+.2f} % of its latency. Measured, slow "
        f"against a: {', '.join(said)}.{alike}"
    )


def control(recording: Recording, asked: Asked, source: Source) -> Said:
    """Arms, calls and every round of an A/A control."""
    from vdkit.present.charts import plot_rounds

    found = compare.judged(recording)
    latency = found["latency_s"]
    told = "; ".join(
        f"{how}, {called.count} false calls in {called.n} splits, and what was planted found in "
        f"{latency.found[how].count}"
        for how, called in latency.false_calls.items()
    )
    lead = f"Latency, asked as vdkit compare does: {told}."
    alt = "Latency of every round by arm, with the means as lines"
    below = "Latency of every round of each arm; lines are the means."
    picture = Picture(partial(plot_rounds, recording), alt, below, "rounds")
    results = aa_arms_table(recording, found), calls_table(recording, found)
    return study(recording, "A setting against itself", lead, results, "Rounds", picture)
