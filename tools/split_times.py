"""One video over several GPUs: what it takes by cause, held against what one GPU's time foretells.

Foretold from a strip's time alone: kernels take longer for each row of fewer rows. Each rank's
profiled run gives milliseconds per latent frame in compute kernels, halo (NCCL's sends, waiting for
the neighbor in them), gather and none (launches); timed runs stand beside it. With ``--out
results`` a new folder there has all of it, and where it ran.

    python -m tools.split_times --gpus 2 --variant fast --latents random:81x720x1280
    python -m tools.split_times --gpus 2 --variant fast --predict 69.8    # ms alone; runs nothing
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vdkit import NullSink, compute_only, load_decoder, load_latents, profile_run
from vdkit.decode.chunks import DecodeConfig
from vdkit.decode.ranks import run_ranks
from vdkit.measure.study import prepare
from vdkit.models.fast.decoder import FastWanDecoder
from vdkit.models.split import SplitDecoder, Strip, prepared_split
from vdkit.models.wan import WanDecoder
from vdkit.predict.split import Exchanged, Link, predict_split
from vdkit.present import Number, Table
from vdkit.record import check_out, result_folder, write_atomically
from vdkit.record.recording import steady_ms
from vdkit.record.runs import collect_provenance
from vdkit.trace import COMMUNICATION, KERNEL, length, union
from vdkit.trace.figures import chunk_starts, find_windows

LINK = Link(150e9, 35e-6)
"""NVLink between two H100."""


class CountedStrip(Strip):
    """The strip of a rank that has no others: what would be exchanged is counted."""

    def __init__(self, height: int, rank: int, count: int) -> None:
        self._deal(height, rank, count)
        self.sent = [0, 0, 0, 0]

    def exchange(self, edges: torch.Tensor) -> torch.Tensor:
        sides = (self.rank > 0) + (self.rank < self.count - 1)
        self.sent[0] += 1
        self.sent[1] += edges.nbytes // 2 * sides
        return torch.zeros_like(edges)

    def all_gather(self, own: torch.Tensor) -> list[torch.Tensor]:
        self.sent[2] += 1
        self.sent[3] += own.nbytes * (self.count - 1)
        return [torch.zeros_like(own) for _ in range(self.count)]


def counted(
    decoder: Any, height: int, width: int, gpus: int, chunk: int
) -> tuple[Exchanged, float]:
    """What the middle rank sends per latent frame, and the largest share of the rows.

    ``decoder``: of the kind to be counted, on any device; a copy of it is walked through.
    """
    vae = copy.deepcopy(decoder.vae).to("meta")
    kind = FastWanDecoder if decoder.variant == "fast" else WanDecoder
    split = SplitDecoder(kind(vae, "counted"), CountedStrip(height, gpus // 2, gpus))
    shape = (1, split.latent_channels, 1 + 3 * chunk, height, width)
    latents = torch.empty(shape, device="meta", dtype=split.dtype)
    with torch.inference_mode():
        state = split.begin(split.part(latents))
        for start in (0, 1, 1 + chunk, 1 + 2 * chunk):
            split.strip.sent = [0, 0, 0, 0]
            split.decode_chunk(state, start, start + chunk if start else 1)
    return Exchanged(*(one / chunk for one in split.strip.sent)), split.strip.heights[0] / height


def causes(timeline: Any) -> dict[str, float]:
    """Milliseconds per latent frame of the steady window, by `predict_split`'s causes."""
    start, stop = find_windows(timeline)["steady"]
    kernels = timeline.gpu.of(KERNEL, COMMUNICATION)
    kernels = kernels.where((kernels.start_ns >= start) & (kernels.start_ns < stop))
    found = dict.fromkeys(("compute", "halo", "gather"), 0)
    for name, kind, begun, done in zip(
        kernels.name, kernels.kind, kernels.start_ns, kernels.stop_ns, strict=True
    ):
        cause = "gather" if "AllGather" in timeline.names[name] else "halo"
        found["compute" if kind == KERNEL else cause] += int(done - begun)
    found["launches"] = stop - start - length(union(kernels.start_ns, kernels.stop_ns))
    begun = zip(timeline.run.chunks, chunk_starts(timeline), strict=True)
    latents = sum(c.latent_stop - c.latent_start for c, at in begun if start <= at < stop)
    return {cause: ns / 1e6 / latents for cause, ns in found.items()}


def measured(device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """A rank's times: the whole and its largest strip alone (rank 0), split, and by cause."""
    decoder = load_decoder(options.decoder, device, options.dtype, options.variant)
    latents = load_latents(options.latents, decoder)
    rows = CountedStrip(latents.shape[-2], 0, options.gpus).heights[0]
    config, found = DecodeConfig(chunk_size=options.chunk), {}
    run = partial(compute_only, config=config, progress=False)

    def best(*given: Any) -> float:
        return min(steady_ms(run(*given), options.chunk) for _ in range(options.runs))

    if dist.get_rank() == 0:
        for name, part in (("alone", latents), ("strip", latents[..., :rows, :].contiguous())):
            prepare(decoder, part, options.chunk)
            found[name] = best(decoder, part)
    dist.barrier()
    split = prepared_split(decoder, latents, options.chunk)
    own = split.part(latents)
    found["split"] = best(split, own)
    if device.type == "cuda":
        found |= causes(profile_run("compute_only", split, own, NullSink(), config=config))
    return found


def main() -> None:
    """Measure, or predict, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, usual in {
        "gpus": 2, "decoder": "wan2.1", "variant": "fast", "dtype": "float16",
        "latents": "random:81x720x1280", "chunk": 1, "runs": 4,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=type(usual), default=usual)
    parser.add_argument("--predict", type=float, metavar="MS", help="from one GPU's, run nothing")
    parser.add_argument("--out", type=Path, help="parent of a new folder with split.json")
    options = parser.parse_args()
    if options.out:
        check_out(options.out, "split")
    ranks = [] if options.predict else run_ranks(options.gpus, measured, options)
    one_ms = options.predict or ranks[0]["alone"]
    decoder = load_decoder(options.decoder, "cpu", options.dtype, options.variant)
    height, width = load_latents(options.latents, decoder).shape[-2:]
    sent, share = counted(decoder, height, width, options.gpus, options.chunk)
    if ranks:
        foretold = predict_split(ranks[0]["strip"] / 1e3, 1.0, sent, LINK)
    else:
        foretold = predict_split(one_ms / 1e3, share, sent, LINK)
    rows = [{cause: 1e3 * seconds for cause, seconds in foretold.items()}, *ranks]
    rows[0]["split"] = sum(rows[0].values())
    table = [
        {"": f"rank {number - 1}" if number else "predicted"}
        | {name: Number(row[name], 3) for name in ("split", *foretold) if name in row}
        | {"alone / split": Number(one_ms / row["split"], 3)}
        for number, row in enumerate(rows)
    ]
    if options.out:
        asked = {name: value for name, value in vars(options).items() if name != "out"}
        where = collect_provenance(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        found = {"asked": asked, "alone_ms": one_ms, "sent": asdict(sent), "predicted_ms": rows[0]}
        found |= {"ranks_ms": ranks, "provenance": where.model_dump(mode="json")}
        label = f"split-{options.gpus}-{Path(options.decoder).name}-{options.variant}"
        folder = result_folder(options.out, label, where)
        write_atomically(folder / "split.json", json.dumps(found, indent=1) + "\n")
        print(f"Recorded in {folder}")
    print(f"{options.decoder}, {options.variant}, latents {height}x{width}, chunk {options.chunk}")
    print(f"alone: {one_ms:.2f} ms per latent frame; sent per latent frame: {sent}\n")
    link = f"{LINK.bytes_per_s / 1e9:.0f} GB/s and {1e6 * LINK.exchange_s:.0f} us an exchange"
    print(Table(table, f"Milliseconds per latent frame; predicted with NVLink: {link}").text())


if __name__ == "__main__":
    main()
