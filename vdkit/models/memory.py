"""A cache for causal decoders that have none: put on their modules, owned by the video.

A causal decoder is a chain of modules of which few see more than one moment: convolutions over
time, which need the frames before, modules that enlarge time, which treat the first frame apart,
and attention over time. Each of these is given what it saw last; all others run as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

_Rule = Callable[..., Any]


class Memory:
    """Wraps the modules of ``decoder`` that see more than one moment, by `RULES`.

    Outside of `of` they run as they did. One `Memory` serves one decode at a time, but any number
    of them in turns.
    """

    def __init__(self, decoder: torch.nn.Module) -> None:
        self._current: dict[Any, torch.Tensor] | None = None
        self._look_into(decoder)

    def _look_into(self, parent: torch.nn.Module) -> None:
        for child in parent.children():
            rule = RULES.get(type(child).__name__, lambda *_: None)(self, child)
            if rule is None:
                self._look_into(child)
            else:
                self.wrap(child, rule)

    def wrap(self, module: Any, rule: _Rule) -> None:
        """Have ``rule(memory, module, its forward, *its arguments)`` run in place of ``module``."""
        forward = module.forward

        def wrapped(*args: Any, **options: Any) -> Any:
            if self._current is None:
                return forward(*args, **options)
            return rule(self, module, forward, *args, **options)

        module.forward = wrapped

    @contextmanager
    def of(self, remembered: dict[Any, Any]) -> Iterator[None]:
        """Inside, the modules go on from ``remembered``, which they change."""
        self._current = remembered
        try:
            yield
        finally:
            self._current = None

    def seen(self, key: Any) -> int:
        """How much is remembered under ``key``, along axis 2."""
        assert self._current is not None
        return self._current[key].shape[2] if key in self._current else 0

    def joined(self, key: Any, new: torch.Tensor, keep: int | None = None) -> torch.Tensor:
        """What is remembered under ``key`` and ``new`` behind it, along axis 2; the last ``keep``
        of both are remembered from now on, or all."""
        assert self._current is not None
        both = torch.cat((self._current[key], new), 2) if key in self._current else new
        # a slice that is not copied would keep the rest alive
        self._current[key] = both if keep is None else both[:, :, -keep:].clone()
        return both


def _convolve(
    memory: Memory, module: Any, forward: _Rule, frames: torch.Tensor, **options: Any
) -> Any:
    """A causal convolution of k frames, padded with its first: the last k - 1 take its place."""
    past = getattr(module, "conv", module).kernel_size[0] - 1
    if not memory.seen(module):
        memory.joined(module, frames[:, :, :1].expand(-1, -1, past, -1, -1))
    name = "temporal_pad" if hasattr(module, "temporal_pad") else "time_causal_padding"
    padding = getattr(module, name)
    setattr(module, name, (*padding[:4], 0, 0) if isinstance(padding, tuple) else 0)
    try:
        return forward(memory.joined(module, frames, past), **options)
    finally:
        setattr(module, name, padding)


def _repeat(
    memory: Memory, module: Any, forward: _Rule, frames: torch.Tensor, past: int, growth: int,
    **options: Any,
) -> Any:  # fmt: skip
    """Run on the last ``past`` inputs once more and on the new; only what these became is kept.

    The module makes ``growth`` frames of each input after the first, which may be special, and none
    depends on more than ``past`` inputs before its own.
    """
    first = not memory.seen(module)
    made = forward(memory.joined(module, frames, past), **options)
    return made if first else made[:, :, -growth * frames.shape[2] :]


def _attend(memory: Memory, module: Any, forward: _Rule, frames: torch.Tensor) -> torch.Tensor:
    """HunyuanVideo 1.5: every position sees those of its own and of all earlier latents.

    Keys and values are kept, 2 x C values a position; a latent at a time needs no mask. diffusers'
    own decode of the whole makes one of (T h w)^2 values, 8 GB in float16 at 41 latents of 30x52:
    the two can be compared up to the length where that fits.
    """
    normal = module.norm(frames)
    parts = (module.to_q, module.to_k, module.to_v)
    query, key, value = (part(normal).flatten(2).mT[:, None] for part in parts)  # [1, 1, T h w, C]
    key, value = memory.joined((module, "key"), key), memory.joined((module, "value"), value)
    each = frames.shape[3] * frames.shape[4]
    ends = range(key.shape[2] - query.shape[2] + each, key.shape[2] + 1, each)
    made = [
        scaled_dot_product_attention(asked, key[:, :, :end], value[:, :, :end])
        for asked, end in zip(query.split(each, 2), ends, strict=True)
    ]
    return frames + module.proj_out(torch.cat(made, 2)[:, 0].mT.reshape(normal.shape))


def _attend_over_time(memory: Memory, module: Any) -> _Rule | None:
    """Cosmos: each place sees its own past, by a mask; keys and values are kept."""
    if "Temporal" not in type(module.processor).__name__:
        return None
    for part in (module.to_k, module.to_v):
        memory.wrap(part, lambda memory, part, forward, x: memory.joined(part, forward(x)))

    def masked(memory: Memory, module: Any, forward: _Rule, frames: torch.Tensor, _: Any) -> Any:
        count, before = frames.shape[2], memory.seen(module.to_k)
        mask = torch.ones(count, before + count, dtype=torch.bool, device=frames.device)
        return forward(frames, mask.tril(before))

    return masked


def _in_audio(memory: Memory, module: Any) -> _Rule | None:
    """Mimi's causal convolutions, which pad with zeros, and those that enlarge time."""
    conv, (kernel,), (stride,) = module.conv, module.conv.kernel_size, module.conv.stride
    if isinstance(conv, torch.nn.ConvTranspose1d):
        return partial(_repeat, past=-(-kernel // stride) - 1, growth=stride)
    return partial(_repeat, past=(kernel - 1) * conv.dilation[0], growth=1) if kernel > 1 else None


def _enlarge(memory: Memory, module: Any) -> _Rule | None:
    """Time is doubled before or behind a convolution of three frames."""
    doubles = getattr(module, "add_temporal_upsample", getattr(module, "temporal_upsample", False))
    return partial(_repeat, past=2, growth=2) if doubles else None


def _in_mel(memory: Memory, module: Any) -> _Rule | None:
    """LTX-2's convolutions of a spectrogram, which pad with zeros, and what doubles time."""
    if isinstance(module.conv, torch.nn.Conv2d):
        past = (module.conv.kernel_size[0] - 1) * module.conv.dilation[0]
        return partial(_repeat, past=past, growth=1) if past else None
    return partial(_repeat, past=1, growth=2)


def _causal(memory: Memory, module: Any) -> _Rule | None:
    return _convolve if getattr(module, "conv", module).kernel_size[0] > 1 else None


RULES: dict[str, Callable[[Memory, Any], _Rule | None]] = {
    "CogVideoXCausalConv3d": _causal,  # Mochi's too
    "HunyuanVideo15CausalConv3d": _causal,
    "HunyuanVideo15Upsample": _enlarge,
    "HunyuanVideo15AttnBlock": lambda memory, module: _attend,
    "CosmosCausalConv3d": _causal,
    "CosmosUpsample3d": _enlarge,
    "CosmosUnpatcher3d": lambda memory, module: partial(_repeat, past=1, growth=module.patch_size),
    "CosmosCausalAttention": _attend_over_time,
    "MimiConv1d": _in_audio,
    "MimiConvTranspose1d": _in_audio,
    "LTX2AudioCausalConv2d": _in_mel,
    "LTX2AudioUpsample": _in_mel,
}
"""What runs in place of a module, by its class; None: it is left as it is, and looked into."""
