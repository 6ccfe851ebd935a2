"""`WanDecoder` on diffusers' own modules: weights channels last, and a compiled step."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, unpatchify

from vdkit.decode.engines import on_device
from vdkit.models.wan import WanDecoder, WanState, check_order

CACHE_FRAMES = 2
"""Frames that a convolution over time remembers once a video is under way."""
_PREPARING_CHUNKS = 5  # the first frame, an eager chunk, the one that compiles, two that use it
RMS_AT_MOST = {torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.03}
"""Between compiled and eager frames, of values from -1 to 1: more is not rounding."""

_Cache = tuple[torch.Tensor, ...]
_Step = Callable[[torch.Tensor, _Cache], tuple[torch.Tensor, _Cache]]


class ChannelsLastWanDecoder(WanDecoder):
    """`WanDecoder` whose convolutions keep their weights channels last, as cuDNN likes them.

    The weights of ``vae`` are laid out anew in place; their values stay.
    """

    variant: ClassVar[str] = "channels_last"

    def __init__(self, vae: AutoencoderKLWan, name: str) -> None:
        super().__init__(vae, name)
        for parameter in (*vae.decoder.parameters(), *vae.post_quant_conv.parameters()):
            if parameter.dim() in (4, 5):
                parameter.data = parameter.data.contiguous(memory_format=_layout(parameter))


class CompiledWanDecoder(ChannelsLastWanDecoder):
    """`ChannelsLastWanDecoder` whose steady step is compiled, with static shapes.

    `prepare` compiles, once for a latent size and chunk size. What it did not see runs as it is:
    a video's first two chunks, a short last one, any other size. No CUDA graphs, so frames are the
    caller's to keep. There is no ``decode_video``: that would not be compiled.

    Args:
        vae, name: as for `WanDecoder`.
        backend: of ``torch.compile``; None: `default_backend`.
    """

    variant: ClassVar[str] = "compiled"
    default_backend: ClassVar[Any] = "inductor"

    def __init__(self, vae: AutoencoderKLWan, name: str, backend: Any = None) -> None:
        super().__init__(vae, name)
        self._backend = backend or self.default_backend
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
        if not apart <= RMS_AT_MOST[self.dtype]:
            del self._steps[size]
            raise ValueError(
                f"variant 'compiled' gives other frames than the same decoder uncompiled (root "
                f"mean square {apart:.2g}): torch {torch.__version__} compiles it wrongly here; "
                "take another variant or another torch"
            )

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
            frames = decoder(latents, feat_cache=held, feat_idx=[0], first_chunk=False)
            if patch_size is not None:
                frames = unpatchify(frames, patch_size=patch_size)
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

    Behind them the list holds None for the 1x1x1 convolutions, which remember nothing.
    """
    held = [entry for entry in cache if entry is not None]
    if not held or any(entry is not None for entry in cache[len(held) :]):
        return None
    if not all(isinstance(entry, torch.Tensor) for entry in held):
        return None  # diffusers' word for "the second chunk"
    if any(entry.shape[2] != CACHE_FRAMES for entry in held):
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


def _layout(weight: torch.Tensor) -> torch.memory_format:
    return torch.channels_last_3d if weight.dim() == 5 else torch.channels_last
