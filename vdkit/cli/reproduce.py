"""`vdkit reproduce`: the published benchmark, a stage after the other, each a command of it."""

from __future__ import annotations

import argparse
import gc
import io
import shlex
import shutil
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import vdkit
from vdkit import cli, record
from vdkit.cli.run import show
from vdkit.present import reproduction
from vdkit.present.reproduction import PLAN, ReproducePlan, StagePlan

GPU_DECODE_S, CPU_DECODE_S = 4.6, 0.9
"""A decode, about: of preset aws on an H100, mean of its recorded arms; of `CLIP` on two cores."""
CLIP, WHOLE_CLIP = "clips:33x48x80", "clips:161x480x832"


def stages_of(on_gpu: bool, decoder: str | None = None, clip: str = CLIP) -> tuple[StagePlan, ...]:
    """The stages, in order.

    Args:
        on_gpu: of preset aws, in 20 minutes where a decode takes 8 s; else of the miniature, in 3
            minutes on two cores.
        decoder: in place of the preset's, or of the miniature.
        clip: what the miniature decodes.
    """
    source = shlex.quote(decoder or ("wan2.1" if on_gpu else "tiny-wan"))
    what = f"--decoder {source} {'--preset aws' if on_gpu else f'--latents {clip}'}"
    runs, variants, held = (10, "all", 40) if on_gpu else (5, "diffusers,fast", 0.3)
    few = "--runs 2 --warmup 0"

    def stage(name: str, title: str, decodes: int, loads: int, *lines: str) -> StagePlan:
        commands = tuple(line.replace(" what", f" {what} --label {name}") for line in lines)
        setup_s = loads * (8 if on_gpu else 2)
        return StagePlan(
            name=name, title=title, commands=commands, decodes=decodes, setup_s=setup_s
        )

    return (
        stage("doctor", "is this machine ready?", 0, 7, "doctor --json"),
        stage("bench", f"sync, async, compute_only and diffusers in turns, {runs} runs of each",
              (runs + 2) * (5 if on_gpu else 4), 1, f"bench what --runs {runs}"),
        stage("profile", "sync and async under the profiler",
              12, 1, "profile what --modes sync,async --runs 1"),
        stage("sweep", "chunk size x slots x storage, predicted and measured",
              20, 1, f"sweep what --chunks 1,2 --ring-slots 1,2 --speeds full,{held} --runs 1"),
        stage("variants", "ways to run the same weights in turns",
              17, 8, f"bench what --variants {variants} --modes async,compute_only {few}"),
        stage("mp4", "the finished MP4, which is kept beside the recording",
              15, 2, f"bench what --sink mp4,encoders=4 --modes diffusers,sync,async {few}",
              f"decode {WHOLE_CLIP if on_gpu else clip} --decoder {source}"),
    )  # fmt: skip


@cli.command("out resume decoder usd-per-hour json")
def run_reproduce(options: argparse.Namespace) -> int:
    """the published G7e benchmark by one command, ours beside it

    Runs doctor, bench, profile, sweep, and bench of variants and of MP4, of preset aws, each into a
    subfolder of one new folder, and writes report.html and table.md: the published figures, ours
    beside them, then every stage; 12 minutes on an H100. Without a GPU it is the miniature's
    version, in two minutes, and says so. --resume goes on with a folder, or with a copy of it on
    another machine; a finished stage is never run again.
    """
    given = options.decoder
    if given and not options.resume:  # what is wrong with it, before anything is measured
        _takes_clips(given)
    folder: Path = options.resume or _begin(options)
    made = reproduction.read_reproduction(folder)
    plan = made.plan
    if given and plan.decoder not in (given, Path(given).name):
        begun = f"{folder} was begun with {plan.decoder or 'the usual decoder'}"
        raise ValueError(f"--decoder {given!r}: {begun}; leave it out, or begin anew")
    if plan.decoder and options.resume:  # a folder has to be named again
        _takes_clips(given or plan.decoder)
    again, failed, status = f"vdkit reproduce --resume {shlex.quote(str(folder))}", {}, 0
    left = made.left
    cli.say(options, f"Recording in {folder}")
    if plan.on_cpu:
        cli.say(options, reproduction.ON_CPU)
    whole_s = sum(made.expected_s(stage) for stage in left)
    cli.say(options, f"{len(left)} of {len(plan.stages)} stages to run, {_about(whole_s)}")
    try:
        with record.locked(folder / PLAN, f"another process is at {folder}; wait for it"):
            for stage in left:
                made = reproduction.read_reproduction(folder)
                about = _about(made.expected_s(stage))
                cli.say(options, f"{stage.name:9}begins, {about}: {stage.title}")
                begun_s = time.monotonic()
                try:
                    status |= _run(stage, folder, options)
                except Exception as error:  # the other stages are worth having
                    if "KeyboardInterrupt" in str(error):  # pydantic has put it into words
                        raise KeyboardInterrupt from error
                    failed[stage.name] = str(error) or type(error).__name__
                    print(f"vdkit: error: {stage.name}: {failed[stage.name]}", file=sys.stderr)
                else:
                    cli.say(options, f"{'':9}recorded in {time.monotonic() - begun_s:.0f} s")
            made = reproduction.read_reproduction(folder)
            document = reproduction.reproduction_document(made, options.asked, failed)
            record.write_atomically(folder / "table.md", document.markdown())
            foot = f"Made by vdkit reproduce {vdkit.__version__} in {folder.name}."
            record.write_atomically(folder / "report.html", document.html(foot))
            record.write_sums(folder)
    except KeyboardInterrupt as stop:
        stop.add_note(f"finished stages are kept, go on with: {again}")
        raise
    show(replace(document, sections=document.sections[:2]), options)
    cli.say(options, f"Report: {folder / 'report.html'}")
    if failed:
        print(f"vdkit: error: {len(failed)} stages failed; try again: {again}", file=sys.stderr)
    rows = document.tables()[0].rows if "bench" in made.made else ()
    told = [{k: getattr(cell, "value", cell) for k, cell in row.items()} for row in rows]
    more = {"figures": told} if options.json else {}
    cli.print_json({"folder": str(folder), "failed": failed} | more)
    return 1 if failed else status


def _takes_clips(decoder: str) -> None:
    """Raises for one that cannot be loaded, or makes no frames of what the stages decode."""
    from vdkit.models.clips import check_takes

    check_takes(CLIP, vdkit.load_decoder(decoder))


def _begin(options: argparse.Namespace) -> Path:
    """A new folder with the plan in it."""
    from vdkit.models.loading import resolve_device
    from vdkit.record.runs import collect_provenance

    record.check_out(options.out, "reproduce")
    decoder, device = options.decoder, resolve_device("auto")
    if decoder and Path(decoder).exists():
        decoder = Path(decoder).name
    on_gpu = device.type == "cuda"
    decode_s, stages = GPU_DECODE_S if on_gpu else CPU_DECODE_S, stages_of(on_gpu, decoder)
    made = collect_provenance(device)
    plan = ReproducePlan(provenance=made, decoder=decoder, decode_s=decode_s, stages=stages)
    return record.result_folder(
        options.out, "reproduce", made, lambda at: record.write_record(plan, at / PLAN)
    )


def _about(seconds: float) -> str:
    return f"about {seconds / 60:.0f} minutes" if seconds > 90 else f"about {seconds:.0f} s"


def _run(stage: StagePlan, folder: Path, options: argparse.Namespace) -> int:
    """Run a stage aside and give it its name at the end: there is a whole one or none."""
    import torch

    scratch, status = folder / f".{stage.name}.partial", 0
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    scratch.mkdir()
    try:
        for line in stage.commands:
            asked, printed = cli.parse(shlex.split(line)), io.StringIO()
            places = {"decode": scratch / "clip.mp4", "doctor": folder}
            asked.out = places.get(asked.command, scratch)
            asked.json = options.json or asked.command == "doctor"
            if options.decoder and hasattr(asked, "decoder"):
                asked.decoder = options.decoder  # where it is, which is not recorded
            with redirect_stdout(printed):
                found = asked.run(asked)
            if asked.command == "doctor":  # whose status is what it found
                record.write_atomically(scratch / reproduction.DOCTOR, printed.getvalue())
            else:
                status |= found
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        home = next((one for one in scratch.iterdir() if one.is_dir()), scratch)
        for file in (one for one in scratch.iterdir() if one.is_file() and home != scratch):
            file.rename(home / file.name)
        home.rename(folder / stage.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return status
