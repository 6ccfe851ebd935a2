"""The commands that measure: every one runs a plan of arms and leaves one recording."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.options import (
    DEFAULTS,
    DEVICE,
    VARIANTS,
    add_money,
    add_workload,
    apply_preset,
    asked,
    asked_modes,
    asked_variants,
    check,
    getting,
    latents_of,
    load,
    load_variant,
    numbers,
    progress,
    refuse,
    runnable,
    say,
    start_device,
    words,
)

if TYPE_CHECKING:
    from vdkit.predict.grid import Cell, Sweep
    from vdkit.present.columns import Asked
    from vdkit.record.recording import Recording


def add_runs(commands: Any) -> None:
    """``demo``, ``bench``, ``sweep`` and ``profile``."""
    demo = commands.add_parser(
        "demo", help="every decode path on a short clip (two minutes on two idle cores)"
    )
    demo.add_argument("--device", default="auto", help=DEVICE)
    demo.add_argument("--out", type=Path, default=Path("results/demo"), help="folder to write into")
    demo.set_defaults(run=run_demo)
    _add_bench(commands)
    _add_sweep(commands)
    profile = commands.add_parser(
        "profile",
        help="trace each decode path: utilization, stalls by cause, kernels, NVML",
        description="Times each decode path with the NVML sampler off and on, profiles it, and "
        "writes recording.json, table.md, nvml.csv, pictures and a trace of each path, which "
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


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="time decode paths against each other and record every value",
        description="Runs the decode paths in turns (A B B A ...), proves their frames identical, "
        "and writes recording.json, runs.csv, table.md and pictures into a new folder. The last "
        "line of standard output is one line of JSON: the folder and the latencies; with --json it "
        "is the only line, and the whole summary. --variants, --ablation and --aa are other plans "
        "of the same study.",
    )
    add_workload(bench, runs=None)
    add = bench.add_argument
    plan = bench.add_mutually_exclusive_group()
    plan.add_argument(
        "--variants",
        metavar="NAME,...",
        help=f"ways to run one decoder side by side, of {VARIANTS}, or all; the first is what the "
        "others are compared with (10 runs)",
    )
    plan.add_argument(
        "--ablation",
        action="store_true",
        help="async with each of its primitives off in turn (8 runs)",
    )
    plan.add_argument(
        "--aa",
        action="store_true",
        help="one mode against itself, and with work planted after every chunk: does compare stay "
        "quiet, and find it? (40 runs)",
    )
    add(
        "--no-families",
        dest="families",
        action="store_false",
        help="with --variants: do not profile kernels by family afterwards",
    )
    add("--only", metavar="NAME,...", help="with --ablation: only these settings")
    add("--mode", help="with --aa: sync, async or compute_only (default: async)")
    add("--pairs", type=int, help="with --aa: rounds drawn in each split (default: 10)")
    add("--splits", type=int, help="with --aa: how often to draw and ask (default: 40)")
    add(
        "--plant",
        type=float,
        metavar="PERCENT",
        help="with --aa: work planted after each chunk, %% of its decode time (default: 2 on a "
        "GPU, 5 on a CPU)",
    )
    add("--baseline", help="the mode that speed-ups are against (default: sync)")
    add("--warmup", type=int, help=f"untimed runs of each mode (default: {DEFAULTS['warmup']})")
    add_money(bench)
    bench.set_defaults(run=run_bench)


def run_bench(options: argparse.Namespace) -> int:
    """Run one plan of a study, print and record it; returns the exit status."""
    wants = asked(options)
    if not options.aa:
        refuse(options, ("mode", "pairs", "splits", "plant"), "is for --aa; add it")
    if not options.ablation:
        refuse(options, ("only",), "is for --ablation; add it")
    if options.ablation:
        recording = _ablation(options)
    elif options.aa:
        recording = _aa(options)
    else:
        options.runs = 10 if options.runs is None else options.runs
        recording = _variants(options) if options.variants is not None else _paths(options)
    keep(recording, options, wants)
    if recording.frames_identical is False:
        print("vdkit: error: the modes gave different frames", file=sys.stderr)
        return 1
    return 0


def _paths(options: argparse.Namespace) -> Recording:
    from vdkit.measure.plans import headline_arms, run_benchmark

    what, modes, export = load(options), runnable(options), None
    if what.spec.kind == "mp4" and what.spec.throttle_mb_per_s is None and "diffusers" in modes:
        try:
            export = replace(what.spec, kind="export_to_video").fresh
        except ImportError as error:
            say(options, f"no arm of diffusers' own export_to_video: {error}")
    return run_benchmark(
        what.decoder, what.latents, what.spec.fresh, modes=modes, runs=options.runs,
        baseline=options.baseline, warmup=options.warmup, extra=headline_arms(modes, export),
        **what.shared,
    )  # fmt: skip


def _variants(options: argparse.Namespace) -> Recording:
    from vdkit.measure.plans import run_variants

    names = asked_variants(options)
    spec, _, shared = check(options)
    start_device(options)
    return run_variants(
        [(name, partial(load_variant, options, name)) for name in names],
        lambda decoder: latents_of(decoder, options),
        spec.fresh,
        modes=asked_modes(options),
        baseline=options.baseline,
        runs=options.runs,
        warmup=options.warmup,
        families=options.families,
        exact=partial(load_variant, options, "diffusers", "float32"),
        guard=getting,
        say=partial(say, options),
        **shared,
    )


def _ablation(options: argparse.Namespace) -> Recording:
    from vdkit.measure.plans import run_ablation

    options.label = options.label or "ablation"
    options.runs = 8 if options.runs is None else options.runs
    what = load(options)
    return run_ablation(
        what.decoder, what.latents, what.spec.fresh, runs=options.runs, only=words(options.only),
        **what.shared,
    )  # fmt: skip


def _aa(options: argparse.Namespace) -> Recording:
    from vdkit.measure.plans import check_plant, run_aa

    options.label = options.label or "aa"
    options.runs = 40 if options.runs is None else options.runs
    options.modes = "compute_only" if options.mode == "compute" else options.mode or "async"
    pairs = 10 if options.pairs is None else options.pairs
    splits = 40 if options.splits is None else options.splits
    check_plant(options.modes, options.runs, pairs, splits, options.plant)
    what = load(options)
    return run_aa(
        what.decoder, what.latents, what.spec.fresh, mode=options.modes, rounds=options.runs,
        pairs=pairs, splits=splits, plant_percent=options.plant, **what.shared,
    )  # fmt: skip


def keep(
    recording: Recording,
    options: argparse.Namespace,
    wants: Asked,
    beside: Callable[[Path], list[str]] = lambda home: [],
) -> Path:
    """Print a finished study and record it: recording, runs, table, pictures; returns where.

    Args:
        beside: writes what else belongs there, and gives the lines that say so.
    """
    from vdkit.present.document import write_pictures
    from vdkit.present.documents import document_of, source_of
    from vdkit.record.recording import write_recording
    from vdkit.record.results import runs_frame
    from vdkit.record.store import result_folder, write_atomically

    document = document_of(recording, wants)
    # First, for where it is to be recorded may be full.
    say(options, f"\n{document.text(terminal=sys.stdout.isatty())}\n")
    home = result_folder(
        options.out, recording.label, recording.provenance, partial(write_recording, recording)
    )
    write_atomically(home / "runs.csv", runs_frame(recording).to_csv(index=False))
    lines = beside(home)
    document = document_of(recording, wants, source_of(home))
    write_atomically(home / "table.md", document.markdown())
    lines += [f"Picture: {path}" for path in write_pictures(document, home)]
    for line in (*lines, f"Recorded in {home}"):
        say(options, line)
    print(
        json.dumps({"folder": str(home), **answer(recording, options.json)}, separators=(",", ":"))
    )
    return home


def answer(recording: Recording, whole: bool) -> dict[str, Any]:
    """For one line of JSON: everything but the runs; not ``whole``: only what fits a terminal."""
    arms: dict[str, Any] = {}
    for name, arm in recording.arms.items():
        latency, ratio = asdict(arm.latency), recording.speedup(name)
        kept = ("mean", "p99", "max", "n")
        arms[name] = {"latency_s": {key: round(latency[key], 6) for key in kept}}
        if whole:
            arms[name] = {
                "mode": arm.mode,
                "latency_s": latency,
                "ttff_s": arm.ttff and asdict(arm.ttff),
                "rtf": arm.rtf,
                "speedup": ratio and asdict(ratio),
                "frame_sha256": arm.frame_sha256,
                "vram_peak_bytes": arm.vram_peak_bytes,
                "pinned_bytes": arm.pinned_bytes,
                "d2h_bytes": arm.d2h_bytes,
                "throttled_runs": arm.throttled_runs,
                "setup_s": arm.setup_s,
                "config": asdict(arm.config),
                "workload": arm.workload.model_dump(mode="json"),
                "sink": arm.sink.model_dump(mode="json"),
            }
    made: dict[str, Any] = {"kind": recording.kind, "frames_identical": recording.frames_identical}
    if recording.planted is not None:
        from vdkit.record.compare import judged

        made["calls"] = {
            metric: {
                "planted": round(one.planted.value, 6),
                "false_calls": {how: share.count for how, share in one.false_calls.items()},
                "found": {how: share.count for how, share in one.found.items()},
                "splits": recording.planted.splits,
            }
            for metric, one in judged(recording).items()
        }
    shared = recording.model_dump(mode="json", exclude={"arms", "kind"}) if whole else {}
    return made | shared | {"arms": arms}


def run_profile(options: argparse.Namespace) -> int:
    """Time and profile each path; returns the exit status."""
    from vdkit.measure.profiler import run_profile as measure
    from vdkit.record.store import write_atomically
    from vdkit.trace.write import write_trace

    wants = asked(options)
    if not 1 <= options.nvml_ms <= 10_000:
        raise ValueError(f"--nvml-ms is {options.nvml_ms:g} ms; use 1 to 10000 ms")
    # Kineto of torch 2.13 greets on standard error at every session; a trace's warnings are kept.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    what = load(options)
    with tempfile.TemporaryDirectory(prefix="vdkit-") as scratch:
        done = measure(
            what.decoder,
            what.latents,
            what.spec.fresh,
            modes=runnable(options),
            runs=options.runs,
            nvml_interval_s=options.nvml_ms / 1e3,
            keep=Path(scratch) if options.keep_kineto else None,
            **what.shared,
        )
        arms = {name: arm.profile for name, arm in done.recording.arms.items() if arm.profile}

        def beside(home: Path) -> list[str]:
            for name, timeline in done.timelines.items():
                write_trace(timeline, home / arms[name].trace)
            for trace in sorted(Path(scratch).glob("kineto_*")):
                shutil.move(trace, home / trace.name)
            if csv := done.nvml_csv():
                write_atomically(home / "nvml.csv", csv)
            return [
                f"Trace for https://ui.perfetto.dev: {home / one.trace}" for one in arms.values()
            ]

        keep(done.recording, options, wants, beside)
    if any(one.analysis.failed for one in arms.values()):
        print("vdkit: error: a trace is incomplete; profile again", file=sys.stderr)
        return 1
    return 0


def _add_sweep(commands: Any) -> None:
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
    """Start or resume a sweep; returns the exit status."""
    from vdkit.measure.study import Bench
    from vdkit.measure.sweep import SweepLocked, plan_cells, start_sweep
    from vdkit.measure.sweep import run_sweep as measure

    wants = asked(options)
    folder: Path | None = options.resume
    if folder is not None:
        options = _begun_with(folder, options)
    grid = (
        numbers("chunks", options.chunks, int),
        numbers("ring-slots", options.ring_slots, int),
        numbers("speeds", options.speeds, lambda w: None if w == "full" else float(w)),
    )
    modes = asked_modes(options)
    plan_cells(modes, *grid)  # what is wrong with it without the video
    what = load(options, ready=False)  # every chunk size is prepared for in its turn
    for speed in grid[2]:
        replace(what.spec, throttle_mb_per_s=speed)  # which not every kind of sink can be
    shared = {name: value for name, value in what.shared.items() if name != "progress"}
    bench = Bench(what.decoder, what.latents, what.spec.fresh, **shared)
    if folder is None:
        folder = start_sweep(bench, options.out, modes, *grid, runs=options.runs)
    say(options, f"Recording in {folder}")
    try:
        sweep = measure(folder, bench, progress=progress(options), report=_reporter(options))
        _finish(sweep, options, wants)
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
    _add_sweep(parser.add_subparsers(dest="command"))
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


def _reporter(options: argparse.Namespace) -> Any:
    from vdkit.present.sweep_document import cell_line

    def report(sweep: Sweep, cell: Cell) -> None:
        done, of = len(sweep.results) + len(sweep.unfit), len(sweep.plan.all_cells)
        say(options, f"{done:3} of {of}  {cell_line(sweep, cell)}")

    return report


def _finish(sweep: Sweep, options: argparse.Namespace, wants: Asked) -> None:
    """Table, CSV and pictures beside the cells, and what is printed at the end."""
    from vdkit.predict.grid import median_and_worst
    from vdkit.present.document import write_pictures
    from vdkit.present.sweep_document import sweep_document, sweep_frame
    from vdkit.record.store import write_atomically

    home, document = sweep.folder, sweep_document(sweep, wants)
    write_atomically(home / "table.md", document.markdown())
    write_atomically(home / "cells.csv", sweep_frame(sweep).to_csv(index=False))
    pictures = write_pictures(document, home)
    say(options, f"\n{document.text()}\n")
    for picture in pictures:
        say(options, f"Picture: {picture}")
    say(options, f"Recorded in {home}")
    made: dict[str, Any] = {
        "folder": str(home),
        "measured": len(sweep.results),
        "does_not_fit": len(sweep.unfit),
    }
    if errors := sweep.errors():
        median, worst, where = median_and_worst(errors)
        made |= {
            "predicted": len(errors),
            "median_error_percent": round(median, 4),
            "worst_error_percent": round(worst, 4),
            "worst_cell": where.key,
        }
    print(json.dumps(made, separators=(",", ":")))


def run_demo(options: argparse.Namespace) -> int:
    """The main job in small."""
    from vdkit import demo

    demo.run_demo(options.out, options.device)
    return 0
