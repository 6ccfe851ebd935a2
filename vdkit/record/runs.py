"""One run, what it decoded, and the code and machine it ran on: what recordings are made of.

Checked when written and when read. No names of hosts, users or folders.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from fractions import Fraction
from importlib import metadata
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_serializer, field_validator

from vdkit.decode.chunks import ChunkRecord
from vdkit.decode.media import MEDIA, Medium

if TYPE_CHECKING:
    import torch

MODES = {
    "diffusers": "diffusers (whole video)",
    "sync": "sync (chunked)",
    "async": "async (chunked)",
    "compute_only": "compute only (floor)",
}
"""Every decode path by the name that options and records use, and what tables and plots call it."""
THROTTLE_BITS = {
    "software power cap": 0x4,
    "hardware slowdown": 0x8,
    "sync boost": 0x10,
    "software thermal": 0x20,
    "hardware thermal": 0x40,
    "hardware power brake": 0x80,
}
"""Clock event reasons that mean the GPU was held below the clock it wanted (nvml.h)."""
COMMIT_VARIABLE = "VDKIT_COMMIT"

CHUNK_TIMES = tuple(field.name for field in fields(ChunkRecord) if field.name.endswith("_s"))
DECIMALS = 9  # of a second; the clocks resolve no finer


def todays_mode(mode: str) -> str:
    """A decode path's name of today; ValueError if there never was such a path."""
    mode = "compute_only" if mode == "compute" else mode  # as in early records
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown; known are {', '.join(MODES)}")
    return mode


Mode = Annotated[str, AfterValidator(todays_mode)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0)]


class Record(BaseModel):
    """Immutable, and strict about what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def model_copy(self, **given: Any) -> Self:
        """A changed copy, which derives anew what this one has derived and kept."""
        copied = super().model_copy(**given)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


class GpuReading(Record):
    """One moment. What the device does not answer is None, with the reason in ``unsupported``.

    Attributes:
        sm_clock_mhz, memory_clock_mhz: current clocks.
        power_w, temperature_c: board power and GPU temperature.
        energy_j: the device's running energy counter; only differences mean something.
        throttle_reasons: names from `THROTTLE_BITS` that were set.
    """

    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    energy_j: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    unsupported: dict[str, str] = {}


class Provenance(Record):
    """Code, machine and versions of one recording.

    Attributes:
        created_utc: ISO 8601.
        git_commit, git_dirty: of the source tree vdkit runs from; None outside git.
        device, device_uuid, vram_bytes: the GPU, or ``cpu`` with the last two None.
        driver, cuda, cudnn: None without a GPU.
        cpu, host_cores: processor model and the logical cores this process may use.
        packages: versions by name.
        torch_threads: of torch on the host, on which conversions there depend; None in old records.
        malloc: `malloc_words`; None in old records: the default.
    """

    created_utc: str
    vdkit: str
    git_commit: str | None
    git_dirty: bool | None
    device: str
    device_uuid: str | None
    vram_bytes: int | None
    compute_capability: str | None
    driver: str | None
    cuda: str | None
    cudnn: int | None
    cpu: str
    host_cores: int
    torch_threads: int | None = None
    malloc: str | None = None
    os: str
    python: str
    packages: dict[str, str]


def known_medium(name: str) -> str:
    """The name; ValueError if there is no such medium."""
    if name not in MEDIA:
        raise ValueError(f"medium {name!r} is unknown; known are {', '.join(MEDIA)}")
    return name


class Finding(Record):
    """One thing that `vdkit doctor` looked at, in words and as ``figures``, unrounded.

    Attributes:
        state: ``note``: as it is, it works; ``wrong``: to be put right.
        remedy: what to do; "" for nothing.
    """

    group: str
    name: str
    state: Literal["ok", "note", "wrong"]
    value: str
    remedy: str = ""
    figures: dict[str, Any] = {}


class Workload(Record):
    """What was decoded.

    Attributes:
        decoder, source, dtype: name in records, what was loaded, arithmetic.
        weights_sha256: None for a decoder that cannot tell.
        latents, latents_sha256, seed: where the latents came from, and their bytes.
        latent_frames, latent_height, latent_width: their size.
        frames, height, width, fps: of the video, in pixels and frames per second; else as
            `vdkit.decode.media.MediaInfo` has them.
        medium: a name in `vdkit.decode.media.MEDIA`.
        sample_rate, channels, samples: of a video's sound, as `MediaInfo` has them; else 0.
        exact: chunks give what the whole would; False where the decoder says that they do not.
        variant: the way the weights are run, as the decoder calls it.
        notes: what else the decoder says of itself, e.g. what it had to do without.
        content: what an encoder has to do with: ``flat`` (drawn clips), ``grain`` (with film grain
            added), ``noise`` (random latents or weights), or ``unknown``.
    """

    decoder: str
    source: str
    dtype: str
    weights_sha256: str | None
    latents: str
    latents_sha256: str
    seed: int
    latent_frames: Positive
    latent_height: Positive
    latent_width: Positive
    frames: Positive
    height: Positive
    width: Positive
    fps: float = Field(gt=0)
    variant: str = "diffusers"
    notes: tuple[str, ...] = ()
    medium: Annotated[str, AfterValidator(known_medium)] = "video"
    sample_rate: int = Field(default=0, ge=0)
    channels: int = Field(default=0, ge=0)
    samples: int = Field(default=0, ge=0)
    exact: bool = True
    content: str = "unknown"

    @property
    def seconds(self) -> float:
        """Playing time, s; of images their number."""
        return self.frames / self.fps

    @property
    def rate(self) -> Fraction:
        """``fps`` as it was given: of 24000/1001 the number has lost the denominator."""
        return Fraction(self.fps).limit_denominator(1_000_000)

    @property
    def kind(self) -> Medium:
        """Words and shapes of the medium."""
        return MEDIA[self.medium]


class SinkInfo(Record):
    """Where frames went: kind, file system, whether fsynced, and a throttle in MB/s.

    ``encoder`` is what really encoded video, with its settings, and why nothing before it that
    ``auto`` tried; None for every other kind, and of ``mp4`` in earlier records.
    ``options`` are those of its class that were given, such as a level or workers, and
    ``pixel_format`` is what it wants of video (`vdkit.decode.media.PIXEL_FORMATS`).
    """

    kind: str
    storage: str | None
    durable: bool = False
    throttle_mb_per_s: float | None = Field(default=None, gt=0)
    encoder: str | None = None
    options: dict[str, bool | int | float | str] = {}
    pixel_format: str = "rgb24"


class Run(Record):
    """One run of one mode. Seconds are wall clock; see `vdkit.decode.chunks.DecodeResult`.

    Attributes:
        round: of the interleaving; runs of one round are a pair.
        warmup: kept, but in no statistic.
        gpu_before, gpu_after: NVML readings around the run; None without a GPU.
        gpu_during: means over the run, and every throttle reason that was set in it; None without a
            GPU and in records before schema 6.
        throttled: a throttle reason was set during the run, or right after one too short for a
            reading (before schema 6: before or after it).
    """

    mode: Mode
    round: int
    warmup: bool
    latency_s: float = Field(gt=0)
    ttff_s: Seconds | None
    sink_open_s: Seconds | None
    sink_close_s: Seconds | None
    sink_open_start_s: Seconds | None = None
    sink_close_parts: dict[str, Seconds] = {}
    encoders_s: Seconds | None = None
    vram_peak_bytes: NotNegative | None
    device_mallocs_steady: NotNegative | None
    pinned_bytes: NotNegative
    ring_bytes: NotNegative
    d2h_bytes: NotNegative
    clock_residual_s: Seconds
    gpu_before: GpuReading | None
    gpu_after: GpuReading | None
    gpu_during: GpuReading | None = None
    throttled: bool
    chunks: tuple[ChunkRecord, ...]

    @property
    def energy_j(self) -> float | None:
        """Joules of the whole device from before the run to after it.

        None on a CPU, where NVML does not answer the counter, and where the counter went back (it
        starts again when the driver is loaded). The counter moves about every 100 ms, so the joules
        of runs shorter than about 1 s are imprecise.
        """
        before, after = (one.energy_j if one else None for one in (self.gpu_before, self.gpu_after))
        return None if before is None or after is None or after < before else after - before

    @field_serializer("chunks")
    def _columns(self, chunks: tuple[ChunkRecord, ...]) -> dict[str, list[Any]]:
        """By column: a third of the size, and it opens as a data frame."""
        return {
            one.name: [
                round(value, DECIMALS) if isinstance(value, float) else value
                for value in map(attrgetter(one.name), chunks)
            ]
            for one in fields(ChunkRecord)
        }

    @field_validator("chunks", mode="before")
    @classmethod
    def _rows(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not all(isinstance(one, list) for one in value.values()):
            return value
        lengths = {name: len(column) for name, column in value.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"chunk columns differ in length: {lengths}")
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]


def collect_provenance(device: torch.device, driver: str | None = None) -> Provenance:
    """Describe this process on ``device``. ``driver``: NVIDIA driver version, from NVML."""
    import torch

    import vdkit

    commit, dirty = git_state(Path(vdkit.__file__).parent)
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    cpu, packages = platform.processor() or platform.machine(), {}
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name"))
        cpu = model.split(":", 1)[1].strip()
    for package in ("torch", "diffusers", "numpy", "av"):
        with suppress(metadata.PackageNotFoundError):
            packages[package] = metadata.version(package)
    return Provenance(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        vdkit=vdkit.__version__, git_commit=commit, git_dirty=dirty,
        device=gpu.name if gpu else "cpu", device_uuid=gpu_uuid(device),
        vram_bytes=gpu.total_memory if gpu else None,
        compute_capability=f"{gpu.major}.{gpu.minor}" if gpu else None,
        driver=driver, cuda=torch.version.cuda if gpu else None,
        cudnn=torch.backends.cudnn.version() if gpu else None, cpu=cpu,
        host_cores=len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)),
        os=f"{platform.system()} {platform.release().split('-')[0]}",
        python=platform.python_version(), packages=packages,
        torch_threads=torch.get_num_threads(), malloc=malloc_words(),
    )  # fmt: skip


def gpu_uuid(device: torch.device) -> str | None:
    """UUID of a CUDA device as NVML writes it; None for a CPU."""
    if device.type != "cuda":
        return None
    import torch

    return f"GPU-{str(torch.cuda.get_device_properties(device).uuid).removeprefix('GPU-')}"


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """(commit, dirty) of the git checkout that holds the code in ``folder``; else (None, None).

    Dirty: a tracked file differs from the commit, but for those in ``results/``, or there is Python
    code in ``folder`` that git does not know. What a command writes does not count. Where the code
    was copied without its history, e.g. into a container, the environment variable
    `COMMIT_VARIABLE` can name the commit: a hash, with ``-dirty`` behind it if so.
    """

    def git(*arguments: str) -> str | None:
        asked = ["git", "-C", str(folder), *arguments]
        with suppress(OSError, subprocess.CalledProcessError):
            return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        return None

    # An installed copy may lie in a checkout too, which does not know it.
    commit = git("rev-parse", "HEAD") if git("ls-files") else None
    if commit is None:
        named = os.environ.get(COMMIT_VARIABLE, "")
        return (named.removesuffix("-dirty"), named.endswith("-dirty")) if named else (None, None)
    changed = git("status", "--porcelain", "--untracked-files=no", ":/", ":(top,exclude)results")
    return commit, bool(changed or git("ls-files", "--others", "--exclude-standard", "*.py"))


def tensor_sha256(*tensors: torch.Tensor) -> str:
    """Hash of dtype, shape and bytes of a tensor, or of several."""
    import torch

    digest = hashlib.sha256()
    for one in tensors:
        digest.update(f"{one.dtype} {tuple(one.shape)}".encode())
        digest.update(one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# mallopt(3)'s parameters: never shrink the heap, and take no block from outside it.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_kept = False


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, for the whole process from now on.

    For decoding on a CPU; the process then holds its peak until it ends. Records say whether it
    was done (`Provenance.malloc`).

    Returns:
        Whether it could be done: glibc has ``mallopt``, other C libraries have not.
    """
    global _kept
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    _kept = bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_M_MMAP_MAX, 0))
    return _kept


def malloc_words() -> str:
    """``default`` or ``keeps freed memory``, and glibc's MALLOC_ variables where they are set."""
    named = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
    said = [f"{name}={os.environ[name]}" for name in named if name in os.environ]
    return ", ".join(["keeps freed memory" if _kept else "default", *said])
