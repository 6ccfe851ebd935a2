"""What frames look like and how they change: stLPIPS, warping, flicker, a distance between sets.

Frames are uint8 RGB, [F, H, W, 3], of numpy or torch on any device; others, and too small or too
few for the network, are a ValueError. Lower is better in all. An interval over clips is
`vdkit.record.stats.mean_half_width` (Student's t) of ``std`` and ``n`` of their scores' summary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vdkit.measure.quality import Floats, Frames, FrameScores, as_frames, at_least, frame_pair

Network = Callable[[torch.Tensor], list[torch.Tensor]]  # a `vdkit.models.perception`'s
NETWORK_MIN_SIDE = 21  # pixels; of fewer a layer would have none left
DIMENSIONS = 8  # of a clip's features: so many for how frames look, as many for how they change
HALVINGS = 50  # of the clips at random: they tell bias and error of a Frechet distance


def stlpips(a: Frames, b: Frames, network: Network, batch: int = 8) -> FrameScores:
    """Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022), AlexNet, ``batch`` frames at a time.

    0 for equal frames, at most 2.5 (unlike pictures: 0.3 to 0.9), no unit; a clip's is the mean.
    """
    return _distance(a, b, network, batch, steps=0)


def temporal_stlpips(a: Frames, b: Frames, network: Network, batch: int = 8) -> FrameScores:
    """How much of the error comes and goes: stLPIPS between changes from frame to frame.

    With e the embedding whose squared distance is stLPIPS: that between e(a[t+1]) - e(a[t]) and
    e(b[t+1]) - e(b[t]), of each of F - 1 steps; a clip's is the mean. 0 where b changes as a does,
    hence for an error that stands still on a still clip; at most 10, no unit. After tLP (Chu et
    al., TecoGAN, 2020), which subtracts two distances: unlike changes of one size are equal there.
    """
    return _distance(a, b, network, batch, steps=1)


def _distance(a: Frames, b: Frames, network: Network, batch: int, steps: int) -> FrameScores:
    found = []
    clips = (_embedded(clip, network, batch, steps) for clip in frame_pair(a, b))
    for left, right in zip(*clips, strict=True):
        layers = zip(left, right, strict=True)
        apart = [(x - y).diff(steps, dim=0).square().sum(1).mean((1, 2)) for x, y in layers]
        found.append(torch.stack(apart).double().sum(0).cpu().numpy())
    scores = np.concatenate(found)
    return FrameScores(scores, float(scores.mean()))


def _embedded(clip: Any, network: Network, batch: int, steps: int) -> Iterator[list[torch.Tensor]]:
    """Batches of frames, each with the first ``steps`` of the next batch."""
    at_least(clip, NETWORK_MIN_SIDE, "the network of stLPIPS", steps + 1)
    for start in range(0, len(clip) - steps, batch):
        yield network(torch.from_numpy(np.ascontiguousarray(clip[start : start + batch + steps])))


def warping_error(frames: Frames, flow: Floats, seen: NDArray[np.bool_]) -> FrameScores:
    """What changes from frame to frame and is not motion, levels, 0 to 255.

    Frame t + 1 is taken back to t along the true ``flow`` (pixels to the right and down) and
    compared there, by mean absolute error over the pixels ``seen`` in both, of all steps for a clip
    (Lai et al., "Learning Blind Video Temporal Consistency", 2018, square it); nan where none is.
    A drawn clip's flow is exact and takes no search: ``motion`` of the miniature's ``clips.py``.
    """
    from scipy.ndimage import map_coordinates

    clip = as_frames(frames, "frames")
    if not flow.shape[:-1] == seen.shape == (len(clip) - 1, *clip.shape[1:3]):
        wanted = "[F - 1, H, W, 2] and [F - 1, H, W]; give the motion of the same clip"
        raise ValueError(f"{clip.shape}: flow {flow.shape}, seen {seen.shape} are not {wanted}")
    sums = np.zeros(len(seen))
    for t, now in enumerate(clip[:-1]):
        at = np.argwhere(seen[t]) + flow[t][seen[t]][:, ::-1]  # rows, columns
        for before, after in zip(now[seen[t]].T, np.moveaxis(clip[t + 1], -1, 0), strict=True):
            found = map_coordinates(after, at.T, float, order=1, mode="nearest")
            sums[t] += np.abs(found - before).sum()
    return _pooled(sums, 3 * seen.sum((1, 2)))


def flicker(source: Frames, test: Frames, still_levels: int = 2) -> FrameScores:
    """How much more than in the source still regions change, levels, -``still_levels`` to 255.

    Still at step t is a pixel whose channels change by at most ``still_levels`` in the source.
    There, the mean of |test[t+1] - test[t]| less that of the source, of all F - 1 steps for a clip:
    0 for an error that stands still, below 0 where grain is lost. nan where none is still. Ours.
    """
    own, new = (np.abs(np.diff(clip.astype(np.int16), axis=0)) for clip in frame_pair(source, test))
    still = own.max(-1) <= still_levels
    sums = np.where(still, (new - own).sum(-1), 0).sum((1, 2))
    return _pooled(sums, 3 * still.sum((1, 2)))


def _pooled(sums: NDArray[Any], counts: NDArray[np.int_]) -> FrameScores:
    with np.errstate(invalid="ignore"):
        return FrameScores(sums / counts, float(sums.sum() / counts.sum()))


def clip_features(frames: Frames, network: Network, batch: int = 8) -> Floats:
    """A clip as float64 [16]: 8 for how its frames look, then 8 for how they change.

    Embeddings, and sizes of their changes to the next frame, averaged over pixels and F - 1 steps
    (1,152 channels each), on fixed random directions, scaled so that squared distances are
    in the unit of stLPIPS.
    """
    steps = [
        torch.cat([torch.stack((x[:-1], x.diff(dim=0).abs())).mean((3, 4)) for x in layers], 2)
        for layers in _embedded(as_frames(frames, "frames"), network, batch, steps=1)
    ]
    pooled = torch.cat(steps, 1).double().mean(1).cpu().numpy()
    random = np.random.default_rng(0).normal(size=(pooled.shape[1], DIMENSIONS))
    return (pooled @ np.linalg.qr(random)[0] * (len(random) / DIMENSIONS) ** 0.5).ravel()


def frechet_distance(a: Floats, b: Floats) -> tuple[float, float]:
    """Of Gaussians through the `clip_features` [n, D] and [m, D] of two sets, and its error.

    |mean difference|^2 + tr(A + B - 2 (A B)^(1/2)) of covariances A and B, in the unit of stLPIPS.
    The space is small and our own: not FID, not FVD, comparable with nothing but itself. The bias,
    which falls as 1 / n, is extrapolated away from random halves (as Chong and Forsyth, 2020), so
    that 0, of equal sets, is no bound. The error is the standard error over clips, the scatter of
    the halves. Row i of sets of one size is of one clip; ValueError for under 2 (D + 1) clips.
    """
    needed = 2 * (a.shape[-1] + 1)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < needed:
        wanted = f"[n, D] and [m, D] of {needed} clips or more each"
        raise ValueError(f"features are {a.shape} and {b.shape}, not {wanted}")
    rngs, halves = [np.random.default_rng(0), np.random.default_rng(0)], []
    for _ in range(HALVINGS):
        one, other = (rng.permutation(x) for rng, x in zip(rngs, (a, b), strict=True))
        halves += [_frechet(one[part::2], other[part::2]) for part in range(2)]
    return 2 * _frechet(a, b) - float(np.mean(halves)), float(np.std(halves))


def _frechet(a: Floats, b: Floats) -> float:
    apart, one, other = a.mean(0) - b.mean(0), np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shared = np.sqrt(np.linalg.eigvals(one @ other).real.clip(0)).sum()
    return float(apart @ apart + np.trace(one + other) - 2 * shared)
