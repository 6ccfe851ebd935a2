"""Where frames go: every kind of sink, and one by name, as the command line and records have it.

Each is a `vdkit.decode.Sink`. Files are written under a temporary name beside the final one and
renamed when complete, so a failed run leaves whatever was there before (`vdkit.sinks.files`).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.decode import wants_float
from vdkit.decode.media import MEDIA, MediaInfo
from vdkit.decode.terminal import HeldSignals, Wake
from vdkit.sinks.files import Encoded, Output, RawSink, layout_of
from vdkit.sinks.pictures import JpegSink, PngSink, WebpSink
from vdkit.sinks.sound import FlacSink, WavSink

if TYPE_CHECKING:
    import numpy as np

    from vdkit.decode import Sink


class NullSink:
    """Takes frames and drops them."""

    def open(self, info: MediaInfo) -> None: ...
    def write(self, frames: np.ndarray) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class MemorySink:
    """Keeps all that one decode gives: of a video height x width x 3 bytes a frame.

    The memory is reserved at `open`, so what does not fit is known before anything is decoded.
    """

    def __init__(self) -> None:
        self._pixels: np.ndarray | None = None
        self._written = 0

    @property
    def frames(self) -> np.ndarray:
        """uint8 RGB [F, H, W, 3], or int16 [S, channels]; ValueError before the decode is done."""
        if self._pixels is None or self._written != len(self._pixels):
            raise ValueError("this sink has no frames: no decode into it has been completed")
        return self._pixels

    def open(self, info: MediaInfo) -> None:
        import numpy as np

        if self._pixels is not None:
            raise ValueError("this MemorySink has been used; make a new one for each decode")
        self._pixels = np.empty(info.shape(info.frames), info.kind.dtype)

    def write(self, frames: np.ndarray) -> None:
        assert self._pixels is not None
        stop = self._written + len(frames)
        self._pixels[self._written : stop] = frames
        self._written = stop

    def close(self) -> None:
        assert self._pixels is not None
        if self._written != len(self._pixels):
            raise ValueError(f"{self._written} frames written, {len(self._pixels)} announced")

    def abort(self) -> None:
        self._pixels, self._written = None, 0


class ThrottledSink:
    """Holds another sink to a storage speed: no write ends before its bytes could be stored.

    Args:
        inner: the sink that gets the frames.
        mb_per_s: speed in MB/s (10**6 bytes), above 0. Idle time earns no credit.
    """

    def __init__(self, inner: Sink, mb_per_s: float) -> None:
        _check_speed(mb_per_s)
        if wants_float(inner):
            raise TypeError(
                f"{type(inner).__name__} cannot be throttled: it encodes the whole video at once; "
                "use Mp4Sink"
            )
        self.inner = inner
        self.media = getattr(inner, "media", tuple(MEDIA))
        self.mb_per_s = mb_per_s
        self.open, self.close, self.abort = inner.open, inner.close, inner.abort
        self._interrupted = Wake()

    def write(self, frames: np.ndarray) -> None:
        due = time.perf_counter() + frames.nbytes / (self.mb_per_s * 1e6)
        self.inner.write(frames)
        if self._interrupted.wait(due - time.perf_counter()):
            self._interrupted.set()  # for the writes to come

    def interrupt(self) -> None:
        """End the wait of a write in progress; called when the decode has failed."""
        self._interrupted.set()
        getattr(self.inner, "interrupt", lambda: None)()


def _check_speed(mb_per_s: float) -> None:
    if not mb_per_s > 0:
        raise ValueError(f"storage speed is {mb_per_s:g} MB/s; give a speed above 0")


def held(
    factory: Callable[[str], contextlib.AbstractContextManager[Sink]], mb_per_s: float | None
) -> Callable[[str], contextlib.AbstractContextManager[Sink]]:
    """A factory of the same sinks, each held to a storage speed in MB/s; None: as they are."""

    @contextlib.contextmanager
    def slow(label: str) -> Iterator[Sink]:
        with factory(label) as sink:
            yield sink if mb_per_s is None else ThrottledSink(sink, mb_per_s)

    return slow


_SOUND = {
    "aac": (
        "aac",
        (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000),
    ),
    "opus": ("libopus", (8000, 12000, 16000, 24000, 48000)),
}
"""FFmpeg's encoder, and the sample rates that it takes."""
_BT709 = {"src_colorspace": "ITU709", "dst_colorspace": "ITU709", "dst_color_range": "MPEG"}


class Mp4Sink(Encoded):
    """H.264 (4:2:0, BT.709) in MP4 through PyAV, chunk by chunk, at exactly the given frame rate.

    The sound of ``av`` goes beside it, as long as its samples say.

    Args:
        path: the file to write, ending in ``.mp4``.
        crf: x264's constant rate factor, 0 (lossless) to 51.
        preset: x264's preset, ``ultrafast`` to ``veryslow``.
        sound: ``aac``, or ``opus``, of 8, 12, 16, 24 or 48 kHz.
    """

    ending = ".mp4"
    media = ("video", "av")

    def __init__(
        self, path: str | os.PathLike[str], crf: int = 18, preset: str = "veryfast",
        sound: str = "aac",
    ) -> None:  # fmt: skip
        super().__init__(path)
        if sound not in _SOUND:
            raise ValueError(f"sound is {sound!r}; use {' or '.join(_SOUND)}")
        self.sound = sound
        if crf not in range(52):
            raise ValueError(f"crf is {crf}; use 0 (lossless) to 51")
        self.crf = crf
        self.preset = preset

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
        stream = self._stream
        stream.height, stream.width, stream.pix_fmt = info.height, info.width, "yuv420p"
        stream.options = {"crf": str(self.crf), "preset": self.preset}
        context = stream.codec_context
        context.color_range = 1  # limited; the next three are H.264's code for BT.709
        context.colorspace = context.color_primaries = context.color_trc = 1

    def write(self, frames: np.ndarray) -> None:
        import av

        assert self._info is not None
        if self._info.medium == "av":
            rows, first, self._written = frames, self._written, self._written + len(frames)
            frames, samples = self._info.split(rows, first)
            if len(samples):
                self._hear(samples)
        rgb = (av.VideoFrame.from_ndarray(pixels, format="rgb24") for pixels in frames)
        # Left to itself the encoder would convert with BT.601, whatever the stream says.
        told: Any = {"format": "yuv420p", "interpolation": "AREA", **_BT709}
        self._encode(frame.reformat(**told) for frame in rgb)


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


SINKS: dict[str, tuple[Any, str]] = {
    "raw": (RawSink, ".rgb"),
    "png": (PngSink, ""),
    "jpeg": (JpegSink, ""),
    "webp": (WebpSink, ""),
    "wav": (WavSink, ".wav"),
    "flac": (FlacSink, ".flac"),
    "mp4": (Mp4Sink, ".mp4"),
    "export_to_video": (ExportToVideoSink, ".mp4"),
}
"""The sink of each kind, made of a path alone, and what its names end in."""
KINDS = ("null", *SINKS)


def storage_kind(folder: Path) -> str | None:
    """File system of ``folder`` (``tmpfs``, ``ext4``, ...); None where /proc does not say."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return None
    kinds = {Path(point.replace("\\040", " ")): kind for _, point, kind, *_ in mounts}
    target = folder.resolve()
    return next((kinds[place] for place in (target, *target.parents) if place in kinds), None)


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """Which sink a benchmark uses: one fresh sink per run, removed afterwards.

    Attributes:
        kind: one of `KINDS`; ``export_to_video`` is for `decode_diffusers` alone.
        folder: where it writes; must exist. None: the system's temporary folder, and for ``null``
            nowhere.
        durable: fsync before a run ends (``raw`` only).
        throttle_mb_per_s: storage speed to hold it to, MB/s; None: as fast as it goes.
        options: what else its class takes, such as ``{"compression": 6, "workers": 4}`` of ``png``.
    """

    kind: str
    folder: Path | None = None
    durable: bool = False
    throttle_mb_per_s: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"sink {self.kind!r} is unknown; use {', '.join(KINDS[:-1])} or {KINDS[-1]}"
            )
        if self.durable and self.kind != "raw":
            raise ValueError(f"sink {self.kind!r} cannot be durable; only raw can")
        if self.throttle_mb_per_s is not None:
            _check_speed(self.throttle_mb_per_s)
            if self.kind == "export_to_video":
                raise ValueError("sink export_to_video cannot be throttled; use mp4")
        self._encoder()
        if self.options:
            try:
                self._make(Path("checked"), self.options)
            except TypeError:
                raise ValueError(
                    f"sink {self.kind!r} has no options {', '.join(self.options)}; see "
                    f"{'NullSink' if self.kind == 'null' else SINKS[self.kind][0].__name__}"
                ) from None
        if self.kind == "null":
            if self.folder is not None:
                raise ValueError(f"sink null writes nothing, so it takes no folder {self.folder}")
            return
        folder = self.folder or Path(tempfile.gettempdir())
        object.__setattr__(self, "folder", folder)
        if not folder.exists():
            raise FileNotFoundError(f"sink folder {str(folder)!r} does not exist; create it")
        if not folder.is_dir():
            raise NotADirectoryError(f"sink folder {str(folder)!r} is a file; give a folder")
        try:
            Path(tempfile.mkdtemp(prefix=".vdkit-", dir=folder)).rmdir()
        except OSError as error:
            raise OSError(
                f"sink folder {str(folder)!r} cannot be written to ({error.strerror}); give another"
            ) from error

    @contextlib.contextmanager
    def fresh(self, label: str) -> Iterator[Sink]:
        """A new sink whose output is deleted on leaving; ``label`` names its file."""
        signals = HeldSignals()  # or a folder could stay that was just made, or half removed
        try:
            with contextlib.ExitStack() as stack:
                sink: Sink = NullSink()
                if self.kind != "null":
                    scratch = tempfile.TemporaryDirectory(prefix=".vdkit-", dir=self.folder)
                    durable = {"durable": True} if self.durable else {}
                    place = Path(stack.enter_context(scratch)) / label
                    sink = self._make(place, {**self.options, **durable})
                if self.throttle_mb_per_s is not None:
                    sink = ThrottledSink(sink, self.throttle_mb_per_s)
                with signals:
                    yield sink
        finally:
            signals.release()

    def _make(self, place: Path, options: Mapping[str, Any]) -> Sink:
        make: Any
        make, ending = (NullSink, "") if self.kind == "null" else SINKS[self.kind]
        made: Sink = make(place.with_name(place.name + ending), **options)
        return made

    def _encoder(self) -> str | None:
        """That of export_to_video; raises where it has none."""
        return export_encoder() if self.kind == "export_to_video" else None

    def describe(self) -> dict[str, Any]:
        """For the record: kind, file system, durable, throttle, options, encoder of
        export_to_video."""
        return {
            "kind": self.kind,
            "storage": storage_kind(self.folder) if self.folder else None,
            "durable": self.durable,
            "throttle_mb_per_s": self.throttle_mb_per_s,
            "encoder": self._encoder(),
            "options": dict(self.options),
        }
