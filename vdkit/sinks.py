"""Where frames go: nowhere, a raw file, PNG pictures, an H.264 file, or any of these made slow.

Each is a `vdkit.decode.protocols.Sink`. Files are written under a temporary name beside the final
one and renamed when complete, so a failed run leaves whatever was there before.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.decode.chunks import VideoInfo

if TYPE_CHECKING:
    import numpy as np

    from vdkit.decode.protocols import Sink


class NullSink:
    """Takes frames and drops them."""

    def open(self, info: VideoInfo) -> None: ...
    def write(self, frames: np.ndarray) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


def _partial(path: Path) -> Path:
    """A temporary name beside ``path``: the same file system and suffix."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")


def _check_file_place(path: Path) -> None:
    """Before anything is decoded: can a file of this name appear?"""
    _parent_must_exist(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder; give a file name")


def _parent_must_exist(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {path}: the folder {path.parent} does not exist; create it first"
        )


class RawSink:
    """uint8 RGB frames, [F, H, W, 3] in C order, in one file, with a JSON sidecar ``<name>.json``.

    The whole file is reserved at `open`, so a full disk is known before the first frame is decoded.

    Args:
        path: the file to write, e.g. ``clip.rgb``.
        durable: fsync file and folder before `close` returns.
    """

    def __init__(self, path: str | os.PathLike[str], durable: bool = False) -> None:
        self.path = Path(path)
        self.durable = durable
        self._partial = _partial(self.path)
        self._descriptor: int | None = None
        self._info: VideoInfo | None = None
        self._position = 0

    @property
    def sidecar(self) -> Path:
        """Where shape, dtype and fps are written."""
        return self.path.with_name(self.path.name + ".json")

    def open(self, info: VideoInfo) -> None:
        _check_file_place(self.path)
        if self._info is not None:
            raise ValueError(
                f"the sink for {self.path} has been used; make a new one for each decode"
            )
        self._info = info
        self._descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.posix_fallocate(self._descriptor, 0, info.frames * info.frame_bytes)

    def write(self, frames: np.ndarray) -> None:
        assert self._descriptor is not None
        data = frames.reshape(-1).data
        while data:
            written = os.pwrite(self._descriptor, data, self._position)
            self._position += written
            data = data[written:]

    def close(self) -> None:
        assert self._descriptor is not None and self._info is not None
        info = self._info
        if self._position != info.frames * info.frame_bytes:
            raise ValueError(
                f"{self.path}: {self._position} bytes written, "
                f"{info.frames * info.frame_bytes} announced"
            )
        if self.durable:
            os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None
        sidecar = {
            "shape": [info.frames, info.height, info.width, 3],
            "dtype": "uint8",
            "layout": "THWC, RGB",
            "fps": float(info.fps),
            "fps_exact": f"{info.fps.numerator}/{info.fps.denominator}",
        }
        partial_sidecar = _partial(self.sidecar)
        try:
            partial_sidecar.write_text(json.dumps(sidecar, indent=1) + "\n")
            self._partial.replace(self.path)
            partial_sidecar.replace(self.sidecar)
        finally:
            partial_sidecar.unlink(missing_ok=True)
        if self.durable:
            _fsync_folder(self.path.parent)

    def abort(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._partial.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class PngSink:
    """One PNG a frame, ``000000.png`` and so on, in a folder that appears when complete.

    Args:
        folder: the folder to make; an earlier one of that name is replaced at `close`, if it holds
            nothing but numbered PNG files.
        compression: zlib level, 0 to 9.
    """

    def __init__(self, folder: str | os.PathLike[str], compression: int = 1) -> None:
        if compression not in range(10):
            raise ValueError(f"compression is {compression}; use 0 (fast) to 9 (small)")
        self.path = Path(folder)
        self.compression = compression
        self._partial = _partial(self.path)
        self._count = 0

    def open(self, info: VideoInfo) -> None:
        _parent_must_exist(self.path)
        if self.path.exists():
            self._check_replaceable()
        self._partial.mkdir()

    def _check_replaceable(self) -> None:
        """Never delete what this sink did not make."""
        if not self.path.is_dir():
            raise FileExistsError(f"{self.path} is a file; give PngSink a folder name")
        for entry in self.path.iterdir():
            if not (entry.suffix == ".png" and entry.stem.isdigit()):
                raise FileExistsError(
                    f"{self.path} holds {entry.name}, which is no frame; use another folder"
                )

    def write(self, frames: np.ndarray) -> None:
        from PIL import Image

        for frame in frames:
            picture = Image.fromarray(frame)
            picture.save(self._partial / f"{self._count:06d}.png", compress_level=self.compression)
            self._count += 1

    def close(self) -> None:
        earlier = _partial(self.path)
        if self.path.exists():
            self.path.rename(earlier)
        try:
            self._partial.rename(self.path)
        except OSError:
            if earlier.exists():
                earlier.rename(self.path)
            raise
        if earlier.exists():
            shutil.rmtree(earlier)

    def abort(self) -> None:
        if self._partial.exists():
            shutil.rmtree(self._partial)


_BT709 = {"src_colorspace": "ITU709", "dst_colorspace": "ITU709", "dst_color_range": "MPEG"}


class Mp4Sink:
    """H.264 (4:2:0, BT.709) in MP4 through PyAV, chunk by chunk, at exactly the given frame rate.

    Args:
        path: the file to write, ending in ``.mp4``.
        crf: x264's constant rate factor, 0 (lossless) to 51.
        preset: x264's preset, ``ultrafast`` to ``veryslow``.
    """

    def __init__(
        self, path: str | os.PathLike[str], crf: int = 18, preset: str = "veryfast"
    ) -> None:
        self.path = Path(path)
        if self.path.suffix != ".mp4":
            raise ValueError(f"Mp4Sink writes .mp4 files, not {self.path.name!r}")
        if crf not in range(52):
            raise ValueError(f"crf is {crf}; use 0 (lossless) to 51")
        self.crf = crf
        self.preset = preset
        self._partial = _partial(self.path)
        self._container: Any = None
        self._stream: Any = None

    def open(self, info: VideoInfo) -> None:
        _check_file_place(self.path)
        if info.height % 2 or info.width % 2:
            raise ValueError(
                f"H.264 in 4:2:0 needs even sides, the video is {info.height}x{info.width}; use "
                f"RawSink or PngSink"
            )
        import av

        self._container = av.open(str(self._partial), "w", options={"movflags": "+faststart"})
        stream = self._container.add_stream("libx264", rate=info.fps)
        stream.height, stream.width, stream.pix_fmt = info.height, info.width, "yuv420p"
        stream.options = {"crf": str(self.crf), "preset": self.preset}
        context = stream.codec_context
        context.color_range = 1  # limited; the next three are H.264's code for BT.709
        context.colorspace = context.color_primaries = context.color_trc = 1
        self._stream = stream

    def write(self, frames: np.ndarray) -> None:
        import av

        for pixels in frames:
            rgb = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            # Left to itself the encoder would convert with BT.601, whatever the stream says.
            yuv = rgb.reformat(format="yuv420p", interpolation="AREA", **_BT709)
            self._container.mux(self._stream.encode(yuv))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._container = None
        self._partial.replace(self.path)

    def abort(self) -> None:
        if self._container is not None:
            with contextlib.suppress(Exception):  # an unfinished container may refuse its trailer
                self._container.close()
            self._container = None
        self._partial.unlink(missing_ok=True)


class ThrottledSink:
    """Holds another sink to a storage speed: no write ends before its bytes could be stored.

    Args:
        inner: the sink that gets the frames.
        mb_per_s: speed in MB/s (10**6 bytes), above 0. Idle time earns no credit.
    """

    def __init__(self, inner: Sink, mb_per_s: float) -> None:
        if not mb_per_s > 0:
            raise ValueError(f"mb_per_s is {mb_per_s}; give a storage speed above 0 MB/s")
        self.inner = inner
        self.mb_per_s = mb_per_s
        self._interrupted = threading.Event()

    def open(self, info: VideoInfo) -> None:
        self.inner.open(info)

    def write(self, frames: np.ndarray) -> None:
        due = time.perf_counter() + frames.nbytes / (self.mb_per_s * 1e6)
        self.inner.write(frames)
        self._interrupted.wait(max(0.0, due - time.perf_counter()))

    def close(self) -> None:
        self.inner.close()

    def abort(self) -> None:
        self.inner.abort()

    def interrupt(self) -> None:
        """End the wait of a write in progress; called when the decode has failed."""
        self._interrupted.set()
        inner_interrupt = getattr(self.inner, "interrupt", None)
        if inner_interrupt is not None:
            inner_interrupt()
