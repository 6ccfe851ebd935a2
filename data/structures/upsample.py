"""Two stages: a video's latents at half its sides, enlarged by a small network, then decoded.

    python -m data.structures.upsample train --run runs/upsampler --minutes 3
    python -m data.structures.upsample export --run runs/upsampler --model data/structures/upsampler
    python -m data.structures.upsample measure --model data/structures/upsampler --out results

From the top of the repository. The latents are the miniature's, normalized; the network is LTX-2's
latent upsampler, small. It learns the latents of a clip from those of the clip at half its sides.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import FPS, FRAMES, HEIGHT, WIDTH
from diffusers import AutoencoderKLWan
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
from evaluate import decoded, scene_of
from judge import describe, score
from recipe import encode
from torch.nn.functional import avg_pool3d, interpolate, mse_loss
from train import IMAGES

from data.structures.card import trained
from data.structures.evaluate import (
    CATEGORIES,
    HeldOut,
    Measure,
    by_category,
    held_out,
    remembering,
    scored,
    scorers,
    seen_by,
)
from data.structures.measuring import META, filled, in_turns, interval, peak_of, seconds_of, wait
from data.structures.recipe import parameters_of
from data.structures.record import Row, device_for, record
from data.structures.train import SMOKE as TRAINED_SMOKE
from data.structures.train import PartedTrainer, add_options, told, train
from vdkit.models.loading import TINY_WAN, load_pipeline
from vdkit.models.perception import PerceptualNetwork
from vdkit.models.pipeline import generate_latents, pipeline_decoder
from vdkit.models.wan import WanDecoder

CONFIG: Row = {  # its norms have 32 groups: of 32 channels each would lose its own level
    "in_channels": 16, "mid_channels": 64, "num_blocks_per_stage": 2, "dims": 2,
    "use_rational_resampler": False,
}  # fmt: skip
LARGE: Row = CONFIG | {"mid_channels": 1024, "num_blocks_per_stage": 4, "dims": 3}  # LTX-2's own
STEPS, RATE = 1500, 1e-3
HALF, TWICE = (1, 2, 2), (1.0, 2.0, 2.0)  # frames, height, width
Upsampler = LTX2LatentUpsamplerModel


def untrained(seed: int) -> Upsampler:
    """Its weights by the seed."""
    torch.manual_seed(seed)
    return Upsampler(**CONFIG)


def normalized(vae: AutoencoderKLWan, latents: torch.Tensor, back: bool = False) -> torch.Tensor:
    """Latents [B, C, T, h, w] as a pipeline has them; ``back``: as the decoder takes them."""
    mean, std = (
        torch.tensor(figures).view(-1, 1, 1, 1).to(latents)
        for figures in (vae.config.latents_mean, vae.config.latents_std)
    )
    return latents * std + mean if back else (latents - mean) / std


@torch.no_grad()
def coded(vae: AutoencoderKLWan, video: torch.Tensor) -> torch.Tensor:
    """Normalized latents of float [B, 3, F, H, W] in [-1, 1], means of the posteriors."""
    return normalized(vae, encode(vae, video).chunk(2, 1)[0].float())


def halved(video: torch.Tensor) -> torch.Tensor:
    """Each pixel the mean of four."""
    return avg_pool3d(video, HALF)


def interpolated(latents: torch.Tensor) -> torch.Tensor:
    """Bilinearly, to twice the sides."""
    return interpolate(latents, scale_factor=TWICE, mode="trilinear")


def upsampled(model: Upsampler, latents: torch.Tensor) -> torch.Tensor:
    """Normalized latents, interpolated, and what the network, whose norms drop levels, adds."""
    return interpolated(latents) + model(latents)


def enlarged(model: Upsampler, vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """Latents as the decoder takes them, of half the sides, to those of the whole."""
    made = upsampled(model, normalized(vae, latents.to(model.dtype)))
    return normalized(vae, made.to(latents.dtype), back=True)


def losses(model: Upsampler, vae: AutoencoderKLWan, video: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of normalized latents: 1 is their variance."""
    return {"mse": mse_loss(upsampled(model, coded(vae, halved(video))), coded(vae, video))}


def trainer_of(arguments: argparse.Namespace) -> PartedTrainer:
    """The training, where it was left."""
    model = untrained(arguments.seed).to(arguments.device)
    file = arguments.run / "upsampler.pt"
    trainer = PartedTrainer({"upsampler": model}, arguments.rate, arguments.steps, file)
    trainer.load()
    return trainer


def miniature(device: torch.device | str) -> Any:
    """Its VAE, in float32."""
    vae: Any = AutoencoderKLWan.from_pretrained(TINY_WAN / "vae", torch_dtype=torch.float32)
    return vae.to(device).eval().requires_grad_(False)


def export(arguments: argparse.Namespace) -> None:
    """Write the averaged weights in float16, with what is known of them."""
    trainer = trainer_of(arguments)
    if not trainer.step:
        raise FileNotFoundError(f"{arguments.run} holds no checkpoint of it; train it first")
    model = untrained(0)
    model.load_state_dict(trainer.ema["upsampler"].state_dict())
    model.half().save_pretrained(arguments.model)
    text = (
        "The miniature's latents of a clip at half its sides to those of the whole clip, both "
        "normalized: what is to be added to them interpolated bilinearly. Diffusers' "
        f"`LTX2LatentUpsamplerModel`, {parameters_of(model):,} parameters; `upsampled` of "
        "`data.structures.upsample` adds."
    )
    parts = ("# Latent upsampler", text, trained(told(trainer, arguments)))
    (arguments.model / "README.md").write_text("\n\n".join(parts) + "\n")
    shutil.copy(trainer.file.with_suffix(".csv"), arguments.model / "losses.csv")


def upsampler_of(folder: Path) -> Upsampler:
    """What was exported there, on the CPU, in float32; FileNotFoundError: nothing was."""
    config = folder / "config.json"
    if not config.exists() or Upsampler.__name__ not in config.read_text():
        raise FileNotFoundError(f"{folder} holds no upsampler; train and export it")
    model: Any = Upsampler.from_pretrained(folder, torch_dtype=torch.float32)
    return model.eval().requires_grad_(False)


Way = Callable[[torch.Tensor, torch.Tensor], np.ndarray]
"""Of latents of the whole clip and of the halved one: uint8 [F, H, W, 3]."""


def ways_of(model: Upsampler, decoder: WanDecoder) -> dict[str, Way]:
    """``direct`` takes the latents of the whole clip, all others those of the halved one."""

    def bicubic(frames: np.ndarray) -> np.ndarray:
        small = torch.from_numpy(frames).to(decoder.device).movedim(3, 1).float()
        large = interpolate(small, scale_factor=2, mode="bicubic", antialias=True)
        return large.round().clamp(0, 255).byte().movedim(1, 3).cpu().numpy()

    return {
        "direct": lambda whole, half: decoded(decoder, whole),
        "two stages": lambda whole, half: decoded(decoder, enlarged(model, decoder.vae, half)),
        "latents interpolated": lambda whole, half: decoded(decoder, interpolated(half)),
        "pixels bicubic": lambda whole, half: bicubic(decoded(decoder, half)),
    }


@torch.inference_mode()
def made_of(
    model: Upsampler, decoder: WanDecoder, of: HeldOut, measures: Mapping[str, Measure]
) -> list[tuple[Row, np.ndarray]]:
    """Of a held-out clip a row for each way, with its seconds and measures, and the frames."""
    video, found = torch.from_numpy(of.clip).to(decoder.device).movedim(3, 0)[None].float(), []
    video, vae = video / 127.5 - 1, decoder.vae
    latents = [normalized(vae, coded(vae, one), back=True) for one in (video, halved(video))]
    for way, make in ways_of(model, decoder).items():
        wait(decoder.device)
        begin = time.perf_counter()
        frames = make(*latents)
        row: Row = {"study": "clips", "category": of.category, "clip": of.index, "way": way}
        row |= {"decode_s": time.perf_counter() - begin, **scored(of, frames, measures)}
        found.append((row, frames))
    return found


@torch.inference_mode()
def clip_rows(model: Upsampler, vae: Any, asked: argparse.Namespace, pool: Executor) -> list[Row]:
    """A row for each held-out clip and way; ``pool``: of `scorers`."""
    decoder, found = WanDecoder(vae, "tiny-wan"), []
    which = [(category, index) for category in CATEGORIES for index in range(asked.clips)]
    clips = list(pool.map(partial(held_out, size=asked.size), *zip(*which, strict=True)))
    seen = seen_by(remembering(PerceptualNetwork(vae.device)))
    made_of(model, decoder, clips[0], seen)  # warms up
    for of in clips:
        found += [(of, *made) for made in made_of(model, decoder, of, seen)]
    # nothing is timed any more
    later = [(row, pool.submit(scored, of, frames)) for of, row, frames in found]
    return [row | score.result() for row, score in later]


@torch.inference_mode()
def full_size_rows(asked: argparse.Namespace) -> Iterator[Row]:
    """Seconds and peak memory of each step, with networks of full size and random weights."""
    device, dtype = asked.device, torch.bfloat16 if asked.device.type == "cuda" else torch.float32
    with META:
        vae, upsampler = AutoencoderKLWan(base_dim=asked.width), Upsampler(**asked.large)
    decoder = WanDecoder(filled(vae, device, dtype), "full size")
    upsampler = filled(upsampler, device, dtype)
    (frames, height, width), arms = asked.full_size, {}
    for share, words in ((1, "whole"), (2, "half")):
        shape = (1, 16, 1 + frames // 4, height // 8 // share, width // 8 // share)
        latents = torch.randn(shape, device=device, dtype=dtype)
        arms[f"decode {words}"] = partial(decoder.decode_video, latents, lambda _: None)
    arms["upsample"] = partial(enlarged, upsampler, decoder.vae, latents)
    timed = {name: partial(seconds_of, lambda arm=arm: arm, device) for name, arm in arms.items()}
    for step, seconds in in_turns(timed, asked.rounds).items():
        yield {
            "study": "full size", "step": step, "frames": frames, "height": height, "width": width,
            "parameters": parameters_of(upsampler if step == "upsample" else decoder.vae),
            **interval("step_s", seconds), **peak_of(arms[step], device),
        }  # fmt: skip


def generated_rows(model: Upsampler, asked: argparse.Namespace) -> Iterator[Row]:
    """The miniature's clips, denoised as a whole, or at half the sides and enlarged."""
    pipeline = load_pipeline("tiny-wan", asked.device, progress=False)
    decoder = pipeline_decoder(pipeline)
    for index in range(-1, asked.prompts):  # the first warms up
        scene = scene_of(0, 3, max(0, index))[0]
        for way, share in (("direct", 1), ("two stages", 2)):
            sides = [side // share for side in asked.size[1:]]
            how = {"steps": asked.denoising, "seed": index + 1, "progress": False}
            wait(asked.device)
            begin = time.perf_counter()
            made = generate_latents(pipeline, scene.caption, asked.generated, *sides, **how)
            latents, times = made.latents.to(asked.device), [begin, time.perf_counter()]
            if way != "direct":
                with torch.inference_mode():
                    latents = enlarged(model, pipeline.vae, latents)
                wait(asked.device)
            times.append(time.perf_counter())
            frames = decoded(decoder, latents.to(decoder.dtype))
            times.append(time.perf_counter())
            right, took = score(scene, describe(frames)), np.diff(times).tolist()
            row = {"study": "generated", "way": way, "clip": index, "caption": scene.caption}
            row |= {"frames": len(frames), "right": right.right, "shape_right": all(right.shape)}
            row |= {"motion_right": all(right.motion), "color_right": all(right.color)}
            row |= dict(zip(("denoise_s", "upsample_s", "decode_s"), took, strict=True))
            yield from [row] if index >= 0 else []


HOW = (
    "clips: held-out ones, encoded as a whole and at half the sides; decode_s with what enlarges; "
    "full size: random weights, decode_video of diffusers' modules; generated: the miniature at "
    "half the sides it was trained at, so what it makes there is its own, not only the upsampler's"
)
SIZES: Row = {
    "size": (FRAMES, HEIGHT, WIDTH), "clips": 8, "prompts": 16, "generated": 33, "denoising": 20,
    "full_size": (81, 480, 832), "width": 96, "large": LARGE, "rounds": 3,
}  # fmt: skip
SMOKE: Row = TRAINED_SMOKE | {
    "size": (17, 64, 64), "clips": 1, "prompts": 1, "generated": 9, "denoising": 2,
    "full_size": (9, 32, 64), "width": 8, "large": CONFIG, "rounds": 2,
}  # fmt: skip


def measure(arguments: argparse.Namespace) -> None:
    """Record all rows."""
    rows: list[Row] = []
    with scorers() as pool:
        model = upsampler_of(arguments.model)
        device = arguments.device
        rows += clip_rows(model.to(device), miniature(device), arguments, pool)
    for way, groups in by_category(row | {"study": None} for row in rows).items():
        mean = {key: groups["all"][key]["mean"] for key in ("psnr_db", "decode_s")}
        print(f"clips, {way}: {mean['psnr_db']:.2f} dB, {mean['decode_s']:.4f} s", flush=True)
    for row in full_size_rows(arguments):
        rows.append(row)
        print(f"full size, {row['step']}: {row['step_s']:.4f} s", flush=True)
    for row in generated_rows(model, arguments):
        rows.append(row)
        print(f"generated, {row['way']}: {row['denoise_s']:.3f} s to denoise", flush=True)
    asked = {key: getattr(arguments, key) for key in SIZES} | {"fps": FPS, "how": HOW}
    print(record(arguments.out, "two-stages", asked | {"smoke": arguments.smoke}, rows, device))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("train", "export", "measure"))
    parser.add_argument("--model", type=Path, help="its folder (export, measure)")
    parser.add_argument("--out", type=Path, help="where the recording gets its folder (measure)")
    parser.add_argument("--clips", type=int, help="of each category (measure)")
    add_options(parser, STEPS, required=False)
    parser.set_defaults(**SIZES, minutes=3.0, rate=RATE, images=IMAGES)
    arguments = parser.parse_args()
    needs = {"train": ("run",), "export": ("run", "model"), "measure": ("model", "out")}
    for name in needs[arguments.stage]:
        if getattr(arguments, name) is None:
            parser.error(f"{arguments.stage} needs --{name}")
    if arguments.smoke:
        vars(arguments).update(SMOKE)
    if arguments.stage == "measure":
        arguments.device = device_for(parser, arguments)
    torch.set_float32_matmul_precision("high")
    try:
        if arguments.stage == "train":
            arguments.run.mkdir(parents=True, exist_ok=True)
            trainer, vae = trainer_of(arguments), miniature(arguments.device)
            train(trainer, arguments, partial(losses, trainer.modules["upsampler"].train(), vae))
        else:
            {"export": export, "measure": measure}[arguments.stage](arguments)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
