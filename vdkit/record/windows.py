"""Windows of latent frames that overlap, in place of exact streaming: where they lie, what came out

Latent frames a to b decoded on their own are frames ``f * a`` to ``f * (b - 1)``, both included,
of the whole decode, for f = ``temporal_factor``: the first latent becomes one frame, the last of
its own. So an overlap of n latents is one of ``f * (n - 1) + 1`` frames, and without any, ``f - 1``
frames are missing at each border.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BLENDS = ("cut", "ramp", "latents")


def spans(count: int, window: int, overlap: int) -> list[tuple[int, int]]:
    """(start, stop) of windows over ``count`` latent frames; the last may be short.

    Raises:
        ValueError: fewer than one, or an overlap that is not below the window.
    """
    for name, value in (("count", count), ("window", window)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it counts latent frames, so use 1 or more")
    if not 0 <= overlap < window:
        raise ValueError(f"overlap is {overlap} of a window of {window}; use 0 to {window - 1}")
    starts = range(0, max(1, count - overlap), window - overlap)
    return [(start, min(start + window, count)) for start in starts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowed:
    """One clip made in windows. A border is the first frame after the end of the window before.

    Frames have the numbers that exact streaming gives them; levels are of 255.

    Attributes:
        count, window, overlap: latent frames: in all, of a window, and of it the next one's too.
        blend: as `vdkit.measure.windows.decode_windows` has it.
        temporal_factor: frames that a latent becomes, but for the first.
        label: what it is, where blend and window do not say it.
        seconds: of each decode, without what made the latents.
        peak_bytes: allocated at most on the GPU, with weights; None on a CPU.
        verdict: what the caller's judge said of the frames.
        squares: of each frame that there is, the mean squared error against exact streaming, in
            levels; empty: there is nothing to compare with.
        changes: from each to the next, root of the mean square, in levels.
    """

    count: int
    window: int
    overlap: int
    blend: str
    temporal_factor: int
    label: str = ""
    seconds: tuple[float, ...] = ()
    peak_bytes: int | None = None
    verdict: str = ""
    squares: tuple[float, ...] = ()
    changes: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """For tables."""
        plain = "exact streaming" if self.exact else f"windows of {self.window}, {self.blend}"
        return self.label or plain

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Of latents."""
        return spans(self.count, self.window, self.overlap)

    @property
    def shown(self) -> list[int]:
        """The frames that there are."""
        factor = self.temporal_factor
        if self.blend == "latents":
            return list(range(factor * (self.count - 1) + 1))
        made = (range(factor * a, factor * (b - 1) + 1) for a, b in self.spans)
        return sorted({at for one in made for at in one})

    @property
    def missing(self) -> int:
        """Frames that exact streaming has beyond those."""
        return self.temporal_factor * (self.count - 1) + 1 - len(self.shown)

    @property
    def borders(self) -> list[int]:
        """Of each window but the first."""
        return [self.temporal_factor * (stop - 1) + 1 for _, stop in self.spans[:-1]]

    @property
    def seams(self) -> list[tuple[int, int]]:
        """First and last frame of each: from where the next window begins to the border, or, where
        frames are missing, the other way round."""
        begins = (self.temporal_factor * start for start, _ in self.spans[1:])
        return [(min(at), max(at)) for at in zip(begins, self.borders, strict=True)]

    @property
    def psnr_db(self) -> float | None:
        """Against exact streaming, of the frames there are; inf: equal."""
        if not self.squares:
            return None
        mean = float(np.mean(self.squares))
        return 10 * math.log10(255**2 / mean) if mean else math.inf

    @property
    def exact(self) -> bool:
        """Whether it is what exact streaming gives, all of it."""
        return self.psnr_db == math.inf and not self.missing

    @property
    def errors(self) -> dict[int, float]:
        """Root of the mean squared error, in levels, by frames after the nearest border, below 0
        before it, up to half of what lies between borders; the first window's own are left out."""
        found: dict[int, list[float]] = {}
        cut = self.blend == "cut"
        half = self.temporal_factor * (self.window - self.overlap) // 2
        for at, square in zip(self.shown, self.squares, strict=False):
            if len(self.spans) > 1 and at >= (self.borders if cut else self.seams[0])[0]:
                after = min((at - one for one in self.borders), key=lambda far: (abs(far), -far))
                if abs(after) <= half:
                    found.setdefault(after, []).append(square)
        return {after: math.sqrt(np.mean(found[after])) for after in sorted(found)}

    @property
    def border_levels(self) -> float | None:
        """That of the first frame from the border on; None if there is none."""
        return next((error for after, error in self.errors.items() if after >= 0), None)

    @property
    def step(self) -> float:
        """The largest change at a seam, the mean of all seams, over the median change elsewhere;
        NaN if there is none of either, inf if nothing else moves."""
        at = dict(zip(self.shown[1:], self.changes, strict=True))
        seams = [[n for n in range(low, high + 1) if n in at] for low, high in self.seams]
        away = [at[n] for n in at.keys() - {n for seam in seams for n in seam}]
        most = float(np.mean([max(at[n] for n in seam) for seam in seams])) if seams else math.nan
        own = float(np.median(away)) if away else math.nan
        return most / own if own else math.inf

    @property
    def period(self) -> int:
        """Frames from seam to seam, as they are shown."""
        lacks = self.temporal_factor - 1 if self.missing else 0
        return self.temporal_factor * (self.window - self.overlap) - lacks

    @property
    def pulse_levels(self) -> float | None:
        """Flicker at the period: of the changes, root of the mean square of what repeats with it,
        beyond what does with that of a latent frame less and more: both have a latent's rhythm.

        None: less than two periods.
        """
        factor, changes = self.temporal_factor, np.array(self.changes)
        tried = [self.period + more for more in (0, -factor, factor)]
        if min(tried) < 1 or len(changes) < 2 * max(tried):
            return None
        at, *beside = (_repeating(changes, period) for period in tried)
        return math.sqrt(max(0.0, at - sum(beside) / 2))


def _repeating(values: np.ndarray, period: int) -> float:
    """Variance of the mean of all periods."""
    folded = [values[phase::period] for phase in range(period)]
    squares = [len(one) * (one.mean() - values.mean()) ** 2 for one in folded]
    return float(sum(squares) / len(values))
