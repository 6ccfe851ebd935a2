"""Where frames go: every kind of sink, and one by name, as the command line and records have it.

Each is a `vdkit.decode.Sink`. Files are written under a temporary name beside the final one and
renamed when complete, so a failed run leaves whatever was there before (`vdkit.sinks.files`).
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.decode import wants_float
from vdkit.decode.media import MEDIA, MediaInfo
from vdkit.decode.terminal import HeldSignals, Wake
from vdkit.sinks.files import Output, RawSink
from vdkit.sinks.mp4 import ExportToVideoSink, Mp4Sink
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
        self.pixel_format = getattr(inner, "pixel_format", "rgb24")
        self.mb_per_s = mb_per_s
        self.open, self.close, self.abort = inner.open, inner.close, inner.abort
        self.parts: dict[str, float] = getattr(inner, "parts", {})
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


def sink_takes(kind: str) -> dict[str, Any]:
    """What the sink of a kind takes beside its place, and what each is if it is not given."""
    if kind not in SINKS:
        return {}
    taken = signature(SINKS[kind][0]).parameters.items()
    return {name: of.default for name, of in taken if of.default is not of.empty}


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
        try:
            self._asked()
        except TypeError:
            raise ValueError(
                f"sink {self.kind!r} has no options {', '.join(self.options)}; it has "
                f"{', '.join(sink_takes(self.kind)) or 'none'}"
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

    @classmethod
    def of(cls, text: str, durable: bool = False, mb_per_s: float | None = None) -> SinkSpec:
        """Of ``KIND[,OPTION=VALUE...][:FOLDER]``, such as ``png,compression=6,workers=4:/data``."""
        first, _, folder = text.partition(":")
        kind, *given = first.split(",")
        options: dict[str, Any] = {}
        for one in given:
            name, equals, value = one.partition("=")
            if not (name and equals and value):
                raise ValueError(f"sink option {one!r} is none; write {kind},OPTION=VALUE")
            truth = {"true": True, "false": False}
            options[name] = int(value) if value.isdecimal() else truth.get(value, value)
        return cls(kind, Path(folder) if folder else None, durable, mb_per_s, options)

    @contextlib.contextmanager
    def fresh(self, label: str) -> Iterator[Sink]:
        """A new sink whose output is deleted on leaving; ``label`` names its file."""
        signals = HeldSignals()  # or a folder could stay that was just made, or half removed
        try:
            with contextlib.ExitStack() as stack:
                place = Path(label)
                if self.kind != "null":
                    scratch = tempfile.TemporaryDirectory(prefix=".vdkit-", dir=self.folder)
                    place = Path(stack.enter_context(scratch)) / label
                sink = self.at(place)
                with signals:
                    yield sink
        finally:
            signals.release()

    def at(self, place: Path, scratch: Path | None = None) -> Sink:
        """A new sink whose output stays: ``place`` and the ending of its kind.

        ``scratch``: where it lies until it is complete (`Output.begin_in`); None: beside it.
        """
        sink = self._make(place, {**self.options, **({"durable": True} if self.durable else {})})
        if scratch is not None and isinstance(sink, Output):
            sink.begin_in(scratch)
        if self.throttle_mb_per_s is not None:
            sink = ThrottledSink(sink, self.throttle_mb_per_s)
        return sink

    def _make(self, place: Path, options: Mapping[str, Any]) -> Sink:
        if self.kind == "null" and not options:
            return NullSink()
        make: Any
        make, ending = (NullSink, "") if self.kind == "null" else SINKS[self.kind]
        made: Sink = make(place.with_name(place.name + ending), **options)
        return made

    def _asked(self) -> Any:
        """A sink that only says of itself; raises where export_to_video has no encoder."""
        made = self._make(Path("asked"), self.options)
        getattr(made, "encoder", None)
        return made

    def describe(self) -> dict[str, Any]:
        """For the record: kind, file system, durable, throttle, options, what encodes video."""
        asked = self._asked()
        return {
            "kind": self.kind,
            "storage": storage_kind(self.folder) if self.folder else None,
            "durable": self.durable,
            "throttle_mb_per_s": self.throttle_mb_per_s,
            "encoder": getattr(asked, "encoder", None),
            "options": dict(self.options),
            "pixel_format": getattr(asked, "pixel_format", "rgb24"),
        }
