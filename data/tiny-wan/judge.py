"""A blind judge of the miniature's clips: what a clip shows, told from its pixels alone.

It never sees the caption, so comparing what it says with the caption tells whether a generated
clip follows its prompt. Nothing is learned: colours by distance, shapes by the symmetry of their
outline, motions by place, size and angle over the frames.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import permutations

import cv2
import numpy as np
from clips import BACKGROUNDS, COLORS, HEIGHT, SHAPES, Mover, Scene

# Distances in RGB, 0 to 441.
CLEAR = 40.0  # a pixel this far from its row's background may belong to a shape
BLEND = 35.0  # a pixel this near to the line between two colours seen is a mixture of them
CROWDED = 0.5  # with a larger share of clear pixels there is no even background
# Per shape, the size of the n-fold term of its outline, as `_piece` takes it, for n corners.
LOBES = {"triangle": 0.42, "square": 0.215, "star": 0.495}
ROUND = 0.35  # with less than this share of all of them a shape is a circle
# Lengths in pixels of a picture HEIGHT rows high; each about half of the least that clips.py draws.
SMALL, LEAST = 16.0, 80.0  # areas of the smallest shape: in a frame, on average
SIDEWAYS, UPRIGHT, LEAP = 20.0, 12.0, 12.0  # ways of: left and right, up and down, bounces
THERE_AND_BACK = 0.55  # net way over whole way, below which up and down is bouncing
GROWTH = math.log(1.4)  # of the radius
TURN = 1.25  # radians


@dataclass(frozen=True, slots=True)
class Seen:
    """What a clip shows.

    Attributes:
        movers: the largest shapes, largest first, at most two.
        background: key of `clips.BACKGROUNDS`; None if there is no even background.
        count: shapes seen, beyond two as well.
    """

    movers: tuple[Mover, ...]
    background: str | None
    count: int

    def __str__(self) -> str:
        return " and ".join(f"{one.color} {one.shape} {one.motion}" for one in self.movers)


@dataclass(frozen=True, slots=True)
class Score:
    """What is right, for each mover of the scene in the scene's order and for the whole clip."""

    color: tuple[bool, ...]
    shape: tuple[bool, ...]
    motion: tuple[bool, ...]
    background: bool
    count: bool

    @property
    def right(self) -> bool:
        """Whether everything is."""
        return all((*self.color, *self.shape, *self.motion, self.background, self.count))


@dataclass(frozen=True, slots=True)
class _Piece:
    """A connected patch of one colour in one frame, measured where a picture has `HEIGHT` rows.

    Attributes:
        time: 0 to 1.
        lobes: complex, for each of `LOBES`: size 1 for the very shape, phase corners times angle.
    """

    time: float
    area: float
    x: float
    y: float
    lobes: np.ndarray


def describe(frames: np.ndarray) -> Seen:
    """What a clip shows.

    Args:
        frames: uint8 [F, H, W, 3] RGB, at least 9 frames.

    Raises:
        ValueError: another dtype or shape.
    """
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        kind = getattr(frames, "dtype", type(frames).__name__)
        raise ValueError(f"frames are {kind}; convert them to a NumPy array of uint8, 0 to 255")
    if frames.ndim != 4 or frames.shape[-1] != 3 or min(frames.shape[:3]) < 9:
        raise ValueError(
            f"frames have shape {frames.shape}; pass one clip [F, H, W, 3] of 9 frames or more"
        )
    image = frames.astype(np.float32)
    rows = np.moveaxis(frames, 2, 3).astype(np.int16, order="C")  # the type that sorts fastest
    behind = np.sort(rows, axis=-1)[..., frames.shape[2] // 2].astype(np.float32)  # medians
    apart = image - behind[:, :, None]
    clear = np.einsum("fhwc,fhwc->fhw", apart, apart) > CLEAR**2
    if clear.mean() > CROWDED:
        return Seen((), None, 0)
    found: list[tuple[float, Mover]] = []
    count = 0
    for color, mask in _by_color(image, behind, clear).items():
        track, shapes = _track(mask)
        areas = [piece.area for piece in track]
        if track and np.mean(areas) >= LEAST:
            count += shapes
            lobes = np.average([np.abs(piece.lobes) for piece in track], axis=0, weights=areas)
            shape = list(LOBES)[lobes.argmax()] if lobes.max() > ROUND else "circle"
            motion = _motion(track, shape, len(frames))
            found.append((float(np.mean(areas)), Mover(color, shape, motion)))
    found.sort(key=lambda item: -item[0])
    background = str(_nearest(behind.mean(axis=(0, 1))[None], BACKGROUNDS)[0])
    return Seen(tuple(mover for _, mover in found[:2]), background, count)


def _nearest(pixels: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> np.ndarray:
    """[N, 3] -> [N] names."""
    table = np.array(list(palette.values()), np.float32)
    index = np.linalg.norm(pixels[:, None] - table, axis=-1).argmin(axis=1)
    return np.array(list(palette))[index]


def _off_line(pixels: np.ndarray, one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, ...]:
    """Distance [N] of pixels [N, 3] to the line from one to two [3 or N, 3], and place on it."""
    line = two - one
    place = np.clip(((pixels - one) * line).sum(-1) / ((line * line).sum(-1) + 1e-6), 0.0, 1.0)
    return np.linalg.norm(pixels - one - place[:, None] * line, axis=-1), place


def _by_color(image: np.ndarray, behind: np.ndarray, clear: np.ndarray) -> dict[str, np.ndarray]:
    """Colours that shapes have, each with its mask bool [F, H, W].

    A mask ends half way to the background, so that a soft edge leaves the size unchanged.
    """
    core = np.stack([cv2.erode(m, np.ones((3, 3), np.uint8)) for m in clear.astype(np.uint8)])
    at = np.nonzero(core)
    pixels, ground = image[at], behind[at[:2]]
    names = _nearest(pixels, COLORS)
    exact: dict[str, np.ndarray] = {}
    base = behind.mean(axis=(0, 1))
    least = SMALL * len(image) / 4 * (image.shape[1] / HEIGHT) ** 2
    while len(names):
        name, votes = Counter(names.tolist()).most_common(1)[0]
        if votes < least:
            break
        color = np.median(pixels[names == name], axis=0)
        mixed = _off_line(pixels, ground, color)[0] < BLEND
        for other in exact.values():
            mixed |= _off_line(pixels, other, color)[0] < BLEND
        exact = {k: c for k, c in exact.items() if _off_line(c[None], base, color)[0] > BLEND}
        exact[name] = color
        keep = ~mixed & (names != name)
        pixels, ground, names = pixels[keep], ground[keep], names[keep]
    at = np.nonzero(clear)
    pixels, ground = image[at], behind[at[:2]]
    lines = [_off_line(pixels, ground, color) for color in exact.values()]
    owner = np.argmin([off for off, _ in lines], axis=0) if lines else None
    masks = np.zeros((len(exact), *clear.shape), bool)
    for i, (_, place) in enumerate(lines):
        masks[i][at] = (owner == i) & (place > 0.5)
    return dict(zip(exact, masks, strict=True))


def _track(mask: np.ndarray) -> tuple[list[_Piece], int]:
    """The pieces of one colour's shape in the frames where it is seen, and how many such shapes."""
    unit, last, counts = mask.shape[1] / HEIGHT, np.zeros(2), []
    track: list[_Piece] = []
    for i, frame in enumerate(mask.astype(np.uint8)):
        _, labels, stats, centers = cv2.connectedComponentsWithStats(frame)
        areas = stats[1:, cv2.CC_STAT_AREA]
        large = 1 + np.flatnonzero(areas >= max(SMALL * unit**2, 0.25 * areas.max(initial=0)))
        if len(large):
            last = last if track else centers[1 + areas.argmax()]
            chosen = large[np.linalg.norm(centers[large] - last, axis=1).argmin()]
            last = centers[chosen]
            track.append(_piece(labels == chosen, i / (len(mask) - 1), unit))
            counts.append(len(large))
    return (track, round(np.median(counts))) if len(track) >= len(mask) / 4 else ([], 0)


def _piece(part: np.ndarray, moment: float, unit: float) -> _Piece:
    ys, xs = np.nonzero(part)
    z = (xs - xs.mean()) + 1j * (ys - ys.mean())
    reach = np.maximum(np.abs(z), 1e-9)
    corners = np.array([SHAPES[shape][0] for shape in LOBES])[:, None]
    lobes = (z * (z / reach) ** (corners - 1)).sum(axis=1) / reach.sum() / list(LOBES.values())
    return _Piece(moment, len(z) / unit**2, xs.mean() / unit, ys.mean() / unit, lobes)


def _slope(moments: np.ndarray, values: np.ndarray) -> float:
    """Change over the whole clip: the median over all pairs (Theil and Sen)."""
    i, j = np.triu_indices(len(moments), 1)
    return float(np.median((values[j] - values[i]) / (moments[j] - moments[i])))


def _motion(track: list[_Piece], shape: str, length: int) -> str:
    """The motion with most evidence, where 1 is just enough."""
    moments = np.array([piece.time for piece in track])
    x, y, size = (np.array([getattr(p, key) for p in track]) for key in ("x", "y", "area"))
    aside, down = _slope(moments, x), _slope(moments, y)
    growth = _slope(moments, np.log(size) / 2)
    steady = np.median(np.stack((y[:-2], y[1:-1], y[2:])), axis=0)
    whole, net = np.abs(np.diff(steady)).sum(), abs(steady[-1] - steady[0])
    evidence = {
        "right" if aside > 0 else "left": abs(aside) / SIDEWAYS,
        "grows" if growth > 0 else "shrinks": abs(growth) / GROWTH,
        "rotates": abs(_turning(track, shape, length)) / TURN if shape in LOBES else 0.0,
    }
    if net < THERE_AND_BACK * whole:
        evidence["bounces"] = float(np.ptp(steady)) / LEAP
    else:
        evidence["down" if down > 0 else "up"] = abs(down) / UPRIGHT
    best = max(evidence, key=lambda motion: evidence[motion])
    return best if evidence[best] >= 1.0 else "still"


def _turning(track: list[_Piece], shape: str, length: int) -> float:
    """Radians over the whole clip, from frames two apart; 0 where they do not agree."""
    arms = {round(p.time * (length - 1)): p.lobes[list(LOBES).index(shape)] for p in track}
    steps = [arms[i + 2] * arm.conjugate() for i, arm in arms.items() if i + 2 in arms]
    if len(steps) < length / 8 or abs(np.sum(steps)) < 0.5 * np.abs(steps).sum():
        return 0.0
    return float(np.angle(np.sum(steps))) / SHAPES[shape][0] / 2 * (length - 1)


def score(scene: Scene, seen: Seen) -> Score:
    """What of a scene was seen; a mover that was not found is wrong in everything.

    Movers are matched the way that makes most right, colours first among equals.
    """

    def right(order: tuple[Mover | None, ...]) -> list[tuple[bool, ...]]:
        pairs = list(zip(scene.movers, order, strict=True))
        return [
            tuple(b is not None and getattr(a, key) == getattr(b, key) for a, b in pairs)
            for key in ("color", "shape", "motion")
        ]

    nobody = (None,) * len(scene.movers)
    orders = permutations((*seen.movers, *nobody), len(scene.movers))
    color, shape, motion = max(
        map(right, orders), key=lambda hits: (sum(map(sum, hits)), sum(hits[0]))
    )
    background, count = scene.background == seen.background, len(scene.movers) == seen.count
    return Score(color, shape, motion, background, count)
