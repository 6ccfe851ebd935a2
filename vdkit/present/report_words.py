"""The first lines of a report: what was decoded, what was gained, what to read with care."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vdkit.measure.advice import BOUND
from vdkit.measure.costs import recorded_span
from vdkit.measure.stats import paired_ratio, unpaired_ratio
from vdkit.measure.variant_records import latent_frame_ms
from vdkit.present.compare_tables import recording
from vdkit.present.digits import mean_words, ratio_words
from vdkit.present.profile_tables import incomplete, on_cpu
from vdkit.present.tables import decoder_words, sink_words

if TYPE_CHECKING:
    from vdkit.measure.compare import Comparison
    from vdkit.measure.profile_records import ProfileResult
    from vdkit.measure.records import BenchmarkResult
    from vdkit.measure.stats import Ratio
    from vdkit.measure.variant_records import Comparison as Variants

_STEPS = {"decode": "decoding", "copy": "copying", "convert": "converting", "write": "writing"}


def what_sentence(result: BenchmarkResult | ProfileResult, who: str = "") -> str:
    """What was decoded on what machine; ``who`` instead of the decoder alone."""
    work, where, size = result.workload, result.provenance, result.config.chunk_size
    machine = f"on one {where.device}" if where.device != "cpu" else f"on the CPU, {where.cpu},"
    return (
        f"{who or decoder_words(work)} in {work.dtype} decoded {work.frames} frames of "
        f"{work.height}x{work.width}, {work.seconds:.2f} s of video, in chunks of {size} latent "
        f"frame{'s' * (size > 1)} into {sink_words(result.sink)} {machine} with "
        f"{where.host_cores} host cores."
    )


def benchmark_summary(result: BenchmarkResult) -> list[str]:
    """Three sentences."""
    latencies = {mode: result.latencies(mode) for mode in result.modes}
    care = [_count_words(latencies), _throttle_words(result), frames_words(result)]
    return [what_sentence(result), _gain_sentence(latencies), _care_sentence(care, _limit(result))]


def profile_summary(result: ProfileResult) -> list[str]:
    """Three sentences."""
    latencies = {mode: [run.latency_s for run in one.timed] for mode, one in result.modes.items()}
    analyses = {mode: one.analysis for mode, one in result.modes.items()}
    windows = {
        mode: name
        for mode, one in analyses.items()
        if (name := next((n for n in ("steady", "run") if n in one.windows), None))
    }
    busy = ", ".join(
        f"{analyses[mode].windows[name].kernel_utilization_percent:.2f} % ({mode}, window {name})"
        for mode, name in windows.items()
    )
    what = "the decoder's share of the time" if on_cpu(analyses) else "kernel utilization"
    found = [f"{what} is {busy}"] if busy else []
    mode = "sync" if "sync" in analyses else next(iter(analyses))
    if (run := analyses[mode].windows.get("run")) is not None:
        cause = max(run.stall_s, key=lambda name: run.stall_s[name])
        words = "gaps up to 20 us" if cause == "short" else cause
        took = f"{1e3 * run.stall_s[cause]:.1f} ms in all"
        found.append(f"{mode} loses most to {words}, {took}")
    held = [mode for mode, one in result.modes.items() if one.throttled]
    failed = len(incomplete(analyses))
    care = [
        _count_words(latencies),
        f"a throttle reason was set in samples of {', '.join(held)}" if held else "",
        f"{failed} CHECKS OF THE TRACES FAILED" if failed else "",
        "profiled runs are slower, and their latency is no figure; a profile compares no frames",
    ]
    return [what_sentence(result), _gain_sentence(latencies), _care_sentence(care, found)]


def variants_summary(made: Variants) -> list[str]:
    """Three sentences."""
    results, base = made.results, made.index.baseline
    shared = [m for m in ("compute", "async", "sync", "diffusers") if m in made.baseline.modes]
    mode = shared[0]
    there = {name: r.modes[mode].latency_s.mean for name, r in results.items() if mode in r.modes}
    best = min(there, key=lambda name: there[name])
    per_frame = latent_frame_ms(results[best])
    frame = f", {mean_words(per_frame)} ms per latent frame when steady" if per_frame else ""
    taken_s = mean_words(results[best].latencies(mode))
    gain = f"In mode {mode} {best} takes {taken_s} s a video{frame}"
    if best != base and (ratio := made.ratio((base, mode), (best, mode))) is not None:
        gain += f": {base} / {best} is {ratio_words(ratio)}"
    if (hidden := made.ratio((best, "sync"), (best, "async"))) is not None:
        gain += f"; sync / async of {best} is {ratio_words(hidden)}"
    who = f"{made.baseline.workload.decoder}, run as {', '.join(results)},"
    latencies = {
        f"{name} {m}": one.latencies(m) for name, one in results.items() for m in one.modes
    }
    held = [name for name, one in results.items() if _throttled(one)]
    unlike = [name for name, one in results.items() if one.frames_identical is False]
    compared = [name for name, one in results.items() if one.frames_identical is not None]
    same = f"each mode of {', '.join(compared)} gave the same frames"
    same = same if compared else "frames were not compared"
    care = [
        _count_words(latencies),
        f"some runs of {', '.join(held)} had a throttle reason set" if held else "",
        f"FRAMES OF THE MODES OF {', '.join(unlike)} ARE NOT IDENTICAL" if unlike else "",
        "" if unlike else same,
    ]
    return [what_sentence(made.baseline, who), gain + ".", _care_sentence(care)]


def pair_summary(
    a: BenchmarkResult, b: BenchmarkResult, comparison: Comparison | None, refusal: str = ""
) -> list[str]:
    """Three sentences on two recordings; ``refusal``: why there is no ``comparison``."""
    first, second = what_sentence(a), what_sentence(b)
    ran = f"in both {first}" if first == second else f"in A {first[:-1]}, in B {second}"
    first = f"A is {recording(a)}, and B is {recording(b)}; {ran}"
    if comparison is None:
        return [first, refusal, "So no ratio is given, and each stands by itself below."]
    latency = [row for row in comparison.rows if row.metric == "latency_s"]
    told = "; ".join(
        f"{row.mode_b}: {row.verdict}"
        + (f", B / A {ratio_words(row.decision.ratio)}" if row.decision.ratio else "")
        for row in latency
    )
    care = [
        "runs of one round are pairs"
        if comparison.paired
        else "the recordings are not paired, so what only the hour changed counts too",
        f"n = {min(min(row.n_a, row.n_b) for row in comparison.rows)}",
        "some runs had a throttle reason set"
        if any(row.throttled_a or row.throttled_b for row in comparison.rows)
        else "",
        "THEY DIFFER IN WHAT MUST BE EQUAL" if comparison.mismatches else "",
    ]
    return [first, f"Latency of B against A, {told}.", _care_sentence(care)]


def frames_words(result: BenchmarkResult) -> str:
    """Whether the modes gave the same frames, in a few words."""
    return {
        True: "frames of the modes that were compared are identical, byte for byte",
        False: "FRAMES OF THE MODES ARE NOT IDENTICAL",
        None: "frames were not compared",
    }[result.frames_identical]


def _gain_sentence(latencies: Mapping[str, Sequence[float]]) -> str:
    """What async gained over sync, and how near it is to the compute floor."""
    if "async" not in latencies or "sync" not in latencies:
        there = ", ".join(latencies)
        return f"What async gains over sync is not in this record, whose modes are {there}."
    ratio = _ratio(latencies["sync"], latencies["async"])
    sync_s, async_s = (mean_words(latencies[mode]) for mode in ("sync", "async"))
    text = f"Async takes {async_s} s a video and sync {sync_s} s: sync / async is "
    text += ratio_words(ratio)
    if ratio.low is not None and ratio.high is not None and ratio.low <= 1 <= ratio.high:
        text += ", which leaves room for no gain at all"
    if "compute" in latencies:
        over = 100 * (_ratio(latencies["async"], latencies["compute"]).value - 1)
        floor_s = mean_words(latencies["compute"])
        where = "above" if over >= 0 else "below"
        text += f", and async is {abs(over):.2f} % {where} the compute floor of {floor_s} s"
        text += " (scatter)" if over < 0 else ""
    return text + "."


def _limit(result: BenchmarkResult) -> list[str]:
    """The step that fills an async run, if one does."""
    if "async" not in result.modes:
        return []
    runs = result.timed("async")
    total = sum(run.latency_s for run in runs)
    shares = {
        words: sum(recorded_span(c, step) or 0.0 for run in runs for c in run.chunks) / total
        for step, words in _STEPS.items()
    }
    most = max(shares, key=lambda words: shares[words])
    if shares[most] >= BOUND:
        return [f"{most} fills {100 * shares[most]:.1f} % of an async run and limits it"]
    return [f"no step fills an async run ({most}, the longest, is {100 * shares[most]:.1f} %)"]


def _care_sentence(care: Sequence[str], found: Sequence[str] = ()) -> str:
    """What was found, then what the reader has to know about it."""
    told = [*found, "read with care: " + "; ".join(part for part in care if part)]
    text = "; ".join(told)
    return f"{text[:1].upper()}{text[1:]}."


def _count_words(latencies: Mapping[str, Sequence[object]]) -> str:
    """How many runs the means are of, and what so few cannot tell."""
    counts = sorted({len(values) for values in latencies.values()})
    n = f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
    if counts[0] == 1:
        return f"{n}: one run has no interval"
    return f"{n}, so P99 is close to the maximum" if counts[0] < 100 else n


def _throttle_words(result: BenchmarkResult) -> str:
    held, timed = _throttled(result), sum(not run.warmup for run in result.runs)
    return f"{held} of {timed} timed runs had a throttle reason set" if held else ""


def _throttled(result: BenchmarkResult) -> int:
    return sum(mode.throttled_runs for mode in result.modes.values())


def _ratio(top: Sequence[float], bottom: Sequence[float]) -> Ratio:
    return (paired_ratio if len(top) == len(bottom) else unpaired_ratio)(top, bottom)
