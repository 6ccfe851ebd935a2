"""Wan's decoder written again for speed, on the weights of any `AutoencoderKLWan`.

Activations are frames with a border of zeros, [T, H + 2, W + 2, C], in rings that keep the past, so
that each convolution is one pass, from the sums to what the next one reads. The later stages work
on two frames at a time, however long the chunk, so that their memory does not grow with it.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from vdkit.models.fast_blocks import Attention, NoPasses, Passes, ResidualBlock, Stage, Work
from vdkit.models.fast_layers import (
    Convolution,
    Entry,
    FastState,
    Frames,
    Norm,
    Pixels,
    Space,
    Step,
)
from vdkit.models.fast_plain import PlainPasses, why_plain
from vdkit.models.wan import WanDecoder, check_order

if TYPE_CHECKING:
    from vdkit.models.fast_kernels import KernelPasses

_AT_ONCE = 2
"""Frames of a later stage: the kernels make two at once; more would only take more memory."""
_EARLY_STAGES = 2
"""Stages whose frames are small: all of a chunk at once fill a GPU better."""


class FastWanDecoder:
    """The same frames as `WanDecoder`, within rounding, from the same weights; a `ChunkDecoder`.

    Rounding differs from diffusers': sums, norms and SiLU are float32 and rounded once, and where
    a convolution follows a doubling its weights are added up before.

    The memory of a video is kept for the next one of the same size.

    Args:
        vae: the model, in the dtype and on the device it is to run on.
        name: how records call it.
        kernels: False leaves the Triton kernels out: torch's operations do the same.

    Attributes:
        notes: what a record should say: why the kernels are not used, if they are not.
    """

    variant = "fast"

    def __init__(self, vae: AutoencoderKLWan, name: str, kernels: bool = True) -> None:
        self._stock = WanDecoder(vae, name)
        self._post_quant = vae.post_quant_conv
        decoder = vae.decoder
        self.name, self.device, self.dtype = name, self._stock.device, self._stock.dtype
        self.latent_channels = self._stock.latent_channels
        self.spatial_factor = self._stock.spatial_factor
        self.temporal_factor = self._stock.temporal_factor
        self._patch: int = vae.config.patch_size or 1
        self._conv_in = Convolution(decoder.conv_in)
        first, second = decoder.mid_block.resnets
        self._mid = ResidualBlock(first), ResidualBlock(second)
        self._attention = Attention(decoder.mid_block.attentions[0])
        self._stages = [Stage(block, self.device) for block in decoder.up_blocks]
        self._head = Entry(Norm.of(decoder.norm_out), Convolution(decoder.conv_out))
        self._passes: Passes = PlainPasses()
        convolutions = self._convolutions()
        self._kernels: KernelPasses | None = None
        reason: str | None = "as asked for"
        if kernels:
            reason = why_plain(self.device, self.dtype, [one.channels for one in convolutions])
        self.notes: tuple[str, ...] = ()
        if reason is not None:
            self.notes = (f"fast decoder in plain torch: {reason}", *self._stock.notes)
        else:
            from vdkit.models.fast_kernels import KernelPasses

            self._kernels = KernelPasses(self.device, convolutions)
            self._passes = self._kernels
        self._graphs = self._kernels is not None and self.device.type == "cuda"
        self._idle: dict[tuple[int, int], list[Space]] = {}

    def release_vae(self) -> None:
        """Move the convolutions of ``vae`` to the host if the kernels have their own layout."""
        if self._kernels is not None:
            for convolution in self._convolutions():
                convolution.release()

    def _convolutions(self) -> list[Convolution]:
        blocks = [*self._mid, *(block for stage in self._stages for block in stage.blocks)]
        between = [one for stage in self._stages for one in (stage.time, stage.enlarge) if one]
        entries = [entry for block in blocks for entry in (block.entry, block.middle)]
        return [self._conv_in, *(entry.convolution for entry in (*entries, self._head)), *between]

    @torch.inference_mode()
    def begin(self, latents: torch.Tensor) -> FastState:
        """Start a video of latents [1, C, T, h, w], de-normalized, on ``device`` in ``dtype``."""
        height, width = latents.shape[3:]
        size = (height, width)
        self._idle = {size: self._idle.get(size, [])}
        idle = self._idle[size]
        space = idle.pop() if idle else Space(self.device, self.dtype)
        space.clear()
        rows = latents[0].permute(1, 2, 3, 0)  # a 1x1x1 convolution is a matrix product
        made = F.linear(rows, self._post_quant.weight.flatten(1), self._post_quant.bias)
        state = FastState(made, space)
        weakref.finalize(state, idle.append, space).atexit = False
        return state

    @torch.inference_mode()
    def decode_chunk(self, state: FastState, start: int, stop: int) -> torch.Tensor:
        """Decode latent frames ``start`` to ``stop``: [1, 3, F, H, W] RGB in [-1, 1] in ``dtype``.

        Raises:
            ValueError: the chunk does not follow the one before, or the first is not (0, 1).
        """
        check_order(state.next_start, start, stop, len(state.latents))
        frames, height, width = self._size_of(state, start, stop)
        shape = (1, 3, frames, height, width)
        target = torch.empty(shape, dtype=self.dtype, device=self.device)
        self._decode(state, start, stop, target)
        return target

    @torch.inference_mode()
    def decode_into(self, state: FastState, start: int, stop: int, out: torch.Tensor) -> None:
        """Decode latent frames ``start`` to ``stop`` into ``out``, uint8 [F, H, W, 3] RGB.

        The bytes are those of `frames_to_uint8` of `decode_chunk`.

        Raises:
            ValueError: as `decode_chunk`, or ``out`` is not such a contiguous tensor.
        """
        check_order(state.next_start, start, stop, len(state.latents))
        expected = (*self._size_of(state, start, stop), 3)
        if out.shape != expected or out.dtype != torch.uint8 or not out.is_contiguous():
            raise ValueError(
                f"out is {out.dtype} {tuple(out.shape)}; contiguous uint8 {expected} is needed"
            )
        self._decode(state, start, stop, out)

    def _size_of(self, state: FastState, start: int, stop: int) -> tuple[int, int, int]:
        frames = 1 if start == 0 else (stop - start) * self.temporal_factor
        height, width = (side * self.spatial_factor for side in state.latents.shape[1:3])
        return frames, height, width

    def _decode(self, state: FastState, start: int, stop: int, target: torch.Tensor) -> None:
        state.next_start = stop
        space, step = state.space, Step(start, 1, 0, stop - start)
        latents = state.latents[start:stop]
        ring = space.ring(self._conv_in, step, (latents.shape[1], latents.shape[2]))
        for slot, frame in zip(ring.numbers(step, 0, step.frames), latents, strict=True):
            ring.inner()[slot].copy_(frame)
        space.control[0].fill_(start)
        space.control[1].fill_(target.data_ptr())
        kind, pixels = (step.frames, target.dtype), Pixels(target, self._patch)
        work = Work(self._passes, space, step)
        if start > 0 and self._graphs and kind in space.ran and kind not in space.graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._run(work, ring, pixels, False)
            space.graphs[kind] = graph
        if start > 0 and kind in space.graphs:
            space.graphs[kind].replay()
            return
        self._run(work, ring, pixels, start == 0)
        if start > 0:
            space.ran.add(kind)

    @torch.inference_mode()
    def prepare(self, height: int, width: int, chunk_size: int) -> None:
        """All that is done once: kernels compiled, memory taken, chunks recorded as CUDA graphs.

        Without it the first video pays. The memory is kept until a video of another size begins.

        Args:
            height, width: of the latents.
            chunk_size: latent frames per call.
        """
        if self._kernels is None:
            return
        count = 1 + 3 * chunk_size
        shape = (1, self.latent_channels, count, height, width)
        latents = torch.zeros(shape, dtype=self.dtype, device=self.device)
        with self._kernels.planning():
            self._all_kinds(latents, 1 + chunk_size, chunk_size)
        for space in self._idle[height, width]:
            space.ran.clear()  # nothing did
        self._all_kinds(latents, count, chunk_size)

    def _all_kinds(self, latents: torch.Tensor, count: int, step: int) -> None:
        """Decode ``count`` latent frames in chunks of ``step``, into both kinds of target."""
        for into in (False, True):
            state = self.begin(latents)
            for start in (0, *range(1, count, step)):
                stop = min(start + step, count) if start else 1
                if into:
                    shape = (*self._size_of(state, start, stop), 3)
                    out = torch.empty(shape, dtype=torch.uint8, device=self.device)
                    self.decode_into(state, start, stop, out)
                else:
                    self.decode_chunk(state, start, stop)
            del state  # gives its memory back before the next begins

    def _run(self, work: Work, latents: Frames, pixels: Pixels, first: bool) -> None:
        """From the latents in the first ring to pixels; the first latent frame becomes one."""
        before, after = self._mid
        frames = work.space.scratch("stage", work.step.frames, latents.size, self._conv_in.out)
        work.convolve(self._conv_in, latents, summed=frames, then=before.entry)
        frames = before(work, frames, None, keep=True)
        self._attention(work, frames)
        work.norm(frames, after.entry)
        frames = after(work, frames, self._stages[0].entry, keep=True)
        self._stage(0, work, frames, pixels, first)

    def _stage(self, index: int, work: Work, frames: Frames, pixels: Pixels, first: bool) -> None:
        """From what the stage's first norm was made of to pixels; the first latent frame is one."""
        stage, last = self._stages[index], index + 1 == len(self._stages)
        step, space = work.step, work.space
        around = None if stage.around is None else frames.inner()[: step.frames].clone()
        doubled = stage.time is not None and not first
        to = space.ring(stage.time, step, frames.size) if stage.time and doubled else None
        for number, block in enumerate(stage.blocks, 1):
            if number < len(stage.blocks):
                frames = block(work, frames, stage.blocks[number].entry, keep=True)
            else:
                frames = block(work, frames, self._head if last else None, not last, to)
        if stage.enlarge is None:
            head = self._head.convolution
            work.convolve(head, space.ring(head, step, frames.size), pixels=pixels)
            return
        count, rate = step.frames, step.rate * (1 if stage.time is None else 2)
        if stage.time is not None and to is not None:
            count *= 2
            frames = space.scratch("pairs", count, frames.size, stage.time.out)
            work.convolve(stage.time, to, summed=frames)
        height, width = frames.size
        size, following = (2 * height, 2 * width), self._stages[index + 1]
        at_once = count if index + 1 < _EARLY_STAGES else min(count, _AT_ONCE)
        for offset in range(0, count, at_once):
            start = rate - 1 if first else step.start * count // step.frames + offset
            number = min(at_once, count - offset)
            part = work.at(Step(step.clock, rate, start, number))
            larger = space.scratch("stage", number, size, stage.enlarge.out)
            then = following.entry if around is None else None
            part.convolve(stage.enlarge, frames, offset, summed=larger, then=then)
            if stage.around is not None and around is not None:
                stage.around.add(around, larger.inner()[:number], offset, first)
                part.norm(larger, following.entry)
            at = replace(pixels, start=pixels.start * count // step.frames + offset)
            self._stage(index + 1, part, larger, at, first)

    def denormalize(self, latents: torch.Tensor) -> torch.Tensor:
        """As `WanDecoder.denormalize`."""
        return self._stock.denormalize(latents)

    def weights_sha256(self) -> str:
        """Hash of the weights that decode, as `WanDecoder.weights_sha256`."""
        return self._stock.weights_sha256()

    def working_bytes(self, chunk_size: int, height: int, width: int) -> int:
        """Device bytes of a decode beside the weights and the ring.

        Args:
            chunk_size: latent frames per call.
            height, width: of the latents.
        """
        space, target, _ = self._imagined(1, 1 + chunk_size, height, width)
        return space.nbytes + target.nbytes

    def chunk_flops(self, start: int, stop: int, height: int, width: int) -> int:
        """Operations of a chunk as torch's FlopCounter would count the same, which sees no kernel.

        A convolution after a doubling has 4 of 9 taps left; it counts with those.
        """
        with FlopCounterMode(display=False) as counter:
            _, _, passes = self._imagined(start, stop, height, width)
        return passes.flops + int(counter.get_total_flops())

    def _imagined(
        self, start: int, stop: int, height: int, width: int
    ) -> tuple[Space, torch.Tensor, NoPasses]:
        """A walk through a chunk that takes no memory and makes nothing."""
        space, step = Space(torch.device("meta"), self.dtype), Step(start, 1, 0, stop - start)
        frames = (stop - start) * self.temporal_factor if start else 1
        shape = (1, 3, frames, height * self.spatial_factor, width * self.spatial_factor)
        target = torch.empty(shape, dtype=self.dtype, device="meta")
        ring = space.ring(self._conv_in, step, (height, width))
        passes = NoPasses(self._passes)
        self._run(Work(passes, space, step), ring, Pixels(target, self._patch), start == 0)
        return space, target, passes
