"""GPM, the GPU's own performance counters through NVML (Hopper and later): activity, bandwidth."""

from __future__ import annotations

import math
import time
from typing import Any

Value = float | None
_MIB_PER_S = 2**20 / 1e6
GPM_INTERVAL_S = 0.12
"""GPM's counters move every 100 ms (seen on an H200); asked faster, it answers 0 or 0/0."""

# GPM metric (nvml.h) to column, and the factor to the column's unit.
_GPM = {
    "NVML_GPM_METRIC_SM_UTIL": ("sm_active_percent", 1.0),
    "NVML_GPM_METRIC_SM_OCCUPANCY": ("sm_occupancy_percent", 1.0),
    "NVML_GPM_METRIC_ANY_TENSOR_UTIL": ("tensor_active_percent", 1.0),
    "NVML_GPM_METRIC_DRAM_BW_UTIL": ("dram_bandwidth_percent", 1.0),
    "NVML_GPM_METRIC_PCIE_TX_PER_SEC": ("pcie_tx_mb_per_s", _MIB_PER_S),
    "NVML_GPM_METRIC_PCIE_RX_PER_SEC": ("pcie_rx_mb_per_s", _MIB_PER_S),
}


class Gpm:
    """GPM metrics (Hopper and later) between this reading and the one before."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self.unsupported: dict[str, str] = {}
        self._held: list[Any] = []
        self._asked_s = 0.0
        if not nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
            reason = "this GPU has no GPM (Hopper and later do)"
            self.unsupported = {column: reason for column, _ in _GPM.values()}
            self._metrics: list[str] = []
            return
        self._held = [nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()]
        nvml.nvmlGpmSampleGet(handle, self._held[0])
        time.sleep(0.005)  # two readings have to lie apart
        self._metrics = list(_GPM)
        answered = self._ask(probing=True)
        for metric in self._metrics:
            if metric not in answered:
                self.unsupported[_GPM[metric][0]] = "GPM does not answer it on this GPU"
        self._metrics = [metric for metric in self._metrics if metric in answered]

    @property
    def has_pcie(self) -> bool:
        return "NVML_GPM_METRIC_PCIE_TX_PER_SEC" in self._metrics

    def _ask(self, probing: bool = False) -> dict[str, float]:
        """Metrics since the last reading, by NVML's name."""
        nvml, (older, newer) = self._nvml, self._held
        self._asked_s = time.perf_counter()
        nvml.nvmlGpmSampleGet(self._handle, newer)
        request = nvml.c_nvmlGpmMetricsGet_t()
        request.version = nvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(self._metrics)
        request.sample1, request.sample2 = older, newer
        for slot, metric in enumerate(self._metrics):
            request.metrics[slot].metricId = getattr(nvml, metric)
        nvml.nvmlGpmMetricsGet(request)
        self._held = [newer, older]
        return {
            metric: float(request.metrics[slot].value)
            for slot, metric in enumerate(self._metrics)
            if request.metrics[slot].nvmlReturn == 0
            and (probing or math.isfinite(request.metrics[slot].value))
        }

    def read(self) -> dict[str, Value]:
        """Column to value since the last reading; None until `GPM_INTERVAL_S` have passed."""
        due = time.perf_counter() - self._asked_s >= GPM_INTERVAL_S
        if not self._metrics or not due:
            return {_GPM[metric][0]: None for metric in self._metrics}
        answered = self._ask()
        row: dict[str, Value] = {}
        for metric in self._metrics:
            column, factor = _GPM[metric]
            row[column] = answered[metric] * factor if metric in answered else None
        return row

    def free(self) -> None:
        for sample in self._held:
            self._nvml.nvmlGpmSampleFree(sample)
        self._held = []
