"""The main job in small: every decode path on a short clip, compared, proved equal and drawn."""

from __future__ import annotations

import sys
from pathlib import Path

from vdkit.decode.chunks import DecodeConfig
from vdkit.decode.pipelined import decode_async
from vdkit.measure.plans import run_benchmark
from vdkit.models.latents import latents_metadata, load_latents
from vdkit.models.loading import TINY_WAN, load_decoder
from vdkit.present.tables import markdown_report, text_report
from vdkit.present.timeline import plot_timeline
from vdkit.record.machine import keep_freed_memory
from vdkit.record.recording import Recording, read_recording
from vdkit.record.runs import SinkInfo
from vdkit.record.store import check_out, claim, write_atomically, written
from vdkit.sinks.files import Mp4Sink
from vdkit.sinks.spec import SinkSpec
from vdkit.trace.timeline import balancing_mb_per_s

LATENTS = TINY_WAN.parent / "latents" / "red_circle_right.safetensors"
FPS = 16
RUNS = 2
WARMUP = 0  # the untimed run that hashes the frames has warmed the device up


def run_demo(out: Path, device: str = "auto") -> Path:
    """Run the demo on ``device``; MP4, timeline, table and records go into ``out``, returned.

    Raises:
        OSError: ``out`` cannot be written to.
        RuntimeError: the paths did not give the same frames.
        OSError: ``out`` cannot be written to, or holds a recording that is no demo.
    """
    check_out(out, "demo")
    if (out / "result.json").exists() and read_recording(out).label != "demo":
        raise FileExistsError(f"--out {str(out)!r} holds a recording; give another folder")
    decoder = load_decoder("tiny-wan", device)
    if decoder.device.type == "cpu":
        keep_freed_memory()
    latents = load_latents(LATENTS, decoder)
    out.mkdir(parents=True, exist_ok=True)
    gpu = decoder.device.type == "cuda"
    print(
        f"vdkit demo on {decoder.device}" + ("" if gpu else " (no GPU in use: copies are memcpy)")
    )
    made = latents_metadata(LATENTS)
    print(f"{made['video']}, made by {made['source']} for {made['prompt']!r}\n")

    fast_sink = SinkSpec("raw", out)
    free = run_benchmark(
        decoder,
        latents,
        fast_sink.fresh,
        sink_info=SinkInfo(**fast_sink.describe()),
        fps=FPS,
        runs=RUNS,
        warmup=WARMUP,
        progress=sys.stderr.isatty(),
        label="demo",
        latents_source=LATENTS.name,
    )
    _show("1. Storage keeps up", free)
    if not free.frames_identical:
        raise RuntimeError(
            "the decode paths gave different frames; this is a bug in vdkit or torch"
        )

    fastest = min(free.arms["sync"].timed, key=lambda run: run.latency_s)
    speed = balancing_mb_per_s(fastest, free.workload.height * free.workload.width * 3)
    slow_sink = SinkSpec("null", throttle_mb_per_s=speed)
    slow = run_benchmark(
        decoder,
        latents,
        slow_sink.fresh,
        sink_info=SinkInfo(**slow_sink.describe()),
        modes=("sync", "async"),
        fps=FPS,
        runs=RUNS,
        warmup=WARMUP,
        progress=sys.stderr.isatty(),
        label="demo, slow storage",
        latents_source=LATENTS.name,
    )
    print(
        f"Now storage is held to {speed:.3g} MB/s: writing a chunk takes about as long as\n"
        "decoding it. sync pays for both, async only for the longer one and the last write.\n"
    )
    _show("2. Storage as slow as the decoder", slow)

    video = out / "demo.mp4"
    claim(video)
    decode_async(decoder, latents, Mp4Sink(video), fps=FPS, config=DecodeConfig(), progress=False)
    picture = out / "timeline.png"
    figure = plot_timeline(
        {mode: slow.arms[mode].typical() for mode in ("sync", "async")},
        title=f"One decode on {slow.provenance.device}, storage held to {speed:.3g} MB/s",
    )
    with written(picture) as partial:
        figure.savefig(partial)
    table = out / "table.md"
    write_atomically(table, markdown_report(free) + "\n" + markdown_report(slow))
    for name, result in (("result.json", free), ("result_slow_storage.json", slow)):
        write_atomically(out / name, result.model_dump_json() + "\n")
    print("Written:")
    for path in (video, picture, table, out / "result.json", out / "result_slow_storage.json"):
        print(f"  {path}")
    return out


def _show(title: str, result: Recording) -> None:
    columns = (
        "mode",
        "mean s",
        "min s",
        "max s",
        "n",
        "TTFF s",
        "RTF",
        f"{result.baseline} / mode",
    )
    print(f"{title}\n\n{text_report(result, columns)}\n")
