"""Public decoders from their configurations, thin, with seeded weights: what they all are is kept."""

from __future__ import annotations

from itertools import pairwise

import torch

KL = {
    "block_out_channels": [8, 16], "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2, "norm_num_groups": 2, "latent_channels": 4,
}  # fmt: skip
LTX = {
    "latent_channels": 16, "block_out_channels": (8, 8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8, 8), "layers_per_block": (1,) * 5,
    "decoder_layers_per_block": (1,) * 5,
}  # fmt: skip
CONFIGS = {
    "AutoencoderKL": KL,
    "AutoencoderDC": {
        "latent_channels": 8, "attention_head_dim": 4,
        "encoder_block_out_channels": (8,) * 6, "decoder_block_out_channels": (8,) * 6,
        "encoder_layers_per_block": (1,) * 6, "decoder_layers_per_block": (1,) * 6,
    },
    "AutoencoderKLQwenImage": {"base_dim": 8, "num_res_blocks": 1},
    "AutoencoderKLCogVideoX": {
        "block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 2,
    },
    "AutoencoderKLMagvit": {
        "block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 2,
    },
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4,
        "layers_per_block": (1,) * 5,
    },
    "AutoencoderKLCosmos": {
        "encoder_block_out_channels": (8,) * 4, "decode_block_out_channels": (8,) * 4,
        "num_layers": 1,
    },
    "AutoencoderKLHunyuanVideo15": {
        "latent_channels": 8, "block_out_channels": (8, 8, 8, 16, 16), "layers_per_block": 1,
    },
    "AutoencoderKLHunyuanVideo": {
        "block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 2,
    },
    "AutoencoderKLLTXVideo": LTX,
    "AutoencoderKLLTX2Video": {
        "latent_channels": 16, "block_out_channels": (8, 8, 16, 16),
        "decoder_block_out_channels": (8, 16, 32), "layers_per_block": (1,) * 5,
        "decoder_layers_per_block": (1,) * 4, "decoder_causal": False,
        "decoder_spatial_padding_mode": "zeros",
    },
    "AutoencoderOobleck": {
        "encoder_hidden_size": 4, "decoder_channels": 4, "channel_multiples": [1, 1, 1],
        "downsampling_ratios": [2, 4, 8], "decoder_input_channels": 8,
    },
    "DacModel": {
        "encoder_hidden_size": 4, "decoder_hidden_size": 16, "downsampling_ratios": [2, 5, 4],
        "n_codebooks": 1, "codebook_size": 8, "codebook_dim": 2,
    },
    "MimiModel": {
        "hidden_size": 16, "num_filters": 4, "upsampling_ratios": [4, 2], "upsample_groups": 16,
        "num_quantizers": 2, "codebook_size": 8, "codebook_dim": 4,
        "vector_quantization_hidden_dimension": 4, "num_hidden_layers": 2, "intermediate_size": 16,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6,
        "layer_scale_initial_scale": 0.5, "frame_rate": 1500, "initializer_range": 0.2,
    },
    "VibeVoiceAcousticTokenizerModel": {
        "hidden_size": 8, "num_filters": 4, "downsampling_ratios": [2, 4], "depths": [1, 1, 2],
        "layer_scale_init_value": 0.5, "initializer_range": 0.2,
    },
}  # fmt: skip


def latents_of(decoder, count, seed=0, sides=(2, 3)):
    """Noise that the decoder takes, of ``count`` latents, images or latent frames."""
    shape = {
        "video": (1, decoder.latent_channels, count, *sides),
        "images": (count, decoder.latent_channels, *sides),
        "audio": (1, decoder.latent_channels, count),
    }[decoder.medium]
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise.to(decoder.device, decoder.dtype)


def planned(decoder, latents, chunk_size):
    """The decoder's plan, or what holds where it has none: (start, stop, units)."""
    if hasattr(decoder, "plan"):
        return decoder.plan(latents, chunk_size)
    video = decoder.medium == "video"
    count = latents.shape[0 if decoder.medium == "images" else 2]
    factor, first = decoder.temporal_factor, int(video)
    inner = range(first or chunk_size or count, count, chunk_size) if chunk_size else ()
    borders = [0, *inner, count]
    return [
        (a, b, factor * (b - a) - (factor - 1) * (video and a == 0)) for a, b in pairwise(borders)
    ]


def driven(decoder, latents, chunk_size, state=None):
    """Chunks one after the other, as a path of `vdkit.decode` asks for them; generated."""
    state = decoder.begin(latents)
    axis = 0 if decoder.medium == "images" else 2
    for start, stop, units in planned(decoder, latents, chunk_size):
        made = decoder.decode_chunk(state, start, stop)
        assert made.shape[axis] == units, (start, stop, units, made.shape)
        yield made
    decoder.end(state)


def streamed(decoder, latents, chunk_size):
    """All of them, concatenated."""
    axis = 0 if decoder.medium == "images" else 2
    return torch.cat(list(driven(decoder, latents, chunk_size)), axis)
