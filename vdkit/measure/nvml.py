"""What NVML says of a GPU: a reading around each run, means during it, and a sampler for a profile.

One table, `FIELDS`, holds every question: its columns, the call, and how often it is asked.
https://docs.nvidia.com/deploy/nvml-api
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from vdkit.record.runs import THROTTLE_BITS, GpuReading

Value = float | None

COUNTER_INTERVAL_S = 0.1
"""Power, energy, utilization and clock event reasons move every 100 ms (seen on an H200), and take
0.5 to 6 ms to ask for: asked no more often than that."""
GPM_INTERVAL_S = 0.12
"""GPM's counters move every 100 ms (seen on an H200); asked faster, it answers 0 or 0/0."""
PCIE_EVERY = 25
"""Samples between two PCIe readings without GPM: one takes 40 ms, NVML averages over 20 ms each."""


@dataclass(frozen=True, slots=True)
class Field:
    """What one call answers.

    Attributes:
        columns: with their units; `GpuReading` calls some of them the same.
        call: given the library and the device, their values in order.
        slow: moves every `COUNTER_INTERVAL_S` only.
    """

    columns: tuple[str, ...]
    call: Callable[[Any, Any], Sequence[Any]]
    slow: bool = True


def _one(column: str, call: Callable[[Any, Any], Any], slow: bool = True) -> Field:
    return Field((column,), lambda nvml, handle: (call(nvml, handle),), slow)


def _rates(nvml: Any, handle: Any) -> tuple[float, float]:
    rates = nvml.nvmlDeviceGetUtilizationRates(handle)
    return rates.gpu, rates.memory


REASONS = "clock_event_reasons"
FIELDS = (
    Field(("gpu_util_percent", "memory_util_percent"), _rates),
    _one("memory_used_bytes", lambda n, h: n.nvmlDeviceGetMemoryInfo(h).used, False),
    _one("power_w", lambda n, h: n.nvmlDeviceGetPowerUsage(h) / 1e3),
    _one("energy_j", lambda n, h: n.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3),
    _one("sm_clock_mhz", lambda n, h: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM), False),
    _one("memory_clock_mhz", lambda n, h: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM), False),
    _one("temperature_c", lambda n, h: n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU)),
    _one(REASONS, lambda n, h: n.nvmlDeviceGetCurrentClocksEventReasons(h)),
    _one("encoder_util_percent", lambda n, h: n.nvmlDeviceGetEncoderUtilization(h)[0]),
    _one("pcie_link_generation", lambda n, h: n.nvmlDeviceGetCurrPcieLinkGeneration(h)),
    _one("pcie_link_width", lambda n, h: n.nvmlDeviceGetCurrPcieLinkWidth(h)),
)


def _pcie(nvml: Any, handle: Any, counter: int) -> float:
    return float(nvml.nvmlDeviceGetPcieThroughput(handle, counter) * 1.024e-3)


_WITHOUT_GPM = (
    _one("pcie_tx_mb_per_s", lambda n, h: _pcie(n, h, n.NVML_PCIE_UTIL_TX_BYTES)),
    _one("pcie_rx_mb_per_s", lambda n, h: _pcie(n, h, n.NVML_PCIE_UTIL_RX_BYTES)),
)
_MIB_PER_S = 2**20 / 1e6
# Column to GPM metric (nvml.h), and the factor to the column's unit.
_GPM = {
    "sm_active_percent": ("NVML_GPM_METRIC_SM_UTIL", 1.0),
    "sm_occupancy_percent": ("NVML_GPM_METRIC_SM_OCCUPANCY", 1.0),
    "tensor_active_percent": ("NVML_GPM_METRIC_ANY_TENSOR_UTIL", 1.0),
    "dram_bandwidth_percent": ("NVML_GPM_METRIC_DRAM_BW_UTIL", 1.0),
    "pcie_tx_mb_per_s": ("NVML_GPM_METRIC_PCIE_TX_PER_SEC", _MIB_PER_S),
    "pcie_rx_mb_per_s": ("NVML_GPM_METRIC_PCIE_RX_PER_SEC", _MIB_PER_S),
}
GPM_COLUMNS = tuple(_GPM)


def throttle_names(bits: float) -> tuple[str, ...]:
    """Names, as in `THROTTLE_BITS`, of the reasons that are set."""
    return tuple(name for name, bit in THROTTLE_BITS.items() if int(bits) & bit)


class Nvml:
    """The NVML device behind a torch CUDA device, found by its UUID.

    Attributes:
        nvml, handle: the library, and its handle of the device.
        driver: the NVIDIA driver's version.
    """

    def __init__(self, uuid: str, nvml: Any = None) -> None:
        """``uuid``: ``GPU-...``, as NVML has it; ``nvml``: the library, None for nvidia-ml-py.

        RuntimeError, with why, if NVML cannot be used.
        """
        if nvml is None:
            nvml = importlib.import_module("pynvml")
        self.nvml = nvml
        try:
            nvml.nvmlInit()
            self.handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            self.driver: str = nvml.nvmlSystemGetDriverVersion()
        except nvml.NVMLError as error:
            raise RuntimeError(f"NVML cannot read {uuid}: {error}") from error

    def ask(self, field: Field) -> Sequence[Any]:
        """The field's values; an NVMLError in place of those that are refused."""
        try:
            return field.call(self.nvml, self.handle)
        except self.nvml.NVMLError as error:
            return [error] * len(field.columns)

    def read(self) -> GpuReading:
        """Read once what is kept of a run; takes well under a millisecond to a few milliseconds."""
        found: dict[str, Any] = {"unsupported": {}}
        for field in FIELDS:
            column = field.columns[0]
            name = "throttle_reasons" if column == REASONS else column
            if name in GpuReading.model_fields:
                (value,) = self.ask(field)
                if isinstance(value, self.nvml.NVMLError):
                    found["unsupported"][name] = str(value)
                else:
                    found[name] = throttle_names(value) if column == REASONS else value
        return GpuReading(**found)


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples as columns.

    Attributes:
        start_s: `time.perf_counter` of time 0.
        columns: ``time_s``, the middle of each reading, and one column for each field that the
            device answers; None where a value was refused, or is due less often (what moves
            slowly: every `COUNTER_INTERVAL_S`; GPM: every `GPM_INTERVAL_S`; PCIe without GPM: every
            `PCIE_EVERY` samples). PCIe is in MB (10^6 bytes; NVML's KB taken as 1024) per second,
            tx from the GPU to the host.
        unsupported: field to NVML's reason for not answering it; such a field has no column.
        cost_s: wall-clock time spent asking NVML; of a slice, its share by number of samples.
    """

    start_s: float
    columns: dict[str, list[Value]]
    unsupported: dict[str, str]
    cost_s: float

    def __len__(self) -> int:
        return len(self.columns["time_s"])

    @property
    def mean_cost_ms(self) -> float:
        """Mean time to take one sample, ms."""
        return 1e3 * self.cost_s / max(len(self), 1)

    @property
    def throttle_reasons(self) -> dict[str, int]:
        """Throttle reason (see `THROTTLE_BITS`) to the number of samples that had it set."""
        bits = [value for value in self.columns.get(REASONS, []) if value is not None]
        set_in = [name for one in bits for name in throttle_names(one)]
        return {name: count for name in THROTTLE_BITS if (count := set_in.count(name))}

    def between(self, start_s: float, stop_s: float, zero_s: float | None = None) -> Samples:
        """The samples between two `time.perf_counter` readings; time 0 is ``zero_s``, or start."""
        zero_s = start_s if zero_s is None else zero_s
        low_s, high_s, moved_s = (at_s - self.start_s for at_s in (start_s, stop_s, zero_s))
        times = [time_s or 0.0 for time_s in self.columns["time_s"]]
        kept = [index for index, time_s in enumerate(times) if low_s <= time_s <= high_s]
        columns = {name: [values[index] for index in kept] for name, values in self.columns.items()}
        columns["time_s"] = [times[index] - moved_s for index in kept]
        cost_s = self.cost_s * len(kept) / max(len(times), 1)
        return replace(self, start_s=zero_s, columns=columns, cost_s=cost_s)

    def energy_j(self) -> float | None:
        """Difference of the energy counter from first to last sample, J; None if not answered."""
        values = [v for v in self.columns.get("energy_j", []) if v is not None]
        return values[-1] - values[0] if len(values) > 1 else None


class Gpm:
    """GPM metrics between a reading and the one before. `free` it, whatever happened."""

    def __init__(self, device: Nvml) -> None:
        self._nvml, self._handle = device.nvml, device.handle
        self._held: list[Any] = []
        self._asked_s = -math.inf
        self.columns = GPM_COLUMNS
        """What `read` gives, in that order."""

    def probe(self) -> list[Any]:
        """Ask for every column of `GPM_COLUMNS` once, as `read` does.

        RuntimeError or an NVMLError, with why, if there is no GPM.
        """
        if not self._nvml.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice:
            raise RuntimeError("this GPU has no GPM (Hopper and later do)")
        for _ in range(2):
            self._held.append(self._nvml.nvmlGpmSampleAlloc())
        self._nvml.nvmlGpmSampleGet(self._handle, self._held[0])
        time.sleep(0.005)  # two readings have to lie apart
        return self.read()

    def read(self, *_: Any) -> list[Any]:
        """The columns since the last reading; None until `GPM_INTERVAL_S` have passed.

        A value may be an NVMLError instead; NVMLError is raised if NVML refuses the reading.
        """
        nvml, now_s = self._nvml, time.perf_counter()
        if now_s - self._asked_s < GPM_INTERVAL_S:
            return [None] * len(self.columns)
        self._asked_s = now_s
        older, newer = self._held
        nvml.nvmlGpmSampleGet(self._handle, newer)
        self._held = [newer, older]
        request = nvml.c_nvmlGpmMetricsGet_t()
        request.version = nvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(self.columns)
        request.sample1, request.sample2 = older, newer
        for slot, column in enumerate(self.columns):
            request.metrics[slot].metricId = getattr(nvml, _GPM[column][0])
        nvml.nvmlGpmMetricsGet(request)
        values: list[Any] = []
        for metric, column in zip(request.metrics, self.columns, strict=False):
            value = float(metric.value) * _GPM[column][1]
            refused = metric.nvmlReturn != 0
            known = value if math.isfinite(value) else None
            values.append(nvml.NVMLError(metric.nvmlReturn) if refused else known)
        return values

    def free(self) -> None:
        """Free both samples, even where NVML refuses the first; they are memory of the host."""
        while self._held:
            with suppress(self._nvml.NVMLError):  # the device is gone: nothing else is held of it
                self._nvml.nvmlGpmSampleFree(self._held.pop())


def check_interval(interval_s: float) -> None:
    """ValueError unless the interval is one that `NvmlSampler` takes."""
    if not 0.001 <= interval_s <= 10:
        raise ValueError(f"NVML interval is {interval_s} s; use 0.001 to 10 s")


def _ticks(stop: threading.Event, start_s: float, interval_s: float) -> Iterator[int]:
    """Counts ticks until ``stop``, on a grid from ``start_s``; runs in a thread of its own.

    That thread yields to those of the run: the NVML calls take milliseconds of a core, and a
    conversion on all cores waits for its last thread.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    tick = count = 0
    while True:
        now_s = time.perf_counter()
        tick = _next_tick(now_s - start_s, interval_s, tick)
        if stop.wait(start_s + tick * interval_s - now_s):
            return
        yield count
        count += 1


def _next_tick(elapsed_s: float, interval_s: float, last: int) -> int:
    """The tick to wait for, on a grid from time 0: no drift, and those missed are left out."""
    return max(last, math.floor(elapsed_s / interval_s)) + 1


class NvmlSampler:
    """Samples a GPU on a thread while the block runs, once; `samples` holds them after.

    The first sample is complete before the block starts and the last begins after it ends, so a
    short block has two, and energy spans all of it. If sampling fails, those until then remain.

    Raises:
        ValueError: the interval is not between 1 ms and 10 s.
        RuntimeError: NVML does not know the GPU; the sampler ran already; or, on leaving the
            block, NVML failed meanwhile.
        Exception: whatever else the thread raised, on leaving the block.
    """

    samples: Samples

    def __init__(self, uuid: str, interval_s: float = 0.02, nvml: Any = None) -> None:
        """``uuid``: ``GPU-...``; ``nvml``: the library, None for nvidia-ml-py."""
        check_interval(interval_s)
        self._device = Nvml(uuid, nvml)
        self.interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vdkit-nvml", daemon=True)
        self._error: BaseException | None = None
        self._gpm = Gpm(self._device)
        self._asked: list[tuple[Field, int | None]] = []
        """Fields that are answered, and in each how-many-th sample; None: not in first and last."""
        self._unsupported: dict[str, str] = {}
        self._rows: list[dict[str, Any]] = []
        self._start_s = self._cost_s = 0.0

    def __enter__(self) -> NvmlSampler:
        if self._rows:
            raise RuntimeError("an NvmlSampler samples one block; make another for the next")
        try:
            self._probe()
            self._start_s = time.perf_counter()
            self._take()
            self._thread.start()  # from here on the thread owns the fields and the rows
        except BaseException:
            self._gpm.free()
            raise
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._stop.set()
        self._thread.join()
        names = ["time_s", *(name for field, _ in self._asked for name in field.columns)]
        columns = {name: [row.get(name) for row in self._rows] for name in names}
        self.samples = Samples(self._start_s, columns, self._unsupported, self._cost_s)
        if self._error is not None:
            if error is None:
                raise self._error
            error.add_note(f"NVML sampling failed too: {self._error!r}")

    def _run(self) -> None:
        try:
            for count in _ticks(self._stop, self._start_s, self.interval_s):
                self._take(count)
            self._take()
        except BaseException as error:  # carried to the thread that leaves the block
            self._error = error
        finally:
            self._gpm.free()

    def _probe(self) -> None:
        """Ask for each field once; those refused go to ``unsupported`` and are not asked again."""
        every = max(1, round(COUNTER_INTERVAL_S / self.interval_s))
        for field in FIELDS:
            if self._answered(field.columns, self._device.ask(field)):
                self._asked.append((field, every if field.slow else 1))
        try:
            found = self._answered(GPM_COLUMNS, self._gpm.probe())
        except (RuntimeError, self._device.nvml.NVMLError) as reason:
            found = ()
            self._unsupported |= dict.fromkeys(GPM_COLUMNS, str(reason))
        for field in _WITHOUT_GPM:
            known = field.columns[0] in found
            if not known and self._answered(field.columns, self._device.ask(field)):
                self._asked.append((field, None))
        if found:
            self._gpm.columns = found
            self._asked.append((Field(found, self._gpm.read), 1))

    def _answered(self, columns: Sequence[str], values: Sequence[Any]) -> tuple[str, ...]:
        """The columns that NVML answers; the others' reasons are noted."""
        for name, value in zip(columns, values, strict=True):
            self._unsupported.pop(name, None)
            if isinstance(value, self._device.nvml.NVMLError):
                self._unsupported[name] = str(value)
        return tuple(name for name in columns if name not in self._unsupported)

    def _take(self, count: int | None = None) -> None:
        """One sample: the ``count``-th between the first and the last, or (None) one of these."""
        nvml, row = self._device.nvml, dict[str, Any]()
        begun_s = time.perf_counter()
        for field, every in self._asked:
            if every is not None if count is None else count % (every or PCIE_EVERY) == 0:
                row |= zip(field.columns, self._device.ask(field), strict=True)
        done_s = time.perf_counter()
        for name, value in row.items():
            if isinstance(value, nvml.NVMLError):
                if value.value != nvml.NVML_ERROR_NOT_SUPPORTED:
                    raise RuntimeError(f"NVML failed at {name}: {value}") from value
                row[name] = None
        row["time_s"] = (begun_s + done_s) / 2 - self._start_s
        self._cost_s += done_s - begun_s
        self._rows.append(row)


WATCH_FIRST_S, WATCH_EVERY = 0.1, 5
"""When a timed run is read first, and after how many of such intervals again."""


@contextmanager
def watching(nvml: Nvml) -> Iterator[list[GpuReading]]:
    """Readings of the block 0.1 s after its start and every 0.5 s from then on; none of a shorter.

    A reading takes about 3 ms, by which a sync decode is late; ten a second cost it 3 %.
    """
    readings: list[GpuReading] = []
    stop = threading.Event()

    def run() -> None:
        for tick in _ticks(stop, time.perf_counter(), WATCH_FIRST_S):
            if tick % WATCH_EVERY == 0:
                readings.append(nvml.read())

    thread = threading.Thread(target=run, name="vdkit-nvml-watch", daemon=True)
    thread.start()
    try:
        yield readings
    finally:
        stop.set()
        thread.join()


def mean_reading(readings: Sequence[GpuReading]) -> GpuReading | None:
    """Means of what was answered; every throttle reason that was set in any; None of none."""
    if not readings:
        return None
    found: dict[str, Any] = {"unsupported": readings[0].unsupported}
    for name in ("sm_clock_mhz", "memory_clock_mhz", "power_w", "temperature_c"):
        values = [value for one in readings if (value := getattr(one, name)) is not None]
        found[name] = sum(values) / len(values) if values else None
    reasons = {reason for one in readings for reason in one.throttle_reasons}
    found["throttle_reasons"] = tuple(name for name in THROTTLE_BITS if name in reasons)
    return GpuReading(**found)
