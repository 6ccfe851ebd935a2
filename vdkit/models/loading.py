"""Decoders and pipelines by name, from a local folder or from the hub."""

from __future__ import annotations

import json
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError

from vdkit.models import VARIANTS
from vdkit.models.adapters import ADAPTERS
from vdkit.models.grain import Grained
from vdkit.models.latents import PICKLE, open_safetensors
from vdkit.models.widened import widened

if TYPE_CHECKING:
    from diffusers import WanPipeline

SEED = 0
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_CLONE = Path(__file__).parents[2] / "data"
_INSTALLED = Path(sysconfig.get_path("data"), "share", "vdkit")
TINY_WAN = (_CLONE if (_CLONE / "tiny-wan").is_dir() else _INSTALLED) / "tiny-wan"
"""The trained miniature, of the clone that vdkit runs from or as installed; see its model card."""
EXAMPLE = TINY_WAN.parent / "latents" / "red_circle_right.safetensors"

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

_FLUX: dict[str, Any] = {
    "_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4, "latent_channels": 16,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "sample_size": 1024,
    "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}
# fmt: on

ARCHITECTURES: dict[str, dict[str, Any]] = {
    # The VAE of Wan-AI/Wan2.2-T2V-A14B-Diffusers: diffusers' defaults are its configuration.
    "wan2.1": {"base_dim": 96, "decoder_base_dim": 96},  # with the miniature's weights, widened
    # The VAE of Wan-AI/Wan2.2-TI2V-5B-Diffusers, figures from its vae/config.json.
    "wan2.2": {
        "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True,
        "in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16,
        "latents_mean": _WAN22_MEAN, "latents_std": _WAN22_STD,
    },
    "wan2.1-random": {},
    # Not of a real model: what a CPU decodes in a moment.
    "thin-flux": _FLUX | {"block_out_channels": [16, 32, 32, 32], "norm_num_groups": 8},
    "thin-mimi": {
        "_class_name": "MimiModel", "hidden_size": 64, "num_filters": 8, "upsample_groups": 64,
        "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": 4, "head_dim": 16, "codebook_size": 32, "codebook_dim": 32,
        "vector_quantization_hidden_dimension": 32, "num_quantizers": 2,
    },
    # The others are the defaults of their classes, but for what stands here.
    "flux": _FLUX,
    "qwen-image": {"_class_name": "AutoencoderKLQwenImage"},
    "cogvideox": {"_class_name": "AutoencoderKLCogVideoX"},
    "mochi": {"_class_name": "AutoencoderKLMochi"},
    "hunyuanvideo": {"_class_name": "AutoencoderKLHunyuanVideo"},
    "hunyuanvideo1.5": {"_class_name": "AutoencoderKLHunyuanVideo15"},
    "ltx": {"_class_name": "AutoencoderKLLTXVideo"},
    "ltx2": {"_class_name": "AutoencoderKLLTX2Video", "decoder_causal": False},
    "oobleck": {"_class_name": "AutoencoderOobleck"},
    "dac": {"_class_name": "DacModel", "sampling_rate": 44100},
    "mimi": {"_class_name": "MimiModel"},
    "vibevoice": {"_class_name": "VibeVoiceAcousticTokenizerModel"},
}  # fmt: skip
"""Configurations by the names that `load_decoder` takes; without ``_class_name`` they are Wan's."""


def medium_of(config: Mapping[str, Any]) -> str:
    """What the decoder of a configuration makes, known before it is loaded."""
    adapter = ADAPTERS.get(config.get("_class_name", ""))
    made: str = getattr(adapter, "keywords", {}).get("medium", "video")
    return made


def resolve_device(device: str | torch.device) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:N``, or ``auto``: the current GPU if there is one, else the CPU.

    Raises:
        ValueError: no such device, or a kind that vdkit does not run on.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if count else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"device {str(device)!r} is unknown; use auto, cpu, cuda or cuda:N"
        ) from None
    if found.type == "cpu":
        return found
    if found.type != "cuda":
        raise ValueError(f"device {str(found)!r} is not supported; vdkit runs on cpu and cuda")
    asked = f"device {str(found)!r} asked for, but"
    if not count:
        raise ValueError(f"{asked} torch {torch.__version__} sees no CUDA GPU; use cpu")
    index = torch.cuda.current_device() if found.index is None else found.index
    if index >= count:
        raise ValueError(f"{asked} there are {count} GPUs, from cuda:0")
    return torch.device("cuda", index)


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
    source: str | Path | Mapping[str, Any],
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    variant: str = "diffusers",
    halo: int | None = None,
    grain: float | None = None,
    tune: str | None = None,
) -> Any:
    """A streaming decoder: of Wan a `WanDecoder` unless ``variant`` says otherwise, else one of
    `vdkit.models.adapters.ADAPTERS`.

    Args:
        source: ``tiny-wan``, the trained miniature in ``data/``; ``wan2.1``, the architecture of
            the VAE of Wan2.2-T2V-A14B (z 16) with the miniature's weights, widened: timings are
            those of the real model, pictures those of the miniature. The architecture with seeded
            random weights, so that pictures are noise: ``wan2.1-random``, ``wan2.2`` (that of
            Wan2.2-TI2V-5B, z 48), the others of `ARCHITECTURES`, and a configuration with its
            ``_class_name``. Nothing is downloaded for these. Or a local folder or hub id in
            diffusers' or transformers' layout, with the decoder in ``vae/`` or at the top; only
            safetensors are read. Of LTX-2, by name or pipeline, ``ltx2:audio`` is its sound
            (``audio_vae/`` and ``vocoder/``), ``ltx2:av`` both, at 24 frames a second.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: float16, bfloat16 or float32; None: float16 on a GPU, float32 on a CPU.
        variant: ``diffusers``, its modules as they are; ``channels_last``, the same with weights
            in that layout; ``compiled``, these with a compiled steady step (call its ``prepare``
            first); ``fast``, a `CheckedFastDecoder`, which has no ``decode_video``. Wan has all of
            them, others only the first.
        halo: of a decoder that looks ahead (LTX, Oobleck, DAC), the latents on each side that a
            chunk is decoded with; None: 8, of audio 10.
        grain: film grain of so many levels of 255 on the pictures, see `vdkit.models.grain`.
        tune: of ``fast``, whether its `prepare` times ways to cut kernels: ``auto`` (or None), once
            for a GPU and shapes that no table knows; ``off``; ``force``, all of them anew.

    Raises:
        ValueError: unknown source, device, dtype or variant; a halo for a decoder without; grain
            for sound; tune for what has no kernels; a pickle; a model of another class; a damaged
            weights file.
        FileNotFoundError: a folder without VAE configuration or safetensors.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown; use one of {', '.join(VARIANTS)}")
    if not isinstance(source, Mapping) and (
        parted := re.fullmatch(r"(.+):(audio|av)", str(source))
    ):
        return _sounding(parted[1], parted[2], device, dtype, variant, halo, grain, tune)
    on = resolve_device(device)
    as_dtype = resolve_dtype(dtype, on)
    given = source if isinstance(source, Mapping) else ARCHITECTURES.get(str(source))
    if given is not None:
        made = _widened(given) if str(source) == "wan2.1" else _seeded(given)
        model = torch.nn.Module.to(made, on, as_dtype)
        name = type(model).__name__ if isinstance(source, Mapping) else str(source)
    else:
        assert not isinstance(source, Mapping)
        found = _find_source(source, "decoder", (*ARCHITECTURES, TINY_WAN.name))
        name = found if isinstance(found, str) else found.resolve().name
        model = _load_model(found, as_dtype).to(on)
    if isinstance(model, AutoencoderKLWan):
        module, made_by = VARIANTS[variant].rsplit(".", 1)
        make = getattr(import_module(f"vdkit.models.{module}"), made_by)
    elif variant == "diffusers":
        make = ADAPTERS[type(model).__name__]
    else:
        raise ValueError(
            f"variant {variant!r} is Wan's; {name} ({type(model).__name__}) has only 'diffusers'"
        )
    asked = {"halo": halo, "tune": tune}
    more = {option: value for option, value in asked.items() if value is not None}
    for option, value in more.items():
        if option not in signature(make).parameters:
            raise ValueError(_has_none(option, value, f"{name} ({variant})"))
    decoder = make(model, name, **more)
    if decoder.device.type == "cuda":  # on a CPU nobody expects more
        for note in decoder.notes:
            warnings.warn(note, stacklevel=2)
    return decoder if grain is None else Grained(decoder, grain)


def _has_none(option: str, value: object, whose: str) -> str:
    better = " or take variant 'fast'" * (option == "tune")
    return f"{option} is {value}, but {whose} has none; leave it out{better}"


def _sounding(
    source: str, part: str, device: Any, dtype: Any, variant: str, halo: int | None,
    grain: float | None, tune: str | None,
) -> Any:  # fmt: skip
    """The sound of LTX-2, or ``av``: with its video, which ``variant`` is of."""
    from diffusers import AutoencoderKLLTX2Audio
    from diffusers.pipelines.ltx2 import LTX2Vocoder

    from vdkit.models.sound import LTX2Sound, WithSound

    on = resolve_device(device)
    as_dtype = resolve_dtype(dtype, on)
    kinds = {"audio_vae": AutoencoderKLLTX2Audio, "vocoder": LTX2Vocoder}
    if source in ARCHITECTURES:
        if source != "ltx2":
            raise ValueError(f"decoder source {source!r} has no sound; ltx2 has")
        models = [_drawn(kind) for kind in kinds.values()]
        name = source
    else:
        found = _find_source(source, "decoder", ("ltx2",))
        name = found if isinstance(found, str) else found.resolve().name
        models = [_load_part(found, part, kind, as_dtype) for part, kind in kinds.items()]
    vae, vocoder = (torch.nn.Module.to(model, on, as_dtype) for model in models)
    sound = LTX2Sound(vae, vocoder, f"{name}:audio")
    if part == "av":
        return WithSound(load_decoder(source, device, dtype, variant, halo, grain, tune), sound, 24)
    if halo is not None:
        raise ValueError(_has_none("halo", halo, sound.name))
    return sound if grain is None else Grained(sound, grain)


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
    found = _find_source(source, "pipeline", (TINY_WAN.name,))
    if isinstance(found, Path):
        _check_pipeline(found)
    with ExitStack() as stack:
        if not progress:
            stack.enter_context(_no_bars())
        try:
            pipeline = WanPipeline.from_pretrained(
                found,
                dtype={"vae": resolve_dtype(None, on), "default": as_dtype},
                use_safetensors=True,
                local_files_only=stack.enter_context(
                    _hub(found, "Wan pipeline", "model_index.json")
                ),
            )
        except SafetensorError as error:
            raise ValueError(f"{found} has a damaged weights file: {error}") from error
    return pipeline.to(on)


def shipped(name: str) -> Path:
    """A folder of data/, such as tiny-wan; FileNotFoundError if it was not installed."""
    folder = TINY_WAN.parent / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name} is missing at {_CLONE} and at {_INSTALLED}: it comes with a clone of "
            "vdkit; install from one, with pip install -e . (without --user or --target)"
        )
    return folder


def _find_source(source: str | Path, kind: str, names: Iterable[str]) -> Path | str:
    """The local folder, or the hub id, that ``source`` means; ``tiny-wan`` is a folder too.

    For messages: ``kind`` says what is looked for, ``names`` what may stand for it.
    """
    name, path = str(source), Path(source)
    if name == TINY_WAN.name:
        return shipped(TINY_WAN.name)
    if path.suffix in _PICKLES:
        raise ValueError(f"{path} {PICKLE}")
    if name and path.is_dir():
        return path
    if name.startswith((".", "/", "~")) and not path.exists():
        raise FileNotFoundError(f"{kind} folder {name!r} does not exist")
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(
            f"{kind} source {name!r} is unknown; use {', '.join(names)}, a folder in diffusers' "
            "layout, or a hub id owner/name"
            + (", on the command line MODULE:NAME of your own" if kind == "decoder" else "")
        )
    return name


def _class_of(config: Mapping[str, Any], where: object) -> Any:
    """The class of diffusers or transformers that a configuration names."""
    kind = _named(config)
    if kind == AutoencoderKLWan.__name__:
        return AutoencoderKLWan
    if kind not in ADAPTERS:
        known = ", ".join((AutoencoderKLWan.__name__, *ADAPTERS))
        raise ValueError(f"{where} describes {kind!r}; vdkit decodes {known}")
    return getattr(import_module("transformers" if kind.endswith("Model") else "diffusers"), kind)


def _seeded(config: Mapping[str, Any]) -> Any:
    """A model of that configuration with random weights, always the same."""
    given = dict(config)
    kind = _class_of({"_class_name": AutoencoderKLWan.__name__, **given}, "the configuration")
    given.pop("_class_name", None)
    if kind.__module__.startswith("transformers"):
        return _drawn(partial(kind, kind.config_class(**given)))
    return _drawn(partial(kind, **given))


def _widened(sizes: Mapping[str, Any]) -> AutoencoderKLWan:
    """The miniature's VAE at these sizes, float32 on the CPU."""
    return widened(_load_model(shipped(TINY_WAN.name), torch.float32), **sizes)


def _drawn(make: Callable[[], Any]) -> Any:
    """What it makes with seeded weights; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*weight_norm", FutureWarning)  # diffusers' own
        torch.manual_seed(SEED)
        return make()


def _load_model(source: Path | str, dtype: torch.dtype) -> Any:
    if isinstance(source, Path):
        home = source / "vae" if (source / "vae" / "config.json").is_file() else source
        missing = f"{source} holds no VAE: neither config.json nor vae/config.json is there"
        kind = _class_of(_configuration(home / "config.json", missing), home / "config.json")
        _check_weights(home)
        return _read(kind, str(home), None, dtype, cached=False)
    with _hub(source, "decoder", "vae/config.json") as cached:
        read = partial(AutoencoderKLWan.load_config, source, local_files_only=cached)
        try:
            return _read(_class_of(read(subfolder="vae"), source), source, "vae", dtype, cached)
        except OSError:
            with suppress(OSError):
                return _read(_class_of(read(), source), source, None, dtype, cached)
            raise


def _load_part(source: Path | str, part: str, kind: Any, dtype: torch.dtype) -> Any:
    """The model of one class in a folder of a pipeline."""

    def checked(config: Mapping[str, Any]) -> Any:
        if _named(config) != kind.__name__:
            raise ValueError(
                f"{part} of {source} is {_named(config)!r}; vdkit decodes {kind.__name__}"
            )
        return kind

    if isinstance(source, Path):
        file = source / part / "config.json"
        checked(_configuration(file, f"{source} has no sound: {part}/config.json is not there"))
        _check_weights(file.parent)
        return _read(kind, str(source), part, dtype, cached=False)
    with _hub(source, "sound", f"{part}/config.json") as cached:
        checked(kind.load_config(source, subfolder=part, local_files_only=cached))
        return _read(kind, source, part, dtype, cached)


def _named(config: Mapping[str, Any]) -> str | None:
    """The class that a configuration of diffusers or of transformers is of."""
    found: str | None = config.get("_class_name") or (config.get("architectures") or [None])[0]
    return found


def _read(kind: Any, source: str, part: str | None, dtype: torch.dtype, cached: bool) -> Any:
    misfit = f"the weights in {source} do not fit its configuration"
    options = {"subfolder": part or "", "local_files_only": cached}
    if kind.__module__.startswith("diffusers"):
        options = {"subfolder": part, "low_cpu_mem_usage": False, "local_files_only": cached}
    try:
        with _no_bars():
            model, report = kind.from_pretrained(
                source, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
            )
    except RuntimeError as error:
        raise ValueError(f"{misfit}: {str(error).splitlines()[0]}") from error
    lost = sorted(report["missing_keys"])
    if lost:
        raise ValueError(f"{misfit}: {len(lost)} missing, e.g. {lost[0]}")
    return model


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of diffusers and transformers."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    with ExitStack() as stack:
        for bars in (diffusers_logging, transformers_logging):
            if bars.is_progress_bar_enabled():
                bars.disable_progress_bar()
                stack.callback(bars.enable_progress_bar)
        yield


def _check_pipeline(folder: Path) -> None:
    index = folder / "model_index.json"
    missing = f"{folder} holds no pipeline: model_index.json is not there"
    parts = _configuration(index, missing)
    if _named(parts) != "WanPipeline":
        raise ValueError(f"{index} describes {_named(parts)!r}; vdkit generates with WanPipeline")
    for part in ("text_encoder", "vae", "transformer", "transformer_2"):
        if parts.get(part, [None])[0] is not None:
            if not (folder / part).is_dir():
                raise FileNotFoundError(f"{index} lists {part}, but {folder / part} is not there")
            _check_weights(folder / part)


def _configuration(file: Path, missing: str) -> dict[str, Any]:
    """A configuration in diffusers' or transformers' layout."""
    if not file.is_file():
        raise FileNotFoundError(missing)
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        _named(found)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{file} is not a JSON configuration: {error}") from error
    return found


def _check_weights(folder: Path) -> None:
    """That a component's folder has safetensors, not pickles, and that they can be opened."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        if pickles := [entry.name for entry in folder.iterdir() if entry.suffix in _PICKLES]:
            raise ValueError(
                f"{folder} holds weights only as a pickle ({pickles[0]}), which is refused; "
                "convert it to safetensors"
            )
        raise FileNotFoundError(f"{folder} holds no *.safetensors weights")
    for file in files:
        with open_safetensors(file):
            pass


@contextmanager
def _hub(source: Path | str, what: str, file: str) -> Iterator[bool]:
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
            f"{source!r} is no local folder, and the hub gave no {what}: {why}"
        ) from error
