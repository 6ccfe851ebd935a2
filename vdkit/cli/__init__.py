"""One table of options, of which each command names those it takes; what they ask, loaded."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vdkit
from vdkit.decode.chunks import MAX_SLOTS, PRIMITIVES, DecodeConfig, exact_fps
from vdkit.decode.media import MEDIA
from vdkit.models import BY_CHUNK_ONLY, VARIANTS
from vdkit.present import filled
from vdkit.present.columns import Asked
from vdkit.record import check_out
from vdkit.record.runs import MODES
from vdkit.sinks import KINDS, SinkSpec, sink_takes

if TYPE_CHECKING:
    import torch

    from vdkit.decode import ChunkDecoder
    from vdkit.present.document import Document

DEFAULTS: dict[str, Any] = {
    "decoder": "tiny-wan",
    "latents": None,
    "chunk": DecodeConfig().chunk_size,
    "slots": DecodeConfig().slots,
    "warmup": 1,
}
"""Without latents they are the `Medium.sample` of what the decoder makes."""
PRESETS = {"aws": DEFAULTS | {"decoder": "wan2.1", "latents": "clips:161x480x832"}}
"""``aws``: the workload of the published G7e measurement (AWS and Synthesia, 2026-05-19)."""

ALL_MODES = ",".join(MODES)
ALL_VARIANTS = ",".join(VARIANTS)
FORMATS = ("text", "markdown", "latex", "csv")
"""Forms of a table, which are methods of `vdkit.Table` too."""
RESULT = "a folder of bench, profile, sweep or demo, or the JSON file in it"
FLAG: Any = "store_true"
OFF: Any = "store_false"


def opt(
    text: str, kind: Any = None, default: Any = None, told: Any = None, **more: Any
) -> dict[str, Any]:
    """What argparse takes; help ends in the default, or in what is ``told`` of it; "": nothing."""
    shown = default if told is None else told
    more["help"] = text if shown in (None, "") else f"{text} (default: {shown})"
    if kind in (FLAG, OFF, argparse.BooleanOptionalAction):
        return more | {"action": kind}
    return more | {"type": kind, "default": default}


_DECODER = "tiny-wan, wan2.1, flux, ..., a folder, a hub id, or MODULE:NAME of your own"
_LATENTS = ", ".join(f"random:{one.form}" for one in MEDIA.values())
_LATENTS += ", clips:FRAMESxHxW[:CAPTION], or a safetensors file"
_SAMPLES = ", ".join(f"random:{one.sample}" for one in MEDIA.values())
_SINK = f"{', '.join(KINDS)}, and where; export_to_video is for mode diffusers alone; an mp4 takes "
_SINK += ", ".join(sink_takes("mp4"))
_RAW, _WHERE = "raw in the system's temporary folder", "KIND[,OPTION=VALUE][:FOLDER]"
_MODES, _RUNS = f"which paths, of {ALL_MODES}", "timed runs of each mode"
_ONE_LINE, _CHUNK = "print only one line of JSON", "latent frames per decoder call"

OPTIONS: dict[str, dict[str, Any]] = {
    # What to decode, how, and where to write.
    "preset": opt("aws: wan2.1, 161 frames 480x832, chunk 1, 2 slots", choices=PRESETS),
    "decoder": opt(_DECODER, told=DEFAULTS["decoder"]),
    "variant": opt(
        f"how the weights are run, of {ALL_VARIANTS}", default="diffusers", metavar="NAME"
    ),
    "halo": opt(
        "latents around a chunk, of a decoder that looks ahead", int, told="8, of audio 10"),
    "grain": opt("film grain on the pictures, levels of 255, e.g. 3", float, metavar="SIGMA"),
    "tune": opt("of variant fast: kernels that no table knows are timed once, off, or force: all "
        "anew, by at most a minute", choices=("auto", "off", "force"), told="auto"),
    "device": opt("auto, cpu, cuda or cuda:N", default="auto"),
    "dtype": opt("float16, bfloat16 or float32", told="float16 on a GPU, float32 on a CPU"),
    "latents": opt(_LATENTS, told=f"{_SAMPLES}: by what the decoder makes"),
    "denormalize": opt(
        "the latents come from a pipeline: undo its scaling (ComfyUI has undone it)", FLAG),
    "seed": opt("of random latents and clips", int, 0),
    "modes": opt(_MODES, default=ALL_MODES, told="all four"),
    "runs": opt(_RUNS, int, told="by what is run"),
    "chunk": opt(_CHUNK, int, told=DEFAULTS["chunk"]),
    "slots": opt(f"ring slots of async, 1 to {MAX_SLOTS}", int, told=DEFAULTS["slots"]),
    **{
        f"no-{name.replace('_', '-')}": opt(f"async without {words}", OFF, dest=name)
        for name, words in PRIMITIVES.items()
    },
    "nvtx": opt("NVTX ranges by chunk and step, for Nsight Systems", FLAG),
    "sink": opt(_SINK, told=_RAW, metavar=_WHERE),
    "bench:sink": opt(f"{_SINK}; several times: each path into each of them", told=_RAW,
        action="append", metavar=_WHERE),
    "durable": opt("raw sink: fsync before a run ends", FLAG),
    "throttle-mb-s": opt("hold the sink to this storage speed", float, metavar="MB/S"),
    "fps": opt("frame rate, e.g. 16 or 24000/1001", default="16"),
    "out": opt("parent of the new folder", Path, Path("results")),
    "label": opt("end of the folder's name", told="the preset, the study or the decoder"),
    "json": opt("print only the line of JSON", FLAG),
    # Shown beside what is recorded, and never recorded.
    "usd-per-hour": opt(
        "price of an hour of the machine, US dollars: adds what an hour of video costs and what "
        "1,000 hours save against the baseline; never recorded", float, metavar="PRICE"),
    "energy": opt("add joules per second of video, from the NVML energy counter around each run",
        FLAG),
    "demo:out": opt("folder to write into", Path, Path("results/demo"), ""),
    # bench
    "variants": opt(
        f"ways to run one decoder side by side, of {ALL_VARIANTS}, or all; the first is what the "
        "others are compared with (10 runs)", metavar="NAME,..."),
    "ablation": opt("async with each of its primitives off in turn (8 runs)", FLAG),
    "aa": opt(
        "one mode against itself, and with work planted after every chunk: does compare stay "
        "quiet, and find it? (40 runs)", FLAG),
    "no-families": opt("with --variants: do not profile kernels by family afterwards", OFF,
        dest="families"),
    "only": opt("with --ablation: only these settings", metavar="NAME,..."),
    "mode": opt("with --aa: sync, async or compute_only", told="async"),
    "pairs": opt("with --aa: rounds drawn in each split", int, told=10),
    "splits": opt("with --aa: how often to draw and ask", int, told=40),
    "plant": opt("with --aa: work planted after each chunk, %% of its decode time", float,
        told="2 on a GPU, 5 on a CPU", metavar="PERCENT"),
    "baseline": opt("the mode that speed-ups are against", told="sync"),
    "warmup": opt("untimed runs of each mode", int, told=DEFAULTS["warmup"]),
    # profile
    "profile:runs": opt(f"{_RUNS}, and on a GPU as many again with the NVML sampler on", int, 5),
    "nvml-ms": opt("milliseconds between NVML samples, 1 to 10000", float, 20.0, 20, metavar="MS"),
    "keep-kineto": opt("also leave the profiler's own traces (large)", FLAG),
    # sweep
    "sweep:modes": opt(_MODES, default="sync,async"),
    "sweep:runs": opt(_RUNS, int, 3),
    "chunks": opt(_CHUNK, default="1,2,4"),
    "ring-slots": opt("ring slots of async", default="1,2,3,4"),
    "speeds": opt("what the sink is held to, full for not at all", default="full,400,100,40",
        metavar="MB/S,..."),
    "resume": opt("go on with this sweep, by the options it was begun with", Path,
        metavar="FOLDER"),
    # reproduce, check
    "reproduce:decoder": opt("in place of wan2.1: the released checkpoint, a folder or a hub id",
        metavar="DECODER"),
    "reproduce:resume": opt("go on with this reproduction, or a copy of it", Path,
        metavar="FOLDER"),
    "<folders>": opt("a recording's folder, or one above many", Path, nargs="+",
        metavar="FOLDER"),
    # generate, decode
    "prompt": opt("what the video shows", required=True),
    "model": opt("tiny-wan, a pipeline folder or a hub id", default="tiny-wan", told=""),
    "negative-prompt": opt("what guidance leads away from", default=""),
    "generate:frames": opt("4n+1; tiny-wan: 33", int, 33),
    "height": opt("a multiple of 16; tiny-wan: 96", int, 96),
    "width": opt("a multiple of 16; tiny-wan: 160", int, 160),
    "steps": opt("denoising steps, 1 to 1000", int, 20),
    "generate:seed": opt("of the noise", int, 0),
    "guidance": opt("high-noise expert; 1: none", float, 4.0, 4),
    "guidance-2": opt("low-noise expert", float, 3.0, 3),
    "generate:dtype": opt("of the transformers", told="bfloat16 on a GPU, float32 on a CPU"),
    "save-latents": opt("keep the latents too, replacing FILE", Path, metavar="FILE"),
    "generate:out": opt("MP4 to write", Path, Path("clip.mp4")),
    "decode:out": opt(
        "what to write: .mp4; of audio .wav or .flac; raw .rgb; of images and frames a folder, for "
        "PNG", Path,
        told="clip.mp4, of audio clip.wav, of images the folder clip"),
    "<latents>": opt(f"safetensors, whatever it ends in; {_LATENTS.rpartition(', ')[0]}",
        metavar="FILE"),
    "gpus": opt("split each frame over so many, by rows, exactly; of Wan, into .rgb", int, 1),
    "decode:decoder": opt(_DECODER, default="tiny-wan", told=""),
    # fanout
    "<manifest>": opt("JSON lines, or a folder of latents", Path, metavar="MANIFEST"),
    "fanout:out": opt("folder for the files, and for a folder with the recording", Path,
        required=True, metavar="DIR"),
    "fanout:sink": opt(f"of {', '.join(KINDS[1:-1])}", default="mp4",
        metavar="KIND[,OPTION=VALUE]"),
    "fanout:device": opt("of every worker", default="auto", choices=("auto", "cpu", "cuda")),
    "fanout:label": opt("end of the name of the recording's folder", default="fanout"),
    "fanout:usd-per-hour": opt("price of an hour of all machines together, US dollars: adds what "
        "an hour of video costs; never recorded", float, metavar="PRICE"),
    "workers": opt("processes with a decoder each", int, told="one for each GPU; without one, 2"),
    "engine": opt("what runs them: ray (pip install '.[scale]'), or processes of this host",
        default="ray", choices=("ray", "processes")),
    "address": opt("of a running Ray cluster", metavar="HOST:PORT"),
    # probe
    "<decoder>": opt(_DECODER, metavar="DECODER"),
    "probe:dtype": opt("of one by name", told="float64, of other variants float32"),
    "probe:latents": opt(_LATENTS, told="41 random ones of 2x2, of images 5 of 4x4"),
    "halo-db": opt("what a seam is to reach", float, 40.0, 40, metavar="DB"),
    "picture": opt("write it here (.png, .svg or .pdf)", Path, metavar="FILE"),
    **dict.fromkeys(
        [f"{n}:json" for n in ("generate", "probe", "analyze", "recommend", "results", "doctor")],
        opt(_ONE_LINE, FLAG)),
    "doctor:out": opt("where results are to go", Path, Path("results"), metavar="FOLDER"),
    # compare, analyze, show, report
    "<a>": opt(f"before: {RESULT}", Path, metavar="A"),
    "<b>": opt("after", Path, metavar="B"),
    "compare:modes": opt("only these, separated by commas", told="all that both have"),
    "mode-a": opt("compare this mode of A ...", metavar="MODE"),
    "mode-b": opt("... with this mode of B, which may be the same recording", metavar="MODE"),
    "metrics": opt("only these of latency_s, ttff_s, vram_peak_bytes, pinned_bytes, energy_j",
        told="all that are recorded"),
    "paired": opt("round i of A beside round i of B, for runs made in turns",
        argparse.BooleanOptionalAction, told="only within one recording"),
    "across": opt("compare other media (frames, size) all the same", FLAG),
    "fail-above": opt(
        "exit status 1 if a called difference is worse by more than this, e.g. 2%%",
        metavar="PERCENT"),
    "<trace>": opt("a trace: .json or .json.gz", Path),
    "gpu": opt("which GPU, if the trace holds several", int),
    "<result>": opt(RESULT, Path),
    "show:modes": opt("draw only these arms", told="all"),
    "timeline": opt("write the timeline here (.png, .svg or .pdf)", Path),
    "zoom": opt("draw only N consecutive chunks from the middle", int, metavar="N"),
    "show:format": opt(
        "print the tables alone: aligned text, Markdown, LaTeX (booktabs) or CSV (the first "
        "table, intervals in columns of their own)", choices=FORMATS),
    "<records>": opt(RESULT, Path, nargs="+", metavar="RUN"),
    "report:out": opt(
        "write it here (default: report.html); an earlier report is replaced, another file never",
        Path, Path("report.html"), "", metavar="FILE"),
    # recommend, results
    "<results>": opt("folders of bench, or one of sweep", Path, nargs="+", metavar="RESULT"),
    "vram-gb": opt("limit on peak VRAM (10**9 bytes)", float, metavar="GB"),
    "pinned-mb": opt("limit on the ring's pinned memory", float, metavar="MB"),
    "ttff-s": opt("limit on the time to the first frame", float, metavar="S"),
    "storage-mb-s": opt("storage that keeps up only so far", float, metavar="MB/S"),
    "burst-mb": opt("what a cache in front of it takes at once", float, metavar="MB"),
    "frames": opt("length in frames, images or samples", int, told="the recorded"),
    "recommend:chunks": opt("chunk sizes to choose from", told="those that were measured"),
    "recommend:variant": opt("of a recording of several, this one", told="", metavar="NAME"),
    "recommend:gpus": opt("numbers of GPUs to simulate with that setting, from the costs of one, "
        "e.g. 1,2,4,8,64; what they share:", metavar="N,..."),
    "host-gpus": opt("GPUs of a host", int, told=8, metavar="N"),
    "cores": opt("of a host", float, metavar="N"),
    "memory-gb-s": opt("of a host's memory", float, metavar="GB/S"),
    "pcie-gb-s": opt("of a switch that the GPUs of a host share", float, metavar="GB/S"),
    "shared-storage-mb-s": opt("of the storage of all hosts together (--storage-mb-s: of each)",
        float, metavar="MB/S"),
    "recommend:picture": opt("of --gpus, here (.png, .svg or .pdf)", Path, metavar="FILE"),
    **dict.fromkeys(
        ("recommend:usd-per-hour", "reproduce:usd-per-hour"),
        opt("price of an hour of the machine, US dollars", float, metavar="PRICE")),
    "<where>": opt(
        "folders, searched with all folders in them, result files, or quoted patterns, ** for any "
        "depth", default=["results"], told="results", nargs="*", metavar="PATTERN"),
    "results:runs": opt("a row for every run, warm-ups too", FLAG),
    "cells": opt("a row for every cell of a sweep too, not one line", FLAG),
    "results:modes": opt(f"only these of {ALL_MODES}", told="all"),
    "csv": opt("also write every column of every run of every mode here, as CSV", Path,
        metavar="FILE"),
    "format": opt(
        "print the table alone: aligned text, Markdown, LaTeX (booktabs) or CSV of what is shown "
        "(--csv has everything, unrounded)", choices=FORMATS),
}  # fmt: skip
"""``command:name``, or ``name`` of every command, as argparse takes it; <arguments> too."""

WORKLOAD = (
    "preset decoder variant halo grain tune device dtype latents denormalize seed modes runs chunk "
    "slots no-pinned-memory no-copy-stream no-writer-thread no-uint8-on-gpu nvtx sink durable "
    "throttle-mb-s fps out label json"
)
MONEY = "usd-per-hour energy"

Run = Callable[[argparse.Namespace], int]
COMMANDS: dict[str, tuple[Run, str, dict[str, Any]]] = {}
"""By name: what runs it and gives the exit status, what it takes, what is fixed."""


def command(takes: str, **fixed: Any) -> Callable[[Run], Run]:
    """Of ``run_NAME``, whose docstring is the help: a line, then what it does.

    Args:
        takes: names of `OPTIONS`; of those joined by | one at a time.
        fixed: options that are not to be chosen here.
    """

    def add(run: Run) -> Run:
        COMMANDS[run.__name__.removeprefix("run_")] = (run, takes, fixed)
        return run

    return add


def build_parser() -> argparse.ArgumentParser:
    """Of every command, with the options it takes."""
    for home in ("run", "scale", "read", "machine", "reproduce", "checked"):
        import_module(f"vdkit.cli.{home}")
    what = (
        "What does it cost to get decoded video frames off a GPU, and how much of it can be hidden?"
    )
    parser = argparse.ArgumentParser(prog="vdkit", description=what)
    parser.add_argument("--version", action="version", version=f"vdkit {vdkit.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (run, takes, fixed) in COMMANDS.items():
        line, _, more = (run.__doc__ or "").partition("\n")
        made = commands.add_parser(name, help=line, description=more.strip() or None)
        made.set_defaults(run=run, wrong=made.error, **fixed)
        for several in takes.split():
            if several.replace("-", "_") in fixed:
                continue
            group = made.add_mutually_exclusive_group() if "|" in several else made
            for one in several.split("|"):
                how = OPTIONS.get(f"{name}:{one}") or OPTIONS[one]
                group.add_argument(one.strip("<>") if "<" in one else f"--{one}", **how)
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options given; those of a workload left out are the preset's, else of `DEFAULTS`.

    Price and energy are in ``asked`` too, for what makes tables; ValueError for an unusable price.
    """
    options, left = build_parser().parse_known_args(arguments)
    if left:
        options.wrong(f"unrecognized arguments: {' '.join(left)}")  # with that command's usage
    del options.wrong
    options.arguments = list(arguments)
    if hasattr(options, "usd_per_hour"):  # what is wrong with it, before anything is loaded
        options.asked = Asked(options.usd_per_hour, getattr(options, "energy", False))
    if hasattr(options, "preset"):
        for name, value in PRESETS.get(options.preset, DEFAULTS).items():
            if getattr(options, name, None) is None:
                setattr(options, name, value)
    return options


def command_line(arguments: Sequence[str]) -> str:
    """For the record: without the price, which says nothing about the runs."""
    price = argparse.ArgumentParser(add_help=False)
    price.add_argument("--usd-per-hour")
    return shlex.join(["vdkit", *price.parse_known_args(arguments)[1]])


def words(text: str | None) -> list[str] | None:
    """``a,b`` as names."""
    return None if text is None else [name.strip() for name in text.split(",")]


def numbers(name: str, text: str, kind: Any) -> list[Any]:
    """``1,2,4`` as numbers of ``kind``; ValueError that names the word that is none."""
    found: list[Any] = []
    for word in words(text) or []:
        try:
            found.append(kind(word))
        except ValueError:
            wanted = "numbers or full" if name == "speeds" else "numbers"
            wrong = f"--{name} {text!r}: {word!r} is no number; give {wanted}, separated by commas"
            raise ValueError(wrong) from None
    return found


def say(options: argparse.Namespace, line: str) -> None:
    """A line for people, unless only JSON was asked for."""
    if not options.json:
        print(filled(line, columns()), flush=True)


def columns() -> int:
    """Of the terminal, or as COLUMNS says; 0 if there is neither, and no line is to be wrapped."""
    return shutil.get_terminal_size((0, 0)).columns


def told(document: Document) -> str:
    """A document as it is printed."""
    return document.text(sys.stdout.isatty(), columns())


def progress(options: argparse.Namespace) -> bool:
    """Whether to draw a bar."""
    return not getattr(options, "json", False) and sys.stderr.isatty()


def print_json(made: Any) -> None:
    """One line; dataclasses and records in it as objects."""
    from pydantic_core import to_jsonable_python

    print(json.dumps(made, default=to_jsonable_python, separators=(",", ":")))


def asked_modes(options: argparse.Namespace) -> list[str]:
    """The decode paths of --modes; ``compute`` is the name that compute_only had."""
    return ["compute_only" if m == "compute" else m for m in words(options.modes) or []]


def runnable(options: argparse.Namespace) -> list[str]:
    """Those of --modes that --variant can run; a line says what is left out."""
    modes = asked_modes(options)
    if options.variant in BY_CHUNK_ONLY and "diffusers" in modes:
        modes.remove("diffusers")
        say(options, f"{options.variant}: mode diffusers is skipped, it decodes by chunk only")
    return modes


def asked_variants(options: argparse.Namespace) -> list[str]:
    """--variant alone, or the names of --variants; ValueError for what is none of those."""
    if (given := getattr(options, "variants", None)) is None:
        return [options.variant]
    names = list(VARIANTS) if given == "all" else words(given) or []
    if options.variant != "diffusers":
        raise ValueError("--variant and --variants exclude each other; name all in --variants")
    if unknown := [name for name in names if name not in VARIANTS]:
        raise ValueError(
            f"variants {', '.join(map(repr, unknown))}: use any of {', '.join(VARIANTS)}, or all"
        )
    return names


def specs(options: argparse.Namespace) -> list[SinkSpec]:
    """Every --sink, raw if none was given."""
    given = options.sink or "raw"
    several = [given] if isinstance(given, str) else given
    return [SinkSpec.of(one, options.durable, options.throttle_mb_s) for one in several]


def check(options: argparse.Namespace) -> tuple[SinkSpec, dict[str, Any]]:
    """The sink, and the arguments that every study takes: configuration, what the record says.

    Raises for all that is wrong without a decoder.
    """
    from vdkit.measure.study import check_modes, check_rounds
    from vdkit.models.latents import latents_metadata

    variants, modes = asked_variants(options), asked_modes(options)
    spec, *_ = specs(options)
    if spec.kind == "export_to_video" and not {"diffusers", "compute_only"}.issuperset(modes):
        raise ValueError(
            f"sink export_to_video takes diffusers' frames, --modes is {options.modes}; use "
            "--modes diffusers, or sink mp4"
        )
    switches = {name: getattr(options, name) for name in PRIMITIVES}
    config = DecodeConfig(options.chunk, options.slots, nvtx=options.nvtx, **switches)
    given, latents = Path(options.decoder), options.latents
    label = options.label or options.preset or given.name
    check_out(options.out, label)
    check_modes(modes, getattr(options, "baseline", None))
    check_rounds(options.runs, getattr(options, "warmup", 0))
    for name in BY_CHUNK_ONLY.intersection(variants if modes == ["diffusers"] else ()):
        raise ValueError(
            f"variant {name!r} decodes by chunk only, --modes asks for diffusers' decode of a "
            "whole video; add sync, async or compute_only"
        )
    exact_fps(options.fps)
    told = latents_metadata(latents or "random:", options.seed)
    if latents and latents.startswith("clips:"):  # the caption that the seed chose is recorded
        options.latents = f"{':'.join(latents.split(':')[:2])}:{told['prompt']}"
    return spec, {
        "config": config,
        "fps": options.fps,
        "source": given.name if given.exists() else options.decoder,
        "latents_source": latents_source(options),
        "seed": options.seed,
        "label": label,
        "command": command_line(options.arguments),
        "progress": progress(options),
    }


def latents_source(options: argparse.Namespace) -> str:
    """The latents that the options name, for the record; "" before the decoder says which."""
    latents: str = options.latents or ""
    return latents if latents.startswith(("random:", "clips:")) else Path(latents).name


def load(
    options: argparse.Namespace, ready: bool = True
) -> tuple[ChunkDecoder, torch.Tensor, SinkSpec, dict[str, Any]]:
    """Check everything that can be checked before a decoder is loaded, then load: as `check`.

    Args:
        ready: prepare it for ``--chunk`` too.
    """
    from vdkit.measure.study import prepare

    spec, shared = check(options)
    start_device(options)
    begun = time.perf_counter()
    with getting(options.variant):
        decoder = load_for(options, spec)
    setup_s = time.perf_counter() - begun
    latents = latents_of(options, decoder)
    say(options, f"decoding on {decoder.device} in {str(decoder.dtype).removeprefix('torch.')}")
    for note in getattr(decoder, "notes", ()):
        say(options, note)
    if ready:
        with getting(options.variant):
            setup_s += prepare(decoder, latents, options.chunk)
        say(options, f"set-up of {options.variant}: {setup_s:.1f} s")
    shared |= {"setup_s": setup_s, "latents_source": latents_source(options)}
    return decoder, latents, spec, shared


def start_device(options: argparse.Namespace) -> None:
    """Load the libraries and wake the device, which is no decoder's set-up."""
    import torch

    from vdkit.models.loading import resolve_device

    torch.zeros(1, device=resolve_device(options.device))


def load_variant(
    options: argparse.Namespace, variant: str, dtype: str | None = None
) -> ChunkDecoder:
    """The decoder that the options name, run in this way; ``dtype`` in place of theirs."""
    if is_own(options.decoder):
        return own_maker(options, variant)()
    wanted = dtype or options.dtype
    halo, grain, tune = (getattr(options, name, None) for name in ("halo", "grain", "tune"))
    if getattr(options, "variants", None) and variant != "fast":
        tune = None
    decoder: ChunkDecoder = vdkit.load_decoder(
        options.decoder, options.device, wanted, variant, halo, grain, tune
    )
    if decoder.device.type == "cpu":
        vdkit.keep_freed_memory()
    return decoder


def load_for(options: argparse.Namespace, spec: SinkSpec) -> ChunkDecoder:
    """The decoder that the options name; TypeError if the sink does not take what it makes."""
    from vdkit.decode import Traits, check_medium

    decoder = load_variant(options, options.variant)
    with spec.fresh("checked") as sink:
        check_medium(sink, Traits.of(decoder).medium, f"decoder {decoder.name!r}")
    return decoder


def is_own(source: str) -> bool:
    """Whether this is MODULE:NAME, what makes a decoder of the user's own."""
    module, colon, name = str(source).partition(":")
    plain = module.replace(".", "").isidentifier() and name not in ("audio", "av")
    return bool(colon) and plain and not Path(source).exists()


def own_maker(options: argparse.Namespace, variant: str) -> Callable[[], ChunkDecoder]:
    """What MODULE:NAME is; the current folder is looked into too."""
    settled = {"device": "auto", "dtype": None, "halo": None, "grain": None, "tune": None}
    asked = [name for name, usual in settled.items() if getattr(options, name, usual) != usual]
    asked += ["variant"] * (variant != "diffusers")
    if asked:
        raise ValueError(f"decoder {options.decoder!r} is made as it is; leave out --{asked[0]}")
    module, _, name = options.decoder.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        make: Callable[[], ChunkDecoder] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"decoder {options.decoder!r}: {error}; give MODULE:NAME") from error
    if not callable(make):
        raise ValueError(
            f"decoder {options.decoder!r} is of type {type(make).__name__}; give MODULE:NAME of a "
            "class, or of a function, that takes no arguments and makes a decoder"
        )
    return make


def latents_of(options: argparse.Namespace, decoder: Any) -> torch.Tensor:
    """The latents that the options name, or now do, as ``decoder`` takes them."""
    from vdkit.decode import AvLatents, Traits
    from vdkit.decode.chunks import check_chunk
    from vdkit.models.latents import latents_metadata

    medium = Traits.of(decoder).medium
    options.latents = options.latents or f"random:{medium.sample}"
    latents = vdkit.load_latents(options.latents, decoder, options.seed)
    cut = latents.video if isinstance(latents, AvLatents) else latents
    if medium.fits(cut.shape, decoder.latent_channels):  # else the decode says what is wrong
        whole = cut if cut.dim() >= len(medium.layouts[0]) else cut[None]
        check_chunk(options.chunk, whole.shape[medium.axis], medium)
    if not options.denormalize:
        return latents
    if latents_metadata(options.latents, options.seed).get("normalization") == "undone":
        undone = f"{options.latents} says that its normalization is undone already"
        raise ValueError(f"{undone}; leave out --denormalize")
    denormalized: torch.Tensor = decoder.denormalize(latents)
    return denormalized


@contextmanager
def getting(variant: str) -> Iterator[None]:
    """Errors of loading, preparing or running a variant name it, and the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        line = f"{error}".partition("\n")[0] or type(error).__name__
        if isinstance(error, MemoryError) or "out of memory" in line.lower():
            what = f"variant {variant!r} does not fit into memory ({line})"
            remedy = "use a smaller video or --chunk, or fewer variants"
            raise MemoryError(f"{what}; {remedy}") from error
        if variant == "diffusers":
            raise
        raise ValueError(f"variant {variant!r} cannot be had: {line}; take another") from error
