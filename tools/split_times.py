"""One video over several GPUs: what it takes by cause, held against what one GPU's time foretells.

Why: a split that scales badly is of no use unless it says by what. Each rank's profiled run gives
milliseconds per latent frame in compute kernels, halo (NCCL's sends, waiting for the neighbor in
them), gather and none (launches); timed runs stand beside it. With --predict nothing is run: the
exchanges are counted on the device meta, of any size and number of GPUs.

    python -m tools.split_times --gpus 2 --variant fast --latents random:81x720x1280
    python -m tools.split_times --gpus 2 --variant fast --predict --one-ms 69.8
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from vdkit import NullSink, compute_only, load_decoder, load_latents, profile_run
from vdkit.decode.chunks import FIRST_STEADY_CHUNK, DecodeConfig
from vdkit.decode.ranks import run_ranks
from vdkit.measure.study import prepare
from vdkit.models.fast.decoder import FastWanDecoder
from vdkit.models.split import SplitDecoder, Strip, prepared_split
from vdkit.models.wan import WanDecoder
from vdkit.predict.split import Exchanged, Link, predict_split
from vdkit.present import Number, Table
from vdkit.trace import COMMUNICATION, KERNEL, length, union
from vdkit.trace.figures import chunk_starts, find_windows


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


def steady_ms(result: Any) -> float:
    """Milliseconds per latent frame from the first steady chunk on, by the device's events."""
    chunks = result.chunks[FIRST_STEADY_CHUNK:]
    latents = chunks[-1].latent_stop - chunks[0].latent_start
    return 1e3 * (chunks[-1].decode_done_s - chunks[0].decode_start_s) / latents


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
    """A rank's times: alone (rank 0), split, and by cause."""
    decoder = load_decoder(options.decoder, device, options.dtype, options.variant)
    latents = load_latents(options.latents, decoder)
    config, found = DecodeConfig(chunk_size=options.chunk), {}
    run = partial(compute_only, config=config, progress=False)

    def best(one: Any, given: torch.Tensor) -> float:
        return min(steady_ms(run(one, given)) for _ in range(1 + options.runs))

    if dist.get_rank() == 0:
        prepare(decoder, latents, options.chunk)
        found["alone"] = best(decoder, latents)
    dist.barrier()
    strip = Strip(latents.shape[-2])
    own = latents[..., strip.rows, :]
    split = prepared_split(decoder, strip, own, options.chunk, options.graphs)
    found["split"] = best(split, own)
    if device.type == "cuda":
        found |= causes(profile_run("compute_only", split, own, NullSink(), config=config))
    return found


def main() -> None:
    """Measure, or predict, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--decoder", default="wan2.1")
    parser.add_argument("--variant", default="fast", help="diffusers, channels_last or fast")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--latents", default="random:81x720x1280")
    parser.add_argument("--chunk", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--graphs", action="store_true", help="NCCL inside fast's CUDA graphs")
    parser.add_argument("--predict", action="store_true", help="run nothing")
    parser.add_argument("--one-ms", type=float, help="of one GPU, per latent frame, for --predict")
    parser.add_argument("--launch-ms", type=float, default=0.0, help="of the host, likewise")
    parser.add_argument("--link-gb-s", type=float, default=150.0, help="one direction")
    parser.add_argument(
        "--exchange-us", type=float, default=35.0, help="of an exchange of no bytes"
    )
    options = parser.parse_args()
    if options.predict and options.one_ms is None:
        parser.error("--predict needs --one-ms")
    ranks = [] if options.predict else run_ranks(options.gpus, measured, options)
    one_ms = options.one_ms or ranks[0]["alone"]
    decoder = load_decoder(options.decoder, "cpu", options.dtype, options.variant)
    height, width = load_latents(options.latents, decoder).shape[-2:]
    sent, share = counted(decoder, height, width, options.gpus, options.chunk)
    link = Link(options.link_gb_s * 1e9, options.exchange_us / 1e6)
    foretold = predict_split(one_ms / 1e3, share, sent, link, options.launch_ms / 1e3)
    rows: list[dict[str, Any]] = [
        {"": "predicted", "split": 1e3 * sum(foretold.values())}
        | {cause: 1e3 * seconds for cause, seconds in foretold.items()}
    ]
    rows += [{"": f"rank {rank}"} | found for rank, found in enumerate(ranks)]
    columns = ("split", "compute", "halo", "gather", "launches")
    table = [
        {"": row[""]} | {name: Number(row[name], 3) for name in columns if name in row}
        | {"alone / split": Number(one_ms / row["split"], 3)}
        for row in rows
    ]  # fmt: skip
    print(f"{options.decoder}, {options.variant}, latents {height}x{width}, chunk {options.chunk}")
    print(f"alone: {one_ms:.2f} ms per latent frame; sent per latent frame: {sent}\n")
    print(Table(table, "Milliseconds per latent frame").text())


if __name__ == "__main__":
    main()
