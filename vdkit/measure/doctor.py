"""Is this machine ready? What `vdkit doctor` looks at, each by itself, in a minute at the most."""

from __future__ import annotations

import errno
import importlib
import os
import platform
import re
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from vdkit.decode.engines import on_device, seconds_on
from vdkit.decode.media import MediaInfo
from vdkit.measure.nvml import GPM_COLUMNS, Nvml, NvmlSampler
from vdkit.measure.profiler import measure_ceiling
from vdkit.measure.sweep import available_bytes
from vdkit.record.runs import Finding, gpu_uuid
from vdkit.sinks import SinkSpec, storage_kind
from vdkit.sinks.mp4 import Mp4Sink

_CPU_MAX, _PCI = Path("/sys/fs/cgroup/cpu.max"), Path("/sys/bus/pci/devices")
_COPY_BYTES, _LAUNCHES, _LINK = 2**26, 10, ("Generation", "Width")
_VIDEO = MediaInfo(80, 480, 832, Fraction(16))
_FAST_MB_S = 160.0  # raw frames of variant fast on an H100: 161 of 480x832 in 1.22 s
_ANOTHER = "name another folder with --out"
_FREE_SOME = f"free some space, or {_ANOTHER}"

Verdict = dict[str, Any]
"""What a check tells: the fields of its `Finding` but for group and name."""


class NotSaid(Exception):
    """NVML has no answer here, which is no fault."""


def told(value: str, *faults: tuple[object, str, str], **figures: Any) -> Verdict:
    """``value``, with ``figures`` in it, and the first of (whether, state, remedy) that holds."""
    holding = (fault[1:] for fault in faults if fault[0])
    state, remedy = next(holding, ("ok", ""))
    said = value.format(**figures) if figures else value
    return {"state": state, "value": said, "remedy": remedy, "figures": figures}


def _nearest(place: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(one for one in (place.absolute(), *place.absolute().parents) if one.exists())


class Machine:
    """What is looked at: ``results``, where recordings are to go, and ``device``; its checks."""

    def __init__(self, results: Path, device: torch.device) -> None:
        self.results, self.device = results, device

    @cached_property
    def nvml(self) -> Nvml:
        """RuntimeError or ImportError, with why, where there is none."""
        return Nvml(gpu_uuid(self.device) or "")

    def ask(self, *names: str) -> list[Any]:
        """NVML's answers to ``nvmlDeviceGet`` NAME."""
        library, handle = self.nvml.nvml, self.nvml.handle
        try:
            return [getattr(library, f"nvmlDeviceGet{name}")(handle) for name in names]
        except library.NVMLError as error:
            raise NotSaid(f"NVML does not say: {error}") from error

    def system(self) -> Verdict:
        name = platform.system()
        with suppress(OSError):
            name = platform.freedesktop_os_release()["PRETTY_NAME"]
        return told(f"{name}, kernel {platform.release()}, Python {platform.python_version()}")

    def cores(self) -> Verdict:
        usable, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
        limit = float(usable)
        with suppress(OSError, ValueError):  # ValueError: max
            quota, period = map(int, _CPU_MAX.read_text().split())
            limit = min(limit, quota / period)
        threads = f"set OMP_NUM_THREADS={max(1, int(limit))}: more wait for each other"
        return told(
            "{limit:g} usable of {cores}, load {load:.2f}",
            (limit < usable, "note", threads),
            (load > usable / 2, "note", "other programs are at work: end them before timing"),
            limit=limit, cores=os.cpu_count(), load=load,
        )  # fmt: skip

    def memory(self) -> Verdict:
        free_gb, shm_gb = available_bytes() / 1e9, shutil.disk_usage("/dev/shm").free / 1e9
        return told(
            "{free_gb:.1f} GB available, {shm_free_gb:.1f} GB free in /dev/shm",
            (free_gb < 4, "note", "end other programs, or take a larger machine"),
            (shm_gb < 1, "note", "sinks in /dev/shm may not fit; of a container: --shm-size=4g"),
            free_gb=free_gb, shm_free_gb=shm_gb,
        )  # fmt: skip

    def no_gpu(self) -> Verdict:
        """Why torch sees none, which is a fault where there is one."""
        library, none = importlib.import_module("pynvml"), "none: the same code runs on the CPU"
        try:
            library.nvmlInit()
            driver, count = library.nvmlSystemGetDriverVersion(), library.nvmlDeviceGetCount()
            major, minor = divmod(library.nvmlSystemGetCudaDriverVersion() // 10, 100)
        except library.NVMLError as error:
            kinds = [(one / "vendor", one / "class") for one in _PCI.glob("*")]
            read = [(a.read_text(), b.read_text()) for a, b in kinds]
            there = any(a.startswith("0x10de") and b.startswith("0x03") for a, b in read)
            said = f"one is on the PCI bus, but NVML says: {error}" if there else none
            remedy = "install NVIDIA's driver until nvidia-smi works; of a container: --gpus all"
            return told(said, (there, "wrong", remedy), (True, "note", ""))
        built = torch.version.cuda
        older = f"update the driver, or install torch's build for CUDA {major}.{minor} or older"
        return told(
            f"{count} with driver {driver} (CUDA {major}.{minor}), but torch {torch.__version__} "
            f"({f'for CUDA {built}' if built else 'for CPUs'}) sees none" if count else none,
            (not count, "note", ""),
            (not built, "wrong", "install torch's build for CUDA"),
            (major < int((built or "0").split(".")[0]), "wrong", older),
            ("CUDA_VISIBLE_DEVICES" in os.environ, "wrong", "unset CUDA_VISIBLE_DEVICES"),
            (True, "wrong", "python -c 'import torch; torch.cuda.init()' says why; restart"),
        )  # fmt: skip

    def gpu(self) -> Verdict:
        gpu, codes = torch.cuda.get_device_properties(self.device), torch.cuda.get_arch_list()
        free, total = torch.cuda.mem_get_info(self.device)
        mine, there = (gpu.major, gpu.minor), re.findall(r"(\w+)_(\d+)(\d)(\w?)", " ".join(codes))
        # Machine code holds within a major version, what a driver compiles for later ones too.
        runs = any(
            (of := (int(major), int(minor))) == mine
            or (of < mine and not only and (kind == "compute" or of[0] == mine[0]))
            for kind, major, minor, only in there
        )
        held = free + torch.cuda.memory_reserved(self.device) < 0.9 * total
        return told(
            "{name}, compute capability {capability}, driver {driver}, {free_gb:.1f} of "
            "{total_gb:.1f} GB free",
            (not runs, "wrong", f"torch has code for {', '.join(codes)}: take another build"),
            (held, "note", "another program is on this GPU: end it before timing"),
            name=gpu.name, capability=f"{gpu.major}.{gpu.minor}", driver=self.nvml.driver,
            free_gb=free / 1e9, total_gb=total / 1e9, torch_has_code_for=codes,
        )  # fmt: skip

    def matrix_rate(self) -> Verdict:
        rate = measure_ceiling(self.device, torch.float16).tflop_per_s
        return told("{tflop_per_s:.0f} TFLOP/s in float16", tflop_per_s=rate)

    def power(self) -> Verdict:
        """Just after the matrix products."""
        names = ("Limit", "DefaultLimit", "LimitConstraints")
        limit, usual, (_, most) = self.ask(*(f"PowerManagement{name}" for name in names))
        reasons = ", ".join(self.nvml.read().throttle_reasons)
        return told(
            "limit {limit_w:.0f} W, default {default_w:.0f}, at most {most_w:.0f}; held back by "
            "{held_back_by}",
            (re.search("hardware|thermal", reasons), "wrong", "nvidia-smi -q -d PERFORMANCE"),
            (limit < usual, "note", f"sudo nvidia-smi -pl {usual / 1e3:.0f}"),
            limit_w=limit / 1e3, default_w=usual / 1e3, most_w=most / 1e3,
            held_back_by=reasons or "nothing",
        )  # fmt: skip

    def _copy(self, pinned: bool) -> Callable[[], object]:
        """A copy of `_COPY_BYTES` to the host; into pinned memory it is only enqueued."""
        source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=self.device)
        host = torch.empty(_COPY_BYTES, dtype=torch.uint8, pin_memory=pinned)
        return lambda: host.copy_(source, non_blocking=pinned)

    def pcie_link(self) -> Verdict:
        copy, (idle,) = self._copy(pinned=True), self.ask("CurrPcieLinkGeneration")
        for _ in range(32):
            copy()
        generation, width, most, widest = self.ask(  # while copies are under way
            *(f"{which}PcieLink{what}" for which in ("Curr", "Max") for what in _LINK)
        )
        torch.cuda.synchronize(self.device)
        return told(
            "generation {generation} x{width} while copying, at most {most} x{widest}",
            (
                generation < most or width < widest, "wrong",
                "copies are slower so: another slot, BIOS setting or instance",
            ),
            (idle < generation, "note", f"idles at generation {idle} to save power, and wakes"),
            generation=generation, width=width, most=most, widest=widest, idle_generation=idle,
        )  # fmt: skip

    def copies(self) -> Verdict:
        rates = {}
        for name in ("pinned", "pageable"):
            seconds = seconds_on(self.device, self._copy(name == "pinned"), 13)
            rates[f"{name}_gb_s"] = _COPY_BYTES / statistics.median(seconds[3:]) / 1e9
        return told("{pinned_gb_s:.1f} GB/s into pinned memory, {pageable_gb_s:.1f} into pageable",
                    **rates)  # fmt: skip

    def nvml_fields(self) -> Verdict:
        """Which answer, GPM's metrics too; a 0 is an answer."""
        with NvmlSampler(gpu_uuid(self.device) or "") as sampler:
            time.sleep(0.3)  # GPM's counters move every 0.1 s
        columns, refused = sampler.samples.columns, sampler.samples.unsupported
        said = "{answered} of {fields} fields answer, of GPM's {gpm_answered} of {gpm}"
        for reason in dict.fromkeys(refused.values()):
            said += f"; {reason}: {', '.join(n for n, why in refused.items() if why == reason)}"
        fields = (columns.keys() | refused) - {"time_s"}
        return told(
            said, (refused, "note", ""), answered=len(fields - refused.keys()), fields=len(fields),
            gpm_answered=len(set(GPM_COLUMNS) - refused.keys()), gpm=len(GPM_COLUMNS),
            refused=refused,
        )  # fmt: skip

    def cupti(self) -> Verdict:
        ones = torch.ones(8, device=self.device)
        for _ in range(2):  # Kineto loses kernels while it starts up
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as session:
                for _ in range(_LAUNCHES):
                    ones.add_(1)
                torch.cuda.synchronize(self.device)
        arrived = sum("CUDA" in str(event.device_type) for event in session.events() or ())
        remedy = "end other profilers (nsys, ncu, DCGM); reinstall torch with all it requires"
        said = f"{arrived} of {_LAUNCHES} kernels arrive in a profile"
        return told(said, (arrived < _LAUNCHES, "wrong", remedy))

    def nvenc(self) -> Verdict:
        with tempfile.TemporaryDirectory(prefix="vdkit-") as folder:
            sink = Mp4Sink(Path(folder) / "nvenc.mp4", codec="auto")
            try:
                sink.open(_VIDEO)
            finally:
                sink.abort()
        other = not sink.encoder.startswith("NVENC")
        return told(f"codec auto is {sink.encoder}", (other, "note", ""))

    def versions(self) -> Verdict:
        cuda, cudnn = torch.version.cuda, torch.backends.cudnn.version() or 0
        said = f"{torch.__version__}, CUDA {cuda or 'none'}"
        said += f", cuDNN {cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}" * bool(cudnn)
        with suppress(metadata.PackageNotFoundError):
            said += f", Triton {metadata.version('triton')}"
        return told(said, cuda=cuda, cudnn=cudnn or None)

    def packages(self) -> Verdict:
        """Whether all requirements of vdkit and of the widgets are met."""
        from packaging.requirements import Requirement

        lines = [line for one in ("vdkit", "ipywidgets") for line in metadata.requires(one) or ()]
        unmet = []
        for need in (one for one in map(Requirement, lines) if not one.marker):  # of no extra
            with suppress(metadata.PackageNotFoundError):
                if need.specifier.contains(metadata.version(need.name), prereleases=True):
                    continue
            unmet.append(str(need))
        names = [] if unmet else ["jupyterlab", "ipywidgets", "jupyterlab_widgets"]
        said = ", ".join(f"{name} {metadata.version(name)}" for name in names)
        remedy = "pip install -c constraints.txt -e ., in vdkit's folder"
        return told(said or f"without {', '.join(unmet)}", (unmet, "wrong", remedy))

    def caches(self) -> Verdict:
        usual = {"TRITON_CACHE_DIR": "~/.triton/cache", "XDG_CACHE_HOME": "~/.cache"}
        places = {name: Path(os.environ.get(name) or usual[name]).expanduser() for name in usual}
        bad = [name for name, place in places.items() if not os.access(_nearest(place), os.W_OK)]
        said = "; ".join(f"{places[name]} cannot be written to" for name in bad)
        remedy = f"set {', '.join(bad)} to folders of yours"
        return told(said or "can be written to", (bad, "wrong", remedy))

    def storage(self) -> Verdict:
        """By the sink that studies use, which reserves its file and leaves nothing."""
        place, rates = _nearest(self.results), []
        frames = np.frombuffer(os.urandom(_VIDEO.frames * _VIDEO.frame_bytes), np.uint8)
        try:
            for durable in (True, False):
                with SinkSpec("raw", place, durable).fresh("doctor") as sink:
                    begun_s = time.perf_counter()
                    sink.open(_VIDEO)
                    sink.write(frames)
                    sink.close()
                    rates.append(frames.nbytes / (time.perf_counter() - begun_s) / 1e6)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            said = f"{self.results}: {error.strerror or error}"
            return told(said, (True, "wrong", _FREE_SOME if full else _ANOTHER))
        kind, free_gb = storage_kind(place), shutil.disk_usage(place).free / 1e9
        slow = self.device.type == "cuda" and rates[0] < _FAST_MB_S
        nvme = f"a fast decoder fills {_FAST_MB_S:.0f} MB/s with raw frames: NVMe, or MP4"
        return told(
            "{folder}: {storage}, {free_gb:.1f} GB free, writes {fsync_mb_s:.0f} MB/s with fsync, "
            "{cached_mb_s:.0f} into the page cache",
            (free_gb < 1, "wrong", _FREE_SOME),
            (kind == "tmpfs", "note", "this is memory: good for timing, gone after a restart"),
            (slow, "note", nvme),
            (place != self.results.absolute(), "note", f"{self.results} is not there: make it"),
            folder=place.name or str(place), storage=kind, free_gb=free_gb, fsync_mb_s=rates[0],
            cached_mb_s=rates[1],
        )  # fmt: skip


Check = Callable[[Machine], Verdict]
CHECKS: dict[str, dict[str, Check]] = {
    "machine": {"system": Machine.system, "cores": Machine.cores, "memory": Machine.memory},
    "GPU": {
        "GPU": Machine.gpu, "matrix rate": Machine.matrix_rate, "power": Machine.power,
        "PCIe link": Machine.pcie_link, "to the host": Machine.copies, "NVML": Machine.nvml_fields,
        "CUPTI": Machine.cupti, "NVENC": Machine.nvenc,
    },
    "software": {"torch": Machine.versions, "packages": Machine.packages, "caches": Machine.caches},
    "storage": {"results": Machine.storage},
}  # fmt: skip


def examine(
    results: Path, device: torch.device | None = None,
    more: Mapping[str, Mapping[str, Check]] | None = None,
) -> list[Finding]:  # fmt: skip
    """What `CHECKS`, then ``more`` of that form, find; one that fails is a finding that says why.

    Args:
        results: the folder that recordings are to go to; it need not be there.
        device: None for the current GPU, else the CPU.
    """
    found, checks = [], {**CHECKS, **(more or {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch warns of is found
        there = "cuda" if torch.cuda.is_available() else "cpu"
        machine = Machine(results, device or torch.device(there))
        if machine.device.type != "cuda":
            checks["GPU"] = {"GPU": Machine.no_gpu}
        for group, name in ((group, name) for group, those in checks.items() for name in those):
            try:
                with on_device(machine.device):
                    verdict = checks[group][name](machine)
            except NotSaid as reason:
                verdict = told(str(reason), (True, "note", ""))
            except Exception as error:  # whatever a check meets is its finding
                line = str(error).strip().partition("\n")[0]
                verdict = told(f"{type(error).__name__}: {line}", (True, "wrong", ""))
            found.append(Finding(group=group, name=name, **verdict))
    return found
