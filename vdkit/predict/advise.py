"""What a setting would give, what to set and what to buy: questions to the pipeline model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from vdkit.decode.chunks import (
    CUDA_ONLY,
    MAX_SLOTS,
    PRIMITIVES,
    ChunkRecord,
    DecodeConfig,
    pixel_frames,
)
from vdkit.decode.media import MediaInfo
from vdkit.predict import (
    Outcome,
    StageCosts,
    check_speed,
    plan_of,
    predict,
    units_per_latent,
    usual_plan,
    video_info,
)

if TYPE_CHECKING:
    from vdkit.predict.encoding import Encoding
    from vdkit.predict.fit import CostBook, Decoding, Evidence, Known
    from vdkit.predict.grid import Sweep
    from vdkit.record.runs import Workload


CHUNKS, SLOTS, ENCODERS = (1, 2, 4), (1, 2, 3, 4), (1, 2, 4, 8)
NEAR_PERCENT = 1.0
"""A setting this near to the best is as good: what it saves in memory is worth more."""
BOUND = 0.95
"""A step is what bounds a run if it takes this share of the latency or more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a setting may use at the most; None: no limit.

    Attributes:
        vram_bytes: peak on the device, ring included.
        pinned_bytes: page-locked host memory of the ring.
        ttff_s: until the sink has the first frame.
    """

    vram_bytes: float | None = None
    pinned_bytes: float | None = None
    ttff_s: float | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"limit {one.name} is {value}; give 0 or more, or None for none")


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A setting, why, and what would help next.

    Attributes:
        config: chunk size and slots to use: the smallest within `margin_percent` of the fastest.
        prediction: of that setting.
        best_latency_s: of the fastest setting within the limits.
        margin_percent: `NEAR_PERCENT`, or the model's own median error where that is larger: what
            differs by less cannot be told apart.
        bound: the step that the latency cannot fall below: ``storage``, ``decoder``, ``PCIe``,
            ``host``, ``encoder``, or None if none fills `BOUND` of the run. It is ``encoder``, too,
            where the thread that writes encodes or waits for encoders most of the time.
        reason: one sentence.
        what_if: ``storage``, ``PCIe``, ``decoder`` and, of a sink that encodes, ``encoder``, the
            largest gain first, to the latency that is predicted of this setting with it made twice
            as fast, s.
        candidates: every setting asked about, as predicted, with the fields of `Limits` it breaks;
            with as many encoders.
        remarks: what makes the advice doubtful, in sentences: an error that is larger than
            `NEAR_PERCENT`, a machine that was disturbed.
        encoding: with the smallest number of encoders within `margin_percent` of the fastest; None
            of a sink whose encoders are not known.
        best_by_encoders: number of encoders to the latency of its fastest setting within the
            limits, s.
    """

    config: DecodeConfig
    prediction: Outcome
    best_latency_s: float
    margin_percent: float
    bound: str | None
    reason: str
    what_if: dict[str, float]
    candidates: tuple[tuple[Outcome, tuple[str, ...]], ...]
    remarks: tuple[str, ...]
    encoding: Encoding | None = None
    best_by_encoders: dict[int, float] = field(default_factory=dict)

    def gain_percent(self, resource: str) -> float:
        """Latency that twice the speed of a resource saves, %."""
        return 100 * (1 - self.what_if[resource] / self.prediction.run.latency_s)


def recommend(
    costs: StageCosts, limits: Limits = Limits(), *, info: MediaInfo,
    chunks: Sequence[int] = CHUNKS, slots: Sequence[int] = SLOTS,
    config: DecodeConfig = DecodeConfig(), evidence: Evidence | None = None,
    plan: Callable[[int], Sequence[ChunkRecord] | None] = lambda chunk_size: None,
    encoders: Sequence[int] = ENCODERS,
) -> Recommendation:  # fmt: skip
    """The smallest chunk and then slots of mode async that is as good as the best, as predicted.

    As good is within 1 % of the best latency, or within the model's own median error if that is
    larger. Chunk size comes first, because it costs more memory than slots do.

    Args:
        costs: of the machine, decoder, frame size and sink; beyond the chunk sizes that they were
            fitted from they are extrapolated.
        info: the video, images or audio.
        chunks, slots: what may be chosen.
        config: the primitives.
        evidence: for the costs, as of `vdkit.predict.fit.fit_evidence` or
            `vdkit.predict.grid.Sweep.evidence`; None: they are taken as exact.
        plan: the chunks of a chunk size, as `vdkit.predict.plan_of` has them; None: those of a
            causal video, 4(T-1)+1 frames of T latent frames.
        encoders: numbers of encoders that may be chosen, beside that of the costs, if these have
            any; those that the costs do not know are left out.

    Raises:
        ValueError: nothing to choose from, no setting within the limits (names the least that each
            would have to be), or a limit on VRAM where the costs do not know it.
    """
    if not chunks or not slots:
        raise ValueError("nothing to choose from: give at least one chunk size and one slot count")
    asked, known = partial(predict, info=info), costs.encoding
    plans = {size: plan(size) for size in sorted(set(chunks))}
    every: dict[int | None, list[tuple[Outcome, tuple[str, ...]]]] = {}
    told = known and {n for n in (*encoders, known.encoders) if known.knows(n)}
    for side in sorted(told) if told else [None]:
        own, every[side] = costs.of_encoders(side), []
        for size, count in product(plans, sorted(set(slots))):
            one = replace(config, chunk_size=size, slots=count)
            made = asked(own, config=one, plan=plans[size])
            every[side].append((made, _over(made, limits)))
    kept = {n: [made for made, over in found if not over] for n, found in every.items()}
    if not any(kept.values()):
        raise ValueError(
            f"no setting keeps the limits; {_least(next(iter(every.values())), limits)}"
        )
    fastest = {n: min(one.run.latency_s for one in some) for n, some in kept.items() if some}
    best_s = min(fastest.values())
    margin = max(NEAR_PERCENT, (evidence and evidence.error_percent) or 0.0)
    side = next(n for n, took_s in fastest.items() if took_s <= (1 + margin / 100) * best_s)
    costs, candidates, allowed = costs.of_encoders(side), every[side], kept[side]
    chosen = next(one for one in allowed if one.run.latency_s <= (1 + margin / 100) * best_s)
    config, chosen_s = chosen.run.config, chosen.run.latency_s
    asked = partial(asked, plan=plans[config.chunk_size])
    doubled = {n: asked(c, config=config).run.latency_s for n, c in _doubled(costs).items()}
    what_if = dict(sorted(doubled.items(), key=lambda one: one[1]))
    busy = _busy_s(chosen, side)
    most, most_s = next(iter(busy.items()))
    bound, took = most if most_s >= BOUND * chosen_s else None, seconds(chosen_s)
    waits_s = _for_encoders_s(chosen)
    if bound is None and waits_s > chosen_s / 2:
        bound, many = "encoder", f" of {side}" * ((side or 1) > 1)
        held = f"encoder-bound: the write encodes or waits for encoders{many} for "
        held += f"{seconds(waits_s)} of {took}"
    elif bound is None:
        doing = [f"{_RESOURCES[name][1]} ({seconds(busy[name])})" for name in [*busy][:2]]
        held = f"not bound by one step: {' and '.join(doing)} overlap only in part in {took}"
    elif bound == "storage" and costs.storage is not None:
        least = seconds(min(made.run.latency_s for made, _ in candidates))
        speed = f"{costs.storage.mb_per_s:g} MB/s"
        held = f"storage-bound: {speed} holds every setting at {least} or more"
    else:
        held = f"{bound}-bound: {_RESOURCES[bound][1]} takes {seconds(most_s)} of {took}"
    more_s = asked(costs, config=replace(config, slots=MAX_SLOTS)).run.latency_s
    slots_help = more_s * (1 + margin / 100) < chosen_s
    helps = "more slots do not help"
    if slots_help:
        helps = f"more slots would bring {seconds(more_s)} but are not allowed"
    first, first_s = next(iter(what_if.items()))
    remedy = "and neither does a resource of twice the speed"
    if 100 * (1 - first_s / chosen_s) >= margin:
        remedy = f"{'and ' * slots_help}{_RESOURCES[first][2]} does (x 2: {seconds(first_s)})"
    return Recommendation(
        config, chosen, best_s, margin, bound, f"{held}; {helps}, {remedy}", what_if,
        tuple(candidates), _remarks(evidence), costs.encoding,
        {n: took_s for n, took_s in fastest.items() if n is not None},
    )  # fmt: skip


_LIMITED = {
    "vram_bytes": ("VRAM", "vram_peak_bytes", 1e9, "GB"),
    "pinned_bytes": ("pinned memory", "pinned_bytes", 1e6, "MB"),
    "ttff_s": ("time to the first {unit}", "ttff_s", 1.0, "s"),
}
"""Each field of `Limits`: in words, as a run calls it, and the unit that it is said in."""


def _over(made: Outcome, limits: Limits) -> tuple[str, ...]:
    if limits.vram_bytes is not None and made.run.vram_peak_bytes is None:
        raise ValueError(
            "VRAM is limited, but these costs do not know it at every chunk size asked for: fit "
            "them from GPU runs at two chunk sizes or more, ask only for the fitted one, or give "
            "StageCosts.vram_bytes"
        )
    most = {name: most for name in _LIMITED if (most := getattr(limits, name)) is not None}
    return tuple(n for n, value in most.items() if getattr(made.run, _LIMITED[n][1]) > value)


def _least(candidates: Sequence[tuple[Outcome, tuple[str, ...]]], limits: Limits) -> str:
    """The least of each limited quantity, in words."""
    said = []
    for name, (what, used, scale, unit) in _LIMITED.items():
        if (most := getattr(limits, name)) is not None:
            least = min(getattr(made.run, used) for made, _ in candidates) / scale
            what = what.format(unit=candidates[0][0].run.info.kind.unit)
            limit = f"the limit is {most / scale:.3g} {unit}"
            said.append(f"{what} is at least {least:.3g} {unit} ({limit})")
    return ", ".join(said) + "; loosen one, or allow smaller chunks or fewer slots"


_RESOURCES = {
    "decoder": ("decode", "decoding", "a faster decoder"),
    "storage": ("write", "writing", "a faster disk"),
    "PCIe": ("copy", "copying", "a faster link to the host"),
    "host": ("convert", "converting on the host", ""),
    "encoder": ("encode", "encoding", "a faster encoder"),
}
"""Each resource: its step of a chunk, what it does, and what twice its speed is, in words."""


def _busy_s(made: Outcome, encoders: int | None) -> dict[str, float]:
    """Seconds that each resource works in the run, the most first, waiting for others left out;
    of encoders side by side the mean."""
    run, busy = made.run, {}
    for name, (step, *_) in _RESOURCES.items():
        spans = (chunk.span_s(step) for chunk in run.chunks if step != "encode")
        busy[name] = sum(span or 0.0 for span in spans)
    waits_s = _for_encoders_s(made)
    busy["storage"] += (run.sink_open_s or 0.0) + (run.sink_close_s or 0.0) - waits_s
    busy["encoder"] = waits_s if run.encoders_s is None else run.encoders_s / (encoders or 1)
    return dict(sorted(busy.items(), key=lambda one: -one[1]))


def _for_encoders_s(made: Outcome) -> float:
    """How long the thread that writes encodes, or waits for encoders."""
    run, closing = made.run, made.run.sink_close_parts
    in_writes = sum((one.encode_s or 0.0) + (one.full_s or 0.0) for one in run.chunks)
    return in_writes + closing.get("encode", 0.0) + closing.get("full", 0.0)


def _doubled(costs: StageCosts) -> dict[str, StageCosts]:
    """The costs with each resource at twice its speed."""
    storage = costs.storage and replace(costs.storage, mb_per_s=2 * costs.storage.mb_per_s)
    encoder = {"encoder": costs.times(0.5, "encoding")} if costs.encoding else {}
    return encoder | {
        "storage": replace(costs.times(0.5, "write"), storage=storage),
        "PCIe": costs.times(0.5, "copy", "pageable_copy"),
        "decoder": costs.times(0.5, "decode", *() if costs.cuda else ("launch",)),
    }


def seconds(value_s: float) -> str:
    """Three digits, as ``3.65 s`` or ``41.2 ms``."""
    return f"{value_s:.3g} s" if value_s >= 1 else f"{1e3 * value_s:.3g} ms"


def _remarks(evidence: Evidence | None) -> tuple[str, ...]:
    if evidence is None:
        return ()
    said, error, many = [], evidence.error_percent, len(evidence.disturbed)
    if error is not None and error > NEAR_PERCENT:
        how = "predictions" if evidence.tested else "fit"
        said.append(
            f"The median error of the {how} is {error:.2g} %: the model cannot tell settings apart "
            f"that differ by less than {error:.2g} %."
        )
    if many:
        name, ratio = max(evidence.disturbed, key=lambda one: one[1])
        said.append(
            f"The machine was disturbed: runs of one setting differ by more than half in {many} "
            f"case{'s' * (many != 1)} (at the most {ratio:.2g} x, {name})."
        )
    if count := evidence.throttled_runs:
        said.append(f"The machine was throttled in {count} of {evidence.runs} runs.")
    return tuple(said)


@dataclass(frozen=True, slots=True)
class StoragePoint:
    """What storage of one speed asks for.

    Attributes:
        mb_per_s: storage speed, MB/s (10**6 bytes).
        advice: chunk size and slots of mode async, and their predicted latency.
        sync_s: predicted latency of mode sync at that chunk size; None if no cell ran it.
        storage_s: time that storage of that speed takes for the frames alone.
    """

    mb_per_s: float
    advice: Recommendation
    sync_s: float | None
    storage_s: float


def recommend_from(
    sweep: Sweep, limits: Limits = Limits(), mb_per_s: float | None = None
) -> Recommendation:
    """`recommend` by a sweep's costs, among the chunk sizes and slots that it asked about.

    Args:
        limits: what a setting may use.
        mb_per_s: storage speed, MB/s; None: as fast as the swept sink goes.

    Raises:
        ValueError: the sweep has no fitted costs or no measured cell of mode async; or as
            `recommend`.
    """
    grid = [cell for cell in sweep.plan.all_cells if cell.mode == "async"]
    if sweep.predictions is None or not any(cell in sweep.results for cell in grid):
        raise ValueError(
            f"{sweep.plan.label} has no fitted costs of mode async; sweep async, to the end"
        )
    return recommend(
        sweep.predictions.costs.at_speed(mb_per_s), limits,
        info=video_info(next(iter(sweep.results.values()))), plan=partial(_cut, sweep),
        chunks=[cell.chunk_size for cell in grid],
        slots=[cell.slots for cell in grid if cell.slots is not None],
        config=sweep.plan.config, evidence=sweep.evidence(),
    )  # fmt: skip


def _cut(sweep: Sweep, chunk_size: int) -> tuple[ChunkRecord, ...] | None:
    return plan_of((one.base for one in sweep.results.values()), chunk_size)


def storage_sensitivity(
    sweep: Sweep, speeds: Sequence[float] | None = None, limits: Limits = Limits()
) -> tuple[StoragePoint, ...]:
    """The recommendation at each storage speed, and what mode sync would take.

    Args:
        speeds: MB/s; None: 33, evenly on a logarithmic axis, from where storage takes eight times
            the recommended latency at full speed to where it takes an eighth of it.

    Raises:
        ValueError: as `recommend_from`.
    """
    free = recommend_from(sweep, limits).prediction.run
    mb = free.info.frames * free.info.frame_bytes / 1e6
    if speeds is None:
        speeds = [mb / free.latency_s * 2 ** (step / 16 * 3) for step in range(-16, 17)]
    points, swept = [], any(cell.mode == "sync" for cell in sweep.results)
    for speed in speeds:
        advice, sync_s = recommend_from(sweep, limits, speed), None
        if sweep.predictions is not None and swept:
            costs = sweep.predictions.costs.at_speed(speed)
            plan = _cut(sweep, advice.config.chunk_size)
            sync_s = predict(costs, free.info, advice.config, "sync", plan=plan).run.latency_s
        points.append(StoragePoint(speed, advice, sync_s, mb / speed))
    return tuple(points)


MODES = ("sync", "async")


@dataclass(frozen=True, slots=True)
class Setting:
    """All that can be chosen.

    Attributes:
        decoding: machine, decoder, variant, dtype, medium, size, content and format of the
            pictures, sink.
        length: latent frames of a video, images, or seconds of audio.
        config: chunk size, slots and primitives.
        mb_per_s: speed of the storage, MB/s; None: as fast as it goes.
        fps: of a video.
        encoders: side by side, of sink ``mp4``.
    """

    decoding: Decoding
    length: float
    config: DecodeConfig = field(default_factory=DecodeConfig)
    mb_per_s: float | None = None
    fps: Fraction = Fraction(16)
    encoders: int = 1

    def __post_init__(self) -> None:
        if self.mb_per_s is not None:
            check_speed(self.mb_per_s)
        height, width = self.decoding.height, self.decoding.width
        if self.decoding.sink == "mp4" and (height % 2 or width % 2):
            raise ValueError(
                f"H.264 in 4:2:0 needs even sides, the video is {height}x{width}; take another "
                "sink or size"
            )

    def info(self, work: Workload) -> MediaInfo:
        """What it decodes, if its decoder is that of ``work``."""
        medium, factor = work.kind, units_per_latent(work)
        if medium.name == "audio":
            units = math.ceil(self.length * work.fps / factor) * factor
            return MediaInfo(units, 1, work.width, work.rate, medium.name)
        count = int(self.length)
        units = pixel_frames(count, factor) if medium.first_units else count * factor
        size = units, self.decoding.height, self.decoding.width
        wanted = self.decoding.pixel_format
        if medium.name == "av":  # its sound goes on as it did
            sound = work.sample_rate, work.channels, round(work.samples * units / work.frames)
            return MediaInfo(*size, work.rate, medium.name, *sound, wanted)
        fps = self.fps if medium.timed else Fraction(1)
        return MediaInfo(*size, fps, medium.name, pixel_format=wanted)


@dataclass(frozen=True, slots=True)
class SettingPrediction:
    """What a setting would give.

    Attributes:
        setting: the question.
        predictions: of modes sync and async.
        known: the costs used and their origin.
        remarks: what does nothing, what is a guess, what is the bottleneck; in sentences.
    """

    setting: Setting
    predictions: dict[str, Outcome]
    known: Known
    remarks: tuple[str, ...]


def predict_setting(
    book: CostBook, setting: Setting, vram_bytes: int | None = None
) -> SettingPrediction:
    """Predict both chunked paths of a setting by what is known of costs.

    Args:
        vram_bytes: device memory there is, to say what does not fit; None: not known.

    Raises:
        LookupError: no costs are known for it; says which.
        ValueError: a setting that no run can have; names the value and the remedy.
    """
    known, config = book.lookup(setting.decoding), setting.config
    measured = [n for n, _ in side.measured] if (side := known.costs.encoding) else [1]
    many, of = setting.encoders, " and ".join(map(str, measured))
    if many not in measured and not (side and side.knows(many)):
        raise LookupError(
            f"nothing is known yet of {many} encoder{'s' * (many > 1)} side by side, only of {of}"
        )
    if known.costs.cuda and known.costs.pageable_copy is None:
        raise LookupError("sync was not measured with these")
    costs, info = known.costs.at_speed(setting.mb_per_s), setting.info(known.workload)
    costs = costs.of_encoders(many)
    plan = usual_plan(known.workload, config.chunk_size, info.frames)
    made = {mode: predict(costs, info, config, mode, plan=plan) for mode in MODES}
    said, what = [], f"The {info.kind.whole}"
    chunks, count = len(plan), plan[-1].latent_stop
    if known.own_plan:
        said.append(f"{setting.decoding.decoder} cuts in its own way, which is not predicted.")
    if chunks == 1:
        said.append(f"{what} is a single chunk: there is nothing to overlap it with.")
    elif config.chunk_size >= count:
        said.append(
            f"Chunk size {config.chunk_size} is more than the {info.kind.whole}'s "
            f"{count - 1} {info.kind.position}s after the first: it is two chunks."
        )
    elif config.slots == 1:
        said.append("With one slot no chunk is decoded before the one before it is written.")
    elif config.slots > chunks:
        said.append(f"{what} is {chunks} chunks: more slots than that stay empty.")
    off = [PRIMITIVES[name] for name in CUDA_ONLY if not getattr(config, name)]
    if off and not costs.cuda:
        words = " and ".join(off)
        said.append(f"On a CPU switching off {words} changes nothing: a copy is a memcpy.")
    said += _bottleneck(setting, costs, made["async"])
    peak = max((one.run.vram_peak_bytes or 0) for one in made.values())
    if vram_bytes is not None and peak > vram_bytes:
        said.append(
            f"This does not fit: it needs {peak / 1e9:.1f} GB of device memory, there are "
            f"{vram_bytes / 1e9:.1f} GB. Take a smaller chunk size."
        )
    if config.chunk_size not in known.chunk_sizes:
        sizes = " and ".join(map(str, known.chunk_sizes))
        not_here = f"Chunk size {config.chunk_size} was not measured here, only {sizes}"
        said.append(f"{not_here}: its costs are taken from these.")
    if many not in measured:
        said.append(f"{many} encoders were not measured here, only {of}: they are a guess.")
    return SettingPrediction(setting, made, known, tuple(said))


def _bottleneck(setting: Setting, costs: StageCosts, made: Outcome) -> list[str]:
    """Which engine the steady state of mode async waits for, if it is not the decoder."""
    frames = max(chunk.frames for chunk in made.run.chunks)
    decode_s = costs.decode.seconds(frames)
    write_s = costs.write.seconds(frames) if costs.write is not None else 0.0
    if setting.mb_per_s is not None:
        write_s = max(write_s, frames * made.run.info.frame_bytes / (setting.mb_per_s * 1e6))
    if not setting.config.uint8_on_gpu and costs.convert is not None:
        write_s += costs.convert.seconds(frames)
    who = "sink"
    if (side := costs.encoding) is not None:
        encode_s, write_s = frames * side.frame_s / side.encoders, write_s + frames * side.mux_s
        who = "encoder" if encode_s > write_s else who
        write_s = write_s + encode_s if side.encoders == 1 else max(write_s, encode_s)
    if write_s <= decode_s:
        return []
    return [
        f"The {who} is the bottleneck: a chunk takes {seconds(write_s)} to write and "
        f"{seconds(decode_s)} to decode. The decoder waits for it, however many slots there are."
    ]
