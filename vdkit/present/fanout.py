"""What is said of a fan-out: a row for each worker and one for all, and what could not be made."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from vdkit.present import Cell, Number, Table, number, significant, summary_decimals, words
from vdkit.present.columns import COST, NOTHING, Asked, cost_of, energy_words
from vdkit.present.document import Document, Text, lines, section
from vdkit.record.fanout import Fanout

_OF_VIDEO = (
    "out worker tries begun_s taken_s run.latency_s run.ttff_s run.energy_j "
    "run.vram_peak_bytes run.throttled workload.frames workload.height workload.width "
    "workload.fps workload.latents workload.latents_sha256 workload.seed"
)


def fanout_document(done: Fanout, asked: Asked = NOTHING) -> Document:
    """What was made, how fast, by whom; and what was not."""
    counts = {"made": len(done.videos), "finished before": done.finished_before}
    counts |= {"failed": len(done.failed)} if done.failed else {}
    lead = ", ".join(f"{count} {what}" for what, count in counts.items())
    lead += ", then interrupted." if done.interrupted else "."
    if again := sum(video.tries > 1 for video in done.videos):
        lead += f" Made again after a worker had died: {again}."
    failed = lines(*(f"- {name}: {reason}" for name, reason in done.failed.items()))
    sections = (
        section(
            "results", "Results", Text(lead), Text(failed, "warning"),
            fanout_table(done, asked) if done.videos else None,
        ),
        section("reproduce", "How to reproduce", Text(done.command or "", "code"), page_only=True),
    )  # fmt: skip
    return Document(done.label, f"Fan-out · {done.engine}", (lead,), sections)


def fanout_table(done: Fanout, asked: Asked = NOTHING) -> Table:
    """A row for each worker, and one for all; ValueError if nothing was made."""
    work, made = done.videos[0].workload, done.provenance
    unit, timed = f"{work.kind.unit}s", work.kind.timed
    of_all: dict[str, Cell] = {}
    if timed and asked.usd_per_hour is not None:
        of_all[COST] = cost_of(done.rtf, asked)
    if asked.energy:
        of_all[energy_words(work)[0]] = number(done.energy_j, 1, 1 / done.media_s)
    rows: list[dict[str, Cell]] = []
    for name, one in [*((str(n), done.of(n)) for n in sorted(done.workers)), ("all", done)]:
        units = sum(video.workload.frames for video in one.videos)
        rows.append({
            "worker": name,
            f"{work.kind.whole}s": Number(len(one.videos), 0),
            "mean s": Number(one.latency.mean, summary_decimals(one.latency)),
            "max s": significant(one.latency.max),
            f"{unit} / s": significant(units / one.window_s),
            **({"x real time": significant(1 / one.rtf)} if timed else {}),
            "decoding %": Number(one.decoding_percent, 1),
            **(of_all if one is done else dict.fromkeys(of_all)),
        })  # fmt: skip
    devices = ", ".join(dict.fromkeys(one.device for one in done.workers.values()))
    caption = (
        f"{words.decoder_words(work)} in {work.dtype}. {words.config_words(done.config)}; sink: "
        f"{words.sink_words(done.sink)}.\nWorkers: {done.engine}, {devices}; torch "
        f"{made.packages.get('torch', '?')}, on {made.torch_threads} of {made.host_cores} host "
        f"cores each; {made.created_utc}; commit {words.commit_words(made)}."
    )
    note = (
        f"Mean, max: from the call until the file was closed. {unit.capitalize()} / s"
        f"{', x real time' * timed} and decoding, the time that a decoder was at work, are of the "
        f"{significant(done.window_s)} s from the first {work.kind.whole} taken to the last in "
        "place. Both have each worker's first in them, which warms it up."
    )
    if asked.energy and done.energy_j is None:
        note += " No energy: NVML gave no counter around every run."
    if COST in of_all:
        note += f" {COST}: price x that time / playing time."
    return Table(rows, lines(caption, asked.line), note)


def video_rows(done: Fanout) -> list[dict[str, Any]]:
    """A row for each video that was made, as plain values."""
    names = _OF_VIDEO.split()
    return [{n.rpartition(".")[2]: attrgetter(n)(one) for n in names} for one in done.videos]
