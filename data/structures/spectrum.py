"""Which sizes of detail a decode loses: the error's power by spatial frequency.

The mean squared error says how much is wrong, not whether texture went or a surface's color. Here
the error's power in a band of frequencies stands over the original's in the same band: 0, all is
right; 1, as much is wrong as there was to see, what a decode that left the band out comes to; above
1, detail is wrong or made up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vdkit.measure.quality import Floats, Frames, frame_pair

BANDS = 8
NOTHING = 1e-18  # of all power: what the transform's rounding leaves where a clip has none


def band_power(frames: NDArray[np.floating], bands: int = BANDS) -> Floats:
    """Sums of squares by band, means over the frames, of [F, H, W, 3]: [1 + bands].

    By the cosine transform, for which a frame goes on mirrored: a Fourier transform's would jump
    from its right side to its left, and the jump has all frequencies. First the frames' means; then
    band k of ``bands`` has (k - 1) / bands to k / bands of half a cycle a pixel, in whatever
    direction; the last one the finer ones too, that diagonals alone have. They add up to the sum of
    the frames' squares.
    """
    from scipy.fft import dctn

    height, width = frames.shape[1:3]
    power = np.square(dctn(frames, axes=(1, 2), norm="ortho")).sum(3).mean(0)
    # a cosine of k half cycles over n pixels: k / n of half a cycle a pixel
    frequency = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width)
    band = np.minimum(np.ceil(frequency * bands), bands).astype(int)
    return np.bincount(band.ravel(), power.ravel(), 1 + bands)


def error_spectrum(clip: Frames, made: Frames, bands: int = BANDS) -> Floats:
    """The error's power over the original's, of each band of spatial frequency: [bands].

    Args:
        clip, made: uint8 [F, H, W, 3], the original and what was decoded. A band of which the
            original has nothing is NaN.

    Raises:
        ValueError: not uint8 [F, H, W, 3], unequal shapes, or fewer than one band.
    """
    if bands < 1:
        raise ValueError(f"{bands} bands; give 1 or more")
    original, other = (frames.astype(float) for frames in frame_pair(clip, made))
    there, error = (band_power(one, bands) for one in (original, other - original))
    there[there <= NOTHING * there.sum()] = np.nan
    return (error / there)[1:]


def error_shares(clip: Frames, made: Frames, bands: int = BANDS) -> dict[str, float]:
    """`error_spectrum` as columns of a row, ``error_share_band_1`` the coarsest."""
    found = error_spectrum(clip, made, bands).tolist()
    return {f"error_share_band_{k}": share for k, share in enumerate(found, 1)}
