"""The command line: ``vdkit bench``, ``vdkit demo``, ``vdkit show``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vdkit
from vdkit.decode.chunks import PRIMITIVES

PRESETS: dict[str, dict[str, Any]] = {
    "aws": {
        "decoder": "wan2.1",
        "latents": "random:161x480x832",
        "chunk": 1,
        "slots": 2,
        "runs": 10,
        "warmup": 1,
    },
}
"""``aws``: the workload of the published G7e measurement (AWS and Synthesia, 2026-05-19)."""

DEFAULTS: dict[str, Any] = {
    "decoder": "tiny-wan",
    "latents": "random:33x96x160",
    "chunk": 1,
    "slots": 2,
    "runs": 10,
    "warmup": 1,
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vdkit",
        description="What does it cost to get decoded video frames off a GPU, "
        "and how much of it can be hidden?",
    )
    parser.add_argument("--version", action="version", version=f"vdkit {vdkit.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_bench(commands)
    demo = commands.add_parser(
        "demo", help="every decode path on a short clip (half a minute on two idle cores)"
    )
    demo.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    demo.add_argument("--out", type=Path, default=Path("results/demo"), help="folder to write into")
    show = commands.add_parser("show", help="print a recorded result, and draw its timeline")
    show.add_argument("result", type=Path, help="a result.json, or the folder that holds it")
    show.add_argument("--modes", help="draw only these, e.g. sync,async (default: all)")
    show.add_argument("--timeline", type=Path, help="write the timeline here (.png, .svg or .pdf)")
    show.add_argument(
        "--zoom", type=int, metavar="N", help="draw only N consecutive chunks from the middle"
    )
    return parser


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="time decode paths against each other and record every value",
        description="Runs the decode paths in turns (A B B A ...), proves their frames identical, "
        "and writes result.json, runs.csv and table.md into a new folder. The last line of "
        "standard output is the summary as one line of JSON.",
    )
    add = bench.add_argument
    shown = {name: f"(default: {value})" for name, value in DEFAULTS.items()}
    add(
        "--preset",
        choices=PRESETS,
        help="aws: wan2.1, 161 frames 480x832, chunk 1, 2 slots, 1 + 10",
    )
    what = "wan2.1, wan2.2, tiny-wan, a folder or a hub id"
    add("--decoder", help=f"{what} {shown['decoder']}")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add(
        "--dtype", help="float16, bfloat16 or float32 (default: float16 on a GPU, float32 on a CPU)"
    )
    add("--latents", help=f"random:FRAMESxHxW in pixels, or a safetensors file {shown['latents']}")
    add(
        "--denormalize",
        action="store_true",
        help="the latents come from a pipeline: undo its scaling",
    )
    add("--seed", type=int, default=0, help="of random latents (default: 0)")
    add("--modes", default="diffusers,sync,async,compute", help="which paths (default: all four)")
    add("--baseline", help="the mode that speed-ups are against (default: sync)")
    add("--chunk", type=int, help=f"latent frames per decoder call {shown['chunk']}")
    add("--slots", type=int, help=f"ring slots of async, 1 to 16 {shown['slots']}")
    for name, words in PRIMITIVES.items():
        flag = f"--no-{name.replace('_', '-')}"
        add(flag, dest=name, action="store_false", help=f"async without {words}")
    add(
        "--sink",
        default="raw",
        metavar="KIND[:FOLDER]",
        help="null, raw, png or mp4, and where (default: raw in the system's temporary folder)",
    )
    add("--durable", action="store_true", help="raw sink: fsync before a run ends")
    add("--throttle-mb-s", type=float, metavar="MB/S", help="hold the sink to this storage speed")
    add("--fps", default="16", help="frame rate, e.g. 16 or 24000/1001 (default: 16)")
    add("--runs", type=int, help=f"timed runs of each mode {shown['runs']}")
    add("--warmup", type=int, help=f"untimed runs of each mode {shown['warmup']}")
    add(
        "--out",
        type=Path,
        default=Path("results"),
        help="parent of the new folder (default: results)",
    )
    add("--label", help="end of the folder's name (default: the preset, or the decoder)")
    add("--json", action="store_true", help="print only the line of JSON")


def bench(options: argparse.Namespace) -> int:
    from vdkit.decode.chunks import DecodeConfig
    from vdkit.measure.bench import run_benchmark
    from vdkit.measure.folders import check_out, result_folder
    from vdkit.measure.records import SinkInfo, write_atomically, write_result
    from vdkit.models.latents import load_latents
    from vdkit.models.loading import load_decoder
    from vdkit.present.tables import markdown_report, runs_frame, text_report
    from vdkit.sink_spec import SinkSpec, default_folder

    given = {**DEFAULTS, **PRESETS.get(options.preset, {})}
    given |= {name: value for name in DEFAULTS if (value := getattr(options, name)) is not None}
    kind, _, folder = options.sink.partition(":")
    config = DecodeConfig(
        chunk_size=given["chunk"],
        slots=given["slots"],
        **{name: getattr(options, name) for name in PRIMITIVES},
    )
    where = Path(folder) if folder else None if kind == "null" else default_folder()
    spec = SinkSpec(kind, where, options.durable, options.throttle_mb_s)
    label = options.label or options.preset or Path(given["decoder"]).name
    check_out(options.out, label)
    decoder = load_decoder(given["decoder"], options.device, options.dtype)
    latents = load_latents(given["latents"], decoder, options.seed)
    if options.denormalize:
        latents = decoder.denormalize(latents)
    if not options.json:
        print(f"decoding on {decoder.device} in {str(decoder.dtype).removeprefix('torch.')}")
    source = given["latents"]
    result = run_benchmark(
        decoder,
        latents,
        spec.fresh,
        sink_info=SinkInfo(**spec.describe()),
        modes=[mode.strip() for mode in options.modes.split(",")],
        baseline=options.baseline,
        config=config,
        fps=options.fps,
        runs=given["runs"],
        warmup=given["warmup"],
        source=Path(given["decoder"]).name if Path(given["decoder"]).exists() else given["decoder"],
        latents_source=source if source.startswith("random:") else Path(source).name,
        seed=options.seed,
        label=label,
        command=shlex.join(["vdkit", *options.arguments]),
        progress=not options.json and sys.stderr.isatty(),
    )
    home = result_folder(options.out, result)
    write_result(result, home)
    write_atomically(home / "runs.csv", runs_frame(result).to_csv(index=False))
    write_atomically(home / "table.md", markdown_report(result))
    if not options.json:
        print(f"\n{text_report(result)}\n\nRecorded in {home}")
    print(_one_line(result, home))
    if result.frames_identical is False:
        print("vdkit: error: the modes gave different frames", file=sys.stderr)
        return 1
    return 0


def _one_line(result: Any, home: Path) -> str:
    return json.dumps({"folder": str(home), **result.summary()}, separators=(",", ":"))


def demo(options: argparse.Namespace) -> int:
    from vdkit.demo import run_demo

    run_demo(options.out, options.device)
    return 0


def show(options: argparse.Namespace) -> int:
    from vdkit.measure.records import read_result
    from vdkit.present.plots import plot_timeline, steady_window
    from vdkit.present.tables import breakdown_rows, markdown_table, text_report

    if options.timeline is not None and options.timeline.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"timeline {str(options.timeline)!r}: end the name in .png, .svg or .pdf")
    if options.zoom is not None and options.zoom < 1:
        raise ValueError(f"zoom is {options.zoom}; draw 1 chunk or more")
    result = read_result(options.result)
    wanted = options.modes.split(",") if options.modes else list(result.modes)
    missing = [mode for mode in wanted if mode not in result.modes]
    if missing:
        raise ValueError(
            f"no mode {', '.join(missing)} in this result; it has {', '.join(result.modes)}"
        )
    print(text_report(result))
    print(f"\nWhere the time goes:\n\n{markdown_table(breakdown_rows(result))}")
    if options.timeline is None:
        if options.zoom is not None:
            raise ValueError("zoom is for a picture; name one with --timeline FILE")
        return 0
    runs = {mode: result.typical(mode) for mode in wanted}
    window = None
    if options.zoom is not None:
        runs = {mode: run for mode, run in runs.items() if len(run.chunks) > 1} or runs
        window = steady_window(runs.get("async") or next(iter(runs.values())), options.zoom)
    plot_timeline(runs, window, title=result.label).savefig(options.timeline)
    print(f"\nTimeline in {options.timeline}")
    return 0


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 (the check failed), 2 (bad input)."""
    options = build_parser().parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # so that scratch files go, as on Ctrl-C
    try:
        status = {"bench": bench, "demo": demo, "show": show}[options.command](options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output has had enough, as in `vdkit show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError) as error:
        print(f"vdkit: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vdkit: interrupted; nothing was recorded", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if type(error).__name__ != "DecodeOutOfMemory":
            raise
        print(f"vdkit: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
