"""Measure trained structures on clips that none of them saw, the same for all.

    python -m data.structures.evaluate data/structures --out results
    python -m data.structures.evaluate data/tiny-wan --out results

Every folder in there that holds a structure gets its ``metrics.json`` and its card anew; with
``--out`` all that was measured becomes one recording. The second measures the miniature's VAE. A
measure is a function of the clip and of what was made of it; `MEASURES` and `seen_by` have their
names.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import FRAMES, HEIGHT, WIDTH, Scene, draw_tracks, motion, random_scene, render
from evaluate import decoded

from data.structures.card import Row, write_metrics
from data.structures.decoders import decoders_of
from data.structures.measuring import half_width
from data.structures.recipe import KNOWN, MINIATURE, STRUCTURES, facts
from data.structures.record import Kind, device_for, record
from data.structures.texture import WAVELENGTHS, error_share
from vdkit.measure.perception import (
    DIMENSIONS,
    Network,
    clip_features,
    flicker,
    frechet_distance,
    stlpips,
    temporal_stlpips,
    warping_error,
)
from vdkit.measure.quality import FrameScores, flip, psnr_db, ssim
from vdkit.models.perception import PerceptualNetwork

Size = tuple[int, int, int]  # frames, height and width
ENCODED = 8  # clips at once
CHUNK = 8  # latent frames a call behind the first: all of a clip
SET = 2 * (2 * DIMENSIONS + 1)  # clips that a Frechet distance needs
CORES = len(os.sched_getaffinity(0))
BLANK = np.zeros((1, 16, 16, 3), np.uint8)
FACTS = ("class", "parameters", "channels", "spatial", "temporal")
HOW = (
    "held-out captions; the posterior's mean, decoded in float32 (TF32 on a GPU), streamed; a row "
    "for each clip, and one of all (clip: null), with a Frechet distance in a small space of our "
    "own (not FVD) and its standard error; levels are of 255; a value is null where no pixel "
    "counts, or clips are equal"
)


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """A clip whose captions no training saw.

    Attributes:
        category, index: which one it is.
        captions: of its scenes.
        clip: uint8 [F, H, W, 3].
        motion: flow and seen of `clips.motion`; across a cut nothing is seen.
    """

    category: str
    index: int
    captions: list[str]
    clip: np.ndarray
    motion: tuple[np.ndarray, np.ndarray]


Measure = Callable[[HeldOut, np.ndarray], FrameScores]
"""Of a clip and of what was decoded, uint8 [F, H, W, 3]."""
MEASURES: dict[str, Measure] = {
    "psnr_db": lambda of, made: psnr_db(of.clip, made),
    "ssim": lambda of, made: ssim(of.clip, made),
    "flip": lambda of, made: flip(of.clip, made),
    "warping_levels": lambda of, made: warping_error(made, *of.motion),
    "warping_original_levels": lambda of, made: warping_error(of.clip, *of.motion),
    "flicker_levels": lambda of, made: flicker(of.clip, made),
} | {
    f"error_share_{px}px": lambda of, made, px=px: error_share(of.clip, made, px)
    for px in WAVELENGTHS
}  # fmt: skip
"""Those that a CPU takes; `seen_by` has the others."""
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


def held_out(
    category: str, index: int, size: Size = (FRAMES, HEIGHT, WIDTH), seed: int = 0
) -> HeldOut:
    """A category's clip ``index``."""
    rng = np.random.default_rng((seed, 6, list(CATEGORIES).index(category), index))
    wanted, scenes = 1 + (category == "cuts"), []
    while len(scenes) < wanted:
        scene = random_scene(rng, held_out=True)
        scenes += [scene] if CATEGORIES[category](scene) else []
    tracks = draw_tracks(scenes, rng, *size)
    cut = int(rng.integers(size[0] // 4, size[0] - size[0] // 4)) if wanted > 1 else size[0]
    drawn, flow, seen = (
        np.concatenate((one[0, :cut], one[-1, cut:]))
        for one in (render(tracks).numpy(), *motion(tracks))
    )
    seen[cut - 1 : cut] = False
    return HeldOut(category, index, [one.caption for one in scenes], drawn, (flow, seen))


def seen_by(network: Network) -> dict[str, Measure]:
    """The measures that take the network of stLPIPS."""
    return {
        "stlpips": lambda of, made: stlpips(of.clip, made, network, len(made)),
        "temporal_stlpips": lambda of, made: temporal_stlpips(of.clip, made, network, len(made)),
    }


def remembering(network: Network) -> Network:
    """The network, which embeds the last two clips once, however many measures ask for them."""

    @lru_cache(2)
    def embedded(data: bytes, shape: torch.Size) -> list[torch.Tensor]:
        return network(torch.frombuffer(bytearray(data), dtype=torch.uint8).view(shape))

    return lambda frames: embedded(frames.numpy().tobytes(), frames.shape)


def scored(of: HeldOut, made: np.ndarray, measures: Mapping[str, Measure] | None = None) -> Row:
    """Each of `MEASURES`, or of others; None where it has no finite value."""
    found = {key: measure(of, made).clip for key, measure in (measures or MEASURES).items()}
    return {key: round(one, 5) if math.isfinite(one) else None for key, one in found.items()}


@contextmanager
def scorers() -> Iterator[Executor]:
    """Processes that take `MEASURES`, one a core; to be had before CUDA is in use.

    Raises:
        ModuleNotFoundError: a package that they need is not there.
    """
    one_thread = partial(os.environ.update, OMP_NUM_THREADS="1")
    with ProcessPoolExecutor(CORES, get_context("fork"), one_thread) as pool:
        pool.submit(flip, BLANK, BLANK).result()  # all are forked here, while nothing runs beside
        yield pool


def encoded(model: Any, clips: Sequence[HeldOut]) -> torch.Tensor:
    """The posterior's mean of clips of one size, [N, C, T, h, w]."""
    video = torch.from_numpy(np.stack([of.clip for of in clips])).to(model.device).movedim(4, 1)
    with torch.inference_mode():
        latents: torch.Tensor = model.encode(video.float().div(127.5).sub(1.0)).latent_dist.mode()
    return latents


def measured(
    name: str, model: Any, clips: Sequence[HeldOut], network: Network, pool: Executor
) -> tuple[list[Row], list[Row]]:
    """The posterior's mean decoded, streamed by vdkit: a row for each clip and way, then for each
    way one of all clips.

    Args:
        pool: where `MEASURES` are taken, meanwhile.
    """
    ways, structure, network = decoders_of(name, model), KNOWN[name], remembering(network)
    rows: list[tuple[Row, Future[Row]]] = []
    features: dict[str, list[np.ndarray]] = {way: [] for way in ("original", *ways)}
    for begin in range(0, len(clips), ENCODED):
        some = clips[begin : begin + ENCODED]
        for of, one in zip(some, encoded(model, some).split(1), strict=True):
            features["original"].append(clip_features(of.clip, network, len(of.clip)))
            for way, decoder in ways.items():
                made = decoded(decoder, one, CHUNK)
                features[way].append(clip_features(made, network, len(made)))
                row: Row = {"category": of.category, "clip": of.index, "captions": of.captions}
                row |= {"way": way, **scored(of, made, seen_by(network))}
                if way == "adaptive":
                    coarse = decoder.begin(one).coarse
                    share = sum(coarse) / len(coarse)
                    saved = share * structure.parts["fine"] / structure.channels
                    row |= {"coarse_share": round(share, 5), "bytes_saved_share": round(saved, 5)}
                rows.append((row, pool.submit(scored, of, made)))
    found = [row | later.result() for row, later in rows]
    sets, size = [], clips[0].clip.shape[1:3]
    for way in ways:
        saves = [row.get("bytes_saved_share", 0.0) for row in found if row["way"] == way]
        full = structure.latent_bytes_per_s(*size)
        a_second = full * (1 - float(np.mean(saves)))
        if way == "preview":
            a_second = structure.latent_bytes_per_s(*size, part="coarse")
        pair = [np.stack(features[one]) for one in ("original", way)]
        apart = frechet_distance(*pair) if len(clips) >= SET else (None, None)
        sets.append({
            "way": way, "clips": len(clips), "ratio": structure.ratio * full / a_second,
            "latent_bytes_per_s": a_second, "frechet": apart[0], "frechet_error": apart[1],
        })  # fmt: skip
    return found, sets


def by_category(rows: Iterable[Row]) -> Row:
    """Mean and half the width of the 95 % interval over clips, by way, category (and of all clips)
    and measure."""
    found: Row = {}
    for row in rows:
        for category in (row["category"], "all"):
            group = found.setdefault(row["way"], {}).setdefault(category, {})
            for key in row.keys() - {"category", "clip", "captions", "way"}:
                group.setdefault(key, []).append((row["category"], row[key]))
    return {
        way: {
            category: {key: _interval(values) for key, values in sorted(group.items())}
            for category, group in sorted(groups.items(), key=lambda of: of[0] == "all")
        }
        for way, groups in found.items()
    }


def _interval(values: list[tuple[str, float | None]]) -> Row:
    categories = [category for category, one in values if one is not None]
    there = [one for _, one in values if one is not None]
    if not there:
        return {"mean": None, "half_width": None}
    half = half_width(there, categories)
    rounded = partial(round, ndigits=5)
    return {"mean": rounded(float(np.mean(there))), "half_width": half and rounded(half)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", type=Path, help="folder of the structures' folders, or tiny-wan's"
    )
    parser.add_argument("--out", type=Path, help="where the recording gets its folder")
    parser.add_argument("--clips", type=int, default=16, help="of each category")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--smoke", action="store_true", help="two small clips of each, on a CPU")
    parser.set_defaults(size=(FRAMES, HEIGHT, WIDTH))
    arguments = parser.parse_args()
    if arguments.smoke:
        vars(arguments).update(clips=2, size=(17, 32, 32), device="cpu")
    there = [name for name in STRUCTURES if (arguments.models / name / "metrics.json").exists()]
    there = there or [MINIATURE] * (arguments.models / "vae").is_dir()
    if not there:
        parser.error(f"{arguments.models} holds no structure: export one by train --export")
    device = device_for(parser, arguments)
    try:
        with scorers() as pool:
            evaluate(there, arguments, device, pool)
    except ModuleNotFoundError as error:
        parser.error(str(error))


def evaluate(
    there: Sequence[str], arguments: argparse.Namespace, device: torch.device, pool: Executor
) -> None:
    """Measure structures, and write what was asked for."""
    given = {"size": arguments.size, "seed": arguments.seed}
    which = [(category, index) for category in CATEGORIES for index in range(arguments.clips)]
    clips = list(pool.map(partial(held_out, **given), *zip(*which, strict=True)))
    if len(clips) < SET:
        print(f"no Frechet distances: {len(clips)} clips in all, they need {SET}", flush=True)
    network, recorded = PerceptualNetwork(device), list[Row]()
    for name in there:
        folder = arguments.models / ("vae" if name == MINIATURE else name)
        model = KNOWN[name].make.from_pretrained(folder, torch_dtype=torch.float32)
        rows, sets = measured(name, model.to(device).eval(), clips, network, pool)
        found = {"categories": by_category(rows), "sets": sets, "rows": rows}
        if name == MINIATURE:
            metrics, known = facts(name, model) | found, {}
        else:
            on = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
            metrics = json.loads((folder / "metrics.json").read_text())
            kept = arguments.smoke and "measured" in metrics
            metrics |= {"measured": {"device": on, "clips": arguments.clips, **given}, **found}
            if kept:
                print(f"{folder} keeps its card: this is --smoke", flush=True)
            else:
                write_metrics(folder, metrics)
            training = metrics["training"]
            known = {f"training_{key}": training[key] for key in ("steps", "of", "finished")}
        known |= {key: metrics[key] for key in FACTS}
        recorded += [{"structure": name, **row} for row in rows]
        recorded += [{"structure": name, "clip": None, **row, **known} for row in sets]
        for one in sets:
            print(
                f"{name}, {one['way']}: {_said(metrics['categories'][one['way']], one)}", flush=True
            )
    if arguments.out:
        asked = {"clips_of_each_category": arguments.clips, **given, "how": HOW}
        kind: Kind = "reference" if there == [MINIATURE] else "quality"
        print(record(arguments.out, kind, asked | {"smoke": arguments.smoke}, recorded, device))


def _said(groups: Row, of_all: Row) -> str:
    parts = [f"{key} {group['psnr_db']['mean']:.1f} dB" for key, group in groups.items()]
    parts += [f"{key} {groups['all'][key]['mean']:.3f}" for key in ("ssim", "stlpips", "flip")]
    if of_all["frechet"] is not None:
        parts.append(f"Frechet {of_all['frechet']:.4f} ± {of_all['frechet_error']:.4f}")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
