"""What is said of a fan-out: a row for each worker and one for all, and what could not be made."""

from __future__ import annotations

from typing import Any

from vdkit.present import Cell, Number, Table, mean_of, number, significant, words
from vdkit.present.columns import COST, NOTHING, Asked, cost_of, energy_words
from vdkit.present.document import Document, Facts, Text, lines, section
from vdkit.record.fanout import Fanout


def fanout_document(done: Fanout, asked: Asked = NOTHING) -> Document:
    """What was made, how fast, by whom; and what was not."""
    counts = {"made": len(done.videos), "finished before": done.finished_before}
    counts |= {"failed": len(done.failed)} if done.failed else {}
    lead = ", ".join(f"{count} {what}" for what, count in counts.items())
    lead += ", then interrupted." if done.interrupted else "."
    failed = lines(*(f"- {name}: {reason}" for name, reason in done.failed.items()))
    machines = [
        (f"worker {number}", f"{one.device_uuid or 'CPU'}; {one.cpu}, {one.host_cores} cores")
        for number, one in sorted(done.workers.items())
    ]
    sections = (
        section(
            "results", "Results", Text(lead), Text(failed, "warning"),
            fanout_table(done, asked) if done.videos else None,
        ),
        section("provenance", "Workers", Facts(machines), page_only=True),
        section("reproduce", "How to reproduce", Text(done.command or "", "code"), page_only=True),
    )  # fmt: skip
    return Document(done.label, f"Fan-out · {done.engine}", (lead,), sections)


def fanout_table(done: Fanout, asked: Asked = NOTHING) -> Table:
    """A row for each worker, and one for all; ValueError if nothing was made."""
    work, made = done.videos[0].workload, done.provenance
    unit, timed = f"{work.kind.unit}s", work.kind.timed
    rows: list[dict[str, Cell]] = []
    for name, one in [*((str(n), done.of(n)) for n in sorted(done.workers)), ("all", done)]:
        latencies = [video.run.latency_s for video in one.videos]
        units = sum(video.workload.frames for video in one.videos)
        row: dict[str, Cell] = {
            "worker": name,
            f"{work.kind.whole}s": Number(len(latencies), 0),
            "mean s": mean_of(latencies),
            "max s": significant(max(latencies)),
            f"{unit} / s": significant(units / one.window_s),
            **({"x real time": significant(1 / one.rtf)} if timed else {}),
            "decoding %": Number(one.decoding_percent, 1),
        }
        if timed and asked.usd_per_hour is not None:
            row[COST] = cost_of(done.rtf, asked) if one is done else None
        if asked.energy:
            row[energy_words(work)[0]] = (
                number(done.energy_j, 1, 1 / done.media_s) if one is done else None
            )
        rows.append(row)
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
    if timed and asked.usd_per_hour is not None:
        note += f" {COST}: price x that time / playing time."
    return Table(rows, lines(caption, asked.line), note)


def video_rows(done: Fanout) -> list[dict[str, Any]]:
    """A row for each video that was made, as plain values."""
    sizes = ("frames", "height", "width", "fps", "latents", "latents_sha256", "seed")
    kept = ("latency_s", "ttff_s", "energy_j", "vram_peak_bytes", "throttled")
    return [
        {name: getattr(one, name) for name in ("out", "worker", "tries", "begun_s", "taken_s")}
        | {name: getattr(one.run, name) for name in kept}
        | {"decoding_s": one.decoding_s, "device_uuid": done.workers[one.worker].device_uuid}
        | {name: getattr(one.workload, name) for name in sizes}
        for one in done.videos
    ]
