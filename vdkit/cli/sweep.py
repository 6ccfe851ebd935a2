"""``vdkit sweep``: chunk size x slots x sink speed x path, predicted and measured."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.money import add_money, money
from vdkit.cli.workload import add_workload, apply_preset, load, shared_arguments

if TYPE_CHECKING:
    from vdkit.predict.grid import Cell, Sweep


def add_sweep(commands: Any) -> None:
    sweep = commands.add_parser(
        "sweep",
        help="chunk size x slots x sink speed x path: predicted from a few points, all measured",
        description="Measures a few points of a grid, fits the costs of each step from them, "
        "predicts every other point, then measures those too. Every finished point is kept in a "
        "new folder, with the table, a heat map and a scatter plot; --resume goes on with one "
        "that was interrupted. A point whose memory cannot be had is recorded as such.",
    )
    add_workload(sweep, runs=3, modes="sync,async", grid=True)
    add = sweep.add_argument
    add("--chunks", default="1,2,4", help="latent frames per decoder call (default: 1,2,4)")
    add("--ring-slots", default="1,2,3,4", help="ring slots of async (default: 1,2,3,4)")
    add(
        "--speeds",
        default="full,400,100,40",
        metavar="MB/S,...",
        help="what the sink is held to, full for not at all (default: full,400,100,40)",
    )
    add(
        "--resume",
        type=Path,
        metavar="FOLDER",
        help="go on with this sweep, by the options it was begun with",
    )
    add_money(sweep)
    sweep.set_defaults(run=run_sweep)


def run_sweep(options: argparse.Namespace) -> int:
    from vdkit.measure.study import Bench
    from vdkit.measure.sweep import SweepLocked, plan_cells, start_sweep
    from vdkit.measure.sweep import run_sweep as measure
    from vdkit.record.runs import SinkInfo

    asked = money(options)
    folder: Path | None = options.resume
    if folder is not None:
        options = _begun_with(folder, options)
    grid = (
        numbers("chunks", options.chunks, int),
        numbers("ring-slots", options.ring_slots, int),
        numbers("speeds", options.speeds, _speed),
    )
    modes = [mode.strip() for mode in options.modes.split(",")]
    plan_cells(modes, *grid)  # what is wrong with it without the video
    what = load(options, ready=False)  # every chunk size is prepared for in its turn
    bench = Bench(
        what.decoder, what.latents, options.fps, what.source, what.latents_source, options.seed,
        what.setup_s,
    )  # fmt: skip
    if folder is None:
        fit_cells, cells = plan_cells(
            modes, *grid, latent_frames=bench.workload.latent_frames, seed=options.seed
        )
        folder = start_sweep(
            bench,
            fit_cells,
            cells,
            options.out,
            sink_info=SinkInfo(**what.spec.describe()),
            config=what.config,
            runs=options.runs,
            label=what.label,
            command=shared_arguments(what, options)["command"],
        )
    if not options.json:
        print(f"Recording in {folder}", flush=True)
    progress = not options.json and sys.stderr.isatty()

    def sink_at(speed: float | None) -> Any:
        spec = replace(what.spec, throttle_mb_per_s=speed)
        return spec.fresh, SinkInfo(**spec.describe())

    try:
        sweep = measure(folder, bench, sink_at, progress=progress, report=_reporter(options.json))
        _finish(sweep, options, asked)
        return 0
    except SweepLocked as error:
        raise ValueError(str(error)) from error
    except KeyboardInterrupt:
        print(
            f"vdkit: interrupted; finished cells are kept, go on with: vdkit sweep --resume "
            f"{shlex.quote(str(folder))}",
            file=sys.stderr,
        )
        return 130


def _begun_with(folder: Path, given: argparse.Namespace) -> argparse.Namespace:
    """The options that the sweep in ``folder`` was begun with."""
    from vdkit.predict.grid import read_sweep

    command = read_sweep(folder).plan.command
    if command is None:
        raise ValueError(f"{folder} was not begun from the command line; resume it with run_sweep")
    parser = argparse.ArgumentParser(prog="vdkit")
    add_sweep(parser.add_subparsers(dest="command"))
    bare = parser.parse_args(["sweep", "--resume", str(folder)])
    apply_preset(bare)
    now = {"resume", "json", "usd_per_hour", "energy"}  # may differ from when it was begun
    for name, value in vars(bare).items():
        if name not in now and getattr(given, name) != value:
            raise ValueError(
                "--resume goes on with the options that the sweep was begun with; leave out "
                f"--{name.replace('_', '-')}"
            )
    begun = shlex.split(command)[1:]
    options = parser.parse_args(begun)
    apply_preset(options)
    options.arguments = begun
    for name in now:
        setattr(options, name, getattr(given, name))
    return options


def numbers(name: str, text: str, kind: Any) -> list[Any]:
    """``1,2,4`` as numbers of ``kind``; ValueError that names the word that is none."""
    found = []
    for word in text.split(","):
        try:
            found.append(kind(word.strip()))
        except ValueError:
            also = " or full" if name == "speeds" else ""
            raise ValueError(
                f"--{name} {text!r}: {word.strip()!r} is no number; give numbers{also}, separated "
                "by commas"
            ) from None
    return found


def _speed(word: str) -> float | None:
    return None if word == "full" else float(word)


def _reporter(silent: bool) -> Any:
    from vdkit.present.sweep_tables import cell_line

    def report(sweep: Sweep, cell: Cell) -> None:
        done = len(sweep.results) + len(sweep.unfit)
        if not silent:
            line = cell_line(sweep, cell)
            print(f"{done:3} of {len(sweep.plan.all_cells)}  {line}", flush=True)

    return report


def _finish(sweep: Sweep, options: argparse.Namespace, asked: dict[str, Any]) -> None:
    """Table, CSV and pictures beside the cells, and what is printed at the end."""
    from vdkit.predict.grid import median_and_worst
    from vdkit.present.sweep_charts import write_sweep_charts
    from vdkit.present.sweep_tables import sweep_frame, sweep_text
    from vdkit.record.store import write_atomically

    home = sweep.folder
    text = sweep_text(sweep, **asked)
    write_atomically(home / "table.md", f"# {sweep.plan.label}\n\n{text}\n")
    write_atomically(home / "cells.csv", sweep_frame(sweep).to_csv(index=False))
    pictures = write_sweep_charts(sweep)
    if not options.json:
        print(f"\n{text}\n")
        print("\n".join(f"Picture: {picture}" for picture in pictures))
        print(f"Recorded in {home}")
    answer: dict[str, Any] = {
        "folder": str(home),
        "measured": len(sweep.results),
        "does_not_fit": len(sweep.unfit),
    }
    if errors := sweep.errors():
        median, worst, where = median_and_worst(errors)
        answer |= {
            "predicted": len(errors),
            "median_error_percent": round(median, 4),
            "worst_error_percent": round(worst, 4),
            "worst_cell": where.key,
        }
    print(json.dumps(answer, separators=(",", ":")))
