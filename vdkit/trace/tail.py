"""The whole tail: from the call to the closed file, every moment by what it went to.

It is told of the thread that closes the file, by what that thread is at or waits for: converting
and writing, or else whatever the next chunk to be written is at. Each part is made of intervals
with times of their own; a moment that lies in none is ``unaccounted``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from vdkit.decode.chunks import LAUNCH_AHEAD, SINK_PARTS, ChunkRecord, DecodeConfig
from vdkit.trace import Recorded, chunk_steps, to_ns

REST = "unaccounted"
PARTS = {
    "setup": "before the first chunk",
    "open": "of the sink",
    "between": "from a write to the next chunk, on one thread",
    "slot wait": "for a slot of the ring",
    "launch": "the host calls the decoder",
    "queue": "for the compute or copy stream",
    "decode": "",
    "copy": "to the host",
    "wait": "the chunk is there, nobody has taken it",
    "convert": "on the host",
    "hand over": "the rest of the write",
    "encode": "on the thread that writes",
    "mux": "packets written",
    "encoder full": "waiting for encoders",
    "close": "the rest of closing",
    REST: "in none of these",
}
"""Every part in the order of a run, with what its name leaves open."""
_NAMES = dict(zip(SINK_PARTS, ("encode", "mux", "encoder full"), strict=True))

_FIRST = ("write", "decode", "copy", "convert", "slot wait", "launch")

Tail = dict[str, int]
"""Part to ns, all of `PARTS`; they add up to the whole exactly."""
_Span = tuple[str, float | None, float | None]


def has_parts(run: Recorded) -> bool:
    """Whether the sink said what it was at."""
    return bool(run.sink_close_parts)


def tail_of(run: Recorded, config: DecodeConfig) -> Tail:
    """Where the whole latency of a run went; the parts add up to it.

    Args:
        run: a `DecodeResult` or a recorded `Run`.
        config: of the run.
    """
    chunks, found = run.chunks, Counter[str]()
    threaded = run.mode == "async" and config.writer_thread
    first, opened = _begun(chunks[0]), run.sink_open_start_s
    once: list[_Span] = [("open", opened, (opened or 0.0) + (run.sink_open_s or 0.0))]
    last: list[_Span] = [("setup", 0.0, first)]
    at, written = 0, None  # when the chunk before was
    for index, chunk in enumerate(chunks):
        others = range(index, len(chunks))[: 1 if threaded else 2 + LAUNCH_AHEAD]
        work, done = [span for one in others for span in _work(run, one)], to_ns(_done(chunk))
        between = [] if threaded else [("between", written, _begun(chunk))]
        spans = [*once, *work, *_waits(chunk, run.latency_s), *between, *last]
        found.update(_cut((at, done), spans, chunk))
        at, written = done, chunk.write_done_s
    end, close_s = to_ns(run.latency_s), run.sink_close_s
    closing = [("close", run.latency_s - close_s, run.latency_s)] if close_s is not None else []
    found.update(_cut((at, end), [*closing, *_waits(chunks[-1], run.latency_s)]))
    _split(found, "close", run.sink_close_parts)
    return {part: found[part] for part in PARTS}


def _begun(chunk: ChunkRecord) -> float | None:
    known = (chunk.begun_s, chunk.slot_wait_start_s, chunk.launch_start_s)
    return next((time for time in known if time is not None), None)


def _done(chunk: ChunkRecord) -> float | None:
    return chunk.decode_done_s if chunk.write_done_s is None else chunk.write_done_s


def _work(run: Recorded, index: int) -> list[_Span]:
    """What is done with a chunk, the first counts: a conversion may wait for the decode."""
    steps = sorted(chunk_steps(run, index), key=lambda step: _FIRST.index(step.name))
    chunk = run.chunks[index]
    return [*steps, ("launch", _begun(chunk), chunk.launch_done_s)]


def _waits(chunk: ChunkRecord, latency_s: float) -> list[_Span]:
    """Between what is done with a chunk; what is only decoded waits for the end."""
    there = chunk.decode_done_s if chunk.copy_done_s is None else chunk.copy_done_s
    taken = chunk.write_start_s if chunk.convert_start_s is None else chunk.convert_start_s
    return [
        ("queue", chunk.launch_done_s, chunk.decode_start_s),
        ("queue", chunk.decode_done_s, chunk.copy_start_s),
        ("wait", there, latency_s if taken is None else taken),
    ]


def _cut(
    window: tuple[int, int], spans: Sequence[_Span], written: ChunkRecord | None = None
) -> Counter[str]:
    """ns of each part inside ``window``; where spans overlap the first one counts.

    ``written``: whose write is taken apart.
    """
    start, stop = window
    known = [
        (part, max(to_ns(begin), start), min(to_ns(end), stop))
        for part, begin, end in spans
        if begin is not None and end is not None
    ]
    found, points = Counter[str](), {start, stop, *(t for _, *two in known for t in two)}
    for left, right in pairwise(sorted(t for t in points if start <= t <= stop)):
        part = next((part for part, begin, end in known if begin <= left < end), REST)
        found[part] += right - left
    if written is not None:
        spent = ((name, getattr(written, f"{name}_s")) for name in SINK_PARTS)
        found["hand over"] = found.pop("write", 0)
        _split(found, "hand over", {name: s for name, s in spent if s is not None})
    return found


def _split(found: Counter[str], whole: str, spent: Mapping[str, float]) -> None:
    """Take what the sink was at out of its call; if it says more than that, the rest is below 0."""
    for name, spent_s in spent.items():
        found[_NAMES[name]] += to_ns(spent_s)
        found[whole] -= to_ns(spent_s)
    found[REST] += min(0, found[whole])
    found[whole] = max(0, found[whole])
