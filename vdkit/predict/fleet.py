"""Many GPUs by the pipeline model: throughput, and what runs out first. Simulated, not measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields

from vdkit.decode.chunks import ChunkRecord, DecodeConfig
from vdkit.decode.media import MediaInfo
from vdkit.predict import Pipeline, StageCosts
from vdkit.predict.shared import Clock, Steps

GPUS = (1, 2, 4, 8, 64, 1000)
_IN_A_ROW, _AT_MOST = 4, 8
_FREE = 1.02  # over the latency of one with enough of everything: up to there only GPUs limit


@dataclass(frozen=True, slots=True)
class Hosts:
    """Machines of one kind, and what the GPUs of each share; None: there is always enough.

    Attributes:
        gpus: of a host, at the most.
        cores: for launching, writing and encoding.
        storage_mb_per_s: a host's own disk, or its way to the shared storage, MB/s; what a cache in
            front of it takes does not count, for it is full.
        memory_gb_per_s, pcie_gb_per_s: of host memory, and of a switch that the GPUs share, GB/s.
        shared_storage_mb_per_s: of all hosts together.
    """

    gpus: int = 8
    cores: float | None = None
    storage_mb_per_s: float | None = None
    memory_gb_per_s: float | None = None
    pcie_gb_per_s: float | None = None
    shared_storage_mb_per_s: float | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(
                    f"{one.name} is {value}; give a number above 0, or nothing for enough"
                )

    def each(self, gpus: int) -> tuple[int, dict[str, float]]:
        """How many hosts have so many GPUs, and what each has of `vdkit.predict.shared.SHARED`."""
        if gpus < 1:
            raise ValueError(f"{gpus} GPUs decode nothing; give 1 or more")
        hosts, shared = math.ceil(gpus / self.gpus), self.shared_storage_mb_per_s
        has = {
            "cores": self.cores,
            "storage": self.storage_mb_per_s,
            "memory": self.memory_gb_per_s,
            "PCIe": self.pcie_gb_per_s,
            "shared storage": shared and shared / hosts,
        }
        return hosts, {name: much for name, much in has.items() if much is not None}


@dataclass(frozen=True, slots=True)
class FleetPoint:
    """So many GPUs, each with one video after the other.

    Attributes:
        per_hour: videos an hour, of all.
        efficiency_percent: of as many times what one GPU gives on such a host.
        used_percent: of each resource that is limited, over time.
        limit: the resource that is used most, where GPUs wait for any; else ``GPUs``.
    """

    gpus: int
    hosts: int
    per_hour: float
    efficiency_percent: float
    used_percent: dict[str, float]
    limit: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """Throughput by number of GPUs.

    Attributes:
        alone_s: a video on one GPU with enough of everything.
        wanted: amounts of each limited resource that a video takes.
        knees: GPUs that would use each up if none waited, the fewest first: of one host, of
            ``shared storage`` of all. Those that no host has GPUs enough for are left out.
    """

    info: MediaInfo
    hosts: Hosts
    alone_s: float
    wanted: dict[str, float]
    knees: dict[str, float]
    points: tuple[FleetPoint, ...]


def fleet(
    costs: StageCosts, info: MediaInfo, hosts: Hosts, gpus: Sequence[int] = GPUS, *,
    config: DecodeConfig = DecodeConfig(), plan: Sequence[ChunkRecord], stored: float = 1.0,
) -> Fleet:  # fmt: skip
    """What so many GPUs give in mode async, from the costs of one.

    Each decodes four videos in a row, begun at even distances; the second and third count. Of a
    host with more than 8 GPUs 8 are simulated, with their share of it, of several hosts one; near
    its knee shared storage does a little better, since hosts do not ask for it at once.

    Args:
        plan: the chunks, as `vdkit.predict.plan_of` has them.
        stored: bytes that reach the storage for each byte of frames that the sink gets: 1 raw.

    Raises:
        ValueError: a CPU's costs, no GPUs, or cores are limited and not known of the encoders.
    """
    if not costs.cuda:
        raise ValueError("these costs are of a CPU, whose cores decode too; give those of a GPU")

    def steady(count: int, has: dict[str, float], apart_s: float) -> tuple[float, dict[str, float]]:
        """Seconds a video, with so many GPUs on what there is, and what a video wants."""
        clock, took_s = Clock(has), list[float]()

        def worker(at_s: float) -> Steps[None]:
            for turn in range(_IN_A_ROW):
                one = Pipeline(costs, config, plan, info, "async", clock=clock, stored=stored)
                one.start(at_s)
                begun_s, at_s = at_s, (yield one.ended)
                if 0 < turn < _IN_A_ROW - 1:
                    took_s.append(at_s - begun_s)

        for index in range(count):
            clock.start(worker(index * apart_s))
        clock.run()
        videos = count * _IN_A_ROW
        return statistics.harmonic_mean(took_s), {n: a / videos for n, a in clock.wanted.items()}

    alone_s, _ = steady(1, {}, 0.0)
    first_s, wanted = steady(1, hosts.each(1)[1], 0.0)
    points = []
    for many in gpus:
        count, has = hosts.each(many)
        side = math.ceil(many / count)
        seen = min(side, _AT_MOST)
        own = {name: much * seen / side for name, much in has.items()}
        took_s, _ = steady(seen, own, alone_s / seen)
        used = {n: min(100.0, 100 * wanted[n] * side / took_s / a) for n, a in has.items()}
        limit = max(used, key=lambda one: used[one]) if took_s > _FREE * alone_s else "GPUs"
        per_hour, efficiency = 3600 * many / took_s, 100 * first_s / took_s
        points.append(FleetPoint(many, count, per_hour, efficiency, used, limit))
    knees = {n: hosts.each(1)[1][n] * alone_s / much for n, much in wanted.items() if much}
    knees = {n: k for n, k in knees.items() if n == "shared storage" or k < hosts.gpus}
    knees = dict(sorted(knees.items(), key=lambda one: one[1]))
    return Fleet(info, hosts, alone_s, wanted, knees, tuple(points))
