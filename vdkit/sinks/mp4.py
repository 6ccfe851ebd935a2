"""MP4 files: by one encoder or several side by side, or as diffusers writes them."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vdkit.decode.chunks import SEGMENT, segment_lengths
from vdkit.decode.media import MediaInfo, check_pixel_format
from vdkit.decode.terminal import HeldSignals
from vdkit.sinks.files import MOST_WORKERS, Encoded, Encoders, Output, check_whole, layout_of

if TYPE_CHECKING:
    import numpy as np

_SOUND = {
    "aac": (
        "aac",
        (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000),
    ),
    "opus": ("libopus", (8000, 12000, 16000, 24000, 48000)),
}
"""FFmpeg's encoder, and the sample rates that it takes."""


@dataclass(frozen=True, slots=True)
class Codec:
    """An encoder of FFmpeg's.

    Attributes:
        name, words: FFmpeg's, and what is said.
        presets, preset: its own names from fast to slow, and that of the kit.
        crfs, crf: the constant quality that it takes, and that of the kit.
        nv12: whether it takes that format.
        least: side of a video, pixels: where both are shorter x265 writes over memory not its own.
    """

    name: str
    words: str
    presets: tuple[str, ...]
    preset: str
    crfs: range
    crf: int
    nv12: bool = True
    least: int = 2

    @property
    def on_gpu(self) -> bool:
        """Whether NVENC it is."""
        return self.name.endswith("_nvenc")

    def tell(self, context: Any, crf: int, preset: str, threads: int) -> None:
        """Its own settings; ``threads`` 0: as many as it likes."""
        options = {"preset": preset, "cq" if self.on_gpu else "crf": str(crf)}
        if self.on_gpu:
            options["rc"], context.bit_rate = "vbr", 0  # or 2 Mbit/s would bound the quality
        elif self.name == "libx265":  # what it says of itself would differ with its threads
            pools = f":pools={threads}" if threads else ""
            options["x265-params"] = f"log-level=error:info=0:open-gop=0{pools}"
        elif self.name == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors; it prints all settings otherwise
            options["svtav1-params"] = f"lp={min(threads, 6)}"  # 0: all cores
        if self.name in ("libx265", "hevc_nvenc"):
            context.codec_tag = "hvc1"  # browsers and QuickTime want it
        if threads:
            context.thread_count = threads
        context.options = options


_X26 = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
    "placebo",
)  # fmt: skip
_NVENC = tuple(f"p{level}" for level in range(1, 8))
CODECS = {
    "h264": Codec("libx264", "x264", _X26, "veryfast", range(52), 18),
    "hevc": Codec("libx265", "x265", _X26, "veryfast", range(52), 20, nv12=False, least=64),
    "av1": Codec(
        "libsvtav1", "SVT-AV1", tuple(map(str, reversed(range(14)))), "10", range(1, 64), 24,
        nv12=False,
    ),
    "h264_nvenc": Codec("h264_nvenc", "NVENC H.264", _NVENC, "p4", range(1, 52), 18),
    "hevc_nvenc": Codec("hevc_nvenc", "NVENC HEVC", _NVENC, "p4", range(1, 52), 20),
    "av1_nvenc": Codec("av1_nvenc", "NVENC AV1", _NVENC, "p4", range(1, 64), 24),
}  # fmt: skip
AUTO = ("h264_nvenc", "h264")
"""What ``auto`` tries, in turn."""


class Mp4Sink(Encoded):
    """Video (4:2:0, BT.709) in MP4 through PyAV, chunk by chunk, at exactly the given frame rate.

    The sound of ``av`` goes beside it, as long as its samples say. What is needed to play lies
    before the frames, in room reserved for it.

    Args:
        path: the file to write, ending in ``.mp4``.
        crf: constant quality, 0 (lossless, h264 and hevc) or 1 to 51, of AV1 to 63; ``cq`` of
            NVENC. None: 18, of hevc 20, of av1 24.
        preset: h264, hevc: ``ultrafast`` to ``placebo``; av1: 13 (fast) to 0; NVENC: ``p1`` (fast)
            to ``p7``. None: ``veryfast``, 10 and ``p4``.
        sound: ``aac``, or ``opus``, of 8, 12, 16, 24 or 48 kHz.
        encoders: that run side by side, each on a thread of its own with its share of the cores,
            and each on a segment of the video that needs no other to be decoded. The packets are
            joined as they are. 1: one encoder for all, on the thread that writes. With more, an
            error is raised by a later `write` or by `close`. NVENC: sessions side by side, of use
            where a GPU has several.
        segment: frames of a segment, 2 or more; each costs a frame that refers to no other, so a
            still video grows most. The last ones are shorter, see
            `vdkit.decode.chunks.segment_lengths`. Up to ``encoders + 2`` segments wait.
        codec: ``h264`` (x264), ``hevc`` (x265), ``av1`` (SVT-AV1), ``h264_nvenc``, ``hevc_nvenc``,
            ``av1_nvenc``, or ``auto``: h264_nvenc where it can be opened, else h264.
        gop: frames from one that refers to no other to the next, at the most; None: the codec's
            own, or the segment.
        pixel_format: what it wants frames in, ``yuv420p``, ``nv12`` (not hevc, av1) or ``rgb24``,
            which it makes yuv420p. Takes any, as `MediaInfo.pixel_format` says.

    Attributes:
        encoder: what encodes, in words; once it is open, what ``auto`` took, and why not others.
        parts: see `vdkit.sinks.files.Parts`.

    Raises:
        ValueError: an option out of range; from `open`, no encoder can be opened for such frames.
    """

    ending = ".mp4"
    media = ("video", "av")

    def __init__(
        self, path: str | os.PathLike[str], crf: int | None = None,
        preset: str | int | None = None, sound: str = "aac", encoders: int = 1,
        segment: int = SEGMENT, codec: str = "h264", gop: int | None = None,
        pixel_format: str = "yuv420p",
    ) -> None:  # fmt: skip
        super().__init__(path)
        if sound not in _SOUND:
            raise ValueError(f"sound is {sound!r}; use {' or '.join(_SOUND)}")
        self.sound = sound
        if codec not in (*CODECS, "auto"):
            raise ValueError(f"codec is {codec!r}; use {', '.join(CODECS)} or auto")
        self.codec = codec
        if codec == "auto" and preset is not None:
            raise ValueError(
                f"preset is {preset!r}, and codec 'auto' knows none: each has its own; name the "
                f"codec, {' or '.join(AUTO)}"
            )
        self.crf, self.preset = crf, preset if preset is None else str(preset)
        for made in self._candidates():
            if crf is not None:
                least = made.crfs[0] or "0 (lossless)"
                use = f"{least} to {made.crfs[-1]} with codec {codec}"
                check_whole("crf", crf, made.crfs, use)
            if self.preset not in (None, *made.presets):
                raise ValueError(
                    f"preset is {preset!r}; use {', '.join(made.presets)} with codec {codec}"
                )
        counts = range(1, MOST_WORKERS + 1)
        self.encoders = check_whole("encoders", encoders, counts, f"1 to {MOST_WORKERS}")
        self.segment = check_whole("segment", segment, range(2, sys.maxsize), "2 frames or more")
        if gop is not None:
            use = "1 frame (each refers to no other) or more"
            check_whole("gop", gop, range(1, 2**31), use)
        self.gop = gop
        self.pixel_format = check_pixel_format(pixel_format)
        self.encoder = "auto" if codec == "auto" else self._words(CODECS[codec])
        self._side: Encoders | None = None
        self._gathered: list[Any] = []
        self._muxed = self._ahead = 0
        self._interrupted = False

    def _candidates(self) -> list[Codec]:
        return [CODECS[name] for name in (AUTO if self.codec == "auto" else (self.codec,))]

    def _words(self, codec: Codec) -> str:
        """What encodes, for the record."""
        quality = self.crf if self.crf is not None else codec.crf
        said = f"{codec.words} {self.preset or codec.preset} {'cq' if codec.on_gpu else 'crf'}"
        side = f", {self.encoders} encoders, segments of {self.segment}" * (self.encoders > 1)
        return f"{said} {quality}{f', gop {self.gop}' if self.gop else ''}{side}"

    def open(self, info: MediaInfo) -> None:
        if info.medium in self.media:
            self._format = "yuv420p" if info.pixel_format == "rgb24" else info.pixel_format
            replace(info, pixel_format=self._format)  # or its sides are odd
        codec, rates = _SOUND[self.sound]
        if info.medium == "av" and info.sample_rate not in rates:
            raise ValueError(
                f"{self.sound} takes {', '.join(map(str, rates))} Hz, the sound has "
                f"{info.sample_rate}; use sound={'opus' if self.sound == 'aac' else 'aac'!r} or "
                "RawSink"
            )
        layout = layout_of(self.sound, info.channels or 1)
        super().open(info)
        self._open_video(info)
        if info.medium == "av":
            self._add_sound(codec, info.sample_rate, layout)
        self._lengths = iter(segment_lengths(info.frames, self.encoders, self.segment))
        self._length = next(self._lengths)
        if self.encoders > 1:
            most = (self.encoders + 1) * self.segment
            self._side = Encoders(self.encoders, most, self._join, self.parts)

    def _open_video(self, info: MediaInfo) -> None:
        """Begin the container with the first encoder that takes frames of this size."""
        import av

        packets, rate = info.frames + round(info.samples / 480), info.fps.numerator
        options = {
            "moov_size": str(4000 + 40 * packets),  # so that nothing is moved at the end
            "movie_timescale": str(rate if rate >= 1000 else 1000 * rate),  # exact lengths
        }
        refused: list[str] = []
        for codec in self._candidates():
            why = self._unfit(codec, info)
            if not why:
                try:
                    self._start("mp4", codec.name, info.fps, **options)
                    # Beside others it only says how the video begins.
                    self._tell(codec, self._stream.codec_context, int(self.encoders > 1))
                    self._stream.codec_context.open()
                except (av.FFmpegError, ValueError) as error:  # ValueError if FFmpeg lacks it
                    self._container = self._stream = None
                    why = f"FFmpeg said {getattr(error, 'strerror', error)}"
                else:
                    self._codec, self._sets = codec, self._stream.codec_context.extradata
                    self.encoder = "; ".join([self._words(codec), *refused])
                    return
            refused.append(f"{codec.name}: {why}")
        remedy = "auto or h264" if codec.on_gpu else "another size, codec or pixel_format"
        raise ValueError(
            f"no encoder opens for {info.height}x{info.width} as {self._format}; "
            f"{'; '.join(refused)}; use {remedy}"
        )

    def _unfit(self, codec: Codec, info: MediaInfo) -> str:
        """Why it is not even tried."""
        if self._format == "nv12" and not codec.nv12:
            return "takes no nv12, but yuv420p"
        if min(info.height, info.width) < codec.least:
            return f"needs sides of {codec.least} pixels"
        return ""

    def _tell(self, codec: Codec, context: Any, threads: int = 0) -> None:
        """Settings of an encoder, the same for all, so that their packets fit together."""
        assert self._info is not None
        context.height, context.width = self._info.height, self._info.width
        context.pix_fmt = self._format
        context.color_range = 1  # limited; the next three are the code for BT.709
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.framerate, context.time_base = self._info.fps, 1 / self._info.fps
        if self.gop is not None:
            context.gop_size = self.gop
        context.thread_type = "FRAME"  # PyAV's own, slices, cost bytes and most of the speed
        quality = self.crf if self.crf is not None else codec.crf
        codec.tell(context, quality, self.preset or codec.preset, threads)

    def write(self, frames: np.ndarray) -> None:
        import av

        assert self._info is not None
        first, self._written = self._written, self._written + len(frames)
        if self._info.medium == "av":
            frames, samples = self._info.split(frames, first)
            if len(samples):
                self._hear(samples)
        form = self._info.pixel_format
        made = (av.VideoFrame.from_ndarray(pixels, format=form) for pixels in frames)
        if self._side is None:
            self._encode(self._timed(frame, index) for index, frame in enumerate(made, first))
            return
        signals = HeldSignals()  # or a lock of the threads could stay held
        try:
            for index, frame in enumerate(made, first):  # copies: threads outlive the call
                if self._interrupted:
                    self._written = index
                    return
                self._gathered.append(frame)
                if len(self._gathered) == self._length:
                    gathered, self._gathered = self._gathered, []
                    begun = index + 1 - len(gathered)
                    self._side.hand(self._encode_segment, begun, gathered, size=len(gathered))
                    self._length = next(self._lengths, 0)
        finally:
            signals.release()

    def _timed(self, frame: Any, index: int) -> Any:
        """As the encoder takes it."""
        assert self._info is not None
        if frame.format.name == "rgb24":
            # Left to itself the encoder would convert with BT.601, whatever the stream says.
            frame = frame.reformat(
                format=self._format, interpolation="AREA", src_colorspace="ITU709",
                dst_colorspace="ITU709", dst_color_range="MPEG",
            )  # fmt: skip
        frame.pts, frame.time_base = index, 1 / self._info.fps
        return frame

    def _encode_segment(self, first: int, frames: list[Any]) -> list[Any]:
        """On a thread: packets of the frames from ``first`` on."""
        import av

        context: Any = av.CodecContext.create(self._codec.name, "w")
        threads = max(1, len(os.sched_getaffinity(0)) // self.encoders)
        short = 2 * len(frames) <= self.segment  # near the end, where others are done
        self._tell(self._codec, context, threads * (1 + short))
        context.flags |= av.codec.context.Flags.global_header
        if short:
            context.thread_type = "SLICE"  # too few for a thread each
        packets = []
        for index, frame in enumerate(frames, first):
            if self._interrupted:
                return []
            packets += context.encode(self._timed(frame, index))
        packets += context.encode(None)
        if context.extradata != self._sets:
            raise RuntimeError(
                f"{self._codec.words} began its segments in different ways, so they cannot be "
                "joined; use encoders=1"
            )
        return packets

    def _join(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.stream = self._stream
        self._mux(packets)

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            if packet.stream is self._stream:
                if not self._muxed and -self.segment < packet.dts - packet.pts < 0:
                    self._ahead = packet.dts - packet.pts
                # As one encoder would count: with two frames x264 counts otherwise, x265 wildly.
                packet.dts = self._muxed + self._ahead
                self._muxed += 1
        super()._mux(packets)

    def interrupt(self) -> None:
        """End a write in progress; called when the decode has failed."""
        self._interrupted = True

    def close(self) -> None:
        if self._side is not None:
            self._side.finish()
        self._check_all(self._written)
        super().close()

    def abort(self) -> None:
        if self._side is not None:
            self.interrupt()
            self._side.cancel()
        super().abort()


def export_encoder() -> str:
    """What diffusers' ``export_to_video`` encodes with on this machine, for the record.

    Raises:
        ImportError: there is no encoder for it; says which package is missing.
    """
    from diffusers.utils.import_utils import is_imageio_available, is_opencv_available

    remedy = "run: pip install imageio imageio-ffmpeg"
    if is_imageio_available():
        try:
            import imageio_ffmpeg
        except ImportError:
            raise ImportError(
                f"export_to_video finds imageio, but not imageio-ffmpeg, its encoder; {remedy}"
            ) from None
        return f"export_to_video, imageio-ffmpeg {imageio_ffmpeg.__version__}"
    if is_opencv_available():
        import cv2

        return f"export_to_video, OpenCV {cv2.__version__}"
    raise ImportError(f"export_to_video finds neither imageio nor OpenCV to encode with; {remedy}")


class ExportToVideoSink(Output):
    """The MP4 that a diffusers user writes: ``diffusers.utils.export_to_video`` as it stands.

    Only `decode_diffusers` can feed it: it takes VideoProcessor's float frames, the whole video in
    one ``write``, in which export_to_video makes them uint8 (truncated, not rounded), starts
    FFmpeg and encodes. Through imageio sides grow to multiples of 16, and the frame rate has two
    decimals.

    Args:
        path: the file to write, ending in ``.mp4``.
    """

    ending = ".mp4"
    media = ("video",)
    wants_float = True

    @property
    def encoder(self) -> str:
        """See `export_encoder`."""
        return export_encoder()

    def open(self, info: MediaInfo) -> None:
        export_encoder()  # or there is none
        super().open(info)

    def _create(self, size: int) -> None:
        """export_to_video makes the file."""

    def write(self, frames: np.ndarray) -> None:
        from diffusers.utils import export_to_video

        assert self._info is not None
        if frames.dtype.kind != "f":
            raise TypeError(
                f"ExportToVideoSink takes float frames in [0, 1], not {frames.dtype}; only "
                "decode_diffusers has them"
            )
        try:
            export_to_video(frames, str(self._partial), fps=float(self._info.fps))
        except BaseException as error:
            # imageio closes no writer that failed: FFmpeg would go on, and make the file later.
            traceback.clear_frames(error.__traceback__)
            raise

    def close(self) -> None:
        """Put the file in place if every frame is in it: FFmpeg's end is nobody's error."""
        import av

        assert self._info is not None
        try:
            with av.open(str(self._partial)) as container:
                found = container.streams.video[0].frames
        except av.FFmpegError:
            found = 0
        if found != self._info.frames:
            raise OSError(
                f"{self.path}: export_to_video left a file with {found} of {self._info.frames} "
                "frames; see whether the disk is full"
            )
        super().close()
