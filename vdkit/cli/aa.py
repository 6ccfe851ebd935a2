"""``vdkit aa``."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from vdkit.cli.workload import add_workload, load, shared_arguments

if TYPE_CHECKING:
    from pathlib import Path

    from vdkit.measure.planted import Control


def add_aa(commands: Any) -> None:
    aa = commands.add_parser(
        "aa",
        help="a setting against itself: does compare stay quiet, and find a planted slow-down?",
        description="Runs one setting twice, and once more with work planted after every chunk, in "
        "turns; then asks as compare does, over and over, about rounds drawn at random. Writes "
        "aa.json, the runs of each arm, table.md and rounds.png into a new folder. The last line "
        "of standard output is one line of JSON; with --json it is the only line, and the whole "
        "summary.",
    )
    add_workload(aa, runs=None, note="", label="aa")
    add = aa.add_argument
    add("--mode", default="async", help="sync, async or compute (default: async)")
    add("--rounds", type=int, default=40, help="rounds, each of three runs (default: 40)")
    add("--pairs", type=int, default=10, help="rounds drawn in each split (default: 10)")
    add("--splits", type=int, default=40, help="how often to draw and ask (default: 40)")
    add(
        "--plant",
        type=float,
        metavar="PERCENT",
        help="work planted after each chunk, %% of its decode time (default: 2 on a GPU, 5 on a "
        "CPU)",
    )
    aa.set_defaults(run=run_aa)


def run_aa(options: argparse.Namespace) -> int:
    from vdkit.measure.planted import check_control, run_control
    from vdkit.present.control_report import control_summary, control_text

    check_control(options.mode, options.rounds, options.pairs, options.splits, options.plant)
    options.modes, options.runs = options.mode, options.rounds
    options.label = options.label or "aa"
    what = load(options)
    shared = shared_arguments(what, options)
    del shared["modes"], shared["runs"]
    control = run_control(
        what.decoder,
        what.latents,
        what.spec.fresh,
        mode=options.mode,
        rounds=options.rounds,
        pairs=options.pairs,
        splits=options.splits,
        plant_percent=options.plant,
        **shared,
    )
    home = _record(control, options.out)
    if not options.json:
        print(f"\n{control_text(control.result)}\n\nRecorded in {home}")
    answer = control_summary(control.result, whole=options.json)
    print(json.dumps({"folder": str(home), **answer}, separators=(",", ":")))
    return 0


def _record(control: Control, out: Path) -> Path:
    """Everything into a new folder, the records first."""
    from vdkit.present.control_report import control_text, plot_rounds
    from vdkit.record.old_aa import arm_file
    from vdkit.record.store import result_folder, write_atomically, write_record

    result = control.result

    def write(folder: Path) -> None:
        for arm, one in control.arms.items():
            write_record(one, folder / arm_file(arm))
        write_record(result, folder / "aa.json")

    home = result_folder(out, result.label, result.provenance, write)
    write_atomically(home / "table.md", f"# {result.label}\n\n{control_text(result)}\n")
    plot_rounds(control.arms).savefig(home / "rounds.png")
    return home
