"""The stages from a prompt to frames: what goes in and out of each, how long it takes, how much
memory. No torch: it reads shapes and sizes from whatever holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vdkit.decode.chunks import LAUNCH_AHEAD, DecodeResult
from vdkit.present import Cell, Number, Table, number, significant, style
from vdkit.record.recording import Recording
from vdkit.record.results import frame_of
from vdkit.record.runs import MODES
from vdkit.trace import Recorded, chunk_steps

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from vdkit.models.pipeline import GeneratedLatents, KeptStep, Stage


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage in sum.

    Attributes:
        name: ``text encoder``, ``denoise, high-noise expert``, ..., ``decode and write``.
        expert: which transformer; None where none ran.
        takes, gives: in words, with shapes.
        gives_bytes: of all that the stage gives.
        spans_s: (start, stop) of each call, s since the first stage began, stages end to end:
            steps of an expert, chunks of a decode.
        seconds: wall clock of the stage; more than its spans where it does other work too.
        peak_vram_bytes: allocated at most, the weights of all stages included; None on a CPU.
    """

    name: str
    expert: str | None
    takes: str
    gives: str
    gives_bytes: int
    spans_s: tuple[tuple[float, float], ...]
    seconds: float
    peak_vram_bytes: int | None


def stage_rows(made: GeneratedLatents, decoded: DecodeResult) -> list[StageRow]:
    """Text encoder, denoising by expert, decode; in the order they ran.

    Args:
        made: of `vdkit.generate_latents`.
        decoded: of a decode of its latents, on a chunked path.
    """
    latents, embedding, video = made.latents, made.embedding, decoded.info
    shape, clock_s = list(latents.shape), 0.0
    rows: list[StageRow] = []
    for name in dict.fromkeys(_shown(stage) for stage in made.stages):
        mine = [stage for stage in made.stages if _shown(stage) == name]
        ends = np.cumsum([clock_s, *(stage.seconds for stage in mine)]).tolist()
        peaks = [stage.peak_vram_bytes for stage in mine if stage.peak_vram_bytes is not None]
        takes = f"{'latents' if any(row.expert for row in rows) else 'noise'} {shape}"
        gives, made_bytes = f"latents {shape}", latents.nbytes
        if (expert := mine[0].expert) is None:
            takes = f"{len(made.token_ids)} token ids, padded to [1, {embedding.shape[1]}]"
            gives, made_bytes = f"embedding {list(embedding.shape)}", embedding.nbytes
        peak, took_s = max(peaks, default=None), ends[-1] - clock_s
        spans = tuple(pairwise(ends))
        rows.append(StageRow(name, expert, takes, gives, made_bytes, spans, took_s, peak))
        clock_s = ends[-1]
    steady = decoded.chunks[-1]
    part = [*shape[:2], steady.latent_stop - steady.latent_start, *shape[3:]]
    pixels = [steady.frame_stop - steady.frame_start, video.height, video.width, 3]
    takes, gives = f"latents {part} a chunk", f"frames {pixels} a chunk, uint8"
    decodes = [(one.decode_start_s, one.decode_done_s) for one in decoded.chunks]
    known = [(a, b) for a, b in decodes if a is not None and b is not None]
    spans = tuple((clock_s + start, clock_s + stop) for start, stop in known)
    made_bytes, peak = video.frames * video.frame_bytes, decoded.vram_peak_bytes
    took = takes, gives, made_bytes, spans, decoded.latency_s, peak
    return [*rows, StageRow("decode and write", None, *took)]


def _shown(stage: Stage) -> str:
    if stage.expert is None:
        return stage.name
    return "denoise" if stage.expert == "only" else f"denoise, {stage.expert} expert"


def stages_table(rows: Sequence[StageRow]) -> Table:
    """A row per stage; peak VRAM only where there is a GPU."""
    whole_s = sum(row.seconds for row in rows)
    on_gpu = any(row.peak_vram_bytes is not None for row in rows)
    return Table(
        [
            {
                "stage": row.name,
                "takes": row.takes,
                "gives": row.gives,
                "in all": size_words(row.gives_bytes),
                "calls": Number(len(row.spans_s), 0),
                "seconds": Number(row.seconds, 3),
                "share %": Number(100 * row.seconds / whole_s, 1),
                **({"peak VRAM GB": number(row.peak_vram_bytes, 3, 1e-9)} if on_gpu else {}),
            }
            for row in rows
        ]
    )


def size_words(size_bytes: int) -> str:
    """Three digits and a unit of 1000s: ``262 kB``, ``1.52 MB``."""
    value, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        del units[0]
    return f"{value:.0f} {units[0]}" if value >= 99.95 else f"{value:.3g} {units[0]}"


EXPERT_TONES = dict.fromkeys(("high-noise", "only"), style.TONES["copy"])
EXPERT_TONES["low-noise"] = ("#E69F00", "#F2C763")


def plot_stages(rows: Sequence[StageRow], title: str | None = None) -> Figure:
    """When each stage worked, a block for each step or chunk, and on a GPU its peak memory."""
    whole_s = sum(row.seconds for row in rows)
    tones = [EXPERT_TONES[row.expert] if row.expert else style.TONES["write"] for row in rows]
    tones[-1] = style.TONES["compute"]
    panels: dict[str, list[style.ChartRow]] = {"": [], " ": []}
    for row, tone in zip(rows, tones, strict=True):
        at = begin = row.spans_s[0][0]
        parts = []
        for call, (start, stop) in enumerate(row.spans_s):
            waited = [style.Part("between", start - at, "none")] if start > at else []
            parts += [*waited, style.Part(f"call {call}, s", stop - start, tone[call % 2])]
            at = stop
        share = f"{significant(row.seconds)} s, {significant(100 * row.seconds / whole_s)} %"
        panels[""].append(style.ChartRow(row.name, parts, share, left=begin))
        if row.peak_vram_bytes is not None:
            peak_gb = row.peak_vram_bytes / 1e9
            peak = style.Part("peak VRAM, GB", peak_gb, tone[0])
            panels[" "].append(style.ChartRow(row.name, [peak], str(significant(peak_gb))))
    panels = {title: some for title, some in panels.items() if some}
    words = "time since the prompt, s (a block is a step or a chunk)"
    grid, limits = {"width_ratios": (2.4, 1)[: len(panels)]}, (0.0, 1.35 * whole_s)
    options: Any = {"title": title, "across": True, "sharex": False, "gridspec_kw": grid}
    with style.row_chart(panels, words, limits, row_in=0.36, **options) as (figure, axes):
        for ax in axes[1:]:
            ax.set(xlim=(0, 1.3 * ax.dataLim.x1), xlabel="peak VRAM, GB")
    return figure


def plot_denoising(
    steps: Sequence[KeptStep], pictures: Mapping[str, Sequence[np.ndarray]]
) -> Figure:
    """A contact sheet: a column for each step, above it the expert that ran and at which noise.

    Args:
        steps: ``kept`` of `vdkit.generate_latents`.
        pictures: name of a row to a picture for each step, uint8 [H, W, 3].
    """
    with _sheet(list(pictures.values()), len(steps), 0.42, 0.75) as (figure, axes):
        for ax, step in zip(axes[0], steps, strict=True):
            expert = "" if step.expert == "only" else f"\n{step.expert}"
            noise = f"at noise {step.timestep / 1000:.2f}"
            ax.set_title(f"step {step.step}{expert}\n{noise}", fontsize=6.5, pad=4)
            color = EXPERT_TONES[step.expert][0]
            ax.spines["top"].set(visible=True, position=("outward", 1), color=color, linewidth=2.5)
        for row, name in zip(axes, pictures, strict=True):
            row[0].set_ylabel(name, fontsize=7, rotation=0, ha="right", va="center")
    rows = [(one.step, one.expert, one.timestep / 1000) for one in steps]
    return style.keep_data(figure, rows, ("step", "expert", "noise"))


_SHOWN, _ACROSS = 12, 6


def plot_frames(frames: np.ndarray, fps: float = 16) -> Figure:
    """A contact sheet of a video: twelve frames from its first to its last, evenly spaced.

    Args:
        frames: uint8 RGB [F, H, W, 3], 1 or more; all are shown if there are fewer.
        fps: gives the time of each.
    """
    count = min(_SHOWN, len(frames))
    shown = np.linspace(0, len(frames) - 1, count).round().astype(int).tolist()
    columns = min(_ACROSS, count)
    rows = [[frames[i] for i in shown[at : at + columns]] for at in range(0, count, columns)]
    with _sheet(rows, columns, 0.2 * len(rows)) as (figure, axes):
        for ax, index in zip(axes.flat, shown, strict=False):
            ax.set_title(f"frame {index}, {index / fps:.2f} s", fontsize=6.5, pad=2)
    return style.keep_data(figure, [{"frame": i, "time_s": i / fps} for i in shown])


@contextmanager
def _sheet(
    rows: Sequence[Sequence[np.ndarray]], columns: int, head_in: float, label_in: float = 0.0
) -> Iterator[tuple[Figure, np.ndarray]]:
    """Axes with the pictures, as high as they need; places without one are left empty."""
    height, width = rows[0][0].shape[:2]
    height_in = head_in + len(rows) * (style.WIDTH_IN - 0.1 - label_in) / columns * height / width
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.015, hspace=0.015)
    with style.chart(height_in, len(rows), columns, layout=layout) as (figure, axes):
        for line, pictures in zip(axes, rows, strict=True):
            some = [*pictures, *[None] * (columns - len(pictures))]
            for ax, picture in zip(line, some, strict=True):
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
                if picture is not None:
                    ax.imshow(picture, aspect="equal")
        yield figure, axes


VRAM_RUNS = {"decoder": "wan2.1", "dtype": "float16", "height": 480, "width": 832,
            "chunk_size": 1, "variant": "diffusers", "mode": ("diffusers", "async"),
            "kind": ("bench", "variants", "cell")}  # fmt: skip
"""Column of `vdkit.load_results` to what it shall hold: which runs tell how memory grows."""


def vram_points(
    runs: pd.DataFrame, other_bytes: int = 0, wanted: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Every mode at every length, of the newest recording of it; nothing of those on a CPU.

    Args:
        runs: of `vdkit.load_results`.
        other_bytes: device bytes held by others meanwhile, such as another model; subtracted.
        wanted: as `VRAM_RUNS`; None: all.

    Returns:
        A row each: ``mode``, ``frames`` of the video, ``peak_bytes`` allocated at most by the
        decoder, weights included, and ``device``. Empty if there are none.
    """
    if runs.empty:
        return runs
    kept = runs["vram_peak_bytes"].notna() & ~runs["warmup"]
    for name, value in (wanted or {}).items():
        kept &= runs[name].isin(value if isinstance(value, tuple) else (value,))
    held = runs["other_bytes"].astype(float).fillna(0.0) + other_bytes
    mine = runs.assign(peak_bytes=runs["vram_peak_bytes"] - held)[kept]
    newest = mine.groupby(["mode", "frames"])["created_utc"].transform("max")
    groups = mine[mine["created_utc"] == newest].groupby(["mode", "frames"], as_index=False)
    return groups.agg({"peak_bytes": "max", "device": "first"}).astype({"peak_bytes": "int64"})


def vram_growth_bytes(points: pd.DataFrame, mode: str) -> float | None:
    """Bytes that each frame of video adds, by a line through all lengths; None below two."""
    mine = points[points["mode"] == mode]
    return float(np.polyfit(mine["frames"], mine["peak_bytes"], 1)[0]) if len(mine) > 1 else None


_SECOND = {"marker": "s", "markerfacecolor": "white", "linestyle": "--"}
_LINES: tuple[dict[str, Any], ...] = ({"marker": "o"}, _SECOND)


def plot_vram(measured: Mapping[str, pd.DataFrame]) -> Figure:
    """A line for each path, over the pixel frames of the video.

    Args:
        measured: where or when, in words, to `vram_points`; two at most, the second dashed.

    Raises:
        ValueError: no points, or more than two sets.
    """
    sets = {words: points for words, points in measured.items() if len(points)}
    if not 1 <= len(sets) <= len(_LINES):
        raise ValueError(f"{len(sets)} sets of points; give 1 or {len(_LINES)} that are not empty")
    with style.chart(2.9) as (figure, ((ax,),)):
        for look, (words, points) in zip(_LINES, sets.items(), strict=False):
            for mode in (name for name in MODES if name in set(points["mode"])):
                mine, grows = points[points["mode"] == mode], vram_growth_bytes(points, mode)
                label = f"{MODES[mode]}: {words}"
                if grows is not None:
                    label += f", {round(grows / 1e6, 2) + 0.0:+.2f} MB a frame on average"
                mark = {"color": style.MODE_COLORS[mode], "markersize": 4, "linewidth": 1.2}
                ax.plot(mine["frames"], mine["peak_bytes"] / 1e9, label=label, **mark | look)
        ax.set(xlabel="frames in the video", ylabel="peak VRAM of the decode, GB,\nweights in it")
        ax.set(xlim=(0, 1.05 * ax.dataLim.x1), ylim=(0, 1.12 * ax.get_ylim()[1]))
        style.legend_below(figure, loc="outside lower left", handlelength=2)
    tables: list[Any] = [points.assign(set=words) for words, points in sets.items()]
    return style.keep_data(figure, [row for table in tables for row in table.to_dict("records")])


def vram_sets(
    here: Sequence[Recording], recorded: pd.DataFrame, other_bytes: int = 0
) -> dict[str, pd.DataFrame]:
    """Points of what was measured here and of what is recorded, by where; `vram_points` of each."""
    measured = vram_points(frame_of([(Path(), one) for one in here]), other_bytes)
    sets = {"here": measured, "recorded": vram_points(recorded, wanted=VRAM_RUNS)}
    return {f"{how}, {one['device'].iloc[0]}": one for how, one in sets.items() if len(one)}


def vram_words(points: pd.DataFrame) -> str:
    """Whole video against chunked, in words: at the longest length that has both, and per frame.

    Raises:
        ValueError: no length has both ``diffusers`` and ``async``.
    """
    gb = points.pivot_table(index="frames", columns="mode", values="peak_bytes") / 1e9
    both = gb.reindex(columns=["diffusers", "async"]).dropna()
    if both.empty:
        raise ValueError("no length was decoded both whole (diffusers) and in chunks (async)")
    longest, (whole, chunked) = both.index.max(), both.loc[both.index.max()]
    text = f"{longest} frames decoded whole need {whole:.2f} GB, in chunks {chunked:.2f} GB."
    first, second = (vram_growth_bytes(points, mode) for mode in ("diffusers", "async"))
    if first is not None and second is not None:
        text += f" Over all lengths a frame adds {first / 1e6:.2f} MB on average to the first and "
        text += f"{second / 1e6:.2f} MB to the second."
    return text


PIPELINED = {
    "slot wait": ("caller", "a free slot of the ring"),
    "launch": ("caller", f"the slot, and the decode {LAUNCH_AHEAD} chunks before"),
    "decode": ("compute stream", "the launch, the chunk before, the slot's last copy"),
    "copy": ("copy stream", "the decode (an event)"),
    "convert": ("writer thread", "the copy (an event)"),
    "write": ("writer thread", "the copy (an event); then the slot is free"),
}
SEQUENTIAL = {
    "launch": ("caller", "the chunk before, whole"),
    "decode": ("compute stream", "the launch"),
    "copy": ("compute stream", "the decode; the caller waits"),
    "convert": ("caller", "the copy"),
    "write": ("caller", "the conversion; the compute stream has nothing to do"),
}
"""Step to where it runs and what it waits for, with every primitive on."""


def chunk_life_table(run: Recorded, index: int, on_gpu: bool) -> Table:
    """A row per step of a chunk, in ms since the chunk's launch.

    Args:
        run: a run of ``sync``, or of ``async`` with every primitive on.
        index: of the chunk.
        on_gpu: whether there were streams; on a CPU the caller decodes and copies itself.

    Raises:
        ValueError: another mode, or no such chunk.
    """
    words = {"async": PIPELINED, "sync": SEQUENTIAL}.get(run.mode)
    if words is None:
        raise ValueError(f"mode {run.mode!r} has no chunk's life to show; use sync or async")
    rows, steps = [], chunk_steps(run, index)
    zero_s = next(step.start_s for step in steps if step.name == "launch")
    for step in steps:
        where, waits = words[step.name]
        if not on_gpu:
            where = "caller (no streams on a CPU)" if where.endswith("stream") else where
            waits = "the decode itself: a CPU queues nothing" if step.name == "launch" else waits
        row: dict[str, Cell] = {f"{run.mode}, chunk {index}": step.name, "where": where}
        row |= {"from ms": number(step.start_s - zero_s, 2, 1e3)}
        row |= {"to ms": number(step.stop_s - zero_s, 2, 1e3)}
        rows.append(row | {"takes ms": number(step.length_s, 2, 1e3), "waits for": waits})
    return Table(rows)


def chunk_life_words(run: Recorded, index: int) -> str:
    """What came of the chunk, and how much of the next chunk's decode its copy and write share.

    Raises:
        ValueError: no such chunk.
    """
    after = [s for s in chunk_steps(run, index) if s.name in ("copy", "convert", "write")]
    chunk = run.chunks[index]
    spent_s = sum(step.length_s for step in after)
    decodes = [(one.decode_start_s, one.decode_done_s) for one in run.chunks]
    under = [(s, a, b) for s in after for a, b in decodes if a is not None and b is not None]
    hidden_s = sum(max(0.0, min(s.stop_s, b) - max(s.start_s, a)) for s, a, b in under)
    ring = "" if chunk.slot is None else f" through slot {chunk.slot}"
    return (
        f"{run.mode}: latent {_range(chunk.latent_start, chunk.latent_stop)} became pixel "
        f"{_range(chunk.frame_start, chunk.frame_stop)}{ring}. Of the {1e3 * spent_s:.2f} "
        f"ms after its decode, {1e3 * hidden_s:.2f} ms lie under the decode of another chunk."
    )


def _range(start: int, stop: int) -> str:
    """``frame 4`` or ``frames 13 to 16``."""
    return f"frame {start}" if stop - start == 1 else f"frames {start} to {stop - 1}"
