"""Public decoders of diffusers and transformers as chunk decoders, by three mechanisms.

How a decoder's output depends on time says which it needs. `Cached`: a call goes on where the last
one ended, by the model's own cache, or by a `Memory` that is put on its modules. `Halo`: a window
with neighbors on both sides is decoded, and cropped. `Tiles`: windows overlap and are blended.
`ADAPTERS` has a line for every class of model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.video_processor import VideoProcessor

from vdkit.decode import begun
from vdkit.decode.media import MEDIA
from vdkit.models.memory import Memory
from vdkit.models.wan import known_faults, weights_digest

if TYPE_CHECKING:
    import numpy as np


@dataclass(slots=True)
class Stream:
    """One decode under way: its latents, what is remembered of them, and what comes next."""

    latents: torch.Tensor
    memory: dict[Any, Any] = field(default_factory=dict)
    next_start: int = 0


class Adapter:
    """What all adapters have; with `_frames` a `ChunkDecoder` and a `WholeVideoDecoder`.

    Latents are those that the model's ``decode`` takes: scaling and shift are the caller's, by
    `denormalize`, as for Wan.

    Args:
        model: in the dtype and on the device it is to run on; it is the adapter's from now on.
        name: how records call it.
        medium: ``video``, ``images`` or ``audio``.
        whole: the model's own decode of all latents at once.
        sample_rate: of audio, Hz, where the model does not say.
    """

    variant: ClassVar[str] = "diffusers"
    exact = True
    _first_lacks = 0  # units of the first latent, of what others become

    def __init__(
        self, model: Any, name: str, *, medium: str = "video",
        whole: Callable[[Any, torch.Tensor], torch.Tensor] | None = None,
        sample_rate: int | None = None,
    ) -> None:  # fmt: skip
        self.model, self.name, self.medium = model.eval().requires_grad_(False), name, medium
        self.device, self.dtype = model.device, model.dtype
        self._axis, self._whole = MEDIA[medium].axis, partial(whole or _whole, model)
        cudnn = torch.backends.cudnn.version() if self.device.type == "cuda" else None
        faults = known_faults(torch.__version__, cudnn, self.dtype)
        self.notes: tuple[str, ...] = faults if medium == "video" else ()
        find = partial(_first, model.config, model)
        channels = ("latent_channels", "z_dim", "decoder_input_channels", "hidden_size")
        self.latent_channels: int = find(*channels)
        if medium == "audio":
            self.temporal_factor: int = find("hop_length", "frame_size")
            self.channels: int = find("audio_channels", "channels") or 1
            self.sample_rate: int = sample_rate or find("sampling_rate")
            return
        halved = len(find("block_out_channels") or ()) - 1
        self.spatial_factor: int = find("spatial_compression_ratio") or 2**halved
        self.temporal_factor = find("temporal_compression_ratio") or 4
        if doubled := find("decoder_spatio_temporal_scaling"):  # LTX: the others are the encoder's
            self.spatial_factor = model.config.patch_size * 2 ** sum(doubled)
            self.temporal_factor = model.config.patch_size_t * 2 ** sum(doubled)
        if medium == "images":
            self.temporal_factor = 1
        else:
            self._first_lacks = self.temporal_factor - 1

    def begin(self, latents: torch.Tensor) -> Stream:
        """Start on latents as `ChunkDecoder.begin` has them, on ``device`` in ``dtype``."""
        return Stream(latents)

    def plan(self, latents: torch.Tensor, chunk_size: int | None) -> list[tuple[int, int, int]]:
        """[(start, stop, units), ...]: ``chunk_size`` latents each, or what the model takes at
        least; of video the first such piece alone. None: all in one."""
        count = latents.shape[self._axis]
        cuts, borders = list(self._cuts(count)), [0]
        for stop, following in pairwise(cuts[1:] if chunk_size else ()):
            alone = self.medium == "video" and stop == cuts[1]
            if alone or following - borders[-1] > (chunk_size or 0):
                borders.append(stop)
        units = partial(self._units, count=count)
        return [(a, b, units(b) - units(a)) for a, b in pairwise([*borders, count])]

    def decode_chunk(self, state: Stream, start: int, stop: int) -> torch.Tensor:
        """Decode positions ``start`` to ``stop``, in ``dtype``: video [1, 3, F, H, W] and images
        [F, 3, H, W] RGB, in [-1, 1] but for overshoot; audio [1, channels, S].

        Raises:
            ValueError: the chunk does not follow the one before, or `end` was called.
        """
        count = state.latents.shape[self._axis]
        if start != state.next_start or not start < stop <= count:
            raise ValueError(
                f"chunk ({start}, {stop}) cannot follow latent position {state.next_start} of "
                f"{count}; chunks are decoded in order"
            )
        made = self._frames(state, start, stop, count)
        state.next_start = stop
        return made

    def _frames(self, state: Stream, start: int, stop: int, count: int) -> torch.Tensor:
        raise NotImplementedError

    def _cuts(self, count: int) -> Iterable[int]:
        """Where chunks may begin and end, from 0 to ``count``."""
        return range(count + 1)

    def _units(self, position: int, count: int) -> int:
        """Frames, images or samples before latent ``position`` of ``count``."""
        return self.temporal_factor * position - (self._first_lacks if position else 0)

    def end(self, state: Stream) -> None:
        """Free all that ``state`` holds."""
        state.memory.clear()
        state.latents = state.latents.new_empty([0] * state.latents.ndim)

    def decode_video(
        self, latents: torch.Tensor, before_frame: Callable[[int], None]
    ) -> torch.Tensor:
        """The model's own decode of all latents at once, which ``before_frame(0)`` precedes."""
        before_frame(0)
        return self._whole(latents)

    def to_numpy(self, frames: torch.Tensor) -> np.ndarray:
        """float32 of `decode_video` to [F, H, W, 3] in [0, 1], of audio to [S, channels]."""
        if self.medium == "audio":
            return frames[0].T.cpu().numpy()
        if self.medium == "images":
            return VaeImageProcessor().postprocess(frames, output_type="np")
        return VideoProcessor().postprocess_video(frames, output_type="np")[0]

    def denormalize(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents as a diffusion pipeline leaves them to latents as the decoder takes them.

        ``latents * std / scaling_factor + mean + shift_factor``, each where the model has it. (The
        pipeline of Cosmos also divides by its scheduler's ``sigma_data``, which no model knows.)
        """
        place = (-1, *(1,) * (len(MEDIA[self.medium].layouts[0]) - 2))
        for name, combine in (
            ("latents_std", torch.mul), ("scaling_factor", torch.div),
            ("latents_mean", torch.add), ("shift_factor", torch.add),
        ):  # fmt: skip
            found = _first(self.model.config, self.model, name)
            if found is not None:
                figures = torch.as_tensor(found).to(latents)
                latents = combine(latents, figures.view(place) if figures.ndim else figures)
        return latents

    def weights_sha256(self) -> str:
        """Hash of the names, shapes, dtypes and bytes of the weights that decode."""
        return weights_digest(self.model)


class Cached(Adapter):
    """Each call goes on where the last ended; frames equal those of the whole decode.

    Args:
        step: one call: the model, what is remembered, which it changes, and latents to output.
        calls: of a number of latents, where the model's own decode begins a call on which its
            frames depend, so that one has to begin there here too.
        remember: a `Memory` is what is remembered, or a part of it.
    """

    def __init__(
        self, model: Any, name: str, step: Callable[..., torch.Tensor],
        calls: Callable[[int], Iterable[int]] | None = None, remember: bool = False, **kind: Any,
    ) -> None:  # fmt: skip
        super().__init__(model, name, **kind)
        self._step, self._calls = step, calls or (lambda count: ())
        self._shared = Memory(model.decoder) if remember else None

    def _frames(self, state: Stream, start: int, stop: int, count: int) -> torch.Tensor:
        cuts = [start, *(c for c in self._calls(count) if start < c < stop), stop]
        with self._shared.of(state.memory) if self._shared else nullcontext():
            made = [
                self._step(self.model, state.memory, state.latents.narrow(self._axis, a, b - a))
                for a, b in pairwise(cuts)
            ]
        return made[0] if len(made) == 1 else torch.cat(made, self._axis)


class OwnBatches(Cached):
    """CogVideoX, which normalizes over batches of latents, 3, 2, 2, ... or 2, 2, ...

    Chunks are whole batches; a first batch of an odd number of latents begins with one frame.
    """

    def __init__(self, model: Any, name: str) -> None:
        super().__init__(model, name, _handed, self._cuts)

    def _cuts(self, count: int) -> Iterable[int]:
        batch = self.model.num_latent_frames_batch_size
        return (0, *range(batch + count % batch, count, batch), count)

    def _units(self, position: int, count: int) -> int:
        odd = position and min(count, list(self._cuts(count))[1]) % 2
        return self.temporal_factor * position - (self.temporal_factor - 1) * odd


class Halo(Adapter):
    """A decoder that looks ahead: a window around the chunk is decoded whole, and cropped.

    Frames approximate those of the whole decode (``exact`` is False), at (chunk + 2 x halo) / chunk
    of the work. `prepare` measures the error.

    Args:
        halo: latents on each side, 1 or more, fewer than there are; None: the usual number,
            clipped to what there is.
    """

    exact = False
    usual = 8  # LTX looks further: `prepare` measures what that costs

    def __init__(self, model: Any, name: str, halo: int | None = None, **kind: Any) -> None:
        if halo is not None and halo < 1:
            raise ValueError(f"halo is {halo}; it counts latents on each side, so use 1 or more")
        super().__init__(model, name, **kind)
        self.halo, self._asked, self._faults = halo or self.usual, halo, self.notes
        self.notes = (*self._faults, f"{self._how()}; prepare() measures how well")

    def _how(self) -> str:
        return f"chunks approximate the whole decode, by a halo of {self.halo} latents"

    def plan(self, latents: torch.Tensor, chunk_size: int | None) -> list[tuple[int, int, int]]:
        """As `Adapter.plan`; ValueError if the halo that was asked for is all there is."""
        if chunk_size and self._asked and self._asked >= latents.shape[2]:
            raise ValueError(
                f"halo is {self._asked}, but there are {latents.shape[2]} latents: every chunk "
                f"would decode all of them; use fewer, or none for the usual {self.usual}"
            )
        return super().plan(latents, chunk_size)

    def prepare(self, height: int, width: int, chunk_size: int) -> None:
        """Decode noise whole and in chunks, and state the error of the worst chunk in ``notes``.

        The noise has at most 4x4 latents, and chunks with all of their halo.
        """
        count = 1 + 2 * self.halo + 2 * chunk_size
        sides = () if self.medium == "audio" else (min(height, 4), min(width, 4))
        shape = (1, self.latent_channels, count, *sides)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        latents, worst = noise.to(self.device, self.dtype), math.inf
        with torch.inference_mode(), begun(self, latents) as state:
            whole = self._whole(latents).float()
            for start, stop, units in self.plan(latents, chunk_size):
                part = whole.narrow(2, self._units(start, count), units)
                error = (self.decode_chunk(state, start, stop) - part).square().mean()
                power = part.square().mean() if self.medium == "audio" else 4.0
                worst = min(worst, float(10 * (power / error).log10()))
        ratio = "signal to noise" if self.medium == "audio" else "PSNR"
        found = f"{worst:.1f} dB {ratio} in the worst chunk of {chunk_size}"
        self.notes = (*self._faults, f"{self._how()}: {found}, of {list(shape)} latents of noise")

    def _frames(self, state: Stream, start: int, stop: int, count: int) -> torch.Tensor:
        first, last = max(0, start - self.halo), min(count, stop + self.halo)
        made = self._whole(state.latents[:, :, first:last])
        begins, ends = self._units(start, count), self._units(stop, count)
        return made.narrow(2, begins - self.temporal_factor * first, ends - begins).clone()


class AudioHalo(Halo):
    """As `Halo`, of samples: where a stride is odd, DAC gives a few less than its factor says."""

    usual = 10

    def _units(self, position: int, count: int) -> int:
        if position < count:
            return self.temporal_factor * position
        for one in self.model.decoder.modules():
            if isinstance(one, torch.nn.ConvTranspose1d):
                count = (count - 1) * one.stride[0] + one.kernel_size[0] - 2 * int(one.padding[0])
        return count


class Tiles(Halo):
    """Windows of diffusers' own size that overlap and are blended: HunyuanVideo 1.0.

    The frames are those of the model's ``decode`` with ``use_framewise_decoding``, its default.
    They approximate the decode of the whole at once, since the model normalizes over time.
    """

    def __init__(self, model: Any, name: str) -> None:
        factor, stride = model.temporal_compression_ratio, model.tile_sample_stride_num_frames
        self._stride, self._blend = stride // factor, model.tile_sample_min_num_frames - stride
        model.use_framewise_decoding = False  # `_whole` is to be of all frames at once
        self.usual = model.tile_sample_min_num_frames // factor
        super().__init__(model, name)

    def _how(self) -> str:
        windows = f"diffusers' own windows of {self.halo + 1} latents, blended over {self._blend}"
        return f"chunks are {windows} frames, which approximate the whole decode"

    def _cuts(self, count: int) -> Iterable[int]:
        inner = range(self._stride + 1, count, self._stride) if count > self.halo else ()
        return (0, *inner, count)

    def _frames(self, state: Stream, start: int, stop: int, count: int) -> torch.Tensor:
        made = []
        for a, b in pairwise(c for c in self._cuts(count) if start <= c <= stop):
            first = max(0, a - 1)
            tile = self._whole(state.latents[:, :, first : first + self.halo + 1])[:, :, bool(a) :]
            if a:
                tile = self.model.blend_t(state.memory["tail"], tile, self._blend)
            state.memory["tail"] = tile[:, :, -self._blend :].clone()
            made.append(tile[:, :, : self._units(b, count) - self._units(a, count)])
        return torch.cat(made, 2)


def _first(config: Any, model: Any, *names: str) -> Any:
    """The first of these that is not None; what the configuration has, it is not asked for."""
    found = (getattr(config if hasattr(config, n) else model, n, None) for n in names)
    return next((value for value in found if value is not None), None)


def _whole(model: Any, latents: torch.Tensor) -> torch.Tensor:
    """The whole decode of a diffusers autoencoder; one with a timestep gets 0, as by default."""
    timed = _first(model.config, model, "timestep_conditioning")
    options = {"temb": latents.new_zeros(latents.shape[0])} if timed else {}
    return model.decode(latents, return_dict=False, **options)[0]


def _listed(model: Any, memory: dict[Any, Any], latents: torch.Tensor) -> torch.Tensor:
    """QwenImage: a list, an entry for each convolution over time, as Wan's."""
    if "cache" not in memory:
        named = [type(module).__name__ for module in model.decoder.modules()]
        memory["cache"] = [None] * sum("CausalConv3d" in name for name in named)
    given = model.post_quant_conv(latents)
    made = model.decoder(given, feat_cache=memory["cache"], feat_idx=[0])
    return made.clamp_(-1.0, 1.0)


def _handed(model: Any, memory: dict[Any, Any], latents: torch.Tensor) -> torch.Tensor:
    """CogVideoX: a dictionary that a call takes and gives."""
    if model.post_quant_conv is not None:
        latents = model.post_quant_conv(latents)
    made, memory["cache"] = model.decoder(latents, conv_cache=memory.get("cache"))
    return made


def _swapped(model: Any, memory: dict[Any, Any], latents: torch.Tensor) -> torch.Tensor:
    """Magvit: on its modules, as ``prev_features``; there it is only while a call lasts."""
    holders = [m for m in model.decoder.modules() if hasattr(m, "prev_features")]
    for holder in holders:
        holder.prev_features = memory.get(holder)
    try:
        made = model.decoder(model.post_quant_conv(latents))
        memory.update((holder, holder.prev_features) for holder in holders)
    finally:
        for holder in holders:
            holder.prev_features = None
    return made


def _remembered(model: Any, memory: dict[Any, Any], latents: torch.Tensor) -> torch.Tensor:
    """Models without a cache, or with a wrong one: Mochi's takes each call for the first."""
    began, before = bool(memory), _first(None, model, "post_quant_conv")
    made = model.decoder(latents if before is None else before(latents))
    if not isinstance(made, tuple):
        return made
    first = model.temporal_compression_ratio - 1 if model.drop_last_temporal_frames else 0
    return made[0][:, :, 0 if began else first :]  # Mochi's first latent becomes one frame


def _mimi(model: Any, memory: dict[Any, Any], latents: torch.Tensor) -> torch.Tensor:
    """Mimi keeps keys and values; its convolutions, which forget, are given a `Memory`."""
    made = model.decoder(latents, past_key_values=memory.get("cache"), use_cache=True)
    memory["cache"] = made.decoder_past_key_values
    return made.audio_values


def _vibevoice(model: Any, memory: dict[Any, Any], latents: torch.Tensor) -> torch.Tensor:
    """VibeVoice takes time before channels."""
    made = model.decode(latents.mT, padding_cache=memory.get("cache"), use_cache=True)
    memory["cache"] = made.padding_cache
    return made.audio


_images = partial(Cached, step=lambda model, _, z: _whole(model, z), medium="images")
_remembering = partial(Cached, step=_remembered, remember=True)

ADAPTERS: dict[str, Callable[[Any, str], Adapter]] = {
    "AutoencoderKL": _images,
    "AutoencoderDC": _images,
    "AutoencoderKLQwenImage": partial(Cached, step=_listed, calls=lambda count: (1,)),
    "AutoencoderKLCogVideoX": OwnBatches,
    "AutoencoderKLMagvit": partial(Cached, step=_swapped, calls=range),
    "AutoencoderKLMochi": _remembering,
    "AutoencoderKLCosmos": _remembering,
    "AutoencoderKLHunyuanVideo15": _remembering,
    "AutoencoderKLHunyuanVideo": Tiles,
    "AutoencoderKLLTXVideo": Halo,
    "AutoencoderKLLTX2Video": Halo,
    "AutoencoderOobleck": partial(AudioHalo, medium="audio"),
    "DacModel": partial(
        AudioHalo, medium="audio",
        whole=lambda model, z: model.decode(quantized_representation=z).audio_values[:, None],
    ),
    "MimiModel": partial(
        Cached, step=_mimi, remember=True, medium="audio",
        whole=lambda model, z: model.decoder(z).audio_values,
    ),
    "VibeVoiceAcousticTokenizerModel": partial(
        Cached, step=_vibevoice, medium="audio", sample_rate=24000,
        whole=lambda model, z: model.decode(z.mT).audio,
    ),
}  # fmt: skip
"""How the decoder of a class of diffusers or transformers is run chunk by chunk, by its name."""
