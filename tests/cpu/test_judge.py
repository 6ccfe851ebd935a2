"""The judge of the miniature's clips says what they show, and the captions say one thing each."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
pytestmark = pytest.mark.usefixtures("one_thread")
sys.path.insert(0, str(Path(__file__).parents[2] / "data" / "tiny-wan"))
from clips import (  # noqa: E402
    BACKGROUNDS,
    COLORS,
    FRAMES,
    HEIGHT,
    MOTIONS,
    SHAPES,
    WIDTH,
    Mover,
    Scene,
    draw_tracks,
    parse,
    random_scene,
    render,
)
from judge import Score, Seen, describe, score  # noqa: E402


def film(scene, seed=0):
    return render(draw_tracks([scene], np.random.default_rng(seed)))[0].numpy()


def random_clips(count, seed, whole=1):
    """Scenes with their clips: one and two shapes, training captions and held-out ones.

    One clip in ``whole`` has all frames, the others every second one, which takes half the time.
    """
    rng = np.random.default_rng(seed)
    for i in range(count):
        scene = random_scene(rng, held_out=i % 4 < 2, movers=1 + i % 2)
        tracks = draw_tracks([scene], rng)
        if i % whole:
            tracks = replace(tracks, path=tracks.path[:, :, ::2])
        yield scene, render(tracks, stop=tracks.path.shape[2])[0].numpy()


def spoil(frames, rng):
    """Blurred, every channel of the whole clip off by up to 8 levels, and noisy."""
    image = np.stack([cv2.GaussianBlur(f, (0, 0), 1.5) for f in frames.astype(np.float32)])
    image += rng.uniform(-8.0, 8.0, 3) + rng.normal(0.0, 6.0, frames.shape)
    return image.round().clip(0, 255).astype(np.uint8)


def assert_right(results, least):
    right, all_ = Counter(), Counter()
    for result in results:
        for name in ("color", "shape", "motion"):
            right[name] += sum(getattr(result, name))
            all_[name] += len(getattr(result, name))
        for name in ("background", "count"):
            right[name] += getattr(result, name)
            all_[name] += 1
    shares = {name: right[name] / all_[name] for name in all_}
    assert len(shares) == 5 and min(shares.values()) >= least, shares


@pytest.fixture(scope="module")
def some():
    return list(random_clips(24, seed=1))


def test_clips_are_judged_right():
    clips = random_clips(120, seed=0, whole=3)
    assert_right((score(scene, describe(frames)) for scene, frames in clips), 0.99)


def test_spoiled_clips_are_judged_right():
    rng = np.random.default_rng(0)
    clips = random_clips(40, seed=2)
    assert_right((score(scene, describe(spoil(frames, rng))) for scene, frames in clips), 0.97)


@pytest.mark.parametrize("shown", [slice(0, 17), slice(16, 33), slice(0, 33, 2)])
def test_half_of_the_frames_are_enough(some, shown):
    def halved(frames):
        made = np.broadcast_to(np.median(frames, axis=2, keepdims=True), frames.shape)
        made = made.astype(np.uint8)
        made[shown] = frames[shown]
        return made

    assert_right((score(scene, describe(halved(frames))) for scene, frames in some), 0.97)


def test_other_sizes_and_lengths(some):
    def doubled(frames):
        return np.stack([cv2.resize(f, (2 * WIDTH, 2 * HEIGHT)) for f in frames])

    for scene, frames in some[:4]:
        assert score(scene, describe(doubled(frames))).right
        assert score(scene, describe(frames[::2])).right


def test_one_wrong_attribute_is_the_only_one_wrong(some):
    """A clip of one scene against a scene that differs in one thing."""
    rng = np.random.default_rng(3)

    def other(words, *but):
        return str(rng.choice([word for word in words if word not in but]))

    for scene, frames in some:
        seen = describe(frames)
        every = (True,) * len(scene.movers)
        right = Score(every, every, every, True, True)
        assert score(scene, seen) == right
        background = replace(scene, background=other(BACKGROUNDS, scene.background))
        assert score(background, seen) == replace(right, background=False)
        taken = [mover.color for mover in scene.movers]
        for i, mover in enumerate(scene.movers):
            wrong = (*every[:i], False, *every[i + 1 :])
            for name, words, but in (
                ("color", COLORS, taken),
                ("shape", SHAPES, [mover.shape]),
                ("motion", MOTIONS, [mover.motion]),
            ):
                changed = replace(mover, **{name: other(words, *but)})
                movers = (*scene.movers[:i], changed, *scene.movers[i + 1 :])
                assert score(replace(scene, movers=movers), seen) == replace(right, **{name: wrong})
        if len(scene.movers) == 1:
            more = Mover(other(COLORS, *taken), "star", "still")
            one = (True, False)
            expected = Score(one, one, one, True, False)
            assert score(replace(scene, movers=(*scene.movers, more)), seen) == expected
        else:
            less = replace(scene, movers=scene.movers[1:])
            assert score(less, seen) == Score((True,), (True,), (True,), True, False)


def test_the_order_of_movers_does_not_matter():
    scene = parse("a red star grows and a blue circle stays still over a black background")
    seen = describe(film(scene))
    for movers in (scene.movers, scene.movers[::-1]):
        assert score(Scene(movers, "black"), seen).right
        assert score(scene, Seen(movers, "black", 2)).right


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_shape_is_wrong_in_everything(missing):
    scene = parse("a red star moves left and a cyan square moves right over a gray background")
    tracks = draw_tracks([scene], np.random.default_rng(0))
    tracks.path[:, missing, :, 2] = 0
    seen = describe(render(tracks)[0].numpy())
    assert seen == Seen((scene.movers[1 - missing],), "gray", 1)
    found = tuple(i != missing for i in range(2))
    assert score(scene, seen) == Score(found, found, found, True, False)


def test_two_shapes_of_one_color_are_counted():
    scene = parse("a red star moves left and a cyan square moves right over a gray background")
    tracks = draw_tracks([scene], np.random.default_rng(0))
    tracks.color[:, 1] = tracks.color[:, 0]
    seen = describe(render(tracks)[0].numpy())
    assert seen.count == 2 and {mover.color for mover in seen.movers} == {"red"}


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_clip(background):
    scene = Scene((Mover("white", "circle", "still"),), background)
    tracks = draw_tracks([scene], np.random.default_rng(0))
    tracks.path[..., 2] = 0
    seen = describe(render(tracks)[0].numpy())
    assert seen == Seen((), background, 0)
    assert score(scene, seen) == Score((False,), (False,), (False,), True, False)


def test_a_noise_clip():
    rng = np.random.default_rng(0)
    scene = parse("a red star moves left over a gray background")
    for noise in (
        rng.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3)),
        np.broadcast_to(rng.integers(0, 256, (HEIGHT, WIDTH, 3)), (FRAMES, HEIGHT, WIDTH, 3)),
        rng.normal(128, 40, (FRAMES, HEIGHT, WIDTH, 3)).clip(0, 255),
    ):
        seen = describe(noise.astype(np.uint8))
        assert seen == Seen((), None, 0)
        assert not any((*score(scene, seen).color, score(scene, seen).background))
    for sigma in (12, 20, 30):  # noise over an even ground
        noise = rng.normal(104, sigma, (FRAMES, HEIGHT, WIDTH, 3))
        assert describe(noise.round().clip(0, 255).astype(np.uint8)).movers == ()


@pytest.mark.parametrize(
    "frames, named",
    [
        (np.zeros((33, 96, 160, 3), np.float32), "float32.*uint8"),
        ([[0]], "list.*uint8"),
        (np.zeros((96, 160, 3), np.uint8), r"\(96, 160, 3\).*\[F, H, W, 3\]"),
        (np.zeros((33, 3, 96, 160), np.uint8), r"\(33, 3, 96, 160\).*\[F, H, W, 3\]"),
        (np.zeros((5, 96, 160, 3), np.uint8), r"\(5, 96, 160, 3\).*9 frames"),
    ],
)
def test_what_is_no_clip_is_refused(frames, named):
    with pytest.raises(ValueError, match=named):
        describe(frames)


def test_captions_name_their_scene():
    rng = np.random.default_rng(4)
    for i in range(1000):
        held_out = i % 4 == 0
        scene = random_scene(rng, held_out=held_out, movers=i % 3)
        assert parse(scene.caption) == scene
        assert scene.held_out == held_out


def test_training_never_sees_a_held_out_caption():
    rng = np.random.default_rng(5)
    held_out = {random_scene(rng, held_out=True).caption for _ in range(200)}
    assert held_out.isdisjoint(random_scene(rng).caption for _ in range(2000))
