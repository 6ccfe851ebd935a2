"""A sweep and the advice that follows from it, as documents: no torch, no GPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from vdkit.predict import advise
from vdkit.predict.grid import PREDICTIONS, Cell, Sweep, median_and_worst
from vdkit.present import Cell as Shown
from vdkit.present import Number, Table, number, significant
from vdkit.present.columns import COST, NOTHING, Asked, Row, cells, cost_of, meanings
from vdkit.present.document import Document, Picture, Text, lines, section
from vdkit.present.words import setting, slots_words, what_and_where
from vdkit.record.recording import Arm, saving_usd
from vdkit.record.runs import MODES

_NOTE = (
    "Measured: mean latency of a cell's runs. Error: predicted over measured, less 1; that of the "
    "cells used for the fit proves nothing. Busy: predicted share of the steady window (or of a "
    "short run) in which the compute stream works."
)


def cell_line(sweep: Sweep, cell: Cell) -> str:
    """One finished cell in one line."""
    if cell in sweep.unfit:
        return f"{cell.words}: does not fit in memory"
    line = f"{cell.words}: {sweep.results[cell].base.latency.mean:.3f} s"
    if cell in sweep.plan.fit_cells:
        return f"{line}, for the fit"
    one, error = sweep.predicted(cell), sweep.error_percent(cell)
    if one is None or error is None:
        return f"{line}, not predicted"
    return f"{line}, predicted {one.latency_s:.3f} s ({error:+.2f} %)"


def speed_words(mb_per_s: float | None) -> str:
    """What a sink is held to."""
    return "full speed" if mb_per_s is None else f"{mb_per_s:g} MB/s"


def cell_records(sweep: Sweep) -> list[dict[str, Any]]:
    """A row per cell, unrounded: setting, measured, predicted, error; s, bytes, %.

    ``role`` is ``fit`` for the cells that the costs were fitted from, whose error proves nothing,
    else ``predicted``; ``outcome`` is ``measured``, ``does not fit`` or ``to do``.
    """
    return [_record(sweep, cell) for cell in _sorted(sweep)]


def _sorted(sweep: Sweep) -> list[Cell]:
    """By mode, fastest sink first, then chunk size and slots."""
    modes = list(MODES)

    def place(cell: Cell) -> tuple[float, ...]:
        speed = -(cell.mb_per_s or float("inf"))
        return modes.index(cell.mode), speed, cell.chunk_size, cell.slots or 0

    return sorted(sweep.plan.all_cells, key=place)


def _arm(sweep: Sweep, cell: Cell) -> Arm | None:
    return sweep.results[cell].base if cell in sweep.results else None


def _record(sweep: Sweep, cell: Cell) -> dict[str, Any]:
    arm, one = _arm(sweep, cell), sweep.predicted(cell)
    reason = sweep.unfit.get(cell)
    if reason is None and sweep.predictions is not None:
        reason = sweep.predictions.unpredicted.get(cell.key)
    return {
        "mode": cell.mode,
        "chunk_size": cell.chunk_size,
        "slots": cell.slots,
        "sink_mb_per_s": cell.mb_per_s,
        "role": "fit" if cell in sweep.plan.fit_cells else "predicted",
        "outcome": "measured" if arm else "does not fit" if cell in sweep.unfit else "to do",
        "runs": arm and arm.latency.n,
        "latency_mean_s": arm and arm.latency.mean,
        "latency_min_s": arm and arm.latency.min,
        "latency_max_s": arm and arm.latency.max,
        "predicted_latency_s": one and one.latency_s,
        "error_percent": sweep.error_percent(cell),
        "ttff_mean_s": arm.ttff.mean if arm and arm.ttff else None,
        "predicted_ttff_s": one and one.ttff_s,
        "predicted_utilization_percent": one and one.utilization_percent,
        "vram_peak_bytes": arm and arm.vram_peak_bytes,
        "predicted_vram_peak_bytes": one and one.vram_peak_bytes,
        "pinned_bytes": arm and arm.pinned_bytes,
        "predicted_pinned_bytes": one and one.pinned_bytes,
        "throttled_runs": arm and arm.throttled_runs,
        "frame_sha256": arm and arm.frame_sha256,
        "reason": reason,
    }


def _cells(sweep: Sweep, cell: Cell, on_gpu: bool) -> dict[str, Shown]:
    one = _record(sweep, cell)
    mean_s, throttled = one["latency_mean_s"], one["throttled_runs"]
    measured = None if mean_s is None else Number(mean_s, 3, mark="†" if throttled else "")
    unheld = None if cell.mode == "compute_only" else "full"
    row: dict[str, Shown] = {
        "mode": cell.mode,
        "chunk": Number(cell.chunk_size, 0),
        "slots": number(cell.slots, 0),
        "sink MB/s": f"{cell.mb_per_s:g}" if cell.mb_per_s else unheld,
        "measured s": measured or one["outcome"],
        "min s": number(one["latency_min_s"], 3),
        "max s": number(one["latency_max_s"], 3),
        "predicted s": number(one["predicted_latency_s"], 3),
        "error %": number(one["error_percent"], 2, sign=True),
        "TTFF s": number(one["ttff_mean_s"], 3),
        "predicted TTFF s": number(one["predicted_ttff_s"], 3),
        "busy %": number(one["predicted_utilization_percent"], 1),
    }
    if on_gpu:
        row["VRAM GB"] = number(one["vram_peak_bytes"], 2, 1e-9)
        row["pinned MB"] = number(one["pinned_bytes"], 1, 1e-6)
    return row


def sweep_table(sweep: Sweep, asked: Asked = NOTHING, slots: int | None = None) -> Table:
    """A row per cell; savings are against mode sync at the same chunk size and sink speed.

    Args:
        asked: a price, joules.
        slots: only what is to be compared for its price: the measured cells at full speed, of mode
            async those with so many slots.
    """
    on_gpu = any(one.base.vram_peak_bytes is not None for one in sweep.results.values())
    device = sweep.plan.provenance.device
    shown = _sorted(sweep)
    if slots is not None:
        shown = [c for c in shown if c in sweep.results and c.slots in (None, slots)]
        shown = [c for c in shown if c.mb_per_s is None]
    arms = {}
    for cell in shown:
        sync = Cell(mode="sync", chunk_size=cell.chunk_size, mb_per_s=cell.mb_per_s)
        if arm := _arm(sweep, cell):
            base = None if cell == sync else _arm(sweep, sync)
            arms[cell] = Row({}, arm, base, device=device)
    priced = list(arms.values())
    money = dict(zip(arms, cells("money", priced, asked=asked), strict=True))
    uses = {cell: "fit" if cell in sweep.plan.fit_cells else "test" for cell in shown}
    rows = [_cells(sweep, c, on_gpu) | money.get(c, {}) | {"used for": uses[c]} for c in shown]
    said = meanings("money", priced, "mode sync at the same chunk size and sink speed", asked)
    note = _NOTE + " † a run had a throttle reason set." * any(r.arm.throttled_runs for r in priced)
    where = setting(sweep.plan, how=f"{sweep.plan.runs} runs a cell")
    return Table(rows, lines(where, asked.line), lines(note, *said))


def verdict(sweep: Sweep) -> str:
    """How far off the predictions were, in one sentence."""
    errors = sweep.errors()
    if not errors:
        none = "No cell is left to test predictions on: all that were measured are of the fit."
        return "No cell has been both predicted and measured yet." if sweep.left else none
    median, worst, where = median_and_worst(errors)
    fit = sum(cell in sweep.results for cell in sweep.plan.fit_cells)
    by_mode = {mode: {c: e for c, e in errors.items() if c.mode == mode} for mode in MODES}
    medians = {mode: median_and_worst(mine)[0] for mode, mine in by_mode.items() if mine}
    each = ", ".join(f"{mode} {percent:.2f} %" for mode, percent in medians.items())
    late = 0 if sweep.predictions is None else sweep.predictions.measured_before
    by = f" ({each})" if len(medians) > 1 else ""
    said = f" NOT A TEST: the predictions were made when {late} of these had been measured."
    return (
        f"{len(errors)} cells predicted from {fit}: median error {median:.2f} %{by}, worst "
        f"{worst:.2f} % ({where.words}).{said if late else ''}"
    )


def _frames_line(sweep: Sweep) -> str:
    """Whether all cells of a chunk size gave the same frames; sizes may differ by one level."""
    hashes: dict[int, set[str]] = {}
    for cell, result in sweep.results.items():
        sha256 = result.base.frame_sha256
        if sha256 is not None and cell.mode != "diffusers":
            hashes.setdefault(cell.chunk_size, set()).add(sha256)
    units = f"{sweep.plan.workload.kind.unit}s".capitalize()
    if other := [str(size) for size, found in sorted(hashes.items()) if len(found) > 1]:
        return f"{units} are NOT IDENTICAL in the cells of chunk size {', '.join(other)}."
    if not hashes:
        return f"No {units.lower()} were compared."
    alike = len(set.union(*hashes.values())) == 1
    where = "in every cell" if alike else "in every cell of a chunk size"
    return f"{units} are identical, byte for byte, {where}."


def _remarks(sweep: Sweep) -> list[str]:
    """What else the cells say, a sentence each."""
    done, total = len(sweep.results) + len(sweep.unfit), len(sweep.plan.all_cells)
    said = [verdict(sweep), *([f"{done} of {total} cells are done."] if done < total else [])]
    for cell, reason in sweep.unfit.items():
        first, *rest = reason.splitlines()
        more = f" (the rest is in {cell.file(sweep.folder, 'unfit').name})" if rest else ""
        said.append(f"{cell.words} does not fit: {first}{more}")
    if sweep.predictions is not None:
        unpredicted = sweep.predictions.unpredicted
        for cell in (cell for cell in sweep.plan.all_cells if cell.key in unpredicted):
            said.append(f"{cell.words} was not predicted: {unpredicted[cell.key]}")
    elif done == total and all(cell not in sweep.results for cell in sweep.plan.fit_cells):
        said.append("Nothing was predicted: no cell that costs can be fitted from was measured.")
    elif done == total:
        said.append(f"{PREDICTIONS} is missing; vdkit sweep --resume {sweep.folder} makes it.")
    said.append(_frames_line(sweep))
    commits = {result.provenance.git_commit for result in sweep.results.values()}
    if len(commits) > 1:
        names = ", ".join(sorted((commit or "unknown")[:7] for commit in commits))
        said.append(f"The cells were measured at several commits: {names}.")
    return said


def _advice_by_speed(sweep: Sweep) -> str:
    """What to set at each sink speed, by the fitted costs; nothing before there are any."""
    grid = [cell for cell in _sorted(sweep) if cell.mode == "async"]
    if sweep.predictions is None or not any(cell in sweep.results for cell in grid):
        return ""
    speeds = dict.fromkeys(cell.mb_per_s for cell in grid)
    advice = {speed: advise.recommend_from(sweep, mb_per_s=speed) for speed in speeds}
    first = next(iter(advice.values()))
    margin = f"{first.margin_percent:.2g} %"
    head = f"The smallest setting of async within {margin} of the fastest, by the model:"
    items = [f"- Sink at {speed_words(s)}: {advice_line(one)}." for s, one in advice.items()]
    return "\n\n".join([head, "\n".join(items), *first.remarks])


def sweep_document(sweep: Sweep, asked: Asked = NOTHING) -> Document:
    """Everything about a sweep, finished or not."""
    from vdkit.present.charts import plot_heatmap, plot_predictions  # which imports this module

    alt = "Heat maps of latency: chunk sizes down, paths and slots across, one per sink speed"
    below = "Mean latency in s; below it, what the prediction was off, %."
    heat = Picture(partial(plot_heatmap, sweep), alt, below, "heatmap")
    alt = "Predicted against measured latency, and the error, one mark per cell"
    below = "Predicted against measured mean latency; hollow marks were used for the fit."
    marks = Picture(partial(plot_predictions, sweep), alt, below, "scatter")
    both = any(sweep.predicted(cell) is not None for cell in sweep.results)
    told = Text("\n".join(_remarks(sweep))), Text(_advice_by_speed(sweep))
    sections = (
        section("results", "Results", sweep_table(sweep, asked), *told),
        section("pictures", "Pictures", heat, marks if both else None, page_only=True),
    )
    kicker = f"Sweep · {what_and_where(sweep.plan)}"
    return Document(sweep.plan.label, kicker, (verdict(sweep),), sections)


def advice_line(advice: advise.Recommendation) -> str:
    """Setting, latency and reason in one line."""
    config, run = advice.config, advice.prediction.run
    chosen = f"chunk {config.chunk_size}, {slots_words(config.slots)}"
    return f"{chosen}: {advise.seconds(run.latency_s)} predicted; {advice.reason}"


def encoders_words(advice: advise.Recommendation) -> str:
    """How many encoders to set on how many cores, and what other numbers give; empty if nothing is
    known of them."""
    if advice.encoding is None:
        return ""
    one, by = advice.encoding, advice.best_by_encoders
    on = f"{one.cores} cores" if one.cores else "Here"
    many = f"{one.encoders} encoder{'s' * (one.encoders != 1)}"
    others = ", ".join(f"{n}: {advise.seconds(took_s)}" for n, took_s in by.items())
    told = f"; by number of encoders {others}" if len(by) > 1 else ""
    return f"{on}: {many}{one.words and ' '}{one.words}{told}."


_OVER = {"vram_bytes": "VRAM", "pinned_bytes": "pinned memory", "ttff_s": "TTFF"}


def candidate_table(advice: advise.Recommendation, asked: Asked = NOTHING) -> Table:
    """A row per setting asked about; with what an hour costs if there is a price."""
    rows: list[Mapping[str, Shown]] = []
    any_vram = any(one.run.vram_peak_bytes is not None for one, _ in advice.candidates)
    for one, over in advice.candidates:
        run = one.run
        row: dict[str, Shown] = {
            "chunk": Number(run.config.chunk_size, 0),
            "slots": Number(run.config.slots, 0),
            "latency s": Number(run.latency_s, 3),
            "TTFF s": number(run.ttff_s, 3),
            "busy %": Number(one.utilization_percent["run"], 1),
            "pinned MB": Number(run.pinned_bytes / 1e6, 1),
        }
        if any_vram:
            row["VRAM GB"] = number(run.vram_peak_bytes, 2, 1e-9)
        if not run.info.kind.timed:
            row["images / s"] = significant(run.info.frames / run.latency_s, 3)
        elif asked.usd_per_hour is not None:
            each = COST.replace("video", run.info.medium)
            row[each] = cost_of(run.latency_s / run.info.seconds, asked)
        chosen = "recommended" if run.config == advice.config else None
        row["verdict"] = f"over: {', '.join(_OVER[name] for name in over)}" if over else chosen
        rows.append(row)
    price = asked.line if advice.prediction.run.info.kind.timed else ""
    return Table(rows, lines(price, "Predicted, mode async:"))


def advice_document(advice: advise.Recommendation, asked: Asked = NOTHING) -> Document:
    """The setting, the reason, what to buy, and every setting asked about."""
    gain, made = advice.gain_percent, advice.what_if.items()
    gains = ", ".join(f"{n} {gain(n):.1f} % (to {advise.seconds(s)})" for n, s in made)
    use = f"Use {advice_line(advice)}."
    twice = f"At twice the speed, latency saved: {gains}."
    said = [lines(use, encoders_words(advice), twice), *advice.remarks]
    parts = (Text("\n\n".join(said)), candidate_table(advice, asked))
    return Document("Advice", "Advice · mode async", (use,), (section("advice", "Advice", *parts),))


def advice_record(advice: advise.Recommendation) -> dict[str, Any]:
    """The answer for one line of JSON; s, bytes, %."""
    run, config = advice.prediction.run, advice.config
    ran = ("latency_s", "ttff_s", "vram_peak_bytes", "pinned_bytes")
    told = ("best_latency_s", "margin_percent", "bound", "reason", "remarks")
    return {
        "chunk_size": config.chunk_size,
        "slots": config.slots,
        **({"encoders": advice.encoding.encoders} if advice.encoding else {}),
        **{name: getattr(run, name) for name in ran},
        **{name: getattr(advice, name) for name in told},
        "what_if": {
            name: {"latency_s": latency_s, "gain_percent": advice.gain_percent(name)}
            for name, latency_s in advice.what_if.items()
        },
    }


def saving_line(sweep: Sweep, limits: advise.Limits, mb_per_s: float, usd_per_hour: float) -> str:
    """What the recommended setting saves against sync where storage has this speed, predicted.

    Raises:
        ValueError: as `storage_sensitivity`, or the sweep is of images, or has no mode sync to
            compare with.
    """
    work = sweep.plan.workload
    if not work.kind.timed:
        raise ValueError(f"{sweep.plan.label} is of {work.medium}, which no hour can be paid for")
    (point,) = advise.storage_sensitivity(sweep, [mb_per_s], limits)
    if point.sync_s is None:
        raise ValueError(f"{sweep.plan.label} has no cell of mode sync; sweep sync and async")
    config, run = point.advice.config, point.advice.prediction.run
    sync, chosen = (seconds / run.info.seconds for seconds in (point.sync_s, run.latency_s))
    sync_hour, hour = (cost_of(rtf, Asked(usd_per_hour)) for rtf in (sync, chosen))
    saved = saving_usd(sync, chosen, usd_per_hour)
    return (
        f"With storage at {mb_per_s:g} MB/s the recommended chunk {config.chunk_size} and "
        f"{slots_words(config.slots)} cost ${hour} for an hour of {work.medium}, sync at that "
        f"chunk size ${sync_hour}: predicted to save ${saved:.0f} in 1,000 hours."
    )
