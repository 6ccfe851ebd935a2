"""What each command of ``vdkit`` does; heavy imports wait until a command runs."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.decode.chunks import PRIMITIVES, DecodeConfig

if TYPE_CHECKING:
    import torch

    from vdkit.decode.protocols import ChunkDecoder
    from vdkit.sink_spec import SinkSpec


@dataclass(frozen=True, slots=True)
class _What:
    """What the options ask to be decoded, and how, checked and loaded."""

    decoder: ChunkDecoder
    latents: torch.Tensor
    spec: SinkSpec
    modes: list[str]
    config: DecodeConfig
    label: str
    source: str
    latents_source: str


def _load(options: argparse.Namespace) -> _What:
    """Check everything that can be checked before a decoder is loaded, then load."""
    from vdkit.measure.folders import check_out
    from vdkit.models.latents import load_latents
    from vdkit.models.loading import load_decoder
    from vdkit.sink_spec import SinkSpec, default_folder

    kind, _, folder = options.sink.partition(":")
    config = DecodeConfig(
        chunk_size=options.chunk,
        slots=options.slots,
        nvtx=options.nvtx,
        **{name: getattr(options, name) for name in PRIMITIVES},
    )
    where = Path(folder) if folder else None if kind == "null" else default_folder()
    spec = SinkSpec(kind, where, options.durable, options.throttle_mb_s)
    label = options.label or options.preset or Path(options.decoder).name
    check_out(options.out, label)
    decoder = load_decoder(options.decoder, options.device, options.dtype)
    latents = load_latents(options.latents, decoder, options.seed)
    if options.denormalize:
        latents = decoder.denormalize(latents)
    if not options.json:
        print(f"decoding on {decoder.device} in {str(decoder.dtype).removeprefix('torch.')}")
    given, source = Path(options.decoder), options.latents
    return _What(
        decoder=decoder,
        latents=latents,
        spec=spec,
        modes=[mode.strip() for mode in options.modes.split(",")],
        config=config,
        label=label,
        source=given.name if given.exists() else options.decoder,
        latents_source=source if source.startswith("random:") else Path(source).name,
    )


def _shared(what: _What, options: argparse.Namespace) -> dict[str, Any]:
    """The arguments that `run_benchmark` and `run_profile` have in common."""
    from vdkit.measure.records import SinkInfo

    return {
        "sink_info": SinkInfo(**what.spec.describe()),
        "modes": what.modes,
        "config": what.config,
        "fps": options.fps,
        "runs": options.runs,
        "source": what.source,
        "latents_source": what.latents_source,
        "seed": options.seed,
        "label": what.label,
        "command": shlex.join(["vdkit", *options.arguments]),
        "progress": not options.json and sys.stderr.isatty(),
    }


def bench(options: argparse.Namespace) -> int:
    from vdkit.measure.bench import run_benchmark
    from vdkit.measure.folders import result_folder
    from vdkit.measure.records import write_atomically, write_result
    from vdkit.present.tables import markdown_report, runs_frame, text_report

    what = _load(options)
    result = run_benchmark(
        what.decoder,
        what.latents,
        what.spec.fresh,
        baseline=options.baseline,
        warmup=options.warmup,
        **_shared(what, options),
    )
    home = result_folder(options.out, result)
    write_result(result, home)
    write_atomically(home / "runs.csv", runs_frame(result).to_csv(index=False))
    write_atomically(home / "table.md", markdown_report(result))
    if not options.json:
        print(f"\n{text_report(result)}\n\nRecorded in {home}")
    print(_one_line(result, home))
    if result.frames_identical is False:
        print("vdkit: error: the modes gave different frames", file=sys.stderr)
        return 1
    return 0


def profile(options: argparse.Namespace) -> int:
    from vdkit.measure.export import write_trace
    from vdkit.measure.folders import result_folder
    from vdkit.measure.profile_records import write_profile
    from vdkit.measure.profiling import run_profile
    from vdkit.measure.records import write_atomically
    from vdkit.present.charts import write_charts
    from vdkit.present.profile_report import profile_text

    # Kineto of torch 2.13 greets on standard error at every session; a trace's warnings are kept.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    what = _load(options)
    with tempfile.TemporaryDirectory(prefix="vdkit-") as scratch:
        done = run_profile(
            what.decoder,
            what.latents,
            what.spec.fresh,
            nvml_interval_s=options.nvml_ms / 1e3,
            keep=Path(scratch) if options.keep_kineto else None,
            **_shared(what, options),
        )
        result = done.result
        home = result_folder(options.out, result)
        write_profile(result, home)
        for mode, timeline in done.timelines.items():
            write_trace(timeline, home / result.modes[mode].trace)
        for trace in sorted(Path(scratch).glob("kineto_*")):
            shutil.move(trace, home / trace.name)
    if csv := done.nvml_csv():
        write_atomically(home / "nvml.csv", csv)
    text = profile_text(result, "markdown")
    write_atomically(home / "table.md", f"# {result.label}\n\n{text}\n")
    pictures = write_charts(result, home, done.timelines)
    if not options.json:
        print(f"\n{profile_text(result, 'terminal' if sys.stdout.isatty() else 'plain')}\n")
        for mode in result.modes:
            print(f"Trace for https://ui.perfetto.dev: {home / result.modes[mode].trace}")
        print("\n".join(f"Picture: {picture}" for picture in pictures))
        print(f"Recorded in {home}")
    failed = {mode: [c.name for c in m.analysis.failed] for mode, m in result.modes.items()}
    failed = {mode: names for mode, names in failed.items() if names}
    print(json.dumps({"folder": str(home), "failed_checks": failed}, separators=(",", ":")))
    if failed:
        print("vdkit: error: a trace is incomplete; profile again", file=sys.stderr)
        return 1
    return 0


def analyze(options: argparse.Namespace) -> int:
    from vdkit.measure.figures import analyze as analyze_timeline
    from vdkit.measure.trace_reader import read_trace

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


def _one_line(result: Any, home: Path) -> str:
    return json.dumps({"folder": str(home), **result.summary()}, separators=(",", ":"))


def demo(options: argparse.Namespace) -> int:
    from vdkit.demo import run_demo

    run_demo(options.out, options.device)
    return 0


def show(options: argparse.Namespace) -> int:
    if (options.result / "profile.json").is_file() or options.result.name == "profile.json":
        return _show_profile(options)
    from vdkit.measure.records import read_result
    from vdkit.present.plots import plot_timeline, steady_window
    from vdkit.present.tables import breakdown_rows, markdown_table, text_report

    if options.timeline is not None and options.timeline.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"timeline {str(options.timeline)!r}: end the name in .png, .svg or .pdf")
    if options.zoom is not None and options.zoom < 1:
        raise ValueError(f"zoom is {options.zoom}; draw 1 chunk or more")
    result = read_result(options.result)
    wanted = options.modes.split(",") if options.modes else list(result.modes)
    missing = [mode for mode in wanted if mode not in result.modes]
    if missing:
        raise ValueError(
            f"no mode {', '.join(missing)} in this result; it has {', '.join(result.modes)}"
        )
    print(text_report(result))
    print(f"\nWhere the time goes:\n\n{markdown_table(breakdown_rows(result))}")
    if options.timeline is None:
        if options.zoom is not None:
            raise ValueError("zoom is for a picture; name one with --timeline FILE")
        return 0
    runs = {mode: result.typical(mode) for mode in wanted}
    window = None
    if options.zoom is not None:
        runs = {mode: run for mode, run in runs.items() if len(run.chunks) > 1} or runs
        window = steady_window(runs.get("async") or next(iter(runs.values())), options.zoom)
    plot_timeline(runs, window, title=result.label).savefig(options.timeline)
    print(f"\nTimeline in {options.timeline}")
    return 0


def _show_profile(options: argparse.Namespace) -> int:
    from vdkit.measure.profile_records import read_profile
    from vdkit.present.profile_report import profile_text

    if options.timeline is not None or options.zoom is not None or options.modes is not None:
        raise ValueError("this is a profile: its pictures lie beside it; leave out the options")
    result = read_profile(options.result)
    print(profile_text(result, "terminal" if sys.stdout.isatty() else "plain"))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "bench": bench,
    "profile": profile,
    "analyze": analyze,
    "demo": demo,
    "show": show,
}
"""Command name to what runs it; each returns the exit status."""
