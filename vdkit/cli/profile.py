"""``vdkit profile`` and ``vdkit analyze``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from vdkit.cli.money import add_money, money
from vdkit.cli.workload import add_workload, load, shared_arguments


def add_profile(commands: Any) -> None:
    profile = commands.add_parser(
        "profile",
        help="trace each decode path once: utilization, stalls by cause, kernels, NVML",
        description="Times each decode path with the NVML sampler off and on, profiles each once, "
        "and writes profile.json, table.md, nvml.csv, pictures and a trace of each path, which "
        "https://ui.perfetto.dev opens, into a new folder.",
    )
    add_workload(profile, runs=5, note=", and on a GPU as many again with the NVML sampler on")
    profile.add_argument(
        "--nvml-ms",
        type=float,
        default=20.0,
        metavar="MS",
        help="milliseconds between NVML samples, 1 to 10000 (default: 20)",
    )
    profile.add_argument(
        "--keep-kineto", action="store_true", help="also leave the profiler's own traces (large)"
    )
    add_money(profile)
    profile.set_defaults(run=run_profile)


def add_analyze(commands: Any) -> None:
    analyze = commands.add_parser(
        "analyze",
        help="the same figures for any Kineto trace, on a machine without a GPU",
        description="Utilization, gaps, stalls by cause and kernel families of a PyTorch profiler "
        "trace, of vdkit's own or any program's.",
    )
    analyze.add_argument("trace", type=Path, help="a trace: .json or .json.gz")
    analyze.add_argument("--gpu", type=int, help="which GPU, if the trace holds several")
    analyze.add_argument("--json", action="store_true", help="print only one line of JSON")
    analyze.set_defaults(run=run_analyze)


def run_profile(options: argparse.Namespace) -> int:
    from vdkit.measure.profiler import run_profile
    from vdkit.present.profile_charts import write_charts
    from vdkit.present.profile_report import profile_text
    from vdkit.record.old_profile import write_profile
    from vdkit.record.store import result_folder, write_atomically
    from vdkit.trace.write import write_trace

    asked = money(options)
    # Kineto of torch 2.13 greets on standard error at every session; a trace's warnings are kept.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    what = load(options)
    with tempfile.TemporaryDirectory(prefix="vdkit-") as scratch:
        done = run_profile(
            what.decoder,
            what.latents,
            what.spec.fresh,
            nvml_interval_s=options.nvml_ms / 1e3,
            keep=Path(scratch) if options.keep_kineto else None,
            **shared_arguments(what, options),
        )
        result = done.result
        write = partial(write_profile, result)
        home = result_folder(options.out, result.label, result.provenance, write)
        for mode, timeline in done.timelines.items():
            write_trace(timeline, home / result.arms[mode].trace)
        for trace in sorted(Path(scratch).glob("kineto_*")):
            shutil.move(trace, home / trace.name)
    if csv := done.nvml_csv():
        write_atomically(home / "nvml.csv", csv)
    text = profile_text(result, "markdown", **asked)
    write_atomically(home / "table.md", f"# {result.label}\n\n{text}\n")
    pictures = write_charts(result, home, done.timelines)
    if not options.json:
        style = "terminal" if sys.stdout.isatty() else "plain"
        print(f"\n{profile_text(result, style, **asked)}\n")
        for mode in result.arms:
            print(f"Trace for https://ui.perfetto.dev: {home / result.arms[mode].trace}")
        print("\n".join(f"Picture: {picture}" for picture in pictures))
        print(f"Recorded in {home}")
    failed = {mode: [c.name for c in m.analysis.failed] for mode, m in result.arms.items()}
    failed = {mode: names for mode, names in failed.items() if names}
    print(json.dumps({"folder": str(home), "failed_checks": failed}, separators=(",", ":")))
    if failed:
        print("vdkit: error: a trace is incomplete; profile again", file=sys.stderr)
        return 1
    return 0


def run_analyze(options: argparse.Namespace) -> int:
    from vdkit.trace.figures import analyze as analyze_timeline
    from vdkit.trace.read import read_trace

    timeline = read_trace(options.trace, options.gpu)
    try:
        analysis = analyze_timeline(timeline)
    except ValueError as error:
        raise ValueError(f"{options.trace}: {error}") from error
    if not options.json:
        from vdkit.present.profile_report import analysis_text

        name = timeline.run.mode if timeline.run else options.trace.name
        style = "terminal" if sys.stdout.isatty() else "plain"
        print(analysis_text(name, analysis, style))
    else:
        print(json.dumps({"trace": str(options.trace), **asdict(analysis)}, separators=(",", ":")))
    if analysis.failed:
        print("vdkit: error: the trace is incomplete", file=sys.stderr)
        return 1
    return 0
