"""Measure trained structures on clips that none of them saw, the same for all.

    python -m data.structures.evaluate data/structures

Every folder in there that holds a structure gets its ``metrics.json`` and its card anew. A measure
is a function of the clip and of what was made of it; `MEASURES` has their names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import FRAMES, HEIGHT, WIDTH, Scene, draw_tracks, random_scene, render
from evaluate import decoded

from data.structures.card import Row, write_metrics
from data.structures.decoders import decoders_of
from data.structures.recipe import STRUCTURES
from vdkit.measure.quality import psnr_db, ssim
from vdkit.models.loading import resolve_device
from vdkit.record.stats import mean_half_width

Measure = Callable[[np.ndarray, np.ndarray], float]
"""Of two clips, uint8 [F, H, W, 3]: the original, and what was decoded."""
MEASURES: dict[str, Measure] = {
    "psnr_db": lambda clip, made: psnr_db(clip, made).clip,
    "ssim": lambda clip, made: ssim(clip, made).clip,
}
STEADY = {"left", "right", "up", "down", "grows", "shrinks"}


def _motions(scene: Scene) -> list[str]:
    return [mover.motion for mover in scene.movers]


CATEGORIES: dict[str, Callable[[Scene], bool]] = {
    "static": lambda scene: set(_motions(scene)) == {"still"},
    "simple motion": lambda scene: len(scene.movers) == 1 and set(_motions(scene)) <= STEADY,
    # it comes back, turns, or two move at once
    "complex motion": lambda scene: (
        not set(_motions(scene)) <= STEADY | {"still"}
        or (len(scene.movers) == 2 and "still" not in _motions(scene))
    ),
    "cuts": lambda scene: "still" not in _motions(scene),
}
"""Which scenes a category takes; a clip with a cut shows two of them, one after the other."""


def held_out_clip(
    category: str, index: int, size: tuple[int, int, int] = (FRAMES, HEIGHT, WIDTH), seed: int = 0
) -> tuple[list[str], np.ndarray]:
    """Captions and frames, uint8 [F, H, W, 3], of a category's clip ``index``.

    Args:
        size: frames, height and width.
    """
    rng = np.random.default_rng((seed, 6, list(CATEGORIES).index(category), index))
    wanted, scenes = 1 + (category == "cuts"), []
    while len(scenes) < wanted:
        scene = random_scene(rng, held_out=True)
        scenes += [scene] if CATEGORIES[category](scene) else []
    drawn = render(draw_tracks(scenes, rng, *size)).numpy()
    cut = int(rng.integers(size[0] // 4, size[0] - size[0] // 4)) if wanted > 1 else size[0]
    return [scene.caption for scene in scenes], np.concatenate((drawn[0, :cut], drawn[-1, cut:]))


def measured(
    name: str, model: Any, clips: int, *, size: tuple[int, int, int] = (FRAMES, HEIGHT, WIDTH),
    seed: int = 0, measures: Mapping[str, Measure] = MEASURES,
) -> list[Row]:  # fmt: skip
    """A row for each clip and way to decode: the posterior's mean, streamed by vdkit.

    Args:
        clips: of each category.
    """
    rows = []
    ways = decoders_of(name, model)
    for category in CATEGORIES:
        for index in range(clips):
            captions, clip = held_out_clip(category, index, size, seed)
            video = torch.from_numpy(clip).to(model.device).movedim(3, 0)[None]
            with torch.inference_mode():
                posterior = model.encode(video.float().div(127.5).sub(1.0)).latent_dist
            for way, decoder in ways.items():
                made = decoded(decoder, posterior.mode())
                row: Row = {"category": category, "clip": index, "captions": captions, "way": way}
                row |= {key: round(measure(clip, made), 5) for key, measure in measures.items()}
                if way == "adaptive":
                    coarse = decoder.begin(posterior.mode()).coarse
                    share, one = sum(coarse) / len(coarse), STRUCTURES[name]
                    row["coarse_share"] = round(share, 5)
                    row["bytes_saved_share"] = round(share * one.parts["fine"] / one.channels, 5)
                rows.append(row)
    return rows


def by_category(rows: list[Row]) -> Row:
    """Mean and half the width of the 95 % interval over clips, by way, category and measure."""
    found: Row = {}
    for row in rows:
        group = found.setdefault(row["way"], {}).setdefault(row["category"], {})
        for key in row.keys() - {"category", "clip", "captions", "way"}:
            group.setdefault(key, []).append(row[key])
    return {
        way: {
            category: {key: _interval(values) for key, values in sorted(group.items())}
            for category, group in groups.items()
        }
        for way, groups in found.items()
    }


def _interval(values: list[float]) -> Row:
    half = mean_half_width(float(np.std(values, ddof=1)), len(values)) if len(values) > 1 else None
    rounded = partial(round, ndigits=5)
    return {"mean": rounded(float(np.mean(values))), "half_width": half and rounded(half)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, help="folder that holds the structures' folders")
    parser.add_argument("--clips", type=int, default=16, help="of each category")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--smoke", action="store_true", help="two small clips of each, on a CPU")
    parser.set_defaults(size=(FRAMES, HEIGHT, WIDTH))
    arguments = parser.parse_args()
    if arguments.smoke:
        vars(arguments).update(clips=2, size=(17, 32, 32), device="cpu")
    device = resolve_device(arguments.device)
    there = [name for name in STRUCTURES if (arguments.models / name / "metrics.json").exists()]
    if not there:
        parser.error(f"{arguments.models} holds no structure: export one by train --export")
    for name in there:
        folder = arguments.models / name
        model = STRUCTURES[name].make.from_pretrained(folder, torch_dtype=torch.float32)
        given = {"size": arguments.size, "seed": arguments.seed}
        rows = measured(name, model.to(device).eval(), arguments.clips, **given)
        on = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        how = {"device": on, "clips": arguments.clips, **given}
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics |= {"measured": how, "categories": by_category(rows), "rows": rows}
        write_metrics(folder, metrics)
        for way, groups in metrics["categories"].items():
            line = ", ".join(
                f"{key} {group['psnr_db']['mean']:.1f} dB" for key, group in groups.items()
            )
            print(f"{name}, {way}: {line}", flush=True)


if __name__ == "__main__":
    main()
