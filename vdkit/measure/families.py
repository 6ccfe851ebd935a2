"""Kernels by family, from their names: what a faster decoder would remove."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from vdkit.measure.timeline import COMMUNICATION, KERNEL, Timeline
from vdkit.measure.windows import chunk_starts, find_windows

# First match wins. The division and the scaling of an unfused norm are elementwise kernels.
# torch.compile's kernels are named after all that they fuse, a convolution's bias among it.
FAMILIES = (
    ("communication", r"\b(nccl|rccl|msccl)|nvshmem|cross_device_reduce"),
    ("matrix multiply", r"Cijk_"),
    ("elementwise", r"^triton_poi_"),
    ("normalization", r"^triton_(red|per)_"),
    ("layout conversion", r"nchwToNhwc|nhwcToNchw|nchw2nhwc|nhwc2nchw|transpose"),
    (
        "convolution",
        r"conv(?!e)|fprop|dgrad|wgrad|implicit_gemm|igemm_(?:fwd|bwd|wrw)|winograd|\dcudnn|scudnn",
    ),
    ("matrix multiply", r"(?<!fb)gemm|nvjet|cutlass|cublas|fmha|flash|attention|matmul"),
    ("normalization", r"norm|welford|rsqrt"),
    (
        "copy, cat, pad, cast",
        r"copy_kernel|CatArray|FillFunctor|_pad|convert|gather(?!TopK)|index_?select|"
        r"(?<!rotary)(?<!rotary_)embedding",
    ),
    ("upsampling", r"upsample|interpolate"),
    ("elementwise", r"elementwise|silu|clamp"),
)
_FAMILIES = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in FAMILIES)


@dataclass(frozen=True, slots=True)
class Family:
    """Kernels of one kind: how many, seconds summed, share of all kernel time in percent."""

    name: str
    kernels: int
    seconds: float
    percent: float


def family_of(kernel: str) -> str:
    """The family of a kernel by its name; ``other`` if no rule fits."""
    return next((name for name, rule in _FAMILIES if rule.search(kernel)), "other")


@dataclass(frozen=True, slots=True)
class Share:
    """A family over the steady window: its kernels, and their ms per latent frame decoded in it."""

    family: Family
    ms_per_latent_frame: float


def kernel_families(
    timeline: Timeline, window: tuple[int, int] | None = None
) -> tuple[Family, ...]:
    """Kernel time by family, largest first.

    Args:
        timeline: with kernels, of compute or communication; without any the answer is empty.
        window: only kernels that start in it, (start, stop) in ns; None: the whole trace.
    """
    kernels = timeline.gpu.of(KERNEL, COMMUNICATION)
    if window is not None:
        kernels = kernels.where((kernels.start_ns >= window[0]) & (kernels.start_ns < window[1]))
    if not len(kernels):
        return ()
    seconds: dict[str, float] = {}
    counts: dict[str, int] = {}
    spent = np.bincount(kernels.name, (kernels.stop_ns - kernels.start_ns) / 1e9)
    often = np.bincount(kernels.name)
    for index in np.flatnonzero(often).tolist():
        family = family_of(timeline.names[index])
        seconds[family] = seconds.get(family, 0.0) + float(spent[index])
        counts[family] = counts.get(family, 0) + int(often[index])
    total = sum(seconds.values())
    order = sorted(seconds, key=lambda name: -seconds[name])
    return tuple(
        Family(name, counts[name], seconds[name], 100 * seconds[name] / total) for name in order
    )


def steady_families(timeline: Timeline) -> tuple[Share, ...]:
    """`kernel_families` of window ``steady``; empty for a run too short to have one."""
    if timeline.run is None or "steady" not in (windows := find_windows(timeline)):
        return ()
    start, stop = windows["steady"]
    latent_frames = sum(
        chunk.latent_stop - chunk.latent_start
        for chunk, begun in zip(timeline.run.chunks, chunk_starts(timeline), strict=True)
        if start <= begun < stop
    )
    return tuple(
        Share(family, 1e3 * family.seconds / latent_frames)
        for family in kernel_families(timeline, (start, stop))
    )
