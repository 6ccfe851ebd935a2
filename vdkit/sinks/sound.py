"""Audio files: 16-bit samples as they are, or packed without loss; written as they come."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from vdkit.decode.media import MediaInfo
from vdkit.sinks.files import Encoded, Output, check_whole, layout_of

if TYPE_CHECKING:
    import numpy as np

_HEADER = "<4sI4s4sIHHIIHH4sI"


class WavSink(Output):
    """16-bit PCM in a WAV file of up to 4 GiB, which is reserved at `open`.

    Args:
        path: the file to write, ending in ``.wav``.
    """

    ending = ".wav"
    media = ("audio",)

    def _create(self, size: int) -> None:
        assert self._info is not None
        rate, channels = int(self._info.fps), self._info.width
        beside = struct.calcsize(_HEADER) - 8  # what the first length counts of the header
        if size + beside >= 2**32:
            raise ValueError(
                f"{self.path}: {size} bytes of samples are more than the 4 GiB of a WAV file; use "
                "FlacSink or RawSink"
            )
        super()._create(size)
        assert self._file is not None
        self._file.write(
            struct.pack(
                _HEADER, b"RIFF", beside + size, b"WAVE", b"fmt ", 16, 1, channels, rate,
                rate * channels * 2, channels * 2, 16, b"data", size,
            )
        )  # fmt: skip
        os.posix_fallocate(self._file.fileno(), 0, struct.calcsize(_HEADER) + size)

    def write(self, samples: np.ndarray) -> None:
        assert self._file is not None
        self._file.write(samples.astype("<i2", copy=False).reshape(-1).data)

    def close(self) -> None:
        assert self._file is not None and self._info is not None
        written = self._file.tell() - struct.calcsize(_HEADER)
        self._check_all(written // self._info.frame_bytes)
        self._file.close()
        super().close()


class FlacSink(Encoded):
    """FLAC, which loses nothing of 16-bit samples, through PyAV; 1 to 8 channels.

    Args:
        path: the file to write, ending in ``.flac``.
        compression: FFmpeg's level, 0 (fast) to 12 (small).
    """

    ending = ".flac"
    media = ("audio",)

    def __init__(self, path: str | os.PathLike[str], compression: int = 5) -> None:
        super().__init__(path)
        use = "0 (fast) to 12 (small)"
        self.compression = check_whole("compression", compression, range(13), use)

    def open(self, info: MediaInfo) -> None:
        layout = layout_of("FLAC", info.width if info.medium == "audio" else 1)
        super().open(info)
        self._start("flac", "", 0)
        self._add_sound("flac", int(info.fps), layout)
        self._sound.codec_context.format = "s16"
        self._sound.options = {"compression_level": str(self.compression)}

    def write(self, samples: np.ndarray) -> None:
        self._hear(samples)

    def close(self) -> None:
        self._check_all(self._heard)
        super().close()
