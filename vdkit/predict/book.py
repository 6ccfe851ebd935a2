"""What is known of the costs of each step, by machine, decoder, size and sink: for any what-if.

Recorded benchmarks go in; the costs of a setting come out, fitted from those of just this setting
where there are any, else put together from the nearest ones, which the answer then says.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from operator import attrgetter
from typing import TYPE_CHECKING

from vdkit.decode.chunks import PRIMITIVES, DecodeConfig, VideoInfo, pixel_frames, plan_chunks
from vdkit.predict.advise import seconds
from vdkit.predict.costs import Cost, StageCosts, check_speed
from vdkit.predict.fit import fit_costs
from vdkit.predict.recurrence import Prediction, predict
from vdkit.record.results import by_variant, find_recordings

if TYPE_CHECKING:
    from pathlib import Path

    from vdkit.record.recording import Recording


_GROWS_WITH_PIXELS = ("decode", "copy", "pageable_copy", "convert", "video_convert", "write")


@dataclass(frozen=True, slots=True)
class Decoding:
    """What runs where: the part of a setting that costs belong to.

    Attributes:
        machine: as the book was told, e.g. ``here`` or ``NVIDIA H200, recorded``.
        decoder, variant, dtype: as records name them.
        height, width: of the video, pixels.
        sink: ``null``, ``raw``, ``png``, ``mp4``, or another name.
    """

    machine: str
    decoder: str
    variant: str
    dtype: str
    height: int
    width: int
    sink: str

    @property
    def pixels(self) -> int:
        """Pixels of a frame."""
        return self.height * self.width


@dataclass(frozen=True, slots=True)
class Known:
    """Costs of a setting and where they come from.

    Attributes:
        costs: without a throttle.
        origin: in words, e.g. ``measured (3 benchmarks)``.
        exact: fitted from benchmarks of just this machine, decoder, size and sink.
        chunk_sizes: latent frames per call that were measured.
    """

    costs: StageCosts
    origin: str
    exact: bool
    chunk_sizes: tuple[int, ...]


class CostBook:
    """Benchmarks by what they decoded; of two of the same configuration the later one counts."""

    def __init__(self) -> None:
        self._results: dict[Decoding, list[Recording]] = {}
        self._fitted: dict[Decoding, StageCosts] = {}

    def add(
        self, result: Recording, machine: str, decoder: str | None = None, sink: str | None = None
    ) -> bool:
        """Keep a benchmark; False if it tells no costs: a throttled sink, or diffusers' path only.

        Args:
            machine: whose costs these are.
            decoder, sink: names to file it under; None: those in the record.
        """
        chunked = {arm.mode for arm in result.arms.values()} - {"diffusers", "compute_only"}
        if result.sink.throttle_mb_per_s is not None or not chunked:
            return False
        load = result.workload
        key = Decoding(
            machine, decoder or load.decoder, load.variant, load.dtype, load.height, load.width,
            sink or result.sink.kind,
        )  # fmt: skip
        # Another file system has writes of its own.
        alike = [one for one in self._results.get(key, []) if one.sink == result.sink]
        new = result.config, result.arms.keys()
        kept = [one for one in alike if (one.config, one.arms.keys()) != new]
        self._results[key] = [*kept, result]
        self._fitted.pop(key, None)
        return True

    def read(self, folder: Path) -> None:
        """Keep every benchmark recorded below ``folder``, those of sweeps and variants too.

        Their machine is the device with ``, recorded`` after it. Damaged files are left out, as are
        A/A controls and profiles.
        """
        for _, result in find_recordings(folder, lambda error: None):
            if result.kind not in ("aa", "profile"):
                for _, one in by_variant(result):
                    self.add(one, f"{result.provenance.device}, recorded")

    def machines(self) -> tuple[str, ...]:
        """Every machine in the book, the first added first."""
        return tuple(dict.fromkeys(key.machine for key in self._results))

    def known(self, machine: str) -> tuple[Decoding, ...]:
        """All that was measured on a machine."""
        return tuple(key for key in self._results if key.machine == machine)

    def lookup(self, wanted: Decoding) -> Known:
        """Costs of ``wanted``, exact or put together.

        A size that was not measured is scaled by pixels from the nearest one; a sink that was not
        measured with this decoder takes its writes from another decoder's.

        Raises:
            LookupError: nothing of this machine, decoder and variant, or nothing of this sink;
                says what is missing.
        """
        if wanted in self._results:
            count = len(self._results[wanted])
            return self._known(wanted, f"measured ({count} benchmark{'s' * (count > 1)})")
        same = attrgetter("machine", "decoder", "variant", "dtype")
        near = [key for key in self._results if same(key) == same(wanted)]
        if not near:
            raise LookupError(
                f"nothing is known yet of {wanted.decoder} ({wanted.variant}) in {wanted.dtype} on "
                f"{wanted.machine}"
            )
        base = min(near, key=lambda key: (_distance(key, wanted), key.sink != wanted.sink))
        costs, said = self._fit(base), []
        if base.pixels != wanted.pixels:
            costs = _scaled(costs, wanted.pixels / base.pixels)
            said.append(f"scaled by pixels from {base.height}x{base.width}")
        if base.sink != wanted.sink:
            other, words = self._writes(wanted)
            costs = replace(costs, write=other.write, open=other.open, close=other.close)
            said.append(words)
        if not said:  # the same pixels in another shape
            said.append(f"those of {base.height}x{base.width}")
        return self._known(base, "a guess: " + ", ".join(said), costs)

    def _known(self, key: Decoding, origin: str, guess: StageCosts | None = None) -> Known:
        sizes = tuple(sorted({result.config.chunk_size for result in self._results[key]}))
        return Known(guess or self._fit(key), origin, guess is None, sizes)

    def _fit(self, key: Decoding) -> StageCosts:
        if key not in self._fitted:
            self._fitted[key] = fit_costs(*self._results[key])
        return self._fitted[key]

    def _writes(self, wanted: Decoding) -> tuple[StageCosts, str]:
        """Costs whose writes are those of the sink, and where they are from."""
        if wanted.sink == "null":
            return StageCosts(decode=Cost()), "writes taken as free"
        with_it = [key for key in self.known(wanted.machine) if key.sink == wanted.sink]
        if not with_it:
            raise LookupError(
                f"what a write to {wanted.sink} costs on {wanted.machine} is not known yet"
            )
        key = min(with_it, key=lambda key: _distance(key, wanted))
        other = _scaled(self._fit(key), wanted.pixels / key.pixels)
        return other, f"writes from {key.decoder} at {key.height}x{key.width}"


def _distance(key: Decoding, wanted: Decoding) -> float:
    """How far apart two frame sizes are, as the larger's pixels over the smaller's."""
    low, high = sorted((key.pixels, wanted.pixels))
    return high / low


def _scaled(costs: StageCosts, factor: float) -> StageCosts:
    """Costs at ``factor`` times the pixels: launches cost the same, memory is not known."""
    grown = costs.times(factor, *_GROWS_WITH_PIXELS)
    return grown if factor == 1 else replace(grown, vram_bytes=())


MODES = ("sync", "async")


@dataclass(frozen=True, slots=True)
class Setting:
    """All that can be chosen.

    Attributes:
        decoding: machine, decoder, variant, dtype, size of the video, sink.
        latent_frames: length of the video.
        config: chunk size, slots and primitives.
        mb_per_s: speed of the storage, MB/s; None: as fast as it goes.
        fps: of the video.
    """

    decoding: Decoding
    latent_frames: int
    config: DecodeConfig = field(default_factory=DecodeConfig)
    mb_per_s: float | None = None
    fps: Fraction = Fraction(16)

    def __post_init__(self) -> None:
        if self.mb_per_s is not None:
            check_speed(self.mb_per_s)
        height, width = self.decoding.height, self.decoding.width
        if self.decoding.sink == "mp4" and (height % 2 or width % 2):
            raise ValueError(
                f"H.264 in 4:2:0 needs even sides, the video is {height}x{width}; take another "
                "sink or size"
            )

    def info(self) -> VideoInfo:
        """The video."""
        frames = pixel_frames(self.latent_frames)
        return VideoInfo(frames, self.decoding.height, self.decoding.width, self.fps)


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
    predictions: dict[str, Prediction]
    known: Known
    remarks: tuple[str, ...]


def predict_setting(
    book: CostBook, setting: Setting, vram_bytes: int | None = None
) -> SettingPrediction:
    """Predict both chunked paths of a setting.

    Args:
        book: what is known of costs.
        setting: the question.
        vram_bytes: device memory there is, to say what does not fit; None: not known.

    Raises:
        LookupError: no costs are known for it; says which.
        ValueError: a setting that no run can have; names the value and the remedy.
    """
    known = book.lookup(setting.decoding)
    costs, info = known.costs.at_speed(setting.mb_per_s), setting.info()
    made = {mode: predict(costs, info, setting.config, mode) for mode in MODES}
    remarks = _dead_knobs(setting, costs) + _bottleneck(setting, costs, made["async"])
    peak = max((one.run.vram_peak_bytes or 0) for one in made.values())
    if vram_bytes is not None and peak > vram_bytes:
        remarks.append(
            f"This does not fit: it needs {peak / 1e9:.1f} GB of device memory, there are "
            f"{vram_bytes / 1e9:.1f} GB. Take a smaller chunk size."
        )
    if (size := setting.config.chunk_size) not in known.chunk_sizes:
        sizes = " and ".join(map(str, known.chunk_sizes))
        said = f"Chunk size {size} was not measured here, only {sizes}"
        remarks.append(f"{said}: its costs are taken from these.")
    return SettingPrediction(setting, made, known, tuple(remarks))


def _dead_knobs(setting: Setting, costs: StageCosts) -> list[str]:
    """What is set but cannot matter."""
    config, said = setting.config, []
    chunks = len(plan_chunks(setting.latent_frames, config.chunk_size))
    if chunks == 1:
        said.append("The video is a single chunk: there is nothing to overlap it with.")
    elif config.chunk_size >= setting.latent_frames:
        said.append(
            f"Chunk size {config.chunk_size} is more than the video's "
            f"{setting.latent_frames - 1} latent frames after the first: it is two chunks."
        )
    elif config.slots == 1:
        said.append("With one slot no chunk is decoded before the one before it is written.")
    elif config.slots > chunks:
        said.append(f"The video is {chunks} chunks: more slots than that stay empty.")
    if not costs.cuda:
        names = [name for name in ("pinned_memory", "copy_stream") if not getattr(config, name)]
        if names:
            words = " and ".join(PRIMITIVES[name] for name in names)
            said.append(f"On a CPU switching off {words} changes nothing: a copy is a memcpy.")
    return said


def _bottleneck(setting: Setting, costs: StageCosts, made: Prediction) -> list[str]:
    """Which engine the steady state of mode async waits for, if it is not the decoder."""
    frames = max(chunk.frame_stop - chunk.frame_start for chunk in made.run.chunks)
    decode_s = costs.decode.seconds(frames)
    write_s = costs.write.seconds(frames) if costs.write is not None else 0.0
    if setting.mb_per_s is not None:
        write_s = max(write_s, frames * made.run.info.frame_bytes / (setting.mb_per_s * 1e6))
    if not setting.config.uint8_on_gpu and costs.convert is not None:
        write_s += costs.convert.seconds(frames)
    if write_s <= decode_s:
        return []
    return [
        f"The sink is the bottleneck: a chunk takes {seconds(write_s)} to write and "
        f"{seconds(decode_s)} to decode. The decoder waits for it, however many slots there are."
    ]
