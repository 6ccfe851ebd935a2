"""What is known of a structure, as ``metrics.json`` and as its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vdkit.present import Table

Row = dict[str, Any]
HEADINGS = {
    "psnr_db": "PSNR dB", "ssim": "SSIM", "flip": "FLIP", "stlpips": "stLPIPS",
    "temporal_stlpips": "temporal stLPIPS", "warping_levels": "warping error, levels",
    "flicker_levels": "flicker, levels",
    "coarse_share": "share decoded coarsely", "bytes_saved_share": "share of bytes saved",
}  # fmt: skip
"""Of the columns that the card shows, in this order."""


def write_metrics(folder: Path, metrics: Row) -> None:
    """``metrics.json``, a line for each clip, and the card ``README.md``."""
    rows = ",\n  ".join(map(json.dumps, metrics.get("rows", [])))
    rest = json.dumps({key: value for key, value in metrics.items() if key != "rows"}, indent=1)
    text = f'{rest[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n' if rows else f"{rest}\n"
    (folder / "metrics.json").write_text(text)
    (folder / "README.md").write_text(card(metrics))


def trained(training: Row) -> str:
    """How, and for how long."""
    cut_short = "" if training["finished"] else " **It did not finish.**"
    if training["begun"]:
        cut_short += (
            f" At step {training['begun']:,} it went on from the averaged weights of a training "
            "that was to end there, with a new optimizer."
        )
    return (
        f"Trained on {training['device']} for {training['steps']:,} of {training['of']:,} steps, "
        f"in {training['seconds']:.0f} s, {training['batch']} clips a step, torch "
        f"{training['torch']}, seed {training['seed']}; bfloat16 autocast on a GPU.{cut_short} "
        "Losses: `losses.csv`. Nothing was downloaded: the clips are drawn, the weights began at "
        "the seed."
    )


def card(metrics: Row) -> str:
    """The text of ``README.md``, all of it from ``metrics``."""
    name, clips = metrics["structure"], metrics["clips"]
    video = f"{clips['height']}x{clips['width']} at {clips['fps']} frames a second"
    parts = metrics["latent_bytes_per_s_of"].items()
    of_which = ", ".join(f"{part} {size / 1000:.1f} kB" for part, size in parts)
    sides, time = metrics["spatial"], metrics["temporal"]
    stock = metrics["class"] == "AutoencoderKLWan"
    own = f"`data.structures.structures`; streamed, `--decoder data.structures.decoders:{name}`"
    text = [
        f"# {name}",
        f"A video autoencoder (`{metrics['class']}`, {metrics['parameters']:,} parameters) of the "
        "miniature's world of moving shapes, to be compared with its siblings: not for use on "
        f"other pictures. The class is of {'diffusers' if stock else own}.",
        f"Latents: {metrics['channels']} channels at {sides}x{sides} pixels and {time} frames, "
        f"{metrics['ratio']:.0f} values of the pictures to one. A second of {video} is "
        f"{metrics['latent_bytes_per_s'] / 1000:.1f} kB in float16"
        f"{f' ({of_which})' if of_which else ''}.",
        trained(metrics["training"]),
        f"Again, on a GPU not bit for bit: `python -m data.structures.train --run RUN --structure "
        f"{name} --steps {metrics['training']['of']} --minutes 30`, then with `--export`.",
    ]
    if metrics.get("rows"):
        text += [
            f"Measured on {metrics['measured']['device']} in float32: held-out captions, "
            f"{metrics['measured']['clips']} clips a category, with 95 % intervals over clips, the "
            "categories fixed. Of PSNR, SSIM and shares more is better, of all others less; "
            "stLPIPS is of `data/stlpips`, FLIP of `flip-evaluator`.",
            Table(_quality(metrics["categories"])).markdown_body(),
        ]
        text += [
            f"Frechet distance to the originals, decode {one['way']}: {one['frechet']:.4f} ± "
            f"{one['frechet_error']:.4f} (standard error over {one['clips']} clips; a small space "
            "of our own, comparable with nothing but itself)."
            for one in metrics["sets"]
            if one["frechet"] is not None
        ]
    return "\n\n".join(text) + "\n"


def _quality(categories: Row) -> list[Row]:
    """A row for each way to decode and category."""
    return [
        {"decode": way, "clips": category}
        | {heading: _cell(figures[key]) for key, heading in HEADINGS.items() if key in figures}
        for way, groups in categories.items()
        for category, figures in groups.items()
    ]


def _cell(found: Row) -> str | None:
    if found["mean"] is None:
        return None
    half = "" if found["half_width"] is None else f" ± {found['half_width']:.2g}"
    return f"{found['mean']:.4g}{half}"
