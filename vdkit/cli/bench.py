"""``vdkit bench`` and ``vdkit demo``."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.money import add_money, money
from vdkit.cli.variants import add_variants, run_variants_bench
from vdkit.cli.workload import DEFAULTS, add_workload, load, shared_arguments

if TYPE_CHECKING:
    from vdkit.record.recording import Recording


def add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="time decode paths against each other and record every value",
        description="Runs the decode paths in turns (A B B A ...), proves their frames identical, "
        "and writes result.json, runs.csv and table.md into a new folder. The last line of "
        "standard output is one line of JSON: the folder and the latencies; with --json it is the "
        "only line, and the whole summary. With --variants, ways to run one decoder side by side: "
        "a result_NAME.json of each, one table, and on a GPU families.csv and families.png.",
    )
    add_workload(bench, runs=10)
    add_variants(bench)
    bench.add_argument("--baseline", help="the mode that speed-ups are against (default: sync)")
    bench.add_argument(
        "--warmup", type=int, help=f"untimed runs of each mode (default: {DEFAULTS['warmup']})"
    )
    add_money(bench)
    bench.set_defaults(run=run_bench)


def add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo", help="every decode path on a short clip (two minutes on two idle cores)"
    )
    demo.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    demo.add_argument("--out", type=Path, default=Path("results/demo"), help="folder to write into")
    demo.set_defaults(run=run_demo)


def run_bench(options: argparse.Namespace) -> int:
    if options.variants is not None:
        return run_variants_bench(options)
    from vdkit.measure.plans import run_benchmark
    from vdkit.present.tables import markdown_report, runs_frame, text_report
    from vdkit.record.recording import write_recording
    from vdkit.record.store import result_folder, write_atomically

    asked = money(options)
    what = load(options)
    result = run_benchmark(
        what.decoder,
        what.latents,
        what.spec.fresh,
        baseline=options.baseline,
        warmup=options.warmup,
        setup_s=what.setup_s,
        **shared_arguments(what, options),
    )
    if not options.json:  # first, for where it is to be recorded may be full
        print(f"\n{text_report(result, **asked)}\n", flush=True)
    write = partial(write_recording, result)
    home = result_folder(options.out, result.label, result.provenance, write)
    write_atomically(home / "runs.csv", runs_frame(result).to_csv(index=False))
    write_atomically(home / "table.md", markdown_report(result, **asked))
    if not options.json:
        print(f"Recorded in {home}")
    print(_one_line(result, home, whole=options.json))
    if result.frames_identical is False:
        print("vdkit: error: the modes gave different frames", file=sys.stderr)
        return 1
    return 0


def _one_line(result: Recording, home: Path, whole: bool) -> str:
    """The folder and the answer; not ``whole``: only what fits a terminal."""
    answer = result.summary()
    if not whole:
        kept = ("mean", "p99", "max", "n")
        modes = {
            mode: {"latency_s": {key: round(one["latency_s"][key], 6) for key in kept}}
            for mode, one in answer["modes"].items()
        }
        answer = {"frames_identical": answer["frames_identical"], "modes": modes}
    return json.dumps({"folder": str(home), **answer}, separators=(",", ":"))


def run_demo(options: argparse.Namespace) -> int:
    from vdkit import demo

    demo.run_demo(options.out, options.device)
    return 0
