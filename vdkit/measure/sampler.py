"""NVML while something runs: a thread that samples one GPU, GPM metrics included where it has them.

What the device does not answer is absent, with the reason; never zero. A sampled utilization is a
trend over NVML's own period (1/6 s to 1 s) and no kernel utilization.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vdkit.measure.gpm import Gpm
from vdkit.measure.nvml import THROTTLE_BITS

Value = float | None


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples as columns.

    Attributes:
        start_s: `time.perf_counter` of time 0.
        columns: ``time_s`` and one column for each field that the device answers; None where a
            value was refused, or is due less often (GPM: every `GPM_INTERVAL_S`).
        unsupported: field to NVML's reason for not answering it; such a field has no column.
        throttle_reasons: name (see `THROTTLE_BITS`) to the number of samples that had it set.
        interval_s: between samples, as asked for.
        cost_s: time that the thread spent asking NVML.
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

    def between(self, start_s: float, stop_s: float, zero_s: float) -> Samples:
        """The samples between two `time.perf_counter` readings, with time 0 at ``zero_s``."""
        moved = zero_s - self.start_s
        times = [time_s for time_s in self.columns["time_s"] if time_s is not None]
        low = bisect_left(times, start_s - self.start_s)
        high = bisect_right(times, stop_s - self.start_s)
        columns = {name: values[low:high] for name, values in self.columns.items()}
        columns["time_s"] = [time_s - moved for time_s in times[low:high]]
        share = (high - low) / max(len(times), 1)
        return Samples(
            zero_s, columns, self.unsupported, _reasons(columns), self.interval_s,
            self.cost_s * share,
        )  # fmt: skip

    def energy_j(self) -> float | None:
        """Difference of the energy counter from first to last sample, J; None if not answered."""
        values = [v for v in self.columns.get("energy_j", []) if v is not None]
        return values[-1] - values[0] if len(values) > 1 else None

    def summary(self) -> dict[str, dict[str, float]]:
        """Mean, min and max of each column."""
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


def _reasons(columns: dict[str, list[Value]]) -> dict[str, int]:
    bits = [int(value) for value in columns.get("clock_event_reasons", []) if value is not None]
    counts = {name: sum(bool(b & bit) for b in bits) for name, bit in THROTTLE_BITS.items()}
    return {name: count for name, count in counts.items() if count}


class NvmlSampler:
    """Samples a GPU on a thread while the block runs; `samples` holds them after.

    Raises:
        ValueError: the interval is not between 1 ms and 10 s.
        RuntimeError: NVML does not know the GPU; or, on leaving the block, NVML failed meanwhile.
        Exception: whatever else the thread raised, on leaving the block.
    """

    def __init__(self, uuid: str, interval_s: float = 0.02, nvml: Any = None) -> None:
        """``uuid``: ``GPU-...``; ``nvml``: the library, None for nvidia-ml-py."""
        if not 0.001 <= interval_s <= 10:
            raise ValueError(f"NVML interval is {interval_s} s; use 0.001 to 10 s")
        if nvml is None:
            import pynvml

            nvml = pynvml
        self._nvml = nvml
        self.interval_s = interval_s
        try:
            nvml.nvmlInit()
            self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        except nvml.NVMLError as error:
            raise RuntimeError(f"NVML cannot read {uuid}: {error}") from error
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._rows: list[dict[str, Value]] = []
        self._cost_s = 0.0
        self._unsupported: dict[str, str] = {}
        self._gpm: Gpm | None = None
        self.samples: Samples

    def __enter__(self) -> NvmlSampler:
        self._start_s = time.perf_counter()
        self._thread = threading.Thread(target=self._run, name="vdkit-nvml", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._stop.set()
        self._thread.join()
        names = list(dict.fromkeys(name for row in self._rows for name in row)) or ["time_s"]
        columns = {name: [row.get(name) for row in self._rows] for name in names}
        self.samples = Samples(
            self._start_s, columns, dict(self._unsupported), _reasons(columns), self.interval_s,
            self._cost_s,
        )  # fmt: skip
        if self._error is None:
            return
        if error is None:
            raise self._error
        error.add_note(f"NVML sampling failed too: {self._error}")

    def _run(self) -> None:
        try:
            fields = self._probe()
            due_s = self._start_s
            while True:
                self._take(fields)
                due_s = max(due_s + self.interval_s, time.perf_counter())
                if self._stop.wait(due_s - time.perf_counter()):
                    break
            self._take(fields)  # so that a short run has two, and energy spans the block
        except BaseException as error:  # carried to the thread that leaves the block
            self._error = error
        finally:
            if self._gpm is not None:
                self._gpm.free()

    def _fields(self) -> dict[str, Callable[[], dict[str, float]]]:
        """Columns that come from one call, by the name under which a refusal is reported."""
        nvml, handle = self._nvml, self._handle

        def one(column: str, call: Callable[[], float], factor: float = 1.0) -> Any:
            return lambda: {column: call() * factor}

        def utilization() -> dict[str, float]:
            rates = nvml.nvmlDeviceGetUtilizationRates(handle)
            return {"gpu_util_percent": rates.gpu, "memory_util_percent": rates.memory}

        clock = nvml.nvmlDeviceGetClockInfo
        return {
            "utilization": utilization,
            "memory_used_bytes": one(
                "memory_used_bytes", lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used
            ),
            "power_w": one("power_w", lambda: nvml.nvmlDeviceGetPowerUsage(handle), 1e-3),
            "energy_j": one(
                "energy_j", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle), 1e-3
            ),
            "sm_clock_mhz": one("sm_clock_mhz", lambda: clock(handle, nvml.NVML_CLOCK_SM)),
            "memory_clock_mhz": one("memory_clock_mhz", lambda: clock(handle, nvml.NVML_CLOCK_MEM)),
            "temperature_c": one(
                "temperature_c",
                lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            ),
            "clock_event_reasons": one(
                "clock_event_reasons", lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
            ),
            "encoder_util_percent": one(
                "encoder_util_percent", lambda: nvml.nvmlDeviceGetEncoderUtilization(handle)[0]
            ),
            "pcie_link_generation": one(
                "pcie_link_generation", lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle)
            ),
            "pcie_link_width": one(
                "pcie_link_width", lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle)
            ),
        }

    def _probe(self) -> dict[str, Callable[[], dict[str, Value]]]:
        """Ask for each field once; those refused go to ``unsupported`` and are not asked again."""
        nvml = self._nvml
        fields: dict[str, Callable[[], dict[str, Value]]] = {}
        for name, call in self._fields().items():
            try:
                call()
                fields[name] = call  # type: ignore[assignment]
            except nvml.NVMLError as error:
                self._unsupported[name] = str(error)
        try:
            self._gpm = Gpm(nvml, self._handle)
            self._unsupported |= self._gpm.unsupported
        except nvml.NVMLError as error:
            self._unsupported["GPM"] = str(error)
        if self._gpm is not None and self._gpm.has_pcie:
            return fields
        # These two take 20 ms each, over which NVML averages: asked once, and only without GPM.
        for name, counter in (
            ("tx", nvml.NVML_PCIE_UTIL_TX_BYTES),
            ("rx", nvml.NVML_PCIE_UTIL_RX_BYTES),
        ):
            try:
                nvml.nvmlDeviceGetPcieThroughput(self._handle, counter)
                fields[f"pcie_{name}"] = self._pcie(f"pcie_{name}_mb_per_s", counter)
            except nvml.NVMLError as error:
                self._unsupported[f"pcie_{name}_mb_per_s"] = str(error)
        return fields

    def _pcie(self, column: str, counter: int, every: int = 25) -> Callable[[], dict[str, Value]]:
        """PCIe throughput in each ``every``-th sample, None between: the call takes 20 ms."""
        count = iter(range(10**9))

        def call() -> dict[str, Value]:
            if next(count) % every:
                return {column: None}
            rate = self._nvml.nvmlDeviceGetPcieThroughput(self._handle, counter)
            return {column: rate * 1.024e-3}

        return call

    def _take(self, fields: dict[str, Callable[[], dict[str, Value]]]) -> None:
        nvml = self._nvml
        begun = time.perf_counter()
        row: dict[str, Value] = {"time_s": None}
        for name, call in fields.items():
            try:
                row |= call()
            except nvml.NVMLError as error:
                if error.value != nvml.NVML_ERROR_NOT_SUPPORTED:
                    raise RuntimeError(f"NVML failed at {name}: {error}") from error
        if self._gpm is not None:
            try:
                row |= self._gpm.read()
            except nvml.NVMLError as error:
                raise RuntimeError(f"NVML failed at GPM: {error}") from error
        done = time.perf_counter()
        row["time_s"] = (begun + done) / 2 - self._start_s
        self._cost_s += done - begun
        self._rows.append(row)
