"""``vdkit generate``: text to latents to video, with every stage's seconds; ``vdkit decode``."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli import command, latents_of, load_variant, print_json, progress
from vdkit.decode.chunks import VideoInfo, exact_fps
from vdkit.record import check_file, claim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vdkit.models.pipeline import GeneratedLatents
    from vdkit.present.stages import StageRow


@command(
    "prompt model negative-prompt frames height width steps seed guidance guidance-2 dtype "
    "save-latents json out device fps"
)
def run_generate(options: argparse.Namespace) -> int:
    """text to latents to video: prompt in, MP4 out, with the seconds of every stage

    Runs text encoder and denoising of a Wan pipeline, decodes the latents on the asynchronous path
    and writes an MP4. The default model is the miniature in data/tiny-wan, whose model card lists
    the words it knows.
    """
    from vdkit.decode.paths import decode_async
    from vdkit.decode.terminal import HeldSignals
    from vdkit.models.latents import save_latents
    from vdkit.models.loading import load_pipeline
    from vdkit.models.pipeline import check_fit, check_request, generate_latents, pipeline_decoder
    from vdkit.present.stages import stage_rows
    from vdkit.record.runs import keep_freed_memory
    from vdkit.sinks.files import Mp4Sink

    for path, name, ending in (
        (options.out, "--out", ".mp4"), (options.save_latents, "--save-latents", ".safetensors")
    ):  # fmt: skip
        if path is not None:
            check_file(path, name, ending)
            claim(path)
    fps = exact_fps(options.fps)
    check_request(options.prompt, options.steps, options.seed, options.guidance, options.guidance_2)
    pipeline = load_pipeline(options.model, options.device, options.dtype, progress=False)
    if pipeline.device.type == "cpu":
        keep_freed_memory()
    size = (options.frames, options.height, options.width)
    check_fit(pipeline, *size, options.steps)
    with contextlib.ExitStack() as stack:  # what the sink refuses, it refuses now
        sink = Mp4Sink(options.out)
        stack.callback(sink.abort)
        sink.open(VideoInfo(*size, fps))
    made = generate_latents(
        pipeline, options.prompt, *size, options.steps, options.seed, guidance=options.guidance,
        guidance_2=options.guidance_2, negative_prompt=options.negative_prompt,
        progress=progress(options),
    )  # fmt: skip
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
        print_json(_answer(made, decoded.latency_s, options))
        return 0
    print(f"{options.model} on {decoder.device}, {made.metadata['video']}, {options.steps} steps\n")
    print(_table(stage_rows(made, decoded)))
    print(f"\nVideo: {options.out}")
    if options.save_latents is not None:
        print(f"Latents: {options.save_latents}")
    return 0


@command("<latents> decoder denormalize out device fps", dtype=None, seed=0, chunk=1)
def run_decode(options: argparse.Namespace) -> int:
    """latents to video: a safetensors file in, MP4 out"""
    from vdkit.decode.paths import decode_async
    from vdkit.models.latents import latents_metadata
    from vdkit.sinks.files import Mp4Sink

    check_file(options.out, "--out", ".mp4")
    fps = exact_fps(options.fps)
    latents_metadata(options.latents)  # a file that cannot be read is refused first
    decoder = load_variant(options, "diffusers")
    latents, sink = latents_of(options, decoder), Mp4Sink(options.out)
    done = decode_async(decoder, latents, sink, fps=fps, progress=progress(options))
    size = f"{done.info.frames} frames of {done.info.height}x{done.info.width}"
    print(f"Video: {options.out}, {size} in {done.latency_s:.3f} s on {decoder.device}")
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
    from vdkit.present.stages import stages_table
    from vdkit.present.table import Number, Table

    left_out = ("takes", "gives", "in all")
    cells = [
        {name: cell for name, cell in row.items() if name not in left_out}
        for row in stages_table(rows).rows
    ]
    whole = {"stage": "together", "seconds": Number(sum(row.seconds for row in rows), 3)}
    return Table([*cells, whole]).text()


def _answer(made: GeneratedLatents, decode_s: float, options: argparse.Namespace) -> dict[str, Any]:
    told = ("expert", "timestep", "seconds", "peak_vram_bytes")
    stages = [
        {"stage": one.name} | {name: getattr(one, name) for name in told} for one in made.stages
    ]
    for stage in stages:
        stage["seconds"] = round(stage["seconds"], 6)
    return {
        **made.metadata,
        **{name: int(made.metadata[name]) for name in ("seed", "steps")},
        "size": made.metadata["video"],
        "video": str(options.out),
        "latents": options.save_latents and str(options.save_latents),
        "unknown_words": made.unknown_words,
        "stages": stages,
        "decode_s": round(decode_s, 6),
    }
