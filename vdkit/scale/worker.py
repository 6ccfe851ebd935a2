"""One worker of a fan-out: its decoder, and one video after the other. Any process can drive it."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from vdkit.decode import Traits, check_medium
from vdkit.decode.chunks import DecodeConfig
from vdkit.measure.study import Bench
from vdkit.record.fanout import FannedVideo
from vdkit.record.runs import Provenance
from vdkit.scale import Video
from vdkit.sinks import SINKS, SinkSpec

_WORK = {"source", "latents", "seed", "notes", "variant"}
_SINK = {"storage", "durable", "throttle_mb_per_s"}
"""What may differ, of a workload and of a sink, between two files of the same bytes."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What all workers share; it has to be sent to their processes.

    Attributes:
        out: folder of the finished files.
        decoder: makes a worker's decoder, on the current GPU if there is one.
        latents: gives those of a video for that decoder.
        sink: kind and options; its folder is where files lie until they are complete.
        source: of the decoder, for the record.
        fps: of videos that do not say.
        threads: of torch on the host, for each worker.
        begun_s: `time.time` when the fan-out began.
    """

    out: Path
    decoder: Callable[[], Any]
    latents: Callable[[Any, Video], Any]
    sink: SinkSpec
    config: DecodeConfig
    source: str | None = None
    fps: int | float | str = 16
    threads: int = 1
    begun_s: float = 0.0

    def __post_init__(self) -> None:
        if (kind := self.sink.kind) in ("null", "export_to_video"):
            able = ", ".join(one for one in SINKS if one != "export_to_video")
            raise ValueError(f"sink {kind!r} leaves no file of decode_async; use one of {able}")

    @property
    def scratch(self) -> Path:
        """On the file system of ``out``; what is left in it belongs to no finished file."""
        return self.out / ".vdkit-fanout"

    def is_set(self) -> bool:
        """Whether workers are to stop: for ``cancel`` of a decode, in any process."""
        return not self.scratch.is_dir()


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a video: made, failed for a reason, or (neither) finished before."""

    out: str
    made: FannedVideo | None = None
    machine: Provenance | None = None
    failed: str | None = None


class Worker:
    """Makes files; ``number`` tells it from the others."""

    def __init__(self, orders: Orders, number: int) -> None:
        self.orders, self.number = orders, number
        self._said: dict[str, Any] = {}
        self._prepared: tuple[int, int] | None = None
        self._machine: Provenance | None = None

    @cached_property
    def decoder(self) -> Any:
        """Loaded once; raises what every video would."""
        torch.set_num_threads(self.orders.threads)
        decoder = self.orders.decoder()
        with self.orders.sink.fresh("checked") as sink:
            check_medium(sink, Traits.of(decoder).medium, f"decoder {decoder.name!r}")
        # Before `prepare` has a say: what was asked for, which may not run everywhere.
        self._said = {name: getattr(decoder, name, "") for name in ("variant", "notes")}
        if hasattr(decoder, "weights_sha256"):  # which stay as they are
            decoder.weights_sha256 = cache(decoder.weights_sha256)
        gc.collect()
        gc.freeze()
        return decoder

    def make(self, video: Video, tries: int = 1) -> Answer:
        """Make a file, unless it is there already, made of the same by the same settings.

        Raises what loading the decoder raises; what is wrong with the video is its answer.
        """
        decoder, begun_s = self.decoder, time.time()
        try:
            return self._make(video, decoder, begun_s, tries)
        except torch.AcceleratorError:
            os._exit(1)  # this process has lost its GPU: the next one tries again
        except Exception as error:
            first = str(error).partition("\n")[0]
            for folder in (self.orders.scratch, self.orders.out, Path(video.latents).parent):
                first = first.replace(f"{folder}{os.sep}", "")  # which is no matter of the record
            known = isinstance(error, (ValueError, TypeError, OSError)) and first
            return Answer(video.out, failed=first if known else f"{type(error).__name__}: {first}")

    def _make(self, video: Video, decoder: Any, begun_s: float, tries: int) -> Answer:
        orders = self.orders
        bench = Bench(
            decoder, orders.latents(decoder, video), orders.sink.fresh, config=orders.config,
            fps=orders.fps if video.fps is None else video.fps, source=orders.source,
            seed=video.seed or 0,
            latents_source=video.latents if video.drawn else Path(video.latents).name,
        )  # fmt: skip
        bench.cancel = orders  # type: ignore[assignment]  # all that is asked of it is is_set
        file = orders.out / video.out
        beside = file.with_name(f"{file.name}.vdkit.json")
        asked = {
            "workload": bench.workload.model_dump(mode="json", exclude=_WORK),
            "sink": bench.sink_info.model_dump(mode="json", exclude=_SINK),
            "decoder": self._said, "chunk_size": orders.config.chunk_size,
        }  # fmt: skip
        with suppress(FileNotFoundError):
            if beside.read_bytes() == _told(file, asked):
                return Answer(video.out)
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        if (size := (bench.workload.latent_height, bench.workload.latent_width)) != self._prepared:
            bench.prepare(orders.config.chunk_size)
            self._prepared = size
        place = file.with_name(file.name.removesuffix(SINKS[orders.sink.kind][1]))
        run = bench.run("async", 0, orders.sink.at(place, orders.scratch), orders.config)
        partly = orders.scratch / f"{os.getpid()}.json"
        partly.write_bytes(_told(file, asked))
        partly.replace(beside)
        made = FannedVideo(
            out=video.out, worker=self.number, tries=tries, begun_s=begun_s - orders.begun_s,
            taken_s=time.time() - begun_s, workload=bench.workload, run=run,
        )  # fmt: skip
        self._machine = self._machine or bench.provenance()
        return Answer(video.out, made, self._machine)


def _told(file: Path, asked: dict[str, Any]) -> bytes:
    """What stands beside a finished file: what it was made of, and bytes, of all in a folder."""
    parts = file.iterdir() if file.is_dir() else (file,)
    size = sum(one.stat().st_size for one in parts)
    return json.dumps({"bytes": size} | asked).encode()
