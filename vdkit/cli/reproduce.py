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
from vdkit import cli
from vdkit.cli.run import show
from vdkit.present.reproduction import (
    DOCTOR,
    ON_CPU,
    PLAN,
    ReproducePlan,
    StagePlan,
    read_reproduction,
    reproduction_document,
)
from vdkit.record import (
    check_out,
    locked,
    result_folder,
    write_atomically,
    write_record,
    write_sums,
)

GPU_DECODE_S, CPU_DECODE_S = 4.6, 1.1
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
    runs, variants, held = (10, "all", 100) if on_gpu else (5, "diffusers,fast", 0.3)
    load_s, few = 8 if on_gpu else 2, "--runs 2 --warmup 0"

    def stage(
        name: str, title: str, decodes: int, loads: int, command: str, *more: str
    ) -> StagePlan:
        commands = f"{command.replace(' ', f' {what} --label {name} ', 1)}", *more
        return StagePlan(name=name, title=title, commands=commands, decodes=decodes,
                     setup_s=loads * load_s)  # fmt: skip

    return (
        StagePlan(name="doctor", title="is this machine ready?", commands=("doctor --json",),
              setup_s=7 * load_s),
        stage("bench", f"sync, async, compute_only and diffusers in turns, {runs} runs of each",
              (runs + 2) * (5 if on_gpu else 4), 1, f"bench --runs {runs}"),
        stage("profile", "sync and async under the profiler",
              12, 1, "profile --modes sync,async --runs 1"),
        stage("sweep", "chunk size x slots x storage, predicted and measured",
              18, 1, f"sweep --chunks 1,2 --ring-slots 1,2 --speeds full,{held} --runs 1"),
        stage("variants", "ways to run the same weights in turns",
              17, 8, f"bench --variants {variants} --modes async,compute_only {few}"),
        stage("mp4", "the finished MP4, which is kept beside the recording",
              15, 2, f"bench --sink mp4,encoders=4 --modes diffusers,sync,async {few}",
              f"decode {WHOLE_CLIP if on_gpu else clip} --decoder {source}"),
    )  # fmt: skip


@cli.command("out resume decoder usd-per-hour json")
def run_reproduce(options: argparse.Namespace) -> int:
    """the published G7e benchmark by one command, ours beside it

    Runs doctor, bench, profile, sweep, and bench of variants and of MP4, of preset aws, each into a
    subfolder of one new folder, and writes report.html and table.md: the published figures, ours
    beside them, then every stage. 12 minutes on an H100. Without a GPU it is the miniature's
    version, in three minutes, and says so. --resume goes on with a folder, or with a copy of it on
    another machine; a finished stage is never run again.
    """
    folder: Path = options.resume or _begin(options)
    made = read_reproduction(folder)
    plan, given = made.plan, options.decoder
    if given and plan.decoder not in (given, Path(given).name):
        begun = f"{folder} was begun with {plan.decoder or 'the usual decoder'}"
        raise ValueError(f"--decoder {given!r}: {begun}; leave it out, or begin anew")
    if plan.local and not given:
        begun = f"{folder} was begun with a folder {plan.decoder!r}"
        raise ValueError(f"{begun}; give it again: --decoder FOLDER")
    again, failed, status = f"vdkit reproduce --resume {shlex.quote(str(folder))}", {}, 0
    left = made.left
    cli.say(options, f"Recording in {folder}")
    if plan.on_cpu:
        cli.say(options, ON_CPU)
    whole_s = sum(made.expected_s(stage) for stage in left)
    cli.say(options, f"{len(left)} of {len(plan.stages)} stages to run, {_about(whole_s)}")
    try:
        busy = f"another process is at {folder}; wait for it, or begin anew"
        with locked(folder / PLAN, busy):
            for stage in left:
                made = read_reproduction(folder)
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
            made = read_reproduction(folder)
            document = reproduction_document(made, options.asked, failed)
            write_atomically(folder / "table.md", document.markdown())
            foot = f"Made by vdkit reproduce {vdkit.__version__} in {folder.name}."
            write_atomically(folder / "report.html", document.html(foot))
            write_sums(folder)
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


def _begin(options: argparse.Namespace) -> Path:
    """A new folder with the plan in it; what is wrong with a decoder is found before."""
    import torch

    from vdkit.models.loading import resolve_device
    from vdkit.record.runs import collect_provenance

    check_out(options.out, "reproduce")
    given, device = options.decoder, resolve_device("auto")
    if given:
        vdkit.load_decoder(given)
    torch.zeros(1, device=device)
    local, on_gpu = bool(given) and Path(given).exists(), device.type == "cuda"
    decoder = Path(given).name if local else given
    plan = ReproducePlan(
        provenance=collect_provenance(device), decoder=decoder, local=local,
        decode_s=GPU_DECODE_S if on_gpu else CPU_DECODE_S, stages=stages_of(on_gpu, decoder),
    )  # fmt: skip
    return result_folder(
        options.out, "reproduce", plan.provenance, lambda home: write_record(plan, home / PLAN)
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
            asked.out = scratch / "clip.mp4" if asked.command == "decode" else scratch
            asked.json = options.json or asked.command == "doctor"
            if options.decoder and hasattr(asked, "decoder"):
                asked.decoder = options.decoder  # where it is, which is not recorded
            with redirect_stdout(printed):
                found = asked.run(asked)
            if asked.command == "doctor":  # whose status is what it found
                write_atomically(scratch / DOCTOR, printed.getvalue())
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
