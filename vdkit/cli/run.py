"""The commands that decode.

Each that measures runs a plan of arms and leaves one recording; generate and decode leave a video.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vdkit
from vdkit import cli
from vdkit.decode.chunks import exact_fps
from vdkit.decode.media import MEDIA, MediaInfo
from vdkit.predict.grid import Cell, Sweep, median_and_worst, read_sweep
from vdkit.present import Number, Table
from vdkit.present.document import Document, Text, section, write_pictures
from vdkit.present.documents import benchmark_table, document_of, source_of
from vdkit.present.instruments import anatomy_document, plot_anatomy
from vdkit.present.sweep_document import cell_line, cell_records, sweep_document
from vdkit.present.words import media_words, noise_note
from vdkit.record import (
    check_file,
    check_out,
    claim,
    result_folder,
    write_atomically,
    write_sums,
    written,
)
from vdkit.record.compare import judged
from vdkit.record.recording import Recording, write_recording
from vdkit.record.results import read_recording, runs_frame
from vdkit.trace import balancing_mb_per_s

if TYPE_CHECKING:
    from vdkit.decode.chunks import DecodeConfig
    from vdkit.models.pipeline import GeneratedLatents


DEMO, FPS, RUNS = "demo", 16, 2


@cli.command("device out", decoder="tiny-wan", dtype=None)
def run_demo(options: argparse.Namespace) -> int:
    """every decode path on a short clip (two minutes on two idle cores)"""
    from vdkit.models.latents import latents_metadata
    from vdkit.models.loading import EXAMPLE

    out: Path = options.out
    check_out(out, DEMO)
    with contextlib.suppress(FileNotFoundError):  # an earlier demo is replaced, nothing else is
        if read_recording(out).label != DEMO:
            raise FileExistsError(f"--out {str(out)!r} holds a recording; give another folder")
    decoder = cli.load_variant(options, "diffusers")
    note = "" if decoder.device.type == "cuda" else " (no GPU in use: copies are memcpy)"
    latents, made = vdkit.load_latents(EXAMPLE, decoder), latents_metadata(EXAMPLE)
    out.mkdir(parents=True, exist_ok=True)
    print(f"vdkit demo on {decoder.device}{note}")
    print(f"{made['video']}, made by {made['source']} for {made['prompt']!r}\n")

    # No warm-up: the untimed run that hashes the frames warms the device up.
    measured = partial(
        vdkit.run_benchmark, decoder, latents, fps=FPS, runs=RUNS, warmup=0,
        progress=sys.stderr.isatty(), latents_source=EXAMPLE.name,
        command=cli.command_line(options.arguments),
    )  # fmt: skip
    free = measured(vdkit.SinkSpec("raw", out).fresh, label=DEMO)
    _show_short("1. Storage keeps up", free)
    if not free.frames_identical:
        raise RuntimeError(
            "the decode paths gave different frames; this is a bug in vdkit or torch"
        )
    fastest, work = min(free.arms["sync"].timed, key=lambda run: run.latency_s), free.workload
    speed = balancing_mb_per_s(fastest, work.height * work.width * 3)
    held = vdkit.SinkSpec("null", throttle_mb_per_s=speed)
    slow = measured(held.fresh, modes=("sync", "async"), label=f"{DEMO}, slow storage")
    print(f"Now storage is held to {speed:.3g} MB/s: writing a chunk takes about as long as")
    print("decoding it. sync pays for both, async only for the longer one and the last write.\n")
    _show_short("2. Storage as slow as the decoder", slow)
    print(f"Runs of each: {RUNS}. That shows what overlaps with what; how much it saves takes more")
    print("runs than that: vdkit bench makes 10 of each.\n")

    claim(video := out / "demo.mp4")
    vdkit.decode_async(decoder, latents, vdkit.Mp4Sink(video), fps=FPS, progress=False)
    title = f"One decode on {slow.provenance.device}, storage held to {speed:.3g} MB/s"
    with written(picture := out / "timeline.png") as partly:
        drawn = {name: arm.typical() for name, arm in slow.arms.items()}
        vdkit.plot_timeline(drawn, title=title).savefig(partly)
    texts = {"runs.csv": runs_frame(free).to_csv(index=False)}
    for end, recording in (("", free), ("_slow_storage", slow)):
        texts[f"table{end}.md"] = document_of(recording).markdown()
        texts[f"recording{end}.json"] = recording.model_dump_json() + "\n"
    for name, text in texts.items():
        write_atomically(out / name, text)
    write_sums(out)
    print("Written:", *(f"  {out / name}" for name in (video.name, picture.name, *texts)), sep="\n")
    return 0


def _show_short(title: str, recording: Recording) -> None:
    table = benchmark_table(recording, table="demo")
    parts = section("demo", title, Text(title), Text(noise_note(recording), "warning"), table)
    print(cli.told(Document(title, "", (), (parts,))) + "\n")


@cli.command(
    f"{cli.WORKLOAD} variants|ablation|aa no-families only mode pairs splits plant baseline warmup "
    f"{cli.MONEY}"
)
def run_bench(options: argparse.Namespace) -> int:
    """time decode paths against each other and record every value

    Runs the decode paths in turns (A B B A ...), proves their frames identical, and writes
    recording.json, runs.csv, table.md and pictures into a new folder. The last line of standard
    output is one line of JSON: the folder and the latencies; with --json it is the only line, and
    the whole summary. --variants, --ablation and --aa are other plans of the same study.
    """
    for plan, names in (("aa", ("mode", "pairs", "splits", "plant")), ("ablation", ("only",))):
        for name in names:
            if not getattr(options, plan) and getattr(options, name) is not None:
                raise ValueError(f"--{name} is for --{plan}; add it")
    default, run = 10, _paths if options.variants is None else _variants
    if options.ablation or options.aa:
        options.label = options.label or ("aa" if options.aa else "ablation")
        default, run = (40, _aa) if options.aa else (8, _ablation)
    options.runs = default if options.runs is None else options.runs
    recording = run(options)
    keep(recording, options)
    if recording.frames_identical is False:
        print("vdkit: error: the modes gave different frames", file=sys.stderr)
        return 1
    return 0


def _paths(options: argparse.Namespace) -> Recording:
    decoder, latents, spec, shared = cli.load(options)
    modes = cli.runnable(options)
    extra = _extra(options, modes, shared["config"], decoder)
    return vdkit.run_benchmark(
        decoder, latents, spec.fresh, modes=modes, runs=options.runs, baseline=options.baseline,
        warmup=options.warmup, extra=extra, **shared,
    )  # fmt: skip


def _extra(
    options: argparse.Namespace, modes: list[str], config: DecodeConfig, decoder: Any = None
) -> dict[str, dict[str, Any]]:
    """Arms beside the paths into the first sink; of video in MP4 diffusers' own export_to_video.

    ``decoder``: None for variants of Wan, whose conversion is no arm of its own.
    """
    from vdkit.decode import Traits
    from vdkit.measure.plans import headline_arms

    (spec, *others), export = cli.specs(options), None
    on_gpu = decoder is not None and decoder.device.type == "cuda"
    free_mp4 = spec.kind == "mp4" and spec.throttle_mb_per_s is None
    if free_mp4 and (decoder is None or Traits.of(decoder).medium.name == "video"):
        try:
            export = replace(spec, kind="export_to_video", options={}).fresh
        except ImportError as error:
            cli.say(options, f"no arm of diffusers' own export_to_video: {error}")
    return headline_arms(on_gpu, config, modes, export, [one.fresh for one in others])


def _variants(options: argparse.Namespace) -> Recording:
    options.latents = options.latents or f"random:{MEDIA['video'].sample}"  # variants are Wan's
    spec, shared = cli.check(options)
    cli.start_device(options)
    get = partial(partial, cli.load_variant, options)
    modes = cli.asked_modes(options)
    extra = _extra(options, modes, shared["config"])
    return vdkit.run_variants(
        [(name, get(name)) for name in cli.asked_variants(options)],
        partial(cli.latents_of, options), spec.fresh, modes=modes, extra=extra,
        baseline=options.baseline, runs=options.runs, warmup=options.warmup,
        families=options.families, exact=get("diffusers", "float32"), guard=cli.getting,
        say=partial(cli.say, options), **shared,
    )  # fmt: skip


def _ablation(options: argparse.Namespace) -> Recording:
    decoder, latents, spec, shared = cli.load(options)
    shared |= {"runs": options.runs, "only": cli.words(options.only)}
    return vdkit.run_ablation(decoder, latents, spec.fresh, **shared)


def _aa(options: argparse.Namespace) -> Recording:
    from vdkit.measure.plans import check_plant, run_aa

    mode = "compute_only" if options.mode == "compute" else options.mode or "async"
    pairs = 10 if options.pairs is None else options.pairs
    splits = 40 if options.splits is None else options.splits
    check_plant(mode, options.runs, pairs, splits, options.plant)
    options.modes = mode
    decoder, latents, spec, shared = cli.load(options)
    plan: dict[str, Any] = {"mode": mode, "rounds": options.runs, "pairs": pairs, "splits": splits}
    return run_aa(decoder, latents, spec.fresh, plant_percent=options.plant, **plan, **shared)


def keep(
    recording: Recording, options: argparse.Namespace,
    beside: Callable[[Path], list[str]] = lambda home: [],
) -> None:  # fmt: skip
    """Print a finished study and record it: recording, runs, table, pictures.

    Args:
        beside: writes what else belongs there, and gives the lines that say so.
    """
    # First, for where it is to be recorded may be full.
    show(document_of(recording, options.asked), options)
    write = partial(write_recording, recording)
    home = result_folder(options.out, recording.label, recording.provenance, write)
    lines = beside(home)
    document = document_of(recording, options.asked, source_of(home))
    leave(home, document, ("runs.csv", runs_frame(recording)), options, lines)
    cli.print_json({"folder": str(home), **answer(recording, options.json)})


def show(document: Document, options: argparse.Namespace) -> None:
    """What there is to say, for people."""
    if not options.json:
        print(f"\n{cli.told(document)}\n", flush=True)


def leave(
    home: Path, document: Document, csv: tuple[str, Any], options: argparse.Namespace,
    lines: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write rows as ``csv``, the table and the pictures into ``home``, and say where."""
    import pandas as pd

    write_atomically(home / csv[0], pd.DataFrame(csv[1]).to_csv(index=False))
    write_atomically(home / "table.md", document.markdown())
    pictures = [f"Picture: {path}" for path in write_pictures(document, home)]
    write_sums(home)
    for line in (*lines, *pictures, f"Recorded in {home}"):
        cli.say(options, line)


def answer(recording: Recording, whole: bool) -> dict[str, Any]:
    """For one line of JSON: everything but the runs; not ``whole``: only what fits a terminal."""
    arms: dict[str, Any] = {}
    for name, arm in recording.arms.items():
        named = {"latency_s": arm.latency, "ttff_s": arm.ttff, "speedup": recording.speedup(name)}
        short = {k: round(getattr(arm.latency, k), 6) for k in ("mean", "p99", "max", "n")}
        every = {key: named[key] if key in named else getattr(arm, key) for key in _ARM}
        arms[name] = every if whole else {"latency_s": short}
    made: dict[str, Any] = {"kind": recording.kind, "frames_identical": recording.frames_identical}
    if recording.planted is not None:
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


_ARM = (
    "mode", "latency_s", "ttff_s", "rtf", "speedup", "frame_sha256", "vram_peak_bytes",
    "pinned_bytes", "d2h_bytes", "throttled_runs", "setup_s", "config", "workload", "sink",
    "file",
)  # fmt: skip


@cli.command(
    f"{cli.WORKLOAD} chunks ring-slots speeds resume {cli.MONEY}",
    chunk=None, slots=None, throttle_mb_s=None,  # of each a sweep has several at once
)  # fmt: skip
def run_sweep(options: argparse.Namespace) -> int:
    """chunk size x slots x sink speed x path: predicted from a few points, all measured

    Measures a few points of a grid, fits the costs of each step from them, predicts every other
    point, then measures those too. Every finished point is kept in a new folder, with the table, a
    heat map and a scatter plot; --resume goes on with one that was interrupted. A point whose
    memory cannot be had is recorded as such.
    """
    from vdkit.measure.study import Bench
    from vdkit.measure.sweep import plan_cells, start_sweep
    from vdkit.measure.sweep import run_sweep as measure

    folder: Path | None = options.resume
    if folder is not None:
        options = _begun_with(folder, options)
    speeds = cli.numbers("speeds", options.speeds, lambda w: None if w == "full" else float(w))
    sizes = cli.numbers("chunks", options.chunks, int)
    grid = sizes, cli.numbers("ring-slots", options.ring_slots, int), speeds
    modes = cli.asked_modes(options)
    plan_cells(modes, *grid)  # what is wrong with it without the video
    decoder, latents, spec, shared = cli.load(options, ready=False)  # every chunk size has its turn
    for speed in speeds:
        replace(spec, throttle_mb_per_s=speed)  # which not every kind of sink can be
    show_bar, bench = shared.pop("progress"), Bench(decoder, latents, spec.fresh, **shared)
    if folder is None:
        folder = start_sweep(bench, options.out, modes, *grid, runs=options.runs)
    cli.say(options, f"Recording in {folder}")

    def report(sweep: Sweep, cell: Cell) -> None:
        done, of = len(sweep.results) + len(sweep.unfit), len(sweep.plan.all_cells)
        cli.say(options, f"{done:3} of {of}  {cell_line(sweep, cell)}")

    try:
        sweep = measure(folder, bench, progress=show_bar, report=report)
        document = sweep_document(sweep, options.asked)
        show(document, options)
        leave(folder, document, ("cells.csv", cell_records(sweep)), options)
    except KeyboardInterrupt as stop:
        again = f"vdkit sweep --resume {shlex.quote(str(folder))}"
        stop.add_note(f"finished cells are kept, go on with: {again}")
        raise
    made: dict[str, Any] = {"measured": len(sweep.results), "does_not_fit": len(sweep.unfit)}
    if errors := sweep.errors():
        median, worst, where = median_and_worst(errors)
        made |= {"predicted": len(errors), "median_error_percent": round(median, 4)}
        made |= {"worst_error_percent": round(worst, 4), "worst_cell": where.key}
    cli.print_json({"folder": str(folder), **made})
    return 0


def _begun_with(folder: Path, given: argparse.Namespace) -> argparse.Namespace:
    """The options that the sweep in ``folder`` was begun with."""
    begun = read_sweep(folder).plan.command
    if begun is None:
        raise ValueError(f"{folder} was not begun from the command line; resume it with run_sweep")
    now = ("resume", "json", "usd_per_hour", "energy", "asked")  # may differ from when it was begun
    for name, value in vars(cli.parse(["sweep", "--resume", str(folder)])).items():
        if name not in (*now, "arguments") and getattr(given, name) != value:
            raise ValueError(
                "--resume goes on with the options that the sweep was begun with; leave out "
                f"--{name.replace('_', '-')}"
            )
    options = cli.parse(shlex.split(begun)[1:])
    vars(options).update({name: getattr(given, name) for name in now})
    return options


@cli.command(f"{cli.WORKLOAD} nvml-ms keep-kineto {cli.MONEY}")
def run_profile(options: argparse.Namespace) -> int:
    """trace each decode path: utilization, stalls by cause, kernels, NVML

    Times each decode path with the NVML sampler off and on, profiles it, and writes recording.json,
    table.md, nvml.csv, pictures and a trace of each path, which https://ui.perfetto.dev opens, into
    a new folder.
    """
    from vdkit.measure.profiler import run_profile as measure
    from vdkit.trace.files import write_trace

    if not 1 <= options.nvml_ms <= 10_000:
        raise ValueError(f"--nvml-ms is {options.nvml_ms:g} ms; use 1 to 10000 ms")
    # Kineto of torch 2.13 greets on standard error at every session; a trace's warnings are kept.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    decoder, latents, spec, shared = cli.load(options)
    with tempfile.TemporaryDirectory(prefix="vdkit-") as scratch:
        done = measure(
            decoder, latents, spec.fresh, modes=cli.runnable(options), runs=options.runs,
            nvml_interval_s=options.nvml_ms / 1e3,
            keep=Path(scratch) if options.keep_kineto else None, **shared,
        )  # fmt: skip
        arms = {name: arm.profile for name, arm in done.recording.arms.items() if arm.profile}

        def beside(home: Path) -> list[str]:
            for name, timeline in done.timelines.items():
                write_trace(timeline, home / arms[name].trace)
            for trace in sorted(Path(scratch).glob("kineto_*")):
                shutil.move(trace, home / trace.name)
            if csv := done.nvml_csv():
                write_atomically(home / "nvml.csv", csv)
            paths = [home / one.trace for one in arms.values()]
            return [f"Trace for https://ui.perfetto.dev: {path}" for path in paths]

        keep(done.recording, options, beside)
    if any(one.analysis.failed for one in arms.values()):
        print("vdkit: error: a trace is incomplete; profile again", file=sys.stderr)
        return 1
    return 0


@cli.command(
    "prompt model negative-prompt frames height width steps seed guidance guidance-2 dtype "
    "save-latents json out device fps"
)
def run_generate(options: argparse.Namespace) -> int:
    """text to latents to video: prompt in, MP4 out, with the seconds of every stage

    Runs text encoder and denoising of a Wan pipeline, decodes the latents on the asynchronous path
    and writes an MP4. The default model is the miniature in data/tiny-wan, whose model card lists
    the words it knows.
    """
    from vdkit.decode.terminal import HeldSignals
    from vdkit.models.pipeline import check_fit, check_request
    from vdkit.present.stages import stage_rows, stages_table

    files = {
        "--out": (options.out, ".mp4"),
        "--save-latents": (options.save_latents, ".safetensors"),
    }
    for name, (path, ending) in files.items():
        if path is not None:
            check_file(path, name, ending)
            claim(path)
    fps = exact_fps(options.fps)
    check_request(options.prompt, options.steps, options.seed, options.guidance, options.guidance_2)
    pipeline = vdkit.load_pipeline(options.model, options.device, options.dtype, progress=False)
    if pipeline.device.type == "cpu":
        vdkit.keep_freed_memory()
    size = (options.frames, options.height, options.width)
    check_fit(pipeline, *size, options.steps)
    with contextlib.ExitStack() as stack:  # what the sink refuses, it refuses now
        sink = vdkit.Mp4Sink(options.out)
        stack.callback(sink.abort)
        sink.open(MediaInfo(*size, fps))
    made = vdkit.generate_latents(
        pipeline, options.prompt, *size, options.steps, options.seed, guidance=options.guidance,
        guidance_2=options.guidance_2, negative_prompt=options.negative_prompt,
        progress=cli.progress(options),
    )  # fmt: skip
    decoder, kept = vdkit.pipeline_decoder(pipeline), None
    try:
        if options.save_latents is not None:
            kept = vdkit.save_latents(options.save_latents, made.latents, made.metadata)
        sink, bar = vdkit.Mp4Sink(options.out), cli.progress(options)
        decoded = vdkit.decode_async(decoder, made.latents, sink, fps=fps, progress=bar)
    except BaseException as error:
        signals = HeldSignals()  # a second Ctrl-C must not lose them
        try:
            _keep_latents(made, kept, options)
        finally:
            signals.release()
        if not isinstance(error, KeyboardInterrupt):
            raise
        print("vdkit: interrupted; an earlier video is as it was", file=sys.stderr)
        return 130
    if options.json:
        cli.print_json(_generated(made, decoded.latency_s, options))
        return 0
    print(f"{options.model} on {decoder.device}, {made.metadata['video']}, {options.steps} steps\n")
    rows, left_out = stage_rows(made, decoded), ("takes", "gives", "in all")
    told = stages_table(rows).rows
    shown = [{name: one for name, one in row.items() if name not in left_out} for row in told]
    shown.append({"stage": "together", "seconds": Number(sum(row.seconds for row in rows), 3)})
    print(f"{Table(shown).text()}\n\nVideo: {options.out}")
    if options.save_latents is not None:
        print(f"Latents: {options.save_latents}")
    return 0


@cli.command(
    "<latents> decoder variant denormalize out gpus device fps", dtype=None, seed=0, chunk=1
)
def run_decode(options: argparse.Namespace) -> int:
    """latents to media: a safetensors file in; MP4, WAV, FLAC, raw or a folder of PNG out"""
    from vdkit.decode import Traits
    from vdkit.models.latents import latents_metadata
    from vdkit.sinks import SINKS

    kinds = {SINKS[kind][1]: SINKS[kind][0] for kind in ("mp4", "wav", "flac", "png", "raw")}
    if options.out is None or options.out.suffix:
        ending = (options.out or Path("clip.mp4")).suffix
        if ending not in kinds:
            raise ValueError(
                f"--out {str(options.out)!r}: end the name in .mp4 of video, .wav or .flac of "
                "audio, or in nothing: a folder of PNG; in .rgb for raw frames"
            )
        check_file(options.out or Path("clip.mp4"), "--out")
    fps = exact_fps(options.fps)
    latents_metadata(options.latents, options.seed)  # what cannot be read is refused first
    if options.gpus != 1:
        return _decode_split(options, fps)
    decoder = cli.load_variant(options, options.variant)
    medium = Traits.of(decoder).medium
    if medium.name != "video":
        del kinds[".rgb"]
    usual, *others = (ending for ending, kind in kinds.items() if medium.name in kind.media)
    out = options.out or Path(f"clip{usual}")
    if out.suffix not in (usual, *others):
        good = " or ".join(ending or "nothing, for a folder of PNG" for ending in (usual, *others))
        wrong = f"--out {str(out)!r}: {decoder.name} makes {medium.called}"
        raise ValueError(f"{wrong}; end the name in {good}")
    sink, latents = kinds[out.suffix](out), cli.latents_of(options, decoder)
    done = vdkit.decode_async(decoder, latents, sink, fps=fps, progress=cli.progress(options))
    took = f"in {done.latency_s:.3f} s on {decoder.device}"
    print(f"{medium.called.capitalize()}: {out}, {media_words(done.info)} {took}")
    return 0


def _decode_split(options: argparse.Namespace, fps: Fraction) -> int:
    from vdkit.models.split import decode_split
    from vdkit.sinks.files import JoinedRawSink

    gpus, out = options.gpus, options.out
    if out is None or out.suffix != ".rgb":
        raise ValueError(f"--gpus {gpus} writes raw frames: end --out in .rgb")
    if ":" in options.device:
        raise ValueError(f"--device {options.device} is one GPU, --gpus asks for {gpus}")
    parts = decode_split(
        partial(_load_on, options), partial(cli.latents_of, options), JoinedRawSink(out), gpus,
        fps=fps, progress=cli.progress(options), kind=options.device,
    )  # fmt: skip
    info = replace(parts[0].info, height=sum(part.info.height for part in parts))
    took_s = max(part.latency_s for part in parts)
    print(f"Video: {out}, {media_words(info)} in {took_s:.3f} s on {gpus} x {parts[0].device}")
    return 0


def _load_on(options: argparse.Namespace, device: object) -> Any:
    options.device = str(device)
    return cli.load_variant(options, options.variant)


@cli.command("<decoder> variant device dtype latents seed halo-db picture json")
def run_probe(options: argparse.Namespace) -> int:
    """what depends on what in a decoder, where may it be cut, does it keep its promises

    Decodes some forty small videos: is it causal, how far does a latent count, after which latents
    may it be cut, what does a seam cost, are chunks exact, is the state of two videos kept apart?
    Exit status 1 if a promise is not kept. Minutes on a CPU; fewer --latents take less.
    """
    if options.picture is not None:
        check_file(options.picture, "--picture", ".png", ".svg", ".pdf")
    decoder = _decoder_to_probe(options)
    latents = options.latents and vdkit.load_latents(options.latents, decoder, options.seed)
    how = {"target_db": options.halo_db, "seed": options.seed, "progress": cli.progress(options)}
    found = vdkit.probe(decoder, latents, **how)
    if options.json:
        derived = {name: getattr(found, name) for name in ("causal", "exact_from", "verdict")}
        cli.print_json(asdict(found) | derived)
    else:
        show(anatomy_document(found), options)
    if options.picture is not None and found.influence:
        with written(options.picture) as partial:
            plot_anatomy(found).savefig(partial)
        cli.say(options, f"Picture: {options.picture}")
    return 1 if found.failed else 0


def _decoder_to_probe(options: argparse.Namespace) -> Any:
    """One by name, in float64 if its modules can be; or the user's own."""
    import torch

    if cli.is_own(options.decoder):
        return cli.load_variant(options, options.variant)
    dtype = options.dtype or ("float64" if options.variant == "diffusers" else "float32")
    decoder: Any = cli.load_variant(options, options.variant, dtype.replace("64", "32"))
    if dtype == "float64":  # for which no video is decoded
        for part in vars(decoder).values():
            if isinstance(part, torch.nn.Module):
                part.double()
        decoder.dtype = torch.float64
    return decoder


def _keep_latents(made: GeneratedLatents, kept: Path | None, options: argparse.Namespace) -> None:
    """After a decode that failed: save the latents unless they are, and say what decodes them."""
    out = options.out.absolute()
    name = f"{out.stem}.{uuid.uuid4().hex[:8]}.safetensors"  # never one that is there
    for folder in (out.parent, Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            kept = kept or vdkit.save_latents(folder / name, made.latents, made.metadata)
    if kept is None:
        print(f"vdkit: the latents are lost, {folder} takes no file either", file=sys.stderr)
        return
    again = ["vdkit", "decode", kept.absolute(), "--out", out, "--decoder", options.model]
    command = shlex.join(map(str, [*again, "--device", options.device, "--fps", options.fps]))
    print(f"vdkit: the latents are kept; decode them with\n  {command}", file=sys.stderr)


def _generated(
    made: GeneratedLatents, decode_s: float, options: argparse.Namespace
) -> dict[str, Any]:
    told = ("expert", "timestep", "seconds", "peak_vram_bytes")
    rows = [{"stage": one.name} | {k: getattr(one, k) for k in told} for one in made.stages]
    stages = [row | {"seconds": round(row["seconds"], 6)} for row in rows]
    return {
        **made.metadata,
        **{name: int(made.metadata[name]) for name in ("seed", "steps")},
        "size": made.metadata["video"],
        "video": str(options.out),
        "latents": options.save_latents and str(options.save_latents),
        "unknown_words": made.unknown_words,
        "stages": stages,
        "decode_s": round(decode_s, 6),
    }
