"""What the miniature is made of: the sizes of its parts, its tokenizer, its scheduler.

The classes, the topology and the file layout are those of Wan2.2-T2V-A14B in diffusers; only the
widths and depths differ, and the tokenizer knows just the words of `clips`.
"""

from __future__ import annotations

from typing import Any

import torch
from clips import words
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

BOUNDARY_RATIO = 0.875  # as in Wan2.2-T2V-A14B: from this noise level up the first expert runs
FLOW_SHIFT = 3.0  # as in Wan2.2-T2V-A14B
TEXT_LENGTH = 512  # tokens the pipeline pads every prompt to
CAPTION_LENGTH = 24  # tokens that hold every caption

VAE: dict[str, Any] = {"base_dim": 12, "decoder_base_dim": 16, "z_dim": 16}
TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "num_layers": 6,
    "ffn_dim": 384,
    "freq_dim": 128,
    "text_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
}
TEXT_ENCODER: dict[str, Any] = {
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_heads": 4,
    "num_layers": 2,
    "dropout_rate": 0.0,
}
SCHEDULER: dict[str, Any] = {
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": FLOW_SHIFT,
    "num_train_timesteps": 1000,
}
SPECIAL = ("<pad>", "</s>", "<unk>")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, lower-cased; every other word becomes ``<unk>``."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *words()))}
    pad, end, unknown = SPECIAL
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, vocabulary[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=end,
        unk_token=unknown,
        model_max_length=TEXT_LENGTH,
    )


def make_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(**VAE)


def make_transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(**TRANSFORMER)


def make_text_encoder() -> UMT5EncoderModel:
    vocabulary = len(SPECIAL) + len(words())
    return UMT5EncoderModel(
        UMT5Config(vocab_size=vocabulary, pad_token_id=0, eos_token_id=1, **TEXT_ENCODER)
    )


def make_pipeline(
    vae: AutoencoderKLWan,
    text_encoder: UMT5EncoderModel,
    transformer: WanTransformer3DModel,
    transformer_2: WanTransformer3DModel,
) -> WanPipeline:
    """The parts put together as diffusers does; ``save_pretrained`` writes the folder."""
    return WanPipeline(
        tokenizer=make_tokenizer(),
        text_encoder=text_encoder,
        vae=vae,
        scheduler=UniPCMultistepScheduler(**SCHEDULER),
        transformer=transformer,
        transformer_2=transformer_2,
        boundary_ratio=BOUNDARY_RATIO,
    )


def encode(
    vae: AutoencoderKLWan, frames: torch.Tensor, cache: list[Any] | None = None
) -> torch.Tensor:
    """Posterior parameters [B, 2 C, T, h, w] of [B, 3, F, H, W] in [-1, 1].

    The same as ``vae.encode`` in two calls: the first frame, then all others (the causal cache
    does not mind how many frames a call brings), which is what makes training on a GPU fast.

    Args:
        cache: of the frames before, which it renews, to go on from them with a multiple of 4; an
            empty list at the beginning.
    """
    cache = [] if cache is None else cache
    if vae.config.patch_size:
        frames = patchify(frames, vae.config.patch_size)
    parts = []
    if not cache:
        cache += [None] * vae._cached_conv_counts["encoder"]
        parts = [vae.encoder(frames[:, :, :1], feat_cache=cache, feat_idx=[0])]
        frames = frames[:, :, 1:]
    if frames.shape[2]:
        parts.append(vae.encoder(frames, feat_cache=cache, feat_idx=[0]))
    return vae.quant_conv(torch.cat(parts, 2))


def decode(
    vae: AutoencoderKLWan, latents: torch.Tensor, cache: list[Any] | None = None
) -> torch.Tensor:
    """Frames [B, 3, F, H, W], not clamped, of latents [B, C, T, h, w], in two calls as `encode`.

    Args:
        cache: as in `encode`, of the latents before.
    """
    cache = [] if cache is None else cache
    latents = vae.post_quant_conv(latents)
    parts = []
    if not cache:
        cache += [None] * vae._cached_conv_counts["decoder"]
        first = latents[:, :, :1]
        parts = [vae.decoder(first, feat_cache=cache, feat_idx=[0], first_chunk=True)]
        latents = latents[:, :, 1:]
    if latents.shape[2]:
        parts.append(vae.decoder(latents, feat_cache=cache, feat_idx=[0]))
    frames = torch.cat(parts, 2)
    patch_size = vae.config.patch_size
    return unpatchify(frames, patch_size) if patch_size else frames


def embed(encoder: UMT5EncoderModel, ids: torch.Tensor) -> torch.Tensor:
    """Text embeddings as WanPipeline makes them, zero behind the end of the text.

    Takes ids int64 [B, L], padded with 0; gives [B, TEXT_LENGTH, d].
    """
    mask = ids != 0
    hidden = encoder(ids, mask).last_hidden_state * mask[..., None]
    return torch.nn.functional.pad(hidden, (0, 0, 0, TEXT_LENGTH - ids.shape[1]))
