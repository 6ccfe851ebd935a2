"""One chunk's life, read from its record: which step ran where, from when to when.

Torch-free; works on a recorded run of any age.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vdkit.measure.timeline import Recorded


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one chunk.

    Attributes:
        name: ``slot wait``, ``launch``, ``decode``, ``copy``, ``convert`` or ``write``.
        start_s, stop_s: since the call. ``decode`` and ``copy`` are the device's, by events; the
            others the host's.
    """

    name: str
    start_s: float
    stop_s: float

    @property
    def length_s(self) -> float:
        return self.stop_s - self.start_s


def chunk_steps(run: Recorded, index: int) -> tuple[Step, ...]:
    """The steps that a chunk went through, in the order of the pipeline.

    Raises:
        ValueError: the run has no such chunk.
    """
    if not 0 <= index < len(run.chunks):
        raise ValueError(f"chunk {index} is not among the {len(run.chunks)} of this run")
    chunk = run.chunks[index]
    spans = {
        "slot wait": (chunk.slot_wait_start_s, chunk.slot_acquired_s),
        "launch": (chunk.launch_start_s, chunk.launch_done_s),
        "decode": (chunk.decode_start_s, chunk.decode_done_s),
        "copy": (chunk.copy_start_s, chunk.copy_done_s),
        "convert": (chunk.convert_start_s, chunk.convert_done_s),
        "write": (chunk.write_start_s, chunk.write_done_s),
    }
    return tuple(
        Step(name, start, stop)
        for name, (start, stop) in spans.items()
        if start is not None and stop is not None
    )


def balancing_mb_per_s(run: Recorded, frame_bytes: int) -> float:
    """The storage speed at which writing a middle chunk takes as long as decoding it did.

    There overlap can gain the most: both take equally long, and one hides the other.

    Args:
        run: a run of a chunked path. Its first chunk, which is shorter, is left out.
        frame_bytes: of one uint8 RGB frame.

    Returns:
        MB/s (10**6 bytes), from the median over the chunks.

    Raises:
        ValueError: there is no chunk after the first.
    """
    speeds = [
        (chunk.frame_stop - chunk.frame_start) / (chunk.decode_done_s - chunk.decode_start_s)
        for chunk in run.chunks[1:]
        if chunk.decode_done_s is not None and chunk.decode_start_s is not None
    ]
    if not speeds:
        raise ValueError(f"mode {run.mode!r} decoded a single chunk; two or more are needed")
    return statistics.median(speeds) * frame_bytes / 1e6
