"""NVML while something runs: a thread that samples one GPU, GPM metrics included where it has them.

What the device does not answer is absent, with the reason; never zero. A sampled utilization is a
trend over NVML's own period (1/6 s to 1 s) and no kernel utilization.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vdkit.measure.gpm import GPM_COLUMNS, Gpm
from vdkit.measure.nvml import open_device
from vdkit.measure.samples import Samples, Value, throttle_counts

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
