"""One chunk's life as a table: each step, who does it, when, and what it waits for. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdkit.decode.chunks import LAUNCH_AHEAD
from vdkit.measure.steps import chunk_steps

if TYPE_CHECKING:
    from vdkit.measure.timeline import Recorded

PIPELINED = {
    "slot wait": ("caller", "a free slot of the ring"),
    "launch": ("caller", f"the slot, and the decode {LAUNCH_AHEAD} chunks before"),
    "decode": ("compute stream", "the launch, the chunk before, the slot's last copy"),
    "copy": ("copy stream", "the decode (an event)"),
    "convert": ("writer thread", "the copy (an event)"),
    "write": ("writer thread", "the copy (an event); then the slot is free"),
}
SEQUENTIAL = {
    "launch": ("caller", "the chunk before, whole"),
    "decode": ("compute stream", "the launch"),
    "copy": ("compute stream", "the decode; the caller waits"),
    "convert": ("caller", "the copy"),
    "write": ("caller", "the conversion; the compute stream has nothing to do"),
}
"""Step to where it runs and what it waits for, with every primitive on."""


def chunk_life_rows(run: Recorded, index: int, on_gpu: bool) -> list[dict[str, str]]:
    """One row per step of a chunk, in ms since the chunk's launch, ready to show.

    Args:
        run: a run of ``sync``, or of ``async`` with every primitive on.
        index: of the chunk.
        on_gpu: whether there were streams; on a CPU the caller decodes and copies itself.

    Raises:
        ValueError: another mode, or no such chunk.
    """
    words = {"async": PIPELINED, "sync": SEQUENTIAL}.get(run.mode)
    if words is None:
        raise ValueError(f"mode {run.mode!r} has no chunk's life to show; use sync or async")
    steps = chunk_steps(run, index)
    zero_s = next(step.start_s for step in steps if step.name == "launch")
    rows = []
    for step in steps:
        where, waits = words[step.name]
        if not on_gpu and where.endswith("stream"):
            where = "caller (no streams on a CPU)"
        if not on_gpu and step.name == "launch":
            waits = "the decode itself: a CPU queues nothing"
        rows.append(
            {
                f"{run.mode}, chunk {index}": step.name,
                "where": where,
                "from ms": f"{1e3 * (step.start_s - zero_s):.2f}",
                "to ms": f"{1e3 * (step.stop_s - zero_s):.2f}",
                "takes ms": f"{1e3 * step.length_s:.2f}",
                "waits for": waits,
            }
        )
    return rows


def chunk_life_words(run: Recorded, index: int) -> str:
    """What came of the chunk, and how much of the next chunk's decode its copy and write share.

    Raises:
        ValueError: no such chunk.
    """
    chunk = run.chunks[index] if 0 <= index < len(run.chunks) else None
    steps = {step.name: step for step in chunk_steps(run, index)}
    assert chunk is not None
    after = [steps[name] for name in ("copy", "convert", "write") if name in steps]
    spent_s = sum(step.length_s for step in after)
    hidden_s = sum(
        max(0.0, min(step.stop_s, other.decode_done_s) - max(step.start_s, other.decode_start_s))
        for step in after
        for other in run.chunks
        if other.decode_start_s is not None and other.decode_done_s is not None
    )
    ring = "" if chunk.slot is None else f" through slot {chunk.slot}"
    return (
        f"{run.mode}: latent {_range(chunk.latent_start, chunk.latent_stop)} became pixel "
        f"{_range(chunk.frame_start, chunk.frame_stop)}{ring}. Of the {1e3 * spent_s:.2f} "
        f"ms after its decode, {1e3 * hidden_s:.2f} ms lie under the decode of another chunk."
    )


def _range(start: int, stop: int) -> str:
    """``frame 4`` or ``frames 13 to 16``."""
    return f"frame {start}" if stop - start == 1 else f"frames {start} to {stop - 1}"
