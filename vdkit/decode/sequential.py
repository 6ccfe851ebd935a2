"""The decode paths that do one thing after another: what people have today, and the floor.

`decode_diffusers` is what a diffusers user writes, `decode_sync` the published chunked baseline,
and `compute_only` the floor that `vdkit.decode.pipelined.decode_async` is held against. They leave
the same records as `decode_async`, so that all can be laid side by side.
"""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from vdkit.decode.chunks import Chunk, DecodeConfig, DecodeResult
from vdkit.decode.engines import on_device
from vdkit.decode.job import Job
from vdkit.decode.pixels import frames_to_uint8
from vdkit.decode.protocols import (
    ChunkDecoder,
    Progress,
    Sink,
    WholeVideoDecoder,
    require,
    wants_float,
)

if TYPE_CHECKING:
    import numpy as np


@torch.inference_mode()
def decode_diffusers(
    decoder: WholeVideoDecoder,
    latents: torch.Tensor,
    sink: Sink,
    *,
    fps: int | float | str | Fraction = 16,
    config: DecodeConfig = DecodeConfig(),
    progress: Progress = True,
    cancel: threading.Event | None = None,
    allow_nonfinite: bool = False,
) -> DecodeResult:
    """Decode as a diffusers user does: whole video, VideoProcessor to numpy, uint8, write.

    As in diffusers' pipelines VideoProcessor gets the frames on the device and copies them itself,
    so that the copy is a part of ``convert`` in the record. They are made float32 before and not
    after, so that the bytes equal those of the other paths. As in diffusers' ``export_to_video``
    all frames become uint8 one by one, then all are written (but rounded, where that truncates).
    A sink that ``wants_float`` gets VideoProcessor's frames as they are. The record holds one
    chunk, the whole video. ``cancel`` is looked at before each latent frame.
    Arguments, result and errors are those of `decode_async`; ``config`` is recorded but not read.

    Raises:
        TypeError: the decoder cannot decode a whole video (it has no ``decode_video`` and
            ``to_numpy``).
    """
    job = Job("diffusers", decoder, latents, sink, fps, config, progress, cancel, allow_nonfinite)
    job.chunks = (Chunk(0, 0, job.chunks[-1].latent_stop, 0, job.info.frames),)
    frames = exact = video = None
    with job, on_device(decoder.device):
        try:
            require(decoder, "WholeVideoDecoder", ("decode_video", "to_numpy"))
            job.open_sink()
            for chunk, record in job.steps():
                with job.launch(record):
                    with job.signals:
                        frames = decoder.decode_video(job.take_latents(), lambda _: job.check())
                    job.check_frames(frames, chunk.frames)
                job.check()
                record.convert_start_s = job.now()
                exact, frames = frames.float(), None
                record.d2h_bytes = exact.nbytes
                with job.range("convert", 0), job.signals:
                    video = decoder.to_numpy(exact)
                    exact = None
                    if not wants_float(sink):
                        video = _rounded(video)
                record.convert_done_s = job.now()
                job.write(record, video)
            job.close_sink()
            job.finish()
            return job.result()
        finally:
            frames = exact = video = None


def _rounded(video: np.ndarray) -> np.ndarray:
    """float [F, H, W, 3] in [0, 1], in any order, to uint8 in C order, frame by frame."""
    pixels = torch.empty(video.shape, dtype=torch.uint8).numpy()
    for frame, out in zip(video, pixels, strict=True):
        out[...] = (frame * 255).round()  # in [0, 255], so the cast is exact
    return pixels


@torch.inference_mode()
def decode_sync(
    decoder: ChunkDecoder,
    latents: torch.Tensor,
    sink: Sink,
    *,
    fps: int | float | str | Fraction = 16,
    config: DecodeConfig = DecodeConfig(),
    progress: Progress = True,
    cancel: threading.Event | None = None,
    allow_nonfinite: bool = False,
) -> DecodeResult:
    """Decode chunk by chunk, one step after the other: the published baseline.

    Each chunk is decoded, its full-precision frames are copied to pageable host memory while the
    host waits, converted to uint8 on the host and written. With ``sync_uint8_on_gpu`` the frames
    become uint8 on the device, as in `decode_async`, and one byte per value is copied; the record
    then has no ``convert``. Of ``config`` only these two, ``chunk_size`` and
    ``sync_uint8_on_gpu``, count. Arguments, result and errors are those of `decode_async`.
    """
    job = Job("sync", decoder, latents, sink, fps, config, progress, cancel, allow_nonfinite)
    engine = job.engine
    frames = host = pixels = state = None
    with job, on_device(decoder.device):
        try:
            job.open_sink()
            state = job.begin()
            for chunk, record in job.steps():
                with job.launch(record):
                    if config.sync_uint8_on_gpu:
                        shape = (chunk.frames, job.info.height, job.info.width, 3)
                        frames = torch.empty(shape, dtype=torch.uint8, device=decoder.device)
                        job.decode_uint8(state, chunk, frames)
                    else:
                        frames = job.decode(state, chunk)
                copy_start = engine.mark("compute")
                with job.range("copy", chunk.index):
                    host = frames.to("cpu", copy=True)
                job.marks[-1] |= {"copy_start_s": copy_start, "copy_done_s": engine.mark("compute")}
                record.d2h_bytes = host.nbytes
                frames = None
                pixels = host
                if not config.sync_uint8_on_gpu:
                    record.convert_start_s = job.now()
                    with job.range("convert", chunk.index):
                        pixels = frames_to_uint8(host)
                    record.convert_done_s = job.now()
                job.write(record, pixels.numpy())
            job.close_sink()
            job.finish()
            return job.result()
        finally:
            frames = host = pixels = state = None


@torch.inference_mode()
def compute_only(
    decoder: ChunkDecoder,
    latents: torch.Tensor,
    sink: Sink | None = None,
    *,
    fps: int | float | str | Fraction = 16,
    config: DecodeConfig = DecodeConfig(),
    progress: Progress = True,
    cancel: threading.Event | None = None,
    allow_nonfinite: bool = False,
) -> DecodeResult:
    """Decode and convert on the device, copy nothing, write nothing: the floor for `decode_async`.

    ``sink`` is accepted so that all paths are called alike; it is never opened. Of ``config`` only
    ``chunk_size`` counts. Arguments, result and errors are otherwise those of `decode_async`.
    """
    job = Job(
        "compute_only", decoder, latents, None, fps, config, progress, cancel, allow_nonfinite
    )
    state = out = None
    with job, on_device(decoder.device):
        try:
            most = max(chunk.frames for chunk in job.chunks)
            out = torch.empty(
                (most, job.info.height, job.info.width, 3), dtype=torch.uint8, device=decoder.device
            )
            state = job.begin()
            for chunk, record in job.steps():
                job.wait_for_launched()
                with job.launch(record):
                    job.decode_uint8(state, chunk, out[: chunk.frames])
                job.frames_done = chunk.frame_stop
            job.finish()
            job.check_finite()
            return job.result(ring_bytes=out.nbytes)
        finally:
            state = out = None
