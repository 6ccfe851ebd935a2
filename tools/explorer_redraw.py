"""How long the explorer takes from a slider to the picture: the kernel's part, without a browser.

Why: a picture that follows the hand has to be there within about 100 ms. Timed is what a slider's
message sets off: predict both paths, draw, encode the PNG, write figures and sentences. Sliders
and check boxes of a full-size setting are turned one after the other, from recorded costs of an
H200; the first redraws warm matplotlib up and are kept apart.

    python tools/explorer_redraw.py --results results --out results
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch

import vdkit
from vdkit.record import check_out, result_folder, write_atomically
from vdkit.record.runs import collect_provenance
from vdkit.record.stats import summarize

LABEL = "explorer-redraw"
MACHINE = "NVIDIA H200, recorded"


def main() -> None:
    """Turn the knobs, print and record how long each picture took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results"), help="recorded costs")
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="parent of the new folder"
    )
    parser.add_argument("--changes", type=int, default=120, help="timed redraws (default: 120)")
    options = parser.parse_args()
    check_out(options.out, LABEL)
    explorer = vdkit.explore(results=options.results, device="cpu", calibrate=False)
    c = explorer.controls
    c.machine.value = MACHINE
    if c.machine.value != MACHINE or "measured" not in explorer.remarks[0]:
        raise SystemExit(f"no costs of {MACHINE} under {options.results}; give --results")
    c.latent_frames.value = 41
    turns = itertools.cycle(
        [
            *((c.chunk_size, value) for value in (2, 3, 4, 1)),
            *((c.slots, value) for value in (1, 3, 2)),
            *((c.latent_frames, value) for value in (81, 161, 41)),
            *((box, on) for box in c.primitives.values() for on in (False, True)),
            (c.held, True),
            *((c.speed, value) for value in (30.0, 300.0)),
            (c.held, False),
        ]
    )
    seconds: list[float] = []
    knobs: list[str] = []
    while len(seconds) < options.changes + 10:
        control, value = next(turns)
        if control.value == value:
            continue
        begun = time.perf_counter()
        control.value = value
        seconds.append(time.perf_counter() - begun)
        knobs.append(control.description)
    explorer.close()
    timed = seconds[10:]
    summary = summarize(timed)
    provenance = collect_provenance(torch.device("cpu"))
    folder = result_folder(options.out, LABEL, provenance)
    data = {
        "what": "seconds from a control's new value until the picture, figures and words are set",
        "setting": {"machine": MACHINE, "decoder": c.decoder.value, "size": c.size.value},
        "provenance": provenance.model_dump(mode="json"),
        "warmup_s": seconds[:10],
        "knobs": knobs[10:],
        "seconds": timed,
        "mean_s": summary.mean,
        "p99_s": summary.p99,
        "max_s": summary.max,
        "above_100_ms": int(np.sum(np.array(timed) > 0.1)),
    }
    write_atomically(folder / "redraw.json", json.dumps(data, indent=1) + "\n")
    print(
        f"{len(timed)} redraws: mean {1e3 * summary.mean:.0f} ms, P99 {1e3 * summary.p99:.0f} ms, "
        f"max {1e3 * summary.max:.0f} ms, {data['above_100_ms']} above 100 ms. {folder}"
    )


if __name__ == "__main__":
    main()
