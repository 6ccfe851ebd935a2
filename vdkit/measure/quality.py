"""What frames are worth: faster or smaller must still be the same picture.

Frames are uint8 RGB, [F, H, W, 3], 0 to 255, of numpy or torch on any device; figures are computed
on the CPU in float64. Loads no torch, and scikit-image on first use only.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vdkit.record.recording import FileQuality

if TYPE_CHECKING:
    import torch

Frames: TypeAlias = "NDArray[np.uint8] | torch.Tensor"
Floats = NDArray[np.float64]
PEAK = 255
SSIM_WINDOW = 11  # pixels: a Gaussian of sigma 1.5, cut off at 3.5 sigma
_BT709 = 1  # of a frame's colorspace


@dataclass(frozen=True, slots=True, eq=False)
class FrameScores:
    """One score for each frame (float64 [F]) and one for the clip, in the same unit."""

    per_frame: Floats
    clip: float


def psnr_db(a: Frames, b: Frames) -> FrameScores:
    """Peak signal-to-noise ratio over peak 255, dB, of the three channels together.

    The clip's value is that of its pooled mean squared error, not a mean of decibels: an equal
    frame (inf) does not hide the others. Errors are summed as integers, exactly.

    Raises:
        ValueError: not uint8 [F, H, W, 3], or unequal shapes.
    """
    one, other = frame_pair(a, b)
    errors = (np.subtract(x, y, dtype=np.int32) for x, y in zip(one, other, strict=True))
    squares = [np.vdot(error, error.astype(np.int64)) / error.size for error in errors]
    pooled = np.array([*squares, np.mean(squares)])  # all frames have one size
    with np.errstate(divide="ignore"):
        found = 20 * np.log10(PEAK) - 10 * np.log10(pooled)
    return FrameScores(found[:-1], float(found[-1]))


def ssim(a: Frames, b: Frames) -> FrameScores:
    """Structural similarity (Wang et al., 2004), -1 to 1, 1 for equal frames; scikit-image's.

    The parameters of the paper: Gaussian window of 11 x 11, sigma 1.5, K1 0.01, K2 0.03,
    population covariance, range 255. R, G and B are scored apart and averaged (the paper scores
    gray images). A frame's value is the mean over windows inside it, the clip's over frames.

    Raises:
        ValueError: not uint8 [F, H, W, 3], unequal shapes, or frames smaller than the window.
    """
    from skimage.metrics import structural_similarity

    one, other = frame_pair(a, b)
    at_least(one, SSIM_WINDOW, "SSIM's window")

    score = partial(
        structural_similarity, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=PEAK, channel_axis=-1,
    )  # fmt: skip
    with ThreadPoolExecutor() as pool:  # the filters release the GIL
        scores = np.array(list(pool.map(score, one, other)))
    return FrameScores(scores, float(scores.mean()))


def flip(a: Frames, b: Frames) -> FrameScores:
    """What a viewer sees who flips between two pictures, 0 (nothing) to 1; lower is nearer.

    LDR-FLIP (Andersson et al., 2020) by the package flip-evaluator, at its usual 67 pixels per
    degree of visual angle: the mean over pixels, and a clip's over frames. Errors as `psnr_db`, and
    ModuleNotFoundError where the package is not installed.
    """
    pairs = zip(*(clip.astype(np.float32) / PEAK for clip in frame_pair(a, b)), strict=True)
    try:
        from flip_evaluator import evaluate
    except ModuleNotFoundError as error:
        remedy = "pip install -c constraints.txt flip-evaluator"
        raise ModuleNotFoundError(f"FLIP needs the package flip-evaluator: {remedy}") from error
    scores = np.array([evaluate(*pair, "LDR", applyMagma=False)[1] for pair in pairs], float)
    return FrameScores(scores, float(scores.mean()))


def file_quality(path: Path, sample: Mapping[int, NDArray[np.uint8]]) -> FileQuality:
    """Of a video file, against frames [H, W, 3] that went into it, by their number.

    Converted back by the matrix that the file names, BT.601 if none, as players do.
    """
    import av

    nbytes, pairs = path.stat().st_size, []
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in sample:
                matrix = "ITU709" if frame.colorspace == _BT709 else "ITU601"
                rgb = frame.reformat(format="rgb24", src_colorspace=matrix).to_ndarray()
                pairs.append((sample[index], rgb))
    if not pairs or any(one.shape != other.shape for one, other in pairs):
        return FileQuality(bytes=nbytes)
    given, found = (np.stack(part) for part in zip(*pairs, strict=True))
    small = min(given.shape[1:3]) < SSIM_WINDOW
    return FileQuality(
        bytes=nbytes, frames=len(pairs), error=10 ** (-psnr_db(given, found).clip / 10),
        ssim=None if small else ssim(given, found).clip,
    )  # fmt: skip


def at_least(clip: NDArray[np.uint8], side: int, what: str, frames: int = 1) -> None:
    """ValueError for fewer ``frames`` or smaller ones than ``what`` needs."""
    count, height, width = clip.shape[:3]
    if min(height, width) < side or count < frames:
        raise ValueError(
            f"{count} frames of {width} x {height} pixels are too small or too few for {what}, "
            f"which needs {frames} of {side} x {side}; decode a larger or longer video"
        )


def as_frames(value: Any, name: str) -> NDArray[np.uint8]:
    """As a uint8 array [F, H, W, 3] on the CPU; ValueError, naming it, if it is none."""
    dtype = getattr(value, "dtype", None)
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.double() if value.is_floating_point() else value  # numpy has no bfloat16
    array = np.asarray(value)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or array.size == 0:
        raise ValueError(
            f"{name} is {dtype or array.dtype} {list(array.shape)}, not uint8 [F, H, W, 3]; scale "
            "to 0 to 255, clip and round, move channels last, and give a single frame as "
            "frame[None]"
        )
    return array


def frame_pair(a: Any, b: Any) -> Any:
    """Both as uint8 arrays [F, H, W, 3] of one shape; ValueError if they are not."""
    one, other = as_frames(a, "a"), as_frames(b, "b")
    if one.shape != other.shape:
        raise ValueError(
            f"a has shape {one.shape} and b {other.shape}; only equal shapes compare: "
            "cut or decode both to the same size"
        )
    return one, other
