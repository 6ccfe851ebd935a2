"""What the model card shows: its measured part, the contact sheet, example films.

All of it follows from what `evaluate` records; nothing is picked: the first prompts are shown,
right or wrong.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from clips import FPS, FRAMES, HEIGHT, MOTIONS, WIDTH, parse
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from vdkit import Mp4Sink
from vdkit.decode.media import MediaInfo
from vdkit.present import Table

HERE = Path(__file__).parent
BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"
SHOWN, FILMED = 16, 3  # first prompts on the contact sheet, and as MP4
TIMES = (0, 8, 16, 24, 32)  # frames shown
PAPER, INK, FAINT, WRONG = "#ffffff", "#202020", "#808080", "#d00000"
NAMES = {
    "background": "background",
    "color": "colour of a shape",
    "shape": "form of a shape",
    "motion": "motion of a shape",
    "count": "number of shapes",
}
Row = dict[str, Any]


def card_block(metrics: Row, folder: Path = HERE) -> str:
    """The measured part of the model card in ``folder``."""
    larger = folder / "training" / "decoder.json"
    how, vae, made = (metrics[key] for key in ("measured", "vae", "generation"))
    device = how["cpu"] if how["device"] == "cpu" else how["device"]
    versions = ", ".join(f"{name} {text}" for name, text in how["packages"].items())
    dtype = " and ".join(sorted(set(how["dtype"].values())))
    kinds: dict[str, list[str]] = {}
    for one in made["confusions"]:
        said, seen = (MOTIONS.get(one[key], one[key]) for key in ("said", "seen"))
        times = f" ({one['times']} times)" if one["times"] > 1 else ""
        kinds.setdefault(NAMES[one["what"]], []).append(f"{said} seen as {seen}{times}")
    wrong = [f"- {kind}: {', '.join(ones)}" for kind, ones in kinds.items()]
    targets = [
        {"figure": t["what"], "measured": f"{t['measured']:.4g}", "target": t["target"]}
        | {"met": "yes" if t["met"] else "**no**"}
        for t in metrics["targets"]
    ]
    right = [
        {"what": NAMES.get(key, key), "right": f"{s['right']} of {s['of']}"}
        | {"share %": f"{100 * s['share']:.1f}"}
        | {"95 % interval": f"{100 * s['low']:.1f} to {100 * s['high']:.1f}"}
        for key, s in made["shares"].items()
    ]
    groups = {"all": {key: vae[key] for key in ("clips", "psnr_db", "ssim")}} | vae["groups"]
    quality = [
        {"clips with": MOTIONS.get(name, name), "n": str(g["clips"])}
        | {"PSNR dB": f"{g['psnr_db']['mean']:.1f}", "least dB": f"{g['psnr_db']['min']:.1f}"}
        | {"SSIM": f"{g['ssim']['mean']:.3f}", "least SSIM": f"{g['ssim']['min']:.3f}"}
        for name, g in groups.items()
    ]
    text = [
        f"Measured {how['created_utc'][:10]} on {device}, {how['threads']} CPU thread(s), "
        f"{dtype}; {versions}. {made['prompts']} prompts ({made['different_prompts']} "
        f"different ones), {how['steps']} steps, guidance {how['guidance']:g} and "
        f"{how['guidance_2']:g}, seeds from {how['seed']}; {made['seconds']['median']:.1f} s per "
        f"clip from text to frames (median; {made['seconds']['max']:.1f} s at most).",
        Table(targets).markdown_body(),
        "What the judge saw in the generated clips:",
        Table(right).markdown_body(),
        "What it saw instead:" if wrong else "It saw nothing wrong.",
        *(["\n".join(wrong)] if wrong else []),
        f"The VAE alone, {vae['clips']} drawn clips encoded and decoded:",
        Table(quality).markdown_body(),
        *(larger_pictures(json.loads(larger.read_text())) if larger.exists() else []),
    ]
    return "\n\n".join(text)


def larger_pictures(report: Row) -> list[str]:
    """What the decoder's stage noted: PSNR by size, before it and after."""
    rows = [
        {"frames and size": size, "clips": str(new["clips"])}
        | {
            f"{column}, {when}": f"{one[key]:.1f}"
            for column, key in (
                ("PSNR dB", "mean_db"), ("least", "least_db"), ("worst frame", "worst_frame_db")
            )
            for when, one in (("before", report["before"][size]), ("after", new))
        }
        for size, new in report["after"].items()
    ]  # fmt: skip
    steps = f"{report['steps']:,} steps of the decoder's stage"
    return [f"Other sizes, before and after {steps}:", Table(rows).markdown_body()]


def with_block(card: str, block: str) -> str:
    """The card with its measured part replaced; ValueError unless each marker is there once."""
    if card.count(BEGIN) != 1 or card.count(END) != 1:
        raise ValueError(f"the card needs the markers {BEGIN!r} and {END!r}, once each")
    before, rest = card.split(BEGIN)
    return f"{before}{BEGIN}\n{block}\n{END}{rest.split(END)[1]}"


def write_examples(videos: list[np.ndarray], folder: Path) -> None:
    """The first clips as ``prompt-0.mp4`` and so on."""
    folder.mkdir(exist_ok=True)
    for i, video in enumerate(videos[:FILMED]):
        sink = Mp4Sink(folder / f"prompt-{i}.mp4")
        sink.open(MediaInfo(FRAMES, HEIGHT, WIDTH, Fraction(FPS)))
        sink.write(video)
        sink.close()


def pieces(row: Row) -> list[tuple[str, bool]]:
    """The prompt cut up, each piece with whether the judge saw it in the clip."""
    scene, right = parse(row["prompt"]), row["right"]
    made: list[tuple[str, bool]] = []
    for i, mover in enumerate(scene.movers):
        made.append(("and " * (i > 0) + mover.words.split()[0], True))
        made.append((mover.color, right["color"][i]))
        made.append((mover.shape, right["shape"][i]))
        made.append((MOTIONS[mover.motion], right["motion"][i]))
    article = row["prompt"].rsplit(" over ", 1)[1].split()[0]
    made += [(f"over {article}", True), (scene.background, right["background"])]
    made.append(("background", True))
    if not right["count"]:
        made.append((f"({row['seen']['count']} seen)", False))
    return made


def write_sheet(prompts: list[Row], videos: list[np.ndarray], file: Path) -> None:
    """Two columns of clips, five frames each, under their prompts; wrong words in red."""
    gap, edge, line, top = 4, 28, 30, 44
    cell_width = len(TIMES) * (WIDTH + gap) - gap
    cell_height = line + HEIGHT + 14
    rows = -(-len(videos) // 2)
    size = (2 * cell_width + 3 * edge, top + rows * cell_height + edge // 2)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font, small = (ImageFont.truetype(findfont("DejaVu Sans"), points) for points in (15, 13))
    times = ", ".join(f"{t / FPS:g}" for t in TIMES)
    note = f"The first {len(videos)} held-out prompts, not chosen; frames at {times} s."
    draw.text((edge, 16), f"{note} Red: the judge saw something else.", FAINT, small)
    for i, (row, video) in enumerate(zip(prompts, videos, strict=False)):
        left = edge + i % 2 * (cell_width + edge)
        y = top + i // 2 * cell_height
        x = float(left)
        for words, right in pieces(row):
            draw.text((x, y + line - 7), words, INK if right else WRONG, font, anchor="ls")
            x += draw.textlength(f"{words} ", font)
        for k, t in enumerate(TIMES):
            sheet.paste(Image.fromarray(video[t]), (left + k * (WIDTH + gap), y + line))
    sheet.save(file, optimize=True)
