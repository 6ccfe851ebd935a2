"""``vdkit generate``: text to latents to video, with every stage's seconds; ``vdkit decode``."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.options import DENORMALIZE, DEVICE, latents_of, load_variant, progress
from vdkit.decode.chunks import VideoInfo, exact_fps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vdkit.models.pipeline import GeneratedLatents
    from vdkit.present.stages import StageRow


def add_generate(commands: Any) -> None:
    generate = commands.add_parser(
        "generate",
        help="text to latents to video: prompt in, MP4 out, with the seconds of every stage",
        description="Runs text encoder and denoising of a Wan pipeline, decodes the latents on the "
        "asynchronous path and writes an MP4. The default model is the miniature in data/tiny-wan, "
        "whose model card lists the words it knows.",
    )
    add = generate.add_argument
    add("--prompt", required=True, help="what the video shows")
    add("--model", default="tiny-wan", help="tiny-wan, a pipeline folder or a hub id")
    add("--negative-prompt", default="", help="what guidance leads away from")
    add("--frames", type=int, default=33, help="4n+1; tiny-wan: 33 (default: 33)")
    add("--height", type=int, default=96, help="a multiple of 16; tiny-wan: 96 (default: 96)")
    add("--width", type=int, default=160, help="a multiple of 16; tiny-wan: 160 (default: 160)")
    add("--steps", type=int, default=20, help="denoising steps, 1 to 1000 (default: 20)")
    add("--seed", type=int, default=0, help="of the noise (default: 0)")
    add("--guidance", type=float, default=4.0, help="high-noise expert; 1: none (default: 4)")
    add("--guidance-2", type=float, default=3.0, help="low-noise expert (default: 3)")
    add("--dtype", help="of the transformers (default: bfloat16 on a GPU, float32 on a CPU)")
    add("--save-latents", type=Path, metavar="FILE", help="keep the latents too, replacing FILE")
    add("--json", action="store_true", help="print only one line of JSON, no progress bars")
    generate.set_defaults(run=run_generate)

    decode = commands.add_parser("decode", help="latents to video: a safetensors file in, MP4 out")
    add = decode.add_argument
    add("latents", metavar="FILE", help="safetensors, whatever it ends in, or random:FRAMESxHxW")
    add("--decoder", default="tiny-wan", help="wan2.1, wan2.2, tiny-wan, a folder or a hub id")
    add("--denormalize", action="store_true", help=DENORMALIZE)
    decode.set_defaults(run=run_decode, dtype=None, seed=0, chunk=1)
    for command in (generate, decode):
        add = command.add_argument
        add("--out", type=Path, default=Path("clip.mp4"), help="MP4 to write (default: clip.mp4)")
        add("--device", default="auto", help=DEVICE)
        add("--fps", default="16", help="frame rate, e.g. 16 or 24000/1001 (default: 16)")


def run_decode(options: argparse.Namespace) -> int:
    """Decode ``options.latents`` with ``options.decoder``; returns the exit status."""
    from vdkit.decode.paths import decode_async
    from vdkit.models.latents import latents_metadata
    from vdkit.record.store import check_file
    from vdkit.sinks.files import Mp4Sink

    check_file(options.out, "--out", ".mp4")
    fps = exact_fps(options.fps)
    latents_metadata(options.latents)  # a file that cannot be read is refused first
    decoder = load_variant(options, "diffusers")
    latents, sink = latents_of(decoder, options), Mp4Sink(options.out)
    done = decode_async(decoder, latents, sink, fps=fps, progress=progress(options))
    size = f"{done.info.frames} frames of {done.info.height}x{done.info.width}"
    print(f"Video: {options.out}, {size} in {done.latency_s:.3f} s on {decoder.device}")
    return 0


def run_generate(options: argparse.Namespace) -> int:
    """Run ``options.model`` on ``options.prompt``; returns the exit status."""
    from vdkit.decode.paths import decode_async
    from vdkit.decode.terminal import HeldSignals
    from vdkit.models.latents import save_latents
    from vdkit.models.loading import load_pipeline
    from vdkit.models.pipeline import check_fit, check_request, generate_latents, pipeline_decoder
    from vdkit.present.stages import stage_rows
    from vdkit.record.machine import keep_freed_memory
    from vdkit.record.store import check_file, claim
    from vdkit.sinks.files import Mp4Sink

    check_file(options.out, "--out", ".mp4")
    claim(options.out)
    if options.save_latents is not None:
        check_file(options.save_latents, "--save-latents", ".safetensors")
        claim(options.save_latents)
    fps = exact_fps(options.fps)
    check_request(options.prompt, options.steps, options.seed, options.guidance, options.guidance_2)
    pipeline = load_pipeline(options.model, options.device, options.dtype, progress=False)
    if pipeline.device.type == "cpu":
        keep_freed_memory()
    check_fit(pipeline, options.frames, options.height, options.width, options.steps)
    with contextlib.ExitStack() as stack:  # what the sink refuses, it refuses now
        sink = Mp4Sink(options.out)
        stack.callback(sink.abort)
        sink.open(VideoInfo(options.frames, options.height, options.width, fps))
    made = generate_latents(
        pipeline,
        options.prompt,
        options.frames,
        options.height,
        options.width,
        options.steps,
        options.seed,
        guidance=options.guidance,
        guidance_2=options.guidance_2,
        negative_prompt=options.negative_prompt,
        progress=progress(options),
    )
    decoder, kept = pipeline_decoder(pipeline), None
    try:
        if options.save_latents is not None:
            kept = save_latents(options.save_latents, made.latents, made.metadata)
        sink = Mp4Sink(options.out)
        decoded = decode_async(decoder, made.latents, sink, fps=fps, progress=progress(options))
    except BaseException as error:
        signals = HeldSignals()  # a second Ctrl-C must not lose them
        try:
            _keep(made, kept, options)
        finally:
            signals.release()
        if not isinstance(error, KeyboardInterrupt):
            raise
        print("vdkit: interrupted; an earlier video is as it was", file=sys.stderr)
        return 130
    if options.json:
        print(_line(made, decoded.latency_s, options))
        return 0
    print(f"{options.model} on {decoder.device}, {made.metadata['video']}, {options.steps} steps\n")
    print(_table(stage_rows(made, decoded)))
    print(f"\nVideo: {options.out}")
    if options.save_latents is not None:
        print(f"Latents: {options.save_latents}")
    return 0


def _keep(made: GeneratedLatents, kept: Path | None, options: argparse.Namespace) -> None:
    """After a decode that failed: save the latents unless they are, and say what decodes them."""
    from vdkit.models.latents import save_latents

    out = options.out.absolute()
    name = f"{out.stem}.{uuid.uuid4().hex[:8]}.safetensors"  # never one that is there
    for folder in (out.parent, Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            kept = kept or save_latents(folder / name, made.latents, made.metadata)
    if kept is None:
        print(f"vdkit: the latents are lost, {folder} takes no file either", file=sys.stderr)
        return
    again = ["vdkit", "decode", kept.absolute(), "--out", out, "--decoder", options.model]
    command = shlex.join(map(str, [*again, "--device", options.device, "--fps", options.fps]))
    print(f"vdkit: the latents are kept; decode them with\n  {command}", file=sys.stderr)


def _table(rows: Sequence[StageRow]) -> str:
    whole = sum(row.seconds for row in rows)
    lines = [f"{'stage':28} {'times':>5} {'seconds':>8} {'share %':>8} {'peak VRAM GB':>13}"]
    for row in rows:
        share = 100 * row.seconds / whole
        peak = row.peak_vram_bytes
        vram = "-" if peak is None else f"{peak / 1e9:.2f}"
        times = len(row.spans_s)
        lines.append(f"{row.name:28} {times:5} {row.seconds:8.3f} {share:8.1f} {vram:>13}")
    lines.append(f"{'together':28} {'':5} {whole:8.3f}")
    return "\n".join(lines)


def _line(made: GeneratedLatents, decode_s: float, options: argparse.Namespace) -> str:
    stages = [
        {
            "stage": stage.name,
            "expert": stage.expert,
            "timestep": stage.timestep,
            "seconds": round(stage.seconds, 6),
            "peak_vram_bytes": stage.peak_vram_bytes,
        }
        for stage in made.stages
    ]
    answer = {
        **made.metadata,
        **{name: int(made.metadata[name]) for name in ("seed", "steps")},
        "size": made.metadata["video"],
        "video": str(options.out),
        "latents": options.save_latents and str(options.save_latents),
        "unknown_words": made.unknown_words,
        "stages": stages,
        "decode_s": round(decode_s, 6),
    }
    return json.dumps(answer, separators=(",", ":"))
