"""One worker of a fan-out: its decoder, and one video after the other. Any process can drive it.

Errors of a video are its answer; only what no other video would survive is raised.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from vdkit import __version__
from vdkit.decode import Traits, check_medium
from vdkit.decode.chunks import DecodeConfig
from vdkit.measure.study import Bench
from vdkit.record.fanout import FannedVideo, Finished
from vdkit.record.runs import Provenance
from vdkit.scale import Video
from vdkit.sinks import SINKS, SinkSpec


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
    """Makes files.

    Args:
        number: which of the workers it is.
    """

    def __init__(self, orders: Orders, number: int) -> None:
        self.orders, self.number = orders, number
        self._variant = ""
        self._prepared: tuple[int, ...] = ()
        self._machine: Provenance | None = None

    @cached_property
    def decoder(self) -> Any:
        """Loaded once; raises what every video would."""
        torch.set_num_threads(self.orders.threads)
        decoder = self.orders.decoder()
        with self.orders.sink.fresh("checked") as sink:
            check_medium(sink, Traits.of(decoder).medium, f"decoder {decoder.name!r}")
        self._variant = getattr(decoder, "variant", "diffusers")  # before `prepare` has a say
        if hasattr(decoder, "weights_sha256"):  # which stay as they are
            decoder.weights_sha256 = cache(decoder.weights_sha256)
        gc.collect()
        gc.freeze()
        return decoder

    def make(self, video: Video) -> Answer:
        """Make a file, unless it is there already, made of the same by the same settings.

        Raises what loading the decoder raises.
        """
        decoder, begun_s = self.decoder, time.time()
        try:
            return self._make(video, decoder, begun_s)
        except torch.AcceleratorError:
            os._exit(1)  # this process has lost its GPU: the next one tries again
        except Exception as error:
            first = str(error).partition("\n")[0]
            for folder in (self.orders.scratch, self.orders.out, Path(video.latents).parent):
                first = first.replace(f"{folder}{os.sep}", "")  # which is no matter of the record
            known = isinstance(error, (ValueError, TypeError, OSError)) and first
            return Answer(video.out, failed=first if known else f"{type(error).__name__}: {first}")

    def _make(self, video: Video, decoder: Any, begun_s: float) -> Answer:
        orders = self.orders
        fps = orders.fps if video.fps is None else video.fps
        drawn = video.latents.startswith(("random:", "clips:"))
        bench = Bench(
            decoder, orders.latents(decoder, video), orders.sink.fresh, config=orders.config,
            fps=fps, source=orders.source, seed=video.seed or 0,
            latents_source=video.latents if drawn else Path(video.latents).name,
        )  # fmt: skip
        bench.cancel = orders  # type: ignore[assignment]  # all that is asked of it is is_set
        ending = SINKS[orders.sink.kind][1]
        place = orders.out / video.out.removesuffix(ending)
        file = place.with_name(place.name + ending)
        beside = file.with_name(f"{file.name}.vdkit.json")
        asked = Finished(
            vdkit=__version__, workload=bench.workload, variant=self._variant,
            sink=bench.sink_info, chunk_size=orders.config.chunk_size,
        )  # fmt: skip
        if _finished(file, beside, asked):
            return Answer(video.out)
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        if (size := (bench.workload.latent_height, bench.workload.latent_width)) != self._prepared:
            bench.prepare(orders.config.chunk_size)
            self._prepared = size
        run = bench.run("async", 0, orders.sink.at(place, orders.scratch), orders.config)
        partly = orders.scratch / f"{os.getpid()}.json"
        told = {"bytes": _bytes(file), "workload": bench.workload}
        partly.write_text(asked.model_copy(update=told).model_dump_json())
        partly.replace(beside)
        taken_s = time.time() - begun_s
        made = FannedVideo(
            out=str(file.relative_to(orders.out)), worker=self.number,
            begun_s=begun_s - orders.begun_s, taken_s=taken_s, workload=bench.workload, run=run,
        )  # fmt: skip
        self._machine = self._machine or bench.provenance()
        return Answer(video.out, made, self._machine)


def _finished(file: Path, beside: Path, asked: Finished) -> bool:
    try:
        found = Finished.model_validate_json(beside.read_bytes())
        return found.bytes == _bytes(file) and found.like(asked)
    except (OSError, ValueError):  # there is none, or it is of another time
        return False


def _bytes(file: Path) -> int:
    """Of a file, or of all in a folder."""
    return sum(one.stat().st_size for one in (file.iterdir() if file.is_dir() else (file,)))
