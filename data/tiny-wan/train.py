"""Train the miniature: the VAE, then text encoder and experts; its decoder on larger pictures.

    python data/tiny-wan/train.py vae --run runs/tiny-wan --minutes 9
    python data/tiny-wan/train.py diffusion --run runs/tiny-wan --minutes 9
    python data/tiny-wan/train.py export --run runs/tiny-wan --out data/tiny-wan
    python data/tiny-wan/train.py decoder --run runs/decoder --minutes 14
    python data/tiny-wan/train.py export --decoder-only --run runs/decoder --out data/tiny-wan

Every stage goes on from its last checkpoint, so a run may be cut into pieces (``--minutes``); the
data of a step depend on seed and step only (of the decoder, on where its clips were begun too).
One GPU; ``--smoke`` runs it all for a few steps on a CPU. Nothing is downloaded: the clips are
drawn (`clips`), the weights start from the seed.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import FRAMES, Tracks, draw_tracks, random_scene, render
from diffusers import AutoencoderKLWan
from recipe import (
    BOUNDARY_RATIO,
    CAPTION_LENGTH,
    FLOW_SHIFT,
    TRANSFORMER,
    decode,
    embed,
    encode,
    make_pipeline,
    make_text_encoder,
    make_tokenizer,
    make_transformer,
    make_vae,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

IMAGES = 0.34  # share of the VAE's steps on single frames, four times as many as clips later
WINDOW = 13  # pixel frames of the clips that follow: four latent frames
WHOLE = 0.82  # from this share of the steps on whole clips, half as many
WEIGHT_OF = {"l1": 1.0, "mse": 2.0, "kl": 1e-4}
LOG_VARIANCE = -4.0  # of the latents at the start: with unit noise little passes, and learning lags
CAPTION_DROPOUT = 0.1  # for classifier-free guidance
SHARED = 0.4  # share of the steps in which one model learns all noise levels, before it is split
EMA_DECAY = 0.999
WARMUP_STEPS = 200
ENCODE_BATCH = 32
STATISTICS_CLIPS = 256  # over which the latents' mean and std are measured
SAVE_EVERY = 1000  # steps
MSE_WEIGHT = 5.0  # of the decoder's stage: what is left there are fast edges, a few large errors
POSTERIOR_MEAN = 0.5  # share of the decoder's windows on posterior means; the others on samples
HOME = Path(__file__).parent
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, slots=True)
class Scale:
    """Clips that the decoder's stage draws, a window of frames a step.

    Attributes:
        batch: clips at once.
        window: frames a step, 4k; a clip's first window has one more.
        lengths: frames of a clip, one of these by chance. The motion takes all of them: the fewer,
            the faster. A clip of many takes more steps.
    """

    height: int
    width: int
    batch: int
    window: int
    lengths: tuple[int, ...]


# Steps take turns, and cost about the same. Motion in pixels grows with the picture: what the VAE
# saw in its own training is a fifth of what 33 frames of 480x832 need.
SCALES = (
    Scale(480, 832, 2, 8, (33, 33, 33, 33, 81, 161)),
    Scale(96, 160, 14, 32, (33,)),
    Scale(480, 832, 2, 8, (33, 33, 33, 33, 81, 161)),
    Scale(720, 1280, 1, 8, (33, 33, 33, 81)),
    Scale(480, 832, 2, 8, (33, 33, 33, 33, 81, 161)),
    Scale(192, 320, 6, 16, (13, 17, 33)),
    Scale(480, 832, 2, 8, (33, 33, 33, 33, 81, 161)),
    Scale(96, 160, 14, 32, (33,)),
    Scale(720, 1280, 1, 8, (33, 33, 33, 161)),
    Scale(192, 320, 6, 16, (13, 17, 33)),
)
# Height, width, frames, clips.
EVALUATED = ((96, 160, 33, 32), (480, 832, 33, 12), (720, 1280, 33, 8), (480, 832, 161, 4))


def write_state(state: dict[str, Any], file: Path) -> None:
    """A checkpoint that is whole as soon as it has its name."""
    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(file)


def read_state(file: Path, device: torch.device | str) -> dict[str, Any]:
    return torch.load(file, map_location=device, weights_only=True)


class Trainer:
    """Weights, their moving average, optimizer and checkpoint of one stage."""

    def __init__(self, modules: dict[str, nn.Module], rate: float, steps: int, file: Path) -> None:
        self.modules, self.rate, self.steps, self.file = modules, rate, steps, file
        self.step = 0
        self.ema = {name: copy.deepcopy(module).eval() for name, module in modules.items()}
        self._optimizer()

    def _optimizer(self) -> None:
        self.parameters = [p for module in self.modules.values() for p in module.parameters()]
        self.averages = [p for module in self.ema.values() for p in module.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.rate, betas=(0.9, 0.99), weight_decay=0.01
        )

    def split(self, source: str, target: str) -> None:
        """Add a copy of module ``source``, its average too, under the name ``target``."""
        for models in (self.modules, self.ema):
            models[target] = copy.deepcopy(models[source])
        self._optimizer()

    def update(
        self, loss: torch.Tensor | None = None, progress: float = 0.0, since: int = 0
    ) -> None:
        """One step: warm-up, constant rate in the first half, then down to 2 % on a line.

        Args:
            loss: without it the gradients are there already.
            progress: from 0 to 1, where it is further than the steps say.
            since: the step from which it warms up.
        """
        progress = max(progress, self.step / self.steps)
        warmup = min(WARMUP_STEPS, 1 + self.steps // 10)
        scale = min(1.0, (self.step - since + 1) / warmup) * max(0.02, min(1.0, 2 * (1 - progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * scale
        if loss is not None:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)
        self.step += 1

    def state(self) -> dict[str, Any]:
        """All that a training goes on from."""
        return {
            "step": self.step,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "ema": {name: module.state_dict() for name, module in self.ema.items()},
            "optimizer": self.optimizer.state_dict(),
        }

    def save(self) -> None:
        """Write the checkpoint; an interrupted write leaves the one before."""
        write_state(self.state(), self.file)

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self.file.exists():
            self.restore(read_state(self.file, self.parameters[0].device))

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        if "transformer_2" in state["modules"] and "transformer_2" not in self.modules:
            self.split("transformer", "transformer_2")
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
            self.ema[name].load_state_dict(state["ema"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


class Log:
    """Losses as CSV, appended, a line every ``every`` steps; prints the same.

    Lines behind ``step``, from which a training goes on, are dropped: they will come again.
    """

    def __init__(self, file: Path, every: int, step: int) -> None:
        self.file, self.every = file, every
        if file.exists():
            head, *lines = file.read_text().splitlines(keepends=True)
            kept = [line for line in lines if int(line.split(",")[0]) <= step]
            file.write_text("".join((head, *kept)))
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}
        self.since = time.monotonic()

    def add(self, step: int, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
            self.counts[name] = self.counts.get(name, 0) + 1
        if step % self.every:
            return
        row = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        rate = max(self.counts.values()) / (time.monotonic() - self.since)
        new = not self.file.exists()
        with self.file.open("a", newline="") as stream:
            writer = csv.writer(stream)
            if new:
                writer.writerow(("step", "quantity", "value"))
            writer.writerows((step, name, f"{value:.6g}") for name, value in row.items())
        shown = "  ".join(f"{name} {value:.5f}" for name, value in row.items())
        print(f"step {step}  {shown}  {rate:.1f} steps/s", flush=True)
        self.sums, self.counts, self.since = {}, {}, time.monotonic()


def clips_of(
    step: int, steps: int, batch: int, window: int = WINDOW, whole: int = FRAMES,
    images: float = IMAGES,
) -> tuple[int, int]:  # fmt: skip
    """How many clips a step takes, of how many frames: single frames first, whole clips last."""
    if step < images * steps:
        return 4 * batch, 1
    return (batch // 2, whole) if step >= WHOLE * steps else (batch, window)


def losses(vae: Any, video: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of float32 [B, 3, F, H, W] in [-1, 1], coded and decoded: ``l1`` and ``mse``, ``kl``.

    A decoder that also gives a preview, in channels 3 to 5, has ``l1 preview`` and ``mse preview``.
    """
    mean, log_variance = encode(vae, video).chunk(2, 1)
    log_variance = log_variance.clamp(-30, 20)
    noise = torch.randn_like(mean)
    made = decode(vae, mean + noise * (0.5 * log_variance).exp())
    found = {}
    for picture, of in zip(made.split(3, 1), ("", " preview"), strict=False):
        error = picture - video
        found |= {f"l1{of}": error.abs().float().mean()}
        found |= {f"mse{of}": error.float().square().mean()}
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).float().mean()
    return found | {"kl": kl}


def weighted(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """What is minimized of `losses`, a preview as much as the picture."""
    return sum(WEIGHT_OF[name.split()[0]] * value for name, value in parts.items())


def train_vae(arguments: argparse.Namespace) -> bool:
    """Reconstruction + KL, on single frames, then on parts of clips, then on whole ones.

    As in Wan's own recipe, space is learned before time. Whole clips are needed: trained on 13
    frames only, the VAE loses 15 dB by the 33rd. True when all steps are done.
    """
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    vae = make_vae().to(device)
    with torch.no_grad():
        vae.quant_conv.bias[vae.config.z_dim :] = LOG_VARIANCE
    if arguments.channels_last:
        for parameter in vae.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)
    trainer = Trainer({"vae": vae}, arguments.rate, arguments.steps, arguments.run / "vae.pt")
    trainer.load()
    log = Log(arguments.run / "vae.csv", arguments.log_every, trainer.step)

    step_losses = torch.compile(losses, dynamic=False) if arguments.compile else losses
    for step in steps_of(trainer, arguments):
        rng = np.random.default_rng((arguments.seed, 1, step))
        torch.manual_seed(arguments.seed * 1_000_003 + step)
        count, window = clips_of(step, trainer.steps, arguments.batch)
        scenes = [random_scene(rng) for _ in range(count)]
        start = int(rng.integers(0, FRAMES - window + 1))
        video = video_of(draw_tracks(scenes, rng), device, start, start + window)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            parts = step_losses(vae, video)
        trainer.update(weighted(parts))
        log.add(trainer.step, parts)
    return trainer.step >= trainer.steps


class Stream:
    """Clips of one scale, decoded window by window on the cache of the windows before.

    So the decoder learns long clips at the cost of short ones; gradients end at the window.
    """

    def __init__(self, scale: Scale, vae: AutoencoderKLWan) -> None:
        self.scale, self.vae = scale, vae
        self.at, self.frames = 0, 0

    def window(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """What is decoded, and what it should be: each float32 [B, 3, F, H, W]."""
        scale, vae = self.scale, self.vae
        if self.at == self.frames:
            scenes = [random_scene(rng) for _ in range(scale.batch)]
            self.at, self.frames = 0, int(rng.choice(scale.lengths))
            self.tracks = draw_tracks(scenes, rng, self.frames, scale.height, scale.width)
            self.encoded: list[Any] = []
            self.decoded: list[Any] = []
        stop = min(self.at + scale.window + (self.at == 0), self.frames)
        video = video_of(self.tracks, vae.device, self.at, stop)
        with torch.no_grad():
            latents, log_variance = encode(vae, video, self.encoded).chunk(2, 1)
            if rng.random() >= POSTERIOR_MEAN:
                std = (0.5 * log_variance.clamp(-30, 20)).exp()
                latents = latents + std * torch.randn_like(std)
        made = decode(vae, latents, self.decoded)
        self.decoded[:] = [c.detach() if torch.is_tensor(c) else c for c in self.decoded]
        self.at = stop
        return made.float(), video


def train_decoder(arguments: argparse.Namespace) -> None:
    """The VAE's decoder on several scales, its encoder left as it is: latents stay what they are.

    Starts from the run's own VAE, or from the miniature's if the run has none. A run takes the
    rate down once, over its ``--minutes`` or over all steps. Writes ``decoder.safetensors``, what
    `export` takes, and ``decoder.json``: `reconstruction` before and after.
    """
    device = torch.device(arguments.device)
    if (arguments.run / "vae.pt").exists():
        vae = load_vae(arguments.run, device, min(STATISTICS_CLIPS, arguments.clips))[0]
    else:
        vae = AutoencoderKLWan.from_pretrained(HOME / "vae", torch_dtype=torch.float32).to(device)
    vae = vae.eval().requires_grad_(False)
    modules = {name: getattr(vae, name).requires_grad_(True) for name in DECODER}
    if arguments.channels_last:
        for parameter in vae.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)
    file = arguments.run / "decoder.pt"
    trainer = Trainer(modules, arguments.rate, arguments.steps, file)
    report = {"before": reconstruction(vae, arguments.evaluated)}
    trainer.load()
    log = Log(arguments.run / "decoder.csv", arguments.log_every, trainer.step)
    streams = [Stream(scale, vae) for scale in arguments.scales]
    begun = time.monotonic()
    for step in steps_of(trainer, arguments):
        rng = np.random.default_rng((arguments.seed, 3, step))
        torch.manual_seed(arguments.seed * 1_000_003 + step)
        stream = streams[step % len(streams)]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            made, video = stream.window(rng)
        error = made - video
        l1, mse = error.abs().mean(), error.square().mean()
        trainer.update(l1 + MSE_WEIGHT * mse, (time.monotonic() - begun) / (60 * arguments.minutes))
        size = f"{stream.scale.height}x{stream.scale.width}"
        log.add(trainer.step, {"l1": l1, f"mse {size}": mse})
    streams.clear()
    for name, module in trainer.ema.items():
        getattr(vae, name).load_state_dict(module.state_dict())
    kept = {
        key: value.half().cpu().contiguous()
        for key, value in vae.state_dict().items()
        if key.startswith(DECODER)
    }
    save_file(kept, arguments.run / "decoder.safetensors", {"format": "pt"})
    vae.load_state_dict({**vae.state_dict(), **kept})
    report |= {"after": reconstruction(vae, arguments.evaluated), "steps": trainer.step}
    (arguments.run / "decoder.json").write_text(json.dumps(report, indent=1))


@torch.no_grad()
def reconstruction(
    vae: AutoencoderKLWan, evaluated: tuple[tuple[int, int, int, int], ...], seed: int = 10**6
) -> dict[str, dict[str, float]]:
    """PSNR in dB of drawn clips with held-out captions, encoded (posterior mean) and decoded.

    By ``FRAMESxHxW``: over the clips, of each its pooled error, the mean and the least; and the
    worst frame's. In float32 (on a GPU TF32), of levels; printed too.
    """
    found = {}
    for height, width, frames, clips in evaluated:
        rng = np.random.default_rng((seed, frames, height))
        errors = []
        for _ in range(clips):
            scene = random_scene(rng, held_out=True)
            tracks = draw_tracks([scene], rng, frames, height, width)
            caches: tuple[list[Any], list[Any]] = ([], [])
            errors.append([])
            for start in range(0, frames, 4):
                start, stop = max(0, start - 3), start + 1
                video = video_of(tracks, vae.device, start, stop)
                latents = encode(vae, video, caches[0]).chunk(2, 1)[0]
                made = decode(vae, latents, caches[1]).clamp(-1, 1)
                levels = ((made + 1) * 127.5).round() - (video + 1) * 127.5
                errors[-1] += levels.square().mean((0, 1, 3, 4)).tolist()
        pooled = [_decibel(sum(error) / frames) for error in errors]
        made_of = f"{frames}x{height}x{width}"
        found[made_of] = {
            "clips": clips,
            "mean_db": round(sum(pooled) / clips, 2),
            "least_db": round(min(pooled), 2),
            "first_frames_db": round(sum(_decibel(error[0]) for error in errors) / clips, 2),
            "worst_frame_db": round(_decibel(max(map(max, errors))), 2),
        }
        print(made_of, found[made_of], flush=True)
    return found


def _decibel(mean_square: float) -> float:
    """PSNR of an error in levels of 255."""
    return 10 * math.log10(255**2 / max(mean_square, 1e-4))


def train_diffusion(arguments: argparse.Namespace) -> bool:
    """Flow matching in the VAE's latents. True when all steps are done.

    One transformer first learns all noise levels; then it is copied and each copy goes on with
    its own range, above and below `BOUNDARY_RATIO`, unless ``experts`` is 1. The text encoder
    learns along.
    """
    device = torch.device(arguments.device)
    clips = min(STATISTICS_CLIPS, arguments.clips)
    vae, mean, std = load_vae(arguments.run, device, clips, arguments.vae)
    latents, ids = _latent_set(vae, mean, std, arguments)
    torch.manual_seed(arguments.seed + 1)
    modules = {"text_encoder": make_text_encoder(), "transformer": make_transformer()}
    modules = {name: module.to(device).train() for name, module in modules.items()}
    file = arguments.run / "diffusion.pt"
    trainer = Trainer(modules, arguments.rate, arguments.steps, file)
    trainer.load()
    log = Log(arguments.run / "diffusion.csv", arguments.log_every, trainer.step)
    empty = _caption_ids([""], device)[0]
    edge = _inverse_shift(BOUNDARY_RATIO)

    def loss_of(
        transformer: nn.Module, x: torch.Tensor, text: torch.Tensor, u: torch.Tensor
    ) -> torch.Tensor:
        sigma = (FLOW_SHIFT * u / (1 + (FLOW_SHIFT - 1) * u)).view(-1, 1, 1, 1, 1)
        noise = torch.randn_like(x)
        noisy = (1 - sigma) * x + sigma * noise
        velocity = transformer(noisy, sigma.flatten() * 1000, text, return_dict=False)[0]
        return (velocity.float() - (noise - x)).square().mean()

    step_loss = torch.compile(loss_of, dynamic=False) if arguments.compile else loss_of
    shared = SHARED * trainer.steps if arguments.experts == 2 else math.inf
    for step in steps_of(trainer, arguments):
        if step >= shared and "transformer_2" not in trainer.modules:
            trainer.split("transformer", "transformer_2")
        torch.manual_seed(arguments.seed * 1_000_003 + step)
        pick = torch.randint(len(latents), (arguments.batch,), device=device)
        caption = ids[pick]
        caption[torch.rand(arguments.batch, device=device) < CAPTION_DROPOUT] = empty
        x = latents[pick].float()
        u = torch.rand(arguments.batch, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            text = embed(trainer.modules["text_encoder"], caption)
            if "transformer_2" in trainer.modules:
                half = arguments.batch // 2
                high = edge + (1 - edge) * u[:half]
                parts = {
                    "high": step_loss(trainer.modules["transformer"], x[:half], text[:half], high),
                    "low": step_loss(
                        trainer.modules["transformer_2"], x[half:], text[half:], edge * u[half:]
                    ),
                }
                loss = (parts["high"] + parts["low"]) / 2
            else:
                loss = step_loss(trainer.modules["transformer"], x, text, u)
                parts = {"all": loss}
        trainer.update(loss)
        log.add(trainer.step, parts)
    return trainer.step >= trainer.steps


def steps_of(
    trainer: Trainer, arguments: argparse.Namespace, save_every: int = SAVE_EVERY
) -> Iterator[int]:
    """Step numbers until all are done or the minutes are up; saves now and then."""
    end = time.monotonic() + 60 * arguments.minutes
    while trainer.step < trainer.steps and time.monotonic() < end:
        yield trainer.step
        if trainer.step % save_every == 0:
            trainer.save()
    trainer.save()
    print(f"{trainer.file.name}: {trainer.step} of {trainer.steps} steps", flush=True)


def video_of(
    tracks: Tracks, device: torch.device, start: int = 0, stop: int = FRAMES
) -> torch.Tensor:
    """float32 [B, 3, F, H, W] in [-1, 1]."""
    frames = render(tracks, device, start, stop).permute(0, 4, 1, 2, 3)
    return frames.float().div_(127.5).sub_(1.0)


def _inverse_shift(sigma: float) -> float:
    """The u whose shifted noise level is ``sigma``."""
    return sigma / (FLOW_SHIFT - (FLOW_SHIFT - 1) * sigma)


def _caption_ids(captions: list[str], device: torch.device) -> torch.Tensor:
    """int64 [B, CAPTION_LENGTH]."""
    made = make_tokenizer()(captions, padding="max_length", max_length=CAPTION_LENGTH)
    return torch.tensor(made.input_ids, device=device)


def load_vae(
    run: Path, device: torch.device, clips: int = STATISTICS_CLIPS, folder: Path | None = None
) -> tuple[AutoencoderKLWan, torch.Tensor, torch.Tensor]:
    """The averaged VAE of a run, or that of ``folder``, and its latents' mean and std by channel.

    They are measured once, over ``clips`` clips, and kept in the run's ``latents.json``: what is
    exported must be what the experts were trained with.

    Raises:
        FileNotFoundError: the run has no VAE checkpoint.
        ValueError: the VAE of ``folder`` has another number of channels than the experts.
    """
    if folder:
        vae = AutoencoderKLWan.from_pretrained(folder, torch_dtype=torch.float32)
        if vae.config.z_dim != (wanted := TRANSFORMER["in_channels"]):
            raise ValueError(f"{folder} has {vae.config.z_dim} channels; the experts take {wanted}")
        figures = (vae.config.latents_mean, vae.config.latents_std)
        mean, std = (torch.tensor(one, device=device) for one in figures)
        return vae.to(device).eval().requires_grad_(False), mean, std
    file = run / "vae.pt"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing; run the vae stage first")
    state = torch.load(file, map_location=device, weights_only=True)
    vae = make_vae().to(device).eval().requires_grad_(False)
    vae.load_state_dict(state["ema"]["vae"])
    kept = run / "latents.json"
    if not kept.exists() or json.loads(kept.read_text())["vae_step"] != state["step"]:
        latents = torch.cat([part for part, _ in encoded(vae, clips, seed=10**6)])
        made = {
            "vae_step": state["step"],
            "clips": clips,
            "mean": [round(v, 5) for v in latents.mean((0, 2, 3, 4)).tolist()],
            "std": [round(v, 5) for v in latents.std((0, 2, 3, 4)).tolist()],
        }
        kept.write_text(json.dumps(made, indent=1))
    made = json.loads(kept.read_text())
    mean, std = (torch.tensor(made[key], device=device) for key in ("mean", "std"))
    return vae, mean, std


@torch.no_grad()
def encoded(
    vae: AutoencoderKLWan, count: int, seed: int
) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """Sampled latents [b, 16, 9, 12, 20], float32, with captions: batches of random clips."""
    rng = np.random.default_rng((seed, 2))
    torch.manual_seed(seed)
    device = vae.device
    for begin in range(0, count, ENCODE_BATCH):
        scenes = [random_scene(rng) for _ in range(min(ENCODE_BATCH, count - begin))]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            mean, log_variance = encode(vae, video_of(draw_tracks(scenes, rng), device)).chunk(2, 1)
        std = (0.5 * log_variance.float().clamp(-30, 20)).exp()
        yield mean.float() + std * torch.randn_like(std), [scene.caption for scene in scenes]


def _latent_set(
    vae: AutoencoderKLWan, mean: torch.Tensor, std: torch.Tensor, arguments: argparse.Namespace
) -> tuple[torch.Tensor, torch.Tensor]:
    """The training set, normalized: latents in bfloat16 and caption ids, on the device."""
    file = arguments.run / "latents.pt"
    made_from = [arguments.clips, arguments.seed, *std.tolist()]
    if file.exists():
        kept = torch.load(file, map_location=vae.device, weights_only=True)
        if kept["made_from"] == made_from:
            return kept["latents"], kept["ids"]
    begin = time.monotonic()
    shape = (1, -1, 1, 1, 1)
    latents, captions = [], []
    for part, said in encoded(vae, arguments.clips, arguments.seed):
        latents.append(((part - mean.view(shape)) / std.view(shape)).bfloat16())
        captions += said
    print(f"{arguments.clips} clips encoded in {time.monotonic() - begin:.0f} s", flush=True)
    made = {"latents": torch.cat(latents), "ids": _caption_ids(captions, vae.device)}
    torch.save({"made_from": made_from, **made}, file)
    return made["latents"], made["ids"]


def export(arguments: argparse.Namespace) -> None:
    """Write the averaged weights as a diffusers pipeline folder, float16 safetensors."""
    device = torch.device(arguments.device)
    vae, mean, std = load_vae(arguments.run, device, folder=arguments.vae)
    trained = arguments.run / "decoder.safetensors"
    if trained.exists() and not arguments.vae:
        vae.load_state_dict({**vae.state_dict(), **load_file(trained, arguments.device)})
    vae.register_to_config(
        latents_mean=[round(v, 5) for v in mean.tolist()],
        latents_std=[round(v, 5) for v in std.tolist()],
    )
    file = arguments.run / "diffusion.pt"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing; run the diffusion stage first")
    state = torch.load(file, map_location="cpu", weights_only=True)["ema"]
    text_encoder, first, second = make_text_encoder(), make_transformer(), make_transformer()
    text_encoder.load_state_dict(state["text_encoder"])
    first.load_state_dict(state["transformer"])
    second.load_state_dict(state.get("transformer_2", state["transformer"]))
    for module in (vae, text_encoder, first, second):
        torch.nn.Module.half(module.cpu())
    make_pipeline(vae, text_encoder, first, second).save_pretrained(arguments.out)
    _copy_logs(arguments)


def export_decoder(arguments: argparse.Namespace) -> None:
    """Put the trained decoder into a pipeline folder; all other weights keep their bytes."""
    trained = arguments.run / "decoder.safetensors"
    if not trained.exists():
        raise FileNotFoundError(f"{trained} is missing; run the decoder stage first")
    file = arguments.out / "vae" / WEIGHTS
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors, decoder = load_file(file), load_file(trained)
    names = {name for name in tensors if name.startswith(DECODER)}
    shapes = {name: tensors[name].shape for name in names}
    if shapes != {name: tensor.shape for name, tensor in decoder.items()}:
        raise ValueError(f"{trained} is not the decoder of {file}")
    save_file({**tensors, **decoder}, file, metadata)
    _copy_logs(arguments)


def _copy_logs(arguments: argparse.Namespace) -> None:
    """What a run noted about its stages, for the model card."""
    logs = arguments.out / "training"
    logs.mkdir(exist_ok=True)
    noted = ("vae.csv", "diffusion.csv", "latents.json", "decoder.csv", "decoder.json")
    for name in noted:
        if (arguments.run / name).exists():
            shutil.copy(arguments.run / name, logs)
    plot_losses(logs, arguments.out / "loss.png")
    print(f"written: {arguments.out}")


def plot_losses(run: Path, picture: Path) -> None:
    """Every stage's losses against its steps, logarithmic."""
    import matplotlib.pyplot as plt
    import pandas as pd

    stages = [name for name in DEFAULTS if (run / f"{name}.csv").exists()]
    size = (4.5 * len(stages), 3.2)
    figure, axes = plt.subplots(
        1, len(stages), figsize=size, constrained_layout=True, squeeze=False
    )
    for ax, stage in zip(axes[0], stages, strict=True):
        for quantity, rows in pd.read_csv(run / f"{stage}.csv").groupby("quantity"):
            ax.plot(rows["step"], rows["value"], label=quantity, linewidth=1)
        ax.set(yscale="log", xlabel="step", title=stage)
        ax.legend(frameon=False)
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("loss")
    figure.savefig(picture, dpi=110)
    plt.close(figure)


DECODER = ("decoder", "post_quant_conv")
DEFAULTS: dict[str, dict[str, Any]] = {
    "vae": {"steps": 8800, "batch": 16, "rate": 1e-3},
    "decoder": {"steps": 100_000, "batch": None, "rate": 2.5e-4},
    "diffusion": {"steps": 36_000, "batch": 256, "rate": 1e-3},
}
SMOKE = {"steps": 2, "batch": 2, "clips": 2, "log_every": 1, "device": "cpu", "compile": False}
SMOKE |= {"scales": (Scale(32, 48, 2, 4, (9,)),), "evaluated": ((32, 48, 5, 1),)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("stage", nargs="?", choices=(*DEFAULTS, "export"))
    parser.add_argument("--run", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--out", type=Path, help="folder the pipeline is written to (export)")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop, and save, after these")
    parser.add_argument("--steps", type=int, help="steps of the stage in all")
    parser.add_argument("--batch", type=int, help="clips a step")
    parser.add_argument("--rate", type=float, help="highest learning rate")
    parser.add_argument("--vae", type=Path, help="another VAE's folder (diffusion, export)")
    parser.add_argument("--experts", type=int, choices=(1, 2), default=2, help="of the diffusion")
    parser.add_argument("--clips", type=int, default=16_000, help="clips of the diffusion stage")
    parser.add_argument("--log-every", type=int, default=100, help="steps between two log lines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=cuda)
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=cuda)
    parser.add_argument(
        "--decoder-only", action="store_true", help="export: put the decoder into --out's VAE"
    )
    parser.add_argument("--smoke", action="store_true", help="all stages, two steps each, on a CPU")
    parser.set_defaults(scales=SCALES, evaluated=EVALUATED)
    arguments = parser.parse_args()
    if arguments.smoke:
        vars(arguments).update(SMOKE, out=arguments.out or arguments.run / "pipeline")
    elif arguments.stage is None:
        parser.error(f"name a stage, {', '.join(DEFAULTS)} or export, or give --smoke")
    elif arguments.stage == "export" and arguments.out is None:
        parser.error("export needs --out FOLDER")
    arguments.run.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    functions = {"vae": train_vae, "decoder": train_decoder, "diffusion": train_diffusion}
    for stage in functions if arguments.smoke else (arguments.stage,):
        if stage in functions:
            given = {k: getattr(arguments, k) for k in DEFAULTS[stage]}
            chosen = {k: v if v is not None else DEFAULTS[stage][k] for k, v in given.items()}
            functions[stage](argparse.Namespace(**{**vars(arguments), **chosen}))
    if arguments.smoke or arguments.stage == "export":
        (export_decoder if arguments.decoder_only else export)(arguments)


if __name__ == "__main__":
    main()
