"""The sweep: a few cells measured, the rest predicted from them, then measured too.

Every cell is recorded when it is done, so that an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import gc
import math
import random
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Unpack

import torch

from vdkit.decode import ChunkDecoder
from vdkit.decode.chunks import DecodeConfig, check_chunk
from vdkit.decode.media import MEDIA, Medium
from vdkit.decode.terminal import Bar
from vdkit.measure import study
from vdkit.predict import check_speed, grid
from vdkit.record import locked, result_folder, write_record
from vdkit.record.recording import Recording
from vdkit.record.results import read_recording
from vdkit.record.runs import collect_provenance
from vdkit.sinks import held

_Hashes = dict[tuple[str, int, int | None], study.Seen]
"""Mode, chunk size and slots to the hash of their frames."""


def sweep_grid(
    decoder: ChunkDecoder, latents: torch.Tensor, sink_factory: study.SinkFactory, out: Path, *,
    speeds: Sequence[float | None] = (None,), chunks: Sequence[int] = (1, 2, 4),
    slots: Sequence[int] = (1, 2, 3, 4), modes: Sequence[str] = ("sync", "async"), runs: int = 3,
    progress: bool = True, **shared: Unpack[study.Shared],
) -> grid.Sweep:  # fmt: skip
    """Measure a few cells of a grid, predict the others from them, then measure those too.

    Args:
        decoder, latents, sink_factory, shared: as for `run_benchmark`; chunk size and slots are the
            grid's, and ``seed`` is also that of the order.
        out: a new folder in it takes the records (`read_sweep`).
        speeds: what the sink is held to, MB/s. None, as fast as it is, has to be there: costs are
            fitted at it.
        chunks, slots, modes: the other axes of the grid, as for `plan_cells`.
        runs: of each cell.
        progress: show a tqdm bar of runs.

    Raises:
        ValueError: full speed is missing, or an axis that is wrong.
    """
    if None not in speeds:
        raise ValueError("speeds has no None: add full speed, to fit costs at")
    bench = study.Bench(decoder, latents, sink_factory, **shared)
    folder = start_sweep(bench, out, modes, chunks, slots, speeds, runs)
    return run_sweep(folder, bench, progress=progress)


def start_sweep(
    bench: study.Bench, out: Path, modes: Sequence[str], chunks: Sequence[int],
    slots: Sequence[int], speeds: Sequence[float | None], runs: int = 3,
) -> Path:  # fmt: skip
    """Write the plan into a new folder under ``out``; returns it. Nothing is measured yet.

    The axes are those of `plan_cells`, whose errors are raised.
    """
    study.check_rounds(runs, 0)
    work, made, label = bench.workload, bench.provenance(), bench.label or "sweep"
    fit_cells, cells = plan_cells(
        modes, chunks, slots, speeds, work.latent_frames, work.seed, work.kind
    )
    plan = grid.SweepPlan(
        label=label, command=bench.command, provenance=made, workload=work, sink=bench.sink_info,
        config=bench.config, runs=runs, fit_cells=fit_cells, cells=cells,
    )  # fmt: skip
    return result_folder(out, label, made, lambda folder: write_record(plan, folder / grid.PLAN))


def run_sweep(
    folder: Path, bench: study.Bench, *, progress: bool = True,
    report: Callable[[grid.Sweep, grid.Cell], None] = lambda sweep, cell: None,
) -> grid.Sweep:  # fmt: skip
    """Measure every cell of a started sweep that is not recorded yet.

    The first time that a process meets a mode, chunk size and number of slots it decodes once,
    untimed, which hashes the frames and warms up. A cell whose memory cannot be had is recorded as
    such and the sweep goes on.

    Args:
        folder: of `start_sweep`.
        bench: the same decoder, latents and sink as the plan's.
        progress: show a tqdm bar of runs.
        report: called after each cell.

    Raises:
        Locked: another process is at it.
        ValueError: the plan is of another machine, decoder or video.
    """
    busy = f"another process is sweeping into {folder}; wait for it, or start a new sweep"
    with locked(folder / grid.PLAN, busy):
        sweep, hashes = grid.read_sweep(folder), _Hashes()
        _check_same(sweep.plan, bench)
        total = len(sweep.left) * sweep.plan.runs
        with Bar(progress, total=total, desc="sweep", unit="run") as bar:
            for cell in sweep.left:
                if cell not in sweep.plan.fit_cells and sweep.predictions is None:
                    sweep = _with_predictions(sweep)
                bar.to(total - len(sweep.left) * sweep.plan.runs)
                try:
                    _check_host_memory(bench, cell)
                    result = _measure(bench, sweep, cell, hashes, bar)
                    sweep = replace(sweep, results=sweep.results | {cell: result})
                except (MemoryError, RuntimeError) as error:
                    if not study.out_of_memory(error):
                        raise
                    reason = str(error) or "out of host memory"
                    write_record(grid.Unfit(cell=cell, reason=reason), cell.file(folder, "unfit"))
                    sweep = replace(sweep, unfit=sweep.unfit | {cell: reason})
                    error.__traceback__ = None  # its frames hold the buffers
                if bench.decoder.device.type == "cuda":
                    gc.collect()
                    torch.cuda.empty_cache()  # or the last cell's cache decides what fits here
                bar.clear()
                report(sweep, cell)
        return sweep if sweep.predictions is not None else _with_predictions(sweep)


def _measure(
    bench: study.Bench, sweep: grid.Sweep, cell: grid.Cell, hashes: _Hashes, bar: Bar
) -> Recording:
    """Run one cell and record it."""
    known = (cell.mode, cell.chunk_size, cell.slots)
    if known not in hashes:
        bench.prepare(cell.chunk_size)
    arm = bench.arm(
        cell.mode,
        config=cell.config(sweep.plan.config),
        sink=held(bench.sink, cell.mb_per_s),
        sink_info=bench.sink_info.model_copy(update={"throttle_mb_per_s": cell.mb_per_s}),
        hashed=known not in hashes,
    )
    made = study.measure(
        {cell.mode: arm}, sweep.plan.runs, 0, progress=False, after_run=lambda *_: bar.add()
    )
    made.seen[cell.mode] = hashes.setdefault(known, made.seen[cell.mode])
    label = f"{sweep.plan.label}: {cell.words}"
    result = made.recording("cell", cell.mode, label=label, command=sweep.plan.command)
    return read_recording(write_record(result, cell.file(sweep.folder)))


def _with_predictions(sweep: grid.Sweep) -> grid.Sweep:
    predictions = grid.predict_cells(sweep)
    if predictions is not None:
        write_record(predictions, sweep.folder / grid.PREDICTIONS)
    return replace(sweep, predictions=predictions)


def _check_same(plan: grid.SweepPlan, bench: study.Bench) -> None:
    """ValueError if the plan's cells would not be comparable with what ``bench`` measures."""
    now = collect_provenance(bench.decoder.device)
    machine = ("device", "device_uuid", "cpu", "host_cores", "torch_threads", "malloc")
    work = [name for name in type(plan.workload).model_fields if name not in ("source", "latents")]
    pairs = [(name, getattr(plan.provenance, name), getattr(now, name)) for name in machine]
    pairs.append(("torch", plan.provenance.packages.get("torch"), now.packages.get("torch")))
    pairs += [(name, getattr(plan.workload, name), getattr(bench.workload, name)) for name in work]
    differ = [f"{name} was {old}, is {new}" for name, old, new in pairs if old != new]
    if differ:
        raise ValueError(f"this sweep cannot be resumed: {'; '.join(differ)}; start a new one")


def _check_host_memory(bench: study.Bench, cell: grid.Cell) -> None:
    """MemoryError before a decode exhausts the machine, which kills processes rather than tell."""
    work, estimate = bench.workload, getattr(bench.decoder, "working_bytes", None)
    if bench.decoder.device.type != "cpu" or estimate is None:
        return
    needed = estimate(cell.chunk_size, work.latent_height, work.latent_width)
    if needed > (available := available_bytes()):
        raise MemoryError(
            f"a chunk of {cell.chunk_size} latent frames needs about {needed / 1e9:.1f} GB, "
            f"{available / 1e9:.1f} GB are available"
        )


def available_bytes() -> float:
    """Host memory that can be had without swapping; any where /proc does not say."""
    with suppress(OSError):
        if found := re.search(r"MemAvailable: *(\d+)", Path("/proc/meminfo").read_text()):
            return int(found[1]) * 1024
    return math.inf


FIT_SIZES = 3
"""Chunk sizes that costs are fitted from, at the most: copies and conversions are no straight line,
so two tell little of a third."""


def plan_cells(
    modes: Sequence[str], chunks: Sequence[int], slots: Sequence[int],
    speeds: Sequence[float | None], latent_frames: int | None = None, seed: int = 0,
    medium: Medium = MEDIA["video"],
) -> tuple[tuple[grid.Cell, ...], tuple[grid.Cell, ...]]:  # fmt: skip
    """(fit cells, other cells) of a grid; each in random order, so that drift is no axis.

    The fit cells are every mode at full speed at up to `FIT_SIZES` of the chunk sizes (smallest,
    middle, largest), with 2 slots or, if 2 is not among ``slots``, the nearest. They are measured
    also where ``speeds`` leaves full speed out, since a throttled run hides what a write costs.
    Modes without a ring have one cell for all slots, mode compute_only one for all speeds, and mode
    diffusers one for all chunk sizes.

    Args:
        speeds: MB/s; None is full speed.
        latent_frames: of the video, or images; None: not known yet, and chunk sizes have no upper
            bound.
        medium: what is decoded.

    Raises:
        ValueError: an empty axis, a value that is twice there, of no use or out of range.
    """
    axes = {"modes": modes, "chunks": chunks, "slots": slots, "speeds": speeds}
    for name, values in axes.items():
        if not values:
            raise ValueError(f"{name} is empty; a sweep needs at least one value")
        if len(set(values)) != len(values):
            raise ValueError(f"{name} has a value twice: {', '.join(map(str, values))}")
    study.check_modes(modes)
    for size, count in product(chunks, slots):
        DecodeConfig(chunk_size=size, slots=count)
        check_chunk(size, latent_frames or size + 1, medium)
    for speed in speeds:
        if speed is not None:
            check_speed(speed)
    if all(mode == "diffusers" for mode in modes):
        raise ValueError("mode diffusers alone has no chunks to sweep; add sync or async")

    def cell(mode: str, size: int, count: int, speed: float | None) -> grid.Cell:
        slots, speed = count if mode == "async" else None, None if mode == "compute_only" else speed
        size = 1 if mode == "diffusers" else size
        return grid.Cell(mode=mode, chunk_size=size, slots=slots, mb_per_s=speed)

    ordered = sorted(chunks)
    picks = sorted({0, len(ordered) // 2, len(ordered) - 1})
    near = min(slots, key=lambda count: (abs(count - 2), count))
    fit = list(dict.fromkeys(cell(mode, ordered[i], near, None) for mode in modes for i in picks))
    every = dict.fromkeys(cell(*one) for one in product(modes, chunks, slots, speeds))
    rest = [one for one in every if one not in fit]
    shuffled = random.Random(seed)
    for part in (fit, rest):
        shuffled.shuffle(part)
    return tuple(fit), tuple(rest)
