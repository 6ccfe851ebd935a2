"""Train the structures at once, over all GPUs, for the same number of steps and in a given time.

    python -m data.structures.together --run runs/structures --minutes 8 --export data/structures

From the top of the repository. Each structure has a process; a short training of each, all at once
as they will run, says how many steps there is time for (`recipe.STEPS` at the most). What was cut
goes on from its checkpoints, with the same steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from data.structures.recipe import BATCH, IMAGES, STEPS, STRUCTURES

from train import clips_of, read_state  # isort: skip

TRIAL = 60  # steps of the short training
SHARE = 0.9  # of the time that is planned: the rest is for checkpoints, and for trials that err
LOOK_S = 15  # between two lines


def spread(seconds: dict[str, float], gpus: int) -> dict[str, int]:
    """A GPU for each structure, so that they end together: the longest first, where least is."""
    load = [0.0] * gpus
    found = {}
    for name in sorted(seconds, key=lambda name: -seconds[name]):
        found[name] = load.index(min(load))
        load[found[name]] += seconds[name]
    return found


def logged(log: Path) -> str:
    """The last step of a training's log."""
    lines = log.read_text().splitlines() if log.exists() else []  # none while one is begun
    return lines[-1].partition(",")[0] if lines else "0"


def together(run: Path, places: dict[str, int], options: Sequence[str]) -> None:
    """A process for each structure, on the GPU that it has in ``places``, until all have ended.

    Raises:
        RuntimeError: one failed, with the end of what it printed; the others end first.
    """
    run.mkdir(parents=True, exist_ok=True)
    running: dict[str, Any] = {}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = seen.split(",") if seen else list(map(str, range(max(places.values()) + 1)))
    for name, gpu in places.items():
        command = [sys.executable, "-m", "data.structures.train", "--run", run, "--structure", name]
        with (run / f"{name}.log").open("a") as log:
            running[name] = subprocess.Popen(
                [*map(str, command), *options], stdout=log, stderr=log,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": devices[gpu], "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
    begin = looked = time.monotonic()
    try:
        while any(process.poll() is None for process in running.values()):
            time.sleep(0.2)
            if time.monotonic() - looked > LOOK_S:
                looked = time.monotonic()
                steps = (f"{name} {logged(run / f'{name}.csv')}" for name in running)
                print(f"{looked - begin:4.0f} s:", ", ".join(steps), flush=True)
    finally:
        for process in running.values():
            process.terminate()
    for name, process in running.items():
        if process.returncode:
            said = (run / f"{name}.log").read_text().splitlines()[-8:]
            raise RuntimeError(f"{name} failed:\n" + "\n".join(said))


def paces(seconds: Sequence[float]) -> tuple[float, float]:
    """Of the steps of a training: seconds a step, and what the first of each kind of clips took
    more."""
    kinds: dict[tuple[int, int], list[float]] = {}
    for step, took in enumerate(seconds):
        kinds.setdefault(clips_of(step, len(seconds), BATCH, images=IMAGES), []).append(took)
    steady = sum(len(kind) * median(kind) for kind in kinds.values())
    return steady / len(seconds), max(0.0, sum(seconds) - steady)


def begun(exported: Path) -> int:
    """How many steps the structures there were trained for, all of them as many."""
    files = sorted(exported.glob("*/metrics.json"))
    steps = {json.loads(file.read_text())["training"]["steps"] for file in files}
    if len(steps) != 1:
        raise ValueError(
            f"{str(exported)!r} holds structures that were trained for {sorted(steps)} steps; "
            "give --go-on a folder of exported ones, all of as many"
        )
    return steps.pop()


def steps_for(run: Path, names: Iterable[str], minutes: float) -> tuple[int, dict[str, float]]:
    """How many steps each has time for, by the trials in ``run``; and seconds a step of each."""
    left, steps, took = SHARE * 60 * minutes, [STEPS], {}
    for name in names:
        state = read_state(sorted(run.glob(f"{name}.*.weights.pt"))[-1], "cpu")
        took[name], once = paces(state["paces"][state["begun"] :])
        steps.append(state["begun"] + int((left - once) / took[name]))
    if min(steps) <= state["begun"]:
        raise RuntimeError(f"{minutes:g} minutes are too few; give --minutes more")
    return min(steps), took


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpus = torch.cuda.device_count()
    parser.add_argument("--run", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--minutes", type=float, default=6.0, help="of all, after the trials")
    parser.add_argument("--export", type=Path, help="then write the structures' folders in here")
    parser.add_argument("--go-on", type=Path, help="begin with the exported structures in there")
    parser.add_argument("--structure", nargs="+", choices=STRUCTURES, default=list(STRUCTURES))
    parser.add_argument("--gpus", type=int, default=max(1, gpus))
    parser.add_argument("--smoke", action="store_true", help="a few steps on small clips on a CPU")
    arguments = parser.parse_args()
    if not 1 <= arguments.gpus <= max(1, gpus):
        parser.error(f"--gpus {arguments.gpus}: this machine shows {gpus}")
    try:
        first = str(TRIAL + (begun(arguments.go_on) if arguments.go_on else 0))
    except ValueError as error:
        parser.error(str(error))
    given = ["--smoke"] if arguments.smoke else []
    given += ["--go-on", str(arguments.go_on)] if arguments.go_on else []
    plan = arguments.run / "plan.json"
    if not plan.exists():
        places = {name: n % arguments.gpus for n, name in enumerate(arguments.structure)}
        together(arguments.run / "trial", places, ["--steps", first, "--minutes", "3", *given])
        trial = arguments.run / "trial"
        steps, took = steps_for(trial, arguments.structure, arguments.minutes)
        plan.write_text(json.dumps({"steps": steps, "seconds_a_step": took}))
    made = json.loads(plan.read_text())
    places = spread(made["seconds_a_step"], arguments.gpus)
    print(json.dumps(made | {"gpus": places}), flush=True)
    how = ["--steps", str(made["steps"])]
    options = [*how, "--minutes", str(arguments.minutes), *given]
    together(arguments.run, places, options)
    if arguments.export:
        together(arguments.run, places, [*how, "--export", str(arguments.export), *given])


if __name__ == "__main__":
    main()
