"""Two stages, as `data.structures.upsample` measures them: tables, and where the time goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from data.structures.evaluate import MEASURES, Measure, remembering, seen_by
from data.structures.measuring import half_width
from data.structures.record import Row
from vdkit.models.perception import PerceptualNetwork
from vdkit.present import Cell, Number, Table, decimals_for, mean_of, number
from vdkit.present.style import CAUSE_COLORS, TONES, ChartRow, Part, legend_below, row_chart

GIVEN = {
    "psnr_db": ("PSNR dB", 2), "stlpips": ("stLPIPS", 3), "error_share_4px": ("error at 4 px", 2),
    "error_share_2px": ("at 2 px", 2),
}  # fmt: skip
"""Column and decimals of what `tables` has of clips."""
COLORS = {
    "denoise": CAUSE_COLORS["encoder full"][0], "upsample": TONES["convert"][0],
    "decode": TONES["compute"][0],
}  # fmt: skip
DECODED = {
    "direct": ("decode whole",), "two stages": ("upsample", "decode whole"),
    "half, decoded": ("decode half",),
}  # fmt: skip
"""The steps at full size that each way takes."""


def measures(device: torch.device) -> dict[str, Measure]:
    """Those of `GIVEN`."""
    found = MEASURES | seen_by(remembering(PerceptualNetwork(device)))
    return {key: found[key] for key in GIVEN}


def _interval(values: Sequence[float], decimals: int, groups: Sequence[str] = ()) -> Number:
    """The mean, and its 95 % interval where there are several; ``groups`` as for `half_width`."""
    half, middle = half_width(values, groups), mean(values)
    return Number(middle, decimals, *(() if half is None else (middle - half, middle + half)))


def _by_way(rows: Iterable[Row], study: str, key: str = "way") -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["study"] == study:
            found.setdefault(row[key], []).append(row)
    return found


def tables(rows: Sequence[Row]) -> list[Table]:
    """Of the rows of `data.structures.upsample`, a table for each study that is there."""
    clips: list[dict[str, Cell]] = []
    ways = _by_way(rows, "clips")
    whole = {(row["category"], row["clip"]): row["psnr_db"] for row in ways.get("direct", ())}
    for way, several in ways.items():
        line: dict[str, Cell] = {"made by": way, "clips": number(len(several))}
        for key, (name, decimals) in GIVEN.items():
            there = [row for row in several if row[key] is not None]
            values, of = [row[key] for row in there], [row["category"] for row in there]
            line[name] = _interval(values, decimals, of) if values else None
            if key == "psnr_db":
                more = [row[key] - whole[row["category"], row["clip"]] for row in there]
                line["to direct"] = None if way == "direct" else _interval(more, decimals, of)
        clips.append(line | {"seconds": mean_of([row["decode_s"] for row in several])})
    sizes: list[dict[str, Cell]] = []
    for step, (row,) in _by_way(rows, "full size", "step").items():
        half, peak = row["step_s_half_width"], row["peak_bytes"]
        seconds = _interval(row["step_s_runs"], decimals_for(half, row["step_s"]))
        share = 2 if step == "decode half" else 1
        made_of = row["frames"], row["height"] // share, row["width"] // share
        line = {"step": step, "frames": "x".join(map(str, made_of))}
        line |= {"parameters": f"{row['parameters'] / 1e6:.1f} M"}
        sizes.append(line | {"seconds": seconds, "peak GiB": number(peak, 2, 2**-30)})
    made: list[dict[str, Cell]] = []
    for way, several in _by_way(rows, "generated").items():
        line = {"from a prompt": way, "videos": number(len(several))}
        line["right"] = number(sum(row["right"] for row in several))
        for step in COLORS:
            taken = step != "upsample" or way != "direct"
            line[f"{step} s"] = mean_of([row[f"{step}_s"] for row in several]) if taken else None
        made.append(line)
    notes = (
        "PSNR, stLPIPS (0: looks the same): against the clip; to direct: PSNR less that of the "
        "same clip. Error: its power over the\nclip's, in waves of 4 to 8 and 2 to 4 pixels; 1: "
        "nothing of them is kept. Seconds: from latents to frames, with what enlarges.",
        "At full size, random weights. Two stages take upsample and decode whole.",
        "Right: a judge sees in the frames what the prompt asks for.",
    )
    return [
        Table(of, note=note) for of, note in zip((clips, sizes, made), notes, strict=True) if of
    ]


def plot_times(rows: Sequence[Row]) -> Figure:
    """Where the time of two stages goes, in percent of what is made directly."""
    generated, full = _by_way(rows, "generated"), _by_way(rows, "full size", "step")
    took = {
        "The miniature, from a prompt": {
            way: [(step, mean(row[f"{step}_s"] for row in several)) for step in COLORS]
            for way, several in generated.items()
        },
        "Full size, from latents on": {
            way: [(step.split()[0], full[step][0]["step_s"]) for step in steps]
            for way, steps in DECODED.items()
        },
    }
    panels: dict[str, list[ChartRow]] = {}
    for title, ways in took.items():
        unit = sum(s for _, s in ways["direct"]) / 100
        panels[title] = [
            ChartRow(
                way,
                [Part(step, s / unit, COLORS[step]) for step, s in parts],
                f"{mean_of([sum(s for _, s in parts)])} s",
            )
            for way, parts in ways.items()
        ]
    with row_chart(panels, "time, % of direct") as (figure, _):
        made = [Patch(color=color, label=step) for step, color in COLORS.items()]
        legend_below(figure, made, ncols=3)
    return figure
