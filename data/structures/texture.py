"""How much detail is lost: the error of what was decoded, by the size of what it is in."""

from __future__ import annotations

import numpy as np

from vdkit.measure.quality import FrameScores

WAVELENGTHS = (16, 8, 4, 2)
"""Pixels: each band has waves from so long up to twice that, the first all longer ones too."""


def band_power(frames: np.ndarray, wavelength: int) -> np.ndarray:
    """[F]: squares of all values [F, H, W, C], summed, that are in the band of a wavelength.

    All bands together have all but each frame's mean.
    """
    height, width = frames.shape[1:3]
    columns = np.fft.rfftfreq(width)
    waves = np.hypot(np.fft.fftfreq(height)[:, None], columns)
    low = 0 if wavelength == max(WAVELENGTHS) else 0.5 / wavelength
    high = np.inf if wavelength == min(WAVELENGTHS) else 1 / wavelength  # inf: the corners, too
    twice = np.where((columns == 0) | (columns == 0.5), 1, 2)  # the half that rfft leaves out
    band = ((waves > low) & (waves <= high)) * twice
    found = np.abs(np.fft.rfft2(frames, axes=(1, 2))) ** 2
    summed: np.ndarray = (found.sum(3) * band).sum((1, 2)) / (height * width)
    return summed


def error_share(source: np.ndarray, made: np.ndarray, wavelength: int) -> FrameScores:
    """Power of the error over that of the source, in the band of a wavelength.

    0 for equal frames, 1 where what is made has nothing of the band; not finite where the
    source has nothing. A clip's share is of the sums over frames.

    Args:
        source, made: uint8 [F, H, W, 3].
        wavelength: of `WAVELENGTHS`.
    """
    of = band_power(source.astype(float), wavelength)
    error = band_power(made.astype(float) - source, wavelength)
    with np.errstate(divide="ignore", invalid="ignore"):
        return FrameScores(error / of, float(error.sum() / of.sum()))
