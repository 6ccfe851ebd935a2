"""The command that decodes many videos, on all GPUs."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from vdkit import cli
from vdkit.cli.run import leave, show
from vdkit.decode.chunks import PRIMITIVES
from vdkit.decode.terminal import Bar
from vdkit.present.fanout import fanout_document, video_rows
from vdkit.record import result_folder, write_record
from vdkit.record.fanout import FANOUT

if TYPE_CHECKING:
    from vdkit.scale import Video
    from vdkit.scale.worker import Answer


@cli.command(
    "<manifest> out sink decoder variant halo grain tune device dtype denormalize seed fps chunk "
    f"slots workers engine address label json {cli.MONEY}",
    preset=None, latents=None, modes="async", runs=1, durable=False, throttle_mb_s=None, nvtx=False,
    **dict.fromkeys(PRIMITIVES, True),
)  # fmt: skip
def run_fanout(options: argparse.Namespace) -> int:
    """many latents to many files, on all GPUs, with Ray; goes on where it stopped

    The manifest has a line of JSON for each file, {"latents": "a.safetensors", "out": "a.mp4"},
    with "fps" and "seed" where they differ; latents lie beside it. Or it is a folder of
    .safetensors. A file that is there is not made again: beside it NAME.vdkit.json has the hashes
    of latents and weights, and the settings. A worker that dies is replaced, and its video tried
    twice more. What cannot be decoded is listed, and the exit status is 1. Ray of this host is
    started and ended; of a cluster give --address, where all hosts have vdkit and --out (for EC2:
    https://docs.ray.io/en/latest/cluster/vms/user-guides/launching-clusters/aws.html).
    """
    from vdkit.scale import read_manifest
    from vdkit.scale.driver import fan_out
    from vdkit.scale.worker import Orders

    if ":" in options.sink:
        raise ValueError(f"--sink {options.sink!r} names a folder; that is --out")
    spec, shared = cli.check(options)
    orders = Orders(
        options.out, partial(cli.load_variant, options, options.variant),
        partial(_latents, options), spec, shared["config"], shared["source"], shared["fps"],
    )  # fmt: skip
    videos = read_manifest(options.manifest, spec.kind, options.seed)
    if cli.is_own(options.decoder):  # which may take a GPU: made by the workers alone
        cli.own_maker(options, options.variant)
    else:  # once here, for what every worker would find wrong; and of a hub it is fetched once
        cli.load_for(argparse.Namespace(**vars(options) | {"device": "cpu"}), spec)
    bar = Bar(cli.progress(options), total=len(videos), desc="fanout", unit="file")

    def report(answer: Answer) -> None:
        if answer.failed is not None:
            bar.clear()
            print(f"vdkit: warning: {answer.out}: {answer.failed}", file=sys.stderr)
        bar.add()

    with bar:
        done = fan_out(
            videos, orders, workers=options.workers, engine=options.engine, label=options.label,
            address=options.address, gpus=options.device != "cpu", command=shared["command"],
            report=report, tell=partial(cli.say, options),
        )  # fmt: skip
    document, home = fanout_document(done, options.asked), None
    show(document, options)
    if done.videos:
        home = result_folder(
            options.out, done.label, done.provenance, lambda at: write_record(done, at / FANOUT)
        )
        leave(home, document, ("videos.csv", video_rows(done)), options)
    cli.print_json({
        "folder": home and str(home), "made": len(done.videos),
        "finished_before": done.finished_before,
        "failed": done.failed if options.json else len(done.failed),
    })  # fmt: skip
    if done.interrupted:
        told = "vdkit: interrupted; what is finished is kept: the same command goes on"
        print(told, file=sys.stderr)
        return 130
    return 1 if done.failed else 0


def _latents(options: argparse.Namespace, decoder: Any, video: Video) -> Any:
    own = {"latents": video.latents, "seed": video.seed}
    return cli.latents_of(argparse.Namespace(**vars(options) | own), decoder)
