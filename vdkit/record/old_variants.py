"""What a run of several variants records: an index, and a `BenchmarkResult` of each. No torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vdkit.decode.chunks import FIRST_STEADY_CHUNK
from vdkit.record.machine import Provenance
from vdkit.record.recording import (
    BenchmarkResult,
    Mode,
    Record,
    Run,
    read_record,
    read_result,
    write_record,
)
from vdkit.record.stats import Ratio, paired_ratio

_Peak = TypeVar("_Peak", Run, Mode)

SCHEMA_VERSION = 1
# 1: first.

INDEX = "variants.json"


def variant_file(variant: str) -> str:
    """Name of the file with a variant's runs."""
    return f"result_{variant}.json"


class VariantsIndex(Record):
    """What was run side by side.

    Attributes:
        variants: in order of the table.
        baseline: the variant that speed-ups are against.
        skipped: variant to the modes that it cannot run.
        psnr_db: variant to the PSNR of its uint8 frames against diffusers' in float32; None
            if they are equal; empty if that was not asked for.
        psnr_latent_frames: of the beginning of the video, which were compared.
    """

    schema_version: int = SCHEMA_VERSION
    label: str
    command: str | None
    provenance: Provenance
    variants: tuple[str, ...]
    baseline: str
    skipped: dict[str, tuple[str, ...]]
    psnr_db: dict[str, float | None]
    psnr_latent_frames: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Variants of one decoder, run in turns: round i of any two is a pair."""

    index: VariantsIndex
    results: Mapping[str, BenchmarkResult]

    @property
    def baseline(self) -> BenchmarkResult:
        """The variant that the others are compared with."""
        return self.results[self.index.baseline]

    def ratio(self, over: tuple[str, str], under: tuple[str, str]) -> Ratio | None:
        """Latency of one (variant, mode) over another's, by round; None if one did not run."""
        for variant, mode in (over, under):
            if variant not in self.results or mode not in self.results[variant].modes:
                return None
        top, bottom = (self.results[name].latencies(mode) for name, mode in (over, under))
        return paired_ratio(top, bottom)


def ms_per_latent_frame(result: BenchmarkResult, mode: str = "compute") -> float | None:
    """Decode time of the steady chunks by latent frame, mean of the timed runs.

    From the end of one chunk's decode to the end of the next's, where nothing but decoding happens.
    None if the mode did not run, or the video has no steady chunk.
    """
    known = latent_frame_ms(result, mode)
    return math.fsum(known) / len(known) if known else None


def latent_frame_ms(result: BenchmarkResult, mode: str = "compute") -> list[float]:
    """What `ms_per_latent_frame` is the mean of, by run."""
    runs = result.timed(mode) if mode in result.modes else ()
    taken = [_steady_ms(run, result.config.chunk_size) for run in runs]
    return [value for value in taken if value is not None]


def _steady_ms(run: Run, chunk_size: int) -> float | None:
    """ms per latent frame over the steady chunks of full size."""
    first = max(1, min(FIRST_STEADY_CHUNK, len(run.chunks) // 2))
    seconds, latent_frames = 0.0, 0
    for before, chunk in zip(run.chunks[first - 1 :], run.chunks[first:], strict=False):
        length = chunk.latent_stop - chunk.latent_start
        if length < chunk_size or chunk.decode_done_s is None or before.decode_done_s is None:
            continue
        seconds += chunk.decode_done_s - before.decode_done_s
        latent_frames += length
    return 1e3 * seconds / latent_frames if latent_frames else None


def alone_bytes(result: BenchmarkResult, mode: str) -> int | None:
    """Peak device memory of a mode without what other variants held; None on a CPU."""
    return alone(result).modes[mode].vram_peak_bytes


def alone(result: BenchmarkResult) -> BenchmarkResult:
    """The result with device memory as it would be without the other variants."""
    if not result.other_bytes:
        return result
    others: int = result.other_bytes

    def without(one: _Peak) -> _Peak:
        peak = one.vram_peak_bytes
        return one if peak is None else one.model_copy(update={"vram_peak_bytes": peak - others})

    return result.model_copy(
        update={
            "other_bytes": 0,
            "modes": {name: without(mode) for name, mode in result.modes.items()},
            "runs": tuple(without(run) for run in result.runs),
        }
    )


def write_variants(made: Comparison, folder: Path) -> None:
    """Write each variant's file, then the index; FileExistsError if one is there already."""
    for variant, result in made.results.items():
        write_record(result, folder / variant_file(variant))
    write_record(made.index, folder / INDEX)


def read_variants(path: str | os.PathLike[str]) -> Comparison:
    """Read the index, or that of a folder, and the variants beside it; errors as `read_result`."""
    home = Path(path)
    home = home if home.is_dir() else home.parent
    index = read_record(home, INDEX, VariantsIndex, SCHEMA_VERSION)
    return Comparison(
        index, {name: read_result(home / variant_file(name)) for name in index.variants}
    )
