"""Is this trace complete? Profilers drop events without a word; these checks notice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vdkit.decode.chunks import FIRST_STEADY_CHUNK
from vdkit.trace.timeline import COMMUNICATION, D2H, KERNEL, Recorded, Timeline, to_ns

TOLERANCE_NS = 200_000
"""How far a kernel may lie outside its chunk's CUDA events, beside the clocks' residuals."""

CLOCKS_NS = 20_000
"""How far host and GPU clocks of a trace may be apart."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, whether it passed, and the figures it looked at.

    ``ok`` is None where there was nothing to check, with the reason in ``detail``.
    """

    name: str
    ok: bool | None
    detail: str


def check_trace(timeline: Timeline) -> tuple[Check, ...]:
    """Every check that this timeline allows; other programs' traces allow the first few."""
    checks = [_dropped(timeline)]
    if not len(timeline.kernels):
        if timeline.run is not None and timeline.device != "cpu":
            checks.append(Check("kernels", False, f"none, of a run on {timeline.device}"))
        return tuple(checks)
    checks += [_launches(timeline), _causal(timeline)]
    if timeline.run is not None and timeline.run.chunks:
        checks += [
            _kernels_per_chunk(timeline, timeline.run),
            _against_events(timeline, timeline.run),
            _against_wall_clock(timeline, timeline.run),
            _copies(timeline, timeline.run),
        ]
    return tuple(checks)


def _dropped(timeline: Timeline) -> Check:
    found = timeline.dropped
    detail = "; ".join(found[:3]) if found else "no marker of dropped events"
    return Check("dropped events", not found, detail)


def _launches(timeline: Timeline) -> Check:
    """Each launch call has its kernel, and each kernel its launch call.

    What another program launched before its recording began is no loss: ids count upwards.
    """
    title, calls = "launches = kernels", timeline.calls
    ran = set(timeline.gpu.of(KERNEL, COMMUNICATION).correlation.tolist()) - {-1}
    called = set(calls.correlation.tolist()) - {-1}
    if not called or not ran:
        return Check(title, None, "the trace holds no calls to match with its kernels")
    names = timeline.names
    launching = np.array(["Launch" in name and "Host" not in name for name in names])
    graphs = np.array(["GraphLaunch" in name or "BeginCapture" in name for name in names])
    launches = calls.where((launching & ~graphs)[calls.name])
    asked = set(launches.correlation.tolist())
    lost, stray = asked - ran, ran - called
    detail = f"{len(asked)} launches, {len(lost)} without a kernel"
    late = launches.start_ns[~np.isin(launches.correlation, list(lost))].max(initial=-1)
    if after := int((launches.start_ns[np.isin(launches.correlation, list(lost))] > late).sum()):
        detail += f" ({after} at the end: the trace stopped before they ran)"
    detail += f"; {len(stray)} kernels without a launch"
    if before := {one for one in stray if one < min(called)}:
        detail += f" ({len(before)} launched before the trace begins: it started in mid-run)"
    if timeline.run is None:
        stray -= before
    if timeline.calls_elsewhere:
        detail += f"; {timeline.calls_elsewhere} calls of other GPUs left out"
    if graphs[calls.name].any() and not stray:  # captured launches run later, or never
        return Check(title, None, f"{detail}; with CUDA graphs that tells nothing")
    return Check(title, not lost and not stray, detail)


def _causal(timeline: Timeline) -> Check:
    """Nothing starts before the call that launched it, as far as the clocks can tell."""
    name = "starts after launches"
    launched, _, _ = timeline.launches(timeline.gpu)
    early = (launched - timeline.gpu.start_ns)[launched >= 0]
    if not len(early):
        return Check(name, None, "the trace holds no calls to match with its kernels")
    count, worst = int((early > CLOCKS_NS).sum()), max(int(early.max()), 0)
    allowed = f"at most {worst / 1e3:.0f} us (allowed {CLOCKS_NS / 1e3:.0f})"
    return Check(name, not count, f"{count} of {len(early)} before; {allowed}")


def _kernels_per_chunk(timeline: Timeline, run: Recorded) -> Check:
    name, kernels = "kernels per chunk", timeline.chunk_kernels()
    count = {chunk.index: len(kernels.get(chunk.index, ())) for chunk in run.chunks}
    if len(count) == 1:
        return Check(name, bool(count[0]), f"{count[0]} kernels in the one chunk")
    full = max(chunk.latent_stop - chunk.latent_start for chunk in run.chunks)
    numbers = {
        count[chunk.index]
        for chunk in run.chunks[min(FIRST_STEADY_CHUNK, len(run.chunks) // 2) :]
        if chunk.latent_stop - chunk.latent_start == full
    }
    values = " or ".join(map(str, sorted(numbers)))
    return Check(name, len(numbers) == 1 and 0 not in numbers, f"{values} in the steady state")


def _against_events(timeline: Timeline, run: Recorded) -> Check:
    """Kernels of a chunk lie between its two CUDA events, as far as the clocks can tell."""
    allowed, clocks = TOLERANCE_NS, timeline.alignment
    if clocks is not None:
        allowed += clocks.host_residual_ns + clocks.record_residual_ns
    worst, kernels = 0, timeline.chunk_kernels()
    for chunk in run.chunks:
        if chunk.index in kernels:
            first, last = kernels[chunk.index].span
            early = to_ns(chunk.decode_start_s or 0.0) - first
            worst = max(worst, early, abs(last - to_ns(chunk.decode_done_s or 0.0)))
    detail = f"at most {worst / 1e3:.0f} us apart (allowed {allowed / 1e3:.0f})"
    missing = sum(chunk.index not in kernels for chunk in run.chunks)
    if missing:
        detail += f"; {missing} chunks without kernels"
    return Check("kernels within CUDA events", worst <= allowed and missing == 0, detail)


def _against_wall_clock(timeline: Timeline, run: Recorded) -> Check:
    (first, last), latency = timeline.kernels.span, to_ns(run.latency_s)
    ok = first >= -TOLERANCE_NS and last <= latency + TOLERANCE_NS
    detail = f"kernels from {first / 1e6:.1f} to {last / 1e6:.1f} ms, run of {latency / 1e6:.1f} ms"
    return Check("kernels within the run", ok, detail)


def _copies(timeline: Timeline, run: Recorded) -> Check:
    """Bytes copied to the host in the trace are those that the decode path recorded."""
    copies = timeline.gpu.of(D2H)
    if not any(chunk.d2h_bytes for chunk in run.chunks) and not (copies.chunk >= 0).any():
        return Check("copies", None, f"{run.mode} copies nothing to the host")
    if run.mode == "diffusers":  # VideoProcessor copies; the record knows how much
        wanted = sum(chunk.d2h_bytes for chunk in run.chunks)
        copied = int(copies.nbytes[copies.nbytes >= wanted].sum())
        return Check("copies", copied == wanted, f"{copied} bytes copied of {wanted}")
    right = sum(
        int(copies.nbytes[copies.chunk == chunk.index].sum()) == chunk.d2h_bytes
        for chunk in run.chunks
    )
    return Check(
        "copies", right == len(run.chunks), f"{right} of {len(run.chunks)} chunks copied whole"
    )
