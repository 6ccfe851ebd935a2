"""How long the explorer takes from a slider to the picture: the kernel's part, without a browser.

Why: a picture that follows the hand has to be there within about 100 ms. Timed is what a slider's
message sets off: predict both paths, draw, encode the PNG, write figures and sentences, from
recorded costs of an H200. The first redraws warm matplotlib up and are left out.

    python tools/explorer_redraw.py results
"""

from __future__ import annotations

import itertools
import sys
import time

import vdkit
from vdkit.record.stats import summarize

MACHINE, WARMUP, TIMED = "NVIDIA H200, recorded", 10, 120


def main(results: str) -> None:
    """Turn the knobs one after the other, print how long each picture took."""
    explorer = vdkit.explore(results=results, device="cpu", calibrate=False)
    c = explorer.controls
    c.machine.value, c.latent_frames.value = MACHINE, 41
    knobs = {
        c.chunk_size: (2, 3, 4, 1), c.slots: (1, 3, 2), c.latent_frames: (81, 161, 41),
        **dict.fromkeys(c.primitives.values(), (False, True)),
        c.held: (True,), c.speed: (30.0, 300.0),
    }  # fmt: skip
    turns = [(control, value) for control, values in knobs.items() for value in values]
    seconds = []
    for control, value in itertools.cycle([*turns, (c.held, False)]):
        if control.value == value:
            continue
        begun = time.perf_counter()
        control.value = value
        seconds.append(time.perf_counter() - begun)
        if len(seconds) == WARMUP + TIMED:
            break
    explorer.close()
    made, slow = summarize(seconds[WARMUP:]), sum(one > 0.1 for one in seconds[WARMUP:])
    print(f"{made.n} redraws: mean {made.mean:.3f} s, P99 {made.p99:.3f} s, max {made.max:.3f} s, "
          f"{slow} above 0.1 s")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
