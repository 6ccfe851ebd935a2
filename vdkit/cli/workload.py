"""What to decode, how, and where to write: the options that commands share, checked, loaded."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.decoders import getting, latents_of, load_variant, start_device
from vdkit.cli.money import without_price
from vdkit.decode.chunks import PRIMITIVES, DecodeConfig, exact_fps

if TYPE_CHECKING:
    import torch

    from vdkit.decode.protocols import ChunkDecoder
    from vdkit.sink_spec import SinkSpec

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

DENORMALIZE = "the latents come from a pipeline: undo its scaling (ComfyUI has undone it)"

MODES = "diffusers,sync,async,compute"

VARIANTS = "diffusers,channels_last,compiled,fast"
BY_CHUNK_ONLY = frozenset({"compiled", "fast"})

DEFAULTS: dict[str, Any] = {
    "decoder": "tiny-wan",
    "latents": "random:33x96x160",
    "chunk": 1,
    "slots": 2,
    "warmup": 1,
}


def add_workload(
    command: argparse.ArgumentParser,
    runs: int | None,
    note: str = "",
    modes: str = MODES,
    grid: bool = False,
    label: str = "the preset, or the decoder",
) -> None:
    """What to decode, how, and where to write.

    Args:
        runs: the default of --runs; None: neither --runs nor --modes.
        note: on runs.
        modes: the default of --modes.
        grid: several chunk sizes, slots and sink speeds at once, which are the command's to add.
        label: the default of --label, in words.
    """
    add = command.add_argument
    shown = {name: f"(default: {value})" for name, value in DEFAULTS.items()}
    add(
        "--preset",
        choices=PRESETS,
        help="aws: wan2.1, 161 frames 480x832, chunk 1, 2 slots",
    )
    what = "wan2.1, wan2.2, tiny-wan, a folder or a hub id"
    add("--decoder", help=f"{what} {shown['decoder']}")
    how = f"how the weights are run, of {VARIANTS} (default: diffusers)"
    add("--variant", default="diffusers", metavar="NAME", help=how)
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add(
        "--dtype", help="float16, bfloat16 or float32 (default: float16 on a GPU, float32 on a CPU)"
    )
    add("--latents", help=f"random:FRAMESxHxW in pixels, or a safetensors file {shown['latents']}")
    add("--denormalize", action="store_true", help=DENORMALIZE)
    add("--seed", type=int, default=0, help="of random latents (default: 0)")
    if runs is not None:
        default = "all four" if modes == MODES else modes
        add("--modes", default=modes, help=f"which paths, of {MODES} (default: {default})")
        each = f"timed runs of each mode{note} (default: {runs})"
        add("--runs", type=int, default=runs, help=each)
    if grid:
        command.set_defaults(chunk=None, slots=None, throttle_mb_s=None)
    else:
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
        help="null, raw, png, mp4 or (mode diffusers alone) export_to_video, and where (default: "
        "raw in the system's temporary folder)",
    )
    add("--durable", action="store_true", help="raw sink: fsync before a run ends")
    if not grid:
        add(
            "--throttle-mb-s",
            type=float,
            metavar="MB/S",
            help="hold the sink to this storage speed",
        )
    add("--fps", default="16", help="frame rate, e.g. 16 or 24000/1001 (default: 16)")
    add(
        "--out",
        type=Path,
        default=Path("results"),
        help="parent of the new folder (default: results)",
    )
    add("--label", help=f"end of the folder's name (default: {label})")
    add("--json", action="store_true", help="print only the line of JSON")


def apply_preset(options: argparse.Namespace) -> None:
    """Fill in what was left out: from the preset, then from `DEFAULTS`; other commands stay."""
    if not hasattr(options, "preset"):
        return
    for name, value in {**DEFAULTS, **PRESETS.get(options.preset, {})}.items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)


@dataclass(frozen=True, slots=True)
class What:
    """What the options ask to be decoded, and how, checked and loaded."""

    decoder: ChunkDecoder
    latents: torch.Tensor
    spec: SinkSpec
    modes: list[str]
    config: DecodeConfig
    label: str
    source: str
    latents_source: str
    setup_s: float


def _check_numbers(options: argparse.Namespace) -> None:
    """ValueError or FileNotFoundError for what needs no decoder to be seen to be wrong."""
    from vdkit.measure.bench import check_plan
    from vdkit.models.latents import latents_metadata

    modes = asked_modes(options)
    warmup, baseline = getattr(options, "warmup", 0), getattr(options, "baseline", None)
    check_plan(modes, baseline, options.runs, warmup)
    _check_variant(options)
    exact_fps(options.fps)
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"seed is {options.seed}; use 0 to 2**63 - 1")
    latents_metadata(options.latents)
    milliseconds = getattr(options, "nvml_ms", 20)
    if not 1 <= milliseconds <= 10_000:
        raise ValueError(f"--nvml-ms is {milliseconds:g} ms; use 1 to 10000 ms")


def load(options: argparse.Namespace, ready: bool = True) -> What:
    """Check everything that can be checked before a decoder is loaded, then load.

    Args:
        ready: prepare it for ``--chunk`` too.
    """
    from vdkit.measure.describe import prepare

    spec, config, label = check(options)
    start_device(options)
    begun = time.perf_counter()
    with getting(options.variant):
        decoder = load_variant(options, options.variant)
    setup_s = time.perf_counter() - begun
    latents = latents_of(decoder, options)
    if not options.json:
        print(f"decoding on {decoder.device} in {str(decoder.dtype).removeprefix('torch.')}")
        for note in getattr(decoder, "notes", ()):
            print(note)
    if ready:
        with getting(options.variant):
            setup_s += prepare(decoder, latents, config.chunk_size)
        if not options.json:
            print(f"set-up of {options.variant}: {setup_s:.1f} s", flush=True)
    return What(
        decoder=decoder,
        latents=latents,
        spec=spec,
        modes=runnable(options),
        config=config,
        label=label,
        setup_s=setup_s,
        **sources(options),
    )


def asked_modes(options: argparse.Namespace) -> list[str]:
    """The decode paths of --modes."""
    return [mode.strip() for mode in options.modes.split(",")]


def runnable(options: argparse.Namespace) -> list[str]:
    """Those of --modes that --variant can run; a line says what is left out."""
    modes = asked_modes(options)
    if options.variant in BY_CHUNK_ONLY and "diffusers" in modes:
        modes.remove("diffusers")
        if not options.json:
            print(f"{options.variant}: mode diffusers is skipped, it decodes by chunk only")
    return modes


def _check_variant(options: argparse.Namespace) -> None:
    """ValueError for a variant that has none of --modes, before any is loaded."""
    several = (getattr(options, "variants", None) or "").replace("all", VARIANTS).split(",")
    for name in {options.variant, *(one.strip() for one in several)} & BY_CHUNK_ONLY:
        if asked_modes(options) == ["diffusers"]:
            raise ValueError(
                f"variant {name!r} decodes by chunk only, --modes asks for diffusers' decode of a "
                "whole video; add sync, async or compute"
            )


def sources(options: argparse.Namespace) -> dict[str, str]:
    """What was asked for, as records call it."""
    given, latents = Path(options.decoder), options.latents
    return {
        "source": given.name if given.exists() else options.decoder,
        "latents_source": latents if latents.startswith("random:") else Path(latents).name,
    }


def check(options: argparse.Namespace) -> tuple[SinkSpec, DecodeConfig, str]:
    """Sink, configuration and label; raises for all that is wrong without a decoder."""
    from vdkit.measure.folders import check_out
    from vdkit.sink_spec import SinkSpec, default_folder

    kind, _, folder = options.sink.partition(":")
    config = DecodeConfig(
        chunk_size=options.chunk,
        slots=options.slots,
        nvtx=options.nvtx,
        **{name: getattr(options, name) for name in PRIMITIVES},
    )
    where = Path(folder) if folder else None if kind == "null" else default_folder()
    spec = SinkSpec(kind, where, options.durable, options.throttle_mb_s)
    if kind == "export_to_video" and not {"diffusers", "compute"}.issuperset(asked_modes(options)):
        raise ValueError(
            f"sink export_to_video takes diffusers' frames, --modes is {options.modes}; use "
            "--modes diffusers, or sink mp4"
        )
    label = options.label or options.preset or Path(options.decoder).name
    check_out(options.out, label)
    _check_numbers(options)
    return spec, config, label


def command_line(options: argparse.Namespace) -> str:
    """For the record."""
    return shlex.join(["vdkit", *without_price(options.arguments)])


def shared_arguments(what: What, options: argparse.Namespace) -> dict[str, Any]:
    """The arguments that `run_benchmark` and `run_profile` have in common."""
    from vdkit.measure.records import SinkInfo

    return {
        "sink_info": SinkInfo(**what.spec.describe()),
        "modes": what.modes,
        "config": what.config,
        "fps": options.fps,
        "runs": options.runs,
        "source": what.source,
        "latents_source": what.latents_source,
        "seed": options.seed,
        "label": what.label,
        "command": command_line(options),
        "progress": not options.json and sys.stderr.isatty(),
    }
