"""What the structures cost: at full-size width, against the length of a clip, in training, and in
the denoiser that makes their latents.

    python -m data.structures.cost all --out results

From the top of the repository; each kind writes a recording of its own. Weights are random: time
and memory do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from clips import FPS, FRAMES, HEIGHT, WIDTH
from diffusers import WanTransformer3DModel
from recipe import TEXT_LENGTH, TRANSFORMER, encode

from data.structures import measuring
from data.structures.checkpointing import training_rows
from data.structures.decoders import decoders_of
from data.structures.measuring import META, Row, full_size, in_turns, interval
from data.structures.recipe import STRUCTURES, make, parameters_of
from data.structures.record import device_for, record
from vdkit.models.wan import known_faults

TIMED = 3  # latent frames of a run, behind the first two of a video, which are others
Step = Callable[[int], Any]
"""What decodes or encodes latent frame t of a video, in order."""


def random_latents(decoder: Any, count: int, height: int, width: int) -> torch.Tensor:
    """Of ``count`` latent frames of a video."""
    sides = (height // decoder.spatial_factor, width // decoder.spatial_factor)
    shape = (1, decoder.latent_channels, count, *sides)
    return torch.randn(shape, device=decoder.device, dtype=decoder.dtype)


def decoding(decoder: Any, count: int, height: int, width: int) -> Step:
    """Of a video of random latents."""
    state = decoder.begin(random_latents(decoder, count, height, width))
    return lambda t: decoder.decode_chunk(state, t, t + 1)


def encoding(model: Any, count: int, height: int, width: int, whole: bool = False) -> Step:
    """Of a random video, all of it on the device (``whole``) or each part when it is its turn."""
    step, how = model.config.scale_factor_temporal, {"device": model.device, "dtype": model.dtype}
    drawn = partial(torch.rand, **how)
    clip = drawn((1, 3, 1 + (count - 1) * step, height, width)) if whole else None
    cache = list[Any]()

    def run(t: int) -> torch.Tensor:
        begin, stop = max(0, 1 + (t - 1) * step), 1 + t * step
        taken = clip[:, :, begin:stop] if whole else drawn((1, 3, stop - begin, height, width))
        return encode(model, taken, cache)

    return run


def ways_of(name: str, model: Any) -> dict[str, Callable[..., Step]]:
    """`decoding` by each way there is, and `encoding`, of count, height and width."""
    ways = {way: partial(decoding, decoder) for way, decoder in decoders_of(name, model).items()}
    return {**ways, "encode": partial(encoding, model)}


def under_way(begin: Callable[..., Step], count: int, size: tuple[int, int]) -> Callable[[], None]:
    """What does ``count`` more latent frames of a video whose first two are done."""
    step = begin(2 + count, *size)
    step(0), step(1)
    return lambda: [None for t in range(2, 2 + count) if step(t) is None]


@torch.inference_mode()
def cost_rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Of each structure a row for each way to decode, and one of the encoder; streamed."""
    size, dtype, times = arguments.size, arguments.dtype, arguments.times
    rows: dict[str, Row] = {}
    arms: dict[str, Callable[[], float]] = {}
    for name, structure in STRUCTURES.items():
        model = full_size(name, arguments.device, dtype, times)
        counted = ways_of(name, full_size(name, META, dtype, times))
        pixels = structure.temporal * size[0] * size[1]
        for way, begin in ways_of(name, model).items():
            flop = measuring.flop_by_kind(under_way(counted[way], 1, size))
            rows[f"{name} {way}"] = {
                "structure": name, "way": way, "height": size[0], "width": size[1],
                "frames_per_latent": structure.temporal, "parameters": parameters_of(model),
                "parameters_miniature": parameters_of(make(name)),
                "flop_per_pixel": flop["all"] / pixels,
                "attention_flop_per_pixel": flop["attention"] / pixels,
            }  # fmt: skip
            ready = partial(under_way, begin, TIMED, size)
            arms[f"{name} {way}"] = partial(measuring.seconds_of, ready, arguments.device)
    for arm, seconds in in_turns(arms, arguments.rounds).items():
        ms = [1000 * value / TIMED for value in seconds]
        a_second = [value * FPS / rows[arm]["frames_per_latent"] for value in ms]
        timed = interval("ms_per_latent_frame", ms) | interval("ms_per_video_s", a_second)
        yield rows[arm] | timed


@torch.inference_mode()
def lengths_of(name: str, arguments: argparse.Namespace) -> Iterator[Row]:
    """Of each way to decode and the encoder, whole and streamed, a row for each length."""
    size, structure = arguments.length_size, STRUCTURES[name]
    model = full_size(name, arguments.device, arguments.dtype, arguments.times)
    decoders, weights = decoders_of(name, model), sum(one.nbytes for one in model.parameters())
    for way, begin in ways_of(name, model).items():

        def run(count: int, whole: bool, way: str = way, begin: Any = begin) -> None:
            if whole and way in decoders:
                latents = random_latents(decoders[way], count, *size)
                decoders[way].decode_video(latents, lambda _: None)
                return
            step = begin(count, *size, **({"whole": True} if whole else {}))
            for t in range(count):
                step(t)

        run(3, False)  # what the first call allocates for good
        for whole in (True, False):
            for clip_s in arguments.lengths:
                count = 1 + clip_s * FPS // structure.temporal
                a_second = structure.latent_bytes_per_s(*size) / 2 * arguments.dtype.itemsize
                yield {
                    "structure": name, "way": way, "on_device": "clip" if whole else "chunk",
                    "clip_s": clip_s, "frames": clip_s * FPS + 1, "latent_frames": count,
                    "height": size[0], "width": size[1], "weights_bytes": weights,
                    "latent_bytes": round(a_second * count * structure.temporal / FPS),
                    **measuring.peak_of(partial(run, count, whole), arguments.device),
                }  # fmt: skip


def length_rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """`lengths_of` one structure after the other, each alone in memory."""
    for name in arguments.structures:
        yield from lengths_of(name, arguments)


Clips = tuple[int, int, int]
A14B = {
    "num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "num_layers": 40,
    "freq_dim": 256, "text_dim": 4096,
}  # fmt: skip
DENOISERS: dict[str, tuple[Row, Clips, int, tuple[int, ...]]] = {
    "miniature": (TRANSFORMER, (FRAMES, HEIGHT, WIDTH), 20, (1, 64)),
    "Wan 2.2 A14B": (TRANSFORMER | A14B, (81, 480, 832), 40, (1,)),
}
"""Configuration, size of a clip, steps of a denoising, and clips at once."""


def denoiser(config: Row, device: torch.device, dtype: torch.dtype) -> Any:
    """The transformer, its weights random."""
    with META:
        made = WanTransformer3DModel(**config)
    model = measuring.filled(made, device, dtype)
    if device != META:  # what the position embedding holds is no weight
        head, patch = model.config.attention_head_dim, model.config.patch_size
        model.rope = type(model.rope)(head, patch, model.config.rope_max_seq_len).to(device)
    return model


def forward(model: Any, shape: tuple[int, ...]) -> Callable[[], torch.Tensor]:
    """A forward on random latents of ``shape``."""
    how, batch = {"device": model.device, "dtype": model.dtype}, shape[0]
    text = torch.randn((batch, TEXT_LENGTH, model.config.text_dim), **how)
    noise = torch.full((batch,), 500, device=model.device)
    latents = torch.randn(shape, **how)
    return lambda: model(latents, noise, text, return_dict=False)[0]


@torch.inference_mode()
def generation_rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Of each denoiser a row for each ratio: operations and time; then what trained ones make."""
    for name, (config, size, steps, batches) in arguments.denoisers.items():
        model, counted = (denoiser(config, on, arguments.dtype) for on in (arguments.device, META))
        for batch in batches:
            shapes = {
                f"{side}x{side}x4": (config["in_channels"], 1 + size[0] // 4, *sides)
                for side, sides in ((side, [one // side for one in size[1:]]) for side in (8, 16))
            }
            arms = {
                latents: partial(
                    measuring.seconds_of, partial(forward, model, (batch, *shape)), arguments.device
                )
                for latents, shape in shapes.items()
            }
            for latents, seconds in in_turns(arms, arguments.rounds).items():
                flop = measuring.flop_by_kind(forward(counted, (1, *shapes[latents])))
                timed = interval("forward_ms", [1000 * value / batch for value in seconds])
                yield {
                    "denoiser": name, "latents": latents, "trained": False, "clips_at_once": batch,
                    "frames": size[0], "height": size[1], "width": size[2], "steps": steps,
                    "layers": model.config.num_layers, "parameters": parameters_of(model),
                    "tokens": math.prod(shapes[latents][1:]) // 4, "forward_flop": flop["all"],
                    "attention_flop": flop["attention"], **timed,
                    "denoise_s_per_clip": 2 * steps * timed["forward_ms"] / 1000,
                }  # fmt: skip
        del model, arms
    yield from map(quality_row, arguments.pipelines)


def quality_row(folder: Path) -> Row:
    """What the judge says of a trained pipeline's clips, by its ``metrics.json``."""
    metrics, vae = (
        json.loads((folder / file).read_text()) for file in ("metrics.json", "vae/config.json")
    )
    made, how, side = metrics["generation"], metrics["measured"], vae["scale_factor_spatial"]
    log = (folder / "training" / "diffusion.csv").read_text().splitlines()
    shares = {
        f"{key}_right_share{end}": made["shares"][key][of]
        for key in ("everything", "color", "shape", "motion", "background")
        for end, of in (("", "share"), ("_low", "low"), ("_high", "high"))
    }
    return {
        "denoiser": "miniature", "latents": f"{side}x{side}x4", "trained": True, "clips_at_once": 1,
        **{key: how[key] for key in ("frames", "height", "width", "steps")},
        "training_steps": int(log[-1].split(",")[0]), "prompts": made["prompts"],
        "generate_s_per_clip": made["seconds"]["median"], **shares,
    }  # fmt: skip


FLOP = "flop: a multiplication and an addition are two; norms, activations, interpolation none"
KINDS: dict[Any, tuple[Callable[[argparse.Namespace], Iterator[Row]], str]] = {
    "cost": (cost_rows, f"one latent frame a call, {TIMED} behind the first two are timed; {FLOP}"),
    "training": (
        training_rows,
        "float32, with TF32 on a GPU; the decoder in two calls, first frame and all others; L1; "
        "AdamW; every residual block, attention and resampling checkpointed, not reentrant",
    ),
    "generation": (
        generation_rows,
        "denoise_s_per_clip: the mean time of a forward, two of them a step, the second for "
        f"guidance; generate_s_per_clip: text, denoising, decode, median of the prompts; {FLOP}",
    ),
    "length": (
        length_rows,
        "clip: its frames stay on the device, as vae.decode of diffusers leaves them, or lie there "
        "from the first; the work itself goes latent frame by latent frame, as in diffusers",
    ),
}
"""What measures each kind, and how its numbers are to be read."""
SIZES: Row = {
    "times": 12, "size": (480, 832), "length_size": (240, 416), "lengths": (1, 2, 5, 10, 20, 30),
    "structures": ("z16-8x8x4", "z16-16x16x4", "hierarchical", "factorized"),
    "trained_width": 96, "trained_size": (256, 256), "denoisers": DENOISERS,
}  # fmt: skip
SMOKE: Row = {
    "times": 2, "size": (32, 48), "length_size": (32, 32), "lengths": (1, 2),
    "trained_width": 8, "trained_size": (32, 32), "device": "cpu", "rounds": 2,
    "denoisers": {
        "miniature": (TRANSFORMER, (5, 32, 64), 2, (1, 2)),
        "Wan 2.2 A14B": (TRANSFORMER | {"num_layers": 1}, (9, 64, 64), 2, (1,)),
    },
}  # fmt: skip


def said(row: Row) -> str:
    """A row as a line; the single values of a mean stay in the recording."""
    shown = {key: value for key, value in row.items() if not isinstance(value, list)}
    texts = {key: f"{v:.4g}" if isinstance(v, float) else str(v) for key, v in shown.items()}
    return ", ".join(t if t == shown[key] else f"{key} {t}" for key, t in texts.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=(*KINDS, "all"))
    parser.add_argument(
        "--out", type=Path, required=True, help="where recordings get their folders"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed ones; one before warms up")
    parser.add_argument(
        "--pipelines", type=Path, nargs="+", default=[], metavar="FOLDER",
        help="for generation: trained ones, judged by data/tiny-wan/evaluate.py",
    )  # fmt: skip
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu, for hours")
    parser.add_argument("--smoke", action="store_true", help="all of it, small, on a CPU")
    parser.set_defaults(**SIZES)
    arguments = parser.parse_args()
    if arguments.smoke:
        vars(arguments).update(SMOKE)
    if arguments.rounds < 2:
        parser.error(f"--rounds is {arguments.rounds}; an interval needs 2 or more")
    arguments.device = device = device_for(parser, arguments)
    for file in (folder / "metrics.json" for folder in arguments.pipelines):
        if not file.exists():
            parser.error(f"{file} is missing; judge its clips first: data/tiny-wan/evaluate.py")
    arguments.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.set_float32_matmul_precision("high")
    cudnn = torch.backends.cudnn.version() if device.type == "cuda" else None
    asked = {
        "rounds": arguments.rounds, "dtype": str(arguments.dtype).split(".")[1],
        "weights": "random", "variant": "eager, as loaded", "smoke": arguments.smoke,
        "notes": list(known_faults(torch.__version__, cudnn, arguments.dtype)),
    }  # fmt: skip
    for kind in KINDS if arguments.kind == "all" else (arguments.kind,):
        rows, (measure, how) = [], KINDS[kind]
        for row in measure(arguments):
            print(said(row), flush=True)
            rows.append(row)
        dtype = {"dtype": "float32"} if kind == "training" else {}  # autocast is a row's
        print(record(arguments.out, kind, asked | dtype | {"how": how}, rows, device), flush=True)


if __name__ == "__main__":
    main()
