"""Pictures of the structures: what each gives for its size and its time, one clip through all, and
what they cost.

Figures have what they show attached, for `vdkit.save_figure`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from data.structures.claims import SMALL, STANDARD, bytes_in, only, ratio
from data.structures.recipe import KNOWN, MINIATURE
from data.structures.record import Row
from data.structures.texture import WAVELENGTHS
from vdkit.present.style import ChartRow, Part, chart, keep_data, legend_below, row_chart, say

AXES = {
    "kb_per_s": "latents, kB per second of video",
    "ms_per_video_s": "decode at full-size width, ms per second of video",
}
MEASURES = {"psnr_db": ("PSNR, dB", False), "stlpips": ("stLPIPS: 0 is the original", True)}
"""Of `plot_trade_offs`: words, and whether less is better."""
COLORS = {
    "standard, 8x8": "#0072B2", "standard, 16x16": "#D55E00", "hierarchical": "#009E73",
    "factorized": "#CC79A7", MINIATURE: "#000000",
}  # fmt: skip
DPI = 120  # a notebook has all these pictures
ERROR_TIMES = 4
"""How much stronger `plot_side_by_side` shows errors than they are."""


def kind_of(name: str) -> str:
    """What it is of `COLORS`."""
    side = KNOWN[name].spatial
    return f"standard, {side}x{side}" if name.startswith("z") else name


def label(name: str, way: str = "full") -> str:
    """A structure's name, and the way if it is not the full decode."""
    return name if way == "full" else f"{name}, {way}"


def trade_offs(
    quality: Iterable[Row], cost: Iterable[Row], measures: Sequence[str] = tuple(MEASURES)
) -> list[Row]:
    """Of each structure and way: quality (means over clips), bytes, time; by the first measure,
    highest first.

    Args:
        quality, cost: rows of these two kinds of recordings. A way without a cost, as one that is
            another for each clip, has None for it.
        measures: columns of ``quality``.
    """
    took = {(row["structure"], row["way"]): row["ms_per_video_s"] for row in cost}
    found: dict[tuple[str, str], list[Row]] = {}
    sizes: dict[tuple[str, str], float] = {}
    for row in quality:
        key = row["structure"], row["way"]
        if row["clip"] is None:  # what is of all clips
            sizes[key] = row["latent_bytes_per_s"] / 1000
        elif all(row[measure] is not None for measure in measures):
            found.setdefault(key, []).append(row)
    rows = [
        {
            "structure": key[0], "way": key[1], "clips": len(of),
            **{measure: mean(row[measure] for row in of) for measure in measures},
            "kb_per_s": sizes[key], "ms_per_video_s": took.get(key),
        }
        for key, of in found.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row[measures[0]])


def front(rows: Sequence[Row], axis: str, measure: str, lower: bool = False) -> list[Row]:
    """Those that no other beats in both, by ``axis``, of which less is better.

    Args:
        lower: less of the measure is better, too.
    """
    sign = -1 if lower else 1
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row[axis], -sign * row[measure])):
        if not best or sign * row[measure] > sign * best[-1][measure]:
            best.append(row)
    return best


def plot_trade_offs(rows: Sequence[Row]) -> Figure:
    """Quality over size, and over time, by each of `MEASURES`, the better the higher: a dot for
    each of `trade_offs`, a line through the best of those that were trained alike."""
    handles: dict[str, Any] = {}
    with chart(5.6, len(MEASURES), len(AXES), sharex="col", sharey="row", dpi=DPI) as (
        figure,
        axes,
    ):
        for ax, (measure, (words, lower)), (axis, below) in (
            (axes[r, c], one, other)
            for r, one in enumerate(MEASURES.items())
            for c, other in enumerate(AXES.items())
        ):
            there = [row for row in rows if row[axis] is not None]
            alike = [row for row in there if row["structure"] != MINIATURE]
            best = front(alike, axis, measure, lower)
            line = [[row[key] for row in best] for key in (axis, measure)]
            ax.step(*line, where="post", color="#888888", linewidth=0.8, zorder=0)
            said, values = list[Row](), [row[measure] for row in there]
            apart = 0.06 * (max(values) - min(values))  # labels nearer than that would touch
            for row in there:
                name, way, kind = row["structure"], row["way"], kind_of(row["structure"])
                filled = COLORS[kind] if way == "full" else "white"
                look: Any = {"marker": "o", "color": COLORS[kind], "markersize": 5, "ls": ""}
                ax.plot(row[axis], row[measure], mfc=filled, zorder=2 + (way == "full"), **look)
                handles[kind] = Line2D([], [], label=kind, **look)
                text, side = (name.partition("-")[0], "left") if way == "full" else (way, "right")
                near = (
                    0.97 < row[axis] / other[axis] < 1.03
                    and abs(row[measure] - other[measure]) < apart
                    for other in said
                )
                side = "right" if any(near) else side
                said.append(row)
                say(ax, row[axis], row[measure], f"  {text}  ", va="bottom", ha=side, fontsize=6)
            ax.set(xscale="log", xlabel=below, ylabel=words)
            ax.margins(x=0.3, y=0.12)
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter("")
            ax.label_outer()
        for ax, (_, lower) in zip(axes[:, 0], MEASURES.values(), strict=True):
            ax.yaxis.set_inverted(lower)
        legend_below(
            figure, [handles[kind] for kind in COLORS if kind in handles], ncols=len(COLORS)
        )
    return keep_data(figure, rows)


def plot_texture(quality: Iterable[Row]) -> Figure:
    """How much of the detail is lost, by its size: of each structure and way, mean over clips."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in quality:
        for px in WAVELENGTHS if row["clip"] is not None else ():
            of = found.setdefault((row["structure"], row["way"]), {px: [] for px in WAVELENGTHS})
            if (share := row[f"error_share_{px}px"]) is not None:
                of[px].append(100 * share)
    shown = list[Row]()
    with chart(3.2, dpi=DPI) as (figure, axes):
        ax = axes[0, 0]
        for number, ((name, way), of) in enumerate(found.items()):
            shares = [mean(values) for values in of.values()]
            look: Any = {"color": COLORS[kind_of(name)], "marker": "os^Dv<"[number % 6]}
            look |= {"markersize": 4, "linewidth": 1}
            look |= {"linestyle": "--", "mfc": "white"} if way != "full" else {}
            ax.semilogy(range(len(shares)), shares, label=label(name, way), **look)
            shown += [
                {"structure": name, "way": way, "from_px": px, "error_percent": share}
                for px, share in zip(of, shares, strict=True)
            ]
        longest, *others = WAVELENGTHS
        names = [f"{longest} and longer", *(f"{px} to {2 * px}" for px in others)]
        ax.set_xticks(range(len(names)), names)
        ax.axhline(100, color="#888888", linewidth=0.8, zorder=0)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
        ax.set(xlabel="wavelength, pixels", ylabel="power of the error, % of the clip's")
        legend_below(figure, loc="outside right center")
    return keep_data(figure, shown)


def plot_lengths(rows: Iterable[Row]) -> Figure:
    """Memory at the peak over a clip's length: decoding and encoding, with the clip on the device
    or a chunk of it.

    Raises:
        LookupError: no memory was measured, as on a CPU.
    """
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["structure"], row["way"], row["on_device"]), []).append(row)
    shown, titles = list[Row](), ("decoding", "encoding")
    names = list(dict.fromkeys(name for name, *_ in found))
    with chart(3.2, 1, 2, sharey=True, dpi=DPI) as (figure, axes):
        for (name, way, on), of in found.items():
            ax = axes[0, titles.index("encoding" if way == "encode" else "decoding")]
            peaks = [bytes_in(row) / 2**30 for row in of]
            color = COLORS[kind_of(name)]
            look: Any = {"color": color, "linestyle": "-" if on == "clip" else "--"}
            size = 7 - names.index(name)  # where two are equal, both are seen
            look |= {"marker": "o", "markersize": size, "linewidth": 1}
            look |= {"mfc": "white", "markersize": 8, "zorder": 1} if way == "preview" else {}
            ax.plot([row["clip_s"] for row in of], peaks, **look)
            shown += [
                {
                    "structure": name,
                    "way": way,
                    "on_device": on,
                    "clip_s": row["clip_s"],
                    "gib": gib,
                }
                for row, gib in zip(of, peaks, strict=True)
            ]
        handles = [Line2D([], [], color=COLORS[kind_of(name)], label=name) for name in names]
        for text, look in (
            ("the clip on the device", {"linestyle": "-"}),
            ("a chunk of it", {"linestyle": "--"}),
            ("preview", {"linestyle": "", "marker": "o", "mfc": "white", "markersize": 4}),
        ):
            handles.append(Line2D([], [], color="black", label=text, **look))
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title, loc="left")
            ax.set(xlabel="clip, seconds", ylabel="memory at the peak, GiB", ylim=(0, None))
            ax.label_outer()
        legend_below(figure, handles, ncols=4)
    return keep_data(figure, shown)


def plot_training(rows: Sequence[Row]) -> Figure:
    """Memory of a training step at its peak, up to the optimizer; behind it, what it saves of the
    plain step's and what it takes.

    Raises:
        LookupError: no memory was measured, as on a CPU.
    """
    panels: dict[str, list[ChartRow]] = {}
    colors = {"weights, gradients, moments": "#888888", "kept for backward, and work": "#0072B2"}
    for count in dict.fromkeys(row["latent_frames"] for row in rows):
        there = only(rows, latent_frames=count)
        (plain,) = only(there, way="plain")
        for row in there:
            peak, state = bytes_in(row, "backward_peak_bytes"), row["state_bytes"]
            words = f"{peak / 2**30:.2f} GiB, {row['step_s']:.3g} s a step"
            if row is not plain:
                less = bytes_in(plain, "backward_peak_bytes") / peak
                time = ratio(row["step_s_runs"], plain["step_s_runs"])
                words = f"{peak / 2**30:.2f} GiB, {less:.2f} times less; {time} times the time"
            sizes = zip(colors.items(), (state, peak - state), strict=True)
            parts = [Part(name, of / 2**30, color) for (name, color), of in sizes]
            title = f"{count} latent frame{'s' * (count > 1)}"
            panels.setdefault(title, []).append(ChartRow(row["way"], parts, words))
    with row_chart(panels, "memory at the peak, GiB", room=1.1, dpi=DPI) as (figure, _):
        handles = [Line2D([], [], color=c, lw=5, label=n) for n, c in colors.items()]
        legend_below(figure, handles, ncols=len(handles))
    return figure


def plot_squared(rows: Iterable[Row]) -> Figure:
    """How many times as much a denoiser has to do for 8x8x4 latents as for 16x16x4; a line where
    the square of the ratio is."""
    panels: dict[str, list[ChartRow]] = {}
    untrained = [row for row in rows if not row["trained"]]
    for name, batch in dict.fromkeys((row["denoiser"], row["clips_at_once"]) for row in untrained):
        of = {"denoiser": name, "clips_at_once": batch}
        large, small = (
            only(untrained, latents=one.partition("-")[2], **of)[0] for one in (STANDARD, SMALL)
        )
        times = ratio(large["forward_ms_runs"], small["forward_ms_runs"])
        found = {key: large[key] / small[key] for key in ("tokens", "forward_flop")}
        found["time"] = times.value
        panels[f"{name}, {batch} clip{'s' * (batch > 1)} at once"] = [
            ChartRow(
                "operations" if key == "forward_flop" else key,
                [Part(key, value, "#0072B2" if key == "time" else "#BBBBBB")],
                str(times) if key == "time" else f"{value:.2f}",
                interval=[times.low, times.high] if key == "time" else [],
            )
            for key, value in found.items()
        ]
    said = f"times as much with {STANDARD.partition('-')[2]} as with {SMALL.partition('-')[2]}"
    with row_chart(panels, f"{said} latents", room=0.25, dpi=DPI) as (figure, axes):
        for ax in axes:
            ax.axvline(4, color="black", linewidth=0.8, linestyle=":")
    for text in (text for ax in axes for text in ax.texts):
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    return figure


def plot_side_by_side(
    clip: np.ndarray, made: Mapping[str, np.ndarray], frame: int | None = None, columns: int = 4
) -> Figure:
    """One frame of a clip, and of what each structure made of it, each above its error.

    Args:
        clip: uint8 [F, H, W, 3].
        made: by name, of the same shape.
        frame: its number; None: the middle one.
    """
    at, names = len(clip) // 2 if frame is None else frame, ["original", *made]
    across = min(columns, len(names))
    rows = 2 * -(-len(names) // across)
    height, width = clip.shape[1:3]
    source, shown = clip[at].astype(int), list[Row]()
    tall = 6.3 / across * height / width * rows + 0.2 * rows
    with chart(tall, rows, across, dpi=100) as (figure, axes):  # about a dot for each pixel
        for ax in axes.flat:
            ax.axis("off")
        for n, name in enumerate(names):
            picture = made[name][at].astype(int) if name in made else source
            error = np.abs(picture - source)
            row, column = 2 * (n // across), n % across
            axes[row, column].imshow(picture, interpolation="nearest")
            axes[row, column].set_title(name, loc="left", fontsize=7)
            shown.append({"name": name, "frame": at, "mean_abs_levels": float(error.mean())})
            if name in made:
                error = 255 - np.clip(ERROR_TIMES * error, 0, 255)
                axes[row + 1, column].imshow(error, interpolation="nearest")
        axes[1, 0].text(0, 0.5, f"below each:\nits error x {ERROR_TIMES}", fontsize=7, va="center",
                        transform=axes[1, 0].transAxes)  # fmt: skip
    return keep_data(figure, shown)
