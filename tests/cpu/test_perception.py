"""Perceptual measures: against the package they come from, known answers, planted damage."""

import runpy
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.cpu.test_quality import blurred, bytes_of, noisy, panning, texture
from vdkit.measure.perception import (
    clip_features,
    flicker,
    frechet_distance,
    stlpips,
    temporal_stlpips,
    warping_error,
)
from vdkit.measure.quality import flip, psnr_db
from vdkit.models.clips import _clips
from vdkit.models.loading import shipped
from vdkit.models.perception import PerceptualNetwork

LEVELS = 6  # of planted flicker: so many up and down in turns


@pytest.fixture(scope="module")
def network():
    return PerceptualNetwork()


def still(count=6, height=40, width=56):
    return np.repeat(bytes_of(texture(height, width))[None], count, axis=0)


def flickering(clip):
    signs = np.where(np.arange(len(clip)) % 2, LEVELS, -LEVELS).reshape(-1, 1, 1, 1)
    return bytes_of(clip.astype(int) + signs)


def offset(clip):
    """As wrong as `flickering` in each frame, but steadily."""
    return bytes_of(clip.astype(int) + LEVELS)


def shifted(clip, pixels):
    return np.roll(clip, pixels, axis=2)


# stLPIPS.

# LPIPS(net="alex", variant="shift_tolerant") of stlpips-pytorch 0.0.2 on a CPU, torch 2.13, for
# `pictures`: as it is, and with the weights of its convolutions rounded to float16.
RECORDED = {
    "noise": (0.157657, 0.157645),
    "blur": (0.117834, 0.117884),
    "shift 1": (0.005931, 0.005930),
    "shift 5": (0.099178, 0.099192),
    "other": (0.346917, 0.346925),
    "black": (0.713010, 0.712612),
}


def pictures():
    """Sizes are odd so that every subsampling has a remainder."""
    one = bytes_of(texture(61, 83))[None]
    return one, {
        "noise": noisy(one, 12.0), "blur": bytes_of(ndimage.gaussian_filter(one, (0, 2, 2, 0))),
        "shift 1": shifted(one, 1), "shift 5": shifted(one, 5),
        "other": bytes_of(texture(61, 83, seed=7))[None], "black": np.zeros_like(one),
    }  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_stlpips_is_the_packages(network, name):
    one, others = pictures()
    theirs, rounded = RECORDED[name]
    found = stlpips(one, others[name], network).clip
    assert found == pytest.approx(theirs, abs=1e-3)
    assert found == pytest.approx(rounded, abs=1e-5)


@pytest.mark.parametrize("damage", [
    lambda clip, size: noisy(clip, 4.0 * size),
    lambda clip, size: bytes_of(ndimage.gaussian_filter(clip, (0, size, size, 0))),
    shifted,
], ids=["noise", "blur", "shift"])  # fmt: skip
@pytest.mark.parametrize("measure", ["stlpips", "flip"])
def test_more_damage_is_further_away(network, damage, measure):
    one = still(1)
    scores = [
        (flip(one, other) if measure == "flip" else stlpips(one, other, network)).clip
        for other in (one, *(damage(one, size) for size in (1, 2, 4)))
    ]
    assert scores[0] == 0 and np.all(np.diff(scores) > 0), scores


def test_a_shift_weighs_less_than_noise_of_the_same_error(network):
    one = still(1, 64, 96)
    moved = shifted(one, 1)
    rough = noisy(one, np.sqrt(np.mean((moved - one.astype(float)) ** 2)))
    assert psnr_db(one, moved).clip == pytest.approx(psnr_db(one, rough).clip, abs=0.5)
    assert stlpips(one, moved, network).clip < stlpips(one, rough, network).clip / 3


# FLIP.


def test_flip_of_each_frame():
    clip = still(3)
    other = np.stack([clip[0], noisy(clip)[1], 255 - clip[2]])
    scores = flip(clip, torch.from_numpy(other))
    assert scores.per_frame[0] == 0 < scores.per_frame[1] < scores.per_frame[2] < 1
    assert scores.clip == scores.per_frame.mean()
    np.testing.assert_array_equal(scores.per_frame, flip(other, clip).per_frame)
    assert flip(0 * clip, 0 * clip + 255).clip > 0.9


def test_without_its_package_flip_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "flip_evaluator", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -c constraints\.txt flip-eval"):
        flip(still(1), still(1))


# Over time.


@pytest.mark.parametrize("clip", [still(), panning()], ids=["still", "panning"])
def test_temporal_stlpips_sees_what_comes_and_goes(network, clip):
    planted = temporal_stlpips(clip, flickering(clip), network).clip
    steady = temporal_stlpips(clip, offset(clip), network).clip
    assert planted > 10 * steady
    ratio = (
        stlpips(clip, flickering(clip), network).clip / stlpips(clip, offset(clip), network).clip
    )
    assert 0.8 < ratio < 1.25  # frame by frame the two are as wrong
    assert temporal_stlpips(clip, clip, network).clip == 0
    if (clip == clip[0]).all():
        other = np.repeat(noisy(clip[:1]), len(clip), axis=0)
        assert temporal_stlpips(clip, other, network).clip == pytest.approx(0, abs=1e-9)


def test_temporal_stlpips_is_bounded_by_that_of_frames(network):
    clip = panning()
    other = noisy(clip, 20.0)
    frames = stlpips(clip, other, network).per_frame
    steps = temporal_stlpips(clip, other, network).per_frame
    assert steps.shape == (len(clip) - 1,)
    assert (steps > 0.02 * (frames[1:] + frames[:-1])).all()
    assert (steps <= 2 * (frames[1:] + frames[:-1])).all()


def test_changes_of_one_size_and_opposite_kind_are_told_apart(network):
    one, other = still(1), noisy(still(1), 20.0)
    to_and_fro = np.concatenate([one, other, one]), np.concatenate([other, one, other])
    steps = temporal_stlpips(*to_and_fro, network).per_frame
    np.testing.assert_allclose(steps, 4 * stlpips(one, other, network).clip, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 4, 5])
def test_batches_do_not_show(network, batch):
    """Of 6 frames: whole batches, a last frame alone, and an end that is a batch's end."""
    clip = panning(height=24, width=32)
    other = noisy(clip)
    for measure in (stlpips, temporal_stlpips):
        whole = measure(clip, other, network, batch=6).per_frame
        found = measure(clip, other, network, batch).per_frame
        np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-8)
    whole = clip_features(clip, network, batch=6)
    np.testing.assert_allclose(clip_features(clip, network, batch), whole, atol=1e-6)


def moving(clip, x, y=0.0):
    """The flow of a clip that moves steadily, and what of it stays in the picture."""
    count, height, width = clip.shape[:3]
    rows, columns = np.indices((height, width))
    inside = (columns + x >= 0) & (columns + x <= width - 1)
    inside &= (rows + y >= 0) & (rows + y <= height - 1)
    flow = np.full((count - 1, height, width, 2), (x, y), np.float32)
    return flow, np.broadcast_to(inside, flow.shape[:-1])


def test_warping_error_is_what_is_not_motion():
    clip = panning(step=2)
    flow, seen = moving(clip, -2.0)
    assert warping_error(clip, flow, seen).clip == 0
    assert warping_error(clip, 0 * flow, seen).clip > 3
    turned = clip.transpose(0, 2, 1, 3)
    assert warping_error(turned, *moving(turned, 0.0, -2.0)).clip == 0
    scores = warping_error(flickering(clip), flow, seen)
    np.testing.assert_allclose(scores.per_frame, 2 * LEVELS, rtol=1e-6)
    assert scores.clip == pytest.approx(2 * LEVELS) and scores.per_frame.shape == (5,)
    assert warping_error(offset(clip), flow, seen).clip == 0


def test_warping_error_interpolates_and_counts_pixels():
    clip = np.zeros((3, 2, 4, 3), np.uint8)
    clip[1:] = np.array([0, 10, 20, 30])[:, None]
    flow = np.zeros((2, 2, 4, 2))
    flow[0, ..., 0] = 0.25
    seen = np.zeros((2, 2, 4), bool)
    seen[0, 0, :2] = seen[1] = True
    scores = warping_error(clip, flow, seen)
    np.testing.assert_allclose(scores.per_frame, [(2.5 + 12.5) / 2, 0])
    assert scores.clip == pytest.approx((2.5 + 12.5) / 10)
    hidden = warping_error(clip, flow, seen & False)
    assert np.isnan(hidden.per_frame).all() and np.isnan(hidden.clip)


def test_a_drawn_clips_motion_is_exact():
    clips = _clips()
    captions = (
        "a red star rotates and a cyan square moves left over a brown background",
        "a white triangle grows and a blue circle bounces over a gray background",
        "a yellow circle shrinks over a black background",
    )
    tracks = clips.draw_tracks(
        [clips.parse(one) for one in captions], np.random.default_rng(0), 9, 64, 96
    )
    frames, (flow, seen) = clips.render(tracks).numpy(), clips.motion(tracks)
    for i in range(len(captions)):
        assert warping_error(frames[i], flow[i], seen[i]).clip == 0
        assert warping_error(frames[i], 0 * flow[i], seen[i] | True).clip > 0.2
        assert 0.8 < seen[i].mean() < 0.999
    # The middle of a mover goes where its track says; a turning one's edge around the middle.
    (first, second), pixel = (
        tracks.path[0, 1, :2],
        np.rint(tracks.path[0, :, 0, :2] - 0.5).astype(int),
    )
    x, y = pixel[1]
    assert seen[0, 0, y, x]
    np.testing.assert_allclose(flow[0, 0, y, x], (second - first)[:2], atol=1e-4)
    x, y = pixel[0] + np.array((2, 0))
    turn = np.diff(tracks.path[0, 0, :2, 3])[0]
    arm = np.array([x, y]) + 0.5 - tracks.path[0, 0, 0, :2]
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    np.testing.assert_allclose(flow[0, 0, y, x], matrix @ arm - arm, atol=1e-4)
    x, y = np.rint(tracks.path[1, 0, 0, :2] - 0.5).astype(int) + np.array((1, 0))
    arm = np.array([x, y]) + 0.5 - tracks.path[1, 0, 0, :2]
    growth = tracks.path[1, 0, 1, 2] / tracks.path[1, 0, 0, 2]
    np.testing.assert_allclose(flow[1, 0, y, x], (growth - 1) * arm, atol=1e-4)


def test_flicker_is_what_still_regions_do_more_than_the_source():
    clip = still()
    clip[:, :, 20:] = np.random.default_rng(1).integers(
        0, 256, (6, 40, 36, 3)
    )  # only the left part is still
    assert flicker(clip, clip).clip == 0
    assert flicker(clip, flickering(clip)).clip == pytest.approx(2 * LEVELS, abs=0.01)
    assert flicker(clip, offset(clip)).clip == 0
    elsewhere = clip.copy()
    elsewhere[::2, :, 20:] //= 2
    assert flicker(clip, elsewhere).clip == pytest.approx(0, abs=0.05)
    grain = bytes_of(still() + np.random.default_rng(0).integers(0, 2, (6, 40, 56, 3)))
    assert flicker(grain, still()).clip == pytest.approx(-0.5, abs=0.01)
    assert flicker(still(), grain).clip == pytest.approx(0.5, abs=0.01)
    nowhere = flicker(panning(step=9), panning(step=9), still_levels=0)
    assert nowhere.per_frame.shape == (5,)
    fast = np.stack([np.full((4, 5, 3), level, np.uint8) for level in (0, 90, 90)])
    scores = flicker(fast, fast)
    np.testing.assert_array_equal(scores.per_frame, [np.nan, 0])
    assert scores.clip == 0 and np.isnan(flicker(fast[:2], fast[:2]).clip)


# The distance of two sets.


def drawn_features(seed, count, mean=0.0, scale=1.0):
    spread = np.sqrt(0.6 ** np.arange(16))
    return spread * (scale * np.random.default_rng(seed).normal(size=(count, 16)) + mean)


def test_frechet_distance_of_known_gaussians():
    """The bias is gone: of 34 clips it would be 0.4, and of 0.22 the distance."""
    total = (0.6 ** np.arange(16)).sum()
    for mean, scale in ((0.0, 1.0), (0.3, 1.0), (0.0, 1.3)):
        found = [
            frechet_distance(drawn_features(2 * k, 34), drawn_features(2 * k + 1, 40, mean, scale))
            for k in range(40)
        ]
        true = total * (mean**2 + (1 - scale) ** 2)
        values, errors = np.array(found).T
        assert values.mean() == pytest.approx(true, abs=3 * values.std() / np.sqrt(40))
        assert 0.7 < errors.mean() / values.std() < 2


def test_frechet_distance_of_equal_sets_and_of_a_moved_one():
    a = drawn_features(0, 40)
    assert frechet_distance(a, a) == pytest.approx((0, 0), abs=1e-6)
    distance, error = frechet_distance(a, a + 0.1)
    assert (distance, error) == pytest.approx((16 * 0.1**2, 0), abs=1e-6)


def test_features_tell_noise_and_flicker(network):
    """34 clips: more noise is further; what flickers is further than what is off steadily."""
    clips = [panning(5, seed % 3, 24, 32, seed) for seed in range(34)]
    features = [clip_features(clip, network) for clip in clips]
    assert features[0].shape == (16,) and features[0].dtype == np.float64

    def distance(damage, part=slice(0, 16)):
        damaged = [clip_features(damage(clip), network) for clip in clips]
        return frechet_distance(np.array(features)[:, part], np.array(damaged)[:, part])[0]

    assert 0 < distance(lambda clip: noisy(clip, 4.0)) < distance(lambda clip: noisy(clip, 8.0))
    changes = slice(8, 16)
    assert distance(flickering, changes) > 50 * abs(distance(offset, changes))
    assert distance(blurred) > 50 * abs(distance(blurred, changes))


# Errors, and where the weights come from.

WRONG = {
    "shapes": (lambda net: stlpips(still(2), still(3), net), "only equal shapes"),
    "small": (
        lambda net: stlpips(still(1, 20, 40), still(1, 20, 40), net),
        "1 frames of 40 x 20 pixels .* stLPIPS, which needs 1 of 21 x 21",
    ),
    "one": (lambda net: temporal_stlpips(still(1), still(1), net), "which needs 2 of 21"),
    "features": (lambda net: clip_features(still(1), net), "which needs 2 of 21"),
    "motion": (
        lambda net: warping_error(still(3), *moving(still(2), 0.0)),
        r"\(3, 40, 56, 3\): flow \(1, 40, 56, 2\), .*motion of the same clip",
    ),
    "few": (
        lambda net: frechet_distance(np.zeros((33, 16)), np.zeros((40, 16))),
        r"\(33, 16\) and \(40, 16\), .*34 clips or more",
    ),
    "widths": (lambda net: frechet_distance(np.zeros((40, 8)), np.zeros((40, 16))), "not .n, D."),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(network, case):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call(network)


def test_the_smallest_frames(network):
    small = still(2, 21, 21)
    assert temporal_stlpips(small, noisy(small), network).clip > 0


def test_other_weights_are_not_converted(tmp_path):
    made = runpy.run_path(str(shipped("stlpips") / "convert.py"))
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(made["MEMBER"], b"other weights")
    with pytest.raises(ValueError, match="another version"):
        made["convert"](wheel, tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == [wheel]


def test_without_the_weights_it_says_where_they_belong(monkeypatch, tmp_path):
    monkeypatch.setattr("vdkit.models.loading.TINY_WAN", Path(tmp_path, "tiny-wan"))
    with pytest.raises(FileNotFoundError, match=r"stlpips is missing at .* comes with a clone"):
        PerceptualNetwork()
