"""What a caller brings, decoder, latents and sink, and the bytes that every path makes of them.

Nothing has to be inherited. Torch is loaded on use: a recording opens without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from vdkit.decode.media import MEDIA, MediaInfo, Medium, samples_a_frame

if TYPE_CHECKING:
    import numpy as np
    import torch

Progress = bool | Callable[[int, int], None]
"""True: a tqdm bar of frames, images or samples; False: none; a callable gets (how many are done,
how many there are), on the caller's thread."""


class AvLatents(NamedTuple):
    """Latents of video with sound, which are decoded as one; a plain pair is taken too."""

    video: torch.Tensor
    """[1, C, T, h, w]"""
    audio: torch.Tensor
    """[1, C, T] or [1, C, T, F]"""

    @property
    def shape(self) -> torch.Size:
        """That of the video, along which both are cut."""
        return self.video.shape

    def to(self, *args: Any, **kwargs: Any) -> AvLatents:
        """Both, as `torch.Tensor.to`."""
        return AvLatents(*(one.to(*args, **kwargs) for one in self))


class ChunkDecoder(Protocol):
    """A decoder that works chunk by chunk: of video, of images, of audio, of video with sound.

    All state of one decode lives in what `begin` returns, so two of one decoder can be done in
    turns. Work is launched on the current CUDA stream and must not synchronize the device.

    A causal video decoder also has ``spatial_factor`` and ``temporal_factor`` and is complete.
    Any decoder may have more; `Traits` reads it, with what holds where it is left out:

    - ``medium``: ``video``, ``images`` (latents [N, C, h, w]), ``audio`` ([1, C, T] or
      [1, C, T, F]) or ``av`` (`AvLatents`; `vdkit.models.sound.WithSound` makes such of two).
    - ``spatial_factor``: of height and width, or a pair, one of each; not of audio.
    - ``temporal_factor``: frames or samples that a latent frame becomes, but for the first of a
      video, which becomes one. Of images 1.
    - ``sample_rate``, Hz, and ``channels``: of audio, which has to have both; so has ``av``, and
      ``fps``, its frame rate, a Fraction, and ``samples(latents)``, how many samples its sound has.
    - ``features``: F of audio whose latents are [1, C, T, F].
    - ``value_range``: (-1.0, 1.0), or (0.0, 1.0) for pictures.
    - ``exact``: True; False if chunks only approximate the decode of the whole.
    - ``plan(latents, chunk_size)``: its own chunks, [(start, stop, units), ...]: latent positions
      (half-open, from 0, without gap to the last) and the units, 1 or more, that they become. The
      last may take no latents, to give what was held back. ``chunk_size`` None: one chunk if it
      can. Without it: ``chunk_size`` positions each, the first of a video alone.
    - ``end(state)``: frees what `begin` made; called once for each, also after errors and cancels.
    - ``variant`` and ``notes`` (words), which records keep, and ``prepare(height, width,
      chunk_size)``, of the latents, for work to be done once, such as compiling: commands call it
      before anything is timed.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    latent_channels: int

    def begin(self, latents: torch.Tensor) -> Any:
        """Start on all latents, [1, C, T, h, w] for video, on ``device`` in ``dtype``,
        de-normalized; they are the caller's, and not to be written to."""

    def decode_chunk(self, state: Any, start: int, stop: int) -> torch.Tensor:
        """Decode latent positions ``start`` to ``stop`` (half-open), in the order of the plan.

        Returns:
            Video [1, 3, F, H, W] RGB, images [F, 3, H, W] RGB, audio [1, channels, S], rows of
            ``av`` [1, F, H*W*3 + samples*channels] (see `vdkit.decode.media`), in ``value_range``,
            samples in [-1, 1], in ``dtype``, on ``device``; as many frames, images or samples as
            the plan says; H and W are h and w times ``spatial_factor``.
        """


class IntoDecoder(ChunkDecoder, Protocol):
    """A decoder that writes finished pixels itself, which saves a pass over them."""

    def decode_into(self, state: Any, start: int, stop: int, out: torch.Tensor) -> torch.Tensor:
        """As `decode_chunk`, into ``out`` on ``device``: uint8 [F, H, W, 3], int16 [S, channels].

        The bytes have to be those of `to_levels` of `decode_chunk`.

        Returns:
            bool [] on ``device``: whether NaN or inf, which the pixels do not show, was among them.
        """


class WholeVideoDecoder(ChunkDecoder, Protocol):
    """A decoder that can also decode all at once as diffusers does; for `decode_diffusers`."""

    def decode_video(
        self, latents: torch.Tensor, before_frame: Callable[[int], None]
    ) -> torch.Tensor:
        """Decode all latents at once; ``before_frame(i)`` is called before latent position i.

        If it is called for fewer, a benchmark holds chunks to this in decibels and not by bytes:
        what is made of many positions in one call rounds otherwise.

        Returns:
            As `decode_chunk`, of everything.
        """

    def to_numpy(self, frames: torch.Tensor) -> np.ndarray:
        """That in float32, on ``device``, to [F, H, W, 3] in [0, 1]; audio [S, channels] in
        [-1, 1]; of ``av`` both parts of the rows, [F, H*W*3] and [F, samples*channels]."""


class Sink(Protocol):
    """Terminal consumer of frames. One sink serves one decode.

    The calls come in this order, all from one thread: ``open``, ``write`` for each chunk, then
    ``close``. After a failure ``abort`` comes instead of ``close``, once nothing else is running,
    also when ``open`` itself failed. A sink whose ``write`` can last long may add a method
    ``interrupt()``: it is called from another thread when the decode has failed, and should make
    ``write`` return early. A sink whose ``wants_float`` is True gets, in place of uint8, the float
    frames in [0, 1] of diffusers' VideoProcessor, all in one ``write``: only `decode_diffusers` has
    them, and the other paths raise TypeError. A sink that has ``pixel_format``, one of
    `vdkit.decode.media.PIXEL_FORMATS`, gets pictures of video in it. A sink that has ``media``,
    names of `MEDIA`, gets no other: that is a TypeError before anything is decoded.

    A sink may say what it was at: ``parts``, seconds since it was opened that the thread that calls
    ``write`` and ``close`` spent in each of ``encode`` (an encoder at work on this thread), ``mux``
    (packets written) and ``full`` (waiting for an encoder); and ``encoders``, seconds that encoders
    on other threads were at work. The records then hold them.
    """

    def open(self, info: MediaInfo) -> None:
        """Prepare for ``info.frames`` frames, images or samples."""

    def write(self, frames: np.ndarray) -> None:
        """Consume uint8 [F, H, W, 3], RGB, or [F, H * 3 / 2, W] of another ``pixel_format``; int16
        [S, channels] of audio, or rows of ``av``, uint8 [F, bytes], which `MediaInfo.split` takes
        apart; C-contiguous.

        The array is a buffer that is reused after the call: copy to keep.
        """

    def close(self) -> None:
        """Finish; the output is complete when this returns."""

    def abort(self) -> None:
        """Give up: remove what was begun, leave what was there before."""


def wants_float(sink: object) -> bool:
    """Whether a sink takes diffusers' float frames and no others (see `Sink`)."""
    return bool(getattr(sink, "wants_float", False))


def check_medium(sink: object, medium: Medium, who: str) -> None:
    """TypeError if a sink does not take the medium that ``who`` makes (see `Sink`)."""
    takes = getattr(sink, "media", MEDIA)
    if medium.name not in takes:
        raise TypeError(
            f"{type(getattr(sink, 'inner', sink)).__name__} takes "
            f"{' and '.join(MEDIA[name].called for name in takes)}, {who} makes {medium.called}; "
            f"use {medium.sinks} or RawSink"
        )


class DecodeCancelled(Exception):
    """The caller's ``cancel`` event was set; the output was discarded."""


def require(thing: object, kind: str, members: tuple[str, ...]) -> None:
    """Raise TypeError, naming what is missing, unless ``thing`` has all ``members``."""
    missing = [name for name in members if not hasattr(thing, name)]
    if missing:
        raise TypeError(
            f"{type(thing).__name__} is no {kind}: it lacks {', '.join(missing)} "
            f"(see vdkit.decode.{kind})"
        )


def end_state(decoder: Any, state: Any) -> None:
    """Let a decoder free what `ChunkDecoder.begin` made, if it has anything to free."""
    getattr(decoder, "end", lambda state: None)(state)


@contextlib.contextmanager
def begun(decoder: Any, latents: torch.Tensor) -> Iterator[Any]:
    """The state of a decode outside a path, ended whatever happens."""
    state = decoder.begin(latents)
    try:
        yield state
    finally:
        end_state(decoder, state)


@dataclass(frozen=True, slots=True)
class Traits:
    """What a decoder says of itself (see `ChunkDecoder`), checked, with what it leaves out."""

    medium: Medium
    value_range: tuple[float, float]
    spatial_factor: tuple[int, int]
    temporal_factor: int
    channels: int
    sample_rate: int
    exact: bool
    features: int = 0
    fps: Fraction | None = None

    @classmethod
    def of(cls, decoder: Any) -> Traits:
        """Read them.

        Raises:
            TypeError: what every decoder or one of its medium has to have is missing.
            ValueError: one of them cannot be; names the decoder, the value and what can.
        """
        name = getattr(decoder, "medium", "video")
        medium = MEDIA.get(name) if isinstance(name, str) else None
        common = (*ChunkDecoder.__annotations__, *(medium.needs if medium else ()))
        require(decoder, "ChunkDecoder", (*common, "begin", "decode_chunk"))

        def wrong(what: str, value: object, remedy: str) -> ValueError:
            return ValueError(f"decoder {decoder.name!r}: {what} is {value!r}; {remedy}")

        if medium is None:
            raise wrong("medium", name, f"use {', '.join(MEDIA)}")
        spatial = getattr(decoder, "spatial_factor", 1) if name != "audio" else 1
        sounds = name in ("audio", "av")
        given = {
            "temporal_factor": decoder.temporal_factor if medium.timed else 1,
            "channels": decoder.channels if sounds else 3,
            "sample_rate": decoder.sample_rate if sounds else 0,
            "features": getattr(decoder, "features", 0) if name == "audio" else 0,
        }
        pair = tuple(spatial) if isinstance(spatial, (tuple, list)) else (spatial, spatial)
        for what, values in {"spatial_factor": pair, **{k: (v,) for k, v in given.items()}}.items():
            least = int(what != "features" and (what != "sample_rate" or sounds))
            if not all(isinstance(one, int) and one >= least for one in values):
                raise wrong(what, getattr(decoder, what, None), "use whole numbers, 1 or more")
        if len(pair) != 2:
            raise wrong("spatial_factor", spatial, "use one number, or one of height and of width")
        allowed = ((-1.0, 1.0),) if name == "audio" else ((-1.0, 1.0), (0.0, 1.0))
        values = tuple(getattr(decoder, "value_range", allowed[0]))
        if values not in allowed:
            raise wrong("value_range", values, f"use {' or '.join(map(str, allowed))}")
        low, high = values
        exact = bool(getattr(decoder, "exact", True))
        fps = Fraction(decoder.fps) if name == "av" else None
        return cls(medium, (low, high), pair, **given, exact=exact, fps=fps)

    def latent_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of latents of this shape; of audio 1 and F, or 1 without F."""
        if self.medium.name == "audio":
            return 1, (*shape, 1)[3]
        return shape[-2], shape[-1]

    def latent_shape(self, channels: int, count: int, size: tuple[int, int]) -> tuple[int, ...]:
        """Of ``count`` latents as a decoder gets them; ``size``: height and width, of pictures."""
        if self.medium.name == "audio":
            return (1, channels, count, *([self.features] if self.features else ()))
        return (count, channels, *size) if self.medium.axis == 0 else (1, channels, count, *size)

    def info(
        self, shape: tuple[int, ...], units: int, fps: Fraction, samples: int = 0
    ) -> MediaInfo:
        """What so many units of latents of this shape are; ``fps`` counts for video only, and
        ``samples``, of the decoder's sound, for ``av``."""
        if self.medium.name == "audio":
            return MediaInfo(units, 1, self.channels, Fraction(self.sample_rate), "audio")
        (rows, columns), (high, wide) = shape[-2:], self.spatial_factor
        rate = self.fps or (fps if self.medium.timed else Fraction(1))
        size = units, rows * high, columns * wide
        if self.fps and size[1] * size[2] % 2:
            raise ValueError(f"video with sound is {size[1]}x{size[2]}; one side has to be even")
        sound = (self.sample_rate, self.channels, samples) if self.fps else ()
        return MediaInfo(*size, rate, self.medium.name, *sound)


def info_of(decoder: Any, latents: Any, units: int, fps: Fraction) -> MediaInfo:
    """What so many units of these latents, as `check_latents` leaves them, are."""
    traits = Traits.of(decoder)
    samples = decoder.samples(latents) if traits.fps else 0
    return traits.info(tuple(latents.shape), units, fps, samples)


def to_levels(
    decoded: torch.Tensor, traits: Traits, out: torch.Tensor | None = None
) -> torch.Tensor:
    """What a decoder gave as the whole numbers that a sink gets, on the same device.

    Pictures as diffusers' VideoProcessor and ``(x * 255).round()`` make them, in float32 and one
    rounding per operation, so that the CPU and the GPU give the same bytes; samples are rounded to
    multiples of 1 / 32767. Values outside the decoder's range clamp.

    Args:
        decoded: as `ChunkDecoder.decode_chunk` returns it.
        out: uint8 [F, H, W, 3], or int16 [S, channels], to fill; a new contiguous tensor if None.
    """
    import torch

    medium = traits.medium
    if medium.name == "av":
        sound = traits.channels * samples_a_frame(traits.sample_rate, traits.fps or Fraction(1))
        picture = decoded.shape[-1] - sound
        if out is None:
            shape = (decoded.shape[1], picture + 2 * sound)
            out = torch.empty(shape, dtype=torch.uint8, device=decoded.device)
        seen = decoded[0, :, :picture].unflatten(1, (-1, 3))
        _levels(seen, out[:, :picture].unflatten(1, (-1, 3)), 0.0, 255, traits.value_range[0] < 0)
        heard, room = decoded[0, :, picture:, None], out[:, picture:].view(torch.int16)[..., None]
        _levels(heard, room, -1.0, MEDIA["audio"].levels, False)
        return out
    order = {"video": (0, 2, 3, 4, 1), "images": (0, 2, 3, 1), "audio": (0, 2, 1)}[medium.name]
    values = decoded.permute(order)
    values = values if medium.name == "images" else values[0]
    if out is None:
        out = torch.empty(values.shape, dtype=getattr(torch, medium.dtype), device=values.device)
    low = -1.0 if medium.name == "audio" else 0.0
    _levels(values, out, low, medium.levels, traits.value_range[0] < low)
    return out


def _levels(values: torch.Tensor, out: torch.Tensor, low: float, levels: int, halved: bool) -> None:
    """``values``, of [-1, 1] brought to [0, 1] if ``halved``, from ``low`` on as whole numbers."""
    import torch

    # One plane stays in the cache.
    planes = range(values.shape[-1]) if values.device.type == "cpu" else (slice(None),)
    for plane in planes:
        exact = values[..., plane].to(torch.float32, copy=True)
        if halved:
            exact.mul_(0.5).add_(0.5)
        exact.clamp_(low, 1.0).mul_(levels).round_()
        out[..., plane].copy_(exact)


_VIDEO = Traits(MEDIA["video"], (-1.0, 1.0), (1, 1), 1, 3, 0, True)


def frames_to_uint8(frames: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """`to_levels` of a video's [1, 3, F, H, W] RGB in [-1, 1]: uint8 [F, H, W, 3] in [0, 255]."""
    return to_levels(frames, _VIDEO, out)


def check_latents(
    latents: Any,
    channels: Any,
    device: torch.device,
    dtype: torch.dtype,
    medium: Medium = MEDIA["video"],
) -> Any:
    """Validate latents and bring them to the decoder, on ``device`` in ``dtype``.

    Args:
        latents: [1, C, T, h, w] for video, [N, C, h, w] for images, [1, C, T] or [1, C, T, F] for
            audio, where a leading 1 may be left out of all but the last; of ``av`` a pair, of
            video and of audio, as are its ``channels``; float16, bfloat16 or float32; finite;
            already de-normalized if they come from a pipeline.

    Raises:
        TypeError: not a tensor (of ``av`` not a pair), or not of a float dtype named above.
        ValueError: wrong rank, batch, channels or an empty axis; NaN or inf, named with its latent
            frame or image.
    """
    import torch

    if medium.name == "av":
        if not isinstance(latents, (tuple, list)) or len(latents) != 2:
            raise TypeError(
                f"latents are a {type(latents).__name__}; video with sound needs a pair, of video "
                "[1, C, T, h, w] and of audio [1, C, T] or [1, C, T, F]"
            )
        kinds = zip(("video", "audio"), latents, channels, strict=True)
        return AvLatents(*(check_latents(z, n, device, dtype, MEDIA[kind]) for kind, z, n in kinds))
    if not isinstance(latents, torch.Tensor):
        unequal = medium.name == "images" and isinstance(latents, (list, tuple))
        stack = "; stack images of one size, and decode each size apart" * unequal
        raise TypeError(f"latents are a {type(latents).__name__}; a torch.Tensor is needed{stack}")
    if latents.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise TypeError(
            f"latents are {latents.dtype}; use torch.float16, torch.bfloat16 or torch.float32"
        )
    shape = tuple(latents.shape)
    axes = {len(layout): layout for layout in medium.layouts}
    first = medium.layouts[0]
    short = {len(first) - 1: first[1:]}
    if len(shape) not in axes | short:
        said = " or ".join(f"[{', '.join(layout)}]" for layout in (short | axes).values())
        meant = {
            "video": "channels, latent frames, height / factor, width / factor",
            "images": "images, channels, height / factor, width / factor",
            "audio": "channels, latent frames, and features if the decoder has them",
        }[medium.name]
        raise ValueError(
            f"latents have shape {shape}, {len(shape)} axes; use {said} ({meant}) for {medium.name}"
        )
    if len(shape) in short:
        latents = latents[None]
    named = dict(zip(axes[latents.ndim], latents.shape, strict=True))
    if named.get("1", 1) != 1:
        raise ValueError(
            f"latents hold a batch of {named['1']} {medium.whole}s; decode them one at a time"
        )
    cut = axes[latents.ndim][medium.axis]
    if named["C"] != channels:
        right = f"[{', '.join(name for name in axes[latents.ndim] if name != '1')}]"
        swapped = right.replace("C", "?").replace(cut, "C").replace("?", cut)
        hint = f"; the axes are {right}, not {swapped}" if named[cut] == channels else ""
        raise ValueError(f"latents have {named['C']} channels, this decoder takes {channels}{hint}")
    if 0 in named.values():
        what = " and features" if medium.name == "audio" else ", height and width"
        raise ValueError(
            f"latents have shape {shape}: {medium.position}s{what} must each be 1 or more"
        )
    moved = latents.to(device=device, dtype=dtype)
    others = [axis for axis in range(moved.ndim) if axis != medium.axis]
    bad = (~torch.isfinite(moved)).sum(dim=others).tolist()
    if any(bad):
        index = next(i for i, count in enumerate(bad) if count)
        frame = latents.select(medium.axis, index)
        cause = f"values up to {frame.abs().max().item():.3g}, which become inf in {dtype},"
        if not frame.isfinite().all():
            cause = "NaN" if frame.isnan().any() else "inf"
        raise ValueError(
            f"latents have {cause} in {medium.position} {index} ({sum(bad)} such values in all)"
        )
    return moved
