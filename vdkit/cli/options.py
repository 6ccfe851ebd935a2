"""What to decode, how, and where to write: the options that commands share, checked and loaded."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.decode.chunks import PRIMITIVES, DecodeConfig, exact_fps
from vdkit.record.runs import MODES

if TYPE_CHECKING:
    import torch

    from vdkit.decode.protocols import ChunkDecoder
    from vdkit.present.columns import Asked
    from vdkit.sinks.spec import SinkSpec

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

DEFAULTS: dict[str, Any] = {
    "decoder": "tiny-wan",
    "latents": "random:33x96x160",
    "chunk": 1,
    "slots": 2,
    "warmup": 1,
}
DENORMALIZE = "the latents come from a pipeline: undo its scaling (ComfyUI has undone it)"
ALL_MODES = ",".join(MODES)
VARIANTS = "diffusers,channels_last,compiled,fast"
BY_CHUNK_ONLY = frozenset({"compiled", "fast"})
PRICE = "--usd-per-hour"
DEVICE = "auto, cpu, cuda or cuda:N (default: auto)"


def add_workload(
    command: argparse.ArgumentParser,
    runs: int | None,
    note: str = "",
    modes: str = ALL_MODES,
    grid: bool = False,
) -> None:
    """What to decode, how, and where to write.

    Args:
        runs: the default of --runs; None: the command adds it.
        note: on runs.
        modes: the default of --modes.
        grid: several chunk sizes, slots and sink speeds at once, which are the command's to add.
    """
    add = command.add_argument
    shown = {name: f"(default: {value})" for name, value in DEFAULTS.items()}
    add("--preset", choices=PRESETS, help="aws: wan2.1, 161 frames 480x832, chunk 1, 2 slots")
    what = "wan2.1, wan2.2, tiny-wan, a folder or a hub id"
    add("--decoder", help=f"{what} {shown['decoder']}")
    how = f"how the weights are run, of {VARIANTS} (default: diffusers)"
    add("--variant", default="diffusers", metavar="NAME", help=how)
    add("--device", default="auto", help=DEVICE)
    add(
        "--dtype", help="float16, bfloat16 or float32 (default: float16 on a GPU, float32 on a CPU)"
    )
    add("--latents", help=f"random:FRAMESxHxW in pixels, or a safetensors file {shown['latents']}")
    add("--denormalize", action="store_true", help=DENORMALIZE)
    add("--seed", type=int, default=0, help="of random latents (default: 0)")
    default = "all four" if modes == ALL_MODES else modes
    add("--modes", default=modes, help=f"which paths, of {ALL_MODES} (default: {default})")
    each = f"timed runs of each mode{note} (default: {runs or 'by what is run'})"
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
    out = "parent of the new folder (default: results)"
    add("--out", type=Path, default=Path("results"), help=out)
    add("--label", help="end of the folder's name (default: the preset, the study or the decoder)")
    add("--json", action="store_true", help="print only the line of JSON")


def apply_preset(options: argparse.Namespace) -> None:
    """Fill in what was left out: from the preset, then from `DEFAULTS`; other commands stay."""
    if not hasattr(options, "preset"):
        return
    for name, value in {**DEFAULTS, **PRESETS.get(options.preset, {})}.items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)


def add_money(command: argparse.ArgumentParser) -> None:
    """``--usd-per-hour`` and ``--energy``; `asked` reads them."""
    command.add_argument(
        PRICE,
        type=float,
        metavar="PRICE",
        help="price of an hour of the machine, US dollars: adds what an hour of video costs and "
        "what 1,000 hours save against the baseline; never recorded",
    )
    command.add_argument(
        "--energy",
        action="store_true",
        help="add joules per second of video, from the NVML energy counter around each run",
    )


def asked(options: argparse.Namespace) -> Asked:
    """Price and energy for what makes tables; ValueError for an unusable price.

    Call it before anything is loaded or measured.
    """
    from vdkit.present.columns import Asked

    return Asked(options.usd_per_hour, getattr(options, "energy", False))


def command_line(options: argparse.Namespace) -> str:
    """For the record: without the price, which says nothing about the runs.

    As argparse has it, the option may be cut short and joined to its value with ``=``.
    """
    kept, skip = ["vdkit"], False
    for argument in options.arguments:
        name, joined, _ = argument.partition("=")
        if skip:
            skip = False
        elif len(name) > 2 and PRICE.startswith(name):
            skip = not joined
        else:
            kept.append(argument)
    return shlex.join(kept)


def words(text: str | None) -> list[str] | None:
    """``a,b`` as names."""
    return None if text is None else [name.strip() for name in text.split(",")]


def numbers(name: str, text: str, kind: Any) -> list[Any]:
    """``1,2,4`` as numbers of ``kind``; ValueError that names the word that is none."""
    found = []
    for word in text.split(","):
        try:
            found.append(kind(word.strip()))
        except ValueError:
            also = " or full" if name == "speeds" else ""
            raise ValueError(
                f"--{name} {text!r}: {word.strip()!r} is no number; give numbers{also}, separated "
                "by commas"
            ) from None
    return found


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
    """The names of --variants; ValueError for what is none."""
    known = VARIANTS.split(",")
    names = known if options.variants == "all" else words(options.variants) or []
    if "" in names:
        raise ValueError(f"a name is missing in --variants {options.variants!r}")
    if options.variant != "diffusers":
        raise ValueError("--variant and --variants exclude each other; name all in --variants")
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"variants {', '.join(map(repr, unknown))}: use any of {', '.join(known)}, or all"
        )
    return names


def say(options: argparse.Namespace, line: str) -> None:
    """A line for people, unless only JSON was asked for."""
    if not options.json:
        print(line, flush=True)


def progress(options: argparse.Namespace) -> bool:
    """Whether to draw a bar."""
    return not getattr(options, "json", False) and sys.stderr.isatty()


@dataclass(frozen=True, slots=True)
class What:
    """What the options ask to be decoded, and how, checked and loaded."""

    decoder: ChunkDecoder
    latents: torch.Tensor
    spec: SinkSpec
    config: DecodeConfig
    shared: dict[str, Any]
    """The arguments that every study takes: sink, configuration, what the record says."""


def check(options: argparse.Namespace) -> tuple[SinkSpec, DecodeConfig, dict[str, Any]]:
    """Sink, configuration, shared arguments; raises for all that is wrong without a decoder."""
    from vdkit.measure.study import check_modes, check_rounds
    from vdkit.models.latents import latents_metadata
    from vdkit.record.store import check_out
    from vdkit.sinks.spec import SinkSpec

    kind, _, folder = options.sink.partition(":")
    if kind == "export_to_video" and not {"diffusers", "compute_only"}.issuperset(
        asked_modes(options)
    ):
        raise ValueError(
            f"sink export_to_video takes diffusers' frames, --modes is {options.modes}; use "
            "--modes diffusers, or sink mp4"
        )
    config = DecodeConfig(
        chunk_size=options.chunk,
        slots=options.slots,
        nvtx=options.nvtx,
        **{name: getattr(options, name) for name in PRIMITIVES},
    )
    spec = SinkSpec(kind, Path(folder) if folder else None, options.durable, options.throttle_mb_s)
    given, latents = Path(options.decoder), options.latents
    label = options.label or options.preset or given.name
    check_out(options.out, label)
    check_modes(asked_modes(options), getattr(options, "baseline", None))
    check_rounds(options.runs, getattr(options, "warmup", 0))
    several = (getattr(options, "variants", None) or "").replace("all", VARIANTS).split(",")
    for name in {options.variant, *(one.strip() for one in several)} & BY_CHUNK_ONLY:
        if asked_modes(options) == ["diffusers"]:
            raise ValueError(
                f"variant {name!r} decodes by chunk only, --modes asks for diffusers' decode of a "
                "whole video; add sync, async or compute_only"
            )
    exact_fps(options.fps)
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"seed is {options.seed}; use 0 to 2**63 - 1")
    latents_metadata(latents)
    shared = {
        "config": config,
        "fps": options.fps,
        "source": given.name if given.exists() else options.decoder,
        "latents_source": latents if latents.startswith("random:") else Path(latents).name,
        "seed": options.seed,
        "label": label,
        "command": command_line(options),
        "progress": progress(options),
    }
    return spec, config, shared


def load(options: argparse.Namespace, ready: bool = True) -> What:
    """Check everything that can be checked before a decoder is loaded, then load.

    Args:
        ready: prepare it for ``--chunk`` too.
    """
    from vdkit.measure.study import prepare

    spec, config, shared = check(options)
    start_device(options)
    begun = time.perf_counter()
    with getting(options.variant):
        decoder = load_variant(options, options.variant)
    setup_s = time.perf_counter() - begun
    latents = latents_of(decoder, options)
    say(options, f"decoding on {decoder.device} in {str(decoder.dtype).removeprefix('torch.')}")
    for note in getattr(decoder, "notes", ()):
        say(options, note)
    if ready:
        with getting(options.variant):
            setup_s += prepare(decoder, latents, config.chunk_size)
        say(options, f"set-up of {options.variant}: {setup_s:.1f} s")
    return What(decoder, latents, spec, config, shared | {"setup_s": setup_s})


def start_device(options: argparse.Namespace) -> None:
    """Load the libraries and wake the device, which is no decoder's set-up.

    Raises:
        ValueError: no such device.
    """
    import torch

    from vdkit.models.loading import resolve_device

    torch.zeros(1, device=resolve_device(options.device))


def load_variant(
    options: argparse.Namespace, variant: str, dtype: str | None = None
) -> ChunkDecoder:
    """The decoder that the options name, run in this way; ``dtype`` in place of theirs."""
    from vdkit.models.loading import load_decoder
    from vdkit.record.machine import keep_freed_memory

    decoder: ChunkDecoder = load_decoder(
        options.decoder, options.device, dtype or options.dtype, variant
    )
    if decoder.device.type == "cpu":
        keep_freed_memory()
    return decoder


def latents_of(decoder: Any, options: argparse.Namespace) -> torch.Tensor:
    """The latents that the options name, as ``decoder`` takes them."""
    from vdkit.decode.chunks import check_chunk
    from vdkit.models.latents import latents_metadata, load_latents

    latents = load_latents(options.latents, decoder, options.seed)
    if latents.dim() > 3:  # else the decode says what is wrong with it
        check_chunk(options.chunk, latents.shape[-3])
    if options.denormalize:
        if latents_metadata(options.latents).get("normalization") == "undone":
            raise ValueError(
                f"{options.latents} says that its normalization is undone already; leave out "
                "--denormalize"
            )
        latents = decoder.denormalize(latents)
    return latents


@contextmanager
def getting(variant: str) -> Iterator[None]:
    """Errors of loading, preparing or running a variant name it, and the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        line = f"{error}".partition("\n")[0] or type(error).__name__
        if isinstance(error, MemoryError) or "out of memory" in line.lower():
            raise MemoryError(
                f"variant {variant!r} does not fit into memory ({line}); use a smaller video or "
                "--chunk, or fewer variants"
            ) from error
        if variant == "diffusers":
            raise
        raise ValueError(f"variant {variant!r} cannot be had: {line}; take another") from error


def refuse(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """ValueError if one of these options was given that mean nothing here."""
    for name in names:
        if getattr(options, name) not in (None, False):
            raise ValueError(f"--{name.replace('_', '-')} {why}")
