"""Video with sound: two decoders as one, and the sound decoder of LTX-2.

The chunks are the video's. With each go the samples that are heard while its frames are shown: the
sound is decoded as far as they need it, and what is decoded beyond waits for the next chunk.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

from vdkit.decode import AvLatents, Traits, end_state, require
from vdkit.decode.chunks import ChunkRecord, chunks_of, exact_fps
from vdkit.decode.media import samples_a_frame
from vdkit.models.adapters import Adapter, Stream
from vdkit.models.memory import Memory

if TYPE_CHECKING:
    import numpy as np


class LTX2Sound(Adapter):
    """LTX-2's sound, exact: a causal VAE makes a mel spectrogram, a vocoder samples of it.

    Latents are [1, C, T, F], of the published weights [1, 8, T, 16], 25 a second. The first becomes
    one mel frame and every other four: the sound ends three of them, 30 ms, before its last latent.
    The VAE remembers. The vocoder does not: it gets `reach` mel frames more on both sides.

    Args:
        vae: AutoencoderKLLTX2Audio, causal over time.
        vocoder: LTX2Vocoder, on the same device in the same dtype.
        name: how records call it.
    """

    def __init__(self, vae: Any, vocoder: Any, name: str) -> None:
        if vae.config.causality_axis != "height":
            raise ValueError(
                f"{name}: causality_axis is {vae.config.causality_axis!r}, not 'height'"
            )
        super().__init__(_Sounding(vae, vocoder), name, medium="audio", whole=_Sounding.decode)
        self._per, self._hop = vae.temporal_compression_ratio, vocoder.total_upsample_factor
        self.features = (vae.config.mel_bins or 64) // vae.mel_compression_ratio
        self._first_lacks = self.temporal_factor - self._hop
        self._normal = vae.latents_std, vae.latents_mean
        self._shared = Memory(vae.decoder)
        self.reach = _reach(vocoder)

    def _frames(self, state: Stream, start: int, stop: int, count: int) -> torch.Tensor:
        first, last, total = (self._units(at, count) // self._hop for at in (start, stop, count))
        begin, end = max(0, first - self.reach), min(total, last + self.reach)
        made, at = state.memory.get("mel", ([], 0))
        while self._units(at, count) // self._hop < end:
            until = min(count, at + max(1, stop - start))
            with self._shared.of(state.memory):
                made = [*made, self.model.spectrogram(state.latents[:, :, at:until])]
            at = until
        mel = torch.cat(made, 2)
        mel = mel[:, :, begin - self._units(at, count) // self._hop + mel.shape[2] :]
        state.memory["mel"] = [mel], at
        samples = self.model.vocoder(mel[:, :, : end - begin])
        return samples[:, :, (first - begin) * self._hop : (last - begin) * self._hop].clone()

    def denormalize(self, latents: torch.Tensor) -> torch.Tensor:
        """``latents * std + mean``, of every channel and feature; as LTX-2's pipeline does it."""
        size = (1, self.latent_channels, 1, self.features)
        std, mean = (z.to(latents).reshape(size) for z in self._normal)
        return latents * std + mean


def _reach(vocoder: Any) -> int:
    """Mel frames on each side that a sample of LTX2Vocoder may depend on."""
    config = vocoder.config
    act = 2 * config.antialias_kernel_size * (config.antialias or "snake" in config.act_fn)
    widest = max(
        sum((kernel // 2) * (dilation + 1) + 2 * act for dilation in dilations)
        for kernel, dilations in zip(
            config.resnet_kernel_sizes, config.resnet_dilations, strict=True
        )
    )
    reach = vocoder.conv_out.kernel_size[0] // 2 + act
    for module in reversed(vocoder.upsamplers):
        (kernel,), (stride,) = module.kernel_size, module.stride
        reach = -(-(reach + widest + kernel) // stride)
    return int(reach) + vocoder.conv_in.kernel_size[0] // 2


class _Sounding(torch.nn.Module):
    """What decodes of both models."""

    def __init__(self, vae: Any, vocoder: Any) -> None:
        super().__init__()
        self.decoder, self.vocoder = vae.decoder, vocoder
        self.device, self.dtype = vae.device, vae.dtype
        self.config = SimpleNamespace(
            latent_channels=vae.config.latent_channels,
            hop_length=vae.temporal_compression_ratio * vocoder.total_upsample_factor,
            audio_channels=vocoder.config.out_channels,
            sampling_rate=vocoder.config.output_sampling_rate,
        )

    def spectrogram(self, latents: torch.Tensor) -> torch.Tensor:
        """[1, C, T, F] to mel frames [1, channels, M, bins], without the decoder's cut at the end,
        which takes each call for a first one."""
        decoder: Any = self.decoder
        decoder.give_pre_end = True
        try:
            hidden = decoder(latents)
        finally:
            decoder.give_pre_end = False
        mel = decoder.conv_out(decoder.non_linearity(decoder.norm_out(hidden)))
        return mel[:, :, :, : decoder.mel_bins]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[1, C, T, F] to samples [1, channels, S]."""
        made: torch.Tensor = self.vocoder(self.decoder(latents))
        return made


@dataclass(slots=True)
class _Under:
    """One decode under way: both states, the sound's calls to come, samples decoded beyond."""

    video: Any
    audio: Any
    calls: deque[ChunkRecord]
    beyond: torch.Tensor
    frame: int = 0


class WithSound:
    """A decoder of video and one of audio as one of ``av``, muxed frame by frame; see `AvLatents`.

    Args:
        video, audio: `ChunkDecoder`, on one device, in one dtype.
        fps: frame rate of the video, 16 or "24000/1001".
        padded: sound that ends before the video is followed by silence up to the video's end; else
            it ends where it ends. What is longer is cut off.
    """

    medium = "av"
    variant = "diffusers"

    def __init__(
        self, video: Any, audio: Any, fps: int | float | str | Fraction = 24, padded: bool = False
    ) -> None:
        seen, heard = Traits.of(video), Traits.of(audio)
        if (seen.medium.name, heard.medium.name) != ("video", "audio"):
            raise TypeError(
                f"{video.name} makes {seen.medium.name} and {audio.name} {heard.medium.name}; give "
                "a decoder of video, then one of audio"
            )
        if (video.device, video.dtype) != (audio.device, audio.dtype):
            raise ValueError(
                f"{video.name} is on {video.device} in {video.dtype}, {audio.name} on "
                f"{audio.device} in {audio.dtype}; put them on one device, in one dtype"
            )
        self.video, self.audio, self.fps, self.padded = video, audio, exact_fps(fps), padded
        self.name, self.device, self.dtype = (
            f"{video.name} + {audio.name}",
            video.device,
            video.dtype,
        )
        self.latent_channels = (video.latent_channels, audio.latent_channels)
        self.spatial_factor, self.temporal_factor = seen.spatial_factor, seen.temporal_factor
        self.value_range, self.exact = seen.value_range, seen.exact and heard.exact
        self.channels, self.sample_rate = heard.channels, heard.sample_rate
        self._width = self.channels * samples_a_frame(self.sample_rate, self.fps)

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of both, with whose they are."""
        both = (("video", self.video), ("sound", self.audio))
        return tuple(
            f"{whose}: {note}" for whose, one in both for note in getattr(one, "notes", ())
        )

    def prepare(self, height: int, width: int, chunk_size: int) -> None:
        """That of both, if they have one; sizes as `ChunkDecoder` has them, of the video."""
        sizes = (
            (height, width, chunk_size),
            (1, getattr(self.audio, "features", 0), self._calls()),
        )
        for one, size in zip((self.video, self.audio), sizes, strict=True):
            if hasattr(one, "prepare"):
                one.prepare(*size)

    def _calls(self) -> int:
        """Latents of sound a call: about those that one latent frame is as long as."""
        seconds = self.temporal_factor / self.fps
        return math.ceil(seconds * self.sample_rate / self.audio.temporal_factor)

    def plan(self, latents: AvLatents, chunk_size: int | None) -> list[tuple[int, int, int]]:
        """The video's."""
        chunks = chunks_of(self.video, latents.video, chunk_size)
        return [(chunk.latent_start, chunk.latent_stop, chunk.frames) for chunk in chunks]

    def samples(self, latents: AvLatents) -> int:
        """Samples of each channel that belong to the clip."""
        shown = self._before(self.plan(latents, None)[-1][2])
        made = chunks_of(self.audio, latents.audio, None)[-1].frame_stop
        return shown if self.padded else min(shown, made)

    def _before(self, frame: int) -> int:
        return math.floor(frame * self.sample_rate / self.fps)

    def begin(self, latents: AvLatents) -> _Under:
        """Start on both."""
        calls = deque(chunks_of(self.audio, latents.audio, self._calls()))
        nothing = latents.audio.new_empty((self.channels, 0))
        video = self.video.begin(latents.video)
        try:
            return _Under(video, self.audio.begin(latents.audio), calls, nothing)
        except BaseException:
            end_state(self.video, video)
            raise

    def end(self, state: _Under) -> None:
        """Free both."""
        state.beyond, state.calls = state.beyond.new_empty((0, 0)), deque()
        try:
            end_state(self.audio, state.audio)
        finally:
            end_state(self.video, state.video)

    def decode_chunk(self, state: _Under, start: int, stop: int) -> torch.Tensor:
        """Rows [1, F, H*W*3 + samples*channels] of latent frames ``start`` to ``stop``."""
        video = self.video.decode_chunk(state.video, start, stop)
        first, state.frame = state.frame, state.frame + video.shape[2]
        needed, parts = self._before(state.frame) - self._before(first), [state.beyond]
        while state.calls and sum(part.shape[1] for part in parts) < needed:
            call = state.calls.popleft()
            span = call.latent_start, call.latent_stop
            parts.append(self.audio.decode_chunk(state.audio, *span)[0])
        sound = torch.cat(parts, 1)
        state.beyond = sound[:, needed:].clone()
        return self._rows(video, sound[:, :needed], first)

    def _rows(self, video: torch.Tensor, sound: torch.Tensor, first: int) -> torch.Tensor:
        """Frames [1, 3, F, H, W] from ``first`` on, and their samples [channels, S], as rows."""
        count, rate = video.shape[2], self.sample_rate / self.fps
        room = self._width // self.channels
        sound = pad(
            sound, (0, self._before(first + count) - self._before(first) + room - sound.shape[1])
        )
        frames = torch.arange(first, first + count, device=sound.device)
        starts = frames * rate.numerator // rate.denominator - self._before(first)
        heard = sound[:, starts[:, None] + torch.arange(room, device=sound.device)]
        seen = video[0].permute(1, 2, 3, 0).reshape(count, -1)
        return torch.cat((seen, heard.permute(1, 2, 0).reshape(count, -1)), 1)[None]

    def decode_video(self, latents: AvLatents, before_frame: Callable[[int], None]) -> torch.Tensor:
        """Each by its own decode of the whole."""
        for one in (self.video, self.audio):
            require(one, "WholeVideoDecoder", ("decode_video", "to_numpy"))
        video = self.video.decode_video(latents.video, before_frame)
        sound = self.audio.decode_video(latents.audio, lambda position: None)[0]
        return self._rows(video, sound[:, : self._before(video.shape[2])], 0)

    def to_numpy(self, frames: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """float32 rows to pictures [F, H*W*3] in [0, 1] and samples [F, samples*channels]."""
        seen, heard = frames[0].split((frames.shape[2] - self._width, self._width), 1)
        # What is done to a picture is done to each value, so its shape does not matter.
        pictures = self.video.to_numpy(seen.unflatten(1, (-1, 1, 3)).permute(3, 0, 1, 2)[None])
        sound = self.audio.to_numpy(heard.T[None])
        return pictures.reshape(len(pictures), -1), sound

    def denormalize(self, latents: AvLatents) -> AvLatents:
        """Both, each by its decoder."""
        return AvLatents(
            *(one.denormalize(z) for one, z in zip((self.video, self.audio), latents, strict=True))
        )

    def weights_sha256(self) -> str | None:
        """Hash of both hashes."""
        both = [getattr(one, "weights_sha256", lambda: None)() for one in (self.video, self.audio)]
        return (
            None if None in both else hashlib.sha256("".join(map(str, both)).encode()).hexdigest()
        )
