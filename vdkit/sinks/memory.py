"""Frames kept in memory, for a picture in a notebook or a comparison in a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vdkit.decode.chunks import VideoInfo


class MemorySink:
    """Keeps every frame of one decode: height x width x 3 bytes each.

    The memory is reserved at `open`, so a video that does not fit is known before the first frame
    is decoded.
    """

    def __init__(self) -> None:
        self._pixels: np.ndarray | None = None
        self._written = 0
        self._complete = False

    @property
    def frames(self) -> np.ndarray:
        """uint8 RGB [F, H, W, 3]; ValueError before the decode is done."""
        if self._pixels is None or not self._complete:
            raise ValueError("this sink has no frames: no decode into it has been completed")
        return self._pixels

    def open(self, info: VideoInfo) -> None:
        if self._pixels is not None:
            raise ValueError("this MemorySink has been used; make a new one for each decode")
        self._pixels = np.empty((info.frames, info.height, info.width, 3), np.uint8)

    def write(self, frames: np.ndarray) -> None:
        assert self._pixels is not None
        stop = self._written + len(frames)
        self._pixels[self._written : stop] = frames
        self._written = stop

    def close(self) -> None:
        assert self._pixels is not None
        if self._written != len(self._pixels):
            raise ValueError(f"{self._written} frames written, {len(self._pixels)} announced")
        self._complete = True

    def abort(self) -> None:
        self._pixels = None
        self._written = 0
