"""What the tests share: a third-party decoder, a sink that misbehaves, ways to look around."""

import contextlib
import hashlib
import math
import os
import resource
import signal
import threading
import time
from pathlib import Path

import torch

from vdkit.decode.media import MediaInfo


class NearestDecoder:
    """A decoder that inherits nothing: nearest-neighbor enlargement of the first three channels."""

    name = "nearest"
    latent_channels = 4
    spatial_factor = 8
    temporal_factor = 4

    def __init__(self, device="cpu", dtype=torch.float32, fail_at=None, error=None, delay_s=0.0):
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.dtype = dtype
        self.fail_at = fail_at
        self.error = error or RuntimeError("the decoder failed")
        self.delay_s = delay_s

    def begin(self, latents):
        return latents

    def decode_chunk(self, state, start, stop):
        if start == self.fail_at:
            raise self.error
        time.sleep(self.delay_s)
        frames = state[:, :3, start:stop].tanh()
        if start > 0:
            frames = frames.repeat_interleave(self.temporal_factor, 2)
        for axis in (3, 4):
            frames = frames.repeat_interleave(self.spatial_factor, axis)
        return frames


class NearestImages(NearestDecoder):
    """Images [N, 4, h, w], enlarged by other factors of height and width, in [0, 1]."""

    name = "nearest-images"
    medium = "images"
    spatial_factor = (4, 8)
    value_range = (0.0, 1.0)

    def decode_chunk(self, state, start, stop):
        if start == self.fail_at:
            raise self.error
        time.sleep(self.delay_s)
        images = state[start:stop, :3].sigmoid()
        return images.repeat_interleave(4, 2).repeat_interleave(8, 3)

    def decode_video(self, latents, before_frame):
        for index in range(len(latents)):
            before_frame(index)
        return self.decode_chunk(latents, 0, len(latents))

    def to_numpy(self, images):
        return images.permute(0, 2, 3, 1).clamp(0, 1).cpu().numpy()


class NearestAudio(NearestDecoder):
    """Audio [1, 4, T] in stereo, at 24 kHz, 6 samples a latent frame; values beyond [-1, 1] too."""

    name = "nearest-audio"
    medium = "audio"
    temporal_factor = 6
    sample_rate = 24000
    channels = 2

    def decode_chunk(self, state, start, stop):
        if start == self.fail_at:
            raise self.error
        time.sleep(self.delay_s)
        return state[:, :2, start:stop].repeat_interleave(self.temporal_factor, 2)

    def decode_video(self, latents, before_frame):
        for index in range(latents.shape[2]):
            before_frame(index)
        return self.decode_chunk(latents, 0, latents.shape[2])

    def to_numpy(self, samples):
        return samples[0].T.cpu().numpy()


class Collect:
    """Keeps everything; may be slow, and may fail at open, at the k-th write or at close."""

    def __init__(self, fail=None, at=0, error=None, write_s=0.0, on_write=None):
        self.fail = fail
        self.at = at
        self.error = error or OSError("the sink failed")
        self.write_s = write_s
        self.on_write = on_write
        self.chunks = []
        self.calls = []
        self.threads = set()
        self.failed_at = None

    def _note(self, call):
        self.calls.append(call)
        self.threads.add(threading.current_thread().name)

    def _maybe_fail(self, call):
        if self.fail == call:
            self.failed_at = time.perf_counter()
            raise self.error

    def open(self, info: MediaInfo):
        self._note("open")
        self.info = info
        self._maybe_fail("open")

    def write(self, frames):
        self._note("write")
        if len(self.chunks) == self.at:
            self._maybe_fail("write")
        time.sleep(self.write_s)
        self.chunks.append(frames.copy())
        if self.on_write is not None:
            self.on_write(len(self.chunks))

    def close(self):
        self._note("close")
        self._maybe_fail("close")
        self.closed_s = time.perf_counter()

    def abort(self):
        self._note("abort")

    @property
    def sha256(self):
        digest = hashlib.sha256()
        for chunk in self.chunks:
            digest.update(chunk.tobytes())
        return digest.hexdigest()

    @property
    def frames(self):
        return sum(len(chunk) for chunk in self.chunks)


def latents_for(decoder, frames=5, height=3, width=5, seed=0):
    """Random latents for a decoder: [1, C, T, h, w], or as its medium has them."""
    channels, medium = decoder.latent_channels, getattr(decoder, "medium", "video")
    shape = {
        "video": (1, channels, frames, height, width),
        "images": (frames, channels, height, width),
        "audio": (1, channels, frames),
    }[medium]
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def summed_up(data):
    """An early benchmark, as JSON has it, whose summaries are made anew from its runs."""
    for name, mode in data["modes"].items():
        timed = [run for run in data["runs"] if run["mode"] == name and not run["warmup"]]
        times = [run["latency_s"] for run in timed]
        mode["latency_s"] |= {"n": len(times), "mean": math.fsum(times) / len(times),
                              "min": min(times), "max": max(times)}  # fmt: skip
        mode["throttled_runs"] = sum(run["throttled"] for run in timed)
    return data


def writer_threads():
    """Writer threads that are alive."""
    return [thread for thread in threading.enumerate() if thread.name == "vdkit-writer"]


def leftovers(folder: Path):
    """Files in ``folder`` that no user would want to find there."""
    return [path.name for path in folder.rglob("*") if "partial" in path.name]


def descriptors_in(folder: Path):
    """What this process has open in ``folder``, names that are gone too."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that reads this
            links.append(os.readlink(link))
    return [name for name in links if name.startswith(f"{folder.resolve()}/")]


def wait_for(condition, timeout_s):
    """Poll until ``condition()`` is true; fail after ``timeout_s``."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s"
        time.sleep(0.005)


@contextlib.contextmanager
def file_size_limit(size):
    """No file of this process may grow beyond ``size`` bytes (stands in for a full disk)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


class SaysParts(Collect):
    """Says what it was at: each write encodes, waits and writes packets so long, s; so does close.

    ``spend`` lets the time pass: `time.sleep`, or a scripted clock's.
    """

    def __init__(self, encode=0.0, mux=0.0, full=0.0, other=0.0, spend=time.sleep, encoders=0.0):
        super().__init__()
        self.parts = {"encode": 0.0, "mux": 0.0, "full": 0.0, "encoders": encoders}
        self.each, self.other, self.spend = (
            {"encode": encode, "mux": mux, "full": full},
            other,
            spend,
        )

    def _work(self):
        for name, seconds in self.each.items():
            self.spend(seconds)
            self.parts[name] += seconds
        self.spend(self.other)

    def write(self, frames):
        super().write(frames)
        self._work()

    def close(self):
        self._work()
        super().close()
