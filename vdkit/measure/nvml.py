"""A reading of the GPU's clocks, power, temperature and throttle reasons around each run.

NVML (https://docs.nvidia.com/deploy/nvml-api) is asked before and after a run, never during it;
`vdkit.measure.nvml` is what asks during a run.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vdkit.record.machine import THROTTLE_BITS, GpuReading


@dataclass(frozen=True, slots=True)
class Device:
    """An open device: the NVML library, its handle, and the driver's version."""

    nvml: Any
    handle: Any
    driver: str


def open_device(uuid: str, nvml: Any = None) -> Device:
    """Open ``GPU-...`` through ``nvml``, None for nvidia-ml-py. RuntimeError if NVML cannot."""
    if nvml is None:
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        return Device(nvml, handle, nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError as error:
        raise RuntimeError(f"NVML cannot read {uuid}: {error}") from error


class Nvml:
    """The NVML device behind a torch CUDA device, found by its UUID."""

    def __init__(self, uuid: str) -> None:
        """``uuid``: ``GPU-...``, as NVML has it. RuntimeError, with why, if NVML cannot be used."""
        device = open_device(uuid)
        self._nvml, self._handle = device.nvml, device.handle
        self.driver: str = device.driver

    def read(self) -> GpuReading:
        """Read once; takes well under a millisecond to a few milliseconds."""
        nvml, handle = self._nvml, self._handle
        unsupported: dict[str, str] = {}

        def ask(name: str, call: Callable[[], float]) -> float | None:
            try:
                return call()
            except nvml.NVMLError as error:
                unsupported[name] = str(error)
                return None

        clock = nvml.nvmlDeviceGetClockInfo
        reasons = ask(
            "throttle_reasons", lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        )
        return GpuReading(
            sm_clock_mhz=ask("sm_clock_mhz", lambda: clock(handle, nvml.NVML_CLOCK_SM)),
            memory_clock_mhz=ask("memory_clock_mhz", lambda: clock(handle, nvml.NVML_CLOCK_MEM)),
            power_w=ask("power_w", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
            temperature_c=ask(
                "temperature_c",
                lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            ),
            energy_j=ask(
                "energy_j", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
            ),
            throttle_reasons=tuple(
                name for name, bit in THROTTLE_BITS.items() if int(reasons or 0) & bit
            ),
            unsupported=unsupported,
        )


Value = float | None


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples as columns.

    Attributes:
        start_s: `time.perf_counter` of time 0.
        columns: ``time_s``, the middle of each reading, and one column for each field that the
            device answers; None where a value was refused, or is due less often (what moves
            slowly: every `COUNTER_INTERVAL_S`; GPM: every
            `GPM_INTERVAL_S`; PCIe without GPM: every `PCIE_EVERY` samples). PCIe is in MB (10^6
            bytes; NVML's KB taken as 1024) per second, tx from the GPU to the host.
        unsupported: field to NVML's reason for not answering it; such a field has no column.
        throttle_reasons: name (see `THROTTLE_BITS`) to the number of samples that had it set.
        interval_s: between samples, as asked for.
        cost_s: wall-clock time spent asking NVML; of a slice, its share by number of samples.
    """

    start_s: float
    columns: dict[str, list[Value]]
    unsupported: dict[str, str]
    throttle_reasons: dict[str, int]
    interval_s: float
    cost_s: float

    @property
    def mean_cost_ms(self) -> float:
        """Mean time to take one sample, ms."""
        return 1e3 * self.cost_s / max(len(self.columns["time_s"]), 1)

    def between(self, start_s: float, stop_s: float, zero_s: float | None = None) -> Samples:
        """The samples between two `time.perf_counter` readings; time 0 is ``zero_s``, or start."""
        zero_s = start_s if zero_s is None else zero_s
        moved = zero_s - self.start_s
        times = [time_s for time_s in self.columns["time_s"] if time_s is not None]
        low = bisect_left(times, start_s - self.start_s)
        high = bisect_right(times, stop_s - self.start_s)
        columns = {name: values[low:high] for name, values in self.columns.items()}
        columns["time_s"] = [time_s - moved for time_s in times[low:high]]
        share = (high - low) / max(len(times), 1)
        return Samples(
            zero_s, columns, self.unsupported, throttle_counts(columns), self.interval_s,
            self.cost_s * share,
        )  # fmt: skip

    def energy_j(self) -> float | None:
        """Difference of the energy counter from first to last sample, J; None if not answered."""
        values = [v for v in self.columns.get("energy_j", []) if v is not None]
        return values[-1] - values[0] if len(values) > 1 else None

    def summary(self) -> dict[str, dict[str, float]]:
        """Mean, min and max of each column that holds a value, except of ``time_s``."""
        found = {}
        for name, column in self.columns.items():
            values = [value for value in column if value is not None]
            if values and name != "time_s":
                mean = sum(values) / len(values)
                found[name] = {"mean": mean, "min": min(values), "max": max(values)}
        return found

    def to_csv(self) -> str:
        """A header and a line per sample, in full precision; None is left empty."""
        lines = [",".join(self.columns)]
        for row in zip(*self.columns.values(), strict=True):
            lines.append(",".join("" if value is None else repr(value) for value in row))
        return "\n".join(lines) + "\n"


def throttle_counts(columns: dict[str, list[Value]]) -> dict[str, int]:
    """Throttle reason to the number of samples that had it set."""
    bits = [int(value) for value in columns.get("clock_event_reasons", []) if value is not None]
    counts = {name: sum(bool(b & bit) for b in bits) for name, bit in THROTTLE_BITS.items()}
    return {name: count for name, count in counts.items() if count}


_MIB_PER_S = 2**20 / 1e6
GPM_INTERVAL_S = 0.12
"""GPM's counters move every 100 ms (seen on an H200); asked faster, it answers 0 or 0/0."""

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


class Gpm:
    """GPM metrics between a reading and the one before. `free` it, whatever happened."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._held: list[Any] = []
        self._asked_s: float | None = None
        self._columns: tuple[str, ...] = ()

    def probe(self) -> tuple[list[Any], str | None]:
        """Ask for every column of `GPM_COLUMNS` once.

        Returns:
            What `read` would for all of them, and None; or no values, and why there is no GPM.
            A value may be an NVMLError; NVMLError is raised if NVML refuses GPM as a whole.
        """
        nvml = self._nvml
        if not nvml.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice:
            return [], "this GPU has no GPM (Hopper and later do)"
        for _ in range(2):
            self._held.append(nvml.nvmlGpmSampleAlloc())
        self.select(GPM_COLUMNS)
        nvml.nvmlGpmSampleGet(self._handle, self._held[0])
        time.sleep(0.005)  # two readings have to lie apart
        return self._ask(), None

    def select(self, columns: Sequence[str]) -> None:
        """The columns that `read` gives from here on, in that order."""
        nvml = self._nvml
        self._columns = tuple(columns)
        self._request = nvml.c_nvmlGpmMetricsGet_t()
        self._request.version = nvml.NVML_GPM_METRICS_GET_VERSION
        self._request.numMetrics = len(columns)
        self._metrics = [self._request.metrics[slot] for slot in range(len(columns))]
        for metric, column in zip(self._metrics, columns, strict=True):
            metric.metricId = getattr(nvml, _GPM[column][0])

    def _ask(self) -> list[Any]:
        self._asked_s = time.perf_counter()
        older, newer = self._held
        self._nvml.nvmlGpmSampleGet(self._handle, newer)
        self._held = [newer, older]
        self._request.sample1, self._request.sample2 = older, newer
        self._nvml.nvmlGpmMetricsGet(self._request)
        values: list[Any] = []
        for metric, column in zip(self._metrics, self._columns, strict=True):
            if metric.nvmlReturn != 0:
                values.append(self._nvml.NVMLError(metric.nvmlReturn))
            else:
                value = float(metric.value) * _GPM[column][1]
                values.append(value if math.isfinite(value) else None)
        return values

    def read(self) -> list[Any]:
        """Selected columns since the last reading; None until `GPM_INTERVAL_S` have passed.

        A value may be an NVMLError instead; NVMLError is raised if NVML refuses the reading.
        """
        if self._asked_s is None or time.perf_counter() - self._asked_s < GPM_INTERVAL_S:
            return [None] * len(self._columns)
        return self._ask()

    def free(self) -> None:
        """Free both samples, even where NVML refuses the first; they are memory of the host."""
        while self._held:
            sample = self._held.pop()
            try:
                self._nvml.nvmlGpmSampleFree(sample)
            except self._nvml.NVMLError:
                continue  # the device is gone, and this process holds nothing else of it


COUNTER_INTERVAL_S = 0.1
"""Power, energy, utilization and clock event reasons move every 100 ms (seen on an H200), and take
0.5 to 6 ms to ask for: asked no more often than that."""
PCIE_EVERY = 25
"""Samples between two PCIe readings without GPM: one takes 40 ms, NVML averages over 20 ms each."""


def check_interval(interval_s: float) -> None:
    """ValueError unless the interval is one that `NvmlSampler` takes."""
    if not 0.001 <= interval_s <= 10:
        raise ValueError(f"NVML interval is {interval_s} s; use 0.001 to 10 s")


def _next_tick(elapsed_s: float, interval_s: float, last: int) -> int:
    """The tick to wait for, on a grid from time 0: no drift, and those missed are left out."""
    return max(last, math.floor(elapsed_s / interval_s)) + 1


def _step_back() -> None:
    """Let this thread yield to those of the run: the NVML calls take milliseconds of a core, and a
    conversion on all cores waits for its last thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Columns that come from one call, in order; an NVMLError in place of a value refuses it.

    Attributes:
        every: asked in each so many-th sample between the first and the last.
        edges: asked in the first and in the last sample.
    """

    columns: tuple[str, ...]
    read: Callable[[], Sequence[Any]]
    every: int = 1
    edges: bool = True


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

    def __init__(self, uuid: str, interval_s: float = 0.02, nvml: Any = None) -> None:
        """``uuid``: ``GPU-...``; ``nvml``: the library, None for nvidia-ml-py."""
        check_interval(interval_s)
        device = open_device(uuid, nvml)
        self._nvml, self._handle = device.nvml, device.handle
        self.interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vdkit-nvml", daemon=True)
        self._error: BaseException | None = None
        self._gpm = Gpm(self._nvml, self._handle)
        self._readers: list[_Reader] = []
        self._unsupported: dict[str, str] = {}
        self._rows: list[list[Value]] = []
        self._start_s: float | None = None
        self._cost_s = 0.0
        self.samples: Samples

    def __enter__(self) -> NvmlSampler:
        if self._start_s is not None:
            raise RuntimeError("an NvmlSampler samples one block; make another for the next")
        try:
            self._probe()
            self._start_s = time.perf_counter()
            self._take(self._start_s)
            self._thread.start()  # from here on the thread owns the readers and the rows
        except BaseException:
            self._gpm.free()
            raise
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._stop.set()
        self._thread.join()
        assert self._start_s is not None
        names = ["time_s", *(name for reader in self._readers for name in reader.columns)]
        columns: dict[str, list[Value]] = {
            name: list(values)
            for name, values in zip(names, zip(*self._rows, strict=True), strict=True)
        }
        self.samples = Samples(
            self._start_s, columns, self._unsupported, throttle_counts(columns), self.interval_s,
            self._cost_s,
        )  # fmt: skip
        if self._error is None:
            return
        if error is None:
            raise self._error
        error.add_note(f"NVML sampling failed too: {self._error!r}")

    def _run(self) -> None:
        assert self._start_s is not None
        start_s, tick, count = self._start_s, 0, 0
        try:
            _step_back()
            while True:
                now_s = time.perf_counter()
                tick = _next_tick(now_s - start_s, self.interval_s, tick)
                if self._stop.wait(start_s + tick * self.interval_s - now_s):
                    break
                self._take(start_s, count)
                count += 1
            self._take(start_s)
        except BaseException as error:  # carried to the thread that leaves the block
            self._error = error
        finally:
            self._gpm.free()

    def _plain_readers(self) -> list[_Reader]:
        nvml, handle = self._nvml, self._handle

        def one(column: str, call: Callable[..., Any], *arguments: Any) -> _Reader:
            return _Reader((column,), lambda: (call(handle, *arguments),))

        every = max(1, round(COUNTER_INTERVAL_S / self.interval_s))

        def rare(column: str, call: Callable[..., Any]) -> _Reader:
            return _Reader((column,), lambda: (call(handle),), every)

        def utilization() -> tuple[float, float]:
            rates = nvml.nvmlDeviceGetUtilizationRates(handle)
            return rates.gpu, rates.memory

        clock = nvml.nvmlDeviceGetClockInfo
        return [
            _Reader(("gpu_util_percent", "memory_util_percent"), utilization, every),
            one("memory_used_bytes", lambda h: nvml.nvmlDeviceGetMemoryInfo(h).used),
            rare("power_w", lambda h: nvml.nvmlDeviceGetPowerUsage(h) / 1e3),
            rare("energy_j", lambda h: nvml.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3),
            one("sm_clock_mhz", clock, nvml.NVML_CLOCK_SM),
            one("memory_clock_mhz", clock, nvml.NVML_CLOCK_MEM),
            rare(
                "temperature_c",
                lambda h: nvml.nvmlDeviceGetTemperature(h, nvml.NVML_TEMPERATURE_GPU),
            ),
            rare("clock_event_reasons", nvml.nvmlDeviceGetCurrentClocksEventReasons),
            rare("encoder_util_percent", lambda h: nvml.nvmlDeviceGetEncoderUtilization(h)[0]),
            rare("pcie_link_generation", nvml.nvmlDeviceGetCurrPcieLinkGeneration),
            rare("pcie_link_width", nvml.nvmlDeviceGetCurrPcieLinkWidth),
        ]

    def _pcie_readers(self, columns: Sequence[str]) -> list[_Reader]:
        nvml, handle = self._nvml, self._handle

        def throughput(counter: int) -> Callable[[], Sequence[float]]:
            return lambda: (nvml.nvmlDeviceGetPcieThroughput(handle, counter) * 1.024e-3,)

        counters = {
            "pcie_tx_mb_per_s": nvml.NVML_PCIE_UTIL_TX_BYTES,
            "pcie_rx_mb_per_s": nvml.NVML_PCIE_UTIL_RX_BYTES,
        }
        return [
            _Reader((name,), throughput(counter), PCIE_EVERY, edges=False)
            for name, counter in counters.items()
            if name in columns
        ]

    def _probe(self) -> None:
        """Ask for each field once; those refused go to ``unsupported`` and are not asked again."""
        for reader in self._plain_readers():
            if self._answered(reader):
                self._readers.append(reader)
        found: tuple[str, ...] = ()
        try:
            values, reason = self._gpm.probe()
        except self._nvml.NVMLError as error:
            values, reason = [], str(error)
        if reason is None:
            found = self._answered(_Reader(GPM_COLUMNS, lambda: values))
        else:
            self._unsupported |= dict.fromkeys(GPM_COLUMNS, reason)
        for reader in self._pcie_readers([name for name in GPM_COLUMNS if name not in found]):
            if self._answered(reader):
                self._readers.append(reader)
        if found:
            self._gpm.select(found)
            self._readers.append(_Reader(found, self._gpm.read))

    def _answered(self, reader: _Reader) -> tuple[str, ...]:
        """Columns of the reader that NVML answers; the others' reasons are noted."""
        found = []
        for name, value in zip(reader.columns, self._ask(reader), strict=True):
            if isinstance(value, self._nvml.NVMLError):
                self._unsupported[name] = str(value)
            else:
                self._unsupported.pop(name, None)
                found.append(name)
        return tuple(found)

    def _ask(self, reader: _Reader) -> Sequence[Any]:
        try:
            return reader.read()
        except self._nvml.NVMLError as error:
            return [error] * len(reader.columns)

    def _take(self, start_s: float, count: int | None = None) -> None:
        """One sample: the ``count``-th between the first and the last, or (None) one of these."""
        nvml = self._nvml
        row: list[Value] = [None]
        begun_s = time.perf_counter()
        for reader in self._readers:
            if not (reader.edges if count is None else count % reader.every == 0):
                row += [None] * len(reader.columns)
                continue
            for name, value in zip(reader.columns, self._ask(reader), strict=True):
                if isinstance(value, nvml.NVMLError):
                    if value.value != nvml.NVML_ERROR_NOT_SUPPORTED:
                        raise RuntimeError(f"NVML failed at {name}: {value}") from value
                    value = None
                row.append(value)
        done_s = time.perf_counter()
        row[0] = (begun_s + done_s) / 2 - start_s
        self._cost_s += done_s - begun_s
        self._rows.append(row)


WATCH_INTERVAL_S = 0.1
"""Between the readings of a timed run; power and clock event reasons move no faster."""


class NvmlWatch:
    """Clocks, power, temperature and throttle reasons while a run lasts; ``seen`` holds them after.

    A reading takes a few milliseconds of a thread of the lowest priority.
    """

    seen: GpuReading | None = None

    def __init__(self, nvml: Nvml) -> None:
        self._nvml, self._readings = nvml, list[GpuReading]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vdkit-nvml-watch", daemon=True)

    def __enter__(self) -> NvmlWatch:
        self._thread.start()
        return self

    def _run(self) -> None:
        _step_back()
        while not self._stop.wait(WATCH_INTERVAL_S):
            self._readings.append(self._nvml.read())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.seen = mean_reading(self._readings or [self._nvml.read()])


def mean_reading(readings: Sequence[GpuReading]) -> GpuReading:
    """Means of what was answered; every throttle reason that was set in any of them."""

    def mean(name: str) -> float | None:
        values = [value for one in readings if (value := getattr(one, name)) is not None]
        return sum(values) / len(values) if values else None

    reasons = {reason for one in readings for reason in one.throttle_reasons}
    return GpuReading(
        sm_clock_mhz=mean("sm_clock_mhz"),
        memory_clock_mhz=mean("memory_clock_mhz"),
        power_w=mean("power_w"),
        temperature_c=mean("temperature_c"),
        throttle_reasons=tuple(name for name in THROTTLE_BITS if name in reasons),
        unsupported=readings[0].unsupported,
    )
