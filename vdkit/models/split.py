"""One video over several GPUs, exactly: each has some rows of the picture, of every frame.

A convolution needs one row more above and below. Those are the neighbors', and take the place of
the zeros that it would be padded with; at the border of the picture the zeros stay. Attention gets
all keys and values. Norms are over channels, so they need nothing. Over time no split is exact: a
latent frame reaches the next 38 or so (`probe(..., whole=...)` has what a seam costs, by warm-up).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanCausalConv3d
from torch.overrides import TorchFunctionMode

from vdkit.decode.chunks import DecodeConfig, DecodeResult
from vdkit.decode.paths import decode_async
from vdkit.decode.ranks import run_ranks
from vdkit.decode.terminal import HeldSignals
from vdkit.models.fast import ConvolutionCall, PlainPasses
from vdkit.models.fast.checked import CheckedFastDecoder
from vdkit.models.fast.decoder import FastWanDecoder
from vdkit.models.wan import CompiledWanDecoder, WanDecoder


class Strip:
    """The rows of one rank, and what it exchanges with the others; each call is made by all.

    Args:
        height: rows of the whole latents, dealt as evenly as possible, from the top.
        group: of torch.distributed; None: all ranks.

    Attributes:
        rank, count: this one's number, and of how many.
        heights, rows: how many rows of the latents each rank has, and which are this one's.

    Raises:
        ValueError: fewer rows than ranks.
    """

    def __init__(self, height: int, group: Any = None) -> None:
        self.group = group
        self._deal(height, dist.get_rank(group), dist.get_world_size(group))

    def _deal(self, height: int, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        if height < count:
            wrong = f"latents of {height} rows cannot be split over {count} ranks"
            raise ValueError(f"{wrong}; use {height} or fewer")
        self.heights = [(height + later) // count for later in reversed(range(count))]
        start = sum(self.heights[: self.rank])
        self.rows = slice(start, start + self.heights[self.rank])

    def fill(self, frames: torch.Tensor, slots: torch.Tensor | None = None) -> None:
        """Write the neighbors' rows into the border of ``frames`` [H + 2, ...].

        ``slots``: only those along the second axis; what they are is known on the device alone.
        """
        last = len(frames) - 2  # the last row inside; the first is 1
        edges = frames[1 : last + 1 : max(1, last - 1)].expand(2, *frames.shape[1:])
        borders = frames[:: last + 1]
        if slots is None:
            borders.copy_(self.exchange(edges.contiguous()))
        else:
            borders.index_copy_(1, slots, self.exchange(edges.index_select(1, slots)))

    def exchange(self, edges: torch.Tensor) -> torch.Tensor:
        """Its first and last rows [2, ...] for those next to them; zeros outside the picture."""
        found, calls = torch.zeros_like(edges), []
        for side, other in enumerate((self.rank - 1, self.rank + 1)):
            if 0 <= other < self.count:
                for way, rows in ((dist.isend, edges[side]), (dist.irecv, found[side])):
                    calls.append(dist.P2POp(way, rows, group=self.group, group_peer=other))
        for call in dist.batch_isend_irecv(calls) if calls else ():
            call.wait()
        return found

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """[..., rows x width, C] of every rank, one after the other, from the top."""
        width = own.shape[-2] // self.heights[self.rank]
        room = F.pad(own, (0, 0, 0, self.heights[0] * width - own.shape[-2]))  # the first has most
        parts = zip(self.all_gather(room.contiguous()), self.heights, strict=True)
        return torch.cat([part[..., : height * width, :] for part, height in parts], -2)

    def all_gather(self, own: torch.Tensor) -> list[torch.Tensor]:
        """Those of every rank, of one shape."""
        found = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(found, own, group=self.group)
        return found


class _Gathering(TorchFunctionMode):
    """Inside, attention is to the keys and values of all ranks."""

    def __init__(self, strip: Strip) -> None:
        super().__init__()
        self._strip, self.calls = strip, 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is F.scaled_dot_product_attention:
            query, key, value = args
            args = (query, *self._strip.gather(torch.stack((key, value))))
            self.calls += 1
        return function(*args, **(kwargs or {}))


def _attended(attention: Callable[..., Any], strip: Strip, *given: Any) -> Any:
    with _Gathering(strip) as gathering:
        made = attention(*given)
    if gathering.calls != 1:
        wrong = f"attention was called {gathering.calls} times in a block of this diffusers"
        raise RuntimeError(f"{wrong}, which cannot be split")
    return made


def _convolved(
    module: Any, strip: Strip, frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """The end of the forward of `Conv2d`, or of `WanCausalConv3d`, which has padded ``frames``."""
    flat = frames.dim() == 4
    padded = F.pad(frames, (1, 1, 1, 1)) if flat else frames
    strip.fill(padded.movedim(-2, 0))
    return (F.conv2d if flat else F.conv3d)(padded, weight, bias)


class SplitPasses(PlainPasses):
    """The ``real`` passes, before whose convolutions the borders of what they read are filled.

    In a ring the past has its borders from when it was new.
    """

    def __init__(self, real: PlainPasses, strip: Strip) -> None:
        self._real, self._strip = real, strip
        self.fuses, self.norm = real.fuses, real.norm  # type: ignore[method-assign]

    def convolve(self, call: ConvolutionCall) -> None:
        """Carry out ``call``."""
        if call.convolution.kernel[1] > 1:
            source, first, count = call.source, call.source_start, call.work.frames
            slots = torch.arange(first, first + count, device=source.data.device)
            slots += call.work.space.control[0] * source.rate  # there, for a graph
            self._strip.fill(source.data.transpose(0, 1), slots % len(source.data))
        self._real.convolve(call)


class SplitDecoder:
    """A Wan decoder of some rows of the picture; a `ChunkDecoder` of latents [1, C, T, rows, w].

    Every rank makes one and decodes the same chunks of `part` of the same latents, side by side.
    All else is the decoder's, ``decode_into`` too; it is this one's from now on. The CUDA graphs of
    ``fast`` hold the exchange as well.

    Args:
        decoder: a `WanDecoder`, not compiled, or a fast one, which is to be prepared before and
            after: what checks its frames sees whole pictures only.
        strip: its rows, ``Strip(latents.shape[-2])``.

    Raises:
        TypeError: another decoder.
    """

    def __init__(self, decoder: Any, strip: Strip) -> None:
        if isinstance(decoder, CheckedFastDecoder):
            decoder = decoder._runs
        self.decoder, self.strip = decoder, strip
        known = isinstance(decoder, (WanDecoder, FastWanDecoder))
        if not known or isinstance(decoder, CompiledWanDecoder):
            what = f"{decoder.name!r} ({getattr(decoder, 'variant', type(decoder).__name__)})"
            good = "use a Wan decoder, variant diffusers, channels_last or fast"
            raise TypeError(f"decoder {what} cannot be split over GPUs; {good}")
        rows, self.notes = strip.rows, decoder.notes
        self.notes += (f"latent rows {rows.start} to {rows.stop - 1} of {sum(strip.heights)}",)
        if isinstance(decoder, FastWanDecoder):
            network: Any = decoder._network
            decoder._idle.clear()  # what is recorded there exchanges nothing
            decoder._passes = SplitPasses(decoder._passes, strip)
            network._attention = partial(_attended, network._attention, strip)
            return
        for module in decoder.vae.decoder.modules():
            if isinstance(module, WanAttentionBlock):
                module.forward = partial(_attended, module.forward, strip)
            tall = isinstance(module, (WanCausalConv3d, torch.nn.Conv2d))
            if tall and module.kernel_size[-2] > 1:
                module._conv_forward = partial(_convolved, module, strip)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)

    def part(self, latents: torch.Tensor) -> torch.Tensor:
        """This rank's rows of the whole latents [..., h, w]."""
        return latents[..., self.strip.rows, :]

    def begin(self, latents: torch.Tensor) -> Any:
        """As the decoder's, on `part` of the latents; ValueError for another number of rows."""
        given, own = latents.shape[-2], self.strip.heights[self.strip.rank]
        if given != own:
            raise ValueError(f"latents have {given} rows, not {own}; give part(latents)")
        return self.decoder.begin(latents)


def decode_split(
    load: Callable[[torch.device], Any],
    latents: torch.Tensor | Callable[[Any], torch.Tensor],
    sink: Any,
    gpus: int,
    *,
    fps: int | float | str | Fraction = 16,
    config: DecodeConfig = DecodeConfig(),
    progress: bool = True,
    kind: str = "auto",
) -> list[DecodeResult]:
    """Decode one video on several GPUs, each its rows by `decode_async`, in a process of its own.

    The output is there when all ended well, and then whole. An error or Ctrl-C in one ends all.

    Args:
        load: makes the decoder (see `SplitDecoder`) on a device; called in every process, so it is
            pickled, as ``functools.partial(load_decoder, "wan2.1", variant="fast")``.
        latents: whole, [1, C, T, h, w]; or what gives them for the decoder, pickled too, as
            ``partial(load_latents, "clips:161x720x1280")``.
        sink: a `vdkit.sinks.files.JoinedRawSink`, whose parts the ranks write.
        gpus, kind: as ``count`` and ``kind`` of `run_ranks`: without a GPU so many processes.
        fps, config, progress: as for `decode_async`.

    Returns:
        Of each rank, its own: times count from its own start.

    Raises:
        As `run_ranks`, `SplitDecoder` and `decode_async`.
    """
    signals = HeldSignals()
    try:
        with signals:
            results = run_ranks(
                gpus, _decode_part, load, latents, sink, fps, config, progress, kind=kind
            )
        sink.open(replace(results[0].info, height=sum(one.info.height for one in results)))
        sink.close()
    except BaseException:
        sink.abort()
        raise
    finally:
        signals.release()
    return results


def _decode_part(
    device: torch.device, load: Any, latents: Any, sink: Any, fps: Any, config: Any, progress: bool
) -> DecodeResult:
    loaded = load(device)
    whole = latents if isinstance(latents, torch.Tensor) else latents(loaded)
    decoder = prepared_split(loaded, whole, config.chunk_size)
    rows, shown = decoder.strip.rows, progress and decoder.strip.rank == 0
    part = sink.part(rows.start, rows.stop, whole.shape[-2])
    return decode_async(decoder, decoder.part(whole), part, fps=fps, config=config, progress=shown)


def prepared_split(loaded: Any, latents: torch.Tensor, chunk_size: int) -> SplitDecoder:
    """A `SplitDecoder` of ``loaded`` over all ranks that is ready for the whole ``latents``.

    Raises:
        ValueError: once prepared, the ranks would not all run the same variant.
    """
    strip = Strip(latents.shape[-2])

    def prepare(decoder: Any) -> None:
        if hasattr(decoder, "prepare"):
            decoder.prepare(strip.heights[strip.rank], latents.shape[-1], chunk_size)

    prepare(loaded)
    variants: list[Any] = [None] * strip.count
    dist.all_gather_object(variants, getattr(loaded, "variant", None))
    if len(set(variants)) > 1:
        wrong = f"the ranks would run {', '.join(map(str, variants))}"
        raise ValueError(f"{wrong}; choose one variant for all")
    prepare(split := SplitDecoder(loaded, strip))
    return split
