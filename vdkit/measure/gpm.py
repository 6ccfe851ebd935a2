"""GPM, the GPU's own performance counters through NVML (Hopper and later): activity, bandwidth."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

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
