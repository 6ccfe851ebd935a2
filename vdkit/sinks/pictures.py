"""Numbered pictures in a folder, encoded where they are handed over or by a pool of threads.

Encoding, not storage, is what costs: Pillow lets go of Python's lock meanwhile, so threads help.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.decode.media import MediaInfo
from vdkit.decode.terminal import HeldSignals
from vdkit.sinks.files import MOST_WORKERS, Encoders, Output, Parts, check_whole

if TYPE_CHECKING:
    import numpy as np


class Pictures(Output):
    """One file a picture, ``000000.png`` and so on, in a folder that appears when complete.

    Args:
        folder: the folder to make; an earlier one of that name is replaced at `close`, if it holds
            nothing but numbered files of the kind.
        workers: threads that encode, beside the one that hands frames over; 0: that one does. With
            threads an error is raised by a later `write` or by `close`.
    """

    media = ("video", "images")
    suffix = ""
    largest_side: int | None = None

    def __init__(self, folder: str | os.PathLike[str], workers: int, **options: Any) -> None:
        most = MOST_WORKERS
        self.workers = check_whole("workers", workers, range(most + 1), f"0 (none) to {most}")
        super().__init__(folder)
        self._options = options  # what Pillow is told
        self._count = 0
        self._encoders: Encoders | None = None
        self._interrupted = False
        self.parts = Parts()

    def open(self, info: MediaInfo) -> None:
        most = self.largest_side
        if most is not None and max(info.height, info.width) > most:
            raise ValueError(
                f"{type(self).__name__} takes sides of {most} pixels at the most, these are "
                f"{info.height}x{info.width}; use PngSink"
            )
        super().open(info)

    def _create(self, size: int) -> None:
        self._partial.mkdir()
        if self.workers:
            most = 2 * self.workers
            self._encoders = Encoders(self.workers, most, lambda saved: None, self.parts)

    def _check(self, place: Path) -> None:
        """Never delete what this sink did not make."""
        if not place.exists():
            return
        if not place.is_dir():
            kind = type(self).__name__
            raise FileExistsError(f"{self.path} is a file; give {kind} a folder name")
        for entry in place.iterdir():
            if not (entry.suffix == self.suffix and entry.stem.isdigit()):
                raise FileExistsError(
                    f"{self.path} holds {entry.name}, which is no frame; use another folder"
                )

    def write(self, frames: np.ndarray) -> None:
        if self._encoders is None:
            for frame in frames:
                with self.parts.spent("encode"):
                    self._save(frame, self._count)
                self._count += 1
            return
        signals = HeldSignals()  # or a lock of the pool could stay held
        try:
            for frame in frames:
                if self._interrupted:
                    return
                # The threads outlive the call, and the buffer does not.
                self._encoders.hand(self._save, frame.copy(), self._count)
                self._count += 1
        finally:
            signals.release()

    def interrupt(self) -> None:
        """End a write in progress after the picture in hand; called when the decode has failed."""
        self._interrupted = True

    def _save(self, frame: np.ndarray, index: int) -> None:
        from PIL import Image

        file = self._partial / f"{index:06d}{self.suffix}"
        Image.fromarray(frame).save(file, **self._options)

    def close(self) -> None:
        if self._encoders is not None:
            self._encoders.finish()
        self._check_all(self._count)
        self._check(self._place)
        earlier = self._beside()
        if self._place.exists():
            self._place.rename(earlier)
        try:
            self._partial.rename(self._place)
        except BaseException:
            if earlier.exists():
                earlier.rename(self._place)
            raise
        if earlier.exists():
            shutil.rmtree(earlier)

    def abort(self) -> None:
        if self._encoders is not None:
            self._encoders.cancel()
        if self._partial.exists():
            shutil.rmtree(self._partial)


class PngSink(Pictures):
    """PNG, which loses nothing.

    Args:
        folder, workers: see `Pictures`.
        compression: zlib level, 0 to 9.
    """

    suffix = ".png"

    def __init__(
        self, folder: str | os.PathLike[str], compression: int = 1, workers: int = 0
    ) -> None:
        use = "0 (fast) to 9 (small)"
        self.compression = check_whole("compression", compression, range(10), use)
        super().__init__(folder, workers, compress_level=compression)


class JpegSink(Pictures):
    """JPEG, 4:2:0.

    Args:
        folder, workers: see `Pictures`.
        quality: libjpeg's, 1 to 100.
    """

    suffix = ".jpg"
    largest_side = 65535

    def __init__(self, folder: str | os.PathLike[str], quality: int = 90, workers: int = 0) -> None:
        self.quality = check_whole("quality", quality, range(1, 101), "1 (small) to 100 (good)")
        super().__init__(folder, workers, quality=quality, subsampling="4:2:0")


class WebpSink(Pictures):
    """WebP.

    Args:
        folder, workers: see `Pictures`.
        quality: 0 to 100; where ``lossless``, the effort.
        lossless: keep every pixel as it is.
    """

    suffix = ".webp"
    largest_side = 16383

    def __init__(
        self,
        folder: str | os.PathLike[str],
        quality: int = 80,
        lossless: bool = False,
        workers: int = 0,
    ) -> None:
        self.quality = check_whole("quality", quality, range(101), "0 (small) to 100 (good)")
        self.lossless = lossless
        super().__init__(folder, workers, quality=quality, lossless=lossless)
