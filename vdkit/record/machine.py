"""Where a number came from: code, machine and versions. No names of hosts, users or folders."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch


COMMIT_VARIABLE = "VDKIT_COMMIT"
THROTTLE_BITS = {
    "software power cap": 0x4,
    "hardware slowdown": 0x8,
    "sync boost": 0x10,
    "software thermal": 0x20,
    "hardware thermal": 0x40,
    "hardware power brake": 0x80,
}
"""Clock event reasons that mean the GPU was held below the clock it wanted (nvml.h)."""


class GpuReading(BaseModel):
    """One moment. What the device does not answer is None, with the reason in ``unsupported``.

    Attributes:
        sm_clock_mhz, memory_clock_mhz: current clocks.
        power_w, temperature_c: board power and GPU temperature.
        energy_j: the device's running energy counter; only differences mean something.
        throttle_reasons: names from `THROTTLE_BITS` that were set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    energy_j: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    unsupported: dict[str, str] = {}


class Provenance(BaseModel):
    """Code, machine and versions of one recording.

    Attributes:
        created_utc: ISO 8601.
        git_commit, git_dirty: of the source tree vdkit runs from; None outside git.
        device, device_uuid, vram_bytes: the GPU, or ``cpu`` with the last two None.
        driver, cuda, cudnn: None without a GPU.
        cpu, host_cores: processor model and the logical cores this process may use.
        packages: versions by name.
        torch_threads: of torch on the host, on which conversions there depend; None in old records.
        malloc: `vdkit.record.machine.malloc_words`; None in old records: the default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    os: str
    python: str
    packages: dict[str, str]
    torch_threads: int | None = None
    malloc: str | None = None


def collect_provenance(device: torch.device, driver: str | None = None) -> Provenance:
    """Describe this process on ``device``. ``driver``: NVIDIA driver version, from NVML."""
    import torch

    import vdkit

    commit, dirty = git_state(Path(vdkit.__file__).parent)
    on_gpu = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if on_gpu else None
    return Provenance(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        vdkit=vdkit.__version__, git_commit=commit, git_dirty=dirty,
        device=properties.name if properties else "cpu", device_uuid=gpu_uuid(device),
        vram_bytes=properties.total_memory if properties else None,
        compute_capability=f"{properties.major}.{properties.minor}" if properties else None,
        driver=driver, cuda=torch.version.cuda if on_gpu else None,
        cudnn=torch.backends.cudnn.version() if on_gpu else None,
        cpu=_cpu_model(),
        host_cores=len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)),
        os=f"{platform.system()} {platform.release().split('-')[0]}",
        python=platform.python_version(),
        packages=dict(_versions("torch", "diffusers", "numpy", "av")),
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


def tensor_sha256(tensor: torch.Tensor) -> str:
    """Hash of a tensor's dtype, shape and bytes."""
    import torch

    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _versions(*packages: str) -> Iterator[tuple[str, str]]:
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            yield package, metadata.version(package)


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


# mallopt(3)'s parameters: never shrink the heap, and take no block from outside it.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_kept = False


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, for the whole process from now on.

    For decoding on a CPU; the process then holds its peak until it ends. Records say whether it
    was done (`vdkit.record.machine.Provenance.malloc`).

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
    said = ["keeps freed memory" if _kept else "default"]
    named = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
    said += [f"{name}={os.environ[name]}" for name in named if name in os.environ]
    return ", ".join(said)
