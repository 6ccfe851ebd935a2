"""What can be asked of a Wan pipeline: words, sizes, steps and seeds, checked before it runs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from diffusers import WanPipeline

from vdkit.decode.chunks import latent_frames

TEXT_TOKENS = 512
"""What a prompt is padded to: WanPipeline's own default, which its ``encode_prompt`` has not."""


def unknown_words(pipeline: WanPipeline, prompt: str) -> tuple[str, ...]:
    """The prompt's words, in order, of which the tokenizer does not know a part."""
    unknown = pipeline.tokenizer.unk_token_id
    return tuple(
        word
        for word in dict.fromkeys(prompt.split())
        if unknown is not None
        and unknown in pipeline.tokenizer(word, add_special_tokens=False).input_ids
    )


def prompt_notes(pipeline: WanPipeline, prompt: str, negative_prompt: str = "") -> list[str]:
    """What the model will not read of the two prompts, in words; empty if it reads it all."""
    notes = []
    for name, text in (("prompt", prompt), ("negative prompt", negative_prompt)):
        if strange := unknown_words(pipeline, text):
            listed = ", ".join(map(repr, strange))
            notes.append(f"the {name} has words the tokenizer does not know: {listed}")
        tokens = len(pipeline.tokenizer(text, verbose=False).input_ids)
        if tokens > TEXT_TOKENS:
            notes.append(f"the {name} has {tokens} tokens; only the first {TEXT_TOKENS} are read")
    return notes


def experts(pipeline: WanPipeline) -> dict[str, torch.nn.Module]:
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


def check_keep_steps(keep_steps: Collection[int], steps: int) -> None:
    """ValueError unless each is one of the steps, counted from 1."""
    for step in keep_steps:
        if step not in range(1, steps + 1):
            near = min(max(round(step), 1), steps)
            raise ValueError(f"keep_steps has {step}; steps are 1 to {steps}, e.g. {near}")


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
    config: Any = next(iter(experts(pipeline).values())).config
    patch = config.patch_size
    for name, side, times in (("height", height, patch[1]), ("width", width, patch[2])):
        factor = pipeline.vae_scale_factor_spatial * times
        if side < 1 or side % factor:
            near = max(factor, round(side / factor) * factor)
            raise ValueError(f"{name} is {side}; use a multiple of {factor}, e.g. {near}")
