"""The recorded benchmark: what is in ``result.json``, checked when written and when read."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import from_json

from vdkit.decode.chunks import ChunkRecord, DecodeConfig
from vdkit.measure.folders import write_atomically
from vdkit.measure.nvml import GpuReading
from vdkit.measure.provenance import Provenance
from vdkit.measure.stats import Ratio, Summary, paired_ratio, summarize

SCHEMA_VERSION = 3
# 1: first.
# 2: provenance has torch_threads and malloc.
# 3: workload has variant and notes, a benchmark setup_s and other_bytes.

_DECIMALS = 9  # of a second; the clocks resolve no finer
_TIMES = tuple(field.name for field in fields(ChunkRecord) if field.name.endswith("_s"))


_Model = TypeVar("_Model", bound=BaseModel)
_Positive = Annotated[int, Field(gt=0)]
_NotNegative = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(ge=0)]

MODE_NAMES = ("diffusers", "sync", "async", "compute")


class Record(BaseModel):
    """Immutable, and strict about what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
    latent_frames: _Positive
    latent_height: _Positive
    latent_width: _Positive
    frames: _Positive
    height: _Positive
    width: _Positive
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
        throttled: a throttle reason was set in either reading.
    """

    mode: str
    round: int
    warmup: bool
    latency_s: float = Field(gt=0)
    ttff_s: _Seconds | None
    sink_open_s: _Seconds | None
    sink_close_s: _Seconds | None
    vram_peak_bytes: _NotNegative | None
    device_mallocs_steady: _NotNegative | None
    pinned_bytes: _NotNegative
    ring_bytes: _NotNegative
    d2h_bytes: _NotNegative
    clock_residual_s: _Seconds
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
        if not isinstance(value, dict) or not all(isinstance(one, list) for one in value.values()):
            return value
        lengths = {name: len(column) for name, column in value.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"chunk columns differ in length: {lengths}")
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]


def _timed(runs: Sequence[Run], mode: str) -> tuple[Run, ...]:
    own = (run for run in runs if run.mode == mode and not run.warmup)
    return tuple(sorted(own, key=lambda run: run.round))


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

    @classmethod
    def of(
        cls, mode: str, baseline: str, runs: Sequence[Run], sha256: str | None, seconds: float
    ) -> Mode:
        """The timed ones of ``runs`` in numbers, for a video of so many seconds."""
        own, base = (_timed(runs, name) for name in (mode, baseline))
        latencies = [run.latency_s for run in own]
        first_frames = [run.ttff_s for run in own if run.ttff_s is not None]
        latency = summarize(latencies)
        return cls(
            frame_sha256=sha256,
            latency_s=latency,
            ttff_s=summarize(first_frames) if first_frames else None,
            rtf=latency.mean / seconds,
            speedup=None
            if mode == baseline
            else paired_ratio([run.latency_s for run in base], latencies),
            vram_peak_bytes=max((run.vram_peak_bytes or 0) for run in own) or None,
            pinned_bytes=max(run.pinned_bytes for run in own),
            d2h_bytes=max(run.d2h_bytes for run in own),
            throttled_runs=sum(run.throttled for run in own),
        )


def comparable(mode: str, frame_sha256: str | None, config: DecodeConfig) -> bool:
    """Whether a mode's frames must equal the other modes' byte for byte."""
    return frame_sha256 is not None and (mode != "diffusers" or config.chunk_size == 1)


def identical(hashes: Mapping[str, str | None], config: DecodeConfig) -> bool | None:
    """Whether the compared modes gave the same bytes; None if fewer than two can be compared.

    diffusers decodes one latent frame per call, so at a larger chunk size its convolutions sum in
    another order and its frames may differ by one uint8 level: there it is not compared.
    """
    compared = [digest for mode, digest in hashes.items() if comparable(mode, digest, config)]
    return len(set(compared)) == 1 if len(compared) > 1 else None


class SinkInfo(Record):
    """Where frames went: kind, file system, whether fsynced, and a throttle in MB/s.

    ``encoder`` is what ``export_to_video`` found on the machine; None for every other kind.
    """

    kind: str
    storage: str | None
    durable: bool = False
    throttle_mb_per_s: float | None = Field(default=None, gt=0)
    encoder: str | None = None


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
    setup_s: _Seconds | None = None
    other_bytes: _NotNegative | None = None

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
        for run in self.runs:
            chunks, size = run.chunks, sum(chunk.d2h_bytes for chunk in run.chunks)
            stops = [0, *(chunk.frame_stop for chunk in chunks)]
            if run.mode not in self.modes or stops[-1] != self.workload.frames:
                raise ValueError(f"a run of mode {run.mode!r} is of another mode or video")
            if [chunk.frame_start for chunk in chunks] != stops[:-1] or size != run.d2h_bytes:
                raise ValueError(f"the chunks of a run of mode {run.mode!r} do not add up to it")
            times = [getattr(chunk, name) for chunk in chunks for name in _TIMES]
            if not all(time is None or -1 <= time <= run.latency_s + 1 for time in times):
                raise ValueError(f"a chunk was at work outside of its run of {run.latency_s} s")
        rounds = [run.round for run in self.timed(self.baseline)]
        for name, given in self.modes.items():
            if [run.round for run in self.timed(name)] != rounds or len({*rounds}) < len(rounds):
                raise ValueError(f"the runs of mode {name!r} are no pairs with the baseline's")
            made = Mode.of(name, name, self.runs, given.frame_sha256, self.workload.seconds)
            if given.speedup is not None and name != self.baseline:  # no bootstrap at each reading
                value = self.modes[self.baseline].latency_s.mean / made.latency_s.mean
                ratio = replace(given.speedup, value=value, pairs=len(rounds))
                made = made.model_copy(update={"speedup": ratio})
            if _differ(given.model_dump(), made.model_dump()):
                raise ValueError(f"the summary of mode {name!r} contradicts its runs")
        hashes = {name: mode.frame_sha256 for name, mode in self.modes.items()}
        if self.frames_identical != identical(hashes, self.config):
            raise ValueError("frames_identical contradicts the hashes of the modes")
        return self

    def timed(self, mode: str) -> tuple[Run, ...]:
        """Timed runs of a mode, by round."""
        return _timed(self.runs, mode)

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


def _differ(a: Any, b: Any) -> bool:
    """Whether two summaries differ by more than the order of a sum."""
    if isinstance(a, dict) and isinstance(b, dict):
        return any(_differ(a[name], b[name]) for name in a)
    if isinstance(a, float) and isinstance(b, float):
        return not math.isclose(a, b, rel_tol=1e-9, abs_tol=10.0**-_DECIMALS)
    return bool(a != b)


def write_result(result: BenchmarkResult, folder: Path) -> Path:
    """Write ``result.json`` into ``folder``; FileExistsError if one is recorded there already."""
    return write_record(result, folder / "result.json")


def write_record(record: BaseModel, path: Path) -> Path:
    """Write ``path`` as one line of JSON; FileExistsError if it is there already."""
    write_atomically(path, record.model_dump_json() + "\n", new=True)
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
        data = from_json(file.read_bytes(), allow_inf_nan=False)
    except OSError as error:
        raise OSError(f"{file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{file} is not JSON, or was cut short: {error}") from error
    found = data.get("schema_version") if isinstance(data, dict) else None
    if type(found) is not int or found < 1:
        raise ValueError(
            f"{file} is not a vdkit result: its schema_version is {found!r}, no number from 1 on"
        )
    if found > version:
        raise ValueError(
            f"{file} has schema version {found}, this vdkit reads up to {version}; update vdkit"
        )
    try:
        return model.model_validate(data)
    except (TypeError, LookupError, ArithmeticError) as error:  # of a check or a constructor
        raise ValueError(f"{file} does not hold a valid result: {error}") from error
    except ValidationError as error:
        first, *more = error.errors(include_url=False)
        where = ".".join(str(part) for part in first["loc"]) or "as a whole"
        also = f" (and {len(more)} more)" if more else ""
        raise ValueError(
            f"{file} does not hold a valid result: {where}: {first['msg']}{also}"
        ) from error
