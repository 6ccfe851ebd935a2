"""The main job in small: every decode path on a short clip, compared, proved equal and drawn."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from vdkit.decode.paths import decode_async
from vdkit.measure.plans import run_benchmark
from vdkit.models.latents import latents_metadata, load_latents
from vdkit.models.loading import TINY_WAN, load_decoder
from vdkit.present.documents import benchmark_table, document_of
from vdkit.present.timeline import plot_timeline
from vdkit.present.words import noise_note
from vdkit.record import check_out, claim, write_atomically, written
from vdkit.record.recording import FILE, Recording
from vdkit.record.results import read_recording
from vdkit.record.runs import keep_freed_memory
from vdkit.sinks import Mp4Sink, SinkSpec
from vdkit.trace import balancing_mb_per_s

LATENTS = TINY_WAN.parent / "latents" / "red_circle_right.safetensors"
LABEL, FPS, RUNS = "demo", 16, 2
WARMUP = 0  # the untimed run that hashes the frames has warmed the device up


def run_demo(out: Path, device: str = "auto") -> Path:
    """Run the demo on ``device``; MP4, timeline, table and recordings go into ``out``, returned.

    Raises:
        OSError: ``out`` cannot be written to, or holds a recording that is no demo.
        RuntimeError: the paths did not give the same frames.
    """
    check_out(out, LABEL)
    _check_earlier(out)
    decoder, note = load_decoder("tiny-wan", device), ""
    if decoder.device.type != "cuda":
        keep_freed_memory()
        note = " (no GPU in use: copies are memcpy)"
    latents, made = load_latents(LATENTS, decoder), latents_metadata(LATENTS)
    out.mkdir(parents=True, exist_ok=True)
    print(f"vdkit demo on {decoder.device}{note}")
    print(f"{made['video']}, made by {made['source']} for {made['prompt']!r}\n")

    measured = partial(
        run_benchmark, decoder, latents, fps=FPS, runs=RUNS, warmup=WARMUP,
        progress=sys.stderr.isatty(), latents_source=LATENTS.name,
    )  # fmt: skip
    free = measured(SinkSpec("raw", out).fresh, label=LABEL)
    _show("1. Storage keeps up", free)
    if not free.frames_identical:
        raise RuntimeError(
            "the decode paths gave different frames; this is a bug in vdkit or torch"
        )
    fastest = min(free.arms["sync"].timed, key=lambda run: run.latency_s)
    speed = balancing_mb_per_s(fastest, free.workload.height * free.workload.width * 3)
    held = SinkSpec("null", throttle_mb_per_s=speed)
    slow = measured(held.fresh, modes=("sync", "async"), label=f"{LABEL}, slow storage")
    print(
        f"Now storage is held to {speed:.3g} MB/s: writing a chunk takes about as long as\n"
        "decoding it. sync pays for both, async only for the longer one and the last write.\n"
    )
    _show("2. Storage as slow as the decoder", slow)
    print(
        f"Runs of each: {RUNS}. That shows what overlaps with what; how much it saves takes more "
        "runs than\nthat: vdkit bench makes 10 of each.\n"
    )

    video, picture, table = (out / name for name in ("demo.mp4", "timeline.png", "table.md"))
    claim(video)
    decode_async(decoder, latents, Mp4Sink(video), fps=FPS, progress=False)
    figure = plot_timeline(
        {mode: slow.arms[mode].typical() for mode in ("sync", "async")},
        title=f"One decode on {slow.provenance.device}, storage held to {speed:.3g} MB/s",
    )
    with written(picture) as partly:
        figure.savefig(partly)
    write_atomically(table, f"{document_of(free).markdown()}\n{document_of(slow).markdown()}")
    recordings = {out / FILE: free, out / "recording_slow_storage.json": slow}
    for path, recording in recordings.items():
        write_atomically(path, recording.model_dump_json() + "\n")
    print("Written:", *(f"  {path}" for path in (video, picture, table, *recordings)), sep="\n")
    return out


def _check_earlier(out: Path) -> None:
    """An earlier demo is replaced, another recording is not: FileExistsError."""
    try:
        label = read_recording(out).label
    except FileNotFoundError:
        return
    if label != LABEL:
        raise FileExistsError(f"--out {str(out)!r} holds a recording; give another folder")


def _show(title: str, recording: Recording) -> None:
    whole = benchmark_table(recording)
    ratio = f"{recording.baseline} / mode"
    columns = ("mode", "mean s", "min s", "max s", "n", "TTFF s", "RTF", ratio)
    table = replace(whole, rows=[{name: row[name] for name in columns} for row in whole.rows])
    parts = (title, noise_note(recording), table.caption, table.markdown_body(), table.note)
    print("\n\n".join(filter(None, parts)) + "\n")
