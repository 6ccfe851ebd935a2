"""Pictures of the structures: which are shown where, and what is on the front."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
from data.structures.figures import front, plot_side_by_side, plot_trade_offs, trade_offs
from data.structures.recipe import STRUCTURES
from vdkit import save_figure

COST = [
    {"structure": name, "way": way, "ms_per_video_s": ms}
    for name, way, ms in (
        ("z4-8x8x4", "full", 300.0),
        ("z16-8x8x4", "full", 310.0),
        ("z16-16x16x4", "full", 90.0),
        ("hierarchical", "full", 400.0),
        ("hierarchical", "preview", 80.0),
    )
]
QUALITY = [
    {"structure": name, "way": way, "clip": clip, **found}
    for name, way, db, kb in (
        ("z4-8x8x4", "full", 29.0, 7.7),
        ("z16-8x8x4", "full", 35.0, 30.7),
        ("z16-16x16x4", "full", 28.0, 7.7),
        ("hierarchical", "full", 33.0, 30.7),
        ("hierarchical", "preview", 27.0, 7.7),
        ("hierarchical", "adaptive", 32.0, 15.4),
    )
    for clip, found in (
        (0, {"psnr_db": db}),
        (1, {"psnr_db": None}),
        (2, {"psnr_db": db + 2}),
        (None, {"latent_bytes_per_s": 1000 * kb}),
    )
]


def test_trade_offs():
    rows = trade_offs(QUALITY, COST)
    by = {(row["structure"], row["way"]): row for row in rows}
    assert [row["psnr_db"] for row in rows] == [36, 34, 33, 30, 29, 28]
    best = by["z16-8x8x4", "full"]
    assert (best["clips"], best["kb_per_s"], best["ms_per_video_s"]) == (2, 30.7, 310)
    assert by["hierarchical", "adaptive"]["kb_per_s"] == 15.4
    assert by["hierarchical", "adaptive"]["ms_per_video_s"] is None


def test_front():
    rows = [
        {"x": x, "y": y} for x, y in ((3, 5.0), (1, 2.0), (2, 1.0), (1, 1.5), (4, 5.0), (5, 6.0))
    ]
    assert [(row["x"], row["y"]) for row in front(rows, "x", "y")] == [(1, 2), (3, 5), (5, 6)]
    lower = [(row["x"], row["y"]) for row in front(rows, "x", "y", lower=True)]
    assert lower == [(1, 1.5), (2, 1)]
    assert front([], "x", "y") == []


def test_the_pictures(tmp_path):
    figure = plot_trade_offs(trade_offs(QUALITY, COST))
    left, right = ([text.get_text().strip() for text in ax.texts] for ax in figure.axes)
    assert sorted(left) == sorted([*right, "hierarchical, adaptive"])  # it has no time of its own
    assert "z4" in left and len(save_figure(figure, tmp_path, "trade-offs")) == 4
    clip = np.random.default_rng(0).integers(0, 200, (5, 16, 32, 3), np.uint8)
    made = {name: clip + np.uint8(n) for n, name in enumerate(STRUCTURES)}
    figure = plot_side_by_side(clip, made)
    assert [row["mean_abs_levels"] for row in figure.vdkit_data] == [0, *range(len(STRUCTURES))]
    assert len(save_figure(figure, tmp_path, "clip")) == 4
