"""What is said of an A/A control: does a comparison stay quiet, and find what was planted?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from vdkit.present.columns import NAMES, Asked
from vdkit.present.document import Document, Picture, Text, section
from vdkit.present.documents import Source, ends
from vdkit.present.table import Cell, Number, Table, summary_decimals
from vdkit.present.words import (
    care_words,
    noise_note,
    read_with_care,
    setting,
    what_and_where,
    what_sentence,
)
from vdkit.record.compare import (
    ARMS,
    CALLED_BY,
    FALSE_CALLS_AT_MOST,
    FOUND_AT_LEAST,
    Judged,
    judged,
)
from vdkit.record.recording import Recording
from vdkit.record.stats import CALL_BELOW_P, Proportion, Ratio, Summary

TITLES = {"latency_s": "latency", "ttff_s": "TTFF"}
"""What it is asked about, in tables."""


def spread_percent(summary: Summary) -> float:
    """Coefficient of variation: sample standard deviation, % of the mean."""
    return 100 * summary.std / summary.mean


def aa_arms_table(recording: Recording, found: Mapping[str, Judged]) -> Table:
    """A row per arm: means, and spread as the standard deviation in % of the mean."""
    throttled = any(arm.throttled_runs for arm in recording.arms.values())
    rows = []
    for name in ARMS:
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
    return Table(
        rows,
        "\n\n".join((setting(recording), rounds, planted_words(recording, found))),
        "Spread: standard deviation, % of the mean."
        + " † Runs with a throttle reason." * throttled,
    )


def calls_table(recording: Recording, found: Mapping[str, Judged]) -> Table:
    """A row per metric and way to ask: how often a difference was called."""
    rows: list[dict[str, Cell]] = []
    for metric, one in found.items():
        for how in CALLED_BY:
            quiet, sharp = one.aims_met(how)
            rows.append(
                {
                    "metric": TITLES[metric],
                    "asked": how,
                    "a against b: called %": _share(one.false_calls[how]),
                    f"at most {100 * FALSE_CALLS_AT_MOST:g} %": _aim(quiet),
                    "slow against a: found %": _share(one.found[how]),
                    f"at least {100 * FOUND_AT_LEAST:g} %": _aim(sharp),
                }
            )
    plan = recording.planted
    assert plan is not None
    return Table(
        rows,
        "Calls",
        f"{plan.splits} splits: each draws {plan.pairs} of the {len(recording.base.timed)} rounds "
        f"and asks as vdkit compare does (p < {CALL_BELOW_P:g}, and an interval without 1). Labels "
        "of a and b are swapped at random, so every call there is a false one. [ ]: Wilson 95 % "
        "intervals; they take the splits as independent, which draws from the same rounds are not.",
    )


def _share(share: Proportion) -> Number:
    return Number(
        100 * share.count / share.n, 1, 100 * share.low, 100 * share.high,
        mark=f"{share.count} of {share.n}",
    )  # fmt: skip


def _aim(met: bool) -> str:
    return "met" if met else "NOT MET"


def planted_words(recording: Recording, found: Mapping[str, Judged]) -> str:
    """What was planted, and how much slower it made arm slow."""
    made = recording.planted
    assert made is not None
    planned = 100 * made.planted_s / recording.arms["a"].latency.mean
    measured = ", ".join(
        f"{TITLES[metric]} {_percent_more(one.planted)} %" for metric, one in found.items()
    )
    text = (
        f"Planted: {made.percent:g} % of a chunk's {1e3 * made.chunk_s:.3f} ms, as {made.products} "
        f"products of {made.matrix_size}x{made.matrix_size} {made.matrix_dtype} matrices of "
        f"{1e3 * made.product_s:.4f} ms in a run: {planned:+.2f} % of its latency. Measured, slow "
        f"against a: {measured}."
    )
    if "ttff_s" in found and made.first_s is None:
        text += (
            " Each latent frame has the same share, so the first one, which is decoded faster, is "
            "slowed by more of its time."
        )
    return text


def _percent_more(ratio: Ratio) -> Number:
    low, high = (None if end is None else 100 * (end - 1) for end in (ratio.low, ratio.high))
    return Number(100 * (ratio.value - 1), 2, low, high, sign=True)


def control_document(recording: Recording, asked: Asked, source: Source) -> Document:
    """Arms, calls and every round of an A/A control."""
    from vdkit.present.study_charts import plot_rounds

    found = judged(recording)
    latency = found["latency_s"]
    told = "; ".join(
        f"{how}, {latency.false_calls[how].count} false calls in {latency.false_calls[how].n} "
        f"splits, and what was planted found in {latency.found[how].count}"
        for how in CALLED_BY
    )
    picture = Picture(
        partial(plot_rounds, recording),
        "Latency of every round by arm, with the means as lines",
        "Latency of every round of each arm; lines are the means.",
        "rounds",
    )
    return Document(
        recording.label,
        f"A setting against itself · {what_and_where(recording)}",
        (
            what_sentence(recording),
            f"Latency, asked as vdkit compare does: {told}.",
            read_with_care(care_words(recording)),
        ),
        (
            section(
                "results",
                "Results",
                Text(noise_note(recording), "warning"),
                aa_arms_table(recording, found),
                calls_table(recording, found),
            ),
            section("picture", "Rounds", picture, page_only=True),
            *ends([recording], [source]),
        ),
    )
