"""Wan's decoder written again for speed, on the weights of any `AutoencoderKLWan`.

Activations are frames with a border of zeros, [T, H + 2, W + 2, C], in rings that keep the past, so
that each convolution is one pass over what is there already. The later stages work on two frames
at a time, however long the chunk, so that their memory does not grow with it.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from vdkit.models.fast import (
    ImaginedPasses,
    KernelError,
    Network,
    Pixels,
    PlainPasses,
    Space,
    Work,
    why_plain,
)
from vdkit.models.fast.tiles import TUNE, Gpu
from vdkit.models.wan import WanBase, check_order

if TYPE_CHECKING:
    from vdkit.models.fast.kernels import KernelPasses


@dataclass(slots=True, weakref_slot=True)
class FastState:
    """One video being decoded."""

    latents: torch.Tensor  # [T, h, w, C] after ``post_quant_conv``
    space: Space  # what its convolutions remember
    next_start: int = 0  # the latent frame that has to come next
    ran: dict[Any, int] = field(default_factory=dict)  # kind of chunk to the buffers of its last


class FastWanDecoder(WanBase):
    """The same frames as `WanDecoder`, within rounding, from the same weights; a `ChunkDecoder`.

    Rounding differs from diffusers': sums, norms and SiLU are float32 and rounded once, and where
    a convolution follows a doubling its weights are added up before.

    The memory of a video is kept for the next one of the same size. Each thread may
    decode a video; while one prepares, all others wait.

    Args:
        vae: the model, in the dtype and on the device it is to run on.
        name: how records call it.
        kernels: False leaves the Triton kernels out: torch's operations do the same.
        tune: of `tiles.TUNE`: whether `prepare` times ways to cut what no table knows.

    Attributes:
        notes: what a record should say: why the kernels are not used, if they are not.
        kernels: which are used; None: none.
    """

    variant = "fast"
    # A plan swallows launches, and a capture begins with the device at rest, of any decoder.
    _lock = threading.RLock()

    def __init__(
        self, vae: AutoencoderKLWan, name: str, kernels: bool = True, tune: str = "auto"
    ) -> None:
        super().__init__(vae, name)
        if tune not in TUNE:
            raise ValueError(f"tune is {tune!r}; use {', '.join(TUNE)}")
        self._tune = tune
        self._network = Network(vae.decoder)
        self._patch: int = vae.config.patch_size or 1
        self._passes = PlainPasses()
        self.kernels: KernelPasses | None = None
        convolutions = self._network.convolutions()
        reason: str | None = "as asked for"
        if kernels:
            reason = why_plain(self.device, self.dtype, [one.channels for one in convolutions])
        if reason is not None:
            self.notes = (f"fast decoder in plain torch: {reason}", *self.notes)
        else:
            from vdkit.models.fast.kernels import KernelPasses

            gpu = Gpu.of(self.device) if self.device.type == "cuda" else None
            self._passes = self.kernels = KernelPasses(gpu, convolutions)
            self.notes = ()
        self._graphs = self.kernels is not None and self.device.type == "cuda"
        self._idle: dict[tuple[int, int], list[Space]] = {}

    def release_vae(self) -> None:
        """Move the convolutions of ``vae`` to the host if the kernels have their own layout."""
        if self.kernels is not None:
            for convolution in self._network.convolutions():
                convolution.release()

    @torch.inference_mode()
    def begin(self, latents: torch.Tensor) -> FastState:
        """Start a video of latents [1, C, T, h, w], de-normalized, on ``device`` in ``dtype``.

        Raises:
            ValueError: another shape, or another dtype.
        """
        shape, wanted = tuple(latents.shape), (1, self.latent_channels)
        if len(shape) != 5 or shape[:2] != wanted or latents.dtype != self.dtype:
            raise ValueError(
                f"latents are {latents.dtype} {shape}; {self.dtype} [1, {wanted[1]}, T, h, w] is "
                "needed"
            )
        size = (shape[3], shape[4])
        with self._lock:
            self._idle = {size: self._idle.get(size, [])}
            idle = self._idle[size]
            space = idle.pop() if idle else Space(self.device, self.dtype)
        if space.done is not None:  # its last video may still be at work on another stream
            torch.cuda.current_stream(self.device).wait_event(space.done)
        space.clear()
        rows = latents[0].permute(1, 2, 3, 0)  # a 1x1x1 convolution is a matrix product
        first = self.vae.post_quant_conv
        state = FastState(F.linear(rows, first.weight.flatten(1), first.bias), space)
        weakref.finalize(state, idle.append, space).atexit = False
        return state

    @torch.inference_mode()
    def decode_chunk(self, state: FastState, start: int, stop: int) -> torch.Tensor:
        """Decode latent frames ``start`` to ``stop``: [1, 3, F, H, W] RGB in [-1, 1] in ``dtype``.

        What is not finite before it is clamped is NaN.

        Raises:
            ValueError: the chunk does not follow the one before, or the first is not (0, 1).
        """
        shape = (1, 3, *self._size_of(state, start, stop))
        target = torch.empty(shape, dtype=self.dtype, device=self.device)
        with self._lock:
            self._decode(state, start, stop, target)
        return target

    @torch.inference_mode()
    def decode_into(
        self, state: FastState, start: int, stop: int, out: torch.Tensor
    ) -> torch.Tensor:
        """Decode latent frames ``start`` to ``stop`` into ``out``, uint8 [F, H, W, 3] RGB.

        The bytes are those of `frames_to_uint8` of `decode_chunk`.

        Returns:
            bool [] on ``device``: whether any frame of the video so far had NaN or inf.

        Raises:
            ValueError: as `decode_chunk`, or ``out`` is not such a contiguous tensor.
        """
        expected = (*self._size_of(state, start, stop), 3)
        fits = out.shape == expected and out.dtype == torch.uint8 and out.is_contiguous()
        if not fits or out.device != self.device:
            raise ValueError(
                f"out is {out.dtype} {tuple(out.shape)} on {out.device}; contiguous uint8 "
                f"{expected} on {self.device} is needed"
            )
        with self._lock:
            self._decode(state, start, stop, out)
            return state.space.control[2] != 0

    def _size_of(self, state: FastState, start: int, stop: int) -> tuple[int, int, int]:
        """Frames, height and width of a chunk, which has to be the next one."""
        check_order(state.next_start, start, stop, len(state.latents))
        frames = 1 if start == 0 else (stop - start) * self.temporal_factor
        height, width = (side * self.spatial_factor for side in state.latents.shape[1:3])
        return frames, height, width

    def _decode(self, state: FastState, start: int, stop: int, target: torch.Tensor) -> None:
        space, latents = state.space, state.latents[start:stop]
        work = Work(self._passes, space, start, 1, 0, stop - start)
        ring = space.ring(self._network.conv_in, work, (latents.shape[1], latents.shape[2]))
        for slot, frame in zip(ring.numbers(work, 0, work.frames), latents, strict=True):
            ring.inner()[slot].copy_(frame)
        space.control[0].fill_(start)
        space.control[1].fill_(target.data_ptr())
        kind, pixels = (work.frames, target.dtype), Pixels(target, self._patch)
        again = start > 0 and state.ran.get(kind) == space.buffers  # all that it needs is there
        if again and self._graphs and kind not in space.graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._network.run(work, ring, pixels, False)
            space.graphs[kind] = graph
        if start > 0 and kind in space.graphs:
            space.graphs[kind].replay()
        else:
            self._network.run(work, ring, pixels, start == 0)
        if start > 0:
            state.ran[kind] = space.buffers
        state.next_start = stop
        if self.device.type == "cuda":
            space.done = torch.cuda.Event()
            space.done.record(torch.cuda.current_stream(self.device))

    @torch.inference_mode()
    def prepare(self, height: int, width: int, chunk_size: int) -> None:
        """All that is done once: kernels tuned and compiled, memory taken, CUDA graphs recorded.

        Without it the first video pays. The memory is kept until a video of another size begins.
        A short last chunk is never recorded.

        Args:
            height, width: of the latents.
            chunk_size: latent frames per call.

        Raises:
            ValueError: one of them is below 1.
            KernelError: a kernel cannot be compiled.
        """
        if min(height, width, chunk_size) < 1:
            raise ValueError(
                f"cannot prepare for latents of {height}x{width} in chunks of {chunk_size}: use 1 "
                "or more"
            )
        if self.kernels is None:
            return
        shape = (1, self.latent_channels, 1 + 3 * chunk_size, height, width)
        latents = torch.zeros(shape, dtype=self.dtype, device=self.device)
        with self._lock:
            with self.kernels.planning() as plan:
                self._all_kinds(latents[:, :, : 1 + chunk_size], chunk_size)
            self.kernels.tune(plan, self._tune)
            try:
                plan.build()
            except Exception as error:  # Triton's own, of its passes, of the assembler
                said = str(error).strip() or type(error).__name__
                raise KernelError(f"its kernels do not compile: {said.splitlines()[-1]}") from error
        self._all_kinds(latents, chunk_size)

    def _all_kinds(self, latents: torch.Tensor, chunk_size: int) -> None:
        """Decode ``latents`` in whole chunks, into both kinds of target."""
        for into in (False, True):
            state = self.begin(latents)
            for start in (0, *range(1, latents.shape[2], chunk_size)):
                stop = start + chunk_size if start else 1
                if into:
                    shape = (*self._size_of(state, start, stop), 3)
                    out = torch.empty(shape, dtype=torch.uint8, device=self.device)
                    self.decode_into(state, start, stop, out)
                else:
                    self.decode_chunk(state, start, stop)
            del state  # gives its memory back before the next begins

    def working_bytes(self, chunk_size: int, height: int, width: int) -> int:
        """Estimated device bytes of a decode beside the weights and the ring.

        All buffers and a chunk's frames; not what attention and shortcuts take for a moment.

        Args:
            chunk_size: latent frames per call.
            height, width: of the latents.
        """
        return self._imagined(1, 1 + chunk_size, height, width)

    def chunk_flops(self, start: int, stop: int, height: int, width: int) -> int:
        """Operations of a chunk as torch's FlopCounter would count the same, which sees no kernel.

        A convolution after a doubling has 4 of 9 taps left; it counts with those.
        """
        with FlopCounterMode(display=False) as counter:
            self._imagined(start, stop, height, width)
        return int(counter.get_total_flops())

    @torch.inference_mode()
    def _imagined(self, start: int, stop: int, height: int, width: int) -> int:
        """Walk through a chunk, taking no memory; bytes of the buffers and of its frames."""
        space, passes = Space(torch.device("meta"), self.dtype), ImaginedPasses(self._passes)
        latents = torch.empty(stop, height, width, 0, device="meta")
        shape = (1, 3, *self._size_of(FastState(latents, space, start), start, stop))
        target = torch.empty(shape, dtype=self.dtype, device="meta")
        work = Work(passes, space, start, 1, 0, stop - start)
        ring = space.ring(self._network.conv_in, work, (height, width))
        self._network.run(work, ring, Pixels(target, self._patch), start == 0)
        return space.nbytes + target.nbytes
