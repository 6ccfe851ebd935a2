"""How pictures look and are saved, with their data: 16 cm wide, for colorblind eyes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.record.store import new_paths, written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_IN = 16 / 2.54
"""Width of a figure in a report, 16 cm, in inches."""

LANES = ("compute", "copy", "convert", "write")
SPANS = {"compute": "decode", "copy": "copy", "convert": "convert", "write": "write"}
# Okabe and Ito's color-blind safe palette, a light and a dark tone for even and odd chunks.
TONES = {
    "compute": ("#0072B2", "#56B4E9"),
    "copy": ("#D55E00", "#E8925A"),
    "convert": ("#CC79A7", "#E2B1CB"),
    "write": ("#009E73", "#66C4A9"),
}
LANE_MEANING = {
    "compute": "decode on the compute stream",
    "copy": "copy to the host",
    "convert": "convert on the host",
    "write": "write to the sink",
}
CPU_MEANING = LANE_MEANING | {
    "compute": "decode (the decoder's call)",
    "copy": "copy from memory to memory",
}
"""The same where there is no GPU."""
# Causes share the color of what the stream waits for; hatches tell them from the work itself.
CAUSE_COLORS = {
    "launch late": ("#F0E442", "...."),
    "synchronous copy": ("#D55E00", "////"),
    "slot held by copy": ("#E8925A", "\\\\\\\\"),
    "slot held by sink": ("#009E73", "////"),
    "host work": ("#CC79A7", "////"),
    "device copy": ("#E69F00", "...."),
    "fill": ("#BBBBBB", ""),
    "drain": ("#888888", ""),
    "unknown": ("#000000", "xxxx"),
    "short": ("#DDDDDD", ""),
}
MODE_COLORS = {
    "diffusers": "#CC79A7",
    "sync": "#D55E00",
    "async": "#0072B2",
    "compute_only": "#888888",
}
FAMILY_COLORS = {
    "convolution": ("#0072B2", "white"),
    "matrix multiply": ("#56B4E9", "black"),
    "elementwise": ("#D55E00", "white"),
    "normalization": ("#CC79A7", "black"),
    "layout conversion": ("#E69F00", "black"),
    "copy, cat, pad, cast": ("#F0E442", "black"),
    "upsampling": ("#009E73", "white"),
    "communication": ("#000000", "white"),
    "other": ("#888888", "black"),
}
"""Of kernel families, and the ink that can be read on them, in order of drawing."""
RED = "#C00000"
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.5,
    "figure.dpi": 200,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label may hold dollars
}


def keep_data(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Attach what a figure shows, a mapping of column to value for each mark, for `save_figure`."""
    figure.vdkit_data = rows  # type: ignore[attr-defined]
    return figure


def save_figure(figure: Figure, folder: Path | str, name: str) -> list[Path]:
    """``name.png``, ``name.svg`` and ``name.pdf`` in ``folder``, and the data shown, ``name.csv``.

    The folder is made if need be. Nothing is overwritten: if one of the four is there, none is
    written. Each appears under its name only when complete.

    Args:
        figure: of any ``vdkit.plot_...``; of another one the CSV holds the coordinates drawn.

    Returns:
        The four paths.

    Raises:
        FileExistsError: a file is there; give another name, or remove it first.
        ValueError: ``name`` is empty or a path.
    """
    import matplotlib.pyplot as plt
    import pandas as pd

    *pictures, table = new_paths(folder, name, ("png", "svg", "pdf", "csv"))
    with plt.rc_context(STYLE):
        for path in pictures:
            with written(path, new=True) as partial:
                figure.savefig(partial)
    rows = getattr(figure, "vdkit_data", None) or _drawn(figure)
    with written(table, new=True) as partial:
        pd.DataFrame(rows).to_csv(partial, index=False, lineterminator="\n")
    return [*pictures, table]


def _drawn(figure: Figure) -> list[dict[str, Any]]:
    """Lines by their points, bars by two corners, dots by their centers, in data coordinates."""
    from matplotlib.collections import PathCollection
    from matplotlib.patches import Rectangle

    rows: list[dict[str, Any]] = []
    for number, ax in enumerate(figure.axes, start=1):
        marks: list[tuple[Any, Any]] = [(line, line.get_xydata()) for line in ax.lines]
        marks += [(b, b.get_bbox().get_points()) for b in ax.patches if isinstance(b, Rectangle)]
        for one in ax.collections:
            dots = isinstance(one, PathCollection)
            shapes = [one.get_offsets()] if dots else [path.vertices for path in one.get_paths()]
            marks += [(one, points) for points in shapes]
        panel = ax.get_title(loc="left") or f"panel {number}"
        for count, (artist, points) in enumerate(marks):
            name = f"{type(artist).__name__} {count}"
            rows += [{"panel": panel, "mark": name, "x": x, "y": y} for x, y in points]
    return rows
