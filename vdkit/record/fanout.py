"""A fan-out on disk: who decoded which video when; what follows from that is derived when read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pydantic import Field

from vdkit.decode.chunks import DecodeConfig
from vdkit.record.results import read_record
from vdkit.record.runs import NotNegative, Provenance, Record, Run, Seconds, SinkInfo, Workload
from vdkit.record.stats import Summary, summarize

SCHEMA_VERSION = 1
FANOUT = "fanout.json"


class FannedVideo(Record):
    """One video that was made.

    Attributes:
        out: the file, in the folder of the fan-out.
        worker: who made it.
        tries: 1, and one more for each worker that died over it.
        begun_s: when the worker took it, since the fan-out began.
        taken_s: until its file was in place: the run, and before it latents read and hashed.
    """

    out: str
    worker: NotNegative
    tries: int = 1
    begun_s: float
    taken_s: Seconds
    workload: Workload
    run: Run

    @property
    def decoding_s(self) -> float:
        """Its decoder at work: from the first of its chunks' records to the last, s."""
        spans = [chunk.span_s("decode") for chunk in self.run.chunks]
        return sum(span for span in spans if span is not None)


class Fanout(Record):
    """What one `vdkit fanout` made.

    Attributes:
        engine: what ran the workers.
        workers: the machine of each that made something.
        finished_before: files that were there already.
        failed: file to the reason.
        interrupted: not every video had its turn.
    """

    schema_version: int = SCHEMA_VERSION
    label: str
    command: str | None
    engine: str
    workers: dict[int, Provenance]
    config: DecodeConfig
    sink: SinkInfo
    videos: tuple[FannedVideo, ...]
    finished_before: NotNegative = 0
    failed: dict[str, str] = Field(default_factory=dict)
    interrupted: bool = False

    @property
    def provenance(self) -> Provenance:
        """Code and machine of the first worker."""
        return self.workers[min(self.workers)]

    @cached_property
    def window_s(self) -> float:
        """From the first video that a worker took to the last file in place."""
        ends = [one.begun_s + one.taken_s for one in self.videos]
        return max(ends) - min(one.begun_s for one in self.videos)

    @property
    def latency(self) -> Summary:
        """Of every video's decode, s."""
        return summarize([one.run.latency_s for one in self.videos])

    @property
    def media_s(self) -> float:
        """Playing time of all, s; of images their number."""
        return sum(one.workload.seconds for one in self.videos)

    @property
    def rtf(self) -> float:
        """The window over the playing time: that of all workers together."""
        return self.window_s / self.media_s

    @property
    def decoding_percent(self) -> float:
        """Share of the window in which a worker's decoder was at work, mean of the workers."""
        whole_s = self.window_s * len(self.workers)
        return 100 * sum(one.decoding_s for one in self.videos) / whole_s

    @property
    def energy_j(self) -> float | None:
        """Joules of all GPUs over their first run to their last, with what lies between.

        None unless every GPU's counter answered and never went back.
        """
        total = 0.0
        for uuid in {one.device_uuid for one in self.workers.values()}:
            runs = [v.run for v in self.videos if self.workers[v.worker].device_uuid == uuid]
            read = [one for run in runs for one in (run.gpu_before, run.gpu_after)]
            known = sorted(one.energy_j for one in read if one and one.energy_j is not None)
            if not known or len(known) < len(read):
                return None
            total += known[-1] - known[0]
        return total

    def of(self, worker: int) -> Fanout:
        """One worker's part, over the window of all."""
        own = tuple(one for one in self.videos if one.worker == worker)
        made = self.model_copy(update={"workers": {worker: self.workers[worker]}, "videos": own})
        made.__dict__["window_s"] = self.window_s
        return made


def read_fanout(folder: str | Path) -> Fanout:
    """The fan-out recorded in ``folder``; errors as `vdkit.record.results.read_recording`."""
    return read_record(Path(folder) / FANOUT, Fanout, SCHEMA_VERSION)
