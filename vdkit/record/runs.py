"""One run and what it decoded, checked when written and when read: what recordings are made of."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

from vdkit.decode.chunks import ChunkRecord
from vdkit.record.machine import GpuReading

MODES = ("diffusers", "sync", "async", "compute_only")
"""Every decode path by the name that options, records and tables use."""

CHUNK_TIMES = tuple(field.name for field in fields(ChunkRecord) if field.name.endswith("_s"))
DECIMALS = 9  # of a second; the clocks resolve no finer

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class Record(BaseModel):
    """Immutable, and strict about what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def model_copy(self, **given: Any) -> Self:
        """A changed copy, which derives anew what this one has derived and kept."""
        copied = super().model_copy(**given)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


class Workload(Record):
    """What was decoded.

    Attributes:
        decoder, source, dtype: name in records, what was loaded, arithmetic.
        weights_sha256: None for a decoder that cannot tell.
        latents, latents_sha256, seed: where the latents came from, and their bytes.
        latent_frames, latent_height, latent_width: their size.
        frames, height, width, fps: of the video, in pixels and frames per second.
        variant: the way the weights are run, as the decoder calls it.
        notes: what else the decoder says of itself, e.g. what it had to do without.
    """

    decoder: str
    source: str
    dtype: str
    weights_sha256: str | None
    latents: str
    latents_sha256: str
    seed: int
    latent_frames: Positive
    latent_height: Positive
    latent_width: Positive
    frames: Positive
    height: Positive
    width: Positive
    fps: float = Field(gt=0)
    variant: str = "diffusers"
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Playing time, s."""
        return self.frames / self.fps


class Run(Record):
    """One run of one mode. Seconds are wall clock; see `vdkit.decode.chunks.DecodeResult`.

    Attributes:
        round: of the interleaving; runs of one round are a pair.
        warmup: kept, but in no statistic.
        gpu_before, gpu_after: NVML readings around the run; None without a GPU.
        gpu_during: means over the run, and every throttle reason that was set in it; None without a
            GPU and in records before schema 6.
        throttled: a throttle reason was set during the run, or right after one too short for a
            reading (before schema 6: before or after it).
    """

    mode: str
    round: int
    warmup: bool
    latency_s: float = Field(gt=0)
    ttff_s: Seconds | None
    sink_open_s: Seconds | None
    sink_close_s: Seconds | None
    vram_peak_bytes: NotNegative | None
    device_mallocs_steady: NotNegative | None
    pinned_bytes: NotNegative
    ring_bytes: NotNegative
    d2h_bytes: NotNegative
    clock_residual_s: Seconds
    gpu_before: GpuReading | None
    gpu_after: GpuReading | None
    gpu_during: GpuReading | None = None
    throttled: bool
    chunks: tuple[ChunkRecord, ...]

    @field_serializer("chunks")
    def _columns(self, chunks: tuple[ChunkRecord, ...]) -> dict[str, list[Any]]:
        """By column: a third of the size, and it opens as a data frame."""
        rows = [asdict(chunk) for chunk in chunks]
        return {
            field.name: [
                round(value, DECIMALS) if isinstance(value := row[field.name], float) else value
                for row in rows
            ]
            for field in fields(ChunkRecord)
        }

    @field_validator("chunks", mode="before")
    @classmethod
    def _rows(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not all(isinstance(one, list) for one in value.values()):
            return value
        lengths = {name: len(column) for name, column in value.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"chunk columns differ in length: {lengths}")
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]


class SinkInfo(Record):
    """Where frames went: kind, file system, whether fsynced, and a throttle in MB/s.

    ``encoder`` is what ``export_to_video`` found on the machine; None for every other kind.
    """

    kind: str
    storage: str | None
    durable: bool = False
    throttle_mb_per_s: float | None = Field(default=None, gt=0)
    encoder: str | None = None
