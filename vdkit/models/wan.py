"""Wan's video VAE (diffusers' `AutoencoderKLWan`) as a streaming chunk decoder.

diffusers decodes a whole video and keeps the causal cache on the model, so one model can decode
only one video at a time and all its pixels stay in VRAM. Here the cache belongs to the video.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify
from diffusers.video_processor import VideoProcessor

if TYPE_CHECKING:
    import numpy as np


@dataclass(slots=True)
class WanState:
    """One video being decoded: its latents after ``post_quant_conv`` and the causal cache."""

    latents: torch.Tensor
    cache: list[Any]
    next_start: int = 0


class WanDecoder:
    """Decodes Wan latents chunk by chunk; a `ChunkDecoder` and a `WholeVideoDecoder`.

    The frames equal those of ``vae.decode``: bit for bit in float32 at one latent frame per call,
    within one uint8 level at more (convolutions over more frames may sum in another order).

    Args:
        vae: the model, in the dtype and on the device it is to run on.
        name: how records call it.

    Attributes:
        notes: what a record should say of this decoder here, such as a cuDNN known to be wrong.
    """

    variant: ClassVar[str] = "diffusers"

    def __init__(self, vae: AutoencoderKLWan, name: str) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.name = name
        self.device: torch.device = vae.device
        self.dtype: torch.dtype = vae.dtype
        self.latent_channels: int = vae.config.z_dim
        self.spatial_factor: int = vae.config.scale_factor_spatial
        self.temporal_factor: int = vae.config.scale_factor_temporal
        cudnn = torch.backends.cudnn.version() if self.device.type == "cuda" else None
        self.notes = known_faults(torch.__version__, cudnn, self.dtype)
        self._cached_convolutions = sum(
            isinstance(m, WanCausalConv3d) for m in vae.decoder.modules()
        )
        self._processor = VideoProcessor(vae_scale_factor=self.spatial_factor)

    def begin(self, latents: torch.Tensor) -> WanState:
        """Start a video of latents [1, C, T, h, w], de-normalized, on ``device`` in ``dtype``."""
        return WanState(self.vae.post_quant_conv(latents), [None] * self._cached_convolutions)

    def decode_chunk(self, state: WanState, start: int, stop: int) -> torch.Tensor:
        """Decode latent frames ``start`` to ``stop``: [1, 3, F, H, W] RGB in [-1, 1] in ``dtype``.

        Raises:
            ValueError: the chunk does not follow the one before, or the first is not (0, 1).
        """
        check_order(state.next_start, start, stop, state.latents.shape[2])
        frames = self.vae.decoder(
            state.latents[:, :, start:stop],
            feat_cache=state.cache,
            feat_idx=[0],
            first_chunk=start == 0,
        )
        state.next_start = stop
        if self.vae.config.patch_size is not None:
            frames = unpatchify(frames, patch_size=self.vae.config.patch_size)
        return frames.clamp_(-1.0, 1.0)

    def prepare(self, height: int, width: int, chunk_size: int) -> None:
        """Nothing is to be done before the first video; other variants have what is."""

    def decode_video(
        self, latents: torch.Tensor, before_frame: Callable[[int], None]
    ) -> torch.Tensor:
        """diffusers' own whole-video decode of [1, C, T, h, w]: [1, 3, F, H, W] in [-1, 1].

        ``before_frame(i)`` runs before latent frame i and may raise to stop.
        """
        frame = iter(range(latents.shape[2]))
        hook = self.vae.decoder.register_forward_pre_hook(
            lambda module, inputs: before_frame(next(frame))
        )
        try:
            return self.vae.decode(latents, return_dict=False)[0]
        except BaseException:
            self.vae.clear_cache()
            raise
        finally:
            hook.remove()

    def to_numpy(self, frames: torch.Tensor) -> np.ndarray:
        """float32 [1, 3, F, H, W] in [-1, 1] to numpy [F, H, W, 3] in [0, 1], by VideoProcessor."""
        return self._processor.postprocess_video(frames, output_type="np")[0]

    def denormalize(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents as a diffusion pipeline leaves them to latents as the decoder takes them.

        ``latents * latents_std + latents_mean`` by channel, in the arithmetic of diffusers'
        ``WanPipeline``. Takes and returns [1, C, T, h, w] or [C, T, h, w].
        """
        shape = (self.latent_channels, 1, 1, 1)
        config = self.vae.config
        mean = torch.tensor(config.latents_mean).view(shape).to(latents.device, latents.dtype)
        inverse_std = 1.0 / torch.tensor(config.latents_std).view(shape).to(
            latents.device, latents.dtype
        )
        return latents / inverse_std + mean

    def weights_sha256(self) -> str:
        """Hash of the names, shapes, dtypes and bytes of the weights that decode."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.vae.state_dict().items()):
            if name.startswith(("decoder.", "post_quant_conv.")):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(
                    tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
                )
        return digest.hexdigest()

    def working_bytes(self, chunk_size: int, height: int, width: int) -> int:
        """Estimated device bytes of a decode beside the weights and the ring.

        The causal cache is counted (two frames in front of every cached convolution); the live
        activations, which peak in the last stage, are in proportion to that stage's size, by a
        factor measured on CUDA (`LIVE_ACTIVATIONS`).

        Args:
            chunk_size: latent frames per call.
            height, width: of the latents.
        """
        convolutions = self.vae.decoder.named_modules()
        last_stage = len(self.vae.decoder.up_blocks) - 1
        cache = sum(
            2 * module.in_channels * 4 ** _stage(name, last_stage)
            for name, module in convolutions
            if isinstance(module, WanCausalConv3d) and module.kernel_size[0] > 1
        )
        plane = self.vae.decoder.conv_out.in_channels * 4**last_stage
        frames = chunk_size * self.temporal_factor
        live = LIVE_ACTIVATIONS[bool(self.vae.config.is_residual)] * frames * plane
        return int((cache + live) * height * width * self.dtype.itemsize)


def known_faults(torch_version: str, cudnn: int | None, dtype: torch.dtype) -> tuple[str, ...]:
    """What is known to go wrong with convolutions over time there; ``cudnn`` None: not on a GPU.

    Source: https://github.com/pytorch/pytorch/issues/163539 (bfloat16), and torch 2.9.0, which
    passed cuDNN by.
    """
    found = []
    if cudnn is not None and 90800 <= cudnn < 91100 and dtype == torch.bfloat16:
        found.append(
            f"cuDNN {cudnn} gives wrong convolutions over time in bfloat16: use --dtype float16 "
            "or cuDNN 9.11 or newer"
        )
    if cudnn is not None and torch_version.split("+")[0] == "2.9.0":
        found.append("torch 2.9.0 does not use cuDNN for convolutions over time: slow; use another")
    return tuple(found)


def check_order(expected: int, start: int, stop: int, frames: int) -> None:
    """ValueError unless latent frames ``start`` to ``stop`` come next and the first is (0, 1)."""
    if start != expected or not start < stop <= frames or (start == 0) != (stop == 1):
        raise ValueError(
            f"chunk ({start}, {stop}) cannot follow latent frame {expected} of {frames}; "
            "chunks are decoded in order and the first is (0, 1)"
        )


LIVE_ACTIVATIONS = {False: 9.0, True: 15.0}
"""Tensors of the last stage's size alive at a chunk's peak, without and with Wan 2.2's shortcuts.

Measured at 480x832 with chunks of 1, 2 and 4; tests/gpu/test_memory.py holds it to that.
"""


def _stage(name: str, last: int) -> int:
    """Doublings of height and width in front of a decoder module."""
    if name.startswith("up_blocks."):
        return int(name.split(".")[1])
    return last if name == "conv_out" else 0
