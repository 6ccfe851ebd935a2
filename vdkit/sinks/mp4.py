"""MP4 files: by one encoder or several side by side, or as diffusers writes them."""

from __future__ import annotations

import os
import traceback
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from vdkit.decode.media import MediaInfo
from vdkit.decode.terminal import HeldSignals
from vdkit.sinks.files import Encoded, Encoders, Output, check_workers, layout_of

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


class Mp4Sink(Encoded):
    """H.264 (4:2:0, BT.709) in MP4 through PyAV, chunk by chunk, at exactly the given frame rate.

    The sound of ``av`` goes beside it, as long as its samples say.

    Args:
        path: the file to write, ending in ``.mp4``.
        crf: x264's constant rate factor, 0 (lossless) to 51.
        preset: x264's preset, ``ultrafast`` to ``veryslow``.
        sound: ``aac``, or ``opus``, of 8, 12, 16, 24 or 48 kHz.
        encoders: x264 encoders that run side by side, each on a thread of its own with its share
            of the cores, and each on a segment of the video that needs no other to be decoded. The
            packets are joined as they are. 1: one encoder for all, on the thread that writes. With
            more, an error is raised by a later `write` or by `close`.
        segment: frames of a segment, 2 or more: the last one is encoded after the decode has ended,
            and each costs a frame that refers to no other. Up to ``encoders + 1`` segments wait.
    """

    ending = ".mp4"
    media = ("video", "av")

    def __init__(
        self, path: str | os.PathLike[str], crf: int = 18, preset: str = "veryfast",
        sound: str = "aac", encoders: int = 1, segment: int = 16,
    ) -> None:  # fmt: skip
        super().__init__(path)
        if sound not in _SOUND:
            raise ValueError(f"sound is {sound!r}; use {' or '.join(_SOUND)}")
        self.sound = sound
        if crf not in range(52):
            raise ValueError(f"crf is {crf}; use 0 (lossless) to 51")
        self.crf = crf
        self.preset = preset
        self.encoders = check_workers("encoders", encoders, 1)
        if isinstance(segment, bool) or not isinstance(segment, int) or segment < 2:
            raise ValueError(f"segment is {segment}; use 2 frames or more")
        self.segment = segment
        self._side: Encoders | None = None
        self._coming: SimpleQueue[Any] = SimpleQueue()
        self._joined = self._ahead = 0
        self._interrupted = False

    def open(self, info: MediaInfo) -> None:
        if info.medium in self.media and (info.height % 2 or info.width % 2):
            raise ValueError(
                f"H.264 in 4:2:0 needs even sides, the video is {info.height}x{info.width}; use "
                f"RawSink or PngSink"
            )
        codec, rates = _SOUND[self.sound]
        if info.medium == "av" and info.sample_rate not in rates:
            raise ValueError(
                f"{self.sound} takes {', '.join(map(str, rates))} Hz, the sound has "
                f"{info.sample_rate}; use sound={'opus' if self.sound == 'aac' else 'aac'!r} or "
                "RawSink"
            )
        layout = layout_of(self.sound, info.channels or 1)
        super().open(info)
        self._start("mp4", "libx264", info.fps, movflags="+faststart")
        if info.medium == "av":
            self._add_sound(codec, info.sample_rate, layout)
        self._tell(self._stream.codec_context)
        if self.encoders > 1:
            self._side = Encoders(self.encoders, self.encoders + 1, self._join)

    def _tell(self, context: Any) -> None:
        """Settings of an encoder, the same for all, so that their packets fit together."""
        assert self._info is not None
        context.height, context.width = self._info.height, self._info.width
        context.pix_fmt = "yuv420p"
        context.options = {"crf": str(self.crf), "preset": self.preset}
        context.color_range = 1  # limited; the next three are H.264's code for BT.709
        context.colorspace = context.color_primaries = context.color_trc = 1

    def write(self, frames: np.ndarray) -> None:
        import av

        assert self._info is not None
        first, self._written = self._written, self._written + len(frames)
        if self._info.medium == "av":
            frames, samples = self._info.split(frames, first)
            if len(samples):
                self._hear(samples)
        rgb = (av.VideoFrame.from_ndarray(pixels, format="rgb24") for pixels in frames)
        if self._side is None:
            self._encode(map(_yuv, rgb))
            return
        signals = HeldSignals()  # or a lock of the threads could stay held
        try:
            for index, frame in enumerate(rgb, first):
                if self._interrupted:
                    self._written = index
                    return
                if index % self.segment == 0:
                    self._coming.put(None)
                    self._coming = SimpleQueue()
                    self._side.hand(self._encode_segment, index, self._coming)
                self._coming.put(frame)
        finally:
            signals.release()

    def _encode_segment(self, first: int, coming: SimpleQueue[Any]) -> list[Any]:
        """On a thread: packets of the frames from ``first`` on, until None comes."""
        import av

        assert self._info is not None
        context: Any = av.CodecContext.create("libx264", "w")
        self._tell(context)
        context.framerate, context.time_base = self._info.fps, 1 / self._info.fps
        context.flags |= av.codec.context.Flags.global_header
        context.thread_count = max(1, len(os.sched_getaffinity(0)) // self.encoders)
        packets = []
        while (frame := coming.get()) is not None and not self._interrupted:
            frame = _yuv(frame)
            frame.pts, frame.time_base = first, context.time_base
            packets += context.encode(frame)
            first += 1
        return packets + context.encode(None)

    def _join(self, packets: list[Any]) -> None:
        for packet in packets:
            if not self._joined:
                self._ahead = packet.dts - packet.pts
            # As one encoder would count: x264 counts otherwise in a last segment of two frames.
            packet.dts = self._joined + self._ahead
            packet.stream = self._stream
            self._container.mux(packet)
            self._joined += 1

    def interrupt(self) -> None:
        """End a write in progress; called when the decode has failed."""
        self._interrupted = True
        self._coming.put(None)

    def close(self) -> None:
        if self._side is not None:
            self._coming.put(None)
            self._side.finish()
        self._check_all(self._written)
        super().close()

    def abort(self) -> None:
        if self._side is not None:
            self.interrupt()
            self._side.cancel()
        super().abort()


def _yuv(frame: Any) -> Any:
    # Left to itself the encoder would convert with BT.601, whatever the stream says.
    return frame.reformat(
        format="yuv420p", interpolation="AREA", src_colorspace="ITU709", dst_colorspace="ITU709",
        dst_color_range="MPEG",
    )  # fmt: skip


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
