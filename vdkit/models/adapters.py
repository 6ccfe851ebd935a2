"""Public decoders of diffusers and transformers as chunk decoders, by three mechanisms.

Which one a decoder needs follows from how its output depends on time. `Cached`: a call goes on
where the last one ended, by the model's own cache, or by one that is put on its modules
(`vdkit.models.memory`). `Halo`: a window with neighbors on both sides is decoded, and cropped.
`Tiles`: windows overlap and are blended. `ADAPTERS` has a line for every class of model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.video_processor import VideoProcessor

from vdkit.models.memory import Memory
from vdkit.models.wan import known_faults, weights_digest

if TYPE_CHECKING:
    import numpy as np

HALO = 8
"""Latents on each side of a chunk. LTX, Oobleck and DAC look further, but less than 1 % of what
reaches a frame comes from there."""
LAYOUTS = {
    "video": ("[1, C, T, h, w]", 5, 2),
    "images": ("[N, C, h, w]", 4, 0),
    "audio": ("[1, C, T]", 3, 2),
}
"""Of the latents of each medium: axes, how many, and which is cut into chunks."""

_Decode = Callable[[torch.Tensor], torch.Tensor]
_Step = Callable[[dict[Any, Any], torch.Tensor], torch.Tensor]


@dataclass(slots=True)
class Stream:
    """One decode under way: its latents, what is remembered of them, and what comes next."""

    latents: torch.Tensor
    memory: dict[Any, Any] = field(default_factory=dict)
    next_start: int = 0


class Adapter:
    """What all adapters have; a `ChunkDecoder` and a `WholeVideoDecoder` with `_decode_chunk`.

    Latents are those that the model's ``decode`` takes: scaling and shift are the caller's, by
    `denormalize`, as for Wan.

    Args:
        model: in the dtype and on the device it is to run on; it is the adapter's from now on.
        name: how records call it.
        medium: ``video``, ``images`` or ``audio``.
        whole: the model's own decode of all latents: [1, 3, F, H, W], [F, 3, H, W] or
            [1, channels, S].
        sample_rate: of audio, Hz, where the model does not say.
    """

    variant: ClassVar[str] = "diffusers"
    exact = True

    def __init__(
        self,
        model: Any,
        name: str,
        *,
        medium: str = "video",
        whole: Callable[[Any, torch.Tensor], torch.Tensor] | None = None,
        sample_rate: int | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.name, self.medium = name, medium
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self._whole: _Decode = partial(whole or _sample, model)
        cudnn = torch.backends.cudnn.version() if self.device.type == "cuda" else None
        faults = known_faults(torch.__version__, cudnn, self.dtype) if medium == "video" else ()
        self.notes: tuple[str, ...] = faults
        config = model.config
        self.latent_channels: int = _first(
            config, "latent_channels", "z_dim", "decoder_input_channels", "hidden_size"
        )
        if medium == "audio":
            self.temporal_factor: int = _first(model, "hop_length") or _first(
                config, "hop_length", "frame_size"
            )
            self.channels: int = _first(config, "audio_channels", "channels") or 1
            self.sample_rate: int = sample_rate or config.sampling_rate
            return
        self.spatial_factor, self.temporal_factor = _factors(model)
        if medium == "images":
            self.temporal_factor = 1

    def begin(self, latents: torch.Tensor) -> Stream:
        """Start on latents, on ``device`` in ``dtype``: [1, C, T, h, w], of images [N, C, h, w], of
        audio [1, C, T].

        Raises:
            ValueError: they have another shape.
        """
        layout, axes, axis = LAYOUTS[self.medium]
        shape = tuple(latents.shape)
        if len(shape) != axes or shape[1] != self.latent_channels or (axis and shape[0] != 1):
            raise ValueError(
                f"latents have shape {shape}; {self.name} decodes {self.medium}: {layout} with C = "
                f"{self.latent_channels}"
            )
        return Stream(latents)

    def decode_chunk(self, state: Stream, start: int, stop: int) -> torch.Tensor:
        """Decode positions ``start`` to ``stop``, in ``dtype``: video [1, 3, F, H, W] and images
        [F, 3, H, W] RGB, in [-1, 1] but for overshoot; audio [1, channels, S].

        Raises:
            ValueError: the chunk does not follow the one before, or `end` was called.
        """
        count = state.latents.shape[LAYOUTS[self.medium][2]]
        if start != state.next_start or not start < stop <= count:
            raise ValueError(
                f"chunk ({start}, {stop}) cannot follow latent position {state.next_start} of "
                f"{count}; chunks are decoded in order"
            )
        made = self._decode_chunk(state, start, stop)
        state.next_start = stop
        return made

    def _decode_chunk(self, state: Stream, start: int, stop: int) -> torch.Tensor:
        raise NotImplementedError

    def end(self, state: Stream) -> None:
        """Free all that ``state`` holds."""
        state.memory.clear()
        state.latents = state.latents.new_empty([0] * state.latents.ndim)

    def decode_video(
        self, latents: torch.Tensor, before_frame: Callable[[int], None]
    ) -> torch.Tensor:
        """The model's own decode of all latents at once, which ``before_frame(0)`` precedes."""
        before_frame(0)
        return self._whole(self.begin(latents).latents)

    def to_numpy(self, frames: torch.Tensor) -> np.ndarray:
        """float32 of `decode_video` to [F, H, W, 3] in [0, 1], of audio to [S, channels]."""
        made: np.ndarray
        if self.medium == "audio":
            made = frames[0].T.cpu().numpy()
        elif self.medium == "images":
            made = VaeImageProcessor().postprocess(frames, output_type="np")
        else:
            made = VideoProcessor().postprocess_video(frames, output_type="np")[0]
        return made

    def denormalize(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents as a diffusion pipeline leaves them to latents as the decoder takes them.

        ``latents * std / scaling_factor + mean + shift_factor``, each where the model has it. The
        pipeline of Cosmos also divides by its scheduler's ``sigma_data``, which no model knows.
        Takes and returns what `begin` takes, or video without its first axis.
        """
        owners = (self.model.config, self.model)  # LTX has them as buffers
        place = (-1, *(1,) * (LAYOUTS[self.medium][1] - 2))
        for name, combine in (
            ("latents_std", torch.mul),
            ("scaling_factor", torch.div),
            ("latents_mean", torch.add),
            ("shift_factor", torch.add),
        ):
            figures = next(
                (f for f in (_first(owner, name) for owner in owners) if f is not None), None
            )
            if figures is not None:
                figures = torch.as_tensor(figures).to(latents)
                latents = combine(latents, figures.view(place) if figures.ndim else figures)
        return latents

    def weights_sha256(self) -> str:
        """Hash of the names, shapes, dtypes and bytes of the weights that decode."""
        return weights_digest(self.model)

    def _units(self, position: int, count: int) -> int:
        """Frames, images or samples before latent ``position`` of ``count``."""
        if self.medium == "video":
            return self.temporal_factor * (position - 1) + 1 if position else 0
        return self.temporal_factor * position

    def _cuts(self, count: int) -> Iterable[int]:
        """Where chunks may begin and end, from 0 to ``count``."""
        return range(count + 1)

    def _plan(self, latents: torch.Tensor, chunk_size: int | None) -> list[tuple[int, int, int]]:
        """``plan`` of those that need their own: at most ``chunk_size``, but a piece at least."""
        count = latents.shape[LAYOUTS[self.medium][2]]
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size is {chunk_size}; it counts latents, so use 1 or more")
        borders = [0]
        pieces = list(pairwise(self._cuts(count)))
        for (_, stop), (_, following) in pairwise(pieces):
            if chunk_size is not None and following - borders[-1] > chunk_size:
                borders.append(stop)
        units = partial(self._units, count=count)
        return [(a, b, units(b) - units(a)) for a, b in pairwise([*borders, count])]


class Cached(Adapter):
    """Each call goes on where the last ended; frames equal those of the whole decode.

    Args:
        step: one call: what is remembered, which it changes, and latents to their output.
        batch: latents that the model's own decode takes in a call, which are then repeated here,
            since its frames depend on them. None: as many as are asked for.
        first_alone: the model does something else in its first call, which has one latent.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        step: Callable[..., Any],
        batch: int | None = None,
        first_alone: bool = False,
        **kind: Any,
    ) -> None:
        super().__init__(model, name, **kind)
        self._step: _Step = partial(step, model)
        self._batch, self._first_alone = batch, first_alone

    def _decode_chunk(self, state: Stream, start: int, stop: int) -> torch.Tensor:
        cuts = [start, *range(start + (self._batch or stop), stop, self._batch or 1), stop]
        if self._first_alone and start == 0 and cuts[1] > 1:
            cuts.insert(1, 1)
        return self._calls(state, cuts, LAYOUTS[self.medium][2])

    def _calls(self, state: Stream, cuts: Iterable[int], axis: int) -> torch.Tensor:
        made = [
            self._step(state.memory, state.latents.narrow(axis, a, b - a))
            for a, b in pairwise(cuts)
        ]
        return made[0] if len(made) == 1 else torch.cat(made, axis)


class OwnBatches(Cached):
    """A decoder that normalizes over batches of latents, 3, 2, 2, ... or 2, 2, ...: CogVideoX.

    Its plan consists of whole batches; those of an odd number of latents begin with one frame.
    """

    def _cuts(self, count: int) -> Iterable[int]:
        assert self._batch is not None
        return (0, *range(self._batch + count % self._batch, count, self._batch), count)

    def _units(self, position: int, count: int) -> int:
        odd = (count if count < 2 else count % 2) and position
        return self.temporal_factor * position - (self.temporal_factor - 1) * bool(odd)

    def plan(self, latents: torch.Tensor, chunk_size: int | None) -> list[tuple[int, int, int]]:
        """[(start, stop, frames), ...] of whole batches: ``chunk_size`` latents or a batch."""
        return self._plan(latents, chunk_size)

    def _decode_chunk(self, state: Stream, start: int, stop: int) -> torch.Tensor:
        cuts = [c for c in self._cuts(state.latents.shape[2]) if start <= c <= stop]
        return self._calls(state, cuts, 2)


class Halo(Adapter):
    """A decoder that looks ahead: a window around the chunk is decoded whole, and cropped.

    Frames approximate those of the whole decode (``exact`` is False), and each costs the window:
    (chunk + 2 x halo) / chunk as much. `prepare` measures the error.

    Args:
        halo: latents on each side, clipped to what there is; 1 or more.
    """

    exact = False

    def __init__(self, model: Any, name: str, halo: int = HALO, **kind: Any) -> None:
        if halo < 1:
            raise ValueError(f"halo is {halo}; it counts latents on each side, so use 1 or more")
        super().__init__(model, name, **kind)
        self.halo = halo
        self._faults = self.notes
        self.notes = (*self._faults, f"{self._how()}; prepare() measures how well")

    def _how(self) -> str:
        return f"chunks approximate the whole decode, by a halo of {self.halo} latents"

    def prepare(self, height: int, width: int, chunk_size: int) -> None:
        """Decode noise whole and in chunks, and state the error of the worst chunk in ``notes``.

        The noise has at most 4x4 latents, and a chunk with all of its halo.
        """
        count = 1 + 2 * self.halo + 2 * chunk_size
        sides = {"video": (min(height, 4), min(width, 4)), "audio": ()}[self.medium]
        shape = (1, self.latent_channels, count, *sides)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        latents = noise.to(self.device, self.dtype)
        with torch.inference_mode():
            whole, state, worst = self._whole(latents), self.begin(latents), math.inf
            for start, stop, units in self._plan(latents, chunk_size):
                part = whole.narrow(2, self._units(start, count), units).float()
                error = (self.decode_chunk(state, start, stop).float() - part).square().mean()
                power = part.square().mean() if self.medium == "audio" else error.new_tensor(4.0)
                worst = min(worst, float(10 * torch.log10(power / error)))
        ratio = "signal to noise" if self.medium == "audio" else "PSNR"
        of = f"{count} latents of noise" + (f" {sides[0]}x{sides[1]}" if sides else "")
        self.notes = (
            *self._faults,
            f"{self._how()}: {worst:.1f} dB {ratio} in the worst chunk of {chunk_size}, of {of}",
        )

    def _decode_chunk(self, state: Stream, start: int, stop: int) -> torch.Tensor:
        count = state.latents.shape[2]
        first, last = max(0, start - self.halo), min(count, stop + self.halo)
        made = self._whole(state.latents[:, :, first:last])
        skipped = self.temporal_factor * first
        units = self._units(stop, count) - self._units(start, count)
        return made.narrow(2, self._units(start, count) - skipped, units).clone()


class AudioHalo(Halo):
    """As `Halo`, of samples, whose number need not be a multiple of the latents'."""

    def _units(self, position: int, count: int) -> int:
        if position < count:
            return self.temporal_factor * position
        length = count
        for layer in self.model.decoder.modules():
            if isinstance(layer, torch.nn.ConvTranspose1d):
                (stride,), (kernel,), (cut,) = layer.stride, layer.kernel_size, layer.padding
                length = (length - 1) * stride + kernel - 2 * cut + layer.output_padding[0]
        return length

    def plan(self, latents: torch.Tensor, chunk_size: int | None) -> list[tuple[int, int, int]]:
        """[(start, stop, samples), ...]: ``chunk_size`` latents each."""
        return self._plan(latents, chunk_size)


class Tiles(Halo):
    """Windows of diffusers' own size that overlap and are blended: HunyuanVideo 1.0.

    The frames are those of the model's ``decode`` with ``use_framewise_decoding``, its default.
    They approximate the decode of the whole at once, since the model normalizes over time.
    """

    def __init__(self, model: Any, name: str) -> None:
        factor = model.temporal_compression_ratio
        self._stride: int = model.tile_sample_stride_num_frames // factor
        self._blend: int = model.tile_sample_min_num_frames - model.tile_sample_stride_num_frames
        model.use_framewise_decoding = False  # `_whole` is to be of all frames at once
        super().__init__(model, name, halo=model.tile_sample_min_num_frames // factor)

    def _how(self) -> str:
        return (
            f"chunks are diffusers' own windows of {self.halo + 1} latents, blended over "
            f"{self._blend} frames, which approximate the whole decode"
        )

    def _cuts(self, count: int) -> Iterable[int]:
        if count <= self.halo:
            return (0, count)
        return (0, *range(self._stride + 1, count, self._stride), count)

    def plan(self, latents: torch.Tensor, chunk_size: int | None) -> list[tuple[int, int, int]]:
        """[(start, stop, frames), ...] of whole windows: ``chunk_size`` latents or a window."""
        return self._plan(latents, chunk_size)

    def _decode_chunk(self, state: Stream, start: int, stop: int) -> torch.Tensor:
        count = state.latents.shape[2]
        cuts = [c for c in self._cuts(count) if start <= c <= stop]
        made = []
        for a, b in pairwise(cuts):
            first = max(0, a - 1)
            window = state.latents[
                :, :, first : count if count <= self.halo else first + self.halo + 1
            ]
            tile = self._whole(window)[:, :, bool(a) :]
            if a:
                tile = self.model.blend_t(state.memory["tail"], tile, self._blend)
            state.memory["tail"] = tile[:, :, -self._blend :].clone()
            made.append(tile[:, :, : self._units(b, count) - self._units(a, count)])
        return torch.cat(made, 2)


def _first(owner: Any, *names: str) -> Any:
    """The first of these attributes that is there and not None."""
    return next((v for v in (getattr(owner, n, None) for n in names) if v is not None), None)


def _factors(model: Any) -> tuple[int, int]:
    """Pixels per latent along a side, and frames per latent."""
    config = model.config
    doubled = _first(config, "decoder_spatio_temporal_scaling")
    if doubled is not None:  # LTX, whose other figures are the encoder's
        return config.patch_size * 2 ** sum(doubled), config.patch_size_t * 2 ** sum(doubled)
    spatial = _first(model, "spatial_compression_ratio") or _first(
        config, "spatial_compression_ratio"
    )
    temporal = _first(model, "temporal_compression_ratio") or _first(
        config, "temporal_compression_ratio"
    )
    return spatial or 2 ** (len(config.block_out_channels) - 1), temporal or 4


def _sample(model: Any, latents: torch.Tensor) -> torch.Tensor:
    """The whole decode of a diffusers autoencoder; one with a timestep gets 0, as by default."""
    timed = {}
    if _first(model.config, "timestep_conditioning"):
        timed["temb"] = latents.new_zeros(latents.shape[0])
    made: torch.Tensor = model.decode(latents, return_dict=False, **timed)[0]
    return made


def _codec(model: Any, latents: torch.Tensor) -> torch.Tensor:
    """The whole decode of DAC, of quantized representations."""
    made: torch.Tensor = model.decode(quantized_representation=latents).audio_values[:, None]
    return made


def _speech(model: Any, latents: torch.Tensor) -> torch.Tensor:
    """The whole decode of VibeVoice's acoustic tokenizer, which takes time before channels."""
    made: torch.Tensor = model.decode(latents.mT).audio
    return made


def _speech_on(model: Any, memory: dict[Any, Any], latents: torch.Tensor) -> torch.Tensor:
    made = model.decode(latents.mT, padding_cache=memory.get("cache"), use_cache=True)
    memory["cache"] = made.padding_cache
    audio: torch.Tensor = made.audio
    return audio


def _mimi(model: Any, latents: torch.Tensor) -> torch.Tensor:
    """The whole decode of Mimi, of what its quantizer gives."""
    made: torch.Tensor = model.decoder(latents).audio_values
    return made


def _image(model: Any, memory: dict[Any, Any], latents: torch.Tensor) -> torch.Tensor:
    return _sample(model, latents)


def _listed(model: Any, memory: dict[Any, Any], latents: torch.Tensor) -> torch.Tensor:
    """QwenImage: a list, an entry for each convolution over time, as Wan's."""
    cache = memory.setdefault("cache", [None] * model._conv_num)
    made = model.decoder(model.post_quant_conv(latents), feat_cache=cache, feat_idx=[0])
    return made.clamp_(-1.0, 1.0)  # type: ignore[no-any-return]


def _handed(model: Any, memory: dict[Any, Any], latents: torch.Tensor) -> torch.Tensor:
    """CogVideoX: a dictionary that a call takes and gives."""
    if model.post_quant_conv is not None:
        latents = model.post_quant_conv(latents)
    made, memory["cache"] = model.decoder(latents, conv_cache=memory.get("cache"))
    return made  # type: ignore[no-any-return]


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
    return made  # type: ignore[no-any-return]


def _remembered(model: Any, name: str) -> Cached:
    """Models without a cache, or with a wrong one (Mochi): `Memory` puts one on their modules."""
    shared = Memory(model.decoder)
    prepared = _first(model, "post_quant_conv")

    def step(model: Any, memory: dict[Any, Any], latents: torch.Tensor) -> torch.Tensor:
        began = bool(memory)
        with shared.of(memory):
            made = model.decoder(latents if prepared is None else prepared(latents))
        made = made[0] if isinstance(made, tuple) else made
        if not began and _first(model, "drop_last_temporal_frames"):  # Mochi's first latent
            made = made[:, :, model.temporal_compression_ratio - 1 :]
        return made  # type: ignore[no-any-return]

    return Cached(model, name, step)


def _mimi_remembered(model: Any, name: str) -> Cached:
    """Mimi keeps keys and values of its transformer; `Memory` the inputs of its convolutions."""
    shared = Memory(model.decoder)

    def step(model: Any, memory: dict[Any, Any], latents: torch.Tensor) -> torch.Tensor:
        with shared.of(memory):
            made = model.decoder(latents, past_key_values=memory.get("cache"), use_cache=True)
        memory["cache"] = made.decoder_past_key_values
        return made.audio_values  # type: ignore[no-any-return]

    return Cached(model, name, step, medium="audio", whole=_mimi)


ADAPTERS: dict[str, Callable[[Any, str], Adapter]] = {
    "AutoencoderKL": partial(Cached, step=_image, medium="images"),
    "AutoencoderDC": partial(Cached, step=_image, medium="images"),
    "AutoencoderKLQwenImage": partial(Cached, step=_listed, first_alone=True),
    "AutoencoderKLCogVideoX": partial(OwnBatches, step=_handed, batch=2),
    "AutoencoderKLMagvit": partial(Cached, step=_swapped, batch=1),
    "AutoencoderKLMochi": _remembered,
    "AutoencoderKLCosmos": _remembered,
    "AutoencoderKLHunyuanVideo15": _remembered,
    "AutoencoderKLHunyuanVideo": Tiles,
    "AutoencoderKLLTXVideo": Halo,
    "AutoencoderKLLTX2Video": Halo,
    "AutoencoderOobleck": partial(AudioHalo, medium="audio"),
    "DacModel": partial(AudioHalo, medium="audio", whole=_codec),
    "MimiModel": _mimi_remembered,
    "VibeVoiceAcousticTokenizerModel": partial(
        Cached, step=_speech_on, whole=_speech, medium="audio", sample_rate=24000
    ),
}
"""How the decoder of a class of diffusers or transformers is run chunk by chunk, by its name."""
