"""Wan's video VAE (diffusers' `AutoencoderKLWan`) as a streaming chunk decoder, on its modules.

diffusers decodes a whole video and keeps the causal cache on the model, so one model can decode
only one video at a time and all its pixels stay in VRAM. Here the cache belongs to the video. The
same with weights channels last, and with a compiled step.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanCausalConv3d,
    WanResample,
    unpatchify,
)
from diffusers.video_processor import VideoProcessor

from vdkit.decode.engines import on_device

if TYPE_CHECKING:
    import numpy as np

LIVE_ACTIVATIONS = {False: 9.0, True: 15.0}
"""Tensors of the last stage's size alive at a chunk's peak, without and with Wan 2.2's shortcuts.

Measured at 480x832 with chunks of 1, 2 and 4; tests/gpu/test_memory.py holds it to that.
"""
CACHE_FRAMES = 2
"""Frames that a convolution over time remembers once a video is under way."""
_PREPARING_CHUNKS = 5  # the first frame, an eager chunk, the one that compiles, two that use it
RMS_AT_MOST = {torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.03}
"""Between compiled and eager frames, of values from -1 to 1: more is not rounding."""

_Cache = tuple[torch.Tensor, ...]
_Step = Callable[[torch.Tensor, _Cache], tuple[torch.Tensor, _Cache]]


class WanBase:
    """What all decoders of an `AutoencoderKLWan` have: its figures and its normalization.

    Args:
        vae: the model, in the dtype and on the device it is to run on.
        name: how records call it.

    Attributes:
        notes: what a record should say of this decoder here, such as a cuDNN known to be wrong.
    """

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

    def denormalize(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents as a diffusion pipeline leaves them to latents as the decoder takes them.

        ``latents * latents_std + latents_mean`` by channel, in the arithmetic of diffusers'
        ``WanPipeline``. Takes and returns [1, C, T, h, w] or [C, T, h, w].
        """
        config = self.vae.config
        mean, std = (
            torch.tensor(figures).view(-1, 1, 1, 1).to(latents)
            for figures in (config.latents_mean, config.latents_std)
        )
        return latents / (1.0 / std) + mean

    def weights_sha256(self) -> str:
        """Hash of the names, shapes, dtypes and bytes of the weights that decode."""
        return weights_digest(self.vae)


def weights_digest(model: torch.nn.Module) -> str:
    """Hash of the names, shapes, dtypes and bytes of the weights of ``model`` that decode."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(("decoder.", "post_quant_conv.")):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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


@dataclass(slots=True)
class WanState:
    """One video being decoded: its latents after ``post_quant_conv`` and the causal cache."""

    latents: torch.Tensor
    cache: list[Any]
    next_start: int = 0


class WanDecoder(WanBase):
    """Decodes Wan latents chunk by chunk; a `ChunkDecoder` and a `WholeVideoDecoder`.

    The frames equal those of ``vae.decode``: bit for bit in float32 at one latent frame per call,
    within one uint8 level at more (convolutions over more frames may sum in another order).
    """

    variant: ClassVar[str] = "diffusers"

    def begin(self, latents: torch.Tensor) -> WanState:
        """Start a video of latents [1, C, T, h, w], de-normalized, on ``device`` in ``dtype``."""
        cached = sum(isinstance(m, WanCausalConv3d) for m in self.vae.decoder.modules())
        return WanState(self.vae.post_quant_conv(latents), [None] * cached)

    def decode_chunk(self, state: WanState, start: int, stop: int) -> torch.Tensor:
        """Decode latent frames ``start`` to ``stop``: [1, 3, F, H, W] RGB in [-1, 1] in ``dtype``.

        Raises:
            ValueError: the chunk does not follow the one before, or the first is not (0, 1).
        """
        check_order(state.next_start, start, stop, state.latents.shape[2])
        latents = state.latents[:, :, start:stop]
        patch_size = self.vae.config.patch_size
        frames = _frames(self.vae.decoder, patch_size, latents, state.cache, start == 0)
        state.next_start = stop
        return frames.clamp_(-1.0, 1.0)

    def decode_video(
        self, latents: torch.Tensor, before_frame: Callable[[int], None]
    ) -> torch.Tensor:
        """diffusers' own whole-video decode of [1, C, T, h, w]: [1, 3, F, H, W] in [-1, 1].

        ``before_frame(i)`` runs before latent frame i and may raise to stop.
        """
        frame = iter(range(latents.shape[2]))
        hook = self.vae.decoder.register_forward_pre_hook(lambda *_: before_frame(next(frame)))
        try:
            return self.vae.decode(latents, return_dict=False)[0]
        except BaseException:
            self.vae.clear_cache()
            raise
        finally:
            hook.remove()

    def to_numpy(self, frames: torch.Tensor) -> np.ndarray:
        """float32 [1, 3, F, H, W] in [-1, 1] to numpy [F, H, W, 3] in [0, 1], by VideoProcessor."""
        processor = VideoProcessor(vae_scale_factor=self.spatial_factor)
        return processor.postprocess_video(frames, output_type="np")[0]

    def working_bytes(self, chunk_size: int, height: int, width: int) -> int:
        """Estimated device bytes of a decode beside the weights and the ring.

        The causal cache is counted (two frames in front of every cached convolution); the live
        activations, which peak in the last stage, are in proportion to that stage's size, by a
        factor measured on CUDA (`LIVE_ACTIVATIONS`).

        Args:
            chunk_size: latent frames per call.
            height, width: of the latents.
        """
        decoder = self.vae.decoder
        last = len(decoder.up_blocks) - 1  # so often height and width have doubled in the end
        cache = 0
        for name, module in decoder.named_modules():
            if isinstance(module, WanCausalConv3d) and module.kernel_size[0] > 1:
                place = name.split(".")
                doubled = int(place[1]) if place[0] == "up_blocks" else last * (name == "conv_out")
                cache += CACHE_FRAMES * module.in_channels * 4**doubled
        plane = decoder.conv_out.in_channels * 4**last
        frames = chunk_size * self.temporal_factor
        live = LIVE_ACTIVATIONS[bool(self.vae.config.is_residual)] * frames * plane
        return int((cache + live) * height * width * self.dtype.itemsize)


def _frames(
    decoder: Any, patch_size: int | None, latents: torch.Tensor, cache: list[Any], first: bool
) -> torch.Tensor:
    """What diffusers' decoder makes of ``latents``; turns ``cache`` over."""
    made = decoder(latents, feat_cache=cache, feat_idx=[0], first_chunk=first)
    return made if patch_size is None else unpatchify(made, patch_size=patch_size)


class ChannelsLastWanDecoder(WanDecoder):
    """`WanDecoder` whose convolutions keep their weights channels last, as cuDNN likes them.

    The weights of ``vae`` are laid out anew in place; their values stay.
    """

    variant: ClassVar[str] = "channels_last"

    def __init__(self, vae: AutoencoderKLWan, name: str) -> None:
        super().__init__(vae, name)
        layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
        for parameter in (*vae.decoder.parameters(), *vae.post_quant_conv.parameters()):
            if layout := layouts.get(parameter.dim()):
                parameter.data = parameter.data.contiguous(memory_format=layout)


class CompiledWanDecoder(ChannelsLastWanDecoder):
    """`ChannelsLastWanDecoder` whose steady step is compiled, with static shapes.

    `prepare` compiles, once for a latent size and chunk size. What it did not see runs as it is:
    a video's first two chunks, a short last one, any other size. No CUDA graphs, so frames are the
    caller's to keep. There is no ``decode_video``: that would not be compiled.

    Args:
        vae, name: as for `WanDecoder`.
        backend: of ``torch.compile``.
    """

    variant: ClassVar[str] = "compiled"

    def __init__(self, vae: AutoencoderKLWan, name: str, backend: Any = "inductor") -> None:
        super().__init__(vae, name)
        self._backend = backend
        for module in vae.decoder.modules():
            if isinstance(module, WanResample) and module.mode == "upsample3d":
                module.forward = partial(_doubled, module)
        self._steps: dict[tuple[int, ...], _Step] = {}

    @property
    def decode_video(self) -> Any:
        """Not there: diffusers' whole-video decode would run as it is, not compiled."""
        raise AttributeError("decode_video")

    def prepare(self, height: int, width: int, chunk_size: int) -> None:
        """Compile for latents of ``height`` x ``width``, by decoding noise with and without.

        Raises:
            ValueError: it cannot be compiled here, or gives wrong frames; says what to do.
        """
        size = (chunk_size, height, width)
        if size in self._steps:
            return
        self._steps[size] = self._compile()
        try:
            with on_device(self.device), torch.inference_mode():
                apart = self._rehearse(height, width, chunk_size)
            if not apart <= RMS_AT_MOST[self.dtype]:
                raise ValueError(
                    "variant 'compiled' gives other frames than the same decoder uncompiled (root "
                    f"mean square {apart:.2g}): torch {torch.__version__} compiles it wrongly "
                    "here; take another variant or another torch"
                )
        except BaseException as error:
            del self._steps[size]
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            cause = getattr(error, "inner_exception", error)
            line = next(iter(str(cause).splitlines()), type(cause).__name__)
            raise ValueError(
                f"variant 'compiled' cannot be compiled here: {line.rstrip(';:. ')}; it needs a "
                "C++ compiler such as g++, and on a GPU Triton; or take another variant"
            ) from error

    def _rehearse(self, height: int, width: int, chunk_size: int) -> float:
        """Decode noise both ways, which compiles; the largest root mean square of a chunk."""
        frames = 1 + (_PREPARING_CHUNKS - 1) * chunk_size
        shape = (1, self.latent_channels, frames, height, width)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        latents = noise.to(self.device, self.dtype)
        compiled, eager = self.begin(latents), self.begin(latents)
        apart = []
        for start in (0, *range(1, frames, chunk_size)):
            stop = start + chunk_size if start else 1
            made = self.decode_chunk(compiled, start, stop).float()
            made -= super().decode_chunk(eager, start, stop)
            apart.append(made.square().mean().sqrt())
        return float(torch.stack(apart).max())  # NaN if one is

    @torch.inference_mode()
    def begin(self, latents: torch.Tensor) -> WanState:
        """As `WanDecoder.begin`."""
        return super().begin(latents)

    @torch.inference_mode()
    def decode_chunk(self, state: WanState, start: int, stop: int) -> torch.Tensor:
        """As `WanDecoder.decode_chunk`."""
        step = self._steps.get((stop - start, *state.latents.shape[3:]))
        cache = _steady(state.cache)
        watched = torch._C._len_torch_dispatch_stack() > 0  # as by torch's FlopCounterMode
        if step is None or cache is None or watched:
            return super().decode_chunk(state, start, stop)
        check_order(state.next_start, start, stop, state.latents.shape[2])
        frames, cache = step(_laid_out(state.latents[:, :, start:stop].clone()), cache)
        state.cache[: len(cache)] = cache
        state.next_start = stop
        return frames

    def _compile(self) -> _Step:
        """A compiled step. Its code is its own: torch counts recompilations by code object."""
        decoder, patch_size = self.vae.decoder, self.vae.config.patch_size

        def step(latents: torch.Tensor, cache: _Cache) -> tuple[torch.Tensor, _Cache]:
            held: list[Any] = list(cache)
            frames = _frames(decoder, patch_size, latents, held, False)
            # Laid out by _laid_out: inductor of torch 2.13 for CPUs gets that wrong in here.
            return frames.clamp(-1.0, 1.0), tuple(held)

        own = types.FunctionType(
            step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__
        )
        compiled: _Step = torch.compile(own, backend=self._backend, dynamic=False, fullgraph=True)
        return compiled


def _doubled(
    module: Any,
    frames: torch.Tensor,
    feat_cache: list[Any] | None = None,
    feat_idx: list[int] = [0],  # noqa: B006 (diffusers' own signature)
) -> torch.Tensor:
    """`WanResample.forward`, while compiling without its comparisons of tensors with a word.

    torch 2.11 cannot compile those; a step that is compiled has a tensor there.
    """
    if not torch.compiler.is_compiling() or feat_cache is None:
        made: torch.Tensor = type(module).forward(module, frames, feat_cache, feat_idx)
        return made
    past = feat_cache[feat_idx[0]]
    pairs = module.time_conv(frames, past)
    feat_cache[feat_idx[0]] = torch.cat([past, frames], 2)[:, :, -CACHE_FRAMES:].clone()
    feat_idx[0] += 1
    batch, channels, count, height, width = frames.shape
    # [B, 2 C, T, h, w]: the first half of the channels comes first.
    single = pairs.unflatten(1, (2, channels)).permute(0, 3, 1, 2, 4, 5)
    larger = module.resample(single.reshape(batch * count * 2, channels, height, width))
    return larger.unflatten(0, (batch, 2 * count)).transpose(1, 2)


def _steady(cache: list[Any]) -> _Cache | None:
    """The tensors of a cache under way, laid out as compiled for; None for one that is not yet.

    Behind them the list holds None for the 1x1x1 convolutions, which remember nothing; before, it
    may hold diffusers' word for "the second chunk".
    """
    held = [entry for entry in cache if entry is not None]
    under_way = all(
        isinstance(entry, torch.Tensor) and entry.shape[2] == CACHE_FRAMES for entry in held
    )
    if not held or not under_way or any(entry is not None for entry in cache[len(held) :]):
        return None
    return tuple(_laid_out(entry) for entry in held)


def _laid_out(entry: torch.Tensor) -> torch.Tensor:
    """``entry`` channels last, with the strides that a fresh tensor has.

    Strides of a dimension of size 1 differ from one kernel to the next, and compiled code asks for
    those that it saw.
    """
    _, channels, frames, height, width = entry.shape
    row = width * channels
    strides = (frames * height * row, 1, height * row, row, channels)
    if entry.stride() == strides:
        return entry
    packed = entry.contiguous(memory_format=torch.channels_last_3d)
    return packed.as_strided(entry.shape, strides)
