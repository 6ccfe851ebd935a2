"""Text to latents with a Wan pipeline: where the time goes before there is anything to decode."""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import WanPipeline

from vdkit.decode.chunks import latent_frames
from vdkit.models.wan import WanDecoder

GUIDANCE = (4.0, 3.0)
"""Guidance scales of the high-noise and the low-noise expert: Wan2.2-T2V-A14B's model card."""
TEXT_TOKENS = 512
"""What a prompt is padded to: WanPipeline's own default, which its ``encode_prompt`` has not."""


class PromptWarning(UserWarning):
    """The model cannot follow a part of a prompt: unknown words, or more than `TEXT_TOKENS`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a generation.

    Attributes:
        name: ``text encoder``, or ``step N`` from 1.
        seconds: wall clock, the device synchronized at both ends.
        peak_vram_bytes: allocated at most while it ran, weights included; None on a CPU.
        expert: which transformer ran, ``high-noise`` or ``low-noise``; ``only`` where a pipeline
            has one; None for the text encoder.
        timestep: noise level times 1000, for steps.
    """

    name: str
    seconds: float
    peak_vram_bytes: int | None
    expert: str | None = None
    timestep: float | None = None


@dataclass(frozen=True, slots=True)
class KeptStep:
    """Latents in the middle of a generation, both [1, C, T, h, w], float32, on the CPU,
    de-normalized: what a decode path takes.

    Attributes:
        step: after which, from 1.
        expert, timestep: as in its `Stage`.
        latents: as they were, noise and all.
        predicted: what the model expected them to end as, from this step; None with a scheduler
            that does not predict that (``predict_x0`` of diffusers' multistep schedulers).
    """

    step: int
    expert: str
    timestep: float
    latents: torch.Tensor
    predicted: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class GeneratedLatents:
    """Latents that a pipeline made, and what it took.

    Attributes:
        latents: [1, C, T, h, w], float32, on the CPU, de-normalized: what a decode path takes.
        stages: text encoder, then every denoising step.
        unknown_words: of the prompt; the model saw a placeholder in their place.
        metadata: prompt, seed, shape, normalization, source and versions, as text; what
            `vdkit.models.latents.save_latents` writes beside the tensor.
        token_ids: of the prompt, as the text encoder read it, before padding.
        embedding: of the prompt, [1, 512, d], in the text encoder's dtype, on the CPU.
        kept: what ``keep_steps`` asked for, in order.
    """

    latents: torch.Tensor
    stages: tuple[Stage, ...]
    unknown_words: tuple[str, ...]
    metadata: dict[str, str]
    token_ids: tuple[int, ...]
    embedding: torch.Tensor
    kept: tuple[KeptStep, ...] = ()


def pipeline_decoder(pipeline: WanPipeline) -> WanDecoder:
    """The pipeline's VAE as a streaming decoder; the weights are shared, not copied."""
    source = pipeline.config.get("_name_or_path") or "pipeline"
    return WanDecoder(pipeline.vae, Path(source).name)


def generate_latents(
    pipeline: WanPipeline,
    prompt: str,
    frames: int = 33,
    height: int = 96,
    width: int = 160,
    steps: int = 20,
    seed: int = 0,
    *,
    guidance: float = GUIDANCE[0],
    guidance_2: float = GUIDANCE[1],
    negative_prompt: str = "",
    noise: torch.Tensor | None = None,
    keep_steps: Collection[int] = (),
    progress: bool = True,
) -> GeneratedLatents:
    """Run text encoder and denoising, stop at the latents and de-normalize them.

    Args:
        pipeline: of `vdkit.load_pipeline`, or any `diffusers.WanPipeline`.
        prompt: what the video shows; words the tokenizer does not know give a warning.
        frames: pixel frames, 4n + 1 for Wan.
        height, width: pixels, multiples of 16 for Wan 2.1's VAE, of 32 for Wan 2.2's.
        steps: denoising steps, from 1 to the scheduler's noise levels (1000).
        seed: of the noise, which is drawn on the CPU: the same on every device.
        guidance, guidance_2: classifier-free guidance of the high-noise and low-noise expert. With
            the first at 1 or below there is none at all, as in diffusers; a pipeline with one
            transformer takes the first.
        negative_prompt: what guidance leads away from.
        noise: [1, C, T, h, w] of normal values, in place of that of ``seed``: a part of another's.
        keep_steps: steps, from 1, after which to keep the latents, outside the seconds of any.
        progress: diffusers' bar of the steps.

    Raises:
        TypeError: not a `WanPipeline`, or a prompt that is no text.
        ValueError: an empty prompt; frames, size, steps, seed or ``keep_steps`` out of range. It
            names the nearest value that works. Or ``noise`` of another shape.
        MemoryError: the video does not fit.
    """
    check_request(prompt, steps, seed, guidance, guidance_2)
    check_fit(pipeline, frames, height, width, steps)
    if noise is not None:
        config: Any = next(iter(_experts(pipeline).values())).config
        count = latent_frames(frames, pipeline.vae_scale_factor_temporal)
        sides = [side // pipeline.vae_scale_factor_spatial for side in (height, width)]
        if list(noise.shape) != (wanted := [1, config.in_channels, count, *sides]):
            video = f"{frames} frames of {height}x{width}"
            raise ValueError(f"noise is {list(noise.shape)}; {video} take {wanted}")
    for step in keep_steps:
        if step not in range(1, steps + 1):
            near = min(max(round(step), 1), steps)
            raise ValueError(f"keep_steps has {step}; steps are 1 to {steps}, e.g. {near}")
    tokenizer = pipeline.tokenizer
    for name, text in (("prompt", prompt), ("negative prompt", negative_prompt)):
        for note in _unread(tokenizer, text):
            warnings.warn(f"the {name} has {note}", PromptWarning, stacklevel=2)
    device, two = pipeline._execution_device, len(_experts(pipeline)) == 2
    laps = _laps(device)
    next(laps)
    with torch.inference_mode():
        positive, negative = pipeline.encode_prompt(
            prompt, negative_prompt, do_classifier_free_guidance=guidance > 1,
            max_sequence_length=TEXT_TOKENS, device=device,
        )  # fmt: skip
        stages = [Stage("text encoder", *next(laps))]
    decoder = pipeline_decoder(pipeline)
    ran: list[str] = []
    keeping: list[KeptStep] = []

    def plain(normalized: torch.Tensor) -> torch.Tensor:
        return decoder.denormalize(normalized.float()).cpu()

    def on_step(_: Any, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> Any:
        stages.append(Stage(f"step {step + 1}", *next(laps), ran[-1], float(timestep)))
        if step + 1 in keep_steps:
            # The clean latents that the step was made of, normalized, if the scheduler has them.
            predicts = pipeline.scheduler.config.get("predict_x0")
            ends = getattr(pipeline.scheduler, "model_outputs", None) if predicts else None
            predicted = plain(ends[-1]) if ends else None
            latents = plain(tensors["latents"])
            keeping.append(KeptStep(step + 1, ran[-1], float(timestep), latents, predicted))
            next(laps)
        return tensors

    with ExitStack() as stack:
        for name, module in _experts(pipeline).items():
            hook = module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
            stack.callback(hook.remove)
        as_before = getattr(pipeline, "_progress_bar_config", {})
        stack.callback(pipeline.set_progress_bar_config, **as_before)
        pipeline.set_progress_bar_config(disable=not progress, desc="denoise", unit="step")
        try:
            normalized = pipeline(
                prompt_embeds=positive, negative_prompt_embeds=negative, num_frames=frames,
                height=height, width=width, num_inference_steps=steps, guidance_scale=guidance,
                guidance_scale_2=guidance_2 if two else None, output_type="latent",
                generator=torch.Generator().manual_seed(seed), latents=noise,
                callback_on_step_end=on_step,
            ).frames  # fmt: skip
        except RuntimeError as error:  # of CUDA, or of the CPU's allocator
            if "memory" not in str(error):
                raise
            line = str(error).strip().splitlines()[0]
            raise MemoryError(
                f"{frames} frames of {height}x{width} do not fit in memory; ask for fewer: {line}"
            ) from error
    latents = plain(normalized)
    metadata = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "seed": str(seed) if noise is None else "none, the noise was given",
        "steps": str(steps),
        "guidance": f"{guidance:g}, {guidance_2:g}" if two else f"{guidance:g}",
        "shape": ", ".join(map(str, latents.shape)),
        "video": f"{frames} frames of {height}x{width}",
        "normalization": "undone",
        "source": decoder.name,
        "versions": f"torch {torch.__version__}, diffusers {diffusers.__version__}",
    }
    return GeneratedLatents(
        latents,
        tuple(stages),
        _unknown_words(tokenizer, prompt),
        metadata,
        tuple(tokenizer(prompt, verbose=False).input_ids[:TEXT_TOKENS]),
        positive.clone().cpu(),  # as an ordinary tensor, not one of inference mode
        tuple(keeping),
    )


def _laps(device: torch.device) -> Iterator[tuple[float, int | None]]:
    """Seconds since the lap before, and the most bytes that were allocated in it on a GPU."""
    since_s, peak = 0.0, None
    while True:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            peak = torch.cuda.max_memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
        before, since_s = since_s, time.perf_counter()
        yield since_s - before, peak


def _unknown_words(tokenizer: Any, text: str) -> tuple[str, ...]:
    """The words, in order, of which the tokenizer does not know a part."""
    unknown = tokenizer.unk_token_id
    words = () if unknown is None else dict.fromkeys(text.split())
    return tuple(w for w in words if unknown in tokenizer(w, add_special_tokens=False).input_ids)


def _unread(tokenizer: Any, text: str) -> Iterator[str]:
    """What the model will not read of a prompt, in words."""
    if strange := _unknown_words(tokenizer, text):
        yield f"words the tokenizer does not know: {', '.join(map(repr, strange))}"
    tokens = len(tokenizer(text, verbose=False).input_ids)
    if tokens > TEXT_TOKENS:
        yield f"{tokens} tokens; only the first {TEXT_TOKENS} are read"


def _experts(pipeline: WanPipeline) -> dict[str, torch.nn.Module]:
    """The pipeline's transformers by what stages call them."""
    first, second = pipeline.transformer, pipeline.transformer_2
    if first is not None and second is not None:
        return {"high-noise": first, "low-noise": second}
    return {"only": first if first is not None else second}


def check_request(
    prompt: str, steps: int, seed: int, guidance: float = 1.0, guidance_2: float = 1.0
) -> None:
    """What can be seen to be wrong before a pipeline is loaded; raises as `generate_latents`."""
    if not isinstance(prompt, str):
        raise TypeError(f"prompt is a {type(prompt).__name__}; one text is needed")
    if not prompt.strip():
        raise ValueError(
            "the prompt is empty; say what the video shows, e.g. 'a red circle moves left over a "
            "gray background'"
        )
    if steps < 1:
        raise ValueError(f"steps is {steps}; denoise in 1 step or more")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}; use 0 to 2**63 - 1")
    for name, scale in (("guidance", guidance), ("guidance_2", guidance_2)):
        if not 0 <= scale < float("inf"):
            raise ValueError(f"{name} is {scale}; use 0 or more, 1 for none")


def check_fit(pipeline: WanPipeline, frames: int, height: int, width: int, steps: int) -> None:
    """What can be seen to be wrong once it is loaded; raises as `generate_latents`."""
    if not isinstance(pipeline, WanPipeline):
        raise TypeError(f"pipeline is a {type(pipeline).__name__}; a WanPipeline is needed")
    most = pipeline.scheduler.config.num_train_timesteps
    if steps > most:
        raise ValueError(
            f"steps is {steps}; the scheduler has {most} noise levels, use 1 to {most}"
        )
    latent_frames(frames, pipeline.vae_scale_factor_temporal)
    config: Any = next(iter(_experts(pipeline).values())).config
    patch = config.patch_size
    for name, side, times in (("height", height, patch[1]), ("width", width, patch[2])):
        factor = pipeline.vae_scale_factor_spatial * times
        if side < 1 or side % factor:
            near = max(factor, round(side / factor) * factor)
            raise ValueError(f"{name} is {side}; use a multiple of {factor}, e.g. {near}")
