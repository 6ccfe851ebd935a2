"""What comes out of a decoder: video, images, audio, video with sound; how each lies in memory.

Latents, decoder output and what a sink gets are described here once; paths, records, predictions
and tables read it. Torch-free.

Video with sound is a row for every frame: its picture, then the samples that are heard while it is
shown, in room for the most that a frame of this rate can have. So both are cut, copied and counted
as one. `MediaInfo.split` takes rows apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Medium:
    """One kind of media.

    Attributes:
        name: as decoders and records have it.
        whole, unit, position: words for what one decode makes, what a sink counts in it, and one
            step of the latents along ``axis``.
        layouts: axes of latents, first as `vdkit.decode.ChunkDecoder.begin` gets them. Those that
            begin with 1 may also be given without it.
        axis: along which they are cut into chunks.
        decoded, layout: axes of what the decoder gives and of what the sink gets.
        dtype, levels: of a value in the sink's array, and what 1.0 becomes.
        first_units: units of the first latent position, which is then a chunk of its own; None: it
            is like every other.
        needs: attributes a decoder must have, beside those of every decoder.
        sinks: words for those that are made for it.
        form, sample: how ``random:`` latents are asked for (`vdkit.models.latents`), and those that
            commands take if none are given.
        timed: whether it has a playing time.
    """

    name: str
    whole: str
    unit: str
    position: str
    layouts: tuple[tuple[str, ...], ...]
    axis: int
    decoded: str
    layout: str
    dtype: str
    levels: int
    needs: tuple[str, ...]
    sinks: str
    form: str
    sample: str
    first_units: int | None = None
    timed: bool = True

    @property
    def itemsize(self) -> int:
        """Bytes of a value in the sink's array."""
        return 1 if self.dtype == "uint8" else 2

    @property
    def called(self) -> str:
        """The name in words."""
        return self.whole if self.name == "av" else self.name

    def counted(self, count: int) -> str:
        """``1 frame``, ``8 images``."""
        return f"{count} {self.unit}{'s' * (count != 1)}"

    def fits(self, shape: Sequence[int], channels: int | Sequence[int]) -> bool:
        """Whether latents of a shape are such, of so many channels; see ``layouts``."""
        sizes = {"1": 1, "C": channels if isinstance(channels, int) else channels[0]}
        return any(
            len(axes) == len(shape)
            and all(sizes.get(axis, size) == size for axis, size in zip(axes, shape, strict=True))
            for axes in (*self.layouts, self.layouts[0][1:])
        )

    def positions(self, start: int, stop: int) -> str:
        """Latent positions, half-open, as words: ``latent frames 3 to 4``."""
        return f"{self.position}s {start} to {stop - 1}"


MEDIA = {
    made.name: made
    for made in (
        Medium(
            "video", "video", "frame", "latent frame", (("1", "C", "T", "h", "w"),), 2,
            "[1, 3, F, H, W]", "[F, H, W, 3]", "uint8", 255,
            ("spatial_factor", "temporal_factor"), "Mp4Sink, PngSink",
            "FRAMESxHxW in pixels", "33x96x160", first_units=1,
        ),
        Medium(
            "images", "batch", "image", "latent image", (("N", "C", "h", "w"),), 0,
            "[F, 3, H, W]", "[F, H, W, 3]", "uint8", 255, ("spatial_factor",),
            "PngSink, JpegSink, WebpSink", "IMAGESxHxW in pixels", "4x256x256", timed=False,
        ),
        Medium(
            "audio", "clip", "sample", "latent frame", (("1", "C", "T"), ("1", "C", "T", "F")), 2,
            "[1, channels, S]", "[S, channels]", "int16", 32767,
            ("temporal_factor", "sample_rate", "channels"), "WavSink, FlacSink",
            "SECONDSs", "10s",
        ),
        Medium(
            "av", "video with sound", "frame", "latent frame", (("1", "C", "T", "h", "w"),), 2,
            "[1, F, H*W*3 + samples]", "[F, bytes]", "uint8", 255,
            ("spatial_factor", "temporal_factor", "sample_rate", "channels", "fps", "samples"),
            "Mp4Sink", "FRAMESxHxW", "33x96x160", first_units=1,
        ),
    )
}  # fmt: skip
"""Every medium by its name."""


PIXEL_FORMATS = {"rgb24": 3.0, "yuv420p": 1.5, "nv12": 1.5}
"""How a picture lies in memory, by FFmpeg's names, and bytes of a pixel: RGB by pixel, or Y, then U
and V of a quarter of its size, one after the other or in turns (`vdkit.decode.pixels`)."""


def check_pixel_format(name: str) -> str:
    """The name itself; ValueError if it is none of `PIXEL_FORMATS`."""
    if name not in PIXEL_FORMATS:
        raise ValueError(f"pixel_format is {name!r}; use one of {', '.join(PIXEL_FORMATS)}")
    return name


def samples_a_frame(sample_rate: int, fps: Fraction) -> int:
    """The most samples, of each channel, that are heard while one frame is shown."""
    return math.ceil(sample_rate / fps)


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a sink needs to know before the first frame.

    Attributes:
        frames: units that the sink will receive in all: frames, images or samples.
        height, width: pixels; of audio 1 and the number of channels.
        fps: exact frame rate, e.g. ``Fraction(24000, 1001)``; of audio the sample rate, Hz; of
            images 1.
        medium: a name in `MEDIA`.
        sample_rate, channels, samples: of the sound of ``av``: Hz, and how many in all, which may
            end before the last frame does. 0 of others.
        pixel_format: of video and its pictures, one of `PIXEL_FORMATS`.
    """

    frames: int
    height: int
    width: int
    fps: Fraction
    medium: str = "video"
    sample_rate: int = 0
    channels: int = 0
    samples: int = 0
    pixel_format: str = "rgb24"

    def __post_init__(self) -> None:
        check_pixel_format(self.pixel_format)
        if self.pixel_format != "rgb24" and (self.height % 2 or self.width % 2):
            raise ValueError(
                f"{self.pixel_format} needs even sides, the {self.kind.whole} is "
                f"{self.height}x{self.width}; use a sink of rgb24, RawSink or PngSink"
            )

    @property
    def kind(self) -> Medium:
        """The medium itself."""
        return MEDIA[self.medium]

    @property
    def frame_values(self) -> int:
        """Values of one unit in the sink's array: of a picture, or of all channels."""
        if self.medium == "audio":
            return self.width
        return math.prod(self.picture_shape) + 2 * self.sound_values

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """[H, W, 3], or [H * 3 / 2, W] where U and V have a quarter of the pixels."""
        if self.pixel_format == "rgb24":
            return (self.height, self.width, 3)
        return (self.height * 3 // 2, self.width)

    @property
    def sound_values(self) -> int:
        """Samples that a row of ``av`` has room for, times channels."""
        return self.channels * samples_a_frame(self.sample_rate, self.fps)

    def samples_before(self, frame: int) -> int:
        """Samples of ``av``, of each channel, before this frame."""
        return min(self.samples, math.floor(frame * self.sample_rate / self.fps))

    def split(self, rows: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
        """What a sink gets of ``av``, taken apart: views of pictures, a copy of samples.

        Args:
            rows: uint8 [F, bytes], of frame ``first`` and those that follow.

        Returns:
            uint8 [F, *picture_shape], and int16 [S, channels], without what is only room.
        """
        import numpy as np

        picture = math.prod(self.picture_shape)
        pictures = rows[:, :picture].reshape(-1, *self.picture_shape)
        room = rows[:, picture:].copy().view("<i2").reshape(len(rows), -1, self.channels)
        ends = [self.samples_before(first + frame) for frame in range(len(rows) + 1)]
        return pictures, room[np.arange(room.shape[1]) < np.diff(ends)[:, None]]

    @property
    def frame_bytes(self) -> int:
        """Bytes of one unit as the sink gets it."""
        return self.frame_values * self.kind.itemsize

    @property
    def seconds(self) -> float:
        """Playing time, s; of images their number."""
        return float(self.frames / self.fps)

    def shape(self, units: int) -> tuple[int, ...]:
        """So many units as the sink gets them."""
        if self.medium in ("audio", "av"):
            return (units, self.frame_values)
        return (units, *self.picture_shape)

    def decoded_shape(self, units: int) -> tuple[int, ...]:
        """So many units as the decoder gives them."""
        if self.medium == "audio":
            return (1, self.width, units)
        if self.medium == "images":
            return (units, 3, self.height, self.width)
        if self.medium == "av":
            return (1, units, self.height * self.width * 3 + self.sound_values)
        return (1, 3, units, self.height, self.width)
