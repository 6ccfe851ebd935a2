"""The miniature's world: short captioned clips of moving coloured shapes, drawn by formula.

Nothing is downloaded: a caption names colours, shapes, motions and a background, the rest (place,
speed, size, exact shade) comes from a seed. Usable on its own:

    python data/tiny-wan/clips.py "a red star rotates over a gray background" --out star.mp4
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

FRAMES, HEIGHT, WIDTH, FPS = 33, 96, 160, 16

COLORS = {
    "red": (228, 36, 36),
    "orange": (250, 140, 16),
    "yellow": (246, 226, 40),
    "green": (36, 176, 60),
    "cyan": (40, 214, 224),
    "blue": (48, 84, 244),
    "purple": (148, 48, 208),
    "pink": (252, 132, 196),
    "white": (248, 248, 248),
}
BACKGROUNDS = {
    "black": (10, 10, 12),
    "gray": (104, 104, 104),
    "dark blue": (14, 22, 84),
    "dark green": (10, 62, 30),
    "dark red": (84, 14, 20),
    "brown": (96, 62, 34),
    "light blue": (168, 208, 244),
    "beige": (228, 212, 172),
}
# Corners, their distance in radii, and the distance of the notch (or edge's middle) between two.
SHAPES = {
    "circle": (0, 1.0, 1.0),
    "square": (4, 1.25, 1.25 * math.cos(math.pi / 4)),
    "triangle": (3, 1.45, 1.45 * math.cos(math.pi / 3)),
    "star": (5, 1.5, 1.5 * 0.42),
}
MOTIONS = {
    "left": "moves left",
    "right": "moves right",
    "up": "moves up",
    "down": "moves down",
    "bounces": "bounces",
    "grows": "grows",
    "shrinks": "shrinks",
    "rotates": "rotates",
    "still": "stays still",
}
HORIZONTAL, VERTICAL = ("left", "right"), ("up", "down", "bounces")

SHADE = 8.0  # exact colours differ from clip to clip by up to this much in each channel
CONTRAST = 110.0  # a colour is put on a background only at this distance in RGB or above
TWO_SHAPES = 0.25  # share of clips with two shapes
HELD_OUT = 0.1  # share of captions that training never sees


@dataclass(frozen=True, slots=True)
class Mover:
    """One shape of a scene: keys of `SHAPES`, `COLORS` and `MOTIONS`."""

    color: str
    shape: str
    motion: str

    @property
    def words(self) -> str:
        return (
            f"a{'n' * (self.color[0] in 'aeio')} {self.color} {self.shape} {MOTIONS[self.motion]}"
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """What a caption says: one or two movers over a background."""

    movers: tuple[Mover, ...]
    background: str

    @property
    def caption(self) -> str:
        """E.g. ``a red circle moves left and a blue star rotates over a dark green background``."""
        what = " and ".join(mover.words for mover in self.movers)
        return f"{what} over {_article(self.background)} {self.background} background"

    @property
    def held_out(self) -> bool:
        """Whether the caption belongs to the share that training never sees."""
        digest = hashlib.sha256(self.caption.encode()).digest()
        return int.from_bytes(digest[:4], "big") / 2**32 < HELD_OUT


@dataclass(frozen=True, slots=True)
class Tracks:
    """Scenes with everything drawn from the seed, ready to be rendered.

    Attributes:
        shape: int64 [B, S], index into `SHAPES`.
        color: float32 [B, S, 3] RGB, 0 to 255.
        background: float32 [B, 3] RGB, 0 to 255.
        path: float32 [B, S, F, 4]: x, y, radius in pixels, angle in radians. Radius 0: no shape.
        height, width: of the picture, in pixels.
    """

    shape: np.ndarray
    color: np.ndarray
    background: np.ndarray
    path: np.ndarray
    height: int = HEIGHT
    width: int = WIDTH


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def words() -> list[str]:
    """Every word that captions use, sorted."""
    text = " ".join((*COLORS, *BACKGROUNDS, *SHAPES, *MOTIONS.values(), "a an and over background"))
    return sorted(set(text.split()))


def visible(color: str, background: str) -> bool:
    """Whether the two are far enough apart (`CONTRAST`) for a clip."""
    return math.dist(COLORS[color], BACKGROUNDS[background]) >= CONTRAST


def random_scene(rng: np.random.Generator, *, held_out: bool = False, movers: int = 0) -> Scene:
    """A scene from the training captions, or from those held out.

    Args:
        movers: 1 or 2; 0 draws it (`TWO_SHAPES`).
    """
    while True:
        count = movers or 1 + (rng.random() < TWO_SHAPES)
        background = str(rng.choice(list(BACKGROUNDS)))
        colors = rng.choice(list(COLORS), count, replace=False)
        made = tuple(
            Mover(str(color), str(rng.choice(list(SHAPES))), str(rng.choice(list(MOTIONS))))
            for color in colors
        )
        scene = Scene(made, background)
        if _possible(scene) and scene.held_out == held_out:
            return scene


def parse(caption: str) -> Scene:
    """The scene of a caption in the form `Scene.caption` writes.

    Raises:
        ValueError: a caption that says something else.
    """
    normal = " ".join(caption.lower().split())
    for background in BACKGROUNDS:
        for ending in (f" over a {background} background", f" over an {background} background"):
            if normal.endswith(ending):
                parts = normal.removesuffix(ending).split(" and ")
                scene = Scene(tuple(_parse_mover(part) for part in parts), background)
                if not _possible(scene):
                    raise ValueError(
                        f"caption {caption!r}: not a clip of this world (too little contrast, a "
                        "circle that rotates, two alike, or motions that would collide)"
                    )
                return scene
    raise ValueError(
        f"caption {caption!r} does not end in 'over a ... background' with one of "
        f"{', '.join(BACKGROUNDS)}"
    )


def _parse_mover(text: str) -> Mover:
    for color in COLORS:
        for shape in SHAPES:
            for motion in MOTIONS:
                mover = Mover(color, shape, motion)
                if mover.words == text:
                    return mover
    raise ValueError(
        f"{text!r} is not 'a COLOR SHAPE MOTION' with colors {', '.join(COLORS)}; shapes "
        f"{', '.join(SHAPES)}; motions {', '.join(MOTIONS.values())}"
    )


def _possible(scene: Scene) -> bool:
    motions = {mover.motion for mover in scene.movers}
    collide = not motions.isdisjoint(HORIZONTAL) and not motions.isdisjoint(VERTICAL)
    return (
        all(visible(mover.color, scene.background) for mover in scene.movers)
        and not any((m.shape, m.motion) == ("circle", "rotates") for m in scene.movers)
        and len({mover.color for mover in scene.movers}) == len(scene.movers) in (1, 2)
        and not (len(scene.movers) == 2 and collide)
    )


def draw_tracks(
    scenes: Sequence[Scene],
    rng: np.random.Generator,
    frames: int = FRAMES,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> Tracks:
    """Place, speed, size and shade of every scene.

    A caption's motion takes all ``frames``. Shapes are as large for the picture as they are at
    the default size: five times as large at 480x832.
    """
    count = max(len(scene.movers) for scene in scenes)
    scale = min(height / HEIGHT, width / WIDTH)
    size = np.array((scale, scale, scale, 1.0))
    tracks = Tracks(
        np.zeros((len(scenes), count), np.int64),
        np.zeros((len(scenes), count, 3), np.float32),
        np.zeros((len(scenes), 3), np.float32),
        np.zeros((len(scenes), count, frames, 4), np.float32),
        height,
        width,
    )
    kinds = list(SHAPES)
    for i, scene in enumerate(scenes):
        shade = rng.uniform(-SHADE, SHADE, 3)
        tracks.background[i] = np.clip(np.add(BACKGROUNDS[scene.background], shade), 0, 255)
        boxes = _boxes(scene, rng, height / scale, width / scale)
        for j, (mover, box) in enumerate(zip(scene.movers, boxes, strict=True)):
            shade = rng.uniform(-SHADE, SHADE, 3)
            tracks.shape[i, j] = kinds.index(mover.shape)
            tracks.color[i, j] = np.clip(np.add(COLORS[mover.color], shade), 0, 255)
            tracks.path[i, j] = size * _path(mover, box, len(scene.movers), rng, frames)
    return tracks


def _boxes(
    scene: Scene, rng: np.random.Generator, height: float, width: float
) -> list[tuple[float, float, float, float]]:
    """x0, y0, x1, y1 for each mover: the whole picture, or half of it in random order."""
    if len(scene.movers) == 1:
        return [(0, 0, width, height)]
    motions = {mover.motion for mover in scene.movers}
    side_by_side = rng.random() < 0.5
    if not motions.isdisjoint(HORIZONTAL):
        side_by_side = False
    if not motions.isdisjoint(VERTICAL):
        side_by_side = True
    half_w, half_h = width / 2, height / 2
    boxes: list[tuple[float, float, float, float]] = (
        [(0, 0, half_w, height), (half_w, 0, width, height)]
        if side_by_side
        else [(0, 0, width, half_h), (0, half_h, width, height)]
    )
    return boxes if rng.random() < 0.5 else boxes[::-1]


def _path(
    mover: Mover,
    box: tuple[float, float, float, float],
    count: int,
    rng: np.random.Generator,
    frames: int,
) -> np.ndarray:
    """[F, 4]: x, y, radius, angle."""
    x0, y0, x1, y1 = box
    time = np.linspace(0.0, 1.0, frames)
    small, large = (14.0, 19.0) if count == 1 else (10.0, 13.5)
    radius = np.full(frames, rng.uniform(small, large))
    if mover.motion in ("grows", "shrinks"):
        ends = (rng.uniform(0.45, 0.6) * small, rng.uniform(1.2, 1.45) * small)
        radius = np.interp(time if mover.motion == "grows" else time[::-1], (0, 1), ends)
    reach = radius.max() * SHAPES[mover.shape][1] + 1.0  # keeps corners inside the picture
    x = np.full(frames, rng.uniform(x0 + reach, max(x1 - reach, x0 + reach)))
    y = np.full(frames, rng.uniform(y0 + reach, max(y1 - reach, y0 + reach)))
    if mover.motion in HORIZONTAL:
        x = _travel(x0 + reach, x1 - reach, rng, time, reverse=mover.motion == "left")
    elif mover.motion in ("up", "down"):
        y = _travel(y0 + reach, y1 - reach, rng, time, reverse=mover.motion == "up")
    elif mover.motion == "bounces":
        bounces = rng.uniform(1.6, 2.6)
        phase = (bounces * time + rng.uniform(0.0, 1.0)) % 1.0
        height = (y1 - y0 - 2 * reach) * rng.uniform(0.75, 1.0)
        y = y1 - reach - height * 4 * phase * (1 - phase)  # parabolas: falls and is thrown up
    upright = -math.pi / 2 if mover.shape != "square" else math.pi / 4
    angle = np.full(frames, upright)
    if mover.motion == "rotates":
        angle = angle + rng.choice((-1, 1)) * rng.uniform(2.5, 4.5) * time
    return np.stack((x, y, radius, angle), axis=-1)


def _travel(
    low: float, high: float, rng: np.random.Generator, time: np.ndarray, *, reverse: bool
) -> np.ndarray:
    """A steady way of 65 to 100 % of what there is, forward or back."""
    way = (high - low) * rng.uniform(0.65, 1.0)
    start = low + rng.uniform(0.0, high - low - way)
    return start + way * (time[::-1] if reverse else time)


def _covers(tracks: Tracks, path: torch.Tensor) -> Iterator[torch.Tensor]:
    """Of each shape, the share of each pixel that it covers, 0 to 1: [B, F, H, W]."""
    device = path.device
    kind = torch.from_numpy(tracks.shape).to(device)
    geometry = torch.tensor(list(SHAPES.values()), dtype=torch.float32, device=device)[kind]
    row = torch.arange(tracks.height, device=device).view(tracks.height, 1) + 0.5
    column = torch.arange(tracks.width, device=device) + 0.5
    for j in range(path.shape[1]):
        x, y, radius, angle = (v[..., None, None] for v in path[:, j].unbind(-1))
        corners, outer, inner = (v.view(-1, 1, 1, 1) for v in geometry[:, j].unbind(-1))
        dx, dy = column - x, row - y
        rho = torch.hypot(dx, dy)
        # Fold the plane into one half of one corner's sector: from the corner to the notch.
        sector = 2 * math.pi / corners.clamp(min=1)
        theta = torch.remainder(torch.atan2(dy, dx) - angle + sector / 2, sector) - sector / 2
        theta = theta.abs()
        px, py = rho * theta.cos() - outer * radius, rho * theta.sin()
        ex = inner * radius * (sector / 2).cos() - outer * radius
        ey = inner * radius * (sector / 2).sin()
        edge = (px * ey - py * ex) / torch.hypot(ex, ey).clamp(min=1e-6)
        distance = torch.where(corners > 0, edge, rho - radius)
        yield (0.5 - distance).clamp(0, 1) * (radius > 0)


def render(
    tracks: Tracks, device: str | torch.device = "cpu", start: int = 0, stop: int | None = None
) -> torch.Tensor:
    """Frames ``start`` to ``stop``: uint8 [B, F, H, W, 3] RGB on ``device``, edges antialiased."""
    path = torch.from_numpy(tracks.path[:, :, start:stop]).to(device)
    color = torch.from_numpy(tracks.color).to(device)
    background = torch.from_numpy(tracks.background).to(device)
    light = torch.linspace(1.08, 0.92, tracks.height, device=device).view(1, 1, -1, 1, 1)
    image = background.view(-1, 1, 1, 1, 3) * light
    image = image.expand(-1, path.shape[2], -1, tracks.width, -1).clone()
    for j, cover in enumerate(_covers(tracks, path)):
        image = image + cover[..., None] * (color[:, j].view(-1, 1, 1, 1, 3) - image)
    return image.round().clamp(0, 255).to(torch.uint8)


def motion(tracks: Tracks) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel goes, exactly.

    Returns:
        flow: float32 [B, F - 1, H, W, 2], pixels to the right and down, from each frame to the
            next.
        seen: bool [B, F - 1, H, W]; whether the pixel shows one surface alone, and that surface
            alone is where it goes (in all four pixels between which that lies).
    """
    path = torch.from_numpy(tracks.path)
    batch, _, frames, _ = path.shape
    surface = torch.zeros(batch, frames, tracks.height, tracks.width, dtype=torch.int64)
    row = torch.arange(tracks.height).view(-1, 1).expand(tracks.height, tracks.width)
    column = torch.arange(tracks.width).expand(tracks.height, tracks.width)
    here = torch.stack((column, row), -1).float()
    there = here.expand(batch, frames - 1, -1, -1, -1)
    for j, cover in enumerate(_covers(tracks, path)):
        surface = torch.where(cover == 1, j + 1, torch.where(cover > 0, -1, surface))
        then, now = path[:, j, 1:, None, None], path[:, j, :-1, None, None]
        x, y = (here + 0.5 - now[..., :2]).unbind(-1)  # from the shape's middle
        grown = then[..., 2] / now[..., 2].clamp(min=1e-6)
        cos, sin = ((then - now)[..., 3].cos() * grown, (then - now)[..., 3].sin() * grown)
        moved = torch.stack((cos * x - sin * y, sin * x + cos * y), -1) + then[..., :2] - 0.5
        there = torch.where((surface[:, :-1] == j + 1)[..., None], moved, there)
    limit = torch.tensor((tracks.width - 1, tracks.height - 1))
    seen = (surface[:, :-1] >= 0) & ((there >= 0) & (there <= limit)).all(-1)
    corners = [edge.long().clamp(min=0).minimum(limit).unbind(-1)
               for edge in (there.floor(), there.ceil())]  # fmt: skip
    for x, _ in corners:
        for _, y in corners:
            found = surface[:, 1:].flatten(2).gather(2, (y * tracks.width + x).flatten(2))
            seen &= found.view_as(seen) == surface[:, :-1]
    return (there - here).numpy(), seen.numpy()


def main() -> None:
    """Render one caption into an MP4."""
    from fractions import Fraction

    from vdkit import Mp4Sink
    from vdkit.decode.media import MediaInfo

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("caption", help="e.g. 'a red star rotates over a gray background'")
    parser.add_argument("--out", default="clip.mp4", help="MP4 to write")
    parser.add_argument("--seed", type=int, default=0, help="place, speed, size, shade")
    arguments = parser.parse_args()
    try:
        scene = parse(arguments.caption)
    except ValueError as error:
        parser.error(str(error))
    frames = render(draw_tracks([scene], np.random.default_rng(arguments.seed)))[0].numpy()
    sink = Mp4Sink(arguments.out)
    sink.open(MediaInfo(FRAMES, HEIGHT, WIDTH, Fraction(FPS)))
    sink.write(frames)
    sink.close()
    print(arguments.out)


if __name__ == "__main__":
    main()
