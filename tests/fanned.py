"""What the workers of a fan-out get in tests; light, since each of their processes imports it."""

import os
import resource
import signal
import sys

import torch

from tests.helpers import NearestDecoder, latents_for, wait_for
from vdkit.scale import Video

WAIT_S = 60


def note(folder, name):
    """Whether nobody has left this note before."""
    try:
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class Troubled(NearestDecoder):
    """Leaves a note of each video that it begins; may die, or meet a full disk, or take its time.

    Args:
        notes: a folder that all processes share.
        deaths: how often a process dies in the middle of a video whose first latent is below 0:
            killed, then of a GPU that it has lost.
        full: the first process that comes cannot write more than so many bytes into a file.
        together: a video waits until so many have begun.
    """

    def __init__(self, notes, deaths=0, full=None, together=0, delay_s=0.0):
        super().__init__(delay_s=delay_s)
        self.folder, self.deaths, self.together = notes, deaths, together
        if full is not None and note(notes, "full"):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))

    def begin(self, latents):
        next(n for n in range(10**6) if note(self.folder, f"begun-{n}"))
        wait_for(lambda: len(list(self.folder.glob("begun-*"))) >= self.together, WAIT_S)
        return latents

    def decode_chunk(self, state, start, stop):
        if start == 1 and state[0, 0, 0, 0, 0] < 0:
            for number in range(self.deaths):
                if note(self.folder, f"died-{number}"):
                    if number:
                        raise torch.AcceleratorError("CUDA error: an illegal memory access")
                    os.kill(os.getpid(), signal.SIGKILL)
        return super().decode_chunk(state, start, stop)


def broken():
    """A decoder that none can load."""
    raise ValueError("it is broken")


def latents_of(decoder, video):
    """``random:FRAMES``, in latent frames."""
    return latents_for(decoder, int(video.latents.partition(":")[2]), seed=video.seed or 0)


def drawn(count, latent_frames=2):
    latents = f"random:{latent_frames}"
    return [Video(latents=latents, out=f"v{n:03}.rgb", seed=n) for n in range(count)]


if __name__ == "__main__":  # a driver to be killed: OUT, NOTES, ADDRESS
    from functools import partial
    from pathlib import Path

    from vdkit import DecodeConfig, SinkSpec
    from vdkit.scale.driver import fan_out
    from vdkit.scale.worker import Orders

    out, notes, address = sys.argv[1:]
    decoder = partial(Troubled, Path(notes), delay_s=0.1)
    orders = Orders(Path(out), decoder, latents_of, SinkSpec("raw"), DecodeConfig(), "own")
    fan_out(drawn(40, 4), orders, workers=2, address=address, gpus=False)
