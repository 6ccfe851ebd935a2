"""A sink by name, as the command line and a record have it: one fresh sink per run."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.decode.signals import HeldSignals
from vdkit.sinks.files import (
    ExportToVideoSink,
    Mp4Sink,
    NullSink,
    PngSink,
    RawSink,
    ThrottledSink,
    export_encoder,
)

if TYPE_CHECKING:
    from vdkit.decode.protocols import Sink

KINDS = ("null", "raw", "png", "mp4", "export_to_video")


def storage_kind(folder: Path) -> str | None:
    """File system of ``folder`` (``tmpfs``, ``ext4``, ...); None where /proc does not say."""
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return None
    target = folder.resolve()
    best, kind = -1, None
    for line in mounts:
        _, point, filesystem, *_ = line.split()
        mount = Path(point.replace("\\040", " "))
        if target.is_relative_to(mount) and len(mount.parts) > best:
            best, kind = len(mount.parts), filesystem
    return kind


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """Which sink a benchmark uses: one fresh sink per run, removed afterwards.

    Attributes:
        kind: one of `KINDS`; ``export_to_video`` is for `decode_diffusers` alone.
        folder: where it writes; must exist. None: the system's temporary folder, and for ``null``
            nowhere.
        durable: fsync before a run ends (``raw`` only).
        throttle_mb_per_s: storage speed to hold it to, MB/s; None: as fast as it goes.
    """

    kind: str
    folder: Path | None = None
    durable: bool = False
    throttle_mb_per_s: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"sink {self.kind!r} is unknown; use {', '.join(KINDS[:-1])} or {KINDS[-1]}"
            )
        if self.durable and self.kind != "raw":
            raise ValueError(f"sink {self.kind!r} cannot be durable; only raw can")
        if self.throttle_mb_per_s is not None and not self.throttle_mb_per_s > 0:
            raise ValueError(
                f"storage speed is {self.throttle_mb_per_s:g} MB/s; give a speed above 0"
            )
        if self.kind == "export_to_video":
            if self.throttle_mb_per_s is not None:
                raise ValueError("sink export_to_video cannot be throttled; use mp4")
            export_encoder()
        if self.kind == "null":
            if self.folder is not None:
                raise ValueError(f"sink null writes nothing, so it takes no folder {self.folder}")
            return
        if self.folder is None:
            object.__setattr__(self, "folder", Path(tempfile.gettempdir()))
        assert self.folder is not None
        if not self.folder.exists():
            raise FileNotFoundError(f"sink folder {str(self.folder)!r} does not exist; create it")
        if not self.folder.is_dir():
            raise NotADirectoryError(f"sink folder {str(self.folder)!r} is a file; give a folder")
        try:
            Path(tempfile.mkdtemp(prefix=".vdkit-", dir=self.folder)).rmdir()
        except OSError as error:
            raise OSError(
                f"sink folder {str(self.folder)!r} cannot be written to ({error.strerror}); "
                "give another"
            ) from error

    @contextlib.contextmanager
    def fresh(self, label: str) -> Iterator[Sink]:
        """A new sink whose output is deleted on leaving; ``label`` names its file."""
        signals = HeldSignals()  # or a folder could stay that was just made, or half removed
        try:
            with contextlib.ExitStack() as stack:
                sink: Sink = NullSink()
                if self.kind != "null":
                    scratch = stack.enter_context(
                        tempfile.TemporaryDirectory(prefix=".vdkit-", dir=self.folder)
                    )
                    path = Path(scratch) / label
                    if self.kind == "raw":
                        sink = RawSink(path.with_suffix(".rgb"), durable=self.durable)
                    elif self.kind == "png":
                        sink = PngSink(path)
                    else:
                        make = Mp4Sink if self.kind == "mp4" else ExportToVideoSink
                        sink = make(path.with_suffix(".mp4"))
                if self.throttle_mb_per_s is not None:
                    sink = ThrottledSink(sink, self.throttle_mb_per_s)
                with signals:
                    yield sink
        finally:
            signals.release()

    def describe(self) -> dict[str, Any]:
        """For the record: kind, file system, durable, throttle, encoder of export_to_video."""
        return {
            "kind": self.kind,
            "storage": storage_kind(self.folder) if self.folder else None,
            "durable": self.durable,
            "throttle_mb_per_s": self.throttle_mb_per_s,
            "encoder": export_encoder() if self.kind == "export_to_video" else None,
        }


def held(
    factory: Callable[[str], contextlib.AbstractContextManager[Sink]], mb_per_s: float | None
) -> Callable[[str], contextlib.AbstractContextManager[Sink]]:
    """A factory of the same sinks, each held to a storage speed in MB/s; None: as they are."""
    if mb_per_s is None:
        return factory

    @contextlib.contextmanager
    def slow(label: str) -> Iterator[Sink]:
        with factory(label) as sink:
            yield ThrottledSink(sink, mb_per_s)

    return slow
