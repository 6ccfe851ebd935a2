"""How pictures look: sizes, fonts and colors, for 16 cm in a printed report and colorblind eyes."""

from __future__ import annotations

from typing import Any

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
}
