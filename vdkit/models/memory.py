"""A cache for causal decoders that have none: put on their modules, owned by the video.

A causal decoder is a chain of modules of which few see more than one moment: convolutions over
time, which need the frames before, modules that enlarge time, which treat the first frame apart,
and attention over time. Each of these is given what it saw last; all others run as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

_Forward = Callable[..., Any]


class Memory:
    """Wraps the modules of ``decoder`` that see more than one moment, by `RULES`.

    Outside of `of` they run as they did. One `Memory` serves one decode at a time, but any number
    of them in turns.
    """

    def __init__(self, decoder: torch.nn.Module) -> None:
        self.current: dict[Any, Any] | None = None
        self._wrap(decoder)

    def _wrap(self, parent: torch.nn.Module) -> None:
        for child in parent.children():
            rule = RULES.get(type(child).__name__)
            wrapped = rule(self, child) if rule else None
            if wrapped is None:
                self._wrap(child)
            else:
                child.forward = wrapped  # type: ignore[method-assign]

    @contextmanager
    def of(self, remembered: dict[Any, Any]) -> Iterator[None]:
        """Inside, the modules go on from ``remembered``, by module, and change it."""
        self.current = remembered
        try:
            yield
        finally:
            self.current = None


def _convolution(memory: Memory, module: Any) -> _Forward | None:
    """Causal, of k frames, stride 1, padded with its first frame: the last k - 1 take its place."""
    past_frames = getattr(module, "conv", module).kernel_size[0] - 1
    if not past_frames:
        return None
    forward = module.forward
    name = "temporal_pad" if hasattr(module, "temporal_pad") else "time_causal_padding"
    padding = getattr(module, name)
    unpadded = (*padding[:4], 0, 0) if isinstance(padding, tuple) else 0

    def remembering(frames: torch.Tensor, *args: Any, **options: Any) -> Any:
        if memory.current is None:
            return forward(frames, *args, **options)
        past = memory.current.get(module)
        if past is None:
            past = frames[:, :, :1].expand(-1, -1, past_frames, -1, -1)
        joined = torch.cat((past, frames), 2)
        memory.current[module] = joined[:, :, -past_frames:].clone()  # a slice would keep them all
        setattr(module, name, unpadded)
        try:
            return forward(joined, *args, **options)
        finally:
            setattr(module, name, padding)

    return remembering


def _repeating(memory: Memory, module: Any, past_frames: int, growth: int) -> _Forward:
    """Run on the last inputs once more and on the new; only what these became is kept.

    The module makes ``growth`` frames of each after the first, which may be special, and none
    depends on more than ``past_frames`` inputs before its own.
    """
    forward = module.forward

    def remembering(frames: torch.Tensor, **options: Any) -> Any:
        if memory.current is None:
            return forward(frames, **options)
        past = memory.current.get(module)
        joined = frames if past is None else torch.cat((past, frames), 2)
        memory.current[module] = joined[:, :, -past_frames:].clone()
        made = forward(joined, **options)
        return made if past is None else made[:, :, -growth * frames.shape[2] :]

    return remembering


def _enlarging(memory: Memory, module: Any) -> _Forward | None:
    """Both enlarge time twice, around a convolution of three frames before or behind."""
    doubles = getattr(module, "add_temporal_upsample", getattr(module, "temporal_upsample", False))
    return _repeating(memory, module, 2, 2) if doubles else None


def _unpatching(memory: Memory, module: Any) -> _Forward:
    return _repeating(memory, module, 1, module.patch_size)


def _in_audio(memory: Memory, module: Any) -> _Forward | None:
    """Mimi's causal convolutions, which pad with zeros, and those that enlarge time."""
    (kernel,), (stride,), (dilation,) = (
        module.conv.kernel_size, module.conv.stride, module.conv.dilation
    )  # fmt: skip
    if isinstance(module.conv, torch.nn.ConvTranspose1d):
        return _repeating(memory, module, -(-kernel // stride) - 1, stride)
    return _repeating(memory, module, (kernel - 1) * dilation, 1) if kernel > 1 else None


def _attention(memory: Memory, module: Any) -> _Forward:
    """HunyuanVideo 1.5: every position sees those of its own and of all earlier latents.

    Keys and values are kept, 2 x C values a position; a latent at a time needs no mask.
    """
    forward = module.forward

    def remembering(frames: torch.Tensor) -> torch.Tensor:
        if memory.current is None:
            whole: torch.Tensor = forward(frames)
            return whole
        normal = module.norm(frames)
        # [1, C, T, h, w] to [1, 1, T h w, C]
        query, key, value = (
            part(normal).flatten(2).mT[:, None] for part in (module.to_q, module.to_k, module.to_v)
        )
        if module in memory.current:
            past_key, past_value = memory.current[module]
            key, value = torch.cat((past_key, key), 2), torch.cat((past_value, value), 2)
        memory.current[module] = key, value
        each = frames.shape[3] * frames.shape[4]
        seen = range(key.shape[2] - query.shape[2] + each, key.shape[2] + 1, each)
        made = [
            scaled_dot_product_attention(asked, key[:, :, :end], value[:, :, :end])
            for asked, end in zip(query.split(each, 2), seen, strict=True)
        ]
        joined = torch.cat(made, 2)[:, 0].mT.reshape(normal.shape)
        return frames + module.proj_out(joined)  # type: ignore[no-any-return]

    return remembering


def _attention_over_time(memory: Memory, module: Any) -> _Forward | None:
    """Cosmos: each place sees its own past, through a mask; keys and values are kept."""
    if "Temporal" not in type(module.processor).__name__:
        return None
    forward = module.forward

    def kept(part: Any) -> _Forward:
        project = part.forward

        def remembering(frames: torch.Tensor) -> Any:
            made = project(frames)
            if memory.current is None:
                return made
            if part in memory.current:
                made = torch.cat((memory.current[part], made), 2)
            memory.current[part] = made
            return made

        return remembering

    for part in (module.to_k, module.to_v):
        part.forward = kept(part)

    def masked(frames: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        if memory.current is not None:
            count, past = frames.shape[2], memory.current.get(module.to_k)
            before = 0 if past is None else past.shape[2]
            mask = torch.ones(count, before + count, dtype=torch.bool, device=frames.device)
            mask = mask.tril(before)
        return forward(frames, mask)

    return masked


RULES: dict[str, Callable[[Memory, Any], _Forward | None]] = {
    "CogVideoXCausalConv3d": _convolution,  # Mochi's too
    "HunyuanVideo15CausalConv3d": _convolution,
    "HunyuanVideo15Upsample": _enlarging,
    "HunyuanVideo15AttnBlock": _attention,
    "CosmosCausalConv3d": _convolution,
    "CosmosUpsample3d": _enlarging,
    "CosmosUnpatcher3d": _unpatching,
    "CosmosCausalAttention": _attention_over_time,
    "MimiConv1d": _in_audio,
    "MimiConvTranspose1d": _in_audio,
}
"""How a module is wrapped, by its class; None: it is not, what it contains may be."""
