"""Quality figures: against a second library on the same arrays, and against known answers."""

import subprocess
import sys
import warnings
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from vdkit.measure.quality import (
    psnr_db,
    quality_against_bytes,
    ssim,
    temporal_consistency,
)


@pytest.fixture(autouse=True)
def no_warnings():
    """Infinities and empty masks are answers, not accidents."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def texture(height, width, seed=0):
    """Smooth random RGB, float, about 60 to 200: what optical flow can follow."""
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
    steady = temporal_consistency(b)
    tensors = torch.from_numpy(a), torch.from_numpy(b)
    views = a[:, ::-1, ::-1][:, ::-1, ::-1], np.asfortranarray(b)
    for x, y in [tensors, views]:
        again = temporal_consistency(y)
        for score in (ssim, psnr_db):
            np.testing.assert_array_equal(score(x, y).per_frame, score(a, b).per_frame)
        np.testing.assert_array_equal(again.warp_error.per_frame, steady.warp_error.per_frame)
    flipped = temporal_consistency(b[::-1, ::-1, :, ::-1])  # negative strides reach OpenCV
    assert flipped.warp_error.clip == pytest.approx(steady.warp_error.clip, rel=0.1)


# Change in time.


class KnownFlow:
    """In DIS flow's place: constant flows, forward and backward for each pair, over and over."""

    def __init__(self, *turns):
        self.turns, self.calls = turns, 0

    def create(self, preset):
        return self

    def calc(self, one, other, flow):
        vector = self.turns[self.calls % len(self.turns)]
        self.calls += 1
        return np.broadcast_to(np.float32(vector), (*one.shape, 2)).copy()


def test_the_right_flow_leaves_no_error_and_masks_what_moves_out(monkeypatch):
    clip = panning(count=4, step=3, width=60)  # the picture moves 3 pixels to the left
    monkeypatch.setattr(cv2, "DISOpticalFlow", KnownFlow((-3, 0), (3, 0)))
    found = temporal_consistency(clip)
    np.testing.assert_array_equal(found.warp_error.per_frame, np.zeros(3))
    np.testing.assert_allclose(found.masked_percent.per_frame, 5.0)  # 3 columns of 60
    assert found.warp_error.clip == 0 and found.masked_percent.clip == pytest.approx(5.0)
    monkeypatch.setattr(cv2, "DISOpticalFlow", KnownFlow((0, 0), (0, 0)))
    unmoved = temporal_consistency(clip)
    expected = np.abs(np.diff(clip.astype(float), axis=0)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(unmoved.warp_error.per_frame, expected, rtol=1e-6)
    assert unmoved.masked_percent.clip == 0
    # one pair of each: the clip's error is over all visible pixels, 57 columns and 60
    monkeypatch.setattr(cv2, "DISOpticalFlow", KnownFlow((-3, 0), (3, 0), (0, 0), (0, 0)))
    both = temporal_consistency(clip[:3])
    np.testing.assert_allclose(both.warp_error.per_frame, [0, expected[1]], rtol=1e-6)
    assert both.warp_error.clip == pytest.approx(expected[1] * 60 / 117, rel=1e-6)
    assert both.masked_percent.clip == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("forward", "backward", "masked"),
    # |f + b|^2 against 0.01 (|f|^2 + |b|^2) + 0.5
    [
        (2, -1.26, False),  # 0.548 < 0.556
        (2, -1.24, True),  # 0.578 > 0.555
        (10, -8.55, False),  # 2.103 < 2.231
        (10, -8.45, True),  # 2.403 > 2.214
    ],
)
def test_flows_that_contradict_each_other_are_masked(monkeypatch, forward, backward, masked):
    monkeypatch.setattr(cv2, "DISOpticalFlow", KnownFlow((0, forward), (0, backward)))
    found = temporal_consistency(panning(count=3))
    assert (found.masked_percent.clip == 100) == masked
    assert np.isnan(found.warp_error.per_frame).all() == masked
    assert np.isnan(found.warp_error.clip) == masked


def test_warp_error_equals_scipys_warp_by_the_same_flow():
    clip = noisy(panning(count=3, step=1), sigma=3)
    found = temporal_consistency(clip)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
    height, width = gray[0].shape
    rows, columns = np.mgrid[:height, :width].astype(float)
    for t in range(2):
        forward = dis.calc(gray[t], gray[t + 1], None)
        backward = dis.calc(gray[t + 1], gray[t], None)
        at = rows + forward[..., 1], columns + forward[..., 0]

        def read(image, at=at):
            planes = [ndimage.map_coordinates(p.astype(float), at, order=1) for p in image.T]
            return np.stack(planes, axis=-1)

        back = read(backward.transpose(1, 0, 2))
        warped = read(clip[t + 1].transpose(1, 0, 2))
        inside = (at[0] >= 0) & (at[0] <= height - 1) & (at[1] >= 0) & (at[1] <= width - 1)
        limit = 0.01 * ((forward**2).sum(-1) + (back**2).sum(-1)) + 0.5
        seen = inside & (((forward + back) ** 2).sum(-1) <= limit)
        error = np.abs(clip[t] - warped)[seen].mean()
        # OpenCV may round positions to 1/32 pixel
        assert found.warp_error.per_frame[t] == pytest.approx(error, rel=0.01)
        assert found.masked_percent.per_frame[t] == pytest.approx(100 * (1 - seen.mean()), abs=0.1)


def test_a_still_clip_has_neither_error_nor_flicker():
    found = temporal_consistency(np.repeat(panning(count=1), 5, axis=0))
    np.testing.assert_array_equal(found.warp_error.per_frame, np.zeros(4))
    np.testing.assert_array_equal(found.masked_percent.per_frame, np.zeros(4))
    assert found.warp_error.clip == found.masked_percent.clip == found.flicker_index == 0


def test_motion_is_neither_error_nor_flicker_and_noise_and_flicker_are():
    clip = panning(count=8, step=2, height=64, width=96)
    moving = temporal_consistency(clip)
    unwarped = np.abs(np.diff(clip.astype(float), axis=0)).mean()
    assert moving.warp_error.clip < 0.1 * unwarped
    assert moving.masked_percent.clip < 10
    assert moving.flicker_index < 0.3

    alternating = np.array([3, -3] * 4).reshape(-1, 1, 1, 1)
    flickering = temporal_consistency(bytes_of(clip + alternating))
    assert flickering.flicker_index == pytest.approx(3 * 4 / np.sqrt(6), rel=0.05)
    assert flickering.warp_error.clip == pytest.approx(6, rel=0.15)

    # noise of every pixel leaves the mean alone
    grainy = temporal_consistency(noisy(clip, sigma=5))
    assert grainy.flicker_index < 0.4 and grainy.warp_error.clip > 5 * moving.warp_error.clip


def test_the_flow_of_a_reference_serves_all_candidates():
    clip = panning(count=4)
    noise = noisy(clip, sigma=5)
    own, given = temporal_consistency(clip), temporal_consistency(noise, flow_from=clip)
    np.testing.assert_array_equal(given.masked_percent.per_frame, own.masked_percent.per_frame)
    # two frames' noise, 5 levels each, read at whole pixels: mean |N(0, 50)|; less between pixels
    assert 0.75 < given.warp_error.clip / (np.sqrt(50) * np.sqrt(2 / np.pi)) < 1.05
    assert given.warp_error.clip != temporal_consistency(noise).warp_error.clip


def gray_clip(levels):
    return np.repeat(np.array(levels, np.uint8), 16 * 16 * 3).reshape(-1, 16, 16, 3)


def test_flicker_index_is_the_deviation_of_whole_frames():
    levels = 128 + np.random.default_rng(5).normal(0, 10, 400)
    found = temporal_consistency(gray_clip(np.rint(levels)))
    # 400 frames give the deviation to about 5 %
    assert found.flicker_index == pytest.approx(10, rel=0.15)
    assert temporal_consistency(gray_clip(range(20, 200, 20))).flicker_index < 1e-12  # a fade
    assert temporal_consistency(gray_clip([10, 13, 10])).flicker_index == pytest.approx(6**0.5)
    assert temporal_consistency(gray_clip([10, 13])).flicker_index is None


def test_flicker_weighs_channels_as_luma():
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        clip = gray_clip([50, 50, 50])
        clip[1, ..., channel] += 30
        expected = weight * 30 * 2 / np.sqrt(6)
        assert temporal_consistency(clip).flicker_index == pytest.approx(expected)


# Quality against bytes.


def test_jpeg_pays_for_quality_in_bytes():
    clip = noisy(panning(count=2, height=40, width=48), sigma=4)

    def encoded(quality):
        files = [cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for f in clip]
        return np.stack([cv2.imdecode(f, cv2.IMREAD_COLOR) for f in files]), sum(map(len, files))

    given = {"q95": encoded(95), "q20": encoded(20), "q60": encoded(60), "raw": (clip, clip.nbytes)}
    rows = quality_against_bytes(clip, given)
    assert [row.name for row in rows] == ["q20", "q60", "q95", "raw"]
    assert all(low.psnr_db < high.psnr_db for low, high in pairwise(rows))
    assert all(low.ssim < high.ssim for low, high in pairwise(rows))
    assert rows[-1].bits_per_pixel == 24 and rows[-1].psnr_db == np.inf and rows[-1].ssim == 1
    assert rows[0].bits_per_pixel == 8 * given["q20"][1] / (2 * 40 * 48)
    assert rows[0].psnr_db == psnr_db(clip, given["q20"][0]).clip
    assert rows[0].ssim == ssim(clip, given["q20"][0]).clip


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
    "small for flow": (
        lambda: temporal_consistency(CLIP[:, :15]),
        r"24 x 15 pixels .*optical flow.*16 x 16",
    ),
    "still": (lambda: temporal_consistency(CLIP[:1]), "at least 2 frames, got 1"),
    "flow of another": (
        lambda: temporal_consistency(CLIP, flow_from=CLIP[:, :, :20]),
        r"flow_from \(2, 16, 20, 3\)",
    ),
    "no encodings": (lambda: quality_against_bytes(CLIP, {}), "no encodings"),
    "no bytes": (lambda: quality_against_bytes(CLIP, {"png": (CLIP, 0)}), "png has 0 bytes"),
    "encoding's shape": (
        lambda: quality_against_bytes(CLIP, {"mp4": (CLIP[:, :14], 10)}),
        r"mp4 \(2, 14, 24, 3\)",
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
