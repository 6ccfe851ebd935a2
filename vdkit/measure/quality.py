"""What frames are worth: faster or smaller must still be the same picture.

Frames are uint8 RGB, [F, H, W, 3], 0 to 255, of numpy or torch on any device; figures are computed
on the CPU in float64 unless said. Loads no torch, and OpenCV and scikit-image on first use only.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vdkit.record.recording import FileQuality

if TYPE_CHECKING:
    import torch

    Frames = NDArray[np.uint8] | torch.Tensor

Floats = NDArray[np.float64]
PEAK = 255
SSIM_WINDOW = 11  # pixels: a Gaussian of sigma 1.5, cut off at 3.5 sigma
FLOW_MIN_SIDE = 16  # pixels: on smaller frames DIS flow fails, and OpenCV 5.0 may even crash
_BT709 = 1  # of a frame's colorspace
LUMA = np.array([0.299, 0.587, 0.114])  # R'G'B' to Y', ITU-R BT.601, as OpenCV's RGB2GRAY


@dataclass(frozen=True, slots=True, eq=False)
class FrameScores:
    """One score for each frame (float64 [F]) and one for the clip, in the same unit."""

    per_frame: Floats
    clip: float


@dataclass(frozen=True, slots=True, eq=False)
class TemporalConsistency:
    """How steady a clip is, see `temporal_consistency`; a still clip has 0 throughout.

    Attributes, scores of each pair of consecutive frames [F-1] and over all their pixels:
        warp_error: mean over visible pixels and channels of ``|frame[t](x) - frame[t+1](x + f)|``,
            levels (0 to 255); nan where no pixel is visible.
        masked_percent: share of pixels left out, occluded or moved out of the frame.
        flicker_index: levels of Y'; None for a clip of 2 frames.
    """

    warp_error: FrameScores
    masked_percent: FrameScores
    flicker_index: float | None


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One encoding: its size, and its clip's PSNR and SSIM against the reference."""

    name: str
    nbytes: int
    bits_per_pixel: float
    psnr_db: float
    ssim: float


def psnr_db(a: Frames, b: Frames) -> FrameScores:
    """Peak signal-to-noise ratio over peak 255, dB, of the three channels together.

    The clip's value is that of its pooled mean squared error, not a mean of decibels: an equal
    frame (inf) does not hide the others. Errors are summed as integers, exactly.

    Raises:
        ValueError: not uint8 [F, H, W, 3], or unequal shapes.
    """
    one, other = _pair(a, b)
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

    one, other = _pair(a, b)
    _at_least(one, SSIM_WINDOW, "SSIM's window")

    score = partial(
        structural_similarity, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=PEAK, channel_axis=-1,
    )  # fmt: skip
    with ThreadPoolExecutor() as pool:  # the filters release the GIL
        scores = np.array(list(pool.map(score, one, other)))
    return FrameScores(scores, float(scores.mean()))


def temporal_consistency(frames: Frames, flow_from: Frames | None = None) -> TemporalConsistency:
    """What changes from frame to frame and is not motion; lower is steadier.

    Warp error: each frame t+1 is warped back to t (bilinear, float32) by OpenCV's DIS flow (Kroeger
    et al., 2016; preset medium) and compared there, as in Lai et al., "Learning Blind Video
    Temporal Consistency", 2018, but by mean absolute error. Left out are pixels that move out of
    the frame or fail the forward-backward test ``|f + b|^2 <= 0.01 (|f|^2 + |b|^2) + 0.5``
    (Sundaram et al., 2010), with ``b`` the backward flow where ``f`` leads.

    Flicker index: what the brightness of whole frames does that does not come from the scene (van
    Roosmalen, "Restoration of Archived Film and Video", 1999). Motion and fades change a frame's
    mean Y' ``m`` slowly, and the second difference ``d = m[t-1] - 2 m[t] + m[t+1]`` takes that
    away; of independent deviations it has 6 times their variance, so ``sqrt(mean(d^2) / 6)`` is
    their standard deviation (Gasser, Sroka and Jennen-Steinmetz, 1986). 0 for a linear fade; a cut
    counts, so give one shot. Flicker that leaves the mean alone shows in the warp error.

    Args:
        flow_from: the clip to take the flow from, ``frames`` by default. To rank decoders give all
            the same one, so that motion and mask are the same.

    Raises:
        ValueError: not uint8 [F, H, W, 3], unequal shapes, one frame, or under `FLOW_MIN_SIDE`.
    """
    import cv2

    clip, guide = _pair(frames, frames if flow_from is None else flow_from, "frames", "flow_from")
    count, height, width = clip.shape[:3]
    if count < 2:
        raise ValueError("change in time needs at least 2 frames, got 1; decode more latent frames")
    _at_least(clip, FLOW_MIN_SIDE, "optical flow")
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in guide]
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    errors, visible = np.zeros(count - 1), np.zeros(count - 1)
    for t in range(count - 1):
        forward = dis.calc(gray[t], gray[t + 1], None)
        target = grid + forward
        back = cv2.remap(dis.calc(gray[t + 1], gray[t], None), target, None, cv2.INTER_LINEAR)
        slack = 0.01 * ((forward**2).sum(-1) + (back**2).sum(-1)) + 0.5
        inside = ((target >= 0) & (target <= (width - 1, height - 1))).all(-1)
        seen = inside & (((forward + back) ** 2).sum(-1) <= slack)
        warped = cv2.remap(clip[t + 1].astype(np.float32), target, None, cv2.INTER_LINEAR)
        error = np.abs(clip[t] - warped)[seen].mean(axis=-1, dtype=np.float64)
        errors[t], visible[t] = error.sum(), error.size
    masked = 100 * (1 - visible / (height * width))
    with np.errstate(invalid="ignore"):
        warp_error = FrameScores(errors / visible, float(errors.sum() / visible.sum()))
    changes = np.diff(clip.mean(axis=(1, 2), dtype=np.float64) @ LUMA, 2)
    flicker = float(np.sqrt(np.mean(changes**2) / 6)) if changes.size else None
    return TemporalConsistency(warp_error, FrameScores(masked, float(masked.mean())), flicker)


def quality_against_bytes(
    reference: Frames, encodings: Mapping[str, tuple[Frames, int]]
) -> list[QualityRow]:
    """What bytes buy: ``encodings``, name to (frames decoded again, bytes), the smallest first.

    Raises:
        ValueError: as of `ssim`, naming the encoding; none given; or a size that is not above 0.
    """
    if not encodings:
        raise ValueError("no encodings to compare; give at least one: {name: (frames, bytes)}")
    rows = []
    for name, (frames, nbytes) in encodings.items():
        if nbytes <= 0:
            raise ValueError(f"{name} has {nbytes} bytes; give the size of what was encoded")
        one, other = _pair(reference, frames, "reference", name)
        scores = psnr_db(one, other).clip, ssim(one, other).clip
        rows.append(QualityRow(name, nbytes, 8 * nbytes / (one.size // 3), *scores))
    return sorted(rows, key=lambda row: (row.nbytes, row.name))


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


def _at_least(clip: NDArray[np.uint8], side: int, what: str) -> None:
    if min(clip.shape[1:3]) < side:
        raise ValueError(
            f"frames of {clip.shape[2]} x {clip.shape[1]} pixels are too small for {what}, which "
            f"needs {side} x {side}; decode a larger video (psnr_db takes any size)"
        )


def _frames(value: Any, name: str) -> NDArray[np.uint8]:
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


def _pair(a: Any, b: Any, first: str = "a", second: str = "b") -> Any:
    one, other = _frames(a, first), _frames(b, second)
    if one.shape != other.shape:
        raise ValueError(
            f"{first} has shape {one.shape} and {second} {other.shape}; only equal shapes compare: "
            "cut or decode both to the same size"
        )
    return one, other
