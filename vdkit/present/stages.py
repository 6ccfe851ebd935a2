"""The stages from a prompt to frames: what goes in and out of each, how long it takes, how much
memory. No torch: it reads shapes and sizes from whatever holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vdkit.decode.chunks import LAUNCH_AHEAD
from vdkit.present.style import STYLE, TONES, WIDTH_IN, keep_data
from vdkit.present.table import Cell, Number, Table, significant
from vdkit.present.timeline import BAR, draw_bars
from vdkit.trace.timeline import chunk_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vdkit.decode.chunks import DecodeResult
    from vdkit.trace.timeline import Recorded


class TimedStage(Protocol):
    """What is read of `vdkit.models.pipeline.Stage`."""

    @property
    def name(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def peak_vram_bytes(self) -> int | None: ...
    @property
    def expert(self) -> str | None: ...


class Generation(Protocol):
    """What is read of `vdkit.models.pipeline.GeneratedLatents`."""

    @property
    def stages(self) -> Sequence[TimedStage]: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def embedding(self) -> Any: ...
    @property
    def latents(self) -> Any: ...


class NoisyStep(Protocol):
    """What is read of `vdkit.models.pipeline.KeptStep`."""

    @property
    def step(self) -> int: ...
    @property
    def expert(self) -> str: ...
    @property
    def timestep(self) -> float: ...


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


def stage_rows(made: Generation, decoded: DecodeResult) -> list[StageRow]:
    """Text encoder, denoising by expert, decode; in the order they ran.

    Args:
        made: of `vdkit.generate_latents`.
        decoded: of a decode of its latents, on a chunked path.
    """
    latents, embedding = made.latents, made.embedding
    ids, shape = len(made.token_ids), list(latents.shape)
    video = decoded.info
    rows: list[StageRow] = []
    clock_s = 0.0
    for name in dict.fromkeys(_shown(stage) for stage in made.stages):
        mine = [stage for stage in made.stages if _shown(stage) == name]
        ends = np.cumsum([clock_s, *(stage.seconds for stage in mine)]).tolist()
        peaks = [stage.peak_vram_bytes for stage in mine if stage.peak_vram_bytes is not None]
        if (expert := mine[0].expert) is None:
            takes = f"{ids} token ids, padded to [1, {embedding.shape[1]}]"
            gives, gives_bytes = f"embedding {list(embedding.shape)}", embedding.nbytes
        else:
            takes = f"{'latents' if any(row.expert for row in rows) else 'noise'} {shape}"
            gives, gives_bytes = f"latents {shape}", latents.nbytes
        spans = tuple(pairwise(ends))
        rows.append(
            StageRow(
                name, expert, takes, gives, gives_bytes, spans, ends[-1] - clock_s,
                max(peaks, default=None),
            )
        )  # fmt: skip
        clock_s = ends[-1]
    steady = decoded.chunks[-1]
    part = [*shape[:2], steady.latent_stop - steady.latent_start, *shape[3:]]
    pixels = [steady.frame_stop - steady.frame_start, video.height, video.width, 3]
    spans = tuple(
        (clock_s + chunk.decode_start_s, clock_s + chunk.decode_done_s)
        for chunk in decoded.chunks
        if chunk.decode_start_s is not None and chunk.decode_done_s is not None
    )
    rows.append(
        StageRow(
            "decode and write", None, f"latents {part} a chunk", f"frames {pixels} a chunk, uint8",
            video.frames * video.frame_bytes, spans, decoded.latency_s, decoded.vram_peak_bytes,
        )
    )  # fmt: skip
    return rows


def _shown(stage: TimedStage) -> str:
    if stage.expert is None:
        return stage.name
    return "denoise" if stage.expert == "only" else f"denoise, {stage.expert} expert"


def stages_table(rows: Sequence[StageRow]) -> Table:
    """A row per stage; peak VRAM only where there is a GPU."""
    whole_s = sum(row.seconds for row in rows)
    on_gpu = any(row.peak_vram_bytes is not None for row in rows)
    table: list[dict[str, Cell]] = []
    for row in rows:
        peak = row.peak_vram_bytes
        table.append(
            {
                "stage": row.name,
                "takes": row.takes,
                "gives": row.gives,
                "in all": size_words(row.gives_bytes),
                "calls": Number(len(row.spans_s), 0),
                "seconds": Number(row.seconds, 3),
                "share %": Number(100 * row.seconds / whole_s, 1),
            }
        )
        if on_gpu:
            table[-1]["peak VRAM GB"] = None if peak is None else Number(peak / 1e9, 3)
    return Table(table)


def size_words(size_bytes: int) -> str:
    """Three digits and a unit of 1000s: ``262 kB``, ``1.52 MB``."""
    value, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        del units[0]
    return f"{value:.0f} {units[0]}" if value >= 99.95 else f"{value:.3g} {units[0]}"


ENCODER_TONES = TONES["write"]
EXPERT_TONES = {
    "high-noise": ("#D55E00", "#E8925A"),
    "low-noise": ("#E69F00", "#F2C763"),
    "only": ("#D55E00", "#E8925A"),
}


def plot_stages(rows: Sequence[StageRow], title: str | None = None) -> Figure:
    """When each stage worked, a block for each step or chunk, and on a GPU its peak memory.

    Args:
        rows: of `vdkit.present.stages.stage_rows`.
        title: above the figure.

    Returns:
        The figure, not registered with pyplot.
    """
    on_gpu = any(row.peak_vram_bytes is not None for row in rows)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, 1 + on_gpu, squeeze=False, sharey=True, layout="constrained",
            figsize=(WIDTH_IN, 0.75 + 0.36 * len(rows)),
            gridspec_kw={"width_ratios": [2.4, 1][: 1 + on_gpu]},
        )  # fmt: skip
        plt.close(figure)
        _draw_time(axes[0, 0], rows)
        if on_gpu:
            _draw_memory(axes[0, 1], rows)
        if title:
            figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    columns = ("stage", "call", "start_s", "stop_s", "peak_vram_bytes")
    return keep_data(
        figure,
        [
            dict(zip(columns, (row.name, call, *span, row.peak_vram_bytes), strict=True))
            for row in rows
            for call, span in enumerate(row.spans_s)
        ],
    )


def _tones(rows: Sequence[StageRow], index: int) -> tuple[str, str]:
    expert = rows[index].expert
    if expert is not None:
        return EXPERT_TONES[expert]
    return TONES["compute"] if index == len(rows) - 1 else ENCODER_TONES


def _draw_time(ax: Axes, rows: Sequence[StageRow]) -> None:
    whole_s = sum(row.seconds for row in rows)
    for index, row in enumerate(rows):
        tones = _tones(rows, index)
        starts, stops = np.array(row.spans_s).T
        colors = [tones[call % 2] for call in range(len(starts))]
        draw_bars(ax, starts, stops - starts, index - BAR, index + BAR, colors)
        share = 100 * row.seconds / whole_s
        words = f"{significant(row.seconds)} s, {significant(share)} %"
        before, after = row.spans_s[0][0], row.spans_s[-1][1]
        if after > 0.8 * whole_s and before > 0.25 * whole_s:  # the room is in front of it
            ax.text(before - 0.012 * whole_s, index, words, va="center", ha="right", fontsize=7)
        else:
            ax.text(after + 0.012 * whole_s, index, words, va="center", fontsize=7)
    ax.set_yticks(range(len(rows)), [row.name for row in rows])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlim(0, 1.02 * whole_s)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel("time since the prompt, s (a block is a step or a chunk)")


def _draw_memory(ax: Axes, rows: Sequence[StageRow]) -> None:
    peaks_gb = [(row.peak_vram_bytes or 0) / 1e9 for row in rows]
    for index, peak_gb in enumerate(peaks_gb):
        ax.barh(index, peak_gb, height=0.7, color=_tones(rows, index)[0])
        words = str(significant(peak_gb))
        ax.text(peak_gb + 0.02 * max(peaks_gb), index, words, va="center", fontsize=7)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, 1.25 * max(peaks_gb))
    ax.set_xlabel("peak VRAM, GB")


def plot_denoising(
    steps: Sequence[NoisyStep],
    pictures: Mapping[str, Sequence[np.ndarray]],
    title: str | None = None,
) -> Figure:
    """A contact sheet: a column for each step, above it the expert that ran and at which noise.

    Args:
        steps: ``kept`` of `vdkit.generate_latents`.
        pictures: name of a row to a picture for each step, uint8 [H, W, 3].
        title: above the figure.

    Returns:
        The figure, not registered with pyplot.
    """
    with plt.rc_context(STYLE):
        figure, axes = _grid(list(pictures.values()), len(steps), head_in=0.42, label_in=0.75)
        for ax, step in zip(axes[0], steps, strict=True):
            expert = "" if step.expert == "only" else f"\n{step.expert}"
            noise = f"at noise {step.timestep / 1000:.2f}"
            ax.set_title(f"step {step.step}{expert}\n{noise}", fontsize=6.5, pad=4)
            tone = EXPERT_TONES[step.expert][0]
            ax.spines["top"].set(
                visible=True, color=tone, linewidth=2.5, position=("outward", 1)
            )  # fmt: skip
        for row, name in zip(axes, pictures, strict=True):
            row[0].set_ylabel(name, fontsize=7, rotation=0, ha="right", va="center")
        if title:
            figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    rows = [{"step": s.step, "expert": s.expert, "noise": s.timestep / 1000} for s in steps]
    return keep_data(figure, rows)


def plot_frames(
    frames: np.ndarray, fps: float = 16, count: int = 12, columns: int = 6, title: str | None = None
) -> Figure:
    """A contact sheet of a video: ``count`` frames from its first to its last, evenly spaced.

    Args:
        frames: uint8 RGB [F, H, W, 3].
        fps: gives the time of each.
        count: frames to show, 1 or more; all if there are fewer.
        columns: frames in a row.
        title: above the figure.

    Returns:
        The figure, not registered with pyplot.
    """
    if count < 1 or columns < 1:
        raise ValueError(f"count is {count}, columns {columns}; use 1 or more of each")
    shown = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    columns = min(columns, len(shown))
    rows = [[frames[i] for i in shown[at : at + columns]] for at in range(0, len(shown), columns)]
    with plt.rc_context(STYLE):
        figure, axes = _grid(rows, columns, head_in=0.2 * len(rows))
        for ax, index in zip(axes.flat, shown, strict=False):
            ax.set_title(f"frame {index}, {index / fps:.2f} s", fontsize=6.5, pad=2)
        if title:
            figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    return keep_data(figure, [{"frame": int(i), "time_s": int(i) / fps} for i in shown])


def _grid(
    rows: Sequence[Sequence[np.ndarray]], columns: int, head_in: float, label_in: float = 0.0
) -> tuple[Figure, np.ndarray]:
    """Axes with the pictures, as high as they need; places without one are left empty."""
    height, width = rows[0][0].shape[:2]
    picture_in = (WIDTH_IN - 0.1 - label_in) / columns
    figure, axes = plt.subplots(
        len(rows), columns, squeeze=False,
        figsize=(WIDTH_IN, head_in + len(rows) * picture_in * height / width),
        layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.015, hspace=0.015),
    )  # fmt: skip
    plt.close(figure)
    for line, pictures in zip(axes, rows, strict=True):
        for ax, picture in zip(line, [*pictures, *[None] * (columns - len(pictures))], strict=True):
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set_visible(False)
            if picture is not None:
                ax.imshow(picture, aspect="equal")
    return figure, axes


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
    steps = chunk_steps(run, index)
    zero_s = next(step.start_s for step in steps if step.name == "launch")
    rows: list[dict[str, Cell]] = []
    for step in steps:
        where, waits = words[step.name]
        if not on_gpu and where.endswith("stream"):
            where = "caller (no streams on a CPU)"
        if not on_gpu and step.name == "launch":
            waits = "the decode itself: a CPU queues nothing"
        rows.append(
            {
                f"{run.mode}, chunk {index}": step.name,
                "where": where,
                "from ms": Number(1e3 * (step.start_s - zero_s), 2),
                "to ms": Number(1e3 * (step.stop_s - zero_s), 2),
                "takes ms": Number(1e3 * step.length_s, 2),
                "waits for": waits,
            }
        )
    return Table(rows)


def chunk_life_words(run: Recorded, index: int) -> str:
    """What came of the chunk, and how much of the next chunk's decode its copy and write share.

    Raises:
        ValueError: no such chunk.
    """
    chunk = run.chunks[index] if 0 <= index < len(run.chunks) else None
    steps = {step.name: step for step in chunk_steps(run, index)}
    assert chunk is not None
    after = [steps[name] for name in ("copy", "convert", "write") if name in steps]
    spent_s = sum(step.length_s for step in after)
    hidden_s = sum(
        max(0.0, min(step.stop_s, other.decode_done_s) - max(step.start_s, other.decode_start_s))
        for step in after
        for other in run.chunks
        if other.decode_start_s is not None and other.decode_done_s is not None
    )
    ring = "" if chunk.slot is None else f" through slot {chunk.slot}"
    return (
        f"{run.mode}: latent {_range(chunk.latent_start, chunk.latent_stop)} became pixel "
        f"{_range(chunk.frame_start, chunk.frame_stop)}{ring}. Of the {1e3 * spent_s:.2f} "
        f"ms after its decode, {1e3 * hidden_s:.2f} ms lie under the decode of another chunk."
    )


def _range(start: int, stop: int) -> str:
    """``frame 4`` or ``frames 13 to 16``."""
    return f"frame {start}" if stop - start == 1 else f"frames {start} to {stop - 1}"
