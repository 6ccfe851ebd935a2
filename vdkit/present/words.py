"""What was decoded, how and where, in the words that tables, pictures and reports share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdkit.decode.chunks import PRIMITIVES

if TYPE_CHECKING:
    from vdkit.decode.chunks import DecodeConfig
    from vdkit.predict.grid import SweepPlan
    from vdkit.record.machine import Provenance
    from vdkit.record.recording import Recording
    from vdkit.record.runs import SinkInfo, Workload

_IN_PAGE_CACHE = ("raw", "png", "mp4", "export_to_video")


def setting(recording: Recording, clocks: str = "") -> str:
    """Workload, configuration, sink and machine, in two lines."""
    return setting_of(
        recording.workload, recording.sink, recording.provenance,
        config_words(recording.config), clocks,
    )  # fmt: skip


def setting_of(
    work: Workload, sink: SinkInfo, where: Provenance, how: str, clocks: str = ""
) -> str:
    """The same of parts; ``how``: in place of the configuration."""
    limited = where.torch_threads not in (None, where.host_cores)
    threads = f" (torch on {where.torch_threads})" if limited else ""
    return (
        f"{decoder_words(work)} in {work.dtype}, {work.frames} frames ({work.latent_frames} "
        f"latent) of {work.height}x{work.width} at {work.fps:g} fps = {work.seconds:.2f} s of "
        f"video. {how}; sink: {sink_words(sink)}."
        + "".join(f" Note: {note}." for note in work.notes)
        + "\n"
        f"Device: {where.device}{clocks}; torch {where.packages.get('torch', '?')}"
        + (f", CUDA {where.cuda}, cuDNN {where.cudnn}, driver {where.driver}" if where.cuda else "")
        + f"; {where.host_cores} host cores{threads}; {where.created_utc}; commit "
        + f"{commit_words(where)}."
    )


def config_words(config: DecodeConfig) -> str:
    """Chunk size, slots, and what is off."""
    off = [words for name, words in PRIMITIVES.items() if not getattr(config, name)]
    without = f", without {', '.join(off)}" if off else ""
    return f"Chunk {config.chunk_size}, {config.slots} slots{without}"


def commit_words(where: Provenance) -> str:
    """The commit in seven digits, and whether the code was changed from it."""
    return f"{(where.git_commit or 'unknown')[:7]}{' (dirty)' if where.git_dirty else ''}"


def decoder_words(work: Workload) -> str:
    """The decoder's name, and its variant unless it is diffusers as it is."""
    return work.decoder + (f" ({work.variant})" if work.variant != "diffusers" else "")


def sink_words(sink: SinkInfo) -> str:
    """Where frames went: kind, file system, and what slows it down."""
    cached = sink.kind in _IN_PAGE_CACHE and sink.storage not in (None, "tmpfs")
    return (
        sink.kind
        + (f" on {sink.storage}" if sink.storage else "")
        + (", fsynced" if sink.durable else ", page cache" if cached else "")
        + (f", held to {sink.throttle_mb_per_s:g} MB/s" if sink.throttle_mb_per_s else "")
    )


def what_and_where(recording: Recording | SweepPlan) -> str:
    """Decoder, dtype, size and device, for a title."""
    work = recording.workload
    return (
        f"{decoder_words(work)} in {work.dtype}, {work.frames} frames of "
        f"{work.height}x{work.width}, {recording.provenance.device}"
    )


def what_sentence(recording: Recording, who: str = "") -> str:
    """What was decoded on what machine; ``who`` instead of the decoder alone."""
    work, where, size = recording.workload, recording.provenance, recording.config.chunk_size
    machine = f"on one {where.device}" if where.device != "cpu" else f"on the CPU, {where.cpu},"
    return (
        f"{who or decoder_words(work)} in {work.dtype} decoded {work.frames} frames of "
        f"{work.height}x{work.width}, {work.seconds:.2f} s of video, in chunks of {size} latent "
        f"frame{'s' * (size > 1)} into {sink_words(recording.sink)} {machine} with "
        f"{where.host_cores} host cores."
    )


def recording_words(recording: Recording) -> str:
    """Label, date and commit, in one line."""
    made = recording.provenance
    return f"{recording.label}, {made.created_utc}, commit {commit_words(made)}"
