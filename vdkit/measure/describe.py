"""What a run decoded and how it went, as records: shared by benchmark and profile."""

from __future__ import annotations

import time
import warnings
from fractions import Fraction
from typing import TYPE_CHECKING

from vdkit.decode.chunks import DecodeResult, exact_fps, pixel_frames
from vdkit.measure.nvml import GpuReading, Nvml
from vdkit.measure.provenance import gpu_uuid, tensor_sha256
from vdkit.measure.records import Run, Workload

if TYPE_CHECKING:
    import torch

    from vdkit.decode.protocols import ChunkDecoder


def describe_workload(
    decoder: ChunkDecoder,
    latents: torch.Tensor,
    fps: int | float | str | Fraction,
    source: str | None,
    latents_source: str,
    seed: int,
) -> Workload:
    """What is decoded; ``latents`` are [1, C, T, h, w], checked already."""
    _, _, frames, height, width = latents.shape
    weights = getattr(decoder, "weights_sha256", None)
    return Workload(
        decoder=decoder.name,
        source=source or decoder.name,
        dtype=str(decoder.dtype).removeprefix("torch."),
        weights_sha256=weights() if weights is not None else None,
        latents=latents_source,
        latents_sha256=tensor_sha256(latents),
        seed=seed,
        latent_frames=frames,
        latent_height=height,
        latent_width=width,
        frames=pixel_frames(frames, decoder.temporal_factor),
        height=height * decoder.spatial_factor,
        width=width * decoder.spatial_factor,
        fps=float(exact_fps(fps)),
        variant=getattr(decoder, "variant", "diffusers"),
        notes=tuple(getattr(decoder, "notes", ())),
    )


def prepare(decoder: ChunkDecoder, latents: torch.Tensor, chunk_size: int) -> float:
    """Let the decoder do its one-time work for these latents and chunks, if it has any; s."""
    work = getattr(decoder, "prepare", None)
    if work is None:
        return 0.0
    begun = time.perf_counter()
    work(*latents.shape[-2:], chunk_size)
    return time.perf_counter() - begun


def as_run(
    done: DecodeResult,
    number: int,
    before: GpuReading | None = None,
    after: GpuReading | None = None,
) -> Run:
    """A finished decode as a record; ``number`` is its round, below 0 for a warm-up."""
    return Run(
        mode=done.mode,
        round=number,
        warmup=number < 0,
        latency_s=done.latency_s,
        ttff_s=done.ttff_s,
        sink_open_s=done.sink_open_s,
        sink_close_s=done.sink_close_s,
        vram_peak_bytes=done.vram_peak_bytes,
        device_mallocs_steady=done.device_mallocs_steady,
        pinned_bytes=done.pinned_bytes,
        ring_bytes=done.ring_bytes,
        d2h_bytes=done.d2h_bytes,
        clock_residual_s=done.clock_residual_s,
        gpu_before=before,
        gpu_after=after,
        throttled=any(
            reading is not None and reading.throttle_reasons for reading in (before, after)
        ),
        chunks=done.chunks,
    )


def open_nvml(device: torch.device) -> Nvml | None:
    """NVML on ``device``; None on a CPU, and with a warning where NVML does not answer."""
    uuid = gpu_uuid(device)
    if uuid is None:
        return None
    try:
        return Nvml(uuid)
    except (RuntimeError, ImportError) as error:
        warnings.warn(f"clocks and throttling are not recorded: {error}", stacklevel=3)
        return None
