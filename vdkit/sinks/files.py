"""Files that are whole or not there: written under another name, put in place when complete."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.decode import check_medium
from vdkit.decode.media import MEDIA, MediaInfo, check_pixel_format
from vdkit.decode.terminal import HeldSignals

if TYPE_CHECKING:
    import numpy as np


_LAYOUT_WORDS = {
    "video": "THWC, RGB", "images": "NHWC, RGB", "audio": "SC",
    "av": "a row for each frame: HWC, RGB, then int16 samples SC, in room for the most of a frame",
}  # fmt: skip
_LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")


class Parts(dict[str, float]):
    """Seconds that the thread which calls a sink's ``write`` and ``close`` spent in each part.

    ``encode``: an encoder at work on that thread; ``mux``: writing packets; ``full``: waiting for
    encoders on other threads. Beside it ``encoders``: those were at work, in sum.
    """

    def __init__(self) -> None:
        super().__init__(encode=0.0, mux=0.0, full=0.0, encoders=0.0)

    @contextlib.contextmanager
    def spent(self, part: str) -> Iterator[None]:
        """Add what the block takes."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self[part] += time.perf_counter() - begun


class _File(io.FileIO):
    """A new file that takes every byte it is given: FFmpeg does not look at short writes."""

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        while left:
            left = left[os.write(self.fileno(), left) :]
        return len(data)


class Output:
    """Written under a temporary name, put in place when complete; symbolic links are followed."""

    ending = ""
    """What the name has to end in."""
    media: tuple[str, ...] = tuple(MEDIA)
    """What it takes, see `vdkit.decode.Sink`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.ending and self.path.suffix != self.ending:
            kind = type(self).__name__
            raise ValueError(f"{kind} writes {self.ending} files, not {self.path.name!r}")
        self._place = Path(os.path.realpath(self.path))
        self._places, self._scratch = [self._place], self._place.parent
        self._partial = self._beside()
        self._file: _File | None = None
        self._info: MediaInfo | None = None

    def begin_in(self, scratch: Path) -> None:
        """Have it lie in another folder of the same file system until it is complete."""
        self._scratch = scratch
        self._partial = self._beside()

    def _beside(self) -> Path:
        """A new temporary name: in the same folder, so on the same file system; short."""
        return self._scratch / f".{uuid.uuid4().hex[:8]}.partial{self._place.suffix}"

    def open(self, info: MediaInfo) -> None:
        """Before anything is decoded: one use, and a place where the output can appear."""
        check_medium(self, info.kind, "what is to be written")
        if self._info is not None:
            raise ValueError(
                f"the sink for {self.path} has been used; make a new one for each decode"
            )
        if not self._place.parent.is_dir():
            raise FileNotFoundError(
                f"cannot write {self.path}: the folder {self.path.parent} does not exist; create "
                "it first"
            )
        for place in self._places:
            self._check(place)
        self._info = info
        try:
            self._create(info.frames * info.frame_bytes)
        except OSError as error:  # which is about a temporary name
            raise type(error)(f"cannot write {self.path}: {error.strerror}") from error

    def _check(self, place: Path) -> None:
        if place.is_dir():
            raise IsADirectoryError(f"cannot write {place}: it is a folder; give a file name")
        if place.exists() and not place.is_file():
            raise FileExistsError(f"cannot write {place}: it is no ordinary file")

    def _create(self, size: int) -> None:
        self._file = _File(self._partial, "x")

    def _check_all(self, written: int) -> None:
        assert self._info is not None
        if written != self._info.frames:
            unit, announced = self._info.kind.unit, self._info.frames
            raise ValueError(f"{self.path}: {written} {unit}s written, {announced} announced")

    def close(self) -> None:
        self._partial.replace(self._place)

    def abort(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # it is to go anyhow
                self._file.close()
        self._partial.unlink(missing_ok=True)


MOST_WORKERS = 64


class Encoders:
    """Threads that encode beside the one that hands over; results are taken in order.

    Args:
        workers: threads.
        most: what may be under way or to come, in the sizes that are handed; more waits for the
            oldest.
        take: gets the result of each, on the thread that hands over, from a later call.
        parts: of the sink; gets ``full`` and ``encoders``.
    """

    def __init__(
        self, workers: int, most: int, take: Callable[[Any], object], parts: Parts
    ) -> None:
        self._pool = ThreadPoolExecutor(workers, "vdkit-encoder")
        self._pending: deque[tuple[Future[Any], int]] = deque()
        self._most, self._take, self._parts = most, take, parts
        self._under_way = 0

    def hand(self, work: Callable[..., Any], *given: Any, size: int = 1) -> None:
        """Have it done; raises what an earlier one raised."""
        while self._pending and (self._under_way + size > self._most or self._pending[0][0].done()):
            self._take_oldest()
        self._pending.append((self._pool.submit(_timed, work, *given), size))
        self._under_way += size

    def _take_oldest(self) -> None:
        future, size = self._pending.popleft()
        self._under_way -= size
        with self._parts.spent("full"):
            made, seconds = future.result()
        self._parts["encoders"] += seconds
        self._take(made)

    def finish(self) -> None:
        """Wait for all, and end the threads."""
        while self._pending:
            self._take_oldest()
        self.cancel()

    def cancel(self) -> None:
        """End the threads after what they have in hand."""
        self._pool.shutdown(cancel_futures=True)


def _timed(work: Callable[..., Any], *given: Any) -> tuple[Any, float]:
    begun = time.perf_counter()
    return work(*given), time.perf_counter() - begun


def check_whole(name: str, value: Any, allowed: range, use: str) -> int:
    """The value itself; ValueError if it is no whole number of those, ``use`` in words."""
    if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
        raise ValueError(f"{name} is {value}; use {use}")
    return value


class RawSink(Output):
    """Frames or images, uint8 RGB [F, H, W, 3], or samples, int16 [S, channels], in C order.

    One file, with a JSON ``sidecar`` that says which.

    The whole file is reserved at `open`, so a full disk is known before the first frame is decoded.

    Args:
        path: the file to write, e.g. ``clip.rgb``; shape, dtype, layout and fps, of audio the
            sample rate, go to ``clip.rgb.json``.
        durable: fsync both files and their folder before `close` returns.
        pixel_format: of video, see `vdkit.decode.media.PIXEL_FORMATS`.
    """

    def __init__(
        self, path: str | os.PathLike[str], durable: bool = False, pixel_format: str = "rgb24"
    ) -> None:
        super().__init__(path)
        self.durable, self.pixel_format = durable, check_pixel_format(pixel_format)
        self.sidecar = self._place.with_name(self._place.name + ".json")
        self._places.append(self.sidecar)

    @property
    def _partial_sidecar(self) -> Path:
        return self._partial.with_name(f"{self._partial.name}.json")

    def _create(self, size: int) -> None:
        super()._create(size)
        assert self._file is not None
        os.posix_fallocate(self._file.fileno(), 0, size)

    def write(self, frames: np.ndarray) -> None:
        assert self._file is not None
        self._file.write(frames.reshape(-1).data)

    def close(self) -> None:
        assert self._file is not None and self._info is not None
        info, written = self._info, self._file.tell()
        if written != info.frames * info.frame_bytes:
            raise ValueError(
                f"{self.path}: {written} bytes written, {info.frames * info.frame_bytes} announced"
            )
        self._sync(self._file.fileno())
        self._file.close()
        sidecar: dict[str, Any] = {
            "shape": info.shape(info.frames),
            "dtype": info.kind.dtype,
            "layout": _LAYOUT_WORDS[info.medium],
        }
        if info.pixel_format != "rgb24":
            words = (
                sidecar["layout"].replace("THWC", "T, HWC").replace("HWC, RGB", info.pixel_format)
            )
            sidecar["layout"] = f"{words}, BT.709, limited range, chroma left"
            sidecar |= {"height": info.height, "width": info.width}
        if info.medium in ("video", "av"):
            exact = f"{info.fps.numerator}/{info.fps.denominator}"
            sidecar |= {"fps": float(info.fps), "fps_exact": exact}
        elif info.medium == "audio":
            sidecar["sample_rate"] = int(info.fps)
        if info.medium == "av":
            names = ("height", "width", "sample_rate", "channels", "samples")
            sidecar |= {name: getattr(info, name) for name in names}
        before = self.sidecar.read_bytes() if self.sidecar.exists() else None
        self._write_sidecar((json.dumps(sidecar, indent=1) + "\n").encode())
        try:
            super().close()
        except BaseException:  # the two belong together
            if before is None:
                self.sidecar.unlink()
            else:
                self._write_sidecar(before)
            raise
        folder = os.open(self._place.parent, os.O_RDONLY)
        try:
            self._sync(folder)
        finally:
            os.close(folder)

    def _write_sidecar(self, text: bytes) -> None:
        with _File(self._partial_sidecar, "x") as file:
            file.write(text)
            self._sync(file.fileno())
        self._partial_sidecar.replace(self.sidecar)

    def _sync(self, descriptor: int) -> None:
        if self.durable:
            os.fsync(descriptor)

    def abort(self) -> None:
        super().abort()
        self._partial_sidecar.unlink(missing_ok=True)


class JoinedRawSink(RawSink):
    """A `RawSink` of video that several processes write, each its rows of every picture.

    Each takes a `part` of a copy of this; when all parts are closed, `open` and `close` put the
    file in its place. `abort` takes it away, whatever the parts have written.
    """

    media = ("video",)

    def __init__(self, path: str | os.PathLike[str], durable: bool = False) -> None:
        super().__init__(path, durable)

    def part(self, start: int, stop: int, of: int) -> RowsSink:
        """The sink of rows ``start`` to ``stop`` of ``of``, in any unit of height."""
        return RowsSink(self.path, self._partial, (start, stop, of))

    def _create(self, size: int) -> None:
        self._file = _File(self._partial, "r+")
        self._file.seek(0, os.SEEK_END)  # the parts have seen to it that nothing is missing


class RowsSink(Output):
    """Some rows of every picture, written to where they are in a file of whole pictures.

    The first of several makes the file, and reserves all of it; none puts it in its place.
    """

    media = ("video",)

    def __init__(self, path: Path, partial: Path, rows: tuple[int, int, int]) -> None:
        super().__init__(path)
        self._partial, self._rows = partial, rows
        self._written = 0

    def _create(self, size: int) -> None:
        assert self._info is not None
        start, stop, of = self._rows
        unit_bytes = self._info.frame_bytes // (stop - start)
        self._start, self._whole = start * unit_bytes, of * unit_bytes
        self._file = _File(os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        os.posix_fallocate(self._file.fileno(), 0, self._info.frames * self._whole)

    def write(self, frames: np.ndarray) -> None:
        assert self._file is not None
        for frame in frames:
            self._file.seek(self._written * self._whole + self._start)
            self._file.write(frame.reshape(-1).data)
            self._written += 1

    def close(self) -> None:
        assert self._file is not None
        self._check_all(self._written)
        self._file.close()


def layout_of(codec: str, channels: int) -> str:
    """FFmpeg's name of what so many channels usually are; ValueError for more than 8."""
    if channels > len(_LAYOUTS):
        raise ValueError(f"{codec} has 1 to {len(_LAYOUTS)} channels, not {channels}; use RawSink")
    return _LAYOUTS[channels - 1]


class Encoded(Output):
    """A file that PyAV encodes as what is to go into it comes."""

    _container: Any = None
    _stream: Any = None
    _sound: Any = None
    _written = _heard = 0

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.parts = Parts()

    def _start(self, form: str, codec: str, rate: Any, **options: str) -> None:
        """Begin the container; one whose header cannot be written never closes the file."""
        import av

        self._container = av.open(self._file, "w", format=form, options=options)
        if codec:
            self._stream = self._container.add_stream(codec, rate=rate)

    def _add_sound(self, codec: str, rate: int, layout: str) -> None:
        """A stream for `_hear`."""
        self._sound = self._container.add_stream(codec, rate=rate, layout=layout)
        self._rate = rate

    def _encode(self, frames: Iterable[Any], stream: Any = None) -> None:
        """Encode frames that may be made only when they are asked for; None: no more will come."""
        stream = stream or self._stream
        signals = HeldSignals()  # PyAV loses what is raised while it writes to our file
        coming = iter(frames)
        try:
            while True:
                with self.parts.spent("encode"):
                    try:
                        packets = stream.encode(next(coming))
                    except StopIteration:
                        break
                self._mux(packets)
        finally:
            signals.release()

    def _mux(self, packets: list[Any]) -> None:
        with self.parts.spent("mux"):
            self._container.mux(packets)

    def _hear(self, samples: np.ndarray) -> None:
        """Encode int16 [S, channels], which follow those before."""
        import av

        layout = self._sound.codec_context.layout.name
        # PyAV has interleaved samples in one row.
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.pts = self._rate, self._heard
        self._heard += len(samples)
        self._encode([frame], self._sound)

    def close(self) -> None:
        assert self._file is not None
        for stream in filter(None, (self._stream, self._sound)):
            self._encode([None], stream)
        with self.parts.spent("mux"):
            self._container.close()
            self._file.close()
        super().close()

    def abort(self) -> None:
        if self._container is not None:
            with contextlib.suppress(Exception):  # an unfinished container may refuse its trailer
                self._container.close()
            self._container = self._stream = self._sound = None
        super().abort()
