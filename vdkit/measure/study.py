"""One interleaved measurement of any number of arms: every experiment of the kit is one of these.

Arms run in turns, every raw value is kept, frames are proved identical before anything is timed.
Knows decoders and sinks only by protocol: it is handed a decoder and a sink factory.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch

from vdkit.decode import ChunkDecoder, Progress, Sink, Traits, check_latents, info_of
from vdkit.decode.chunks import DecodeConfig, DecodeResult, chunks_of, exact_fps
from vdkit.decode.media import MediaInfo
from vdkit.decode.paths import PATHS
from vdkit.decode.terminal import Bar
from vdkit.measure.nvml import Nvml, mean_reading, watching
from vdkit.measure.quality import file_quality
from vdkit.record import runs
from vdkit.record.recording import Arm, FileQuality, Recording
from vdkit.record.runs import (
    GpuReading,
    Provenance,
    Run,
    SinkInfo,
    Workload,
    collect_provenance,
    gpu_uuid,
    tensor_sha256,
)
from vdkit.sinks import MemorySink

MODES: Mapping[str, Callable[..., DecodeResult]] = {name: PATHS[name] for name in runs.MODES}
"""Every decode path by the name that options, records and tables use."""

SinkFactory = Callable[[str], AbstractContextManager[Sink]]
"""Called with a run's label; entering gives a fresh sink, leaving removes what it wrote."""


SAMPLED = 33
"""Frames, spread over the video, that a written file is compared with."""


class Shared(TypedDict, total=False):
    """What every study takes by keyword, beside decoder, latents, sink factory and its own.

    Attributes:
        sink_info: how the record describes the sink; None: as `described` does.
        config, fps: as for `decode_async`.
        source, latents_source, seed, setup_s, command: for the record only.
        label: the recording's; by default its kind.
    """

    sink_info: SinkInfo | None
    config: DecodeConfig
    fps: int | float | str | Fraction
    source: str | None
    latents_source: str
    seed: int
    setup_s: float | None
    label: str | None
    command: str | None


class Bench:
    """One decoder, video and sink, set up once, to run any path on in any configuration.

    Args:
        decoder, latents: as for `decode_async`.
        sink: gives the sink of one run, and removes its output after.
        shared: see `Shared`.
    """

    other_bytes: int | None = None
    """Device bytes held by others, for the record."""
    cancel: threading.Event | None = None
    """Stops the decode in hand with `DecodeCancelled`."""

    def __init__(
        self, decoder: ChunkDecoder, latents: torch.Tensor, sink: SinkFactory,
        **shared: Unpack[Shared],
    ) -> None:  # fmt: skip
        medium = Traits.of(decoder).medium
        # Kept on the host: each run moves them, and so holds no more of them than it needs.
        host = torch.device("cpu")
        self.decoder, self.sink = decoder, sink
        self.latents = check_latents(latents, decoder.latent_channels, host, decoder.dtype, medium)
        self.fps, self.config = shared.get("fps", 16), shared.get("config", DecodeConfig())
        self.setup_s = shared.get("setup_s")
        self.label, self.command = shared.get("label"), shared.get("command")
        self.workload = _workload(decoder, self.latents, shared)
        self.sink_info = shared.get("sink_info") or described(sink)
        self.nvml = _open_nvml(decoder.device)
        self._progress: Progress = False
        self._frames_before = 0
        self._sample: dict[int, np.ndarray] = {}
        self._files: dict[str, FileQuality] = {}

    def provenance(self) -> Provenance:
        """Code, machine and versions."""
        return collect_provenance(self.decoder.device, self.nvml.driver if self.nvml else None)

    def arm(self, mode: str, **more: Any) -> ArmPlan:
        """A plan of this bench's configuration and sink; ``more``: other fields of `ArmPlan`."""
        given: dict[str, Any] = {"config": self.config, "sink": self.sink, **more}
        own = given["sink"] is self.sink
        given.setdefault("sink_info", self.sink_info if own else described(given["sink"]))
        return ArmPlan(self, mode, **given)

    def watch(self, report: Callable[[int, int], None], decodes: int) -> None:
        """Report (frames decoded, frames in all) over this many decodes to come."""
        total = decodes * self.workload.frames
        self._progress = lambda done, _: report(self._frames_before + done, total)

    def prepare(self, chunk_size: int) -> None:
        """Let the decoder do its one-time work for this chunk size; it counts as set-up."""
        self.setup_s = (self.setup_s or 0.0) + prepare(self.decoder, self.latents, chunk_size)
        self.workload = self.workload.model_copy(update=_said(self.decoder))  # may be another now

    @functools.cached_property
    def whole(self) -> np.ndarray | None:
        """All frames of the decoder's own whole decode, if its chunks only approximate it; None if
        they do not, or there is no whole decode, or no memory for it.

        Where `hashed` has seen a whole decode whose bytes chunks need not have, it is that one.
        """
        if self.workload.exact or not hasattr(self.decoder, "decode_video"):
            return None
        sink, quiet = MemorySink(), {"progress": False, "cancel": self.cancel}
        try:
            MODES["diffusers"](self.decoder, self.latents, sink, fps=self.fps, **quiet)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return None
        return sink.frames

    def hashed(self, mode: str, config: DecodeConfig) -> Seen:
        """Run once, untimed, into a hash, and beside it compare with `whole`.

        A whole decode is kept if it was made in one call, or is what chunks approximate.
        """
        hasher = FrameHasher(None if mode == "diffusers" else self.whole, self._wanted())
        if mode != "diffusers":
            self.decode(mode, hasher, config)
            self._sample = hasher.sample or self._sample
            return Seen() if mode == "compute_only" else Seen(hasher.sha256, hasher.error())
        if not hasattr(self.decoder, "decode_video"):
            raise TypeError(
                f"{type(self.decoder).__name__} is no WholeVideoDecoder: it lacks decode_video; "
                f"leave out mode diffusers: modes={tuple(MODES)[1:]}"
            )
        decoder, kept = _Asked(self.decoder), MemorySink()
        hasher.open(self.decode(mode, kept, config, decoder).info)
        hasher.write(kept.frames)
        hasher.close()
        self._sample = hasher.sample or self._sample
        at_once = decoder.asked < self.workload.latent_frames
        if at_once or not self.workload.exact:
            self.whole = kept.frames
        return Seen(hasher.sha256, at_once=at_once)

    def _wanted(self) -> frozenset[int]:
        """Frames that `file` still needs."""
        if self._sample or self.workload.medium not in ("video", "av"):
            return frozenset()
        return frozenset(np.linspace(0, self.workload.frames - 1, SAMPLED, dtype=int).tolist())

    def file(self, sink: Any, told: SinkInfo) -> tuple[str | None, FileQuality | None]:
        """What encoded into a sink that has been closed, and the file, once for each kind of it.

        Measured against frames that `hashed` has seen.
        """
        sink = getattr(sink, "inner", sink)
        encoder: str | None = getattr(sink, "encoder", None)
        if encoder is None or not sink.path.exists():
            return None, None
        kind = f"{told.kind} {encoder} {told.options}"
        if kind not in self._files:
            self._files[kind] = file_quality(sink.path, self._sample)
        return encoder, self._files[kind]

    def run(self, mode: str, number: int, sink: Sink, config: DecodeConfig) -> Run:
        """One run into a fresh sink; ``number`` is its round, below 0 for a warm-up."""
        gc.collect()  # or a collection of the last run's garbage falls into this one
        if self.nvml is None:
            return as_run(self.decode(mode, sink, config), number)
        before = self.nvml.read()
        with watching(self.nvml) as readings:
            done = self.decode(mode, sink, config)
        after, during = self.nvml.read(), mean_reading(readings)
        return as_run(done, number, gpu_before=before, gpu_after=after, gpu_during=during)

    def decode(
        self, mode: str, sink: Sink, config: DecodeConfig, decoder: Any = None
    ) -> DecodeResult:
        """One decode, with nothing around it; ``decoder``: in place of the bench's."""
        done = MODES[mode](
            decoder or self.decoder, self.latents, sink, fps=self.fps, config=config,
            progress=self._progress, cancel=self.cancel,
        )  # fmt: skip
        self._frames_before += self.workload.frames
        return done


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """One way to decode: whose decoder, on which path, how, and where to.

    Attributes:
        sink: makes a fresh sink for each run.
        same_code: on this device it runs what the baseline runs.
        hashed: its frames are hashed before the rounds; not where the sink makes its own of them.
        guard: entered where its frames are hashed, to word errors.
    """

    bench: Bench
    mode: str
    config: DecodeConfig
    sink: SinkFactory
    sink_info: SinkInfo
    same_code: bool = False
    hashed: bool = True
    guard: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True, slots=True)
class Seen:
    """What an untimed run shows of an arm, as `Arm` has it."""

    frame_sha256: str | None = None
    whole_error: tuple[float, float] | None = None
    at_once: bool = False


@dataclass(slots=True)
class Measured:
    """Runs of every arm, by its name, what an untimed one showed, and what `Bench.file` gives."""

    plans: Mapping[str, ArmPlan]
    runs: dict[str, list[Run]] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    files: dict[str, tuple[str | None, FileQuality | None]] = field(default_factory=dict)

    def recording(self, kind: str, baseline: str, **more: Any) -> Recording:
        """As it is recorded, by the baseline's bench; ``more``: fields of `Recording`."""
        bench = self.plans[baseline].bench
        arms = {
            name: Arm(
                mode=plan.mode, workload=plan.bench.workload, config=plan.config,
                sink=plan.sink_info.model_copy(update={"encoder": self.files[name][0]}),
                runs=tuple(self.runs[name]), setup_s=plan.bench.setup_s,
                other_bytes=plan.bench.other_bytes, same_code=plan.same_code,
                file=self.files[name][1], **asdict(self.seen[name]),
            )
            for name, plan in self.plans.items()
        }  # fmt: skip
        given = {"label": bench.label or kind, "command": bench.command} | more
        return Recording(
            kind=kind, baseline=baseline, provenance=bench.provenance(), arms=arms, **given
        )


def measure(
    plans: Mapping[str, ArmPlan], rounds: int, warmup: int = 1, *,
    order: Literal["abba", "random"] = "abba", seed: int = 0, progress: Progress = True,
    before_rounds: Callable[[Measured], None] = lambda measured: None,
    after_run: Callable[[str, Run], None] = lambda name, run: None,
) -> Measured:  # fmt: skip
    """Hash every arm once, untimed; then run all of them in each round, a fresh sink for each run.

    The untimed run also warms the device up. Nothing is measured inside a run but what the decode
    path itself records, and on a GPU its clocks, power and throttle reasons, twice a second
    (`vdkit.measure.nvml.watching`).

    Args:
        plans: arm to its plan, in order.
        rounds, warmup: timed and untimed ones; warm-up runs are kept apart in the record.
        order: ``abba``: forwards in even rounds, backwards in odd ones; ``random``: by ``seed``.
        progress: True for a tqdm bar of runs, False for none, or a callable (frames decoded, frames
            to decode in all), called on this thread as chunks of every run are written.
        before_rounds: called when every arm has been hashed, e.g. to calibrate one.
        after_run: called with an arm's name and its run, warm-ups too.

    Raises:
        ValueError: no rounds, or a warm-up below 0.
    """
    check_rounds(rounds, warmup)
    made = Measured(plans, {name: [] for name in plans}, dict.fromkeys(plans, Seen()))
    hashed = [name for name, plan in plans.items() if plan.hashed]
    total = len(hashed) + len(plans) * (warmup + rounds)
    if callable(progress):
        for bench in {plan.bench for plan in plans.values()}:
            bench.watch(progress, total)
    random = np.random.default_rng(seed)
    bar = Bar(progress is True, total=total, desc="runs", unit="run")
    with bar, _quick_collections():
        for name in sorted(hashed, key=lambda name: plans[name].mode != "diffusers"):
            plan = plans[name]
            with plan.guard():
                made.seen[name] = plan.bench.hashed(plan.mode, plan.config)
            bar.add()
        before_rounds(made)
        for number in range(-warmup, rounds):
            turn = list(plans)[:: -1 if number % 2 else 1]
            if order == "random":
                turn = [str(name) for name in random.permutation(list(plans))]
            for name in turn:
                plan = plans[name]
                label = f"{name.replace('/', '-').replace(' ', '-')}-{number + warmup:03d}"
                with plan.sink(label) as sink:
                    run = plan.bench.run(plan.mode, number, sink, plan.config)
                    made.files[name] = plan.bench.file(sink, plan.sink_info)
                made.runs[name].append(run)
                after_run(name, run)
                bar.add()
    return made


@contextmanager
def _quick_collections() -> Iterator[None]:
    """Have collections look at new objects only.

    One is made before each of many runs, and would take longer than a short run where a notebook
    has filled the process.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def check_modes(modes: Sequence[str], baseline: str | None = None) -> None:
    """ValueError, with what is allowed, unless these are modes to run, each once."""
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise ValueError(
            f"modes {', '.join(unknown) or 'are missing'}: use any of {', '.join(MODES)}"
        )
    if len(set(modes)) != len(modes):
        raise ValueError(f"modes {', '.join(modes)}: each may be named once")
    if baseline is not None and baseline not in modes:
        raise ValueError(f"baseline {baseline!r} is not among the modes {', '.join(modes)}")


def check_rounds(runs: int, warmup: int) -> None:
    """ValueError, with what is allowed, unless so many runs can be made."""
    if runs < 1:
        raise ValueError(f"runs is {runs}; use 1 or more")
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}; use 0 or more")


def described(sink: SinkFactory) -> SinkInfo:
    """For the record: what a `SinkSpec` says of itself, any other sink by the name of its class."""
    if describe := getattr(getattr(sink, "__self__", None), "describe", None):
        return SinkInfo(**describe())
    with sink("described") as made:
        wanted = getattr(made, "pixel_format", "rgb24")
        return SinkInfo(kind=type(made).__name__, storage=None, pixel_format=wanted)


def _workload(decoder: ChunkDecoder, latents: torch.Tensor, shared: Shared) -> Workload:
    traits, shape = Traits.of(decoder), tuple(latents.shape)
    rows, columns = traits.latent_size(shape)
    units = chunks_of(decoder, latents, None)[-1].frame_stop
    info = info_of(decoder, latents, units, exact_fps(shared.get("fps", 16)))
    size = asdict(info) | {"fps": float(info.fps)}
    del size["pixel_format"]  # which is the sink's
    weights = getattr(decoder, "weights_sha256", None)
    return Workload(
        decoder=decoder.name, source=shared.get("source") or decoder.name,
        dtype=str(decoder.dtype).removeprefix("torch."),
        weights_sha256=weights() if weights is not None else None,
        latents=shared.get("latents_source", "given"),
        latents_sha256=tensor_sha256(*(latents if traits.fps else (latents,))),
        seed=shared.get("seed", 0), latent_frames=shape[traits.medium.axis], latent_height=rows,
        latent_width=columns, **size, exact=traits.exact, **_said(decoder),
        content=_content(decoder, shared.get("latents_source", "")),
    )  # fmt: skip


def _said(decoder: ChunkDecoder) -> dict[str, Any]:
    """What the decoder says of itself, which `prepare` may change."""
    variant = getattr(decoder, "variant", "diffusers")
    return {"variant": variant, "notes": tuple(getattr(decoder, "notes", ()))}


def _content(decoder: ChunkDecoder, latents: str) -> str:
    """`Workload.content`."""
    if latents.startswith("random") or decoder.name.endswith("-random"):
        return "noise"
    if getattr(decoder, "grain", 0):
        return "grain"
    return "flat" if latents.startswith("clips:") else "unknown"


def prepare(decoder: ChunkDecoder, latents: torch.Tensor, chunk_size: int) -> float:
    """Let the decoder do its one-time work for these latents and chunks, if it has any; s."""
    if (work := getattr(decoder, "prepare", None)) is None:
        return 0.0
    begun = time.perf_counter()
    work(*Traits.of(decoder).latent_size(tuple(latents.shape)), chunk_size)
    return time.perf_counter() - begun


def as_run(done: DecodeResult, number: int, **read: GpuReading | None) -> Run:
    """A finished decode as a record; ``number`` is its round, below 0 for a warm-up.

    ``read``: ``gpu_before``, ``gpu_after`` and ``gpu_during`` of it; None without a GPU.
    """
    readings: dict[str, Any] = {"gpu_before": None, "gpu_after": None, "gpu_during": None} | read
    seen = readings["gpu_during"] or readings["gpu_after"]
    return Run(
        **{name: getattr(done, name) for name in Run.model_fields if hasattr(done, name)},
        round=number, warmup=number < 0, **readings,
        throttled=seen is not None and bool(seen.throttle_reasons),
    )  # fmt: skip


def _open_nvml(device: torch.device) -> Nvml | None:
    """NVML on ``device``; None on a CPU, and with a warning where NVML does not answer."""
    if (uuid := gpu_uuid(device)) is None:
        return None
    try:
        return Nvml(uuid)
    except (RuntimeError, ImportError) as error:
        warnings.warn(f"clocks and throttling are not recorded: {error}", stacklevel=3)
        return None


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory, of the host or of a device, could not be had."""
    known, said = isinstance(error, (MemoryError, torch.OutOfMemoryError)), str(error).lower()
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return known or any(one in said for one in words)


class _Asked:
    """A decoder, and how often its whole decode ``asked`` before a latent position."""

    def __init__(self, decoder: Any) -> None:
        self._decoder, self.asked = decoder, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def decode_video(self, latents: Any, before_frame: Callable[[int], None]) -> torch.Tensor:
        def asking(index: int) -> None:
            self.asked += 1
            before_frame(index)

        made: torch.Tensor = self._decoder.decode_video(latents, asking)
        return made


_BLOCK = 1 << 20  # values whose differences are held at once


class FrameHasher:
    """A sink that only hashes: the proof that two runs gave the same frames.

    Args:
        whole: what `error` is against, as sinks get it, all units; of ``av`` pictures count.
        wanted: numbers of frames that ``sample`` keeps the pictures of.
    """

    def __init__(self, whole: np.ndarray | None = None, wanted: Set[int] = frozenset()) -> None:
        self._whole, self._wanted = whole, wanted
        self._squares: list[tuple[float, int]] = []
        self.sample: dict[int, np.ndarray] = {}

    def open(self, info: MediaInfo) -> None:
        self._info, self._at = info, 0
        self._digest = hashlib.sha256(f"{info.height}x{info.width}".encode())

    def write(self, frames: np.ndarray) -> None:
        self._digest.update(frames.data)
        first, self._at = self._at, self._at + len(frames)
        if here := self._wanted & {*range(first, self._at)}:
            av = self._info.medium == "av"
            pictures = self._info.split(frames, first)[0] if av else frames
            self.sample |= {index: pictures[index - first].copy() for index in here}
        if self._whole is None:
            return
        pair = (frames, self._whole[first : self._at])
        if self._info.medium == "av":
            pair = tuple(self._info.split(rows, first)[0] for rows in pair)  # type: ignore[assignment]
        made, own = (part.reshape(-1) for part in pair)
        parts = (slice(at, at + _BLOCK) for at in range(0, made.size, _BLOCK))
        apart = (np.subtract(made[part], own[part], dtype=np.float64) for part in parts)
        self._squares.append((sum(float(one @ one) for one in apart), made.size))

    def error(self) -> tuple[float, float] | None:
        """Mean squared error of all and of the worst chunk, as `Arm.whole_error` has it."""
        if self._whole is None or not self._squares:
            return None
        power = float(255**2)
        if self._info.medium == "audio":
            power = float(np.square(self._whole, dtype=float).mean()) or 1.0
        sums, counts = zip(*self._squares, strict=True)
        worst = max(one / count for one, count in self._squares)
        return sum(sums) / sum(counts) / power, worst / power

    def close(self) -> None:
        self.sha256 = self._digest.hexdigest()

    def abort(self) -> None:
        pass
