"""From recordings to the costs of each step, by least squares, and how well they give them back.

Means, not medians: a run's latency is a sum, and what stalls now and then is a part of it. A
`CostBook` holds what is known of costs by machine, decoder, size and sink: where nothing was
measured of a setting it puts them together from the nearest ones, and says so.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

import numpy as np

from vdkit.decode.chunks import SEGMENT
from vdkit.decode.media import PIXEL_FORMATS
from vdkit.predict import Cost, StageCosts, has_own_plan, is_pinned, plan_of, predict, video_info
from vdkit.predict.encoding import Encoding, line_above_zero
from vdkit.trace.tail import has_parts

if TYPE_CHECKING:
    from pathlib import Path

    from vdkit.decode.chunks import ChunkRecord
    from vdkit.decode.media import Medium
    from vdkit.record.recording import Arm, Recording
    from vdkit.record.runs import Run, SinkInfo, Workload

_Point = tuple[float, float | None]
"""Measured (pixel frames, seconds) of one step; None: the chunk had no such step."""
_ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


def fit_costs(*recordings: Recording) -> StageCosts:
    """Costs from the timed runs of one or several recordings of one setting, at any chunk sizes.

    ``decode`` and ``launch`` have a cost of their own for the first chunk, which of images and of
    audio is by its size as that of the others. For the others chunks of
    two sizes are needed to tell the fixed from the per-frame part. If all have one size (a short
    last chunk is a second one), all of a decode is taken as per frame and all of a launch as fixed,
    since the kernels grow with the frames and their number does not: good at the measured chunk
    size, a guess at any other. Copy, conversion and write are taken as linear down to the one
    frame of the first chunk. Open and close are taken as fixed unless videos of two lengths were
    measured. Peak VRAM, less what others held, is known at the measured chunk sizes only, and
    between and beyond them from two sizes on. Arms with work planted in them are left out.

    ``decode`` is of chunks that were queued in time (modes async, compute_only); what a decode
    takes more on an idle stream (mode sync) becomes ``lead``, less the conversion on the GPU, which
    only the former do. What no run shows stays unknown (None) or 0.

    From three sizes on (the first chunk's one frame counts for copy, conversion and write) a step
    costs at each measured size what it cost there, since host conversions stall by the call rather
    than by the frame, and copies of 20 MB and more to pageable memory often take five times as long
    as the line says. Mode sync is predicted well at the measured chunk sizes only.

    Of an MP4 sink that says what it was at, `Encoding` is fitted; recordings may differ in the
    number of encoders, of which the costs have the first.

    Raises:
        ValueError: no recordings, arms that differ in more than mode, chunk size, slots, primitives
            and video length, chunks without their times, or a sink that was throttled, whose write
            cost cannot be seen.
    """
    runs = [(arm, run) for arm in _arms_of_one_setting(recordings) for run in arm.timed]
    chunked = [(arm, run) for arm, run in runs if arm.mode != "diffusers"]
    if not chunked:
        raise ValueError("mode diffusers alone shows no chunk; fit from a run of sync or async too")
    for arm, run in chunked:
        if any(one.span_s(step) is None for one in run.chunks for step in ("launch", "decode")):
            raise ValueError(f"a run of mode {arm.mode} lacks times of its chunks; record it again")
    load = runs[0][0].workload
    frame_bytes = video_info(runs[0][0]).frame_bytes
    cuda = recordings[0].provenance.device != "cpu"
    step_s = _mean(step for arm, run in chunked if arm.mode == "sync" for step in _steps_s(run))
    decode, launch, lead = _decode_and_launch([run for _, run in chunked], load.kind)
    copies: dict[bool, list[_Point]] = {True: [], False: []}
    for arm, run in chunked:
        copied = copies[is_pinned(cuda, arm.config, arm.mode)]
        copied += [(chunk.d2h_bytes / frame_bytes, chunk.span_s("copy")) for chunk in run.chunks]
    opened, closed = (
        _fit(((run.chunks[-1].frame_stop, own_s(arm, run)) for arm, run in runs), "fixed") or Cost()
        for own_s in (lambda _, run: run.sink_open_s, _closed_s)
    )
    whole = (run.chunks[0] for arm, run in runs if arm.mode == "diffusers")
    return StageCosts(
        decode=decode, launch=launch, lead=lead,
        copy=_fit(copies[True]), pageable_copy=_fit(copies[False]),
        convert=_fit((c.frames, c.span_s("convert")) for _, run in chunked for c in run.chunks),
        video_convert=_fit((chunk.frames, _video_conversion(chunk)) for chunk in whole),
        write=_fit((c.frames, _handed_s(arm, c)) for arm, run in runs for c in run.chunks),
        encoding=_encoding(recordings, runs),
        setup_s=_mean(_setup_s(arm, run, step_s) for arm, run in chunked),
        open=opened, close=closed,
        wake_s=_mean(wake for arm, run in chunked for wake in _wakes_s(arm, run)),
        step_s=step_s, element_bytes=_ELEMENT_BYTES[load.dtype], cuda=cuda,
        vram_bytes=_vram(chunked),
    )  # fmt: skip


def _own_arms(recordings: Iterable[Recording]) -> Iterator[tuple[Recording, str, Arm]]:
    """The arms whose times are the decoder's and the sink's own: none with work planted in it, nor
    the one beside an MP4 sink's that ends in ``export_to_video``."""
    for one in recordings:
        for name, arm in one.arms.items():
            if (one.planted is None or name != "slow") and arm.sink.kind != "export_to_video":
                yield one, name, arm


def _arms_of_one_setting(recordings: Sequence[Recording]) -> list[Arm]:
    found: list[tuple[str, Arm, dict[str, object]]] = []
    for one, name, arm in _own_arms(recordings):
        load, sink = arm.workload, arm.sink
        if sink.throttle_mb_per_s is not None:
            raise ValueError(
                f"{one.label!r} was throttled to {sink.throttle_mb_per_s} MB/s, which hides what a "
                "write costs; fit from an unthrottled run, and give the costs a Storage(mb_per_s)"
            )
        names = ("decoder", "variant", "dtype", "medium", "height", "width")
        setting = {"device": one.provenance.device, **{n: getattr(load, n) for n in names}}
        setting |= {"sink": sink.kind, "storage": sink.storage, "durable": sink.durable}
        options = dict(sink.options)
        if any(encoders_of(each) for each in one.arms.values()):
            options.pop("encoders", None)
            setting["content"] = load.content
        setting |= {"pixel format": sink.pixel_format, "sink's options": options}
        where = f"{one.label!r}" + f", arm {name}" * (one.kind == "variants" or sink != one.sink)
        found.append((where, arm, setting))
    if not found:
        raise ValueError(
            "no recording to fit costs from; give one or more, as read_recording reads"
        )
    first, _, wanted = found[0]
    for where, _, given in found:
        if off := next((name for name in given if given[name] != wanted[name]), None):
            raise ValueError(
                f"{off} is {given[off]!r} in {where} and {wanted[off]!r} in {first}; fit each "
                "setting by itself (of variants: Recording.of_variant; of sinks: a recording of it)"
            )
    if wanted["dtype"] not in _ELEMENT_BYTES:
        raise ValueError(f"dtype is {wanted['dtype']!r}; known are {', '.join(_ELEMENT_BYTES)}")
    return [arm for _, arm, _ in found]


def encoders_of(arm: Arm) -> int | None:
    """Encoders side by side of an MP4 sink that said what it was at; None of any other."""
    said = arm.sink.kind == "mp4" and any(has_parts(run) for run in arm.timed)
    return int(arm.sink.options.get("encoders", 1)) if said else None


def _less(whole_s: float | None, *parts_s: float | None) -> float | None:
    return None if whole_s is None else max(0.0, whole_s - sum(one or 0.0 for one in parts_s))


def _closed_s(arm: Arm, run: Run) -> float | None:
    """A close without what `Encoding` holds."""
    return _less(run.sink_close_s, *(run.sink_close_parts.values() if encoders_of(arm) else ()))


def _handed_s(arm: Arm, chunk: ChunkRecord) -> float | None:
    """A write without what `Encoding` holds; where encoders have threads of their own the thread
    that writes only copies as its part of encoding."""
    count, written_s = encoders_of(arm), chunk.span_s("write")
    own = [] if count is None else [chunk.mux_s, chunk.encode_s if count == 1 else chunk.full_s]
    return _less(written_s, *own)


def _encoding(recordings: Sequence[Recording], runs: Sequence[tuple[Arm, Run]]) -> Encoding | None:
    took: dict[int, list[float]] = defaultdict(list)
    muxed, behind, counts = [], [], [count for arm, _ in runs if (count := encoders_of(arm))]
    for arm, run in runs:
        if (count := encoders_of(arm)) is None:
            continue
        frames, closing = run.chunks[-1].frame_stop, run.sink_close_parts
        late_s = closing.get("encode", 0.0)
        alone_s = late_s + sum(chunk.encode_s or 0.0 for chunk in run.chunks)
        took[count].append((alone_s if count == 1 else run.encoders_s or 0.0) / frames)
        muxes = [closing.get("mux", 0.0), *(chunk.mux_s or 0.0 for chunk in run.chunks)]
        muxed.append(sum(muxes) / frames)
        behind += [late_s / took[1][-1]] if count == 1 and took[1][-1] else []
    if not counts:
        return None
    sink = runs[0][0].sink
    return Encoding(
        counts[0], tuple((count, _mean(took[count])) for count in sorted(took)),
        segment=int(sink.options.get("segment", SEGMENT)), mux_s=_mean(muxed),
        behind=_mean(behind), words=(sink.encoder or "").partition(", ")[0],
        cores=recordings[0].provenance.host_cores,
    )  # fmt: skip


def _fit(
    points: Iterable[_Point], alone: Literal["fixed", "per frame"] = "per frame"
) -> Cost | None:
    """Least squares with neither part below 0; one size alone gives one part, ``alone``.

    From three sizes on the means of each are kept too.
    """
    known = [(size, took) for size, took in points if took is not None]
    if not known:
        return None
    frames, seconds = np.array(known, dtype=float).T
    if np.ptp(frames) == 0:
        if alone == "fixed":
            return Cost(float(seconds.mean()))
        return Cost(0.0, float(frames @ seconds / (frames @ frames)))
    measured = tuple((float(s), float(seconds[frames == s].mean())) for s in np.unique(frames))
    return Cost(*line_above_zero(frames, seconds), None, measured if len(measured) > 2 else ())


def _mean(values: Iterable[float]) -> float:
    """Mean, at least 0 (clocks differ by microseconds); 0 of nothing."""
    found = list(values)
    return max(0.0, float(np.mean(found))) if found else 0.0


def _decode_and_launch(runs: Sequence[Run], medium: Medium) -> tuple[Cost, Cost, Cost]:
    """(decode, launch, lead): queued decodes if there are any, launches that no full queue held."""
    chunks = [chunk for run in runs for chunk in run.chunks]
    firsts = [chunk for chunk in chunks if chunk.index == 0]
    in_time: dict[bool, list[ChunkRecord]] = {True: [], False: []}
    for chunk in (chunk for chunk in chunks if chunk.index):
        in_time[(chunk.decode_start_s or 0.0) >= (chunk.launch_done_s or 0.0)].append(chunk)

    def fit(some: list[ChunkRecord], step: str) -> Cost | None:
        alone: Literal["fixed", "per frame"] = "fixed" if step == "launch" else "per frame"
        return _fit(((chunk.frames, chunk.span_s(step)) for chunk in some), alone)

    decode = fit(in_time[True], "decode") or fit(in_time[False], "decode")
    if decode is None and medium.first_units is None:  # all was one chunk, like any other
        decode = fit(firsts, "decode")
    launch, lead = fit(in_time[False], "launch") or fit(in_time[True], "launch"), Cost()
    if decode is not None and in_time[True]:
        longer: dict[float, list[float]] = defaultdict(list)
        for chunk in in_time[False]:
            took = chunk.span_s("decode") or 0.0
            longer[chunk.frames].append(took - decode.seconds(chunk.frames))
        means = tuple((size, _mean(longer[size])) for size in sorted(longer))
        lead = Cost(_mean(mean for _, mean in means), 0.0, 0.0, means if len(means) > 1 else ())

    def own(step: str) -> float | Cost | None:
        if medium.first_units is None:
            return fit(firsts, step)
        return float(np.mean([chunk.span_s(step) or 0.0 for chunk in firsts]))

    return (  # of a first decode its lead is a part: it always finds the stream idle
        replace(decode or Cost(), first_s=own("decode")),
        replace(launch or Cost(), first_s=own("launch")),
        lead,
    )


def _video_conversion(chunk: ChunkRecord) -> float | None:
    """Copy and conversion in mode diffusers: what lies between the decode and the write."""
    converted, decoded = chunk.convert_done_s, chunk.decode_done_s
    return None if converted is None or decoded is None else converted - decoded


def _threaded(arm: Arm) -> bool:
    return arm.mode == "async" and arm.config.writer_thread


def _setup_s(arm: Arm, run: Run, step_s: float) -> float:
    """From the call until the sink opens or the first slot is asked for."""
    waited, launched = run.chunks[0].slot_wait_start_s, run.chunks[0].launch_start_s or 0.0
    reached = launched - step_s if waited is None else waited
    return reached - (0.0 if _threaded(arm) else run.sink_open_s or 0.0)


def _steps_s(run: Run) -> Iterator[float]:
    """Mode sync: what lies between the steps of a chunk and before the next chunk's launch."""
    for before, chunk in pairwise(run.chunks):
        steps = [before.span_s(step) for step in ("decode", "copy", "convert", "write")]
        apart_s = (chunk.launch_start_s or 0.0) - (before.launch_start_s or 0.0)
        yield apart_s - sum(step or 0.0 for step in steps)


def _wakes_s(arm: Arm, run: Run) -> Iterator[float]:
    """From a copy's end to the writer's next step, where the writer slept on it."""
    if not (_threaded(arm) and arm.config.pinned_memory):
        return
    for before, chunk in pairwise(run.chunks):
        begun = chunk.write_start_s if chunk.convert_start_s is None else chunk.convert_start_s
        copied, written = chunk.copy_done_s, before.write_done_s
        if begun is not None and copied is not None and written is not None and written < copied:
            yield begun - copied


def _vram(runs: Sequence[tuple[Arm, Run]]) -> tuple[tuple[int, int], ...]:
    """(pixel frames in the largest chunk, highest peak beside the ring) of every chunk size."""
    found: dict[int, int] = {}
    for arm, run in runs:
        if run.vram_peak_bytes is not None:
            most = max(chunk.frames for chunk in run.chunks)
            own = run.vram_peak_bytes - run.ring_bytes - (arm.other_bytes or 0)
            found[most] = max(found.get(most, 0), own)
    return tuple(sorted(found.items()))


DISTURBED_RATIO = 1.5
"""The slowest run of an arm over its fastest, above which something else was at work."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """How well costs give back what was measured, and whether the machine was left alone.

    Attributes:
        error_percent: median of |predicted over measured mean latency - 1|, %, of mode async where
            it was measured; None if nothing was both predicted and measured.
        tested: predicted before they were measured; otherwise the costs were fitted from them, and
            the error at other settings may be larger.
        disturbed: (name, slowest over fastest run) of the arms where it is above
            `DISTURBED_RATIO`.
        throttled_runs, runs: timed runs with a throttle reason set, and all of them.
    """

    error_percent: float | None
    tested: bool
    disturbed: tuple[tuple[str, float], ...]
    throttled_runs: int
    runs: int


def evidence_of(found: Sequence[tuple[str, Arm, float | None]], tested: bool) -> Evidence:
    """Of arms by any name, with the error of each, %, if it has one."""
    errors = [(arm.mode == "async", abs(off)) for _, arm, off in found if off is not None]
    known = [error for of_async, error in errors if of_async] or [error for _, error in errors]
    spread = [(name, arm.latency.max / arm.latency.min) for name, arm, _ in found]
    return Evidence(
        error_percent=statistics.median(known) if known else None,
        tested=tested,
        disturbed=tuple(one for one in spread if one[1] > DISTURBED_RATIO),
        throttled_runs=sum(arm.throttled_runs for _, arm, _ in found),
        runs=sum(len(arm.timed) for _, arm, _ in found),
    )


def fit_evidence(costs: StageCosts, *recordings: Recording) -> Evidence:
    """Of the recordings that the costs were fitted from."""
    found: list[tuple[str, Arm, float | None]] = []
    for one, name, arm in _own_arms(recordings):
        error = None
        if arm.mode != "diffusers":  # which is not advised on
            plan = plan_of([arm], arm.config.chunk_size)
            own = costs.of_encoders(encoders_of(arm))
            made = predict(own, video_info(arm), arm.config, arm.mode, plan=plan)
            error = 100 * (made.run.latency_s / arm.latency.mean - 1)
        found.append((f"{one.label}, chunk {arm.config.chunk_size}: {name}", arm, error))
    return evidence_of(found, tested=False)


_GROWS_WITH_PIXELS = ("decode", "copy", "pageable_copy", "convert", "video_convert", "write",
                      "encoding")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decoding:
    """What runs where: the part of a setting that costs belong to.

    Attributes:
        machine: as the book was told, e.g. ``here`` or ``NVIDIA H200, recorded``.
        decoder, variant, dtype: as records name them.
        height, width: of a picture, pixels; of audio 1 and 1, whatever its channels.
        sink: ``null``, ``raw``, ``png``, ``mp4``, or another name.
        medium: a name in `vdkit.decode.media.MEDIA`.
        content: as `Workload.content` has it; random latents are ``noise``.
        pixel_format: that the sink wants of video.
    """

    machine: str
    decoder: str
    variant: str
    dtype: str
    height: int
    width: int
    sink: str
    medium: str = "video"
    content: str = "noise"
    pixel_format: str = "rgb24"

    @property
    def pixels(self) -> int:
        """Pixels of a frame."""
        return self.height * self.width


@dataclass(frozen=True, slots=True)
class Known:
    """Costs of a setting and where they come from.

    Attributes:
        costs: without a throttle.
        origin: in words, e.g. ``measured (3 benchmarks)``; else ``a guess: ``, and by what.
        chunk_sizes: latent frames per call that were measured.
        workload: what was decoded there.
        own_plan: its decoder cuts chunks in its own way.
    """

    costs: StageCosts
    origin: str
    chunk_sizes: tuple[int, ...]
    workload: Workload
    own_plan: bool


def _but_encoders(sink: SinkInfo) -> SinkInfo:
    """A sink whatever its number of encoders."""
    options = {name: value for name, value in sink.options.items() if name != "encoders"}
    return sink.model_copy(update={"options": options, "encoder": None})


def _modes(result: Recording) -> set[str]:
    return {arm.mode for arm in result.arms.values()}


class CostBook:
    """Benchmarks by what they decoded; of two of the same configuration the later one counts."""

    def __init__(self) -> None:
        self._results: dict[Decoding, list[Recording]] = {}
        self._fitted: dict[Decoding, Known] = {}

    def add(
        self, result: Recording, machine: str, decoder: str | None = None, sink: str | None = None
    ) -> bool:
        """Keep a benchmark; False if it tells no costs: a throttled sink, or diffusers' path only.

        Nor is one without sync kept where those of another sink of that name have it.

        Args:
            machine: whose costs these are.
            decoder, sink: names to file it under; None: those in the record.
        """
        chunked = _modes(result) - {"diffusers", "compute_only"}
        if result.sink.throttle_mb_per_s is not None or not chunked:
            return False
        load = result.workload
        size = (1, 1) if load.medium == "audio" else (load.height, load.width)
        content = "noise" if load.latents.startswith("random") else load.content
        key = Decoding(
            machine, decoder or load.decoder, load.variant, load.dtype, *size,
            sink or result.sink.kind, load.medium, content, result.sink.pixel_format,
        )  # fmt: skip
        new, before = (result.config, result.arms.keys(), result.sink), self._results.get(key, [])
        kept = [  # another file system has writes of its own
            one for one in before
            if _but_encoders(one.sink) == _but_encoders(result.sink)
            and (one.config, one.arms.keys(), one.sink) != new
        ]  # fmt: skip
        if not kept and "sync" not in chunked and any("sync" in _modes(one) for one in before):
            return False
        self._results[key] = [*kept, result]
        self._fitted.pop(key, None)
        return True

    def read(self, folder: Path) -> None:
        """Keep every benchmark recorded below ``folder``, those of sweeps and variants too.

        Their machine is the device with ``, recorded`` after it. Damaged files are left out, as are
        A/A controls and profiles.
        """
        from vdkit.record.results import find_recordings

        for _, result in find_recordings(folder, lambda error: None):
            if result.kind not in ("aa", "profile"):
                for one in result.benchmarks.values():
                    self.add(one, f"{result.provenance.device}, recorded")

    def machines(self) -> tuple[str, ...]:
        """Every machine in the book, the first added first."""
        return tuple(dict.fromkeys(key.machine for key in self._results))

    def known(self, machine: str) -> tuple[Decoding, ...]:
        """All that was measured on a machine."""
        return tuple(key for key in self._results if key.machine == machine)

    def lookup(self, wanted: Decoding) -> Known:
        """Costs of ``wanted``, exact or put together.

        A size that was not measured is scaled by pixels from the nearest one, of these one with
        the same content and then format if there is one; of another format copies, and what is
        written raw, by their bytes. Writes to sink ``null`` are free.

        Raises:
            LookupError: nothing of this machine, decoder, variant and sink; says what is missing.
        """
        if wanted in self._results:
            return self._measured(wanted)
        same = attrgetter("machine", "decoder", "variant", "dtype", "medium")
        free = wanted.sink == "null"
        near = [
            key for key in self._results
            if same(key) == same(wanted) and (free or key.sink == wanted.sink)
        ]  # fmt: skip
        if not near:
            raise LookupError(
                f"nothing is known yet of {wanted.decoder} ({wanted.variant}) in {wanted.dtype} to "
                f"{wanted.sink} on {wanted.machine}"
            )
        ratios = {key: wanted.pixels / key.pixels for key in near}
        alike = attrgetter("content", "pixel_format", "sink")

        def far(key: Decoding) -> tuple[float, list[bool]]:
            unlike = [own != other for own, other in zip(alike(key), alike(wanted), strict=True)]
            return max(ratios[key], 1 / ratios[key]), unlike

        base = min(near, key=far)
        known, said, size = self._measured(base), [], f"{base.height}x{base.width}"
        costs = known.costs
        if ratios[base] != 1:  # launches cost the same, memory is not known
            grown = costs.times(ratios[base], *_GROWS_WITH_PIXELS)
            costs, said = replace(grown, vram_bytes=()), [f"scaled by pixels from {size}"]
        if base.content != wanted.content:
            said.append(f"measured with {base.content}{' content' * (base.content == 'unknown')}")
        if base.pixel_format != wanted.pixel_format:
            by_bytes = ("copy", "pageable_copy", *("write",) * (base.sink == "raw"))
            more = PIXEL_FORMATS[wanted.pixel_format] / PIXEL_FORMATS[base.pixel_format]
            costs = costs.times(more, *by_bytes)
            said.append(f"measured in {base.pixel_format}")
        if base.sink != wanted.sink:
            costs = replace(costs, write=Cost(), encoding=None, open=Cost(), close=Cost())
            said.append("writes taken as free")
        # or the same pixels in another shape
        origin = f"a guess: {', '.join(said) or f'those of {size}'}"
        return replace(known, costs=costs, origin=origin)

    def _measured(self, key: Decoding) -> Known:
        """What just this was measured to cost; fitted when it is first asked for."""
        if key not in self._fitted:
            found = self._results[key]
            arms = [arm for one in found for arm in one.arms.values() if arm.mode != "diffusers"]
            last = next(filter(None, map(encoders_of, found[-1].arms.values())), None)
            self._fitted[key] = Known(
                costs=fit_costs(*found).of_encoders(last),
                origin=f"measured ({len(found)} benchmark{'s' * (len(found) > 1)})",
                chunk_sizes=tuple(sorted({result.config.chunk_size for result in found})),
                workload=found[-1].workload,
                own_plan=any(has_own_plan(arm) for arm in arms if arm.timed[0].chunks),
            )
        return self._fitted[key]
