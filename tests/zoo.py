"""Public decoders from their own configurations, thin, and a driver for them."""

from __future__ import annotations

import torch

from vdkit.decode.chunks import chunks_of
from vdkit.decode.media import MEDIA

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


def driven(decoder, latents, chunk_size):
    """Chunk after chunk, as the paths of `vdkit.decode` ask for them."""
    state, axis = decoder.begin(latents), MEDIA[decoder.medium].axis
    for chunk in chunks_of(decoder, latents, chunk_size):
        made = decoder.decode_chunk(state, chunk.latent_start, chunk.latent_stop)
        assert made.shape[axis] == chunk.frames, (chunk.latent_start, chunk.latent_stop)
        yield made
    decoder.end(state)


def streamed(decoder, latents, chunk_size):
    """All of them, concatenated."""
    return torch.cat(list(driven(decoder, latents, chunk_size)), MEDIA[decoder.medium].axis)
