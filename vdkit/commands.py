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

from vdkit.decode.chunks import PRIMITIVES, DecodeConfig, exact_fps
from vdkit.generate import generate
from vdkit.show import show

if TYPE_CHECKING:
    import torch

    from vdkit.decode.protocols import ChunkDecoder
    from vdkit.measure.records import BenchmarkResult
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


def _check_numbers(options: argparse.Namespace) -> None:
    """ValueError or FileNotFoundError for what needs no decoder to be seen to be wrong."""
    from vdkit.measure.bench import check_plan

    modes = [mode.strip() for mode in options.modes.split(",")]
    warmup, baseline = getattr(options, "warmup", 0), getattr(options, "baseline", None)
    check_plan(modes, baseline, options.runs, warmup)
    exact_fps(options.fps)
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"seed is {options.seed}; use 0 to 2**63 - 1")
    latents = options.latents
    if not latents.startswith("random:") and not Path(latents).is_file():
        raise FileNotFoundError(
            f"no latents file {latents!r}; give a safetensors file or random:FRAMESxHxW, e.g. "
            "random:161x480x832"
        )
    milliseconds = getattr(options, "nvml_ms", 20)
    if not 1 <= milliseconds <= 10_000:
        raise ValueError(f"--nvml-ms is {milliseconds:g} ms; use 1 to 10000 ms")


def _load(options: argparse.Namespace) -> _What:
    """Check everything that can be checked before a decoder is loaded, then load."""
    from vdkit.measure.folders import check_out
    from vdkit.models.latents import latents_metadata, load_latents
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
    _check_numbers(options)
    decoder = load_decoder(options.decoder, options.device, options.dtype)
    latents = load_latents(options.latents, decoder, options.seed)
    if options.denormalize:
        if not options.latents.startswith("random:"):
            said = latents_metadata(options.latents).get("normalization")
            if said == "undone":
                raise ValueError(
                    f"{options.latents} says that its normalization is undone already; leave out "
                    "--denormalize"
                )
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
    print(_one_line(result, home, whole=options.json))
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


def _one_line(result: BenchmarkResult, home: Path, whole: bool) -> str:
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


def demo(options: argparse.Namespace) -> int:
    from vdkit.demo import run_demo

    run_demo(options.out, options.device)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "bench": bench,
    "profile": profile,
    "analyze": analyze,
    "demo": demo,
    "show": show,
    "generate": generate,
}
"""Command name to what runs it; each returns the exit status."""
