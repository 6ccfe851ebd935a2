"""How much detail is lost: the error of what was decoded, by the size of what it is in."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vdkit.measure.quality import FrameScores, frame_pair

WAVELENGTHS = (16, 8, 4, 2)
"""Pixels: each band has waves from so long up to twice that, the first all longer ones too."""
ROUNDING = 1e-24
"""Of a frame's power: more than the transform leaves where there is nothing."""


def band_power(frames: np.ndarray) -> np.ndarray:
    """[F, bands]: squares of all values [F, H, W, C], summed, that are in the band of a wavelength.

    All bands together have all but each frame's mean. By the cosine transform, for which a frame
    goes on mirrored: Fourier's jumps from one side to the other, which looks like detail.
    """
    from scipy.fft import dctn

    height, width = frames.shape[1:3]
    # a cosine of k half waves over n pixels: cycles a pixel
    waves = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width) / 2
    band = np.searchsorted(1 / np.array(WAVELENGTHS[:-1]), waves)  # the corners are of the last
    power = np.square(dctn(frames, axes=(1, 2), norm="ortho")).sum(3)
    nothing = ROUNDING * power.sum((1, 2))[:, None]
    power[:, 0, 0] = 0
    found = np.stack([power[:, band == k].sum(1) for k in range(len(WAVELENGTHS))], 1)
    return np.where(found > nothing, found, 0.0)


@lru_cache(1)
def _powers(source: bytes, made: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Of the source and of the error, for all measures of one pair."""
    one, other = (np.frombuffer(of, np.uint8).reshape(shape).astype(float) for of in (source, made))
    return band_power(one), band_power(other - one)


def error_share(source: np.ndarray, made: np.ndarray, wavelength: int) -> FrameScores:
    """Power of the error over that of the source, in the band of a wavelength.

    0 for equal frames, 1 where what is made has nothing of the band; not finite where the
    source has nothing. A clip's share is of the sums over frames.

    Args:
        source, made: uint8 [F, H, W, 3]; ValueError for others, or for unequal shapes.
        wavelength: of `WAVELENGTHS`.
    """
    pair, band = frame_pair(source, made), WAVELENGTHS.index(wavelength)
    of, error = (
        power[:, band] for power in _powers(*(one.tobytes() for one in pair), pair[0].shape)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return FrameScores(error / of, float(error.sum() / of.sum()))
