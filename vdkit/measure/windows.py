"""Decoding, and denoising, in windows of latent frames: what people do without exact streaming.

Which frames a window gives, and what is missing, says `vdkit.record.windows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from vdkit.decode import Traits, begun, check_latents, to_levels
from vdkit.decode.chunks import chunks_of, pixel_frames
from vdkit.decode.engines import on_device, seconds_on
from vdkit.record.windows import BLENDS, Windowed, spans

Latents = torch.Tensor | Sequence[torch.Tensor]
"""[1, C, T, h, w], de-normalized, which is cut; or windows as `spans` has them, each encoded or
denoised by itself."""


def joined(parts: Sequence[torch.Tensor], starts: Sequence[int], blend: str) -> torch.Tensor:
    """Parts [B, C, N, H, W] that begin at ``starts`` as one; a gap between them is left out.

    Where n positions are of two, ``cut`` takes the earlier part; otherwise the weight of the later
    one grows over them, 1 / (n + 1) to n / (n + 1), and equal values stay as they are.
    """
    made, stop = parts[0], parts[0].shape[2]
    for start, part in zip(starts[1:], parts[1:], strict=True):
        shared, stop = max(0, stop - start), start + part.shape[2]
        before, both = made.split([made.shape[2] - shared, shared], 2)
        if blend != "cut":
            rise = torch.arange(1, shared + 1, device=part.device, dtype=part.dtype) / (shared + 1)
            both = both.lerp(part[:, :, :shared], rise.view(-1, 1, 1))
        made = torch.cat([before, both, part[:, :, shared:]], 2)
    return made


@torch.inference_mode()
def decode_windows(
    decoder: Any, latents: Latents, window: int, overlap: int, blend: str = "ramp"
) -> torch.Tensor:
    """Decode video in windows of ``window`` latent frames, ``overlap`` of them the next one's too.

    - ``cut``: each window is decoded on its own, as a whole video; where two have a frame it is the
      earlier one's, which remembers more: the overlap is the later one's warm-up.
    - ``ramp``: the same, but frames of two go over linearly from the earlier to the later.
    - ``latents``: latents of two go over so, and all are decoded once, by exact streaming (by a
      decoder that is not exact, as a whole). Of one tensor this is what windows are held to: they
      have the same latents. Of windows with their own, the first of each is that of a first frame.

    Returns:
        float32 [1, 3, F, H, W] on the CPU, in the decoder's value range. F is ``f * (T - 1) + 1``;
        without an overlap, but for ``latents``, ``f - 1`` fewer for each border.

    Raises:
        TypeError, ValueError: as `vdkit.decode.check_latents`; not video, an unknown blend, a
            window or overlap that cannot be, or windows of other lengths.
    """
    parts, where = _windows(decoder, latents, window, overlap, blend)
    starts = [start for start, _ in where]
    with on_device(decoder.device):
        if blend == "latents":
            return _decoded(decoder, joined(parts, starts, blend), Traits.of(decoder).exact)
        made = [_decoded(decoder, part, False) for part in parts]
    return joined(made, [decoder.temporal_factor * start for start in starts], blend)


def _windows(
    decoder: Any, latents: Latents, window: int, overlap: int, blend: str
) -> tuple[list[torch.Tensor], list[tuple[int, int]]]:
    """The latents of each window, where the decoder takes them, and its place."""
    if (medium := Traits.of(decoder).medium).name != "video":
        raise ValueError(f"decoder {decoder.name!r} makes {medium.called}; windows are of video")
    if blend not in BLENDS:
        raise ValueError(f"blend is {blend!r}; use {', '.join(BLENDS)}")
    cut, to = isinstance(latents, torch.Tensor), (decoder.device, decoder.dtype)
    given = [latents] if cut else latents
    several: list[Any] = [check_latents(one, decoder.latent_channels, *to) for one in given]
    lengths = [part.shape[2] for part in several]
    count = sum(lengths) - overlap * (len(lengths) - 1)
    where = spans(count, window, overlap)
    if cut:
        several = [several[0][:, :, start:stop] for start, stop in where]
    elif lengths != (wanted := [stop - start for start, stop in where]):
        words = f"{count} in windows of {window} with an overlap of {overlap} are {wanted}"
        raise ValueError(f"windows have {lengths} latent frames; {words}")
    return several, where


def _decoded(decoder: Any, latents: torch.Tensor, streamed: bool) -> Any:
    """By the decoder's own whole decode, if it has one, or latent frame by latent frame."""
    if not streamed and (own := getattr(decoder, "decode_video", None)):
        return own(latents, lambda index: None).float().cpu()
    with begun(decoder, latents) as state:
        plan = [(one.latent_start, one.latent_stop) for one in chunks_of(decoder, latents, 1)]
        return torch.cat([decoder.decode_chunk(state, *at).float().cpu() for at in plan], 2)


def measure_windows(
    decoder: Any, latents: Latents, window: int, overlap: int, blend: str = "ramp", *,
    exact: torch.Tensor | None = None, times: int = 1, label: str = "",
    judge: Callable[[Any], object] = lambda frames: "",
) -> Windowed:  # fmt: skip
    """`decode_windows`, and what it gave and took.

    Args:
        exact: [1, 3, F, H, W], what exact streaming gives; None: there is nothing to compare with,
            as of what was generated by windows.
        times: decodes, 1 or more; of several, tables leave out the first, which warms up.
        label: what it is called in tables, in place of window and blend.
        judge: says what uint8 [F, H, W, 3] show.

    Raises:
        TypeError, ValueError: as `decode_windows`; or ``exact`` of other frames.
    """
    traits, where = Traits.of(decoder), _windows(decoder, latents, window, overlap, blend)[1]
    count, cuda = where[-1][1], decoder.device.type == "cuda"
    frames = pixel_frames(count, traits.temporal_factor)
    if exact is not None and exact.shape[2] != frames:
        raise ValueError(f"exact has {exact.shape[2]} frames, these {count} latents {frames}")
    made: list[torch.Tensor] = []

    def decode() -> None:
        made[:] = [decode_windows(decoder, latents, window, overlap, blend)]

    if cuda:
        torch.cuda.reset_peak_memory_stats(decoder.device)
    found = Windowed(
        count=count, window=window, overlap=overlap, blend=blend, label=label,
        temporal_factor=traits.temporal_factor,
        seconds=tuple(seconds_on(decoder.device, decode, max(1, times))),
        peak_bytes=torch.cuda.max_memory_allocated(decoder.device) if cuda else None,
        verdict=str(judge(to_levels(made[0], traits).numpy())),
    )  # fmt: skip
    scale = 255 / (traits.value_range[1] - traits.value_range[0])

    def squares(difference: torch.Tensor) -> tuple[float, ...]:
        each = (one.double().square().mean() for one in difference.unbind(2))
        return tuple(float(mean) * scale**2 for mean in each)

    apart = () if exact is None else squares(made[0] - exact[:, :, found.shown])
    changes = tuple(one**0.5 for one in squares(made[0].diff(dim=2)))
    return replace(found, squares=apart, changes=changes)


@contextmanager
def context_windows(
    transformers: Iterable[torch.nn.Module], window: int, overlap: int
) -> Iterator[None]:
    """While it lasts, each transformer sees its latents in windows, at every step of a denoising.

    What it predicts of each is joined as ``ramp``: with a linear scheduler, as Wan's are, the same
    as joining latents after each step. Positions begin anew in each window.

    Args:
        transformers: take ``hidden_states`` [B, C, T, h, w] and a timestep for each of B; what they
            are given otherwise, and a window or overlap that cannot be, is a ValueError then.
    """

    def seen(forward: Any, *, hidden_states: torch.Tensor, timestep: Any, **more: Any) -> Any:
        if timestep.ndim > 1:
            raise ValueError(f"timestep is {list(timestep.shape)}; one for each video is needed")
        where = spans(hidden_states.shape[2], window, overlap)
        cut = (hidden_states[:, :, a:b] for a, b in where)
        parts = [forward(hidden_states=one, timestep=timestep, **more)[0] for one in cut]
        return (joined(parts, [a for a, _ in where], "ramp"),)

    with ExitStack() as stack:
        for one in transformers:
            own = vars(one)  # where a wrapper of the caller's may be
            undo = partial(own.update, forward=own["forward"]) if "forward" in own else None
            stack.callback(undo or partial(own.pop, "forward"))
            one.forward = partial(seen, one.forward)
        yield
