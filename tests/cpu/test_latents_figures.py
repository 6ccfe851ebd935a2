"""Pictures of the structures: what each shows, and what is on the front."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
from data.structures.figures import (
    COLORS,
    front,
    kind_of,
    plot_lengths,
    plot_side_by_side,
    plot_squared,
    plot_texture,
    plot_trade_offs,
    plot_training,
    trade_offs,
)
from data.structures.recipe import KNOWN, STRUCTURES
from data.structures.texture import WAVELENGTHS
from vdkit import save_figure

BANDS = [f"error_share_{px}px" for px in WAVELENGTHS]
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
        (0, {"psnr_db": db, "stlpips": 0.1} | dict.fromkeys(BANDS, 0.25)),
        (1, {"psnr_db": None, "stlpips": 0.0} | dict.fromkeys(BANDS, 0.0)),
        (2, {"psnr_db": db + 2, "stlpips": 0.3} | dict.fromkeys(BANDS)),
        (None, {"latent_bytes_per_s": 1000 * kb}),
    )
]


def test_trade_offs():
    rows = trade_offs(QUALITY, COST)
    by = {(row["structure"], row["way"]): row for row in rows}
    assert [row["psnr_db"] for row in rows] == [36, 34, 33, 30, 29, 28]
    best = by["z16-8x8x4", "full"]
    assert (best["clips"], best["kb_per_s"], best["ms_per_video_s"]) == (2, 30.7, 310)
    assert best["stlpips"] == pytest.approx(0.2)
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
    left, right, *below = ([text.get_text().strip() for text in ax.texts] for ax in figure.axes)
    assert sorted(left) == sorted([*right, "adaptive"])  # it has no time of its own
    assert [sorted(left), sorted(right)] == [sorted(one) for one in below]
    assert [ax.yaxis_inverted() for ax in figure.axes] == [False, False, True, True]
    assert "z4" in left and len(save_figure(figure, tmp_path, "trade-offs")) == 4
    clip = np.random.default_rng(0).integers(0, 200, (5, 16, 32, 3), np.uint8)
    made = {name: clip + np.uint8(n) for n, name in enumerate(STRUCTURES)}
    figure = plot_side_by_side(clip, made)
    assert [row["mean_abs_levels"] for row in figure.vdkit_data] == [0, *range(len(STRUCTURES))]
    assert len(save_figure(figure, tmp_path, "clip")) == 4


def test_every_structure_has_a_color():
    assert {kind_of(name) for name in KNOWN} == set(COLORS)


def test_texture(tmp_path):
    figure = plot_texture(QUALITY)
    assert len(figure.vdkit_data) == 6 * len(WAVELENGTHS)
    assert {row["error_percent"] for row in figure.vdkit_data} == {12.5}  # a None does not count
    assert len(save_figure(figure, tmp_path, "texture")) == 4


def test_lengths(tmp_path):
    rows = [
        {"structure": "z16-8x8x4", "way": way, "on_device": on, "clip_s": s, "peak_bytes": s << 30}
        for way in ("full", "encode") for on in ("clip", "chunk") for s in (1, 2)
    ]  # fmt: skip
    figure = plot_lengths(rows)
    assert [len(ax.lines) for ax in figure.axes] == [2, 2]
    assert [row["gib"] for row in figure.vdkit_data] == [1, 2] * 4
    assert len(save_figure(figure, tmp_path, "lengths")) == 4
    with pytest.raises(LookupError, match="measured on a GPU"):
        plot_lengths([rows[0] | {"peak_bytes": None}])


def test_training(tmp_path):
    rows = [
        {"way": way, "latent_frames": count, "backward_peak_bytes": gib << 30, "step_s": time,
         "state_bytes": 1 << 30, "step_s_runs": [time, time]}
        for count in (5, 1) for way, gib, time in (("plain", 6, 1.0), ("checkpointed", 2, 1.5))
    ]  # fmt: skip
    figure = plot_training(rows)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["5 latent frames", "1 latent frame"]
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said == ["6.00 GiB, 1 s a step", "2.00 GiB, 3.00 times less; 1.5000 times the time"]
    assert [row["value"] for row in figure.vdkit_data] == [1, 5, 1, 1] * 2
    assert len(save_figure(figure, tmp_path, "training")) == 4


def test_squared(tmp_path):
    rows = [
        {"denoiser": name, "clips_at_once": batch, "latents": latents, "trained": False,
         "tokens": 100 * times, "forward_flop": 10 * times, "forward_ms_runs": [ms, ms * 1.1]}
        for name, batch in (("miniature", 1), ("miniature", 64))
        for latents, times, ms in (("8x8x4", 4, 3.0), ("16x16x4", 1, 2.0))
    ]  # fmt: skip
    figure = plot_squared([*rows, {"trained": True}])
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["miniature, 1 clip at once", "miniature, 64 clips at once"]
    values = [row["value"] for row in figure.vdkit_data if row["what"] != "low"]
    assert values[:3] == pytest.approx([4, 4, 1.5])
    assert len(save_figure(figure, tmp_path, "squared")) == 4
