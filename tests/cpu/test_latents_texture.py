"""Detail lost by band: known waves, and a blur that takes the short ones."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
from data.structures.texture import WAVELENGTHS, band_power, error_share


def wave(length_px, amplitude, frames=2):
    x = np.arange(64)
    line = 128 + amplitude * np.cos(2 * np.pi * x / length_px)
    return np.broadcast_to(line[:, None], (frames, 32, 64, 3)).round().astype(np.uint8)


@pytest.mark.parametrize("length_px", WAVELENGTHS)
def test_a_wave_is_in_its_band(length_px):
    source = wave(length_px, 64)
    found = {px: error_share(source, wave(length_px, 32), px) for px in WAVELENGTHS}
    assert found[length_px].clip == pytest.approx(0.25, rel=0.05)  # half the amplitude
    flat = error_share(source, np.full_like(source, 128), length_px)
    assert flat.clip == pytest.approx(1, rel=0.05) and len(flat.per_frame) == 2
    same = {px: error_share(source, source, px).clip for px in WAVELENGTHS}
    assert same[length_px] == 0 and np.nan_to_num(list(same.values())).max() == 0


@pytest.mark.parametrize("size", [(16, 24), (15, 21)])
def test_all_bands_together_have_all(size):
    frames = np.random.default_rng(0).normal(size=(3, *size, 3))
    alone = ((frames - frames.mean((1, 2), keepdims=True)) ** 2).sum((1, 2, 3))
    assert np.allclose(band_power(frames).sum(1), alone)


def test_a_jump_from_side_to_side_is_no_detail():
    """A picture that grows brighter from left to right has all but nothing of short waves."""
    frame = np.broadcast_to(np.arange(64.0)[:, None], (1, 32, 64, 3))
    power = band_power(frame)[0]
    assert power[-1] < 1e-4 * power.sum() and (np.diff(power) < 0).all()


def test_what_blurs_loses_the_short_waves():
    source = np.random.default_rng(1).integers(0, 256, (2, 32, 64, 3), np.uint8)
    blurred = source.astype(float)
    for axis in (1, 2):
        blurred = (np.roll(blurred, 1, axis) + blurred + np.roll(blurred, -1, axis)) / 3
    shares = [error_share(source, blurred.round().astype(np.uint8), px).clip for px in WAVELENGTHS]
    assert shares == sorted(shares) and shares[0] < 0.05 and 0.5 < shares[-1] < 1.5
    flat, noisy = np.full((2, 15, 21, 3), 7, np.uint8), source[:, :15, :21]
    assert not any(np.isfinite(error_share(flat, noisy, px).clip) for px in WAVELENGTHS)
    with pytest.raises(ValueError, match="only equal shapes compare"):
        error_share(flat, source, 4)
