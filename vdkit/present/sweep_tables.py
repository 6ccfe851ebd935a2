"""A sweep for people: every cell predicted and measured, as text and as CSV. No torch, no GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vdkit.predict.advise import recommend_from
from vdkit.predict.grid import (
    PREDICTIONS,
    Cell,
    Sweep,
    measured_s,
    median_and_worst,
    unfit_path,
)
from vdkit.present.advice_text import advice_line
from vdkit.present.money_cells import money_cells, money_legend, price_line
from vdkit.present.table import Table, markdown_table
from vdkit.present.tables import setting
from vdkit.record.money import mean_energy_j

if TYPE_CHECKING:
    import pandas as pd


def cell_line(sweep: Sweep, cell: Cell) -> str:
    """One finished cell in one line."""
    if cell in sweep.unfit:
        return f"{cell.words}: does not fit in memory"
    line = f"{cell.words}: {measured_s(sweep.results[cell]):.3f} s"
    if cell in sweep.plan.fit_cells:
        return f"{line}, for the fit"
    one, error = sweep.predicted(cell), sweep.error_percent(cell)
    if one is None or error is None:
        return f"{line}, not predicted"
    return f"{line}, predicted {one.latency_s:.3f} s ({error:+.2f} %)"


def _sorted(sweep: Sweep) -> list[Cell]:
    """By mode as planned, fastest sink first, then chunk size and slots."""
    modes = list(dict.fromkeys(cell.mode for cell in sorted(sweep.plan.all_cells, key=_mode_rank)))
    return sorted(
        sweep.plan.all_cells,
        key=lambda cell: (
            modes.index(cell.mode),
            -(cell.mb_per_s or float("inf")),
            cell.chunk_size,
            cell.slots or 0,
        ),
    )


def _mode_rank(cell: Cell) -> int:
    return ("diffusers", "sync", "async", "compute").index(cell.mode)


def sweep_frame(sweep: Sweep) -> pd.DataFrame:
    """One row per cell, unrounded: setting, measured, predicted, error; s, bytes, %.

    ``role`` is ``fit`` for the cells that the costs were fitted from, whose error proves nothing,
    else ``predicted``; ``outcome`` is ``measured``, ``does not fit`` or ``to do``.
    """
    import pandas as pd

    return pd.DataFrame([_record(sweep, cell) for cell in _sorted(sweep)])


def _record(sweep: Sweep, cell: Cell) -> dict[str, Any]:
    result, one = sweep.results.get(cell), sweep.predicted(cell)
    made = result.arms[cell.mode] if result else None
    outcome = "measured" if made else "does not fit" if cell in sweep.unfit else "to do"
    reason = sweep.unfit.get(cell)
    if reason is None and sweep.predictions is not None:
        reason = sweep.predictions.unpredicted.get(cell.key)
    return {
        "mode": cell.mode,
        "chunk_size": cell.chunk_size,
        "slots": cell.slots,
        "sink_mb_per_s": cell.mb_per_s,
        "role": "fit" if cell in sweep.plan.fit_cells else "predicted",
        "outcome": outcome,
        "runs": made and made.latency_s.n,
        "latency_mean_s": made and made.latency_s.mean,
        "latency_min_s": made and made.latency_s.min,
        "latency_max_s": made and made.latency_s.max,
        "predicted_latency_s": one and one.latency_s,
        "error_percent": sweep.error_percent(cell),
        "ttff_mean_s": made.ttff_s.mean if made and made.ttff_s else None,
        "predicted_ttff_s": one and one.ttff_s,
        "predicted_utilization_percent": one and one.utilization_percent,
        "vram_peak_bytes": made and made.vram_peak_bytes,
        "predicted_vram_peak_bytes": one and one.vram_peak_bytes,
        "pinned_bytes": made and made.pinned_bytes,
        "predicted_pinned_bytes": one and one.pinned_bytes,
        "throttled_runs": made and made.throttled_runs,
        "frame_sha256": made and made.frame_sha256,
        "reason": reason,
    }


def sweep_rows(
    sweep: Sweep, usd_per_hour: float | None = None, energy: bool = False
) -> list[dict[str, str]]:
    """One row per cell, ready to show; with money (savings against mode sync) and energy if asked.

    Raises:
        ValueError: ``usd_per_hour`` is not finite and above 0.
    """
    rows = []
    on_gpu = any(r.modes[c.mode].vram_peak_bytes is not None for c, r in sweep.results.items())
    for cell in _sorted(sweep):
        one = _record(sweep, cell)
        row = {
            "mode": cell.mode,
            "chunk": str(cell.chunk_size),
            "slots": _shown(cell.slots, "d"),
            "sink MB/s": "-" if cell.mode == "compute" else _shown(cell.mb_per_s, "g", "full"),
            "measured s": one["outcome"],
            "min to max s": "-",
            "predicted s": _shown(one["predicted_latency_s"], ".3f"),
            "error %": _shown(one["error_percent"], "+.2f"),
            "TTFF s": _shown(one["ttff_mean_s"], ".3f"),
            "predicted TTFF s": _shown(one["predicted_ttff_s"], ".3f"),
            "busy %": _shown(one["predicted_utilization_percent"], ".1f"),
        }
        if one["outcome"] == "measured":
            throttled = "†" if one["throttled_runs"] else ""
            row["measured s"] = f"{one['latency_mean_s']:.3f}{throttled}"
            row["min to max s"] = f"{one['latency_min_s']:.3f} to {one['latency_max_s']:.3f}"
        if on_gpu:
            for name, key in (("VRAM GB", "vram_peak_bytes"), ("pinned MB", "pinned_bytes")):
                scale, digits = (1e9, ".2f") if name == "VRAM GB" else (1e6, ".1f")
                row[name] = "-" if one[key] is None else format(one[key] / scale, digits)
        if cell in sweep.results:
            row |= money_cells(
                one["latency_mean_s"], _sync_s(sweep, cell), sweep.plan.workload.seconds,
                _energy_j(sweep, cell), usd_per_hour, energy,
            )  # fmt: skip
        else:
            row |= dict.fromkeys(money_cells(1, None, 1, None, usd_per_hour, energy), "-")
        row["used for"] = "the fit" if one["role"] == "fit" else "the test"
        rows.append(row)
    return rows


def _sync_s(sweep: Sweep, cell: Cell) -> float | None:
    """What mode sync took at this chunk size and sink speed; None for sync itself."""
    sync = Cell(mode="sync", chunk_size=cell.chunk_size, mb_per_s=cell.mb_per_s)
    return None if cell == sync or sync not in sweep.results else measured_s(sweep.results[sync])


def _energy_j(sweep: Sweep, cell: Cell) -> float | None:
    return mean_energy_j(sweep.results[cell].arms[cell.mode].timed)


def _shown(value: float | None, digits: str, missing: str = "-") -> str:
    return missing if value is None else format(value, digits)


def verdict(sweep: Sweep) -> str:
    """How far off the predictions were, in one sentence."""
    errors = sweep.errors()
    if not errors:
        if sweep.left:
            return "No cell has been both predicted and measured yet."
        return "No cell is left to test predictions on: all that were measured are of the fit."
    median, worst, where = median_and_worst(errors)
    fit = len([cell for cell in sweep.plan.fit_cells if cell in sweep.results])
    modes = list(dict.fromkeys(cell.mode for cell in sorted(errors, key=_mode_rank)))
    by_mode = [
        f"{mode} {median_and_worst({c: e for c, e in errors.items() if c.mode == mode})[0]:.2f} %"
        for mode in modes
    ]
    return (
        f"{len(errors)} cells predicted from {fit}: median error {median:.2f} %"
        + (f" ({', '.join(by_mode)})" if len(modes) > 1 else "")
        + f", worst {worst:.2f} % ({where.words})."
        + _late(sweep)
    )


def _frames_line(sweep: Sweep) -> str:
    """Whether all cells of a chunk size gave the same frames; sizes may differ by one level."""
    hashes: dict[int, set[str]] = {}
    for cell, result in sweep.results.items():
        sha256 = result.arms[cell.mode].frame_sha256
        if sha256 is not None and cell.mode != "diffusers":
            hashes.setdefault(cell.chunk_size, set()).add(sha256)
    other = [str(size) for size, found in sorted(hashes.items()) if len(found) > 1]
    if other:
        return f"Frames are NOT IDENTICAL in the cells of chunk size {', '.join(other)}."
    if not hashes:
        return "No frames were compared."
    alike = len(set.union(*hashes.values())) == 1
    where = "in every cell" if alike else "in every cell of a chunk size"
    return f"Frames are identical, byte for byte, {where}."


def sweep_advice(sweep: Sweep) -> list[str]:
    """What to set at each sink speed, by the fitted costs; nothing before there are any."""
    grid = [cell for cell in sweep.plan.all_cells if cell.mode == "async"]
    if sweep.predictions is None or not any(cell in sweep.results for cell in grid):
        return []
    lines = []
    for speed in dict.fromkeys(cell.mb_per_s for cell in _sorted(sweep) if cell.mode == "async"):
        advice = recommend_from(sweep, mb_per_s=speed)
        sink = "full speed" if speed is None else f"{speed:g} MB/s"
        lines.append(f"Sink at {sink}: {advice_line(advice)}.")
    return lines


def _late(sweep: Sweep) -> str:
    late = 0 if sweep.predictions is None else sweep.predictions.measured_before
    if not late:
        return ""
    return f" NOT A TEST: the predictions were made when {late} of these had been measured."


def sweep_table(sweep: Sweep, usd_per_hour: float | None = None, energy: bool = False) -> Table:
    """`sweep_rows` with setting and legend: a row per cell, in every form."""
    rows = sweep_rows(sweep, usd_per_hour, energy)
    where = setting(sweep.plan).replace(
        f"Chunk {sweep.plan.config.chunk_size}, {sweep.plan.config.slots} slots",
        f"{sweep.plan.runs} runs a cell",
    )
    note = (
        "Measured: mean latency of a cell's runs. Error: predicted over measured, less 1; that of "
        "the cells used for the fit proves nothing. Busy: predicted share of the steady window (or "
        "of a short run) in which the compute stream works."
    )
    if any("†" in row["measured s"] for row in rows):
        note += " † a run had a throttle reason set."
    device = sweep.plan.provenance.device
    measured = [
        (device, _energy_j(sweep, cell), measured_s(r)) for cell, r in sweep.results.items()
    ]
    against = "mode sync at the same chunk size and sink speed"
    said = money_legend(measured, usd_per_hour, energy, against)
    above, below = (where, price_line(usd_per_hour)), (note, said)
    return Table(rows, "\n".join(filter(None, above)), "\n".join(filter(None, below)))


def sweep_text(sweep: Sweep, usd_per_hour: float | None = None, energy: bool = False) -> str:
    """Setting, table and notes, as Markdown that also reads well in a terminal.

    ``usd_per_hour``, ``energy``: as for `sweep_rows`.
    """
    done = len(sweep.results) + len(sweep.unfit)
    total = len(sweep.plan.all_cells)
    table = sweep_table(sweep, usd_per_hour, energy)
    lines = [table.caption, "", markdown_table(table.rows), "", verdict(sweep)]
    if done < total:
        lines.append(f"{done} of {total} cells are done.")
    for cell, reason in sweep.unfit.items():
        first, *rest = reason.splitlines()
        more = f" (the rest is in {unfit_path(sweep.folder, cell).name})" if rest else ""
        lines.append(f"{cell.words} does not fit: {first}{more}")
    if sweep.predictions is not None:
        for cell in sweep.plan.all_cells:
            if cell.key in sweep.predictions.unpredicted:
                reason = sweep.predictions.unpredicted[cell.key]
                lines.append(f"{cell.words} was not predicted: {reason}")
    elif done == total and all(cell not in sweep.results for cell in sweep.plan.fit_cells):
        lines.append("Nothing was predicted: no cell that costs can be fitted from was measured.")
    elif done == total:
        lines.append(f"{PREDICTIONS} is missing; vdkit sweep --resume {sweep.folder} makes it.")
    lines.append(_frames_line(sweep))
    commits = {result.provenance.git_commit for result in sweep.results.values()}
    if len(commits) > 1:
        lines.append(
            "The cells were measured at several commits: "
            + ", ".join(sorted((commit or "unknown")[:7] for commit in commits))
            + "."
        )
    if advice := sweep_advice(sweep):
        lines += ["", "The smallest setting of async within 1 % of the fastest, by the model:", ""]
        lines += [f"- {line}" for line in advice]
    return "\n".join([*lines, "", table.note])
