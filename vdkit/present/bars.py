"""Bars of a timeline as arrays: where each begins and ends on an axis, and its corners."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vdkit.decode.chunks import DecodeResult
    from vdkit.measure.records import Run
    from vdkit.measure.stalls import Stalls


def spans_of(
    run: Run | DecodeResult, step: str, begin_s: float, scale: float, limits: tuple[float, float]
) -> np.ndarray:
    """[n, 3]: start, length, parity of each chunk's step that lies within ``limits``."""
    rows = [
        (start, done, chunk.index % 2)
        for chunk in run.chunks
        if (start := getattr(chunk, f"{step}_start_s")) is not None
        and (done := getattr(chunk, f"{step}_done_s")) is not None
    ]
    table = np.array(rows, dtype=float).reshape(-1, 3)
    left = np.clip((table[:, 0] - begin_s) * scale, *limits)
    right = np.clip((table[:, 1] - begin_s) * scale, *limits)
    return np.column_stack([left, right - left, table[:, 2]])[right > left]


def rectangles(spans: np.ndarray, low: float, high: float) -> np.ndarray:
    """[n, 4, 2]: corners of bars that start at ``spans[:, 0]`` and are ``spans[:, 1]`` long."""
    left, right = spans[:, 0], spans[:, 0] + spans[:, 1]
    x = np.stack([left, right, right, left], axis=1)
    y = np.broadcast_to(np.array([low, low, high, high]), x.shape)
    return np.stack([x, y], axis=2)


def stall_bars(
    stalls: Stalls, begin_s: float, scale: float, limits: tuple[float, float]
) -> dict[str, list[tuple[float, float]]]:
    """Causes to the (start, length) of what can be seen of them."""
    found: dict[str, list[tuple[float, float]]] = {}
    for gap in stalls.gaps:
        for piece in gap.pieces:
            left, right = (
                min(max((at / 1e9 - begin_s) * scale, limits[0]), limits[1])
                for at in (piece.start_ns, piece.stop_ns)
            )
            if right - left > 5e-4 * (limits[1] - limits[0]):
                found.setdefault(piece.cause, []).append((left, right - left))
    return found
