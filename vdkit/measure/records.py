"""The recorded benchmark: what is in ``result.json``, checked when written and when read."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from vdkit.decode.chunks import ChunkRecord, DecodeConfig
from vdkit.measure.nvml import GpuReading
from vdkit.measure.provenance import Provenance
from vdkit.measure.stats import Ratio, Summary

SCHEMA_VERSION = 3
# 1: first.
# 2: provenance has torch_threads and malloc.
# 3: workload has variant and notes, a benchmark setup_s and other_bytes.

_DECIMALS = 9  # of a second; the clocks resolve no finer


_Model = TypeVar("_Model", bound=BaseModel)

MODE_NAMES = ("diffusers", "sync", "async", "compute")


class Record(BaseModel):
    """Immutable, and strict about what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
    latent_frames: int
    latent_height: int
    latent_width: int
    frames: int
    height: int
    width: int
    fps: float
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
        throttled: a throttle reason was set in either reading.
    """

    mode: str
    round: int
    warmup: bool
    latency_s: float
    ttff_s: float | None
    sink_open_s: float | None
    sink_close_s: float | None
    vram_peak_bytes: int | None
    device_mallocs_steady: int | None
    pinned_bytes: int
    ring_bytes: int
    d2h_bytes: int
    clock_residual_s: float
    gpu_before: GpuReading | None
    gpu_after: GpuReading | None
    throttled: bool
    chunks: tuple[ChunkRecord, ...]

    @field_serializer("chunks")
    def _columns(self, chunks: tuple[ChunkRecord, ...]) -> dict[str, list[Any]]:
        """By column: a third of the size, and it opens as a data frame."""
        rows = [asdict(chunk) for chunk in chunks]
        return {
            field.name: [
                round(value, _DECIMALS) if isinstance(value := row[field.name], float) else value
                for row in rows
            ]
            for field in fields(ChunkRecord)
        }

    @field_validator("chunks", mode="before")
    @classmethod
    def _rows(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        lengths = {name: len(column) for name, column in value.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"chunk columns differ in length: {lengths}")
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]


class Mode(Record):
    """All timed runs of one mode, in numbers.

    Attributes:
        frame_sha256: of all frames, from an untimed run; None where no frames leave the GPU.
        latency_s, ttff_s: summaries of the timed runs.
        rtf: mean latency over playing time.
        speedup: baseline over this mode, paired by round; None for the baseline itself.
        vram_peak_bytes, pinned_bytes, d2h_bytes: largest over the timed runs.
        throttled_runs: timed runs with a throttle reason.
    """

    frame_sha256: str | None
    latency_s: Summary
    ttff_s: Summary | None
    rtf: float
    speedup: Ratio | None
    vram_peak_bytes: int | None
    pinned_bytes: int
    d2h_bytes: int
    throttled_runs: int


def comparable(mode: str, frame_sha256: str | None, config: DecodeConfig) -> bool:
    """Whether a mode's frames must equal the other modes' byte for byte."""
    return frame_sha256 is not None and (mode != "diffusers" or config.chunk_size == 1)


class SinkInfo(Record):
    """Where frames went: kind, file system, whether fsynced, and a throttle in MB/s."""

    kind: str
    storage: str | None
    durable: bool = False
    throttle_mb_per_s: float | None = None


class BenchmarkResult(Record):
    """One benchmark: the question, the machine, every raw value, and the answer.

    Attributes:
        setup_s: to load the decoder and to prepare it, outside all runs; None: not measured.
        other_bytes: device bytes that others, such as other variants, held meanwhile, so that
            ``vram_peak_bytes - other_bytes`` is this decoder alone; None on a CPU.
    """

    schema_version: int = SCHEMA_VERSION
    label: str
    command: str | None
    provenance: Provenance
    workload: Workload
    config: DecodeConfig
    sink: SinkInfo
    baseline: str
    frames_identical: bool | None
    modes: dict[str, Mode]
    runs: tuple[Run, ...]
    setup_s: float | None = None
    other_bytes: int | None = None

    @model_validator(mode="after")
    def _whole(self) -> BenchmarkResult:
        if not self.modes or self.baseline not in self.modes:
            raise ValueError(
                f"baseline {self.baseline!r} is not among the modes {list(self.modes)}"
            )
        for mode in self.modes:
            if mode not in MODE_NAMES:
                raise ValueError(f"mode {mode!r} is unknown; known are {', '.join(MODE_NAMES)}")
            if not self.timed(mode):
                raise ValueError(f"mode {mode!r} has no timed run")
        return self

    def timed(self, mode: str) -> tuple[Run, ...]:
        """Timed runs of a mode, by round."""
        runs = (run for run in self.runs if run.mode == mode and not run.warmup)
        return tuple(sorted(runs, key=lambda run: run.round))

    def latencies(self, mode: str) -> list[float]:
        """Latency of the timed runs of a mode, by round, s: pairs up with any other mode's."""
        return [run.latency_s for run in self.timed(mode)]

    def typical(self, mode: str) -> Run:
        """The timed run nearest to the mode's median latency: the one to draw."""
        median = self.modes[mode].latency_s.median
        return min(self.timed(mode), key=lambda run: abs(run.latency_s - median))

    def summary(self) -> dict[str, Any]:
        """The answer without the raw values, for one line of JSON."""
        return self.model_dump(mode="json", exclude={"runs"})


def write_atomically(path: Path, text: str) -> None:
    """Write under a temporary name, then rename, so that a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_text(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_result(result: BenchmarkResult, folder: Path) -> Path:
    """Write ``result.json`` into ``folder``; a recorded result is never overwritten.

    Raises:
        FileExistsError: there is one already.
    """
    return write_record(result, folder / "result.json")


def write_record(record: BaseModel, path: Path) -> Path:
    """Write ``path`` as one line of JSON; FileExistsError if it is there already."""
    if path.exists():
        raise FileExistsError(f"{path} is recorded already; results are append-only")
    write_atomically(path, record.model_dump_json() + "\n")
    return path


def read_result(path: str | os.PathLike[str]) -> BenchmarkResult:
    """Read ``result.json``, or the one in a folder.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not a vdkit result, damaged, or written by a newer vdkit; names the file.
    """
    return read_record(Path(path), "result.json", BenchmarkResult, SCHEMA_VERSION)


def read_record(path: Path, name: str, model: type[_Model], version: int) -> _Model:
    """Read and validate ``path``, or the file ``name`` in the folder ``path``.

    Raises: as `read_result`; ``version`` is the newest schema that ``model`` reads.
    """
    file = path / name if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no result at {file}")
    try:
        data = json.loads(file.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not JSON, or was cut short: {error}") from error
    found = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(found, int):
        raise ValueError(f"{file} is not a vdkit result: it has no schema_version")
    if found > version:
        raise ValueError(
            f"{file} has schema version {found}, this vdkit reads up to {version}; update vdkit"
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first, *more = error.errors(include_url=False)
        where = ".".join(str(part) for part in first["loc"]) or "as a whole"
        also = f" (and {len(more)} more)" if more else ""
        raise ValueError(
            f"{file} does not hold a valid result: {where}: {first['msg']}{also}"
        ) from error
