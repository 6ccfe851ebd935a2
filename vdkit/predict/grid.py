"""A sweep on disk: its plan, what was predicted, and one file per cell, never rewritten.

Torch-free, so that a recorded sweep opens anywhere. ``sweep.json`` is the plan; then come
``cell_CELL.json``, a recording of one arm, or ``unfit_CELL.json``, why a cell was not measured;
``predictions.json`` is written before the first cell that it predicts is run. Until schema 6 of
recordings a cell was ``result_CELL.json``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vdkit.decode.chunks import DecodeConfig
from vdkit.predict import StageCosts, plan_of, predict, units_per_latent, video_info
from vdkit.predict.fit import Evidence, evidence_of, fit_costs, fit_evidence
from vdkit.record.recording import Recording
from vdkit.record.results import read_record, read_recording
from vdkit.record.runs import Mode, Provenance, Record, SinkInfo, Workload

SCHEMA_VERSION = 2
# 1: first.
# 2: workload has variant and notes.

PLAN, PREDICTIONS = "sweep.json", "predictions.json"


class Cell(Record):
    """One setting of a sweep.

    Attributes:
        mode: decode path.
        chunk_size: latent frames per call; 1 for mode diffusers, which has no choice.
        slots: of the ring; None for the modes that have none.
        mb_per_s: what the sink is held to, MB/s; None: as fast as it goes.
    """

    mode: Mode
    chunk_size: int
    slots: int | None = None
    mb_per_s: float | None = None

    @property
    def key(self) -> str:
        """Of its files, e.g. ``async_chunk2_slots3_100MBs``."""
        slots = "" if self.slots is None else f"_slots{self.slots}"
        speed = "" if self.mb_per_s is None else f"_{self.mb_per_s:g}MBs"
        return f"{self.mode}_chunk{self.chunk_size}{slots}{speed}"

    @property
    def words(self) -> str:
        """For people: ``async, chunk 2, 3 slots, 100 MB/s``."""
        slots = "" if self.slots is None else f", {self.slots} slot{'s' * (self.slots != 1)}"
        speed = "full speed" if self.mb_per_s is None else f"{self.mb_per_s:g} MB/s"
        speed = "" if self.mode == "compute_only" else f", {speed}"
        return f"{self.mode}, chunk {self.chunk_size}{slots}{speed}"

    def file(self, folder: Path, kind: str = "cell") -> Path:
        """Of a measured cell, or (``unfit``) of one that does not fit."""
        return folder / f"{kind}_{self.key}.json"

    def config(self, base: DecodeConfig) -> DecodeConfig:
        """``base`` with this cell's chunk size and slots."""
        slots = base.slots if self.slots is None else self.slots
        return replace(base, chunk_size=self.chunk_size, slots=slots)


class SweepPlan(Record):
    """What is to be measured, in this order.

    Attributes:
        sink: the unthrottled sink; a cell may hold it to a speed.
        config: the primitives; chunk size and slots are each cell's.
        runs: timed runs of each cell.
        fit_cells: measured first; the costs are fitted from them and from nothing else.
        cells: measured after that, each predicted before.
    """

    schema_version: int = SCHEMA_VERSION
    label: str
    command: str | None
    provenance: Provenance
    workload: Workload
    sink: SinkInfo
    config: DecodeConfig
    runs: int
    fit_cells: tuple[Cell, ...]
    cells: tuple[Cell, ...]

    @property
    def all_cells(self) -> tuple[Cell, ...]:
        """Every cell, in the order of measuring."""
        return (*self.fit_cells, *self.cells)


class Unfit(Record):
    """A cell that does not fit in memory, and what the machine said."""

    schema_version: int = SCHEMA_VERSION
    cell: Cell
    reason: str


class PredictedCell(Record):
    """What the pipeline model says of one cell; None for what it cannot tell."""

    cell: Cell
    latency_s: float
    ttff_s: float | None
    vram_peak_bytes: int | None
    pinned_bytes: int
    utilization_percent: float


class Predictions(Record):
    """The fitted costs and every cell by them.

    Attributes:
        fitted_from: the cells whose runs gave the costs.
        unpredicted: cell key to why the model could not say.
        measured_before: cells to be predicted that had been measured already, 0 unless this file
            was lost and made again.
    """

    schema_version: int = SCHEMA_VERSION
    costs: StageCosts
    fitted_from: tuple[Cell, ...]
    cells: tuple[PredictedCell, ...]
    unpredicted: dict[str, str]
    measured_before: int = 0


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep as far as it has come.

    Attributes:
        folder: where it is recorded.
        results: one recording of one arm per measured cell.
        unfit: cell to the reason why it does not fit in memory.
        predictions: None until the fit cells are done, or if no costs could be fitted.
    """

    folder: Path
    plan: SweepPlan
    results: dict[Cell, Recording]
    unfit: dict[Cell, str]
    predictions: Predictions | None

    @property
    def left(self) -> list[Cell]:
        """Cells not yet measured, in order."""
        done = self.results.keys() | self.unfit.keys()
        return [cell for cell in self.plan.all_cells if cell not in done]

    def predicted(self, cell: Cell) -> PredictedCell | None:
        """The prediction of ``cell``; None if there is none."""
        known = self.predictions.cells if self.predictions else ()
        return next((one for one in known if one.cell == cell), None)

    def error_percent(self, cell: Cell) -> float | None:
        """Predicted over measured mean latency, less 1, %; None unless both are there."""
        one = self.predicted(cell)
        if one is None or cell not in self.results:
            return None
        return 100 * (one.latency_s / self.results[cell].base.latency.mean - 1)

    def errors(self) -> dict[Cell, float]:
        """Error of every measured cell that was predicted, the fit cells left out, %."""
        found = {cell: self.error_percent(cell) for cell in self.plan.cells}
        return {cell: error for cell, error in found.items() if error is not None}

    def evidence(self) -> Evidence:
        """How far the costs can be relied on: by the cells that were predicted, or by the fit's."""
        errors = self.errors()
        if not errors and self.predictions is not None:
            fitted = [self.results[c] for c in self.plan.fit_cells if c in self.results]
            return fit_evidence(self.predictions.costs, *fitted)
        cells = [(c.words, one.base, errors.get(c)) for c, one in self.results.items()]
        return evidence_of(cells, tested=True)


def median_and_worst(errors: dict[Cell, float]) -> tuple[float, float, Cell]:
    """Median and largest absolute error, %, and the cell of the latter; needs one error."""
    worst = max(errors, key=lambda cell: abs(errors[cell]))
    return statistics.median(abs(error) for error in errors.values()), abs(errors[worst]), worst


def read_sweep(folder: str | Path, left_out: Callable[[Exception], object] | None = None) -> Sweep:
    """Read a sweep, finished or not.

    Args:
        left_out: gets the error of a cell's file, which then counts as not there; None: raise it.

    Raises:
        FileNotFoundError: no ``sweep.json`` in ``folder``.
        ValueError: a file is damaged, of a newer vdkit, or of another cell; names it.
    """
    folder = Path(folder)
    plan = read_record(folder / PLAN, SweepPlan, SCHEMA_VERSION)
    results, unfit = {}, {}
    for cell in plan.all_cells:
        old = f"result_{cell.key.replace('compute_only', 'compute')}.json"
        files = [path for path in (cell.file(folder), folder / old) if path.exists()]
        try:
            if files:
                results[cell] = _read_cell(files[0], cell)
            elif (reason := cell.file(folder, "unfit")).exists():
                unfit[cell] = read_record(reason, Unfit, SCHEMA_VERSION).reason
        except (ValueError, OSError) as error:
            if left_out is None:
                raise
            left_out(error)
    path = folder / PREDICTIONS
    predictions = read_record(path, Predictions, SCHEMA_VERSION) if path.exists() else None
    return Sweep(folder, plan, results, unfit, predictions)


def _read_cell(path: Path, cell: Cell) -> Recording:
    """ValueError unless the file is of this cell."""
    result = read_recording(path)
    found = Cell(
        mode=result.base.mode,
        chunk_size=result.config.chunk_size,
        slots=None if cell.slots is None else result.config.slots,
        mb_per_s=result.sink.throttle_mb_per_s,
    )
    if found != cell:
        raise ValueError(f"{path} holds {found.words}, not {cell.words}")
    return result


def predict_cells(sweep: Sweep) -> Predictions | None:
    """Fit costs from the measured fit cells and predict every cell; None if none can be fitted."""
    fitted_from = tuple(cell for cell in sweep.plan.fit_cells if cell in sweep.results)
    records = [sweep.results[cell] for cell in fitted_from]
    if all(cell.mode == "diffusers" for cell in fitted_from):
        return None
    costs = fit_costs(*records)
    info, factor = video_info(records[0]), units_per_latent(records[0].workload)
    cells, unpredicted = [], {}
    for cell in sweep.plan.all_cells:
        held, config = costs.at_speed(cell.mb_per_s), cell.config(sweep.plan.config)
        try:
            arms = (arm for record in records for arm in record.arms.values())
            plan = plan_of(arms, config.chunk_size)
            made = predict(held, info, config, cell.mode, temporal_factor=factor, plan=plan)
        except ValueError as error:
            unpredicted[cell.key] = str(error)
            continue
        names = ("latency_s", "ttff_s", "vram_peak_bytes", "pinned_bytes")
        told = {name: getattr(made.run, name) for name in names}
        busy = made.utilization_percent
        utilization = busy.get("steady", busy["run"])
        cells.append(PredictedCell(cell=cell, **told, utilization_percent=utilization))
    return Predictions(
        costs=costs, fitted_from=fitted_from, cells=tuple(cells), unpredicted=unpredicted,
        measured_before=sum(cell in sweep.results for cell in sweep.plan.cells),
    )  # fmt: skip
