"""The command line: what there is to say to ``vdkit``, and how it ends."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vdkit
from vdkit.commands import COMMANDS
from vdkit.decode.chunks import PRIMITIVES

PRESETS: dict[str, dict[str, Any]] = {
    "aws": {
        "decoder": "wan2.1",
        "latents": "random:161x480x832",
        "chunk": 1,
        "slots": 2,
        "warmup": 1,
    },
}
"""``aws``: the workload of the published G7e measurement (AWS and Synthesia, 2026-05-19)."""

MODES = "diffusers,sync,async,compute"

DEFAULTS: dict[str, Any] = {
    "decoder": "tiny-wan",
    "latents": "random:33x96x160",
    "chunk": 1,
    "slots": 2,
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
    _add_profile(commands)
    _add_analyze(commands)
    _add_generate(commands)
    demo = commands.add_parser(
        "demo", help="every decode path on a short clip (two minutes on two idle cores)"
    )
    demo.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    demo.add_argument("--out", type=Path, default=Path("results/demo"), help="folder to write into")
    show = commands.add_parser(
        "show",
        help="print a recorded benchmark or profile, and draw a benchmark's timeline",
        description="Prints what bench and demo (result.json) or profile (profile.json) recorded. "
        "The options draw a benchmark's timeline; the pictures of a profile lie beside it.",
    )
    show.add_argument(
        "result",
        type=Path,
        help="a folder of bench, demo or profile, or the result.json or profile.json in it",
    )
    show.add_argument("--modes", help=f"draw only these of {MODES} (default: all)")
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
        "standard output is one line of JSON: the folder and the latencies; with --json it is the "
        "only line, and the whole summary.",
    )
    _add_what(bench, runs=10, note="")
    bench.add_argument("--baseline", help="the mode that speed-ups are against (default: sync)")
    bench.add_argument(
        "--warmup", type=int, help=f"untimed runs of each mode (default: {DEFAULTS['warmup']})"
    )


def _add_profile(commands: Any) -> None:
    profile = commands.add_parser(
        "profile",
        help="trace each decode path once: utilization, stalls by cause, kernels, NVML",
        description="Times each decode path with the NVML sampler off and on, profiles each once, "
        "and writes profile.json, table.md, nvml.csv, pictures and a trace of each path, which "
        "https://ui.perfetto.dev opens, into a new folder.",
    )
    _add_what(profile, runs=5, note=", and on a GPU as many again with the NVML sampler on")
    profile.add_argument(
        "--nvml-ms",
        type=float,
        default=20.0,
        metavar="MS",
        help="milliseconds between NVML samples, 1 to 10000 (default: 20)",
    )
    profile.add_argument(
        "--keep-kineto", action="store_true", help="also leave the profiler's own traces (large)"
    )


def _add_analyze(commands: Any) -> None:
    analyze = commands.add_parser(
        "analyze",
        help="the same figures for any Kineto trace, on a machine without a GPU",
        description="Utilization, gaps, stalls by cause and kernel families of a PyTorch profiler "
        "trace, of vdkit's own or any program's.",
    )
    analyze.add_argument("trace", type=Path, help="a trace: .json or .json.gz")
    analyze.add_argument("--gpu", type=int, help="which GPU, if the trace holds several")
    analyze.add_argument("--json", action="store_true", help="print only one line of JSON")


def _add_generate(commands: Any) -> None:
    generate = commands.add_parser(
        "generate",
        help="text to latents to video: prompt in, MP4 out, with the seconds of every stage",
        description="Runs text encoder and denoising of a Wan pipeline, decodes the latents on the "
        "asynchronous path and writes an MP4. The default model is the miniature in data/tiny-wan, "
        "whose model card lists the words it knows.",
    )
    add = generate.add_argument
    add("--prompt", required=True, help="what the video shows")
    add("--out", type=Path, default=Path("clip.mp4"), help="MP4 to write (default: clip.mp4)")
    add("--model", default="tiny-wan", help="tiny-wan, a pipeline folder or a hub id")
    add("--negative-prompt", default="", help="what guidance leads away from")
    add("--frames", type=int, default=33, help="4n+1; tiny-wan: 33 (default: 33)")
    add("--height", type=int, default=96, help="a multiple of 16; tiny-wan: 96 (default: 96)")
    add(
        "--width",
        type=int,
        default=160,
        help="a multiple of 16; tiny-wan: 160 (default: 160)",
    )
    add("--steps", type=int, default=20, help="denoising steps, 1 to 1000 (default: 20)")
    add("--seed", type=int, default=0, help="of the noise (default: 0)")
    add("--guidance", type=float, default=4.0, help="high-noise expert; 1: none (default: 4)")
    add("--guidance-2", type=float, default=3.0, help="low-noise expert (default: 3)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--dtype", help="of the transformers (default: bfloat16 on a GPU, float32 on a CPU)")
    add("--fps", default="16", help="frame rate, e.g. 16 or 24000/1001 (default: 16)")
    add("--save-latents", type=Path, metavar="FILE", help="keep the latents too, replacing FILE")
    add("--json", action="store_true", help="print only one line of JSON, no progress bars")


def _add_what(command: argparse.ArgumentParser, runs: int, note: str) -> None:
    """What to decode, how, and where to write: shared by bench and profile; ``note``: on runs."""
    add = command.add_argument
    shown = {name: f"(default: {value})" for name, value in DEFAULTS.items()}
    add(
        "--preset",
        choices=PRESETS,
        help="aws: wan2.1, 161 frames 480x832, chunk 1, 2 slots",
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
    add("--modes", default=MODES, help=f"which paths, of {MODES} (default: all four)")
    add("--chunk", type=int, help=f"latent frames per decoder call {shown['chunk']}")
    add("--slots", type=int, help=f"ring slots of async, 1 to 16 {shown['slots']}")
    for name, words in PRIMITIVES.items():
        flag = f"--no-{name.replace('_', '-')}"
        add(flag, dest=name, action="store_false", help=f"async without {words}")
    add("--nvtx", action="store_true", help="NVTX ranges by chunk and step, for Nsight Systems")
    add(
        "--sink",
        default="raw",
        metavar="KIND[:FOLDER]",
        help="null, raw, png or mp4, and where (default: raw in the system's temporary folder)",
    )
    add("--durable", action="store_true", help="raw sink: fsync before a run ends")
    add("--throttle-mb-s", type=float, metavar="MB/S", help="hold the sink to this storage speed")
    add("--fps", default="16", help="frame rate, e.g. 16 or 24000/1001 (default: 16)")
    add("--runs", type=int, default=runs, help=f"timed runs of each mode{note} (default: {runs})")
    add(
        "--out",
        type=Path,
        default=Path("results"),
        help="parent of the new folder (default: results)",
    )
    add("--label", help="end of the folder's name (default: the preset, or the decoder)")
    add("--json", action="store_true", help="print only the line of JSON")


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 (the check failed), 2 (bad input)."""
    options = build_parser().parse_args(arguments)
    if hasattr(options, "preset"):
        preset = PRESETS.get(options.preset, {})
        for name, value in {**DEFAULTS, **preset}.items():
            if getattr(options, name, None) is None:
                setattr(options, name, value)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # so that scratch files go, as on Ctrl-C
    try:
        status = COMMANDS[options.command](options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output has had enough, as in `vdkit show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, MemoryError) as error:
        print(f"vdkit: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "vdkit: interrupted; nothing was recorded, earlier files are as they were",
            file=sys.stderr,
        )
        return 130
    except RuntimeError as error:
        if type(error).__name__ != "DecodeOutOfMemory":
            raise
        print(f"vdkit: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
