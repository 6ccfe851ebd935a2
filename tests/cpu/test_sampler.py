"""The NVML sampler against a library that answers, refuses, and fails midway."""

import threading
import time
from types import SimpleNamespace

import pytest

from vdkit.measure.sampler import NvmlSampler, Samples


class FakeError(Exception):
    def __init__(self, value, text):
        super().__init__(text)
        self.value = value


class FakeNvml:
    """Answers everything with numbers that move; ``refuse`` some calls, ``fail`` after a while."""

    NVMLError = FakeError
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_PCIE_UTIL_TX_BYTES, NVML_PCIE_UTIL_RX_BYTES = 0, 1
    NVML_GPM_METRICS_GET_VERSION = 1
    NVML_GPM_METRIC_SM_UTIL = 2
    NVML_GPM_METRIC_SM_OCCUPANCY = 3
    NVML_GPM_METRIC_ANY_TENSOR_UTIL = 5
    NVML_GPM_METRIC_DRAM_BW_UTIL = 10
    NVML_GPM_METRIC_PCIE_TX_PER_SEC = 20
    NVML_GPM_METRIC_PCIE_RX_PER_SEC = 21

    def __init__(self, refuse=(), fail=None, error=None, gpm=True, refuse_later=()):
        self.refuse, self.fail, self.error, self.gpm = refuse, fail, error, gpm
        self.refuse_later = refuse_later
        self.calls = {}
        self.held = 0

    def _answer(self, name, value):
        self.calls[name] = self.calls.get(name, 0) + 1
        if name in self.refuse or (name in self.refuse_later and self.calls[name] > 1):
            raise FakeError(3, "Not Supported")
        if name == self.fail and self.calls[name] > 2:
            raise self.error
        return value

    def nvmlInit(self):
        self._answer("init", None)

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-1":
            raise FakeError(6, "Not Found")
        return "handle"

    def nvmlDeviceGetUtilizationRates(self, handle):
        return self._answer("utilization", SimpleNamespace(gpu=90, memory=40))

    def nvmlDeviceGetMemoryInfo(self, handle):
        return self._answer("memory", SimpleNamespace(used=1000))

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._answer("power", 250_000)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._answer("energy", 5000 + 1000 * self.calls.get("energy", 0))

    def nvmlDeviceGetClockInfo(self, handle, which):
        return self._answer("clock", 1980 if which == 1 else 3201)

    def nvmlDeviceGetTemperature(self, handle, which):
        return self._answer("temperature", 55)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._answer("reasons", 0x4 | 0x40)

    def nvmlDeviceGetEncoderUtilization(self, handle):
        return self._answer("encoder", [7, 100_000])

    def nvmlDeviceGetCurrPcieLinkGeneration(self, handle):
        return self._answer("generation", 5)

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle):
        return self._answer("width", 16)

    def nvmlDeviceGetPcieThroughput(self, handle, which):
        return self._answer("pcie", 1000)

    def nvmlGpmQueryDeviceSupport(self, handle):
        return SimpleNamespace(isSupportedDevice=self._answer("gpm", int(self.gpm)))

    def nvmlGpmSampleAlloc(self):
        self.held += 1
        return object()

    def nvmlGpmSampleFree(self, sample):
        self.held -= 1

    def nvmlGpmSampleGet(self, handle, sample):
        self._answer("gpm sample", None)

    def c_nvmlGpmMetricsGet_t(self):
        metrics = [SimpleNamespace(metricId=0, nvmlReturn=0, value=0.0) for _ in range(10)]
        return SimpleNamespace(metrics=metrics)

    def nvmlGpmMetricsGet(self, request):
        for metric in request.metrics[: request.numMetrics]:
            metric.value = 10.0 * metric.metricId
            if metric.metricId == self.NVML_GPM_METRIC_DRAM_BW_UTIL and "dram" in self.refuse:
                metric.nvmlReturn = 3


def sampled(nvml, seconds=0.15, **options):
    with NvmlSampler("GPU-1", 0.005, nvml, **options) as sampler:
        time.sleep(seconds)
    assert not [t for t in threading.enumerate() if t.name == "vdkit-nvml"]
    assert nvml.held == 0
    return sampler.samples


def last(samples, column):
    return [value for value in samples.columns[column] if value is not None][-1]


def test_a_device_that_answers_everything():
    samples = sampled(FakeNvml())
    assert samples.unsupported == {}
    expected = {
        "gpu_util_percent": 90, "memory_util_percent": 40, "memory_used_bytes": 1000,
        "power_w": 250, "sm_clock_mhz": 1980, "memory_clock_mhz": 3201, "temperature_c": 55,
        "encoder_util_percent": 7, "pcie_link_generation": 5, "pcie_link_width": 16,
        "sm_active_percent": 20, "sm_occupancy_percent": 30, "tensor_active_percent": 50,
        "dram_bandwidth_percent": 100, "pcie_tx_mb_per_s": 200 * 2**20 / 1e6,
    }  # fmt: skip
    for column, value in expected.items():
        assert last(samples, column) == pytest.approx(value), column
    times = samples.columns["time_s"]
    assert times == sorted(times) and len(times) > 2
    assert {len(column) for column in samples.columns.values()} == {len(times)}
    assert samples.energy_j() == pytest.approx(len(times) - 1)
    assert samples.throttle_reasons == {
        "software power cap": len(times),
        "hardware thermal": len(times),
    }
    assert samples.cost_s > 0 and samples.mean_cost_ms > 0
    assert samples.summary()["power_w"] == {"mean": 250, "min": 250, "max": 250}


def test_what_is_refused_is_absent_with_its_reason_and_never_zero():
    samples = sampled(FakeNvml(refuse=("power", "energy", "encoder", "dram")))
    for column in ("power_w", "energy_j", "encoder_util_percent", "dram_bandwidth_percent"):
        assert column not in samples.columns and samples.unsupported[column]
    assert samples.unsupported["power_w"] == "Not Supported"
    assert samples.energy_j() is None
    assert last(samples, "temperature_c") == 55


def test_without_gpm_pcie_comes_from_nvml_now_and_then():
    nvml = FakeNvml(gpm=False)
    samples = sampled(nvml)
    assert "Hopper" in samples.unsupported["sm_active_percent"]
    assert last(samples, "pcie_tx_mb_per_s") == pytest.approx(1.024)
    assert None in samples.columns["pcie_tx_mb_per_s"]
    old = sampled(FakeNvml(refuse=("gpm", "pcie")))
    assert old.unsupported["pcie_rx_mb_per_s"] == "Not Supported" and "GPM" in old.unsupported


def test_a_field_refused_later_is_empty_in_that_sample():
    samples = sampled(FakeNvml(refuse_later=("power",)))
    assert "power_w" not in samples.columns or set(samples.columns["power_w"]) == {None}
    assert last(samples, "temperature_c") == 55


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (FakeError(15, "GPU is lost"), RuntimeError, "NVML failed at power_w: GPU is lost"),
        (ZeroDivisionError("oops"), ZeroDivisionError, "oops"),
    ],
)
def test_a_failure_midway_surfaces(error, kind, message):
    nvml = FakeNvml(fail="power", error=error)
    with pytest.raises(kind, match=message):
        sampled(nvml)
    assert nvml.held == 0
    failing = NvmlSampler("GPU-1", 0.005, FakeNvml(fail="power", error=error))
    with pytest.raises(KeyError) as caught, failing:  # the block's own error comes first
        time.sleep(0.1)
        raise KeyError("mine")
    assert "NVML sampling failed too" in caught.value.__notes__[0]


def test_bad_input():
    for interval in (0, -1, 11, float("nan")):
        with pytest.raises(ValueError, match=r"use 0\.001 to 10 s"):
            NvmlSampler("GPU-1", interval, FakeNvml())
    with pytest.raises(RuntimeError, match="cannot read GPU-2: Not Found"):
        NvmlSampler("GPU-2", 0.02, FakeNvml())
    with pytest.raises(RuntimeError, match="NVML cannot"):
        NvmlSampler("GPU-1", 0.02, FakeNvml(refuse=("init",)))


def test_slices_and_csv():
    columns = {"time_s": [0.0, 1.0, 2.0, 3.0], "energy_j": [10.0, 11.5, None, 14.0]}
    samples = Samples(100.0, columns, {}, {}, 1.0, 0.4)
    part = samples.between(101.0, 103.5, 101.5)
    assert part.columns == {"time_s": [-0.5, 0.5, 1.5], "energy_j": [11.5, None, 14.0]}
    assert part.energy_j() == 2.5 and part.cost_s == pytest.approx(0.3)
    assert part.to_csv() == "time_s,energy_j\n-0.5,11.5\n0.5,\n1.5,14.0\n"


def test_a_block_shorter_than_the_interval_has_two_samples():
    with NvmlSampler("GPU-1", 5.0, FakeNvml()) as sampler:
        time.sleep(0.05)
    assert len(sampler.samples.columns["time_s"]) == 2
    assert sampler.samples.energy_j() == pytest.approx(1)
