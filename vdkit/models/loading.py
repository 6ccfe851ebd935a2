"""Decoders and pipelines by name, from a local folder or from the hub."""

from __future__ import annotations

import json
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError

from vdkit.models.fast.decoder import FastWanDecoder
from vdkit.models.latents import open_safetensors
from vdkit.models.wan import ChannelsLastWanDecoder, CompiledWanDecoder, WanDecoder

if TYPE_CHECKING:
    from diffusers import WanPipeline


SEED = 0

# The VAE of Wan-AI/Wan2.2-T2V-A14B-Diffusers (that of Wan 2.1): diffusers' defaults are its
# configuration.
_WAN21: dict[str, Any] = {}

# fmt: off
_WAN22_MEAN = [
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.157, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.052, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
]
_WAN22_STD = [
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.06, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
]
# fmt: on

# The VAE of Wan-AI/Wan2.2-TI2V-5B-Diffusers, figures from its vae/config.json.
_WAN22: dict[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": _WAN22_MEAN,
    "latents_std": _WAN22_STD,
}

ARCHITECTURES = {"wan2.1": _WAN21, "wan2.2": _WAN22}


def _fast(vae: AutoencoderKLWan, name: str) -> FastWanDecoder:
    decoder = FastWanDecoder(vae, name)
    decoder.release_vae()
    return decoder


VARIANTS: Mapping[str, Callable[[AutoencoderKLWan, str], Any]] = {
    "diffusers": WanDecoder,
    "channels_last": ChannelsLastWanDecoder,
    "compiled": CompiledWanDecoder,
    "fast": _fast,
}
"""Ways to run the same weights, by the name that records and tables use."""

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def resolve_device(device: str | torch.device) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:N``, or ``auto``: the current GPU if there is one, else the CPU.

    Raises:
        ValueError: no such device, or a kind that vdkit does not run on.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"device {str(device)!r} is unknown; use auto, cpu, cuda or cuda:N"
        ) from None
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device {str(found)!r} is not supported; vdkit runs on cpu and cuda")
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"device {str(found)!r} asked for, but torch {torch.__version__} sees "
                "no CUDA GPU; use cpu"
            )
        found = torch.device(
            "cuda", torch.cuda.current_device() if found.index is None else found.index
        )
        if found.index >= torch.cuda.device_count():
            raise ValueError(
                f"device {str(found)!r} asked for, but there are {torch.cuda.device_count()} "
                f"GPUs, from cuda:0"
            )
    return found


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """A dtype by name; None means float16 on a GPU and float32 on a CPU.

    float16 is more exact than bfloat16 on this decoder, at the same speed.

    Raises:
        ValueError: not float16, bfloat16 or float32.
    """
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    found = _DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(f"dtype {str(dtype)!r} is not supported; use {', '.join(_DTYPES)}")
    return found


def load_decoder(
    source: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    variant: str = "diffusers",
) -> Any:
    """A streaming decoder, a `WanDecoder` unless ``variant`` says otherwise.

    Args:
        source: ``tiny-wan``, the trained miniature in ``data/``; ``wan2.1`` (the VAE of
            Wan2.2-T2V-A14B, z 16) or ``wan2.2`` (that of Wan2.2-TI2V-5B, z 48): the architecture
            with seeded random weights, nothing downloaded (timings are those of the real model,
            pictures are noise). Or a local folder or hub id in diffusers' layout, with the VAE in
            ``vae/`` or at the top; only safetensors are read.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: float16, bfloat16 or float32; None: float16 on a GPU, float32 on a CPU.
        variant: ``diffusers``, its modules as they are; ``channels_last``, the same with weights
            in that layout; ``compiled``, these with a compiled steady step (call its ``prepare``
            first); ``fast``, a `FastWanDecoder`, which has no ``decode_video``.

    Raises:
        ValueError: unknown source, device, dtype or variant; a pickle; not a Wan VAE; a damaged
            weights file.
        FileNotFoundError: a folder without VAE configuration or safetensors.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown; use one of {', '.join(VARIANTS)}")
    on = resolve_device(device)
    as_dtype = resolve_dtype(dtype, on)
    decoder = VARIANTS[variant](*_vae_and_name(source, on, as_dtype))
    if decoder.device.type == "cuda":  # on a CPU nobody expects more
        for note in decoder.notes:
            warnings.warn(note, stacklevel=2)
    return decoder


def _vae_and_name(
    source: str | Path, device: torch.device, dtype: torch.dtype
) -> tuple[AutoencoderKLWan, str]:
    name = str(source)
    if name in ARCHITECTURES:
        return _random_vae(ARCHITECTURES[name], device, dtype), name
    found = find_source(source, "decoder", (*ARCHITECTURES, TINY_WAN.name))
    if isinstance(found, Path):
        return _vae_from_folder(found, dtype).to(device), found.resolve().name
    return _vae_from_hub(found, dtype).to(device), found


def load_pipeline(
    source: str | Path = "tiny-wan",
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    *,
    progress: bool = True,
) -> WanPipeline:
    """A stock diffusers pipeline: every method and option of `diffusers.WanPipeline` works.

    Args:
        source: ``tiny-wan``, the trained miniature in ``data/``; a local Wan pipeline folder; or a
            hub id such as ``Wan-AI/Wan2.2-T2V-A14B-Diffusers``. Only safetensors are read.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: of text encoder and transformers: float16, bfloat16 or float32; None: bfloat16 on a
            GPU, float32 on a CPU. The VAE gets `load_decoder`'s default, float16 on a GPU.
        progress: diffusers' own bars.

    Raises:
        ValueError: unknown source, device or dtype; a pickle; another pipeline's folder; damaged
            weights.
        FileNotFoundError: a folder without pipeline or weights, or an unreachable hub id.
    """
    from diffusers import WanPipeline  # brings transformers along

    on = resolve_device(device)
    fallback = torch.bfloat16 if on.type == "cuda" else torch.float32
    as_dtype = resolve_dtype(dtype or fallback, on)
    found = find_source(source, "pipeline", (TINY_WAN.name,))
    if isinstance(found, Path):
        _check_folder(found)
    try:
        with hub(found, "pipeline", "model_index.json") as cached, loading_bars(progress):
            pipeline = WanPipeline.from_pretrained(
                found,
                dtype={"vae": resolve_dtype(None, on), "default": as_dtype},
                use_safetensors=True,
                local_files_only=cached,
            )
    except SafetensorError as error:
        raise ValueError(f"{found} has a damaged weights file: {error}") from error
    return pipeline.to(on)


def _check_folder(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(f"{folder} holds no pipeline: model_index.json is not there")
    kind = read_class(index)
    if kind != "WanPipeline":
        raise ValueError(f"{index} describes {kind!r}; vdkit generates with WanPipeline")
    parts = json.loads(index.read_text())
    for part in ("text_encoder", "vae", "transformer", "transformer_2"):
        if parts.get(part, [None])[0] is None:
            continue
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"{index} lists {part}, but {folder / part} is not there")
        check_weights(folder / part)


def _random_vae(
    config: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> AutoencoderKLWan:
    """The architecture with weights drawn from `SEED`; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        vae = AutoencoderKLWan(**config)
    return torch.nn.Module.to(vae, device, dtype)


def _vae_from_folder(folder: Path, dtype: torch.dtype) -> AutoencoderKLWan:
    home = folder / "vae" if (folder / "vae" / "config.json").is_file() else folder
    config_file = home / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no VAE: neither config.json nor vae/config.json is there"
        )
    kind = read_class(config_file)
    if kind != "AutoencoderKLWan":
        raise ValueError(f"{config_file} describes {kind!r}; vdkit decodes AutoencoderKLWan")
    check_weights(home)
    return _read(str(home), None, dtype, cached=False)


def _vae_from_hub(name: str, dtype: torch.dtype) -> AutoencoderKLWan:
    with hub(name, "VAE", "vae/config.json") as cached:
        try:
            return _read(name, "vae", dtype, cached)
        except OSError:
            with suppress(OSError):
                return _read(name, None, dtype, cached)
            raise


def _read(source: str, part: str | None, dtype: torch.dtype, cached: bool) -> AutoencoderKLWan:
    misfit = f"the weights in {source} do not fit its configuration"
    try:
        vae, report = AutoencoderKLWan.from_pretrained(
            source,
            subfolder=part,
            dtype=dtype,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            local_files_only=cached,
        )
    except RuntimeError as error:
        raise ValueError(f"{misfit}: {str(error).splitlines()[0]}") from error
    lost = sorted(report["missing_keys"])
    if lost:
        raise ValueError(f"{misfit}: {len(lost)} missing, e.g. {lost[0]}")
    return vae


_CLONE = Path(__file__).parents[2] / "data"
_INSTALLED = Path(sysconfig.get_path("data"), "share", "vdkit")
TINY_WAN = (_CLONE if (_CLONE / "tiny-wan").is_dir() else _INSTALLED) / "tiny-wan"
"""The trained miniature, of the clone that vdkit runs from or as installed; see its model card."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def find_source(source: str | Path, kind: str, names: Iterable[str]) -> Path | str:
    """The local folder, or the hub id, that ``source`` means; ``tiny-wan`` is a folder too.

    Args:
        kind: what is looked for, for messages: ``decoder`` or ``pipeline``.
        names: the words that are allowed beside folders and hub ids, for messages.

    Raises:
        ValueError: a pickle, or neither name, folder nor hub id.
        FileNotFoundError: a path that does not exist, or a vdkit without its data.
    """
    name, path = str(source), Path(source)
    if name == TINY_WAN.name:
        if not TINY_WAN.is_dir():
            raise FileNotFoundError(
                f"tiny-wan is missing at {_CLONE} and at {_INSTALLED}: it comes with a clone of "
                "vdkit; install from one, with pip install -e . (without --user or --target)"
            )
        return TINY_WAN
    if path.suffix in _PICKLES:
        raise ValueError(
            f"{path} is a pickle, which can run code when read; convert it to safetensors first"
        )
    if name and path.is_dir():
        return path
    if name.startswith((".", "/", "~")) and not path.exists():
        raise FileNotFoundError(f"{kind} folder {name!r} does not exist")
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(
            f"{kind} source {name!r} is unknown; use {', '.join(names)}, a folder in diffusers' "
            "layout, or a hub id owner/name"
        )
    return name


def read_class(file: Path) -> str | None:
    """``_class_name`` of a configuration in diffusers' layout.

    Raises:
        ValueError: no JSON, or no object in it.
    """
    try:
        return json.loads(file.read_text()).get("_class_name")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{file} is not a JSON configuration: {error}") from error


def check_weights(folder: Path) -> None:
    """That a component's folder has safetensors and that they can be opened.

    Raises:
        ValueError: only pickles, or a damaged file.
        FileNotFoundError: no weights.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [entry.name for entry in folder.iterdir() if entry.suffix in _PICKLES]
        if pickles:
            raise ValueError(
                f"{folder} holds weights only as a pickle ({pickles[0]}), which is refused; "
                "convert it to safetensors"
            )
        raise FileNotFoundError(f"{folder} holds no *.safetensors weights")
    for file in files:
        with open_safetensors(file):
            pass


@contextmanager
def hub(source: Path | str, what: str, file: str) -> Iterator[bool]:
    """Whether the ``what`` of a hub id can be had from the cache only; False for a folder.

    The hub is asked for ``file`` once; huggingface_hub would ask six times, in 24 s, for each file.
    FileNotFoundError if what is loaded inside is not there; it says whether the hub answered.
    """
    if isinstance(source, Path):
        yield False
        return
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError

    silent: Exception | None = None
    try:
        get_hf_file_metadata(hf_hub_url(source, file))
    except (HfHubHTTPError, FileMetadataError, ValueError):
        pass  # an answer, or no id: loading says so
    except Exception as error:  # of whichever HTTP library huggingface_hub uses
        silent = error
    try:
        yield silent is not None
    except OSError as error:
        why: Exception | str = error
        if silent is not None:
            why = (
                f"{constants.ENDPOINT} cannot be reached ({silent}), the cache at "
                f"{constants.HF_HUB_CACHE} does not hold it whole; give a folder in diffusers' "
                "layout, or load it once with a network"
            )
        raise FileNotFoundError(
            f"{source!r} is no local folder, and the hub gave no Wan {what}: {why}"
        ) from error


@contextmanager
def loading_bars(shown: bool) -> Iterator[None]:
    """The bars of diffusers and transformers while weights load; restored on leaving."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    homes = (diffusers_logging, transformers_logging)
    hidden = [home for home in homes if home.is_progress_bar_enabled() and not shown]
    for home in hidden:
        home.disable_progress_bar()
    try:
        yield
    finally:
        for home in hidden:
            home.enable_progress_bar()
