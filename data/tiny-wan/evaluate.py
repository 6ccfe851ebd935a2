"""Measure the miniature on captions that training never saw, and write down what it scores.

    python data/tiny-wan/evaluate.py --sheet

The VAE is measured on drawn clips; generation by what the judge sees in clips made from prompts.
Writes metrics.json and, if a README.md lies beside it, the measured part of that card; ``--sheet``
adds pictures of the first prompts, right or wrong. Exit status 1: a target is missed. Every row is
kept in a scratch folder as soon as it is known, so an interrupted evaluation goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from card import SHOWN, card_block, with_block, write_examples, write_sheet
from clips import (
    FPS,
    FRAMES,
    HEIGHT,
    MOTIONS,
    SHAPES,
    WIDTH,
    Mover,
    Scene,
    draw_tracks,
    parse,
    random_scene,
    render,
)
from judge import Score, Seen, describe, score
from tqdm import tqdm

from vdkit import DecodeConfig, decode_async
from vdkit.decode.media import MediaInfo
from vdkit.measure.quality import psnr_db, ssim
from vdkit.models.loading import load_pipeline
from vdkit.models.pipeline import generate_latents, pipeline_decoder
from vdkit.record.runs import collect_provenance

HERE = Path(__file__).resolve().parent
OF_A_SHAPE = ("color", "shape", "motion")
SIZE = {"frames": FRAMES, "height": HEIGHT, "width": WIDTH}
Row = dict[str, Any]


class Frames:
    """A sink that keeps the frames, uint8 [F, H, W, 3]."""

    def open(self, info: MediaInfo) -> None:
        self.chunks: list[np.ndarray] = []

    def write(self, frames: np.ndarray) -> None:
        self.chunks.append(frames.copy())

    def close(self) -> None:
        self.video = np.concatenate(self.chunks)

    def abort(self) -> None: ...


def decoded(decoder: Any, latents: torch.Tensor, chunk_size: int = 1) -> np.ndarray:
    sink = Frames()
    decode_async(decoder, latents, sink, fps=FPS, progress=False, config=DecodeConfig(chunk_size))
    return sink.video


def scene_of(seed: int, kind: int, i: int) -> tuple[Scene, np.random.Generator]:
    """Held-out scene ``i``, the same however many there are, and what draws its clip."""
    rng = np.random.default_rng((seed, kind, i))
    return random_scene(rng, held_out=True), rng


def rebuild_clip(i: int, pipeline: Any, arguments: argparse.Namespace, scratch: Path) -> Row:
    """Clip ``i`` encoded (the posterior's mode) and decoded, against itself."""
    scene, rng = scene_of(arguments.seed, 4, i)
    frames = render(draw_tracks([scene], rng))
    video = frames.permute(0, 4, 1, 2, 3).float().div(127.5).sub(1.0)
    with torch.inference_mode():
        latents = pipeline.vae.encode(video.to(pipeline.vae.device, pipeline.vae.dtype))
    made = decoded(pipeline_decoder(pipeline), latents.latent_dist.mode().float().cpu())
    psnr, similarity = psnr_db(frames[0], made).clip, ssim(frames[0], made).clip
    return {"caption": scene.caption, "psnr_db": round(psnr, 3), "ssim": round(similarity, 5)}


def judge_prompt(i: int, pipeline: Any, arguments: argparse.Namespace, scratch: Path) -> Row:
    """A clip of prompt ``i`` generated, and what of it is right."""
    scene, _ = scene_of(arguments.seed, 3, i)
    begin = time.perf_counter()
    settings = {key: getattr(arguments, key) for key in ("steps", "guidance", "guidance_2")}
    seed = arguments.seed + i
    made = generate_latents(pipeline, scene.caption, seed=seed, **SIZE, **settings, progress=False)
    frames = decoded(pipeline_decoder(pipeline), made.latents)
    seconds = time.perf_counter() - begin
    if i < SHOWN:
        np.save(scratch / f"{i}.npy", frames)
    seen = describe(frames)
    row = {"prompt": scene.caption, "seed": seed, "seconds": round(seconds, 3)}
    return row | {"seen": asdict(seen), "right": asdict(score(scene, seen))}


def rows_of(file: Path, count: int, make: Callable[..., Row], *given: Any) -> list[Row]:
    """Rows 0 to ``count``: those that the file holds, then those made now, which it gets."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    begun = min(len(rows), count)
    for i in tqdm(range(begun, count), file.stem, total=count, initial=begun):
        rows.append(make(i, *given))
        with file.open("a") as stream:
            stream.write(json.dumps(rows[-1]) + "\n")
    return rows[:count]


def wilson(right: int, of: int) -> Row:
    """A share with its 95 % interval (Wilson, 1927)."""
    z = 1.959964
    share = right / of
    middle, scale = share + z * z / (2 * of), 1 + z * z / of
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    low, high = (round((middle + sign * half) / scale, 5) for sign in (-1, 1))
    return {"right": right, "of": of, "share": share, "low": low, "high": high}


def shares(prompts: list[Row]) -> dict[str, Row]:
    """What is right how often: per shape, then per clip."""
    scores = [Score(**row["right"]) for row in prompts]
    hits = {key: [hit for s in scores for hit in getattr(s, key)] for key in OF_A_SHAPE}
    hits |= {key: [getattr(s, key) for s in scores] for key in ("background", "count")}
    hits["everything"] = [s.right for s in scores]
    for count, name in ((1, "everything, one shape"), (2, "everything, two shapes")):
        hits[name] = [s.right for s in scores if len(s.color) == count]
    return {key: wilson(sum(hit), len(hit)) for key, hit in hits.items() if hit}


def compared(scene: Scene, seen: Seen) -> tuple[Mover | None, ...]:
    """The movers seen, None for none, in the order in which `judge.score` compared them."""

    def hits(order: tuple[Mover | None, ...]) -> list[tuple[bool, ...]]:
        pairs = list(zip(scene.movers, order, strict=True))
        return [
            tuple(b is not None and getattr(a, key) == getattr(b, key) for a, b in pairs)
            for key in OF_A_SHAPE
        ]

    right = score(scene, seen)
    candidates = (*seen.movers, *(None for _ in scene.movers))
    orders = permutations(candidates, len(scene.movers))
    return next(o for o in orders if hits(o) == [right.color, right.shape, right.motion])


def confusions(prompts: list[Row]) -> list[Row]:
    """What was seen instead of what was said, the most frequent first of each kind."""
    wrong: Counter[tuple[str, str, str]] = Counter()
    for row in prompts:
        scene = parse(row["prompt"])
        movers = tuple(Mover(**mover) for mover in row["seen"]["movers"])
        seen = Seen(movers, row["seen"]["background"], row["seen"]["count"])
        said = [("background", scene.background, seen.background or "none")]
        said.append(("count", str(len(scene.movers)), str(seen.count)))
        for mover, other in zip(scene.movers, compared(scene, seen), strict=True):
            for key in OF_A_SHAPE:
                what = getattr(other, key) if other else "no shape"
                said.append((key, getattr(mover, key), what))
        wrong.update(pair for pair in said if pair[1] != pair[2])
    order = sorted(wrong, key=lambda pair: (pair[0], -wrong[pair], pair))
    return [{"what": w, "said": a, "seen": b, "times": wrong[w, a, b]} for w, a, b in order]


def vae_figures(clips: list[Row]) -> Row:
    """PSNR and SSIM of all clips, and of those in which a motion or a shape is."""

    def of(rows: list[Row]) -> Row:
        figures: Row = {"clips": len(rows)}
        for key in ("psnr_db", "ssim"):
            values = [row[key] for row in rows]
            figures[key] = {"mean": round(float(np.mean(values)), 4), "min": min(values)}
        return figures

    groups: dict[str, list[Row]] = {}
    for clip in clips:
        movers = parse(clip["caption"]).movers
        for name in {word for mover in movers for word in (mover.motion, mover.shape)}:
            groups.setdefault(name, []).append(clip)
    order = [name for name in (*MOTIONS, *SHAPES) if name in groups]
    return of(clips) | {"groups": {name: of(groups[name]) for name in order}}


def summary(clips: list[Row], prompts: list[Row]) -> Row:
    """Everything that follows from the rows."""
    vae, right = vae_figures(clips), shares(prompts)
    seconds = [row["seconds"] for row in prompts]
    measured = {
        "VAE: PSNR, mean, dB": (vae["psnr_db"]["mean"], ">=", 32.0),
        "VAE: SSIM, mean": (vae["ssim"]["mean"], ">=", 0.93),
        "colour right, share of shapes": (right["color"]["share"], ">=", 0.95),
        "motion right, share of shapes": (right["motion"]["share"], ">=", 0.90),
        "shape right, share of shapes": (right["shape"]["share"], ">=", 0.85),
        "seconds per clip, maximum": (max(seconds), "<=", 60.0),
    }
    targets = [
        {"what": what, "measured": value, "target": f"{sign} {bound:g}"}
        | {"met": value >= bound if sign == ">=" else value <= bound}
        for what, (value, sign, bound) in measured.items()
    ]
    generation = {
        "prompts": len(prompts),
        "different_prompts": len({row["prompt"] for row in prompts}),
        "shares": right,
        "seconds": {"median": float(np.median(seconds)), "max": max(seconds)},
        "confusions": confusions(prompts),
    }
    return {"targets": targets, "vae": vae, "generation": generation}


def to_json(metrics: Row) -> str:
    """Indented, but a line for each clip and each prompt."""
    lists = {key: ",\n  ".join(map(json.dumps, metrics[key])) for key in ("clips", "prompts")}
    rest = json.dumps({k: v for k, v in metrics.items() if k not in lists}, indent=1)
    return rest[:-2] + "".join(f',\n "{k}": [\n  {v}\n ]' for k, v in lists.items()) + "\n}\n"


def how_measured(pipeline: Any, arguments: argparse.Namespace) -> Row:
    """Settings, versions and weights; no names of machines or folders."""
    made = collect_provenance(pipeline.device).model_dump()
    parts = ("text_encoder", "transformer", "transformer_2", "vae")
    files = sorted(arguments.model.rglob("*.safetensors"))
    return {
        **{key: made[key] for key in ("created_utc", "device", "cpu", "python")},
        "threads": torch.get_num_threads(),
        "dtype": {part: str(getattr(pipeline, part).dtype).split(".")[1] for part in parts},
        "packages": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        **{key: getattr(arguments, key) for key in ("seed", "steps", "guidance", "guidance_2")},
        **SIZE,
        "weights_sha256": {f.relative_to(arguments.model).as_posix(): sha256(f) for f in files},
    }


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scratch = Path(tempfile.gettempdir()) / "tiny-wan-evaluate"
    parser.add_argument("--model", type=Path, default=HERE, help="pipeline folder")
    parser.add_argument("--out", type=Path, help="default: metrics.json in the pipeline folder")
    parser.add_argument("--scratch", type=Path, default=scratch, help="folder that keeps the rows")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--clips", type=int, default=64, help="drawn clips, for the VAE")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0, help="of the high-noise expert")
    parser.add_argument("--guidance-2", type=float, default=3.0, help="of the low-noise expert")
    parser.add_argument("--seed", type=int, default=0, help="prompt i is generated with seed + i")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", help="of text encoder and experts; float32 on a CPU")
    parser.add_argument("--threads", type=int, default=2, help="of torch, on a CPU")
    parser.add_argument("--sheet", action="store_true", help="contact_sheet.png, examples/*.mp4")
    arguments = parser.parse_args()
    out = arguments.out or arguments.model / "metrics.json"
    torch.set_num_threads(arguments.threads)
    pipeline = load_pipeline(arguments.model, arguments.device, arguments.dtype)
    how = how_measured(pipeline, arguments)
    settings = {key: value for key, value in how.items() if key != "created_utc"}
    settings |= {name: sha256(HERE / name) for name in ("clips.py", "judge.py")}
    kept = arguments.scratch / hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    kept.mkdir(parents=True, exist_ok=True)
    given = (pipeline, arguments, kept)
    clips = rows_of(kept / "clips.jsonl", arguments.clips, rebuild_clip, *given)
    prompts = rows_of(kept / "prompts.jsonl", arguments.prompts, judge_prompt, *given)
    metrics = {"measured": how, **summary(clips, prompts), "clips": clips, "prompts": prompts}
    out.write_text(to_json(metrics))
    card = out.with_name("README.md")
    block = card_block(metrics, out.parent)
    if card.exists():
        card.write_text(with_block(card.read_text(), block))
    if arguments.sheet:
        videos = [np.load(kept / f"{i}.npy") for i in range(min(SHOWN, len(prompts)))]
        write_sheet(prompts, videos, out.with_name("contact_sheet.png"))
        write_examples(videos, out.with_name("examples"))
    print(block)
    missed = [one for one in metrics["targets"] if not one["met"]]
    for one in missed:
        print(f"\x1b[31mmissed: {one['what']} {one['measured']:.4g}, not {one['target']}\x1b[0m")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
