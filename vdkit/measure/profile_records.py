"""The recorded profile: what is in ``profile.json``, checked when written and when read."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationInfo, field_validator

from vdkit.decode.chunks import DecodeConfig
from vdkit.measure.figures import Analysis
from vdkit.measure.provenance import Provenance
from vdkit.measure.records import Record, Run, SinkInfo, Workload, read_record, write_record
from vdkit.measure.stats import Ratio, paired_ratio

SCHEMA_VERSION = 5
# 1: first.
# 2: a check's ``ok`` is null where there was nothing to check; 1 has true there.
# 3: provenance has torch_threads and malloc.
# 4: workload has variant and notes.
# 5: analysis has notes, its windows communication_s.


class Ceiling(Record):
    """Measured matrix-multiply rate: a square product of ``size`` in ``dtype``, median of ``n``."""

    size: int
    dtype: str
    n: int
    tflop_per_s: float


class ModeProfile(Record):
    """One decode path: timed runs, and one profiled run.

    Attributes:
        timed: runs without profiler or sampler, in order of rounds; warm-ups are not kept.
        sampled: the same with the NVML sampler on; empty without a GPU.
        sampling_cost: sampled over timed latency, paired by round; None without a GPU.
        energy_j: NVML energy counter over each sampled run.
        throttled_samples: of how many NVML samples a throttle reason was set, by reason, over the
            sampled runs and the profiled one.
        profiled: the profiled run; its latency is never a benchmark.
        analysis: of the profiled run's timeline.
        tflop: floating-point operations of the whole video by torch's FlopCounter, 1e12; None if
            it counted none.
        tflop_per_s: window name to operations done in it over its length; steady windows only.
        trace: file name of the exported trace.
    """

    timed: tuple[Run, ...]
    sampled: tuple[Run, ...]
    sampling_cost: Ratio | None
    energy_j: tuple[float, ...]
    throttled_samples: dict[str, int]
    profiled: Run
    analysis: Analysis
    tflop: float | None
    tflop_per_s: dict[str, float]
    trace: str

    @field_validator("sampling_cost")
    @classmethod
    def _derived(cls, _: Ratio | None, info: ValidationInfo) -> Ratio | None:
        """From the runs: earlier records hold a ratio of means with a bootstrap."""
        timed, sampled = (
            [run.latency_s for run in info.data.get(name, ())] for name in ("timed", "sampled")
        )
        return paired_ratio(sampled, timed) if sampled else None

    @property
    def throttled(self) -> bool:
        return bool(self.throttled_samples)


class ProfileResult(Record):
    """One profile: the machine, the workload, and each path's figures.

    Attributes:
        nvml_interval_s, nvml_samples, nvml_mean_cost_ms: of the sampler; None without a GPU.
        nvml_unsupported: fields that the device does not answer, with the reason.
    """

    schema_version: int = SCHEMA_VERSION
    label: str
    command: str | None
    provenance: Provenance
    workload: Workload
    config: DecodeConfig
    sink: SinkInfo
    nvml_interval_s: float | None
    nvml_samples: int | None
    nvml_mean_cost_ms: float | None
    nvml_unsupported: dict[str, str]
    ceiling: Ceiling | None
    modes: dict[str, ModeProfile]


def write_profile(result: ProfileResult, folder: Path) -> Path:
    """Write ``profile.json``; FileExistsError if one is recorded there already."""
    return write_record(result, folder / "profile.json")


def read_profile(path: str | os.PathLike[str]) -> ProfileResult:
    """Read ``profile.json``, or the one in a folder; errors as `read_result`."""
    return read_record(Path(path), "profile.json", ProfileResult, SCHEMA_VERSION)
