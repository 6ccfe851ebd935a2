"""What was decoded, how and where, what was gained, and what to read with care.

The words that tables, pictures and reports share. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vdkit.decode.chunks import PRIMITIVES, DecodeConfig
from vdkit.decode.media import MediaInfo
from vdkit.predict.grid import SweepPlan
from vdkit.present import mean_of, ratio_of
from vdkit.record.recording import Arm, Recording, comparable
from vdkit.record.runs import Provenance, SinkInfo, Workload
from vdkit.record.stats import geometric_ratio


def setting(one: Recording | SweepPlan, clocks: str = "", how: str = "") -> str:
    """Workload, configuration (or ``how``), sink and machine, in two lines."""
    work, where, how = one.workload, one.provenance, how or config_words(one.config)
    limited = where.torch_threads not in (None, where.host_cores)
    threads = f" (torch on {where.torch_threads})" if limited else ""
    gpu = f", CUDA {where.cuda}, cuDNN {where.cudnn}, driver {where.driver}" if where.cuda else ""
    return (
        f"{decoder_words(work)} in {work.dtype}, {_length_words(work)}. {how}; sink: "
        f"{sink_words(one.sink)}." + "".join(f" Note: {note}." for note in work.notes) + "\n"
        f"Device: {where.device}{clocks}; torch {where.packages.get('torch', '?')}{gpu}; "
        f"{where.host_cores} host cores{threads}; {where.created_utc}; commit "
        f"{commit_words(where)}."
    )


def _length_words(work: Workload) -> str:
    if work.medium == "images":
        return media_words(work)
    rate, what = ("Hz", "audio") if work.medium == "audio" else ("fps", "video")
    said = (
        f"{work.kind.counted(work.frames)} ({work.latent_frames} latent) of {size_words(work)} at "
        f"{work.fps:g} {rate} = {work.seconds:.2f} s of {what}"
    )
    if not work.samples:
        return said
    lacks = work.seconds - work.samples / work.sample_rate
    early = f", which ends {1e3 * lacks:.1f} ms before the video" if lacks > 1e-6 else ""
    channels = f"{work.channels} channel{'s' * (work.channels != 1)}"
    return f"{said} with sound, {work.sample_rate} Hz, {channels}{early}"


def size_words(work: Workload | MediaInfo) -> str:
    """``480x832``, with the content where it is known: ``480x832 (grain)``; of audio ``1 channel``,
    ``2 channels``."""
    if work.medium == "audio":
        return f"{work.width} channel{'s' * (work.width != 1)}"
    content = getattr(work, "content", "unknown")
    return f"{work.height}x{work.width}" + f" ({content})" * (content != "unknown")


def media_words(work: Workload | MediaInfo) -> str:
    """What one decode makes: ``161 frames of 480x832``, ``60.00 s of audio in 2 channels``."""
    if work.medium == "audio":
        return f"{work.seconds:.2f} s of audio in {size_words(work)}"
    sound = " with sound" if work.samples else ""
    return f"{work.kind.counted(work.frames)} of {size_words(work)}{sound}"


def config_words(config: DecodeConfig) -> str:
    """Chunk size, slots, and what is off."""
    off = ", ".join(words for name, words in PRIMITIVES.items() if not getattr(config, name))
    without = f", without {off}" if off else ""
    sync = ", sync with uint8 on the GPU" if config.sync_uint8_on_gpu else ""
    return f"Chunk {config.chunk_size}, {slots_words(config.slots)}{without}{sync}"


def slots_words(count: int) -> str:
    """``1 slot``, ``2 slots``."""
    return f"{count} slot{'s' * (count != 1)}"


def commit_words(where: Provenance) -> str:
    """The commit in seven digits, and whether the code was changed from it."""
    return f"{(where.git_commit or 'unknown')[:7]}{' (dirty)' if where.git_dirty else ''}"


def decoder_words(work: Workload) -> str:
    """The decoder's name, and its variant unless it is diffusers as it is."""
    return work.decoder + (f" ({work.variant})" if work.variant != "diffusers" else "")


def sink_words(sink: SinkInfo) -> str:
    """Where frames went: kind, file system, and what slows it down."""
    cached = sink.storage not in (None, "tmpfs")
    how = ", ".join(f"{k} {v}" for k, v in sink.options.items())
    if sink.kind == "mp4" and sink.encoder is not None:
        how = sink.encoder
    return (
        sink.kind
        + (f" ({how})" if how else "")
        + (f" on {sink.storage}" if sink.storage else "")
        + (", fsynced" if sink.durable else ", page cache" if cached else "")
        + (f", held to {sink.throttle_mb_per_s:g} MB/s" if sink.throttle_mb_per_s else "")
    )


def what_and_where(recording: Recording | SweepPlan) -> str:
    """Decoder, dtype, size and device, for a title."""
    work = recording.workload
    return (
        f"{decoder_words(work)} in {work.dtype}, {media_words(work)}, {recording.provenance.device}"
    )


def what_sentence(recording: Recording, who: str = "") -> str:
    """What was decoded on what machine; ``who`` instead of the decoder alone."""
    work, where, size = recording.workload, recording.provenance, recording.config.chunk_size
    played = f", {work.seconds:.2f} s of video" if work.medium in ("video", "av") else ""
    machine = f"on one {where.device}" if where.device != "cpu" else f"on the CPU, {where.cpu},"
    return (
        f"{who or decoder_words(work)} in {work.dtype} decoded {media_words(work)}{played}, in "
        f"chunks of {size} {work.kind.position}{'s' * (size > 1)} into "
        f"{sink_words(recording.sink)} {machine} with {where.host_cores} host cores."
    )


def recording_words(recording: Recording) -> str:
    """Label, date and commit, in one line."""
    made = recording.provenance
    return f"{recording.label}, {made.created_utc}, commit {commit_words(made)}"


def frames_line(recording: Recording) -> str:
    """Whether the frames of the arms are the same bytes."""
    delivered = {name: arm for name, arm in recording.arms.items() if arm.frame_sha256}
    compared = [name for name, arm in delivered.items() if comparable(arm)]
    left_out, work = [name for name in delivered if name not in compared], recording.workload
    at_once = any(arm.at_once for arm in recording.arms.values())
    alike = work.exact and work.medium == "video" and not at_once
    why = "at chunk sizes above 1" if alike else "with the whole"
    note = f" Not compared {why}: {', '.join(left_out)}." if left_out else ""
    note = f"{(said := whole_words(recording)) and f'; {said}'}.{note}"
    what = f"{work.kind.unit.capitalize()}s"
    if recording.frames_identical is None:
        return f"{what} were not compared: that takes two modes that deliver them{note}"
    verdict = "identical, byte for byte" if recording.frames_identical else "NOT IDENTICAL"
    return f"{what} of {', '.join(compared)}: {verdict}{note}"


def db_words(work: Workload) -> str:
    """What decibels of its medium are."""
    return "signal to noise" if work.medium == "audio" else "PSNR"


def whole_words(recording: Recording) -> str:
    """How near chunks come to the decoder's own whole decode, where that is no matter of bytes."""
    work, named = recording.workload, "the decoder's own whole decode"
    found = {arm.whole_db: arm for arm in recording.arms.values() if arm.whole_db}
    if not found:
        none = "chunks approximate its whole decode, which there was none of: no decode_video, or "
        return "" if work.exact else f"{none}no memory for it"
    told = []
    for db, worst in found:
        said = f"{db:.1f} dB ({db_words(work)}; {worst:.1f} dB in the worst chunk) against"
        told.append(f"{'equal to' if math.isinf(db) else said} {named}")
    what = "" if all(math.isinf(db) for db, _ in found) else "approximate: "
    return f"{what and 'but for rounding: ' if work.exact else what}{' and '.join(told)}"


def noise_note(recording: Recording) -> str:
    """A warning if the machine was too busy for the table to mean much, else nothing."""
    shaky = [n for n, a in recording.arms.items() if a.latency.max > 1.5 * a.latency.min]
    return (
        f"Note: runs of {', '.join(shaky)} differ by more than half; something else was using this "
        "machine, so these ratios say little."
    ) * bool(shaky)


def gain_sentence(arms: Mapping[str, Arm]) -> str:
    """What async gained over sync, how near it is to the compute floor, and into other sinks."""
    others = {n: arm for n, arm in arms.items() if arm.mode == "async" and n != "async"}
    beside = bool(others) or not {"sync", "compute_only"}.isdisjoint(arms)
    if "async" not in arms or not beside:
        there = "; ".join(arms)
        return f"What async gains over sync is not in this record, whose modes are {there}."
    overlapped, whole = arms["async"].latencies, arms["async"].workload.kind.whole
    text = f"Async takes {mean_of(overlapped)} s a {whole}"
    if "sync" in arms:
        sync = arms["sync"].latencies
        ratio = geometric_ratio(sync, overlapped)
        text += f" and sync {mean_of(sync)} s: sync / async is {ratio_of(ratio)}"
        if ratio.low is not None and ratio.high is not None and ratio.low <= 1 <= ratio.high:
            text += ", which leaves room for no gain at all"
    if "compute_only" in arms:
        floor = arms["compute_only"].latencies
        over = 100 * (geometric_ratio(overlapped, floor).value - 1)
        where, scatter = ("above", "") if over >= 0 else ("below", " (scatter)")
        text += f", and async is {abs(over):.2f} % {where} the compute floor of {mean_of(floor)} s"
        text += scatter
    text += "".join(f"; {name}: {mean_of(arm.latencies)} s" for name, arm in others.items())
    return " ".join(filter(None, [f"{text}.", overlap_words(arms, "async")]))


def overlap_words(arms: Mapping[str, Arm], overlapped: str) -> str:
    """How much of what ``overlapped`` gains over sync is overlap, and how much the conversion.

    Sync converts on the host, as the published baseline does, and async on the GPU. Empty without
    an arm of sync that converts on the GPU as well.
    """
    sync = {n: a for n, a in arms.items() if a.mode == "sync" and a.runs[0].chunks}
    on_gpu = [n for n, a in sync.items() if a.runs[0].chunks[0].span_s("convert") is None]
    on_host = [n for n in sync if n not in on_gpu]
    if not on_gpu or not on_host or overlapped not in arms:
        return ""
    names = on_host[0], on_gpu[0], overlapped
    plain, converted, hidden = (arms[name].latencies for name in names)
    return (
        f"Of {names[0]} / {overlapped}, {ratio_of(geometric_ratio(plain, converted))} is the "
        "conversion to uint8 on the GPU, which leaves a byte a value to copy "
        f"({names[0]} / {names[1]}), and {ratio_of(geometric_ratio(converted, hidden))} is overlap "
        f"({names[1]} / {overlapped})."
    )


def read_with_care(care: Sequence[str], found: Sequence[str] = ()) -> str:
    """What was found, then what the reader has to know about it."""
    text = "; ".join([*found, "read with care: " + "; ".join(filter(None, care))])
    return f"{text[:1].upper()}{text[1:]}."


def lead_words(
    recording: Recording, gain: str, found: Sequence[str] = (), who: str = ""
) -> tuple[str, ...]:
    """What was decoded, what was gained, if that is to be said, and what to read with care."""
    care = read_with_care(care_words(recording), found)
    return tuple(filter(None, (what_sentence(recording, who), gain, care)))


def care_words(recording: Recording) -> list[str]:
    """How many runs, how many of them throttled, and whether their frames are the same."""
    held = sum(arm.throttled_runs for arm in recording.arms.values())
    timed = sum(len(arm.timed) for arm in recording.arms.values())
    throttled = f"{held} of {timed} timed runs had a throttle reason set" if held else ""
    return [count_words(recording.arms), throttled, frames_words(recording)]


def count_words(arms: Mapping[str, Arm]) -> str:
    """How many runs the means are of, and what so few cannot tell."""
    counts = sorted({len(arm.timed) for arm in arms.values()})
    n = f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
    if counts[0] == 1:
        return f"{n}: one run has no interval"
    return f"{n}, so P99 is close to the maximum" if counts[0] < 100 else n


def frames_words(recording: Recording) -> str:
    """Whether the arms gave the same frames, in a few words."""
    parts, units = recording.benchmarks.items(), f"{recording.workload.kind.unit}s"
    if unlike := [name and f" OF {name}" for name, one in parts if one.frames_identical is False]:
        return f"{units.upper()} OF THE MODES{' AND'.join(unlike)} ARE NOT IDENTICAL"
    told = f"{units} of the modes that were compared are identical, byte for byte"
    told = f"{units} were not compared" if recording.frames_identical is None else told
    return "; ".join(filter(None, [told, *map(whole_words, recording.benchmarks.values())]))
