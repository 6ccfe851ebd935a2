"""The spectrum of an error: each wave in its band, all power somewhere, no share of nothing."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
from data.structures.spectrum import BANDS, band_power, error_shares, error_spectrum

SIZE = (3, 32, 48, 3)


def noise(seed=0, shape=SIZE):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def waves(cycles_a_pixel, across=True, level=128, size=64):
    """Two frames of a cosine of 100 levels that a mirror goes on with."""
    wave = 100 * np.cos(2 * np.pi * cycles_a_pixel * (np.arange(size) + 0.5))
    frame = np.broadcast_to(wave if across else wave[:, None], (size, size))
    return np.repeat(np.repeat((level + frame)[None, ..., None], 3, 3), 2, 0).round().astype("u1")


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize(("cycles", "band"), [(1 / 32, 1), (3 / 32, 2), (1 / 4, 4), (15 / 32, 8)])
def test_a_wave_is_in_its_band(cycles, band, across):
    clip = waves(cycles, across)
    power = band_power(clip.astype(float))
    assert power[0] == pytest.approx(3 * 64 * 64 * 128**2, rel=1e-3)
    assert power[band] == pytest.approx(3 * 64 * 64 * 100**2 / 2, rel=1e-2)
    assert power[1:].sum() - power[band] < 1e-3 * power[band]


def test_the_bands_add_up_to_the_squares():
    clip, made = noise().astype(float), noise(1).astype(float)
    for bands in (1, BANDS, 13):
        power = band_power(made - clip, bands)
        assert power.sum() == pytest.approx(np.square(made - clip).sum() / len(clip))
        assert power.shape == (1 + bands,) and (power > 0).all()


def test_halving_the_contrast_is_a_quarter_of_every_band():
    clip = noise() // 2 * 2
    assert error_spectrum(clip, clip // 2, 5) == pytest.approx([0.25] * 5)
    assert error_spectrum(clip, clip).tolist() == [0] * BANDS


def test_a_blur_loses_the_fine_bands_and_a_shift_of_brightness_none():
    clip = noise() // 2
    wide = np.pad(clip.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), "symmetric")
    blurred = sum(wide[:, i : i + 32, j : j + 48] for i in range(3) for j in range(3)) / 9
    found = error_spectrum(clip, blurred.round().astype("u1"))
    assert (np.diff(found[:5]) > 0).all() and found[0] < 0.02 and (found[5:] > 0.9).all()
    assert error_spectrum(clip, clip + np.uint8(9)).max() < 1e-20


def test_frames_count_alike():
    clip = np.repeat(noise()[:1] // 2 * 2, 4, 0)
    made = clip.copy()
    made[2] //= 2
    assert error_spectrum(clip, made, 2) == pytest.approx([0.25 / 4] * 2)


def test_a_band_of_nothing_has_no_share():
    flat, made = np.full(SIZE, 77, np.uint8), noise()
    assert np.isnan(error_spectrum(flat, made)).all()
    coarse = np.broadcast_to(np.arange(2, dtype=np.uint8).repeat(16)[:, None, None], SIZE[1:])[None]
    shares = error_shares(coarse, noise(shape=coarse.shape), 3)
    assert list(shares) == [f"error_share_band_{k}" for k in (1, 2, 3)]
    assert all(share > 0 for share in shares.values())


@pytest.mark.parametrize(
    ("other", "bands", "said"),
    [
        (SIZE, 0, "0 bands; give 1"),
        ((3, 32, 32, 3), 8, "only equal shapes"),
        (SIZE[1:], 8, "uint8"),
    ],
)
def test_wrong_input(other, bands, said):
    with pytest.raises(ValueError, match=said):
        error_spectrum(noise(), noise(shape=other), bands)
