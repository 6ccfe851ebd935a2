"""Windows of latent frames against exact streaming, by the miniature: what their borders cost.

    python -m data.structures.windows_study --out results

Drawn clips are decoded in windows, and encoded in windows too; prompts are denoised in windows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from clips import HEIGHT, WIDTH
from evaluate import scene_of
from judge import describe, score

from data.structures.evaluate import CATEGORIES, held_out
from data.structures.record import Row, device_for, record
from vdkit.decode.chunks import latent_frames
from vdkit.measure.windows import context_windows, decode_windows, measure_windows
from vdkit.models.loading import load_pipeline
from vdkit.models.pipeline import generate_latents, pipeline_decoder
from vdkit.present.windows import windowed_table
from vdkit.record.windows import BLENDS, Windowed, spans

OVERLAPS = (0, 1, 2, 4)
SIZES: Row = {
    "clips": 8, "frames": 97, "window": 6, "size": (HEIGHT, WIDTH), "prompts": 8,
    "denoised_frames": 65, "denoised_window": 9, "steps": 20, "apart_overlap": 2,
}  # fmt: skip
SMOKE: Row = {"clips": 1, "frames": 25, "window": 5, "size": (32, 48), "prompts": 1, "steps": 2}
SMOKE |= {"denoised_frames": 25, "denoised_window": 5, "device": "cpu"}
HOW = (
    "decode: windows of the latents of a whole clip; encode: of pixels, each with latents of its "
    "own; both against exact streaming. denoise: averaged at every step, or windows apart; seconds "
    "and peak_bytes are the decode's, denoise_s and denoise_peak_bytes what came before. The VAE "
    "in float32 (TF32 on a GPU), transformers as loaded"
)
SERIES = ("squares", "changes")  # a value for each frame, recorded to four digits


def windowed(rows: Iterable[Row], *studies: str) -> list[Windowed]:
    """What rows of a recording are; of some ``studies``: decode, encode, denoise."""
    kept = [row for row in rows if not studies or row["study"] in studies]
    plain = [{field.name: row[field.name] for field in fields(Windowed)} for row in kept]
    return [Windowed(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()})
            for one in plain]  # fmt: skip


def row_of(study: str, found: Windowed, more: Row) -> Row:
    """A row whose `windowed` is ``found``."""
    short = {key: [float(f"{x:.4g}") for x in getattr(found, key)] for key in SERIES}
    return {"study": study, **more, **asdict(found), **short}


@torch.inference_mode()
def coded(decoder: Any, category: str, index: int, asked: argparse.Namespace) -> Iterator[Row]:
    """Of a held-out clip whose latents are decoded in windows, then of windows' own latents."""
    of = held_out(category, index, (asked.frames, *asked.size))
    clip = torch.from_numpy(of.clip).to(decoder.device).movedim(3, 0)[None].float() / 127.5 - 1
    factor, encode = decoder.temporal_factor, decoder.vae.encode
    latents = encode(clip).latent_dist.mode()
    exact = decode_windows(decoder, latents, latents.shape[2], 0, "latents")
    measure = partial(measure_windows, decoder, window=asked.window, exact=exact)
    more = {"category": category, "clip": index, "captions": of.captions}
    yield row_of("decode", measure(latents, overlap=0, blend="latents"), more)
    for overlap in OVERLAPS:
        for blend in ("cut", "ramp"):
            yield row_of("decode", measure(latents, overlap=overlap, blend=blend), more)
        where = spans(latents.shape[2], asked.window, overlap)
        cut = (clip[:, :, factor * a : factor * (b - 1) + 1] for a, b in where)
        parts = [encode(one).latent_dist.mode() for one in cut]
        for blend in BLENDS:
            how = {"overlap": overlap, "blend": blend, "label": f"encoded apart, {blend}"}
            yield row_of("encode", measure(parts, **how), more)


def denoised(pipeline: Any, index: int, asked: argparse.Namespace) -> Iterator[Row]:
    """Of a held-out prompt: denoised at once, in windows at every step, and in windows apart."""
    decoder, scene = pipeline_decoder(pipeline), scene_of(0, 3, index)[0]
    count, sides = latent_frames(asked.denoised_frames, 4), [side // 8 for side in asked.size]
    generator = torch.Generator().manual_seed(index)
    noise = torch.randn((1, decoder.latent_channels, count, *sides), generator=generator)

    def generate(start: int, stop: int) -> Any:
        how = {"steps": asked.steps, "noise": noise[:, :, start:stop], "progress": False}
        return generate_latents(pipeline, scene.caption, 4 * (stop - start) - 3, *asked.size, **how)

    def judged(frames: Any) -> str:
        return "right" if score(scene, describe(frames)).right else "wrong"

    def row(label: str, made: list[Any], overlap: int, blend: str) -> Row:
        latents = [one.latents for one in made]
        how = {"blend": blend, "label": label, "judge": judged}
        given = latents if len(made) > 1 else latents[0]
        found = measure_windows(decoder, given, asked.denoised_window, overlap, **how)
        stages = [stage for one in made for stage in one.stages]
        peaks = [stage.peak_vram_bytes for stage in stages if stage.peak_vram_bytes]
        more = {"clip": index, "captions": [scene.caption]}
        more |= {"denoise_s": sum(stage.seconds for stage in stages)}
        return row_of("denoise", found, more | {"denoise_peak_bytes": max(peaks, default=None)})

    yield row("denoised at once", [generate(0, count)], 0, "latents")
    for overlap in OVERLAPS:
        with context_windows(
            [pipeline.transformer, pipeline.transformer_2], asked.denoised_window, overlap
        ):
            made = generate(0, count)
        yield row("averaged at every step", [made], overlap, "latents")
    where = spans(count, asked.denoised_window, asked.apart_overlap)
    parts = [generate(*one) for one in where]
    for blend in BLENDS:
        yield row(f"denoised apart, {blend}", parts, asked.apart_overlap, blend)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="where the recording gets its folder"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--smoke", action="store_true", help="all of it, small, on a CPU")
    parser.set_defaults(**SIZES)
    asked = parser.parse_args()
    if asked.smoke:
        vars(asked).update(SMOKE)
    device = device_for(parser, asked)
    pipeline = load_pipeline("tiny-wan", device, progress=False)
    pipeline.vae.float()
    decoder, rows = pipeline_decoder(pipeline), list[Row]()
    next(coded(decoder, "static", 0, asked))  # the first decode warms up
    for i in range(asked.clips):
        rows += coded(decoder, list(CATEGORIES)[i % len(CATEGORIES)], i // len(CATEGORIES), asked)
        print(f"clip {i + 1} of {asked.clips}: {rows[-1]['captions']}", flush=True)
    for i in range(asked.prompts):
        rows += denoised(pipeline, i, asked)
        print(f"prompt {i + 1} of {asked.prompts}: {rows[-1]['captions']}", flush=True)
    print(windowed_table(windowed(rows)))
    kept = {"overlaps": OVERLAPS, "smoke": asked.smoke, "how": HOW}
    kept |= {key: getattr(asked, key) for key in SIZES}
    print(record(asked.out, "windows", kept, rows, device), flush=True)


if __name__ == "__main__":
    main()
