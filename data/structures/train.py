"""Train the structures, all alike: same clips, steps and seed, losses of the miniature's VAE.

    python -m data.structures.train --run runs/structures --structure z4-8x8x4 --minutes 6
    python -m data.structures.train --run runs/structures --structure all --export data/structures
    python -m data.structures.evaluate data/structures

From the top of the repository; `data.structures.together` trains all at once. A training goes on
from its last checkpoint, so it may be cut; what a step sees depends on the options and its number
only. On a CPU a training that was cut ends at the same weights, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import FRAMES, HEIGHT, WIDTH, Tracks, draw_tracks, random_scene
from recipe import decode, encode
from torch import nn
from torch.utils.data import DataLoader, Dataset
from train import (
    Log,
    Trainer,
    clips_of,
    losses,
    read_state,
    steps_of,
    video_of,
    weighted,
    write_state,
)

from data.structures.card import write_metrics
from data.structures.decoders import calibrate, complexity
from data.structures.recipe import (
    BATCH,
    CUTS,
    IMAGES,
    RATE,
    STEPS,
    STRUCTURES,
    WINDOW,
    facts,
    level,
    make,
)
from data.structures.structures import HierarchicalVAE
from vdkit.models.wan import known_faults

SAVE_EVERY = 500  # steps
ALLOWED_DB = 0.5  # what a chunk's coarse decode may cost


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips of one step, not yet rendered: frames ``start`` to ``stop`` of each.

    The tracks behind the first ``count`` are what follows the cut, at frame ``cut``, in the first
    clips.
    """

    tracks: Tracks
    count: int
    start: int
    stop: int
    cut: int

    def video(self, device: torch.device) -> torch.Tensor:
        """float32 [count, 3, F, H, W] in [-1, 1], rendered on ``device``."""
        drawn = video_of(self.tracks, device, self.start, self.stop)
        video, after = drawn[: self.count], drawn[self.count :]
        video[: len(after), :, self.cut - self.start :] = after[:, :, self.cut - self.start :]
        return video


class Batches(Dataset[Batch]):
    """The batch of every step, which seed and step alone decide.

    Args:
        size: frames, height and width of a clip.
        images: share of the steps on single frames, which come first.
    """

    def __init__(
        self, seed: int, steps: int, batch: int, size: tuple[int, int, int], images: float = IMAGES
    ) -> None:
        self.seed, self.steps, self.batch, self.size = seed, steps, batch, size
        self.images = images

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, 5, step))
        count, window = clips_of(
            step, self.steps, self.batch, min(WINDOW, self.size[0]), self.size[0], self.images
        )
        cuts = -(-count // CUTS) if window > 1 else 0
        scenes = [random_scene(rng) for _ in range(count + cuts)]
        start = int(rng.integers(0, self.size[0] - window + 1))
        cut = int(rng.integers(start + 1, start + window)) if window > 1 else start
        return Batch(draw_tracks(scenes, rng, *self.size), count, start, start + window, cut)


class PartedTrainer(Trainer):
    """A trainer whose checkpoint is two files of less than 16 MiB, named after the step.

    Attributes:
        paces: seconds of each step, over all its pieces.
        begun: the step at which it began with weights that were exported; 0: with the seed's.
        clips: the step at which clips follow pictures; 0: it has them from the first.
    """

    names = ("weights", "optimizer")

    def __init__(self, modules: dict[str, nn.Module], rate: float, steps: int, file: Path) -> None:
        super().__init__(modules, rate, steps, file)
        self.paces, self.since = list[float](), time.monotonic()
        self.begun, self.clips = 0, 0

    def update(
        self, loss: torch.Tensor | None = None, progress: float = 0.0, since: int = 0
    ) -> None:
        """As `Trainer.update`; it warms up again for what the optimizer has not seen."""
        clips = self.clips if self.step >= self.clips else 0
        super().update(loss, progress, max(since, self.begun, clips))
        now = time.monotonic()
        self.paces.append(now - self.since)
        self.since = now

    def _at(self, step: int) -> list[Path]:
        return [self.file.with_name(f"{self.file.stem}.{step:06}.{one}.pt") for one in self.names]

    def steps_saved(self) -> list[int]:
        """Of which steps a whole checkpoint is there, the last one last."""
        files = self.file.parent.glob(f"{self.file.stem}.*.pt")
        found = {int(file.name.split(".")[-3]) for file in files}
        return sorted(step for step in found if all(file.exists() for file in self._at(step)))

    def save(self) -> None:
        """Write the checkpoint; then the one before goes."""
        state = self.state() | {"paces": self.paces, "begun": self.begun}
        optimizer = {"optimizer": state.pop("optimizer")}
        for part, file in zip((state, optimizer), self._at(self.step), strict=True):
            write_state(part, file)
        for file in self.file.parent.glob(f"{self.file.stem}.*.*"):
            if file not in self._at(self.step):
                file.unlink()

    def load(self) -> None:
        """Go on from the last whole checkpoint, if there is one."""
        if steps := self.steps_saved():
            parts = [read_state(file, "cpu") for file in self._at(steps[-1])]
            self.restore(parts[0] | parts[1])
            self.paces, self.begun = parts[0]["paces"], parts[0]["begun"]
            self.since = time.monotonic()

    def begin(self, folder: Path) -> None:
        """Begin with the exported structure there, its steps and losses behind it."""
        (name, module), training = *self.modules.items(), _metrics(folder)["training"]
        exported = type(module).from_pretrained(folder, torch_dtype=torch.float32)
        for one in (module, self.ema[name]):
            one.load_state_dict(exported.state_dict())
        self.step = self.begun = training["steps"]
        self.paces = [training["seconds"] / self.step] * self.step
        shutil.copy(folder / "losses.csv", self.file.with_suffix(".csv"))


def _metrics(folder: Path) -> dict[str, Any]:
    """What was written beside an exported structure."""
    made: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return made


def trainer_of(name: str, arguments: argparse.Namespace) -> PartedTrainer:
    """A structure's training, where it was left."""
    model = make(name, arguments.seed).to(arguments.device)
    first = Batches(arguments.seed, arguments.steps, arguments.batch, arguments.size)[0]
    level(model, first.video(model.device))
    for parameter in model.parameters():
        if arguments.channels_last and parameter.ndim == 5:
            parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)
    file = arguments.run / f"{name}.pt"
    trainer = PartedTrainer({"vae": model}, arguments.rate, arguments.steps, file)
    trainer.clips = math.ceil(IMAGES * arguments.steps)
    trainer.load()
    if arguments.go_on and not trainer.step:
        trainer.begin(arguments.go_on / name)
    return trainer


Losses = dict[str, torch.Tensor]


class Step:
    """A step's losses, of clips, and their gradients, which are in the modules afterwards.

    Args:
        graphs: whether it becomes a CUDA graph, anew for each size of clips: thousands of small
            kernels are then launched at once. Losses and gradients are the next step's too.
    """

    given: torch.Tensor

    def __init__(
        self,
        losses_of: Callable[[torch.Tensor], Losses],
        optimizer: torch.optim.Optimizer,
        graphs: bool,
    ) -> None:
        self.losses_of, self.optimizer, self.graphs = losses_of, optimizer, graphs
        self.graph: torch.cuda.CUDAGraph | None = None
        self.losses: Losses = {}

    def __call__(self, video: torch.Tensor) -> Losses:
        """Of float32 [B, 3, F, H, W] in [-1, 1]."""
        if not self.graphs:
            return self._launched(video)
        if not self.graph or self.given.shape != video.shape:
            self._capture(video)
        self.given.copy_(video)
        self.graph.replay()
        return self.losses

    def _launched(self, video: torch.Tensor) -> Losses:
        self.optimizer.zero_grad(set_to_none=True)
        kind = video.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            losses = self.losses_of(video)
        weighted(losses).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _capture(self, video: torch.Tensor) -> None:
        self.graph, self.losses, self.given = None, {}, video.clone()  # one's memory at a time
        now, side = torch.cuda.current_stream(), torch.cuda.Stream()
        with torch.random.fork_rng(devices=[video.device]):
            side.wait_stream(now)
            with torch.cuda.stream(side):
                for _ in range(3):  # libraries choose and allocate
                    self._launched(self.given)
            now.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.losses = self._launched(self.given)
        self.graph = graph


def train(
    trainer: PartedTrainer,
    arguments: argparse.Namespace,
    losses_of: Callable[[torch.Tensor], Losses],
    graphs: bool = False,
) -> bool:
    """Train by ``losses_of`` clips until all steps are done or the minutes are up; True for the
    former."""
    device = torch.device(arguments.device)
    log = Log(trainer.file.with_suffix(".csv"), arguments.log_every, trainer.step)
    batches = Batches(
        arguments.seed, trainer.steps, arguments.batch, arguments.size, arguments.images
    )
    ahead = DataLoader(
        batches, batch_size=None, sampler=range(trainer.step, trainer.steps),
        num_workers=arguments.workers,
    )  # fmt: skip
    steps = steps_of(trainer, arguments, SAVE_EVERY)
    step_of = Step(losses_of, trainer.optimizer, graphs)
    for step, batch in zip(steps, ahead, strict=False):
        torch.manual_seed(arguments.seed * 1_000_003 + step)
        found = step_of(batch.video(device))
        trainer.update()
        log.add(trainer.step, found)
    return trainer.step >= trainer.steps


def train_structure(name: str, arguments: argparse.Namespace) -> bool:
    """`train` a structure, from where it was left."""
    trainer = trainer_of(name, arguments)
    losses_of = partial(losses, trainer.modules["vae"].train())
    return train(trainer, arguments, losses_of, arguments.graphs)


@torch.no_grad()
def measure_latents(model: Any, batches: Batches, clips: int) -> None:
    """Put the latents' mean and std, of training clips, into the configuration.

    Of a hierarchical model the adaptive threshold too, by what its preview costs each chunk of
    them.
    """
    means: list[torch.Tensor] = []
    costs: list[Chunks] = []
    seen, step = 0, batches.steps  # past the last: whole clips, not seen yet
    while seen < clips:
        video = batches[step].video(model.device)
        means.append(encode(model, video).chunk(2, 1)[0])
        seen, step = seen + len(video), step + 1
        if isinstance(model, HierarchicalVAE):
            costs += _costs(model, means[-1], video)
    latents = torch.cat(means)
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    model.register_to_config(
        latents_mean=[round(v, 5) for v in mean.tolist()],
        latents_std=[round(v, 5) for v in std.tolist()],
    )
    if costs:
        found, full, preview = (torch.cat(one) for one in zip(*costs, strict=True))
        lost_db = 10 * (preview / full).log10()
        model.register_to_config(adaptive_threshold=calibrate(found, lost_db, ALLOWED_DB))


Chunks = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _costs(model: Any, latents: torch.Tensor, video: torch.Tensor) -> Iterator[Chunks]:
    """Of every clip's chunks but the first: complexity, mean squared error in full and coarsely."""
    errors = []
    for model.decoder.full in (False, True):
        made = decode(model, latents).clamp(-1, 1)
        frames = (made - video).square().mean((1, 3, 4)).clamp(min=1e-8)
        errors.append(frames[:, 1:].unflatten(1, (-1, model.config.scale_factor_temporal)).mean(2))
    for one, preview, full in zip(latents, *errors, strict=True):
        yield complexity(one[None], model.config.fine_channels)[1:], full, preview


def told(trainer: PartedTrainer, arguments: argparse.Namespace) -> dict[str, Any]:
    """What is said of a training: how long, of what, where."""
    on = torch.device(arguments.device)
    return {
        "steps": trainer.step, "of": trainer.steps, "finished": trainer.step >= trainer.steps,
        "seconds": round(sum(trainer.paces), 1), "batch": arguments.batch, "rate": arguments.rate,
        "seed": arguments.seed, "begun": trainer.begun, "torch": torch.__version__,
        "device": torch.cuda.get_device_name(on) if on.type == "cuda" else on.type,
    }  # fmt: skip


def export(name: str, arguments: argparse.Namespace) -> Path:
    """Write the averaged weights in float16, in diffusers' layout, with what is known of them.

    Raises:
        FileNotFoundError: the run has no checkpoint of it.
    """
    trainer = trainer_of(name, arguments)
    if not trainer.step:
        raise FileNotFoundError(f"{arguments.run} holds no checkpoint of {name}; train it first")
    folder, model = arguments.export / name, make(name).eval().requires_grad_(False)
    model.load_state_dict(trainer.ema["vae"].state_dict())  # channels first again
    batches = Batches(arguments.seed, trainer.steps, arguments.batch, arguments.size)
    measure_latents(model.half().float().to(arguments.device), batches, arguments.clips)
    model.half().cpu().save_pretrained(folder)
    write_metrics(folder, facts(name, model) | {"training": told(trainer, arguments)})
    shutil.copy(trainer.file.with_suffix(".csv"), folder / "losses.csv")
    return folder


SMOKE: dict[str, Any] = {"steps": 24, "batch": 2, "rate": 3e-3, "log_every": 4, "clips": 2}
SMOKE |= {"device": "cpu", "graphs": False, "workers": 0, "size": (17, 32, 48)}


def add_options(parser: argparse.ArgumentParser, steps: int, required: bool = True) -> None:
    """Those of every training; ``steps`` if nobody says how many; ``--run`` may be ``required``."""
    cuda = torch.cuda.is_available()
    parser.add_argument(
        "--run", type=Path, required=required, help="folder for checkpoints and logs"
    )
    parser.add_argument("--minutes", type=float, default=6.0, help="of each, in this call")
    parser.add_argument("--steps", type=int, default=steps, help="of each, in all")
    parser.add_argument("--batch", type=int, default=BATCH, help="clips a step")
    parser.add_argument("--rate", type=float, default=RATE, help="highest learning rate")
    parser.add_argument("--log-every", type=int, default=100, help="steps between two log lines")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw clips ahead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=cuda)
    parser.add_argument("--smoke", action="store_true", help="a few steps on small clips on a CPU")
    parser.set_defaults(size=(FRAMES, HEIGHT, WIDTH), images=IMAGES)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--structure", nargs="+", choices=("all", *STRUCTURES), default=["all"], metavar="NAME",
        help=f"all (one after the other), or of {', '.join(STRUCTURES)}",
    )  # fmt: skip
    parser.add_argument("--export", type=Path, help="write folders in here, and train nothing")
    parser.add_argument("--clips", type=int, default=64, help="that the latents are measured on")
    parser.add_argument(
        "--go-on", type=Path, metavar="FOLDER", help="begin with the exported structures there"
    )
    parser.add_argument(
        "--graphs", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available(),
        help="launch a step as a CUDA graph",
    )  # fmt: skip
    add_options(parser, STEPS)
    arguments = parser.parse_args()
    if arguments.smoke:
        vars(arguments).update(SMOKE)
    arguments.run.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    if torch.device(arguments.device).type == "cuda":
        cudnn = torch.backends.cudnn.version()
        for fault in known_faults(torch.__version__, cudnn, torch.bfloat16):
            warnings.warn(fault, stacklevel=1)
    names = list(STRUCTURES) if "all" in arguments.structure else arguments.structure
    for name in names:
        try:
            print(export(name, arguments) if arguments.export else name, flush=True)
        except FileNotFoundError as error:
            parser.error(str(error))
        if not arguments.export:
            train_structure(name, arguments)


if __name__ == "__main__":
    main()
