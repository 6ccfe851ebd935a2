"""Pictures of a generation: its stages in time and memory, and what its latents look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vdkit.present.profile_tables import significant
from vdkit.present.style import STYLE, TONES, WIDTH_IN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vdkit.present.stages import StageRow

ENCODER_TONES = TONES["write"]
EXPERT_TONES = {
    "high-noise": ("#D55E00", "#E8925A"),
    "low-noise": ("#E69F00", "#F2C763"),
    "only": ("#D55E00", "#E8925A"),
}


class Step(Protocol):
    """What is read of `vdkit.models.pipeline.KeptStep`."""

    @property
    def step(self) -> int: ...
    @property
    def expert(self) -> str: ...
    @property
    def timestep(self) -> float: ...


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
    return figure


def _tones(rows: Sequence[StageRow], index: int) -> tuple[str, str]:
    expert = rows[index].expert
    if expert is not None:
        return EXPERT_TONES[expert]
    return TONES["compute"] if index == len(rows) - 1 else ENCODER_TONES


def _draw_time(ax: Axes, rows: Sequence[StageRow]) -> None:
    whole_s = sum(row.seconds for row in rows)
    for index, row in enumerate(rows):
        tones = _tones(rows, index)
        for call, (start, stop) in enumerate(row.spans_s):
            ax.barh(index, stop - start, left=start, height=0.7, color=tones[call % 2])
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
        ax.text(
            peak_gb + 0.02 * max(peaks_gb), index, significant(peak_gb), va="center", fontsize=7
        )
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, 1.25 * max(peaks_gb))
    ax.set_xlabel("peak VRAM, GB")


def plot_denoising(
    steps: Sequence[Step], pictures: Mapping[str, Sequence[np.ndarray]], title: str | None = None
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
            ax.spines["top"].set(
                visible=True,
                color=EXPERT_TONES[step.expert][0],
                linewidth=2.5,
                position=("outward", 1),
            )
        for row, name in zip(axes, pictures, strict=True):
            row[0].set_ylabel(name, fontsize=7, rotation=0, ha="right", va="center")
        if title:
            figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    return figure


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
    return figure


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
