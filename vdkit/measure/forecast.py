"""One setting of every knob, what it would give, and in words what stands in its way."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from vdkit.decode.chunks import PRIMITIVES, DecodeConfig, VideoInfo, pixel_frames
from vdkit.measure.cost_book import CostBook, Decoding, Known
from vdkit.measure.costs import StageCosts, Storage, check_speed
from vdkit.measure.predict import Prediction, predict

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
        if self.decoding.sink == "mp4" and (self.decoding.height % 2 or self.decoding.width % 2):
            raise ValueError(
                f"H.264 in 4:2:0 needs even sides, the video is "
                f"{self.decoding.height}x{self.decoding.width}; take another sink or size"
            )

    def info(self, temporal_factor: int = 4) -> VideoInfo:
        """The video."""
        frames = pixel_frames(self.latent_frames, temporal_factor)
        return VideoInfo(frames, self.decoding.height, self.decoding.width, self.fps)


@dataclass(frozen=True, slots=True)
class Forecast:
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


def forecast(book: CostBook, setting: Setting, vram_bytes: int | None = None) -> Forecast:
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
    costs = known.costs
    if setting.mb_per_s is not None:
        costs = replace(costs, storage=Storage(setting.mb_per_s))
    info = setting.info()
    made = {mode: predict(costs, info, setting.config, mode) for mode in MODES}
    remarks = [
        *_dead_knobs(setting, costs),
        *_bottleneck(setting, costs, made["async"]),
        *_memory(made, vram_bytes),
    ]
    if setting.config.chunk_size not in known.chunk_sizes:
        sizes = " and ".join(map(str, known.chunk_sizes))
        remarks.append(
            f"Chunk size {setting.config.chunk_size} was not measured here, only {sizes}: its "
            "costs are taken from these."
        )
    return Forecast(setting, made, known, tuple(remarks))


def _dead_knobs(setting: Setting, costs: StageCosts) -> list[str]:
    """What is set but cannot matter."""
    config, said = setting.config, []
    chunks = 1 + -(-(setting.latent_frames - 1) // config.chunk_size)
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
        idle = [
            PRIMITIVES[name]
            for name in ("pinned_memory", "copy_stream")
            if not getattr(config, name)
        ]
        if idle:
            words = " and ".join(idle)
            said.append(f"On a CPU switching off {words} changes nothing: a copy is a memcpy.")
    return said


def _bottleneck(setting: Setting, costs: StageCosts, made: Prediction) -> list[str]:
    """Which engine the steady state of mode async waits for, if it is not the decoder."""
    frames = max(chunk.frame_stop - chunk.frame_start for chunk in made.run.chunks)
    size = frames * made.run.info.frame_bytes
    decode_s = costs.decode.seconds(frames)
    write_s = costs.write.seconds(frames) if costs.write is not None else 0.0
    if setting.mb_per_s is not None:
        write_s = max(write_s, size / (setting.mb_per_s * 1e6))
    if not setting.config.uint8_on_gpu and costs.convert is not None:
        write_s += costs.convert.seconds(frames)
    if write_s <= decode_s:
        return []
    return [
        f"The sink is the bottleneck: a chunk takes {_time(write_s)} to write and "
        f"{_time(decode_s)} to decode. The decoder waits for it, however many slots there are."
    ]


def _memory(made: dict[str, Prediction], vram_bytes: int | None) -> list[str]:
    peak = max((one.run.vram_peak_bytes or 0) for one in made.values())
    if vram_bytes is None or peak <= vram_bytes:
        return []
    return [
        f"This does not fit: it needs {peak / 1e9:.1f} GB of device memory, there are "
        f"{vram_bytes / 1e9:.1f} GB. Take a smaller chunk size."
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
