"""Stalls between chunks seen two ways, by event records and by the trace: do they agree?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from vdkit.measure.stalls import SHORT_NS
from vdkit.measure.timeline import Timeline, to_ns
from vdkit.measure.windows import chunk_spans_on_gpu


@dataclass(frozen=True, slots=True)
class Agreement:
    """Stalls between chunks (last compute of one to first of the next), two ways, s.

    Attributes:
        records_s, trace_s: from event records and from the trace: gaps above 20 us in either.
        gaps: how many those are, of ``of`` places between chunks.
    """

    records_s: float
    trace_s: float
    gaps: int
    of: int

    @property
    def difference_s(self) -> float:
        return abs(self.records_s - self.trace_s)

    @property
    def difference_percent(self) -> float:
        """Of the larger; 0 if there are no gaps."""
        larger = max(self.records_s, self.trace_s)
        return 100 * self.difference_s / larger if larger else 0.0


def agreement(timeline: Timeline) -> Agreement | None:
    """Chunk-level gaps both ways; None without a trace or with fewer than two chunks."""
    run = timeline.run
    if run is None or len(run.chunks) < 2:
        return None
    spans = chunk_spans_on_gpu(timeline)
    if any(chunk.index not in spans for chunk in run.chunks):
        return None
    traced = [spans[chunk.index] for chunk in run.chunks]
    noted = [
        (to_ns(chunk.decode_start_s or 0.0), to_ns(chunk.decode_done_s or 0.0))
        for chunk in run.chunks
    ]
    pairs = list(zip(_between(noted), _between(traced), strict=True))
    long = [pair for pair in pairs if max(pair) > SHORT_NS]
    records, trace = (sum(pair[side] for pair in long) / 1e9 for side in (0, 1))
    return Agreement(records, trace, len(long), len(pairs))


def _between(spans: Sequence[tuple[int, int]]) -> list[int]:
    """The gaps between consecutive spans, ns."""
    return [max(0, following[0] - span[1]) for span, following in pairwise(spans)]
