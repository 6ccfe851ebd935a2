"""What ``vdkit aa`` records in ``aa.json``: the plan, the planted work, and what was called."""

from __future__ import annotations

import os
from pathlib import Path

from vdkit.decode.chunks import DecodeConfig
from vdkit.record.machine import Provenance
from vdkit.record.recording import Record, SinkInfo, Workload, read_record
from vdkit.record.stats import Ratio, Share, Summary

SCHEMA_VERSION = 2
# 1: first.
# 2: workload has variant and notes.

ARMS = ("a", "b", "slow")
"""The same setting twice, and the same with work planted after every chunk."""
CALLED_BY = ("paired", "unpaired")
FALSE_CALLS_AT_MOST, FOUND_AT_LEAST = 0.05, 0.95
"""Shares of the splits that a comparison to rely on has to reach."""


def arm_file(arm: str) -> str:
    """Name of the file with an arm's runs, a `BenchmarkResult` of one mode."""
    return f"result_{arm}.json"


class Plan(Record):
    """What was asked for.

    Attributes:
        mode: of every run.
        rounds, warmup: timed and untimed; each runs every arm once, in the order of ``orders``.
        pairs: rounds drawn in each split.
        splits: draws.
        plant_percent: work planted in arm slow, % of the decode time of a chunk.
        seed: of orders, draws and swaps.
        orders: of the arms by round, warm-up first.
    """

    mode: str
    rounds: int
    warmup: int
    pairs: int
    splits: int
    plant_percent: float
    seed: int
    orders: tuple[tuple[str, ...], ...]


class Calibration(Record):
    """How much work was planted, as timed before the rounds.

    Attributes:
        matrix_size, matrix_dtype: of the square matrix products that are the work.
        product_s: one product, median.
        chunk_s: decode of one chunk, median of the steady chunks of an untimed run.
        first_s: decode of the first chunk, whose work is in proportion; None in early records,
            where the first latent frame had as many products as the others.
        products_per_latent_frame: products planted for each latent frame after the first.
        products: in a whole run.
    """

    matrix_size: int
    matrix_dtype: str
    product_s: float
    chunk_s: float
    products_per_latent_frame: float
    products: int
    first_s: float | None = None

    @property
    def planted_s(self) -> float:
        """Planned for a whole run, s."""
        return self.products * self.product_s


class MetricControl(Record):
    """How one metric fared.

    Attributes:
        arms: arm to summary of its timed runs.
        planted: slow over a, paired by round, over all rounds: what was really planted.
        false_calls: `CALLED_BY` to splits where a was called different from itself.
        found: `CALLED_BY` to splits where slow was called slower than a.
    """

    arms: dict[str, Summary]
    planted: Ratio
    false_calls: dict[str, Share]
    found: dict[str, Share]

    def aims_met(self, how: str) -> tuple[bool, bool]:
        """Whether false calls were few enough, and finds many enough, of one of `CALLED_BY`."""
        quiet, found = self.false_calls[how], self.found[how]
        return quiet.count <= FALSE_CALLS_AT_MOST * quiet.n, found.count >= FOUND_AT_LEAST * found.n


class ControlResult(Record):
    """One control of the comparison itself; the runs are in `arm_file` beside it.

    Attributes:
        metrics: ``latency_s`` and, where there is a sink, ``ttff_s``.
        throttled: arm to timed runs with a throttle reason.
    """

    schema_version: int = SCHEMA_VERSION
    label: str
    command: str | None
    provenance: Provenance
    workload: Workload
    config: DecodeConfig
    sink: SinkInfo
    plan: Plan
    calibration: Calibration
    metrics: dict[str, MetricControl]
    throttled: dict[str, int]


def is_arm(file: Path) -> bool:
    """Whether ``file`` is an arm of a control in the same folder, not a result of its own."""
    return file.name in map(arm_file, ARMS) and (file.parent / "aa.json").is_file()


def read_control(path: str | os.PathLike[str]) -> ControlResult:
    """Read ``aa.json``, or the one in a folder; errors as `read_result`."""
    return read_record(Path(path), "aa.json", ControlResult, SCHEMA_VERSION)
