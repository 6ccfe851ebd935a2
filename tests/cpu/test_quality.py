"""Quality figures: against a second library on the same arrays, and against known answers."""

import subprocess
import sys
import warnings

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from vdkit.measure.quality import psnr_db, ssim


@pytest.fixture(autouse=True)
def no_warnings():
    """Infinities and empty masks are answers, not accidents."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def texture(height, width, seed=0):
    """Smooth random RGB, float, about 60 to 200: a picture."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    smooth = ndimage.gaussian_filter(noise, (3, 3, 0), mode="wrap")
    return 128 + 25 * smooth / smooth.std()


def bytes_of(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def panning(count=6, step=2, height=48, width=80, seed=0):
    """A window that moves ``step`` pixels to the right per frame over a still picture."""
    picture = texture(height, width + count * step, seed)
    return bytes_of([picture[:, t * step : t * step + width] for t in range(count)])


def noisy(clip, sigma=6.0, seed=1):
    return bytes_of(clip + np.random.default_rng(seed).normal(0, sigma, clip.shape))


def blurred(clip):
    return bytes_of(ndimage.gaussian_filter(clip.astype(float), (0, 1, 1, 0)))


def brighter(clip):
    return bytes_of(clip * 0.8 + 40)


DAMAGE = [noisy, blurred, brighter]


# PSNR and SSIM.


@pytest.mark.parametrize("damage", DAMAGE)
def test_psnr_equals_opencvs(damage):
    a = panning(height=33, width=47)
    b = damage(a)
    scores = psnr_db(a, b)
    # OpenCV adds 2e-16 to the root of the error; nothing else differs
    expected = [cv2.PSNR(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(scores.per_frame, expected, rtol=1e-12)
    whole = cv2.PSNR(a.reshape(-1, 47, 3), b.reshape(-1, 47, 3))
    assert scores.clip == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("damage", DAMAGE)
def test_ssim_is_as_the_paper_defines_it(damage):
    """Sample covariance would differ by 3e-4 on noise, by 1.6e-5 on the rest at least."""
    a = panning(height=33, width=47)
    b = damage(a)
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights /= weights.sum()

    def mean(values):
        """Over the Gaussian window of 11 x 11, where it lies inside the frame."""
        for axis in (1, 2):
            values = ndimage.correlate1d(values, weights, axis)
        return values[:, 5:-5, 5:-5]

    x, y = a.astype(float), b.astype(float)
    mx, my = mean(x), mean(y)
    vx, vy, covariance = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    scores = (2 * mx * my + c1) * (2 * covariance + c2) / (mx**2 + my**2 + c1) / (vx + vy + c2)
    expected = scores.mean(axis=(1, 2, 3))
    found = ssim(a, b)
    np.testing.assert_allclose(found.per_frame, expected, atol=1e-9)
    assert found.clip == pytest.approx(expected.mean(), abs=1e-9)
    assert 0.2 < found.clip < 0.999  # neither trivial


@pytest.mark.parametrize("levels", [1, 3, 255])
def test_an_offset_of_d_levels_is_20_log_255_over_d(levels):
    a = np.zeros((2, 4, 5, 3), np.uint8)
    expected = 20 * np.log10(255 / levels)
    for one, other in [(a, a + np.uint8(levels)), (a + np.uint8(levels), a)]:
        scores = psnr_db(one, other)
        np.testing.assert_allclose(scores.per_frame, expected, atol=1e-12)
        assert scores.clip == pytest.approx(expected, abs=1e-12)


def test_the_clips_psnr_pools_errors_and_not_decibels():
    a = np.full((2, 4, 5, 3), 100, np.uint8)
    b = a.copy()
    b[1] += 10
    scores = psnr_db(a, b)
    assert scores.per_frame[0] == np.inf
    assert scores.clip == pytest.approx(scores.per_frame[1] + 10 * np.log10(2))


def test_equal_clips():
    clip = panning()
    for scores, best in ((psnr_db(clip, clip.copy()), np.inf), (ssim(clip, clip.copy()), 1)):
        assert (scores.per_frame == best).all() and scores.clip == best


def test_one_byte_apart():
    a = panning(height=16, width=20)
    b = a.copy()
    b[3, 7, 9, 1] = 255 if a[3, 7, 9, 1] < 128 else 0
    differs = np.arange(len(a)) == 3
    assert ((psnr_db(a, b).per_frame < np.inf) == differs).all()
    assert ((ssim(a, b).per_frame < 1) == differs).all()


def test_tensors_and_views_give_the_same_as_arrays():
    a = panning()
    b = noisy(a)
    tensors = torch.from_numpy(a), torch.from_numpy(b)
    views = a[:, ::-1, ::-1][:, ::-1, ::-1], np.asfortranarray(b)
    for x, y in [tensors, views]:
        for score in (ssim, psnr_db):
            np.testing.assert_array_equal(score(x, y).per_frame, score(a, b).per_frame)


# Errors.

CLIP = panning(count=2, height=16, width=24)

WRONG = {
    "shapes": (lambda: psnr_db(CLIP, CLIP[:1]), r"\(2, 16, 24, 3\) and b \(1, .*cut or decode"),
    "dtype": (lambda: ssim(CLIP / 255, CLIP), r"a is float64 \[2, .*not uint8 .*0 to 255"),
    "bfloat16": (
        lambda: ssim(CLIP, torch.ones(CLIP.shape, dtype=torch.bfloat16)),
        r"b is torch\.bfloat16",
    ),
    "one frame": (lambda: psnr_db(CLIP[0], CLIP[0]), r"\[16, 24, 3\].*frame\[None\]"),
    "channels first": (
        lambda: psnr_db(CLIP.transpose(0, 3, 1, 2), CLIP),
        r"\[2, 3, 16, 24\].*channels last",
    ),
    "no frame": (lambda: psnr_db(CLIP[:0], CLIP[:0]), r"\[0, 16, 24, 3\]"),
    "small for ssim": (
        lambda: ssim(CLIP[:, :10], CLIP[:, :10]),
        r"24 x 10 pixels .*SSIM.*11 x 11; decode a larger",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_loads_neither_torch_nor_the_libraries():
    code = "import vdkit.measure.quality, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "vdkit.measure.quality" in loaded.split()
    assert not {"torch", "cv2", "skimage", "scipy"} & set(loaded.split())
