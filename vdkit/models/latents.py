"""Latents to decode: seeded random ones, or a safetensors file; and how such files are written."""

from __future__ import annotations

import math
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vdkit.decode import AvLatents, ChunkDecoder, Traits
from vdkit.decode.chunks import chunks_of, latent_frames
from vdkit.models.sound import WithSound


def load_latents(spec: str | Path, decoder: ChunkDecoder, seed: int = 0) -> Any:
    """Latents on the CPU: random ones, float32, as a decoder gets them; a file's as it holds them.

    Args:
        spec: standard normal ones from ``seed``, by what they become: ``random:FRAMESxHxW``, e.g.
            ``random:161x480x832``, in pixels; of a decoder of images ``random:IMAGESxHxW``; of
            audio ``random:SECONDSs``, e.g. ``random:2.5s``, rounded up to whole latents. Or those
            of moving shapes, drawn at that size and encoded on the decoder's device (on a CPU that
            takes as long as decoding), for decoders of Wan 2.1's latents: ``clips:FRAMESxHxW``,
            where ``seed`` chooses a caption of the miniature, or ``clips:FRAMESxHxW:CAPTION``. Or a
            safetensors file, whatever its name ends in. Of its tensors ``latents`` is taken, or
            ComfyUI's ``latent_tensor`` (whose normalization is undone), the only one, or the only
            one that fits the decoder, which a warning names: [1, C, T, h, w], images [N, C, h, w],
            audio [1, C, T] or [1, C, T, F]; a leading 1 may be left out. Of video with sound
            `AvLatents`: random ones as many as LTX-2's pipeline gives the sound, which then ends a
            little early; of a file ``latents`` and ``audio_latents``.
        decoder: gives medium, channels and factors.

    Raises:
        ValueError: a size the decoder cannot produce, or that of another medium; a file that is no
            safetensors file, is damaged, or does not say which tensor are the latents.
        FileNotFoundError: no such file.
    """
    text = str(spec)
    _check_seed(seed)
    if text.startswith("random:"):
        make: Any = _random_both if isinstance(decoder, WithSound) else _random
        return make(text, decoder, seed)
    if text.startswith("clips:"):
        from vdkit.models.clips import clip_latents

        return clip_latents(text, decoder, seed)
    with open_safetensors(_file(spec)) as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        if isinstance(decoder, WithSound):
            if missing := {"latents", "audio_latents"} - shapes.keys():
                raise ValueError(
                    f"latents file {text!r} has no {' and no '.join(sorted(missing))}; video with "
                    "sound needs latents and audio_latents"
                )
            return AvLatents(file.get_tensor("latents"), file.get_tensor("audio_latents"))
        return file.get_tensor(_which(text, shapes, decoder))


def _which(text: str, shapes: Mapping[str, list[int]], decoder: ChunkDecoder) -> str:
    """The name of the tensor that are the latents."""
    if "latent_tensor" in shapes and "latent_format_version_0" not in shapes:
        raise ValueError(
            f"latents file {text!r} has latent_tensor without latent_format_version_0: ComfyUI "
            "takes it for pictures of early 2023, scaled by 0.18215; save it there anew"
        )
    for name in ("latents", "latent_tensor") if len(shapes) > 1 else shapes:
        if name in shapes:
            return name
    medium, channels = Traits.of(decoder).medium, decoder.latent_channels
    fit = [name for name, shape in shapes.items() if medium.fits(shape, channels)]
    listed = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:9])
    listed += ", ..." * (len(shapes) > 9)
    if len(fit) != 1:
        raise ValueError(
            f"latents file {text!r} has no tensor 'latents', and {len(fit)} that fit "
            f"{channels} channels; name one of them so: {listed or 'it is empty'}"
        )
    warnings.warn(f"latents file {text!r}: taking {fit[0]!r} of {listed}", stacklevel=3)
    return fit[0]


def save_latents(
    path: str | Path, latents: torch.Tensor | AvLatents, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write latents that `load_latents` reads; an interrupted write leaves what was there.

    Args:
        path: ends in ``.safetensors``; an existing file is replaced.
        latents: as `load_latents` reads them, any float dtype.
        metadata: text by name, e.g. `GeneratedLatents.metadata`.

    Raises:
        ValueError: another ending.
        FileNotFoundError: no such folder.
        OSError: it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"latents file {str(path)!r}: end the name in .safetensors")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} for {path.name}")
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        both = latents if isinstance(latents, AvLatents) else (latents,)
        named = dict(zip(("latents", "audio_latents"), both, strict=False))
        kept = {name: one.detach().cpu().contiguous() for name, one in named.items()}
        save_file(kept, partial, dict(metadata or {}))
        partial.chmod(0o644)  # safetensors writes files that only their owner may read
        partial.replace(path)
    except SafetensorError as error:
        raise OSError(f"latents file {str(path)!r} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def latents_metadata(path: str | Path, seed: int = 0) -> dict[str, str]:
    """What a latents file says about itself: prompt, seed, shape, normalization, source, ...

    Of ``clips:`` prompt, seed, normalization and source. Empty for a file that says nothing, and
    for random latents. Raises as `load_latents` does.
    """
    _check_seed(seed)
    if str(path).startswith("random:"):
        return {}
    if str(path).startswith("clips:"):
        from vdkit.models.clips import clip_caption

        how = {"seed": str(seed), "normalization": "undone", "source": "tiny-wan, clips.py"}
        return {"prompt": clip_caption(str(path), seed), **how}
    with open_safetensors(_file(path)) as file:
        return dict(file.metadata() or {})


def _file(spec: str | Path) -> Path:
    path = Path(spec)
    if not path.is_file():
        raise FileNotFoundError(
            f"no latents file {str(spec)!r}; give a safetensors file, clips:161x480x832 or "
            "random:161x480x832 (images random:8x1024x1024, audio random:60s)"
        )
    return path


_PICTURES = r"random:(\d+)x(\d+)x(\d+)"
_SECONDS = r"random:(\d+\.?\d*|\.\d+)s"


def _random(text: str, decoder: ChunkDecoder, seed: int) -> torch.Tensor:
    traits, channels = Traits.of(decoder), decoder.latent_channels
    medium = traits.medium
    found = re.fullmatch(_SECONDS if medium.name == "audio" else _PICTURES, text)
    if found is None:
        known = any(re.fullmatch(one, text) for one in (_SECONDS, _PICTURES))
        why = f"decoder {decoder.name!r} makes {medium.name}; " * known
        raise ValueError(
            f"latents {text!r}: {why}write random:{medium.form}, e.g. random:{medium.sample}"
        )

    def normal(count: int) -> torch.Tensor:
        shape = traits.latent_shape(channels, count, (size[0], size[1]))
        try:
            return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"latents {text!r}: {list(shape)} do not fit in memory") from error

    size, factor = [1, 1], traits.temporal_factor
    if medium.name == "audio":
        samples = math.ceil(Fraction(found[1]) * traits.sample_rate)
        if not samples:
            raise ValueError(f"latents {text!r}: there is nothing to decode; use more than 0 s")
        made = normal(-(-samples // factor))
        missing = samples - chunks_of(decoder, made, None)[-1].frame_stop
        return normal(made.shape[2] + -(-missing // factor)) if missing > 0 else made
    count, *size = latent_size(text, traits, *map(int, found.groups()))
    return normal(count)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}; use 0 to 2**63 - 1")


def latent_size(
    text: str, traits: Traits, units: int, height: int, width: int
) -> tuple[int, int, int]:
    """Latents, rows and columns for so many pictures of that size; ValueError names ``text``."""
    medium, factor = traits.medium, traits.temporal_factor
    try:
        if not units and medium.first_units is None:
            raise ValueError(f"0 {medium.unit}s; use 1 or more")
        count = latent_frames(units, factor) if medium.first_units else units
    except ValueError as error:
        raise ValueError(f"latents {text!r}: {error}") from None
    sides = zip(("height", "width"), (height, width), traits.spatial_factor, strict=True)
    for name, side, step in sides:
        if side < 1 or side % step:
            near = max(step, round(side / step) * step)
            raise ValueError(
                f"latents {text!r}: {name} {side} is not a multiple of {step}, use {near}"
            )
    return count, height // traits.spatial_factor[0], width // traits.spatial_factor[1]


def _random_both(text: str, decoder: WithSound, seed: int) -> AvLatents:
    video = _random(text, decoder.video, seed)
    seconds = chunks_of(decoder.video, video, None)[-1].frame_stop / decoder.fps
    traits, channels = Traits.of(decoder.audio), decoder.audio.latent_channels
    count = max(1, round(seconds * traits.sample_rate / traits.temporal_factor))
    generator = torch.Generator().manual_seed(seed)
    shape = traits.latent_shape(channels, count, (1, 1))
    return AvLatents(video, torch.randn(shape, generator=generator))


PICKLE = "is a pickle, which can run code when read; convert it to safetensors first"
_BEGINNINGS = (
    (rb"\Z", "is empty"),
    (rb"version https://git-lfs", "is a Git LFS pointer; fetch the file itself: git lfs pull"),
    (rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|!--)", "is a web page; download the file itself"),
    (rb"PK\x03\x04.{26,99}data\.pkl", PICKLE),
    (rb"\x80[\x02-\x05](?!.{6}\{)", PICKLE),
    (rb".{8}[^{]", "is no safetensors file"),
)
"""What a file is that is not safetensors, by its first bytes: 8 of a length, then a brace."""


@contextmanager
def open_safetensors(file: Path) -> Iterator[Any]:
    """A safetensors file, opened; ValueError for a damaged one and another kind, which it names."""
    try:
        with safe_open(file, "pt") as opened:
            yield opened
    except SafetensorError as error:
        with file.open("rb") as opened:
            head = opened.read(200)
        found = (kind for begin, kind in _BEGINNINGS if re.match(begin, head, re.DOTALL | re.I))
        raise ValueError(f"{file} {next(found, f'is damaged or cut short: {error}')}") from error
